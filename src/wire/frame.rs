use byteorder::{BigEndian, ByteOrder};
use bytes::{BufMut, BytesMut};

use crate::id::{IdError, UserId};
use crate::limits::{HEADER_BYTES, ID_BYTES_MAX, LENGTH_BYTES};
use crate::wire::{Bounce, CloseCode};

/// Bytes of the header that the length field counts.
const COUNTED_HEADER_BYTES: usize = HEADER_BYTES - LENGTH_BYTES;

macro_rules! kinds {
    ($($(#[doc = $doc:literal])* $name:ident = $number:literal,)*) => {
        /// What a frame is. 0x80 and above occur on the AS-ACMS link only.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Kind {
            $($(#[doc = $doc])* $name = $number,)*
        }

        impl Kind {
            /// Every kind of this version.
            pub const ALL: &[Kind] = &[$(Kind::$name),*];

            /// The kind of a header's fifth byte.
            pub fn from_wire(byte: u8) -> Option<Kind> {
                match byte {
                    $($number => Some(Kind::$name),)*
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    /// Client to AS: who I am.
    Login = 0x01,
    /// AS to client: you are in.
    Welcome = 0x02,
    /// Both: I close after this; `info_type` is the code.
    Close = 0x03,
    /// Client to AS: end my session.
    Logout = 0x04,
    /// Both: are you there?
    Ping = 0x05,
    /// Both: the answer to a PING, with its id.
    Pong = 0x06,
    /// A message.
    Data = 0x10,
    /// The receiver's engine has taken a message.
    Ack = 0x11,
    /// The platform could not deliver a message.
    Bounce = 0x12,
    /// A message that wants exactly one REPLY.
    Query = 0x13,
    /// The reply to a QUERY, with its id.
    Reply = 0x14,
    /// Client to AS: into a group.
    GroupJoin = 0x20,
    /// Client to AS: out of a group.
    GroupLeave = 0x21,
    /// A message to a group's members.
    GroupData = 0x22,
    /// AS to client: a member came or went.
    GroupEvent = 0x23,
    /// AS to client: a friend came or went.
    Presence = 0x30,
    /// Client to AS: a question about the platform.
    Ask = 0x31,
    /// AS to client: its answer.
    Answer = 0x32,
    /// ACMS to AS: prove that you belong here.
    Challenge = 0x80,
    /// AS to ACMS: who I am, with proof.
    Prove = 0x81,
    /// AS to ACMS: what I am.
    Register = 0x82,
    /// ACMS to AS: you are in, and so am I.
    Registered = 0x83,
    /// AS to ACMS: a new session wants this user.
    Claim = 0x84,
    /// ACMS to AS: the answer to a CLAIM.
    Claimed = 0x85,
    /// AS to ACMS: a session ended.
    Unbind = 0x86,
    /// AS to ACMS: forget my bindings, all of them follow.
    BurstBegin = 0x87,
    /// AS to ACMS: a batch of bindings.
    Bind = 0x88,
    /// AS to ACMS: that was all of them.
    Synced = 0x89,
    /// ACMS to AS: close one exact session. AS to ACMS: close a user's session wherever it is.
    Kick = 0x8A,
    /// AS to ACMS: count and hash of my bindings.
    Digest = 0x8B,
    /// ACMS to AS: your digest does not match; send the burst again.
    Resync = 0x8C,
    /// ACMS to AS: who is in the cluster.
    Servers = 0x8D,
    /// AS to ACMS: where is this user?
    Lookup = 0x8E,
    /// ACMS to AS: there, or nowhere.
    Found = 0x8F,
    /// AS to ACMS: I am sending my users to others.
    Drain = 0x90,
    /// AS to ACMS: how many users, how busy.
    State = 0x91,
    /// AS to ACMS: tell me of these users' comings and goings, or of everyone's.
    Watch = 0x92,
    /// AS to ACMS: no more of these.
    Unwatch = 0x93,
    /// AS to ACMS: this group has a member here.
    GroupOn = 0x94,
    /// AS to ACMS: this group has no member here any more.
    GroupOff = 0x95,
    /// From a server, by the ACMS, to a user's server: put the user into a group, or take it out.
    GroupEdit = 0x96,
    /// From a server, by the ACMS, to every server with members: who is in this group?
    GroupMembers = 0x97,
    /// The answer to GROUP_MEMBERS: those of one server.
    GroupMembersAre = 0x98,
    /// From a server's application to another's.
    ServerData = 0x99,
    /// From a server's application to another's: answered with a REPLY or a BOUNCE.
    ServerQuery = 0x9A,
    /// To a user's server: what do you know of this user?
    Inspect = 0x9B,
    /// The answer to INSPECT.
    Inspected = 0x9C,
    /// AS to ACMS: a page of all users, and how many there are.
    List = 0x9D,
    /// ACMS to AS: the answer to LIST.
    Listed = 0x9E,
    /// To every server: a message to each of its users.
    Everyone = 0x9F,
}

impl Kind {
    /// The byte on the wire.
    pub fn to_wire(self) -> u8 {
        self as u8
    }

    /// The flags that mean something on this kind.
    fn flags_allowed(self) -> u8 {
        match self {
            Kind::Data => Flags::WANT_ACK.0 | Flags::MORE.0 | Flags::DROPPABLE.0 | Flags::RETRY.0,
            Kind::GroupData => Flags::WANT_ACK.0 | Flags::MORE.0 | Flags::DROPPABLE.0,
            Kind::Query => Flags::MORE.0,
            Kind::Reply => Flags::MORE.0 | Flags::ERROR.0,
            Kind::Login | Kind::Welcome | Kind::Close | Kind::Logout | Kind::Ping | Kind::Pong => 0,
            Kind::Ack | Kind::Bounce | Kind::GroupJoin | Kind::GroupLeave | Kind::GroupEvent => 0,
            Kind::Presence | Kind::Ask | Kind::Answer => 0,
            Kind::Challenge | Kind::Prove | Kind::Register | Kind::Registered | Kind::Claim | Kind::Claimed => 0,
            Kind::Unbind | Kind::BurstBegin | Kind::Bind | Kind::Synced | Kind::Kick | Kind::Digest => 0,
            Kind::Resync | Kind::Servers | Kind::Lookup | Kind::Found | Kind::Drain | Kind::State => 0,
            Kind::Watch | Kind::Unwatch | Kind::GroupOn | Kind::GroupOff | Kind::GroupEdit => 0,
            Kind::GroupMembers | Kind::GroupMembersAre | Kind::ServerData | Kind::ServerQuery => 0,
            Kind::Inspect | Kind::Inspected | Kind::List | Kind::Listed | Kind::Everyone => 0,
        }
    }
}

/// A frame's flags; only bits that mean something on the frame's kind are ever set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u8);

impl Flags {
    /// No flag.
    pub const NONE: Flags = Flags(0);
    /// The receiver's engine answers ACK when it has taken the message.
    pub const WANT_ACK: Flags = Flags(0x01);
    /// A fragment: others with the same id follow.
    pub const MORE: Flags = Flags(0x02);
    /// May be dropped behind a slow receiver.
    pub const DROPPABLE: Flags = Flags(0x04);
    /// The handler failed; the body is its text.
    pub const ERROR: Flags = Flags(0x08);
    /// Sent again after a lost connection.
    pub const RETRY: Flags = Flags(0x10);

    /// Both sets of flags.
    pub const fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// Whether every flag of `other` is set.
    pub const fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A frame's fixed part, checked: the kind is known, the flags fit it, the ids fit the length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the frame is.
    pub kind: Kind,
    /// Its flags.
    pub flags: Flags,
    /// The application's information type, or a code.
    pub info_type: u32,
    /// Message id; 0 where none is needed.
    pub id: u64,
    /// Bytes of the whole frame on the wire, its length field included.
    pub wire_bytes: usize,
    to_len: u8,
    from_len: u8,
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The length is over the bound.
    #[error("a frame of {length} bytes, at most {max} are allowed")]
    TooBig {
        /// The length field.
        length: u32,
        /// The bound on it.
        max: usize,
    },
    /// A second preface.
    #[error("a preface comes once")]
    SecondPreface,
    /// The length does not cover header and ids.
    #[error("a length of {0} bytes does not cover the header and its ids")]
    Short(u32),
    /// `to` or `from` is longer than an id can be.
    #[error("an id has at most {ID_BYTES_MAX} bytes")]
    LongId,
    /// A kind that this version does not know.
    #[error("unknown kind {0:#04x}")]
    UnknownKind(u8),
    /// A flag that this version does not know, or not on this kind.
    #[error("flags {flags:#04x} on a frame of kind {kind:?}")]
    BadFlags {
        /// The kind.
        kind: Kind,
        /// The flag byte.
        flags: u8,
    },
}

impl Malformed {
    /// The code to close the connection with.
    pub fn close_code(self) -> CloseCode {
        match self {
            Malformed::TooBig { .. } => CloseCode::TOO_BIG,
            Malformed::Short(_) | Malformed::LongId => CloseCode::BAD_FIELD,
            Malformed::SecondPreface | Malformed::UnknownKind(_) | Malformed::BadFlags { .. } => CloseCode::PROTOCOL,
        }
    }
}

/// Header, `to` and `from` of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// The fixed part.
    pub header: Header,
    /// The destination's bytes; not checked to be an id.
    pub to: &'a [u8],
    /// The source's bytes; not checked to be an id.
    pub from: &'a [u8],
}

impl Header {
    /// How many bytes the frame that starts with `bytes` has on the wire; none until its length is there.
    ///
    /// `max_frame` bounds the length as soon as its four bytes are there.
    #[inline(always)]
    pub fn wire_bytes(bytes: &[u8], max_frame: usize) -> Result<Option<usize>, Malformed> {
        let Some(field) = bytes.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = u32::from_be_bytes(*field);
        if field == b"TRNK" {
            return Err(Malformed::SecondPreface);
        }
        if length as usize > max_frame {
            return Err(Malformed::TooBig { length, max: max_frame });
        }
        if (length as usize) < COUNTED_HEADER_BYTES {
            return Err(Malformed::Short(length));
        }
        Ok(Some(LENGTH_BYTES + length as usize))
    }

    /// Parses the fixed part. The length must have passed [`Header::wire_bytes`].
    #[inline(always)]
    fn parse(fixed: &[u8; HEADER_BYTES]) -> Result<Header, Malformed> {
        let length = BigEndian::read_u32(&fixed[0..4]);
        let [kind, flags, to_len, from_len] = [fixed[4], fixed[5], fixed[6], fixed[7]];
        if (length as usize) < COUNTED_HEADER_BYTES + usize::from(to_len) + usize::from(from_len) {
            return Err(Malformed::Short(length));
        }
        if usize::from(to_len.max(from_len)) > ID_BYTES_MAX {
            return Err(Malformed::LongId);
        }
        let kind = Kind::from_wire(kind).ok_or(Malformed::UnknownKind(kind))?;
        if flags & !kind.flags_allowed() != 0 {
            return Err(Malformed::BadFlags { kind, flags });
        }
        Ok(Header {
            kind,
            flags: Flags(flags),
            info_type: BigEndian::read_u32(&fixed[8..12]),
            id: BigEndian::read_u64(&fixed[12..20]),
            wire_bytes: LENGTH_BYTES + length as usize,
            to_len,
            from_len,
        })
    }

    /// Bytes of the frame before its body.
    pub fn envelope_bytes(&self) -> usize {
        HEADER_BYTES + usize::from(self.to_len) + usize::from(self.from_len)
    }
}

impl<'a> Envelope<'a> {
    /// Parses header and ids of the frame that starts with `bytes`; none until all of them are there.
    ///
    /// The length must have passed [`Header::wire_bytes`].
    #[inline(always)]
    pub fn parse(bytes: &'a [u8]) -> Result<Option<Envelope<'a>>, Malformed> {
        let Some((fixed, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let header = Header::parse(fixed)?;
        let Some((to, rest)) = rest.split_at_checked(usize::from(header.to_len)) else { return Ok(None) };
        let Some((from, _)) = rest.split_at_checked(usize::from(header.from_len)) else { return Ok(None) };
        Ok(Some(Envelope { header, to, from }))
    }

    /// The source as an id.
    pub fn from_user(&self) -> Result<UserId, IdError> {
        UserId::parse(self.from)
    }
}

/// A frame that this process makes itself.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// What it is.
    pub kind: Kind,
    /// Its flags.
    pub flags: Flags,
    /// The application's information type, or a code.
    pub info_type: u32,
    /// Message id.
    pub id: u64,
    /// The destination's bytes, at most 64.
    pub to: &'a [u8],
    /// The source's bytes, at most 64.
    pub from: &'a [u8],
    /// The body.
    pub body: &'a [u8],
}

impl Outgoing<'static> {
    /// A frame of `kind` with nothing else in it.
    pub fn of(kind: Kind) -> Outgoing<'static> {
        Outgoing { kind, flags: Flags::NONE, info_type: 0, id: 0, to: &[], from: &[], body: &[] }
    }
}

impl<'a> Outgoing<'a> {
    /// The BOUNCE of message `id`, from `sender`, that did not reach `receiver`.
    pub fn bounce(cause: Bounce, id: u64, sender: &'a [u8], receiver: &'a [u8]) -> Outgoing<'a> {
        Outgoing { info_type: cause.to_wire(), id, to: sender, from: receiver, ..Outgoing::of(Kind::Bounce) }
    }

    /// Bytes of the frame on the wire.
    pub fn wire_bytes(&self) -> usize {
        HEADER_BYTES + self.to.len() + self.from.len() + self.body.len()
    }

    /// Appends the frame to `out`.
    ///
    /// # Panics
    /// When an id or the whole frame is longer than its length field can tell: ids are at most 64 bytes and bodies
    /// bounded by whoever made them.
    pub fn encode(&self, out: &mut BytesMut) {
        out.reserve(self.wire_bytes());
        self.encode_head(out);
        out.put_slice(self.body);
    }

    /// Appends all of the frame but its body, which is to follow.
    ///
    /// # Panics
    /// As [`Outgoing::encode`] does.
    pub fn encode_head(&self, out: &mut BytesMut) {
        let length = u32::try_from(self.wire_bytes() - LENGTH_BYTES).expect("a frame's length fits its field");
        out.put_u32(length);
        out.put_u8(self.kind.to_wire());
        out.put_u8(self.flags.0);
        out.put_u8(u8::try_from(self.to.len()).expect("an id's length fits its field"));
        out.put_u8(u8::try_from(self.from.len()).expect("an id's length fits its field"));
        out.put_u32(self.info_type);
        out.put_u64(self.id);
        out.put_slice(self.to);
        out.put_slice(self.from);
    }
}
