//! What the encoder of pictures computes on its way: every layer's heads and output, copied as they
//! come by.
//!
//! As [`super::means`], an eval callback that cannot panic: it reads nodes by name into memory of its
//! own, and only while it is asked to.

use std::ffi::{CStr, c_void};
use std::ptr::NonNull;

use llama_cpp_sys_2 as llama;

use super::{guard, sys};

/// `cb_eval` and its user data.
type Callback = (llama::ggml_backend_sched_eval_callback, *mut c_void);

/// What one encode gave, layer by layer.
#[derive(Debug, Default, Clone)]
pub(crate) struct Nodes {
    /// `[n_layer]` the heads' outputs as the output projection reads them, F32
    /// `[n_place, n_head * d_head]`.
    pub(crate) heads: Vec<Vec<f32>>,
    /// `[n_layer]` the layers' outputs, F32 `[n_place, n_embd]`.
    pub(crate) layers: Vec<Vec<f32>>,
}

/// Owns what is read. The projector that calls it must be freed before.
pub(crate) struct NodeReader {
    ptr: NonNull<State>,
}

// SAFETY: the state is reached through this handle and through the callback of the one projector that
// holds it, never at once.
unsafe impl Send for NodeReader {}

struct State {
    is_on: bool,
    nodes: Nodes,
    n_embd: usize,
    /// A node was of another shape or could not be read.
    is_strange: bool,
}

/// A node that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Site {
    Heads(usize),
    Layer(usize),
}

impl NodeReader {
    /// For an encoder of so many layers, as wide in its heads as between its layers.
    pub(crate) fn new(n_layer: usize, n_embd: usize) -> Self {
        let nodes = Nodes { heads: vec![Vec::new(); n_layer], layers: vec![Vec::new(); n_layer] };
        let state = Box::new(State { is_on: false, nodes, n_embd, is_strange: false });
        Self { ptr: NonNull::from(Box::leak(state)) }
    }

    /// The callback for the encoder.
    pub(super) fn callback(&self) -> Callback {
        (Some(eval), self.ptr.as_ptr().cast())
    }

    /// Reads nodes from now on.
    pub(super) fn start(&mut self) {
        let state = self.state_mut();
        (state.is_on, state.is_strange) = (true, false);
        for layer in state.nodes.heads.iter_mut().chain(&mut state.nodes.layers) {
            layer.clear();
        }
    }

    /// Stops, and gives what was read; `None` where a node was missing or of another shape.
    pub(super) fn finish(&mut self) -> Option<Nodes> {
        let state = self.state_mut();
        state.is_on = false;
        let nodes = state.nodes.clone();
        let n = nodes.heads.first().map_or(0, Vec::len);
        let is_whole = nodes.heads.iter().chain(&nodes.layers).all(|layer| layer.len() == n);
        (n > 0 && is_whole && !state.is_strange).then_some(nodes)
    }

    fn state_mut(&mut self) -> &mut State {
        // SAFETY: the state lives as long as `self`, and no callback runs while it is borrowed: an encode
        // borrows the projector, which owns this, mutably.
        unsafe { self.ptr.as_mut() }
    }
}

impl Drop for NodeReader {
    fn drop(&mut self) {
        // SAFETY: made by `Box::leak`, freed once.
        drop(unsafe { Box::from_raw(self.ptr.as_ptr()) });
    }
}

/// What a node of this name is.
fn site_of(name: &CStr) -> Option<Site> {
    let name = std::str::from_utf8(name.to_bytes()).ok()?;
    let number = |digits: &str| digits.parse().ok();
    match (name.strip_prefix("kqv_out-"), name.strip_prefix("layer_out-")) {
        (Some(digits), _) => number(digits).map(Site::Heads),
        (_, Some(digits)) => number(digits).map(Site::Layer),
        _ => None,
    }
}

/// Asked by the encoder's scheduler before (`ask`) and after a node is computed.
unsafe extern "C" fn eval(
    node: *mut llama::ggml_tensor,
    ask: bool,
    user_data: *mut c_void,
) -> bool {
    // SAFETY: the user data is the `State` of the `NodeReader` that the projector owns; nothing else
    // borrows it during an encode.
    let state = unsafe { &mut *user_data.cast::<State>() };
    if ask {
        // SAFETY: the scheduler passes a node of its graph.
        unsafe { clear(node) };
    }
    if !state.is_on {
        return !ask;
    }
    // SAFETY: the scheduler passes a node of its graph, whose name ends with NUL.
    let site = site_of(unsafe { CStr::from_ptr(std::ptr::addr_of!((*node).name).cast()) });
    if ask {
        return site.is_some();
    }
    let n_embd = state.n_embd;
    let values = match site {
        Some(Site::Heads(layer)) => state.nodes.heads.get_mut(layer),
        Some(Site::Layer(layer)) => state.nodes.layers.get_mut(layer),
        None => return true,
    };
    // SAFETY: the node was just computed.
    let is_read = values.is_some_and(|values| unsafe { read(node, n_embd, values) });
    state.is_strange |= !is_read;
    true
}

/// llama.cpp's graph of Pixtral makes zeros of memory that nobody wrote, by multiplying it by 0: where
/// it holds NaN, so does the result. Here it is zeroed first.
///
/// # Safety
/// The node must be one of a graph that is about to be computed.
unsafe fn clear(node: *mut llama::ggml_tensor) {
    // SAFETY: the node is alive, and so are its sources.
    let (op, factor, source) = unsafe { ((*node).op, (*node).op_params[0], (*node).src[0]) };
    if op != llama::GGML_OP_SCALE || factor != 0 || source.is_null() {
        return;
    }
    // SAFETY: as above.
    let (op, flags, buffer) = unsafe { ((*source).op, (*source).flags, (*source).buffer) };
    let is_given = flags & llama::GGML_TENSOR_FLAG_INPUT.cast_signed() != 0;
    if op == llama::GGML_OP_NONE && !is_given && !buffer.is_null() {
        // SAFETY: the tensor has memory; what it holds is multiplied by 0. A failure leaves it as it was.
        let _ = guard::call(|fault| unsafe { sys::guard_tensor_zero(source, fault) });
    }
}

/// Appends a node's values; false where they are not F32 of this width.
///
/// # Safety
/// The node must have been computed.
unsafe fn read(node: *mut llama::ggml_tensor, n_embd: usize, values: &mut Vec<f32>) -> bool {
    // SAFETY: the node is alive.
    let (ne, kind, is_whole) =
        unsafe { ((*node).ne, (*node).type_, llama::ggml_is_contiguous(node)) };
    let [width, n1, n2, n3] = ne.map(|n| usize::try_from(n).unwrap_or(0));
    let n_value = [n1, n2, n3].iter().try_fold(width, |n, &m| n.checked_mul(m)).unwrap_or(0);
    if kind != llama::GGML_TYPE_F32 || !is_whole || width != n_embd || n_value == 0 {
        return false;
    }
    let start = values.len();
    values.resize(start.saturating_add(n_value), 0.0);
    let Some(values) = values.get_mut(start..) else { return false };
    // SAFETY: the node is contiguous F32 of as many values as `values` has; it was computed, so it has
    // memory on its device.
    guard::call(|fault| unsafe {
        sys::guard_tensor_get(node, values.as_mut_ptr().cast(), 0, size_of_val(values), fault);
    })
    .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_nodes_by_name() {
        assert_eq!(site_of(c"kqv_out-3"), Some(Site::Heads(3)));
        assert_eq!(site_of(c"layer_out-12"), Some(Site::Layer(12)));
        for name in [c"kqv_out", c"layer_out-x", c"layer_out-1 (view)", c"l_out-1", c""] {
            assert_eq!(site_of(name), None, "{name:?}");
        }
    }
}
