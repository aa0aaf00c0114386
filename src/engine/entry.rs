//! What a program asks a server without logging in.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::resolve_address;
use crate::limits;
use crate::role::client::QueryFailure;
use crate::wire::{Bounce, CloseBody, CloseCode, Envelope, Flags, Header, Kind, Malformed, Outgoing, Preface, Role};

/// Why a query without a login has no reply.
#[derive(Debug, thiserror::Error)]
pub enum EntryFailure {
    /// The server can't be found or reached.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// As of any query.
    #[error(transparent)]
    Query(#[from] QueryFailure),
    /// The server closed the connection: with PROTOCOL where it takes no such queries.
    #[error("{code}: {text}")]
    Closed {
        /// The server's code.
        code: CloseCode,
        /// In the server's words.
        text: String,
    },
    /// What came is not this protocol.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// Asks a server something without logging in: to register, say. Waits on this thread for the answer, `patience` at most;
/// what it takes to find the address of a name is not counted.
///
/// The server's application has to allow it, as
/// [`AppServerBuilder::queries_before_login`](super::AppServerBuilder::queries_before_login) does. Body and answer have
/// 4,080 bytes at most.
///
/// # Errors
/// See [`EntryFailure`].
pub fn query_without_login(
    server: impl ToSocketAddrs,
    info_type: u32,
    body: &[u8],
    patience: Duration,
) -> Result<Vec<u8>, EntryFailure> {
    let query = Outgoing { info_type, id: QUERY_ID, body, ..Outgoing::of(Kind::Query) };
    if query.wire_bytes() - limits::LENGTH_BYTES > limits::LOGIN_FRAME_BYTES_MAX {
        return Err(QueryFailure::Bounced(Bounce::TooBig).into());
    }
    let mut entry = Entry::dial(server, patience)?;
    let mut said = BytesMut::from(&Preface::of(Role::Client).encode()[..]);
    query.encode(&mut said);
    entry.say(&said)?;
    loop {
        let frame = entry.next_frame()?;
        let Some(Envelope { header, .. }) = Envelope::parse(&frame)? else { continue };
        let body = &frame[header.envelope_bytes()..];
        match header.kind {
            Kind::Reply if header.flags.has(Flags::ERROR) => return Err(QueryFailure::of_error(body).into()),
            Kind::Reply => return Ok(body.to_vec()),
            Kind::Bounce => return Err(QueryFailure::of_bounce(Bounce::from_wire(header.info_type)).into()),
            Kind::Close => {
                let code = CloseCode::from_wire(header.info_type).unwrap_or(CloseCode::INTERNAL);
                return Err(EntryFailure::Closed { code, text: CloseBody::parse(body).text });
            }
            Kind::Ping => {
                let mut pong = BytesMut::new();
                Outgoing { id: header.id, ..Outgoing::of(Kind::Pong) }.encode(&mut pong);
                entry.say(&pong)?;
            }
            // Nothing else has a meaning before a login.
            _ => {}
        }
    }
}

/// The one query of its connection.
const QUERY_ID: u64 = 1;

/// A connection that has not logged in.
struct Entry {
    stream: TcpStream,
    /// None where that is longer than there is time.
    ends: Option<Instant>,
    /// What was read and not taken apart.
    read: Vec<u8>,
}

impl Entry {
    fn dial(server: impl ToSocketAddrs, patience: Duration) -> Result<Entry, EntryFailure> {
        let addr = resolve_address(server)?;
        #[expect(clippy::disallowed_methods, reason = "the application's thread waits by the system's clock")]
        let ends = Instant::now().checked_add(patience);
        let stream = TcpStream::connect_timeout(&addr, patience.max(WAIT_MIN))?;
        stream.set_nodelay(true)?;
        Ok(Entry { stream, ends, read: Vec::new() })
    }

    /// What is left of the patience; none where it has no end.
    fn left(&self) -> Result<Option<Duration>, QueryFailure> {
        #[expect(clippy::disallowed_methods, reason = "the application's thread waits by the system's clock")]
        let left = self.ends.map(|ends| ends.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left < WAIT_MIN) { Err(QueryFailure::TimedOut) } else { Ok(left) }
    }

    fn say(&mut self, bytes: &[u8]) -> Result<(), EntryFailure> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write_all(bytes).map_err(|error| failure_of(&error).into())
    }

    fn next_frame(&mut self) -> Result<Vec<u8>, EntryFailure> {
        loop {
            let wire_bytes = Header::wire_bytes(&self.read, limits::LOGIN_FRAME_BYTES_MAX)?;
            if let Some(bytes) = wire_bytes.filter(|bytes| *bytes <= self.read.len()) {
                return Ok(self.read.drain(..bytes).collect());
            }
            self.stream.set_read_timeout(self.left()?)?;
            let mut chunk = [0; limits::LOGIN_FRAME_BYTES_MAX];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(QueryFailure::ConnectionLost.into()),
                Ok(count) => self.read.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failure_of(&error).into()),
            }
        }
    }
}

/// A wait of no time at all would be one without end.
const WAIT_MIN: Duration = Duration::from_millis(1);

fn failure_of(error: &io::Error) -> QueryFailure {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => QueryFailure::TimedOut,
        _ => QueryFailure::ConnectionLost,
    }
}
