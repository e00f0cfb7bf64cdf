//! What must always hold of steering, on every fixture: off is off, both paths are one function,
//! and every token gets its own row and nothing else.

mod common;

use candor::gguf::TensorType;
use candor::session::{CacheType, Path};
use candor::steer::SteeringVector;
use candor::{Model, ModelParams, Session, SessionParams};
use common::fixture::{Arch, Fixture, N_LAYER};
use common::host;
use common::oracle::Oracle;
use common::script::{Script, decode};
use common::steering::{add, bits, distance_from, distance_of, vector};

/// Largest difference of logits, as a part of the largest logit, that F32 arithmetic explains.
const TOLERANCE: f64 = 5e-5;
/// The same where a cache or flash attention rounds to F16. Other tokens in a batch or before it in
/// the cache move a sum's last bit, and then a rounding: stock llama.cpp's own logits move by up to
/// 3e-4 with them, and mostly not at all.
const F16_TOLERANCE: f64 = 1e-3;

/// Tokens of any fixture: text, bytes, and more of them than gemma2's sliding window holds.
const PROMPT: [i32; 14] = [1, 259, 260, 271, 100, 4, 280, 290, 259, 263, 269, 3, 275, 260];
const ANSWER: [i32; 5] = [265, 40, 270, 259, 288];

/// Heads in two of three layers: one layer is never steered.
const SITES: [(usize, usize); 3] = [(0, 1), (2, 0), (2, 3)];
const ALPHA: f32 = 5.0;

/// One thread, so that the tests of this file do not wait for each other's.
fn params(flash_attention: bool) -> SessionParams {
    SessionParams {
        n_ctx: 256,
        n_threads: Some(1),
        n_seq_max: 4,
        flash_attention: Some(flash_attention),
        ..SessionParams::default()
    }
}

fn load(path: &std::path::Path) -> Model {
    Model::load(path, &ModelParams { n_gpu_layers: Some(0), ..ModelParams::default() })
        .expect("a fixture loads")
}

fn scripts() -> [Script; 2] {
    [Script::conversation(&PROMPT, &ANSWER), Script::crowd(&PROMPT, 4)]
}

/// Every architecture, storage and attention.
fn for_every_case(test: impl Fn(&str, &std::path::Path, bool)) {
    let folder = tempfile::tempdir().expect("a folder");
    for arch in Arch::CORE {
        for kind in [TensorType::F32, TensorType::Q8_0, TensorType::Q4_0] {
            let path = Fixture::new(arch).quantized(kind).write(folder.path());
            for flash_attention in [false, true] {
                let attention = if flash_attention { "flash" } else { "plain" };
                test(
                    &format!("{} {} {attention}", arch.name(), kind.name()),
                    &path,
                    flash_attention,
                );
            }
        }
    }
}

#[test]
fn off_is_off() {
    for_every_case(|name, path, flash_attention| {
        let stock = host::load(path);
        let model = load(path);
        let params = params(flash_attention);
        let vector = vector(model.geometry(), &SITES, 1);
        let mut session = Session::new(&model, &params).unwrap();
        for script in scripts() {
            let expected = bits(&host::play(&stock, &params, &script));
            let mut play = |script: &Script, vector: Option<(&SteeringVector, f32)>| {
                session.set_vector(1, vector).unwrap();
                bits(&script.play(&mut session).unwrap())
            };
            let steered = script.steered(|_, _| 1);
            assert!(play(&script, None) == expected, "{name}: no vector");
            assert!(play(&steered, Some((&vector, 0.0))) == expected, "{name}: alpha 0");
            assert!(play(&script, Some((&vector, ALPHA))) == expected, "{name}: row 0");
            assert!(play(&steered, Some((&vector, ALPHA))) != expected, "{name}: steered");
            assert!(play(&steered, None) == expected, "{name}: vector taken away");
        }
    });
}

#[test]
fn off_is_off_with_several_threads() {
    let folder = tempfile::tempdir().unwrap();
    let path = Fixture::new(Arch::Qwen3).quantized(TensorType::Q4_0).write(folder.path());
    let (stock, model) = (host::load(&path), load(&path));
    let params = SessionParams { n_threads: Some(2), ..params(true) };
    let mut session = Session::new(&model, &params).unwrap();
    session.set_vector(1, Some((&vector(model.geometry(), &SITES, 1), ALPHA))).unwrap();
    for script in scripts() {
        let expected = bits(&host::play(&stock, &params, &script));
        assert!(bits(&script.play(&mut session).unwrap()) == expected);
    }
}

#[test]
fn both_paths_are_one_function() {
    for_every_case(|name, path, flash_attention| {
        let model = load(path);
        let vector = vector(model.geometry(), &SITES, 1);
        for script in scripts() {
            // Some tokens of each batch are steered, some are not.
            let script = script.steered(|_, token| usize::from(token.position % 3 != 1));
            let [in_graph, callback] = [true, false].map(|in_graph| {
                let params = SessionParams { in_graph, ..params(flash_attention) };
                let mut session = Session::new(&model, &params).unwrap();
                session.set_vector(1, Some((&vector, ALPHA))).unwrap();
                let logits = bits(&script.play(&mut session).unwrap());
                let path = if in_graph && flash_attention { Path::InGraph } else { Path::Callback };
                let paths = [0, 1, 2].map(|layer| session.path(layer));
                assert_eq!(paths, [path, Path::Watched, path], "{name}");
                logits
            });
            assert!(in_graph == callback, "{name}");
        }
    });
}

/// Sequences of their own vector each, in one batch, against one session per sequence.
#[test]
fn every_sequence_of_a_batch_gets_its_own_row() {
    for_every_case(|name, path, flash_attention| {
        let model = load(path);
        let vectors: Vec<_> = (0..4).map(|i| vector(model.geometry(), &SITES, 10 + i)).collect();
        let tokens = |seq: usize| &PROMPT[..6 + 2 * seq];
        let params = SessionParams { n_row: 5, ..params(flash_attention) };
        let mut session = Session::new(&model, &params).unwrap();
        let mut alone = Vec::new();
        for (seq, vector) in vectors.iter().enumerate() {
            session.set_vector(1, Some((vector, ALPHA + seq as f32))).unwrap();
            let script = Script::new().sequence(0, tokens(seq), 1);
            alone.extend(script.play(&mut session).unwrap().remove(0));
        }
        for (seq, vector) in vectors.iter().enumerate() {
            session.set_vector(seq + 1, Some((vector, ALPHA + seq as f32))).unwrap();
        }
        let together =
            (0..4).fold(Script::new(), |script, seq| script.sequence(seq, tokens(seq), seq + 1));
        let steered = together.play(&mut session).unwrap();
        let distance = distance_of(&[alone], &steered);
        assert!(distance < F16_TOLERANCE, "{name}: {distance:e}");

        // One of them on row 0 is not touched by the others.
        let mixed = together.steered(|_, token| if token.seqs == [2] { 0 } else { token.row });
        let plain = together.steered(|_, _| 0);
        let [mixed, plain] = [mixed, plain].map(|s| s.play(&mut session).unwrap().remove(0));
        let of_2 = 6 + 8..6 + 8 + 10;
        assert_eq!(bits(&[mixed[of_2.clone()].to_vec()]), bits(&[plain[of_2].to_vec()]), "{name}");
        assert!(bits(&[mixed]) != bits(&[plain]), "{name}: nothing was steered");
    });
}

/// One context decodes token after token, so that llama.cpp takes up its last graph again, while
/// vector and alpha change between the tokens: every token must be steered by what is loaded then.
#[test]
fn a_change_between_two_decodes_takes_effect() {
    for_every_case(|name, path, flash_attention| {
        let model = load(path);
        let geometry = model.geometry();
        let low = vector(geometry, &[(0, 1), (1, 2)], 1);
        let high = vector(geometry, &[(1, 0), (2, 3)], 2);
        let stages: [Option<(&SteeringVector, f32)>; 8] = [
            None,
            Some((&low, ALPHA)),
            Some((&low, 2.0 * ALPHA)),
            Some((&high, ALPHA)),
            None,
            Some((&high, ALPHA)),
            Some((&low, ALPHA)),
            None,
        ];
        let mut session = Session::new(&model, &params(flash_attention)).unwrap();
        let prompt = Script::new().sequence(0, &PROMPT, 0);
        let next = Script::new().token(ANSWER[0], PROMPT.len(), &[0], 1);
        let say = |session: &mut Session, vector| {
            session.set_vector(1, vector).unwrap();
            assert!(session.truncate(0, PROMPT.len()));
            bits(&[decode(session, &next.batches()[0]).unwrap()])
        };
        prompt.play(&mut session).unwrap();
        let changing = stages.map(|stage| say(&mut session, stage));
        for (i, stage) in stages.into_iter().enumerate() {
            let mut fresh = Session::new(&model, &params(flash_attention)).unwrap();
            prompt.play(&mut fresh).unwrap();
            assert!(say(&mut fresh, stage) == changing[i], "{name}: stage {i}");
        }
        assert!(changing[0] == changing[4] && changing[0] == changing[7], "{name}");
        assert!(changing[1] == changing[6] && changing[3] == changing[5], "{name}");
        for (i, j) in [(0, 1), (1, 2), (1, 3), (0, 3)] {
            assert!(changing[i] != changing[j], "{name}: stages {i} and {j}");
        }
        assert_eq!([0, 1, 2].map(|layer| session.path(layer)), [Path::Watched; N_LAYER], "{name}");
    });
}

#[test]
fn small_ubatches_steer_the_same_tokens() {
    for_every_case(|name, path, flash_attention| {
        let model = load(path);
        let vectors = [1, 2].map(|seed| vector(model.geometry(), &SITES, seed));
        let script = Script::new().sequence(0, &PROMPT, 0).steered(|_, t| t.position * 2 % 3);
        for in_graph in [true, false] {
            let [large, small] = [512, 4].map(|n_ubatch| {
                let params =
                    SessionParams { n_ubatch, n_row: 3, in_graph, ..params(flash_attention) };
                let mut session = Session::new(&model, &params).unwrap();
                session.set_vector(1, Some((&vectors[0], ALPHA))).unwrap();
                session.set_vector(2, Some((&vectors[1], ALPHA))).unwrap();
                script.play(&mut session).unwrap()
            });
            let distance = distance_of(&large, &small);
            assert!(distance < F16_TOLERANCE, "{name}: {distance:e}");
        }
    });
}

#[test]
fn steering_equals_the_oracles_edit() {
    let folder = tempfile::tempdir().unwrap();
    for seed in 0..3 {
        let path = Fixture::new(Arch::Llama).seed(seed).write(folder.path());
        let (oracle, model) = (Oracle::open(&path).unwrap(), load(&path));
        let vectors = [1, 2].map(|seed| vector(model.geometry(), &SITES, seed));
        let alphas = [ALPHA, -2.0 * ALPHA];
        let expected = oracle.forward_edited(&PROMPT, |il, heads| {
            for i in 0..2 {
                add(&vectors[i], alphas[i], il, heads, |position| position * 2 % 3 == i + 1);
            }
        });
        let plain = oracle.forward(&PROMPT).logits;
        for n_ubatch in [512, 4] {
            let params =
                SessionParams { n_ubatch, n_row: 3, cache: CacheType::F32, ..params(false) };
            let mut session = Session::new(&model, &params).unwrap();
            for i in 0..2 {
                session.set_vector(i + 1, Some((&vectors[i], alphas[i]))).unwrap();
            }
            let script = Script::new().sequence(0, &PROMPT, 0).steered(|_, t| t.position * 2 % 3);
            let got = script.play(&mut session).unwrap();
            let distance = distance_from(&expected.logits, &got[0]);
            assert!(distance < TOLERANCE, "seed {seed}, ubatches of {n_ubatch}: {distance:e}");
            assert!(distance_from(&plain, &got[0]) > 0.1);
        }
    }
}
