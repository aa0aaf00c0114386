//! What each role decides: application server, cluster manager, client. Pure: bytes and time in, bytes and time out.

use std::net::SocketAddr;
use std::ops::Range;

use bytes::Bytes;

use crate::id::ConnId;
use crate::link::{End, Links};
use crate::time::{Span, Time};

pub mod acms;
pub mod appserver;
mod backoff;
pub mod blob;
pub mod client;
mod counters;
mod dedupe;
mod departures;
mod directory;
mod entropy;
mod fault;
mod members;
mod pace;
mod roster;
mod strained;
mod strangers;

pub use backoff::Backoff;
pub use counters::{Counters, Drop};
pub use dedupe::Dedupe;
pub use departures::Departures;
pub use directory::{Binding, Digest, Directory, Tenure};
pub use entropy::Entropy;
pub use fault::{Fault, Gone};
pub use members::Members;
pub use pace::Pace;
pub use roster::Roster;
use strained::Strained;
pub use strangers::Strangers;

/// The seam between a role and what moves its bytes: the reactor in production, the simulator in tests.
///
/// The calling order of a turn: any of [`connected`](Core::connected); [`waited`](Core::waited), where the shell measures
/// it; any of [`accepted`](Core::accepted), [`received`](Core::received), [`ended`](Core::ended);
/// [`expire`](Core::expire) where [`deadline`](Core::deadline) has come; the role's own calls; then for each connection
/// that [`Links::take_dirty`] names, writes, with [`relieved`](Core::relieved) where [`Links::wrote`] says so; last the
/// rest of what `Links` lists for the shell. `now` never goes back.
pub trait Core {
    /// What the role knows of a connection.
    type Peer;

    /// The role's connections.
    fn links(&mut self) -> &mut Links<Self::Peer>;

    /// A listener took a connection from `addr`.
    fn accepted(&mut self, now: Time, addr: SocketAddr) -> ConnId;

    /// A dialled connection stands.
    fn connected(&mut self, now: Time, conn: ConnId);

    /// `range` of `chunk` was read from `conn`.
    fn received(&mut self, now: Time, conn: ConnId, chunk: &Bytes, range: Range<usize>);

    /// Nothing more will come from `conn`, or it could not be dialled.
    fn ended(&mut self, now: Time, conn: ConnId, end: End);

    /// The queue of `conn` has fallen to half of its soft bound, or to where it was marked.
    fn relieved(&mut self, now: Time, conn: ConnId);

    /// How long there was nothing to do so far, since the start: what a shell did not wait, it was busy.
    fn waited(&mut self, _waited: Span) {}

    /// What a connection is told that the shell has no descriptor for: a CLOSE.
    fn refusal(&mut self) -> Vec<u8>;

    /// Meets the deadlines that have come.
    fn expire(&mut self, now: Time);

    /// When [`Core::expire`] must be called next.
    fn deadline(&self) -> Option<Time>;
}
