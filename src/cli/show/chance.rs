//! What accuracies and sigmas are worth, in words.

use crate::cli::show::output::{DIM, Output};
use crate::cli::show::table::{counted, percent, printable_line};
use crate::data::{Dataset, firsts, n_overlapping};
use crate::probe::Chance;
use crate::steer::{SIGMA_ROWS, Sidecar};
use crate::study::FoldReport;

/// The best head beside the majority, and beside the best with shuffled labels.
pub(in crate::cli) fn text(chance: &Chance) -> String {
    format!(
        "{} % right (the best of {}, on {} of {}); always the more frequent label: {} %; best with \
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
    if chance.is_above() {
        return None;
    }
    let found = format!(
        "the best of {} is right on {} % of {}, and the best with shuffled labels reaches {} % in one case \
         in twenty (always the more frequent label: {} %)",
        counted(chance.n_head, "head"),
        percent(chance.best),
        counted(chance.n_row, "row"),
        percent(chance.shuffled),
        percent(chance.majority),
    );
    // On a handful of rows the best of many is right on all of them by luck alone.
    Some(if chance.shuffled >= 1.0 {
        format!(
            "too few questions to tell whether any head reads these labels: {found}. A vector made from \
             them may steer along noise: take more questions"
        )
    } else {
        format!(
            "no head reads these labels better than luck: {found}. A vector made from them steers along \
             noise: take more questions, another form of the prompt (--template, --chat), other data or a \
             larger model"
        )
    })
}

/// Beside a reading of probes that read nothing.
pub(in crate::cli) const OF_LUCK: &str =
    "by probes that read the labels of their fit no better than luck";

/// That readings of a vector's probes say nothing, where they read the labels of their fit no better than
/// luck.
pub(in crate::cli) fn luck_warning(sidecar: &Sidecar) -> Option<String> {
    let name = printable_line(&sidecar.about.name);
    sidecar.reads_nothing().then(|| {
        format!(
            "the probes of {name} read the labels of their fit no better than luck: what they read in \
             other texts means nothing, and a gate follows it"
        )
    })
}

/// Warns where no head reads the labels.
pub(in crate::cli) fn warn_of_chance(chance: &Chance, output: Output) {
    if let Some(warning) = warning(chance) {
        output.warn(warning);
    }
}

/// What there is to say where sigma comes from too few rows.
fn sigma_warning(n_row: usize) -> Option<String> {
    (n_row < SIGMA_ROWS).then(|| {
        format!(
            "sigma, the unit of alpha, is measured on {} alone: from fewer than {SIGMA_ROWS} it is off by \
             more than an eighth, and the same alpha steers differently on other questions; take more",
            counted(n_row, "row")
        )
    })
}

/// Warns where sigma comes from too few rows.
pub(in crate::cli) fn warn_of_sigma(n_row: usize, output: Output) {
    if let Some(warning) = sigma_warning(n_row) {
        output.warn(warning);
    }
}

/// Says where questions stand in the data more than once, and what comes of that; warns where statements
/// look as if they did, in other words.
pub(in crate::cli) fn tell_of_repeats(data: &Dataset, output: Output) {
    let (firsts, n) = (firsts(&data.questions), data.questions.len());
    let n_repeat = firsts.iter().enumerate().filter(|(place, first)| place != *first).count();
    if n_repeat > 0 {
        output.aside(format_args!(
            "{n_repeat} of {} repeat another one, by their words or their \"group\": repeats stay on one \
             side of every split, and intervals count {}",
            counted(n, "question"),
            n - n_repeat
        ));
    }
    let n_overlap = n_overlapping(&data.questions, &firsts);
    if n_overlap as f64 > OVERLAP_SHARE * n as f64 {
        output.warn(format_args!(
            "{n_overlap} of {} share most of their words with another one that has the same label: if they \
             state one fact in other words, give them the same \"group\" in the data, otherwise probes may \
             seem to read labels that they only remember",
            counted(n, "statement"),
        ));
    }
}

/// The share of statements that overlap with others, above which that is told: in collections of facts
/// in a few patterns it is below a tenth.
const OVERLAP_SHARE: f64 = 0.1;

/// What the heads of each fold read, a line each.
pub(in crate::cli) fn fold_texts(folds: &[FoldReport]) -> Vec<String> {
    let of_fold = |(fold, number): (&FoldReport, usize)| {
        let text = text(fold.chance.as_ref()?);
        Some(match folds.len() {
            1 => format!("best head where the vector was fitted: {text}"),
            _ => format!("fold {number}, best head: {text}"),
        })
    };
    folds.iter().zip(1..).filter_map(of_fold).collect()
}

/// The same in a terminal.
pub(in crate::cli) fn print_folds(folds: &[FoldReport], output: Output) {
    for text in fold_texts(folds) {
        output.line(format_args!("{DIM}{text}{DIM:#}"));
    }
}

/// The fold whose heads read the least.
fn worst(folds: &[FoldReport]) -> Option<Chance> {
    folds.iter().filter_map(|fold| fold.chance).max_by(|a, b| a.p.total_cmp(&b.p))
}

/// That heads read nothing, and that sigma comes from too few rows, each once, where it is so.
pub(in crate::cli) fn fold_warnings(folds: &[FoldReport]) -> Vec<String> {
    let chance = worst(folds).and_then(|chance| warning(&chance));
    let n_sigma_row = folds.iter().filter_map(|fold| fold.n_sigma_row).min();
    chance.into_iter().chain(n_sigma_row.and_then(sigma_warning)).collect()
}

/// The same on stderr.
pub(in crate::cli) fn warn_of_folds(folds: &[FoldReport], output: Output) {
    fold_warnings(folds).iter().for_each(|warning| output.warn(warning));
}
