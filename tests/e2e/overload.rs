//! Thousands of connections that say nothing, or begin something and never end it, beside two users who talk.
//!
//! `cargo test` opens 1,000 of each sort; `OVERLOAD_CONNECTIONS=10000 cargo test --release --test e2e overload --
//! --test-threads=1 --nocapture` as many as wanted, where the system has the descriptors.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use trunkline::net::raise_descriptor_limit;

use crate::now;
use crate::program::{APPSERVER, Program};
use crate::raw::{CLIENT_PREFACE, CLOSE, DATA, Frame, LOGIN, LOGIN_TIMEOUT, PARTIAL, Raw};
use crate::vitals::{peak_bytes, resident_bytes};

/// Connections of each sort where nothing else is asked for.
const CONNECTIONS: usize = 1_000;
/// Memory that one of them may cost the server.
const BYTES_EACH_MAX: usize = 4 << 10;
/// How much sooner than its time, counted from before its dial: a reactor that was held up has an old clock.
const EARLY_MAX: Duration = Duration::from_secs(1);
/// How much later than its time a connection may be seen to go, on a busy machine.
const LATE_MAX: Duration = Duration::from_secs(5);
/// The longest that two users wait for an answer meanwhile.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(4);
/// How often a byte drips.
const DRIP: Duration = Duration::from_secs(1);

/// Two users of a server who talk until they are told to stop.
pub(crate) struct Talk {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Duration>>,
}

impl Talk {
    pub(crate) fn start(addr: SocketAddr) -> Talk {
        let (mut alice, mut bob) = (Raw::login(addr, "alice"), Raw::login(addr, "bob"));
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let pace = crossbeam_channel::tick(Duration::from_millis(5));
        let thread = std::thread::spawn(move || {
            let mut times = Vec::new();
            while !told.load(Ordering::Relaxed) {
                let asked = now();
                bob.expect(&alice.send("bob", 1, "are you there?"));
                alice.expect(&bob.send("alice", 1, "yes"));
                times.push(asked.elapsed());
                pace.recv().expect("it ticks");
            }
            times
        });
        Talk { stop, thread }
    }

    /// Their round trips, shortest first.
    pub(crate) fn end(self) -> Vec<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        let mut times = self.thread.join().expect("they were answered");
        times.sort_unstable();
        times
    }
}

/// What is the matter with a connection, and when and how it is to end for that.
struct Sort {
    name: &'static str,
    open: fn(SocketAddr, usize) -> Raw,
    /// Sent once a second, for as long as nobody's time is up.
    drip: &'static [u8],
    code: u32,
    after: Duration,
}

fn connections_wanted() -> usize {
    let wanted = std::env::var("OVERLOAD_CONNECTIONS").map_or(CONNECTIONS, |value| value.parse().expect("a number"));
    // Three sorts may be tested at once, and other tests beside them need as many again.
    let share = if wanted > CONNECTIONS { 1 } else { 8 };
    let allowed = raise_descriptor_limit() / share;
    if wanted > allowed {
        println!("{allowed} connections instead of {wanted}: this process may have no more descriptors");
    }
    wanted.min(allowed)
}

fn expect_reaped(sort: &Sort) {
    let wanted = connections_wanted();
    let server = Program::start_with(APPSERVER, &["--listen", "127.0.0.1:0"], &[("RUST_LOG", "warn")]);
    let addr = server.ready("clients");
    let talk = Talk::start(addr);
    let before = resident_bytes(&server);

    let opening = now();
    let open = |number| {
        let since = now();
        ((sort.open)(addr, number), since)
    };
    let mut opened: Vec<(Raw, Instant)> = (0..wanted).map(open).collect();
    let took = opening.elapsed();
    if !sort.drip.is_empty() {
        let drips = crossbeam_channel::tick(DRIP);
        while opening.elapsed() + 2 * DRIP < sort.after {
            drips.recv().expect("it ticks");
            opened.iter_mut().for_each(|(raw, _)| raw.write_in_vain(sort.drip));
        }
    }
    let full = resident_bytes(&server);
    for (raw, since) in &mut opened {
        let close = raw.next().unwrap_or_else(|| panic!("{}: ended without CLOSE", sort.name));
        let lived = since.elapsed();
        assert_eq!((close.kind, close.info_type), (CLOSE, sort.code), "{}: {close:?}", sort.name);
        let latest = sort.after + took + LATE_MAX;
        assert!(sort.after - EARLY_MAX < lived && lived < latest, "{}: closed after {lived:?}", sort.name);
    }
    for (raw, _) in &mut opened {
        assert_eq!(raw.next(), None, "{}: nothing follows CLOSE", sort.name);
    }
    drop(opened);
    let times = talk.end();
    let (median, p99, longest) = (times[times.len() / 2], times[times.len() * 99 / 100], times[times.len() - 1]);
    let each = full.saturating_sub(before) / wanted;
    println!(
        "{wanted} {}, opened in {took:.1?}: {each} B each ({before} before, {full} full, {} at most, {} after); \
         {} round trips beside them: median {median:.1?}, p99 {p99:.1?}, longest {longest:.1?}",
        sort.name,
        peak_bytes(&server),
        resident_bytes(&server),
        times.len(),
    );
    assert!(each <= BYTES_EACH_MAX, "{each} B of memory each");
    assert!(longest < ROUND_TRIP_MAX, "two users waited for {longest:?}");
    // And the server is as good as new.
    let mut carol = Raw::login(addr, "carol");
    let note = carol.send("carol", 1, "me");
    carol.expect(&note);
}

#[test]
fn overload_by_connections_that_say_nothing_ends_after_5_s() {
    let silent = Sort {
        name: "that say nothing",
        open: |addr, _| Raw::dial(addr),
        drip: b"",
        code: LOGIN_TIMEOUT,
        after: Duration::from_secs(5),
    };
    expect_reaped(&silent);
}

#[test]
fn overload_by_logins_that_never_end_ends_after_10_s() {
    let endless_login = Sort {
        name: "with a LOGIN that drips",
        open: |addr, number| {
            let mut raw = Raw::dial(addr);
            let login = Frame::new(LOGIN, &format!("user{number}"), "", 0, vec![b' '; 4_000]).encode();
            raw.write(&[&CLIENT_PREFACE[..], &login[..100]].concat());
            raw
        },
        drip: b" ",
        code: LOGIN_TIMEOUT,
        after: Duration::from_secs(10),
    };
    expect_reaped(&endless_login);
}

#[test]
fn overload_by_frames_that_never_end_ends_after_10_s() {
    let endless_frame = Sort {
        name: "with a frame that drips",
        open: |addr, number| {
            let mut raw = Raw::login(addr, &format!("user{number}"));
            let frame = raw.frame(DATA, "alice", 1, vec![b'x'; 1 << 19]).encode();
            raw.write(&frame[..100]);
            raw
        },
        drip: b"x",
        code: PARTIAL,
        after: Duration::from_secs(10),
    };
    expect_reaped(&endless_frame);
}
