//! Bodies of the AS-ACMS link's own frames, and the proof of membership.

use std::collections::BTreeMap;

use byteorder::{BigEndian, ByteOrder};
use bytes::{BufMut, BytesMut};
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::id::{ServerId, UserId};
use crate::wire::VERSION;

/// A number used once, by which each side of a link makes the other's proof fresh.
pub type Nonce = [u8; 32];
/// HMAC-SHA256.
pub type Proof = [u8; 32];

/// What both sides of a link prove that they agree on.
#[derive(Clone, Copy, Debug)]
pub struct Membership<'a> {
    /// The cluster's name.
    pub cluster: &'a str,
    /// The server that registers.
    pub server: ServerId,
    /// Its boot number.
    pub incarnation: u64,
    /// The ACMS's boot number.
    pub epoch: u64,
    /// From CHALLENGE.
    pub acms_nonce: Nonce,
    /// From PROVE.
    pub server_nonce: Nonce,
}

/// Whose proof it is: one side's can't be sent back as the other's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prover {
    /// The application server, in PROVE.
    Server,
    /// The ACMS, in REGISTERED.
    Acms,
}

impl Membership<'_> {
    fn mac(&self, secret: &[u8], prover: Prover) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes a key of any length");
        mac.update(b"trunkline link");
        mac.update(&[VERSION, prover as u8]);
        mac.update(&(self.cluster.len() as u64).to_be_bytes());
        mac.update(self.cluster.as_bytes());
        mac.update(&self.server.0.to_be_bytes());
        mac.update(&self.incarnation.to_be_bytes());
        mac.update(&self.epoch.to_be_bytes());
        mac.update(&self.acms_nonce);
        mac.update(&self.server_nonce);
        mac
    }

    /// The proof that `prover` knows `secret`.
    pub fn prove(&self, secret: &[u8], prover: Prover) -> Proof {
        self.mac(secret, prover).finalize().into_bytes().into()
    }

    /// Whether `proof` is that of `prover`, compared in constant time.
    pub fn verify(&self, secret: &[u8], prover: Prover, proof: &[u8]) -> bool {
        self.mac(secret, prover).verify_slice(proof).is_ok()
    }
}

/// The body of PROVE: the server's nonce, then its proof (all zero where the cluster has no secret).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProveBody {
    /// The server's nonce.
    pub nonce: Nonce,
    /// Its proof.
    pub proof: Proof,
}

impl ProveBody {
    /// The body's bytes.
    pub fn encode(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&self.nonce);
        bytes[32..].copy_from_slice(&self.proof);
        bytes
    }

    /// Parses the body; none where it is not 64 bytes.
    pub fn parse(body: &[u8]) -> Option<ProveBody> {
        let (nonce, proof) = body.split_first_chunk::<32>()?;
        Some(ProveBody { nonce: *nonce, proof: proof.try_into().ok()? })
    }
}

/// The body of REGISTER (JSON).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register {
    /// Where clients reach the server.
    pub address: String,
    /// Users that it takes.
    pub capacity: u32,
    /// The epoch of the ACMS that it last registered with; 0 for none.
    #[serde(default)]
    pub previous_epoch: u64,
    /// The servers that it last knew in the cluster: a restarted ACMS waits for their bindings.
    #[serde(default)]
    pub peers: Vec<ServerId>,
    /// Whether it sends its users to others, as DRAIN says.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
}

/// The body of SERVERS (JSON).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Servers {
    /// Every registered server.
    pub servers: Vec<ServerEntry>,
    /// Servers that were here before the ACMS started and have not come back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub awaited: Vec<ServerId>,
}

/// One server in SERVERS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerEntry {
    /// Its number.
    pub server: ServerId,
    /// Where clients reach it.
    pub address: String,
    /// Whether nobody is to be sent to it: it sends its own users to others, or an operator has frozen it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
}

/// One binding in a BIND: session sequence (8 bytes), age in milliseconds (8), length of the user id (1), user id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindEntry<'a> {
    /// The session's sequence number on its server.
    pub session: u64,
    /// How long ago the user logged in.
    pub age_ms: u64,
    /// The user's bytes; not checked to be an id.
    pub user: &'a [u8],
}

const BIND_FIXED_BYTES: usize = 8 + 8 + 1;

impl<'a> BindEntry<'a> {
    /// Appends the entry to a BIND's body.
    pub fn encode(session: u64, age_ms: u64, user: &UserId, body: &mut BytesMut) {
        body.put_u64(session);
        body.put_u64(age_ms);
        body.put_u8(user.as_bytes().len() as u8);
        body.put_slice(user.as_bytes());
    }

    /// Takes the first entry off a BIND's body; none where it is cut short.
    pub fn split_first(body: &'a [u8]) -> Option<(BindEntry<'a>, &'a [u8])> {
        let (fixed, rest) = body.split_first_chunk::<BIND_FIXED_BYTES>()?;
        let (user, rest) = rest.split_at_checked(usize::from(fixed[16]))?;
        let session = BigEndian::read_u64(&fixed[0..8]);
        Some((BindEntry { session, age_ms: BigEndian::read_u64(&fixed[8..16]), user }, rest))
    }
}

/// `info_type` of a WATCH or UNWATCH whose body names users.
pub const NAMED_USERS: u32 = 0;
/// `info_type` of a WATCH or UNWATCH of everyone; its body is empty.
pub const ALL_USERS: u32 = 1;
/// `info_type` of a PRESENCE: the user is nowhere.
pub const OFFLINE: u32 = 0;
/// `info_type` of a PRESENCE: the user is in, somewhere. Without a user: everyone who is in was named.
pub const ONLINE: u32 = 1;

/// Users in a body: for each the length of its id (1 byte), then the id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserList;

impl UserList {
    /// The bytes of a list.
    pub fn encode(users: &[UserId]) -> BytesMut {
        let mut body = BytesMut::new();
        users.iter().for_each(|user| UserList::append(user, &mut body));
        body
    }

    /// Appends one more.
    pub fn append(user: &UserId, body: &mut BytesMut) {
        body.put_u8(user.as_bytes().len() as u8);
        body.put_slice(user.as_bytes());
    }

    /// Takes the first user's bytes off, which are not checked to be an id; none where the list is cut short.
    pub fn split_first(body: &[u8]) -> Option<(&[u8], &[u8])> {
        let (len, rest) = body.split_first()?;
        rest.split_at_checked(usize::from(*len))
    }
}

/// The body of STATE (JSON): what a server says of itself each second.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServerState {
    /// Users that are in.
    pub users: u32,
    /// Bytes that wait in the server's queues.
    pub queued_bytes: u64,
    /// Thousandths of its time that its reactor did not wait for something to do.
    pub busy_permille: u16,
    /// Frames that it has passed on since its start.
    pub frames: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Frames that it has bounced since its start, by cause.
    #[serde(skip_serializing_if = "Tallies::is_empty")]
    pub bounced: Tallies,
    /// Frames that it has dropped since its start, by reason.
    #[serde(skip_serializing_if = "Tallies::is_empty")]
    pub dropped: Tallies,
}

/// Counts by name; those that are nothing are left out. Who reads them need not know the names, of which a later version
/// may have more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, u64>")]
pub struct Tallies(BTreeMap<String, u64>);

/// Names, or one of them, that are not those of reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a name has 1 to {NAME_BYTES_MAX} of a-z and _, and there are at most {TALLIES_MAX}")]
pub struct BadTally;

/// Names that one list of tallies has, at most: some times those of this version.
const TALLIES_MAX: usize = 64;
/// Bytes of one of them.
const NAME_BYTES_MAX: usize = 32;

impl Tallies {
    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names and counts, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(name, count)| (name.as_str(), *count))
    }
}

impl<'a> FromIterator<(&'a str, u64)> for Tallies {
    fn from_iter<I: IntoIterator<Item = (&'a str, u64)>>(counts: I) -> Tallies {
        let counted = counts.into_iter().filter(|(_, count)| *count > 0);
        Tallies(counted.map(|(name, count)| (name.to_owned(), count)).collect())
    }
}

/// What a peer says: its names become labels of what is told to an operator.
impl TryFrom<BTreeMap<String, u64>> for Tallies {
    type Error = BadTally;
    fn try_from(counts: BTreeMap<String, u64>) -> Result<Tallies, BadTally> {
        let is_name = |name: &String| {
            (1..=NAME_BYTES_MAX).contains(&name.len())
                && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        };
        let known = counts.len() <= TALLIES_MAX && counts.keys().all(is_name);
        if known { Ok(Tallies(counts)) } else { Err(BadTally) }
    }
}

/// `info_type` of a CLAIM: what becomes of an older session of the same user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Relogin {
    /// The older one is closed REPLACED.
    #[default]
    ReplaceOld,
    /// The newer one is refused ALREADY_ONLINE.
    KeepOld,
}

impl Relogin {
    /// The policy in a CLAIM's `info_type`.
    pub fn from_wire(info_type: u32) -> Option<Relogin> {
        match info_type {
            0 => Some(Relogin::ReplaceOld),
            1 => Some(Relogin::KeepOld),
            _ => None,
        }
    }

    /// The number on the wire.
    pub fn to_wire(self) -> u32 {
        match self {
            Relogin::ReplaceOld => 0,
            Relogin::KeepOld => 1,
        }
    }
}

/// A message id chosen by a server: its own number in the upper 16 bits, so that what comes back with an empty `to`
/// finds the server that sent it, from anywhere in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerMessageId;

impl ServerMessageId {
    /// The id of a server's message number `count`.
    pub fn compose(server: ServerId, count: u64) -> u64 {
        u64::from(server.0) << 48 | count & (u64::MAX >> 16)
    }

    /// What an incarnation's messages are counted from: an answer to one of an earlier start of the server is not taken for
    /// an answer to one of this start. Starts share a range only 1.2 hours apart, or a multiple of that, to the millisecond (a
    /// server counts from four places of it), or after 16 million messages; no answer takes that long.
    pub fn first(incarnation: u64) -> u64 {
        (incarnation & 0xff_ffff) << 24
    }

    /// The server that chose `id`.
    pub fn server(id: u64) -> ServerId {
        ServerId((id >> 48) as u16)
    }
}

/// `info_type` of the ACMS's answer to a GROUP_MEMBERS: how many servers it was passed on to (the lower 16 bits), and
/// whether these are all that have members (0x10000 where that is not certain).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MembersAsked {
    /// Servers that will answer.
    pub servers: u16,
    /// Whether no other has members.
    pub complete: bool,
}

/// `info_type` of a GROUP_MEMBERS_ARE: which server answers (the lower 16 bits), and whether it names all its members
/// (0x10000 where they are too many).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MembersTold {
    /// Whose members they are.
    pub server: ServerId,
    /// Whether they are all.
    pub complete: bool,
}

const NOT_COMPLETE: u32 = 0x10000;

impl MembersAsked {
    /// From an `info_type`.
    pub fn from_wire(info_type: u32) -> MembersAsked {
        MembersAsked { servers: info_type as u16, complete: info_type & NOT_COMPLETE == 0 }
    }

    /// The number on the wire.
    pub fn to_wire(self) -> u32 {
        u32::from(self.servers) | if self.complete { 0 } else { NOT_COMPLETE }
    }
}

impl MembersTold {
    /// From an `info_type`.
    pub fn from_wire(info_type: u32) -> MembersTold {
        MembersTold { server: ServerId(info_type as u16), complete: info_type & NOT_COMPLETE == 0 }
    }

    /// The number on the wire.
    pub fn to_wire(self) -> u32 {
        u32::from(self.server.0) | if self.complete { 0 } else { NOT_COMPLETE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_bound_to_all_that_it_names() {
        let base = Membership {
            cluster: "a",
            server: ServerId(1),
            incarnation: 2,
            epoch: 3,
            acms_nonce: [4; 32],
            server_nonce: [5; 32],
        };
        let proof = base.prove(b"secret", Prover::Server);
        assert!(base.verify(b"secret", Prover::Server, &proof));
        assert!(!base.verify(b"secret", Prover::Acms, &proof));
        assert!(!base.verify(b"Secret", Prover::Server, &proof));
        assert!(!base.verify(b"secret", Prover::Server, &proof[..31]));
        for other in [
            Membership { cluster: "b", ..base },
            Membership { server: ServerId(0), ..base },
            Membership { incarnation: 0, ..base },
            Membership { epoch: 0, ..base },
            Membership { acms_nonce: [0; 32], ..base },
            Membership { server_nonce: [0; 32], ..base },
        ] {
            assert!(!other.verify(b"secret", Prover::Server, &proof), "{other:?}");
        }
    }

    #[test]
    fn a_bind_body_cut_anywhere_is_seen() {
        let mut body = BytesMut::new();
        let user: UserId = "zoë".parse().expect("an id");
        BindEntry::encode(7, 9, &user, &mut body);
        let (entry, rest) = BindEntry::split_first(&body).expect("whole");
        assert_eq!((entry.session, entry.age_ms, entry.user, rest), (7, 9, "zoë".as_bytes(), &[][..]));
        for len in 0..body.len() {
            assert_eq!(BindEntry::split_first(&body[..len]), None);
        }
    }

    #[test]
    fn a_servers_message_names_it() {
        assert_eq!(ServerMessageId::server(ServerMessageId::compose(ServerId(65_535), u64::MAX)), ServerId(65_535));
        assert_eq!(ServerMessageId::compose(ServerId(2), 3), 0x0002_0000_0000_0003);
    }
}
