//! Where an architecture takes a bias.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// Where a vector goes in a model's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// `blk.<il>.attn_output.bias`, after the output projection: exact for every vector.
    OutputBias,
    /// `blk.<il>.attn_v.bias` (or the V part of `attn_qkv.bias`, where Q, K and V are one matrix),
    /// where llama.cpp adds no bias after the output projection. Every head puts out a mean of rows
    /// of V with weights that sum to one, so what is added to all rows is added to the mean. A
    /// key/value head serves `n_head / n_head_kv` heads, and its bias moves all of them alike:
    /// exact where the vector does so too, as every vector does where `n_head = n_head_kv`.
    ///
    /// Elsewhere the nearest bias is the one that is nearest *after* the output projection, since
    /// that is all the model sees: it minimizes ‖`wo` a − `wo` v‖, where a is what steering adds and
    /// v has the same values in all heads of a group. All groups of the layer take part. (The mean
    /// of a group's heads minimizes ‖a − v‖ instead, and is never nearer.)
    ValueBias,
}

/// Architectures whose loader takes `attn_output.bias` and whose graph adds it: read in llama.cpp's
/// `src/models/`. Not here: `ernie4_5`, `falcon-h1`, `llada` and `refact`, which load it and leave it
/// out of the graph.
const OUTPUT_BIAS: &[&str] = &[
    "apertus",
    "bloom",
    "codeshell",
    "deci",
    "gpt-oss",
    "gpt2",
    "gptneox",
    "granite",
    "granite_swa",
    "granitehybrid",
    "granitemoe",
    "jais",
    "jais2",
    "llama",
    "minicpm",
    "mistral3",
    "mpt",
    "nemotron",
    "nemotron_h",
    "pangu-embedded",
    "phi2",
    "phimoe",
    "starcoder",
    "starcoder2",
];

/// Architectures that take a bias on V and hand V to the attention as it is: those whose tensors
/// `create_tensor_qkv` makes and whose graph begins with `build_qkv`, and `qwen`. Not here: `falcon`
/// and `deepseek2`, which load none, and `gemma3n`, which normalizes V.
const VALUE_BIAS: &[&str] = &[
    "arcee",
    "baichuan",
    "chatglm",
    "cohere2",
    "command-r",
    "deepseek",
    "dots1",
    "ernie4_5",
    "exaone",
    "exaone4",
    "falcon-h1",
    "gemma",
    "gemma2",
    "gemma3",
    "glm4",
    "glm4moe",
    "hunyuan-dense",
    "hunyuan-moe",
    "internlm2",
    "jamba",
    "lfm2",
    "lfm2moe",
    "minimax-m2",
    "olmo",
    "olmo2",
    "olmoe",
    "orion",
    "phi3",
    "qwen",
    "qwen2",
    "qwen2moe",
    "qwen2vl",
    "qwen3",
    "qwen3moe",
    "refact",
    "seed_oss",
    "smollm3",
    "stablelm",
    "xverse",
];

impl Place {
    /// Where models of this `general.architecture` take a bias that does what steering every token
    /// does; `None` where nowhere.
    #[must_use]
    pub fn of(architecture: &str) -> Option<Self> {
        if OUTPUT_BIAS.contains(&architecture) {
            Some(Self::OutputBias)
        } else if VALUE_BIAS.contains(&architecture) {
            Some(Self::ValueBias)
        } else {
            None
        }
    }

    /// Its name in files and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OutputBias => "output bias",
            Self::ValueBias => "V bias",
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Place {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        [Self::OutputBias, Self::ValueBias]
            .into_iter()
            .find(|place| place.name() == name)
            .ok_or_else(|| {
                Error::invalid("place", format!("`{name}` is not `output bias` or `V bias`"))
            })
    }
}
