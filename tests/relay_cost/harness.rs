//! AS01 => ACMS => AS02 without sockets: three cores, and the reactor's part around each.
//!
//! Chunks are lent and used again as the reactor does it. Between two cores the bytes are copied once, as a kernel would.
//! Only what a core does is counted, not this harness.
#![allow(dead_code, reason = "each bench uses a part of it")]

use std::io::IoSlice;
use std::net::SocketAddr;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use trunkline::id::{ConnId, ServerId};
use trunkline::limits::{CHUNK_BYTES, WRITE_SLICES_MAX};
use trunkline::role::Core;
use trunkline::role::acms::{self, Acms};
use trunkline::role::appserver::{self, AppServer, CutOff, Event, Membership, Rates, Verdict};
use trunkline::time::{Span, Time};
use trunkline::wire::link::Relogin;

use crate::counting::counted;

const START: Time = Time::from_micros(1_000_000);
/// Bytes of a small DATA frame.
pub(crate) const FRAME_BYTES: usize = 150;

/// What one connection's socket brings in a turn.
pub(crate) type Read = (ConnId, Vec<u8>);

/// One slice that was to be written.
pub(crate) struct Written {
    pub(crate) conn: ConnId,
    pub(crate) at: Range<*const u8>,
    /// Where its bytes are in `Node::copies`.
    copy: Range<usize>,
}

/// What is read into, used again once nobody holds a part of it.
#[derive(Default)]
pub(crate) struct Chunks {
    lent: Vec<Bytes>,
    /// Where each lies that was ever read into.
    pub(crate) at: Vec<Range<*const u8>>,
}

impl Chunks {
    pub(crate) fn take(&mut self) -> BytesMut {
        if let Some(free) = self.lent.iter().position(Bytes::is_unique) {
            return self.lent.swap_remove(free).try_into_mut().expect("nobody else holds it");
        }
        let mut chunk = BytesMut::zeroed(CHUNK_BYTES + 1);
        drop(chunk.split_off(CHUNK_BYTES));
        self.at.push(chunk.as_ptr_range());
        chunk
    }

    pub(crate) fn give_back(&mut self, chunk: Bytes) {
        self.lent.push(chunk);
    }

    /// Leaves all of them to those who hold a part.
    pub(crate) fn clear(&mut self) {
        self.lent.clear();
    }
}

/// A core with the reactor's part around it.
pub(crate) struct Node<C> {
    pub(crate) core: C,
    pub(crate) now: Time,
    pub(crate) chunks: Chunks,
    reads: Vec<(ConnId, Range<usize>)>,
    dirty: Vec<ConnId>,
    /// What the last turn wrote; what went to one connection is in a row.
    pub(crate) written: Vec<Written>,
    copies: Vec<u8>,
    /// A connection that takes nothing.
    pub(crate) stalled: Option<ConnId>,
    /// Made by the core since they were last forgotten.
    pub(crate) allocations: u64,
}

impl<C: Core> Node<C> {
    fn new(core: C) -> Node<C> {
        Node {
            core,
            now: START,
            chunks: Chunks::default(),
            reads: Vec::new(),
            dirty: Vec::new(),
            written: Vec::new(),
            copies: Vec::new(),
            stalled: None,
            allocations: 0,
        }
    }

    /// One turn: reads `parts` side by side into one chunk, runs the core, and writes everything once.
    pub(crate) fn turn<'a>(&mut self, parts: impl IntoIterator<Item = (ConnId, &'a [u8])>) {
        let mut tally = self.allocations;
        let mut chunk = self.chunks.take();
        let mut end = 0;
        for (conn, part) in parts {
            chunk[end..end + part.len()].copy_from_slice(part);
            self.reads.push((conn, end..end + part.len()));
            end += part.len();
        }
        let chunk = counted(&mut tally, || chunk.freeze());
        for (conn, range) in self.reads.drain(..) {
            counted(&mut tally, || self.core.received(self.now, conn, &chunk, range));
        }
        self.written.clear();
        self.copies.clear();
        let mut dirty = std::mem::take(&mut self.dirty);
        counted(&mut tally, || self.core.links().take_dirty(&mut dirty));
        dirty.drain(..).for_each(|conn| self.flush(conn, &mut tally));
        self.dirty = dirty;
        self.settle(&mut tally);
        self.chunks.give_back(chunk);
        self.allocations = tally;
    }

    fn flush(&mut self, conn: ConnId, tally: &mut u64) {
        if self.stalled == Some(conn) {
            return counted(tally, || self.core.links().blocked(conn));
        }
        loop {
            let mut slices = [IoSlice::new(&[]); WRITE_SLICES_MAX];
            let filled = counted(tally, || self.core.links().fill(conn, &mut slices));
            if filled == 0 {
                return;
            }
            let before = self.copies.len();
            for slice in &slices[..filled] {
                let start = self.copies.len();
                self.copies.extend_from_slice(slice);
                self.written.push(Written { conn, at: slice.as_ptr_range(), copy: start..self.copies.len() });
            }
            let bytes = self.copies.len() - before;
            if counted(tally, || self.core.links().wrote(self.now, conn, bytes)) {
                counted(tally, || self.core.relieved(self.now, conn));
            }
        }
    }

    fn settle(&mut self, tally: &mut u64) {
        counted(tally, || {
            let links = self.core.links();
            drop((links.take_dials(), links.take_half_closes(), links.take_resumed(), links.take_ended()));
        });
    }

    /// A read whose output waits for the next turn: for what is no part of the measurement.
    fn receive(&mut self, conn: ConnId, bytes: &[u8]) {
        let chunk = Bytes::copy_from_slice(bytes);
        self.core.received(self.now, conn, &chunk, 0..chunk.len());
    }

    /// What the last turn wrote to `conn`.
    pub(crate) fn written_to(&self, conn: ConnId) -> &[u8] {
        let mut slices = self.written.iter().filter(|slice| slice.conn == conn);
        let Some(Written { copy: first, .. }) = slices.next() else { return &[] };
        let end = slices.next_back().map_or(first.end, |last| last.copy.end);
        &self.copies[first.start..end]
    }

    /// Bytes that the last turn wrote from elsewhere than where they were read.
    pub(crate) fn copied_bytes(&self) -> usize {
        let is_in_place = |slice: &Written| {
            self.chunks.at.iter().any(|chunk| chunk.start <= slice.at.start && slice.at.end <= chunk.end)
        };
        self.written.iter().filter(|slice| !is_in_place(slice)).map(|slice| slice.copy.len()).sum()
    }
}

/// Two application servers with users, and the cluster manager between them.
pub(crate) struct Cluster {
    pub(crate) as01: Node<AppServer>,
    pub(crate) acms: Node<Acms>,
    pub(crate) as02: Node<AppServer>,
    /// Each server's connection to the ACMS, as the server names it, and as the ACMS does.
    pub(crate) up: [ConnId; 2],
    pub(crate) down: [ConnId; 2],
}

pub(crate) fn server(number: u16) -> Node<AppServer> {
    let config = appserver::Config {
        server: ServerId(number),
        incarnation: 1,
        max_frame: 1 << 20,
        heartbeat: Span::from_secs(10),
        heartbeat_timeout: Span::from_secs(30),
        login_timeout: Span::from_secs(10),
        drain: Span::from_secs(2),
        connections_max: 100_000,
        max_accepts_per_second: 0,
        memory_max: usize::MAX,
        rates: Rates::NONE,
        relogin: Relogin::ReplaceOld,
        cut_off: CutOff::ServeLocal,
        takes_messages: false,
        takes_queries: false,
        asks_joins: false,
        takes_queries_before_login: false,
        blobs: Default::default(),
        cluster: Some(Membership {
            acms: SocketAddr::from(([10, 0, 0, 100], 5200)),
            name: "demo".to_owned(),
            secret: Vec::new(),
            public_address: format!("10.0.0.{number}:6000"),
            capacity: 1000,
        }),
        seed: [number as u8; 32],
    };
    Node::new(AppServer::new(START, config))
}

/// A cluster manager without a secret.
pub(crate) fn hub() -> Node<Acms> {
    let config = acms::Config {
        cluster: "demo".to_owned(),
        secret: Vec::new(),
        epoch: 1,
        connections_max: 100,
        memory_max: usize::MAX,
        policy: acms::Policy::default(),
        directory_grace: Span::default(),
        seed: [9; 32],
    };
    Node::new(Acms::new(START, config))
}

/// A frame's bytes.
pub(crate) fn frame(kind: u8, to: &str, from: &str, body: &[u8]) -> Vec<u8> {
    let mut frame = ((16 + to.len() + from.len() + body.len()) as u32).to_be_bytes().to_vec();
    frame.extend([kind, 0, to.len() as u8, from.len() as u8, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 9]);
    frame.extend([to.as_bytes(), from.as_bytes(), body].concat());
    frame
}

/// A DATA frame of [`FRAME_BYTES`].
pub(crate) fn small(to: &str, from: &str) -> Vec<u8> {
    let frame = frame(0x10, to, from, &vec![b'x'; FRAME_BYTES - 20 - to.len() - from.len()]);
    assert_eq!(frame.len(), FRAME_BYTES);
    frame
}

impl Cluster {
    pub(crate) fn new() -> Cluster {
        let (mut as01, mut acms, mut as02) = (server(1), hub(), server(2));
        let links = [&mut as01, &mut as02].map(|server| {
            server.core.expire(server.now);
            let (up, addr) = server.core.links().take_dials().pop().expect("it dials the ACMS");
            server.core.connected(server.now, up);
            (up, acms.core.accepted(acms.now, addr))
        });
        let mut cluster = Cluster { as01, acms, as02, up: links.map(|(up, _)| up), down: links.map(|(_, down)| down) };
        cluster.pump();
        assert!(cluster.as01.core.cluster_is_up() && cluster.as02.core.cluster_is_up());
        cluster
    }

    /// Moves bytes over both links until none is left.
    fn pump(&mut self) {
        let Cluster { as01, acms, as02, up, down } = self;
        for _ in 0..16 {
            as01.turn([]);
            as02.turn([]);
            acms.turn([(down[0], as01.written_to(up[0])), (down[1], as02.written_to(up[1]))]);
            as01.receive(up[0], acms.written_to(down[0]));
            as02.receive(up[1], acms.written_to(down[1]));
        }
    }

    fn server(&mut self, number: usize) -> &mut Node<AppServer> {
        if number == 1 { &mut self.as01 } else { &mut self.as02 }
    }

    pub(crate) fn log_in(&mut self, number: usize, user: &str) -> ConnId {
        let server = self.server(number);
        let conn = server.core.accepted(server.now, SocketAddr::from(([10, 0, 1, 1], 7000)));
        server.receive(conn, &[b"TRNK\x00\x01\x01\x00", &frame(0x01, "", user, b"")[..]].concat());
        server.core.verdict(server.now, conn, Verdict::Accept);
        self.pump();
        let server = self.server(number);
        let is_in = std::iter::from_fn(|| server.core.poll_event())
            .any(|event| matches!(event, Event::LoggedIn { conn: at, .. } if at == conn));
        assert!(is_in, "{user} is not in");
        conn
    }

    /// Logs a user in and lets it join a group; what it and the others are told is forgotten.
    pub(crate) fn log_in_to_group(&mut self, number: usize, user: &str, group: &str) -> ConnId {
        let conn = self.log_in(number, user);
        self.server(number).receive(conn, &frame(0x20, group, user, b""));
        self.pump();
        conn
    }

    /// Logs in `senders` on AS01 and `receivers` on AS02; returns a read of each sender with `frames` small frames, which
    /// go to the receivers in turn: to one of its own where there are as many of each.
    fn traffic(&mut self, senders: usize, receivers: usize, frames: usize) -> Vec<Read> {
        for receiver in 0..receivers {
            self.log_in(2, &format!("bob{receiver}"));
        }
        let read = |sender: usize| {
            let from = format!("alice{sender}");
            let to = |frame: usize| format!("bob{}", (sender + frame * senders) % receivers);
            let bytes = (0..frames).flat_map(|frame| small(&to(frame), &from)).collect();
            (self.log_in(1, &from), bytes)
        };
        (0..senders).map(read).collect()
    }

    /// A cluster with such traffic, `frames` in all, that was seen to be relayed in place; and the traffic.
    pub(crate) fn with_traffic(senders: usize, receivers: usize, frames: usize) -> (Cluster, Vec<Read>) {
        let mut cluster = Cluster::new();
        let reads = cluster.traffic(senders, receivers, frames / senders);
        cluster.assert_relayed_in_place(&reads);
        (cluster, reads)
    }

    /// A read of each sender, all the way to the receivers.
    pub(crate) fn relay(&mut self, reads: &[Read]) {
        let Cluster { as01, acms, as02, up, down } = self;
        as01.turn(reads.iter().map(|(conn, bytes)| (*conn, &bytes[..])));
        acms.turn([(down[0], as01.written_to(up[0]))]);
        as02.turn([(up[1], acms.written_to(down[1]))]);
    }

    /// Relays the same reads again and again.
    ///
    /// # Panics
    /// Where one does not arrive whole, a byte is copied, or, after a warm-up, a core allocates.
    fn assert_relayed_in_place(&mut self, reads: &[Read]) {
        let sent: usize = reads.iter().map(|(_, bytes)| bytes.len()).sum();
        for turn in 0..104 {
            if turn == 4 {
                self.forget_counts();
            }
            self.relay(reads);
            let Cluster { as01, acms, as02, up, .. } = self;
            assert_eq!((as02.copies.len(), as02.written_to(up[1])), (sent, &[][..]), "everything arrives");
            assert_eq!([as01.copied_bytes(), acms.copied_bytes(), as02.copied_bytes()], [0; 3], "bytes copied");
        }
        assert_eq!(self.allocations(), [0; 3], "allocations in 100 turns");
    }

    pub(crate) fn forget_counts(&mut self) {
        (self.as01.allocations, self.acms.allocations, self.as02.allocations) = (0, 0, 0);
    }

    pub(crate) fn allocations(&self) -> [u64; 3] {
        [self.as01.allocations, self.acms.allocations, self.as02.allocations]
    }
}
