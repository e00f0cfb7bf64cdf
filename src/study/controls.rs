//! What a vector has to beat: random directions that push as hard.

use super::Protocol;
use crate::Result;
use crate::probe::Activations;
use crate::steer::{Development, LayerVector, SteeringVector};

/// The control of a vector with directions of layers: random ones of the same lengths, and random
/// heads where it has heads.
pub(super) fn random_layers(
    development: &Development,
    source: &impl Activations,
    (vector, layers): (&SteeringVector, &LayerVector),
    protocol: &Protocol,
) -> Result<Vec<SteeringVector>> {
    let heads = match vector.heads().len() {
        0 => None,
        _ => Some(random_like(development, source, vector, protocol)?),
    };
    (0..protocol.n_random)
        .map(|draw| {
            let layers = layers.random_like(draw_seed(protocol, 0, draw));
            match heads.as_ref().and_then(|heads| heads.get(draw)) {
                Some(heads) => heads.clone().with_layers(layers),
                None => SteeringVector::of_layers(vector.n_head(), vector.d_head(), layers),
            }
        })
        .collect()
}

/// The control of a vector that is made of a development: random directions in `k` random heads.
pub(super) fn random_vectors(
    development: &Development,
    source: &impl Activations,
    k: usize,
    (protocol, fold): (&Protocol, usize),
) -> Result<Vec<SteeringVector>> {
    (0..protocol.n_random)
        .map(|draw| development.random(source, k, draw_seed(protocol, fold, draw)))
        .collect()
}

/// The control of a vector that is there already: random directions in as many random heads, each
/// moved as far, in standard deviations of its own output along them, as the vector moves one of its
/// heads. What a vector's sigmas hold besides, such as the factors of a sum, so counts for both.
pub(super) fn random_like(
    development: &Development,
    source: &impl Activations,
    vector: &SteeringVector,
    protocol: &Protocol,
) -> Result<Vec<SteeringVector>> {
    let pushes = development.pushes(source, vector)?;
    let drawn = random_vectors(development, source, pushes.len(), (protocol, 0))?;
    drawn.iter().map(|random| random.pushed(&pushes)).collect()
}

/// The seed of a draw: no two folds have one in common.
fn draw_seed(protocol: &Protocol, fold: usize, draw: usize) -> u64 {
    let place = 1 + draw as u64 + ((fold as u64) << 32);
    protocol.seed.wrapping_add(place)
}
