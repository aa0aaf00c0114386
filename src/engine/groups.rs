//! Groups, as server code sees them.

use crossbeam_channel::Sender;

use super::Pending;
use super::handle::{Command, Overloaded, ServerHandle};
use crate::id::{GroupId, UserId};
use crate::role::Members;
use crate::role::appserver::Edit;
use crate::role::client::QueryFailure;
use crate::wire::Flags;

/// Decides who may join which group. It is not asked for those whom server code puts in.
///
/// It runs where the handler does: in the reactor, where the time it takes is everybody's, or on the pool. A panic is
/// caught; the join is then refused DENIED.
pub trait Groups: Send + Sync + 'static {
    /// Whether the user may join the group.
    fn may_join(&self, user: &UserId, group: &GroupId) -> bool;
}

impl<F: Fn(&UserId, &GroupId) -> bool + Send + Sync + 'static> Groups for F {
    fn may_join(&self, user: &UserId, group: &GroupId) -> bool {
        self(user, group)
    }
}

pub(super) type EditOutcome = Result<(), QueryFailure>;

/// What server code does with a group.
pub(crate) enum GroupCommand {
    Edit { user: UserId, group: GroupId, edit: Edit, outcome: Sender<EditOutcome> },
    Broadcast { group: GroupId, flags: Flags, info_type: u32, body: Vec<u8>, id: u64 },
    Members { group: GroupId, outcome: Sender<Members> },
}

impl ServerHandle {
    /// Puts a user, on whichever server, into a group; nobody is asked whether it may. Its program hears of it, and
    /// so do the members. Resolved once: done, or why not; after 3 s at the latest.
    pub fn add_to_group(&self, user: &UserId, group: &GroupId) -> Result<Pending<EditOutcome>, Overloaded> {
        self.edit_group(user, group, Edit::Add)
    }

    /// Takes a user, on whichever server, out of a group. Resolved as [`ServerHandle::add_to_group`].
    pub fn remove_from_group(&self, user: &UserId, group: &GroupId) -> Result<Pending<EditOutcome>, Overloaded> {
        self.edit_group(user, group, Edit::Remove)
    }

    fn edit_group(&self, user: &UserId, group: &GroupId, edit: Edit) -> Result<Pending<EditOutcome>, Overloaded> {
        let (user, group) = (user.clone(), group.clone());
        self.commands.ask(|outcome| Command::Group(GroupCommand::Edit { user, group, edit, outcome }))
    }

    /// Says something to all members of a group, on every server, at most once each. Each that it does not reach is told to
    /// [`Handler::on_undelivered`](super::Handler::on_undelivered) with the id.
    pub fn broadcast(&self, group: &GroupId, info_type: u32, body: Vec<u8>) -> Result<u64, Overloaded> {
        self.broadcast_with(group, Flags::NONE, info_type, body)
    }

    /// As [`ServerHandle::broadcast`]; the message may be dropped behind slow members.
    pub fn broadcast_droppable(&self, group: &GroupId, info_type: u32, body: Vec<u8>) -> Result<u64, Overloaded> {
        self.broadcast_with(group, Flags::DROPPABLE, info_type, body)
    }

    fn broadcast_with(&self, group: &GroupId, flags: Flags, info_type: u32, body: Vec<u8>) -> Result<u64, Overloaded> {
        let (group, id) = (group.clone(), self.ids.next_to_user());
        self.command(Command::Group(GroupCommand::Broadcast { group, flags, info_type, body, id }))?;
        Ok(id)
    }

    /// Who is in a group, on every server; after 3 s what is known by then. At most 4,096 are named.
    pub fn members(&self, group: &GroupId) -> Result<Pending<Members>, Overloaded> {
        self.commands.ask(|outcome| Command::Group(GroupCommand::Members { group: group.clone(), outcome }))
    }
}
