//! Steering for programs that know nothing of candor: what a vector adds, written into files that
//! every llama.cpp program reads.

mod bake;

pub use bake::{BAKEABLE, Baked, bake};
