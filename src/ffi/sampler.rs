//! A chain of llama.cpp's samplers.

use std::ptr::NonNull;

use llama_cpp_sys_2 as llama;

use super::guard::{self, Thrown};
use super::sys;

/// Owns a chain.
#[derive(Debug)]
pub(crate) struct SamplerChain {
    ptr: NonNull<llama::llama_sampler>,
    /// Scratch, one entry per token of the vocabulary.
    candidates: Vec<llama::llama_token_data>,
}

// SAFETY: the chain is reached through this handle alone and belongs to no thread.
unsafe impl Send for SamplerChain {}

impl SamplerChain {
    /// Top-k, top-p, min-p, temperature, draw; at temperature 0, the likeliest. `None` where memory
    /// runs out.
    pub(crate) fn new(
        temp: f32,
        top_k: i32,
        (top_p, min_p): (f32, f32),
        seed: u32,
    ) -> Result<Self, Thrown> {
        // SAFETY: takes numbers and gives a chain that is freed once.
        let chain = guard::call(|fault| unsafe {
            sys::guard_sampler_new(temp, top_k, top_p, min_p, seed, fault)
        })?;
        let ptr = NonNull::new(chain).ok_or_else(|| Thrown::new("no sampler was made"))?;
        Ok(Self { ptr, candidates: Vec::new() })
    }

    /// Chooses a token by its logits, F32 `[n_vocab]`; `None` where none was chosen.
    pub(crate) fn choose(&mut self, logits: &[f32]) -> Result<Option<i32>, Thrown> {
        if logits.is_empty() {
            return Ok(None);
        }
        self.candidates.clear();
        let candidates = logits.iter().zip(0..);
        self.candidates.extend(candidates.map(|(&logit, id)| llama::llama_token_data {
            id,
            logit,
            p: 0.0,
        }));
        let mut array = llama::llama_token_data_array {
            data: self.candidates.as_mut_ptr(),
            size: self.candidates.len(),
            selected: -1,
            sorted: false,
        };
        // SAFETY: the array lives for the call; samplers write within it or point elsewhere.
        let token = guard::call(|fault| unsafe {
            sys::guard_sampler_choose(self.ptr.as_ptr(), &raw mut array, fault)
        })?;
        Ok(Some(token).filter(|&token| token >= 0))
    }
}

impl Drop for SamplerChain {
    fn drop(&mut self) {
        // SAFETY: the chain owns its samplers and is freed once.
        unsafe { llama::llama_sampler_free(self.ptr.as_ptr()) };
    }
}
