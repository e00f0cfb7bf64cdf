//! Conditions on one fold.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Condition, Protocol};
use crate::eval::{Cut, Divergence, Evaluator};
use crate::judge::Judgement;
use crate::ledger::Ledger;
use crate::select::Choice;
use crate::steer::SteeringVector;
use crate::{Result, Site};

/// Questions that are scored at once, and lost at most when a run is stopped.
pub(super) const N_CHUNK: usize = 16;

/// What a ledger keeps of a study.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Record {
    /// What was chosen on a development half.
    Choice {
        /// K, α and what they gave.
        choice: Choice,
        /// The heads, by place.
        heads: Vec<Site>,
    },
    /// Σ log p of each answer of one question under one condition, in nats.
    Scores(Vec<f64>),
    /// What the model writes by itself.
    Written(String),
    /// What a judge says of a written answer.
    Judged(Judgement),
    /// Neutral text under one condition.
    Neutral(Divergence),
}

/// One question under one condition.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answered {
    /// Σ log p of each answer, in nats.
    pub(super) log_probabilities: Vec<f64>,
    /// What the model writes by itself; `None` where it was not asked to.
    pub(super) written: Option<String>,
    /// What a judge says of that, where there is one besides the comparison of words.
    pub(super) judged: Option<Judgement>,
}

/// What one condition gave on a fold: over all its draws.
#[derive(Debug, Clone, Default)]
pub(super) struct Outcome {
    /// By question, an index into the data set: one for each draw.
    pub(super) answered: BTreeMap<usize, Vec<Answered>>,
    /// One for each draw; none where the condition does not change how neutral text is read.
    pub(super) neutral: Vec<Divergence>,
}

/// A fold to be scored.
pub(super) struct Fold<'a, 'm> {
    pub(super) evaluator: &'a mut Evaluator<'m>,
    pub(super) protocol: &'a Protocol<'a>,
    /// Its name in the ledger.
    pub(super) name: String,
    /// Indices into the data set.
    pub(super) questions: &'a [usize],
    pub(super) documents: &'a [&'a str],
    pub(super) ledger: &'a mut Ledger<Record>,
}

impl Fold<'_, '_> {
    /// Scores every condition. `on_step` is called after each chunk of questions, scored or answered,
    /// and after each reading of the documents.
    pub(super) fn run(
        &mut self,
        vector: &SteeringVector,
        alpha: f32,
        random: &[SteeringVector],
        on_step: &mut impl FnMut() -> Result<()>,
    ) -> Result<BTreeMap<Condition, Outcome>> {
        let mut turns = Vec::new();
        for condition in Condition::ALL {
            let vectors: Vec<Option<&SteeringVector>> = match condition {
                Condition::Base | Condition::Instruction => vec![None],
                Condition::Iti | Condition::InstructionIti => vec![Some(vector)],
                Condition::Random => random.iter().map(Some).collect(),
            };
            let steered = |vector: Option<_>| vector.map(|vector| (vector, alpha));
            turns.extend(
                vectors.into_iter().enumerate().map(|(draw, v)| (condition, draw, steered(v))),
            );
        }
        // What stands before the questions is computed once for all turns that have the same:
        // writing, which needs the memory for itself, comes last.
        turns.sort_by_key(|(condition, ..)| condition.is_instructed());
        let mut outcomes: BTreeMap<Condition, Outcome> = BTreeMap::new();
        for &(condition, draw, vector) in &turns {
            self.evaluator.steer_with(vector)?;
            self.score(condition, draw, on_step)?;
        }
        for &(condition, draw, vector) in &turns {
            self.evaluator.steer_with(vector)?;
            let outcome = outcomes.entry(condition).or_default();
            self.read_neutral(condition, draw, outcome)?;
            on_step()?;
        }
        for &(condition, draw, vector) in &turns {
            self.evaluator.steer_with(vector)?;
            self.write(condition, draw, on_step)?;
            let outcome = outcomes.entry(condition).or_default();
            for &i in self.questions {
                let Some(Record::Scores(scores)) = self.ledger.get(&self.name(condition, draw, i))
                else {
                    continue;
                };
                let written = match self.ledger.get(&self.name_of_writing(condition, draw, i)) {
                    Some(Record::Written(text)) => Some(text.clone()),
                    _ => None,
                };
                let answered =
                    Answered { log_probabilities: scores.clone(), written, judged: None };
                outcome.answered.entry(i).or_default().push(answered);
            }
        }
        Ok(outcomes)
    }

    /// The name of a question's scores.
    fn name(&self, condition: Condition, draw: usize, question: usize) -> String {
        format!("{}, {} {draw}, question {question}", self.name, condition.name())
    }

    fn name_of_writing(&self, condition: Condition, draw: usize, question: usize) -> String {
        let how = match self.evaluator.cut() {
            Cut::Line => ", written",
            Cut::Question => ", written up to Q:",
        };
        self.name(condition, draw, question) + how
    }

    fn score(
        &mut self,
        condition: Condition,
        draw: usize,
        on_step: &mut impl FnMut() -> Result<()>,
    ) -> Result<()> {
        let Protocol { data, form, .. } = self.protocol;
        let preamble = self.protocol.preamble_of(condition);
        for chunk in self.questions.chunks(N_CHUNK) {
            let is_missing = |i: &usize| self.ledger.get(&self.name(condition, draw, *i)).is_none();
            let missing: Vec<usize> = chunk.iter().copied().filter(is_missing).collect();
            if !missing.is_empty() {
                let questions: Vec<_> = missing.iter().map(|&i| &data.questions[i]).collect();
                let scores = self.evaluator.score_answers(&questions, form, &preamble)?;
                let records: Vec<_> = missing
                    .iter()
                    .zip(scores)
                    .map(|(&i, score)| {
                        (self.name(condition, draw, i), Record::Scores(score.log_probabilities))
                    })
                    .collect();
                self.ledger.put(records)?;
            }
            on_step()?;
        }
        Ok(())
    }

    fn write(
        &mut self,
        condition: Condition,
        draw: usize,
        on_step: &mut impl FnMut() -> Result<()>,
    ) -> Result<()> {
        let Protocol { data, form, n_predict, .. } = self.protocol;
        let preamble = self.protocol.preamble_of(condition);
        for chunk in self.questions.chunks(N_CHUNK) {
            let mut records = Vec::new();
            for &i in chunk {
                let name = self.name_of_writing(condition, draw, i);
                if *n_predict > 0 && self.ledger.get(&name).is_none() {
                    let question = &data.questions[i];
                    let written = self.evaluator.write(question, form, &preamble, *n_predict)?;
                    records.push((name, Record::Written(written.text)));
                }
            }
            if !records.is_empty() {
                self.ledger.put(records)?;
            }
            on_step()?;
        }
        Ok(())
    }

    /// An instruction changes the prompt, not the reading of neutral text.
    fn read_neutral(
        &mut self,
        condition: Condition,
        draw: usize,
        outcome: &mut Outcome,
    ) -> Result<()> {
        if condition.is_instructed() {
            return Ok(());
        }
        let name = format!("{}, {} {draw}, neutral", self.name, condition.name());
        let divergence = match self.ledger.get(&name) {
            Some(Record::Neutral(divergence)) => *divergence,
            _ => {
                let divergence = self.evaluator.divergence(self.documents)?;
                self.ledger.put([(name, Record::Neutral(divergence))])?;
                divergence
            }
        };
        outcome.neutral.push(divergence);
        Ok(())
    }
}
