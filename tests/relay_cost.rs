//! What relaying costs in memory: AS01 => ACMS => AS02 without sockets, under an allocator that counts.
//!
//! Chunks are lent and used again as the reactor does it. Only what a core does is counted, not this harness.
#![allow(unsafe_code, reason = "a global allocator that counts can't be written without it")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use trunkline::id::{ConnId, ServerId};
use trunkline::limits::{CHUNK_BYTES, ENVELOPE_BYTES_MAX, PIN_BYTES_MIN, WRITE_SLICES_MAX};
use trunkline::role::Core;
use trunkline::role::acms::{self, Acms};
use trunkline::role::appserver::{self, AppServer, CutOff, Event, Membership, Verdict};
use trunkline::time::{Span, Time};
use trunkline::wire::link::Relogin;

/// What the running thread allocates while it is told to count.
struct Counting;

thread_local! {
    static COUNTS: Cell<bool> = const { Cell::new(false) };
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static LIVE_BYTES: Cell<i64> = const { Cell::new(0) };
}

fn note(grown: i64, allocations: u64) {
    LIVE_BYTES.with(|live| live.set(live.get() + grown));
    if COUNTS.with(Cell::get) {
        ALLOCATIONS.with(|count| count.set(count.get() + allocations));
    }
}

// SAFETY: every call goes to the system's allocator with the arguments as they came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as i64, 1);
        // SAFETY: the caller keeps this method's contract, which is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as i64, 1);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size as i64 - layout.size() as i64, 1);
        // SAFETY: as above.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        note(-(layout.size() as i64), 0);
        // SAFETY: as above.
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Adds what `run` allocates to `tally`.
fn counted<T>(tally: &mut u64, run: impl FnOnce() -> T) -> T {
    let before = ALLOCATIONS.with(Cell::get);
    COUNTS.with(|counts| counts.set(true));
    let result = run();
    COUNTS.with(|counts| counts.set(false));
    *tally += ALLOCATIONS.with(Cell::get) - before;
    result
}

/// One slice that was to be written.
struct Written {
    conn: ConnId,
    at: Range<*const u8>,
    bytes: Vec<u8>,
}

/// A core with the reactor's part around it.
struct Node<C> {
    core: C,
    now: Time,
    lent: Vec<Bytes>,
    /// Where each chunk lies that was ever read into.
    chunks: Vec<Range<*const u8>>,
    dirty: Vec<ConnId>,
    /// A connection that takes nothing.
    stalled: Option<ConnId>,
    allocations: u64,
}

impl<C: Core> Node<C> {
    fn new(core: C) -> Node<C> {
        Node {
            core,
            now: Time::from_micros(1_000_000),
            lent: Vec::with_capacity(64),
            chunks: Vec::new(),
            dirty: Vec::with_capacity(1024),
            stalled: None,
            allocations: 0,
        }
    }

    fn chunk(&mut self) -> BytesMut {
        for place in 0..self.lent.len() {
            match self.lent.swap_remove(place).try_into_mut() {
                Ok(chunk) => return chunk,
                Err(held) => self.lent.insert(place, held),
            }
        }
        let mut chunk = BytesMut::zeroed(CHUNK_BYTES + 1);
        drop(chunk.split_off(CHUNK_BYTES));
        let at = chunk.as_ptr_range();
        self.chunks.push(at);
        chunk
    }

    /// One turn: reads `parts` side by side into one chunk, runs the core, and writes everything once.
    fn turn(&mut self, parts: &[(ConnId, &[u8])]) -> Vec<Written> {
        let mut tally = self.allocations;
        let mut chunk = self.chunk();
        let mut end = 0;
        let mut reads = Vec::with_capacity(parts.len());
        for (conn, part) in parts {
            chunk[end..end + part.len()].copy_from_slice(part);
            reads.push((*conn, end..end + part.len()));
            end += part.len();
        }
        let chunk = counted(&mut tally, || chunk.freeze());
        for (conn, range) in reads {
            counted(&mut tally, || self.core.received(self.now, conn, &chunk, range));
        }
        let mut written = Vec::new();
        counted(&mut tally, || self.core.links().take_dirty(&mut self.dirty));
        for conn in std::mem::take(&mut self.dirty) {
            self.flush(conn, &mut tally, &mut written);
        }
        self.dirty = Vec::with_capacity(1024);
        self.settle(&mut tally);
        self.lent.push(chunk);
        self.allocations = tally;
        written
    }

    fn flush(&mut self, conn: ConnId, tally: &mut u64, written: &mut Vec<Written>) {
        if self.stalled == Some(conn) {
            return counted(tally, || self.core.links().blocked(conn));
        }
        loop {
            let mut slices = [IoSlice::new(&[]); WRITE_SLICES_MAX];
            let filled = counted(tally, || self.core.links().fill(conn, &mut slices));
            if filled == 0 {
                return;
            }
            let mut bytes = 0;
            for slice in &slices[..filled] {
                bytes += slice.len();
                written.push(Written { conn, at: slice.as_ptr_range(), bytes: slice.to_vec() });
            }
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
}

/// Two application servers with users, and the cluster manager between them.
struct Cluster {
    as01: Node<AppServer>,
    acms: Node<Acms>,
    as02: Node<AppServer>,
    /// Each server's connection to the ACMS, as the server names it, and as the ACMS does.
    up: [ConnId; 2],
    down: [ConnId; 2],
}

fn server(number: u16) -> Node<AppServer> {
    let config = appserver::Config {
        server: ServerId(number),
        incarnation: 1,
        max_frame: 1 << 20,
        heartbeat: Span::from_secs(10),
        heartbeat_timeout: Span::from_secs(30),
        login_timeout: Span::from_secs(10),
        connections_max: 100_000,
        relogin: Relogin::ReplaceOld,
        cut_off: CutOff::ServeLocal,
        takes_messages: false,
        takes_queries: false,
        cluster: Some(Membership {
            acms: SocketAddr::from(([10, 0, 0, 100], 5200)),
            name: "demo".to_owned(),
            secret: Vec::new(),
            public_address: format!("10.0.0.{number}:6000"),
            capacity: 1000,
        }),
        seed: [number as u8; 32],
    };
    Node::new(AppServer::new(Time::from_micros(1_000_000), config))
}

fn frame(kind: u8, to: &str, from: &str, body: &[u8]) -> Vec<u8> {
    let mut frame = ((16 + to.len() + from.len() + body.len()) as u32).to_be_bytes().to_vec();
    frame.extend([kind, 0, to.len() as u8, from.len() as u8, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 9]);
    frame.extend([to.as_bytes(), from.as_bytes(), body].concat());
    frame
}

/// A DATA frame of 150 bytes.
fn small(to: &str, from: &str) -> Vec<u8> {
    let frame = frame(0x10, to, from, &vec![b'x'; 130 - to.len() - from.len()]);
    assert_eq!(frame.len(), 150);
    frame
}

fn bytes_to(written: &[Written], conn: ConnId) -> Vec<u8> {
    written.iter().filter(|slice| slice.conn == conn).flat_map(|slice| slice.bytes.iter().copied()).collect()
}

impl Cluster {
    fn new() -> Cluster {
        let acms = acms::Config {
            cluster: "demo".to_owned(),
            secret: Vec::new(),
            epoch: 1,
            connections_max: 10,
            seed: [9; 32],
        };
        let mut acms = Node::new(Acms::new(Time::from_micros(1_000_000), acms));
        let (mut as01, mut as02) = (server(1), server(2));
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
        for _ in 0..16 {
            let one = bytes_to(&self.as01.turn(&[]), self.up[0]);
            let two = bytes_to(&self.as02.turn(&[]), self.up[1]);
            let relayed = self.acms.turn(&[(self.down[0], &one), (self.down[1], &two)]);
            self.as01.turn_onto(self.up[0], &bytes_to(&relayed, self.down[0]));
            self.as02.turn_onto(self.up[1], &bytes_to(&relayed, self.down[1]));
        }
    }

    fn log_in(&mut self, number: usize, user: &str) -> ConnId {
        let server = if number == 1 { &mut self.as01 } else { &mut self.as02 };
        let conn = server.core.accepted(server.now, SocketAddr::from(([10, 0, 1, 1], 7000)));
        server.turn_onto(conn, &[b"TRNK\x00\x01\x01\x00", &frame(0x01, "", user, b"")[..]].concat());
        server.core.verdict(server.now, conn, Verdict::Accept);
        self.pump();
        let server = if number == 1 { &mut self.as01 } else { &mut self.as02 };
        let is_in = std::iter::from_fn(|| server.core.poll_event())
            .any(|event| matches!(event, Event::LoggedIn { conn: at, .. } if at == conn));
        assert!(is_in, "{user} is not in");
        conn
    }

    fn forget_counts(&mut self) {
        (self.as01.allocations, self.acms.allocations, self.as02.allocations) = (0, 0, 0);
    }

    fn allocations(&self) -> [u64; 3] {
        [self.as01.allocations, self.acms.allocations, self.as02.allocations]
    }
}

impl<C: Core> Node<C> {
    /// A turn whose output is put back, as nobody looked at it: for what is no part of the measurement.
    fn turn_onto(&mut self, conn: ConnId, bytes: &[u8]) {
        let chunk = Bytes::copy_from_slice(bytes);
        self.core.received(self.now, conn, &chunk, 0..chunk.len());
    }
}

/// Reads of whole frames, from `senders` users on AS01 each to its own receiver on AS02: allocations at each core over
/// `turns` turns, after a warm-up.
fn allocations_of_whole_frames(senders: usize, frames_each: usize, turns: usize) -> [u64; 3] {
    let mut cluster = Cluster::new();
    let names: Vec<(String, String)> =
        (0..senders).map(|number| (format!("alice{number}"), format!("bob{number}"))).collect();
    let mut parts = Vec::new();
    let mut receivers = Vec::new();
    for (alice, bob) in &names {
        let sender = cluster.log_in(1, alice);
        receivers.push(cluster.log_in(2, bob));
        parts.push((sender, small(bob, alice).repeat(frames_each)));
    }
    let parts: Vec<(ConnId, &[u8])> = parts.iter().map(|(conn, bytes)| (*conn, &bytes[..])).collect();
    let total = 150 * senders * frames_each;
    for turn in 0..turns + 4 {
        if turn == 4 {
            cluster.forget_counts();
        }
        let up = bytes_to(&cluster.as01.turn(&parts), cluster.up[0]);
        let relayed = cluster.acms.turn(&[(cluster.down[0], &up)]);
        let down = bytes_to(&relayed, cluster.down[1]);
        let delivered = cluster.as02.turn(&[(cluster.up[1], &down)]);
        assert_eq!(delivered.iter().map(|slice| slice.bytes.len()).sum::<usize>(), total);
        assert!(delivered.iter().all(|slice| receivers.contains(&slice.conn)));
    }
    cluster.allocations()
}

#[test]
fn a_frame_that_came_whole_costs_no_allocation_anywhere() {
    assert_eq!(allocations_of_whole_frames(1, 400, 100), [0; 3], "one sender, 40,000 frames");
    assert_eq!(allocations_of_whole_frames(64, 6, 100), [0; 3], "64 senders, 38,400 frames");
}

/// Frames that alternate between two receivers are a slice each; the row of slices grows anew each turn.
#[test]
fn alternating_receivers_cost_a_few_allocations_a_turn_and_none_a_frame() {
    let mut cluster = Cluster::new();
    let alice = cluster.log_in(1, "alice");
    let receivers = [cluster.log_in(2, "bob"), cluster.log_in(2, "carol")];
    let both = [small("bob", "alice"), small("carol", "alice")].concat().repeat(200);
    for turn in 0..54 {
        if turn == 4 {
            cluster.forget_counts();
        }
        let up = bytes_to(&cluster.as01.turn(&[(alice, &both)]), cluster.up[0]);
        let down = bytes_to(&cluster.acms.turn(&[(cluster.down[0], &up)]), cluster.down[1]);
        let delivered = cluster.as02.turn(&[(cluster.up[1], &down)]);
        for receiver in receivers {
            assert_eq!(bytes_to(&delivered, receiver).len(), 150 * 200);
        }
    }
    let [as01, acms, as02] = cluster.allocations();
    assert_eq!((as01, acms), (0, 0));
    // Doubling from nothing to 200 places is at most 7 steps, for each of 2 receivers in each of 50 turns.
    assert!(as02 <= 7 * 2 * 50, "{as02} allocations for 20,000 frames");
}

/// A read that ends inside a frame keeps that frame's start: memory for it, and a place in a row.
#[test]
fn a_read_that_ends_inside_a_frame_costs_a_bounded_number_of_allocations() {
    const READ_BYTES: usize = 60_000 + 70;
    const PER_READ_MAX: u64 = 2;
    let mut cluster = Cluster::new();
    let alice = cluster.log_in(1, "alice");
    let bob = cluster.log_in(2, "bob");
    let stream = small("bob", "alice").repeat(50_000);
    let reads: Vec<&[u8]> = stream.chunks_exact(READ_BYTES).collect();
    let mut delivered = Vec::new();
    for (turn, read) in reads.iter().enumerate() {
        if turn == 4 {
            cluster.forget_counts();
        }
        let up = bytes_to(&cluster.as01.turn(&[(alice, read)]), cluster.up[0]);
        // The link's reads are cut elsewhere than the client's.
        let mut down = Vec::new();
        for part in up.chunks(READ_BYTES / 2 + 11) {
            down.extend(bytes_to(&cluster.acms.turn(&[(cluster.down[0], part)]), cluster.down[1]));
        }
        for part in down.chunks(READ_BYTES / 2 + 17) {
            delivered.extend(bytes_to(&cluster.as02.turn(&[(cluster.up[1], part)]), bob));
        }
    }
    assert!(delivered == stream[..delivered.len()]);
    let counted = (reads.len() - 4) as u64;
    for (allocations, reads) in cluster.allocations().into_iter().zip([1, 2, 2]) {
        let most = PER_READ_MAX * reads * counted;
        assert!(allocations <= most, "{:?} allocations in {counted} turns", cluster.allocations());
    }
}

#[test]
fn what_the_acms_writes_lies_in_the_chunk_that_it_read() {
    let mut cluster = Cluster::new();
    cluster.log_in(1, "alice");
    cluster.log_in(2, "bob");
    let read = small("bob", "alice").repeat(800);
    for _ in 0..10 {
        let written = cluster.acms.turn(&[(cluster.down[0], &read)]);
        let [slice] = &written[..] else { panic!("{} slices for neighbours", written.len()) };
        let chunk = &cluster.acms.chunks[0];
        assert_eq!(slice.conn, cluster.down[1]);
        assert_eq!((slice.at.start, slice.at.end), (chunk.start, chunk.start.wrapping_add(read.len())));
        assert!(slice.bytes == read);
    }
    assert_eq!(cluster.acms.chunks.len(), 1, "one chunk is used again and again");
}

#[test]
fn neighbours_from_several_connections_are_one_slice() {
    let mut cluster = Cluster::new();
    let senders: Vec<ConnId> = (0..8).map(|number| cluster.log_in(1, &format!("alice{number}"))).collect();
    cluster.log_in(2, "bob");
    let parts: Vec<Vec<u8>> = (0..8).map(|number| small("bob", &format!("alice{number}")).repeat(10)).collect();
    let parts: Vec<(ConnId, &[u8])> = senders.iter().copied().zip(parts.iter().map(|part| &part[..])).collect();
    let written = cluster.as01.turn(&parts);
    assert_eq!(written.len(), 1);
    assert_eq!(written[0].bytes.len(), 8 * 10 * 150);
}

/// A frame of a mebibyte comes in many reads. Its large parts stay where they were read; its beginning, so that the
/// envelope is in one piece, and a small rest at its end are copied.
#[test]
fn of_a_large_frame_only_small_parts_are_copied() {
    let mut cluster = Cluster::new();
    let alice = cluster.log_in(1, "alice");
    let bob = cluster.log_in(2, "bob");
    let body: Vec<u8> = (0..(1 << 20) - 24).map(|place: u32| (place % 251) as u8).collect();
    let large = frame(0x10, "bob", "alice", &body);
    let copied_of = |chunks: &[Range<*const u8>], written: &[Written]| -> usize {
        let in_chunk =
            |slice: &Written| chunks.iter().any(|chunk| chunk.start <= slice.at.start && slice.at.end <= chunk.end);
        written.iter().filter(|slice| !in_chunk(slice)).map(|slice| slice.bytes.len()).sum()
    };
    for first in [1, 19, 100, 40_000, 65_536] {
        let (head, rest) = large.split_at(first);
        let mut up = cluster.as01.turn(&[(alice, head)]);
        for part in rest.chunks(CHUNK_BYTES / 2) {
            up.extend(cluster.as01.turn(&[(alice, part)]));
        }
        let copied = copied_of(&cluster.as01.chunks, &up);
        assert!(copied < ENVELOPE_BYTES_MAX + PIN_BYTES_MIN, "{copied} bytes copied at AS01, first part {first}");
        let bytes = bytes_to(&up, cluster.up[0]);
        assert!(bytes == large);
        let mut relayed = Vec::new();
        for part in bytes.chunks(CHUNK_BYTES) {
            relayed.extend(cluster.acms.turn(&[(cluster.down[0], part)]));
        }
        let copied = copied_of(&cluster.acms.chunks, &relayed);
        assert!(copied < ENVELOPE_BYTES_MAX + PIN_BYTES_MIN, "{copied} bytes copied at the ACMS");
        let bytes = bytes_to(&relayed, cluster.down[1]);
        assert!(bytes == large);
        let mut delivered = Vec::new();
        for part in bytes.chunks(CHUNK_BYTES) {
            delivered.extend(cluster.as02.turn(&[(cluster.up[1], part)]));
        }
        assert!(bytes_to(&delivered, bob) == large);
    }
}

/// Bytes that a queue of AS02 holds for one that takes nothing, and the memory that this costs.
fn held_for_a_stalled_receiver(frame: &[u8], parts: usize) -> (usize, i64) {
    let mut cluster = Cluster::new();
    let alice = cluster.log_in(2, "alice");
    let bob = cluster.log_in(2, "bob");
    cluster.as02.turn(&[]);
    cluster.as02.stalled = Some(bob);
    let before = LIVE_BYTES.with(Cell::get);
    let queued = |cluster: &mut Cluster| cluster.as02.core.links().get(bob).map_or(0, |link| link.queue().len());
    while queued(&mut cluster) < 200_000 {
        for part in frame.chunks(frame.len().div_ceil(parts)) {
            cluster.as02.turn(&[(alice, part)]);
        }
    }
    cluster.as02.lent.clear();
    let held = LIVE_BYTES.with(Cell::get) - before;
    (queued(&mut cluster), held)
}

#[test]
fn a_stalled_receiver_holds_about_twice_what_waits_for_it() {
    for (size, parts) in [(0, 1), (130, 1), (4_000, 1), (60_000, 1), (0, 2), (130, 2), (4_000, 2), (90_000, 2)] {
        let frame = frame(0x10, "bob", "alice", &vec![0; size]);
        let (queued, held) = held_for_a_stalled_receiver(&frame, parts);
        // A pinned part of a chunk may be a quarter of it (see PIN_BYTES_MIN).
        let factor = if frame.len() / parts >= PIN_BYTES_MIN { 4.5 } else { 2.5 };
        let times = held as f64 / queued as f64;
        assert!(times <= factor, "frames of {} bytes in {parts} parts: {held} bytes held for {queued}", frame.len());
    }
}

#[test]
fn deadlines_cost_a_bounded_number_of_allocations() {
    let mut cluster = Cluster::new();
    for number in 0..100 {
        cluster.log_in(1, &format!("alice{number}"));
    }
    let server = &mut cluster.as01;
    let end = server.now + Span::from_secs(60);
    let (mut calls, mut tally, mut pings) = (0, 0, 0);
    while let Some(at) = server.core.deadline().filter(|at| *at <= end) {
        server.now = at;
        let before = tally;
        counted(&mut tally, || server.core.expire(at));
        calls += 1;
        let written = server.turn(&[]);
        pings += written.len();
        // For each of 100 connections a PING's block, its row, and a place in the wheel; then the lists of what is due.
        assert!(tally - before <= 3 * 100 + 32, "{} allocations in one call", tally - before);
        if pings > 200 {
            break;
        }
    }
    assert!(calls > 3 && pings > 0);
}
