//! The applications of servers and clients: what the cores tell them, brought before the model.

use trunkline::id::{ConnId, ServerId};
use trunkline::role::Gone;
use trunkline::role::appserver::{self, ClusterState, Outcome, QuerySource, ServerInbox, Verdict};
use trunkline::role::client::{self, QueryFailure};
use trunkline::wire::{Bounce, CloseCode, Flags};

use crate::answers::Asker;
use crate::cluster::{self, PASSWORD, SERVERS};
use crate::model::{Answer, Ending, Manner, Session};
use crate::network::NodeId;
use crate::node::Role;
use crate::scenario::{GHOST, SERVER_ITSELF, SETTLED_MICROS, Step, server_name};
use crate::world::{Engine, World};

/// World time, in microseconds, within which a login is decided once the application has accepted it: the link's silence
/// until it is dead, and what its end takes to arrive.
const LOGIN_WAIT_MICROS: u64 = 6_000_000;

/// World time, in microseconds, for which nobody is called offline whom a draining server has sent to another: what the
/// ACMS gives them, by a clock that may be a little fast.
const MOVE_GRACE_MICROS: u64 = 2_900_000;

/// Servers.
impl World {
    pub(crate) fn verdict(&mut self, node: NodeId, conn: ConnId, user: String, accepts: bool) {
        let now = self.nodes[node].now(self.clock);
        if let Role::Server(server) = &mut self.nodes[node].role {
            let verdict = if accepts { Verdict::Accept } else { Verdict::Refuse("a wrong password".to_owned()) };
            server.verdict(now, conn, verdict);
            self.accepted.insert((node, conn), self.clock);
            if accepts {
                self.let_in.entry(user).or_default().insert(node);
            }
        }
    }

    /// A login that the application has looked at is decided, whatever becomes of the ACMS.
    fn check_login_wait(&mut self, node: NodeId, conn: ConnId) {
        let Some(since) = self.accepted.remove(&(node, conn)) else { return };
        let wait = self.clock - since;
        assert!(wait < LOGIN_WAIT_MICROS || self.plan.stops(), "n{node}: the login of {conn} waited {wait} us");
    }

    pub(crate) fn hear_server(&mut self, node: NodeId, event: appserver::Event) {
        let boot = self.nodes[node].boot;
        let at = Session { engine: node, number: boot as u32 };
        self.note(|| format!("n{node}: {}", of_server(&event)));
        match event {
            appserver::Event::LoginAsked { conn, user, login, .. } => {
                let (user, accepts) = (user.as_str().to_owned(), login.password.as_deref() == Some(PASSWORD));
                if self.rng.u8(0..self.plan.slow_verdict) == 0 {
                    let later = self.clock + self.rng.u64(1..2_000_000);
                    self.schedule(later, Step::Verdict { node, boot, conn, user, accepts });
                } else {
                    self.verdict(node, conn, user, accepts);
                }
            }
            appserver::Event::Message(inbox) => {
                let manner = manner_of(inbox.flags);
                self.model.handed(manner, false, inbox.user.as_str(), SERVER_ITSELF, at, &inbox.body);
            }
            appserver::Event::Query(inbox) => {
                let user = inbox.user.as_str();
                let serial = self.model.handed(Manner::Query, false, user, SERVER_ITSELF, at, &inbox.body);
                self.asked(node, serial, Asker::OfServer(QuerySource::User(inbox.reference())));
            }
            appserver::Event::ServerMessage(inbox) => {
                self.handed_to_server(Manner::Plain, node, &inbox);
            }
            appserver::Event::ServerQuery(inbox) => {
                let serial = self.handed_to_server(Manner::Query, node, &inbox);
                self.asked(node, serial, Asker::OfServer(QuerySource::Server { id: inbox.id }));
            }
            appserver::Event::QueryBeforeLogin { .. } => panic!("n{node} answers no strangers"),
            appserver::Event::Outcome { id, outcome } => self.hear_outcome(node, id, outcome),
            appserver::Event::Bounced { id, cause, .. } => self.hear_outcome(node, id, Outcome::Bounced(cause)),
            appserver::Event::LoggedOut { user, gone } => {
                if gone == Gone::Closed(CloseCode::MOVE) {
                    self.moved.insert(user.as_str().to_owned(), self.clock);
                }
                if gone != Gone::Closed(CloseCode::MOVE) || !self.plan.only_drains() {
                    self.losses.session_ended(self.clock, user.as_str());
                }
            }
            appserver::Event::Cluster(ClusterState::Down { gone, .. }) => {
                // A dial that was refused ended no link.
                let refused = gone == Gone::Ended(trunkline::link::End::Failed(std::io::ErrorKind::ConnectionRefused));
                if !refused {
                    self.link_ended(node);
                }
            }
            appserver::Event::Cluster(ClusterState::Refused { code, text }) => {
                panic!("honest server {node} is refused: {code} {text}");
            }
            appserver::Event::LoggedIn { conn, user, .. } => {
                self.check_login_wait(node, conn);
                self.has_logged_in(node, conn, user.as_str().to_owned());
            }
            appserver::Event::Closed { conn, .. } => self.check_login_wait(node, conn),
            appserver::Event::Located { token, servers } => {
                assert!(self.locating.remove(&(node, token)), "n{node}: the question {token} is answered twice");
                self.check_located(&servers);
            }
            appserver::Event::WatchAsked { conn, user, id, users } => {
                self.watch_asked(node, conn, user.as_str(), id, users);
            }
            appserver::Event::Presence { user, online } => self.server_hears_of(node, user.as_str(), online),
            appserver::Event::JoinAsked(join) => self.join_asked(node, join),
            appserver::Event::Members { token, members } => self.server_has_members(node, token, &members),
            appserver::Event::Memory(_)
            | appserver::Event::DrainAsked
            | appserver::Event::Cluster(ClusterState::Up { .. }) => {}
            appserver::Event::Blob(event) => self.hear_of_blob(node, event),
        }
    }

    /// A server's application was handed what another's, or its own, sent.
    fn handed_to_server(&mut self, manner: Manner, node: NodeId, inbox: &ServerInbox) -> u64 {
        let at = Session { engine: node, number: self.nodes[node].boot as u32 };
        let from = server_name(inbox.from().0.into());
        self.model.handed(manner, false, &from, &server_name(node), at, &inbox.body)
    }

    /// Once all has come to rest, everyone is where the answer says; before, who is in may be on the way.
    fn check_located(&self, servers: &[Result<Option<ServerId>, Bounce>]) {
        if !self.is_at_rest {
            return;
        }
        let where_is = |user: &String| {
            let program = self.engines.values().find(|engine| engine.user == *user && engine.online);
            Ok(program.map(|engine| ServerId(engine.server as u16)))
        };
        let wanted: Vec<_> = self.plan.users.iter().map(where_is).collect();
        let (ghost, users) = servers.split_last().expect("all were asked about");
        assert_eq!(users, wanted, "users are told to be where they are not");
        // A liar that was in before the ACMS was started again is awaited for a while, and with it any user.
        assert!(matches!(ghost, Ok(None) | Err(Bounce::Retry)), "who never came is told to be somewhere: {ghost:?}");
    }

    fn hear_outcome(&mut self, node: NodeId, id: u64, outcome: Outcome) {
        if self.model.is_of_former(node, id) || self.is_of_groups(node, id, &outcome) {
            return;
        }
        // A server cannot tell a message's bounce from one that comes behind the end of a query or a blob.
        let has_ended = self.model.has_failed(node, id) || self.blobs.is_one(node, id);
        if has_ended && matches!(outcome, Outcome::Bounced(_)) {
            return;
        }
        match outcome {
            Outcome::Replied { failed: false, body, .. } => self.model.replied(node, id, &body),
            Outcome::Replied { failed: true, body, .. } => {
                self.query_failed(node, id, QueryFailure::of_error(&body));
            }
            Outcome::Acked => self.end(node, id, Ending::Taken),
            Outcome::Bounced(cause @ Bounce::Denied) => self.query_failed(node, id, QueryFailure::of_bounce(cause)),
            Outcome::Bounced(cause) => self.end(node, id, Ending::Bounced(format!("{cause:?}"))),
            Outcome::Inspected(_) | Outcome::Listed(_) => panic!("n{node} asked for no {outcome:?}"),
            failure @ (Outcome::TimedOut | Outcome::ConnectionLost) => {
                self.end(node, id, Ending::Failed(format!("{failure:?}")));
            }
        }
    }
}

/// Clients.
impl World {
    pub(crate) fn hear_client(&mut self, node: NodeId, event: client::Event) {
        let engine = &self.engines[&node];
        let (user, at) = (engine.user.clone(), engine.session(node));
        self.note(|| format!("n{node} ({user}): {}", of_client(&event)));
        match event {
            client::Event::Asking => {
                let later = self.clock + self.rng.u64(0..300_000);
                self.schedule(later, Step::Guide(node));
            }
            client::Event::State(state) => self.client_state(node, &state),
            client::Event::Message(message) => {
                let resent = message.flags.has(Flags::RETRY);
                let from = sender_of(&message);
                let manner = manner_of(message.flags);
                let serial = self.model.handed(manner, resent, &from, &user, at, &message.body);
                self.check_not_outdated(serial, node);
            }
            client::Event::Query(query) => {
                let from = sender_of(&query);
                let serial = self.model.handed(Manner::Query, false, &from, &user, at, &query.body);
                self.asked(node, serial, Asker::OfUser { from: query.from, id: query.id });
            }
            client::Event::Sent { id, outcome } => {
                let ending = match outcome {
                    Ok(()) => Ending::Taken,
                    Err(client::SendFailure::Bounced(cause)) => Ending::Bounced(format!("{cause:?}")),
                    Err(other) => Ending::Failed(format!("{other:?}")),
                };
                self.end(node, id, ending);
            }
            client::Event::Replied { id, outcome: Ok(reply) } => {
                self.model.replied(node, id, &reply.body);
            }
            client::Event::Replied { id, outcome: Err(_) } if self.ask_answered(node, id, None) => {}
            client::Event::Replied { id, outcome: Err(failure) } => {
                self.query_failed(node, id, failure);
            }
            client::Event::Presence { user, online } => self.client_hears_of(node, user.as_str(), online),
            client::Event::Bounced { id, to, cause } => {
                if !self.broadcast_bounced(node, id, &to, cause) {
                    self.end(node, id, Ending::Bounced(format!("{cause:?}")));
                }
            }
            client::Event::Answered { id, body } => {
                let is_known = self.ask_answered(node, id, Some(&body));
                assert!(is_known, "{user} has an answer to what it did not ask: {id:x}");
            }
            client::Event::Joined { id, outcome } => self.joined(node, id, &outcome),
            client::Event::GroupMessage { group, message } => {
                self.said_in_group(node, group.as_str(), &message, &sender_of(&message));
            }
            client::Event::Member { group, user, change } => {
                self.member_changed(node, group.as_str(), user.as_str(), change);
            }
            client::Event::MembersMissed(group) => self.members_missed(node, group.as_str()),
            client::Event::Blob(event) => self.hear_of_blob(node, event),
        }
    }

    /// What a session says once the cluster has let in a newer one of the same user must not cross the hub.
    fn check_not_outdated(&self, serial: u64, receiver: NodeId) {
        let (sender, sent_at) = self.model.origin(serial);
        let Some(older) = self.engines.get(&sender.engine) else { return };
        let crosses = older.server != self.engines[&receiver].server && older.sessions == sender.number;
        if !crosses || !self.plan.only_logins() || sent_at < SETTLED_MICROS {
            return;
        }
        let newer = self.engines.values().find(|engine| {
            let since = engine.online_since;
            engine.user == older.user
                && engine.server != older.server
                && engine.online
                && older.online_since < since
                && since < sent_at
        });
        let newer = newer.map(|engine| engine.online_since);
        assert!(newer.is_none(), "#{serial} of {sender:?} crossed the hub; a newer session is in since {newer:?}");
    }

    /// Whether the answer, or none, was to an ASK.
    fn ask_answered(&mut self, node: NodeId, id: u64, body: Option<&[u8]>) -> bool {
        self.members_answered(node, id, body) || self.watch_answered(node, id, body)
    }

    /// A query of a client's or a server's has no reply.
    fn query_failed(&mut self, node: NodeId, id: u64, failure: QueryFailure) {
        match failure {
            QueryFailure::Bounced(Bounce::Denied) => self.end(node, id, Ending::Answered(Answer::Denial)),
            QueryFailure::Bounced(cause) => self.end(node, id, Ending::Bounced(format!("{cause:?}"))),
            QueryFailure::NoHandler => self.end(node, id, Ending::Answered(Answer::None)),
            QueryFailure::Failed(text) => self.model.failed(node, id, &text),
            QueryFailure::TimedOut | QueryFailure::ConnectionLost => {
                self.end(node, id, Ending::Failed(format!("{failure:?}")));
            }
        }
    }

    fn end(&mut self, node: NodeId, id: u64, ending: Ending) {
        let offline = ending == Ending::Bounced("Offline".to_owned());
        let retry = ending == Ending::Bounced("Retry".to_owned());
        let (serial, to, sent_at) = self.model.ended(node, id, ending);
        if sent_at < SETTLED_MICROS {
            return;
        }
        if retry && to == GHOST && self.plan.is_calm() {
            assert!(
                self.members.were_unsure_since(sent_at),
                "#{serial} to {to} bounced RETRY, and all servers had told of their users"
            );
        }
        if !offline {
            return;
        }
        if self.plan.only_drains() && self.drains_in_order {
            let moved = self.moved.get(&to).filter(|at| self.clock < **at + MOVE_GRACE_MICROS);
            assert_eq!(moved, None, "#{serial} to {to} bounced OFFLINE, who is being moved");
        } else if !self.plan.only_crashes() {
            return;
        }
        let was_in = |engine: &&Engine| {
            let server = &self.nodes[engine.server];
            let outlived = matches!(server.role, Role::Server(_)) && server.clock.born < engine.online_since;
            // A server that has not come to the ACMS since its start has users of whom nobody can know.
            let (id, incarnation) = (ServerId(engine.server as u16), cluster::incarnation(server.boot));
            let is_known = outlived && self.members.had_told(id, incarnation, sent_at);
            engine.user == to && engine.online && is_known && engine.online_since < sent_at
        };
        let wrong = self.engines.values().find(was_in).map(|engine| engine.online_since);
        assert!(wrong.is_none(), "#{serial} to {to} bounced OFFLINE, who was in since {wrong:?}");
    }

    fn client_state(&mut self, node: NodeId, state: &client::State) {
        let now = self.clock;
        let ends_sessions = self.plan.ends_sessions();
        let engine = self.engines.get_mut(&node).expect("a client has its engine");
        let session = engine.session(node);
        match state {
            client::State::Online { welcome, .. } => {
                engine.sessions += 1;
                engine.server = welcome.server.0.into();
                (engine.online, engine.online_since) = (true, now);
                self.sightings.session_begins(node);
                return;
            }
            client::State::Reconnecting { .. } | client::State::NoServer { .. } => {}
            client::State::Stopped { code, text } => {
                assert!(!blames(*code), "{} is blamed: {code} {text}", engine.user);
                engine.stopped = true;
            }
        }
        self.groups.session_ended(node);
        if self.engines[&node].stopped {
            self.groups.engine_gone(node);
            self.blobs.process_gone(node);
            self.sightings.process_gone(node);
        }
        let engine = self.engines.get_mut(&node).expect("a client has its engine");
        if std::mem::take(&mut engine.online) {
            assert!(ends_sessions, "the session of {} ended, and nothing broke it: {state:?}", engine.user);
            self.losses.sender_ended(now, session);
            // What went to a user that a server sent away in order is ahead of its CLOSE, or comes back.
            let is_moved =
                matches!(state, client::State::Reconnecting { gone: Gone::ClosedByPeer(CloseCode::MOVE), .. });
            if !is_moved || !self.plan.only_drains() {
                self.losses.session_ended(now, &engine.user);
            }
        }
    }
}

/// Whether the code says that its receiver, an honest one, did wrong.
fn blames(code: CloseCode) -> bool {
    let excused = [CloseCode::REPLACED, CloseCode::LOGGED_OUT];
    !code.reconnects() && !excused.contains(&code)
}

fn manner_of(flags: Flags) -> Manner {
    if flags.has(Flags::WANT_ACK) {
        Manner::Acked
    } else if flags.has(Flags::DROPPABLE) {
        Manner::Droppable
    } else {
        Manner::Plain
    }
}

/// A user, or the server whose number leads the id.
fn sender_of(message: &client::Message) -> String {
    match &message.from {
        Some(user) => user.as_str().to_owned(),
        None => {
            let server = (message.id >> 48) as usize;
            assert!(SERVERS.contains(&server), "there is no server {server}");
            server_name(server)
        }
    }
}

/// The event in the trace: bodies only by their length.
fn of_server(event: &appserver::Event) -> String {
    match event {
        appserver::Event::Message(inbox) | appserver::Event::Query(inbox) => {
            format!("{} sends {:x}, {} bytes, to the server", inbox.user, inbox.id, inbox.body.len())
        }
        appserver::Event::ServerMessage(inbox) | appserver::Event::ServerQuery(inbox) => {
            format!("server {} sends {:x}, {} bytes", inbox.from(), inbox.id, inbox.body.len())
        }
        appserver::Event::Blob(_)
        | appserver::Event::LoginAsked { .. }
        | appserver::Event::QueryBeforeLogin { .. }
        | appserver::Event::LoggedIn { .. }
        | appserver::Event::LoggedOut { .. }
        | appserver::Event::Outcome { .. }
        | appserver::Event::Bounced { .. }
        | appserver::Event::Located { .. }
        | appserver::Event::JoinAsked(_)
        | appserver::Event::Members { .. }
        | appserver::Event::Cluster(_)
        | appserver::Event::DrainAsked
        | appserver::Event::WatchAsked { .. }
        | appserver::Event::Presence { .. }
        | appserver::Event::Memory(_)
        | appserver::Event::Closed { .. } => format!("{event:?}"),
    }
}

fn of_client(event: &client::Event) -> String {
    match event {
        client::Event::Message(message) | client::Event::Query(message) => {
            let client::Message { from, id, flags, body, .. } = message;
            format!("gets {id:x} {flags:?} from {from:?}, {} bytes", body.len())
        }
        client::Event::Replied { id, outcome } => {
            format!("reply to {id:x}: {:?}", outcome.as_ref().map(|reply| reply.body.len()))
        }
        client::Event::Sent { id, outcome } => format!("outcome of {id:x}: {outcome:?}"),
        client::Event::Bounced { id, cause, .. } => format!("bounce of {id:x}: {cause:?}"),
        client::Event::GroupMessage { group, message } => {
            let client::Message { from, id, body, .. } = message;
            format!("hears {id:x} from {from:?} in {group}, {} bytes", body.len())
        }
        client::Event::Answered { id, body } => format!("answer to {id:x}: {} bytes", body.len()),
        client::Event::Asking
        | client::Event::State(_)
        | client::Event::Joined { .. }
        | client::Event::Member { .. }
        | client::Event::MembersMissed(_)
        | client::Event::Blob(_)
        | client::Event::Presence { .. } => format!("{event:?}"),
    }
}
