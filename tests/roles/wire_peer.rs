//! The other side of a core's connections: bytes in, bytes out, and the time. It has a parser of its own.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::net::SocketAddr;

use bytes::Bytes;
use trunkline::id::ConnId;
use trunkline::link::End;
use trunkline::role::Core;
use trunkline::time::{Span, Time};

pub(crate) const CLIENT_PREFACE: &[u8; 8] = b"TRNK\x00\x01\x01\x00";
pub(crate) const SERVER_PREFACE: &[u8; 8] = b"TRNK\x01\x01\x01\x00";

/// Kinds, as docs/PROTOCOL.md numbers them.
pub(crate) const LOGIN: u8 = 0x01;
pub(crate) const WELCOME: u8 = 0x02;
pub(crate) const CLOSE: u8 = 0x03;
pub(crate) const LOGOUT: u8 = 0x04;
pub(crate) const PING: u8 = 0x05;
pub(crate) const PONG: u8 = 0x06;
pub(crate) const DATA: u8 = 0x10;
pub(crate) const ACK: u8 = 0x11;
pub(crate) const BOUNCE: u8 = 0x12;
pub(crate) const QUERY: u8 = 0x13;
pub(crate) const REPLY: u8 = 0x14;
pub(crate) const GROUP_JOIN: u8 = 0x20;
pub(crate) const GROUP_LEAVE: u8 = 0x21;
pub(crate) const GROUP_DATA: u8 = 0x22;
pub(crate) const GROUP_EVENT: u8 = 0x23;
pub(crate) const PRESENCE: u8 = 0x30;
pub(crate) const ASK: u8 = 0x31;
pub(crate) const ANSWER: u8 = 0x32;
pub(crate) const CHALLENGE: u8 = 0x80;
pub(crate) const PROVE: u8 = 0x81;
pub(crate) const REGISTER: u8 = 0x82;
pub(crate) const REGISTERED: u8 = 0x83;
pub(crate) const CLAIM: u8 = 0x84;
pub(crate) const CLAIMED: u8 = 0x85;
pub(crate) const UNBIND: u8 = 0x86;
pub(crate) const BURST_BEGIN: u8 = 0x87;
pub(crate) const BIND: u8 = 0x88;
pub(crate) const SYNCED: u8 = 0x89;
pub(crate) const KICK: u8 = 0x8A;
pub(crate) const DIGEST: u8 = 0x8B;
pub(crate) const RESYNC: u8 = 0x8C;
pub(crate) const SERVERS: u8 = 0x8D;
pub(crate) const LOOKUP: u8 = 0x8E;
pub(crate) const FOUND: u8 = 0x8F;
pub(crate) const DRAIN: u8 = 0x90;
pub(crate) const STATE: u8 = 0x91;
pub(crate) const WATCH: u8 = 0x92;
pub(crate) const UNWATCH: u8 = 0x93;
pub(crate) const GROUP_ON: u8 = 0x94;
pub(crate) const GROUP_OFF: u8 = 0x95;
pub(crate) const GROUP_EDIT: u8 = 0x96;
pub(crate) const GROUP_MEMBERS: u8 = 0x97;
pub(crate) const GROUP_MEMBERS_ARE: u8 = 0x98;

/// Flags.
pub(crate) const WANT_ACK: u8 = 0x01;
pub(crate) const DROPPABLE: u8 = 0x04;
pub(crate) const ERROR: u8 = 0x08;
pub(crate) const RETRY: u8 = 0x10;

/// Times that a core may ask to be called again without the clock moving, before that is a spinning loop.
const TURNS_AT_ONE_MOMENT_MAX: usize = 64;

/// Connections that are all looked at in each turn; with more of them that would be all that a test does.
const RECOUNTED_MAX: usize = 100;

/// One frame, as it came off the wire or goes onto it.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Raw {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) info: u32,
    pub(crate) id: u64,
    pub(crate) to: Vec<u8>,
    pub(crate) from: Vec<u8>,
    pub(crate) body: Vec<u8>,
}

impl std::fmt::Debug for Raw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Raw { kind, flags, info, id, to, from, body } = self;
        let (to, from) = (String::from_utf8_lossy(to), String::from_utf8_lossy(from));
        let shown = String::from_utf8_lossy(&body[..body.len().min(120)]);
        write!(f, "{kind:#04x} flags {flags:#x} info {info} id {id:#x} {from:?} -> {to:?} {} B {shown:?}", body.len())
    }
}

impl Raw {
    pub(crate) fn of(kind: u8) -> Raw {
        Raw { kind, ..Raw::default() }
    }

    pub(crate) fn flags(mut self, flags: u8) -> Raw {
        self.flags = flags;
        self
    }

    pub(crate) fn info(mut self, info: u32) -> Raw {
        self.info = info;
        self
    }

    pub(crate) fn id(mut self, id: u64) -> Raw {
        self.id = id;
        self
    }

    pub(crate) fn to(mut self, to: &str) -> Raw {
        self.to = to.into();
        self
    }

    pub(crate) fn from(mut self, from: &str) -> Raw {
        self.from = from.into();
        self
    }

    pub(crate) fn body(mut self, body: impl AsRef<[u8]>) -> Raw {
        self.body = body.as_ref().to_vec();
        self
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("the body is text")
    }

    /// The frame's bytes, laid out by the table in docs/PROTOCOL.md, section 3.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let length = 16 + self.to.len() + self.from.len() + self.body.len();
        let mut bytes = (length as u32).to_be_bytes().to_vec();
        bytes.extend([self.kind, self.flags, self.to.len() as u8, self.from.len() as u8]);
        bytes.extend(self.info.to_be_bytes());
        bytes.extend(self.id.to_be_bytes());
        bytes.extend([&self.to[..], &self.from, &self.body].concat());
        bytes
    }

    /// The first frame of `bytes` and what follows it; none where it is not whole.
    fn split_first(bytes: &[u8]) -> Option<(Raw, &[u8])> {
        let number = |range: std::ops::Range<usize>| bytes[range].iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
        if bytes.len() < 4 || bytes.len() < 4 + number(0..4) as usize {
            return None;
        }
        let (frame, rest) = bytes.split_at(4 + number(0..4) as usize);
        let (to, from_and_body) = frame[20..].split_at(usize::from(frame[6]));
        let (from, body) = from_and_body.split_at(usize::from(frame[7]));
        let [to, from, body] = [to, from, body].map(<[u8]>::to_vec);
        let (info, id) = (number(8..12) as u32, number(12..20));
        Some((Raw { kind: frame[4], flags: frame[5], info, id, to, from, body }, rest))
    }
}

/// The other end of one connection.
#[derive(Default)]
pub(crate) struct Wire {
    /// Bytes that the core wrote and nobody looked at yet.
    pub(crate) got: Vec<u8>,
    /// How many bytes the other side still takes; without bound where there is none.
    pub(crate) room: Option<usize>,
    /// The core has shut its side.
    pub(crate) shut: bool,
    /// The core has let the connection go.
    pub(crate) dropped: bool,
}

/// A core, alone, with hand-written bytes on all sides.
pub(crate) struct Seam<C> {
    pub(crate) core: C,
    pub(crate) now: Time,
    pub(crate) wires: BTreeMap<ConnId, Wire>,
    pub(crate) dials: Vec<(ConnId, SocketAddr)>,
    accepted: u32,
}

pub(crate) fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

impl<C: Core> Seam<C> {
    pub(crate) fn new(now: Time, core: C) -> Seam<C> {
        let mut seam = Seam { core, now, wires: BTreeMap::new(), dials: Vec::new(), accepted: 0 };
        seam.turn();
        seam
    }

    /// Somebody dials the core.
    pub(crate) fn accept(&mut self) -> ConnId {
        self.accepted += 1;
        let [_, net, host, port] = self.accepted.to_be_bytes();
        let conn = self.core.accepted(self.now, SocketAddr::from(([10, 9, net, host], 40_000 + u16::from(port))));
        self.wires.insert(conn, Wire::default());
        self.turn();
        conn
    }

    /// The core's latest dial succeeds.
    pub(crate) fn answer_dial(&mut self) -> ConnId {
        let (conn, _) = self.dials.pop().expect("the core dialled");
        self.wires.insert(conn, Wire::default());
        self.core.connected(self.now, conn);
        self.turn();
        conn
    }

    /// The core reads these bytes.
    pub(crate) fn feed(&mut self, conn: ConnId, bytes: impl AsRef<[u8]>) {
        assert!(self.core.links().reads(conn), "{conn} is not read from");
        self.feed_unread(conn, bytes);
    }

    /// The core reads these bytes although it may have stopped to: it had them before it did.
    pub(crate) fn feed_unread(&mut self, conn: ConnId, bytes: impl AsRef<[u8]>) {
        let chunk = Bytes::copy_from_slice(bytes.as_ref());
        self.core.received(self.now, conn, &chunk, 0..chunk.len());
        self.turn();
    }

    pub(crate) fn put(&mut self, conn: ConnId, frame: Raw) {
        self.feed(conn, frame.bytes());
    }

    /// The other side ends or breaks the connection.
    pub(crate) fn end(&mut self, conn: ConnId, end: End) {
        self.core.ended(self.now, conn, end);
        self.turn();
    }

    pub(crate) fn reset(&mut self, conn: ConnId) {
        self.end(conn, End::Failed(std::io::ErrorKind::ConnectionReset));
    }

    /// The other side takes nothing more, until told otherwise.
    pub(crate) fn stall(&mut self, conn: ConnId) {
        self.wire(conn).room = Some(0);
    }

    /// The other side takes `bytes` more.
    pub(crate) fn take(&mut self, conn: ConnId, bytes: usize) {
        self.wire(conn).room = Some(bytes);
        self.flush(conn);
        self.turn();
    }

    /// The other side takes everything again.
    pub(crate) fn unstall(&mut self, conn: ConnId) {
        self.wire(conn).room = None;
        self.flush(conn);
        self.turn();
    }

    pub(crate) fn wire(&mut self, conn: ConnId) -> &mut Wire {
        self.wires.get_mut(&conn).expect("a connection of this seam")
    }

    pub(crate) fn reads(&mut self, conn: ConnId) -> bool {
        self.core.links().reads(conn)
    }

    /// What the shell does once a turn.
    pub(crate) fn turn(&mut self) {
        loop {
            let dials = self.core.links().take_dials();
            self.dials.extend(dials);
            let mut dirty = Vec::new();
            self.core.links().take_dirty(&mut dirty);
            let was_idle = dirty.is_empty();
            for conn in dirty {
                self.flush(conn);
            }
            for conn in self.core.links().take_half_closes() {
                self.wire(conn).shut = true;
            }
            self.core.links().take_resumed();
            for conn in self.core.links().take_ended() {
                self.wires.entry(conn).or_default().dropped = true;
            }
            if was_idle {
                self.recount();
                return;
            }
        }
    }

    /// What the links hold must be what was counted with each change.
    fn recount(&mut self) {
        let links = self.core.links();
        if links.len() <= RECOUNTED_MAX {
            let held: usize = links.iter().map(|(_, link)| link.held()).sum();
            assert_eq!(links.memory().held(), held, "what is held is not what was counted");
        }
    }

    fn flush(&mut self, conn: ConnId) {
        loop {
            let mut slices = [IoSlice::new(&[]); 64];
            let filled = self.core.links().fill(conn, &mut slices);
            if filled == 0 {
                return;
            }
            let waiting: usize = slices[..filled].iter().map(|slice| slice.len()).sum();
            let wire = self.wires.get_mut(&conn).expect("a connection of this seam");
            let taken = wire.room.unwrap_or(usize::MAX).min(waiting);
            let mut left = taken;
            for slice in &slices[..filled] {
                let part = &slice[..left.min(slice.len())];
                wire.got.extend_from_slice(part);
                left -= part.len();
            }
            wire.room = wire.room.map(|room| room - taken);
            if taken > 0 && self.core.links().wrote(self.now, conn, taken) {
                self.core.relieved(self.now, conn);
            }
            if taken < waiting {
                self.core.links().blocked(conn);
                return;
            }
        }
    }

    /// Lets time pass, meeting each deadline on the way.
    pub(crate) fn pass(&mut self, span: Span) {
        let end = self.now + span;
        let mut turns = 0;
        while let Some(at) = self.core.deadline().filter(|at| *at <= end) {
            turns = if at > self.now { 0 } else { turns + 1 };
            assert!(turns < TURNS_AT_ONE_MOMENT_MAX, "the loop spins at {:?}: the deadline {at:?} stays", self.now);
            self.now = self.now.max(at);
            self.core.expire(self.now);
            self.turn();
        }
        self.now = end;
    }

    pub(crate) fn pass_ms(&mut self, millis: u64) {
        self.pass(Span::from_millis(millis));
    }

    /// Every whole frame that the core wrote and nobody took yet.
    #[track_caller]
    pub(crate) fn frames(&mut self, conn: ConnId) -> Vec<Raw> {
        let got = std::mem::take(&mut self.wire(conn).got);
        let mut frames = Vec::new();
        let mut rest = &got[..];
        while let Some((frame, after)) = Raw::split_first(rest) {
            frames.push(frame);
            rest = after;
        }
        self.wire(conn).got = rest.to_vec();
        frames
    }

    /// The one frame that the core wrote.
    #[track_caller]
    pub(crate) fn frame(&mut self, conn: ConnId) -> Raw {
        let mut frames = self.frames(conn);
        assert_eq!(frames.len(), 1, "one frame was to come on {conn}, not {frames:?}");
        frames.remove(0)
    }

    /// The next of the frames that the core wrote.
    #[track_caller]
    pub(crate) fn next(&mut self, conn: ConnId) -> Raw {
        let got = std::mem::take(&mut self.wire(conn).got);
        let (frame, rest) = Raw::split_first(&got).expect("a frame was to come");
        self.wire(conn).got = rest.to_vec();
        frame
    }

    #[track_caller]
    pub(crate) fn silent(&mut self, conn: ConnId) {
        let frames = self.frames(conn);
        assert_eq!(frames, [], "nothing was to come on {conn}");
    }

    /// The core closed the connection: the CLOSE's code and text. Its other side then ends it as well.
    #[track_caller]
    pub(crate) fn closed(&mut self, conn: ConnId) -> (u32, String) {
        let close = self.frame(conn);
        assert_eq!((close.kind, close.flags, close.id), (CLOSE, 0, 0), "{close:?}");
        assert_eq!((&close.to[..], &close.from[..]), (&[][..], &[][..]), "{close:?}");
        assert!(self.wire(conn).shut, "CLOSE is written, so this side is shut");
        assert!(!self.wire(conn).dropped, "the other side may still be writing");
        self.end(conn, End::Eof);
        assert!(self.wire(conn).dropped, "both sides are through");
        (close.info, close.text())
    }

    #[track_caller]
    pub(crate) fn closed_with(&mut self, conn: ConnId, code: u32) {
        let (info, text) = self.closed(conn);
        assert_eq!(info, code, "closed with {info} {text:?}");
    }
}
