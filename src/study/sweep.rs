//! Every K at every α, on questions that nothing was fitted to.
//!
//! In each of two folds heads are ranked once, each K gives one vector, and α scales it. Each cell
//! is measured twice: on the development half, for the choice, and on the other, for the report. For
//! the choice each question is tried with a vector of the cell that comes from other questions of its
//! half ([`Parts`]). The rule of [`Cell::choose`] looks at the development half alone, so what the
//! chosen cell gives on the other half is a fair measurement.

use serde::Serialize;

use super::develop::in_steps;
use super::measure::{Fold, Outcome, Record, Turn};
use super::{Condition, FoldReport, Half, Protocol, Report, Row, SELECT_STEPS, random_vectors};
use crate::eval::{Divergence, Evaluator, N_CHUNK};
use crate::ledger::Ledger;
use crate::probe::Activations;
use crate::select::parts::n_chunk as n_chunk_of_parts;
use crate::select::{Choice, Journal, Parts, Trial, rank};
use crate::steer::{Development, DirectionKind, Selection, SteeringVector};
use crate::{Error, Result, Site};

/// What a sweep varies besides the protocol's K.
#[derive(Debug, Clone, PartialEq)]
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
    /// The recommended cell of each fold, on the questions that did not recommend it, beside the
    /// baselines.
    pub report: Report<'a>,
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
        let problem = format!("no cell stays within {budget} nat per token: try smaller strengths");
        Error::invalid("KL budget", problem)
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
    Ok(Sweep { cells, recommended, overall, report })
}

/// One fold of a sweep.
struct Sweeper<'r, 'p, 'a> {
    evaluator: &'r mut Evaluator,
    protocol: &'p Protocol<'a>,
    ledger: &'r mut Ledger<Record>,
    journal: &'r dyn Fn(&str) -> Result<Journal>,
    report: &'p Report<'a>,
    name: String,
    half: &'p Half<'a>,
}

/// What one fold gave.
struct Swept {
    development: Development,
    vectors: Vec<SteeringVector>,
    /// In the order of [`Sweep::cells`].
    cells: Vec<Measured>,
    base: Outcome,
    base_development: Scores,
}

/// One cell in one fold.
#[derive(Clone)]
struct Measured {
    /// An index.
    vector: usize,
    alpha: f32,
    /// Under which the ledger knows it.
    label: String,
    development: Scores,
    outcome: Outcome,
}

impl Sweeper<'_, '_, '_> {
    fn run(
        &mut self,
        source: &impl Activations,
        axes: &Axes,
        on_step: &mut impl FnMut() -> Result<()>,
    ) -> Result<Swept> {
        let development =
            Development::fit(source, &self.half.development, &self.protocol.fit(), || ())?;
        let (mut vectors, mut cells) = (Vec::new(), Vec::new());
        let unsteered = Turn {
            gate: None,
            label: format!("{} 0", Condition::Base.name()),
            preamble: self.protocol.preamble.clone(),
            steered: None,
        };
        let parts = Parts::fit(
            &development,
            source,
            &trial(self.protocol, self.half, axes.directions[0]),
            || (),
        )?;
        let nothing = vec![None; parts.list().len()];
        let (base_development, base) = self.measure(&unsteered, (&parts, &nothing), on_step)?;
        for &direction in &axes.directions {
            let (ranked, parts) = self.rank((&development, &parts), source, direction, on_step)?;
            for &k in &self.protocol.grid.ks {
                let vector = ranked.vector(source, k.min(ranked.scores.len()), direction)?;
                let of_parts = parts.vectors(source, k, direction)?;
                let alphas = match &axes.alphas {
                    Some(alphas) => alphas.clone(),
                    None => vec![self.strength(&vector, direction)?],
                };
                for alpha in alphas {
                    let label =
                        format!("{direction}, {} heads, alpha {alpha}", vector.heads().len());
                    let turn = Turn {
                        gate: None,
                        label,
                        preamble: self.protocol.preamble.clone(),
                        steered: Some((&vector, alpha)),
                    };
                    let (label, (development, outcome)) = if alpha == 0.0 {
                        (unsteered.label.clone(), (base_development, base.clone()))
                    } else {
                        let measured = self.measure(&turn, (&parts, &of_parts), on_step)?;
                        (turn.label, measured)
                    };
                    let vector = vectors.len();
                    cells.push(Measured { vector, alpha, label, development, outcome });
                }
                vectors.push(vector);
            }
        }
        Ok(Swept { development, vectors, cells, base, base_development })
    }

    /// The heads in the order in which they are to be steered, those of all questions and of each part,
    /// from the ledger where that is known.
    fn rank(
        &mut self,
        (development, parts): (&Development, &Parts),
        source: &impl Activations,
        direction: DirectionKind,
        on_step: &mut impl FnMut() -> Result<()>,
    ) -> Result<(Development, Parts)> {
        let by = self.protocol.selection;
        if by == Selection::Accuracy {
            return Ok((development.clone(), parts.clone()));
        }
        let trial = trial(self.protocol, self.half, direction);
        let name = format!("{}, {direction}, ranking", self.name);
        let mut n_step = 0;
        let sites: Vec<Site> = match self.ledger.get(&name) {
            Some(Record::Ranking(sites)) => sites.clone(),
            _ => {
                let on_trial = in_steps(0, &mut n_step, on_step);
                let mut journal = (self.journal)(&name)?;
                let ranked =
                    rank(self.evaluator, development, source, &trial, by, &mut journal, on_trial)?;
                let sites: Vec<Site> =
                    ranked.development.scores.iter().map(|score| score.site).collect();
                self.ledger.put([(name, Record::Ranking(sites.clone()))])?;
                journal.remove()?;
                sites
            }
        };
        let mut ordered = parts.clone();
        for number in 0..parts.list().len() {
            let name = format!("{}, {direction}, part {number}, ranking", self.name);
            let sites = match self.ledger.get(&name) {
                Some(Record::Ranking(sites)) => sites.clone(),
                _ => {
                    let mut journal = (self.journal)(&name)?;
                    let kept = (number, &mut journal);
                    let on_trial = |_| Ok(());
                    let sites =
                        parts.ranking_of(self.evaluator, source, &trial, by, kept, on_trial)?;
                    self.ledger.put([(name, Record::Ranking(sites.clone()))])?;
                    journal.remove()?;
                    sites
                }
            };
            ordered.order(number, &sites)?;
            let due = SELECT_STEPS + SELECT_STEPS * (number + 1) / parts.list().len();
            (n_step..due).try_for_each(|_| on_step())?;
            n_step = due;
        }
        Ok((development.ranked(&sites)?, ordered))
    }

    /// The largest strength within the budget, on the development documents.
    fn strength(&mut self, vector: &SteeringVector, direction: DirectionKind) -> Result<f32> {
        let n_head = vector.heads().len();
        let name = format!("{}, {direction}, {n_head} heads, strength", self.name);
        if let Some(Record::Strength(alpha)) = self.ledger.get(&name) {
            return Ok(*alpha);
        }
        let documents = &self.half.development_documents;
        let budget = self.protocol.grid.kl_budget;
        let found = self.evaluator.strength_within(vector, documents, budget, |_, _| Ok(()));
        let (alpha, _) = found?;
        self.ledger.put([(name, Record::Strength(alpha))])?;
        Ok(alpha)
    }

    /// Measures on both halves: on the development half MC1 only where KL is within the budget, and
    /// each part of it with its own vector.
    fn measure(
        &mut self,
        turn: &Turn,
        (parts, vectors): (&Parts, &[Option<SteeringVector>]),
        on_step: &mut impl FnMut() -> Result<()>,
    ) -> Result<(Scores, Outcome)> {
        let protocol = self.protocol;
        // Documents first: what stands before all questions is then computed once for a cell.
        let half = self.half;
        let mut held_out = self.fold(None);
        let turns = std::slice::from_ref(turn);
        let mut outcome = Outcome::of_documents(held_out.read_neutral(turns)?.remove(0));
        let mut development = self.fold(Some(("development", &half.development)));
        let mut chosen_on = Outcome::of_documents(development.read_neutral(turns)?.remove(0));
        on_step()?;
        let is_within = chosen_on.divergence().kl <= protocol.grid.kl_budget;
        for (number, (part, vector)) in parts.list().iter().zip(vectors).enumerate() {
            let questions: Vec<usize> = part.held.iter().map(|&i| half.development[i]).collect();
            if !is_within {
                questions.chunks(N_CHUNK).try_for_each(|_| on_step())?;
                continue;
            }
            let steered = turn.steered.and_then(|(_, alpha)| Some((vector.as_ref()?, alpha)));
            let (label, preamble) = (turn.label.clone(), turn.preamble.clone());
            let turn = Turn { label, preamble, steered, gate: None };
            let name = format!("development part {number}");
            let mut fold = self.fold(Some((&name, &questions)));
            fold.score(std::slice::from_ref(&turn), on_step)?;
            fold.collect(&turn, &mut chosen_on);
        }
        let mut held_out = self.fold(None);
        held_out.score(turns, on_step)?;
        held_out.write(turns, on_step)?;
        held_out.collect(turn, &mut outcome);
        Ok((scores(&chosen_on, self.report), outcome))
    }

    /// Some questions of the development half, by the name that the ledger knows them under, or the
    /// other half.
    fn fold<'s>(&'s mut self, development: Option<(&str, &'s [usize])>) -> Fold<'s> {
        let half = self.half;
        let (name, questions, documents) = match development {
            Some((name, questions)) => {
                (format!("{} {name}", self.name), questions, &half.development_documents)
            }
            None => (self.name.clone(), &half.test[..], &half.documents),
        };
        let (evaluator, ledger) = (&mut *self.evaluator, &mut *self.ledger);
        Fold { evaluator, protocol: self.protocol, name, questions, documents, ledger }
    }
}

/// What heads are tried on.
fn trial<'p>(protocol: &'p Protocol, half: &'p Half, direction: DirectionKind) -> Trial<'p> {
    Trial {
        questions: half.development.iter().map(|&i| &protocol.data.questions[i]).collect(),
        form: &protocol.form,
        preamble: &protocol.preamble,
        documents: &half.development_documents,
        direction,
        params: protocol.select,
    }
}

/// The mean over one half.
fn scores(outcome: &Outcome, report: &Report) -> Scores {
    let Divergence { ce, kl, .. } = outcome.divergence();
    let ids: Vec<usize> = outcome.answered.keys().copied().collect();
    let mc1 = (!ids.is_empty()).then(|| report.mean_mc(outcome, &ids).mc1);
    Scores { mc1, ce, kl }
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
