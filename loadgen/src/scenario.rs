//! Who writes to whom.

use std::ops::Range;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Receivers that each user of [`Scenario::Random`] writes to.
const RANDOM_RECEIVERS: u32 = 8;
/// Users of a group of [`Scenario::Groups`]: neighbours by number, so that each server has its share of every group.
const GROUP_USERS: u32 = 200;
/// Those of them who write: the first ones, on different servers.
const GROUP_WRITERS: u32 = 4;
/// Of so many users one is not good: it reads nothing, or floods one that reads nothing.
const BAD_EVERY: u32 = 20;

/// A shape of load. User n is on server n modulo their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[value(rename_all = "kebab-case")]
pub(crate) enum Scenario {
    /// Users in pairs on different servers; the first of each writes to the second
    Pairs,
    /// Users in pairs on different servers; both write
    Both,
    /// Each user writes to eight others, on any server
    Random,
    /// All users write to one
    ManyToOne,
    /// Nobody writes: what connections cost
    Idle,
    /// All users log in and out again, as fast as that goes
    Storm,
    /// Half of the users in pairs; the others are written to, and log in and out all the time
    Churn,
    /// One user in 20 reads nothing, one in 20 floods it; the others in pairs, whose messages may bounce where a flood
    /// fills the way
    Slow,
    /// Pairs; but of the last pair of a process the first floods the second
    OneFlooder,
    /// Pairs; but of the last pair of a process the first floods the second, who reads nothing
    OneStalled,
    /// Users in groups of 200, on all servers; four of each write to their group
    Groups,
}

/// What a user does beside writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conduct {
    /// Stays and reads.
    Steady,
    /// Reads nothing once it is in.
    Deaf,
    /// Logs out after up to `stay_ms`, and in again.
    Restless { stay_ms: u64 },
}

/// One user's messages to another: they arrive in the order sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) sender: u32,
    pub(crate) receiver: u32,
    pub(crate) kind: RouteKind,
}

/// What is expected of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RouteKind {
    /// Each message arrives.
    Sure,
    /// A message may bounce, or be lost: with the receiver's connection, or with its bounce where a flood fills the way
    /// back too. What arrives is in order, once.
    Unsure,
    /// As many messages as the connection takes; most of them bounce.
    Flood,
}

/// One user's messages to its group: all others of it get each of them, in the order sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupRoute {
    pub(crate) sender: u32,
    pub(crate) members: Range<u32>,
}

/// The users of one worker, by their place, and their routes.
pub(crate) struct Plan {
    pub(crate) conducts: Vec<Conduct>,
    pub(crate) routes: Vec<Route>,
    pub(crate) group_routes: Vec<GroupRoute>,
}

impl Scenario {
    /// The plan for `users` users, an even number.
    pub(crate) fn plan(self, users: u32, rng: &mut fastrand::Rng) -> Plan {
        let mut conducts = vec![Conduct::Steady; users as usize];
        let sure = |sender, receiver| Route { sender, receiver, kind: RouteKind::Sure };
        let routes = match self {
            Scenario::Pairs => (0..users).step_by(2).map(|user| sure(user, user + 1)).collect(),
            Scenario::Both => (0..users).map(|user| sure(user, user ^ 1)).collect(),
            Scenario::Random => (0..users).flat_map(|user| random_receivers(user, users, rng)).collect(),
            Scenario::ManyToOne => (1..users).map(|user| sure(user, 0)).collect(),
            Scenario::Idle | Scenario::Groups => Vec::new(),
            Scenario::Storm => {
                conducts.fill(Conduct::Restless { stay_ms: 0 });
                Vec::new()
            }
            Scenario::Churn => (0..users).step_by(4).flat_map(|user| churn(user, users, &mut conducts)).collect(),
            Scenario::Slow => (0..users).step_by(2).map(|user| good_or_bad(user, &mut conducts)).collect(),
            Scenario::OneFlooder | Scenario::OneStalled => {
                if self == Scenario::OneStalled {
                    conducts[users as usize - 1] = Conduct::Deaf;
                }
                let flood = Route { sender: users - 2, receiver: users - 1, kind: RouteKind::Flood };
                (0..users - 2).step_by(2).map(|user| sure(user, user + 1)).chain([flood]).collect()
            }
        };
        let group_routes = if self == Scenario::Groups { group_routes(users) } else { Vec::new() };
        Plan { conducts, routes, group_routes }
    }
}

fn group_routes(users: u32) -> Vec<GroupRoute> {
    let groups = (0..users).step_by(GROUP_USERS as usize).map(|first| first..users.min(first + GROUP_USERS));
    let writers = |members: &Range<u32>| members.clone().take(GROUP_WRITERS as usize);
    groups
        .flat_map(|members| writers(&members).map(move |sender| GroupRoute { sender, members: members.clone() }))
        .collect()
}

fn random_receivers(sender: u32, users: u32, rng: &mut fastrand::Rng) -> Vec<Route> {
    let steps = rng.choose_multiple(1..users, RANDOM_RECEIVERS as usize);
    steps.iter().map(|step| Route { sender, receiver: (sender + step) % users, kind: RouteKind::Sure }).collect()
}

/// Of four users two are a pair and two restless; each of the pair writes to a restless one too.
fn churn(first: u32, users: u32, conducts: &mut [Conduct]) -> Vec<Route> {
    let mut routes = vec![Route { sender: first, receiver: first + 1, kind: RouteKind::Sure }];
    for (sender, receiver) in [(first + 1, first + 2), (first, first + 3)] {
        if receiver < users {
            conducts[receiver as usize] = Conduct::Restless { stay_ms: 500 };
            routes.push(Route { sender, receiver, kind: RouteKind::Unsure });
        }
    }
    routes
}

fn good_or_bad(first: u32, conducts: &mut [Conduct]) -> Route {
    if (first / 2).is_multiple_of(BAD_EVERY / 2) {
        conducts[first as usize + 1] = Conduct::Deaf;
        return Route { sender: first, receiver: first + 1, kind: RouteKind::Flood };
    }
    Route { sender: first, receiver: first + 1, kind: RouteKind::Unsure }
}
