//! The progress of an unfinished store: one line that names the capture and counts its batches.

use std::fs::{File, OpenOptions};
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The open progress file of one capture.
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    identity: String,
}

impl Journal {
    /// Opens the file to write to; what it holds stays until then.
    pub fn open(path: PathBuf, identity: String) -> Result<Self> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(Error::io("create", &path))?;
        Ok(Self { path, file, identity })
    }

    /// The number of batches that the progress file `path` counts for the capture `identity`, or
    /// why it counts none.
    pub fn read(path: &Path, identity: &str) -> Result<usize, &'static str> {
        let line = std::fs::read_to_string(path).map_err(|_| "its progress file is missing")?;
        let (found, n_batch) = line.trim_end().split_once(' ').unwrap_or_default();
        let n_batch = n_batch.parse().map_err(|_| "its progress file is damaged")?;
        if found != identity {
            return Err("it is of another model, data set or setting");
        }
        Ok(n_batch)
    }

    /// Records the number of finished batches. The line's length never changes, so one write
    /// replaces it whole.
    pub fn write(&mut self, n_batch: usize) -> Result<()> {
        let line = format!("{} {n_batch:020}\n", self.identity);
        self.file
            .rewind()
            .and_then(|()| self.file.write_all(line.as_bytes()))
            .map_err(Error::io("write", &self.path))
    }
}
