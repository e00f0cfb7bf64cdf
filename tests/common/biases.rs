//! Vectors put into a fixture as biases, in the plainest way: what candor's own bakes are held
//! against, and what shows which biases llama.cpp takes.

use std::collections::BTreeMap;
use std::path::Path;

use candor::gguf::{Builder, Gguf, TensorInfo, TensorType};
use candor::probe::Probe;
use candor::steer::{SteeredHead, SteeringVector};
use candor::{Geometry, Site};

use super::fixture::N_EMBD;
use super::steering::vector;

/// A vector that moves all heads of one key/value head of each of these layers alike, and no others:
/// the last one's.
pub fn shared_vector(file: &Gguf, geometry: Geometry, layers: &[usize]) -> SteeringVector {
    let Geometry { n_layer, n_head, d_head, .. } = geometry;
    let drawn = vector(geometry, &layers.iter().map(|&il| (il, 0)).collect::<Vec<_>>(), 1);
    let heads = drawn.heads().iter().flat_map(|first| {
        let n = n_head / n_head_kv(file, geometry, first.site.layer);
        (n_head - n..n_head).map(move |head| SteeredHead {
            site: Site::new(first.site.layer, head),
            probe: Probe { weight: vec![0.0; d_head], bias: 0.0 },
            ..first.clone()
        })
    });
    SteeringVector::new(n_layer, n_head, d_head, heads.collect()).expect("a sound vector")
}

/// Key/value heads of a layer, by the shape of its matrices.
pub fn n_head_kv(file: &Gguf, geometry: Geometry, il: usize) -> usize {
    let Geometry { n_head, d_head, .. } = geometry;
    let rows = |name: &str| file.tensor(&format!("blk.{il}.{name}.weight")).map(|t| t.dims[1]);
    let values = match rows("attn_qkv") {
        Some(rows) => (rows as usize - n_head * d_head) / 2,
        // Where V is not a matrix of its own, no bias is put there.
        None => rows("attn_v").map_or(n_head * d_head, |rows| rows as usize),
    };
    values / d_head
}

/// The model with `wo * offset` in the bias of every layer that has an offset, and zero in others'.
pub fn after_projection(path: &Path, offsets: &BTreeMap<usize, Vec<f32>>) -> Builder<'static> {
    let file = Gguf::open(path).expect("it is sound");
    let mut builder = copy(&file, |name| name.ends_with("attn_output.bias"));
    for (il, tensor) in layers_with(&file, "attn_output.weight") {
        let mut bias = present(&file, &format!("blk.{il}.attn_output.bias"), N_EMBD);
        if let Some(offset) = offsets.get(&il) {
            let wo = file.f32s_of(tensor).expect("the fixture is F32");
            for (bias, row) in bias.iter_mut().zip(wo.chunks_exact(offset.len())) {
                *bias += row.iter().zip(offset).map(|(w, offset)| w * offset).sum::<f32>();
            }
        }
        add(&mut builder, &format!("blk.{il}.attn_output.bias"), &bias);
    }
    builder
}

/// The model with the offset of each group's first head in the bias of V, or in V's part of a bias
/// of Q, K and V.
pub fn on_values(
    path: &Path,
    geometry: Geometry,
    offsets: &BTreeMap<usize, Vec<f32>>,
) -> Builder<'static> {
    let file = Gguf::open(path).expect("it is sound");
    let is_bias = |name: &str| name.ends_with("attn_v.bias") || name.ends_with("attn_qkv.bias");
    let mut builder = copy(&file, is_bias);
    for (il, _) in layers_with(&file, "attn_output.weight") {
        let n_kv = n_head_kv(&file, geometry, il);
        let n = geometry.n_head / n_kv * geometry.d_head;
        let zero = vec![0.0; geometry.n_head * geometry.d_head];
        let offset = offsets.get(&il).unwrap_or(&zero);
        let values = offset.chunks_exact(n).flat_map(|group| &group[..geometry.d_head]);
        let fused = file.tensor(&format!("blk.{il}.attn_qkv.weight"));
        let (name, n_row) = match fused {
            Some(weight) => ("attn_qkv", weight.dims[1] as usize),
            None => ("attn_v", n_kv * geometry.d_head),
        };
        let name = format!("blk.{il}.{name}.bias");
        let mut bias = present(&file, &name, n_row);
        let start = n_row - n_kv * geometry.d_head;
        bias[start..].iter_mut().zip(values).for_each(|(bias, value)| *bias += value);
        add(&mut builder, &name, &bias);
    }
    builder
}

fn copy(file: &Gguf, leave_out: impl Fn(&str) -> bool) -> Builder<'static> {
    let mut builder = Builder::new();
    for (key, value) in file.entries() {
        builder.set(key, value.clone());
    }
    for tensor in file.tensors().iter().filter(|tensor| !leave_out(&tensor.name)) {
        builder.tensor(&tensor.name, &tensor.dims, tensor.kind, file.bytes(tensor).to_vec());
    }
    builder
}

/// The layers that have this tensor.
fn layers_with<'a>(
    file: &'a Gguf,
    name: &'a str,
) -> impl Iterator<Item = (usize, &'a TensorInfo)> + 'a {
    file.tensors().iter().filter_map(move |tensor| {
        let layer = tensor.name.strip_suffix(name)?.strip_prefix("blk.")?.strip_suffix('.')?;
        Some((layer.parse().ok()?, tensor))
    })
}

fn present(file: &Gguf, name: &str, n: usize) -> Vec<f32> {
    let own = file.tensor(name).map(|bias| file.f32s_of(bias).expect("a bias is F32"));
    own.unwrap_or_else(|| vec![0.0; n])
}

fn add(builder: &mut Builder<'static>, name: &str, bias: &[f32]) {
    let bytes: Vec<u8> = bias.iter().flat_map(|value| value.to_le_bytes()).collect();
    builder.tensor(name, &[bias.len() as u64], TensorType::F32, bytes);
}
