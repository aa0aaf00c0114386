//! Clients that want to watch users, where the application has not said yet whether they may.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{ConnId, UserId};
use crate::limits;

/// What each client waits for the application's word on. One that is in here is in.
#[derive(Default)]
pub(super) struct Wishes(BTreeMap<ConnId, Asked>);

/// What one client asked.
#[derive(Default)]
struct Asked {
    /// Whom each question names: at most [`limits::WATCH_QUESTIONS_MAX`] of these.
    questions: BTreeMap<u64, Vec<UserId>>,
    /// The same by user, but for those that the client has taken out since.
    wanted: BTreeSet<(UserId, u64)>,
}

impl Wishes {
    /// Questions that are open.
    pub(super) fn count(&self) -> usize {
        self.0.values().map(|asked| asked.questions.len()).sum()
    }

    /// A client asks to watch users. False where it has asked too much that is not answered, or with that id before.
    pub(super) fn begin(&mut self, conn: ConnId, id: u64, users: &[UserId]) -> bool {
        let Asked { questions, wanted } = self.0.entry(conn).or_default();
        let begins = questions.len() < limits::WATCH_QUESTIONS_MAX && !questions.contains_key(&id);
        if begins {
            wanted.extend(users.iter().map(|user| (user.clone(), id)));
            questions.insert(id, users.to_vec());
        }
        begins
    }

    /// Whom the client still wants to watch of those that it asked for; none where there is no such question.
    pub(super) fn end(&mut self, conn: ConnId, id: u64) -> Option<BTreeSet<UserId>> {
        let asked = self.0.get_mut(&conn)?;
        let named = asked.questions.remove(&id)?;
        let wished = named.into_iter().map(|user| (user, id)).filter(|wish| asked.wanted.remove(wish));
        let left = wished.map(|(user, _)| user).collect();
        if asked.questions.is_empty() {
            self.0.remove(&conn);
        }
        Some(left)
    }

    /// A client wants to watch users no more.
    pub(super) fn take_out(&mut self, conn: ConnId, users: &[UserId]) {
        let Some(Asked { wanted, .. }) = self.0.get_mut(&conn) else { return };
        for user in users {
            while let Some(wish) = wanted.range((user.clone(), 0)..=(user.clone(), u64::MAX)).next().cloned() {
                wanted.remove(&wish);
            }
        }
    }

    /// A client has gone.
    pub(super) fn left(&mut self, conn: ConnId) {
        self.0.remove(&conn);
    }
}
