//! From labelled texts to activations.

pub mod plan;
pub mod store;
