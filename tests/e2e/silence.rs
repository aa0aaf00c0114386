//! Processes that are held (SIGSTOP): to the others they are silent, though their connections stand.

use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::now;
use crate::raw::{OFFLINE, REPLACED, Raw, UNREACHABLE};

/// A silent link is given up after 3 s; the rest is the machine's.
const NOTICED_WITHIN: Duration = Duration::from_secs(5);

#[track_caller]
fn expect_noticed(line: &str, since: Instant) {
    let took = since.elapsed();
    assert!(line.contains("closed 1003 NO_HEARTBEAT"), "{line}");
    assert!(took > Duration::from_secs(1) && took < NOTICED_WITHIN, "noticed after {took:?}");
}

#[test]
fn a_silent_acms_is_noticed_and_costs_no_client_its_session() {
    let cluster = Cluster::start();
    let [as0, as1] = cluster.clients();
    let (mut alice, mut dave) = (Raw::login(as0, "alice"), Raw::login(as0, "dave"));
    let mut bob = Raw::login(as1, "bob");
    bob.expect(&alice.send("bob", 1, "before"));

    cluster.acms.hold();
    let held = now();
    // Taken by the held process's socket: it goes with the link, and must not turn up later.
    alice.send("bob", 2, "into the silence");
    for server in &cluster.servers {
        expect_noticed(&server.stderr.line_with("cluster down"), held);
    }
    dave.expect(&alice.send("dave", 3, "on the same server"));
    let lost = alice.send("bob", 4, "across");
    alice.expect_bounce(&lost, UNREACHABLE);
    let lost = bob.send("alice", 4, "across");
    bob.expect_bounce(&lost, UNREACHABLE);

    cluster.acms.go_on();
    cluster.acms.stderr.lines_with("told of its", 4);
    for server in &cluster.servers {
        server.stderr.lines_with("cluster up", 2);
    }
    bob.expect(&alice.send("bob", 5, "after"));
    alice.expect(&bob.send("alice", 5, "after"));
    let lost = alice.send("nobody", 6, "?");
    alice.expect_bounce(&lost, OFFLINE);
    let logins = cluster.servers.iter().map(|server| server.stderr.text().matches("logged in as").count());
    assert_eq!(logins.collect::<Vec<_>>(), [2, 1], "nobody had to log in again");
    // Nothing else came to anyone.
    for user in [alice, bob, dave] {
        user.log_out();
    }
}

#[test]
fn a_silent_server_is_noticed_and_its_user_is_in_once() {
    let cluster = Cluster::start();
    let [as0, as1] = cluster.clients();
    let mut alice = Raw::login(as0, "alice");
    let (mut bob, mut carol) = (Raw::login(as1, "bob"), Raw::login(as1, "carol"));
    alice.expect(&bob.send("alice", 1, "before"));

    cluster.servers[0].hold();
    let held = now();
    let lost_line = cluster.acms.stderr.line_with("server 0 lost with 1 users");
    expect_noticed(&lost_line, held);
    carol.expect(&bob.send("carol", 2, "on the same server"));
    let lost = bob.send("alice", 2, "?");
    bob.expect_bounce(&lost, OFFLINE);
    let mut alice_again = Raw::login(as1, "alice");
    alice_again.expect(&bob.send("alice", 3, "here now"));

    cluster.servers[0].go_on();
    alice.expect_close(REPLACED);
    cluster.acms.stderr.lines_with("told of its", 3);
    alice_again.expect(&carol.send("alice", 4, "to the one that stays"));
    let mut dave = Raw::login(as0, "dave");
    alice_again.expect(&dave.send("alice", 5, "from the server that was away"));
    dave.expect(&alice_again.send("dave", 6, "and back"));
    for user in [alice_again, bob, carol, dave] {
        user.log_out();
    }
    assert!(!cluster.servers[1].stderr.text().contains("cluster down"), "the other server felt nothing");
}
