//! A client at a hostile server.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use trunkline::id::{GroupId, UserId};
use trunkline::link::{End, Link};
use trunkline::role::Core;
use trunkline::role::blob;
use trunkline::role::client::{Client, Config, Entrance, Event, NoServer};
use trunkline::time::{Span, Time};
use trunkline::wire::{BlobCause, Flags, Login};

use super::blobs::{self, Blobs};
use super::frame::{
    self, ACK, ANSWER, ASK, BOUNCE, CHALLENGE, CLOSE, DATA, Draft, GROUP_DATA, GROUP_EVENT, GROUP_JOIN, GROUP_LEAVE,
    LOGIN, LOGOUT, PING, PONG, PRESENCE, QUERY, REPLY, Start, WELCOME,
};
use super::script::Script;
use super::shell::{Allowance, SPANS, START, STORMS, Shell, Watched, late};

const USER: &[u8] = b"alice";
const SERVER: ([u8; 4], u16) = ([10, 0, 0, 1], 6000);
/// Steps of one run, at most.
const STEPS_MAX: usize = 64;

/// Anything that a server may say, and what it may not.
pub(crate) fn client_engine(input: &[u8]) {
    let mut script = Script::new(input);
    let config = config(&mut script);
    let mut program = Program {
        script,
        shell: Shell::new(Client::new(START, config), Allowance::default(), usize::MAX),
        conn: None,
        sent: BTreeSet::new(),
        asked: BTreeSet::new(),
        queries: Vec::new(),
        is_asking: false,
        online: BTreeSet::new(),
        blobs: Blobs::default(),
    };
    program.begin();
    for _ in 0..STEPS_MAX {
        if program.script.is_over() {
            break;
        }
        program.step();
        program.look();
    }
    program.end();
}

fn config(script: &mut Script<'_>) -> Config {
    let choice = script.below(8);
    Config {
        entrance: if choice < 6 { Entrance::Fixed(SERVER.into()) } else { Entrance::Asked },
        user: UserId::parse(USER).expect("an id"),
        login: Login { password: Some("secret".to_owned()), ..Login::default() },
        takes_queries: choice % 2 == 1,
        blobs: blob::Config { taken: choice >= 4, bytes_max: 100_000 },
        seed: [3; 32],
    }
}

impl Watched for Client {
    fn queue_bytes_max(_link: &Link<()>) -> usize {
        (4 << 20) + (256 << 10)
    }

    fn is_strangers(_link: &Link<()>) -> bool {
        false
    }

    fn stop(&mut self, now: Time) {
        self.log_out(now);
    }
}

struct Program<'a> {
    script: Script<'a>,
    shell: Shell<Client>,
    /// The latest connection.
    conn: Option<usize>,
    /// Acknowledged sends that are not resolved.
    sent: BTreeSet<u64>,
    /// Queries and questions that are not.
    asked: BTreeSet<u64>,
    /// Queries of others: whose, and the id.
    queries: Vec<(Option<UserId>, u64)>,
    /// It asked for a server and has no answer.
    is_asking: bool,
    /// Who is online, by what was told.
    online: BTreeSet<UserId>,
    blobs: Blobs,
}

impl Program<'_> {
    /// Online, or not yet.
    fn begin(&mut self) {
        let steps = self.script.below(4);
        self.look();
        if steps > 0 {
            self.answer(Ok(SERVER.into()));
            self.conn = self.shell.answer_dial();
        }
        if steps > 1 {
            self.say(&Draft { to: USER, body: WELCOMES[0], ..Draft::of(WELCOME) });
        }
        self.look();
    }

    fn step(&mut self) {
        match self.script.below(16) {
            0 if self.is_asking => self.answer(Ok(SERVER.into())),
            0 => self.conn = self.shell.answer_dial().or(self.conn),
            1 if self.is_asking => {
                let causes = [NoServer::Now, NoServer::Now, NoServer::Now, NoServer::Ever];
                let cause = self.script.one_of(&causes);
                self.answer(Err(cause("no server".to_owned())));
            }
            1 => self.shell.refuse_dial(),
            2 => {
                let body = self.script.one_of(&WELCOMES);
                self.say(&Draft { to: USER, body, ..Draft::of(WELCOME) });
            }
            3..=6 => self.server_speaks(),
            7..=9 => self.application_acts(),
            10 => {
                let span = self.script.one_of(&SPANS);
                self.shell.pass(span);
            }
            11 => {
                if let Some(wire) = self.conn {
                    let room = self.script.one_of(&[0, 1, 19, 100, 5_000, 70_000, usize::MAX]);
                    self.shell.set_room(wire, room);
                }
            }
            12 => {
                if let Some(wire) = self.conn {
                    let ends = [End::Eof, End::Failed(std::io::ErrorKind::ConnectionReset)];
                    let end = self.script.one_of(&ends);
                    self.shell.hang_up(wire, end);
                }
            }
            13 => {
                if let Some(wire) = self.conn {
                    let pings = self.script.one_of(&STORMS);
                    self.shell.storm(wire, pings);
                }
            }
            14 => {
                if let Some(wire) = self.conn {
                    let body_bytes = self.script.one_of(&[3_000, 200_000, 1_048_000]);
                    let kind = self.script.one_of(&[DATA, QUERY, REPLY, ANSWER, CLOSE, WELCOME]);
                    self.shell.flood(wire, Draft { to: USER, from: b"bob", ..Draft::of(kind) }, body_bytes);
                }
            }
            _ => {
                if let Some(wire) = self.conn {
                    let nonsense = self.script.bytes(64);
                    self.shell.send(wire, nonsense, 0);
                }
            }
        }
    }

    /// What it asked for, if it did.
    fn answer(&mut self, found: Result<SocketAddr, NoServer>) {
        if std::mem::take(&mut self.is_asking) {
            self.shell.core.found(self.shell.now, found);
            self.shell.turn();
        }
    }

    fn say(&mut self, draft: &Draft<'_>) {
        let Some(wire) = self.conn else { return };
        let mut bytes = draft.write();
        frame::spoil(&mut self.script, &mut bytes);
        let late = late(&mut self.script);
        self.shell.send(wire, &bytes, late);
    }

    fn server_speaks(&mut self) {
        let script = &mut self.script;
        let kind = script.one_of(&SPOKEN);
        let (to, from) = (if script.once_in(8) { frame::name(script) } else { USER }, frame::name(script));
        let (info, mut flags) = (frame::info(script), frame::flags(script, kind));
        // The ids that the client waits for can be guessed; a hostile server knows them anyhow.
        let open = self.sent.iter().chain(&self.asked).chain(&self.blobs.sent).nth(script.below(4)).copied();
        let id = open.filter(|_| !script.once_in(4)).unwrap_or_else(|| frame::id(script));
        let body = match kind {
            CLOSE => script.one_of(&CLOSES),
            WELCOME => script.one_of(&WELCOMES),
            QUERY => with_flags(blobs::part(script, flags), &mut flags),
            REPLY => with_flags(blobs::answer(script, flags), &mut flags),
            _ => script.bytes(200),
        };
        let from = if kind == ACK || kind == REPLY { script.one_of(&[&b"bob"[..], b"", from]) } else { from };
        self.say(&Draft { kind, flags, info, id, to, from, body });
    }

    fn application_acts(&mut self) {
        let script = &mut self.script;
        let now = self.shell.now;
        let bob = UserId::parse(b"bob").expect("an id");
        let group = GroupId::parse(script.one_of(&[b"bob", b"car"])).expect("an id");
        let core = &mut self.shell.core;
        // What can't be sent now is told to the caller, which is no concern here.
        match script.below(17) {
            13 => {
                let body = vec![0; script.one_of(&[0, 100, 50_000])];
                let to = Some(bob).filter(|_| !script.once_in(4));
                self.blobs.sent.extend(core.send_blob(now, to, 7, "a blob", body.into()));
            }
            14 => {
                if let Some(key) = self.blobs.offered.pop() {
                    core.accept_blob(now, &key);
                }
            }
            15 => {
                if let Some(key) = self.blobs.refuse() {
                    core.refuse_blob(now, &key, BlobCause::Denied, "no".to_owned());
                }
            }
            16 => {
                if let Some(id) = self.blobs.sent.first() {
                    core.cancel_blob(now, *id);
                }
            }
            8 => self.asked.extend(core.join(now, &group)),
            9 => _ = core.leave(now, &group).is_ok(),
            10 => drop(core.broadcast(now, &group, Flags::NONE, 7, b"hi")),
            11 => self.asked.extend(core.watch(now, &[bob, UserId::parse(b"carol").expect("an id")])),
            12 => {
                // What was told of it is not taken back.
                self.online.remove(&bob);
                self.asked.extend(core.unwatch(now, &[bob]));
            }
            0 => drop(core.send(now, Some(&bob), Flags::NONE, 7, b"hi")),
            1 | 2 => {
                let body = vec![0; script.one_of(&[0, 100, 100, 100, 300_000])];
                self.sent.extend(core.send_acked(now, bob, 7, body));
            }
            3 => {
                let to = Some(&bob).filter(|_| !script.once_in(2));
                self.asked.extend(core.query(now, to, 7, b"how are you?", Span::from_secs(5)));
            }
            4 => self.asked.extend(core.ask(now, br#"{"ask":"rtt"}"#)),
            5 => {
                if let Some((from, id)) = self.queries.pop() {
                    _ = core.reply(now, from.as_ref(), id, Flags::NONE, 7, b"fine").is_ok();
                }
            }
            6 => core.hold(now, script.once_in(2)),
            _ => {
                if script.once_in(8) {
                    core.log_out(now);
                }
            }
        }
        self.shell.turn();
    }

    /// Each send and each question is resolved once; what is written is a client's, in its own name.
    fn look(&mut self) {
        while let Some(event) = self.shell.core.poll_event() {
            match event {
                Event::Asking => assert!(!std::mem::replace(&mut self.is_asking, true), "it asks twice at once"),
                Event::Sent { id, .. } => assert!(self.sent.remove(&id), "send {id} is resolved twice"),
                Event::Replied { id, .. } | Event::Answered { id, .. } => {
                    assert!(self.asked.remove(&id), "query {id} is resolved twice");
                }
                Event::Query(query) => self.queries.push((query.from, query.id)),
                Event::Presence { user, online } => {
                    assert_ne!(self.online.contains(&user), online, "{user} is told of twice");
                    if online {
                        self.online.insert(user)
                    } else {
                        self.online.remove(&user)
                    };
                }
                Event::Blob(event) => {
                    if let Some((key, bytes)) = self.blobs.hear(event) {
                        self.shell.core.take_blob(self.shell.now, &key);
                        self.shell.core.release_blob(bytes);
                        self.shell.turn();
                    }
                }
                Event::State(_) | Event::Message(_) | Event::Bounced { .. } => {}
                Event::Joined { id, .. } => assert!(self.asked.remove(&id), "join {id} is resolved twice"),
                Event::GroupMessage { .. } | Event::Member { .. } | Event::MembersMissed(_) => {}
            }
        }
        for written in std::mem::take(&mut self.shell.written) {
            let Start::Frame { seen, .. } = frame::read(&written.bytes) else { unreachable!("it was read before") };
            let spoken = [LOGIN, LOGOUT, DATA, ACK, QUERY, REPLY, ASK, GROUP_JOIN, GROUP_LEAVE, GROUP_DATA];
            assert!(spoken.contains(&seen.kind), "{:#04x} from a client", seen.kind);
            assert_eq!(seen.from, USER, "{:#04x} in another's name", seen.kind);
        }
    }

    fn end(mut self) {
        if let Some(wire) = self.conn {
            self.shell.hang_up(wire, End::Eof);
        }
        self.shell.pass(Span::from_secs(31));
        self.look();
        assert!(self.sent.is_empty(), "sends without an outcome: {:?}", self.sent);
        assert!(self.asked.is_empty(), "queries without an outcome: {:?}", self.asked);
        assert!(self.blobs.sent.is_empty(), "blobs without an outcome: {:?}", self.blobs.sent);
        let received = self.shell.core.blobs_received();
        assert_eq!((received.count(), received.held()), (0, 0), "blobs without an end");
        self.shell.wind_up();
        self.look();
        assert!(self.shell.core.is_stopped());
        assert_eq!(self.shell.core.deadline().filter(|at| *at <= self.shell.now), None);
    }
}

/// The body, and the flags that go with it.
fn with_flags<'a>((own, body): (u8, &'a [u8]), flags: &mut u8) -> &'a [u8] {
    *flags = own;
    body
}

const SPOKEN: [u8; 21] = [
    GROUP_EVENT,
    GROUP_EVENT,
    GROUP_DATA,
    DATA,
    DATA,
    DATA,
    ACK,
    ACK,
    BOUNCE,
    BOUNCE,
    QUERY,
    REPLY,
    ANSWER,
    PING,
    PONG,
    CLOSE,
    WELCOME,
    PRESENCE,
    GROUP_DATA,
    LOGIN,
    CHALLENGE,
];

const WELCOMES: [&[u8]; 6] = [
    br#"{"server":1,"session":"1-2-7","heartbeat_ms":10000,"max_frame":1048576,"cluster":"up","later":[]}"#,
    br#"{"server":1,"session":"1-2-7","heartbeat_ms":10000,"max_frame":4096,"cluster":"somehow"}"#,
    br#"{"server":1,"session":"","heartbeat_ms":0,"max_frame":0,"cluster":"none"}"#,
    br#"{"server":1,"session":"","heartbeat_ms":0,"max_frame":18446744073709551615,"cluster":"none"}"#,
    br#"{"server":70000,"session":"","heartbeat_ms":0,"max_frame":4096,"cluster":"down"}"#,
    b"{}",
];

const CLOSES: [&[u8]; 7] = [
    b"",
    b"bye",
    br#"{"text":"moving","retry_after_ms":700,"go_to":"10.0.0.2:6001"}"#,
    br#"{"retry_after_ms":18446744073709551615}"#,
    br#"{"go_to":"nowhere"}"#,
    b"{\"text\":",
    b"\xff\xfe",
];
