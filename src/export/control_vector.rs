//! llama.cpp's control vectors: one direction per layer, added to the layer's output.
//!
//! The format is that of llama.cpp's `cvector-generator` and of `common_control_vector_load`
//! (`common/common.cpp`), which reads it for `--control-vector`:
//!
//! | key | type | value |
//! |---|---|---|
//! | `general.architecture` | string | `controlvector` |
//! | `controlvector.model_hint` | string | `general.architecture` of the model that it is for |
//! | `controlvector.layer_count` | i32 | the number of directions: one less than the model's layers where each has one |
//!
//! and a tensor `direction.<il>` F32 `[n_embd]` for each layer from 1 on. llama.cpp adds it after
//! the layer's feed-forward block, to what the graph names `l_out-<il>`; layer 0 can have none.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::shown;
use crate::gguf::{Builder, Gguf, TensorInfo, TensorType, Value};
use crate::steer::SteeringVector;
use crate::{Error, Result};

/// `general.architecture` of a control vector's file.
pub const ARCHITECTURE: &str = "controlvector";
const HINT_KEY: &str = "controlvector.model_hint";
const COUNT_KEY: &str = "controlvector.layer_count";
/// The keys that [`ControlVector`] knows, and the one that its writer sets by itself.
const KEYS: [&str; 4] = ["general.architecture", HINT_KEY, COUNT_KEY, "general.alignment"];
/// The last layer that is believed.
const MAX_LAYER: usize = 1 << 16;

/// One direction per layer, as llama.cpp's programs take it with `--control-vector`.
#[derive(Debug, Clone, PartialEq)]
pub struct ControlVector {
    /// `general.architecture` of the model that it is for; empty where the file says nothing.
    pub model_hint: String,
    /// `controlvector.layer_count`: how many directions its writer counted. llama.cpp does not read
    /// it.
    pub layer_count: usize,
    /// What is added to the output of each layer, by layer, from 1: F32 `[n_embd]`.
    pub directions: BTreeMap<usize, Vec<f32>>,
    /// All other metadata, in the file's order.
    pub metadata: Vec<(String, Value)>,
}

impl ControlVector {
    /// A control vector of these directions, without further metadata.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn new(
        model_hint: impl Into<String>,
        directions: BTreeMap<usize, Vec<f32>>,
    ) -> Result<Self> {
        let vector = Self {
            model_hint: model_hint.into(),
            layer_count: directions.len(),
            directions,
            metadata: Vec::new(),
        };
        vector.check()?;
        Ok(vector)
    }

    /// The directions of layers at strength `alpha`, exactly; `model_hint`: `general.architecture` of
    /// the model. Only a vector that steers no heads is one.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a vector that steers heads or no layers, and as
    /// [`check`](Self::check).
    pub fn of_layers(vector: &SteeringVector, alpha: f32, model_hint: &str) -> Result<Self> {
        if vector.layers().is_none() || !vector.heads().is_empty() {
            let problem = "only directions of layers are a control vector as they are";
            return Err(Error::invalid("steering vector", problem));
        }
        Self::new(model_hint, vector.layer_offsets(alpha))
    }

    /// Reads a file and checks all of it.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read, [`Error::Gguf`], naming the key or tensor, when it
    /// is not GGUF, not a control vector, or holds what llama.cpp would refuse.
    pub fn read(path: &Path) -> Result<Self> {
        Self::of(&Gguf::open(path)?)
    }

    /// As [`read`](Self::read), of a file that is open.
    pub(crate) fn of(file: &Gguf) -> Result<Self> {
        let architecture = file.str("general.architecture")?;
        if architecture != ARCHITECTURE {
            let problem = format!("is `{}`, expected `{ARCHITECTURE}`", shown(architecture));
            return Err(file.fault("key general.architecture", problem));
        }
        let mut directions = BTreeMap::new();
        for tensor in file.tensors() {
            let place = || format!("tensor {}", shown(&tensor.name));
            let layer = layer_of(&tensor.name).ok_or_else(|| {
                file.fault(place(), "is not `direction.<layer>` with a layer from 1 on")
            })?;
            directions.insert(layer, direction(file, tensor)?);
        }
        let count = file.opt_uint(COUNT_KEY)?;
        let vector = Self {
            model_hint: file.opt_str(HINT_KEY)?.unwrap_or_default().to_owned(),
            layer_count: match count.map(usize::try_from) {
                Some(Ok(count)) if count <= MAX_LAYER => count,
                None => directions.len(),
                _ => return Err(file.fault(format!("key {COUNT_KEY}"), "is out of range")),
            },
            directions,
            metadata: file
                .entries()
                .filter(|(key, _)| !KEYS.contains(key))
                .map(|(key, value)| (key.to_owned(), value.clone()))
                .collect(),
        };
        vector.faults().map_err(|(place, problem)| file.fault(place, problem))?;
        Ok(vector)
    }

    /// Writes the file; an old one is replaced when the new one is complete. The same content gives
    /// the same bytes.
    ///
    /// # Errors
    /// As [`check`](Self::check); [`Error::Io`] when the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        self.check()?;
        self.builder().write(path)
    }

    /// Checks what the types leave open.
    ///
    /// # Errors
    /// [`Error::Invalid`], naming the layer, where there are no directions, one is of layer 0 or of
    /// another length than the others, or holds NaN or infinity.
    pub fn check(&self) -> Result<()> {
        self.faults().map_err(|(place, problem)| Error::invalid(place, problem))
    }

    /// Values of a direction; 0 where there are none.
    #[must_use]
    pub fn n_embd(&self) -> usize {
        self.directions.values().next().map_or(0, Vec::len)
    }

    /// What llama.cpp's `llama_set_adapter_cvec` takes for a model of `n_layer` layers: layer 1 first,
    /// zeros where a layer has no direction, F32 `[n_layer - 1, n_embd]`.
    ///
    /// # Errors
    /// [`Error::Invalid`] where a direction is of a layer that the model does not have.
    pub fn to_rows(&self, n_layer: usize) -> Result<Vec<f32>> {
        let n_embd = self.n_embd();
        let mut rows = vec![0.0; n_embd * n_layer.saturating_sub(1)];
        for (&layer, direction) in &self.directions {
            let row =
                layer.checked_sub(1).and_then(|i| rows.get_mut(i * n_embd..)?.get_mut(..n_embd));
            match row {
                Some(row) if direction.len() == n_embd => row.copy_from_slice(direction),
                _ => {
                    let problem = format!("has a direction, and the model has {n_layer} layers");
                    return Err(Error::invalid(format!("layer {layer}"), problem));
                }
            }
        }
        Ok(rows)
    }

    /// The place and the problem of what is wrong, if anything is.
    fn faults(&self) -> Result<(), (String, String)> {
        let n_embd = self.n_embd();
        if n_embd == 0 {
            return Err(("tensors".to_owned(), "there are no directions".to_owned()));
        }
        for (layer, direction) in &self.directions {
            let fault = |problem: String| Err((format!("tensor direction.{layer}"), problem));
            if !(1..=MAX_LAYER).contains(layer) {
                return fault("llama.cpp adds nothing to this layer: it begins with 1".to_owned());
            }
            if direction.len() != n_embd {
                let n = direction.len();
                return fault(format!("has {n} values, expected {n_embd} as in the others"));
            }
            if direction.iter().any(|value| !value.is_finite()) {
                return fault("holds NaN or infinity".to_owned());
            }
        }
        Ok(())
    }

    /// The file.
    fn builder(&self) -> Builder<'static> {
        let mut file = Builder::new();
        file.set("general.architecture", ARCHITECTURE)
            .set(HINT_KEY, self.model_hint.as_str())
            .set(COUNT_KEY, i32::try_from(self.layer_count).unwrap_or(i32::MAX));
        for (key, value) in self.metadata.iter().filter(|(key, _)| !key.is_empty()) {
            if !KEYS.contains(&key.as_str()) {
                file.set(key, value.clone());
            }
        }
        for (layer, direction) in &self.directions {
            let bytes: Vec<u8> = direction.iter().flat_map(|value| value.to_le_bytes()).collect();
            let name = format!("direction.{layer}");
            file.tensor(&name, &[direction.len() as u64], TensorType::F32, bytes);
        }
        file
    }
}

/// The layer of a tensor `direction.<il>`, written as llama.cpp writes it.
fn layer_of(name: &str) -> Option<usize> {
    let digits = name.strip_prefix("direction.")?;
    let layer: usize = digits.parse().ok()?;
    (layer.to_string() == digits && (1..=MAX_LAYER).contains(&layer)).then_some(layer)
}

/// The elements of a tensor of one dimension.
fn direction(file: &Gguf, tensor: &TensorInfo) -> Result<Vec<f32>> {
    if tensor.dims.iter().skip(1).any(|&n| n != 1) {
        let problem = format!("has shape {:?}, expected one dimension", tensor.dims);
        return Err(file.fault(format!("tensor {}", tensor.name), problem));
    }
    file.f32s_of(tensor)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tiny() -> ControlVector {
        let directions = BTreeMap::from([(1, vec![0.5, -1.0]), (3, vec![0.0, 2.0])]);
        ControlVector::new("llama", directions).unwrap()
    }

    fn read_back(file: &Builder) -> Result<ControlVector> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.gguf");
        file.write(&path).unwrap();
        ControlVector::read(&path)
    }

    fn refusal(file: &Builder) -> String {
        match read_back(file).expect_err("the file is broken") {
            Error::Gguf { place, problem, .. } => format!("{place}: {problem}"),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn writes_what_llama_cpp_reads() {
        let vector = tiny();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.gguf");
        vector.write(&path).unwrap();
        let file = Gguf::open(&path).unwrap();
        assert_eq!(file.str("general.architecture").unwrap(), "controlvector");
        assert_eq!(file.get(COUNT_KEY), Some(&Value::I32(2)));
        let names: Vec<&str> = file.tensors().iter().map(|tensor| tensor.name.as_str()).collect();
        assert_eq!(names, ["direction.1", "direction.3"]);
        assert_eq!(ControlVector::read(&path).unwrap(), vector);
    }

    #[test]
    fn rows_begin_with_layer_1_and_are_zero_where_there_is_no_direction() {
        assert_eq!(tiny().to_rows(4).unwrap(), [0.5, -1.0, 0.0, 0.0, 0.0, 2.0]);
        let message = tiny().to_rows(3).unwrap_err().to_string();
        assert_eq!(message, "layer 3: has a direction, and the model has 3 layers");
    }

    proptest! {
        #[test]
        fn reading_and_writing_again_changes_nothing(
            layers in prop::collection::btree_map(1usize..40, prop::collection::vec(-1e30f32..1e30, 3), 1..9),
            hint in ".*",
            note in prop::option::of(any::<f32>().prop_filter("a number", |x| !x.is_nan())),
        ) {
            let mut vector = ControlVector::new(hint, layers).unwrap();
            vector.metadata.extend(note.map(|x| ("some.number".to_owned(), x.into())));
            let read = read_back(&vector.builder()).unwrap();
            prop_assert_eq!(read.builder().to_bytes(), vector.builder().to_bytes());
            prop_assert_eq!(read, vector);
        }
    }

    #[test]
    fn refuses_what_is_not_a_control_vector() {
        let mut other = tiny().builder();
        other.set("general.architecture", "llama");
        assert_eq!(
            refusal(&other),
            "key general.architecture: is `llama`, expected `controlvector`"
        );
        let mut negative = tiny().builder();
        negative.set(COUNT_KEY, -1i32);
        assert!(refusal(&negative).contains("expected a non-negative integer"));
        let mut huge = tiny().builder();
        huge.set(COUNT_KEY, u64::MAX);
        assert_eq!(refusal(&huge), "key controlvector.layer_count: is out of range");
        let mut empty = Builder::new();
        empty.set("general.architecture", ARCHITECTURE);
        assert_eq!(refusal(&empty), "tensors: there are no directions");
    }

    #[test]
    fn refuses_tensors_that_llama_cpp_would_refuse_or_misread() {
        for name in [
            "direction.0",
            "direction.01",
            "direction.x",
            "direction.-1",
            "direction.4294967297",
            "d",
        ] {
            let mut file = tiny().builder();
            file.tensor(name, &[2], TensorType::F32, vec![0; 8]);
            let expected =
                format!("tensor {name}: is not `direction.<layer>` with a layer from 1 on");
            assert_eq!(refusal(&file), expected);
        }
        let with = |dims: &[u64], kind: TensorType, bytes: Vec<u8>| {
            let mut file = tiny().builder();
            file.tensor("direction.2", dims, kind, bytes);
            refusal(&file)
        };
        assert_eq!(
            with(&[3], TensorType::F32, vec![0; 12]),
            "tensor direction.2: has 3 values, expected 2 as in the others"
        );
        assert_eq!(
            with(&[1, 2], TensorType::F32, vec![0; 8]),
            "tensor direction.2: has shape [1, 2], expected one dimension"
        );
        assert_eq!(
            with(&[2], TensorType::F16, vec![0; 4]),
            "tensor direction.2: is of type f16, expected f32"
        );
        assert_eq!(
            with(&[2], TensorType::F32, [f32::NAN.to_le_bytes(); 2].concat()),
            "tensor direction.2: holds NaN or infinity"
        );
    }

    #[test]
    fn refuses_to_write_what_it_would_not_read() {
        let message = |directions: &[(usize, Vec<f32>)]| {
            let directions = directions.iter().cloned().collect();
            ControlVector::new("llama", directions).unwrap_err().to_string()
        };
        assert_eq!(message(&[]), "tensors: there are no directions");
        assert!(message(&[(0, vec![1.0])]).starts_with("tensor direction.0: llama.cpp adds"));
        assert!(message(&[(1, vec![1.0]), (2, vec![])]).contains("has 0 values, expected 1"));
    }
}
