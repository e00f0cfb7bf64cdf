//! The fixtures and the oracle themselves: llama.cpp loads the one and agrees with the other.

mod common;

use std::path::Path;

use candor::gguf::TensorType;
use common::fixture::{Arch, Fixture};
use common::{host, oracle::Oracle, shared};

/// Largest difference of logits, as a part of the largest logit, that F32 arithmetic explains.
const TOLERANCE: f64 = 5e-5;

/// Tokens of any fixture: text, bytes, and more of them than gemma2's sliding window holds.
const TOKENS: [i32; 14] = [1, 259, 260, 271, 100, 4, 280, 290, 259, 263, 269, 3, 275, 260];

#[test]
fn llama_cpp_decodes_every_fixture() {
    let folder = tempfile::tempdir().unwrap();
    for arch in Arch::ALL {
        for kind in [TensorType::F32, TensorType::Q8_0, TensorType::Q4_0] {
            let name = format!("{} {}", arch.name(), kind.name());
            let model = host::load(&Fixture::new(arch).quantized(kind).write(folder.path()));
            for flash_attention in [false, true] {
                let logits = host::logits(&model, &TOKENS, flash_attention);
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
    for arch in Arch::ALL {
        let logits = |kind| {
            let path = Fixture::new(arch).quantized(kind).write(folder.path());
            host::logits(&host::load(&path), &TOKENS, false)
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
    let text = "the water is on fire, Zoë \u{1f525}?\n";
    let vocab = model.vocab();
    let tokens = vocab.tokenize(text.as_bytes(), true, false);
    println!("{tokens:?}");
}

/// Compares the oracle's logits with llama.cpp's, flash attention off.
fn assert_parity(path: &Path, tokens: &[i32]) {
    let expected = Oracle::open(path).unwrap().forward(tokens).logits;
    let got = host::logits(&host::load(path), tokens, false);
    let largest = expected.fold(0.0, |largest: f64, logit| largest.max(logit.abs()));
    for ((place, expected), got) in expected.indexed_iter().zip(&got) {
        let difference = (expected - f64::from(*got)).abs() / largest;
        assert!(difference < TOLERANCE, "{place:?}: {expected} and {got}");
    }
}

#[test]
fn the_oracle_agrees_with_llama_cpp_on_random_models() {
    let folder = tempfile::tempdir().unwrap();
    for seed in 0..3 {
        assert_parity(&Fixture::new(Arch::Llama).seed(seed).write(folder.path()), &TOKENS);
    }
}

#[test]
fn the_oracle_agrees_with_llama_cpp_on_a_trained_model() {
    if let Some(path) = shared("models/stories260K.gguf") {
        assert_parity(&path, &[1, 403, 407, 261, 378, 432, 429, 383, 261, 400]);
    }
}
