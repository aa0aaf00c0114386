//! Frames in and out of bytes: what it costs to take one apart, and to make one; in frames a second, by bytes of body.
//!
//! `decode` looks at the envelope only: it costs the same whatever the body. `encode` copies the body: compare its longest
//! with the speed of memory.

use std::hint::black_box;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use trunkline::buf::{Inbound, Rope};
use trunkline::limits::MAX_FRAME;
use trunkline::wire::{Kind, Outgoing};

const BODY_BYTES: [usize; 3] = [16, 128, 64 << 10];
/// About what one read brings.
const READ_BYTES: usize = 64 << 10;
/// Frames taken apart or made at once, at least.
const FRAMES_MIN: usize = 16;

fn data(body: &[u8]) -> Outgoing<'_> {
    Outgoing { info_type: 7, id: 42, to: b"bob", from: b"alice", body, ..Outgoing::of(Kind::Data) }
}

/// Takes a read apart; returns what its ids and bodies add up to, so that nothing of it is idle.
fn take_apart(chunk: &Bytes) -> usize {
    let mut inbound = Inbound::new(Rope::default(), chunk, 0..chunk.len());
    let mut sum = 0;
    while let Some(frame) = inbound.next(MAX_FRAME).expect("well formed") {
        sum += frame.wire_bytes() + frame.envelope.to.len() + frame.envelope.header.id as usize;
    }
    sum
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    for size in BODY_BYTES {
        let body = vec![7; size];
        let frame = data(&body);
        let frames = FRAMES_MIN.max(READ_BYTES / frame.wire_bytes());
        let mut bytes = BytesMut::new();
        (0..frames).for_each(|_| frame.encode(&mut bytes));
        let chunk = bytes.freeze();
        group.throughput(Throughput::Elements(frames as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |bench| bench.iter(|| take_apart(black_box(&chunk))));
    }
}

fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    for size in BODY_BYTES {
        let body = vec![7; size];
        let frame = data(&body);
        let frames = FRAMES_MIN.max(READ_BYTES / frame.wire_bytes());
        let mut bytes = BytesMut::with_capacity(frames * frame.wire_bytes());
        group.throughput(Throughput::Elements(frames as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |bench| {
            bench.iter(|| {
                bytes.clear();
                (0..frames).for_each(|_| black_box(&frame).encode(&mut bytes));
                bytes.len()
            });
        });
    }
}

criterion_group! {
    name = wire;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = decode, encode
}
criterion_main!(wire);
