//! The handle of a tap.

use std::ffi::{CStr, c_void};
use std::ptr::NonNull;

use super::{guard, sys};

/// Why a pass through the tap failed, in C's terms; `Session` gives it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TapError {
    /// A bank could not be allocated on the device of a layer.
    NoMemory,
    /// An argument out of range: a defect of the caller.
    BadArgument,
    /// A node of this layer has this width instead of the announced one.
    WrongWidth { kind: Kind, layer: usize, got: usize },
    /// A node of this layer is not contiguous F32.
    WrongType { kind: Kind, layer: usize },
    /// The first pass was steered in this layer, which turned out to be rotated.
    Rotated { layer: usize },
    /// The tokens were computed in another order than announced.
    Misordered,
    /// A token's output is observed in this layer, which computed it for other tokens only.
    NotComputed { layer: usize },
    /// The editor refused to go on.
    EditFailed,
    /// A planned layer saw this many tokens instead of the batch's.
    Miscount { kind: Kind, layer: usize, got: usize },
}

/// What is steered, observed or edited in a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Its heads: what the output projection reads.
    Heads,
    /// Its output, the residual stream after it, where llama.cpp applies control vectors; steered from
    /// layer 1 on.
    Output,
}

impl Kind {
    pub(super) fn c(self) -> sys::headtap_kind {
        match self {
            Self::Heads => sys::HEADTAP_HEADS,
            Self::Output => sys::HEADTAP_OUTPUT,
        }
    }
}

/// How a layer was handled when it was last seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// Its node never came by.
    Silent,
    /// Its node came by and nothing was to be added.
    Watched,
    /// Steered by an addition inside the graph.
    InGraph,
    /// Steered by read–modify–write in the callback.
    Callback,
}

/// What reads the attention output of a layer, as the first pass showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reader {
    /// The output projection.
    Projection,
    /// This operation of ggml's, before any projection.
    Altered(String),
    /// Nothing that could be followed.
    Unread,
}

/// What is asked of one decode. Tokens are counted in the order of their computation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pass<'a> {
    /// `[n_token]` the row that steers each.
    pub(crate) rows: &'a [i32],
    /// The tokens to observe, ascending.
    pub(crate) want: &'a [i32],
    /// `[n_token]` their ids, where the order is to be checked.
    pub(crate) tokens: Option<&'a [i32]>,
    /// `[n_token]` not 0 where logits are wanted; needed where layer outputs are steered.
    pub(crate) outputs: Option<&'a [i8]>,
}

/// Where a pass puts what it observes.
#[derive(Debug, Default)]
pub(crate) struct Seen<'a> {
    /// F32 `[n layers whose heads are observed, want.len(), max width]`.
    pub(crate) heads: &'a mut [f32],
    /// F32 `[n layers whose outputs are observed, want.len(), n_embd]`.
    pub(crate) outputs: &'a mut [f32],
}

/// Owns a C tap. See `vendor/headtap.h` for what it does.
#[derive(Debug)]
pub(crate) struct Tap {
    ptr: NonNull<sys::headtap>,
    widths: Vec<usize>,
    n_embd: usize,
    n_row: usize,
    /// Layers whose heads are observed, and whose outputs are.
    n_observed: [usize; 2],
}

impl Tap {
    /// A tap over layers of these widths (`n_head * d_head`; 0: no attention), whose outputs have
    /// `n_embd` values, with banks of `n_row` rows, for batches of up to `n_batch` tokens.
    pub(crate) fn new(
        widths: &[usize],
        n_embd: usize,
        n_row: usize,
        n_batch: usize,
        in_graph: bool,
    ) -> Option<Self> {
        let as_i32 = |n: usize| i32::try_from(n).ok();
        let c_widths = widths.iter().map(|&w| as_i32(w)).collect::<Option<Vec<_>>>()?;
        // SAFETY: `c_widths` holds as many elements as the first argument says; C copies them.
        let ptr = unsafe {
            sys::headtap_init(
                as_i32(widths.len())?,
                c_widths.as_ptr(),
                as_i32(n_embd)?,
                as_i32(n_row)?,
                as_i32(n_batch)?,
                in_graph,
            )
        };
        let widths = widths.to_vec();
        Some(Self { ptr: NonNull::new(ptr)?, widths, n_embd, n_row, n_observed: [0; 2] })
    }

    /// `cb_eval` and `cb_eval_user_data` for a context. The tap must outlive that context.
    pub(crate) fn callback(
        &self,
    ) -> (llama_cpp_sys_2::ggml_backend_sched_eval_callback, *mut c_void) {
        (Some(sys::headtap_eval), self.ptr.as_ptr().cast())
    }

    /// Puts the heads or outputs of exactly these layers (ascending) into the plan of what is observed.
    pub(crate) fn observe(&mut self, kind: Kind, layers: &[usize]) -> Result<(), TapError> {
        for layer in self.tapped(kind) {
            let on = layers.binary_search(&layer).is_ok();
            let tap = self.ptr.as_ptr();
            // SAFETY: the tap is alive; C checks the layer.
            self.check(unsafe { sys::headtap_observe(tap, kind.c(), index(layer), on) })?;
        }
        self.n_observed[usize::from(kind == Kind::Output)] = layers.len();
        Ok(())
    }

    /// Lets a function of C's edit the heads or outputs of exactly these layers (ascending).
    pub(super) fn edit(&mut self, kind: Kind, layers: &[usize]) -> Result<(), TapError> {
        for layer in self.tapped(kind) {
            let on = layers.binary_search(&layer).is_ok();
            let tap = self.ptr.as_ptr();
            // SAFETY: the tap is alive; C checks the layer.
            self.check(unsafe { sys::headtap_edit(tap, kind.c(), index(layer), on) })?;
        }
        Ok(())
    }

    /// The function that edits, with its data, or none.
    ///
    /// # Safety
    /// The data must live, and nothing else may borrow it during a pass, until another function is set
    /// or the tap is freed. The function must not unwind.
    pub(super) unsafe fn set_editor(
        &mut self,
        editor: sys::headtap_editor,
        data: *mut c_void,
    ) -> Result<(), TapError> {
        // SAFETY: the tap is alive; the caller answers for the rest.
        self.check(unsafe { sys::headtap_set_editor(self.ptr.as_ptr(), editor, data) })
    }

    /// The layers that the tap knows such nodes of.
    fn tapped(&self, kind: Kind) -> Vec<usize> {
        let is_tapped = |&layer: &usize| match kind {
            Kind::Heads => self.widths[layer] > 0,
            Kind::Output => self.n_embd > 0,
        };
        (0..self.widths.len()).filter(is_tapped).collect()
    }

    /// The width of the last node of this name that came by; 0: none.
    pub(crate) fn width_seen(&self, kind: Kind, layer: usize) -> usize {
        // SAFETY: the tap is alive; C checks the layer.
        let width = unsafe { sys::headtap_width(self.ptr.as_ptr(), kind.c(), index(layer)) };
        usize::try_from(width).unwrap_or(0)
    }

    /// Rewrites a row of a layer's bank; `offset`: F32 `[n_head * d_head]` for heads, `[n_embd]` for
    /// the output, or nothing to add.
    pub(crate) fn set_row(
        &mut self,
        kind: Kind,
        layer: usize,
        row: usize,
        offset: Option<&[f32]>,
    ) -> Result<(), TapError> {
        let width = match kind {
            Kind::Heads => self.widths.get(layer).copied(),
            Kind::Output => Some(self.n_embd).filter(|_| layer < self.widths.len()),
        };
        if offset.is_some_and(|o| width != Some(o.len())) || row >= self.n_row {
            return Err(TapError::BadArgument);
        }
        let data = offset.map_or(std::ptr::null(), <[f32]>::as_ptr);
        // SAFETY: `data` is null or holds the site's width of floats, checked above; C copies them.
        self.check(unsafe {
            sys::headtap_set_row(self.ptr.as_ptr(), kind.c(), index(layer), index(row), data)
        })
    }

    /// Announces one decode and runs it.
    ///
    /// Gives what `decode` gave, and the tap's own verdict on the pass.
    pub(crate) fn pass<T>(
        &mut self,
        pass: &Pass,
        seen: Seen,
        decode: impl FnOnce() -> T,
    ) -> Result<(T, Result<(), TapError>), TapError> {
        let max_width = self.widths.iter().copied().max().unwrap_or(0);
        let Pass { rows, want, tokens, outputs } = *pass;
        let is_whole = tokens.is_none_or(|tokens| tokens.len() == rows.len())
            && outputs.is_none_or(|outputs| outputs.len() == rows.len());
        let [n_heads, n_output] = self.n_observed;
        let has_room = seen.heads.len() == n_heads * want.len() * max_width
            && seen.outputs.len() == n_output * want.len() * self.n_embd;
        if !has_room || !is_whole {
            return Err(TapError::BadArgument);
        }
        let pass = sys::headtap_pass {
            n_token: index(rows.len()),
            rows: rows.as_ptr(),
            n_want: index(want.len()),
            want: want.as_ptr(),
            out: seen.heads.as_mut_ptr(),
            tokens: tokens.map_or(std::ptr::null(), <[i32]>::as_ptr),
            outputs: outputs.map_or(std::ptr::null(), <[i8]>::as_ptr),
            out_output: seen.outputs.as_mut_ptr(),
        };
        // SAFETY: the arrays of `pass` live until `headtap_end` below, and `seen` has the sizes that
        // the plan of observed layers asks for; C checks every index.
        let begun = guard::call_or(sys::HEADTAP_NO_MEMORY, |fault| unsafe {
            sys::guard_headtap_begin(self.ptr.as_ptr(), &raw const pass, fault)
        });
        self.check(begun)?;
        let end = EndPass(self);
        let result = decode();
        let status = end.finish();
        Ok((result, self.check(status)))
    }

    /// Tokens of the last pass that came by in this layer.
    pub(crate) fn n_seen(&self, kind: Kind, layer: usize) -> usize {
        // SAFETY: the tap is alive; C checks the layer.
        let n = unsafe { sys::headtap_n_seen(self.ptr.as_ptr(), kind.c(), index(layer)) };
        usize::try_from(n).unwrap_or(0)
    }

    /// How this layer was handled when it was last seen.
    pub(crate) fn path(&self, kind: Kind, layer: usize) -> Path {
        // SAFETY: the tap is alive; C checks the layer.
        match unsafe { sys::headtap_path_of(self.ptr.as_ptr(), kind.c(), index(layer)) } {
            sys::HEADTAP_WATCHED => Path::Watched,
            sys::HEADTAP_IN_GRAPH => Path::InGraph,
            sys::HEADTAP_CALLBACK => Path::Callback,
            _ => Path::Silent,
        }
    }

    /// What reads this layer's attention output, once a pass went through.
    pub(crate) fn reader(&self, layer: usize) -> Reader {
        let tap = self.ptr.as_ptr();
        // SAFETY: the tap is alive; C checks the layer.
        match unsafe { sys::headtap_reader_of(tap, index(layer)) } {
            sys::HEADTAP_PROJECTION => Reader::Projection,
            sys::HEADTAP_ALTERED => {
                // SAFETY: as above; an altered layer has a name of ggml's, a constant string.
                let op = unsafe { CStr::from_ptr(sys::headtap_reader_op(tap, index(layer))) };
                Reader::Altered(op.to_string_lossy().into_owned())
            }
            _ => Reader::Unread,
        }
    }

    /// Values of this layer's attention output that llama.cpp rotates together; 0: none.
    #[cfg(test)]
    pub(crate) fn rotation(&self, layer: usize) -> usize {
        // SAFETY: the tap is alive; C checks the layer.
        let n = unsafe { sys::headtap_rotation(self.ptr.as_ptr(), index(layer)) };
        usize::try_from(n).unwrap_or(0)
    }

    /// The name of the device that held this layer's node when it was last seen.
    pub(crate) fn device(&self, layer: usize) -> Option<&'static str> {
        // SAFETY: the tap is alive; C checks the layer.
        let name =
            unsafe { sys::headtap_device(self.ptr.as_ptr(), sys::HEADTAP_HEADS, index(layer)) };
        if name.is_null() {
            return None;
        }
        // SAFETY: the names of ggml's devices end in NUL and are never freed.
        unsafe { CStr::from_ptr(name) }.to_str().ok()
    }

    fn check(&self, status: sys::headtap_status) -> Result<(), TapError> {
        let tap = self.ptr.as_ptr();
        // SAFETY: the tap is alive; the call only reads.
        let layer = unsafe { sys::headtap_failed_layer(tap) };
        // SAFETY: as above.
        let kind = match unsafe { sys::headtap_failed_kind(tap) } {
            sys::HEADTAP_OUTPUT => Kind::Output,
            _ => Kind::Heads,
        };
        // SAFETY: as above.
        let width = unsafe { sys::headtap_width(tap, kind.c(), layer) };
        let layer = usize::try_from(layer).unwrap_or(0);
        match status {
            sys::HEADTAP_OK => Ok(()),
            sys::HEADTAP_NO_MEMORY => Err(TapError::NoMemory),
            sys::HEADTAP_WRONG_WIDTH => {
                Err(TapError::WrongWidth { kind, layer, got: usize::try_from(width).unwrap_or(0) })
            }
            sys::HEADTAP_WRONG_TYPE => Err(TapError::WrongType { kind, layer }),
            sys::HEADTAP_ROTATED => Err(TapError::Rotated { layer }),
            sys::HEADTAP_MISORDERED => Err(TapError::Misordered),
            sys::HEADTAP_NOT_COMPUTED => Err(TapError::NotComputed { layer }),
            sys::HEADTAP_EDIT_FAILED => Err(TapError::EditFailed),
            sys::HEADTAP_MISCOUNT => {
                Err(TapError::Miscount { kind, layer, got: self.n_seen(kind, layer) })
            }
            _ => Err(TapError::BadArgument),
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `headtap_init` and is freed once. `Context` drops the
        // llama.cpp context, whose graphs point into the tap, before it.
        unsafe { sys::headtap_free(self.ptr.as_ptr()) };
    }
}

/// Ends a pass even when the decode between unwinds, so that C keeps no pointer to its arrays.
struct EndPass<'a>(&'a Tap);

impl EndPass<'_> {
    fn finish(self) -> sys::headtap_status {
        let tap = self.0.ptr.as_ptr();
        std::mem::forget(self);
        // SAFETY: the tap is alive and a pass is open.
        unsafe { sys::headtap_end(tap) }
    }
}

impl Drop for EndPass<'_> {
    fn drop(&mut self) {
        // SAFETY: as in `finish`.
        unsafe { sys::headtap_end(self.0.ptr.as_ptr()) };
    }
}

/// Sizes were bounded by `i32` when the tap was made; anything larger is refused by C as -1.
fn index(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(-1)
}
