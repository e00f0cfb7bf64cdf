//! How many heads, and how far: chosen by trying.

use serde::{Deserialize, Serialize};

use super::Trial;
use crate::eval::{Evaluator, McScore};
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
    /// Pairs.
    #[must_use]
    pub fn n_step(&self) -> usize {
        self.ks.len() * self.alphas.len()
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
/// A K above the heads that may be steered is taken as their number. `on_step` is called after each
/// of [`Grid::n_step`] pairs.
///
/// # Errors
/// What evaluating gives; [`Error::Invalid`] where no pair stays within the KL budget.
pub fn choose(
    evaluator: &mut Evaluator,
    development: &Development,
    source: &impl Activations,
    trial: &Trial,
    grid: &Grid,
    mut on_step: impl FnMut() -> Result<()>,
) -> Result<(SteeringVector, Choice)> {
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
            if let Some(vector) = vector.as_ref().filter(|_| !over_budget) {
                evaluator.steer_with(Some((vector, alpha)))?;
                let kl = evaluator.divergence(trial.documents)?.kl;
                // KL grows with α, and ends as NaN: larger ones need not be tried.
                over_budget = kl.is_nan() || kl > grid.kl_budget;
                if !over_budget {
                    let scores =
                        evaluator.score_answers(&trial.questions, trial.form, trial.preamble)?;
                    let mc1 = McScore::mean(&scores).mc1;
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
