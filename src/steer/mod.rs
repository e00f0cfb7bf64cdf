//! Steering vectors: directions per head and per layer, their arithmetic, and the sidecar file that keeps them.

mod calibrate;
mod development;
mod direction;
mod fit;
mod layers;
mod method;
mod mix;
mod push;
mod reader;
mod selection;
mod sidecar;
mod strength;
mod vector;

pub use development::{Balance, Development, FitParams, SIGMA_ROWS, SigmaFrom};
#[cfg(feature = "cli")]
pub(crate) use direction::length;
pub(crate) use direction::unit;
pub use direction::{DirectionKind, sigma};
pub use fit::{SigmaRows, fit_vector, random_vector};
pub use layers::LayerVector;
pub(crate) use layers::add;
pub use method::Method;
pub use push::Push;
pub use reader::Reader;
pub use selection::Selection;
#[cfg(all(test, feature = "endpoint"))]
pub(crate) use sidecar::tests::tiny as tiny_sidecar;
pub use sidecar::{
    About, Evidence, FitRecord, Positions, Sidecar, default_path, find_beside, list_beside,
};
pub use vector::{SteeredHead, SteeringVector};
