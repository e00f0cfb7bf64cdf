//! Files appear whole or not at all.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use crate::{Error, Result};

/// A file's name without its extension: what is called after it where it has no name of its own.
pub(crate) fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Whether both names are of one file that is there.
pub(crate) fn is_same(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
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

/// The folder that a file is in.
fn folder_of(path: &Path) -> &Path {
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
