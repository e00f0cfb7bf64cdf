//! candor
#![deny(missing_docs)]

pub mod data;
mod error;
pub mod gguf;
mod site;

pub use error::{Error, Result};
pub use site::Site;
