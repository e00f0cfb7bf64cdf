//! Steering for programs that know nothing of candor: what a vector adds, written into files that
//! every llama.cpp program reads.

mod bake;

#[cfg(feature = "cli")]
pub(crate) use bake::check_base;
pub use bake::{Bake, BakeParams, BakeRecord, Baked, Place, bake};
