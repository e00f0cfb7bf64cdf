//! A model that says yes or no.

use std::path::{Path, PathBuf};

use candor::gguf::{Builder, Gguf};

use super::fixture::{Arch, Fixture};

/// Writes a model that says yes or no and hardly anything else.
pub fn decided(folder: &Path) -> PathBuf {
    let file = Gguf::open(&Fixture::new(Arch::Llama).write(folder)).unwrap();
    let key = "tokenizer.ggml.tokens";
    let tokens = file.strings(key).unwrap();
    let mut tokens: Vec<String> = tokens.iter().map(|token| (*token).to_owned()).collect();
    let mut kinds: Vec<i32> = vec![1; tokens.len()];
    kinds[0] = 2;
    kinds[1..3].fill(3);
    kinds[3..259].fill(6);
    // In place of bytes that nobody writes: the words, and what they are merged from.
    let words = ["\u{2581}y", "\u{2581}yes", "\u{2581}n", "\u{2581}no"];
    for (at, word) in (3..).zip(words) {
        tokens[at] = word.to_owned();
        kinds[at] = 1;
    }
    let mut builder = Builder::new();
    for (key, value) in file.entries() {
        builder.set(key, value.clone());
    }
    builder.set(key, tokens).set("tokenizer.ggml.token_type", kinds);
    for tensor in file.tensors() {
        let mut bytes = file.bytes(tensor).to_vec();
        if tensor.name == "output.weight" {
            // Far apart from each other and from all else, wherever the model is.
            let n = bytes.len() / tensor.dims[1] as usize;
            let row = file.f32s_of(tensor).unwrap()[4 * n / 4..5 * n / 4].to_vec();
            for (at, scale) in [(4, 60.0), (6, -60.0)] {
                let row: Vec<u8> = row.iter().flat_map(|x| (scale * x).to_le_bytes()).collect();
                bytes[at * n..(at + 1) * n].copy_from_slice(&row);
            }
        }
        builder.tensor(&tensor.name, &tensor.dims, tensor.kind, bytes);
    }
    let path = folder.join("decided.gguf");
    builder.write(&path).unwrap();
    path
}
