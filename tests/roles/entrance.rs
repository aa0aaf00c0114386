//! A client that asks for its server: a test answers for the ACMS.

use trunkline::link::End;
use trunkline::role::Core;
use trunkline::role::client::{Entrance, Event, NoServer, SendError, SendFailure, State};
use trunkline::time::Span;
use trunkline::wire::CloseCode;

use crate::client::{Program, events, greet, send_acked, started_with, user};
use crate::wire_peer::{CLOSE, DATA, Raw, addr};

const FIRST: &str = "10.0.0.1:6000";
const SECOND: &str = "10.0.0.2:6000";

fn asking() -> Program {
    let mut program = started_with(|config| config.entrance = Entrance::Asked);
    assert_eq!(events(&mut program), [Event::Asking]);
    assert_eq!(program.dials, []);
    program
}

fn find(program: &mut Program, server: &str) {
    program.core.found(program.now, Ok(addr(server)));
    program.turn();
}

fn find_none(program: &mut Program) {
    program.core.found(program.now, Err(NoServer::Now("no server is in the cluster".to_owned())));
    program.turn();
}

/// Time passes until the next question: how long that took, in milliseconds. Nothing is dialled meanwhile.
fn until_asking(program: &mut Program) -> u64 {
    let since = program.now;
    loop {
        match &events(program)[..] {
            [] => program.pass_ms(1),
            [Event::Asking] => break,
            others => panic!("{others:?}"),
        }
        assert!(program.now.since(since) < Span::from_secs(60), "no question in a minute");
    }
    assert_eq!(program.dials, []);
    program.now.since(since).as_millis()
}

fn reconnecting(program: &mut Program) -> u64 {
    match events(program)[..] {
        [Event::State(State::Reconnecting { pause, .. })] => pause.as_millis(),
        ref others => panic!("{others:?}"),
    }
}

#[test]
fn a_client_dials_the_server_that_it_was_told() {
    let mut program = asking();
    program.pass_ms(60_000);
    assert_eq!((events(&mut program), &program.dials[..]), (vec![], &[][..]), "it waits for the answer");
    find(&mut program, FIRST);
    assert_eq!(program.dials.last().map(|(_, at)| *at), Some(addr(FIRST)));
    greet(&mut program);
}

#[test]
fn a_client_asks_again_after_a_lost_connection() {
    let mut program = asking();
    find(&mut program, FIRST);
    let conn = greet(&mut program);
    events(&mut program);
    program.reset(conn);
    let pause = reconnecting(&mut program);
    assert!((50..=100).contains(&pause), "{pause} ms");
    let passed = until_asking(&mut program);
    assert!((pause..=pause + 18).contains(&passed), "{passed} ms for {pause}");
    find(&mut program, SECOND);
    assert_eq!(program.dials.last().map(|(_, at)| *at), Some(addr(SECOND)));
    greet(&mut program);
    assert!(matches!(&events(&mut program)[..], [Event::State(State::Online { resumed: true, .. })]));
}

#[test]
fn an_answer_is_no_success_so_pauses_grow_until_a_welcome() {
    let mut program = asking();
    for failure in 0..8u32 {
        let longest = (100u64 << failure).min(5_000);
        let pause = if failure % 2 == 0 {
            find(&mut program, FIRST);
            let (dial, _) = program.dials.pop().expect("a dial");
            program.core.ended(program.now, dial, End::Failed(std::io::ErrorKind::ConnectionRefused));
            program.turn();
            reconnecting(&mut program)
        } else {
            find_none(&mut program);
            match &events(&mut program)[..] {
                [Event::State(State::NoServer { text, pause })] if text == "no server is in the cluster" => {
                    pause.as_millis()
                }
                others => panic!("{others:?}"),
            }
        };
        assert!((longest / 2..=longest).contains(&pause), "{pause} ms after failure {failure}");
        until_asking(&mut program);
    }
    find(&mut program, FIRST);
    let conn = greet(&mut program);
    events(&mut program);
    program.reset(conn);
    assert!(reconnecting(&mut program) <= 100, "a WELCOME begins anew");
}

#[test]
fn who_was_sent_elsewhere_asks_only_where_that_fails() {
    let mut program = asking();
    find(&mut program, FIRST);
    let conn = greet(&mut program);
    events(&mut program);
    program.put(conn, Raw::of(CLOSE).info(1001).body(r#"{"text":"moving","go_to":"10.0.0.3:6000"}"#));
    reconnecting(&mut program);
    program.pass_ms(1);
    assert_eq!(events(&mut program), []);
    let (dial, at) = program.dials.pop().expect("a dial");
    assert_eq!(at, addr("10.0.0.3:6000"));
    program.core.ended(program.now, dial, End::Failed(std::io::ErrorKind::ConnectionRefused));
    program.turn();
    reconnecting(&mut program);
    until_asking(&mut program);
}

#[test]
fn who_is_told_when_to_come_again_asks_then() {
    let mut program = asking();
    find(&mut program, FIRST);
    let conn = program.answer_dial();
    program.put(conn, Raw::of(CLOSE).info(1004).body(r#"{"text":"full","retry_after_ms":7000}"#));
    reconnecting(&mut program);
    let passed = until_asking(&mut program);
    assert!((7_000..=7_018).contains(&passed), "{passed} ms");
}

#[test]
fn who_is_refused_an_answer_stops() {
    let mut program = asking();
    let id = send_acked(&mut program);
    program.core.found(program.now, Err(NoServer::Ever("a token is needed".to_owned())));
    program.turn();
    let text = "a token is needed".to_owned();
    assert_eq!(
        events(&mut program),
        [
            Event::Sent { id, outcome: Err(SendFailure::Stopped(CloseCode::REFUSED)) },
            Event::State(State::Stopped { code: CloseCode::REFUSED, text })
        ]
    );
    assert!(program.core.is_stopped());
}

#[test]
fn who_logs_out_while_it_asks_has_no_use_for_the_answer() {
    let mut program = asking();
    program.core.log_out(program.now);
    program.turn();
    assert!(matches!(&events(&mut program)[..], [Event::State(State::Stopped { code: CloseCode::LOGGED_OUT, .. })]));
    find(&mut program, FIRST);
    find_none(&mut program);
    program.pass_ms(10_000);
    assert_eq!((events(&mut program), &program.dials[..]), (vec![], &[][..]));
    assert!(program.core.is_stopped());
}

#[test]
fn acknowledged_sends_wait_for_the_answer_and_give_up_without() {
    let mut program = asking();
    let bob = user("bob");
    assert_eq!(program.core.query(program.now, Some(&bob), 7, b"", Span::from_secs(1)), Err(SendError::NotConnected));
    let early = send_acked(&mut program);
    program.pass_ms(29_000);
    let late = send_acked(&mut program);
    program.pass_ms(1_100);
    assert_eq!(events(&mut program), [Event::Sent { id: early, outcome: Err(SendFailure::TimedOut) }]);
    find(&mut program, FIRST);
    let conn = greet(&mut program);
    let sent = program.frames(conn).pop().expect("it was sent");
    assert_eq!((sent.kind, sent.id), (DATA, late));
}
