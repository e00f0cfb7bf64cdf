//! What the tap complains of, in words for users.

use crate::ffi::tap::{Kind, TapError};
use crate::{Error, Model};

/// What to do where layers' outputs cannot be steered.
const REMEDY: &str = "use a vector of heads, or a model of another architecture";

/// Layers whose outputs cannot be steered.
pub(super) fn silent_outputs(architecture: String, layers: &[usize]) -> Error {
    let problem = format!(
        "llama.cpp applies no control vector in layer(s) {layers:?}, so that their directions \
         would be lost: {REMEDY}"
    );
    Error::Unsupported { architecture, problem }
}

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
        TapError::WrongWidth { kind: Kind::Output, layer, got } => {
            let n_embd = model.geometry().n_embd;
            let problem = if got == n_embd {
                format!("the output of layer {layer} has several parts: {REMEDY}")
            } else {
                format!("the output of layer {layer} has {got} values, not {n_embd}: {REMEDY}")
            };
            Error::Unsupported { architecture, problem }
        }
        TapError::WrongWidth { kind: Kind::Heads, layer, got } => Error::Width {
            architecture,
            layer,
            expected: model.widths().get(layer).copied().unwrap_or(0),
            got,
        },
        TapError::WrongType { kind, layer } => {
            let what = if kind == Kind::Heads { "attention output" } else { "output" };
            let problem = format!("the {what} of layer {layer} is not contiguous F32");
            Error::Unsupported { architecture, problem }
        }
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
        TapError::NotComputed { layer } => {
            let problem = format!(
                "the output of layer {layer} is computed for tokens whose logits are wanted: mark those \
                 that are observed with Batch::output"
            );
            Error::invalid("tokens to observe", problem)
        }
        TapError::EditFailed => Error::Decode {
            action: "edit",
            problem: "the editor gave no further reason".to_owned(),
        },
        TapError::Miscount { kind: Kind::Output, layer, got: 0 } => {
            silent_outputs(architecture, &[layer])
        }
        TapError::Miscount { kind: Kind::Heads, layer, got: 0 } => {
            Error::TapSilent { architecture, layers: vec![layer] }
        }
        TapError::Miscount { layer, got, .. } => Error::Unsupported {
            architecture,
            problem: format!(
                "layer {layer} computed {got} tokens of a batch that has another number"
            ),
        },
    }
}
