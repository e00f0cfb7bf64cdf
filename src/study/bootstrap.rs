//! How sure a mean over questions is: the percentile bootstrap.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Resamples: enough for two digits of a bound.
const N_RESAMPLE: usize = 2000;

/// A mean and its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// The 2.5 % quantile of resampled means.
    pub low: f64,
    /// The 97.5 % quantile of resampled means.
    pub high: f64,
}

impl Estimate {
    /// The mean of `values`, one per question, and how it varies when questions are drawn anew with
    /// replacement. `None` where there are none.
    #[must_use]
    pub fn of(values: &[f64], seed: u64) -> Option<Self> {
        let values: Vec<(f64, f64)> = values.iter().map(|&value| (value, 1.0)).collect();
        Self::of_weighted(&values, seed)
    }

    /// The mean of values, each with its weight, and how it varies when they are drawn anew: means
    /// per token of documents of different lengths. `None` where they weigh nothing.
    #[must_use]
    pub fn of_weighted(values: &[(f64, f64)], seed: u64) -> Option<Self> {
        let values: Vec<(f64, f64)> =
            values.iter().filter(|(_, weight)| *weight > 0.0).map(|&(x, w)| (x * w, w)).collect();
        if values.is_empty() {
            return None;
        }
        let n = values.len();
        let add = |a: (f64, f64), b: (f64, f64)| (a.0 + b.0, a.1 + b.1);
        let mean = |(sum, weight): (f64, f64)| sum / weight;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut means: Vec<f64> = (0..N_RESAMPLE)
            .map(|_| mean((0..n).map(|_| values[rng.random_range(0..n)]).fold((0.0, 0.0), add)))
            .collect();
        means.sort_by(f64::total_cmp);
        let quantile = |share: f64| means[(share * (N_RESAMPLE - 1) as f64).round() as usize];
        let mean = mean(values.iter().copied().fold((0.0, 0.0), add));
        Some(Self { mean, low: quantile(0.025), high: quantile(0.975) })
    }

    /// The mean of `a − b`, paired by question. `None` where there are none, or not as many.
    #[must_use]
    pub fn of_difference(a: &[f64], b: &[f64], seed: u64) -> Option<Self> {
        let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
        if a.len() == b.len() { Self::of(&differences, seed) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often the interval holds the truth, over 1,000 samples of `n` values.
    fn coverage(n: usize, draw: impl Fn(&mut ChaCha8Rng) -> f64, truth: f64) -> f64 {
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        let n_repeat = 1000;
        let hits = (0..n_repeat)
            .filter(|&seed| {
                let values: Vec<f64> = (0..n).map(|_| draw(&mut rng)).collect();
                let estimate = Estimate::of(&values, seed).unwrap();
                (estimate.low..=estimate.high).contains(&truth)
            })
            .count();
        hits as f64 / n_repeat as f64
    }

    #[test]
    fn intervals_hold_the_truth_as_often_as_they_say() {
        let is_right = coverage(200, |rng| f64::from(u8::from(rng.random_bool(0.4))), 0.4);
        assert!((0.93..=0.97).contains(&is_right), "shares: {is_right}");
        let is_right = coverage(100, |rng| rng.random_range(-1.0..3.0), 1.0);
        assert!((0.93..=0.97).contains(&is_right), "numbers: {is_right}");
    }

    #[test]
    fn a_long_document_counts_more() {
        let estimate = Estimate::of_weighted(&[(1.0, 3.0), (9.0, 0.0), (5.0, 1.0)], 0).unwrap();
        assert_eq!((estimate.mean, estimate.low, estimate.high), (2.0, 1.0, 5.0));
        assert!(Estimate::of_weighted(&[(1.0, 0.0)], 0).is_none());
    }

    #[test]
    fn pairs_differences() {
        let (a, b) = ([1.0, 2.0, 3.0], [0.5, 1.5, 2.5]);
        let estimate = Estimate::of_difference(&a, &b, 0).unwrap();
        assert_eq!((estimate.mean, estimate.low, estimate.high), (0.5, 0.5, 0.5));
        assert!(
            Estimate::of_difference(&a, &b[..2], 0).is_none() && Estimate::of(&[], 0).is_none()
        );
    }
}
