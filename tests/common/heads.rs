//! Fixtures with other heads than they were made with.

use std::path::{Path, PathBuf};

use candor::gguf::{Builder, Gguf};

use super::fixture::Fixture;

/// Writes a fixture whose rows of `attn_q`, `attn_k`, `attn_v` are read as `n_head` and `n_head_kv`
/// heads of `d_head`. Keys and values are repeated where they are too few.
pub fn write(
    folder: &Path,
    fixture: Fixture,
    n_head: usize,
    n_head_kv: usize,
    d_head: usize,
) -> PathBuf {
    let file = Gguf::open(&fixture.write(folder)).expect("a fixture opens");
    let architecture = file.str("general.architecture").expect("it has one");
    let mut builder = Builder::new();
    for (key, value) in file.entries() {
        builder.set(key, value.clone());
    }
    for (key, value) in [
        ("head_count", n_head),
        ("head_count_kv", n_head_kv),
        ("key_length", d_head),
        ("value_length", d_head),
    ] {
        builder.set(&format!("{architecture}.attention.{key}"), value as u32);
    }
    for tensor in file.tensors() {
        let (mut dims, mut bytes) = (tensor.dims.clone(), file.bytes(tensor).to_vec());
        if tensor.name.ends_with("attn_k.weight") || tensor.name.ends_with("attn_v.weight") {
            let n = (n_head_kv * d_head).div_ceil(dims[1] as usize);
            (dims[1], bytes) = (dims[1] * n as u64, bytes.repeat(n));
        }
        builder.tensor(&tensor.name, &dims, tensor.kind, bytes);
    }
    let path = folder.join(format!("{architecture}-{n_head}x{d_head}.gguf"));
    builder.write(&path).expect("the folder takes the fixture");
    path
}
