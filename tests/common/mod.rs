//! What integration tests share: tiny random models, a slow and readable forward pass to compare
//! with, and stock llama.cpp.

// Every test binary compiles this module and uses its own part of it.
#![allow(dead_code)]

pub mod biases;
#[cfg(feature = "cli")]
pub mod browser;
pub mod checks;
pub mod control;
pub mod decided;
pub mod fixture;
pub mod heads;
pub mod host;
pub mod leaning;
pub mod oracle;
pub mod place;
#[cfg(feature = "cli")]
pub mod program;
pub mod quantize;
pub mod requantize;
pub mod script;
#[cfg(feature = "sight")]
pub mod seeing;
pub mod sequences;
#[cfg(feature = "cli")]
pub mod served;
pub mod server;
pub mod sidecar;
#[cfg(feature = "sight")]
pub mod sight_oracle;
pub mod steering;
pub mod twins;
#[cfg(feature = "cli")]
pub mod worker;

#[path = "../../src/skipped.rs"]
mod skipped_tests;

use std::path::{Path, PathBuf};

use candor::{Model, ModelParams};

#[allow(unused_imports, reason = "every test binary uses its own part")]
pub use self::skipped_tests::skipped;

/// Loads a model, and keeps llama.cpp's log off the screen.
pub fn opened(path: &Path, params: &ModelParams) -> candor::Result<Model> {
    candor::set_verbose(false);
    Model::load(path, params)
}

/// Loads a model on the processor.
pub fn load(path: &Path) -> Model {
    let params = ModelParams::default().with_n_gpu_layers(Some(0));
    opened(path, &params).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A file of the folder `shared` beside the repository; where it is absent, says so and gives
/// `None`, and the test ends there.
pub fn shared(path: &str) -> Option<PathBuf> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared")).join(path);
    if path.exists() {
        return Some(path);
    }
    skipped("shared", &format!("{} is absent", path.display()));
    None
}
