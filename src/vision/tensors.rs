//! Which tensors the graph of a kind of projector reads, and of what shape.

use super::shape::{ProjectorKind, ProjectorShape};
use crate::Result;
use crate::gguf::Gguf;

/// What is computed with a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Added or multiplied value by value: F32.
    Plain,
    /// A convolution's kernel, or a matrix that is transposed first: not quantized.
    Kernel,
    /// A matrix that multiplies: of any type that ggml multiplies.
    Matrix,
}

/// A tensor that a graph reads.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) name: String,
    /// `ne[0]` first.
    pub(super) dims: Vec<usize>,
    pub(super) role: Role,
    /// Whether the graph cannot do without.
    pub(super) is_needed: bool,
}

/// Collects them.
#[derive(Default)]
struct List(Vec<Wanted>);

impl List {
    fn add(&mut self, name: impl Into<String>, dims: &[usize], role: Role, is_needed: bool) {
        self.0.push(Wanted { name: name.into(), dims: dims.to_vec(), role, is_needed });
    }

    /// A matrix `[n_in, n_out]` with its bias.
    fn linear(&mut self, name: &str, n_in: usize, n_out: usize, has_bias: bool) {
        self.add(format!("{name}.weight"), &[n_in, n_out], Role::Matrix, true);
        self.add(format!("{name}.bias"), &[n_out], Role::Plain, has_bias);
    }

    /// A norm's weight and bias.
    fn norm(&mut self, name: &str, n: usize, is_needed: bool) {
        self.add(format!("{name}.weight"), &[n], Role::Plain, is_needed);
        self.add(format!("{name}.bias"), &[n], Role::Plain, false);
    }
}

/// Whether a layer's feed-forward matrices have each other's names, as old files of some kinds do:
/// llama.cpp takes them for such where the second is as wide as the encoder.
fn is_swapped(file: &Gguf, shape: &ProjectorShape, layer: usize) -> bool {
    use ProjectorKind::{Gemma3, Idefics3, Mlp, Qwen2Vl, Qwen25Vl};
    matches!(shape.kind, Mlp | Idefics3 | Gemma3 | Qwen2Vl | Qwen25Vl)
        && dim(file, &format!("v.blk.{layer}.ffn_down.weight"), 0) == Some(shape.n_embd)
}

/// The length of a tensor's dimension.
fn dim(file: &Gguf, name: &str, i: usize) -> Option<usize> {
    usize::try_from(*file.tensor(name)?.dims.get(i)?).ok()
}

fn need(file: &Gguf, name: &str, i: usize) -> Result<usize> {
    dim(file, name, i).ok_or_else(|| {
        file.fault(format!("tensor {name}"), format!("it is missing or has no dimension {i}"))
    })
}

/// The width of the feed-forward layers, which some files leave out of their metadata.
pub(super) fn feed_forward(file: &Gguf, shape: &ProjectorShape) -> Result<usize> {
    let i = if is_swapped(file, shape, 0) { 0 } else { 1 };
    need(file, "v.blk.0.ffn_up.weight", i)
}

/// The width of what the projector gives.
pub(super) fn output(file: &Gguf, shape: &ProjectorShape) -> Result<usize> {
    let (name, i) = match shape.kind {
        ProjectorKind::JanusPro => ("mm.1.weight", 1),
        ProjectorKind::Mlp
        | ProjectorKind::Pixtral
        | ProjectorKind::Qwen2Vl
        | ProjectorKind::Qwen25Vl => ("mm.2.weight", 1),
        ProjectorKind::Idefics3 => ("mm.model.fc.weight", 1),
        ProjectorKind::Gemma3 => ("mm.input_projection.weight", 0),
        ProjectorKind::InternVl => ("mm.model.mlp.3.weight", 1),
    };
    need(file, name, i)
}

/// Every tensor that the graph may read.
pub(super) fn wanted(file: &Gguf, shape: &ProjectorShape) -> Vec<Wanted> {
    let mut list = List::default();
    encoder(&mut list, file, shape);
    for layer in 0..shape.n_layer_in_file {
        block(&mut list, file, shape, layer);
    }
    projector(&mut list, file, shape);
    list.0
}

fn encoder(list: &mut List, file: &Gguf, shape: &ProjectorShape) {
    use ProjectorKind::{InternVl, Mlp, Pixtral, Qwen2Vl, Qwen25Vl};
    let (p, n) = (shape.patch_size, shape.n_embd);
    list.add("v.patch_embd.weight", &[p, p, 3, n], Role::Kernel, true);
    match shape.kind {
        // Two frames of a film have a kernel each, and no bias.
        Qwen2Vl | Qwen25Vl => {
            list.add("v.patch_embd.weight.1", &[p, p, 3, n], Role::Kernel, true);
        }
        _ => list.add("v.patch_embd.bias", &[n], Role::Plain, false),
    }
    let n_patch = shape.side().pow(2);
    let n_cls = usize::from(file.tensor("v.class_embd").is_some());
    match shape.kind {
        // Rotary positions.
        Pixtral | Qwen2Vl | Qwen25Vl => {}
        InternVl => {
            list.add("v.class_embd", &[n], Role::Plain, true);
            list.add("v.position_embd.weight", &[n, n_patch + 1], Role::Plain, true);
        }
        Mlp => {
            list.add("v.class_embd", &[n], Role::Plain, false);
            list.add("v.position_embd.weight", &[n, n_patch + n_cls], Role::Plain, true);
        }
        _ => list.add("v.position_embd.weight", &[n, n_patch], Role::Plain, true),
    }
    list.norm("v.pre_ln", n, false);
    list.norm("v.post_ln", n, false);
}

fn block(list: &mut List, file: &Gguf, shape: &ProjectorShape, layer: usize) {
    use ProjectorKind::{InternVl, Mlp, Qwen2Vl, Qwen25Vl};
    let (n, n_ff) = (shape.n_embd, shape.n_ff);
    let name = |part: &str| format!("v.blk.{layer}.{part}");
    list.norm(&name("ln1"), n, true);
    list.norm(&name("ln2"), n, true);
    let is_qwen = matches!(shape.kind, Qwen2Vl | Qwen25Vl);
    let has_fused = file.tensor(&name("attn_qkv.weight")).is_some();
    if has_fused && !is_qwen && shape.kind != Mlp {
        list.linear(&name("attn_qkv"), n, 3 * n, false);
    } else {
        for part in ["attn_q", "attn_k", "attn_v"] {
            list.linear(&name(part), n, n, is_qwen);
        }
    }
    if shape.kind == InternVl {
        for part in ["attn_q_norm", "attn_k_norm"] {
            let weight = name(&format!("{part}.weight"));
            // Of whole vectors, or of each head; a fused matrix has the latter only.
            let is_whole = dim(file, &weight, 0) == Some(n) && !has_fused;
            let width = if is_whole { n } else { shape.d_head };
            list.add(weight, &[width], Role::Plain, false);
        }
        for part in ["ls1.weight", "ls2.weight"] {
            list.add(name(part), &[n], Role::Plain, false);
        }
    }
    list.linear(&name("attn_out"), n, n, false);
    let (up, down) = match is_swapped(file, shape, layer) {
        true => ("ffn_down", "ffn_up"),
        false => ("ffn_up", "ffn_down"),
    };
    list.linear(&name(up), n, n_ff, false);
    list.linear(&name(down), n_ff, n, false);
    list.add(name("ffn_gate.weight"), &[n, n_ff], Role::Matrix, false);
    list.add(name("ffn_gate.bias"), &[n_ff], Role::Plain, false);
}

fn projector(list: &mut List, file: &Gguf, shape: &ProjectorShape) {
    use ProjectorKind::{Gemma3, Idefics3, InternVl, JanusPro, Mlp, Pixtral, Qwen2Vl, Qwen25Vl};
    let (n, n_out) = (shape.n_embd, shape.n_out);
    let n_joined = n * shape.n_merge * shape.n_merge;
    let mut two = |first: &str, second: &str, n_in: usize, has_bias: bool| {
        let inner = dim(file, &format!("{first}.weight"), 1).unwrap_or(0);
        list.linear(first, n_in, inner, has_bias);
        list.linear(second, inner, n_out, has_bias);
    };
    match shape.kind {
        JanusPro => two("mm.0", "mm.1", n, true),
        Mlp => two("mm.0", "mm.2", n, true),
        Qwen2Vl | Qwen25Vl => two("mm.0", "mm.2", n_joined, true),
        InternVl => {
            two("mm.model.mlp.1", "mm.model.mlp.3", n_joined, true);
            list.add("mm.model.mlp.0.weight", &[n_joined], Role::Plain, true);
            list.add("mm.model.mlp.0.bias", &[n_joined], Role::Plain, true);
        }
        Pixtral => {
            two("mm.1", "mm.2", n, false);
            list.add("v.token_embd.img_break", &[n_out], Role::Plain, true);
            if shape.n_merge > 1 {
                list.add("mm.input_norm.weight", &[n], Role::Plain, true);
                list.add("mm.patch_merger.weight", &[n_joined, n], Role::Matrix, true);
            }
        }
        Idefics3 => list.add("mm.model.fc.weight", &[n_joined, n_out], Role::Matrix, true),
        Gemma3 => {
            list.add("mm.input_projection.weight", &[n_out, n], Role::Kernel, true);
            list.add("mm.soft_emb_norm.weight", &[n], Role::Plain, true);
        }
    }
}
