//! Blobs: who sends what to whom, and what must be true of it: whole or failed, with one outcome on each side that lives.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use trunkline::id::UserId;
use trunkline::role::blob::{BlobEvent, BlobFailure, BlobKey};
use trunkline::wire::BlobCause;

use crate::cluster::SERVERS;
use crate::model::parse;
use crate::network::NodeId;
use crate::node::Role;
use crate::scenario::{GHOST, SERVER_ITSELF, SETTLED_MICROS, Step};
use crate::world::World;

/// What a receiver says that wants no blob.
const NO: &str = "no room for that";

/// One blob, from its sender's word on.
#[derive(Debug)]
struct Sent {
    from: String,
    to: String,
    /// World time.
    at: u64,
    bytes: u64,
    /// How much its sender was told has arrived.
    confirmed: u64,
    /// Whose applications have it.
    taken: BTreeSet<NodeId>,
    /// Whether an application said no.
    is_refused: bool,
    is_cancelled: bool,
    outcome: Option<Result<(), BlobFailure>>,
}

/// All blobs.
#[derive(Default)]
pub(crate) struct Blobs {
    sent: BTreeMap<u64, Sent>,
    ids: BTreeMap<(NodeId, u64), u64>,
    /// Those that a receiver was offered and that have not ended for it.
    offered: BTreeSet<(NodeId, BlobKey)>,
    /// Those that it refused: that one failed as well may have been on its way.
    refused: BTreeSet<(NodeId, BlobKey)>,
}

impl Blobs {
    /// The process is gone: what it sent may stay unsettled, and what it was sent unheard.
    pub(crate) fn process_gone(&mut self, node: NodeId) {
        self.ids.retain(|(at, _), _| *at != node);
        self.offered.retain(|(at, _)| *at != node);
    }

    /// Whether the id is a blob's.
    pub(crate) fn is_one(&self, node: NodeId, id: u64) -> bool {
        self.ids.contains_key(&(node, id))
    }

    fn settle(&mut self, node: NodeId, id: u64, outcome: Result<(), BlobFailure>) -> (u64, &Sent) {
        let serial = *self.ids.get(&(node, id)).unwrap_or_else(|| panic!("{outcome:?} of the blob {id}, never sent"));
        let sent = self.sent.get_mut(&serial).expect("an id has its blob");
        assert_eq!(sent.outcome, None, "blob #{serial} ends again, with {outcome:?}");
        match &outcome {
            Ok(()) => assert!(!sent.taken.is_empty(), "blob #{serial} is through, and nobody has it: {sent:?}"),
            Err(BlobFailure::Denied(text)) => {
                assert!(sent.is_refused && text == NO, "blob #{serial} is refused by nobody: {sent:?}, {text}");
            }
            Err(BlobFailure::Damaged) => panic!("blob #{serial} came damaged: {sent:?}"),
            Err(_) => {}
        }
        sent.outcome = Some(outcome);
        (serial, sent)
    }

    fn confirmed(&mut self, node: NodeId, id: u64, bytes: u64) {
        let serial = self.ids[&(node, id)];
        let sent = self.sent.get_mut(&serial).expect("an id has its blob");
        assert!(sent.confirmed < bytes && bytes <= sent.bytes, "{bytes} bytes of blob #{serial} arrived: {sent:?}");
        sent.confirmed = bytes;
    }

    /// All of a blob came.
    fn received(&mut self, node: NodeId, key: &BlobKey, from: &str, to: &str, body: &[u8]) -> u64 {
        let (serial, wrote, meant) = parse(body).unwrap_or_else(|| panic!("{to} has a blob that nobody sent: {key:?}"));
        let sent = self.sent.get(&serial).unwrap_or_else(|| panic!("blob #{serial} was never sent"));
        assert_eq!((wrote.as_str(), meant.as_str()), (from, to), "blob #{serial} went astray");
        assert_eq!((&*sent.from, &*sent.to, sent.bytes), (from, to, body.len() as u64), "blob #{serial}");
        assert!(!sent.taken.contains(&node), "blob #{serial} was received twice: {sent:?}");
        serial
    }

    /// A receiver is told that one will not come.
    fn failed(&mut self, node: NodeId, key: &BlobKey) {
        if !self.refused.remove(&(node, key.clone())) {
            self.closes(node, key);
        }
    }

    /// It ends for a receiver.
    fn closes(&mut self, node: NodeId, key: &BlobKey) {
        assert!(self.offered.remove(&(node, key.clone())), "n{node}: {key:?} ends, which is not open");
    }

    /// What waits for its outcome.
    fn unsettled(&self) -> Option<String> {
        let Blobs { ids, sent, offered, .. } = self;
        let open: Vec<&u64> = ids.values().filter(|serial| sent[*serial].outcome.is_none()).collect();
        (!open.is_empty() || !offered.is_empty()).then(|| format!("blobs {open:?} are not settled, nor {offered:?}"))
    }
}

/// What they send.
impl World {
    pub(crate) fn act_with_blob(&mut self) {
        let to = if self.rng.u8(0..12) == 0 { GHOST.to_owned() } else { self.any_user() };
        if self.plan.servers_talk && self.rng.u8(0..5) == 0 {
            let server = self.any_server();
            return self.send_blob(server, &to);
        }
        let Some(node) = self.any_engine() else { return };
        let to = if self.rng.u8(0..5) == 0 { SERVER_ITSELF.to_owned() } else { to };
        self.send_blob(node, &to);
    }

    pub(crate) fn send_blob(&mut self, node: NodeId, to: &str) {
        let now = self.nodes[node].now(self.clock);
        let from = self.engines.get(&node).map_or_else(|| format!("@{node}"), |engine| engine.user.clone());
        let filler = self.rng.usize(0..2 * self.plan.large);
        let (serial, body) = self.model.compose(&from, to, filler);
        let (bytes, body) = (body.len() as u64, Bytes::from(body));
        let user: Option<UserId> = (to != SERVER_ITSELF).then(|| to.parse().expect("a user id"));
        let taken = match (&mut self.nodes[node].role, user) {
            (Role::Client(client), user) => client.send_blob(now, user, 0, "", body).map_err(|error| error.to_string()),
            (Role::Server(server), Some(user)) => {
                server.send_blob(now, user, 0, "", body).map_err(|error| error.to_string())
            }
            (Role::Server(_) | Role::Acms(_) | Role::Stranger(_) | Role::Down, _) => return,
        };
        self.note(|| format!("{from} sends blob #{serial} to {to}, {bytes} bytes: {taken:x?}"));
        if let Ok(id) = taken {
            let sent = Sent {
                from,
                to: to.to_owned(),
                at: self.clock,
                bytes,
                confirmed: 0,
                taken: BTreeSet::new(),
                is_refused: false,
                is_cancelled: false,
                outcome: None,
            };
            self.blobs.sent.insert(serial, sent);
            assert_eq!(self.blobs.ids.insert((node, id), serial), None, "an engine gave the id {id} twice");
            if self.rng.u8(0..8) == 0 && !self.is_at_rest {
                let at = self.clock + self.rng.u64(0..1_000_000);
                self.schedule(at, Step::CancelBlob { node, boot: self.nodes[node].boot, id });
            }
        }
        self.touch(node);
    }

    pub(crate) fn cancel_blob(&mut self, node: NodeId, id: u64) {
        let now = self.nodes[node].now(self.clock);
        if let Some(sent) = self.blobs.ids.get(&(node, id)).and_then(|serial| self.blobs.sent.get_mut(serial)) {
            sent.is_cancelled = true;
        }
        match &mut self.nodes[node].role {
            Role::Client(client) => client.cancel_blob(now, id),
            Role::Server(server) => server.cancel_blob(now, id),
            Role::Acms(_) | Role::Stranger(_) | Role::Down => {}
        }
        self.touch(node);
    }

    /// The application says whether it wants a blob.
    pub(crate) fn blob_verdict(&mut self, node: NodeId, key: &BlobKey, accepts: bool) {
        if !self.blobs.offered.contains(&(node, key.clone())) {
            return;
        }
        let now = self.nodes[node].now(self.clock);
        match &mut self.nodes[node].role {
            Role::Client(client) if accepts => client.accept_blob(now, key),
            Role::Client(client) => client.refuse_blob(now, key, BlobCause::Denied, NO.to_owned()),
            Role::Server(server) if accepts => server.accept_blob(now, key),
            Role::Server(server) => server.refuse_blob(now, key, BlobCause::Denied, NO.to_owned()),
            Role::Acms(_) | Role::Stranger(_) | Role::Down => {}
        }
        if !accepts {
            self.blobs.closes(node, key);
            self.blobs.refused.insert((node, key.clone()));
            self.note_refusal(key);
        }
        self.touch(node);
    }

    fn note_refusal(&mut self, key: &BlobKey) {
        let serial = self.blobs.ids.iter().find(|((_, id), _)| *id == key.id).map(|(_, serial)| *serial);
        if let Some(sent) = serial.and_then(|serial| self.blobs.sent.get_mut(&serial)) {
            sent.is_refused = true;
        }
    }
}

/// What they hear.
impl World {
    pub(crate) fn hear_of_blob(&mut self, node: NodeId, event: BlobEvent) {
        match event {
            BlobEvent::Offered { key, .. } => {
                let is_new = self.blobs.offered.insert((node, key.clone()));
                assert!(is_new, "n{node} is offered {key:?} again");
                let accepts = self.rng.u8(0..8) > 0 || self.is_at_rest;
                let later = self.clock + self.rng.u64(1..2_000_000);
                if self.rng.u8(0..4) > 0 || self.is_at_rest {
                    return self.blob_verdict(node, &key, accepts);
                }
                self.schedule(later, Step::BlobVerdict { node, boot: self.nodes[node].boot, key, accepts });
            }
            BlobEvent::Came { key, received, size } => {
                let is_open = self.blobs.offered.contains(&(node, key.clone()));
                assert!(is_open && received <= size, "{received} of {size} bytes came of {key:?}, open: {is_open}");
            }
            BlobEvent::Received { key, body, .. } => self.blob_received(node, &key, &body),
            BlobEvent::Failed { key, .. } => self.blobs.failed(node, &key),
            BlobEvent::Confirmed { id, bytes } => self.blobs.confirmed(node, id, bytes),
            BlobEvent::Settled { id, outcome } => self.blob_settled(node, id, outcome),
        }
    }

    fn blob_received(&mut self, node: NodeId, key: &BlobKey, body: &[u8]) {
        self.blobs.closes(node, key);
        let from = key.from.as_ref().map_or_else(|| format!("@{}", key.id >> 48), |user| user.as_str().to_owned());
        let to = self.engines.get(&node).map_or_else(|| SERVER_ITSELF.to_owned(), |engine| engine.user.clone());
        let serial = self.blobs.received(node, key, &from, &to, body);
        let refuses = self.rng.u8(0..12) == 0 && !self.is_at_rest;
        let sent = self.blobs.sent.get_mut(&serial).expect("it was sent");
        if refuses {
            sent.is_refused = true;
        } else {
            sent.taken.insert(node);
        }
        let now = self.nodes[node].now(self.clock);
        match &mut self.nodes[node].role {
            Role::Client(client) => {
                if refuses {
                    client.refuse_blob(now, key, BlobCause::Denied, NO.to_owned());
                } else {
                    client.take_blob(now, key);
                }
                client.release_blob(body.len());
            }
            Role::Server(server) => {
                if refuses {
                    server.refuse_blob(now, key, BlobCause::Denied, NO.to_owned());
                } else {
                    server.take_blob(now, key);
                }
                server.release_blob(body.len());
            }
            Role::Acms(_) | Role::Stranger(_) | Role::Down => panic!("n{node} has no application"),
        }
    }

    fn blob_settled(&mut self, node: NodeId, id: u64, outcome: Result<(), BlobFailure>) {
        let is_calm = self.plan.is_calm() && !self.plan.has_rates();
        let (serial, sent) = self.blobs.settle(node, id, outcome.clone());
        if !is_calm || sent.at < SETTLED_MICROS || sent.to == GHOST {
            return;
        }
        let is_meant = match &outcome {
            Ok(()) | Err(BlobFailure::Denied(_)) => true,
            Err(BlobFailure::Cancelled) => sent.is_cancelled,
            // More than a receiver takes at once.
            Err(BlobFailure::Busy) => true,
            Err(_) => false,
        };
        assert!(is_meant, "blob #{serial} ends {outcome:?}, and nothing broke: {sent:?}");
    }
}

/// At the end.
impl World {
    pub(crate) fn blobs_unrest(&self) -> Option<String> {
        if let Some(unsettled) = self.blobs.unsettled() {
            return Some(unsettled);
        }
        for (node, place) in self.nodes.iter().enumerate() {
            let kept = match &place.role {
                Role::Client(client) => (client.blobs_received().count(), client.blobs_received().held(), 0),
                Role::Server(server) => {
                    (server.blobs_received().count(), server.blobs_received().held(), server.open_blobs())
                }
                Role::Acms(_) | Role::Stranger(_) | Role::Down => continue,
            };
            if kept != (0, 0, 0) {
                return Some(format!("n{node} keeps blobs that come, their bytes, blobs that go: {kept:?}"));
            }
        }
        None
    }

    /// Once all is at rest, a blob comes through.
    pub(crate) fn call_with_blobs(&mut self) {
        let online: Vec<NodeId> =
            self.engines.iter().filter(|(_, engine)| engine.online).map(|(node, _)| *node).collect();
        for (node, next) in online.iter().zip(online.iter().cycle().skip(1)).take(2) {
            let to = self.engines[next].user.clone();
            self.send_blob(*node, &to);
        }
        if let Some(node) = online.last() {
            let to = self.engines[node].user.clone();
            self.send_blob(SERVERS[0], &to);
            self.send_blob(*node, SERVER_ITSELF);
        }
    }

    /// What was sent since then came through.
    pub(crate) fn check_blobs_since(&self, start: u64) {
        for (serial, sent) in self.blobs.sent.iter().filter(|(_, sent)| sent.at >= start) {
            assert_eq!(sent.outcome, Some(Ok(())), "blob #{serial}, once all was at rest: {sent:?}");
        }
    }
}
