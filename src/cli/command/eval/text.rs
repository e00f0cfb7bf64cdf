//! A study in a terminal.

use super::Document;
use crate::cli::show::chance;
use crate::cli::show::output::{BOLD, DIM, Output};
use crate::cli::show::report::{random_text, rows_text};
use crate::cli::show::table::{counted, percent, printable_line, short};

pub(super) fn print(document: &Document, output: Output) {
    let Document { made, data, settings, .. } = document;
    output.line(format_args!(
        "{BOLD}{}{BOLD:#} on {}: {}, {}\n",
        made.model_name(),
        printable_line(data.name),
        counted(document.n_question, "question"),
        match (document.folds.len(), &made.model.baked) {
            (0, Some(baked)) => format!("scored as baked: {}", printable_line(baked)),
            (0, None) => "scored without a vector".to_owned(),
            (1, _) => format!("scored with {}", printable_line(&settings.vector)),
            (n, _) => format!("fitted and scored in {n} folds"),
        },
    ));
    output.text(&rows_text(&document.rows, document.under()));
    if let Some(seen) = &document.seen_text {
        output.line(seen);
    }
    output.line("");
    output.text(&random_text(&document.rows));
    for row in document.rows.iter().filter(|row| row.name == "iti") {
        let both = row.change.true_info;
        for (what, change) in [("MC1", row.change.mc1), ("true and informative", both)] {
            let Some(change) = change else { continue };
            output.line(format_args!(
                "{what} changes by {:+.1} points ({:+.1} to {:+.1}), paired by question",
                100.0 * change.mean,
                100.0 * change.low,
                100.0 * change.high
            ));
        }
    }
    if let Some(text) = &document.gate_text {
        output.line(text);
    }
    for (fold, number) in document.folds.iter().zip(1..) {
        let how = match fold.choice.mc1.is_nan() {
            true => String::new(),
            false => format!(
                ", chosen on the other half (MC1 {} → {} while it was chosen, KL {:.3})",
                percent(fold.choice.base),
                percent(fold.choice.mc1),
                fold.choice.kl
            ),
        };
        let [base, iti] =
            ["base", "iti"].map(|name| fold.mc.get(name).map_or(f64::NAN, |mc| mc.mc1));
        let amount = settings.amount(fold);
        let alpha = short(fold.choice.alpha);
        let (base, iti) = (percent(base), percent(iti));
        output.line(match settings.size {
            Some(_) => {
                let tokens = match settings.policy {
                    "all" => ", every token steered",
                    "answer" => ", the answer's tokens steered",
                    "original" => ", steered from the answer's second token on",
                    _ => "",
                };
                format!("{DIM}{amount}, alpha {alpha}{tokens}: MC1 {base} → {iti}{DIM:#}")
            }
            None => format!(
                "{DIM}fold {number}: {amount}, alpha {alpha}{how}; here MC1 {base} → {iti}{DIM:#}"
            ),
        });
    }
    chance::print_folds(document.folds, output);
    if document.rows.iter().any(|row| row.truth.is_some()) {
        output.line(format_args!("{DIM}true: {}{DIM:#}", printable_line(&settings.judge)));
    }
    output.line(format_args!(
        "{DIM}tokens: {} read, {} computed; {:.0} s{DIM:#}",
        document.n_token.read, document.n_token.computed, document.seconds
    ));
}
