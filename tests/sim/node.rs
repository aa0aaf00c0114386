//! One process: a core, and the shell's part done on the simulated network as the reactor does it on sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, IoSlice};
use std::net::SocketAddr;

use bytes::BytesMut;
use trunkline::id::ConnId;
use trunkline::limits;
use trunkline::link::End;
use trunkline::role::Core;
use trunkline::role::acms::Acms;
use trunkline::role::appserver::{AppServer, Peer};
use trunkline::role::client::Client;
use trunkline::time::Time;

use crate::network::{Network, NodeId, Port};

/// A core of one of the three roles.
pub(crate) enum Role {
    Acms(Box<Acms>),
    Server(Box<AppServer>),
    Client(Box<Client>),
    /// Crashed; `silent` where its machine is gone too.
    Down {
        silent: bool,
    },
}

/// A process, or where one was.
pub(crate) struct Node {
    pub(crate) addr: SocketAddr,
    pub(crate) role: Role,
    pub(crate) shell: Shell,
    /// World time at its start: its own clock begins there.
    pub(crate) born: u64,
    /// Starts so far; what was meant for an earlier one is void.
    pub(crate) boot: u64,
}

impl Node {
    pub(crate) fn new(id: NodeId, addr: SocketAddr, born: u64, seed: u64, role: Role) -> Node {
        Node { addr, role, shell: Shell::new(id, seed), born, boot: 1 }
    }

    pub(crate) fn now(&self, world: u64) -> Time {
        Time::from_micros(world - self.born)
    }

    pub(crate) fn is_down(&self) -> bool {
        matches!(self.role, Role::Down { .. })
    }

    /// The first half of a turn: connections and bytes that came.
    pub(crate) fn receive(&mut self, world: u64, network: &mut Network) {
        let now = self.now(world);
        match &mut self.role {
            Role::Acms(core) => self.shell.receive(core.as_mut(), world, now, network),
            Role::Server(core) => self.shell.receive(core.as_mut(), world, now, network),
            Role::Client(core) => self.shell.receive(core.as_mut(), world, now, network),
            Role::Down { .. } => {}
        }
    }

    /// The second half: writes and deadlines.
    pub(crate) fn send(&mut self, world: u64, network: &mut Network, listeners: &Listeners) {
        let now = self.now(world);
        match &mut self.role {
            Role::Acms(core) => self.shell.send(core.as_mut(), world, now, network, listeners),
            Role::Server(core) => self.shell.send(core.as_mut(), world, now, network, listeners),
            Role::Client(core) => self.shell.send(core.as_mut(), world, now, network, listeners),
            Role::Down { .. } => {}
        }
    }

    /// The end of a turn: half-closes, sockets to drop, and when to come back.
    pub(crate) fn tidy(&mut self, world: u64, network: &mut Network) {
        let born = self.born;
        match &mut self.role {
            Role::Acms(core) => self.shell.tidy(core.as_mut(), world, born, network),
            Role::Server(core) => self.shell.tidy(core.as_mut(), world, born, network),
            Role::Client(core) => self.shell.tidy(core.as_mut(), world, born, network),
            Role::Down { .. } => {}
        }
    }

    /// A queue beyond its bound, as (bytes, bound).
    pub(crate) fn overfull_queue(&mut self) -> Option<(usize, usize)> {
        match &mut self.role {
            Role::Acms(core) => overfull(core.as_mut(), |_| limits::DOWNLINK_QUEUE_BYTES_MAX),
            Role::Server(core) => overfull(core.as_mut(), |peer| match peer {
                Peer::Acms(_) => limits::UPLINK_QUEUE_BYTES_MAX,
                Peer::Client(_) => limits::CLIENT_QUEUE_BYTES_MAX,
            }),
            Role::Client(core) => overfull(core.as_mut(), |_| limits::ENGINE_QUEUE_BYTES_MAX),
            Role::Down { .. } => None,
        }
    }

    /// Whether nothing waits to be written.
    pub(crate) fn is_flushed(&mut self) -> bool {
        match &mut self.role {
            Role::Acms(core) => core.links().iter().all(|(_, link)| link.queue().is_empty()),
            Role::Server(core) => core.links().iter().all(|(_, link)| link.queue().is_empty()),
            Role::Client(core) => core.links().iter().all(|(_, link)| link.queue().is_empty()),
            Role::Down { .. } => false,
        }
    }
}

fn overfull<C: Core>(core: &mut C, hard: impl Fn(&C::Peer) -> usize) -> Option<(usize, usize)> {
    let bound = |peer| hard(peer).max(limits::FRAME_WIRE_BYTES_MAX) + limits::CONTROL_RESERVE_BYTES;
    let mut queues = core.links().iter().map(|(_, link)| (link.queue().len(), bound(&link.peer)));
    queues.find(|(bytes, bound)| bytes > bound)
}

/// Where dials lead: the node, and whether it answers, refuses, or is silent.
pub(crate) type Listeners = BTreeMap<SocketAddr, (NodeId, Answer)>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Accepts,
    Refuses,
    Silent,
}

struct Socket {
    port: Port,
    open: bool,
    /// The core knows that nothing more will come.
    told_end: bool,
    /// The last write was cut short.
    blocked: bool,
}

/// What stands where the reactor stands in production.
pub(crate) struct Shell {
    id: NodeId,
    rng: fastrand::Rng,
    sockets: BTreeMap<ConnId, Socket>,
    /// What got something to write after this turn's writes.
    dirty: BTreeSet<ConnId>,
    accepted: u16,
    /// Whether deadlines are met before the application's part of a turn, or after its writes.
    expires_early: bool,
}

impl Shell {
    fn new(id: NodeId, seed: u64) -> Shell {
        let mut rng = fastrand::Rng::with_seed(seed ^ (id as u64) << 32);
        let expires_early = rng.bool();
        Shell { id, rng, sockets: BTreeMap::new(), dirty: BTreeSet::new(), accepted: 0, expires_early }
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
            self.sockets.insert(conn, Socket { port, open: true, told_end: false, blocked: false });
        }
        for (conn, socket) in &mut self.sockets {
            network.advance(world, socket.port);
            let opens =
                !socket.open && network.is_open(socket.port) && !matches!(network.ended(socket.port), Some(Some(_)));
            if opens {
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
        let mut chunk = BytesMut::new();
        let mut reads = Vec::new();
        let mut order: Vec<ConnId> = self.sockets.keys().copied().collect();
        self.rng.shuffle(&mut order);
        for conn in order {
            let socket = &self.sockets[&conn];
            let unread = network.unread(socket.port);
            if !socket.open || unread == 0 || !core.links().reads(conn) {
                continue;
            }
            let budget = match self.rng.u8(0..12) {
                0 => 1,
                1 => self.rng.usize(1..64),
                _ => limits::CHUNK_BYTES,
            };
            let start = chunk.len();
            network.read(world, socket.port, budget, &mut chunk);
            let middle = if self.rng.u8(0..8) == 0 { self.rng.usize(start..chunk.len()) } else { start };
            reads.extend([(conn, start..middle), (conn, middle..chunk.len())]);
            if unread > budget {
                network.wake_soon(world, self.id);
            }
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

    fn send<C: Core>(&mut self, core: &mut C, world: u64, now: Time, network: &mut Network, listeners: &Listeners) {
        let mut dirty = Vec::new();
        core.links().take_dirty(&mut dirty);
        self.dirty.extend(dirty);
        self.dirty.extend(self.sockets.iter().filter(|(_, socket)| socket.blocked).map(|(conn, _)| *conn));
        for conn in std::mem::take(&mut self.dirty) {
            self.write(core, world, now, network, conn);
        }
        self.expire(core, now, false);
        for (conn, addr) in core.links().take_dials() {
            let (node, answer) =
                listeners.get(&addr).copied().unwrap_or_else(|| panic!("nobody has the address {addr}"));
            let port = network.dial(world, self.id, node, answer == Answer::Accepts, answer == Answer::Silent);
            self.sockets.insert(conn, Socket { port, open: false, told_end: false, blocked: false });
        }
    }

    fn expire<C: Core>(&mut self, core: &mut C, now: Time, early: bool) {
        if self.expires_early == early && core.deadline().is_some_and(|deadline| deadline <= now) {
            core.expire(now);
        }
    }

    fn write<C: Core>(&mut self, core: &mut C, world: u64, now: Time, network: &mut Network, conn: ConnId) {
        let Some(socket) = self.sockets.get_mut(&conn).filter(|socket| socket.open) else { return };
        socket.blocked = false;
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            let mut slices = [IoSlice::new(&[]); limits::WRITE_SLICES_MAX];
            let count = self.rng.usize(1..=limits::WRITE_SLICES_MAX);
            let filled = core.links().fill(conn, &mut slices[..count]);
            slices[..filled].iter().for_each(|slice| bytes.extend_from_slice(slice));
            if bytes.is_empty() {
                return;
            }
            let cut_short = self.rng.u8(0..6) == 0;
            let most = if cut_short { self.rng.usize(0..200) } else { usize::MAX };
            let taken = bytes.len().min(network.room(socket.port)).min(most);
            if let Err(kind) = write_some(network, world, socket.port, &bytes[..taken]) {
                if !std::mem::replace(&mut socket.told_end, true) {
                    core.ended(now, conn, End::Failed(kind));
                }
                return;
            }
            if taken > 0 && core.links().wrote(now, conn, taken) {
                core.relieved(now, conn);
            }
            if taken < bytes.len() {
                socket.blocked = true;
                core.links().blocked(conn);
                if cut_short {
                    network.wake_soon(world, self.id);
                } else {
                    network.await_room(socket.port);
                }
                return;
            }
        }
    }

    fn tidy<C: Core>(&mut self, core: &mut C, world: u64, born: u64, network: &mut Network) {
        for conn in core.links().take_half_closes() {
            if let Some(socket) = self.sockets.get(&conn) {
                network.half_close(world, socket.port);
            }
        }
        if !core.links().take_resumed().is_empty() {
            network.wake_soon(world, self.id);
        }
        for conn in core.links().take_ended() {
            if let Some(socket) = self.sockets.remove(&conn) {
                network.drop_port(world, socket.port);
            }
        }
        let mut dirty = Vec::new();
        core.links().take_dirty(&mut dirty);
        self.dirty.extend(dirty);
        if !self.dirty.is_empty() {
            network.wake_soon(world, self.id);
        }
        if let Some(deadline) = core.deadline().filter(|deadline| *deadline != Time::NEVER) {
            network.wakes.insert(((born + deadline.as_micros()).max(world + 1), self.id));
        }
    }
}

fn write_some(network: &mut Network, world: u64, port: Port, bytes: &[u8]) -> Result<(), ErrorKind> {
    if bytes.is_empty() { Ok(()) } else { network.write(world, port, bytes) }
}
