//! Steering vectors to test with, and ways to compare logits.

use candor::Geometry;
use candor::Site;
use candor::probe::Probe;
use candor::steer::{LayerVector, SteeredHead, SteeringVector};
use ndarray::{Array2, Array3};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Largest difference of logits, as a part of the largest logit, that F32 arithmetic explains.
pub const TOLERANCE: f64 = 5e-5;
/// The same where a cache or flash attention rounds to F16. Other tokens in a batch or before it in
/// the cache move a sum's last bit, and then a rounding: stock llama.cpp's own logits move by up to
/// 3e-4 with them, and mostly not at all.
pub const F16_TOLERANCE: f64 = 1e-3;

/// A vector of random directions in the given heads, strong enough to change what a fixture says.
pub fn vector(geometry: Geometry, sites: &[(usize, usize)], seed: u64) -> SteeringVector {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let Geometry { n_layer, n_head, d_head, .. } = geometry;
    let head = |&(layer, head): &(usize, usize)| {
        let values: Vec<f32> = (0..d_head).map(|_| rng.random_range(-1.0..1.0)).collect();
        let length = values.iter().map(|value| value * value).sum::<f32>().sqrt();
        SteeredHead {
            site: Site::new(layer, head),
            direction: values.iter().map(|value| value / length).collect(),
            sigma: rng.random_range(0.2..0.4),
            accuracy: 0.75,
            probe: Probe { weight: vec![0.0; d_head], bias: 0.0 },
        }
    };
    let heads = sites.iter().map(head).collect();
    SteeringVector::new(n_layer, n_head, d_head, heads).expect("a sound vector")
}

/// A vector of random directions for the outputs of the given layers.
pub fn layer_vector(geometry: Geometry, layers: &[usize], seed: u64) -> SteeringVector {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let Geometry { n_layer, n_head, d_head, n_embd, .. } = geometry;
    let mut direction =
        |&layer: &usize| (layer, (0..n_embd).map(|_| rng.random_range(-0.5..0.5)).collect());
    let directions = layers.iter().map(&mut direction).collect();
    let layers = LayerVector::new(n_layer, n_embd, directions).expect("sound directions");
    SteeringVector::of_layers(n_head, d_head, layers).expect("a sound vector")
}

/// What the vector adds to `heads` `[n_token, n_head, d_head]` of layer `il`, at the tokens that
/// `steered` chooses: for the oracle.
pub fn add(
    vector: &SteeringVector,
    alpha: f32,
    il: usize,
    heads: &mut Array3<f64>,
    steered: impl Fn(usize) -> bool,
) {
    for head in vector.heads().iter().filter(|head| head.site.layer == il) {
        for ((token, at, i), value) in heads.indexed_iter_mut() {
            if at == head.site.head && steered(token) {
                *value += f64::from(alpha * head.sigma * head.direction[i]);
            }
        }
    }
}

/// Logits as bits: equal only where every one is the same number.
pub fn bits(logits: &[Vec<Vec<f32>>]) -> Vec<u32> {
    logits.iter().flatten().flatten().map(|logit| logit.to_bits()).collect()
}

/// The largest difference, as a part of the largest expected value.
pub fn distance<'a>(
    expected: impl IntoIterator<Item = f64>,
    got: impl IntoIterator<Item = &'a f32>,
) -> f64 {
    let (mut expected, mut got) = (expected.into_iter(), got.into_iter());
    let (mut largest, mut difference) = (0f64, 0f64);
    loop {
        match (expected.next(), got.next()) {
            (Some(expected), Some(&got)) => {
                largest = largest.max(expected.abs());
                // Not `max`, which drops a NaN.
                let here = (expected - f64::from(got)).abs();
                difference = if here <= difference { difference } else { here };
            }
            (None, None) => return difference / largest,
            _ => panic!("one side has more values than the other"),
        }
    }
}

/// [`distance`] of logits of one script.
pub fn distance_of(expected: &[Vec<Vec<f32>>], got: &[Vec<Vec<f32>>]) -> f64 {
    let expected = expected.iter().flatten().flatten().map(|&logit| f64::from(logit));
    distance(expected, got.iter().flatten().flatten())
}

/// [`distance`] of the oracle's logits `[n_token, n_vocab]` and rows of logits.
pub fn distance_from(expected: &Array2<f64>, got: &[Vec<f32>]) -> f64 {
    distance(expected.iter().copied(), got.iter().flatten())
}
