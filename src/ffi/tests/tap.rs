//! The tap on graphs made by hand.

use llama_cpp_sys_2 as ggml;

use super::super::tap::{Kind, Pass, Path, Reader, Seen, Tap, TapError};
use super::graph::{Graph, Node, get, set};

const WIDTH: usize = 4;
const N_TOKEN: usize = 2;
const OFFSET: [f32; WIDTH] = [1.0, -2.0, 0.0, 0.5];
/// What a model may well compute: both zeros.
const VALUES: [f32; WIDTH * N_TOKEN] = [-0.0, 1.0, 0.0, -1.0, 0.0, 1.0, -0.0, -1.0];

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// One pass of `rows.len()` tokens that observes nothing.
fn pass<T>(tap: &mut Tap, rows: &[i32], run: impl FnOnce() -> T) -> (T, Result<(), TapError>) {
    let pass = Pass { rows, want: &[], tokens: None, outputs: None };
    tap.pass(&pass, Seen::default(), run).expect("the pass begins")
}

/// An attention result and the RESHAPE of it that llama.cpp names `kqv_out-0`.
fn reshaped() -> (Graph, Node, Node) {
    let mut graph = Graph::new();
    let result = graph.leaf("attention", WIDTH, N_TOKEN);
    let node = graph.reshape("kqv_out-0", result, WIDTH, N_TOKEN);
    graph.allocate();
    (graph, result, node)
}

#[test]
fn a_token_on_row_0_keeps_even_its_negative_zeros() {
    let (graph, result, node) = reshaped();
    let mut tap = Tap::new(&[WIDTH], 0, 2, 8, true).unwrap();
    let callback = tap.callback();
    set(result, &VALUES);
    pass(&mut tap, &[0, 0], || graph.run(callback)).1.unwrap();
    tap.set_row(Kind::Heads, 0, 1, Some(&OFFSET)).unwrap();
    set(result, &VALUES);
    let (answers, verdict) = pass(&mut tap, &[0, 1], || graph.run(callback));
    verdict.unwrap();
    assert_eq!((answers, tap.path(Kind::Heads, 0)), (vec![false], Path::InGraph));
    let got = get(node, VALUES.len());
    assert_eq!(bits(&got[..WIDTH]), bits(&VALUES[..WIDTH]));
    // Where a row adds nothing to a value, that one is kept, too.
    assert_eq!(bits(&got[WIDTH..]), bits(&[1.0, -1.0, -0.0, -0.5]));
}

#[test]
fn a_graph_without_anything_to_add_is_as_it_was() {
    let (graph, result, node) = reshaped();
    let mut tap = Tap::new(&[WIDTH], 0, 2, 8, true).unwrap();
    let callback = tap.callback();
    // SAFETY: the node lives as long as the graph.
    let shape = || unsafe { ((*node).op, (*node).src) };
    let before = shape();
    assert_eq!(before.0, ggml::GGML_OP_RESHAPE);
    pass(&mut tap, &[0, 0], || graph.run(callback)).1.unwrap();
    for _ in 0..2 {
        tap.set_row(Kind::Heads, 0, 1, Some(&OFFSET)).unwrap();
        pass(&mut tap, &[1, 1], || graph.run(callback)).1.unwrap();
        assert_eq!(shape().0, ggml::GGML_OP_ADD_ID);
        tap.set_row(Kind::Heads, 0, 1, None).unwrap();
        set(result, &VALUES);
        pass(&mut tap, &[1, 1], || graph.run(callback)).1.unwrap();
        assert_eq!((shape(), tap.path(Kind::Heads, 0)), (before, Path::Watched));
        assert_eq!(bits(&get(node, VALUES.len())), bits(&VALUES));
    }
}

/// Asks about a graph that `build` makes of the node `kqv_out-0`, and says who reads that.
fn reader(build: impl FnOnce(&mut Graph, Node)) -> Reader {
    let mut graph = Graph::new();
    let result = graph.leaf("attention", WIDTH, N_TOKEN);
    let node = graph.reshape("kqv_out-0", result, WIDTH, N_TOKEN);
    build(&mut graph, node);
    graph.allocate();
    let mut tap = Tap::new(&[WIDTH], 0, 2, 8, true).unwrap();
    let callback = tap.callback();
    pass(&mut tap, &[0, 0], || graph.ask(callback)).1.unwrap();
    tap.reader(0)
}

#[test]
fn finds_the_projection_through_shapes_and_copies() {
    let is_read_by = |weight: &str| {
        reader(|graph, node| {
            let weight = graph.leaf(weight, WIDTH, 3);
            graph.mul_mat("out", weight, node);
        })
    };
    assert_eq!(is_read_by("blk.0.attn_output.weight"), Reader::Projection);
    assert_eq!(is_read_by("CUDA0#blk.0.attn_output.weight#0"), Reader::Projection);
    assert_eq!(is_read_by("blk.0.attn_output.weight.lora_a"), Reader::Projection);
    for other in ["blk.1.attn_output.weight", "blk.10.attn_output.weight", "blk.0.attn_gate.weight"]
    {
        assert_eq!(is_read_by(other), Reader::Altered("MUL_MAT".to_owned()), "{other}");
    }
    // The scheduler's copy of a shape of the node, on another device.
    let copied = |copy: &str| {
        reader(|graph, node| {
            graph.reshape("kqv_out-0 (reshaped)", node, 2, 4);
            let copy = graph.leaf(copy, WIDTH, N_TOKEN);
            let weight = graph.leaf("blk.0.attn_output.weight", WIDTH, 3);
            graph.mul_mat("out", weight, copy);
        })
    };
    assert_eq!(copied("RPC0[host:50052]#kqv_out-0 (reshaped)#0"), Reader::Projection);
    for other in ["RPC0#kqv_out-1#0", "RPC0#kqv_out-0 (res#0", "#", "##", "kqv_out-0 (reshaped)"] {
        assert_eq!(copied(other), Reader::Unread, "{other}");
    }
}

#[test]
fn tells_what_stands_between_the_heads_and_the_projection() {
    let gated = reader(|graph, node| {
        let heads = graph.reshape("heads", node, 2, 4);
        let gate = graph.leaf("gate", 2, 4);
        // SAFETY: the context and its tensors are alive.
        let gated = unsafe { ggml::ggml_mul(graph.ctx, heads, gate) };
        graph.node("gated", gated);
        let flat = graph.reshape("flat", gated, WIDTH, N_TOKEN);
        let weight = graph.leaf("blk.0.attn_output.weight", WIDTH, 3);
        graph.mul_mat("out", weight, flat);
    });
    assert_eq!(gated, Reader::Altered("MUL".to_owned()));
    assert_eq!(reader(|_, _| ()), Reader::Unread);
    // What else looks on does not matter.
    let watched = reader(|graph, node| {
        // SAFETY: as above.
        let square = unsafe { ggml::ggml_mul(graph.ctx, node, node) };
        graph.node("square", square);
        let weight = graph.leaf("blk.0.attn_output.weight", WIDTH, 3);
        graph.mul_mat("out", weight, node);
    });
    assert_eq!(watched, Reader::Projection);
}

/// `kqv_out-0`, rotated by pairs, and the projection.
fn rotated() -> (Graph, Node, Node) {
    let mut graph = Graph::new();
    let result = graph.leaf("attention", WIDTH, N_TOKEN);
    let node = graph.reshape("kqv_out-0", result, WIDTH, N_TOKEN);
    let pairs = graph.reshape("pairs", node, 2, 4);
    let matrix = graph.leaf("rotation", 2, 2);
    let back = graph.mul_mat("back", matrix, pairs);
    // SAFETY: the tensor is alive.
    unsafe { ggml::ggml_mul_mat_set_hint(back, ggml::GGML_HINT_SRC0_IS_HADAMARD) };
    let flat = graph.reshape("flat", back, WIDTH, N_TOKEN);
    let weight = graph.leaf("blk.0.attn_output.weight", WIDTH, 3);
    graph.mul_mat("out", weight, flat);
    graph.allocate();
    let h = std::f32::consts::FRAC_1_SQRT_2;
    set(matrix, &[h, h, h, -h]);
    (graph, result, flat)
}

#[test]
fn steers_rotated_heads_in_their_own_terms() {
    let (graph, result, flat) = rotated();
    let mut tap = Tap::new(&[WIDTH], 0, 2, 8, true).unwrap();
    let callback = tap.callback();
    // One row is set before anything is known, and once more after.
    tap.set_row(Kind::Heads, 0, 1, Some(&OFFSET)).unwrap();
    for again in [false, true] {
        set(result, &VALUES);
        pass(&mut tap, &[0, 0], || graph.run(callback)).1.unwrap();
        assert_eq!((tap.reader(0), tap.rotation(0)), (Reader::Projection, 2));
        let plain = get(flat, VALUES.len());
        if again {
            tap.set_row(Kind::Heads, 0, 1, Some(&OFFSET)).unwrap();
        }
        set(result, &VALUES);
        pass(&mut tap, &[0, 1], || graph.run(callback)).1.unwrap();
        let steered = get(flat, VALUES.len());
        assert_eq!(bits(&steered[..WIDTH]), bits(&plain[..WIDTH]));
        for i in 0..WIDTH {
            assert!(
                (steered[WIDTH + i] - plain[WIDTH + i] - OFFSET[i]).abs() < 1e-6,
                "{steered:?}"
            );
        }
    }
}

#[test]
fn a_first_pass_that_steers_rotated_heads_is_an_error() {
    let (graph, _, _) = rotated();
    let mut tap = Tap::new(&[WIDTH], 0, 2, 8, true).unwrap();
    let callback = tap.callback();
    tap.set_row(Kind::Heads, 0, 1, Some(&OFFSET)).unwrap();
    let (_, verdict) = pass(&mut tap, &[0, 1], || graph.ask(callback));
    assert_eq!(verdict, Err(TapError::Rotated { layer: 0 }));
    pass(&mut tap, &[0, 1], || graph.run(callback)).1.unwrap();
}

/// A layer's output with a control vector of -0.0: the output, and the ADD named `l_out-1`.
fn output() -> (Graph, Node, Node) {
    let mut graph = Graph::new();
    let result = graph.leaf("result", WIDTH, N_TOKEN);
    let vector = graph.leaf("vector", WIDTH, 1);
    let node = graph.add("l_out-1", result, vector);
    graph.allocate();
    set(vector, &[-0.0; WIDTH]);
    (graph, result, node)
}

#[test]
fn an_added_vector_gives_way_to_each_tokens_row_and_comes_back() {
    let (graph, result, node) = output();
    let mut tap = Tap::new(&[WIDTH; 2], WIDTH, 2, 8, true).unwrap();
    let callback = tap.callback();
    // SAFETY: the node lives as long as the graph.
    let shape = || unsafe { ((*node).op, (*node).src) };
    let before = shape();
    pass(&mut tap, &[0, 0], || graph.run(callback)).1.unwrap();
    assert_eq!((shape(), tap.path(Kind::Output, 1)), (before, Path::Watched));
    for _ in 0..2 {
        tap.set_row(Kind::Output, 1, 1, Some(&OFFSET)).unwrap();
        set(result, &VALUES);
        let (answers, verdict) = pass(&mut tap, &[0, 1], || graph.run(callback));
        verdict.unwrap();
        assert_eq!((answers, tap.path(Kind::Output, 1)), (vec![false], Path::InGraph));
        assert_eq!(shape().0, ggml::GGML_OP_ADD_ID);
        let got = get(node, VALUES.len());
        assert_eq!(bits(&got[..WIDTH]), bits(&VALUES[..WIDTH]));
        assert_eq!(bits(&got[WIDTH..]), bits(&[1.0, -1.0, -0.0, -0.5]));
        tap.set_row(Kind::Output, 1, 1, None).unwrap();
        set(result, &VALUES);
        pass(&mut tap, &[1, 1], || graph.run(callback)).1.unwrap();
        assert_eq!(shape(), before);
        assert_eq!(bits(&get(node, VALUES.len())), bits(&VALUES));
    }
}

#[test]
fn where_only_wanted_tokens_are_computed_each_keeps_its_own_row() {
    for in_graph in [true, false] {
        // Of its own: a graph that was steered points to what its tap holds.
        let mut graph = Graph::new();
        let attention = graph.leaf("attention", WIDTH, 3);
        graph.reshape("kqv_out-0", attention, WIDTH, 3);
        let result = graph.leaf("result", WIDTH, N_TOKEN);
        let vector = graph.leaf("vector", WIDTH, 1);
        let node = graph.add("l_out-1", result, vector);
        graph.allocate();
        set(vector, &[-0.0; WIDTH]);
        let mut tap = Tap::new(&[WIDTH; 2], WIDTH, 3, 8, in_graph).unwrap();
        let callback = tap.callback();
        let rows = [2, 1, 0];
        let try_with = |tap: &mut Tap, outputs: Option<&[i8]>| {
            set(result, &[1.0; WIDTH * N_TOKEN]);
            let pass = Pass { rows: &rows, want: &[], tokens: None, outputs };
            tap.pass(&pass, Seen::default(), || graph.ask(callback)).unwrap().1?;
            graph.run(callback);
            Ok::<_, TapError>(())
        };
        try_with(&mut tap, Some(&[1, 0, 1])).unwrap();
        tap.set_row(Kind::Output, 1, 1, Some(&[10.0; WIDTH])).unwrap();
        tap.set_row(Kind::Output, 1, 2, Some(&[20.0; WIDTH])).unwrap();
        let pass = Pass { rows: &rows, want: &[], tokens: None, outputs: Some(&[0, 1, 1]) };
        set(result, &[1.0; WIDTH * N_TOKEN]);
        if in_graph {
            // The bank exists since the graph came by.
            tap.pass(&pass, Seen::default(), || graph.run(callback)).unwrap().1.unwrap();
            let got = get(node, WIDTH * N_TOKEN);
            assert_eq!((got[0], got[WIDTH]), (11.0, 1.0));
            assert_eq!(tap.path(Kind::Output, 1), Path::InGraph);
        } else {
            tap.pass(&pass, Seen::default(), || graph.ask(callback)).unwrap().1.unwrap();
            assert_eq!(tap.path(Kind::Output, 1), Path::Callback);
        }
        // Two columns, and three tokens are wanted, or nobody knows which.
        for outputs in [Some(&[1i8, 1, 1][..]), None] {
            let error = try_with(&mut tap, outputs).unwrap_err();
            assert!(matches!(error, TapError::Miscount { kind: Kind::Output, layer: 1, .. }));
        }
    }
}

#[test]
fn an_addition_of_computed_values_is_no_control_vector() {
    let mut graph = Graph::new();
    let result = graph.leaf("result", WIDTH, 1);
    let other = graph.leaf("other", WIDTH, 1);
    let computed = graph.add("sum", result, other);
    graph.add("l_out-1", result, computed);
    // The scheduler's copy of what another device computed.
    let copy = graph.leaf("CUDA0#sum#0", WIDTH, 1);
    graph.add("l_out-2", result, copy);
    graph.allocate();
    for layer in [1, 2] {
        let mut tap = Tap::new(&[WIDTH; 3], WIDTH, 2, 8, true).unwrap();
        let callback = tap.callback();
        tap.set_row(Kind::Output, layer, 1, Some(&OFFSET)).unwrap();
        let (_, verdict) = pass(&mut tap, &[1], || graph.ask(callback));
        assert_eq!(verdict, Err(TapError::Miscount { kind: Kind::Output, layer, got: 0 }));
    }
}
