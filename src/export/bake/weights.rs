//! Tensors of a model's file, read piece by piece: a bake holds no more of a model in memory.

use std::io::{self, BufReader, Read, Write};

use crate::ffi::dequantize::Dequantizer;
use crate::gguf::{Gguf, TensorInfo, TensorType};
use crate::{Error, Result};

/// Bytes that are read at once.
const PIECE: usize = 1 << 20;

/// Copies a tensor's bytes.
pub(super) fn copy(file: &Gguf, tensor: &TensorInfo, out: &mut dyn Write) -> io::Result<()> {
    let mut reader = file.reader(tensor);
    let mut piece = vec![0; PIECE.min(usize::try_from(tensor.n_byte).unwrap_or(PIECE))];
    loop {
        let n = match reader.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                let base = file.path().display();
                return Err(io::Error::new(error.kind(), format!("cannot read {base}: {error}")));
            }
        };
        out.write_all(&piece[..n])?;
    }
}

/// Calls `each` with the rows of a tensor as floats, one at a time.
pub(super) fn for_each_row(
    file: &Gguf,
    tensor: &TensorInfo,
    mut each: impl FnMut(&[f32]),
) -> Result<()> {
    let mut dequantizer = match tensor.kind {
        TensorType::F32 => None,
        kind => Some(Dequantizer::new(kind).ok_or_else(|| {
            let problem = format!("ggml does not convert {} to floats", kind.name());
            file.fault(format!("tensor {}", tensor.name), problem)
        })?),
    };
    // A tensor's bytes lie in the file, which is mapped, so a row's length is a usize.
    let n = usize::try_from(tensor.dims[0]).unwrap_or(usize::MAX);
    let n_byte = tensor.dims[0] / tensor.kind.block_len() * tensor.kind.block_bytes();
    let mut row = vec![0u8; usize::try_from(n_byte).unwrap_or(usize::MAX)];
    let mut values = vec![0f32; n];
    let mut reader = BufReader::with_capacity(PIECE, file.reader(tensor));
    for _ in 0..tensor.n_byte / n_byte {
        reader.read_exact(&mut row).map_err(Error::io("read", file.path()))?;
        match &mut dequantizer {
            Some(dequantizer) => dequantizer.row(&row, &mut values),
            None => {
                let (words, _) = row.as_chunks();
                values.iter_mut().zip(words).for_each(|(x, word)| *x = f32::from_le_bytes(*word));
            }
        }
        each(&values);
    }
    Ok(())
}

/// Adds the bias of that name, where the file has it.
pub(super) fn add_present(file: &Gguf, name: &str, sums: &mut [f64]) -> Result<()> {
    let Some(present) = file.tensor(name) else { return Ok(()) };
    let mut values = Vec::new();
    for_each_row(file, present, |row| values.extend(row.iter().map(|&x| f64::from(x))))?;
    if values.len() != sums.len() {
        let problem = format!("has {} values, expected {}", values.len(), sums.len());
        return Err(file.fault(format!("tensor {name}"), problem));
    }
    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
    Ok(())
}
