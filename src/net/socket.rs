//! Sockets, and what their system calls can come to.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::SocketAddr;

use mio::net::{TcpListener, TcpStream};
use socket2::{Domain, Protocol, SockRef, Socket as RawSocket, Type};

use crate::limits::HEARTBEAT_TIMEOUT;
use crate::link::End;

/// Connections that the kernel holds for us between their handshake and our accept; it may hold fewer.
const BACKLOG: i32 = 4096;

/// What a read or a write came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// That many bytes, at least one.
    Progress(usize),
    /// The kernel has no data, or no room, now.
    Blocked,
    /// Nothing more can come or go.
    Ended(End),
}

/// A connection's socket and what is known of its readiness: edges are told once.
pub(super) struct Socket {
    pub(super) stream: TcpStream,
    pub(super) generation: u32,
    /// This side dialled.
    pub(super) dialled: bool,
    /// The dial is under way.
    pub(super) connecting: bool,
    /// There may be data.
    pub(super) readable: bool,
    /// The kernel may have room.
    pub(super) writable: bool,
    /// The other side ended its stream: a short read does not mean that all was read.
    pub(super) hung_up: bool,
    /// Waits in the reactor's list of sockets to read.
    pub(super) listed: bool,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, generation: u32, dialled: bool) -> Socket {
        let raw = SockRef::from(&stream);
        // Without these the connection still works, only slower to send or to notice that the other side is gone.
        let user_timeout = raw.set_tcp_user_timeout(Some(HEARTBEAT_TIMEOUT.to_duration()));
        for set in [raw.set_tcp_nodelay(true), user_timeout] {
            if let Err(error) = set {
                log::debug!("socket option: {error}");
            }
        }
        Socket {
            stream,
            generation,
            dialled,
            connecting: dialled,
            readable: false,
            writable: !dialled,
            hung_up: false,
            listed: false,
        }
    }

    pub(super) fn read(&mut self, into: &mut [u8]) -> Outcome {
        match uninterrupted(|| self.stream.read(into)) {
            Ok(0) => Outcome::Ended(End::Eof),
            other => outcome(other),
        }
    }

    /// One slice goes by `send`, which spares the kernel looking through a list.
    pub(super) fn write(&mut self, slices: &[IoSlice<'_>]) -> Outcome {
        let written = match slices {
            [slice] => uninterrupted(|| self.stream.write(slice)),
            slices => uninterrupted(|| self.stream.write_vectored(slices)),
        };
        match written {
            Ok(0) => Outcome::Ended(End::Failed(ErrorKind::WriteZero)),
            other => outcome(other),
        }
    }
}

fn uninterrupted(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn outcome(result: io::Result<usize>) -> Outcome {
    match result {
        Ok(bytes) => Outcome::Progress(bytes),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Outcome::Blocked,
        Err(error) => Outcome::Ended(End::Failed(error.kind())),
    }
}

/// A listening socket; port 0 lets the system choose one.
pub fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = RawSocket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}
