//! A conversation in lines of text, for `trunkline-chat` and `trunkline demo`.

mod blobs;
mod groups;
mod questions;

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Select, bounded};

use crate::engine::{Client, Delivery, Event, Message, Pending};
use crate::id::UserId;
use crate::role::Gone;
use crate::role::client::{QueryFailure, SendError, State};
use crate::wire::{Answer, CloseCode, Cluster, Welcome};

/// How long an echo may take.
const ECHO_PATIENCE: Duration = Duration::from_secs(5);

const HELP: &str = "\
/to NAME      write to NAME from now on
/who [NAME..] who you are, and on which server NAME (or who you write to) is
/friends      whom you hear of, and who of them is online
/join GROUP   hear what is said in GROUP, and who comes and goes
/leave GROUP  hear it no more
/say GROUP .. say it to all in GROUP
/members GROUP  who is in GROUP, and on which server
/blob FILE    send a file to whom you write to
/ask NAME ..  ask NAME something, and wait for the answer
/answer ..    answer whoever asked you and has waited longest
/help         this
/quit         leave
anything else is sent to whom you write to";

/// A client whose user types lines.
pub struct Chat {
    client: Client,
    peer: Option<UserId>,
    /// A person types and reads; else lines come from a file, and the outcome of each is waited for.
    interactive: bool,
    /// The path that a message to the peer takes, where the peer echoes it.
    echoing: Option<Echoing>,
    sent: VecDeque<Sent>,
    asked: Option<Pending<Result<Result<Answer, QueryFailure>, SendError>>>,
    joining: Option<groups::Joining>,
    files: Vec<blobs::SentFile>,
    questions: Vec<questions::Asked>,
    open: questions::Open,
    /// Where the files of others are saved; without it they are refused.
    blob_dir: Option<PathBuf>,
    all_delivered: bool,
    was_interrupted: bool,
}

/// What is shown of a message that its receiver sends back.
struct Echoing {
    path: String,
    /// When the message whose echo is awaited was sent.
    since: Option<Instant>,
}

/// A line that is under way.
struct Sent {
    to: UserId,
    since: Instant,
    outcome: Pending<Result<Delivery, SendError>>,
}

/// What the next thing to look at is.
enum Next {
    Line(Option<String>),
    Event(Option<Event>),
    Outcome(usize),
    Answer,
    Join,
    File(usize),
    Reply(usize),
    FilesGoOn,
    EchoLate,
}

#[expect(clippy::disallowed_methods, reason = "a person is told how long a message took")]
fn now() -> Instant {
    Instant::now()
}

impl Chat {
    /// A conversation that begins with `peer`.
    pub fn new(client: Client, peer: Option<UserId>) -> Chat {
        Chat {
            client,
            peer,
            interactive: false,
            echoing: None,
            sent: VecDeque::new(),
            asked: None,
            joining: None,
            files: Vec::new(),
            questions: Vec::new(),
            open: questions::Open::default(),
            blob_dir: None,
            all_delivered: true,
            was_interrupted: false,
        }
    }

    /// For a person at a terminal: lines are taken as they come, outcomes shown as they come.
    pub fn interactive(mut self) -> Chat {
        self.interactive = true;
        self
    }

    /// The peer sends each message back; `path` is the way there, in words.
    pub fn echoing(mut self, path: String) -> Chat {
        self.echoing = Some(Echoing { path, since: None });
        self
    }

    /// Runs until the input ends, `/quit`, or the session is over. True where every line was delivered.
    pub fn run(mut self, input: impl Read + Send + 'static, output: &mut impl Write) -> io::Result<bool> {
        let lines = read_lines(input)?;
        if let Some(welcome) = self.client.welcome() {
            writeln!(output, "{}", connected(self.client.user(), welcome))?;
        }
        if self.interactive {
            writeln!(output, "/help tells what can be typed")?;
        }
        let mut input_open = true;
        loop {
            let is_asking = self.asked.is_some() || self.joining.is_some();
            let is_asking = is_asking || !self.files.is_empty() || !self.questions.is_empty();
            let idle = self.sent.is_empty() && !is_asking && self.awaited_echo().is_none();
            if !input_open && idle {
                break;
            }
            match self.next(&lines, input_open && (self.interactive || idle)) {
                Next::Line(None) => input_open = false,
                Next::Line(Some(line)) => {
                    if !self.obey(&line, output)? {
                        break;
                    }
                }
                Next::Event(Some(event)) => {
                    if !self.show(event, output)? {
                        self.all_delivered &= !input_open || self.interactive;
                        break;
                    }
                }
                Next::Event(None) => break,
                Next::Outcome(place) => self.show_outcome(place, output)?,
                Next::Answer => self.show_answer(output)?,
                Next::Join => self.show_join(output)?,
                Next::File(place) => self.show_sent_file(place, output)?,
                Next::Reply(place) => self.show_reply(place, output)?,
                Next::FilesGoOn => self.show_progress(output)?,
                Next::EchoLate => {
                    writeln!(output, "no echo within {} s", ECHO_PATIENCE.as_secs())?;
                    self.all_delivered = false;
                    self.forget_echo();
                }
            }
            output.flush()?;
        }
        self.refuse_open();
        self.client.close()?;
        Ok(self.all_delivered)
    }

    fn awaited_echo(&self) -> Option<Instant> {
        self.echoing.as_ref().and_then(|echoing| echoing.since)
    }

    fn forget_echo(&mut self) {
        if let Some(echoing) = &mut self.echoing {
            echoing.since = None;
        }
    }

    /// Waits for whatever comes first.
    fn next(&self, lines: &Receiver<String>, takes_lines: bool) -> Next {
        let mut select = Select::new();
        let events = select.recv(self.client.events());
        for sent in &self.sent {
            select.recv(sent.outcome.receiver());
        }
        let answer = self.asked.as_ref().map(|asked| select.recv(asked.receiver()));
        let join = self.joining.as_ref().map(|joining| select.recv(joining.outcome.receiver()));
        let files: Vec<usize> = self.files.iter().map(|file| select.recv(file.handle.receiver())).collect();
        let replies: Vec<usize> = self.questions.iter().map(|asked| select.recv(asked.outcome.receiver())).collect();
        let line = takes_lines.then(|| select.recv(lines));
        let echo_ends = self.awaited_echo().map(|since| since + ECHO_PATIENCE);
        let tick = (!files.is_empty()).then(|| now() + blobs::PROGRESS_TICK);
        let ready = match echo_ends.into_iter().chain(tick).min() {
            Some(ends) => match select.ready_deadline(ends) {
                Ok(ready) => ready,
                Err(_) if Some(ends) == echo_ends => return Next::EchoLate,
                Err(_) => return Next::FilesGoOn,
            },
            None => select.ready(),
        };
        match ready {
            ready if ready == events => Next::Event(self.client.events().try_recv().ok()),
            ready if Some(ready) == answer => Next::Answer,
            ready if Some(ready) == join => Next::Join,
            ready if Some(ready) == line => Next::Line(lines.try_recv().ok()),
            ready => {
                let place_in = |all: &[usize]| all.iter().position(|place| *place == ready);
                match (place_in(&files), place_in(&replies)) {
                    (Some(place), _) => Next::File(place),
                    (None, Some(place)) => Next::Reply(place),
                    (None, None) => Next::Outcome(ready - events - 1),
                }
            }
        }
    }

    /// Does what a line says. False where it says to leave.
    fn obey(&mut self, line: &str, output: &mut impl Write) -> io::Result<bool> {
        let line = line.trim_end_matches(['\r', '\n']);
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        match command {
            "" if line.is_empty() => {}
            "/quit" => return Ok(false),
            "/help" => writeln!(output, "{HELP}")?,
            "/to" => match rest.trim().parse::<UserId>() {
                Ok(peer) => {
                    writeln!(output, "writing to {peer}")?;
                    self.peer = Some(peer);
                }
                Err(error) => writeln!(output, "/to NAME: {error}")?,
            },
            "/who" => self.ask(rest, output)?,
            "/friends" => match self.client.friends() {
                Ok(pending) => self.asked = Some(pending),
                Err(error) => writeln!(output, "cannot ask: {error}")?,
            },
            "/blob" => self.send_file(rest, output)?,
            "/ask" => self.ask_user(rest, output)?,
            "/answer" => self.answer(rest, output)?,
            command if self.obey_for_group(command, rest, output)? => {}
            command if command.starts_with('/') => writeln!(output, "{command} is not known; /help tells what is")?,
            _ => self.send(line, output)?,
        }
        Ok(true)
    }

    fn send(&mut self, line: &str, output: &mut impl Write) -> io::Result<()> {
        let Some(to) = self.peer.clone() else {
            self.all_delivered = false;
            return writeln!(output, "to whom? /to NAME");
        };
        let since = now();
        match self.client.send_acked(&to, 0, line.as_bytes().to_vec()) {
            Ok(outcome) => {
                if let Some(echoing) = &mut self.echoing {
                    echoing.since = Some(since);
                }
                self.sent.push_back(Sent { to, since, outcome });
                Ok(())
            }
            Err(error) => {
                self.all_delivered = false;
                writeln!(output, "not sent: {error}")
            }
        }
    }

    fn show_outcome(&mut self, place: usize, output: &mut impl Write) -> io::Result<()> {
        let Some(Sent { to, since, outcome }) = self.sent.remove(place) else { return Ok(()) };
        let failure = match outcome.wait() {
            Ok(Ok(Ok(()))) => {
                let took = milliseconds(since.elapsed());
                return match &self.echoing {
                    Some(echoing) => writeln!(output, "{}: delivered in {took}", echoing.path),
                    None => writeln!(output, "delivered to {to} in {took}"),
                };
            }
            Ok(Ok(Err(failure))) => failure.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(stopped) => stopped.to_string(),
        };
        self.all_delivered = false;
        self.forget_echo();
        writeln!(output, "failed, to {to}: {failure}")
    }

    fn ask(&mut self, names: &str, output: &mut impl Write) -> io::Result<()> {
        writeln!(output, "you are {}", self.client.user())?;
        let named = names.split_whitespace().map(str::parse::<UserId>).collect::<Result<Vec<_>, _>>();
        let users = match named {
            Ok(users) if users.is_empty() => self.peer.iter().cloned().collect(),
            Ok(users) => users,
            Err(error) => return writeln!(output, "/who NAME..: {error}"),
        };
        if users.is_empty() {
            return writeln!(output, "writing to nobody yet; /to NAME");
        }
        match self.client.locate(&users) {
            Ok(pending) => self.asked = Some(pending),
            Err(error) => writeln!(output, "cannot ask: {error}")?,
        }
        Ok(())
    }

    fn show_answer(&mut self, output: &mut impl Write) -> io::Result<()> {
        let Some(Ok(answer)) = self.asked.take().map(Pending::wait) else { return Ok(()) };
        let answer = match answer {
            Ok(Ok(Answer { error: None, users, complete })) => {
                if complete == Some(false) {
                    writeln!(output, "perhaps not all of them:")?;
                }
                users
            }
            Ok(Err(failure)) => return writeln!(output, "no answer: {failure}"),
            Ok(Ok(Answer { error: Some(error), .. })) => return writeln!(output, "no answer: {error}"),
            Err(error) => return writeln!(output, "no answer: {error}"),
        };
        if answer.is_empty() {
            return writeln!(output, "nobody");
        }
        for located in answer {
            match (located.online, located.server) {
                (Some(true), Some(server)) => writeln!(output, "{} is on server {server}", located.user)?,
                (Some(true), None) => writeln!(output, "{} is online", located.user)?,
                (Some(false), _) => writeln!(output, "{} is not online", located.user)?,
                (None, _) => writeln!(output, "{}: the cluster cannot be asked", located.user)?,
            }
        }
        Ok(())
    }

    /// Shows what happened. False where the session is over.
    fn show(&mut self, event: Event, output: &mut impl Write) -> io::Result<bool> {
        match event {
            Event::Message(message) => self.show_message(&message, output)?,
            Event::Query(query) => self.show_question(query, output)?,
            Event::Presence { user, online: true } => writeln!(output, "{user} is online")?,
            Event::Presence { user, online: false } => writeln!(output, "{user} is offline")?,
            Event::GroupMessage { group, message } => self.show_group_message(&group, &message, output)?,
            Event::Member { group, user, change } => self.show_member(&group, &user, change, output)?,
            Event::MembersMissed(group) => writeln!(output, "[{group}] some may have come or gone; /members {group}")?,
            Event::Undelivered { to: Some(to), cause, .. } => self.show_undelivered(&to, cause, output)?,
            Event::Undelivered { to: None, .. } => {}
            Event::Blob(incoming) => self.show_blob(incoming, output)?,
            Event::State(State::Online { welcome, .. }) => {
                let again = if self.was_interrupted { "again " } else { "" };
                writeln!(output, "{again}{}", connected(self.client.user(), &welcome))?;
                self.was_interrupted = false;
            }
            Event::State(State::Reconnecting { gone, text, pause }) => {
                if !std::mem::replace(&mut self.was_interrupted, true) {
                    writeln!(output, "interrupted: {}", why(gone, &text))?;
                }
                writeln!(output, "reconnecting in {:.1} s", pause.to_duration().as_secs_f64())?;
            }
            Event::State(State::NoServer { text, pause }) => {
                self.was_interrupted = true;
                let pause = pause.to_duration().as_secs_f64();
                writeln!(output, "no server: {}; asking again in {pause:.1} s", printable(text.as_bytes()))?;
            }
            Event::State(State::Stopped { code, text }) => {
                writeln!(output, "{}", farewell(code, &text))?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn show_message(&mut self, message: &Message, output: &mut impl Write) -> io::Result<()> {
        let text = printable(&message.body);
        let from = message.from.as_ref().map_or("the server", UserId::as_str);
        match self.awaited_echo().filter(|_| message.from == self.peer) {
            Some(since) => {
                self.forget_echo();
                writeln!(output, "{from}: {text}   (round trip {})", milliseconds(since.elapsed()))
            }
            None => writeln!(output, "{from}: {text}"),
        }
    }
}

/// Lines of `input`, read on a thread of its own.
fn read_lines(input: impl Read + Send + 'static) -> io::Result<Receiver<String>> {
    let (sender, lines) = bounded(16);
    std::thread::Builder::new().name("lines".to_owned()).spawn(move || {
        let mut reader = BufReader::new(input);
        let mut line = Vec::new();
        // Lines are text; what is not UTF-8 in them is replaced.
        while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
            let text = String::from_utf8_lossy(&line).into_owned();
            line.clear();
            if sender.send(text).is_err() {
                break;
            }
        }
    })?;
    Ok(lines)
}

/// Text of a stranger's, without what would steer a terminal.
pub(crate) fn printable(body: &[u8]) -> String {
    String::from_utf8_lossy(body).chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

fn milliseconds(took: Duration) -> String {
    format!("{:.2} ms", took.as_secs_f64() * 1e3)
}

fn connected(user: &UserId, welcome: &Welcome) -> String {
    let reach = match welcome.cluster {
        Cluster::Up | Cluster::Other => "",
        Cluster::Down => "; the cluster is down, only users of this server can be reached",
        Cluster::None => "; it stands alone",
    };
    format!("connected as {user} to server {}{reach}", welcome.server)
}

fn why(gone: Gone, text: &str) -> String {
    if text.is_empty() { gone.to_string() } else { format!("{gone}: {}", printable(text.as_bytes())) }
}

fn farewell(code: CloseCode, text: &str) -> String {
    let text = printable(text.as_bytes());
    match code {
        CloseCode::REPLACED => "replaced by another login".to_owned(),
        CloseCode::KICKED => format!("removed: {text}"),
        CloseCode::LOGGED_OUT => "logged out".to_owned(),
        CloseCode::REFUSED => format!("login refused: {text}"),
        CloseCode::ALREADY_ONLINE => "already online elsewhere, and the older login is kept".to_owned(),
        code => format!("the session is over: {code}: {text}"),
    }
}
