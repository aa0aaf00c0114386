//! Logins that a server has put to the ACMS and not yet said to have opened.

use std::collections::BTreeMap;

use hashbrown::HashMap;

use crate::id::UserId;
use crate::limits;
use crate::role::{Binding, Entropy, Tenure};

/// Open claims, by user. Each is confirmed by a BIND of its session, or given up by an UNBIND, or ends with its server's
/// tenure: so there are as many as all servers have logins under way, and no more than the bounds whatever they say.
pub(super) struct Claims {
    users: HashMap<UserId, Vec<Binding>, ahash::RandomState>,
    /// How many of those are of each tenure that had one.
    counts: BTreeMap<Tenure, usize>,
}

/// The user, or the server, has too many claims open.
pub(super) struct TooMany;

impl Claims {
    pub(super) fn new(entropy: &mut Entropy) -> Claims {
        Claims { users: HashMap::with_hasher(entropy.hasher()), counts: BTreeMap::new() }
    }

    /// The session wants the user, once more where it did before.
    pub(super) fn open(&mut self, user: UserId, claim: Binding) -> Result<(), TooMany> {
        self.close(user.as_bytes(), claim.tenure, claim.session);
        let count = self.counts.entry(claim.tenure).or_default();
        let of_user = self.users.get(&user).map_or(0, Vec::len);
        if *count >= limits::CLAIMS_OF_SERVER_MAX || of_user >= limits::CLAIMS_OF_USER_MAX {
            return Err(TooMany);
        }
        *count += 1;
        self.users.entry(user).or_default().push(claim);
        Ok(())
    }

    /// That exact claim is open no more. Returns it where it was.
    pub(super) fn close(&mut self, user: &[u8], tenure: Tenure, session: u64) -> Option<Binding> {
        let claims = self.users.get_mut(user)?;
        let place = claims.iter().position(|claim| claim.tenure == tenure && claim.session == session)?;
        let claim = claims.swap_remove(place);
        *self.counts.get_mut(&tenure).expect("an open claim was counted") -= 1;
        if claims.is_empty() {
            self.users.remove(user);
        }
        Some(claim)
    }

    /// Forgets the claims of a tenure that has ended.
    pub(super) fn tenure_ended(&mut self, tenure: Tenure) {
        self.counts.remove(&tenure);
        self.users.retain(|_, claims| {
            claims.retain(|claim| claim.tenure != tenure);
            !claims.is_empty()
        });
    }

    pub(super) fn count(&self) -> usize {
        self.users.values().map(Vec::len).sum()
    }

    /// The user's claims.
    pub(super) fn of(&self, user: &[u8]) -> &[Binding] {
        // Asked for each frame that passes: most of the time nobody is logging in.
        if self.users.is_empty() {
            return &[];
        }
        self.users.get(user).map_or(&[], Vec::as_slice)
    }

    /// The newest of them.
    pub(super) fn newest_of(&self, user: &[u8]) -> Option<&Binding> {
        self.of(user).iter().max_by_key(|claim| (claim.since, claim.tenure, claim.session))
    }
}
