//! What reads a layer's attention output decides whether a head can be steered there.

mod common;

use std::path::{Path, PathBuf};

use candor::gguf::{Builder, Gguf, TensorType};
use candor::session::CacheType;
use candor::{Error, Model, ModelParams, Session, SessionParams};
use common::fixture::{Arch, Fixture, N_EMBD, N_LAYER};

fn params() -> SessionParams {
    SessionParams { n_ctx: 64, n_threads: Some(1), ..SessionParams::default() }
}

fn load(path: &Path) -> Model {
    Model::load(path, &ModelParams { n_gpu_layers: Some(0) }).expect("a fixture loads")
}

/// A qwen2 fixture turned into a bitnet model: a norm before every output projection.
fn bitnet(folder: &Path) -> PathBuf {
    let file = Gguf::open(&Fixture::new(Arch::Qwen2).write(folder)).unwrap();
    let mut builder = Builder::new();
    for (key, value) in file.entries() {
        builder.set(&key.replace("qwen2.", "bitnet."), value.clone());
    }
    builder.set("general.architecture", "bitnet");
    for tensor in file.tensors() {
        if !tensor.name.ends_with(".bias") && tensor.name != "output.weight" {
            builder.tensor(&tensor.name, &tensor.dims, tensor.kind, file.bytes(tensor).to_vec());
        }
    }
    let n_ff = file.tensor("blk.0.ffn_up.weight").unwrap().dims[1];
    for (name, length) in [("attn_sub_norm", N_EMBD as u64), ("ffn_sub_norm", n_ff)] {
        let ones: Vec<u8> = (0..length).flat_map(|_| 1f32.to_le_bytes()).collect();
        for il in 0..N_LAYER {
            let name = format!("blk.{il}.{name}.weight");
            builder.tensor(&name, &[length], TensorType::F32, ones.clone());
        }
    }
    let path = folder.join("bitnet.gguf");
    builder.write(&path).unwrap();
    path
}

#[test]
fn refuses_a_norm_between_the_heads_and_their_projection_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let model = load(&bitnet(folder.path()));
    for flash_attention in [Some(true), Some(false)] {
        let params = SessionParams { flash_attention, ..params() };
        let error = Session::new(&model, &params).map(drop).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error:?}");
        let text = error.to_string();
        for part in ["`bitnet`", "[0, 1, 2]", "a normalization (RMS_NORM)", "use a model"] {
            assert!(text.contains(part), "{text}");
        }
    }
    // Without a tap there is nothing to refuse.
    Session::new(&model, &SessionParams { tap: false, ..params() }).map(drop).unwrap();
}

#[test]
fn accepts_a_projection_that_reads_the_heads() {
    let folder = tempfile::tempdir().unwrap();
    for arch in Arch::ALL {
        let model = load(&Fixture::new(arch).write(folder.path()));
        for flash_attention in [Some(true), Some(false)] {
            for cache in [CacheType::F16, CacheType::F32] {
                let params = SessionParams { flash_attention, cache, ..params() };
                Session::new(&model, &params).map(drop).unwrap();
            }
        }
    }
}
