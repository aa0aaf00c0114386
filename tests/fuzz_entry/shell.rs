//! What moves a core's bytes under the fuzzer, and holds it to everything that is true of each role.
//!
//! After each turn: every queue and every kept start of a frame is within its bound. Everything written is whole,
//! well-formed frames, nothing follows a CLOSE, and each CLOSE has a code of this version. A relayed frame is, byte for
//! byte, one that was fed and that went nowhere else, and of two from one sender to one receiver the first came first.
//!
//! Long, since what is true of all roles is judged in one place, for all drivers.

use std::collections::BTreeSet;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::sync::LazyLock;

use bytes::Bytes;
use trunkline::id::ConnId;
use trunkline::link::{End, Link, Stage};
use trunkline::role::Core;
use trunkline::time::{Span, Time};

use super::frame::{
    self, ACK, BIND, BOUNCE, CLAIM, CLAIMED, CLOSE, DATA, Draft, FULL, KICK, LENGTH_MAX, MOVE, PING, PONG, QUERY, RATE,
    RELAYED, REPLY, SERVER_DATA, SERVER_QUERY, Seen, Start,
};

pub(crate) const START: Time = Time::from_micros(1_000_000);

/// Bytes that a connection may make a server hold before its login, in each direction.
const GREETING_BYTES_MAX: usize = 4 << 10;
/// Calls of `expire` at one moment, at most: more is a loop that spins.
const EXPIRES_AT_ONE_MOMENT_MAX: usize = 64;
/// Calls of `expire` in a second that a connection and the process itself may ask for.
const EXPIRES_A_SECOND_MAX: u64 = 16;
/// Connections of one run, at most.
const WIRES_MAX: usize = 12;
/// Bytes of large bodies in one run, at most: enough to pass a client's bound and an uplink's soft one.
const FLOOD_BYTES_MAX: usize = 3 << 20;

static ZEROS: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(vec![0; LENGTH_MAX]));
static PINGS: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(Draft::of(PING).write().repeat(600)));

/// A role's own part of what is watched.
pub(crate) trait Watched: Core {
    /// Bytes that may wait for an open connection.
    fn queue_bytes_max(link: &Link<Self::Peer>) -> usize;
    /// Whether the other side is held to the bounds of a stranger until it is logged in.
    fn is_strangers(link: &Link<Self::Peer>) -> bool;
    /// Lets go of what it has: every connection is to be closed.
    fn stop(&mut self, now: Time);
}

/// The other end of one connection.
pub(crate) struct Wire {
    pub(crate) conn: ConnId,
    /// The core dialled it.
    pub(crate) dialled: bool,
    /// Bytes that the other side still takes.
    room: usize,
    /// What is sent and has not arrived.
    held: Vec<u8>,
    /// What was fed and is not a whole frame yet.
    fed: Vec<u8>,
    /// What is fed can't be read as frames any more, or not yet.
    unreadable: bool,
    /// The last byte of a flood, a zero, is still to come: the core stopped reading before it.
    owes_zero: bool,
    preface_fed: bool,
    /// What the core wrote and is not a whole frame yet.
    written: Vec<u8>,
    pub(crate) preface_written: bool,
    close_written: bool,
    /// It got as far as `Stage::Open`.
    opened: bool,
    pub(crate) gone: bool,
    /// Who is on the other side.
    pub(crate) user: Option<Vec<u8>>,
    /// The users that it ever told of, by what arrived: a frame spoilt on its way tells of others than was meant.
    pub(crate) told: BTreeSet<Vec<u8>>,
    /// Those of them that it claimed.
    pub(crate) claimed: BTreeSet<Vec<u8>>,
    /// What its rates count: since when, and what came.
    metered: Option<Metered>,
}

/// What came from a client that is in.
struct Metered {
    since: Time,
    messages: u64,
    bytes: u64,
}

/// A relayed frame that was fed; its body ends with `zeros` zeros that are not in `head`.
struct Fed {
    wire: usize,
    head: Vec<u8>,
    zeros: usize,
    /// Where it went.
    to: Option<usize>,
}

/// Something whole that the core wrote.
pub(crate) struct Written {
    pub(crate) wire: usize,
    pub(crate) bytes: Vec<u8>,
    /// For a relayed frame, the connection that it came from; none where the core made it itself.
    pub(crate) source: Option<usize>,
}

pub(crate) struct Shell<C: Watched> {
    pub(crate) core: C,
    pub(crate) now: Time,
    pub(crate) wires: Vec<Wire>,
    /// What the core wrote and the driver has not looked at; PING, PONG and CLOSE are judged here.
    pub(crate) written: Vec<Written>,
    /// Dials that nothing answered yet.
    pub(crate) dials: Vec<ConnId>,
    /// Codes that a trusted other side told the core to close with.
    pub(crate) foreign_codes: Vec<u32>,
    /// The application sends its users away.
    pub(crate) moves_clients: bool,
    /// Frames that were made unlike all others.
    marked: u32,
    fed: Vec<Fed>,
    flood_bytes: usize,
    /// What each client may send.
    allowance: Allowance,
    /// Bytes that the connections may hold together.
    memory_max: usize,
}

/// What a client that is in may send; 0 is without bound.
#[derive(Clone, Copy, Default)]
pub(crate) struct Allowance {
    pub(crate) messages_per_second: u64,
    pub(crate) bytes_per_second: u64,
    pub(crate) burst_bytes: u64,
}

impl<C: Watched> Shell<C> {
    pub(crate) fn new(core: C, allowance: Allowance, memory_max: usize) -> Shell<C> {
        let mut shell = Shell {
            core,
            now: START,
            wires: Vec::new(),
            written: Vec::new(),
            dials: Vec::new(),
            foreign_codes: Vec::new(),
            moves_clients: false,
            marked: 0,
            fed: Vec::new(),
            flood_bytes: 0,
            allowance,
            memory_max,
        };
        shell.turn();
        shell
    }

    fn add_wire(&mut self, conn: ConnId, dialled: bool) -> usize {
        self.wires.push(Wire {
            conn,
            dialled,
            room: usize::MAX,
            held: Vec::new(),
            fed: Vec::new(),
            unreadable: false,
            owes_zero: false,
            preface_fed: dialled,
            written: Vec::new(),
            preface_written: !dialled,
            close_written: false,
            opened: false,
            gone: false,
            user: None,
            told: BTreeSet::new(),
            claimed: BTreeSet::new(),
            metered: None,
        });
        self.wires.len() - 1
    }

    /// Somebody dials the core; none where there are many connections already.
    pub(crate) fn accept(&mut self) -> Option<usize> {
        if self.wires.len() >= WIRES_MAX {
            return None;
        }
        let conn = self.core.accepted(self.now, SocketAddr::from(([10, 9, 0, 1], 40_000)));
        let wire = self.add_wire(conn, false);
        self.turn();
        Some(wire)
    }

    /// The core's dial succeeds.
    pub(crate) fn answer_dial(&mut self) -> Option<usize> {
        let conn = self.dials.pop()?;
        let is_dialling = self.core.links().get(conn).is_some_and(|link| link.stage() == Stage::Dialling);
        if !is_dialling {
            return None;
        }
        let wire = self.add_wire(conn, true);
        self.core.connected(self.now, conn);
        self.turn();
        Some(wire)
    }

    pub(crate) fn refuse_dial(&mut self) {
        if let Some(conn) = self.dials.pop() {
            self.core.ended(self.now, conn, End::Failed(std::io::ErrorKind::ConnectionRefused));
            self.turn();
        }
    }

    /// Makes a relayed frame unlike every other, in the upper half of a field that no hop looks at: which one arrived where
    /// can then be told, however many say the same. A BOUNCE has its code there.
    pub(crate) fn mark(&mut self, draft: &mut Draft<'_>) {
        if RELAYED.contains(&draft.kind) && draft.kind != BOUNCE {
            self.marked += 1;
            draft.info = self.marked << 16 | draft.info & 0xffff;
        }
    }

    /// Sends `bytes`, of which the last `late` arrive only with what is sent next.
    pub(crate) fn send(&mut self, wire: usize, bytes: &[u8], late: usize) {
        let held = &mut self.wires[wire].held;
        held.extend_from_slice(bytes);
        let arrived = held.len() - late.min(held.len());
        let chunk = Bytes::from(held.drain(..arrived).collect::<Vec<u8>>());
        self.deliver(wire, &chunk);
    }

    fn deliver(&mut self, wire: usize, chunk: &Bytes) {
        let conn = self.wires[wire].conn;
        if chunk.is_empty() || !self.is_read_to_here(wire) {
            return;
        }
        self.note_fed(wire, chunk);
        self.core.received(self.now, conn, chunk, 0..chunk.len());
        self.turn();
    }

    /// Sends a frame with `body_bytes` of zeros behind `head`, where the stream is between two frames.
    pub(crate) fn flood(&mut self, wire: usize, mut draft: Draft<'_>, body_bytes: usize) {
        let Wire { conn, unreadable, preface_fed, .. } = self.wires[wire];
        let between_frames = preface_fed && !unreadable && self.wires[wire].fed.is_empty();
        let fits = self.flood_bytes + body_bytes <= FLOOD_BYTES_MAX;
        if !between_frames || !fits || !self.wires[wire].held.is_empty() || !self.is_read_to_here(wire) {
            return;
        }
        self.flood_bytes += body_bytes;
        self.mark(&mut draft);
        let head = draft.write_before(body_bytes);
        if RELAYED.contains(&draft.kind) {
            self.fed.push(Fed { wire, head: head.clone(), zeros: body_bytes, to: None });
        }
        self.meter(wire, u64::from(is_begun_by_sender(draft.kind)), head.len() + body_bytes);
        let head = Bytes::from(head);
        self.core.received(self.now, conn, &head, 0..head.len());
        self.core.received(self.now, conn, &ZEROS, 0..body_bytes - 1);
        // Looked at while all but the last byte is there: the most that is ever kept.
        self.turn();
        self.wires[wire].owes_zero = true;
        if self.core.links().reads(conn) {
            self.end_flood(wire);
        }
    }

    fn end_flood(&mut self, wire: usize) {
        if std::mem::take(&mut self.wires[wire].owes_zero) {
            self.core.received(self.now, self.wires[wire].conn, &ZEROS, 0..1);
            self.turn();
        }
    }

    /// Whether a message was fed that this BOUNCE answers.
    pub(crate) fn has_fed_what_bounced(&self, bounce: &Seen<'_>) -> bool {
        self.fed.iter().any(|Fed { head, .. }| {
            let (to_len, from_len) = (usize::from(head[6]), usize::from(head[7]));
            let (to, rest) = head[20..].split_at(to_len);
            matches!(head[4], DATA | QUERY | SERVER_DATA | SERVER_QUERY)
                && head[12..20] == bounce.id.to_be_bytes()
                && (to, &rest[..from_len]) == (bounce.from, bounce.to)
        })
    }

    /// Whether the core reads what comes next, all that came before being read.
    fn is_read_to_here(&mut self, wire: usize) -> bool {
        if self.reads(wire) {
            self.end_flood(wire);
        }
        self.reads(wire)
    }

    /// Sends up to 600 PINGs in one read.
    pub(crate) fn storm(&mut self, wire: usize, pings: usize) {
        let Wire { conn, unreadable, preface_fed, .. } = self.wires[wire];
        let between_frames = preface_fed && !unreadable && self.wires[wire].fed.is_empty();
        if !between_frames || !self.wires[wire].held.is_empty() || !self.is_read_to_here(wire) {
            return;
        }
        self.meter(wire, pings as u64, 20 * pings);
        self.core.received(self.now, conn, &PINGS, 0..20 * pings);
        self.turn();
    }

    /// Notes the relayed frames among what is fed.
    fn note_fed(&mut self, place: usize, bytes: &[u8]) {
        self.meter(place, 0, bytes.len());
        let wire = &mut self.wires[place];
        if wire.unreadable {
            return;
        }
        wire.fed.extend_from_slice(bytes);
        let (mut taken, mut messages) = (0, 0);
        if !wire.preface_fed {
            if wire.fed.len() < 8 {
                return;
            }
            wire.preface_fed = true;
            taken = 8;
        }
        loop {
            match frame::read(&wire.fed[taken..]) {
                Start::Frame { seen, wire_bytes } => {
                    if wire.dialled && matches!(seen.kind, CLAIMED | KICK) {
                        self.foreign_codes.push(seen.info);
                    }
                    match seen.kind {
                        CLAIM => {
                            wire.claimed.insert(seen.from.to_vec());
                            wire.told.insert(seen.from.to_vec());
                        }
                        BIND => wire.told.extend(frame::bindings(seen.body).0.into_iter().map(<[u8]>::to_vec)),
                        _ => {}
                    }
                    messages += u64::from(is_begun_by_sender(seen.kind));
                    if RELAYED.contains(&seen.kind) {
                        let head = wire.fed[taken..taken + wire_bytes].to_vec();
                        self.fed.push(Fed { wire: place, head, zeros: 0, to: None });
                    }
                    taken += wire_bytes;
                }
                Start::Incomplete => break,
                Start::Malformed(_) => {
                    wire.unreadable = true;
                    break;
                }
            }
        }
        wire.fed.drain(..taken);
        self.meter(place, messages, 0);
    }

    /// Counts what comes from a client that is in.
    fn meter(&mut self, wire: usize, messages: u64, bytes: usize) {
        if let Some(metered) = &mut self.wires[wire].metered {
            metered.messages += messages;
            metered.bytes += bytes as u64;
        }
    }

    /// Whether the core reads from a connection. Of a client that is in, it has taken no more then than its rates allow
    /// until now, and a second's worth (or one frame) at once.
    fn reads(&mut self, wire: usize) -> bool {
        let conn = self.wires[wire].conn;
        if self.wires[wire].gone || !self.core.links().reads(conn) {
            return false;
        }
        let is_open = self.core.links().get(conn).is_some_and(|link| link.stage() == Stage::Open);
        if let Some(metered) = self.wires[wire].metered.as_ref().filter(|_| is_open) {
            let micros = self.now.since(metered.since).as_micros();
            let Allowance { messages_per_second, bytes_per_second, burst_bytes } = self.allowance;
            let most = |rate: u64, burst: u64| if rate == 0 { u64::MAX } else { burst + rate * micros / 1_000_000 };
            let (messages, bytes) =
                (most(messages_per_second, messages_per_second), most(bytes_per_second, burst_bytes));
            assert!(metered.messages <= messages, "{} messages within {micros} us", metered.messages);
            assert!(metered.bytes <= bytes, "{} bytes within {micros} us", metered.bytes);
        }
        true
    }

    /// The other side ends or breaks the connection.
    pub(crate) fn hang_up(&mut self, wire: usize, end: End) {
        if !self.wires[wire].gone {
            self.core.ended(self.now, self.wires[wire].conn, end);
            self.turn();
        }
    }

    /// The other side takes `room` bytes more.
    pub(crate) fn set_room(&mut self, wire: usize, room: usize) {
        self.wires[wire].room = room;
        self.flush(wire);
        self.turn();
    }

    /// What the shell does once a turn, and what must then be true.
    pub(crate) fn turn(&mut self) {
        if self.core.links().deadline().is_some_and(|at| at <= self.now) {
            self.core.expire(self.now);
        }
        self.check_memory();
        loop {
            let dials = self.core.links().take_dials();
            self.dials.extend(dials.into_iter().map(|(conn, _)| conn));
            let mut dirty = Vec::new();
            self.core.links().take_dirty(&mut dirty);
            let was_idle = dirty.is_empty();
            for conn in dirty {
                if let Some(wire) = self.wire_of(conn) {
                    self.flush(wire);
                }
            }
            self.core.links().take_half_closes();
            self.core.links().take_resumed();
            self.check_links();
            for conn in self.core.links().take_ended() {
                if let Some(wire) = self.wire_of(conn) {
                    self.wires[wire].gone = true;
                }
            }
            if was_idle {
                return;
            }
        }
    }

    pub(crate) fn wire_of(&self, conn: ConnId) -> Option<usize> {
        self.wires.iter().position(|wire| wire.conn == conn)
    }

    fn flush(&mut self, wire: usize) {
        loop {
            let conn = self.wires[wire].conn;
            let mut slices = [IoSlice::new(&[]); 64];
            let filled = self.core.links().fill(conn, &mut slices);
            if filled == 0 {
                break;
            }
            let waiting: usize = slices[..filled].iter().map(|slice| slice.len()).sum();
            let other_side = &mut self.wires[wire];
            let taken = other_side.room.min(waiting);
            let mut left = taken;
            for slice in &slices[..filled] {
                let part = &slice[..left.min(slice.len())];
                other_side.written.extend_from_slice(part);
                left -= part.len();
            }
            if other_side.room != usize::MAX {
                other_side.room -= taken;
            }
            if taken > 0 && self.core.links().wrote(self.now, conn, taken) {
                self.core.relieved(self.now, conn);
            }
            if taken < waiting {
                self.core.links().blocked(conn);
                break;
            }
        }
        self.judge_written(wire);
    }

    fn judge_written(&mut self, place: usize) {
        let mut written = std::mem::take(&mut self.wires[place].written);
        let mut taken = 0;
        if !self.wires[place].preface_written && written.len() >= 8 {
            assert!(written.starts_with(b"TRNK"), "a dialler's first bytes are its preface");
            self.wires[place].preface_written = true;
            taken = 8;
        }
        while self.wires[place].preface_written {
            let (seen, wire_bytes) = match frame::read(&written[taken..]) {
                Start::Frame { seen, wire_bytes } => (seen, wire_bytes),
                Start::Incomplete => break,
                Start::Malformed(what) => panic!("the core wrote {what}: {:?}", &written[taken..][..32]),
            };
            assert!(!self.wires[place].close_written, "{:#04x} behind a CLOSE", seen.kind);
            match seen.kind {
                CLOSE => {
                    let is_known = frame::is_close_code(seen.info) || self.foreign_codes.contains(&seen.info);
                    assert!(is_known, "a CLOSE with {}", seen.info);
                    if !self.foreign_codes.contains(&seen.info) {
                        assert!(seen.info != MOVE || self.moves_clients, "a MOVE that nobody asked for");
                        judge_close(seen.info, seen.body);
                    }
                    self.wires[place].close_written = true;
                }
                PING | PONG => {}
                kind => {
                    let bytes = &written[taken..taken + wire_bytes];
                    let source = if RELAYED.contains(&kind) {
                        source(&mut self.fed, &self.wires, place, bytes, &seen)
                    } else {
                        None
                    };
                    self.written.push(Written { wire: place, bytes: bytes.to_vec(), source });
                }
            }
            taken += wire_bytes;
        }
        written.drain(..taken);
        self.wires[place].written = written;
    }

    /// What is counted is what is held, and where it is too much somebody went for it.
    fn check_memory(&mut self) {
        let links = self.core.links();
        let held: usize = links.iter().map(|(_, link)| link.queue().len() + link.carry().len()).sum();
        assert_eq!(links.memory().held(), held, "what is held is not what is counted");
        let shed_from = self.memory_max / 100 * 95;
        assert!(held < shed_from.max(1), "{held} of {} bytes are held", self.memory_max);
    }

    fn check_links(&mut self) {
        for place in 0..self.wires.len() {
            let Some(link) = self.core.links().get(self.wires[place].conn) else { continue };
            let (queued, kept) = (link.queue().len(), link.carry().len());
            let (stage, strangers) = (link.stage(), C::is_strangers(link));
            let queue_bytes_max = C::queue_bytes_max(link);
            if stage == Stage::Open && !self.wires[place].opened {
                self.wires[place].opened = true;
                let is_client = !self.wires[place].dialled;
                self.wires[place].metered = is_client.then_some(Metered { since: self.now, messages: 0, bytes: 0 });
            }
            if strangers && !self.wires[place].opened {
                assert!(queued <= GREETING_BYTES_MAX, "{queued} bytes wait for a stranger");
                assert!(kept <= 4 + GREETING_BYTES_MAX, "{kept} bytes of a stranger's are kept");
            }
            assert!(queued <= queue_bytes_max, "{queued} bytes wait in {stage:?}");
            assert!(kept < 4 + LENGTH_MAX, "{kept} bytes of an incomplete frame");
        }
    }

    /// Lets time pass, meeting each deadline on the way.
    pub(crate) fn pass(&mut self, span: Span) {
        let end = self.now + span;
        let links = self.core.links().len() as u64 + 1;
        let calls_max = 64 + links * EXPIRES_A_SECOND_MAX * (1 + span.as_millis() / 1_000);
        let (mut calls, mut at_one_moment) = (0, 0);
        while let Some(at) = self.core.deadline().filter(|at| *at <= end) {
            at_one_moment = if at > self.now { 0 } else { at_one_moment + 1 };
            calls += 1;
            assert!(at_one_moment < EXPIRES_AT_ONE_MOMENT_MAX, "the loop spins at {:?}: {at:?} stays", self.now);
            assert!(calls < calls_max, "{calls} deadlines within {span:?}");
            self.now = self.now.max(at);
            self.core.expire(self.now);
            self.turn();
        }
        self.now = end;
    }

    /// Everything ends, and nothing is left of it.
    pub(crate) fn wind_up(&mut self) {
        self.core.stop(self.now);
        self.turn();
        for wire in 0..self.wires.len() {
            self.hang_up(wire, End::Failed(std::io::ErrorKind::ConnectionReset));
        }
        for conn in std::mem::take(&mut self.dials) {
            self.core.ended(self.now, conn, End::Failed(std::io::ErrorKind::ConnectionRefused));
        }
        self.turn();
        assert!(self.core.links().is_empty(), "{} connections are left", self.core.links().len());
    }
}

/// The body of a CLOSE is a text, or an object that says when to come again or where to go: as section 8 has it for each
/// code.
fn judge_close(code: u32, body: &[u8]) {
    let text = std::str::from_utf8(body).expect("the body of a CLOSE is UTF-8");
    let object: serde_json::Value = if text.starts_with('{') {
        serde_json::from_str(text).expect("a CLOSE that begins as an object is one")
    } else {
        serde_json::Value::Null
    };
    let (wait, go_to) = (object["retry_after_ms"].as_u64(), object["go_to"].as_str());
    match code {
        RATE => assert!(wait.is_some_and(|wait| (5_000..=10_000).contains(&wait)), "RATE: {text}"),
        FULL => assert!(wait.is_none_or(|wait| (250..=37_500).contains(&wait)), "FULL: {text}"),
        _ => assert_eq!(wait, None, "{code}: {text}"),
    }
    assert!(go_to.is_none() || code == MOVE, "{code}: {text}");
}

/// The connection that the relayed frame `bytes`, written to `to`, was fed on; the frame is then spent. Of those that
/// one connection sent, none comes before one that is spent for the same receiver. Where several fed the same bytes, it is
/// one that may say what `seen` says.
fn source(fed: &mut [Fed], wires: &[Wire], to: usize, bytes: &[u8], seen: &Seen<'_>) -> Option<usize> {
    let is_it = |fed: &Fed| {
        let (head, zeros) = (fed.head.len(), fed.zeros);
        fed.to.is_none()
            && head + zeros == bytes.len()
            && bytes[..head] == fed.head[..]
            && bytes[head..] == ZEROS[..zeros]
    };
    let is_allowed = |place: &usize| {
        let wire = &wires[fed[*place].wire];
        let is_free = wire.dialled || seen.kind == BOUNCE || seen.from.is_empty() || wire.told.contains(seen.from);
        wire.opened && wire.user.as_deref().map_or(is_free, |user| user == seen.from)
    };
    let in_order = |place: &usize| {
        let sender = fed[*place].wire;
        is_it(&fed[*place]) && fed[place + 1..].iter().all(|later| later.wire != sender || later.to != Some(to))
    };
    let candidates = || (0..fed.len()).filter(in_order);
    let place = candidates().find(is_allowed).or_else(|| candidates().next())?;
    fed[place].to = Some(to);
    Some(fed[place].wire)
}

/// How many PINGs come at once; the most of them fill the room that a stranger has many times over.
pub(crate) const STORMS: [usize; 8] = [1, 1, 1, 20, 20, 60, 250, 600];

/// What connections may hold together: without bound mostly, or so little that a few slow ones are too much.
pub(crate) const MEMORIES: [usize; 4] = [usize::MAX, 2_000_000, 300_000, 20_000];

pub(crate) const SPANS: [Span; 8] = [
    Span::from_micros(1),
    Span::from_millis(20),
    Span::from_millis(300),
    Span::from_millis(1_100),
    Span::from_millis(3_100),
    Span::from_millis(5_100),
    Span::from_millis(10_100),
    Span::from_millis(40_000),
];

/// How many of the last bytes sent arrive late: none mostly.
pub(crate) fn late(script: &mut super::script::Script<'_>) -> usize {
    match script.byte() {
        choice @ 0..=63 => usize::from(choice),
        64..=255 => 0,
    }
}

/// What answers somebody else is not held against its sender.
fn is_begun_by_sender(kind: u8) -> bool {
    !matches!(kind, ACK | REPLY | PONG)
}
