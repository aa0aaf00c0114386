//! What a run came to, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::fleet::Outcome;

/// The quantiles that are told, with their names.
pub(crate) const QUANTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];
/// The row behind which only violations come.
pub(crate) const VIOLATIONS: &str = "violations";
/// Steps of an exported histogram for each halving of the distance to 100 %.
const STEPS_PER_HALVING: u32 = 5;

/// The table at the end of a run.
pub(crate) fn table(outcome: &Outcome) -> String {
    let rows = rows(outcome);
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    rows.iter().fold(String::new(), |mut text, (name, value)| {
        writeln!(text, "{name:<width$}  {value}").expect("memory takes what is written");
        text
    })
}

/// The rows of the table; a row without a name belongs to the one above.
pub(crate) fn rows(outcome: &Outcome) -> Vec<(String, String)> {
    let report = &outcome.report;
    let mut rows: Vec<(String, String)> = Vec::new();
    let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
    row("users", format!("{} in {} process{}", outcome.users, outcome.workers, plural(outcome.workers, "es")));
    row("logins a second", format!("{:.0} at the start", f64::from(outcome.users) / report.login_seconds.max(1e-9)));
    if report.logins > 0 {
        row("", format!("{:.1} under load", report.logins as f64 / report.seconds.max(1e-9)));
    }
    row("messages", format!("{} in {:.1} s", report.messages, report.seconds));
    row("messages a second", format!("{:.0}", outcome.per_second()));
    for (name, quantile) in QUANTILES.iter().filter(|_| report.messages > 0) {
        row(&format!("latency {name}"), format!("{:.1} us", report.latency.micros(*quantile)));
    }
    if !report.lateness.0.is_empty() {
        row("sent late p99", format!("{:.1} us", report.lateness.micros(0.99)));
    }
    if let Some(micros) = outcome.cpu_us_per_message() {
        row("server CPU", format!("{micros:.2} s a million messages"));
        row(
            "",
            format!("{:.2} yardsticks a message (one: {:.2} us)", micros / outcome.yardstick_us, outcome.yardstick_us),
        );
    }
    if report.messages > 0 {
        row("load CPU", format!("{:.2} s a million messages", report.cpu_seconds * 1e6 / report.messages as f64));
    }
    if let Some(bytes) = outcome.bytes_per_user() {
        row("bytes a connection", format!("{bytes:.0} allocated by its server"));
    }
    for server in &outcome.servers {
        let (peak, now) = (megabytes(server.peak_bytes), megabytes(server.anonymous_bytes));
        row(&server.name, format!("{:.2} s CPU, {peak} MB peak, {now} MB allocated now", server.cpu_seconds));
    }
    for (name, calls) in outcome.syscalls_per_message.iter().take(6) {
        row(&format!("{name} a message"), format!("{calls:.3}"));
    }
    row("bounced", report.bounced.to_string());
    for (name, count) in [
        ("flooded", report.flooded),
        ("closed for not reading", report.closed_slow),
        ("closed for flooding", report.closed_rate),
        ("sent away and back", report.sent_away),
    ] {
        if count > 0 {
            row(name, count.to_string());
        }
    }
    row(VIOLATIONS, report.violation_count.to_string());
    report.violations.iter().for_each(|violation| row("", violation.clone()));
    rows
}

fn plural(count: usize, ending: &str) -> &str {
    if count == 1 { "" } else { ending }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1e6)
}

/// An outcome with what programs would have to work out themselves.
#[derive(Serialize)]
struct Json<'a> {
    messages_per_second: f64,
    latency_us: BTreeMap<&'a str, f64>,
    cpu_us_per_message: Option<f64>,
    bytes_per_connection: Option<f64>,
    #[serde(flatten)]
    outcome: &'a Outcome,
}

/// The outcome as JSON.
pub(crate) fn json(outcome: &Outcome) -> String {
    let json = Json {
        messages_per_second: outcome.per_second(),
        latency_us: QUANTILES.map(|(name, quantile)| (name, outcome.report.latency.micros(quantile))).into(),
        cpu_us_per_message: outcome.cpu_us_per_message(),
        bytes_per_connection: outcome.bytes_per_user(),
        outcome,
    };
    serde_json::to_string_pretty(&json).expect("numbers and plain text") + "\n"
}

/// Latencies as the percentile table that HdrHistogram's plotters read; values in microseconds.
pub(crate) fn histogram(latency: &Histogram<u64>) -> String {
    let mut text = format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    let mut line = |micros: f64, quantile: f64, count: u64| {
        let inverse = if quantile < 1.0 { format!("{:.2}", 1.0 / (1.0 - quantile)) } else { String::new() };
        writeln!(text, "{micros:>12.3} {quantile:>14.12} {count:>10} {inverse:>14}")
            .expect("memory takes what is written");
    };
    let mut count = 0;
    for step in latency.iter_quantiles(STEPS_PER_HALVING) {
        count += step.count_since_last_iteration();
        line(step.value_iterated_to() as f64 / 1e3, step.quantile_iterated_to(), count);
    }
    let (mean, deviation) = (latency.mean() / 1e3, latency.stdev() / 1e3);
    let (max, total) = (latency.max() as f64 / 1e3, latency.len());
    writeln!(text, "#[Mean    = {mean:>12.3}, StdDeviation   = {deviation:>12.3}]")
        .expect("memory takes what is written");
    writeln!(text, "#[Max     = {max:>12.3}, Total count    = {total:>12}]").expect("memory takes what is written");
    text
}
