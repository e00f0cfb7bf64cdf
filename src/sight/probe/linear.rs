//! Linear readers of several answers: a logistic regression for each answer against the others, on
//! standardized features; the answer of the highest log-odds is what is read.

use linfa_linalg::cholesky::Cholesky as _;
use linfa_linalg::triangular::{SolveTriangular as _, UPLO};
use ndarray::{Array1, Array2, ArrayView2, Axis};

use crate::probe::{Probe, fit_probe};
use crate::{Error, Result};

/// Features as readers are fitted to them: every value with mean 0 and deviation 1 over the rows that are
/// fitted to, and no wider than there are such rows.
///
/// A logistic regression with an L2 penalty gives weights that are sums of the rows, so it can as well be
/// fitted in coordinates of the space that the rows span: `Z` with `Z Zᵀ = X Xᵀ`, here the Cholesky factor
/// of that matrix, to whose diagonal a millionth of its mean is added.
pub(super) struct Rows {
    /// F32 `[n_train, n]`
    pub(super) train: Array2<f32>,
    /// F32 `[n_test, n]`
    pub(super) test: Array2<f32>,
}

/// What is added to the diagonal, as a share of its mean.
const RIDGE: f64 = 1e-6;

impl Rows {
    /// Of features F32 `[n_row, n]` those of the given rows.
    pub(super) fn of(features: &Array2<f32>, train: &[usize], test: &[usize]) -> Result<Self> {
        let (mut train, mut test) =
            (features.select(Axis(0), train), features.select(Axis(0), test));
        standardize(&mut train, &mut test);
        if train.ncols() <= train.nrows() {
            return Ok(Self { train, test });
        }
        let x = train.mapv(f64::from);
        let mut gram = x.dot(&x.t());
        let ridge = RIDGE * gram.diag().sum() / gram.nrows().max(1) as f64;
        // Features that do not vary at all.
        gram.diag_mut().mapv_inplace(|d| d + ridge.max(f64::MIN_POSITIVE.sqrt()));
        let fail = |_| Error::invalid("features", "their products are not numbers");
        let l = gram.cholesky().map_err(fail)?;
        // What the test rows are in these coordinates: L zᵀ = X xᵀ.
        let across = x.dot(&test.mapv(f64::from).t());
        let z = l.solve_triangular(&across, UPLO::Lower).map_err(fail)?;
        Ok(Self { train: l.mapv(|v| v as f32), test: z.t().mapv(|v| v as f32) })
    }
}

/// Gives every column mean 0 and deviation 1 over `train`.
fn standardize(train: &mut Array2<f32>, test: &mut Array2<f32>) {
    let scales = Scales::of(train);
    scales.apply(train);
    scales.apply(test);
}

/// Mean and deviation of every column.
pub(super) struct Scales(Vec<(f64, f64)>);

impl Scales {
    pub(super) fn of(rows: &Array2<f32>) -> Self {
        let n = rows.nrows().max(1) as f64;
        let scale = |values: ndarray::ArrayView1<f32>| {
            let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
            let variance = values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
            (mean, if variance > 0.0 { variance.sqrt() } else { 1.0 })
        };
        Self(rows.columns().into_iter().map(scale).collect())
    }

    pub(super) fn apply(&self, rows: &mut Array2<f32>) {
        for mut row in rows.outer_iter_mut() {
            let pairs = row.iter_mut().zip(&self.0);
            pairs.for_each(|(v, (mean, scale))| *v = ((f64::from(*v) - mean) / scale) as f32);
        }
    }
}

/// A probe for each answer; none where all rows have it, or none has.
pub(super) struct Reader(Vec<Option<Probe>>);

impl Reader {
    /// Fits to rows `[n_row, n]` with one of `n_answer` labels each.
    pub(super) fn fit(x: ArrayView2<f32>, labels: &[usize], n_answer: usize) -> Result<Self> {
        let probe = |answer: usize| {
            let is: Vec<bool> = labels.iter().map(|&label| label == answer).collect();
            let is_told_apart = is.contains(&true) && is.contains(&false);
            is_told_apart.then(|| fit_probe(x, &is)).transpose()
        };
        // Of two answers one probe says both.
        let of_two = n_answer == 2;
        (0..n_answer)
            .map(|answer| if of_two && answer == 0 { Ok(None) } else { probe(answer) })
            .collect::<Result<_>>()
            .map(Self)
    }

    /// The answer that is read in each row.
    pub(super) fn read(&self, x: ArrayView2<f32>) -> Vec<usize> {
        let row = |x: ndarray::ArrayView1<f32>| {
            let row = x.to_vec();
            let odds: Array1<f32> = match self.0.as_slice() {
                [None, Some(probe)] => vec![0.0, probe.logit(&row)].into(),
                probes => probes
                    .iter()
                    .map(|probe| probe.as_ref().map_or(f32::NEG_INFINITY, |p| p.logit(&row)))
                    .collect(),
            };
            // The first of equals.
            let best = odds.iter().enumerate().rev().max_by(|a, b| a.1.total_cmp(b.1));
            best.map_or(0, |(answer, _)| answer)
        };
        x.outer_iter().map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three answers along two values, and further values without meaning.
    fn rows(n: usize, n_value: usize) -> (Array2<f32>, Vec<usize>) {
        let labels: Vec<usize> = (0..n).map(|i| i % 3).collect();
        let value = |i: usize, j: usize| {
            let noise = ((i * 7919 + j * 104_729 + i * i * j) % 101) as f32 / 101.0 - 0.5;
            match (labels[i], j) {
                (0, 0) | (1, 1) => 3.0 + noise,
                (2, 0 | 1) => -3.0 + noise,
                _ => noise,
            }
        };
        (Array2::from_shape_fn((n, n_value), |(i, j)| value(i, j)), labels)
    }

    fn share(features: &Array2<f32>, labels: &[usize], n_answer: usize) -> f64 {
        let (train, test): (Vec<usize>, Vec<usize>) = (0..labels.len()).partition(|i| i % 2 == 0);
        let rows = Rows::of(features, &train, &test).unwrap();
        let own: Vec<usize> = train.iter().map(|&i| labels[i]).collect();
        let reader = Reader::fit(rows.train.view(), &own, n_answer).unwrap();
        let read = reader.read(rows.test.view());
        let n = read.iter().zip(&test).filter(|(r, i)| **r == labels[**i]).count();
        n as f64 / test.len() as f64
    }

    #[test]
    fn reads_what_a_line_parts_and_not_what_is_not_there() {
        let (features, labels) = rows(60, 4);
        assert!(share(&features, &labels, 3) > 0.95);
        assert!(share(&features.select(Axis(1), &[2, 3]), &labels, 3) < 0.67);
        let two: Vec<usize> = labels.iter().map(|&label| label.min(1)).collect();
        assert!(share(&features, &two, 2) > 0.95);
    }

    #[test]
    fn more_values_than_rows_give_the_same_reading() {
        let (features, labels) = rows(60, 80);
        let (train, test): (Vec<usize>, Vec<usize>) = (0..60).partition(|i| i % 2 == 0);
        let own: Vec<usize> = train.iter().map(|&i| labels[i]).collect();
        let reduced = Rows::of(&features, &train, &test).unwrap();
        assert_eq!((reduced.train.dim(), reduced.test.dim()), ((30, 30), (30, 30)));
        let (mut x, mut y) = (features.select(Axis(0), &train), features.select(Axis(0), &test));
        standardize(&mut x, &mut y);
        let logits = |x: &Array2<f32>, y: &Array2<f32>| {
            let Reader(probes) = Reader::fit(x.view(), &own, 3).unwrap();
            let of =
                |row: ndarray::ArrayView1<f32>| probes[0].as_ref().unwrap().logit(&row.to_vec());
            y.outer_iter().map(of).collect::<Vec<f32>>()
        };
        for (a, b) in logits(&x, &y).iter().zip(logits(&reduced.train, &reduced.test)) {
            assert!((a - b).abs() < 2e-2, "{a} {b}");
        }
    }

    #[test]
    fn features_that_do_not_vary_read_nothing() {
        let labels: Vec<usize> = (0..40).map(|i| i % 3).collect();
        for n_value in [2, 50] {
            let features = Array2::from_elem((40, n_value), 4.0);
            assert!(share(&features, &labels, 3) < 0.5);
        }
    }
}
