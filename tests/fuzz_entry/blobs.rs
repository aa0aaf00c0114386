//! What a driver knows of an engine's blobs, and what others say of some.

use std::collections::BTreeSet;

use bytes::BytesMut;
use trunkline::role::blob::{BlobEvent, BlobKey};
use trunkline::wire::{BlobAnswer, BlobPart, Flags};

use super::script::Script;

/// The blobs of one engine: each is offered once, ends once, and is whole where it is there.
#[derive(Default)]
pub(crate) struct Blobs {
    /// Offered and not answered by the application.
    pub(crate) offered: Vec<BlobKey>,
    /// Offered and not ended.
    open: BTreeSet<BlobKey>,
    /// Sent and not settled.
    pub(crate) sent: BTreeSet<u64>,
}

impl Blobs {
    /// A blob that came, which the application now has.
    pub(crate) fn hear(&mut self, event: BlobEvent) -> Option<(BlobKey, usize)> {
        match event {
            BlobEvent::Offered { key, .. } => {
                assert!(self.open.insert(key.clone()), "{key:?} is offered twice");
                self.offered.push(key);
            }
            BlobEvent::Came { key, received, size } => {
                assert!(self.open.contains(&key) && received <= size, "{key:?}: {received} of {size}");
            }
            BlobEvent::Received { key, body, .. } => {
                assert!(self.open.remove(&key), "{key:?} ends twice");
                assert!(body.is_empty() || &body[..] == b"abc", "{key:?} came as {body:?}");
                return Some((key, body.len()));
            }
            BlobEvent::Failed { key, .. } => {
                assert!(self.open.remove(&key), "{key:?} ends twice");
                self.offered.retain(|offered| *offered != key);
            }
            BlobEvent::Confirmed { id, .. } => assert!(self.sent.contains(&id), "{id:x} goes on behind its end"),
            BlobEvent::Settled { id, .. } => assert!(self.sent.remove(&id), "{id:x} is settled twice"),
        }
        None
    }

    /// The application refuses one; nothing is heard of it any more.
    pub(crate) fn refuse(&mut self) -> Option<BlobKey> {
        let key = self.offered.pop().or_else(|| self.open.first().cloned())?;
        self.open.remove(&key);
        Some(key)
    }
}

/// One in three bodies of a QUERY is a part of a blob: with its flags, or whatever others were drawn.
pub(crate) fn part<'a>(script: &mut Script<'a>, flags: u8) -> (u8, &'a [u8]) {
    if !script.once_in(3) {
        return (flags, script.bytes(200));
    }
    let part = script.one_of(&PARTS);
    let own = if matches!(part[7], b'M' | b'D') { 2 } else { 0 };
    (if script.once_in(8) { flags } else { own }, part)
}

/// One in two bodies of a REPLY is the answer to a blob.
pub(crate) fn answer<'a>(script: &mut Script<'a>, flags: u8) -> (u8, &'a [u8]) {
    if !script.once_in(2) {
        return (flags, script.bytes(200));
    }
    script.one_of(&ANSWERS)
}

/// A body that is nearly one: what is taken is written as it was read.
pub(crate) fn bodies(body: &[u8]) {
    for more in [false, true] {
        if let Ok(part) = BlobPart::parse(body, more) {
            assert!(BlobPart::is_one(body));
            assert_eq!(part.flags().has(Flags::MORE), more);
            let mut written = BytesMut::new();
            part.encode(&mut written);
            assert_eq!(BlobPart::parse(&written, more), Ok(part));
        }
    }
    for flags in [Flags::NONE, Flags::MORE, Flags::ERROR] {
        let answer = BlobAnswer::parse(flags, body);
        if answer == BlobAnswer::Foreign {
            continue;
        }
        let mut written = BytesMut::new();
        answer.encode(&mut written);
        assert_eq!((answer.flags(), BlobAnswer::parse(flags, &written)), (flags, answer));
    }
}

const PARTS: [&[u8]; 16] = [
    br#"TRNKBLBM{"size":3}"#,
    br#"TRNKBLBM{"size":3,"name":"abc"}"#,
    br#"TRNKBLBM{"size":0}"#,
    br#"TRNKBLBM{"size":18446744073709551615}"#,
    br#"TRNKBLBM{"size":-1}"#,
    b"TRNKBLBD\0\0\0\0\0\0\0\0abc",
    b"TRNKBLBD\0\0\0\0\0\0\0\0ab",
    b"TRNKBLBD\0\0\0\0\0\0\0\x01bc",
    b"TRNKBLBD\0\0\0\0\0\0\0\x02c",
    b"TRNKBLBD\0\0\0\0\0\0\0\x03d",
    b"TRNKBLBD\xff\xff\xff\xff\xff\xff\xff\xffz",
    b"TRNKBLBE\0\0\0\0\0\0\0\x03\xba\x78\x16\xbf\x8f\x01\xcf\xea\x41\x41\x40\xde\x5d\xae\x22\x23\
      \xb0\x03\x61\xa3\x96\x17\x7a\x9c\xb4\x10\xff\x61\xf2\x00\x15\xad",
    b"TRNKBLBE\0\0\0\0\0\0\0\x00\xe3\xb0\xc4\x42\x98\xfc\x1c\x14\x9a\xfb\xf4\xc8\x99\x6f\xb9\x24\
      \x27\xae\x41\xe4\x64\x9b\x93\x4c\xa4\x95\x99\x1b\x78\x52\xb8\x55",
    b"TRNKBLBE\0\0\0\0\0\0\0\x03",
    b"TRNKBLBC",
    b"TRNKBLBX",
];

const ANSWERS: [(u8, &[u8]); 9] = [
    (2, b"\0\0\0\0\0\0\0\0\0\0\xff\xff"),
    (2, b"\0\0\0\0\0\0\0\0\0\0\0\0"),
    (2, b"\0\0\0\0\0\0\0\x64\xff\xff\xff\xff"),
    (2, b"\0\0\0\0\0\0\x40\0\0\0\xff\xff"),
    (2, b"\xff\xff\xff\xff\xff\xff\xff\xff\0\0\xff\xff"),
    (0, b""),
    (0, b"fine"),
    (8, b"\x05"),
    (8, b""),
];
