use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use rustix::process::{Pid, Signal, kill_process};

use crate::{PATIENCE, now};

pub(crate) const ACMS: &str = env!("CARGO_BIN_EXE_trunkline-acms");
pub(crate) const APPSERVER: &str = env!("CARGO_BIN_EXE_trunkline-appserver");
pub(crate) const CHAT: &str = env!("CARGO_BIN_EXE_trunkline-chat");
pub(crate) const TRUNKLINE: &str = env!("CARGO_BIN_EXE_trunkline");

/// A process of this test's own; killed with its guard.
pub(crate) struct Program {
    child: Child,
    stdin: Option<ChildStdin>,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
}

/// What a process has written so far.
#[derive(Clone)]
pub(crate) struct Output {
    name: String,
    state: Arc<(Mutex<Text>, Condvar)>,
}

#[derive(Default)]
struct Text {
    text: String,
    ended: bool,
}

impl Program {
    /// Starts a program that logs at `info`, with no other environment.
    pub(crate) fn start(path: &str, args: &[&str]) -> Program {
        Program::start_with(path, args, &[("RUST_LOG", "info")])
    }

    pub(crate) fn start_with(path: &str, args: &[&str], variables: &[(&str, &str)]) -> Program {
        let mut command = Command::new(path);
        command.args(args).env_clear().envs(variables.iter().copied());
        Program::spawn(&mut command).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub(crate) fn spawn(command: &mut Command) -> std::io::Result<Program> {
        let name = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let stdout = Output::of(format!("stdout of {name}"), child.stdout.take().expect("it is piped"));
        let stderr = Output::of(format!("stderr of {name}"), child.stderr.take().expect("it is piped"));
        let stdin = child.stdin.take();
        Ok(Program { child, stdin, stdout, stderr })
    }

    /// Fails where it has ended by itself.
    #[track_caller]
    pub(crate) fn expect_running(&self) {
        assert!(!self.stderr.lock().ended, "{} ended:\n{}", self.stderr.name, self.stderr.text());
    }

    /// The address that the `ready` line gives for `key`.
    #[track_caller]
    pub(crate) fn ready(&self, key: &str) -> SocketAddr {
        let line = self.stdout.line_with("ready ");
        let value = line.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no address of {key} in {line:?}"))
    }

    pub(crate) fn write(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("stdin is open");
        stdin.write_all(text.as_bytes()).expect("the program reads");
    }

    pub(crate) fn close_stdin(&mut self) {
        self.stdin = None;
    }

    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Holds every thread of it (SIGSTOP): to others it is silent, and its sockets stay.
    pub(crate) fn hold(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on (SIGCONT).
    pub(crate) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed()).expect("a process's id is not 0")
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the program has not been waited for");
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("the program has not been waited for");
        self.exit();
    }

    /// Waits until the program has ended and all its output is here.
    #[track_caller]
    pub(crate) fn exit(&mut self) -> ExitStatus {
        self.close_stdin();
        for output in [&self.stdout, &self.stderr] {
            output.wait(|text| text.ended.then_some(()), || "to end".to_owned());
        }
        self.child.wait().expect("the program was not waited for before")
    }

    #[track_caller]
    pub(crate) fn expect_exit(&mut self, code: i32) {
        let status = self.exit();
        let (stdout, stderr) = (self.stdout.text(), self.stderr.text());
        assert_eq!(status.code(), Some(code), "{status}\nstdout:\n{stdout}stderr:\n{stderr}");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // One that has ended can't be killed, and is waited for all the same.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Output {
    fn of(name: String, from: impl Read + Send + 'static) -> Output {
        let output = Output { name, state: Arc::default() };
        let writer = output.clone();
        std::thread::spawn(move || {
            let mut from = BufReader::new(from);
            let mut line = Vec::new();
            while matches!(from.read_until(b'\n', &mut line), Ok(1..)) {
                writer.lock().text.push_str(&String::from_utf8_lossy(&line));
                writer.state.1.notify_all();
                line.clear();
            }
            writer.lock().ended = true;
            writer.state.1.notify_all();
        });
        output
    }

    fn lock(&self) -> MutexGuard<'_, Text> {
        self.state.0.lock().expect("who holds it does not panic")
    }

    pub(crate) fn text(&self) -> String {
        self.lock().text.clone()
    }

    /// What was written behind the first `bytes`.
    pub(crate) fn text_from(&self, bytes: usize) -> String {
        self.lock().text[bytes..].to_owned()
    }

    /// The first line with `part`.
    #[track_caller]
    pub(crate) fn line_with(&self, part: &str) -> String {
        self.lines_with(part, 1).remove(0)
    }

    /// The first `count` lines with `part`.
    #[track_caller]
    pub(crate) fn lines_with(&self, part: &str, count: usize) -> Vec<String> {
        let find = |text: &Text| {
            let lines: Vec<String> =
                text.text.split_inclusive('\n').filter(|line| line.contains(part)).map(str::to_owned).collect();
            (lines.len() >= count).then_some(lines)
        };
        self.wait(find, || format!("for {count} lines with {part:?}"))
    }

    /// Waits until `found` finds something.
    #[track_caller]
    fn wait<T>(&self, found: impl Fn(&Text) -> Option<T>, what: impl Fn() -> String) -> T {
        let ends = now() + PATIENCE;
        let mut text = self.lock();
        loop {
            if let Some(found) = found(&text) {
                return found;
            }
            let left = ends.saturating_duration_since(now());
            if text.ended || left.is_zero() {
                let (seen, ended) = (text.text.clone(), text.ended);
                drop(text);
                panic!("waited {}; {} (ended: {ended}) is:\n{seen}", what(), self.name);
            }
            text = self.state.1.wait_timeout(text, left).expect("who holds it does not panic").0;
        }
    }
}
