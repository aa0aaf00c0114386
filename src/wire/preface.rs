use std::fmt;

/// Bytes of the preface.
pub const PREFACE_BYTES: usize = 8;
/// The version that this program prefers.
pub const VERSION: u8 = 1;
/// The versions that this program speaks.
pub const VERSIONS: Versions = Versions { min: 1, max: 1 };

const MAGIC: &[u8; 4] = b"TRNK";

/// A range of protocol versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The lowest.
    pub min: u8,
    /// The highest.
    pub max: u8,
}

impl Versions {
    /// The highest version in both ranges.
    pub fn highest_common(self, other: Versions) -> Option<u8> {
        let highest = self.max.min(other.max);
        (highest >= self.min.max(other.min)).then_some(highest)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.min, self.max)
    }
}

/// Who dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A user's program.
    Client,
    /// An application server.
    Server,
}

/// What the dialling side says first: 8 bytes, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preface {
    /// Who dials.
    pub role: Role,
    /// The versions it speaks.
    pub versions: Versions,
}

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// A preface, so far; more bytes are needed.
    Incomplete,
    /// A whole preface.
    Preface(Preface),
    /// By its first bytes: the right machine, the wrong port.
    OtherProtocol(Protocol),
    /// The magic is right, a field behind it is not.
    BadField(&'static str),
    /// Something else.
    BadMagic,
}

/// What may be spoken by mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Hypertext, of any version that begins with a method.
    Http,
    /// Transport Layer Security: a record that carries a handshake.
    Tls,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Http => "HTTP",
            Protocol::Tls => "TLS",
        })
    }
}

const HTTP_STARTS: [&[u8]; 9] = [b"GET ", b"HEAD", b"POST", b"PUT ", b"DELE", b"CONN", b"OPTI", b"TRAC", b"PATC"];
/// A TLS record that carries a handshake, of any version since SSL 3.0.
const TLS_START: &[u8] = &[0x16, 0x03];

/// Whether `bytes` begin as `whole` does, as far as both go.
fn agrees(bytes: &[u8], whole: &[u8]) -> bool {
    bytes.iter().zip(whole).all(|(a, b)| a == b)
}

impl Opening {
    /// Recognises the first bytes of a connection; `bytes` may hold more than a preface.
    pub fn recognise(bytes: &[u8]) -> Opening {
        if !agrees(bytes, MAGIC) {
            return Opening::recognise_foreign(bytes);
        }
        let Some((&[_, _, _, _, role, min, max, reserved], _)) = bytes.split_first_chunk::<PREFACE_BYTES>() else {
            return Opening::Incomplete;
        };
        let role = match role {
            0 => Role::Client,
            1 => Role::Server,
            _ => return Opening::BadField("role is 0 or 1"),
        };
        if min > max {
            return Opening::BadField("version_min is at most version_max");
        }
        if reserved != 0 {
            return Opening::BadField("the reserved byte is 0");
        }
        Opening::Preface(Preface { role, versions: Versions { min, max } })
    }

    fn recognise_foreign(bytes: &[u8]) -> Opening {
        let starts = HTTP_STARTS.iter().map(|start| (*start, Protocol::Http)).chain([(TLS_START, Protocol::Tls)]);
        let mut possible = starts.filter(|(start, _)| agrees(bytes, start));
        match possible.next() {
            Some((start, protocol)) if bytes.len() >= start.len() => Opening::OtherProtocol(protocol),
            Some(_) => Opening::Incomplete,
            None => Opening::BadMagic,
        }
    }
}

impl Preface {
    /// The preface of this program in `role`.
    pub fn of(role: Role) -> Preface {
        Preface { role, versions: VERSIONS }
    }

    /// The preface's bytes.
    pub fn encode(self) -> [u8; PREFACE_BYTES] {
        let [t, r, n, k] = *MAGIC;
        let role = match self.role {
            Role::Client => 0,
            Role::Server => 1,
        };
        [t, r, n, k, role, self.versions.min, self.versions.max, 0]
    }
}
