//! Groups, in each of the three cores alone.
//!
//! Long for its list: every way into a group, out of it and between servers has its own named test.

use trunkline::id::{ConnId, GroupId, ServerId};
use trunkline::role::Core;
use trunkline::role::appserver::{Edit, Event, JoinRef, Outcome};
use trunkline::role::client::{self, JoinFailure, SendError};
use trunkline::time::Span;
use trunkline::wire::{Bounce, Flags, GroupChange};

use crate::acms::{self, Hub};
use crate::appserver::{self, Server, alone, alone_with, events, joined, log_in, log_in_through, user};
use crate::client::{Program, greet, online, until_dial};
use crate::wire_peer::{
    ACK, ANSWER, ASK, BOUNCE, BURST_BEGIN, CLAIMED, DROPPABLE, GROUP_DATA, GROUP_EDIT, GROUP_EVENT, GROUP_JOIN,
    GROUP_LEAVE, GROUP_MEMBERS, GROUP_MEMBERS_ARE, GROUP_OFF, GROUP_ON, KICK, PONG, RESYNC, Raw, SYNCED, UNBIND,
    WANT_ACK,
};

pub(crate) const JOINED: u32 = 1;
pub(crate) const LEFT: u32 = 2;
pub(crate) const OFFLINE: u32 = 3;
pub(crate) const MISSED: u32 = 4;

pub(crate) fn chess() -> GroupId {
    "chess".parse().expect("an id")
}

pub(crate) fn event(change: u32, member: &str) -> Raw {
    Raw::of(GROUP_EVENT).info(change).to("chess").from(member)
}

pub(crate) fn said(from: &str, id: u64) -> Raw {
    Raw::of(GROUP_DATA).info(7).id(id).to("chess").from(from).body(b"hi")
}

fn join(from: &str, id: u64) -> Raw {
    Raw::of(GROUP_JOIN).id(id).to("chess").from(from)
}

/// A user of a server that stands alone, in the group.
fn member(server: &mut Server, name: &str) -> ConnId {
    let conn = log_in(server, name);
    server.put(conn, join(name, 5));
    assert_eq!(server.next(conn), event(JOINED, name).id(5));
    conn
}

/// A user of a server in a cluster, in the group; what the ACMS hears of it is taken.
pub(crate) fn member_through(server: &mut Server, up: ConnId, name: &str) -> ConnId {
    let (conn, _) = log_in_through(server, up, name);
    server.put(conn, join(name, 5));
    assert_eq!(server.next(conn), event(JOINED, name).id(5));
    assert_eq!(server.frames(up).last(), Some(&event(JOINED, name)));
    conn
}

pub(crate) fn forget(server: &mut Server) {
    server.wires.values_mut().for_each(|wire| wire.got.clear());
}

// The server: coming and going.

#[test]
fn a_join_is_confirmed_and_told_to_the_others() {
    let mut server = alone();
    let alice = member(&mut server, "alice");
    let bob = member(&mut server, "bob");
    assert_eq!(server.frame(alice), event(JOINED, "bob"));
    server.silent(bob);
    server.put(bob, join("bob", 6));
    assert_eq!(server.frame(bob), event(JOINED, "bob").id(6));
    server.silent(alice);
    assert_eq!(server.core.members_here(&chess()), [user("alice"), user("bob")]);
}

#[test]
fn a_leave_is_confirmed_and_told_and_an_empty_group_is_none() {
    let mut server = alone();
    let (alice, bob) = (member(&mut server, "alice"), member(&mut server, "bob"));
    forget(&mut server);
    server.put(bob, Raw::of(GROUP_LEAVE).id(7).to("chess").from("bob"));
    assert_eq!(server.frame(bob), event(LEFT, "bob").id(7));
    assert_eq!(server.frame(alice), event(LEFT, "bob"));
    server.put(bob, Raw::of(GROUP_LEAVE).id(8).to("chess").from("bob"));
    assert_eq!(server.frame(bob), event(LEFT, "bob").id(8));
    server.silent(alice);
    server.reset(alice);
    assert_eq!(server.core.group_count(), 0);
}

#[test]
fn the_end_of_a_session_ends_its_memberships() {
    let mut server = alone();
    let (alice, bob) = (member(&mut server, "alice"), member(&mut server, "bob"));
    forget(&mut server);
    server.reset(bob);
    assert_eq!(server.frame(alice), event(OFFLINE, "bob"));
    let bob = log_in(&mut server, "bob");
    server.put(alice, said("alice", 1));
    server.silent(bob);
    assert_eq!(server.core.members_here(&chess()), [user("alice")]);
}

#[test]
fn only_members_speak() {
    let mut server = alone();
    let alice = member(&mut server, "alice");
    let bob = log_in(&mut server, "bob");
    server.put(bob, said("bob", 9));
    assert_eq!(server.frame(bob), Raw::of(BOUNCE).info(8).id(9).to("bob").from("chess"));
    server.silent(alice);
    assert_eq!(server.core.counters().bounced[7], 1);
}

#[test]
fn a_group_is_no_valid_id_and_no_other_users() {
    for (code, frame) in [
        (1505, Raw::of(GROUP_JOIN).from("alice")),
        (1505, Raw::of(GROUP_DATA).to("a\x07").from("alice")),
        (1505, Raw::of(GROUP_LEAVE).from("alice")),
        (1506, Raw::of(GROUP_DATA).to("chess").from("bob")),
        (1506, Raw::of(GROUP_LEAVE).to("chess")),
        (1503, event(JOINED, "alice")),
        (1503, Raw::of(GROUP_ON).to("chess")),
        (1503, said("alice", 1).flags(0x10)),
    ] {
        let mut server = alone();
        let alice = log_in(&mut server, "alice");
        server.put(alice, frame);
        server.closed_with(alice, code);
    }
}

#[test]
fn a_user_is_in_256_groups_and_no_more() {
    let mut server = alone();
    let alice = log_in(&mut server, "alice");
    for number in 0..257 {
        server.put(alice, Raw::of(GROUP_JOIN).id(number).to(&format!("g{number}")).from("alice"));
    }
    let frames = server.frames(alice);
    let (refused, confirmed) = frames.split_last().expect("257 answers");
    assert!(confirmed.iter().all(|frame| frame.kind == GROUP_EVENT));
    assert_eq!(refused, &Raw::of(BOUNCE).info(4).id(256).to("alice").from("g256"));
}

#[test]
fn the_application_may_refuse_a_join() {
    let mut server = alone_with(|config| config.asks_joins = true);
    let alice = log_in(&mut server, "alice");
    events(&mut server);
    server.put(alice, join("alice", 5));
    server.silent(alice);
    let asked = JoinRef { conn: alice, user: user("alice"), group: chess() };
    assert!(matches!(&events(&mut server)[..], [Event::JoinAsked(join)] if *join == asked));
    server.put(alice, join("alice", 6));
    assert_eq!(server.frame(alice), Raw::of(BOUNCE).info(4).id(6).to("alice").from("chess"));
    server.core.join_verdict(server.now, &asked, Err(Bounce::Denied));
    server.turn();
    assert_eq!(server.frame(alice), Raw::of(BOUNCE).info(5).id(5).to("alice").from("chess"));
    assert_eq!((server.core.group_count(), server.core.open_joins()), (0, 0));

    server.put(alice, join("alice", 7));
    server.core.join_verdict(server.now, &asked, Ok(()));
    server.turn();
    assert_eq!(server.frame(alice), event(JOINED, "alice").id(7));
}

#[test]
fn a_verdict_on_a_join_that_comes_too_late_lets_nobody_in() {
    let mut server = alone_with(|config| config.asks_joins = true);
    let alice = log_in(&mut server, "alice");
    let asked = JoinRef { conn: alice, user: user("alice"), group: chess() };
    server.put(alice, join("alice", 5));
    server.put(alice, Raw::of(GROUP_LEAVE).id(6).to("chess").from("alice"));
    let not_in_group = Raw::of(BOUNCE).info(8).id(5).to("alice").from("chess");
    assert_eq!(server.frames(alice), [not_in_group, event(LEFT, "alice").id(6)]);
    server.core.join_verdict(server.now, &asked, Ok(()));
    server.put(alice, join("alice", 7));
    server.reset(alice);
    server.core.join_verdict(server.now, &asked, Ok(()));
    server.turn();
    assert_eq!((server.core.group_count(), server.core.open_joins()), (0, 0));
}

// The server: what is said.

#[test]
fn what_is_said_reaches_each_other_member_byte_for_byte() {
    let mut server = alone();
    let members = ["alice", "bob", "carol"].map(|name| member(&mut server, name));
    let dave = log_in(&mut server, "dave");
    forget(&mut server);
    let frames = [said("alice", 1), said("alice", 2).flags(WANT_ACK), said("alice", 3).flags(DROPPABLE)];
    let bytes: Vec<u8> = frames.iter().flat_map(Raw::bytes).collect();
    // In pieces, so that the frames have to be gathered.
    bytes.chunks(11).for_each(|part| server.feed(members[0], part));
    for member in &members[1..] {
        assert_eq!(server.wire(*member).got, bytes);
    }
    server.silent(members[0]);
    server.silent(dave);
    server.put(members[1], Raw::of(ACK).id(2).to("alice").from("bob"));
    assert_eq!(server.frame(members[0]), Raw::of(ACK).id(2).to("alice").from("bob"));
}

#[test]
fn what_is_said_keeps_its_place_among_other_messages() {
    let mut server = alone();
    let (alice, bob) = (member(&mut server, "alice"), member(&mut server, "bob"));
    forget(&mut server);
    let frames = [said("alice", 1), appserver::data("alice", "bob", 2), said("alice", 3)];
    server.feed(alice, frames.iter().flat_map(Raw::bytes).collect::<Vec<u8>>());
    assert_eq!(server.frames(bob), frames);
}

#[test]
fn a_member_that_does_not_read_is_bounced_in_its_name_and_delays_nobody() {
    let mut server = alone();
    let (alice, bob, carol) = (member(&mut server, "alice"), member(&mut server, "bob"), member(&mut server, "carol"));
    forget(&mut server);
    server.wire(bob).room = Some(0);
    let large = |id| said("alice", id).body(vec![b'x'; 500_000]);
    for id in 1..=3 {
        server.put(alice, large(id));
        assert_eq!(server.frame(carol), large(id), "carol waits for bob");
    }
    assert_eq!(server.frames(alice), [Raw::of(BOUNCE).info(4).id(3).to("alice").from("bob")]);
    // DROPPABLE is neither queued nor bounced.
    server.put(alice, said("alice", 4).flags(DROPPABLE));
    assert_eq!(server.frame(carol), said("alice", 4).flags(DROPPABLE));
    server.silent(alice);
    assert_eq!(server.core.counters().dropped_droppable, 1);
}

#[test]
fn a_message_to_many_counts_for_more_than_one() {
    let per_second = 10;
    let mut server = alone_with(|config| config.rates.messages_per_second = per_second);
    let alice = member(&mut server, "alice");
    for number in 0..640 {
        member(&mut server, &format!("bob{number}"));
    }
    forget(&mut server);
    server.pass_ms(2_000);
    server.put(alice, said("alice", 1));
    assert!(!server.core.links().reads(alice), "1 + 640 / 64 messages were paid by a second's 10");
}

/// A read of small messages to a large group is cut off before it holds the loop for long; the next turn goes on.
#[test]
fn what_is_said_to_groups_in_one_turn_has_a_bound() {
    const MEMBERS: u64 = 1_100;
    let mut server = alone();
    let alice = member(&mut server, "alice");
    for number in 0..MEMBERS {
        member(&mut server, &format!("bob{number}"));
    }
    forget(&mut server);
    let copies = server.core.counters().forwarded;
    let taken = (1 << 20) / MEMBERS + 1;
    let said_at_once =
        |from: u64, to: u64| (from..to).flat_map(|id| said("alice", id).body("").bytes()).collect::<Vec<_>>();
    server.feed(alice, [said_at_once(0, taken + 1), said("alice", 77).flags(DROPPABLE).bytes()].concat());
    assert_eq!(server.frames(alice), [Raw::of(BOUNCE).info(4).id(taken).to("alice").from("chess")]);
    assert_eq!(server.core.counters().forwarded - copies, taken * MEMBERS);
    assert_eq!(server.core.counters().dropped_droppable, 1);
    let told = server.core.broadcast(server.now, &chess(), Flags::NONE, 7, b"");
    assert_eq!(told, Err(Bounce::Busy), "server code is bound too");
    server.pass_ms(1);
    server.put(alice, said("alice", 1));
    server.silent(alice);
    assert_eq!(server.core.counters().forwarded - copies, (taken + 1) * MEMBERS);
}

#[test]
fn comings_and_goings_in_a_large_group_are_told_to_nobody() {
    let mut server = alone();
    let alice = member(&mut server, "alice");
    for number in 0..1_024 {
        member(&mut server, &format!("bob{number}"));
    }
    let heard = server.frames(alice).len();
    assert_eq!(heard, 1_023, "the last one makes it a large group");
}

// The server in a cluster.

#[test]
fn the_cluster_hears_of_the_first_and_the_last_member() {
    let (mut server, up) = joined();
    let (alice, _) = log_in_through(&mut server, up, "alice");
    let (bob, bobs) = log_in_through(&mut server, up, "bob");
    server.put(alice, join("alice", 5));
    assert_eq!(server.frames(up), [Raw::of(GROUP_ON).to("chess"), event(JOINED, "alice")]);
    server.put(bob, join("bob", 5));
    assert_eq!(server.frames(up), [event(JOINED, "bob")]);
    server.put(alice, Raw::of(GROUP_LEAVE).id(7).to("chess").from("alice"));
    assert_eq!(server.frames(up), [event(LEFT, "alice")]);
    server.reset(bob);
    // It may be back.
    let unbind = Raw::of(UNBIND).info(1003).id(bobs).from("bob");
    assert_eq!(server.frames(up), [event(OFFLINE, "bob"), Raw::of(GROUP_OFF).to("chess"), unbind]);
}

#[test]
fn what_is_said_goes_up_once_and_comes_down_to_each() {
    let (mut server, up) = joined();
    let (alice, bob) = (member_through(&mut server, up, "alice"), member_through(&mut server, up, "bob"));
    forget(&mut server);
    server.put(alice, said("alice", 1));
    assert_eq!(server.frame(up), said("alice", 1));
    assert_eq!(server.frame(bob), said("alice", 1));
    server.put(up, said("zoe", 2));
    assert_eq!((server.frame(alice), server.frame(bob)), (said("zoe", 2), said("zoe", 2)));
    server.put(up, event(JOINED, "zoe"));
    assert_eq!((server.frame(alice), server.frame(bob)), (event(JOINED, "zoe"), event(JOINED, "zoe")));
    server.silent(up);
}

#[test]
fn cut_off_what_is_said_reaches_those_who_are_here_and_bounces_in_the_groups_name() {
    let (mut server, up) = joined();
    let (alice, bob) = (member_through(&mut server, up, "alice"), member_through(&mut server, up, "bob"));
    forget(&mut server);
    server.reset(up);
    server.put(alice, said("alice", 1));
    assert_eq!(server.frame(bob), said("alice", 1));
    assert_eq!(server.frame(alice), Raw::of(BOUNCE).info(2).id(1).to("alice").from("chess"));
}

#[test]
fn a_burst_tells_of_the_groups_before_it_ends() {
    let (mut server, up) = joined();
    member_through(&mut server, up, "alice");
    server.reset(up);
    server.pass_ms(200);
    let up = appserver::register(&mut server);
    let kinds: Vec<u8> = server.frames(up).iter().map(|frame| frame.kind).collect();
    assert_eq!(kinds, [BURST_BEGIN, crate::wire_peer::BIND, GROUP_ON, SYNCED]);
    server.put(up, Raw::of(RESYNC));
    let kinds: Vec<u8> = server.frames(up).iter().map(|frame| frame.kind).collect();
    assert_eq!(kinds, [BURST_BEGIN, crate::wire_peer::BIND, GROUP_ON, SYNCED]);
}

#[test]
fn members_that_fill_the_memory_there_is_are_bounced_not_closed() {
    let mut server = alone_with(|config| config.memory_max = 8 << 20);
    let members: Vec<ConnId> = (0..12).map(|number| member(&mut server, &format!("user{number}"))).collect();
    forget(&mut server);
    for member in &members[1..] {
        server.wire(*member).room = Some(0);
    }
    server.put(members[0], said("user0", 1).body(vec![b'x'; 1_000_000]));
    let bounces = server.frames(members[0]);
    assert!((2..5).contains(&bounces.len()), "{} of 11 had no room", bounces.len());
    assert!(bounces.iter().all(|frame| (frame.kind, frame.info, frame.id) == (BOUNCE, 4, 1)), "{bounces:?}");
    assert_eq!((server.core.users_online(), server.core.counters().shed), (12, 0), "nobody is closed for it");
}

#[test]
fn a_member_from_elsewhere_that_does_not_read_is_bounced_up_in_its_name() {
    let (mut server, up) = joined();
    let bob = member_through(&mut server, up, "bob");
    forget(&mut server);
    server.wire(bob).room = Some(0);
    for id in 1..=3 {
        server.put(up, said("zoe", id).body(vec![b'x'; 500_000]));
    }
    assert_eq!(server.frame(up), Raw::of(BOUNCE).info(4).id(3).to("zoe").from("bob"));
}

#[test]
fn who_is_in_here_is_in_whatever_becomes_of_its_session_elsewhere() {
    let (mut server, up) = joined();
    let (alice, bob) = (member_through(&mut server, up, "alice"), member_through(&mut server, up, "bob"));
    forget(&mut server);
    server.put(up, event(OFFLINE, "bob"));
    server.silent(alice);
    server.silent(bob);
    assert_eq!(server.frame(up), event(JOINED, "bob"));
}

#[test]
fn a_session_replaced_elsewhere_is_offline_before_it_is_unbound() {
    let (mut server, up) = joined();
    let alice = member_through(&mut server, up, "alice");
    let (bob, session) = log_in_through(&mut server, up, "bob");
    server.put(bob, join("bob", 5));
    forget(&mut server);
    server.put(up, Raw::of(KICK).info(1508).id(session).to("bob"));
    assert_eq!(server.frame(alice), event(OFFLINE, "bob"));
    assert_eq!(server.frames(up), [event(OFFLINE, "bob"), Raw::of(UNBIND).id(session).from("bob")]);
}

#[test]
fn a_server_that_stops_tells_no_member_of_the_others() {
    let mut server = alone();
    let alice = member(&mut server, "alice");
    member(&mut server, "bob");
    forget(&mut server);
    server.core.stop(server.now);
    server.turn();
    server.closed_with(alice, 1000);
}

// The server: its application.

#[test]
fn server_code_says_something_to_all_members() {
    let (mut server, up) = joined();
    let alice = member_through(&mut server, up, "alice");
    forget(&mut server);
    let id = server.core.broadcast(server.now, &chess(), Flags::NONE, 7, b"hi").expect("the link stands");
    server.turn();
    assert_eq!(id >> 48, 1);
    assert_eq!((server.frame(alice), server.frame(up)), (said("", id), said("", id)));
}

#[test]
fn server_code_puts_users_in_and_takes_them_out() {
    let (mut server, up) = joined();
    let (alice, _) = log_in_through(&mut server, up, "alice");
    let ends = server.now + Span::from_secs(3);
    assert_eq!(server.core.edit_group(server.now, &user("alice"), &chess(), Edit::Add, ends), Ok(None));
    server.turn();
    assert_eq!(server.frame(alice), event(JOINED, "alice"));
    assert_eq!(server.frames(up), [Raw::of(GROUP_ON).to("chess"), event(JOINED, "alice")]);
    assert_eq!(server.core.edit_group(server.now, &user("alice"), &chess(), Edit::Remove, ends), Ok(None));
    server.turn();
    assert_eq!(server.frame(alice), event(LEFT, "alice"));

    forget(&mut server);
    events(&mut server);
    for (answer, outcome) in [
        (Raw::of(ACK).from("zoe"), Outcome::Acked),
        (Raw::of(BOUNCE).info(1).from("zoe"), Outcome::Bounced(Bounce::Offline)),
    ] {
        let asked = server.core.edit_group(server.now, &user("zoe"), &chess(), Edit::Add, ends);
        let id = asked.expect("the link stands").expect("zoe is elsewhere");
        server.turn();
        assert_eq!(server.frame(up), Raw::of(GROUP_EDIT).info(1).id(id).to("zoe").from("chess"));
        server.put(up, Raw { id, from: b"mallory".to_vec(), ..answer.clone() });
        assert!(events(&mut server).is_empty(), "mallory has no say in it");
        server.put(up, answer.id(id));
        assert!(matches!(&events(&mut server)[..], [Event::Outcome { id: at, outcome: got }]
            if *at == id && *got == outcome));
    }
    let asked = server.core.edit_group(server.now, &user("zoe"), &chess(), Edit::Add, server.now + Span::from_secs(1));
    let id = asked.expect("the link stands").expect("zoe is elsewhere");
    server.pass_ms(1_100);
    assert!(matches!(&events(&mut server)[..], [Event::Outcome { id: at, outcome: Outcome::TimedOut }] if *at == id));
    let asked = server.core.edit_group(server.now, &user("zoe"), &chess(), Edit::Add, ends + Span::from_secs(3));
    let id = asked.expect("the link stands").expect("zoe is elsewhere");
    assert_eq!(server.core.open_queries(), 1);
    server.reset(up);
    let is_lost =
        |event: &Event| matches!(event, Event::Outcome { id: at, outcome: Outcome::ConnectionLost } if *at == id);
    assert!(events(&mut server).iter().any(is_lost), "it is known at once that nobody answers any more");
}

#[test]
fn another_servers_code_puts_users_of_this_one_in() {
    let (mut server, up) = joined();
    let (alice, _) = log_in_through(&mut server, up, "alice");
    let asked = |info: u32, id: u64, to: &str| Raw::of(GROUP_EDIT).info(info).id(id).to(to).from("chess");
    server.put(up, asked(1, 2 << 48, "alice"));
    assert_eq!(server.frame(alice), event(JOINED, "alice"));
    let frames = server.frames(up);
    assert_eq!(frames.last(), Some(&Raw::of(ACK).id(2 << 48).from("alice")));
    server.put(up, asked(0, 2 << 48, "alice"));
    assert_eq!(server.frame(alice), event(LEFT, "alice"));
    forget(&mut server);
    server.put(up, asked(1, 2 << 48, "zoe"));
    assert_eq!(server.frame(up), Raw::of(BOUNCE).info(1).id(2 << 48).from("zoe"));
}

#[test]
fn the_members_are_gathered_from_all_servers() {
    let (mut server, up) = joined();
    let alice = member_through(&mut server, up, "alice");
    forget(&mut server);
    events(&mut server);
    server.put(alice, Raw::of(ASK).id(4).from("alice").body(br#"{"ask":"members","group":"chess"}"#));
    let question = server.frame(up);
    assert_eq!(question, Raw::of(GROUP_MEMBERS).id(question.id).to("chess"));
    let told = |info: u32, body: &[u8]| Raw::of(GROUP_MEMBERS_ARE).info(info).id(question.id).from("chess").body(body);
    server.put(up, told(2, b"\x03zoe\x03yan"));
    server.put(up, Raw::of(GROUP_MEMBERS).info(2).id(question.id).to("chess"));
    server.silent(alice);
    server.put(up, told(3, b"\x03xia"));
    let answer = server.frame(alice);
    assert_eq!((answer.kind, answer.id), (ANSWER, 4));
    let named = |user: &str, server: u16| format!(r#"{{"user":"{user}","online":true,"server":{server}}}"#);
    let users = [named("alice", 1), named("xia", 3), named("yan", 2), named("zoe", 2)].join(",");
    assert_eq!(answer.text(), format!(r#"{{"users":[{users}],"complete":true}}"#));
    assert_eq!(server.core.open_rosters(), 0);
}

#[test]
fn a_list_of_members_that_a_server_does_not_add_to_is_incomplete() {
    let (mut server, up) = joined();
    let alice = member_through(&mut server, up, "alice");
    for (frame, wait) in [
        (Some(Raw::of(GROUP_MEMBERS).info(1).to("chess")), 3_100),
        (Some(Raw::of(GROUP_MEMBERS).info(0x10000).to("chess")), 0),
        (None, 3_100),
    ] {
        forget(&mut server);
        events(&mut server);
        server.core.list_members(server.now, 9, chess());
        server.turn();
        let id = server.frames(up).last().expect("it is asked").id;
        if let Some(frame) = frame {
            server.put(up, frame.id(id));
        }
        for _ in 0..wait / 500 {
            server.put(up, Raw::of(PONG));
            server.put(alice, Raw::of(PONG));
            server.pass_ms(600);
        }
        let members = events(&mut server).into_iter().find_map(|event| match event {
            Event::Members { token: 9, members } => Some(members),
            _ => None,
        });
        let members = members.expect("it is answered");
        assert!(!members.complete);
        assert_eq!(members.users.into_iter().collect::<Vec<_>>(), [(user("alice"), ServerId(1))]);
    }
}

#[test]
fn a_server_tells_its_own_members_to_those_who_ask() {
    let (mut server, up) = joined();
    member_through(&mut server, up, "bob");
    member_through(&mut server, up, "alice");
    forget(&mut server);
    server.put(up, Raw::of(GROUP_MEMBERS).id(2 << 48 | 7).to("chess"));
    let told = Raw::of(GROUP_MEMBERS_ARE).info(1).id(2 << 48 | 7).from("chess").body(b"\x05alice\x03bob");
    assert_eq!(server.frame(up), told);
}

#[test]
fn only_a_member_is_told_who_is_in() {
    let mut server = alone();
    member(&mut server, "alice");
    let bob = log_in(&mut server, "bob");
    for (question, error) in
        [(r#"{"ask":"members","group":"chess"}"#, "not in this group"), (r#"{"ask":"members"}"#, "`group` is no id")]
    {
        server.put(bob, Raw::of(ASK).id(4).from("bob").body(question));
        assert_eq!(server.frame(bob).text(), format!(r#"{{"error":"{error}"}}"#));
    }
}

// The ACMS.

/// Three servers with a user each, `alice` on 1, `bob` on 2, `carol` on 3; the first two have members of the group.
pub(crate) fn three(hub: &mut Hub) -> [ConnId; 3] {
    let (one, two) = acms::two_with_users(hub);
    let three = acms::member(hub, 3);
    acms::log_in(hub, three, "carol", 1);
    hub.put(one, Raw::of(GROUP_ON).to("chess"));
    hub.put(two, Raw::of(GROUP_ON).to("chess"));
    acms::drain(hub);
    [one, two, three]
}

#[test]
fn what_is_said_crosses_each_link_with_members_once() {
    let mut hub = acms::hub();
    let [one, two, three] = three(&mut hub);
    hub.put(one, said("alice", 1));
    assert_eq!(hub.frame(two), said("alice", 1));
    hub.put(one, event(JOINED, "alice"));
    assert_eq!(hub.frame(two), event(JOINED, "alice"));
    hub.silent(one);
    hub.silent(three);
    hub.put(three, Raw::of(GROUP_ON).to("chess"));
    hub.put(one, said("", 1 << 48));
    assert_eq!((hub.frame(two), hub.frame(three)), (said("", 1 << 48), said("", 1 << 48)));
    hub.put(two, Raw::of(GROUP_OFF).to("chess"));
    hub.put(one, said("alice", 2));
    assert_eq!(hub.frame(three), said("alice", 2));
    hub.silent(two);
    assert_eq!(hub.core.servers_of_group(&chess()), [ServerId(1), ServerId(3)]);
}

#[test]
fn nobody_speaks_to_a_group_in_anothers_name() {
    let mut hub = acms::hub();
    let [one, two, _] = three(&mut hub);
    hub.put(one, said("bob", 1));
    hub.put(one, said("mallory", 1));
    hub.put(one, event(JOINED, "bob"));
    hub.put(one, event(7, "alice"));
    hub.silent(two);
    assert_eq!(hub.core.counters().dropped_spoofed, 4);
    // Who went may be in elsewhere by now.
    hub.put(one, event(OFFLINE, "bob"));
    assert_eq!(hub.frame(two), event(OFFLINE, "bob"));
}

#[test]
fn while_a_newer_login_is_claimed_the_older_session_says_nothing_to_a_group() {
    let mut hub = acms::hub();
    let [one, two, three] = three(&mut hub);
    hub.pass_ms(1);
    hub.put(three, acms::claim(2, "alice"));
    assert_eq!(hub.frame(three).kind, CLAIMED);
    hub.put(one, said("alice", 1));
    assert_eq!(hub.frame(one), Raw::of(BOUNCE).info(3).id(1).to("alice").from("chess"));
    hub.silent(two);
}

#[test]
fn until_all_servers_have_told_of_their_groups_it_says_so() {
    let mut hub = acms::hub();
    let [one, two, _] = three(&mut hub);
    let four = acms::unsynced(&mut hub, 4);
    acms::drain(&mut hub);
    hub.put(one, said("alice", 1));
    assert_eq!(hub.frame(two), said("alice", 1));
    assert_eq!(hub.frame(one), Raw::of(BOUNCE).info(3).id(1).to("alice").from("chess"));
    hub.put(four, Raw::of(BURST_BEGIN));
    hub.put(four, Raw::of(SYNCED));
    hub.put(one, said("alice", 2));
    hub.silent(one);
}

#[test]
fn a_burst_forgets_the_groups_that_came_before_it() {
    let mut hub = acms::hub();
    let [one, two, _] = three(&mut hub);
    hub.put(two, Raw::of(BURST_BEGIN));
    hub.put(two, acms::bind(&[(1, 0, "bob")]));
    hub.put(two, Raw::of(SYNCED));
    acms::drain(&mut hub);
    hub.put(one, said("alice", 1));
    hub.silent(two);
    assert_eq!(hub.core.group_count(), 1);
}

#[test]
fn of_a_lost_server_the_members_elsewhere_are_told() {
    let mut hub = acms::hub();
    let [one, two, three] = three(&mut hub);
    hub.reset(two);
    let frames = hub.frames(one);
    assert!(frames.contains(&Raw::of(GROUP_EVENT).info(MISSED).to("chess")), "{frames:?}");
    assert!(!hub.frames(three).iter().any(|frame| frame.kind == GROUP_EVENT));
    let two = acms::unsynced(&mut hub, 2);
    acms::drain(&mut hub);
    hub.put(two, Raw::of(BURST_BEGIN));
    hub.put(two, Raw::of(GROUP_ON).to("chess"));
    assert_eq!(hub.frame(one), Raw::of(GROUP_EVENT).info(MISSED).to("chess"));
    hub.reset(one);
    hub.reset(two);
    assert_eq!(hub.core.group_count(), 0);
}

#[test]
fn a_server_with_more_groups_than_it_may_have_is_wrong() {
    let mut hub = acms::hub();
    let one = acms::member(&mut hub, 1);
    let frames: Vec<u8> = (0..65_536).flat_map(|number| Raw::of(GROUP_ON).to(&format!("g{number}")).bytes()).collect();
    hub.feed(one, frames);
    hub.put(one, Raw::of(GROUP_ON).to("g7"));
    hub.silent(one);
    assert_eq!(hub.core.group_count(), 65_536, "one that is in already is none too many");
    hub.put(one, Raw::of(GROUP_ON).to("one too many"));
    hub.closed_with(one, 1503);
    assert_eq!(hub.core.group_count(), 0);
}

#[test]
fn members_are_asked_of_each_server_and_the_asker_hears_of_how_many() {
    let mut hub = acms::hub();
    let [one, two, three] = three(&mut hub);
    let question = Raw::of(GROUP_MEMBERS).id(3 << 48 | 9).to("chess");
    hub.put(three, question.clone());
    assert_eq!((hub.frame(one), hub.frame(two)), (question.clone(), question.clone()));
    assert_eq!(hub.frame(three), question.info(2));
    let told = Raw::of(GROUP_MEMBERS_ARE).info(2).id(3 << 48 | 9).from("chess").body(b"\x03bob");
    hub.put(two, told.clone());
    assert_eq!(hub.frame(three), told);
}

#[test]
fn an_edit_finds_the_users_server() {
    let mut hub = acms::hub();
    let [one, two, _] = three(&mut hub);
    let edit = |to: &str| Raw::of(GROUP_EDIT).info(1).id(1 << 48).to(to).from("chess");
    hub.put(one, edit("bob"));
    assert_eq!(hub.frame(two), edit("bob"));
    hub.put(two, Raw::of(ACK).id(1 << 48).from("bob"));
    assert_eq!(hub.frame(one), Raw::of(ACK).id(1 << 48).from("bob"));
    hub.put(one, edit("zoe"));
    assert_eq!(hub.frame(one), Raw::of(BOUNCE).info(1).id(1 << 48).from("zoe"));
}

// The client.

fn clients(program: &mut Program) -> Vec<client::Event> {
    std::iter::from_fn(|| program.core.poll_event()).collect()
}

/// A client that is in the group; its server has what it said.
fn in_group() -> (Program, ConnId) {
    let (mut program, conn) = online();
    let id = program.core.join(program.now, &chess()).expect("there is room");
    program.turn();
    let join = program.frame(conn);
    assert_eq!(join, Raw::of(GROUP_JOIN).id(join.id).to("chess").from("alice"));
    program.put(conn, event(JOINED, "alice").id(join.id));
    assert_eq!(clients(&mut program), [client::Event::Joined { id, outcome: Ok(()) }]);
    (program, conn)
}

fn change_of(name: &str, change: GroupChange) -> client::Event {
    client::Event::Member { group: chess(), user: user(name), change }
}

#[test]
fn a_client_hears_what_is_said_and_who_comes_and_goes() {
    let (mut program, conn) = in_group();
    program.put(conn, event(JOINED, "bob"));
    program.put(conn, said("bob", 3).flags(WANT_ACK));
    assert_eq!(program.frame(conn), Raw::of(ACK).id(3).to("bob").from("alice"));
    program.put(conn, event(OFFLINE, "bob"));
    program.put(conn, Raw::of(GROUP_EVENT).info(MISSED).to("chess"));
    program.put(conn, event(9, "bob"));
    let events = clients(&mut program);
    let [came, client::Event::GroupMessage { group, message }, went, missed] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!((came, went), (&change_of("bob", GroupChange::Joined), &change_of("bob", GroupChange::Offline)));
    assert_eq!((group, &message.from, &message.body[..]), (&chess(), &Some(user("bob")), &b"hi"[..]));
    assert_eq!(missed, &client::Event::MembersMissed(chess()));
}

#[test]
fn a_client_joins_again_after_a_lost_connection() {
    let (mut program, conn) = in_group();
    program.reset(conn);
    until_dial(&mut program);
    let conn = greet(&mut program);
    let join = program.frame(conn);
    assert_eq!((join.kind, &join.to[..]), (GROUP_JOIN, &b"chess"[..]));
    clients(&mut program);
    program.put(conn, event(JOINED, "alice").id(join.id));
    // It was not there meanwhile.
    assert_eq!(clients(&mut program), [client::Event::MembersMissed(chess())]);

    program.reset(conn);
    until_dial(&mut program);
    let conn = greet(&mut program);
    clients(&mut program);
    let join = program.frame(conn);
    program.put(conn, Raw::of(BOUNCE).info(4).id(join.id).to("alice").from("chess"));
    assert_eq!(clients(&mut program), []);
    program.pass_ms(1_100);
    let join = program.frame(conn);
    assert_eq!(join.kind, GROUP_JOIN, "who has no room now may have it later");
    program.put(conn, Raw::of(BOUNCE).info(5).id(join.id).to("alice").from("chess"));
    assert_eq!(clients(&mut program), [change_of("alice", GroupChange::Left)]);
}

#[test]
fn a_join_waits_for_a_connection_and_ends_in_thirty_seconds() {
    let mut program = crate::client::started();
    let id = program.core.join(program.now, &chess()).expect("there is room");
    program.turn();
    let conn = greet(&mut program);
    assert_eq!(program.frame(conn).kind, GROUP_JOIN);
    clients(&mut program);
    for _ in 0..31 {
        program.put(conn, Raw::of(PONG));
        program.pass_ms(1_000);
    }
    assert_eq!(clients(&mut program), [client::Event::Joined { id, outcome: Err(JoinFailure::TimedOut) }]);
    assert_eq!(program.frame(conn), Raw::of(GROUP_LEAVE).to("chess").from("alice"));
    assert_eq!(program.core.groups().count(), 0);
}

#[test]
fn a_refused_join_is_told_once() {
    let (mut program, conn) = online();
    let first = program.core.join(program.now, &chess()).expect("there is room");
    let second = program.core.join(program.now, &chess()).expect("there is room");
    program.turn();
    let join = program.frame(conn);
    let denied = Raw::of(BOUNCE).info(5).id(join.id).to("alice").from("chess");
    program.put(conn, denied.clone());
    program.put(conn, denied);
    let refused = |id| client::Event::Joined { id, outcome: Err(JoinFailure::Refused(Bounce::Denied)) };
    assert_eq!(clients(&mut program), [refused(first), refused(second)]);
    program.put(conn, said("bob", 3));
    assert_eq!(clients(&mut program), [], "what is said in a group that it is not in");
}

#[test]
fn what_server_code_does_with_a_client_it_hears() {
    let (mut program, conn) = online();
    program.put(conn, event(JOINED, "alice"));
    program.put(conn, event(LEFT, "alice"));
    assert_eq!(clients(&mut program), [change_of("alice", GroupChange::Joined), change_of("alice", GroupChange::Left)]);
}

#[test]
fn who_leaves_and_joins_at_once_is_in() {
    let (mut program, conn) = in_group();
    program.core.leave(program.now, &chess()).expect("connected");
    let id = program.core.join(program.now, &chess()).expect("there is room");
    program.turn();
    let frames = program.frames(conn);
    assert_eq!(frames.iter().map(|frame| frame.kind).collect::<Vec<_>>(), [GROUP_LEAVE, GROUP_JOIN]);
    program.put(conn, said("bob", 1));
    program.put(conn, event(LEFT, "alice"));
    program.put(conn, event(JOINED, "alice").id(frames[1].id));
    assert_eq!(clients(&mut program), [client::Event::Joined { id, outcome: Ok(()) }]);
}

#[test]
fn what_a_client_says_to_a_group_comes_back_in_a_members_name() {
    let (mut program, conn) = in_group();
    let id = program.core.broadcast(program.now, &chess(), Flags::NONE, 7, b"hi").expect("connected");
    program.turn();
    assert_eq!(program.frame(conn), said("alice", id));
    program.put(conn, Raw::of(BOUNCE).info(4).id(id).to("alice").from("bob"));
    assert!(matches!(&clients(&mut program)[..], [client::Event::Bounced { id: at, to, cause: Bounce::Busy }]
        if *at == id && to == b"bob"));
    program.reset(conn);
    assert_eq!(program.core.broadcast(program.now, &chess(), Flags::NONE, 7, b"hi"), Err(SendError::NotConnected));
}
