use crate::id::UserId;
use crate::role::appserver::Friendship;

/// Decides who hears of whose comings and goings.
///
/// It runs where the handler does ([`AppServerBuilder::pool`](super::AppServerBuilder::pool)); with a pool it may block. A
/// panic is caught: the user then has no friends until its next login, or watches nobody of those that it asked for.
pub trait Friends: Send + Sync + 'static {
    /// Whom the user hears of, asked at each of its logins.
    fn friends_of(&self, user: &UserId) -> Friendship;

    /// Whether a client that names a user to watch may.
    fn may_watch(&self, watcher: &UserId, user: &UserId) -> bool;
}

/// Everyone is everyone's friend: for small deployments, since each that comes or goes is as many frames as there are users.
/// At most 1,024 users of a server hear of 8,192 users.
#[derive(Clone, Copy, Debug, Default)]
pub struct Everyone;

impl Friends for Everyone {
    fn friends_of(&self, _user: &UserId) -> Friendship {
        Friendship::Everyone
    }

    fn may_watch(&self, _watcher: &UserId, _user: &UserId) -> bool {
        true
    }
}

/// Nobody has friends, and nobody may watch anybody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nobody;

impl Friends for Nobody {
    fn friends_of(&self, _user: &UserId) -> Friendship {
        Friendship::Users(Vec::new())
    }

    fn may_watch(&self, _watcher: &UserId, _user: &UserId) -> bool {
        false
    }
}
