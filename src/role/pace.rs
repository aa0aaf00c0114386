use crate::limits::{RETURN_MAX, RETURN_MIN};
use crate::time::{Span, Time};

/// Lets so many in a second, and tells those that come too soon when to come again: one after the other, at the same rate.
/// No place is kept for them: who comes meanwhile may be let in first.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Between two that are let in; none where all are.
    interval: Option<Span>,
    /// Until when those that were let in last.
    taken_until: Time,
    /// Until when those that were sent away will have come back.
    returns_until: Time,
}

/// As many as come in this time at the full rate may come at once.
const BURST: Span = Span::from_secs(1);

impl Pace {
    /// Lets `per_second` in; 0 for all.
    pub fn new(per_second: u32) -> Pace {
        let interval = 1_000_000u64.checked_div(per_second.into()).map(|micros| Span::from_micros(micros.max(1)));
        Pace { interval, taken_until: Time::ZERO, returns_until: Time::ZERO }
    }

    /// One comes. Where it is too soon, the error is how long it is to wait.
    pub fn admit(&mut self, now: Time, rng: &mut fastrand::Rng) -> Result<(), Span> {
        let Some(interval) = self.interval else { return Ok(()) };
        if self.taken_until < now + BURST {
            self.taken_until = self.taken_until.max(now) + interval;
            return Ok(());
        }
        self.returns_until = (self.returns_until.max(now + RETURN_MIN) + interval).min(now + RETURN_MAX);
        let queued = self.returns_until.since(now).as_micros();
        Err(Span::from_micros(rng.u64(queued..=queued + queued / 4)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everyone comes at once, and again when they were told to; returns how many were let in by when.
    fn storm(per_second: u32, count: usize) -> Vec<u64> {
        let mut rng = fastrand::Rng::with_seed(5);
        let mut pace = Pace::new(per_second);
        let mut coming = std::collections::BTreeSet::from_iter((0..count).map(|number| (Time::ZERO, number)));
        let mut let_in = Vec::new();
        while let Some((now, number)) = coming.pop_first() {
            match pace.admit(now, &mut rng) {
                Ok(()) => let_in.push(now.as_micros()),
                Err(wait) => {
                    coming.insert((now + wait, number));
                }
            }
        }
        let_in
    }

    #[test]
    fn those_who_come_at_once_are_in_after_their_number_over_the_rate() {
        let let_in = storm(2_000, 20_000);
        assert_eq!(let_in.len(), 20_000);
        assert_eq!(let_in.iter().filter(|at| **at == 0).count(), 2_000, "a second's worth at once");
        let last = let_in.last().expect("they are in");
        assert!((9_000_000..14_000_000).contains(last), "the last came in at {last} us");
        for second in 1..10u64 {
            let range = second * 1_000_000..(second + 1) * 1_000_000;
            let count = let_in.iter().filter(|at| range.contains(at)).count();
            assert!((1_000..=4_000).contains(&count), "{count} in second {second}");
        }
    }

    #[test]
    fn nobody_is_sent_away_for_longer_than_the_bound_however_many_come() {
        let mut rng = fastrand::Rng::with_seed(6);
        let mut pace = Pace::new(1);
        let waits = (0..1_000).filter_map(|_| pace.admit(Time::ZERO, &mut rng).err()).collect::<Vec<_>>();
        assert_eq!(waits.len(), 999);
        let longest = RETURN_MAX.as_micros() + RETURN_MAX.as_micros() / 4;
        assert!(waits.iter().all(|wait| (RETURN_MIN.as_micros()..=longest).contains(&wait.as_micros())));
        assert!(waits[990..].windows(2).any(|pair| pair[0] != pair[1]), "all come back at the same moment");
    }

    #[test]
    fn without_a_rate_everyone_comes_in() {
        assert_eq!(storm(0, 5_000), vec![0; 5_000]);
    }
}
