use std::fmt;

/// Why a connection is closed. 1000 to 1499: reconnect, with backoff; 1500 to 1999: stop.
///
/// A code that this version does not know is kept as it came: its range tells what to do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CloseCode(u16);

macro_rules! close_codes {
    ($($(#[doc = $doc:literal])* $name:ident = $number:literal;)*) => {
        impl CloseCode {
            $($(#[doc = $doc])* pub const $name: CloseCode = CloseCode($number);)*

            /// Every code of this version.
            pub const ALL: &[CloseCode] = &[$(CloseCode::$name),*];

            /// The code's name in the protocol; none for one of another version.
            pub fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($number => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

close_codes! {
    /// The server is stopping.
    SHUTDOWN = 1000;
    /// The server is draining; `go_to` names another.
    MOVE = 1001;
    /// The receiver did not read fast enough.
    SLOW = 1002;
    /// Silent for too long.
    NO_HEARTBEAT = 1003;
    /// A limit on connections is reached.
    FULL = 1004;
    /// Sends too fast.
    RATE = 1005;
    /// No LOGIN in time.
    LOGIN_TIMEOUT = 1006;
    /// A frame stayed incomplete for too long.
    PARTIAL = 1007;
    /// Refused while the server is cut off from its cluster.
    UNAVAILABLE = 1008;
    /// A fault of ours; it is logged.
    INTERNAL = 1009;
    /// Not this protocol.
    BAD_MAGIC = 1500;
    /// The right protocol on the wrong port, or another protocol that was recognised.
    WRONG_PORT = 1501;
    /// No common version.
    VERSION = 1502;
    /// A frame that is not allowed in this state.
    PROTOCOL = 1503;
    /// A length over `max_frame`.
    TOO_BIG = 1504;
    /// A field breaks its rule.
    BAD_FIELD = 1505;
    /// `from` is not the user that logged in.
    SPOOF = 1506;
    /// The login was refused; the text gives the cause.
    REFUSED = 1507;
    /// The user logged in elsewhere.
    REPLACED = 1508;
    /// The policy keeps the older login.
    ALREADY_ONLINE = 1509;
    /// Removed by an operator or the application.
    KICKED = 1510;
    /// The answer to LOGOUT.
    LOGGED_OUT = 1511;
    /// The server id is already in use (link).
    DUPLICATE_SERVER = 1512;
    /// The server could not prove that it belongs to the cluster (link).
    NOT_A_MEMBER = 1513;
}

impl CloseCode {
    /// The code of a CLOSE frame's `info_type`; none outside 1000 to 1999.
    pub fn from_wire(info_type: u32) -> Option<CloseCode> {
        u16::try_from(info_type).ok().filter(|number| (1000..2000).contains(number)).map(CloseCode)
    }

    /// The number on the wire.
    pub fn to_wire(self) -> u32 {
        u32::from(self.0)
    }

    /// Whether the other side may dial again, with backoff; else it stops.
    pub fn reconnects(self) -> bool {
        self.0 < 1500
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{} {name}", self.0),
            None => self.0.fmt(f),
        }
    }
}

impl fmt::Debug for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a message was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Bounce {
    /// No such user is online anywhere.
    Offline,
    /// The cluster link, or that user's server, is down.
    Unreachable,
    /// The directory is not complete yet after an ACMS restart; try again.
    Retry,
    /// The receiver's queue is full.
    Busy,
    /// A handler said no.
    Denied,
    /// Larger than the receiver's server allows.
    TooBig,
    /// The server has no handler for it.
    NoHandler,
    /// The sender is not in that group.
    NotInGroup,
    /// A code of a later version.
    Other(u32),
}

impl Bounce {
    /// The cause in a BOUNCE frame's `info_type`.
    pub fn from_wire(info_type: u32) -> Bounce {
        match info_type {
            1 => Bounce::Offline,
            2 => Bounce::Unreachable,
            3 => Bounce::Retry,
            4 => Bounce::Busy,
            5 => Bounce::Denied,
            6 => Bounce::TooBig,
            7 => Bounce::NoHandler,
            8 => Bounce::NotInGroup,
            other => Bounce::Other(other),
        }
    }

    /// The number on the wire.
    pub fn to_wire(self) -> u32 {
        match self {
            Bounce::Offline => 1,
            Bounce::Unreachable => 2,
            Bounce::Retry => 3,
            Bounce::Busy => 4,
            Bounce::Denied => 5,
            Bounce::TooBig => 6,
            Bounce::NoHandler => 7,
            Bounce::NotInGroup => 8,
            Bounce::Other(number) => number,
        }
    }
}

impl fmt::Display for Bounce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bounce::Offline => f.write_str("OFFLINE"),
            Bounce::Unreachable => f.write_str("UNREACHABLE"),
            Bounce::Retry => f.write_str("RETRY"),
            Bounce::Busy => f.write_str("BUSY"),
            Bounce::Denied => f.write_str("DENIED"),
            Bounce::TooBig => f.write_str("TOO_BIG"),
            Bounce::NoHandler => f.write_str("NO_HANDLER"),
            Bounce::NotInGroup => f.write_str("NOT_IN_GROUP"),
            Bounce::Other(number) => number.fmt(f),
        }
    }
}

/// What became of a group's member: `info_type` of a GROUP_EVENT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GroupChange {
    /// It came in.
    Joined,
    /// It went, or was taken out; its session goes on.
    Left,
    /// Its session ended.
    Offline,
}

/// `info_type` of a GROUP_EVENT that names nobody: comings and goings may have been missed, and who keeps a list of the
/// members asks for it anew.
pub const GROUP_EVENT_MISSED: u32 = 4;

impl GroupChange {
    /// The change of a GROUP_EVENT's `info_type`.
    pub fn from_wire(info_type: u32) -> Option<GroupChange> {
        match info_type {
            1 => Some(GroupChange::Joined),
            2 => Some(GroupChange::Left),
            3 => Some(GroupChange::Offline),
            _ => None,
        }
    }

    /// The number on the wire.
    pub fn to_wire(self) -> u32 {
        match self {
            GroupChange::Joined => 1,
            GroupChange::Left => 2,
            GroupChange::Offline => 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_outside_its_range_is_none() {
        for number in [0, 999, 2000, u32::MAX, 0x1_0000 + 1000] {
            assert_eq!(CloseCode::from_wire(number), None, "{number}");
        }
        let unknown = CloseCode::from_wire(1999).expect("in range");
        assert_eq!((unknown.name(), unknown.reconnects()), (None, false));
        assert_eq!(CloseCode::REPLACED.to_string(), "1508 REPLACED");
    }

    #[test]
    fn bounces_keep_their_number() {
        for number in 0..20 {
            assert_eq!(Bounce::from_wire(number).to_wire(), number);
        }
    }
}
