use std::borrow::Cow;

use bytes::BytesMut;

use crate::buf::{Frame, Inbound};
use crate::id::IdError;
use crate::limits;
use crate::link::End;
use crate::role::{Counters, Entropy};
use crate::time::Span;
use crate::wire::{CloseBody, CloseCode, Kind, Malformed, Opening, Outgoing, Protocol, Role, VERSIONS};

/// Why a connection is closed, as the CLOSE that its other side gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The code.
    pub code: CloseCode,
    /// For a person.
    pub text: Cow<'static, str>,
    /// When to dial again, at the earliest.
    pub retry_after: Option<Span>,
    /// Where to dial instead.
    pub go_to: Option<String>,
    /// Whether the other side could read a CLOSE at all.
    pub told: bool,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// We closed it.
    Closed(CloseCode),
    /// The other side closed it with a code.
    ClosedByPeer(CloseCode),
    /// The other side ended it without a word, or it broke.
    Ended(End),
}

impl Gone {
    /// Whether a client dials again after this. The end of the stream without a word is that of a program.
    pub fn may_be_back(self) -> bool {
        match self {
            Gone::Closed(code) | Gone::ClosedByPeer(code) => code.reconnects(),
            Gone::Ended(End::Failed(_)) => true,
            Gone::Ended(End::Eof) => false,
        }
    }
}

impl Fault {
    /// A fault with this code and text.
    pub fn new(code: CloseCode, text: impl Into<Cow<'static, str>>) -> Fault {
        Fault { code, text: text.into(), retry_after: None, go_to: None, told: true }
    }

    /// The fault of a peer that may be back after this time.
    pub fn for_now(code: CloseCode, text: &'static str, retry_after: Span) -> Fault {
        Fault { retry_after: Some(retry_after), ..Fault::new(code, text) }
    }

    /// The body of its CLOSE: the text alone, or with the advice beside it in JSON.
    pub fn body(&self) -> Cow<'_, [u8]> {
        let text = &self.text[..self.text.floor_char_boundary(limits::CLOSE_TEXT_BYTES_MAX)];
        if self.retry_after.is_none() && self.go_to.is_none() {
            return text.as_bytes().into();
        }
        let retry_after_ms = self.retry_after.map(Span::as_millis);
        let body = CloseBody { text: text.to_owned(), retry_after_ms, go_to: self.go_to.clone() };
        serde_json::to_vec(&body).expect("a number and plain text").into()
    }

    /// There is no room for one connection more.
    pub fn full(text: &'static str, entropy: &mut Entropy) -> Fault {
        Fault::for_now(CloseCode::FULL, text, entropy.retry_after())
    }

    /// Its CLOSE, for a connection that has no queue.
    pub fn encode(&self) -> Vec<u8> {
        let body = self.body();
        let close = Outgoing { info_type: self.code.to_wire(), body: &body, ..Outgoing::of(Kind::Close) };
        let mut bytes = BytesMut::with_capacity(close.wire_bytes());
        close.encode(&mut bytes);
        bytes.to_vec()
    }

    /// A frame that is not allowed in this state.
    pub fn unexpected(kind: Kind) -> Fault {
        Fault::new(CloseCode::PROTOCOL, format!("{kind:?} is not allowed here"))
    }

    /// The version agreed with a dialler of `role`; none where its preface has not come.
    pub fn of_opening(inbound: &mut Inbound<'_>, role: Role, counters: &mut Counters) -> Result<Option<u8>, Fault> {
        match inbound.opening() {
            Opening::Incomplete => Ok(None),
            Opening::Preface(preface) if preface.role != role => {
                counters.wrong_port += 1;
                Err(Fault::new(CloseCode::WRONG_PORT, "this port is for the other role"))
            }
            Opening::Preface(preface) => match VERSIONS.highest_common(preface.versions) {
                Some(version) => Ok(Some(version)),
                None => {
                    let text = format!("versions {} offered, {VERSIONS} spoken here", preface.versions);
                    Err(Fault::new(CloseCode::VERSION, text))
                }
            },
            Opening::OtherProtocol(protocol) => {
                counters.wrong_port += 1;
                let fault = Fault::new(CloseCode::WRONG_PORT, format!("{protocol} on a plain port"));
                // Plain bytes in a TLS stream are taken for a broken record, or for an attack.
                Err(Fault { told: protocol != Protocol::Tls, ..fault })
            }
            Opening::BadField(rule) => Err(Fault::new(CloseCode::BAD_FIELD, rule)),
            Opening::BadMagic => {
                counters.bad_magic += 1;
                let sample = inbound.unopened().iter().map(|byte| format!(" {byte:02x}")).collect::<String>();
                Err(Fault::new(CloseCode::BAD_MAGIC, format!("not this protocol:{sample}")))
            }
        }
    }

    /// Code and body of a CLOSE. A code outside the range is read as a fault of the other side's.
    pub fn read_close(frame: &Frame<'_>) -> (CloseCode, CloseBody) {
        let code = CloseCode::from_wire(frame.envelope.header.info_type).unwrap_or(CloseCode::INTERNAL);
        let told = CloseBody::parse(&frame.body());
        // It goes to the log, in one line.
        let text = told.text[..told.text.floor_char_boundary(limits::CLOSE_TEXT_BYTES_MAX)].to_owned();
        (code, CloseBody { text: text.replace(char::is_control, "\u{fffd}"), ..told })
    }
}

impl From<IdError> for Fault {
    fn from(error: IdError) -> Fault {
        Fault::new(CloseCode::BAD_FIELD, error.to_string())
    }
}

impl From<Malformed> for Fault {
    fn from(malformed: Malformed) -> Fault {
        Fault::new(malformed.close_code(), malformed.to_string())
    }
}

impl std::fmt::Display for Gone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Gone::Closed(code) => write!(f, "closed {code}"),
            Gone::ClosedByPeer(code) => write!(f, "closed by the other side {code}"),
            Gone::Ended(End::Eof) => f.write_str("ended by the other side"),
            Gone::Ended(End::Failed(kind)) => write!(f, "failed: {kind}"),
        }
    }
}
