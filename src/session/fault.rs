//! What the tap complains of, in words for users.

use crate::ffi::tap::TapError;
use crate::{Error, Model};

/// Gives the tap's complaint a name that users know.
pub(super) fn tap_error(model: &Model, error: TapError) -> Error {
    let architecture = model.architecture().to_owned();
    match error {
        TapError::NoMemory => Error::Decode {
            action: "allocate the steering bank",
            problem: "the device of a layer is out of memory".to_owned(),
        },
        TapError::BadArgument => {
            Error::invalid("row, layer or batch", "out of the session's range")
        }
        TapError::WrongWidth { layer, got } => Error::Width {
            architecture,
            layer,
            expected: model.widths().get(layer).copied().unwrap_or(0),
            got,
        },
        TapError::WrongType { layer } => Error::Unsupported {
            architecture,
            problem: format!("the attention output of layer {layer} is not contiguous F32"),
        },
        TapError::Rotated { layer } => Error::Unsupported {
            architecture,
            problem: format!("layer {layer} was steered before it was known to be rotated"),
        },
        TapError::Misordered => Error::Unsupported {
            architecture,
            problem: "llama.cpp computed the tokens of several sequences in an order that was not \
                      foreseen, so that they may have been steered by each other's vectors: \
                      decode one sequence at a time"
                .to_owned(),
        },
        TapError::Miscount { layer, got: 0 } => {
            Error::TapSilent { architecture, layers: vec![layer] }
        }
        TapError::Miscount { layer, got } => Error::Unsupported {
            architecture,
            problem: format!(
                "layer {layer} computed {got} tokens of a batch that has another number"
            ),
        },
    }
}
