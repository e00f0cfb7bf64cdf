//! Choosing the next token.

use serde::Serialize;

use crate::ffi::sampler::SamplerChain;
use crate::{Error, Result};

/// Sampling as llama.cpp names it, with its defaults.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SamplingParams {
    /// Temperature; 0 takes the likeliest token.
    pub temp: f32,
    /// Keep the k likeliest tokens; 0 keeps all.
    pub top_k: i32,
    /// Keep the likeliest tokens up to this share of probability; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens below this share of the likeliest token's probability; 0 drops none.
    pub min_p: f32,
    /// Seed of the draws.
    pub seed: u32,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self { temp: 0.8, top_k: 40, top_p: 0.95, min_p: 0.05, seed: 0 }
    }
}

impl SamplingParams {
    /// The likeliest token, always.
    #[must_use]
    pub fn greedy() -> Self {
        Self { temp: 0.0, ..Self::default() }
    }
}

/// A chain of llama.cpp's samplers.
#[derive(Debug)]
pub struct Sampler {
    chain: SamplerChain,
}

impl Sampler {
    /// Top-k, top-p, min-p, temperature, draw: llama.cpp's order. At temperature 0, the likeliest.
    ///
    /// # Errors
    /// [`Error::Decode`] where llama.cpp fails, as for want of memory.
    pub fn new(params: &SamplingParams) -> Result<Self> {
        let SamplingParams { temp, top_k, top_p, min_p, seed } = *params;
        let chain = SamplerChain::new(temp, top_k, (top_p, min_p), seed)
            .map_err(|thrown| thrown.failed_to("make a sampler"))?;
        Ok(Self { chain })
    }

    /// Chooses a token from logits, F32 `[n_vocab]`.
    ///
    /// # Errors
    /// [`Error::Invalid`] where none can be chosen, as from an empty slice, [`Error::Decode`] where
    /// llama.cpp fails.
    pub fn sample(&mut self, logits: &[f32]) -> Result<i32> {
        let chosen = self.chain.choose(logits);
        chosen
            .map_err(|thrown| thrown.failed_to("choose a token"))?
            .ok_or_else(|| Error::invalid("logits", "no token can be chosen by them"))
    }
}
