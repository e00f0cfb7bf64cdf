//! Where the search for a probe starts: close to where it ends.
//!
//! L-BFGS knows nothing of the curvature when it starts and spends most of its evaluations on
//! learning it, each a pass over all rows. Newton's method knows it, for one matrix product, and
//! needs a handful of steps. They are made in F32, which is as near as F32 comes to the minimum;
//! what is left, and the proof that it is the minimum, is L-BFGS's in F64.

use linfa_linalg::cholesky::Cholesky as _;
use linfa_linalg::triangular::{SolveTriangular as _, UPLO};
use ndarray::{Array1, Array2, ArrayView1, Axis, Zip, s};

/// Steps at most. Each but the first two or three costs two passes over the rows.
const N_STEP: usize = 12;

/// A step that leaves more than this share of the gradient was made with a curvature out of date.
const POOR: f32 = 0.2;

/// The objective of one probe: the sum over rows of `ln(1 + exp(-logit))` for positive ones, of
/// `ln(1 + exp(logit))` for the others, plus `penalty * w·w / 2`.
struct Objective {
    /// F32 `[n_row, d_head]`, column-major.
    z: Array2<f32>,
    /// `[n_row]`: 1 for positive rows, else 0.
    y: Array1<f32>,
    penalty: f32,
}

/// A point of the search, `[d_head + 1]`, the intercept last.
struct Point {
    at: Array1<f32>,
    /// The probability of "positive", `[n_row]`.
    p: Array1<f32>,
    gradient: Array1<f32>,
    /// Length of the gradient.
    slope: f32,
}

impl Objective {
    fn point(&self, at: Array1<f32>) -> Point {
        let d = self.z.ncols();
        // Column by column: rows are strided.
        let mut p = Array1::from_elem(self.z.nrows(), at[d]);
        for (column, &w) in self.z.columns().into_iter().zip(&at) {
            p.scaled_add(w, &column);
        }
        p.mapv_inplace(|logit| 1.0 / (1.0 + (-logit).exp()));
        let residual = &p - &self.y;
        let mut gradient = &at * self.penalty;
        gradient.slice_mut(s![..d]).scaled_add(1.0, &self.z.t().dot(&residual));
        gradient[d] = residual.sum();
        let slope = gradient.dot(&gradient).sqrt();
        Point { at, p, gradient, slope }
    }

    /// The lower Cholesky factor of the second derivatives, F64 `[d_head + 1, d_head + 1]`; `None`
    /// where F32 was too coarse for one.
    fn curvature(&self, p: &Array1<f32>) -> Option<Array2<f64>> {
        let d = self.z.ncols();
        let weight = p.mapv(|p| p * (1.0 - p));
        let mut weighted = self.z.clone();
        for mut column in weighted.columns_mut() {
            Zip::from(&mut column).and(&weight).for_each(|z, w| *z *= w);
        }
        let product = weighted.t().dot(&self.z);
        let across = weighted.sum_axis(Axis(0));
        let mut curvature = Array2::zeros((d + 1, d + 1));
        curvature.slice_mut(s![..d, ..d]).assign(&product.mapv(f64::from));
        curvature.slice_mut(s![d, ..d]).assign(&across.mapv(f64::from));
        curvature.slice_mut(s![..d, d]).assign(&across.mapv(f64::from));
        curvature.diag_mut().slice_mut(s![..d]).mapv_inplace(|c| c + f64::from(self.penalty));
        curvature[[d, d]] = f64::from(weight.sum());
        curvature.cholesky().ok()
    }
}

/// The point to start from, F64 `[d_head + 1]`, the intercept last: where Newton's method got to
/// from no weights and an intercept of `log_odds`, as long as every step made the gradient smaller.
///
/// `z`: F64 `[n_row, d_head]`, column-major; `positive`: `[n_row]`; `enough`: a length of the
/// gradient that ends the search.
pub(super) fn start(
    z: &Array2<f64>,
    positive: impl Iterator<Item = bool>,
    log_odds: f64,
    penalty: f64,
    enough: f64,
) -> Array1<f64> {
    let y = positive.map(|positive| f32::from(u8::from(positive))).collect();
    let objective = Objective { z: z.mapv(|z| z as f32), y, penalty: penalty as f32 };
    let mut origin = Array1::zeros(z.ncols() + 1);
    origin[z.ncols()] = log_odds as f32;
    let mut point = objective.point(origin);
    let mut factor = None;
    for _ in 0..N_STEP {
        if f64::from(point.slope) <= enough {
            break;
        }
        if factor.is_none() {
            factor = objective.curvature(&point.p);
        }
        let Some(step) = factor.as_ref().and_then(|l| solve(l, point.gradient.view())) else {
            break;
        };
        let next = objective.point(&point.at - &step);
        let left = next.slope / point.slope;
        if left.is_nan() || left >= 1.0 {
            break;
        }
        if left > POOR {
            factor = None;
        }
        point = next;
    }
    point.at.mapv(f64::from)
}

/// The solution of `L Lᵀ x = b`.
fn solve(l: &Array2<f64>, b: ArrayView1<f32>) -> Option<Array1<f32>> {
    let b = b.mapv(f64::from).insert_axis(Axis(1));
    let half = l.solve_triangular(&b, UPLO::Lower).ok()?;
    let whole = l.t().to_owned().solve_triangular(&half, UPLO::Upper).ok()?;
    Some(whole.remove_axis(Axis(1)).mapv(|x| x as f32))
}

#[cfg(test)]
mod tests {
    use ndarray::ShapeBuilder as _;
    use rand::{RngExt as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Rows `[n_row, 8]` of two kinds that lie `apart`, one value in a hundred of another size.
    fn rows(n_row: usize, apart: f64) -> (Array2<f64>, Vec<bool>) {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let labels: Vec<bool> = (0..n_row).map(|row| row % 3 == 0).collect();
        let z = Array2::from_shape_fn((n_row, 8).f(), |(row, j)| {
            let side = if labels[row] { apart } else { -apart };
            (rng.random_range(-1.0..1.0) + side) * if j == 0 { 0.01 } else { 1.0 }
        });
        (z, labels)
    }

    fn slope(z: &Array2<f64>, labels: &[bool], at: &Array1<f64>) -> f32 {
        let y = labels.iter().map(|&label| f32::from(u8::from(label))).collect();
        let objective = Objective { z: z.mapv(|z| z as f32), y, penalty: 1.0 };
        objective.point(at.mapv(|at| at as f32)).slope
    }

    #[test]
    fn ends_where_the_gradient_is_as_small_as_asked() {
        for apart in [0.0, 0.1, 0.5] {
            let (z, labels) = rows(600, apart);
            let start = start(&z, labels.iter().copied(), -0.7, 1.0, 0.01);
            assert!(slope(&z, &labels, &start) <= 0.011, "{apart}: {start}");
        }
    }

    #[test]
    fn never_ends_above_where_it_began() {
        // Rows that a plane separates, far apart: whole steps would leave the range of F32.
        let (z, labels) = rows(30, 50.0);
        let mut origin = Array1::zeros(9);
        origin[8] = -0.7;
        let start = start(&z, labels.iter().copied(), -0.7, 1.0, 1e-6);
        assert!(slope(&z, &labels, &start) <= slope(&z, &labels, &origin));
        assert!(start.iter().all(|x| x.is_finite()));
    }
}
