//! What the core tells the application, and why something can't be done.

use bytes::Bytes;

use crate::id::{GroupId, UserId};
use crate::role::Gone;
use crate::role::blob::{BlobEvent, Unsendable};
use crate::time::Span;
use crate::wire::{Bounce, CloseCode, Flags, GroupChange, Welcome};

/// How a client stands to its server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Logged in.
    Online {
        /// What the server told.
        welcome: Welcome,
        /// Whether this is not the first session: the one before was interrupted.
        resumed: bool,
    },
    /// The connection is lost; it is dialled again after the pause.
    Reconnecting {
        /// Why it was lost.
        gone: Gone,
        /// In the server's words.
        text: String,
        /// Until the next dial.
        pause: Span,
    },
    /// Whoever was asked named no server; asked again after the pause.
    NoServer {
        /// Why.
        text: String,
        /// Until it is asked again.
        pause: Span,
    },
    /// Over: the server said so with a code of 1500 and above, the application logged out, or whoever was
    /// asked names no server to this program (REFUSED).
    Stopped {
        /// The server's code.
        code: CloseCode,
        /// In the server's words.
        text: String,
    },
}

/// What happened that the application is to hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The address of a server is needed: to be answered once, with [`Client::found`](super::Client::found).
    Asking,
    /// The connection changed.
    State(State),
    /// A message came.
    Message(Message),
    /// A query came; answer with [`Client::reply`](super::Client::reply).
    Query(Message),
    /// An acknowledged send is resolved.
    Sent {
        /// The id that [`Client::send_acked`](super::Client::send_acked) gave.
        id: u64,
        /// Whether the receiver's engine has the message.
        outcome: Result<(), SendFailure>,
    },
    /// A query is resolved.
    Replied {
        /// The id that [`Client::query`](super::Client::query) gave.
        id: u64,
        /// The reply, or why there is none.
        outcome: Result<Reply, QueryFailure>,
    },
    /// A plain send came back.
    Bounced {
        /// The id that [`Client::send`](super::Client::send) gave.
        id: u64,
        /// Whom it did not reach.
        to: Vec<u8>,
        /// Why.
        cause: Bounce,
    },
    /// A blob is offered, comes, or goes.
    Blob(BlobEvent),
    /// A join is resolved.
    Joined {
        /// The id that [`Client::join`](super::Client::join) gave.
        id: u64,
        /// Whether this user is in.
        outcome: Result<(), JoinFailure>,
    },
    /// A message to a group came.
    GroupMessage {
        /// The group.
        group: GroupId,
        /// The message.
        message: Message,
    },
    /// A member of a group came or went, or server code put this user in or took it out.
    Member {
        /// The group.
        group: GroupId,
        /// Who.
        user: UserId,
        /// What happened.
        change: GroupChange,
    },
    /// Comings and goings may have been missed: who keeps a list of the group's members asks for it anew.
    MembersMissed(GroupId),
    /// A friend, or a user that the application watches, came or went. Who is not told of is offline.
    Presence {
        /// Which.
        user: UserId,
        /// Whether it is in, on any server.
        online: bool,
    },
    /// The answer to an ASK: its JSON body.
    Answered {
        /// The id that [`Client::ask`](super::Client::ask) gave.
        id: u64,
        /// The body.
        body: Bytes,
    },
}

/// A message or query from another user or a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who sent it; none for a server.
    pub from: Option<UserId>,
    /// The application's information type.
    pub info_type: u32,
    /// The sender's id for it.
    pub id: u64,
    /// Its flags.
    pub flags: Flags,
    /// The body, a part of the chunk it was read into: copy what outlives the turn.
    pub body: Bytes,
}

/// The reply to a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The application's information type.
    pub info_type: u32,
    /// The body.
    pub body: Bytes,
}

/// Why an acknowledged send failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendFailure {
    /// The platform could not deliver it.
    #[error("not delivered: {0}")]
    Bounced(Bounce),
    /// No acknowledgement came in time: it may have been delivered.
    #[error("no acknowledgement in time")]
    TimedOut,
    /// The session ended for good before the acknowledgement came: it may have been delivered.
    #[error("the session ended: {0}")]
    Stopped(CloseCode),
}

/// Why this user is not in a group.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinFailure {
    /// The server said no: DENIED by its application, BUSY where it has no room, NOT_IN_GROUP where this user left first.
    #[error("not let in: {0}")]
    Refused(Bounce),
    /// No answer came in time.
    #[error("no answer in time")]
    TimedOut,
    /// The session ended for good before the answer came.
    #[error("the session ended: {0}")]
    Stopped(CloseCode),
}

/// Why a query has no reply, for clients and servers alike.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryFailure {
    /// The platform could not deliver it.
    #[error("not delivered: {0}")]
    Bounced(Bounce),
    /// The receiver, a program or a server's application, answers no such queries.
    #[error("the receiver answers no such queries")]
    NoHandler,
    /// The receiver's handler failed.
    #[error("the receiver failed: {0}")]
    Failed(String),
    /// No reply came in time.
    #[error("no reply in time")]
    TimedOut,
    /// The connection was lost before the reply came.
    #[error("the connection was lost")]
    ConnectionLost,
}

impl QueryFailure {
    /// What a BOUNCE of the query says.
    pub fn of_bounce(cause: Bounce) -> QueryFailure {
        match cause {
            Bounce::NoHandler => QueryFailure::NoHandler,
            cause => QueryFailure::Bounced(cause),
        }
    }

    /// What a REPLY with the flag ERROR says: a program that has no use for queries says nothing in it.
    pub fn of_error(text: &[u8]) -> QueryFailure {
        if text.is_empty() {
            return QueryFailure::NoHandler;
        }
        QueryFailure::Failed(String::from_utf8_lossy(text).into_owned())
    }
}

/// Why something can't be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// There is no connection; an acknowledged send would wait for one.
    #[error("not connected")]
    NotConnected,
    /// Too much waits already.
    #[error("too much waits to be sent")]
    Full,
    /// Larger than the server takes.
    #[error("larger than the server takes")]
    TooBig,
    /// The session is over.
    #[error("the session is over")]
    Stopped,
}

impl From<Unsendable> for SendError {
    fn from(error: Unsendable) -> SendError {
        match error {
            Unsendable::TooBig => SendError::TooBig,
            Unsendable::Full => SendError::Full,
        }
    }
}
