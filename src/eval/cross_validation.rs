//! Fit on one half, score the other, both ways round.
//!
//! K and α are chosen on the development half: of all pairs whose KL per token on one half of the
//! neutral documents stays within the budget, the one with the highest MC1 on the development
//! questions, at equal MC1 the one with the lowest KL. The other half of the questions, and of the
//! documents, is only ever scored.

use serde::Serialize;

use super::{Divergence, Evaluator, McScore, QuestionScore, Written, is_true};
use crate::data::{Dataset, PromptForm, Question, split};
use crate::probe::Activations;
use crate::steer::{Development, DirectionKind, FitParams, SteeringVector};
use crate::{Error, Result};

/// What to do.
#[derive(Debug, Clone)]
pub struct Protocol<'a> {
    /// Questions with true and false answers.
    pub data: &'a Dataset,
    /// How they are asked.
    pub form: PromptForm,
    /// Documents that ask nothing, for CE and KL; at least two.
    pub neutral: Vec<&'a str>,
    /// A plain instruction before the question: the baseline that needs no steering.
    pub instruction: String,
    /// Kind of directions.
    pub direction: DirectionKind,
    /// The pairs of K and α to choose from.
    pub grid: Grid,
    /// Draws of random heads and directions.
    pub n_random: usize,
    /// Tokens of a written answer.
    pub n_predict: usize,
    /// Answers to show before and after.
    pub n_example: usize,
    /// Seed of the splits and draws.
    pub seed: u64,
}

/// The pairs of K and α to choose from, and what they may cost.
#[derive(Debug, Clone, PartialEq)]
pub struct Grid {
    /// Numbers of heads; those that the model does not have are left out.
    pub ks: Vec<usize>,
    /// Strengths, ascending.
    pub alphas: Vec<f32>,
    /// Most KL per token on neutral text, in nats.
    pub kl_budget: f64,
}

impl Grid {
    /// Pairs.
    #[must_use]
    pub fn n_step(&self) -> usize {
        self.ks.len() * self.alphas.len()
    }
}

/// One line of the table; `None` where it was not measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// `base`, `iti`, `random`, `instruction`.
    pub name: &'static str,
    /// Multiple choice, means over all questions.
    #[serde(flatten)]
    pub mc: McScore,
    /// Cross-entropy on neutral text, nats per token.
    pub ce: Option<f64>,
    /// KL(steered ‖ base) on neutral text, nats per token.
    pub kl: Option<f64>,
    /// Share of greedily written answers that are true.
    #[serde(rename = "true")]
    pub truth: Option<f64>,
    /// Share of written answers that inform; needs a judge.
    pub info: Option<f64>,
}

/// What was chosen on one development half, and what it gave there.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Choice {
    /// Heads.
    pub k: usize,
    /// Strength.
    pub alpha: f32,
    /// MC1 on the development questions.
    pub mc1: f64,
    /// KL per token on the development documents.
    pub kl: f64,
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

/// What came out.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// `base`, `iti`, `random`, `instruction`.
    pub rows: Vec<Row>,
    /// One choice per fold.
    pub choices: Vec<Choice>,
    /// A few answers, evenly spaced over the questions.
    pub examples: Vec<Example>,
    /// Questions scored.
    pub n_question: usize,
}

impl Protocol<'_> {
    /// Steps of [`two_fold`], for a progress bar.
    #[must_use]
    pub fn n_step(&self) -> usize {
        2 * (self.grid.n_step() + 3 + self.n_random)
    }
}

/// Runs the protocol. `on_step` is called after each of [`Protocol::n_step`] steps and may refuse
/// to go on by an error.
///
/// # Errors
/// What fitting and evaluating give; [`Error::Invalid`] where no pair stays within the KL budget.
pub fn two_fold(
    evaluator: &mut Evaluator,
    source: &impl Activations,
    protocol: &Protocol,
    mut on_step: impl FnMut() -> Result<()>,
) -> Result<Report> {
    let questions = &protocol.data.questions;
    let folds = split::folds(questions.len(), 2)?;
    let documents: [Vec<&str>; 2] =
        [0, 1].map(|half| protocol.neutral.iter().skip(half).step_by(2).copied().collect());
    let examples: Vec<usize> = (0..protocol.n_example)
        .map(|i| (2 * i + 1) * questions.len() / (2 * protocol.n_example.max(1)))
        .collect();
    let mut tallies: [Tally; 4] = ["base", "iti", "random", "instruction"].map(Tally::new);
    let mut report =
        Report { rows: Vec::new(), choices: Vec::new(), examples: Vec::new(), n_question: 0 };
    for (fold, test) in folds.iter().enumerate() {
        let development_questions = &folds[1 - fold];
        let params = FitParams { seed: protocol.seed, ..FitParams::default() };
        let development = Development::fit(source, development_questions, &params, || ())?;
        let picked = |ids: &[usize]| ids.iter().map(|&i| &questions[i]).collect::<Vec<_>>();
        let (vector, choice) = choose(
            evaluator,
            &picked(development_questions),
            &protocol.form,
            &documents[fold],
            &protocol.grid,
            |k| development.vector(source, k, protocol.direction),
            &mut on_step,
        )?;
        let mut measure = Measure {
            evaluator: &mut *evaluator,
            protocol,
            questions: picked(test),
            documents: &documents[1 - fold],
        };
        let [base, iti, random, instruction] = &mut tallies;
        let before = measure.run(base, None, "")?;
        on_step()?;
        let after = measure.run(iti, Some((&vector, choice.alpha)), "")?;
        on_step()?;
        for draw in 0..protocol.n_random as u64 {
            let control = development.random(source, choice.k, protocol.seed + 1 + draw)?;
            measure.run(random, Some((&control, choice.alpha)), "")?;
            on_step()?;
        }
        measure.run(instruction, None, &format!("{} ", protocol.instruction))?;
        on_step()?;
        report.choices.push(choice);
        for (i, (before, after)) in test.iter().zip(before.into_iter().zip(after)) {
            if examples.contains(i) {
                report.examples.push(example(&questions[*i], before, after));
            }
        }
    }
    report.n_question = tallies[0].scores.len();
    // An instruction changes the prompt, not the reading of neutral text.
    let [.., instruction] = &mut tallies;
    instruction.divergences.clear();
    report.rows = tallies.iter().map(Tally::row).collect();
    Ok(report)
}

/// Chooses K and α on development questions and documents: of all pairs of the grid that stay
/// within the KL budget the one with the highest MC1, at equal MC1 the one with the lowest KL.
/// `on_step` is called after each of [`Grid::n_step`] pairs.
///
/// # Errors
/// What evaluating gives; [`Error::Invalid`] where no pair stays within the KL budget.
pub fn choose(
    evaluator: &mut Evaluator,
    questions: &[&Question],
    form: &PromptForm,
    documents: &[&str],
    grid: &Grid,
    vector_of: impl Fn(usize) -> Result<SteeringVector>,
    mut on_step: impl FnMut() -> Result<()>,
) -> Result<(SteeringVector, Choice)> {
    let geometry = evaluator.model().geometry();
    let mut best: Option<(SteeringVector, Choice)> = None;
    for &k in &grid.ks {
        let exists = k <= geometry.n_layer * geometry.n_head;
        let vector = if exists { Some(vector_of(k)?) } else { None };
        let mut over_budget = false;
        for &alpha in &grid.alphas {
            if let Some(vector) = vector.as_ref().filter(|_| !over_budget) {
                evaluator.steer_with(Some((vector, alpha)))?;
                let kl = evaluator.divergence(documents)?.kl;
                // KL grows with α, and ends as NaN: larger ones need not be tried.
                over_budget = kl.is_nan() || kl > grid.kl_budget;
                if !over_budget {
                    let mc1 = McScore::mean(&evaluator.score_answers(questions, form, "")?).mc1;
                    if best.as_ref().is_none_or(|(_, b)| (mc1, -kl) > (b.mc1, -b.kl)) {
                        best = Some((vector.clone(), Choice { k, alpha, mc1, kl }));
                    }
                }
            }
            on_step()?;
        }
    }
    best.ok_or_else(|| {
        let problem =
            format!("no strength stays within {} nat per token: try smaller ones", grid.kl_budget);
        Error::invalid("KL budget", problem)
    })
}

/// Measures conditions on one test half.
struct Measure<'a, 'm> {
    evaluator: &'a mut Evaluator<'m>,
    protocol: &'a Protocol<'a>,
    questions: Vec<&'a Question>,
    documents: &'a [&'a str],
}

impl Measure<'_, '_> {
    fn run(
        &mut self,
        tally: &mut Tally,
        vector: Option<(&SteeringVector, f32)>,
        preamble: &str,
    ) -> Result<Vec<(Written, bool)>> {
        let form = &self.protocol.form;
        self.evaluator.steer_with(vector)?;
        tally.scores.extend(self.evaluator.score_answers(&self.questions, form, preamble)?);
        tally.divergences.push(self.evaluator.divergence(self.documents)?);
        let mut written = Vec::with_capacity(self.questions.len());
        for question in &self.questions {
            let answer = self.evaluator.write(question, form, preamble, self.protocol.n_predict)?;
            let truth = is_true(&answer, question);
            tally.truths.push(truth);
            written.push((answer, truth));
        }
        Ok(written)
    }
}

/// What one condition gathered over folds and draws.
struct Tally {
    name: &'static str,
    scores: Vec<QuestionScore>,
    divergences: Vec<Divergence>,
    truths: Vec<bool>,
}

impl Tally {
    fn new(name: &'static str) -> Self {
        Self { name, scores: Vec::new(), divergences: Vec::new(), truths: Vec::new() }
    }

    fn row(&self) -> Row {
        let n_token: usize = self.divergences.iter().map(|d| d.n_token).sum();
        let mean = |of: fn(&Divergence) -> f64| {
            let sum: f64 = self.divergences.iter().map(|d| d.n_token as f64 * of(d)).sum();
            (n_token > 0).then(|| sum / n_token as f64)
        };
        let n_true = self.truths.iter().filter(|&&t| t).count() as f64;
        Row {
            name: self.name,
            mc: McScore::mean(&self.scores),
            ce: mean(|d| d.ce),
            kl: mean(|d| d.kl),
            truth: (!self.truths.is_empty()).then(|| n_true / self.truths.len() as f64),
            info: None,
        }
    }
}

fn example(question: &Question, before: (Written, bool), after: (Written, bool)) -> Example {
    let best = question.answers.iter().find(|a| a.best).or(question.answers.first());
    Example {
        question: question.text.clone(),
        best: best.map(|a| a.text.clone()).unwrap_or_default(),
        before: (before.0.text, before.1),
        after: (after.0.text, after.1),
    }
}
