//! The mean output of every layer, over the tokens of one or more decodes, or over several groups of
//! them apart.
//!
//! The tap looks at attention outputs. What a layer as a whole gives, its `l_out-<il>`, is looked at
//! here: by an eval callback of its own that goes before the tap's, or that stands alone in a context
//! without one. It adds up columns into memory that is there from the start, and cannot panic: no
//! index, no allocation but for the words of an exception that it caught, no arithmetic that overflows.

use std::ffi::{CStr, c_void};
use std::ptr::NonNull;

use llama_cpp_sys_2 as llama;

use super::{guard, sys};

/// `cb_eval` and its user data.
type Callback = (llama::ggml_backend_sched_eval_callback, *mut c_void);

/// Owns the sums. The context that calls it must be freed before.
#[derive(Debug)]
pub(crate) struct LayerMeans {
    ptr: NonNull<Sums>,
}

/// What the callback works on.
#[derive(Debug)]
struct Sums {
    /// The tap's callback, where there is one.
    tap: Option<Callback>,
    /// Whether the tap asked for the node that was asked about last.
    tap_wants: bool,
    /// Whether the tap's callback threw in the present decode.
    has_thrown: bool,
    n_embd: usize,
    /// Of each token of the present decode, the group that it counts in.
    counted: Vec<Option<usize>>,
    /// The same of those tokens alone whose logits are wanted.
    counted_outputs: Vec<Option<usize>>,
    /// F32 `[n_batch, n_embd]`: one node.
    node: Vec<f32>,
    layers: Vec<Layer>,
}

#[derive(Debug, Clone)]
struct Layer {
    /// F64 `[n_group, n_embd]`.
    sum: Vec<f64>,
    /// `[n_group]`
    n_token: Vec<u64>,
    /// Tokens of the present decode that came by.
    n_seen: usize,
    /// Nodes that were not F32 of the model's width.
    n_strange: u64,
}

impl LayerMeans {
    /// Sums over `n_layer` layers of outputs of `n_embd` values, for ubatches of up to `n_batch`
    /// tokens. Tokens at position 0 do not count: what models do there (a BOS of a hundred times the
    /// size of all else) is like nothing that follows.
    pub(crate) fn new(n_layer: usize, n_embd: usize, n_batch: usize) -> Self {
        Self::of_groups(1, n_layer, n_embd, n_batch)
    }

    /// The same over each of some groups of tokens, to which [`Batch::group`](crate::session::Batch)
    /// puts them.
    pub(crate) fn of_groups(n_group: usize, n_layer: usize, n_embd: usize, n_batch: usize) -> Self {
        let layer = Layer {
            sum: vec![0.0; n_embd.saturating_mul(n_group)],
            n_token: vec![0; n_group],
            n_seen: 0,
            n_strange: 0,
        };
        let sums = Box::new(Sums {
            tap: None,
            tap_wants: false,
            has_thrown: false,
            n_embd,
            counted: Vec::new(),
            counted_outputs: Vec::new(),
            node: vec![0.0; n_embd.saturating_mul(n_batch)],
            layers: vec![layer; n_layer],
        });
        Self { ptr: NonNull::from(Box::leak(sums)) }
    }

    /// The callback for a context, which passes on to the tap's all that it does not care for.
    pub(super) fn callback(&mut self, tap: Option<Callback>) -> Callback {
        self.sums_mut().tap = tap;
        (Some(eval), self.ptr.as_ptr().cast())
    }

    /// Begins a decode of tokens at these positions, in these groups (below zero: none) or, where there
    /// are no groups, all but the first position in group 0. Of the last layer llama.cpp computes those
    /// that are marked for output alone.
    pub(super) fn begin(&mut self, positions: &[i32], groups: &[i8], outputs: &[i8]) {
        let sums = self.sums_mut();
        sums.has_thrown = false;
        sums.counted.clear();
        match groups {
            [] => {
                sums.counted.extend(positions.iter().map(|&position| (position > 0).then_some(0)))
            }
            groups => sums.counted.extend(groups.iter().map(|&group| usize::try_from(group).ok())),
        }
        sums.counted_outputs.clear();
        let is_output = |(_, output): &(_, &i8)| **output != 0;
        let of_outputs = sums.counted.iter().zip(outputs).filter(is_output);
        sums.counted_outputs.extend(of_outputs.map(|(group, _)| *group));
        sums.layers.iter_mut().for_each(|layer| layer.n_seen = 0);
    }

    /// Whether the tap's callback threw in the last decode, which is then worth nothing. What it said
    /// is among llama.cpp's complaints.
    pub(super) fn has_thrown(&self) -> bool {
        // SAFETY: as in `sum`.
        unsafe { self.ptr.as_ref() }.has_thrown
    }

    /// Forgets what was added up.
    pub(crate) fn reset(&mut self) {
        for layer in &mut self.sums_mut().layers {
            layer.sum.fill(0.0);
            layer.n_token.fill(0);
            layer.n_strange = 0;
        }
    }

    /// The sum of a layer's outputs over the tokens of a group, F64 `[n_embd]`, and how many these are;
    /// `None` where none came by, or in another shape.
    pub(crate) fn sum(&self, layer: usize, group: usize) -> Option<(&[f64], u64)> {
        // SAFETY: the sums live as long as `self`, and no callback runs while it is borrowed: a decode
        // borrows the context, which owns this, mutably.
        let sums = unsafe { self.ptr.as_ref() };
        let layer = sums.layers.get(layer)?;
        let n_token = *layer.n_token.get(group)?;
        let sum = layer.sum.chunks_exact(sums.n_embd.max(1)).nth(group)?;
        (n_token > 0 && layer.n_strange == 0).then_some((sum, n_token))
    }

    fn sums_mut(&mut self) -> &mut Sums {
        // SAFETY: as in `sum`, and `self` is borrowed mutably.
        unsafe { self.ptr.as_mut() }
    }
}

impl Drop for LayerMeans {
    fn drop(&mut self) {
        // SAFETY: made by `Box::leak`, freed once.
        drop(unsafe { Box::from_raw(self.ptr.as_ptr()) });
    }
}

/// The layer of a node `l_out-<il>`.
fn layer_of(name: &CStr) -> Option<usize> {
    std::str::from_utf8(name.to_bytes().strip_prefix(b"l_out-")?).ok()?.parse().ok()
}

/// Asked by llama.cpp's scheduler before (`ask`) and after a node is computed.
unsafe extern "C" fn eval(
    node: *mut llama::ggml_tensor,
    ask: bool,
    user_data: *mut c_void,
) -> bool {
    // SAFETY: the user data is the `Sums` of the `LayerMeans` that the context owns; nothing else
    // borrows them during a decode.
    let sums = unsafe { &mut *user_data.cast::<Sums>() };
    // SAFETY: the scheduler passes a node of its graph, whose name ends with NUL.
    let layer = layer_of(unsafe { CStr::from_ptr(std::ptr::addr_of!((*node).name).cast()) });
    let (callback, mut has_thrown) = (sums.tap, false);
    let mut tap = |ask| match callback {
        // What it throws must not pass this frame, and fails the decode.
        // SAFETY: the tap's own callback with its own user data; the context owns the tap, too.
        Some((Some(eval), data)) => match guard::call(|fault| unsafe {
            sys::guard_eval(Some(eval), node, ask, data, fault)
        }) {
            Ok(answer) => answer,
            Err(thrown) => {
                thrown.complain();
                has_thrown = true;
                false
            }
        },
        _ => !ask,
    };
    if ask {
        let tap_wants = tap(true);
        (sums.tap_wants, sums.has_thrown) = (tap_wants, sums.has_thrown || has_thrown);
        return tap_wants || layer.is_some();
    }
    let go_on = !sums.tap_wants || tap(false);
    sums.has_thrown |= has_thrown;
    // Layers for multi-token prediction, which never come by, may follow the last one: there the number
    // of its columns tells.
    let is_last = layer.is_some_and(|layer| layer.saturating_add(1) == sums.layers.len());
    if let Some(layer) = layer.and_then(|layer| sums.layers.get_mut(layer)) {
        let counted = if is_last {
            [&sums.counted_outputs; 2]
        } else {
            [&sums.counted, &sums.counted_outputs]
        };
        // SAFETY: the node was just computed.
        unsafe { add(node, layer, counted, (&mut sums.node, sums.n_embd)) };
    }
    go_on
}

/// Adds the columns of a node to a layer's sum.
///
/// # Safety
/// The node must have been computed.
unsafe fn add(
    node: *mut llama::ggml_tensor,
    layer: &mut Layer,
    [all, outputs]: [&Vec<Option<usize>>; 2],
    (values, n_embd): (&mut [f32], usize),
) {
    // SAFETY: the node is alive.
    let (ne, kind, is_whole) =
        unsafe { ((*node).ne, (*node).type_, llama::ggml_is_contiguous(node)) };
    let n_column = usize::try_from(ne[1]).unwrap_or(0);
    let n_value = n_column.saturating_mul(n_embd);
    if n_value == 0 {
        // Of the last layer, where no logits are wanted.
        return;
    }
    let is_plain = kind == llama::GGML_TYPE_F32
        && is_whole
        && usize::try_from(ne[0]) == Ok(n_embd)
        && ne[2] == 1
        && ne[3] == 1;
    let Some(values) = values.get_mut(..n_value).filter(|values| is_plain && !values.is_empty())
    else {
        layer.n_strange = layer.n_strange.saturating_add(1);
        return;
    };
    // SAFETY: the node is contiguous F32 of as many values as `values` has; it was computed, so it
    // has memory on its device.
    let read = guard::call(|fault| unsafe {
        sys::guard_tensor_get(node, values.as_mut_ptr().cast(), 0, size_of_val(values), fault);
    });
    if read.is_err() {
        layer.n_strange = layer.n_strange.saturating_add(1);
        return;
    }
    let counted = if n_column == outputs.len() { outputs } else { all };
    let counted = counted.iter().skip(layer.n_seen);
    layer.n_seen = layer.n_seen.saturating_add(n_column);
    let columns = values.chunks_exact(n_embd.max(1)).zip(counted);
    for (column, group) in columns.filter_map(|(column, group)| Some((column, (*group)?))) {
        let sum = layer.sum.chunks_exact_mut(n_embd.max(1)).nth(group);
        let (Some(sum), Some(n_token)) = (sum, layer.n_token.get_mut(group)) else { continue };
        sum.iter_mut().zip(column).for_each(|(sum, &value)| *sum += f64::from(value));
        *n_token = n_token.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_layer_outputs_by_name() {
        let layer = |name: &CStr| layer_of(name);
        assert_eq!(layer(c"l_out-12"), Some(12));
        for name in [c"l_out", c"l_out-", c"l_out-x", c"CPU#l_out-1#0", c"kqv_out-1", c""] {
            assert_eq!(layer(name), None, "{name:?}");
        }
    }
}
