//! Friends on different servers, over real sockets: who hears of whom, and how often.

use crossbeam_channel::{Receiver, Sender, unbounded};
use trunkline::{
    AppServer, Client, ClusterState, Event, Friends, Friendship, Handler, Nobody, ServerHandle, State, UserId,
};

use crate::PATIENCE;
use crate::cluster::{Cluster, INFO, NO_GRACE, start_acms};
use crate::engines::{Engine, id, member, outcome};
use crate::port::Port;
use crate::program::{APPSERVER, CHAT, Program};

/// The next change that a client is told of; what else happens to it is passed over.
#[track_caller]
fn change(client: &Client) -> (String, bool) {
    loop {
        match client.events().recv_timeout(PATIENCE) {
            Ok(Event::Presence { user, online }) => return (user.to_string(), online),
            Ok(_) => {}
            Err(error) => panic!("{} is told of no change: {error}", client.user()),
        }
    }
}

/// Waits until the client is in again; it is told of nobody until then.
#[track_caller]
fn until_resumed(client: &Client) {
    loop {
        match client.events().recv_timeout(PATIENCE) {
            Ok(Event::State(State::Online { resumed: true, .. })) => return,
            Ok(Event::Presence { user, online }) => panic!("{} is told that {user}: {online}", client.user()),
            Ok(_) => {}
            Err(error) => panic!("{} is not in again: {error}", client.user()),
        }
    }
}

fn told(user: &str, online: bool) -> (String, bool) {
    (user.to_owned(), online)
}

fn server_at(port: &Port, id: &str, acms: &Port) -> Program {
    let (listen, acms) = (port.addr().to_string(), acms.addr().to_string());
    let args = ["--id", id, "--listen", &listen, "--acms", &acms, "--friends", "everyone"];
    Program::start(APPSERVER, &args)
}

#[test]
fn whatever_is_started_again_each_friend_hears_of_one_change_at_most() {
    let [acms_port, as0_port, as1_port] = std::array::from_fn(|_| Port::reserve());
    let acms = start_acms(acms_port.addr().port(), &INFO, &NO_GRACE);
    let _as0 = server_at(&as0_port, "0", &acms_port);
    let as1 = server_at(&as1_port, "1", &acms_port);
    acms.stderr.lines_with("told of its", 2);
    let connect =
        |port: &Port, user: &str| Client::builder(user).patience(PATIENCE).connect(port.addr()).expect("it is let in");
    let (alice, carol) = (connect(&as0_port, "alice"), connect(&as0_port, "carol"));
    assert_eq!((change(&alice), change(&carol)), (told("carol", true), told("alice", true)));
    let bob = connect(&as1_port, "bob");
    assert_eq!((change(&alice), change(&carol)), (told("bob", true), told("bob", true)));
    let mut friends = [change(&bob), change(&bob)];
    friends.sort();
    assert_eq!(friends, [told("alice", true), told("carol", true)]);

    // The ACMS is killed: nobody is gone.
    acms.kill();
    let acms = start_acms(acms_port.addr().port(), &INFO, &[]);
    acms.stderr.lines_with("told of its", 2);
    // Bob's server is killed and is there again at once: he is back before he is missed, and knows whom he knew.
    as1.kill();
    let as1 = server_at(&as1_port, "1", &acms_port);
    until_resumed(&bob);
    // It is killed, and stays away: that is one change, and another when it comes back.
    as1.kill();
    assert_eq!((change(&alice), change(&carol)), (told("bob", false), told("bob", false)));
    let _as1 = server_at(&as1_port, "1", &acms_port);
    until_resumed(&bob);
    assert_eq!((change(&alice), change(&carol)), (told("bob", true), told("bob", true)));
    // A logout is told at once, of friends who were never gone.
    alice.close().expect("it was in");
    assert_eq!((change(&carol), change(&bob)), (told("alice", false), told("alice", false)));
}

#[test]
fn a_person_sees_friends_on_another_server_come_and_go() {
    let cluster = Cluster::start_with(&INFO, &["--friends", "everyone"]);
    let chat = |server: usize, user: &str| {
        Program::start(CHAT, &["--server", &cluster.clients()[server].to_string(), "--user", user])
    };
    let mut alice = chat(0, "alice");
    alice.stdout.line_with("connected as alice to server 0");
    let mut bob = chat(1, "bob");
    assert_eq!(alice.stdout.line_with("bob is"), "bob is online\n");
    assert_eq!(bob.stdout.line_with("alice is"), "alice is online\n");
    bob.expect_exit(0);
    assert_eq!(alice.stdout.lines_with("bob is", 2)[1], "bob is offline\n");
    alice.write("/friends\n");
    alice.stdout.line_with("nobody");
    alice.expect_exit(0);
}

/// Alice's friend is bob, who has none; nobody may watch eve.
struct Acquaintances;

impl Friends for Acquaintances {
    fn friends_of(&self, user: &UserId) -> Friendship {
        let friends = if user.as_str() == "alice" { vec![id("bob")] } else { Vec::new() };
        Friendship::Users(friends)
    }

    fn may_watch(&self, _watcher: &UserId, user: &UserId) -> bool {
        assert_ne!(user.as_str(), "trap", "a check of the test's, on purpose");
        user.as_str() != "eve"
    }
}

/// Tells what the server's code hears.
struct Watching {
    up: Sender<()>,
    presence: Sender<(String, bool)>,
}

impl Handler for Watching {
    fn on_cluster(&self, _server: &ServerHandle, state: &ClusterState) {
        if matches!(state, ClusterState::Up { .. }) {
            // A test that has ended listens no more.
            _ = self.up.send(()).is_ok();
        }
    }

    fn on_presence(&self, _server: &ServerHandle, user: &UserId, online: bool) {
        _ = self.presence.send((user.to_string(), online)).is_ok();
    }
}

struct Server {
    addr: String,
    handle: ServerHandle,
    presence: Receiver<(String, bool)>,
    _engine: Engine,
}

impl Server {
    /// A server that has registered; its application runs on so many threads.
    fn start(number: u16, threads: usize, transfer: &str) -> Server {
        Server::start_with(Acquaintances, number, threads, transfer)
    }

    fn start_with(friends: impl Friends, number: u16, threads: usize, transfer: &str) -> Server {
        let ((up_sender, up), (presence_sender, presence)) = (unbounded(), unbounded());
        let watching = Watching { up: up_sender, presence: presence_sender };
        let builder = AppServer::builder().handler(watching).friends(friends).pool(threads);
        let server = builder.cluster(member(number, transfer)).bind("127.0.0.1:0").expect("the port is free");
        let (addr, handle) = (server.local_addr().to_string(), server.handle());
        let (stop, running) = (handle.clone(), Some(server.spawn().expect("a thread")));
        let engine = Engine { stop: Box::new(move || stop.stop()), running };
        up.recv_timeout(PATIENCE).expect("it registers");
        Server { addr, handle, presence, _engine: engine }
    }

    fn connect(&self, user: &str) -> Client {
        Client::builder(user).patience(PATIENCE).connect(&self.addr).expect("the server lets it in")
    }
}

#[test]
fn friends_those_one_watches_and_those_the_server_watches_are_on_any_server() {
    let (_acms, transfer) = crate::engines::start_acms("127.0.0.1:0");
    let (one, other) = (Server::start(0, 0, &transfer), Server::start(1, 2, &transfer));
    one.handle.watch(vec![id("bob")]).expect("it has room");
    other.handle.watch(vec![id("alice")]).expect("it has room");
    let heard = |server: &Server| server.presence.recv_timeout(PATIENCE).expect("the handler is told");
    assert_eq!((heard(&one), heard(&other)), (told("bob", false), told("alice", false)));

    let alice = one.connect("alice");
    assert_eq!(heard(&other), told("alice", true));
    let bob = other.connect("bob");
    assert_eq!((change(&alice), heard(&one)), (told("bob", true), told("bob", true)));
    // Bob has no friends; he names whom he watches.
    let watched = outcome(bob.watch(&[id("alice"), id("carol"), id("eve")]).expect("it has room"));
    let watched = watched.expect("he is in").expect("an answer").users;
    let states: Vec<_> = watched.iter().map(|user| (user.user.as_str(), user.online, user.denied)).collect();
    assert_eq!(states, [("alice", Some(true), false), ("carol", Some(false), false), ("eve", None, true)]);
    assert_eq!(change(&bob), told("alice", true));
    let carol = one.connect("carol");
    assert_eq!(change(&bob), told("carol", true));
    let _eve = one.connect("eve");
    carol.close().expect("it was in");
    assert_eq!(change(&bob), told("carol", false));
    let friends = outcome(bob.friends().expect("it has room")).expect("he is in").expect("an answer").users;
    let states: Vec<_> = friends.iter().map(|user| (user.user.as_str(), user.online)).collect();
    assert_eq!(states, [("alice", Some(true)), ("carol", Some(false))]);

    // A check that panics permits nobody, and takes nothing else down.
    let refused = outcome(bob.watch(&[id("trap"), id("dave")]).expect("it has room"));
    let refused = refused.expect("he is in").expect("an answer").users;
    assert!(refused.iter().all(|user| user.denied) && refused.len() == 2, "{refused:?}");
    bob.unwatch(&[id("alice")]).expect("it has room");
    one.handle.unwatch(vec![id("bob")]).expect("it has room");
    let friends = outcome(bob.friends().expect("it has room")).expect("he is in").expect("an answer").users;
    assert_eq!(friends.len(), 1);
    alice.close().expect("it was in");
    assert_eq!(heard(&other), told("alice", false));
    bob.close().expect("he was in");
    assert!(one.presence.is_empty(), "the server watches bob no more");
}

#[test]
fn where_nobody_has_friends_nobody_is_told_and_nobody_may_watch() {
    let (_acms, transfer) = crate::engines::start_acms("127.0.0.1:0");
    let [one, other] = [0, 1].map(|number| Server::start_with(Nobody, number, 0, &transfer));
    let (alice, bob) = (one.connect("alice"), other.connect("bob"));
    let watched = outcome(alice.watch(&[id("bob")]).expect("it has room")).expect("she is in").expect("an answer");
    let states: Vec<_> = watched.users.iter().map(|user| (user.user.as_str(), user.online, user.denied)).collect();
    assert_eq!(states, [("bob", None, true)]);
    let friends = outcome(alice.friends().expect("it has room")).expect("she is in").expect("an answer");
    assert!(friends.users.is_empty(), "{friends:?}");
    bob.close().expect("he was in");
    let carol = other.connect("carol");
    // She would hear of both before this, which takes the same way behind it.
    carol.send(Some(&id("alice")), 0, Vec::new()).expect("it has room");
    loop {
        match alice.events().recv_timeout(PATIENCE).expect("the message") {
            Event::Message(_) => break,
            Event::Presence { user, .. } => panic!("she is told of {user}"),
            _ => {}
        }
    }
}

#[test]
fn server_code_watches_everyone_on_any_server() {
    let (_acms, transfer) = crate::engines::start_acms("127.0.0.1:0");
    let (one, other) = (Server::start(0, 0, &transfer), Server::start(1, 2, &transfer));
    let (carol, dave) = (one.connect("carol"), other.connect("dave"));
    one.handle.watch(vec![id("dave")]).expect("it has room");
    let heard = |server: &Server| server.presence.recv_timeout(PATIENCE).expect("the handler is told");
    assert_eq!(heard(&one), told("dave", true));
    for server in [&one, &other] {
        server.handle.watch_everyone().expect("it has room");
    }
    assert_eq!(heard(&one), told("carol", true), "dave was told of by name");
    let mut here = [heard(&other), heard(&other)];
    here.sort();
    assert_eq!(here, [told("carol", true), told("dave", true)]);
    let eve = other.connect("eve");
    assert_eq!((heard(&one), heard(&other)), (told("eve", true), told("eve", true)));
    dave.close().expect("he was in");
    assert_eq!((heard(&one), heard(&other)), (told("dave", false), told("dave", false)));
    one.handle.unwatch_everyone().expect("it has room");
    eve.close().expect("she was in");
    assert_eq!(heard(&other), told("eve", false));
    // Whom it named it watches still, and has heard of nobody else.
    let _dave = other.connect("dave");
    assert_eq!((heard(&one), heard(&other)), (told("dave", true), told("dave", true)));
    drop(carol);
    assert_eq!(heard(&other), told("carol", false));
    assert!(one.presence.is_empty());
}
