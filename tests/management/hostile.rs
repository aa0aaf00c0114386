//! What strangers can do to the port: nothing that a relayed frame would feel.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::cluster::Cluster;
use crate::http::{Events, connect, read_answer, request_with};
use crate::puppet::Puppet;
use crate::{now, until};

/// Connections to the port, at most.
const CONNECTIONS_MAX: usize = 256;

#[test]
fn headers_without_end_are_refused() {
    let cluster = Cluster::of(0);
    let long = "x".repeat(64 << 10);
    assert_eq!(request_with(cluster.management, "GET", "/v1/count", &[("X-Long", &long)], None).status, 431);
    let path = format!("/v1/users/{long}");
    let status = request_with(cluster.management, "GET", &path, &[], None).status;
    assert!([414, 431].contains(&status), "{status}");
    let many: Vec<(String, String)> = (0..1000).map(|number| (format!("X-{number}"), "x".to_owned())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(request_with(cluster.management, "GET", "/v1/count", &many, None).status, 431);
}

#[test]
fn a_body_past_its_bound_is_refused_whether_its_length_is_told_or_not() {
    let cluster = Cluster::of(1);
    let ask = |body: Vec<u8>| request_with(cluster.management, "POST", "/v1/assign", &[], Some(body));
    let filler = |bytes: usize| {
        let mut body = br#"{"user":"bob""#.to_vec();
        body.resize(bytes - 1, b' ');
        body.push(b'}');
        body
    };
    assert_eq!(ask(filler(128 << 10)).status, 200);
    ask(filler((128 << 10) + 1)).problem(413);
    let mut stream = connect(cluster.management);
    let head =
        format!("POST /v1/assign HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n", cluster.management);
    stream.write_all(head.as_bytes()).expect("it reads");
    let chunk = format!("{:x}\r\n{}\r\n", 1 << 10, " ".repeat(1 << 10));
    for _ in 0..129 {
        // It may have answered by then.
        drop(stream.write_all(chunk.as_bytes()));
    }
    read_answer(&mut BufReader::new(stream)).problem(413);
}

#[test]
fn what_is_no_http_is_no_request() {
    let cluster = Cluster::of(0);
    for garbage in [&b"TRNK\x00\x01\x01\x00"[..], b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\r\n\0\r\n\r\n"] {
        let mut stream = connect(cluster.management);
        stream.write_all(garbage).expect("it reads");
        stream.shutdown(std::net::Shutdown::Write).expect("a half-close");
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer));
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400 "), "{}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(cluster.get("/v1/count").status, 200);
}

/// One who begins a request and never ends it has ten seconds.
#[test]
fn a_request_that_does_not_come_to_its_end_is_given_up() {
    let cluster = Cluster::of(0);
    let began = now();
    let starts = [
        "",
        "GET /v1/count HTTP/1.1\r\nHo",
        "POST /v1/assign HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10\r\n\r\n{\"us",
    ];
    let mut streams = starts.map(|start| {
        let mut stream = connect(cluster.management);
        stream.write_all(start.as_bytes()).expect("it reads");
        stream
    });
    for (stream, start) in streams.iter_mut().zip(starts) {
        let mut answer = String::new();
        drop(stream.read_to_string(&mut answer));
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408 "), "{start:?}: {answer}");
    }
    assert!(now() - began >= Duration::from_secs(9), "that was too soon");
}

#[test]
fn those_who_say_nothing_keep_no_operator_out() {
    let cluster = Cluster::of(0);
    let silent: Vec<TcpStream> = (0..2 * CONNECTIONS_MAX).map(|_| connect(cluster.management)).collect();
    for _ in 0..10 {
        assert_eq!(cluster.get("/v1/count").status, 200);
    }
    // The oldest of them had to go for the others.
    let mut first = silent.into_iter().next().expect("there are some");
    assert_eq!(first.read(&mut [0]).expect("an end"), 0);
}

/// Its stream ends once it is 4,096 events behind what the kernel holds for it; nobody waits for it.
#[test]
fn a_subscriber_that_does_not_read_is_dropped() {
    let cluster = Cluster::of(0);
    let mut puppet = Puppet::join(cluster.transfer, 7);
    let events = Events::open(cluster.management, "/v1/events");
    assert_eq!(cluster.metric("trunkline_subscribers"), Some(1));
    let users: Vec<String> = (0..1000).map(|number| format!("{number:064}")).collect();
    let subscribers = || {
        puppet.bind(&users);
        puppet.unbind(&users);
        cluster.metric("trunkline_subscribers")
    };
    until(subscribers, |subscribers| *subscribers == Some(0));
    drop(events);
}

/// And one that reads gets all of it, however much there is.
#[test]
fn a_subscriber_that_reads_misses_nothing() {
    let cluster = Cluster::of(0);
    let mut puppet = Puppet::join(cluster.transfer, 7);
    let mut events = Events::open(cluster.management, "/v1/events");
    let users: Vec<String> = (0..20_000).map(|number| format!("user{number}")).collect();
    for users in users.chunks(1000) {
        puppet.bind(users);
        for user in users {
            assert_eq!(events.next(), ("user_online".to_owned(), json!({"user": user, "server": 7})));
        }
    }
    drop(puppet);
    let (name, data) = events.next();
    assert_eq!((name.as_str(), &data["users"]), ("server_lost", &json!(20_000)), "and none of its users alone");
    Puppet::join(cluster.transfer, 8);
    assert_eq!(events.next().0, "server_registered");
}

/// A pair that sends to and fro across two servers, while the port is stalled and flooded.
#[test]
fn stalled_and_flooding_connections_delay_no_relayed_message() {
    let cluster = Cluster::of(2);
    let (alice, bob) = (cluster.server(0).client("alice"), cluster.server(1).client("bob"));
    let to_bob = "bob".parse().expect("an id");
    let round = || {
        let began = now();
        let sent = alice.send_acked(&to_bob, 7, b"hello".to_vec()).expect("room");
        sent.wait().expect("it runs").expect("it is sent").expect("it arrives");
        // Taken, or his engine would wait for him.
        while bob.events().try_recv().is_ok() {}
        now() - began
    };
    let measure = |rounds: usize| {
        let mut times: Vec<Duration> = (0..rounds).map(|_| round()).collect();
        times.sort_unstable();
        times[rounds / 2]
    };
    measure(100);
    let calm = measure(500);
    let stalled: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = connect(cluster.management);
            stream.write_all(b"GET /v1/servers HTTP/1.1\r\nHo").expect("it reads");
            stream
        })
        .collect();
    let over = Arc::new(AtomicBool::new(false));
    let asked = Arc::new(AtomicU64::new(0));
    let floods: Vec<_> = (0..4)
        .map(|_| {
            let (over, asked, addr) = (Arc::clone(&over), Arc::clone(&asked), cluster.management);
            std::thread::spawn(move || flood(addr, 25, &over, &asked))
        })
        .collect();
    until(|| asked.load(Ordering::Relaxed), |asked| *asked > 500);
    let before = asked.load(Ordering::Relaxed);
    let stormy = measure(500);
    let answered = asked.load(Ordering::Relaxed) - before;
    over.store(true, Ordering::Relaxed);
    for flood in floods {
        flood.join().expect("it ends");
    }
    assert!(answered > 0, "there was no flood");
    // Both share two processors with the flood itself: what is looked at is that nobody waits for the port.
    assert!(stormy < calm * 20 + Duration::from_millis(50), "{calm:?} became {stormy:?}, with {answered} requests");
    drop(stalled);
}

/// Asks on so many connections without a pause, each request as soon as the one before is answered.
fn flood(addr: std::net::SocketAddr, connections: usize, over: &AtomicBool, asked: &AtomicU64) {
    let mut streams: Vec<BufReader<TcpStream>> = (0..connections).map(|_| BufReader::new(connect(addr))).collect();
    let request = format!("GET /v1/users?limit=1000 HTTP/1.1\r\nHost: {addr}\r\n\r\n");
    while !over.load(Ordering::Relaxed) {
        for stream in &mut streams {
            stream.get_mut().write_all(request.as_bytes()).expect("it reads");
        }
        for stream in &mut streams {
            let answer = read_answer(stream);
            assert!([200, 503].contains(&answer.status), "{answer:?}");
            asked.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Assigning is not bounded by what servers say, only by those who do not come.
#[test]
fn who_asks_often_gets_an_answer_each_time() {
    let cluster = Cluster::of(1);
    let mut stream = BufReader::new(connect(cluster.management));
    for number in 0..200 {
        let body = json!({"user": format!("user{number}")}).to_string();
        let (addr, length) = (cluster.management, body.len());
        let head = format!("POST /v1/assign HTTP/1.1\r\nHost: {addr}\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.get_mut().write_all(head.as_bytes()).expect("it reads");
        assert_eq!(read_answer(&mut stream).status, 200);
    }
    assert_eq!(cluster.get("/v1/servers/0").json()["assigned"], 200);
}
