//! What more comes than a role can take: clients that send too fast, and memory that runs short.

use trunkline::id::ConnId;
use trunkline::role::Gone;
use trunkline::role::appserver::{Event, Rates};
use trunkline::time::{Span, Time};
use trunkline::wire::CloseCode;

use crate::appserver::{Server, alone_with, data, events, log_in, user};
use crate::wire_peer::{PING, PONG, Raw};

const KIB: usize = 1024;
/// Deadlines are met this much late, at most: a slot of the timer wheel, in microseconds.
const SLOT_US: u64 = 16_384;

// Rates.

fn limited(messages_per_second: u64, bytes_per_second: u64) -> Server {
    alone_with(|config| config.rates = Rates { messages_per_second, bytes_per_second })
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
    server.feed(alice, pongs(1_000));
    assert!(server.reads(alice), "a second's worth may come at once");
    server.feed(alice, pongs(250));
    let until = server.now + us(250_000);
    owes_until(&mut server, alice, until);
    server.feed(alice, pongs(1));
    assert!(server.reads(alice), "what the timer was late counts for the client");
    assert!(server.reads(bob), "each has its own bucket");
    assert_eq!((server.core.counters().slowed, server.core.counters().closed_rate), (1, 0));
    server.pass_ms(2_000);
    server.feed(alice, pongs(1_000));
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

#[test]
fn who_sends_too_much_for_thirty_seconds_is_closed() {
    let mut server = limited(1_000, 0);
    let alice = log_in(&mut server, "alice");
    server.feed(alice, pongs(1_000));
    let took = flood(&mut server, alice, &pongs(500), Span::from_secs(40)).expect("closed");
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
        let took = flood(&mut server, alice, &pongs(500), Span::from_secs(28));
        assert_eq!(took, None);
        while !server.reads(alice) {
            server.pass_ms(10);
        }
        server.pass_ms(1_010);
    }
    server.silent(alice);
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
    let flood = [pongs(409), Raw::of(PING).id(1).bytes(), data("alice", "alice", 2).bytes()[..12].to_vec()].concat();
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
        server.feed_unread(alice, pongs(2_000));
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
