//! Memory maps of files.

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

use crate::{Error, Result};

/// Maps a file into memory, read-only.
///
/// # Errors
/// [`Error::Io`] with the file's name when it cannot be mapped.
pub(crate) fn map_file(file: &File, path: &Path) -> Result<Mmap> {
    // SAFETY: the map is read-only and private to this process, which never writes to a file that
    // it has mapped: files are replaced by renaming, and the map keeps the old one. That no other
    // program cuts the file short meanwhile cannot be checked; llama.cpp relies on the same.
    unsafe { Mmap::map(file) }.map_err(Error::io("map", path))
}
