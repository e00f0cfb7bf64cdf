//! The shape of a model's attention.

use serde::Serialize;

use crate::gguf::Gguf;
use crate::{Error, Result};

/// The shape of a model's attention, read from its file and never computed from other numbers:
/// `n_head * d_head` is the input width of the attention's output projection, which in many models
/// is not `n_embd`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct Geometry {
    /// Transformer blocks, without those that only predict tokens further ahead
    /// (`nextn_predict_layers`), which generation does not compute.
    pub n_layer: usize,
    /// Query heads per layer.
    pub n_head: usize,
    /// Key/value heads per layer; the largest number where layers differ.
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
        let key = format!("{architecture}.attention.head_count");
        let n_head = match attending(file, &key, &widths)?.as_slice() {
            [n_head] => *n_head,
            _ => return Err(unsupported("its layers differ in their number of heads".to_owned())),
        };
        let key = format!("{architecture}.attention.head_count_kv");
        let counts = match file.get(&key) {
            Some(_) => attending(file, &key, &widths)?,
            None => vec![n_head],
        };
        if let Some(n) = counts.iter().find(|&&n| n > 0 && !n_head.is_multiple_of(n)) {
            let problem = format!("{n_head} heads do not share {n} key/value heads evenly");
            return Err(file.fault(format!("key {key}"), problem));
        }
        let n_head_kv = counts.last().copied().unwrap_or(0);
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
    let n_block = n_block(file, architecture)?;
    let n_next = file.opt_uint(&format!("{architecture}.nextn_predict_layers"))?.unwrap_or(0);
    let counts = per_layer(file, &format!("{architecture}.attention.head_count_kv"))?;
    let width = |layer: usize| {
        // A projection without key/value heads is a linear layer (DeciLM), not an attention.
        let is_linear = counts.as_ref().is_some_and(|counts| counts.get(layer) == Some(&0));
        let wo = file.tensor(&format!("blk.{layer}.attn_output.weight")).filter(|_| !is_linear);
        wo.and_then(|tensor| usize::try_from(tensor.dims[0]).ok()).unwrap_or(0)
    };
    let n_next = usize::try_from(n_next).unwrap_or(usize::MAX);
    let widths: Vec<usize> = (0..n_block.saturating_sub(n_next)).map(width).collect();
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

/// Key/value heads of a layer.
pub(crate) fn n_head_kv(file: &Gguf, layer: usize) -> Result<usize> {
    let architecture = file.str("general.architecture")?;
    let key = format!("{architecture}.attention.head_count_kv");
    let n = match (per_layer(file, &key)?, file.get(&key)) {
        (Some(counts), _) => counts.get(layer).copied(),
        (None, Some(_)) => Some(file.uint(&key)?),
        (None, None) => Some(Geometry::read(file)?.n_head as u64),
    };
    Ok(n.and_then(|n| usize::try_from(n).ok()).unwrap_or(0))
}

/// Blocks in the file, those that predict tokens further ahead included.
fn n_block(file: &Gguf, architecture: &str) -> Result<usize> {
    let key = format!("{architecture}.block_count");
    let n_block = file.uint(&key)?;
    if n_block > file.tensors().len() as u64 {
        let problem = format!("{n_block} layers, but only {} tensors", file.tensors().len());
        return Err(file.fault(format!("key {key}"), problem));
    }
    Ok(usize::try_from(n_block).unwrap_or(0))
}

/// A count for each block, `[n_block]`; `None` where the key is missing or holds one for all.
fn per_layer(file: &Gguf, key: &str) -> Result<Option<Vec<u64>>> {
    let Ok(Some(counts)) = file.opt_uints(key) else {
        return Ok(None);
    };
    let n_block = n_block(file, file.str("general.architecture")?)?;
    if counts.len() != n_block {
        let problem = format!("{} entries for {n_block} layers", counts.len());
        return Err(file.fault(format!("key {key}"), problem));
    }
    Ok(Some(counts))
}

/// The different counts that the attention layers have, ascending.
fn attending(file: &Gguf, key: &str, widths: &[usize]) -> Result<Vec<usize>> {
    let counts = match per_layer(file, key)? {
        None => vec![file.uint(key)?],
        Some(counts) => {
            counts.iter().zip(widths).filter(|&(_, &w)| w > 0).map(|(&n, _)| n).collect()
        }
    };
    let mut counts: Vec<usize> =
        counts.into_iter().map(|n| usize::try_from(n).unwrap_or(usize::MAX)).collect();
    counts.sort_unstable();
    counts.dedup();
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{Builder, TensorType, Value};

    /// What is read of a file with these entries, and an output projection of this width in each
    /// layer (0: none).
    fn read(widths: &[u64], entries: &[(&str, Value)]) -> Result<(Geometry, Vec<usize>)> {
        let mut builder = Builder::new();
        builder
            .set("general.architecture", "x")
            .set("x.block_count", widths.len() as u32)
            .set("x.embedding_length", 8u32)
            .set("x.attention.head_count", 4u32);
        for (key, value) in entries {
            builder.set(&format!("x.{key}"), value.clone());
        }
        for (layer, &width) in widths.iter().enumerate() {
            let (name, width) = if width > 0 { ("attn_output", width) } else { ("ssm_out", 8) };
            let bytes = vec![0; 8 * 4 * width as usize];
            builder.tensor(
                &format!("blk.{layer}.{name}.weight"),
                &[width, 8],
                TensorType::F32,
                bytes,
            );
        }
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.gguf");
        builder.write(&path)?;
        let file = Gguf::open(&path)?;
        Ok((Geometry::read(&file)?, attention_widths(&file)?))
    }

    fn refusal(widths: &[u64], entries: &[(&str, Value)]) -> String {
        read(widths, entries).expect_err("it is refused").to_string()
    }

    #[test]
    fn layers_without_a_projection_or_without_keys_have_no_attention() {
        let (geometry, widths) = read(&[0, 16, 0], &[]).unwrap();
        assert_eq!((geometry.n_layer, geometry.d_head, widths), (3, 4, vec![0, 16, 0]));
        // A linear layer has a projection, of another width.
        let counts = Value::from(vec![2u32, 0, 1]);
        let (geometry, widths) =
            read(&[16, 8, 16], &[("attention.head_count_kv", counts)]).unwrap();
        assert_eq!((geometry.n_head_kv, geometry.d_head, widths), (2, 4, vec![16, 0, 16]));
        let heads = Value::from(vec![4u32, 0, 4]);
        assert_eq!(read(&[16, 0, 16], &[("attention.head_count", heads)]).unwrap().0.n_head, 4);
    }

    #[test]
    fn blocks_that_predict_further_tokens_do_not_count() {
        let next = |n: u32| ("nextn_predict_layers", Value::from(n));
        let (geometry, widths) = read(&[16, 16, 24], &[next(1)]).unwrap();
        assert_eq!((geometry.n_layer, widths), (2, vec![16, 16]));
        for n in [3, u32::MAX] {
            assert!(refusal(&[16, 16, 24], &[next(n)]).contains("no layer has an attention"));
        }
    }

    #[test]
    fn refuses_layers_that_differ_and_models_without_attention() {
        let heads = ("attention.head_count", Value::from(vec![4u32, 2]));
        assert!(refusal(&[16, 16], &[heads]).contains("differ in their number of heads"));
        assert!(refusal(&[16, 32], &[]).contains("differ in the width"));
        assert!(refusal(&[18], &[]).contains("width 18 does not divide into 4 heads"));
        assert!(refusal(&[0, 0], &[]).contains("`x`: no layer has an attention output"));
        let counts = ("attention.head_count_kv", Value::from(vec![2u32]));
        assert!(refusal(&[16, 16], &[counts]).contains("1 entries for 2 layers"));
        let counts = ("attention.head_count_kv", Value::from(vec![2u32, 3]));
        assert!(refusal(&[16, 16], &[counts]).contains("do not share 3 key/value heads"));
    }
}
