//! Blobs between users of different servers, and between users and servers, over real sockets.

use crossbeam_channel::{Receiver, Sender, unbounded};
use trunkline::{
    AppServer, AppServerBuilder, Blob, BlobFailure, BlobHandle, BlobOffer, BlobOutcome, Bounce, Client, ClusterState,
    Event, Handler, IncomingBlob, Nobody, SendError, ServerHandle, Undelivered, UserId,
};

use crate::PATIENCE;
use crate::engines::{Engine, event, id, member, start_acms};
use crate::program::{CHAT, Program};

const MIB: usize = 1 << 20;

/// Tells when its server is in the cluster, takes each blob that is not a PRIVATE one, and hands it to the test.
struct Taker {
    joined: Sender<()>,
    whole: Sender<Blob>,
    failed: Sender<BlobFailure>,
}

const PRIVATE: u32 = 99;

impl Handler for Taker {
    fn on_cluster(&self, _server: &ServerHandle, state: &ClusterState) {
        if matches!(state, ClusterState::Up { .. }) {
            self.joined.send(()).expect("the test waits for it");
        }
    }

    fn on_blob(&self, _server: &ServerHandle, blob: IncomingBlob) {
        match blob {
            IncomingBlob::Offered(offer) if offer.info_type == PRIVATE => drop(offer),
            IncomingBlob::Offered(offer) => offer.accept(),
            IncomingBlob::Progress { received, size, .. } => assert!(received <= size),
            IncomingBlob::Whole(blob) => self.whole.send(blob).expect("the test waits for it"),
            IncomingBlob::Failed { cause, .. } => self.failed.send(cause).expect("the test waits for it"),
        }
    }
}

struct Server {
    addr: String,
    handle: ServerHandle,
    whole: Receiver<Blob>,
    failed: Receiver<BlobFailure>,
    _engine: Engine,
}

/// A cluster manager and two servers that have registered, which slow no client.
struct Two {
    servers: [Server; 2],
    _acms: Engine,
}

impl Two {
    fn start() -> Two {
        Two::start_with(|builder| builder)
    }

    fn start_with(change: impl Fn(AppServerBuilder) -> AppServerBuilder) -> Two {
        let (acms, transfer) = start_acms("127.0.0.1:0");
        let (joined, is_in) = unbounded();
        let servers = [0, 1].map(|number| {
            let ((whole, got), (failed, lost)) = (unbounded(), unbounded());
            let handler = Taker { joined: joined.clone(), whole, failed };
            let builder = change(AppServer::builder().friends(Nobody).max_bytes_per_second(0).handler(handler));
            let server = builder.cluster(member(number, &transfer)).bind("127.0.0.1:0").expect("the port is free");
            let (addr, handle) = (server.local_addr().to_string(), server.handle());
            let stop = handle.clone();
            let stop = Box::new(move || stop.stop());
            let engine = Engine { stop, running: Some(server.spawn().expect("a thread")) };
            Server { addr, handle, whole: got, failed: lost, _engine: engine }
        });
        for _ in 0..2 {
            is_in.recv_timeout(PATIENCE).expect("a server joins");
        }
        Two { servers, _acms: acms }
    }

    fn connect(&self, place: usize, user: &str) -> Client {
        let builder = Client::builder(user).takes_blobs().patience(PATIENCE);
        builder.connect(&self.servers[place].addr).expect("the server lets it in")
    }
}

/// Bytes of which no part is like another.
fn body(bytes: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(bytes as u64);
    let mut body = vec![0; bytes];
    rng.fill(&mut body);
    body
}

/// Takes the next blob that is offered; returns it, and how often it was told how far it is.
#[track_caller]
fn receive(client: &Client) -> (Blob, usize) {
    let mut told = 0;
    loop {
        match event(client) {
            Event::Blob(IncomingBlob::Offered(offer)) => offer.accept(),
            Event::Blob(IncomingBlob::Progress { received, size, .. }) => {
                assert!(received <= size);
                told += 1;
            }
            Event::Blob(IncomingBlob::Whole(blob)) => return (blob, told),
            other => panic!("{other:?}"),
        }
    }
}

#[track_caller]
fn outcome(handle: &BlobHandle) -> Result<BlobOutcome, SendError> {
    handle.receiver().recv_timeout(PATIENCE).expect("an outcome")
}

#[track_caller]
fn is_same(blob: &Blob, from: Option<&str>, info_type: u32, name: &str, sent: &[u8]) {
    assert_eq!((blob.key.from.as_ref().map(UserId::as_str), blob.info_type), (from, info_type));
    assert_eq!(blob.name, name);
    assert!(blob.body == sent, "what came is not what was sent");
}

#[test]
fn sixty_four_mib_go_to_a_user_of_another_server() {
    let cluster = Two::start();
    let [alice, bob] = [cluster.connect(0, "alice"), cluster.connect(1, "bob")];
    let sent = body(64 * MIB);
    let handle = alice.send_blob(Some(&id("bob")), 7, "holiday.mp4", sent.clone()).expect("sent");
    let (blob, told) = receive(&bob);
    is_same(&blob, Some("alice"), 7, "holiday.mp4", &sent);
    assert!((32..=64).contains(&told), "told {told} times");
    assert_eq!((outcome(&handle), handle.progress(), handle.size()), (Ok(Ok(())), 64 << 20, 64 << 20));
}

#[test]
fn a_blob_goes_to_the_server_s_handler() {
    let cluster = Two::start();
    let alice = cluster.connect(0, "alice");
    let sent = body(3 * MIB + 1);
    let handle = alice.send_blob(None, 8, "log", sent.clone()).expect("sent");
    let blob = cluster.servers[0].whole.recv_timeout(PATIENCE).expect("a blob");
    is_same(&blob, Some("alice"), 8, "log", &sent);
    assert_eq!(outcome(&handle), Ok(Ok(())));
    let handle = alice.send_blob(None, PRIVATE, "", Vec::new()).expect("sent");
    assert_eq!(outcome(&handle), Ok(Err(BlobFailure::Denied(String::new()))));
}

#[test]
fn a_handler_on_threads_of_its_own_takes_blobs() {
    let cluster = Two::start_with(|builder| builder.pool(2));
    let alice = cluster.connect(0, "alice");
    let sent = body(20 * MIB);
    let handle = alice.send_blob(None, 8, "", sent.clone()).expect("sent");
    is_same(&cluster.servers[0].whole.recv_timeout(PATIENCE).expect("a blob"), Some("alice"), 8, "", &sent);
    assert_eq!(outcome(&handle), Ok(Ok(())));
}

/// Hands each offer to the test, and waits for it to say go on.
struct Held {
    offered: Sender<BlobOffer>,
    goes_on: Receiver<()>,
    ended: Sender<BlobFailure>,
}

impl Handler for Held {
    fn on_blob(&self, _server: &ServerHandle, blob: IncomingBlob) {
        match blob {
            IncomingBlob::Offered(offer) => {
                self.offered.send(offer).expect("the test waits for it");
                self.goes_on.recv().expect("the test says so");
            }
            IncomingBlob::Failed { cause, .. } => self.ended.send(cause).expect("the test waits for it"),
            IncomingBlob::Progress { .. } => {}
            IncomingBlob::Whole(_) => panic!("there was no room for it"),
        }
    }
}

#[test]
fn a_handler_on_a_busy_thread_hears_of_a_blob_that_came_and_had_no_room() {
    let ((offered, offers), (go_on, goes_on), (ended, ends)) = (unbounded(), unbounded(), unbounded());
    let builder = AppServer::builder().friends(Nobody).pool(1).handler(Held { offered, goes_on, ended });
    let server = builder.bind("127.0.0.1:0").expect("the port is free");
    let (addr, stop) = (server.local_addr(), server.handle());
    let _engine = Engine { stop: Box::new(move || stop.stop()), running: Some(server.spawn().expect("a thread")) };
    let alice = Client::builder("alice").patience(PATIENCE).connect(addr).expect("let in");
    let handle = alice.send_blob(None, 8, "", body(MIB)).expect("sent");
    let offer = offers.recv_timeout(PATIENCE).expect("an offer");
    // The thread is in its handler: what is said now fills its queue.
    for _ in 0..1100 {
        alice.send(None, 1, Vec::new()).expect("sent");
    }
    let Event::Undelivered { cause, .. } = event(&alice) else { panic!("all had room") };
    assert_eq!(cause, Undelivered::Bounced(Bounce::Busy));
    offer.accept();
    assert_eq!(outcome(&handle), Ok(Err(BlobFailure::Busy)), "its sender hears why");
    go_on.send(()).expect("the handler waits for it");
    assert_eq!(ends.recv_timeout(PATIENCE), Ok(BlobFailure::Busy), "and so does who accepted it");
}

#[test]
fn a_server_sends_blobs_to_users_of_any_server() {
    let cluster = Two::start();
    let clients = [cluster.connect(0, "alice"), cluster.connect(1, "bob")];
    for client in &clients {
        let sent = body(5 * MIB);
        let handle = cluster.servers[0].handle.send_blob(client.user(), 9, "level", sent.clone()).expect("sent");
        is_same(&receive(client).0, None, 9, "level", &sent);
        assert_eq!((outcome(&handle), handle.progress()), (Ok(Ok(())), 5 << 20));
    }
    let nobody = cluster.servers[0].handle.send_blob(&id("nobody"), 9, "", body(1)).expect("sent");
    assert_eq!(outcome(&nobody), Ok(Err(BlobFailure::Bounced(Bounce::Offline))));
}

#[test]
fn a_blob_that_is_not_wanted_is_refused_in_words() {
    let cluster = Two::start();
    let [alice, bob] = [cluster.connect(0, "alice"), cluster.connect(1, "bob")];
    let handle = alice.send_blob(Some(&id("bob")), 7, "", body(10)).expect("sent");
    let Event::Blob(IncomingBlob::Offered(offer)) = event(&bob) else { panic!("no offer") };
    offer.refuse("not today");
    assert_eq!(outcome(&handle), Ok(Err(BlobFailure::Denied("not today".to_owned()))));
    let plain = Client::builder("carol").patience(PATIENCE).connect(&cluster.servers[1].addr).expect("let in");
    let handle = alice.send_blob(Some(plain.user()), 7, "", body(10)).expect("sent");
    assert_eq!(outcome(&handle), Ok(Err(BlobFailure::NoHandler)), "a client that was not told to take blobs");
}

#[test]
fn either_side_may_cancel_and_the_other_hears_of_it() {
    let cluster = Two::start();
    let [alice, bob] = [cluster.connect(0, "alice"), cluster.connect(1, "bob")];
    let under_way = |handle: &BlobHandle| loop {
        match event(&bob) {
            Event::Blob(IncomingBlob::Offered(offer)) => offer.accept(),
            Event::Blob(IncomingBlob::Progress { key, .. }) => return (key, handle.progress()),
            other => panic!("{other:?}"),
        }
    };
    let handle = alice.send_blob(Some(&id("bob")), 7, "", body(64 * MIB)).expect("sent");
    under_way(&handle);
    handle.cancel();
    assert_eq!(outcome(&handle), Ok(Err(BlobFailure::Cancelled)));
    let cause = loop {
        match event(&bob) {
            Event::Blob(IncomingBlob::Progress { .. }) => {}
            Event::Blob(IncomingBlob::Failed { cause, .. }) => break cause,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(cause, BlobFailure::Cancelled);
    let handle = alice.send_blob(Some(&id("bob")), 7, "", body(64 * MIB)).expect("sent");
    let (key, _) = under_way(&handle);
    bob.stop_blob(&key);
    assert_eq!(outcome(&handle), Ok(Err(BlobFailure::Cancelled)));
}

#[test]
fn what_is_received_and_not_let_go_of_is_bounded() {
    let cluster = Two::start_with(|builder| builder.max_blob(MIB));
    let alice = cluster.connect(0, "alice");
    let send = |bytes| outcome(&alice.send_blob(None, 8, "", body(bytes)).expect("sent"));
    assert_eq!(send(MIB + 1), Ok(Err(BlobFailure::TooBig)));
    // Held by the channel to the test.
    assert_eq!([send(MIB), send(MIB)], [Ok(Ok(())), Ok(Ok(()))]);
    assert_eq!(send(1), Ok(Err(BlobFailure::Busy)));
    assert_eq!(cluster.servers[0].failed.recv_timeout(PATIENCE), Ok(BlobFailure::Busy));
    drop(cluster.servers[0].whole.recv_timeout(PATIENCE).expect("the first"));
    // What is let go of is told to the engine before what is sent then.
    assert_eq!(send(MIB), Ok(Ok(())));
}

#[test]
fn the_chat_sends_a_file_and_saves_it_where_it_is_told_to() {
    let cluster = Two::start();
    let dir = std::env::temp_dir().join(format!("trunkline-blobs-{}", std::process::id()));
    let saved = dir.join("saved");
    std::fs::create_dir_all(&saved).expect("a folder of this test's");
    let file = dir.join("notes.txt");
    std::fs::write(&file, body(MIB)).expect("a file of this test's");
    let chat = |place: usize, user: &str, more: &[&str]| {
        let addr = &cluster.servers[place].addr;
        let program = Program::start(CHAT, &[&["--server", addr, "--user", user], more].concat());
        program.stdout.line_with("connected as");
        program
    };
    let bob = chat(1, "bob", &["--blob-dir", &saved.to_string_lossy()]);
    let carol = chat(1, "carol", &[]);
    let mut alice = chat(0, "alice", &["--to", "bob"]);
    let line = format!("/blob {}\n", file.display());
    alice.write(&[&line[..], &line, "/to carol\n", &line, "/blob /dev/null\n"].concat());
    alice.expect_exit(1);
    let said = alice.stdout.text();
    let lines: Vec<&str> = said.lines().filter(|line| line.contains("to ") || line.contains("/blob")).skip(1).collect();
    assert_eq!(
        lines,
        [
            "notes.txt: delivered to bob, 1048576 bytes",
            "notes.txt: delivered to bob, 1048576 bytes",
            "writing to carol",
            "notes.txt: failed, to carol: refused: no files are taken here",
            "/blob /dev/null: not a file",
        ]
    );
    carol.stdout.line_with("alice wants to send the file \"notes.txt\", 1048576 bytes; --blob-dir lets it in");
    bob.stdout.lines_with("alice: saved", 2);
    for name in ["notes.txt", "notes.txt.1"] {
        assert!(std::fs::read(saved.join(name)).expect("it is saved") == body(MIB), "{name}");
    }
    std::fs::remove_dir_all(&dir).expect("a folder of this test's");
}
