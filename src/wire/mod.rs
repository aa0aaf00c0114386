//! The wire format: what bytes mean, and nothing about where they come from or go to.
//!
//! docs/PROTOCOL.md is the contract. Each part parses once, into a type that cannot be wrong.

mod blob;
mod codes;
mod control;
mod directory;
mod frame;
pub mod link;
mod preface;

pub use blob::{BLOB_PART_BYTES, BlobAnswer, BlobCause, BlobPart, Manifest, NoPart};
pub use codes::{Bounce, CloseCode, GROUP_EVENT_MISSED, GroupChange};
pub use control::{Answer, Ask, AskKind, CloseBody, Cluster, Located, Login, Welcome, parse_object};
pub use directory::{ListRequest, Listed, ListedUser, Profile};
pub use frame::{Envelope, Flags, Header, Kind, Malformed, Outgoing};
pub use preface::{Opening, PREFACE_BYTES, Preface, Protocol, Role, VERSION, VERSIONS, Versions};
