//! A blob on the wire: the bodies of a streaming QUERY that is one, and of the REPLYs that answer it.

use bytes::{BufMut, BytesMut};
use serde::{Deserialize, Serialize};

use super::frame::Flags;
use super::parse_object;
use crate::limits::BLOB_NAME_BYTES_MAX;

/// How each part begins: a QUERY whose body begins otherwise is a query.
const MAGIC: &[u8; 7] = b"TRNKBLB";
const MANIFEST: u8 = b'M';
const DATA: u8 = b'D';
const END: u8 = b'E';
const CANCEL: u8 = b'C';
/// Bytes of a data part before its data: magic, sort, offset.
pub const BLOB_PART_BYTES: usize = 16;

/// What a sender says of a blob before its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Bytes that it has. Nothing is allocated by this number.
    pub size: u64,
    /// What the sender calls it, at most 255 bytes; empty where it has no name. Not a path: whoever makes a file of it
    /// must look at it first.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
}

/// One frame of a blob, from its sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlobPart<'a> {
    /// The first: may I?
    Manifest(Manifest),
    /// Some of its bytes.
    Data {
        /// How many bytes of the blob lie before them.
        offset: u64,
        /// They; at least one.
        data: &'a [u8],
    },
    /// The last: that was all of it.
    End {
        /// Bytes that it has.
        size: u64,
        /// Their SHA-256.
        digest: [u8; 32],
    },
    /// The last: there will be no more.
    Cancel,
}

/// Bytes that are no part of a blob, though they begin like one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a part of a blob")]
pub struct NoPart;

impl<'a> BlobPart<'a> {
    /// Whether a QUERY with this body is a part of a blob, or meant to be.
    pub fn is_one(body: &[u8]) -> bool {
        body.starts_with(MAGIC)
    }

    /// Parses the body of a QUERY; `more` is whether it has the flag MORE.
    pub fn parse(body: &'a [u8], more: bool) -> Result<BlobPart<'a>, NoPart> {
        let rest = body.strip_prefix(MAGIC).ok_or(NoPart)?;
        let (sort, rest) = rest.split_first().ok_or(NoPart)?;
        match (*sort, more) {
            (MANIFEST, true) => {
                let manifest: Manifest = parse_object(rest).ok_or(NoPart)?;
                if manifest.name.len() > BLOB_NAME_BYTES_MAX { Err(NoPart) } else { Ok(BlobPart::Manifest(manifest)) }
            }
            (DATA, true) => {
                let (offset, data) = rest.split_first_chunk().ok_or(NoPart)?;
                let offset = u64::from_be_bytes(*offset);
                if data.is_empty() { Err(NoPart) } else { Ok(BlobPart::Data { offset, data }) }
            }
            (END, false) => {
                let (size, digest) = rest.split_first_chunk().ok_or(NoPart)?;
                let digest = digest.try_into().map_err(|_| NoPart)?;
                Ok(BlobPart::End { size: u64::from_be_bytes(*size), digest })
            }
            (CANCEL, false) if rest.is_empty() => Ok(BlobPart::Cancel),
            _ => Err(NoPart),
        }
    }

    /// The flags of the QUERY that it is the body of.
    pub fn flags(&self) -> Flags {
        match self {
            BlobPart::Manifest(_) | BlobPart::Data { .. } => Flags::MORE,
            BlobPart::End { .. } | BlobPart::Cancel => Flags::NONE,
        }
    }

    /// Appends the body to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_slice(MAGIC);
        match self {
            BlobPart::Manifest(manifest) => {
                out.put_u8(MANIFEST);
                out.put_slice(&serde_json::to_vec(manifest).expect("a number and plain text"));
            }
            BlobPart::Data { offset, data } => {
                out.put_u8(DATA);
                out.put_u64(*offset);
                out.put_slice(data);
            }
            BlobPart::End { size, digest } => {
                out.put_u8(END);
                out.put_u64(*size);
                out.put_slice(digest);
            }
            BlobPart::Cancel => out.put_u8(CANCEL),
        }
    }
}

/// What a receiver says of a blob: the body of a REPLY.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlobAnswer {
    /// It is taken, and this much of it is there.
    Credit {
        /// Bytes that are there: where it is to go on.
        offset: u64,
        /// Bytes of data that one part may have.
        data_max: u32,
    },
    /// All of it is there, as it was sent.
    Done,
    /// It is not taken, or not any more.
    Refused {
        /// Why.
        cause: BlobCause,
        /// In words; may be empty.
        text: String,
    },
    /// An answer to a query: who sent it takes no blobs.
    Foreign,
}

/// Why a receiver does not take a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlobCause {
    /// Its application said no.
    Denied,
    /// Larger than it takes.
    TooBig,
    /// It has too much to receive already.
    Busy,
    /// What came is not what was sent.
    Damaged,
    /// It knows nothing of it: it may have been started again since.
    Unknown,
    /// Its application wants no more of it.
    Cancelled,
    /// Nothing of it came for too long.
    TimedOut,
    /// It takes no blobs.
    NoHandler,
}

impl BlobCause {
    const ALL: [BlobCause; 8] = [
        BlobCause::Denied,
        BlobCause::TooBig,
        BlobCause::Busy,
        BlobCause::Damaged,
        BlobCause::Unknown,
        BlobCause::Cancelled,
        BlobCause::TimedOut,
        BlobCause::NoHandler,
    ];

    fn to_wire(self) -> u8 {
        match self {
            BlobCause::Denied => 1,
            BlobCause::TooBig => 2,
            BlobCause::Busy => 3,
            BlobCause::Damaged => 4,
            BlobCause::Unknown => 5,
            BlobCause::Cancelled => 6,
            BlobCause::TimedOut => 7,
            BlobCause::NoHandler => 8,
        }
    }

    fn from_wire(byte: u8) -> Option<BlobCause> {
        BlobCause::ALL.into_iter().find(|cause| cause.to_wire() == byte)
    }
}

impl BlobAnswer {
    /// Parses the body of a REPLY with these flags.
    pub fn parse(flags: Flags, body: &[u8]) -> BlobAnswer {
        if flags.has(Flags::ERROR) {
            // A handler that knows nothing of blobs answers with text, which begins with none of these bytes.
            let known = body.split_first().and_then(|(byte, text)| Some((BlobCause::from_wire(*byte)?, text)));
            let (cause, text) = known.unwrap_or((BlobCause::NoHandler, body));
            return BlobAnswer::Refused { cause, text: String::from_utf8_lossy(text).into_owned() };
        }
        match (flags.has(Flags::MORE), body.split_first_chunk()) {
            (true, Some((offset, data_max))) if data_max.len() == 4 => BlobAnswer::Credit {
                offset: u64::from_be_bytes(*offset),
                data_max: data_max.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)),
            },
            (false, None) if body.is_empty() => BlobAnswer::Done,
            (true | false, _) => BlobAnswer::Foreign,
        }
    }

    /// The flags of the REPLY that it is the body of.
    pub fn flags(&self) -> Flags {
        match self {
            BlobAnswer::Credit { .. } => Flags::MORE,
            BlobAnswer::Done | BlobAnswer::Foreign => Flags::NONE,
            BlobAnswer::Refused { .. } => Flags::ERROR,
        }
    }

    /// Appends the body to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            BlobAnswer::Credit { offset, data_max } => {
                out.put_u64(*offset);
                out.put_u32(*data_max);
            }
            BlobAnswer::Done | BlobAnswer::Foreign => {}
            BlobAnswer::Refused { cause, text } => {
                out.put_u8(cause.to_wire());
                out.put_slice(text.as_bytes());
            }
        }
    }
}
