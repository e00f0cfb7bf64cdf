//! What choosing K and α gives on questions that nothing was chosen on.

use serde::Serialize;

use super::measure::{Outcome, Record, Turn};
use super::{Condition, Developed, Estimate, ITI, Protocol, Report, develop_once};
use crate::Result;
use crate::eval::{Evaluator, N_CHUNK};
use crate::ledger::Ledger;
use crate::probe::Activations;
use crate::select::{Choice, Journal};

/// The gain of a choice, as questions say that had no part in it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct HeldOut {
    /// MC1 without steering.
    pub base: f64,
    /// MC1 with what was chosen on the other half.
    pub mc1: f64,
    /// The change, paired by question.
    pub change: Option<Estimate>,
    /// Questions scored.
    pub n_question: usize,
    /// What was chosen on each half, and what it looked like there.
    pub choices: Vec<Choice>,
}

impl Protocol<'_> {
    /// Steps of [`held_out`], for a progress bar.
    #[must_use]
    pub fn n_step_of_held_out(&self) -> usize {
        self.over_folds(|development, test| {
            self.n_step_of_choice(development) + 2 * test.div_ceil(N_CHUNK)
        })
    }
}

/// Chooses on each half of the questions, as is chosen on all of them, and scores the other half with
/// and without what was chosen. The rest is as for [`two_fold`](super::two_fold).
///
/// # Errors
/// As [`two_fold`](super::two_fold).
pub fn held_out(
    evaluator: &mut Evaluator,
    source: &impl Activations,
    protocol: &Protocol,
    ledger: &mut Ledger<Record>,
    journal: impl Fn(&str) -> Result<Journal>,
    mut on_step: impl FnMut() -> Result<()>,
) -> Result<HeldOut> {
    let report = Report::new(protocol);
    let mut outcomes = [Outcome::default(), Outcome::default()];
    let mut choices = Vec::new();
    for (number, half) in protocol.halves()?.iter().enumerate() {
        let kept = (&mut *ledger, &journal);
        let Developed { vector, choice, .. } =
            develop_once(evaluator, source, protocol, (number, half), kept, &mut on_step)?;
        let base = format!("{} 0", Condition::Base.name());
        let turns = [(base, None), (ITI.to_owned(), Some((&vector, choice.alpha)))];
        for ((label, steered), outcome) in turns.into_iter().zip(&mut outcomes) {
            let turn = Turn { label, preamble: protocol.preamble.clone(), steered, gate: None };
            let mut fold = super::Fold {
                evaluator: &mut *evaluator,
                protocol,
                name: format!("fold {number}"),
                questions: &half.test,
                documents: &[],
                ledger: &mut *ledger,
            };
            fold.score(std::slice::from_ref(&turn), &mut on_step)?;
            fold.collect(&turn, outcome);
        }
        choices.push(choice);
    }
    let [base, steered] = &outcomes;
    let row = report.row(Condition::Iti, steered, Some(base));
    let ids: Vec<usize> = base.answered.keys().copied().collect();
    Ok(HeldOut {
        base: report.mean_mc(base, &ids).mc1,
        mc1: row.mc.mc1,
        change: row.change.mc1,
        n_question: ids.len(),
        choices,
    })
}
