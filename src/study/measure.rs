//! Conditions on one fold.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use super::{Condition, Protocol};
use crate::eval::{Cut, Divergence, Evaluator, N_CHUNK};
use crate::judge::Judgement;
use crate::ledger::Ledger;
use crate::select::Choice;
use crate::steer::SteeringVector;
use crate::{Result, Site};

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
    /// The heads of a model, the best first.
    Ranking(Vec<Site>),
    /// The largest strength within a budget of KL.
    Strength(f32),
    /// Σ log p of each answer of one question under one condition, in nats.
    Scores(#[serde(deserialize_with = "numbers")] Vec<f64>),
    /// What the model writes by itself.
    Written(String),
    /// What a judge says of a written answer.
    Judged(Judgement),
    /// Each document of neutral text under one condition.
    Neutral(Vec<Divergence>),
}

/// JSON has no NaN, in which a model that is steered too far ends: it is written as null.
fn numbers<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Vec<f64>, D::Error> {
    let numbers = Vec::<Option<f64>>::deserialize(deserializer)?;
    Ok(numbers.into_iter().map(|x| x.unwrap_or(f64::NAN)).collect())
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
    /// By document: the mean over draws. None where the condition does not change how neutral text
    /// is read.
    pub(super) neutral: Vec<Divergence>,
}

/// A fold to be scored.
pub(super) struct Fold<'a> {
    pub(super) evaluator: &'a mut Evaluator,
    pub(super) protocol: &'a Protocol<'a>,
    /// Its name in the ledger.
    pub(super) name: String,
    /// Indices into the data set.
    pub(super) questions: &'a [usize],
    pub(super) documents: &'a [&'a str],
    pub(super) ledger: &'a mut Ledger<Record>,
}

/// A setting under which questions are scored: the same name, the same results.
pub(super) struct Turn<'v> {
    /// Its name in the ledger.
    pub(super) label: String,
    /// What stands before every question.
    pub(super) preamble: String,
    pub(super) steered: Option<(&'v SteeringVector, f32)>,
}

impl Fold<'_> {
    /// Scores every condition, without a vector those that need none; `label` is the name under
    /// which the ledger knows the vector's own results. `on_step` is called after each chunk of
    /// questions, scored or answered, and after each reading of the documents.
    pub(super) fn run(
        &mut self,
        steered: Option<(&SteeringVector, f32)>,
        label: &str,
        random: &[SteeringVector],
        on_step: &mut impl FnMut() -> Result<()>,
    ) -> Result<BTreeMap<Condition, Outcome>> {
        let mut turns = Vec::new();
        for condition in Condition::ALL {
            let alpha = steered.map_or(0.0, |(_, alpha)| alpha);
            let draws: Vec<Option<(&SteeringVector, f32)>> = match condition {
                Condition::Base | Condition::Instruction => vec![None],
                Condition::Iti | Condition::InstructionIti => {
                    steered.into_iter().map(Some).collect()
                }
                Condition::Random => random.iter().map(|vector| Some((vector, alpha))).collect(),
            };
            for (draw, steered) in draws.into_iter().enumerate() {
                let label = match condition {
                    Condition::Iti => label.to_owned(),
                    _ => format!("{} {draw}", condition.name()),
                };
                let preamble = self.protocol.preamble_of(condition);
                turns.push((condition, Turn { label, preamble, steered }));
            }
        }
        // What stands before the questions is computed once for all turns that have the same:
        // writing, which needs the memory for itself, comes last.
        turns.sort_by_key(|(condition, _)| condition.is_instructed());
        let mut outcomes: BTreeMap<Condition, Outcome> = BTreeMap::new();
        for (_, turn) in &turns {
            self.score(turn, on_step)?;
        }
        let mut draws: BTreeMap<Condition, Vec<Vec<Divergence>>> = BTreeMap::new();
        for (condition, turn) in &turns {
            // An instruction changes the prompt, not the reading of neutral text.
            if !condition.is_instructed() {
                draws.entry(*condition).or_default().push(self.read_neutral(turn)?);
            }
            on_step()?;
        }
        for (condition, draws) in draws {
            let of_document =
                |i: usize| draws.iter().filter_map(|draw| draw.get(i).copied()).collect::<Vec<_>>();
            let n_draw = draws.len();
            let mean = |i| {
                let mean = Divergence::mean(&of_document(i));
                Divergence { n_token: mean.n_token / n_draw, ..mean }
            };
            outcomes.entry(condition).or_default().neutral =
                (0..self.documents.len()).map(mean).collect();
        }
        for (condition, turn) in &turns {
            self.write(turn, on_step)?;
            self.collect(turn, outcomes.entry(*condition).or_default());
        }
        Ok(outcomes)
    }

    /// The name of a question's scores.
    fn name(&self, turn: &Turn, question: usize) -> String {
        format!("{}, {}, question {question}", self.name, turn.label)
    }

    /// A question's scores, where the ledger holds one for each answer.
    fn known_scores(&self, turn: &Turn, question: usize) -> Option<&[f64]> {
        match self.ledger.get(&self.name(turn, question)) {
            Some(Record::Scores(scores)) => {
                let n_answer = self.protocol.data.questions[question].answers.len();
                (scores.len() == n_answer).then_some(scores)
            }
            _ => None,
        }
    }

    fn name_of_writing(&self, turn: &Turn, question: usize) -> String {
        let how = match self.evaluator.cut() {
            Cut::Line => ", written",
            Cut::Question => ", written up to Q:",
        };
        self.name(turn, question) + how
    }

    /// Scores all questions, as far as that is not known.
    pub(super) fn score(
        &mut self,
        turn: &Turn,
        on_step: &mut impl FnMut() -> Result<()>,
    ) -> Result<()> {
        let Protocol { data, form, .. } = self.protocol;
        self.evaluator.steer_with(turn.steered)?;
        for chunk in self.questions.chunks(N_CHUNK) {
            let is_missing = |i: &usize| self.known_scores(turn, *i).is_none();
            let missing: Vec<usize> = chunk.iter().copied().filter(is_missing).collect();
            if !missing.is_empty() {
                let questions: Vec<_> = missing.iter().map(|&i| &data.questions[i]).collect();
                let scores = self.evaluator.score_answers(&questions, form, &turn.preamble)?;
                let records: Vec<_> = missing
                    .iter()
                    .zip(scores)
                    .map(|(&i, score)| {
                        (self.name(turn, i), Record::Scores(score.log_probabilities))
                    })
                    .collect();
                self.ledger.put(records)?;
            }
            on_step()?;
        }
        Ok(())
    }

    /// Lets the model answer all questions, as far as that is not known.
    pub(super) fn write(
        &mut self,
        turn: &Turn,
        on_step: &mut impl FnMut() -> Result<()>,
    ) -> Result<()> {
        let Protocol { data, form, n_predict, .. } = self.protocol;
        self.evaluator.steer_with(turn.steered)?;
        for chunk in self.questions.chunks(N_CHUNK) {
            let mut records = Vec::new();
            for &i in chunk {
                let name = self.name_of_writing(turn, i);
                let is_known = matches!(self.ledger.get(&name), Some(Record::Written(_)));
                if *n_predict > 0 && !is_known {
                    let question = &data.questions[i];
                    let written =
                        self.evaluator.write(question, form, &turn.preamble, *n_predict)?;
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

    /// Reads the documents, unless what that gives is known.
    pub(super) fn read_neutral(&mut self, turn: &Turn) -> Result<Vec<Divergence>> {
        let name = format!("{}, {}, neutral", self.name, turn.label);
        if let Some(Record::Neutral(documents)) = self.ledger.get(&name) {
            return Ok(documents.clone());
        }
        self.evaluator.steer_with(turn.steered)?;
        let documents = self.evaluator.divergences(self.documents)?;
        self.ledger.put([(name, Record::Neutral(documents.clone()))])?;
        Ok(documents)
    }

    /// Adds what the ledger knows of the questions.
    pub(super) fn collect(&self, turn: &Turn, outcome: &mut Outcome) {
        for &i in self.questions {
            let Some(scores) = self.known_scores(turn, i) else { continue };
            let written = match self.ledger.get(&self.name_of_writing(turn, i)) {
                Some(Record::Written(text)) => Some(text.clone()),
                _ => None,
            };
            let answered = Answered { log_probabilities: scores.to_vec(), written, judged: None };
            outcome.answered.entry(i).or_default().push(answered);
        }
    }
}
