//! Cross-server messaging for TCP client/server applications: `client01 => as01 => acms => as02 => client02`.
//!
//! Users connect to one of many application servers; the cluster manager (ACMS) knows who is where and relays between
//! them, and neither client knows that there is more than one server.
//!
//! What an application embeds: [`AppServer`] (its own login check and handlers), [`Client`], and [`Acms`] where it does
//! not run the ready-made one. A server that stands alone becomes a member of a cluster with one more call.
//!
//! Reading the code, begin with [`role::Core`], the seam between what is decided and what moves bytes; then [`link`] (one
//! connection's life), `role::appserver` and [`role::acms`] (the way of a frame), and `net::Reactor` (the loop).
//! docs/ARCHITECTURE.md is the map, docs/PROTOCOL.md the wire.

pub mod buf;
#[cfg(feature = "net")]
pub mod caller;
#[cfg(feature = "cli")]
pub mod chat;
#[cfg(feature = "cli")]
pub mod config;
#[cfg(feature = "net")]
pub mod engine;
pub mod id;
pub mod limits;
pub mod link;
#[cfg(feature = "management")]
pub mod management;
pub mod memory;
#[cfg(feature = "net")]
pub mod net;
#[cfg(feature = "cli")]
pub mod operator;
pub mod role;
pub mod time;
pub mod wire;

#[cfg(feature = "net")]
pub use engine::{
    Acms, AcmsBuilder, AcmsHandle, AcmsVitals, AnyUser, AppServer, AppServerBuilder, Authenticator, Blob, BlobHandle,
    BlobOffer, BlobOutcome, Client, ClientBuilder, ClusterEvent, ConnectError, Cursor, Delivery, Denied, EntryFailure,
    Event, Everyone, Friends, Groups, Handler, Incoming, IncomingBlob, LoginRequest, Membership, Message,
    MessageOutcome, MessageTo, Nobody, OperatorMessage, Overloaded, Pending, Profile, Query, Refusal, Responder,
    Running, ServerChange, ServerHandle, ServerVitals, Stopped, Subscription, TagError, Undelivered, Unnamed, UserPage,
    query_without_login,
};
pub use id::{GroupId, ServerId, UserId};
#[cfg(feature = "net")]
pub use net::Tuning;
pub use role::Gone;
pub use role::Members;
pub use role::acms::{
    Assigned, Assignment, Candidate, DirectoryPage, NoServer, Pace, Policy, ServerView, Settled, Standing,
};
pub use role::appserver::{ClusterState, CutOff, Friendship};
pub use role::blob::{BlobFailure, BlobKey};
pub use role::client::{JoinFailure, QueryFailure, SendError, SendFailure, State};
pub use wire::link::Relogin;
pub use wire::{Bounce, CloseCode, Cluster, Flags, GroupChange, Login, Welcome};
