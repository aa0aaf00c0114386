//! How many bytes the connections of a process hold, and what that asks for.
//!
//! What is counted is what waits: send queues, and the starts of frames whose ends have not come. Both are bounded for
//! each connection; this bounds them for all together, so that many slow connections do not end the process.

use std::ops::Range;

use crate::limits;
use crate::time::Time;

/// How short memory is; each state asks for all that those before it ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// There is room.
    #[default]
    Normal,
    /// Nobody is let in who is not in.
    NoNewLogins,
    /// Clients are not read from; between servers what finds its receiver's queue not empty is bounced.
    SendersPaused,
    /// The slowest connections are closed, one after the other.
    Shedding,
}

/// A state and what led to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strain {
    /// The state.
    pub health: Health,
    /// Bytes held.
    pub held: usize,
    /// Bytes that may be held.
    pub max: usize,
}

/// What all links of a process hold, kept up with each change.
pub struct Memory {
    /// In send queues.
    queued: usize,
    /// In frames that are not complete.
    carried: usize,
    max: usize,
    health: Health,
    /// As long as what is held stays in here, so does `health`.
    stays: Range<usize>,
    /// The state that the role knows of.
    told: Health,
    /// When senders will have been paused for so long that the slowest go, whatever is held; `NEVER` while they are not.
    patience_ends: Time,
}

impl Health {
    /// What is held while the state stays as it is, of `max` bytes. The ranges overlap, so that it does not flicker.
    fn stays(self, max: usize) -> Range<usize> {
        let percent = |part: usize| max / 100 * part;
        match self {
            Health::Normal => 0..percent(limits::MEMORY_NO_LOGINS_PERCENT),
            Health::NoNewLogins => percent(limits::MEMORY_LOGINS_PERCENT)..percent(limits::MEMORY_PAUSE_PERCENT),
            Health::SendersPaused => percent(limits::MEMORY_RESUME_PERCENT)..percent(limits::MEMORY_SHED_PERCENT),
            Health::Shedding => percent(limits::MEMORY_SHED_TO_PERCENT)..usize::MAX,
        }
    }

    fn worse(self) -> Health {
        match self {
            Health::Normal => Health::NoNewLogins,
            Health::NoNewLogins => Health::SendersPaused,
            Health::SendersPaused | Health::Shedding => Health::Shedding,
        }
    }

    fn better(self) -> Health {
        match self {
            Health::Normal | Health::NoNewLogins => Health::Normal,
            Health::SendersPaused => Health::NoNewLogins,
            Health::Shedding => Health::SendersPaused,
        }
    }

    /// Whether clients are not read from.
    pub fn pauses_senders(self) -> bool {
        self >= Health::SendersPaused
    }
}

impl Memory {
    /// Of which `max` bytes may be held; `usize::MAX` for no bound.
    pub(crate) fn new(max: usize) -> Memory {
        assert!(max >= 100, "percents of {max} bytes can be told apart");
        let (health, stays) = (Health::Normal, Health::Normal.stays(max));
        Memory { queued: 0, carried: 0, max, health, stays, told: health, patience_ends: Time::NEVER }
    }

    /// Bytes that may be held.
    pub fn max(&self) -> usize {
        self.max
    }

    /// Bytes held.
    pub fn held(&self) -> usize {
        self.queued + self.carried
    }

    /// Whether holding so many bytes more would have somebody closed.
    pub fn is_shed_by(&self, bytes: usize) -> bool {
        self.held() + bytes >= Health::SendersPaused.stays(self.max).end
    }

    /// Bytes in send queues.
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// How short memory is.
    pub fn health(&self) -> Health {
        self.health
    }

    /// Whether clients are not read from. Asked of the state that the role knows of: who is paused for it is heard
    /// again when the role is told of a better one, and of a strain that came and went between two turns it is never
    /// told.
    pub(crate) fn pauses_senders(&self) -> bool {
        self.told.pauses_senders()
    }

    /// Bytes in frames that are not complete.
    pub(crate) fn carried(&self) -> usize {
        self.carried
    }

    /// A send queue went from so many bytes to so many.
    #[inline]
    pub(crate) fn note_queued(&mut self, before: usize, after: usize) {
        self.queued = self.queued - before + after;
        self.weigh();
    }

    /// An incomplete frame went from so many bytes to so many.
    #[inline]
    pub(crate) fn note_carried(&mut self, before: usize, after: usize) {
        self.carried = self.carried - before + after;
        self.weigh();
    }

    #[inline]
    fn weigh(&mut self) {
        let held = self.held();
        while !self.stays.contains(&held) {
            self.health = if held < self.stays.start { self.health.better() } else { self.health.worse() };
            self.stays = self.health.stays(self.max);
        }
    }

    /// Bytes that are to go at once.
    pub(crate) fn excess(&self, now: Time) -> usize {
        let target = match self.health {
            Health::Normal | Health::NoNewLogins => return 0,
            Health::SendersPaused | Health::Shedding if now >= self.patience_ends => Health::SendersPaused,
            Health::SendersPaused => return 0,
            Health::Shedding => Health::Shedding,
        };
        self.held() + 1 - target.stays(self.max).start
    }

    /// When the role must look at it next; at once while some are to go.
    pub(crate) fn deadline(&self) -> Time {
        if self.health == self.told && self.health < Health::Shedding { self.patience_ends } else { Time::ZERO }
    }

    /// The state where the role does not know of it; it does then.
    pub(crate) fn tell(&mut self, now: Time) -> Option<Strain> {
        if self.health == self.told {
            return None;
        }
        if !self.health.pauses_senders() {
            self.patience_ends = Time::NEVER;
        } else if !self.told.pauses_senders() {
            self.patience_ends = now + limits::MEMORY_PATIENCE;
        }
        self.told = self.health;
        Some(Strain { health: self.health, held: self.held(), max: self.max })
    }
}

impl std::fmt::Display for Strain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Strain { health, held, max } = self;
        let state = match health {
            Health::Normal => "there is room again",
            Health::NoNewLogins => "nobody new is let in",
            Health::SendersPaused => "senders are held back",
            Health::Shedding => "the slowest are closed",
        };
        write!(f, "memory: {state}, {held} of {max} bytes held")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_is_entered_and_left_at_its_own_mark() {
        let mut memory = Memory::new(10_000);
        let mut at = 0;
        let mut health_at = |held: usize| {
            memory.note_queued(at, held);
            at = held;
            memory.health()
        };
        use Health::{NoNewLogins, Normal, SendersPaused, Shedding};
        let up = [(6_999, Normal), (7_000, NoNewLogins), (8_499, NoNewLogins), (8_500, SendersPaused)];
        let top = [(9_499, SendersPaused), (9_500, Shedding), (8_500, Shedding), (8_499, SendersPaused)];
        let down = [(7_000, SendersPaused), (6_999, NoNewLogins), (6_000, NoNewLogins), (5_999, Normal)];
        let leaps = [(20_000, Shedding), (0, Normal), (9_000, SendersPaused), (6_500, NoNewLogins)];
        for (held, health) in [up, top, down, leaps].concat() {
            assert_eq!(health_at(held), health, "at {held}");
        }
    }
}
