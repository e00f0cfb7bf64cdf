//! One logistic regression.
//!
//! The objective is scikit-learn's with `penalty="l2", C=1`, intercept and unscaled features, the
//! one of ITI (section 2): the sum over rows of `ln(1 + exp(-y (w·x + b)))` plus `w·w / 2`.
//!
//! Head outputs can have means far from zero and any magnitude, which makes this objective slow to
//! minimize as it stands. So it is minimized in other coordinates, z = (x - mean) / scale with *one*
//! scale for all values, and u = scale w: the intercept is free to absorb the mean, and the penalty
//! becomes `u·u / (2 scale²)`. That is the same objective with the same minimum, not a scaling of
//! features, which would have weighed the penalty anew. The search starts where a few Newton steps
//! end (`start.rs`).

use linfa::{DatasetBase, traits::Fit};
use linfa_logistic::LogisticRegression;
use ndarray::{Array1, Array2, ArrayView2, Axis, ShapeBuilder};

use super::Probe;
use super::start::start;
use crate::{Error, Result};

/// The gradient's norm per row at which the minimum counts as found: ten times stricter than
/// scikit-learn's, at which accuracies no longer move.
const GRADIENT_PER_ROW: f64 = 1e-5;

/// As in scikit-learn's call in the original code.
const MAX_ITERATIONS: u64 = 1000;

/// Fits a probe to the outputs of one head: L2 penalty with C = 1, intercept, unscaled features.
///
/// `x`: F32 `[n_row, d_head]`, `labels`: `[n_row]`. Outputs that do not vary give the probe that
/// reads the share of true rows, which is their exact minimum.
///
/// # Errors
/// [`Error::Invalid`] when there is not a label per row, when all labels are the same, when a value
/// is not finite, or when the minimization breaks down.
pub fn fit_probe(x: ArrayView2<f32>, labels: &[bool]) -> Result<Probe> {
    let invalid = |problem: String| Error::invalid("training rows of a probe", problem);
    if x.nrows() != labels.len() {
        return Err(invalid(format!("{} rows have {} labels", x.nrows(), labels.len())));
    }
    if x.iter().any(|value| !value.is_finite()) {
        return Err(invalid("a head output is NaN or infinite".into()));
    }
    let log_odds = log_odds(labels)?;

    let mut z = column_major(x);
    let mean = z.sum_axis(Axis(0)) / z.nrows() as f64;
    z -= &mean;
    let scale = (z.iter().map(|z| z * z).sum::<f64>() / z.len() as f64).sqrt();
    if scale == 0.0 {
        return Ok(Probe { weight: vec![0.0; x.ncols()], bias: log_odds as f32 });
    }
    z /= scale;

    let n_row = labels.len() as f64;
    let penalty = 1.0 / (scale * scale);
    let tolerance = GRADIENT_PER_ROW * n_row;
    // linfa calls the more frequent class positive, and of two equal ones the first that it meets.
    let positive = if log_odds == 0.0 { labels[0] } else { log_odds > 0.0 };
    let is_positive = labels.iter().map(|&label| label == positive);
    let start = start(&z, is_positive, log_odds.abs(), penalty, 0.5 * tolerance);
    let fitted = LogisticRegression::default()
        .alpha(penalty)
        .max_iterations(MAX_ITERATIONS)
        .gradient_tolerance(tolerance)
        .initial_params(start)
        .fit(&DatasetBase::new(z, Array1::from_vec(labels.to_vec())))
        .map_err(|error| invalid(error.to_string()))?;

    let sign = if fitted.labels().pos.class { 1.0 } else { -1.0 };
    let weight = fitted.params() * (sign / scale);
    let bias = sign * fitted.intercept() - weight.dot(&mean);
    let probe = Probe { weight: weight.iter().map(|w| *w as f32).collect(), bias: bias as f32 };
    if !probe.weight.iter().chain([&probe.bias]).all(|value| value.is_finite()) {
        return Err(invalid("the minimization ran out of range".into()));
    }
    Ok(probe)
}

/// The same in F64 and column by column, as the gradient runs. Some rows at a time, which a cache
/// holds.
fn column_major(x: ArrayView2<f32>) -> Array2<f64> {
    const N_ROW: usize = 64;
    let mut z = Array2::zeros(x.raw_dim().f());
    for (mut z, x) in z.axis_chunks_iter_mut(Axis(0), N_ROW).zip(x.axis_chunks_iter(Axis(0), N_ROW))
    {
        for (mut z, x) in z.columns_mut().into_iter().zip(x.columns()) {
            z.zip_mut_with(&x, |z, x| *z = f64::from(*x));
        }
    }
    z
}

/// ln(true / false) of the labels.
///
/// # Errors
/// [`Error::Invalid`] when all labels are the same.
pub(super) fn log_odds(labels: &[bool]) -> Result<f64> {
    let n_true = labels.iter().filter(|label| **label).count();
    let n_false = labels.len() - n_true;
    if n_true == 0 || n_false == 0 {
        return Err(Error::invalid(
            "training rows of a probe",
            format!("{n_true} are true and {n_false} false: both kinds are needed"),
        ));
    }
    Ok((n_true as f64 / n_false as f64).ln())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// The largest component of the objective's gradient at the probe, per row, in f64.
    fn gradient(probe: &Probe, x: ArrayView2<f32>, labels: &[bool]) -> f64 {
        let x = x.mapv(f64::from);
        let weight = Array1::from_iter(probe.weight.iter().map(|w| f64::from(*w)));
        let logits = x.dot(&weight) + f64::from(probe.bias);
        let residual = Array1::from_iter(
            logits
                .iter()
                .zip(labels)
                .map(|(z, y)| 1.0 / (1.0 + (-z).exp()) - f64::from(u8::from(*y))),
        );
        let gradient = x.t().dot(&residual) + weight;
        let largest = gradient.iter().chain([&residual.sum()]).fold(0.0f64, |m, g| m.max(g.abs()));
        largest / labels.len() as f64
    }

    fn noisy_rows(n_row: usize, d_head: usize, share_true: f64) -> (Array2<f32>, Vec<bool>) {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let labels: Vec<bool> = (0..n_row).map(|_| rng.random_bool(share_true)).collect();
        let x = Array2::from_shape_fn((n_row, d_head), |(row, _)| {
            rng.random_range(-1.0f32..1.0) + if labels[row] { 0.2 } else { -0.2 }
        });
        (x, labels)
    }

    #[test]
    fn finds_the_minimum_of_the_objective() {
        for share_true in [0.2, 0.5, 0.8] {
            let (x, labels) = noisy_rows(300, 16, share_true);
            let probe = fit_probe(x.view(), &labels).unwrap();
            let gradient = gradient(&probe, x.view(), &labels);
            assert!(gradient < 2.0 * GRADIENT_PER_ROW, "{share_true}: {gradient}");
        }
    }

    #[test]
    fn finds_the_minimum_of_one_value_in_closed_form() {
        // For x = y = ±1 the gradient vanishes at b = 0 and w = 2 / (1 + exp(w)).
        let x = array![[1.0f32], [-1.0]];
        let probe = fit_probe(x.view(), &[true, false]).unwrap();
        let w = f64::from(probe.weight[0]);
        assert!((w - 2.0 / (1.0 + w.exp())).abs() < 1e-3, "{w}");
        assert!(probe.bias.abs() < 1e-3);
    }

    #[test]
    fn true_is_positive_whatever_comes_first_or_is_more_frequent() {
        let x = array![[1.0f32], [2.0], [-1.0], [-2.0], [-3.0]];
        let labels = [true, true, false, false, false];
        assert!(fit_probe(x.view(), &labels).unwrap().weight[0] > 0.0);
        assert!(fit_probe(x.view(), &labels.map(|l| !l)).unwrap().weight[0] < 0.0);
        let x = array![[1.0f32], [-1.0]];
        assert!(fit_probe(x.view(), &[true, false]).unwrap().weight[0] > 0.0);
        assert!(fit_probe(x.view(), &[false, true]).unwrap().weight[0] < 0.0);
    }

    #[test]
    fn constant_outputs_give_the_share_of_true_rows() {
        let x = Array2::from_elem((4, 3), 5.0f32);
        let probe = fit_probe(x.view(), &[true, true, true, false]).unwrap();
        assert_eq!(probe.weight, [0.0; 3]);
        assert!((probe.probability(&[5.0; 3]) - 0.75).abs() < 1e-6);
    }

    #[test]
    fn outputs_of_any_magnitude_give_the_minimum() {
        let (x, labels) = noisy_rows(300, 16, 0.8);
        for factor in [1e-30, 1e-9, 1e-4, 1e4, 1e9] {
            let x = &x * factor;
            let probe = fit_probe(x.view(), &labels).unwrap();
            let loss = probe.log_loss(x.view(), &labels);
            let constant = Probe { weight: vec![0.0; 16], bias: log_odds(&labels).unwrap() as f32 };
            // Never worse than the share of true rows, which is all that the tiniest allow.
            assert!(loss < constant.log_loss(x.view(), &labels) + 1e-4, "{factor}: {loss}");
            assert!(factor < 1e-2 || loss < 0.3, "{factor}: {loss}");
        }
        // Not a number that f64 sums without rounding.
        let probe = fit_probe(Array2::from_elem((300, 3), 0.1f32).view(), &labels).unwrap();
        assert!((probe.logit(&[0.1; 3]) - log_odds(&labels).unwrap() as f32).abs() < 1e-3);
    }

    #[test]
    fn refuses_what_cannot_be_fitted() {
        let x = array![[1.0f32], [2.0]];
        let message =
            |x: &Array2<f32>, labels: &[bool]| fit_probe(x.view(), labels).unwrap_err().to_string();
        assert!(message(&x, &[true, true]).contains("both kinds are needed"));
        assert!(message(&x, &[true]).contains("2 rows have 1 labels"));
        assert!(message(&array![[1.0], [f32::NAN]], &[true, false]).contains("NaN"));
    }
}
