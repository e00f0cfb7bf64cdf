//! Stock llama.cpp with a control vector of its own: what steering outputs of layers is compared with.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::path::Path;
use std::ptr;

use candor::SessionParams;
use llama_cpp_sys_2 as llama;

use super::host;
use super::script::Token;

/// A model and a context without an eval callback, set up as a session of these parameters is.
pub struct Controlled {
    model: *mut llama::llama_model,
    context: *mut llama::llama_context,
    n_vocab: usize,
}

impl Controlled {
    /// Loads a model on the CPU and gives llama.cpp these directions, F32 `[n_embd]` by layer.
    pub fn new(
        path: &Path,
        params: &SessionParams,
        n_layer: usize,
        directions: &BTreeMap<usize, Vec<f32>>,
    ) -> Self {
        host::backend();
        let n_embd = directions.values().next().expect("a direction").len();
        let mut data = vec![0f32; n_embd * (n_layer - 1)];
        for (layer, direction) in directions {
            data[(layer - 1) * n_embd..layer * n_embd].copy_from_slice(direction);
        }
        let name = CString::new(path.to_str().expect("a plain path")).expect("no NUL");
        // SAFETY: the name and the data live over the calls; what is made is freed in `drop`.
        unsafe {
            let mut model_params = llama::llama_model_default_params();
            model_params.n_gpu_layers = 0;
            let model = llama::llama_model_load_from_file(name.as_ptr(), model_params);
            assert!(!model.is_null(), "{}", path.display());
            let n_threads = params.n_threads.expect("both sides need the same number") as i32;
            let mut context_params = llama::llama_context_default_params();
            context_params.n_ctx = params.n_ctx as u32;
            context_params.n_batch = params.n_ctx as u32;
            context_params.n_ubatch = params.n_ubatch.min(params.n_ctx) as u32;
            context_params.n_seq_max = params.n_seq_max as u32;
            context_params.n_threads = n_threads;
            context_params.n_threads_batch = n_threads;
            context_params.kv_unified = params.kv_unified;
            context_params.flash_attn_type = if params.flash_attention == Some(true) {
                llama::LLAMA_FLASH_ATTN_TYPE_ENABLED
            } else {
                llama::LLAMA_FLASH_ATTN_TYPE_DISABLED
            };
            let context = llama::llama_init_from_model(model, context_params);
            assert!(!context.is_null(), "{}", path.display());
            let (n, last) = (n_embd as i32, n_layer as i32);
            let code =
                llama::llama_set_adapter_cvec(context, data.as_ptr(), data.len(), n, 1, last);
            assert_eq!(code, 0, "{}", path.display());
            let n_vocab = llama::llama_vocab_n_tokens(llama::llama_model_get_vocab(model));
            Self { model, context, n_vocab: n_vocab as usize }
        }
    }

    /// Decodes one batch and gives the logits of the tokens that `wants` chooses.
    pub fn decode(&mut self, tokens: &[Token], wants: impl Fn(usize) -> bool) -> Vec<Vec<f32>> {
        let mut ids: Vec<_> = tokens.iter().map(|token| token.id).collect();
        let mut positions: Vec<_> = tokens.iter().map(|token| token.position as i32).collect();
        let mut n_seq: Vec<_> = tokens.iter().map(|token| token.seqs.len() as i32).collect();
        let mut seqs: Vec<Vec<i32>> =
            tokens.iter().map(|t| t.seqs.iter().map(|&seq| seq as i32).collect()).collect();
        let mut seq_ids: Vec<_> = seqs.iter_mut().map(Vec::as_mut_ptr).collect();
        seq_ids.push(ptr::null_mut());
        let mut output: Vec<_> = (0..tokens.len()).map(|i| i8::from(wants(i))).collect();
        let batch = llama::llama_batch {
            n_tokens: tokens.len() as i32,
            token: ids.as_mut_ptr(),
            embd: ptr::null_mut(),
            pos: positions.as_mut_ptr(),
            n_seq_id: n_seq.as_mut_ptr(),
            seq_id: seq_ids.as_mut_ptr(),
            logits: output.as_mut_ptr(),
        };
        // SAFETY: the context is alive, the arrays have an entry per token and outlive the call,
        // and a row of logits has `n_vocab` floats.
        unsafe {
            assert_eq!(llama::llama_decode(self.context, batch), 0);
            let row = |i: usize| {
                let row = llama::llama_get_logits_ith(self.context, i as i32);
                std::slice::from_raw_parts(row, self.n_vocab).to_vec()
            };
            (0..tokens.len()).filter(|&i| output[i] != 0).map(row).collect()
        }
    }
}

impl Drop for Controlled {
    fn drop(&mut self) {
        // SAFETY: both were made in `new` and are freed once, the context first.
        unsafe {
            llama::llama_free(self.context);
            llama::llama_model_free(self.model);
        }
    }
}
