//! Server code's part in groups.

use super::AppServer;
use crate::engine::groups::{EditOutcome, GroupCommand};
use crate::engine::resolve;
use crate::limits;
use crate::role::appserver::{Members, Outcome};
use crate::role::client::QueryFailure;
use crate::time::Time;

impl AppServer {
    pub(super) fn obey_for_group(&mut self, now: Time, command: GroupCommand) {
        match command {
            GroupCommand::Edit { user, group, edit, outcome } => {
                match self.core.edit_group(now, &user, &group, edit, now + limits::LOOKUP_TIMEOUT) {
                    Ok(None) => resolve(&outcome, Ok(())),
                    Ok(Some(id)) => drop(self.edits.insert(id, outcome)),
                    Err(cause) => resolve(&outcome, Err(QueryFailure::Bounced(cause))),
                }
            }
            GroupCommand::Broadcast { group, flags, info_type, body } => {
                if let Err(cause) = self.core.broadcast(now, &group, flags, info_type, &body) {
                    log::debug!("a message of the server's own to the group {group} did not go everywhere: {cause}");
                }
            }
            GroupCommand::Members { group, outcome } => {
                self.lookup_tokens += 1;
                self.rosters.insert(self.lookup_tokens, outcome);
                self.core.list_members(now, self.lookup_tokens, group);
            }
        }
    }

    /// Whether the outcome was that of a membership that server code changed.
    pub(super) fn settle_edit(&mut self, id: u64, outcome: &Outcome) -> bool {
        let Some(sender) = self.edits.remove(&id) else { return false };
        let settled: EditOutcome = match outcome {
            Outcome::Acked | Outcome::Replied { .. } => Ok(()),
            Outcome::Bounced(cause) => Err(QueryFailure::Bounced(*cause)),
            Outcome::TimedOut => Err(QueryFailure::TimedOut),
            Outcome::ConnectionLost => Err(QueryFailure::ConnectionLost),
        };
        resolve(&sender, settled);
        true
    }

    pub(super) fn members_known(&mut self, token: u64, members: Members) {
        if let Some(outcome) = self.rosters.remove(&token) {
            resolve(&outcome, members);
        }
    }
}
