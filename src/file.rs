//! Files appear whole or not at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// A file's name without its extension: what is called after it where it has no name of its own.
pub(crate) fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Whether both names are of one file, one that is there or one that is to be.
pub(crate) fn is_same(a: &Path, b: &Path) -> bool {
    let place = |path: &Path| -> Option<PathBuf> {
        path.canonicalize().ok().or_else(|| {
            let folder = folder_of(path).canonicalize().ok()?;
            Some(folder.join(path.file_name()?))
        })
    };
    matches!((place(a), place(b)), (Some(a), Some(b)) if a == b)
}

/// Refuses to write `target`, before any work, where it is one of the files that are read or written
/// besides (each with what it is, as in `the model`), or where its folder is not there.
///
/// # Errors
/// [`Error::Invalid`] with the target's name, and the folder's.
pub(crate) fn check_target(target: &Path, others: &[(&str, Option<&Path>)]) -> Result<()> {
    let fail = |problem: String| Err(Error::invalid(target.display().to_string(), problem));
    let is_target = |other: &Option<&Path>| other.is_some_and(|other| is_same(other, target));
    if let Some((what, _)) = others.iter().find(|(_, other)| is_target(other)) {
        return fail(format!("it is {what}: write another file"));
    }
    if target.is_dir() {
        return fail("it is a folder: name a file in it".to_owned());
    }
    let folder = folder_of(target);
    if !folder.is_dir() {
        let problem = format!("there is no folder {}: make it, or name another", folder.display());
        return fail(problem);
    }
    Ok(())
}

/// Writes a file beside its target and renames it, so that no reader and no crash ever meets half
/// of it.
///
/// # Errors
/// [`Error::Io`] with the target's name; the target is then as it was.
pub(crate) fn write_atomically(
    path: &Path,
    content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let folder = folder_of(path);
    fs::metadata(folder).map_err(Error::io("write into", folder))?;
    // What a kill leaves behind says what it was to be.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let prefix = format!(".{name}-");
    let mut options = tempfile::Builder::new();
    options.prefix(&prefix).suffix(".part");
    // Temporary files are for their owner's eyes; a result is a file like any other.
    #[cfg(unix)]
    options.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let write = || {
        let file = options.tempfile_in(folder)?;
        let mut buffered = BufWriter::new(file);
        content(&mut buffered)?;
        let file = buffered.into_inner()?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(Error::io("write", path))
}

/// Removes a file; one that is not there is as good as removed.
pub(crate) fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// The folder that a file is in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Refuses to write a file of `n_byte` bytes where the disk has not the room for it.
///
/// # Errors
/// [`Error::Invalid`] with what is needed and what is free, [`Error::Io`] for a folder that is not
/// there.
pub(crate) fn check_room(path: &Path, n_byte: u64) -> Result<()> {
    let folder = folder_of(path);
    let free = fs4::available_space(folder).map_err(Error::io("write into", folder))?;
    if n_byte <= free {
        return Ok(());
    }
    let megabytes = |n: u64| n as f64 / 1e6;
    Err(Error::invalid(
        path.display().to_string(),
        format!(
            "it would take {:.1} MB, and {:.1} MB are free there: write to another disk, or make \
             room",
            megabytes(n_byte),
            megabytes(free)
        ),
    ))
}

/// Reads from `offset` on, as much as comes at once; 0 bytes at the end of the file. The file's
/// own position, which all that read the file share, is not asked for.
pub(crate) fn read_at(file: &File, out: &mut [u8], offset: u64) -> io::Result<usize> {
    #[cfg(windows)]
    return std::os::windows::fs::FileExt::seek_read(file, out, offset);
    #[cfg(not(windows))]
    std::os::unix::fs::FileExt::read_at(file, out, offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_no_file_that_is_read_and_has_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("a"), "a").unwrap();
        let check = |target: &Path, other: &Path| {
            check_target(target, &[("nothing", None), ("the data", Some(other))])
                .map_err(|error| error.to_string())
        };
        check(&path("b"), &path("a")).unwrap();
        let other_name = path(".").join("a");
        for (target, other) in [(path("a"), other_name), (path("new"), path("./new"))] {
            let message = check(&target, &other).unwrap_err();
            assert!(message.ends_with("it is the data: write another file"), "{message}");
        }
        let message = check(&path("absent/b"), &path("a")).unwrap_err();
        assert!(message.contains("there is no folder") && message.contains("absent"), "{message}");
        assert!(check(folder.path(), &path("a")).unwrap_err().contains("is a folder"));
        let message = write_atomically(&path("absent/b"), |_| Ok(())).unwrap_err().to_string();
        assert_eq!(message, format!("cannot write into {}", path("absent").display()));
    }
}
