use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use crate::limits::HANDLER_STUCK;
use crate::net::Clock;
use crate::time::{Span, Time};

/// Names the application's code that does not come back to the reactor that runs it: from a thread beside, since that
/// reactor can't.
pub(super) struct Watchdog {
    clock: Clock,
    running: Arc<AtomicU64>,
    /// Dropped, it ends the thread.
    ends: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// No call is running.
const NONE: u64 = 0;

/// A call as one number: microseconds at its start, times 16, with its name's place and one more.
fn pack(start: Time, place: usize) -> u64 {
    start.as_micros() << 4 | (place as u64 + 1)
}

fn unpack(call: u64) -> (Time, usize) {
    (Time::from_micros(call >> 4), (call & 15) as usize - 1)
}

impl Watchdog {
    /// Watches calls of these names, at most 15, and reports each that has run for [`HANDLER_STUCK`], once.
    pub(super) fn start(
        names: &'static [&'static str],
        report: impl Fn(&'static str, Span) + Send + 'static,
    ) -> io::Result<Watchdog> {
        assert!(names.len() < 16, "a name's place has four bits");
        let clock = Clock::start();
        let running = Arc::new(AtomicU64::new(NONE));
        let (ends, ended) = bounded::<()>(0);
        let (watched, watch_clock) = (Arc::clone(&running), clock);
        let watch = move || {
            let mut reported = NONE;
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(HANDLER_STUCK.to_duration()) {
                let call = watched.load(Ordering::Relaxed);
                if call == NONE || call == reported {
                    continue;
                }
                let (start, place) = unpack(call);
                let runs = watch_clock.now().since(start);
                if runs >= HANDLER_STUCK {
                    reported = call;
                    report(names[place], runs);
                }
            }
        };
        let thread = std::thread::Builder::new().name("watchdog".to_owned()).spawn(watch)?;
        Ok(Watchdog { clock, running, ends: Some(ends), thread: Some(thread) })
    }

    /// Runs one call, whose name has this place; returns how long that took as well.
    pub(super) fn watch<T>(&self, place: usize, call: impl FnOnce() -> T) -> (T, Span) {
        let start = self.clock.now();
        self.running.store(pack(start, place), Ordering::Relaxed);
        let result = call();
        self.running.store(NONE, Ordering::Relaxed);
        (result, self.clock.now().since(start))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.ends = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            log::error!("the watchdog panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crossbeam_channel::unbounded;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn a_call_that_does_not_come_back_is_named_while_it_runs_and_once() {
        let (sender, reports) = unbounded();
        let tell = move |name, runs| sender.send((name, runs)).expect("the test listens");
        let watchdog = Watchdog::start(&["quick", "slow"], tell).expect("a thread");
        watchdog.watch(0, || ());
        let (named, took) = watchdog.watch(1, || reports.recv_timeout(PATIENCE).expect("it is named"));
        assert_eq!(named.0, "slow");
        assert!(HANDLER_STUCK <= named.1 && named.1 <= took, "{named:?}, {took:?}");
        let (again, _) = watchdog.watch(1, || {
            let next = reports.recv_timeout(PATIENCE).expect("another call is named as well");
            (next, reports.recv_timeout(HANDLER_STUCK.to_duration() * 3))
        });
        assert_eq!(again.0.0, "slow");
        assert_eq!(again.1, Err(RecvTimeoutError::Timeout), "named twice");
        drop(watchdog);
        assert!(reports.is_empty());
    }
}
