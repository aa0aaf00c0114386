//! The live table of servers.

use std::io::{self, IsTerminal, Write};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded, never, select, tick};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGWINCH};
use signal_hook::iterator::Signals;

use super::report::{Server, Servers, reasons, share, some};
use super::screen::{Screen, key};
use super::table::{Align, Table, bytes, count};
use super::{Failure, Operator};
use crate::caller::{CallError, Caller};
use crate::limits;

/// From one picture to the next.
const REFRESH: Duration = Duration::from_secs(1);
/// Columns where the output is no terminal: none is cut.
const UNBOUNDED: usize = usize::MAX;

impl Operator {
    /// Shows the servers each second, or once where nobody could see it move.
    pub(super) fn top(&self, output: &mut impl Write) -> Result<(), Failure> {
        if self.json {
            return self.servers(output);
        }
        let Servers { servers, .. } = self.get("/v1/servers")?;
        if io::stdout().is_terminal() {
            return Ok(watch(&self.caller, servers)?);
        }
        for line in table(&servers, UNBOUNDED, UNBOUNDED) {
            writeln!(output, "{line}")?;
        }
        Ok(())
    }
}

/// Draws until a key or a signal says to stop.
fn watch(caller: &Caller, mut servers: Vec<Server>) -> io::Result<()> {
    let answers = poll(caller)?;
    let signals = signals()?;
    let mut screen = Screen::open()?;
    let mut keys = if screen.has_keys() { keys()? } else { never() };
    let mut trouble = None;
    loop {
        let (height, width) = screen.size();
        let mut lines = vec![heading(caller, &servers, trouble.as_ref()), String::new()];
        lines.extend(table(&servers, height.saturating_sub(lines.len()), width));
        screen.draw(&lines)?;
        select! {
            recv(answers) -> answer => match answer {
                Ok(Ok(Servers { servers: now, .. })) => (servers, trouble) = (now, None),
                Ok(Err(error)) => trouble = Some(error),
                Err(_) => return Ok(()),
            },
            recv(keys) -> key => match key {
                Ok(b'q' | b'Q') => return Ok(()),
                Ok(_) => {}
                // A terminal without input has no key to end this with; signals still do.
                Err(_) => keys = never(),
            },
            recv(signals) -> signal => if signal != Ok(SIGWINCH) { return Ok(()) },
        }
    }
}

/// The servers, each second, asked for on a thread of its own: an ACMS that does not answer must not hold up the keys.
fn poll(caller: &Caller) -> io::Result<Receiver<Result<Servers, CallError>>> {
    let (sender, answers) = bounded(1);
    let (caller, patience) = (caller.clone(), limits::MANAGEMENT_TIMEOUT.to_duration());
    thread::Builder::new().name("poll".to_owned()).spawn(move || {
        for _ in tick(REFRESH) {
            if sender.send(caller.call("GET", "/v1/servers", None, patience)).is_err() {
                break;
            }
        }
    })?;
    Ok(answers)
}

fn keys() -> io::Result<Receiver<u8>> {
    let (sender, keys) = bounded(16);
    thread::Builder::new().name("keys".to_owned()).spawn(
        move || {
            while key().is_some_and(|key| sender.send(key).is_ok()) {}
        },
    )?;
    Ok(keys)
}

fn signals() -> io::Result<Receiver<i32>> {
    let (sender, told) = bounded(16);
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGWINCH])?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            if sender.send(signal).is_err() {
                break;
            }
        }
    })?;
    Ok(told)
}

fn heading(caller: &Caller, servers: &[Server], trouble: Option<&CallError>) -> String {
    if let Some(error) = trouble {
        return format!("{error}; what follows is old");
    }
    let users = servers.iter().map(|server| server.users).fold(0, u64::saturating_add);
    format!("{}: {}, {}; q ends", caller.origin(), some(servers.len() as u64, "server"), some(users, "user"))
}

/// The table in `height` lines, the last for all servers together.
fn table(servers: &[Server], height: usize, width: usize) -> Vec<String> {
    let mut table = Table::new([
        ("SERVER", Align::Right),
        ("STATE", Align::Left),
        ("USERS", Align::Right),
        ("FRAMES/S", Align::Right),
        ("BYTES/S", Align::Right),
        ("QUEUED", Align::Right),
        ("BUSY", Align::Right),
        ("BOUNCED, DROPPED", Align::Left),
    ]);
    // The heads and the sum take a line each, and so does what says that there are more.
    let room = height.saturating_sub(2);
    let shown = if servers.len() <= room { servers.len() } else { room.saturating_sub(1) };
    for server in &servers[..shown] {
        table.row([
            server.server.to_string(),
            server.state.clone(),
            count(server.users),
            count(server.frames_per_second),
            bytes(server.bytes_per_second),
            bytes(server.queued()),
            share(server.busy_permille),
            reasons([&server.bounced, &server.dropped]),
        ]);
    }
    if shown < servers.len() {
        let more = format!("{} more", servers.len() - shown);
        table.row([
            "...".to_owned(),
            more,
            String::new(),
            String::new(),
            String::new(),
            String::new(),
            String::new(),
            String::new(),
        ]);
    }
    let sum = |of: fn(&Server) -> u64| servers.iter().map(of).fold(0, u64::saturating_add);
    table.row([
        "all".to_owned(),
        String::new(),
        count(sum(|server| server.users)),
        count(sum(|server| server.frames_per_second)),
        bytes(sum(|server| server.bytes_per_second)),
        bytes(sum(Server::queued)),
        String::new(),
        String::new(),
    ]);
    table.lines(width)
}
