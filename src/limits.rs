//! What llama.cpp takes for granted of a model's metadata, and ends the process over.

use std::borrow::Cow;
use std::collections::HashSet;

use crate::error::shown;
use crate::gguf::{Gguf, Value};
use crate::{Error, Result};

/// `LLAMA_MAX_LAYERS`.
const N_LAYER_MAX: u64 = 512;
/// `LLAMA_MAX_EXPERTS`.
const N_EXPERT_MAX: u64 = 1024;
/// The names that `rope.scaling.type` can have.
const ROPE_SCALING_TYPES: [&str; 4] = ["none", "linear", "yarn", "longrope"];

/// Architectures whose graph asserts that all of a head is rotated, and that a head is as wide where
/// it is read as where it is written (`GGML_ASSERT(n_embd_head == n_rot)` in `src/models/`).
#[rustfmt::skip]
const WHOLE_HEADS: [&str; 62] = [
    "apertus", "arcee", "arctic", "baichuan", "chameleon", "codeshell", "cogvlm", "cohere2moe",
    "dbrx", "deci", "deepseek", "dots1", "dream", "ernie4_5", "ernie4_5-moe", "exaone",
    "exaone-moe", "exaone4", "falcon", "granite", "granite_swa", "granitemoe", "graniteswitch",
    "grok", "grovemoe", "hunyuan-dense", "hunyuan-moe", "hunyuan_vl", "hy_v3", "internlm2", "jais2",
    "llada", "llada-moe", "llama", "llama-embed", "llama4", "maincoder", "mellum", "minicpm",
    "mistral3", "olmo", "olmo2", "olmoe", "orion", "paddleocr", "pangu-embedded", "plamo",
    "pockettts", "qwen2", "qwen2moe", "qwen2vl", "qwen3", "qwen3moe", "qwen3vl", "qwen3vlmoe",
    "rnd1", "seed_oss", "smallthinker", "smollm3", "starcoder2", "talkie", "xverse",
];

/// Checks, before llama.cpp loads a file, what llama.cpp asserts about it (`load_hparams` in
/// `llama-model.cpp`, `load` in `llama-vocab.cpp`) instead of reporting.
///
/// # Errors
/// [`Error::Gguf`] with the key at fault, [`Error::Unsupported`] for a model without a tokenizer or
/// whose attention is not causal.
pub fn check_host_limits(file: &Gguf, architecture: &str) -> Result<()> {
    check_counts(file, architecture)?;
    check_heads(file, architecture)?;
    let key = format!("{architecture}.rope.scaling.type");
    if let Some(name) = file.opt_str(&key)?.filter(|name| !ROPE_SCALING_TYPES.contains(name)) {
        let (name, all) = (shown(name), ROPE_SCALING_TYPES.join(", "));
        let problem = format!("`{name}` is not one of {all}");
        return Err(file.fault(format!("key {key}"), problem));
    }
    let unsupported = |problem: &str| Error::Unsupported {
        architecture: architecture.to_owned(),
        problem: problem.to_owned(),
    };
    if file.opt_bool(&format!("{architecture}.attention.causal"))? == Some(false) {
        return Err(unsupported("its attention is not causal: candor steers text generation"));
    }
    if matches!(file.str("tokenizer.ggml.model")?, "none" | "no_vocab") {
        return Err(unsupported("the file has no tokenizer"));
    }
    check_vocabulary(file)
}

/// The texts and kinds of tokens. llama.cpp looks tokens up by their texts, as C strings: it reads each
/// up to its first NUL, calls one that is empty `[EMPTY_i]`, and asserts that all differ. A vocabulary of
/// words and parts of words (`bert`) has no way to spell a token of the kind `byte`, and ends the process.
fn check_vocabulary(file: &Gguf) -> Result<()> {
    const TOKENS: &str = "tokenizer.ggml.tokens";
    const KINDS: &str = "tokenizer.ggml.token_type";
    /// `LLAMA_TOKEN_TYPE_BYTE`.
    const BYTE: i32 = 6;

    let mut seen: HashSet<Cow<str>> = HashSet::new();
    let tokens = file.strings(TOKENS)?;
    for (i, token) in tokens.iter().enumerate() {
        let text = token.split('\0').next().unwrap_or_default();
        let text = match text {
            "" => Cow::Owned(format!("[EMPTY_{i}]")),
            text => Cow::Borrowed(text),
        };
        if seen.contains(&text) {
            let is_cut = tokens.iter().any(|token| token.contains('\0'));
            let why = if is_cut { ": llama.cpp reads tokens up to their first NUL" } else { "" };
            let problem = format!("token `{}` occurs twice{why}", shown(&text));
            return Err(file.fault(format!("key {TOKENS}"), problem));
        }
        seen.insert(text);
    }
    let kind = file.str("tokenizer.ggml.model")?;
    let kinds = file.get(KINDS).and_then(Value::as_i32s);
    if kind == "bert" && kinds.is_some_and(|kinds| kinds.contains(&BYTE)) {
        let problem = "a token is a byte, and llama.cpp spells none in a vocabulary of this kind";
        return Err(file.fault(format!("key {KINDS}"), problem));
    }
    Ok(())
}

/// The widths of a head.
fn check_heads(file: &Gguf, architecture: &str) -> Result<()> {
    let length = |name: &str| file.opt_uint(&format!("{architecture}.{name}"));
    let Some(n_key) = length("attention.key_length")? else { return Ok(()) };
    for name in ["attention.value_length", "rope.dimension_count"] {
        if let Some(n) =
            length(name)?.filter(|&n| n != n_key && WHOLE_HEADS.contains(&architecture))
        {
            let problem = format!("{n} of heads of {n_key}, and llama.cpp takes whole heads only");
            return Err(file.fault(format!("key {architecture}.{name}"), problem));
        }
    }
    Ok(())
}

/// Layers, experts and groups of experts.
fn check_counts(file: &Gguf, architecture: &str) -> Result<()> {
    let count = |name: &str| -> Result<u64> {
        let key = format!("{architecture}.{name}");
        // One number, or one per layer, of which the largest counts.
        match file.opt_uints(&key) {
            Ok(counts) => Ok(counts.unwrap_or_default().into_iter().max().unwrap_or(0)),
            Err(_) => file.uint(&key),
        }
    };
    let n_layer = count("block_count")?;
    let n_layer_next = count("nextn_predict_layers")?;
    let n_expert = count("expert_count")?;
    let n_expert_used = count("expert_used_count")?;
    let n_group = count("expert_group_count")?;
    let n_group_used = count("expert_group_used_count")?;

    let uses_experts = (n_expert.min(1)..=n_expert).contains(&n_expert_used);
    let groups_experts = match n_group {
        0 => true,
        1 => n_expert > 1,
        _ => {
            n_group < n_expert
                && n_expert.is_multiple_of(n_group)
                && (1..n_group).contains(&n_group_used)
        }
    };
    let (name, problem) = if n_layer > N_LAYER_MAX {
        ("block_count", format!("{n_layer} layers, and llama.cpp takes {N_LAYER_MAX}"))
    } else if n_layer_next > n_layer {
        ("nextn_predict_layers", format!("{n_layer_next} of {n_layer} layers"))
    } else if n_expert > N_EXPERT_MAX {
        ("expert_count", format!("{n_expert} experts, and llama.cpp takes {N_EXPERT_MAX}"))
    } else if !uses_experts {
        ("expert_used_count", format!("{n_expert_used} of {n_expert} experts"))
    } else if !groups_experts {
        let problem = format!("{n_group_used} of {n_group} groups of {n_expert} experts");
        ("expert_group_count", problem)
    } else {
        return Ok(());
    };
    Err(file.fault(format!("key {architecture}.{name}"), problem))
}
