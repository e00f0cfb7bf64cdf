//! Steering vectors, with what is known of them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use candor::Site;
use candor::export::ControlVector;
use candor::import::{Base, Origin, control_vectors, sidecar};
use candor::probe::Probe;
use candor::steer::{
    DirectionKind, Evidence, LayerVector, Positions, Sidecar, SteeredHead, SteeringVector,
};
use numpy::{PyArray1, PyArray2, PyArrayMethods, PyReadonlyArrayDyn};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::error::{invalid, raised};

/// What is added to heads and to outputs of layers, and where it comes from.
#[pyclass(frozen, module = "candor")]
pub(crate) struct Vector {
    pub(crate) sidecar: Arc<Sidecar>,
}

impl Vector {
    pub(crate) fn new(sidecar: Sidecar) -> Self {
        Self { sidecar: Arc::new(sidecar) }
    }

    /// The same with another vector, and words on how it was made.
    fn with(&self, vector: SteeringVector, name: String, description: String) -> Self {
        let mut about = self.sidecar.about.clone();
        about.name = name;
        about.description = Some(description);
        about.head_effect.clear();
        about.head_cost.clear();
        Self::new(Sidecar { vector, about })
    }

    fn scaled(&self, factor: f32) -> PyResult<Self> {
        if !factor.is_finite() {
            return Err(invalid(format!("factor: {factor} is not a finite number")));
        }
        let name = &self.sidecar.about.name;
        let words = format!("{factor} * {name}");
        Ok(self.with(&self.sidecar.vector * factor, name.clone(), words))
    }

    fn sum(&self, other: &Self, sign: &str, factor: f32) -> PyResult<Self> {
        let (ours, theirs) = (&self.sidecar, &other.sidecar);
        if ours.about.model_fingerprint != theirs.about.model_fingerprint {
            return Err(invalid(format!(
                "the vectors `{}` and `{}` were made for different models",
                ours.about.name, theirs.about.name
            )));
        }
        let sum = ours.vector.plus(&(&theirs.vector * factor)).map_err(raised)?;
        let name = format!("{} {sign} {}", ours.about.name, theirs.about.name);
        let mut sum = self.with(sum, name.clone(), name);
        if let Some(sidecar) = Arc::get_mut(&mut sum.sidecar) {
            sidecar.about.direction = DirectionKind::Given;
            sidecar.about.evidence = Evidence {
                seen: seen(ours.about.evidence.seen.as_ref(), theirs.about.evidence.seen.as_ref()),
                ..Evidence::default()
            };
            // What was fitted on texts of several forms, and by whom, is then not known.
            if ours.about.prompt != theirs.about.prompt {
                sidecar.about.prompt.clear();
            }
        }
        Ok(sum)
    }
}

/// The questions that either was fitted on, where both know.
fn seen(ours: Option<&Vec<u64>>, theirs: Option<&Vec<u64>>) -> Option<Vec<u64>> {
    let mut all = [ours?.as_slice(), theirs?.as_slice()].concat();
    all.sort_unstable();
    all.dedup();
    Some(all)
}

#[pymethods]
impl Vector {
    #[staticmethod]
    fn load(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        py.detach(|| Sidecar::read(&path)).map(Self::new).map_err(raised)
    }

    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        py.detach(|| self.sidecar.write(&path)).map_err(raised)
    }

    /// `heads`: of each steered head its layer, its number, what is added at a strength of 1, and
    /// whether it is steered though that is zero.
    #[staticmethod]
    #[pyo3(signature = (model, heads, outputs, name, alpha, positions))]
    fn of_arrays(
        model: PathBuf,
        heads: BTreeMap<(usize, usize), PyReadonlyArrayDyn<'_, f32>>,
        outputs: BTreeMap<usize, PyReadonlyArrayDyn<'_, f32>>,
        name: &str,
        alpha: f32,
        positions: &str,
    ) -> PyResult<Self> {
        let base = Base::read(&model).map_err(raised)?;
        let positions: Positions = positions.parse().map_err(raised)?;
        let geometry = base.geometry;
        let values =
            |array: &PyReadonlyArrayDyn<'_, f32>| array.as_array().iter().copied().collect();
        let steered = |(&(layer, head), array): (&(usize, usize), _)| -> PyResult<SteeredHead> {
            let offset: Vec<f32> = values(array);
            if offset.len() != geometry.d_head {
                let (n, d) = (offset.len(), geometry.d_head);
                return Err(invalid(format!("head {layer}.{head} has {n} values, expected {d}")));
            }
            let sigma = offset.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
            if !sigma.is_finite() {
                return Err(invalid(format!("head {layer}.{head} holds NaN or infinity")));
            }
            let mut direction: Vec<f32> =
                offset.iter().map(|x| (f64::from(*x) / sigma) as f32).collect();
            if sigma == 0.0 {
                direction.fill(0.0);
                direction[0] = 1.0;
            }
            Ok(SteeredHead {
                site: Site::new(layer, head),
                direction,
                sigma: sigma as f32,
                accuracy: 0.0,
                probe: Probe { weight: vec![0.0; geometry.d_head], bias: 0.0 },
            })
        };
        let heads = heads.iter().map(steered).collect::<PyResult<Vec<_>>>()?;
        let outputs: BTreeMap<usize, Vec<f32>> =
            outputs.iter().map(|(&layer, array)| (layer, values(array))).collect();
        let (n_layer, n_head, d_head) = (geometry.n_layer, geometry.n_head, geometry.d_head);
        let layers = (!outputs.is_empty())
            .then(|| LayerVector::new(n_layer, geometry.n_embd, outputs))
            .transpose()
            .map_err(raised)?;
        let vector = match (heads.is_empty(), layers) {
            (true, Some(layers)) => SteeringVector::of_layers(n_head, d_head, layers),
            (_, layers) => SteeringVector::new(n_layer, n_head, d_head, heads).and_then(|heads| {
                layers.map_or(Ok(heads.clone()), |layers| heads.with_layers(layers))
            }),
        };
        let vector = vector.map_err(raised)?;
        let origin = Origin { name: "numpy".to_owned(), sha256: vector.fingerprint() };
        let how = (DirectionKind::Given, alpha, positions);
        Ok(Self::new(sidecar(&base, vector, name, origin, how)))
    }

    /// What is added at a strength of 1: `blk.<il>.heads` F32 `[n_head, d_head]`, `blk.<il>.output`
    /// F32 `[n_embd]`.
    fn to_numpy<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let vector = &self.sidecar.vector;
        let arrays = PyDict::new(py);
        for (layer, offset) in vector.offsets(1.0) {
            let array: Bound<'py, PyArray2<f32>> =
                PyArray1::from_vec(py, offset).reshape([vector.n_head(), vector.d_head()])?;
            arrays.set_item(format!("blk.{layer}.heads"), array)?;
        }
        for (layer, offset) in vector.layer_offsets(1.0) {
            arrays.set_item(format!("blk.{layer}.output"), PyArray1::from_vec(py, offset))?;
        }
        Ok(arrays)
    }

    /// Writes the directions of layers as llama.cpp's control vector.
    fn to_control_vector(&self, py: Python<'_>, path: PathBuf, alpha: f32) -> PyResult<()> {
        let sidecar = &self.sidecar;
        py.detach(|| {
            let hint = &sidecar.about.architecture;
            ControlVector::of_layers(&sidecar.vector, alpha, hint)?.write(&path)
        })
        .map_err(raised)
    }

    /// Reads llama.cpp's control vector, bound to a model.
    #[staticmethod]
    fn from_control_vector(
        py: Python<'_>,
        path: PathBuf,
        model: PathBuf,
        name: String,
        positions: &str,
    ) -> PyResult<Self> {
        let positions: Positions = positions.parse().map_err(raised)?;
        let read = || {
            let base = Base::read(&model)?;
            let vector = control_vectors(&base, &[(ControlVector::read(&path)?, 1.0)])?;
            let origin = Origin { name: name.clone(), sha256: vector.fingerprint() };
            let how = (DirectionKind::Given, 1.0, positions);
            Ok(sidecar(&base, vector, &name, origin, how))
        };
        py.detach(read).map(Self::new).map_err(raised)
    }

    /// The same under another name, strength or policy.
    fn replaced(
        &self,
        name: Option<String>,
        alpha: Option<f32>,
        positions: Option<&str>,
    ) -> PyResult<Self> {
        let mut sidecar = Sidecar::clone(&self.sidecar);
        if let Some(name) = name {
            sidecar.about.name = name;
        }
        if let Some(alpha) = alpha {
            if !alpha.is_finite() {
                return Err(invalid(format!("alpha: {alpha} is not a finite number")));
            }
            sidecar.about.alpha = alpha;
        }
        if let Some(positions) = positions {
            sidecar.about.positions = positions.parse().map_err(raised)?;
        }
        Ok(Self::new(sidecar))
    }

    fn __add__(&self, other: PyRef<'_, Self>) -> PyResult<Self> {
        self.sum(&other, "+", 1.0)
    }

    fn __sub__(&self, other: PyRef<'_, Self>) -> PyResult<Self> {
        self.sum(&other, "-", -1.0)
    }

    fn __mul__(&self, factor: f32) -> PyResult<Self> {
        self.scaled(factor)
    }

    fn __rmul__(&self, factor: f32) -> PyResult<Self> {
        self.scaled(factor)
    }

    fn __truediv__(&self, divisor: f32) -> PyResult<Self> {
        if divisor == 0.0 {
            return Err(pyo3::exceptions::PyZeroDivisionError::new_err("division by zero"));
        }
        self.scaled(1.0 / divisor)
    }

    fn __neg__(&self) -> PyResult<Self> {
        self.scaled(-1.0)
    }

    fn __eq__(&self, other: PyRef<'_, Self>) -> bool {
        self.sidecar == other.sidecar
    }

    fn __hash__(&self) -> u64 {
        let fingerprint = self.sidecar.vector.fingerprint();
        u64::from_str_radix(&fingerprint[..16], 16).unwrap_or(0)
    }

    #[getter]
    fn name(&self) -> &str {
        &self.sidecar.about.name
    }

    #[getter]
    fn description(&self) -> Option<&str> {
        self.sidecar.about.description.as_deref()
    }

    #[getter]
    fn alpha(&self) -> f32 {
        self.sidecar.about.alpha
    }

    #[getter]
    fn positions(&self) -> String {
        self.sidecar.about.positions.to_string()
    }

    #[getter]
    fn heads(&self) -> Vec<(usize, usize)> {
        self.sidecar.vector.heads().iter().map(|head| (head.site.layer, head.site.head)).collect()
    }

    #[getter]
    fn layers(&self) -> Vec<usize> {
        let layers = self.sidecar.vector.layers();
        layers.map_or(Vec::new(), |layers| layers.directions().keys().copied().collect())
    }

    #[getter]
    fn accuracies(&self) -> Vec<f32> {
        self.sidecar.vector.heads().iter().map(|head| head.accuracy).collect()
    }

    #[getter]
    fn model_fingerprint(&self) -> &str {
        &self.sidecar.about.model_fingerprint
    }

    #[getter]
    fn fingerprint(&self) -> String {
        self.sidecar.vector.fingerprint()
    }
}
