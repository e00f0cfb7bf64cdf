//! The demo model and its data, built into the program.

use std::path::{Path, PathBuf};

use crate::cli::folders::{cache_folder, no_cache};
use crate::cli::hub;
use crate::data::Dataset;
use crate::eval::neutral_prose;
use crate::file::write_atomically;
use crate::gguf::Gguf;
use crate::{Error, Result};

const MODEL: &[u8] = include_bytes!("../../models/demo.gguf");
const VECTOR: &[u8] = include_bytes!("../../models/demo-vector.gguf");
const VECTOR_NAME: &str = "demo-vector.gguf";
const QUESTIONS: &[u8] = include_bytes!("../../models/demo-questions.csv");
const STORIES: &str = include_str!("../../models/demo-neutral.txt");

#[cfg(feature = "sight")]
const SIGHT: [(&str, &[u8]); 2] = [
    ("sight.gguf", include_bytes!("../../models/sight.gguf")),
    ("sight-mmproj.gguf", include_bytes!("../../models/sight-mmproj.gguf")),
];

/// What the built-in model, and others of its small world, are called in their files.
const FAMILY: &str = "candor demo";

/// Writes the built-in model into the user's cache folder, once, and gives its path: llama.cpp
/// loads files only, and what is fitted for it is kept beside it.
fn model() -> Result<PathBuf> {
    unpacked("demo.gguf", MODEL)
}

/// A vector for the built-in model, for those who have not fitted one yet. Its name is not that of a
/// sidecar beside the model, so that what is fitted comes first.
pub(in crate::cli) fn vector() -> Result<PathBuf> {
    unpacked(VECTOR_NAME, VECTOR)
}

/// Whether this is the file of [`vector`].
pub(in crate::cli) fn is_vector(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == VECTOR_NAME)
        && vector().is_ok_and(|vector| vector == path)
}

/// The built-in model that sees, and its projector, in a folder of their own: beside the other model the
/// projector would be taken for that one's.
#[cfg(feature = "sight")]
pub(in crate::cli) fn sight_model() -> Result<(PathBuf, PathBuf)> {
    let folder = cache_folder("sight-model")?;
    let [model, projector] = SIGHT.map(|(name, content)| unpacked_at(folder.join(name), content));
    Ok((model?, projector?))
}

/// A file of the cache folder with these bytes.
fn unpacked(name: &str, content: &[u8]) -> Result<PathBuf> {
    unpacked_at(cache_folder("")?.join(name), content)
}

fn unpacked_at(path: PathBuf, content: &[u8]) -> Result<PathBuf> {
    if std::fs::read(&path).is_ok_and(|bytes| bytes == content) {
        return Ok(path);
    }
    match write_atomically(&path, |out| out.write_all(content)) {
        Err(Error::Io { source, .. }) => Err(no_cache(&path, &source)),
        written => written.map(|()| path),
    }
}

/// The file of a model: the one that was named, by path or as one on a hub, or the built-in one's.
pub(in crate::cli) fn model_or(named: Option<&PathBuf>) -> Result<PathBuf> {
    match named {
        Some(path) => hub::name(path).map_or_else(|| Ok(path.clone()), hub::model),
        None => model(),
    }
}

/// The demo's questions.
pub(in crate::cli) fn questions() -> Result<Dataset> {
    Dataset::from_bytes(std::path::Path::new("demo-questions.csv"), QUESTIONS)
}

/// Stories in the words of the built-in model that ask nothing, for CE and KL.
pub(in crate::cli) fn stories() -> Vec<&'static str> {
    documents(STORIES)
}

/// Neutral prose and fits a model, by its file, `None` for the built-in one; and what it is.
/// The built-in stories are for models that know no other words, plain English prose for the rest.
pub(in crate::cli) fn neutral(model: Option<&Path>) -> (Vec<&'static str>, &'static str) {
    // Of a file that cannot be read, whoever loads it says more.
    let name = |path| Some(Gguf::open_model(path).ok()?.opt_str("general.name").ok()??.to_owned());
    let is_family = model.is_none_or(|path| name(path).as_deref() == Some(FAMILY));
    match is_family {
        true => (documents(STORIES), "short stories in the built-in model's words"),
        false => (neutral_prose(), "plain English prose (built in; --neutral FILE names another)"),
    }
}

/// A document per line.
fn documents(text: &'static str) -> Vec<&'static str> {
    text.lines().filter(|line| !line.trim().is_empty()).collect()
}
