//! A graph in memory that is asked about and never computed: what the tap itself costs.

use std::ffi::{CString, c_void};
use std::ptr::NonNull;

use llama_cpp_sys_2 as llama;

use super::tap::{Kind, Pass, Seen, Tap};
use super::{guard, sys};

/// A tap before a graph of named nodes, some of which are attention outputs. For benches.
pub struct Rehearsal {
    tap: Tap,
    graph: Graph,
    n_layer: usize,
}

impl Rehearsal {
    /// A graph of `n_node` nodes with `n_layer` attention outputs `[width, n_token]` spread over
    /// it, and a tap with banks of `n_row` rows.
    ///
    /// # Panics
    /// Where memory runs out, or with fewer nodes than layers.
    #[must_use]
    pub fn new(n_node: usize, n_layer: usize, width: usize, n_token: usize, n_row: usize) -> Self {
        assert!(n_node >= n_layer && n_layer > 0, "every layer needs a node");
        let tap =
            Tap::new(&vec![width; n_layer], 0, n_row, n_token, true).expect("memory for a tap");
        let graph = Graph::new(n_node, n_layer, width, n_token).expect("memory for a graph");
        Self { tap, graph, n_layer }
    }

    /// Rewrites a row of every layer's bank with this value.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn set_row(&mut self, row: usize, offset: &[f32]) {
        for layer in 0..self.n_layer {
            self.tap.set_row(Kind::Heads, layer, row, Some(offset)).expect("the row exists");
        }
    }

    /// One pass: tells the tap the tokens' rows `[n_token]`, which brings the banks up to date, and
    /// asks it about every node. Gives the number of nodes that it would have the graph cut at: 0.
    ///
    /// # Panics
    /// If the tap finds fault with the pass.
    pub fn pass(&mut self, rows: &[i32]) -> usize {
        let (eval, user_data) = self.tap.callback();
        let eval = eval.expect("a tap is a callback");
        let graph = &self.graph;
        // SAFETY: the nodes live as long as the graph, and the tap is the user data of its callback.
        let ask =
            || unsafe { graph.nodes.iter().filter(|&&node| eval(node, true, user_data)).count() };
        let pass = Pass { rows, want: &[], tokens: None, outputs: None };
        let (n_cut, verdict) = self.tap.pass(&pass, Seen::default(), ask).expect("a sound pass");
        verdict.expect("every layer came by");
        n_cut
    }

    /// Layers that are steered inside the graph.
    #[must_use]
    pub fn n_in_graph(&self) -> usize {
        (0..self.n_layer)
            .filter(|&l| self.tap.path(Kind::Heads, l) == super::tap::Path::InGraph)
            .count()
    }
}

/// Nodes in the CPU's memory. Owns them all.
struct Graph {
    context: NonNull<llama::ggml_context>,
    buffer: llama::ggml_backend_buffer_t,
    nodes: Vec<*mut llama::ggml_tensor>,
}

impl Graph {
    fn new(n_node: usize, n_layer: usize, width: usize, n_token: usize) -> Option<Self> {
        let (width, n_token) = (i64::try_from(width).ok()?, i64::try_from(n_token).ok()?);
        // SAFETY: reads a constant.
        let overhead = unsafe { llama::ggml_tensor_overhead() };
        let params = llama::ggml_init_params {
            mem_size: overhead * (n_node + n_layer + 8),
            mem_buffer: std::ptr::null_mut::<c_void>(),
            no_alloc: true,
        };
        // SAFETY: asks for memory of ggml's own.
        let context = NonNull::new(unsafe { llama::ggml_init(params) })?;
        let mut graph = Self { context, buffer: std::ptr::null_mut(), nodes: Vec::new() };
        let every = n_node / n_layer;
        for i in 0..n_node {
            let layer = i / every;
            let is_output = i % every == every - 1 && layer < n_layer;
            let name = if is_output { format!("kqv_out-{layer}") } else { format!("node_{i}") };
            let name = CString::new(name).ok()?;
            let columns = if is_output { n_token } else { 1 };
            // SAFETY: the context has room for all tensors, the name ends with NUL and is copied.
            // An output is a view of another tensor, as flash attention leaves it.
            graph.nodes.push(unsafe {
                let kind = llama::GGML_TYPE_F32;
                let mut node = llama::ggml_new_tensor_2d(context.as_ptr(), kind, width, columns);
                if is_output {
                    node = llama::ggml_reshape_2d(context.as_ptr(), node, width, columns);
                }
                llama::ggml_set_name(node, name.as_ptr())
            });
        }
        // SAFETY: the context's tensors have no memory yet; the buffer is freed with the graph.
        graph.buffer = guard::call_or(std::ptr::null_mut(), |fault| unsafe {
            let kind = llama::ggml_backend_cpu_buffer_type();
            sys::guard_alloc_tensors(context.as_ptr(), kind, fault)
        });
        (!graph.buffer.is_null()).then_some(graph)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: both came from ggml and are freed once; freeing no buffer does nothing.
        unsafe {
            llama::ggml_backend_buffer_free(self.buffer);
            llama::ggml_free(self.context.as_ptr());
        }
    }
}
