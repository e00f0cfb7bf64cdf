//! Files appear whole or not at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind, Read, Write};
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
#[cfg(feature = "cli")]
pub(crate) fn check_target(target: &Path, others: &[(&str, Option<&Path>)]) -> Result<()> {
    let fail = |problem: String| Err(Error::invalid(target.display().to_string(), problem));
    let is_target = |other: &Option<&Path>| other.is_some_and(|other| is_same(other, target));
    if let Some((what, _)) = others.iter().find(|(_, other)| is_target(other)) {
        return fail(format!("it is {what}: write another file"));
    }
    if target.is_dir() {
        return fail("it is a folder: name a file in it".to_owned());
    }
    let target = destination(target)?;
    let folder = folder_of(&target);
    if !folder.is_dir() {
        let problem = format!("there is no folder {}: make it, or name another", folder.display());
        return fail(problem);
    }
    Ok(())
}

/// The file that is to be written under a name: of a link, what it points to, so that the link stays.
///
/// # Errors
/// [`Error::Invalid`] for a device, a pipe or a socket, which a file must not replace, and for links in
/// a circle.
pub(crate) fn destination(path: &Path) -> Result<PathBuf> {
    let fail = |problem: &str| Err(Error::invalid(path.display().to_string(), problem));
    if path.as_os_str() == "-" {
        return fail("this is no text to print: name a file (./- is one of that name)");
    }
    if fs::metadata(path).is_ok_and(|there| !there.is_file() && !there.is_dir()) {
        return fail("it is a device or a pipe, not a file: name a file");
    }
    let mut place = path.to_owned();
    // As many links as systems follow.
    for _ in 0..40 {
        match fs::read_link(&place) {
            Ok(target) => place = folder_of(&place).join(target),
            Err(_) => return Ok(place),
        }
    }
    fail("its links go in a circle: name another file")
}

/// The most that is read of a text before every question, a prompt or a page of plain text: 16 MB.
#[cfg(feature = "cli")]
pub(crate) const TEXT_MAX: u64 = 16_000_000;
/// The most that is read of a data set: 1 GB.
pub(crate) const DATA_MAX: u64 = 1_000_000_000;

/// All bytes of a file of at most `n_max`.
///
/// # Errors
/// [`Error::Io`]; [`Error::Invalid`] for a longer one, of which no more is read.
pub(crate) fn read_up_to(n_max: u64, path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    // What says its size is refused before a byte is read.
    if file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() > n_max) {
        return Err(too_long(n_max, path));
    }
    read_from(file, n_max, path)
}

/// The same as text.
///
/// # Errors
/// Further, [`Error::Io`] where it is not UTF-8.
pub(crate) fn text_up_to(n_max: u64, path: &Path) -> Result<String> {
    to_text(read_up_to(n_max, path)?, path)
}

/// A text from stdin.
///
/// # Errors
/// As [`text_up_to`].
#[cfg(feature = "cli")]
pub(crate) fn stdin_up_to(n_max: u64) -> Result<String> {
    let path = Path::new("stdin");
    to_text(read_from(io::stdin().lock(), n_max, path)?, path)
}

fn read_from(source: impl Read, n_max: u64, path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut source = source.take(n_max.saturating_add(1));
    source.read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    if bytes.len() as u64 <= n_max {
        return Ok(bytes);
    }
    Err(too_long(n_max, path))
}

fn too_long(n_max: u64, path: &Path) -> Error {
    let problem =
        format!("it is longer than {} MB, the most that is read of it: cut it", n_max / 1_000_000);
    Error::invalid(path.display().to_string(), problem)
}

fn to_text(bytes: Vec<u8>, path: &Path) -> Result<String> {
    String::from_utf8(bytes)
        .map_err(|error| Error::io("read", path)(io::Error::new(ErrorKind::InvalidData, error)))
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
    let target = destination(path)?;
    let folder = folder_of(&target);
    fs::metadata(folder).map_err(Error::io("write into", folder))?;
    // What a kill leaves behind says what it was to be.
    let name = target.file_name().unwrap_or_default().to_string_lossy();
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
        file.persist(&target)?;
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
        assert!(check(Path::new("-"), &path("a")).unwrap_err().contains("name a file"));
        let message = write_atomically(&path("absent/b"), |_| Ok(())).unwrap_err().to_string();
        assert_eq!(message, format!("cannot write into {}", path("absent").display()));
    }
}
