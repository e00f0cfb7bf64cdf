//! A tiny projector, for tests.

use crate::gguf::{Builder, TensorType};

/// A `janus_pro` projector of one layer, for pictures of 16 pixels in patches of 8, whose weights are
/// ones and zeros.
pub(crate) fn tiny_projector(n_out: usize) -> Builder<'static> {
    const N: usize = 8;
    let mut builder = Builder::new();
    builder
        .set("general.architecture", "clip")
        .set("clip.has_vision_encoder", true)
        .set("clip.projector_type", "janus_pro")
        .set("clip.use_gelu", true)
        .set("clip.vision.attention.layer_norm_epsilon", 1e-6f32)
        .set("clip.vision.image_mean", vec![0.5f32; 3])
        .set("clip.vision.image_std", vec![0.5f32; 3]);
    for (key, value) in [
        ("embedding_length", N),
        ("feed_forward_length", N),
        ("block_count", 1),
        ("projection_dim", n_out),
        ("attention.head_count", 2),
        ("image_size", 16),
        ("patch_size", 8),
    ] {
        builder.set(&format!("clip.vision.{key}"), value as u32);
    }
    let mut add = |name: &str, dims: &[usize], value: f32| {
        let dims: Vec<u64> = dims.iter().map(|&n| n as u64).collect();
        let n: u64 = dims.iter().product();
        let bytes = (0..n).flat_map(|_| value.to_le_bytes()).collect::<Vec<u8>>();
        builder.tensor(name, &dims, TensorType::F32, bytes);
    };
    add("v.patch_embd.weight", &[8, 8, 3, N], 0.1);
    add("v.patch_embd.bias", &[N], 0.0);
    add("v.position_embd.weight", &[N, 4], 1.0);
    for norm in ["v.post_ln", "v.blk.0.ln1", "v.blk.0.ln2"] {
        add(&format!("{norm}.weight"), &[N], 1.0);
        add(&format!("{norm}.bias"), &[N], 0.1);
    }
    for part in ["attn_q", "attn_k", "attn_v", "attn_out", "ffn_up", "ffn_down"] {
        add(&format!("v.blk.0.{part}.weight"), &[N, N], 0.1);
        add(&format!("v.blk.0.{part}.bias"), &[N], 0.1);
    }
    add("mm.0.weight", &[N, N], 0.1);
    add("mm.0.bias", &[N], 0.1);
    add("mm.1.weight", &[N, n_out], 0.1);
    add("mm.1.bias", &[n_out], 0.1);
    builder
}
