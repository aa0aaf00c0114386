//! Who and what: users, groups, servers, connections.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};

use compact_str::CompactString;

use crate::limits::ID_BYTES_MAX;

/// Why bytes are not a user or group id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// No byte at all.
    #[error("an id has at least 1 byte")]
    Empty,
    /// More than 64 bytes.
    #[error("an id has at most 64 bytes")]
    Long,
    /// Not UTF-8.
    #[error("an id is UTF-8")]
    NotUtf8,
    /// A character of Unicode's category Cc.
    #[error("an id has no control characters")]
    Control,
}

/// Checks the rule of user ids and group ids without keeping the id.
pub fn check_id(bytes: &[u8]) -> Result<(), IdError> {
    if bytes.is_empty() {
        return Err(IdError::Empty);
    }
    if bytes.len() > ID_BYTES_MAX {
        return Err(IdError::Long);
    }
    // Most ids are; these need no decoding.
    if bytes.iter().all(|byte| matches!(byte, b' '..=b'~')) {
        return Ok(());
    }
    let text = std::str::from_utf8(bytes).map_err(|_| IdError::NotUtf8)?;
    if text.chars().any(char::is_control) { Err(IdError::Control) } else { Ok(()) }
}

macro_rules! text_ids {
    ($($(#[doc = $doc:literal])* $name:ident;)*) => {$(
        $(#[doc = $doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
        pub struct $name(CompactString);

        impl $name {
            /// Parses the bytes of a `to` or `from` field.
            pub fn parse(bytes: &[u8]) -> Result<$name, IdError> {
                check_id(bytes)?;
                CompactString::from_utf8(bytes).map($name).map_err(|_| IdError::NotUtf8)
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }

            /// The id as it stands in a frame.
            pub fn as_bytes(&self) -> &[u8] {
                self.0.as_bytes()
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<$name, IdError> {
                $name::parse(text.as_bytes())
            }
        }

        /// Hashes as its bytes do, so that a table is looked up with the bytes of a frame.
        impl Hash for $name {
            fn hash<H: Hasher>(&self, state: &mut H) {
                self.as_bytes().hash(state);
            }
        }

        impl Borrow<[u8]> for $name {
            fn borrow(&self) -> &[u8] {
                self.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.as_str(), f)
            }
        }
    )*};
}

text_ids! {
    /// A user id: 1 to 64 bytes of UTF-8 without control characters, compared byte for byte.
    UserId;
    /// A group id, which follows the rule of user ids. The same text may name a user and a group.
    GroupId;
}

/// An application server's number in its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct ServerId(pub u16);

impl ServerId {
    /// The cluster manager itself, where it sends messages of its own. No application server has this number.
    pub const ACMS: ServerId = ServerId(u16::MAX);
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A connection of one process: a place in the slab, and which of its tenants is meant.
///
/// A slab index is used again as soon as it is free; the generation makes a stale id a miss, never a wrong peer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    /// Place in the slab.
    pub index: u32,
    /// Which tenant of that place.
    pub generation: u32,
}

impl ConnId {
    /// The id as one number, for a readiness token.
    pub fn to_token(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// The id that [`ConnId::to_token`] made the number of.
    pub fn from_token(token: u64) -> ConnId {
        ConnId { index: token as u32, generation: (token >> 32) as u32 }
    }
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}.{}", self.index, self.generation)
    }
}

impl fmt::Debug for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_of_ids() {
        assert_eq!(check_id(b""), Err(IdError::Empty));
        assert_eq!(check_id(&[b'a'; 64]), Ok(()));
        assert_eq!(check_id(&[b'a'; 65]), Err(IdError::Long));
        assert_eq!(check_id(&[0xff]), Err(IdError::NotUtf8));
        assert_eq!(check_id(b"a\x00b"), Err(IdError::Control));
        assert_eq!(check_id(b"a\x7f"), Err(IdError::Control));
        assert_eq!(check_id("a\u{85}b".as_bytes()), Err(IdError::Control));
        assert_eq!(check_id("Zoë 🦀".as_bytes()), Ok(()));
    }

    #[test]
    fn a_token_names_its_connection() {
        let conn = ConnId { index: 7, generation: u32::MAX };
        assert_eq!(ConnId::from_token(conn.to_token()), conn);
    }
}
