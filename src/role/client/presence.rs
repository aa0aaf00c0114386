//! Whom this client hears of, and what it told its application: changes only, over lost connections too.

use std::collections::{BTreeMap, BTreeSet};

use super::{Client, Event, Phase, SendError};
use crate::id::UserId;
use crate::limits;
use crate::time::Time;
use crate::wire::link::ONLINE;
use crate::wire::{Answer, Envelope, Located, parse_object};

/// Who is online, as far as the application knows.
#[derive(Default)]
pub(super) struct Presence {
    /// At most [`limits::SIGHTINGS_MAX`].
    online: BTreeSet<UserId>,
    /// Those of `online` that the server has named since the last WELCOME.
    named: BTreeSet<UserId>,
    /// Whom the application watches by name; asked for again with each WELCOME.
    watched: BTreeSet<UserId>,
    /// Questions to watch users that are not answered.
    asked: BTreeMap<u64, Asker>,
    /// When all of them are asked for again, since a question came to nothing.
    again: Option<Time>,
}

/// Who asks to watch users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asker {
    /// The application, which gets the answer.
    Application,
    /// This engine, which repeats what the application asked for before.
    Again,
}

impl Client {
    /// Watches users: the question is answered as [`Client::ask`] says, and each user that is online, or changes, is an
    /// [`Event::Presence`]. They are watched again after each reconnect, and after a question that came to nothing; where
    /// there is no connection now, from the next on. At most 100 at once, and 1,024 in all.
    pub fn watch(&mut self, now: Time, users: &[UserId]) -> Result<u64, SendError> {
        let added = users.iter().filter(|user| !self.presence.watched.contains(*user)).count();
        if users.len() > limits::ASK_USERS_MAX || self.presence.watched.len() + added > limits::WATCHES_OF_CLIENT_MAX {
            return Err(SendError::Full);
        }
        if matches!(self.phase, Phase::Stopped) {
            return Err(SendError::Stopped);
        }
        self.presence.watched.extend(users.iter().cloned());
        let asked = self.ask_to_watch(now, users, Asker::Application);
        if asked.is_err() {
            self.presence.again = Some(now + limits::WATCH_RETRY);
        }
        asked
    }

    /// Watches users no more. What was last told of them holds no longer, and is not taken back.
    pub fn unwatch(&mut self, now: Time, users: &[UserId]) -> Result<u64, SendError> {
        if users.len() > limits::ASK_USERS_MAX {
            return Err(SendError::Full);
        }
        for user in users {
            self.presence.watched.remove(user);
            self.presence.online.remove(user);
        }
        self.ask(now, &question("unwatch", users))
    }

    fn ask_to_watch(&mut self, now: Time, users: &[UserId], asker: Asker) -> Result<u64, SendError> {
        let id = self.ask(now, &question("watch", users))?;
        self.presence.asked.insert(id, asker);
        Ok(id)
    }

    /// A session begins: the server knows nothing of whom this client watches.
    pub(super) fn presence_begins(&mut self, now: Time) {
        self.presence.named.clear();
        self.presence.asked.clear();
        self.watch_again(now);
    }

    pub(super) fn watch_again_at(&self) -> Option<Time> {
        self.presence.again.filter(|_| self.is_online())
    }

    pub(super) fn expire_watches(&mut self, now: Time) {
        if self.watch_again_at().is_some_and(|at| at <= now) {
            self.watch_again(now);
        }
    }

    fn watch_again(&mut self, now: Time) {
        self.presence.again = None;
        let watched: Vec<UserId> = self.presence.watched.iter().cloned().collect();
        for users in watched.chunks(limits::ASK_USERS_MAX) {
            if self.ask_to_watch(now, users, Asker::Again).is_err() {
                self.presence.again = Some(now + limits::WATCH_RETRY);
            }
        }
    }

    /// The server says how a user stands; without a user, that all who are online were named.
    pub(super) fn presence_told(&mut self, envelope: &Envelope<'_>) {
        match UserId::parse(envelope.from) {
            Ok(user) => self.sighted(user, envelope.header.info_type == ONLINE),
            Err(_) => {
                let Presence { online, named, watched, .. } = &self.presence;
                let unnamed = online.difference(named).filter(|user| !watched.contains(*user)).cloned();
                let unnamed: Vec<UserId> = unnamed.collect();
                unnamed.into_iter().for_each(|user| self.sighted(user, false));
            }
        }
    }

    fn sighted(&mut self, user: UserId, online: bool) {
        let presence = &mut self.presence;
        let is_change = if online {
            if presence.online.len() >= limits::SIGHTINGS_MAX && !presence.online.contains(&user) {
                return;
            }
            presence.named.insert(user.clone());
            presence.online.insert(user.clone())
        } else {
            presence.named.remove(&user);
            presence.online.remove(&user)
        };
        if is_change {
            self.events.push_back(Event::Presence { user, online });
        }
    }

    /// Whether the question is one that this engine asked by itself.
    pub(super) fn watches_again_by(&self, id: u64) -> bool {
        self.presence.asked.get(&id) == Some(&Asker::Again)
    }

    /// An answer came; whether the application waits for it.
    pub(super) fn watch_answered(&mut self, now: Time, id: u64, body: &[u8]) -> bool {
        let Some(asker) = self.presence.asked.remove(&id) else { return true };
        let answer = parse_object::<Answer>(body).unwrap_or_default();
        if answer.error.is_some() {
            self.presence.again = Some(now + limits::WATCH_RETRY);
        }
        for Located { user, online, denied, .. } in answer.users {
            let Ok(user) = user.parse::<UserId>() else { continue };
            // Taken out since it was asked for.
            if !self.presence.watched.contains(&user) {
                continue;
            }
            if denied {
                self.presence.watched.remove(&user);
                self.sighted(user, false);
            } else if let Some(online) = online {
                self.sighted(user, online);
            }
        }
        asker == Asker::Application
    }

    /// A question got no answer in time; whether the application waits for it.
    pub(super) fn watch_timed_out(&mut self, now: Time, id: u64) -> bool {
        let Some(asker) = self.presence.asked.remove(&id) else { return true };
        self.presence.again = Some(now + limits::WATCH_RETRY);
        asker == Asker::Application
    }
}

fn question(ask: &str, users: &[UserId]) -> Vec<u8> {
    let users: Vec<&str> = users.iter().map(UserId::as_str).collect();
    serde_json::json!({ "ask": ask, "users": users }).to_string().into_bytes()
}
