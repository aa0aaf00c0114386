//! What server code asks of the platform and says on it, and what a program may ask before it logs in: two servers, and
//! users on both.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use trunkline::role::client::QueryFailure as Failure;
use trunkline::{
    Acms, AppServer, AppServerBuilder, Assigned, Assignment, Bounce, Candidate, Client, CloseCode, ClusterEvent,
    ClusterState, EntryFailure, Event, GroupId, Handler, Incoming, Message, NoServer, Nobody, Responder, ServerHandle,
    ServerId, State, TagError, Unnamed, UserId, query_without_login,
};

use crate::PATIENCE;
use crate::engines::{Engine, event, id, member, message, outcome, parts, query, start_acms, stopped};

/// Information types that [`Desk`] tells apart: it answers, or fails, or declines, or keeps the query to itself.
const ANSWER: u32 = 1;
const FAIL: u32 = 2;
const DECLINE: u32 = 3;
const KEEP: u32 = 4;

/// What it heard, beside queries.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Up,
    ServerSays(u16, u32, Vec<u8>),
    Undelivered(Option<String>, u64, Bounce),
}

/// Answers everyone alike, and says who asked.
struct Desk {
    heard: Sender<Heard>,
    kept: Sender<Responder>,
}

impl Desk {
    fn answer(&self, asker: &str, info_type: u32, body: &[u8], reply: Responder) {
        match info_type {
            ANSWER => reply.send([asker.as_bytes(), b" asks ", body].concat()),
            FAIL => reply.fail("not today"),
            KEEP => self.kept.send(reply).expect("the test keeps it"),
            _ => reply.decline(),
        }
    }
}

impl Handler for Desk {
    fn on_query(&self, _server: &ServerHandle, query: &Incoming<'_>, reply: Responder) {
        self.answer(query.from.as_str(), query.info_type, query.body, reply);
    }

    fn on_server_message(&self, _server: &ServerHandle, from: ServerId, info_type: u32, body: &[u8]) {
        self.heard.send(Heard::ServerSays(from.0, info_type, body.to_vec())).expect("the test listens");
    }

    fn on_server_query(&self, _server: &ServerHandle, from: ServerId, info_type: u32, body: &[u8], reply: Responder) {
        self.answer(&format!("server {from}"), info_type, body, reply);
    }

    fn on_query_before_login(&self, _server: &ServerHandle, query: &Unnamed<'_>, reply: Responder) {
        assert!(query.addr.ip().is_loopback());
        self.answer("nobody", query.info_type, query.body, reply);
    }

    fn on_undelivered(&self, _server: &ServerHandle, to: Option<&UserId>, id: u64, cause: Bounce) {
        self.heard.send(Heard::Undelivered(to.map(UserId::to_string), id, cause)).expect("the test listens");
    }

    fn on_cluster(&self, _server: &ServerHandle, state: &ClusterState) {
        if matches!(state, ClusterState::Up { .. }) {
            self.heard.send(Heard::Up).expect("the test listens");
        }
    }
}

struct Server {
    addr: String,
    handle: ServerHandle,
    heard: Receiver<Heard>,
    kept: Receiver<Responder>,
    _engine: Engine,
}

impl Server {
    fn start(builder: AppServerBuilder) -> Server {
        let ((heard_sender, heard), (kept_sender, kept)) = (unbounded(), unbounded());
        let desk = Desk { heard: heard_sender, kept: kept_sender };
        let server = builder.handler(desk).bind("127.0.0.1:0").expect("a port is free");
        let (addr, handle, stop) = (server.local_addr().to_string(), server.handle(), server.handle());
        let running = Some(server.spawn().expect("a thread"));
        Server { addr, handle, heard, kept, _engine: Engine { stop: Box::new(move || stop.stop()), running } }
    }

    fn connect(&self, user: &str) -> Client {
        Client::builder(user).takes_queries().patience(PATIENCE).connect(&self.addr).expect("the server lets it in")
    }

    #[track_caller]
    fn hears(&self, wanted: Heard) {
        assert_eq!(self.heard.recv_timeout(PATIENCE), Ok(wanted));
    }
}

/// Server 0 and server 1 of one cluster.
fn two(builder: impl Fn() -> AppServerBuilder) -> ([Server; 2], Engine) {
    let (acms, transfer) = start_acms("127.0.0.1:0");
    let servers = [0, 1].map(|number| Server::start(builder().cluster(member(number, &transfer))));
    servers.iter().for_each(|server| server.hears(Heard::Up));
    (servers, acms)
}

/// The next message, whatever else is told before.
#[track_caller]
fn next_message(client: &Client) -> Message {
    loop {
        if let Event::Message(message) = client.events().recv_timeout(PATIENCE).expect("a message") {
            return message;
        }
    }
}

#[test]
fn servers_speak_to_each_other_and_each_failure_is_told_apart() {
    for threads in [0, 2] {
        let ([as0, as1], _acms) = two(|| AppServer::builder().pool(threads));
        as0.handle.send_to_server(ServerId(1), 9, b"news".to_vec()).expect("it takes commands");
        as1.hears(Heard::ServerSays(0, 9, b"news".to_vec()));
        as1.handle.send_to_server(ServerId(1), 8, b"to itself".to_vec()).expect("it takes commands");
        as1.hears(Heard::ServerSays(1, 8, b"to itself".to_vec()));

        let ask = |to, info_type| {
            outcome(
                as0.handle.query_server(ServerId(to), info_type, b"x".to_vec(), PATIENCE).expect("it takes commands"),
            )
        };
        assert_eq!(ask(1, ANSWER), Ok(b"server 0 asks x".to_vec()));
        assert_eq!(ask(0, ANSWER), Ok(b"server 0 asks x".to_vec()), "itself");
        assert_eq!(ask(1, FAIL), Err(Failure::Failed("not today".to_owned())));
        assert_eq!(ask(1, DECLINE), Err(Failure::NoHandler));
        assert_eq!(ask(7, ANSWER), Err(Failure::Bounced(Bounce::Offline)));

        let patience = Duration::from_millis(50);
        let unanswered = as0.handle.query_server(ServerId(1), KEEP, Vec::new(), patience).expect("it takes commands");
        let _never = as1.kept.recv_timeout(PATIENCE).expect("a query");
        assert_eq!(outcome(unanswered), Err(Failure::TimedOut));

        let later = as0.handle.query_server(ServerId(1), KEEP, Vec::new(), PATIENCE).expect("it takes commands");
        as1.kept.recv_timeout(PATIENCE).expect("a query").send(b"at last".to_vec());
        assert_eq!(outcome(later), Ok(b"at last".to_vec()));
    }
}

#[test]
fn a_query_is_lost_with_its_link_or_its_receivers_connection() {
    let ([as0, as1], acms) = two(AppServer::builder);
    let (alice, bob) = (as0.connect("alice"), as1.connect("bob"));
    let near = as0.handle.query(&id("alice"), 0, Vec::new(), PATIENCE).expect("it takes commands");
    let unanswered = query(&alice);
    alice.close().expect("it logs out");
    assert_eq!(outcome(near), Err(Failure::ConnectionLost));
    drop(unanswered);

    let far = as0.handle.query(&id("bob"), 0, Vec::new(), PATIENCE).expect("it takes commands");
    let to_server = as0.handle.query_server(ServerId(1), KEEP, Vec::new(), PATIENCE).expect("it takes commands");
    let (_unanswered, _kept) = (query(&bob), as1.kept.recv_timeout(PATIENCE).expect("a query"));
    acms.stop();
    assert_eq!(outcome(far), Err(Failure::ConnectionLost));
    assert_eq!(outcome(to_server), Err(Failure::ConnectionLost));
}

#[test]
fn server_code_reads_the_platforms_directory() {
    let ([as0, as1], _acms) = two(AppServer::builder);
    let (_alice, _bob, _carol) = (as0.connect("alice"), as1.connect("bob"), as1.connect("carol"));
    let is_online = |user| outcome(as0.handle.is_online(&id(user)).expect("it takes commands"));
    assert_eq!((is_online("alice"), is_online("bob"), is_online("zoe")), (Ok(true), Ok(true), Ok(false)));
    assert_eq!(outcome(as0.handle.count().expect("it takes commands")), Ok(3));

    let mut users: Vec<(UserId, ServerId)> = Vec::new();
    let mut after = None;
    loop {
        let page = outcome(as0.handle.users(None, after, 2).expect("it takes commands")).expect("the cluster answers");
        assert!(page.users.len() <= 2 && page.total == 3, "{page:?}");
        users.extend(page.users);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    users.sort();
    let expected = [("alice", 0), ("bob", 1), ("carol", 1)].map(|(user, server)| (id(user), ServerId(server)));
    assert_eq!(users, expected);
    let of_one = outcome(as1.handle.users(Some(ServerId(0)), None, 10).expect("it takes commands"));
    assert_eq!(of_one.expect("the cluster answers").users, [(id("alice"), ServerId(0))]);

    let inspect = |server: &Server, user| outcome(server.handle.inspect(&id(user)).expect("it takes commands"));
    as1.handle.set_tag(&id("bob"), "table 4").expect("it is short");
    assert_eq!(as1.handle.set_tag(&id("bob"), &"x".repeat(257)), Err(TagError::TooLong));
    // What as1 itself is asked comes behind the tag, and what as0 asks it behind that answer.
    for server in [&as1, &as0] {
        let profile = inspect(server, "bob").expect("his server answers").expect("he is online");
        assert_eq!((profile.server, profile.tag.as_deref()), (ServerId(1), Some("table 4")));
        assert!(profile.address.starts_with("127.0.0.1:"), "{profile:?}");
        assert!(profile.login_age < PATIENCE);
    }
    assert_eq!(inspect(&as0, "zoe"), Ok(None));
}

#[test]
fn server_code_reaches_everyone_and_knows_who_has_a_message() {
    let ([as0, as1], _acms) = two(AppServer::builder);
    let (alice, bob) = (as0.connect("alice"), as1.connect("bob"));
    as0.handle.send_everyone(7, b"closing soon".to_vec()).expect("it takes commands");
    for client in [&alice, &bob] {
        assert_eq!(parts(&next_message(client)), (None, 7, &b"closing soon"[..]));
    }
    let send =
        |user| outcome(as0.handle.send_acked(&id(user), 8, b"you".to_vec(), PATIENCE).expect("it takes commands"));
    assert_eq!(send("bob"), Ok(()));
    assert_eq!(parts(&message(&bob)), (None, 8, &b"you"[..]));
    assert_eq!(send("zoe"), Err(Failure::Bounced(Bounce::Offline)));
}

#[test]
fn who_is_kicked_on_another_server_reads_why_and_stops() {
    let ([as0, as1], _acms) = two(AppServer::builder);
    let bob = as1.connect("bob");
    as0.handle.kick(&id("bob"), "no swearing").expect("it takes commands");
    assert_eq!(stopped(&bob), (CloseCode::KICKED, "no swearing".to_owned()));
}

#[test]
fn a_patience_that_is_longer_than_time_has_no_end() {
    let server = Server::start(AppServer::builder().queries_before_login());
    let answer = query_without_login(&server.addr, ANSWER, b"for a name", Duration::MAX);
    assert_eq!(answer.expect("an answer"), b"nobody asks for a name");
    let alice = Client::builder("alice").patience(Duration::MAX).connect(&server.addr).expect("it lets her in");
    let asked = alice.query(None, ANSWER, b"this".to_vec(), Duration::MAX).expect("it is connected");
    assert_eq!(outcome(asked), Ok(Ok(b"alice asks this".to_vec())));
}

#[test]
fn a_program_registers_before_it_logs_in() {
    let server = Server::start(AppServer::builder().queries_before_login());
    let ask = |info_type| query_without_login(&server.addr, info_type, b"for a name", PATIENCE);
    assert_eq!(ask(ANSWER).expect("an answer"), b"nobody asks for a name");
    assert!(matches!(ask(FAIL), Err(EntryFailure::Query(Failure::Failed(text))) if text == "not today"));
    assert!(matches!(ask(DECLINE), Err(EntryFailure::Query(Failure::NoHandler))));
    let unanswered = query_without_login(&server.addr, KEEP, b"", Duration::from_millis(50));
    assert!(matches!(unanswered, Err(EntryFailure::Query(Failure::TimedOut))));
    let too_big = query_without_login(&server.addr, ANSWER, &[0; 4_081], PATIENCE);
    assert!(matches!(too_big, Err(EntryFailure::Query(Failure::Bounced(Bounce::TooBig)))));

    let closed = Server::start(AppServer::builder());
    let refused = query_without_login(&closed.addr, ANSWER, b"", PATIENCE);
    assert!(matches!(refused, Err(EntryFailure::Closed { code: CloseCode::PROTOCOL, .. })), "{refused:?}");
}

/// Each way in which a session ends has its own state and code at the client.
#[test]
fn each_end_of_a_session_is_told_apart_at_the_client() {
    let ([as0, as1], _acms) = two(AppServer::builder);
    let replaced = as0.connect("alice");
    let newer = as1.connect("alice");
    assert_eq!(stopped(&replaced).0, CloseCode::REPLACED);
    as0.handle.kick(&id("alice"), "bye").expect("it takes commands");
    assert_eq!(stopped(&newer), (CloseCode::KICKED, "bye".to_owned()));

    let interrupted = as1.connect("bob");
    as1.handle.stop();
    match event(&interrupted) {
        Event::State(State::Reconnecting { gone, pause, .. }) => {
            assert_eq!(gone, trunkline::Gone::ClosedByPeer(CloseCode::SHUTDOWN));
            assert!(pause.as_millis() > 0);
        }
        other => panic!("{other:?} does not say that the connection was interrupted"),
    }
}

#[test]
fn server_code_hears_whom_its_messages_did_not_reach_wherever_they_are() {
    for threads in [0, 2] {
        let frames = AtomicUsize::new(1 << 20);
        // The second server's clients take smaller frames than the first's.
        let builder = || {
            let max_frame = frames.swap(64 << 10, Ordering::Relaxed);
            AppServer::builder().friends(Nobody).pool(threads).max_frame(max_frame)
        };
        let ([as0, as1], _acms) = two(builder);
        let (alice, bob) = (as0.connect("alice"), as1.connect("bob"));
        let chess: GroupId = "chess".parse().expect("an id");
        for user in ["alice", "bob"] {
            let added = as0.handle.add_to_group(&id(user), &chess).expect("it takes commands");
            assert_eq!(outcome(added), Ok(()), "{user}");
        }
        let undelivered = |to: Option<&str>, sent, cause| {
            as0.hears(Heard::Undelivered(to.map(str::to_owned), sent, cause));
        };
        let sent = as0.handle.send(&id("nobody"), 7, Vec::new()).expect("it takes commands");
        undelivered(Some("nobody"), sent, Bounce::Offline);
        let big = || vec![b'x'; 100 << 10];
        let sent = as0.handle.send(bob.user(), 7, big()).expect("it takes commands");
        undelivered(Some("bob"), sent, Bounce::TooBig);
        let sent = as0.handle.send(bob.user(), 7, vec![b'x'; 1 << 20]).expect("it takes commands");
        undelivered(Some("bob"), sent, Bounce::TooBig);
        // A member on another server; the one that is here has it.
        let said = as0.handle.broadcast(&chess, 7, big()).expect("it takes commands");
        undelivered(Some("bob"), said, Bounce::TooBig);
        let Event::Member { .. } = event(&alice) else { panic!("she is put in") };
        let Event::Member { .. } = event(&alice) else { panic!("bob is put in") };
        assert!(matches!(event(&alice), Event::GroupMessage { message, .. } if message.id == said));
        let said = as0.handle.broadcast(&chess, 7, vec![b'x'; 1 << 20]).expect("it takes commands");
        undelivered(Some("chess"), said, Bounce::TooBig);
        // A number whose bytes would be a user's name.
        let sent =
            as0.handle.send_to_server(ServerId(u16::from_be_bytes(*b"me")), 7, Vec::new()).expect("it takes commands");
        undelivered(None, sent, Bounce::Offline);
        // What was waited for is told to who waited, and to nobody else.
        let asked = as0.handle.query(&id("nobody"), 7, Vec::new(), PATIENCE).expect("it takes commands");
        assert_eq!(outcome(asked), Err(Failure::Bounced(Bounce::Offline)));
        let sent = as0.handle.send(&id("nobody"), 7, Vec::new()).expect("it takes commands");
        undelivered(Some("nobody"), sent, Bounce::Offline);
    }
}

/// Sends a user to the last server of the cluster, nobody else anywhere, and panics where it is asked of `trap`.
struct Last;

impl Assignment for Last {
    fn choose(&mut self, user: Option<&UserId>, candidates: &[Candidate<'_>]) -> Option<ServerId> {
        assert_ne!(user.map(UserId::as_str), Some("trap"), "a policy of the test's, on purpose");
        user.and(candidates.last()).map(|candidate| candidate.server)
    }
}

#[test]
fn an_application_assigns_by_its_own_policy_and_its_panic_sends_the_user_nowhere() {
    let builder = Acms::builder().directory_grace(Duration::ZERO).own_assignment(Last);
    let management = "127.0.0.1:0".parse().expect("an address");
    let acms = builder.management(management, None).bind("127.0.0.1:0").expect("a port is free");
    let (handle, transfer) = (acms.handle(), acms.local_addr().to_string());
    let url = format!("http://{}", acms.management_addr().expect("it has one"));
    let _acms = Engine { stop: Box::new(acms.stopper()), running: Some(acms.spawn().expect("a thread")) };
    let events = outcome(handle.subscribe(false).expect("it takes commands")).expect("there is room");
    let servers = [0, 1].map(|number| Server::start(AppServer::builder().cluster(member(number, &transfer))));
    let mut synced = 0;
    while synced < servers.len() {
        let event = events.receiver().recv_timeout(PATIENCE).expect("an event");
        synced += usize::from(matches!(event, ClusterEvent::ServerSynced { .. }));
    }
    let assign = |user: Option<&str>| outcome(handle.assign(user.map(id)).expect("it takes commands"));
    let last = || Ok(Assigned { server: ServerId(1), address: servers[1].addr.clone() });
    assert_eq!((assign(Some("alice")), assign(None)), (last(), Err(NoServer::Declined)));
    assert_eq!((assign(Some("trap")), assign(Some("alice"))), (Err(NoServer::Declined), last()));
    // Over HTTP too, which every program asks that is given the cluster manager's address.
    let alice = Client::builder("alice").patience(PATIENCE).connect_via_acms(&url, None).expect("it is let in");
    assert_eq!(alice.welcome().expect("it is in").server, ServerId(1));
    let trapped = Client::builder("trap").start_via_acms(&url, None).expect("it starts");
    let State::NoServer { text, .. } = (match trapped.events().recv_timeout(PATIENCE) {
        Ok(Event::State(state)) => state,
        other => panic!("{other:?}"),
    }) else {
        panic!("it is sent somewhere")
    };
    assert_eq!(text, NoServer::Declined.to_string());
}
