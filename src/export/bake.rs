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
//! summed in f64 over the weights as llama.cpp stores them. Everything else is copied byte for byte.
//! llama.cpp rounds the inputs of a quantized `wo` (to Q8_0, for one) but not the bias, so that the
//! logits of a baked model and those of steering differ by that rounding.
//!
//! The metadata says what was baked: `candor.bake.version` (U32, 1), `candor.bake.vector` (what the
//! caller names it: a sidecar's fingerprint), `candor.bake.alpha` (F32), `candor.bake.heads` (U32)
//! and `candor.bake.base` (the fingerprint of the model, which a bake leaves as it is).

use std::collections::BTreeMap;
use std::path::Path;

use crate::ffi::dequantize::Dequantizer;
use crate::gguf::{Builder, Gguf, TensorInfo, TensorType};
use crate::steer::SteeringVector;
use crate::{Error, Geometry, Result, fingerprint};

/// Architectures whose loader takes `attn_output.bias` and whose graph adds it: read in llama.cpp's
/// `src/models/`. Not here: `ernie4_5`, `falcon-h1`, `llada` and `refact`, which load it and leave it
/// out of the graph.
pub const BAKEABLE: &[&str] = &[
    "apertus",
    "bloom",
    "codeshell",
    "gpt-oss",
    "gpt2",
    "gptneox",
    "granite",
    "granite_swa",
    "granitehybrid",
    "granitemoe",
    "jais",
    "jais2",
    "llama",
    "minicpm",
    "mistral3",
    "mpt",
    "nemotron",
    "nemotron_h",
    "pangu-embedded",
    "phi2",
    "phimoe",
    "starcoder",
    "starcoder2",
];

const VERSION_KEY: &str = "candor.bake.version";
const VERSION: u32 = 1;

/// What a bake did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Baked {
    /// Layers that got a bias, or another one.
    pub layers: Vec<usize>,
    /// Heads that are steered in them.
    pub n_head: usize,
}

/// Writes the model of `base` with `vector` at strength `alpha` inside to `target`: every token is
/// steered, in every program. `name` says in its metadata which vector it is.
///
/// # Errors
/// [`Error::Unsupported`] for an architecture without this bias, [`Error::Invalid`] for a vector of
/// another geometry, an `alpha` that is not finite or makes a bias so, a target that is the base, or
/// a base that is baked already, [`Error::Gguf`] for a base that breaks the format, [`Error::Io`]
/// where a file cannot be read or written.
pub fn bake(
    base: &Path,
    vector: &SteeringVector,
    alpha: f32,
    name: &str,
    target: &Path,
) -> Result<Baked> {
    let file = Gguf::open(base)?;
    let architecture = file.str("general.architecture")?;
    check_base(&file, architecture)?;
    let geometry = Geometry::read(&file)?;
    vector.check_geometry(geometry.n_layer, geometry.n_head, geometry.d_head)?;
    if vector.layers().is_some() {
        let problem = "directions of layers have no place in a bias of the attention: export them \
                       as a control vector";
        return Err(Error::invalid("steering vector", problem));
    }
    let is_base = || Some(base.canonicalize().ok()? == target.canonicalize().ok()?);
    if is_base() == Some(true) {
        return Err(Error::invalid("target", "it is the base model: bake into another file"));
    }

    let mut biases = BTreeMap::new();
    for (layer, offset) in vector.offsets(alpha) {
        biases.insert(layer, bias(&file, layer, &offset)?);
    }
    let mut builder = Builder::new();
    for (key, value) in file.entries() {
        builder.set(key, value.clone());
    }
    builder
        .set(VERSION_KEY, VERSION)
        .set("candor.bake.vector", name)
        .set("candor.bake.alpha", alpha)
        .set("candor.bake.heads", u32::try_from(vector.heads().len()).unwrap_or(u32::MAX))
        .set("candor.bake.base", fingerprint(&file)?);
    let bias_names: Vec<String> = biases.keys().map(|layer| bias_name(*layer)).collect();
    for tensor in file.tensors().iter().filter(|tensor| !bias_names.contains(&tensor.name)) {
        builder.tensor(&tensor.name, &tensor.dims, tensor.kind, file.bytes(tensor));
    }
    for (name, bias) in bias_names.iter().zip(biases.values()) {
        let bytes: Vec<u8> = bias.iter().flat_map(|value| value.to_le_bytes()).collect();
        builder.tensor(name, &[bias.len() as u64], TensorType::F32, bytes);
    }
    builder.write(target)?;
    Ok(Baked { layers: biases.into_keys().collect(), n_head: vector.heads().len() })
}

fn check_base(file: &Gguf, architecture: &str) -> Result<()> {
    if !BAKEABLE.contains(&architecture) {
        let problem = "llama.cpp adds no bias after its attention output, so there is no place to \
                       bake a vector into: steer it with `candor run`, `candor chat` or the library";
        return Err(Error::Unsupported {
            architecture: architecture.to_owned(),
            problem: problem.to_owned(),
        });
    }
    if file.opt_uint("split.count")?.unwrap_or(1) > 1 {
        return Err(file.fault("key split.count", "it is one of several parts: merge them first"));
    }
    if file.get(VERSION_KEY).is_some() {
        return Err(Error::invalid(
            file.path().display().to_string(),
            "a vector is baked into it already: bake into the base model, the sum of vectors if \
             both are wanted",
        ));
    }
    Ok(())
}

fn bias_name(layer: usize) -> String {
    format!("blk.{layer}.attn_output.bias")
}

/// `wo · offset` of one layer: F64 `[n_embd]`.
pub(super) fn project(file: &Gguf, layer: usize, offset: &[f32]) -> Result<Vec<f64>> {
    let name = format!("blk.{layer}.attn_output.weight");
    let wo = file.tensor(&name).ok_or_else(|| {
        Error::invalid(format!("layer {layer}"), "the model has no attention there")
    })?;
    if file.tensor(&format!("blk.{layer}.attn_output.scale")).is_some() {
        let problem = "its output is scaled by another tensor, which is not supported yet";
        return Err(file.fault(format!("tensor {name}"), problem));
    }
    let mut sums = Vec::new();
    for_each_row(file, wo, |row| {
        let products = row.iter().zip(offset).map(|(&w, &a)| f64::from(w) * f64::from(a));
        sums.push(products.sum::<f64>());
    })?;
    Ok(sums)
}

/// `wo · offset` of one layer and the bias that the file has there: F32 `[n_embd]`.
fn bias(file: &Gguf, layer: usize, offset: &[f32]) -> Result<Vec<f32>> {
    let mut sums = project(file, layer, offset)?;
    if let Some(present) = file.tensor(&bias_name(layer)) {
        let mut values = Vec::new();
        for_each_row(file, present, |row| values.extend(row.iter().map(|&x| f64::from(x))))?;
        if values.len() != sums.len() {
            let problem = format!("has {} values, expected {}", values.len(), sums.len());
            return Err(file.fault(format!("tensor {}", present.name), problem));
        }
        sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
    }
    let bias: Vec<f32> = sums.iter().map(|&sum| sum as f32).collect();
    if bias.iter().all(|value| value.is_finite()) {
        return Ok(bias);
    }
    Err(Error::invalid("alpha", format!("with it the bias of layer {layer} is not finite")))
}

/// Calls `each` with the rows of a tensor as floats, one at a time.
fn for_each_row(file: &Gguf, tensor: &TensorInfo, mut each: impl FnMut(&[f32])) -> Result<()> {
    let n = usize::try_from(tensor.dims[0]).unwrap_or(usize::MAX);
    let n_byte = tensor.dims[0] / tensor.kind.block_len() * tensor.kind.block_bytes();
    // A tensor's bytes lie in memory, so a row's do.
    let rows = file.bytes(tensor).chunks_exact(n_byte as usize);
    let mut values = vec![0f32; n];
    if tensor.kind == TensorType::F32 {
        for row in rows {
            let (words, _) = row.as_chunks();
            values
                .iter_mut()
                .zip(words)
                .for_each(|(value, word)| *value = f32::from_le_bytes(*word));
            each(&values);
        }
        return Ok(());
    }
    let mut dequantizer = Dequantizer::new(tensor.kind).ok_or_else(|| {
        let problem = format!("ggml does not convert {} to floats", tensor.kind.name());
        file.fault(format!("tensor {}", tensor.name), problem)
    })?;
    for row in rows {
        dequantizer.row(row, &mut values);
        each(&values);
    }
    Ok(())
}
