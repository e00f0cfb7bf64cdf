//! What the probes of a steering vector read in each token of an answer.

use std::collections::BTreeMap;

use crate::probe::Reading;
use crate::steer::{Reader, SteeringVector};
use crate::{Error, Result, Session};

/// Reads from the heads of a steering vector how true the model takes its own words to be.
///
/// A reading is one of probes, not the truth: they were fitted to labelled answers of one data set.
/// Where the vector has a [`Calibration`](crate::probe::Calibration), it is a probability, and text that
/// is unlike those answers has none.
///
/// What is observed was steered already. The meter takes what steering added to a head off again,
/// so that it tells what the model believes, not what it was pushed to.
#[derive(Debug, Clone)]
pub struct Meter {
    reader: Reader,
    /// What steering adds to the heads of each layer, F32 `[n_head * d_head]`.
    added: BTreeMap<usize, Vec<f32>>,
}

impl Meter {
    /// A meter for tokens that are steered by `vector` at strength `alpha`; 0 for tokens that are
    /// not. `None` where no head has a probe.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the session has another geometry or does not observe a layer that the
    /// meter reads: see [`Reader::layers`].
    pub fn new(vector: &SteeringVector, alpha: f32, session: &Session) -> Result<Option<Self>> {
        let geometry = session.model().geometry();
        vector.check_geometry(geometry.n_layer, geometry.n_head, geometry.d_head)?;
        Self::over(vector, alpha, session.observed_layers())
    }

    fn over(vector: &SteeringVector, alpha: f32, observed: &[usize]) -> Result<Option<Self>> {
        let Some(reader) = Reader::of([vector]) else { return Ok(None) };
        if let Some(layer) = reader.layers().find(|layer| observed.binary_search(layer).is_err()) {
            return Err(Error::invalid(
                format!("layer {layer}"),
                "the session does not observe it",
            ));
        }
        Ok(Some(Self { reader, added: vector.offsets(alpha) }))
    }

    /// What the probes say of the one token that the session's last decode observed, and that was
    /// steered or not; `None` where that is not finite.
    #[must_use]
    pub fn read(&self, session: &Session, is_steered: bool) -> Option<Reading> {
        let added = is_steered.then_some(&self.added);
        self.reader.read(|layer| session.observed_at(layer, 0), added)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Site;
    use crate::probe::Probe;
    use crate::steer::SteeredHead;

    #[test]
    fn refuses_a_session_that_cannot_see_its_heads() {
        let head = |weight| SteeredHead {
            site: Site::new(3, 1),
            direction: vec![0.6, 0.8],
            sigma: 2.0,
            accuracy: 1.0,
            probe: Probe { weight: vec![weight; 2], bias: 0.0 },
        };
        let over = |weight, observed: &[usize]| {
            Meter::over(&SteeringVector::new(4, 2, 2, vec![head(weight)]).unwrap(), 1.0, observed)
        };
        let message = over(1.0, &[0, 1]).unwrap_err().to_string();
        assert!(message.starts_with("layer 3:"), "{message}");
        assert!(over(1.0, &[0, 3]).unwrap().is_some());
        assert!(over(0.0, &[]).unwrap().is_none(), "there is no probe");
    }
}
