//! Vectors that others made: llama.cpp's control vectors, and heads as numpy arrays, as the original
//! code of Inference-Time Intervention keeps them.

mod heads;
mod npy;

use std::path::Path;

pub use self::heads::HeadArrays;
use crate::export::ControlVector;
use crate::file::stem;
use crate::gguf::Gguf;
use crate::steer::{
    About, DirectionKind, Evidence, LayerVector, Method, Positions, Selection, Sidecar,
    SteeringVector,
};
use crate::{Error, Geometry, Result, fingerprint};

/// The model that a vector is bound to, read from its file without loading it.
#[derive(Debug, Clone, PartialEq)]
pub struct Base {
    /// `general.architecture`.
    pub architecture: String,
    /// `general.name`, or the file's stem.
    pub name: String,
    /// See [`fingerprint`](crate::fingerprint()).
    pub fingerprint: String,
    /// The shape of its attention.
    pub geometry: Geometry,
}

impl Base {
    /// Reads it from a model's file.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Gguf`] for a file that cannot be read or is no GGUF,
    /// [`Error::Unsupported`] for a model without heads.
    pub fn read(model: &Path) -> Result<Self> {
        let file = Gguf::open_model(model)?;
        if let Some(kind) = file.opt_str("general.type")?.filter(|&kind| kind != "model") {
            let problem = format!("is `{}`: give a model with -m", kind.escape_debug());
            return Err(file.fault("key general.type", problem));
        }
        Ok(Self {
            architecture: file.str("general.architecture")?.to_owned(),
            name: file.opt_str("general.name")?.map_or_else(|| stem(model), str::to_owned),
            fingerprint: fingerprint(&file)?,
            geometry: Geometry::read(&file)?,
        })
    }
}

/// Where a vector comes from: what an imported sidecar says in place of a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The file's name.
    pub name: String,
    /// SHA-256 of the file, 64 hexadecimal digits.
    pub sha256: String,
}

/// The sum of control vectors, each times its factor, as llama.cpp's programs add those of several
/// `--control-vector-scaled`.
///
/// # Errors
/// [`Error::Invalid`] for no control vector, one of another width, or a layer that the model does not
/// have.
pub fn control_vectors(base: &Base, parts: &[(ControlVector, f32)]) -> Result<SteeringVector> {
    let Geometry { n_layer, n_head, d_head, n_embd, .. } = base.geometry;
    let mut sum: Option<LayerVector> = None;
    for (part, factor) in parts {
        if part.n_embd() != n_embd {
            let problem = format!(
                "its directions have {} values, and the layers of this model give {n_embd}: it \
                 was made for another model",
                part.n_embd()
            );
            return Err(Error::invalid("control vector", problem));
        }
        let one = &LayerVector::new(n_layer, n_embd, part.directions.clone())? * *factor;
        sum = Some(match sum {
            None => one,
            Some(sum) => sum.plus(&one)?,
        });
    }
    let sum = sum.ok_or_else(|| Error::invalid("control vector", "there is none"))?;
    SteeringVector::of_layers(n_head, d_head, sum)
}

/// A sidecar of an imported vector. `alpha`: the strength to store.
#[must_use]
pub fn sidecar(
    base: &Base,
    vector: SteeringVector,
    name: &str,
    origin: Origin,
    (direction, alpha, positions): (DirectionKind, f32, Positions),
) -> Sidecar {
    let about = About {
        architecture: base.architecture.clone(),
        name: name.to_owned(),
        description: Some(format!("imported from {}", origin.name)),
        license: None,
        author: None,
        languages: Vec::new(),
        base_model: None,
        model_name: base.name.clone(),
        model_fingerprint: base.fingerprint.clone(),
        candor_version: env!("CARGO_PKG_VERSION").to_owned(),
        direction,
        alpha,
        positions,
        seed: 0,
        data_name: origin.name,
        data_sha256: origin.sha256,
        prompt: String::new(),
        split: About::imported_split(),
        method: Method::default(),
        selection: Selection::default(),
        head_accuracy: Vec::new(),
        head_effect: Vec::new(),
        head_cost: Vec::new(),
        evidence: Evidence::default(),
    };
    Sidecar { vector, about }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn base() -> Base {
        Base {
            architecture: "llama".to_owned(),
            name: "Tiny".to_owned(),
            fingerprint: "01".repeat(32),
            geometry: Geometry { n_layer: 4, n_head: 2, n_head_kv: 1, d_head: 2, n_embd: 3 },
        }
    }

    fn control_vector(directions: &[(usize, [f32; 3])]) -> ControlVector {
        let directions: BTreeMap<_, _> =
            directions.iter().map(|(layer, values)| (*layer, values.to_vec())).collect();
        ControlVector::new("llama", directions).unwrap()
    }

    #[test]
    fn control_vectors_add_up_as_in_llama_cpp() {
        let [a, b] = [[(1, [0.1, -0.2, 0.3]), (3, [1.0; 3])], [(2, [5.0; 3]), (3, [0.7; 3])]];
        let parts = [(control_vector(&a), 1.0), (control_vector(&b), -0.3)];
        let vector = control_vectors(&base(), &parts).unwrap();
        let offsets = vector.layer_offsets(1.0);
        assert_eq!(offsets[&1], [0.1, -0.2, 0.3]);
        assert_eq!(offsets[&3], [1.0 + 0.7 * -0.3; 3]);
        assert_eq!(offsets.len(), 3);
        assert!(vector.heads().is_empty());
    }

    #[test]
    fn refuses_control_vectors_of_another_model() {
        let problem = |base: &Base, parts: &[(ControlVector, f32)]| {
            control_vectors(base, parts).unwrap_err().to_string()
        };
        assert_eq!(problem(&base(), &[]), "control vector: there is none");
        let deep = problem(&base(), &[(control_vector(&[(4, [1.0; 3])]), 1.0)]);
        assert!(deep.starts_with("direction of layer 4: cannot be"), "{deep}");
        let geometry = Geometry { n_embd: 5, ..base().geometry };
        let wide =
            problem(&Base { geometry, ..base() }, &[(control_vector(&[(1, [1.0; 3])]), 1.0)]);
        assert!(wide.contains("have 3 values") && wide.contains("give 5"), "{wide}");
    }

    /// What llama.cpp's format holds comes back to the last bit.
    #[test]
    fn a_control_vector_comes_back_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let values = [(1, [f32::MIN_POSITIVE, -0.0, 1e30]), (2, [0.1, 0.2, -0.3])];
        let original = control_vector(&values);
        original.write(&path("a.gguf")).unwrap();
        let read = ControlVector::read(&path("a.gguf")).unwrap();
        let vector = control_vectors(&base(), &[(read, 1.0)]).unwrap();
        let origin = Origin { name: "a.gguf".to_owned(), sha256: "ab".repeat(32) };
        let how = (DirectionKind::Given, 1.0, Positions::All);
        sidecar(&base(), vector, "a", origin, how).write(&path("s.gguf")).unwrap();
        let sidecar = Sidecar::read(&path("s.gguf")).unwrap();
        let back = ControlVector::of_layers(&sidecar.vector, sidecar.about.alpha, "llama").unwrap();
        back.write(&path("b.gguf")).unwrap();
        let bytes = |name: &str| std::fs::read(path(name)).unwrap();
        assert_eq!(bytes("a.gguf"), bytes("b.gguf"));
    }
}
