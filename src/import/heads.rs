//! Heads and their directions as numpy arrays.

use std::path::Path;

use super::npy::{self, Array};
use crate::capture::Store;
use crate::probe::Probe;
use crate::steer::{Development, FitParams, SteeredHead, SteeringVector, unit};
use crate::{Error, Geometry, Result, Site};

/// Heads with a direction each, of length one, in the order of their file; and their sigmas where
/// these are known.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadArrays {
    geometry: Geometry,
    /// The heads and θ, F32 `[d_head]`.
    directions: Vec<(Site, Vec<f32>)>,
    sigmas: Option<Vec<f32>>,
}

impl HeadArrays {
    /// Reads `heads`, int64 or int32 `[k, 2]`, each a layer and a head, both counted from 0, as
    /// honest_llama's `…_top_heads.npy`; `directions`, float32 or float64, of all heads,
    /// `[n_layer * n_head, d_head]` (its `com_directions`, layer by layer) or
    /// `[n_layer, n_head, d_head]`, or of these alone and in their order, `[k, d_head]`; and
    /// `sigmas`, the standard deviations along them, of the same shapes without `d_head`. Directions
    /// are scaled to length one.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that cannot be read; [`Error::Invalid`] for pickled objects, another
    /// type or shape, a head that does not exist or comes twice, a direction without length and a
    /// sigma below 0.
    pub fn read(
        geometry: Geometry,
        heads: &Path,
        directions: &Path,
        sigmas: Option<&Path>,
    ) -> Result<Self> {
        let sites = sites(geometry, heads)?;
        let array = npy::floats(directions)?;
        let chosen = rows(geometry, &sites, &array, directions, &[geometry.d_head])?;
        let direction = |(site, row): (&Site, &[f64])| {
            let problem = "has no length, or holds NaN or infinity";
            let of = || format!("{}: direction of head {site}", directions.display());
            let direction = unit(row).ok_or_else(|| Error::invalid(of(), problem))?;
            Ok((*site, direction))
        };
        let directions = sites.iter().zip(chosen).map(direction).collect::<Result<Vec<_>>>()?;
        let sigmas = match sigmas {
            None => None,
            Some(path) => {
                let array = npy::floats(path)?;
                let chosen = rows(geometry, &sites, &array, path, &[])?;
                Some(chosen.into_iter().flatten().map(|&sigma| sigma as f32).collect())
            }
        };
        Ok(Self { geometry, directions, sigmas })
    }

    /// The heads.
    pub fn sites(&self) -> impl Iterator<Item = Site> + '_ {
        self.directions.iter().map(|(site, _)| *site)
    }

    /// The vector with the sigmas that were read. Its heads have no probes: weights, bias and
    /// accuracy are 0, and the chat's probe reading leaves them out.
    ///
    /// # Errors
    /// [`Error::Invalid`] without sigmas, and for one below 0.
    pub fn vector(&self) -> Result<SteeringVector> {
        let Geometry { n_layer, n_head, d_head, .. } = self.geometry;
        let sigmas = self.sigmas.as_ref().ok_or_else(|| {
            let problem = "none are known: read them from a file, or measure them on activations";
            Error::invalid("sigmas", problem)
        })?;
        let head = |((site, direction), &sigma): (&(Site, Vec<f32>), &f32)| SteeredHead {
            site: *site,
            direction: direction.clone(),
            sigma,
            accuracy: 0.0,
            probe: Probe { weight: vec![0.0; d_head], bias: 0.0 },
        };
        let heads = self.directions.iter().zip(sigmas).map(head).collect();
        SteeringVector::new(n_layer, n_head, d_head, heads)
    }

    /// The vector with sigmas that are measured on captured activations, and probes that are fitted
    /// to them; with those that were read, where there are any. `on_done` is called after each head
    /// of the model.
    ///
    /// # Errors
    /// [`Error::Invalid`] for activations of another geometry, and what fitting gives.
    pub fn measured(
        &self,
        store: &Store,
        params: &FitParams,
        on_done: impl Fn() + Sync,
    ) -> Result<SteeringVector> {
        let Geometry { n_layer, n_head, d_head, .. } = self.geometry;
        if [store.n_layer(), store.n_head(), store.d_head()] != [n_layer, n_head, d_head] {
            let problem = "they are of a model of another geometry: capture them with this one";
            return Err(Error::invalid("activations", problem));
        }
        let mut questions = store.groups().to_vec();
        questions.sort_unstable();
        questions.dedup();
        let development = Development::fit(store, &questions, params, on_done)?;
        let vector = development.given(store, &self.directions)?;
        let Some(sigmas) = &self.sigmas else { return Ok(vector) };
        let mut heads = vector.heads().to_vec();
        for (site, &sigma) in self.sites().zip(sigmas) {
            for head in heads.iter_mut().filter(|head| head.site == site) {
                head.sigma = sigma;
            }
        }
        SteeringVector::new(n_layer, n_head, d_head, heads)
    }
}

/// The heads that a file names.
fn sites(geometry: Geometry, path: &Path) -> Result<Vec<Site>> {
    let fault = |problem: String| Error::invalid(path.display().to_string(), problem);
    let Array { shape, values } = npy::integers(path)?;
    let &[k, 2] = shape.as_slice() else {
        return Err(fault(format!("it has the shape {shape:?}, expected [k, 2]: layer, head")));
    };
    if k == 0 {
        return Err(fault("it names no head".to_owned()));
    }
    let site = |pair: &[i64]| {
        let [layer, head] = [pair[0], pair[1]].map(|n| usize::try_from(n).ok());
        let site = Site::new(layer?, head?);
        (site.layer < geometry.n_layer && site.head < geometry.n_head).then_some(site)
    };
    let sites = values.chunks_exact(2).map(|pair| {
        site(pair).ok_or_else(|| {
            let Geometry { n_layer, n_head, .. } = geometry;
            let [layer, head] = [pair[0], pair[1]];
            fault(format!("names head {layer}.{head}, and there are {n_layer} layers of {n_head}"))
        })
    });
    let sites = sites.collect::<Result<Vec<_>>>()?;
    let mut sorted = sites.clone();
    sorted.sort_unstable();
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(fault(format!("names head {} twice", pair[0])));
    }
    Ok(sites)
}

/// The rows of an array that belong to these heads, in their order. `row`: the shape of one.
fn rows<'a>(
    geometry: Geometry,
    sites: &[Site],
    array: &'a Array<f64>,
    path: &Path,
    row: &[usize],
) -> Result<Vec<&'a [f64]>> {
    let Geometry { n_layer, n_head, .. } = geometry;
    let fault = |problem: String| Err(Error::invalid(path.display().to_string(), problem));
    let (k, n_site) = (sites.len(), n_layer * n_head);
    let with = |first: &[usize]| [first, row].concat();
    let (all, each, these) = (with(&[n_site]), with(&[n_layer, n_head]), with(&[k]));
    let of_all = array.shape == all || array.shape == each;
    if !of_all && array.shape != these {
        return fault(format!(
            "it has the shape {:?}, expected {all:?} or {each:?} for all heads, or {these:?} for \
             these",
            array.shape
        ));
    }
    if array.shape == all && all == these && !sites.is_sorted() {
        return fault(format!(
            "{k} rows may be in the order of the heads' file or layer by layer: reshape to {each:?}"
        ));
    }
    let n: usize = row.iter().product();
    let at = |(i, site): (usize, &Site)| if of_all { site.layer * n_head + site.head } else { i };
    let rows = sites.iter().enumerate().map(|place| {
        let start = at(place) * n;
        &array.values[start..start + n]
    });
    Ok(rows.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GEOMETRY: Geometry =
        Geometry { n_layer: 3, n_head: 2, n_head_kv: 1, d_head: 2, n_embd: 5 };

    fn write(path: &Path, descr: &str, shape: &str, data: &[u8]) {
        let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
        let text = format!("{text:<117}\n");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((text.len() as u16).to_le_bytes());
        bytes.extend(text.as_bytes());
        bytes.extend(data);
        std::fs::write(path, bytes).unwrap();
    }

    fn ints(path: &Path, shape: &str, values: &[i64]) {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        write(path, "<i8", shape, &bytes);
    }

    fn floats(path: &Path, shape: &str, values: &[f64]) {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        write(path, "<f8", shape, &bytes);
    }

    struct Room {
        folder: tempfile::TempDir,
    }

    impl Room {
        /// Heads 2.1 and 0.1, with a direction (0, flat index + 1) for each of all six heads.
        fn new() -> Self {
            let room = Self { folder: tempfile::tempdir().unwrap() };
            ints(&room.path("heads"), "(2, 2)", &[2, 1, 0, 1]);
            let all: Vec<f64> = (0..6).flat_map(|i| [0.0, f64::from(i) + 1.0]).collect();
            floats(&room.path("all"), "(6, 2)", &all);
            floats(&room.path("each"), "(3, 2, 2)", &all);
            floats(&room.path("these"), "(2, 2)", &[3.0, 4.0, -1.0, 0.0]);
            floats(&room.path("sigmas"), "(3, 2)", &[0.0, 0.1, 0.2, 0.3, 0.4, 0.5]);
            room
        }

        fn path(&self, name: &str) -> std::path::PathBuf {
            self.folder.path().join(format!("{name}.npy"))
        }

        fn read(&self, directions: &str, sigmas: Option<&str>) -> Result<HeadArrays> {
            let sigmas = sigmas.map(|name| self.path(name));
            let [heads, directions] = ["heads", directions].map(|name| self.path(name));
            HeadArrays::read(GEOMETRY, &heads, &directions, sigmas.as_deref())
        }
    }

    #[test]
    fn takes_directions_of_all_heads_or_of_these() {
        let room = Room::new();
        for name in ["all", "each"] {
            let arrays = room.read(name, Some("sigmas")).unwrap();
            let vector = arrays.vector().unwrap();
            let found: Vec<_> =
                vector.heads().iter().map(|h| (h.site, h.direction.clone(), h.sigma)).collect();
            let expected =
                [(Site::new(0, 1), vec![0.0, 1.0], 0.1), (Site::new(2, 1), vec![0.0, 1.0], 0.5)];
            assert_eq!(found, expected, "{name}");
        }
        let arrays = room.read("these", None).unwrap();
        assert_eq!(arrays.directions[0], (Site::new(2, 1), vec![0.6, 0.8]));
        assert_eq!(arrays.directions[1], (Site::new(0, 1), vec![-1.0, 0.0]));
        assert!(arrays.vector().unwrap_err().to_string().contains("none are known"));
    }

    #[test]
    fn refuses_shapes_and_heads_that_cannot_be() {
        let room = Room::new();
        let problem = |directions: &str| room.read(directions, None).unwrap_err().to_string();
        floats(&room.path("short"), "(5, 2)", &[1.0; 10]);
        assert!(problem("short").contains("shape [5, 2], expected [6, 2] or [3, 2, 2] for all"));
        floats(&room.path("zero"), "(2, 2)", &[1.0, 0.0, 0.0, 0.0]);
        assert!(problem("zero").contains("direction of head 0.1: has no length"));
        ints(&room.path("heads"), "(1, 2)", &[3, 0]);
        assert!(problem("all").contains("names head 3.0, and there are 3 layers of 2"));
        ints(&room.path("heads"), "(1, 2)", &[0, -1]);
        assert!(problem("all").contains("names head 0.-1"));
        ints(&room.path("heads"), "(2, 2)", &[0, 1, 0, 1]);
        assert!(problem("all").contains("names head 0.1 twice"));
        ints(&room.path("heads"), "(4,)", &[0, 1, 0, 0]);
        assert!(problem("all").contains("expected [k, 2]: layer, head"));
        // All six heads, best first: the rows may be in either order.
        ints(&room.path("heads"), "(6, 2)", &[2, 1, 0, 0, 0, 1, 1, 0, 1, 1, 2, 0]);
        assert!(problem("all").contains("reshape to [3, 2, 2]"));
        assert!(room.read("each", None).is_ok());
    }
}
