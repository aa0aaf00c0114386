//! The programs as an operator and a user run them.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use trunkline::{Client, Event, Pending, State};

use crate::cluster::{Cluster, INFO, NO_GRACE, start_acms, start_server};
use crate::port::Port;
use crate::program::{ACMS, APPSERVER, CHAT, Program, TRUNKLINE};
use crate::raw::{
    CHALLENGE, DATA, Frame, MOVE, OFFLINE, QUERY, REFUSED, RETRY, Raw, SERVER_PREFACE, SHUTDOWN, UNREACHABLE, WELCOME,
};
use crate::{PATIENCE, now};

/// The largest `length` that a server takes, unless it is configured lower.
const MAX_FRAME: usize = 1 << 20;

/// A directory of one test, removed with it.
struct Dir(PathBuf);

impl Dir {
    fn new(test: &str) -> Dir {
        let path = std::env::temp_dir().join(format!("trunkline-e2e-{}-{test}", std::process::id()));
        std::fs::create_dir_all(&path).expect("the temporary directory can be written");
        Dir(path)
    }

    fn file(&self, name: &str, content: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, content).expect("the temporary directory can be written");
        path.into_os_string().into_string().expect("a path in UTF-8")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).expect("the test's own directory can be removed");
    }
}

fn start_chat(server: SocketAddr, user: &str, more: &[&str]) -> Program {
    Program::start(CHAT, &[&["--server", &server.to_string(), "--user", user], more].concat())
}

/// Neighbouring ports, the first of which is free and the others are somebody else's where `taken` says so.
fn neighbouring_ports<const N: usize>(taken: [bool; N]) -> (u16, Vec<TcpListener>) {
    let ends = now() + PATIENCE;
    loop {
        assert!(now() < ends, "no {N} ports beside each other are free");
        let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let base = first.local_addr().expect("it is bound").port();
        let rest = (1..N as u16).map(|more| TcpListener::bind((Ipv4Addr::LOCALHOST, base.checked_add(more)?)).ok());
        let Some(rest) = rest.collect::<Option<Vec<_>>>() else { continue };
        let all = std::iter::once(first).chain(rest);
        return (base, all.zip(taken).filter_map(|(listener, taken)| taken.then_some(listener)).collect());
    }
}

/// A program that can't have an address says so in one line that names it, exits 1, and has begun nothing.
#[track_caller]
fn expect_no_start(mut program: Program, name: &str, addr: &str) {
    program.expect_exit(1);
    let (stdout, stderr) = (program.stdout.text(), program.stderr.text());
    assert_eq!((stdout.as_str(), stderr.lines().count()), ("", 1), "{stdout}{stderr}");
    assert!(stderr.starts_with(&format!("{name}: ")) && stderr.contains(addr), "{stderr} names {addr}");
}

fn welcome(raw: &Frame) -> Value {
    assert_eq!(raw.kind, WELCOME, "{raw:?}");
    serde_json::from_slice(&raw.body).expect("the body of WELCOME is JSON")
}

#[test]
fn two_users_on_two_servers_talk_and_know_of_no_cluster() {
    let acms = Program::start(ACMS, &["--transfer-port", "0", "--management-port", "0"]);
    let transfer = acms.ready("transfer");
    let as0 = start_server("0", transfer, &INFO, &[]);
    let as1 = start_server("1", transfer, &INFO, &[]);
    acms.stderr.lines_with("told of its", 2);
    let mut bob = start_chat(as1.ready("clients"), "bob", &[]);
    assert_eq!(bob.stdout.line_with("connected"), "connected as bob to server 1\n");

    let mut alice = start_chat(as0.ready("clients"), "alice", &["--to", "bob"]);
    alice.write("hello\nare you there?\n");
    alice.expect_exit(0);
    assert_eq!(alice.stdout.lines_with("delivered to bob in ", 2).len(), 2);
    assert_eq!(bob.stdout.lines_with("alice: ", 2), ["alice: hello\n", "alice: are you there?\n"]);

    let mut carol = start_chat(as0.ready("clients"), "carol", &[]);
    carol.stdout.line_with("connected as carol to server 0");
    bob.write("/to carol\nhi\n");
    assert_eq!(carol.stdout.line_with("bob: "), "bob: hi\n");
    bob.stdout.line_with("delivered to carol in ");
    bob.write("/who carol\n");
    bob.stdout.line_with("carol is on server 0");
    bob.expect_exit(0);
    carol.expect_exit(0);
}

#[test]
fn a_line_to_nobody_makes_the_chat_fail() {
    let server = Program::start(APPSERVER, &["--listen", "127.0.0.1:0"]);
    let mut alice = start_chat(server.ready("clients"), "alice", &["--to", "nobody"]);
    alice.write("hello?\n");
    alice.expect_exit(1);
    assert_eq!(alice.stdout.line_with("failed"), "failed, to nobody: not delivered: OFFLINE\n");
}

#[test]
fn a_message_of_any_size_arrives_byte_for_byte_in_both_directions() {
    any_size_arrives(&[]);
}

#[test]
fn a_server_that_rests_loses_nothing() {
    any_size_arrives(&["--rest-us", "1000"]);
}

fn any_size_arrives(server_args: &[&str]) {
    let cluster = Cluster::start_with(&INFO, server_args);
    let [as0, as1] = cluster.clients();
    let (mut alice, mut bob) = (Raw::login(as0, "alice"), Raw::login(as1, "bob"));
    let largest: Vec<u8> = (0..MAX_FRAME - 16 - 3 - 5).map(|at| (at * 31 / 8) as u8).collect();
    for to in ["bob", "alice"] {
        let (sender, receiver) = if to == "bob" { (&mut alice, &mut bob) } else { (&mut bob, &mut alice) };
        for (id, body) in [Vec::new(), largest.clone(), b"\0".to_vec()].into_iter().enumerate() {
            let sent = sender.send(to, id as u64, body);
            receiver.expect(&sent);
        }
        let mut slow = sender.frame(DATA, to, u64::MAX, b"a byte at a time");
        slow.info_type = u32::MAX;
        for byte in slow.encode() {
            sender.write(&[byte]);
        }
        receiver.expect(&slow);
    }
    let oversized = MAX_FRAME as u32 + 1;
    alice.write(&oversized.to_be_bytes());
    alice.expect_close(crate::raw::TOO_BIG);
    let note = bob.send("bob", 9, "still here");
    bob.expect(&note);
}

#[test]
fn a_client_written_from_the_document_passes_between_two_servers() {
    let cluster = Cluster::start_with(&INFO, &["--friends", "everyone"]);
    let [as0, as1] = cluster.clients();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/two_servers.py");
    let ports = [as0, as1].map(|addr| addr.port().to_string());
    let mut command = Command::new("python3");
    command.args(["-B", script, "127.0.0.1", &ports[0], "127.0.0.1", &ports[1]]);
    match Program::spawn(&mut command) {
        Ok(mut python) => python.expect_exit(0),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => println!("skipped: python3 is not on PATH"),
        Err(error) => panic!("python3: {error}"),
    }
}

#[test]
fn the_demo_echoes_every_line() {
    for (input, echoes) in [("hello\n", vec!["hello"]), ("one\ntwo\n", vec!["one", "two"]), ("", vec![])] {
        let mut demo = Program::start_with(TRUNKLINE, &["demo", "--port-base", "0"], &[]);
        demo.write(input);
        demo.expect_exit(0);
        let stdout = demo.stdout.text();
        let echoed = stdout.lines().filter_map(|line| line.strip_prefix("echo: ")?.split_once("   (round trip "));
        assert_eq!(echoed.map(|(text, _)| text).collect::<Vec<_>>(), echoes, "{stdout}");
        let delivered = stdout.lines().filter(|line| line.starts_with("you => as0 => acms => as1 => echo: delivered"));
        assert_eq!(delivered.count(), echoes.len(), "{stdout}");
        assert_eq!(demo.stderr.text(), "");
    }
}

#[test]
fn the_demos_echo_answers_what_it_is_asked() {
    let mut demo = Program::start_with(TRUNKLINE, &["demo", "--port-base", "0"], &[]);
    demo.write("/ask echo are you there?\n");
    demo.expect_exit(0);
    demo.stdout.line_with("echo answers: are you there?   (after ");
}

#[test]
fn sigterm_ends_each_role_and_tells_every_client() {
    let mut cluster = Cluster::start();
    let [as0, as1] = cluster.clients();
    cluster.servers[0].stderr.line_with("cluster up");
    let mut clients = [Raw::login(as0, "alice"), Raw::login(as0, "bob"), Raw::dial(as0)];
    let mut elsewhere = Raw::login(as1, "carol");
    let mut stranger = Raw::dial(cluster.transfer);
    stranger.write(SERVER_PREFACE);
    assert_eq!(stranger.next().map(|frame| frame.kind), Some(CHALLENGE));

    cluster.servers[0].terminate();
    for client in &mut clients {
        client.expect_close(MOVE);
    }
    drop(clients);
    cluster.servers[0].expect_exit(0);
    cluster.acms.stderr.line_with("server 0 left with ");

    cluster.acms.terminate();
    stranger.expect_close(SHUTDOWN);
    drop(stranger);
    cluster.acms.expect_exit(0);
    let line = cluster.servers[1].stderr.line_with("cluster down");
    assert!(line.contains("closed by the other side 1000 SHUTDOWN"), "{line}");

    let note = elsewhere.send("carol", 1, "still here");
    elsewhere.expect(&note);
    cluster.servers[1].terminate();
    elsewhere.expect_close(SHUTDOWN);
    drop(elsewhere);
    cluster.servers[1].expect_exit(0);
}

/// Three servers are restarted in turn while users on two of them exchange messages: each arrives, once, and nobody's
/// engine stops.
#[test]
fn a_rolling_restart_loses_no_acknowledged_message() {
    const EACH: usize = 40;
    let acms = start_acms(0, &INFO, &NO_GRACE);
    let transfer = acms.ready("transfer").to_string();
    let ports: [Port; 3] = std::array::from_fn(|_| Port::reserve());
    let start = |server: usize| {
        let (id, listen) = (server.to_string(), ports[server].addr().to_string());
        let drain = ["--drain-seconds", "1"];
        Program::start(APPSERVER, &[&["--id", &id, "--listen", &listen, "--acms", &transfer], &drain[..]].concat())
    };
    let mut servers: Vec<Program> = (0..3).map(start).collect();
    acms.stderr.lines_with("told of its", 3);
    let connect = |user: &str, server: usize| Client::connect(ports[server].addr(), user).expect("it is let in");
    let pairs: Vec<[Client; 2]> = (0..4)
        .map(|pair| [connect(&format!("a{pair}"), pair % 3), connect(&format!("b{pair}"), (pair + 1) % 3)])
        .collect();
    let mut pending: Vec<Vec<Pending<_>>> = vec![Vec::new(), Vec::new(), Vec::new(), Vec::new()];
    let send_some = |pending: &mut Vec<Vec<Pending<_>>>| {
        for (pair, [from, to]) in pairs.iter().enumerate() {
            for _ in 0..EACH {
                let number = pending[pair].len() as u32;
                pending[pair].push(from.send_acked(to.user(), number, vec![0; 100]).expect("its window has room"));
            }
        }
    };
    send_some(&mut pending);
    for (number, server) in servers.iter_mut().enumerate() {
        server.terminate();
        // The stages of a drain, each seen in the log, with messages under way at all of them.
        server.stderr.line_with("sending ");
        send_some(&mut pending);
        acms.stderr.line_with(&format!("server {number} left with 0 users"));
        send_some(&mut pending);
        server.expect_exit(0);
        *server = start(number);
        acms.stderr.lines_with("told of its", 4 + number);
        send_some(&mut pending);
    }
    for (pair, [from, to]) in pairs.iter().enumerate() {
        let count = pending[pair].len();
        for (number, outcome) in pending[pair].drain(..).enumerate() {
            let outcome = outcome.wait_timeout(crate::PATIENCE).expect("it is resolved in time");
            assert_eq!(outcome, Ok(Ok(Ok(()))), "message {number} of pair {pair}");
        }
        let mut times = vec![0; count];
        while let Ok(event) = to.events().try_recv() {
            match event {
                Event::Message(message) => times[message.info_type as usize] += 1,
                Event::State(State::Stopped { code, text }) => panic!("pair {pair}: stopped: {code}: {text}"),
                Event::State(_)
                | Event::Query(_)
                | Event::Presence { .. }
                | Event::Undelivered { .. }
                | Event::Blob(_) => {}
                Event::GroupMessage { .. } | Event::Member { .. } | Event::MembersMissed(_) => {}
            }
        }
        assert_eq!(times, vec![1; count], "how often each message of pair {pair} arrived");
        let stopped = |event: Event| matches!(event, Event::State(State::Stopped { .. }));
        assert!(!from.events().try_iter().any(stopped), "the sender of pair {pair} stopped");
    }
}

#[test]
fn a_second_signal_does_not_wait_for_those_who_stay() {
    let mut server = Program::start(APPSERVER, &["--listen", "127.0.0.1:0"]);
    let mut stays = Raw::login(server.ready("clients"), "alice");
    let mut acms = start_acms(0, &INFO, &NO_GRACE);
    let mut stranger = Raw::dial(acms.ready("transfer"));
    stranger.write(SERVER_PREFACE);
    assert_eq!(stranger.next().map(|frame| frame.kind), Some(CHALLENGE));
    for (program, client) in [(&mut server, &mut stays), (&mut acms, &mut stranger)] {
        program.terminate();
        client.expect_close(SHUTDOWN);
        // The connection is still there, and would be waited for for two seconds.
        let second = now();
        program.terminate();
        program.expect_exit(0);
        assert!(second.elapsed() < Duration::from_millis(1500), "{:?}", second.elapsed());
    }
}

#[test]
fn an_address_that_cannot_be_had_is_named_in_one_line() {
    let (port, _taken) = neighbouring_ports([true]);
    // Where a server would have dialled, had it begun.
    let acms = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    acms.set_nonblocking(true).expect("a socket's own option");
    let transfer = acms.local_addr().expect("it is bound").to_string();
    // An address for documents: no machine has it.
    for (ip, port) in [("127.0.0.1", port), ("192.0.2.1", 6000)] {
        let (addr, port) = (format!("{ip}:{port}"), port.to_string());
        let args = ["--bind", ip, "--insecure", "--management-port", "0", "--transfer-port", &port];
        expect_no_start(Program::start(ACMS, &args), "trunkline-acms", &addr);
        let args = ["--listen", &addr, "--acms", &transfer];
        expect_no_start(Program::start(APPSERVER, &args), "trunkline-appserver", &addr);
    }
    assert_eq!(acms.accept().map_err(|error| error.kind()).err(), Some(ErrorKind::WouldBlock), "none has dialled");
}

#[test]
fn a_demo_one_of_whose_ports_is_in_use_starts_nothing() {
    for taken in [[true, false, false], [false, true, false], [false, false, true]] {
        let (base, _taken) = neighbouring_ports(taken);
        let at = base + taken.iter().position(|taken| *taken).unwrap_or_default() as u16;
        let demo = Program::start(TRUNKLINE, &["demo", "--port-base", &base.to_string()]);
        expect_no_start(demo, "trunkline demo", &format!("127.0.0.1:{at}"));
    }
}

#[test]
fn a_port_that_is_not_allowed_is_named_in_one_line() {
    const NOBODY: u32 = 65_534;
    const PORT: &str = "1";
    let first_allowed = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    if first_allowed.is_ok_and(|port| port.trim().parse::<u16>().is_ok_and(|port| port <= 1)) {
        return println!("skipped: everyone may listen at port {PORT} here");
    }
    for (path, name, args) in [
        (ACMS, "trunkline-acms", ["--management-port", "0", "--transfer-port", PORT].as_slice()),
        (APPSERVER, "trunkline-appserver", &["--listen", "127.0.0.1:1"]),
    ] {
        let mut command = Command::new(path);
        command.args(args);
        if rustix::process::geteuid().is_root() {
            command.uid(NOBODY);
        }
        match Program::spawn(&mut command) {
            Ok(program) => expect_no_start(program, name, "127.0.0.1:1"),
            Err(error) => return println!("skipped: {path} can't be run by others: {error}"),
        }
    }
}

#[test]
fn options_are_checked_before_anything_starts() {
    let dir = Dir::new("options");
    let check = |path: &str, args: &[&str], code: i32| {
        let mut program = Program::start(path, args);
        program.expect_exit(code);
        (program.stdout.text(), program.stderr.text())
    };
    let ok = ("configuration ok\n".to_owned(), String::new());
    assert_eq!(check(ACMS, &["--check"], 0), ok);
    assert_eq!(check(APPSERVER, &["--check", "--id", "7", "--acms", "acms.example"], 0), ok);
    assert_eq!(check(CHAT, &["--check", "--user", "alice"], 0), ok);
    for (path, name) in [
        (ACMS, "trunkline-acms"),
        (APPSERVER, "trunkline-appserver"),
        (CHAT, "trunkline-chat"),
        (TRUNKLINE, "trunkline"),
    ] {
        let version = format!("{name} {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!(check(path, &["--version"], 0), (version, String::new()));
    }
    let file = dir.file("as.toml", "# a server\nid = 3\nlissten = \"127.0.0.1:0\"\n");
    let refused = format!("error: {file}:3: unknown key \"lissten\"; did you mean \"listen\"?\n");
    assert_eq!(check(APPSERVER, &["--config", &file], 1), (String::new(), refused));
}

#[test]
fn a_cluster_secret_lets_in_who_knows_it_and_nobody_else() {
    let dir = Dir::new("secret");
    let secret = dir.file("secret", "sixteen bytes or more\n");
    let wrong = dir.file("wrong", "sixteen bytes of nonsense\n");
    let acms = Program::start(
        ACMS,
        &["--transfer-port", "0", "--management-port", "0", "--cluster", "games", "--cluster-secret-file", &secret],
    );
    let right = ["--cluster", "games", "--cluster-secret-file", &secret];
    let cluster = Cluster::around(acms, &INFO, &right);
    for args in [
        ["--cluster", "games", "--cluster-secret-file", &wrong].as_slice(),
        &["--cluster", "gomes", "--cluster-secret-file", &secret],
        &["--cluster", "games"],
    ] {
        let mut server = start_server("7", cluster.transfer, &INFO, args);
        server.expect_exit(1);
        server.stderr.line_with("trunkline-appserver: the cluster refused this server: 1513 NOT_A_MEMBER");
    }
    let [as0, as1] = cluster.clients();
    let (mut alice, mut bob) = (Raw::login(as0, "alice"), Raw::login(as1, "bob"));
    bob.expect(&alice.send("bob", 1, "among members"));
}

#[test]
fn a_second_server_with_the_same_id_is_refused() {
    let cluster = Cluster::start();
    let [as0, as1] = cluster.clients();
    let (mut alice, mut bob) = (Raw::login(as0, "alice"), Raw::login(as1, "bob"));
    for id in 1..=2 {
        let mut second = start_server("0", cluster.transfer, &INFO, &[]);
        second.expect_exit(1);
        let refused =
            second.stderr.line_with("trunkline-appserver: the cluster refused this server: 1512 DUPLICATE_SERVER");
        let addresses = [as0, second.ready("clients")].map(|addr| addr.to_string());
        assert!(addresses.iter().all(|addr| refused.contains(addr)), "{refused} names {addresses:?}");
        bob.expect(&alice.send("bob", id, "still here"));
        alice.expect(&bob.send("alice", id, "here too"));
    }
    assert!(!cluster.servers[0].stderr.text().contains("cluster down"));
    assert_eq!(cluster.acms.stderr.text().matches("server 0 registered").count(), 1, "it never came and went");
}

#[test]
fn clients_outlive_a_killed_acms() {
    let port = Port::reserve();
    let acms = start_acms(port.addr().port(), &INFO, &NO_GRACE);
    let Cluster { acms, servers, .. } = Cluster::around(acms, &INFO, &[]);
    let addr = |server: usize| servers[server].ready("clients");
    let mut alice = Raw::login(addr(0), "alice");
    let mut dave = Raw::login(addr(0), "dave");
    let mut bob = Raw::login(addr(1), "bob");
    bob.expect(&alice.send("bob", 1, "before"));
    let lost = alice.send("nobody", 1, "?");
    alice.expect_bounce(&lost, OFFLINE);

    acms.kill();
    for server in &servers {
        server.stderr.line_with("cluster down");
    }
    dave.expect(&alice.send("dave", 2, "on the same server"));
    let lost = alice.send("bob", 3, "across");
    alice.expect_bounce(&lost, UNREACHABLE);
    let lost = bob.send("alice", 3, "across");
    bob.expect_bounce(&lost, UNREACHABLE);

    let restarted = now();
    let acms = start_acms(port.addr().port(), &INFO, &[]);
    acms.stderr.lines_with("told of its", 2);
    for server in &servers {
        server.stderr.lines_with("cluster up", 2);
    }
    bob.expect(&alice.send("bob", 4, "after"));
    alice.expect(&bob.send("alice", 4, "after"));
    let lost = alice.send("nobody", 5, "?");
    alice.expect_bounce(&lost, RETRY);
    assert!(restarted.elapsed() < Duration::from_secs(10), "{:?}", restarted.elapsed());
    let logins = |server: &Program| server.stderr.text().matches("logged in as").count();
    assert_eq!((logins(&servers[0]), logins(&servers[1])), (2, 1));
}

#[test]
fn a_server_stands_alone_without_an_acms() {
    let server = Program::start(APPSERVER, &["--listen", "127.0.0.1:0"]);
    let addr = server.ready("clients");
    let (mut alice, answer) = Raw::try_login(addr, "alice", b"");
    let welcome = welcome(&answer);
    assert_eq!((&welcome["cluster"], &welcome["server"]), (&Value::from("none"), &Value::from(0)), "{welcome}");
    let mut bob = Raw::login(addr, "bob");
    bob.expect(&alice.send("bob", 1, "hello"));
    alice.expect(&bob.send("alice", 2, "hi"));
    let lost = alice.send("carol", 3, "?");
    alice.expect_bounce(&lost, OFFLINE);
    alice.log_out();
    let lost = bob.send("alice", 4, "gone?");
    bob.expect_bounce(&lost, OFFLINE);
}

#[test]
fn garbage_is_a_line_in_the_log_and_no_more() {
    let mut server = Program::start(APPSERVER, &["--listen", "127.0.0.1:0"]);
    let addr = server.ready("clients");
    for _ in 0..200 {
        let mut stranger = Raw::dial(addr);
        stranger.write_in_vain(b"\x00\xFFwhat is this");
        stranger.expect_close(crate::raw::BAD_MAGIC);
    }
    server.terminate();
    server.expect_exit(0);
    let log = server.stderr.text();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("127.0.0.1:")).collect();
    let [line] = lines[..] else { panic!("one line for one address:\n{log}") };
    assert!(line.ends_with("user - closed 1500 BAD_MAGIC: not this protocol: 00 ff 77 68 61 74 20 69"), "{line}");
    assert!(log.contains("bad magic 200"), "{log}");
}

#[test]
fn no_log_has_a_body_or_a_password() {
    const BODY: &str = "zebra-in-a-body";
    const PASSWORD: &str = "walrus-as-a-password";
    let dir = Dir::new("log");
    let users = dir.file("users", &format!("alice:{PASSWORD}\nbob:{PASSWORD}\ncarol:{PASSWORD}\n"));
    let trace = [("RUST_LOG", "trace")];
    let mut cluster = Cluster::start_with(&trace, &["--users-file", &users]);
    let [as0, as1] = cluster.clients();
    let login = format!(r#"{{"password":"{PASSWORD}","token":"{PASSWORD}"}}"#);
    let (mut alice, answer) = Raw::try_login(as0, "alice", login.as_bytes());
    assert_eq!(answer.kind, WELCOME, "{answer:?}");
    let (mut bob, answer) = Raw::try_login(as1, "bob", login.as_bytes());
    assert_eq!(answer.kind, WELCOME, "{answer:?}");
    let wrong = format!(r#"{{"password":"{PASSWORD} "}}"#);
    let (_, answer) = Raw::try_login(as0, "carol", wrong.as_bytes());
    assert_eq!(answer.info_type, REFUSED, "{answer:?}");
    let (_, answer) = Raw::try_login(as0, "carol", format!("{{{PASSWORD}").as_bytes());
    assert_eq!(answer.info_type, crate::raw::BAD_FIELD, "{answer:?}");

    bob.expect(&alice.send("bob", 1, BODY));
    let lost = alice.send("nobody", 2, BODY);
    alice.expect_bounce(&lost, OFFLINE);
    let asked = alice.frame(QUERY, "", 3, BODY);
    alice.write(&asked.encode());
    alice.expect_bounce(&asked, 7);
    let server = as0.to_string();
    let variables = [trace[0], ("TRUNKLINE_PASSWORD", PASSWORD)];
    let mut carol = Program::start_with(CHAT, &["--server", &server, "--user", "carol", "--to", "bob"], &variables);
    carol.write(&format!("{BODY}\n"));
    let frame = bob.next().expect("carol's message");
    assert_eq!((frame.kind, frame.text().as_str()), (DATA, BODY));
    bob.write(&Frame::new(0x11, "bob", "carol", frame.id, "").encode());
    carol.expect_exit(0);
    // A fault in the middle of a frame, with the body still in the server's hands.
    alice.write(&Frame::new(DATA, "bob", "bob", 4, BODY).encode());
    alice.expect_close(crate::raw::SPOOF);

    let Cluster { acms, servers, .. } = &mut cluster;
    for program in servers.iter_mut().chain([&mut *acms]) {
        program.terminate();
        program.expect_exit(0);
    }
    for program in servers.iter().chain([&*acms, &carol]) {
        let log = program.stderr.text();
        assert!(!log.contains(BODY) && !log.contains(PASSWORD), "{log}");
    }
    assert!(servers[0].stderr.text().contains("logged in as alice"), "it logs at all");
}

#[test]
fn a_users_file_decides_who_gets_in() {
    let dir = Dir::new("users");
    let users = dir.file("users", "# who may\nalice:wonder:land\n");
    let server = Program::start(APPSERVER, &["--listen", "127.0.0.1:0", "--users-file", &users]);
    let addr = server.ready("clients");
    for (user, login, cause) in [
        ("alice", r#"{"password":"wonder"}"#, "wrong password"),
        ("alice", "", "a password is needed"),
        ("bob", r#"{"password":"wonder:land"}"#, "no such user"),
    ] {
        let (mut refused, answer) = Raw::try_login(addr, user, login.as_bytes());
        assert_eq!((answer.info_type, answer.text().as_str()), (REFUSED, cause));
        assert_eq!(refused.next(), None);
    }
    let (mut alice, answer) = Raw::try_login(addr, "alice", br#"{"password":"wonder:land"}"#);
    assert_eq!(answer.kind, WELCOME, "{answer:?}");
    let note = alice.send("alice", 1, "in");
    alice.expect(&note);
    let mut refused = start_chat(addr, "bob", &["--password", "wonder"]);
    refused.expect_exit(1);
    assert_eq!(refused.stderr.text(), format!("trunkline-chat: {addr}: 1507 REFUSED: no such user\n"));
}
