//! Presence at each core: who is told of whom, once, and last of what is true.
//!
//! Long for its list: every cause of a change, and of none, has its own named test.

use trunkline::id::ConnId;
use trunkline::limits;
use trunkline::link::End;
use trunkline::role::Core;
use trunkline::role::appserver::{Event, Friendship};
use trunkline::role::client;
use trunkline::time::Span;

use crate::acms::{self, Hub, hub, hub_with, member, two_with_users};
use crate::appserver::{Server, alone, joined, log_in, log_in_through, user};
use crate::client::{Program, greet, online, until_dial};
use crate::groups::member_through;
use crate::wire_peer::{
    ANSWER, ASK, BIND, BURST_BEGIN, CHALLENGE, CLOSE, FOUND, GROUP_MEMBERS, LOGOUT, LOOKUP, PONG, PRESENCE, REGISTERED,
    RESYNC, Raw, SYNCED, UNBIND, UNWATCH, WATCH,
};

/// What PRESENCE says of a user.
fn presence(user: &str, online: bool) -> Raw {
    Raw::of(PRESENCE).info(online.into()).from(user)
}

/// Everyone who is online was named.
fn all_named() -> Raw {
    Raw::of(PRESENCE).info(1)
}

/// The body of a WATCH or UNWATCH.
fn watch(kind: u8, users: &[&str]) -> Raw {
    Raw::of(kind)
        .body(users.iter().flat_map(|user| [&[user.len() as u8], user.as_bytes()].concat()).collect::<Vec<_>>())
}

fn watch_all(kind: u8) -> Raw {
    Raw::of(kind).info(1)
}

// The application server.

fn befriend(server: &mut Server, conn: ConnId, friends: &[&str]) {
    let friends = Friendship::Users(friends.iter().map(|name| user(name)).collect());
    server.core.befriend(server.now, conn, friends);
    server.turn();
    server.pass_ms(0);
}

fn befriend_everyone(server: &mut Server, conn: ConnId) {
    server.core.befriend(server.now, conn, Friendship::Everyone);
    server.turn();
    server.pass_ms(0);
}

fn log_out(server: &mut Server, conn: ConnId, user: &str) {
    server.put(conn, Raw::of(LOGOUT).from(user));
    server.pass_ms(0);
}

/// The ACMS says how a user stands.
fn tell(server: &mut Server, up: ConnId, user: &str, online: bool) {
    server.put(up, presence(user, online));
    server.pass_ms(0);
}

/// The link is lost; nothing comes of it but what the returned moment's rest brings.
fn lose_link(server: &mut Server, up: ConnId) {
    server.reset(up);
    server.pass_ms(0);
    assert!(!server.core.cluster_is_up());
}

/// The ACMS is there again, and was told of all sessions: what it is told of whom this server watches.
fn rejoin(server: &mut Server) -> (ConnId, Vec<Raw>) {
    while server.dials.is_empty() {
        server.pass_ms(50);
    }
    let up = server.answer_dial();
    server.wire(up).got.clear();
    server.put(up, Raw::of(CHALLENGE).id(3).body([4; 32]));
    server.frames(up);
    server.put(up, Raw::of(REGISTERED).id(3));
    server.pass_ms(0);
    let frames = server.frames(up).into_iter().filter(|frame| ![BURST_BEGIN, BIND, SYNCED].contains(&frame.kind));
    (up, frames.collect())
}

#[test]
fn alone_a_friend_hears_of_each_coming_and_going_once() {
    let mut server = alone();
    let alice = log_in(&mut server, "alice");
    befriend(&mut server, alice, &["bob", "carol", "alice"]);
    assert_eq!(server.frames(alice), [presence("bob", false), presence("carol", false)]);
    let bob = log_in(&mut server, "bob");
    server.pass_ms(0);
    assert_eq!(server.frame(alice), presence("bob", true));
    log_in(&mut server, "dave");
    server.pass_ms(0);
    server.silent(alice);
    log_out(&mut server, bob, "bob");
    assert_eq!(server.frame(alice), presence("bob", false));
    server.frames(bob);
    log_out(&mut server, alice, "alice");
    assert_eq!(server.core.presence_counts(), (0, 0, 0), "who left watches nobody");
}

#[test]
fn alone_who_is_back_within_the_grace_was_never_gone() {
    let mut server = alone();
    let alice = log_in(&mut server, "alice");
    befriend(&mut server, alice, &["bob"]);
    let bob = log_in(&mut server, "bob");
    server.pass_ms(0);
    assert_eq!(server.frames(alice), [presence("bob", false), presence("bob", true)]);
    server.reset(bob);
    server.pass_ms(9_900);
    server.put(alice, Raw::of(PONG));
    let bob = log_in(&mut server, "bob");
    // Twice: the second login replaces the first.
    log_in(&mut server, "bob");
    server.pass_ms(5_000);
    server.put(alice, Raw::of(PONG));
    server.silent(alice);
    server.frames(bob);
    let again = server.core.conn_of(&user("bob")).expect("the second is in");
    server.reset(again);
    server.pass_ms(9_950);
    server.put(alice, Raw::of(PONG));
    server.silent(alice);
    server.pass_ms(60);
    assert_eq!(server.frame(alice), presence("bob", false));
}

#[test]
fn whom_the_acms_is_asked_about_and_what_it_says_reaches_the_watchers_as_changes() {
    let (mut server, up) = joined();
    let (alice, _) = log_in_through(&mut server, up, "alice");
    befriend(&mut server, alice, &["bob", "carol"]);
    assert_eq!(server.frame(up), watch(WATCH, &["bob", "carol"]));
    server.silent(alice);
    tell(&mut server, up, "bob", true);
    assert_eq!(server.frame(alice), presence("bob", true));
    tell(&mut server, up, "bob", true);
    server.silent(alice);
    let (dave, _) = log_in_through(&mut server, up, "dave");
    befriend(&mut server, dave, &["bob"]);
    assert_eq!(server.frame(dave), presence("bob", true), "what is known is told at once");
    server.silent(up);
    tell(&mut server, up, "bob", false);
    assert_eq!((server.frame(alice), server.frame(dave)), (presence("bob", false), presence("bob", false)));
    tell(&mut server, up, "stranger", true);
    server.silent(alice);
    log_out(&mut server, alice, "alice");
    let told: Vec<Raw> = server.frames(up).into_iter().filter(|frame| frame.kind != UNBIND).collect();
    assert_eq!(told, [watch(UNWATCH, &["carol"])], "bob is still watched");
}

#[test]
fn a_user_of_this_server_is_told_of_without_the_acms_and_gone_when_that_says_so() {
    let (mut server, up) = joined();
    let (alice, _) = log_in_through(&mut server, up, "alice");
    befriend(&mut server, alice, &["bob"]);
    assert_eq!(server.frame(up), watch(WATCH, &["bob"]));
    tell(&mut server, up, "bob", false);
    assert_eq!(server.frame(alice), presence("bob", false));
    let (bob, session) = log_in_through(&mut server, up, "bob");
    server.pass_ms(0);
    assert_eq!(server.frame(alice), presence("bob", true));
    // In elsewhere: this session is closed, and bob is where he was.
    server.put(up, Raw::of(0x8A).to("bob").id(session).info(1508));
    server.pass_ms(0);
    assert_eq!(server.frame(bob).info, 1508);
    tell(&mut server, up, "bob", true);
    server.silent(alice);
    tell(&mut server, up, "bob", false);
    assert_eq!(server.frame(alice), presence("bob", false));
}

#[test]
fn while_cut_off_nothing_changes_and_afterwards_only_what_did() {
    let (mut server, up) = joined();
    let (alice, _) = log_in_through(&mut server, up, "alice");
    befriend(&mut server, alice, &["bob", "carol", "dave"]);
    for (name, online) in [("bob", true), ("carol", false), ("dave", true)] {
        tell(&mut server, up, name, online);
    }
    server.frames(alice);
    lose_link(&mut server, up);
    server.silent(alice);
    let (up, told) = rejoin(&mut server);
    assert_eq!(told, [watch(WATCH, &["bob", "carol", "dave"])]);
    server.silent(alice);
    for (name, online) in [("bob", true), ("carol", false), ("dave", false)] {
        tell(&mut server, up, name, online);
    }
    assert_eq!(server.frames(alice), [presence("dave", false)]);
    server.put(up, Raw::of(RESYNC));
    server.pass_ms(0);
    let again = server.frames(up).into_iter().filter(|frame| frame.kind == WATCH).collect::<Vec<_>>();
    assert_eq!(again, [watch(WATCH, &["bob", "carol", "dave"])], "a burst is followed by it");
}

#[test]
fn cut_off_a_logout_here_is_told_at_once_and_a_broken_connection_after_the_grace() {
    let (mut server, up) = joined();
    let (alice, _) = log_in_through(&mut server, up, "alice");
    let (bob, _) = log_in_through(&mut server, up, "bob");
    let (carol, _) = log_in_through(&mut server, up, "carol");
    befriend(&mut server, alice, &["bob", "carol"]);
    server.frames(alice);
    lose_link(&mut server, up);
    log_out(&mut server, bob, "bob");
    assert_eq!(server.frame(alice), presence("bob", false));
    server.reset(carol);
    server.pass_ms(9_900);
    server.put(alice, Raw::of(PONG));
    server.silent(alice);
    server.pass_ms(200);
    assert_eq!(server.frame(alice), presence("carol", false));
}

#[test]
fn the_link_lost_behind_a_logout_leaves_nobody_online_who_is_not() {
    let (mut server, up) = joined();
    let (alice, _) = log_in_through(&mut server, up, "alice");
    let (bob, _) = log_in_through(&mut server, up, "bob");
    befriend(&mut server, alice, &["bob"]);
    server.frames(alice);
    log_out(&mut server, bob, "bob");
    server.silent(alice);
    lose_link(&mut server, up);
    server.pass_ms(9_900);
    server.put(alice, Raw::of(PONG));
    server.silent(alice);
    server.pass_ms(200);
    assert_eq!(server.frame(alice), presence("bob", false));
}

#[test]
fn a_session_that_ends_says_whether_its_user_may_be_back() {
    let (mut server, up) = joined();
    let mut code_of = |name: &str, end: &dyn Fn(&mut Server, ConnId)| {
        let (conn, _) = log_in_through(&mut server, up, name);
        end(&mut server, conn);
        server.turn();
        let unbind = server.frame(up);
        assert_eq!(unbind.kind, UNBIND);
        unbind.info
    };
    assert_eq!(code_of("alice", &|server, conn| server.put(conn, Raw::of(LOGOUT).from("alice"))), 0);
    assert_eq!(code_of("bob", &|server, conn| server.reset(conn)), 1003);
    assert_eq!(code_of("carol", &|server, conn| server.end(conn, End::Eof)), 0);
    assert_eq!(code_of("dave", &|server, conn| server.put(conn, Raw::of(CLOSE).info(1002))), 1003);
    let kick = |server: &mut Server, _| _ = server.core.kick(server.now, &user("erin"), "out");
    assert_eq!(code_of("erin", &kick), 0);
}

#[test]
fn a_client_watches_by_name_where_it_may_and_is_answered_once_it_is_known() {
    let (mut server, up) = joined();
    let (alice, _) = log_in_through(&mut server, up, "alice");
    server.put(alice, Raw::of(ASK).id(5).from("alice").body(br#"{"ask":"watch","users":["bob","eve"]}"#));
    let asked = std::iter::from_fn(|| server.core.poll_event()).find_map(|event| match event {
        Event::WatchAsked { conn, user, id, users } => Some((conn, user, id, users)),
        _ => None,
    });
    assert_eq!(asked, Some((alice, user("alice"), 5, vec![user("bob"), user("eve")])));
    server.silent(up);
    server.core.permit(server.now, alice, 5, vec![(user("bob"), true), (user("eve"), false)]);
    server.turn();
    let frames = server.frames(up);
    assert_eq!(frames[0], watch(WATCH, &["bob"]));
    assert_eq!((frames[1].kind, &frames[1].to[..], frames.len()), (LOOKUP, &b"bob"[..], 2));
    server.put(up, presence("bob", true));
    server.silent(alice);
    server.put(up, Raw::of(FOUND).id(frames[1].id).from("bob").body([0, 2]));
    let frames = server.frames(alice);
    assert_eq!(frames[0], presence("bob", true));
    let answer = r#"{"users":[{"user":"bob","online":true},{"user":"eve","online":null,"denied":true}]}"#;
    assert_eq!((frames[1].kind, frames[1].id, frames[1].text()), (ANSWER, 5, answer.to_owned()));
    server.put(alice, Raw::of(ASK).id(6).from("alice").body(br#"{"ask":"friends"}"#));
    assert_eq!(server.frame(alice).text(), r#"{"users":[{"user":"bob","online":true}]}"#);
    server.put(alice, Raw::of(ASK).id(7).from("alice").body(br#"{"ask":"unwatch","users":["bob"]}"#));
    assert_eq!(server.frame(alice), Raw::of(ANSWER).id(7).to("alice").body(b"{}"));
    assert_eq!(server.frame(up), watch(UNWATCH, &["bob"]));
    tell(&mut server, up, "bob", false);
    server.silent(alice);
}

/// alice asks to watch users.
fn watching(id: u64, users: &[&str]) -> Raw {
    Raw::of(ASK).id(id).from("alice").body(serde_json::json!({ "ask": "watch", "users": users }).to_string())
}

fn unwatching(id: u64, users: &[&str]) -> Raw {
    Raw::of(ASK).id(id).from("alice").body(serde_json::json!({ "ask": "unwatch", "users": users }).to_string())
}

#[test]
fn who_is_taken_out_while_the_application_is_asked_is_not_watched() {
    let (mut server, up) = joined();
    let (alice, _) = log_in_through(&mut server, up, "alice");
    server.put(alice, watching(5, &["bob", "carol", "dave"]));
    server.put(alice, watching(5, &["eve"]));
    assert_eq!(server.frame(alice).text(), r#"{"error":"busy; ask again"}"#, "with that id it asks already");
    server.put(alice, unwatching(6, &["bob", "dave"]));
    assert_eq!(server.frame(alice), Raw::of(ANSWER).id(6).to("alice").body(b"{}"));
    // Once more wanted, once more taken out.
    server.put(alice, watching(7, &["bob"]));
    server.silent(up);
    let permit = |server: &mut Server, id, users: &[(&str, bool)]| {
        let users = users.iter().map(|(name, may)| (user(name), *may)).collect();
        server.core.permit(server.now, alice, id, users);
        server.turn();
    };
    permit(&mut server, 5, &[("bob", true), ("carol", true), ("dave", false), ("mallory", true)]);
    let frames = server.frames(up);
    assert_eq!(frames[0], watch(WATCH, &["carol"]));
    assert_eq!((frames[1].kind, frames.len()), (LOOKUP, 2));
    // While the ACMS is asked, too.
    server.put(alice, unwatching(8, &["carol"]));
    assert_eq!((server.frame(up), server.frame(alice).id), (watch(UNWATCH, &["carol"]), 8));
    server.put(up, presence("carol", true));
    server.put(up, Raw::of(FOUND).id(frames[1].id).from("carol").body([0, 2]));
    let state = |name: &str| format!(r#"{{"user":"{name}","online":null}}"#);
    let states = ["bob", "carol", "dave", "mallory"].map(state).join(",");
    assert_eq!(server.frame(alice).text(), format!(r#"{{"users":[{states}]}}"#));
    permit(&mut server, 7, &[("bob", true)]);
    let asked = server.frames(up);
    assert_eq!(asked[0], watch(WATCH, &["bob"]), "what it asked behind the other holds");
    server.put(up, presence("bob", true));
    server.put(up, Raw::of(FOUND).id(asked[1].id).from("bob").body([0, 2]));
    assert_eq!(server.frames(alice).len(), 2);
    server.core.permit(server.now, alice, 7, vec![(user("eve"), true)]);
    server.silent(up);
    (9..137).for_each(|id| server.put(alice, watching(id, &["carol"])));
    server.silent(alice);
    server.put(alice, watching(137, &["carol"]));
    assert_eq!(server.frame(alice).text(), r#"{"error":"busy; ask again"}"#);
    assert_eq!(server.core.open_wishes(), 128);
    log_out(&mut server, alice, "alice");
    assert_eq!(server.core.open_wishes(), 0);
    permit(&mut server, 9, &[("carol", true)]);
    assert_eq!(server.core.presence_counts().0, 0, "who left watches nobody");
}

#[test]
fn a_client_watches_so_many_users_and_no_more() {
    let mut server = alone();
    let alice = log_in(&mut server, "alice");
    let friends: Vec<String> = (0..limits::WATCHES_OF_CLIENT_MAX - 1).map(|number| format!("friend{number}")).collect();
    befriend(&mut server, alice, &friends.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(server.frames(alice).len(), friends.len());
    server.put(alice, watching(1, &["bob", "carol"]));
    server.core.permit(server.now, alice, 1, vec![(user("bob"), true), (user("carol"), true)]);
    server.turn();
    let answer = r#"{"users":[{"user":"bob","online":false},{"user":"carol","online":null,"denied":true}]}"#;
    assert_eq!(server.frame(alice).text(), answer);
    assert_eq!(server.core.counters().watches_refused, 1);
    // Whom it watches it may ask for again; of whom it does not it hears nothing, though others do.
    server.put(alice, watching(2, &["bob"]));
    server.core.permit(server.now, alice, 2, vec![(user("bob"), true)]);
    server.turn();
    assert_eq!(server.frame(alice).text(), r#"{"users":[{"user":"bob","online":false}]}"#);
    let dave = log_in(&mut server, "dave");
    befriend(&mut server, dave, &["carol"]);
    befriend(&mut server, alice, &["carol"]);
    log_in(&mut server, "carol");
    server.pass_ms(0);
    server.silent(alice);
}

#[test]
fn who_hears_of_everyone_hears_of_all_servers_users_and_when_all_were_named() {
    let (mut server, up) = joined();
    let (alice, _) = log_in_through(&mut server, up, "alice");
    let (bob, _) = log_in_through(&mut server, up, "bob");
    befriend_everyone(&mut server, alice);
    assert_eq!((server.frame(up), server.frame(alice)), (watch_all(WATCH), presence("bob", true)));
    server.put(up, presence("carol", true));
    server.put(up, presence("bob", true));
    server.put(up, presence("alice", true));
    server.put(up, all_named());
    server.pass_ms(0);
    assert_eq!(server.frames(alice), [presence("carol", true), all_named()]);
    befriend_everyone(&mut server, bob);
    let mut told = server.frames(bob);
    told.sort_by_key(|frame| frame.from.clone());
    assert_eq!(told, [all_named(), presence("alice", true), presence("carol", true)]);
    lose_link(&mut server, up);
    let (up, told) = rejoin(&mut server);
    assert_eq!(told, [watch_all(WATCH)]);
    server.put(up, presence("dave", true));
    server.put(up, all_named());
    server.pass_ms(0);
    let mut told = server.frames(alice);
    told.sort_by_key(|frame| frame.from.clone());
    assert_eq!(told, [presence("carol", false), presence("dave", true)], "carol was not named again");
    log_out(&mut server, alice, "alice");
    log_out(&mut server, bob, "bob");
    assert!(server.frames(up).contains(&watch_all(UNWATCH)));
    assert_eq!(server.core.presence_counts().0, 0);
}

#[test]
fn everyone_is_so_many_users_and_no_more() {
    let (mut server, up) = joined();
    let (alice, _) = log_in_through(&mut server, up, "alice");
    let (bob, _) = log_in_through(&mut server, up, "bob");
    befriend(&mut server, bob, &["late"]);
    befriend_everyone(&mut server, alice);
    let names: Vec<String> = (0..limits::EVERYONE_USERS_MAX - 2).map(|number| format!("user{number}")).collect();
    let named: Vec<u8> = names.iter().flat_map(|name| presence(name, true).bytes()).collect();
    server.feed(up, named);
    server.pass_ms(0);
    assert_eq!(server.frames(alice).len(), limits::EVERYONE_USERS_MAX - 1, "she is one of them herself");
    // One more: who watches by name hears of it, and nobody else.
    tell(&mut server, up, "late", true);
    tell(&mut server, up, "later", true);
    server.silent(alice);
    assert_eq!((server.frame(bob), server.core.counters().watches_refused), (presence("late", true), 2));
    tell(&mut server, up, "late", false);
    server.silent(alice);
    tell(&mut server, up, "user0", false);
    tell(&mut server, up, "late", true);
    assert_eq!(server.frames(alice), [presence("user0", false), presence("late", true)], "there is room again");
    assert_eq!(server.core.presence_counts().0, limits::EVERYONE_USERS_MAX);
}

#[test]
fn who_has_not_taken_a_large_answer_is_given_no_other() {
    let (mut server, up) = joined();
    let alice = member_through(&mut server, up, "alice");
    befriend_everyone(&mut server, alice);
    let names: Vec<String> = (0..1_000).map(|number| format!("{number:0>64}")).collect();
    server.feed(up, names.iter().flat_map(|name| presence(name, true).bytes()).collect::<Vec<u8>>());
    server.pass_ms(0);
    server.frames(alice);
    let ask = |id: u64, body: &str| Raw::of(ASK).id(id).from("alice").body(body);
    let friends = |id| ask(id, r#"{"ask":"friends"}"#);
    let members = |id| ask(id, r#"{"ask":"members","group":"chess"}"#);
    server.frames(up);
    // All in one read.
    let asked = [friends(1), friends(2), members(3), ask(4, r#"{"ask":"rtt"}"#)];
    server.feed(alice, asked.iter().flat_map(Raw::bytes).collect::<Vec<u8>>());
    let answers = server.frames(alice);
    let busy = r#"{"error":"busy; ask again"}"#;
    assert!(answers[0].text().contains(&names[999]), "{:?}", answers[0]);
    let rest: Vec<(u64, String)> = answers[1..].iter().map(|answer| (answer.id, answer.text())).collect();
    assert_eq!(rest, [(2, busy.to_owned()), (3, busy.to_owned()), (4, "{}".to_owned())]);
    server.silent(up);
    server.put(alice, members(5));
    assert_eq!(server.frame(up).kind, GROUP_MEMBERS, "what waited is taken");
}

#[test]
fn so_many_hear_of_everyone_and_no_more() {
    let mut server = alone();
    let conns: Vec<ConnId> = (0..2).map(|number| log_in(&mut server, &format!("watcher{number}"))).collect();
    befriend_everyone(&mut server, conns[0]);
    for number in 0..limits::EVERYONE_WATCHERS_MAX {
        let conn = log_in(&mut server, &format!("user{number}"));
        befriend_everyone(&mut server, conn);
    }
    server.frames(conns[1]);
    befriend_everyone(&mut server, conns[1]);
    assert_eq!(server.frame(conns[1]), all_named(), "it hears of nobody");
    assert_eq!(server.core.counters().watches_refused, 2);
}

#[test]
fn server_code_watches_users_wherever_they_are() {
    let (mut server, up) = joined();
    server.core.watch(server.now, &[user("bob"), user("alice")]);
    server.turn();
    assert_eq!(server.frame(up), watch(WATCH, &["bob", "alice"]));
    let told = |server: &mut Server| {
        let events = std::iter::from_fn(|| server.core.poll_event());
        let told = events.filter_map(|event| match event {
            Event::Presence { user, online } => Some((user.to_string(), online)),
            _ => None,
        });
        told.collect::<Vec<_>>()
    };
    tell(&mut server, up, "bob", false);
    assert_eq!(told(&mut server), [("bob".to_owned(), false)]);
    log_in_through(&mut server, up, "alice");
    server.pass_ms(0);
    assert_eq!(told(&mut server), [("alice".to_owned(), true)]);
    server.core.unwatch(server.now, &[user("bob"), user("alice")]);
    server.turn();
    assert_eq!(server.frame(up), watch(UNWATCH, &["bob", "alice"]));
}

#[test]
fn server_code_watches_everyone_beside_clients_that_do() {
    let (mut server, up) = joined();
    let (alice, _) = log_in_through(&mut server, up, "alice");
    let told = |server: &mut Server| {
        server.turn();
        server.pass_ms(0);
        let events = std::iter::from_fn(|| server.core.poll_event());
        let told = events.filter_map(|event| match event {
            Event::Presence { user, online } => Some((user.to_string(), online)),
            _ => None,
        });
        told.collect::<Vec<_>>()
    };
    told(&mut server);
    server.core.watch(server.now, &[user("bob")]);
    server.core.watch_everyone(server.now);
    assert_eq!(told(&mut server), [("alice".to_owned(), true)]);
    assert_eq!(server.frames(up), [watch(WATCH, &["bob"]), watch_all(WATCH)]);
    tell(&mut server, up, "bob", true);
    tell(&mut server, up, "carol", true);
    assert_eq!(told(&mut server), [("bob".to_owned(), true), ("carol".to_owned(), true)], "once each");
    // A client hears of everyone too: nothing is asked anew, and it stays when the application goes.
    befriend_everyone(&mut server, alice);
    server.core.unwatch_everyone(server.now);
    server.turn();
    server.silent(up);
    tell(&mut server, up, "carol", false);
    tell(&mut server, up, "bob", false);
    assert_eq!(told(&mut server), [("bob".to_owned(), false)]);
    server.core.watch_everyone(server.now);
    tell(&mut server, up, "carol", true);
    assert_eq!(told(&mut server), [("alice".to_owned(), true), ("carol".to_owned(), true)]);
    log_out(&mut server, alice, "alice");
    server.frames(up);
    server.core.unwatch_everyone(server.now);
    server.core.unwatch(server.now, &[user("bob")]);
    server.turn();
    assert_eq!(server.frames(up), [watch_all(UNWATCH), watch(UNWATCH, &["bob"])]);
    assert_eq!(server.core.presence_counts().0, 0);
}

#[test]
fn a_client_that_takes_no_presence_is_slow() {
    let (mut server, up) = joined();
    let (alice, _) = log_in_through(&mut server, up, "alice");
    let names: Vec<String> = (0..1_000).map(|number| format!("{number:0>64}")).collect();
    befriend(&mut server, alice, &names.iter().map(String::as_str).collect::<Vec<_>>());
    server.stall(alice);
    // 84,000 bytes each time.
    let change_all = |server: &mut Server, round: usize| {
        let told: Vec<u8> = names.iter().flat_map(|name| presence(name, round.is_multiple_of(2)).bytes()).collect();
        server.feed(up, told);
        server.pass_ms(0);
    };
    (0..15).for_each(|round| change_all(&mut server, round));
    assert!(server.core.conn_of(&user("alice")).is_some());
    change_all(&mut server, 15);
    assert!(server.core.conn_of(&user("alice")).is_none(), "what must come and does not fit ends the session");
}

// The cluster manager.

/// Time passes while every server lives; what the second one is told meanwhile.
fn told(hub: &mut Hub, members: &[ConnId], millis: u64) -> Vec<Raw> {
    let watcher = members[members.len() - 1];
    let mut frames = Vec::new();
    let mut left = millis;
    loop {
        members.iter().for_each(|conn| hub.put(*conn, Raw::of(PONG)));
        hub.pass_ms(left.min(500));
        frames.extend(hub.frames(watcher).into_iter().filter(|frame| frame.kind == PRESENCE));
        if left <= 500 {
            return frames;
        }
        left -= 500;
    }
}

fn unbind(user: &str, session: u64, code: u32) -> Raw {
    Raw::of(UNBIND).info(code).id(session).from(user)
}

#[test]
fn a_watch_is_answered_and_each_change_told_to_who_watches() {
    let mut hub = hub();
    let (a, b) = two_with_users(&mut hub);
    hub.put(b, watch(WATCH, &["alice", "carol"]));
    assert_eq!(hub.frames(b), [presence("alice", true), presence("carol", false)]);
    acms::log_in(&mut hub, a, "carol", 2);
    assert_eq!(hub.frame(b), presence("carol", true));
    hub.put(a, unbind("carol", 2, 0));
    assert_eq!(hub.frame(b), presence("carol", false));
    hub.put(b, watch(UNWATCH, &["alice"]));
    hub.put(a, unbind("alice", 1, 0));
    hub.silent(b);
    assert!(hub.frames(a).is_empty(), "who watches nobody is told nothing");
}

#[test]
fn who_is_back_within_the_grace_is_not_told_to_be_gone() {
    let mut hub = hub();
    let (a, b) = two_with_users(&mut hub);
    let c = member(&mut hub, 3);
    hub.put(c, watch(WATCH, &["alice", "bob"]));
    hub.frames(c);
    // A move, a broken connection, a lost server.
    hub.put(a, unbind("alice", 1, 1001));
    assert_eq!(told(&mut hub, &[a, b, c], 5_000), []);
    hub.frames(b);
    acms::log_in(&mut hub, b, "alice", 2);
    assert!(told(&mut hub, &[a, b, c], 1_000).iter().all(|frame| frame.info == 1));
    hub.put(b, unbind("alice", 2, 1003));
    hub.frames(a);
    acms::log_in(&mut hub, a, "alice", 3);
    assert!(told(&mut hub, &[a, b, c], 12_000).iter().all(|frame| frame.info == 1));
    hub.reset(b);
    assert_eq!(told(&mut hub, &[a, c], 9_000), []);
    assert_eq!(told(&mut hub, &[a, c], 2_000), [presence("bob", false)]);
}

#[test]
fn a_lost_servers_users_that_come_to_another_one_stay_online() {
    let mut hub = hub();
    let (a, b) = two_with_users(&mut hub);
    hub.put(a, watch(WATCH, &["bob"]));
    hub.frames(a);
    hub.reset(b);
    hub.pass_ms(200);
    acms::drain(&mut hub);
    acms::log_in(&mut hub, a, "bob", 7);
    let told = told(&mut hub, &[a], 15_000);
    assert!(told.iter().all(|frame| *frame == presence("bob", true)), "{told:?}");
}

#[test]
fn until_the_directory_is_complete_nobody_is_told_to_be_gone() {
    let mut hub = hub_with(|config| config.directory_grace = Span::from_secs(10));
    let (a, b) = two_with_users(&mut hub);
    hub.put(b, watch(WATCH, &["alice", "carol"]));
    assert_eq!(hub.frames(b), [presence("alice", true)], "who is known is told of at once");
    assert_eq!(told(&mut hub, &[a, b], 5_000), []);
    hub.frames(a);
    acms::log_in(&mut hub, a, "carol", 2);
    hub.put(b, watch(WATCH, &["dave"]));
    let told = told(&mut hub, &[a, b], 6_000);
    assert!(told.contains(&presence("dave", false)), "{told:?}");
    assert!(told.contains(&presence("carol", true)) && !told.contains(&presence("carol", false)), "{told:?}");
}

#[test]
fn everyone_is_named_and_then_that_all_were() {
    let mut hub = hub();
    let (a, b) = two_with_users(&mut hub);
    hub.put(a, watch_all(WATCH));
    hub.pass_ms(0);
    assert_eq!(hub.frames(a), [presence("alice", true), presence("bob", true), all_named()]);
    acms::log_in(&mut hub, b, "carol", 2);
    assert_eq!(hub.frame(a), presence("carol", true));
    hub.reset(b);
    hub.pass_ms(100);
    // Who may be back is not denied to one that asks meanwhile.
    hub.frames(a);
    hub.put(a, watch_all(WATCH));
    assert_eq!(told(&mut hub, &[a], 5_000), [presence("alice", true)]);
    let told = told(&mut hub, &[a], 7_000);
    assert!(told.contains(&presence("bob", false)) && told.contains(&presence("carol", false)), "{told:?}");
    assert_eq!(told.last(), Some(&all_named()));
}

#[test]
fn a_watch_ends_with_its_servers_tenure() {
    let mut hub = hub();
    let (a, b) = two_with_users(&mut hub);
    hub.put(b, watch(WATCH, &["alice"]));
    assert_eq!(hub.frame(b), presence("alice", true));
    hub.put(b, Raw::of(BURST_BEGIN));
    hub.put(a, unbind("alice", 1, 0));
    hub.put(b, Raw::of(SYNCED));
    hub.silent(b);
}

#[test]
fn a_long_watch_is_answered_while_there_is_room() {
    let mut hub = hub();
    let (a, b) = two_with_users(&mut hub);
    let names: Vec<String> = (0..60_000).map(|number| format!("user{number}")).collect();
    hub.stall(b);
    for names in names.chunks(10_000) {
        hub.put(b, watch(WATCH, &names.iter().map(String::as_str).collect::<Vec<_>>()));
        hub.pass_ms(2);
    }
    let queued = |hub: &mut Hub| hub.core.links().get(b).expect("it is there").queue().len();
    let waits = queued(&mut hub);
    assert!((1 << 20..2 << 20).contains(&waits), "{waits} bytes wait");
    hub.unstall(b);
    let answered = told(&mut hub, &[a, b], 2_000);
    assert_eq!(answered.len(), 60_000);
}

#[test]
fn what_is_no_watch_is_a_fault() {
    for body in
        [watch(WATCH, &["bob"]).info(2), Raw::of(WATCH).body([5, b'b']), watch(WATCH, &[""]), watch(UNWATCH, &["a\0"])]
    {
        let mut hub = hub();
        let (a, _) = two_with_users(&mut hub);
        hub.put(a, body);
        hub.closed_with(a, 1505);
    }
}

// The client.

fn presence_events(program: &mut Program) -> Vec<(String, bool)> {
    let events = std::iter::from_fn(|| program.core.poll_event());
    let told = events.filter_map(|event| match event {
        client::Event::Presence { user, online } => Some((user.to_string(), online)),
        _ => None,
    });
    told.collect()
}

fn asked(frame: &Raw) -> serde_json::Value {
    assert_eq!(frame.kind, ASK);
    serde_json::from_slice(&frame.body).expect("JSON")
}

#[test]
fn an_application_hears_of_changes_only_over_reconnects_too() {
    let (mut program, conn) = online();
    for frame in [presence("bob", true), presence("carol", false), presence("bob", true), presence("dave", true)] {
        program.put(conn, frame);
    }
    assert_eq!(presence_events(&mut program), [("bob".to_owned(), true), ("dave".to_owned(), true)]);
    program.reset(conn);
    until_dial(&mut program);
    let conn = greet(&mut program);
    assert_eq!(presence_events(&mut program), []);
    for frame in [presence("bob", true), presence("dave", false), presence("carol", true)] {
        program.put(conn, frame);
    }
    assert_eq!(presence_events(&mut program), [("dave".to_owned(), false), ("carol".to_owned(), true)]);
}

#[test]
fn who_was_not_named_among_everyone_is_gone() {
    let (mut program, conn) = online();
    for frame in [presence("bob", true), presence("carol", true), all_named()] {
        program.put(conn, frame);
    }
    assert_eq!(presence_events(&mut program).len(), 2);
    program.reset(conn);
    until_dial(&mut program);
    let conn = greet(&mut program);
    program.put(conn, presence("carol", true));
    assert_eq!(presence_events(&mut program), []);
    program.put(conn, all_named());
    assert_eq!(presence_events(&mut program), [("bob".to_owned(), false)]);
}

#[test]
fn whom_it_watches_it_watches_again_after_a_reconnect() {
    let (mut program, conn) = online();
    let id = program.core.watch(program.now, &[user("bob"), user("eve")]).expect("there is room");
    program.turn();
    let ask = program.frame(conn);
    assert_eq!(asked(&ask), serde_json::json!({"ask": "watch", "users": ["bob", "eve"]}));
    let answer = br#"{"users":[{"user":"bob","online":true},{"user":"eve","online":null,"denied":true}]}"#;
    program.put(conn, Raw::of(ANSWER).id(ask.id).to("alice").body(answer));
    let events: Vec<_> = std::iter::from_fn(|| program.core.poll_event()).collect();
    assert!(matches!(&events[..], [
        client::Event::Presence { user, online: true },
        client::Event::Answered { id: answered, .. },
    ] if user.as_str() == "bob" && *answered == id));
    program.reset(conn);
    until_dial(&mut program);
    let conn = greet(&mut program);
    let frames = program.frames(conn);
    assert_eq!(asked(&frames[frames.len() - 1]), serde_json::json!({"ask": "watch", "users": ["bob"]}));
    let answer = br#"{"users":[{"user":"bob","online":false}]}"#;
    let again = frames[frames.len() - 1].id;
    program.put(conn, Raw::of(ANSWER).id(again).to("alice").body(answer));
    let events: Vec<_> = std::iter::from_fn(|| program.core.poll_event()).collect();
    assert!(!events.iter().any(|event| matches!(event, client::Event::Answered { .. })), "nobody asked but the engine");
    assert!(events.iter().any(|event| matches!(event, client::Event::Presence { online: false, .. })));
}

#[test]
fn what_is_answered_of_a_user_that_is_watched_no_more_is_no_news() {
    let (mut program, conn) = online();
    let all = [user("bob"), user("carol"), user("eve")];
    program.core.watch(program.now, &all).expect("there is room");
    program.core.unwatch(program.now, &all[..1]).expect("there is room");
    program.turn();
    let asks = program.frames(conn);
    let answer = br#"{"users":[{"user":"bob","online":true},{"user":"carol","online":true}]}"#;
    program.put(conn, Raw::of(ANSWER).id(asks[0].id).to("alice").body(answer));
    assert_eq!(presence_events(&mut program), [("carol".to_owned(), true)]);
}

#[test]
fn a_question_to_watch_that_came_to_nothing_is_asked_again() {
    let (mut program, conn) = online();
    program.core.watch(program.now, &[user("bob")]).expect("there is room");
    program.turn();
    let ask = program.frame(conn);
    program.put(conn, Raw::of(ANSWER).id(ask.id).to("alice").body(br#"{"error":"busy; ask again"}"#));
    program.silent(conn);
    program.pass_ms(5_000);
    let again = program.frame(conn);
    assert_eq!(asked(&again), serde_json::json!({"ask": "watch", "users": ["bob"]}));
    program.pass_ms(10_000);
    program.put(conn, Raw::of(PONG));
    program.pass_ms(5_000);
    assert!(program.frames(conn).iter().any(|frame| frame.kind == ASK), "it was not answered in time");
}
