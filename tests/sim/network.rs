//! Byte streams between nodes, as TCP gives them: in order, cut anywhere, late, full, half-closed, reset.
//!
//! A wire is a connection: two ends, each with the pipe that leads to it. Opening, end and reset travel in the pipe
//! behind the bytes that were written before them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
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
    /// A write arrives in pieces of at most this many bytes.
    pub(crate) piece_max: usize,
    /// Arrivals are rounded up to this many microseconds, so that several fall into one turn.
    pub(crate) tick: u64,
}

impl Odds {
    /// Draws a seed's streams.
    pub(crate) fn draw(rng: &mut fastrand::Rng) -> Odds {
        let fastest = rng.u64(20..2_000);
        Odds {
            latency: fastest..fastest + rng.u64(1..25_000),
            stall: *rng.choice(&[200, 2_000, u32::MAX]).expect("not empty"),
            capacity: 1 << rng.u32(10..18),
            piece_max: 1 << rng.u32(5..17),
            tick: 1 << rng.u32(0..12),
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
    wire: u64,
    side: usize,
}

impl Port {
    fn other(self) -> Port {
        Port { wire: self.wire, side: 1 - self.side }
    }
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "w{}{}", self.wire, ["<", ">"][self.side])
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
    writer_waits: bool,
}

struct End {
    node: NodeId,
    /// The socket is dropped; what still arrives is answered with a reset.
    gone: bool,
    fin_sent: bool,
    incoming: Pipe,
}

struct Wire {
    ends: [End; 2],
    /// Nothing passes.
    frozen: bool,
    accepted: bool,
}

/// All streams of a world.
pub(crate) struct Network {
    rng: fastrand::Rng,
    odds: Odds,
    wires: BTreeMap<u64, Wire>,
    opened: u64,
    /// Pairs of nodes between which nothing passes, smaller first.
    cuts: BTreeSet<(NodeId, NodeId)>,
    /// Who is to look at its streams, and when.
    pub(crate) wakes: BTreeSet<(u64, NodeId)>,
}

impl Network {
    pub(crate) fn new(seed: u64, odds: Odds) -> Network {
        Network {
            rng: fastrand::Rng::with_seed(seed),
            odds,
            wires: BTreeMap::new(),
            opened: 0,
            cuts: BTreeSet::new(),
            wakes: BTreeSet::new(),
        }
    }

    fn end(&mut self, port: Port) -> &mut End {
        &mut self.wires.get_mut(&port.wire).expect("an open port has its wire").ends[port.side]
    }

    /// Puts a piece on its way to `port`.
    fn push(&mut self, now: u64, port: Port, piece: Piece) {
        let delay = self.rng.u64(self.odds.latency.clone());
        self.push_after(now, delay, port, piece);
    }

    fn push_after(&mut self, now: u64, delay: u64, port: Port, piece: Piece) {
        let tick = self.odds.tick;
        let Some(wire) = self.wires.get_mut(&port.wire) else { return };
        let end = &mut wire.ends[port.side];
        let last = end.incoming.in_flight.back().map_or(0, |(at, _)| *at);
        let arrives = (now + delay).max(last).next_multiple_of(tick);
        end.incoming.in_flight.push_back((arrives, piece));
        if !wire.frozen {
            self.wakes.insert((arrives, end.node));
        }
    }

    /// Dials `to`; where nobody listens there the dial is refused.
    pub(crate) fn dial(&mut self, now: u64, from: NodeId, to: NodeId, listens: bool, silent: bool) -> Port {
        self.opened += 1;
        let end = |node| End {
            node,
            gone: false,
            fin_sent: false,
            incoming: Pipe {
                in_flight: VecDeque::new(),
                arrived: BytesMut::new(),
                held: 0,
                tail: Tail::Unopened,
                writer_waits: false,
            },
        };
        let frozen = silent || self.cuts.contains(&(from.min(to), from.max(to)));
        let mut wire = Wire { ends: [end(from), end(to)], frozen, accepted: false };
        wire.ends[1].gone = !listens;
        self.wires.insert(self.opened, wire);
        let port = Port { wire: self.opened, side: 0 };
        if listens {
            self.push(now, port.other(), Piece::Open);
        } else {
            self.push(now, port, Piece::Reset(ErrorKind::ConnectionRefused));
        }
        port
    }

    /// Connections that `node` may take.
    pub(crate) fn accepts(&mut self, now: u64, node: NodeId) -> Vec<Port> {
        let waiting = |wire: &Wire| !wire.accepted && wire.ends[1].node == node && !wire.ends[1].gone;
        let ports: Vec<Port> =
            self.wires.iter().filter(|(_, wire)| waiting(wire)).map(|(id, _)| Port { wire: *id, side: 1 }).collect();
        let mut taken = Vec::new();
        for port in ports {
            self.advance(now, port);
            if self.is_open(port) {
                self.wires.get_mut(&port.wire).expect("it was listed").accepted = true;
                self.push(now, port.other(), Piece::Open);
                taken.push(port);
            }
        }
        taken
    }

    /// Lets arrive at `port` what is due.
    pub(crate) fn advance(&mut self, now: u64, port: Port) {
        let keeps_unread = self.rng.bool();
        let Some(wire) = self.wires.get_mut(&port.wire).filter(|wire| !wire.frozen) else { return };
        let pipe = &mut wire.ends[port.side].incoming;
        while pipe.in_flight.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, piece)) = pipe.in_flight.pop_front() else { return };
            match piece {
                Piece::Bytes(bytes) if matches!(pipe.tail, Tail::Reset(_)) => pipe.held -= bytes.len(),
                Piece::Bytes(bytes) => pipe.arrived.extend_from_slice(&bytes),
                Piece::Open => pipe.tail = Tail::Flowing,
                Piece::Fin if pipe.tail == Tail::Flowing => pipe.tail = Tail::Fin,
                Piece::Fin => {}
                Piece::Reset(kind) => {
                    pipe.tail = Tail::Reset(kind);
                    if !keeps_unread {
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
            let at = now + self.rng.u64(self.odds.latency.clone());
            self.wakes.insert((at, writer));
        }
    }

    /// Bytes that a write at `port` may take now.
    pub(crate) fn room(&mut self, port: Port) -> usize {
        let capacity = self.odds.capacity;
        let frozen = self.wires[&port.wire].frozen;
        let there = self.end(port.other());
        if there.gone && !frozen { capacity } else { capacity - there.incoming.held }
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
        let frozen = self.wires[&port.wire].frozen;
        let there = self.end(port.other());
        if there.gone && !frozen {
            self.push(now, port, Piece::Reset(ErrorKind::ConnectionReset));
            return Ok(());
        }
        there.incoming.held += bytes.len();
        let stalls = self.odds.stall != u32::MAX && self.rng.u32(0..self.odds.stall) == 0;
        let stall = if stalls { self.rng.u64(0..1_000_000) } else { 0 };
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(self.rng.usize(1..=self.odds.piece_max).min(bytes.len()));
            let delay = self.rng.u64(self.odds.latency.clone());
            self.push_after(now, stall + delay, port.other(), Piece::Bytes(piece.to_vec()));
            bytes = rest;
        }
        Ok(())
    }

    /// Ends what `port` writes.
    pub(crate) fn half_close(&mut self, now: u64, port: Port) {
        if !std::mem::replace(&mut self.end(port).fin_sent, true) {
            self.push(now, port.other(), Piece::Fin);
        }
    }

    /// Drops the socket: an end to the other side, or a reset where something was unread.
    pub(crate) fn drop_port(&mut self, now: u64, port: Port) {
        let end = self.end(port);
        end.gone = true;
        if end.incoming.held > 0 {
            self.push(now, port.other(), Piece::Reset(ErrorKind::ConnectionReset));
        } else {
            self.half_close(now, port);
        }
        self.forget_dead();
    }

    fn forget_dead(&mut self) {
        self.wires.retain(|_, wire| !wire.ends.iter().all(|end| end.gone));
    }

    /// Breaks the connection for both sides; what is on the way is lost from some point on.
    pub(crate) fn reset(&mut self, now: u64, wire: u64) {
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

    /// Some connection that stands.
    pub(crate) fn any_wire(&mut self) -> Option<u64> {
        let standing: Vec<u64> = self.wires.iter().filter(|(_, wire)| wire.accepted).map(|(id, _)| *id).collect();
        self.rng.choice(standing)
    }

    /// All sockets of `node` are gone at once.
    pub(crate) fn crash(&mut self, now: u64, node: NodeId, death: Death) {
        for port in self.ports_of(node) {
            if std::mem::replace(&mut self.end(port).gone, true) {
                continue;
            }
            match death {
                Death::Silent => {
                    self.wires.get_mut(&port.wire).expect("it was listed").frozen = true;
                    let pipe = &mut self.end(port.other()).incoming;
                    pipe.in_flight.clear();
                    pipe.held = pipe.arrived.len();
                }
                Death::Loud if self.rng.bool() => self.half_close(now, port),
                Death::Loud => self.push(now, port.other(), Piece::Reset(ErrorKind::ConnectionReset)),
            }
        }
        self.forget_dead();
    }

    /// The machine of `node` is back: it knows nothing of the streams that it had.
    pub(crate) fn revive(&mut self, now: u64, node: NodeId) {
        for port in self.ports_of(node) {
            let wire = self.wires.get_mut(&port.wire).expect("it was listed");
            let other = wire.ends[1 - port.side].node;
            let cut = self.cuts.contains(&(node.min(other), node.max(other)));
            if !wire.ends[port.side].gone || cut {
                continue;
            }
            wire.frozen = false;
            self.push(now, port.other(), Piece::Reset(ErrorKind::ConnectionReset));
        }
    }

    fn ports_of(&self, node: NodeId) -> Vec<Port> {
        let sides = |(id, wire): (&u64, &Wire)| {
            let id = *id;
            let at = [wire.ends[0].node == node, wire.ends[1].node == node];
            (0..2).filter(move |side| at[*side]).map(move |side| Port { wire: id, side })
        };
        self.wires.iter().flat_map(sides).collect()
    }

    /// Nothing passes between the two nodes any more.
    pub(crate) fn cut(&mut self, a: NodeId, b: NodeId) {
        self.cuts.insert((a.min(b), a.max(b)));
        for wire in self.wires.values_mut().filter(|wire| wire.joins(a, b)) {
            wire.frozen = true;
        }
    }

    /// What was held up between the two nodes goes on.
    pub(crate) fn heal(&mut self, now: u64, a: NodeId, b: NodeId) {
        self.cuts.remove(&(a.min(b), a.max(b)));
        let delay = self.rng.u64(self.odds.latency.clone());
        for wire in self.wires.values_mut().filter(|wire| wire.joins(a, b)) {
            wire.frozen = false;
            for end in &mut wire.ends {
                for (at, _) in &mut end.incoming.in_flight {
                    *at = (*at).max(now + delay);
                    self.wakes.insert((*at, end.node));
                }
            }
            let dead = (0..2).filter(|side| wire.ends[*side].gone && wire.ends[*side].incoming.held > 0);
            for side in dead.collect::<Vec<_>>() {
                // Bytes that come to a dropped socket are answered with a reset.
                wire.ends[1 - side]
                    .incoming
                    .in_flight
                    .push_back((now + delay, Piece::Reset(ErrorKind::ConnectionReset)));
                self.wakes.insert((now + delay, wire.ends[1 - side].node));
            }
        }
    }

    /// Whether no byte is on its way or unread.
    pub(crate) fn is_still(&self) -> bool {
        self.wires.values().all(|wire| wire.ends.iter().all(|end| end.gone || end.incoming.held == 0))
    }

    /// Wakes `node` a moment later.
    pub(crate) fn wake_soon(&mut self, now: u64, node: NodeId) {
        let at = now + self.rng.u64(1..200);
        self.wakes.insert((at, node));
    }
}

impl Wire {
    fn joins(&self, a: NodeId, b: NodeId) -> bool {
        let nodes = [self.ends[0].node, self.ends[1].node];
        nodes == [a, b] || nodes == [b, a]
    }
}
