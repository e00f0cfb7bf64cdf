//! What is added to which heads.

use std::collections::BTreeMap;
use std::ops::Mul;

use super::LayerVector;
use super::direction::{length, unit};
use crate::data::sha256;
use crate::probe::{Calibration, Probe};
use crate::{Error, Result, Site};

/// The most layers, heads per layer and values per head that are believed.
pub(super) const MAX_GEOMETRY: usize = 1 << 16;

/// The most values in a layer's attention output, `n_head * d_head`, that are believed: some ten times
/// those of the largest models.
const MAX_WIDTH: usize = 1 << 20;

/// How far the length of a direction may be from one.
const UNIT_TOLERANCE: f64 = 1e-3;

/// One head of a steering vector.
#[derive(Debug, Clone, PartialEq)]
pub struct SteeredHead {
    /// The head.
    pub site: Site,
    /// θ, F32 `[d_head]`, of length one.
    pub direction: Vec<f32>,
    /// σ, the standard deviation of the head's outputs along θ; not negative.
    pub sigma: f32,
    /// The share of validation rows that the probe reads correctly, 0 to 1.
    pub accuracy: f32,
    /// Reads from the head's output how true the text is.
    pub probe: Probe,
}

impl SteeredHead {
    /// Whether it has a probe that reads anything: heads from other programs may have none, and
    /// weights of zero.
    #[must_use]
    pub fn has_probe(&self) -> bool {
        self.probe.weight.iter().any(|weight| *weight != 0.0)
    }
}

/// Directions and scales for some heads of a model of one geometry, directions for the outputs of
/// some of its layers, or both.
///
/// Steering adds α σ θ to the outputs of these heads (ITI, section 6), and α times their direction
/// to the outputs of these layers. Vectors can be added ([`plus`](Self::plus)) and scaled
/// (`&vector * 0.5`).
#[derive(Debug, Clone, PartialEq)]
pub struct SteeringVector {
    n_layer: usize,
    n_head: usize,
    d_head: usize,
    heads: Vec<SteeredHead>,
    layers: Option<LayerVector>,
    calibration: Option<Calibration>,
}

impl SteeringVector {
    /// A vector for models of `n_layer` layers of `n_head` heads of `d_head` values.
    ///
    /// # Errors
    /// [`Error::Invalid`], naming the head, where there are no heads, a head does not exist or comes
    /// twice, a shape is wrong, or a number is not finite or out of its range.
    pub fn new(
        n_layer: usize,
        n_head: usize,
        d_head: usize,
        heads: Vec<SteeredHead>,
    ) -> Result<Self> {
        if heads.is_empty() {
            return Err(Error::invalid("heads", "there are none"));
        }
        Self::of(n_layer, n_head, d_head, heads)
    }

    /// A vector for the outputs of layers, in models of `n_head` heads of `d_head` values per layer.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a geometry that is none.
    pub fn of_layers(n_head: usize, d_head: usize, layers: LayerVector) -> Result<Self> {
        Self::of(layers.n_layer(), n_head, d_head, Vec::new())?.with_layers(layers)
    }

    /// The same heads, and these layers in place of others.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the model that they are for has another number of layers.
    pub fn with_layers(self, layers: LayerVector) -> Result<Self> {
        layers.check_geometry(self.n_layer, layers.n_embd())?;
        Ok(Self { layers: Some(layers), ..self })
    }

    /// The same with a scale for what its probes read.
    ///
    /// # Errors
    /// [`Error::Invalid`], naming the key of a sidecar that would hold it, for a scale of heads that
    /// there are not, of another geometry, or with a number that is out of its range.
    pub fn with_calibration(self, calibration: Calibration) -> Result<Self> {
        calibration
            .check([self.n_layer, self.n_head, self.d_head])
            .map_err(|(name, problem)| Error::invalid(reading_key(name), problem))?;
        Ok(Self { calibration: Some(calibration), ..self })
    }

    fn of(
        n_layer: usize,
        n_head: usize,
        d_head: usize,
        mut heads: Vec<SteeredHead>,
    ) -> Result<Self> {
        let is_size = |n: &usize| (1..=MAX_GEOMETRY).contains(n);
        if ![n_layer, n_head, d_head].iter().all(is_size) || n_head * d_head > MAX_WIDTH {
            return Err(Error::invalid(
                "geometry",
                format!("{n_layer} layers of {n_head} heads of {d_head} values are not a model"),
            ));
        }
        heads.sort_by_key(|head| head.site);
        if let Some(pair) = heads.windows(2).find(|pair| pair[0].site == pair[1].site) {
            return Err(Error::invalid(format!("head {}", pair[0].site), "occurs twice"));
        }
        let vector = Self { n_layer, n_head, d_head, heads, layers: None, calibration: None };
        for head in &vector.heads {
            vector
                .check_head(head)
                .map_err(|problem| Error::invalid(format!("head {}", head.site), problem))?;
        }
        Ok(vector)
    }

    /// What is wrong with a head, if anything.
    pub(super) fn check_head(&self, head: &SteeredHead) -> Result<(), String> {
        let Self { n_layer, n_head, d_head, .. } = *self;
        if head.site.layer >= n_layer || head.site.head >= n_head {
            return Err(format!("does not exist in {n_layer} layers of {n_head} heads"));
        }
        for (what, values) in [("direction", &head.direction), ("probe", &head.probe.weight)] {
            if values.len() != d_head {
                return Err(format!("its {what} has {} values, expected {d_head}", values.len()));
            }
            if values.iter().any(|value| !value.is_finite()) {
                return Err(format!("its {what} holds NaN or infinity"));
            }
        }
        if !head.probe.bias.is_finite() {
            return Err(format!("its probe has a bias of {}", head.probe.bias));
        }
        let length = length(&head.direction);
        if (length - 1.0).abs() > UNIT_TOLERANCE {
            return Err(format!("its direction has length {length}, expected 1"));
        }
        if !(head.sigma >= 0.0 && head.sigma.is_finite()) {
            return Err(format!("its sigma is {}, expected a number from 0", head.sigma));
        }
        if !(0.0..=1.0).contains(&head.accuracy) {
            return Err(format!("its accuracy is {}, expected 0 to 1", head.accuracy));
        }
        Ok(())
    }

    /// Layers of the model.
    #[must_use]
    pub fn n_layer(&self) -> usize {
        self.n_layer
    }

    /// Heads per layer.
    #[must_use]
    pub fn n_head(&self) -> usize {
        self.n_head
    }

    /// Values per head.
    #[must_use]
    pub fn d_head(&self) -> usize {
        self.d_head
    }

    /// The steered heads, ordered by site; none where only layers are steered.
    #[must_use]
    pub fn heads(&self) -> &[SteeredHead] {
        &self.heads
    }

    /// The directions of layers, where there are any.
    #[must_use]
    pub fn layers(&self) -> Option<&LayerVector> {
        self.layers.as_ref()
    }

    /// The scale of what its probes read, where one was fitted.
    #[must_use]
    pub fn calibration(&self) -> Option<&Calibration> {
        self.calibration.as_ref()
    }

    /// The probes, by site.
    fn probes(&self) -> impl Iterator<Item = (Site, &Probe)> {
        let heads = self.heads.iter().filter(|head| head.has_probe());
        heads.map(|head| (head.site, &head.probe))
    }

    /// What steering at strength `alpha` adds to the outputs of layers, F32 `[n_embd]`.
    #[must_use]
    pub fn layer_offsets(&self, alpha: f32) -> BTreeMap<usize, Vec<f32>> {
        self.layers.as_ref().map(|layers| layers.offsets(alpha)).unwrap_or_default()
    }

    /// What steering at strength `alpha` adds to the attention outputs, per layer that has steered
    /// heads: α σ θ in the place of each such head, zero elsewhere; F32 `[n_head * d_head]`.
    #[must_use]
    pub fn offsets(&self, alpha: f32) -> BTreeMap<usize, Vec<f32>> {
        let mut offsets = BTreeMap::new();
        for head in &self.heads {
            let layer = offsets
                .entry(head.site.layer)
                .or_insert_with(|| vec![0.0; self.n_head * self.d_head]);
            let start = head.site.head * self.d_head;
            for (offset, theta) in layer[start..].iter_mut().zip(&head.direction) {
                *offset = alpha * head.sigma * theta;
            }
        }
        offsets
    }

    /// SHA-256 of all that it adds and where, 64 hexadecimal digits: geometry, heads, directions and
    /// sigmas, and the directions of layers. Probes and the strength are not part of it.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut bytes = b"candor steering vector 1".to_vec();
        let layers = self.layers.iter().flat_map(LayerVector::directions);
        let n_steered = [self.heads.len(), layers.clone().count()];
        let sizes = [self.n_layer, self.n_head, self.d_head].into_iter().chain(n_steered);
        bytes.extend(sizes.flat_map(|n| (n as u64).to_le_bytes()));
        for head in &self.heads {
            let values = head.direction.iter().chain([&head.sigma]);
            let place = [head.site.layer, head.site.head].map(|n| n as u64);
            bytes.extend(place.into_iter().flat_map(u64::to_le_bytes));
            bytes.extend(values.flat_map(|value| value.to_le_bytes()));
        }
        for (layer, direction) in layers {
            bytes.extend([*layer as u64, direction.len() as u64].map(u64::to_le_bytes).concat());
            bytes.extend(direction.iter().flat_map(|value| value.to_le_bytes()));
        }
        sha256(&bytes)
    }

    /// Refuses a model of another geometry.
    ///
    /// # Errors
    /// [`Error::Invalid`] with both geometries.
    pub fn check_geometry(&self, n_layer: usize, n_head: usize, d_head: usize) -> Result<()> {
        if [self.n_layer, self.n_head, self.d_head] == [n_layer, n_head, d_head] {
            return Ok(());
        }
        Err(Error::invalid(
            "steering vector",
            format!(
                "made for {} layers of {} heads of {} values, not for {n_layer} of {n_head} of \
                 {d_head}: fit one for this model",
                self.n_layer, self.n_head, self.d_head
            ),
        ))
    }

    /// The vector that adds what both add: in a head of both, σθ is the sum σ₁θ₁ + σ₂θ₂, with the
    /// probe and the accuracy of the more accurate one. Where two cancel out, σ is 0. Directions of
    /// layers are added. The scale of the one whose probes are those of the sum is kept.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the geometries differ, or a sum overflows.
    pub fn plus(&self, other: &Self) -> Result<Self> {
        self.check_geometry(other.n_layer, other.n_head, other.d_head)?;
        let mut heads: BTreeMap<Site, SteeredHead> =
            self.heads.iter().map(|head| (head.site, head.clone())).collect();
        for theirs in &other.heads {
            heads
                .entry(theirs.site)
                .and_modify(|ours| *ours = sum(ours, theirs))
                .or_insert_with(|| theirs.clone());
        }
        let heads = heads.into_values().collect();
        let sum = Self::of(self.n_layer, self.n_head, self.d_head, heads)?;
        let layers = match (&self.layers, &other.layers) {
            (Some(ours), Some(theirs)) => Some(ours.plus(theirs)?),
            (ours, theirs) => ours.clone().or_else(|| theirs.clone()),
        };
        let calibration = [self, other]
            .into_iter()
            .find(|part| part.calibration.is_some() && part.probes().eq(sum.probes()))
            .and_then(|part| part.calibration.clone());
        Ok(Self { layers, calibration, ..sum })
    }
}

/// The key of a sidecar that holds a part of a [`Calibration`].
pub(super) fn reading_key(name: &str) -> String {
    format!("key candor.reading.{name}")
}

/// What two directions and scales of one head amount to.
fn sum(a: &SteeredHead, b: &SteeredHead) -> SteeredHead {
    let scaled = |head: &SteeredHead| {
        let sigma = f64::from(head.sigma);
        head.direction.iter().map(|theta| sigma * f64::from(*theta)).collect::<Vec<_>>()
    };
    let values: Vec<f64> = scaled(a).iter().zip(scaled(b)).map(|(a, b)| a + b).collect();
    let sigma = values.iter().map(|value| value * value).sum::<f64>().sqrt() as f32;
    let best = if b.accuracy > a.accuracy { b } else { a };
    SteeredHead {
        direction: unit(&values).unwrap_or_else(|| best.direction.clone()),
        sigma,
        ..best.clone()
    }
}

impl Mul<f32> for &SteeringVector {
    type Output = SteeringVector;

    /// Scales every σ and every direction of a layer; a negative factor turns the directions round. A factor that is not finite
    /// gives a vector that adds nothing but NaN and infinity, and no sidecar will take it.
    fn mul(self, factor: f32) -> SteeringVector {
        let mut scaled = self.clone();
        for head in &mut scaled.heads {
            head.sigma *= factor.abs();
            head.direction.iter_mut().for_each(|theta| *theta *= factor.signum());
        }
        scaled.layers = self.layers.as_ref().map(|layers| layers * factor);
        scaled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(layer: usize, head: usize, direction: [f32; 2], sigma: f32) -> SteeredHead {
        SteeredHead {
            site: Site::new(layer, head),
            direction: direction.to_vec(),
            sigma,
            accuracy: 0.75,
            probe: Probe { weight: vec![1.0, -1.0], bias: 0.5 },
        }
    }

    fn vector(heads: Vec<SteeredHead>) -> SteeringVector {
        SteeringVector::new(3, 2, 2, heads).unwrap()
    }

    #[test]
    fn offsets_stand_in_the_place_of_their_heads() {
        let vector = vector(vec![
            head(2, 1, [0.6, 0.8], 2.0),
            head(0, 0, [1.0, 0.0], 1.0),
            head(2, 0, [0.0, 1.0], 3.0),
        ]);
        assert!(vector.heads().is_sorted_by_key(|head| head.site));
        let expected = [(0, vec![5.0, 0.0, 0.0, 0.0]), (2, vec![0.0, 15.0, 6.0, 8.0])];
        assert_eq!(vector.offsets(5.0), BTreeMap::from(expected));
        assert!(vector.offsets(0.0).values().flatten().all(|offset| *offset == 0.0));
    }

    #[test]
    fn a_sum_adds_what_both_add() {
        let a = vector(vec![head(0, 0, [1.0, 0.0], 3.0), head(1, 0, [1.0, 0.0], 1.0)]);
        let b = vector(vec![head(0, 0, [0.0, 1.0], 4.0), head(1, 1, [0.0, 1.0], 1.0)]);
        let sum = a.plus(&b).unwrap();
        assert_eq!(sum.heads().len(), 3);
        assert_eq!(sum.heads()[0].sigma, 5.0);
        assert_eq!(sum.offsets(1.0)[&0], [3.0, 4.0, 0.0, 0.0]);
        assert_eq!(sum.offsets(1.0)[&1], [1.0, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn the_fingerprint_is_that_of_what_is_added() {
        let of = |heads: Vec<SteeredHead>| vector(heads).fingerprint();
        let good = || head(1, 1, [0.6, 0.8], 2.0);
        assert_eq!(of(vec![good()]).len(), 64);
        // What only reads is not part of it.
        assert_eq!(of(vec![good()]), of(vec![SteeredHead { accuracy: 0.5, ..good() }]));
        let others = [
            vec![head(1, 0, [0.6, 0.8], 2.0)],
            vec![head(2, 1, [0.6, 0.8], 2.0)],
            vec![head(1, 1, [0.8, 0.6], 2.0)],
            vec![head(1, 1, [0.6, 0.8], 2.5)],
            vec![good(), head(2, 1, [0.6, 0.8], 2.0)],
        ];
        for other in others {
            assert_ne!(of(vec![good()]), of(other));
        }
        let layers = LayerVector::new(3, 2, BTreeMap::from([(1, vec![1.0, 0.0])])).unwrap();
        assert_ne!(
            of(vec![good()]),
            vector(vec![good()]).with_layers(layers).unwrap().fingerprint()
        );
    }

    #[test]
    fn a_vector_less_itself_adds_nothing() {
        let a = vector(vec![head(0, 0, [0.6, 0.8], 3.0)]);
        let nothing = a.plus(&(&a * -1.0)).unwrap();
        assert_eq!(nothing.heads()[0].sigma, 0.0);
        assert_eq!(nothing.offsets(15.0)[&0], [0.0; 4]);
    }

    #[test]
    fn a_product_scales_what_is_added() {
        let a = vector(vec![head(0, 0, [0.6, 0.8], 2.0)]);
        assert_eq!((&a * 0.5).offsets(3.0), a.offsets(1.5));
        assert_eq!((&a * -2.0).offsets(1.0), a.offsets(-2.0));
        assert_eq!((&a * -2.0).heads()[0].sigma, 4.0);
    }

    #[test]
    fn refuses_another_geometry() {
        let a = vector(vec![head(0, 0, [1.0, 0.0], 1.0)]);
        let b = SteeringVector::new(3, 4, 2, a.heads().to_vec()).unwrap();
        assert!(a.check_geometry(3, 2, 2).is_ok());
        let message = a.plus(&b).unwrap_err().to_string();
        assert!(
            message.contains("3 layers of 2 heads of 2 values, not for 3 of 4 of 2"),
            "{message}"
        );
    }

    #[test]
    fn refuses_heads_that_cannot_be() {
        let message =
            |heads: Vec<SteeredHead>| SteeringVector::new(3, 2, 2, heads).unwrap_err().to_string();
        let good = || head(1, 1, [1.0, 0.0], 1.0);
        assert_eq!(message(vec![]), "heads: there are none");
        assert_eq!(message(vec![good(), good()]), "head 1.1: occurs twice");
        let cases: [(SteeredHead, &str); 9] = [
            (head(3, 0, [1.0, 0.0], 1.0), "head 3.0: does not exist"),
            (head(0, 2, [1.0, 0.0], 1.0), "head 0.2: does not exist"),
            (SteeredHead { direction: vec![1.0], ..good() }, "its direction has 1 values"),
            (head(1, 1, [f32::NAN, 0.0], 1.0), "its direction holds NaN"),
            (head(1, 1, [1.0, 1.0], 1.0), "its direction has length 1.41"),
            (head(1, 1, [1.0, 0.0], -1.0), "its sigma is -1"),
            (head(1, 1, [1.0, 0.0], f32::INFINITY), "its sigma is inf"),
            (SteeredHead { accuracy: 1.5, ..good() }, "its accuracy is 1.5"),
            (
                SteeredHead { probe: Probe { weight: vec![0.0; 2], bias: f32::NAN }, ..good() },
                "its probe has a bias of NaN",
            ),
        ];
        for (head, expected) in cases {
            let message = message(vec![head]);
            assert!(message.contains(expected), "{message}");
        }
        let message = SteeringVector::new(0, 2, 2, vec![good()]).unwrap_err().to_string();
        assert!(message.starts_with("geometry: 0 layers"), "{message}");
        // More than 4 GiB for each layer.
        for geometry in [[3, 1 << 16, 1 << 16], [3, 100_000, 2], [usize::MAX; 3]] {
            let [n_layer, n_head, d_head] = geometry;
            let error = SteeringVector::new(n_layer, n_head, d_head, vec![good()]).unwrap_err();
            assert!(error.to_string().ends_with("are not a model"), "{error}");
        }
    }
}
