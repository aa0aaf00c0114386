//! A server cut off from its cluster by the network: it runs in a network namespace of its own, and what leads to the
//! cluster manager is unplugged there. Skipped where this user may not make one.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::cluster::INFO;
use crate::cluster::NO_GRACE;
use crate::now;
use crate::program::{ACMS, APPSERVER, Program};
use crate::raw::{OFFLINE, REPLACED, Raw, UNREACHABLE};

/// A silent link is given up after 3 s; the rest is the machine's.
const NOTICED_WITHIN: Duration = Duration::from_secs(5);
/// The longest pause between dials, 5 s, a registration, and the machine.
const HEALED_WITHIN: Duration = Duration::from_secs(12);

/// A namespace and two cables to it: one for the test's own users, one for the link. Removed with its guard.
struct Network {
    namespace: String,
    /// Of the addresses for benchmarks (198.18.0.0/15): the third byte.
    net: u8,
}

impl Network {
    fn lay() -> Result<Network, String> {
        let id = std::process::id();
        let network = Network { namespace: format!("trunkline-{id}"), net: (id % 256) as u8 };
        let namespace = network.namespace.as_str();
        ip(&["netns", "add", namespace])?;
        for (cable, end) in [(network.cable('c'), 1), (network.cable('t'), 5)] {
            let [near, far] = [format!("{cable}0"), format!("{cable}1")];
            ip(&["link", "add", &near, "type", "veth", "peer", "name", &far, "netns", namespace])?;
            ip(&["addr", "add", &format!("{}/30", network.address(end)), "dev", &near])?;
            ip(&["-n", namespace, "addr", "add", &format!("{}/30", network.address(end + 1)), "dev", &far])?;
            ip(&["link", "set", &near, "up"])?;
            ip(&["-n", namespace, "link", "set", &far, "up"])?;
        }
        Ok(network)
    }

    fn cable(&self, kind: char) -> String {
        // The kernel takes 15 bytes.
        format!("tl{kind}{}", std::process::id())
    }

    fn address(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.net, last)
    }

    fn set_link(&self, state: &str) {
        let far = format!("{}1", self.cable('t'));
        ip(&["-n", &self.namespace, "link", "set", &far, state]).expect("the cable is there");
    }

    fn unplug(&self) {
        self.set_link("down");
    }

    fn plug_in(&self) {
        self.set_link("up");
    }

    fn start_inside(&self, path: &str, args: &[&str]) -> Program {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace, path]).args(args).envs(INFO);
        Program::spawn(&mut command).expect("ip is there")
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The cables go with the namespace, or were never laid; one that is gone can't be removed.
        drop(ip(&["netns", "del", &self.namespace]));
        for kind in ['c', 't'] {
            drop(ip(&["link", "del", &format!("{}0", self.cable(kind))]));
        }
    }
}

fn ip(args: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(args).output().map_err(|error| format!("ip: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(format!("ip {}: {said}", args.join(" "))) }
}

/// A login while the server is cut off, which it says.
#[track_caller]
fn login_cut_off(addr: SocketAddr, user: &str) -> Raw {
    let (raw, answer) = Raw::try_login(addr, user, b"");
    let welcome: Value = serde_json::from_slice(&answer.body).expect("the body of WELCOME is JSON");
    assert_eq!(welcome["cluster"], "down", "{welcome}");
    raw
}

#[test]
fn a_server_cut_off_serves_its_users_and_the_newest_login_stays_when_it_is_back() {
    let network = match Network::lay() {
        Ok(network) => network,
        Err(reason) => return println!("skipped: no network namespaces here: {reason}"),
    };
    let transfer = network.address(5).to_string();
    let anywhere = ["--bind", &transfer, "--insecure", "--transfer-port", "0", "--management-port", "0"];
    let acms = Program::start(ACMS, &[&anywhere[..], &NO_GRACE].concat());
    let transfer = acms.ready("transfer").to_string();
    let near = Program::start(APPSERVER, &["--id", "0", "--listen", "127.0.0.1:0", "--acms", &transfer]);
    let listen = format!("{}:0", network.address(2));
    let far = network.start_inside(APPSERVER, &["--id", "1", "--listen", &listen, "--acms", &transfer]);
    acms.stderr.lines_with("told of its", 2);
    let (as0, as1) = (near.ready("clients"), far.ready("clients"));
    let (mut alice, mut dave) = (Raw::login(as0, "alice"), Raw::login(as0, "dave"));
    let (mut bob, mut erin) = (Raw::login(as1, "bob"), Raw::login(as1, "erin"));
    let mut older_carol = Raw::login(as1, "carol");
    bob.expect(&alice.send("bob", 1, "before"));

    network.unplug();
    let unplugged = now();
    let mut older_frank = Raw::login(as0, "frank");
    acms.stderr.line_with("server 1 lost with 3 users");
    far.stderr.line_with("cluster down");
    assert!(unplugged.elapsed() < NOTICED_WITHIN, "{:?}", unplugged.elapsed());
    let mut newer_carol = Raw::login(as0, "carol");
    let mut newer_frank = login_cut_off(as1, "frank");

    dave.expect(&alice.send("dave", 2, "among those near"));
    erin.expect(&bob.send("erin", 2, "among those far"));
    older_carol.expect(&bob.send("carol", 3, "to the one here"));
    newer_carol.expect(&alice.send("carol", 3, "to the one here"));
    older_frank.expect(&dave.send("frank", 4, "to the one here"));
    newer_frank.expect(&erin.send("frank", 4, "to the one here"));
    let lost = bob.send("alice", 5, "across");
    bob.expect_bounce(&lost, UNREACHABLE);
    // On this side the cluster is whole, and that server's users are not in it.
    let lost = alice.send("bob", 5, "across");
    alice.expect_bounce(&lost, OFFLINE);

    network.plug_in();
    let plugged_in = now();
    older_carol.expect_close(REPLACED);
    older_frank.expect_close(REPLACED);
    acms.stderr.lines_with("server 1 told of its", 2);
    far.stderr.lines_with("cluster up", 2);
    assert!(plugged_in.elapsed() < HEALED_WITHIN, "{:?}", plugged_in.elapsed());
    bob.expect(&alice.send("bob", 6, "after"));
    alice.expect(&erin.send("alice", 6, "after"));
    newer_carol.expect(&bob.send("carol", 7, "to the newest"));
    newer_frank.expect(&dave.send("frank", 7, "to the newest"));
    assert!(!near.stderr.text().contains("cluster down"), "the server that was not cut off felt nothing");
    // Nothing else came to anyone.
    for user in [alice, bob, dave, erin, newer_carol, newer_frank] {
        user.log_out();
    }
}
