//! The cluster under a simulated network: real cores, virtual time, byte streams that are cut, late, full and broken.
//!
//! `SIM_SEED=n` replays one seed and prints its trace; `SIM_SEEDS=m` widens. Add `-- --nocapture` to see it.

mod model;
mod network;
mod node;
mod scenario;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use world::World;

const SEEDS: u64 = 100;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text}")))
}

#[test]
fn every_seed_keeps_the_promises() {
    if let Some(seed) = number("SIM_SEED") {
        return World::new(seed, true).run();
    }
    let first = number("SIM_FIRST").unwrap_or(0);
    let end = first + number("SIM_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(first);
    let failed = Mutex::new(Vec::new());
    let run_some = || {
        for seed in std::iter::from_fn(|| Some(next.fetch_add(1, Ordering::Relaxed)).filter(|seed| *seed < end)) {
            if catch_unwind(AssertUnwindSafe(|| World::new(seed, false).run())).is_err() {
                failed.lock().expect("nobody panics with it").push(seed);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(run_some))));
    let failed = failed.into_inner().expect("nobody panics with it");
    assert!(failed.is_empty(), "{} of {} seeds failed: {failed:?}", failed.len(), end - first);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [1, 7, 23] {
        let run = || {
            let mut world = World::new(seed, false);
            world.run();
            (world.trace.hash, world.clock, world.turns)
        };
        assert_eq!(run(), run(), "seed {seed}");
    }
}
