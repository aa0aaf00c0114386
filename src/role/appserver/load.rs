use crate::time::{Span, Time};

/// How busy the reactor is, from the time that it has waited for something to do since its start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// Told once a turn; `None` where no shell tells it, as in a simulated network.
    waited: Option<Span>,
    /// The last report: when it was, and what had been waited then.
    reported: (Time, Span),
}

impl Load {
    pub(super) fn new(now: Time) -> Load {
        Load { waited: None, reported: (now, Span::default()) }
    }

    pub(super) fn waited(&mut self, waited: Span) {
        self.waited = Some(waited);
    }

    /// Thousandths of the time since the last report that were not waited.
    pub(super) fn permille(&mut self, now: Time) -> u16 {
        let Some(waited) = self.waited else { return 0 };
        let (since, before) = std::mem::replace(&mut self.reported, (now, waited));
        let (elapsed, waited) = (now.since(since).as_micros(), waited.as_micros() - before.as_micros());
        let busy = elapsed.saturating_sub(waited);
        u16::try_from(busy * 1_000 / elapsed.max(1)).unwrap_or(1_000)
    }
}
