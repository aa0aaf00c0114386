//! An application server between clients and an ACMS, of which one side is hostile.
//!
//! Long for what it drives and judges: every call of the application's and every frame of both sides.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use trunkline::id::{ConnId, GroupId, ServerId, UserId};
use trunkline::limits;
use trunkline::link::{End, Link};
use trunkline::role::Core;
use trunkline::role::appserver::{
    AppServer, Config, CutOff, Edit, Event, Friendship, JoinRef, Membership, Peer, QueryRef, QuerySource, Rates,
    Verdict,
};
use trunkline::role::blob;
use trunkline::time::{Span, Time};
use trunkline::wire::link::{self, Prover, Relogin};
use trunkline::wire::{BlobCause, Bounce, Flags, ListRequest, Profile, parse_object};

use super::blobs::{self, Blobs};
use super::frame::{
    self, ACK, ANSWER, ASK, BIND, BOUNCE, BURST_BEGIN, CHALLENGE, CLAIM, CLAIMED, CLOSE, DATA, DIGEST, DRAIN, Draft,
    EVERYONE, FOUND, GROUP_DATA, GROUP_EDIT, GROUP_EVENT, GROUP_JOIN, GROUP_LEAVE, GROUP_MEMBERS, GROUP_MEMBERS_ARE,
    GROUP_OFF, GROUP_ON, INSPECT, INSPECTED, KICK, LIST, LISTED, LOGIN, LOGOUT, LOOKUP, MOVE, NAMES, OPENINGS, PING,
    PONG, PRESENCE, PROVE, QUERY, REGISTER, REGISTERED, RELAYED, REPLY, RESYNC, SERVER_DATA, SERVER_QUERY, SERVERS,
    STATE, SYNCED, Seen, Start, UNBIND, UNWATCH, WATCH, WELCOME,
};
use super::script::Script;
use super::shell::{Allowance, MEMORIES, SPANS, START, STORMS, Shell, Watched, Written, late};

const SERVER: u16 = 1;
const INCARNATION: u64 = 2;
const EPOCH: u64 = 3;
const NONCE: [u8; 32] = [4; 32];
const SECRET: &[u8] = b"secret";
const DRAIN_SPREAD: Span = Span::from_secs(2);

/// What a client may send: anything, few frames, few bytes, few of both.
const RATES: [Rates; 4] = [
    Rates::NONE,
    Rates { messages_per_second: 20, bytes_per_second: 0 },
    Rates { messages_per_second: 0, bytes_per_second: 30_000 },
    Rates { messages_per_second: 5, bytes_per_second: 3_000 },
];

/// Steps of one run, at most: a longer input says nothing that a shorter one can't.
const STEPS_MAX: usize = 64;

/// Hostile clients; the ACMS says only what it may, but whenever the input likes.
pub(crate) fn client_port(input: &[u8]) {
    Site::run(input, false);
}

/// A hostile ACMS; the clients keep to the protocol.
pub(crate) fn uplink_port(input: &[u8]) {
    Site::run(input, true);
}

fn config(script: &mut Script<'_>, always_member: bool) -> Config {
    let choices = script.byte();
    let secret = if choices & 1 == 0 { Vec::new() } else { SECRET.to_vec() };
    let membership = Membership {
        acms: ([10, 0, 0, 9], 6001).into(),
        name: "demo".to_owned(),
        secret,
        public_address: "10.0.0.1:6000".to_owned(),
        capacity: 100,
    };
    let setting = script.below(256);
    Config {
        server: ServerId(SERVER),
        incarnation: INCARNATION,
        max_frame: [1 << 20, 4 << 10, 64 << 10][setting % 3],
        heartbeat: limits::HEARTBEAT,
        heartbeat_timeout: limits::HEARTBEAT_TIMEOUT,
        login_timeout: limits::LOGIN_TIMEOUT,
        connections_max: if choices & 2 == 0 { 100 } else { 4 },
        max_accepts_per_second: [0, 0, 2][setting / 48 % 3],
        memory_max: MEMORIES[setting / 3 % MEMORIES.len()],
        rates: RATES[setting / 12 % RATES.len()],
        drain: DRAIN_SPREAD,
        relogin: if choices & 4 == 0 { Relogin::ReplaceOld } else { Relogin::KeepOld },
        cut_off: if choices & 8 == 0 { CutOff::ServeLocal } else { CutOff::RefuseNew },
        takes_messages: choices & 16 == 0,
        takes_queries: choices & 32 == 0,
        asks_joins: choices & 64 == 0,
        takes_queries_before_login: choices & 16 == 0,
        blobs: blob::Config { taken: choices & 16 == 0, bytes_max: 100_000 },
        cluster: (always_member || choices & 0xc0 != 0).then_some(membership),
        seed: [1; 32],
    }
}

impl Watched for AppServer {
    fn queue_bytes_max(link: &Link<Peer>) -> usize {
        match link.peer {
            Peer::Client(_) => (1 << 20) + 4 + (256 << 10),
            Peer::Acms(_) => (16 << 20) + (256 << 10),
        }
    }

    fn is_strangers(link: &Link<Peer>) -> bool {
        matches!(link.peer, Peer::Client(_))
    }

    fn stop(&mut self, now: Time) {
        AppServer::stop(self, now);
    }
}

struct Site<'a> {
    script: Script<'a>,
    shell: Shell<AppServer>,
    secret: Vec<u8>,
    acms_is_hostile: bool,
    /// The connection to the ACMS, the latest that was answered.
    uplink: Option<usize>,
    /// The nonce of the latest PROVE.
    server_nonce: link::Nonce,
    /// Connections that had one.
    proven: Vec<usize>,
    /// Logins that the application has not judged.
    asked: Vec<ConnId>,
    /// Claims that the ACMS has not answered: session and user.
    claims: Vec<(u64, Vec<u8>)>,
    /// Questions about a user, and about all, that it has not: kind, id and user.
    inspections: Vec<(u8, u64, Vec<u8>)>,
    /// Lookups that it has not.
    lookups: Vec<u64>,
    /// Messages and queries that the application has not answered.
    inbox: Vec<QueryRef>,
    /// Joins that it has not judged.
    joins: Vec<JoinRef>,
    /// Which groups each connection was told that it is in.
    groups: BTreeSet<(usize, Vec<u8>)>,
    /// Queries of servers, and of programs that have not logged in, that it has not.
    queries: Vec<QuerySource>,
    /// Users who are in and were given no friends yet.
    friendless: Vec<ConnId>,
    /// Users to be watched that the application has not permitted: whose question, its id, whom.
    watches: Vec<(ConnId, u64, Vec<UserId>)>,
    blobs: Blobs,
}

impl Site<'_> {
    fn run(input: &[u8], acms_is_hostile: bool) {
        let mut script = Script::new(input);
        let config = config(&mut script, acms_is_hostile);
        let allowance = Allowance {
            messages_per_second: config.rates.messages_per_second,
            bytes_per_second: config.rates.bytes_per_second,
            burst_bytes: config.rates.bytes_per_second.max(4 + config.max_frame as u64),
        };
        let memory_max = config.memory_max;
        let secret = config.cluster.as_ref().map_or(Vec::new(), |membership| membership.secret.clone());
        let mut site = Site {
            script,
            shell: Shell::new(AppServer::new(START, config), allowance, memory_max),
            secret,
            acms_is_hostile,
            uplink: None,
            server_nonce: [0; 32],
            proven: Vec::new(),
            asked: Vec::new(),
            claims: Vec::new(),
            lookups: Vec::new(),
            inspections: Vec::new(),
            inbox: Vec::new(),
            joins: Vec::new(),
            groups: BTreeSet::new(),
            queries: Vec::new(),
            friendless: Vec::new(),
            watches: Vec::new(),
            blobs: Blobs::default(),
        };
        site.begin();
        for _ in 0..STEPS_MAX {
            if site.script.is_over() {
                break;
            }
            site.step();
            site.look();
        }
        site.end();
    }

    /// Up to three users, and an uplink that got as far as the input says.
    fn begin(&mut self) {
        let users = self.script.below(4);
        let uplink_steps = self.script.below(6);
        self.shell.pass(Span::default());
        for step in 0..uplink_steps {
            match step {
                0 => self.uplink = self.shell.answer_dial(),
                1 => self.challenge(),
                2 => self.registered(),
                _ => {}
            }
            self.look();
        }
        for name in &NAMES[..users] {
            let Some(wire) = self.shell.accept() else { continue };
            let login = Draft { from: name, ..Draft::of(LOGIN) }.write();
            self.shell.send(wire, &[OPENINGS[0], &login].concat(), 0);
            self.look();
            self.judge_login(Verdict::Accept);
            self.look();
            self.answer_claim(0);
            self.look();
        }
    }

    fn step(&mut self) {
        match self.script.below(20) {
            0 => _ = self.shell.accept(),
            1..=4 => self.client_speaks(),
            5 => self.client_opens(),
            6 => self.client_talks_nonsense(),
            7 => {
                let verdict = match self.script.below(8) {
                    0 => Verdict::Refuse("no".to_owned()),
                    1 => Verdict::Unavailable("later".to_owned()),
                    2 => Verdict::Fault,
                    _ => Verdict::Accept,
                };
                self.judge_login(verdict);
            }
            8 => {
                let code = self.script.one_of(&[0, 0, 0, 1509, 1508, 7]);
                self.answer_claim(code);
            }
            9..=11 => self.acms_speaks(),
            12 => self.uplink_changes(),
            13 => {
                let span = self.script.one_of(&SPANS);
                self.shell.pass(span);
            }
            14 => {
                if let Some(wire) = self.any_wire() {
                    let room = self.script.one_of(&[0, 1, 19, 100, 5_000, 70_000, usize::MAX]);
                    self.shell.set_room(wire, room);
                }
            }
            15 => {
                if let Some(wire) = self.any_wire() {
                    let ends = [End::Eof, End::Failed(std::io::ErrorKind::ConnectionReset)];
                    let end = self.script.one_of(&ends);
                    self.shell.hang_up(wire, end);
                }
            }
            16 => self.application_acts(),
            17 => self.flood(),
            18 => {
                if let Some(wire) = self.any_wire() {
                    let pings = self.script.one_of(&STORMS);
                    self.shell.storm(wire, pings);
                }
            }
            _ => self.application_acts(),
        }
    }

    fn any_wire(&mut self) -> Option<usize> {
        let wires = self.shell.wires.len();
        (wires > 0).then(|| self.script.below(wires))
    }

    fn any_client(&mut self) -> Option<usize> {
        self.any_wire().filter(|wire| !self.shell.wires[*wire].dialled)
    }

    fn client_opens(&mut self) {
        let Some(wire) = self.any_client() else { return };
        let opening = if self.acms_is_hostile { OPENINGS[0] } else { self.script.one_of(&OPENINGS) };
        let late = late(&mut self.script);
        self.shell.send(wire, opening, late);
    }

    fn client_talks_nonsense(&mut self) {
        let Some(wire) = self.any_client().filter(|_| !self.acms_is_hostile) else { return };
        let nonsense = self.script.bytes(64);
        self.shell.send(wire, nonsense, 0);
    }

    fn client_speaks(&mut self) {
        let Some(wire) = self.any_client() else { return };
        let user = self.shell.wires[wire].user.clone();
        let kinds = match user {
            Some(_) => &SPOKEN_ONLINE[..],
            None => &SPOKEN_BEFORE[..],
        };
        let script = &mut self.script;
        let kind = script.one_of(kinds);
        let own_from = self.acms_is_hostile || !script.once_in(16);
        let from = user.as_deref().filter(|_| own_from).unwrap_or_else(|| frame::name(script));
        let (to, info, mut id, mut flags) =
            (frame::name(script), frame::info(script), frame::id(script), frame::flags(script, kind));
        let body = match kind {
            LOGIN => script.one_of(&LOGINS),
            ASK => asked(script),
            QUERY => {
                let (own, body) = blobs::part(script, flags);
                flags = own;
                body
            }
            REPLY => {
                let (own, body) = blobs::answer(script, flags);
                flags = own;
                id = self.blobs.sent.first().copied().filter(|_| script.once_in(2)).unwrap_or(id);
                body
            }
            _ => script.bytes(200),
        };
        let mut draft = Draft { kind, flags, info, id, to, from, body };
        self.shell.mark(&mut draft);
        let mut bytes = draft.write();
        if !self.acms_is_hostile {
            frame::spoil(script, &mut bytes);
        }
        let late = late(script);
        self.shell.send(wire, &bytes, late);
    }

    fn flood(&mut self) {
        let Some(wire) = self.any_wire() else { return };
        let (to, from) = (frame::name(&mut self.script), self.shell.wires[wire].user.clone());
        let from = from.unwrap_or_else(|| b"carol".to_vec());
        let kind = self.script.one_of(&[DATA, QUERY, REPLY]);
        let flags = frame::flags(&mut self.script, kind);
        let body_bytes = self.script.one_of(&[3_000, 30_000, 200_000, 500_000, 1_048_000]);
        let draft = Draft { kind, flags, to: &to[..to.len().min(64)], from: &from, ..Draft::of(kind) };
        self.shell.flood(wire, draft, body_bytes);
    }

    fn judge_login(&mut self, verdict: Verdict) {
        if !self.asked.is_empty() {
            let conn = self.asked.remove(0);
            self.shell.core.verdict(self.shell.now, conn, verdict);
            self.shell.turn();
        }
    }

    fn application_acts(&mut self) {
        let now = self.shell.now;
        let script = &mut self.script;
        let user = |name: &[u8]| UserId::parse(name).unwrap_or_else(|_| UserId::parse(b"carol").expect("an id"));
        let to = user(frame::name(script));
        let group = GroupId::parse(script.one_of(&NAMES)).unwrap_or_else(|_| GroupId::parse(b"bob").expect("an id"));
        let core = &mut self.shell.core;
        match script.below(30) {
            26 => {
                let body = vec![0; script.one_of(&[0, 100, 50_000])];
                self.blobs.sent.extend(core.send_blob(now, to, 7, "a blob", body.into()));
            }
            27 => {
                if let Some(key) = self.blobs.offered.pop() {
                    core.accept_blob(now, &key);
                }
            }
            28 => {
                if let Some(key) = self.blobs.refuse() {
                    core.refuse_blob(now, &key, BlobCause::Denied, "no".to_owned());
                }
            }
            29 => {
                if let Some(id) = self.blobs.sent.first() {
                    core.cancel_blob(now, *id);
                }
            }
            20 => {
                let friends = script.one_of(&[&NAMES[..4], &NAMES[..1], &[]]);
                let friends = Friendship::Users(friends.iter().map(|name| user(name)).collect());
                if let Some(conn) = self.friendless.pop() {
                    core.befriend(now, conn, if script.once_in(2) { Friendship::Everyone } else { friends });
                }
            }
            21 | 22 => {
                if let Some((conn, id, users)) = self.watches.pop() {
                    let users = users.into_iter().map(|user| (user, !script.once_in(4))).collect();
                    core.permit(now, conn, id, users);
                }
            }
            23 => core.watch(now, &[to, user(b"bob")]),
            24 => core.unwatch(now, &[to]),
            0 => {
                let flags = script.one_of(&[Flags::NONE, Flags::WANT_ACK, Flags::DROPPABLE]);
                // What can't be sent is told to the caller, which is no concern here.
                _ = core.send(now, &to, flags, 7, b"from the server", None).is_ok();
            }
            1 => drop(core.send(now, &to, Flags::NONE, 7, b"a question", Some(now + Span::from_secs(5)))),
            2 => _ = core.kick(now, &to, "kicked"),
            3 => core.locate(now, 5, &[to, user(b"bob")]),
            4 => {
                if let Some(query) = self.inbox.pop() {
                    core.reply(now, &query, Flags::NONE, 7, b"a reply");
                }
            }
            5 => {
                if let Some(message) = self.inbox.pop() {
                    core.acknowledge(now, &message);
                }
            }
            6 => {
                if let Some(message) = self.inbox.pop() {
                    core.refuse(now, &message, script.one_of(&[Bounce::Busy, Bounce::Denied]));
                }
            }
            7 => {
                if script.once_in(16) {
                    core.stop(now);
                }
            }
            8 => {
                let ends = script.once_in(2).then_some(now + Span::from_secs(5));
                // What can't be sent is told to the caller, which is no concern here.
                _ = core.send_to_server(now, ServerId(script.below(3) as u16), 7, b"to a server", ends).is_ok();
            }
            9 => {
                if let Some(query) = self.queries.pop() {
                    core.answer_query(now, &query, Flags::NONE, b"a reply");
                }
            }
            10 => {
                if let Some(query) = self.queries.pop() {
                    core.refuse_query(now, &query, Bounce::Busy);
                }
            }
            11 => _ = core.broadcast(now, &group, Flags::NONE, 7, b"from the server").is_ok(),
            12 => {
                let edit = script.one_of(&[Edit::Add, Edit::Remove]);
                _ = core.edit_group(now, &to, &group, edit, now + Span::from_secs(3)).is_ok();
            }
            13 => core.list_members(now, 6, group),
            14 => {
                if let Some(join) = self.joins.pop() {
                    core.join_verdict(now, &join, script.one_of(&[Ok(()), Ok(()), Err(Bounce::Denied)]));
                }
            }
            15 => _ = core.inspect(now, &to).is_ok(),
            16 => {
                let request = ListRequest { server: None, after: 0, limit: script.below(3) };
                _ = core.list(now, &request).is_ok();
            }
            17 => _ = core.set_tag(&to, script.one_of(&["", "a tag"])),
            18 => _ = core.send_everyone(now, 7, b"to everyone").is_ok(),
            19 => _ = core.send_acked(now, &to, 7, b"acked", now + Span::from_secs(5)).is_ok(),
            _ => {
                // The others let in two a second at the least, and give up half of that.
                let longest = DRAIN_SPREAD.max(Span::from_secs(self.shell.wires.len() as u64));
                let spread = core.drain(now);
                assert!(spread <= longest, "a drain of {spread:?}");
                self.shell.moves_clients = true;
            }
        }
        self.shell.turn();
    }

    fn uplink_changes(&mut self) {
        match self.script.below(6) {
            0 | 1 => {
                if let Some(wire) = self.shell.answer_dial() {
                    self.uplink = Some(wire);
                }
            }
            2 => self.shell.refuse_dial(),
            3 => self.challenge(),
            4 => self.registered(),
            _ => {
                for step in [Site::challenge, Site::registered] {
                    step(self);
                    self.look();
                }
            }
        }
    }

    /// What the ACMS says, as bytes on the uplink.
    fn say(&mut self, draft: &Draft<'_>) {
        let Some(wire) = self.uplink else { return };
        let mut bytes = draft.write();
        let mut late = 0;
        if self.acms_is_hostile {
            frame::spoil(&mut self.script, &mut bytes);
            late = super::shell::late(&mut self.script);
        }
        self.shell.send(wire, &bytes, late);
    }

    fn challenge(&mut self) {
        self.say(&Draft { id: EPOCH, body: &NONCE, ..Draft::of(CHALLENGE) });
    }

    fn registered(&mut self) {
        let membership = link::Membership {
            cluster: "demo",
            server: ServerId(SERVER),
            incarnation: INCARNATION,
            epoch: EPOCH,
            acms_nonce: NONCE,
            server_nonce: self.server_nonce,
        };
        let proof = if self.secret.is_empty() { [0; 32] } else { membership.prove(&self.secret, Prover::Acms) };
        self.say(&Draft { id: EPOCH, body: &proof, ..Draft::of(REGISTERED) });
    }

    fn answer_claim(&mut self, code: u32) {
        if !self.claims.is_empty() {
            let (session, user) = self.claims.remove(0);
            self.say(&Draft { info: code, id: session, to: &user, ..Draft::of(CLAIMED) });
        }
    }

    fn acms_speaks(&mut self) {
        let script = &mut self.script;
        let kinds = if self.acms_is_hostile { &SAID_BY_ANY_ACMS[..] } else { &SAID_BY_THE_ACMS[..] };
        let kind = script.one_of(kinds);
        let (to, from) = (frame::name(script), frame::name(script));
        let (info, id, flags) = (frame::info(script), frame::id(script), frame::flags(script, kind));
        let mut draft = Draft { kind, flags, info, id, to, from, body: &[] };
        match kind {
            FOUND => {
                draft.id = self.lookups.pop().unwrap_or(id);
                draft.body = script.one_of(&[&[0, 1], &[], &[0, 2], &[0]]);
            }
            INSPECTED | LISTED => {
                let Some((_, id, user)) = self.inspections.pop() else { return };
                let body = script.one_of(&[INSPECTED_BODY, LISTED_BODY, b"{}", b"nonsense"]);
                return self.say(&Draft { id, from: &user, body, ..Draft::of(kind) });
            }
            INSPECT => draft.from = b"",
            EVERYONE => (draft.to, draft.from) = (b"", b""),
            SERVER_DATA | SERVER_QUERY => {
                draft.to = script.one_of(&[&[0, 1], &[0, 2], b""]);
                draft.from = b"";
            }
            SERVERS => draft.body = script.one_of(&SERVERS_BODIES),
            KICK => draft.id = u64::from(script.byte() % 8),
            CHALLENGE => return self.challenge(),
            REGISTERED => return self.registered(),
            CLOSE => draft.body = script.one_of(&[b"bye", b"{\"text\":\"bye\",\"retry_after_ms\":5}"]),
            _ => draft.body = script.bytes(200),
        }
        if !self.acms_is_hostile && (draft.to.len() > 64 || draft.from.len() > 64) {
            return;
        }
        self.shell.mark(&mut draft);
        self.say(&draft);
    }

    /// Takes what the core tells the application, and judges what it wrote.
    fn look(&mut self) {
        while let Some(event) = self.shell.core.poll_event() {
            match event {
                Event::LoginAsked { conn, .. } => self.asked.push(conn),
                Event::LoggedIn { conn, user, .. } => {
                    if let Some(wire) = self.shell.wire_of(conn) {
                        self.shell.wires[wire].user = Some(user.as_bytes().to_vec());
                        self.friendless.push(conn);
                    }
                }
                Event::Message(inbox) | Event::Query(inbox) => {
                    let wire = self.shell.wire_of(inbox.conn).expect("a message comes on a connection");
                    let user = self.shell.wires[wire].user.as_deref();
                    assert_eq!(user, Some(inbox.user.as_bytes()), "a message of another's");
                    self.inbox.push(inbox.reference());
                }
                Event::ServerMessage(_) => {}
                Event::JoinAsked(join) => self.joins.push(join),
                Event::ServerQuery(inbox) => self.queries.push(QuerySource::Server { id: inbox.id }),
                Event::QueryBeforeLogin { conn, addr, id, .. } => {
                    let wire = self.shell.wire_of(conn).expect("a query comes on a connection");
                    assert_eq!(self.shell.wires[wire].user, None, "it has logged in");
                    self.queries.push(QuerySource::Stranger { conn, addr, id });
                }
                Event::WatchAsked { conn, id, users, .. } => {
                    assert!(users.len() <= 100, "a question to watch {} users", users.len());
                    self.watches.push((conn, id, users));
                }
                Event::Blob(event) => {
                    if let Some((key, bytes)) = self.blobs.hear(event) {
                        self.shell.core.take_blob(self.shell.now, &key);
                        self.shell.core.release_blob(bytes);
                        self.shell.turn();
                    }
                }
                Event::LoggedOut { .. }
                | Event::Presence { .. }
                | Event::DrainAsked
                | Event::Memory(_)
                | Event::Outcome { .. }
                | Event::Bounced { .. }
                | Event::Located { .. }
                | Event::Members { .. }
                | Event::Cluster(_)
                | Event::Closed { .. } => {}
            }
        }
        for written in std::mem::take(&mut self.shell.written) {
            let Start::Frame { seen, .. } = frame::read(&written.bytes) else { unreachable!("it was read before") };
            if self.shell.wires[written.wire].dialled {
                self.judge_upward(&written, &seen);
            } else {
                self.judge_downward(&written, &seen);
            }
        }
    }

    fn judge_upward(&mut self, written: &Written, seen: &Seen<'_>) {
        match seen.kind {
            PROVE => {
                assert!(!self.proven.contains(&written.wire), "a second proof on one connection");
                self.proven.push(written.wire);
                self.server_nonce = seen.body[..32].try_into().expect("a PROVE has a nonce");
            }
            CLAIM => {
                assert_eq!(seen.body.len(), 8, "a CLAIM has an age");
                self.claims.push((seen.id, seen.from.to_vec()));
            }
            BIND => {
                let (users, rest) = frame::bindings(seen.body);
                assert!(!users.is_empty() && rest.is_empty(), "a BIND of nobody, or cut short");
            }
            UNBIND => {
                let moves = self.shell.moves_clients || self.shell.foreign_codes.contains(&MOVE);
                assert!(seen.info == 0 || (1000..1500).contains(&seen.info), "an UNBIND with {}", seen.info);
                assert!(seen.info != MOVE || moves, "an UNBIND of a move that nobody asked for");
            }
            WATCH | UNWATCH => {
                let (users, rest) = frame::watched(seen.body);
                assert!(rest.is_empty() && users.is_empty() == (seen.info == 1), "{:#04x} {seen:?}", seen.kind);
            }
            STATE => {
                let state: serde_json::Value = serde_json::from_slice(seen.body).expect("a STATE is JSON");
                let number = |key: &str| state[key].as_u64().unwrap_or_else(|| panic!("no {key} in {state}"));
                assert!(number("busy_permille") <= 1_000, "{state}");
                assert!(number("bytes") >= 20 * number("frames"), "{state}");
                assert!(number("users") <= self.shell.wires.len() as u64, "{state}");
            }
            GROUP_ON | GROUP_OFF => assert!(!seen.to.is_empty() && seen.from.is_empty(), "{:?} is no group", seen.to),
            GROUP_EVENT => assert!((1..=3).contains(&seen.info), "a GROUP_EVENT {}", seen.info),
            GROUP_DATA | GROUP_EDIT | GROUP_MEMBERS | GROUP_MEMBERS_ARE => {}
            DRAIN => assert!(self.shell.moves_clients, "a DRAIN that nobody asked for"),
            LOOKUP => self.lookups.push(seen.id),
            INSPECT | LIST => {
                assert_eq!(seen.id >> 48, u64::from(SERVER), "the answer would go elsewhere");
                self.inspections.push((seen.kind, seen.id, seen.to.to_vec()));
            }
            INSPECTED => assert!(parse_object::<Profile>(seen.body).is_some(), "{:?}", seen.body),
            EVERYONE => assert_eq!((seen.to, seen.from), (&b""[..], &b""[..])),
            REGISTER | BURST_BEGIN | SYNCED | KICK | DIGEST => {}
            kind if RELAYED.contains(&kind) => match written.source {
                Some(source) => {
                    let sender = &self.shell.wires[source];
                    // The server's own BOUNCE may be the very bytes that a hostile ACMS thought of before.
                    let is_own = kind == BOUNCE && sender.dialled && self.shell.has_fed_what_bounced(seen);
                    if is_own {
                        return;
                    }
                    assert!(!sender.dialled, "{kind:#04x} goes back to the ACMS");
                    assert_eq!(sender.user.as_deref(), Some(seen.from), "a spoofed `from`");
                }
                None => {
                    let is_bounce = kind == BOUNCE && seen.body.is_empty();
                    let is_own = matches!(kind, DATA | QUERY | SERVER_DATA | SERVER_QUERY)
                        && seen.from.is_empty()
                        && seen.id >> 48 == u64::from(SERVER);
                    let is_answer = kind == REPLY && seen.from.is_empty() && seen.to.is_empty();
                    // Of a GROUP_EDIT.
                    let is_done = kind == ACK && seen.to.is_empty() && seen.body.is_empty();
                    assert!(is_bounce || is_own || is_answer || is_done, "{kind:#04x} that nobody sent");
                }
            },
            kind => panic!("{kind:#04x} to an ACMS"),
        }
    }

    fn judge_downward(&mut self, written: &Written, seen: &Seen<'_>) {
        let user = self.shell.wires[written.wire].user.as_deref();
        if seen.kind == PRESENCE {
            assert!(user.is_some() && seen.to.is_empty() && seen.body.is_empty() && seen.info <= 1, "{seen:?}");
            assert_ne!(user, Some(seen.from), "a user hears of itself");
            return;
        }
        let is_for_members = matches!(seen.kind, GROUP_DATA | GROUP_EVENT);
        assert!(is_for_members || user.unwrap_or(b"") == seen.to, "{:#04x} to another's connection", seen.kind);
        match seen.kind {
            GROUP_DATA => self.judge_said(written, seen),
            GROUP_EVENT => self.judge_member(written, seen),
            WELCOME | ANSWER => assert_eq!(seen.from, b""),
            SERVER_DATA | SERVER_QUERY => panic!("{:#04x} to a client", seen.kind),
            REPLY | BOUNCE if user.is_none() => {
                assert_eq!((seen.to, seen.from), (&b""[..], &b""[..]), "an answer to one that has not logged in");
            }
            kind if RELAYED.contains(&kind) => match written.source {
                Some(source) => {
                    let sender = &self.shell.wires[source];
                    assert!(sender.dialled || sender.user.as_deref() == Some(seen.from), "a spoofed `from`");
                }
                None => {
                    let is_bounce = kind == BOUNCE && seen.body.is_empty();
                    assert!(is_bounce || seen.from.is_empty(), "{kind:#04x} that nobody sent");
                }
            },
            kind => panic!("{kind:#04x} to a client"),
        }
    }

    /// Who is told is in, and did not say it itself.
    fn judge_said(&self, written: &Written, seen: &Seen<'_>) {
        let membership = (written.wire, seen.to.to_vec());
        assert!(self.groups.contains(&membership), "what is said in a group that it is not in");
        let user = self.shell.wires[written.wire].user.as_deref();
        assert!(self.acms_is_hostile || user != Some(seen.from), "a sender gets its own message");
    }

    fn judge_member(&mut self, written: &Written, seen: &Seen<'_>) {
        let membership = (written.wire, seen.to.to_vec());
        let user = self.shell.wires[written.wire].user.as_deref();
        match seen.info {
            1 if user == Some(seen.from) => _ = self.groups.insert(membership),
            2 if user == Some(seen.from) => _ = self.groups.remove(&membership),
            1..=3 => assert!(self.groups.contains(&membership), "who is not in hears who comes and goes"),
            4 => assert!(seen.from.is_empty() && self.groups.contains(&membership), "a GROUP_EVENT for nobody"),
            other => panic!("a GROUP_EVENT {other}"),
        }
    }

    fn end(mut self) {
        for wire in 0..self.shell.wires.len() {
            if !self.shell.wires[wire].dialled {
                self.shell.hang_up(wire, End::Failed(std::io::ErrorKind::ConnectionReset));
            }
        }
        self.look();
        assert_eq!(self.shell.core.users_online(), 0, "users without a connection");
        self.shell.pass(Span::from_secs(12));
        self.look();
        self.shell.wind_up();
        self.look();
        assert_eq!(self.shell.core.deadline().filter(|at| *at <= self.shell.now), None);
    }
}

const SPOKEN_ONLINE: [u8; 26] = [
    DATA,
    DATA,
    DATA,
    DATA,
    DATA,
    DATA,
    ACK,
    QUERY,
    QUERY,
    REPLY,
    ASK,
    ASK,
    LOGIN,
    LOGOUT,
    PING,
    PONG,
    CLOSE,
    GROUP_JOIN,
    GROUP_JOIN,
    GROUP_JOIN,
    GROUP_LEAVE,
    GROUP_DATA,
    GROUP_DATA,
    GROUP_DATA,
    GROUP_EVENT,
    PRESENCE,
];
const SPOKEN_BEFORE: [u8; 14] =
    [LOGIN, LOGIN, LOGIN, LOGIN, LOGIN, LOGIN, LOGOUT, PING, PONG, CLOSE, DATA, WELCOME, QUERY, QUERY];
const SAID_BY_THE_ACMS: [u8; 28] = [
    PRESENCE,
    PRESENCE,
    DATA,
    DATA,
    DATA,
    ACK,
    BOUNCE,
    QUERY,
    REPLY,
    KICK,
    RESYNC,
    SERVERS,
    FOUND,
    PING,
    PONG,
    CLOSE,
    SERVER_DATA,
    SERVER_QUERY,
    GROUP_DATA,
    GROUP_DATA,
    GROUP_EVENT,
    GROUP_EDIT,
    GROUP_MEMBERS,
    GROUP_MEMBERS_ARE,
    INSPECT,
    INSPECTED,
    LISTED,
    EVERYONE,
];
const SAID_BY_ANY_ACMS: [u8; 37] = [
    PRESENCE,
    PRESENCE,
    DATA,
    DATA,
    DATA,
    ACK,
    BOUNCE,
    QUERY,
    REPLY,
    KICK,
    RESYNC,
    SERVERS,
    FOUND,
    PING,
    PONG,
    CLOSE,
    CLAIMED,
    CHALLENGE,
    REGISTERED,
    CLAIM,
    LOGIN,
    ASK,
    BIND,
    WELCOME,
    SERVER_DATA,
    SERVER_QUERY,
    GROUP_DATA,
    GROUP_DATA,
    GROUP_EVENT,
    GROUP_EDIT,
    GROUP_MEMBERS,
    GROUP_MEMBERS_ARE,
    GROUP_ON,
    INSPECT,
    INSPECTED,
    LISTED,
    EVERYONE,
];

const INSPECTED_BODY: &[u8] = br#"{"server":2,"address":"10.0.0.9:40000","login_ms":5,"tag":"a tag"}"#;
const LISTED_BODY: &[u8] = br#"{"users":[{"user":"alice","server":1}],"next":7,"total":3}"#;

const LOGINS: [&[u8]; 8] = [
    b"",
    b"{}",
    br#"{"token":"t","password":"p","device":"d","agent":"a","resume":"r","later":[1]}"#,
    b"{",
    b"[null,null,null,null,null]",
    br#"{"token":1}"#,
    b"{\"token\":\"\xff\"}",
    b"{\"a\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
];

const SERVERS_BODIES: [&[u8]; 5] = [
    br#"{"servers":[{"server":1,"address":"10.0.0.1:6000"},{"server":2,"address":"b"}],"awaited":[3]}"#,
    br#"{"servers":[]}"#,
    br#"{"servers":[{"server":70000,"address":"b"}]}"#,
    b"nonsense",
    br#"{"servers":[{"server":2,"address":"b","draining":true},{"server":3,"address":"10.0.0.3:6000"}]}"#,
];

static ASKED: LazyLock<[String; 14]> = LazyLock::new(|| {
    let many = |count: usize| format!(r#"{{"ask":"online","users":[{}]}}"#, vec![r#""carol""#; count].join(","));
    [
        r#"{"ask":"where","users":["alice","bob","carol"]}"#.to_owned(),
        r#"{"ask":"online","users":["carol","dave"],"later":1}"#.to_owned(),
        r#"{"ask":"rtt"}"#.to_owned(),
        r#"{"ask":"members","group":"bob"}"#.to_owned(),
        r#"{"ask":"members","group":"alice"}"#.to_owned(),
        r#"{"ask":"weather","users":[]}"#.to_owned(),
        r#"{"ask":"where","users":["",""]}"#.to_owned(),
        many(100),
        many(101),
        "{".to_owned(),
        r#"{"ask":"watch","users":["alice","bob","carol"]}"#.to_owned(),
        r#"{"ask":"watch","users":["dave"]}"#.to_owned(),
        r#"{"ask":"unwatch","users":["bob","dave"]}"#.to_owned(),
        r#"{"ask":"friends"}"#.to_owned(),
    ]
});

fn asked(script: &mut Script<'_>) -> &'static [u8] {
    ASKED[script.below(ASKED.len())].as_bytes()
}
