//! Queries in every direction: who answers, when, and why there is no answer.

use crossbeam_channel::{Receiver, Sender, unbounded};
use trunkline::role::client::QueryFailure as Failure;
use trunkline::{AppServer, AppServerBuilder, Client, Handler, Incoming, Responder, ServerHandle};

use crate::PATIENCE;
use crate::cluster::Cluster;
use crate::engines::{Engine, outcome};
use crate::program::{CHAT, Program};

/// Information types that [`Desk`] tells apart: it keeps a query to be answered elsewhere, or drops it, or declines it.
const KEEP: u32 = 1;
const DROP: u32 = 2;
const DECLINE: u32 = 3;

/// Answers no query by itself.
struct Desk(Sender<Responder>);

impl Handler for Desk {
    fn on_query(&self, _server: &ServerHandle, query: &Incoming<'_>, reply: Responder) {
        match query.info_type {
            KEEP => self.0.send(reply).expect("the test waits for it"),
            DROP => drop(reply),
            _ => reply.decline(),
        }
    }
}

struct Server {
    addr: String,
    kept: Receiver<Responder>,
    _engine: Engine,
}

impl Server {
    fn start(builder: AppServerBuilder) -> Server {
        let (sender, kept) = unbounded();
        let server = builder.handler(Desk(sender)).bind("127.0.0.1:0").expect("a port is free");
        let (addr, handle) = (server.local_addr().to_string(), server.handle());
        let running = Some(server.spawn().expect("a thread"));
        Server { addr, kept, _engine: Engine { stop: Box::new(move || handle.stop()), running } }
    }

    fn connect(&self, user: &str) -> Client {
        Client::builder(user).takes_queries().patience(PATIENCE).connect(&self.addr).expect("the server lets it in")
    }
}

#[test]
fn a_handler_answers_when_it_likes_from_any_thread() {
    for threads in [0, 2] {
        let server = Server::start(AppServer::builder().pool(threads));
        let alice = server.connect("alice");
        let ask = || alice.query(None, KEEP, Vec::new(), PATIENCE).expect("it is connected");
        let (first, second, third) = (ask(), ask(), ask());
        let [to_first, to_second, to_third] = [(); 3].map(|()| server.kept.recv_timeout(PATIENCE).expect("a query"));
        to_third.fail("not today");
        assert_eq!(outcome(third), Ok(Err(Failure::Failed("not today".to_owned()))));
        to_second.fail("");
        assert_eq!(outcome(second), Ok(Err(Failure::Failed("no cause given".to_owned()))));
        std::thread::spawn(move || to_first.send(b"at last".to_vec())).join().expect("it answers");
        assert_eq!(outcome(first), Ok(Ok(b"at last".to_vec())));
    }
}

#[test]
fn a_handler_that_forgets_a_query_failed_and_one_that_declines_is_none() {
    for threads in [0, 2] {
        let server = Server::start(AppServer::builder().pool(threads));
        let alice = server.connect("alice");
        let ask = |info_type| alice.query(None, info_type, Vec::new(), PATIENCE).expect("it is connected");
        assert_eq!(outcome(ask(DROP)), Ok(Err(Failure::Failed("the handler gave no answer".to_owned()))));
        assert_eq!(outcome(ask(DECLINE)), Ok(Err(Failure::NoHandler)));
    }
}

#[test]
fn a_chat_asks_a_user_of_another_server_and_prints_the_answer() {
    let cluster = Cluster::start();
    let [here, there] = cluster.clients().map(|addr| addr.to_string());
    let chat = |addr: &str, user: &str| {
        let program = Program::start(CHAT, &["--server", addr, "--user", user]);
        program.stdout.line_with(&format!("connected as {user}"));
        program
    };
    let (mut alice, mut bob) = (chat(&here, "alice"), chat(&there, "bob"));
    let _takes_none = Client::builder("carol").patience(PATIENCE).connect(&there).expect("the server lets it in");
    bob.write("/answer what?\n");
    bob.stdout.line_with("nobody asks anything");
    alice.write("/ask bob shall we play?\n");
    bob.stdout.line_with("alice asks: shall we play?   (/answer TEXT)");
    bob.write("/answer after lunch\n");
    bob.stdout.line_with("answered alice");
    alice.stdout.line_with("bob answers: after lunch   (after ");
    alice.write("/ask\n/ask dave who?\n/ask carol who?\n/ask bob still there?\n");
    alice.stdout.line_with("/ask NAME TEXT: an id has at least 1 byte");
    alice.stdout.line_with("no answer from dave: not delivered: OFFLINE");
    alice.stdout.line_with("no answer from carol: the receiver answers no such queries");
    bob.stdout.line_with("alice asks: still there?");
    bob.expect_exit(0);
    alice.stdout.line_with("no answer from bob: the receiver failed: the chat was left");
    alice.expect_exit(1);
}
