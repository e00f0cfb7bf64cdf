//! The handle of a llama.cpp context with its tap.

use std::ffi::c_void;
use std::num::NonZeroI32;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use llama_cpp_sys_2 as llama;

use super::edit::{Editing, Editor};
use super::guard::{self, Thrown};
use super::host::{self, Weights};
use super::means::LayerMeans;
use super::sys;
use super::tap::{Kind, Pass, Seen, Tap, TapError};

/// A failed decode.
#[derive(Debug)]
pub(crate) enum DecodeError {
    /// llama.cpp's return code: 1 = no room in the KV cache, negative = failure.
    Host(NonZeroI32),
    /// What llama.cpp threw.
    Thrown(Thrown),
    /// The tap's complaint.
    Tap(TapError),
}

/// The arrays of one `llama_batch`, all `[n_token]` but `seqs`.
#[derive(Debug, Default, Clone)]
pub(crate) struct BatchArrays {
    pub(crate) tokens: Vec<llama::llama_token>,
    pub(crate) positions: Vec<llama::llama_pos>,
    /// The sequences of all tokens, one after the other; token `i` has `n_seq[i]` of them.
    pub(crate) seqs: Vec<llama::llama_seq_id>,
    pub(crate) n_seq: Vec<i32>,
    pub(crate) output: Vec<i8>,
    /// What stands in place of the tokens, F32 `[n_token, n_embd]`; empty where the tokens stand.
    /// Then a model with positions of several parts has four of them per token:
    /// `positions: [4, n_token]`.
    pub(crate) embedding: Vec<f32>,
    /// The width of such a row.
    pub(crate) n_embd: usize,
    /// The group in which each token counts where layers' outputs are added up (below zero: none);
    /// empty for one group of all but the first positions.
    pub(crate) groups: Vec<i8>,
}

/// Owns a `llama_context` and the tap that it calls, and keeps its model alive.
pub(crate) struct Context {
    ptr: NonNull<llama::llama_context>,
    tap: Tap,
    means: Option<LayerMeans>,
    /// Changes what the tap shows it.
    editing: Option<Editing>,
    n_vocab: usize,
    is_tapped: bool,
    /// What the tap took of the last decode before llama.cpp began: banks brought up to date.
    tap_begin: Duration,
    /// Once set, ends the decode that runs.
    abort: Option<Arc<AtomicBool>>,
    /// Freed last.
    _model: Arc<Weights>,
}

// SAFETY: the context, the tap, the sums and the editor are reached through this handle alone, and none of them
// belongs to a thread: llama.cpp and ggml keep nothing in thread-local memory between two calls, choose
// a GPU anew in each, and hand work to their own threads. The model is `Send` and `Sync`. Not `Sync`:
// reading logits may wait for a device and order the outputs.
unsafe impl Send for Context {}

impl Context {
    /// llama.cpp's default parameters, to be adjusted.
    pub(crate) fn default_params() -> llama::llama_context_params {
        // SAFETY: fills a plain struct.
        unsafe { llama::llama_context_default_params() }
    }

    /// A context whose eval callback is `tap`, or that has none where it is not `attached`, and which
    /// adds up what its layers give where there are `means`; `None` where llama.cpp refuses (it logs
    /// why).
    pub(crate) fn new(
        model: &Arc<Weights>,
        mut params: llama::llama_context_params,
        (tap, attached): (Tap, bool),
        mut means: Option<LayerMeans>,
    ) -> Option<Self> {
        if attached {
            (params.cb_eval, params.cb_eval_user_data) = tap.callback();
        }
        if let Some(means) = &mut means {
            let tap = attached.then(|| tap.callback());
            (params.cb_eval, params.cb_eval_user_data) = means.callback(tap);
        }
        host::forget_complaints();
        // SAFETY: the model outlives the context (`_model`), and so do the tap and the sums (same struct,
        // dropped after `ptr` is freed).
        let ptr = guard::call_or(std::ptr::null_mut(), |fault| unsafe {
            sys::guard_context_new(host::model_ptr(model), params, fault)
        });
        let n_vocab = usize::try_from(model.n_vocab()).ok()?;
        let ptr = NonNull::new(ptr)?;
        Some(Self {
            ptr,
            tap,
            means,
            editing: None,
            n_vocab,
            is_tapped: attached,
            tap_begin: Duration::ZERO,
            abort: None,
            _model: Arc::clone(model),
        })
    }

    pub(crate) fn tap(&self) -> &Tap {
        &self.tap
    }

    pub(crate) fn tap_mut(&mut self) -> &mut Tap {
        &mut self.tap
    }

    pub(crate) fn means(&self) -> Option<&LayerMeans> {
        self.means.as_ref()
    }

    pub(crate) fn means_mut(&mut self) -> Option<&mut LayerMeans> {
        self.means.as_mut()
    }

    /// Lets an editor of heads (`widths[0]` values a token) and outputs of layers (`widths[1]`) change
    /// those of these layers, ascending; no editor: nothing is changed any more.
    pub(crate) fn set_editor(
        &mut self,
        editor: Option<Editor>,
        widths: [usize; 2],
        layers: [&[usize]; 2],
    ) -> Result<(), TapError> {
        // SAFETY: no function needs no data.
        unsafe { self.tap.set_editor(None, null_mut()) }?;
        self.editing = None;
        self.tap.edit(Kind::Heads, layers[0])?;
        self.tap.edit(Kind::Output, layers[1])?;
        if let Some(editor) = editor {
            self.editing.insert(Editing::new(editor, widths)).attach(&mut self.tap)?;
        }
        Ok(())
    }

    /// Announces the order in which the next batch is computed, where that is another, and its tokens'
    /// positions.
    pub(crate) fn begin_edit(&mut self, order: Option<&[usize]>, positions: &[i32]) {
        if let Some(editing) = &mut self.editing {
            editing.begin(order, positions);
        }
    }

    /// Why the editor failed the last decode; its panic goes on.
    pub(crate) fn edit_failure(&mut self) -> Option<crate::Error> {
        self.editing.as_mut()?.failure()
    }

    pub(crate) fn is_edited(&self) -> bool {
        self.editing.is_some()
    }

    /// Adds these rows to the outputs of the layers from 1 on, every token's alike; F32
    /// `[n_row, n_embd]`, empty for nothing. False where llama.cpp refuses.
    pub(crate) fn set_control_vector(&mut self, rows: &[f32], n_embd: usize) -> bool {
        let Ok(n_embd) = i32::try_from(n_embd) else { return false };
        let data = if rows.is_empty() { std::ptr::null() } else { rows.as_ptr() };
        // SAFETY: the context is alive; llama.cpp copies as many floats as it is told that there are,
        // and refuses another width than the model's.
        guard::call_or(-1, |fault| unsafe {
            sys::guard_set_control_vector(self.ptr.as_ptr(), data, rows.len(), n_embd, fault)
        }) == 0
    }

    /// Whether tokens see only those before them (as they do at first), or all of their batch.
    pub(crate) fn set_causal(&mut self, on: bool) {
        // SAFETY: the context is alive.
        unsafe { llama::llama_set_causal_attn(self.ptr.as_ptr(), on) };
    }

    /// Whether the model keeps anything between decodes: a KV cache, a recurrent state.
    pub(crate) fn has_memory(&self) -> bool {
        !self.memory().is_null()
    }

    /// A flag that ends the decode that runs, with code 2, as soon as the processor comes to the next
    /// node; GPUs finish theirs. It stays set.
    pub(crate) fn abort_flag(&mut self) -> Arc<AtomicBool> {
        let flag = Arc::clone(self.abort.get_or_insert_default());
        let data = Arc::as_ptr(&flag).cast_mut().cast();
        // SAFETY: the context is alive, and the flag lives as long as it does (same struct, dropped after
        // `ptr` is freed).
        unsafe { llama::llama_set_abort_callback(self.ptr.as_ptr(), Some(is_aborted), data) };
        flag
    }

    /// Whether that flag is set; it is not set any more.
    pub(crate) fn take_abort(&self) -> bool {
        self.abort.as_ref().is_some_and(|flag| flag.swap(false, Ordering::Relaxed))
    }

    /// What the tap took of the last decode before llama.cpp began.
    pub(crate) fn tap_begin(&self) -> Duration {
        self.tap_begin
    }

    /// Threads that llama.cpp computes with.
    pub(crate) fn n_threads(&self) -> usize {
        // SAFETY: the context is alive.
        usize::try_from(unsafe { llama::llama_n_threads(self.ptr.as_ptr()) }).unwrap_or(0)
    }

    /// Cells of the KV cache, as llama.cpp rounded them.
    pub(crate) fn n_cell(&self) -> usize {
        // SAFETY: the context is alive.
        unsafe { llama::llama_n_ctx(self.ptr.as_ptr()) as usize }
    }

    /// Most tokens that llama.cpp computes at once.
    pub(crate) fn n_ubatch(&self) -> usize {
        // SAFETY: the context is alive.
        unsafe { llama::llama_n_ubatch(self.ptr.as_ptr()) as usize }
    }

    /// Decodes a batch, steered and observed as `pass` says.
    pub(crate) fn decode(
        &mut self,
        batch: &mut BatchArrays,
        pass: &Pass,
        seen: Seen,
    ) -> Result<(), DecodeError> {
        host::forget_complaints();
        let n = batch.tokens.len();
        let has_embedding = !batch.embedding.is_empty();
        let n_seq_total: usize = batch.n_seq.iter().map(|&n| usize::try_from(n).unwrap_or(0)).sum();
        assert!(
            [batch.n_seq.len(), batch.output.len(), pass.rows.len()] == [n; 3]
                && batch.seqs.len() == n_seq_total
                && (batch.positions.len() == n || has_embedding && batch.positions.len() == 4 * n)
                && (batch.groups.is_empty() || batch.groups.len() == n)
                && (!has_embedding || batch.embedding.len() == n * batch.n_embd),
            "a batch's arrays have one entry per token",
        );
        let mut start = 0;
        let mut seq_ids: Vec<*mut llama::llama_seq_id> = Vec::with_capacity(n + 1);
        for &n_seq in &batch.n_seq {
            seq_ids.push(batch.seqs[start..].as_mut_ptr());
            start += usize::try_from(n_seq).unwrap_or(0);
        }
        seq_ids.push(null_mut());
        let raw = llama::llama_batch {
            n_tokens: i32::try_from(n).expect("fits: the tap refuses larger batches"),
            token: if has_embedding { null_mut() } else { batch.tokens.as_mut_ptr() },
            embd: if has_embedding { batch.embedding.as_mut_ptr() } else { null_mut() },
            pos: batch.positions.as_mut_ptr(),
            n_seq_id: batch.n_seq.as_mut_ptr(),
            seq_id: seq_ids.as_mut_ptr(),
            logits: batch.output.as_mut_ptr(),
        };
        let ptr = self.ptr.as_ptr();
        if let Some(means) = &mut self.means {
            means.begin(&batch.positions[..n], &batch.groups, &batch.output);
        }
        // SAFETY: the arrays of `raw` have `n_tokens` entries (asserted) and outlive the call.
        let decode = || guard::call(|fault| unsafe { sys::guard_decode(ptr, raw, fault) });
        let (code, verdict) = if self.is_tapped {
            let start = Instant::now();
            let pass = self.tap.pass(pass, seen, || {
                self.tap_begin = start.elapsed();
                decode()
            });
            pass.map_err(DecodeError::Tap)?
        } else {
            (decode(), Ok(()))
        };
        if self.means.as_ref().is_some_and(LayerMeans::has_thrown) {
            let problem = host::take_complaints();
            return Err(DecodeError::Thrown(Thrown::new(&problem)));
        }
        // A failed decode leaves layers unseen: the host's code is the cause, the tap's an echo.
        match code.map(NonZeroI32::new) {
            Err(thrown) => Err(DecodeError::Thrown(thrown)),
            Ok(Some(code)) => Err(DecodeError::Host(code)),
            Ok(None) => verdict.map_err(DecodeError::Tap),
        }
    }

    /// Logits of the batch's token `i`, F32 `[n_vocab]`; `None` if it was not marked for output.
    pub(crate) fn logits(&self, i: usize) -> Result<Option<&[f32]>, Thrown> {
        let Ok(i) = i32::try_from(i) else { return Ok(None) };
        // SAFETY: llama.cpp checks the index and returns null for a token without output.
        let row = guard::call(|fault| unsafe { sys::guard_logits(self.ptr.as_ptr(), i, fault) })?;
        // SAFETY: the row has `n_vocab` floats and lives until the next call that takes `&mut self`.
        Ok((!row.is_null()).then(|| unsafe { std::slice::from_raw_parts(row, self.n_vocab) }))
    }

    /// Forgets all sequences.
    pub(crate) fn clear(&mut self) {
        // SAFETY: the context is alive and owns its memory.
        guard::call_or((), |fault| unsafe { sys::guard_memory_clear(self.ptr.as_ptr(), fault) });
    }

    fn memory(&self) -> llama::llama_memory_t {
        // SAFETY: the context is alive and owns its memory.
        unsafe { llama::llama_get_memory(self.ptr.as_ptr()) }
    }

    /// Positions of a sequence, which must be one of the context's; 0 where it is empty.
    pub(crate) fn n_token(&self, seq: i32) -> usize {
        // SAFETY: the context is alive and owns its memory.
        let last = guard::call_or(-1, |fault| unsafe {
            sys::guard_memory_last(self.ptr.as_ptr(), seq, fault)
        });
        usize::try_from(last + 1).unwrap_or(0)
    }

    /// Forgets positions `from .. to` (-1: to the end) of a sequence, which must be one of the
    /// context's; false where the memory cannot (recurrent models).
    pub(crate) fn remove(&mut self, seq: i32, from: i32, to: i32) -> bool {
        // SAFETY: the context is alive and owns its memory.
        guard::call_or(false, |fault| unsafe {
            sys::guard_memory_remove(self.ptr.as_ptr(), seq, from, to, fault)
        })
    }

    /// Whether positions can be moved.
    pub(crate) fn can_shift(&self) -> bool {
        // SAFETY: the memory is alive.
        unsafe { llama::llama_memory_can_shift(self.memory()) }
    }

    /// Moves positions `from ..` of a sequence by `by`. Only where [`Context::can_shift`].
    pub(crate) fn shift(&mut self, seq: i32, from: i32, by: i32) -> Result<(), Thrown> {
        // SAFETY: the context is alive and owns its memory.
        guard::call(|fault| unsafe {
            sys::guard_memory_shift(self.ptr.as_ptr(), seq, from, by, fault)
        })
    }

    /// Gives sequence `to`, which must be empty, what `from` holds. Both must be the context's.
    pub(crate) fn copy(&mut self, from: i32, to: i32) -> Result<(), Thrown> {
        // SAFETY: the context is alive and owns its memory.
        guard::call(|fault| unsafe { sys::guard_memory_copy(self.ptr.as_ptr(), from, to, fault) })
    }

    /// What a sequence holds, as llama.cpp writes it; `None` where it fails.
    pub(crate) fn state(&mut self, seq: i32) -> Option<Vec<u8>> {
        let ptr = self.ptr.as_ptr();
        // SAFETY: the context is alive.
        let n = guard::call_or(0, |fault| unsafe { sys::guard_state_size(ptr, seq, fault) });
        let mut bytes = vec![0; n];
        // SAFETY: llama.cpp writes at most as many bytes as it is told that there are.
        let n = guard::call_or(0, |fault| unsafe {
            sys::guard_state_get(ptr, bytes.as_mut_ptr(), bytes.len(), seq, fault)
        });
        (n > 0 && n == bytes.len()).then_some(bytes)
    }

    /// Puts back what [`Context::state`] gave, of this or a like context; false where it fails.
    pub(crate) fn restore(&mut self, seq: i32, bytes: &[u8]) -> bool {
        let ptr = self.ptr.as_ptr();
        // SAFETY: llama.cpp reads at most as many bytes as it is told that there are.
        guard::call_or(0, |fault| unsafe {
            sys::guard_state_set(ptr, bytes.as_ptr(), bytes.len(), seq, fault)
        }) > 0
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: freed once, before the tap, the sums and the editor (fields) that it calls.
        unsafe { llama::llama_free(self.ptr.as_ptr()) };
    }
}

/// Asked by ggml between two nodes.
unsafe extern "C" fn is_aborted(data: *mut c_void) -> bool {
    // SAFETY: the data is the flag that the context owns; it is only ever shared. A load cannot panic.
    unsafe { &*data.cast::<AtomicBool>() }.load(Ordering::Relaxed)
}
