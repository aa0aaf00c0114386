//! A server that takes logins and passes messages on, but one, with which it does what it is told to. All who join a group
//! are in the same.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

const PREFACE: [u8; 8] = *b"TRNK\x00\x01\x01\x00";
const LOGIN: u8 = 0x01;
const WELCOME: u8 = 0x02;
const CLOSE: u8 = 0x03;
const DATA: u8 = 0x10;
const BOUNCE: u8 = 0x12;
const GROUP_JOIN: u8 = 0x20;
const GROUP_DATA: u8 = 0x22;
const GROUP_EVENT: u8 = 0x23;
const JOINED: u32 = 1;
const BUSY: u32 = 4;
const INTERNAL: u32 = 1009;
/// Of all messages, the one that is not just passed on.
const CHOSEN: u32 = 40;

/// What becomes of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is passed on like all others.
    None,
    Lose,
    Duplicate,
    /// It changes places with the next of the same sender.
    Swap,
    /// A byte of its body changes, counted from the end where that is negative.
    Corrupt(isize),
    /// Its `to` changes to a third user, and there it goes.
    Readdress,
    /// It goes to a third user.
    Misdeliver,
    /// It is bounced BUSY.
    Bounce,
    /// A bounce comes for a message that was not sent.
    BounceAnother,
    /// Its receiver is hung up on.
    HangUp,
    /// Its receiver is closed, with a word.
    Close,
}

#[derive(Clone)]
struct Frame {
    kind: u8,
    info_type: u32,
    id: u64,
    to: Vec<u8>,
    from: Vec<u8>,
    body: Vec<u8>,
}

struct Users {
    fault: Fault,
    streams: BTreeMap<Vec<u8>, TcpStream>,
    message_count: u32,
    /// Waits, for this receiver, for the next of its sender.
    held: Option<(Vec<u8>, Frame)>,
}

/// A server that runs.
pub(crate) struct Relay {
    pub(crate) addr: SocketAddr,
    users: Arc<Mutex<Users>>,
}

impl Relay {
    /// Whether the chosen message came, and some behind it.
    pub(crate) fn has_struck(&self) -> bool {
        locked(&self.users).message_count >= CHOSEN + 8
    }
}

/// Serves so many users; ends with the last of them.
pub(crate) fn start(user_count: usize, fault: Fault) -> Relay {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let addr = listener.local_addr().expect("it is bound");
    let users = Users { fault, streams: BTreeMap::new(), message_count: 0, held: None };
    let users = Arc::new(Mutex::new(users));
    let relay = Relay { addr, users: Arc::clone(&users) };
    std::thread::spawn(move || {
        for stream in listener.incoming().take(user_count) {
            let (stream, users) = (stream.expect("a user comes"), Arc::clone(&users));
            // What breaks here is seen by the load, which is what the test looks at.
            std::thread::spawn(move || drop(serve(stream, &users)));
        }
    });
    relay
}

fn serve(mut stream: TcpStream, users: &Mutex<Users>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut preface = [0; 8];
    stream.read_exact(&mut preface)?;
    assert_eq!(preface, PREFACE);
    let login = Frame::read(&mut stream)?;
    assert_eq!(login.kind, LOGIN);
    let body = br#"{"server":1,"session":"1-7","heartbeat_ms":10000,"max_frame":1048576,"cluster":"none"}"#;
    let welcome = Frame { body: body.to_vec(), ..Frame::bare(WELCOME, &login.from) };
    {
        let mut users = locked(users);
        users.streams.insert(login.from, stream.try_clone()?);
        users.deliver(&welcome.to, &welcome);
    }
    loop {
        let frame = Frame::read(&mut stream)?;
        match frame.kind {
            DATA => locked(users).pass_on(&frame.to.clone(), frame),
            GROUP_JOIN => {
                let joined = Frame { kind: GROUP_EVENT, info_type: JOINED, ..frame };
                locked(users).deliver(&joined.from, &joined);
            }
            GROUP_DATA => locked(users).broadcast(&frame),
            _ => {}
        }
    }
}

fn locked(users: &Mutex<Users>) -> MutexGuard<'_, Users> {
    users.lock().expect("nobody panics meanwhile")
}

impl Users {
    fn broadcast(&mut self, frame: &Frame) {
        let others: Vec<Vec<u8>> = self.streams.keys().filter(|user| **user != frame.from).cloned().collect();
        others.iter().for_each(|receiver| self.pass_on(receiver, frame.clone()));
    }

    fn pass_on(&mut self, receiver: &[u8], frame: Frame) {
        self.message_count += 1;
        if self.message_count == CHOSEN {
            return self.spoil(receiver, frame);
        }
        self.deliver(receiver, &frame);
        if let Some((to, held)) = self.held.take_if(|(to, held)| to == receiver && held.from == frame.from) {
            self.deliver(&to, &held);
        }
    }

    fn spoil(&mut self, receiver: &[u8], mut frame: Frame) {
        match self.fault {
            Fault::None => self.deliver(receiver, &frame),
            Fault::Lose => {}
            Fault::Duplicate => {
                self.deliver(receiver, &frame);
                self.deliver(receiver, &frame);
            }
            Fault::Swap => self.held = Some((receiver.to_vec(), frame)),
            Fault::Corrupt(place) => {
                let place = place.rem_euclid(frame.body.len() as isize) as usize;
                frame.body[place] ^= 0x20;
                self.deliver(receiver, &frame);
            }
            Fault::Readdress => {
                frame.to = self.third(&frame);
                self.deliver(if frame.kind == DATA { &frame.to } else { receiver }, &frame);
            }
            Fault::Misdeliver => self.deliver(&self.third(&frame), &frame),
            Fault::Bounce => self.bounce(&frame, frame.id),
            Fault::BounceAnother => {
                self.deliver(receiver, &frame);
                self.bounce(&frame, frame.id + 1_000_000);
            }
            Fault::HangUp => self.streams[receiver].shutdown(Shutdown::Write).expect("it is connected"),
            Fault::Close => {
                let close = Frame { info_type: INTERNAL, body: b"out of luck".to_vec(), ..Frame::bare(CLOSE, b"") };
                self.deliver(receiver, &close);
            }
        }
    }

    /// A user that has no part in a message.
    fn third(&self, frame: &Frame) -> Vec<u8> {
        let third = self.streams.keys().find(|user| **user != frame.to && **user != frame.from);
        third.expect("there are more than two users").clone()
    }

    fn bounce(&self, frame: &Frame, id: u64) {
        let bounce = Frame { info_type: BUSY, id, from: frame.to.clone(), ..Frame::bare(BOUNCE, &frame.from) };
        self.deliver(&frame.from, &bounce);
    }

    fn deliver(&self, user: &[u8], frame: &Frame) {
        // A user that is gone gets nothing.
        drop((&self.streams[user]).write_all(&frame.encode()));
    }
}

impl Frame {
    fn bare(kind: u8, to: &[u8]) -> Frame {
        Frame { kind, info_type: 0, id: 0, to: to.to_vec(), from: Vec::new(), body: Vec::new() }
    }

    fn read(stream: &mut TcpStream) -> io::Result<Frame> {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let mut rest = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut rest)?;
        let (header, names) = rest.split_at(16);
        let (to, names) = names.split_at(header[2].into());
        let (from, body) = names.split_at(header[3].into());
        Ok(Frame {
            kind: header[0],
            info_type: u32::from_be_bytes(header[4..8].try_into().expect("4 bytes")),
            id: u64::from_be_bytes(header[8..16].try_into().expect("8 bytes")),
            to: to.to_vec(),
            from: from.to_vec(),
            body: body.to_vec(),
        })
    }

    fn encode(&self) -> Vec<u8> {
        let length = 16 + self.to.len() + self.from.len() + self.body.len();
        let lengths = [self.kind, 0, self.to.len() as u8, self.from.len() as u8];
        let (info_type, id) = (self.info_type.to_be_bytes(), self.id.to_be_bytes());
        [&(length as u32).to_be_bytes()[..], &lengths, &info_type, &id, &self.to, &self.from, &self.body].concat()
    }
}
