//! A server that the system gives no descriptor, though it is below its own cap: the limit is lowered while it runs.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, prlimit};

use crate::program::{APPSERVER, Program};
use crate::raw::{CLOSE, FULL, Raw, WELCOME};
use crate::vitals::{cpu_share, lowest_free_descriptor};
use crate::{PATIENCE, now};

/// How soon a client that waits gets in once a descriptor is free, without anyone new coming.
const RECOVERY: Duration = Duration::from_millis(100);
/// Times that it is measured; the median counts, since others have the machine too.
const ROUNDS: usize = 7;
/// Share of one processor that may be spent on accepting what can't be accepted.
const CPU_SHARE_MAX: f64 = 0.05;

/// Allows descriptors below `end`, and no others: those that are open stay.
fn limit_descriptors(server: &Program, end: u64) {
    let limit = Rlimit { current: Some(end), maximum: getrlimit(Resource::Nofile).maximum };
    prlimit(Some(server.pid()), Resource::Nofile, limit).expect("the process is this user's own");
}

/// The user is in, who was told that the server is full and knocks again; how long after `freed` that was.
#[track_caller]
fn let_in(addr: SocketAddr, user: &str, freed: Instant) -> (Raw, Duration) {
    loop {
        let (newcomer, answer) = Raw::try_login(addr, user, b"");
        if answer.kind == WELCOME {
            return (newcomer, freed.elapsed());
        }
        assert_eq!((answer.kind, answer.info_type), (CLOSE, FULL), "{answer:?}");
        assert!(freed.elapsed() < PATIENCE, "{user} is told for ever that the server is full");
    }
}

#[track_caller]
fn expect_median_below(bound: Duration, mut times: Vec<Duration>, what: &str) {
    times.sort_unstable();
    assert!(times[times.len() / 2] < bound, "{what}: in after {times:?}");
}

#[test]
fn a_server_without_descriptors_rests_and_goes_on_once_one_is_free() {
    let server = Program::start(APPSERVER, &["--listen", "127.0.0.1:0"]);
    let addr = server.ready("clients");
    let name = |number: usize| format!("user{number}");
    let mut inside: Vec<Raw> = (0..ROUNDS).map(|number| Raw::login(addr, &name(number))).collect();
    let full = lowest_free_descriptor(&server);
    limit_descriptors(&server, full);
    // Its spare descriptor tells each that comes.
    let mut waiting: Vec<_> = (ROUNDS..3 * ROUNDS).map(|number| Raw::knock(addr, &name(number), b"")).collect();
    waiting.iter_mut().for_each(|stranger| drop(stranger.expect_close(FULL)));
    server.stderr.line_with("accept: Too many open files");
    let share = cpu_share(&server);
    assert!(share < CPU_SHARE_MAX, "{:.0} % of a processor for nothing", share * 100.0);
    let note = inside[0].send("user1", 1, "those inside talk on");
    inside[1].expect(&note);

    // First because the system allows one more, of which the server hears nothing, then because a user leaves.
    let (mut by_itself, mut by_logout) = (Vec::new(), Vec::new());
    for round in 0..2 * ROUNDS {
        let user = name(ROUNDS + round);
        let raised = round < ROUNDS;
        if raised {
            limit_descriptors(&server, full + 1 + round as u64);
        } else {
            inside.remove(0).log_out();
        }
        let (newcomer, took) = let_in(addr, &user, now());
        if raised {
            by_itself.push(took)
        } else {
            by_logout.push(took)
        }
        inside.push(newcomer);
    }
    expect_median_below(RECOVERY, by_itself, "the limit was raised");
    expect_median_below(RECOVERY, by_logout, "a user left");
    limit_descriptors(&server, full + 2 * ROUNDS as u64);
    let (_stays, _) = let_in(addr, "one more", now());
    server.stderr.line_with("connections are accepted again; ");
    let note = inside[0].send("user20", 2, "all in");
    inside.last_mut().expect("they are in").expect(&note);
}
