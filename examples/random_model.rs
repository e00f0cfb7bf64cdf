//! Writes a llama of a named shape with random Q4_0 weights, to measure with: it says nothing, but
//! it computes what a model of that size computes.
//!
//! `cargo run --release --example random_model -- 1.1b random-1.1b-q4_0.gguf [SEED]`

use std::error::Error;
use std::io::{self, Write};
use std::path::Path;

use candor::gguf::{Builder, TensorType};
use half::f16;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What sets the size of a llama.
struct Shape {
    name: &'static str,
    n_layer: u32,
    n_embd: u32,
    n_head: u32,
    n_head_kv: u32,
    d_head: u32,
    n_ff: u32,
    n_vocab: usize,
}

const SHAPES: [Shape; 3] = [
    shape("tiny", [4, 256, 8, 2, 32, 512], 1024),
    // TinyLlama 1.1B
    shape("1.1b", [22, 2048, 32, 4, 64, 5632], 32_000),
    // LLaMA 7B
    shape("7b", [32, 4096, 32, 32, 128, 11_008], 32_000),
];

const fn shape(name: &'static str, sizes: [u32; 6], n_vocab: usize) -> Shape {
    let [n_layer, n_embd, n_head, n_head_kv, d_head, n_ff] = sizes;
    Shape { name, n_layer, n_embd, n_head, n_head_kv, d_head, n_ff, n_vocab }
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (name, path, seed) = match args.as_slice() {
        [name, path] => (name, path, 0),
        [name, path, seed] => (name, path, seed.parse()?),
        _ => return Err("usage: random_model tiny|1.1b|7b OUT.gguf [SEED]".into()),
    };
    let shape = SHAPES.iter().find(|shape| shape.name == name).ok_or("no such shape")?;
    model(shape, seed).write(Path::new(path))?;
    println!("{path}: {} bytes", std::fs::metadata(path)?.len());
    Ok(())
}

/// The file; its matrices are drawn while it is written.
fn model(shape: &Shape, seed: u64) -> Builder<'static> {
    let mut builder = Builder::new();
    builder
        .set("general.architecture", "llama")
        .set("general.name", format!("random {} (seed {seed})", shape.name))
        .set("general.file_type", 2u32)
        .set("llama.context_length", 2048u32)
        .set("llama.block_count", shape.n_layer)
        .set("llama.embedding_length", shape.n_embd)
        .set("llama.feed_forward_length", shape.n_ff)
        .set("llama.attention.head_count", shape.n_head)
        .set("llama.attention.head_count_kv", shape.n_head_kv)
        .set("llama.attention.key_length", shape.d_head)
        .set("llama.attention.value_length", shape.d_head)
        .set("llama.attention.layer_norm_rms_epsilon", 1e-5f32)
        .set("llama.rope.dimension_count", shape.d_head);
    set_vocabulary(&mut builder, shape.n_vocab);

    let [embd, ff, vocab] = [shape.n_embd.into(), shape.n_ff.into(), shape.n_vocab as u64];
    let [query, key] = [shape.n_head, shape.n_head_kv].map(|n| u64::from(n * shape.d_head));
    let mut add = Tensors { builder: &mut builder, seed, n_tensor: 0 };
    add.matrix("token_embd.weight", [embd, vocab], 1.0);
    add.norm("output_norm.weight", embd);
    // Logits a few units apart, so that a model of 32,000 tokens prefers some.
    add.matrix("output.weight", [embd, vocab], 2.0 / (embd as f32).sqrt());
    for il in 0..shape.n_layer {
        for name in ["attn_norm", "ffn_norm"] {
            add.norm(&format!("blk.{il}.{name}.weight"), embd);
        }
        for (name, n_in, n_out) in [
            ("attn_q", embd, query),
            ("attn_k", embd, key),
            ("attn_v", embd, key),
            ("attn_output", query, embd),
            ("ffn_gate", embd, ff),
            ("ffn_up", embd, ff),
            ("ffn_down", ff, embd),
        ] {
            // Normalized inputs give outputs of deviation one, and attention scores of about one:
            // neither uniform nor a single token.
            let sigma = 1.0 / (n_in as f32).sqrt();
            add.matrix(&format!("blk.{il}.{name}.weight"), [n_in, n_out], sigma);
        }
    }
    builder
}

/// Adds tensors, each drawn from a stream of its own.
struct Tensors<'b> {
    builder: &'b mut Builder<'static>,
    seed: u64,
    n_tensor: u64,
}

impl Tensors<'_> {
    fn rng(&mut self) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(self.n_tensor);
        self.n_tensor += 1;
        rng
    }

    /// Weights near one.
    fn norm(&mut self, name: &str, n: u64) {
        let mut rng = self.rng();
        let bytes: Vec<u8> =
            (0..n).flat_map(|_| rng.random_range(0.9f32..1.1).to_le_bytes()).collect();
        self.builder.tensor(name, &[n], TensorType::F32, bytes);
    }

    /// Weights of mean zero and deviation `sigma`.
    fn matrix(&mut self, name: &str, dims: [u64; 2], sigma: f32) {
        let rng = self.rng();
        self.builder.tensor_from(name, &dims, TensorType::Q4_0, move |out| {
            write_q4_0(out, dims, sigma, &mut rng.clone())
        });
    }
}

/// Random blocks of Q4_0: a scale d and 32 nibbles, x = d (q - 8). Of q - 8, equally likely from -8
/// to 7, the deviation is 4.61 and the mean -1/2, which the random sign of d takes away.
fn write_q4_0(
    out: &mut dyn Write,
    dims: [u64; 2],
    sigma: f32,
    rng: &mut ChaCha8Rng,
) -> io::Result<()> {
    const BLOCK: usize = 18;
    let scale = sigma / 4.61;
    let mut row = vec![0; (dims[0] / 32) as usize * BLOCK];
    for _ in 0..dims[1] {
        for block in row.chunks_exact_mut(BLOCK) {
            rng.fill(&mut block[2..]);
            let sign = if rng.random::<bool>() { 1.0 } else { -1.0 };
            block[..2].copy_from_slice(&f16::from_f32(sign * scale).to_le_bytes());
        }
        out.write_all(&row)?;
    }
    Ok(())
}

/// A SentencePiece vocabulary in which every text has tokens: special ones, all bytes, characters,
/// then runs of letters, the short ones first to be merged.
fn set_vocabulary(builder: &mut Builder, n_vocab: usize) {
    const SPACE: &str = "\u{2581}";
    let [normal, unknown, control, byte] = [1i32, 2, 3, 6];
    let special = [("<unk>", unknown), ("<s>", control), ("</s>", control)];
    let special = special.map(|(text, kind)| (text.to_owned(), kind));
    let bytes = (0..=255u8).map(|b| (format!("<0x{b:02X}>"), byte));

    let characters = (' '..='~').map(|c| if c == ' ' { SPACE.to_owned() } else { c.into() });
    let letters: Vec<String> = ('a'..='z').map(String::from).collect();
    let longer = |texts: &[String]| -> Vec<String> {
        texts.iter().flat_map(|a| letters.iter().map(move |b| format!("{a}{b}"))).collect()
    };
    let pairs = longer(&letters);
    let after_space = |texts: &[String]| -> Vec<String> {
        texts.iter().map(|text| format!("{SPACE}{text}")).collect()
    };
    let pieces = characters
        .chain(pairs.clone())
        .chain(after_space(&letters))
        .chain(after_space(&pairs))
        .chain(longer(&pairs))
        .chain(after_space(&longer(&pairs)))
        .map(|text| (text, normal));

    let tokens: Vec<(String, i32)> =
        special.into_iter().chain(bytes).chain(pieces).take(n_vocab).collect();
    let scores: Vec<f32> = (0..tokens.len()).map(|i| -(i as f32)).collect();
    let (texts, kinds): (Vec<String>, Vec<i32>) = tokens.into_iter().unzip();
    builder
        .set("tokenizer.ggml.model", "llama")
        .set("tokenizer.ggml.tokens", texts)
        .set("tokenizer.ggml.scores", scores)
        .set("tokenizer.ggml.token_type", kinds)
        .set("tokenizer.ggml.unknown_token_id", 0u32)
        .set("tokenizer.ggml.bos_token_id", 1u32)
        .set("tokenizer.ggml.eos_token_id", 2u32);
}
