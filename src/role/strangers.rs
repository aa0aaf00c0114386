use crate::id::ConnId;

/// The connections that may say who they are: so many of those that have not, and of the others those that came lately.
///
/// Where there are too many, one chosen at random leaves: whoever floods a port with connections that say nothing can't
/// tell which, and one that says who it is soon most likely stays.
pub struct Strangers {
    conns: Vec<ConnId>,
    max: usize,
}

impl Strangers {
    /// At most `max` strangers at a time.
    pub fn new(max: usize) -> Strangers {
        Strangers { conns: Vec::new(), max }
    }

    /// One came. Who must leave for it, where somebody must.
    pub fn admit(
        &mut self,
        conn: ConnId,
        rng: &mut fastrand::Rng,
        is_stranger: impl Fn(ConnId) -> bool,
    ) -> Option<ConnId> {
        let leaves = if self.conns.len() < self.max {
            None
        } else {
            let place = rng.usize(..self.conns.len());
            Some(self.conns.swap_remove(place)).filter(|conn| is_stranger(*conn))
        };
        self.conns.push(conn);
        leaves
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn conn(index: u32) -> ConnId {
        ConnId { index, generation: 0 }
    }

    #[test]
    fn who_leaves_is_a_stranger_and_cannot_be_foretold() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut strangers = Strangers::new(100);
        let mut here = BTreeSet::new();
        let mut left = Vec::new();
        for index in 0..1_000 {
            // Every third says who it is.
            let is_stranger = |conn: ConnId| !conn.index.is_multiple_of(3);
            let leaves = strangers.admit(conn(index), &mut rng, is_stranger);
            here.insert(conn(index));
            if let Some(leaves) = leaves {
                assert!(is_stranger(leaves) && here.remove(&leaves), "{leaves} leaves");
                left.push(leaves);
            }
            let count = here.iter().filter(|conn| is_stranger(**conn)).count();
            assert!(count <= 100, "{count} strangers");
        }
        assert!(!left.is_sorted(), "the oldest leave first");
    }
}
