//! The bot of the examples, at work: it is on one server, who talks to it on another.

use trunkline::{Client, Event, GroupId};

use crate::PATIENCE;
use crate::cluster::Cluster;
use crate::engines::{id, outcome, parts};
use crate::program::{Program, TRUNKLINE};

#[expect(dead_code, reason = "its `main` is a program's")]
#[path = "../../examples/bot.rs"]
mod example;

#[test]
fn the_bot_answers_and_greets_users_of_another_server_until_it_is_kicked() {
    let cluster = Cluster::start();
    let [here, there] = cluster.clients();
    let lobby: GroupId = "lobby".parse().expect("an id");
    let client = Client::builder("bot").takes_queries().patience(PATIENCE).connect(there).expect("it is let in");
    let group = lobby.clone();
    let bot = std::thread::spawn(move || example::serve(client, group).map_err(|error| error.to_string()));
    let alice = Client::builder("alice").patience(PATIENCE).connect(here).expect("she is let in");
    let next = || alice.events().recv_timeout(PATIENCE).expect("the bot says something");

    alice.send(Some(&id("bot")), 0, b"hello".to_vec()).expect("it runs");
    match next() {
        Event::Message(message) => assert_eq!(parts(&message), (Some("bot"), 1, &b"you said: hello"[..])),
        other => panic!("{other:?} is no answer"),
    }
    let asked = alice.query(Some(&id("bot")), 0, Vec::new(), PATIENCE).expect("it runs");
    assert_eq!(outcome(asked), Ok(Ok(b"2 answers so far".to_vec())));
    assert_eq!(outcome(alice.join(&lobby).expect("it runs")), Ok(Ok(())));
    match next() {
        Event::GroupMessage { message, .. } => assert_eq!(parts(&message), (Some("bot"), 1, &b"welcome, alice"[..])),
        other => panic!("{other:?} is no welcome"),
    }

    let acms = format!("http://{}", cluster.acms.ready("management"));
    Program::start(TRUNKLINE, &["kick", "bot", "--text", "enough", "--acms", &acms]).expect_exit(0);
    assert_eq!(bot.join().expect("it does not panic"), Err("1510 KICKED: enough".to_owned()));
}
