//! Buffers: bytes that come in become whole frames, and frames that go out become slices for `writev`.
//!
//! A frame that arrives whole is never copied: it stays a slice of the chunk it was read into until its last receiver
//! has taken it. Only what outlives its turn is copied (see [`Rope::compact`]), so that a slow peer pins no chunk.

mod inbound;
mod queue;
mod rope;
mod shared;

pub use inbound::{Frame, Inbound};
pub use queue::{Bounds, Full, SendQueue};
pub use rope::{Rope, SpareRopes};
pub use shared::Shared;
