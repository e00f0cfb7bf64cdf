//! Every K at every α, on questions that nothing was fitted to.
//!
//! In each of two folds heads are ranked once, each K gives one vector, and α scales it. Each cell
//! is measured twice: on the development half, for the choice, and on the other, for the report. For
//! the choice each question is tried with a vector of the cell that comes from other questions of its
//! half ([`Parts`]). The rule of [`Cell::choose`] looks at the development half alone, so what the
//! chosen cell gives on the other half is a fair measurement.

mod fold;

use serde::Serialize;

use self::fold::{Measured, Sweeper, Swept, scores};
use super::measure::{Fold, Outcome, Record};
use super::{Condition, FoldReport, Protocol, Report, Row, random_vectors};
use crate::eval::{Evaluator, N_CHUNK};
use crate::ledger::Ledger;
use crate::probe::Activations;
use crate::select::parts::n_chunk as n_chunk_of_parts;
use crate::select::{Choice, Journal};
use crate::steer::DirectionKind;
use crate::{Error, Result};

/// What a sweep varies besides the protocol's K.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Axes {
    /// Kinds of directions.
    pub directions: Vec<DirectionKind>,
    /// Strengths; 0 is measured once. `None`: for each K the largest within the protocol's budget of
    /// KL, found on the development documents.
    pub alphas: Option<Vec<f32>>,
    /// Whether it is an error where no cell stays within the budget of KL; else the cell with the
    /// lowest KL stands for the best.
    pub is_budget_strict: bool,
}

setters! {
    Axes {
        with_directions(directions: Vec<DirectionKind>),
        with_alphas(alphas: Option<Vec<f32>>),
        with_is_budget_strict(is_budget_strict: bool),
    }
}

impl Default for Axes {
    fn default() -> Self {
        Self { directions: vec![DirectionKind::default()], alphas: None, is_budget_strict: false }
    }
}

/// What came out of a sweep.
#[derive(Debug, Clone)]
pub struct Sweep<'a> {
    /// By direction, then K, then α.
    pub cells: Vec<Cell>,
    /// What the development half of each fold recommends, an index into `cells`.
    pub recommended: Vec<usize>,
    /// What both development halves together, and so all questions, recommend for a vector that is
    /// fitted on all of them: an index into `cells`.
    pub overall: usize,
    /// MC1 without steering on the development half of each fold.
    pub base: Vec<f64>,
    /// The recommended cell of each fold, on the questions that did not recommend it, beside the
    /// baselines.
    pub report: Report<'a>,
}

impl Sweep<'_> {
    /// MC1 of the overall recommendation on both development halves, and without steering; means over the
    /// folds. `None` where it was not measured, as of a cell that costs too much KL.
    #[must_use]
    pub fn development(&self) -> [Option<f64>; 2] {
        let mean = |values: Option<Vec<f64>>| {
            values.map(|values| values.iter().sum::<f64>() / values.len().max(1) as f64)
        };
        let folds = self.cells.get(self.overall).map_or(&[][..], |cell| &cell.folds);
        let chosen = folds.iter().map(|fold| fold.development.mc1).collect();
        [mean(chosen), mean(Some(self.base.clone()))]
    }

    /// Whether the overall recommendation is worth making: it gains over no steering on the questions that
    /// recommend it.
    #[must_use]
    pub fn gains(&self) -> bool {
        let [chosen, base] = self.development();
        chosen.zip(base).is_some_and(|(chosen, base)| chosen > base)
    }
}

/// One K at one α.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct Cell {
    /// Kind of directions.
    pub direction: &'static str,
    /// Heads asked for.
    pub k: usize,
    /// Strength; `None` where each fold found its own.
    pub alpha: Option<f32>,
    /// Each fold by itself.
    pub folds: Vec<CellFold>,
    /// Both folds together, each scored on the questions that nothing was fitted to.
    pub held_out: Row,
}

/// One cell in one fold.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct CellFold {
    /// Heads steered: fewer than asked for where fewer may be.
    pub n_head: usize,
    /// Strength.
    pub alpha: f32,
    /// On the half that everything was fitted to: MC1 of each question under a vector of this K and α
    /// that comes from the half's other questions, CE and KL under the vector itself.
    pub development: Scores,
    /// On the other half.
    pub held_out: Scores,
}

/// Means over one half.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct Scores {
    /// Multiple choice; `None` where it is not needed, since the cell costs too much KL.
    pub mc1: Option<f64>,
    /// Cross-entropy on neutral prose, nats per token.
    pub ce: f64,
    /// KL(original ‖ steered) on neutral prose, nats per token.
    pub kl: f64,
}

impl Scores {
    fn is_within(&self, budget: f64) -> bool {
        self.kl <= budget && self.mc1.is_some_and(|mc1| !mc1.is_nan())
    }
}

impl Cell {
    /// The rule: of all cells whose KL per token on the development documents is within the budget,
    /// the one with the highest MC1 on the development questions, at equal MC1 the one with the
    /// lowest KL, then the first. Means over `folds`; nothing held out is looked at. An index, or
    /// `None` where no cell is within the budget.
    #[must_use]
    pub fn choose(cells: &[Self], folds: &[usize], budget: f64) -> Option<usize> {
        let score = |cell: &Self| {
            let of: Vec<Scores> =
                folds.iter().filter_map(|&f| Some(cell.folds.get(f)?.development)).collect();
            let is_eligible = of.len() == folds.len() && of.iter().all(|s| s.is_within(budget));
            let mean = |value: fn(&Scores) -> f64| {
                of.iter().map(value).sum::<f64>() / of.len().max(1) as f64
            };
            is_eligible.then(|| (mean(|s| s.mc1.unwrap_or(f64::NAN)), -mean(|s| s.kl)))
        };
        let mut best: Option<(usize, (f64, f64))> = None;
        for (i, cell) in cells.iter().enumerate() {
            if let Some(score) = score(cell)
                && best.is_none_or(|(_, known)| score > known)
            {
                best = Some((i, score));
            }
        }
        best.map(|(i, _)| i)
    }

    /// The cell with the lowest KL per token on the development documents, the first of several;
    /// means over `folds`. An index, or `None` without cells.
    #[must_use]
    pub fn cheapest(cells: &[Self], folds: &[usize]) -> Option<usize> {
        let cost = |cell: &Self| -> f64 {
            folds.iter().filter_map(|&f| Some(cell.folds.get(f)?.development.kl)).sum()
        };
        (0..cells.len()).min_by(|&a, &b| cost(&cells[a]).total_cmp(&cost(&cells[b])))
    }
}

impl Protocol<'_> {
    /// Steps of [`sweep`], for a progress bar.
    #[must_use]
    pub fn n_step_of_sweep(&self, axes: &Axes) -> usize {
        let n_direction = axes.directions.len();
        let n_chunk = |n: usize| n.div_ceil(N_CHUNK);
        let n_base = 1;
        let n_cell = match &axes.alphas {
            Some(alphas) => alphas.iter().filter(|&&alpha| alpha != 0.0).count(),
            None => 1,
        };
        let n_cell = n_base + n_direction * self.grid.ks.len() * n_cell;
        self.over_folds(|development, test| {
            n_direction * self.n_step_of_selection()
                + n_cell
                    * (n_chunk_of_parts(development, self.select.n_part) + 2 * n_chunk(test) + 1)
                + self.n_step_of_fold(test)
        })
    }
}

/// Measures every cell in two folds, and the recommended ones beside their baselines. What the
/// ledger holds is not measured again. Where heads are chosen by what they cause, `journal` opens, by
/// name, what is known of the heads that were tried; it is removed once their order is in the
/// ledger. `on_step` is called after each of [`Protocol::n_step_of_sweep`] steps and may refuse to go
/// on by an error.
///
/// # Errors
/// What fitting and evaluating give; [`Error::Invalid`] where no question can be scored, an axis is
/// empty, or no cell stays within the budget of KL where that is strict.
pub fn sweep<'a>(
    evaluator: &mut Evaluator,
    source: &impl Activations,
    protocol: &Protocol<'a>,
    axes: &Axes,
    ledger: &mut Ledger<Record>,
    journal: impl Fn(&str) -> Result<Journal>,
    mut on_step: impl FnMut() -> Result<()>,
) -> Result<Sweep<'a>> {
    let no_alpha = axes.alphas.as_ref().is_some_and(Vec::is_empty);
    if no_alpha || axes.directions.is_empty() || protocol.grid.ks.is_empty() {
        return Err(Error::invalid("sweep", "no K, no strength or no direction was given"));
    }
    let halves = protocol.halves()?;
    let mut report = Report::new(protocol);
    let mut folds = Vec::new();
    for (number, half) in halves.iter().enumerate() {
        let mut sweeper = Sweeper {
            evaluator: &mut *evaluator,
            protocol,
            ledger: &mut *ledger,
            journal: &journal,
            report: &report,
            name: format!("fold {number}"),
            half,
        };
        folds.push(sweeper.run(source, axes, &mut on_step)?);
    }
    let cells = together(&folds, axes, protocol, &report);
    let budget = protocol.grid.kl_budget;
    let over = || {
        let problem = "no cell stays within it: try smaller strengths".to_owned();
        Error::Budget { budget, problem }
    };
    let choose = |folds: &[usize]| {
        let cheapest = || Cell::cheapest(&cells, folds).filter(|_| !axes.is_budget_strict);
        Cell::choose(&cells, folds, budget).or_else(cheapest)
    };
    let mut recommended = Vec::new();
    for (number, (half, fold)) in halves.iter().zip(&folds).enumerate() {
        let chosen = choose(&[number]).ok_or_else(over)?;
        let Measured { vector, alpha, label, development, .. } = &fold.cells[chosen];
        let vector = &fold.vectors[*vector];
        let k = vector.heads().len();
        let random = random_vectors(&fold.development, source, k, (protocol, number))?;
        let mut measure = Fold {
            evaluator: &mut *evaluator,
            protocol,
            name: format!("fold {number}"),
            questions: &half.test,
            documents: &half.documents,
            ledger: &mut *ledger,
        };
        let outcomes = measure.run(Some((vector, *alpha)), label, &random, &mut on_step)?;
        let mc1 = development.mc1.unwrap_or(f64::NAN);
        let base = fold.base_development.mc1.unwrap_or(f64::NAN);
        let choice = Choice { k, alpha: *alpha, mc1, base, kl: development.kl };
        let of_fold = FoldReport::of(&choice, vector, &fold.development, half.test.len());
        report.add(outcomes, of_fold.fitted(&fold.development, source, protocol.n_seen(half))?);
        recommended.push(chosen);
    }
    // Where no cell suits both halves, the first one's choice is as good as any.
    let both: Vec<usize> = (0..folds.len()).collect();
    let overall = choose(&both).unwrap_or(recommended[0]);
    let base = folds.iter().map(|fold| fold.base_development.mc1.unwrap_or(f64::NAN)).collect();
    Ok(Sweep { cells, recommended, overall, base, report })
}

/// The cells of both folds as one.
fn together(folds: &[Swept], axes: &Axes, protocol: &Protocol, report: &Report) -> Vec<Cell> {
    let merged = |outcomes: Vec<&Outcome>| {
        let mut all = Outcome::default();
        for (fold, outcome) in outcomes.into_iter().enumerate() {
            all.add(fold, outcome.clone());
        }
        all
    };
    let base = merged(folds.iter().map(|fold| &fold.base).collect());
    let alphas: Vec<Option<f32>> = match &axes.alphas {
        Some(alphas) => alphas.iter().copied().map(Some).collect(),
        None => vec![None],
    };
    let mut names = Vec::new();
    for direction in &axes.directions {
        for &k in &protocol.grid.ks {
            names.extend(alphas.iter().map(|&alpha| (direction.name(), k, alpha)));
        }
    }
    let cell = |(i, (direction, k, alpha)): (usize, (&'static str, usize, Option<f32>))| {
        let of: Vec<&Measured> = folds.iter().map(|fold| &fold.cells[i]).collect();
        let outcome = merged(of.iter().map(|measured| &measured.outcome).collect());
        let condition = if alpha == Some(0.0) { Condition::Base } else { Condition::Iti };
        let folds = of.iter().zip(folds).map(|(measured, fold)| CellFold {
            n_head: fold.vectors[measured.vector].heads().len(),
            alpha: measured.alpha,
            development: measured.development,
            held_out: scores(&measured.outcome, report),
        });
        Cell {
            direction,
            k,
            alpha,
            folds: folds.collect(),
            held_out: report.row(condition, &outcome, Some(&base)),
        }
    };
    names.into_iter().enumerate().map(cell).collect()
}
