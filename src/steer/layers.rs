//! What is added to the outputs of layers.

use std::collections::BTreeMap;
use std::ops::Mul;

use super::direction::{length, random, unit};
use super::vector::MAX_GEOMETRY;
use crate::{Error, Result, Site};

/// Directions for the outputs of some layers: what llama.cpp calls a control vector.
///
/// Steering adds α times a layer's direction to its output `l_out-<il>`, the residual stream after
/// the layer, where llama.cpp applies control vectors; layer 0 takes none. A direction has the
/// length that its maker gave it, so that α = 1 is as strong as that.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerVector {
    n_layer: usize,
    n_embd: usize,
    directions: BTreeMap<usize, Vec<f32>>,
}

impl LayerVector {
    /// Directions by layer, F32 `[n_embd]` each, for models of `n_layer` layers.
    ///
    /// # Errors
    /// [`Error::Invalid`], naming the layer, where there are no directions, one is for layer 0 or a
    /// layer that does not exist, has not `n_embd` values, or holds a number that is not finite.
    pub fn new(
        n_layer: usize,
        n_embd: usize,
        directions: BTreeMap<usize, Vec<f32>>,
    ) -> Result<Self> {
        if ![n_layer, n_embd].iter().all(|n| (1..=MAX_GEOMETRY).contains(n)) {
            let problem = format!("{n_layer} layers of outputs of {n_embd} values are not a model");
            return Err(Error::invalid("geometry", problem));
        }
        if directions.is_empty() {
            return Err(Error::invalid("layer directions", "there are none"));
        }
        let vector = Self { n_layer, n_embd, directions };
        vector.check().map_err(|(layer, problem)| {
            Error::invalid(format!("direction of layer {layer}"), problem)
        })?;
        Ok(vector)
    }

    /// What is wrong with a direction, if anything, and where.
    pub(super) fn check(&self) -> Result<(), (usize, String)> {
        for (&layer, direction) in &self.directions {
            if layer == 0 || layer >= self.n_layer {
                let last = self.n_layer - 1;
                return Err((layer, format!("cannot be: vectors act on layers 1 to {last}")));
            }
            if direction.len() != self.n_embd {
                let problem = format!("has {} values, expected {}", direction.len(), self.n_embd);
                return Err((layer, problem));
            }
            if direction.iter().any(|value| !value.is_finite()) {
                return Err((layer, "holds NaN or infinity".to_owned()));
            }
        }
        Ok(())
    }

    /// Layers of the model.
    #[must_use]
    pub fn n_layer(&self) -> usize {
        self.n_layer
    }

    /// Values of a layer's output.
    #[must_use]
    pub fn n_embd(&self) -> usize {
        self.n_embd
    }

    /// The direction of each steered layer, F32 `[n_embd]`.
    #[must_use]
    pub fn directions(&self) -> &BTreeMap<usize, Vec<f32>> {
        &self.directions
    }

    /// What steering at strength `alpha` adds to each layer's output, F32 `[n_embd]`.
    #[must_use]
    pub fn offsets(&self, alpha: f32) -> BTreeMap<usize, Vec<f32>> {
        let scaled = |direction: &[f32]| direction.iter().map(|value| alpha * value).collect();
        self.directions.iter().map(|(&layer, direction)| (layer, scaled(direction))).collect()
    }

    /// The control: in the same layers, random directions of the same lengths, drawn by `seed`.
    #[must_use]
    pub fn random_like(&self, seed: u64) -> Self {
        let draw = |(&layer, direction): (&usize, &Vec<f32>)| {
            let length = length(direction);
            // No head's site, so that no head's direction is drawn again.
            let values = random(Site::new(layer, MAX_GEOMETRY), self.n_embd, seed);
            let unit = unit(&values).unwrap_or_else(|| vec![0.0; self.n_embd]);
            (layer, unit.iter().map(|x| (f64::from(*x) * length) as f32).collect())
        };
        Self { directions: self.directions.iter().map(draw).collect(), ..*self }
    }

    /// Refuses a model of another geometry.
    ///
    /// # Errors
    /// [`Error::Invalid`] with both geometries.
    pub fn check_geometry(&self, n_layer: usize, n_embd: usize) -> Result<()> {
        if [self.n_layer, self.n_embd] == [n_layer, n_embd] {
            return Ok(());
        }
        let problem = format!(
            "made for {} layers with outputs of {} values, not for {n_layer} of {n_embd}: take \
             one that was made for this model",
            self.n_layer, self.n_embd
        );
        Err(Error::invalid("layer directions", problem))
    }

    /// The vector that adds what both add.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the geometries differ, or a sum overflows.
    pub fn plus(&self, other: &Self) -> Result<Self> {
        self.check_geometry(other.n_layer, other.n_embd)?;
        let mut directions = self.directions.clone();
        for (&layer, theirs) in &other.directions {
            add(directions.entry(layer).or_insert_with(|| vec![0.0; self.n_embd]), theirs);
        }
        Self::new(self.n_layer, self.n_embd, directions)
    }
}

impl Mul<f32> for &LayerVector {
    type Output = LayerVector;

    /// Scales every direction. Like that of [`SteeringVector`](super::SteeringVector), the product
    /// with a factor that is not finite is in no file.
    fn mul(self, factor: f32) -> LayerVector {
        LayerVector { directions: self.offsets(factor), ..*self }
    }
}

/// Adds offsets value by value.
pub(crate) fn add(sum: &mut [f32], offset: &[f32]) {
    for (sum, offset) in sum.iter_mut().zip(offset) {
        *sum += offset;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(directions: &[(usize, [f32; 2])]) -> Result<LayerVector> {
        LayerVector::new(4, 2, directions.iter().map(|(l, d)| (*l, d.to_vec())).collect())
    }

    #[test]
    fn sums_and_products_add_what_they_say() {
        let a = vector(&[(1, [1.0, -2.0]), (3, [0.5, 0.0])]).unwrap();
        let b = vector(&[(3, [0.5, 4.0])]).unwrap();
        let sum = a.plus(&(&b * -2.0)).unwrap();
        let expected = vector(&[(1, [1.0, -2.0]), (3, [-0.5, -8.0])]).unwrap();
        assert_eq!(sum, expected);
        assert_eq!((&a * 0.5).offsets(4.0), a.offsets(2.0));
    }

    #[test]
    fn the_control_is_as_long_and_elsewhere() {
        let a = vector(&[(1, [3.0, -4.0]), (3, [0.0, 2.0])]).unwrap();
        let control = a.random_like(7);
        let length = |d: &[f32]| d.iter().map(|x| x * x).sum::<f32>().sqrt();
        for (layer, direction) in control.directions() {
            assert!((length(direction) - length(&a.directions()[layer])).abs() < 1e-5);
        }
        assert_ne!(control, a.random_like(8));
        assert_eq!(control.directions().len(), 2);
    }

    #[test]
    fn refuses_directions_that_cannot_be() {
        let problem =
            |directions: &[(usize, [f32; 2])]| vector(directions).unwrap_err().to_string();
        assert_eq!(problem(&[]), "layer directions: there are none");
        let first = problem(&[(0, [1.0, 0.0])]);
        assert_eq!(first, "direction of layer 0: cannot be: vectors act on layers 1 to 3");
        assert!(problem(&[(4, [1.0, 0.0])]).starts_with("direction of layer 4: cannot be"));
        assert!(problem(&[(1, [f32::NAN, 0.0])]).contains("holds NaN"));
        let short = LayerVector::new(4, 3, BTreeMap::from([(1, vec![0.0; 2])])).unwrap_err();
        assert_eq!(short.to_string(), "direction of layer 1: has 2 values, expected 3");
        let a = vector(&[(1, [1.0, 0.0])]).unwrap();
        let other = LayerVector::new(5, 2, a.directions().clone()).unwrap();
        assert!(a.plus(&other).unwrap_err().to_string().contains("4 layers with outputs of 2"));
    }
}
