//! A loaded GGUF model, and what candor has to know of it.

use std::path::{Path, PathBuf};

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;
use serde::Serialize;

use crate::ffi::host;
use crate::fingerprint::fingerprint;
use crate::gguf::Gguf;
use crate::{Error, Result};

/// The shape of a model's attention, read from its file and never computed from other numbers:
/// `n_head * d_head` is the input width of the attention's output projection, which in many models
/// is not `n_embd`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Geometry {
    /// Transformer blocks.
    pub n_layer: usize,
    /// Query heads per layer.
    pub n_head: usize,
    /// Key/value heads per layer.
    pub n_head_kv: usize,
    /// Width of one head's output: the *value* head size.
    pub d_head: usize,
    /// Width of the residual stream.
    pub n_embd: usize,
}

/// How to load a model.
#[derive(Debug, Clone, Default)]
pub struct ModelParams {
    /// Layers to keep on the accelerator (llama.cpp's `-ngl`); `None` leaves it to llama.cpp.
    pub n_gpu_layers: Option<u32>,
}

/// A model in memory. Sessions borrow it.
pub struct Model {
    inner: LlamaModel,
    path: PathBuf,
    architecture: String,
    name: Option<String>,
    geometry: Geometry,
    /// Input width of each layer's output projection; 0 where a layer has no attention.
    widths: Vec<usize>,
    fingerprint: String,
    chat_template: Option<String>,
}

impl Model {
    /// Loads a GGUF file, after checking it.
    ///
    /// # Errors
    /// [`Error::Gguf`] for a file that breaks the format, [`Error::Unsupported`] for a model
    /// without attention heads that could be tapped, [`Error::Model`] where llama.cpp refuses.
    pub fn load(path: &Path, params: &ModelParams) -> Result<Self> {
        let file = Gguf::open(path)?;
        if let Some(kind) = file.opt_str("general.type")?.filter(|&kind| kind != "model") {
            let problem = format!("the file holds no model: its general.type is `{kind}`");
            return Err(Error::Model { path: path.to_owned(), problem });
        }
        let architecture = file.str("general.architecture")?.to_owned();
        let widths = attention_widths(&file, &architecture)?;
        let geometry = read_geometry(&file, &architecture, &widths)?;
        let fingerprint = fingerprint(&file)?;

        let backend = host::backend();
        let mut host_params = LlamaModelParams::default();
        if let Some(n) = params.n_gpu_layers {
            host_params = host_params.with_n_gpu_layers(n);
        }
        let fail = |problem: String| Error::Model { path: path.to_owned(), problem };
        let inner = LlamaModel::load_from_file(&backend, path, &host_params)
            .map_err(|_| fail(host::take_complaints()))?;
        if !host::is_causal_decoder(&inner) {
            return Err(Error::Unsupported {
                architecture,
                problem: "an encoder: candor steers models that generate text".to_owned(),
            });
        }
        Ok(Self {
            name: file.opt_str("general.name")?.map(str::to_owned),
            chat_template: file.opt_str("tokenizer.chat_template")?.map(str::to_owned),
            inner,
            path: path.to_owned(),
            architecture,
            geometry,
            widths,
            fingerprint,
        })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `general.architecture`.
    #[must_use]
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// `general.name`, where the file has one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The shape of the attention.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The layers that have attention, ascending: all of them but in hybrid models.
    pub fn attention_layers(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.widths.len()).filter(|&layer| self.widths[layer] > 0)
    }

    /// The same for every quantization of one model, another for every other model:
    /// see [`fingerprint`](crate::fingerprint()).
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The Jinja chat template inside the file, where there is one.
    #[must_use]
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// The context length that the model was trained with, in tokens.
    #[must_use]
    pub fn n_ctx_train(&self) -> usize {
        self.inner.n_ctx_train() as usize
    }

    /// Entries of the vocabulary.
    #[must_use]
    pub fn n_vocab(&self) -> usize {
        usize::try_from(self.inner.n_vocab()).unwrap_or(0)
    }

    /// Text to token ids. `special` adds what the model wants at the start (BOS) and reads control
    /// tokens that are written out in the text, as chat templates do.
    #[must_use]
    pub fn tokenize(&self, text: &str, special: Special) -> Vec<i32> {
        let (add, parse) = match special {
            Special::None => (false, false),
            Special::Start => (true, false),
            Special::StartAndParse => (true, true),
            Special::Parse => (false, true),
        };
        self.inner.vocab().tokenize(text.as_bytes(), add, parse).into_iter().map(|t| t.0).collect()
    }

    /// The bytes of one token; control tokens are empty. May end inside a UTF-8 character.
    #[must_use]
    pub fn piece(&self, token: i32) -> Vec<u8> {
        self.inner.vocab().token_to_piece(LlamaToken(token), false, None)
    }

    /// The text of a special token as a chat template writes it (`<s>`), empty where there is none.
    #[must_use]
    pub fn special_text(&self, which: SpecialToken) -> String {
        let vocab = self.inner.vocab();
        let token = match which {
            SpecialToken::Bos => vocab.bos(),
            SpecialToken::Eos => vocab.eos(),
        };
        if token.0 < 0 {
            return String::new();
        }
        vocab.text(token).map(|t| t.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// Whether a prompt of this model starts with BOS.
    #[must_use]
    pub fn adds_bos(&self) -> bool {
        self.inner.vocab().should_add_bos()
    }

    /// Whether a token ends the generation (EOS, end of turn, …).
    #[must_use]
    pub fn is_end(&self, token: i32) -> bool {
        self.inner.vocab().is_eog(LlamaToken(token))
    }

    /// Whether the model keeps a running state instead of (only) a KV cache.
    #[must_use]
    pub fn is_recurrent(&self) -> bool {
        self.inner.is_recurrent() || self.inner.is_hybrid()
    }

    /// Input widths of the output projections, 0 for layers without attention: `[n_layer]`.
    pub(crate) fn widths(&self) -> &[usize] {
        &self.widths
    }

    /// The host's own handle.
    pub(crate) fn inner(&self) -> &LlamaModel {
        &self.inner
    }

    /// A token for the warm-up: BOS where there is one.
    pub(crate) fn warmup_token(&self) -> i32 {
        self.inner.vocab().bos().0.max(0)
    }
}

/// What [`Model::tokenize`] does about special tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// Plain text in the middle of something.
    None,
    /// Plain text at the start of a sequence: BOS before it where the model wants one.
    Start,
    /// A rendered chat template that does not write BOS itself.
    StartAndParse,
    /// A rendered chat template that does.
    Parse,
}

/// The special tokens that templates refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialToken {
    /// Beginning of sequence.
    Bos,
    /// End of sequence.
    Eos,
}

/// Reads the input width of every layer's `attn_output`.
fn attention_widths(file: &Gguf, architecture: &str) -> Result<Vec<usize>> {
    let n_layer = file.uint(&format!("{architecture}.block_count"))?;
    if n_layer > file.tensors().len() as u64 {
        let problem = format!("{n_layer} layers, but only {} tensors", file.tensors().len());
        return Err(file.fault(format!("key {architecture}.block_count"), problem));
    }
    let widths: Vec<usize> = (0..n_layer)
        .map(|layer| {
            let wo = file.tensor(&format!("blk.{layer}.attn_output.weight"));
            wo.and_then(|t| usize::try_from(t.dims[0]).ok()).unwrap_or(0)
        })
        .collect();
    if widths.iter().all(|&w| w == 0) {
        return Err(Error::Unsupported {
            architecture: architecture.to_owned(),
            problem: "no layer has an attention output projection (attn_output), \
                      so there are no heads to read or steer"
                .to_owned(),
        });
    }
    Ok(widths)
}

/// Reads the geometry and checks that it is one: the same in every layer that has attention.
fn read_geometry(file: &Gguf, architecture: &str, widths: &[usize]) -> Result<Geometry> {
    let unsupported =
        |problem: String| Error::Unsupported { architecture: architecture.to_owned(), problem };
    let heads = per_layer(file, &format!("{architecture}.attention.head_count"), widths)?;
    let n_head = heads
        .ok_or_else(|| unsupported("its layers differ in their number of heads".to_owned()))?;
    let kv_key = format!("{architecture}.attention.head_count_kv");
    let n_head_kv = match file.get(&kv_key) {
        Some(_) => per_layer(file, &kv_key, widths)?.ok_or_else(|| {
            unsupported("its layers differ in their number of key/value heads".to_owned())
        })?,
        None => n_head,
    };
    let mut attention = widths.iter().copied().filter(|&w| w > 0);
    let width = attention.next().unwrap_or(0);
    if attention.any(|w| w != width) {
        return Err(unsupported(
            "its layers differ in the width of their attention outputs".to_owned(),
        ));
    }
    if n_head == 0 || width % n_head != 0 {
        return Err(unsupported(format!(
            "an attention output of width {width} does not divide into {n_head} heads"
        )));
    }
    let n_embd = file.uint(&format!("{architecture}.embedding_length"))?;
    Ok(Geometry {
        n_layer: widths.len(),
        n_head,
        n_head_kv,
        d_head: width / n_head,
        n_embd: usize::try_from(n_embd).unwrap_or(0),
    })
}

/// A count that is one number or one per layer; `None` where the attention layers differ.
fn per_layer(file: &Gguf, key: &str, widths: &[usize]) -> Result<Option<usize>> {
    let Ok(counts) = file.uints(key) else {
        return Ok(usize::try_from(file.uint(key)?).ok());
    };
    if counts.len() != widths.len() {
        let problem = format!("{} entries for {} layers", counts.len(), widths.len());
        return Err(file.fault(format!("key {key}"), problem));
    }
    let mut attention = counts.iter().zip(widths).filter(|&(_, &w)| w > 0).map(|(&n, _)| n);
    let first = attention.next().unwrap_or(0);
    Ok(if attention.all(|n| n == first) { usize::try_from(first).ok() } else { None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_missing_file_by_name() {
        let error = Model::load(Path::new("no/such.gguf"), &ModelParams::default())
            .err()
            .map(|e| e.to_string());
        assert!(error.is_some_and(|e| e.contains("no/such.gguf")));
    }
}
