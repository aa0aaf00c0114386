//! Which servers have told the ACMS of all their users, as the ACMS's own events say it: whom it may know.

use std::collections::BTreeMap;

use trunkline::id::ServerId;

/// Servers by their boot numbers, liars included.
#[derive(Default)]
pub(crate) struct Members {
    /// Those that are in and have not told of all their users.
    telling: BTreeMap<ServerId, u64>,
    /// World time at which the last of them had, or was lost.
    told_at: u64,
    /// World time at which each server with that boot number had told for the first time.
    first_told: BTreeMap<(ServerId, u64), u64>,
}

impl Members {
    pub(crate) fn registered(&mut self, server: ServerId, incarnation: u64) {
        self.telling.insert(server, incarnation);
    }

    pub(crate) fn synced(&mut self, now: u64, server: ServerId) {
        if let Some(incarnation) = self.telling.remove(&server) {
            self.told_at = now;
            self.first_told.entry((server, incarnation)).or_insert(now);
        }
    }

    pub(crate) fn lost(&mut self, now: u64, server: ServerId) {
        if self.telling.remove(&server).is_some() {
            self.told_at = now;
        }
    }

    pub(crate) fn acms_ended(&mut self) {
        self.telling.clear();
    }

    /// Whether at some time since then who was nowhere might have been on a server that had not told of it.
    pub(crate) fn were_unsure_since(&self, then: u64) -> bool {
        !self.telling.is_empty() || self.told_at >= then
    }

    /// Whether the server, since it has that boot number, had told an ACMS of all its users before that time.
    pub(crate) fn had_told(&self, server: ServerId, incarnation: u64, time: u64) -> bool {
        self.first_told.get(&(server, incarnation)).is_some_and(|at| *at < time)
    }
}
