//! Frames by docs/PROTOCOL.md, with a writer and a reader that share nothing with the product's, and the mostly right
//! frames that an input asks for.

use super::script::Script;

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
pub(crate) const REPLY: u8 = 0x14;
pub(crate) const GROUP_JOIN: u8 = 0x20;
pub(crate) const GROUP_LEAVE: u8 = 0x21;
pub(crate) const GROUP_DATA: u8 = 0x22;
pub(crate) const GROUP_EVENT: u8 = 0x23;
pub(crate) const PRESENCE: u8 = 0x30;
pub(crate) const ASK: u8 = 0x31;
pub(crate) const ANSWER: u8 = 0x32;
pub(crate) const CHALLENGE: u8 = 0x80;
pub(crate) const PROVE: u8 = 0x81;
pub(crate) const REGISTER: u8 = 0x82;
pub(crate) const REGISTERED: u8 = 0x83;
pub(crate) const CLAIM: u8 = 0x84;
pub(crate) const CLAIMED: u8 = 0x85;
pub(crate) const UNBIND: u8 = 0x86;
pub(crate) const BURST_BEGIN: u8 = 0x87;
pub(crate) const BIND: u8 = 0x88;
pub(crate) const SYNCED: u8 = 0x89;
pub(crate) const KICK: u8 = 0x8A;
pub(crate) const DIGEST: u8 = 0x8B;
pub(crate) const RESYNC: u8 = 0x8C;
pub(crate) const SERVERS: u8 = 0x8D;
pub(crate) const LOOKUP: u8 = 0x8E;
pub(crate) const FOUND: u8 = 0x8F;
pub(crate) const DRAIN: u8 = 0x90;
pub(crate) const STATE: u8 = 0x91;
pub(crate) const WATCH: u8 = 0x92;
pub(crate) const UNWATCH: u8 = 0x93;
pub(crate) const GROUP_ON: u8 = 0x94;
pub(crate) const GROUP_OFF: u8 = 0x95;
pub(crate) const GROUP_EDIT: u8 = 0x96;
pub(crate) const GROUP_MEMBERS: u8 = 0x97;
pub(crate) const GROUP_MEMBERS_ARE: u8 = 0x98;
pub(crate) const SERVER_DATA: u8 = 0x99;
pub(crate) const SERVER_QUERY: u8 = 0x9A;
pub(crate) const INSPECT: u8 = 0x9B;
pub(crate) const INSPECTED: u8 = 0x9C;
pub(crate) const LIST: u8 = 0x9D;
pub(crate) const LISTED: u8 = 0x9E;
pub(crate) const EVERYONE: u8 = 0x9F;

/// The kinds that every hop passes on byte for byte.
pub(crate) const RELAYED: [u8; 7] = [DATA, ACK, BOUNCE, QUERY, REPLY, SERVER_DATA, SERVER_QUERY];

/// Every close code of this version.
const CLOSE_CODES: [u32; 24] = [
    1000, 1001, 1002, 1003, 1004, 1005, 1006, 1007, 1008, 1009, 1500, 1501, 1502, 1503, 1504, 1505, 1506, 1507, 1508,
    1509, 1510, 1511, 1512, 1513,
];

pub(crate) fn is_close_code(info: u32) -> bool {
    CLOSE_CODES.contains(&info)
}

/// The code of a CLOSE by a server that drains, and of the UNBIND that tells of it.
pub(crate) const MOVE: u32 = 1001;
pub(crate) const FULL: u32 = 1004;
pub(crate) const RATE: u32 = 1005;

/// Bytes of the largest frame after its length field.
pub(crate) const LENGTH_MAX: usize = 1 << 20;

/// A frame to be written.
#[derive(Clone, Copy)]
pub(crate) struct Draft<'a> {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) info: u32,
    pub(crate) id: u64,
    pub(crate) to: &'a [u8],
    pub(crate) from: &'a [u8],
    pub(crate) body: &'a [u8],
}

impl<'a> Draft<'a> {
    pub(crate) fn of(kind: u8) -> Draft<'static> {
        Draft { kind, flags: 0, info: 0, id: 0, to: &[], from: &[], body: &[] }
    }

    /// The frame's bytes; `more` bytes of body follow that are not in `self.body`.
    pub(crate) fn write_before(&self, more: usize) -> Vec<u8> {
        let length = 16 + self.to.len() + self.from.len() + self.body.len() + more;
        let mut bytes = Vec::with_capacity(4 + length - more);
        bytes.extend((length as u32).to_be_bytes());
        bytes.extend([self.kind, self.flags, self.to.len() as u8, self.from.len() as u8]);
        bytes.extend(self.info.to_be_bytes());
        bytes.extend(self.id.to_be_bytes());
        bytes.extend(self.to);
        bytes.extend(self.from);
        bytes.extend(self.body);
        bytes
    }

    pub(crate) fn write(&self) -> Vec<u8> {
        self.write_before(0)
    }
}

/// A whole frame in a stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<'a> {
    pub(crate) kind: u8,
    pub(crate) info: u32,
    pub(crate) id: u64,
    pub(crate) to: &'a [u8],
    pub(crate) from: &'a [u8],
    pub(crate) body: &'a [u8],
}

/// What a stream begins with.
pub(crate) enum Start<'a> {
    Frame { seen: Seen<'a>, wire_bytes: usize },
    Incomplete,
    Malformed(&'static str),
}

/// Reads the first frame of `bytes`, every rule of section 3 to 5 checked.
pub(crate) fn read(bytes: &[u8]) -> Start<'_> {
    let number = |range: std::ops::Range<usize>| bytes[range].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    if bytes.len() < 4 {
        return Start::Incomplete;
    }
    let length = number(0..4) as usize;
    if length > LENGTH_MAX {
        return Start::Malformed("a length over the bound");
    }
    if length < 16 {
        return Start::Malformed("a length that covers no header");
    }
    if bytes.len() < 4 + length {
        return Start::Incomplete;
    }
    let (kind, flags, to_len, from_len) = (bytes[4], bytes[5], usize::from(bytes[6]), usize::from(bytes[7]));
    if to_len > 64 || from_len > 64 {
        return Start::Malformed("an id of more than 64 bytes");
    }
    if length < 16 + to_len + from_len {
        return Start::Malformed("ids past the frame's end");
    }
    match flags_of(kind) {
        None => return Start::Malformed("an unknown kind"),
        Some(allowed) if flags & !allowed != 0 => return Start::Malformed("flags that this kind has not"),
        Some(_) => {}
    }
    let (to, rest) = bytes[20..4 + length].split_at(to_len);
    let (from, body) = rest.split_at(from_len);
    let seen = Seen { kind, info: number(8..12) as u32, id: number(12..20), to, from, body };
    Start::Frame { seen, wire_bytes: 4 + length }
}

/// The flags of a kind; none for a number that is no kind.
fn flags_of(kind: u8) -> Option<u8> {
    match kind {
        DATA => Some(0x17),
        GROUP_DATA => Some(0x07),
        QUERY => Some(0x02),
        REPLY => Some(0x0A),
        0x01..=0x06 | ACK | BOUNCE | 0x20 | 0x21 | 0x23 | 0x30..=0x32 | 0x80..=0x9F => Some(0),
        _ => None,
    }
}

/// The users that a BIND tells of, and what can't be read as another entry.
pub(crate) fn bindings(mut body: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    let mut users = Vec::new();
    while let Some((fixed, rest)) = body.split_first_chunk::<17>() {
        let Some((user, rest)) = rest.split_at_checked(usize::from(fixed[16])) else { break };
        users.push(user);
        body = rest;
    }
    (users, body)
}

/// The users that a WATCH or UNWATCH names, and what can't be read as another.
pub(crate) fn watched(mut body: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    let mut users = Vec::new();
    while let Some((length, rest)) = body.split_first() {
        let Some((user, rest)) = rest.split_at_checked(usize::from(*length)) else { break };
        users.push(user);
        body = rest;
    }
    (users, body)
}

/// Ids that a frame may have: users of the drivers, none, the longest, and some that break the rule.
pub(crate) const NAMES: [&[u8]; 12] = [
    b"alice",
    b"bob",
    b"carol",
    b"dave",
    b"",
    "zo\u{eb}".as_bytes(),
    &[b'x'; 64],
    &[b'x'; 65],
    &[0xff, 0xfe],
    b"a\x00b",
    b"a\x7f",
    &[b'y'; 255],
];

/// A user of the drivers' most often, any of the others now and then.
pub(crate) fn name(script: &mut Script<'_>) -> &'static [u8] {
    let choice = script.byte();
    if choice < 192 { NAMES[usize::from(choice % 4)] } else { NAMES[usize::from(choice) % NAMES.len()] }
}

const INFOS: [u32; 10] = [0, 1, 3, 4, 1000, 1508, 1509, 1777, 2000, u32::MAX];

pub(crate) fn info(script: &mut Script<'_>) -> u32 {
    script.one_of(&INFOS)
}

/// Small ids, that of a server's message (its number is in the upper 16 bits), the highest.
pub(crate) fn id(script: &mut Script<'_>) -> u64 {
    match script.byte() {
        choice @ 0..=127 => u64::from(choice % 8),
        choice @ 128..=191 => 1 << 48 | u64::from(choice % 8),
        choice @ 192..=223 => 2 << 48 | u64::from(choice % 8),
        224..=239 => u64::MAX,
        240..=255 => script.number(),
    }
}

/// Flags that the kind has, or now and then any.
pub(crate) fn flags(script: &mut Script<'_>, kind: u8) -> u8 {
    let choice = script.byte();
    match flags_of(kind) {
        Some(allowed) if choice < 240 => choice & allowed,
        Some(_) | None => choice & 0x3f,
    }
}

/// The length fields that a spoilt frame is given.
const LENGTHS: [u32; 12] =
    [0, 1, 15, 16, 17, 143, 4096, 4097, 1 << 20, (1 << 20) + 1, u32::MAX, u32::from_be_bytes(*b"TRNK")];

/// Makes one frame in sixteen wrong in one field.
pub(crate) fn spoil(script: &mut Script<'_>, bytes: &mut Vec<u8>) {
    if !script.once_in(16) {
        return;
    }
    match script.below(6) {
        0 => bytes[..4].copy_from_slice(&script.one_of(&LENGTHS).to_be_bytes()),
        1 => bytes[6] = script.byte(),
        2 => bytes[7] = script.byte(),
        3 => bytes[4] = script.byte(),
        4 => bytes.truncate(script.below(bytes.len().min(256))),
        _ => {
            let place = script.below(bytes.len().min(256));
            bytes[place] ^= script.byte();
        }
    }
}

/// Prefaces: a client's, a server's, and wrong ones, other protocols' starts among them.
pub(crate) const OPENINGS: [&[u8]; 11] = [
    b"TRNK\x00\x01\x01\x00",
    b"TRNK\x01\x01\x01\x00",
    b"TRNK\x00\x02\x07\x00",
    b"TRNK\x01\x02\x07\x00",
    b"TRNK\x00\x07\x02\x00",
    b"TRNK\x02\x01\x01\x00",
    b"TRNK\x00\x01\x01\x01",
    b"GET / HTTP/1.1\r\n",
    b"\x16\x03\x01\x02\x00",
    b"TRNG",
    b"PO",
];
