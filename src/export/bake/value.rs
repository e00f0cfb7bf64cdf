//! A bias on V.

use linfa_linalg::cholesky::Cholesky as _;
use linfa_linalg::triangular::{SolveTriangular as _, UPLO};
use ndarray::linalg::general_mat_mul;
use ndarray::{Array1, Array2, Axis};

use super::weights::{add_present, for_each_row};
use super::{LayerBias, finite, wo};
use crate::geometry::n_head_kv;
use crate::gguf::Gguf;
use crate::{Error, Geometry, Result};

/// The largest number that an F16 cache holds.
const F16_MAX: f32 = 65504.0;
/// What an F16 cache rounds away of a value, as a part of it: half of the last bit is 2⁻¹¹, and this
/// the root of the mean square over all values. See [`Nearest::solve`].
const F16_ROUNDING: f64 = 1.0 / 4096.0;
/// Rows of `wo` that are taken into the sums at once.
const N_ROW: usize = 256;

/// The heads of a layer that share a key/value head.
struct Groups {
    n_kv: usize,
    /// Heads of a group.
    n: usize,
    d_head: usize,
}

/// The bias on V of one layer that does what `offset`, `[n_head * d_head]`, does to its heads'
/// outputs, and the bias that the file has there.
pub(super) fn bias(
    file: &Gguf,
    geometry: Geometry,
    layer: usize,
    offset: &[f32],
    approximate: bool,
) -> Result<LayerBias> {
    let Geometry { n_head, d_head, .. } = geometry;
    let n_kv = n_head_kv(file, layer)?;
    if n_kv == 0 || !n_head.is_multiple_of(n_kv) {
        let problem = format!("{n_head} heads do not share its {n_kv} key/value heads evenly");
        return Err(Error::invalid(format!("layer {layer}"), problem));
    }
    let groups = Groups { n_kv, n: n_head / n_kv, d_head };
    let (values, error) = match groups.shared(offset) {
        Some(values) => (values, 0.0),
        None if approximate => nearest(file, layer, &groups, offset)?,
        None => {
            let problem = format!(
                "in layer {layer} it moves the {} heads of a key/value head differently, and the \
                 only bias that llama.cpp adds in this architecture, that on V, moves them alike: \
                 --approximate bakes the nearest that it can do and says how far that is; `candor \
                 run` and `candor chat` steer it exactly",
                groups.n
            );
            return Err(Error::invalid("steering vector", problem));
        }
    };
    let biases = place(file, layer, &values)?;
    let biases = biases
        .into_iter()
        .map(|(name, sums)| Ok((name, finite(layer, &sums, F16_MAX)?)))
        .collect::<Result<_>>()?;
    Ok(LayerBias { biases, error })
}

impl Groups {
    /// Values of V: `n_head_kv * d_head`.
    fn width(&self) -> usize {
        self.n_kv * self.d_head
    }

    /// What all heads of each group have in common, `[n_head_kv * d_head]`; `None` where two differ.
    fn shared(&self, offset: &[f32]) -> Option<Vec<f64>> {
        let mut shared = Vec::with_capacity(self.width());
        for group in offset.chunks_exact(self.n * self.d_head) {
            let (first, others) = group.split_at(self.d_head);
            if others.chunks_exact(self.d_head).any(|other| other != first) {
                return None;
            }
            shared.extend(first.iter().map(|&value| f64::from(value)));
        }
        Some(shared)
    }

    /// A row of `wo` summed over the heads of each group: what the layer's output takes from V.
    fn fold(&self, row: &[f32], out: &mut [f64]) {
        out.fill(0.0);
        let groups = row.chunks_exact(self.n * self.d_head);
        for (group, out) in groups.zip(out.chunks_exact_mut(self.d_head)) {
            for head in group.chunks_exact(self.d_head) {
                out.iter_mut().zip(head).for_each(|(sum, &w)| *sum += f64::from(w));
            }
        }
    }
}

/// The bias on V that is nearest to `offset` after the output projection, and how far it is.
fn nearest(file: &Gguf, layer: usize, groups: &Groups, offset: &[f32]) -> Result<(Vec<f64>, f64)> {
    let width = groups.width();
    let mut sums = Nearest::new(width);
    let mut rows = Array2::<f64>::zeros((N_ROW, width));
    let mut wanted = Array1::<f64>::zeros(N_ROW);
    let mut n = 0;
    for_each_row(file, wo(file, layer)?, |row| {
        let products = row.iter().zip(offset).map(|(&w, &a)| f64::from(w) * f64::from(a));
        wanted[n] = products.sum();
        if let Some(out) = rows.row_mut(n).as_slice_mut() {
            groups.fold(row, out);
        }
        n += 1;
        if n == N_ROW {
            sums.add(&rows, &wanted);
            n = 0;
        }
    })?;
    // Rows of an earlier block are in there still.
    rows.slice_mut(ndarray::s![n.., ..]).fill(0.0);
    wanted.slice_mut(ndarray::s![n..]).fill(0.0);
    sums.add(&rows, &wanted);
    sums.solve().ok_or_else(|| {
        let problem = format!("the output projection of layer {layer} lets nothing of V through");
        Error::invalid("steering vector", problem)
    })
}

/// The normal equations of a least-squares problem `rows · v ≈ wanted`.
struct Nearest {
    /// rowsᵀ · rows
    square: Array2<f64>,
    /// rowsᵀ · wanted
    right: Array1<f64>,
    /// wanted · wanted
    norm: f64,
}

impl Nearest {
    fn new(width: usize) -> Self {
        Self { square: Array2::zeros((width, width)), right: Array1::zeros(width), norm: 0.0 }
    }

    fn add(&mut self, rows: &Array2<f64>, wanted: &Array1<f64>) {
        general_mat_mul(1.0, &rows.t(), rows, 1.0, &mut self.square);
        self.right += &rows.t().dot(wanted);
        self.norm += wanted.dot(wanted);
    }

    /// v, and ‖rows · v − wanted‖ ⁄ ‖wanted‖.
    ///
    /// A value x of V loses about x / 4096 in an F16 cache, a large bias as well as what it is
    /// added to. So what is minimized is the expected square *with* that loss:
    /// ‖rows · v − wanted‖² + Σ ‖column i‖² (v_i / 4096)². Without it, columns that nearly say the
    /// same would be given large biases that nearly cancel out.
    fn solve(&self) -> Option<(Vec<f64>, f64)> {
        let mut damped = self.square.clone();
        // Columns of zeros would have no pivot.
        let floor = 1e-12 * self.square.diag().sum() / self.right.len() as f64;
        damped.diag_mut().mapv_inplace(|x| x + x * F16_ROUNDING.powi(2) + floor);
        let l = damped.cholesky().ok()?;
        let right = self.right.view().insert_axis(Axis(1)).to_owned();
        let half = l.solve_triangular(&right, UPLO::Lower).ok()?;
        let v = l.t().to_owned().solve_triangular(&half, UPLO::Upper).ok()?.remove_axis(Axis(1));
        let rest = self.norm - 2.0 * v.dot(&self.right) + v.dot(&self.square.dot(&v));
        let error = (rest.max(0.0) / self.norm).sqrt();
        (error.is_finite() && v.iter().all(|x| x.is_finite())).then(|| (v.to_vec(), error))
    }
}

/// The biases that hold `values` on V, `[n_head_kv * d_head]`, by name, with what the file has there.
fn place(file: &Gguf, layer: usize, values: &[f64]) -> Result<Vec<(String, Vec<f64>)>> {
    let name = |part: &str, kind: &str| format!("blk.{layer}.attn_{part}.{kind}");
    let rows = |name: &str| file.tensor(name).and_then(|tensor| tensor.dims.get(1)).copied();
    let of_v = || {
        let (bias, mut sums) = (name("v", "bias"), values.to_vec());
        add_present(file, &bias, &mut sums)?;
        Ok(vec![(bias, sums)])
    };
    let weight = name("qkv", "weight");
    let Some(n_fused) = rows(&weight) else {
        let weight = name("v", "weight");
        let n = rows(&weight).ok_or_else(|| {
            file.fault(format!("layer {layer}"), "has neither attn_v nor attn_qkv")
        })?;
        if n != values.len() as u64 {
            let problem = format!("has {n} rows, expected {}", values.len());
            return Err(file.fault(format!("tensor {weight}"), problem));
        }
        return of_v();
    };
    // Biases of their own beside a matrix of all three: llama.cpp adds them where all are there.
    if ["q", "k", "v"].iter().any(|part| file.tensor(&name(part, "bias")).is_some()) {
        if ["q", "k", "v"].iter().any(|part| file.tensor(&name(part, "bias")).is_none()) {
            let problem = "has a bias for some of Q, K and V, which llama.cpp ignores";
            return Err(file.fault(format!("layer {layer}"), problem));
        }
        return of_v();
    }
    // Of the matrix's rows, Q's come first, then K's, then V's.
    let start = usize::try_from(n_fused).ok().and_then(|n| n.checked_sub(values.len()));
    let start = start.ok_or_else(|| {
        let problem = format!("has {n_fused} rows, fewer than the {} of V", values.len());
        file.fault(format!("tensor {weight}"), problem)
    })?;
    let mut sums = vec![0.0; start];
    sums.extend(values);
    let bias = name("qkv", "bias");
    add_present(file, &bias, &mut sums)?;
    Ok(vec![(bias, sums)])
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUPS: Groups = Groups { n_kv: 2, n: 2, d_head: 2 };

    #[test]
    fn heads_of_a_group_that_move_alike_share_their_offset() {
        let alike = [1.0, 2.0, 1.0, 2.0, 0.0, 0.0, 0.0, 0.0];
        assert_eq!(GROUPS.shared(&alike).unwrap(), [1.0, 2.0, 0.0, 0.0]);
        let mut apart = alike;
        apart[6] = 1.0;
        assert_eq!(GROUPS.shared(&apart), None);
    }

    #[test]
    fn a_folded_row_times_a_shared_offset_is_the_row_times_the_offset() {
        let row = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        let mut folded = [9.0; 4];
        GROUPS.fold(&row, &mut folded);
        assert_eq!(folded, [4.0, 6.0, 12.0, 14.0]);
    }

    fn problem(rows: &[[f64; 2]], wanted: &[f64]) -> Nearest {
        let mut nearest = Nearest::new(2);
        for (row, &wanted) in rows.iter().zip(wanted) {
            nearest.add(&Array2::from(vec![*row]), &Array1::from(vec![wanted]));
        }
        nearest
    }

    #[test]
    fn finds_what_there_is_to_find() {
        let (v, error) = problem(&[[1.0, 0.0], [1.0, 2.0]], &[3.0, 11.0]).solve().unwrap();
        assert!((v[0] - 3.0).abs() < 1e-5 && (v[1] - 4.0).abs() < 1e-5, "{v:?}");
        assert!(error < 1e-6, "{error}");
    }

    #[test]
    fn says_how_far_the_nearest_is() {
        // Of (3, 4), the first column reaches 3: the rest is 4 of 5.
        let (v, error) = problem(&[[1.0, 0.0], [0.0, 0.0]], &[3.0, 4.0]).solve().unwrap();
        assert!((v[0] - 3.0).abs() < 1e-5 && v[1] == 0.0, "{v:?}");
        assert!((error - 0.8).abs() < 1e-6, "{error}");
    }

    #[test]
    fn columns_that_nearly_agree_get_no_large_biases() {
        let rows = [[1.0, 1.0], [0.0, 1e-6]];
        let (v, error) = problem(&rows, &[1.0, 1e-3]).solve().unwrap();
        assert!(v.iter().all(|x| x.abs() < 2.0), "{v:?}");
        assert!(error < 2e-3, "{error}");
    }

    #[test]
    fn nothing_can_be_found_where_nothing_comes_through() {
        assert!(problem(&[[0.0, 0.0]], &[0.0]).solve().is_none());
    }
}
