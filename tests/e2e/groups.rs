//! Groups with members on different servers, over real sockets.

use crossbeam_channel::{Receiver, select, unbounded};
use trunkline::role::client::QueryFailure;
use trunkline::{
    AppServer, AppServerBuilder, Bounce, Client, Event, GroupChange, GroupId, JoinFailure, Members, ServerHandle,
    ServerId, Undelivered, UserId,
};

use crate::PATIENCE;
use crate::cluster::Cluster;
use crate::engines::{Engine, Registration, event, id, member, outcome, start_acms};
use crate::port::Port;
use crate::program::{CHAT, Program};

struct Server {
    addr: String,
    handle: ServerHandle,
    up: Receiver<()>,
    engine: Engine,
}

impl Server {
    fn start(builder: AppServerBuilder, number: u16, transfer: &str) -> Server {
        Server::start_at("127.0.0.1:0", builder, number, transfer)
    }

    /// A server that has registered.
    fn start_at(addr: &str, builder: AppServerBuilder, number: u16, transfer: &str) -> Server {
        let (sender, up) = unbounded();
        let server = builder
            .handler(Registration(sender))
            .cluster(member(number, transfer))
            .bind(addr)
            .expect("the port is free");
        let (addr, handle) = (server.local_addr().to_string(), server.handle());
        let (stop, running) = (handle.clone(), Some(server.spawn().expect("a thread")));
        let server = Server { addr, handle, up, engine: Engine { stop: Box::new(move || stop.stop()), running } };
        server.until_up();
        server
    }

    fn until_up(&self) {
        self.up.recv_timeout(PATIENCE).expect("it registers");
    }

    fn connect(&self, user: &str) -> Client {
        Client::builder(user).patience(PATIENCE).connect(&self.addr).expect("the server lets it in")
    }

    /// A user that is in the group.
    fn connect_to_group(&self, user: &str) -> Client {
        let client = self.connect(user);
        assert_eq!(outcome(client.join(&chess()).expect("it runs")), Ok(Ok(())), "{user} joins");
        client
    }

    /// Who is in the group, by this server.
    fn members(&self) -> Members {
        outcome(self.handle.members(&chess()).expect("it runs"))
    }
}

fn chess() -> GroupId {
    "chess".parse().expect("an id")
}

fn members(of: &[(&str, u16)]) -> Members {
    Members { users: of.iter().map(|(user, server)| (id(user), ServerId(*server))).collect(), complete: true }
}

/// The number in a message to the group, and who said it.
#[track_caller]
fn said(client: &Client) -> (Option<UserId>, u32) {
    loop {
        match event(client) {
            Event::GroupMessage { group, message } if group == chess() => return (message.from, message.info_type),
            Event::Member { .. } => {}
            other => panic!("{}: {other:?} is nothing said", client.user()),
        }
    }
}

#[track_caller]
fn until_member(client: &Client, user: &str, change: GroupChange) {
    loop {
        match event(client) {
            Event::Member { user: who, change: what, .. } if who.as_str() == user && what == change => return,
            Event::State(_) | Event::Member { .. } | Event::MembersMissed(_) => {}
            other => panic!("{}: {other:?} is no coming or going", client.user()),
        }
    }
}

#[test]
fn what_one_says_reaches_each_member_in_order_wherever_it_is() {
    const MESSAGES: u32 = 500;
    let (_acms, transfer) = start_acms("127.0.0.1:0");
    let servers = [0, 1].map(|number| Server::start(AppServer::builder(), number, &transfer));
    let alice = servers[0].connect_to_group("alice");
    let others = [(0, "bob"), (1, "carol"), (1, "dave")].map(|(server, user)| servers[server].connect_to_group(user));
    let eve = servers[1].connect("eve");
    let carol = id("carol");
    for number in 0..MESSAGES {
        alice.broadcast(&chess(), number, vec![b'x'; 1_000]).expect("it runs");
        if number % 10 == 0 {
            alice.send(Some(&carol), number, Vec::new()).expect("it runs");
        }
    }
    for client in &others {
        for number in 0..MESSAGES {
            assert_eq!(said(client), (Some(id("alice")), number), "at {}", client.user());
            if number % 10 == 0 && client.user() == &carol {
                assert!(matches!(event(client), Event::Message(message) if message.info_type == number));
            }
        }
    }
    // Whatever is behind it would have come before the answer.
    for client in [&alice, &eve] {
        outcome(client.locate(std::slice::from_ref(&carol)).expect("it runs")).expect("connected").expect("answered");
        assert!(!client.events().try_iter().any(|event| matches!(event, Event::GroupMessage { .. })));
    }
}

#[test]
fn members_hear_who_comes_and_goes_on_other_servers() {
    let (_acms, transfer) = start_acms("127.0.0.1:0");
    let servers = [0, 1].map(|number| Server::start(AppServer::builder(), number, &transfer));
    let alice = servers[0].connect_to_group("alice");
    let bob = servers[1].connect_to_group("bob");
    until_member(&alice, "bob", GroupChange::Joined);
    assert_eq!(servers[1].members(), members(&[("alice", 0), ("bob", 1)]));
    let asked = outcome(alice.members(&chess()).expect("it runs")).expect("connected").expect("answered");
    let named: Vec<_> = asked.users.iter().map(|user| (user.user.as_str(), user.server)).collect();
    assert_eq!(named, [("alice", Some(ServerId(0))), ("bob", Some(ServerId(1)))]);
    assert_eq!(asked.complete, Some(true));
    bob.leave(&chess()).expect("it runs");
    until_member(&alice, "bob", GroupChange::Left);
    assert_eq!(servers[1].members(), members(&[("alice", 0)]));
    assert_eq!(outcome(bob.join(&chess()).expect("it runs")), Ok(Ok(())));
    until_member(&alice, "bob", GroupChange::Joined);
    bob.close().expect("it ends");
    until_member(&alice, "bob", GroupChange::Offline);
    alice.close().expect("it ends");
    // Destroyed when empty.
    let ends = crate::now() + PATIENCE;
    while servers[0].members() != members(&[]) {
        assert!(crate::now() < ends, "a group without members goes on");
    }
}

#[test]
fn server_code_puts_in_speaks_lists_and_takes_out_on_other_servers() {
    let (_acms, transfer) = start_acms("127.0.0.1:0");
    let servers = [0, 1].map(|number| Server::start(AppServer::builder().groups(nobody), number, &transfer));
    let (alice, bob) = (servers[0].connect("alice"), servers[1].connect("bob"));
    let here = &servers[0].handle;
    for user in ["alice", "bob"] {
        assert_eq!(outcome(here.add_to_group(&id(user), &chess()).expect("it runs")), Ok(()), "{user}");
    }
    until_member(&alice, "alice", GroupChange::Joined);
    until_member(&bob, "bob", GroupChange::Joined);
    let offline = Err(QueryFailure::Bounced(Bounce::Offline));
    assert_eq!(outcome(here.add_to_group(&id("zoe"), &chess()).expect("it runs")), offline);
    assert_eq!(servers[0].members(), members(&[("alice", 0), ("bob", 1)]));
    here.broadcast(&chess(), 7, b"hello".to_vec()).expect("it runs");
    assert_eq!((said(&alice), said(&bob)), ((None, 7), (None, 7)));
    assert_eq!(outcome(here.remove_from_group(&id("bob"), &chess()).expect("it runs")), Ok(()));
    until_member(&bob, "bob", GroupChange::Left);
    until_member(&alice, "bob", GroupChange::Left);
    assert_eq!(servers[1].members(), members(&[("alice", 0)]));
}

fn nobody(_: &UserId, _: &GroupId) -> bool {
    false
}

#[test]
fn the_application_says_who_may_join() {
    for threads in [0, 2] {
        let may_join = |user: &UserId, group: &GroupId| match (user.as_str(), group.as_str()) {
            ("mallory", _) => panic!("a rule of the test's, on purpose"),
            (user, group) => user == "alice" && group == "chess",
        };
        let server = AppServer::builder().groups(may_join).pool(threads).bind("127.0.0.1:0").expect("a port is free");
        let (addr, handle) = (server.local_addr().to_string(), server.handle());
        let running = server.spawn().expect("a thread");
        let join = |user: &str| {
            let client = Client::builder(user).patience(PATIENCE).connect(&addr).expect("a login");
            let joined = outcome(client.join(&chess()).expect("it runs")).expect("it is connected");
            (client, joined)
        };
        let denied = Err(JoinFailure::Refused(Bounce::Denied));
        assert_eq!(join("alice").1, Ok(()));
        assert_eq!(join("bob").1, denied);
        assert_eq!(join("mallory").1, denied);
        let (carol, _) = join("carol");
        let sent = carol.broadcast(&chess(), 0, Vec::new()).expect("it runs");
        let cause = Undelivered::Bounced(Bounce::NotInGroup);
        assert!(matches!(event(&carol), Event::Undelivered { id, cause: why, .. } if id == sent && why == cause));
        handle.stop();
        running.join().expect("it ends");
    }
}

/// Says something until it arrives: what bounces meanwhile is said again.
fn say_until_heard(speaker: &Client, listener: &Client) -> Vec<Bounce> {
    let mut bounces = Vec::new();
    for number in 0..10_000 {
        let sent = speaker.broadcast(&chess(), number, Vec::new()).expect("it runs");
        loop {
            select! {
                recv(speaker.events()) -> event => match event.expect("it runs") {
                    Event::Undelivered { id, cause: Undelivered::Bounced(cause), .. } if id == sent => {
                        bounces.push(cause);
                        break;
                    }
                    _ => {}
                },
                recv(listener.events()) -> event => {
                    if matches!(event.expect("it runs"), Event::GroupMessage { .. }) {
                        return bounces;
                    }
                }
                default(PATIENCE) => panic!("neither heard nor bounced"),
            }
        }
    }
    panic!("never heard");
}

#[test]
fn members_stay_in_over_a_restart_of_the_acms_and_of_a_server() {
    let (transfer, second) = (Port::reserve(), Port::reserve());
    let transfer = transfer.addr().to_string();
    let (acms, _) = start_acms(&transfer);
    let first = Server::start(AppServer::builder(), 0, &transfer);
    let start_second = || Server::start_at(&second.addr().to_string(), AppServer::builder(), 1, &transfer);
    let mut other = start_second();
    let (alice, bob) = (first.connect_to_group("alice"), other.connect_to_group("bob"));
    until_member(&alice, "bob", GroupChange::Joined);
    say_until_heard(&alice, &bob);

    acms.stop();
    let (_acms, _) = start_acms(&transfer);
    first.until_up();
    other.until_up();
    say_until_heard(&alice, &bob);

    other.engine.stop();
    other = start_second();
    until_member(&alice, "bob", GroupChange::Joined);
    say_until_heard(&alice, &bob);
    assert_eq!(other.members(), members(&[("alice", 0), ("bob", 1)]));
}

#[test]
fn a_group_of_chats_on_two_servers() {
    let cluster = Cluster::start();
    let chat = |server: usize, user: &str| {
        let addr = cluster.clients()[server].to_string();
        let mut chat = Program::start(CHAT, &["--server", &addr, "--user", user]);
        chat.stdout.line_with(&format!("connected as {user}"));
        chat.write("/join chess\n");
        chat.stdout.line_with("in group chess");
        chat
    };
    let mut alice = chat(0, "alice");
    let mut bob = chat(1, "bob");
    alice.stdout.line_with("[chess] bob joined");
    alice.write("/say chess hello to all\n/members chess\n");
    bob.stdout.line_with("[chess] alice: hello to all");
    alice.stdout.line_with("alice is on server 0");
    alice.stdout.line_with("bob is on server 1");
    bob.write("/leave chess\n");
    alice.stdout.line_with("[chess] bob left");
    alice.write("/say lone hello\n");
    alice.stdout.line_with("lone: not delivered: NOT_IN_GROUP");
    alice.close_stdin();
    alice.expect_exit(1);
    bob.write("/join\n");
    bob.stdout.line_with("/join GROUP: an id has at least 1 byte");
    bob.close_stdin();
    bob.expect_exit(0);
}
