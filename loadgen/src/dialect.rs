//! What is spoken to the servers under load: Trunkline's protocol, or that of what it is compared with.

use std::fmt::Write;

use bytes::{BufMut, BytesMut};
use serde::{Deserialize, Serialize};
use trunkline::limits::MAX_FRAME;
use trunkline::wire::{Bounce, Cluster, Envelope, Header, Kind, Outgoing, Preface, Role, Welcome, parse_object};

/// The id of a user's GROUP_JOIN, the only one it sends.
const JOIN_ID: u64 = u64::MAX;

/// A protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Dialect {
    /// Trunkline's own.
    Trunkline,
    /// Trunkline's frames without its control frames; `info_type` is the receiver's number. See the module `floor`.
    Floor,
    /// The text protocol of NATS: a subject a user.
    Nats,
}

/// What a server said.
pub(crate) enum Said<'a> {
    /// The user is in.
    LoggedIn,
    /// A message. The names stand in its envelope; NATS names no sender.
    Message { to: &'a [u8], from: Option<&'a [u8]>, body: &'a [u8] },
    /// The user is in its group.
    Joined,
    /// A message to a group.
    GroupMessage { group: &'a [u8], from: &'a [u8], body: &'a [u8] },
    /// A message was not delivered.
    Bounced { id: u64, cause: Bounce },
    /// The server wants to hear that the user is there.
    Ping { id: u64 },
    /// The connection is closed by the server after this.
    Close { code: u32, text: String },
    /// Nothing that matters to the load.
    Nothing,
    /// Something that should not have been said.
    Unexpected(String),
}

/// A message to be sent.
pub(crate) struct Message<'a> {
    pub(crate) id: u64,
    pub(crate) to: &'a str,
    pub(crate) from: &'a str,
    /// The receiver's number.
    pub(crate) receiver: u32,
    pub(crate) body: &'a [u8],
}

impl Dialect {
    /// What a user says first.
    pub(crate) fn log_in(self, user: u32, name: &str, out: &mut BytesMut) {
        match self {
            Dialect::Trunkline => {
                out.put_slice(&Preface::of(Role::Client).encode());
                Outgoing { from: name.as_bytes(), ..Outgoing::of(Kind::Login) }.encode(out);
            }
            Dialect::Floor => out.put_u32(user),
            Dialect::Nats => {
                let hello = "CONNECT {\"verbose\":false,\"pedantic\":false,\"echo\":false}";
                write!(out, "{hello}\r\nSUB {name} 1\r\nPING\r\n").expect("memory takes what is written");
            }
        }
    }

    /// Into a group; only Trunkline has them.
    pub(crate) fn join(self, name: &str, group: &str, out: &mut BytesMut) {
        debug_assert_eq!(self, Dialect::Trunkline);
        let (to, from) = (group.as_bytes(), name.as_bytes());
        Outgoing { id: JOIN_ID, to, from, ..Outgoing::of(Kind::GroupJoin) }.encode(out);
    }

    /// Puts a message to a group behind what is to be sent.
    pub(crate) fn broadcast(self, id: u64, group: &str, from: &str, body: &[u8], out: &mut BytesMut) {
        debug_assert_eq!(self, Dialect::Trunkline);
        let (to, from) = (group.as_bytes(), from.as_bytes());
        Outgoing { id, to, from, body, ..Outgoing::of(Kind::GroupData) }.encode(out);
    }

    /// What a user says last; false where its protocol has no word for that.
    pub(crate) fn log_out(self, name: &str, out: &mut BytesMut) -> bool {
        if self == Dialect::Trunkline {
            Outgoing { from: name.as_bytes(), ..Outgoing::of(Kind::Logout) }.encode(out);
        }
        self == Dialect::Trunkline
    }

    /// The answer to a [`Said::Ping`].
    pub(crate) fn pong(self, id: u64, out: &mut BytesMut) {
        match self {
            Dialect::Trunkline => Outgoing { id, ..Outgoing::of(Kind::Pong) }.encode(out),
            Dialect::Floor => {}
            Dialect::Nats => out.put_slice(b"PONG\r\n"),
        }
    }

    /// Puts a message behind what is to be sent.
    pub(crate) fn send(self, message: &Message<'_>, out: &mut BytesMut) {
        let Message { id, to, from, receiver, body } = *message;
        match self {
            Dialect::Trunkline | Dialect::Floor => {
                let (to, from) = (to.as_bytes(), from.as_bytes());
                Outgoing { id, info_type: receiver, to, from, body, ..Outgoing::of(Kind::Data) }.encode(out);
            }
            Dialect::Nats => {
                write!(out, "PUB {to} {}\r\n", body.len()).expect("memory takes what is written");
                out.put_slice(body);
                out.put_slice(b"\r\n");
            }
        }
    }

    /// The first thing that `bytes` say, and how many bytes that took; none where more are needed.
    pub(crate) fn hear<'a>(self, is_in: bool, bytes: &'a [u8]) -> Result<Option<(usize, Said<'a>)>, String> {
        match self {
            Dialect::Floor if !is_in => Ok((bytes.len() >= 4).then_some((4, Said::LoggedIn))),
            Dialect::Trunkline | Dialect::Floor => hear_frame(bytes),
            Dialect::Nats => hear_line(bytes),
        }
    }
}

fn hear_frame(bytes: &[u8]) -> Result<Option<(usize, Said<'_>)>, String> {
    let wire_bytes = match Header::wire_bytes(bytes, MAX_FRAME).map_err(|error| error.to_string())? {
        Some(wire_bytes) if wire_bytes <= bytes.len() => wire_bytes,
        Some(_) | None => return Ok(None),
    };
    let frame = &bytes[..wire_bytes];
    let Some(envelope) = Envelope::parse(frame).map_err(|error| error.to_string())? else { return Ok(None) };
    let header = envelope.header;
    let body = &frame[header.envelope_bytes()..];
    let said = match header.kind {
        Kind::Data => Said::Message { to: envelope.to, from: Some(envelope.from), body },
        Kind::Welcome => match parse_object::<Welcome>(body).map(|welcome| welcome.cluster) {
            Some(Cluster::Up | Cluster::None) => Said::LoggedIn,
            Some(Cluster::Down | Cluster::Other) => {
                Said::Unexpected("its server does not reach the cluster".to_owned())
            }
            None => Said::Unexpected("WELCOME without its body".to_owned()),
        },
        Kind::Bounce => Said::Bounced { id: header.id, cause: Bounce::from_wire(header.info_type) },
        Kind::GroupData => Said::GroupMessage { group: envelope.to, from: envelope.from, body },
        // Only what a user itself asked for has an id.
        Kind::GroupEvent if header.id == JOIN_ID => Said::Joined,
        Kind::GroupEvent => Said::Nothing,
        Kind::Ping => Said::Ping { id: header.id },
        Kind::Pong => Said::Nothing,
        Kind::Close => Said::Close { code: header.info_type, text: String::from_utf8_lossy(body).into_owned() },
        kind => Said::Unexpected(format!("{kind:?} with info_type {}", header.info_type)),
    };
    Ok(Some((wire_bytes, said)))
}

fn hear_line(bytes: &[u8]) -> Result<Option<(usize, Said<'_>)>, String> {
    let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
    let line_bytes = end + 2;
    let line = std::str::from_utf8(&bytes[..end]).map_err(|error| error.to_string())?;
    let mut words = line.split(' ');
    let said = match words.next() {
        Some("PING") => Said::Ping { id: 0 },
        // Behind the subscription: the server has it.
        Some("PONG") => Said::LoggedIn,
        Some("MSG") => {
            let (to, body_bytes) = (words.next().unwrap_or_default(), words.next_back().unwrap_or_default());
            let body_bytes: usize = body_bytes.parse().map_err(|_| format!("no length in {line:?}"))?;
            let frame_bytes = line_bytes + body_bytes + 2;
            let Some(body) = bytes.get(line_bytes..frame_bytes) else { return Ok(None) };
            return Ok(Some((frame_bytes, Said::Message { to: to.as_bytes(), from: None, body: &body[..body_bytes] })));
        }
        Some("INFO" | "+OK") => Said::Nothing,
        _ => Said::Unexpected(line.to_owned()),
    };
    Ok(Some((line_bytes, said)))
}
