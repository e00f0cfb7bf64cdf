//! The sums of layers' outputs by groups of tokens.

use std::path::Path;

use crate::ffi::means::LayerMeans;
use crate::session::{Batch, Session, SessionParams};
use crate::{Model, ModelParams};

/// Two groups together are what one group is, and of the last layer only what is marked for output is
/// there.
#[test]
fn groups_of_tokens_are_added_up_apart() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo.gguf");
    let model = Model::load(&path, &ModelParams::default()).expect("the demo model is sound");
    let n_layer = model.geometry().n_layer;
    let params = SessionParams {
        n_ctx: 64,
        n_batch: 16,
        n_ubatch: 16,
        n_threads: Some(1),
        ..SessionParams::default()
    };
    let tokens: Vec<i32> = (100..110).collect();
    let sums = |n_group: usize, mark: &dyn Fn(&mut Batch)| {
        let means = LayerMeans::of_groups(n_group, n_layer, model.geometry().n_embd, 16);
        let mut session = Session::with_means(&model, &params, Some(means)).expect("a session");
        let mut batch = Batch::prompt(&tokens);
        mark(&mut batch);
        session.decode(&mut batch).expect("it decodes");
        let sum = |layer: usize, group: usize| {
            session.means().and_then(|means| means.sum(layer, group)).map(|(s, n)| (s.to_vec(), n))
        };
        (0..n_layer)
            .map(|layer| (0..n_group).map(|group| sum(layer, group)).collect::<Vec<_>>())
            .collect::<Vec<_>>()
    };
    let one = sums(1, &|batch| (0..tokens.len()).for_each(|i| batch.output(i)));
    // The first position counts in no group, token 9 alone in the second.
    let two = sums(2, &|batch| {
        (1..9).for_each(|i| batch.group(i, 0));
        batch.group(9, 1);
    });
    for layer in 0..n_layer {
        let (all, n) = one[layer][0].as_ref().expect("it came by");
        assert_eq!(*n, 9);
        let (last, n) = two[layer][1].as_ref().expect("it came by");
        assert_eq!(*n, 1);
        if layer + 1 == n_layer {
            assert!(two[layer][0].is_none(), "of the last layer no other token is computed");
            continue;
        }
        let (rest, n) = two[layer][0].as_ref().expect("it came by");
        assert_eq!(*n, 8);
        let largest = all.iter().fold(0f64, |m, x| m.max(x.abs()));
        for ((all, rest), last) in all.iter().zip(rest).zip(last) {
            assert!(
                (all - rest - last).abs() < 1e-6 * largest,
                "layer {layer}: {all} {rest} {last}"
            );
        }
    }
    // The last token's output is what a decode of it alone adds up.
    let last = n_layer - 1;
    let alone = sums(1, &|batch| batch.group(9, 0));
    let (a, b) = (alone[last][0].as_ref(), two[last][1].as_ref());
    assert_eq!(a, b);
}
