//! What the tap observes and lets be edited, on graphs made by hand.

use super::super::edit::{Edit, Editing};
use super::super::tap::{Kind, Pass, Seen, Tap, TapError};
use super::graph::{Graph, Node, get, set};
use crate::{Error, Result};

const WIDTH: usize = 2;

/// The heads of layer 0, and the outputs of layers 0 (of three tokens) and 1 (of two).
struct Layers {
    graph: Graph,
    attention: Node,
    sums: [Node; 2],
    outputs: [Node; 2],
}

fn layers() -> Layers {
    let mut graph = Graph::new();
    let attention = graph.leaf("attention", WIDTH, 3);
    graph.reshape("kqv_out-0", attention, WIDTH, 3);
    let sums = [graph.leaf("sum 0", WIDTH, 3), graph.leaf("sum 1", WIDTH, 2)];
    let others = [graph.leaf("other 0", WIDTH, 3), graph.leaf("other 1", WIDTH, 2)];
    let first = graph.add("l_out-0", sums[0], others[0]);
    let last = graph.add("l_out-1", sums[1], others[1]);
    graph.allocate();
    set(others[0], &[0.0; 3 * WIDTH]);
    set(others[1], &[0.0; 2 * WIDTH]);
    Layers { graph, attention, sums, outputs: [first, last] }
}

impl Layers {
    fn fill(&self) {
        set(self.attention, &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        set(self.sums[0], &[10.0, 11.0, 12.0, 13.0, 14.0, 15.0]);
        set(self.sums[1], &[20.0, 21.0, 22.0, 23.0]);
    }

    /// One pass in which the first and the last token's logits are wanted.
    fn pass(&self, tap: &mut Tap, want: &[i32], n: [usize; 2]) -> Result<[Vec<f32>; 2], TapError> {
        self.fill();
        let mut seen = n.map(|n| vec![0.0; n * want.len() * WIDTH]);
        let [heads, outputs] = &mut seen;
        let pass = Pass { rows: &[0; 3], want, tokens: None, outputs: Some(&[1, 0, 1]) };
        let callback = tap.callback();
        let run = || self.graph.run_and_tell(callback);
        tap.pass(&pass, Seen { heads, outputs }, run)?.1?;
        Ok(seen)
    }
}

fn tap() -> Tap {
    // Layer 1 has no attention.
    Tap::new(&[WIDTH, 0], WIDTH, 2, 8, true).expect("memory for a tap")
}

#[test]
fn observes_outputs_of_layers_without_a_control_vector() {
    let (layers, mut tap) = (layers(), tap());
    layers.pass(&mut tap, &[], [0, 0]).unwrap();
    assert_eq!([0, 1].map(|layer| tap.width_seen(Kind::Output, layer)), [WIDTH; 2]);
    tap.observe(Kind::Heads, &[0]).unwrap();
    tap.observe(Kind::Output, &[0, 1]).unwrap();
    let [heads, outputs] = layers.pass(&mut tap, &[0, 2], [1, 2]).unwrap();
    assert_eq!(heads, [0.0, 1.0, 4.0, 5.0]);
    assert_eq!(outputs, [10.0, 11.0, 14.0, 15.0, 20.0, 21.0, 22.0, 23.0]);
    tap.observe(Kind::Output, &[1]).unwrap();
    let [_, outputs] = layers.pass(&mut tap, &[2], [1, 1]).unwrap();
    assert_eq!(outputs, [22.0, 23.0]);
    // The last layer never computes the token between.
    let error = layers.pass(&mut tap, &[1], [1, 1]).unwrap_err();
    assert_eq!(error, TapError::NotComputed { layer: 1 });
    // Nothing to observe into.
    assert_eq!(layers.pass(&mut tap, &[1], [1, 0]).unwrap_err(), TapError::BadArgument);
    tap.observe(Kind::Output, &[]).unwrap();
    layers.pass(&mut tap, &[1], [1, 0]).unwrap();
}

#[test]
fn no_row_steers_the_output_of_layer_0() {
    let error = tap().set_row(Kind::Output, 0, 1, Some(&[1.0; WIDTH])).unwrap_err();
    assert_eq!(error, TapError::BadArgument);
}

#[test]
fn an_editor_changes_what_goes_on() {
    let (layers, mut tap) = (layers(), tap());
    let editor = |edit: Edit| {
        assert_eq!(edit.tokens.len() * WIDTH, edit.values.len());
        match (edit.kind, edit.layer) {
            (Kind::Heads, 0) => edit.values.iter_mut().for_each(|x| *x = -*x),
            (Kind::Output, 1) => {
                // In the order that was announced: 2, 1, 0.
                assert_eq!((edit.tokens, edit.positions), (&[2, 0][..], &[9, 7][..]));
                edit.values[WIDTH] = 100.0;
            }
            other => panic!("{other:?} was not to be edited"),
        }
        Ok(())
    };
    let mut editing = Editing::new(Box::new(editor), [WIDTH; 2]);
    editing.attach(&mut tap).unwrap();
    tap.edit(Kind::Heads, &[0]).unwrap();
    tap.edit(Kind::Output, &[1]).unwrap();
    // The first pass only learns.
    layers.pass(&mut tap, &[], [0, 0]).unwrap();
    assert_eq!(get(layers.attention, 2), [0.0, 1.0]);
    editing.begin(Some(&[2, 1, 0]), &[7, 8, 9]);
    tap.observe(Kind::Heads, &[0]).unwrap();
    tap.observe(Kind::Output, &[1]).unwrap();
    let [heads, outputs] = layers.pass(&mut tap, &[2], [1, 1]).unwrap();
    assert_eq!((heads, outputs), (vec![-4.0, -5.0], vec![100.0, 23.0]));
    assert_eq!(get(layers.outputs[0], 2), [10.0, 11.0]);
    assert_eq!(get(layers.outputs[1], 4), [20.0, 21.0, 100.0, 23.0]);
    assert!(editing.failure().is_none());
}

#[test]
fn an_editor_that_fails_or_panics_fails_the_pass() {
    let (layers, mut tap) = (layers(), tap());
    let mut n_call = 0;
    let editor = move |_: Edit| {
        n_call += 1;
        match n_call {
            1 => Err(Error::invalid("edit", "is refused")),
            _ => panic!("an editor's own fault"),
        }
    };
    let mut editing = Editing::new(Box::new(editor), [WIDTH; 2]);
    editing.attach(&mut tap).unwrap();
    tap.edit(Kind::Output, &[0]).unwrap();
    layers.pass(&mut tap, &[], [0, 0]).unwrap();
    assert_eq!(layers.pass(&mut tap, &[], [0, 0]).unwrap_err(), TapError::EditFailed);
    let error = editing.failure().map(|error| error.to_string());
    assert_eq!(error.as_deref(), Some("edit: is refused"));
    assert_eq!(layers.pass(&mut tap, &[], [0, 0]).unwrap_err(), TapError::EditFailed);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| editing.failure()));
    assert!(panicked.is_err());
}
