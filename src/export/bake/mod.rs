//! A model with a vector inside.
//!
//! Steering every token alike adds the same to every attention output, and what a constant does
//! after the output projection `wo` is a constant too: `wo (x + a) = wo x + wo a`. So the file of a
//! baked model has, per steered layer, the bias `blk.<il>.attn_output.bias` F32 `[n_embd]`:
//!
//! ```text
//! bias = wo · concat_h(alpha sigma theta_h)  (+ the bias that was there)
//! ```
//!
//! summed in f64 over the weights as llama.cpp stores them. Where llama.cpp adds no bias there, a
//! bias on V does it, within its limits: see [`Place::ValueBias`]. Everything else is copied byte
//! for byte. llama.cpp rounds the inputs of a quantized `wo` (to Q8_0, for one) but not the bias, so
//! that the logits of a baked model and those of steering differ by that rounding.
//!
//! The metadata say what was baked: [`BakeRecord`].

mod place;
mod record;
mod value;
mod weights;

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

pub use self::place::Place;
pub use self::record::BakeRecord;
use self::weights::{add_present, for_each_row};
use crate::file::{check_room, is_same};
use crate::gguf::{Builder, Gguf, SPLIT_PREFIX, TensorInfo, TensorType};
use crate::steer::SteeringVector;
use crate::{Error, Geometry, Result, fingerprint};

/// How to bake a vector.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct BakeParams {
    /// The strength, in units of sigma; at 0 the model stays what it is.
    pub alpha: f32,
    /// The vector's name, for the record.
    pub name: String,
    /// The name of the file that it comes from, for the record.
    pub source: String,
    /// The fingerprint of that file, for the record.
    pub vector_fingerprint: String,
    /// Hashes of what it was fitted on, ascending, for the record; `None` where nobody knows.
    pub seen: Option<Vec<u64>>,
    /// The form of its prompts, for the record.
    pub prompt: String,
    /// Takes what is nearest where the heads of a key/value head move differently and only V can
    /// have a bias: see [`Place::ValueBias`].
    pub approximate: bool,
}

setters! {
    BakeParams {
        with_alpha(alpha: f32),
        with_name(name: String),
        with_source(source: String),
        with_vector_fingerprint(vector_fingerprint: String),
        with_seen(seen: Option<Vec<u64>>),
        with_prompt(prompt: String),
        with_approximate(approximate: bool),
    }
}

/// What a bake puts into a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Baked {
    /// Where the biases go.
    pub place: Place,
    /// Layers that get a bias, or another one, ascending.
    pub layers: Vec<usize>,
    /// Heads that are steered in them.
    pub n_head: usize,
    /// How far each of `layers` is from steering: ‖`wo` a − `wo` v‖ ⁄ ‖`wo` a‖, where a is what
    /// steering adds to the attention outputs and v what the baked model adds; 0 where both are the
    /// same.
    pub errors: Vec<f64>,
}

impl Baked {
    /// The largest of the errors; 0 where the bake is exact.
    #[must_use]
    pub fn error(&self) -> f64 {
        self.errors.iter().copied().fold(0.0, f64::max)
    }
}

/// A bake that is computed and not yet written.
#[derive(Debug)]
pub struct Bake {
    file: Gguf,
    /// By name.
    biases: BTreeMap<String, Vec<f32>>,
    baked: Baked,
    record: BakeRecord,
}

/// What stands in one layer's file for what steering adds.
struct LayerBias {
    /// Biases by name.
    biases: Vec<(String, Vec<f32>)>,
    /// As in [`Baked::errors`].
    error: f64,
}

impl Bake {
    /// Computes the biases. `base` is the model, or the first file of a split one; `on_layer` is
    /// told how many layers are done, and of how many.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for an architecture that takes no such bias, [`Error::Invalid`] for a
    /// vector of another geometry or one that V cannot hold, an `alpha` that is not finite or makes
    /// a bias so, or a base that is baked already, [`Error::Gguf`] for a base that breaks the format,
    /// [`Error::Io`] where it cannot be read, [`Error::Interrupted`] where `on_layer` breaks.
    pub fn new(
        base: &Path,
        vector: &SteeringVector,
        params: &BakeParams,
        mut on_layer: impl FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Self> {
        let file = Gguf::open_model(base)?;
        let place = check_base(&file)?;
        let geometry = Geometry::read(&file)?;
        vector.check_geometry(geometry.n_layer, geometry.n_head, geometry.d_head)?;
        if vector.layers().is_some() {
            let problem = "directions of layers have no place in a bias of the attention: export \
                           them as a control vector";
            return Err(Error::invalid("steering vector", problem));
        }

        let alpha = params.alpha;
        let offsets = vector.offsets(alpha);
        if offsets.values().flatten().any(|value| !value.is_finite()) {
            return Err(Error::invalid("alpha", "with it the vector is not finite"));
        }
        let offsets: Vec<_> =
            offsets.into_iter().filter(|(_, offset)| offset.iter().any(|&x| x != 0.0)).collect();
        let mut biases = BTreeMap::new();
        let mut baked = Baked { place, layers: Vec::new(), n_head: 0, errors: Vec::new() };
        let n = offsets.len();
        for (i, (layer, offset)) in offsets.into_iter().enumerate() {
            if on_layer(i, n).is_break() {
                return Err(Error::Interrupted { kept: "nothing is written".to_owned() });
            }
            let found = match place {
                Place::OutputBias => output_bias(&file, layer, &offset)?,
                Place::ValueBias => {
                    value::bias(&file, geometry, layer, &offset, params.approximate)?
                }
            };
            baked.layers.push(layer);
            baked.errors.push(found.error);
            biases.extend(found.biases);
        }
        let moves = |layer: usize| baked.layers.contains(&layer);
        baked.n_head = vector.heads().iter().filter(|head| moves(head.site.layer)).count();
        let record = BakeRecord {
            candor_version: env!("CARGO_PKG_VERSION").to_owned(),
            name: params.name.clone(),
            source: params.source.clone(),
            vector: params.vector_fingerprint.clone(),
            alpha,
            n_head: baked.n_head,
            place,
            error: baked.error(),
            seen: params.seen.clone(),
            prompt: params.prompt.clone(),
            base: fingerprint(&file)?,
        };
        Ok(Self { file, biases, baked, record })
    }

    /// What it puts into the model.
    #[must_use]
    pub fn baked(&self) -> &Baked {
        &self.baked
    }

    /// What the metadata will say of it.
    #[must_use]
    pub fn record(&self) -> &BakeRecord {
        &self.record
    }

    /// Bytes of the baked file.
    #[must_use]
    pub fn n_byte(&self) -> u64 {
        self.builder().n_byte()
    }

    /// Writes the baked model: beside `target`, then renamed. Tensors pass in pieces of a megabyte.
    /// `on_write` is told how many bytes are written; where it breaks, nothing is left.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a target that is the base, or whose disk has not the room,
    /// [`Error::Io`] where a file cannot be read or written, [`Error::Interrupted`] where `on_write`
    /// breaks.
    pub fn write(&self, target: &Path, on_write: impl FnMut(u64) -> ControlFlow<()>) -> Result<()> {
        if self.file.paths().any(|path| is_same(path, target)) {
            return Err(Error::invalid("target", "it is the base model: bake into another file"));
        }
        let builder = self.builder();
        check_room(target, builder.n_byte())?;
        builder.write_watched(target, on_write)
    }

    fn builder(&self) -> Builder<'_> {
        let mut builder = Builder::new();
        for (key, value) in self.file.entries().filter(|(key, _)| !key.starts_with(SPLIT_PREFIX)) {
            builder.set(key, value.clone());
        }
        self.record.set(&mut builder);
        let is_new = |tensor: &&TensorInfo| !self.biases.contains_key(&tensor.name);
        for tensor in self.file.tensors().iter().filter(is_new) {
            let copy = |out: &mut dyn Write| weights::copy(&self.file, tensor, out);
            builder.tensor_from(&tensor.name, &tensor.dims, tensor.kind, copy);
        }
        for (name, bias) in &self.biases {
            let bytes: Vec<u8> = bias.iter().flat_map(|value| value.to_le_bytes()).collect();
            builder.tensor(name, &[bias.len() as u64], TensorType::F32, bytes);
        }
        builder
    }
}

/// Writes the model of `base` with `vector` inside to `target`: every token is steered, in every
/// program.
///
/// # Errors
/// Those of [`Bake::new`] and [`Bake::write`].
pub fn bake(
    base: &Path,
    vector: &SteeringVector,
    params: &BakeParams,
    target: &Path,
) -> Result<Baked> {
    let bake = Bake::new(base, vector, params, |_, _| ControlFlow::Continue(()))?;
    bake.write(target, |_| ControlFlow::Continue(()))?;
    Ok(bake.baked)
}

/// Where this model takes a bias: before a vector is looked for.
pub(crate) fn check_base(file: &Gguf) -> Result<Place> {
    if let Some(kind) = file.opt_str("general.type")?.filter(|&kind| kind != "model") {
        let problem = format!("the file holds a `{}`, not a model", kind.escape_debug());
        return Err(file.fault("key general.type", problem));
    }
    if BakeRecord::is_in(file) {
        return Err(Error::invalid(
            file.path().display().to_string(),
            "a vector is baked into it already: bake into the base model, the sum of vectors if \
             both are wanted",
        ));
    }
    let architecture = file.str("general.architecture")?;
    let place = Place::of(architecture);
    let clamp = format!("{architecture}.attention.clamp_kqv");
    if place == Some(Place::ValueBias) && file.opt_float(&clamp)?.is_some_and(|clamp| clamp > 0.0) {
        return Err(unsupported(
            architecture,
            "this model cuts large values of V off (attention.clamp_kqv), a bias among them, and \
             llama.cpp adds none after its attention output",
        ));
    }
    place.ok_or_else(|| {
        let problem = "llama.cpp adds no bias after its attention output, nor one to V that \
                       reaches it unchanged, so there is no place to bake a vector into";
        unsupported(architecture, problem)
    })
}

fn unsupported(architecture: &str, problem: &str) -> Error {
    Error::Unsupported {
        architecture: architecture.to_owned(),
        problem: format!(
            "{problem}: steer it with candor, or export a control vector, which \
             every llama.cpp program can load"
        ),
    }
}

/// `wo` of a layer.
fn wo(file: &Gguf, layer: usize) -> Result<&TensorInfo> {
    let name = format!("blk.{layer}.attn_output.weight");
    let wo = file.tensor(&name).ok_or_else(|| {
        Error::invalid(format!("layer {layer}"), "the model has no attention there")
    })?;
    if file.tensor(&format!("blk.{layer}.attn_output.scale")).is_some() {
        let problem = "its output is scaled by another tensor, which is not supported yet";
        return Err(file.fault(format!("tensor {name}"), problem));
    }
    Ok(wo)
}

/// `wo · offset` of one layer: F64 `[n_embd]`.
pub(super) fn project(file: &Gguf, layer: usize, offset: &[f32]) -> Result<Vec<f64>> {
    let mut sums = Vec::new();
    for_each_row(file, wo(file, layer)?, |row| {
        let products = row.iter().zip(offset).map(|(&w, &a)| f64::from(w) * f64::from(a));
        sums.push(products.sum::<f64>());
    })?;
    Ok(sums)
}

/// `wo · offset` of one layer and the bias that the file has there: F32 `[n_embd]`.
fn output_bias(file: &Gguf, layer: usize, offset: &[f32]) -> Result<LayerBias> {
    let mut sums = project(file, layer, offset)?;
    let name = format!("blk.{layer}.attn_output.bias");
    add_present(file, &name, &mut sums)?;
    Ok(LayerBias { biases: vec![(name, finite(layer, &sums, f32::MAX)?)], error: 0.0 })
}

/// Sums as they are stored, none beyond `limit`.
fn finite(layer: usize, sums: &[f64], limit: f32) -> Result<Vec<f32>> {
    let bias: Vec<f32> = sums.iter().map(|&sum| sum as f32).collect();
    if bias.iter().all(|value| value.abs() <= limit) {
        return Ok(bias);
    }
    let problem = format!("with it the bias of layer {layer} is beyond what the model can compute");
    Err(Error::invalid("alpha", problem))
}
