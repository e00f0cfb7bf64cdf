//! Medians, and how far they can be trusted.

use std::time::Duration;

use serde::Serialize;

/// How often the interval of a ratio is to hold the true median.
const CONFIDENCE: f64 = 0.95;

/// Fewest rounds whose smallest and largest ratio are an interval: it holds the true median in 94 of 100
/// cases, and that of four rounds in 88, of two in 50.
pub const N_ROUND_MIN: usize = 5;

/// A median of paired ratios with an interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct Ratio {
    /// Half of the rounds are below it.
    pub median: f64,
    /// The lower end of the interval; `None` with fewer than [`N_ROUND_MIN`] rounds.
    pub low: Option<f64>,
    /// Its upper end.
    pub high: Option<f64>,
}

impl Ratio {
    /// The ratios of samples of the same round, and the interval of their median.
    ///
    /// The interval lies between two order statistics, the k-th smallest and the k-th largest
    /// ratio, which hold the true median with the probability 1 - 2 P(B < k), B binomial over the
    /// rounds with p = 1/2, whatever the distribution. k is the largest that gives 95 %; with fewer
    /// than six rounds none does: with five, the interval is all there is, from the smallest to the largest
    /// (93.75 %), with fewer there is none. `None` without rounds.
    #[must_use]
    pub fn paired(samples: &[Duration], plain: &[Duration]) -> Option<Self> {
        let pairs = samples.iter().zip(plain);
        let ratios = pairs.map(|(sample, plain)| sample.as_secs_f64() / plain.as_secs_f64());
        Self::of(ratios.collect())
    }

    fn of(mut ratios: Vec<f64>) -> Option<Self> {
        ratios.sort_by(f64::total_cmp);
        let k = rank(ratios.len());
        let (low, high) = (*ratios.get(k)?, *ratios.get(ratios.len() - 1 - k)?);
        let ends = (ratios.len() >= N_ROUND_MIN).then_some((low, high));
        let (low, high) = (ends.map(|(low, _)| low), ends.map(|(_, high)| high));
        Some(Self { median: middle(&ratios), low, high })
    }
}

/// The median of durations; zero without any.
#[must_use]
pub fn median(samples: &[Duration]) -> Duration {
    let mut seconds: Vec<f64> = samples.iter().map(Duration::as_secs_f64).collect();
    seconds.sort_by(f64::total_cmp);
    Duration::from_secs_f64(middle(&seconds))
}

/// The middle of sorted numbers; of two, their mean. Zero without any.
fn middle(sorted: &[f64]) -> f64 {
    match sorted {
        [] => 0.0,
        _ => (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0,
    }
}

/// How many order statistics can be cut off at each end.
fn rank(n: usize) -> usize {
    // P(B < k) for k = 1, 2, …: the sum of binomial coefficients over 2^n, each from the one before.
    let mut term = 0.5f64.powi(i32::try_from(n).unwrap_or(i32::MAX));
    let mut below = term;
    let mut k = 0;
    while k < n / 2 {
        term *= (n - k) as f64 / (k + 1) as f64;
        // Cutting off k + 1 at each end asks for P(B < k + 2).
        if 1.0 - 2.0 * (below + term) < CONFIDENCE {
            break;
        }
        below += term;
        k += 1;
    }
    k
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(values: &[f64]) -> Vec<Duration> {
        values.iter().map(|&value| Duration::from_secs_f64(value)).collect()
    }

    #[test]
    fn ratios_are_paired_by_round() {
        let ratio = Ratio::paired(&seconds(&[2.0, 30.0, 4.0]), &seconds(&[1.0, 10.0, 4.0]));
        assert_eq!(ratio, Some(Ratio { median: 2.0, low: None, high: None }));
        let ratio = Ratio::paired(&seconds(&[2.0, 3.0, 4.0, 1.0, 2.0]), &seconds(&[1.0; 5]));
        assert_eq!(ratio, Some(Ratio { median: 2.0, low: Some(1.0), high: Some(4.0) }));
        assert_eq!(Ratio::paired(&[], &[]), None);
    }

    #[test]
    fn the_interval_leaves_out_what_it_may() {
        // From the tables of the sign test: at 95 %, n = 6 … 8 keep all, n = 9 cut one at each end,
        // n = 12 two, n = 20 five, n = 100 thirty-nine.
        let cuts = [(1, 0), (5, 0), (6, 0), (8, 0), (9, 1), (12, 2), (20, 5), (100, 39)];
        for (n, cut) in cuts {
            assert_eq!(rank(n), cut, "{n} rounds");
        }
    }

    #[test]
    fn a_median_of_two_is_their_mean() {
        assert_eq!(median(&seconds(&[1.0, 3.0])), Duration::from_secs(2));
        assert_eq!(median(&seconds(&[5.0, 1.0, 3.0])), Duration::from_secs(3));
        assert_eq!(median(&[]), Duration::ZERO);
    }
}
