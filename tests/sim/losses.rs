//! The causes that a lost message may have: what broke, and which counters of drops moved.

use std::collections::{BTreeMap, BTreeSet};

use trunkline::role::{Counters, Drop};

use crate::cluster::ACMS;
use crate::model::{Manner, Sent, Session};
use crate::network::NodeId;
use crate::scenario::server_called;

const DROPS: [Drop; 4] = [Drop::Droppable, Drop::Unroutable, Drop::BounceFull, Drop::Spoofed];

/// Everything that can excuse a message for having vanished, by the world time at which it was last seen.
#[derive(Default)]
pub(crate) struct Losses {
    /// A user's session ended, as its program or its server tells it.
    sessions: BTreeMap<String, u64>,
    /// The exact session of a program ended.
    senders: BTreeMap<Session, u64>,
    /// A server's link ended, as either side tells it.
    links: BTreeMap<NodeId, u64>,
    processes: BTreeMap<NodeId, u64>,
    /// A server ended by itself: only what others' applications say to its own is lost with it.
    exits: BTreeMap<NodeId, u64>,
    /// What each running process has counted so far.
    counted: BTreeMap<NodeId, [u64; 4]>,
    /// Drops that were counted.
    drops: Vec<(u64, NodeId, Drop)>,
}

impl Losses {
    pub(crate) fn session_ended(&mut self, now: u64, user: &str) {
        self.sessions.insert(user.to_owned(), now);
    }

    pub(crate) fn sender_ended(&mut self, now: u64, sender: Session) {
        self.senders.insert(sender, now);
    }

    pub(crate) fn link_ended(&mut self, now: u64, server: NodeId) {
        self.links.insert(server, now);
    }

    pub(crate) fn process_ended(&mut self, now: u64, node: NodeId) {
        self.processes.insert(node, now);
        self.counted.remove(&node);
    }

    /// It ended by itself: that loses nothing of users.
    pub(crate) fn process_exited(&mut self, now: u64, node: NodeId) {
        self.exits.insert(node, now);
        self.counted.remove(&node);
    }

    /// Looks at what `node` has dropped.
    pub(crate) fn count(&mut self, now: u64, node: NodeId, counters: &Counters) {
        let Counters { dropped_droppable, dropped_unroutable, dropped_bounces, dropped_spoofed, .. } = counters;
        let counts = [*dropped_droppable, *dropped_unroutable, *dropped_bounces, *dropped_spoofed];
        let before = self.counted.insert(node, counts).unwrap_or_default();
        for (place, cause) in DROPS.into_iter().enumerate() {
            let more = counts[place] - before[place];
            self.drops.extend((0..more).map(|_| (now, node, cause)));
        }
    }

    /// The first of these messages, which were neither handed over nor came back, that nothing explains.
    pub(crate) fn unexplained<'a>(&self, vanished: &'a [Vanished<'_>]) -> Option<&'a Vanished<'a>> {
        let dropped: Vec<&Vanished<'_>> =
            vanished.iter().filter(|message| self.break_behind(message).is_none()).collect();
        // A counted drop explains one message; which one is found as in any matching, by making room where one is taken.
        let mut takers: Vec<Option<usize>> = vec![None; self.drops.len()];
        (0..dropped.len())
            .find(|place| !self.assign(*place, &dropped, &mut takers, &mut BTreeSet::new()))
            .map(|place| dropped[place])
    }

    /// Whether something explains it, whatever else the same thing explains.
    pub(crate) fn explain(&self, message: &Vanished<'_>) -> bool {
        self.break_behind(message).is_some() || self.drops.iter().any(|drop| message.may_be(drop))
    }

    /// Whether somebody had no room for a bounce or an event.
    pub(crate) fn lost_an_event(&self) -> bool {
        self.drops.iter().any(|(_, _, cause)| *cause == Drop::BounceFull)
    }

    /// What broke on the message's way since it was sent.
    fn break_behind(&self, message: &Vanished<'_>) -> Option<&'static str> {
        let Vanished { sent, ways, crosses, .. } = message;
        let since = |at: Option<&u64>| at.is_some_and(|at| *at >= sent.at);
        if since(self.senders.get(&sent.sender)) || since(self.sessions.get(&sent.from)) {
            return Some("its sender's session ended");
        }
        if since(self.sessions.get(&sent.to)) {
            return Some("its receiver's session ended");
        }
        if ways.iter().chain([&sent.via]).any(|way| since(self.processes.get(way))) {
            return Some("a server on its way died");
        }
        if server_called(&sent.to).is_some_and(|server| since(self.exits.get(&server))) {
            return Some("the server that it was for ended");
        }
        if *crosses && since(self.processes.get(&ACMS)) {
            return Some("the ACMS died");
        }
        if *crosses && ways.iter().chain([&sent.via]).any(|way| since(self.links.get(way))) {
            return Some("a link on its way ended");
        }
        None
    }

    fn assign(
        &self,
        place: usize,
        dropped: &[&Vanished<'_>],
        takers: &mut [Option<usize>],
        seen: &mut BTreeSet<usize>,
    ) -> bool {
        for (number, drop) in self.drops.iter().enumerate() {
            if !dropped[place].may_be(drop) || !seen.insert(number) {
                continue;
            }
            if takers[number].is_none_or(|other| self.assign(other, dropped, takers, seen)) {
                takers[number] = Some(place);
                return true;
            }
        }
        false
    }
}

/// A message that was neither handed over nor came back.
#[derive(Debug)]
pub(crate) struct Vanished<'a> {
    pub(crate) serial: u64,
    pub(crate) sent: &'a Sent,
    /// The servers that have let its receiver in.
    pub(crate) ways: BTreeSet<NodeId>,
    /// Whether it may have left the sender's server.
    pub(crate) crosses: bool,
}

impl Vanished<'_> {
    /// Whether this drop may have been this message's.
    fn may_be(&self, (at, node, cause): &(u64, NodeId, Drop)) -> bool {
        let is_on_the_way = *node == self.sent.via || *node == ACMS || self.ways.contains(node);
        let fits = match cause {
            Drop::Droppable => self.sent.manner == Manner::Droppable,
            Drop::Unroutable | Drop::BounceFull | Drop::Spoofed => true,
        };
        *at >= self.sent.at && is_on_the_way && fits
    }
}
