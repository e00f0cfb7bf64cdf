//! Aligned columns, and numbers as people read them.

use std::fmt::Write as _;

use super::output::{BOLD, DIM};
use crate::error::is_command;

/// A line per fact: its name, then its value, the values below each other.
pub(super) fn facts(facts: &[(&str, String)]) -> String {
    let facts: Vec<_> =
        facts.iter().map(|(name, value)| (printable_line(name), printable_line(value))).collect();
    let width = facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in facts {
        let _ = writeln!(text, "{DIM}{name:<width$}{DIM:#}  {value}");
    }
    text
}

/// A header and rows of as many cells, every column to the right.
pub(super) fn table<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.to_vec()).collect();
    columns(&header.map(str::to_owned), &rows)
}

/// The same, of any number of columns.
pub(super) fn columns(header: &[String], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let lines = rows.iter().map(Vec::as_slice).chain([header]);
        lines.filter_map(|cells| Some(cells.get(column)?.chars().count())).max().unwrap_or(0)
    };
    let line = |cells: &[String]| {
        let cells: Vec<String> = cells
            .iter()
            .enumerate()
            .map(|(column, cell)| format!("{cell:>width$}", width = width(column)))
            .collect();
        cells.join("  ")
    };
    let mut text = format!("{BOLD}{}{BOLD:#}\n", line(header));
    for row in rows {
        text.push_str(&line(row));
        text.push('\n');
    }
    text
}

/// A share in percent; a dash where it is none.
pub(super) fn percent(share: f64) -> String {
    if share.is_nan() { "–".to_owned() } else { format!("{:.1}", 100.0 * share) }
}

/// Nats with some digits; a dash where there is no number.
pub(super) fn nats(x: f64, n_digit: usize) -> String {
    match x.is_nan() {
        true => "–".to_owned(),
        // Rounding can leave a KL of nothing below zero.
        false if x.abs() < 0.5 * 0.1f64.powi(n_digit as i32) => format!("{:.n_digit$}", 0.0),
        false => format!("{x:.n_digit$}"),
    }
}

/// A number of bytes.
pub(super) fn bytes(n: u64) -> String {
    scaled(n, ["B", "kB", "MB", "GB"])
}

/// A number of parameters.
pub(super) fn count(n: u64) -> String {
    scaled(n, ["", "thousand", "million", "billion"]).trim_end().to_owned()
}

/// A number in the largest unit that leaves at least one; each is a thousand of the one before.
fn scaled(n: u64, units: [&str; 4]) -> String {
    let power = (n.max(1).ilog10() / 3).min(3);
    let unit = units[power as usize];
    match power {
        0 => format!("{n} {unit}"),
        _ => format!("{:.2} {unit}", n as f64 / 1000f64.powi(power as i32)),
    }
}

/// A text from a stranger's file with nothing in it that commands a terminal, breaks XML, or shows what
/// stands beside it in another order.
pub(super) fn printable_line(text: &str) -> String {
    text.chars().map(|c| if is_command(c) { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [["1".to_owned(), "2.25".to_owned()], ["100".to_owned(), "3".to_owned()]];
        let text = anstream::adapter::strip_str(&table(["head", "x"], &rows)).to_string();
        assert_eq!(text, "head     x\n   1  2.25\n 100     3\n");
        let text = facts(&[("a", "1".to_owned()), ("long", "2".to_owned())]);
        let text = anstream::adapter::strip_str(&text).to_string();
        assert_eq!(text, "a     1\nlong  2\n");
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [0, 999, 1000, 4_690_000_000].map(bytes),
            ["0 B", "999 B", "1.00 kB", "4.69 GB"]
        );
        assert_eq!(
            [999, 260_000, 7_240_000_000].map(count),
            ["999", "260.00 thousand", "7.24 billion"]
        );
        assert_eq!(bytes(u64::MAX), "18446744073.71 GB");
    }

    #[test]
    fn a_name_cannot_command_the_terminal() {
        assert!(!facts(&[("name", "a\x1b[2Jb\nc".to_owned())]).contains("\x1b[2J"));
        assert_eq!(printable_line("\x1b\u{9b}\r\u{202e}\u{2066}ü"), "\u{fffd}".repeat(5) + "ü");
    }
}
