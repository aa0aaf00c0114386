//! Child processes: where they run, when they are ready, what they use.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, set_parent_process_death_signal};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, Timespec, clock_gettime};

/// How long a server may take to stop when it is told to.
const GRACE: Duration = Duration::from_secs(5);

/// A server under load, or a part of one. Dropping it ends it.
pub(crate) struct Server {
    /// What it is, for the report.
    pub(crate) name: String,
    child: Child,
    /// Where it told to be reached; none where it tells nothing.
    pub(crate) addr: Option<SocketAddr>,
}

/// What a process has used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    pub(crate) cpu_seconds: f64,
    /// Resident memory that is no file's: what the process itself allocated.
    pub(crate) anonymous_bytes: u64,
    /// The most resident memory so far.
    pub(crate) peak_bytes: u64,
}

impl Server {
    /// Starts `command` on processor `cpu` and waits until it says `ready ADDRESS`.
    pub(crate) fn start(name: &str, command: &mut Command, cpu: Option<usize>) -> io::Result<Server> {
        let mut server = Server::start_silent(name, command.stdout(Stdio::piped()), cpu)?;
        let Some(stdout) = server.child.stdout.take() else { return Ok(server) };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let addr = line.trim().strip_prefix("ready ").and_then(|addr| addr.parse().ok());
        server.addr = Some(addr.ok_or_else(|| io::Error::other(format!("{name} did not start")))?);
        Ok(server)
    }

    /// Starts `command`, which says nothing.
    pub(crate) fn start_silent(name: &str, command: &mut Command, cpu: Option<usize>) -> io::Result<Server> {
        let child = pinned(cpu, || command.stdin(Stdio::piped()).spawn())?
            .map_err(|error| io::Error::new(error.kind(), format!("{name}: {error}")))?;
        Ok(Server { name: name.to_owned(), child, addr: None })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has used.
    pub(crate) fn usage(&self) -> io::Result<Usage> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let kilobytes = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
            line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().unwrap_or_default()
        };
        Ok(Usage {
            cpu_seconds: cpu_seconds(self.pid())?,
            anonymous_bytes: kilobytes("RssAnon") << 10,
            peak_bytes: kilobytes("VmHWM") << 10,
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.child.id() as i32);
        if let Some(pid) = pid
            && let Err(error) = kill_process(pid, Signal::TERM)
        {
            log::debug!("{}: {error}", self.name);
        }
        // Whoever listens to its input ends at once when that is closed, and without a word to its peers.
        let stdin = self.child.stdin.take();
        if let Some(pid) = pid
            && !ends_within(pid, GRACE)
        {
            log::warn!("{} does not stop", self.name);
        }
        drop(stdin);
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            log::warn!("{}: {error}", self.name);
        }
    }
}

/// Whether a child ends in that time; it is still to be waited for.
fn ends_within(child: Pid, time: Duration) -> bool {
    let Ok(process) = pidfd_open(child, PidfdFlags::empty()) else { return true };
    let timeout = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() };
    poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&timeout)).is_ok_and(|ended| ended > 0)
}

/// Runs on processor `cpu` whatever is started in `run`, and then goes back.
pub(crate) fn pinned<T>(cpu: Option<usize>, run: impl FnOnce() -> T) -> io::Result<T> {
    let Some(cpu) = cpu else { return Ok(run()) };
    let before = sched_getaffinity(None)?;
    if cpu >= CpuSet::MAX_CPU || !before.is_set(cpu) {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("there is no processor {cpu} to run on")));
    }
    let mut only = CpuSet::new();
    only.set(cpu);
    sched_setaffinity(None, &only)?;
    let result = run();
    sched_setaffinity(None, &before)?;
    Ok(result)
}

/// Processor seconds of all threads that a process has, as the scheduler counts them: in nanoseconds, not in ticks.
fn cpu_seconds(pid: u32) -> io::Result<f64> {
    let mut nanos = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = match fs::read_to_string(task?.path().join("schedstat")) {
            Ok(text) => text,
            // The thread has ended since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        nanos += text.split(' ').next().and_then(|field| field.parse::<u64>().ok()).unwrap_or_default();
    }
    Ok(nanos as f64 / 1e9)
}

/// Processor seconds of this process.
pub(crate) fn own_cpu_seconds() -> io::Result<f64> {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Ok(time.tv_sec as f64 + time.tv_nsec as f64 / 1e9)
}

/// Whether a program is where programs are looked for.
pub(crate) fn is_installed(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}

/// This program again, as another part of it.
pub(crate) fn part(name: &str) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(name);
    Ok(command)
}

/// Tells whoever started this process that it can be reached.
pub(crate) fn say_ready(addr: SocketAddr) {
    let mut stdout = io::stdout().lock();
    if let Err(error) = writeln!(stdout, "ready {addr}").and_then(|()| stdout.flush()) {
        log::warn!("nobody hears that {addr} is ready: {error}");
    }
}

/// Becomes a NATS server that ends when whoever started it does: it does not look at its input itself.
pub(crate) fn become_nats(config: &Path) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    Err(Command::new("nats-server").arg("-c").arg(config).exec())
}

/// Ends this process when whoever started it is gone: its end of the pipe is then closed.
pub(crate) fn end_with_parent() {
    std::thread::spawn(|| {
        drop(io::copy(&mut io::stdin().lock(), &mut io::sink()));
        std::process::exit(0);
    });
}
