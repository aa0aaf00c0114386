//! The line that tells how far a run is, while it is under way.

use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget};

use crate::job::Tick;

/// The least time that the rate is worked out over.
const RATE_SPAN: Duration = Duration::from_millis(500);

/// The line; on a terminal only.
pub(crate) struct Live {
    bar: ProgressBar,
    title: String,
    /// When the rate was last worked out, and how many messages had arrived by then.
    last: (Instant, u64),
    per_second: u64,
}

impl Live {
    pub(crate) fn new(title: impl Into<String>) -> Live {
        let bar = ProgressBar::new_spinner();
        bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        Live { bar, title: title.into(), last: (now(), 0), per_second: 0 }
    }

    pub(crate) fn show(&mut self, phase: &str, tick: &Tick, left: Option<Duration>) {
        let left = left.map_or(String::new(), |left| format!(", {} s left", left.as_secs() + 1));
        let since = self.last.0.elapsed();
        if since >= RATE_SPAN {
            self.per_second = ((tick.arrived - self.last.1) as f64 / since.as_secs_f64()) as u64;
            self.last = (now(), tick.arrived);
        }
        self.bar.set_message(format!(
            "{}{phase}{left}: {} in, {} arrived, {} a second, {} bounced, {} violations",
            self.title,
            HumanCount(tick.online.into()),
            HumanCount(tick.arrived),
            HumanCount(self.per_second),
            HumanCount(tick.bounced),
            tick.violations
        ));
        self.bar.tick();
    }

    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

#[expect(clippy::disallowed_methods, reason = "a rate needs the time")]
fn now() -> Instant {
    Instant::now()
}
