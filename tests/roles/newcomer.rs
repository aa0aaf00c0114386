//! What a program may ask before it logs in.

use trunkline::id::ConnId;
use trunkline::role::appserver::{Event, QuerySource, Verdict};
use trunkline::wire::{Bounce, Flags};

use crate::appserver::{Server, alone, alone_with, events, say};
use crate::wire_peer::{BOUNCE, CLIENT_PREFACE, ERROR, LOGIN, PING, PONG, QUERY, REPLY, Raw, WELCOME};

fn server() -> Server {
    alone_with(|config| config.takes_queries_before_login = true)
}

fn opened(server: &mut Server) -> ConnId {
    let conn = server.accept();
    server.feed(conn, CLIENT_PREFACE);
    conn
}

/// The query that the application has to answer.
fn asked(server: &mut Server) -> (QuerySource, u32, Vec<u8>) {
    match events(server).pop() {
        Some(Event::QueryBeforeLogin { conn, addr, info_type, id, body }) => {
            (QuerySource::Stranger { conn, addr, id }, info_type, body.to_vec())
        }
        other => panic!("a query was to come, not {other:?}"),
    }
}

#[test]
fn a_program_asks_and_then_logs_in() {
    let mut server = server();
    let conn = opened(&mut server);
    for id in [5, 6] {
        server.put(conn, Raw::of(QUERY).info(3).id(id).body("I am new"));
        let (source, info_type, body) = asked(&mut server);
        assert_eq!((info_type, &body[..]), (3, &b"I am new"[..]));
        server.put(conn, Raw::of(PING).id(1));
        assert_eq!(server.frame(conn), Raw::of(PONG).id(1));
        server.core.answer_query(server.now, &source, Flags::NONE, b"welcome");
        server.core.answer_query(server.now, &source, Flags::NONE, b"twice");
        server.turn();
        assert_eq!(server.frame(conn), Raw::of(REPLY).id(id).body("welcome"));
    }
    server.put(conn, Raw::of(LOGIN).from("alice"));
    events(&mut server);
    say(&mut server, conn, Verdict::Accept);
    assert_eq!(server.frame(conn).kind, WELCOME);
}

#[test]
fn failures_before_a_login_are_told_apart() {
    let mut server = server();
    let conn = opened(&mut server);
    let ask = |server: &mut Server, answer: &dyn Fn(&mut Server, &QuerySource)| {
        server.put(conn, Raw::of(QUERY).id(5));
        let (source, ..) = asked(server);
        answer(server, &source);
        server.turn();
        server.frame(conn)
    };
    let failed = ask(&mut server, &|server, source| {
        server.core.answer_query(server.now, source, Flags::ERROR, b"name taken");
    });
    assert_eq!(failed, Raw::of(REPLY).flags(ERROR).id(5).body("name taken"));
    let refused = ask(&mut server, &|server, source| server.core.refuse_query(server.now, source, Bounce::NoHandler));
    assert_eq!(refused, Raw::of(BOUNCE).info(7).id(5));
    let largest = 4_096 - 16;
    let fits = ask(&mut server, &|server, source| {
        server.core.answer_query(server.now, source, Flags::NONE, &vec![0; largest]);
    });
    assert_eq!(fits.body.len(), largest);
    let too_big = ask(&mut server, &|server, source| {
        server.core.answer_query(server.now, source, Flags::NONE, &vec![0; largest + 1]);
    });
    assert_eq!(too_big, Raw::of(BOUNCE).info(6).id(5));
}

#[test]
fn without_leave_or_out_of_turn_it_is_a_fault() {
    let query = || Raw::of(QUERY).id(5);
    let mut server = alone();
    let conn = opened(&mut server);
    server.put(conn, query());
    server.closed_with(conn, 1503);

    let mut server = self::server();
    for wrong in [query().to("bob"), query().from("alice"), query().flags(0x02)] {
        let conn = opened(&mut server);
        server.put(conn, wrong);
        server.closed_with(conn, 1503);
    }
    for second in [query(), Raw::of(LOGIN).from("alice")] {
        let conn = opened(&mut server);
        server.put(conn, query());
        server.put(conn, second);
        server.closed_with(conn, 1503);
    }
    let conn = opened(&mut server);
    server.put(conn, Raw::of(LOGIN).from("alice"));
    server.put(conn, query());
    server.closed_with(conn, 1503);
    let conn = opened(&mut server);
    server.put(conn, query().body([0; 4_081]));
    server.closed_with(conn, 1504);
}

#[test]
fn it_lasts_no_longer_than_a_login_may_take() {
    let mut server = server();
    let conn = opened(&mut server);
    server.pass_ms(6_000);
    server.put(conn, Raw::of(QUERY).id(5));
    let (source, ..) = asked(&mut server);
    server.pass_ms(4_100);
    server.closed_with(conn, 1006);
    server.core.answer_query(server.now, &source, Flags::NONE, b"too late");
    assert_eq!(server.core.counters().dropped_unroutable, 1);
}
