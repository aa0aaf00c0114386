//! Time as a number, and the deadlines of a whole process.
//!
//! The cores never read a clock: the reactor (or the simulator) tells them the time, which only grows.

use std::ops::{Add, AddAssign, Sub};

/// A moment: microseconds since the process's reactor started, on a monotonic clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(u64);

/// A length of time, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(u64);

impl Time {
    /// The start of the process's clock.
    pub const ZERO: Time = Time(0);
    /// Later than any deadline.
    pub const NEVER: Time = Time(u64::MAX);

    /// The moment `micros` microseconds after the start.
    pub const fn from_micros(micros: u64) -> Time {
        Time(micros)
    }

    /// Microseconds since the start.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; nothing where it is not after it.
    pub fn since(self, earlier: Time) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Span> for Time {
    type Output = Time;
    fn add(self, span: Span) -> Time {
        Time(self.0.saturating_add(span.0))
    }
}

impl AddAssign for Span {
    fn add_assign(&mut self, more: Span) {
        self.0 += more.0;
    }
}

impl Sub<Span> for Time {
    type Output = Time;
    fn sub(self, span: Span) -> Time {
        Time(self.0.saturating_sub(span.0))
    }
}

impl Span {
    /// A span of microseconds.
    pub const fn from_micros(micros: u64) -> Span {
        Span(micros)
    }

    /// A span of milliseconds.
    pub const fn from_millis(millis: u64) -> Span {
        Span(millis.saturating_mul(1_000))
    }

    /// A span of seconds.
    pub const fn from_secs(secs: u64) -> Span {
        Span(secs.saturating_mul(1_000_000))
    }

    /// The span in microseconds.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// The span in whole milliseconds, rounded down.
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000
    }

    /// The span as the standard library's type.
    pub const fn to_duration(self) -> std::time::Duration {
        std::time::Duration::from_micros(self.0)
    }
}

impl From<std::time::Duration> for Span {
    fn from(duration: std::time::Duration) -> Span {
        Span(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
    }
}

/// Microseconds that one slot of the wheel spans: deadlines are met this late at most.
const SLOT_MICROS: u64 = 16_384;
const SLOTS: usize = 1024;

/// A timer wheel: deadlines of thousands of connections, each set and met in constant time.
///
/// An entry can't be taken back; who set it checks, when it comes due, whether it still means anything. A deadline
/// further away than the wheel's turn (16.7 s) waits in the last slot and is put back when that comes round.
pub struct Wheel<T> {
    slots: Vec<Vec<(Time, T)>>,
    /// One bit a slot: whether it holds anything.
    occupied: [u64; SLOTS / 64],
    /// The slot number (since the start, not taken round) before which all is met.
    cursor: u64,
    /// The first slot that holds anything; asked for several times a turn.
    first: Option<u64>,
}

impl<T: Copy> Default for Wheel<T> {
    fn default() -> Wheel<T> {
        Wheel { slots: (0..SLOTS).map(|_| Vec::new()).collect(), occupied: [0; SLOTS / 64], cursor: 0, first: None }
    }
}

impl<T: Copy> Wheel<T> {
    /// Entries that wait, whether they still mean anything or not.
    #[cfg(test)]
    pub(crate) fn entries(&self) -> usize {
        self.slots.iter().map(Vec::len).sum()
    }

    /// Sets a deadline. One in the past is met at the next [`Wheel::expired`].
    pub fn set(&mut self, at: Time, item: T) {
        let slot = (at.0.div_ceil(SLOT_MICROS)).clamp(self.cursor, self.cursor + SLOTS as u64 - 1);
        let index = (slot % SLOTS as u64) as usize;
        self.slots[index].push((at, item));
        self.occupied[index / 64] |= 1 << (index % 64);
        self.first = Some(self.first.map_or(slot, |first| first.min(slot)));
    }

    /// The moment by which [`Wheel::expired`] must be called next; none where nothing is set.
    pub fn next(&self) -> Option<Time> {
        self.first.map(|slot| Time(slot * SLOT_MICROS))
    }

    /// Looks for the first slot that holds anything.
    fn find_first(&self) -> Option<u64> {
        let start = (self.cursor % SLOTS as u64) as usize;
        let words = SLOTS / 64;
        for step in 0..=words {
            let word = (start / 64 + step) % words;
            let mut bits = self.occupied[word];
            if step == 0 {
                bits &= u64::MAX << (start % 64);
            } else if step == words {
                bits &= !(u64::MAX << (start % 64));
            }
            if bits != 0 {
                let index = word * 64 + bits.trailing_zeros() as usize;
                let ahead = (index + SLOTS - start) % SLOTS;
                return Some(self.cursor + ahead as u64);
            }
        }
        None
    }

    /// Takes what is due at `now` into `due`, oldest slot first and within a slot in the order set.
    pub fn expired(&mut self, now: Time, due: &mut Vec<T>) {
        let last = now.0 / SLOT_MICROS;
        let mut early = Vec::new();
        while let Some(slot) = self.first.filter(|slot| *slot <= last) {
            let index = (slot % SLOTS as u64) as usize;
            self.occupied[index / 64] &= !(1 << (index % 64));
            for (at, item) in self.slots[index].drain(..) {
                if at <= now { due.push(item) } else { early.push((at, item)) }
            }
            self.first = self.find_first();
        }
        self.cursor = self.cursor.max(last + 1);
        for (at, item) in early {
            self.set(at, item);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_until(wheel: &mut Wheel<u32>, end: Time) -> Vec<(u64, u32)> {
        let mut met = Vec::new();
        let mut due = Vec::new();
        while let Some(at) = wheel.next().filter(|at| *at <= end) {
            wheel.expired(at, &mut due);
            met.extend(due.drain(..).map(|item| (at.as_micros(), item)));
        }
        met
    }

    #[test]
    fn each_deadline_is_met_once_and_no_earlier() {
        let mut wheel = Wheel::default();
        let mut rng = fastrand::Rng::with_seed(1);
        let mut set: Vec<u64> = (0..500).map(|_| rng.u64(0..60_000_000)).collect();
        for (item, at) in set.iter().enumerate() {
            wheel.set(Time(*at), item as u32);
        }
        let met = run_until(&mut wheel, Time::from_micros(70_000_000));
        assert_eq!(met.len(), set.len());
        for (at, item) in &met {
            let wanted = set[*item as usize];
            assert!(*at >= wanted && *at <= wanted + SLOT_MICROS, "{item} set for {wanted} met at {at}");
        }
        set.clear();
        assert_eq!(wheel.next(), None);
    }

    #[test]
    fn a_clock_that_leaps_meets_everything_due() {
        let mut wheel = Wheel::default();
        for item in 0..100u32 {
            wheel.set(Time::from_micros(u64::from(item) * 1_000_000), item);
        }
        let mut due = Vec::new();
        wheel.expired(Time::from_micros(50_000_000), &mut due);
        due.sort_unstable();
        assert_eq!(due, (0..=50).collect::<Vec<_>>());
        wheel.set(Time::ZERO, 1000);
        due.clear();
        wheel.expired(wheel.next().expect("one is set"), &mut due);
        assert_eq!(due, [1000]);
    }
}
