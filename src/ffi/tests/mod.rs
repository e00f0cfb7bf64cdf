//! The tap alone: under a model, and on graphs made by hand.

mod devices;
mod graph;
mod look;
mod means;
mod raw;
mod tap;

use std::path::Path;

use super::context::{BatchArrays, Context, DecodeError};
use super::tap::{Kind, Pass, Seen, Tap, TapError};
use crate::{Model, ModelParams};

/// Decodes one token of the demo model (5 layers, width 192) through a tap over layers of these
/// widths, observing the last.
fn decode_through(widths: &[usize]) -> Result<(), DecodeError> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo.gguf");
    let model = Model::load(&path, &ModelParams::default()).expect("the demo model is sound");
    let mut tap = Tap::new(widths, 0, 2, 8, true).expect("memory for a tap");
    tap.observe(Kind::Heads, &[widths.len() - 1]).expect("the tap has this layer");
    let mut params = Context::default_params();
    (params.n_ctx, params.n_batch, params.n_threads) = (64, 8, 1);
    let mut context = Context::new(model.inner(), params, (tap, true), None).expect("a context");
    let mut batch = BatchArrays {
        tokens: vec![1],
        positions: vec![0],
        seqs: vec![0],
        n_seq: vec![1],
        output: vec![1],
        ..BatchArrays::default()
    };
    let mut out = vec![0.0; widths.iter().copied().max().unwrap_or(0)];
    let pass = Pass { rows: &[0], want: &[0], tokens: None, outputs: None };
    context.decode(&mut batch, &pass, Seen { heads: &mut out, outputs: &mut [] })
}

#[test]
fn a_layer_that_never_comes_by_is_an_error() {
    assert!(decode_through(&[192; 5]).is_ok());
    let error = decode_through(&[192; 6]).expect_err("there is no sixth layer");
    assert!(
        matches!(
            error,
            DecodeError::Tap(TapError::Miscount { kind: Kind::Heads, layer: 5, got: 0 })
        ),
        "{error:?}"
    );
}

#[test]
fn a_layer_of_another_width_is_an_error() {
    let error = decode_through(&[192, 192, 192, 192, 96]).expect_err("the width is 192");
    assert!(
        matches!(
            error,
            DecodeError::Tap(TapError::WrongWidth { kind: Kind::Heads, layer: 4, got: 192 })
        ),
        "{error:?}"
    );
}

/// Two sequences of two tokens each through the demo model, whose ids are announced as these.
fn decode_in_order(announced: &[i32; 4]) -> Result<(), DecodeError> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo.gguf");
    let model = Model::load(&path, &ModelParams::default()).expect("the demo model is sound");
    let tap = Tap::new(&[192; 5], 0, 2, 8, true).expect("memory for a tap");
    let mut params = Context::default_params();
    (params.n_ctx, params.n_batch, params.n_ubatch, params.n_threads) = (64, 8, 3, 1);
    (params.n_seq_max, params.kv_unified) = (2, true);
    let mut context = Context::new(model.inner(), params, (tap, true), None).expect("a context");
    let mut batch = BatchArrays {
        tokens: vec![1, 5, 6, 7],
        positions: vec![0, 1, 0, 1],
        seqs: vec![0, 0, 1, 1],
        n_seq: vec![1; 4],
        output: vec![1; 4],
        ..BatchArrays::default()
    };
    let mut pass = Pass { rows: &[0; 4], want: &[], tokens: None, outputs: None };
    context.decode(&mut batch, &pass, Seen::default())?;
    context.clear();
    pass.tokens = Some(announced);
    context.decode(&mut batch, &pass, Seen::default())
}

#[test]
fn an_order_that_was_not_announced_is_an_error() {
    assert!(decode_in_order(&[1, 5, 6, 7]).is_ok());
    for announced in [[1, 5, 7, 6], [1, 6, 5, 7], [1, 5, 6, 8]] {
        let error = decode_in_order(&announced).expect_err("the tokens come in another order");
        assert!(matches!(error, DecodeError::Tap(TapError::Misordered)), "{error:?}");
    }
}
