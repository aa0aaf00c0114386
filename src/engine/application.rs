//! What an application brings: who is let in, and what becomes of messages.

use std::net::SocketAddr;

use super::{IncomingBlob, Responder, ServerHandle};
use crate::id::{ServerId, UserId};
use crate::role::Gone;
use crate::role::appserver::ClusterState;
use crate::wire::{Bounce, Login};

/// A login that the application looks at.
#[derive(Clone, Debug)]
pub struct LoginRequest {
    /// Who wants in.
    pub user: UserId,
    /// Password, token, device, program.
    pub login: Login,
    /// From where.
    pub addr: SocketAddr,
}

/// Why a user is not let in: the text that its client shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(pub String);

/// Decides who may log in.
///
/// It runs in the reactor, where the time it takes is everybody's; with
/// [`AppServerBuilder::pool`](super::AppServerBuilder::pool) it runs beside and may block. A panic is caught; the login
/// is then closed INTERNAL.
pub trait Authenticator: Send + Sync + 'static {
    /// Lets the user in, or says why not.
    fn check(&self, request: &LoginRequest) -> Result<(), Refusal>;
}

/// Lets everyone in.
#[derive(Clone, Copy, Debug, Default)]
pub struct AnyUser;

impl Authenticator for AnyUser {
    fn check(&self, _request: &LoginRequest) -> Result<(), Refusal> {
        Ok(())
    }
}

impl<F: Fn(&LoginRequest) -> Result<(), Refusal> + Send + Sync + 'static> Authenticator for F {
    fn check(&self, request: &LoginRequest) -> Result<(), Refusal> {
        self(request)
    }
}

/// A message or query that a user sent to the server itself.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'a> {
    /// Who sent it.
    pub from: &'a UserId,
    /// The application's information type.
    pub info_type: u32,
    /// The body.
    pub body: &'a [u8],
    /// Whether more fragments with the same id follow.
    pub more: bool,
    /// The sender's id for it.
    pub id: u64,
}

/// A query of a program that has not logged in.
#[derive(Clone, Copy, Debug)]
pub struct Unnamed<'a> {
    /// From where.
    pub addr: SocketAddr,
    /// The application's information type.
    pub info_type: u32,
    /// The body, at most 4,080 bytes.
    pub body: &'a [u8],
}

/// The handler does not take a message: its sender gets BOUNCE(DENIED).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denied;

/// What the application does with its users and their messages to the server.
///
/// Messages between users are none of its business: they pass without it. Calls come in the order of what caused them,
/// for each user and each server; with a pool, those of different threads are served side by side. A panic is caught: a message is then
/// bounced DENIED, a query answered with an error.
pub trait Handler: Send + Sync + 'static {
    /// A user is in.
    fn on_login(&self, _server: &ServerHandle, _user: &UserId) {}

    /// A user is out.
    fn on_logout(&self, _server: &ServerHandle, _user: &UserId, _gone: Gone) {}

    /// A user sent the server a message.
    fn on_message(&self, _server: &ServerHandle, _message: &Incoming<'_>) -> Result<(), Denied> {
        Err(Denied)
    }

    /// A user asks the server something. The answer may be given here, or later and elsewhere; dropping `reply` answers
    /// with an error.
    fn on_query(&self, _server: &ServerHandle, _query: &Incoming<'_>, reply: Responder) {
        reply.decline();
    }

    /// Another server's application, or this one's own, sent a message.
    fn on_server_message(&self, _server: &ServerHandle, _from: ServerId, _info_type: u32, _body: &[u8]) {}

    /// Another server's application, or this one's own, asks something.
    fn on_server_query(
        &self,
        _server: &ServerHandle,
        _from: ServerId,
        _info_type: u32,
        _body: &[u8],
        reply: Responder,
    ) {
        reply.decline();
    }

    /// A program that has not logged in asks something: to register, say. Asked only where
    /// [`AppServerBuilder::queries_before_login`](super::AppServerBuilder::queries_before_login) says so, by one query at a
    /// time of each connection and within its time to log in. Anyone may ask.
    fn on_query_before_login(&self, _server: &ServerHandle, _query: &Unnamed<'_>, reply: Responder) {
        reply.decline();
    }

    /// A user wants to send the server a blob, or one that was accepted comes on, is there, or will not come. An offer that
    /// is dropped is refused.
    fn on_blob(&self, _server: &ServerHandle, _blob: IncomingBlob) {}

    /// A user that the server's code watches ([`ServerHandle::watch`], [`ServerHandle::watch_everyone`]) came or went, on
    /// whatever server: [`ServerHandle::locate`] says which it is in on. Behind a handler that is slow only the
    /// last change of a user is told, and may be none.
    fn on_presence(&self, _server: &ServerHandle, _user: &UserId, _online: bool) {}

    /// A message that server code sent with [`ServerHandle::send`], [`ServerHandle::broadcast`] or
    /// [`ServerHandle::send_to_server`], which gave its `id`, did not reach its receiver: `to`, or none where that was a
    /// server. Of a broadcast it is each member that it did not reach, or the group's own name: then
    /// members on some server, or all of them, may lack it. One that was dropped for its DROPPABLE is not told of; nor is
    /// one, with a pool, whose thread has too much to do.
    fn on_undelivered(&self, _server: &ServerHandle, _to: Option<&UserId>, _id: u64, _cause: Bounce) {}

    /// The link to the cluster changed.
    fn on_cluster(&self, _server: &ServerHandle, _state: &ClusterState) {}
}
