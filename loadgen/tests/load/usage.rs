//! What is asked wrongly, or cannot be done, is told in words; nothing waits for ever.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Socket, Type};

use crate::program::run;

#[track_caller]
fn refuses(line: &str, words: &str) {
    let ended = run(line, &[]);
    assert!(!matches!(ended.code, Some(0) | None), "{ended:?}");
    assert!(ended.stderr.contains(words) && !ended.stderr.contains("panicked"), "{words:?}: {ended:?}");
    assert_eq!(ended.stdout, "");
}

#[test]
fn sizes() {
    for size in ["23", "5..3", "200..100", "24..1048001", "-1"] {
        refuses(&format!("--size={size}"), "for '--size <SIZE>'");
    }
    for size in ["", "24..", "many", "1e3"] {
        refuses(&format!("--size={size}"), "invalid");
    }
}

#[test]
fn other_arguments() {
    refuses(
        "--scenario quarrel",
        "[possible values: pairs, both, random, many-to-one, idle, storm, churn, slow, one-flooder, one-stalled, groups]",
    );
    refuses("--clients 7", "not an even number");
    refuses("--clients 0", "not an even number");
    refuses("--local 0", "'--local <LOCAL>'");
    refuses("--rate 0", "'--rate <RATE>'");
    refuses("--rate 5 --window 5", "cannot be used with");
    refuses("--local 2 --servers 127.0.0.1:6000", "cannot be used with");
    refuses("--duration soon", "'--duration <DURATION>'");
    refuses("--prefix aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "no user's name");
    refuses("--local 2 --pin 0,99999", "there is no processor 99999");
    refuses("--local 2 --report /no/such/directory/page.html", "/no/such/directory/page.html: ");
    refuses("--servers nowhere", "nowhere: ");
    refuses("--local 3 --system floor", "have two servers");
    refuses("--local 2 --system floor --size 100..200", "one size");
}

#[test]
fn a_server_that_does_not_exist() {
    // Bound, so that nobody else gets it, but not listening.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port is free");
    let addr = socket.local_addr().ok().and_then(|addr| addr.as_socket()).expect("it is bound");
    refuses(&format!("--servers {addr}"), &format!("logging in: u0000000 at {addr}: Connection refused"));
}

#[test]
fn a_server_that_says_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let addr = listener.local_addr().expect("it is bound");
    refuses(&format!("--clients 2 --servers {addr} --patience 300ms"), "is not in after 0.3 s");
}

#[test]
fn a_server_of_another_kind() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let addr = listener.local_addr().expect("it is bound");
    let server = std::thread::spawn(move || {
        // Held until both have said something.
        let mut conns = [(); 2].map(|()| listener.accept().expect("a user comes").0);
        conns.iter_mut().for_each(|conn| conn.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").expect("it is connected"));
        conns
    });
    refuses(&format!("--clients 2 --servers {addr}"), "logging in: u000000");
    drop(server.join().expect("both have come"));
}
