//! Memory maps of files.

use std::fs::File;
use std::path::Path;

use crate::{Error, Result};

/// A file's bytes, as they lie on the disk.
#[cfg(not(miri))]
pub(crate) type FileMap = memmap2::Mmap;

/// Miri, which checks memory in Rust alone, knows no maps: there the file is read.
#[cfg(miri)]
pub(crate) type FileMap = Vec<u8>;

/// Maps a file into memory, read-only.
///
/// # Errors
/// [`Error::Io`] with the file's name when it cannot be mapped.
#[cfg(not(miri))]
pub(crate) fn map_file(file: &File, path: &Path) -> Result<FileMap> {
    // SAFETY: the map is read-only and private to this process, which never writes to a file that
    // it has mapped: files are replaced by renaming, and the map keeps the old one. That no other
    // program cuts the file short meanwhile cannot be checked; llama.cpp relies on the same.
    unsafe { FileMap::map(file) }.map_err(Error::io("map", path))
}

#[cfg(miri)]
pub(crate) fn map_file(mut file: &File, path: &Path) -> Result<FileMap> {
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut file, &mut bytes).map_err(Error::io("read", path))?;
    Ok(bytes)
}
