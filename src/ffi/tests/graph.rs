//! Small graphs of ggml's, made by hand and run as the scheduler runs them: every node is asked
//! about, then all are computed.

use std::ffi::{CString, c_void};
use std::ptr;

use llama_cpp_sys_2 as ggml;

pub(super) type Node = *mut ggml::ggml_tensor;
pub(super) type Callback = (ggml::ggml_backend_sched_eval_callback, *mut c_void);

/// A graph and its memory.
pub(super) struct Graph {
    pub(super) ctx: *mut ggml::ggml_context,
    backend: ggml::ggml_backend_t,
    buffer: ggml::ggml_backend_buffer_t,
    nodes: Vec<Node>,
}

impl Graph {
    pub(super) fn new() -> Self {
        // SAFETY: plain calls; the results are freed in `drop`.
        unsafe {
            let params = ggml::ggml_init_params {
                mem_size: 64 * ggml::ggml_tensor_overhead() + ggml::ggml_graph_overhead(),
                mem_buffer: ptr::null_mut(),
                no_alloc: true,
            };
            let backend = ggml::ggml_backend_cpu_init();
            ggml::ggml_backend_cpu_set_n_threads(backend, 1);
            Self {
                ctx: ggml::ggml_init(params),
                backend,
                buffer: ptr::null_mut(),
                nodes: Vec::new(),
            }
        }
    }

    /// An F32 matrix `[n_row, width]`, computed by nobody.
    pub(super) fn leaf(&self, name: &str, width: usize, n_row: usize) -> Node {
        let kind = ggml::GGML_TYPE_F32;
        // SAFETY: the context is alive and has room for 64 tensors.
        let leaf = unsafe { ggml::ggml_new_tensor_2d(self.ctx, kind, width as i64, n_row as i64) };
        named(leaf, name)
    }

    /// The next node of the graph.
    pub(super) fn node(&mut self, name: &str, node: Node) -> Node {
        // SAFETY: the tensor is alive. ggml skips nodes without the flag.
        unsafe { (*node).flags |= ggml::GGML_TENSOR_FLAG_COMPUTE as i32 };
        self.nodes.push(named(node, name));
        node
    }

    /// The same values under another shape.
    pub(super) fn reshape(&mut self, name: &str, of: Node, width: usize, n_row: usize) -> Node {
        // SAFETY: the context and its tensors are alive.
        let node = unsafe { ggml::ggml_reshape_2d(self.ctx, of, width as i64, n_row as i64) };
        self.node(name, node)
    }

    pub(super) fn mul_mat(&mut self, name: &str, weight: Node, of: Node) -> Node {
        // SAFETY: as above.
        let node = unsafe { ggml::ggml_mul_mat(self.ctx, weight, of) };
        self.node(name, node)
    }

    pub(super) fn add(&mut self, name: &str, a: Node, b: Node) -> Node {
        // SAFETY: as above.
        let node = unsafe { ggml::ggml_add(self.ctx, a, b) };
        self.node(name, node)
    }

    /// Gives every tensor memory.
    pub(super) fn allocate(&mut self) {
        // SAFETY: as above; nothing was allocated before.
        self.buffer = unsafe { ggml::ggml_backend_alloc_ctx_tensors(self.ctx, self.backend) };
        assert!(!self.buffer.is_null());
    }

    /// Asks about every node and computes the graph; gives the answers.
    pub(super) fn run(&self, (callback, tap): Callback) -> Vec<bool> {
        let callback = callback.expect("a tap has a callback");
        // SAFETY: nodes and tap are alive; the graph is on its context, which has room for it.
        unsafe {
            let answers = self.nodes.iter().map(|&node| callback(node, true, tap)).collect();
            let params = ggml::ggml_init_params {
                mem_size: ggml::ggml_graph_overhead(),
                mem_buffer: ptr::null_mut(),
                no_alloc: true,
            };
            let ctx = ggml::ggml_init(params);
            let graph = ggml::ggml_new_graph(ctx);
            self.nodes.iter().for_each(|&node| ggml::ggml_graph_add_node(graph, node));
            ggml::ggml_backend_graph_compute(self.backend, graph);
            ggml::ggml_free(ctx);
            answers
        }
    }

    /// As [`run`](Self::run), and tells the callback of every node that it asked for.
    pub(super) fn run_and_tell(&self, (callback, tap): Callback) {
        let answers = self.run((callback, tap));
        let callback = callback.expect("a tap has a callback");
        for (&node, _) in self.nodes.iter().zip(answers).filter(|(_, wants)| *wants) {
            // SAFETY: node and tap are alive, and the node was computed.
            unsafe { callback(node, false, tap) };
        }
    }

    /// Asks about every node, and computes none.
    pub(super) fn ask(&self, (callback, tap): Callback) {
        let callback = callback.expect("a tap has a callback");
        for &node in &self.nodes {
            // SAFETY: node and tap are alive.
            unsafe { callback(node, true, tap) };
        }
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: each was made once and is freed once; null is fine.
        unsafe {
            ggml::ggml_backend_buffer_free(self.buffer);
            ggml::ggml_free(self.ctx);
            ggml::ggml_backend_free(self.backend);
        }
    }
}

fn named(node: Node, name: &str) -> Node {
    let name = CString::new(name).expect("a name without NUL");
    // SAFETY: ggml copies the name.
    unsafe { ggml::ggml_set_name(node, name.as_ptr()) }
}

/// Writes a tensor's values.
pub(super) fn set(node: Node, values: &[f32]) {
    // SAFETY: the tensor has memory for as many, which ggml checks.
    unsafe {
        ggml::ggml_backend_tensor_set(node, values.as_ptr().cast(), 0, size_of_val(values));
    }
}

/// A tensor's first `n` values.
pub(super) fn get(node: Node, n: usize) -> Vec<f32> {
    let mut values = vec![0f32; n];
    // SAFETY: the tensor has at least as many, which ggml checks.
    unsafe {
        ggml::ggml_backend_tensor_get(node, values.as_mut_ptr().cast(), 0, size_of_val(&*values));
    }
    values
}
