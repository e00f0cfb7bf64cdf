//! Readers that are not linear, by gradient descent (Adam, all rows at once, weights decayed): one hidden
//! layer on the features, which shows what a linear reader misses; and attention pooling, which chooses
//! by a few learned queries which places of a picture to average before it reads them.

use ndarray::{Array1, Array2, ArrayView2, Axis, s};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// Hidden units.
const N_HIDDEN: usize = 32;
/// Steps of descent.
const N_STEP: usize = 200;
const RATE: f32 = 0.01;
/// What a step takes of every weight, as a share of the rate.
const DECAY: f32 = 0.05;
/// Queries of attention pooling.
const N_QUERY: usize = 4;

/// Adam over a flat list of weights (Kingma and Ba, 2015), with decay apart from the gradient.
struct Adam {
    first: Vec<f32>,
    second: Vec<f32>,
    step: i32,
}

impl Adam {
    fn new(n: usize) -> Self {
        Self { first: vec![0.0; n], second: vec![0.0; n], step: 0 }
    }

    fn step(&mut self, weights: &mut [f32], gradient: &[f32]) {
        const KEPT: [f32; 2] = [0.9, 0.999];
        self.step += 1;
        let [of_first, of_second] = KEPT.map(|kept| 1.0 - kept.powi(self.step));
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((weight, &g), (first, second)) in weights.iter_mut().zip(gradient).zip(moments) {
            *first = KEPT[0] * *first + (1.0 - KEPT[0]) * g;
            *second = KEPT[1] * *second + (1.0 - KEPT[1]) * g * g;
            let change = *first / of_first / ((*second / of_second).sqrt() + 1e-8);
            *weight -= RATE * (change + DECAY * *weight);
        }
    }
}

/// Probabilities of logits, in place.
fn softmax(logits: &mut [f32]) {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter_mut().for_each(|x| *x = (*x - most).exp());
    let sum: f32 = logits.iter().sum();
    logits.iter_mut().for_each(|x| *x /= sum);
}

fn likeliest(row: ndarray::ArrayView1<f32>) -> usize {
    let pairs = row.iter().enumerate().rev();
    pairs.max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(answer, _)| answer)
}

fn random(rng: &mut ChaCha8Rng, n: usize, size: f32) -> Vec<f32> {
    (0..n).map(|_| rng.random_range(-size..=size)).collect()
}

/// Reads test rows by one hidden layer of 32 units (tanh). `train` and `test` are standardized, or in
/// coordinates whose squares sum up alike: F32 `[n_row, n]`.
pub(super) fn read_hidden(
    train: ArrayView2<f32>,
    labels: &[usize],
    n_answer: usize,
    test: ArrayView2<f32>,
    seed: u64,
) -> Vec<usize> {
    let n = train.ncols();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // Whatever coordinates: rows of length one.
    let squares: f32 = train.iter().map(|x| x * x).sum::<f32>() / train.nrows().max(1) as f32;
    let scale = if squares > 0.0 { 1.0 / squares.sqrt() } else { 1.0 };
    let with_one = |x: ArrayView2<f32>| {
        let mut rows = Array2::ones((x.nrows(), n + 1));
        rows.slice_mut(s![.., ..n]).assign(&(&x * scale));
        rows
    };
    let (x, y) = (with_one(train), with_one(test));
    let n_first = (n + 1) * N_HIDDEN;
    let mut weights = random(&mut rng, n_first, 1.0);
    weights.extend(random(&mut rng, (N_HIDDEN + 1) * n_answer, 0.1));
    let mut adam = Adam::new(weights.len());
    let forward = |weights: &[f32], x: &Array2<f32>| {
        let shape = ((n + 1, N_HIDDEN), (N_HIDDEN + 1, n_answer));
        let first = ArrayView2::from_shape(shape.0, &weights[..n_first]);
        let second = ArrayView2::from_shape(shape.1, &weights[n_first..]);
        // The shapes are those that the list was made of.
        let (Ok(first), Ok(second)) = (first, second) else { unreachable!() };
        let mut hidden = Array2::ones((x.nrows(), N_HIDDEN + 1));
        hidden.slice_mut(s![.., ..N_HIDDEN]).assign(&x.dot(&first).mapv(f32::tanh));
        let logits = hidden.dot(&second);
        (hidden, logits, second.to_owned())
    };
    for _ in 0..N_STEP {
        let (hidden, mut p, second) = forward(&weights, &x);
        for (mut row, &label) in p.outer_iter_mut().zip(labels) {
            if let Some(row) = row.as_slice_mut() {
                softmax(row);
            }
            row[label] -= 1.0;
        }
        p /= labels.len().max(1) as f32;
        let of_second = hidden.t().dot(&p);
        let mut back = p.dot(&second.t());
        ndarray::Zip::from(&mut back).and(&hidden).for_each(|b, h| *b *= 1.0 - h * h);
        let of_first = x.t().dot(&back.slice(s![.., ..N_HIDDEN]));
        let gradient: Vec<f32> = of_first.iter().chain(of_second.iter()).copied().collect();
        adam.step(&mut weights, &gradient);
    }
    forward(&weights, &y).1.outer_iter().map(likeliest).collect()
}

/// A reader that attends to places.
pub(super) struct Attention {
    /// `[N_QUERY, n]`
    queries: Array2<f32>,
    /// `[n_answer, N_QUERY * n]`
    weight: Array2<f32>,
    bias: Array1<f32>,
}

/// Of one picture: where each query looks, `[n_cell, N_QUERY]`, what it sees, `[N_QUERY, n]`, and the
/// logits.
struct Glance {
    looks: Array2<f32>,
    seen: Array2<f32>,
    logits: Array1<f32>,
}

/// Pictures as cells: F32 `[n_picture * n_cell, n]`, standardized, and the number of cells of each.
#[derive(Clone, Copy)]
pub(super) struct Cells<'a> {
    pub(super) values: &'a Array2<f32>,
    pub(super) n_cell: usize,
}

impl<'a> Cells<'a> {
    fn pictures(self) -> impl Iterator<Item = ArrayView2<'a, f32>> {
        self.values.axis_chunks_iter(Axis(0), self.n_cell.max(1))
    }
}

impl Attention {
    pub(super) fn fit(cells: Cells, labels: &[usize], n_answer: usize, seed: u64) -> Self {
        let n = cells.values.ncols();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let size = 1.0 / (n.max(1) as f32).sqrt();
        let n_queries = N_QUERY * n;
        let mut weights = random(&mut rng, n_queries, size);
        weights.extend(random(&mut rng, n_answer * n_queries, 0.1 * size));
        weights.extend(vec![0.0; n_answer]);
        let mut adam = Adam::new(weights.len());
        for _ in 0..N_STEP {
            let reader = Self::of(&weights, n, n_answer);
            let mut gradient = Self::of(&vec![0.0; weights.len()], n, n_answer);
            for (x, &label) in cells.pictures().zip(labels) {
                reader.add_gradient(x, label, &mut gradient);
            }
            let n_row = labels.len().max(1) as f32;
            let all = gradient.queries.iter().chain(&gradient.weight).chain(&gradient.bias);
            let gradient: Vec<f32> = all.map(|g| g / n_row).collect();
            adam.step(&mut weights, &gradient);
        }
        Self::of(&weights, n, n_answer)
    }

    fn of(weights: &[f32], n: usize, n_answer: usize) -> Self {
        let (queries, rest) = weights.split_at(N_QUERY * n);
        let (weight, bias) = rest.split_at(n_answer * N_QUERY * n);
        let matrix = |shape, values: &[f32]| {
            Array2::from_shape_vec(shape, values.to_vec()).unwrap_or_default()
        };
        Self {
            queries: matrix((N_QUERY, n), queries),
            weight: matrix((n_answer, N_QUERY * n), weight),
            bias: bias.to_vec().into(),
        }
    }

    fn glance(&self, x: ArrayView2<f32>) -> Glance {
        let mut looks = x.dot(&self.queries.t());
        for mut column in looks.columns_mut() {
            let mut own = column.to_vec();
            softmax(&mut own);
            column.iter_mut().zip(own).for_each(|(to, from)| *to = from);
        }
        let seen = looks.t().dot(&x);
        let flat = Array1::from_iter(seen.iter().copied());
        let logits = self.weight.dot(&flat) + &self.bias;
        Glance { looks, seen, logits }
    }

    fn add_gradient(&self, x: ArrayView2<f32>, label: usize, gradient: &mut Self) {
        let Glance { looks, seen, logits } = self.glance(x);
        let mut p = logits.to_vec();
        softmax(&mut p);
        p[label] -= 1.0;
        let n = x.ncols();
        let mut of_seen = Array2::<f32>::zeros((N_QUERY, n));
        for (answer, &error) in p.iter().enumerate() {
            gradient.bias[answer] += error;
            let own = gradient.weight.row_mut(answer).into_slice();
            let pairs = own.into_iter().flatten().zip(&seen);
            pairs.for_each(|(g, seen)| *g += error * seen);
            let weight = self.weight.row(answer);
            of_seen.iter_mut().zip(weight).for_each(|(g, w)| *g += error * w);
        }
        // Of the softmax over places: a (g − Σ a g).
        let mut of_looks = x.dot(&of_seen.t());
        for (mut g, a) in of_looks.columns_mut().into_iter().zip(looks.columns()) {
            let mean = g.dot(&a);
            g.iter_mut().zip(a).for_each(|(g, a)| *g = a * (*g - mean));
        }
        gradient.queries += &of_looks.t().dot(&x);
    }

    /// The answer that is read in each picture.
    pub(super) fn read(&self, cells: Cells) -> Vec<usize> {
        cells.pictures().map(|x| likeliest(self.glance(x).logits.view())).collect()
    }

    /// Where it looks in a picture: the mean over its queries, F32 `[n_cell]`, which sums to 1.
    pub(super) fn looks(&self, x: ArrayView2<f32>) -> Vec<f32> {
        self.glance(x).looks.mean_axis(Axis(1)).map_or_else(Vec::new, |looks| looks.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hidden_layer_reads_what_no_line_parts() {
        // Exclusive or of two signs.
        let sign = |bit: usize| if bit == 1 { 1.0f32 } else { -1.0 };
        let noise = |i: usize| ((i * 7919) % 100) as f32 / 200.0;
        let rows = |n: usize, from: usize| {
            Array2::from_shape_fn((n, 2), |(i, j)| {
                sign(((i + from) >> j) & 1) + noise(i + j + from)
            })
        };
        let labels = |n: usize, from: usize| -> Vec<usize> {
            (from..from + n).map(|i| (i & 1) ^ (i >> 1 & 1)).collect()
        };
        let read = read_hidden(rows(80, 0).view(), &labels(80, 0), 2, rows(40, 80).view(), 1);
        let n = read.iter().zip(labels(40, 80)).filter(|(a, b)| **a == *b).count();
        assert!(n >= 38, "{n} of 40");
    }

    /// Pictures of four cells: a marked one, anywhere, holds the answer's value.
    fn pictures(n: usize) -> (Array2<f32>, Vec<usize>) {
        let labels: Vec<usize> = (0..n).map(|i| i / 4 % 2).collect();
        let values = Array2::from_shape_fn((n * 4, 3), |(row, j)| {
            let (i, cell) = (row / 4, row % 4);
            let is_marked = cell == (i * 5 + i / 3) % 4;
            let noise = ((row * 7919 + j * 31) % 100) as f32 / 100.0 - 0.5;
            match j {
                0 if is_marked => 2.0,
                1 if is_marked => {
                    if labels[i] == 1 {
                        1.5
                    } else {
                        -1.5
                    }
                }
                1 => 6.0 * noise,
                _ => noise,
            }
        });
        (values, labels)
    }

    #[test]
    fn attention_finds_the_cell_that_says_it() {
        let (values, labels) = pictures(160);
        let cells = Cells { values: &values, n_cell: 4 };
        let reader = Attention::fit(cells, &labels, 2, 1);
        let n = reader.read(cells).iter().zip(&labels).filter(|(a, b)| a == b).count();
        assert!(n >= 150, "{n} of 160");
        // Of the second picture.
        let marked = 1;
        let looks = reader.looks(values.slice(s![4..8, ..]));
        assert!((looks.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        assert!(looks[marked] > 0.5, "{looks:?}");
    }

    #[test]
    fn the_gradient_is_that_of_the_loss() {
        let (values, labels) = pictures(3);
        let cells = Cells { values: &values, n_cell: 4 };
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let weights = random(&mut rng, N_QUERY * 3 * 3 + 2, 0.5);
        let loss = |weights: &[f32]| -> f32 {
            let reader = Attention::of(weights, 3, 2);
            let of = |(x, &label): (ArrayView2<f32>, &usize)| {
                let mut p = reader.glance(x).logits.to_vec();
                softmax(&mut p);
                -p[label].ln()
            };
            cells.pictures().zip(&labels).map(of).sum()
        };
        let mut gradient = Attention::of(&vec![0.0; weights.len()], 3, 2);
        let reader = Attention::of(&weights, 3, 2);
        cells.pictures().zip(&labels).for_each(|(x, &l)| reader.add_gradient(x, l, &mut gradient));
        let all: Vec<f32> = gradient
            .queries
            .iter()
            .chain(&gradient.weight)
            .chain(&gradient.bias)
            .copied()
            .collect();
        for i in 0..weights.len() {
            let at = |step: f32| {
                let mut moved = weights.clone();
                moved[i] += step;
                loss(&moved)
            };
            let slope = (at(1e-2) - at(-1e-2)) / 2e-2;
            assert!((slope - all[i]).abs() < 1e-2, "{i}: {slope} {}", all[i]);
        }
    }
}
