//! What more comes than a role can take: clients that send too fast, and memory that runs short.
//!
//! Long for its list: every rule of rates, pace and memory has its own named test.

use trunkline::id::ConnId;
use trunkline::link::End;
use trunkline::memory::Health::{self, NoNewLogins, Normal, SendersPaused, Shedding};
use trunkline::role::appserver::{Event, Rates, Verdict};
use trunkline::role::{Core, Gone, acms};
use trunkline::time::{Span, Time};
use trunkline::wire::{CloseCode, Flags};

use crate::acms::{drain, hub_with, member, register, registering, two_with_users};
use crate::appserver::{Server, alone_with, data, events, joined_with, log_in, log_in_through, say, user};
use crate::wire_peer::{ACK, BOUNCE, CLIENT_PREFACE, LOGIN, LOGOUT, PING, PONG, REPLY, Raw};

const KIB: usize = 1024;
/// Deadlines are met this much late, at most: a slot of the timer wheel, in microseconds.
const SLOT_US: u64 = 16_384;

// Rates.

fn limited(messages_per_second: u64, bytes_per_second: u64) -> Server {
    alone_with(|config| {
        config.rates = Rates { messages_per_second, bytes_per_second };
        config.takes_messages = true;
    })
}

/// `count` messages to the server itself, which answers none of them.
fn notes(from: &str, count: usize) -> Vec<u8> {
    data(from, "", 1).bytes().repeat(count)
}

/// `count` PONGs, which nobody answers: 20 bytes each.
fn pongs(count: usize) -> Vec<u8> {
    b"\0\0\0\x10\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".repeat(count)
}

fn us(micros: u64) -> Span {
    Span::from_micros(micros)
}

/// The connection is not read from until then, and is as soon as the timer can tell.
#[track_caller]
fn owes_until(server: &mut Server, conn: ConnId, until: Time) {
    let wait = until.since(server.now);
    assert!(!server.reads(conn), "read from although it owes until {until:?}");
    server.pass(us(wait.as_micros() - 1));
    assert!(!server.reads(conn), "read from before the debt is paid");
    server.pass(us(1 + SLOT_US));
    assert!(server.reads(conn), "still not read from");
}

#[test]
fn who_sends_more_messages_than_its_rate_is_not_read_from_until_they_are_paid_for() {
    let mut server = limited(1_000, 0);
    let alice = log_in(&mut server, "alice");
    let bob = log_in(&mut server, "bob");
    server.feed(alice, notes("alice", 1_000));
    assert!(server.reads(alice), "a second's worth may come at once");
    server.feed(alice, notes("alice", 250));
    let until = server.now + us(250_000);
    owes_until(&mut server, alice, until);
    server.feed(alice, notes("alice", 1));
    assert!(server.reads(alice), "what the timer was late counts for the client");
    assert!(server.reads(bob), "each has its own bucket");
    assert_eq!((server.core.counters().slowed, server.core.counters().closed_rate), (1, 0));
    server.pass_ms(2_000);
    server.feed(alice, notes("alice", 1_000));
    assert!(server.reads(alice), "the bucket is empty again");
}

#[test]
fn who_sends_more_bytes_than_its_rate_is_not_read_from_until_they_are_paid_for() {
    let mut server = limited(0, 2_000_000);
    let alice = log_in(&mut server, "alice");
    server.feed(alice, pongs(100_000));
    assert!(server.reads(alice), "a second's worth may come at once");
    server.feed(alice, pongs(25_000));
    let until = server.now + us(250_000);
    owes_until(&mut server, alice, until);
    assert_eq!(server.core.counters().slowed, 1);
}

#[test]
fn what_a_client_answers_to_others_is_not_counted_as_its_messages() {
    let mut server = limited(1_000, 0);
    let alice = log_in(&mut server, "alice");
    log_in(&mut server, "bob");
    for kind in [ACK, REPLY, PONG] {
        let to = if kind == PONG { "" } else { "bob" };
        let answer = Raw::of(kind).id(1).to(to).from("alice").bytes();
        server.feed(alice, answer.repeat(3_000));
        assert!(server.reads(alice), "others decide how many of kind {kind:#x} it sends");
    }
    server.feed(alice, notes("alice", 1_000));
    assert!(server.reads(alice), "and it has a second's worth of its own all the same");
    server.feed(alice, notes("alice", 1));
    assert!(!server.reads(alice));
}

#[test]
fn a_frame_that_is_allowed_is_not_held_against_its_sender() {
    let mut server = limited(0, 100_000);
    let alice = log_in(&mut server, "alice");
    let largest = data("alice", "alice", 1).body(vec![0; (1 << 20) - 26]).bytes();
    assert_eq!(largest.len(), (1 << 20) + 4);
    for part in largest.chunks(64 * KIB) {
        server.feed(alice, part);
    }
    assert!(server.reads(alice), "ten seconds' worth, and one frame");
    server.feed(alice, pongs(10_000));
    let until = server.now + us(2_000_000);
    // Each of the 17 parts was rounded up to a microsecond.
    server.pass(us(1_999_999));
    assert!(!server.reads(alice));
    server.pass(us(17 + SLOT_US));
    assert!(server.now >= until && server.reads(alice));
}

/// Reads of half a second's worth of messages, each as soon as the one before is paid for, for that long at most; how long
/// it took until the connection was closed.
fn flood(server: &mut Server, conn: ConnId, read: &[u8], span: Span) -> Option<Span> {
    let start = server.now;
    while server.now.since(start) < span {
        if server.reads(conn) {
            server.feed(conn, read);
            if server.core.conn_of(&user("alice")).is_none() {
                return Some(server.now.since(start));
            }
        }
        server.pass_ms(10);
    }
    None
}

/// What comes back to it makes it wait as well, but no longer than its debts do.
#[test]
fn who_floods_and_is_slow_to_take_its_bounces_is_closed_all_the_same() {
    let mut server = limited(100, 0);
    let alice = log_in(&mut server, "alice");
    let read = data("alice", "nobody", 1).bytes().repeat(3_000);
    let reads = (0..4).take_while(|_| {
        server.stall(alice);
        server.feed(alice, &read);
        server.pass_ms(1_000);
        server.unstall(alice);
        while server.core.conn_of(&user("alice")).is_some() && !server.reads(alice) {
            server.pass_ms(100);
        }
        server.core.conn_of(&user("alice")).is_some()
    });
    assert_eq!(reads.count(), 2, "the third comes when two are paid for, after a minute");
}

#[test]
fn who_sends_too_much_for_thirty_seconds_is_closed() {
    let mut server = limited(1_000, 0);
    let alice = log_in(&mut server, "alice");
    server.feed(alice, notes("alice", 1_000));
    let took = flood(&mut server, alice, &notes("alice", 500), Span::from_secs(40)).expect("closed");
    assert!((30_000..=30_600).contains(&took.as_millis()), "closed after {took:?}");
    let gone = events(&mut server).into_iter().find_map(|event| match event {
        Event::Closed { conn, gone, .. } => Some((conn, gone)),
        _ => None,
    });
    assert_eq!(gone, Some((alice, Gone::Closed(CloseCode::RATE))));
    let (code, text) = server.closed(alice);
    assert_eq!(code, 1005);
    let retry_after_ms = retry_after_ms(&text, "too many messages for too long");
    assert!((5_000..=10_000).contains(&retry_after_ms), "{text}");
    assert_eq!(server.core.counters().closed_rate, 1);
}

/// The number in a CLOSE's JSON body that says this besides.
#[track_caller]
fn retry_after_ms(body: &str, text: &str) -> u64 {
    let number = body.strip_prefix(&format!(r#"{{"text":"{text}","retry_after_ms":"#));
    let number = number.and_then(|rest| rest.strip_suffix('}'));
    number.and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("the body of the CLOSE is {body}"))
}

#[test]
fn a_break_of_a_second_ends_the_excess() {
    let mut server = limited(1_000, 0);
    let alice = log_in(&mut server, "alice");
    for _ in 0..5 {
        let took = flood(&mut server, alice, &notes("alice", 500), Span::from_secs(28));
        assert_eq!(took, None);
        while !server.reads(alice) {
            server.pass_ms(10);
        }
        server.pass_ms(1_010);
    }
    server.silent(alice);
}

#[test]
fn what_piled_up_while_the_server_did_not_read_is_no_excess_of_the_clients() {
    let mut server = limited(1_000, 0);
    let alice = log_in(&mut server, "alice");
    let bob = log_in(&mut server, "bob");
    for _ in 0..3 {
        assert_eq!(flood(&mut server, alice, &notes("alice", 500), Span::from_secs(28)), None);
        server.stall(alice);
        server.put(bob, data("bob", "alice", 1).body(vec![0; 70 * KIB]));
        server.pass_ms(600);
        assert!(!server.reads(alice), "it takes nothing itself");
        server.unstall(alice);
    }
    assert!(flood(&mut server, alice, &notes("alice", 500), Span::from_secs(40)).is_some(), "only its own do count");
}

#[test]
fn a_bulk_transfer_is_slowed_and_never_closed() {
    let mut server = alone_with(|config| {
        config.rates = Rates { messages_per_second: 0, bytes_per_second: 20_000 };
        config.max_frame = 4096;
    });
    let alice = log_in(&mut server, "alice");
    let took = flood(&mut server, alice, &pongs(500), Span::from_secs(90));
    assert_eq!(took, None);
    server.silent(alice);
    let slowed = server.core.counters().slowed;
    assert!((170..=180).contains(&slowed), "half a second each, {slowed} times");
}

#[test]
fn a_debt_is_no_silence_and_a_flooders_ping_is_answered() {
    let mut server = limited(10, 0);
    let alice = log_in(&mut server, "alice");
    let flood =
        [notes("alice", 409), Raw::of(PING).id(1).bytes(), data("alice", "alice", 2).bytes()[..12].to_vec()].concat();
    server.feed(alice, flood);
    assert_eq!(server.frame(alice), Raw::of(PONG).id(1), "what was read is answered, debt or not");
    let until = server.now + us(40_000_000);
    owes_until(&mut server, alice, until);
    server.silent(alice);
    server.pass_ms(1_000);
    server.feed(alice, &data("alice", "alice", 2).bytes()[12..]);
    assert_eq!(server.frame(alice).id, 2, "nor does a frame that is cut in two grow old meanwhile");
    server.put(alice, Raw::of(PING).id(3));
    assert_eq!(server.frame(alice), Raw::of(PONG).id(3), "behind the debt of one read");
}

#[test]
fn who_owes_and_does_not_read_waits_for_both() {
    for debt_first in [true, false] {
        let mut server = limited(1_000, 0);
        let alice = log_in(&mut server, "alice");
        let bob = log_in(&mut server, "bob");
        server.stall(alice);
        server.put(bob, data("bob", "alice", 1).body(vec![0; 70 * KIB]));
        server.feed_unread(alice, notes("alice", 2_000));
        if debt_first {
            server.pass_ms(1_100);
            assert!(!server.reads(alice), "it takes nothing itself");
            server.unstall(alice);
        } else {
            server.unstall(alice);
            assert!(!server.reads(alice), "it owes");
            server.pass_ms(1_100);
        }
        assert!(server.reads(alice));
    }
}

// Memory.

/// Bytes that may be held in these tests: a percent is 10,000.
const MAX: usize = 1_000_000;

fn tight() -> Server {
    alone_with(|config| config.memory_max = MAX)
}

/// A message of that many bytes on the wire.
fn wide(from: &str, to: &str, bytes: usize) -> Vec<u8> {
    let wide = data(from, to, 1).body(vec![0; bytes - 20 - from.len() - to.len()]).bytes();
    assert_eq!(wide.len(), bytes);
    wide
}

/// Users that are in and take nothing.
fn stalled<const N: usize>(server: &mut Server, names: [&str; N]) -> [ConnId; N] {
    names.map(|name| {
        let conn = log_in(server, name);
        server.stall(conn);
        conn
    })
}

/// The states that the log was told of.
fn told(server: &mut Server) -> Vec<Health> {
    let strains = events(server).into_iter().filter_map(|event| match event {
        Event::Memory(strain) => Some(strain.health),
        _ => None,
    });
    strains.collect()
}

fn held(server: &mut Server) -> usize {
    server.core.links().memory().held()
}

fn is_in(server: &Server, name: &str) -> bool {
    server.core.conn_of(&user(name)).is_some()
}

#[test]
fn nobody_new_is_let_in_while_memory_is_short() {
    let mut server = tight();
    let [alice] = stalled(&mut server, ["alice"]);
    let bob = log_in(&mut server, "bob");
    server.feed(bob, wide("bob", "alice", 699_999 - 50));
    log_in(&mut server, "carol");
    server.feed(bob, wide("bob", "alice", 51));
    assert_eq!((held(&mut server), told(&mut server)), (700_000, vec![NoNewLogins]));
    let refused = |server: &mut Server| {
        let conn = server.accept();
        server.feed(conn, [&CLIENT_PREFACE[..], &Raw::of(LOGIN).from("dave").bytes()].concat());
        let (code, text) = server.closed(conn);
        assert_eq!(code, 1004);
        retry_after_ms(&text, "the server is short of memory")
    };
    let waits = [refused(&mut server), refused(&mut server), refused(&mut server)];
    assert!(waits.iter().all(|wait| (5_000..=10_000).contains(wait)), "{waits:?}");
    assert!(waits[0] != waits[1] || waits[1] != waits[2], "they would all be back at once: {waits:?}");
    assert!(server.reads(bob), "those who are in go on");
    server.take(alice, 100_000);
    refused(&mut server);
    server.take(alice, 1);
    server.pass_ms(0);
    assert_eq!((held(&mut server), told(&mut server)), (599_999, vec![Normal]));
    log_in(&mut server, "dave");
}

#[test]
fn clients_are_not_read_from_while_memory_is_shorter() {
    let (mut server, up) = joined_with(|config| config.memory_max = MAX);
    let (alice, _) = log_in_through(&mut server, up, "alice");
    let (bob, _) = log_in_through(&mut server, up, "bob");
    let (carol, _) = log_in_through(&mut server, up, "carol");
    told(&mut server);
    server.stall(alice);
    server.feed(bob, wide("bob", "alice", 849_999));
    assert!(server.reads(bob));
    server.feed(bob, wide("bob", "alice", 50));
    assert!(!server.reads(bob));
    assert!(server.reads(up), "the link carries what others sent");
    server.put(up, Raw::of(PONG));
    server.take(alice, 150_049);
    assert_eq!(held(&mut server), 700_000);
    server.pass_ms(0);
    assert!(!server.reads(bob), "not before there is some room");
    server.take(alice, 1);
    server.pass_ms(0);
    assert!(server.reads(bob));
    assert!(server.reads(carol), "who had nothing to say did not notice");
    assert_eq!(told(&mut server), [NoNewLogins, SendersPaused, NoNewLogins]);
}

#[test]
fn who_comes_while_senders_are_held_back_is_read_and_told_that_there_is_no_room() {
    let mut server = tight();
    let [_alice] = stalled(&mut server, ["alice"]);
    let bob = log_in(&mut server, "bob");
    server.feed(bob, wide("bob", "alice", 850_000));
    assert!(!server.reads(bob));
    let conn = server.accept();
    server.feed(conn, [&CLIENT_PREFACE[..], &Raw::of(LOGIN).from("dave").bytes()].concat());
    server.closed_with(conn, 1004);
}

#[test]
fn a_strain_that_nobody_was_told_of_holds_no_client_back_for_good() {
    let mut server = tight();
    let [alice] = stalled(&mut server, ["alice"]);
    let bob = log_in(&mut server, "bob");
    server.core.send(server.now, &user("alice"), Flags::NONE, 0, &[0; 850_000], None).expect("it fits");
    server.reads(bob);
    server.unstall(alice);
    server.pass_ms(0);
    assert_eq!((held(&mut server), told(&mut server)), (0, vec![]));
    assert!(server.reads(bob));
}

#[test]
fn who_owes_while_memory_is_short_waits_for_both() {
    for debt_first in [true, false] {
        let mut server = alone_with(|config| {
            config.memory_max = MAX;
            config.rates = Rates { messages_per_second: 1_000, bytes_per_second: 0 };
            config.takes_messages = true;
        });
        let [alice] = stalled(&mut server, ["alice"]);
        let bob = log_in(&mut server, "bob");
        server.feed(bob, wide("bob", "alice", 850_000));
        assert!(!server.reads(bob));
        server.feed_unread(bob, notes("bob", 1_999));
        if debt_first {
            server.pass_ms(1_100);
            assert!(!server.reads(bob), "memory is short");
            server.take(alice, 200_000);
        } else {
            server.take(alice, 200_000);
            server.pass_ms(0);
            assert!(!server.reads(bob), "it owes");
            server.pass_ms(1_100);
        }
        server.pass_ms(0);
        assert!(server.reads(bob), "debt first: {debt_first}");
    }
}

#[test]
fn the_slowest_receiver_goes_first() {
    let mut server = tight();
    let [alice, carol, dave] = stalled(&mut server, ["alice", "carol", "dave"]);
    let bob = log_in(&mut server, "bob");
    told(&mut server);
    server.feed(bob, wide("bob", "alice", 60_000));
    server.pass_ms(20);
    server.feed(bob, wide("bob", "carol", 60_000));
    server.pass_ms(20);
    server.feed(bob, wide("bob", "dave", 729_999));
    server.feed_unread(bob, wide("bob", "dave", 100_000));
    assert!(is_in(&server, "alice"), "949,999 bytes");
    server.feed_unread(bob, wide("bob", "dave", 50));
    assert_eq!(["alice", "carol", "dave"].map(|name| is_in(&server, name)), [false, false, true]);
    assert_eq!(told(&mut server), [NoNewLogins, SendersPaused, Shedding, SendersPaused]);
    assert_eq!((server.core.counters().shed, server.core.counters().shed_bytes), (2, 120_000));
    for conn in [alice, carol] {
        server.unstall(conn);
        assert_eq!(server.closed(conn), (1002, "memory is short".to_owned()), "and nothing before the CLOSE");
    }
    server.unstall(dave);
    assert_eq!(server.frames(dave).len(), 3, "who stays loses nothing");
    server.pass_ms(0);
    assert!(server.reads(bob));
}

#[test]
fn of_those_equally_slow_the_one_with_the_most_goes() {
    let mut server = tight();
    let [_alice, _carol, _dave] = stalled(&mut server, ["alice", "carol", "dave"]);
    let bob = log_in(&mut server, "bob");
    server.feed(bob, wide("bob", "alice", 50_000));
    server.feed(bob, wide("bob", "carol", 110_000));
    server.pass_ms(20);
    server.feed(bob, wide("bob", "dave", 690_000));
    server.feed_unread(bob, wide("bob", "dave", 100_000));
    assert_eq!(["alice", "carol", "dave"].map(|name| is_in(&server, name)), [true, false, true]);
}

#[test]
fn who_has_a_part_of_a_frame_is_shed_without_a_close() {
    let mut server = tight();
    let [alice, carol] = stalled(&mut server, ["alice", "carol"]);
    let bob = log_in(&mut server, "bob");
    server.feed(bob, wide("bob", "alice", 150_000));
    server.pass_ms(20);
    server.take(alice, 10_000);
    server.pass_ms(20);
    server.feed(bob, wide("bob", "carol", 700_000));
    server.feed_unread(bob, wide("bob", "carol", 110_000));
    assert_eq!(["alice", "carol"].map(|name| is_in(&server, name)), [false, true]);
    assert!(server.wire(alice).dropped, "a CLOSE would be taken for the rest of the frame");
    assert_eq!(server.wire(alice).got.len(), 10_000);
    let gone = events(&mut server).into_iter().find_map(|event| match event {
        Event::Closed { conn, gone, .. } => Some((conn, gone)),
        _ => None,
    });
    assert_eq!(gone, Some((alice, Gone::Closed(CloseCode::SLOW))));
    assert!(!server.wire(carol).dropped);
}

/// Nine clients, each with the first 95,000 bytes of a message of a mebibyte.
fn nine_with_beginnings(server: &mut Server) -> Vec<ConnId> {
    let names = (0..9).map(|number| format!("user{number}"));
    let conns: Vec<ConnId> = names.map(|name| log_in(server, &name)).collect();
    for (number, conn) in conns.iter().enumerate() {
        let beginning = wide(&format!("user{number}"), "bob", 1 << 20);
        server.feed(*conn, &beginning[..95_000]);
    }
    conns
}

#[test]
fn where_beginnings_of_frames_hold_the_most_the_largest_goes() {
    let mut server = tight();
    let [_alice] = stalled(&mut server, ["alice"]);
    let bob = log_in(&mut server, "bob");
    server.feed(bob, wide("bob", "alice", 1_000));
    server.pass_ms(20);
    let conns = nine_with_beginnings(&mut server);
    assert_eq!(held(&mut server), 856_000);
    assert!(!server.reads(conns[5]), "senders wait");
    server.feed_unread(conns[5], vec![0; 94_000]);
    assert_eq!(server.closed(conns[5]), (1002, "memory is short".to_owned()));
    assert_eq!((held(&mut server), server.core.counters().shed), (761_000, 1));
    assert!(is_in(&server, "alice"), "its queue explains nothing, slow as it is");
}

#[test]
fn all_that_have_to_go_are_named_at_once_wherever_most_is_held() {
    let mut server = tight();
    let receivers = stalled(&mut server, ["r0", "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9"]);
    let bob = log_in(&mut server, "bob");
    let beginnings = ["s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8"].map(|name| {
        let conn = log_in(&mut server, name);
        server.feed(conn, &wide(name, "bob", 1 << 20)[..50_000]);
        conn
    });
    for number in 0..9 {
        server.feed_unread(bob, wide("bob", &format!("r{number}"), 50_000));
        server.pass_ms(20);
    }
    server.core.send(server.now, &user("r9"), Flags::NONE, 0, &[0; 50_000 - 22], None).expect("it fits");
    assert_eq!(held(&mut server), 950_000, "500,000 queued, 450,000 in frames that have not ended");
    let now = server.now;
    let victims = server.core.links().victims(now);
    assert_eq!(victims, [receivers[0], receivers[1], beginnings[0]], "100,001 bytes are to go, 50,000 with each");
}

#[test]
fn senders_are_not_held_back_for_longer_than_three_seconds() {
    let mut server = tight();
    let conns = nine_with_beginnings(&mut server);
    assert!(!conns.iter().any(|conn| server.reads(*conn)));
    server.pass_ms(2_950);
    assert!(!conns.iter().any(|conn| server.reads(*conn)), "855,000 bytes that only a read could end");
    server.pass_ms(100);
    assert_eq!((held(&mut server), server.core.counters().shed), (665_000, 2));
    let reading = conns.iter().filter(|conn| server.reads(**conn)).count();
    assert!(reading >= 7, "{reading} are read from");
    // One that takes a byte a second never stalls; it may not keep the others waiting all the same.
    let mut server = tight();
    let [alice, carol] = stalled(&mut server, ["alice", "carol"]);
    let bob = log_in(&mut server, "bob");
    server.feed(bob, wide("bob", "alice", 450_000));
    server.feed(bob, wide("bob", "carol", 450_000));
    for _ in 0..4 {
        server.take(alice, 1);
        server.pass_ms(800);
    }
    assert_eq!(["alice", "carol"].map(|name| is_in(&server, name)), [true, false]);
    assert!(server.reads(bob) && server.wire(carol).shut == server.wire(carol).dropped);
}

/// [`Seam::turn`] compares what is held with what was counted, whatever happens.
#[test]
fn what_is_counted_is_what_is_held_whatever_happens() {
    let mut shed = 0;
    for seed in 0..20 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut server = tight();
        let mut users: Vec<(ConnId, String)> = Vec::new();
        let mut logins = 0;
        for _ in 0..400 {
            if users.len() < 8 {
                let conn = server.accept();
                let name = format!("user{logins}");
                logins += 1;
                server.feed_unread(conn, [&CLIENT_PREFACE[..], &Raw::of(LOGIN).from(&name).bytes()].concat());
                say(&mut server, conn, Verdict::Accept);
                users.push((conn, name));
            }
            let (conn, from) = users[rng.usize(0..users.len())].clone();
            let (_, to) = users[rng.usize(0..users.len())].clone();
            match rng.u8(0..8) {
                0 => server.stall(conn),
                1 => server.unstall(conn),
                2 => server.take(conn, rng.usize(0..200_000)),
                3 => server.pass_ms(rng.u64(0..500)),
                4 => server.end(conn, if rng.bool() { End::Eof } else { End::Failed(std::io::ErrorKind::BrokenPipe) }),
                5 => server.feed_unread(conn, Raw::of(LOGOUT).from(&from).bytes()),
                _ => {
                    let bytes = wide(&from, &to, rng.usize(100..300_000));
                    let cut = rng.usize(1..=bytes.len());
                    server.feed_unread(conn, &bytes[..cut]);
                    server.feed_unread(conn, &bytes[cut..rng.usize(cut..=bytes.len())]);
                }
            }
            users.retain(|(conn, _)| server.core.links().get(*conn).is_some_and(|link| link.is_live()));
            let strain = server.core.links().memory();
            assert!(strain.health() != Shedding && strain.held() < MAX / 100 * 95, "seed {seed}: {}", strain.held());
        }
        shed += server.core.counters().shed;
        for (conn, _) in users {
            server.end(conn, End::Failed(std::io::ErrorKind::BrokenPipe));
        }
        server.pass_ms(10_000);
        assert_eq!(held(&mut server), 0, "seed {seed}");
    }
    assert!(shed > 10, "memory was hardly ever short: {shed} were shed");
}

#[test]
fn an_acms_takes_no_server_and_holds_none_back_while_memory_is_short() {
    let mut hub = hub_with(|config| config.memory_max = MAX);
    let (a, b) = two_with_users(&mut hub);
    let c = member(&mut hub, 3);
    crate::acms::log_in(&mut hub, c, "carol", 1);
    drain(&mut hub);
    hub.stall(b);
    hub.feed(a, wide("alice", "bob", 700_000));
    let d = registering(&mut hub, 4, 1, &register("10.0.0.4:6000", 0, ""));
    let (code, text) = hub.closed(d);
    assert_eq!(code, 1004);
    let retry_after_ms = retry_after_ms(&text, "the cluster manager is short of memory");
    assert!((5_000..=10_000).contains(&retry_after_ms), "{text}");
    hub.feed(a, wide("alice", "bob", 149_999));
    hub.silent(a);
    hub.feed(a, wide("alice", "bob", 50));
    hub.silent(a);
    hub.pass_ms(1);
    hub.feed(a, wide("alice", "bob", 50));
    assert_eq!(hub.frame(a), Raw::of(BOUNCE).info(4).id(1).to("alice").from("bob"), "bob's server has enough to take");
    hub.feed(a, wide("alice", "carol", 20_000));
    assert_eq!(hub.frame(c).body.len(), 20_000 - 30, "carol's server has taken all");
    assert!(hub.reads(a) && hub.reads(b) && hub.reads(c), "no server is held back");
    hub.unstall(b);
    assert_eq!(hub.frames(b).len(), 3);
    hub.pass_ms(0);
    hub.feed(a, wide("alice", "bob", 50));
    hub.silent(a);
    registering(&mut hub, 4, 1, &register("10.0.0.4:6000", 0, ""));
    assert_eq!(hub.core.server_count(), 4);
}

#[test]
fn what_a_turn_brings_for_a_server_that_takes_all_goes_together_while_memory_is_short() {
    let mut hub = hub_with(|config| config.memory_max = MAX);
    let (a, b) = two_with_users(&mut hub);
    let c = member(&mut hub, 3);
    crate::acms::log_in(&mut hub, c, "carol", 1);
    drain(&mut hub);
    hub.stall(b);
    hub.feed(a, wide("alice", "bob", 850_000));
    hub.pass_ms(1);
    hub.feed(a, [wide("alice", "carol", 1_000), wide("alice", "carol", 2_000), wide("alice", "bob", 3_000)].concat());
    let sizes: Vec<usize> = hub.frames(c).iter().map(|frame| frame.body.len()).collect();
    assert_eq!(sizes, [1_000 - 30, 2_000 - 30]);
    assert_eq!(hub.frame(a), Raw::of(BOUNCE).info(4).id(1).to("alice").from("bob"), "bob's has waited since before");
}

#[test]
fn an_acms_closes_the_slowest_server() {
    let mut hub = hub_with(|config| config.memory_max = MAX);
    let (a, b) = two_with_users(&mut hub);
    hub.stall(b);
    hub.feed(a, wide("alice", "bob", 840_000));
    hub.feed(a, wide("alice", "bob", 110_000));
    assert_eq!((hub.core.server_count(), hub.core.counters().shed, hub.core.counters().shed_bytes), (1, 1, 950_000));
    let lost = std::iter::from_fn(|| hub.core.poll_event())
        .any(|event| matches!(event, acms::Event::Lost { gone: Gone::Closed(CloseCode::SLOW), .. }));
    assert!(lost);
    hub.unstall(b);
    hub.closed_with(b, 1002);
}
