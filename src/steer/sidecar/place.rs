//! Where sidecars lie: beside their model, `steer-<name>-<model file stem>.gguf`.

use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The path of a model's sidecar of the given name.
///
/// # Errors
/// [`Error::Invalid`] when the name is empty or would lead out of the model's folder.
pub fn default_path(model: &Path, name: &str) -> Result<PathBuf> {
    if name.is_empty() || name.contains(['/', '\\']) {
        return Err(Error::invalid("name", format!("`{name}` cannot be part of a file name")));
    }
    Ok(model.with_file_name(format!("steer-{name}{}", suffix(model))))
}

/// The sidecar beside a model, where there is exactly one.
///
/// # Errors
/// [`Error::Invalid`], listing them, when there are several; [`Error::Io`] when the folder cannot be
/// read.
pub fn find_beside(model: &Path) -> Result<Option<PathBuf>> {
    let mut found = list_beside(model)?;
    if found.len() > 1 {
        let list: Vec<String> = found.iter().map(|path| path.display().to_string()).collect();
        return Err(Error::invalid(
            "sidecar",
            format!(
                "there are several beside the model, choose one with --steer FILE: {}",
                list.join(", ")
            ),
        ));
    }
    Ok(found.pop())
}

/// All sidecars beside a model, by their names alone, in alphabetical order.
///
/// # Errors
/// [`Error::Io`] when the folder cannot be read.
pub fn list_beside(model: &Path) -> Result<Vec<PathBuf>> {
    let folder = model.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    let suffix = suffix(model);
    let is_sidecar = |name: &str| {
        let rest = name.strip_prefix("steer-").and_then(|rest| rest.strip_suffix(&suffix));
        rest.is_some_and(|name| !name.is_empty())
    };
    let mut found = Vec::new();
    for entry in folder.read_dir().map_err(Error::io("read", folder))? {
        let name = entry.map_err(Error::io("read", folder))?.file_name();
        if name.to_str().is_some_and(is_sidecar) {
            found.push(model.with_file_name(name));
        }
    }
    found.sort();
    Ok(found)
}

/// How the names of a model's sidecars end.
fn suffix(model: &Path) -> String {
    format!("-{}.gguf", model.file_stem().unwrap_or_default().to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lies_beside_the_model() {
        let path = |model: &str| default_path(Path::new(model), "truth").unwrap();
        assert_eq!(path("/m/llama.Q4_0.gguf"), Path::new("/m/steer-truth-llama.Q4_0.gguf"));
        assert_eq!(path("llama.gguf"), Path::new("steer-truth-llama.gguf"));
        assert!(default_path(Path::new("llama.gguf"), "../truth").is_err());
        assert!(default_path(Path::new("llama.gguf"), "").is_err());
    }

    #[test]
    fn is_found_when_it_is_the_only_one() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("llama.gguf");
        assert_eq!(find_beside(&model).unwrap(), None);
        let touch = |name: &str| std::fs::write(folder.path().join(name), "").unwrap();
        ["llama.gguf", "steer-truth-other.gguf", "steer-llama.gguf", "steer-truth-llama.gguf.part"]
            .into_iter()
            .for_each(touch);
        assert_eq!(find_beside(&model).unwrap(), None);
        touch("steer-truth-llama.gguf");
        assert_eq!(
            find_beside(&model).unwrap(),
            Some(folder.path().join("steer-truth-llama.gguf"))
        );
        touch("steer-humour-llama.gguf");
        let message = find_beside(&model).unwrap_err().to_string();
        let (first, second) =
            (message.find("steer-humour").unwrap(), message.find("steer-truth").unwrap());
        assert!(message.contains("--steer FILE") && first < second, "{message}");
    }

    #[test]
    fn refuses_a_missing_folder() {
        let error = find_beside(Path::new("/nowhere/llama.gguf")).unwrap_err().to_string();
        assert_eq!(error, "cannot read /nowhere");
    }
}
