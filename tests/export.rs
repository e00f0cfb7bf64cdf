//! A baked model is the steered model, in stock llama.cpp, and nothing else of its file changed.

mod common;

use std::path::{Path, PathBuf};

use candor::export::bake;
use candor::gguf::{Gguf, TensorType};
use candor::session::CacheType;
use candor::steer::SteeringVector;
use candor::{Model, ModelParams, Session, SessionParams};
use common::fixture::{Arch, Fixture, N_EMBD, N_LAYER};
use common::host;
use common::script::Script;
use common::steering::{distance_of, vector};

const PROMPT: [i32; 14] = [1, 259, 260, 271, 100, 4, 280, 290, 259, 263, 269, 3, 275, 260];
const ANSWER: [i32; 5] = [265, 40, 270, 259, 288];
/// Heads in two of three layers: one layer gets no bias.
const SITES: [(usize, usize); 3] = [(0, 1), (2, 0), (2, 3)];
const ALPHA: f32 = 5.0;

/// Largest difference of logits, as a part of the largest logit. With F32 matrices only the order of
/// sums differs, and with flash attention what that does to numbers which it rounds to F16; llama.cpp
/// rounds the inputs of quantized matrices to 8 bits, a steered head output among them, and adds a
/// bias unrounded.
fn tolerance(kind: TensorType, flash_attention: bool) -> f64 {
    match (kind, flash_attention) {
        (TensorType::F32, false) => 5e-5,
        (TensorType::F32, true) => 1e-3,
        _ => 6e-2,
    }
}

struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn model(&self, arch: Arch, kind: TensorType) -> PathBuf {
        Fixture::new(arch).quantized(kind).write(self.folder.path())
    }

    fn target(&self) -> PathBuf {
        self.folder.path().join("baked.gguf")
    }

    fn bake(&self, base: &Path) -> candor::Result<candor::export::Baked> {
        bake(base, &vector_for(base), ALPHA, "a test", &self.target())
    }
}

fn load(path: &Path) -> Model {
    Model::load(path, &ModelParams { n_gpu_layers: Some(0), ..ModelParams::default() })
        .expect("a fixture loads")
}

fn vector_for(base: &Path) -> SteeringVector {
    let geometry = candor::Geometry::read(&Gguf::open(base).unwrap()).unwrap();
    vector(geometry, &SITES, 1)
}

fn params(flash_attention: bool) -> SessionParams {
    SessionParams {
        n_ctx: 256,
        n_threads: Some(1),
        flash_attention: Some(flash_attention),
        cache: CacheType::F32,
        ..SessionParams::default()
    }
}

#[test]
fn a_baked_model_says_what_steering_of_all_tokens_says() {
    let bench = Bench::new();
    for arch in [Arch::Llama, Arch::Gpt2] {
        for kind in [TensorType::F32, TensorType::Q8_0, TensorType::Q4_0] {
            let name = format!("{} {}", arch.name(), kind.name());
            let base = bench.model(arch, kind);
            let baked = bench.bake(&base).unwrap();
            assert_eq!((baked.layers, baked.n_head), (vec![0, 2], 3), "{name}");

            let (stock, model) = (host::load(&bench.target()), load(&base));
            let script = Script::conversation(&PROMPT, &ANSWER);
            for flash_attention in [true, false] {
                let params = params(flash_attention);
                let baked = host::play(&stock, &params, &script);
                let mut session = Session::new(&model, &params).unwrap();
                let plain = script.play(&mut session).unwrap();
                session.set_vector(1, Some((&vector_for(&base), ALPHA))).unwrap();
                let steered = script.steered(|_, _| 1).play(&mut session).unwrap();
                let (apart, effect) =
                    (distance_of(&steered, &baked), distance_of(&steered, &plain));
                assert!(apart < tolerance(kind, flash_attention), "{name}: {apart}");
                assert!(effect > 5.0 * apart, "{name}: {effect}, {apart}");
            }
        }
    }
}

#[test]
fn everything_but_the_biases_is_copied_to_the_byte() {
    let bench = Bench::new();
    for arch in [Arch::Llama, Arch::Gpt2] {
        let base = bench.model(arch, TensorType::Q4_0);
        bench.bake(&base).unwrap();
        let (before, after) = (Gguf::open(&base).unwrap(), Gguf::open(&bench.target()).unwrap());
        let is_bias =
            |name: &str| ["blk.0.attn_output.bias", "blk.2.attn_output.bias"].contains(&name);
        for tensor in before.tensors().iter().filter(|tensor| !is_bias(&tensor.name)) {
            let copy = after.tensor(&tensor.name).unwrap();
            assert_eq!((&copy.dims, copy.kind), (&tensor.dims, tensor.kind));
            assert!(before.bytes(tensor) == after.bytes(copy), "{}", tensor.name);
        }
        let n_other = before.tensors().iter().filter(|tensor| !is_bias(&tensor.name)).count();
        assert_eq!(after.tensors().len(), n_other + 2);
        let n_bias = (0..N_LAYER)
            .filter_map(|il| after.tensor(&format!("blk.{il}.attn_output.bias")))
            .filter(|bias| bias.dims == [N_EMBD as u64] && bias.kind == TensorType::F32)
            .count();
        assert_eq!(n_bias, if arch == Arch::Gpt2 { 3 } else { 2 });
        for (key, value) in before.entries() {
            assert_eq!(after.get(key), Some(value), "{key}");
        }
    }
}

#[test]
fn a_baked_model_says_what_was_baked() {
    let bench = Bench::new();
    let base = bench.model(Arch::Llama, TensorType::F32);
    bench.bake(&base).unwrap();
    let file = Gguf::open(&bench.target()).unwrap();
    assert_eq!(file.uint("candor.bake.version").unwrap(), 1);
    assert_eq!(file.str("candor.bake.vector").unwrap(), "a test");
    assert_eq!(file.float("candor.bake.alpha").unwrap(), f64::from(ALPHA));
    assert_eq!(file.uint("candor.bake.heads").unwrap(), 3);
    assert_eq!(file.str("candor.bake.base").unwrap(), load(&base).fingerprint());
}

#[test]
fn the_same_bake_gives_the_same_bytes() {
    let bench = Bench::new();
    let base = bench.model(Arch::Llama, TensorType::Q8_0);
    bench.bake(&base).unwrap();
    let first = std::fs::read(bench.target()).unwrap();
    bench.bake(&base).unwrap();
    assert!(std::fs::read(bench.target()).unwrap() == first);
}

#[test]
fn refuses_an_architecture_that_has_no_place_for_a_bias() {
    let bench = Bench::new();
    for arch in [Arch::Qwen2, Arch::Qwen3, Arch::Gemma2] {
        let base = bench.model(arch, TensorType::F32);
        let message = bench.bake(&base).unwrap_err().to_string();
        assert!(message.starts_with(&format!("architecture `{}`", arch.name())), "{message}");
        assert!(message.contains("candor run"), "names what to do instead: {message}");
        assert!(!bench.target().exists());
    }
}

#[test]
fn refuses_what_cannot_be_baked() {
    let bench = Bench::new();
    let base = bench.model(Arch::Llama, TensorType::F32);
    let vector = vector_for(&base);
    let message = |base: &Path, alpha: f32, target: &Path| {
        bake(base, &vector, alpha, "a test", target).unwrap_err().to_string()
    };
    assert!(message(&base, ALPHA, &base).contains("it is the base model"));
    assert!(message(&base, f32::NAN, &bench.target()).contains("alpha: with it the bias of layer"));
    assert!(message(&base, f32::INFINITY, &bench.target()).contains("not finite"));
    let other = bench.model(Arch::Gpt2, TensorType::F32);
    assert!(message(&other, ALPHA, &bench.target()).contains("steering vector: made for"));
    assert!(message(&bench.folder.path().join("no.gguf"), ALPHA, &base).contains("no.gguf"));
    assert!(!bench.target().exists());
    bench.bake(&base).unwrap();
    let again = bench.folder.path().join("again.gguf");
    assert!(message(&bench.target(), ALPHA, &again).contains("baked into it already"));
}
