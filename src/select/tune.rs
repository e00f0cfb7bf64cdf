//! How many heads, and how far: chosen by trying.

use serde::{Deserialize, Serialize};

use super::{Journal, Trial};
use crate::data::{Question, sha256};
use crate::eval::{Evaluator, N_CHUNK};
use crate::probe::Activations;
use crate::steer::{Development, SteeringVector};
use crate::{Error, Result};

/// The pairs of K and α to choose from, and what they may cost.
#[derive(Debug, Clone, PartialEq)]
pub struct Grid {
    /// Numbers of heads, ascending or descending.
    pub ks: Vec<usize>,
    /// Strengths, ascending.
    pub alphas: Vec<f32>,
    /// Most KL per token on neutral text, in nats.
    pub kl_budget: f64,
}

impl Grid {
    /// Steps of [`choose`] on so many questions with true and false answers.
    #[must_use]
    pub fn n_step(&self, n_question: usize) -> usize {
        self.ks.len() * self.alphas.len() * (1 + n_question.div_ceil(N_CHUNK))
    }
}

/// What was chosen on one development half, and what it gave there.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
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

/// Chooses K and α on development questions and documents: of all pairs of the grid that stay
/// within the KL budget the one with the highest MC1, at equal MC1 the one with the lowest KL.
/// A K above the heads that may be steered is taken as their number. What the journal holds is not
/// measured again. `on_step` is called after each of [`Grid::n_step`] steps and may refuse to go on
/// by an error.
///
/// # Errors
/// What evaluating gives; [`Error::Invalid`] where no question has true and false answers, or no pair
/// stays within the KL budget.
pub fn choose(
    evaluator: &mut Evaluator,
    development: &Development,
    source: &impl Activations,
    trial: &Trial,
    grid: &Grid,
    journal: &mut Journal,
    mut on_step: impl FnMut() -> Result<()>,
) -> Result<(SteeringVector, Choice)> {
    // Only MC1 is asked for.
    let questions: Vec<Question> = trial.two_sided()?.into_iter().map(Question::deciding).collect();
    let n_step_of_pair = 1 + questions.len().div_ceil(N_CHUNK);
    let mut tuner = Tuner { evaluator, trial, questions: &questions, journal };
    let mut last_k = 0;
    let mut best: Option<(SteeringVector, Choice)> = None;
    for &k in &grid.ks {
        let k = k.min(development.scores.len());
        let vector = match k == last_k {
            true => None,
            false => Some(development.vector(source, k, trial.direction)?),
        };
        last_k = k;
        let mut over_budget = false;
        for &alpha in &grid.alphas {
            let mut n_step = 0;
            if let Some(vector) = vector.as_ref().filter(|_| !over_budget) {
                let mut on_step = || {
                    n_step += 1;
                    on_step()
                };
                let name = format!("{} alpha {alpha}", name_of(vector));
                tuner.evaluator.steer_with(Some((vector, alpha)))?;
                let kl = tuner.kl(&name)?;
                on_step()?;
                // KL grows with α, and ends as NaN: larger ones need not be tried.
                over_budget = kl.is_nan() || kl > grid.kl_budget;
                if !over_budget {
                    let mc1 = tuner.mc1(&name, on_step)?;
                    if best.as_ref().is_none_or(|(_, b)| (mc1, -kl) > (b.mc1, -b.kl)) {
                        best = Some((vector.clone(), Choice { k, alpha, mc1, kl }));
                    }
                }
            }
            (n_step..n_step_of_pair).try_for_each(|_| on_step())?;
        }
    }
    best.ok_or_else(|| {
        let problem =
            format!("no strength stays within {} nat per token: try smaller ones", grid.kl_budget);
        Error::invalid("KL budget", problem)
    })
}

/// Measures one pair after the other.
struct Tuner<'a> {
    evaluator: &'a mut Evaluator,
    trial: &'a Trial<'a>,
    questions: &'a [Question],
    journal: &'a mut Journal,
}

impl Tuner<'_> {
    /// KL per token on the documents, as the evaluator is steered.
    fn kl(&mut self, name: &str) -> Result<f64> {
        let name = format!("{name} documents");
        if let Some((kl, _)) = self.journal.get(&name) {
            return Ok(kl.unwrap_or(f64::NAN));
        }
        let found = self.evaluator.divergence(self.trial.documents)?;
        self.journal.put([(name, (found.kl.is_finite().then_some(found.kl), found.n_token))])?;
        Ok(found.kl)
    }

    /// Mean MC1 over the questions.
    fn mc1(&mut self, name: &str, mut on_step: impl FnMut() -> Result<()>) -> Result<f64> {
        let Trial { form, preamble, .. } = self.trial;
        let name_of = |i: usize| format!("{name} question {i}");
        let mut sum = 0.0;
        let all: Vec<usize> = (0..self.questions.len()).collect();
        for chunk in all.chunks(N_CHUNK) {
            let is_missing = |i: &usize| self.journal.get(&name_of(*i)).is_none();
            let missing: Vec<usize> = chunk.iter().copied().filter(is_missing).collect();
            if !missing.is_empty() {
                let questions: Vec<&Question> =
                    missing.iter().map(|&i| &self.questions[i]).collect();
                let scores = self.evaluator.score_answers(&questions, form, preamble)?;
                let scored = missing.iter().zip(scores);
                let results = scored.map(|(&i, score)| (name_of(i), (Some(score.mc().mc1), 1)));
                self.journal.put(results.collect::<Vec<_>>())?;
            }
            let known = chunk.iter().filter_map(|&i| self.journal.get(&name_of(i))?.0);
            sum += known.sum::<f64>();
            on_step()?;
        }
        Ok(sum / self.questions.len() as f64)
    }
}

/// What journals know a vector by: its heads. All else is a journal's identity.
fn name_of(vector: &SteeringVector) -> String {
    let heads: Vec<String> = vector.heads().iter().map(|head| head.site.to_string()).collect();
    let digest = sha256(heads.join(" ").as_bytes());
    format!("{} heads {}", heads.len(), &digest[..12])
}
