//! Strangers, faults and storms against a real reactor.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use trunkline::{Acms, AppServer, Gone, Handler, Membership, Nobody, Running, ServerHandle, ServerId, UserId};

use crate::program::{ACMS, APPSERVER, Program};
use crate::raw::{
    BAD_FIELD, BAD_MAGIC, BOUNCE, BUSY, CHALLENGE, CLIENT_PREFACE, CLOSE, DATA, FULL, Frame, LOGIN, LOGOUT, OFFLINE,
    PROTOCOL, Raw, SERVER_PREFACE, SPOOF, TOO_BIG, VERSION, WELCOME, WRONG_PORT,
};
use crate::{PATIENCE, now};

/// Tells the names of users that go.
struct Goings(Sender<String>);

impl Handler for Goings {
    fn on_logout(&self, _server: &ServerHandle, user: &UserId, _gone: Gone) {
        // A test that has ended listens no more.
        drop(self.0.send(user.to_string()));
    }
}

struct Server {
    addr: SocketAddr,
    handle: ServerHandle,
    goings: Receiver<String>,
    running: Option<Running>,
}

impl Server {
    fn start() -> Server {
        Server::start_with(None)
    }

    fn start_with(membership: Option<Membership>) -> Server {
        let (sender, goings) = unbounded();
        let mut builder = AppServer::builder().friends(Nobody).handler(Goings(sender));
        if let Some(membership) = membership {
            builder = builder.cluster(membership);
        }
        let server = builder.bind("127.0.0.1:0").expect("a port is free");
        let (addr, handle) = (server.local_addr(), server.handle());
        Server { addr, handle, goings, running: Some(server.spawn().expect("a thread")) }
    }

    /// Two users come, talk and go, as if nothing had happened.
    #[track_caller]
    fn still_serves(&self) {
        let (mut alice, mut bob) = (Raw::login(self.addr, "alice"), Raw::login(self.addr, "bob"));
        bob.expect(&alice.send("bob", 1, "are you there?"));
        alice.expect(&bob.send("alice", 1, "yes"));
        alice.log_out();
        bob.log_out();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.handle.stop();
            self.running.take().expect("it runs").join().expect("a server that was told to stop");
        }
    }
}

struct Manager {
    addr: SocketAddr,
    stop: Box<dyn Fn()>,
    running: Option<Running>,
}

impl Manager {
    fn start() -> Manager {
        let acms = Acms::builder().directory_grace(Duration::ZERO).bind("127.0.0.1:0").expect("a port is free");
        let (addr, stop) = (acms.local_addr(), Box::new(acms.stopper()));
        Manager { addr, stop, running: Some(acms.spawn().expect("a thread")) }
    }

    /// A server registers and hears of it.
    #[track_caller]
    fn still_serves(&self) {
        let server = Server::start_with(Some(Membership::new(ServerId(1), self.addr.to_string())));
        let ends = now() + PATIENCE;
        let nobody = || vec!["nobody".parse().expect("a user id")];
        while server.handle.locate(nobody()).map(|pending| pending.wait()) != Ok(Ok(vec![Ok(None)])) {
            assert!(now() < ends, "the server does not register");
        }
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            (self.stop)();
            self.running.take().expect("it runs").join().expect("an ACMS that was told to stop");
        }
    }
}

/// What a stranger may say first, and the code it is closed with.
fn openings() -> Vec<(&'static str, Vec<u8>, u32)> {
    vec![
        ("garbage", b"\x00\xFF\x13\x37 what is this".to_vec(), BAD_MAGIC),
        ("much garbage", vec![b'x'; 1 << 20], BAD_MAGIC),
        ("half the magic", b"TRNQ".to_vec(), BAD_MAGIC),
        ("SSH", b"SSH-2.0-OpenSSH_9.6\r\n".to_vec(), BAD_MAGIC),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: example\r\n\r\n".to_vec(), WRONG_PORT),
        ("HTTP with a body", [b"POST /v1/assign HTTP/1.1\r\n\r\n".as_slice(), &[b'{'; 5000]].concat(), WRONG_PORT),
        ("another role", b"TRNK\x02\x01\x01\x00".to_vec(), BAD_FIELD),
        ("versions upside down", b"TRNK\x00\x02\x01\x00".to_vec(), BAD_FIELD),
        ("reserved byte", b"TRNK\x00\x01\x01\x01".to_vec(), BAD_FIELD),
    ]
}

#[test]
fn what_is_no_client_is_told_so() {
    let server = Server::start();
    let more = [
        ("a server", SERVER_PREFACE.to_vec(), WRONG_PORT),
        ("a later version", b"TRNK\x00\x02\x09\x00".to_vec(), VERSION),
        ("no LOGIN", [&CLIENT_PREFACE[..], &Frame::new(DATA, "a", "b", 1, "x").encode()].concat(), PROTOCOL),
        ("a bad id", [&CLIENT_PREFACE[..], &Frame::new(LOGIN, "a\nb", "", 0, "").encode()].concat(), BAD_FIELD),
        ("no id", [&CLIENT_PREFACE[..], &Frame::new(LOGIN, "", "", 0, "").encode()].concat(), BAD_FIELD),
        ("no object", [&CLIENT_PREFACE[..], &Frame::new(LOGIN, "a", "", 0, "[]").encode()].concat(), BAD_FIELD),
        ("a long LOGIN", [&CLIENT_PREFACE[..], &4097_u32.to_be_bytes()].concat(), TOO_BIG),
        ("a giant LOGIN", [&CLIENT_PREFACE[..], &u32::MAX.to_be_bytes()].concat(), TOO_BIG),
    ];
    for (what, bytes, code) in openings().into_iter().chain(more) {
        let mut stranger = Raw::dial(server.addr);
        stranger.write_in_vain(&bytes);
        let close = stranger.next().unwrap_or_else(|| panic!("{what}: ended without CLOSE"));
        assert_eq!((close.kind, close.info_type), (CLOSE, code), "{what}: {close:?}");
        assert_eq!(stranger.next(), None, "{what}");
    }
    server.still_serves();
}

#[test]
fn what_is_no_server_is_told_so() {
    let manager = Manager::start();
    let challenged = [
        ("no PROVE", Frame::new(DATA, "a", "b", 1, "x").encode(), PROTOCOL),
        ("a long frame", 4097_u32.to_be_bytes().to_vec(), TOO_BIG),
        ("a giant frame", u32::MAX.to_be_bytes().to_vec(), TOO_BIG),
        ("a short frame", 15_u32.to_be_bytes().to_vec(), BAD_FIELD),
    ];
    for (what, bytes, code) in openings().into_iter().chain([("a client", CLIENT_PREFACE.to_vec(), WRONG_PORT)]) {
        let mut stranger = Raw::dial(manager.addr);
        stranger.write_in_vain(&bytes);
        let close = stranger.next().unwrap_or_else(|| panic!("{what}: ended without CLOSE"));
        assert_eq!((close.kind, close.info_type), (CLOSE, code), "{what}: {close:?}");
    }
    for (what, bytes, code) in challenged {
        let mut stranger = Raw::dial(manager.addr);
        stranger.write(SERVER_PREFACE);
        assert_eq!(stranger.next().map(|frame| frame.kind), Some(CHALLENGE), "{what}");
        stranger.write(&bytes);
        stranger.expect_close(code);
    }
    manager.still_serves();
}

#[test]
fn a_user_that_breaks_a_rule_is_closed_and_nobody_else() {
    let server = Server::start();
    let mut witness = Raw::login(server.addr, "witness");
    let flagged = Frame { flags: 0x80, ..Frame::new(DATA, "mallory", "witness", 1, "x") };
    let mut long_id = Frame::new(DATA, "mallory", "witness", 1, "x").encode();
    long_id[6] = 65;
    for (what, bytes, code) in [
        ("a giant length", u32::MAX.to_be_bytes().to_vec(), TOO_BIG),
        ("a length one too large", ((1_u32 << 20) + 1).to_be_bytes().to_vec(), TOO_BIG),
        ("a length of 0", 0_u32.to_be_bytes().to_vec(), BAD_FIELD),
        ("a length one too small", 15_u32.to_be_bytes().to_vec(), BAD_FIELD),
        ("ids past the frame", [&[0, 0, 0, 17, DATA, 0, 1, 1][..], &[0; 13]].concat(), BAD_FIELD),
        ("a long id", long_id, BAD_FIELD),
        ("an unknown flag", flagged.encode(), PROTOCOL),
        ("an unknown kind", Frame::new(0x7F, "mallory", "", 1, "").encode(), PROTOCOL),
        ("a kind of the link's", Frame::new(0x84, "mallory", "", 1, "").encode(), PROTOCOL),
        ("a second LOGIN", Frame::new(LOGIN, "mallory", "", 0, "").encode(), PROTOCOL),
        ("a second preface", CLIENT_PREFACE.to_vec(), PROTOCOL),
        ("another's id", Frame::new(DATA, "witness", "witness", 1, "x").encode(), SPOOF),
    ] {
        let mut mallory = Raw::login(server.addr, "mallory");
        mallory.write(&bytes);
        let close = mallory.next().unwrap_or_else(|| panic!("{what}: ended without CLOSE"));
        assert_eq!((close.kind, close.info_type), (CLOSE, code), "{what}: {close:?}");
        let lost = witness.send("mallory", 1, "gone?");
        witness.expect_bounce(&lost, OFFLINE);
    }
    let note = witness.send("witness", 1, "untouched");
    witness.expect(&note);
    server.still_serves();
}

#[test]
fn a_connection_that_breaks_in_a_frame_takes_nothing_with_it() {
    let server = Server::start();
    let mut bob = Raw::login(server.addr, "bob");
    for cut in [1, 3, 4, 19, 20, 27, 1000, 100_000] {
        let mut alice = Raw::login(server.addr, "alice");
        let whole = alice.send("bob", 1, "whole");
        let broken = alice.frame(DATA, "bob", 2, vec![b'x'; 200_000]).encode();
        alice.write(&broken[..cut]);
        bob.expect(&whole);
        alice.reset();
        assert_eq!(server.goings.recv_timeout(PATIENCE).as_deref(), Ok("alice"), "cut at {cut}");
        let lost = bob.send("alice", 3, "gone?");
        bob.expect_bounce(&lost, OFFLINE);
    }
    server.still_serves();
}

/// One stranger's short life. True where it got in.
fn visit(addr: SocketAddr, user: &str, rng: &mut fastrand::Rng) -> (Raw, bool) {
    let mut raw = Raw::dial(addr);
    let login = [&CLIENT_PREFACE[..], &Frame::new(LOGIN, user, "", 0, "").encode()].concat();
    match rng.u8(..5) {
        0 => {}
        1 => raw.write(&login[..rng.usize(..login.len())]),
        2 => raw.write_in_vain(&std::iter::repeat_with(|| rng.u8(..)).take(300).collect::<Vec<_>>()),
        3 => raw.write(&login),
        _ => {
            let (mut raw, answer) = Raw::try_login(addr, user, b"");
            assert_eq!(answer.kind, WELCOME, "{answer:?}");
            let frame = raw.frame(DATA, user, 1, vec![b'y'; rng.usize(..50_000)]).encode();
            raw.write(&frame[..rng.usize(..=frame.len())]);
            return (raw, true);
        }
    }
    (raw, false)
}

/// Leaves as rudely as can be.
fn leave(mut raw: Raw, user: &str, rng: &mut fastrand::Rng) {
    match rng.u8(..4) {
        0 => drop(raw),
        1 => raw.reset(),
        2 => raw.half_close(),
        _ => raw.write_in_vain(&Frame::new(LOGOUT, user, "", 0, "").encode()),
    }
}

#[test]
fn a_storm_of_connections_leaves_a_server_as_it_was() {
    let server = Server::start();
    for seed in 0..3 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let name = |number: usize| format!("user{seed}-{number}");
        let mut visitors: Vec<_> =
            (0..200).map(|number| (name(number), visit(server.addr, &name(number), &mut rng))).collect();
        rng.shuffle(&mut visitors);
        let mut inside: Vec<String> =
            visitors.iter().filter(|(_, (_, entered))| *entered).map(|(user, _)| user.clone()).collect();
        for (user, (raw, _)) in visitors {
            leave(raw, &user, &mut rng);
        }
        assert!(inside.len() > 10, "seed {seed}: {} got in", inside.len());
        while !inside.is_empty() {
            let gone = server.goings.recv_timeout(PATIENCE);
            let gone = gone.unwrap_or_else(|_| panic!("seed {seed}: still in: {inside:?}"));
            inside.retain(|user| *user != gone);
        }
    }
    server.still_serves();
    // Who logged in and hung up before the WELCOME came may have been in for a moment, and is not any more.
    let ends = now() + PATIENCE;
    loop {
        let online = server.handle.online().expect("it takes commands").wait().expect("it runs");
        if online.is_empty() {
            break;
        }
        assert!(now() < ends, "still in: {online:?}");
    }
}

#[test]
fn a_storm_of_connections_leaves_an_acms_as_it_was() {
    let manager = Manager::start();
    let mut rng = fastrand::Rng::with_seed(7);
    let mut visitors: Vec<_> = (0..200).map(|_| Raw::dial(manager.addr)).collect();
    for raw in &mut visitors {
        match rng.u8(..4) {
            0 => {}
            1 => raw.write(&SERVER_PREFACE[..rng.usize(..8)]),
            2 => raw.write_in_vain(&[&SERVER_PREFACE[..], &[0x20; 100]].concat()),
            _ => raw.write(SERVER_PREFACE),
        }
    }
    rng.shuffle(&mut visitors);
    for raw in visitors {
        leave(raw, "", &mut rng);
    }
    manager.still_serves();
}

#[test]
fn a_server_at_its_cap_says_full_and_serves_on() {
    // Of 208 descriptors a server keeps 64 for itself, and 128 for those whom it refuses.
    const CAP: usize = 16;
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 208; exec \"$0\" --listen 127.0.0.1:0", APPSERVER]).env("RUST_LOG", "info");
    let mut server = Program::spawn(&mut command).expect("there is a shell");
    let addr = server.ready("clients");
    let name = |number: usize| format!("user{number}");
    let mut users: Vec<Raw> = (0..CAP).map(|number| Raw::login(addr, &name(number))).collect();

    // More at once than it has descriptors for: each is told, as those before it are cut.
    let mut strangers: Vec<Raw> = (0..300).map(|_| Raw::dial(addr)).collect();
    for stranger in &mut strangers {
        stranger.expect_close(FULL);
    }
    assert!(!server.stderr.text().contains("Too many open files"), "{}", server.stderr.text());
    let last = users.pop().expect("it is full");
    drop(strangers);
    let note = users[0].send("user1", 1, "in the crowd");
    users[1].expect(&note);
    last.log_out();

    let ends = now() + PATIENCE;
    let mut newcomer = loop {
        let (raw, answer) = Raw::try_login(addr, "newcomer", b"");
        if answer.kind == WELCOME {
            break raw;
        }
        assert_eq!((answer.kind, answer.info_type), (CLOSE, FULL), "{answer:?}");
        assert!(now() < ends, "there is room, and it says FULL");
    };
    let note = newcomer.send("user0", 2, "me too");
    users[0].expect(&note);
    drop((users, newcomer));
    server.terminate();
    server.expect_exit(0);
}

/// Fewer than a minute's worth of connections from one address may be logged; none in more than a short line.
#[test]
fn strangers_are_counted_and_leave_none_of_their_words_in_the_log() {
    const EACH: usize = 20;
    const LINE_BYTES_MAX: usize = 300;
    const WORDS: &str = "xyzzy";
    let garbage = WORDS.repeat(1_000).into_bytes();
    let http = format!("GET /{WORDS} HTTP/1.1\r\nHost: {WORDS}\r\n\r\n").into_bytes();
    let tls = [&[0x16, 0x03, 0x01, 0x02, 0x00][..], WORDS.repeat(100).as_bytes()].concat();
    let alone = ["--listen", "127.0.0.1:0"].as_slice();
    let manager = ["--transfer-port", "0", "--management-port", "0"].as_slice();
    for (path, args, key, wrong_role) in
        [(APPSERVER, alone, "clients", SERVER_PREFACE), (ACMS, manager, "transfer", CLIENT_PREFACE)]
    {
        let mut program = Program::start(path, args);
        let addr = program.ready(key);
        for _ in 0..EACH {
            // Nothing is written into TLS.
            let mut stranger = Raw::dial(addr);
            stranger.write_in_vain(&tls);
            assert_eq!(stranger.rest(), b"");
            let openings = [(&garbage, BAD_MAGIC), (&http, WRONG_PORT), (&wrong_role.to_vec(), WRONG_PORT)];
            for (bytes, code) in openings {
                let mut stranger = Raw::dial(addr);
                stranger.write_in_vain(bytes);
                stranger.expect_close(code);
            }
        }
        program.terminate();
        program.expect_exit(0);
        let log = program.stderr.text();
        let counters = program.stderr.line_with("stopped: ");
        let [wrong_port, bad_magic] = [format!("wrong port {}", 3 * EACH), format!("bad magic {EACH}")];
        assert!(counters.contains(&wrong_port) && counters.contains(&bad_magic), "{counters}");
        let lines: Vec<&str> = log.lines().collect();
        assert!(lines.len() <= 4 * EACH + 3, "{} lines for {} strangers", lines.len(), 4 * EACH);
        assert!(lines.iter().all(|line| line.len() <= LINE_BYTES_MAX) && !log.contains(WORDS), "{log}");
    }
}

/// Each reads for a while and resets the connection while more is being written to it: now and then in the midst of a
/// write, which then fails before its end is told in any other way.
#[test]
fn users_that_reset_under_a_flood_take_nothing_with_them() {
    const ROUNDS: u64 = 40;
    const FRAMES: u64 = 64;
    const FRAME_BYTES: usize = 32 << 10;
    let mut server = Program::start(APPSERVER, &["--listen", "127.0.0.1:0"]);
    let addr = server.ready("clients");
    let (mut alice, mut bob) = (Raw::login(addr, "alice"), Raw::login(addr, "bob"));
    for round in 0..ROUNDS {
        let mut victim = Raw::login(addr, "victim");
        let victim = std::thread::spawn(move || {
            // Half of what is sent fits its queue, however slow it is.
            for _ in 0..FRAMES / 4 + round % 8 {
                assert_eq!(victim.next().map(|frame| frame.kind), Some(DATA));
            }
            victim.reset();
        });
        for id in 0..FRAMES {
            alice.send("victim", id, vec![id as u8; FRAME_BYTES]);
        }
        victim.join().expect("it gets what it waits for");
        // What the server had for it went with it. The rest came back, once the server had seen the reset.
        let ends = now() + PATIENCE;
        let mut is_gone = false;
        while !is_gone {
            assert!(now() < ends, "round {round}: the server does not see that its user is gone");
            alice.send("victim", FRAMES, "gone?");
            let mark = alice.send("alice", FRAMES + 1, "to myself");
            while let Some(frame) = alice.next().filter(|frame| *frame != mark) {
                assert!(frame.kind == BOUNCE && [OFFLINE, BUSY].contains(&frame.info_type), "{frame:?}");
                is_gone |= frame.id == FRAMES && frame.info_type == OFFLINE;
            }
        }
        // Another's megabyte, written in many parts, is whole.
        let largest: Vec<u8> = (0..1_000_000_u32).map(|at| (at / 7) as u8 ^ round as u8).collect();
        let large = alice.send("bob", round, largest);
        bob.expect(&large);
    }
    server.expect_running();
    alice.log_out();
    bob.log_out();
    server.terminate();
    server.expect_exit(0);
}
