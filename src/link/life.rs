//! One connection: where in its life it is, what waits in it, and what is overdue.

use std::net::SocketAddr;

use crate::buf::{Rope, SendQueue};
use crate::limits;
use crate::time::{Span, Time};
use crate::wire::CloseCode;

/// Where in its life a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// We dialled; the other side has not answered.
    Dialling,
    /// The other side dialled; its preface has not come.
    Preface,
    /// Versions are agreed; LOGIN or REGISTER is under way.
    Greeting,
    /// Frames flow.
    Open,
    /// Our CLOSE is on its way; what still comes in is discarded.
    Closing,
    /// Our CLOSE is written and our side of the stream shut; the other side's end is awaited, so that unread input
    /// does not make the kernel reset the connection before the CLOSE was read.
    Draining,
    /// The socket can go; the place in the slab is freed at the end of the turn.
    Ended,
}

/// When a quiet link is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepAlive {
    /// A PING when nothing came for this long: for a side that may be a stranger's program.
    WhenUnheard(Span),
    /// A PING when nothing was sent for this long: where both sides do it, bulk in one direction never looks like
    /// death, however long a PONG would have to wait behind it.
    WhenUnsent(Span),
}

/// How long a link is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// From dial or accept to the first byte.
    pub first_byte: Span,
    /// From dial or accept to the end of the greeting.
    pub greeting: Span,
    /// When a quiet link is probed.
    pub keep_alive: KeepAlive,
    /// Silence after which it is closed NO_HEARTBEAT.
    pub silence: Span,
}

/// What a deadline asks of the role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Close with this code and text.
    Close(CloseCode, &'static str),
    /// A dial came to nothing.
    DialTimeout,
}

/// What happened to a connection's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The other side ended its stream.
    Eof,
    /// The connection broke, or a dial failed.
    Failed(std::io::ErrorKind),
}

/// Why a connection is not read from; several reasons may hold at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// What waits for it passed its soft bound: what it asks for would only add to that.
    Congested,
    /// The queue that its frames go to has no room.
    Uplink,
    /// It sent more than its rate allows; ends by itself when that is paid for.
    Rate,
    /// Memory is short, and it is a client.
    Memory,
    /// The application takes no more of what it sends.
    Held,
}

/// The reasons that hold for one connection, a bit each.
#[derive(Clone, Copy, Default)]
pub(super) struct Pauses(u8);

impl Pauses {
    pub(super) const NONE: Pauses = Pauses(0);

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn has(self, reason: Pause) -> bool {
        self.0 & 1 << reason as u8 != 0
    }

    pub(super) fn with(self, reason: Pause) -> Pauses {
        Pauses(self.0 | 1 << reason as u8)
    }

    pub(super) fn without(self, reason: Pause) -> Pauses {
        Pauses(self.0 & !(1 << reason as u8))
    }
}

/// One connection.
pub struct Link<P> {
    /// What the role knows of it.
    pub peer: P,
    /// The other side's address.
    pub addr: SocketAddr,
    pub(super) generation: u32,
    pub(super) stage: Stage,
    /// The start of a frame whose end has not come.
    pub(super) carry: Rope,
    pub(super) queue: SendQueue,
    pub(super) patience: Patience,
    pub(super) opened: Time,
    /// Last byte in; `opened` before the first.
    pub(super) heard: Time,
    /// Last byte out, or the moment the queue began to wait.
    pub(super) sent: Time,
    /// Since when `carry` holds a frame's start.
    pub(super) partial_since: Time,
    /// End of the greeting, or of the linger of a closing link.
    pub(super) until: Time,
    /// When the last pause ended that held it up longer than a debt of its own.
    pub(super) resumed_at: Time,
    /// When what it sent too fast is paid for; means something while it is paused for that.
    pub(super) owes_until: Time,
    /// The wheel's entry that counts. Others for this link mean nothing, but that the one at `owes_until` ends that
    /// pause.
    pub(super) armed: Time,
    pub(super) pauses: Pauses,
    pub(super) dirty: bool,
    pub(super) pinged: bool,
    pub(super) hung_up: bool,
}

impl<P> Link<P> {
    /// Where in its life the link is.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Whether frames are still exchanged: not closing, not ended.
    pub fn is_live(&self) -> bool {
        match self.stage {
            Stage::Dialling | Stage::Preface | Stage::Greeting | Stage::Open => true,
            Stage::Closing | Stage::Draining | Stage::Ended => false,
        }
    }

    /// What waits to be written.
    pub fn queue(&self) -> &SendQueue {
        &self.queue
    }

    /// Since when what waits to be written has waited without a byte of it being taken; none where nothing waits.
    pub fn waits_since(&self) -> Option<Time> {
        (!self.queue.is_empty()).then_some(self.sent)
    }

    /// The start of a frame whose end has not come.
    pub fn carry(&self) -> &Rope {
        &self.carry
    }

    /// When the last pause ended that held it up longer than its debts did; the connection's beginning before the first.
    pub fn resumed_at(&self) -> Time {
        self.resumed_at
    }

    /// Bytes that wait here: to be written, or for the end of their frame.
    pub fn held(&self) -> usize {
        self.queue.len() + self.carry.len()
    }

    /// Whether it is not read from while memory is short. A link between servers carries the frames of many, who are
    /// held back elsewhere; and who is not in holds little, and is to hear that there is no room.
    pub(super) fn yields(&self) -> bool {
        self.stage == Stage::Open && matches!(self.patience.keep_alive, KeepAlive::WhenUnheard(_))
    }

    /// The next moment at which something may have to be done.
    pub(super) fn deadline(&self) -> Time {
        let stalled = if self.queue.is_empty() { Time::NEVER } else { self.sent + limits::STALL_TIMEOUT };
        let partial = if self.carry.is_empty() { Time::NEVER } else { self.partial_since + limits::PARTIAL_TIMEOUT };
        match self.stage {
            Stage::Dialling => self.opened + limits::DIAL_TIMEOUT,
            Stage::Preface if self.is_unheard() => self.opened + self.patience.first_byte,
            Stage::Preface | Stage::Greeting => self.until.min(stalled).min(partial),
            Stage::Open => self.probe_at().min(self.heard + self.patience.silence).min(stalled).min(partial),
            Stage::Closing | Stage::Draining => self.until,
            Stage::Ended => Time::NEVER,
        }
    }

    /// Whether no byte has come since the dial or accept.
    fn is_unheard(&self) -> bool {
        self.heard == self.opened && self.carry.is_empty()
    }

    pub(super) fn probe_at(&self) -> Time {
        match self.patience.keep_alive {
            KeepAlive::WhenUnheard(_) if self.pinged => Time::NEVER,
            KeepAlive::WhenUnheard(span) => self.heard + span,
            // What waits is life enough once it gets through; a PING behind it would only wait too.
            KeepAlive::WhenUnsent(_) if !self.queue.is_empty() => Time::NEVER,
            KeepAlive::WhenUnsent(span) => self.sent + span,
        }
    }

    /// What is overdue at `now`, other than a probe.
    pub(super) fn overdue(&self, now: Time) -> Option<Due> {
        let stalled = !self.queue.is_empty() && now >= self.sent + limits::STALL_TIMEOUT;
        let partial = !self.carry.is_empty() && now >= self.partial_since + limits::PARTIAL_TIMEOUT;
        match self.stage {
            Stage::Dialling => (now >= self.opened + limits::DIAL_TIMEOUT).then_some(Due::DialTimeout),
            Stage::Preface if self.is_unheard() && now >= self.opened + self.patience.first_byte => {
                Some(Due::Close(CloseCode::LOGIN_TIMEOUT, "no first byte in time"))
            }
            Stage::Preface | Stage::Greeting if now >= self.until => {
                Some(Due::Close(CloseCode::LOGIN_TIMEOUT, "no login in time"))
            }
            Stage::Open if now >= self.heard + self.patience.silence => {
                Some(Due::Close(CloseCode::NO_HEARTBEAT, "silent too long"))
            }
            Stage::Preface | Stage::Greeting | Stage::Open if stalled => {
                Some(Due::Close(CloseCode::SLOW, "took nothing for too long"))
            }
            Stage::Preface | Stage::Greeting | Stage::Open if partial => {
                Some(Due::Close(CloseCode::PARTIAL, "a frame stayed incomplete too long"))
            }
            Stage::Preface | Stage::Greeting | Stage::Open | Stage::Closing | Stage::Draining | Stage::Ended => None,
        }
    }
}
