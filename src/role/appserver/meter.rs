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
    /// Charges a read that held so much, of a client that has been read from since `heard_since`, but for its debts.
    #[inline]
    pub(super) fn charge(
        &mut self,
        now: Time,
        heard_since: Time,
        tariff: &Tariff,
        messages: u64,
        bytes: u64,
    ) -> Standing {
        let mut settled = Time::ZERO;
        if let Some(rate) = tariff.bytes {
            settled = rate.charge(now, &mut self.bytes, bytes);
        }
        if let Some(rate) = tariff.messages {
            let paid = rate.charge(now, &mut self.messages, messages);
            if paid > now && self.extend_row(now, heard_since, paid) >= limits::RATE_PATIENCE {
                return Standing::Excessive;
            }
            settled = settled.max(paid);
        }
        if settled > now { Standing::Owes(settled) } else { Standing::Even }
    }

    /// Adds a debt, paid at `paid`, to the unbroken row of debts; returns how long the row has lasted. What came while
    /// the client was not read from for another reason piled up by no fault of its own: behind that a row begins anew.
    fn extend_row(&mut self, now: Time, heard_since: Time, paid: Time) -> Span {
        if now > self.over_until || self.over_since < heard_since {
            self.over_since = now;
        }
        self.over_until = paid + limits::RATE_BURST;
        now.since(self.over_since)
    }
}
