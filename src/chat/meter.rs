//! What the probes of a steering vector read in each token of an answer.

use crate::steer::{SteeredHead, SteeringVector};
use crate::{Error, Result, Session};

/// Reads from the heads of a steering vector how true the model takes its own words to be.
///
/// A reading is one of probes, not the truth: they were fitted to labelled answers of one data set, and
/// give a number for anything else too, a greeting as well as a story, where it means nothing.
///
/// What is observed was steered already. The meter takes what steering added to a head off again,
/// so that it tells what the model believes, not what it was pushed to.
#[derive(Debug, Clone)]
pub struct Meter<'v> {
    /// Each head that has a probe, with the place of its layer among the observed ones.
    heads: Vec<(usize, &'v SteeredHead)>,
    d_head: usize,
    alpha: f32,
}

impl<'v> Meter<'v> {
    /// A meter for tokens that are steered by `vector` at strength `alpha`; 0 for tokens that are
    /// not.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the session has another geometry or does not observe a layer of the
    /// vector.
    pub fn new(vector: &'v SteeringVector, alpha: f32, session: &Session) -> Result<Self> {
        let geometry = session.model().geometry();
        vector.check_geometry(geometry.n_layer, geometry.n_head, geometry.d_head)?;
        Self::over(vector, alpha, session.observed_layers())
    }

    fn over(vector: &'v SteeringVector, alpha: f32, observed_layers: &[usize]) -> Result<Self> {
        let place = |head: &'v SteeredHead| {
            let layer = head.site.layer;
            match observed_layers.binary_search(&layer) {
                Ok(i_layer) => Ok((i_layer, head)),
                Err(_) => {
                    Err(Error::invalid(format!("layer {layer}"), "the session does not observe it"))
                }
            }
        };
        let heads = vector
            .heads()
            .iter()
            .filter(|head| head.has_probe())
            .map(place)
            .collect::<Result<_>>()?;
        Ok(Self { heads, d_head: vector.d_head(), alpha })
    }

    /// The mean over the heads of the probability that their probes give to "true", for the one
    /// token that the session's last decode observed; NaN where no head has a probe.
    #[must_use]
    pub fn read(&self, session: &Session) -> f32 {
        self.mean(|i_layer| session.observed(i_layer, 0))
    }

    /// The same for given attention outputs, F32 `[n_head * d_head]` of the i-th observed layer.
    fn mean<'a>(&self, output: impl Fn(usize) -> &'a [f32]) -> f32 {
        let probability = |&(i_layer, head): &(usize, &SteeredHead)| {
            let start = head.site.head * self.d_head;
            let steered = &output(i_layer)[start..start + self.d_head];
            let own: Vec<f32> = steered
                .iter()
                .zip(&head.direction)
                .map(|(x, theta)| x - self.alpha * head.sigma * theta)
                .collect();
            head.probe.probability(&own)
        };
        self.heads.iter().map(probability).sum::<f32>() / self.heads.len() as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Site;
    use crate::probe::Probe;

    fn vector() -> SteeringVector {
        let head = |layer, head, bias| SteeredHead {
            site: Site::new(layer, head),
            direction: vec![0.6, 0.8],
            sigma: 2.0,
            accuracy: 1.0,
            probe: Probe { weight: vec![1.0, 1.0], bias },
        };
        SteeringVector::new(4, 2, 2, vec![head(1, 1, 0.0), head(3, 0, 1.0)]).unwrap()
    }

    #[test]
    fn is_the_mean_over_the_probes() {
        let vector = vector();
        let outputs = [[9.0, 9.0, 0.5, -0.5], [1.0, 0.0, 9.0, 9.0]];
        let meter = Meter::over(&vector, 0.0, &[1, 3]).unwrap();
        let expected = (0.5 + 1.0 / (1.0 + (-2.0f32).exp())) / 2.0;
        assert!((meter.mean(|i_layer| &outputs[i_layer]) - expected).abs() < 1e-6);
    }

    #[test]
    fn does_not_read_what_steering_added() {
        let vector = vector();
        let (own, alpha) = (vec![0.25; 4], 5.0);
        let steered: Vec<Vec<f32>> = vector
            .offsets(alpha)
            .values()
            .map(|offset| own.iter().zip(offset).map(|(x, offset)| x + offset).collect())
            .collect();
        let unsteered_meter = Meter::over(&vector, 0.0, &[1, 3]).unwrap();
        let steered_meter = Meter::over(&vector, alpha, &[1, 3]).unwrap();
        let expected = unsteered_meter.mean(|_| &own);
        assert!((steered_meter.mean(|i_layer| &steered[i_layer]) - expected).abs() < 1e-6);
    }

    #[test]
    fn refuses_a_session_that_cannot_see_its_heads() {
        let message = Meter::over(&vector(), 1.0, &[0, 1]).unwrap_err().to_string();
        assert!(message.starts_with("layer 3:"), "{message}");
    }
}
