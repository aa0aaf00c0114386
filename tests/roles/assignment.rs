//! Where a storm of users is sent, while it is under way.

use trunkline::id::ConnId;
use trunkline::role::acms::Policy;

use crate::acms::{Hub, bind, hub_with, member_with, state};

const SERVERS: u16 = 20;
const SECONDS: u64 = 50;
const USERS_PER_SECOND: u64 = 2_000;
/// One user in so many never comes.
const ABSENT: u64 = 11;

/// A user on the way: its server's place, its number.
type Sent = (usize, u64);

/// Each server's users so far, and what its link is.
struct Storm {
    hub: Hub,
    conns: Vec<ConnId>,
    users: Vec<u32>,
    assigned: Vec<u32>,
}

impl Storm {
    fn of(policy: Policy) -> Storm {
        let mut hub = hub_with(|config| config.policy = policy);
        let conns: Vec<ConnId> = (1..=SERVERS).map(|server| member_with(&mut hub, server, 0, 10_000)).collect();
        let none = vec![0; conns.len()];
        Storm { hub, conns, users: none.clone(), assigned: none }
    }

    /// Each server tells how many users it has, and that six of them cost a thousandth of its time.
    fn report(&mut self) {
        for (conn, users) in self.conns.iter().zip(&self.users) {
            self.hub.put(*conn, state(*users, 0, (users / 6) as u16));
            self.hub.wire(*conn).got.clear();
        }
    }

    /// Every other user says who it is.
    fn assign(&mut self, number: u64) -> Sent {
        let user = number.is_multiple_of(2).then(|| format!("user{number}").parse().expect("an id"));
        let assigned = self.hub.core.assign(self.hub.now, user.as_ref()).expect("there is room");
        let place = usize::from(assigned.server.0) - 1;
        self.assigned[place] += 1;
        (place, number)
    }

    fn arrive(&mut self, (place, number): Sent) {
        self.users[place] += 1;
        self.hub.put(self.conns[place], bind(&[(number + 1, 0, &format!("user{number}"))]));
    }
}

#[test]
fn a_hundred_thousand_who_come_by_and_by_are_spread_evenly() {
    for policy in [Policy::RoundRobin, Policy::MinUserCount, Policy::LeastBusy] {
        let mut storm = Storm::of(policy);
        let mut under_way = Vec::new();
        for second in 0..SECONDS {
            storm.report();
            for number in second * USERS_PER_SECOND..(second + 1) * USERS_PER_SECOND {
                under_way.push(storm.assign(number));
            }
            storm.hub.pass_ms(500);
            let came = under_way.drain(..).filter(|(_, number)| number % ABSENT != 0).collect::<Vec<_>>();
            came.into_iter().for_each(|sent| storm.arrive(sent));
            storm.hub.pass_ms(500);
        }
        let share = (SECONDS * USERS_PER_SECOND / u64::from(SERVERS)) as u32;
        let within = share - share / 50..=share + share / 50;
        assert!(storm.assigned.iter().all(|count| within.contains(count)), "{policy:?}: {:?}", storm.assigned);
    }
}
