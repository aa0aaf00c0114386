//! The load generator from outside: against clusters of its own, and against a relay that does one thing wrong.
//!
//! Loopback only, and ports that the system chose. Nothing waits for time to pass: each wait is for an event, and
//! [`PATIENCE`] only ends a wait that has failed.

mod faults;
mod program;
mod relay;
mod scenarios;
mod usage;

use std::time::Duration;

/// How long an event is waited for: far more than it takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
