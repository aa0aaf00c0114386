//! The cluster under a simulated network: real cores, virtual time, byte streams that are cut, late, full and broken.
//!
//! One ACMS, three application servers, twenty users. `swarm` draws what kind of bad day a seed is, `scenario` lets it
//! happen, `applications` hears what the cores say, `answers` what is made of queries, `model`, `members` and `losses` know
//! what may become of a message, `groups` and `gatherings` what of groups, `friends` who hears of whom, `blobs` what of
//! blobs, `settle` what must be true at the end. `SIM_SEED=n` replays one seed and prints its trace; `SIM_SEEDS=m` and
//! `SIM_FIRST=n` choose others; `SIM_STEPS=k` sets how much users do in each. Add `-- --nocapture` to see it.

mod answers;
mod applications;
mod blobs;
mod cluster;
mod friends;
mod gatherings;
mod groups;
mod losses;
mod members;
mod model;
mod network;
mod node;
mod scenario;
mod settle;
mod stranger;
mod swarm;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use world::{Tracing, World};

const SEEDS: u64 = 1_000;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text}")))
}

#[test]
fn every_seed_keeps_the_promises() {
    let steps = number("SIM_STEPS").map(|steps| steps as usize);
    if let Some(seed) = number("SIM_SEED") {
        return World::new(seed, steps, Tracing::Printed).run();
    }
    let first = number("SIM_FIRST").unwrap_or(0);
    let end = first + number("SIM_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(first);
    let has_failed = AtomicBool::new(false);
    let failed = Mutex::new(Vec::new());
    // Seeds are taken in order and none is left unfinished: the least that failed is the first that fails.
    let run_some = || {
        while !has_failed.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return;
            }
            if catch_unwind(AssertUnwindSafe(|| World::new(seed, steps, Tracing::Off).run())).is_err() {
                has_failed.store(true, Ordering::Relaxed);
                failed.lock().expect("nobody panics with it").push(seed);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(run_some))));
    if let Some(seed) = failed.into_inner().expect("nobody panics with it").into_iter().min() {
        World::new(seed, steps, Tracing::Kept).run();
        panic!("seed {seed} failed, and did not when it was run again");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [1, 7, 23] {
        let run = || {
            let mut world = World::new(seed, None, Tracing::Kept);
            world.run();
            (world.trace.hash, world.clock, world.turns)
        };
        assert_eq!(run(), run(), "seed {seed}");
    }
}
