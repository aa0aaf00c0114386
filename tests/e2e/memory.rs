//! A server that may use 256 MB of memory, and users who would have it use more.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use crate::overload::Talk;
use crate::program::{APPSERVER, Program};
use crate::raw::{DATA, Raw};
use crate::vitals::{peak_bytes, resident_bytes};
use crate::{PATIENCE, now};

/// What the server may allocate (RLIMIT_DATA: a limit on resident memory is one that Linux does not keep), in KiB.
const LIMIT_KIB: usize = 256 << 10;
/// Users of each sort.
const USERS: usize = 200;
/// Bytes of the body of each message to those who read nothing.
const FLOOD_BODY_BYTES: usize = 64 << 10;
/// Bytes that are sent of each frame of a mebibyte: those of all alone hold no sender back.
const HALF_BYTES: usize = 100 << 10;
/// The longest that two well-behaved users wait for an answer: senders are held back for 3 s at a time.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(10);
/// What the server may keep of a storm.
const KEPT_BYTES_MAX: usize = 24 << 20;

/// Who writes as much of the same bytes as the server takes, over and over or once.
struct Writer {
    raw: Raw,
    bytes: Vec<u8>,
    written: usize,
    again: bool,
}

impl Writer {
    /// To each of those who read nothing in turn, without an end.
    fn flood(addr: SocketAddr, name: &str) -> Writer {
        let raw = Raw::login(addr, name);
        let frame = |number| raw.frame(DATA, &format!("deaf{number}"), 1, vec![b'x'; FLOOD_BODY_BYTES]).encode();
        let bytes = (0..USERS).flat_map(frame).collect();
        Writer { raw, bytes, written: 0, again: true }
    }

    /// A frame that does not end.
    fn half(addr: SocketAddr, name: &str) -> Writer {
        let raw = Raw::login(addr, name);
        let mut bytes = raw.frame(DATA, "nobody", 1, vec![b'x'; (1 << 20) - 100]).encode();
        bytes.truncate(HALF_BYTES);
        Writer { raw, bytes, written: 0, again: false }
    }

    fn go_on(&mut self) {
        self.written += self.raw.write_some(&self.bytes[self.written..]);
        if self.again && self.written == self.bytes.len() {
            self.written = 0;
        }
    }
}

#[test]
fn a_server_of_256_mb_outlives_slow_readers_and_half_sent_frames() {
    let run = format!("ulimit -d {LIMIT_KIB} && exec \"$0\" --listen 127.0.0.1:0 --max-bytes-per-second 0");
    let mut command = Command::new("sh");
    command.args(["-c", &run, APPSERVER]).env("RUST_LOG", "info");
    let server = Program::spawn(&mut command).expect("there is a shell");
    let addr = server.ready("clients");
    let talk = Talk::start(addr);
    let deaf: Vec<Raw> = (0..USERS).map(|number| Raw::login_deaf(addr, &format!("deaf{number}"))).collect();
    let floods = (0..4).map(|number| Writer::flood(addr, &format!("flood{number}")));
    let halves = (0..USERS).map(|number| Writer::half(addr, &format!("half{number}")));
    let mut writers: Vec<Writer> = floods.chain(halves).collect();
    let before = resident_bytes(&server);

    let pace = crossbeam_channel::tick(Duration::from_millis(1));
    let ends = now() + PATIENCE;
    let strains = |server: &Program| server.stderr.text().matches("senders are held back").count();
    while strains(&server) < 2 {
        server.expect_running();
        assert!(now() < ends, "memory was not short twice:\n{}", server.stderr.text());
        writers.iter_mut().for_each(Writer::go_on);
        pace.recv().expect("it ticks");
    }
    server.stderr.line_with("closed 1002 SLOW: memory is short");
    let full = resident_bytes(&server);
    drop((deaf, writers));
    server.stderr.line_with("memory: there is room again");

    while resident_bytes(&server) > before + KEPT_BYTES_MAX {
        assert!(now() < ends, "{} bytes are kept, {before} were held before", resident_bytes(&server));
        pace.recv().expect("it ticks");
    }
    let mut carol = Raw::login(addr, "carol");
    let note = carol.send("carol", 1, "me");
    carol.expect(&note);
    let times = talk.end();
    let longest = times[times.len() - 1];
    println!(
        "{before} B before, {full} B full, {} B at most, {} B after; {} round trips, longest {longest:.1?}",
        peak_bytes(&server),
        resident_bytes(&server),
        times.len()
    );
    assert!(longest < ROUND_TRIP_MAX, "two users waited for {longest:?}");
    assert!(peak_bytes(&server) < LIMIT_KIB << 10);
}
