//! The floor: three bare forwarders, for what the way `edge => hub => edge` costs with the least that a program can do.
//!
//! Nothing is parsed, nobody is looked up by name: frames have one size, `info_type` (bytes 8 to 12) is the receiver's
//! number, and a table gives its connection. As in Trunkline all reads of a turn come before its writes, and each
//! connection is written to once. Backpressure is the load's: queues are not bounded here.
//!
//! A user says its number (4 bytes) first and hears it back. User n is on edge n modulo 2.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use trunkline::net::{listen, raise_descriptor_limit};

use crate::process::{end_with_parent, say_ready};

const LISTENER: Token = Token(usize::MAX);
const READ_BYTES: usize = 256 << 10;
const HELLO_BYTES: usize = 4;

/// What a process forwards to.
#[derive(Clone, Copy)]
pub(crate) enum Part {
    /// Between edges: the first two connections are those.
    Hub,
    /// Between users and the hub.
    Edge { hub: SocketAddr, number: u32 },
}

struct Conn {
    stream: TcpStream,
    greeted: bool,
    carry: Vec<u8>,
    out: Vec<u8>,
    written: usize,
    writable: bool,
    dirty: bool,
    hung_up: bool,
}

impl Conn {
    fn new(stream: TcpStream, greeted: bool) -> io::Result<Conn> {
        stream.set_nodelay(true)?;
        let (carry, out) = (Vec::new(), Vec::new());
        Ok(Conn { stream, greeted, carry, out, written: 0, writable: true, dirty: false, hung_up: false })
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.writable && self.written < self.out.len() {
            match self.stream.write(&self.out[self.written..]) {
                Ok(bytes) => self.written += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) => return Err(error),
            }
        }
        if self.written == self.out.len() {
            self.out.clear();
            self.written = 0;
        }
        Ok(())
    }
}

struct Forwarder {
    part: Part,
    frame_bytes: usize,
    poll: Poll,
    listener: TcpListener,
    /// By token; connection 0 of an edge is the hub.
    conns: Vec<Option<Conn>>,
    /// By a user's number, on an edge; by an edge's, on the hub.
    places: Vec<u32>,
    dirty: Vec<u32>,
    buffer: Vec<u8>,
}

/// Forwards until its parent is gone.
pub(crate) fn run(part: Part, frame_bytes: usize) -> io::Result<()> {
    end_with_parent();
    raise_descriptor_limit();
    let mut listener = listen(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let addr = listener.local_addr()?;
    let poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    // An incomplete frame leaves room to read more of it.
    let buffer = vec![0; READ_BYTES.max(2 * frame_bytes)];
    let (conns, places) = (Vec::new(), Vec::new());
    let mut forwarder = Forwarder { part, frame_bytes, poll, listener, conns, places, dirty: Vec::new(), buffer };
    if let Part::Edge { hub, number } = part {
        let mut stream = std::net::TcpStream::connect(hub)?;
        stream.write_all(&number.to_be_bytes())?;
        stream.read_exact(&mut [0; HELLO_BYTES])?;
        stream.set_nonblocking(true)?;
        forwarder.add(TcpStream::from_std(stream), true)?;
    }
    say_ready(addr);
    let mut events = Events::with_capacity(1024);
    loop {
        forwarder.turn(&mut events)?;
    }
}

impl Forwarder {
    fn add(&mut self, mut stream: TcpStream, greeted: bool) -> io::Result<()> {
        let token = Token(self.conns.len());
        self.poll.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        self.conns.push(Some(Conn::new(stream, greeted)?));
        Ok(())
    }

    fn turn(&mut self, events: &mut Events) -> io::Result<()> {
        match self.poll.poll(events, None) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error),
        }
        for event in &*events {
            if event.token() == LISTENER {
                self.accept()?;
                continue;
            }
            let place = event.token().0;
            if event.is_writable()
                && let Some(conn) = &mut self.conns[place]
                && !std::mem::replace(&mut conn.writable, true)
            {
                self.list_dirty(place as u32);
            }
            if let Some(conn) = &mut self.conns[place] {
                conn.hung_up |= event.is_read_closed();
            }
            if event.is_readable() {
                self.read(place);
            }
        }
        let mut dirty = std::mem::take(&mut self.dirty);
        for place in dirty.drain(..) {
            if let Some(conn) = &mut self.conns[place as usize] {
                conn.dirty = false;
                if conn.flush().is_err() {
                    self.conns[place as usize] = None;
                }
            }
        }
        self.dirty = dirty;
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => self.add(stream, false)?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads until a read falls short: what comes later is told anew.
    fn read(&mut self, place: usize) {
        loop {
            let Some(conn) = &mut self.conns[place] else { return };
            let (kept, mut buffer) = (conn.carry.len(), std::mem::take(&mut self.buffer));
            buffer[..kept].copy_from_slice(&conn.carry);
            conn.carry.clear();
            let read = conn.stream.read(&mut buffer[kept..]);
            let ended = matches!(&read, Ok(0)) || matches!(&read, Err(error) if error.kind() != ErrorKind::WouldBlock);
            let bytes = kept + read.unwrap_or(0);
            let more = bytes == buffer.len() || (conn.hung_up && bytes > kept);
            self.forward(place, &buffer[..bytes]);
            self.buffer = buffer;
            if ended {
                self.conns[place] = None;
            }
            if !more {
                return;
            }
        }
    }

    fn forward(&mut self, place: usize, mut bytes: &[u8]) {
        let Some(conn) = &mut self.conns[place] else { return };
        if !conn.greeted
            && let Some((hello, rest)) = bytes.split_first_chunk::<HELLO_BYTES>()
        {
            conn.greeted = true;
            conn.out.extend_from_slice(hello);
            bytes = rest;
            let number = u32::from_be_bytes(*hello) as usize;
            if self.places.len() <= number {
                self.places.resize(number + 1, 0);
            }
            self.places[number] = place as u32;
            self.list_dirty(place as u32);
        }
        let whole = bytes.len() / self.frame_bytes * self.frame_bytes;
        let (frames, rest) = bytes.split_at(whole);
        if let Some(conn) = &mut self.conns[place] {
            conn.carry.extend_from_slice(rest);
        }
        match self.part {
            // Whatever a user says goes up.
            Part::Edge { .. } if place != 0 => self.queue(0, frames),
            Part::Edge { .. } => self.spread(frames, |number| number),
            Part::Hub => self.spread(frames, |number| number % 2),
        }
    }

    /// Sends frames on, neighbours with the same way together.
    fn spread(&mut self, frames: &[u8], way: impl Fn(usize) -> usize) {
        let (mut begin, mut end, mut to) = (0, 0, None);
        for frame in frames.chunks_exact(self.frame_bytes) {
            let number = u32::from_be_bytes([frame[8], frame[9], frame[10], frame[11]]) as usize;
            let next = self.places[way(number)];
            if let Some(to) = to.filter(|to| *to != next) {
                self.queue(to, &frames[begin..end]);
                begin = end;
            }
            to = Some(next);
            end += self.frame_bytes;
        }
        if let Some(to) = to {
            self.queue(to, &frames[begin..end]);
        }
    }

    fn queue(&mut self, place: u32, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if let Some(conn) = &mut self.conns[place as usize] {
            conn.out.extend_from_slice(bytes);
            self.list_dirty(place);
        }
    }

    fn list_dirty(&mut self, place: u32) {
        if let Some(conn) = &mut self.conns[place as usize]
            && !std::mem::replace(&mut conn.dirty, true)
        {
            self.dirty.push(place);
        }
    }
}
