//! Blobs at the seam: each side's frames, byte for byte, and what becomes of a blob whatever happens on the way.

use trunkline::role::blob::BlobEvent;
use trunkline::role::client::Event;
use trunkline::wire::Flags;

use crate::client::{Program, events, online, user};
use crate::wire_peer::{DATA, QUERY, REPLY, Raw};

const MORE: u8 = 0x02;
const PART: usize = 16 << 10;

fn blob_events(program: &mut Program) -> Vec<BlobEvent> {
    let blob = |event| match event {
        Event::Blob(event) => event,
        other => panic!("{other:?}"),
    };
    events(program).into_iter().map(blob).collect()
}

fn credit(id: u64, offset: u64) -> Raw {
    let body = [&offset.to_be_bytes()[..], &[0, 0x0F, 0xFF, 0]].concat();
    Raw::of(REPLY).flags(MORE).id(id).to("alice").from("bob").body(body)
}

fn send(program: &mut Program, body: Vec<u8>) -> u64 {
    let id = program.core.send_blob(program.now, Some(user("bob")), 7, "a", body.into()).expect("taken");
    program.turn();
    id
}

#[test]
fn a_blob_is_offered_then_sent_then_ended() {
    let (mut program, conn) = online();
    let id = send(&mut program, b"abc".to_vec());
    let query = |flags, body: &[u8]| Raw::of(QUERY).flags(flags).info(7).id(id).to("bob").from("alice").body(body);
    assert_eq!(program.frame(conn), query(MORE, br#"TRNKBLBM{"size":3,"name":"a"}"#));
    program.put(conn, credit(id, 0));
    // SHA-256 of "abc", as FIPS 180-2 gives it.
    let digest = b"\xba\x78\x16\xbf\x8f\x01\xcf\xea\x41\x41\x40\xde\x5d\xae\x22\x23\
                   \xb0\x03\x61\xa3\x96\x17\x7a\x9c\xb4\x10\xff\x61\xf2\x00\x15\xad";
    let end = [&b"TRNKBLBE\0\0\0\0\0\0\0\x03"[..], digest].concat();
    assert_eq!(program.frames(conn), [query(MORE, b"TRNKBLBD\0\0\0\0\0\0\0\0abc"), query(0, &end)]);
    program.put(conn, credit(id, 3));
    program.put(conn, Raw::of(REPLY).id(id).to("alice").from("bob"));
    let told = [BlobEvent::Confirmed { id, bytes: 3 }, BlobEvent::Settled { id, outcome: Ok(()) }];
    assert_eq!(blob_events(&mut program), told);
    program.silent(conn);
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
    let kinds: Vec<u8> = program.frames(conn).iter().map(|frame| frame.kind).collect();
    assert_eq!(kinds[..3], [QUERY, DATA, QUERY]);
    // The window of each, and no more.
    assert_eq!(kinds.len(), 1 + 3 * 4);
}
