//! All that is chosen, from development data alone.

use super::{Protocol, SELECT_STEPS};
use crate::Result;
use crate::eval::Evaluator;
use crate::probe::Activations;
use crate::select::{Choice, HeadEffect, Journal, Parts, Step, Trial, choose, rank};
use crate::steer::{Development, SteeringVector};

/// What was found on one development half.
#[derive(Debug, Clone)]
pub struct Developed {
    /// All heads, by the accuracy of their probes.
    pub development: Development,
    /// What each head does by itself; empty where heads are chosen by accuracy.
    pub effects: Vec<HeadEffect>,
    /// The vector of the heads that were chosen.
    pub vector: SteeringVector,
    /// K and α.
    pub choice: Choice,
}

/// Reports the steps of choosing heads by what they cause as [`SELECT_STEPS`], counted in `n_step`,
/// that come after `n_before`.
pub(super) fn in_steps(
    n_before: usize,
    n_step: &mut usize,
    on_step: &mut impl FnMut() -> Result<()>,
) -> impl FnMut(Step) -> Result<()> {
    move |step| {
        let due = n_before + SELECT_STEPS * step.n_done / step.n_all.max(1);
        while *n_step < due {
            *n_step += 1;
            on_step()?;
        }
        Ok(())
    }
}

/// Fits probes and directions and chooses heads, K and α on some of the questions (indices into the
/// data set) and documents. No other question, row of activations or document is looked at.
/// What the journal holds is not measured again. `on_step` is called as in
/// [`two_fold`](super::two_fold).
///
/// # Errors
/// As [`two_fold`](super::two_fold).
pub fn develop(
    evaluator: &mut Evaluator,
    source: &impl Activations,
    protocol: &Protocol,
    questions: &[usize],
    documents: &[&str],
    journal: &mut Journal,
    mut on_step: impl FnMut() -> Result<()>,
) -> Result<Developed> {
    let development = Development::fit(source, questions, &protocol.fit(), || ())?;
    let trial = Trial {
        questions: questions.iter().map(|&i| &protocol.data.questions[i]).collect(),
        form: &protocol.form,
        preamble: &protocol.preamble,
        documents,
        direction: protocol.direction,
        params: protocol.select,
    };
    let by = protocol.selection;
    let mut n_step = 0;
    let on_trial = in_steps(0, &mut n_step, &mut on_step);
    let ranked = rank(evaluator, &development, source, &trial, by, journal, on_trial)?;
    let mut parts = Parts::default();
    if protocol.grid.is_choice() {
        parts = Parts::fit(&development, source, &trial, || ())?;
        let on_trial = in_steps(SELECT_STEPS, &mut n_step, &mut on_step);
        parts = parts.rank(evaluator, source, &trial, by, journal, on_trial)?;
    }
    (n_step..protocol.n_step_of_selection()).try_for_each(|_| on_step())?;
    let of = (&ranked.development, &parts);
    let (vector, choice) = choose(evaluator, of, source, &trial, &protocol.grid, journal, on_step)?;
    Ok(Developed { development, effects: ranked.effects, vector, choice })
}
