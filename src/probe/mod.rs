//! Linear probes: which heads know what is true.
//!
//! One logistic regression per attention head (ITI, section 2) is fitted to the head's outputs on
//! training rows and judged on validation rows; [`fit_heads`] does so for every head of a model and
//! ranks them (section 3).

mod activations;
mod chance;
mod fit;
mod rank;
mod reading;
mod start;

use ndarray::{ArrayView1, ArrayView2};
use serde::{Deserialize, Serialize};

pub use activations::Activations;
pub(crate) use activations::check_rows;
#[cfg(test)]
pub(crate) use activations::memory::Memory;
pub use chance::Chance;
pub(crate) use chance::chance;
pub use fit::fit_probe;
pub use rank::{HeadScore, fit_heads};
pub use reading::{Calibration, Domain, Quality, Reading, Spread};

/// A logistic regression on the output of one head: P(true | x) = sigmoid(weight · x + bias).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// F32 `[d_head]`.
    pub weight: Vec<f32>,
    /// The log-odds at x = 0.
    pub bias: f32,
}

impl Probe {
    /// The log-odds of "true" for one head output, F32 `[d_head]`: above 0 it reads as true.
    #[must_use]
    pub fn logit(&self, x: &[f32]) -> f32 {
        self.log_odds(ArrayView1::from(x))
    }

    /// The probability of "true" for one head output, F32 `[d_head]`.
    #[must_use]
    pub fn probability(&self, x: &[f32]) -> f32 {
        1.0 / (1.0 + (-self.logit(x)).exp())
    }

    /// The share of rows whose label the probe reads correctly, 0 to 1; NaN without rows.
    ///
    /// `x`: F32 `[n_row, d_head]`, `labels`: `[n_row]`.
    #[must_use]
    pub fn accuracy(&self, x: ArrayView2<f32>, labels: &[bool]) -> f32 {
        let reads = |x| self.log_odds(x) > 0.0;
        let n_correct =
            x.outer_iter().zip(labels).filter(|(x, label)| reads(*x) == **label).count();
        n_correct as f32 / labels.len() as f32
    }

    /// The mean negative log-likelihood of the labels in nats; NaN without rows.
    ///
    /// `x`: F32 `[n_row, d_head]`, `labels`: `[n_row]`.
    #[must_use]
    pub fn log_loss(&self, x: ArrayView2<f32>, labels: &[bool]) -> f32 {
        let loss = |(x, label): (ArrayView1<f32>, &bool)| {
            // ln(1 + exp(-margin)), written so that the exponential cannot overflow.
            let logit = f64::from(self.log_odds(x));
            let margin = if *label { logit } else { -logit };
            (-margin).max(0.0) + (-margin.abs()).exp().ln_1p()
        };
        let sum: f64 = x.outer_iter().zip(labels).map(loss).sum();
        (sum / labels.len() as f64) as f32
    }

    /// The logit of one row, F32 `[d_head]`, summed in f64.
    fn log_odds(&self, x: ArrayView1<f32>) -> f32 {
        debug_assert_eq!(x.len(), self.weight.len());
        let dot: f64 = self.weight.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
        (dot + f64::from(self.bias)) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn reads_a_head_output() {
        let probe = Probe { weight: vec![2.0, -1.0], bias: 0.5 };
        assert_eq!(probe.logit(&[1.0, 0.5]), 2.0);
        assert!((probe.probability(&[1.0, 0.5]) - 0.880_797).abs() < 1e-6);
        assert_eq!(probe.probability(&[-1e30, 0.0]), 0.0);
        assert_eq!(probe.probability(&[1e30, 0.0]), 1.0);
    }

    #[test]
    fn scores_rows_against_their_labels() {
        let probe = Probe { weight: vec![1.0], bias: 0.0 };
        let x = array![[2.0], [-2.0], [2.0], [1e30]];
        let labels = [true, false, false, true];
        assert_eq!(probe.accuracy(x.view(), &labels), 0.75);
        // Two margins of 2, one of -2, one beyond any exponential.
        let expected = (2.0 * (-2.0f64).exp().ln_1p() + 2.0f64.exp().ln_1p()) / 4.0;
        assert!((f64::from(probe.log_loss(x.view(), &labels)) - expected).abs() < 1e-6);
    }
}
