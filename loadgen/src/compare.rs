//! Trunkline beside the floor and NATS: the same load on each, by turns, so that all see the same weather.

use std::io;
use std::time::Duration;

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};

use crate::args::{CompareArgs, NAME_BYTES, Work};
use crate::cluster::Kind;
use crate::fleet::{self, Load, Outcome, PATIENCE, Pins, Target};
use crate::job::Pace;
use crate::live::Live;
use crate::process::is_installed;
use crate::scenario::Scenario;

const FLOOR: usize = 0;

/// One figure of one kind of work.
struct Figure {
    name: &'static str,
    unit: &'static str,
    work: Work,
    of: fn(&Outcome) -> Option<f64>,
}

const FIGURES: [Figure; 12] = [
    Figure { name: "1 under way: CPU", unit: "us/message", work: Work::One, of: Outcome::cpu_us_per_message },
    Figure { name: "1 under way: CPU", unit: "yardsticks", work: Work::One, of: yardsticks },
    Figure { name: "1 under way", unit: "messages/s", work: Work::One, of: per_second },
    Figure { name: "16 under way: CPU", unit: "us/message", work: Work::Sixteen, of: Outcome::cpu_us_per_message },
    Figure { name: "16 under way: CPU", unit: "yardsticks", work: Work::Sixteen, of: yardsticks },
    Figure { name: "16 under way", unit: "messages/s", work: Work::Sixteen, of: per_second },
    Figure { name: "at the rate: p50", unit: "us", work: Work::Rate, of: |outcome| latency(outcome, 0.5) },
    Figure { name: "at the rate: p99", unit: "us", work: Work::Rate, of: |outcome| latency(outcome, 0.99) },
    Figure { name: "at the rate: sent late, p99", unit: "us", work: Work::Rate, of: lateness },
    Figure { name: "at the rate", unit: "messages/s", work: Work::Rate, of: per_second },
    Figure { name: "at the rate: CPU", unit: "us/message", work: Work::Rate, of: Outcome::cpu_us_per_message },
    Figure { name: "idle connection", unit: "bytes", work: Work::Idle, of: Outcome::bytes_per_user },
];

fn yardsticks(outcome: &Outcome) -> Option<f64> {
    Some(outcome.cpu_us_per_message()? / outcome.yardstick_us)
}

fn per_second(outcome: &Outcome) -> Option<f64> {
    Some(outcome.per_second())
}

fn latency(outcome: &Outcome, quantile: f64) -> Option<f64> {
    Some(outcome.report.latency.micros(quantile))
}

fn lateness(outcome: &Outcome) -> Option<f64> {
    Some(outcome.report.lateness.micros(0.99))
}

/// Measures each in rounds, and prints the medians and their ratios to the floor; false where a message went wrong.
pub(crate) fn run(args: &CompareArgs) -> io::Result<bool> {
    let frame_bytes = trunkline::limits::HEADER_BYTES + 2 * NAME_BYTES + args.size as usize;
    let tuning = args.tuning();
    let trunkline = |program| Kind::Trunkline { servers: 2, tuning, limited: false, program };
    let mut kinds = vec![("floor", Kind::Floor { frame_bytes }), ("trunkline", trunkline(std::env::current_exe()?))];
    if let Some(program) = &args.baseline {
        kinds.push(("baseline", trunkline(program.clone())));
    }
    if !args.without_nats && is_installed("nats-server") {
        kinds.push(("nats", Kind::Nats));
    }
    // By figure, then kind, then round.
    let mut figures = vec![vec![Vec::new(); kinds.len()]; FIGURES.len()];
    let mut clean = true;
    for round in 0..args.rounds {
        for &work in &args.work {
            for (place, (name, kind)) in kinds.iter().enumerate() {
                let live = Live::new(format!("round {} of {}, {name}: ", round + 1, args.rounds));
                let outcome = measure(args, kind, work, live)?;
                for violation in &outcome.report.violations {
                    eprintln!("{name}: {violation}");
                }
                clean &= outcome.report.violation_count == 0;
                for (figure, values) in FIGURES.iter().zip(&mut figures) {
                    if figure.work == work {
                        values[place].push((figure.of)(&outcome).unwrap_or(f64::NAN));
                    }
                }
            }
        }
    }
    let names: Vec<&str> = kinds.iter().map(|(name, _)| *name).collect();
    println!("{}", table(&names, &figures));
    Ok(clean)
}

fn measure(args: &CompareArgs, kind: &Kind, work: Work, live: Live) -> io::Result<Outcome> {
    let pins = Pins { servers: Some(args.pin.0), load: Some(args.pin.1) };
    let load = Load {
        users: if work == Work::Idle { args.idle_clients } else { args.clients } / 2 * 2,
        scenario: if work == Work::Idle { Scenario::Idle } else { Scenario::Pairs },
        pace: match work {
            Work::One | Work::Idle => Pace::Window(1),
            Work::Sixteen => Pace::Window(16),
            Work::Rate => Pace::Rate(args.rate.get().into()),
        },
        body_bytes: (args.size, args.size),
        dials_max: 256,
        prefix: "u".to_owned(),
        seed: 1,
        warm_up: if work == Work::Idle { Duration::ZERO } else { Duration::from_secs(1) },
        duration: if work == Work::Idle { Duration::from_millis(100) } else { args.duration },
        users_per_worker: u32::MAX,
        patience: PATIENCE,
        trace: false,
    };
    let cluster = kind.start(pins.servers)?;
    let target = Target { dialect: cluster.dialect, addrs: &cluster.addrs, servers: &cluster.servers };
    fleet::run(&target, &load, pins, live)
}

/// One row a figure: each kind's median with its least and most, and the median of its ratios to the floor in the same
/// round.
fn table(names: &[&str], figures: &[Vec<Vec<f64>>]) -> Table {
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN);
    let mut header = vec!["figure".to_owned(), "unit".to_owned()];
    for (place, name) in names.iter().enumerate() {
        header.push((*name).to_owned());
        if place != FLOOR {
            header.push(format!("{name} / floor"));
        }
    }
    let columns = header.len();
    table.set_header(header);
    for (figure, kinds) in FIGURES.iter().zip(figures).filter(|(_, kinds)| !kinds[FLOOR].is_empty()) {
        let mut row = vec![figure.name.to_owned(), figure.unit.to_owned()];
        for (place, values) in kinds.iter().enumerate() {
            row.push(spread(values));
            if place != FLOOR {
                let ratios: Vec<f64> = values.iter().zip(&kinds[FLOOR]).map(|(value, floor)| value / floor).collect();
                row.push(spread(&ratios));
            }
        }
        table.add_row(row);
    }
    (2..columns).for_each(|column| {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    });
    table
}

/// The median, with the least and the most, of what was had.
fn spread(values: &[f64]) -> String {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|value| !value.is_nan()).collect();
    sorted.sort_by(f64::total_cmp);
    match &sorted[..] {
        [] => "-".to_owned(),
        [only] => short(*only),
        [least, .., most] => format!("{} ({}-{})", short(median(&sorted)), short(*least), short(*most)),
    }
}

fn median(sorted: &[f64]) -> f64 {
    (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0
}

/// Three digits that count.
fn short(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_names_median_least_and_most() {
        assert_eq!(spread(&[3.0, 1.0, 2.0]), "2.00 (1.00-3.00)");
        assert_eq!(spread(&[1000.0, 12.0]), "506 (12.0-1000)");
        assert_eq!((spread(&[]), spread(&[0.456])), ("-".to_owned(), "0.46".to_owned()));
    }
}
