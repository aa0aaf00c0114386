//! What an operator sees of the cluster, and does to it.

use super::{Acms, Event, Server};
use crate::id::{ServerId, UserId};
use crate::role::{Fault, Strained};
use crate::time::{Span, Time};
use crate::wire::link::ServerState;
use crate::wire::{Bounce, CloseCode, Kind, Outgoing};

/// Whether a server takes users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has not told of all its users yet.
    Syncing,
    /// It does.
    Open,
    /// An operator has frozen it.
    Frozen,
    /// It sends its users to others.
    Draining,
}

/// A registered server, as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerView {
    /// Its number.
    pub server: ServerId,
    /// Where clients reach it.
    pub address: String,
    /// Whether it takes users.
    pub standing: Standing,
    /// Users that are in, by what is known here.
    pub users: u32,
    /// Users that were sent there and have not come yet.
    pub assigned: u32,
    /// Users that it takes.
    pub capacity: u32,
    /// How long it has been in.
    pub connected: Span,
    /// Its boot number.
    pub incarnation: u64,
    /// What it last said of itself.
    pub state: ServerState,
    /// What it did between its last two words of itself.
    pub pace: Pace,
    /// Bytes that wait here to be sent to it.
    pub link_queued_bytes: usize,
}

/// How much a server passes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// Frames.
    pub frames_per_second: u64,
    /// Bytes of those.
    pub bytes_per_second: u64,
}

impl Acms {
    /// Every registered server, by number.
    pub fn servers(&self, now: Time) -> impl Iterator<Item = ServerView> {
        self.places.values().map(move |place| self.view(now, &self.servers[*place as usize]))
    }

    fn view(&self, now: Time, server: &Server) -> ServerView {
        let standing = match server {
            Server { draining: true, .. } => Standing::Draining,
            Server { id, .. } if self.frozen.contains(id) => Standing::Frozen,
            Server { synced: false, .. } => Standing::Syncing,
            Server { .. } => Standing::Open,
        };
        ServerView {
            server: server.id,
            address: server.address.clone(),
            standing,
            users: server.digest.count,
            assigned: self.reservations.at(server.id),
            capacity: server.capacity,
            connected: now.since(server.registered),
            incarnation: server.incarnation,
            state: server.state.clone(),
            pace: server.pace,
            link_queued_bytes: self.links.get(server.conn).map_or(0, |link| link.queue().len()),
        }
    }

    /// Whether that server is registered.
    pub fn is_registered(&self, server: ServerId) -> bool {
        self.places.contains_key(&server)
    }

    /// Asks a server to send its users to others and to stop. False where it is not registered.
    pub fn ask_to_drain(&mut self, now: Time, server: ServerId) -> bool {
        let Some(place) = self.places.get(&server) else { return false };
        let conn = self.servers[*place as usize].conn;
        self.control(now, conn, &Outgoing::of(Kind::Drain));
        self.close_overwhelmed(now);
        true
    }

    /// Takes a server out of the cluster, and its users with it: it does not come back unless it is started again. False
    /// where it is not registered.
    pub fn expel(&mut self, now: Time, server: ServerId) -> bool {
        let Some(place) = self.places.get(&server) else { return false };
        let conn = self.servers[*place as usize].conn;
        self.close(now, conn, &Fault::new(CloseCode::KICKED, "removed by an operator"));
        self.close_overwhelmed(now);
        true
    }

    /// Ends the user's session with KICKED and the text, wherever it is.
    ///
    /// # Errors
    /// The user is not found: OFFLINE, or RETRY while that is not certain.
    pub fn evict(&mut self, now: Time, user: &UserId, text: &str) -> Result<(), Bounce> {
        if self.whereabouts(user.as_bytes()).is_none() {
            return Err(self.absence(now, user.as_bytes()));
        }
        self.kick(now, user.as_bytes(), CloseCode::KICKED.to_wire(), text.as_bytes());
        self.close_overwhelmed(now);
        Ok(())
    }

    /// Whether each user's coming and going is an event; it is not until this is told.
    pub fn tell_of_users(&mut self, wanted: bool) {
        self.tells_of_users = wanted;
    }

    pub(super) fn note_online(&mut self, user: &UserId, server: ServerId) {
        if self.tells_of_users {
            self.events.push_back(Event::Online { user: user.clone(), server });
        }
    }

    pub(super) fn note_offline(&mut self, user: &[u8], server: ServerId) {
        if self.tells_of_users
            && let Ok(user) = UserId::parse(user)
        {
            self.events.push_back(Event::Offline { user, server });
        }
    }
}

impl Server {
    /// Takes what the server says of itself.
    pub(super) fn report(&mut self, now: Time, state: ServerState) {
        let micros = now.since(self.reported).as_micros().max(1);
        let per_second = |now: u64, before: u64| {
            let rate = u128::from(now.saturating_sub(before)) * 1_000_000 / u128::from(micros);
            u64::try_from(rate).unwrap_or(u64::MAX)
        };
        // The first word tells of all since the server's start, which may be long ago.
        if self.reported > self.registered {
            self.pace = Pace {
                frames_per_second: per_second(state.frames, self.state.frames),
                bytes_per_second: per_second(state.bytes, self.state.bytes),
            };
        }
        self.reported = now;
        self.state = state;
    }
}
