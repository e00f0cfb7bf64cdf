//! Arguments that several subcommands share, and what they become.

pub(super) mod activations;
pub(super) mod align;
pub(super) mod asking;
pub(super) mod common;
pub(super) mod judge;
pub(super) mod parts;
#[cfg(feature = "sight")]
pub(super) mod pictures;
pub(super) mod provenance;
pub(super) mod select;
pub(super) mod words;
