//! The tap in a context that is made without the rest of candor: on devices and with settings that a
//! session never asks for, but another program that uses the C core may.

use std::ffi::{CString, c_void};
use std::path::Path as FilePath;

use llama_cpp_sys_2 as llama;

use super::super::host;
use super::super::tap::{Pass, Seen, Tap, TapError};

/// Layers, width and vocabulary of the demo model.
pub(super) const N_LAYER: usize = 5;
pub(super) const WIDTH: usize = 192;
pub(super) const N_BATCH: usize = 16;

/// What an addition in the graph reads its row numbers from.
pub(super) struct Ids {
    pub(super) node: String,
    pub(super) n: usize,
    /// Bytes past the last multiple of the device's alignment.
    pub(super) past: usize,
}

/// Asks the tap, and notes what it made of each node.
struct Watch {
    eval: llama::ggml_backend_sched_eval_callback,
    tap: *mut c_void,
    ids: Vec<Ids>,
}

unsafe extern "C" fn watch(
    node: *mut llama::ggml_tensor,
    ask: bool,
    user_data: *mut c_void,
) -> bool {
    // SAFETY: called with the `Watch` that the context was made with, by one thread at a time.
    let watch = unsafe { &mut *user_data.cast::<Watch>() };
    let Some(eval) = watch.eval else { return false };
    // SAFETY: the tap lives as long as the context.
    let answer = unsafe { eval(node, ask, watch.tap) };
    // SAFETY: the node and its sources live as long as the graph; the row numbers have memory.
    unsafe {
        if ask && (*node).op == llama::GGML_OP_ADD_ID {
            let ids = (*node).src[2];
            let kind = llama::ggml_backend_buffer_get_type((*ids).buffer);
            let name = std::ffi::CStr::from_ptr((*node).name.as_ptr());
            watch.ids.push(Ids {
                node: name.to_string_lossy().into_owned(),
                n: (*ids).ne[0] as usize,
                past: (*ids).data as usize % llama::ggml_backend_buft_get_alignment(kind),
            });
        }
    }
    answer
}

/// A token of a batch: its id, its position, its sequence, and whether its logits are wanted.
pub(super) type Token = (i32, i32, i32, bool);

/// The demo model on some devices, and a context of it with a tap.
pub(super) struct Raw {
    model: *mut llama::llama_model,
    context: *mut llama::llama_context,
    watch: Box<Watch>,
    pub(super) tap: Option<Tap>,
}

impl Raw {
    /// With the model's tensors split over these devices of ggml's registry (none: an ordinary model
    /// on the processor), and the tap, where there is one, attached; `adjust` changes the context's
    /// parameters.
    pub(super) fn new(
        devices: &[usize],
        tap: Option<Tap>,
        adjust: impl FnOnce(&mut llama::llama_context_params),
    ) -> Self {
        let _ = host::backend();
        let path = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("models/demo.gguf");
        let path = CString::new(path.to_str().expect("a path of UTF-8")).expect("no NUL");
        // SAFETY: plain calls; the device list ends in null and lives for the call, and what is made
        // is freed in `drop`.
        unsafe {
            let mut list: Vec<_> =
                devices.iter().map(|&index| llama::ggml_backend_dev_get(index)).collect();
            list.push(std::ptr::null_mut());
            let mut params = llama::llama_model_default_params();
            params.devices = list.as_mut_ptr();
            params.n_gpu_layers = 0;
            if !devices.is_empty() {
                params.split_mode = llama::LLAMA_SPLIT_MODE_TENSOR;
                params.n_gpu_layers = -1;
            }
            let model = llama::llama_model_load_from_file(path.as_ptr(), params);
            assert!(!model.is_null(), "{}", host::take_complaints());
            let mut params = llama::llama_context_default_params();
            (params.n_ctx, params.n_batch) = (64, N_BATCH as u32);
            (params.n_threads, params.n_threads_batch) = (1, 1);
            params.flash_attn_type = llama::LLAMA_FLASH_ATTN_TYPE_ENABLED;
            adjust(&mut params);
            let (eval, data) = tap.as_ref().map_or((None, std::ptr::null_mut()), Tap::callback);
            let mut watched = Box::new(Watch { eval, tap: data, ids: Vec::new() });
            if tap.is_some() {
                params.cb_eval = Some(watch);
                params.cb_eval_user_data = std::ptr::from_mut(watched.as_mut()).cast();
            }
            let context = llama::llama_init_from_model(model, params);
            assert!(!context.is_null(), "{}", host::take_complaints());
            Self { model, context, watch: watched, tap }
        }
    }

    /// Lets the graphs hold the additions that layer outputs are steered by.
    pub(super) fn hold_outputs(&mut self) {
        let rows = [-0.0f32; (N_LAYER - 1) * WIDTH];
        // SAFETY: the context is alive and copies the rows.
        let code = unsafe {
            llama::llama_set_adapter_cvec(
                self.context,
                rows.as_ptr(),
                rows.len(),
                WIDTH as i32,
                1,
                i32::MAX,
            )
        };
        assert_eq!(code, 0);
    }

    /// Decodes a batch into an empty cache, token `i` steered by `rows[i]`, and gives the logits of
    /// the tokens that ask for them, one after the other.
    pub(super) fn decode(&mut self, tokens: &[Token], rows: &[i32]) -> Result<Vec<f32>, TapError> {
        let mut ids: Vec<_> = tokens.iter().map(|token| token.0).collect();
        let mut positions: Vec<_> = tokens.iter().map(|token| token.1).collect();
        let mut seqs: Vec<_> = tokens.iter().map(|token| token.2).collect();
        let mut output: Vec<_> = tokens.iter().map(|token| i8::from(token.3)).collect();
        let mut n_seq = vec![1; tokens.len()];
        let mut seq_ids: Vec<_> = seqs.iter_mut().map(std::ptr::from_mut).collect();
        let raw = llama::llama_batch {
            n_tokens: tokens.len() as i32,
            token: ids.as_mut_ptr(),
            embd: std::ptr::null_mut(),
            pos: positions.as_mut_ptr(),
            n_seq_id: n_seq.as_mut_ptr(),
            seq_id: seq_ids.as_mut_ptr(),
            logits: output.as_mut_ptr(),
        };
        let context = self.context;
        // SAFETY: the context is alive; the arrays have `n_tokens` entries and outlive the call.
        let decode = || unsafe {
            llama::llama_memory_clear(llama::llama_get_memory(context), true);
            llama::llama_decode(context, raw)
        };
        let outputs: Vec<i8> = tokens.iter().map(|token| i8::from(token.3)).collect();
        let pass = Pass { rows, want: &[], tokens: None, outputs: Some(&outputs) };
        self.watch.ids.clear();
        let code = match &mut self.tap {
            None => decode(),
            Some(tap) => {
                let (code, verdict) = tap.pass(&pass, Seen::default(), decode)?;
                verdict?;
                code
            }
        };
        assert_eq!(code, 0, "{}", host::take_complaints());
        let mut logits = Vec::new();
        for (i, _) in tokens.iter().enumerate().filter(|(_, token)| token.3) {
            // SAFETY: a token whose logits were asked for has a row of the vocabulary's size.
            logits.extend_from_slice(unsafe {
                let n = llama::llama_vocab_n_tokens(llama::llama_model_get_vocab(self.model));
                let row = llama::llama_get_logits_ith(context, i as i32);
                std::slice::from_raw_parts(row, n as usize)
            });
        }
        Ok(logits)
    }

    /// What the additions of the last decode read their row numbers from.
    pub(super) fn ids(&self) -> &[Ids] {
        &self.watch.ids
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // SAFETY: each was made once; the context goes before the tap and the watch that it calls,
        // and before its model.
        unsafe {
            llama::llama_free(self.context);
            llama::llama_model_free(self.model);
        }
    }
}
