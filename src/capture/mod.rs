//! From labelled texts to activations: every text's tokens are computed once, shared beginnings
//! included, and the head outputs of its last token go to a store on disk as they come.

mod belongs;
pub mod plan;
mod run;
pub mod store;

pub(crate) use self::run::decode_last_tokens;
pub use self::run::{CaptureParams, Captured, Progress, capture};
pub use self::store::Store;
