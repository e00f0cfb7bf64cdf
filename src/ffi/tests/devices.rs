//! What devices ask of the tap: row numbers at their alignment, and no edit of a node that they do
//! not see.

use std::sync::mpsc;
use std::thread;

use super::super::tap::{Kind, Path, Tap};
use super::raw::{N_BATCH, N_LAYER, Raw, Token, WIDTH};
use crate::device::{Placement, ServeParams, serve};

/// Two rows for all heads and all layer outputs, and 0: nothing.
const N_ROW: usize = 3;

fn tap(in_graph: bool) -> Tap {
    Tap::new(&[WIDTH; N_LAYER], WIDTH, N_ROW, N_BATCH, in_graph).expect("memory for a tap")
}

/// Offsets that differ by kind, layer and row.
fn load(tap: &mut Tap, kinds: &[Kind]) {
    for &kind in kinds {
        let (first, strength) = if kind == Kind::Heads { (0, 0.2) } else { (1, 30.0) };
        for layer in first..N_LAYER {
            for row in 1..N_ROW {
                let offset: Vec<f32> = (0..WIDTH)
                    .map(|i| strength * ((i * 7 + layer * 3 + row * 101) as f32).sin())
                    .collect();
                tap.set_row(kind, layer, row, Some(&offset)).expect("the row is there");
            }
        }
    }
}

/// Four tokens of each of three sequences, position by position, which is the order in which
/// ubatches of three are computed, be the caches one or several; the logits of two of three.
fn tokens() -> Vec<Token> {
    (0..12).map(|i| (1 + 2 * i, i / 3, i % 3, (i / 3 + 2 * i) % 3 != 1)).collect()
}

fn rows(n: usize) -> Vec<i32> {
    (0..n).map(|i| ((i * 2 + i / 3) % N_ROW) as i32).collect()
}

/// Steers heads and layer outputs in the graph, in ubatches of three tokens, and looks where each
/// addition reads its rows.
fn reads_ids_at_the_alignment(unified: bool) {
    let mut raw = Raw::new(&[], Some(tap(true)), |params| {
        (params.n_ubatch, params.n_seq_max, params.kv_unified) = (3, 3, unified);
    });
    raw.hold_outputs();
    let tokens = tokens();
    raw.decode(&tokens, &vec![0; tokens.len()]).expect("the layers come by");
    load(raw.tap.as_mut().expect("there is one"), &[Kind::Heads, Kind::Output]);
    raw.decode(&tokens, &rows(tokens.len())).expect("the layers come by");
    let ids = raw.ids();
    let is_last = |node: &str| node == format!("l_out-{}", N_LAYER - 1);
    assert!(ids.iter().filter(|ids| ids.node == "kqv_out-0").count() >= 4, "four ubatches");
    assert!(ids.iter().any(|ids| is_last(&ids.node) && ids.n < 3), "fewer than the ubatch has");
    for ids in ids {
        assert_eq!(ids.past, 0, "unified {unified}: {} tokens of {}", ids.n, ids.node);
    }
}

#[test]
fn row_numbers_lie_at_the_devices_alignment() {
    reads_ids_at_the_alignment(true);
}

#[test]
fn row_numbers_lie_at_the_devices_alignment_in_separate_caches() {
    reads_ids_at_the_alignment(false);
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    let largest = a.iter().fold(0f32, |max, x| max.max(x.abs()));
    a.iter().zip(b).fold(0f32, |max, (x, y)| max.max((x - y).abs())) / largest
}

/// The address of a worker on a thread of this process, which serves the processor for as long as
/// that lives. Where tensors are split, llama.cpp takes devices whose memory is not the host's.
fn worker() -> String {
    let (ready, address) = mpsc::channel();
    let params = ServeParams {
        listen: "127.0.0.1:0".to_owned(),
        n_threads: Some(1),
        devices: Some(vec!["none".to_owned()]),
    };
    thread::spawn(move || {
        let _ = serve(&params, |address, _| ready.send(address).expect("the test waits"));
    });
    address.recv().expect("the worker listens").to_string()
}

/// A model whose tensors are split over two devices (llama.cpp's `--split-mode tensor`) is steered
/// as one that is not, in the callback: an edit of the node would never be seen.
#[test]
fn steers_where_tensors_are_split_over_devices() {
    let workers = Placement::choose(None, &[worker(), worker()]).expect("the workers answer");
    let devices = [0, 1].map(|i: usize| workers.devices()[i].index);
    let tokens: Vec<Token> = (0..6).map(|p| (1 + 2 * p, p, 0, true)).collect();
    let rows = rows(tokens.len());
    let nothing = vec![0; tokens.len()];
    for kinds in [&[Kind::Heads][..], &[Kind::Output], &[Kind::Heads, Kind::Output]] {
        let mut whole = Raw::new(&[], Some(tap(false)), |_| ());
        let mut split = Raw::new(&devices, Some(tap(true)), |_| ());
        let mut stock = Raw::new(&devices, None, |_| ());
        if kinds.contains(&Kind::Output) {
            for raw in [&mut whole, &mut split, &mut stock] {
                raw.hold_outputs();
            }
        }
        let decode = |raw: &mut Raw, rows| raw.decode(&tokens, rows).expect("all layers come by");
        let plain = decode(&mut whole, &nothing);
        let off = decode(&mut split, &nothing);
        assert_eq!(off, decode(&mut stock, &nothing), "{kinds:?}: nothing is steered");
        let rounding = distance(&plain, &off);
        for raw in [&mut whole, &mut split] {
            load(raw.tap.as_mut().expect("there is one"), kinds);
        }
        let expected = decode(&mut whole, &rows);
        assert!(distance(&plain, &expected) > 0.05, "{kinds:?}: the rows steer");
        // Twice: the second time a device that could would be steered in the graph.
        for _ in 0..2 {
            let error = distance(&expected, &decode(&mut split, &rows));
            assert!(error <= 4.0 * rounding, "{kinds:?}: {error:e}; not steered: {rounding:e}");
            let tap = split.tap.as_ref().expect("there is one");
            for &kind in kinds {
                assert_eq!(tap.path(kind, N_LAYER - 1), Path::Callback);
            }
            assert!(tap.device(0).is_some_and(|name| name.starts_with("Meta(")));
        }
        assert!(split.ids().is_empty(), "{kinds:?}: no node was edited");
    }
}
