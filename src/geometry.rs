//! The shape of a model's attention.

use serde::Serialize;

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

impl Geometry {
    /// Reads it from a model's file and checks that it is one: the same in every layer that has
    /// attention.
    ///
    /// # Errors
    /// [`Error::Gguf`] when a key is missing or of another kind, [`Error::Unsupported`] when no
    /// layer has attention heads or the layers differ.
    pub fn read(file: &Gguf) -> Result<Self> {
        let architecture = file.str("general.architecture")?;
        let widths = attention_widths(file)?;
        let unsupported =
            |problem: String| Error::Unsupported { architecture: architecture.to_owned(), problem };
        let heads = per_layer(file, &format!("{architecture}.attention.head_count"), &widths)?;
        let n_head = heads
            .ok_or_else(|| unsupported("its layers differ in their number of heads".to_owned()))?;
        let kv_key = format!("{architecture}.attention.head_count_kv");
        let n_head_kv = match file.get(&kv_key) {
            Some(_) => per_layer(file, &kv_key, &widths)?.ok_or_else(|| {
                unsupported("its layers differ in their number of key/value heads".to_owned())
            })?,
            None => n_head,
        };
        if n_head_kv > 0 && !n_head.is_multiple_of(n_head_kv) {
            let problem = format!("{n_head} heads do not share {n_head_kv} key/value heads evenly");
            return Err(file.fault(format!("key {kv_key}"), problem));
        }
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
        Ok(Self {
            n_layer: widths.len(),
            n_head,
            n_head_kv,
            d_head: width / n_head,
            n_embd: usize::try_from(n_embd).unwrap_or(0),
        })
    }
}

/// The input width of every layer's `attn_output`, 0 where a layer has no attention: `[n_layer]`.
pub(crate) fn attention_widths(file: &Gguf) -> Result<Vec<usize>> {
    let architecture = file.str("general.architecture")?;
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
