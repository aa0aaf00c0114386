//! The wire format against bytes written out from docs/PROTOCOL.md, and against arbitrary ones.
//!
//! Long for its tables: every kind, flag and code of the protocol stands here once, to be compared with that page.

use bytes::BytesMut;
use proptest::prelude::*;
use trunkline::id::{IdError, ServerId, UserId, check_id};
use trunkline::limits::MAX_FRAME;
use trunkline::wire::link::{
    BindEntry, Membership, ProveBody, Prover, Register, ServerEntry, ServerState, Servers, Tallies,
};
use trunkline::wire::{
    Answer, Ask, AskKind, CloseBody, CloseCode, Cluster, Envelope, Flags, Header, Kind, Located, Login, Malformed,
    Opening, Outgoing, Preface, Protocol, Role, Versions, Welcome,
};

/// One frame: its 20 header bytes in hex, what follows them, and what both must mean.
struct Golden {
    header: &'static str,
    tail: &'static [u8],
    frame: Outgoing<'static>,
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

impl Golden {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = hex(self.header);
        assert_eq!(bytes.len(), 20, "{}", self.header);
        bytes.extend_from_slice(self.tail);
        bytes
    }
}

fn encoded(frame: &Outgoing<'_>) -> Vec<u8> {
    let mut out = BytesMut::new();
    frame.encode(&mut out);
    out.to_vec()
}

/// A whole frame as a reader gets at it: its envelope and its body; none while bytes are missing.
fn read(bytes: &[u8], max_frame: usize) -> Result<Option<(Envelope<'_>, &[u8])>, Malformed> {
    let Some(wire_bytes) = Header::wire_bytes(bytes, max_frame)? else { return Ok(None) };
    let Some(frame) = bytes.get(..wire_bytes) else { return Ok(None) };
    let envelope = Envelope::parse(frame)?.expect("a whole frame has a whole envelope");
    Ok(Some((envelope, &frame[envelope.header.envelope_bytes()..])))
}

const NONCE_AND_PROOF: &[u8; 64] = b"nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPP";

fn goldens() -> Vec<Golden> {
    vec![
        Golden {
            header: "0000002A 01 00 00 05 00000000 0000000000000000",
            tail: b"alice{\"password\":\"secret\"}",
            frame: Outgoing { from: b"alice", body: b"{\"password\":\"secret\"}", ..Outgoing::of(Kind::Login) },
        },
        Golden {
            header: "00000069 02 00 05 00 00000000 0000000000000000",
            tail: b"alice{\"server\":1,\"session\":\"1-7\",\"heartbeat_ms\":10000,\
                    \"max_frame\":1048576,\"cluster\":\"up\"}",
            frame: Outgoing {
                to: b"alice",
                body: b"{\"server\":1,\"session\":\"1-7\",\"heartbeat_ms\":10000,\
                    \"max_frame\":1048576,\"cluster\":\"up\"}",
                ..Outgoing::of(Kind::Welcome)
            },
        },
        Golden {
            header: "0000001A 03 00 00 00 000005E7 0000000000000000",
            tail: b"logged out",
            frame: Outgoing { info_type: 1511, body: b"logged out", ..Outgoing::of(Kind::Close) },
        },
        Golden {
            header: "00000015 04 00 00 05 00000000 0000000000000000",
            tail: b"alice",
            frame: Outgoing { from: b"alice", ..Outgoing::of(Kind::Logout) },
        },
        Golden {
            header: "00000010 05 00 00 00 00000000 0102030405060708",
            tail: b"",
            frame: Outgoing { id: 0x0102_0304_0506_0708, ..Outgoing::of(Kind::Ping) },
        },
        Golden {
            header: "00000010 06 00 00 00 00000000 0102030405060708",
            tail: b"",
            frame: Outgoing { id: 0x0102_0304_0506_0708, ..Outgoing::of(Kind::Pong) },
        },
        Golden {
            header: "0000001A 10 01 03 05 00000007 000000000000002A",
            tail: b"bobalicehi",
            frame: Outgoing {
                kind: Kind::Data,
                flags: Flags::WANT_ACK,
                info_type: 7,
                id: 42,
                to: b"bob",
                from: b"alice",
                body: b"hi",
            },
        },
        Golden {
            header: "00000019 10 17 03 06 FFFFFFFF FFFFFFFFFFFFFFFF",
            tail: b"bobzo\xC3\xAB\xF0\x9F",
            frame: Outgoing {
                kind: Kind::Data,
                flags: Flags::WANT_ACK.with(Flags::MORE).with(Flags::DROPPABLE).with(Flags::RETRY),
                info_type: u32::MAX,
                id: u64::MAX,
                to: b"bob",
                from: b"zo\xC3\xAB\xF0\x9F",
                body: b"",
            },
        },
        Golden {
            header: "00000018 11 00 05 03 00000000 000000000000002A",
            tail: b"alicebob",
            frame: Outgoing { id: 42, to: b"alice", from: b"bob", ..Outgoing::of(Kind::Ack) },
        },
        Golden {
            header: "00000013 11 00 00 03 00000000 000200000000002A",
            tail: b"bob",
            frame: Outgoing { id: 0x0002_0000_0000_002A, from: b"bob", ..Outgoing::of(Kind::Ack) },
        },
        Golden {
            header: "0000001A 12 00 05 05 00000001 000000000000002B",
            tail: b"alicecarol",
            frame: Outgoing { info_type: 1, id: 43, to: b"alice", from: b"carol", ..Outgoing::of(Kind::Bounce) },
        },
        Golden {
            header: "00000024 13 00 03 05 00000009 000000000000002C",
            tail: b"bobalicehow are you?",
            frame: Outgoing {
                info_type: 9,
                id: 44,
                to: b"bob",
                from: b"alice",
                body: b"how are you?",
                ..Outgoing::of(Kind::Query)
            },
        },
        Golden {
            header: "0000001C 14 08 05 03 00000009 000000000000002C",
            tail: b"alicebobfine",
            frame: Outgoing {
                kind: Kind::Reply,
                flags: Flags::ERROR,
                info_type: 9,
                id: 44,
                to: b"alice",
                from: b"bob",
                body: b"fine",
            },
        },
        Golden {
            header: "0000001A 20 00 05 05 00000000 0000000000000000",
            tail: b"chessalice",
            frame: Outgoing { to: b"chess", from: b"alice", ..Outgoing::of(Kind::GroupJoin) },
        },
        Golden {
            header: "0000001A 21 00 05 05 00000000 0000000000000000",
            tail: b"chessalice",
            frame: Outgoing { to: b"chess", from: b"alice", ..Outgoing::of(Kind::GroupLeave) },
        },
        Golden {
            header: "0000001C 22 04 05 05 00000003 0000000000000010",
            tail: b"chessalicee4",
            frame: Outgoing {
                kind: Kind::GroupData,
                flags: Flags::DROPPABLE,
                info_type: 3,
                id: 16,
                to: b"chess",
                from: b"alice",
                body: b"e4",
            },
        },
        Golden {
            header: "00000018 23 00 05 03 00000002 0000000000000000",
            tail: b"chessbob",
            frame: Outgoing { info_type: 2, to: b"chess", from: b"bob", ..Outgoing::of(Kind::GroupEvent) },
        },
        Golden {
            header: "00000013 30 00 00 03 00000001 0000000000000000",
            tail: b"bob",
            frame: Outgoing { info_type: 1, from: b"bob", ..Outgoing::of(Kind::Presence) },
        },
        Golden {
            header: "00000034 31 00 00 05 00000000 000000000000002D",
            tail: b"alice{\"ask\":\"where\",\"users\":[\"bob\"]}",
            frame: Outgoing {
                id: 45,
                from: b"alice",
                body: b"{\"ask\":\"where\",\"users\":[\"bob\"]}",
                ..Outgoing::of(Kind::Ask)
            },
        },
        Golden {
            header: "00000048 32 00 05 00 00000000 000000000000002D",
            tail: b"alice{\"users\":[{\"user\":\"bob\",\"online\":true,\"server\":2}]}",
            frame: Outgoing {
                id: 45,
                to: b"alice",
                body: b"{\"users\":[{\"user\":\"bob\",\"online\":true,\"server\":2}]}",
                ..Outgoing::of(Kind::Answer)
            },
        },
        Golden {
            header: "00000030 80 00 00 00 00000000 0000000000000003",
            tail: b"nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn",
            frame: Outgoing { id: 3, body: b"nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn", ..Outgoing::of(Kind::Challenge) },
        },
        Golden {
            header: "00000054 81 00 04 00 00000001 0000000000000002",
            tail: b"demonnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPP",
            frame: Outgoing { info_type: 1, id: 2, to: b"demo", body: NONCE_AND_PROOF, ..Outgoing::of(Kind::Prove) },
        },
        Golden {
            header: "0000003A 82 00 00 00 00000000 0000000000000000",
            tail: b"{\"address\":\"10.0.0.1:6000\",\"capacity\":100}",
            frame: Outgoing {
                body: b"{\"address\":\"10.0.0.1:6000\",\"capacity\":100}",
                ..Outgoing::of(Kind::Register)
            },
        },
        Golden {
            header: "00000030 83 00 00 00 00000000 0000000000000003",
            tail: b"PPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPP",
            frame: Outgoing { id: 3, body: b"PPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPP", ..Outgoing::of(Kind::Registered) },
        },
        Golden {
            header: "0000001D 84 00 00 05 00000001 0000000000000007",
            tail: b"alice\0\0\0\0\0\0\x01\xF4",
            frame: Outgoing {
                info_type: 1,
                id: 7,
                from: b"alice",
                body: b"\0\0\0\0\0\0\x01\xF4",
                ..Outgoing::of(Kind::Claim)
            },
        },
        Golden {
            header: "00000015 85 00 05 00 000005E5 0000000000000007",
            tail: b"alice",
            frame: Outgoing { info_type: 1509, id: 7, to: b"alice", ..Outgoing::of(Kind::Claimed) },
        },
        Golden {
            header: "00000015 86 00 00 05 00000000 0000000000000007",
            tail: b"alice",
            frame: Outgoing { id: 7, from: b"alice", ..Outgoing::of(Kind::Unbind) },
        },
        Golden {
            header: "00000010 87 00 00 00 00000000 0000000000000000",
            tail: b"",
            frame: Outgoing::of(Kind::BurstBegin),
        },
        Golden {
            header: "0000003A 88 00 00 00 00000000 0000000000000000",
            tail: TWO_BINDINGS,
            frame: Outgoing { body: TWO_BINDINGS, ..Outgoing::of(Kind::Bind) },
        },
        Golden {
            header: "00000010 89 00 00 00 00000002 0000000000000000",
            tail: b"",
            frame: Outgoing { info_type: 2, ..Outgoing::of(Kind::Synced) },
        },
        Golden {
            header: "00000015 8A 00 05 00 000005E4 0000000000000007",
            tail: b"alice",
            frame: Outgoing { info_type: 1508, id: 7, to: b"alice", ..Outgoing::of(Kind::Kick) },
        },
        Golden {
            header: "00000010 8B 00 00 00 00000002 BD4AF9DAA209BCD7",
            tail: b"",
            frame: Outgoing { info_type: 2, id: 0xBD4A_F9DA_A209_BCD7, ..Outgoing::of(Kind::Digest) },
        },
        Golden {
            header: "00000010 8C 00 00 00 00000000 0000000000000000",
            tail: b"",
            frame: Outgoing::of(Kind::Resync),
        },
        Golden {
            header: "00000044 8D 00 00 00 00000000 0000000000000000",
            tail: b"{\"servers\":[{\"server\":1,\"address\":\"10.0.0.1:6000\"}]}",
            frame: Outgoing {
                body: b"{\"servers\":[{\"server\":1,\"address\":\"10.0.0.1:6000\"}]}",
                ..Outgoing::of(Kind::Servers)
            },
        },
        Golden {
            header: "00000013 8E 00 03 00 00000000 0000000000000005",
            tail: b"bob",
            frame: Outgoing { id: 5, to: b"bob", ..Outgoing::of(Kind::Lookup) },
        },
        Golden {
            header: "00000015 8F 00 00 03 00000000 0000000000000005",
            tail: b"bob\x00\x02",
            frame: Outgoing { id: 5, from: b"bob", body: b"\x00\x02", ..Outgoing::of(Kind::Found) },
        },
        Golden {
            header: "00000010 90 00 00 00 00000000 0000000000000000",
            tail: b"",
            frame: Outgoing::of(Kind::Drain),
        },
        Golden {
            header: "00000059 91 00 00 00 00000000 0000000000000000",
            tail: br#"{"users":2,"queued_bytes":520,"busy_permille":250,"frames":9,"bytes":900}"#,
            frame: Outgoing {
                body: br#"{"users":2,"queued_bytes":520,"busy_permille":250,"frames":9,"bytes":900}"#,
                ..Outgoing::of(Kind::State)
            },
        },
        Golden {
            header: "0000001A 92 00 00 00 00000000 0000000000000000",
            tail: b"\x03bob\x05alice",
            frame: Outgoing { body: b"\x03bob\x05alice", ..Outgoing::of(Kind::Watch) },
        },
        Golden {
            header: "00000014 93 00 00 00 00000000 0000000000000000",
            tail: b"\x03bob",
            frame: Outgoing { body: b"\x03bob", ..Outgoing::of(Kind::Unwatch) },
        },
        Golden {
            header: "00000015 94 00 05 00 00000000 0000000000000000",
            tail: b"chess",
            frame: Outgoing { to: b"chess", ..Outgoing::of(Kind::GroupOn) },
        },
        Golden {
            header: "00000015 95 00 05 00 00000000 0000000000000000",
            tail: b"chess",
            frame: Outgoing { to: b"chess", ..Outgoing::of(Kind::GroupOff) },
        },
        Golden {
            header: "00000018 96 00 03 05 00000001 0002000000000005",
            tail: b"bobchess",
            frame: Outgoing {
                info_type: 1,
                id: 0x0002_0000_0000_0005,
                to: b"bob",
                from: b"chess",
                ..Outgoing::of(Kind::GroupEdit)
            },
        },
        Golden {
            header: "00000015 97 00 05 00 00000000 0002000000000005",
            tail: b"chess",
            frame: Outgoing { id: 0x0002_0000_0000_0005, to: b"chess", ..Outgoing::of(Kind::GroupMembers) },
        },
        Golden {
            header: "0000001F 98 00 00 05 00000000 0002000000000005",
            tail: b"chess\x03bob\x05alice",
            frame: Outgoing {
                id: 0x0002_0000_0000_0005,
                from: b"chess",
                body: b"\x03bob\x05alice",
                ..Outgoing::of(Kind::GroupMembersAre)
            },
        },
        Golden {
            header: "00000017 99 00 02 00 00000007 0002000000000005",
            tail: b"\x00\x03hello",
            frame: Outgoing {
                info_type: 7,
                id: 0x0002_0000_0000_0005,
                to: b"\x00\x03",
                body: b"hello",
                ..Outgoing::of(Kind::ServerData)
            },
        },
        Golden {
            header: "00000017 9A 00 02 00 00000007 0002000000000005",
            tail: b"\x00\x03hello",
            frame: Outgoing {
                info_type: 7,
                id: 0x0002_0000_0000_0005,
                to: b"\x00\x03",
                body: b"hello",
                ..Outgoing::of(Kind::ServerQuery)
            },
        },
        Golden {
            header: "00000013 9B 00 03 00 00000000 0002000000000005",
            tail: b"bob",
            frame: Outgoing { id: 0x0002_0000_0000_0005, to: b"bob", ..Outgoing::of(Kind::Inspect) },
        },
        Golden {
            header: "00000015 9C 00 00 03 00000000 0002000000000005",
            tail: b"bob{}",
            frame: Outgoing { id: 0x0002_0000_0000_0005, from: b"bob", body: b"{}", ..Outgoing::of(Kind::Inspected) },
        },
        Golden {
            header: "00000012 9D 00 00 00 00000000 0000000000000005",
            tail: b"{}",
            frame: Outgoing { id: 5, body: b"{}", ..Outgoing::of(Kind::List) },
        },
        Golden {
            header: "00000012 9E 00 00 00 00000000 0000000000000005",
            tail: b"{}",
            frame: Outgoing { id: 5, body: b"{}", ..Outgoing::of(Kind::Listed) },
        },
        Golden {
            header: "00000015 9F 00 00 00 00000007 0002000000000005",
            tail: b"hello",
            frame: Outgoing { info_type: 7, id: 0x0002_0000_0000_0005, body: b"hello", ..Outgoing::of(Kind::Everyone) },
        },
    ]
}

/// Session 7 of alice, 500 ms old, and session 8 of bob, 2^32 ms old.
const TWO_BINDINGS: &[u8] = b"\x00\x00\x00\x00\x00\x00\x00\x07\x00\x00\x00\x00\x00\x00\x01\xF4\x05alice\
                              \x00\x00\x00\x00\x00\x00\x00\x08\x00\x00\x00\x01\x00\x00\x00\x00\x03bob";

#[test]
fn the_goldens_cover_every_kind_at_its_number() {
    let numbers: [u8; 50] = [
        0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x10, 0x11, 0x12, 0x13, 0x14, 0x20, 0x21, 0x22, 0x23, 0x30, 0x31, 0x32,
        0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8B, 0x8C, 0x8D, 0x8E, 0x8F, 0x90, 0x91,
        0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F,
    ];
    assert_eq!(Kind::ALL.iter().map(|kind| kind.to_wire()).collect::<Vec<u8>>(), numbers);
    let mut covered: Vec<u8> = goldens().iter().map(|golden| golden.bytes()[4]).collect();
    covered.dedup();
    assert_eq!(covered, numbers);
}

#[test]
fn every_golden_is_what_the_encoder_makes() {
    for golden in goldens() {
        assert_eq!(encoded(&golden.frame), golden.bytes(), "{:?}", golden.frame.kind);
        assert_eq!(golden.frame.wire_bytes(), golden.bytes().len(), "{:?}", golden.frame.kind);
    }
}

#[test]
fn an_encoded_frame_goes_behind_what_is_there() {
    let mut out = BytesMut::from(&b"before"[..]);
    Outgoing { id: 9, ..Outgoing::of(Kind::Ping) }.encode(&mut out);
    assert_eq!(&out[..], b"before\x00\x00\x00\x10\x05\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x09");
}

#[test]
fn every_golden_is_read_back() {
    for golden in goldens() {
        let bytes = golden.bytes();
        let (envelope, body) = read(&bytes, MAX_FRAME).expect("well formed").expect("whole");
        assert_means(&envelope, body, &golden.frame, bytes.len());
    }
}

fn assert_means(envelope: &Envelope<'_>, body: &[u8], frame: &Outgoing<'_>, wire_bytes: usize) {
    let Header { kind, flags, info_type, id, .. } = envelope.header;
    assert_eq!((kind, flags, info_type, id), (frame.kind, frame.flags, frame.info_type, frame.id));
    assert_eq!((envelope.to, envelope.from, body), (frame.to, frame.from, frame.body), "{kind:?}");
    assert_eq!(envelope.header.wire_bytes, wire_bytes, "{kind:?}");
    assert_eq!(envelope.header.envelope_bytes(), 20 + frame.to.len() + frame.from.len(), "{kind:?}");
}

#[test]
fn every_strict_prefix_of_a_golden_is_incomplete() {
    for golden in goldens() {
        let bytes = golden.bytes();
        let envelope_bytes = 20 + golden.frame.to.len() + golden.frame.from.len();
        for len in 0..bytes.len() {
            let prefix = &bytes[..len];
            assert_eq!(read(prefix, MAX_FRAME), Ok(None), "{:?} cut at {len}", golden.frame.kind);
            let length = Header::wire_bytes(prefix, MAX_FRAME);
            assert_eq!(length, Ok((len >= 4).then_some(bytes.len())), "{:?} cut at {len}", golden.frame.kind);
            let envelope = Envelope::parse(prefix);
            let expected = if len < envelope_bytes { Ok(None) } else { Envelope::parse(&bytes) };
            assert_eq!(envelope, expected, "{:?} cut at {len}", golden.frame.kind);
        }
    }
}

#[test]
fn what_follows_a_golden_does_not_change_it() {
    for golden in goldens() {
        let bytes = golden.bytes();
        for garbage in [&b"\x00"[..], b"\xFF\xFF\xFF\xFF", b"TRNK\x00\x01\x01\x00", &bytes] {
            let followed = [&bytes[..], garbage].concat();
            let (envelope, body) = read(&followed, MAX_FRAME).expect("well formed").expect("whole");
            assert_means(&envelope, body, &golden.frame, bytes.len());
        }
    }
}

#[test]
fn an_unknown_kind_is_named() {
    let known: Vec<u8> = goldens().iter().map(|golden| golden.frame.kind.to_wire()).collect();
    for kind in (0..=u8::MAX).filter(|kind| !known.contains(kind)) {
        let mut bytes = hex("00000010 00 00 00 00 00000000 0000000000000000");
        bytes[4] = kind;
        assert_eq!(read(&bytes, MAX_FRAME), Err(Malformed::UnknownKind(kind)));
        assert_eq!(Kind::from_wire(kind), None);
    }
}

/// Which bits mean something on which kind: all that are not here allow none.
const FLAGS_ALLOWED: [(u8, u8); 4] = [(0x10, 0x17), (0x13, 0x02), (0x14, 0x0A), (0x22, 0x07)];

#[test]
fn a_flag_stands_only_where_it_means_something() {
    for kind in Kind::ALL.iter().copied() {
        let allowed = FLAGS_ALLOWED.iter().find(|(number, _)| *number == kind.to_wire()).map_or(0, |(_, bits)| *bits);
        for flags in 0..=u8::MAX {
            let mut bytes = hex("00000010 00 00 00 00 00000000 0000000000000000");
            (bytes[4], bytes[5]) = (kind.to_wire(), flags);
            let parsed =
                read(&bytes, MAX_FRAME).map(|whole| whole.map(|(envelope, _)| flag_bits(envelope.header.flags)));
            let expected =
                if flags & !allowed == 0 { Ok(Some(flags)) } else { Err(Malformed::BadFlags { kind, flags }) };
            assert_eq!(parsed, expected, "{kind:?} with {flags:#04x}");
        }
    }
}

/// The bits of the protocol's table, from the names of the code.
fn flag_bits(flags: Flags) -> u8 {
    let names = [
        (0x01, Flags::WANT_ACK),
        (0x02, Flags::MORE),
        (0x04, Flags::DROPPABLE),
        (0x08, Flags::ERROR),
        (0x10, Flags::RETRY),
    ];
    names.iter().filter(|(_, flag)| flags.has(*flag)).map(|(bit, _)| bit).sum()
}

#[test]
fn flags_are_had_one_by_one() {
    let both = Flags::WANT_ACK.with(Flags::RETRY);
    assert_eq!(flag_bits(both), 0x11);
    assert_eq!(
        (both.has(Flags::RETRY), both.has(Flags::MORE), both.has(Flags::RETRY.with(Flags::MORE))),
        (true, false, false)
    );
    assert_eq!((Flags::NONE.has(Flags::NONE), Flags::NONE.has(Flags::ERROR)), (true, false));
    assert_eq!(Flags::default(), Flags::NONE);
}

#[test]
fn a_length_is_judged_by_its_four_bytes() {
    const MAX: usize = 0x1000;
    let cases = [
        (*b"\x00\x00\x00\x00", Err(Malformed::Short(0))),
        (*b"\x00\x00\x00\x0F", Err(Malformed::Short(15))),
        (*b"\x00\x00\x00\x10", Ok(Some(20))),
        (*b"\x00\x00\x00\x11", Ok(Some(21))),
        (*b"\x00\x00\x0F\xFF", Ok(Some(4099))),
        (*b"\x00\x00\x10\x00", Ok(Some(4100))),
        (*b"\x00\x00\x10\x01", Err(Malformed::TooBig { length: 4097, max: MAX })),
        (*b"\x80\x00\x00\x10", Err(Malformed::TooBig { length: 0x8000_0010, max: MAX })),
        (*b"\xFF\xFF\xFF\xFF", Err(Malformed::TooBig { length: u32::MAX, max: MAX })),
    ];
    for (field, expected) in cases {
        assert_eq!(Header::wire_bytes(&field, MAX), expected, "{field:?}");
        let followed = [&field[..], b"\x10\x00\x00\x00"].concat();
        assert_eq!(Header::wire_bytes(&followed, MAX), expected, "{field:?} and more");
        for len in 0..4 {
            assert_eq!(Header::wire_bytes(&field[..len], MAX), Ok(None), "{field:?} cut at {len}");
        }
    }
    assert_eq!(Header::wire_bytes(b"\x00\x10\x00\x00", MAX_FRAME), Ok(Some(1_048_580)));
    let over = Malformed::TooBig { length: 1_048_577, max: 1_048_576 };
    assert_eq!(Header::wire_bytes(b"\x00\x10\x00\x01", MAX_FRAME), Err(over));
}

#[test]
fn a_frame_of_exactly_the_bound_is_read() {
    let body = vec![0xA5; 0x1000 - 16 - 3 - 5];
    let bytes = [&hex("00001000 10 00 03 05 00000000 0000000000000001")[..], b"bobalice", &body].concat();
    let (envelope, read_body) = read(&bytes, 0x1000).expect("well formed").expect("whole");
    assert_eq!((envelope.to, envelope.from, read_body), (&b"bob"[..], &b"alice"[..], &body[..]));
    assert_eq!(read(&bytes, 0xFFF), Err(Malformed::TooBig { length: 0x1000, max: 0xFFF }));
}

#[test]
fn ids_fit_the_length_and_their_rule() {
    let cases = [
        ("00000010 10 00 00 00 00000000 0000000000000000", None),
        ("00000010 10 00 01 00 00000000 0000000000000000", Some(Malformed::Short(16))),
        ("00000010 10 00 00 01 00000000 0000000000000000", Some(Malformed::Short(16))),
        ("00000017 10 00 04 04 00000000 0000000000000000", Some(Malformed::Short(23))),
        ("00000018 10 00 04 04 00000000 0000000000000000", None),
        ("0000008F 10 00 40 40 00000000 0000000000000000", Some(Malformed::Short(143))),
        ("00000090 10 00 40 40 00000000 0000000000000000", None),
        ("00000091 10 00 41 40 00000000 0000000000000000", Some(Malformed::LongId)),
        ("00000091 10 00 40 41 00000000 0000000000000000", Some(Malformed::LongId)),
        ("0000020D 10 00 FF FF 00000000 0000000000000000", Some(Malformed::Short(525))),
        ("0000020E 10 00 FF FF 00000000 0000000000000000", Some(Malformed::LongId)),
    ];
    for (header, malformed) in cases {
        let mut bytes = hex(header);
        bytes.resize(20 + 2 * 255, b'x');
        let whole =
            read(&bytes, MAX_FRAME).map(|whole| whole.map(|(envelope, _)| (envelope.to.len(), envelope.from.len())));
        let (to_len, from_len) = (usize::from(bytes[6]), usize::from(bytes[7]));
        assert_eq!(whole, malformed.map_or(Ok(Some((to_len, from_len))), Err), "{header}");
        let fixed_only = Envelope::parse(&bytes[..20]).err();
        assert_eq!(fixed_only, malformed, "{header}: known from the fixed part");
    }
}

#[test]
fn a_second_preface_is_seen_by_its_four_bytes_whatever_the_bound() {
    for max in [0, 4096, MAX_FRAME, 0x5452_4E4B, usize::MAX] {
        assert_eq!(Header::wire_bytes(b"TRNK", max), Err(Malformed::SecondPreface), "{max}");
    }
    let beside = Malformed::TooBig { length: 0x5452_4E4C, max: MAX_FRAME };
    assert_eq!(Header::wire_bytes(b"TRNL", MAX_FRAME), Err(beside));
}

#[test]
fn a_frame_of_the_largest_length_with_the_longest_ids_is_read() {
    let ids = [[b'x'; 64], [b'y'; 64]].concat();
    let mut bytes = [&hex("00100000 10 00 40 40 FFFFFFFF FFFFFFFFFFFFFFFF")[..], &ids].concat();
    bytes.resize(4 + 0x10_0000, 0xA5);
    let (envelope, body) = read(&bytes, MAX_FRAME).expect("well formed").expect("whole");
    assert_eq!((envelope.to, envelope.from, body.len()), (&ids[..64], &ids[64..], 1_048_432));
    assert_eq!((envelope.header.info_type, envelope.header.id), (u32::MAX, u64::MAX));
    assert_eq!(read(&bytes[..bytes.len() - 1], MAX_FRAME), Ok(None));
    bytes[3] = 1;
    bytes.push(0);
    assert_eq!(read(&bytes, MAX_FRAME), Err(Malformed::TooBig { length: 0x10_0001, max: 0x10_0000 }));
}

#[test]
fn ids_at_their_limits() {
    let wide = "\u{e9}".repeat(33);
    let wide = wide.as_bytes();
    let cases: [(&[u8], Result<(), IdError>); 14] = [
        (b"", Err(IdError::Empty)),
        (b"x", Ok(())),
        (&[b'x'; 64], Ok(())),
        (&[b'x'; 65], Err(IdError::Long)),
        (&wide[..64], Ok(())),
        (wide, Err(IdError::Long)),
        (&wide[..63], Err(IdError::NotUtf8)),
        (b"\x1f", Err(IdError::Control)),
        (b" ", Ok(())),
        (b"\x7f", Err(IdError::Control)),
        ("\u{9f}".as_bytes(), Err(IdError::Control)),
        ("\u{a0}".as_bytes(), Ok(())),
        (b"\xC0\x80", Err(IdError::NotUtf8)),
        (b"\xED\xA0\x80", Err(IdError::NotUtf8)),
    ];
    for (bytes, expected) in cases {
        assert_eq!(check_id(bytes), expected, "{bytes:02x?}");
        assert_eq!(UserId::parse(bytes).map(drop), expected, "{bytes:02x?}");
    }
}

#[test]
fn the_user_of_a_binding_is_as_long_as_its_byte_says() {
    let fixed = hex("FFFFFFFFFFFFFFFF FFFFFFFFFFFFFFFF FF");
    let whole = [&fixed[..], &[b'x'; 255]].concat();
    let (entry, rest) = BindEntry::split_first(&whole).expect("whole");
    assert_eq!((entry.session, entry.age_ms, entry.user.len(), rest), (u64::MAX, u64::MAX, 255, &[][..]));
    assert_eq!(BindEntry::split_first(&whole[..271]), None, "one byte less");
    let none = hex("0000000000000000 0000000000000000 00");
    let (entry, _) = BindEntry::split_first(&none).expect("whole");
    assert_eq!((entry.session, entry.age_ms, entry.user), (0, 0, &b""[..]));
}

#[test]
fn overflow_checks_stay_on_in_release() {
    let manifest = include_str!("../Cargo.toml");
    let (_, release) = manifest.split_once("[profile.release]").expect("the profile is there");
    let settings: Vec<&str> = release.lines().skip(1).take_while(|line| !line.starts_with('[')).collect();
    assert!(settings.contains(&"overflow-checks = true"), "{settings:?}");
}

#[test]
fn what_is_wrong_first_is_told() {
    let cases = [
        ("00000000 FF FF FF FF 00000000 0000000000000000", Malformed::Short(0)),
        ("00001000 FF FF FF FF 00000000 0000000000000000", Malformed::LongId),
        ("00000010 FF FF 00 00 00000000 0000000000000000", Malformed::UnknownKind(0xFF)),
        ("00000010 05 FF 00 00 00000000 0000000000000000", Malformed::BadFlags { kind: Kind::Ping, flags: 0xFF }),
    ];
    for (header, malformed) in cases {
        assert_eq!(Envelope::parse(&hex(header)), Err(malformed), "{header}");
    }
}

#[test]
fn what_is_no_frame_has_a_close_code() {
    let cases = [
        (Malformed::TooBig { length: 17, max: 16 }, 1504),
        (Malformed::Short(15), 1505),
        (Malformed::LongId, 1505),
        (Malformed::SecondPreface, 1503),
        (Malformed::UnknownKind(0xFF), 1503),
        (Malformed::BadFlags { kind: Kind::Ping, flags: 1 }, 1503),
    ];
    for (malformed, code) in cases {
        assert_eq!(malformed.close_code().to_wire(), code, "{malformed}");
    }
}

#[test]
fn the_ids_of_an_envelope_are_checked_on_request() {
    let bytes = [&hex("00000016 10 00 03 03 00000000 0000000000000000")[..], b"boba\x00c"].concat();
    let envelope = Envelope::parse(&bytes).expect("well formed").expect("whole");
    assert_eq!(UserId::parse(envelope.to), Ok("bob".parse::<UserId>().expect("an id")));
    assert_eq!(envelope.from_user(), Err(IdError::Control));
    let none = Outgoing::of(Kind::Ping);
    let bytes = encoded(&none);
    let envelope = Envelope::parse(&bytes).expect("well formed").expect("whole");
    assert_eq!((UserId::parse(envelope.to), envelope.from_user()), (Err(IdError::Empty), Err(IdError::Empty)));
}

#[test]
fn a_preface_is_eight_bytes_both_ways() {
    let versions = Versions { min: 1, max: 1 };
    for (role, bytes) in [(Role::Client, b"TRNK\x00\x01\x01\x00"), (Role::Server, b"TRNK\x01\x01\x01\x00")] {
        let preface = Preface { role, versions };
        assert_eq!(Preface::of(role), preface);
        assert_eq!(&preface.encode(), bytes);
        assert_eq!(Opening::recognise(bytes), Opening::Preface(preface));
        for len in 0..8 {
            assert_eq!(Opening::recognise(&bytes[..len]), Opening::Incomplete, "{len} bytes");
        }
        let followed = [&bytes[..], b"\x00\x00\x00\x15\x01"].concat();
        assert_eq!(Opening::recognise(&followed), Opening::Preface(preface));
    }
    let wide = Preface { role: Role::Server, versions: Versions { min: 0, max: 255 } };
    assert_eq!(&wide.encode(), b"TRNK\x01\x00\xFF\x00");
    assert_eq!(Opening::recognise(b"TRNK\x01\x00\xFF\x00"), Opening::Preface(wide));
}

#[test]
fn a_bad_field_of_a_preface_is_named() {
    for role in 2..=u8::MAX {
        assert_eq!(
            Opening::recognise(&[b'T', b'R', b'N', b'K', role, 1, 1, 0]),
            Opening::BadField("role is 0 or 1"),
            "role {role}"
        );
    }
    for bytes in [b"TRNK\x00\x02\x01\x00", b"TRNK\x01\xFF\x00\x00"] {
        assert_eq!(Opening::recognise(bytes), Opening::BadField("version_min is at most version_max"));
    }
    for bytes in [b"TRNK\x00\x01\x01\x01", b"TRNK\x01\x01\x01\xFF"] {
        assert_eq!(Opening::recognise(bytes), Opening::BadField("the reserved byte is 0"));
    }
    assert_eq!(Opening::recognise(b"TRNK\x09"), Opening::Incomplete);
}

#[test]
fn the_highest_common_version() {
    let cases = [
        ((1, 1), (1, 1), Some(1)),
        ((1, 1), (2, 2), None),
        ((1, 3), (1, 1), Some(1)),
        ((1, 3), (2, 5), Some(3)),
        ((1, 5), (2, 3), Some(3)),
        ((1, 3), (3, 9), Some(3)),
        ((1, 3), (4, 9), None),
        ((0, 255), (0, 255), Some(255)),
        ((0, 0), (0, 255), Some(0)),
        ((0, 0), (1, 255), None),
        ((255, 255), (0, 254), None),
    ];
    for ((min, max), (other_min, other_max), expected) in cases {
        let (ours, theirs) = (Versions { min, max }, Versions { min: other_min, max: other_max });
        assert_eq!(ours.highest_common(theirs), expected, "{ours} and {theirs}");
        assert_eq!(theirs.highest_common(ours), expected, "{theirs} and {ours}");
    }
    assert_eq!(Versions { min: 1, max: 3 }.to_string(), "1-3");
}

#[test]
fn tls_and_http_are_recognised_by_their_first_bytes() {
    let starts: [(&[u8], usize, Protocol); 11] = [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xFC", 2, Protocol::Tls),
        (b"\x16\x03\x03\x00\x7A\x01", 2, Protocol::Tls),
        (b"GET / HTTP/1.1\r\n", 4, Protocol::Http),
        (b"HEAD / HTTP/1.1\r\n", 4, Protocol::Http),
        (b"POST /v1/assign HTTP/1.1\r\n", 4, Protocol::Http),
        (b"PUT / HTTP/1.1\r\n", 4, Protocol::Http),
        (b"DELETE / HTTP/1.1\r\n", 4, Protocol::Http),
        (b"CONNECT a:443 HTTP/1.1\r\n", 4, Protocol::Http),
        (b"OPTIONS * HTTP/1.1\r\n", 4, Protocol::Http),
        (b"TRACE / HTTP/1.1\r\n", 4, Protocol::Http),
        (b"PATCH / HTTP/1.1\r\n", 4, Protocol::Http),
    ];
    for (start, known_from, name) in starts {
        for len in 0..=start.len() {
            let expected = if len < known_from { Opening::Incomplete } else { Opening::OtherProtocol(name) };
            assert_eq!(Opening::recognise(&start[..len]), expected, "{len} bytes of {start:?}");
        }
    }
}

#[test]
fn garbage_is_refused_at_the_first_byte_that_fits_nothing() {
    let cases: [&[u8]; 12] = [
        b"\x00",
        b"\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"trnk\x00\x01\x01\x00",
        b"TRNk",
        b"TRX",
        b"TRAP",
        b"TS",
        b"GETX",
        b"PO ",
        b"\x16\x04",
        b"\x15\x03\x01",
    ];
    for garbage in cases {
        assert_eq!(Opening::recognise(garbage), Opening::BadMagic, "{garbage:?}");
    }
}

#[test]
fn close_codes_have_the_numbers_of_the_table() {
    let table = [
        (1000, CloseCode::SHUTDOWN, "SHUTDOWN", true),
        (1001, CloseCode::MOVE, "MOVE", true),
        (1002, CloseCode::SLOW, "SLOW", true),
        (1003, CloseCode::NO_HEARTBEAT, "NO_HEARTBEAT", true),
        (1004, CloseCode::FULL, "FULL", true),
        (1005, CloseCode::RATE, "RATE", true),
        (1006, CloseCode::LOGIN_TIMEOUT, "LOGIN_TIMEOUT", true),
        (1007, CloseCode::PARTIAL, "PARTIAL", true),
        (1008, CloseCode::UNAVAILABLE, "UNAVAILABLE", true),
        (1009, CloseCode::INTERNAL, "INTERNAL", true),
        (1500, CloseCode::BAD_MAGIC, "BAD_MAGIC", false),
        (1501, CloseCode::WRONG_PORT, "WRONG_PORT", false),
        (1502, CloseCode::VERSION, "VERSION", false),
        (1503, CloseCode::PROTOCOL, "PROTOCOL", false),
        (1504, CloseCode::TOO_BIG, "TOO_BIG", false),
        (1505, CloseCode::BAD_FIELD, "BAD_FIELD", false),
        (1506, CloseCode::SPOOF, "SPOOF", false),
        (1507, CloseCode::REFUSED, "REFUSED", false),
        (1508, CloseCode::REPLACED, "REPLACED", false),
        (1509, CloseCode::ALREADY_ONLINE, "ALREADY_ONLINE", false),
        (1510, CloseCode::KICKED, "KICKED", false),
        (1511, CloseCode::LOGGED_OUT, "LOGGED_OUT", false),
        (1512, CloseCode::DUPLICATE_SERVER, "DUPLICATE_SERVER", false),
        (1513, CloseCode::NOT_A_MEMBER, "NOT_A_MEMBER", false),
    ];
    assert_eq!(CloseCode::ALL.to_vec(), table.iter().map(|row| row.1).collect::<Vec<_>>());
    for (number, code, name, reconnects) in table {
        assert_eq!((code.to_wire(), code.name(), code.reconnects()), (number, Some(name), reconnects));
        assert_eq!(CloseCode::from_wire(number), Some(code));
        assert_eq!(code.to_string(), format!("{number} {name}"));
    }
}

#[test]
fn an_unknown_close_code_is_told_by_its_range() {
    for (number, reconnects) in [(1010, true), (1499, true), (1514, false), (1999, false)] {
        let code = CloseCode::from_wire(number).expect("in range");
        assert_eq!((code.to_wire(), code.name(), code.reconnects()), (number, None, reconnects));
    }
    for number in [0, 1, 999, 2000, 0x1_03E8, u32::MAX] {
        assert_eq!(CloseCode::from_wire(number), None, "{number}");
    }
}

#[test]
fn bounce_codes_have_the_numbers_of_the_table() {
    use trunkline::wire::Bounce;
    let table = [
        (1, Bounce::Offline, "OFFLINE"),
        (2, Bounce::Unreachable, "UNREACHABLE"),
        (3, Bounce::Retry, "RETRY"),
        (4, Bounce::Busy, "BUSY"),
        (5, Bounce::Denied, "DENIED"),
        (6, Bounce::TooBig, "TOO_BIG"),
        (7, Bounce::NoHandler, "NO_HANDLER"),
        (8, Bounce::NotInGroup, "NOT_IN_GROUP"),
        (9, Bounce::Other(9), "9"),
        (0, Bounce::Other(0), "0"),
        (u32::MAX, Bounce::Other(u32::MAX), "4294967295"),
    ];
    for (number, bounce, name) in table {
        assert_eq!((Bounce::from_wire(number), bounce.to_wire()), (bounce, number));
        assert_eq!(bounce.to_string(), name);
    }
}

#[test]
fn a_login_body() {
    let whole = Login {
        token: Some("t".into()),
        password: Some("p".into()),
        device: Some("d".into()),
        agent: Some("a/1".into()),
        resume: Some("r".into()),
    };
    let text = r#"{"token":"t","password":"p","device":"d","agent":"a/1","resume":"r"}"#;
    assert_eq!(Login::parse(text.as_bytes()), Some(whole.clone()));
    assert_eq!(serde_json::to_string(&whole).expect("JSON"), text);
    for nothing in ["", "{}", " { } ", r#"{"colour":["red",{"a":1}],"Password":5}"#, r#"{"token":null}"#] {
        assert_eq!(Login::parse(nothing.as_bytes()), Some(Login::default()), "{nothing}");
    }
    assert_eq!(serde_json::to_string(&Login::default()).expect("JSON"), "{}");
    let escaped = Login { password: Some("\u{e9}\n".into()), ..Login::default() };
    assert_eq!(Login::parse(br#"{"password":"\u00e9\n","x":1}"#), Some(escaped));
}

#[test]
fn a_login_body_that_is_none() {
    let wrong: [&[u8]; 12] = [
        b" ",
        b"null",
        b"5",
        b"\"alice\"",
        b"{",
        b"{}x",
        b"{} {}",
        b"{\"password\":5}",
        b"{\"password\":[\"secret\"]}",
        b"{\"password\":\"a\",\"password\":\"b\"}",
        b"{\"token\":\"\xFF\"}",
        b"password=secret",
    ];
    for body in wrong {
        assert_eq!(Login::parse(body), None, "{}", String::from_utf8_lossy(body));
    }
}

#[test]
fn a_login_shows_no_secret() {
    let login = Login {
        token: Some("TOKEN".into()),
        password: Some("PASSWORD".into()),
        resume: Some("RESUME".into()),
        ..Login::default()
    };
    let shown =
        r#"Login { token: Some("..."), password: Some("..."), device: None, agent: None, resume: Some("...") }"#;
    assert_eq!(format!("{login:?}"), shown);
}

#[test]
fn a_welcome_body() {
    for (cluster, name) in [(Cluster::Up, "up"), (Cluster::Down, "down"), (Cluster::None, "none")] {
        let welcome =
            Welcome { server: ServerId(1), session: "1-7".into(), heartbeat_ms: 10_000, max_frame: 1_048_576, cluster };
        let text =
            format!(r#"{{"server":1,"session":"1-7","heartbeat_ms":10000,"max_frame":1048576,"cluster":"{name}"}}"#);
        assert_eq!(serde_json::to_string(&welcome).expect("JSON"), text);
        let grown = text.replacen('{', r#"{"motd":{"en":["hi"]},"#, 1);
        assert_eq!(serde_json::from_str::<Welcome>(&grown).expect("a welcome"), welcome);
    }
}

#[test]
fn a_close_body_is_text_or_json() {
    let text = |text: &str| CloseBody { text: text.into(), retry_after_ms: None, go_to: None };
    let cases: [(&[u8], CloseBody); 11] = [
        (b"", text("")),
        (b"logged out", text("logged out")),
        ("wartungsfrei, n\u{e4}mlich".as_bytes(), text("wartungsfrei, n\u{e4}mlich")),
        (b"a\xFFb", text("a\u{fffd}b")),
        (b"{}", text("")),
        (b"{\"text\":\"full\",\"x\":1}", text("full")),
        (b"{not JSON", text("{not JSON")),
        (b"{\"text\":5}", text("{\"text\":5}")),
        (b"{\"retry_after_ms\":-1}", text("{\"retry_after_ms\":-1}")),
        (b"[\"full\"]", text("[\"full\"]")),
        (
            b"{\"text\":\"moved\",\"retry_after_ms\":1500,\"go_to\":\"10.0.0.2:6000\"}",
            CloseBody { text: "moved".into(), retry_after_ms: Some(1500), go_to: Some("10.0.0.2:6000".into()) },
        ),
    ];
    for (body, expected) in cases {
        assert_eq!(CloseBody::parse(body), expected, "{}", String::from_utf8_lossy(body));
    }
    let moved = CloseBody { text: String::new(), retry_after_ms: Some(1500), go_to: Some("10.0.0.2:6000".into()) };
    let json = serde_json::to_string(&moved).expect("JSON");
    assert_eq!(json, r#"{"retry_after_ms":1500,"go_to":"10.0.0.2:6000"}"#);
}

#[test]
fn asks_and_answers() {
    let ask = |ask, users: &[&str]| Ask { ask, users: users.iter().map(|user| (*user).into()).collect(), group: None };
    let asks = [
        (r#"{"ask":"online","users":["bob","carol"]}"#, ask(AskKind::Online, &["bob", "carol"])),
        (r#"{"users":["bob"],"since":5,"ask":"where"}"#, ask(AskKind::Where, &["bob"])),
        (r#"{"ask":"rtt"}"#, ask(AskKind::Rtt, &[])),
        (r#"{"ask":"members","group":"chess"}"#, Ask { group: Some("chess".into()), ..ask(AskKind::Members, &[]) }),
        (r#"{"ask":"weather"}"#, ask(AskKind::Other, &[])),
    ];
    for (text, expected) in asks {
        assert_eq!(serde_json::from_str::<Ask>(text).expect("an ask"), expected);
    }
    let where_bob = serde_json::to_string(&ask(AskKind::Where, &["bob"])).expect("JSON");
    assert_eq!(where_bob, r#"{"ask":"where","users":["bob"]}"#);

    let located = |user: &str, online, server| Located { user: user.into(), online, server, denied: false };
    let answers = [
        (
            r#"{"users":[{"user":"bob","online":true,"server":1},{"user":"carol","online":false}]}"#,
            vec![located("bob", Some(true), Some(ServerId(1))), located("carol", Some(false), None)],
            None,
        ),
        (r#"{"users":[{"user":"bob","online":null}]}"#, vec![located("bob", None, None)], None),
        (r#"{"error":"at most 100 users"}"#, vec![], Some("at most 100 users".to_owned())),
        ("{}", vec![], None),
    ];
    let members =
        Answer { users: vec![located("bob", Some(true), Some(ServerId(1)))], complete: Some(true), error: None };
    let text = r#"{"users":[{"user":"bob","online":true,"server":1}],"complete":true}"#;
    assert_eq!(serde_json::to_string(&members).expect("JSON"), text);
    assert_eq!(serde_json::from_str::<Answer>(text).expect("an answer"), members);
    for (text, users, error) in answers {
        let answer = Answer { users, error, ..Answer::default() };
        assert_eq!(serde_json::to_string(&answer).expect("JSON"), text);
        assert_eq!(serde_json::from_str::<Answer>(text).expect("an answer"), answer);
    }
}

#[test]
fn the_json_of_the_link() {
    let register: Register =
        serde_json::from_str(r#"{"address":"10.0.0.1:6000","capacity":100,"zone":"b"}"#).expect("a register");
    let expected = Register {
        address: "10.0.0.1:6000".into(),
        capacity: 100,
        previous_epoch: 0,
        peers: Vec::new(),
        draining: false,
    };
    assert_eq!(register, expected);
    let again = Register { previous_epoch: 3, peers: vec![ServerId(0), ServerId(65_535)], ..expected };
    let text = r#"{"address":"10.0.0.1:6000","capacity":100,"previous_epoch":3,"peers":[0,65535]}"#;
    assert_eq!(serde_json::to_string(&again).expect("JSON"), text);
    assert_eq!(serde_json::from_str::<Register>(text).expect("a register"), again);

    let servers = Servers {
        servers: vec![ServerEntry { server: ServerId(1), address: "10.0.0.1:6000".into(), draining: false }],
        awaited: vec![],
    };
    let text = r#"{"servers":[{"server":1,"address":"10.0.0.1:6000"}]}"#;
    assert_eq!(serde_json::to_string(&servers).expect("JSON"), text);
    assert_eq!(serde_json::from_str::<Servers>(text).expect("servers"), servers);
    let text = r#"{"server":2,"address":"10.0.0.2:6000","draining":true}"#;
    let entry = ServerEntry { server: ServerId(2), address: "10.0.0.2:6000".into(), draining: true };
    assert_eq!(serde_json::to_string(&entry).expect("JSON"), text);
    assert_eq!(serde_json::from_str::<ServerEntry>(text).expect("an entry"), entry);
}

#[test]
fn what_a_server_says_of_itself() {
    let state = ServerState {
        users: 2,
        queued_bytes: 520,
        busy_permille: 250,
        frames: 9,
        bytes: 900,
        bounced: [("offline", 1), ("busy", 0)].into_iter().collect(),
        ..ServerState::default()
    };
    let text = r#"{"users":2,"queued_bytes":520,"busy_permille":250,"frames":9,"bytes":900,"bounced":{"offline":1}}"#;
    assert_eq!(serde_json::to_string(&state).expect("JSON"), text);
    assert_eq!(serde_json::from_str::<ServerState>(text).expect("a state"), state);
    let of_a_later_version = r#"{"users":2,"temperature":40,"dropped":{"for_fun":7}}"#;
    let read = serde_json::from_str::<ServerState>(of_a_later_version).expect("a state");
    assert_eq!((read.users, read.frames, read.dropped.iter().collect()), (2, 0, vec![("for_fun", 7)]));
}

/// They become labels of what is told to an operator.
#[test]
fn a_reason_has_a_plain_name() {
    let many: Vec<String> = (b'a'..=b'z').flat_map(|a| ["a", "b", "c"].map(|b| format!("{}{b}", a as char))).collect();
    let many = format!("{{{}}}", many.iter().map(|name| format!("{name:?}:1")).collect::<Vec<_>>().join(","));
    let long = format!(r#"{{"{}":1}}"#, "a".repeat(33));
    for bad in [r#"{"":1}"#, r#"{"A":1}"#, r#"{"a\"b":1}"#, r#"{"a b":1}"#, r#"{"a":-1}"#, &many, &long] {
        assert!(serde_json::from_str::<Tallies>(bad).is_err(), "{bad}");
    }
    assert!(serde_json::from_str::<Tallies>(&format!(r#"{{"{}":1}}"#, "a".repeat(32))).is_ok());
}

#[test]
fn the_bindings_of_a_batch() {
    let (alice, rest) = BindEntry::split_first(TWO_BINDINGS).expect("two");
    assert_eq!(alice, BindEntry { session: 7, age_ms: 500, user: b"alice" });
    let (bob, rest) = BindEntry::split_first(rest).expect("one more");
    assert_eq!(bob, BindEntry { session: 8, age_ms: 1 << 32, user: b"bob" });
    assert_eq!(BindEntry::split_first(rest), None);

    let mut body = BytesMut::new();
    BindEntry::encode(7, 500, &"alice".parse().expect("an id"), &mut body);
    BindEntry::encode(8, 1 << 32, &"bob".parse().expect("an id"), &mut body);
    assert_eq!(&body[..], TWO_BINDINGS);
}

/// The proofs were computed with Python's `hmac` from the table of the protocol.
#[test]
fn the_proofs_of_a_link() {
    let membership = Membership {
        cluster: "demo",
        server: ServerId(1),
        incarnation: 2,
        epoch: 3,
        acms_nonce: [4; 32],
        server_nonce: [5; 32],
    };
    let of_server = hex("c427b8f67f2320634cb82769eb18147bb335caf9a735cfd960848b52569ca0bc");
    let of_acms = hex("575b246749cf1ddacc4557b27f89003454befa6d89bd52b7e21ccb80dd1ae363");
    for (prover, proof) in [(Prover::Server, of_server), (Prover::Acms, of_acms)] {
        assert_eq!(membership.prove(b"secret", prover).to_vec(), proof);
        assert!(membership.verify(b"secret", prover, &proof), "{prover:?}");
        assert!(!membership.verify(b"secret", prover, &[]), "{prover:?}");
    }
}

#[test]
fn the_body_of_a_prove_is_64_bytes() {
    let body = ProveBody { nonce: [b'n'; 32], proof: [b'P'; 32] };
    assert_eq!(&body.encode(), NONCE_AND_PROOF);
    assert_eq!(ProveBody::parse(NONCE_AND_PROOF), Some(body));
    for len in 0..64 {
        assert_eq!(ProveBody::parse(&NONCE_AND_PROOF[..len]), None, "{len} bytes");
    }
    assert_eq!(ProveBody::parse(&[&NONCE_AND_PROOF[..], b"x"].concat()), None);
}

/// Arbitrary bytes, and bytes that get further: a small length, or a true start with a foreign end.
fn bytes_of_a_stranger() -> impl Strategy<Value = Vec<u8>> {
    let any_bytes = prop::collection::vec(any::<u8>(), 0..200);
    let small_length = (0_u8..200, any::<u8>(), prop::collection::vec(any::<u8>(), 0..200))
        .prop_map(|(length, kind, rest)| [&[0, 0, 0, length, kind, 0], &rest[..]].concat());
    let starts =
        prop::sample::select(vec![&b"TRNK"[..], b"\x16", b"GE", b"TRA", b"{\"", b"{\"text\":", b"{\"token\":\""]);
    let true_start =
        (starts, prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(start, rest)| [start, &rest].concat());
    prop_oneof![any_bytes, small_length, true_start]
}

fn any_frame() -> impl Strategy<Value = (Kind, Flags, u32, u64, Vec<u8>, Vec<u8>, Vec<u8>)> {
    let flags = |kind: Kind| match kind {
        Kind::Data => vec![Flags::NONE, Flags::WANT_ACK.with(Flags::RETRY), Flags::MORE, Flags::DROPPABLE],
        Kind::Reply => vec![Flags::NONE, Flags::ERROR, Flags::MORE.with(Flags::ERROR)],
        _ => vec![Flags::NONE],
    };
    let id = || prop::collection::vec(any::<u8>(), 0..=64);
    prop::sample::select(Kind::ALL.to_vec()).prop_flat_map(move |kind| {
        let flags = prop::sample::select(flags(kind));
        (Just(kind), flags, any::<u32>(), any::<u64>(), id(), id(), prop::collection::vec(any::<u8>(), 0..300))
    })
}

proptest! {
    #[test]
    fn no_bytes_make_a_parser_panic(bytes in bytes_of_a_stranger(), max_frame in 0_usize..4096) {
        if let Ok(Some(wire_bytes)) = Header::wire_bytes(&bytes, max_frame) {
            prop_assert!((20..=4 + max_frame).contains(&wire_bytes));
        }
        if let Ok(Some(envelope)) = Envelope::parse(&bytes) {
            let envelope_bytes = envelope.header.envelope_bytes();
            prop_assert_eq!(&bytes[20..envelope_bytes], [envelope.to, envelope.from].concat());
            prop_assert!(envelope_bytes <= envelope.header.wire_bytes);
        }
        if let Opening::Preface(preface) = Opening::recognise(&bytes) {
            prop_assert_eq!(&preface.encode(), &bytes[..8]);
        }
        if Login::parse(&bytes).is_some() && !bytes.is_empty() {
            prop_assert!(serde_json::from_slice::<serde_json::Value>(&bytes).is_ok(), "a login is JSON");
        }
        let close = CloseBody::parse(&bytes);
        let is_text = close.text == String::from_utf8_lossy(&bytes);
        prop_assert!(is_text || bytes[0] == b'{', "neither text nor an object");
        if let Some((entry, rest)) = BindEntry::split_first(&bytes) {
            prop_assert_eq!(17 + entry.user.len() + rest.len(), bytes.len());
        }
    }

    #[test]
    fn an_opening_once_known_stays(bytes in bytes_of_a_stranger(), more in prop::collection::vec(any::<u8>(), 0..20)) {
        let opening = Opening::recognise(&bytes);
        let longer = Opening::recognise(&[&bytes[..], &more].concat());
        prop_assert!(opening == Opening::Incomplete || opening == longer, "{:?} became {:?}", opening, longer);
    }

    #[test]
    fn a_frame_is_read_as_it_was_written((kind, flags, info_type, id, to, from, body) in any_frame()) {
        let frame = Outgoing { kind, flags, info_type, id, to: &to, from: &from, body: &body };
        let bytes = encoded(&frame);
        let (envelope, read_body) = read(&bytes, MAX_FRAME).expect("well formed").expect("whole");
        assert_means(&envelope, read_body, &frame, 20 + to.len() + from.len() + body.len());
        prop_assert_eq!(read(&bytes, bytes.len() - 5), Err(Malformed::TooBig {
            length: bytes.len() as u32 - 4,
            max: bytes.len() - 5,
        }));
    }

    #[test]
    fn bindings_are_read_as_they_were_written(
        entries in prop::collection::vec((any::<u64>(), any::<u64>(), "[a-zé🦀]{1,16}"), 0..20),
    ) {
        let mut body = BytesMut::new();
        for (session, age_ms, user) in &entries {
            BindEntry::encode(*session, *age_ms, &user.parse().expect("an id"), &mut body);
        }
        let mut rest = &body[..];
        for (session, age_ms, user) in &entries {
            let (entry, behind) = BindEntry::split_first(rest).expect("one more");
            prop_assert_eq!(entry, BindEntry { session: *session, age_ms: *age_ms, user: user.as_bytes() });
            rest = behind;
        }
        prop_assert_eq!(rest, &[] as &[u8]);
    }
}
