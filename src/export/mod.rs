//! Steering for programs that know nothing of candor: what a vector adds, written into files that
//! every llama.cpp program reads.

mod bake;
mod control_vector;
mod nearest;

#[cfg(feature = "cli")]
pub(crate) use bake::check_base;
pub use bake::{Bake, BakeParams, BakeRecord, Baked, Place, bake};
pub use control_vector::{ARCHITECTURE as CONTROL_VECTOR, ControlVector};
pub use nearest::{Method, Nearest, Record, Row, Task, nearest, text_windows};
