//! Weights as GGUF stores them: F32, and ggml's simplest block types (`ggml-common.h`).

use candor::gguf::TensorType;
use half::f16;

/// Elements per block of Q8_0 and Q4_0.
const BLOCK: usize = 32;

/// The bytes of a tensor of these values; F32, Q8_0 or Q4_0.
pub fn quantize(values: &[f32], kind: TensorType) -> Vec<u8> {
    match kind {
        TensorType::F32 => values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect(),
        TensorType::Q8_0 => values.chunks_exact(BLOCK).flat_map(q8_0).collect(),
        TensorType::Q4_0 => values.chunks_exact(BLOCK).flat_map(q4_0).collect(),
        _ => panic!("no test needs {}", kind.name()),
    }
}

/// A scale and 32 signed bytes: `x = scale * q`.
fn q8_0(block: &[f32]) -> Vec<u8> {
    let scale = largest(block).abs() / 127.0;
    let quants = block
        .iter()
        .map(|value| (value / scale).round() as i8 as u8);
    f16::from_f32(scale)
        .to_le_bytes()
        .into_iter()
        .chain(quants)
        .collect()
}

/// A scale and 32 nibbles, the first half of the block in the low ones: `x = scale * (q - 8)`.
fn q4_0(block: &[f32]) -> Vec<u8> {
    let scale = largest(block) / -8.0;
    let quant = |value: f32| ((value / scale).round() + 8.0).clamp(0.0, 15.0) as u8;
    let (low, high) = block.split_at(BLOCK / 2);
    let quants = low
        .iter()
        .zip(high)
        .map(|(&low, &high)| quant(low) | quant(high) << 4);
    f16::from_f32(scale)
        .to_le_bytes()
        .into_iter()
        .chain(quants)
        .collect()
}

/// The value of the largest magnitude, with its sign.
fn largest(block: &[f32]) -> f32 {
    block
        .iter()
        .copied()
        .max_by(|a, b| a.abs().total_cmp(&b.abs()))
        .expect("blocks have elements")
}
