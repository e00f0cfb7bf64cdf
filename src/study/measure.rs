//! Conditions on one fold.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Condition, Protocol};
use crate::eval::{Cut, Divergence, Evaluator, N_CHUNK, Spent, TokenCount};
use crate::judge::Judgement;
use crate::ledger::Ledger;
use crate::select::Choice;
use crate::steer::SteeringVector;
use crate::{Result, Site};

/// What a ledger keeps of a study.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
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
    Scores(Vec<f64>),
    /// What the model writes by itself.
    Written(String),
    /// What a judge says of a written answer.
    Judged(Judgement),
    /// Each document of neutral text under one condition.
    Neutral(Vec<Divergence>),
    /// What a part of the work read and computed.
    Tokens(TokenCount),
}

/// Keeps results, and what they took: `what` names the work, which may be done in several goes.
pub(super) fn keep(
    ledger: &mut Ledger<Record>,
    evaluator: &mut Evaluator,
    what: &str,
    mut records: Vec<(String, Record)>,
) -> Result<()> {
    let Spent { count, prefixes } = evaluator.take_tokens();
    let name = format!("tokens, {what}");
    let known = match ledger.get(&name) {
        Some(Record::Tokens(known)) => *known,
        _ => TokenCount::default(),
    };
    records.push((name, Record::Tokens(known + count)));
    // What texts begin with counts once, however often a run was stopped.
    for (hash, n) in prefixes {
        let name = format!("tokens, before texts {hash}");
        let is_known = |(known, _): &(String, Record)| *known == name;
        if ledger.get(&name).is_none() && !records.iter().any(is_known) {
            records.push((name, Record::Tokens(TokenCount { read: 0, computed: n })));
        }
    }
    ledger.put(records)
}

/// Tokens read and computed for all that a ledger holds, over all runs that were stopped; what texts begin
/// with counts once.
#[must_use]
pub fn n_token(ledger: &Ledger<Record>) -> TokenCount {
    let count = |record: &Record| match record {
        Record::Tokens(count) => *count,
        _ => TokenCount::default(),
    };
    ledger.values().map(count).fold(TokenCount::default(), |a, b| a + b)
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
    /// By document: one for each draw. None where the condition does not change how neutral text is
    /// read.
    pub(super) neutral: Vec<Vec<Divergence>>,
    /// Where it is of several folds, each with draws of its own: the fold of each question, and of
    /// each document.
    fold_of: BTreeMap<usize, usize>,
    fold_of_document: Vec<usize>,
}

impl Outcome {
    /// Of documents alone, read once.
    pub(super) fn of_documents(documents: Vec<Divergence>) -> Self {
        Self { neutral: documents.into_iter().map(|of| vec![of]).collect(), ..Self::default() }
    }

    /// Adds what came out of another fold, whose number this is.
    pub(super) fn add(&mut self, fold: usize, other: Self) {
        self.fold_of.extend(other.answered.keys().map(|&i| (i, fold)));
        self.fold_of_document.extend(other.neutral.iter().map(|_| fold));
        self.answered.extend(other.answered);
        self.neutral.extend(other.neutral);
    }

    /// The fold of a question.
    pub(super) fn fold_of(&self, question: usize) -> usize {
        self.fold_of.get(&question).copied().unwrap_or(0)
    }

    /// Each document with its fold.
    pub(super) fn documents(&self) -> impl Iterator<Item = (usize, &[Divergence])> {
        let folds = self.fold_of_document.iter().copied().chain(std::iter::repeat(0));
        folds.zip(self.neutral.iter().map(Vec::as_slice))
    }

    /// The mean over the tokens of all documents and over draws.
    pub(super) fn divergence(&self) -> Divergence {
        Divergence::mean(&self.neutral.concat())
    }
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
    /// Below which reading of the token before one is steered.
    pub(super) gate: Option<f32>,
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
                Condition::Gated => {
                    steered.filter(|_| self.protocol.gate.is_some()).into_iter().map(Some).collect()
                }
                Condition::Random => random.iter().map(|vector| Some((vector, alpha))).collect(),
            };
            for (draw, steered) in draws.into_iter().enumerate() {
                let label = match condition {
                    Condition::Iti => label.to_owned(),
                    _ => format!("{} {draw}", condition.name()),
                };
                let preamble = self.protocol.preamble_of(condition);
                let gate = self.protocol.gate.filter(|_| condition == Condition::Gated);
                turns.push((condition, Turn { label, preamble, steered, gate }));
            }
        }
        // What stands before the questions is computed once for all turns that have the same:
        // writing, which needs the memory for itself, comes last.
        turns.sort_by_key(|(condition, _)| condition.is_instructed());
        // Draws of one condition are measured side by side.
        let groups: Vec<(Condition, Vec<Turn>)> =
            turns.into_iter().fold(Vec::new(), |mut groups, (condition, turn)| {
                match groups.last_mut() {
                    Some((of, turns)) if *of == condition => turns.push(turn),
                    _ => groups.push((condition, vec![turn])),
                }
                groups
            });
        let mut outcomes: BTreeMap<Condition, Outcome> = BTreeMap::new();
        for (_, turns) in &groups {
            self.score(turns, on_step)?;
        }
        for (condition, turns) in &groups {
            // An instruction changes the prompt, not the reading of neutral text.
            if !condition.is_instructed() {
                let draws = self.read_neutral(turns)?;
                let of_document = |i: usize| draws.iter().map(|draw| draw[i]).collect();
                outcomes.entry(*condition).or_default().neutral =
                    (0..self.documents.len()).map(of_document).collect();
            }
            turns.iter().try_for_each(|_| on_step())?;
        }
        for (condition, turns) in &groups {
            self.write(turns, on_step)?;
            for turn in turns {
                self.collect(turn, outcomes.entry(*condition).or_default());
            }
        }
        Ok(outcomes)
    }

    /// The vectors of several turns, if there are several: all are steered, at one strength, after the
    /// same words.
    fn vectors<'v>(turns: &[&Turn<'v>]) -> Option<(Vec<&'v SteeringVector>, f32)> {
        let (_, alpha) = turns.first()?.steered?;
        let vector = |turn: &&Turn<'v>| turn.steered.map(|(vector, _)| vector);
        let vectors: Vec<_> = turns.iter().filter_map(vector).collect();
        (turns.len() > 1 && vectors.len() == turns.len()).then_some((vectors, alpha))
    }

    /// Steers as a turn does.
    fn steer(&mut self, turn: &Turn) -> Result<()> {
        match (turn.steered, turn.gate) {
            (Some((vector, alpha)), Some(below)) => {
                self.evaluator.steer_through_gate(vector, alpha, below)
            }
            (steered, _) => self.evaluator.steer_with(steered),
        }
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

    /// Scores all questions under each turn, side by side, as far as that is not known.
    pub(super) fn score(
        &mut self,
        turns: &[Turn],
        on_step: &mut impl FnMut() -> Result<()>,
    ) -> Result<()> {
        let Protocol { data, form, .. } = self.protocol;
        for chunk in self.questions.chunks(N_CHUNK) {
            let is_known = |turn: &Turn, i: usize| self.known_scores(turn, i).is_some();
            let missing: Vec<usize> = chunk
                .iter()
                .copied()
                .filter(|&i| turns.iter().any(|turn| !is_known(turn, i)))
                .collect();
            let open: Vec<&Turn> =
                turns.iter().filter(|turn| missing.iter().any(|&i| !is_known(turn, i))).collect();
            if let Some(turn @ Turn { preamble, .. }) = open.first().copied() {
                let questions: Vec<_> = missing.iter().map(|&i| &data.questions[i]).collect();
                let scores = match Self::vectors(&open) {
                    Some((vectors, alpha)) => self
                        .evaluator
                        .score_answers_under(&vectors, alpha, &questions, form, preamble)?,
                    None => {
                        self.steer(turn)?;
                        vec![self.evaluator.score_answers(&questions, form, preamble)?]
                    }
                };
                let mut records = Vec::new();
                for (turn, scores) in open.iter().zip(scores) {
                    records.extend(missing.iter().zip(scores).map(|(&i, score)| {
                        (self.name(turn, i), Record::Scores(score.log_probabilities))
                    }));
                }
                self.keep(turn, &format!("questions from {}", chunk[0]), records)?;
            }
            turns.iter().try_for_each(|_| on_step())?;
        }
        Ok(())
    }

    /// Keeps what a group of turns gave, the first of which is `turn`.
    fn keep(&mut self, turn: &Turn, what: &str, records: Vec<(String, Record)>) -> Result<()> {
        let what = format!("{}, {}, {what}", self.name, turn.label);
        keep(self.ledger, self.evaluator, &what, records)
    }

    /// Lets the model answer all questions under each turn, side by side, as far as that is not known.
    pub(super) fn write(
        &mut self,
        turns: &[Turn],
        on_step: &mut impl FnMut() -> Result<()>,
    ) -> Result<()> {
        let Protocol { data, form, n_predict, .. } = self.protocol;
        for chunk in self.questions.chunks(N_CHUNK) {
            let mut records = Vec::new();
            for &i in chunk.iter().filter(|_| *n_predict > 0) {
                let is_open = |turn: &&Turn| {
                    let name = self.name_of_writing(turn, i);
                    !matches!(self.ledger.get(&name), Some(Record::Written(_)))
                };
                let open: Vec<&Turn> = turns.iter().filter(is_open).collect();
                let Some(turn @ Turn { preamble, .. }) = open.first().copied() else { continue };
                let (question, n) = (&data.questions[i], *n_predict);
                let written = match Self::vectors(&open) {
                    Some((vectors, alpha)) => {
                        self.evaluator.write_under(&vectors, alpha, question, form, preamble, n)?
                    }
                    None => {
                        self.steer(turn)?;
                        vec![self.evaluator.write(question, form, preamble, n)?]
                    }
                };
                records.extend(open.iter().zip(written).map(|(turn, written)| {
                    (self.name_of_writing(turn, i), Record::Written(written.text))
                }));
            }
            if let Some(turn) = turns.first().filter(|_| !records.is_empty()) {
                let what = self.name_of_writing(turn, chunk[0]);
                keep(self.ledger, self.evaluator, &what, records)?;
            }
            turns.iter().try_for_each(|_| on_step())?;
        }
        Ok(())
    }

    /// Reads the documents under each turn, side by side, as far as what that gives is not known.
    pub(super) fn read_neutral(&mut self, turns: &[Turn]) -> Result<Vec<Vec<Divergence>>> {
        let name = |turn: &Turn| format!("{}, {}, neutral", self.name, turn.label);
        let names: Vec<String> = turns.iter().map(name).collect();
        let is_known = |name: &str| matches!(self.ledger.get(name), Some(Record::Neutral(_)));
        let open: Vec<(&Turn, &String)> =
            turns.iter().zip(&names).filter(|(_, name)| !is_known(name)).collect();
        let of_turns: Vec<&Turn> = open.iter().map(|(turn, _)| *turn).collect();
        if let Some(turn) = of_turns.first().copied() {
            let found = match Self::vectors(&of_turns) {
                Some((vectors, alpha)) => {
                    self.evaluator.divergences_of(&vectors, alpha, self.documents)?
                }
                None => {
                    self.steer(turn)?;
                    vec![self.evaluator.divergences(self.documents)?]
                }
            };
            let records = open.iter().zip(found);
            let records: Vec<_> =
                records.map(|((_, name), of)| ((*name).clone(), Record::Neutral(of))).collect();
            self.keep(turn, "neutral", records)?;
        }
        let known = |name: &String| match self.ledger.get(name) {
            Some(Record::Neutral(documents)) => documents.clone(),
            _ => Vec::new(),
        };
        Ok(names.iter().map(known).collect())
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
