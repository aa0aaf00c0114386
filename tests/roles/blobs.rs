//! Blobs at the seam: each side's frames, byte for byte, and what becomes of a blob whatever happens on the way.
//!
//! Long for its list: each end of a blob has its own named test, and the way between two programs is here as well.

use trunkline::id::ConnId;
use trunkline::limits;
use trunkline::role::Core;
use trunkline::role::appserver::{self, AppServer};
use trunkline::role::blob::{BlobEvent, BlobFailure, BlobKey};
use trunkline::role::client::{Config, Event, SendError};
use trunkline::wire::{BlobCause, Bounce, Flags, Manifest};

use crate::client::{Program, events, online, online_with, started_with, until_dial, user};
use crate::wire_peer::{BOUNCE, DATA, ERROR, QUERY, REPLY, Raw, Seam, WELCOME};
use crate::{appserver as server_tests, wire_peer};

const MORE: u8 = 0x02;
const PART: usize = 16 << 10;
/// SHA-256 of "abc", as FIPS 180-2 gives it.
const DIGEST_OF_ABC: &[u8; 32] = b"\xba\x78\x16\xbf\x8f\x01\xcf\xea\x41\x41\x40\xde\x5d\xae\x22\x23\
                                   \xb0\x03\x61\xa3\x96\x17\x7a\x9c\xb4\x10\xff\x61\xf2\x00\x15\xad";

#[track_caller]
fn blob_events(program: &mut Program) -> Vec<BlobEvent> {
    let blob = |event| match event {
        Event::Blob(event) => Some(event),
        Event::State(_) => None,
        other => panic!("{other:?}"),
    };
    events(program).into_iter().filter_map(blob).collect()
}

fn send(program: &mut Program, body: Vec<u8>) -> u64 {
    let id = program.core.send_blob(program.now, Some(user("bob")), 7, "a", body.into()).expect("taken");
    program.turn();
    id
}

/// Bob's answer to Alice.
fn reply(id: u64, flags: u8, body: &[u8]) -> Raw {
    Raw::of(REPLY).flags(flags).id(id).to("alice").from("bob").body(body)
}

/// Bob has this much, and takes parts of any size.
fn credit(id: u64, offset: u64) -> Raw {
    reply(id, MORE, &[&offset.to_be_bytes()[..], &[0, 0x0F, 0xFF, 0]].concat())
}

fn bounce(id: u64, code: u32) -> Raw {
    Raw::of(BOUNCE).info(code).id(id).to("alice").from("bob")
}

/// The sorts and offsets of parts: 'M', 'D' with its offset, 'E', 'C'.
fn parts(frames: &[Raw]) -> Vec<(char, u64)> {
    let part = |frame: &Raw| {
        assert_eq!((frame.kind, &frame.body[..7]), (QUERY, &b"TRNKBLB"[..]), "{frame:?}");
        let sort = char::from(frame.body[7]);
        let more = if matches!(sort, 'M' | 'D') { MORE } else { 0 };
        assert_eq!(frame.flags, more, "{frame:?}");
        let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        (sort, if matches!(sort, 'D' | 'E') { number(&frame.body[8..16]) } else { 0 })
    };
    frames.iter().map(part).collect()
}

fn part_at(number: u64) -> (char, u64) {
    ('D', number * PART as u64)
}

// Sending.

#[test]
fn a_blob_is_offered_then_sent_then_ended() {
    let (mut program, conn) = online();
    let id = send(&mut program, b"abc".to_vec());
    let query = |flags, body: &[u8]| Raw::of(QUERY).flags(flags).info(7).id(id).to("bob").from("alice").body(body);
    assert_eq!(program.frame(conn), query(MORE, br#"TRNKBLBM{"size":3,"name":"a"}"#));
    program.put(conn, credit(id, 0));
    let end = [&b"TRNKBLBE\0\0\0\0\0\0\0\x03"[..], DIGEST_OF_ABC].concat();
    assert_eq!(program.frames(conn), [query(MORE, b"TRNKBLBD\0\0\0\0\0\0\0\0abc"), query(0, &end)]);
    program.put(conn, credit(id, 3));
    program.put(conn, reply(id, 0, b""));
    let told = [BlobEvent::Confirmed { id, bytes: 3 }, BlobEvent::Settled { id, outcome: Ok(()) }];
    assert_eq!(blob_events(&mut program), told);
    program.silent(conn);
}

#[test]
fn a_blob_of_nothing_has_no_data() {
    let (mut program, conn) = online();
    let id = send(&mut program, Vec::new());
    program.frames(conn);
    program.put(conn, credit(id, 0));
    assert_eq!(parts(&program.frames(conn)), [('E', 0)]);
    program.put(conn, reply(id, 0, b""));
    assert_eq!(blob_events(&mut program), [BlobEvent::Settled { id, outcome: Ok(()) }]);
}

#[test]
fn a_message_waits_behind_one_part_of_all_blobs_at_most() {
    let (mut program, conn) = online();
    let ids = [(); 3].map(|()| send(&mut program, vec![1; 8 * PART]));
    program.frames(conn);
    program.stall(conn);
    ids.into_iter().for_each(|id| program.put(conn, credit(id, 0)));
    program.core.send(program.now, Some(&user("bob")), Flags::NONE, 9, b"hello").expect("taken");
    program.turn();
    program.unstall(conn);
    let frames = program.frames(conn);
    let kinds: Vec<u8> = frames.iter().map(|frame| frame.kind).collect();
    assert_eq!(kinds[..3], [QUERY, DATA, QUERY]);
    // The window of each, in turns, and no more.
    let senders: Vec<u64> = frames.iter().filter(|frame| frame.kind == QUERY).map(|frame| frame.id).collect();
    assert_eq!(senders, [ids, ids, ids, ids].concat());
}

#[test]
fn a_bounce_sends_it_back_to_what_is_confirmed_after_a_pause() {
    let (mut program, conn) = online();
    let id = send(&mut program, vec![1; 8 * PART]);
    program.frames(conn);
    program.put(conn, credit(id, 0));
    program.put(conn, credit(id, PART as u64));
    assert_eq!(parts(&program.frames(conn)), [0, 1, 2, 3, 4].map(part_at));
    // Parts 1 and 3 come back, and one pause is enough for both.
    program.put(conn, bounce(id, 4));
    program.put(conn, bounce(id, 4));
    program.pass_ms(99);
    program.silent(conn);
    program.pass_ms(1);
    assert_eq!(parts(&program.frames(conn)), [1, 2, 3, 4].map(part_at));
    // The pause doubles, and RETRY and UNREACHABLE are the same.
    program.put(conn, bounce(id, 3));
    program.pass_ms(199);
    program.silent(conn);
    program.pass_ms(1);
    program.put(conn, bounce(id, 2));
    program.frames(conn);
    program.pass_ms(400);
    assert_eq!(parts(&program.frames(conn)), [1, 2, 3, 4].map(part_at));
    // What is confirmed meanwhile is not sent again, and ends the doubling.
    program.put(conn, credit(id, 3 * PART as u64));
    program.frames(conn);
    program.put(conn, bounce(id, 4));
    program.pass_ms(100);
    assert_eq!(parts(&program.frames(conn)), [3, 4, 5, 6].map(part_at));
}

#[test]
fn what_nobody_confirms_for_five_seconds_is_sent_again() {
    let (mut program, conn) = online();
    let id = send(&mut program, vec![1; PART]);
    assert_eq!(parts(&program.frames(conn)), [('M', 0)]);
    program.pass_ms(5_000);
    let again = |program: &mut Program| {
        program.frames(conn).into_iter().filter(|frame| frame.kind == QUERY).collect::<Vec<_>>()
    };
    assert_eq!(parts(&again(&mut program)), [('M', 0)]);
    program.put(conn, credit(id, 0));
    assert_eq!(parts(&again(&mut program)), [('D', 0), ('E', PART as u64)]);
    program.pass_ms(5_000);
    assert_eq!(parts(&again(&mut program)), [('D', 0), ('E', PART as u64)]);
    program.put(conn, credit(id, PART as u64));
    // The end, or what it was answered with, was lost.
    program.pass_ms(5_000);
    assert_eq!(parts(&again(&mut program)), [('E', PART as u64)]);
}

#[test]
fn thirty_seconds_without_progress_end_it() {
    let (mut program, conn) = online();
    let id = send(&mut program, vec![1; 8 * PART]);
    program.put(conn, credit(id, 0));
    for second in 1..=30 {
        program.pass_ms(999);
        assert_eq!(blob_events(&mut program), [], "second {second}");
        program.pass_ms(1);
        // Bounces and what it said before are no progress.
        program.put(conn, bounce(id, 4));
        program.put(conn, credit(id, 0));
    }
    assert_eq!(blob_events(&mut program), [BlobEvent::Settled { id, outcome: Err(BlobFailure::TimedOut) }]);
    let last = program.frames(conn).pop().expect("its receiver is told");
    assert_eq!(last, Raw::of(QUERY).id(id).to("bob").from("alice").body(b"TRNKBLBC"));
}

#[test]
fn one_that_is_cancelled_says_so_once_it_was_offered() {
    let (mut program, conn) = online();
    let id = send(&mut program, vec![1; 8 * PART]);
    program.put(conn, credit(id, 0));
    program.frames(conn);
    program.core.cancel_blob(program.now, id);
    program.core.cancel_blob(program.now, id);
    program.turn();
    assert_eq!(program.frame(conn), Raw::of(QUERY).id(id).to("bob").from("alice").body(b"TRNKBLBC"));
    assert_eq!(blob_events(&mut program), [BlobEvent::Settled { id, outcome: Err(BlobFailure::Cancelled) }]);
    // What comes for it now is for nobody.
    program.put(conn, credit(id, PART as u64));
    program.put(conn, bounce(id, 1));
    assert_eq!(blob_events(&mut program), []);
    program.silent(conn);
    let mut program = started_with(|_| {});
    let id = send(&mut program, vec![1]);
    program.core.cancel_blob(program.now, id);
    assert_eq!(blob_events(&mut program), [BlobEvent::Settled { id, outcome: Err(BlobFailure::Cancelled) }]);
    let conn = crate::client::greet(&mut program);
    program.silent(conn);
}

#[test]
fn a_blob_goes_on_over_a_lost_connection() {
    let (mut program, conn) = online();
    let id = send(&mut program, vec![1; 8 * PART]);
    program.put(conn, credit(id, 0));
    program.put(conn, credit(id, 2 * PART as u64));
    program.reset(conn);
    until_dial(&mut program);
    let conn = crate::client::greet(&mut program);
    assert_eq!(parts(&program.frames(conn)), [2, 3, 4, 5].map(part_at));
    // A receiver that got more of it before says so.
    program.put(conn, credit(id, 8 * PART as u64));
    assert_eq!(program.frames(conn), [], "more than was ever sent is no credit");
    program.put(conn, credit(id, 6 * PART as u64));
    assert_eq!(parts(&program.frames(conn)), [part_at(6), part_at(7), ('E', 8 * PART as u64)]);
}

#[test]
fn one_that_waits_for_a_connection_goes_with_it_and_ends_with_the_session() {
    let mut program = started_with(|_| {});
    let id = send(&mut program, vec![1]);
    let conn = crate::client::greet(&mut program);
    assert_eq!(parts(&program.frames(conn)), [('M', 0)]);
    program.put(conn, Raw::of(wire_peer::CLOSE).info(1508));
    assert_eq!(blob_events(&mut program), [BlobEvent::Settled { id, outcome: Err(BlobFailure::Stopped) }]);
    assert_eq!(program.core.send_blob(program.now, None, 7, "", Vec::new().into()), Err(SendError::Stopped));
}

#[test]
fn parts_are_no_larger_than_the_receiver_and_the_server_take() {
    let (mut program, conn) = online();
    let id = send(&mut program, vec![1; 9_000]);
    program.frames(conn);
    // A receiver that takes 4,000 bytes, and one that asks for less than any server bounds it to.
    program.put(conn, reply(id, MORE, &[&[0; 8][..], &4_000_u32.to_be_bytes()].concat()));
    assert_eq!(parts(&program.frames(conn)), [('D', 0), ('D', 4_000), ('D', 8_000), ('E', 9_000)]);
    let id = send(&mut program, vec![1; 9_000]);
    program.frames(conn);
    program.put(conn, reply(id, MORE, &[&[0; 8][..], &1_u32.to_be_bytes()].concat()));
    assert_eq!(parts(&program.frames(conn)), [('D', 0), ('D', 3_932), ('D', 7_864), ('E', 9_000)]);
    // This server takes frames of 4,096 bytes: 16 of header, 8 of ids, 16 of the part.
    let (mut program, conn) = small(started_with(|_| {}));
    let id = send(&mut program, vec![1; 9_000]);
    program.frames(conn);
    program.put(conn, credit(id, 0));
    assert_eq!(parts(&program.frames(conn)), [('D', 0), ('D', 4_056), ('D', 8_112), ('E', 9_000)]);
}

/// Online at a server with the smallest bound on frames.
fn small(mut program: Program) -> (Program, ConnId) {
    let conn = program.answer_dial();
    program.wire(conn).got.clear();
    let body = r#"{"server":1,"session":"1-2-7","heartbeat_ms":10000,"max_frame":4096,"cluster":"up"}"#;
    program.put(conn, Raw::of(WELCOME).to("alice").body(body));
    events(&mut program);
    (program, conn)
}

#[test]
fn each_way_to_fail_has_its_name() {
    let refused = |body: &'static [u8]| reply(0, ERROR, body);
    let table: [(Raw, BlobFailure); 16] = [
        (refused(b"\x01not today"), BlobFailure::Denied("not today".to_owned())),
        (refused(b"\x02"), BlobFailure::TooBig),
        (refused(b"\x03"), BlobFailure::Busy),
        (refused(b"\x04"), BlobFailure::Damaged),
        (refused(b"\x05"), BlobFailure::Unknown),
        (refused(b"\x06"), BlobFailure::Cancelled),
        (refused(b"\x07"), BlobFailure::TimedOut),
        (refused(b"\x08"), BlobFailure::NoHandler),
        // Who knows no blobs answers the manifest as any query.
        (refused(b"no handler"), BlobFailure::NoHandler),
        (refused(b""), BlobFailure::NoHandler),
        (reply(0, 0, b"you said TRNKBLBM"), BlobFailure::NoHandler),
        (reply(0, 0, b""), BlobFailure::NoHandler),
        (bounce(0, 1), BlobFailure::Bounced(Bounce::Offline)),
        (bounce(0, 5), BlobFailure::Bounced(Bounce::Denied)),
        (bounce(0, 6), BlobFailure::TooBig),
        (bounce(0, 7), BlobFailure::NoHandler),
    ];
    for (answer, failure) in table {
        let (mut program, conn) = online();
        let id = send(&mut program, vec![1; 8 * PART]);
        let shown = format!("{answer:?}");
        program.put(conn, Raw { id, ..answer });
        assert_eq!(blob_events(&mut program), [BlobEvent::Settled { id, outcome: Err(failure) }], "{shown}");
    }
}

#[test]
fn what_others_say_and_what_is_out_of_turn_settles_nothing() {
    let (mut program, conn) = online();
    let id = send(&mut program, vec![1; PART]);
    program.frames(conn);
    program.put(conn, Raw { from: b"mallory".into(), ..reply(id, ERROR, b"\x01") });
    program.put(conn, Raw { from: Vec::new(), ..credit(id, 0) });
    program.put(conn, credit(id, 1));
    program.silent(conn);
    program.put(conn, credit(id, 0));
    program.frames(conn);
    program.put(conn, reply(id, MORE, b"short"));
    program.put(conn, credit(id, u64::MAX));
    program.put(conn, credit(id, PART as u64 + 1));
    program.put(conn, reply(id, 0, b"fine"));
    assert_eq!(blob_events(&mut program), []);
    let id = send(&mut program, vec![1; 8 * PART]);
    program.frames(conn);
    program.put(conn, credit(id, 0));
    program.put(conn, reply(id, 0, b""));
    assert_eq!(blob_events(&mut program), [], "done before the end was sent");
}

#[test]
fn what_one_engine_sends_is_bounded() {
    let (mut program, _) = online_with(|config| config.blobs.bytes_max = 10);
    let now = program.now;
    let mut send = |name: &str, bytes| program.core.send_blob(now, None, 7, name, vec![1; bytes].into());
    assert_eq!(send("", 11), Err(SendError::TooBig));
    assert_eq!(send(&"a".repeat(256), 1), Err(SendError::TooBig));
    for number in 0..limits::BLOBS_SENDING_MAX {
        assert!(send(&"a".repeat(255), 10).is_ok(), "blob {number}");
    }
    assert_eq!(send("", 1), Err(SendError::Full));
}

// Receiving.

fn receiver() -> (Program, ConnId) {
    online_with(|config| config.blobs.taken = true)
}

fn key(from: &str, id: u64) -> BlobKey {
    BlobKey { from: Some(user(from)), id }
}

/// A part of Bob's.
fn query(id: u64, flags: u8, body: &[u8]) -> Raw {
    Raw::of(QUERY).flags(flags).info(7).id(id).to("alice").from("bob").body(body)
}

fn manifest(id: u64, size: u64) -> Raw {
    query(id, MORE, format!(r#"TRNKBLBM{{"size":{size}}}"#).as_bytes())
}

fn part(id: u64, offset: u64, data: &[u8]) -> Raw {
    query(id, MORE, &[b"TRNKBLBD", &offset.to_be_bytes()[..], data].concat())
}

fn end(id: u64, size: u64, digest: &[u8]) -> Raw {
    query(id, 0, &[b"TRNKBLBE", &size.to_be_bytes()[..], digest].concat())
}

/// What Alice answers: this much is there; 1,048,576 bytes of a frame less 16 of header, 8 of ids, 16 of the part.
fn has(id: u64, offset: u64) -> Raw {
    let body = [&offset.to_be_bytes()[..], &1_048_536_u32.to_be_bytes()].concat();
    Raw::of(REPLY).flags(MORE).id(id).to("bob").from("alice").body(body)
}

fn refuses(id: u64, body: &[u8]) -> Raw {
    Raw::of(REPLY).flags(ERROR).id(id).to("bob").from("alice").body(body)
}

/// Offered and accepted.
fn accepted(program: &mut Program, conn: ConnId, id: u64, size: u64) {
    program.put(conn, manifest(id, size));
    let manifest = Manifest { size, name: String::new() };
    assert_eq!(blob_events(program), [BlobEvent::Offered { key: key("bob", id), info_type: 7, manifest }]);
    program.silent(conn);
    program.core.accept_blob(program.now, &key("bob", id));
    program.turn();
    assert_eq!(program.frame(conn), has(id, 0));
}

#[test]
fn an_accepted_blob_is_taken_part_by_part_and_checked() {
    let (mut program, conn) = receiver();
    let key = key("bob", 5);
    // Without the magic it is a query, which this program takes none of.
    program.put(conn, query(5, MORE, br#"{"name":"x","size":3}"#));
    assert_eq!(program.frame(conn).flags, ERROR);
    program.put(conn, query(5, MORE, br#"TRNKBLBM{"name":"x","later":1,"size":3}"#));
    let offered = Manifest { size: 3, name: "x".to_owned() };
    assert_eq!(blob_events(&mut program), [BlobEvent::Offered { key: key.clone(), info_type: 7, manifest: offered }]);
    program.silent(conn);
    program.core.accept_blob(program.now, &key);
    program.turn();
    assert_eq!(program.frame(conn), has(5, 0));
    program.put(conn, part(5, 0, b"ab"));
    program.put(conn, part(5, 2, b"c"));
    assert_eq!(program.frames(conn), [has(5, 2), has(5, 3)]);
    program.put(conn, end(5, 3, DIGEST_OF_ABC));
    let came = |received| BlobEvent::Came { key: key.clone(), received, size: 3 };
    let body = bytes::Bytes::from_static(b"abc");
    let received = BlobEvent::Received { key: key.clone(), info_type: 7, name: "x".to_owned(), body };
    assert_eq!(blob_events(&mut program), [came(2), came(3), received]);
    program.silent(conn);
    program.core.take_blob(program.now, &key);
    program.turn();
    let done = Raw::of(REPLY).id(5).to("bob").from("alice");
    assert_eq!(program.frame(conn), done);
    // The answer may not have arrived.
    program.put(conn, end(5, 3, DIGEST_OF_ABC));
    assert_eq!(program.frame(conn), done);
    program.put(conn, query(5, 0, b"TRNKBLBC"));
    program.silent(conn);
    assert_eq!(program.core.blobs_received().held(), 3, "the application has it");
    program.core.release_blob(3);
    assert_eq!((program.core.blobs_received().held(), program.core.blobs_received().count()), (0, 0));
    assert_eq!(blob_events(&mut program), []);
}

#[test]
fn what_came_before_is_not_taken_twice_and_what_is_missing_is_asked_for() {
    let (mut program, conn) = receiver();
    accepted(&mut program, conn, 5, 3);
    // A manifest that was sent again, a part behind one that was lost, the end behind it.
    program.put(conn, manifest(5, 3));
    program.put(conn, part(5, 1, b"bc"));
    program.put(conn, end(5, 3, DIGEST_OF_ABC));
    assert_eq!(program.frames(conn), [has(5, 0), has(5, 0), has(5, 0)]);
    program.put(conn, part(5, 0, b"ab"));
    program.put(conn, part(5, 0, b"ab"));
    program.put(conn, part(5, 0, b"a"));
    assert_eq!(program.frames(conn), [has(5, 2), has(5, 2), has(5, 2)]);
    // Cut otherwise than before.
    program.put(conn, part(5, 1, b"bc"));
    assert_eq!(program.frame(conn), has(5, 3));
    program.put(conn, end(5, 3, DIGEST_OF_ABC));
    assert!(matches!(blob_events(&mut program).pop(), Some(BlobEvent::Received { body, .. }) if &body[..] == b"abc"));
}

#[test]
fn what_is_not_what_was_sent_is_damaged() {
    let digest = &[0; 32];
    let table: [(&str, Raw); 8] = [
        ("another digest", end(5, 3, digest)),
        ("another size at the end", end(5, 4, DIGEST_OF_ABC)),
        ("beyond its size", part(5, 3, b"d")),
        ("an offset that overflows", part(5, u64::MAX, b"d")),
        ("data without data", part(5, 3, b"")),
        ("an end that is one of several", Raw { flags: MORE, ..end(5, 3, DIGEST_OF_ABC) }),
        ("a digest that is too short", end(5, 3, &[0; 31])),
        ("no part at all", query(5, MORE, b"TRNKBLBX")),
    ];
    for (what, frame) in table {
        let (mut program, conn) = receiver();
        accepted(&mut program, conn, 5, 3);
        program.put(conn, part(5, 0, b"abc"));
        program.frames(conn);
        blob_events(&mut program);
        program.put(conn, frame.clone());
        assert_eq!(program.frame(conn), refuses(5, b"\x04"), "{what}");
        assert_eq!(
            blob_events(&mut program),
            [BlobEvent::Failed { key: key("bob", 5), cause: BlobFailure::Damaged }],
            "{what}"
        );
        assert_eq!(program.core.blobs_received().held(), 0, "{what}");
        program.put(conn, part(5, 0, b"abc"));
        assert_eq!(program.frame(conn), refuses(5, b"\x04"), "{what}: said again");
    }
}

#[test]
fn each_way_to_be_refused_has_its_cause() {
    let (mut program, conn) = online();
    program.put(conn, manifest(5, 3));
    assert_eq!(program.frame(conn), refuses(5, b"\x08"), "a program that takes none");
    let (mut program, conn) = receiver();
    program.put(conn, manifest(5, limits::BLOB_BYTES_MAX as u64 + 1));
    assert_eq!(program.frame(conn), refuses(5, b"\x02"));
    program.put(conn, query(5, MORE, b"TRNKBLBM[3]"));
    assert_eq!(program.frame(conn), refuses(5, b"\x04"));
    let long = format!(r#"TRNKBLBM{{"size":3,"name":"{}"}}"#, "a".repeat(256));
    program.put(conn, query(5, MORE, long.as_bytes()));
    assert_eq!(program.frame(conn), refuses(5, b"\x04"));
    program.put(conn, part(5, 0, b"abc"));
    program.put(conn, end(6, 3, DIGEST_OF_ABC));
    assert_eq!(program.frames(conn), [refuses(5, b"\x05"), refuses(6, b"\x05")], "blobs that nobody knows");
    program.put(conn, query(6, 0, b"TRNKBLBC"));
    program.silent(conn);
    assert_eq!(blob_events(&mut program), [], "the application hears of none of these");
    program.put(conn, manifest(7, 3));
    program.core.refuse_blob(program.now, &key("bob", 7), BlobCause::Denied, "not today".to_owned());
    program.turn();
    assert_eq!(program.frame(conn), refuses(7, b"\x01not today"));
    program.put(conn, manifest(7, 3));
    assert_eq!(program.frame(conn), refuses(7, b"\x01not today"), "its sender did not hear of it");
    assert_eq!(blob_events(&mut program).len(), 1);
}

#[test]
fn what_is_offered_and_received_is_bounded_in_number_and_bytes() {
    let (mut program, conn) = online_with(|config| {
        config.blobs.taken = true;
        config.blobs.bytes_max = 1_000;
    });
    for id in 1..=4 {
        program.put(conn, manifest(id, 1_000));
        program.core.accept_blob(program.now, &key("bob", id));
    }
    program.turn();
    program.frames(conn);
    program.put(conn, manifest(5, 1));
    assert_eq!(program.frame(conn), refuses(5, b"\x03"), "the fifth of one sender");
    assert_eq!(program.core.blobs_received().held(), 0, "nothing is kept for what was only said");
    for id in 1..=2 {
        program.put(conn, part(id, 0, &[1; 1_000]));
        assert_eq!(program.frame(conn), has(id, 1_000));
    }
    assert_eq!(program.core.blobs_received().held(), 2_000);
    program.put(conn, part(3, 0, &[1]));
    assert_eq!(program.frame(conn), refuses(3, b"\x03"), "the byte that is too much");
    // What is given up makes room.
    program.put(conn, query(1, 0, b"TRNKBLBC"));
    assert_eq!(program.core.blobs_received().held(), 1_000);
    program.put(conn, part(4, 0, &[1]));
    assert_eq!(program.frame(conn), has(4, 1));
    let (mut program, conn) = receiver();
    for number in 0..=limits::BLOBS_RECEIVING_MAX as u64 {
        let from = format!("user{number}");
        program.put(conn, Raw { from: from.clone().into(), ..manifest(1, 1) });
        let frames = program.frames(conn);
        let busy = Raw { to: from.into(), ..refuses(1, b"\x03") };
        assert_eq!(frames, if number < 256 { vec![] } else { vec![busy] }, "blob {number}");
    }
}

#[test]
fn a_receiver_gives_up_what_comes_no_further_for_thirty_seconds() {
    let (mut program, conn) = receiver();
    program.put(conn, manifest(4, 3));
    accepted_after(&mut program, conn);
    program.put(conn, part(5, 0, b"a"));
    program.frames(conn);
    blob_events(&mut program);
    for _ in 0..29 {
        program.pass_ms(1_000);
        // Parts that it has are no progress.
        program.put(conn, part(5, 0, b"a"));
    }
    program.pass_ms(999);
    assert_eq!(blob_events(&mut program), []);
    program.frames(conn);
    program.pass_ms(1);
    let failed = |id| BlobEvent::Failed { key: key("bob", id), cause: BlobFailure::TimedOut };
    assert_eq!(blob_events(&mut program), [failed(4), failed(5)]);
    assert_eq!(program.frames(conn), [refuses(4, b"\x07"), refuses(5, b"\x07")]);
    assert_eq!((program.core.blobs_received().held(), program.core.blobs_received().count()), (0, 0));
}

/// Blob 5 is accepted beside one that is only offered.
fn accepted_after(program: &mut Program, conn: ConnId) {
    assert_eq!(blob_events(program).len(), 1);
    accepted(program, conn, 5, 3);
}

#[test]
fn a_sender_s_cancel_and_the_session_s_end_are_told() {
    let (mut program, conn) = receiver();
    accepted(&mut program, conn, 5, 3);
    program.put(conn, query(5, 0, b"TRNKBLBC"));
    assert_eq!(blob_events(&mut program), [BlobEvent::Failed { key: key("bob", 5), cause: BlobFailure::Cancelled }]);
    program.silent(conn);
    accepted(&mut program, conn, 6, 3);
    program.reset(conn);
    until_dial(&mut program);
    let conn = crate::client::greet(&mut program);
    program.put(conn, part(6, 0, b"abc"));
    assert_eq!(program.frame(conn), has(6, 3), "it goes on over a lost connection");
    blob_events(&mut program);
    program.put(conn, Raw::of(wire_peer::CLOSE).info(1508));
    assert_eq!(blob_events(&mut program), [BlobEvent::Failed { key: key("bob", 6), cause: BlobFailure::Stopped }]);
}

#[test]
fn a_server_s_blob_is_answered_to_the_server() {
    let (mut program, conn) = receiver();
    let (id, from) = (0x0001_0000_0000_0009, BlobKey { from: None, id: 0x0001_0000_0000_0009 });
    program.put(conn, Raw { from: Vec::new(), ..manifest(id, 3) });
    program.core.accept_blob(program.now, &from);
    program.turn();
    // Three bytes more than with an id of three.
    let body = b"\0\0\0\0\0\0\0\0\x00\x0F\xFF\xDB";
    assert_eq!(program.frame(conn), Raw::of(REPLY).flags(MORE).id(id).from("alice").body(body));
}

// The server.

fn server_events(server: &mut Seam<AppServer>) -> Vec<BlobEvent> {
    let blob = |event| match event {
        appserver::Event::Blob(event) => Some(event),
        _ => None,
    };
    server_tests::events(server).into_iter().filter_map(blob).collect()
}

#[test]
fn a_server_takes_the_blobs_of_its_users() {
    let mut server = server_tests::alone_with(|config| {
        config.takes_queries = true;
        config.blobs.taken = true;
    });
    let alice = server_tests::log_in(&mut server, "alice");
    let query = |flags, body: &[u8]| Raw::of(QUERY).flags(flags).info(7).id(5).from("alice").body(body);
    let answer = |flags, body: &[u8]| Raw::of(REPLY).flags(flags).id(5).to("alice").body(body);
    server_tests::events(&mut server);
    server.put(alice, query(MORE, br#"TRNKBLBM{"size":3}"#));
    let manifest = Manifest { size: 3, name: String::new() };
    assert_eq!(server_events(&mut server), [BlobEvent::Offered { key: key("alice", 5), info_type: 7, manifest }]);
    server.core.accept_blob(server.now, &key("alice", 5));
    server.turn();
    assert_eq!(server.frame(alice), answer(MORE, b"\0\0\0\0\0\0\0\0\x00\x0F\xFF\xDB"));
    server.put(alice, query(MORE, b"TRNKBLBD\0\0\0\0\0\0\0\0abc"));
    assert_eq!(server.frame(alice), answer(MORE, b"\0\0\0\0\0\0\0\x03\x00\x0F\xFF\xDB"));
    server.put(alice, query(0, &[b"TRNKBLBE\0\0\0\0\0\0\0\x03", &DIGEST_OF_ABC[..]].concat()));
    assert!(matches!(&server_events(&mut server)[..], [_, BlobEvent::Received { body, .. }] if &body[..] == b"abc"));
    server.core.take_blob(server.now, &key("alice", 5));
    server.turn();
    assert_eq!(server.frame(alice), answer(0, b""));
    // Where nobody takes queries, a blob is none either.
    let mut server = server_tests::alone();
    let alice = server_tests::log_in(&mut server, "alice");
    server.put(alice, query(MORE, br#"TRNKBLBM{"size":3}"#));
    assert_eq!(server.frame(alice), Raw::of(BOUNCE).info(7).id(5).to("alice"));
}

#[test]
fn a_server_s_own_blob_goes_up_and_its_answers_find_it() {
    let (mut server, up) = server_tests::joined();
    let id = server.core.send_blob(server.now, user("bob"), 7, "", vec![1; 5 * PART].into()).expect("taken");
    server.turn();
    assert_eq!(id >> 48, 1, "its number leads answers back");
    let query = Raw::of(QUERY).flags(MORE).info(7).id(id).to("bob").body(br#"TRNKBLBM{"size":81920}"#);
    assert_eq!(server.frame(up), query);
    let reply = |flags, body: &[u8]| Raw::of(REPLY).flags(flags).id(id).from("bob").body(body);
    server.put(up, reply(MORE, b"\0\0\0\0\0\0\0\0\0\0\xFF\xFF"));
    assert_eq!(parts(&server.frames(up)), [0, 1, 2, 3].map(part_at));
    server.put(up, Raw::of(BOUNCE).info(4).id(id).from("bob"));
    server.pass_ms(100);
    assert_eq!(parts(&server.frames(up)), [0, 1, 2, 3].map(part_at));
    server.put(up, reply(ERROR, b"\x06"));
    assert_eq!(server_events(&mut server), [BlobEvent::Settled { id, outcome: Err(BlobFailure::Cancelled) }]);
    assert_eq!(server.core.open_blobs(), 0);
}

#[test]
fn a_server_s_blob_waits_for_a_congested_receiver() {
    let (mut server, up) = server_tests::joined();
    let (alice, _) = server_tests::log_in_through(&mut server, up, "alice");
    let id = server.core.send_blob(server.now, user("alice"), 7, "", vec![1; 8 * PART].into()).expect("taken");
    server.turn();
    server.frames(alice);
    server.stall(alice);
    let credit = Raw::of(REPLY).flags(MORE).id(id).from("alice").body(b"\0\0\0\0\0\0\0\0\0\0\xFF\xFF");
    server.put(alice, credit);
    server.core.send(server.now, &user("alice"), Flags::NONE, 9, &[0; 100_000], None).expect("it fits");
    server.turn();
    assert!(!server.reads(alice), "it is congested");
    // The part that was ahead of the message is written: no other follows, and the congestion is not over.
    server.take(alice, 16 + 20 + 5 + PART + 1_000);
    assert!(!server.reads(alice));
    let queued = server.core.links().get(alice).map(|link| link.queue().len());
    assert_eq!(queued, Some(20 + 5 + 100_000 - 1_000));
    server.take(alice, 70_000);
    assert!(server.reads(alice), "less than half of what congests it");
    server.unstall(alice);
    let frames = server.frames(alice);
    assert_eq!(frames.iter().map(|frame| frame.kind).collect::<Vec<_>>(), [QUERY, DATA, QUERY, QUERY, QUERY]);
}

#[test]
fn a_server_s_blob_waits_for_the_cluster() {
    let (mut server, up) = server_tests::joined();
    server.reset(up);
    let id = server.core.send_blob(server.now, user("bob"), 7, "", vec![1].into()).expect("taken");
    assert_eq!(server_events(&mut server), []);
    server.core.cancel_blob(server.now, id);
    assert_eq!(server_events(&mut server), [BlobEvent::Settled { id, outcome: Err(BlobFailure::Cancelled) }]);
}

// Both sides, and a bad way between them.

/// How long the way is bad: behind that there is time to try again before either side gives up.
const BAD_MILLIS: u64 = 12_000;

/// Two programs and what lies between them.
struct Between {
    rng: fastrand::Rng,
    alice: (Program, ConnId),
    bob: (Program, ConnId),
    millis: u64,
    /// Until then nothing passes.
    lost_until: u64,
}

impl Between {
    fn new(seed: u64) -> Between {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut side = |name: &str| {
            let program = started_with(|config: &mut Config| {
                config.user = user(name);
                config.blobs.taken = true;
            });
            if rng.bool() { small(program) } else { large(program) }
        };
        let (alice, bob) = (side("alice"), side("bob"));
        Between { rng, alice, bob, millis: 0, lost_until: 0 }
    }

    fn is_bad(&self) -> bool {
        self.millis < BAD_MILLIS
    }

    /// Lets a while pass, and what was said go over, or not.
    fn step(&mut self) {
        let pause = self.rng.u64(1..50);
        self.millis += pause;
        for (program, _) in [&mut self.alice, &mut self.bob] {
            program.pass_ms(pause);
        }
        if self.is_bad() && self.rng.u8(0..30) == 0 {
            self.lost_until = self.millis + self.rng.u64(1..1_500);
        }
        if self.is_bad() && self.rng.u8(0..40) == 0 {
            let side = if self.rng.bool() { &mut self.alice } else { &mut self.bob };
            side.0.reset(side.1);
            until_dial(&mut side.0);
            side.1 = if self.rng.bool() { small_again(&mut side.0) } else { large_again(&mut side.0) };
            return self.level();
        }
        self.pass_on();
    }

    /// One waited for its dial: the other waits as long.
    fn level(&mut self) {
        let now = self.alice.0.now.max(self.bob.0.now);
        for (program, _) in [&mut self.alice, &mut self.bob] {
            program.pass(now.since(program.now));
        }
    }

    fn pass_on(&mut self) {
        let bounces = self.is_bad() && self.rng.u8(0..8) == 0;
        for frame in self.alice.0.frames(self.alice.1) {
            match frame.kind {
                QUERY if self.lost_until > self.millis => {}
                QUERY if bounces && self.rng.bool() => {
                    let code = *self.rng.choice(&[2, 3, 4]).expect("there are some");
                    self.alice.0.put(self.alice.1, bounce(frame.id, code));
                }
                QUERY => self.bob.0.put(self.bob.1, frame),
                wire_peer::PING => self.alice.0.put(self.alice.1, Raw::of(wire_peer::PONG).id(frame.id)),
                _ => {}
            }
        }
        for frame in self.bob.0.frames(self.bob.1) {
            match frame.kind {
                REPLY if self.lost_until > self.millis => {}
                REPLY => self.alice.0.put(self.alice.1, frame),
                wire_peer::PING => self.bob.0.put(self.bob.1, Raw::of(wire_peer::PONG).id(frame.id)),
                _ => {}
            }
        }
    }
}

fn large(mut program: Program) -> (Program, ConnId) {
    let conn = large_again(&mut program);
    (program, conn)
}

fn large_again(program: &mut Program) -> ConnId {
    crate::client::greet(program)
}

fn small_again(program: &mut Program) -> ConnId {
    let conn = program.answer_dial();
    program.wire(conn).got.clear();
    let body = r#"{"server":1,"session":"1-2-7","heartbeat_ms":10000,"max_frame":4096,"cluster":"up"}"#;
    program.put(conn, Raw::of(WELCOME).to("alice").body(body));
    conn
}

/// Each blob comes once and as it was sent, whatever is bounced, lost or sent again; and who sent it hears so once.
#[test]
fn a_blob_comes_whole_or_not_at_all_over_any_way() {
    for seed in 0..200 {
        let mut between = Between::new(seed);
        let bodies: Vec<Vec<u8>> = (0..between.rng.usize(1..4))
            .map(|_| {
                let bytes = between.rng.usize(0..20 * PART);
                std::iter::repeat_with(|| between.rng.u8(..)).take(bytes).collect()
            })
            .collect();
        let ids: Vec<u64> = bodies.iter().map(|body| send(&mut between.alice.0, body.clone())).collect();
        let mut settled = vec![None; ids.len()];
        let mut received = vec![0; ids.len()];
        let place = |id: u64| ids.iter().position(|known| *known == id).expect("one of these");
        while between.millis < 60_000 {
            between.step();
            for event in blob_events(&mut between.bob.0) {
                match event {
                    BlobEvent::Offered { key, .. } => between.bob.0.core.accept_blob(between.bob.0.now, &key),
                    BlobEvent::Came { .. } => {}
                    BlobEvent::Received { key, body, .. } => {
                        assert!(body == bodies[place(key.id)], "seed {seed}: it came damaged");
                        received[place(key.id)] += 1;
                        between.bob.0.core.take_blob(between.bob.0.now, &key);
                        between.bob.0.core.release_blob(body.len());
                    }
                    other => panic!("seed {seed}: {other:?}"),
                }
            }
            between.bob.0.turn();
            for event in blob_events(&mut between.alice.0) {
                if let BlobEvent::Settled { id, outcome } = event {
                    assert_eq!(settled[place(id)].replace(outcome), None, "seed {seed}: settled twice");
                }
            }
        }
        assert_eq!(settled, vec![Some(Ok(())); ids.len()], "seed {seed}");
        assert_eq!(received, vec![1; ids.len()], "seed {seed}");
        let bob = between.bob.0.core.blobs_received();
        assert_eq!((bob.held(), bob.count()), (0, 0), "seed {seed}");
    }
}

#[test]
fn an_id_of_a_user_is_no_key_of_another() {
    let (mut program, conn) = receiver();
    accepted(&mut program, conn, 5, 3);
    program.put(conn, Raw { from: b"carol".into(), ..part(5, 0, b"abc") });
    let unknown = Raw { to: b"carol".into(), ..refuses(5, b"\x05") };
    assert_eq!(program.frame(conn), unknown);
    assert_eq!(program.core.blobs_received().held(), 0);
}
