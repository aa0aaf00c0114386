//! The client alone, at a server that is a script.
//!
//! Long for its list: every outcome of a connection, a send and a query has its own named test.

use trunkline::id::{ConnId, UserId};
use trunkline::link::End;
use trunkline::role::client::{
    Client, Config, Entrance, Event, Message, QueryFailure, Reply, SendError, SendFailure, State,
};
use trunkline::role::{Core, Gone};
use trunkline::time::{Span, Time};
use trunkline::wire::{Bounce, CloseCode, Flags, Login};

use crate::wire_peer::{
    ACK, ANSWER, ASK, BOUNCE, CLIENT_PREFACE, CLOSE, DATA, ERROR, LOGOUT, PING, PONG, QUERY, REPLY, RETRY, Raw, Seam,
    WANT_ACK, WELCOME, addr,
};

pub(crate) type Program = Seam<Client>;

pub(crate) const START: Time = Time::from_micros(1_000_000);
const SERVER: &str = "10.0.0.1:6000";

pub(crate) fn started_with(change: impl FnOnce(&mut Config)) -> Program {
    let mut config = Config {
        entrance: Entrance::Fixed(addr(SERVER)),
        user: user("alice"),
        login: Login { password: Some("secret".to_owned()), ..Login::default() },
        takes_queries: false,
        blobs: Default::default(),
        seed: [3; 32],
    };
    change(&mut config);
    Seam::new(START, Client::new(START, config))
}

pub(crate) fn started() -> Program {
    let program = started_with(|_| {});
    assert_eq!(program.dials.last().map(|(_, at)| *at), Some(addr(SERVER)));
    program
}

pub(crate) fn user(name: &str) -> UserId {
    name.parse().expect("an id")
}

fn welcome() -> Raw {
    let body = r#"{"server":1,"session":"1-2-7","heartbeat_ms":10000,"max_frame":1048576,"cluster":"up","later":[]}"#;
    Raw::of(WELCOME).to("alice").body(body)
}

/// The server takes the latest dial and the LOGIN that comes.
pub(crate) fn greet(program: &mut Program) -> ConnId {
    let conn = program.answer_dial();
    assert_eq!(program.wire(conn).got[..8], *CLIENT_PREFACE);
    program.wire(conn).got.clear();
    program.put(conn, welcome());
    assert!(program.core.is_online());
    conn
}

pub(crate) fn online_with(change: impl FnOnce(&mut Config)) -> (Program, ConnId) {
    let mut program = started_with(change);
    let conn = greet(&mut program);
    events(&mut program);
    (program, conn)
}

pub(crate) fn online() -> (Program, ConnId) {
    online_with(|_| {})
}

pub(crate) fn events(program: &mut Program) -> Vec<Event> {
    std::iter::from_fn(|| program.core.poll_event()).collect()
}

/// Time passes until the next dial: how long that took.
pub(crate) fn until_dial(program: &mut Program) -> u64 {
    let since = program.now;
    while program.dials.is_empty() {
        program.pass_ms(1);
        assert!(program.now.since(since) < Span::from_secs(60), "no dial in a minute");
    }
    program.now.since(since).as_millis()
}

fn data(from: &str, to: &str, id: u64) -> Raw {
    Raw::of(DATA).info(7).id(id).to(to).from(from).body(b"hi")
}

pub(crate) fn send_acked(program: &mut Program) -> u64 {
    let id = program.core.send_acked(program.now, user("bob"), 7, b"hi".to_vec()).expect("taken");
    program.turn();
    id
}

fn acked(id: u64) -> Raw {
    data("alice", "bob", id).flags(WANT_ACK)
}

// The session.

#[test]
fn a_login_as_in_the_documents_example() {
    let mut program = started();
    let conn = program.answer_dial();
    let login = b"\0\0\0\x2A\x01\0\0\x05\0\0\0\0\0\0\0\0\0\0\0\0alice{\"password\":\"secret\"}";
    assert_eq!(program.wire(conn).got, [&b"TRNK\0\x01\x01\0"[..], login].concat());
    assert!(!program.core.is_online());
    program.feed(conn, {
        let mut bytes = b"\0\0\0\x69\x02\0\x05\0\0\0\0\0\0\0\0\0\0\0\0\0alice".to_vec();
        bytes.extend(br#"{"server":1,"session":"1-7","heartbeat_ms":10000,"max_frame":1048576,"cluster":"up"}"#);
        bytes
    });
    assert!(matches!(
        &events(&mut program)[..],
        [Event::State(State::Online { welcome, resumed: false })] if welcome.session == "1-7"
    ));
}

#[test]
fn after_a_reset_it_dials_again_with_growing_pauses() {
    let (mut program, conn) = online();
    program.reset(conn);
    for failure in 0..9u32 {
        let longest = (100u64 << failure).min(5_000);
        let [Event::State(State::Reconnecting { pause, .. })] = events(&mut program)[..] else {
            panic!("it reconnects");
        };
        assert!((longest / 2..=longest).contains(&pause.as_millis()), "{pause:?} after failure {failure}");
        let passed = until_dial(&mut program);
        assert!((pause.as_millis()..=pause.as_millis() + 18).contains(&passed), "{passed} ms for {pause:?}");
        let (dial, _) = program.dials.pop().expect("a dial");
        program.core.ended(program.now, dial, End::Failed(std::io::ErrorKind::ConnectionRefused));
        program.turn();
    }
    until_dial(&mut program);
    let conn = greet(&mut program);
    assert!(matches!(events(&mut program).last(), Some(Event::State(State::Online { resumed: true, .. }))));
    program.reset(conn);
    assert!(until_dial(&mut program) <= 118, "a WELCOME begins anew");
}

#[test]
fn a_code_that_allows_it_reconnects_and_keeps_its_text() {
    for code in [1000, 1002, 1009, 1250, 1499] {
        let (mut program, conn) = online();
        program.put(conn, Raw::of(CLOSE).info(code).body("later"));
        assert!(program.wire(conn).dropped);
        let expected = CloseCode::from_wire(code).map(Gone::ClosedByPeer);
        let seen = events(&mut program);
        assert!(
            matches!(&seen[..], [Event::State(State::Reconnecting { gone, text, .. })]
                if Some(*gone) == expected && text == "later"),
            "{seen:?}"
        );
        until_dial(&mut program);
    }
}

#[test]
fn a_code_of_1500_and_above_stops_it() {
    for code in [1500, 1507, 1508, 1513, 1750, 1999] {
        for greeted in [true, false] {
            let mut program = started();
            let conn = if greeted { greet(&mut program) } else { program.answer_dial() };
            let id = program.core.send_acked(program.now, user("bob"), 7, b"hi".to_vec()).expect("taken");
            events(&mut program);
            program.put(conn, Raw::of(CLOSE).info(code).body("no"));
            let code = CloseCode::from_wire(code).expect("in range");
            assert_eq!(
                events(&mut program),
                [
                    Event::Sent { id, outcome: Err(SendFailure::Stopped(code)) },
                    Event::State(State::Stopped { code, text: "no".to_owned() })
                ]
            );
            assert!(program.core.is_stopped());
            program.pass_ms(60_000);
            assert_eq!(program.dials, []);
            let late = program.core.send_acked(program.now, user("bob"), 7, Vec::new());
            assert_eq!(late, Err(SendError::Stopped));
        }
    }
}

#[test]
fn a_number_that_is_no_code_is_a_lost_connection() {
    for code in [0, 999, 2000] {
        let (mut program, conn) = online();
        program.put(conn, Raw::of(CLOSE).info(code));
        assert!(until_dial(&mut program) <= 118);
    }
}

#[test]
fn retry_after_and_go_to_are_honoured() {
    let (mut program, conn) = online();
    let body = r#"{"text":"moving","retry_after_ms":7000,"go_to":"10.0.0.2:6001"}"#;
    program.put(conn, Raw::of(CLOSE).info(1001).body(body));
    assert!(matches!(&events(&mut program)[..], [Event::State(State::Reconnecting { text, .. })] if text == "moving"));
    let passed = until_dial(&mut program);
    assert!((7_000..7_020).contains(&passed), "{passed} ms");
    let (dial, at) = program.dials.pop().expect("a dial");
    assert_eq!(at, addr("10.0.0.2:6001"));
    program.core.ended(program.now, dial, End::Failed(std::io::ErrorKind::ConnectionRefused));
    program.turn();
    assert!(until_dial(&mut program) <= 218);
    assert_eq!(program.dials.last().map(|(_, at)| *at), Some(addr(SERVER)), "once, then back to the usual address");
}

#[test]
fn no_server_keeps_a_client_away_for_longer_than_a_minute() {
    for asked in ["60001", "86400000", "18446744073709551615"] {
        let (mut program, conn) = online();
        program.put(conn, Raw::of(CLOSE).info(1004).body(format!(r#"{{"text":"full","retry_after_ms":{asked}}}"#)));
        let pauses: Vec<Span> = events(&mut program)
            .into_iter()
            .filter_map(|event| match event {
                Event::State(State::Reconnecting { pause, .. }) => Some(pause),
                _ => None,
            })
            .collect();
        assert_eq!(pauses, [Span::from_secs(60)], "{asked}");
    }
}

#[test]
fn a_move_is_followed_at_once_and_a_refused_one_is_not() {
    let body = r#"{"text":"moving","go_to":"10.0.0.2:6001"}"#;
    let (mut program, conn) = online();
    program.put(conn, Raw::of(CLOSE).info(1001).body(body));
    assert!(until_dial(&mut program) <= 1);
    let (dial, at) = program.dials.pop().expect("a dial");
    assert_eq!(at, addr("10.0.0.2:6001"));
    program.core.ended(program.now, dial, End::Failed(std::io::ErrorKind::ConnectionRefused));
    program.turn();
    assert!((50..=118).contains(&until_dial(&mut program)), "the first pause of the usual ones");
    assert_eq!(program.dials.last().map(|(_, at)| *at), Some(addr(SERVER)), "the usual address");
    let conn = program.answer_dial();
    program.wire(conn).got.clear();
    program.put(conn, Raw::of(CLOSE).info(1001).body(body));
    assert!(until_dial(&mut program) >= 50, "servers that send it round before it is in do not make it spin");
}

#[test]
fn who_was_sent_to_a_server_that_is_full_comes_there_again() {
    let (mut program, conn) = online();
    let target = addr("10.0.0.2:6001");
    program.put(conn, Raw::of(CLOSE).info(1001).body(r#"{"text":"moving","go_to":"10.0.0.2:6001"}"#));
    let full = (1004, r#"{"text":"come again later","retry_after_ms":7000}"#, 7_000..=7_018);
    let unavailable = (1008, "the cluster cannot be reached", 50..=418);
    for (code, body, pause) in [full, unavailable] {
        until_dial(&mut program);
        assert_eq!(program.dials.last().map(|(_, at)| *at), Some(target));
        let conn = program.answer_dial();
        program.put(conn, Raw::of(CLOSE).info(code).body(body));
        let passed = until_dial(&mut program);
        assert!(pause.contains(&passed), "{code}: {passed} ms");
    }
    assert_eq!(program.dials.last().map(|(_, at)| *at), Some(target));
    let silent = program.answer_dial();
    program.reset(silent);
    until_dial(&mut program);
    assert_eq!(program.dials.last().map(|(_, at)| *at), Some(addr(SERVER)), "it ended without a word");
}

#[test]
fn who_was_sent_to_a_server_that_lets_nobody_in_goes_back_after_a_minute() {
    let (mut program, conn) = online();
    program.put(conn, Raw::of(CLOSE).info(1001).body(r#"{"text":"moving","go_to":"10.0.0.2:6001"}"#));
    let sent = program.now;
    let back = loop {
        until_dial(&mut program);
        if program.dials.last().map(|(_, at)| *at) == Some(addr(SERVER)) {
            break program.now.since(sent);
        }
        assert!(program.now.since(sent) < Span::from_secs(120), "it never goes back");
        let conn = program.answer_dial();
        program.put(conn, Raw::of(CLOSE).info(1004).body(r#"{"text":"full","retry_after_ms":7000}"#));
    };
    assert!((60_000..75_000).contains(&back.as_millis()), "after {back:?}");
    greet(&mut program);
}

#[test]
fn a_logout_ends_it() {
    let (mut program, conn) = online();
    program.core.log_out(program.now);
    program.turn();
    assert_eq!(program.frame(conn), Raw::of(LOGOUT).from("alice"));
    program.put(conn, Raw::of(CLOSE).info(1511).body("logged out"));
    let stopped = Event::State(State::Stopped { code: CloseCode::LOGGED_OUT, text: "logged out".to_owned() });
    assert_eq!(events(&mut program), [stopped]);
    assert!(program.core.is_stopped());
}

#[test]
fn it_stops_once() {
    let (mut program, conn) = online();
    program.reset(conn);
    events(&mut program);
    program.core.log_out(program.now);
    program.core.log_out(program.now);
    program.turn();
    let seen = events(&mut program);
    assert!(matches!(&seen[..], [Event::State(State::Stopped { .. })]), "{seen:?}");
    program.pass_ms(10_000);
    assert_eq!(program.dials, []);
}

#[test]
fn a_logout_that_is_cut_short_is_a_logout() {
    let (mut program, conn) = online();
    program.core.log_out(program.now);
    program.turn();
    program.reset(conn);
    assert!(matches!(&events(&mut program)[..], [Event::State(State::Stopped { code: CloseCode::LOGGED_OUT, .. })]));
    program.pass_ms(10_000);
    assert_eq!(program.dials, []);
}

#[test]
fn a_server_that_breaks_the_rules_is_told_and_left() {
    for (frame, code) in
        [(data("bob", "alice", 1), 1503), (Raw::of(WELCOME).to("alice").body("[]"), 1505), (Raw::of(0x77), 1503)]
    {
        let mut program = started();
        let conn = program.answer_dial();
        program.wire(conn).got.clear();
        program.put(conn, frame);
        program.closed_with(conn, code);
        until_dial(&mut program);
    }
}

#[test]
fn a_silent_server_is_asked_and_then_left() {
    let (mut program, conn) = online();
    program.pass_ms(9_950);
    program.silent(conn);
    program.pass_ms(100);
    assert_eq!(program.frame(conn).kind, PING);
    program.pass_ms(19_900);
    program.silent(conn);
    assert!(program.core.is_online());
    program.pass_ms(100);
    let close = program.frame(conn);
    assert_eq!((close.kind, close.info), (CLOSE, 1003));
    until_dial(&mut program);
}

#[test]
fn a_ping_is_answered_also_before_welcome() {
    let mut program = started();
    let conn = program.answer_dial();
    program.wire(conn).got.clear();
    program.put(conn, Raw::of(PING).id(8));
    assert_eq!(program.frame(conn), Raw::of(PONG).id(8));
}

#[test]
fn a_server_that_never_welcomes_is_left() {
    let mut program = started();
    let conn = program.answer_dial();
    program.wire(conn).got.clear();
    program.pass_ms(34_900);
    program.silent(conn);
    program.pass_ms(120);
    program.closed_with(conn, 1006);
}

// Plain messages.

#[test]
fn a_plain_send_and_its_bounce() {
    let (mut program, conn) = online();
    let id = program.core.send(program.now, Some(&user("bob")), Flags::NONE, 7, b"hi").expect("sent");
    program.turn();
    assert_eq!(program.frame(conn), data("alice", "bob", id));
    program.put(conn, Raw::of(BOUNCE).info(1).id(id).to("alice").from("bob"));
    let bounced = Event::Bounced { id, to: b"bob".to_vec(), cause: Bounce::Offline };
    assert_eq!(events(&mut program), [bounced]);
    program.reset(conn);
    assert_eq!(program.core.send(program.now, None, Flags::NONE, 7, b"hi"), Err(SendError::NotConnected));
    program.pass_ms(20_000);
}

#[test]
fn what_does_not_fit_is_told_at_once() {
    let (mut program, conn) = online();
    let fits = vec![0; (1 << 20) - 16 - 3 - 5];
    let bob = user("bob");
    assert!(program.core.send(program.now, Some(&bob), Flags::NONE, 7, &fits).is_ok());
    program.turn();
    let larger = [&fits[..], &[0]].concat();
    assert_eq!(program.core.send(program.now, Some(&bob), Flags::NONE, 7, &larger), Err(SendError::TooBig));
    assert_eq!(program.core.send_acked(program.now, bob.clone(), 7, larger), Err(SendError::TooBig));
    program.stall(conn);
    for _ in 0..3 {
        assert!(program.core.send(program.now, Some(&bob), Flags::NONE, 7, &fits).is_ok());
    }
    assert_eq!(program.core.send(program.now, Some(&bob), Flags::NONE, 7, &fits), Err(SendError::Full));
}

#[test]
fn who_asks_hears_of_an_answer_that_does_not_fit_and_of_a_full_queue() {
    let query = || Raw::of(QUERY).id(9).to("alice").from("bob");
    let failed = |text: &str| Raw::of(REPLY).flags(ERROR).id(9).to("bob").from("alice").body(text);
    for takes_queries in [true, false] {
        let (mut program, conn) = online_with(|config| config.takes_queries = takes_queries);
        let bob = user("bob");
        program.put(conn, query());
        let largest = vec![0; (1 << 20) - 16 - 3 - 5];
        let larger = [&largest[..], &[0]].concat();
        let reply =
            |program: &mut Program, body: &[u8]| program.core.reply(program.now, Some(&bob), 9, Flags::NONE, 7, body);
        if takes_queries {
            assert_eq!(reply(&mut program, &larger), Err(SendError::TooBig));
            program.turn();
            assert_eq!(program.frames(conn), [failed("the answer is too big")]);
        } else {
            assert_eq!(program.frames(conn), [failed("")]);
        }
        program.stall(conn);
        while program.core.send(program.now, Some(&bob), Flags::NONE, 7, &largest).is_ok() {}
        program.put(conn, query());
        let wanted = if takes_queries {
            assert_eq!(reply(&mut program, &largest), Err(SendError::Full));
            failed("there was no room for the answer")
        } else {
            failed("")
        };
        assert!(program.core.is_online(), "it is not cut off for what others ask");
        program.unstall(conn);
        assert_eq!(program.frames(conn).pop(), Some(wanted));
    }
}

#[test]
fn a_message_that_wants_it_is_acknowledged_and_handed_over_once() {
    let (mut program, conn) = online();
    let from = |from: &str, flags, id| data(from, "alice", id).flags(flags);
    let mut got = |frame: Raw, ack: Option<Raw>| {
        program.put(conn, frame);
        assert_eq!(program.frames(conn), ack.into_iter().collect::<Vec<_>>());
        events(&mut program).len()
    };
    let ack = |to: &str, id| Some(Raw::of(ACK).id(id).to(to).from("alice"));
    assert_eq!(got(from("bob", 0, 1), None), 1, "not asked for");
    assert_eq!(got(from("bob", WANT_ACK, 2), ack("bob", 2)), 1);
    assert_eq!(got(from("bob", WANT_ACK | RETRY, 2), ack("bob", 2)), 0, "a duplicate");
    assert_eq!(got(from("carol", WANT_ACK | RETRY, 2), ack("carol", 2)), 1, "another sender's");
    assert_eq!(got(from("bob", WANT_ACK, 2), ack("bob", 2)), 1, "without RETRY it is another message");
    assert_eq!(got(from("bob", WANT_ACK | RETRY, 3), ack("bob", 3)), 1, "the first did not arrive");
    assert_eq!(got(from("", WANT_ACK, 0x0001_0000_0000_0001), ack("", 0x0001_0000_0000_0001)), 1, "from a server");
    let others = data("bob", "carol", 4).flags(WANT_ACK);
    assert_eq!(got(others, ack("bob", 4)), 1, "sent to another id by a server's mistake: still in this user's name");
}

#[test]
fn duplicates_are_known_over_a_reconnect() {
    let (mut program, conn) = online();
    program.put(conn, data("bob", "alice", 2).flags(WANT_ACK));
    program.reset(conn);
    until_dial(&mut program);
    let conn = greet(&mut program);
    events(&mut program);
    program.put(conn, data("bob", "alice", 2).flags(WANT_ACK | RETRY));
    assert_eq!(program.frame(conn).kind, ACK);
    assert_eq!(events(&mut program), []);
}

// Acknowledged sends.

#[test]
fn an_acked_send_is_resolved_once() {
    let (mut program, conn) = online();
    let id = send_acked(&mut program);
    assert_eq!(program.frame(conn), acked(id));
    assert_eq!(events(&mut program), []);
    program.put(conn, Raw::of(ACK).id(id).to("alice").from("bob"));
    program.put(conn, Raw::of(ACK).id(id).to("alice").from("bob"));
    assert_eq!(events(&mut program), [Event::Sent { id, outcome: Ok(()) }]);
    program.pass_ms(5_100);
    program.silent(conn);
}

#[test]
fn an_acked_send_survives_a_lost_connection() {
    let (mut program, conn) = online();
    let id = send_acked(&mut program);
    assert_eq!(program.frame(conn), acked(id));
    program.reset(conn);
    let later = send_acked(&mut program);
    assert!(!events(&mut program).iter().any(|event| matches!(event, Event::Sent { .. })));
    until_dial(&mut program);
    let conn = greet(&mut program);
    assert_eq!(
        program.frames(conn),
        [acked(id).flags(WANT_ACK | RETRY), acked(later)],
        "what was sent before may have arrived, what waited was never sent"
    );
    events(&mut program);
    program.put(conn, Raw::of(ACK).id(id).to("alice").from("bob"));
    program.put(conn, Raw::of(ACK).id(later).to("alice").from("bob"));
    let sent = |id| Event::Sent { id, outcome: Ok(()) };
    assert_eq!(events(&mut program), [sent(id), sent(later)]);
}

#[test]
fn an_acked_send_without_an_ack_is_sent_again_and_given_up_after_thirty_seconds() {
    let (mut program, conn) = online();
    let id = send_acked(&mut program);
    program.frames(conn);
    for _ in 0..5 {
        program.put(conn, Raw::of(PONG));
        program.pass_ms(4_900);
        program.silent(conn);
        program.pass_ms(110);
        assert_eq!(program.frame(conn), acked(id).flags(WANT_ACK | RETRY));
    }
    assert_eq!(events(&mut program), []);
    program.pass_ms(5_100);
    assert_eq!(events(&mut program), [Event::Sent { id, outcome: Err(SendFailure::TimedOut) }]);
    program.put(conn, Raw::of(ACK).id(id).to("alice").from("bob"));
    assert_eq!(events(&mut program), []);
}

#[test]
fn an_acked_send_without_a_connection_is_given_up_after_thirty_seconds() {
    let mut program = started();
    let id = send_acked(&mut program);
    let (dial, _) = program.dials.pop().expect("a dial");
    let mut dials = vec![dial];
    for _ in 0..299 {
        for dial in dials.drain(..) {
            program.core.ended(program.now, dial, End::Failed(std::io::ErrorKind::ConnectionRefused));
        }
        program.turn();
        program.pass_ms(100);
        dials.extend(program.dials.drain(..).map(|(dial, _)| dial));
    }
    let failed = Event::Sent { id, outcome: Err(SendFailure::TimedOut) };
    assert!(!events(&mut program).contains(&failed));
    program.pass_ms(200);
    assert!(events(&mut program).contains(&failed));
}

#[test]
fn a_bounce_that_passes_is_tried_again() {
    for cause in [2, 3, 4] {
        let (mut program, conn) = online();
        let id = send_acked(&mut program);
        program.frames(conn);
        let mut last = 0;
        for _ in 0..4 {
            program.put(conn, Raw::of(BOUNCE).info(cause).id(id).to("alice").from("bob"));
            program.silent(conn);
            let since = program.now;
            let mut again = Vec::new();
            while again.is_empty() {
                program.pass_ms(1);
                again = program.frames(conn);
                assert!(program.now.since(since) < Span::from_secs(5), "cause {cause}: not sent again");
            }
            assert_eq!(again, [acked(id).flags(WANT_ACK | RETRY)]);
            let pause = program.now.since(since).as_millis();
            assert!(pause > last, "{pause} ms after {last} ms");
            last = pause;
        }
        assert_eq!(events(&mut program), []);
        program.put(conn, Raw::of(ACK).id(id).to("alice").from("bob"));
        assert_eq!(events(&mut program), [Event::Sent { id, outcome: Ok(()) }]);
    }
}

#[test]
fn a_bounce_that_stays_fails_it() {
    for (number, cause) in [
        (1, Bounce::Offline),
        (5, Bounce::Denied),
        (6, Bounce::TooBig),
        (7, Bounce::NoHandler),
        (77, Bounce::Other(77)),
    ] {
        let (mut program, conn) = online();
        let id = send_acked(&mut program);
        program.frames(conn);
        program.put(conn, Raw::of(BOUNCE).info(number).id(id).to("alice").from("bob"));
        assert_eq!(events(&mut program), [Event::Sent { id, outcome: Err(SendFailure::Bounced(cause)) }]);
        program.pass_ms(5_100);
        program.silent(conn);
    }
}

/// Ids can be guessed: who was not written to must not be able to end the send.
#[test]
fn nobody_else_acknowledges_a_send() {
    let (mut program, conn) = online();
    let id = send_acked(&mut program);
    program.frames(conn);
    for stranger in ["carol", "alice", ""] {
        program.put(conn, Raw::of(ACK).id(id).to("alice").from(stranger));
        assert_eq!(events(&mut program), [], "an ACK from {stranger:?}");
    }
    program.put(conn, Raw::of(ACK).id(id).to("alice").from("bob"));
    assert_eq!(events(&mut program), [Event::Sent { id, outcome: Ok(()) }]);
}

/// A message that was sent twice may bounce twice.
#[test]
fn a_bounce_of_an_acked_send_that_is_resolved_is_no_news() {
    let (mut program, conn) = online();
    let bounce = |id| Raw::of(BOUNCE).info(1).id(id).to("alice").from("bob");
    let bounced = send_acked(&mut program);
    program.put(conn, bounce(bounced));
    let outcome = Err(SendFailure::Bounced(Bounce::Offline));
    assert_eq!(events(&mut program), [Event::Sent { id: bounced, outcome }]);
    let arrived = send_acked(&mut program);
    program.put(conn, Raw::of(ACK).id(arrived).to("alice").from("bob"));
    assert_eq!(events(&mut program), [Event::Sent { id: arrived, outcome: Ok(()) }]);
    for id in [bounced, arrived] {
        program.put(conn, bounce(id));
        assert_eq!(events(&mut program), []);
    }
}

#[test]
fn a_bounce_of_another_starts_message_is_no_news() {
    let (mut earlier, _) = online_with(|config| config.seed = [4; 32]);
    let plain = earlier.core.send(earlier.now, Some(&user("bob")), Flags::NONE, 7, b"hi").expect("sent");
    let tracked = send_acked(&mut earlier);
    let (mut program, conn) = online();
    let own = program.core.send(program.now, Some(&user("bob")), Flags::NONE, 7, b"hi").expect("sent");
    program.turn();
    let bounce = |id| Raw::of(BOUNCE).info(1).id(id).to("alice").from("bob");
    for id in [plain, tracked, 0, own - 1, own + 1] {
        program.put(conn, bounce(id));
        assert_eq!(events(&mut program), [], "message {id:#x}, where {own:#x} is the only one of this start");
    }
    program.put(conn, bounce(own));
    assert_eq!(events(&mut program), [Event::Bounced { id: own, to: b"bob".to_vec(), cause: Bounce::Offline }]);
}

#[test]
fn the_number_of_acked_sends_is_bounded() {
    let mut program = started();
    for _ in 0..1024 {
        send_acked(&mut program);
    }
    let one_more = program.core.send_acked(program.now, user("bob"), 7, Vec::new());
    assert_eq!(one_more, Err(SendError::Full));
}

// Queries.

#[test]
fn the_outcomes_of_a_query() {
    let (mut program, conn) = online();
    let query = |program: &mut Program| {
        let patience = Span::from_secs(3);
        let id = program.core.query(program.now, Some(&user("bob")), 9, b"?", patience).expect("sent");
        program.turn();
        assert_eq!(program.frame(conn), Raw::of(QUERY).info(9).id(id).to("bob").from("alice").body("?"));
        id
    };
    let outcome = |program: &mut Program, id| match &events(program)[..] {
        [Event::Replied { id: at, outcome }] if *at == id => outcome.clone(),
        other => panic!("a query was to be resolved once, not {other:?}"),
    };
    let reply = |id| Raw::of(REPLY).info(4).id(id).to("alice").from("bob").body("no");

    let id = query(&mut program);
    program.put(conn, reply(id));
    program.put(conn, reply(id));
    assert_eq!(outcome(&mut program, id), Ok(Reply { info_type: 4, body: b"no"[..].into() }));

    let id = query(&mut program);
    program.put(conn, reply(id).flags(ERROR));
    assert_eq!(outcome(&mut program, id), Err(QueryFailure::Failed("no".to_owned())));

    let id = query(&mut program);
    program.put(conn, Raw::of(BOUNCE).info(4).id(id).to("alice").from("bob"));
    assert_eq!(outcome(&mut program, id), Err(QueryFailure::Bounced(Bounce::Busy)));

    let id = query(&mut program);
    program.pass_ms(2_990);
    assert_eq!(events(&mut program), []);
    program.pass_ms(30);
    assert_eq!(outcome(&mut program, id), Err(QueryFailure::TimedOut));
    program.put(conn, reply(id));
    assert_eq!(events(&mut program), []);

    let id = query(&mut program);
    program.reset(conn);
    let seen = events(&mut program);
    assert!(seen.contains(&Event::Replied { id, outcome: Err(QueryFailure::ConnectionLost) }), "{seen:?}");
    program.pass_ms(4_000);
    assert!(!events(&mut program).iter().any(|event| matches!(event, Event::Replied { .. })));
}

/// Ids can be guessed: who was not asked must not be able to end the question.
#[test]
fn nobody_else_replies_to_a_query() {
    let (mut program, conn) = online();
    let reply = |id, from: &str| Raw::of(REPLY).info(4).id(id).to("alice").from(from).body("!");
    for (to, strangers) in [(Some("bob"), ["carol", ""]), (None, ["bob", "alice"])] {
        let asked = to.map(user);
        let patience = Span::from_secs(3);
        let id = program.core.query(program.now, asked.as_ref(), 9, b"?", patience).expect("sent");
        program.turn();
        for stranger in strangers {
            program.put(conn, reply(id, stranger));
            assert_eq!(events(&mut program), [], "a REPLY from {stranger:?} to a query to {to:?}");
        }
        program.put(conn, reply(id, to.unwrap_or("")));
        let outcome = Ok(Reply { info_type: 4, body: b"!"[..].into() });
        assert_eq!(events(&mut program), [Event::Replied { id, outcome }]);
    }
}

#[test]
fn a_query_is_answered_by_the_application_or_with_an_error() {
    let query = Raw::of(QUERY).info(9).id(5).to("alice").from("bob").body("?");
    let (mut program, conn) = online();
    program.put(conn, query.clone());
    let refusal = program.frame(conn);
    assert_eq!((refusal.kind, refusal.flags, refusal.id), (REPLY, ERROR, 5));
    assert_eq!((&refusal.to[..], &refusal.from[..]), (&b"bob"[..], &b"alice"[..]));
    assert_eq!(events(&mut program), []);

    let (mut program, conn) = online_with(|config| config.takes_queries = true);
    program.put(conn, query);
    program.silent(conn);
    let expected = Message { from: Some(user("bob")), info_type: 9, id: 5, flags: Flags::NONE, body: b"?"[..].into() };
    assert_eq!(events(&mut program), [Event::Query(expected)]);
    program.core.reply(program.now, Some(&user("bob")), 5, Flags::NONE, 1, b"!").expect("sent");
    program.turn();
    assert_eq!(program.frame(conn), Raw::of(REPLY).info(1).id(5).to("bob").from("alice").body("!"));
}

#[test]
fn a_question_and_its_answer() {
    let (mut program, conn) = online();
    let id = program.core.ask(program.now, br#"{"ask":"rtt"}"#).expect("sent");
    program.turn();
    assert_eq!(program.frame(conn), Raw::of(ASK).id(id).from("alice").body(r#"{"ask":"rtt"}"#));
    program.put(conn, Raw::of(ANSWER).id(id).to("alice").body("{}"));
    assert_eq!(events(&mut program), [Event::Answered { id, body: b"{}"[..].into() }]);
}

#[test]
fn a_question_is_given_up_after_ten_seconds() {
    let (mut program, conn) = online();
    let id = program.core.ask(program.now, br#"{"ask":"rtt"}"#).expect("sent");
    program.pass_ms(9_990);
    assert_eq!(events(&mut program), []);
    program.pass_ms(30);
    assert_eq!(events(&mut program), [Event::Replied { id, outcome: Err(QueryFailure::TimedOut) }]);
    program.put(conn, Raw::of(ANSWER).id(id).to("alice").body("{}"));
    assert_eq!(events(&mut program), []);
}

#[test]
fn a_question_fails_with_its_connection() {
    let (mut program, conn) = online();
    let id = program.core.ask(program.now, br#"{"ask":"rtt"}"#).expect("sent");
    program.reset(conn);
    let failed = Event::Replied { id, outcome: Err(QueryFailure::ConnectionLost) };
    let replied = |event: &Event| matches!(event, Event::Replied { .. } | Event::Answered { .. });
    let outcomes: Vec<Event> = events(&mut program).into_iter().filter(replied).collect();
    assert_eq!(outcomes, [failed]);
    until_dial(&mut program);
    let conn = greet(&mut program);
    program.put(conn, Raw::of(ANSWER).id(id).to("alice").body("{}"));
    program.pass_ms(10_100);
    assert!(!events(&mut program).iter().any(replied));
}

#[test]
fn an_application_that_takes_nothing_is_not_read_for() {
    let (mut program, conn) = online();
    program.core.hold(program.now, true);
    assert!(!program.reads(conn));
    program.pass_ms(40_000);
    assert!(program.core.is_online(), "nothing heard where nothing was listened to");
    program.core.hold(program.now, false);
    assert!(program.reads(conn));
}
