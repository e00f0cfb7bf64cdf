//! Pictures: what a vision-language model sees of them, and what it says.

pub mod probe;
pub mod tasks;
