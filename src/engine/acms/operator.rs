//! What operators ask of the cluster manager, and who is told what happens.

use super::Acms;
use super::handle::{AcmsVitals, ClusterEvent, Command, ServerChange, Subscriber};
use crate::engine::Overloaded;
use crate::id::ServerId;
use crate::limits;
use crate::role::Core as _;
use crate::role::acms::Event;
use crate::time::{Span, Time};

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
            Command::Kick { user, asker } => asker.tell(self.core.evict(now, &user)),
            Command::Users { server, after, limit, asker } => asker.tell(self.core.users(server, after, limit)),
            Command::Vitals(asker) => asker.tell(self.vitals()),
            Command::Subscribe { subscriber, asker } => asker.tell(self.subscribe(subscriber)),
        }
    }

    fn change(&mut self, now: Time, server: ServerId, change: ServerChange) -> bool {
        if !self.core.is_registered(server) {
            return false;
        }
        match change {
            ServerChange::Freeze => self.core.freeze(now, server),
            ServerChange::Unfreeze => self.core.thaw(now, server),
            ServerChange::Drain => return self.core.ask_to_drain(now, server),
            ServerChange::Remove => return self.core.expel(now, server),
        }
        true
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
            subscribers: self.subscribers.len(),
        }
    }

    fn subscribe(&mut self, subscriber: Subscriber) -> Result<(), Overloaded> {
        self.keep_subscribers(|subscriber| subscriber.alive.strong_count() > 0);
        if self.subscribers.len() >= limits::SUBSCRIBERS_MAX {
            return Err(Overloaded);
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
            Event::Offline { user } => (ClusterEvent::UserOffline { user: user.clone() }, true),
            Event::Mismatch { .. } | Event::Memory(_) | Event::Closed { .. } => return,
        };
        self.keep_subscribers(|subscriber| (of_user && !subscriber.users) || (subscriber.tell)(&event));
    }

    fn keep_subscribers(&mut self, keeps: impl FnMut(&Subscriber) -> bool) {
        let mut keeps = keeps;
        self.subscribers.retain(|subscriber| keeps(subscriber));
        self.core.tell_of_users(self.subscribers.iter().any(|subscriber| subscriber.users));
    }
}
