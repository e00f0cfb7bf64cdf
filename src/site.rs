//! The address of an attention head.

use serde::{Deserialize, Serialize};

/// One attention head of one layer, both counted from 0.
///
/// Its output is `x_h,l(t)` of the ITI paper: F32 `[d_head]`, the slice
/// `head * d_head .. (head + 1) * d_head` of llama.cpp's `kqv_out-<layer>`, before `wo`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct Site {
    /// Layer, `0..n_layer`; llama.cpp's `il`.
    pub layer: usize,
    /// Head within the layer, `0..n_head`.
    pub head: usize,
}

impl Site {
    /// The head `head` of layer `layer`.
    #[must_use]
    pub const fn new(layer: usize, head: usize) -> Self {
        Self { layer, head }
    }
}

impl std::fmt::Display for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.layer, self.head)
    }
}
