//! Whatever a server does wrong with a single message is told, and makes the exit code 1.

use tempfile::TempDir;

use crate::program::{Ended, run};
use crate::relay::{self, Fault};

const USERS: usize = 6;
/// Runs of which the first that gets as far as the fault counts: a busy machine may pass hardly a message in one.
const RUNS_MAX: usize = 20;

/// A short run on a relay with that fault.
#[track_caller]
fn load(fault: Fault, args: &str, more: &[&str]) -> Ended {
    for _ in 0..RUNS_MAX {
        let relay = relay::start(USERS, fault);
        let addr = relay.addr;
        let fixed = format!("--servers {addr} --clients {USERS} --duration 300ms --warm-up 50ms --patience 5s");
        let ended = run(&format!("{fixed} {args}"), more);
        // What ends a run itself leaves nothing to come behind it.
        if relay.has_struck() || matches!(fault, Fault::HangUp | Fault::Close) && ended.code == Some(1) {
            return ended;
        }
    }
    panic!("{RUNS_MAX} runs, and none got as far as the fault");
}

/// The table names a violation with these words, and the exit code is 1.
#[track_caller]
fn tells(fault: Fault, args: &str, words: &[&str]) {
    let ended = load(fault, args, &[]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let (_, violations) = ended.stdout.split_once("\nviolations").unwrap_or_else(|| panic!("{ended:?}"));
    assert_ne!(violations.lines().next().map(str::trim), Some("0"), "{ended:?}");
    for word in words {
        assert!(violations.contains(word), "{word:?}: {ended:?}");
    }
}

#[test]
fn an_honest_relay_is_found_honest() {
    let groups = "--scenario groups --rate 1000";
    for args in ["", "--window 8 --size 24..5000", "--scenario both --rate 3000", "--scenario groups", groups] {
        let ended = load(Fault::None, args, &[]);
        assert_eq!(ended.code, Some(0), "{args}: {ended:?}");
        let last = ended.stdout.lines().last().expect("a table");
        assert_eq!(last.split_whitespace().collect::<Vec<&str>>(), ["violations", "0"], "{ended:?}");
    }
}

#[test]
fn a_lost_message_is_told_by_its_successor() {
    tells(Fault::Lose, "--window 4", &["got message ", " of u00000", " instead of "]);
}

#[test]
fn a_lost_message_without_successor_is_told_at_the_end() {
    tells(Fault::Lose, "--window 1", &["1 message lost"]);
}

#[test]
fn a_message_that_comes_twice() {
    tells(Fault::Duplicate, "--window 1", &["got message ", " instead of "]);
}

#[test]
fn messages_that_change_places() {
    tells(Fault::Swap, "--window 4", &["got message ", " instead of "]);
}

#[test]
fn a_changed_byte_wherever_it_is() {
    // Stream, check, number, time and filling of a stamp.
    for (place, args) in [(2, ""), (5, ""), (8, "--size 24"), (20, "--size 24"), (24, ""), (-1, "--size 5000")] {
        tells(Fault::Corrupt(place), args, &["that are not what was sent"]);
    }
}

#[test]
fn a_message_with_another_address() {
    tells(Fault::Readdress, "--window 4", &["got a message that is another's"]);
}

#[test]
fn a_message_for_somebody_else() {
    tells(Fault::Misdeliver, "--window 4", &["got a message that is another's"]);
}

#[test]
fn a_bounced_message() {
    tells(Fault::Bounce, "", &["bounced: BUSY"]);
}

#[test]
fn a_bounce_of_what_was_not_sent() {
    tells(Fault::BounceAnother, "", &["not sent so far, bounced: BUSY"]);
}

#[test]
fn whatever_goes_wrong_in_a_group() {
    let of_its_group = ["got message ", " to its group instead of "];
    tells(Fault::Lose, "--scenario groups --window 4", &of_its_group);
    tells(Fault::Lose, "--scenario groups --window 1", &["1 message lost"]);
    tells(Fault::Duplicate, "--scenario groups", &of_its_group);
    tells(Fault::Swap, "--scenario groups --window 4", &of_its_group);
    tells(Fault::Corrupt(-1), "--scenario groups", &["that are not what was sent"]);
    tells(Fault::Readdress, "--scenario groups", &["got a message that is another's"]);
    tells(Fault::Bounce, "--scenario groups", &[" to its group bounced: BUSY"]);
}

#[test]
fn a_user_that_is_hung_up_on() {
    tells(Fault::HangUp, "", &["was hung up on"]);
}

#[test]
fn a_user_that_is_closed() {
    tells(Fault::Close, "", &["was closed: 1009 out of luck"]);
}

#[test]
fn names_are_text_in_a_page() {
    let dir = TempDir::new().expect("a temporary directory");
    let page = dir.path().join("page.html");
    let page = page.to_str().expect("a path in UTF-8");
    let ended = load(Fault::Lose, "--window 4", &["--prefix", "<i>&", "--report", page]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let html = std::fs::read_to_string(page).expect("the page was written");
    assert!(html.contains(" of &lt;i&gt;&amp;00000") && !html.contains("<i>"), "{html}");
}
