//! The whole thing from outside: real processes, real sockets, and the engines that an application embeds.
//!
//! Loopback only, and ports that the system chose. Nothing waits for time to pass: each wait is for an event, and
//! [`PATIENCE`] only ends a wait that has failed. Where a time is itself what is looked at (a pace, a share of a
//! processor), it is a channel's tick.
#![cfg(feature = "cli")]

mod blobs;
mod bot;
mod chaos;
mod cluster;
mod deaf;
mod descriptors;
mod engines;
mod entrance;
mod groups;
mod hostile;
mod memory;
mod operator;
mod overload;
mod partition;
mod platform;
mod port;
mod presence;
mod processes;
mod program;
mod queries;
mod raw;
mod responder;
mod silence;
mod vitals;

use std::time::{Duration, Instant};

/// How long an event is waited for: far more than it takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

#[expect(clippy::disallowed_methods, reason = "a test waits, and measures, by the system's clock")]
fn now() -> Instant {
    Instant::now()
}
