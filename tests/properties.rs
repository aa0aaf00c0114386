//! What the fuzzer checks, in the time of a test: inputs that get far, and those of its corpus.

mod fuzz_entry;

use std::path::Path;

use fuzz_entry::{client_engine, client_port, control_json, transfer_port, uplink_port};
use proptest::prelude::*;

/// A setting, then steps with their choices: as the entry points read them, so that most of an input means something.
fn script() -> impl Strategy<Value = Vec<u8>> {
    let setting = prop::collection::vec(any::<u8>(), 0..6);
    let step = (0_u8..20, prop::collection::vec(prop_oneof![3 => 0_u8..16, 1 => any::<u8>()], 0..16));
    let steps = prop::collection::vec(step, 0..48);
    (setting, steps).prop_map(|(setting, steps)| {
        let steps = steps.into_iter().flat_map(|(step, choices)| [vec![step], choices].concat());
        setting.into_iter().chain(steps).collect()
    })
}

/// A sort of body, and a body that is nearly one.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let nearly = prop::sample::select(vec![
        r#"{"token":"t","password":"p","device":"d","agent":"a","resume":"r"}"#,
        r#"{"server":1,"session":"1-2-3","heartbeat_ms":10000,"max_frame":4096,"cluster":"up"}"#,
        r#"{"text":"moving","retry_after_ms":5,"go_to":"10.0.0.1:1"}"#,
        r#"{"address":"10.0.0.1:1","capacity":5,"previous_epoch":1,"peers":[1,2]}"#,
        r#"{"servers":[{"server":1,"address":"10.0.0.1:1"}],"awaited":[2]}"#,
        r#"{"ask":"where","users":["bob","carol"]}"#,
        r#"{"users":[{"user":"bob","online":true,"server":2}],"error":"none"}"#,
        "\0\0\0\x1A\x10\x01\x03\x05\0\0\0\x07\0\0\0\0\0\0\0\x2Abobalicehi",
        "TRNK\0\x01\x01\0",
        "TRNKBLBM{\"size\":3,\"name\":\"a\"}",
        "TRNKBLBD\0\0\0\0\0\0\0\x02c",
        "TRNKBLBE\0\0\0\0\0\0\0\x03abcdefghijklmnopqrstuvwxyz012345",
        "\0\0\0\0\0\0\0\x02\0\0\x40\0",
        "\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\x09\x03bob",
    ]);
    let spoilt = (nearly, prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3)).prop_map(
        |(text, changes)| {
            let mut bytes = text.as_bytes().to_vec();
            for (place, byte) in changes {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            bytes
        },
    );
    let bytes = prop_oneof![3 => spoilt, 1 => prop::collection::vec(any::<u8>(), 0..200)];
    (0_u8..16, bytes).prop_map(|(sort, bytes)| [&[sort], &bytes[..]].concat())
}

proptest! {
    // An input that fails goes to the corpus, or becomes a test with a name: no file is left beside this one.
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hostile_clients_get_what_the_protocol_says(input in script()) {
        client_port(&input);
    }

    #[test]
    fn a_hostile_acms_gets_what_the_protocol_says(input in script()) {
        uplink_port(&input);
    }

    #[test]
    fn strangers_and_members_get_what_the_protocol_says(input in script()) {
        transfer_port(&input);
    }

    #[test]
    fn a_client_outlives_a_hostile_server(input in script()) {
        client_engine(&input);
    }

    #[test]
    fn a_body_that_is_taken_is_written_as_it_was_read(input in body()) {
        control_json(&input);
    }
}

/// Runs `entry` with every input of the target's corpus.
fn replay(target: &str, entry: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files = std::fs::read_dir(&corpus).expect("the corpus is there");
    let mut paths: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "no input in {}", corpus.display());
    for path in paths {
        let input = std::fs::read(&path).expect("the input is read");
        // The harness shows it where the run fails.
        println!("{}", path.display());
        entry(&input);
    }
}

#[test]
fn the_corpus_of_client_port_holds() {
    replay("client_port", client_port);
}

#[test]
fn the_corpus_of_uplink_port_holds() {
    replay("uplink_port", uplink_port);
}

#[test]
fn the_corpus_of_transfer_port_holds() {
    replay("transfer_port", transfer_port);
}

#[test]
fn the_corpus_of_client_engine_holds() {
    replay("client_engine", client_engine);
}

#[test]
fn the_corpus_of_control_json_holds() {
    replay("control_json", control_json);
}
