//! What an operator sees of the cluster manager's core, and has it do.

use trunkline::id::ConnId;
use trunkline::role::Core;
use trunkline::role::acms::{Assignment, Candidate, Event, NoServer, Settled, Standing};
use trunkline::time::Span;
use trunkline::{Bounce, Members, ServerId, UserId};

use crate::acms::{Hub, bind, drain, hub, hub_with, log_in, member, register, registering, two_with_users, unsynced};
use crate::wire_peer::{
    ACK, BOUNCE, BURST_BEGIN, DATA, DRAIN, ERROR, GROUP_DATA, GROUP_MEMBERS, GROUP_MEMBERS_ARE, GROUP_ON, KICK, PING,
    REPLY, Raw, SERVERS, STATE, SYNCED, UNBIND, WANT_ACK,
};

const SERVER_DATA: u8 = 0x99;
const SERVER_QUERY: u8 = 0x9A;
const EVERYONE: u8 = 0x9F;
/// Of the first message of the manager's own, whose boot number is 4.
const FIRST: u64 = 0xFFFF_0000_0400_0001;

fn user(name: &str) -> UserId {
    name.parse().expect("an id")
}

fn settled(hub: &mut Hub) -> Vec<(u64, Settled)> {
    let events = std::iter::from_fn(|| hub.core.poll_event());
    let settled = events.filter_map(|event| match event {
        Event::Settled { id, settled } => Some((id, settled)),
        _ => None,
    });
    settled.collect()
}

#[test]
fn a_server_is_seen_with_its_pace_and_its_standing() {
    let mut hub = hub();
    let conn = unsynced(&mut hub, 1);
    let standing = |hub: &Hub| hub.core.servers(hub.now).map(|view| view.standing).collect::<Vec<_>>();
    assert_eq!(standing(&hub), [Standing::Syncing]);
    hub.put(conn, Raw::of(BURST_BEGIN));
    hub.put(conn, Raw::of(SYNCED));
    assert_eq!(standing(&hub), [Standing::Open]);
    let report = |frames: u64| Raw::of(STATE).body(format!(r#"{{"frames":{frames},"bytes":{}}}"#, frames * 100));
    hub.pass_ms(1_000);
    hub.put(conn, report(50_000));
    let view = hub.core.servers(hub.now).next().expect("one");
    assert_eq!(view.pace.frames_per_second, 0, "the first report tells of all since the server's start");
    hub.pass_ms(500);
    hub.put(conn, report(50_600));
    let view = hub.core.servers(hub.now).next().expect("one");
    assert_eq!((view.pace.frames_per_second, view.pace.bytes_per_second), (1_200, 120_000));
    assert_eq!((view.state.frames, view.connected.as_millis()), (50_600, 1_500));
    hub.pass_ms(500);
    hub.put(conn, report(7));
    let view = hub.core.servers(hub.now).next().expect("one");
    assert_eq!(view.pace.frames_per_second, 0, "a count that falls is no pace");
    hub.core.freeze(hub.now, ServerId(1));
    assert_eq!(standing(&hub), [Standing::Frozen]);
    hub.put(conn, Raw::of(DRAIN));
    assert_eq!(standing(&hub), [Standing::Draining]);
}

#[test]
fn nobody_has_the_managers_own_number() {
    let mut hub = hub();
    let conn = registering(&mut hub, 65_535, 1, &register("10.0.0.1:6000", 0, ""));
    let (code, text) = hub.closed(conn);
    assert_eq!((code, text.as_str()), (1512, "server id 65535 is the cluster manager's own"));
}

#[test]
fn a_server_is_asked_to_drain_and_another_is_removed() {
    let mut hub = hub();
    let (a, b) = (member(&mut hub, 1), member(&mut hub, 2));
    drain(&mut hub);
    assert!(hub.core.ask_to_drain(hub.now, ServerId(1)));
    assert!(hub.core.expel(hub.now, ServerId(2)));
    assert!(!hub.core.expel(hub.now, ServerId(2)) && !hub.core.ask_to_drain(hub.now, ServerId(3)));
    hub.turn();
    assert_eq!(hub.next(a), Raw::of(DRAIN));
    assert_eq!(hub.next(a).kind, SERVERS);
    let (code, text) = hub.closed(b);
    assert_eq!((code, text.as_str()), (1510, "removed by an operator"));
}

#[test]
fn a_user_is_ended_wherever_it_is_or_not_found() {
    let mut hub = hub_with(|config| config.directory_grace = Span::from_secs(1));
    let (a, _) = two_with_users(&mut hub);
    assert_eq!(hub.core.evict(hub.now, &user("alice"), "enough"), Ok(()));
    assert_eq!(hub.core.evict(hub.now, &user("nobody"), ""), Err(Bounce::Retry));
    hub.turn();
    let kick = hub.frame(a);
    assert_eq!((kick.kind, kick.info, kick.to.as_slice()), (KICK, 1510, &b"alice"[..]));
    assert_eq!(kick.text(), "enough");
}

#[test]
fn a_page_looks_at_a_bounded_number_of_places_however_many_users_match() {
    let mut hub = hub();
    let (a, b) = (member(&mut hub, 1), member(&mut hub, 2));
    let names: Vec<String> = (0..40_000).map(|number| format!("user{number}")).collect();
    for (conn, names) in [(a, &names[..39_990]), (b, &names[39_990..])] {
        for names in names.chunks(1_000) {
            let entries: Vec<(u64, u64, &str)> =
                (1..).zip(names).map(|(session, name)| (session, 0, name.as_str())).collect();
            hub.put(conn, bind(&entries));
        }
    }
    let (mut found, mut after, mut pages) = (Vec::new(), Some(0), 0);
    while let Some(place) = after {
        let page = hub.core.users(Some(ServerId(2)), place, 1_000);
        found.extend(page.users);
        after = page.next;
        pages += 1;
    }
    assert!(pages >= 3, "{pages} pages of at most 16,384 places");
    let mut found: Vec<String> = found.into_iter().map(|(user, _)| user.to_string()).collect();
    found.sort_unstable();
    let mut wanted = names[39_990..].to_vec();
    wanted.sort_unstable();
    assert_eq!(found, wanted);
    assert_eq!(hub.core.users(None, u64::MAX, 10).next, None);
    let page = hub.core.users(None, 0, 10);
    assert_eq!((page.users.len(), page.next), (10, Some(10)));
}

/// As they come and go, but not those of a burst or of a lost server.
#[test]
fn users_are_told_of_only_to_those_who_ask() {
    let mut hub = hub();
    let (a, b) = two_with_users(&mut hub);
    let told = |hub: &mut Hub| {
        let events = std::iter::from_fn(|| hub.core.poll_event());
        let told = events.filter_map(|event| match event {
            Event::Online { user, server } => Some(format!("{user} on {server}")),
            Event::Offline { user, server } => Some(format!("{user} off {server}")),
            _ => None,
        });
        told.collect::<Vec<_>>()
    };
    assert_eq!(told(&mut hub), Vec::<String>::new());
    hub.core.tell_of_users(true);
    log_in(&mut hub, a, "carol", 9);
    log_in(&mut hub, b, "carol", 9);
    assert_eq!(told(&mut hub), ["carol on 1", "carol on 2"], "a move is no going");
    hub.put(a, Raw::of(UNBIND).from("carol").id(9));
    assert_eq!(told(&mut hub), Vec::<String>::new(), "a late word of the session before");
    hub.put(b, Raw::of(UNBIND).from("carol").id(9));
    assert_eq!(told(&mut hub), ["carol off 2"]);
    hub.reset(a);
    hub.put(b, Raw::of(BURST_BEGIN));
    hub.put(b, bind(&[(1, 0, "bob"), (10, 0, "dora")]));
    hub.put(b, Raw::of(SYNCED).info(2));
    assert_eq!(told(&mut hub), Vec::<String>::new(), "what concerns many is told of the server");
    hub.put(b, Raw::of(UNBIND).from("dora").id(10));
    assert_eq!(told(&mut hub), ["dora off 2"]);
}

#[test]
fn a_message_to_a_user_is_settled_by_that_users_word_alone() {
    let mut hub = hub();
    let (a, b) = two_with_users(&mut hub);
    let ends = hub.now + Span::from_secs(5);
    assert_eq!(hub.core.send_to_user(hub.now, &user("bob"), 7, b"hi", ends), Ok(FIRST));
    assert_eq!(hub.core.send_to_user(hub.now, &user("nobody"), 7, b"hi", ends), Err(Bounce::Offline));
    hub.turn();
    assert_eq!(hub.frame(b), Raw::of(DATA).flags(WANT_ACK).info(7).id(FIRST).to("bob").body("hi"));
    for forged in [Raw::of(ACK).from("alice"), Raw::of(BOUNCE).info(1).from("alice"), Raw::of(REPLY).from("alice")] {
        hub.put(a, forged.id(FIRST));
    }
    hub.put(b, Raw::of(ACK).from("bob").id(FIRST + 1));
    assert_eq!(settled(&mut hub), []);
    hub.put(b, Raw::of(ACK).from("bob").id(FIRST));
    hub.put(b, Raw::of(ACK).from("bob").id(FIRST));
    assert_eq!(settled(&mut hub), [(FIRST, Settled::Delivered)], "once");
    let second = hub.core.send_to_user(hub.now, &user("bob"), 7, b"hi", ends).expect("bob is in");
    hub.put(b, Raw::of(BOUNCE).info(4).from("bob").id(second));
    assert_eq!(settled(&mut hub), [(second, Settled::Bounced(Bounce::Busy))]);
    let third = hub.core.send_to_user(hub.now, &user("bob"), 7, b"hi", hub.now + Span::from_millis(500)).expect("in");
    hub.pass_ms(499);
    assert_eq!(settled(&mut hub), []);
    hub.pass_ms(20);
    assert_eq!(settled(&mut hub), [(third, Settled::TimedOut)]);
}

#[test]
fn what_waits_for_a_users_server_ends_with_that_server() {
    let mut hub = hub();
    let (a, b) = two_with_users(&mut hub);
    let ends = hub.now + Span::from_secs(5);
    let said = ["alice", "bob"].map(|name| hub.core.send_to_user(hub.now, &user(name), 7, b"hi", ends).expect("in"));
    let asked = ["alice", "bob"].map(|name| hub.core.ask_about(hub.now, &user(name), ends).expect("in"));
    hub.turn();
    hub.reset(b);
    let over = [(said[1], Settled::TimedOut), (asked[1], Settled::Bounced(Bounce::Retry))];
    assert_eq!(settled(&mut hub), over, "alice's server is there");
    hub.put(a, Raw::of(ACK).from("alice").id(said[0]));
    assert_eq!(settled(&mut hub), [(said[0], Settled::Delivered)]);
}

#[test]
fn nothing_is_waited_for_longer_than_a_minute() {
    let mut hub = hub();
    let (a, b) = two_with_users(&mut hub);
    let ends = hub.now + Span::from_secs(1 << 40);
    let id = hub.core.send_to_user(hub.now, &user("bob"), 7, b"hi", ends).expect("bob is in");
    for _ in 0..60 {
        assert_eq!(settled(&mut hub), []);
        [a, b].iter().for_each(|conn| hub.put(*conn, Raw::of(PING)));
        hub.pass_ms(999);
    }
    hub.pass_ms(100);
    assert_eq!(settled(&mut hub), [(id, Settled::TimedOut)]);
}

#[test]
fn a_servers_handler_is_asked_and_only_that_server_answers() {
    let mut hub = hub();
    let (a, b) = (member(&mut hub, 1), member(&mut hub, 2));
    drain(&mut hub);
    let ends = hub.now + Span::from_secs(5);
    let ask = |hub: &mut Hub| hub.core.query_server(hub.now, ServerId(2), 9, b"how many?", ends).expect("it is in");
    let id = ask(&mut hub);
    hub.turn();
    let mut wanted = Raw::of(SERVER_QUERY).info(9).id(id).body("how many?");
    wanted.to = vec![0, 2];
    assert_eq!(hub.frame(b), wanted);
    hub.put(a, Raw::of(REPLY).id(id).body("me"));
    assert_eq!(settled(&mut hub), []);
    hub.put(b, Raw::of(REPLY).info(3).id(id).body("42"));
    assert_eq!(settled(&mut hub), [(id, Settled::Answered { info_type: 3, body: "42".into() })]);
    let id = ask(&mut hub);
    hub.put(b, Raw::of(REPLY).flags(ERROR).id(id).body("tired"));
    assert_eq!(settled(&mut hub), [(id, Settled::Failed("tired".to_owned()))]);
    for nobody in [Raw::of(REPLY).flags(ERROR), Raw::of(BOUNCE).info(7)] {
        let id = ask(&mut hub);
        hub.put(b, nobody.id(id));
        assert_eq!(settled(&mut hub), [(id, Settled::Bounced(Bounce::NoHandler))]);
    }
    let id = ask(&mut hub);
    hub.reset(b);
    assert_eq!(settled(&mut hub), [(id, Settled::Bounced(Bounce::Unreachable))]);
    assert_eq!(hub.core.query_server(hub.now, ServerId(2), 9, b"", ends), Err(Bounce::Offline));
    assert_eq!(hub.core.send_to_server(hub.now, ServerId(1), 9, b"note"), Ok(()));
    drain(&mut hub);
    hub.turn();
    let note = hub.frame(a);
    assert_eq!((note.kind, note.to.as_slice(), note.body.as_slice()), (SERVER_DATA, &[0, 1][..], &b"note"[..]));
}

#[test]
fn what_is_open_is_bounded() {
    let mut hub = hub();
    let (_, _) = two_with_users(&mut hub);
    let ends = hub.now + Span::from_secs(1);
    for _ in 0..1_024 {
        hub.core.send_to_user(hub.now, &user("bob"), 7, b"", ends).expect("room");
    }
    assert_eq!(hub.core.send_to_user(hub.now, &user("bob"), 7, b"", ends), Err(Bounce::Busy));
    hub.pass_ms(1_100);
    assert_eq!(settled(&mut hub).len(), 1_024);
    assert!(hub.core.send_to_user(hub.now, &user("bob"), 7, b"", ends + Span::from_secs(1)).is_ok());
}

#[test]
fn a_group_is_told_and_listed_over_the_servers_that_have_members() {
    let mut hub = hub();
    let (a, b) = two_with_users(&mut hub);
    let c = member(&mut hub, 3);
    let chess = "chess".parse().expect("an id");
    let ends = hub.now + Span::from_secs(3);
    assert_eq!(hub.core.send_to_group(hub.now, &chess, 7, b"hi"), Err(Bounce::Offline));
    assert_eq!(hub.core.ask_members_of(hub.now, &chess, ends), Err(Bounce::Offline));
    for conn in [a, b] {
        hub.put(conn, Raw::of(GROUP_ON).to("chess"));
    }
    drain(&mut hub);
    assert_eq!(hub.core.send_to_group(hub.now, &chess, 7, b"hi"), Ok(()));
    let id = hub.core.ask_members_of(hub.now, &chess, ends).expect("it has some");
    hub.turn();
    for conn in [a, b] {
        let said = hub.next(conn);
        assert_eq!((said.kind, said.info, said.to.as_slice()), (GROUP_DATA, 7, &b"chess"[..]));
        assert_eq!(hub.next(conn), Raw::of(GROUP_MEMBERS).id(id).to("chess"));
    }
    hub.silent(c);
    let are = |server: u32, users: &str| Raw::of(GROUP_MEMBERS_ARE).info(server).id(id).from("chess").body(users);
    hub.put(c, are(3, "\x04evil"));
    hub.put(a, are(1, "\x05alice"));
    assert_eq!(settled(&mut hub), []);
    hub.put(b, are(2, "\x03bob"));
    let users = [(user("alice"), ServerId(1)), (user("bob"), ServerId(2))].into_iter().collect();
    assert_eq!(settled(&mut hub), [(id, Settled::Members(Members { users, complete: true }))]);
    let id = hub.core.ask_members_of(hub.now, &chess, ends).expect("it has some");
    hub.reset(a);
    hub.put(b, Raw::of(GROUP_MEMBERS_ARE).info(2).id(id).from("chess").body("\x03bob"));
    let users = [(user("bob"), ServerId(2))].into_iter().collect();
    assert_eq!(settled(&mut hub), [(id, Settled::Members(Members { users, complete: false }))], "one has not answered");
}

#[test]
fn a_list_of_a_groups_members_is_so_long_and_no_longer() {
    let mut hub = hub();
    let conns = [member(&mut hub, 1), member(&mut hub, 2)];
    conns.iter().for_each(|conn| hub.put(*conn, Raw::of(GROUP_ON).to("chess")));
    let ends = hub.now + Span::from_secs(3);
    let chess = "chess".parse().expect("an id");
    let id = hub.core.ask_members_of(hub.now, &chess, ends).expect("it has some");
    for (server, conn) in (1..).zip(conns) {
        let names: Vec<u8> = (0..3_000).flat_map(|number| format!("\x06{server}{number:0>5}").into_bytes()).collect();
        hub.put(conn, Raw::of(GROUP_MEMBERS_ARE).info(server).id(id).from("chess").body(names));
    }
    let settled = settled(&mut hub);
    let [(settled, Settled::Members(members))] = &settled[..] else { panic!("{settled:?}") };
    assert_eq!((*settled, members.users.len(), members.complete), (id, 4_096, false));
}

#[test]
fn what_goes_to_several_servers_is_the_same_bytes_in_each_queue() {
    let mut hub = hub();
    let conns = [member(&mut hub, 1), member(&mut hub, 2), member(&mut hub, 3)];
    let [a, b, c] = conns;
    conns.iter().for_each(|conn| hub.put(*conn, Raw::of(GROUP_ON).to("chess")));
    drain(&mut hub);
    // So large that a queue that has to wait keeps the slice that it has.
    let body = vec![b'x'; 40_000];
    let are_shared = |hub: &mut Hub, conns: &[ConnId]| {
        let places: Vec<*const u8> = conns.iter().map(|conn| large_slice(hub, *conn)).collect();
        places.iter().all(|place| *place == places[0])
    };
    let mut forwarded = 0;
    let mut check = |hub: &mut Hub, receivers: &[ConnId]| {
        hub.turn();
        assert!(are_shared(hub, receivers));
        forwarded += receivers.len() as u64;
        assert_eq!(hub.core.counters().forwarded, forwarded);
        receivers.iter().for_each(|conn| hub.unstall(*conn));
        receivers.iter().for_each(|conn| hub.stall(*conn));
    };
    conns.iter().for_each(|conn| hub.stall(*conn));
    hub.core.send_to_everyone(hub.now, 7, &body);
    check(&mut hub, &[a, b, c]);
    assert_eq!(hub.core.send_to_group(hub.now, &"chess".parse().expect("an id"), 7, &body), Ok(()));
    check(&mut hub, &[a, b, c]);
    hub.put(a, Raw::of(EVERYONE).id(1 << 48).body(&body));
    check(&mut hub, &[b, c]);
}

/// Where the first large slice lies that waits for a connection.
fn large_slice(hub: &mut Hub, conn: ConnId) -> *const u8 {
    let mut slices = [std::io::IoSlice::new(&[]); 8];
    let filled = hub.core.links().fill(conn, &mut slices);
    slices[..filled].iter().find(|slice| slice.len() > 32_768).expect("a large slice").as_ptr()
}

/// Whoever's name begins with a letter of the second half goes to the last server.
struct ByName;

impl Assignment for ByName {
    fn choose(&mut self, user: Option<&UserId>, candidates: &[Candidate<'_>]) -> Option<ServerId> {
        let user = user?;
        let chosen = if user.as_str() < "n" { candidates.first() } else { candidates.last() };
        chosen.map(|candidate| candidate.server)
    }
}

#[test]
fn an_applications_own_policy_chooses_among_those_that_take_users() {
    let mut hub = hub();
    hub.core.assign_by(Box::new(ByName));
    let assign = |hub: &mut Hub, name: &str| hub.core.assign(hub.now, Some(&user(name))).map(|to| to.server.0);
    assert_eq!(assign(&mut hub, "alice"), Err(NoServer::NoneRegistered));
    for id in [1, 2, 3] {
        member(&mut hub, id);
    }
    assert_eq!(assign(&mut hub, "alice"), Ok(1));
    assert_eq!(assign(&mut hub, "zoe"), Ok(3));
    assert_eq!(hub.core.assign(hub.now, None), Err(NoServer::Declined));
    hub.core.freeze(hub.now, ServerId(3));
    assert_eq!(assign(&mut hub, "yves"), Ok(2));
    assert_eq!(hub.core.assigned_count(), 3);
}
