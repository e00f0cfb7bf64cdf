//! candor
#![deny(missing_docs)]

mod error;
mod ffi;
pub mod gguf;
pub mod probe;
mod site;

pub use error::{Error, Result};
pub use site::Site;
