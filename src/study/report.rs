//! What came out of a study.

use std::collections::BTreeMap;

use serde::Serialize;

use super::measure::{Answered, Outcome};
use super::{Condition, Estimate, Protocol};
use crate::Site;
use crate::data::Question;
use crate::eval::{Divergence, McScore, QuestionScore, Written, is_true};
use crate::judge::Judgement;
use crate::select::Choice;
use crate::steer::{Development, SteeringVector};

/// What came out.
#[derive(Debug, Clone)]
pub struct Report<'a> {
    pub(super) questions: &'a [Question],
    n_example: usize,
    seed: u64,
    pub(super) outcomes: BTreeMap<Condition, Outcome>,
    /// One for each fold, in order.
    pub folds: Vec<FoldReport>,
}

/// One line of the table: means over all questions; `None` where it was not measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Row {
    /// The condition.
    pub name: &'static str,
    /// Multiple choice.
    #[serde(flatten)]
    pub mc: McScore,
    /// Cross-entropy on neutral text, nats per token.
    pub ce: Option<f64>,
    /// KL(steered ‖ base) on neutral text, nats per token.
    pub kl: Option<f64>,
    /// Share of greedily written answers that are true, as the judge says, or word for word.
    #[serde(rename = "true")]
    pub truth: Option<f64>,
    /// Share of written answers that inform; needs a judge.
    pub info: Option<f64>,
    /// Share of written answers that are true and inform; needs a judge.
    pub true_info: Option<f64>,
    /// All of these with their intervals.
    pub interval: Intervals,
    /// The same as changes from `base`, paired by question and by document.
    pub change: Intervals,
}

/// Means over questions, or over the tokens of documents, with 95 % intervals by bootstrap.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Intervals {
    /// MC1.
    pub mc1: Option<Estimate>,
    /// MC2.
    pub mc2: Option<Estimate>,
    /// MC3.
    pub mc3: Option<Estimate>,
    /// True answers.
    #[serde(rename = "true")]
    pub truth: Option<Estimate>,
    /// Answers that inform.
    pub info: Option<Estimate>,
    /// Answers that are true and inform.
    pub true_info: Option<Estimate>,
    /// Cross-entropy, over documents.
    pub ce: Option<Estimate>,
    /// KL(steered ‖ base), over documents.
    pub kl: Option<Estimate>,
}

/// What was chosen for one fold, and what it gave there.
#[derive(Debug, Clone, PartialEq, Serialize)]
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
    /// By condition: means over the fold.
    pub mc: BTreeMap<&'static str, McScore>,
    /// MC1 with its interval.
    pub mc1_interval: BTreeMap<&'static str, Estimate>,
}

/// One category of questions.
#[derive(Debug, Clone, PartialEq, Serialize)]
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

impl Intervals {
    /// Of what is measured by question.
    fn of(estimate: impl Fn(fn(&Values) -> &Vec<f64>) -> Option<Estimate>) -> Self {
        Self {
            mc1: estimate(|v| &v.mc1),
            mc2: estimate(|v| &v.mc2),
            mc3: estimate(|v| &v.mc3),
            truth: estimate(|v| &v.truth),
            info: estimate(|v| &v.info),
            true_info: estimate(|v| &v.true_info),
            ..Self::default()
        }
    }
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
            mc: BTreeMap::new(),
            mc1_interval: BTreeMap::new(),
        }
    }
}

impl<'a> Report<'a> {
    pub(super) fn new(protocol: &Protocol<'a>) -> Self {
        Self {
            questions: &protocol.data.questions,
            n_example: protocol.n_example,
            seed: protocol.seed,
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
            let all = self.outcomes.entry(condition).or_default();
            all.answered.extend(outcome.answered);
            all.neutral.extend(outcome.neutral);
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
        let values = self.values(outcome);
        let base = base.map(|outcome| self.values(outcome));
        let change = |pick: fn(&Values) -> &Vec<f64>| {
            Estimate::of_difference(pick(&values), pick(base.as_ref()?), self.seed)
        };
        let per_token = |value: fn(&Divergence) -> f64| {
            let documents: Vec<_> =
                values.neutral.iter().map(|d| (value(d), d.n_token as f64)).collect();
            Estimate::of_weighted(&documents, self.seed)
        };
        let change_per_token = |value: fn(&Divergence) -> f64| {
            let pairs = values.neutral.iter().zip(&base.as_ref()?.neutral);
            let changes: Vec<_> =
                pairs.map(|(a, b)| (value(a) - value(b), a.n_token as f64)).collect();
            Estimate::of_weighted(&changes, self.seed)
        };
        let (ce, kl) = (per_token(|d| d.ce), per_token(|d| d.kl));
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let some = |values: &[f64]| (!values.is_empty()).then(|| mean(values));
        Row {
            name: condition.name(),
            mc: McScore { mc1: mean(&values.mc1), mc2: mean(&values.mc2), mc3: mean(&values.mc3) },
            ce: ce.map(|ce| ce.mean),
            kl: kl.map(|kl| kl.mean),
            truth: some(&values.truth),
            info: some(&values.info),
            true_info: some(&values.true_info),
            interval: Intervals {
                ce,
                kl,
                ..Intervals::of(|pick| Estimate::of(pick(&values), self.seed))
            },
            change: Intervals {
                ce: change_per_token(|d| d.ce),
                kl: change_per_token(|d| d.kl),
                ..Intervals::of(change)
            },
        }
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
        let scores: Vec<f64> = self.scores(outcome, ids).iter().map(|score| score.mc1).collect();
        Estimate::of(&scores, self.seed)
    }

    fn scores(&self, outcome: &Outcome, ids: &[usize]) -> Vec<McScore> {
        ids.iter()
            .filter_map(|i| Some(mean_of_draws(&self.questions[*i], outcome.answered.get(i)?)))
            .collect()
    }

    /// One value per question: means over draws.
    fn values(&self, outcome: &Outcome) -> Values {
        let mut values = Values { neutral: outcome.neutral.clone(), ..Values::default() };
        for (&i, draws) in &outcome.answered {
            let question = &self.questions[i];
            let mc = mean_of_draws(question, draws);
            values.mc1.push(mc.mc1);
            values.mc2.push(mc.mc2);
            values.mc3.push(mc.mc3);
            values.truth.extend(share(draws, |draw| truth(question, draw)));
            values.info.extend(share(draws, |draw| Some(draw.judged?.info.is_yes())));
            values.true_info.extend(share(draws, |draw| Some(draw.judged?.is_both())));
        }
        values
    }
}

/// One value per question, and one per document.
#[derive(Debug, Default)]
struct Values {
    neutral: Vec<Divergence>,
    mc1: Vec<f64>,
    mc2: Vec<f64>,
    mc3: Vec<f64>,
    truth: Vec<f64>,
    info: Vec<f64>,
    true_info: Vec<f64>,
}

fn mean(scores: &[McScore]) -> McScore {
    let n = scores.len().max(1) as f64;
    let of = |value: fn(&McScore) -> f64| scores.iter().map(value).sum::<f64>() / n;
    McScore { mc1: of(|s| s.mc1), mc2: of(|s| s.mc2), mc3: of(|s| s.mc3) }
}

fn mean_of_draws(question: &Question, draws: &[Answered]) -> McScore {
    let scores: Vec<McScore> = draws
        .iter()
        .map(|draw| {
            let score = QuestionScore {
                log_probabilities: draw.log_probabilities.clone(),
                labels: question.answers.iter().map(|answer| answer.label).collect(),
                best: question.best(),
            };
            score.mc()
        })
        .collect();
    mean(&scores)
}

/// Whether what was written is true: as the judge says, else word for word.
fn truth(question: &Question, draw: &Answered) -> Option<bool> {
    if let Some(judged) = draw.judged {
        return Some(judged.truth.is_yes());
    }
    let written = Written { text: draw.written.clone()? };
    Some(is_true(&written, question))
}

/// The share of draws of which it is so; `None` where none says.
fn share(draws: &[Answered], is_so: impl Fn(&Answered) -> Option<bool>) -> Option<f64> {
    let said: Vec<f64> =
        draws.iter().filter_map(is_so).map(|is_so| f64::from(u8::from(is_so))).collect();
    (!said.is_empty()).then(|| said.iter().sum::<f64>() / said.len() as f64)
}
