//! Steering for programs that know nothing of candor: what a vector adds, written into files that
//! every llama.cpp program reads.

mod bake;
mod control_vector;

pub use bake::{BAKEABLE, Baked, bake};
pub use control_vector::ControlVector;
