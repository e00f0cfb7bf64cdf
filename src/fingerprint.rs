//! What tells one model from another, whatever its quantization.

use crate::Result;
use crate::data::sha256;
use crate::gguf::{Gguf, TensorType};

/// The first field of what is hashed; another scheme would write another name here.
const SCHEME: &str = "candor model fingerprint 1";

/// The geometry keys, each behind the architecture's name.
const GEOMETRY: [&str; 7] = [
    "block_count",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
];

/// The fingerprint of a model: 64 hexadecimal digits, the same for every quantization of one model
/// and different for every other model.
///
/// It is the SHA-256 of these fields, each written as its length in bytes (U64, little-endian) and
/// its bytes: the scheme's name; `general.architecture`; the geometry keys in the order above, each
/// with its numbers (U64 each, none where the key is missing); `tokenizer.ggml.model`, `.tokens`,
/// `.token_type` and `.merges`; and name, dimensions (U64 each) and elements of every F32 tensor
/// whose name ends in `norm.weight` or `norm.bias`, ordered by name: quantizers leave these alone.
/// Lists of strings are preceded by a field with their number, U64.
///
/// # Errors
/// [`Error::Gguf`](crate::Error::Gguf) when the file has no architecture or a key is of another
/// kind.
pub fn fingerprint(gguf: &Gguf) -> Result<String> {
    let architecture = gguf.str("general.architecture")?;
    let mut fields = Fields::default();
    fields.add(SCHEME.as_bytes());
    fields.add(architecture.as_bytes());
    for key in GEOMETRY {
        fields.numbers(&counts(gguf, &format!("{architecture}.{key}"))?);
    }
    fields.add(gguf.opt_str("tokenizer.ggml.model")?.unwrap_or_default().as_bytes());
    fields.strings(gguf.opt_strings("tokenizer.ggml.tokens")?.unwrap_or_default());
    let types = gguf.opt_uints("tokenizer.ggml.token_type")?.unwrap_or_default();
    fields.numbers(&types);
    fields.strings(gguf.opt_strings("tokenizer.ggml.merges")?.unwrap_or_default());

    let is_norm = |name: &str| name.ends_with("norm.weight") || name.ends_with("norm.bias");
    let mut norms: Vec<_> = gguf
        .tensors()
        .iter()
        .filter(|tensor| tensor.kind == TensorType::F32 && is_norm(&tensor.name))
        .collect();
    norms.sort_by(|a, b| a.name.cmp(&b.name));
    for norm in norms {
        fields.add(norm.name.as_bytes());
        fields.numbers(&norm.dims);
        fields.add(gguf.bytes(norm));
    }
    Ok(sha256(&fields.0))
}

/// The numbers of a key that holds one for the model or one per layer; none where it is missing.
fn counts(gguf: &Gguf, key: &str) -> Result<Vec<u64>> {
    match gguf.get(key).and_then(|value| value.as_uint()) {
        Some(number) => Ok(vec![number]),
        None => Ok(gguf.opt_uints(key)?.unwrap_or_default()),
    }
}

/// What is hashed.
#[derive(Default)]
struct Fields(Vec<u8>);

impl Fields {
    /// Adds a field, with its length, so that no two lists of fields give the same bytes.
    fn add(&mut self, bytes: &[u8]) {
        self.0.extend((bytes.len() as u64).to_le_bytes());
        self.0.extend(bytes);
    }

    fn numbers(&mut self, numbers: &[u64]) {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.add(&bytes);
    }

    fn strings(&mut self, strings: &[String]) {
        self.numbers(&[strings.len() as u64]);
        strings.iter().for_each(|string| self.add(string.as_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::Builder;

    fn model() -> Builder<'static> {
        let mut builder = Builder::new();
        builder
            .set("general.architecture", "llama")
            .set("llama.block_count", 1u32)
            .set("llama.attention.head_count", 4u32)
            .set("tokenizer.ggml.model", "gpt2")
            .set("tokenizer.ggml.tokens", vec!["ab".to_owned(), "c".to_owned()])
            .set("tokenizer.ggml.token_type", vec![1i32, 3]);
        builder
    }

    fn with_tensors(mut builder: Builder<'static>, norm: f32, kind: TensorType) -> String {
        let n_byte = kind.block_bytes() as usize;
        builder
            .tensor("blk.0.attn_norm.weight", &[1], TensorType::F32, norm.to_le_bytes().to_vec())
            .tensor("blk.0.attn_q.weight", &[kind.block_len()], kind, vec![0; n_byte]);
        fingerprint_of(&builder).unwrap()
    }

    fn fingerprint_of(builder: &Builder) -> Result<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        builder.write(&path).unwrap();
        fingerprint(&Gguf::open(&path)?)
    }

    #[test]
    fn is_the_same_for_every_quantization() {
        let plain = with_tensors(model(), 1.0, TensorType::F32);
        assert_eq!(plain.len(), 64);
        assert_eq!(plain, with_tensors(model(), 1.0, TensorType::Q4_0));
        let mut quantized = model();
        quantized.set("general.file_type", 2u32).set("general.quantization_version", 2u32);
        assert_eq!(plain, with_tensors(quantized, 1.0, TensorType::Q8_0));
    }

    #[test]
    fn is_another_for_every_other_model() {
        let other = |key: &str, value: crate::gguf::Value| {
            let mut builder = model();
            builder.set(key, value);
            with_tensors(builder, 1.0, TensorType::F32)
        };
        let mut all = vec![
            with_tensors(model(), 1.0, TensorType::F32),
            with_tensors(model(), 1.5, TensorType::F32),
            other("general.architecture", "qwen2".into()),
            other("llama.block_count", 2u32.into()),
            other("llama.attention.head_count", vec![4u32, 4].into()),
            other("llama.attention.value_length", 4u32.into()),
            other("tokenizer.ggml.model", "llama".into()),
            other("tokenizer.ggml.tokens", vec!["a".to_owned(), "bc".to_owned()].into()),
            other("tokenizer.ggml.token_type", vec![1i32, 1].into()),
            other("tokenizer.ggml.merges", vec!["a b".to_owned()].into()),
        ];
        let n_model = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), n_model);
    }

    #[test]
    fn does_not_depend_on_the_order_of_tensors() {
        let with = |names: [&str; 2]| {
            let mut builder = model();
            for name in names {
                builder.tensor(name, &[1], TensorType::F32, vec![name.len() as u8; 4]);
            }
            fingerprint_of(&builder).unwrap()
        };
        assert_eq!(with(["a_norm.weight", "b_norm.bias"]), with(["b_norm.bias", "a_norm.weight"]));
    }

    #[test]
    fn refuses_a_file_without_architecture() {
        let error = fingerprint_of(&Builder::new()).unwrap_err().to_string();
        assert!(error.contains("key general.architecture: is missing"), "{error}");
    }
}
