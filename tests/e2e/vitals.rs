//! What a process takes of its machine, from /proc.

use std::time::Duration;

use crate::now;
use crate::program::Program;

/// Linux counts processor time in hundredths of a second towards programs, whatever the kernel's own tick is.
const TICKS_PER_SECOND: f64 = 100.0;

/// Resident memory now, in bytes.
pub(crate) fn resident_bytes(program: &Program) -> usize {
    kilobytes(program, "VmRSS:") << 10
}

/// Resident memory at its highest so far, in bytes.
pub(crate) fn peak_bytes(program: &Program) -> usize {
    kilobytes(program, "VmHWM:") << 10
}

fn kilobytes(program: &Program, field: &str) -> usize {
    let status = read(program, "status");
    let value = status.lines().find_map(|line| line.strip_prefix(field)?.split_whitespace().next()?.parse().ok());
    value.unwrap_or_else(|| panic!("no {field} in {status}"))
}

/// The share of one processor that it takes over a second: the least of three, since others have the machine too.
pub(crate) fn cpu_share(program: &Program) -> f64 {
    let shares = (0..3).map(|_| {
        let (began, before) = (now(), cpu_time(program));
        // An hour-glass, not an event: what is measured is what happens while nothing does.
        crossbeam_channel::after(Duration::from_secs(1)).recv().expect("it comes");
        (cpu_time(program) - before).as_secs_f64() / began.elapsed().as_secs_f64()
    });
    shares.fold(f64::MAX, f64::min)
}

fn cpu_time(program: &Program) -> Duration {
    let stat = read(program, "stat");
    // The name, in parentheses, may have anything in it; user and system time are the 12th and 13th field behind it.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_secs_f64(ticks as f64 / TICKS_PER_SECOND)
}

/// The lowest number that no open file of it has: as a limit on descriptors, it allows no more.
pub(crate) fn lowest_free_descriptor(program: &Program) -> u64 {
    let dir = std::fs::read_dir(format!("/proc/{}/fd", program.pid())).expect("the process is this user's own");
    let taken: Vec<u64> = dir.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    (0..).find(|number| !taken.contains(number)).expect("numbers have no end")
}

fn read(program: &Program, file: &str) -> String {
    std::fs::read_to_string(format!("/proc/{}/{file}", program.pid())).expect("the process runs")
}
