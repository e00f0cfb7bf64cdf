//! Tiny random models of the architectures under test, as GGUF files.
//!
//! Where an architecture allows it, `n_head != n_head_kv` and `n_head * d_head != n_embd`, so that
//! code that computes a geometry instead of reading it fails. All share one vocabulary, in which
//! every text has tokens.

use std::path::{Path, PathBuf};

use candor::gguf::{Builder, TensorType, Value};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::quantize::quantize;

/// Layers of every fixture.
pub const N_LAYER: usize = 3;
/// Width of the residual stream of every fixture.
pub const N_EMBD: usize = 64;
/// Query heads per layer of every fixture.
pub const N_HEAD: usize = 4;
/// Tokens that a fixture was "trained" for.
pub const N_CTX: usize = 512;

const N_FF: usize = 96;

/// An architecture, with the geometry that its fixture has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    Llama,
    Qwen2,
    Qwen3,
    Gemma2,
    Gpt2,
}

/// The length of a tensor's dimension, in the model's own terms.
#[derive(Clone, Copy)]
enum Dim {
    Embd,
    Ff,
    Vocab,
    Context,
    /// `d_head`
    Head,
    /// `n_head * d_head`
    Query,
    /// `n_head_kv * d_head`
    KeyValue,
    /// `(n_head + 2 * n_head_kv) * d_head`
    Fused,
}

use Dim::{Context, Embd, Ff, Fused, Head, KeyValue, Query, Vocab};

/// A tensor's name (within its layer) and dimensions, `ne[0]` first.
type Tensor = (&'static str, &'static [Dim]);

/// What sets the file of one architecture apart.
struct Row {
    name: &'static str,
    n_head_kv: usize,
    d_head: usize,
    /// Metadata below the architecture's name.
    metadata: &'static [(&'static str, Value)],
    /// Tensors of the whole model.
    model: &'static [&'static [Tensor]],
    /// Tensors of each layer.
    layer: &'static [&'static [Tensor]],
}

const TIED: &[Tensor] = &[("token_embd.weight", &[Embd, Vocab]), ("output_norm.weight", &[Embd])];
const OUTPUT: &[Tensor] = &[("output.weight", &[Embd, Vocab])];
const NORMS: &[Tensor] = &[("attn_norm.weight", &[Embd]), ("ffn_norm.weight", &[Embd])];
const ATTENTION: &[Tensor] = &[
    ("attn_q.weight", &[Embd, Query]),
    ("attn_k.weight", &[Embd, KeyValue]),
    ("attn_v.weight", &[Embd, KeyValue]),
    ("attn_output.weight", &[Query, Embd]),
];
const GATED_FFN: &[Tensor] = &[
    ("ffn_gate.weight", &[Embd, Ff]),
    ("ffn_up.weight", &[Embd, Ff]),
    ("ffn_down.weight", &[Ff, Embd]),
];
const RMS: (&str, Value) = ("attention.layer_norm_rms_epsilon", Value::F32(1e-5));

const LLAMA: Row = Row {
    name: "llama",
    n_head_kv: 2,
    d_head: 32,
    metadata: &[RMS],
    model: &[TIED, OUTPUT],
    layer: &[NORMS, ATTENTION, GATED_FFN],
};

const QWEN2: Row = Row {
    name: "qwen2",
    n_head_kv: 2,
    d_head: 16,
    metadata: &[RMS],
    model: &[TIED, OUTPUT],
    layer: &[
        NORMS,
        ATTENTION,
        &[("attn_q.bias", &[Query]), ("attn_k.bias", &[KeyValue]), ("attn_v.bias", &[KeyValue])],
        GATED_FFN,
    ],
};

const QWEN3: Row = Row {
    name: "qwen3",
    n_head_kv: 2,
    d_head: 32,
    metadata: &[RMS],
    model: &[TIED],
    layer: &[
        NORMS,
        ATTENTION,
        &[("attn_q_norm.weight", &[Head]), ("attn_k_norm.weight", &[Head])],
        GATED_FFN,
    ],
};

const GEMMA2: Row = Row {
    name: "gemma2",
    n_head_kv: 2,
    d_head: 32,
    metadata: &[
        RMS,
        ("attention.sliding_window", Value::U32(8)),
        ("attn_logit_softcapping", Value::F32(50.0)),
        ("final_logit_softcapping", Value::F32(30.0)),
    ],
    model: &[TIED],
    layer: &[
        NORMS,
        ATTENTION,
        GATED_FFN,
        &[("post_attention_norm.weight", &[Embd]), ("post_ffw_norm.weight", &[Embd])],
    ],
};

const GPT2: Row = Row {
    name: "gpt2",
    n_head_kv: N_HEAD,
    d_head: N_EMBD / N_HEAD,
    metadata: &[("attention.layer_norm_epsilon", Value::F32(1e-5))],
    model: &[TIED, &[("position_embd.weight", &[Embd, Context]), ("output_norm.bias", &[Embd])]],
    layer: &[
        NORMS,
        &[
            ("attn_norm.bias", &[Embd]),
            ("ffn_norm.bias", &[Embd]),
            ("attn_qkv.weight", &[Embd, Fused]),
            ("attn_qkv.bias", &[Fused]),
            ("attn_output.weight", &[Query, Embd]),
            ("attn_output.bias", &[Embd]),
            ("ffn_up.weight", &[Embd, Ff]),
            ("ffn_up.bias", &[Ff]),
            ("ffn_down.weight", &[Ff, Embd]),
            ("ffn_down.bias", &[Embd]),
        ],
    ],
};

impl Arch {
    /// Every architecture under test.
    pub const ALL: [Self; 5] = [Self::Llama, Self::Qwen2, Self::Qwen3, Self::Gemma2, Self::Gpt2];

    const fn row(self) -> &'static Row {
        match self {
            Self::Llama => &LLAMA,
            Self::Qwen2 => &QWEN2,
            Self::Qwen3 => &QWEN3,
            Self::Gemma2 => &GEMMA2,
            Self::Gpt2 => &GPT2,
        }
    }

    /// `general.architecture`.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Key and value heads per layer.
    pub fn n_head_kv(self) -> usize {
        self.row().n_head_kv
    }

    /// Width of one head's output.
    pub fn d_head(self) -> usize {
        self.row().d_head
    }
}

/// A model to be written: `Fixture::new(Arch::Qwen3).quantized(TensorType::Q8_0).seed(3).write(folder)`.
#[derive(Debug, Clone, Copy)]
pub struct Fixture {
    arch: Arch,
    kind: TensorType,
    seed: u64,
}

impl Fixture {
    /// A model of this architecture: F32, seed 0.
    pub fn new(arch: Arch) -> Self {
        Self { arch, kind: TensorType::F32, seed: 0 }
    }

    /// Stores the matrices as F32, Q8_0 or Q4_0; norms and biases are always F32.
    pub fn quantized(self, kind: TensorType) -> Self {
        Self { kind, ..self }
    }

    /// Draws other weights. One seed means the same weights in every quantization.
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Writes `<architecture>-<type>-<seed>.gguf` into the folder.
    pub fn write(self, folder: &Path) -> PathBuf {
        let name = format!("{}-{}-{}.gguf", self.arch.name(), self.kind.name(), self.seed);
        let path = folder.join(name);
        self.build().write(&path).expect("the folder takes the fixture");
        path
    }

    /// The file, to be changed before it is written.
    pub fn build(self) -> Builder<'static> {
        let row = self.arch.row();
        let vocabulary = vocabulary();
        let mut builder = Builder::new();
        builder
            .set("general.architecture", row.name)
            .set("general.name", format!("tiny {}", row.name));
        for (key, value) in [
            ("block_count", N_LAYER),
            ("context_length", N_CTX),
            ("embedding_length", N_EMBD),
            ("feed_forward_length", N_FF),
            ("attention.head_count", N_HEAD),
            ("attention.head_count_kv", row.n_head_kv),
            ("attention.key_length", row.d_head),
            ("attention.value_length", row.d_head),
        ] {
            builder.set(&format!("{}.{key}", row.name), value as u32);
        }
        for (key, value) in row.metadata {
            builder.set(&format!("{}.{key}", row.name), value.clone());
        }
        let n_vocab = vocabulary.len();
        set_tokenizer(&mut builder, vocabulary);

        let length = |dim: &Dim| match dim {
            Embd => N_EMBD,
            Ff => N_FF,
            Vocab => n_vocab,
            Context => N_CTX,
            Head => row.d_head,
            Query => N_HEAD * row.d_head,
            KeyValue => row.n_head_kv * row.d_head,
            Fused => (N_HEAD + 2 * row.n_head_kv) * row.d_head,
        };
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let mut add = |name: &str, dims: &[Dim]| {
            let lengths: Vec<usize> = dims.iter().map(length).collect();
            let kind = if dims.len() == 1 { TensorType::F32 } else { self.kind };
            let dims: Vec<u64> = lengths.iter().map(|&length| length as u64).collect();
            builder.tensor(name, &dims, kind, quantize(&weights(name, &lengths, &mut rng), kind));
        };
        for (name, dims) in row.model.iter().copied().flatten() {
            add(name, dims);
        }
        for il in 0..N_LAYER {
            for (name, dims) in row.layer.iter().copied().flatten() {
                add(&format!("blk.{il}.{name}"), dims);
            }
        }
        builder
    }
}

/// Random weights whose scale keeps every block's contribution to the residual stream near one,
/// and the logits a few units apart.
fn weights(name: &str, lengths: &[usize], rng: &mut ChaCha8Rng) -> Vec<f32> {
    let (mean, sigma) = match lengths {
        _ if name.ends_with(".bias") => (0.0, 0.2),
        [_] => (1.0, 0.2),
        _ if name.contains("_embd.") => (0.0, 0.3),
        [n_in, ..] => (0.0, 1.5 / (*n_in as f32).sqrt()),
        [] => unreachable!("tensors have dimensions"),
    };
    // Uniform on [-sqrt(3), sqrt(3)]: mean 0, standard deviation 1.
    let half_width = 3f32.sqrt();
    let n = lengths.iter().product();
    (0..n).map(|_| mean + sigma * rng.random_range(-half_width..half_width)).collect()
}

/// A token's text, score and type (`llama_token_type`).
type Token = (String, f32, i32);

/// A SentencePiece vocabulary: special tokens, all bytes, then letters and common pairs of them.
fn vocabulary() -> Vec<Token> {
    const UNKNOWN: i32 = 2;
    const CONTROL: i32 = 3;
    const BYTE: i32 = 6;
    const NORMAL: i32 = 1;
    const PAIRS: [&str; 12] = [
        "\u{2581}t",
        "he",
        "\u{2581}a",
        "in",
        "er",
        "on",
        "an",
        "is",
        "re",
        "\u{2581}w",
        "at",
        "es",
    ];

    let special = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)];
    let special = special.into_iter().map(|(text, kind)| (text.to_owned(), 0.0, kind));
    let bytes = (0..=255u8).map(|byte| (format!("<0x{byte:02X}>"), 0.0, BYTE));
    let letters = ('a'..='z').chain(['\u{2581}', '.', ',', '?']).map(String::from);
    let pairs = PAIRS.into_iter().map(String::from);
    // A higher score is merged first.
    let pieces = pairs.chain(letters).enumerate().map(|(i, text)| (text, -(i as f32), NORMAL));
    special.chain(bytes).chain(pieces).collect()
}

fn set_tokenizer(builder: &mut Builder, vocabulary: Vec<Token>) {
    let mut texts = Vec::new();
    let mut scores = Vec::new();
    let mut kinds = Vec::new();
    for (text, score, kind) in vocabulary {
        texts.push(text);
        scores.push(score);
        kinds.push(kind);
    }
    builder
        .set("tokenizer.ggml.model", "llama")
        .set("tokenizer.ggml.tokens", texts)
        .set("tokenizer.ggml.scores", scores)
        .set("tokenizer.ggml.token_type", kinds)
        .set("tokenizer.ggml.unknown_token_id", 0u32)
        .set("tokenizer.ggml.bos_token_id", 1u32)
        .set("tokenizer.ggml.eos_token_id", 2u32);
}
