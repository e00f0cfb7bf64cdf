//! Fit on one half, score the other, both ways round.
//!
//! Heads, directions, K and α are chosen on the development half ([`develop`]): of all pairs of K and
//! α whose KL per token on one half of the neutral documents stays within the budget, the one with
//! the highest MC1 on the development questions, at equal MC1 the one with the lowest KL. The other
//! half of the questions, and of the documents, is only ever scored.

use serde::Serialize;

use super::{Choice, Grid, HeadEffect, Journal, SelectParams, Step, Trial, choose, rank};
use crate::Result;
use crate::data::{Dataset, PromptForm, Question, split};
use crate::eval::{Divergence, Evaluator, McScore, QuestionScore, Written, is_true};
use crate::probe::Activations;
use crate::steer::{Development, DirectionKind, FitParams, Selection, SteeringVector};

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
    /// By what heads are chosen.
    pub selection: Selection,
    /// How much to measure where they are chosen by what they cause.
    pub select: SelectParams,
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

/// Steps of [`two_fold`] that choosing heads by what they cause is reported as, per fold.
const SELECT_STEPS: usize = 100;

impl Protocol<'_> {
    /// Steps of [`two_fold`], for a progress bar.
    #[must_use]
    pub fn n_step(&self) -> usize {
        let n_select = if self.selection == Selection::Accuracy { 0 } else { SELECT_STEPS };
        2 * (n_select + self.grid.n_step() + 3 + self.n_random)
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
        let developed =
            develop(evaluator, source, protocol, &folds[1 - fold], &documents[fold], &mut on_step)?;
        let Developed { development, vector, choice, .. } = developed;
        let mut measure = Measure {
            evaluator: &mut *evaluator,
            protocol,
            questions: test.iter().map(|&i| &questions[i]).collect(),
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

/// Fits probes and directions and chooses heads, K and α on some of the questions (indices into the
/// data set) and documents. No other question, row of activations or document is looked at.
/// `on_step` is called as in [`two_fold`].
///
/// # Errors
/// As [`two_fold`].
pub fn develop(
    evaluator: &mut Evaluator,
    source: &impl Activations,
    protocol: &Protocol,
    questions: &[usize],
    documents: &[&str],
    mut on_step: impl FnMut() -> Result<()>,
) -> Result<Developed> {
    let params = FitParams { seed: protocol.seed, ..FitParams::default() };
    let development = Development::fit(source, questions, &params, || ())?;
    let trial = Trial {
        questions: questions.iter().map(|&i| &protocol.data.questions[i]).collect(),
        form: &protocol.form,
        documents,
        direction: protocol.direction,
        params: protocol.select,
    };
    let mut n_step = 0;
    let on_trial = |step: Step| {
        let due = SELECT_STEPS * step.n_done / step.n_all.max(1);
        while n_step < due {
            n_step += 1;
            on_step()?;
        }
        Ok(())
    };
    let mut journal = Journal::in_memory();
    let by = protocol.selection;
    let ranked = rank(evaluator, &development, source, &trial, by, &mut journal, on_trial)?;
    let (vector, choice) =
        choose(evaluator, &ranked.development, source, &trial, &protocol.grid, on_step)?;
    Ok(Developed { development, effects: ranked.effects, vector, choice })
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
