//! The ids of what server code sends and waits for no more: whoever holds a handle gives them out.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::id::ServerId;
use crate::role::appserver::AppServer;
use crate::wire::link::ServerMessageId;

/// Numbers set aside for messages to users and groups, and as many for those to servers: more than a server can send in its
/// life, and half of all that it has, so that the other half is the core's.
const COUNT: u64 = 1 << 46;

/// Ids of plain messages.
#[derive(Debug)]
pub(super) struct PlainIds {
    server: ServerId,
    first: u64,
    to_users: AtomicU64,
    to_servers: AtomicU64,
}

impl PlainIds {
    pub(super) fn new(server: ServerId, core: &mut AppServer) -> PlainIds {
        let first = core.reserve_numbers(2 * COUNT);
        PlainIds { server, first, to_users: AtomicU64::new(first), to_servers: AtomicU64::new(first + COUNT) }
    }

    /// The id of the next message to a user or a group.
    pub(super) fn next_to_user(&self) -> u64 {
        ServerMessageId::compose(self.server, self.to_users.fetch_add(1, Ordering::Relaxed))
    }

    /// The id of the next message to a server.
    pub(super) fn next_to_server(&self) -> u64 {
        ServerMessageId::compose(self.server, self.to_servers.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn is_to_user(&self, id: u64) -> bool {
        self.place_of(id) < COUNT
    }

    pub(super) fn is_to_server(&self, id: u64) -> bool {
        (COUNT..2 * COUNT).contains(&self.place_of(id))
    }

    /// How many numbers came before the id's, which are counted round.
    fn place_of(&self, id: u64) -> u64 {
        let number = |id| ServerMessageId::compose(ServerId(0), id);
        number(id.wrapping_sub(self.first))
    }
}
