//! Columns of text.

use std::fmt::Write as _;

/// How a column stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A table whose columns are as wide as they must be, two spaces apart.
pub(super) struct Table<const N: usize> {
    heads: [(&'static str, Align); N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub(super) fn new(heads: [(&'static str, Align); N]) -> Table<N> {
        Table { heads, rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells);
    }

    /// Its lines, no longer than `width` characters.
    pub(super) fn lines(&self, width: usize) -> Vec<String> {
        let heads = self.heads.map(|(head, _)| head.to_owned());
        let widths: [usize; N] = std::array::from_fn(|column| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.chain([heads[column].len()]).max().unwrap_or(0)
        });
        [&heads].into_iter().chain(&self.rows).map(|row| cut(&self.line(row, widths), width)).collect()
    }

    fn line(&self, row: &[String; N], widths: [usize; N]) -> String {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let gap = if column == 0 { "" } else { "  " };
            let width = widths[column];
            let written = match self.heads[column].1 {
                Align::Left => write!(line, "{gap}{cell:<width$}"),
                Align::Right => write!(line, "{gap}{cell:>width$}"),
            };
            written.expect("a string takes all");
        }
        line.trim_end().to_owned()
    }

    /// All of it.
    pub(super) fn text(&self) -> String {
        self.lines(usize::MAX).join("\n") + "\n"
    }
}

/// At most `width` characters of a line; the last one says where some are missing.
pub(super) fn cut(line: &str, width: usize) -> String {
    if line.chars().count() <= width {
        return line.to_owned();
    }
    line.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// A number in four digits at most, or more before the thousand: `9999`, `12.3k`, `4.5M`.
pub(super) fn count(number: u64) -> String {
    scaled(number, 1_000, 9_999, ["k", "M", "G", "T"])
}

/// Bytes in units of 1,024: `1023`, `12.3K`, `4.5M`.
pub(super) fn bytes(number: u64) -> String {
    scaled(number, 1_024, 1_023, ["K", "M", "G", "T"])
}

fn scaled(number: u64, step: u64, plain_max: u64, units: [&str; 4]) -> String {
    if number <= plain_max {
        return number.to_string();
    }
    let mut tenths = u128::from(number) * 10 / u128::from(step);
    let mut unit = 0;
    while tenths >= 10_000 && unit + 1 < units.len() {
        tenths /= u128::from(step);
        unit += 1;
    }
    if tenths >= 1_000 {
        format!("{}{}", tenths / 10, units[unit])
    } else {
        format!("{}.{}{}", tenths / 10, tenths % 10, units[unit])
    }
}

/// A time in its two largest units.
pub(super) fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {}m", minutes % 60),
        (_, _, _) => format!("{days}d {}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new([("USER", Align::Left), ("N", Align::Right), ("", Align::Left)]);
        table.row(["älice".to_owned(), "5".to_owned(), "x".to_owned()]);
        table.row(["b".to_owned(), "123".to_owned(), String::new()]);
        assert_eq!(table.text(), "USER     N\nälice    5  x\nb      123\n");
        assert_eq!(table.lines(9), ["USER    …", "älice   …", "b      1…"]);
    }

    #[test]
    fn numbers_keep_their_size_in_few_characters() {
        let counts = [0, 9_999, 10_000, 12_345, 99_999, 123_456, 999_999, 1_000_000, u64::MAX].map(count);
        assert_eq!(counts, ["0", "9999", "10.0k", "12.3k", "99.9k", "123k", "999k", "1.0M", "18446744T"]);
        let sizes = [1_023, 1_024, 1_536, 102_400, 1_023_999, 1_024_000, 1 << 20, 5 << 40].map(bytes);
        assert_eq!(sizes, ["1023", "1.0K", "1.5K", "100K", "999K", "0.9M", "1.0M", "5.0T"]);
    }

    #[test]
    fn a_time_has_two_units() {
        let spans = [0, 59, 60, 3_599, 3_600, 86_399, 86_400, 200_000].map(span);
        assert_eq!(spans, ["0s", "59s", "1m 0s", "59m 59s", "1h 0m", "23h 59m", "1d 0h", "2d 7h"]);
    }
}
