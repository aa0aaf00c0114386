//! What an operator sees and does.

use serde_json::json;
use trunkline::{CloseCode, Event, Gone, ServerChange, State};

use crate::cluster::Cluster;
use crate::http::{self, Events};
use crate::{PATIENCE, until};

/// Waits for the client's next state that is one of those.
#[track_caller]
fn next_state(client: &trunkline::Client, wanted: impl Fn(&State) -> bool) -> State {
    loop {
        match client.events().recv_timeout(PATIENCE).expect("a state in time") {
            Event::State(state) if wanted(&state) => return state,
            _ => {}
        }
    }
}

#[test]
fn servers_are_listed_with_what_they_say_of_themselves() {
    let cluster = Cluster::of(2);
    let (alice, bob) = (cluster.server(0).client("alice"), cluster.server(1).client("bob"));
    for _ in 0..10 {
        let sent = alice.send_acked(&"bob".parse().expect("an id"), 7, b"hello".to_vec()).expect("room");
        sent.wait().expect("it runs").expect("it is sent").expect("it arrives");
    }
    let servers = until(
        || cluster.get("/v1/servers").json(),
        |servers| [0, 1].iter().all(|place| servers["servers"][place]["frames"].as_u64() >= Some(20)),
    );
    let servers = servers["servers"].as_array().expect("an array");
    for (id, server) in servers.iter().enumerate() {
        assert_eq!(server["server"], id);
        assert_eq!(server["address"], cluster.server(id).clients.to_string());
        assert_eq!((&server["state"], &server["users"], &server["assigned"]), (&json!("open"), &json!(1), &json!(0)));
        assert!(server["bytes"].as_u64() >= Some(20 * 20), "{server}");
        assert!(server["incarnation"].as_u64() > Some(1_600_000_000_000), "{server}");
        let alone = cluster.get(&format!("/v1/servers/{id}"));
        assert_eq!((alone.status, &alone.json()["address"]), (200, &server["address"]));
    }
    assert_eq!(cluster.get("/v1/count").json(), json!({"users": 2, "servers": 2}));
    drop((alice, bob));
}

#[test]
fn a_server_that_is_not_there_is_not_found() {
    let cluster = Cluster::of(1);
    assert_eq!(cluster.get("/v1/servers/7").problem(404), "server 7 is not registered");
    for change in ["freeze", "unfreeze", "drain", "remove"] {
        assert_eq!(cluster.post(&format!("/v1/servers/7/{change}"), None).problem(404), "server 7 is not registered");
    }
    for id in ["65535", "-1", "+1", "01", "x", "%FF"] {
        cluster.get(&format!("/v1/servers/{id}")).problem(400);
    }
    assert_eq!(cluster.get("/v2").problem(404), "there is no such path");
    assert_eq!(cluster.post("/v1/servers", None).problem(405), "the path does not take that method");
}

#[test]
fn a_frozen_server_is_sent_nobody_until_it_is_unfrozen() {
    let cluster = Cluster::of(2);
    assert_eq!(cluster.post("/v1/servers/0/freeze", None).status, 204);
    assert_eq!(cluster.state_of(0).as_deref(), Some("frozen"));
    for _ in 0..4 {
        assert_eq!(cluster.post("/v1/assign", None).json()["server"], 1);
    }
    assert_eq!(cluster.get("/v1/servers/1").json()["assigned"], 4);
    assert_eq!(cluster.post("/v1/servers/0/unfreeze", None).status, 204);
    assert_eq!(cluster.state_of(0).as_deref(), Some("open"));
    let assigned = cluster.post("/v1/assign", Some(&json!({"user": "zoë"}))).json();
    assert_eq!(assigned, json!({"server": 0, "address": cluster.server(0).clients.to_string()}));
    let again = cluster.post("/v1/assign", Some(&json!({"user": "zoë"}))).json();
    assert_eq!(again, assigned, "who asks again is sent to the same server");
}

/// A freeze outlives the registration: it can be seen and ended before the server is back.
#[test]
fn a_frozen_server_that_is_away_is_seen_and_unfrozen() {
    let mut cluster = Cluster::of(2);
    assert_eq!(cluster.post("/v1/servers/0/freeze", None).status, 204);
    assert_eq!(cluster.get("/v1/servers").json()["frozen_away"], json!([]));
    cluster.stop_server(0);
    let away = until(|| cluster.get("/v1/servers").json(), |all| all["frozen_away"] == json!([0]));
    assert_eq!(away["servers"].as_array().map(Vec::len), Some(1));
    cluster.get("/v1/servers/0").problem(404);
    cluster.post("/v1/servers/0/freeze", None).problem(404);
    cluster.post("/v1/servers/0/drain", None).problem(404);
    assert_eq!(cluster.post("/v1/servers/0/unfreeze", None).status, 204);
    assert_eq!(cluster.get("/v1/servers").json()["frozen_away"], json!([]));
    assert_eq!(cluster.post("/v1/servers/0/unfreeze", None).problem(404), "server 0 is not registered");
    cluster.add(0);
    assert_eq!(cluster.state_of(0).as_deref(), Some("open"));
}

#[test]
fn nobody_is_assigned_where_no_server_takes_users() {
    let cluster = Cluster::of(0);
    assert_eq!(cluster.post("/v1/assign", None).problem(503), "no server is in the cluster");
    for body in [json!([]), json!({"usr": "bob"}), json!({"user": 7}), json!({"user": ""}), json!({"user": "a\nb"})] {
        cluster.post("/v1/assign", Some(&body)).problem(400);
    }
}

#[test]
fn a_server_that_is_to_drain_sends_its_users_to_the_others_and_stops() {
    let mut cluster = Cluster::of(2);
    let alice = cluster.server(0).client("alice");
    assert_eq!(cluster.post("/v1/servers/0/drain", None).status, 204);
    cluster.join(0);
    let moved = |state: &State| matches!(state, State::Reconnecting { gone: Gone::ClosedByPeer(CloseCode::MOVE), .. });
    next_state(&alice, moved);
    next_state(&alice, |state| matches!(state, State::Online { .. }));
    let servers = until(|| cluster.get("/v1/servers").json(), |servers| servers["servers"][0]["users"] == 1);
    assert_eq!(servers["servers"][0]["server"], 1);
}

#[test]
fn a_server_that_is_removed_does_not_come_back() {
    let cluster = Cluster::of(2);
    let alice = cluster.server(0).client("alice");
    let mut events = Events::open(cluster.management, "/v1/events");
    assert_eq!(cluster.post("/v1/servers/0/remove", None).status, 204);
    assert_eq!(events.next(), ("server_lost".into(), json!({"server": 0, "users": 1, "cause": "closed 1510 KICKED"})));
    until(|| cluster.server(0).metric("trunkline_cluster_up"), |up| *up == Some(0));
    assert_eq!(cluster.get("/v1/count").json(), json!({"users": 0, "servers": 1}));
    assert_eq!(cluster.server(0).metric("trunkline_users"), Some(1), "it goes on with its users");
    drop(alice);
}

#[test]
fn a_user_is_kicked_from_whatever_server() {
    let cluster = Cluster::of(2);
    let bob = cluster.server(1).client("bob");
    assert_eq!(cluster.delete("/v1/users/bob?text=not%20here").status, 204);
    let stopped = next_state(&bob, |state| matches!(state, State::Stopped { .. }));
    let State::Stopped { code, text } = stopped else { unreachable!("it was looked for") };
    assert_eq!((code, text.as_str()), (CloseCode::KICKED, "not here"));
    cluster.delete(&format!("/v1/users/bob?text={}", "x".repeat(513))).problem(400);
    until(|| cluster.delete("/v1/users/bob").status, |status| *status == 404);
    assert_eq!(cluster.delete("/v1/users/bob").problem(404), "bob is not online");
    cluster.delete(&format!("/v1/users/{}", "x".repeat(65))).problem(400);
}

/// A cluster manager that has just started does not know yet who is where.
#[test]
fn who_is_not_found_may_be_online_until_the_directory_is_complete() {
    let cluster = Cluster::with(None, std::time::Duration::from_secs(3600));
    cluster.delete("/v1/users/bob").problem(503);
}

#[test]
fn users_are_paged_each_once() {
    let cluster = Cluster::of(2);
    let clients: Vec<_> =
        (0..20).map(|number| cluster.server(number % 2).client(&format!("user{number:02}"))).collect();
    let page_through = |filter: &str| {
        let mut users = Vec::new();
        let mut after = String::new();
        loop {
            let page = cluster.get(&format!("/v1/users?limit=3{filter}{after}")).json();
            assert_eq!(page["total"], 20);
            let found = page["users"].as_array().expect("an array");
            assert!(found.len() <= 3);
            users.extend(found.iter().map(|user| user["user"].as_str().expect("a text").to_owned()));
            let Some(next) = page["next"].as_str() else { break };
            after = format!("&after={next}");
        }
        users.sort_unstable();
        users
    };
    let all: Vec<String> = (0..20).map(|number| format!("user{number:02}")).collect();
    assert_eq!(page_through(""), all);
    let odd: Vec<String> = (0..10).map(|number| format!("user{:02}", 2 * number + 1)).collect();
    assert_eq!(page_through("&server=1"), odd);
    assert_eq!(page_through("&server=9"), Vec::<String>::new());
    for bad in ["limit=0", "limit=1001", "limit=x", "server=x", "server=65535", "after=x", "limit=1&limit=2", "page=1"]
    {
        cluster.get(&format!("/v1/users?{bad}")).problem(400);
    }
    drop(clients);
}

#[test]
fn events_tell_of_servers_and_users() {
    let mut cluster = Cluster::of(1);
    let mut all = Events::open(cluster.management, "/v1/events");
    let mut of_servers = Events::open(cluster.management, "/v1/events?users=false");
    let alice = cluster.server(0).client("alice");
    assert_eq!(all.next(), ("user_online".into(), json!({"user": "alice", "server": 0})));
    drop(alice);
    assert_eq!(all.next(), ("user_offline".into(), json!({"user": "alice", "server": 0})));
    cluster.add(1);
    for events in [&mut all, &mut of_servers] {
        let (name, data) = events.next();
        assert_eq!((name.as_str(), &data["server"]), ("server_registered", &json!(1)));
        assert_eq!(data["address"], cluster.server(1).clients.to_string());
        assert_eq!(events.next(), ("server_synced".into(), json!({"server": 1, "users": 0})));
    }
    cluster.stop_acms();
    assert!(of_servers.drain().is_ok(), "the stream ends with the cluster manager");
}

#[test]
fn an_embedder_has_the_same_as_calls() {
    let cluster = Cluster::of(2);
    let handle = cluster.handle();
    let subscription = handle.subscribe(true).expect("room").wait().expect("it runs").expect("room");
    let bob = cluster.server(1).client("bob");
    let event = subscription.receiver().recv_timeout(PATIENCE).expect("an event");
    let (user, server) = ("bob".parse().expect("an id"), trunkline::ServerId(1));
    assert_eq!(event, trunkline::ClusterEvent::UserOnline { user, server });
    let servers = handle.servers().expect("room").wait().expect("it runs");
    assert_eq!(servers.iter().map(|view| (view.server.0, view.users)).collect::<Vec<_>>(), [(0, 0), (1, 1)]);
    assert!(handle.change(server, ServerChange::Freeze).expect("room").wait().expect("it runs"));
    let assigned = handle.assign(None).expect("room").wait().expect("it runs").expect("a server");
    assert_eq!(assigned.server.0, 0);
    let page = handle.users(None, None, 10).expect("room").wait().expect("it runs");
    assert_eq!((page.users.len(), page.next), (1, None));
    assert_eq!(handle.kick("bob".parse().expect("an id"), "enough").expect("room").wait().expect("it runs"), Ok(()));
    assert_eq!(handle.vitals().expect("room").wait().expect("it runs").servers, 2);
    drop(bob);
}

#[test]
fn both_roles_tell_their_health_and_what_they_measure() {
    let cluster = Cluster::of(1);
    let alice = cluster.server(0).client("alice");
    for addr in [cluster.management, cluster.server(0).management] {
        let health = http::request(addr, "GET", "/healthz", None);
        assert_eq!((health.status, health.text()), (200, "ok"));
        http::request(addr, "GET", "/nothing", None).problem(404);
    }
    assert_eq!(cluster.metric("trunkline_users"), Some(1));
    assert_eq!(cluster.metric("trunkline_servers"), Some(1));
    assert_eq!(cluster.metric(r#"trunkline_server_state{server="0",state="open"}"#), Some(1));
    assert_eq!(cluster.server(0).metric("trunkline_users"), Some(1));
    until(|| cluster.server(0).metric("trunkline_cluster_up"), |up| *up == Some(1));
    http::request(cluster.server(0).management, "GET", "/v1/servers", None).problem(404);
    drop(alice);
}

#[track_caller]
fn next_message(client: &trunkline::Client) -> (u32, String) {
    loop {
        let event = client.events().recv_timeout(PATIENCE).expect("a message in time");
        if let Event::Message(message) = event {
            assert_eq!(message.from, None, "a server's");
            return (message.info_type, String::from_utf8(message.body).expect("a text"));
        }
    }
}

#[test]
fn an_operator_speaks_to_users_and_hears_what_came_of_it() {
    let cluster = Cluster::of(2);
    let (alice, bob) = (cluster.server(0).client("alice"), cluster.server(1).client("bob"));
    let say =
        |to: serde_json::Value| cluster.post("/v1/messages", Some(&json!({"to": to, "info_type": 7, "body": "hi"})));
    let answer = say(json!({"user": "bob"}));
    assert_eq!((answer.status, answer.json()), (200, json!({"outcome": "delivered"})));
    assert_eq!(next_message(&bob), (7, "hi".to_owned()));
    assert_eq!(say(json!({"user": "nobody"})).json(), json!({"outcome": "bounced", "cause": "offline"}));
    assert_eq!(say(json!("everyone")).status, 202);
    for client in [&alice, &bob] {
        assert_eq!(next_message(client), (7, "hi".to_owned()));
    }
    say(json!({"group": "nobody's"})).problem(404);
    for bad in [json!({"user": ""}), json!({"user": "a", "group": "b"}), json!("someone"), json!({"server": 65_535})] {
        say(bad).problem(400);
    }
    let both = json!({"to": {"user": "bob"}, "body": "a", "body_base64": "YQ=="});
    cluster.post("/v1/messages", Some(&both)).problem(400);
    let long = json!({"to": {"user": "bob"}, "body": "x".repeat((64 << 10) + 1)});
    cluster.post("/v1/messages", Some(&long)).problem(413);
}

#[test]
fn an_operator_asks_a_servers_handler() {
    let cluster = Cluster::of(2);
    let alice = cluster.server(0).client("alice");
    let ask = |info_type: u32| {
        let message =
            json!({"to": {"server": 1}, "info_type": info_type, "body": "how?", "answer": true, "timeout_ms": 300});
        cluster.post("/v1/messages", Some(&message))
    };
    let answer = ask(1);
    assert_eq!((answer.status, answer.json()["body"].as_str()), (200, Some("how?")));
    assert_eq!(ask(2).json()["body_base64"], "/wA=");
    assert_eq!(ask(3).problem(502), "the handler failed: tired");
    assert_eq!(ask(4).problem(504), "nothing came back in time");
    assert_eq!(ask(5).problem(404), "the server has no handler for it");
    let absent = json!({"to": {"server": 9}, "answer": true});
    cluster.post("/v1/messages", Some(&absent)).problem(404);
    let message = json!({"to": {"server": 1}, "info_type": 8, "body": "alice"});
    assert_eq!(cluster.post("/v1/messages", Some(&message)).status, 202);
    assert_eq!(next_message(&alice), (8, "from your server".to_owned()), "the handler of another server sent it on");
}

#[test]
fn a_group_over_two_servers_is_seen_and_spoken_to() {
    let cluster = Cluster::of(2);
    let (alice, bob) = (cluster.server(0).client("alice"), cluster.server(1).client("bob"));
    let chess: trunkline::GroupId = "chess".parse().expect("an id");
    for client in [&alice, &bob] {
        client.join(&chess).expect("room").wait().expect("it runs").expect("it is sent").expect("all may join");
    }
    let members = json!([{"user": "alice", "server": 0}, {"user": "bob", "server": 1}]);
    let group = until(|| cluster.get("/v1/groups/chess").json(), |group| group["members"] == members);
    assert_eq!(group, json!({"group": "chess", "members": members, "complete": true}));
    cluster.get("/v1/groups/go").problem(404);
    let message = json!({"to": {"group": "chess"}, "info_type": 7, "body": "your move"});
    assert_eq!(cluster.post("/v1/messages", Some(&message)).status, 202);
    for client in [&alice, &bob] {
        let message = next_in_group(client, &chess);
        assert_eq!((message.from, message.info_type, &message.body[..]), (None, 7, &b"your move"[..]));
    }
}

#[track_caller]
fn next_in_group(client: &trunkline::Client, of: &trunkline::GroupId) -> trunkline::Message {
    loop {
        match client.events().recv_timeout(PATIENCE).expect("a message in time") {
            Event::GroupMessage { group, message } if group == *of => return message,
            _ => {}
        }
    }
}

#[test]
fn a_user_is_known_by_its_server() {
    let cluster = Cluster::of(2);
    let bob = cluster.server(1).client("bob");
    let known = cluster.get("/v1/users/bob").json();
    assert_eq!((&known["user"], &known["server"], &known["tag"]), (&json!("bob"), &json!(1), &json!(null)));
    assert!(known["address"].as_str().expect("a text").starts_with("127.0.0.1:"), "{known}");
    assert!(known["login_seconds"].as_u64() < Some(60), "{known}");
    cluster.server(1).handle.set_tag(&"bob".parse().expect("an id"), "table 4").expect("it is short");
    until(|| cluster.get("/v1/users/bob").json(), |known| known["tag"] == "table 4");
    assert_eq!(cluster.get("/v1/users/alice").problem(404), "alice is not online");
    drop(bob);
}
