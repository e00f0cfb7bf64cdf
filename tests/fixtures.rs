//! The fixtures and the oracle themselves: llama.cpp loads the one and agrees with the other.

mod common;

use candor::gguf::{Builder, Gguf, TensorType};
use common::fixture::{Arch, Fixture, N_EMBD, N_HEAD, N_LAYER};
use common::oracle::Oracle;
use common::script::PROMPT;
use common::steering::TOLERANCE;
use common::{host, shared};
use ndarray::Array2;

#[test]
fn llama_cpp_decodes_every_fixture() {
    let folder = tempfile::tempdir().unwrap();
    for arch in Arch::ALL.into_iter().chain(Arch::REFUSED) {
        for kind in [TensorType::F32, TensorType::Q8_0, TensorType::Q4_0] {
            let name = format!("{} {}", arch.label(), kind.name());
            let model = host::load(&Fixture::new(arch).quantized(kind).write(folder.path()));
            for flash_attention in [false, true] {
                let logits = host::logits(&model, &PROMPT, flash_attention);
                assert!(logits.iter().all(|logit| logit.is_finite()), "{name}");
                for row in logits.outer_iter() {
                    let (low, high) = row.fold((f32::MAX, f32::MIN), |(low, high), &logit| {
                        (low.min(logit), high.max(logit))
                    });
                    assert!(high - low > 1.0, "{name}: logits from {low} to {high}");
                }
            }
        }
    }
}

#[test]
fn quantization_keeps_the_weights() {
    let folder = tempfile::tempdir().unwrap();
    for arch in Arch::CORE {
        let logits = |kind| {
            let path = Fixture::new(arch).quantized(kind).write(folder.path());
            host::logits(&host::load(&path), &PROMPT, false)
        };
        let exact = logits(TensorType::F32);
        for (kind, bound) in [(TensorType::Q8_0, 0.05), (TensorType::Q4_0, 0.6)] {
            let error = (&logits(kind) - &exact).mapv(|x| x * x).sum().sqrt();
            let relative = error / exact.mapv(|x| x * x).sum().sqrt();
            assert!(relative < bound, "{} {}: {relative}", arch.name(), kind.name());
        }
    }
}

#[test]
fn every_text_has_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let model = host::load(&Fixture::new(Arch::Llama).write(folder.path()));
    let vocab = model.vocab();
    let text = "the water is on fire, Zo\u{eb} \u{1f525}?\n";
    let tokens = vocab.tokenize(text.as_bytes(), true, false);
    assert_eq!(tokens[0], vocab.bos());
    // The vocabulary begins every text with a space, as SentencePiece does.
    let text_again = vocab.detokenize(&tokens, true, false);
    assert_eq!(String::from_utf8(text_again).unwrap().trim_start(), text);
}

/// Compares logits `[n_token, n_vocab]`.
fn assert_close(expected: &Array2<f64>, got: &Array2<f32>) {
    let largest = expected.fold(0.0, |largest: f64, logit| largest.max(logit.abs()));
    for ((place, expected), got) in expected.indexed_iter().zip(got) {
        let difference = (expected - f64::from(*got)).abs() / largest;
        assert!(difference < TOLERANCE, "{place:?}: {expected} and {got}");
    }
}

#[test]
fn the_oracle_agrees_with_llama_cpp_on_random_models() {
    let folder = tempfile::tempdir().unwrap();
    for seed in 0..3 {
        let path = Fixture::new(Arch::Llama).seed(seed).write(folder.path());
        let expected = Oracle::open(&path).unwrap().forward(&PROMPT).logits;
        assert_close(&expected, &host::logits(&host::load(&path), &PROMPT, false));
    }
}

#[test]
fn the_oracle_agrees_with_llama_cpp_on_a_trained_model() {
    let Some(path) = shared("models/stories260K.gguf") else {
        return;
    };
    let tokens = [1, 403, 407, 261, 378, 432, 429, 383, 261, 400];
    let expected = Oracle::open(&path).unwrap().forward(&tokens).logits;
    assert_close(&expected, &host::logits(&host::load(&path), &tokens, false));
}

/// The heads of all tokens, edited alike, are a bias after `wo`, which llama.cpp knows: an edit
/// reaches the logits as it should.
#[test]
fn an_edit_of_every_token_equals_a_bias_after_wo() {
    let folder = tempfile::tempdir().unwrap();
    let path = Fixture::new(Arch::Llama).write(folder.path());
    let offset = Array2::from_shape_fn((N_HEAD, Arch::Llama.d_head()), |(head, i)| {
        ((head * 7 + i) as f64).sin()
    });

    let file = Gguf::open(&path).unwrap();
    let mut baked = Builder::new();
    for (key, value) in file.entries() {
        baked.set(key, value.clone());
    }
    for tensor in file.tensors() {
        baked.tensor(&tensor.name, &tensor.dims, tensor.kind, file.bytes(tensor));
    }
    for il in 0..N_LAYER {
        let wo = file.tensor(&format!("blk.{il}.attn_output.weight")).unwrap();
        let rows = file.f32s_of(wo).unwrap();
        let bias = rows.chunks_exact(offset.len()).flat_map(|row| {
            let sum: f64 = row.iter().zip(&offset).map(|(&w, offset)| f64::from(w) * offset).sum();
            (sum as f32).to_le_bytes()
        });
        let name = format!("blk.{il}.attn_output.bias");
        baked.tensor(&name, &[N_EMBD as u64], TensorType::F32, bias.collect::<Vec<_>>());
    }
    let baked_path = folder.path().join("baked.gguf");
    baked.write(&baked_path).unwrap();

    let edited = Oracle::open(&path).unwrap().forward_edited(&PROMPT, |_, heads| *heads += &offset);
    assert_close(&edited.logits, &host::logits(&host::load(&baked_path), &PROMPT, false));
    let plain = host::logits(&host::load(&path), &PROMPT, false);
    assert!((edited.logits - plain.mapv(f64::from)).iter().any(|shift| shift.abs() > 0.5));
}

/// For programs without Rust (`scripts/test-gpu.sh pack`).
#[test]
#[ignore = "writes small models into the folder that CANDOR_FIXTURES names"]
fn leaves_fixtures_in_a_folder() {
    let folder = std::env::var("CANDOR_FIXTURES").expect("CANDOR_FIXTURES names a folder");
    std::fs::create_dir_all(&folder).unwrap();
    for arch in Arch::CORE {
        for kind in [TensorType::F32, TensorType::Q4_0] {
            Fixture::new(arch).quantized(kind).write(folder.as_ref());
        }
    }
}
