//! The demo model and its data, built into the program.

use std::path::PathBuf;

use crate::data::Dataset;
use crate::file::write_atomically;
use crate::{Error, Result};

const MODEL: &[u8] = include_bytes!("../../models/demo.gguf");
const QUESTIONS: &[u8] = include_bytes!("../../models/demo-questions.csv");
const NEUTRAL: &str = include_str!("../../models/demo-neutral.txt");

/// Writes the built-in model into the user's cache folder, once, and gives its path: llama.cpp
/// loads files only, and what is fitted for it is kept beside it.
pub(super) fn model() -> Result<PathBuf> {
    let folder = cache_folder();
    let path = folder.join("demo.gguf");
    if std::fs::read(&path).is_ok_and(|bytes| bytes == MODEL) {
        return Ok(path);
    }
    std::fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
    write_atomically(&path, |out| out.write_all(MODEL))?;
    Ok(path)
}

/// Where candor keeps what it can make again: `$CANDOR_CACHE`, else the user's cache folder.
pub(super) fn cache_folder() -> PathBuf {
    match std::env::var_os("CANDOR_CACHE") {
        Some(folder) => PathBuf::from(folder),
        None => dirs::cache_dir().unwrap_or_else(std::env::temp_dir).join("candor"),
    }
}

/// The demo's questions.
pub(super) fn questions() -> Result<Dataset> {
    Dataset::from_bytes(std::path::Path::new("demo-questions.csv"), QUESTIONS)
}

/// Text that asks nothing, for CE and KL: a document per line.
pub(super) fn neutral() -> Vec<&'static str> {
    NEUTRAL.lines().filter(|line| !line.trim().is_empty()).collect()
}
