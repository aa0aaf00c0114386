//! Fan-in and fan-out, AS01 => ACMS => AS02 without sockets, in frames a second all the way.
//!
//! 64 senders to one receiver: as many reads, one write. One sender to 64 receivers in turn: one read, as many writes, and
//! no two neighbours to the same. Compare with the bench `relay`, which has as many senders as receivers. As there, a byte
//! that is copied or an allocation in a core is a panic before anything is timed.

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

#[path = "../tests/relay_cost/counting.rs"]
mod counting;
#[path = "../tests/relay_cost/harness.rs"]
mod harness;

use harness::Cluster;

/// 56 KiB: less than makes a receiver congested.
const FRAMES: usize = 384;

fn fan(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fan");
    group.throughput(Throughput::Elements(FRAMES as u64));
    for (name, senders, receivers) in [("in, 64 to 1", 64, 1), ("out, 1 to 64", 1, 64)] {
        let (mut cluster, reads) = Cluster::with_traffic(senders, receivers, FRAMES);
        group.bench_function(name, |bench| bench.iter(|| cluster.relay(&reads)));
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = fan
}
criterion_main!(benches);
