//! Clients that are given the ACMS alone.

use std::collections::VecDeque;

use trunkline::{AppServer, Client, CloseCode, ConnectError, Event, Running, ServerHandle, State};

use crate::PATIENCE;
use crate::cluster::Cluster;
use crate::program::{CHAT, Program};
use crate::responder::{Answer, Responder, json, problem};

/// A server that stands alone, and what an ACMS would say of it.
fn server() -> (ServerHandle, Running, Answer) {
    let server = AppServer::builder().bind("127.0.0.1:0").expect("a port is free");
    let assigned = json(format!(r#"{{"server":0,"address":"{}"}}"#, server.local_addr()));
    (server.handle(), server.spawn().expect("a thread"), assigned)
}

/// Gives these answers in turn, then the last for ever.
fn in_turn(answers: impl IntoIterator<Item = Answer>) -> Responder {
    let mut answers: VecDeque<Answer> = answers.into_iter().collect();
    Responder::start(move |_| {
        if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() }.expect("an answer")
    })
}

fn next_online(client: &Client) -> bool {
    loop {
        if let Event::State(State::Online { resumed, .. }) = client.events().recv_timeout(PATIENCE).expect("an event") {
            return resumed;
        }
    }
}

#[test]
fn a_client_finds_its_server_and_after_a_loss_another() {
    let (first, first_running, at_first) = server();
    let (second, second_running, at_second) = server();
    let busy = problem(503, "no server of the cluster takes new users now");
    let acms = in_turn([busy.clone(), at_first, busy, at_second]);
    let client = Client::builder("alice").connect_via_acms(&acms.url(), Some("s3cret")).expect("a login");
    let question = acms.asked.recv_timeout(PATIENCE).expect("it asked");
    assert_eq!((question.line.as_str(), question.body.as_str()), ("POST /v1/assign", r#"{"user":"alice"}"#));
    assert_eq!(question.authorization.as_deref(), Some("Bearer s3cret"));
    first.stop();
    first_running.join().expect("it ends");
    assert!(next_online(&client));
    client.close().expect("it ends");
    second.stop();
    second_running.join().expect("it ends");
}

#[test]
fn a_client_that_is_refused_an_answer_says_so_at_once() {
    let acms = in_turn([problem(401, "a token is needed")]);
    match Client::builder("alice").connect_via_acms(&acms.url(), None) {
        Err(ConnectError::Refused { code: CloseCode::REFUSED, text }) => assert_eq!(text, "a token is needed"),
        other => panic!("{:?}", other.err()),
    }
}

#[test]
fn a_client_without_an_acms_tries_for_its_patience() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("http://{}", closed.local_addr().expect("it is bound"));
    drop(closed);
    let patience = std::time::Duration::from_millis(300);
    match Client::builder("alice").patience(patience).connect_via_acms(&url, None) {
        Err(ConnectError::TimedOut(last)) => assert!(last.contains(&url) && last.contains("refused"), "{last}"),
        other => panic!("{:?}", other.err()),
    }
}

#[test]
fn an_acms_that_names_no_address_is_asked_again() {
    let (handle, running, assigned) = server();
    let acms = in_turn([json(r#"{"server":0,"address":"as01:6000"}"#), json("[]"), json(""), assigned]);
    let client = Client::builder("alice").connect_via_acms(&acms.url(), None).expect("a login");
    assert_eq!(acms.asked.iter().take(4).count(), 4);
    drop(client);
    handle.stop();
    running.join().expect("it ends");
}

#[test]
fn a_chat_needs_the_acms_alone() {
    let (handle, running, assigned) = server();
    let acms = in_turn([assigned]);
    let mut bob = Program::start(CHAT, &["--acms", &acms.url(), "--user", "bob", "--to", "alice"]);
    bob.stdout.line_with("connected as bob to server 0");
    let mut alice = Program::start(CHAT, &["--acms", &acms.url(), "--user", "alice", "--to", "bob"]);
    alice.write("hello\n");
    alice.stdout.line_with("delivered to bob in");
    bob.stdout.line_with("alice: hello");
    alice.expect_exit(0);
    bob.expect_exit(0);
    handle.stop();
    running.join().expect("it ends");
}

#[test]
fn clients_of_a_server_that_is_lost_find_another_by_the_acms() {
    let mut cluster = Cluster::start();
    let acms = format!("http://{}", cluster.acms.ready("management"));
    let mut chats = ["alice", "bob"].map(|user| Program::start(CHAT, &["--acms", &acms, "--user", user]));
    let servers = chats.each_ref().map(|chat| {
        let line = chat.stdout.line_with("connected as");
        line.trim_end().rsplit(' ').next().and_then(|server| server.parse::<usize>().ok()).expect("a number")
    });
    assert_ne!(servers[0], servers[1], "the second is sent where there are fewer");
    cluster.servers.remove(servers[0]).kill();
    chats[0].stdout.line_with(&format!("again connected as alice to server {}", servers[1]));
    chats[0].write("/to bob\nstill there?\n");
    chats[0].stdout.line_with("delivered to bob in");
    chats[1].stdout.line_with("alice: still there?");
    chats.iter_mut().for_each(|chat| chat.expect_exit(0));
}
