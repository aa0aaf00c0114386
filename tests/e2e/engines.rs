//! The engines as an application embeds them, in this process.
//!
//! Over 600 lines in one file, since every test speaks through the same handler, servers and clients at its top.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use trunkline::role::client::QueryFailure as Failure;
use trunkline::{
    Acms, AppServer, AppServerBuilder, Bounce, Client, CloseCode, Cluster, ClusterState, ConnectError, Denied, Event,
    Gone, Handler, Incoming, LoginRequest, Membership, Message, Nobody, Pending, Query, Refusal, Relogin, Responder,
    Running, SendError, SendFailure, ServerHandle, ServerId, State, Undelivered, UserId,
};

use crate::port::Port;
use crate::raw::{ACK, DATA, DENIED, Frame, Raw, WANT_ACK};
use crate::{PATIENCE, now};

/// What a handler was called for.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    In(String),
    Out(String, Gone),
    Message(String, Vec<u8>),
    Up,
    Down,
}

/// Information types that [`Recorder`] tells apart.
const TAKE: u32 = 1;
const REFUSE: u32 = 2;
const PANIC: u32 = 3;
/// As TAKE, and waits for an answer of the user `mute`.
const ASK_MUTE: u32 = 4;

/// Tells what it hears, and does as the information type says.
struct Recorder(Sender<Heard>);

impl Recorder {
    fn tell(&self, heard: Heard) {
        // A test that has ended listens no more.
        drop(self.0.send(heard));
    }
}

impl Handler for Recorder {
    fn on_login(&self, _server: &ServerHandle, user: &UserId) {
        self.tell(Heard::In(user.to_string()));
    }

    fn on_logout(&self, _server: &ServerHandle, user: &UserId, gone: Gone) {
        self.tell(Heard::Out(user.to_string(), gone));
    }

    fn on_message(&self, server: &ServerHandle, message: &Incoming<'_>) -> Result<(), Denied> {
        match message.info_type {
            TAKE => {
                self.tell(Heard::Message(message.from.to_string(), message.body.to_vec()));
                Ok(())
            }
            ASK_MUTE => {
                let asked = server.query(&id("mute"), TAKE, Vec::new(), 10 * PATIENCE).map_err(|_| Denied)?;
                self.tell(Heard::Message(message.from.to_string(), message.body.to_vec()));
                asked.wait().map(drop).map_err(|_| Denied)
            }
            PANIC => panic!("a handler of the test's, on purpose"),
            _ => Err(Denied),
        }
    }

    fn on_query(&self, _server: &ServerHandle, query: &Incoming<'_>, reply: Responder) {
        match query.info_type {
            TAKE => reply.send([b"you said ", query.body].concat()),
            PANIC => panic!("a handler of the test's, on purpose"),
            _ => reply.fail("that is not known"),
        }
    }

    fn on_cluster(&self, _server: &ServerHandle, state: &ClusterState) {
        match state {
            ClusterState::Up { .. } => self.tell(Heard::Up),
            ClusterState::Down { .. } => self.tell(Heard::Down),
            ClusterState::Refused { code, text } => panic!("{code}: {text}"),
        }
    }
}

/// An engine on its own thread; stopped with its guard.
pub(crate) struct Engine {
    pub(crate) stop: Box<dyn Fn() + Send>,
    pub(crate) running: Option<Running>,
}

impl Engine {
    /// Stops the engine and waits until it has.
    pub(crate) fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(running) = self.running.take() {
            (self.stop)();
            running.join().expect("an engine that was told to stop");
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.end();
        }
    }
}

struct Server {
    addr: String,
    handle: ServerHandle,
    heard: Receiver<Heard>,
    engine: Engine,
}

impl Server {
    fn start(builder: AppServerBuilder) -> Server {
        Server::start_at(builder, "127.0.0.1:0")
    }

    fn start_at(builder: AppServerBuilder, addr: &str) -> Server {
        let (sender, heard) = unbounded();
        // Who comes and goes is other tests' business.
        let server = builder.friends(Nobody).handler(Recorder(sender)).bind(addr).expect("the port is free");
        let (addr, handle) = (server.local_addr().to_string(), server.handle());
        let stop = handle.clone();
        let stop = Box::new(move || stop.stop());
        let engine = Engine { stop, running: Some(server.spawn().expect("a thread")) };
        Server { addr, handle, heard, engine }
    }

    fn alone() -> Server {
        Server::start(AppServer::builder())
    }

    /// The next thing that the handler heard.
    #[track_caller]
    fn hears(&self, wanted: Heard) {
        assert_eq!(self.heard.recv_timeout(PATIENCE), Ok(wanted));
    }

    /// Waits until the handler has heard this, whatever else.
    #[track_caller]
    fn until(&self, wanted: Heard) {
        while self.heard.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("not heard: {wanted:?}")) != wanted {}
    }
}

/// A cluster manager and two servers that have registered.
struct TwoServers {
    // Servers go before the ACMS does.
    servers: [Server; 2],
    acms: Engine,
    transfer: String,
}

impl TwoServers {
    fn start() -> TwoServers {
        TwoServers::start_with(AppServer::builder)
    }

    fn start_with(builder: impl Fn() -> AppServerBuilder) -> TwoServers {
        TwoServers::start_at("127.0.0.1:0", ["127.0.0.1:0", "127.0.0.1:0"], builder)
    }

    fn start_at(transfer: &str, addrs: [&str; 2], builder: impl Fn() -> AppServerBuilder) -> TwoServers {
        let (acms, transfer) = start_acms(transfer);
        let server = |id: u16| Server::start_at(builder().cluster(member(id, &transfer)), addrs[usize::from(id)]);
        let servers = [server(0), server(1)];
        servers.iter().for_each(|server| server.until(Heard::Up));
        TwoServers { servers, acms, transfer }
    }
}

/// Tells when the link to the cluster stands.
pub(crate) struct Registration(pub(crate) Sender<()>);

impl Handler for Registration {
    fn on_cluster(&self, _server: &ServerHandle, state: &ClusterState) {
        if matches!(state, ClusterState::Up { .. }) {
            // A test that has ended listens no more.
            _ = self.0.send(()).is_ok();
        }
    }
}

pub(crate) fn start_acms(addr: &str) -> (Engine, String) {
    let acms = Acms::builder().directory_grace(Duration::ZERO).bind(addr).expect("the port is free");
    let (transfer, stop) = (acms.local_addr().to_string(), Box::new(acms.stopper()));
    (Engine { stop, running: Some(acms.spawn().expect("a thread")) }, transfer)
}

pub(crate) fn member(id: u16, transfer: &str) -> Membership {
    Membership::new(ServerId(id), transfer)
}

pub(crate) fn id(user: &str) -> UserId {
    user.parse().expect("a user id")
}

fn connect(server: &Server, user: &str) -> Client {
    Client::builder(user).takes_queries().patience(PATIENCE).connect(&server.addr).expect("the server lets it in")
}

#[track_caller]
pub(crate) fn outcome<T>(pending: Pending<T>) -> T {
    pending.receiver().recv_timeout(PATIENCE).expect("an outcome")
}

#[track_caller]
pub(crate) fn event(client: &Client) -> Event {
    loop {
        // Who comes and goes, with servers whose users are all friends, is another test's business.
        match client.events().recv_timeout(PATIENCE) {
            Ok(Event::Presence { .. }) => {}
            Ok(event) => return event,
            Err(_) => panic!("{} hears nothing", client.user()),
        }
    }
}

#[track_caller]
pub(crate) fn message(client: &Client) -> Message {
    match event(client) {
        Event::Message(message) => message,
        other => panic!("{}: {other:?} is no message", client.user()),
    }
}

#[track_caller]
pub(crate) fn query(client: &Client) -> Query {
    match event(client) {
        Event::Query(query) => query,
        other => panic!("{}: {other:?} is no query", client.user()),
    }
}

/// Sender, information type and body.
pub(crate) fn parts(message: &Message) -> (Option<&str>, u32, &[u8]) {
    (message.from.as_ref().map(UserId::as_str), message.info_type, &message.body)
}

#[track_caller]
fn undelivered(client: &Client, sent: u64) -> Undelivered {
    match event(client) {
        Event::Undelivered { id, cause, .. } if id == sent => cause,
        other => panic!("{}: {other:?} is not about message {sent}", client.user()),
    }
}

/// Waits until the session is over.
#[track_caller]
pub(crate) fn stopped(client: &Client) -> (CloseCode, String) {
    loop {
        if let Event::State(State::Stopped { code, text }) = event(client) {
            return (code, text);
        }
    }
}

#[track_caller]
pub(crate) fn refused(connected: Result<Client, ConnectError>) -> (CloseCode, String) {
    match connected {
        Err(ConnectError::Refused { code, text }) => (code, text),
        Err(other) => panic!("{other}"),
        Ok(client) => panic!("{} was let in", client.user()),
    }
}

/// Waits until the cluster knows that a user is nowhere.
fn until_settled(server: &Server) {
    let ends = now() + PATIENCE;
    while outcome(server.handle.locate(vec![id("nobody")]).expect("it takes commands")) != [Ok(None)] {
        assert!(now() < ends, "the cluster does not settle");
    }
}

#[test]
fn messages_and_queries_cross_servers() {
    let cluster = TwoServers::start();
    let [as0, as1] = &cluster.servers;
    until_settled(as0);
    let (alice, bob) = (connect(as0, "alice"), connect(as1, "bob"));
    assert_eq!(alice.welcome().map(|welcome| (welcome.server, welcome.cluster)), Some((ServerId(0), Cluster::Up)));

    let sent = alice.send(Some(&id("bob")), 7, b"plain".to_vec()).expect("it is connected");
    let arrived = message(&bob);
    assert_eq!((parts(&arrived), arrived.id), ((Some("alice"), 7, &b"plain"[..]), sent));
    let acked = alice.send_acked(&id("bob"), 8, b"acked".to_vec()).expect("it is connected");
    assert_eq!(outcome(acked), Ok(Ok(())));
    assert_eq!(parts(&message(&bob)), (Some("alice"), 8, &b"acked"[..]));

    let asked = bob.query(Some(&id("alice")), 9, b"how?".to_vec(), PATIENCE).expect("it is connected");
    let answer = query(&alice);
    assert_eq!(parts(&answer.message), (Some("bob"), 9, &b"how?"[..]));
    answer.reply(b"well".to_vec());
    assert_eq!(outcome(asked), Ok(Ok(b"well".to_vec())));
    let asked = bob.query(Some(&id("alice")), 9, Vec::new(), PATIENCE).expect("it is connected");
    query(&alice).fail("no idea");
    assert_eq!(outcome(asked), Ok(Err(Failure::Failed("no idea".to_owned()))));
    let asked = bob.query(Some(&id("alice")), 9, Vec::new(), Duration::from_millis(50)).expect("it is connected");
    drop(query(&alice));
    assert_eq!(outcome(asked), Ok(Err(Failure::TimedOut)));

    let lost = alice.send(Some(&id("nobody")), 0, Vec::new()).expect("it is connected");
    assert_eq!(undelivered(&alice, lost), Undelivered::Bounced(Bounce::Offline));
    let asked = alice.query(Some(&id("nobody")), 0, Vec::new(), PATIENCE).expect("it is connected");
    assert_eq!(outcome(asked), Ok(Err(Failure::Bounced(Bounce::Offline))));
    let acked = alice.send_acked(&id("nobody"), 0, Vec::new()).expect("it is connected");
    assert_eq!(outcome(acked), Ok(Err(SendFailure::Bounced(Bounce::Offline))));
}

#[test]
fn a_client_is_in_at_its_first_dial() {
    let server = Server::alone();
    let alice = Client::builder("alice").start(&server.addr).expect("a descriptor");
    match event(&alice) {
        Event::State(State::Online { resumed, .. }) => assert!(!resumed),
        other => panic!("{other:?} comes before it is in"),
    }
}

#[test]
fn a_client_that_takes_no_queries_says_so() {
    let server = Server::alone();
    let alice = connect(&server, "alice");
    let _bob = Client::connect(&server.addr, "bob").expect("the server lets it in");
    let asked = alice.query(Some(&id("bob")), 0, Vec::new(), PATIENCE).expect("it is connected");
    assert_eq!(outcome(asked), Ok(Err(Failure::NoHandler)));
}

#[test]
fn a_user_talks_to_the_handler_of_its_server() {
    for threads in [0, 2] {
        let server = Server::start(AppServer::builder().pool(threads));
        let alice = connect(&server, "alice");
        server.hears(Heard::In("alice".to_owned()));
        alice.send(None, TAKE, b"to the server".to_vec()).expect("it is connected");
        server.hears(Heard::Message("alice".to_owned(), b"to the server".to_vec()));
        let ask = |info_type| alice.query(None, info_type, b"this".to_vec(), PATIENCE).expect("it is connected");
        assert_eq!(outcome(ask(TAKE)), Ok(Ok(b"you said this".to_vec())));
        assert_eq!(outcome(ask(REFUSE)), Ok(Err(Failure::Failed("that is not known".to_owned()))));
        let lost = alice.send(None, REFUSE, Vec::new()).expect("it is connected");
        assert_eq!(undelivered(&alice, lost), Undelivered::Bounced(Bounce::Denied));

        // A panic ends with the call that it came from.
        let lost = alice.send(None, PANIC, Vec::new()).expect("it is connected");
        assert_eq!(undelivered(&alice, lost), Undelivered::Bounced(Bounce::Denied));
        assert_eq!(outcome(ask(PANIC)), Ok(Err(Failure::Failed("the handler failed".to_owned()))));
        assert_eq!(outcome(ask(TAKE)), Ok(Ok(b"you said this".to_vec())));
        alice.close().expect("it logs out");
        server.hears(Heard::Out("alice".to_owned(), Gone::Closed(CloseCode::LOGGED_OUT)));
    }
}

#[test]
fn a_message_that_the_handler_denies_is_acknowledged_first_wherever_the_handler_runs() {
    for threads in [0, 2] {
        let server = Server::start(AppServer::builder().pool(threads));
        let mut alice = Raw::login(server.addr.parse().expect("an address"), "alice");
        for info_type in [REFUSE, PANIC] {
            let sent = Frame { info_type, flags: WANT_ACK, ..alice.frame(DATA, "", info_type.into(), "") };
            alice.write(&sent.encode());
            alice.expect(&Frame { kind: ACK, id: sent.id, to: b"alice".to_vec(), ..Frame::default() });
            alice.expect_bounce(&sent, DENIED);
        }
    }
}

#[test]
fn a_server_without_a_handler_bounces() {
    let server = AppServer::builder().bind("127.0.0.1:0").expect("a port is free");
    let (addr, handle) = (server.local_addr(), server.handle());
    let running = Some(server.spawn().expect("a thread"));
    let _engine = Engine { stop: Box::new(move || handle.stop()), running };
    let alice = Client::connect(addr, "alice").expect("the server lets it in");
    let lost = alice.send(None, 0, Vec::new()).expect("it is connected");
    assert_eq!(undelivered(&alice, lost), Undelivered::Bounced(Bounce::NoHandler));
    let asked = alice.query(None, 0, Vec::new(), PATIENCE).expect("it is connected");
    assert_eq!(outcome(asked), Ok(Err(Failure::NoHandler)));
}

#[test]
fn a_server_talks_to_a_user_of_another() {
    let cluster = TwoServers::start();
    let [as0, as1] = &cluster.servers;
    let bob = connect(as1, "bob");
    for server in [as0, as1] {
        server.handle.send(&id("bob"), 5, b"from a server".to_vec()).expect("it takes commands");
        assert_eq!(parts(&message(&bob)), (None, 5, &b"from a server"[..]));
        let asked = server.handle.query(&id("bob"), 6, b"who?".to_vec(), PATIENCE).expect("it takes commands");
        let answer = query(&bob);
        assert_eq!(parts(&answer.message), (None, 6, &b"who?"[..]));
        answer.reply(b"bob".to_vec());
        assert_eq!(outcome(asked), Ok(b"bob".to_vec()));
    }
    until_settled(as0);
    let asked = as0.handle.query(&id("nobody"), 6, Vec::new(), PATIENCE).expect("it takes commands");
    assert_eq!(outcome(asked), Err(Failure::Bounced(Bounce::Offline)));
    let patience = Duration::from_millis(50);
    let asked = as0.handle.query(&id("bob"), 6, Vec::new(), patience).expect("it takes commands");
    drop(query(&bob));
    assert_eq!(outcome(asked), Err(Failure::TimedOut));
}

#[test]
fn a_refused_login_comes_with_its_cause() {
    let server = Server::start(AppServer::builder().authenticator(|request: &LoginRequest| {
        match (request.user.as_str(), request.login.password.as_deref()) {
            ("panic", _) => panic!("a login check of the test's, on purpose"),
            ("alice", Some("wonder")) => Ok(()),
            _ => Err(Refusal(format!("not today, {}", request.user))),
        }
    }));
    let refusal = (CloseCode::REFUSED, "not today, alice".to_owned());
    assert_eq!(refused(Client::builder("alice").password("land").connect(&server.addr)), refusal);
    assert_eq!(refused(Client::connect(&server.addr, "bob")).1, "not today, bob");
    // A check that fails is the server's fault, not the user's: the client comes again.
    let unlucky = Client::builder("panic").start(&server.addr).expect("a descriptor");
    match event(&unlucky) {
        Event::State(State::Reconnecting { gone, .. }) => assert_eq!(gone, Gone::ClosedByPeer(CloseCode::INTERNAL)),
        other => panic!("{other:?}"),
    }
    Client::builder("alice").password("wonder").connect(&server.addr).expect("the right password");
    server.hears(Heard::In("alice".to_owned()));
}

/// What a login check waits at.
#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    fn pass(&self) {
        let open = self.open.lock().expect("who holds it does not panic");
        drop(self.changed.wait_timeout_while(open, PATIENCE, |open| !*open).expect("who holds it does not panic"));
    }

    fn open(&self) {
        *self.open.lock().expect("who holds it does not panic") = true;
        self.changed.notify_all();
    }
}

/// A server whose login check of `slow` stands at a gate.
fn gated() -> (Server, Arc<Gate>, Receiver<()>) {
    let gate = Arc::new(Gate::default());
    let (arrived_sender, arrived) = unbounded();
    let at = Arc::clone(&gate);
    let builder = AppServer::builder().pool(2).authenticator(move |request: &LoginRequest| {
        if request.user.as_str() == "slow" {
            arrived_sender.send(()).expect("the test waits for it");
            at.pass();
        }
        Ok(())
    });
    (Server::start(builder), gate, arrived)
}

#[test]
fn a_slow_login_check_delays_no_message() {
    let (server, gate, arrived) = gated();
    let (alice, bob) = (connect(&server, "alice"), connect(&server, "bob"));
    let slow = Client::builder("slow").start(&server.addr).expect("a descriptor");
    arrived.recv_timeout(PATIENCE).expect("the check has begun");
    for (sender, receiver) in [(&alice, &bob), (&bob, &alice)] {
        let acked = sender.send_acked(receiver.user(), 0, b"meanwhile".to_vec()).expect("it is connected");
        assert_eq!(outcome(acked), Ok(Ok(())));
        assert_eq!(message(receiver).body, b"meanwhile");
    }
    assert!(slow.events().is_empty());
    gate.open();
    loop {
        if let Event::State(State::Online { .. }) = event(&slow) {
            break;
        }
    }
}

#[test]
fn a_slow_login_check_delays_no_other_login() {
    let (server, gate, arrived) = gated();
    let _slow = Client::builder("slow").start(&server.addr).expect("a descriptor");
    arrived.recv_timeout(PATIENCE).expect("the check has begun");
    let users = ["alice", "bob", "carol", "dave", "erin", "frank"];
    let late = users.map(|user| {
        let connected = Client::builder(user).patience(Duration::from_secs(3)).connect(&server.addr);
        connected.is_err().then_some(user)
    });
    gate.open();
    assert_eq!(late, [None; 6], "these waited for another user's login check");
}

#[test]
fn the_newer_login_replaces_the_older_on_another_server() {
    let cluster = TwoServers::start();
    let [as0, as1] = &cluster.servers;
    let watcher = connect(as0, "watcher");
    let older = connect(as0, "alice");
    let newer = connect(as1, "alice");
    assert_eq!(stopped(&older).0, CloseCode::REPLACED);
    as0.until(Heard::Out("alice".to_owned(), Gone::Closed(CloseCode::REPLACED)));
    watcher.send(Some(&id("alice")), 0, b"to the newer".to_vec()).expect("it is connected");
    assert_eq!(message(&newer).body, b"to the newer");
    let newest = connect(as1, "alice");
    assert_eq!(stopped(&newer).0, CloseCode::REPLACED);
    watcher.send(Some(&id("alice")), 0, b"to the newest".to_vec()).expect("it is connected");
    assert_eq!(message(&newest).body, b"to the newest");
}

#[test]
fn the_older_login_stays_where_the_policy_keeps_it() {
    let cluster = TwoServers::start_with(|| AppServer::builder().relogin(Relogin::KeepOld));
    let [as0, as1] = &cluster.servers;
    let older = connect(as0, "alice");
    for server in [as1, as0] {
        assert_eq!(refused(Client::connect(&server.addr, "alice")).0, CloseCode::ALREADY_ONLINE);
    }
    older.send(Some(&id("alice")), 0, b"still in".to_vec()).expect("it is connected");
    assert_eq!(message(&older).body, b"still in");
    older.close().expect("it logs out");
    connect(as1, "alice");
}

/// Acked sends from alice on server 0 to bob on server 1 while server `restarted` ends and starts again on its port: how
/// each ended, and how often each arrived.
fn acked_over_a_restart(restarted: usize) -> Vec<(Result<(), SendFailure>, usize)> {
    const EACH: usize = 100;
    let ports = [Port::reserve(), Port::reserve()];
    let addrs = [&ports[0], &ports[1]].map(|port| port.addr().to_string());
    let TwoServers { mut servers, acms: _acms, transfer } =
        TwoServers::start_at("127.0.0.1:0", [&addrs[0], &addrs[1]], AppServer::builder);
    let (alice, bob) = (connect(&servers[0], "alice"), connect(&servers[1], "bob"));
    let mut pending = Vec::new();
    let send = |pending: &mut Vec<_>| {
        for number in pending.len()..pending.len() + EACH {
            let body = number.to_string().into_bytes();
            pending.push(alice.send_acked(&id("bob"), TAKE, body).expect("its window has room"));
        }
    };
    send(&mut pending);
    servers[restarted].engine.end();
    send(&mut pending);
    let again = AppServer::builder().cluster(member(restarted as u16, &transfer));
    servers[restarted] = Server::start_at(again, &addrs[restarted]);
    send(&mut pending);
    let outcomes: Vec<_> = pending.into_iter().map(|pending| outcome(pending).expect("it was sent")).collect();

    // What was to come twice has come before this.
    servers[1].until(Heard::In("bob".to_owned()));
    let last = alice.send_acked(&id("bob"), REFUSE, Vec::new()).expect("its window has room");
    assert_eq!(outcome(last), Ok(Ok(())));
    let mut times = vec![0; outcomes.len()];
    loop {
        match event(&bob) {
            Event::Message(message) if message.info_type == REFUSE => break,
            Event::Message(message) => {
                let number: usize = String::from_utf8_lossy(&message.body).parse().expect("the number of a message");
                times[number] += 1;
            }
            Event::State(_) | Event::Query(_) | Event::Presence { .. } | Event::Undelivered { .. } | Event::Blob(_) => {
            }
            Event::GroupMessage { .. } | Event::Member { .. } | Event::MembersMissed(_) => {}
        }
    }
    drop((alice, bob));
    outcomes.into_iter().zip(times).collect()
}

#[test]
fn a_client_comes_back_with_its_server_and_every_acked_message_arrives_once() {
    for (number, fate) in acked_over_a_restart(0).into_iter().enumerate() {
        assert_eq!(fate, (Ok(()), 1), "message {number}");
    }
}

#[test]
fn a_message_is_acked_only_where_it_arrived_once_although_its_receiver_was_gone() {
    for (number, (outcome, times)) in acked_over_a_restart(1).into_iter().enumerate() {
        match outcome {
            Ok(()) => assert_eq!(times, 1, "message {number}"),
            Err(SendFailure::Bounced(Bounce::Offline)) => assert!(times <= 1, "message {number}: {times} times"),
            Err(other) => panic!("message {number}: {other}"),
        }
    }
}

#[test]
fn an_operator_kicks_across_servers() {
    let cluster = TwoServers::start();
    let [as0, as1] = &cluster.servers;
    let (here, there) = (connect(as0, "here"), connect(as1, "there"));
    as0.handle.kick(&id("there"), "enough").expect("it takes commands");
    assert_eq!(stopped(&there).0, CloseCode::KICKED);
    as1.until(Heard::Out("there".to_owned(), Gone::Closed(CloseCode::KICKED)));
    as0.handle.kick(&id("here"), "enough").expect("it takes commands");
    assert_eq!(stopped(&here), (CloseCode::KICKED, "enough".to_owned()));
}

#[test]
fn users_are_found_wherever_they_are() {
    let cluster = TwoServers::start();
    let [as0, as1] = &cluster.servers;
    let (alice, _bob, _carol) = (connect(as0, "alice"), connect(as1, "bob"), connect(as1, "carol"));
    until_settled(as0);
    let users = ["bob", "nobody", "alice"].map(id);
    let places = [Ok(Some(ServerId(1))), Ok(None), Ok(Some(ServerId(0)))];
    assert_eq!(outcome(as0.handle.locate(users.to_vec()).expect("it takes commands")), places);
    let answer = outcome(alice.locate(&users).expect("it is connected")).expect("it is connected").expect("an answer");
    let told: Vec<_> = answer.users.iter().map(|found| (found.user.as_str(), found.online, found.server)).collect();
    assert_eq!(answer.error, None);
    assert_eq!(
        told,
        [
            ("bob", Some(true), Some(ServerId(1))),
            ("nobody", Some(false), None),
            ("alice", Some(true), Some(ServerId(0)))
        ]
    );
    let online = |server: &Server| outcome(server.handle.online().expect("it takes commands"));
    assert_eq!((online(as0), online(as1)), (vec![id("alice")], vec![id("bob"), id("carol")]));
    let many = vec![id("bob"); 101];
    assert_eq!(outcome(as0.handle.locate(many).expect("it takes commands")), vec![Err(Bounce::Busy); 101]);
}

#[test]
fn a_dropped_client_logs_out() {
    let server = Server::alone();
    drop(connect(&server, "alice"));
    server.hears(Heard::In("alice".to_owned()));
    server.hears(Heard::Out("alice".to_owned(), Gone::Closed(CloseCode::LOGGED_OUT)));
    assert_eq!(outcome(server.handle.online().expect("it takes commands")), []);
}

#[test]
fn an_application_that_takes_no_events_stops_its_senders_and_goes_on() {
    const BATCH: usize = 256;
    const BATCHES_MAX: usize = 1024;
    const EVENTS_MAX: usize = 1024;
    let server = Server::alone();
    let (alice, bob) = (connect(&server, "alice"), connect(&server, "bob"));
    let body = vec![7; 4096];
    let (mut sent, mut bounced) = (0, 0);
    for _ in 0..BATCHES_MAX {
        for _ in 0..BATCH {
            alice.send(Some(&id("bob")), 0, body.clone()).expect("its queue has room");
        }
        sent += BATCH;
        // Whatever bounced of the batch comes before the answer.
        outcome(alice.locate(&[]).expect("it is connected")).expect("it is connected").expect("an answer");
        for event in alice.events().try_iter() {
            match event {
                Event::Undelivered { cause: Undelivered::Bounced(Bounce::Busy), .. } => bounced += 1,
                other => panic!("{other:?}"),
            }
        }
        // Some may bounce before, where bob's engine is only late to read.
        if bounced > 0 && bob.events().len() == EVENTS_MAX {
            break;
        }
    }
    assert!(bounced > 0, "{sent} messages of 4 KiB went somewhere");
    assert_eq!(bob.events().len(), EVENTS_MAX);
    for _ in 0..sent - bounced {
        assert_eq!(message(&bob).body, body);
    }
    let acked = alice.send_acked(&id("bob"), 0, b"awake?".to_vec()).expect("it is connected");
    assert_eq!(outcome(acked), Ok(Ok(())));
    assert_eq!(message(&bob).body, b"awake?");
}

#[test]
fn users_stay_while_the_acms_restarts() {
    let port = Port::reserve();
    let transfer = port.addr().to_string();
    let any = "127.0.0.1:0";
    let TwoServers { servers, acms, .. } = TwoServers::start_at(&transfer, [any, any], AppServer::builder);
    let [as0, as1] = &servers;
    let (alice, bob) = (connect(as0, "alice"), connect(as1, "bob"));
    acms.stop();
    servers.iter().for_each(|server| server.until(Heard::Down));
    let lost = alice.send(Some(&id("bob")), 0, Vec::new()).expect("it is connected");
    assert_eq!(undelivered(&alice, lost), Undelivered::Bounced(Bounce::Unreachable));
    let waits = alice.send_acked(&id("bob"), 0, b"in the end".to_vec()).expect("it is connected");
    let late = connect(as1, "late");
    assert_eq!(late.welcome().map(|welcome| welcome.cluster), Some(Cluster::Down));

    let (_acms, _) = start_acms(&transfer);
    servers.iter().for_each(|server| server.until(Heard::Up));
    assert_eq!(outcome(waits), Ok(Ok(())));
    assert_eq!(message(&bob).body, b"in the end");
    until_settled(as0);
    let acked = alice.send_acked(&id("late"), 0, b"found".to_vec()).expect("it is connected");
    assert_eq!(outcome(acked), Ok(Ok(())));
    assert_eq!(message(&late).body, b"found");
    assert!(alice.events().is_empty() && bob.events().is_empty());
    drop(servers);
}

/// How long an end is waited for that nothing holds up: the server's grace for its connections, and a busy machine.
const PROMPTLY: Duration = Duration::from_secs(8);

/// Does it on a thread of its own; fails where that takes long.
#[track_caller]
fn promptly<T: Send + 'static>(what: &str, act: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, done) = unbounded();
    std::thread::spawn(move || drop(sender.send(act())));
    done.recv_timeout(PROMPTLY).unwrap_or_else(|error| panic!("{what}: {error}"))
}

/// Waits until as many events wait as there is room for.
fn until_events_are_full(client: &Client) {
    let ends = now() + PATIENCE;
    while !client.events().is_full() {
        assert!(now() < ends, "only {} events wait", client.events().len());
        std::thread::yield_now();
    }
}

#[test]
fn a_client_closes_although_nobody_took_its_events() {
    let server = Server::alone();
    let (alice, bob) = (connect(&server, "alice"), connect(&server, "bob"));
    for _ in 0..2_000 {
        alice.send(Some(&id("bob")), 0, b"unread".to_vec()).expect("its queue has room");
    }
    until_events_are_full(&bob);
    promptly("close", move || bob.close()).expect("it logs out");
    server.until(Heard::Out("bob".to_owned(), Gone::Closed(CloseCode::LOGGED_OUT)));
}

/// A handler that waits for an outcome must not be waited for by whoever would bring it about.
#[test]
fn a_server_stops_although_a_handler_waits_for_a_query() {
    let server = Server::start(AppServer::builder().pool(2));
    let (alice, mute) = (connect(&server, "alice"), connect(&server, "mute"));
    alice.send(None, ASK_MUTE, b"ask".to_vec()).expect("it is connected");
    server.until(Heard::Message("alice".to_owned(), b"ask".to_vec()));
    let _unanswered = query(&mute);
    let Server { engine, .. } = server;
    promptly("stop", move || engine.stop());
}

/// All that the handlers' threads were given is done, also what waited behind a call that the stop ended.
#[test]
fn a_pool_hears_of_every_logout_before_the_server_has_stopped() {
    let server = Server::start(AppServer::builder().pool(2));
    let mute = connect(&server, "mute");
    let mut users: Vec<String> = (0..50).map(|number| format!("user{number}")).collect();
    let clients: Vec<Client> = users.iter().map(|user| connect(&server, user)).collect();
    for client in &clients {
        client.send(None, ASK_MUTE, Vec::new()).expect("it is connected");
    }
    let _unanswered = query(&mute);
    let Server { engine, heard, .. } = server;
    promptly("stop", move || engine.stop());
    let mut out: Vec<String> = heard
        .try_iter()
        .filter_map(|heard| match heard {
            Heard::Out(user, Gone::Closed(CloseCode::SHUTDOWN)) => Some(user),
            Heard::In(_) | Heard::Out(..) | Heard::Message(..) | Heard::Up | Heard::Down => None,
        })
        .collect();
    users.push("mute".to_owned());
    users.sort_unstable();
    out.sort_unstable();
    assert_eq!(out, users);
}

/// Sends to a user that is nowhere as fast as the server takes it, on as many threads as it takes to keep its queue from
/// running empty, until dropped.
struct Flood {
    ended: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Flood {
    fn start(handle: &ServerHandle) -> Flood {
        let ended = Arc::new(AtomicBool::new(false));
        let flood = |_| {
            let (ended, handle) = (Arc::clone(&ended), handle.clone());
            std::thread::spawn(move || {
                let nobody = id("nobody");
                while !ended.load(Ordering::Relaxed) {
                    if handle.send(&nobody, 0, Vec::new()).is_err() {
                        std::thread::yield_now();
                    }
                }
            })
        };
        let threads = (0..4).map(flood).collect();
        Flood { ended, threads }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a thread of the flood");
        }
    }
}

#[test]
fn a_flood_of_commands_holds_up_no_user() {
    let server = Server::alone();
    let (alice, bob) = (connect(&server, "alice"), connect(&server, "bob"));
    let flood = Flood::start(&server.handle);
    for number in 0..3u8 {
        let acked = alice.send_acked(&id("bob"), 0, vec![number]).expect("it is connected");
        assert_eq!(outcome(acked), Ok(Ok(())));
        assert_eq!(message(&bob).body, [number]);
    }
    drop(flood);
}

/// Each of the large ones is an event of its own, at which the engine turns to the application and back.
#[test]
fn what_is_sent_behind_many_that_are_too_big_is_not_forgotten() {
    const MANY: usize = 1_000;
    let server = Server::start(AppServer::builder().max_frame(4 << 10));
    let (alice, bob) = (connect(&server, "alice"), connect(&server, "bob"));
    for _ in 0..3 {
        let sent: Vec<u64> =
            (0..MANY).map(|_| alice.send(Some(&id("bob")), 0, vec![0; 4 << 10]).expect("its queue has room")).collect();
        let acked = alice.send_acked(&id("bob"), 0, b"small".to_vec()).expect("its queue has room");
        let outcome = acked.receiver().recv_timeout(PROMPTLY);
        assert_eq!(outcome, Ok(Ok(Ok(()))), "{} of {MANY} are told of", alice.events().len());
        assert_eq!(message(&bob).body, b"small");
        for sent in sent {
            assert_eq!(undelivered(&alice, sent), Undelivered::NotSent(SendError::TooBig));
        }
    }
}
