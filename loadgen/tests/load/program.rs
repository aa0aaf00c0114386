use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use crossbeam_channel::{Receiver, Sender, unbounded};
use serde_json::Value;

use crate::PATIENCE;

/// A run of the program; killed with its guard.
pub(crate) struct Program {
    child: Child,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// None where a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Program {
    /// Starts the program with arguments that stand in one line, and some that may hold blanks.
    pub(crate) fn start(line: &str, more: &[&str], log: &str) -> Program {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trunkline-loadgen"));
        command.args(line.split_whitespace()).args(more).env_clear().env("RUST_LOG", log);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let stdout = lines(child.stdout.take().expect("it is piped"));
        let stderr = lines(child.stderr.take().expect("it is piped"));
        Program { child, stdout, stderr }
    }

    /// Waits for a line of the standard error with `wanted` in it.
    #[track_caller]
    pub(crate) fn says(&self, wanted: &str) {
        while !self.stderr.recv_timeout(PATIENCE).expect("it says more").contains(wanted) {}
    }

    /// SIGKILL, for the program alone.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("the program has not been waited for");
    }

    /// Waits until the program and all its parts have ended: they share its output.
    #[track_caller]
    pub(crate) fn end(mut self) -> Ended {
        let (stdout, stderr) = (rest(&self.stdout), rest(&self.stderr));
        let status = self.child.wait().expect("the program was not waited for before");
        Ended { code: status.code(), stdout, stderr }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // One that has ended can't be killed, and is waited for all the same.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Ended {
    /// The outcome, where that was to be JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Runs the program to its end.
#[track_caller]
pub(crate) fn run(line: &str, more: &[&str]) -> Ended {
    Program::start(line, more, "warn").end()
}

fn lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (tell, told) = unbounded();
    std::thread::spawn(move || pass_on(BufReader::new(from), &tell));
    told
}

fn pass_on(mut from: impl BufRead, tell: &Sender<String>) {
    let mut line = String::new();
    while matches!(from.read_line(&mut line), Ok(1..)) && tell.send(std::mem::take(&mut line)).is_ok() {}
}

#[track_caller]
fn rest(lines: &Receiver<String>) -> String {
    let mut text = String::new();
    loop {
        match lines.recv_timeout(PATIENCE) {
            Ok(line) => text.push_str(&line),
            Err(error) if error.is_disconnected() => return text,
            Err(error) => panic!("{error} behind {text:?}"),
        }
    }
}
