//! A user's way from LOGIN to the end of its session.

use bytes::{Bytes, BytesMut};
use hashbrown::HashMap;

use super::{AppServer, CutOff, Entrant, Event, Peer, Session};
use crate::buf::Frame;
use crate::id::{ConnId, UserId};
use crate::limits;
use crate::link::Stage;
use crate::memory::Health;
use crate::role::{Entropy, Fault, Gone, Strained};
use crate::time::Time;
use crate::wire::link::{BindEntry, Relogin};
use crate::wire::{CloseCode, Cluster, Kind, Login, Outgoing, Welcome};

/// What the application says to a login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Welcome.
    Accept,
    /// REFUSED, with the cause in words.
    Refuse(String),
    /// UNAVAILABLE: it could not be looked at; the user may try again.
    Unavailable(String),
    /// INTERNAL: the check itself failed.
    Fault,
}

/// Logins that the ACMS is looking at.
pub(super) struct Claims {
    conns: HashMap<u64, (ConnId, UserId), ahash::RandomState>,
    /// How many there are of each user.
    users: HashMap<UserId, usize, ahash::RandomState>,
}

impl Claims {
    pub(super) fn new(entropy: &mut Entropy) -> Claims {
        Claims { conns: HashMap::with_hasher(entropy.hasher()), users: HashMap::with_hasher(entropy.hasher()) }
    }

    fn insert(&mut self, session: u64, conn: ConnId, user: &UserId) {
        self.conns.insert(session, (conn, user.clone()));
        *self.users.entry(user.clone()).or_insert(0) += 1;
    }

    fn remove(&mut self, session: u64) -> Option<ConnId> {
        let (conn, user) = self.conns.remove(&session)?;
        if let Some(count) = self.users.get_mut(&user) {
            *count -= 1;
            if *count == 0 {
                self.users.remove(&user);
            }
        }
        Some(conn)
    }

    pub(super) fn count(&self) -> usize {
        self.conns.len()
    }

    /// Whether any of them is the user's.
    pub(super) fn is_claimed(&self, user: &[u8]) -> bool {
        !self.users.is_empty() && self.users.contains_key(user)
    }

    /// All of them, oldest first.
    pub(super) fn list(&self) -> Vec<(u64, ConnId)> {
        let mut claims: Vec<(u64, ConnId)> = self.conns.iter().map(|(session, (conn, _))| (*session, *conn)).collect();
        claims.sort_unstable();
        claims
    }
}

impl AppServer {
    pub(super) fn frame_before_login(&mut self, now: Time, conn: ConnId, frame: &Frame<'_>) -> Result<(), Fault> {
        match frame.envelope.header.kind {
            Kind::Login => self.login(now, conn, frame),
            Kind::Query => self.query_before_login(conn, frame),
            Kind::Logout => Err(Fault::new(CloseCode::LOGGED_OUT, "goodbye")),
            Kind::Ping => self.pong(now, conn, &frame.envelope),
            Kind::Pong => Ok(()),
            Kind::Close => self.closed_by_peer(now, conn, frame),
            kind => Err(Fault::unexpected(kind)),
        }
    }

    fn login(&mut self, now: Time, conn: ConnId, frame: &Frame<'_>) -> Result<(), Fault> {
        let user = frame.envelope.from_user()?;
        if self.links.memory().health() >= Health::NoNewLogins {
            return Err(Fault::for_now(CloseCode::FULL, "the server is short of memory", self.entropy.retry_after()));
        }
        let login = Login::parse(&frame.body())
            .ok_or_else(|| Fault::new(CloseCode::BAD_FIELD, "the body of LOGIN is a JSON object"))?;
        let number = self.sessions + 1;
        let Some((addr, session)) = self.session_mut(conn) else { return Ok(()) };
        match session {
            Session::Anonymous => {
                *session = Session::Checking(Entrant { user: user.clone(), session: number, since: now });
            }
            Session::Asking(_) | Session::Checking(_) | Session::Claiming(_) | Session::Online(_) | Session::Left => {
                return Err(Fault::unexpected(Kind::Login));
            }
        }
        self.sessions = number;
        self.links.extend_greeting(conn, now + limits::LOGIN_CHECK_TIMEOUT);
        self.events.push_back(Event::LoginAsked { conn, user, addr, login });
        Ok(())
    }

    /// Whether the application or the cluster is looking at this connection's login.
    pub(super) fn is_looked_at(&mut self, conn: ConnId) -> bool {
        matches!(self.session_mut(conn), Some((_, Session::Checking(_) | Session::Claiming(_))))
    }

    pub(super) fn session_mut(&mut self, conn: ConnId) -> Option<(std::net::SocketAddr, &mut Session)> {
        let link = self.links.get_mut(conn)?;
        match &mut link.peer {
            Peer::Client(client) => Some((link.addr, &mut client.session)),
            Peer::Acms(_) => None,
        }
    }

    /// What the application says to an [`Event::LoginAsked`]. Nothing happens where that connection has ended.
    pub fn verdict(&mut self, now: Time, conn: ConnId, verdict: Verdict) {
        let Some((_, Session::Checking(entrant))) = self.session_mut(conn) else { return };
        let entrant = entrant.clone();
        match verdict {
            Verdict::Accept => self.admit(now, conn, entrant),
            Verdict::Refuse(cause) => self.close(now, conn, &Fault::new(CloseCode::REFUSED, cause)),
            Verdict::Unavailable(cause) => self.close(now, conn, &Fault::new(CloseCode::UNAVAILABLE, cause)),
            Verdict::Fault => self.close(now, conn, &Fault::new(CloseCode::INTERNAL, "the login check failed")),
        }
        self.close_overwhelmed(now);
    }

    /// The application agrees; the cluster, where there is one, has to agree too.
    fn admit(&mut self, now: Time, conn: ConnId, entrant: Entrant) {
        if self.uplinks.is_empty() {
            return self.admit_locally(now, conn, entrant);
        }
        if self.uplink_conn().is_err() {
            return self.admit_cut_off(now, conn, entrant);
        }
        self.claims.insert(entrant.session, conn, &entrant.user);
        if let Some((_, state)) = self.session_mut(conn) {
            *state = Session::Claiming(entrant.clone());
        }
        self.send_claim(now, &entrant);
    }

    fn admit_cut_off(&mut self, now: Time, conn: ConnId, entrant: Entrant) {
        match self.config.cut_off {
            CutOff::ServeLocal => self.admit_locally(now, conn, entrant),
            CutOff::RefuseNew => {
                self.close(now, conn, &Fault::new(CloseCode::UNAVAILABLE, "the cluster cannot be reached"));
            }
        }
    }

    /// Where nobody else decides, this server's own sessions count.
    fn admit_locally(&mut self, now: Time, conn: ConnId, entrant: Entrant) {
        if self.config.relogin == Relogin::KeepOld && self.conn_of(&entrant.user).is_some() {
            return self.close(now, conn, &already_online());
        }
        self.open_session(now, conn, entrant);
    }

    /// The ACMS's answer to a CLAIM: 0, or the code to close with. One that was repeated behind a burst is answered twice,
    /// and only the first answer finds somebody waiting: the BIND that follows from it decides.
    pub(super) fn claimed(&mut self, now: Time, session: u64, answer: u32) {
        let Some(conn) = self.claims.remove(session) else { return };
        let Some((_, Session::Claiming(entrant))) = self.session_mut(conn) else { return };
        let entrant = entrant.clone();
        match CloseCode::from_wire(answer) {
            // Where the ACMS forgot the older session for a moment, this server did not.
            None if self.config.relogin == Relogin::KeepOld && self.conn_of(&entrant.user).is_some() => {
                self.close(now, conn, &already_online());
            }
            None => self.open_session(now, conn, entrant),
            Some(CloseCode::ALREADY_ONLINE) => self.close(now, conn, &already_online()),
            Some(code) => self.close(now, conn, &Fault::new(code, "the cluster refused the login")),
        }
    }

    /// The claims that the ACMS did not answer before its link was lost. A server that stops lets nobody in: those
    /// connections are closed as all others are.
    pub(super) fn settle_claims(&mut self, now: Time) {
        for (session, conn) in self.claims.list() {
            self.claims.remove(session);
            if !self.is_stopping()
                && let Some((_, Session::Claiming(entrant))) = self.session_mut(conn)
            {
                let entrant = entrant.clone();
                self.admit_cut_off(now, conn, entrant);
            }
        }
    }

    fn open_session(&mut self, now: Time, conn: ConnId, entrant: Entrant) {
        let Entrant { user, session, .. } = entrant.clone();
        if let Some(other) = self.conn_of(&user) {
            let is_newer =
                matches!(self.session_mut(other), Some((_, Session::Online(other))) if other.session > session);
            if is_newer {
                return self.close(now, conn, &replaced());
            }
            self.close(now, other, &replaced());
        }
        let Some((addr, state)) = self.session_mut(conn) else { return };
        *state = Session::Online(entrant.clone());
        self.digest_add(&user, session);
        self.users.insert(user.clone(), conn);
        self.links.advance(now, conn, Stage::Open);
        let body = self.welcome(session);
        let welcome = Outgoing { to: user.as_bytes(), body: &body, ..Outgoing::of(Kind::Welcome) };
        if self.links.send_control(now, conn, &welcome).is_err() {
            return self.close(now, conn, &Fault::new(CloseCode::SLOW, "took nothing before its login"));
        }
        self.confirm(now, &entrant);
        self.presence_came(&user);
        self.events.push_back(Event::LoggedIn { conn, user, addr });
    }

    fn welcome(&self, session: u64) -> Bytes {
        let cluster = match (self.uplinks.is_empty(), self.cluster_is_up()) {
            (true, _) => Cluster::None,
            (false, true) => Cluster::Up,
            (false, false) => Cluster::Down,
        };
        let welcome = Welcome {
            server: self.config.server,
            session: format!("{}-{}-{session}", self.config.server, self.config.incarnation),
            heartbeat_ms: self.config.heartbeat.as_millis(),
            max_frame: self.config.max_frame,
            cluster,
        };
        serde_json::to_vec(&welcome).expect("numbers and plain text").into()
    }

    /// Takes a session out of the tables, and out of the cluster's. Returns whose it was.
    pub(super) fn leave(&mut self, now: Time, conn: ConnId, session: Session, gone: Gone) -> Option<UserId> {
        match session {
            Session::Online(Entrant { user, session, .. }) => {
                debug_assert_eq!(self.users.get(user.as_bytes()), Some(&conn));
                self.users.remove(user.as_bytes());
                self.tags.remove(user.as_bytes());
                self.digest_remove(&user, session);
                self.leave_groups(now, conn, &user);
                self.unbind(now, &user, session, gone);
                self.presence_gone(now, conn, &user, gone);
                self.events.push_back(Event::LoggedOut { user: user.clone(), gone });
                Some(user)
            }
            Session::Claiming(Entrant { user, session, .. }) => {
                self.claims.remove(session);
                self.unbind(now, &user, session, gone);
                Some(user)
            }
            Session::Checking(Entrant { user, .. }) => Some(user),
            Session::Anonymous | Session::Asking(_) => None,
            Session::Left => None,
        }
    }

    /// Tells the ACMS that the session is open: now an older one elsewhere has to go. Where the cluster can't be reached,
    /// the burst will tell.
    fn confirm(&mut self, now: Time, Entrant { user, session, since }: &Entrant) {
        let mut body = BytesMut::new();
        BindEntry::encode(*session, now.since(*since).as_millis(), user, &mut body);
        self.control_up(now, &Outgoing { body: &body, ..Outgoing::of(Kind::Bind) });
    }

    fn unbind(&mut self, now: Time, user: &UserId, session: u64, gone: Gone) {
        let info_type = match gone {
            Gone::Closed(code) if gone.may_be_back() => code.to_wire(),
            // Of a connection that broke no code tells.
            _ if gone.may_be_back() => CloseCode::NO_HEARTBEAT.to_wire(),
            _ => 0,
        };
        let unbind = Outgoing { info_type, id: session, from: user.as_bytes(), ..Outgoing::of(Kind::Unbind) };
        // Where the cluster can't be reached there is nothing to unbind: the burst will not name the session.
        self.control_up(now, &unbind);
    }

    /// The cluster ends one exact session: the user logged in elsewhere, or was kicked.
    pub(super) fn kicked(&mut self, now: Time, user: &[u8], session: u64, code: CloseCode, text: &[u8]) {
        let Some(conn) = self.users.get(user).copied() else { return };
        let is_meant =
            matches!(self.session_mut(conn), Some((_, Session::Online(entrant))) if entrant.session == session);
        if is_meant {
            let fault = if code == CloseCode::REPLACED { replaced() } else { Fault::new(code, kick_text(text)) };
            self.close(now, conn, &fault);
        }
    }
}

/// What whoever kicked wrote, in one line.
fn kick_text(text: &[u8]) -> String {
    if text.is_empty() {
        return "removed".to_owned();
    }
    String::from_utf8_lossy(text).replace(char::is_control, "\u{fffd}")
}

fn replaced() -> Fault {
    Fault::new(CloseCode::REPLACED, "the user logged in elsewhere")
}

fn already_online() -> Fault {
    Fault::new(CloseCode::ALREADY_ONLINE, "the user is already online")
}
