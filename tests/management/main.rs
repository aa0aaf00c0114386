//! The management port from outside: what an operator sees and does, by HTTP over real sockets, and what strangers can
//! do to it.
//!
//! Nothing waits for time to pass: each wait is for an event, and [`PATIENCE`] only ends a wait that has failed.
#![cfg(feature = "management")]

mod access;
mod cluster;
mod documented;
mod hostile;
mod http;
mod operator;
mod puppet;
mod schema;

use std::time::{Duration, Instant};

/// How long an event is waited for: far more than it takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

#[expect(clippy::disallowed_methods, reason = "a test waits, and measures, by the system's clock")]
fn now() -> Instant {
    Instant::now()
}

/// Asks again until the answer is as wanted.
#[track_caller]
fn until<T>(mut ask: impl FnMut() -> T, wanted: impl Fn(&T) -> bool) -> T
where
    T: std::fmt::Debug,
{
    let ends = now() + PATIENCE;
    loop {
        let answer = ask();
        if wanted(&answer) {
            return answer;
        }
        assert!(now() < ends, "it stayed at {answer:?}");
        std::thread::yield_now();
    }
}
