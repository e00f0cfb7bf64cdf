//! How the KV cache is stored.

use std::fmt;
use std::str::FromStr;

use llama_cpp_sys_2 as llama;

use crate::ffi::device::RawDevice;
use crate::ffi::host;
use crate::gguf::TensorType;
use crate::{Error, Model, Result};

/// Storage of the KV cache, keys and values alike: all that llama.cpp offers, by ggml's names.
///
/// Heads are captured and steered in their own terms under each of them. (llama.cpp rotates the
/// values of a quantized cache, and with them the attention output, where heads have a multiple of
/// 64 dimensions; the tap rotates what it adds and rotates back what it reads.) What is captured
/// differs from an F16 cache's by the error of the cache itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(non_camel_case_types, reason = "ggml's names")]
pub enum CacheType {
    /// Half precision, llama.cpp's default.
    #[default]
    F16,
    /// Full precision, for parity tests.
    F32,
    /// Half precision with the range of F32.
    BF16,
    /// Quantized, 8.5 bits a value.
    Q8_0,
    /// Quantized, 6 bits a value.
    Q5_1,
    /// Quantized, 5.5 bits a value.
    Q5_0,
    /// Quantized, 5 bits a value.
    Q4_1,
    /// Quantized, 4.5 bits a value.
    Q4_0,
    /// Quantized to uneven steps, 4.5 bits a value.
    IQ4_NL,
}

impl CacheType {
    /// Every type.
    pub const ALL: [Self; 9] = [
        Self::F16,
        Self::F32,
        Self::BF16,
        Self::Q8_0,
        Self::Q5_1,
        Self::Q5_0,
        Self::Q4_1,
        Self::Q4_0,
        Self::IQ4_NL,
    ];

    /// The same as a type of tensors.
    #[must_use]
    pub fn tensor_type(self) -> TensorType {
        match self {
            Self::F16 => TensorType::F16,
            Self::F32 => TensorType::F32,
            Self::BF16 => TensorType::BF16,
            Self::Q8_0 => TensorType::Q8_0,
            Self::Q5_1 => TensorType::Q5_1,
            Self::Q5_0 => TensorType::Q5_0,
            Self::Q4_1 => TensorType::Q4_1,
            Self::Q4_0 => TensorType::Q4_0,
            Self::IQ4_NL => TensorType::IQ4_NL,
        }
    }

    /// Whether values are stored in blocks of few bits.
    #[must_use]
    pub fn is_quantized(self) -> bool {
        self.tensor_type().block_len() > 1
    }

    pub(super) fn host_type(self) -> llama::ggml_type {
        self.tensor_type() as llama::ggml_type
    }

    /// Refuses what llama.cpp would refuse, with the remedy.
    pub(super) fn check(self, model: &Model, flash_attention: Option<bool>) -> Result<()> {
        if self.is_quantized() && flash_attention == Some(false) {
            let problem = format!("{self} needs flash attention: leave that on, or take f16");
            return Err(Error::invalid("KV cache", problem));
        }
        let (d_head, n_block) = (model.geometry().d_head, self.tensor_type().block_len());
        if !(d_head as u64).is_multiple_of(n_block) {
            return Err(Error::Unsupported {
                architecture: model.architecture().to_owned(),
                problem: format!(
                    "its heads of {d_head} values do not fill the blocks of {n_block} of a {self} \
                     KV cache: take f16"
                ),
            });
        }
        Ok(())
    }
}

/// ggml's name: `q8_0`.
impl fmt::Display for CacheType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.tensor_type().name())
    }
}

impl FromStr for CacheType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|cache| cache.tensor_type().name() == text);
        found.ok_or_else(|| {
            let names = Self::ALL.map(|cache| cache.tensor_type().name());
            Error::invalid("KV cache", format!("`{text}` is none of {}", names.join(", ")))
        })
    }
}

/// Refuses, before anything is allocated, a cache that no device could hold. What a cell takes is
/// bounded from below: llama.cpp's notes on it, and of keys one head of half a byte per value, unless
/// layers look at a window of the text, or workers hold some.
pub(super) fn check_memory(model: &Model, n_cell: usize) -> Result<()> {
    const N_BYTE_NOTES: usize = 48;
    let devices = RawDevice::all();
    let (remote, local): (Vec<_>, Vec<_>) = devices.into_iter().partition(|d| d.is_rpc());
    let is_known = remote.is_empty() && !host::has_window(model.inner()) && !model.is_recurrent();
    let keys = model.attention_layers().count().saturating_mul(model.geometry().d_head) / 2;
    let cell = N_BYTE_NOTES + if is_known { keys } else { 0 };
    let needed = n_cell.saturating_mul(cell);
    let there: usize = local.iter().map(|device| device.memory().1).sum();
    if there == 0 || needed <= there {
        return Ok(());
    }
    let gigabytes = |n: usize| n as f64 / 1e9;
    let problem = format!(
        "{n_cell} tokens take {:.1} GB of cache at least, and all devices have {:.1} GB: lower it \
         (-c)",
        gigabytes(needed),
        gigabytes(there)
    );
    Err(Error::invalid("context size", problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_found_by_its_name() {
        for cache in CacheType::ALL {
            assert_eq!(cache.to_string().parse::<CacheType>().ok(), Some(cache));
        }
        let error = "q3_K".parse::<CacheType>().map_err(|error| error.to_string());
        assert!(error.is_err_and(|text| text.contains("`q3_K`") && text.contains("q8_0, q5_1")));
    }
}
