//! The platform's directory from server code: who is in, what is known of a user, and what is said to everyone.

use trunkline::id::{ConnId, ServerId};
use trunkline::limits;
use trunkline::role::Core;
use trunkline::role::appserver::{Event, Outcome};
use trunkline::time::Span;
use trunkline::wire::{Bounce, ListRequest, Listed, ListedUser, Profile};

use crate::acms::{Hub, hub_with, log_in as log_in_at, member, two_with_users};
use crate::appserver::{Server, alone, alone_with, events, joined, log_in, log_in_through, user};
use crate::wire_peer::{ACK, BOUNCE, DATA, KICK, Raw, WANT_ACK};

const INSPECT: u8 = 0x9B;
const INSPECTED: u8 = 0x9C;
const LIST: u8 = 0x9D;
const LISTED: u8 = 0x9E;
const EVERYONE: u8 = 0x9F;

/// The first message of server 1, incarnation 2.
const FIRST: u64 = 0x0001_0000_0200_0001;

fn outcomes(server: &mut Server) -> Vec<(u64, Outcome)> {
    let outcome = |event| match event {
        Event::Outcome { id, outcome } => Some((id, outcome)),
        _ => None,
    };
    events(server).into_iter().filter_map(outcome).collect()
}

fn listed(users: &[(&str, u16)], next: Option<u64>, total: u64) -> Listed {
    let listed = |(user, server): &(&str, u16)| ListedUser { user: (*user).to_owned(), server: ServerId(*server) };
    Listed { users: users.iter().map(listed).collect(), next, total }
}

// What is known of a user.

#[test]
fn a_user_of_this_server_is_known_with_its_tag_while_its_session_lasts() {
    let mut server = alone();
    log_in(&mut server, "alice");
    assert!(server.core.set_tag(&user("alice"), "table 4"));
    assert!(!server.core.set_tag(&user("bob"), "nobody"));
    assert!(!server.core.set_tag(&user("alice"), &"x".repeat(257)), "too long");
    server.pass_ms(1_500);
    events(&mut server);
    let inspect = |server: &mut Server| {
        let id = server.core.inspect(server.now, &user("alice"));
        let outcome = outcomes(server).pop();
        (id.ok(), outcome)
    };
    let profile = |login_ms, tag: Option<&str>, port| Profile {
        server: ServerId(0),
        address: format!("10.9.0.0:{port}"),
        login_ms,
        tag: tag.map(str::to_owned),
    };
    let (id, outcome) = inspect(&mut server);
    assert_eq!(outcome, Some((id.expect("asked"), Outcome::Inspected(profile(1_500, Some("table 4"), 40_001)))));
    assert!(server.core.set_tag(&user("alice"), ""));
    let (_, outcome) = inspect(&mut server);
    assert_eq!(outcome.map(|(_, outcome)| outcome), Some(Outcome::Inspected(profile(1_500, None, 40_001))));
    server.core.set_tag(&user("alice"), "of the older session");
    log_in(&mut server, "alice");
    let (_, outcome) = inspect(&mut server);
    assert_eq!(outcome.map(|(_, outcome)| outcome), Some(Outcome::Inspected(profile(0, None, 40_002))));
    assert_eq!(server.core.inspect(server.now, &user("bob")), Err(Bounce::Offline), "there is no cluster to ask");
}

#[test]
fn a_user_elsewhere_is_asked_for_by_the_cluster() {
    let (mut server, up) = joined();
    events(&mut server);
    let ask = |server: &mut Server| {
        let id = server.core.inspect(server.now, &user("bob")).expect("asked");
        server.turn();
        assert_eq!(server.frame(up), Raw::of(INSPECT).id(id).to("bob"));
        id
    };
    let id = ask(&mut server);
    assert_eq!(id, FIRST);
    let body = r#"{"server":2,"address":"10.0.0.9:40000","login_ms":7,"tag":"a tag","later":1}"#;
    server.put(up, Raw::of(INSPECTED).id(id).from("mallory").body(body));
    assert_eq!(outcomes(&mut server), [], "another user's");
    server.put(up, Raw::of(INSPECTED).id(id).from("bob").body(body));
    let profile = Profile {
        server: ServerId(2),
        address: "10.0.0.9:40000".to_owned(),
        login_ms: 7,
        tag: Some("a tag".to_owned()),
    };
    assert_eq!(outcomes(&mut server), [(id, Outcome::Inspected(profile))]);
    let id = ask(&mut server);
    server.put(up, Raw::of(BOUNCE).info(1).id(id).from("bob"));
    assert_eq!(outcomes(&mut server), [(id, Outcome::Bounced(Bounce::Offline))]);
    let id = ask(&mut server);
    server.put(up, Raw::of(INSPECTED).id(id).from("bob").body("nonsense"));
    assert_eq!(outcomes(&mut server), [(id, Outcome::Bounced(Bounce::Unreachable))]);
    let id = ask(&mut server);
    server.reset(up);
    assert_eq!(outcomes(&mut server), [(id, Outcome::ConnectionLost)]);
}

#[test]
fn another_server_is_told_of_a_user_or_that_it_is_not_here() {
    let (mut server, up) = joined();
    log_in_through(&mut server, up, "alice");
    server.core.set_tag(&user("alice"), "say \"hi\"");
    server.put(up, Raw::of(INSPECT).id(9).to("alice"));
    let body = r#"{"server":1,"address":"10.9.0.0:40001","login_ms":0,"tag":"say \"hi\""}"#;
    assert_eq!(server.frame(up), Raw::of(INSPECTED).id(9).from("alice").body(body));
    server.put(up, Raw::of(INSPECT).id(9).to("bob"));
    assert_eq!(server.frame(up), Raw::of(BOUNCE).info(1).id(9).from("bob"));
}

#[test]
fn an_inspection_goes_to_the_users_server_and_its_answer_back() {
    let mut hub = hub_with(|_| {});
    let (a, b) = two_with_users(&mut hub);
    let ask = Raw::of(INSPECT).id(FIRST).to("bob");
    hub.put(a, ask.clone());
    assert_eq!(hub.frame(b), ask);
    let answer = Raw::of(INSPECTED).id(FIRST).from("bob").body("{}");
    hub.put(b, answer.clone());
    assert_eq!(hub.frame(a), answer);
    hub.put(a, Raw::of(INSPECT).id(FIRST).to("zoe"));
    assert_eq!(hub.frame(a), Raw::of(BOUNCE).info(1).id(FIRST).from("zoe"));
    hub.put(b, Raw::of(INSPECTED).id(FIRST).from("alice").body("{}"));
    hub.silent(a);
    assert_eq!(hub.core.counters().dropped_spoofed, 1, "of another server's user");
}

// Who is in.

#[test]
fn a_page_is_asked_of_the_cluster_and_one_that_stands_alone_knows_its_own() {
    let (mut server, up) = joined();
    events(&mut server);
    let request = ListRequest { server: Some(ServerId(2)), after: 5, limit: 10 };
    let id = server.core.list(server.now, &request).expect("asked");
    server.turn();
    assert_eq!(server.frame(up), Raw::of(LIST).id(id).body(r#"{"server":2,"after":5,"limit":10}"#));
    let body = r#"{"users":[{"user":"bob","server":2}],"next":9,"total":3}"#;
    server.put(up, Raw::of(LISTED).id(id).body(body));
    assert_eq!(outcomes(&mut server), [(id, Outcome::Listed(listed(&[("bob", 2)], Some(9), 3)))]);

    let mut server = alone();
    for name in ["alice", "bob", "carol"] {
        log_in(&mut server, name);
    }
    events(&mut server);
    let page = |server: &mut Server, after, limit| {
        let id = server.core.list(server.now, &ListRequest { server: None, after, limit }).expect("known here");
        match outcomes(server).pop() {
            Some((at, Outcome::Listed(page))) if at == id => page,
            other => panic!("a page was to come, not {other:?}"),
        }
    };
    let first = page(&mut server, 0, 2);
    assert_eq!(first, listed(&[("alice", 0), ("bob", 0)], first.next, 3));
    let next = first.next.expect("there is more");
    assert_eq!(page(&mut server, next, 2).users, listed(&[("carol", 0)], None, 3).users);
    assert_eq!(page(&mut server, 0, 0).total, 3);
}

/// All pages one after the other, by `limit` users each.
fn pages(hub: &mut Hub, server: Option<u16>, limit: usize) -> Vec<(String, u16)> {
    let (mut all, mut after) = (Vec::new(), 0);
    loop {
        let page = hub.core.users(server.map(ServerId), after, limit);
        assert!(page.users.len() <= limit);
        all.extend(page.users.into_iter().map(|(user, server)| (user.to_string(), server.0)));
        match page.next {
            Some(next) => after = next,
            None => return all,
        }
    }
}

#[test]
fn each_user_is_on_one_page() {
    let mut hub = hub_with(|_| {});
    let (a, b) = (member(&mut hub, 1), member(&mut hub, 2));
    let mut expected = Vec::new();
    for number in 0..50 {
        let (conn, server) = if number % 3 == 0 { (a, 1) } else { (b, 2) };
        let name = format!("user{number:02}");
        log_in_at(&mut hub, conn, &name, number + 1);
        expected.push((name, server));
    }
    for limit in [1, 7, 1_000] {
        let mut all = pages(&mut hub, None, limit);
        all.sort();
        assert_eq!(all, expected, "by {limit}");
    }
    let mut of_a = pages(&mut hub, Some(1), 4);
    of_a.sort();
    expected.retain(|(_, server)| *server == 1);
    assert_eq!(of_a, expected);
    hub.put(b, Raw::of(LIST).id(FIRST).body(r#"{"limit":0}"#));
    assert_eq!(hub.frame(b), Raw::of(LISTED).id(FIRST).body(r#"{"users":[],"next":0,"total":50}"#));
    hub.reset(b);
    let mut left = pages(&mut hub, None, 1_000);
    left.sort();
    assert_eq!(left, expected, "a lost server's users are on no page");
    hub.frames(a);
    hub.put(a, Raw::of(LIST).id(FIRST).body("[]"));
    hub.closed_with(a, 1505);
}

#[test]
fn a_page_looks_at_some_places_only() {
    let mut hub = hub_with(|_| {});
    let a = member(&mut hub, 1);
    let others = member(&mut hub, 2);
    let users = limits::PAGE_PLACES_MAX as u64 + 10;
    for number in 0..users {
        let name = format!("u{number}");
        let body = [&number.to_be_bytes()[..], &0_u64.to_be_bytes(), &[name.len() as u8], name.as_bytes()].concat();
        hub.put(a, Raw::of(0x88).body(body));
    }
    log_in_at(&mut hub, others, "alice", 1);
    let page = hub.core.users(Some(ServerId(2)), 0, 10);
    assert_eq!((page.users.len(), page.next), (0, Some(limits::PAGE_PLACES_MAX as u64)));
    assert_eq!(pages(&mut hub, Some(2), 10), [("alice".to_owned(), 2)]);
}

// To everyone.

#[test]
fn a_message_to_everyone_reaches_each_user_here_once_and_goes_up_once() {
    let (mut server, up) = joined();
    let users = ["alice", "bob"].map(|name| (name, log_in_through(&mut server, up, name).0));
    assert_eq!(server.core.send_everyone(server.now, 7, b"news"), Ok(()));
    server.turn();
    assert_eq!(server.frame(up), Raw::of(EVERYONE).info(7).id(FIRST).body("news"));
    server.put(up, Raw::of(EVERYONE).info(8).id(0x0002_0000_0000_0005).body("more"));
    server.pass_ms(100);
    for (name, conn) in users {
        let of = |info, id, body: &str| Raw::of(DATA).info(info).id(id).to(name).body(body);
        assert_eq!(server.frames(conn), [of(7, FIRST, "news"), of(8, 0x0002_0000_0000_0005, "more")]);
    }
    server.silent(up);
}

#[test]
fn to_tell_many_takes_several_turns_and_to_tell_too_much_is_busy() {
    let mut server = alone_with(|_| {});
    let count = limits::ANNOUNCED_PLACES_MAX + 5;
    let conns: Vec<_> = (0..count).map(|number| log_in(&mut server, &format!("user{number}"))).collect();
    for _ in 0..limits::ANNOUNCEMENTS_MAX {
        assert_eq!(server.core.send_everyone(server.now, 7, b"news"), Ok(()));
    }
    assert_eq!(server.core.send_everyone(server.now, 7, b"news"), Err(Bounce::Busy));
    assert_eq!(server.core.send_everyone(server.now, 7, &vec![0; 1 << 20]), Err(Bounce::TooBig));
    server.pass(Span::default());
    let told = |server: &mut Server| conns.iter().map(|conn| server.frames(*conn).len()).sum::<usize>();
    assert_eq!(told(&mut server), limits::ANNOUNCED_PLACES_MAX);
    server.pass_ms(500);
    assert_eq!(told(&mut server), count * limits::ANNOUNCEMENTS_MAX - limits::ANNOUNCED_PLACES_MAX);
    assert_eq!(server.core.send_everyone(server.now, 7, b"news"), Ok(()));
}

/// Users of a server with 8 MiB for what waits, none of whom takes anything, and who are all told a megabyte.
fn told_a_megabyte() -> (Server, Vec<ConnId>) {
    let mut server = alone_with(|config| config.memory_max = 8 << 20);
    let conns: Vec<_> = (0..12).map(|number| log_in(&mut server, &format!("user{number}"))).collect();
    conns.iter().for_each(|conn| server.stall(*conn));
    assert_eq!(server.core.send_everyone(server.now, 7, &vec![b'x'; 1_000_000]), Ok(()));
    (server, conns)
}

fn have_it(server: &mut Server, conns: &[ConnId]) -> usize {
    conns.iter().map(|conn| server.frames(*conn).iter().filter(|frame| frame.body.len() == 1_000_000).count()).sum()
}

#[test]
fn a_message_to_everyone_waits_for_memory_and_closes_nobody() {
    let (mut server, conns) = told_a_megabyte();
    server.pass_ms(2_000);
    let waits = |server: &mut Server, conn: &ConnId| {
        server.core.links().get(*conn).is_some_and(|link| !link.queue().is_empty())
    };
    let told = conns.iter().filter(|conn| waits(&mut server, conn)).count();
    assert!((5..9).contains(&told), "{told} of 12 have it in their queues");
    assert_eq!((server.core.users_online(), server.core.counters().shed), (12, 0));
    conns.iter().for_each(|conn| server.unstall(*conn));
    server.pass_ms(50);
    assert_eq!((have_it(&mut server, &conns), server.core.counters().bounced[3]), (12, 0), "each has it in the end");
}

#[test]
fn a_message_to_everyone_waits_for_no_memory_for_ever() {
    let (mut server, conns) = told_a_megabyte();
    // So slow that none of them is closed for it.
    for _ in 0..11 {
        conns.iter().for_each(|conn| server.take(*conn, 1));
        server.pass_ms(1_000);
    }
    let missed = server.core.counters().bounced[3];
    assert!((4..8).contains(&missed), "{missed} of 12 had no room");
    conns.iter().for_each(|conn| server.unstall(*conn));
    server.pass_ms(50);
    assert_eq!(have_it(&mut server, &conns) as u64, 12 - missed);
    assert_eq!(server.core.send_everyone(server.now, 7, b"news"), Ok(()));
    server.pass_ms(50);
    assert!(conns.iter().all(|conn| server.frames(*conn).len() == 1), "the next one reaches all");
}

#[test]
fn what_everyone_is_told_in_one_turn_is_so_many_bytes() {
    let mut server = alone();
    let conns: Vec<_> = (0..20).map(|number| log_in(&mut server, &format!("user{number}"))).collect();
    assert_eq!(server.core.send_everyone(server.now, 7, &vec![b'x'; 1_000_000]), Ok(()));
    server.pass_ms(1);
    assert_eq!(have_it(&mut server, &conns), 5, "4 MiB, about");
    server.pass_ms(2);
    assert_eq!(have_it(&mut server, &conns), 5);
    server.pass_ms(20);
    assert_eq!(have_it(&mut server, &conns), 10);
}

#[test]
fn the_cluster_passes_it_to_all_but_the_server_that_said_it() {
    let mut hub = hub_with(|_| {});
    let members = [1, 2, 3].map(|server| member(&mut hub, server));
    members.iter().for_each(|conn| drop(hub.frames(*conn)));
    let everyone = Raw::of(EVERYONE).info(7).id(FIRST).body("news");
    hub.put(members[0], everyone.clone());
    hub.silent(members[0]);
    for conn in &members[1..] {
        assert_eq!(hub.frame(*conn), everyone);
    }
}

// What server code does to one user.

#[test]
fn who_is_kicked_reads_why() {
    let (mut server, up) = joined();
    assert!(server.core.kick(server.now, &user("bob"), "no swearing"));
    server.turn();
    assert_eq!(server.frame(up), Raw::of(KICK).info(1510).to("bob").body("no swearing"));
    assert!(server.core.kick(server.now, &user("bob"), &"ü".repeat(1_000)));
    server.turn();
    assert_eq!(server.frame(up).body.len(), 512);
    for (text, told) in [("no swearing", "no swearing"), ("", "removed"), ("two\nlines", "two\u{fffd}lines")] {
        let (alice, session) = log_in_through(&mut server, up, "alice");
        server.put(up, Raw::of(KICK).info(1510).to("alice").id(session).body(text));
        assert_eq!(server.closed(alice), (1510, told.to_owned()));
        server.frames(up);
    }
}

#[test]
fn the_reason_of_a_kick_goes_with_it() {
    let mut hub = hub_with(|_| {});
    let (a, b) = two_with_users(&mut hub);
    hub.put(a, Raw::of(KICK).info(1510).to("bob").body("no swearing"));
    assert_eq!(hub.frame(b), Raw::of(KICK).info(1510).id(1).to("bob").body("no swearing"));
    hub.put(a, Raw::of(KICK).info(1510).to("bob").body("x".repeat(5_000)));
    assert_eq!(hub.frame(b).body.len(), 512);
}

#[test]
fn what_a_server_sends_to_be_acknowledged_ends_with_the_ack_of_whom_it_went_to() {
    let mut server = alone();
    let (alice, mallory) = (log_in(&mut server, "alice"), log_in(&mut server, "mallory"));
    let ends = server.now + Span::from_secs(2);
    let send = |server: &mut Server| {
        let id = server.core.send_acked(server.now, &user("alice"), 7, b"x", ends).expect("sent");
        server.turn();
        assert_eq!(server.frame(alice), Raw::of(DATA).flags(WANT_ACK).info(7).id(id).to("alice").body("x"));
        events(server);
        id
    };
    let id = send(&mut server);
    server.put(mallory, Raw::of(ACK).id(id).from("mallory"));
    assert_eq!(outcomes(&mut server), []);
    server.put(alice, Raw::of(ACK).id(id).from("alice"));
    assert_eq!(outcomes(&mut server), [(id, Outcome::Acked)]);
    let id = send(&mut server);
    server.pass_ms(2_100);
    assert_eq!(outcomes(&mut server), [(id, Outcome::TimedOut)]);
    let ends = server.now + Span::from_secs(2);
    let id = server.core.send_acked(server.now, &user("alice"), 7, b"x", ends).expect("sent");
    server.reset(alice);
    assert_eq!(outcomes(&mut server), [(id, Outcome::ConnectionLost)]);
}
