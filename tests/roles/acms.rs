//! The cluster manager alone, between servers that are scripts.
//!
//! Long for its list: every rule of registration, bindings and relaying has its own named test.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use siphasher::sip::SipHasher13;
use std::hash::Hasher;
use trunkline::id::{ConnId, ServerId};
use trunkline::limits;
use trunkline::link::End;
use trunkline::role::acms::{Acms, Assigned, Config, Event, NoServer, Policy};
use trunkline::role::{Core, Gone};
use trunkline::time::{Span, Time};
use trunkline::wire::CloseCode;

use crate::wire_peer::{
    ACK, BIND, BOUNCE, BURST_BEGIN, CHALLENGE, CLAIM, CLAIMED, CLIENT_PREFACE, CLOSE, DATA, DIGEST, DRAIN, FOUND, KICK,
    LOGIN, LOOKUP, PING, PONG, PROVE, QUERY, REGISTER, REGISTERED, REPLY, RESYNC, Raw, SERVER_PREFACE, SERVERS, STATE,
    SYNCED, Seam, UNBIND,
};

pub(crate) type Hub = Seam<Acms>;

const START: Time = Time::from_micros(1_000_000);
const EPOCH: u64 = 4;
const NONCE: [u8; 32] = [5; 32];

pub(crate) fn hub_with(change: impl FnOnce(&mut Config)) -> Hub {
    let mut config = Config {
        cluster: "demo".to_owned(),
        secret: Vec::new(),
        epoch: EPOCH,
        connections_max: 1000,
        memory_max: usize::MAX,
        policy: Policy::default(),
        directory_grace: Span::default(),
        seed: [2; 32],
    };
    change(&mut config);
    Seam::new(START, Acms::new(START, config))
}

pub(crate) fn hub() -> Hub {
    hub_with(|_| {})
}

/// HMAC-SHA256 over what docs/PROTOCOL.md, section 15, lists; `who` is 0 for the server's proof, 1 for the ACMS's.
#[expect(clippy::too_many_arguments, reason = "a proof covers that many things")]
pub(crate) fn proof(
    secret: &[u8],
    who: u8,
    cluster: &str,
    server: u16,
    incarnation: u64,
    epoch: u64,
    acms_nonce: &[u8],
    server_nonce: &[u8],
) -> Vec<u8> {
    let mut bytes = b"trunkline link\x01".to_vec();
    bytes.push(who);
    bytes.extend((cluster.len() as u64).to_be_bytes());
    bytes.extend(cluster.as_bytes());
    bytes.extend(server.to_be_bytes());
    bytes.extend(incarnation.to_be_bytes());
    bytes.extend(epoch.to_be_bytes());
    bytes.extend([acms_nonce, server_nonce].concat());
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("a key of any length");
    mac.update(&bytes);
    mac.finalize().into_bytes().to_vec()
}

/// A connection that was challenged, and the challenge's nonce.
fn challenged(hub: &mut Hub) -> (ConnId, Vec<u8>) {
    let conn = hub.accept();
    hub.feed(conn, SERVER_PREFACE);
    let challenge = hub.frame(conn);
    assert_eq!((challenge.kind, challenge.id, challenge.body.len()), (CHALLENGE, EPOCH, 32));
    (conn, challenge.body)
}

fn prove(server: u16, incarnation: u64, proof: &[u8]) -> Raw {
    Raw::of(PROVE).info(server.into()).id(incarnation).to("demo").body([&NONCE, proof].concat())
}

pub(crate) fn register(address: &str, previous_epoch: u64, peers: &str) -> Raw {
    let body = format!(
        r#"{{"address":"{address}","capacity":10,"previous_epoch":{previous_epoch},"peers":[{peers}],"later":1}}"#
    );
    Raw::of(REGISTER).body(body)
}

/// Up to REGISTER, on a cluster without a secret.
pub(crate) fn registering(hub: &mut Hub, server: u16, incarnation: u64, register: &Raw) -> ConnId {
    let (conn, _) = challenged(hub);
    hub.put(conn, prove(server, incarnation, &[0; 32]));
    hub.silent(conn);
    hub.put(conn, register.clone());
    conn
}

/// Forgets what was written so far.
pub(crate) fn drain(hub: &mut Hub) {
    hub.wires.values_mut().for_each(|wire| wire.got.clear());
}

/// A registered server that has told of no user yet.
pub(crate) fn unsynced(hub: &mut Hub, server: u16) -> ConnId {
    let conn = registering(hub, server, 1, &register(&format!("10.0.0.{server}:6000"), 0, ""));
    assert_eq!(hub.next(conn), Raw::of(REGISTERED).id(EPOCH));
    drain(hub);
    conn
}

/// A registered server without users.
pub(crate) fn member(hub: &mut Hub, server: u16) -> ConnId {
    let conn = unsynced(hub, server);
    hub.put(conn, Raw::of(BURST_BEGIN));
    hub.put(conn, Raw::of(SYNCED));
    hub.silent(conn);
    conn
}

/// The CLAIM of a login of this moment, under the policy that replaces the older one.
pub(crate) fn claim(session: u64, user: &str) -> Raw {
    aged_claim(session, 0, user)
}

fn aged_claim(session: u64, age: u64, user: &str) -> Raw {
    Raw::of(CLAIM).id(session).from(user).body(age.to_be_bytes())
}

/// The server has the answer that the session may open.
#[track_caller]
fn is_claimed(hub: &mut Hub, conn: ConnId, session: u64, user: &str) {
    assert_eq!(hub.frame(conn), Raw::of(CLAIMED).id(session).to(user));
}

/// A login, from its claim to its confirmation.
#[track_caller]
pub(crate) fn log_in(hub: &mut Hub, conn: ConnId, user: &str, session: u64) {
    hub.put(conn, claim(session, user));
    is_claimed(hub, conn, session, user);
    hub.put(conn, bind(&[(session, 0, user)]));
}

/// Two servers, `alice` on the first and `bob` on the second, each with session 1.
pub(crate) fn two_with_users(hub: &mut Hub) -> (ConnId, ConnId) {
    let (a, b) = (member(hub, 1), member(hub, 2));
    log_in(hub, a, "alice", 1);
    log_in(hub, b, "bob", 1);
    (a, b)
}

fn data(from: &str, to: &str, id: u64) -> Raw {
    Raw::of(DATA).info(7).id(id).to(to).from(from).body(b"hi")
}

/// The body of a BIND: session, age in milliseconds, user.
pub(crate) fn bind(entries: &[(u64, u64, &str)]) -> Raw {
    let mut body = Vec::new();
    for (session, age, user) in entries {
        body.extend(session.to_be_bytes());
        body.extend(age.to_be_bytes());
        body.push(user.len() as u8);
        body.extend(user.as_bytes());
    }
    Raw::of(BIND).body(body)
}

/// What LOOKUP says of a user: the server, or the bounce code.
fn found(hub: &mut Hub, conn: ConnId, user: &str) -> Result<u16, u32> {
    hub.put(conn, Raw::of(LOOKUP).id(99).to(user));
    let found = hub.frame(conn);
    assert_eq!((found.kind, found.id, &found.from[..]), (FOUND, 99, user.as_bytes()));
    let server = hub.core.locate(user.as_bytes());
    if found.info != 0 {
        assert_eq!((found.body.len(), server), (0, None));
        return Err(found.info);
    }
    let number = u16::from_be_bytes(found.body.try_into().expect("two bytes"));
    assert_eq!(server, Some(ServerId(number)));
    Ok(number)
}

/// Time passes while every server shows that it lives.
fn pass_alive(hub: &mut Hub, members: &[ConnId], millis: u64) {
    let mut left = millis;
    while left > 0 {
        members.iter().for_each(|conn| hub.put(*conn, Raw::of(PONG)));
        hub.pass_ms(left.min(500));
        left = left.saturating_sub(500);
    }
    for conn in members {
        assert!(hub.frames(*conn).iter().all(|frame| frame.kind == PING));
    }
}

fn events(hub: &mut Hub) -> Vec<Event> {
    std::iter::from_fn(|| hub.core.poll_event()).collect()
}

fn secret_hub() -> Hub {
    hub_with(|config| config.secret = b"secret".to_vec())
}

// Registration.

#[test]
fn a_registration_without_a_secret() {
    let mut hub = hub();
    let conn = registering(&mut hub, 1, 7, &register("10.0.0.1:6000", 0, ""));
    let servers = r#"{"servers":[{"server":1,"address":"10.0.0.1:6000"}]}"#;
    assert_eq!(hub.frames(conn), [Raw::of(REGISTERED).id(EPOCH), Raw::of(SERVERS).body(servers)]);
    assert_eq!(
        events(&mut hub),
        [Event::Registered { conn, server: ServerId(1), address: "10.0.0.1:6000".to_owned(), incarnation: 7 }]
    );
    let other = registering(&mut hub, 2, 7, &register("10.0.0.2:6000", 0, ""));
    let both = r#"{"servers":[{"server":1,"address":"10.0.0.1:6000"},{"server":2,"address":"10.0.0.2:6000"}]}"#;
    assert_eq!(hub.frame(conn), Raw::of(SERVERS).body(both), "the others hear of it");
    assert_eq!(hub.frames(other)[1], Raw::of(SERVERS).body(both));
    hub.reset(other);
    assert_eq!(hub.frame(conn), Raw::of(SERVERS).body(servers));
}

#[test]
fn a_registration_with_a_secret() {
    let mut hub = secret_hub();
    let (conn, nonce) = challenged(&mut hub);
    let own = proof(b"secret", 0, "demo", 1, 7, EPOCH, &nonce, &NONCE);
    hub.put(conn, prove(1, 7, &own));
    hub.silent(conn);
    hub.put(conn, register("10.0.0.1:6000", 0, ""));
    let acms = proof(b"secret", 1, "demo", 1, 7, EPOCH, &nonce, &NONCE);
    assert_eq!(hub.next(conn), Raw::of(REGISTERED).id(EPOCH).body(acms));
    assert_eq!(hub.core.server_count(), 1);
}

#[test]
fn the_proof_of_the_documents_example() {
    let hex = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let proof = |who| hex(proof(b"secret", who, "demo", 1, 2, 3, &[4; 32], &[5; 32]));
    assert_eq!(proof(0), "c427b8f67f2320634cb82769eb18147bb335caf9a735cfd960848b52569ca0bc");
    assert_eq!(proof(1), "575b246749cf1ddacc4557b27f89003454befa6d89bd52b7e21ccb80dd1ae363");
}

#[test]
fn no_cause_of_refusal_reveals_anything() {
    let mut texts = Vec::new();
    let mut refused = |what: &str, spoil: &dyn Fn(&[u8]) -> Raw| {
        let mut hub = secret_hub();
        let (conn, nonce) = challenged(&mut hub);
        hub.put(conn, spoil(&nonce));
        let (code, text) = hub.closed(conn);
        assert_eq!(code, 1513, "{what}");
        assert_eq!(hub.core.server_count(), 0, "{what}");
        texts.push(text);
    };
    let right = |nonce: &[u8]| proof(b"secret", 0, "demo", 1, 7, EPOCH, nonce, &NONCE);
    refused("wrong secret", &|nonce| prove(1, 7, &proof(b"guess", 0, "demo", 1, 7, EPOCH, nonce, &NONCE)));
    refused("no proof", &|_| prove(1, 7, &[0; 32]));
    refused("another server's number", &|nonce| prove(2, 7, &right(nonce)));
    refused("another incarnation", &|nonce| prove(1, 8, &right(nonce)));
    refused("another epoch", &|nonce| prove(1, 7, &proof(b"secret", 0, "demo", 1, 7, EPOCH - 1, nonce, &NONCE)));
    refused("the ACMS's own proof", &|nonce| prove(1, 7, &proof(b"secret", 1, "demo", 1, 7, EPOCH, nonce, &NONCE)));
    refused("another cluster, rightly proven for it", &|nonce| {
        prove(1, 7, &proof(b"secret", 0, "other", 1, 7, EPOCH, nonce, &NONCE)).to("other")
    });
    refused("another cluster's name on a proof for this one", &|nonce| prove(1, 7, &right(nonce)).to("other"));
    refused("no cluster name", &|nonce| prove(1, 7, &right(nonce)).to(""));
    refused("a proof cut short", &|nonce| prove(1, 7, &right(nonce)[..31]));
    refused("a proof and more", &|nonce| prove(1, 7, &[&right(nonce)[..], &[0]].concat()));
    refused("a server number of 17 bits", &|nonce| prove(1, 7, &right(nonce)).info(0x1_0001));
    texts.dedup();
    assert_eq!(texts.len(), 1, "{texts:?}");
    let mut open = hub();
    let (conn, _) = challenged(&mut open);
    open.put(conn, prove(1, 7, &[0; 32]).to("other"));
    assert_eq!(open.closed(conn), (1513, texts.remove(0)));
}

#[test]
fn a_proof_is_good_for_one_connection() {
    let mut hub = secret_hub();
    let (conn, nonce) = challenged(&mut hub);
    let recorded = prove(1, 7, &proof(b"secret", 0, "demo", 1, 7, EPOCH, &nonce, &NONCE));
    hub.put(conn, recorded.clone());
    hub.put(conn, register("10.0.0.1:6000", 0, ""));
    hub.reset(conn);
    let (again, other_nonce) = challenged(&mut hub);
    assert_ne!(nonce, other_nonce);
    hub.put(again, recorded);
    hub.closed_with(again, 1513);
}

#[test]
fn nothing_is_written_into_tls() {
    let mut hub = hub();
    let conn = hub.accept();
    hub.feed(conn, b"\x16\x03\x01\x02\0\x01\0\x01");
    assert!(hub.wire(conn).dropped && hub.wire(conn).got.is_empty());
    assert_eq!(hub.core.counters().wrong_port, 1);
}

#[test]
fn what_a_stranger_says_wrong_has_its_code() {
    let cases: Vec<(u32, Vec<u8>)> = vec![
        (1500, b"garbage!".to_vec()),
        (1501, CLIENT_PREFACE.to_vec()),
        (1501, b"GET / HTTP/1.1\r\n".to_vec()),
        (1502, b"TRNK\x01\x02\x03\0".to_vec()),
        (1505, b"TRNK\x02\x01\x01\0".to_vec()),
        (1503, [&SERVER_PREFACE[..], &register("10.0.0.1:6000", 0, "").bytes()].concat()),
        (1503, [&SERVER_PREFACE[..], &Raw::of(LOGIN).from("alice").bytes()].concat()),
        (1503, [&SERVER_PREFACE[..], &data("alice", "bob", 1).bytes()].concat()),
        (1503, [&SERVER_PREFACE[..], &Raw::of(CLAIM).from("alice").bytes()].concat()),
        (1504, [&SERVER_PREFACE[..], b"\0\0\x10\x01"].concat()),
    ];
    for (code, bytes) in cases {
        let mut hub = hub();
        let conn = hub.accept();
        hub.feed(conn, &bytes);
        let frames = hub.frames(conn);
        let close = frames.last().expect("CLOSE");
        assert_eq!((close.kind, close.info), (CLOSE, code), "{bytes:02x?}: {close:?}");
    }
    let mut hub = hub();
    let (conn, _) = challenged(&mut hub);
    hub.put(conn, prove(1, 7, &[0; 32]));
    hub.put(conn, Raw::of(REGISTER).body("{}"));
    hub.closed_with(conn, 1505);
}

#[test]
fn a_stranger_that_reads_nothing_is_slow() {
    let mut hub = hub();
    let (conn, _) = challenged(&mut hub);
    hub.stall(conn);
    hub.feed(conn, Raw::of(PING).id(5).bytes().repeat(52));
    assert_eq!(hub.core.links().get(conn).map(|link| link.queue().len()), Some(1_040), "52 PONGs wait");
    hub.put(conn, Raw::of(PING).id(6));
    hub.unstall(conn);
    let frames = hub.frames(conn);
    assert_eq!(frames[..52], vec![Raw::of(PONG).id(5); 52]);
    assert_eq!((frames.len(), frames[52].kind, frames[52].info), (53, CLOSE, 1002));
}

#[test]
fn the_longest_address_is_told_to_all_and_no_longer_one() {
    let mut hub = hub();
    let longest = "a".repeat(259);
    let conn = registering(&mut hub, 1, 7, &register(&longest, 0, ""));
    let servers = format!(r#"{{"servers":[{{"server":1,"address":"{longest}"}}]}}"#);
    assert_eq!(hub.frames(conn), [Raw::of(REGISTERED).id(EPOCH), Raw::of(SERVERS).body(servers)]);
    let other = registering(&mut hub, 2, 7, &register(&"a".repeat(260), 0, ""));
    hub.closed_with(other, 1505);
    hub.silent(conn);
}

#[test]
fn what_a_member_says_wrong_has_its_code() {
    let cases = [
        (1503, register("10.0.0.1:6000", 0, "")),
        (1503, prove(1, 1, &[0; 32])),
        (1503, Raw::of(CHALLENGE)),
        (1503, Raw::of(CLAIMED).to("alice")),
        (1503, Raw::of(RESYNC)),
        (1503, Raw::of(LOGIN).from("alice")),
        (1503, Raw::of(0x20).to("g").from("alice")),
        (1503, Raw::of(0x9E)),
        (1505, Raw::of(STATE).body([0; 13])),
        (1505, claim(1, "alice").info(2)),
        (1505, claim(1, "")),
        (1505, claim(1, "alice").body([0; 7])),
        (1505, Raw::of(BIND).body([0; 16])),
        (1505, bind(&[(1, 0, "alice")]).body([&[0; 16][..], &[6], b"alice"].concat())),
        (1505, bind(&[(1, 0, "al\x07ce")])),
        (1505, bind(&[(1, 0, "")])),
    ];
    for (code, frame) in cases {
        let mut hub = hub();
        let conn = member(&mut hub, 1);
        hub.put(conn, frame.clone());
        let (got, text) = hub.closed(conn);
        assert_eq!(got, code, "{frame:?}: closed with {got} {text:?}");
        assert_eq!(hub.core.server_count(), 0);
    }
    let mut hub = hub();
    let conn = member(&mut hub, 1);
    hub.feed(conn, b"\0\x10\0\x01");
    hub.closed_with(conn, 1504);
}

#[test]
fn one_server_too_many_is_told_so() {
    let mut hub = hub_with(|config| config.connections_max = 1);
    let first = member(&mut hub, 1);
    let second = hub.accept();
    hub.closed_with(second, 1004);
    hub.silent(first);
}

#[test]
fn strangers_who_say_nothing_keep_no_server_out() {
    let mut hub = hub_with(|config| config.connections_max = 2_000);
    let member_1 = member(&mut hub, 1);
    let strangers: Vec<ConnId> = (0..1_023).map(|_| hub.accept()).collect();
    for stranger in &strangers {
        hub.silent(*stranger);
    }
    // One of them, and not just the oldest, makes room for each that comes.
    let mut left = Vec::new();
    for _ in 0..10 {
        hub.accept();
        let told: Vec<ConnId> = strangers.iter().copied().filter(|conn| hub.wire(*conn).shut).collect();
        left.extend(told.into_iter().filter(|conn| !left.contains(conn)).collect::<Vec<_>>());
    }
    assert!((8..=10).contains(&left.len()) && left[..] != strangers[..left.len()], "{left:?}");
    for stranger in left {
        hub.closed_with(stranger, 1004);
    }
    let member_2 = member(&mut hub, 2);
    for _ in 0..1_500 {
        let stranger = hub.accept();
        hub.reset(stranger);
    }
    assert_eq!(hub.core.server_count(), 2);
    for member in [member_1, member_2] {
        hub.silent(member);
    }
}

#[test]
fn an_acms_that_stops_says_so_to_everyone() {
    let mut hub = hub();
    let (a, b) = two_with_users(&mut hub);
    let stranger = hub.accept();
    hub.core.stop(hub.now);
    hub.turn();
    for conn in [a, b, stranger] {
        let close = hub.frames(conn).pop().expect("CLOSE");
        assert_eq!((close.kind, close.info), (CLOSE, 1000));
        hub.end(conn, End::Eof);
    }
    assert!(hub.core.is_stopped());
}

#[test]
fn a_server_id_in_use_names_both_addresses() {
    for (incarnation, address) in [(9, "10.0.0.9:6000"), (1, "10.0.0.9:6000"), (0, "10.0.0.1:6000")] {
        let mut hub = hub();
        let first = member(&mut hub, 1);
        log_in(&mut hub, first, "alice", 1);
        let second = registering(&mut hub, 1, incarnation, &register(address, 0, ""));
        let (code, text) = hub.closed(second);
        assert_eq!(code, 1512);
        assert!(text.contains("10.0.0.1:6000") && text.contains(address), "{text:?}");
        hub.silent(first);
        assert_eq!(found(&mut hub, first, "alice"), Ok(1), "the first one is not touched");
    }
}

#[test]
fn a_higher_incarnation_from_the_same_address_replaces() {
    let mut hub = hub();
    let (old, b) = two_with_users(&mut hub);
    events(&mut hub);
    let new = registering(&mut hub, 1, 2, &register("10.0.0.1:6000", EPOCH, ""));
    assert!(hub.wire(old).dropped);
    assert!(matches!(
        &events(&mut hub)[0],
        Event::Lost { server: ServerId(1), users: 1, gone: Gone::Closed(CloseCode::DUPLICATE_SERVER) }
    ));
    assert_eq!(hub.core.server_count(), 2);
    drain(&mut hub);
    assert_eq!(found(&mut hub, b, "alice"), Err(3), "its users are not known yet");
    hub.put(new, Raw::of(BURST_BEGIN));
    hub.put(new, Raw::of(SYNCED));
    assert_eq!(found(&mut hub, b, "alice"), Err(1));
    log_in(&mut hub, new, "alice", 1);
    hub.put(b, data("bob", "alice", 5));
    assert_eq!(hub.frame(new).id, 5);
}

/// Its old connection died on its side only: the redial must not have to wait for this side to notice.
#[test]
fn the_same_incarnation_on_a_new_connection_replaces() {
    let mut hub = hub();
    let old = member(&mut hub, 1);
    let new = registering(&mut hub, 1, 1, &register("10.0.0.1:6000", EPOCH, "1"));
    assert!(hub.wire(old).dropped);
    assert_eq!(hub.next(new).kind, REGISTERED);
    assert_eq!(hub.core.server_count(), 1);
}

#[test]
fn a_stranger_has_five_and_ten_seconds() {
    let mut hub = hub();
    let mute = hub.accept();
    hub.pass_ms(5_050);
    hub.closed_with(mute, 1006);
    let conn = hub.accept();
    hub.pass_ms(4_000);
    hub.feed(conn, SERVER_PREFACE);
    hub.frames(conn);
    hub.put(conn, prove(1, 1, &[0; 32]));
    hub.pass_ms(5_950);
    hub.silent(conn);
    hub.pass_ms(100);
    hub.closed_with(conn, 1006);
}

#[test]
fn a_silent_server_is_dead_after_three_seconds() {
    let mut hub = hub();
    let (a, b) = two_with_users(&mut hub);
    let mut pings = 0;
    for _ in 0..6 {
        hub.pass_ms(490);
        hub.put(b, Raw::of(PONG));
        pings += hub.frames(a).iter().filter(|frame| frame.kind == PING).count();
    }
    assert_eq!(pings, 2, "one a second");
    hub.pass_ms(80);
    assert_eq!(hub.core.locate(b"alice"), None);
    let frames = hub.frames(a);
    assert_eq!(frames.last().map(|frame| (frame.kind, frame.info)), Some((CLOSE, 1003)));
    assert_eq!(found_after_servers(&mut hub, b, "alice"), Err(1));
    assert_eq!(hub.core.locate(b"bob"), Some(ServerId(2)));
}

/// As [`found`], where news of the servers, and PINGs, may have come before.
fn found_after_servers(hub: &mut Hub, conn: ConnId, user: &str) -> Result<u16, u32> {
    assert!(hub.frames(conn).iter().all(|frame| matches!(frame.kind, SERVERS | PING)));
    found(hub, conn, user)
}

// Relaying.

#[test]
fn a_frame_is_relayed_byte_for_byte() {
    // From docs/PROTOCOL.md, section 11.
    let hi = b"\0\0\0\x1A\x10\x01\x03\x05\0\0\0\x07\0\0\0\0\0\0\0\x2Abobalicehi";
    for size in [1, 7, 20, 23, 100] {
        let mut hub = hub();
        let (a, b) = two_with_users(&mut hub);
        hi.chunks(size).for_each(|part| hub.feed(a, part));
        assert_eq!(hub.wire(b).got, hi, "in parts of {size}");
        hub.silent(a);
        assert_eq!(hub.core.counters().forwarded, 1);
    }
}

#[test]
fn all_that_servers_pass_on_passes_untouched() {
    let frames = [
        Raw::of(DATA).flags(0x17).info(u32::MAX).id(u64::MAX).to("bob").from("alice").body([0xFF; 300]),
        Raw::of(QUERY).flags(0x02).id(2).to("bob").from("alice"),
        Raw::of(REPLY).flags(0x0A).id(3).to("bob").from("alice").body("x"),
        Raw::of(ACK).id(4).to("bob").from("alice"),
        Raw::of(BOUNCE).info(1).id(5).to("bob").from("nobody"),
        Raw::of(DATA).id(0x0001_0000_0000_0001).to("bob").body("from a server"),
    ];
    let mut hub = hub();
    let (a, b) = two_with_users(&mut hub);
    let bytes: Vec<u8> = frames.iter().flat_map(Raw::bytes).collect();
    hub.feed(a, &bytes);
    assert_eq!(hub.wire(b).got, bytes);
    hub.silent(a);
}

#[test]
fn a_frame_whose_sender_is_not_there_is_dropped_and_counted() {
    let mut hub = hub();
    let (a, b) = two_with_users(&mut hub);
    for (count, from) in [(1, "bob"), (2, "nobody"), (3, "al\x07ce")] {
        hub.put(a, data(from, "bob", 1));
        hub.silent(a);
        hub.silent(b);
        assert_eq!(hub.core.counters().dropped_spoofed, count, "{from:?}");
    }
}

#[test]
fn an_answer_to_a_server_goes_to_the_server_in_its_id() {
    let mut hub = hub();
    let (a, b) = two_with_users(&mut hub);
    for frame in [
        Raw::of(ACK).id(0x0002_0000_0000_0007).from("alice"),
        Raw::of(REPLY).id(0x0002_0000_0000_0008).from("alice").body("yes"),
        Raw::of(BOUNCE).info(1).id(0x0002_0000_0000_0009).from("nobody"),
    ] {
        hub.put(a, frame.clone());
        assert_eq!(hub.frame(b), frame);
    }
    hub.put(a, Raw::of(ACK).id(0x0003_0000_0000_0007).from("alice"));
    hub.silent(a);
    hub.silent(b);
    assert_eq!(hub.core.counters().dropped_unroutable, 1);
}

#[test]
fn an_unknown_user_is_offline() {
    let mut hub = hub();
    let (a, _b) = two_with_users(&mut hub);
    hub.feed(a, b"\0\0\0\x1C\x10\0\x05\x05\0\0\0\x07\0\0\0\0\0\0\0\x2Bcarolalicehi");
    assert_eq!(hub.wire(a).got, b"\0\0\0\x1A\x12\0\x05\x05\0\0\0\x01\0\0\0\0\0\0\0\x2Balicecarol");
    hub.frames(a);
    hub.put(a, Raw::of(QUERY).id(1 << 48 | 6).to("carol"));
    assert_eq!(hub.frame(a), Raw::of(BOUNCE).info(1).id(1 << 48 | 6).from("carol"), "to the server that asked");
    hub.put(a, Raw::of(REPLY).id(6).to("carol").from("alice"));
    hub.put(a, Raw::of(BOUNCE).info(1).id(6).to("carol").from("alice"));
    hub.silent(a);
    assert_eq!(hub.core.counters().dropped_unroutable, 2);
}

#[test]
fn a_full_downlink_bounces_busy() {
    let mut hub = hub();
    let (a, b) = two_with_users(&mut hub);
    let c = member(&mut hub, 3);
    log_in(&mut hub, c, "carol", 1);
    drain(&mut hub);
    hub.stall(b);
    let big = |id| data("alice", "bob", id).body(vec![0; (1 << 20) - 24]);
    for id in 0..15 {
        hub.put(a, big(id));
        hub.silent(a);
    }
    hub.put(a, big(15));
    assert_eq!(hub.frame(a), Raw::of(BOUNCE).info(4).id(15).to("alice").from("bob"));
    hub.put(a, data("alice", "bob", 16));
    hub.silent(a);
    assert!(hub.reads(a), "the hub never holds up one server for another");
    hub.put(a, data("alice", "carol", 17));
    assert_eq!(hub.frame(c).id, 17);
    assert_eq!(hub.core.counters().bounced[3], 1);
    hub.unstall(b);
    let ids: Vec<u64> = hub.frames(b).iter().map(|frame| frame.id).collect();
    assert_eq!(ids, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16]);
}

#[test]
fn what_comes_for_the_acms_behind_its_close_is_counted() {
    let mut hub = hub();
    let a = member(&mut hub, 1);
    hub.put(a, Raw::of(LOGIN));
    assert_eq!(hub.core.counters().late_bytes, 0);
    hub.feed_unread(a, [0; 100]);
    assert_eq!(hub.core.counters().late_bytes, 100);
}

// Bindings.

#[test]
fn a_login_elsewhere_kicks_the_older_session_once_it_is_confirmed() {
    let mut hub = hub();
    let (a, b) = two_with_users(&mut hub);
    hub.put(b, claim(9, "alice"));
    is_claimed(&mut hub, b, 9, "alice");
    hub.silent(a);
    assert_eq!(found(&mut hub, a, "alice"), Ok(1));
    hub.put(b, bind(&[(9, 0, "alice")]));
    assert_eq!(hub.frame(a), Raw::of(KICK).info(1508).id(1).to("alice"));
    assert_eq!(found(&mut hub, a, "alice"), Ok(2));
    hub.put(a, Raw::of(UNBIND).id(1).from("alice"));
    assert_eq!(found(&mut hub, a, "alice"), Ok(2), "the older session's end changes nothing");
    log_in(&mut hub, b, "alice", 10);
    hub.silent(a);
    hub.silent(b);
}

#[test]
fn a_login_that_comes_to_nothing_kicks_nobody() {
    let mut hub = hub();
    let (a, b) = two_with_users(&mut hub);
    for (server, conn) in [(2, b), (1, a)] {
        hub.put(conn, claim(9, "alice"));
        is_claimed(&mut hub, conn, 9, "alice");
        hub.put(conn, Raw::of(UNBIND).id(9).from("alice"));
        assert_eq!(found(&mut hub, b, "alice"), Ok(1), "claimed by server {server}");
    }
    hub.put(b, claim(10, "alice"));
    is_claimed(&mut hub, b, 10, "alice");
    hub.reset(b);
    drain_notices(&mut hub, a);
    assert_eq!(found(&mut hub, a, "alice"), Ok(1), "the claiming server is lost");
}

/// Reads what a server was told of the cluster; nothing else was to come.
#[track_caller]
fn drain_notices(hub: &mut Hub, conn: ConnId) {
    let frames = hub.frames(conn);
    assert!(frames.iter().all(|frame| frame.kind == SERVERS), "{frames:?}");
}

#[test]
fn a_login_elsewhere_may_be_refused() {
    let mut hub = hub();
    let (a, b) = two_with_users(&mut hub);
    for conn in [a, b] {
        hub.put(conn, claim(9, "alice").info(1));
        assert_eq!(hub.frame(conn), Raw::of(CLAIMED).info(1509).id(9).to("alice"));
    }
    hub.put(b, Raw::of(UNBIND).id(9).from("alice"));
    assert_eq!(found(&mut hub, a, "alice"), Ok(1));
    hub.put(a, claim(1, "alice").info(1));
    is_claimed(&mut hub, a, 1, "alice");
    hub.put(a, Raw::of(UNBIND).id(1).from("alice"));
    hub.put(b, claim(10, "alice").info(1));
    is_claimed(&mut hub, b, 10, "alice");
}

/// The one that came first may still come to nothing, and then nobody would be in.
#[test]
fn where_the_older_login_is_kept_one_that_is_under_way_refuses_others_for_now() {
    for opens in [true, false] {
        let mut hub = hub();
        let (a, b) = (member(&mut hub, 1), member(&mut hub, 2));
        drain(&mut hub);
        hub.put(a, claim(1, "alice").info(1));
        is_claimed(&mut hub, a, 1, "alice");
        hub.put(b, claim(1, "alice").info(1));
        assert_eq!(hub.frame(b), Raw::of(CLAIMED).info(1008).id(1).to("alice"));
        hub.put(a, if opens { bind(&[(1, 0, "alice")]) } else { Raw::of(UNBIND).id(1).from("alice") });
        hub.put(b, claim(2, "alice").info(1));
        let answer = Raw::of(CLAIMED).info(if opens { 1509 } else { 0 }).id(2).to("alice");
        assert_eq!(hub.frame(b), answer);
        hub.silent(a);
    }
}

/// After a start, or while a server tells of its users, the older login may be one that is not known yet.
#[test]
fn where_the_older_login_is_kept_nobody_is_let_in_until_all_are_known() {
    let mut hub = hub_with(|config| config.directory_grace = Span::from_secs(2));
    let (a, b) = (member(&mut hub, 1), member(&mut hub, 2));
    drain(&mut hub);
    let try_later = Raw::of(CLAIMED).info(1008).id(1).to("alice");
    hub.put(b, claim(1, "alice").info(1));
    assert_eq!(hub.frame(b), try_later);
    hub.put(b, claim(1, "carol"));
    is_claimed(&mut hub, b, 1, "carol");
    hub.put(b, Raw::of(UNBIND).id(1).from("carol"));
    pass_alive(&mut hub, &[a, b], 2_000);
    hub.put(a, Raw::of(BURST_BEGIN));
    hub.put(b, claim(1, "alice").info(1));
    assert_eq!(hub.frame(b), try_later);
    hub.put(a, bind(&[(7, 5_000, "alice")]));
    hub.put(a, Raw::of(SYNCED).info(1));
    hub.put(b, claim(2, "alice").info(1));
    assert_eq!(hub.frame(b), Raw::of(CLAIMED).info(1509).id(2).to("alice"));
    hub.put(b, claim(3, "bob").info(1));
    is_claimed(&mut hub, b, 3, "bob");
    hub.silent(a);
}

/// She was sent to the other server, and is there before the first one's word of it.
#[test]
fn where_the_older_login_is_kept_a_user_of_a_draining_server_comes_again() {
    let mut hub = hub();
    let (a, b) = two_with_users(&mut hub);
    hub.put(a, Raw::of(DRAIN));
    drain(&mut hub);
    hub.put(b, claim(5, "alice").info(1));
    assert_eq!(hub.frame(b), Raw::of(CLAIMED).info(1008).id(5).to("alice"));
    hub.put(a, Raw::of(UNBIND).info(1001).id(1).from("alice"));
    hub.put(b, claim(6, "alice").info(1));
    is_claimed(&mut hub, b, 6, "alice");
}

#[test]
fn of_two_logins_at_once_the_newer_stays_whichever_is_confirmed_first() {
    for newer_first in [true, false] {
        let mut hub = hub();
        let (a, b) = two_with_users(&mut hub);
        let c = member(&mut hub, 3);
        pass_alive(&mut hub, &[a, b, c], 500);
        drain(&mut hub);
        hub.put(b, aged_claim(7, 20, "alice"));
        hub.put(c, aged_claim(8, 10, "alice"));
        is_claimed(&mut hub, b, 7, "alice");
        is_claimed(&mut hub, c, 8, "alice");
        let mut confirmations = [(b, bind(&[(7, 21, "alice")])), (c, bind(&[(8, 11, "alice")]))];
        if newer_first {
            confirmations.reverse();
        }
        confirmations.into_iter().for_each(|(conn, frame)| hub.put(conn, frame));
        assert_eq!(hub.frame(a), Raw::of(KICK).info(1508).id(1).to("alice"));
        assert_eq!(hub.frame(b), Raw::of(KICK).info(1508).id(7).to("alice"));
        hub.silent(c);
        assert_eq!(found(&mut hub, a, "alice"), Ok(3));
    }
}

#[test]
fn a_login_that_is_older_than_the_one_that_is_in_is_refused() {
    let mut hub = hub();
    let (a, b) = two_with_users(&mut hub);
    hub.put(b, aged_claim(9, 60_000, "alice"));
    assert_eq!(hub.frame(b), Raw::of(CLAIMED).info(1508).id(9).to("alice"), "its check took a minute");
    hub.silent(a);
    assert_eq!(found(&mut hub, a, "alice"), Ok(1));
}

/// Its date and that of the session that is in are both late by what their frames took: it may be the newer one.
#[test]
fn a_login_that_is_hardly_older_than_one_elsewhere_comes_again() {
    for (age, answer) in [(1, 1008), (3_000, 1008), (3_001, 1508)] {
        let mut hub = hub();
        let (a, b) = two_with_users(&mut hub);
        hub.put(b, aged_claim(9, age, "alice"));
        assert_eq!(hub.frame(b), Raw::of(CLAIMED).info(answer).id(9).to("alice"), "{age} ms");
        hub.put(a, claim(0, "alice"));
        assert_eq!(hub.frame(a), Raw::of(CLAIMED).info(1508).id(0).to("alice"), "numbers of one server are exact");
        assert_eq!(found(&mut hub, a, "alice"), Ok(1));
    }
}

/// Either of the two frames may have been held up by the network: the earlier date counts.
#[test]
fn a_login_held_up_on_its_way_is_no_newer_for_that() {
    for claim_is_late in [true, false] {
        let mut hub = hub();
        let (a, b, c) = (member(&mut hub, 1), member(&mut hub, 2), member(&mut hub, 3));
        drain(&mut hub);
        if claim_is_late {
            log_in(&mut hub, a, "alice", 1);
            hub.pass_ms(100);
            hub.put(b, aged_claim(9, 0, "alice"));
            hub.frames(b);
            hub.put(b, bind(&[(9, 600, "alice")]));
        } else {
            hub.put(b, aged_claim(9, 0, "alice"));
            hub.pass_ms(100);
            log_in(&mut hub, a, "alice", 1);
            hub.frames(b);
            hub.put(b, bind(&[(9, 0, "alice")]));
        }
        assert_eq!(hub.frame(b), Raw::of(KICK).info(1508).id(9).to("alice"));
        hub.silent(a);
        assert_eq!(found(&mut hub, c, "alice"), Ok(1));
    }
}

#[test]
fn a_login_under_way_takes_over_from_a_session_that_ends() {
    for server_is_lost in [true, false] {
        let mut hub = hub();
        let (a, b) = two_with_users(&mut hub);
        let c = member(&mut hub, 3);
        log_in(&mut hub, c, "carol", 1);
        drain(&mut hub);
        hub.put(b, claim(9, "alice"));
        is_claimed(&mut hub, b, 9, "alice");
        if server_is_lost {
            hub.reset(a)
        } else {
            hub.put(a, Raw::of(UNBIND).id(1).from("alice"))
        }
        drain_notices(&mut hub, b);
        hub.put(c, data("carol", "alice", 1));
        assert_eq!(hub.frame(b), data("carol", "alice", 1), "she may have her WELCOME: she is not offline");
        hub.put(b, bind(&[(9, 0, "alice")]));
        hub.put(c, data("carol", "alice", 2));
        assert_eq!(hub.frame(b), data("carol", "alice", 2));
        hub.put(b, data("alice", "bob", 3));
        assert_eq!(hub.frame(b), data("alice", "bob", 3));
    }
}

#[test]
fn a_burst_of_either_server_between_claim_and_confirmation_changes_nothing() {
    let mut hub = hub();
    let (a, b) = two_with_users(&mut hub);
    hub.put(b, claim(9, "alice"));
    hub.put(b, Raw::of(BURST_BEGIN));
    hub.put(b, bind(&[(1, 0, "bob")]));
    hub.put(b, Raw::of(SYNCED).info(1));
    hub.put(b, claim(9, "alice"));
    assert_eq!(hub.frames(b), [Raw::of(CLAIMED).id(9).to("alice"), Raw::of(CLAIMED).id(9).to("alice")]);
    hub.silent(a);
    hub.pass_ms(10);
    hub.put(a, Raw::of(BURST_BEGIN));
    hub.put(a, bind(&[(1, 10, "alice")]));
    hub.put(a, Raw::of(SYNCED).info(1));
    hub.silent(b);
    hub.put(b, bind(&[(9, 10, "alice")]));
    assert_eq!(hub.frame(a), Raw::of(KICK).info(1508).id(1).to("alice"));
    assert_eq!(found(&mut hub, b, "alice"), Ok(2));
}

#[test]
fn the_claims_of_a_user_are_bounded() {
    let mut hub = hub();
    let (a, b) = two_with_users(&mut hub);
    for session in 11..=18 {
        for conn in [a, b] {
            hub.put(conn, claim(session, "carol"));
            is_claimed(&mut hub, conn, session, "carol");
        }
    }
    hub.put(b, claim(19, "carol"));
    assert_eq!(hub.frame(b), Raw::of(CLAIMED).info(1008).id(19).to("carol"));
    hub.put(b, claim(18, "carol"));
    is_claimed(&mut hub, b, 18, "carol");
    hub.put(b, claim(19, "dave"));
    is_claimed(&mut hub, b, 19, "dave");
    hub.put(a, Raw::of(UNBIND).id(11).from("carol"));
    hub.put(b, claim(20, "carol"));
    is_claimed(&mut hub, b, 20, "carol");
}

#[test]
fn the_claims_of_a_server_are_bounded() {
    let mut hub = hub();
    let (a, b) = two_with_users(&mut hub);
    for session in 2..16_386 {
        let user = format!("user{session}");
        hub.put(a, claim(session, &user));
        is_claimed(&mut hub, a, session, &user);
    }
    let one_more = |hub: &mut Hub, conn, session, answer| {
        hub.put(conn, claim(session, "carol"));
        assert_eq!(hub.frame(conn), Raw::of(CLAIMED).info(answer).id(session).to("carol"));
    };
    one_more(&mut hub, a, 16_386, 1008);
    one_more(&mut hub, b, 2, 0);
    hub.put(a, bind(&[(2, 0, "user2")]));
    one_more(&mut hub, a, 16_387, 0);
    hub.put(a, Raw::of(UNBIND).id(16_388).from("carol"));
    one_more(&mut hub, a, 16_389, 1008);
    hub.put(a, Raw::of(BURST_BEGIN));
    one_more(&mut hub, a, 16_390, 0);
}

/// Once the newer login may have its WELCOME, nothing new of the older session's crosses; until it has, nothing is lost.
#[test]
fn while_a_newer_login_is_claimed_the_older_session_is_told_to_try_again() {
    let mut hub = hub();
    let (a, b) = two_with_users(&mut hub);
    let ack = Raw::of(ACK).id(5).to("bob").from("alice");
    hub.pass_ms(10);
    hub.put(b, claim(9, "alice"));
    hub.frames(b);
    hub.put(a, data("alice", "bob", 1));
    assert_eq!(hub.frame(a), Raw::of(BOUNCE).info(3).id(1).to("alice").from("bob"));
    hub.silent(b);
    hub.put(a, ack.clone());
    assert_eq!(hub.frame(b), ack, "an answer is to what the older session was given");
    hub.put(b, data("bob", "alice", 2));
    assert_eq!(hub.frame(a), data("bob", "alice", 2), "it has the user still");
    hub.put(b, Raw::of(UNBIND).id(9).from("alice"));
    hub.put(a, data("alice", "bob", 3));
    assert_eq!(hub.frame(b), data("alice", "bob", 3));
    log_in(&mut hub, b, "alice", 10);
    hub.frames(a);
    hub.put(a, data("alice", "bob", 4));
    hub.silent(b);
    assert_eq!(hub.core.counters().dropped_spoofed, 1);
}

#[test]
fn a_kick_ends_what_is_in_and_what_is_coming_in() {
    let mut hub = hub();
    let (a, b) = two_with_users(&mut hub);
    hub.put(b, claim(9, "alice"));
    is_claimed(&mut hub, b, 9, "alice");
    hub.put(a, Raw::of(KICK).info(1510).to("alice"));
    assert_eq!(hub.frame(a), Raw::of(KICK).info(1510).id(1).to("alice"));
    assert_eq!(hub.frame(b), Raw::of(KICK).info(1510).id(9).to("alice"));
}

/// Two sessions of one user, each opened and ended, in every order there is: the user is where the latest login was, or,
/// of two on one server, where the session that began later is, unless that very session has ended.
#[test]
fn a_late_unbind_removes_nothing_newer() {
    for pattern in [0b0011, 0b0101, 0b0110, 0b1001, 0b1010, 0b1100] {
        for servers in [[1, 2], [1, 1], [2, 1]] {
            let mut hub = hub();
            let conns = [member(&mut hub, 1), member(&mut hub, 2)];
            drain(&mut hub);
            let mut latest = 0;
            let mut opened = [false; 2];
            let mut ended = [false; 2];
            for step in 0..4 {
                hub.pass_ms(1);
                let session = usize::from(pattern >> step & 1 == 1);
                let (conn, number) = (conns[servers[session] - 1], session as u64 + 1);
                let is_older = session < latest && servers[0] == servers[1] && !ended[latest];
                if std::mem::replace(&mut opened[session], true) {
                    hub.put(conn, Raw::of(UNBIND).id(number).from("alice"));
                    ended[session] = true;
                } else {
                    hub.put(conn, claim(number, "alice"));
                    let answer = if is_older { 1508 } else { 0 };
                    assert_eq!(hub.next(conn), Raw::of(CLAIMED).info(answer).id(number).to("alice"));
                    if !is_older {
                        hub.put(conn, bind(&[(number, 0, "alice")]));
                        latest = session;
                    }
                }
                drain(&mut hub);
                let expected = if ended[latest] { Err(1) } else { Ok(servers[latest] as u16) };
                assert_eq!(found(&mut hub, conns[0], "alice"), expected, "{pattern:04b} on {servers:?} after {step}");
                assert_eq!(hub.core.user_count(), usize::from(expected.is_ok()));
            }
        }
    }
}

#[test]
fn an_unbind_of_another_incarnation_or_server_removes_nothing() {
    let mut hub = hub();
    let (a, b) = two_with_users(&mut hub);
    hub.put(b, Raw::of(UNBIND).id(1).from("alice"));
    assert_eq!(found(&mut hub, a, "alice"), Ok(1));
    hub.put(a, Raw::of(UNBIND).id(2).from("alice"));
    assert_eq!(found(&mut hub, a, "alice"), Ok(1));
}

#[test]
fn a_kick_goes_to_the_exact_session() {
    let mut hub = hub();
    let (a, b) = two_with_users(&mut hub);
    hub.put(a, Raw::of(KICK).info(1510).to("bob"));
    assert_eq!(hub.frame(b), Raw::of(KICK).info(1510).id(1).to("bob"));
    hub.put(a, Raw::of(KICK).info(1510).to("nobody"));
    hub.silent(a);
    hub.silent(b);
    assert_eq!(hub.core.locate(b"bob"), Some(ServerId(2)), "its server unbinds it");
}

#[test]
fn a_lost_server_takes_exactly_its_users_at_once() {
    let mut hub = hub();
    let (a, b) = two_with_users(&mut hub);
    for number in 0..5_000u64 {
        let user = format!("user{number}");
        log_in(&mut hub, if number % 2 == 0 { a } else { b }, &user, number + 2);
    }
    events(&mut hub);
    hub.reset(a);
    assert!(
        events(&mut hub).iter().any(|event| matches!(event, Event::Lost { server: ServerId(1), users: 2_501, .. }))
    );
    hub.frames(b);
    assert_eq!(hub.core.user_count(), 2_501);
    for number in [0, 1, 2, 4_998, 4_999] {
        let expected = if number % 2 == 0 { Err(1) } else { Ok(2) };
        assert_eq!(found(&mut hub, b, &format!("user{number}")), expected);
    }
    let c = member(&mut hub, 3);
    assert_eq!(found(&mut hub, c, "alice"), Err(1), "its place in the table is another server's now");
    hub.pass_ms(100);
    assert_eq!(found(&mut hub, c, "user4999"), Ok(2));
}

// Bursts.

#[test]
fn of_two_sessions_after_a_split_the_newest_stays() {
    // The ages are longer than this ACMS lives: one second.
    for (age_a, age_b, stays) in [(90_000, 60_000, 2), (60_000, 90_000, 1), (500, 400, 2), (60_000, 60_000, 2)] {
        for a_first in [true, false] {
            let mut hub = hub();
            let (a, b) = (unsynced(&mut hub, 1), unsynced(&mut hub, 2));
            drain(&mut hub);
            let burst = |age| [Raw::of(BURST_BEGIN), bind(&[(5, age, "alice")]), Raw::of(SYNCED).info(1)];
            let mut bursts = [(a, burst(age_a)), (b, burst(age_b))];
            if !a_first {
                bursts.reverse();
            }
            for (conn, frames) in bursts {
                frames.into_iter().for_each(|frame| hub.put(conn, frame));
            }
            let (winner, loser) = if stays == 1 { (a, b) } else { (b, a) };
            assert_eq!(hub.frame(loser), Raw::of(KICK).info(1508).id(5).to("alice"), "{age_a} against {age_b}");
            hub.silent(winner);
            assert_eq!(found(&mut hub, a, "alice"), Ok(stays));
            hub.put(loser, Raw::of(UNBIND).id(5).from("alice"));
            assert_eq!(found(&mut hub, a, "alice"), Ok(stays));
        }
    }
}

#[test]
fn a_claim_is_newer_than_any_session_of_a_burst() {
    let mut hub = hub();
    let (a, b) = (member(&mut hub, 1), unsynced(&mut hub, 2));
    drain(&mut hub);
    log_in(&mut hub, a, "alice", 1);
    hub.put(b, Raw::of(BURST_BEGIN));
    hub.put(b, bind(&[(7, 1, "alice"), (8, u64::MAX, "bob")]));
    assert_eq!(hub.frame(b), Raw::of(KICK).info(1508).id(7).to("alice"));
    hub.silent(a);
    assert_eq!(found(&mut hub, a, "alice"), Ok(1));
    assert_eq!(found(&mut hub, a, "bob"), Ok(2));
}

/// An uplink stood still behind the burst's beginning, and the user has moved meanwhile: the session that is over must
/// not turn out the one that is in.
#[test]
fn a_burst_held_up_on_its_way_makes_no_session_newer() {
    for asked_again in [false, true] {
        let mut hub = hub();
        let a = member(&mut hub, 1);
        let b = if asked_again { member(&mut hub, 2) } else { unsynced(&mut hub, 2) };
        if asked_again {
            (0..2).for_each(|_| hub.put(b, Raw::of(DIGEST).info(1).id(1)));
            assert_eq!(hub.frame(b), Raw::of(RESYNC));
        }
        hub.pass_ms(100);
        log_in(&mut hub, a, "alice", 1);
        hub.pass_ms(900);
        // Told when she had been there for half a second.
        hub.put(b, Raw::of(BURST_BEGIN));
        hub.put(b, bind(&[(7, 500, "alice")]));
        assert_eq!(hub.frame(b), Raw::of(KICK).info(1508).id(7).to("alice"), "asked again: {asked_again}");
        hub.silent(a);
        assert_eq!(found(&mut hub, a, "alice"), Ok(1));
    }
}

#[test]
fn an_age_is_in_milliseconds() {
    for (age, stays) in [(4_900, 2), (5_100, 1)] {
        let mut hub = hub();
        let (a, b) = (member(&mut hub, 1), unsynced(&mut hub, 2));
        drain(&mut hub);
        log_in(&mut hub, a, "alice", 1);
        hub.put(b, Raw::of(BURST_BEGIN));
        pass_alive(&mut hub, &[a, b], 5_000);
        hub.put(b, bind(&[(7, age, "alice")]));
        assert_eq!(found_after_kick(&mut hub, [a, b]), stays, "a session of 5 s against one of {age} ms");
    }
}

/// The server that keeps `alice`; the other one was told to close its session.
fn found_after_kick(hub: &mut Hub, conns: [ConnId; 2]) -> u16 {
    let kicked = conns.map(|conn| hub.frames(conn).iter().filter(|frame| frame.kind == KICK).count());
    let stays = found(hub, conns[0], "alice").expect("she is online");
    assert_eq!(kicked, if stays == 1 { [0, 1] } else { [1, 0] });
    stays
}

#[test]
fn a_new_burst_forgets_who_is_not_in_it() {
    let mut hub = hub();
    let (a, b) = two_with_users(&mut hub);
    log_in(&mut hub, a, "carol", 2);
    hub.put(a, Raw::of(BURST_BEGIN));
    assert_eq!(found(&mut hub, b, "alice"), Err(3));
    hub.put(a, bind(&[(2, 10, "carol")]));
    assert_eq!(found(&mut hub, b, "carol"), Ok(1));
    hub.put(a, Raw::of(SYNCED).info(1));
    assert_eq!(found(&mut hub, b, "alice"), Err(1));
    assert_eq!(hub.core.user_count(), 2);
}

/// A long burst takes several turns; its server's users go on writing meanwhile.
#[test]
fn a_frame_that_overtakes_its_senders_bind_is_not_lost_silently() {
    let mut hub = hub();
    let (a, b) = two_with_users(&mut hub);
    hub.put(a, Raw::of(BURST_BEGIN));
    hub.put(a, data("alice", "bob", 1));
    let (sent_on, sent_back) = (hub.frames(b), hub.frames(a));
    let bounce = Raw::of(BOUNCE).info(3).id(1).to("alice").from("bob");
    let is_told = sent_on == [data("alice", "bob", 1)] || sent_back == [bounce];
    assert!(is_told, "counters: {:?}", hub.core.counters());
}

/// The order that an AS may write these in where a login and a burst meet (see the AS's tests).
#[test]
fn a_bind_does_not_undo_a_newer_claim_of_the_same_server() {
    let mut hub = hub();
    let (a, b) = two_with_users(&mut hub);
    hub.put(a, Raw::of(BURST_BEGIN));
    log_in(&mut hub, a, "alice", 2);
    hub.put(a, bind(&[(1, 60_000, "alice")]));
    hub.put(a, Raw::of(SYNCED).info(1));
    hub.put(a, Raw::of(UNBIND).id(1).from("alice"));
    assert_eq!(found(&mut hub, b, "alice"), Ok(1), "session 2 is there still");
}

fn hash(incarnation: u64, session: u64, user: &str) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(incarnation, 0);
    hasher.write(&[&session.to_be_bytes()[..], user.as_bytes()].concat());
    hasher.finish()
}

#[test]
fn two_digests_in_a_row_that_do_not_match_bring_a_resync() {
    let mut hub = hub();
    let (a, _) = two_with_users(&mut hub);
    events(&mut hub);
    let right = Raw::of(DIGEST).info(1).id(hash(1, 1, "alice"));
    let wrong = Raw::of(DIGEST).info(1).id(1);
    let short = Raw::of(DIGEST).info(0).id(hash(1, 1, "alice"));
    for digest in [&right, &wrong, &right, &short, &right, &right] {
        hub.put(a, digest.clone());
        hub.silent(a);
    }
    hub.put(a, wrong.clone());
    hub.silent(a);
    hub.put(a, short.clone());
    assert_eq!(hub.frame(a), Raw::of(RESYNC));
    assert_eq!(events(&mut hub), [Event::Mismatch { server: ServerId(1) }]);
    hub.put(a, Raw::of(BURST_BEGIN));
    hub.put(a, wrong.clone());
    hub.put(a, wrong);
    hub.silent(a);
    hub.put(a, bind(&[(1, 0, "alice"), (2, 0, "carol")]));
    hub.put(a, Raw::of(SYNCED).info(2));
    let both = Raw::of(DIGEST).info(2).id(hash(1, 1, "alice") ^ hash(1, 2, "carol"));
    for _ in 0..3 {
        hub.put(a, both.clone());
        hub.silent(a);
    }
}

#[test]
fn the_digest_follows_every_change() {
    let mut hub = hub();
    let (a, b) = two_with_users(&mut hub);
    log_in(&mut hub, a, "carol", 2);
    log_in(&mut hub, a, "carol", 3);
    log_in(&mut hub, b, "alice", 2);
    hub.frames(a);
    let expect = |hub: &mut Hub, conn, sessions: &[(u64, &str)]| {
        let digest = sessions.iter().fold(0, |digest, (session, user)| digest ^ hash(1, *session, user));
        for _ in 0..2 {
            hub.put(conn, Raw::of(DIGEST).info(sessions.len() as u32).id(digest));
        }
        hub.silent(conn);
    };
    expect(&mut hub, a, &[(3, "carol")]);
    expect(&mut hub, b, &[(1, "bob"), (2, "alice")]);
    hub.put(b, claim(3, "carol"));
    is_claimed(&mut hub, b, 3, "carol");
    expect(&mut hub, a, &[(3, "carol")]);
    expect(&mut hub, b, &[(1, "bob"), (2, "alice")]);
    hub.put(b, Raw::of(UNBIND).id(3).from("carol"));
    hub.put(a, Raw::of(UNBIND).id(3).from("carol"));
    hub.put(a, Raw::of(UNBIND).id(3).from("carol"));
    expect(&mut hub, a, &[]);
}

// The time after a restart.

#[test]
fn until_a_server_is_synced_nobody_is_offline() {
    let mut hub = hub();
    let a = member(&mut hub, 1);
    log_in(&mut hub, a, "alice", 1);
    let b = unsynced(&mut hub, 2);
    hub.put(a, data("alice", "bob", 1));
    assert_eq!(hub.frame(a), Raw::of(BOUNCE).info(3).id(1).to("alice").from("bob"));
    assert_eq!(found(&mut hub, a, "bob"), Err(3));
    hub.put(b, Raw::of(BURST_BEGIN));
    assert_eq!(found(&mut hub, a, "bob"), Err(3));
    hub.put(b, Raw::of(SYNCED));
    assert_eq!(found(&mut hub, a, "bob"), Err(1));
    hub.put(a, data("alice", "bob", 2));
    assert_eq!(hub.frame(a).info, 1);
}

#[test]
fn a_hundred_thousand_users_are_known_again_and_nobody_is_called_offline_meanwhile() {
    const USERS: usize = 50_000;
    let mut hub = hub();
    let name = |server: u16, number: usize| format!("user{number}-of-{server}");
    let servers = [1, 2].map(|server| {
        (server, registering(&mut hub, server, 1, &register(&format!("10.0.0.{server}:6000"), EPOCH - 1, "1,2")))
    });
    for (server, conn) in servers {
        drain(&mut hub);
        hub.put(conn, Raw::of(BURST_BEGIN));
        for first in (0..USERS).step_by(500) {
            // Known once they are told of; until all are, nobody is offline.
            assert_eq!(found(&mut hub, conn, &name(server, first)), Err(3));
            let names: Vec<String> = (first..first + 500).map(|number| name(server, number)).collect();
            let entries: Vec<(u64, u64, &str)> =
                names.iter().zip(1..).map(|(name, session)| (first as u64 + session, 0, name.as_str())).collect();
            hub.put(conn, bind(&entries));
            for number in [first, first + 499] {
                assert_eq!(found(&mut hub, conn, &name(server, number)), Ok(server));
            }
            assert_eq!(found(&mut hub, conn, "nobody"), Err(3));
        }
        hub.put(conn, Raw::of(SYNCED).info(USERS as u32));
    }
    drain(&mut hub);
    assert_eq!(hub.core.user_count(), 2 * USERS);
    for (server, conn) in servers {
        for number in 0..USERS {
            assert_eq!(hub.core.locate(name(server, number).as_bytes()), Some(ServerId(server)));
        }
        assert_eq!(found(&mut hub, conn, "nobody"), Err(1));
    }
}

/// An ACMS and a server are started again, and that server is the first to come back: it knows of no other, or of too
/// few, and the one that bob is on has not dialled again.
#[test]
fn who_comes_back_first_makes_nobody_offline() {
    for (previous_epoch, peers) in [(0, ""), (EPOCH - 1, "1"), (EPOCH - 1, "1,2")] {
        let mut hub = hub_with(|config| config.directory_grace = limits::DIRECTORY_GRACE);
        let a = registering(&mut hub, 1, 1, &register("10.0.0.1:6000", previous_epoch, peers));
        hub.put(a, Raw::of(BURST_BEGIN));
        hub.put(a, bind(&[(1, 0, "alice")]));
        hub.put(a, Raw::of(SYNCED).info(1));
        drain(&mut hub);
        for id in 1..=10 {
            hub.put(a, data("alice", "bob", id));
            let retry = Raw::of(BOUNCE).info(3).id(id).to("alice").from("bob");
            assert_eq!(hub.frame(a), retry, "epoch {previous_epoch}, peers {peers:?}");
            assert_eq!(found(&mut hub, a, "bob"), Err(3));
            pass_alive(&mut hub, &[a], 500);
        }
        let b = registering(&mut hub, 2, 1, &register("10.0.0.2:6000", EPOCH - 1, "1,2"));
        hub.put(b, Raw::of(BURST_BEGIN));
        hub.put(b, bind(&[(1, 0, "bob")]));
        hub.put(b, Raw::of(SYNCED).info(1));
        drain(&mut hub);
        hub.put(a, data("alice", "bob", 11));
        assert_eq!(hub.frame(b), data("alice", "bob", 11));
    }
}

#[test]
fn a_new_cluster_calls_nobody_offline_until_the_grace_ends() {
    for grace_ms in [250, 10_000] {
        let mut hub = hub_with(|config| config.directory_grace = Span::from_millis(grace_ms));
        let (a, b) = two_with_users(&mut hub);
        pass_alive(&mut hub, &[a, b], grace_ms - 1);
        hub.put(a, data("alice", "carol", 1));
        assert_eq!(hub.frame(a), Raw::of(BOUNCE).info(3).id(1).to("alice").from("carol"));
        assert_eq!(found(&mut hub, a, "carol"), Err(3));
        hub.put(a, data("alice", "bob", 2));
        assert_eq!(hub.frame(b), data("alice", "bob", 2), "who is known is reached");
        pass_alive(&mut hub, &[a, b], 1);
        hub.put(a, data("alice", "carol", 3));
        assert_eq!(hub.frame(a), Raw::of(BOUNCE).info(1).id(3).to("alice").from("carol"));
        assert_eq!(found(&mut hub, a, "carol"), Err(1));
    }
}

/// Two restarts in a row: a server that was away for the first has not been forgotten at the second.
#[test]
fn servers_that_have_not_come_back_are_named_to_the_others() {
    let mut hub = hub_with(|config| config.directory_grace = limits::DIRECTORY_GRACE);
    let a = registering(&mut hub, 1, 1, &register("10.0.0.1:6000", EPOCH - 1, "1,2"));
    hub.put(a, Raw::of(BURST_BEGIN));
    hub.put(a, Raw::of(SYNCED));
    drain(&mut hub);
    let c = registering(&mut hub, 3, 1, &register("10.0.0.3:6000", 0, ""));
    let both = r#"{"server":1,"address":"10.0.0.1:6000"},{"server":3,"address":"10.0.0.3:6000"}"#;
    let told = Raw::of(SERVERS).body(format!(r#"{{"servers":[{both}],"awaited":[2]}}"#));
    assert_eq!(hub.frame(a), told);
    assert_eq!(hub.frames(c), [Raw::of(REGISTERED).id(EPOCH), told]);

    let mut next = hub_with(|config| {
        (config.epoch, config.directory_grace) = (EPOCH + 1, limits::DIRECTORY_GRACE);
    });
    let a = next.accept();
    next.feed(a, SERVER_PREFACE);
    next.put(a, prove(1, 1, &[0; 32]));
    next.put(a, register("10.0.0.1:6000", EPOCH, "1,2"));
    next.put(a, Raw::of(BURST_BEGIN));
    next.put(a, bind(&[(1, 0, "alice")]));
    next.put(a, Raw::of(SYNCED).info(1));
    drain(&mut next);
    next.put(a, data("alice", "bob", 1));
    assert_eq!(next.frame(a), Raw::of(BOUNCE).info(3).id(1).to("alice").from("bob"), "server 2 may have him");
}

// Drain.

#[test]
fn a_draining_server_is_named_so_to_all() {
    let mut hub = hub();
    let (a, b) = two_with_users(&mut hub);
    drain(&mut hub);
    hub.put(a, Raw::of(DRAIN));
    let one = r#"{"server":1,"address":"10.0.0.1:6000","draining":true}"#;
    let two = r#"{"server":2,"address":"10.0.0.2:6000"}"#;
    let told = Raw::of(SERVERS).body(format!(r#"{{"servers":[{one},{two}]}}"#));
    assert_eq!((hub.frame(a), hub.frame(b)), (told.clone(), told));
    hub.put(a, Raw::of(DRAIN));
    hub.silent(b);
    hub.put(b, data("bob", "alice", 1));
    assert_eq!(hub.frame(a), data("bob", "alice", 1), "who is still there is served");
}

#[test]
fn a_server_that_comes_back_in_the_midst_of_its_drain_is_never_named_otherwise() {
    let mut hub = hub();
    let (a, b) = two_with_users(&mut hub);
    hub.reset(a);
    drain(&mut hub);
    let body = r#"{"address":"10.0.0.1:6000","capacity":10,"draining":true}"#;
    registering(&mut hub, 1, 1, &Raw::of(REGISTER).body(body));
    let one = r#"{"server":1,"address":"10.0.0.1:6000","draining":true}"#;
    let two = r#"{"server":2,"address":"10.0.0.2:6000"}"#;
    let told: Vec<String> = hub.frames(b).iter().map(Raw::text).collect();
    assert_eq!(told.len(), 1);
    let orders = [format!(r#"{{"servers":[{one},{two}]}}"#), format!(r#"{{"servers":[{two},{one}]}}"#)];
    assert!(orders.contains(&told[0]), "{told:?}");
}

#[test]
fn a_frozen_server_is_named_as_one_that_takes_nobody() {
    let mut hub = hub();
    let (a, b) = two_with_users(&mut hub);
    let told = |draining: &str| {
        let one = format!(r#"{{"server":1,"address":"10.0.0.1:6000"{draining}}}"#);
        Raw::of(SERVERS).body(format!(r#"{{"servers":[{one},{{"server":2,"address":"10.0.0.2:6000"}}]}}"#))
    };
    drain(&mut hub);
    hub.core.freeze(hub.now, ServerId(1));
    hub.core.freeze(hub.now, ServerId(1));
    hub.turn();
    let frozen = told(r#","draining":true"#);
    assert_eq!((hub.frame(a), hub.frame(b)), (frozen.clone(), frozen));
    assert!(hub.core.unfreeze(hub.now, ServerId(1)));
    hub.turn();
    assert_eq!((hub.frame(a), hub.frame(b)), (told(""), told("")));
}

#[test]
fn a_user_under_way_between_two_servers_is_not_offline() {
    let retry = Raw::of(BOUNCE).info(3).id(1).to("bob").from("alice");
    for arrives in [true, false] {
        let mut hub = hub();
        let (a, b) = two_with_users(&mut hub);
        hub.put(a, Raw::of(UNBIND).info(1001).id(1).from("alice"));
        hub.put(b, data("bob", "alice", 1));
        assert_eq!(hub.frame(b), retry);
        assert_eq!(found(&mut hub, b, "alice"), Err(3));
        assert_eq!(found(&mut hub, b, "carol"), Err(1));
        if arrives {
            log_in(&mut hub, b, "alice", 9);
            hub.put(b, Raw::of(UNBIND).id(9).from("alice"));
        } else {
            pass_alive(&mut hub, &[a, b], 2_999);
            assert_eq!(found(&mut hub, b, "alice"), Err(3));
            pass_alive(&mut hub, &[a, b], 1);
        }
        assert_eq!(found(&mut hub, b, "alice"), Err(1), "she was there, or did not come");
    }
}

#[test]
fn a_move_that_comes_behind_the_arrival_makes_nobody_moving() {
    let mut hub = hub();
    let (a, b) = two_with_users(&mut hub);
    hub.pass_ms(1);
    log_in(&mut hub, b, "alice", 9);
    hub.frames(a);
    hub.put(a, Raw::of(UNBIND).info(1001).id(1).from("alice"));
    assert_eq!(found(&mut hub, a, "alice"), Ok(2));
    hub.put(b, Raw::of(UNBIND).id(9).from("alice"));
    assert_eq!(found(&mut hub, a, "alice"), Err(1));
}

#[test]
fn a_user_sent_away_before_the_burst_told_of_her_is_under_way_too() {
    for is_back in [false, true] {
        let mut hub = hub();
        let (a, b) = two_with_users(&mut hub);
        hub.put(a, Raw::of(BURST_BEGIN));
        if is_back {
            log_in(&mut hub, b, "alice", 9);
        }
        hub.put(a, Raw::of(UNBIND).info(1001).id(1).from("alice"));
        hub.put(a, Raw::of(SYNCED));
        if is_back {
            assert_eq!(found(&mut hub, b, "alice"), Ok(2));
            hub.put(b, Raw::of(UNBIND).id(9).from("alice"));
        } else {
            assert_eq!(found(&mut hub, b, "alice"), Err(3));
            pass_alive(&mut hub, &[a, b], 3_000);
        }
        assert_eq!(found(&mut hub, b, "alice"), Err(1), "she was there, or did not come");
    }
}

#[test]
fn more_users_under_way_than_are_remembered_are_offline() {
    let mut hub = hub();
    let (a, b) = two_with_users(&mut hub);
    let users = 256 * 1024 + 1;
    let mut bytes = Vec::new();
    for number in 0..users {
        let user = format!("user{number}");
        bytes.extend(bind(&[(number + 2, 0, &user)]).bytes());
        bytes.extend(Raw::of(UNBIND).info(1001).id(number + 2).from(&user).bytes());
    }
    hub.feed(a, bytes);
    assert_eq!(found(&mut hub, b, &format!("user{}", users - 2)), Err(3));
    assert_eq!(found(&mut hub, b, &format!("user{}", users - 1)), Err(1));
}

// Assignment.

/// A server with `users` users and room for `capacity`.
pub(crate) fn member_with(hub: &mut Hub, server: u16, users: u64, capacity: u32) -> ConnId {
    let body = format!(r#"{{"address":"10.0.0.{server}:6000","capacity":{capacity}}}"#);
    let conn = registering(hub, server, 1, &Raw::of(REGISTER).body(body));
    hub.put(conn, Raw::of(BURST_BEGIN));
    for user in 0..users {
        hub.put(conn, bind(&[(user + 1, 0, &format!("user{server}-{user}"))]));
    }
    hub.put(conn, Raw::of(SYNCED).info(users as u32));
    conn
}

/// What a STATE says: users, bytes queued, thousandths busy.
pub(crate) fn state(users: u32, queued: u64, busy: u16) -> Raw {
    Raw::of(STATE).body(format!(r#"{{"users":{users},"queued_bytes":{queued},"busy_permille":{busy}}}"#))
}

fn assign(hub: &mut Hub) -> Result<u16, NoServer> {
    hub.core.assign(hub.now, None).map(|assigned| assigned.server.0)
}

fn assign_named(hub: &mut Hub, user: &str) -> Result<u16, NoServer> {
    hub.core.assign(hub.now, Some(&user.parse().expect("an id"))).map(|assigned| assigned.server.0)
}

#[test]
fn an_assignment_names_number_and_address() {
    let mut hub = hub();
    assert_eq!(hub.core.assign(hub.now, None), Err(NoServer::NoneRegistered));
    member_with(&mut hub, 7, 0, 10);
    let assigned = Assigned { server: ServerId(7), address: "10.0.0.7:6000".to_owned() };
    assert_eq!(hub.core.assign(hub.now, None), Ok(assigned));
}

#[test]
fn a_hundred_thousand_at_one_moment_are_spread_evenly() {
    for policy in [Policy::RoundRobin, Policy::MinUserCount, Policy::LeastBusy] {
        let mut hub = hub_with(|config| config.policy = policy);
        for server in 1..=20 {
            let conn = member_with(&mut hub, server, 0, 100_000);
            hub.put(conn, state(1_000, 0, 300));
        }
        let mut counts = [0; 20];
        for _ in 0..100_000 {
            counts[usize::from(assign(&mut hub).expect("there is room")) - 1] += 1;
        }
        assert!(counts.iter().all(|count| (4_900..=5_100).contains(count)), "{policy:?}: {counts:?}");
    }
}

#[test]
fn round_robin_takes_each_in_turn() {
    let mut hub = hub_with(|config| config.policy = Policy::RoundRobin);
    for (server, users) in [(1, 5), (4, 0), (9, 2)] {
        member_with(&mut hub, server, users, 10);
    }
    let assigned: Vec<_> = (0..5).map(|_| assign(&mut hub)).collect();
    assert_eq!(assigned, [Ok(1), Ok(4), Ok(9), Ok(1), Ok(4)]);
}

#[test]
fn the_fewest_users_are_counted_with_those_on_their_way() {
    let mut hub = hub();
    member_with(&mut hub, 1, 3, 10);
    member_with(&mut hub, 2, 1, 10);
    let assigned: Vec<_> = (0..4).map(|_| assign(&mut hub)).collect();
    assert_eq!(assigned, [Ok(2), Ok(2), Ok(1), Ok(2)]);
}

#[test]
fn the_least_busy_gets_as_many_as_make_it_as_busy_as_the_others() {
    let mut hub = hub_with(|config| config.policy = Policy::LeastBusy);
    let (a, b) = (member_with(&mut hub, 1, 100, 1_000), member_with(&mut hub, 2, 100, 1_000));
    hub.put(a, state(100, 0, 100));
    hub.put(b, state(100, 0, 200));
    let assigned: Vec<_> = (0..130).map(|_| assign(&mut hub)).collect();
    assert!(assigned[..100].iter().all(|server| *server == Ok(1)), "until it would be as busy");
    assert_eq!(assigned[100..].iter().filter(|server| **server == Ok(2)).count(), 10, "then by what a user costs");
}

/// What a server without users does is no user's cost.
#[test]
fn in_an_idle_cluster_the_least_busy_is_the_one_with_the_fewest_users() {
    for (busy, users) in [(9, 0), (1, 10), (0, 31)] {
        let mut hub = hub_with(|config| config.policy = Policy::LeastBusy);
        let (a, b) = (member_with(&mut hub, 1, 300, 1_000), member_with(&mut hub, 2, users, 1_000));
        hub.put(a, state(300, 0, 3));
        hub.put(b, state(users as u32, 0, busy));
        let assigned: Vec<_> = (users..300).map(|_| assign(&mut hub)).collect();
        assert!(assigned.iter().all(|server| *server == Ok(2)), "{busy} {users}: {assigned:?}");
        let next = [assign(&mut hub), assign(&mut hub)];
        assert!(next == [Ok(1), Ok(2)] || next == [Ok(2), Ok(1)], "{next:?}");
    }
}

#[test]
fn a_new_server_that_is_busy_with_few_users_is_filled_up_at_what_others_cost() {
    let mut hub = hub_with(|config| config.policy = Policy::LeastBusy);
    let (a, b) = (member_with(&mut hub, 1, 300, 1_000), member_with(&mut hub, 2, 1, 1_000));
    hub.put(a, state(300, 0, 301));
    hub.put(b, state(1, 0, 101));
    let assigned: Vec<_> = (0..200).map(|_| assign(&mut hub)).collect();
    let first_elsewhere = assigned.iter().position(|server| *server == Ok(1)).unwrap_or(assigned.len());
    assert!((145..=155).contains(&first_elsewhere), "(301 - 101) / (402 / 301): {first_elsewhere}");
}

#[test]
fn a_reservation_ends_with_its_time_or_when_its_user_is_in() {
    let mut hub = hub();
    let (a, b) = (member_with(&mut hub, 1, 0, 1), member_with(&mut hub, 2, 0, 1));
    assert_eq!(assign_named(&mut hub, "alice"), Ok(1));
    assert_eq!(assign_named(&mut hub, "bob"), Ok(2));
    assert_eq!(assign_named(&mut hub, "carol"), Err(NoServer::Full));
    assert_eq!(assign_named(&mut hub, "bob"), Ok(2), "his place is kept for him");
    hub.frames(a);
    log_in(&mut hub, a, "bob", 1);
    assert_eq!(assign(&mut hub), Ok(2), "he went elsewhere");
    assert_eq!(assign(&mut hub), Err(NoServer::Full));
    drain(&mut hub);
    pass_alive(&mut hub, &[a, b], 9_999);
    assert_eq!(assign(&mut hub), Err(NoServer::Full));
    pass_alive(&mut hub, &[a, b], 1);
    assert_eq!(assign(&mut hub), Ok(2), "nobody came, and bob is on the other");
    assert_eq!(assign(&mut hub), Err(NoServer::Full));
}

#[test]
fn who_asks_again_keeps_the_place_and_takes_no_other() {
    let mut hub = hub();
    let (a, b) = (member_with(&mut hub, 1, 0, 2), member_with(&mut hub, 2, 0, 1));
    drain(&mut hub);
    assert_eq!(assign_named(&mut hub, "alice"), Ok(1));
    pass_alive(&mut hub, &[a, b], 9_000);
    assert_eq!(assign_named(&mut hub, "alice"), Ok(1), "not the other, though that one has nobody");
    pass_alive(&mut hub, &[a, b], 9_999);
    assert_eq!((assign(&mut hub), assign(&mut hub)), (Ok(2), Ok(1)));
    assert_eq!(assign(&mut hub), Err(NoServer::Full), "hers stands for ten seconds from when she last asked");
    pass_alive(&mut hub, &[a, b], 1);
    assert_eq!(assign(&mut hub), Ok(1));
    pass_alive(&mut hub, &[a, b], 10_000);
    assert_eq!(assign_named(&mut hub, "alice"), Ok(2));
    hub.put(b, Raw::of(DRAIN));
    assert_eq!(assign_named(&mut hub, "alice"), Ok(1), "that one takes nobody any more");
    assert_eq!((assign(&mut hub), assign(&mut hub)), (Ok(1), Err(NoServer::Full)));
}

#[test]
fn a_user_of_whom_nothing_was_said_counts_once() {
    let mut hub = hub();
    let (a, b) = (member_with(&mut hub, 1, 0, 3), member_with(&mut hub, 2, 0, 1));
    drain(&mut hub);
    assert_eq!((assign(&mut hub), assign(&mut hub)), (Ok(1), Ok(2)));
    log_in(&mut hub, a, "alice", 1);
    assert_eq!((assign(&mut hub), assign(&mut hub)), (Ok(1), Ok(1)));
    assert_eq!(assign(&mut hub), Err(NoServer::Full), "alice and two on their way; nobody has come to the second");
    hub.put(a, Raw::of(BURST_BEGIN));
    hub.put(a, bind(&[(1, 0, "alice")]));
    hub.put(a, Raw::of(SYNCED).info(1));
    assert_eq!(assign(&mut hub), Err(NoServer::Full), "who is told of again has not come just now");
    log_in(&mut hub, b, "zoe", 1);
    hub.put(b, Raw::of(UNBIND).info(1001).id(1).from("zoe"));
    assert_eq!(assign(&mut hub), Ok(2), "the second's reservation is redeemed, and she has left it");
    assert_eq!(assign(&mut hub), Err(NoServer::Full));
    drain(&mut hub);
    log_in(&mut hub, a, "zoe", 2);
    hub.put(a, Raw::of(UNBIND).id(2).from("zoe"));
    assert_eq!(assign(&mut hub), Err(NoServer::Full), "who was sent by another server was not assigned");
}

#[test]
fn a_million_may_be_on_their_way_and_those_who_came_are_not() {
    let mut hub = hub();
    let a = member_with(&mut hub, 1, 0, u32::MAX);
    drain(&mut hub);
    assert_eq!(assign_named(&mut hub, "alice"), Ok(1));
    for _ in 1..1 << 20 {
        assert_eq!(assign(&mut hub), Ok(1));
    }
    assert_eq!(assign(&mut hub), Err(NoServer::TooMany));
    log_in(&mut hub, a, "alice", 1);
    assert_eq!((assign(&mut hub), assign(&mut hub)), (Ok(1), Err(NoServer::TooMany)));
}

#[test]
fn nobody_is_sent_to_a_server_that_takes_nobody() {
    let mut hub = hub();
    let (a, b) = (member_with(&mut hub, 1, 0, 10), member_with(&mut hub, 2, 5, 10));
    unsynced(&mut hub, 3);
    assert_eq!(assign(&mut hub), Ok(1), "the third looks empty only because it has not told of its users");
    hub.core.freeze(hub.now, ServerId(1));
    assert_eq!(assign(&mut hub), Ok(2));
    hub.put(b, Raw::of(DRAIN));
    assert_eq!(assign(&mut hub), Err(NoServer::NoneOpen));
    assert!(hub.core.unfreeze(hub.now, ServerId(1)));
    assert_eq!(assign(&mut hub), Ok(1));
    hub.core.freeze(hub.now, ServerId(1));
    hub.reset(a);
    let a = member_with(&mut hub, 1, 0, 10);
    assert_eq!(assign(&mut hub), Err(NoServer::NoneOpen), "frozen it stays when it comes back");
    hub.reset(a);
    assert_eq!(hub.core.frozen_away().collect::<Vec<_>>(), [ServerId(1)]);
    assert!(hub.core.unfreeze(hub.now, ServerId(1)), "also while it is away");
    assert!(!hub.core.unfreeze(hub.now, ServerId(1)));
    assert_eq!(hub.core.frozen_away().count(), 0);
    member_with(&mut hub, 1, 0, 10);
    assert_eq!(assign(&mut hub), Ok(1));
}

#[test]
fn a_lost_server_is_assigned_nobody() {
    let mut hub = hub();
    let a = member_with(&mut hub, 1, 0, 10);
    member_with(&mut hub, 2, 5, 10);
    assert_eq!(assign(&mut hub), Ok(1));
    hub.reset(a);
    assert_eq!(assign(&mut hub), Ok(2));
}
