//! Groups in the conversation: /join, /leave, /say, /members.

use std::io::{self, Write};

use super::{Chat, printable};
use crate::engine::{Message, Pending, Undelivered};
use crate::id::{GroupId, UserId};
use crate::role::client::{JoinFailure, SendError};
use crate::wire::GroupChange;

/// A join whose outcome is awaited.
pub(super) struct Joining {
    group: GroupId,
    pub(super) outcome: Pending<Result<Result<(), JoinFailure>, SendError>>,
}

impl Chat {
    /// Does what a line about a group says; false where it is about none.
    pub(super) fn obey_for_group(&mut self, command: &str, rest: &str, output: &mut impl Write) -> io::Result<bool> {
        if !matches!(command, "/join" | "/leave" | "/say" | "/members") {
            return Ok(false);
        }
        let (name, text) = rest.trim_start().split_once(' ').unwrap_or((rest.trim_start(), ""));
        let group: GroupId = match name.parse() {
            Ok(group) => group,
            Err(error) => {
                writeln!(output, "{command} GROUP: {error}")?;
                return Ok(true);
            }
        };
        let done = match command {
            "/join" => self.client.join(&group).map(|outcome| self.joining = Some(Joining { group, outcome })),
            "/leave" => self.client.leave(&group),
            "/say" => self.say(&group, text),
            _ => self.client.members(&group).map(|pending| self.asked = Some(pending)),
        };
        if let Err(error) = done {
            self.all_delivered = false;
            writeln!(output, "{command}: {error}")?;
        }
        Ok(true)
    }

    fn say(&mut self, group: &GroupId, text: &str) -> Result<(), SendError> {
        self.client.broadcast(group, 0, text.as_bytes().to_vec())?;
        if !self.interactive {
            // What is answered behind it shows that it is with the server before the next line is done, or the last.
            self.asked = Some(self.client.locate(&[])?);
        }
        Ok(())
    }

    pub(super) fn show_join(&mut self, output: &mut impl Write) -> io::Result<()> {
        let Some(Joining { group, outcome }) = self.joining.take() else { return Ok(()) };
        let failure = match outcome.wait() {
            Ok(Ok(Ok(()))) => return writeln!(output, "in group {group}"),
            Ok(Ok(Err(failure))) => failure.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(stopped) => stopped.to_string(),
        };
        self.all_delivered = false;
        writeln!(output, "not in group {group}: {failure}")
    }

    pub(super) fn show_group_message(
        &mut self,
        group: &GroupId,
        message: &Message,
        output: &mut impl Write,
    ) -> io::Result<()> {
        let from = message.from.as_ref().map_or("the server", UserId::as_str);
        writeln!(output, "[{group}] {from}: {}", printable(&message.body))
    }

    /// What is plainly sent here is said to a group: a member, or in the group's name all whom nobody can tell.
    pub(super) fn show_undelivered(
        &mut self,
        to: &UserId,
        cause: Undelivered,
        output: &mut impl Write,
    ) -> io::Result<()> {
        self.all_delivered = false;
        writeln!(output, "{to}: {cause}")
    }

    pub(super) fn show_member(
        &mut self,
        group: &GroupId,
        user: &UserId,
        change: GroupChange,
        output: &mut impl Write,
    ) -> io::Result<()> {
        match change {
            GroupChange::Joined => writeln!(output, "[{group}] {user} joined"),
            GroupChange::Left => writeln!(output, "[{group}] {user} left"),
            GroupChange::Offline => writeln!(output, "[{group}] {user} went offline"),
        }
    }
}
