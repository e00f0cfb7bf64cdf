//! A sweep in a terminal.

use super::document::{Document, Recommended};
use crate::cli::show::chance;
use crate::cli::show::output::{BOLD, DIM, Output};
use crate::cli::show::report::{random_text, rows_text};
use crate::cli::show::table::{columns, counted, nats, percent, printable_line, short};
use crate::study::{Cell, Row};

/// What a recommended cell is marked with.
const MARK: char = '*';

pub(super) fn print(document: &Document, output: Output) {
    let Document { made, data, settings, .. } = document;
    output.line(format_args!(
        "{BOLD}{}{BOLD:#} on {}: {}, each scored by what was fitted on the other half\n",
        made.model_name(),
        printable_line(data.name),
        counted(document.n_question, "question"),
    ));
    for direction in &settings.directions {
        let title = match settings.directions.len() {
            1 => String::new(),
            _ => format!(", {direction} directions"),
        };
        let grid = |name: &str, cell: &dyn Fn(&Row) -> String| {
            output.line(format_args!("{name}{title}; heads downwards, alpha to the right"));
            output.text(&grid(document, direction, cell));
            output.line("");
        };
        grid("MC1 in percent", &|row| percent(row.mc.mc1));
        if settings.n_predict > 0 {
            grid("true answers in percent", &|row| percent(row.truth.unwrap_or(f64::NAN)));
        }
        grid("KL in nats per token", &|row| nats(row.kl.unwrap_or(f64::NAN), 3));
    }
    output.line(format_args!(
        "{MARK} recommended: {}. Within {} nats.",
        settings.rule, settings.kl_budget
    ));
    for note in document.notes() {
        output.line(note);
    }
    for Recommended { fold, direction, k, alpha, development, held_out } in &document.recommended {
        output.line(format_args!(
            "{DIM}fold {fold}: {}, alpha {}, {direction}: MC1 {} and KL {} there, MC1 {} and KL {} \
             held out{DIM:#}",
            counted(*k, "head"),
            short(*alpha),
            percent(development.mc1.unwrap_or(f64::NAN)),
            nats(development.kl, 3),
            percent(held_out.mc1.unwrap_or(f64::NAN)),
            nats(held_out.kl, 3),
        ));
    }
    output.line("\nthe recommended cells on the half that did not recommend them");
    output.text(&rows_text(&document.rows, made.under()));
    output.line(&document.seen_text);
    output.text(&random_text(&document.rows));
    chance::print_folds(document.folds, output);
    output.line(match &document.overall.command {
        Some(command) => {
            format!("\nto ship, fitted on all questions: {}", printable_line(command))
        }
        None => format!("\n{}", document.nothing()),
    });
    output.line(format_args!(
        "{DIM}tokens: {} read, {} computed; {:.0} s{DIM:#}",
        document.n_token.read, document.n_token.computed, document.seconds
    ));
}

/// One line per K, one column per α.
fn grid(document: &Document, direction: &str, value: &dyn Fn(&Row) -> String) -> String {
    let cells = || document.cells.iter().filter(|cell| cell.direction == direction);
    let mut header = vec![String::new()];
    header.extend(match document.settings.alphas {
        // A blank above the marks.
        Some(alphas) => alphas.iter().map(|&alpha| format!("{} ", short(alpha))).collect(),
        None => vec!["alpha, by fold".to_owned(), String::new()],
    });
    let rows = document.settings.ks.iter().map(|&k| {
        let mut row = vec![k.to_string()];
        for cell in cells().filter(|cell| cell.k == k) {
            if cell.alpha.is_none() {
                row.push(strengths(cell));
            }
            let mark = if document.is_recommended(cell) { MARK } else { ' ' };
            row.push(format!("{}{mark}", value(&cell.held_out)));
        }
        row
    });
    columns(&header, &rows.collect::<Vec<_>>())
}

/// The strength of each fold.
pub(super) fn strengths(cell: &Cell) -> String {
    let alphas: Vec<String> = cell.folds.iter().map(|fold| short(fold.alpha)).collect();
    alphas.join(", ")
}
