//! One process: a core, and the shell's part done on the simulated network as the reactor does it on sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, IoSlice};
use std::net::SocketAddr;

use bytes::BytesMut;
use trunkline::id::ConnId;
use trunkline::limits;
use trunkline::link::{End, Link, Stage};
use trunkline::role::Core;
use trunkline::role::acms::Acms;
use trunkline::role::appserver::{AppServer, Peer};
use trunkline::role::client::Client;
use trunkline::time::Time;

use crate::cluster::node_at;
use crate::network::{Network, NodeId, Port};
use crate::stranger::Stranger;

/// A core of one of the three roles, or somebody who has none.
pub(crate) enum Role {
    Acms(Box<Acms>),
    Server(Box<AppServer>),
    Client(Box<Client>),
    Stranger(Box<Stranger>),
    /// Crashed.
    Down,
}

/// A process's own clock: it starts anywhere and runs a little fast or slow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// World time at which it shows `offset`.
    pub(crate) born: u64,
    /// Microseconds.
    pub(crate) offset: u64,
    /// Its microseconds in a second of the world.
    pub(crate) rate: u64,
}

impl Clock {
    pub(crate) fn at(self, world: u64) -> Time {
        Time::from_micros(self.offset + (world - self.born) * self.rate / 1_000_000)
    }

    /// The world time at which it shows `time`, or the birth where that was earlier.
    fn world_time(self, time: Time) -> u64 {
        self.born + (time.as_micros().saturating_sub(self.offset) * 1_000_000).div_ceil(self.rate)
    }
}

/// A process, or where one was.
pub(crate) struct Node {
    pub(crate) role: Role,
    pub(crate) shell: Shell,
    pub(crate) clock: Clock,
    /// Starts so far; what was meant for an earlier one is void.
    pub(crate) boot: u64,
    /// World time until which it gets no turn.
    pub(crate) stopped_until: u64,
    /// World time of its next deadline; `u64::MAX` for none.
    pub(crate) alarm: u64,
}

/// Calls a method of the shell with whichever core the node has.
macro_rules! with_core {
    ($role:expr, $core:ident => $call:expr, $else:expr) => {
        match $role {
            Role::Acms(core) => {
                let $core = core.as_mut();
                $call
            }
            Role::Server(core) => {
                let $core = core.as_mut();
                $call
            }
            Role::Client(core) => {
                let $core = core.as_mut();
                $call
            }
            Role::Stranger(_) | Role::Down => $else,
        }
    };
}

impl Node {
    pub(crate) fn new(id: NodeId, seed: u64, clock: Clock, role: Role) -> Node {
        Node { role, shell: Shell::new(id, seed), clock, boot: 1, stopped_until: 0, alarm: u64::MAX }
    }

    pub(crate) fn now(&self, world: u64) -> Time {
        self.clock.at(world)
    }

    pub(crate) fn is_down(&self) -> bool {
        matches!(self.role, Role::Down)
    }

    /// The first half of a turn: connections and bytes that came.
    pub(crate) fn receive(&mut self, world: u64, network: &mut Network) {
        let now = self.now(world);
        with_core!(&mut self.role, core => self.shell.receive(core, world, now, network), {});
        if let Role::Stranger(stranger) = &mut self.role {
            stranger.turn(world, self.shell.id, network);
        }
    }

    /// The second half: writes and deadlines.
    pub(crate) fn send(&mut self, world: u64, network: &mut Network) {
        let now = self.now(world);
        with_core!(&mut self.role, core => self.shell.send(core, world, now, network), {});
    }

    /// The end of a turn: half-closes and sockets to drop. Returns the world time at which to come back.
    pub(crate) fn tidy(&mut self, world: u64, network: &mut Network) -> u64 {
        let clock = self.clock;
        let deadline = with_core!(&mut self.role, core => self.shell.tidy(core, world, network), None);
        deadline.map_or(u64::MAX, |deadline| clock.world_time(deadline).max(world + 1))
    }

    /// What is wrong with what it holds: beyond a bound, miscounted, or forgotten.
    pub(crate) fn queue_fault(&mut self, memory_max: usize) -> Option<String> {
        let shell = &self.shell;
        match &mut self.role {
            Role::Acms(core) => shell.queue_fault(core.as_mut(), memory_max, |_| limits::DOWNLINK_QUEUE_BYTES_MAX),
            Role::Server(core) => shell.queue_fault(core.as_mut(), memory_max, |peer| match peer {
                Peer::Acms(_) => limits::UPLINK_QUEUE_BYTES_MAX,
                Peer::Client(_) => limits::CLIENT_QUEUE_BYTES_MAX,
            }),
            Role::Client(core) => shell.queue_fault(core.as_mut(), usize::MAX, |_| limits::ENGINE_QUEUE_BYTES_MAX),
            Role::Stranger(_) | Role::Down => None,
        }
    }

    /// Whether nothing waits to be written.
    pub(crate) fn is_flushed(&mut self) -> bool {
        with_core!(&mut self.role, core => core.links().iter().all(|(_, link)| link.queue().is_empty()), true)
    }

    /// Connections that are not read from.
    pub(crate) fn paused(&mut self) -> usize {
        with_core!(&mut self.role, core => {
            let conns: Vec<ConnId> = core.links().iter().map(|(conn, _)| conn).collect();
            conns.into_iter().filter(|conn| !core.links().reads(*conn)).count()
        }, 0)
    }

    /// Connections that the core holds.
    pub(crate) fn links(&mut self) -> usize {
        with_core!(&mut self.role, core => core.links().len(), 0)
    }
}

struct Socket {
    port: Port,
    open: bool,
    /// The core knows that nothing more will come.
    told_end: bool,
    /// The last write was cut short.
    blocked: bool,
}

impl Socket {
    fn new(port: Port, open: bool) -> Socket {
        Socket { port, open, told_end: false, blocked: false }
    }
}

/// What stands where the reactor stands in production.
pub(crate) struct Shell {
    id: NodeId,
    rng: fastrand::Rng,
    sockets: BTreeMap<ConnId, Socket>,
    /// What got something to write after this turn's writes.
    dirty: BTreeSet<ConnId>,
    accepted: u16,
    /// It has more to do, soon: once, however many its reasons.
    is_restless: bool,
    /// Whether deadlines are met before the application's part of a turn, or after its writes.
    expires_early: bool,
    /// What a write is gathered in.
    gathered: Vec<u8>,
}

impl Shell {
    fn new(id: NodeId, seed: u64) -> Shell {
        let mut rng = fastrand::Rng::with_seed(seed);
        let expires_early = rng.bool();
        let (sockets, dirty) = (BTreeMap::new(), BTreeSet::new());
        Shell { id, rng, sockets, dirty, accepted: 0, is_restless: false, expires_early, gathered: Vec::new() }
    }

    /// Forgets the sockets of a process that died.
    pub(crate) fn clear(&mut self) {
        self.sockets.clear();
        self.dirty.clear();
    }

    fn receive<C: Core>(&mut self, core: &mut C, world: u64, now: Time, network: &mut Network) {
        for port in network.accepts(world, self.id) {
            self.accepted = self.accepted.wrapping_add(1);
            let conn = core.accepted(now, SocketAddr::from(([10, 0, 9, 1], self.accepted)));
            self.sockets.insert(conn, Socket::new(port, true));
        }
        for (conn, socket) in &mut self.sockets {
            network.advance(world, socket.port);
            let opens =
                !socket.open && network.is_open(socket.port) && !matches!(network.ended(socket.port), Some(Some(_)));
            // What was ended between two turns is still listed here.
            let is_wanted = core.links().get(*conn).is_some_and(Link::is_live);
            if opens && is_wanted {
                socket.open = true;
                core.connected(now, *conn);
            }
        }
        self.read(core, world, now, network);
        self.tell_ends(core, now, network);
        self.expire(core, now, true);
    }

    /// Reads what is there into one chunk, then hands each connection its part of it.
    fn read<C: Core>(&mut self, core: &mut C, world: u64, now: Time, network: &mut Network) {
        let readable = |(conn, socket): (&ConnId, &Socket)| {
            let ready = socket.open && network.unread(socket.port) > 0 && core.links().reads(*conn);
            ready.then_some((*conn, socket.port))
        };
        let mut ready: Vec<(ConnId, Port)> = self.sockets.iter().filter_map(readable).collect();
        if ready.is_empty() {
            return;
        }
        self.rng.shuffle(&mut ready);
        let mut chunk = BytesMut::new();
        let mut reads = Vec::new();
        for (conn, port) in ready {
            let unread = network.unread(port);
            let budget = match self.rng.u8(0..12) {
                0 => 1,
                1 => self.rng.usize(1..64),
                _ => limits::CHUNK_BYTES,
            };
            let start = chunk.len();
            network.read(world, port, budget, &mut chunk);
            let middle = if self.rng.u8(0..8) == 0 { self.rng.usize(start..chunk.len()) } else { start };
            reads.extend([(conn, start..middle), (conn, middle..chunk.len())]);
            self.is_restless |= unread > budget;
        }
        let chunk = chunk.freeze();
        for (conn, range) in reads.into_iter().filter(|(_, range)| !range.is_empty()) {
            core.received(now, conn, &chunk, range);
        }
    }

    fn tell_ends<C: Core>(&mut self, core: &mut C, now: Time, network: &mut Network) {
        for (conn, socket) in &mut self.sockets {
            let Some(end) = network.ended(socket.port) else { continue };
            if !socket.told_end && network.unread(socket.port) == 0 && core.links().reads(*conn) {
                socket.told_end = true;
                core.ended(now, *conn, end.map_or(End::Eof, End::Failed));
            }
        }
    }

    fn send<C: Core>(&mut self, core: &mut C, world: u64, now: Time, network: &mut Network) {
        self.take_dirty(core);
        self.dirty.extend(self.sockets.iter().filter(|(_, socket)| socket.blocked).map(|(conn, _)| *conn));
        for conn in std::mem::take(&mut self.dirty) {
            self.write(core, world, now, network, conn);
        }
        self.expire(core, now, false);
        for (conn, addr) in core.links().take_dials() {
            let port = network.dial(world, self.id, node_at(addr));
            self.sockets.insert(conn, Socket::new(port, false));
        }
    }

    fn take_dirty<C: Core>(&mut self, core: &mut C) {
        let mut dirty = Vec::new();
        core.links().take_dirty(&mut dirty);
        self.dirty.extend(dirty);
    }

    fn expire<C: Core>(&mut self, core: &mut C, now: Time, early: bool) {
        if self.expires_early == early && core.deadline().is_some_and(|deadline| deadline <= now) {
            core.expire(now);
        }
    }

    fn write<C: Core>(&mut self, core: &mut C, world: u64, now: Time, network: &mut Network, conn: ConnId) {
        let Some(socket) = self.sockets.get_mut(&conn).filter(|socket| socket.open) else { return };
        socket.blocked = false;
        loop {
            let mut slices = [IoSlice::new(&[]); limits::WRITE_SLICES_MAX];
            let count = self.rng.usize(1..=limits::WRITE_SLICES_MAX);
            let filled = core.links().fill(conn, &mut slices[..count]);
            let offered: usize = slices[..filled].iter().map(|slice| slice.len()).sum();
            if offered == 0 {
                return;
            }
            let cut_short = self.rng.u8(0..6) == 0;
            let most = if cut_short { self.rng.usize(0..200) } else { usize::MAX };
            let taken = offered.min(network.room(socket.port)).min(most);
            gather(&slices[..filled], taken, &mut self.gathered);
            if let Err(kind) = write_some(network, world, socket.port, &self.gathered) {
                if !std::mem::replace(&mut socket.told_end, true) {
                    core.ended(now, conn, End::Failed(kind));
                }
                return;
            }
            if taken > 0 && core.links().wrote(now, conn, taken) {
                core.relieved(now, conn);
            }
            if taken < offered {
                socket.blocked = true;
                core.links().blocked(conn);
                self.is_restless |= cut_short;
                if !cut_short {
                    network.await_room(socket.port);
                }
                return;
            }
        }
    }

    /// Returns the core's next deadline.
    fn tidy<C: Core>(&mut self, core: &mut C, world: u64, network: &mut Network) -> Option<Time> {
        for conn in core.links().take_half_closes() {
            if let Some(socket) = self.sockets.get(&conn) {
                network.half_close(world, socket.port);
            }
        }
        self.is_restless |= !core.links().take_resumed().is_empty();
        for conn in core.links().take_ended() {
            if let Some(socket) = self.sockets.remove(&conn) {
                network.drop_port(world, socket.port);
            }
        }
        self.take_dirty(core);
        if std::mem::take(&mut self.is_restless) || !self.dirty.is_empty() {
            network.wake_soon(world, self.id);
        }
        core.deadline().filter(|deadline| *deadline != Time::NEVER)
    }

    /// What waits is counted and within its bounds, and somebody is going to write it.
    fn queue_fault<C: Core>(
        &self,
        core: &mut C,
        memory_max: usize,
        hard: impl Fn(&C::Peer) -> usize,
    ) -> Option<String> {
        let id = self.id;
        let (mut held, counted) = (0, core.links().memory().held());
        let fault = core.links().iter().find_map(|(conn, link)| {
            held += link.held();
            let waits = link.queue().len();
            let bound = hard(&link.peer).max(limits::FRAME_WIRE_BYTES_MAX) + limits::CONTROL_RESERVE_BYTES;
            if waits > bound {
                return Some(format!("a queue of n{id} holds {waits} bytes, at most {bound} are allowed"));
            }
            let forgotten = waits > 0 && !self.is_to_be_written(conn, link);
            forgotten.then(|| format!("n{id} forgets {waits} bytes for {conn}"))
        });
        match fault {
            Some(fault) => Some(fault),
            None if counted != held => Some(format!("n{id} holds {held} bytes and counts {counted}")),
            None if held > memory_max => Some(format!("n{id} holds {held} bytes, at most {memory_max} are allowed")),
            None => None,
        }
    }

    fn is_to_be_written<P>(&self, conn: ConnId, link: &Link<P>) -> bool {
        let waits_for_room =
            self.sockets.get(&conn).is_none_or(|socket| socket.blocked || !socket.open || socket.told_end);
        waits_for_room || link.stage() == Stage::Ended || self.dirty.contains(&conn)
    }
}

/// The first `bytes` bytes of `slices`.
fn gather(slices: &[IoSlice<'_>], mut bytes: usize, into: &mut Vec<u8>) {
    into.clear();
    for slice in slices {
        let taken = slice.len().min(bytes);
        into.extend_from_slice(&slice[..taken]);
        bytes -= taken;
    }
}

fn write_some(network: &mut Network, world: u64, port: Port, bytes: &[u8]) -> Result<(), ErrorKind> {
    if bytes.is_empty() { Ok(()) } else { network.write(world, port, bytes) }
}
