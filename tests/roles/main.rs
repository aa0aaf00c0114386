//! Each core alone at the seam: hand-written bytes on its connections, virtual time, and what it answers.

mod acms;
mod appserver;
mod assignment;
mod blobs;
mod client;
mod directory;
mod entrance;
mod groups;
mod newcomer;
mod operator;
mod overload;
mod presence;
mod queries;
mod unheard;
mod wire_peer;

use trunkline::wire::CloseCode;

/// A code of the protocol and the tests that provoke it.
struct Row {
    code: u32,
    name: &'static str,
    provoked_by: &'static [&'static str],
}

const fn row(code: u32, name: &'static str, provoked_by: &'static [&'static str]) -> Row {
    Row { code, name, provoked_by }
}

const CLOSE_CODES: &[Row] = &[
    row(1000, "SHUTDOWN", &["a_server_that_stops_says_so_to_everyone", "an_acms_that_stops_says_so_to_everyone"]),
    row(1001, "MOVE", &["a_draining_server_sends_its_users_to_the_others_in_turn"]),
    row(1002, "SLOW", &["a_client_that_takes_nothing_for_ten_seconds_is_slow", "the_slowest_receiver_goes_first"]),
    row(
        1003,
        "NO_HEARTBEAT",
        &["a_silent_client_is_pinged_and_then_closed", "a_silent_server_is_dead_after_three_seconds"],
    ),
    row(
        1004,
        "FULL",
        &[
            "one_connection_too_many_is_told_so",
            "one_server_too_many_is_told_so",
            "nobody_new_is_let_in_while_memory_is_short",
            "an_acms_takes_no_server_and_holds_none_back_while_memory_is_short",
        ],
    ),
    row(1005, "RATE", &["who_sends_too_much_for_thirty_seconds_is_closed"]),
    row(1006, "LOGIN_TIMEOUT", &["no_byte_for_five_seconds_ends_it", "no_login_for_ten_seconds_ends_it"]),
    row(1007, "PARTIAL", &["a_frame_begun_and_never_finished_ends_it", "a_byte_a_second_does_not_keep_a_frame_alive"]),
    row(
        1008,
        "UNAVAILABLE",
        &[
            "cut_off_and_told_to_it_refuses_new_logins",
            "each_verdict_has_its_code",
            "a_login_check_without_end_is_ended",
        ],
    ),
    row(1009, "INTERNAL", &["each_verdict_has_its_code"]),
    row(1500, "BAD_MAGIC", &["what_a_client_says_wrong_has_its_code", "what_a_stranger_says_wrong_has_its_code"]),
    row(1501, "WRONG_PORT", &["what_a_client_says_wrong_has_its_code", "what_a_stranger_says_wrong_has_its_code"]),
    row(1502, "VERSION", &["no_common_version_names_both_ranges", "what_a_stranger_says_wrong_has_its_code"]),
    row(1503, "PROTOCOL", &["a_frame_before_its_turn_is_a_fault", "what_a_member_says_wrong_has_its_code"]),
    row(1504, "TOO_BIG", &["what_a_client_says_wrong_has_its_code", "what_a_user_says_wrong_has_its_code"]),
    row(1505, "BAD_FIELD", &["what_a_client_says_wrong_has_its_code", "what_a_member_says_wrong_has_its_code"]),
    row(1506, "SPOOF", &["what_a_user_says_wrong_has_its_code"]),
    row(1507, "REFUSED", &["each_verdict_has_its_code"]),
    row(1508, "REPLACED", &["alone_a_second_login_replaces_the_first", "a_kick_ends_that_exact_session_and_no_other"]),
    row(1509, "ALREADY_ONLINE", &["alone_the_first_login_may_be_kept", "a_claim_refused_closes_the_newer_login"]),
    row(1510, "KICKED", &["the_application_kicks_a_user"]),
    row(1511, "LOGGED_OUT", &["a_logout_is_answered"]),
    row(1512, "DUPLICATE_SERVER", &["a_server_id_in_use_names_both_addresses"]),
    row(1513, "NOT_A_MEMBER", &["no_cause_of_refusal_reveals_anything", "a_proof_is_good_for_one_connection"]),
];

const BOUNCES: &[Row] = &[
    row(1, "OFFLINE", &["alone_an_unknown_user_is_offline", "an_unknown_user_is_offline"]),
    row(2, "UNREACHABLE", &["cut_off_what_goes_up_is_unreachable"]),
    row(3, "RETRY", &["until_a_server_is_synced_nobody_is_offline", "who_comes_back_first_makes_nobody_offline"]),
    row(4, "BUSY", &["a_full_receiver_bounces_busy", "a_full_downlink_bounces_busy"]),
    row(5, "DENIED", &["a_handler_may_say_no"]),
    row(6, "TOO_BIG", &["a_frame_larger_than_this_server_takes_bounces"]),
    row(7, "NO_HANDLER", &["without_a_handler_there_is_a_bounce"]),
    row(8, "NOT_IN_GROUP", &["only_members_speak"]),
];

#[test]
fn every_code_has_its_row_and_every_row_its_test() {
    let sources = [
        include_str!("appserver.rs"),
        include_str!("acms.rs"),
        include_str!("client.rs"),
        include_str!("overload.rs"),
        include_str!("groups.rs"),
        include_str!("presence.rs"),
        include_str!("operator.rs"),
    ]
    .concat();
    let listed: Vec<(u32, Option<&str>)> = CLOSE_CODES.iter().map(|row| (row.code, Some(row.name))).collect();
    let known: Vec<(u32, Option<&str>)> = CloseCode::ALL.iter().map(|code| (code.to_wire(), code.name())).collect();
    assert_eq!(listed, known);
    assert_eq!(BOUNCES.iter().map(|row| row.code).collect::<Vec<_>>(), (1..=8).collect::<Vec<_>>());
    for Row { code, name, provoked_by } in CLOSE_CODES.iter().chain(BOUNCES) {
        for test in *provoked_by {
            assert!(sources.contains(&format!("fn {test}()")), "{code} {name}: there is no test {test}");
        }
    }
}
