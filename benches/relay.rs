//! AS01 => ACMS => AS02 without sockets: what the three cores cost, in frames a second all the way.
//!
//! The senders are on AS01, each with a receiver of its own on AS02; a turn takes about what one read brings. Compare one
//! sender, whose frames stay one slice, with 64; and both with `decode` of the bench `wire`, which is done three times
//! here. Before it is timed, each case is relayed 100 times: a byte that is copied, or an allocation in a core, is a panic.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

#[path = "../tests/relay_cost/counting.rs"]
mod counting;
#[path = "../tests/relay_cost/harness.rs"]
mod harness;

use harness::Cluster;

/// 56 KiB: less than makes a receiver congested.
const FRAMES: usize = 384;

fn relay(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("relay");
    group.throughput(Throughput::Elements(FRAMES as u64));
    for senders in [1, 64] {
        let (mut cluster, reads) = Cluster::with_traffic(senders, senders, FRAMES);
        group.bench_function(BenchmarkId::new("senders", senders), |bench| bench.iter(|| cluster.relay(&reads)));
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = relay
}
criterion_main!(benches);
