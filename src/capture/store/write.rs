//! Writing a store as the activations come.
//!
//! Rows go to the file by plain writes at their place. They reach the page cache at once, where
//! they survive the death of the process, and the disk when the file is synchronized. The progress
//! file is written only after that, so what it counts also survives a power failure.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fs4::{FileExt, TryLockError};

use super::journal::Journal;
use super::layout::{Image, Layout};
use super::{RowSet, part_path, progress_path, store_error};
use crate::file::remove_if_there as remove;
use crate::{Error, Result};

/// What [`StoreWriter::open`] found at its path.
pub enum Opened {
    /// This very capture, finished: there is nothing to do.
    Finished,
    /// Nothing: the capture begins.
    Fresh(StoreWriter),
    /// This very capture, unfinished: go on after [`StoreWriter::n_batch_done`] batches.
    Resumed(StoreWriter),
    /// An unfinished capture that cannot be gone on with; it was dropped, and this one begins.
    Restarted {
        /// The writer of the capture that begins.
        writer: StoreWriter,
        /// Why the other one was dropped.
        reason: &'static str,
    },
}

/// A store in the making.
///
/// Dropping the writer keeps the batches that are done for the next [`StoreWriter::open`].
pub struct StoreWriter {
    path: PathBuf,
    image: Image,
    /// The `.part` file, locked.
    file: File,
    journal: Journal,
    n_batch_done: usize,
    /// How many of them the journal counts.
    n_batch_recorded: usize,
    recorded_at: Instant,
    record_cost: Duration,
    /// One row as bytes.
    row: Vec<u8>,
}

/// Recording progress waits for the disk; it may take one part in this many of the time.
const RECORD_SHARE: u32 = 20;

impl StoreWriter {
    /// Begins the store `path`, or goes on with it where an earlier capture of the same layout
    /// stopped. A finished store of another layout stays in its place until this one is finished.
    ///
    /// The space is reserved at once: a capture that begins does not run into a full disk.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a layout without rows, layers or heads; [`Error::Store`] if the disk
    /// is too full or another process is at the same capture; [`Error::Io`] if a file cannot be
    /// created or written.
    pub fn open(path: &Path, layout: &Layout) -> Result<Opened> {
        if path.is_dir() {
            return Err(store_error(path, "is a folder: name a file in it"));
        }
        let path = &crate::file::destination(path)?;
        let image = Image::new(layout)?;
        let (part, progress) = (part_path(path), progress_path(path));
        if is_finished(path, &image).map_err(Error::io("read", path))? {
            remove(&progress)?;
            return Ok(Opened::Finished);
        }

        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(&part);
        let file = file.map_err(Error::io("create", &part))?;
        if let Err(TryLockError::WouldBlock) = FileExt::try_lock(&file) {
            return Err(store_error(path, "another capture is writing it right now"));
        }
        if !part.exists() {
            return Err(store_error(
                path,
                "another capture has just finished it: run this one again",
            ));
        }
        let size = file.metadata().map_err(Error::io("read", &part))?.len();
        let identity = image.identity();
        let n_batch_done = match Journal::read(&progress, &identity) {
            Ok(_) if size != image.size as u64 => Err("its size is not what it should be"),
            known => known,
        };

        if n_batch_done.is_err() {
            remove(&progress)?;
            if let Err(error) = begin(&file, &image) {
                remove(&part)?;
                let mib = image.size.div_ceil(1 << 20);
                let problem = format!(
                    "cannot reserve {mib} MiB on the disk: {error}; free some space or write to \
                     another place"
                );
                return Err(store_error(path, problem));
            }
        }
        let mut writer = Self {
            path: path.to_owned(),
            image,
            file,
            journal: Journal::open(progress, identity)?,
            n_batch_done: n_batch_done.unwrap_or(0),
            n_batch_recorded: 0,
            recorded_at: Instant::now(),
            record_cost: Duration::ZERO,
            row: Vec::new(),
        };
        writer.record()?;
        Ok(match n_batch_done {
            Ok(_) => Opened::Resumed(writer),
            Err(_) if size == 0 => Opened::Fresh(writer),
            Err(reason) => Opened::Restarted { writer, reason },
        })
    }

    /// Batches that need not be computed again.
    #[must_use]
    pub fn n_batch_done(&self) -> usize {
        self.n_batch_done
    }

    /// Writes the head outputs of one text at one layer: `values` is F32 `[n_head * d_head]`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the store has no such row or layer or `values` has another length;
    /// [`Error::Io`] if the file cannot be written.
    pub fn write_row(
        &mut self,
        set: RowSet,
        row: usize,
        layer: usize,
        values: &[f32],
    ) -> Result<()> {
        let offset = self.image.offset(set, row, layer)?;
        if values.len() != self.image.n_value {
            let problem = format!("has {} values, expected {}", values.len(), self.image.n_value);
            return Err(Error::invalid(format!("row {row} of layer {layer}"), problem));
        }
        self.row.clear();
        self.row.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        write_at(&self.file, offset, &self.row).map_err(Error::io("write", part_path(&self.path)))
    }

    /// Counts a batch as done, after all its rows were written.
    ///
    /// Progress is recorded as often as the disk allows: on a slow one a capture that is killed may
    /// repeat a few batches.
    ///
    /// # Errors
    /// [`Error::Io`] if the files cannot be written.
    pub fn batch_done(&mut self) -> Result<()> {
        self.n_batch_done += 1;
        if self.recorded_at.elapsed() >= self.record_cost * RECORD_SHARE {
            self.record()?;
        }
        Ok(())
    }

    /// Makes the store a valid file under its own name, which it returns.
    ///
    /// # Errors
    /// [`Error::Io`] if the files cannot be written or renamed.
    pub fn finish(mut self) -> Result<PathBuf> {
        let part = part_path(&self.path);
        self.record()?;
        write_at(&self.file, 0, &self.image.prologue[..HEADER_LENGTH])
            .and_then(|()| self.file.sync_all())
            .map_err(Error::io("write", &part))?;
        fs::rename(&part, &self.path).map_err(Error::io("rename", &part))?;
        remove(&progress_path(&self.path))?;
        Ok(self.path.clone())
    }

    /// Brings all rows to the disk, then counts them in the journal.
    fn record(&mut self) -> Result<()> {
        let start = Instant::now();
        self.file.sync_data().map_err(Error::io("write", part_path(&self.path)))?;
        self.journal.write(self.n_batch_done)?;
        self.n_batch_recorded = self.n_batch_done;
        self.recorded_at = Instant::now();
        self.record_cost = self.recorded_at - start;
        Ok(())
    }
}

impl Drop for StoreWriter {
    fn drop(&mut self) {
        if self.n_batch_recorded < self.n_batch_done {
            // An error here costs batches that are computed again, nothing else.
            let _ = self.record();
        }
    }
}

/// The bytes of the header's length, at the start of the file. They stay zero until the store is
/// finished, so that no program takes an unfinished one for a safetensors file.
const HEADER_LENGTH: usize = size_of::<u64>();

/// Makes `file` one of its full size, with all but the activations and the header's length.
fn begin(file: &File, image: &Image) -> io::Result<()> {
    file.set_len(0)?;
    let size = image.size as u64;
    match FileExt::allocate(file, size) {
        // A file system that cannot reserve blocks is made to by writing them.
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            io::copy(&mut io::repeat(0).take(size), &mut &*file)?;
        }
        reserved => reserved?,
    }
    file.set_len(size)?;
    write_at(file, HEADER_LENGTH, &image.prologue[HEADER_LENGTH..])
}

fn write_at(mut file: &File, offset: usize, bytes: &[u8]) -> io::Result<()> {
    file.seek(SeekFrom::Start(offset as u64))?;
    file.write_all(bytes)
}

/// Whether `path` is the finished store that `image` describes.
fn is_finished(path: &Path, image: &Image) -> io::Result<bool> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        file => file?,
    };
    if file.metadata()?.len() != image.size as u64 {
        return Ok(false);
    }
    let mut start = Vec::new();
    file.take(image.prologue.len() as u64).read_to_end(&mut start)?;
    Ok(start == image.prologue)
}
