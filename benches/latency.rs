//! Loopback latency: a message of 128 bytes from alice to bob and one back, through as01, acms and as02; in microseconds
//! a round trip, one message under way.
//!
//! Compare `trunkline` with `bare sockets`: the same bytes by the same clients through three threads that read and write
//! and look at nothing. What is between the two is what the platform costs; the rest is the kernel's. Trust the pair on
//! one core: where there are more, it is the scheduler's choice of a core for each thread that decides, and it may choose
//! otherwise for each of the two.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::BytesMut;
use criterion::{Criterion, criterion_group, criterion_main};
use mio::{Events, Interest, Poll, Token};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use trunkline::wire::{Kind, Outgoing};
use trunkline::{Acms, AppServer, ClusterState, Handler, Membership, Running, ServerHandle, ServerId};

const BODY: [u8; 128] = [b'x'; 128];
const ANY_PORT: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);
/// Longer than the bench: no PING comes between.
const HEARTBEAT: Duration = Duration::from_secs(1800);

/// The two ends of a chain, and a message for each way.
struct Ends {
    alice: TcpStream,
    bob: TcpStream,
    there: Vec<u8>,
    back: Vec<u8>,
    received: Vec<u8>,
}

impl Ends {
    fn new(alice: TcpStream, bob: TcpStream) -> Ends {
        for end in [&alice, &bob] {
            end.set_nodelay(true).expect("a socket's own option");
        }
        Ends { alice, bob, there: data("alice", "bob"), back: data("bob", "alice"), received: Vec::new() }
    }

    fn round_trip(&mut self) {
        pass(&mut self.alice, &mut self.bob, &self.there, &mut self.received);
        pass(&mut self.bob, &mut self.alice, &self.back, &mut self.received);
    }
}

fn pass(from: &mut TcpStream, to: &mut TcpStream, message: &[u8], received: &mut Vec<u8>) {
    from.write_all(message).expect("the chain reads");
    received.resize(message.len(), 0);
    to.read_exact(received).expect("the chain writes");
    assert!(received == message);
}

fn data(from: &str, to: &str) -> Vec<u8> {
    encoded(&Outgoing { from: from.as_bytes(), to: to.as_bytes(), body: &BODY, ..Outgoing::of(Kind::Data) })
}

fn encoded(frame: &Outgoing<'_>) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    frame.encode(&mut bytes);
    bytes.to_vec()
}

/// Tells when its server has registered.
struct Registered(Sender<()>);

impl Handler for Registered {
    fn on_cluster(&self, _server: &ServerHandle, state: &ClusterState) {
        if let ClusterState::Up { .. } = state {
            self.0.send(()).expect("the bench waits for it");
        }
    }
}

fn start_server(number: u16, acms: SocketAddr) -> (SocketAddr, ServerHandle, Running) {
    let (registered, waits) = channel();
    let server = AppServer::builder()
        .max_messages_per_second(0)
        .max_bytes_per_second(0)
        .handler(Registered(registered))
        .heartbeat(HEARTBEAT, 2 * HEARTBEAT)
        .cluster(Membership::new(ServerId(number), acms.to_string()))
        .bind(ANY_PORT)
        .expect("a port is free");
    let (addr, handle, running) = (server.local_addr(), server.handle(), server.spawn().expect("a thread"));
    waits.recv().expect("the server registers");
    (addr, handle, running)
}

fn log_in(addr: SocketAddr, user: &str) -> TcpStream {
    let mut stream = TcpStream::connect(addr).expect("the server listens");
    let login = encoded(&Outgoing { from: user.as_bytes(), ..Outgoing::of(Kind::Login) });
    stream.write_all(&[b"TRNK\x00\x01\x01\x00", &login[..]].concat()).expect("the server reads");
    let mut length = [0; 4];
    stream.read_exact(&mut length).expect("an answer to LOGIN");
    let mut welcome = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut welcome).expect("a whole frame");
    assert_eq!(welcome[0], Kind::Welcome.to_wire());
    stream
}

fn through_trunkline(run: impl FnOnce(&mut Ends)) {
    let acms = Acms::builder().bind(ANY_PORT).expect("a port is free");
    let (transfer, stop_acms) = (acms.local_addr(), acms.stopper());
    let acms = acms.spawn().expect("a thread");
    let servers = [1, 2].map(|number| start_server(number, transfer));
    let [alice, bob] = [("alice", 0), ("bob", 1)].map(|(user, at)| log_in(servers[at].0, user));
    run(&mut Ends::new(alice, bob));
    for (_, handle, running) in servers {
        handle.stop();
        running.join().expect("a server that was told to stop");
    }
    stop_acms();
    acms.join().expect("a cluster manager that was told to stop");
}

/// Passes bytes both ways between two sockets until one of them ends.
fn forward(streams: [TcpStream; 2]) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut streams = streams.map(mio::net::TcpStream::from_std);
    for (side, stream) in streams.iter_mut().enumerate() {
        poll.registry().register(stream, Token(side), Interest::READABLE)?;
    }
    let mut events = Events::with_capacity(16);
    let mut buffer = [0; 4096];
    loop {
        poll.poll(&mut events, None)?;
        for Token(side) in events.iter().map(mio::event::Event::token) {
            // Fewer bytes than asked for: there are no more, and the next come with an event.
            let mut drained = false;
            while !drained {
                match streams[side].read(&mut buffer) {
                    Ok(0) => return Ok(()),
                    Ok(bytes) => {
                        streams[1 - side].write_all(&buffer[..bytes])?;
                        drained = bytes < buffer.len();
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => drained = true,
                    Err(error) => return Err(error),
                }
            }
        }
    }
}

/// A connection's two sockets.
fn connection() -> io::Result<[TcpStream; 2]> {
    let listener = TcpListener::bind(ANY_PORT)?;
    let dialled = TcpStream::connect(listener.local_addr()?)?;
    let (accepted, _) = listener.accept()?;
    Ok([dialled, accepted])
}

fn start_forwarder(streams: [TcpStream; 2]) -> JoinHandle<io::Result<()>> {
    for stream in &streams {
        stream.set_nodelay(true).expect("a socket's own option");
        stream.set_nonblocking(true).expect("a socket's own option");
    }
    std::thread::spawn(move || forward(streams))
}

fn through_bare_sockets(run: impl FnOnce(&mut Ends)) {
    let [[alice, a], [b, c], [d, e], [f, bob]] = [(); 4].map(|()| connection().expect("a port is free"));
    let forwarders = [[a, b], [c, d], [e, f]].map(start_forwarder);
    run(&mut Ends::new(alice, bob));
    for forwarder in forwarders {
        forwarder.join().expect("a forwarder does not panic").expect("a forwarder reads until its end");
    }
}

fn compare(criterion: &mut Criterion, cores: &str) {
    let mut group = criterion.benchmark_group(format!("round trip of 128 bytes, {cores}"));
    through_trunkline(|ends| {
        group.bench_function("trunkline", |bench| bench.iter(|| ends.round_trip()));
    });
    through_bare_sockets(|ends| {
        group.bench_function("bare sockets", |bench| bench.iter(|| ends.round_trip()));
    });
}

/// Keeps this thread, and those that it starts from now on, on the first core that it may use.
fn stay_on_one_core() {
    let allowed = sched_getaffinity(None).expect("a thread may ask where it may run");
    let first = (0..CpuSet::MAX_CPU).find(|core| allowed.is_set(*core)).expect("it runs somewhere");
    let mut one = CpuSet::new();
    one.set(first);
    sched_setaffinity(None, &one).expect("a thread may have less");
}

fn latency(criterion: &mut Criterion) {
    compare(criterion, "all cores");
    stay_on_one_core();
    compare(criterion, "one core");
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(5));
    targets = latency
}
criterion_main!(benches);
