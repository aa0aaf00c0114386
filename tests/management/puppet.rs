//! An application server that is only bytes: it says whatever a test has it say.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use crate::PATIENCE;

const PROVE: u8 = 0x81;
const REGISTER: u8 = 0x82;
const REGISTERED: u8 = 0x83;
const UNBIND: u8 = 0x86;
const BURST_BEGIN: u8 = 0x87;
const BIND: u8 = 0x88;
const SYNCED: u8 = 0x89;
const PING: u8 = 0x05;

pub(crate) struct Puppet {
    stream: TcpStream,
    sessions: u64,
}

impl Puppet {
    /// In, with no users; heard of each second, until it is dropped.
    pub(crate) fn join(transfer: SocketAddr, id: u16) -> Puppet {
        let mut stream = TcpStream::connect(transfer).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time");
        stream.write_all(b"TRNK\x01\x01\x01\x00").expect("it reads");
        read_frame(&mut stream);
        let register = format!(r#"{{"address":"192.0.2.1:{id}","capacity":1000000}}"#);
        let hello = [
            frame(PROVE, id.into(), 1, b"trunkline", b"", &[0; 64]),
            frame(REGISTER, 0, 0, b"", b"", register.as_bytes()),
            frame(BURST_BEGIN, 0, 0, b"", b"", b""),
            frame(SYNCED, 0, 0, b"", b"", b""),
        ];
        stream.write_all(&hello.concat()).expect("it reads");
        assert_eq!(read_frame(&mut stream)[4], REGISTERED);
        let alive = stream.try_clone().expect("a second name of it");
        std::thread::spawn(move || stay(alive));
        Puppet { stream, sessions: 0 }
    }

    /// All of them are in.
    pub(crate) fn bind(&mut self, users: &[String]) {
        for users in users.chunks(100) {
            let mut body = Vec::new();
            for user in users {
                self.sessions += 1;
                body.extend(self.sessions.to_be_bytes());
                body.extend(0u64.to_be_bytes());
                body.push(u8::try_from(user.len()).expect("a short id"));
                body.extend(user.as_bytes());
            }
            self.say(&frame(BIND, 0, 0, b"", b"", &body));
        }
    }

    /// They, who were the last to come, are out.
    pub(crate) fn unbind(&mut self, users: &[String]) {
        let first = self.sessions - users.len() as u64;
        for (session, user) in (first + 1..).zip(users) {
            self.say(&frame(UNBIND, 0, session, b"", user.as_bytes(), b""));
        }
    }

    fn say(&mut self, frame: &[u8]) {
        self.stream.write_all(frame).expect("it reads");
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        // It may have been closed by the other side.
        drop(self.stream.shutdown(Shutdown::Both));
    }
}

/// Takes what comes, and says now and then that it is there.
fn stay(mut stream: TcpStream) {
    stream.set_read_timeout(Some(Duration::from_millis(500))).expect("a time");
    let mut taken = [0; 4096];
    loop {
        match stream.read(&mut taken) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return,
        }
        if stream.write_all(&frame(PING, 0, 0, b"", b"", b"")).is_err() {
            return;
        }
    }
}

fn frame(kind: u8, info: u32, id: u64, to: &[u8], from: &[u8], body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + to.len() + from.len() + body.len()).expect("a short frame");
    let lengths = [kind, 0, to.len() as u8, from.len() as u8];
    [&length.to_be_bytes()[..], &lengths, &info.to_be_bytes(), &id.to_be_bytes(), to, from, body].concat()
}

fn read_frame(stream: &mut TcpStream) -> Vec<u8> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).expect("a frame");
    let mut frame = vec![0; 4 + u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut frame[4..]).expect("a whole frame");
    frame
}
