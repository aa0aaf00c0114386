//! What relaying costs in system calls: AS01 => ACMS => AS02 over loopback, the three reactors in one thread, turn by turn.
//!
//! No clock decides here: calls are counted, and turns go on until everything has arrived.
#![cfg(feature = "net")]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use trunkline::id::ServerId;
use trunkline::limits;
use trunkline::net::{Calls, Reactor, Tuning, listen};
use trunkline::role::Core;
use trunkline::role::acms::{self, Acms};
use trunkline::role::appserver::{self, AppServer, CutOff, Event, Membership, Rates, Verdict};
use trunkline::time::Span;

use trunkline::wire::link::Relogin;

/// Turns after which something is lost.
const TURNS_MAX: usize = 1_000_000;
const BODY_BYTES: usize = 128;
const FRAME_BYTES: usize = 20 + 4 + 4 + BODY_BYTES;
const PAIRS: usize = 64;

/// A role with its sockets.
struct Node<C> {
    core: C,
    reactor: Reactor,
    addr: SocketAddr,
}

impl<C: Core> Node<C> {
    fn new(make: impl FnOnce(&Reactor, SocketAddr) -> C) -> Node<C> {
        let mut reactor = Reactor::new(Tuning::default()).expect("a reactor");
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        let addr = listener.local_addr().expect("its address");
        reactor.listen(listener).expect("a listener");
        Node { core: make(&reactor, addr), reactor, addr }
    }

    /// One turn, that waits for nothing.
    fn turn(&mut self, decide: impl FnOnce(&mut C, &Reactor)) {
        let now = self.reactor.now();
        self.reactor.receive(&mut self.core, Some(now)).expect("a turn");
        decide(&mut self.core, &self.reactor);
        self.reactor.send(&mut self.core);
    }
}

struct Cluster {
    acms: Node<Acms>,
    servers: [Node<AppServer>; 2],
}

fn server(number: u16, acms: SocketAddr) -> Node<AppServer> {
    Node::new(|reactor, addr| {
        let config = appserver::Config {
            server: ServerId(number),
            incarnation: 1,
            max_frame: limits::MAX_FRAME,
            heartbeat: limits::HEARTBEAT,
            heartbeat_timeout: limits::HEARTBEAT_TIMEOUT,
            login_timeout: limits::LOGIN_TIMEOUT,
            drain: limits::DRAIN,
            connections_max: 1000,
            max_accepts_per_second: 0,
            memory_max: usize::MAX,
            rates: Rates::NONE,
            relogin: Relogin::ReplaceOld,
            cut_off: CutOff::ServeLocal,
            takes_messages: false,
            takes_queries: false,
            asks_joins: false,
            takes_queries_before_login: false,
            blobs: Default::default(),
            cluster: Some(Membership {
                acms,
                name: "demo".to_owned(),
                secret: Vec::new(),
                public_address: addr.to_string(),
                capacity: 1000,
            }),
            seed: [number as u8; 32],
        };
        AppServer::new(reactor.now(), config)
    })
}

impl Cluster {
    fn new() -> Cluster {
        let acms = Node::new(|reactor, _| {
            let config = acms::Config {
                cluster: "demo".to_owned(),
                secret: Vec::new(),
                epoch: 1,
                connections_max: 10,
                memory_max: usize::MAX,
                policy: acms::Policy::default(),
                directory_grace: Span::default(),
                seed: [9; 32],
            };
            Acms::new(reactor.now(), config)
        });
        let servers = [1, 2].map(|number| server(number, acms.addr));
        let mut cluster = Cluster { acms, servers };
        cluster.until(|cluster| cluster.servers.iter().all(|server| server.core.cluster_is_up()));
        cluster
    }

    /// Turns of all three, until `is_done`.
    fn until(&mut self, mut is_done: impl FnMut(&mut Cluster) -> bool) {
        for _ in 0..TURNS_MAX {
            if is_done(self) {
                return;
            }
            let [as01, as02] = &mut self.servers;
            as01.turn(admit);
            self.acms.turn(|_, _| {});
            as02.turn(admit);
        }
        panic!("not after {TURNS_MAX} turns");
    }

    /// A user's socket, once the user is in.
    fn log_in(&mut self, place: usize, user: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.servers[place].addr).expect("the server listens");
        stream.set_nonblocking(true).expect("an option");
        let hello = [b"TRNK\x00\x01\x01\x00", &frame(0x01, "", user, b"")[..]].concat();
        stream.write_all(&hello).expect("room for a login");
        let mut welcome = Vec::new();
        self.until(|_| {
            take(&mut stream, &mut welcome);
            welcome.len() > 20 && welcome.len() >= 4 + length(&welcome)
        });
        assert_eq!(welcome[4], 0x02, "{user} is welcome");
        stream
    }

    fn calls(&self) -> [Calls; 3] {
        [self.servers[0].reactor.calls(), self.acms.reactor.calls(), self.servers[1].reactor.calls()]
    }
}

/// Lets everyone in.
fn admit(core: &mut AppServer, reactor: &Reactor) {
    while let Some(event) = core.poll_event() {
        if let Event::LoginAsked { conn, .. } = event {
            core.verdict(reactor.now(), conn, Verdict::Accept);
        }
    }
}

fn frame(kind: u8, to: &str, from: &str, body: &[u8]) -> Vec<u8> {
    let mut frame = ((16 + to.len() + from.len() + body.len()) as u32).to_be_bytes().to_vec();
    frame.extend([kind, 0, to.len() as u8, from.len() as u8, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 9]);
    frame.extend([to.as_bytes(), from.as_bytes(), body].concat());
    frame
}

fn length(frame: &[u8]) -> usize {
    u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize
}

/// Takes what has come.
fn take(stream: &mut TcpStream, into: &mut Vec<u8>) {
    let mut buffer = [0; 64 << 10];
    match stream.read(&mut buffer) {
        Ok(0) => panic!("hung up on"),
        Ok(bytes) => into.extend_from_slice(&buffer[..bytes]),
        Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
    }
}

/// Calls of AS01, ACMS and AS02 while each of [`PAIRS`] users writes `burst` messages at once, `rounds` times: by turns to
/// one on the other server and to its neighbour, so that a receiver's frames do not follow each other.
fn calls_of(burst: usize, rounds: usize) -> [Calls; 3] {
    let mut cluster = Cluster::new();
    let mut senders = Vec::new();
    let mut receivers = Vec::new();
    for number in 0..PAIRS {
        let alice = format!("a{number:03}");
        let bobs = [format!("b{number:03}"), format!("b{:03}", number ^ 1)];
        let frames = (0..burst).map(|turn| frame(0x10, &bobs[turn % 2], &alice, &[7; BODY_BYTES]));
        senders.push((cluster.log_in(0, &alice), frames.collect::<Vec<_>>().concat()));
        receivers.push(cluster.log_in(1, &bobs[0]));
    }
    let before = cluster.calls();
    for _ in 0..rounds {
        for (sender, frames) in &mut senders {
            sender.write_all(frames).expect("room for a burst");
        }
        for receiver in &mut receivers {
            let mut got = Vec::new();
            cluster.until(|_| {
                take(receiver, &mut got);
                got.len() >= burst * FRAME_BYTES
            });
            assert_eq!(got.len(), burst * FRAME_BYTES);
        }
    }
    let after = cluster.calls();
    [0, 1, 2].map(|place| Calls {
        waits: after[place].waits - before[place].waits,
        reads: after[place].reads - before[place].reads,
        writes: after[place].writes - before[place].writes,
    })
}

/// One message under way for each pair: one read of it at AS01, one write of it at AS02, and on the links between a
/// part of one each. No second read that finds nothing, no write for each frame.
#[test]
fn a_lone_message_costs_one_read_and_one_write() {
    const ROUNDS: usize = 50;
    let messages = (PAIRS * ROUNDS) as u64;
    let [as01, acms, as02] = calls_of(1, ROUNDS);
    // Keep-alive of the links, once a second and side, is all that is not counted by messages.
    let links = messages / 20;
    assert!((messages..=messages + links).contains(&as01.reads), "AS01: {as01} for {messages}");
    assert!(as01.writes <= links, "AS01: {as01} for {messages}");
    assert!(acms.reads <= links && acms.writes <= links, "ACMS: {acms} for {messages}");
    assert!(as02.reads <= links, "AS02: {as02} for {messages}");
    assert!((messages..=messages + links).contains(&as02.writes), "AS02: {as02} for {messages}");
}

/// Bursts of sixteen: a read and a write a burst, whatever its frames; and no call that finds nothing.
#[test]
fn a_burst_costs_one_read_and_one_write() {
    const ROUNDS: usize = 50;
    const BURST: usize = 16;
    let bursts = (PAIRS * ROUNDS) as u64;
    // A chunk holds that many bursts: so many turns there are at most, and each has one write a link.
    let chunks = (PAIRS * BURST * FRAME_BYTES).div_ceil(limits::CHUNK_BYTES / 2) as u64 * ROUNDS as u64;
    let [as01, acms, as02] = calls_of(BURST, ROUNDS);
    assert!((bursts..=bursts + bursts / 20).contains(&as01.reads), "AS01: {as01} for {bursts} bursts");
    assert!(as01.writes <= 2 * chunks, "AS01: {as01} for {chunks} chunks");
    assert!(acms.reads + acms.writes <= 8 * chunks, "ACMS: {acms} for {chunks} chunks");
    assert!(as02.reads <= 4 * chunks, "AS02: {as02} for {chunks} chunks");
    // A burst that is cut by the end of a read goes in two.
    assert!((bursts..=bursts + 4 * chunks).contains(&as02.writes), "AS02: {as02} for {bursts} bursts");
}

/// What is on its way to a server's users is not behind all that these have to say.
#[test]
fn the_link_is_read_in_each_turn_however_much_the_clients_have_written() {
    const DROPPABLE: u8 = 0x04;
    let mut cluster = Cluster::new();
    let mut alice = cluster.log_in(0, "alice");
    let mut bob = cluster.log_in(1, "bob");
    let _reads_nothing = cluster.log_in(0, "carol");
    let mut flooders = Vec::new();
    for number in 0..PAIRS {
        let name = format!("f{number:03}");
        let mut unread = frame(0x10, "carol", &name, &[7; 4096]);
        unread[5] = DROPPABLE;
        flooders.push((cluster.log_in(0, &name), unread.repeat(64)));
    }
    let written: usize = flooders.iter_mut().map(|(socket, flood)| socket.write(flood).expect("room for some")).sum();
    let turns_of_all = written / limits::CHUNK_BYTES;
    assert!(turns_of_all > 50, "clients have written {written} bytes");

    bob.write_all(&frame(0x10, "alice", "bob", b"at last")).expect("room for a message");
    let [as01, as02] = &mut cluster.servers;
    for _ in 0..100 {
        as02.turn(admit);
        cluster.acms.turn(|_, _| {});
    }
    let mut got = Vec::new();
    let mut turns = 0;
    while !got.windows(7).any(|bytes| bytes == b"at last") {
        as01.turn(admit);
        take(&mut alice, &mut got);
        turns += 1;
        assert!(turns <= 3, "bob's message waits behind the clients'");
    }
}

#[test]
fn waiting_for_nothing_costs_waits_alone() {
    let mut cluster = Cluster::new();
    let _users = [cluster.log_in(0, "alice"), cluster.log_in(1, "bob")];
    let before = cluster.calls();
    let mut turns = 0;
    cluster.until(|_| {
        turns += 1;
        turns > 1000
    });
    for (before, after) in before.iter().zip(cluster.calls()) {
        assert_eq!(after.waits - before.waits, 1000);

        assert!(after.reads + after.writes - before.reads - before.writes <= 8, "{after} after {before}");
    }
}
