#![doc = include_str!("../docs/src/tutorials/program.md")]
#![deny(missing_docs, unsafe_code)]
// Some of what the modules share only the program uses.
#![warn(clippy::undocumented_unsafe_blocks)]

#[macro_use]
mod setters;

pub mod align;
pub mod bench;
pub mod capture;
pub mod chat;
#[cfg(feature = "cli")]
pub mod cli;
mod content;
pub mod data;
pub mod device;
pub mod engine;
mod error;
pub mod eval;
pub mod export;
#[allow(unsafe_code)]
mod ffi;
mod file;
mod fingerprint;
mod geometry;
pub mod gguf;
pub mod import;
mod json;
pub mod judge;
pub mod ledger;
mod limits;
mod model;
#[cfg(all(feature = "plugin", unix))]
pub mod plugin;
pub mod probe;
pub mod select;
#[cfg(feature = "serve")]
pub mod serve;
pub mod session;
#[cfg(feature = "sight")]
pub mod sight;
mod site;
#[cfg(test)]
mod skipped;
pub mod steer;
pub mod study;
pub mod vision;

pub use content::content;
pub use error::{Error, Result};
pub use ffi::bounded::Bounded;
pub use ffi::host::set_verbose;
#[doc(hidden)]
pub use ffi::rehearsal::Rehearsal;
pub use fingerprint::fingerprint;
pub use geometry::Geometry;
#[doc(hidden)]
pub use limits::check_host_limits;
pub use model::{Model, ModelParams, ModelWarning, Special, SpecialToken};
pub use session::{Session, SessionParams};
pub use site::Site;
