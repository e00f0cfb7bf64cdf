//! What a sweep gives: the document of `--json` and `report.json`.

use serde::Serialize;

use crate::cli::args::select::not_reached;
use crate::cli::show::report::{DataFacts, Made};
use crate::cli::show::table::percent;
use crate::eval::TokenCount;
use crate::study::{Cell, FoldReport, Row, Scores, Seen};

/// What `--json` gives, and `report.json` holds.
#[derive(schemars::JsonSchema, Serialize)]
pub(in crate::cli) struct Document<'a> {
    #[serde(flatten)]
    pub(super) made: Made,
    pub(super) data: DataFacts<'a>,
    pub(super) settings: Settings<'a>,
    pub(super) cells: &'a [Cell],
    pub(super) recommended: Vec<Recommended>,
    pub(super) overall: Overall,
    pub(super) rows: Vec<Row>,
    /// How many of the questions stand in both halves, and were seen in fitting.
    pub(super) seen: Seen,
    /// The same in words.
    pub(super) seen_text: String,
    pub(super) folds: &'a [FoldReport],
    pub(super) n_question: usize,
    pub(super) n_token: TokenCount,
    pub(super) seconds: f64,
}

#[derive(schemars::JsonSchema, Serialize)]
pub(super) struct Settings<'a> {
    pub(super) ks: &'a [usize],
    /// `null`: each K has the largest within the budget.
    pub(super) alphas: Option<&'a [f32]>,
    pub(super) directions: Vec<&'static str>,
    pub(super) selection: &'static str,
    pub(super) kl_budget: f64,
    pub(super) rule: &'static str,
    pub(super) prompt: &'a str,
    pub(super) preamble: &'a str,
    pub(super) instruction: &'a str,
    pub(super) policy: &'static str,
    pub(super) shuffle: bool,
    pub(super) n_random: usize,
    pub(super) n_predict: usize,
    /// The neutral prose.
    pub(super) neutral: &'a str,
    pub(super) n_document: usize,
    /// Its tokens, all of which are read.
    pub(super) n_neutral_token: usize,
    pub(super) judge: String,
    pub(super) seed: u64,
}

/// What the development half of one fold recommends.
#[derive(schemars::JsonSchema, Serialize)]
pub(super) struct Recommended {
    pub(super) fold: usize,
    pub(super) direction: &'static str,
    pub(super) k: usize,
    pub(super) alpha: f32,
    pub(super) development: Scores,
    pub(super) held_out: Scores,
}

/// What all questions recommend for a vector that is fitted on all of them.
#[derive(schemars::JsonSchema, Serialize)]
pub(super) struct Overall {
    pub(super) direction: &'static str,
    pub(super) k: usize,
    /// `null` where each fold found its own.
    pub(super) alpha: Option<f32>,
    /// MC1 of the recommended cell on the development halves, where it is recommended; `null` where it was
    /// not measured, since the cell costs too much KL.
    pub(super) development_mc1: Option<f64>,
    /// The same without steering.
    pub(super) development_base: f64,
    /// The command that fits it, quoted for a shell; `null` where nothing gains over no steering on the
    /// questions that it would be recommended by.
    pub(super) command: Option<String>,
    /// Fingerprint of the vector that the command makes, as `fit` gives it; `null` where nothing gains over
    /// no steering, where only some questions were read, and where heads are tried one by one, which
    /// is the command's work.
    pub(super) vector: Option<String>,
}

impl Document<'_> {
    /// Whether a fold recommends the cell.
    pub(super) fn is_recommended(&self, cell: &Cell) -> bool {
        let is_of = |recommended: &Recommended| {
            let of_fold = cell.folds.get(recommended.fold - 1);
            recommended.direction == cell.direction
                && of_fold
                    .is_some_and(|f| (f.n_head, f.alpha) == (recommended.k, recommended.alpha))
        };
        self.recommended.iter().any(is_of)
    }
}

impl Document<'_> {
    /// What there is to say of what is recommended.
    pub(super) fn notes(&self) -> Vec<String> {
        [self.not_reached(), self.over_budget()].into_iter().flatten().collect()
    }

    /// Why there is nothing to ship.
    pub(super) fn nothing(&self) -> String {
        let Overall { development_mc1, development_base, .. } = &self.overall;
        let best = match development_mc1 {
            Some(mc1) => format!(
                "MC1 {} with the best cell, {} without steering",
                percent(*mc1),
                percent(*development_base)
            ),
            None => "no cell costs so little".to_owned(),
        };
        format!(
            "nothing to ship: on the questions that cells are chosen by, none within the budget gains over \
             {} ({best})",
            if self.made.under().baked { "the model as baked" } else { "no steering" },
        )
    }

    /// What there is to say where no cell keeps to the budget, which nobody asked for.
    fn over_budget(&self) -> Option<String> {
        let budget = self.settings.kl_budget;
        let is_over = |cell: &&Recommended| cell.development.kl > budget;
        self.recommended.iter().find(is_over)?;
        Some(format!(
            "no cell of the grid stays within the default budget of {budget} nats of KL per \
             token, so the one with the lowest KL is recommended where that happens: --kl-budget \
             sets another budget"
        ))
    }

    /// What there is to say of strengths that a budget of KL did not bound.
    fn not_reached(&self) -> Option<String> {
        let mut found = self.cells.iter().filter(|cell| cell.alpha.is_none());
        let largest =
            found.find_map(|cell| cell.folds.iter().find(|fold| not_reached(fold.alpha)))?;
        let (alpha, budget) = (largest.alpha, self.settings.kl_budget);
        Some(format!(
            "alpha {alpha} is the largest that is tried: where it stands, the budget of {budget} nats is \
             not reached"
        ))
    }
}
