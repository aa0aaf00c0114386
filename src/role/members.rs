use std::collections::BTreeMap;

use crate::id::{ServerId, UserId};
use crate::limits;
use crate::role::Fault;
use crate::wire::CloseCode;
use crate::wire::link::UserList;

/// The members of a group, each with its server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// In the order of their ids; at most [`limits::GROUP_MEMBERS_TOLD_MAX`].
    pub users: BTreeMap<UserId, ServerId>,
    /// Whether these are all: every server with members has told all of its own, in time.
    pub complete: bool,
}

impl Members {
    /// Names a user; past the bound the list is not complete.
    pub(super) fn add(&mut self, user: UserId, server: ServerId) {
        if self.users.len() < limits::GROUP_MEMBERS_TOLD_MAX {
            self.users.insert(user, server);
        } else {
            self.complete &= self.users.contains_key(&user);
        }
    }

    /// Names those that a server tells of, in the body of its GROUP_MEMBERS_ARE.
    pub(super) fn add_told(&mut self, server: ServerId, mut body: &[u8]) -> Result<(), Fault> {
        while !body.is_empty() {
            let (user, rest) = UserList::split_first(body)
                .ok_or_else(|| Fault::new(CloseCode::BAD_FIELD, "a GROUP_MEMBERS_ARE is cut short"))?;
            self.add(UserId::parse(user)?, server);
            body = rest;
        }
        Ok(())
    }
}
