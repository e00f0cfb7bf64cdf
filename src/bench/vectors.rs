//! Vectors to steer with while measuring.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::probe::Probe;
use crate::steer::{SteeredHead, SteeringVector};
use crate::{Model, Result, Site};

/// The strength at which [`worst_case`] steers: what is added to a head has half the length of one
/// unit value, so that every number in the graph stays one that the model could meet by itself.
pub(super) const ALPHA: f32 = 0.5;

/// A vector that steers every head of every attention layer, in random directions with sigma 1.
pub(super) fn worst_case(model: &Model, seed: u64) -> Result<SteeringVector> {
    let geometry = model.geometry();
    let sites = model
        .attention_layers()
        .flat_map(|layer| (0..geometry.n_head).map(move |head| (Site::new(layer, head), 1.0)));
    random(model, sites.collect(), seed)
}

/// Vectors of one head each, `n` of them spread over the model, in random directions with sigma 1.
pub(super) fn single_heads(model: &Model, n: usize, seed: u64) -> Result<Vec<SteeringVector>> {
    let n_head = model.geometry().n_head;
    let sites: Vec<Site> = model
        .attention_layers()
        .flat_map(|layer| (0..n_head).map(move |head| Site::new(layer, head)))
        .collect();
    let n = n.min(sites.len());
    (0..n)
        .map(|i| random(model, vec![(sites[i * sites.len() / n], 1.0)], seed + i as u64))
        .collect()
}

/// Random directions in the heads and layers of another vector, with its sigmas and lengths.
pub(super) fn another(model: &Model, like: &SteeringVector, seed: u64) -> Result<SteeringVector> {
    let sites: Vec<_> = like.heads().iter().map(|head| (head.site, head.sigma)).collect();
    match like.layers().map(|layers| layers.random_like(seed)) {
        None => random(model, sites, seed),
        Some(layers) if sites.is_empty() => {
            SteeringVector::of_layers(like.n_head(), like.d_head(), layers)
        }
        Some(layers) => random(model, sites, seed)?.with_layers(layers),
    }
}

fn random(model: &Model, sites: Vec<(Site, f32)>, seed: u64) -> Result<SteeringVector> {
    let geometry = model.geometry();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let heads = sites.into_iter().map(|(site, sigma)| SteeredHead {
        site,
        direction: direction(geometry.d_head, &mut rng),
        sigma,
        accuracy: 0.5,
        probe: Probe { weight: vec![0.0; geometry.d_head], bias: 0.0 },
    });
    SteeringVector::new(geometry.n_layer, geometry.n_head, geometry.d_head, heads.collect())
}

/// F32 `[d_head]`, of length one.
fn direction(d_head: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
    // Away from zero, so that there is a length.
    let values: Vec<f32> = (0..d_head)
        .map(|_| rng.random_range(0.1f32..1.0) * if rng.random() { 1.0 } else { -1.0 })
        .collect();
    let length = values.iter().map(|value| value * value).sum::<f32>().sqrt();
    values.iter().map(|value| value / length).collect()
}
