//! How fast a client may send.

use crate::limits;
use crate::time::{Span, Time};

/// What a client may send on average; 0 is without bound. One second's worth may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Frames that are no answer to somebody else's: no ACK, REPLY or PONG.
    pub messages_per_second: u64,
    /// Bytes of all frames on the wire.
    pub bytes_per_second: u64,
}

impl Rates {
    /// Without bound.
    pub const NONE: Rates = Rates { messages_per_second: 0, bytes_per_second: 0 };
}

/// A bound on what comes in a second, and how far ahead of it a client may be.
#[derive(Clone, Copy)]
struct Rate {
    per_second: u64,
    burst: Span,
}

impl Rate {
    /// The time that `units` take at this rate, rounded up to a microsecond.
    fn span(self, units: u64) -> Span {
        Span::from_micros(units.saturating_mul(1_000_000).div_ceil(self.per_second))
    }

    /// Adds `units` to what is `paid` for; returns the moment at which the client is no longer too far ahead.
    fn charge(self, now: Time, paid: &mut Time, units: u64) -> Time {
        *paid = now.max(*paid) + self.span(units);
        *paid - self.burst
    }
}

/// The bounds that all clients of a server have.
#[derive(Clone, Copy)]
pub(super) struct Tariff {
    messages: Option<Rate>,
    bytes: Option<Rate>,
}

impl Tariff {
    pub(super) fn new(rates: Rates, max_frame: usize) -> Tariff {
        let rate = |per_second| (per_second > 0).then_some(Rate { per_second, burst: limits::RATE_BURST });
        let mut bytes = rate(rates.bytes_per_second);
        if let Some(rate) = &mut bytes {
            // A frame that is allowed is not held against its sender.
            rate.burst = rate.burst.max(rate.span((limits::LENGTH_BYTES + max_frame) as u64));
        }
        Tariff { messages: rate(rates.messages_per_second), bytes }
    }
}

/// What one client has sent, against the tariff: a token bucket each for messages and bytes, kept as the moment up to
/// which what came is paid for.
#[derive(Default)]
pub(super) struct Meter {
    messages: Time,
    bytes: Time,
    /// Since when the client has sent too many messages, and until when its next debt counts as the same excess.
    over_since: Time,
    over_until: Time,
}

/// How a client stands after a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Within its bounds.
    Even,
    /// Not to be read from until then.
    Owes(Time),
    /// Too many messages for too long.
    Excessive,
}

impl Meter {
    /// Charges a read that held so much.
    #[inline]
    pub(super) fn charge(&mut self, now: Time, tariff: &Tariff, messages: u64, bytes: u64) -> Standing {
        let mut settled = Time::ZERO;
        if let Some(rate) = tariff.bytes {
            settled = rate.charge(now, &mut self.bytes, bytes);
        }
        if let Some(rate) = tariff.messages {
            let paid = rate.charge(now, &mut self.messages, messages);
            if paid > now && self.is_excessive(now, paid) {
                return Standing::Excessive;
            }
            settled = settled.max(paid);
        }
        if settled > now { Standing::Owes(settled) } else { Standing::Even }
    }

    /// Whether this debt, paid at `paid`, is one too many in an unbroken row.
    fn is_excessive(&mut self, now: Time, paid: Time) -> bool {
        if now > self.over_until {
            self.over_since = now;
        }
        self.over_until = paid + limits::RATE_BURST;
        now >= self.over_since + limits::RATE_PATIENCE
    }
}
