//! The link to the ACMS: dialled, proven, kept up to date with every session, dialled again.

use std::collections::BTreeMap;

use bytes::BytesMut;

use super::{AppServer, ClusterState, Entrant, Event, Membership, Origin, Peer, Phase, Session};
use crate::buf::{Bounds, Frame, Inbound};
use crate::id::{ConnId, GroupId, ServerId, UserId};
use crate::limits;
use crate::link::{KeepAlive, Patience, Pause, Stage};
use crate::role::directory::Digest;
use crate::role::{Backoff, Drop, Fault, Gone};
use crate::time::{Span, Time};
use crate::wire::link::{self, BindEntry, Nonce, ProveBody, Prover, Register, ServerMessageId, Servers};
use crate::wire::{Bounce, CloseCode, Kind, Outgoing, Preface, Role, parse_object};

/// Bytes of a BIND's body, about.
const BIND_BODY_BYTES: usize = 16 << 10;

/// One way to the cluster.
pub(super) struct Uplink {
    membership: Membership,
    state: State,
    backoff: Backoff,
    /// The ACMS, in closing the link, asked for this pause at least.
    pub(super) retry_after: Span,
    /// The ACMS last registered with; 0 for none yet.
    epoch: u64,
    /// Who else was in the cluster when it was last heard of.
    peers: Vec<ServerId>,
    /// Where users can go instead: the addresses of the others that take users, as far as is known.
    targets: BTreeMap<ServerId, String>,
    /// Count and hash of the sessions that the ACMS should know of.
    digest: Digest,
    digest_at: Time,
    state_at: Time,
    /// The burst under way.
    burst: Option<Burst>,
    /// Clients that are not read from until the link has room.
    waiters: Vec<ConnId>,
}

enum State {
    /// Until the next dial.
    Waiting(Time),
    /// Dialled; connected and greeting once the ACMS answers.
    Greeting { conn: ConnId, server_nonce: Nonce, expected: Option<link::Proof> },
    /// Registered.
    Up(ConnId),
    /// Refused for good.
    Refused,
}

/// How far the telling of all sessions is.
struct Burst {
    /// The next place in the slab to look at.
    next_place: usize,
    /// Sessions told of so far.
    told: u32,
    /// Groups that are told of behind them, the next one last.
    groups: Vec<GroupId>,
}

impl Uplink {
    pub(super) fn new(now: Time, membership: Membership) -> Uplink {
        Uplink {
            membership,
            state: State::Waiting(now),
            backoff: Backoff::default(),
            retry_after: Span::default(),
            epoch: 0,
            peers: Vec::new(),
            targets: BTreeMap::new(),
            digest: Digest::default(),
            digest_at: Time::NEVER,
            state_at: Time::NEVER,
            burst: None,
            waiters: Vec::new(),
        }
    }

    /// The connection, where it is registered.
    pub(super) fn open_conn(&self) -> Option<ConnId> {
        match self.state {
            State::Up(conn) => Some(conn),
            State::Waiting(_) | State::Greeting { .. } | State::Refused => None,
        }
    }

    /// The connection, where there is one.
    fn conn(&self) -> Option<ConnId> {
        match self.state {
            State::Up(conn) | State::Greeting { conn, .. } => Some(conn),
            State::Waiting(_) | State::Refused => None,
        }
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        match self.state {
            State::Waiting(until) => Some(until),
            State::Up(_) => Some(self.digest_at.min(self.state_at)),
            State::Greeting { .. } | State::Refused => None,
        }
    }
}

impl AppServer {
    /// The uplink that leads to the users that are not here.
    pub(super) fn uplink_conn(&self) -> Result<ConnId, Bounce> {
        match self.uplinks.first() {
            None => Err(Bounce::Offline),
            Some(uplink) => uplink.open_conn().ok_or(Bounce::Unreachable),
        }
    }

    /// Sends control to the ACMS; false where the link does not stand. A link that has no room even for control is
    /// closed before the call ends: the burst after its return repairs what it missed.
    pub(super) fn control_up(&mut self, now: Time, frame: &Outgoing<'_>) -> bool {
        let Ok(conn) = self.uplink_conn() else { return false };
        if self.links.send_control(now, conn, frame).is_ok() {
            return true;
        }
        self.overwhelmed.push(conn);
        false
    }

    /// Where users can be sent.
    pub(super) fn targets(&self) -> impl Iterator<Item = &String> {
        self.uplinks.first().into_iter().flat_map(|uplink| uplink.targets.values())
    }

    pub(super) fn expire_uplinks(&mut self, now: Time) {
        for place in 0..self.uplinks.len() {
            if self.is_stopping() {
                return;
            }
            match self.uplinks[place].state {
                State::Waiting(until) if until <= now => self.dial(now, place),
                State::Up(_) => {
                    if self.uplinks[place].state_at <= now {
                        self.send_state(now, place);
                    }
                    if self.uplinks[place].digest_at <= now {
                        self.send_digest(now, place);
                    }
                }
                State::Waiting(_) | State::Greeting { .. } | State::Refused => {}
            }
        }
    }

    fn dial(&mut self, now: Time, place: usize) {
        let patience = Patience {
            first_byte: limits::DIAL_TIMEOUT,
            greeting: limits::DIAL_TIMEOUT,
            keep_alive: KeepAlive::WhenUnsent(limits::LINK_KEEPALIVE),
            silence: limits::LINK_TIMEOUT,
        };
        let bounds = Bounds { soft: limits::UPLINK_QUEUE_SOFT_BYTES, hard: limits::UPLINK_QUEUE_BYTES_MAX };
        let acms = self.uplinks[place].membership.acms;
        let conn = self.links.dial(now, acms, patience, bounds, Peer::Acms(place));
        let server_nonce = self.entropy.nonce();
        self.uplinks[place].state = State::Greeting { conn, server_nonce, expected: None };
    }

    pub(super) fn uplink_connected(&mut self, now: Time, conn: ConnId) {
        self.links.send_bytes(now, conn, &Preface::of(Role::Server).encode());
        self.links.advance(now, conn, Stage::Greeting);
    }

    /// The link is gone: logins that wait for it are settled, clients that wait for it are heard again.
    pub(super) fn uplink_lost(&mut self, now: Time, place: usize, gone: Gone, text: &str) {
        let pause = self.uplinks[place].backoff.next(&mut self.entropy.jitter);
        let uplink = &mut self.uplinks[place];
        uplink.burst = None;
        let pause = pause.max(std::mem::take(&mut uplink.retry_after));
        let (state, change) = match gone {
            Gone::ClosedByPeer(code) if !code.reconnects() => {
                (State::Refused, ClusterState::Refused { code, text: text.to_owned() })
            }
            Gone::ClosedByPeer(_) | Gone::Closed(_) | Gone::Ended(_) => {
                (State::Waiting(now + pause), ClusterState::Down { gone, pause })
            }
        };
        uplink.state = state;
        if !self.is_stopping() {
            self.events.push_back(Event::Cluster(change));
        }
        self.settle_claims(now);
        self.settle_questions(now);
        self.settle_rosters(now);
        self.release_waiters(now, place);
        if matches!(self.phase, Phase::Leaving) {
            self.stop(now);
        }
    }

    /// Stops reading from a client whose frames fill the uplink `conn`.
    pub(super) fn wait_for_uplink(&mut self, client: ConnId, conn: ConnId) {
        let Some(Peer::Acms(place)) = self.links.get(conn).map(|link| &link.peer) else { return };
        let place = *place;
        if self.links.pause(client, Pause::Uplink) {
            self.uplinks[place].waiters.push(client);
        }
    }

    /// The uplink has room: its burst goes on, and who waited for it waits no longer.
    pub(super) fn release_waiters(&mut self, now: Time, place: usize) {
        for client in std::mem::take(&mut self.uplinks[place].waiters) {
            self.links.resume(now, client, Pause::Uplink);
        }
        self.continue_burst(now, place);
        self.continue_interest(now);
    }

    pub(super) fn take_from_acms(&mut self, now: Time, place: usize, inbound: &mut Inbound<'_>) -> Result<(), Fault> {
        while self.uplinks[place].conn().is_some() {
            let Some(mut frame) = inbound.next(limits::MAX_FRAME)? else { break };
            match self.uplinks[place].state {
                State::Greeting { conn, .. } => self.greeting_from_acms(now, place, conn, &frame)?,
                State::Up(conn) => self.frame_from_acms(now, place, conn, &mut frame)?,
                State::Waiting(_) | State::Refused => break,
            }
        }
        Ok(())
    }

    fn greeting_from_acms(&mut self, now: Time, place: usize, conn: ConnId, frame: &Frame<'_>) -> Result<(), Fault> {
        match frame.envelope.header.kind {
            Kind::Challenge => self.challenged(now, place, conn, frame),
            Kind::Registered => self.registered(now, place, conn, frame),
            Kind::Ping => self.pong(now, conn, &frame.envelope),
            Kind::Pong => Ok(()),
            Kind::Close => self.closed_by_peer(now, conn, frame),
            kind => Err(Fault::unexpected(kind)),
        }
    }

    /// Proves membership, and says at once what there is to say behind the proof.
    fn challenged(&mut self, now: Time, place: usize, conn: ConnId, frame: &Frame<'_>) -> Result<(), Fault> {
        let acms_nonce = Nonce::try_from(&frame.body()[..])
            .map_err(|_| Fault::new(CloseCode::BAD_FIELD, "the body of CHALLENGE is 32 bytes"))?;
        let draining = self.is_draining();
        let uplink = &mut self.uplinks[place];
        // One proof a connection: who asks for more of them has no use for them but to collect.
        let State::Greeting { server_nonce, expected: expected @ None, .. } = &mut uplink.state else {
            return Err(Fault::unexpected(Kind::Challenge));
        };
        let membership = link::Membership {
            cluster: &uplink.membership.name,
            server: self.config.server,
            incarnation: self.config.incarnation,
            epoch: frame.envelope.header.id,
            acms_nonce,
            server_nonce: *server_nonce,
        };
        let secret = &uplink.membership.secret;
        let proof = if secret.is_empty() { [0; 32] } else { membership.prove(secret, Prover::Server) };
        *expected = Some(membership.prove(secret, Prover::Acms));
        let body = ProveBody { nonce: *server_nonce, proof }.encode();
        let prove = Outgoing {
            info_type: self.config.server.0.into(),
            id: self.config.incarnation,
            to: uplink.membership.name.as_bytes(),
            body: &body,
            ..Outgoing::of(Kind::Prove)
        };
        let register = Register {
            address: uplink.membership.public_address.clone(),
            capacity: uplink.membership.capacity,
            previous_epoch: uplink.epoch,
            peers: uplink.peers.clone(),
            draining,
        };
        let register = serde_json::to_vec(&register).expect("numbers and plain text");
        let register = Outgoing { body: &register, ..Outgoing::of(Kind::Register) };
        for frame in [prove, register] {
            self.links.send_control(now, conn, &frame).map_err(|_| Fault::new(CloseCode::SLOW, "no room"))?;
        }
        Ok(())
    }

    fn registered(&mut self, now: Time, place: usize, conn: ConnId, frame: &Frame<'_>) -> Result<(), Fault> {
        let uplink = &mut self.uplinks[place];
        let State::Greeting { expected: Some(expected), .. } = &uplink.state else {
            return Err(Fault::unexpected(Kind::Registered));
        };
        // The expectation is this side's own: nobody can try proofs against it, so plain comparison tells nothing.
        if !uplink.membership.secret.is_empty() && frame.body()[..] != expected[..] {
            return Err(Fault::new(CloseCode::NOT_A_MEMBER, "the ACMS could not prove its membership"));
        }
        uplink.state = State::Up(conn);
        uplink.epoch = frame.envelope.header.id;
        uplink.backoff.reset();
        uplink.digest_at = now + limits::DIGEST_INTERVAL;
        uplink.state_at = now + limits::STATE_INTERVAL;
        let epoch = uplink.epoch;
        self.links.advance(now, conn, Stage::Open);
        self.events.push_back(Event::Cluster(ClusterState::Up { epoch }));
        // REGISTER said so, unless it has begun since.
        if self.is_draining() {
            self.tell_drain(now);
        }
        self.begin_burst(now, place);
        Ok(())
    }

    fn frame_from_acms(&mut self, now: Time, place: usize, conn: ConnId, frame: &mut Frame<'_>) -> Result<(), Fault> {
        let header = frame.envelope.header;
        match header.kind {
            Kind::Data | Kind::Query | Kind::Reply | Kind::Ack | Kind::Bounce => {
                self.route_from_acms(now, place, frame);
            }
            Kind::ServerData | Kind::ServerQuery => self.take_from_server(now, place, frame),
            Kind::GroupData | Kind::GroupEvent | Kind::GroupEdit => self.group_from_acms(now, place, frame)?,
            Kind::GroupMembers | Kind::GroupMembersAre => self.members_from_acms(now, frame)?,
            Kind::Claimed => self.claimed(now, header.id, header.info_type),
            Kind::Kick => {
                let code = CloseCode::from_wire(header.info_type).unwrap_or(CloseCode::KICKED);
                self.kicked(now, frame.envelope.to, header.id, code, &frame.body());
            }
            Kind::Resync => self.begin_burst(now, place),
            Kind::Drain => self.events.push_back(Event::DrainAsked),
            Kind::Servers => {
                let servers: Servers = parse_object(&frame.body())
                    .ok_or_else(|| Fault::new(CloseCode::BAD_FIELD, "the body of SERVERS is its JSON"))?;
                self.learn_servers(place, servers);
            }
            Kind::Found => self.found(now, frame),
            Kind::Inspect => self.inspected(now, place, frame),
            Kind::Inspected | Kind::Listed => self.returned_from_acms(now, frame),
            Kind::Everyone => self.announced(now, frame),
            Kind::Presence => self.presence_from_acms(frame.envelope.from, header.info_type == link::ONLINE),
            Kind::Ping => self.pong(now, conn, &frame.envelope)?,
            Kind::Pong => self.ponged(now, header.id),
            Kind::Close => self.closed_by_peer(now, conn, frame)?,
            kind => return Err(Fault::unexpected(kind)),
        }
        Ok(())
    }

    /// Who else is there. Of those that a restarted ACMS still waits for, what it told before holds: they are there, and
    /// have only not come back to it yet.
    fn learn_servers(&mut self, place: usize, Servers { servers, awaited }: Servers) {
        let uplink = &mut self.uplinks[place];
        uplink.targets.retain(|server, _| awaited.contains(server));
        uplink.peers = servers.iter().map(|entry| entry.server).chain(awaited).collect();
        for entry in servers {
            if entry.draining || entry.server == self.config.server {
                uplink.targets.remove(&entry.server);
            } else {
                uplink.targets.insert(entry.server, entry.address);
            }
        }
    }

    /// A frame from the ACMS ends here: it goes to a user of this server or to the server itself, never back up.
    fn route_from_acms(&mut self, now: Time, place: usize, frame: &mut Frame<'_>) {
        let envelope = frame.envelope;
        if envelope.to.is_empty() {
            return self.returned_from_acms(now, frame);
        }
        let routed = match self.users.get(envelope.to) {
            Some(receiver) => self.deliver(now, *receiver, frame),
            // Its users are on their way to other servers.
            None if self.is_draining() => Err(Bounce::Retry),
            None => Err(Bounce::Offline),
        };
        if let Err(cause) = routed {
            self.bounce(now, Origin::Acms(place), &frame.envelope, cause);
        }
    }

    /// What answers a message that a server sent ends at that server.
    fn returned_from_acms(&mut self, now: Time, frame: &Frame<'_>) {
        if ServerMessageId::server(frame.envelope.header.id) == self.config.server {
            self.returned(now, frame);
        } else {
            self.counters.count_drop(Drop::Unroutable);
        }
    }

    /// Tells the ACMS of every session; those that open while it goes on are claimed one by one as ever.
    fn begin_burst(&mut self, now: Time, place: usize) {
        self.control_up(now, &Outgoing::of(Kind::BurstBegin));
        self.uplinks[place].burst = Some(Burst { next_place: 0, told: 0, groups: self.groups.list() });
        self.continue_burst(now, place);
    }

    /// Claims that the ACMS forgot with the burst's beginning, made again behind it. One that it had answered is
    /// answered twice; the second answer finds nobody waiting.
    fn claim_again(&mut self, now: Time) {
        for (_, conn) in self.claims.list() {
            let Some(Peer::Client(client)) = self.links.get(conn).map(|link| &link.peer) else { continue };
            if let Session::Claiming(entrant) = &client.session {
                let entrant = entrant.clone();
                self.send_claim(now, &entrant);
            }
        }
    }

    pub(super) fn send_claim(&mut self, now: Time, Entrant { user, session, since }: &Entrant) {
        let age = now.since(*since).as_millis().to_be_bytes();
        let policy = self.config.relogin.to_wire();
        let from = user.as_bytes();
        let claim = Outgoing { info_type: policy, id: *session, from, body: &age, ..Outgoing::of(Kind::Claim) };
        self.control_up(now, &claim);
    }

    fn continue_burst(&mut self, now: Time, place: usize) {
        if self.uplinks[place].burst.is_none() {
            return;
        }
        let mut body = BytesMut::with_capacity(BIND_BODY_BYTES + 128);
        loop {
            let Some(conn) = self.uplinks[place].open_conn() else { return };
            let Some(burst) = &mut self.uplinks[place].burst else { return };
            if self.links.get(conn).is_none_or(|link| link.queue().is_congested()) {
                return;
            }
            body.clear();
            while burst.next_place < self.links.places() && body.len() < BIND_BODY_BYTES {
                let peer = self.links.at(burst.next_place).map(|(_, link)| &link.peer);
                burst.next_place += 1;
                if let Some(Peer::Client(client)) = peer
                    && let Session::Online(Entrant { user, session, since }) = &client.session
                {
                    BindEntry::encode(*session, now.since(*since).as_millis(), user, &mut body);
                    burst.told += 1;
                }
            }
            if body.is_empty() {
                if let Some(group) = burst.groups.pop() {
                    self.tell_group(now, &group);
                    self.tell_missed(now, &group);
                    continue;
                }
                let synced = Outgoing { info_type: burst.told, ..Outgoing::of(Kind::Synced) };
                self.uplinks[place].burst = None;
                self.control_up(now, &synced);
                self.claim_again(now);
                self.begin_interest(now);
                return;
            }
            self.control_up(now, &Outgoing { body: &body, ..Outgoing::of(Kind::Bind) });
        }
    }

    fn send_state(&mut self, now: Time, place: usize) {
        self.uplinks[place].state_at = now + limits::STATE_INTERVAL;
        let state = link::ServerState {
            users: u32::try_from(self.users.len()).unwrap_or(u32::MAX),
            queued_bytes: self.links.memory().queued() as u64,
            busy_permille: self.load.permille(now),
            frames: self.counters.forwarded,
            bytes: self.counters.forwarded_bytes,
            bounced: self.counters.bounces().collect(),
            dropped: self.counters.drops().collect(),
        };
        let state = serde_json::to_vec(&state).expect("numbers and plain text");
        self.control_up(now, &Outgoing { body: &state, ..Outgoing::of(Kind::State) });
    }

    fn send_digest(&mut self, now: Time, place: usize) {
        self.uplinks[place].digest_at = now + limits::DIGEST_INTERVAL;
        if self.uplinks[place].burst.is_none() {
            let Digest { count, hash } = self.uplinks[place].digest;
            self.control_up(now, &Outgoing { info_type: count, id: hash, ..Outgoing::of(Kind::Digest) });
        }
    }

    /// The cluster is to know of one session more.
    pub(super) fn digest_add(&mut self, user: &UserId, session: u64) {
        for uplink in &mut self.uplinks {
            uplink.digest.add(self.config.incarnation, user.as_bytes(), session);
        }
    }

    /// The cluster is to know of one session less.
    pub(super) fn digest_remove(&mut self, user: &UserId, session: u64) {
        for uplink in &mut self.uplinks {
            uplink.digest.remove(self.config.incarnation, user.as_bytes(), session);
        }
    }
}
