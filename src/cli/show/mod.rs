//! What people see: the terminal's tables and heat maps, plots, pages, JSON.

pub(super) mod again;
pub(super) mod chance;
pub(super) mod document;
pub(super) mod fold;
pub(super) mod gate;
pub(super) mod heads;
pub(super) mod heat;
pub(super) mod html;
pub(super) mod output;
#[cfg(feature = "sight")]
pub(super) mod picture;
pub(super) mod plot;
pub(super) mod reading;
pub(super) mod report;
pub(super) mod seen;
mod style;
pub(super) mod table;
pub(super) mod target;
pub(super) mod words;
