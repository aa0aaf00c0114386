//! The application server alone: clients on one side, a scripted ACMS on the other.
//!
//! Long for its list: every rule of the session, of the link and of backpressure has its own named test.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;

use siphasher::sip::SipHasher13;
use trunkline::id::{ConnId, ServerId, UserId};
use trunkline::link::End;
use trunkline::role::appserver::{
    AppServer, ClusterState, Config, CutOff, Event, Inbox, Membership, Outcome, Rates, Verdict,
};
use trunkline::role::{Core, Gone};
use trunkline::time::{Span, Time};
use trunkline::wire::link::Relogin;
use trunkline::wire::{Bounce, CloseCode, Flags};

use crate::wire_peer::{
    ACK, ANSWER, ASK, BIND, BOUNCE, BURST_BEGIN, CHALLENGE, CLAIM, CLAIMED, CLIENT_PREFACE, CLOSE, DATA, DIGEST, DRAIN,
    DROPPABLE, ERROR, FOUND, GROUP_JOIN, KICK, LOGIN, LOGOUT, LOOKUP, PING, PONG, PROVE, QUERY, REGISTER, REGISTERED,
    REPLY, RESYNC, RETRY, Raw, SERVER_PREFACE, SERVERS, STATE, SYNCED, Seam, UNBIND, WANT_ACK, WELCOME, addr,
};

pub(crate) type Server = Seam<AppServer>;

const START: Time = Time::from_micros(1_000_000);
const KIB: usize = 1024;

fn config() -> Config {
    Config {
        server: ServerId(0),
        incarnation: 2,
        max_frame: 1 << 20,
        heartbeat: Span::from_secs(10),
        heartbeat_timeout: Span::from_secs(30),
        login_timeout: Span::from_secs(10),
        drain: Span::from_secs(2),
        connections_max: 100_000,
        max_accepts_per_second: 0,
        memory_max: usize::MAX,
        rates: Rates::NONE,
        relogin: Relogin::ReplaceOld,
        cut_off: CutOff::ServeLocal,
        takes_messages: false,
        takes_queries: false,
        asks_joins: false,
        takes_queries_before_login: false,
        blobs: Default::default(),
        cluster: None,
        seed: [1; 32],
    }
}

pub(crate) fn alone_with(change: impl FnOnce(&mut Config)) -> Server {
    let mut config = config();
    change(&mut config);
    Seam::new(START, AppServer::new(START, config))
}

pub(crate) fn alone() -> Server {
    alone_with(|_| {})
}

/// Server 1 of cluster `demo`, which has no secret; its link is dialled and not answered.
pub(crate) fn dialling_with(change: impl FnOnce(&mut Config)) -> Server {
    let mut server = alone_with(|config| {
        config.server = ServerId(1);
        config.cluster = Some(Membership {
            acms: addr("10.0.0.100:5200"),
            name: "demo".to_owned(),
            secret: Vec::new(),
            public_address: "10.0.0.1:6000".to_owned(),
            capacity: 1000,
        });
        change(config);
    });
    server.pass_ms(0);
    assert_eq!(server.dials.last().map(|(_, addr)| *addr), Some(addr("10.0.0.100:5200")));
    server
}

/// The ACMS of epoch 3 answers the latest dial and takes the server, up to REGISTERED.
pub(crate) fn register(server: &mut Server) -> ConnId {
    let up = server.answer_dial();
    assert_eq!(server.wire(up).got, SERVER_PREFACE);
    server.wire(up).got.clear();
    server.put(up, Raw::of(CHALLENGE).id(3).body([4; 32]));
    let frames = server.frames(up);
    assert_eq!(frames.iter().map(|frame| frame.kind).collect::<Vec<_>>(), [PROVE, REGISTER]);
    server.put(up, Raw::of(REGISTERED).id(3));
    up
}

pub(crate) fn joined_with(change: impl FnOnce(&mut Config)) -> (Server, ConnId) {
    let mut server = dialling_with(change);
    let up = register(&mut server);
    assert_eq!(server.frames(up), [Raw::of(BURST_BEGIN), Raw::of(SYNCED)]);
    assert!(server.core.cluster_is_up());
    (server, up)
}

pub(crate) fn joined() -> (Server, ConnId) {
    joined_with(|_| {})
}

pub(crate) fn events(server: &mut Server) -> Vec<Event> {
    std::iter::from_fn(|| server.core.poll_event()).collect()
}

/// A client that has sent its LOGIN, which the application is asked about.
pub(crate) fn asking(server: &mut Server, user: &str) -> ConnId {
    let conn = server.accept();
    let login = Raw::of(LOGIN).from(user).body(br#"{"password":"secret"}"#);
    server.feed(conn, [&CLIENT_PREFACE[..], &login.bytes()].concat());
    let asked = events(server).into_iter().find_map(|event| match event {
        Event::LoginAsked { conn, user, login, .. } => Some((conn, user.to_string(), login.password)),
        _ => None,
    });
    assert_eq!(asked, Some((conn, user.to_owned(), Some("secret".to_owned()))));
    conn
}

pub(crate) fn say(server: &mut Server, conn: ConnId, verdict: Verdict) {
    server.core.verdict(server.now, conn, verdict);
    server.turn();
}

/// Logs in where no cluster has to be asked.
pub(crate) fn log_in(server: &mut Server, user: &str) -> ConnId {
    let conn = asking(server, user);
    say(server, conn, Verdict::Accept);
    assert_eq!(server.frame(conn).kind, WELCOME);
    conn
}

/// Up to the CLAIM at the ACMS: the connection and the session's number.
pub(crate) fn claiming(server: &mut Server, up: ConnId, user: &str) -> (ConnId, u64) {
    let conn = asking(server, user);
    say(server, conn, Verdict::Accept);
    let claim = server.frame(up);
    assert_eq!((claim.kind, &claim.from[..], claim.to.len()), (CLAIM, user.as_bytes(), 0));
    server.silent(conn);
    (conn, claim.id)
}

pub(crate) fn log_in_through(server: &mut Server, up: ConnId, user: &str) -> (ConnId, u64) {
    let (conn, session) = claiming(server, up, user);
    server.put(up, Raw::of(CLAIMED).to(user).id(session));
    assert_eq!(server.frame(conn).kind, WELCOME);
    assert_eq!(server.frame(up), confirmation(session, 0, user));
    (conn, session)
}

/// Time passes while the ACMS, and every client, shows that it lives.
fn pass_alive(server: &mut Server, up: ConnId, clients: &[ConnId], seconds: u64) {
    for _ in 0..2 * seconds {
        server.put(up, Raw::of(PONG));
        clients.iter().for_each(|conn| server.put(*conn, Raw::of(PONG)));
        server.pass_ms(500);
    }
}

pub(crate) fn user(name: &str) -> UserId {
    name.parse().expect("an id")
}

pub(crate) fn data(from: &str, to: &str, id: u64) -> Raw {
    Raw::of(DATA).info(7).id(id).to(to).from(from).body(b"hi")
}

/// The BIND that says that a claimed session is open.
fn confirmation(session: u64, age: u64, user: &str) -> Raw {
    let body = [&session.to_be_bytes()[..], &age.to_be_bytes(), &[user.len() as u8], user.as_bytes()].concat();
    Raw::of(BIND).body(body)
}

/// The bindings in a BIND's body: session, age in milliseconds, user.
fn entries(mut body: &[u8]) -> Vec<(u64, u64, String)> {
    let mut entries = Vec::new();
    while !body.is_empty() {
        let number = |range: std::ops::Range<usize>| body[range].iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
        let end = 17 + usize::from(body[16]);
        let name = String::from_utf8(body[17..end].to_vec()).expect("a user id");
        entries.push((number(0..8), number(8..16), name));
        body = &body[end..];
    }
    entries
}

/// What an ACMS that reads docs/PROTOCOL.md, section 15, knows of one server from what that said.
#[derive(Default)]
struct Told {
    sessions: BTreeMap<String, u64>,
}

impl Told {
    fn hear(&mut self, frames: &[Raw]) {
        for frame in frames {
            let from = String::from_utf8(frame.from.clone()).expect("a user id");
            match frame.kind {
                UNBIND if self.sessions.get(&from) == Some(&frame.id) => _ = self.sessions.remove(&from),
                BURST_BEGIN => self.sessions.clear(),
                BIND => {
                    self.sessions.extend(entries(&frame.body).into_iter().map(|(session, _, user)| (user, session)))
                }
                _ => {}
            }
        }
    }

    #[track_caller]
    fn knows(&self, expected: &[(&str, u64)]) {
        let expected: BTreeMap<String, u64> = expected.iter().map(|(user, at)| ((*user).to_owned(), *at)).collect();
        assert_eq!(self.sessions, expected, "what the ACMS was told is not who is online");
    }
}

// Login.

#[test]
fn a_login_as_in_the_documents_example() {
    let mut server = alone();
    let conn = server.accept();
    server.feed(conn, b"TRNK\x00\x01\x01\x00");
    server.feed(conn, b"\0\0\0\x2A\x01\0\0\x05\0\0\0\0\0\0\0\0\0\0\0\0alice{\"password\":\"secret\"}");
    server.silent(conn);
    say(&mut server, conn, Verdict::Accept);
    let mut expected = b"\0\0\0\x6D\x02\0\x05\0\0\0\0\0\0\0\0\0\0\0\0\0alice".to_vec();
    expected.extend(br#"{"server":0,"session":"0-2-1","heartbeat_ms":10000,"max_frame":1048576,"cluster":"none"}"#);
    assert_eq!(server.wire(conn).got, expected);
    assert_eq!(server.core.online().collect::<Vec<_>>(), [&user("alice")]);
    assert!(matches!(
        &events(&mut server)[..],
        [Event::LoginAsked { .. }, Event::LoggedIn { conn: at, user, .. }] if *at == conn && user.as_str() == "alice"
    ));
}

#[test]
fn a_login_that_comes_a_byte_at_a_time() {
    let mut server = alone();
    let conn = server.accept();
    let bytes = [&CLIENT_PREFACE[..], &Raw::of(LOGIN).from("alice").bytes()].concat();
    bytes.iter().for_each(|byte| server.feed(conn, [*byte]));
    say(&mut server, conn, Verdict::Accept);
    assert_eq!(server.frame(conn).kind, WELCOME);
}

#[test]
fn each_verdict_has_its_code() {
    let cases = [
        (Verdict::Refuse("wrong password".to_owned()), 1507, "wrong password"),
        (Verdict::Unavailable("no database".to_owned()), 1008, "no database"),
        (Verdict::Fault, 1009, "the login check failed"),
    ];
    for (verdict, code, text) in cases {
        let mut server = alone();
        let conn = asking(&mut server, "alice");
        say(&mut server, conn, verdict);
        assert_eq!(server.closed(conn), (code, text.to_owned()));
        assert_eq!(server.core.users_online(), 0);
    }
}

#[test]
fn a_verdict_that_comes_too_late_is_for_nobody() {
    let mut server = alone();
    let conn = asking(&mut server, "alice");
    server.reset(conn);
    let other = server.accept();
    assert_eq!(other.index, conn.index, "the place is used again");
    say(&mut server, conn, Verdict::Accept);
    server.silent(other);
    assert_eq!(server.core.users_online(), 0);
}

#[test]
fn a_login_check_without_end_is_ended() {
    let mut server = alone();
    let conn = asking(&mut server, "alice");
    server.pass_ms(29_900);
    server.silent(conn);
    server.pass_ms(200);
    server.closed_with(conn, 1008);
    say(&mut server, conn, Verdict::Accept);
    assert_eq!(server.core.users_online(), 0);
}

// What goes wrong.

#[test]
fn what_a_client_says_wrong_has_its_code() {
    let login = |from: &[u8], body: &[u8]| {
        let frame = Raw { from: from.to_vec(), body: body.to_vec(), ..Raw::of(LOGIN) };
        [&CLIENT_PREFACE[..], &frame.bytes()].concat()
    };
    let header = |bytes: &[u8]| [&CLIENT_PREFACE[..], bytes].concat();
    let cases: Vec<(u32, &str, Vec<u8>)> = vec![
        (1500, "garbage", b"garbage!".to_vec()),
        (1500, "the magic with one bit changed", b"TRNJ\0\x01\x01\0".to_vec()),
        (1501, "a server's preface", SERVER_PREFACE.to_vec()),
        (1501, "HTTP", b"GET / HTTP/1.1\r\n".to_vec()),
        (1505, "role 2", b"TRNK\x02\x01\x01\0".to_vec()),
        (1505, "version_min over version_max", b"TRNK\0\x02\x01\0".to_vec()),
        (1505, "reserved not 0", b"TRNK\0\x01\x01\x01".to_vec()),
        (1504, "a length of 4097 before WELCOME", header(b"\0\0\x10\x01")),
        (1504, "a length of 4 GiB", header(b"\xFF\xFF\xFF\xFF")),
        (1505, "a length of 15", header(b"\0\0\0\x0F")),
        (1505, "a length of 0", header(b"\0\0\0\0")),
        (1505, "ids past the frame", header(b"\0\0\0\x14\x01\0\0\x05\0\0\0\0\0\0\0\0\0\0\0\0abcd")),
        (1505, "an empty user", login(b"", b"")),
        (1505, "a user of 65 bytes", login(&[b'a'; 65], b"")),
        (1505, "a control character", login(b"al\x07ce", b"")),
        (1505, "a control character above ASCII", login("al\u{85}ce".as_bytes(), b"")),
        (1505, "a user that is not UTF-8", login(b"\xFF\xFE", b"")),
        (1505, "a body that is an array", login(b"alice", b"[1]")),
        (1505, "a body that is cut short", login(b"alice", b"{")),
        (1505, "a password that is a number", login(b"alice", br#"{"password":1}"#)),
    ];
    for (code, what, bytes) in cases {
        let mut server = alone();
        let conn = server.accept();
        server.feed(conn, bytes);
        let (got, text) = server.closed(conn);
        assert_eq!(got, code, "{what}: closed with {got} {text:?}");
        let counters = server.core.counters();
        assert_eq!(counters.bad_magic, u64::from(code == 1500), "{what}");
        assert_eq!(counters.wrong_port, u64::from(code == 1501), "{what}");
    }
}

#[test]
fn nothing_is_written_into_tls() {
    let mut server = alone();
    let conn = server.accept();
    server.feed(conn, b"\x16\x03\x01\x02\0\x01\0\x01\xFC\x03\x03");
    assert!(server.wire(conn).dropped && server.wire(conn).got.is_empty());
    assert_eq!(server.core.counters().wrong_port, 1);
    let closed = std::iter::from_fn(|| server.core.poll_event()).any(|event| {
        matches!(event, Event::Closed { gone: Gone::Closed(CloseCode::WRONG_PORT), text, .. } if text == "TLS on a plain port")
    });
    assert!(closed);
}

#[test]
fn no_common_version_names_both_ranges() {
    let mut server = alone();
    let conn = server.accept();
    server.feed(conn, b"TRNK\0\x02\x05\0");
    let (code, text) = server.closed(conn);
    assert_eq!(code, 1502);
    assert!(text.contains("2-5") && text.contains("1-1"), "{text:?}");
    let wider = server.accept();
    server.feed(wider, b"TRNK\0\0\xFF\0");
    server.silent(wider);
}

#[test]
fn a_frame_before_its_turn_is_a_fault() {
    let cases = [
        data("alice", "bob", 1),
        Raw::of(QUERY).id(1).from("alice"),
        Raw::of(ASK).id(1).from("alice").body(br#"{"ask":"rtt"}"#),
        Raw::of(LOGIN).from("alice"),
        Raw::of(WELCOME),
        Raw::of(CLAIM).from("alice"),
    ];
    for frame in cases {
        let mut server = alone();
        let conn = asking(&mut server, "alice");
        server.put(conn, Raw::of(PING).id(5));
        assert_eq!(server.frame(conn), Raw::of(PONG).id(5), "PING is allowed at any time");
        server.put(conn, frame.clone());
        let (code, text) = server.closed(conn);
        assert_eq!(code, 1503, "{frame:?} before WELCOME: {text:?}");
    }
}

#[test]
fn a_stranger_that_reads_nothing_makes_little_wait() {
    let mut server = alone();
    let conn = server.accept();
    server.stall(conn);
    server.feed(conn, [CLIENT_PREFACE.to_vec(), Raw::of(PING).id(5).bytes().repeat(10_000)].concat());
    assert_eq!(server.core.links().get(conn).map(|link| link.queue().len()), Some(1_040), "52 PONGs");
    assert_eq!(server.core.counters().dropped_bounces, 10_000 - 52);
    server.unstall(conn);
    assert_eq!(server.frames(conn), vec![Raw::of(PONG).id(5); 52]);
    server.put(conn, Raw::of(PING).id(6));
    assert_eq!(server.frame(conn), Raw::of(PONG).id(6));
}

#[test]
fn a_second_preface_is_a_fault() {
    for after_login in [false, true] {
        let mut server = alone();
        let conn = if after_login { log_in(&mut server, "alice") } else { server.accept() };
        if !after_login {
            server.feed(conn, CLIENT_PREFACE);
        }
        server.feed(conn, CLIENT_PREFACE);
        server.closed_with(conn, 1503);
    }
}

#[test]
fn what_a_user_says_wrong_has_its_code() {
    let mut unknown_flag = data("alice", "bob", 1);
    unknown_flag.flags = 0x20;
    let cases = [
        (1503, Raw::of(LOGIN).from("alice").bytes()),
        (1503, Raw::of(0x07).bytes()),
        (1503, Raw::of(0x7F).bytes()),
        (1503, Raw::of(WELCOME).bytes()),
        (1503, Raw::of(BOUNCE).info(1).id(1).to("bob").from("alice").bytes()),
        (1503, Raw::of(ANSWER).to("alice").bytes()),
        (1503, Raw::of(CLAIM).from("alice").bytes()),
        (1503, Raw::of(0xFF).bytes()),
        (1503, unknown_flag.bytes()),
        (1503, Raw::of(QUERY).flags(WANT_ACK).id(1).to("bob").from("alice").bytes()),
        (1504, b"\0\x10\0\x01".to_vec()),
        (1505, data("alice", &"b".repeat(65), 1).bytes()),
        (1506, data("bob", "alice", 1).bytes()),
        (1506, data("", "bob", 1).bytes()),
        (1506, Raw::of(ACK).id(1).to("bob").bytes()),
        (1506, Raw::of(REPLY).id(1).to("bob").from("carol").bytes()),
        (1506, Raw::of(ASK).id(1).from("carol").bytes()),
        (1506, Raw::of(GROUP_JOIN).id(1).to("g").from("carol").bytes()),
        (1506, Raw::of(LOGOUT).from("carol").bytes()),
    ];
    for (code, bytes) in cases {
        let mut server = alone();
        let conn = log_in(&mut server, "alice");
        server.feed(conn, &bytes);
        let (got, text) = server.closed(conn);
        assert_eq!(got, code, "{:02x?}: closed with {got} {text:?}", &bytes[..bytes.len().min(32)]);
        assert_eq!(server.core.users_online(), 0);
    }
}

#[test]
fn a_length_of_just_max_frame_is_taken() {
    let mut server = alone();
    let alice = log_in(&mut server, "alice");
    let frame = Raw::of(DATA).to("alice").from("alice").body(vec![7; (1 << 20) - 26]);
    assert_eq!(frame.bytes()[..4], [0, 0x10, 0, 0]);
    server.put(alice, frame.clone());
    assert!(server.frame(alice) == frame);
}

// Time.

#[test]
fn no_byte_for_five_seconds_ends_it() {
    let mut server = alone();
    let conn = server.accept();
    server.pass_ms(4_950);
    server.silent(conn);
    server.pass_ms(100);
    server.closed_with(conn, 1006);
}

#[test]
fn no_login_for_ten_seconds_ends_it() {
    for sent in [&b"T"[..], b"TRNK\x00\x01\x01\x00"] {
        let mut server = alone();
        let conn = server.accept();
        server.pass_ms(4_000);
        server.feed(conn, sent);
        server.pass_ms(5_950);
        server.silent(conn);
        server.pass_ms(100);
        server.closed_with(conn, 1006);
    }
}

/// A preface cut in two of which the first part was there when the connection was taken.
#[test]
fn a_first_byte_in_the_moment_of_accept_counts() {
    let mut server = alone();
    let conn = server.accept();
    server.feed(conn, b"TRNK");
    server.pass_ms(6_000);
    server.silent(conn);
    server.feed(conn, b"\x00\x01\x01\x00");
    server.put(conn, Raw::of(LOGIN).from("alice"));
    say(&mut server, conn, Verdict::Accept);
    assert_eq!(server.frame(conn).kind, WELCOME);
}

#[test]
fn a_frame_begun_and_never_finished_ends_it() {
    let mut server = alone();
    let conn = log_in(&mut server, "alice");
    server.pass_ms(3_000);
    server.feed(conn, b"\0\0\0\x10\x05");
    server.pass_ms(9_950);
    server.silent(conn);
    server.pass_ms(100);
    server.closed_with(conn, 1007);
}

#[test]
fn a_byte_a_second_does_not_keep_a_frame_alive() {
    let mut server = alone();
    let conn = log_in(&mut server, "alice");
    let frame = data("alice", "alice", 1).bytes();
    for byte in &frame[..10] {
        server.feed(conn, [*byte]);
        server.pass_ms(995);
    }
    server.silent(conn);
    server.pass_ms(100);
    server.closed_with(conn, 1007);
}

#[test]
fn each_frame_has_ten_seconds_of_its_own() {
    let mut server = alone();
    let conn = log_in(&mut server, "alice");
    let ping = Raw::of(PING).id(1).bytes();
    server.feed(conn, &ping[..3]);
    for _ in 0..5 {
        server.pass_ms(7_000);
        server.feed(conn, [&ping[3..], &ping[..3]].concat());
        assert_eq!(server.frame(conn).kind, PONG);
    }
}

#[test]
fn a_preface_in_two_parts_does_not_age_what_follows() {
    let mut server = alone();
    let conn = server.accept();
    server.pass_ms(100);
    server.feed(conn, &CLIENT_PREFACE[..4]);
    server.pass_ms(8_000);
    let ping = Raw::of(PING).bytes();
    let login = Raw::of(LOGIN).from("alice").bytes();
    server.feed(conn, [&CLIENT_PREFACE[4..], &login, &ping[..3]].concat());
    server.pass_ms(9_000);
    server.silent(conn);
    server.feed(conn, &ping[3..]);
    assert_eq!(server.frame(conn).kind, PONG);
}

#[test]
fn a_silent_client_is_pinged_and_then_closed() {
    let mut server = alone();
    let conn = log_in(&mut server, "alice");
    server.pass_ms(9_950);
    server.silent(conn);
    server.pass_ms(100);
    assert_eq!(server.frame(conn).kind, PING);
    server.pass_ms(19_900);
    server.silent(conn);
    server.pass_ms(100);
    server.closed_with(conn, 1003);
}

#[test]
fn any_byte_is_life() {
    let mut server = alone();
    let conn = log_in(&mut server, "alice");
    let ping = Raw::of(PING).id(9).bytes();
    for _ in 0..4 {
        server.pass_ms(29_900);
        assert_eq!(server.frame(conn).kind, PING);
        server.feed(conn, &ping[..1]);
        server.pass_ms(8_000);
        server.silent(conn);
        server.feed(conn, &ping[1..]);
        assert_eq!(server.frame(conn), Raw::of(PONG).id(9));
    }
}

/// One that reads and has nothing to say is asked, also when its queue is not empty in the very moment.
#[test]
fn a_listener_behind_a_slow_line_is_asked_too() {
    let mut server = alone();
    let listener = log_in(&mut server, "listener");
    let talker = log_in(&mut server, "talker");
    server.stall(listener);
    let mut pinged = false;
    for second in 0..40 {
        server.put(talker, data("talker", "listener", second));
        let waiting = server.core.links().get(listener).map_or(0, |link| link.queue().len());
        server.take(listener, waiting / 2);
        server.pass_ms(1_000);
        let frames = server.frames(listener);
        if frames.iter().any(|frame| frame.kind == PING) {
            pinged = true;
            server.put(listener, Raw::of(PONG));
        }
        let is_in = server.core.conn_of(&user("listener")).is_some();
        assert!(is_in, "closed after {second} s; asked before: {pinged}");
    }
    assert!(pinged);
}

#[test]
fn a_client_that_takes_nothing_for_ten_seconds_is_slow() {
    let mut server = alone();
    let alice = log_in(&mut server, "alice");
    let bob = log_in(&mut server, "bob");
    server.stall(alice);
    server.put(bob, data("bob", "alice", 1));
    server.pass_ms(9_000);
    server.take(alice, 1);
    server.put(alice, Raw::of(PONG));
    server.pass_ms(9_900);
    assert!(server.core.conn_of(&user("alice")).is_some(), "the least progress is progress");
    server.pass_ms(150);
    assert_eq!(server.core.conn_of(&user("alice")), None);
    server.unstall(alice);
    assert_eq!(server.next(alice), data("bob", "alice", 1), "what was queued comes before the CLOSE");
    server.closed_with(alice, 1002);
}

#[test]
fn a_closing_connection_that_takes_nothing_is_cut() {
    let mut server = alone();
    let alice = log_in(&mut server, "alice");
    server.stall(alice);
    server.put(alice, Raw::of(LOGOUT).from("alice"));
    server.pass_ms(1_900);
    assert!(!server.wire(alice).dropped);
    server.pass_ms(200);
    assert!(server.wire(alice).dropped);
}

#[test]
fn one_that_hangs_up_still_gets_its_close() {
    let mut server = alone();
    let alice = log_in(&mut server, "alice");
    server.stall(alice);
    server.put(alice, Raw::of(LOGOUT).from("alice"));
    server.end(alice, End::Eof);
    assert!(!server.wire(alice).dropped, "the CLOSE is not written yet");
    server.unstall(alice);
    assert_eq!(server.frame(alice).info, 1511);
    assert!(server.wire(alice).dropped);
}

// Limits and ends.

#[test]
fn one_connection_too_many_is_told_so() {
    let mut server = alone_with(|config| config.connections_max = 2);
    let first = log_in(&mut server, "alice");
    let second = server.accept();
    let third = server.accept();
    server.closed_with(third, 1004);
    server.silent(first);
    server.reset(second);
    let fourth = log_in(&mut server, "bob");
    server.silent(fourth);
}

#[test]
fn those_who_are_refused_and_do_not_go_hold_few_descriptors() {
    let mut server = alone_with(|config| config.connections_max = 10);
    let alice = log_in(&mut server, "alice");
    let refused: Vec<ConnId> = (0..1_000).map(|_| server.accept()).skip(9).collect();
    for conn in &refused {
        let close = server.frame(*conn);
        assert_eq!((close.kind, close.info), (CLOSE, 1004));
        let body: serde_json::Value = serde_json::from_slice(&close.body).expect("JSON");
        assert!(body["retry_after_ms"].as_u64().is_some_and(|millis| (5_000..=10_000).contains(&millis)), "{body}");
    }
    assert_eq!(server.core.links().len(), 10 + 64);
    let lingers = |server: &mut Server, conn: ConnId| !server.wire(conn).dropped;
    assert!(refused[..refused.len() - 64].iter().all(|conn| !lingers(&mut server, *conn)));
    assert!(refused[refused.len() - 64..].iter().all(|conn| lingers(&mut server, *conn)));
    // They take no place from those who come when there is room.
    server.reset(alice);
    let bob = log_in(&mut server, "bob");
    server.silent(bob);
}

#[test]
fn strangers_who_say_nothing_keep_no_user_out() {
    let mut server = alone();
    let strangers: Vec<ConnId> = (0..20_000).map(|_| server.accept()).collect();
    let here = strangers.iter().filter(|conn| !server.wire(**conn).shut).count();
    assert_eq!(here, 16 << 10);
    let alice = log_in(&mut server, "alice");
    server.silent(alice);
}

#[test]
fn those_who_come_too_many_at_once_are_told_when_to_come_again() {
    let mut server = alone_with(|config| config.max_accepts_per_second = 2);
    let early = [log_in(&mut server, "alice"), log_in(&mut server, "bob")];
    let late: Vec<ConnId> = (0..20).map(|_| server.accept()).collect();
    let waits: Vec<u64> = late
        .iter()
        .map(|conn| {
            let close = server.frame(*conn);
            assert_eq!((close.kind, close.info), (CLOSE, 1004));
            let body: serde_json::Value = serde_json::from_slice(&close.body).expect("JSON");
            assert_eq!(body["text"], "too many come at once; come again later");
            body["retry_after_ms"].as_u64().expect("a number")
        })
        .collect();
    for (place, wait) in (0..).zip(&waits) {
        let queued = 250 + 500 * (place + 1);
        assert!((queued..=queued * 5 / 4).contains(wait), "number {place} is to wait {wait} ms");
    }
    for conn in early {
        server.silent(conn);
    }
    assert_eq!(server.core.counters().sent_away, 20);
    server.pass(Span::from_millis(500));
    let next = log_in(&mut server, "carol");
    server.silent(next);
}

#[test]
fn a_server_that_stops_says_so_to_everyone() {
    let mut server = alone();
    let waiting = asking(&mut server, "bob");
    let alice = log_in(&mut server, "alice");
    let stranger = server.accept();
    server.core.stop(server.now);
    server.turn();
    for conn in [alice, waiting, stranger] {
        server.closed_with(conn, 1000);
    }
    assert!(server.core.is_stopped());
    let late = server.accept();
    server.closed_with(late, 1000);
}

#[test]
fn a_server_that_stops_with_its_link_comes_to_rest() {
    let (mut server, up) = joined();
    let (alice, _) = log_in_through(&mut server, up, "alice");
    server.core.stop(server.now);
    server.turn();
    assert_eq!(server.frames(up).last().map(|frame| (frame.kind, frame.info)), Some((CLOSE, 1000)));
    assert_eq!(server.frame(alice).info, 1000);
    server.pass_ms(3_000);
    assert!(server.core.is_stopped(), "whoever does not end its side is cut");
    assert_eq!(server.dials, []);
}

/// The application told it to stop: that the link goes with it is no news.
#[test]
fn a_server_that_stops_does_not_tell_of_its_link() {
    for ends in [true, false] {
        let (mut server, up) = joined();
        events(&mut server);
        server.core.stop(server.now);
        server.turn();
        if ends {
            server.end(up, End::Eof);
        }
        server.pass_ms(3_000);
        assert!(server.core.is_stopped());
        let seen = events(&mut server);
        assert!(!seen.iter().any(|event| matches!(event, Event::Cluster(_))), "{seen:?}");
    }
}

#[test]
fn a_logout_is_answered() {
    let mut server = alone();
    let alice = log_in(&mut server, "alice");
    server.put(alice, Raw::of(LOGOUT).from("alice"));
    server.closed_with(alice, 1511);
    assert!(events(&mut server).iter().any(|event| matches!(
        event,
        Event::LoggedOut { user, gone: Gone::Closed(CloseCode::LOGGED_OUT) } if user.as_str() == "alice"
    )));
}

#[test]
fn the_application_kicks_a_user() {
    let mut server = alone();
    let alice = log_in(&mut server, "alice");
    assert!(server.core.kick(server.now, &user("alice"), "be nice"));
    server.turn();
    assert_eq!(server.closed(alice), (1510, "be nice".to_owned()));
    assert!(!server.core.kick(server.now, &user("alice"), "again"));
}

#[test]
fn a_kick_of_a_user_elsewhere_goes_up() {
    let (mut server, up) = joined();
    assert!(server.core.kick(server.now, &user("zoe"), "be nice"));
    server.turn();
    assert_eq!(server.frame(up), Raw::of(KICK).info(1510).to("zoe").body("be nice"));
}

#[test]
fn a_client_may_close() {
    let mut server = alone();
    let alice = log_in(&mut server, "alice");
    server.put(alice, Raw::of(CLOSE).info(1000).body("bye"));
    assert!(server.wire(alice).dropped);
    server.silent(alice);
    assert_eq!(server.core.users_online(), 0);
}

// One session per user, stand-alone.

#[test]
fn alone_a_second_login_replaces_the_first() {
    let mut server = alone();
    let first = log_in(&mut server, "alice");
    let second = log_in(&mut server, "alice");
    server.closed_with(first, 1508);
    assert_eq!(server.core.conn_of(&user("alice")), Some(second));
    server.put(second, data("alice", "alice", 1));
    assert_eq!(server.frame(second), data("alice", "alice", 1));
}

#[test]
fn alone_the_first_login_may_be_kept() {
    let mut server = alone_with(|config| config.relogin = Relogin::KeepOld);
    let first = log_in(&mut server, "alice");
    let second = asking(&mut server, "alice");
    say(&mut server, second, Verdict::Accept);
    server.closed_with(second, 1509);
    assert_eq!(server.core.conn_of(&user("alice")), Some(first));
    server.silent(first);
}

// The way of a frame.

#[test]
fn a_frame_arrives_byte_for_byte() {
    // From docs/PROTOCOL.md, section 11.
    let hi = b"\0\0\0\x1A\x10\x01\x03\x05\0\0\0\x07\0\0\0\0\0\0\0\x2Abobalicehi";
    let ack = b"\0\0\0\x18\x11\0\x05\x03\0\0\0\0\0\0\0\0\0\0\0\x2Aalicebob";
    for size in [1, 3, 19, 20, 21, 29, 1000] {
        let mut server = alone();
        let alice = log_in(&mut server, "alice");
        let bob = log_in(&mut server, "bob");
        hi.chunks(size).for_each(|part| server.feed(alice, part));
        assert_eq!(server.wire(bob).got, hi, "in parts of {size}");
        ack.chunks(size).for_each(|part| server.feed(bob, part));
        assert_eq!(server.wire(alice).got, ack, "in parts of {size}");
        assert_eq!(server.core.counters().forwarded, 2);
    }
}

#[test]
fn all_that_the_application_uses_passes_untouched() {
    let frames = [
        Raw::of(DATA).flags(0x17).info(u32::MAX).id(u64::MAX).to("bob").from("alice").body([0xFF; 300]),
        Raw::of(QUERY).flags(0x02).info(1).id(2).to("bob").from("alice"),
        Raw::of(REPLY).flags(0x0A).info(3).id(4).to("bob").from("alice").body("x"),
        Raw::of(ACK).info(5).id(6).to("bob").from("alice").body("a body that an ACK need not have"),
    ];
    let mut server = alone();
    let alice = log_in(&mut server, "alice");
    let bob = log_in(&mut server, "bob");
    let bytes: Vec<u8> = frames.iter().flat_map(Raw::bytes).collect();
    server.feed(alice, &bytes);
    assert_eq!(server.wire(bob).got, bytes);
}

#[test]
fn a_frame_of_a_mebibyte_in_many_reads() {
    let mut server = alone();
    let alice = log_in(&mut server, "alice");
    let bob = log_in(&mut server, "bob");
    let body: Vec<u8> = (0..1_000_000u32).map(|n| (n % 251) as u8).collect();
    let bytes = data("alice", "bob", 1).body(&body).bytes();
    for part in [&bytes[..100], &bytes[100..70_000], &bytes[70_000..70_001], &bytes[70_001..600_000], &bytes[600_000..]]
    {
        server.feed(alice, part);
    }
    assert!(server.wire(bob).got == bytes);
}

#[test]
fn alone_an_unknown_user_is_offline() {
    let mut server = alone();
    let alice = log_in(&mut server, "alice");
    server.feed(alice, b"\0\0\0\x1C\x10\0\x05\x05\0\0\0\x07\0\0\0\0\0\0\0\x2Bcarolalicehi");
    let bounce = b"\0\0\0\x1A\x12\0\x05\x05\0\0\0\x01\0\0\0\0\0\0\0\x2Balicecarol";
    assert_eq!(server.wire(alice).got, bounce);
    assert_eq!(server.core.counters().bounced[0], 1);
}

#[test]
fn what_is_no_message_is_not_bounced() {
    let mut server = alone();
    let alice = log_in(&mut server, "alice");
    server.put(alice, Raw::of(ACK).id(1).to("carol").from("alice"));
    server.put(alice, Raw::of(REPLY).id(1).to("carol").from("alice"));
    server.silent(alice);
    assert_eq!(server.core.counters().dropped_unroutable, 2);
}

#[test]
fn a_to_that_is_no_id_is_a_fault() {
    let mut server = alone();
    let alice = log_in(&mut server, "alice");
    server.put(alice, data("alice", "car\x07l", 3));
    assert_eq!(server.frame(alice).info, 1505);
}

#[test]
fn what_goes_up_goes_byte_for_byte() {
    let (mut server, up) = joined();
    let (alice, _) = log_in_through(&mut server, up, "alice");
    let frames = [
        data("alice", "zoe", 1),
        Raw::of(QUERY).id(2).to("zoe").from("alice"),
        Raw::of(REPLY).flags(ERROR).id(3).to("zoe").from("alice").body("no"),
        Raw::of(ACK).id(4).to("zoe").from("alice"),
    ];
    let bytes: Vec<u8> = frames.iter().flat_map(Raw::bytes).collect();
    for byte in &bytes {
        server.feed(alice, [*byte]);
    }
    assert_eq!(server.wire(up).got, bytes);
    server.silent(alice);
}

#[test]
fn what_comes_down_goes_to_its_user() {
    let (mut server, up) = joined();
    let (alice, _) = log_in_through(&mut server, up, "alice");
    let bytes: Vec<u8> = [
        data("zoe", "alice", 1),
        Raw::of(BOUNCE).info(3).id(2).to("alice").from("carol"),
        Raw::of(ACK).id(3).to("alice").from("zoe"),
        data("", "alice", 0x0002_0000_0000_0001),
    ]
    .iter()
    .flat_map(Raw::bytes)
    .collect();
    server.feed(up, &bytes);
    assert_eq!(server.wire(alice).got, bytes);
    server.silent(up);
}

#[test]
fn what_comes_down_for_nobody_is_bounced_and_never_relayed_back() {
    let (mut server, up) = joined();
    server.put(up, data("zoe", "gone", 9));
    assert_eq!(server.frame(up), Raw::of(BOUNCE).info(1).id(9).to("zoe").from("gone"));
    server.put(up, data("", "gone", 0x0002_0000_0000_0001));
    assert_eq!(server.frame(up), Raw::of(BOUNCE).info(1).id(0x0002_0000_0000_0001).from("gone"));
    server.put(up, Raw::of(ACK).id(9).to("gone").from("zoe"));
    server.silent(up);
    assert_eq!(server.core.counters().forwarded, 0);
}

#[test]
fn answers_to_servers_go_to_the_server_in_the_id() {
    let (mut server, up) = joined_with(|config| config.takes_queries = true);
    let (alice, _) = log_in_through(&mut server, up, "alice");
    let id = server.core.send(server.now, &user("alice"), Flags::WANT_ACK, 1, b"x", None).expect("sent");
    assert_eq!(id, 0x0001_0000_0200_0001, "server 1, incarnation 2, its first");
    server.turn();
    assert_eq!(server.frame(alice), Raw::of(DATA).flags(WANT_ACK).info(1).id(id).to("alice").body("x"));
    server.put(alice, Raw::of(ACK).id(id).from("alice"));
    let outcomes: Vec<Event> = events(&mut server);
    assert!(matches!(outcomes.last(), Some(Event::Outcome { id: at, outcome: Outcome::Acked }) if *at == id));
    let foreign = Raw::of(ACK).id(0x0002_0000_0000_0007).from("alice");
    server.put(alice, foreign.clone());
    assert_eq!(server.frame(up), foreign, "another server's message is acknowledged through the ACMS");
    server.put(up, Raw::of(REPLY).id(0x0003_0000_0000_0001).from("zoe"));
    assert_eq!(server.core.counters().dropped_unroutable, 1, "an answer for another server does not belong here");
}

#[test]
fn a_query_of_the_servers_own_is_resolved_once() {
    let mut server = alone();
    let alice = log_in(&mut server, "alice");
    let ends = server.now + Span::from_secs(2);
    let ask = |server: &mut Server| {
        let id = server.core.send(server.now, &user("alice"), Flags::NONE, 1, b"?", Some(ends)).expect("sent");
        server.turn();
        assert_eq!(server.frame(alice).kind, QUERY);
        events(server);
        id
    };
    let replied = ask(&mut server);
    server.put(alice, Raw::of(REPLY).info(4).id(replied).from("alice").body("!"));
    server.put(alice, Raw::of(REPLY).info(4).id(replied).from("alice").body("again"));
    assert!(matches!(
        &events(&mut server)[..],
        [Event::Outcome { id, outcome: Outcome::Replied { info_type: 4, failed: false, body } }]
            if *id == replied && &body[..] == b"!"
    ));
    let unanswered = ask(&mut server);
    server.pass_ms(2_100);
    assert!(matches!(
        &events(&mut server)[..],
        [Event::Outcome { id, outcome: Outcome::TimedOut }] if *id == unanswered
    ));
}

/// Ids of servers can be guessed: who was not asked must not be able to end the question.
#[test]
fn nobody_else_resolves_a_query() {
    let mut server = alone();
    let alice = log_in(&mut server, "alice");
    let mallory = log_in(&mut server, "mallory");
    let ends = server.now + Span::from_secs(2);
    let id = server.core.send(server.now, &user("alice"), Flags::NONE, 1, b"?", Some(ends)).expect("sent");
    server.turn();
    events(&mut server);
    server.put(mallory, Raw::of(REPLY).id(id).from("mallory").body("lies"));
    server.put(mallory, Raw::of(ACK).id(id).from("mallory"));
    server.put(alice, Raw::of(REPLY).id(id).from("alice").body("truth"));
    let outcomes: Vec<Outcome> = events(&mut server)
        .into_iter()
        .filter_map(|event| match event {
            Event::Outcome { outcome, .. } => Some(outcome),
            _ => None,
        })
        .collect();
    assert!(
        matches!(&outcomes[..], [Outcome::Replied { body, .. }] if &body[..] == b"truth"),
        "resolved as {outcomes:?}"
    );
}

fn inbox(server: &mut Server) -> Inbox {
    match events(server).pop() {
        Some(Event::Message(inbox) | Event::Query(inbox)) => inbox,
        other => panic!("a message was to come, not {other:?}"),
    }
}

#[test]
fn messages_to_the_server_itself() {
    let mut server = alone_with(|config| {
        config.takes_messages = true;
        config.takes_queries = true;
    });
    let alice = log_in(&mut server, "alice");
    server.put(alice, data("alice", "", 5).flags(WANT_ACK));
    server.silent(alice);
    let message = inbox(&mut server);
    assert_eq!(&message.body[..], b"hi");
    server.core.acknowledge(server.now, &message.reference());
    server.turn();
    assert_eq!(server.frame(alice), Raw::of(ACK).id(5).to("alice"), "once it is taken");
    server.put(alice, data("alice", "", 5).flags(WANT_ACK | RETRY));
    assert_eq!(server.frame(alice), Raw::of(ACK).id(5).to("alice"), "acknowledged again");
    assert!(events(&mut server).is_empty(), "and handed over once");
    server.put(alice, Raw::of(QUERY).info(2).id(6).from("alice").body("?"));
    let query = inbox(&mut server).reference();
    server.core.reply(server.now, &query, Flags::NONE, 9, b"!");
    server.turn();
    assert_eq!(server.frame(alice), Raw::of(REPLY).info(9).id(6).to("alice").body("!"));
}

#[test]
fn a_message_that_found_the_application_busy_is_handed_over_when_it_comes_again() {
    let mut server = alone_with(|config| config.takes_messages = true);
    let alice = log_in(&mut server, "alice");
    server.put(alice, data("alice", "", 5).flags(WANT_ACK));
    let message = inbox(&mut server).reference();
    server.core.refuse(server.now, &message, Bounce::Busy);
    server.turn();
    assert_eq!(server.frame(alice), Raw::of(BOUNCE).info(4).id(5).to("alice"));
    server.put(alice, data("alice", "", 5).flags(WANT_ACK | RETRY));
    assert_eq!(inbox(&mut server).id, 5);
    server.put(alice, data("alice", "", 5).flags(WANT_ACK | RETRY));
    assert_eq!(server.frame(alice), Raw::of(ACK).id(5).to("alice"));
    assert!(events(&mut server).is_empty(), "this time it was taken");
}

#[test]
fn a_handler_may_say_no() {
    let mut server = alone_with(|config| config.takes_messages = true);
    let alice = log_in(&mut server, "alice");
    server.put(alice, data("alice", "", 5));
    let message = inbox(&mut server).reference();
    server.core.refuse(server.now, &message, Bounce::Denied);
    server.turn();
    assert_eq!(server.frame(alice), Raw::of(BOUNCE).info(5).id(5).to("alice"));
}

#[test]
fn without_a_handler_there_is_a_bounce() {
    let mut server = alone();
    let alice = log_in(&mut server, "alice");
    for kind in [DATA, QUERY] {
        server.put(alice, Raw::of(kind).id(5).from("alice"));
        assert_eq!(server.frame(alice), Raw::of(BOUNCE).info(7).id(5).to("alice"));
    }
}

#[test]
fn a_frame_larger_than_this_server_takes_bounces() {
    let (mut server, up) = joined_with(|config| config.max_frame = 4096);
    let (alice, _) = log_in_through(&mut server, up, "alice");
    server.put(up, data("zoe", "alice", 1).body(vec![0; 4096 - 16 - 8]));
    assert_eq!(server.frame(alice).body.len(), 4096 - 16 - 8);
    server.put(up, data("zoe", "alice", 2).body(vec![0; 4096 - 16 - 7]));
    server.silent(alice);
    assert_eq!(server.frame(up), Raw::of(BOUNCE).info(6).id(2).to("zoe").from("alice"));
}

// Backpressure.

#[test]
fn a_slow_reader_is_not_read_from_until_it_has_caught_up() {
    let mut server = alone();
    let alice = log_in(&mut server, "alice");
    let bob = log_in(&mut server, "bob");
    server.stall(alice);
    server.put(bob, data("bob", "alice", 1).body(vec![0; 60 * KIB]));
    assert!(server.reads(alice), "below the soft bound");
    server.put(bob, data("bob", "alice", 2).body(vec![0; 10 * KIB]));
    assert!(!server.reads(alice), "above the soft bound");
    assert!(server.reads(bob), "the sender is not held up by one receiver");
    server.take(alice, 37 * KIB);
    assert!(!server.reads(alice), "half of the soft bound is not reached");
    server.take(alice, 2 * KIB);
    assert!(server.reads(alice));
    server.unstall(alice);
    assert_eq!(server.frames(alice).len(), 2);
}

#[test]
fn not_being_read_from_is_not_silence() {
    let mut server = alone();
    let alice = log_in(&mut server, "alice");
    let bob = log_in(&mut server, "bob");
    server.stall(alice);
    server.put(bob, data("bob", "alice", 1).body(vec![0; 500 * KIB]));
    for _ in 0..80 {
        server.take(alice, KIB);
        server.put(bob, Raw::of(PONG));
        server.pass_ms(500);
    }
    assert!(!server.reads(alice));
    assert!(server.core.conn_of(&user("alice")).is_some(), "it takes what it gets, slowly");
}

#[test]
fn a_full_receiver_bounces_busy() {
    let mut server = alone();
    let alice = log_in(&mut server, "alice");
    let bob = log_in(&mut server, "bob");
    server.stall(alice);
    let big = |id| data("bob", "alice", id).body(vec![0; (1 << 20) - 24]);
    server.put(bob, big(1));
    server.silent(bob);
    server.put(bob, data("bob", "alice", 2));
    assert_eq!(server.frame(bob), Raw::of(BOUNCE).info(4).id(2).to("bob").from("alice"));
    server.put(bob, Raw::of(ACK).id(3).to("alice").from("bob"));
    server.silent(bob);
    assert_eq!(server.core.counters().dropped_unroutable, 1);
    server.unstall(alice);
    assert!(server.frame(alice) == big(1));
    server.put(bob, data("bob", "alice", 4));
    assert_eq!(server.frame(alice).id, 4);
}

#[test]
fn ten_thousand_senders_to_one_who_reads_nothing_fill_one_queue() {
    const SENDERS: usize = 10_000;
    let mut server = alone();
    let receiver = log_in(&mut server, "receiver");
    server.stall(receiver);
    let senders: Vec<(ConnId, String)> = (0..SENDERS)
        .map(|number| {
            let name = format!("s{number:04}");
            (log_in(&mut server, &name), name)
        })
        .collect();
    let message = |name: &str, id: u64| data(name, "receiver", id).body([b'x'; 1_000]);
    let fits = ((1 << 20) + 4) / message("s0000", 1).bytes().len();
    for id in 1..=3 {
        for (place, (conn, name)) in senders.iter().enumerate() {
            server.put(*conn, message(name, id));
            if id == 1 && place < fits {
                server.silent(*conn);
            } else {
                assert_eq!(server.frame(*conn), Raw::of(BOUNCE).info(4).id(id).to(name).from("receiver"));
            }
        }
    }
    let queued: usize = server.core.links().iter().map(|(_, link)| link.queue().len()).sum();
    assert!(queued <= (1 << 20) + 4, "{queued} bytes wait");
    assert_eq!(server.core.counters().bounced[3], (3 * SENDERS - fits) as u64);
    server.unstall(receiver);
    assert_eq!(server.frames(receiver).len(), fits);
}

#[test]
fn who_reads_nothing_and_asks_for_bounces_is_not_read_from() {
    let mut server = alone();
    let alice = log_in(&mut server, "alice");
    server.stall(alice);
    // A BOUNCE from `nobody` to `alice` has 31 bytes.
    let until_soft_bound = (64 * KIB).div_ceil(31);
    for number in 0..until_soft_bound {
        assert!(server.reads(alice), "not read from after {number} bounces");
        server.put(alice, data("alice", "nobody", number as u64));
    }
    assert!(!server.reads(alice), "64 KiB of bounces wait");
    server.unstall(alice);
    assert!(server.reads(alice));
    assert_eq!(server.frames(alice).len(), until_soft_bound, "none was lost");
}

#[test]
fn what_may_be_dropped_is_dropped_behind_a_slow_reader_and_counted() {
    let mut server = alone();
    let alice = log_in(&mut server, "alice");
    let bob = log_in(&mut server, "bob");
    server.stall(alice);
    server.put(bob, data("bob", "alice", 1).flags(DROPPABLE));
    server.put(bob, data("bob", "alice", 2).body(vec![0; 70 * KIB]));
    server.put(bob, data("bob", "alice", 3).flags(DROPPABLE));
    server.put(bob, data("bob", "alice", 4));
    server.silent(bob);
    assert_eq!(server.core.counters().dropped_droppable, 1);
    server.unstall(alice);
    let ids: Vec<u64> = server.frames(alice).iter().map(|frame| frame.id).collect();
    assert_eq!(ids, [1, 2, 4]);
}

/// The other side of the cluster is told of what does not fit, and of nothing that may be dropped.
#[test]
fn what_another_servers_user_sends_is_dropped_behind_a_slow_reader_where_it_may_be() {
    let (mut server, up) = joined();
    let (alice, _) = log_in_through(&mut server, up, "alice");
    server.stall(alice);
    server.put(up, data("zoe", "alice", 1).flags(DROPPABLE));
    server.put(up, data("zoe", "alice", 2).body(vec![0; 70 * KIB]));
    server.put(up, data("zoe", "alice", 3).flags(DROPPABLE));
    server.put(up, data("", "alice", 4).flags(DROPPABLE));
    server.put(up, data("zoe", "alice", 5));
    server.silent(up);
    assert_eq!(server.core.counters().dropped_droppable, 2);
    server.put(up, data("zoe", "alice", 6).body(vec![0; 1_000_000]));
    assert_eq!(server.frame(up), Raw::of(BOUNCE).info(4).id(6).to("zoe").from("alice"));
    server.put(up, data("zoe", "alice", 7).flags(DROPPABLE));
    server.silent(up);
    assert_eq!((server.core.counters().dropped_droppable, server.core.counters().bounced[3]), (3, 1));
    server.unstall(alice);
    let ids: Vec<u64> = server.frames(alice).iter().map(|frame| frame.id).collect();
    assert_eq!(ids, [1, 2, 5]);
    server.put(up, data("zoe", "alice", 8).flags(DROPPABLE));
    assert_eq!(server.frame(alice), data("zoe", "alice", 8).flags(DROPPABLE), "who has caught up gets all again");
}

#[test]
fn a_full_uplink_pauses_those_who_fill_it() {
    let (mut server, up) = joined();
    let (alice, _) = log_in_through(&mut server, up, "alice");
    let (bob, _) = log_in_through(&mut server, up, "bob");
    let (carol, _) = log_in_through(&mut server, up, "carol");
    server.stall(up);
    let big = |from: &str| data(from, "zoe", 1).body(vec![0; 1_000_000]);
    server.put(alice, big("alice"));
    server.put(alice, big("alice"));
    assert!(server.reads(alice));
    server.put(alice, big("alice"));
    assert!(!server.reads(alice), "2 MiB wait");
    assert!(server.reads(bob));
    server.put(bob, data("bob", "zoe", 2));
    assert!(!server.reads(bob), "it would add to them");
    server.put(carol, data("carol", "alice", 3));
    assert!(server.reads(carol), "its frames go elsewhere");
    assert_eq!(server.frame(alice).id, 3);
    server.feed_unread(bob, data("bob", "zoe", 4).flags(DROPPABLE).bytes());
    assert_eq!(server.core.counters().dropped_droppable, 1);
    server.take(up, 1_900_000);
    assert!(!server.reads(alice) && !server.reads(bob));
    server.take(up, 100_000);
    assert!(server.reads(alice) && server.reads(bob));
    server.unstall(up);
    assert_eq!(server.frames(up).len(), 4, "nothing was lost");
    server.silent(bob);
}

#[test]
fn who_waits_for_the_link_is_heard_again_when_it_dies() {
    let (mut server, up) = joined();
    let (alice, _) = log_in_through(&mut server, up, "alice");
    server.stall(up);
    for _ in 0..3 {
        server.put(alice, data("alice", "zoe", 1).body(vec![0; 1_000_000]));
    }
    assert!(!server.reads(alice));
    server.reset(up);
    assert!(server.reads(alice));
}

#[test]
fn who_waits_for_the_link_and_does_not_read_waits_for_both() {
    let (mut server, up) = joined();
    let (alice, _) = log_in_through(&mut server, up, "alice");
    let (bob, _) = log_in_through(&mut server, up, "bob");
    server.stall(up);
    server.stall(alice);
    server.put(alice, data("alice", "zoe", 1).body(vec![0; 1_000_000]));
    server.put(alice, data("alice", "zoe", 1).body(vec![0; 1_000_000]));
    server.put(alice, data("alice", "zoe", 1).body(vec![0; 1_000_000]));
    server.put(bob, data("bob", "alice", 2).body(vec![0; 70 * KIB]));
    server.unstall(up);
    assert!(!server.reads(alice), "it takes nothing itself");
    server.unstall(alice);
    assert!(server.reads(alice));
}

#[test]
fn who_has_caught_up_and_waits_for_the_link_still_waits() {
    let (mut server, up) = joined();
    let (alice, _) = log_in_through(&mut server, up, "alice");
    let (bob, _) = log_in_through(&mut server, up, "bob");
    server.stall(up);
    server.stall(alice);
    for _ in 0..3 {
        server.put(alice, data("alice", "zoe", 1).body(vec![0; 1_000_000]));
    }
    server.put(bob, data("bob", "alice", 2).body(vec![0; 70 * KIB]));
    server.unstall(alice);
    assert!(!server.reads(alice), "the link has no room");
    server.unstall(up);
    assert!(server.reads(alice));
}

/// What a full link cannot take of bounces is lost and counted; it is no reason to lose the link, and all users with it.
#[test]
fn bounces_that_find_no_room_on_the_link_do_not_end_it() {
    let (mut server, up) = joined();
    server.stall(up);
    while server.core.send(server.now, &user("zoe"), Flags::NONE, 0, &[0; 1_000_000], None).is_ok() {}
    let full = server.core.links().get(up).expect("it stands").queue().len();
    for id in 0..20_000 {
        server.put(up, data("zoe", &"n".repeat(64), id));
    }
    assert!(server.core.cluster_is_up());
    assert!(server.core.counters().dropped_bounces > 0);
    let queued = server.core.links().get(up).expect("it stands").queue().len();
    assert!(queued > full && queued <= (16 << 20) + 128 * KIB, "half of the reserve is for other frames");
    assert!(server.core.kick(server.now, &user("zoe"), ""));
}

/// The link fills in the midst of a change from one session of a user to the next, while a third is claimed.
#[test]
fn a_link_that_overflows_between_two_sessions_of_a_user_leaves_one() {
    let (mut server, up) = joined();
    let name = "u".repeat(64);
    let (first, _) = log_in_through(&mut server, up, &name);
    let (second, session) = claiming(&mut server, up, &name);
    let (third, _) = claiming(&mut server, up, &name);
    server.stall(up);
    while server.core.send(server.now, &user("zoe"), Flags::NONE, 0, &[0; 1_000_000], None).is_ok() {}
    let room = |server: &mut Server| {
        let queued = server.core.links().get(up).expect("it stands").queue().len();
        (16 << 20) + 256 * KIB - queued
    };
    while room(&mut server) >= 84 {
        assert!(server.core.kick(server.now, &user(&"z".repeat(64)), ""));
    }
    server.put(up, Raw::of(CLAIMED).to(&name).id(session));
    assert!(!server.core.cluster_is_up(), "an UNBIND of 84 bytes does not fit");
    server.closed_with(first, 1508);
    assert_eq!(server.next(second).kind, WELCOME);
    server.closed_with(second, 1508);
    assert_eq!(server.frame(third).kind, WELCOME);
    assert_eq!(server.core.conn_of(&user(&name)), Some(third));
    server.reset(third);
    assert_eq!(server.core.users_online(), 0);
}

#[test]
fn an_answer_to_a_message_of_an_earlier_start_answers_no_other() {
    let ids: Vec<u64> = [0x0187_0000_0005, 0x0187_0000_0006]
        .into_iter()
        .map(|incarnation| {
            let (mut server, up) = joined_with(|config| config.incarnation = incarnation);
            let ends = Some(server.now + Span::from_secs(5));
            let id = server.core.send(server.now, &user("zoe"), Flags::NONE, 1, b"x", ends).expect("sent");
            server.turn();
            events(&mut server);
            server.put(up, Raw::of(REPLY).id(0x0001_0000_0500_0001).from("zoe"));
            let answered = events(&mut server).iter().any(|event| matches!(event, Event::Outcome { .. }));
            assert_eq!(answered, incarnation == 0x0187_0000_0005);
            id
        })
        .collect();
    assert_eq!(ids, [0x0001_0000_0500_0001, 0x0001_0000_0600_0001]);
}

// The cluster: claims.

#[test]
fn welcome_waits_for_the_claim() {
    let (mut server, up) = joined();
    let conn = asking(&mut server, "alice");
    say(&mut server, conn, Verdict::Accept);
    assert_eq!(server.wire(up).got, b"\0\0\0\x1D\x84\0\0\x05\0\0\0\0\0\0\0\0\0\0\0\x01alice\0\0\0\0\0\0\0\0");
    server.frames(up);
    server.silent(conn);
    assert_eq!(server.core.users_online(), 0);
    server.put(up, data("zoe", "alice", 1));
    server.silent(conn);
    assert_eq!(server.frame(up).kind, BOUNCE, "nothing reaches a user that is not in");
    server.feed(up, b"\0\0\0\x15\x85\0\x05\0\0\0\0\0\0\0\0\0\0\0\0\x01alice");
    let welcome = server.frame(conn);
    assert_eq!(welcome.kind, WELCOME);
    let body = r#"{"server":1,"session":"1-2-1","heartbeat_ms":10000,"max_frame":1048576,"cluster":"up"}"#;
    assert_eq!(welcome.text(), body);
}

/// What went up for a user whose claim is under way would come back behind what is delivered here meanwhile.
#[test]
fn a_message_to_a_user_whose_claim_is_open_is_to_be_sent_again() {
    let (mut server, up) = joined();
    let (bob, _) = log_in_through(&mut server, up, "bob");
    let (alice, session) = claiming(&mut server, up, "alice");
    server.put(bob, data("bob", "alice", 1));
    assert_eq!(server.frame(bob), Raw::of(BOUNCE).info(3).id(1).to("bob").from("alice"));
    let own = server.core.send(server.now, &user("alice"), Flags::NONE, 7, b"hi", None);
    assert_eq!(own, Err(Bounce::Retry));
    server.turn();
    server.silent(up);
    server.silent(alice);
    server.put(up, Raw::of(CLAIMED).to("alice").id(session));
    assert_eq!(server.frame(alice).kind, WELCOME);
    assert_eq!(server.frame(up), confirmation(session, 0, "alice"));
    server.put(bob, data("bob", "alice", 2));
    assert_eq!(server.frame(alice), data("bob", "alice", 2));
    server.silent(up);
    server.silent(bob);
}

#[test]
fn a_claim_names_the_policy() {
    for (relogin, info) in [(Relogin::ReplaceOld, 0), (Relogin::KeepOld, 1)] {
        let (mut server, up) = joined_with(|config| config.relogin = relogin);
        let conn = asking(&mut server, "alice");
        say(&mut server, conn, Verdict::Accept);
        assert_eq!(server.frame(up), Raw::of(CLAIM).info(info).id(1).from("alice").body([0; 8]));
    }
}

/// A login is as old as its LOGIN: neither a slow check nor a slow cluster makes it a newer one.
#[test]
fn a_claim_and_its_confirmation_tell_the_logins_age() {
    let (mut server, up) = joined();
    let conn = asking(&mut server, "alice");
    server.pass_ms(300);
    server.frames(up);
    say(&mut server, conn, Verdict::Accept);
    assert_eq!(server.frame(up), Raw::of(CLAIM).id(1).from("alice").body(b"\0\0\0\0\0\0\x01\x2C"));
    server.pass_ms(400);
    server.put(up, Raw::of(CLAIMED).to("alice").id(1));
    assert_eq!(server.frame(up), Raw::of(BIND).body(b"\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\x02\xBC\x05alice"));
}

#[test]
fn a_claim_refused_closes_the_newer_login() {
    let (mut server, up) = joined_with(|config| config.relogin = Relogin::KeepOld);
    let (first, _) = log_in_through(&mut server, up, "alice");
    let (second, session) = claiming(&mut server, up, "alice");
    server.put(up, Raw::of(CLAIMED).info(1509).to("alice").id(session));
    server.closed_with(second, 1509);
    server.silent(first);
    assert_eq!(server.core.conn_of(&user("alice")), Some(first));
}

#[test]
fn a_claim_taken_closes_the_older_login_here() {
    let (mut server, up) = joined();
    let mut told = Told::default();
    let (first, one) = log_in_through(&mut server, up, "alice");
    told.hear(&[confirmation(one, 0, "alice")]);
    let (_, two) = claiming(&mut server, up, "alice");
    server.silent(first);
    server.put(up, Raw::of(CLAIMED).to("alice").id(two));
    server.closed_with(first, 1508);
    told.hear(&server.frames(up));
    told.knows(&[("alice", two)]);
}

/// Whatever happens to the newer login, the ACMS must end up with the session that is online.
#[test]
fn a_login_given_up_before_its_claim_is_answered_leaves_the_older_one_bound() {
    let (mut server, up) = joined();
    let mut told = Told::default();
    let (_first, one) = log_in_through(&mut server, up, "alice");
    told.hear(&[confirmation(one, 0, "alice")]);
    let (second, two) = claiming(&mut server, up, "alice");
    server.reset(second);
    told.hear(&server.frames(up));
    server.put(up, Raw::of(CLAIMED).to("alice").id(two));
    told.hear(&server.frames(up));
    let online = server.core.conn_of(&user("alice")).map(|_| ("alice", one));
    told.knows(online.as_slice());
}

#[test]
fn a_login_given_up_before_its_claim_is_answered_is_unbound() {
    let (mut server, up) = joined();
    let (conn, session) = claiming(&mut server, up, "alice");
    server.reset(conn);
    assert_eq!(server.frame(up), Raw::of(UNBIND).info(1003).id(session).from("alice"));
    server.put(up, Raw::of(CLAIMED).to("alice").id(session));
    server.silent(up);
    assert_eq!(server.core.users_online(), 0);
}

#[test]
fn a_session_that_ends_is_unbound() {
    let (mut server, up) = joined();
    let (conn, session) = log_in_through(&mut server, up, "alice");
    server.end(conn, End::Eof);
    assert_eq!(server.frame(up), Raw::of(UNBIND).id(session).from("alice"));
}

#[test]
fn a_kick_ends_that_exact_session_and_no_other() {
    let (mut server, up) = joined();
    let (alice, session) = log_in_through(&mut server, up, "alice");
    server.put(up, Raw::of(KICK).info(1508).to("alice").id(session - 1));
    server.put(up, Raw::of(KICK).info(1508).to("alice").id(session + 1));
    server.put(up, Raw::of(KICK).info(1508).to("bob").id(session));
    server.silent(alice);
    server.put(up, Raw::of(KICK).info(1508).to("alice").id(session));
    server.closed_with(alice, 1508);
    assert_eq!(server.frame(up), Raw::of(UNBIND).id(session).from("alice"));
    let (alice, session) = log_in_through(&mut server, up, "bob");
    server.put(up, Raw::of(KICK).info(1510).to("bob").id(session));
    server.closed_with(alice, 1510);
}

// The cluster: cut off.

#[test]
fn cut_off_it_goes_on_serving_its_own() {
    let mut server = dialling_with(|_| {});
    let alice = asking(&mut server, "alice");
    say(&mut server, alice, Verdict::Accept);
    assert!(server.frame(alice).text().contains(r#""cluster":"down""#));
    let bob = log_in(&mut server, "bob");
    server.put(alice, data("alice", "bob", 1));
    assert_eq!(server.frame(bob), data("alice", "bob", 1));
}

#[test]
fn cut_off_what_goes_up_is_unreachable() {
    let mut server = dialling_with(|_| {});
    let alice = log_in(&mut server, "alice");
    server.put(alice, data("alice", "zoe", 1));
    assert_eq!(server.frame(alice), Raw::of(BOUNCE).info(2).id(1).to("alice").from("zoe"));
    assert_eq!(server.core.counters().bounced[1], 1);
    assert_eq!(server.core.send(server.now, &user("zoe"), Flags::NONE, 0, b"", None), Err(Bounce::Unreachable));
}

#[test]
fn cut_off_and_told_to_it_refuses_new_logins() {
    let (mut server, up) = joined_with(|config| config.cut_off = CutOff::RefuseNew);
    let (alice, _) = log_in_through(&mut server, up, "alice");
    server.reset(up);
    let bob = asking(&mut server, "bob");
    say(&mut server, bob, Verdict::Accept);
    server.closed_with(bob, 1008);
    server.silent(alice);
    assert_eq!(server.core.users_online(), 1);
}

#[test]
fn open_claims_are_settled_when_the_link_dies() {
    for (cut_off, is_in) in [(CutOff::ServeLocal, true), (CutOff::RefuseNew, false)] {
        let (mut server, up) = joined_with(|config| config.cut_off = cut_off);
        let (alice, _) = claiming(&mut server, up, "alice");
        server.reset(up);
        if is_in {
            assert!(server.frame(alice).text().contains(r#""cluster":"down""#));
        } else {
            server.closed_with(alice, 1008);
        }
        assert_eq!(server.core.users_online(), usize::from(is_in));
        assert_eq!(server.core.deadline().map(|at| at > server.now), Some(true));
    }
}

#[test]
fn an_open_claim_of_a_user_that_is_in_follows_the_policy_when_the_link_dies() {
    for (relogin, winner) in [(Relogin::ReplaceOld, 1), (Relogin::KeepOld, 0)] {
        let (mut server, up) = joined_with(|config| config.relogin = relogin);
        let (first, _) = log_in_through(&mut server, up, "alice");
        let (second, _) = claiming(&mut server, up, "alice");
        server.reset(up);
        let conns = [first, second];
        assert_eq!(server.core.conn_of(&user("alice")), Some(conns[winner]), "{relogin:?}");
        server.closed_with(conns[1 - winner], if winner == 1 { 1508 } else { 1509 });
    }
}

// The cluster: burst and digest.

#[test]
fn registration_in_bytes() {
    let mut server = dialling_with(|_| {});
    let up = server.answer_dial();
    server.wire(up).got.clear();
    let challenge = [&b"\0\0\0\x30\x80\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x03"[..], &[4; 32]].concat();
    server.feed(up, challenge);
    let got = std::mem::take(&mut server.wire(up).got);
    // PROVE: server 1, incarnation 2, cluster `demo`, a nonce, and 32 zero bytes where there is no secret.
    assert_eq!(got[..24], *b"\0\0\0\x54\x81\0\x04\0\0\0\0\x01\0\0\0\0\0\0\0\x02demo");
    assert_eq!(got[56..88], [0; 32]);
    let register = br#"{"address":"10.0.0.1:6000","capacity":1000,"previous_epoch":0,"peers":[]}"#;
    assert_eq!(got[88..108], *b"\0\0\0\x59\x82\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(got[108..], *register);
}

#[test]
fn a_second_challenge_is_a_fault() {
    let mut server = dialling_with(|_| {});
    let up = server.answer_dial();
    server.wire(up).got.clear();
    server.put(up, Raw::of(CHALLENGE).id(3).body([4; 32]));
    let kinds: Vec<u8> = server.frames(up).iter().map(|frame| frame.kind).collect();
    assert_eq!(kinds, [PROVE, REGISTER]);
    server.put(up, Raw::of(CHALLENGE).id(3).body([5; 32]));
    server.closed_with(up, 1503);
}

#[test]
fn a_return_names_the_last_epoch_and_its_peers() {
    for (awaited, peers) in [("", "[1,2]"), (r#","awaited":[4]"#, "[1,2,4]")] {
        let (mut server, up) = joined();
        let servers = r#"{"server":1,"address":"a:1"},{"server":2,"address":"b:2"}"#;
        server.put(up, Raw::of(SERVERS).body(format!(r#"{{"servers":[{servers}]{awaited}}}"#)));
        server.reset(up);
        server.pass_ms(200);
        let up = server.answer_dial();
        server.wire(up).got.clear();
        server.put(up, Raw::of(CHALLENGE).id(4).body([4; 32]));
        let register = server.frames(up).pop().expect("REGISTER").text();
        let expected = format!(r#""previous_epoch":3,"peers":{peers}"#);
        assert!(register.contains(&expected), "{register}");
    }
}

#[test]
fn the_acms_must_prove_itself_where_there_is_a_secret() {
    for (proof, accepted) in [(true, true), (false, false)] {
        let mut server = dialling_with(|config| {
            if let Some(membership) = &mut config.cluster {
                membership.secret = b"secret".to_vec();
            }
        });
        let up = server.answer_dial();
        server.wire(up).got.clear();
        server.put(up, Raw::of(CHALLENGE).id(3).body([4; 32]));
        let frames = server.frames(up);
        let nonce = &frames[0].body[..32];
        assert_eq!(frames[0].body[32..], crate::acms::proof(b"secret", 0, "demo", 1, 2, 3, &[4; 32], nonce));
        let acms = crate::acms::proof(if proof { b"secret" } else { b"guess!" }, 1, "demo", 1, 2, 3, &[4; 32], nonce);
        server.put(up, Raw::of(REGISTERED).id(3).body(acms));
        assert_eq!(server.core.cluster_is_up(), accepted);
        if !accepted {
            server.closed_with(up, 1513);
        }
    }
}

#[test]
fn the_burst_lists_exactly_who_is_online() {
    let mut server = dialling_with(|_| {});
    let mut expected = Vec::new();
    let mut leaving = Vec::new();
    for number in 0..600u64 {
        let conn = log_in(&mut server, &format!("user{number}"));
        if number % 3 == 0 {
            leaving.push(conn)
        } else {
            expected.push((number + 1, format!("user{number}")))
        }
        if number == 299 {
            server.pass_ms(1_000);
        }
    }
    leaving.into_iter().for_each(|conn| server.reset(conn));
    asking(&mut server, "undecided");
    server.pass_ms(0);
    let up = register(&mut server);
    let frames = server.frames(up);
    assert_eq!(frames.first(), Some(&Raw::of(BURST_BEGIN)));
    assert_eq!(frames.last(), Some(&Raw::of(SYNCED).info(400)));
    let binds = &frames[1..frames.len() - 1];
    assert!(binds.iter().all(|frame| frame.kind == BIND));
    let mut bound: Vec<(u64, u64, String)> = binds.iter().flat_map(|frame| entries(&frame.body)).collect();
    bound.sort_unstable();
    let now = server.now;
    for (session, age, user) in &bound {
        let logged_in = if *session <= 300 { START } else { START + Span::from_secs(1) };
        assert_eq!(*age, now.since(logged_in).as_millis(), "{user}");
    }
    assert!(bound.into_iter().map(|(session, _, user)| (session, user)).eq(expected));
}

#[test]
fn a_long_burst_goes_on_when_the_link_has_room() {
    let mut server = dialling_with(|_| {});
    let users = 30_000;
    for number in 0..users {
        let conn = server.accept();
        let login = Raw::of(LOGIN).from(&format!("{number:060}")).bytes();
        server.feed(conn, [&CLIENT_PREFACE[..], &login].concat());
        server.core.verdict(server.now, conn, Verdict::Accept);
    }
    server.turn();
    let up = server.answer_dial();
    server.put(up, Raw::of(CHALLENGE).id(3).body([4; 32]));
    server.stall(up);
    server.put(up, Raw::of(REGISTERED).id(3));
    let waiting = |server: &mut Server| server.core.links().get(up).map_or(0, |link| link.queue().len());
    assert!(waiting(&mut server) < (2 << 20) + 20 * KIB, "{} bytes wait", waiting(&mut server));
    server.wire(up).got.clear();
    server.unstall(up);
    let frames = server.frames(up);
    assert_eq!(frames.last(), Some(&Raw::of(SYNCED).info(users)));
    assert_eq!(frames.iter().map(|frame| entries(&frame.body).len()).sum::<usize>(), users as usize);
}

#[test]
fn resync_brings_a_new_burst() {
    let (mut server, up) = joined();
    let (_alice, session) = log_in_through(&mut server, up, "alice");
    server.pass_ms(700);
    server.put(up, Raw::of(RESYNC));
    let frames = server.frames(up);
    assert_eq!(frames[0], Raw::of(BURST_BEGIN));
    assert_eq!(entries(&frames[1].body), [(session, 700, "alice".to_owned())]);
    assert_eq!(frames[2..], [Raw::of(SYNCED).info(1)]);
}

/// RESYNC and a second login of somebody who is online meet: the ACMS must end up with the session that is.
#[test]
fn a_resync_while_a_second_login_is_claimed_loses_nobody() {
    let (mut server, up) = joined();
    let mut told = Told::default();
    log_in_through(&mut server, up, "alice");
    let (_, two) = claiming(&mut server, up, "alice");
    server.put(up, Raw::of(RESYNC));
    told.hear(&server.frames(up));
    server.put(up, Raw::of(CLAIMED).to("alice").id(two));
    told.hear(&server.frames(up));
    told.knows(&[("alice", two)]);
}

/// The claim was made before the burst, which has passed the session's place when the answer comes.
#[test]
fn a_claim_that_is_answered_amid_a_burst_is_bound() {
    let mut server = dialling_with(|_| {});
    let alice = asking(&mut server, "alice");
    let users = 1000;
    for number in 0..users {
        log_in(&mut server, &format!("{number:060}"));
    }
    let talker = log_in(&mut server, "talker");
    let up = register(&mut server);
    server.frames(up);
    say(&mut server, alice, Verdict::Accept);
    let claim = server.frame(up);
    assert_eq!((claim.kind, &claim.from[..]), (CLAIM, &b"alice"[..]));
    server.stall(up);
    // A KiB short of the soft bound: the first BIND passes it, and the burst has to wait.
    for bytes in [1 << 20, (1 << 20) - KIB] {
        server.put(talker, data("talker", "zoe", 1).body(vec![0; bytes - 20 - 9]));
    }
    server.put(up, Raw::of(RESYNC));
    server.put(up, Raw::of(CLAIMED).to("alice").id(claim.id));
    assert_eq!(server.frame(alice).kind, WELCOME);
    server.unstall(up);
    let frames = server.frames(up);
    let synced = frames.iter().filter(|frame| frame.kind == SYNCED).collect::<Vec<_>>();
    assert_eq!(synced, [&Raw::of(SYNCED).info(users + 1)], "alice's place was passed before she was in");
    let mut told = Told::default();
    told.hear(&frames);
    assert_eq!(told.sessions.get("alice"), Some(&claim.id), "nobody told the ACMS that she is online");
}

/// Under the other policy the ACMS has to hear of the older session first, or it gives the user to the newer one.
#[test]
fn a_resync_lets_no_second_login_in_where_the_first_is_kept() {
    let (mut server, up) = joined_with(|config| config.relogin = Relogin::KeepOld);
    log_in_through(&mut server, up, "alice");
    let second = asking(&mut server, "alice");
    say(&mut server, second, Verdict::Accept);
    server.frames(up);
    server.put(up, Raw::of(RESYNC));
    let kinds: Vec<u8> = server.frames(up).iter().map(|frame| frame.kind).collect();
    let place = |kind| kinds.iter().position(|at| *at == kind);
    assert!(place(CLAIM).is_none_or(|claim| place(BIND).is_some_and(|bind| bind < claim)), "{kinds:02x?}");
}

fn digest_of(incarnation: u64, sessions: &[(u64, &str)]) -> u64 {
    sessions.iter().fold(0, |digest, (session, user)| {
        let mut hasher = SipHasher13::new_with_keys(incarnation, 0);
        hasher.write(&[&session.to_be_bytes()[..], user.as_bytes()].concat());
        digest ^ hasher.finish()
    })
}

#[test]
fn the_digest_is_that_of_the_documents_example() {
    assert_eq!(digest_of(2, &[(7, "alice")]), 0xCF26_2001_866B_C867);
    let (mut server, up) = joined();
    pass_alive(&mut server, up, &[], 9);
    assert!(server.frames(up).iter().all(|frame| frame.kind == STATE));
    for number in 1..=6 {
        let (conn, session) = log_in_through(&mut server, up, &format!("user{number}"));
        assert_eq!(session, number);
        server.reset(conn);
        assert_eq!(server.frame(up).kind, UNBIND);
    }
    let (alice, _) = log_in_through(&mut server, up, "alice");
    let (bob, eight) = log_in_through(&mut server, up, "bob");
    assert_eq!(eight, 8);
    pass_alive(&mut server, up, &[], 2);
    let digest = |server: &mut Server| server.frames(up).into_iter().find(|frame| frame.kind == DIGEST);
    assert_eq!(digest(&mut server), Some(Raw::of(DIGEST).info(2).id(0xBD4A_F9DA_A209_BCD7)));
    server.reset(alice);
    pass_alive(&mut server, up, &[bob], 10);
    assert_eq!(digest(&mut server), Some(Raw::of(DIGEST).info(1).id(digest_of(2, &[(8, "bob")]))));
    server.reset(bob);
    pass_alive(&mut server, up, &[], 10);
    assert_eq!(digest(&mut server), Some(Raw::of(DIGEST)));
}

#[test]
fn the_digest_counts_those_who_came_while_cut_off_and_nobody_who_is_only_claimed() {
    let mut server = dialling_with(|_| {});
    let alice = log_in(&mut server, "alice");
    let up = register(&mut server);
    server.frames(up);
    let (bob, session) = claiming(&mut server, up, "bob");
    let digest = |server: &mut Server| {
        pass_alive(server, up, &[alice, bob], 11);
        server.frames(up).into_iter().find(|frame| frame.kind == DIGEST)
    };
    assert_eq!(digest(&mut server), Some(Raw::of(DIGEST).info(1).id(digest_of(2, &[(1, "alice")]))));
    server.put(up, Raw::of(CLAIMED).to("bob").id(session));
    let hash = digest_of(2, &[(1, "alice"), (2, "bob")]);
    assert_eq!(digest(&mut server), Some(Raw::of(DIGEST).info(2).id(hash)));
}

// The cluster: keep-alive.

#[test]
fn the_link_says_something_each_second_whatever_it_hears() {
    let (mut server, up) = joined();
    let (alice, _) = log_in_through(&mut server, up, "alice");
    server.pass_ms(900);
    server.put(alice, data("alice", "zoe", 1));
    server.put(up, Raw::of(PONG));
    assert_eq!(server.frame(up).kind, DATA);
    for _ in 0..2 {
        server.pass_ms(1_000);
        let kinds: Vec<u8> = server.frames(up).iter().map(|frame| frame.kind).collect();
        assert!(
            kinds == [STATE] || kinds == [STATE, PING],
            "what was sent counts, what was heard does not: {kinds:02x?}"
        );
        server.put(up, Raw::of(PONG));
    }
    server.put(up, Raw::of(PING).id(77));
    assert_eq!(server.frame(up), Raw::of(PONG).id(77));
}

#[test]
fn a_link_silent_for_three_seconds_is_dead_and_dialled_again() {
    let (mut server, up) = joined();
    let (alice, _) = log_in_through(&mut server, up, "alice");
    server.pass_ms(2_000);
    server.feed(up, &Raw::of(PONG).bytes()[..1]);
    server.pass_ms(2_950);
    assert!(server.core.cluster_is_up(), "any byte is life");
    server.pass_ms(70);
    assert!(!server.core.cluster_is_up());
    let last = server.frames(up).pop().expect("CLOSE");
    assert_eq!((last.kind, last.info), (CLOSE, 1003));
    assert!(matches!(
        events(&mut server).iter().rev().find_map(|event| match event {
            Event::Cluster(state) => Some(state),
            _ => None,
        }),
        Some(ClusterState::Down { gone: Gone::Closed(CloseCode::NO_HEARTBEAT), .. })
    ));
    server.silent(alice);
    server.pass_ms(150);
    assert_eq!(server.dials.len(), 1);
    let up = register(&mut server);
    let frames = server.frames(up);
    assert_eq!(entries(&frames[1].body).len(), 1, "alice is told of again");
}

#[test]
fn a_link_that_takes_nothing_does_not_wake_the_server_at_every_tick() {
    let (mut server, up) = joined();
    let (alice, _) = log_in_through(&mut server, up, "alice");
    server.stall(up);
    server.put(alice, data("alice", "zoe", 1));
    let mut wakes = 0;
    let end = server.now + Span::from_millis(2_900);
    while let Some(at) = server.core.deadline().filter(|at| *at <= end) {
        wakes += 1;
        server.now = server.now.max(at);
        server.core.expire(server.now);
        server.turn();
    }
    assert!(wakes <= 8, "{wakes} wake-ups in 2.9 s");
}

#[test]
fn redials_are_further_and_further_apart() {
    let mut server = dialling_with(|_| {});
    for failure in 0..10u32 {
        let (conn, _) = server.dials.pop().expect("a dial");
        let since = server.now;
        server.core.ended(server.now, conn, End::Failed(std::io::ErrorKind::ConnectionRefused));
        server.turn();
        while server.dials.is_empty() {
            server.pass_ms(1);
        }
        let pause = server.now.since(since).as_millis();
        let longest = (100u64 << failure.min(10)).min(5_000);
        assert!((longest / 2..=longest + 17).contains(&pause), "{pause} ms after failure {failure}");
    }
    let up = register(&mut server);
    server.reset(up);
    server.pass_ms(101);
    assert_eq!(server.dials.len(), 1, "a success begins anew");
}

#[test]
fn an_acms_that_has_no_room_is_dialled_again_when_it_said() {
    let mut server = dialling_with(|_| {});
    let up = server.answer_dial();
    server.put(up, Raw::of(CLOSE).info(1004).body(br#"{"text":"full","retry_after_ms":7000}"#));
    server.pass_ms(6_950);
    assert!(server.dials.is_empty());
    server.pass_ms(100);
    assert_eq!(server.dials.len(), 1);
    let up = server.answer_dial();
    server.reset(up);
    server.pass_ms(250);
    assert_eq!(server.dials.len(), 1, "it asked for that once");
}

#[test]
fn a_dial_without_an_answer_is_given_up() {
    let mut server = dialling_with(|_| {});
    let (first, _) = server.dials.pop().expect("a dial");
    server.pass_ms(4_900);
    assert!(server.dials.is_empty());
    server.pass_ms(300);
    assert!(server.wire(first).dropped);
    assert_eq!(server.dials.len(), 1);
}

#[test]
fn a_link_that_is_refused_for_good_is_not_dialled_again() {
    let mut server = dialling_with(|_| {});
    let up = server.answer_dial();
    server.put(up, Raw::of(CLOSE).info(1513).body("this server does not belong to the cluster"));
    assert!(matches!(
        events(&mut server).as_slice(),
        [Event::Cluster(ClusterState::Refused { code: CloseCode::NOT_A_MEMBER, .. })]
    ));
    server.pass_ms(60_000);
    assert_eq!(server.dials, []);
    let alice = log_in(&mut server, "alice");
    server.silent(alice);
}

// Questions.

fn ask(server: &mut Server, conn: ConnId, body: &str) {
    server.put(conn, Raw::of(ASK).id(45).from("alice").body(body));
}

fn answer(server: &mut Server, conn: ConnId) -> String {
    let answer = server.frame(conn);
    assert_eq!((answer.kind, answer.id, &answer.to[..], answer.from.len()), (ANSWER, 45, &b"alice"[..], 0));
    answer.text()
}

#[test]
fn questions_that_a_server_alone_can_answer() {
    let mut server = alone();
    let alice = log_in(&mut server, "alice");
    let cases = [
        (r#"{"ask":"rtt"}"#, "{}"),
        (
            r#"{"ask":"online","users":["alice","bob"]}"#,
            r#"{"users":[{"user":"alice","online":true},{"user":"bob","online":false}]}"#,
        ),
        (
            r#"{"ask":"where","users":["bob","alice"]}"#,
            r#"{"users":[{"user":"bob","online":false},{"user":"alice","online":true,"server":0}]}"#,
        ),
        (r#"{"ask":"online"}"#, "{}"),
    ];
    for (question, expected) in cases {
        ask(&mut server, alice, question);
        assert_eq!(answer(&mut server, alice), expected, "{question}");
    }
    let too_many = format!(r#"{{"ask":"online","users":[{}"x"]}}"#, r#""x","#.repeat(100));
    for question in [r#"{"ask":"weather"}"#, "no JSON", "", &too_many] {
        ask(&mut server, alice, question);
        assert!(answer(&mut server, alice).starts_with(r#"{"error":""#), "{question}");
    }
}

#[test]
fn a_question_about_who_can_be_nobody_is_answered_with_an_error() {
    let (mut member, up) = joined();
    log_in_through(&mut member, up, "alice");
    let mut lonely = alone();
    log_in(&mut lonely, "alice");
    let long = "x".repeat(65);
    for mut server in [member, lonely] {
        let alice = server.core.conn_of(&user("alice")).expect("she is in");
        for name in ["", r"bell\u0007", &long] {
            for kind in ["online", "where", "rtt"] {
                ask(&mut server, alice, &format!(r#"{{"ask":"{kind}","users":["bob","{name}"]}}"#));
                assert_eq!(answer(&mut server, alice), r#"{"error":"one of the users is no id"}"#, "{kind} {name:?}");
            }
        }
        if server.core.cluster_is_up() {
            server.silent(up);
        }
    }
}

#[test]
fn questions_that_the_acms_answers() {
    let (mut server, up) = joined();
    let (alice, _) = log_in_through(&mut server, up, "alice");
    ask(&mut server, alice, r#"{"ask":"where","users":["zoe","alice","bob","carol"]}"#);
    let lookups = server.frames(up);
    let asked: Vec<(u8, &[u8])> = lookups.iter().map(|frame| (frame.kind, &frame.to[..])).collect();
    assert_eq!(asked, [(LOOKUP, &b"zoe"[..]), (LOOKUP, b"bob"), (LOOKUP, b"carol")]);
    server.put(up, Raw::of(FOUND).info(3).id(lookups[2].id).from("carol"));
    server.put(up, Raw::of(FOUND).info(1).id(lookups[1].id).from("bob"));
    server.silent(alice);
    server.put(up, Raw::of(FOUND).id(lookups[0].id).from("zoe").body([0x01, 0x02]));
    let expected = r#"{"users":[{"user":"zoe","online":true,"server":258},{"user":"alice","online":true,"server":1},{"user":"bob","online":false},{"user":"carol","online":null}]}"#;
    assert_eq!(answer(&mut server, alice), expected);
}

#[test]
fn a_question_is_answered_after_three_seconds_with_what_is_known() {
    let (mut server, up) = joined();
    let (alice, _) = log_in_through(&mut server, up, "alice");
    ask(&mut server, alice, r#"{"ask":"online","users":["zoe","bob"]}"#);
    let lookups = server.frames(up);
    server.put(up, Raw::of(FOUND).info(1).id(lookups[1].id).from("bob"));
    for _ in 0..29 {
        server.put(up, Raw::of(PONG));
        server.pass_ms(100);
    }
    server.silent(alice);
    server.put(up, Raw::of(PONG));
    server.pass_ms(200);
    let expected = r#"{"users":[{"user":"zoe","online":null},{"user":"bob","online":false}]}"#;
    assert_eq!(answer(&mut server, alice), expected);
    server.put(up, Raw::of(FOUND).id(lookups[0].id).from("zoe").body([0, 2]));
    server.silent(alice);
}

#[test]
fn a_question_is_answered_when_the_link_dies_or_is_down() {
    let (mut server, up) = joined();
    let (alice, _) = log_in_through(&mut server, up, "alice");
    let unknown = r#"{"users":[{"user":"zoe","online":null}]}"#;
    ask(&mut server, alice, r#"{"ask":"where","users":["zoe"]}"#);
    server.silent(alice);
    server.reset(up);
    assert_eq!(answer(&mut server, alice), unknown);
    ask(&mut server, alice, r#"{"ask":"where","users":["zoe"]}"#);
    assert_eq!(answer(&mut server, alice), unknown);
}

#[test]
fn the_application_asks_too() {
    let (mut server, up) = joined();
    server.core.locate(server.now, 12, &[user("zoe")]);
    server.turn();
    let lookup = server.frame(up);
    server.put(up, Raw::of(FOUND).id(lookup.id).from("zoe").body([0, 2]));
    assert!(matches!(
        events(&mut server).last(),
        Some(Event::Located { token: 12, servers }) if servers[..] == [Ok(Some(ServerId(2)))]
    ));
}

/// No frame is longer than WELCOME says.
#[test]
fn an_answer_keeps_to_max_frame() {
    let mut server = alone_with(|config| config.max_frame = 4096);
    let alice = log_in(&mut server, "alice");
    let users: Vec<String> = (0..100).map(|number| format!(r#""{number:030}""#)).collect();
    ask(&mut server, alice, &format!(r#"{{"ask":"where","users":[{}]}}"#, users.join(",")));
    let answer = server.frame(alice);
    let length = answer.bytes().len() - 4;
    assert!(length <= 4096, "an ANSWER with a length of {length}");
}

// Drain.

/// In a cluster with servers 2 and 4, and 3, which drains.
fn joined_by_others() -> (Server, ConnId) {
    let (mut server, up) = joined();
    let one = r#"{"server":1,"address":"10.0.0.1:6000"}"#;
    let two = r#"{"server":2,"address":"10.0.0.2:6000"}"#;
    let three = r#"{"server":3,"address":"10.0.0.3:6000","draining":true}"#;
    let four = r#"{"server":4,"address":"10.0.0.4:6000"}"#;
    server.put(up, Raw::of(SERVERS).body(format!(r#"{{"servers":[{one},{two},{three},{four}]}}"#)));
    (server, up)
}

fn start_drain(server: &mut Server) {
    server.core.drain(server.now);
    server.turn();
}

/// Where the client was sent.
#[track_caller]
fn moved(server: &mut Server, conn: ConnId) -> String {
    let (code, body) = server.closed(conn);
    assert_eq!(code, 1001);
    let place =
        body.strip_prefix(r#"{"text":"the server is draining","go_to":""#).and_then(|rest| rest.strip_suffix("\"}"));
    place.unwrap_or_else(|| panic!("{body}")).to_owned()
}

#[test]
fn a_draining_server_sends_its_users_to_the_others_in_turn() {
    let (mut server, up) = joined_by_others();
    let mut clients: Vec<(ConnId, u64)> =
        (0..4).map(|number| log_in_through(&mut server, up, &format!("user{number}"))).collect();
    clients.sort_unstable_by_key(|(conn, _)| conn.index);
    start_drain(&mut server);
    let mut places = BTreeMap::new();
    for (step, (conn, session)) in clients.into_iter().enumerate() {
        *places.entry(moved(&mut server, conn)).or_insert(0) += 1;
        let mut told = server.frames(up);
        told.retain(|frame| frame.kind != STATE);
        if step == 0 {
            assert_eq!(told.remove(0), Raw::of(DRAIN));
        }
        let user = format!("user{}", session - 1);
        assert_eq!(told.remove(0), Raw::of(UNBIND).info(1001).id(session).from(&user));
        if step < 3 {
            assert!(told.is_empty(), "{told:?}");
            server.pass_ms(450);
            assert_eq!(server.core.users_online(), 3 - step, "one each half second");
            server.pass_ms(50);
        } else {
            assert_eq!(told, [Raw::of(PING).id(1)]);
        }
    }
    assert_eq!(places, BTreeMap::from([("10.0.0.2:6000".to_owned(), 2), ("10.0.0.4:6000".to_owned(), 2)]));
    assert!(!server.core.is_stopped());
    server.put(up, Raw::of(PONG).id(1));
    server.closed_with(up, 1000);
    assert!(server.core.is_stopped());
}

#[test]
fn while_a_server_drains_those_who_are_there_are_served() {
    let (mut server, up) = joined_by_others();
    let (one, _) = log_in_through(&mut server, up, "one");
    let (two, _) = log_in_through(&mut server, up, "two");
    start_drain(&mut server);
    let (gone, (stays, name)) =
        if server.core.conn_of(&user("one")).is_none() { (one, (two, "two")) } else { (two, (one, "one")) };
    let left = if name == "two" { "one" } else { "two" };
    moved(&mut server, gone);
    server.frames(up);
    server.put(up, data("zoe", name, 1));
    assert_eq!(server.frame(stays), data("zoe", name, 1));
    server.put(stays, data(name, left, 2));
    assert_eq!(server.frame(up), data(name, left, 2), "who was sent away is elsewhere");
    server.put(up, data("zoe", left, 3));
    assert_eq!(server.frame(up), Raw::of(BOUNCE).info(3).id(3).to("zoe").from(left), "and not offline");
    server.stall(stays);
    server.put(up, data("zoe", name, 4));
    server.pass_ms(1_100);
    server.unstall(stays);
    assert_eq!(server.next(stays), data("zoe", name, 4), "what was queued comes before the CLOSE");
    server.feed_unread(stays, data(name, "zoe", 5).bytes());
    moved(&mut server, stays);
    assert_eq!(server.core.counters().late_bytes, 16 + 4 + 3 + 3 + 2, "{name} sent it too late");
}

#[test]
fn logins_under_way_and_newcomers_are_sent_on_as_well() {
    let (mut server, up) = joined_by_others();
    let silent = server.accept();
    let checked = asking(&mut server, "checked");
    let (claimed, session) = claiming(&mut server, up, "claimed");
    start_drain(&mut server);
    server.frames(up);
    server.pass_ms(1_500);
    for conn in [silent, checked, claimed] {
        moved(&mut server, conn);
    }
    let told = server.frames(up);
    assert_eq!(
        told.iter().find(|frame| frame.kind == UNBIND),
        Some(&Raw::of(UNBIND).info(1001).id(session).from("claimed"))
    );
    let late = server.accept();
    moved(&mut server, late);
}

#[test]
fn where_no_other_server_is_there_a_drain_is_a_stop() {
    let servers = [
        r#"{"server":1,"address":"10.0.0.1:6000"}"#,
        r#"{"server":1,"address":"10.0.0.1:6000"},{"server":3,"address":"10.0.0.3:6000","draining":true}"#,
    ];
    for servers in servers {
        let (mut server, up) = joined();
        server.put(up, Raw::of(SERVERS).body(format!(r#"{{"servers":[{servers}]}}"#)));
        let (alice, _) = log_in_through(&mut server, up, "alice");
        start_drain(&mut server);
        server.closed_with(alice, 1000);
    }
    let mut server = alone();
    let alice = log_in(&mut server, "alice");
    start_drain(&mut server);
    server.closed_with(alice, 1000);
    assert!(server.core.is_stopped());
}

#[test]
fn a_drain_without_users_or_without_the_acms_ends() {
    let (mut server, up) = joined_by_others();
    start_drain(&mut server);
    assert_eq!(server.frames(up), [Raw::of(DRAIN), Raw::of(PING).id(1)]);
    server.reset(up);
    assert!(server.core.is_stopped());
}

#[test]
fn a_draining_server_that_comes_back_to_its_acms_says_so_again() {
    let (mut server, up) = joined_by_others();
    let (_alice, _) = log_in_through(&mut server, up, "alice");
    let (_bob, _) = log_in_through(&mut server, up, "bob");
    start_drain(&mut server);
    server.frames(up);
    server.reset(up);
    server.pass_ms(200);
    let up = server.answer_dial();
    server.wire(up).got.clear();
    server.put(up, Raw::of(CHALLENGE).id(4).body([4; 32]));
    let register = server.frames(up)[1].text();
    assert!(register.ends_with(r#","draining":true}"#), "{register}");
    server.put(up, Raw::of(REGISTERED).id(4));
    assert_eq!(server.next(up), Raw::of(DRAIN));
    assert_eq!(server.next(up), Raw::of(BURST_BEGIN));
}

#[test]
fn a_drain_takes_as_long_as_the_others_need_to_let_so_many_in() {
    let (mut server, up) = joined_with(|config| {
        config.drain = Span::from_millis(100);
        config.max_accepts_per_second = 8;
    });
    let two = r#"{"server":2,"address":"10.0.0.2:6000"}"#;
    server.put(up, Raw::of(SERVERS).body(format!(r#"{{"servers":[{two}]}}"#)));
    for number in 0..8 {
        log_in_through(&mut server, up, &format!("user{number}"));
    }
    assert_eq!(server.core.drain(server.now), Span::from_millis(2_000), "four a second");
    server.turn();
    for left in (1..8).rev() {
        assert_eq!(server.core.users_online(), left);
        server.pass_ms(240);
        assert_eq!(server.core.users_online(), left);
        server.pass_ms(10);
    }
    assert_eq!(server.core.users_online(), 0);
}

/// An ACMS that has just been started knows of few: the others are there all the same.
#[test]
fn a_drain_goes_to_those_that_a_restarted_acms_waits_for_as_well() {
    let one = r#"{"server":1,"address":"10.0.0.1:6000"}"#;
    let two = r#"{"server":2,"address":"10.0.0.22:6000"}"#;
    let both = ["10.0.0.2:6000", "10.0.0.4:6000"];
    let cases = [
        (format!(r#"{{"servers":[{one}],"awaited":[1,2,3,4]}}"#), &both[..]),
        (format!(r#"{{"servers":[{one},{two}],"awaited":[1,3,4]}}"#), &["10.0.0.22:6000", "10.0.0.4:6000"]),
        (format!(r#"{{"servers":[{one},{two}]}}"#), &["10.0.0.22:6000"]),
    ];
    for (told, expected) in cases {
        let (mut server, up) = joined_by_others();
        server.put(up, Raw::of(SERVERS).body(told));
        let clients: Vec<ConnId> =
            (0..4).map(|number| log_in_through(&mut server, up, &format!("user{number}")).0).collect();
        start_drain(&mut server);
        server.pass_ms(1_500);
        let places: BTreeSet<String> = clients.into_iter().map(|conn| moved(&mut server, conn)).collect();
        assert!(places.iter().eq(expected), "{places:?}");
    }
}

#[test]
fn a_server_that_stops_lets_nobody_in_whose_claim_was_open() {
    let (mut server, up) = joined();
    let (alice, _) = claiming(&mut server, up, "alice");
    server.core.stop(server.now);
    server.turn();
    assert_eq!(server.frame(alice).kind, CLOSE, "and no WELCOME before it");
    let logged_in = events(&mut server).into_iter().any(|event| matches!(event, Event::LoggedIn { .. }));
    assert!(!logged_in);
}

// What it says of itself.

#[test]
fn each_second_it_tells_of_its_users_its_queues_and_how_busy_it_was() {
    let (mut server, up) = joined();
    let (alice, _) = log_in_through(&mut server, up, "alice");
    log_in_through(&mut server, up, "bob");
    server.stall(alice);
    server.put(up, data("zoe", "alice", 1).body(vec![0; 492]));
    server.pass_ms(900);
    server.silent(up);
    server.core.waited(Span::from_millis(750));
    server.pass_ms(100);
    let state = r#"{"users":2,"queued_bytes":520,"busy_permille":250,"frames":1,"bytes":520}"#;
    assert_eq!(server.frame(up), Raw::of(STATE).body(state));
    server.core.waited(Span::from_millis(1_750));
    server.pass_ms(1_000);
    let idle = server.frame(up).text();
    assert!(idle.contains(r#""busy_permille":0,"#), "{idle}");
    server.pass_ms(1_000);
    let busy = server.frame(up).text();
    assert!(busy.contains(r#""busy_permille":1000,"#), "{busy}");
}
