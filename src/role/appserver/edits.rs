//! Memberships that server code changes: of users here, and through the cluster of users elsewhere.

use super::AppServer;
use super::queries::Asked;
use crate::buf::Frame;
use crate::id::{ConnId, GroupId, UserId};
use crate::role::{Fault, Strained};
use crate::time::Time;
use crate::wire::{Bounce, Envelope, Kind, Outgoing};

/// What server code does with a user's membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Puts the user in; the application's rule for joins is not asked.
    Add,
    /// Takes the user out.
    Remove,
}

impl Edit {
    fn to_wire(self) -> u32 {
        match self {
            Edit::Add => 1,
            Edit::Remove => 0,
        }
    }
}

impl AppServer {
    /// Puts a user of any server into a group, or takes it out. Where it is on this server that is done; else the id's
    /// [`Outcome`](super::Outcome) tells, by `ends` at the latest, and at once where the link is lost.
    ///
    /// # Errors
    /// The user is nowhere to be reached, or in too many groups.
    pub fn edit_group(
        &mut self,
        now: Time,
        user: &UserId,
        group: &GroupId,
        edit: Edit,
        ends: Time,
    ) -> Result<Option<u64>, Bounce> {
        let edited = self.edit_group_unclosed(now, user, group, edit, ends);
        self.close_overwhelmed(now);
        edited
    }

    fn edit_group_unclosed(
        &mut self,
        now: Time,
        user: &UserId,
        group: &GroupId,
        edit: Edit,
        ends: Time,
    ) -> Result<Option<u64>, Bounce> {
        if let Some(conn) = self.conn_of(user) {
            return self.edit_here(now, conn, user, group, edit).map(|()| None);
        }
        if self.claims.is_claimed(user.as_bytes()) {
            return Err(Bounce::Retry);
        }
        let up = self.uplink_conn()?;
        if self.queries.is_full() {
            return Err(Bounce::Busy);
        }
        let id = self.next_message();
        let frame = Outgoing {
            info_type: edit.to_wire(),
            id,
            to: user.as_bytes(),
            from: group.as_bytes(),
            ..Outgoing::of(Kind::GroupEdit)
        };
        self.links.send(now, up, &frame).map_err(|_| Bounce::Busy)?;
        self.queries.insert(id, Asked::Membership(user.clone()), ends, Some(up));
        Ok(Some(id))
    }

    fn edit_here(&mut self, now: Time, conn: ConnId, user: &UserId, group: &GroupId, edit: Edit) -> Result<(), Bounce> {
        let is_in = self.groups.is_member(conn, group.as_bytes());
        let edited = match edit {
            Edit::Add if is_in => Ok(()),
            Edit::Add if !self.groups.has_room(conn, group) => return Err(Bounce::Busy),
            Edit::Add => self.enter(now, conn, user, group, 0),
            Edit::Remove if is_in => self.exit(now, conn, user, group, 0),
            Edit::Remove => Ok(()),
        };
        if let Err(fault) = edited {
            self.close(now, conn, &fault);
        }
        Ok(())
    }

    pub(super) fn edit_from_acms(&mut self, now: Time, frame: &Frame<'_>) -> Result<(), Fault> {
        let Envelope { header, to, from } = frame.envelope;
        let group = GroupId::parse(from)?;
        let edit = if header.info_type == Edit::Add.to_wire() { Edit::Add } else { Edit::Remove };
        let edited = match self.users.get(to).copied() {
            Some(conn) => {
                let user = UserId::parse(to)?;
                self.edit_here(now, conn, &user, &group, edit)
            }
            None if self.is_draining() || self.claims.is_claimed(to) => Err(Bounce::Retry),
            None => Err(Bounce::Offline),
        };
        let answer = match edited {
            Ok(()) => Outgoing { id: header.id, from: to, ..Outgoing::of(Kind::Ack) },
            Err(cause) => {
                self.counters.count_bounce(cause);
                Outgoing::bounce(cause, header.id, &[], to)
            }
        };
        self.control_up(now, &answer);
        Ok(())
    }
}
