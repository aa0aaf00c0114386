//! The servers' system calls, counted by strace while they run.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::NamedTempFile;

use crate::process::Server;

/// System calls being counted. They are slower meanwhile: rates of such a time are no measurement.
pub(crate) struct Trace {
    strace: Child,
    summary: NamedTempFile,
    began: Instant,
}

impl Trace {
    pub(crate) fn start(servers: &[Server]) -> io::Result<Trace> {
        let summary = NamedTempFile::new()?;
        let mut command = Command::new("strace");
        command.args(["-c", "-f", "-q", "-o"]).arg(summary.path());
        servers.iter().for_each(|server| {
            command.arg("-p").arg(server.pid().to_string());
        });
        let spawned = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn();
        let strace = spawned.map_err(|error| io::Error::new(error.kind(), format!("strace: {error}")))?;
        Ok(Trace { strace, summary, began: now() })
    }

    /// Ends the counting: calls by name for each message, at `messages_per_second`; none where there are no messages.
    pub(crate) fn finish(mut self, messages_per_second: f64) -> io::Result<Vec<(String, f64)>> {
        if let Some(pid) = Pid::from_raw(self.strace.id() as i32) {
            kill_process(pid, Signal::INT)?;
        }
        let messages = messages_per_second * self.began.elapsed().as_secs_f64();
        self.strace.wait()?;
        if messages == 0.0 {
            return Ok(Vec::new());
        }
        let text = fs::read_to_string(self.summary.path())?;
        let mut calls: Vec<(String, f64)> =
            counts(&text).into_iter().map(|(name, count)| (name, count as f64 / messages)).collect();
        calls.sort_by(|one, other| other.1.total_cmp(&one.1));
        Ok(calls)
    }
}

/// The counts of a summary, whose lines are `% time, seconds, usecs/call, calls, [errors], syscall`.
fn counts(summary: &str) -> BTreeMap<String, u64> {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let calls = fields.get(3)?.parse().ok()?;
        let name = fields.last().filter(|name| **name != "total")?;
        Some(((*name).to_owned(), calls))
    };
    summary.lines().filter_map(line).collect()
}

#[expect(clippy::disallowed_methods, reason = "a count needs its time")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_summary_is_read() {
        let summary = "% time     seconds  usecs/call     calls    errors syscall\n\
                       ------ ----------- ----------- --------- --------- ----------------\n \
                       61.80    0.000942           1       500           sendto\n \
                       38.20    0.000582           2       251         3 recvfrom\n\
                       ------ ----------- ----------- --------- --------- ----------------\n\
                       100.00    0.001524           1       751         3 total\n";
        let counts: Vec<(String, u64)> = super::counts(summary).into_iter().collect();
        assert_eq!(counts, [("recvfrom".to_owned(), 251), ("sendto".to_owned(), 500)]);
    }
}
