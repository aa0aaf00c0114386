//! What a member says: frames to pass on, and who is where.

use super::{Acms, Event, Server};
use crate::buf::Frame;
use crate::id::{ConnId, ServerId, UserId};
use crate::limits;
use crate::link::Link;
use crate::role::{Binding, Digest, Drop, Fault, Tenure};
use crate::time::{Span, Time};
use crate::wire::link::{BindEntry, Relogin, ServerMessageId, ServerState};
use crate::wire::{Bounce, CloseCode, Envelope, Kind, Outgoing, parse_object};

/// Why a message goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Halt {
    /// Its sender is told.
    Bounced(Bounce),
    /// Nobody is.
    Dropped(Drop),
}

impl Acms {
    pub(super) fn frame_from_member(
        &mut self,
        now: Time,
        conn: ConnId,
        place: u32,
        frame: &mut Frame<'_>,
    ) -> Result<(), Fault> {
        let Envelope { header, to, from } = frame.envelope;
        // What answers it would go to another server.
        if is_of_server_itself(&frame.envelope) && ServerMessageId::server(header.id) != self.servers[place as usize].id
        {
            self.counters.count_drop(Drop::Spoofed);
            return Ok(());
        }
        match header.kind {
            Kind::Data | Kind::Query | Kind::Reply | Kind::Ack | Kind::Bounce => self.relay(now, place, frame),
            Kind::Inspect | Kind::Inspected => self.relay(now, place, frame),
            Kind::List => self.list(now, conn, header.id, &frame.body())?,
            Kind::Everyone => self.relay_to_everyone(now, place, frame),
            Kind::ServerData | Kind::ServerQuery => self.relay_to_server(now, place, frame)?,
            Kind::GroupOn | Kind::GroupOff | Kind::GroupData | Kind::GroupEvent => {
                self.frame_of_groups(now, conn, place, frame)?;
            }
            Kind::GroupEdit | Kind::GroupMembers | Kind::GroupMembersAre => {
                self.frame_of_groups(now, conn, place, frame)?;
            }
            Kind::Claim => self.claim(now, place, frame)?,
            Kind::Unbind => self.unbind(now, place, from, header.id, header.info_type),
            Kind::Drain => self.drain(now, place),
            Kind::State => self.report(now, place, &frame.body())?,
            Kind::BurstBegin => self.begin_burst(now, place),
            Kind::Bind => self.bind_all(now, place, &frame.body())?,
            Kind::Synced => self.synced(place),
            Kind::Kick => self.kick(now, to, header.info_type, &frame.body()),
            Kind::Digest => self.compare_digest(now, place, Digest { count: header.info_type, hash: header.id }),
            Kind::Lookup => self.look_up(now, conn, header.id, to),
            Kind::Watch => self.watch(now, place, header.info_type, &frame.body())?,
            Kind::Unwatch => self.unwatch(place, header.info_type, &frame.body())?,
            Kind::Ping => self.pong(now, conn, header.id)?,
            Kind::Pong => {}
            Kind::Close => self.closed_by_peer(now, conn, frame)?,
            kind => return Err(Fault::unexpected(kind)),
        }
        Ok(())
    }

    /// From one server to another: the hub's whole work on a message.
    fn relay(&mut self, now: Time, place: u32, frame: &mut Frame<'_>) {
        let Envelope { header, to, .. } = frame.envelope;
        if let Err(halt) = self.check_sender(place, &frame.envelope) {
            return self.halt(now, place, &frame.envelope, halt);
        }
        let receiver = if to.is_empty() {
            let server = ServerMessageId::server(header.id);
            if server == ServerId::ACMS {
                return self.returned(place, frame);
            }
            self.places.get(&server).map(|place| &self.servers[*place as usize])
        } else {
            self.whereabouts(to)
        };
        let forwarded = match receiver.map(|server| server.conn) {
            Some(conn) if self.is_held_back(now, conn) => Err(Bounce::Busy),
            Some(conn) => self.links.forward(now, conn, frame).map(drop).map_err(|_| Bounce::Busy),
            None => Err(self.absence(now, to)),
        };
        match forwarded {
            Ok(()) => self.counters.count_forwarded(frame.wire_bytes()),
            Err(cause) => self.bounce(now, place, &frame.envelope, cause),
        }
    }

    /// Whether a message may go on in the name of its `from`.
    pub(super) fn check_sender(&self, place: u32, envelope: &Envelope<'_>) -> Result<(), Halt> {
        let Envelope { header, from, .. } = *envelope;
        // Who bounces a message writes the id of a user who is not there in `from`; a server writes none.
        if header.kind == Kind::Bounce || from.is_empty() {
            return Ok(());
        }
        match self.standing(from).map(|(binding, _)| binding) {
            // A newer login may be in already, of which its server tells next: what the older session says must not
            // cross with it. An answer may: it is to what that session was given.
            Some(binding) if binding.place == place => {
                let asks = matches!(header.kind, Kind::Data | Kind::Query | Kind::GroupData);
                let is_outdated = asks && self.claims.of(from).iter().any(|claim| claim.since > binding.since);
                if is_outdated { Err(Halt::Bounced(Bounce::Retry)) } else { Ok(()) }
            }
            // Until its server has told of all its users, an unknown sender may yet be one of them.
            None if !self.servers[place as usize].synced => Err(Halt::Bounced(Bounce::Retry)),
            Some(_) | None => Err(Halt::Dropped(Drop::Spoofed)),
        }
    }

    pub(super) fn halt(&mut self, now: Time, place: u32, envelope: &Envelope<'_>, halt: Halt) {
        match halt {
            Halt::Bounced(cause) => self.bounce(now, place, envelope, cause),
            Halt::Dropped(cause) => self.counters.count_drop(cause),
        }
    }

    /// Whether a server gets nothing more until it has taken what waits for it: no server is ever paused, so while
    /// memory is short it is the receivers that take their time who get less. What this turn brought does not count as
    /// waiting: nothing is written before its end.
    pub(super) fn is_held_back(&self, now: Time, conn: ConnId) -> bool {
        self.links.memory().health().pauses_senders()
            && self.links.get(conn).and_then(Link::waits_since).is_some_and(|since| since < now)
    }

    /// The user's binding and server, where that registration of the server still stands.
    pub(super) fn standing(&self, user: &[u8]) -> Option<(&Binding, &Server)> {
        let binding = self.directory.binding(user)?;
        let server = self.servers.get(binding.place as usize).filter(|server| server.tenure == binding.tenure)?;
        Some((binding, server))
    }

    /// Where the user is to be found: a login that is not confirmed counts where there is no other session, since it may
    /// have its WELCOME before its server's BIND is here.
    pub(super) fn whereabouts(&self, user: &[u8]) -> Option<&Server> {
        let bound = self.standing(user).map(|(_, server)| server);
        bound.or_else(|| self.claims.newest_of(user).map(|claim| &self.servers[claim.place as usize]))
    }

    /// Why a user is not found: the one place where OFFLINE is decided.
    pub(super) fn absence(&self, now: Time, user: &[u8]) -> Bounce {
        if self.moves.is_due(now, user) {
            return Bounce::Retry;
        }
        if self.is_complete(now) { Bounce::Offline } else { Bounce::Retry }
    }

    /// Whether who is not in the directory is nowhere.
    pub(super) fn is_complete(&self, now: Time) -> bool {
        now >= self.grace_ends && self.servers.iter().all(|(_, server)| server.synced)
    }

    pub(super) fn bounce(&mut self, now: Time, place: u32, envelope: &Envelope<'_>, cause: Bounce) {
        match envelope.header.kind {
            Kind::Data | Kind::Query | Kind::ServerData | Kind::ServerQuery | Kind::Inspect | Kind::GroupData => {}
            _ => return self.counters.count_drop(Drop::Unroutable),
        }
        self.counters.count_bounce(cause);
        let bounce = Outgoing::bounce(cause, envelope.header.id, envelope.from, envelope.to);
        let conn = self.servers[place as usize].conn;
        if self.links.send_control(now, conn, &bounce).is_err() {
            self.counters.count_drop(Drop::BounceFull);
        }
    }

    /// A new session wants the user. Whoever has the user keeps it until that session is known to have opened: its BIND
    /// decides. So a login that came to nothing turns nobody out.
    fn claim(&mut self, now: Time, place: u32, frame: &Frame<'_>) -> Result<(), Fault> {
        let bad_field = |rule| Fault::new(CloseCode::BAD_FIELD, rule);
        let Envelope { header, .. } = frame.envelope;
        let (user, session) = (frame.envelope.from_user()?, header.id);
        let policy = Relogin::from_wire(header.info_type)
            .ok_or_else(|| bad_field("info_type of a CLAIM is a relogin policy"))?;
        let age: [u8; 8] = frame.body()[..].try_into().map_err(|_| bad_field("the body of a CLAIM is an age"))?;
        let tenure = self.servers[place as usize].tenure;
        let claim = Binding { tenure, place, session, since: moment(now, u64::from_be_bytes(age)) };
        let is_other = |other: &Binding| other.place != place || other.session != session;
        let bound = self.standing(user.as_bytes()).map(|(binding, _)| *binding).filter(is_other);
        let is_contested = self.claims.of(user.as_bytes()).iter().any(is_other);
        let answer = match (policy, bound) {
            // This may be that user, faster here than the word that the session there was sent away.
            (Relogin::KeepOld, Some(bound)) if self.servers[bound.place as usize].draining => {
                CloseCode::UNAVAILABLE.to_wire()
            }
            (Relogin::KeepOld, Some(_)) => CloseCode::ALREADY_ONLINE.to_wire(),
            // That login may come to nothing, and a session to be kept may be one that is not known yet: this one is not
            // refused for good.
            (Relogin::KeepOld, None) if is_contested || !self.is_complete(now) => CloseCode::UNAVAILABLE.to_wire(),
            (Relogin::ReplaceOld, Some(bound)) if is_older(&claim, &bound) => refusal_of(&claim, &bound).to_wire(),
            (Relogin::KeepOld, None) | (Relogin::ReplaceOld, Some(_) | None) => {
                self.claims.open(user.clone(), claim).map_or(CloseCode::UNAVAILABLE.to_wire(), |()| 0)
            }
        };
        let conn = self.servers[place as usize].conn;
        let claimed = Outgoing { info_type: answer, id: session, to: user.as_bytes(), ..Outgoing::of(Kind::Claimed) };
        self.control(now, conn, &claimed);
        Ok(())
    }

    fn bind(&mut self, now: Time, place: u32, user: UserId, session: u64, since: i64) {
        let bound = self.directory.binding(user.as_bytes()).copied();
        self.presence_came(now, &user, bound, session, place);
        self.forget(user.as_bytes());
        let was_moving = self.moves.settled(user.as_bytes());
        let server = &mut self.servers[place as usize];
        // Who was there before, or was sent by another server, was not assigned without a name.
        let newcomer_of = (server.synced && !was_moving).then_some(server.id);
        self.reservations.redeem(user.as_bytes(), newcomer_of);
        server.digest.add(server.incarnation, user.as_bytes(), session);
        let (id, tenure, synced) = (server.id, server.tenure, server.synced);
        // A burst is told of as a whole, at its end.
        if synced {
            self.note_online(&user, id);
        }
        self.directory.bind(user, Binding { tenure, place, session, since });
    }

    /// Takes the user's standing binding out of its server's digest: it is about to be removed or replaced.
    fn forget(&mut self, user: &[u8]) {
        if let Some((&binding, _)) = self.standing(user) {
            let server = &mut self.servers[binding.place as usize];
            server.digest.remove(server.incarnation, user, binding.session);
        }
    }

    fn unbind(&mut self, now: Time, place: u32, user: &[u8], session: u64, code: u32) {
        let tenure = self.servers[place as usize].tenure;
        self.claims.close(user, tenure, session);
        let exact = |binding: &Binding| binding.tenure == tenure && binding.session == session;
        if self.directory.binding(user).is_some_and(exact) {
            self.forget(user);
            self.directory.unbind(user, tenure, session);
            self.note_offline(user, self.servers[place as usize].id);
            self.presence_gone(now, user, code);
        }
        // A session that its server's burst has not told of yet is sent away like any other.
        if code == CloseCode::MOVE.to_wire()
            && self.standing(user).is_none()
            && let Ok(user) = UserId::parse(user)
        {
            self.moves.expire(now);
            self.moves.left(now, user);
        }
    }

    fn report(&mut self, now: Time, place: u32, body: &[u8]) -> Result<(), Fault> {
        let state: ServerState =
            parse_object(body).ok_or_else(|| Fault::new(CloseCode::BAD_FIELD, "the body of a STATE is its JSON"))?;
        self.servers[place as usize].report(now, state);
        Ok(())
    }

    /// The server sends its users to others: they are to know that it is no place to send theirs.
    fn drain(&mut self, now: Time, place: u32) {
        if !std::mem::replace(&mut self.servers[place as usize].draining, true) {
            self.tell_servers(now, None);
        }
    }

    fn begin_burst(&mut self, now: Time, place: u32) {
        self.tenures += 1;
        let server = &mut self.servers[place as usize];
        self.claims.tenure_ended(server.tenure);
        self.groups.tenure_ended(place);
        server.tenure = Tenure(self.tenures);
        server.synced = false;
        server.lateness = server.asked.take().map_or(Span::default(), |asked| now.since(asked));
        server.digest = Digest::default();
        server.mismatches = 0;
        self.directory.tenure_ended();
        self.forget_interest(place);
    }

    fn bind_all(&mut self, now: Time, place: u32, mut body: &[u8]) -> Result<(), Fault> {
        while !body.is_empty() {
            let (entry, rest) =
                BindEntry::split_first(body).ok_or_else(|| Fault::new(CloseCode::BAD_FIELD, "a BIND is cut short"))?;
            self.bind_if_newest(now, place, UserId::parse(entry.user)?, entry.session, moment(now, entry.age_ms));
            body = rest;
        }
        Ok(())
    }

    /// The session is open. Both sides of a split, or two logins at once, may have let the user in: the newest login
    /// stays, wherever it is.
    fn bind_if_newest(&mut self, now: Time, place: u32, user: UserId, session: u64, since: i64) {
        let Server { id, tenure, synced, lateness, .. } = self.servers[place as usize];
        // Both dates are late by what the frame took; the claim may have waited longer than this confirmation of it.
        // A burst that was held up may tell of sessions that are over: it makes none newer than a login elsewhere that
        // came meanwhile.
        let since = match self.claims.close(user.as_bytes(), tenure, session) {
            Some(claim) => claim.since.min(since),
            None if synced => since,
            None => since.saturating_sub_unsigned(lateness.as_micros()),
        };
        let rival = self.standing(user.as_bytes()).map(|(binding, server)| (*binding, server.id));
        match rival {
            Some((binding, _)) if binding.place == place => {
                if binding.session < session {
                    self.bind(now, place, user, session, since);
                }
            }
            Some((binding, rival)) if (binding.since, rival, binding.session) > (since, id, session) => {
                let loser = Binding { tenure, place, session, since };
                self.send_kick(now, loser, user.as_bytes(), CloseCode::REPLACED, &[]);
            }
            Some((binding, _)) => {
                self.send_kick(now, binding, user.as_bytes(), CloseCode::REPLACED, &[]);
                self.bind(now, place, user, session, since);
            }
            None => self.bind(now, place, user, session, since),
        }
    }

    fn synced(&mut self, place: u32) {
        let server = &mut self.servers[place as usize];
        server.synced = true;
        self.awaited.remove(&server.id);
        self.events.push_back(Event::Synced { server: server.id, users: server.digest.count });
    }

    pub(super) fn kick(&mut self, now: Time, user: &[u8], code: u32, text: &[u8]) {
        let code = CloseCode::from_wire(code).unwrap_or(CloseCode::KICKED);
        let text = &text[..text.len().min(limits::CLOSE_TEXT_BYTES_MAX)];
        let bound = self.standing(user).map(|(binding, _)| *binding);
        for binding in bound.into_iter().chain(self.claims.of(user).to_vec()) {
            self.send_kick(now, binding, user, code, text);
        }
    }

    fn send_kick(&mut self, now: Time, binding: Binding, user: &[u8], code: CloseCode, text: &[u8]) {
        let conn = self.servers[binding.place as usize].conn;
        let (info_type, id, body) = (code.to_wire(), binding.session, text);
        let kick = Outgoing { info_type, id, to: user, body, ..Outgoing::of(Kind::Kick) };
        self.control(now, conn, &kick);
    }

    /// One mismatch may be a change under way; two in a row are a loss.
    fn compare_digest(&mut self, now: Time, place: u32, theirs: Digest) {
        let server = &mut self.servers[place as usize];
        server.mismatches = if !server.synced || server.digest == theirs { 0 } else { server.mismatches + 1 };
        if server.mismatches >= 2 {
            server.mismatches = 0;
            server.asked = Some(now);
            let (conn, id) = (server.conn, server.id);
            self.events.push_back(Event::Mismatch { server: id });
            self.control(now, conn, &Outgoing::of(Kind::Resync));
        }
    }

    fn look_up(&mut self, now: Time, conn: ConnId, id: u64, user: &[u8]) {
        let server = self.whereabouts(user).map(|server| server.id.0.to_be_bytes());
        let (info_type, body) = match &server {
            Some(bytes) => (0, &bytes[..]),
            None => (self.absence(now, user).to_wire(), &[][..]),
        };
        self.control(now, conn, &Outgoing { info_type, id, from: user, body, ..Outgoing::of(Kind::Found) });
    }
}

/// Whether it is a server that says or asks this in its own name: the id then has its number.
fn is_of_server_itself(envelope: &Envelope<'_>) -> bool {
    match envelope.header.kind {
        Kind::Data | Kind::Query | Kind::GroupData => envelope.from.is_empty(),
        Kind::ServerData | Kind::ServerQuery | Kind::Inspect | Kind::Everyone => true,
        Kind::GroupEdit | Kind::GroupMembers => true,
        _ => false,
    }
}

/// Whether a login is older than one that is in: on one server by their numbers, else by when they came.
fn is_older(login: &Binding, bound: &Binding) -> bool {
    if login.place == bound.place { login.session < bound.session } else { login.since < bound.since }
}

/// What an older login is told. Each date is late by what its frames took: where that could have put two servers' logins
/// in the wrong order, the one that comes last is not refused for good.
fn refusal_of(login: &Binding, bound: &Binding) -> CloseCode {
    let is_certain = login.place == bound.place || bound.since.abs_diff(login.since) > limits::LINK_TIMEOUT.as_micros();
    if is_certain { CloseCode::REPLACED } else { CloseCode::UNAVAILABLE }
}

/// When a login came that is `age_ms` old: a number that can lie before the start of this process's clock.
fn moment(now: Time, age_ms: u64) -> i64 {
    let age = i64::try_from(age_ms).unwrap_or(i64::MAX).saturating_mul(1_000);
    i64::try_from(now.as_micros()).unwrap_or(i64::MAX).saturating_sub(age)
}
