//! What accuracies and sigmas are worth, in words.

use crate::cli::show::output::Output;
use crate::cli::show::table::{counted, percent};
use crate::probe::Chance;
use crate::steer::SIGMA_ROWS;

/// The best head beside the majority, and beside the best with shuffled labels.
pub(in crate::cli) fn text(chance: &Chance) -> String {
    format!(
        "{} % by the best of {} on {} of {}; always the more frequent label: {} %; the best with \
         shuffled labels: up to {} %",
        percent(chance.best),
        counted(chance.n_head, "head"),
        counted(chance.n_row, "row"),
        counted(chance.n_question, "question"),
        percent(chance.majority),
        percent(chance.shuffled),
    )
}

/// Whether the heads read anything, where they do not.
pub(in crate::cli) fn warning(chance: &Chance) -> Option<String> {
    (!chance.is_above()).then(|| {
        format!(
            "no head reads these labels better than luck: the best of {} is right on {} %, and the best \
             with shuffled labels reaches {} % in one case of twenty (always the more frequent label: \
             {} %). A vector made of them steers along noise: take more questions, another form of the \
             prompt (--template, --chat), other data or a larger model",
            counted(chance.n_head, "head"),
            percent(chance.best),
            percent(chance.shuffled),
            percent(chance.majority),
        )
    })
}

/// Warns where no head reads the labels.
pub(in crate::cli) fn warn_of_chance(chance: &Chance, output: Output) {
    if let Some(warning) = warning(chance) {
        output.warn(warning);
    }
}

/// Warns where sigma comes from too few rows.
pub(in crate::cli) fn warn_of_sigma(n_row: usize, output: Output) {
    if n_row < SIGMA_ROWS {
        output.warn(format_args!(
            "sigma, the unit of alpha, is measured on {} alone: from fewer than {SIGMA_ROWS} it is off by \
             more than an eighth, and the same alpha steers otherwise on other questions; take more",
            counted(n_row, "row")
        ));
    }
}
