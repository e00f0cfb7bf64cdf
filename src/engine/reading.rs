//! How true the probes of steering vectors read a token to be.

use std::collections::BTreeMap;

use super::request::SteerPart;
use crate::probe::Probe;
use crate::steer::SteeringVector;
use crate::{Session, Site};

/// The probes of some heads.
#[derive(Debug, Clone, PartialEq)]
pub struct Reader {
    heads: Vec<(Site, Probe)>,
    d_head: usize,
}

impl Reader {
    /// The probes of these vectors, of a head that several steer the most accurate one; `None` where
    /// they have none.
    #[must_use]
    pub fn of<'v>(vectors: impl IntoIterator<Item = &'v SteeringVector>) -> Option<Self> {
        let mut heads = BTreeMap::new();
        let mut d_head = 0;
        for vector in vectors {
            d_head = vector.d_head();
            for head in vector.heads().iter().filter(|head| head.has_probe()) {
                let best = heads.entry(head.site).or_insert((head.accuracy, &head.probe));
                if head.accuracy > best.0 {
                    *best = (head.accuracy, &head.probe);
                }
            }
        }
        let heads: Vec<_> =
            heads.into_iter().map(|(site, (_, probe))| (site, probe.clone())).collect();
        (!heads.is_empty()).then_some(Self { heads, d_head })
    }

    /// The probes of what steers.
    #[must_use]
    pub fn of_parts(parts: &[SteerPart]) -> Option<Self> {
        Self::of(parts.iter().map(|(vector, _)| &**vector))
    }

    /// The layers that have to be observed, ascending.
    pub fn layers(&self) -> impl Iterator<Item = usize> + '_ {
        let layers: std::collections::BTreeSet<_> =
            self.heads.iter().map(|(site, _)| site.layer).collect();
        layers.into_iter()
    }

    /// The mean over the heads of the probability of "true", for the `i_want`-th token that the last
    /// decode observed; what steering `added` to the heads is taken off again. `None` where the session
    /// does not observe a layer.
    pub(super) fn read(
        &self,
        session: &Session,
        i_want: usize,
        added: Option<&BTreeMap<usize, Vec<f32>>>,
    ) -> Option<f32> {
        let mut sum = 0.0;
        for (site, probe) in &self.heads {
            let i_layer = session.observed_layers().binary_search(&site.layer).ok()?;
            let (start, end) = (site.head * self.d_head, (site.head + 1) * self.d_head);
            let mut output = session.observed(i_layer, i_want).get(start..end)?.to_vec();
            if let Some(added) = added.and_then(|added| added.get(&site.layer)?.get(start..end)) {
                output.iter_mut().zip(added).for_each(|(x, added)| *x -= added);
            }
            sum += probe.probability(&output);
        }
        Some(sum / self.heads.len() as f32)
    }
}
