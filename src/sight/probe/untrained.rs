//! An encoder of the same shape that has learned nothing: what its layers let a probe read is in the
//! picture, and in the shape of the network, not in what it learned.

use std::io::{self, Write};
use std::path::Path;

use half::f16;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::Result;
use crate::gguf::{Builder, Gguf, TensorInfo, TensorType};

/// Writes a projector file with the keys of another and random weights: matrices uniform with a variance
/// of one over the length of their rows, positions of a fiftieth, norms 1 and biases 0.
pub(super) fn write_untrained(like: &Path, path: &Path, seed: u64) -> Result<()> {
    let file = Gguf::open(like)?;
    let mut builder = Builder::new();
    for (key, value) in file.entries() {
        builder.set(key, value.clone());
    }
    for (i, tensor) in file.tensors().iter().enumerate() {
        let rule = Rule::of(tensor);
        // What may be F16 is: half the disk. The others stay F32.
        let kind = match tensor.kind {
            TensorType::F32 => TensorType::F32,
            _ => TensorType::F16,
        };
        let n: u64 = tensor.dims.iter().product();
        builder.tensor_from(&tensor.name, &tensor.dims, kind, move |out| {
            rule.write(out, n, kind, seed.wrapping_add((i as u64) << 32))
        });
    }
    builder.write(path)
}

/// What a tensor is filled with.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Rule {
    Constant(f32),
    /// Uniform, up to so much on either side of zero.
    Uniform(f32),
}

impl Rule {
    fn of(tensor: &TensorInfo) -> Self {
        let is_vector = tensor.dims.iter().filter(|&&n| n > 1).count() <= 1;
        // A uniform distribution up to a has a variance of a² / 3.
        let uniform = |deviation: f64| Self::Uniform((deviation * 3f64.sqrt()) as f32);
        if tensor.name.contains("position_embd") || tensor.name.contains("class_embd") {
            uniform(0.02)
        } else if is_vector {
            let is_bias = tensor.name.ends_with(".bias") || !tensor.name.ends_with(".weight");
            Self::Constant(if is_bias { 0.0 } else { 1.0 })
        } else {
            // A convolution's kernel is as long as all of its dimensions but the last.
            let n_in: u64 = tensor.dims[..tensor.dims.len() - 1].iter().product();
            uniform(1.0 / (n_in.max(1) as f64).sqrt())
        }
    }

    fn write(self, out: &mut dyn Write, n: u64, kind: TensorType, seed: u64) -> io::Result<()> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for _ in 0..n {
            let value = match self {
                Self::Constant(value) => value,
                Self::Uniform(most) => rng.random_range(-most..=most),
            };
            match kind {
                TensorType::F32 => out.write_all(&value.to_le_bytes())?,
                _ => out.write_all(&f16::from_f32(value).to_le_bytes())?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vision::{ProjectorShape, tiny_projector};

    #[test]
    fn has_the_same_shape_and_other_weights() {
        let folder = tempfile::tempdir().unwrap();
        let [like, path] = ["like.gguf", "other.gguf"].map(|name| folder.path().join(name));
        tiny_projector(24).write(&like).unwrap();
        write_untrained(&like, &path, 1).unwrap();
        let [one, other] = [&like, &path].map(|path| Gguf::open(path).unwrap());
        assert_eq!(ProjectorShape::read(&one).unwrap(), ProjectorShape::read(&other).unwrap());
        let values = |name: &str| other.f32s_of(other.tensor(name).unwrap()).unwrap();
        assert!(values("v.post_ln.weight").iter().all(|&x| x == 1.0));
        assert!(values("v.blk.0.attn_q.bias").iter().all(|&x| x == 0.0));
        // [8, 8]: up to the root of 3 / 8.
        let matrix = values("v.blk.0.attn_q.weight");
        assert!(matrix.iter().all(|x| x.abs() <= 0.6124) && matrix.iter().any(|x| x.abs() > 0.4));
        assert_ne!(matrix, values("v.blk.0.attn_k.weight"));
        let again = folder.path().join("again.gguf");
        write_untrained(&like, &again, 1).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&again).unwrap());
    }
}
