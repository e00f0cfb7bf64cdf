//! Heads, K and α: chosen, and what choosing in this way gives on questions that had no part in it.

use std::path::PathBuf;

use super::FitArgs;
use crate::align::Trained;
use crate::capture::Store;
use crate::cli::args::asking::journals;
use crate::cli::args::select::{DEFAULT_BUDGET, Neutral, SelectArgs, strength_within};
use crate::cli::interrupt;
use crate::cli::show::output::Output;
use crate::cli::show::table::counted;
use crate::data::Dataset;
use crate::ledger::Ledger;
use crate::select::{Choice, HeadEffect, Journal, Parts, Ranked, Trial, choose};
use crate::steer::{Development, Selection, SteeringVector};
use crate::study::{DEFAULT_ALPHA, HeldOut, Protocol, default_k, held_out};
use crate::{Model, Result};

/// Heads, K and α as they were chosen.
pub(super) struct Chosen {
    pub(super) vector: SteeringVector,
    pub(super) alpha: f32,
    /// What every head that was tried does by itself.
    pub(super) effects: Vec<HeadEffect>,
    /// What K and α reached, where they were tried.
    pub(super) choice: Option<Choice>,
    /// How each head's strength was found, where it was trained.
    pub(super) trained: Option<Trained>,
    pub(super) journal: Journal,
}

/// Fewest questions to choose on in each half.
const FEWEST_OF_A_HALF: usize = 4;

impl FitArgs {
    /// Chooses heads, K and α.
    #[allow(clippy::too_many_arguments, reason = "everything that a choice depends on")]
    pub(super) fn choose(
        &self,
        model: &Model,
        fitted: &Development,
        source: &Store,
        (trial, neutral): (&Trial, &Neutral),
        (place, identity): (PathBuf, String),
        (tunes, n_head): (bool, usize),
        output: Output,
    ) -> Result<Chosen> {
        let by = self.select.by();
        let budget = self.select.kl_budget();
        let objective = self.align.objective();
        let default = if objective.is_some() { n_trained(n_head) } else { default_k(n_head) };
        let k = self.heads.unwrap_or(default);
        // Models that cannot be evaluated can be fitted by accuracy.
        if by == Selection::Accuracy && !tunes && budget.is_none() && objective.is_none() {
            return Ok(Chosen {
                vector: fitted.vector(source, k, trial.direction)?,
                alpha: self.alpha.unwrap_or(DEFAULT_ALPHA),
                effects: Vec::new(),
                choice: None,
                trained: None,
                journal: Journal::in_memory(),
            });
        }
        let mut evaluator = self.model.evaluator(model)?;
        evaluator.set_full_stop(!trial.questions.iter().any(|q| q.is_of_pictures()));
        evaluator.set_policy(self.measure.policy());
        neutral.tell(&evaluator, output)?;
        let mut journal = SelectArgs::journal(&place, &identity, trial)?;
        let kept = format!(
            "what was tried is kept in {}: rerun the same command to resume",
            place.display()
        );
        let Ranked { development, effects } = {
            let journal = (&mut journal, kept.as_str());
            self.select.rank(&mut evaluator, fitted, source, trial, journal, output)?
        };
        let (vector, alpha, choice) = if tunes {
            let grid = self.select.grid(model, self.heads, self.alpha)?;
            interrupt::install();
            let parts = match grid.is_choice() {
                false => Parts::default(),
                true => {
                    let bar = output.progress("probing", n_head * trial.params.n_part);
                    let parts = Parts::fit(fitted, source, trial, || bar.inc(1))?;
                    bar.finish_and_clear();
                    let bar = output.progress("trying", 1);
                    let journal = &mut journal;
                    let parts = parts.rank(&mut evaluator, source, trial, by, journal, |step| {
                        bar.set_length(step.n_all as u64);
                        bar.set_position(step.n_done as u64);
                        interrupt::check(&kept)
                    });
                    bar.finish_and_clear();
                    parts?
                }
            };
            let n_question = trial.questions.iter().filter(|q| q.is_two_sided()).count();
            let n_step = grid.n_step(n_question, trial.params.n_part);
            let bar = output.progress("tuning", n_step);
            let (journal, of) = (&mut journal, (&development, &parts));
            let result = choose(&mut evaluator, of, source, trial, &grid, journal, || {
                bar.inc(1);
                interrupt::check(&kept)
            });
            bar.finish_and_clear();
            let (vector, choice) = result?;
            (vector, choice.alpha, Some(choice))
        } else {
            let vector =
                development.vector(source, k.min(development.scores.len()), trial.direction)?;
            if let Some(objective) = objective {
                let kept = (place.as_path(), identity.as_str());
                let (align, budget) = (&self.align, (budget, self.data.seed));
                let trained =
                    align.train(objective, &mut evaluator, &vector, trial, budget, kept, output)?;
                let (vector, alpha) = (trained.vector.clone(), trained.alpha);
                let trained = Some(trained);
                return Ok(Chosen { vector, alpha, effects, choice: None, trained, journal });
            }
            let budget = budget.unwrap_or(DEFAULT_BUDGET);
            let alpha = match self.alpha {
                Some(alpha) => alpha,
                None => strength_within(&mut evaluator, &vector, trial.documents, budget, output)?,
            };
            (vector, alpha, None)
        };
        Ok(Chosen { vector, alpha, effects, choice, trained: None, journal })
    }

    /// What choosing in this way gives on questions that nothing was chosen on; `None` where there are
    /// too few to part in two.
    pub(super) fn held_out(
        &self,
        model: &Model,
        (data, trial): (&Dataset, &Trial),
        source: &Store,
        (place, identity): (PathBuf, String),
        output: Output,
    ) -> Result<Option<HeldOut>> {
        let protocol = Protocol {
            gate: None,
            data,
            form: trial.form.clone(),
            preamble: trial.preamble.to_owned(),
            neutral: trial.documents.to_vec(),
            instruction: String::new(),
            shuffle: true,
            direction: self.direction,
            selection: self.select.by(),
            select: trial.params,
            sigma: self.measure.sigma(),
            grid: self.select.grid(model, self.heads, self.alpha)?,
            n_random: 0,
            n_predict: 0,
            n_example: 0,
            seed: self.data.seed,
        };
        let n_question = data.questions.iter().filter(|q| q.is_two_sided()).count();
        if n_question < 2 * FEWEST_OF_A_HALF || trial.documents.len() < 2 {
            output.warn(format_args!(
                "{} and {}: too few to measure the choice on questions that it was not made on",
                counted(n_question, "question"),
                counted(trial.documents.len(), "neutral document"),
            ));
            return Ok(None);
        }
        let place = place.with_extension("").with_extension("held-out.jsonl");
        let identity = format!("{identity} {:?} {:?}", protocol.grid, protocol.select);
        let mut ledger = Ledger::open(&place, &identity)?;
        let mut evaluator = self.model.evaluator(model)?;
        evaluator.set_full_stop(!data.is_of_pictures());
        evaluator.set_policy(self.measure.policy());
        let bar = output.progress("held out", protocol.n_step_of_held_out());
        let journal = journals(&place, &identity);
        let found = held_out(&mut evaluator, source, &protocol, &mut ledger, journal, || {
            bar.inc(1);
            interrupt::check("what was tried is kept: rerun the same command to resume")
        });
        bar.finish_and_clear();
        let found = found?;
        ledger.remove()?;
        Ok(Some(found))
    }
}

/// Heads whose strengths are trained: a fifth of all, as far as a search without gradients goes.
fn n_trained(n_head: usize) -> usize {
    (n_head / 5).clamp(1, 32)
}
