//! Every body and every fixed layout of the wire: no panic, what is read and written again reads the same, and what was
//! taken obeys its rule.

use std::fmt::Debug;

use bytes::BytesMut;
use serde::Serialize;
use serde::de::DeserializeOwned;
use trunkline::id::{IdError, UserId, check_id};
use trunkline::wire::link::{BindEntry, ProveBody, Register, ServerState, Servers};
use trunkline::wire::{
    Answer, Ask, CloseBody, Envelope, Flags, Header, Kind, ListRequest, Listed, Login, Malformed, Opening, Outgoing,
    Profile, Welcome, parse_object,
};

use super::blobs;
use super::frame::{self, LENGTH_MAX, Start};

/// One body, of the sort that the first byte says.
pub(crate) fn control_json(input: &[u8]) {
    let Some((sort, body)) = input.split_first() else { return };
    match sort % 16 {
        0 => login(body),
        1 => object::<Welcome>(body),
        2 => close(body),
        3 => object::<Register>(body),
        4 => object::<Servers>(body),
        5 => object::<Ask>(body),
        6 => object::<Answer>(body),
        7 => {
            prove(body);
            object::<ServerState>(body);
        }
        8 => bindings(body),
        9 => opening(body),
        10 => whole_frame(body),
        11 => id(body),
        12 => object::<Profile>(body),
        13 => object::<ListRequest>(body),
        14 => object::<Listed>(body),
        _ => blobs::bodies(body),
    }
}

/// What is taken is an object, and means the same when it is written again.
fn object<T: DeserializeOwned + Serialize + PartialEq + Debug>(body: &[u8]) {
    let Some(value) = parse_object::<T>(body) else { return };
    let first = body.iter().find(|byte| !byte.is_ascii_whitespace());
    assert_eq!(first, Some(&b'{'), "no object: {value:?}");
    let written = serde_json::to_vec(&value).expect("numbers and text");
    // A question or state of a later version is read, and never written.
    let Some(again) = parse_object::<T>(&written) else { panic!("{value:?} is written as what can't be read") };
    assert_eq!(again, value);
}

fn login(body: &[u8]) {
    if body.is_empty() {
        assert_eq!(Login::parse(body), Some(Login::default()));
    } else if let Some(login) = Login::parse(body) {
        let shown = format!("{login:?}");
        for secret in [&login.token, &login.password].into_iter().flatten().filter(|secret| secret.len() > 16) {
            assert!(!shown.contains(secret.as_str()), "a secret is shown");
        }
        object::<Login>(body);
    }
}

fn close(body: &[u8]) {
    let close = CloseBody::parse(body);
    let written = serde_json::to_vec(&close).expect("numbers and text");
    assert_eq!(CloseBody::parse(&written), close);
    if !body.contains(&b'{') {
        assert_eq!((close.retry_after_ms, close.go_to), (None, None));
        assert_eq!(close.text, String::from_utf8_lossy(body));
    }
}

fn prove(body: &[u8]) {
    let read = ProveBody::parse(body);
    assert_eq!(read.is_some(), body.len() == 64);
    if let Some(read) = read {
        assert_eq!(read.encode(), body);
    }
}

fn bindings(mut body: &[u8]) {
    while let Some((entry, rest)) = BindEntry::split_first(body) {
        assert_eq!(17 + entry.user.len() + rest.len(), body.len());
        if let Ok(user) = UserId::parse(entry.user) {
            let mut written = BytesMut::new();
            BindEntry::encode(entry.session, entry.age_ms, &user, &mut written);
            assert_eq!(written[..], body[..body.len() - rest.len()]);
        }
        body = rest;
    }
    assert!(body.len() < 17 + 255);
}

fn opening(body: &[u8]) {
    let opening = Opening::recognise(body);
    match opening {
        Opening::Preface(preface) => {
            assert_eq!(preface.encode(), body[..8]);
            assert!(preface.versions.min <= preface.versions.max);
        }
        Opening::Incomplete => assert!(body.len() < 8),
        Opening::OtherProtocol(_) | Opening::BadMagic => assert!(!body.starts_with(b"TRNK")),
        Opening::BadField(_) => assert!(body.starts_with(b"TRNK")),
    }
    for len in 0..body.len().min(9) {
        let earlier = Opening::recognise(&body[..len]);
        assert!(earlier == Opening::Incomplete || earlier == opening, "{earlier:?} became {opening:?}");
    }
}

/// The product's reader and the fuzzer's own agree about every start of a stream.
fn whole_frame(bytes: &[u8]) {
    let read = Header::wire_bytes(bytes, LENGTH_MAX).and_then(|wire_bytes| match wire_bytes {
        Some(wire_bytes) if wire_bytes <= bytes.len() => Envelope::parse(&bytes[..wire_bytes]),
        Some(_) | None => Ok(None),
    });
    match (frame::read(bytes), read) {
        (Start::Frame { seen, wire_bytes }, Ok(Some(Envelope { header, to, from }))) => {
            assert_eq!((header.kind.to_wire(), header.info_type, header.id), (seen.kind, seen.info, seen.id));
            assert_eq!((to, from, header.wire_bytes), (seen.to, seen.from, wire_bytes));
            assert_eq!(&bytes[header.envelope_bytes()..wire_bytes], seen.body);
            let frame = Outgoing {
                kind: header.kind,
                flags: header.flags,
                info_type: header.info_type,
                id: header.id,
                to,
                from,
                body: seen.body,
            };
            let mut written = BytesMut::new();
            frame.encode(&mut written);
            assert_eq!(written[..], bytes[..wire_bytes]);
            assert!(Kind::ALL.contains(&header.kind) && header.flags.has(Flags::NONE));
        }
        (Start::Incomplete, Ok(None)) => {}
        // A second preface is one by its bytes, whatever else they would mean.
        (Start::Malformed(_), Err(malformed)) => assert!(frame::is_close_code(malformed.close_code().to_wire())),
        (_, read) => panic!("{read:?} is not what the fuzzer's own reader says"),
    }
    if bytes.starts_with(b"TRNK") {
        assert_eq!(Header::wire_bytes(bytes, LENGTH_MAX), Err(Malformed::SecondPreface));
    }
}

fn id(bytes: &[u8]) {
    let is_text = std::str::from_utf8(bytes).is_ok_and(|text| !text.chars().any(char::is_control));
    let is_id = is_text && (1..=64).contains(&bytes.len());
    assert_eq!(check_id(bytes).is_ok(), is_id);
    match UserId::parse(bytes) {
        Ok(user) => assert_eq!(user.as_bytes(), bytes),
        Err(IdError::Empty) => assert!(bytes.is_empty()),
        Err(IdError::Long) => assert!(bytes.len() > 64),
        Err(IdError::NotUtf8 | IdError::Control) => assert!(!is_text),
    }
}
