//! Every cell in one fold: measured on the half that it comes from, and on the other.

use super::super::develop::in_steps;
use super::super::measure::{Fold, Outcome, Record, Turn, keep};
use super::super::{Condition, Half, Protocol, Report, SELECT_STEPS};
use super::{Axes, Scores};
use crate::eval::{Divergence, Evaluator, N_CHUNK};
use crate::ledger::Ledger;
use crate::probe::Activations;
use crate::select::{Journal, Parts, Trial, rank};
use crate::steer::{Development, DirectionKind, Selection, SteeringVector};
use crate::{Result, Site};

/// One fold of a sweep.
pub(super) struct Sweeper<'r, 'p, 'a> {
    pub(super) evaluator: &'r mut Evaluator,
    pub(super) protocol: &'p Protocol<'a>,
    pub(super) ledger: &'r mut Ledger<Record>,
    pub(super) journal: &'r dyn Fn(&str) -> Result<Journal>,
    pub(super) report: &'p Report<'a>,
    pub(super) name: String,
    pub(super) half: &'p Half<'a>,
}

/// What one fold gave.
pub(super) struct Swept {
    pub(super) development: Development,
    pub(super) vectors: Vec<SteeringVector>,
    /// In the order of [`Sweep::cells`].
    pub(super) cells: Vec<Measured>,
    pub(super) base: Outcome,
    pub(super) base_development: Scores,
}

/// One cell in one fold.
#[derive(Clone)]
pub(super) struct Measured {
    /// An index.
    pub(super) vector: usize,
    pub(super) alpha: f32,
    /// Under which the ledger knows it.
    pub(super) label: String,
    pub(super) development: Scores,
    pub(super) outcome: Outcome,
}

impl Sweeper<'_, '_, '_> {
    /// Measures every cell.
    pub(super) fn run(
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
                    rank(self.evaluator, development, source, &trial, by, &mut journal, on_trial);
                if ranked.is_err() {
                    keep(self.ledger, self.evaluator, &name, Vec::new())?;
                }
                let ranked = ranked?;
                let sites: Vec<Site> =
                    ranked.development.scores.iter().map(|score| score.site).collect();
                self.keep(name, Record::Ranking(sites.clone()))?;
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
                    self.keep(name, Record::Ranking(sites.clone()))?;
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

    /// Keeps a result, and what it took.
    fn keep(&mut self, name: String, record: Record) -> Result<()> {
        keep(self.ledger, self.evaluator, &name.clone(), vec![(name, record)])
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
        self.keep(name, Record::Strength(alpha))?;
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
pub(super) fn scores(outcome: &Outcome, report: &Report) -> Scores {
    let Divergence { ce, kl, .. } = outcome.divergence();
    let ids: Vec<usize> = outcome.answered.keys().copied().collect();
    let mc1 = (!ids.is_empty()).then(|| report.mean_mc(outcome, &ids).mc1);
    Scores { mc1, ce, kl }
}
