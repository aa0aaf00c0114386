//! A cluster manager with a secret, between strangers and members that proved that they know it.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use trunkline::id::ServerId;
use trunkline::link::{End, Link};
use trunkline::role::Core;
use trunkline::role::acms::{Acms, Config, Peer, Policy};
use trunkline::time::{Span, Time};
use trunkline::wire::link::{Membership, Prover};

use super::frame::{
    self, ACK, BIND, BOUNCE, BURST_BEGIN, CHALLENGE, CLAIM, CLAIMED, CLOSE, DATA, DIGEST, DRAIN, Draft, EVERYONE,
    FOUND, GROUP_DATA, GROUP_EDIT, GROUP_EVENT, GROUP_MEMBERS, GROUP_MEMBERS_ARE, GROUP_OFF, GROUP_ON, INSPECT,
    INSPECTED, KICK, LIST, LISTED, LOGIN, LOOKUP, NAMES, OPENINGS, PING, PONG, PRESENCE, PROVE, QUERY, REGISTER,
    REGISTERED, RELAYED, REPLY, RESYNC, SERVER_DATA, SERVER_QUERY, SERVERS, STATE, SYNCED, Seen, Start, UNBIND,
    UNWATCH, WATCH,
};
use super::script::Script;
use super::shell::{Allowance, MEMORIES, SPANS, START, STORMS, Shell, Watched, Wire, Written, late};

const EPOCH: u64 = 3;
const NONCE: [u8; 32] = [5; 32];
const SECRET: &[u8] = b"secret";
/// Steps of one run, at most.
const STEPS_MAX: usize = 64;

/// Arbitrary bytes and mostly right frames, from strangers and from members.
pub(crate) fn transfer_port(input: &[u8]) {
    let mut script = Script::new(input);
    let config = config(&mut script);
    let memory_max = config.memory_max;
    let shell = Shell::new(Acms::new(START, config), Allowance::default(), memory_max);
    let mut hub = Hub { script, shell, members: Vec::new(), groups: BTreeSet::new() };
    hub.begin();
    for _ in 0..STEPS_MAX {
        if hub.script.is_over() {
            break;
        }
        hub.step();
        hub.look();
    }
    hub.end();
}

fn config(script: &mut Script<'_>) -> Config {
    let setting = script.below(256);
    Config {
        cluster: "demo".to_owned(),
        secret: SECRET.to_vec(),
        epoch: EPOCH,
        connections_max: [100, 3][setting % 2],
        memory_max: MEMORIES[setting / 2 % MEMORIES.len()],
        policy: Policy::default(),
        directory_grace: Span::default(),
        seed: [2; 32],
    }
}

impl Watched for Acms {
    fn queue_bytes_max(_link: &Link<Peer>) -> usize {
        (16 << 20) + (256 << 10)
    }

    fn is_strangers(link: &Link<Peer>) -> bool {
        matches!(link.peer, Peer::Stranger(_))
    }

    fn stop(&mut self, now: Time) {
        Acms::stop(self, now);
    }
}

/// What the driver knows of the other side of one connection.
#[derive(Clone, Default)]
struct Member {
    /// From CHALLENGE.
    nonce: Option<[u8; 32]>,
    server: u16,
    registered: bool,
}

struct Hub<'a> {
    script: Script<'a>,
    shell: Shell<Acms>,
    /// One a connection of the shell's.
    members: Vec<Member>,
    /// The groups that each connection ever told of.
    groups: BTreeSet<(usize, Vec<u8>)>,
}

impl Hub<'_> {
    /// Up to three members, of which the first two have a user.
    fn begin(&mut self) {
        let members = self.script.below(4);
        for server in 0..members {
            let Some(wire) = self.accept() else { continue };
            self.shell.send(wire, OPENINGS[1], 0);
            self.look();
            self.prove(wire, server as u16 + 1, 1);
            self.register(wire, REGISTERS[server]);
            self.look();
            let user = NAMES[server];
            let binding = [&1_u64.to_be_bytes()[..], &[0; 8], &[user.len() as u8], user].concat();
            for draft in [
                Draft::of(BURST_BEGIN),
                Draft::of(SYNCED),
                Draft { id: 1, from: user, body: &[0; 8], ..Draft::of(CLAIM) },
                Draft { body: &binding, ..Draft::of(BIND) },
            ] {
                self.say(wire, &draft, 0);
            }
            self.look();
        }
    }

    fn step(&mut self) {
        if self.script.once_in(16) {
            _ = self.accept();
            return;
        }
        let wires = self.shell.wires.len();
        if wires == 0 {
            _ = self.accept();
            return;
        }
        let wire = self.script.below(wires);
        match self.script.below(20) {
            0 => {
                let opening = if self.script.once_in(4) { self.script.one_of(&OPENINGS) } else { OPENINGS[1] };
                let late = late(&mut self.script);
                self.shell.send(wire, opening, late);
            }
            1 => {
                let nonsense = self.script.bytes(64);
                self.shell.send(wire, nonsense, 0);
            }
            2 => {
                let (server, incarnation) = (self.script.below(4) as u16, self.script.below(3) as u64);
                self.prove(wire, server, incarnation);
            }
            3 => {
                let body = self.script.one_of(&REGISTERS);
                self.register(wire, body);
            }
            4 => {
                if self.script.once_in(16) {
                    self.register(wire, LONG_REGISTER.as_bytes());
                }
            }
            5..=12 => self.member_speaks(wire),
            13 => {
                let span = self.script.one_of(&SPANS);
                self.shell.pass(span);
            }
            14 => {
                let room = self.script.one_of(&[0, 1, 19, 100, 5_000, 70_000, usize::MAX]);
                self.shell.set_room(wire, room);
            }
            15 => {
                let ends = [End::Eof, End::Failed(std::io::ErrorKind::ConnectionReset)];
                let end = self.script.one_of(&ends);
                self.shell.hang_up(wire, end);
            }
            16 => self.flood(wire),
            17 => {
                let pings = self.script.one_of(&STORMS);
                self.shell.storm(wire, pings);
            }
            18 => {
                // A member that lives, so that time can pass.
                for member in 0..self.shell.wires.len() {
                    if self.members[member].registered {
                        self.shell.storm(member, 1);
                    }
                }
            }
            _ => {
                if self.script.once_in(32) {
                    self.shell.core.stop(self.shell.now);
                    self.shell.turn();
                }
            }
        }
    }

    fn accept(&mut self) -> Option<usize> {
        let wire = self.shell.accept()?;
        self.members.push(Member::default());
        assert_eq!(self.members.len(), self.shell.wires.len());
        Some(wire)
    }

    fn say(&mut self, wire: usize, draft: &Draft<'_>, late: usize) {
        let mut bytes = draft.write();
        frame::spoil(&mut self.script, &mut bytes);
        self.shell.send(wire, &bytes, late);
    }

    /// PROVE, right for the connection's own nonce unless the frame is spoilt on the way.
    fn prove(&mut self, wire: usize, server: u16, incarnation: u64) {
        let acms_nonce = self.members[wire].nonce.unwrap_or([0; 32]);
        let membership = Membership {
            cluster: "demo",
            server: ServerId(server),
            incarnation,
            epoch: EPOCH,
            acms_nonce,
            server_nonce: NONCE,
        };
        let proof = membership.prove(SECRET, Prover::Server);
        let body = [NONCE, proof].concat();
        if !self.members[wire].registered {
            self.members[wire].server = server;
        }
        let draft = Draft { info: server.into(), id: incarnation, to: b"demo", body: &body, ..Draft::of(PROVE) };
        self.say(wire, &draft, 0);
    }

    fn register(&mut self, wire: usize, body: &[u8]) {
        self.say(wire, &Draft { body, ..Draft::of(REGISTER) }, 0);
    }

    fn member_speaks(&mut self, wire: usize) {
        let script = &mut self.script;
        let kind = script.one_of(&SPOKEN);
        let own = self.shell.wires[wire].told.first().cloned();
        let from = own.as_deref().filter(|_| !script.once_in(4)).unwrap_or_else(|| frame::name(script));
        let (to, mut info, id, flags) =
            (frame::name(script), frame::info(script), frame::id(script), frame::flags(script, kind));
        let body = match kind {
            BIND => bindings(script),
            WATCH | UNWATCH => watched(script),
            CLAIM if !script.once_in(16) => script.one_of(&AGES).to_be_bytes().to_vec(),
            LIST if !script.once_in(16) => script.one_of(&LISTS).to_vec(),
            STATE if !script.once_in(16) => script.one_of(&STATES).to_vec(),
            _ => script.bytes(200).to_vec(),
        };
        let from = if kind == CLAIM || kind == UNBIND { frame::name(script) } else { from };
        let (to, from) = match kind {
            SERVER_DATA | SERVER_QUERY => (script.one_of(&SERVER_NUMBERS), &b""[..]),
            INSPECT => (to, &b""[..]),
            INSPECTED => (&b""[..], from),
            _ => (to, from),
        };
        match kind {
            CLAIM => info = script.one_of(&[0, 0, 1, info]),
            WATCH | UNWATCH => info = script.one_of(&[0, 0, 0, 0, 1, info]),
            _ => {}
        }
        let late = late(script);
        let mut draft = Draft { kind, flags, info, id, to, from, body: &body };
        self.shell.mark(&mut draft);
        if kind == GROUP_ON {
            self.groups.insert((wire, to.to_vec()));
        }
        self.say(wire, &draft, late);
    }

    fn flood(&mut self, wire: usize) {
        let script = &mut self.script;
        let from = self.shell.wires[wire].told.first().cloned().unwrap_or_default();
        let (to, kind) = (frame::name(script), script.one_of(&[DATA, QUERY, REPLY, REGISTER]));
        let body_bytes = script.one_of(&[3_000, 30_000, 200_000, 500_000, 1_048_000]);
        let (to, from) = (&to[..to.len().min(64)], &from[..from.len().min(64)]);
        self.shell.flood(wire, Draft { to, from, ..Draft::of(kind) }, body_bytes);
    }

    /// Judges what the core wrote.
    fn look(&mut self) {
        while self.shell.core.poll_event().is_some() {}
        for written in std::mem::take(&mut self.shell.written) {
            let Start::Frame { seen, .. } = frame::read(&written.bytes) else { unreachable!("it was read before") };
            self.judge(&written, &seen);
        }
    }

    fn judge(&mut self, written: &Written, seen: &Seen<'_>) {
        let receiver = &mut self.members[written.wire];
        match seen.kind {
            CHALLENGE => {
                assert_eq!((seen.id, receiver.nonce), (EPOCH, None), "one CHALLENGE a connection");
                receiver.nonce = Some(seen.body.try_into().expect("a nonce of 32 bytes"));
                return;
            }
            REGISTERED => {
                receiver.registered = true;
                assert_eq!(seen.body.len(), 32, "the ACMS proves itself too");
                return;
            }
            _ => assert!(receiver.registered, "{:#04x} to a stranger", seen.kind),
        }
        match seen.kind {
            GROUP_DATA | GROUP_EVENT => {
                let membership = (written.wire, seen.to.to_vec());
                assert!(self.groups.contains(&membership), "a server without members hears what is said");
            }
            GROUP_EDIT | GROUP_MEMBERS | GROUP_MEMBERS_ARE => {}
            CLAIMED | KICK | RESYNC | SERVERS | FOUND | LISTED => {}
            EVERYONE => assert_eq!((seen.to, seen.from), (&b""[..], &b""[..])),
            INSPECT => {
                let is_there = self.shell.wires[written.wire].told.contains(seen.to);
                assert!(is_there, "asked of a user that it never told of");
            }
            INSPECTED => assert_eq!(seen.id >> 48, u64::from(receiver.server), "an answer to another server"),
            PRESENCE => {
                assert!(seen.to.is_empty() && seen.body.is_empty() && seen.info <= 1, "{seen:?}");
                assert!(seen.info == 1 || !seen.from.is_empty(), "nobody is offline");
            }
            kind if RELAYED.contains(&kind) => match written.source {
                Some(source) => {
                    let is_told = |wire: usize, user: &[u8]| self.shell.wires[wire].told.contains(user);
                    let sender = &self.members[source];
                    assert!(sender.registered, "a stranger's frame is passed on");
                    let is_free = kind == BOUNCE || seen.from.is_empty();
                    assert!(is_free || is_told(source, seen.from), "a `from` that its server never told of");
                    let receiver = &self.members[written.wire];
                    let is_for_application = matches!(kind, SERVER_DATA | SERVER_QUERY);
                    let is_servers = seen.to.is_empty() && seen.id >> 48 == u64::from(receiver.server)
                        || is_for_application && seen.to == receiver.server.to_be_bytes();
                    assert!(
                        is_servers || is_told(written.wire, seen.to),
                        "a frame at a server that its user is not on"
                    );
                }
                None => assert!(kind == BOUNCE && seen.body.is_empty(), "{kind:#04x} that nobody sent"),
            },
            kind => panic!("{kind:#04x} to a server"),
        }
    }

    fn end(mut self) {
        self.check_directory();
        self.shell.pass(Span::from_secs(12));
        self.look();
        self.check_directory();
        self.shell.wind_up();
        self.look();
        assert_eq!((self.shell.core.server_count(), self.shell.core.user_count()), (0, 0), "what went left something");
        while self.shell.core.deadline().is_some_and(|at| at <= self.shell.now) {
            self.shell.core.expire(self.shell.now);
        }
    }

    /// The digests' count of users is that of the users who are found, but for logins that may yet come to nothing.
    fn check_directory(&self) {
        let all = |of: fn(&Wire) -> &BTreeSet<Vec<u8>>| -> BTreeSet<&[u8]> {
            self.shell.wires.iter().flat_map(of).map(Vec::as_slice).collect()
        };
        let (told, claimed) = (all(|wire| &wire.told), all(|wire| &wire.claimed));
        let core = &self.shell.core;
        let found: BTreeSet<&[u8]> = told.into_iter().filter(|user| core.locate(user).is_some()).collect();
        let (claims, bound) = (found.intersection(&claimed).count(), found.difference(&claimed).count());
        let counted = core.user_count();
        assert!((bound..=bound + claims).contains(&counted), "{counted} users, {bound} and perhaps {claims} are found");
    }
}

/// How long ago a login was, in milliseconds.
const AGES: [u64; 5] = [0, 1, 5_000, 1 << 40, u64::MAX];

fn bindings(script: &mut Script<'_>) -> Vec<u8> {
    let mut body = Vec::new();
    for _ in 0..script.below(6) {
        let user = frame::name(script);
        body.extend(u64::from(script.byte() % 8).to_be_bytes());
        body.extend(script.one_of(&AGES).to_be_bytes());
        body.push(user.len() as u8);
        body.extend(user);
    }
    if script.once_in(16) {
        body.pop();
    }
    body
}

/// Users that a WATCH may name.
fn watched(script: &mut Script<'_>) -> Vec<u8> {
    let mut body = Vec::new();
    for _ in 0..script.below(4) {
        let user = frame::name(script);
        body.push(user.len() as u8);
        body.extend(user);
    }
    if script.once_in(16) {
        body.pop();
    }
    body
}

const SPOKEN: [u8; 48] = [
    GROUP_ON,
    GROUP_ON,
    GROUP_ON,
    GROUP_OFF,
    GROUP_DATA,
    GROUP_DATA,
    GROUP_DATA,
    GROUP_EVENT,
    GROUP_EDIT,
    GROUP_MEMBERS,
    GROUP_MEMBERS_ARE,
    DATA,
    DATA,
    DATA,
    DATA,
    ACK,
    BOUNCE,
    QUERY,
    REPLY,
    CLAIM,
    CLAIM,
    CLAIM,
    UNBIND,
    BURST_BEGIN,
    BIND,
    BIND,
    SYNCED,
    KICK,
    DIGEST,
    LOOKUP,
    PING,
    PONG,
    CLOSE,
    LOGIN,
    REGISTER,
    PROVE,
    CHALLENGE,
    DRAIN,
    STATE,
    SERVER_DATA,
    SERVER_QUERY,
    INSPECT,
    INSPECTED,
    LIST,
    EVERYONE,
    WATCH,
    WATCH,
    UNWATCH,
];

const LISTS: [&[u8]; 4] = [b"{}", br#"{"limit":1}"#, br#"{"after":1,"limit":9999,"server":1}"#, br#"{"after":-1}"#];

/// Servers that a message may be for: three that may be there, one that is not, and what is no number.
const SERVER_NUMBERS: [&[u8]; 6] = [&[0, 1], &[0, 2], &[0, 3], &[1, 1], &[1], b""];

const STATES: [&[u8]; 5] = [
    br#"{"users":1,"queued_bytes":2,"busy_permille":3,"frames":4,"bytes":500,"bounced":{"busy":6}}"#,
    br#"{"users":4294967295,"queued_bytes":18446744073709551615,"busy_permille":65535}"#,
    br#"{"frames":18446744073709551615,"bytes":0,"dropped":{"of_a_later_version":18446744073709551615}}"#,
    br#"{"frames":0,"bytes":18446744073709551615}"#,
    b"{}",
];

/// Four of these would not fit one SERVERS.
static LONG_REGISTER: LazyLock<String> =
    LazyLock::new(|| format!(r#"{{"address":"{}","capacity":1}}"#, "9".repeat(300_000)));

const REGISTERS: [&[u8]; 7] = [
    br#"{"address":"10.0.0.1:6000","capacity":10}"#,
    br#"{"address":"10.0.0.2:6000","capacity":10,"previous_epoch":2,"peers":[1,3,4]}"#,
    br#"{"address":"10.0.0.3:6000","capacity":10,"previous_epoch":3,"peers":[9],"later":null}"#,
    br#"{"address":"","capacity":4294967295}"#,
    br#"{"address":"a","capacity":-1}"#,
    br#"{"capacity":1}"#,
    b"[]",
];
