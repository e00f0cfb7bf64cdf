//! What the fuzz targets call: the functions that `cargo test` replays the corpora through.

#[path = "../../tests/common/parsers.rs"]
pub mod parsers;
