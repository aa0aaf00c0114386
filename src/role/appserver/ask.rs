//! Questions about who is where, and who is to be watched: from users (ASK) and from the application.

use super::{AppServer, Event};
use crate::buf::Frame;
use crate::id::{ConnId, ServerId, UserId, check_id};
use crate::limits;
use crate::role::{Drop, Strained};
use crate::time::Time;
use crate::wire::{Answer, Ask, AskKind, Bounce, Kind, Located, Outgoing, parse_object};

/// What an ASK is answered that is not looked at now.
const BUSY: &str = "busy; ask again";

/// Who asked.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Asker {
    /// A user, with the id of its ASK.
    User {
        /// Its connection.
        conn: ConnId,
        /// Its ASK's id.
        id: u64,
        /// What it asks.
        ask: AskKind,
    },
    /// A user that wants to watch others: the ACMS, which was told so before, has said how they stand once it answers.
    Watcher {
        /// Its connection.
        conn: ConnId,
        /// Its ASK's id.
        id: u64,
        /// All that it asked for, and whether it may not watch them.
        users: Vec<(UserId, bool)>,
    },
    /// The application, with a number of its own.
    Application(u64),
}

/// A question that waits for the ACMS.
pub(super) struct Question {
    asker: Asker,
    users: Vec<String>,
    /// One a user, in the order asked.
    servers: Vec<Result<Option<ServerId>, Bounce>>,
    /// How many of them the ACMS has not told.
    open: usize,
}

impl AppServer {
    pub(super) fn ask_from_user(&mut self, now: Time, conn: ConnId, frame: &Frame<'_>) {
        let id = frame.envelope.header.id;
        let error = match parse_object::<Ask>(&frame.body()) {
            None => "the body of ASK is a JSON object with `ask`",
            Some(Ask { ask: AskKind::Other, .. }) => "this question is not known here",
            Some(Ask { users, .. }) if users.len() > limits::ASK_USERS_MAX => "too many users",
            Some(Ask { users, .. }) if users.iter().any(|user| check_id(user.as_bytes()).is_err()) => {
                "one of the users is no id"
            }
            Some(Ask { ask: AskKind::Rtt, .. }) => {
                self.answer(now, conn, id, &Answer::default());
                return;
            }
            // One read may hold a thousand of these, and each is answered with thousands of users: who has not taken one such
            // answer is given no other.
            Some(Ask { ask: AskKind::Friends | AskKind::Members, .. }) if self.is_congested(conn) => BUSY,
            Some(Ask { ask: AskKind::Friends, .. }) => {
                let friends = self.friends_of(conn).into_iter();
                let friends = friends.map(|friend| self.standing_of(friend, true, false)).collect();
                self.answer(now, conn, id, &Answer { users: friends, ..Answer::default() });
                return;
            }
            Some(Ask { ask: AskKind::Watch, users, .. }) => return self.ask_to_watch(now, conn, id, &users),
            Some(Ask { ask: AskKind::Unwatch, users, .. }) => {
                self.unwatch_for_client(now, conn, &parse_users(&users));
                self.answer(now, conn, id, &Answer::default());
                return;
            }
            Some(Ask { ask: AskKind::Members, group, .. }) => return self.ask_members_from_user(now, conn, id, group),
            Some(Ask { ask, users, .. }) => return self.ask(now, Asker::User { conn, id, ask }, users),
        };
        self.answer_error(now, conn, id, error);
    }

    fn ask_to_watch(&mut self, now: Time, conn: ConnId, id: u64, users: &[String]) {
        let Some(user) = self.links.get(conn).and_then(|link| link.peer.user()).cloned() else { return };
        let users = parse_users(users);
        if !self.presence.wishes.begin(conn, id, &users) {
            return self.answer_error(now, conn, id, BUSY);
        }
        self.events.push_back(Event::WatchAsked { conn, user, id, users });
    }

    /// What the application says to an [`Event::WatchAsked`]: of each user, whether it may be watched. One that the client has
    /// taken out meanwhile is not. Nothing happens where that connection has ended.
    pub fn permit(&mut self, now: Time, conn: ConnId, id: u64, users: Vec<(UserId, bool)>) {
        let Some(wanted) = self.presence.wishes.end(conn, id) else { return };
        let is_admitted = |(user, is_permitted): &&(UserId, bool)| *is_permitted && wanted.contains(user);
        let admitted: Vec<UserId> = users.iter().filter(is_admitted).map(|(user, _)| user.clone()).collect();
        let mut watched = self.watch_for_client(now, conn, &admitted).into_iter();
        let mut is_denied = |user: &UserId, is_permitted| {
            wanted.contains(user) && !(is_permitted && watched.next().is_some_and(|is_watched| is_watched))
        };
        let users = users.into_iter().map(|(user, is_permitted)| (is_denied(&user, is_permitted), user));
        let users: Vec<(UserId, bool)> = users.map(|(is_denied, user)| (user, is_denied)).collect();
        let is_unknown = |user: &UserId| self.watches(conn, user.as_bytes()) && self.told_of(user.as_bytes()).is_none();
        let unknown = users.iter().filter(|(user, is_denied)| !is_denied && is_unknown(user));
        let unknown: Vec<String> = unknown.map(|(user, _)| user.as_str().to_owned()).collect();
        self.ask(now, Asker::Watcher { conn, id, users }, unknown);
        self.close_overwhelmed(now);
    }

    /// Refuses to look at an [`Event::WatchAsked`] now.
    pub fn postpone(&mut self, now: Time, conn: ConnId, id: u64) {
        if self.presence.wishes.end(conn, id).is_some() {
            self.answer_error(now, conn, id, BUSY);
        }
    }

    /// How a user stands for one that watches it, as what that one was told, or is told next, has it.
    fn standing_of(&self, user: UserId, is_watched: bool, denied: bool) -> Located {
        let online = self.told_of(user.as_bytes()).filter(|_| is_watched);
        Located { user: user.as_str().to_owned(), online, server: None, denied }
    }

    fn answer_error(&mut self, now: Time, conn: ConnId, id: u64, error: &str) {
        self.answer(now, conn, id, &Answer { error: Some(error.to_owned()), ..Answer::default() });
    }

    /// Asks where users are; the answer is an [`Event::Located`] with `token`.
    pub fn locate(&mut self, now: Time, token: u64, users: &[UserId]) {
        let users = users.iter().map(|user| user.as_str().to_owned()).collect();
        self.ask(now, Asker::Application(token), users);
        self.close_overwhelmed(now);
    }

    fn ask(&mut self, now: Time, asker: Asker, users: Vec<String>) {
        self.questions_asked += 1;
        let number = self.questions_asked;
        let mut question = Question { asker, servers: Vec::with_capacity(users.len()), users, open: 0 };
        for (place, user) in question.users.iter().enumerate() {
            let server = self.look_up(now, number, place, user.as_bytes());
            question.open += usize::from(server == Err(Bounce::Retry));
            question.servers.push(server);
        }
        self.lookups_open += question.open;
        if question.open == 0 {
            return self.settle(now, question);
        }
        self.questions.insert(number, question);
        self.question_ends.push_back((now + limits::LOOKUP_TIMEOUT, number));
    }

    /// The user's server, where that is known here; `Err(Retry)` where the ACMS was asked.
    fn look_up(&mut self, now: Time, number: u64, place: usize, user: &[u8]) -> Result<Option<ServerId>, Bounce> {
        if self.users.contains_key(user) {
            return Ok(Some(self.config.server));
        }
        if self.uplinks.is_empty() {
            return Ok(None);
        }
        if self.lookups_open >= limits::LOOKUPS_PENDING_MAX {
            return Err(Bounce::Busy);
        }
        let id = number << 8 | place as u64;
        let asked = self.control_up(now, &Outgoing { id, to: user, ..Outgoing::of(Kind::Lookup) });
        Err(if asked { Bounce::Retry } else { Bounce::Unreachable })
    }

    /// The ACMS's answer to a LOOKUP.
    pub(super) fn found(&mut self, now: Time, frame: &Frame<'_>) {
        let header = frame.envelope.header;
        let (number, place) = (header.id >> 8, (header.id & 0xff) as usize);
        let Some(question) = self.questions.get_mut(&number) else { return };
        let Some(server) = question.servers.get_mut(place) else { return };
        *server = match (header.info_type, <[u8; 2]>::try_from(&frame.body()[..])) {
            (0, Ok(bytes)) => Ok(Some(ServerId(u16::from_be_bytes(bytes)))),
            (0, Err(_)) => Err(Bounce::Unreachable),
            (cause, _) => match Bounce::from_wire(cause) {
                Bounce::Offline => Ok(None),
                cause => Err(cause),
            },
        };
        question.open = question.open.saturating_sub(1);
        self.lookups_open = self.lookups_open.saturating_sub(1);
        if question.open == 0
            && let Some(question) = self.questions.remove(&number)
        {
            self.settle(now, question);
        }
    }

    pub(super) fn expire_questions(&mut self, now: Time) {
        while let Some((_, number)) = self.question_ends.pop_front_if(|(ends, _)| *ends <= now) {
            if let Some(question) = self.questions.remove(&number) {
                self.settle(now, question);
            }
        }
    }

    /// Answers every open question with what is known: the ACMS will say no more.
    pub(super) fn settle_questions(&mut self, now: Time) {
        for (_, number) in std::mem::take(&mut self.question_ends) {
            if let Some(question) = self.questions.remove(&number) {
                self.settle(now, question);
            }
        }
    }

    fn settle(&mut self, now: Time, question: Question) {
        self.lookups_open = self.lookups_open.saturating_sub(question.open);
        match question.asker {
            Asker::Application(token) => {
                self.events.push_back(Event::Located { token, servers: question.servers });
            }
            Asker::Watcher { conn, id, users } => {
                for (user, _) in &users {
                    self.tell_standing(now, user);
                }
                // The client may have taken out some since, which is no denial.
                let standing = |(user, is_denied): (UserId, bool)| {
                    let is_watched = self.watches(conn, user.as_bytes());
                    self.standing_of(user, is_watched, is_denied)
                };
                let users = users.into_iter().map(standing).collect();
                self.answer(now, conn, id, &Answer { users, ..Answer::default() });
            }
            Asker::User { conn, id, ask } => {
                let located = |(user, server): (String, Result<Option<ServerId>, Bounce>)| Located {
                    user,
                    online: server.ok().map(|server| server.is_some()),
                    server: server.ok().flatten().filter(|_| ask == AskKind::Where),
                    denied: false,
                };
                let users = question.users.into_iter().zip(question.servers).map(located).collect();
                self.answer(now, conn, id, &Answer { users, ..Answer::default() });
            }
        }
    }

    pub(super) fn answer(&mut self, now: Time, conn: ConnId, id: u64, answer: &Answer) {
        let Some(user) = self.links.get(conn).and_then(|link| link.peer.user()).cloned() else { return };
        let body = serde_json::to_vec(answer).expect("numbers and plain text");
        let frame = Outgoing { id, to: user.as_bytes(), body: &body, ..Outgoing::of(Kind::Answer) };
        if frame.wire_bytes() - limits::LENGTH_BYTES > self.config.max_frame {
            return self.answer_error(now, conn, id, "too many users");
        }
        if self.links.send_control(now, conn, &frame).is_err() {
            self.counters.count_drop(Drop::BounceFull);
        }
    }
}

/// Users of an ASK that was checked to name nothing else.
fn parse_users(users: &[String]) -> Vec<UserId> {
    users.iter().filter_map(|user| user.parse().ok()).collect()
}
