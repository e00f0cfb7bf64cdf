//! An answer in the margin and in columns: what the probes read in it, and how long it is.

use anstyle::Style;

use super::Chat;
use super::columns::side_by_side;
use crate::chat::Completion;
use crate::cli::show::chance::OF_LUCK;
use crate::cli::show::output::{BOLD, DIM, Output, printable};
use crate::cli::show::table::short;
use crate::probe::Reading;

impl Chat<'_> {
    /// What the probes read, and beside it that it says nothing, where that is known.
    pub(super) fn probe_reading(&self, answer: &Completion) -> Option<String> {
        let reading = reading_text(answer)?;
        let is_luck = self.steer.as_ref().is_some_and(|steer| steer.sidecar.reads_nothing());
        Some(if is_luck { format!("{reading} ({OF_LUCK})") } else { reading })
    }
}

/// What the probes read, as a number and a bar of ten; words where they have no number. It is their
/// reading, not the truth.
fn reading_text(answer: &Completion) -> Option<String> {
    let reading = answer.reading?;
    let Some(number) = reading.number() else {
        return Some(
            "probe reading outside: this answer is unlike those that the probes were fitted to"
                .to_owned(),
        );
    };
    let n = (number * 10.0).round() as usize;
    let note = if matches!(reading, Reading::Uncalibrated(_)) { " (uncalibrated)" } else { "" };
    let (full, empty) = ("▆".repeat(n), "▁".repeat(10_usize.saturating_sub(n)));
    Some(format!("probe reading {number:.2} {full}{empty}{note}"))
}

pub(super) fn n_token(answer: &Completion) -> String {
    let n = answer.tokens.len();
    format!("{n} token{}", if n == 1 { "" } else { "s" })
}

/// The unsteered and the steered answer, side by side.
pub(super) fn print_columns(
    answers: [&Completion; 2],
    readings: [Option<String>; 2],
    alpha: f32,
    width: usize,
    output: Output,
) {
    let print = |style: Style, [left, right]: [&str; 2]| {
        for row in side_by_side(left, right, width) {
            output.line(format_args!("{style}{row}{style:#}"));
        }
    };
    let text = answers.map(|answer| printable(&answer.text));
    let [left, right] = readings;
    let note = [(left, answers[0]), (right, answers[1])].map(|(reading, answer)| {
        reading.into_iter().chain([n_token(answer)]).collect::<Vec<_>>().join(" · ")
    });
    print(BOLD, ["not steered", &format!("alpha {}", short(alpha))]);
    print(Style::new(), [&text[0], &text[1]]);
    print(DIM, [&note[0], &note[1]]);
}
