//! The operator's commands, as processes: at a management interface that the test answers for, and at a cluster's.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Command, Output, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::cluster::Cluster;
use crate::program::{CHAT, Program, TRUNKLINE};
use crate::responder::{Answer, Asked, Responder, json, problem};

const SERVERS: &str = r#"{"servers":[
    {"server":0,"address":"127.0.0.1:6000","state":"open","users":12,"assigned":3,"capacity":10000,"connected_seconds":33,
     "incarnation":1795868030000,"queued_bytes":1024,"link_queued_bytes":2048,"busy_permille":12,"frames":123456,"bytes":999999,
     "frames_per_second":1000,"bytes_per_second":64000,"bounced":{"offline":1,"busy":30},"dropped":{"droppable":2}},
    {"server":11,"address":"as11.example:6001","state":"draining","users":123456,"assigned":0,"capacity":200000,
     "connected_seconds":90000,"incarnation":1795868030001,"queued_bytes":5242880,"busy_permille":1000,"frames":1,
     "bytes":2,"frames_per_second":45678,"bytes_per_second":104857600,"bounced":{},"dropped":{},"later":[]}]}"#;

fn trunkline(acms: &Responder, args: &[&str]) -> Output {
    operate(&acms.url(), args)
}

/// Runs `trunkline` with these arguments, no environment but the ACMS's URL, and no terminal.
fn operate(acms: &str, args: &[&str]) -> Output {
    let mut command = Command::new(TRUNKLINE);
    command.args(args).env_clear().env("TRUNKLINE_ACMS", acms).stdin(Stdio::null());
    command.output().expect("the binary was built with this test")
}

#[track_caller]
fn assert_exit(output: &Output, code: i32, stdout: &str, stderr: &str) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(
        (output.status.code(), text(&output.stdout).as_str(), text(&output.stderr).as_str()),
        (Some(code), stdout, stderr)
    );
}

/// An ACMS that says the same to everyone.
fn saying(answer: Answer) -> Responder {
    Responder::start(move |_| answer.clone())
}

fn done() -> Answer {
    (204, "application/json", String::new())
}

#[track_caller]
fn asked(acms: &Responder) -> Asked {
    acms.asked.try_recv().expect("it asked")
}

#[test]
fn servers_are_listed_in_columns() {
    let acms = saying(json(SERVERS));
    let expected = "\
SERVER  STATE      USERS  ASSIGNED  CAPACITY  CONNECTED  ADDRESS
     0  open          12         3     10000        33s  127.0.0.1:6000
    11  draining  123456         0    200000      1d 1h  as11.example:6001
";
    assert_exit(&trunkline(&acms, &["servers"]), 0, expected, "");
    assert_eq!(asked(&acms).line, "GET /v1/servers");
    let raw = trunkline(&acms, &["servers", "--json"]);
    let raw: serde_json::Value = serde_json::from_slice(&raw.stdout).expect("JSON");
    assert_eq!(raw, serde_json::from_str::<serde_json::Value>(SERVERS).expect("JSON"), "nothing is left out");
    let acms = saying(json(r#"{"servers":[],"frozen_away":[3,17]}"#));
    let expected = "SERVER  STATE  USERS  ASSIGNED  CAPACITY  CONNECTED  ADDRESS\nfrozen and away: 3, 17\n";
    assert_exit(&trunkline(&acms, &["servers"]), 0, expected, "");
}

#[test]
fn one_server_is_told_of_at_length() {
    let servers: serde_json::Value = serde_json::from_str(SERVERS).expect("JSON");
    let acms = saying(json(servers["servers"][0].to_string()));
    let expected = "\
server       0
state        open
address      127.0.0.1:6000
users        12 of 10000, and 3 on their way
connected    for 33s
incarnation  1795868030000
forwarded    123456 frames, 976K bytes; 1000 frames/s, 62.5K bytes/s
queued       1.0K bytes, and 2.0K at the ACMS
busy         1.2% of its time
bounced      busy 30 offline 1
dropped      droppable 2
";
    assert_exit(&trunkline(&acms, &["servers", "0"]), 0, expected, "");
    assert_eq!(asked(&acms).line, "GET /v1/servers/0");
}

#[test]
fn top_without_a_terminal_is_one_table() {
    let acms = saying(json(SERVERS));
    let expected = "\
SERVER  STATE     USERS  FRAMES/S  BYTES/S  QUEUED    BUSY  BOUNCED, DROPPED
     0  open         12      1000    62.5K    3.0K    1.2%  busy 30 droppable 2 offline 1
    11  draining   123k     45.6k     100M    5.0M  100.0%
   all             123k     46.6k     100M    5.0M
";
    assert_exit(&trunkline(&acms, &["top"]), 0, expected, "");
}

#[test]
fn users_are_listed_over_as_many_pages_as_it_takes() {
    let mut pages = [
        r#"{"users":[{"user":"bob","server":1},{"user":"al ice","server":10}],"next":"p/2","total":4}"#,
        r#"{"users":[{"user":"carol","server":1}],"next":"p3","total":4}"#,
    ]
    .into_iter();
    let acms = Responder::start(move |_| json(pages.next().expect("two pages")));
    let expected = "\
SERVER  USER
     1  bob
    10  al ice
     1  carol
3; the next with --after p3
";
    // The total is of all servers.
    assert_exit(&trunkline(&acms, &["users", "--limit", "3", "--server", "1"]), 0, expected, "");
    assert_eq!(asked(&acms).line, "GET /v1/users?limit=3&server=1");
    assert_eq!(asked(&acms).line, "GET /v1/users?limit=1&server=1&after=p%2F2");
}

#[test]
fn a_user_is_found() {
    let acms = saying(json(
        r#"{"user":"b/ob","server":1,"address":"127.0.0.1:40000","login_seconds":3700,"tag":"room\u001b[2J 7"}"#,
    ));
    let expected = "\
user       b/ob
server     1
address    127.0.0.1:40000
logged in  for 1h 1m
tag        room\u{fffd}[2J 7
";
    assert_exit(&trunkline(&acms, &["where", "b/ob"]), 0, expected, "");
    assert_eq!(asked(&acms).line, "GET /v1/users/b%2Fob");
}

#[test]
fn the_members_of_a_group_are_listed() {
    let acms = saying(json(r#"{"group":"chess","members":[{"user":"bob","server":1}],"complete":false}"#));
    let expected = "SERVER  USER\n     1  bob\na server did not answer in time: there may be more\n";
    assert_exit(&trunkline(&acms, &["group", "chess"]), 0, expected, "");
    assert_eq!(asked(&acms).line, "GET /v1/groups/chess");
}

#[test]
fn users_and_servers_are_counted() {
    let acms = saying(json(r#"{"users":1,"servers":2}"#));
    assert_exit(&trunkline(&acms, &["count"]), 0, "1 user on 2 servers\n", "");
    assert_exit(&trunkline(&acms, &["count", "--json"]), 0, "{\"servers\":2,\"users\":1}\n", "");
}

#[test]
fn what_is_done_is_said() {
    for (args, line, said) in [
        (&["kick", "bob"][..], "DELETE /v1/users/bob", "bob is kicked\n"),
        (&["kick", "bob", "--text", "go & rest"], "DELETE /v1/users/bob?text=go%20%26%20rest", "bob is kicked\n"),
        (&["freeze", "3"], "POST /v1/servers/3/freeze", "server 3 is frozen\n"),
        (&["unfreeze", "3"], "POST /v1/servers/3/unfreeze", "server 3 takes new users\n"),
        (&["drain", "3"], "POST /v1/servers/3/drain", "server 3 drains\n"),
        (&["remove", "3"], "POST /v1/servers/3/remove", "server 3 is removed\n"),
    ] {
        let acms = saying(done());
        assert_exit(&trunkline(&acms, args), 0, said, "");
        assert_eq!(asked(&acms).line, line);
    }
}

#[test]
fn a_message_goes_to_whom_it_is_for() {
    let none = json("");
    for (args, to, answer, said) in [
        (&["--user", "bob"][..], r#"{"user":"bob"}"#, json(r#"{"outcome":"delivered"}"#), "delivered to bob\n"),
        (&["--group", "chess"], r#"{"group":"chess"}"#, (202, "application/json", String::new()), "sent\n"),
        (&["--server", "7"], r#"{"server":7}"#, none, "sent\n"),
        (&["--everyone"], r#""everyone""#, (202, "application/json", String::new()), "sent\n"),
    ] {
        let acms = saying(answer);
        assert_exit(&trunkline(&acms, &[&["send", "--info-type", "9"], args, &["hello"]].concat()), 0, said, "");
        let asked = asked(&acms);
        assert_eq!(asked.line, "POST /v1/messages");
        assert_eq!(asked.body, format!(r#"{{"body":"hello","info_type":9,"to":{to}}}"#));
    }
}

#[test]
fn a_handler_is_asked_and_its_answer_printed() {
    let acms = saying(json(r#"{"info_type":0,"body":"42 rooms\n7 full"}"#));
    let output = trunkline(&acms, &["send", "--server", "7", "--answer", "--timeout-ms", "900", "rooms?"]);
    assert_exit(&output, 0, "42 rooms\n7 full\n", "");
    let body = r#"{"answer":true,"body":"rooms?","info_type":0,"timeout_ms":900,"to":{"server":7}}"#;
    assert_eq!(asked(&acms).body, body);
    let binary = saying(json(r#"{"info_type":0,"body_base64":"/wA="}"#));
    assert_exit(&trunkline(&binary, &["send", "--server", "7", "--answer", "?"]), 0, "base64: /wA=\n", "");
}

#[test]
fn a_failure_is_one_line_and_a_one() {
    let bounced = saying(json(r#"{"outcome":"bounced","cause":"OFFLINE"}"#));
    let output = trunkline(&bounced, &["send", "--user", "bob", "hello"]);
    assert_exit(&output, 1, "", "trunkline: not delivered: OFFLINE\n");
    let absent = saying(problem(404, "bob is not online"));
    assert_exit(&trunkline(&absent, &["where", "bob"]), 1, "", "trunkline: bob is not online\n");
    let web = saying((404, "text/html", "<html>".to_owned()));
    assert_exit(&trunkline(&web, &["where", "bob"]), 1, "", "trunkline: 404 Not Found\n");
    let page = saying((200, "text/html", "<html>".to_owned()));
    let output = trunkline(&page, &["servers"]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), stderr.lines().count()), (Some(1), 1), "{stderr}");
    assert!(stderr.contains("does not answer as an ACMS does"), "{stderr}");
    let other = saying(json("[]"));
    let output = trunkline(&other, &["count"]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), stderr.lines().count()), (Some(1), 1), "{stderr}");
}

#[test]
fn wrong_usage_is_a_two() {
    let acms = saying(done());
    for args in [
        &["send", "hello"][..],
        &["send", "--user", "bob", "--everyone", "hello"],
        &["send", "--user", "bob", "--answer", "hello"],
        &["where", ""],
        &["freeze", "many"],
        &["users", "--limit", "0"],
        &["count", "--acms", "127.0.0.1:11000"],
        &["nothing"],
    ] {
        assert_eq!(trunkline(&acms, args).status.code(), Some(2), "{args:?}");
    }
    assert!(acms.asked.is_empty());
}

#[test]
fn a_token_is_shown() {
    let path = std::env::temp_dir().join(format!("trunkline-operator-{}", std::process::id()));
    std::fs::write(&path, "0123456789abcdef\n").expect("the temporary directory can be written");
    let acms = saying(done());
    let output = trunkline(&acms, &["freeze", "1", "--token-file", path.to_str().expect("UTF-8")]);
    std::fs::remove_file(&path).expect("it is there");
    assert_exit(&output, 0, "server 1 is frozen\n", "");
    assert_eq!(asked(&acms).authorization.as_deref(), Some("Bearer 0123456789abcdef"));
}

#[test]
fn events_are_told_as_they_come() {
    let stream = ": hello\n\nevent: server_registered\ndata: {\"server\":1,\"address\":\"127.0.0.1:6001\"}\n\n\
                  event: user_online\ndata: {\"user\":\"bob\",\"server\":1}\n\n";
    let acms = saying((200, "text/event-stream", stream.to_owned()));
    let expected = "server_registered address=127.0.0.1:6001 server=1\nuser_online       server=1 user=bob\n";
    assert_exit(&trunkline(&acms, &["events"]), 1, expected, "trunkline: the ACMS tells no more\n");
    assert_eq!(asked(&acms).line, "GET /v1/events");
    let output = trunkline(&acms, &["events", "--no-users", "--json"]);
    assert_eq!(asked(&acms).line, "GET /v1/events?users=false");
    let lines = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(lines.lines().nth(1), Some(r#"{"data":{"server":1,"user":"bob"},"event":"user_online"}"#));
}

#[test]
fn top_moves_on_a_terminal_and_leaves_it_as_it_was() {
    let mut users = 0;
    let acms = Responder::start(move |_| {
        users += 1;
        json(SERVERS.replace("\"users\":12,", &format!("\"users\":{users},")))
    });
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&terminal).and_then(|()| unlockpt(&terminal)).expect("it is ours");
    let name = ptsname(&terminal, Vec::new()).expect("it has a name").into_string().expect("UTF-8");
    let other_side = || File::options().read(true).write(true).open(&name).expect("it is open");
    tcsetwinsize(&terminal, Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 }).expect("a terminal");
    let before = tcgetattr(other_side()).expect("a terminal");
    let mut top = Command::new(TRUNKLINE);
    top.arg("top").env_clear().env("TRUNKLINE_ACMS", acms.url());
    let mut top = top.stdin(other_side()).stdout(other_side()).spawn().expect("it starts");

    let mut terminal = File::from(terminal);
    let mut seen = String::new();
    let mut chunk = [0; 4096];
    while !seen.contains("     0  open          3") {
        let read = terminal.read(&mut chunk).expect("it draws");
        seen.push_str(&String::from_utf8_lossy(&chunk[..read]));
    }
    assert!(!tcgetattr(other_side()).expect("a terminal").local_modes.contains(LocalModes::ECHO), "keys are not shown");
    terminal.write_all(b"xq").expect("it reads");
    assert_eq!(top.wait().expect("it was started").code(), Some(0));
    let after = tcgetattr(other_side()).expect("a terminal");
    assert_eq!(after.local_modes, before.local_modes);
    let picture: Vec<&str> = seen.split("\x1b[H").nth(1).expect("a picture").split("\r\n").collect();
    assert_eq!(picture[0], format!("\x1b[K{}: 2 servers, 123457 users; q ends", acms.url()));
    assert_eq!(picture[2], "\x1b[KSERVER  STATE     USERS  FRAMES/S  BYTES/S  QUEUED    BUSY  BOUNCED, DROPPED");
    assert_eq!(picture[3], "\x1b[K     0  open          1      1000    62.5K    3.0K    1.2%  busy 30 droppable 2…");
    assert!(seen.contains("\x1b[?25l"), "the cursor is hidden");
}

/// A cluster, two users of it, alice on server 0 and bob on 1, and what happens there.
struct Scene {
    cluster: Cluster,
    acms: String,
    chats: [Program; 2],
    events: Program,
}

impl Scene {
    fn open() -> Scene {
        let cluster = Cluster::start();
        let acms = format!("http://{}", cluster.acms.ready("management"));
        let mut events = Program::start(TRUNKLINE, &["events", "--acms", &acms]);
        events.close_stdin();
        // Nothing says when the ACMS has begun to tell.
        while events.stdout.text().is_empty() {
            events.expect_running();
            Program::start(CHAT, &["--acms", &acms, "--user", "probe"]).expect_exit(0);
        }
        let chats = [("alice", 0), ("bob", 1)].map(|(user, server)| {
            let server = cluster.clients()[server].to_string();
            Program::start(CHAT, &["--server", &server, "--user", user])
        });
        let scene = Scene { cluster, acms, chats, events };
        scene.hears("user_online       server=0 user=alice");
        scene.hears("user_online       server=1 user=bob");
        scene
    }

    #[track_caller]
    fn hears(&self, event: &str) {
        self.events.stdout.line_with(event);
    }

    #[track_caller]
    fn says(&self, args: &[&str], stdout: &str) {
        assert_exit(&operate(&self.acms, args), 0, stdout, "");
    }

    /// A column of the table that lists the servers.
    fn column(&self, place: usize) -> Vec<String> {
        let table = String::from_utf8(operate(&self.acms, &["servers"]).stdout).expect("UTF-8");
        let words = |line: &str| line.split_whitespace().nth(place).map(str::to_owned);
        table.lines().skip(1).map(|line| words(line).expect("a column")).collect()
    }
}

#[test]
fn a_cluster_tells_who_is_where() {
    let scene = Scene::open();
    scene.says(&["count"], "2 users on 2 servers\n");
    scene.says(&["users", "--server", "1"], "SERVER  USER\n     1  bob\n");
    let all = String::from_utf8(operate(&scene.acms, &["users", "--limit", "1"]).stdout).expect("UTF-8");
    assert!(all.contains("1 of 2; the next with --after "), "{all}");
    assert_eq!((scene.column(1), scene.column(2)), (vec!["open".to_owned(); 2], vec!["1".to_owned(); 2]));
    assert_exit(&operate(&scene.acms, &["servers", "7"]), 1, "", "trunkline: server 7 is not registered\n");
    let bob = String::from_utf8(operate(&scene.acms, &["where", "bob"]).stdout).expect("UTF-8");
    assert!(bob.starts_with("user       bob\nserver     1\naddress    127.0.0.1:"), "{bob}");
    assert_exit(&operate(&scene.acms, &["where", "carol"]), 1, "", "trunkline: carol is not online\n");
}

#[test]
fn a_cluster_takes_an_operators_messages() {
    let scene = Scene::open();
    scene.says(&["send", "--user", "bob", "hello from the operator"], "delivered to bob\n");
    scene.chats[1].stdout.line_with("the server: hello from the operator");
    let absent = operate(&scene.acms, &["send", "--user", "carol", "hello"]);
    assert_exit(&absent, 1, "", "trunkline: not delivered: offline\n");
    let unanswered = operate(&scene.acms, &["send", "--server", "1", "--answer", "rooms?"]);
    assert_exit(&unanswered, 1, "", "trunkline: the server has no handler for it\n");
}

#[test]
fn a_cluster_is_steered() {
    let mut scene = Scene::open();
    scene.says(&["freeze", "0"], "server 0 is frozen\n");
    assert_eq!(scene.column(1), ["frozen", "open"]);
    let mut carol = Program::start(CHAT, &["--acms", &scene.acms, "--user", "carol"]);
    carol.stdout.line_with("connected as carol to server 1");
    carol.expect_exit(0);
    scene.says(&["unfreeze", "0"], "server 0 takes new users\n");
    assert_eq!(scene.column(1), ["open", "open"]);
    scene.says(&["kick", "bob", "--text", "go and rest"], "bob is kicked\n");
    scene.chats[1].stdout.line_with("removed: go and rest");
    scene.hears("user_offline      server=1 user=bob");
    assert_exit(&operate(&scene.acms, &["kick", "bob"]), 1, "", "trunkline: bob is not online\n");
    scene.says(&["drain", "0"], "server 0 drains\n");
    scene.chats[0].stdout.line_with("again connected as alice to server 1");
    scene.cluster.servers[0].expect_exit(0);
    scene.hears("server_lost");
    scene.says(&["remove", "1"], "server 1 is removed\n");
    scene.events.stdout.lines_with("server_lost", 2);
}
