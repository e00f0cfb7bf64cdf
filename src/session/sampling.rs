//! Choosing the next token.

use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;
use serde::Serialize;

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
pub struct Sampler {
    chain: LlamaSampler,
}

impl Sampler {
    /// Top-k, top-p, min-p, temperature, draw: llama.cpp's order. At temperature 0, the likeliest.
    #[must_use]
    pub fn new(params: &SamplingParams) -> Self {
        let chain = if params.temp <= 0.0 {
            LlamaSampler::greedy()
        } else {
            LlamaSampler::chain_simple([
                LlamaSampler::top_k(params.top_k),
                LlamaSampler::top_p(params.top_p, 1),
                LlamaSampler::min_p(params.min_p, 1),
                LlamaSampler::temp(params.temp),
                LlamaSampler::dist(params.seed),
            ])
        };
        Self { chain }
    }

    /// Chooses a token from logits, F32 `[n_vocab]`; `None` only for an empty slice.
    pub fn sample(&mut self, logits: &[f32]) -> Option<i32> {
        let candidates = logits
            .iter()
            .zip(0..)
            .map(|(&logit, id)| LlamaTokenData::new(LlamaToken(id), logit, 0.0));
        let mut candidates = LlamaTokenDataArray::from_iter(candidates, false);
        if candidates.data.is_empty() {
            return None;
        }
        self.chain.apply(&mut candidates);
        let token = candidates.selected_token()?;
        self.chain.accept(token);
        Some(token.0)
    }
}
