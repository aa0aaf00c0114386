//! The servers' system calls, counted by strace while they run.

use std::cmp::Reverse;
use std::fs;
use std::io;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::NamedTempFile;

use crate::process::Server;

/// System calls being counted. They are slower meanwhile: rates of such a time are no measurement.
pub(crate) struct Trace {
    strace: Child,
    summary: NamedTempFile,
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
        Ok(Trace { strace, summary })
    }

    /// Ends the counting: calls by name, the most frequent first.
    pub(crate) fn finish(mut self) -> io::Result<Vec<(String, u64)>> {
        if let Some(pid) = Pid::from_raw(self.strace.id() as i32) {
            kill_process(pid, Signal::INT)?;
        }
        self.strace.wait()?;
        let mut calls = counts(&fs::read_to_string(self.summary.path())?);
        calls.sort_by_key(|(_, count)| Reverse(*count));
        Ok(calls)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // It has ended, unless something went wrong before it was asked for its counts.
        if let Err(error) = self.strace.kill().and_then(|()| self.strace.wait()) {
            log::warn!("strace: {error}");
        }
    }
}

/// The counts of a summary, whose lines are `% time, seconds, usecs/call, calls, [errors], syscall`.
fn counts(summary: &str) -> Vec<(String, u64)> {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let calls = fields.get(3)?.parse().ok()?;
        let name = fields.last().filter(|name| **name != "total")?;
        Some(((*name).to_owned(), calls))
    };
    summary.lines().filter_map(line).collect()
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
        let counts = super::counts(summary);
        assert_eq!(counts, [("sendto".to_owned(), 500), ("recvfrom".to_owned(), 251)]);
    }
}
