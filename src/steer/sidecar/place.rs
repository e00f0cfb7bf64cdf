//! Where sidecars lie: beside their model, `steer-<name>-<model file stem>.gguf`.

use std::cmp::Reverse;
use std::path::{Path, PathBuf};

use super::Sidecar;
use crate::file::stem;
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

/// The sidecar beside a model, where exactly one was made for the model of this fingerprint. A
/// name alone does not tell: `steer-truth-llama-7b.gguf` may be that of `7b.gguf` and of
/// `llama-7b.gguf`.
///
/// # Errors
/// [`Error::SeveralSidecars`], the newest first, when several were made for it; where none was, what
/// reading one of the others gives; [`Error::Io`] when the folder cannot be read.
pub fn find_beside(model: &Path, fingerprint: &str) -> Result<Option<(PathBuf, Sidecar)>> {
    let mut fitting = Vec::new();
    let mut damaged = None;
    for path in list_beside(model)? {
        match Sidecar::read(&path) {
            Ok(sidecar) if sidecar.about.model_fingerprint == fingerprint => {
                fitting.push((path, sidecar));
            }
            Ok(_) => {}
            Err(error) => damaged = Some(error),
        }
    }
    if fitting.len() > 1 {
        let mut found: Vec<PathBuf> = fitting.into_iter().map(|(path, _)| path).collect();
        // Where the system does not say when, by name.
        let written = |path: &PathBuf| path.metadata().and_then(|it| it.modified()).ok();
        found.sort_by_cached_key(|path| Reverse(written(path)));
        return Err(Error::SeveralSidecars { model: model.to_owned(), found });
    }
    match (fitting.pop(), damaged) {
        (None, Some(error)) => Err(error),
        (found, _) => Ok(found),
    }
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
    format!("-{}.gguf", stem(model))
}

#[cfg(test)]
mod tests {
    use super::super::tests::tiny;
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
        let path = |name: &str| folder.path().join(name);
        let model = path("7b.gguf");
        let find = || find_beside(&model, &tiny().about.model_fingerprint);
        assert_eq!(find().unwrap(), None);
        for name in ["7b.gguf", "steer-truth-other.gguf", "steer-7b.gguf", "steer-x-7b.gguf.part"] {
            std::fs::write(path(name), "").unwrap();
        }
        let mut other = tiny();
        other.about.model_fingerprint = "02".repeat(32);
        other.write(&path("steer-truth-llama-7b.gguf")).unwrap();
        assert_eq!(find().unwrap(), None);
        assert_eq!(list_beside(&model).unwrap(), [path("steer-truth-llama-7b.gguf")]);

        std::fs::write(path("steer-damaged-7b.gguf"), "").unwrap();
        let message = find().unwrap_err().to_string();
        assert!(message.contains("steer-damaged-7b.gguf"), "{message}");
        tiny().write(&path("steer-truth-7b.gguf")).unwrap();
        assert_eq!(find().unwrap(), Some((path("steer-truth-7b.gguf"), tiny())));
        tiny().write(&path("steer-humour-7b.gguf")).unwrap();
        let wrote = |name: &str, seconds: u64| {
            let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            std::fs::File::options()
                .append(true)
                .open(path(name))
                .unwrap()
                .set_modified(time)
                .unwrap();
        };
        let newest_first = |expected: [&str; 2]| match find() {
            Err(Error::SeveralSidecars { found, .. }) => assert_eq!(found, expected.map(path)),
            other => panic!("{other:?}"),
        };
        wrote("steer-truth-7b.gguf", 1_000_000_000);
        wrote("steer-humour-7b.gguf", 1_000_000_001);
        newest_first(["steer-humour-7b.gguf", "steer-truth-7b.gguf"]);
        wrote("steer-truth-7b.gguf", 1_000_000_002);
        newest_first(["steer-truth-7b.gguf", "steer-humour-7b.gguf"]);
        let message = find().unwrap_err().to_string();
        assert!(
            message.starts_with("2 vectors beside ") && !message.contains("llama-7b"),
            "{message}"
        );
    }

    #[test]
    fn refuses_a_missing_folder() {
        let error = find_beside(Path::new("/nowhere/llama.gguf"), "").unwrap_err().to_string();
        assert_eq!(error, "cannot read /nowhere");
    }
}
