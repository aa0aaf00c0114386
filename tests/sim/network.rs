//! Byte streams between nodes, as TCP gives them: in order, cut anywhere, late, full, half-closed, reset.
//!
//! A wire is a connection: two ends, each with the pipe that leads to it. Opening, end and reset travel in the pipe
//! behind the bytes that were written before them. A cut freezes the pipes of one direction; a machine that is gone
//! freezes both. A dial across either waits, as a SYN that is sent again, until it gets through.

use std::collections::{BTreeSet, VecDeque};
use std::io::ErrorKind;

use bytes::BytesMut;

/// A place among the world's nodes.
pub(crate) type NodeId = usize;

/// What one seed's streams are like.
#[derive(Clone, Debug)]
pub(crate) struct Odds {
    /// Microseconds on the way.
    pub(crate) latency: std::ops::Range<u64>,
    /// One write in so many takes up to a second more.
    pub(crate) stall: u32,
    /// Bytes that one direction holds, on the way and unread.
    pub(crate) capacity: usize,
    /// A write arrives in at most this many pieces.
    pub(crate) pieces_max: usize,
    /// Arrivals are rounded up to this many microseconds, so that several fall into one turn.
    pub(crate) tick: u64,
}

impl Odds {
    /// Draws a seed's streams.
    pub(crate) fn draw(rng: &mut fastrand::Rng) -> Odds {
        let fastest = rng.u64(100..2_000);
        Odds {
            latency: fastest..fastest + rng.u64(1..25_000),
            stall: *rng.choice(&[200, 2_000, u32::MAX]).expect("not empty"),
            capacity: 1 << rng.u32(12..18),
            pieces_max: rng.usize(1..=4),
            tick: 1 << rng.u32(6..13),
        }
    }

    /// Bytes that one stream surely carries in a quarter of a second.
    pub(crate) fn quarter_second_bytes(&self) -> usize {
        let turns = 250_000 / (2 * (self.latency.end + self.tick));
        self.capacity * turns as usize
    }
}

/// One end of a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Port {
    wire: usize,
    side: usize,
}

impl Port {
    fn other(self) -> Port {
        Port { wire: self.wire, side: 1 - self.side }
    }
}

/// How a process that dies leaves its streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Death {
    /// The kernel says so to the other sides.
    Loud,
    /// The machine is gone: nobody hears anything until it is back.
    Silent,
}

/// What a dial to a node meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Accepts,
    Refuses,
    Silence,
}

enum Piece {
    Open,
    Bytes(Vec<u8>),
    Fin,
    Reset(ErrorKind),
}

/// What the reader of a pipe may see once its bytes are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tail {
    Unopened,
    Flowing,
    Fin,
    Reset(ErrorKind),
}

/// One direction, kept at the end it leads to.
struct Pipe {
    in_flight: VecDeque<(u64, Piece)>,
    arrived: BytesMut,
    /// Bytes in flight and arrived: at most the capacity.
    held: usize,
    tail: Tail,
    /// Nothing gets through.
    frozen: bool,
    writer_waits: bool,
}

struct End {
    node: NodeId,
    /// The socket is dropped; what still arrives is answered with a reset.
    gone: bool,
    /// Its machine went without a word and is not back.
    mute: bool,
    fin_sent: bool,
    incoming: Pipe,
}

impl End {
    fn new(node: NodeId) -> End {
        let incoming = Pipe {
            in_flight: VecDeque::new(),
            arrived: BytesMut::new(),
            held: 0,
            tail: Tail::Unopened,
            frozen: false,
            writer_waits: false,
        };
        End { node, gone: false, mute: false, fin_sent: false, incoming }
    }
}

struct Wire {
    ends: [End; 2],
    /// The dial has not got through.
    dialled: bool,
    accepted: bool,
}

/// All streams of a world.
pub(crate) struct Network {
    rng: fastrand::Rng,
    odds: Odds,
    /// By number; none once both ends are gone.
    wires: Vec<Option<Wire>>,
    listeners: Vec<Answer>,
    /// Connections that each node has not taken yet.
    arrivals: Vec<Vec<Port>>,
    /// (a, b): nothing passes from a to b.
    cuts: BTreeSet<(NodeId, NodeId)>,
    /// Who is to look at its streams, and when.
    pub(crate) wakes: BTreeSet<(u64, NodeId)>,
}

impl Network {
    pub(crate) fn new(seed: u64, odds: Odds) -> Network {
        Network {
            rng: fastrand::Rng::with_seed(seed),
            odds,
            wires: Vec::new(),
            listeners: Vec::new(),
            arrivals: Vec::new(),
            cuts: BTreeSet::new(),
            wakes: BTreeSet::new(),
        }
    }

    /// What a dial to `node` meets from now on.
    pub(crate) fn listen(&mut self, node: NodeId, answer: Answer) {
        if self.listeners.len() <= node {
            self.listeners.resize(node + 1, Answer::Refuses);
            self.arrivals.resize(node + 1, Vec::new());
        }
        self.listeners[node] = answer;
    }

    fn wire(&mut self, wire: usize) -> &mut Wire {
        self.wires[wire].as_mut().expect("an open port has its wire")
    }

    fn end(&mut self, port: Port) -> &mut End {
        &mut self.wire(port.wire).ends[port.side]
    }

    /// Whether a write may take much longer than the latency.
    pub(crate) fn stalls(&self) -> bool {
        self.odds.stall != u32::MAX
    }

    fn delay(&mut self) -> u64 {
        self.rng.u64(self.odds.latency.clone())
    }

    /// Puts a piece on its way to `port`.
    fn push(&mut self, now: u64, port: Port, piece: Piece) {
        let arrives = now + self.delay();
        self.push_at(arrives, port, piece);
    }

    fn push_at(&mut self, at: u64, port: Port, piece: Piece) {
        let tick = self.odds.tick;
        let Some(Some(wire)) = self.wires.get_mut(port.wire) else { return };
        let end = &mut wire.ends[port.side];
        let last = end.incoming.in_flight.back().map_or(0, |(at, _)| *at);
        let arrives = at.max(last).next_multiple_of(tick);
        end.incoming.in_flight.push_back((arrives, piece));
        if !end.incoming.frozen {
            self.wakes.insert((arrives, end.node));
        }
    }

    /// Wakes `node` a moment later.
    pub(crate) fn wake_soon(&mut self, now: u64, node: NodeId) {
        let at = now + self.rng.u64(50..500);
        self.wakes.insert((at, node));
    }
}

/// Opening and closing.
impl Network {
    pub(crate) fn dial(&mut self, now: u64, from: NodeId, to: NodeId) -> Port {
        let wire = self.wires.len();
        self.wires.push(Some(Wire { ends: [End::new(from), End::new(to)], dialled: true, accepted: false }));
        self.connect(now, wire);
        Port { wire, side: 0 }
    }

    /// Completes a dial, unless something still holds it up.
    fn connect(&mut self, now: u64, number: usize) {
        let Some(Some(wire)) = self.wires.get_mut(number) else { return };
        let [from, to] = [wire.ends[0].node, wire.ends[1].node];
        let is_cut = self.cuts.contains(&(from, to)) || self.cuts.contains(&(to, from));
        let answer = self.listeners[to];
        if !wire.dialled || wire.ends[0].gone || is_cut || answer == Answer::Silence {
            return;
        }
        wire.dialled = false;
        let [caller, called] = [0, 1].map(|side| Port { wire: number, side });
        if answer == Answer::Refuses {
            wire.ends[1].gone = true;
            return self.push(now, caller, Piece::Reset(ErrorKind::ConnectionRefused));
        }
        let arrives = now + self.delay();
        let back = arrives + self.delay();
        self.push_at(arrives, called, Piece::Open);
        self.push_at(back, caller, Piece::Open);
        self.arrivals[to].push(called);
    }

    /// Connections that `node` may take.
    pub(crate) fn accepts(&mut self, now: u64, node: NodeId) -> Vec<Port> {
        if self.arrivals[node].is_empty() {
            return Vec::new();
        }
        let mut taken = Vec::new();
        for port in std::mem::take(&mut self.arrivals[node]) {
            if self.wires[port.wire].as_ref().is_none_or(|wire| wire.ends[1].gone) {
                continue;
            }
            self.advance(now, port);
            if self.is_open(port) {
                self.wire(port.wire).accepted = true;
                taken.push(port);
            } else {
                self.arrivals[node].push(port);
            }
        }
        taken
    }

    /// Ends what `port` writes.
    pub(crate) fn half_close(&mut self, now: u64, port: Port) {
        if !std::mem::replace(&mut self.end(port).fin_sent, true) {
            self.push(now, port.other(), Piece::Fin);
        }
    }

    /// Drops the socket: an end to the other side, or a reset where something was unread.
    pub(crate) fn drop_port(&mut self, now: u64, port: Port) {
        let wire = self.wire(port.wire);
        wire.ends[port.side].gone = true;
        wire.ends[1 - port.side].gone |= wire.dialled;
        if self.end(port).incoming.held > 0 {
            self.push(now, port.other(), Piece::Reset(ErrorKind::ConnectionReset));
        } else {
            self.half_close(now, port);
        }
        self.forget_if_dead(port.wire);
    }

    fn forget_if_dead(&mut self, number: usize) {
        self.wires[number].take_if(|wire| wire.ends.iter().all(|end| end.gone));
    }

    /// Whether no byte is on its way or unread.
    pub(crate) fn is_still(&self) -> bool {
        let is_still = |wire: &Wire| wire.ends.iter().all(|end| end.gone || end.incoming.held == 0);
        self.wires.iter().flatten().all(is_still)
    }
}

/// Reading and writing.
impl Network {
    /// Lets arrive at `port` what is due.
    pub(crate) fn advance(&mut self, now: u64, port: Port) {
        let pipe = &mut self.wires[port.wire].as_mut().expect("an open port has its wire").ends[port.side].incoming;
        if pipe.frozen {
            return;
        }
        while let Some((_, piece)) = pipe.in_flight.pop_front_if(|(at, _)| *at <= now) {
            match piece {
                Piece::Bytes(bytes) => match pipe.tail {
                    Tail::Unopened | Tail::Flowing => pipe.arrived.extend_from_slice(&bytes),
                    Tail::Fin | Tail::Reset(_) => pipe.held -= bytes.len(),
                },
                Piece::Open => pipe.tail = Tail::Flowing,
                Piece::Fin if pipe.tail == Tail::Flowing => pipe.tail = Tail::Fin,
                Piece::Fin => {}
                Piece::Reset(kind) => {
                    pipe.tail = Tail::Reset(kind);
                    if self.rng.bool() {
                        pipe.held -= pipe.arrived.len();
                        pipe.arrived.clear();
                    }
                }
            }
        }
    }

    pub(crate) fn is_open(&mut self, port: Port) -> bool {
        self.end(port).incoming.tail != Tail::Unopened
    }

    pub(crate) fn unread(&mut self, port: Port) -> usize {
        self.end(port).incoming.arrived.len()
    }

    /// Whether the stream to `port` has ended behind its unread bytes: with a reset's cause, or without.
    pub(crate) fn ended(&mut self, port: Port) -> Option<Option<ErrorKind>> {
        match self.end(port).incoming.tail {
            Tail::Unopened | Tail::Flowing => None,
            Tail::Fin => Some(None),
            Tail::Reset(kind) => Some(Some(kind)),
        }
    }

    /// Takes up to `max` bytes that arrived, and wakes a writer that waits for the room.
    pub(crate) fn read(&mut self, now: u64, port: Port, max: usize, into: &mut BytesMut) {
        let pipe = &mut self.end(port).incoming;
        let count = pipe.arrived.len().min(max);
        into.extend_from_slice(&pipe.arrived.split_to(count));
        pipe.held -= count;
        if std::mem::take(&mut pipe.writer_waits) {
            let writer = self.end(port.other()).node;
            let at = now + self.delay();
            self.wakes.insert((at, writer));
        }
    }

    /// Bytes that a write at `port` may take now.
    pub(crate) fn room(&mut self, port: Port) -> usize {
        let capacity = self.odds.capacity;
        let there = self.end(port.other());
        if there.gone && !there.incoming.frozen { capacity } else { capacity - there.incoming.held }
    }

    /// Has the writer at `port` woken when there is room again.
    pub(crate) fn await_room(&mut self, port: Port) {
        self.end(port.other()).incoming.writer_waits = true;
    }

    /// Writes at `port` what [`Network::room`] has room for.
    pub(crate) fn write(&mut self, now: u64, port: Port, mut bytes: &[u8]) -> Result<(), ErrorKind> {
        if let Tail::Reset(kind) = self.end(port).incoming.tail {
            return Err(kind);
        }
        let there = self.end(port.other());
        if there.gone && !there.incoming.frozen {
            self.push(now, port, Piece::Reset(ErrorKind::ConnectionReset));
            return Ok(());
        }
        there.incoming.held += bytes.len();
        let stalls = self.odds.stall != u32::MAX && self.rng.u32(0..self.odds.stall) == 0;
        let start = now + if stalls { self.rng.u64(0..1_000_000) } else { 0 };
        for pieces_left in (0..self.rng.usize(1..=self.odds.pieces_max)).rev() {
            let count = if pieces_left == 0 { bytes.len() } else { self.rng.usize(0..=bytes.len()) };
            let (piece, rest) = bytes.split_at(count);
            bytes = rest;
            if !piece.is_empty() {
                let arrives = start + self.delay();
                self.push_at(arrives, port.other(), Piece::Bytes(piece.to_vec()));
            }
        }
        Ok(())
    }
}

/// What breaks.
impl Network {
    /// Breaks the connection for both sides; what is on the way is lost from some point on.
    pub(crate) fn reset(&mut self, now: u64, wire: usize) {
        for side in 0..2 {
            let port = Port { wire, side };
            let kept = self.rng.usize(0..4);
            let pipe = &mut self.end(port).incoming;
            pipe.in_flight.truncate(kept);
            let in_flight = pipe.in_flight.iter().map(|(_, piece)| match piece {
                Piece::Bytes(bytes) => bytes.len(),
                Piece::Open | Piece::Fin | Piece::Reset(_) => 0,
            });
            pipe.held = pipe.arrived.len() + in_flight.sum::<usize>();
            self.push(now, port, Piece::Reset(ErrorKind::ConnectionReset));
        }
    }

    /// Ends one direction of a connection, as a process does that shuts its sending side.
    pub(crate) fn end_one_way(&mut self, now: u64, wire: usize) {
        let side = usize::from(self.rng.bool());
        self.half_close(now, Port { wire, side });
    }

    /// Some connection that stands.
    pub(crate) fn any_wire(&mut self) -> Option<usize> {
        let standing =
            self.wires.iter().enumerate().filter(|(_, wire)| wire.as_ref().is_some_and(|wire| wire.accepted));
        let standing: Vec<usize> = standing.map(|(number, _)| number).collect();
        self.rng.choice(standing)
    }

    /// All sockets of `node` are gone at once.
    pub(crate) fn crash(&mut self, now: u64, node: NodeId, death: Death) {
        self.arrivals[node].clear();
        for port in self.ports_of(node) {
            let end = self.end(port);
            end.mute = death == Death::Silent;
            if std::mem::replace(&mut end.gone, true) {
                continue;
            }
            match death {
                Death::Silent => {
                    let pipe = &mut self.end(port.other()).incoming;
                    pipe.in_flight.clear();
                    pipe.held = pipe.arrived.len();
                }
                Death::Loud if self.rng.bool() => self.half_close(now, port),
                Death::Loud => self.push(now, port.other(), Piece::Reset(ErrorKind::ConnectionReset)),
            }
            self.forget_if_dead(port.wire);
        }
        self.thaw(now, node);
    }

    /// The machine of `node` is back: it knows nothing of the streams that it had, and says so at once, or to whoever
    /// writes on them.
    pub(crate) fn revive(&mut self, now: u64, node: NodeId) {
        let says_so = self.rng.bool();
        for port in self.ports_of(node) {
            let end = self.end(port);
            let was_mute = std::mem::take(&mut end.mute);
            if was_mute && end.gone && says_so {
                self.push(now, port.other(), Piece::Reset(ErrorKind::ConnectionReset));
            }
        }
        self.thaw(now, node);
    }

    fn ports_of(&self, node: NodeId) -> Vec<Port> {
        let mut ports = Vec::new();
        for (number, wire) in self.wires.iter().enumerate() {
            let Some(wire) = wire else { continue };
            let sides = (0..2).filter(|side| wire.ends[*side].node == node);
            ports.extend(sides.map(|side| Port { wire: number, side }));
        }
        ports
    }

    /// Nothing passes from `a` to `b` any more.
    pub(crate) fn cut(&mut self, now: u64, a: NodeId, b: NodeId) {
        self.cuts.insert((a, b));
        self.thaw(now, a);
    }

    /// What was held up from `a` to `b` goes on.
    pub(crate) fn heal(&mut self, now: u64, a: NodeId, b: NodeId) {
        self.cuts.remove(&(a, b));
        self.thaw(now, a);
    }

    /// Sees anew which streams of `node` are frozen, and lets go on what no longer is.
    pub(crate) fn thaw(&mut self, now: u64, node: NodeId) {
        for port in self.ports_of(node) {
            self.connect(now, port.wire);
            for port in [port, port.other()] {
                self.thaw_pipe(now, port);
            }
        }
    }

    fn thaw_pipe(&mut self, now: u64, port: Port) {
        let soon = now + self.delay();
        let Network { wires, cuts, wakes, .. } = self;
        let Some(Some(wire)) = wires.get_mut(port.wire) else { return };
        let is_mute = wire.ends.iter().any(|end| end.mute);
        let writer = wire.ends[1 - port.side].node;
        let End { node, gone, incoming, .. } = &mut wire.ends[port.side];
        let frozen = is_mute || cuts.contains(&(writer, *node));
        if !std::mem::replace(&mut incoming.frozen, frozen) || frozen {
            return;
        }
        for (at, _) in &mut incoming.in_flight {
            *at = (*at).max(soon);
            wakes.insert((*at, *node));
        }
        if *gone && incoming.held > 0 {
            // Bytes that come to a dropped socket are answered with a reset.
            self.push(now, port.other(), Piece::Reset(ErrorKind::ConnectionReset));
        }
    }
}
