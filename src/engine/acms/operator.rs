//! What operators ask of the cluster manager, and who is told what happens.

use super::Acms;
use super::handle::{
    AcmsVitals, ClusterEvent, Command, MessageOutcome, MessageTo, OperatorMessage, ServerChange, Subscriber,
};
use crate::engine::{Asker, Overloaded};
use crate::id::ServerId;
use crate::limits;
use crate::role::Core as _;
use crate::role::acms::{Event, Settled};
use crate::time::{Span, Time};
use crate::wire::Bounce;

impl Acms {
    /// Does what was asked, but never so much that a frame waits for it: the rest has its turn in the next one.
    pub(super) fn obey(&mut self) {
        for _ in 0..limits::OPERATOR_COMMANDS_PER_TURN {
            let Ok(command) = self.commands.try_recv() else { return };
            self.execute(command);
        }
        if !self.commands.is_empty() {
            self.reactor.wake().wake();
        }
    }

    fn execute(&mut self, command: Command) {
        let now = self.reactor.now();
        match command {
            Command::Servers(asker) => asker.tell(self.core.servers(now).collect()),
            Command::Change { server, change, asker } => asker.tell(self.change(now, server, change)),
            Command::Assign { user, asker } => asker.tell(self.core.assign(now, user.as_ref())),
            Command::Kick { user, text, asker } => asker.tell(self.core.evict(now, &user, &text)),
            Command::Users { server, after, limit, asker } => asker.tell(self.core.users(server, after, limit)),
            Command::Message { message, asker } => {
                let sent = self.send(now, &message);
                self.await_outcome(sent, asker);
            }
            Command::Members { group, asker } => {
                let asked = self.core.ask_members_of(now, &group, now + limits::LOOKUP_TIMEOUT);
                self.await_outcome(asked.map(Some), asker);
            }
            Command::Inspect { user, asker } => {
                let asked = self.core.ask_about(now, &user, now + limits::LOOKUP_TIMEOUT);
                self.await_outcome(asked.map(Some), asker);
            }
            Command::Vitals(asker) => asker.tell(self.vitals()),
            Command::Subscribe { subscriber, asker } => asker.tell(self.subscribe(subscriber)),
        }
    }

    fn change(&mut self, now: Time, server: ServerId, change: ServerChange) -> bool {
        match change {
            ServerChange::Freeze => {
                let is_registered = self.core.is_registered(server);
                if is_registered {
                    self.core.freeze(now, server);
                }
                is_registered
            }
            // A freeze outlives the server's registration.
            ServerChange::Unfreeze => self.core.unfreeze(now, server) || self.core.is_registered(server),
            ServerChange::Drain => self.core.ask_to_drain(now, server),
            ServerChange::Remove => self.core.expel(now, server),
        }
    }

    fn send(&mut self, now: Time, message: &OperatorMessage) -> Result<Option<u64>, Bounce> {
        let OperatorMessage { to, info_type, body, patience } = message;
        let (info_type, ends) = (*info_type, now + *patience);
        if body.len() > limits::MAX_FRAME - limits::ENVELOPE_BYTES_MAX {
            return Err(Bounce::TooBig);
        }
        match to {
            MessageTo::User(user) => self.core.send_to_user(now, user, info_type, body, ends).map(Some),
            MessageTo::ServerQuery(server) => self.core.query_server(now, *server, info_type, body, ends).map(Some),
            MessageTo::Server(server) => self.core.send_to_server(now, *server, info_type, body).map(|()| None),
            MessageTo::Everyone => {
                self.core.send_to_everyone(now, info_type, body);
                Ok(None)
            }
            MessageTo::Group(group) => self.core.send_to_group(now, group, info_type, body).map(|()| None),
        }
    }

    /// Tells at once what is known, and keeps who is to hear the rest.
    fn await_outcome(&mut self, begun: Result<Option<u64>, Bounce>, asker: Asker<MessageOutcome>) {
        match begun {
            Ok(Some(id)) => drop(self.errands.insert(id, asker)),
            Ok(None) => asker.tell(Ok(None)),
            Err(cause) => asker.tell(Err(cause)),
        }
    }

    pub(super) fn settle(&mut self, id: u64, settled: Settled) {
        if let Some(asker) = self.errands.remove(&id) {
            asker.tell(Ok(Some(settled)));
        }
    }

    fn vitals(&mut self) -> AcmsVitals {
        let links = self.core.links();
        let (connections, memory) = (links.len(), links.memory());
        AcmsVitals {
            memory_held: memory.held(),
            memory_max: memory.max(),
            connections,
            counters: self.core.counters().clone(),
            calls: self.reactor.calls(),
            uptime: Span::from_micros(self.reactor.now().as_micros()),
            users: self.core.user_count(),
            servers: self.core.server_count(),
            frozen_away: self.core.frozen_away().collect(),
            subscribers: self.subscribers.len(),
        }
    }

    fn subscribe(&mut self, subscriber: Subscriber) -> Result<(), Overloaded> {
        self.keep_subscribers(|subscriber| subscriber.alive.strong_count() > 0);
        if self.subscribers.len() >= limits::SUBSCRIBERS_MAX {
            return Err(Overloaded::Full);
        }
        self.subscribers.push(subscriber);
        self.keep_subscribers(|_| true);
        Ok(())
    }

    /// Tells whoever wants to hear of it.
    pub(super) fn publish(&mut self, event: &Event) {
        if self.subscribers.is_empty() {
            return;
        }
        let (event, of_user) = match event {
            Event::Registered { server, address, incarnation, .. } => {
                let (server, address, incarnation) = (*server, address.clone(), *incarnation);
                (ClusterEvent::ServerRegistered { server, address, incarnation }, false)
            }
            Event::Synced { server, users } => (ClusterEvent::ServerSynced { server: *server, users: *users }, false),
            Event::Lost { server, users, gone } => {
                (ClusterEvent::ServerLost { server: *server, users: *users, cause: gone.to_string() }, false)
            }
            Event::Online { user, server } => (ClusterEvent::UserOnline { user: user.clone(), server: *server }, true),
            Event::Offline { user, server } => {
                (ClusterEvent::UserOffline { user: user.clone(), server: *server }, true)
            }
            Event::Mismatch { .. } | Event::Settled { .. } | Event::Memory(_) | Event::Closed { .. } => return,
        };
        self.keep_subscribers(|subscriber| (of_user && !subscriber.users) || (subscriber.tell)(&event));
    }

    fn keep_subscribers(&mut self, keeps: impl FnMut(&Subscriber) -> bool) {
        let mut keeps = keeps;
        self.subscribers.retain(|subscriber| keeps(subscriber));
        self.core.tell_of_users(self.subscribers.iter().any(|subscriber| subscriber.users));
    }
}
