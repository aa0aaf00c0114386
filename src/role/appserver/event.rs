//! What the core tells the application, and the log.

use std::net::SocketAddr;

use bytes::Bytes;

use super::groups::JoinRef;
use crate::id::{ConnId, ServerId, UserId};
use crate::memory::Strain;
use crate::role::blob::BlobEvent;
use crate::role::{Gone, Members};
use crate::time::Span;
use crate::wire::link::ServerMessageId;
use crate::wire::{Bounce, CloseCode, Flags, Listed, Login, Profile};

/// What happened that the application, or the log, is to hear of.
#[derive(Debug)]
pub enum Event {
    /// A user wants in; answer with [`AppServer::verdict`](super::AppServer::verdict).
    LoginAsked {
        /// Its connection.
        conn: ConnId,
        /// Its id.
        user: UserId,
        /// Its address.
        addr: SocketAddr,
        /// What it showed.
        login: Login,
    },
    /// A user is in.
    LoggedIn {
        /// Its connection.
        conn: ConnId,
        /// Its id.
        user: UserId,
        /// Its address.
        addr: SocketAddr,
    },
    /// A user is out.
    LoggedOut {
        /// Its id.
        user: UserId,
        /// Why.
        gone: Gone,
    },
    /// A user sent the server a message; one with the flag WANT_ACK is to be answered with
    /// [`AppServer::acknowledge`](super::AppServer::acknowledge) once it is taken.
    Message(Inbox),
    /// A user sent the server a query; answer with [`AppServer::reply`](super::AppServer::reply).
    Query(Inbox),
    /// Another server's application, or this one's own, sent a message.
    ServerMessage(ServerInbox),
    /// Another server's application, or this one's own, asks something; answer with
    /// [`AppServer::answer_query`](super::AppServer::answer_query).
    ServerQuery(ServerInbox),
    /// A program that has not logged in asks something; answer with
    /// [`AppServer::answer_query`](super::AppServer::answer_query).
    QueryBeforeLogin {
        /// Its connection.
        conn: ConnId,
        /// Its address.
        addr: SocketAddr,
        /// The application's information type.
        info_type: u32,
        /// The query's id.
        id: u64,
        /// The body, perhaps a part of the chunk it was read into: copy what outlives the turn.
        body: Bytes,
    },
    /// A blob is offered, comes, or goes.
    Blob(BlobEvent),
    /// What became of a query or an acknowledged message of the server's own.
    Outcome {
        /// The id that [`AppServer::send`](super::AppServer::send) gave.
        id: u64,
        /// What became of it.
        outcome: Outcome,
    },
    /// A plain message of the server's own came back. A BOUNCE that comes behind the end of a query or a blob is told as
    /// well: whoever waits for it no more ignores it.
    Bounced {
        /// The message's id.
        id: u64,
        /// Whom it did not reach: a user, a server by its number's two bytes, or a group where none of its members on other
        /// servers was reached for certain.
        to: Vec<u8>,
        /// Why.
        cause: Bounce,
    },
    /// Where the users are that [`AppServer::locate`](super::AppServer::locate) asked for, in the order asked.
    Located {
        /// The number that the caller gave.
        token: u64,
        /// One a user: where, nowhere (`Ok(None)`), or why that can't be told.
        servers: Vec<Result<Option<ServerId>, Bounce>>,
    },
    /// A user wants into a group; answer with [`AppServer::join_verdict`](super::AppServer::join_verdict).
    JoinAsked(JoinRef),
    /// Who is in the group that [`AppServer::list_members`](super::AppServer::list_members) asked for.
    Members {
        /// The number that the caller gave.
        token: u64,
        /// Those that are known.
        members: Members,
    },
    /// A user wants to watch others; answer with [`AppServer::permit`](super::AppServer::permit).
    WatchAsked {
        /// Its connection.
        conn: ConnId,
        /// Its id.
        user: UserId,
        /// The id of its question.
        id: u64,
        /// Whom it wants to watch; at most 100.
        users: Vec<UserId>,
    },
    /// A user that the application watches: how it stands now, where that was not told before or has changed.
    Presence {
        /// Which.
        user: UserId,
        /// Whether it is in, on any server.
        online: bool,
    },
    /// The link to the cluster changed.
    Cluster(ClusterState),
    /// An operator asks the server to send its users to others and to stop.
    DrainAsked,
    /// Memory is short, more so or less so than before.
    Memory(Strain),
    /// A client's connection ended.
    Closed {
        /// Which.
        conn: ConnId,
        /// The other side's address.
        addr: SocketAddr,
        /// Whose it was, or was to be.
        user: Option<UserId>,
        /// Whether that user had been let in.
        was_in: bool,
        /// Why.
        gone: Gone,
        /// In words.
        text: String,
    },
}

/// How a server stands to its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterState {
    /// Registered with the ACMS of this boot number.
    Up {
        /// The ACMS's boot number.
        epoch: u64,
    },
    /// The link was lost, or could not be made; it is dialled again after the pause.
    Down {
        /// Why.
        gone: Gone,
        /// Until the next dial.
        pause: Span,
    },
    /// The ACMS refuses this server for good; it is not dialled again.
    Refused {
        /// Why.
        code: CloseCode,
        /// In the ACMS's words.
        text: String,
    },
}

/// A message or query to the server itself.
#[derive(Debug)]
pub struct Inbox {
    /// The sender's connection.
    pub conn: ConnId,
    /// The sender.
    pub user: UserId,
    /// The application's information type.
    pub info_type: u32,
    /// The message's id.
    pub id: u64,
    /// The message's flags.
    pub flags: Flags,
    /// The body, a part of the chunk it was read into: copy what outlives the turn.
    pub body: Bytes,
}

/// A message or query from a server's application.
#[derive(Debug)]
pub struct ServerInbox {
    /// The sender's information type.
    pub info_type: u32,
    /// The message's id.
    pub id: u64,
    /// The body, perhaps a part of the chunk it was read into: copy what outlives the turn.
    pub body: Bytes,
}

impl ServerInbox {
    /// The server that sent it.
    pub fn from(&self) -> ServerId {
        ServerMessageId::server(self.id)
    }
}

/// What is needed to answer a query, whoever asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QuerySource {
    /// A user of this server.
    User(QueryRef),
    /// A server's application.
    Server {
        /// The query's id, which names that server.
        id: u64,
    },
    /// A program that has not logged in.
    Stranger {
        /// Its connection.
        conn: ConnId,
        /// Its address.
        addr: SocketAddr,
        /// The query's id.
        id: u64,
    },
}

impl QuerySource {
    /// The server that chose the query's id, where one did.
    pub fn server(&self) -> Option<ServerId> {
        match self {
            QuerySource::User(_) | QuerySource::Stranger { .. } => None,
            QuerySource::Server { id } => Some(ServerMessageId::server(*id)),
        }
    }
}

/// What became of a message or query of the server's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver's engine has the message.
    Acked,
    /// The reply to the query; `failed` where the receiver's handler did.
    Replied {
        /// The reply's information type.
        info_type: u32,
        /// Whether the body is the text of a failure.
        failed: bool,
        /// The reply's body.
        body: Bytes,
    },
    /// It came back.
    Bounced(Bounce),
    /// What is known of the user.
    Inspected(Profile),
    /// A page of users.
    Listed(Listed),
    /// No reply came in time.
    TimedOut,
    /// The connection that the query went by was lost before the reply came.
    ConnectionLost,
}

/// What is needed to answer a message that was sent to the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryRef {
    /// The sender's connection.
    pub conn: ConnId,
    /// The sender.
    pub user: UserId,
    /// The message's id.
    pub id: u64,
}

impl Inbox {
    /// What is needed to answer it.
    pub fn reference(&self) -> QueryRef {
        QueryRef { conn: self.conn, user: self.user.clone(), id: self.id }
    }
}
