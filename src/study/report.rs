//! What came out of a study.

use std::collections::BTreeMap;

use serde::Serialize;

use super::measure::{Answered, Outcome};
use super::values::{Values, by_unit, mean, mean_of_draws, push, score, share, truth};
use super::{Condition, Estimate, Protocol, Row, Sample};
use crate::data::{PromptForm, Question, firsts};
use crate::eval::McScore;
use crate::judge::Judgement;
use crate::probe::{Activations, Chance};
use crate::select::Choice;
use crate::steer::{Development, SteeringVector};
use crate::{Result, Site};

/// What came out.
#[derive(Debug, Clone)]
pub struct Report<'a> {
    pub(super) questions: &'a [Question],
    /// Of each the first that asks the same: intervals take the two for one question.
    units: Vec<usize>,
    n_example: usize,
    /// How they were asked.
    pub(super) form: PromptForm,
    pub(super) outcomes: BTreeMap<Condition, Outcome>,
    /// One for each fold, in order.
    pub folds: Vec<FoldReport>,
}

/// What was chosen for one fold, and what it gave there.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct FoldReport {
    /// K, α, and what they gave on the development half.
    #[serde(flatten)]
    pub choice: Choice,
    /// Questions scored.
    pub n_question: usize,
    /// The heads that were steered, by place.
    pub heads: Vec<Site>,
    /// Validation accuracy of every head's probe, layer by layer.
    pub head_accuracy: Vec<f32>,
    /// Where that was measured.
    pub head_accuracy_from: HeadsFrom,
    /// What the best of these accuracies is worth; `None` beside a vector that was there already, unless
    /// its sidecar says.
    pub chance: Option<Chance>,
    /// Rows that sigma was measured over; `None` where the vector brought its own.
    pub n_sigma_row: Option<usize>,
    /// Questions that were scored here and stand among those that were fitted on, too; of a vector that
    /// was there already see [`Report::seen`].
    pub n_seen: usize,
    /// By condition: means over the fold.
    pub mc: BTreeMap<&'static str, McScore>,
    /// MC1 with its interval.
    pub mc1_interval: BTreeMap<&'static str, Estimate>,
}

/// Where accuracies of heads were measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case", tag = "source")]
pub enum HeadsFrom {
    /// The sidecar that is scored has them, from where it was fitted.
    Sidecar,
    /// Probes were fitted here, to so many rows: of the half that is not scored, or, beside a vector
    /// that is there already, of the questions that are scored.
    Fitted {
        /// Labelled rows; a fifth of the questions ranks the heads, the rest fits the probes.
        n_row: usize,
    },
}

/// One category of questions.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct Category {
    /// Its name.
    pub name: String,
    /// Questions scored.
    pub n_question: usize,
    /// By condition.
    pub mc: BTreeMap<&'static str, McScore>,
    /// MC1 with its interval.
    pub mc1_interval: BTreeMap<&'static str, Estimate>,
}

/// One question under every condition.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct QuestionReport<'a> {
    /// The question.
    pub question: &'a str,
    /// Its category.
    pub category: Option<&'a str>,
    /// Its best answer.
    pub best: &'a str,
    /// By condition; means over draws.
    pub conditions: BTreeMap<&'static str, Scored<'a>>,
}

/// One question under one condition.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct Scored<'a> {
    /// Multiple choice.
    #[serde(flatten)]
    pub mc: McScore,
    /// What the model writes; of several draws the first.
    pub written: Option<&'a str>,
    /// Whether that is true; a share where there are several draws.
    #[serde(rename = "true")]
    pub truth: Option<f64>,
    /// Whether that informs; a share where there are several draws.
    pub info: Option<f64>,
    /// What the judge says; of several draws the first.
    pub judgement: Option<Judgement>,
}

/// An answer before and after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct Example {
    /// The question.
    pub question: String,
    /// Its best answer.
    pub best: String,
    /// What the model writes unsteered, and whether that is true.
    pub before: (String, bool),
    /// What it writes steered, and whether that is true.
    pub after: (String, bool),
}

impl FoldReport {
    pub(super) fn of(
        choice: &Choice,
        vector: &SteeringVector,
        development: &Development,
        n_question: usize,
    ) -> Self {
        Self {
            choice: *choice,
            n_question,
            heads: vector.heads().iter().map(|head| head.site).collect(),
            head_accuracy: development.accuracies(),
            head_accuracy_from: HeadsFrom::Fitted { n_row: development.n_row() },
            chance: None,
            n_sigma_row: None,
            n_seen: 0,
            mc: BTreeMap::new(),
            mc1_interval: BTreeMap::new(),
        }
    }

    /// The same of a vector that was fitted on the development half, which holds `n_seen` of the
    /// questions that are scored.
    pub(super) fn fitted(
        self,
        development: &Development,
        source: &impl Activations,
        n_seen: usize,
    ) -> Result<Self> {
        let chance = Some(development.chance(source)?);
        Ok(Self { chance, n_sigma_row: Some(development.n_sigma_row()), n_seen, ..self })
    }
}

impl<'a> Report<'a> {
    pub(super) fn new(protocol: &Protocol<'a>) -> Self {
        Self {
            questions: &protocol.data.questions,
            units: firsts(&protocol.data.questions),
            n_example: protocol.n_example,
            form: protocol.form.clone(),
            outcomes: BTreeMap::new(),
            folds: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, outcomes: BTreeMap<Condition, Outcome>, mut fold: FoldReport) {
        for (&condition, outcome) in &outcomes {
            let ids: Vec<usize> = outcome.answered.keys().copied().collect();
            fold.mc.insert(condition.name(), self.mean_mc(outcome, &ids));
            if let Some(mc1) = self.mc1(outcome, &ids) {
                fold.mc1_interval.insert(condition.name(), mc1);
            }
        }
        self.folds.push(fold);
        self.gather(outcomes);
    }

    pub(super) fn gather(&mut self, outcomes: BTreeMap<Condition, Outcome>) {
        for (condition, outcome) in outcomes {
            self.outcomes.entry(condition).or_default().add(self.folds.len(), outcome);
        }
    }

    /// Questions scored.
    #[must_use]
    pub fn n_question(&self) -> usize {
        self.outcomes.get(&Condition::Base).map_or(0, |outcome| outcome.answered.len())
    }

    /// One row for each condition, in their order.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        let base = self.outcomes.get(&Condition::Base);
        let measured = self.outcomes.iter().filter(|(_, outcome)| !outcome.answered.is_empty());
        measured.map(|(&condition, outcome)| self.row(condition, outcome, base)).collect()
    }

    /// The row of a condition, with its changes from `base`.
    pub(super) fn row(
        &self,
        condition: Condition,
        outcome: &Outcome,
        base: Option<&Outcome>,
    ) -> Row {
        let values = Values::of(outcome, self.questions, &self.units);
        let base = base.map(|outcome| Values::of(outcome, self.questions, &self.units));
        values.row(condition, base.as_ref())
    }

    /// Multiple choice by category; none where the data names none.
    #[must_use]
    pub fn categories(&self) -> Vec<Category> {
        let mut ids: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for i in self.outcomes.get(&Condition::Base).iter().flat_map(|o| o.answered.keys()) {
            if let Some(category) = &self.questions[*i].category {
                ids.entry(category).or_default().push(*i);
            }
        }
        ids.into_iter()
            .map(|(name, ids)| Category {
                name: name.to_owned(),
                n_question: ids.len(),
                mc: self
                    .outcomes
                    .iter()
                    .map(|(condition, outcome)| (condition.name(), self.mean_mc(outcome, &ids)))
                    .collect(),
                mc1_interval: self
                    .outcomes
                    .iter()
                    .filter_map(|(condition, outcome)| {
                        Some((condition.name(), self.mc1(outcome, &ids)?))
                    })
                    .collect(),
            })
            .collect()
    }

    /// Every question that was scored, in the order of the data.
    #[must_use]
    pub fn questions(&self) -> Vec<QuestionReport<'_>> {
        let Some(base) = self.outcomes.get(&Condition::Base) else { return Vec::new() };
        let report = |&i: &usize| {
            let question = &self.questions[i];
            let conditions = self
                .outcomes
                .iter()
                .filter_map(|(condition, outcome)| {
                    let draws = outcome.answered.get(&i)?;
                    let scored = Scored {
                        mc: mean_of_draws(question, draws),
                        written: draws.first().and_then(|draw| draw.written.as_deref()),
                        truth: share(draws, |draw| truth(question, draw)),
                        info: share(draws, |draw| Some(draw.judged?.info.is_yes())),
                        judgement: draws.first().and_then(|draw| draw.judged),
                    };
                    Some((condition.name(), scored))
                })
                .collect();
            QuestionReport {
                question: &question.text,
                category: question.category.as_deref(),
                best: question.answers.get(question.best()).map_or("", |best| &best.text),
                conditions,
            }
        };
        base.answered.keys().map(report).collect()
    }

    /// A few answers before and after, evenly spaced over the questions.
    #[must_use]
    pub fn examples(&self) -> Vec<Example> {
        let questions = self.questions();
        let n = self.n_example.min(questions.len());
        (0..n)
            .filter_map(|i| {
                let question = &questions[(2 * i + 1) * questions.len() / (2 * n)];
                let of = |condition: Condition| {
                    let scored = question.conditions.get(condition.name())?;
                    Some((scored.written?.to_owned(), scored.truth == Some(1.0)))
                };
                Some(Example {
                    question: question.question.to_owned(),
                    best: question.best.to_owned(),
                    before: of(Condition::Base)?,
                    after: of(Condition::Iti)?,
                })
            })
            .collect()
    }

    pub(super) fn mean_mc(&self, outcome: &Outcome, ids: &[usize]) -> McScore {
        mean(&self.scores(outcome, ids))
    }

    fn mc1(&self, outcome: &Outcome, ids: &[usize]) -> Option<Estimate> {
        let mut sample = Sample::default();
        let answered = ids.iter().copied().filter(|id| outcome.answered.contains_key(id));
        for ids in by_unit(answered, &self.units) {
            let mc = |i: usize, draw: &Answered| score(&self.questions[i], draw).mc1;
            let of = |&i: &usize| outcome.answered[&i].iter().map(|draw| mc(i, draw)).collect();
            push(&mut sample, outcome.fold_of(ids[0]), &ids.iter().map(of).collect::<Vec<_>>());
        }
        sample.share()
    }

    fn scores(&self, outcome: &Outcome, ids: &[usize]) -> Vec<McScore> {
        ids.iter()
            .filter_map(|i| Some(mean_of_draws(&self.questions[*i], outcome.answered.get(i)?)))
            .collect()
    }
}
