//! Quantized rows as floats, by ggml's own conversion.

use std::ffi::c_void;

use llama_cpp_sys_2 as ggml;

use crate::gguf::TensorType;

/// Converts rows of one tensor, one at a time.
pub(crate) struct Dequantizer {
    kind: TensorType,
    to_float: unsafe extern "C" fn(*const c_void, *mut f32, i64),
    /// A row's bytes where any block type may lie: files align to what they please.
    aligned: Vec<u64>,
}

impl Dequantizer {
    /// For rows of this type; `None` where ggml does not convert it. F32 needs no conversion.
    pub(crate) fn new(kind: TensorType) -> Option<Self> {
        if kind == TensorType::F32 {
            return None;
        }
        // SAFETY: the codes of `TensorType` are those of the linked ggml; the table is static.
        let to_float =
            unsafe { ggml::ggml_get_type_traits(kind as ggml::ggml_type).as_ref() }?.to_float?;
        Some(Self { kind, to_float, aligned: Vec::new() })
    }

    /// One row: `row` holds whole blocks, and `out` their elements.
    ///
    /// # Panics
    /// When the lengths do not match.
    pub(crate) fn row(&mut self, row: &[u8], out: &mut [f32]) {
        let n_block = out.len() as u64 / self.kind.block_len();
        assert_eq!(n_block * self.kind.block_len(), out.len() as u64, "whole blocks");
        assert_eq!(n_block * self.kind.block_bytes(), row.len() as u64, "bytes of the row");
        self.aligned.resize(row.len().div_ceil(size_of::<u64>()), 0);
        // SAFETY: `aligned` is at least as long as `row`, does not overlap it, and takes any bytes.
        unsafe {
            std::ptr::copy_nonoverlapping(
                row.as_ptr(),
                self.aligned.as_mut_ptr().cast(),
                row.len(),
            );
        }
        // SAFETY: the source holds the blocks of `out.len()` elements (asserted), aligned for every
        // block type (none needs more than 8 bytes); ggml writes that many floats.
        unsafe {
            (self.to_float)(self.aligned.as_ptr().cast(), out.as_mut_ptr(), out.len() as i64);
        }
    }
}
