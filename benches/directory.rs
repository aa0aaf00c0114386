//! The ACMS with 1,000,000 users on 10 servers, each login and loss as the link's frames tell it.
//!
//! - `look up`: who is where, as the relay asks it of `to` and `from` of each frame; users a second.
//! - `claim`: a login of a user who is known: its claim, answer and confirmation; logins a second.
//! - `burst`: one server tells of all its 100,000 users, BURST_BEGIN to SYNCED; users a second.
//! - `loss`: one server goes, until the directory is swept of its 100,000 users; users a second. Nothing waits for it:
//!   a sweep looks at a few thousand places a turn.
//! - Memory a user, in bytes, is printed and bounded. An id and its binding are 56 bytes; tables that double may be half
//!   empty.
//!
//! The users looked up or claimed are drawn anew each time, so that an entry comes from memory and not from a cache.

use std::cell::RefCell;
use std::hint::black_box;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use trunkline::id::{ConnId, UserId};
use trunkline::limits::CHUNK_BYTES;
use trunkline::link::End;
use trunkline::role::Core;
use trunkline::role::acms::Acms;
use trunkline::time::Time;
use trunkline::wire::link::{BindEntry, ProveBody};
use trunkline::wire::{Kind, Outgoing};

#[path = "../tests/relay_cost/counting.rs"]
mod counting;
#[path = "../tests/relay_cost/harness.rs"]
mod harness;

use harness::Node;

const SERVERS: usize = 10;
const USERS_EACH: usize = 100_000;
const USERS: usize = SERVERS * USERS_EACH;
/// Bytes of memory a user, at most.
const USER_BYTES_MAX: i64 = 128;
/// Users that are looked up or claimed at once: their ids, in a read's bytes, stay in a cache.
const BATCH: usize = 1024;
/// Bytes of a BIND's body, at most, as a server makes them.
const BIND_BYTES: usize = 16 << 10;

fn user(number: usize) -> UserId {
    format!("user{number:07}").parse().expect("an id")
}

/// Any users of these, each time others.
struct Draw(fastrand::Rng);

impl Draw {
    fn batch(&mut self, from: usize) -> Vec<UserId> {
        (0..BATCH).map(|_| user(from + self.0.usize(0..USERS))).collect()
    }
}

/// The cluster manager, and what its servers say.
struct Hub {
    acms: Node<Acms>,
    conns: Vec<ConnId>,
    /// The newest session, of all servers.
    session: u64,
}

impl Hub {
    fn new() -> Hub {
        let mut hub = Hub { acms: harness::hub(), conns: Vec::new(), session: 0 };
        for server in 0..SERVERS {
            let conn = hub.register(server);
            hub.conns.push(conn);
            hub.read(conn, &burst_of(server));
        }
        hub.sweep();
        assert_eq!(hub.acms.core.user_count(), USERS);
        hub
    }

    fn register(&mut self, server: usize) -> ConnId {
        let conn = self.acms.core.accepted(self.acms.now, SocketAddr::from(([10, 0, 0, server as u8], 5200)));
        let proof = ProveBody { nonce: [0; 32], proof: [0; 32] }.encode();
        let prove =
            Outgoing { info_type: server as u32, id: 1, to: b"demo", body: &proof, ..Outgoing::of(Kind::Prove) };
        let body = format!(r#"{{"address":"10.0.0.{server}:6000","capacity":100000}}"#);
        let mut bytes = BytesMut::from(&b"TRNK\x01\x01\x01\x00"[..]);
        prove.encode(&mut bytes);
        Outgoing { body: body.as_bytes(), ..Outgoing::of(Kind::Register) }.encode(&mut bytes);
        self.read(conn, &bytes);
        conn
    }

    /// Brings `bytes` in reads as a socket would.
    fn read(&mut self, conn: ConnId, bytes: &[u8]) {
        bytes.chunks(CHUNK_BYTES / 2).for_each(|part| self.acms.turn([(conn, part)]));
    }

    /// What server 0 writes for `users` who log in.
    fn claims(&mut self, users: &[UserId]) -> BytesMut {
        let mut bytes = BytesMut::new();
        for user in users {
            self.session += 1;
            let claim =
                Outgoing { id: self.session, from: user.as_bytes(), body: &[0; 8], ..Outgoing::of(Kind::Claim) };
            claim.encode(&mut bytes);
            let mut body = BytesMut::new();
            BindEntry::encode(self.session, 0, user, &mut body);
            Outgoing { body: &body, ..Outgoing::of(Kind::Bind) }.encode(&mut bytes);
        }
        bytes
    }

    /// Ends the newest server's connection.
    fn lose(&mut self) {
        let conn = self.conns.pop().expect("a server");
        self.acms.core.ended(self.acms.now, conn, End::Eof);
        self.acms.turn([]);
        self.sweep();
    }

    fn sweep(&mut self) {
        while self.acms.core.deadline() == Some(Time::ZERO) {
            self.acms.core.expire(self.acms.now);
        }
    }
}

/// What a server writes to tell of all its users.
fn burst_of(server: usize) -> BytesMut {
    let mut bytes = BytesMut::new();
    Outgoing::of(Kind::BurstBegin).encode(&mut bytes);
    let mut body = BytesMut::new();
    for number in server * USERS_EACH..(server + 1) * USERS_EACH {
        BindEntry::encode(1, 1000, &user(number), &mut body);
        if body.len() > BIND_BYTES - 100 || number + 1 == (server + 1) * USERS_EACH {
            Outgoing { body: &body, ..Outgoing::of(Kind::Bind) }.encode(&mut bytes);
            body.clear();
        }
    }
    Outgoing::of(Kind::Synced).encode(&mut bytes);
    bytes
}

fn directory(criterion: &mut Criterion) {
    let before = counting::live_bytes();
    let hub = Hub::new();
    let bytes_each = (counting::live_bytes() - before) / USERS as i64;
    println!("directory memory: {bytes_each} bytes a user at 1,000,000 users");
    assert!(bytes_each <= USER_BYTES_MAX, "{bytes_each} bytes a user, at most {USER_BYTES_MAX} were expected");

    let mut draw = Draw(fastrand::Rng::with_seed(1));
    let mut group = criterion.benchmark_group("directory of 1,000,000 users");
    group.throughput(Throughput::Elements(BATCH as u64));
    for (name, from, found) in [("look up, there", 0, BATCH), ("look up, not there", USERS, 0)] {
        let locate = |users: Vec<UserId>| users.iter().filter_map(|user| hub.acms.core.locate(user.as_bytes())).count();
        group.bench_function(name, |bench| {
            bench.iter_batched(
                || draw.batch(from),
                |users| assert_eq!(locate(black_box(users)), found),
                BatchSize::SmallInput,
            );
        });
    }
    let hub = RefCell::new(hub);
    group.bench_function("claim", |bench| {
        bench.iter_batched(
            || hub.borrow_mut().claims(&draw.batch(0)),
            |claims| {
                let conn = hub.borrow().conns[0];
                hub.borrow_mut().read(conn, &claims);
            },
            BatchSize::PerIteration,
        );
    });
    group.sample_size(20).throughput(Throughput::Elements(USERS_EACH as u64));
    let bytes = burst_of(SERVERS - 1);
    group.bench_function("burst", |bench| {
        bench.iter(|| {
            let conn = hub.borrow().conns[SERVERS - 1];
            hub.borrow_mut().read(conn, &bytes);
        });
    });
    group.bench_function("loss", |bench| {
        bench.iter_batched(
            || {
                let mut hub = hub.borrow_mut();
                if hub.conns.len() < SERVERS {
                    let conn = hub.register(SERVERS - 1);
                    hub.conns.push(conn);
                    hub.read(conn, &bytes);
                }
                hub.sweep();
            },
            |()| hub.borrow_mut().lose(),
            BatchSize::PerIteration,
        );
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = directory
}
criterion_main!(benches);
