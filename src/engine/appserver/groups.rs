//! Server code's part in groups.

use super::AppServer;
use crate::engine::groups::GroupCommand;
use crate::engine::outcomes::Waiting;
use crate::engine::resolve;
use crate::id::UserId;
use crate::limits;
use crate::role::Members;
use crate::time::Time;

impl AppServer {
    pub(super) fn obey_for_group(&mut self, now: Time, command: GroupCommand) {
        match command {
            GroupCommand::Edit { user, group, edit, outcome } => {
                match self.core.edit_group(now, &user, &group, edit, now + limits::LOOKUP_TIMEOUT).transpose() {
                    None => resolve(&outcome, Ok(())),
                    Some(sent) => self.await_outcome(sent, Waiting::Delivery(outcome)),
                }
            }
            GroupCommand::Broadcast { group, flags, info_type, body, id } => {
                if let Err(cause) = self.core.broadcast_as(now, id, &group, flags, info_type, &body) {
                    self.undelivered(UserId::parse(group.as_bytes()).ok(), id, cause);
                }
            }
            GroupCommand::Members { group, outcome } => {
                self.lookup_tokens += 1;
                self.rosters.insert(self.lookup_tokens, outcome);
                self.core.list_members(now, self.lookup_tokens, group);
            }
        }
    }

    pub(super) fn members_known(&mut self, token: u64, members: Members) {
        if let Some(outcome) = self.rosters.remove(&token) {
            resolve(&outcome, members);
        }
    }
}
