//! A client made of bytes, as docs/PROTOCOL.md has them: it shares no code with the crate.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::SockRef;

use crate::{PATIENCE, now};

pub(crate) const CLIENT_PREFACE: &[u8; 8] = b"TRNK\x00\x01\x01\x00";
pub(crate) const SERVER_PREFACE: &[u8; 8] = b"TRNK\x01\x01\x01\x00";

pub(crate) const LOGIN: u8 = 0x01;
pub(crate) const WELCOME: u8 = 0x02;
pub(crate) const CLOSE: u8 = 0x03;
pub(crate) const LOGOUT: u8 = 0x04;
pub(crate) const PING: u8 = 0x05;
pub(crate) const PONG: u8 = 0x06;
pub(crate) const DATA: u8 = 0x10;
pub(crate) const ACK: u8 = 0x11;
pub(crate) const BOUNCE: u8 = 0x12;
pub(crate) const QUERY: u8 = 0x13;
pub(crate) const GROUP_JOIN: u8 = 0x20;
pub(crate) const GROUP_DATA: u8 = 0x22;
pub(crate) const GROUP_EVENT: u8 = 0x23;
pub(crate) const CHALLENGE: u8 = 0x80;

pub(crate) const OFFLINE: u32 = 1;
pub(crate) const UNREACHABLE: u32 = 2;
pub(crate) const RETRY: u32 = 3;
pub(crate) const BUSY: u32 = 4;
pub(crate) const DENIED: u32 = 5;

pub(crate) const SHUTDOWN: u32 = 1000;
pub(crate) const MOVE: u32 = 1001;
pub(crate) const FULL: u32 = 1004;
pub(crate) const LOGIN_TIMEOUT: u32 = 1006;
pub(crate) const PARTIAL: u32 = 1007;
pub(crate) const BAD_MAGIC: u32 = 1500;
pub(crate) const WRONG_PORT: u32 = 1501;
pub(crate) const VERSION: u32 = 1502;
pub(crate) const PROTOCOL: u32 = 1503;
pub(crate) const TOO_BIG: u32 = 1504;
pub(crate) const BAD_FIELD: u32 = 1505;
pub(crate) const SPOOF: u32 = 1506;
pub(crate) const REFUSED: u32 = 1507;
pub(crate) const REPLACED: u32 = 1508;
pub(crate) const LOGGED_OUT: u32 = 1511;

pub(crate) const WANT_ACK: u8 = 0x01;

/// Bytes of `length` that are neither ids nor body.
const COUNTED_HEADER_BYTES: usize = 16;

#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) info_type: u32,
    pub(crate) id: u64,
    pub(crate) to: Vec<u8>,
    pub(crate) from: Vec<u8>,
    pub(crate) body: Vec<u8>,
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Frame { kind, flags, info_type, id, to, from, body } = self;
        let (to, from) = (to.escape_ascii(), from.escape_ascii());
        let shown = body[..body.len().min(120)].escape_ascii();
        write!(f, "{kind:#04x} flags {flags:#x} info {info_type} id {id} {from} -> {to}, {} B {shown}", body.len())
    }
}

impl Frame {
    pub(crate) fn new(kind: u8, from: &str, to: &str, id: u64, body: impl Into<Vec<u8>>) -> Frame {
        Frame { kind, id, to: to.into(), from: from.into(), body: body.into(), ..Frame::default() }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let length = COUNTED_HEADER_BYTES + self.to.len() + self.from.len() + self.body.len();
        let mut bytes = (length as u32).to_be_bytes().to_vec();
        bytes.extend([self.kind, self.flags, self.to.len() as u8, self.from.len() as u8]);
        bytes.extend(self.info_type.to_be_bytes());
        bytes.extend(self.id.to_be_bytes());
        for part in [&self.to, &self.from, &self.body] {
            bytes.extend_from_slice(part);
        }
        bytes
    }

    fn decode(counted: &[u8]) -> Frame {
        let (&[kind, flags, to_len, from_len, a, b, c, d], rest) = counted.split_first_chunk().expect("a whole header");
        let (&id, rest) = rest.split_first_chunk().expect("a whole header");
        let (to, rest) = rest.split_at(to_len.into());
        let (from, body) = rest.split_at(from_len.into());
        let (info_type, id) = (u32::from_be_bytes([a, b, c, d]), u64::from_be_bytes(id));
        Frame { kind, flags, info_type, id, to: to.to_vec(), from: from.to_vec(), body: body.to_vec() }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

pub(crate) struct Raw {
    stream: TcpStream,
    user: String,
}

impl Raw {
    /// A connection on which nothing was sent.
    pub(crate) fn dial(addr: SocketAddr) -> Raw {
        let stream = TcpStream::connect(addr).expect("the server listens");
        stream.set_nodelay(true).expect("a socket's own option");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket's own option");
        stream.set_write_timeout(Some(PATIENCE)).expect("a socket's own option");
        Raw { stream, user: String::new() }
    }

    /// A user that is in.
    pub(crate) fn login(addr: SocketAddr, user: &str) -> Raw {
        let (raw, answer) = Raw::try_login(addr, user, b"");
        assert_eq!((answer.kind, answer.to.as_slice()), (WELCOME, user.as_bytes()), "{answer:?}");
        raw
    }

    /// Preface and LOGIN with this body; the answer, whatever it is.
    pub(crate) fn try_login(addr: SocketAddr, user: &str, body: &[u8]) -> (Raw, Frame) {
        let mut raw = Raw::knock(addr, user, body);
        let answer = raw.next().expect("an answer to LOGIN");
        (raw, answer)
    }

    /// Preface and LOGIN with this body; the answer is not waited for.
    pub(crate) fn knock(addr: SocketAddr, user: &str, body: &[u8]) -> Raw {
        let mut raw = Raw::dial(addr);
        raw.user = user.to_owned();
        let login = Frame::new(LOGIN, user, "", 0, body);
        raw.write(&[CLIENT_PREFACE.as_slice(), &login.encode()].concat());
        raw
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server reads");
    }

    /// A user that is in and reads nothing more; the system takes little in its stead.
    pub(crate) fn login_deaf(addr: SocketAddr, user: &str) -> Raw {
        let raw = Raw::login(addr, user);
        SockRef::from(&raw.stream).set_recv_buffer_size(4 << 10).expect("a socket's own option");
        raw
    }

    /// Writes what the stream takes at once; how many bytes that was, 0 also where the server has ended it.
    pub(crate) fn write_some(&mut self, bytes: &[u8]) -> usize {
        self.stream.set_nonblocking(true).expect("a socket's own option");
        let written = self.stream.write(bytes).unwrap_or(0);
        self.stream.set_nonblocking(false).expect("a socket's own option");
        written
    }

    /// Writes to a server that may have ended the connection.
    pub(crate) fn write_in_vain(&mut self, bytes: &[u8]) {
        drop(self.stream.write_all(bytes));
    }

    /// A frame from this user.
    pub(crate) fn frame(&self, kind: u8, to: &str, id: u64, body: impl Into<Vec<u8>>) -> Frame {
        Frame::new(kind, &self.user, to, id, body)
    }

    pub(crate) fn send(&mut self, to: &str, id: u64, body: impl Into<Vec<u8>>) -> Frame {
        let frame = self.frame(DATA, to, id, body);
        self.write(&frame.encode());
        frame
    }

    /// The next frame that is no PING, which is answered; none at the end of the stream.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        let ends = now() + PATIENCE;
        loop {
            let frame = self.read_frame()?;
            assert!(now() < ends, "{}: nothing came but PINGs", self.user);
            if frame.kind != PING {
                return Some(frame);
            }
            self.write_in_vain(&Frame { kind: PONG, id: frame.id, ..Frame::default() }.encode());
        }
    }

    fn read_frame(&mut self) -> Option<Frame> {
        let mut length = [0; 4];
        match self.stream.read_exact(&mut length) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return None,
            Err(error) => panic!("{}: {error}", self.user),
        }
        let mut counted = vec![0; u32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut counted).expect("a whole frame");
        Some(Frame::decode(&counted))
    }

    /// What comes until the server ends or breaks the connection.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{}", self.user),
        }
        rest
    }

    #[track_caller]
    pub(crate) fn expect(&mut self, wanted: &Frame) {
        let frame = self.next();
        assert!(frame.as_ref() == Some(wanted), "{}: got {frame:?}, expected {wanted:?}", self.user);
    }

    #[track_caller]
    pub(crate) fn expect_bounce(&mut self, of: &Frame, cause: u32) {
        let (to, from) = (of.from.clone(), of.to.clone());
        self.expect(&Frame { kind: BOUNCE, info_type: cause, id: of.id, to, from, ..Frame::default() });
    }

    /// CLOSE with this code, and the end behind it; its text.
    #[track_caller]
    pub(crate) fn expect_close(&mut self, code: u32) -> String {
        let close = self.next();
        let close = close.unwrap_or_else(|| panic!("{}: ended without the CLOSE {code}", self.user));
        assert_eq!((close.kind, close.info_type), (CLOSE, code), "{}: {close:?}", self.user);
        assert_eq!(self.next(), None, "{}: nothing follows CLOSE", self.user);
        close.text()
    }

    #[track_caller]
    pub(crate) fn log_out(mut self) {
        let logout = Frame::new(LOGOUT, &self.user, "", 0, "");
        self.write(&logout.encode());
        self.expect_close(LOGGED_OUT);
    }

    /// Ends the stream to the server, and goes on reading.
    pub(crate) fn half_close(&self) {
        drop(self.stream.shutdown(Shutdown::Write));
    }

    /// Ends the connection with a reset.
    pub(crate) fn reset(self) {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).expect("a socket's own option");
    }
}
