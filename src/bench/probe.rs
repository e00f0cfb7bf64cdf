//! How fast probes are fitted.

use std::time::{Duration, Instant};

use ndarray::{Array2, Axis};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::Serialize;

use super::stats::median;
use crate::probe::{Activations, fit_heads};
use crate::{Result, Site};

/// Every n-th group is for validation.
const N_FOLD: usize = 5;
/// Rows of a group: the answers to one question.
const N_ROW_GROUP: usize = 6;

/// The fewest rows of a [`Synthetic`] of which some are left to judge probes on.
pub const N_ROW_MIN: usize = (N_FOLD - 1) * N_ROW_GROUP + 1;

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct ProbeSpeed {
    /// Probes, one per head.
    pub n_probe: usize,
    /// Values per head.
    pub d_head: usize,
    /// Rows that probes are fitted to.
    pub n_row_train: usize,
    /// Rows that they are judged on: those of every fifth group (`group % 5 == 4`).
    pub n_row_validation: usize,
    /// Threads.
    pub n_threads: usize,
    /// One per round: nanoseconds for all probes, fitted and judged.
    pub samples_ns: Vec<u64>,
    /// At the median.
    pub n_probe_per_second: f64,
    /// The mean validation accuracy of all probes, 0 to 1.
    pub accuracy_mean: f64,
    /// The validation accuracy of every probe, 0 to 1, layer by layer, head by head.
    pub accuracies: Vec<f32>,
}

/// Fits a probe to every head, `n_round` times. `on_probe` is called after each, from any thread.
///
/// # Errors
/// What [`fit_heads`] gives.
pub fn measure_probes(
    source: &impl Activations,
    n_round: usize,
    on_probe: impl Fn() + Sync,
) -> Result<ProbeSpeed> {
    let is_validation = |row: &usize| source.groups()[*row] % N_FOLD == N_FOLD - 1;
    let (validation, train): (Vec<usize>, Vec<usize>) =
        (0..source.labels().len()).partition(is_validation);
    let mut samples = Vec::new();
    let mut scores = Vec::new();
    for _ in 0..n_round.max(1) {
        let start = Instant::now();
        scores = fit_heads(source, &train, &validation, &on_probe)?;
        samples.push(start.elapsed());
    }
    scores.sort_by_key(|score| score.site);
    let accuracies: Vec<f32> = scores.iter().map(|score| score.accuracy).collect();
    let nanos = |time: &Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    Ok(ProbeSpeed {
        n_probe: scores.len(),
        d_head: source.d_head(),
        n_row_train: train.len(),
        n_row_validation: validation.len(),
        n_threads: rayon::current_num_threads(),
        samples_ns: samples.iter().map(nanos).collect(),
        n_probe_per_second: scores.len() as f64 / median(&samples).as_secs_f64(),
        accuracy_mean: accuracies.iter().map(|&a| f64::from(a)).sum::<f64>()
            / accuracies.len().max(1) as f64,
        accuracies,
    })
}

/// Head outputs that never were: uniform noise, each value of a head with a scale of its own (from a
/// tenth to one) and a mean of its own (up to one), and along one direction of the head a shift
/// between true and false rows, from none to about half of the noise, so that probes read 50 to 80 %.
/// Labels alternate; six rows make a group. F32.
#[derive(Debug)]
pub struct Synthetic {
    labels: Vec<bool>,
    groups: Vec<usize>,
    heads: Vec<Array2<f32>>,
    d_head: usize,
}

impl Synthetic {
    /// Draws them.
    #[must_use]
    pub fn new(n_row: usize, d_head: usize, n_head: usize, seed: u64) -> Self {
        let labels: Vec<bool> = (0..n_row).map(|row| row % 2 == 0).collect();
        let head = |i: usize| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(i as u64);
            let shift = 0.5 * i as f32 / n_head as f32 / (d_head as f32).sqrt();
            let mut draw = |low: f32, high: f32| -> Vec<f32> {
                (0..d_head).map(|_| rng.random_range(low..high)).collect()
            };
            let (scales, means, signs) = (draw(0.1, 1.0), draw(-1.0, 1.0), draw(-1.0, 1.0));
            Array2::from_shape_fn((n_row, d_head), |(row, j)| {
                let side = if labels[row] { shift } else { -shift };
                means[j] + scales[j] * (rng.random_range(-1.0f32..1.0) + side * signs[j].signum())
            })
        };
        let heads = (0..n_head).into_par_iter().map(head).collect();
        let groups = (0..n_row).map(|row| row / N_ROW_GROUP).collect();
        Self { labels, groups, heads, d_head }
    }
}

impl Activations for Synthetic {
    fn n_layer(&self) -> usize {
        1
    }

    fn n_head(&self) -> usize {
        self.heads.len()
    }

    fn d_head(&self) -> usize {
        self.d_head
    }

    fn labels(&self) -> &[bool] {
        &self.labels
    }

    fn groups(&self) -> &[usize] {
        &self.groups
    }

    fn head(&self, site: Site, rows: &[usize]) -> Array2<f32> {
        self.heads[site.head].select(Axis(0), rows)
    }

    fn next_groups(&self) -> &[[usize; 2]] {
        &[]
    }

    fn next_head(&self, _: Site, _: &[usize]) -> Array2<f32> {
        Array2::zeros((0, self.d_head))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_of_synthetic_heads_read_from_chance_to_well() {
        let source = Synthetic::new(600, 16, 8, 1);
        let speed = measure_probes(&source, 1, || ()).unwrap();
        assert_eq!((speed.n_probe, speed.n_row_train + speed.n_row_validation), (8, 600));
        assert!((0.3..0.6).contains(&speed.accuracies[0]), "{:?}", speed.accuracies);
        assert!((0.6..1.0).contains(&speed.accuracies[7]), "{:?}", speed.accuracies);
    }
}
