use crate::limits::{REDIAL_MAX, REDIAL_MIN};
use crate::time::Span;

/// Pauses between dials: each twice the last, up to a bound, and drawn between half and all of that, so that those who
/// lost the same server do not come back at the same moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The pause after one more failure.
    pub fn next(&mut self, rng: &mut fastrand::Rng) -> Span {
        let longest = REDIAL_MIN.as_micros().checked_shl(self.failures.min(32)).unwrap_or(u64::MAX);
        let longest = longest.min(REDIAL_MAX.as_micros());
        self.failures = self.failures.saturating_add(1);
        Span::from_micros(rng.u64(longest / 2..=longest))
    }

    /// A dial succeeded.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_bound_and_differ() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut backoff = Backoff::default();
        for failure in 0..100 {
            let longest = (100u64 << failure.min(20)).min(5_000);
            let pause = backoff.next(&mut rng).as_millis();
            assert!((longest / 2..=longest).contains(&pause), "{pause} ms after {failure}");
        }
        let last: Vec<_> = (0..10).map(|_| backoff.next(&mut rng)).collect();
        assert!(last.windows(2).any(|pair| pair[0] != pair[1]));
        backoff.reset();
        assert!(backoff.next(&mut rng).as_millis() <= 100);
    }
}
