//! Each scenario on a cluster that the program starts itself.

use std::fs;

use serde_json::Value;
use tempfile::TempDir;

use crate::program::{Program, run};

const SHORT: &str = "--local 2 --duration 400ms --warm-up 100ms --json";

/// The outcome of a short run, in which nothing went wrong.
#[track_caller]
fn clean(args: &str) -> Value {
    let ended = run(&format!("{SHORT} {args}"), &[]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let outcome = ended.json();
    assert_eq!(outcome["violation_count"], 0, "{ended:?}");
    assert_eq!(outcome["violations"], serde_json::json!([]), "{ended:?}");
    let seconds = number(&outcome["seconds"]);
    // What a busy machine was late to begin is not measured.
    assert!(0.0 < seconds && seconds < 30.0, "{seconds}");
    outcome
}

/// As [`clean`], of a scenario in which messages are counted.
#[track_caller]
fn writes(args: &str) -> Value {
    let outcome = clean(args);
    let messages = number(&outcome["messages"]);
    assert!(messages > 0.0, "{outcome}");
    let per_second = number(&outcome["messages_per_second"]);
    assert!((per_second * number(&outcome["seconds"]) - messages).abs() < 1.0, "{outcome}");
    let latencies = ["p50", "p90", "p99", "p99.9", "max"].map(|name| number(&outcome["latency_us"][name]));
    assert!(latencies[0] > 0.0 && latencies.is_sorted(), "{latencies:?}");
    outcome
}

#[track_caller]
fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn pairs() {
    let outcome = writes("--clients 8");
    assert_eq!((&outcome["users"], &outcome["workers"], &outcome["bounced"]), (&8.into(), &1.into(), &0.into()));
    let names: Vec<&str> =
        outcome["servers"].as_array().into_iter().flatten().flat_map(|s| s["name"].as_str()).collect();
    assert_eq!(names, ["acms", "as0", "as1"]);
    assert!(number(&outcome["cpu_us_per_message"]) > 0.0, "{outcome}");
    let timeline = outcome["timeline"].as_array().expect("moments");
    assert!(timeline.iter().any(|moment| number(&moment["per_second"]) > 0.0), "{timeline:?}");
    assert!(timeline.iter().all(|moment| moment["online"] == 8), "{timeline:?}");
}

#[test]
fn groups_on_both_servers() {
    let outcome = writes("--clients 8 --scenario groups");
    assert_eq!(outcome["bounced"], 0, "{outcome}");
    writes("--clients 404 --scenario groups --window 2 --size 24..2000");
}

#[test]
fn both_with_a_window() {
    writes("--clients 6 --scenario both --window 16");
}

#[test]
fn random_with_mixed_sizes() {
    writes("--clients 10 --scenario random --size 24..100000");
}

#[test]
fn many_to_one_at_a_rate() {
    let outcome = writes("--clients 8 --scenario many-to-one --rate 500 --duration 2s");
    let per_second = number(&outcome["messages_per_second"]);
    assert!((100.0..700.0).contains(&per_second), "{outcome}");
}

#[test]
fn idle() {
    for pace in ["", "--rate 1000"] {
        let outcome = clean(&format!("--clients 8 --scenario idle {pace}"));
        assert_eq!((&outcome["messages"], &outcome["logins"]), (&0.into(), &0.into()));
        // With nothing to write it sleeps.
        assert!(number(&outcome["cpu_seconds"]) < 0.2, "{outcome}");
    }
}

#[test]
fn storm() {
    let outcome = clean("--clients 8 --scenario storm");
    assert_eq!(outcome["messages"], 0);
    assert!(number(&outcome["logins"]) > 8.0, "{outcome}");
}

#[test]
fn churn() {
    let outcome = writes("--clients 16 --scenario churn --window 4");
    assert!(number(&outcome["logins"]) > 0.0, "{outcome}");
}

#[test]
fn slow() {
    for pace in ["--window 1", "--rate 300"] {
        // One of ten pairs is a flood, with bodies large enough to fill what the system takes.
        let outcome = writes(&format!("--clients 20 --scenario slow --size 5000 --duration 1s {pace}"));
        for server in outcome["servers"].as_array().expect("servers") {
            assert!(number(&server["peak_bytes"]) < 100e6, "{server}");
        }
    }
}

/// The good pairs lose nothing, and wait for nobody.
#[test]
fn one_bad_pair_among_good_ones() {
    for scenario in ["one-flooder", "one-stalled"] {
        let load = "--clients 20 --size 5000 --rate 300 --duration 1s --limits";
        let outcome = writes(&format!("{load} --scenario {scenario}"));
        let flooded = number(&outcome["flooded"]);
        assert_eq!(flooded > 0.0, scenario == "one-flooder", "{scenario}: {outcome}");
        // Who waited for the stalled reader would wait until that one is closed, after 10 s.
        assert!(number(&outcome["latency_us"]["p99"]) < 8e6, "{scenario}: {outcome}");
    }
}

/// The floor loses nothing either, or what it is compared with would be worth nothing.
#[test]
fn the_floor() {
    for load in ["--window 16", "--size 300000", "--rate 1000"] {
        writes(&format!("--clients 8 --system floor {load}"));
    }
}

#[test]
fn a_comparison() {
    let line = "compare --rounds 2 --duration 200ms --clients 8 --idle-clients 8 --rate 1000 --pin 0,0 --without-nats";
    let ended = run(line, &[]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let rows: Vec<Vec<&str>> =
        ended.stdout.lines().map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect();
    assert_eq!(rows[0], ["figure", "unit", "floor", "trunkline", "trunkline / floor"], "{ended:?}");
    for name in ["1 under way: CPU", "16 under way", "at the rate: p99", "idle connection"] {
        let row = rows.iter().find(|row| row[0] == name).unwrap_or_else(|| panic!("{name}: {ended:?}"));
        for cell in &row[2..] {
            let median = cell.split(' ').next().and_then(|median| median.parse::<f64>().ok());
            assert!(median.is_some_and(|median| median > 0.0 || name == "idle connection"), "{name}: {ended:?}");
        }
    }
}

#[test]
fn several_processes() {
    for pace in ["--window 2", "--rate 600"] {
        let outcome = writes(&format!("--clients 14 --users-per-process 4 --scenario random {pace}"));
        assert_eq!((&outcome["users"], &outcome["workers"]), (&14.into(), &4.into()));
    }
}

#[test]
fn files() {
    let dir = TempDir::new().expect("a temporary directory");
    let [histogram, page] = ["latency.txt", "page.html"].map(|name| dir.path().join(name));
    let text = |path: &std::path::Path| path.to_str().expect("a path in UTF-8").to_owned();
    let line = "--local 2 --clients 8 --duration 400ms --warm-up 100ms";
    let ended = run(line, &["--histogram", &text(&histogram), "--report", &text(&page)]);
    assert_eq!(ended.code, Some(0), "{ended:?}");

    let histogram = fs::read_to_string(histogram).expect("the histogram was written");
    let mut lines = histogram.lines();
    let heading: Vec<&str> = lines.next().expect("a heading").split_whitespace().collect();
    assert_eq!(heading, ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]);
    let rows = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let columns: Vec<Vec<f64>> =
        rows.map(|row| row.split_whitespace().map(|field| field.parse().expect("a number")).collect()).collect();
    for column in 0..3 {
        assert!(columns.iter().map(|row| row[column]).is_sorted(), "{histogram}");
    }
    let last = columns.last().expect("a row");
    assert_eq!(last[1], 1.0);
    assert!(histogram.contains(&format!("Total count    = {:>12}]", last[2])), "{histogram}");

    let page = fs::read_to_string(page).expect("the page was written");
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"), "{page}");
    assert!(page.contains("8 users, 1 under way on each route, 128 bytes, 2 local servers, 400ms"), "{page}");
    // Latency, messages and users.
    assert_eq!(page.matches("<svg").count(), 3, "{page}");
    for row in ended.stdout.lines() {
        let value = row.split("  ").last().expect("a value").trim();
        assert!(page.contains(value), "{value:?}: {page}");
    }
    for outside in ["<script", "@import", "url(", "src=", "href="] {
        assert!(!page.contains(outside), "{outside}: {page}");
    }
}

#[test]
fn parts_end_with_a_killed_front() {
    let mut program = Program::start("--local 2 --clients 8 --duration 1h", &[], "info");
    program.says("u0000007");
    program.kill();
    assert_eq!(program.end().code, None);
}
