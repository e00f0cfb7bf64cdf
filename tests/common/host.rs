//! Stock llama.cpp, through `llama-cpp-2` alone: what candor's results are compared with.

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::OnceLock;

use llama_cpp_2::context::params::{KvCacheType, LlamaContextParams};
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_sys_2::{LLAMA_FLASH_ATTN_TYPE_DISABLED, LLAMA_FLASH_ATTN_TYPE_ENABLED};
use ndarray::Array2;

/// The backend, of which a process has one: candor may have started it already.
pub fn backend() -> &'static LlamaBackend {
    static BACKEND: OnceLock<LlamaBackend> = OnceLock::new();
    BACKEND.get_or_init(|| LlamaBackend::init().unwrap_or(LlamaBackend {}))
}

/// Loads a model on the CPU.
pub fn load(path: &Path) -> LlamaModel {
    let params = LlamaModelParams::default().with_n_gpu_layers(0);
    LlamaModel::load_from_file(backend(), path, &params)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Logits of all tokens of one sequence, decoded as one batch with F32 caches: `[n_token, n_vocab]`.
pub fn logits(model: &LlamaModel, tokens: &[i32], flash_attention: bool) -> Array2<f32> {
    let policy = match flash_attention {
        true => LLAMA_FLASH_ATTN_TYPE_ENABLED,
        false => LLAMA_FLASH_ATTN_TYPE_DISABLED,
    };
    let params = LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(256))
        .with_type_k(KvCacheType::F32)
        .with_type_v(KvCacheType::F32)
        .with_flash_attention_policy(policy)
        .with_n_threads(1)
        .with_n_threads_batch(1);
    let mut context = model.new_context(backend(), params).expect("a context");
    let tokens: Vec<LlamaToken> = tokens.iter().copied().map(LlamaToken).collect();
    let mut batch = LlamaBatch::new(tokens.len(), 1);
    batch.add_sequence(&tokens, 0, true).expect("the batch holds the sequence");
    context.decode(&mut batch).expect("the batch decodes");
    let rows: Vec<f32> =
        (0..tokens.len()).flat_map(|i| context.get_logits_ith(i as i32).to_vec()).collect();
    Array2::from_shape_vec((tokens.len(), model.n_vocab() as usize), rows).expect("equal rows")
}
