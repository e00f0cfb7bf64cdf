//! Steering vectors: directions per head, their arithmetic, and the sidecar file that keeps them.

mod development;
mod direction;
mod fit;
mod selection;
mod sidecar;
mod vector;

pub use development::{Balance, Development, FitParams};
pub use direction::{DirectionKind, sigma};
pub use fit::{SigmaRows, fit_vector, random_vector};
pub use selection::Selection;
#[cfg(test)]
pub(crate) use sidecar::tests::tiny as tiny_sidecar;
pub use sidecar::{About, Positions, Sidecar, default_path, find_beside, list_beside};
pub use vector::{SteeredHead, SteeringVector};
