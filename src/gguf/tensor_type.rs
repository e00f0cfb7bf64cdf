//! The element types of tensors.

/// Declares [`TensorType`] from one table: code in the file, ggml's name, elements and bytes per block.
macro_rules! tensor_types {
    ($($variant:ident = $code:literal, $name:literal, $n_block:literal, $n_byte:literal;)*) => {
        /// How the elements of a tensor are stored; ggml's `enum ggml_type` (`ggml.h`).
        ///
        /// Quantized types store a row in blocks of [`block_len`](Self::block_len) elements, each
        /// of [`block_bytes`](Self::block_bytes) bytes; for plain types a block is one element.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[allow(non_camel_case_types, reason = "ggml's names")]
        #[non_exhaustive]
        pub enum TensorType {
            $(
                #[doc = concat!("`", $name, "`: ", $n_block, " element(s) in ", $n_byte, " byte(s).")]
                $variant = $code,
            )*
        }

        impl TensorType {
            /// Every type, by its code.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// ggml's name of the type, as in `q4_0`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Elements per block.
            #[must_use]
            pub const fn block_len(self) -> u64 {
                match self { $(Self::$variant => $n_block,)* }
            }

            /// Bytes per block.
            #[must_use]
            pub const fn block_bytes(self) -> u64 {
                match self { $(Self::$variant => $n_byte,)* }
            }
        }
    };
}

tensor_types! {
    F32     =  0, "f32",       1,   4;
    F16     =  1, "f16",       1,   2;
    Q4_0    =  2, "q4_0",     32,  18;
    Q4_1    =  3, "q4_1",     32,  20;
    Q5_0    =  6, "q5_0",     32,  22;
    Q5_1    =  7, "q5_1",     32,  24;
    Q8_0    =  8, "q8_0",     32,  34;
    Q8_1    =  9, "q8_1",     32,  36;
    Q2_K    = 10, "q2_K",    256,  84;
    Q3_K    = 11, "q3_K",    256, 110;
    Q4_K    = 12, "q4_K",    256, 144;
    Q5_K    = 13, "q5_K",    256, 176;
    Q6_K    = 14, "q6_K",    256, 210;
    Q8_K    = 15, "q8_K",    256, 292;
    IQ2_XXS = 16, "iq2_xxs", 256,  66;
    IQ2_XS  = 17, "iq2_xs",  256,  74;
    IQ3_XXS = 18, "iq3_xxs", 256,  98;
    IQ1_S   = 19, "iq1_s",   256,  50;
    IQ4_NL  = 20, "iq4_nl",   32,  18;
    IQ3_S   = 21, "iq3_s",   256, 110;
    IQ2_S   = 22, "iq2_s",   256,  82;
    IQ4_XS  = 23, "iq4_xs",  256, 136;
    I8      = 24, "i8",        1,   1;
    I16     = 25, "i16",       1,   2;
    I32     = 26, "i32",       1,   4;
    I64     = 27, "i64",       1,   8;
    F64     = 28, "f64",       1,   8;
    IQ1_M   = 29, "iq1_m",   256,  56;
    BF16    = 30, "bf16",      1,   2;
    TQ1_0   = 34, "tq1_0",   256,  54;
    TQ2_0   = 35, "tq2_0",   256,  66;
    MXFP4   = 39, "mxfp4",    32,  17;
    NVFP4   = 40, "nvfp4",    64,  36;
    Q1_0    = 41, "q1_0",    128,  18;
    Q2_0    = 42, "q2_0",     64,  18;
}

impl TensorType {
    /// Bytes that a tensor of these dimensions takes.
    ///
    /// # Errors
    /// What is wrong with `dims`: there must be 1 to 4, none zero, the first a multiple of the
    /// block length, and the size must fit into 63 bits.
    pub(super) fn n_byte(self, dims: &[u64]) -> Result<u64, String> {
        if dims.is_empty() || dims.len() > 4 {
            return Err(format!("has {} dimensions, expected 1 to 4", dims.len()));
        }
        if dims.contains(&0) {
            return Err(format!("has dimensions {dims:?}, expected none to be zero"));
        }
        if !dims[0].is_multiple_of(self.block_len()) {
            return Err(format!(
                "has rows of {} elements, not a multiple of the {} in a block of {}",
                dims[0],
                self.block_len(),
                self.name()
            ));
        }
        dims.iter()
            .try_fold(1, |n: u64, &dim| n.checked_mul(dim))
            .and_then(|n_element| (n_element / self.block_len()).checked_mul(self.block_bytes()))
            .filter(|&n_byte| i64::try_from(n_byte).is_ok())
            .ok_or_else(|| format!("has dimensions {dims:?}, more than can be addressed"))
    }
}

impl TryFrom<u32> for TensorType {
    type Error = u32;

    /// The type with this code, or the code when the linked ggml does not know it.
    fn try_from(code: u32) -> Result<Self, u32> {
        Self::ALL
            .iter()
            .copied()
            .find(|&kind| kind as u32 == code)
            .ok_or(code)
    }
}
