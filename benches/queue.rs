//! Send queues whose receivers are slow, without sockets: what a turn costs, in bytes or frames a second.
//!
//! - `stalled`: half of each read waits for a receiver that takes nothing, and then takes all. `compacted` is what the
//!   platform does, small frames are copied out of the chunk when the kernel refuses them; `sliced` leaves them where
//!   they were read. Compare the two size by size for the price of copying, and the lines `queue memory` for its gain.
//! - `stalled, a frame a turn`: the same receiver, where each turn brings it one frame.
//! - `slow`: a receiver that takes 4 KiB a turn of the 256 KiB that wait for it, and as much is added.
//! - `fan`: a frame to each of 1,000 receivers in a read; compare none blocked with one in ten.
//!
//! Memory held is printed for each size, and bounded where it is compacted: about twice what waits.

use std::io::IoSlice;
use std::time::Duration;

use bytes::BytesMut;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use trunkline::buf::{Bounds, Frame, Inbound, Rope, SendQueue, SpareRopes};
use trunkline::limits::{CLIENT_QUEUE_BYTES_MAX, CLIENT_QUEUE_SOFT_BYTES, MAX_FRAME, WRITE_SLICES_MAX};
use trunkline::wire::{Kind, Outgoing};

#[path = "../tests/relay_cost/counting.rs"]
mod counting;
#[path = "../tests/relay_cost/harness.rs"]
mod harness;

use harness::Chunks;

/// Bytes of whole frames.
const FRAME_BYTES: [usize; 5] = [64, 256, 1 << 10, 4 << 10, 16 << 10];
/// About what one read brings.
const READ_BYTES: usize = 64 << 10;
/// Bytes that wait for a stalled receiver when it takes them.
const BACKLOG_BYTES: usize = 256 << 10;
const BACKLOG_TURNS: usize = BACKLOG_BYTES / (READ_BYTES / 2);
const BOUNDS: Bounds = Bounds { soft: CLIENT_QUEUE_SOFT_BYTES, hard: CLIENT_QUEUE_BYTES_MAX };
/// Bytes of memory held for each byte that waits, at most; a rope grows by blocks twice as large.
const HELD_MAX: f64 = 2.0;

const RECEIVERS: usize = 1000;
const FAN_TURNS: usize = 32;

/// What becomes of frames that the kernel refuses.
#[derive(Clone, Copy, PartialEq)]
enum Waiting {
    Compacted,
    Sliced,
}

/// Frames of `size` bytes on the wire, as one read brings them.
fn read_of(size: usize, frames: usize) -> Vec<u8> {
    let empty = Outgoing { to: b"bob", from: b"alice", ..Outgoing::of(Kind::Data) };
    let body = vec![7; size - empty.wire_bytes()];
    let mut frame = BytesMut::new();
    Outgoing { body: &body, ..empty }.encode(&mut frame);
    frame.repeat(frames)
}

/// Reads into a chunk, and hands each frame's place in the read and the frame to `forward`.
fn turn(chunks: &mut Chunks, read: &[u8], mut forward: impl FnMut(usize, &mut Frame<'_>)) {
    let mut chunk = chunks.take();
    chunk[..read.len()].copy_from_slice(read);
    let chunk = chunk.freeze();
    let mut inbound = Inbound::new(Rope::default(), &chunk, 0..read.len());
    let mut place = 0;
    while let Some(mut frame) = inbound.next(MAX_FRAME).expect("well formed") {
        forward(place, &mut frame);
        place += 1;
    }
    chunks.give_back(chunk);
}

/// The receiver takes up to `bytes`, copied to `sink` as a kernel would.
fn take(queue: &mut SendQueue, spare: &mut SpareRopes, mut bytes: usize, sink: &mut Vec<u8>) {
    while bytes > 0 && !queue.is_empty() {
        let mut slices = [IoSlice::new(&[]); WRITE_SLICES_MAX];
        let filled = queue.fill(&mut slices);
        sink.clear();
        for slice in &slices[..filled] {
            sink.extend_from_slice(&slice[..slice.len().min(bytes - sink.len())]);
        }
        queue.consume(sink.len(), spare);
        bytes -= sink.len();
    }
}

/// A receiver, and a read of which every second frame is for it; the others are somebody else's.
struct Receiver {
    chunks: Chunks,
    read: Vec<u8>,
    queue: SendQueue,
    spare: SpareRopes,
    sink: Vec<u8>,
}

impl Receiver {
    fn new(read: Vec<u8>) -> Receiver {
        let (queue, spare) = (SendQueue::new(BOUNDS), SpareRopes::default());
        Receiver { chunks: Chunks::default(), read, queue, spare, sink: Vec::new() }
    }

    fn turn(&mut self, waiting: Waiting) {
        let Receiver { chunks, read, queue, spare, .. } = self;
        queue.take_rope(spare);
        turn(chunks, read, |place, frame| {
            if place % 2 == 0 {
                queue.forward(frame).expect("it has room");
            }
        });
        if waiting == Waiting::Compacted {
            queue.compact();
        }
    }

    fn take(&mut self, bytes: usize) {
        take(&mut self.queue, &mut self.spare, bytes, &mut self.sink);
    }
}

/// The most bytes of memory that were held for each byte that waits, looked at after each turn.
fn held(size: usize, waiting: Waiting) -> f64 {
    let mut receiver = Receiver::new(read_of(size, READ_BYTES / size));
    let before = counting::live_bytes();
    let held = (0..BACKLOG_TURNS).map(|_| {
        receiver.turn(waiting);
        receiver.chunks.clear();
        (counting::live_bytes() - before) as f64 / receiver.queue.len() as f64
    });
    held.fold(0.0, f64::max)
}

fn memory(_criterion: &mut Criterion) {
    for size in FRAME_BYTES {
        let [compacted, sliced] = [Waiting::Compacted, Waiting::Sliced].map(|waiting| held(size, waiting));
        println!("queue memory, frames of {size} bytes: {compacted:.2} bytes a byte compacted, {sliced:.2} sliced");
        assert!(compacted <= HELD_MAX, "{compacted} bytes held for each that waits");
    }
}

fn stalled(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("stalled");
    group.throughput(Throughput::Bytes(BACKLOG_BYTES as u64));
    for size in FRAME_BYTES {
        for (name, waiting) in [("compacted", Waiting::Compacted), ("sliced", Waiting::Sliced)] {
            let mut receiver = Receiver::new(read_of(size, READ_BYTES / size));
            group.bench_function(BenchmarkId::new(name, size), |bench| {
                bench.iter(|| {
                    (0..BACKLOG_TURNS).for_each(|_| receiver.turn(waiting));
                    receiver.take(BACKLOG_BYTES);
                });
            });
        }
    }
}

fn stalled_a_frame_a_turn(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("stalled, a frame a turn");
    for size in FRAME_BYTES {
        let turns = BACKLOG_BYTES / size;
        let mut receiver = Receiver::new(read_of(size, 1));
        group.throughput(Throughput::Elements(turns as u64));
        group.bench_function(BenchmarkId::new("compacted", size), |bench| {
            bench.iter(|| {
                (0..turns).for_each(|_| receiver.turn(Waiting::Compacted));
                receiver.take(BACKLOG_BYTES);
            });
        });
    }
}

fn slow(criterion: &mut Criterion) {
    const TAKEN_BYTES: usize = 4 << 10;
    let mut group = criterion.benchmark_group("slow");
    group.throughput(Throughput::Bytes(READ_BYTES as u64 / 2));
    for size in FRAME_BYTES {
        let mut receiver = Receiver::new(read_of(size, READ_BYTES / size));
        (0..BACKLOG_TURNS).for_each(|_| receiver.turn(Waiting::Compacted));
        group.bench_function(BenchmarkId::from_parameter(size), |bench| {
            bench.iter(|| {
                receiver.turn(Waiting::Compacted);
                for _ in 0..READ_BYTES / 2 / TAKEN_BYTES {
                    receiver.take(TAKEN_BYTES);
                    receiver.queue.compact();
                }
            });
        });
    }
}

fn fan(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fan of 1,000 receivers");
    group.throughput(Throughput::Elements((FAN_TURNS * RECEIVERS) as u64));
    let read = read_of(64, RECEIVERS);
    for (name, blocked_of_ten) in [("none blocked", 0), ("1 of 10 blocked", 1)] {
        let mut chunks = Chunks::default();
        let mut queues: Vec<SendQueue> = (0..RECEIVERS).map(|_| SendQueue::new(BOUNDS)).collect();
        let (mut spare, mut sink) = (SpareRopes::default(), Vec::new());
        group.bench_function(name, |bench| {
            bench.iter(|| {
                for _ in 0..FAN_TURNS {
                    turn(&mut chunks, &read, |at, frame| {
                        queues[at].take_rope(&mut spare);
                        queues[at].forward(frame).expect("it has room");
                    });
                    for (at, queue) in queues.iter_mut().enumerate() {
                        if at % 10 < blocked_of_ten {
                            queue.compact()
                        } else {
                            take(queue, &mut spare, usize::MAX, &mut sink)
                        }
                    }
                }
                queues.iter_mut().for_each(SendQueue::clear);
            });
        });
    }
}

criterion_group! {
    name = queue;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_millis(1500))
        .sample_size(50);
    targets = memory, stalled, stalled_a_frame_a_turn, slow, fan
}
criterion_main!(queue);
