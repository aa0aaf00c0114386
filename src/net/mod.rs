//! The shell: sockets, readiness, the clock. It moves bytes between the kernel and a role's core, and decides nothing.

mod chunks;
mod clock;
mod memory;
mod reactor;
mod rlimit;
mod socket;
mod tuning;

pub use clock::Clock;
pub use memory::default_memory_max;
pub use reactor::{Calls, Reactor, Wake, Woken};
pub use rlimit::raise_descriptor_limit;
pub use socket::listen;
pub use tuning::Tuning;
