//! AS01 => ACMS => AS02 without sockets: what the three cores cost a frame; and the directory with many users.
//!
//! Between two cores the bytes are copied once, as a kernel would.

use std::hint::black_box;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use trunkline::id::{ConnId, ServerId, UserId};
use trunkline::limits::{CHUNK_BYTES, WRITE_SLICES_MAX};
use trunkline::role::acms::{self, Acms};
use trunkline::role::appserver::{self, AppServer, CutOff, Membership, Verdict};
use trunkline::role::{Binding, Core, Directory, Tenure};
use trunkline::time::{Span, Time};
use trunkline::wire::link::Relogin;

const NOW: Time = Time::from_micros(1_000_000);
/// About what one read brings.
const READ_BYTES: usize = 64 << 10;
const FRAME_BYTES: usize = 150;
const USERS: usize = 100_000;

/// A core with the reactor's part around it.
struct Node<C> {
    core: C,
    chunk: Bytes,
    dirty: Vec<ConnId>,
    /// What the last turn wrote to each connection, in the order written.
    written: Vec<(ConnId, Vec<u8>)>,
}

impl<C: Core> Node<C> {
    fn new(core: C) -> Node<C> {
        let mut chunk = BytesMut::zeroed(CHUNK_BYTES + 1);
        drop(chunk.split_off(CHUNK_BYTES));
        Node { core, chunk: chunk.freeze(), dirty: Vec::new(), written: Vec::new() }
    }

    /// Reads `parts` side by side into one chunk, runs the core, and writes everything once.
    fn turn<'a>(&mut self, parts: impl IntoIterator<Item = (ConnId, &'a [u8])> + Clone) {
        let mut chunk = std::mem::take(&mut self.chunk).try_into_mut().expect("all of the last turn is written");
        let mut end = 0;
        for (_, part) in parts.clone() {
            chunk[end..end + part.len()].copy_from_slice(part);
            end += part.len();
        }
        self.chunk = chunk.freeze();
        let mut start = 0;
        for (conn, part) in parts {
            self.core.received(NOW, conn, &self.chunk, start..start + part.len());
            start += part.len();
        }
        self.written.iter_mut().for_each(|(_, bytes)| bytes.clear());
        let mut dirty = std::mem::take(&mut self.dirty);
        self.core.links().take_dirty(&mut dirty);
        dirty.drain(..).for_each(|conn| self.flush(conn));
        self.dirty = dirty;
    }

    fn flush(&mut self, conn: ConnId) {
        let place = self.written.iter().position(|(at, _)| *at == conn).unwrap_or_else(|| {
            self.written.push((conn, Vec::new()));
            self.written.len() - 1
        });
        loop {
            let mut slices = [IoSlice::new(&[]); WRITE_SLICES_MAX];
            let filled = self.core.links().fill(conn, &mut slices);
            if filled == 0 {
                return;
            }
            let out = &mut self.written[place].1;
            slices[..filled].iter().for_each(|slice| out.extend_from_slice(slice));
            let bytes = slices[..filled].iter().map(|slice| slice.len()).sum();
            self.core.links().wrote(NOW, conn, bytes);
        }
    }

    fn written_to(&self, conn: ConnId) -> &[u8] {
        self.written.iter().find(|(at, _)| *at == conn).map_or(&[], |(_, bytes)| bytes)
    }
}

fn server(number: u16) -> Node<AppServer> {
    Node::new(AppServer::new(
        NOW,
        appserver::Config {
            server: ServerId(number),
            incarnation: 1,
            max_frame: 1 << 20,
            heartbeat: Span::from_secs(10),
            heartbeat_timeout: Span::from_secs(30),
            login_timeout: Span::from_secs(10),
            connections_max: 100_000,
            relogin: Relogin::ReplaceOld,
            cut_off: CutOff::ServeLocal,
            takes_messages: false,
            takes_queries: false,
            cluster: Some(Membership {
                acms: SocketAddr::from(([10, 0, 0, 100], 5200)),
                name: "demo".to_owned(),
                secret: Vec::new(),
                public_address: format!("10.0.0.{number}:6000"),
                capacity: 1000,
            }),
            seed: [number as u8; 32],
        },
    ))
}

fn frame(kind: u8, to: &str, from: &str, body: &[u8]) -> Vec<u8> {
    let mut frame = ((16 + to.len() + from.len() + body.len()) as u32).to_be_bytes().to_vec();
    frame.extend([kind, 0, to.len() as u8, from.len() as u8, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 9]);
    frame.extend([to.as_bytes(), from.as_bytes(), body].concat());
    frame
}

/// Two application servers and the cluster manager between them.
struct Cluster {
    servers: [Node<AppServer>; 2],
    acms: Node<Acms>,
    up: [ConnId; 2],
    down: [ConnId; 2],
}

impl Cluster {
    fn new() -> Cluster {
        let config = acms::Config {
            cluster: "demo".to_owned(),
            secret: Vec::new(),
            epoch: 1,
            connections_max: 10,
            seed: [9; 32],
        };
        let mut acms = Node::new(Acms::new(NOW, config));
        let mut servers = [server(1), server(2)];
        let links = servers.each_mut().map(|server| {
            server.core.expire(NOW);
            let (up, addr) = server.core.links().take_dials().pop().expect("it dials the ACMS");
            server.core.connected(NOW, up);
            (up, acms.core.accepted(NOW, addr))
        });
        let (up, down) = (links.map(|(up, _)| up), links.map(|(_, down)| down));
        let mut cluster = Cluster { servers, acms, up, down };
        cluster.settle();
        assert!(cluster.servers.iter().all(|server| server.core.cluster_is_up()));
        cluster
    }

    /// Moves what the servers write up and the ACMS writes down, until all is said.
    fn settle(&mut self) {
        for place in 0..2 {
            self.servers[place].turn([]);
        }
        for _ in 0..8 {
            let Cluster { servers, acms, up, down } = self;
            acms.turn([0, 1].map(|place| (down[place], servers[place].written_to(up[place]))));
            for place in 0..2 {
                servers[place].turn([(up[place], acms.written_to(down[place]))]);
            }
        }
    }

    fn log_in(&mut self, place: usize, user: &str) -> ConnId {
        let server = &mut self.servers[place];
        let conn = server.core.accepted(NOW, SocketAddr::from(([10, 0, 1, 1], 7000)));
        server.turn([(conn, &[b"TRNK\x00\x01\x01\x00", &frame(0x01, "", user, b"")[..]].concat()[..])]);
        server.core.verdict(NOW, conn, Verdict::Accept);
        self.settle();
        assert!(self.servers[place].core.online().any(|online| online.as_str() == user));
        conn
    }

    /// One read of each sender, all the way to the receivers.
    fn relay(&mut self, parts: &[(ConnId, Vec<u8>)]) {
        let Cluster { servers: [as01, as02], acms, up, down } = self;
        as01.turn(parts.iter().map(|(conn, part)| (*conn, &part[..])));
        acms.turn([(down[0], as01.written_to(up[0]))]);
        as02.turn([(up[1], acms.written_to(down[1]))]);
    }
}

fn relay(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("relay");
    for senders in [1, 64] {
        let mut cluster = Cluster::new();
        let frames_each = READ_BYTES / FRAME_BYTES / senders;
        let mut parts = Vec::new();
        let mut receivers = Vec::new();
        for number in 0..senders {
            let (alice, bob) = (format!("alice{number}"), format!("bob{number}"));
            let sender = cluster.log_in(0, &alice);
            receivers.push(cluster.log_in(1, &bob));
            let body = vec![b'x'; FRAME_BYTES - 20 - alice.len() - bob.len()];
            parts.push((sender, frame(0x10, &bob, &alice, &body).repeat(frames_each)));
        }
        cluster.relay(&parts);
        for receiver in receivers {
            assert_eq!(cluster.servers[1].written_to(receiver).len(), frames_each * FRAME_BYTES);
        }
        group.throughput(Throughput::Elements((senders * frames_each) as u64));
        group.bench_function(BenchmarkId::new("senders", senders), |bench| bench.iter(|| cluster.relay(&parts)));
    }
}

fn directory(criterion: &mut Criterion) {
    let users: Vec<UserId> = (0..USERS).map(|number| format!("user{number}").parse().expect("an id")).collect();
    let binding = |session| Binding { tenure: Tenure(1), place: 0, session, since: 0 };
    let mut directory = Directory::new(ahash::RandomState::with_seeds(1, 2, 3, 4));
    users.iter().for_each(|user| directory.bind(user.clone(), binding(1)));
    // Far apart, so that neighbours in the table are not neighbours in time.
    let order: Vec<usize> = (0..1024).map(|step| step * 7919 % USERS).collect();
    let mut group = criterion.benchmark_group("directory of 100,000 users");
    group.throughput(Throughput::Elements(order.len() as u64));
    group.bench_function("look up", |bench| {
        bench.iter(|| order.iter().filter_map(|at| directory.binding(black_box(users[*at].as_bytes()))).count());
    });
    group.bench_function("bind again", |bench| {
        bench.iter(|| order.iter().for_each(|at| directory.bind(users[*at].clone(), binding(2))));
    });
    group.bench_function("unbind and bind", |bench| {
        bench.iter(|| {
            for at in &order {
                directory.unbind(users[*at].as_bytes(), Tenure(1), 2);
                directory.bind(users[*at].clone(), binding(2));
            }
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = relay, directory
}
criterion_main!(benches);
