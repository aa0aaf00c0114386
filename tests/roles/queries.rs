//! Queries of servers: from one's application to another's, and what a server hears of those that went to users.

use trunkline::id::ServerId;
use trunkline::role::appserver::{Event, Outcome, QuerySource};
use trunkline::time::Span;
use trunkline::wire::{Bounce, Flags};

use crate::acms::{hub_with, member, two_with_users};
use crate::appserver::{Server, alone_with, events, joined_with, log_in, log_in_through, user};
use crate::wire_peer::{BOUNCE, DATA, ERROR, GROUP_DATA, GROUP_EDIT, GROUP_MEMBERS, GROUP_ON, QUERY, REPLY, Raw};

const SERVER_DATA: u8 = 0x99;
const SERVER_QUERY: u8 = 0x9A;
const INSPECT: u8 = 0x9B;
const EVERYONE: u8 = 0x9F;

/// Server 1's first message, of incarnation 2.
const FIRST: u64 = 0x0001_0000_0200_0001;

/// `to` of what goes to server 1, and to server 2.
const TO_1: &str = "\0\x01";
const TO_2: &str = "\0\x02";

fn outcomes(server: &mut Server) -> Vec<(u64, Outcome)> {
    let outcome = |event| match event {
        Event::Outcome { id, outcome } => Some((id, outcome)),
        _ => None,
    };
    events(server).into_iter().filter_map(outcome).collect()
}

/// The next message or query of a server's application: whether it is a query, who sent it, its type, id and body.
fn from_server(server: &mut Server) -> (bool, u16, u32, u64, Vec<u8>) {
    match events(server).pop() {
        Some(Event::ServerMessage(inbox)) => (false, inbox.from().0, inbox.info_type, inbox.id, inbox.body.to_vec()),
        Some(Event::ServerQuery(inbox)) => (true, inbox.from().0, inbox.info_type, inbox.id, inbox.body.to_vec()),
        other => panic!("something of a server was to come, not {other:?}"),
    }
}

fn replied(failed: bool, body: &'static [u8]) -> Outcome {
    Outcome::Replied { info_type: 0, failed, body: body.into() }
}

#[test]
fn a_query_to_another_server_goes_up_with_its_number_and_ends_with_the_reply() {
    let (mut server, up) = joined_with(|_| {});
    let ends = server.now + Span::from_secs(2);
    let id = server.core.send_to_server(server.now, ServerId(2), 7, b"how many?", Some(ends)).expect("sent");
    server.turn();
    assert_eq!(server.frame(up), Raw::of(SERVER_QUERY).info(7).id(FIRST).to(TO_2).body("how many?"));
    events(&mut server);
    server.put(up, Raw::of(REPLY).id(id).body("three"));
    server.put(up, Raw::of(REPLY).id(id).body("four"));
    assert_eq!(outcomes(&mut server), [(id, replied(false, b"three"))]);
    assert_eq!(server.core.open_queries(), 0);
}

/// Ids can be guessed: a user that writes one in a REPLY of its own was not asked.
#[test]
fn no_user_answers_for_a_server() {
    let (mut server, up) = joined_with(|_| {});
    let (mallory, _) = log_in_through(&mut server, up, "mallory");
    let ends = server.now + Span::from_secs(2);
    let id = server.core.send_to_server(server.now, ServerId(2), 7, b"?", Some(ends)).expect("sent");
    events(&mut server);
    server.put(mallory, Raw::of(REPLY).id(id).from("mallory").body("lies"));
    server.put(up, Raw::of(REPLY).id(id).from("zoe").body("lies"));
    assert_eq!(outcomes(&mut server), []);
    server.put(up, Raw::of(BOUNCE).info(1).id(id).from(TO_2));
    assert_eq!(outcomes(&mut server), [(id, Outcome::Bounced(Bounce::Offline))]);
}

#[test]
fn a_message_of_another_server_comes_to_the_application_and_its_query_is_answered_by_id() {
    let (mut server, up) = joined_with(|config| {
        config.takes_messages = true;
        config.takes_queries = true;
    });
    events(&mut server);
    let theirs = 0x0002_0000_0000_0009;
    server.put(up, Raw::of(SERVER_DATA).info(5).id(theirs).to(TO_1).body("news"));
    assert_eq!(from_server(&mut server), (false, 2, 5, theirs, b"news".to_vec()));
    server.put(up, Raw::of(SERVER_QUERY).info(6).id(theirs).to(TO_1).body("?"));
    assert_eq!(from_server(&mut server), (true, 2, 6, theirs, b"?".to_vec()));
    let source = QuerySource::Server { id: theirs };
    server.core.answer_query(server.now, &source, Flags::NONE, b"!");
    server.core.answer_query(server.now, &source, Flags::ERROR, b"no");
    server.core.refuse_query(server.now, &source, Bounce::NoHandler);
    server.core.answer_query(server.now, &source, Flags::NONE, &vec![0; 1 << 20]);
    server.turn();
    let bounce = |code| Raw::of(BOUNCE).info(code).id(theirs).from(TO_1);
    assert_eq!(
        server.frames(up),
        [Raw::of(REPLY).id(theirs).body("!"), Raw::of(REPLY).flags(ERROR).id(theirs).body("no"), bounce(7), bounce(6),]
    );
}

#[test]
fn what_comes_for_another_servers_application_is_not_this_ones() {
    let (mut server, up) = joined_with(|config| config.takes_messages = true);
    events(&mut server);
    for to in [TO_2, "", "\x01", "bob"] {
        server.put(up, Raw::of(SERVER_DATA).id(0x0002_0000_0000_0009).to(to));
    }
    assert!(events(&mut server).is_empty());
    server.silent(up);
    assert_eq!(server.core.counters().dropped_unroutable, 4);
}

#[test]
fn an_application_without_a_handler_bounces_what_servers_send() {
    let (mut server, up) = joined_with(|_| {});
    events(&mut server);
    for kind in [SERVER_DATA, SERVER_QUERY] {
        server.put(up, Raw::of(kind).id(0x0002_0000_0000_0009).to(TO_1));
        assert_eq!(server.frame(up), Raw::of(BOUNCE).info(7).id(0x0002_0000_0000_0009).from(TO_1));
    }
    assert!(events(&mut server).is_empty());
    let to_itself = server.core.send_to_server(server.now, ServerId(1), 0, b"", None);
    assert_eq!(to_itself, Err(Bounce::NoHandler));
}

#[test]
fn a_server_asks_itself_without_a_cluster_and_knows_no_other() {
    let mut server = alone_with(|config| config.takes_queries = true);
    let ends = server.now + Span::from_secs(2);
    assert_eq!(server.core.send_to_server(server.now, ServerId(1), 0, b"", Some(ends)), Err(Bounce::Offline));
    let ask = |server: &mut Server| {
        let id = server.core.send_to_server(server.now, ServerId(0), 8, b"me", Some(ends)).expect("sent");
        assert_eq!(from_server(server), (true, 0, 8, id, b"me".to_vec()));
        (id, QuerySource::Server { id })
    };
    let (id, source) = ask(&mut server);
    server.core.answer_query(server.now, &source, Flags::NONE, b"itself");
    assert_eq!(outcomes(&mut server), [(id, replied(false, b"itself"))]);
    let (id, source) = ask(&mut server);
    server.core.refuse_query(server.now, &source, Bounce::NoHandler);
    assert_eq!(outcomes(&mut server), [(id, Outcome::Bounced(Bounce::NoHandler))]);
    let (id, _) = ask(&mut server);
    server.pass_ms(2_100);
    assert_eq!(outcomes(&mut server), [(id, Outcome::TimedOut)]);
}

#[test]
fn a_query_is_lost_with_the_connection_that_it_went_by() {
    let mut server = alone_with(|_| {});
    let (alice, bob) = (log_in(&mut server, "alice"), log_in(&mut server, "bob"));
    let ends = server.now + Span::from_secs(20);
    let ask = |server: &mut Server, name| {
        server.core.send(server.now, &user(name), Flags::NONE, 1, b"?", Some(ends)).expect("sent")
    };
    let (to_alice, to_bob) = (ask(&mut server, "alice"), ask(&mut server, "bob"));
    server.turn();
    events(&mut server);
    assert_eq!((server.frame(alice).kind, server.frame(bob).kind), (QUERY, QUERY));
    server.reset(alice);
    assert_eq!(outcomes(&mut server), [(to_alice, Outcome::ConnectionLost)]);
    server.put(bob, Raw::of(REPLY).id(to_bob).from("bob"));
    assert_eq!(outcomes(&mut server), [(to_bob, replied(false, b""))]);
}

#[test]
fn queries_to_others_are_lost_with_the_link() {
    let (mut server, up) = joined_with(|_| {});
    let ends = server.now + Span::from_secs(20);
    let to_user = server.core.send(server.now, &user("zoe"), Flags::NONE, 1, b"?", Some(ends)).expect("sent");
    let to_server = server.core.send_to_server(server.now, ServerId(2), 1, b"?", Some(ends)).expect("sent");
    server.turn();
    events(&mut server);
    server.reset(up);
    let lost = [(to_user, Outcome::ConnectionLost), (to_server, Outcome::ConnectionLost)];
    assert_eq!(outcomes(&mut server), lost);
    assert_eq!(server.core.send_to_server(server.now, ServerId(2), 1, b"?", Some(ends)), Err(Bounce::Unreachable));
}

#[test]
fn what_is_for_a_servers_application_is_relayed_byte_for_byte() {
    let mut hub = hub_with(|_| {});
    let (a, b) = (member(&mut hub, 1), member(&mut hub, 2));
    let query = Raw::of(SERVER_QUERY).info(7).id(FIRST).to(TO_2).body("how many?");
    let bytes = [query.bytes(), Raw::of(SERVER_DATA).id(FIRST + 1).to(TO_2).body("x").bytes()].concat();
    hub.feed(a, &bytes);
    assert_eq!(hub.wire(b).got, bytes);
    hub.wire(b).got.clear();
    let reply = Raw::of(REPLY).id(FIRST).body("three");
    hub.put(b, reply.clone());
    assert_eq!(hub.frame(a), reply);
    hub.put(a, Raw::of(SERVER_DATA).id(FIRST).to(TO_1).body("to itself"));
    assert_eq!(hub.frame(a).kind, SERVER_DATA);
}

#[test]
fn no_server_speaks_in_anothers_name() {
    const KINDS: [u8; 9] =
        [DATA, QUERY, GROUP_DATA, SERVER_DATA, SERVER_QUERY, INSPECT, EVERYONE, GROUP_EDIT, GROUP_MEMBERS];
    let mut hub = hub_with(|_| {});
    let (a, b) = two_with_users(&mut hub);
    hub.put(b, Raw::of(GROUP_ON).to("bob"));
    let spoken = |kind: u8, id: u64| match kind {
        SERVER_DATA | SERVER_QUERY => Raw::of(kind).id(id).to(TO_2),
        EVERYONE => Raw::of(kind).id(id),
        _ => Raw::of(kind).id(id).to("bob"),
    };
    for kind in KINDS {
        // Of server 2, of one that is not there, and of the ACMS.
        for server in [2, 3, 65_535] {
            hub.put(a, spoken(kind, server << 48 | 9));
        }
        hub.silent(b);
        hub.silent(a);
        hub.put(a, spoken(kind, 1 << 48 | 9));
        assert_eq!(hub.frame(b), spoken(kind, 1 << 48 | 9));
        hub.frames(a);
    }
    assert_eq!(hub.core.counters().dropped_spoofed, 3 * KINDS.len() as u64);
}

#[test]
fn a_server_that_is_not_there_is_offline_and_while_the_acms_waits_for_it_retry() {
    for (grace, code) in [(0, 1), (10_000, 3)] {
        let mut hub = hub_with(|config| config.directory_grace = Span::from_millis(grace));
        let a = member(&mut hub, 1);
        for kind in [SERVER_DATA, SERVER_QUERY] {
            hub.put(a, Raw::of(kind).id(FIRST).to(TO_2));
            assert_eq!(hub.frame(a), Raw::of(BOUNCE).info(code).id(FIRST).from(TO_2));
        }
    }
}

#[test]
fn a_number_that_is_none_is_a_bad_field() {
    for to in ["", "\x01", "bob"] {
        let mut hub = hub_with(|_| {});
        let a = member(&mut hub, 1);
        hub.put(a, Raw::of(SERVER_DATA).id(FIRST).to(to));
        hub.closed_with(a, 1505);
    }
}
