//! From beginning to end: a day's faults, their healing, and what must be true once all has come to rest.

use std::collections::{BTreeMap, BTreeSet};

use trunkline::role::acms::Acms;
use trunkline::role::appserver::AppServer;

use crate::cluster::{ACMS, SERVERS};
use crate::losses::Vanished;
use crate::model::Manner;
use crate::network::NodeId;
use crate::node::Role;
use crate::scenario::{GHOST, SERVER_ITSELF, SETTLED_MICROS, Step, server_called, server_name};
use crate::world::{Engine, World};

/// World time, in microseconds, within which everything must have come to rest once all has healed.
const REST_MICROS: u64 = 100_000_000;
/// World time, in microseconds, within which everyone must be logged in once all has healed: two dials that come to
/// nothing, the pauses between, and a slow login check.
const LOGIN_MICROS: u64 = 18_000_000;
/// The same where a server's machine may have gone without a word, and come back: who waits for its WELCOME does so for
/// all of the client's patience.
const HALF_OPEN_LOGIN_MICROS: u64 = 55_000_000;
/// The same where clients have rates, or memory is short: who sent too much is closed half a minute later, and who finds
/// no room waits.
const OVERLOADED_LOGIN_MICROS: u64 = 75_000_000;
/// World time, in microseconds, within which servers read from every client again once all has healed, where none has
/// sent too much. A client that is not read from for longer takes its server for dead, and hides that by a new login.
const HEARD_MICROS: u64 = 20_000_000;
/// World time, in microseconds, within which whatever is said once all is at rest has its outcome.
const CALL_MICROS: u64 = 20_000_000;
/// World time, in microseconds, after which strangers hang up where their connection may be dead without their knowing.
/// Elsewhere they must have been thrown out.
const STRANGER_MICROS: u64 = 20_000_000;

impl World {
    pub(crate) fn run(&mut self) {
        self.run_until(self.plan.ends);
        self.heal_all();
        self.come_to_rest();
        self.check_end();
        self.call_everyone();
    }

    fn heal_all(&mut self) {
        self.note(|| "everything heals".to_owned());
        let leaves_half_open = self.plan.leaves_half_open();
        for node in &mut self.nodes {
            node.stopped_until = node.stopped_until.min(self.clock);
            if let Role::Stranger(stranger) = &mut node.role
                && leaves_half_open
            {
                stranger.gives_up_at = self.clock + STRANGER_MICROS;
            }
        }
        let rest = std::mem::take(&mut self.steps);
        for ((at, _), step) in rest {
            match step {
                Step::Restart(_)
                | Step::Heal(..)
                | Step::Unhold(_)
                | Step::Listen(_)
                | Step::Verdict { .. }
                | Step::Answer(_)
                | Step::Befriend { .. }
                | Step::Permit { .. }
                | Step::CancelBlob { .. }
                | Step::BlobVerdict { .. }
                | Step::JoinVerdict { .. }
                | Step::AskMembers { .. } => {
                    self.take_step(step);
                }
                Step::Hurry { .. } | Step::Guide(_) => self.schedule(at, step),
                Step::Act | Step::Insist(_) | Step::Arrive(_) | Step::Join { .. } | Step::Fault(_) => {}
            }
        }
        for node in 0..self.nodes.len() {
            self.touch(node);
            self.network.wakes.insert((self.clock + STRANGER_MICROS, node));
        }
    }

    fn come_to_rest(&mut self) {
        let login = match (self.plan.is_short_of_memory() || self.plan.has_rates(), self.plan.leaves_half_open()) {
            (true, _) => OVERLOADED_LOGIN_MICROS,
            (false, true) => HALF_OPEN_LOGIN_MICROS,
            (false, false) => LOGIN_MICROS,
        };
        let (end, all_in) = (self.clock + REST_MICROS, self.clock + login);
        let all_heard = self.clock + HEARD_MICROS;
        while let Some(unrest) = self.unrest() {
            assert!(self.clock < end, "no rest after {} s: {unrest}", REST_MICROS / 1_000_000);
            assert!(self.clock < all_in || self.everyone_is_in(), "somebody's login is forgotten");
            assert!(
                self.clock < all_heard || self.plan.has_rates() || self.reads_everyone(),
                "somebody is not read from"
            );
            self.run_until(self.clock + 237_000);
        }
        self.note(|| "at rest".to_owned());
        self.run_until(self.clock + 1_500_000);
    }

    /// Why the world is not at rest.
    fn unrest(&mut self) -> Option<String> {
        if let Some(node) = SERVERS.into_iter().find(|node| self.nodes[*node].is_down() || self.drains.contains(node)) {
            return Some(format!("n{node} is being started again"));
        }
        if let Some(node) = SERVERS.into_iter().find(|node| !self.server(*node).cluster_is_up()) {
            return Some(format!("n{node} is cut off"));
        }
        if !self.everyone_is_in() {
            return Some("somebody is not in".to_owned());
        }
        if self.nodes.iter().any(|node| matches!(&node.role, Role::Stranger(stranger) if !stranger.is_over)) {
            return Some("a stranger is still there".to_owned());
        }
        let unresolved = self.model.unresolved();
        if !unresolved.is_empty() {
            return Some(format!("unresolved: {unresolved:?}"));
        }
        if let Some(unrest) = self.groups_unrest() {
            return Some(unrest);
        }
        if let Some(unrest) = self.friends_unrest() {
            return Some(unrest);
        }
        if let Some(unrest) = self.blobs_unrest() {
            return Some(unrest);
        }
        let flushed = self.nodes.iter_mut().all(|node| node.is_flushed());
        if !flushed || !self.network.is_still() {
            return Some("bytes are under way".to_owned());
        }
        self.compare_directory().and_then(|()| self.check_no_leak()).err()
    }

    fn reads_everyone(&mut self) -> bool {
        SERVERS.into_iter().all(|node| self.nodes[node].paused() == 0)
    }

    fn everyone_is_in(&self) -> bool {
        self.engines.values().all(|engine| engine.online || engine.is_over())
    }

    pub(crate) fn server(&self, node: NodeId) -> &AppServer {
        match &self.nodes[node].role {
            Role::Server(server) => server,
            Role::Acms(_) | Role::Client(_) | Role::Stranger(_) | Role::Down => panic!("n{node} is no running server"),
        }
    }

    pub(crate) fn acms(&self) -> &Acms {
        match &self.nodes[ACMS].role {
            Role::Acms(acms) => acms,
            Role::Server(_) | Role::Client(_) | Role::Stranger(_) | Role::Down => panic!("the ACMS is not running"),
        }
    }

    /// Who is in, and where, as the servers have it against what the ACMS and the users' programs have.
    fn compare_directory(&self) -> Result<(), String> {
        let mut places: BTreeMap<&str, Vec<u16>> = BTreeMap::new();
        for node in SERVERS {
            for user in self.server(node).online() {
                places.entry(user.as_str()).or_default().push(node as u16);
            }
        }
        for user in &self.plan.users {
            let here = places.remove(user.as_str()).unwrap_or_default();
            let there: Vec<u16> = self.acms().locate(user.as_bytes()).into_iter().map(|server| server.0).collect();
            let programs = self.engines.values().filter(|engine| engine.user == *user && engine.online);
            let programs: Vec<u16> = programs.map(|engine| engine.server as u16).collect();
            if here != there || here != programs {
                return Err(format!("{user}: servers say {here:?}, the ACMS {there:?}, programs {programs:?}"));
            }
        }
        if places.is_empty() { Ok(()) } else { Err(format!("nobody knows {places:?}")) }
    }

    /// Nobody keeps a connection, a question or a binding beyond what is in use.
    fn check_no_leak(&mut self) -> Result<(), String> {
        let total = self.acms().user_count();
        let online: Vec<usize> = SERVERS.iter().map(|node| self.server(*node).users_online()).collect();
        if total != online.iter().sum::<usize>() {
            return Err(format!("the ACMS counts {total} users, the servers {online:?}"));
        }
        let mut expected: BTreeMap<NodeId, usize> =
            self.engines.iter().map(|(node, engine)| (*node, usize::from(engine.online))).collect();
        expected.insert(ACMS, SERVERS.len());
        expected.extend(SERVERS.iter().zip(online).map(|(node, users)| (*node, users + 1)));
        for (node, expected) in expected {
            let links = self.nodes[node].links();
            if links != expected {
                return Err(format!("n{node} keeps {links} connections, {expected} are in use"));
            }
            let paused = self.nodes[node].paused();
            if paused > 0 {
                return Err(format!("n{node} does not read from {paused} connections"));
            }
        }
        let acms = self.acms();
        let kept = [acms.binding_count() - total, acms.open_claims(), acms.moving_count(), acms.assigned_count()];
        if kept != [0; 4] {
            return Err(format!("the ACMS keeps bindings, claims, moves, reservations: {kept:?}"));
        }
        for node in SERVERS {
            let server = self.server(node);
            let kept = (server.open_claims(), server.open_questions(), server.open_queries());
            if kept != (0, (0, 0), 0) {
                return Err(format!("n{node} keeps claims, questions and their users, queries: {kept:?}"));
            }
            let kept = (server.open_joins(), server.open_rosters(), server.open_wishes());
            if kept != (0, 0, 0) {
                return Err(format!("n{node} keeps joins, lists of members, questions to watch: {kept:?}"));
            }
        }
        if self.locating.is_empty() { Ok(()) } else { Err(format!("not answered: {:?}", self.locating)) }
    }

    /// What stands still for good is found by asking it to move: each program says something to the next one, and each
    /// server to some user, and all of it arrives.
    fn call_everyone(&mut self) {
        let (start, end) = (self.clock, self.clock + CALL_MICROS);
        self.is_at_rest = true;
        let online = self.engines.iter().filter(|(_, engine)| engine.online);
        let online: Vec<(NodeId, String)> = online.map(|(node, engine)| (*node, engine.user.clone())).collect();
        let manners = [Manner::Plain, Manner::Acked, Manner::Query];
        for ((node, _), (number, (_, next))) in online.iter().zip(online.iter().cycle().skip(1).enumerate()) {
            self.say_once(*node, manners[(self.seed as usize + number) % 3], next, 9);
        }
        for (node, (_, user)) in SERVERS.into_iter().zip(&online) {
            self.speak_as_server(node, manners[(self.seed as usize + node) % 3], user);
            self.ask_as_server(node);
            self.speak_as_server(node, manners[2 * (node % 2)], &server_name(SERVERS[node % SERVERS.len()]));
        }
        self.call_groups();
        if self.plan.has_blobs {
            self.call_with_blobs();
        }
        self.run_until(self.clock + 100_000);
        while let Some(unrest) = self.unrest() {
            assert!(self.clock < end, "no rest {} s after everyone was called: {unrest}", CALL_MICROS / 1_000_000);
            self.run_until(self.clock + 100_000);
        }
        self.model.check_all_arrived(start, GHOST);
        self.check_groups_losses();
        self.check_blobs_since(start);
    }

    fn check_end(&mut self) {
        assert_eq!(self.compare_directory(), Ok(()));
        assert_eq!(self.check_no_leak(), Ok(()));
        for user in &self.plan.users {
            let mut programs = self.engines.values().filter(|engine| engine.user == *user);
            let stays = programs.clone().any(|engine| !engine.killed && !engine.leaving);
            let is_in = programs.any(|engine| engine.online);
            assert!(!stays || is_in, "every program of {user} was turned out");
        }
        self.check_losses();
        self.check_groups_losses();
        if self.plan.is_calm() {
            self.model.check_all_arrived(SETTLED_MICROS, GHOST);
        }
        let (sent, delivered) = (self.model.count(), self.model.delivered);
        self.note(|| format!("{sent} sent, {delivered} handed over"));
    }

    /// Every message that vanished has a cause.
    fn check_losses(&self) {
        let vanished = self.model.vanished().map(|(serial, sent)| {
            let mut receivers = self.engines.values().filter(|engine| engine.user == sent.to);
            let was_here =
                |engine: &Engine| engine.server == sent.via && engine.online && engine.online_since < sent.at;
            let crosses = sent.to != SERVER_ITSELF && !receivers.any(was_here);
            let ways = match server_called(&sent.to) {
                Some(server) => BTreeSet::from([server]),
                None => self.let_in.get(&sent.to).cloned().unwrap_or_default(),
            };
            Vanished { serial, sent, ways, crosses }
        });
        let vanished: Vec<Vanished<'_>> = vanished.collect();
        if let Some(Vanished { serial, sent, .. }) = self.losses.unexplained(&vanished) {
            panic!("#{serial} is lost, and nothing explains it: {sent:?}");
        }
    }
}
