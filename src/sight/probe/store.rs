//! What was computed of pictures and of questions, on disk: as many records as there are of them, all of
//! one size, one after the other.
//!
//! A file is a line of JSON, padded with spaces to whole 64 bytes, then the records. A record's fields
//! are F32 or F16, little-endian, in the order that the line names them; eight bytes of its BLAKE3 end
//! it. The file is called `.part` until its last record is there. Records are appended as they come, so
//! that a process that is killed leaves whole ones, perhaps with a piece of another; the next one goes on
//! after the last whole record.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use fs4::{FileExt, TryLockError};
use half::f16;
use ndarray::Array2;
use serde::{Deserialize, Serialize};

use crate::ffi::map::{FileMap, map_file};
use crate::{Error, Result};

/// The form of the files.
const FORM: u32 = 1;
const ALIGNMENT: usize = 64;
/// Bytes of a record's hash.
const N_HASH: usize = 8;

/// A part of every record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Field {
    pub(super) name: String,
    /// Values of it in a record.
    pub(super) n: usize,
    /// Whether they are F16, else F32.
    pub(super) is_half: bool,
}

impl Field {
    pub(super) fn new(name: impl Into<String>, n: usize) -> Self {
        Self { name: name.into(), n, is_half: false }
    }

    pub(super) fn half(name: impl Into<String>, n: usize) -> Self {
        Self { is_half: true, ..Self::new(name, n) }
    }

    fn n_byte(&self) -> usize {
        self.n * if self.is_half { 2 } else { 4 }
    }
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    candor_features: u32,
    /// What the values depend on.
    identity: String,
    n_record: usize,
    fields: Vec<Field>,
}

impl Header {
    fn line(&self) -> Result<Vec<u8>> {
        let mut line = serde_json::to_vec(self)
            .map_err(|error| Error::invalid("features", error.to_string()))?;
        let n_line = (line.len() + 1).next_multiple_of(ALIGNMENT);
        line.resize(n_line - 1, b' ');
        line.push(b'\n');
        Ok(line)
    }

    fn record_size(&self) -> usize {
        self.fields.iter().map(Field::n_byte).sum::<usize>() + N_HASH
    }
}

/// Writes records, after those that an earlier run left.
pub(super) struct Writer {
    path: PathBuf,
    part: PathBuf,
    file: File,
    header: Header,
    n_done: usize,
}

/// A file that is being made, or one that is there.
pub(super) enum Opened {
    Whole,
    Part(Writer),
}

impl Writer {
    /// Begins a file, or goes on with it where an earlier run of the same identity and fields stopped.
    pub(super) fn open(
        path: &Path,
        identity: &str,
        n_record: usize,
        fields: Vec<Field>,
    ) -> Result<Opened> {
        let header =
            Header { candor_features: FORM, identity: identity.to_owned(), n_record, fields };
        let line = header.line()?;
        let n_whole = line.len() as u64 + (n_record * header.record_size()) as u64;
        if begins_with(path, &line) && std::fs::metadata(path).is_ok_and(|m| m.len() == n_whole) {
            return Ok(Opened::Whole);
        }
        let part = path.with_extension("part");
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&part);
        let mut file = file.map_err(Error::io("create", &part))?;
        if let Err(TryLockError::WouldBlock) = FileExt::try_lock(&file) {
            let problem = "another run is writing it right now";
            return Err(Error::invalid(part.display().to_string(), problem));
        }
        let n_done =
            if begins_with(&part, &line) { n_sound(&part, &header, line.len())? } else { 0 };
        let n_kept = if n_done == 0 { 0 } else { line.len() + n_done * header.record_size() };
        let io = |error| Error::io("write", &part)(error);
        file.set_len(n_kept as u64).map_err(io)?;
        file.seek(SeekFrom::End(0)).map_err(io)?;
        if n_done == 0 {
            file.write_all(&line).map_err(io)?;
        }
        let n_free = fs4::available_space(crate::file::folder_of(path)).unwrap_or(u64::MAX);
        let n_left = n_whole - (n_kept.max(line.len()) as u64);
        if n_left > n_free {
            let problem = format!(
                "{} MiB are needed on the disk, and {} are free: name another folder for features",
                n_left >> 20,
                n_free >> 20
            );
            return Err(Error::invalid(part.display().to_string(), problem));
        }
        Ok(Opened::Part(Self { path: path.to_owned(), part, file, header, n_done }))
    }

    /// Records that are there.
    pub(super) fn n_done(&self) -> usize {
        self.n_done
    }

    /// Appends a record: the values of each field, in their order.
    pub(super) fn write(&mut self, values: &[Vec<f32>]) -> Result<()> {
        let mut record = Vec::with_capacity(self.header.record_size());
        let is_whole = values.len() == self.header.fields.len()
            && values
                .iter()
                .zip(&self.header.fields)
                .all(|(values, field)| values.len() == field.n);
        if !is_whole {
            let problem = "an encoder or a layer gave another number of values than at first";
            return Err(Error::invalid(self.part.display().to_string(), problem));
        }
        for (values, field) in values.iter().zip(&self.header.fields) {
            if field.is_half {
                // What is too large for F16 is the largest that there is.
                let half = |x: &f32| f16::from_f32(x.clamp(f16::MIN.to_f32(), f16::MAX.to_f32()));
                record.extend(values.iter().flat_map(|x| half(x).to_le_bytes()));
            } else {
                record.extend(values.iter().flat_map(|x| x.to_le_bytes()));
            }
        }
        let hash = blake3::hash(&record);
        record.extend(&hash.as_bytes()[..N_HASH]);
        self.file.write_all(&record).map_err(Error::io("write", &self.part))?;
        self.n_done += 1;
        Ok(())
    }

    /// Gives the file its name.
    pub(super) fn finish(self) -> Result<()> {
        let Self { path, part, file, .. } = self;
        file.sync_all().map_err(Error::io("write", &part))?;
        drop(file);
        std::fs::rename(&part, &path).map_err(Error::io("rename", &part))
    }
}

fn begins_with(path: &Path, line: &[u8]) -> bool {
    use std::io::Read as _;
    let mut start = vec![0; line.len()];
    File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == line
}

/// The first records of a file whose hashes are right.
fn n_sound(path: &Path, header: &Header, n_line: usize) -> Result<usize> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    let map = map_file(&file, path)?;
    let records = map.get(n_line..).unwrap_or_default().chunks_exact(header.record_size());
    let is_sound = |record: &&[u8]| {
        let (values, hash) = record.split_at(record.len() - N_HASH);
        blake3::hash(values).as_bytes()[..N_HASH] == *hash
    };
    Ok(records.take(header.n_record).take_while(is_sound).count())
}

/// A whole file.
pub(super) struct Features {
    map: FileMap,
    header: Header,
    start: usize,
}

impl Features {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("read", path))?;
        let map = map_file(&file, path)?;
        let damaged = || Error::invalid(path.display().to_string(), "is damaged: remove it");
        let start = map.iter().position(|&byte| byte == b'\n').ok_or_else(damaged)? + 1;
        let header: Header = serde_json::from_slice(&map[..start]).map_err(|_| damaged())?;
        if map.len() - start != header.n_record * header.record_size() {
            return Err(damaged());
        }
        Ok(Self { map, header, start })
    }

    /// A field of one record.
    fn values(&self, field: usize, record: usize) -> &[u8] {
        let before: usize = self.header.fields[..field].iter().map(Field::n_byte).sum();
        let start = self.start + record * self.header.record_size() + before;
        &self.map[start..start + self.header.fields[field].n_byte()]
    }

    /// Whether records have such a field.
    pub(super) fn has(&self, name: &str) -> bool {
        self.place(name).is_some()
    }

    fn place(&self, name: &str) -> Option<usize> {
        self.header.fields.iter().position(|field| field.name == name)
    }

    /// A field of some records, F32 `[records.len(), n]`.
    pub(super) fn matrix(&self, name: &str, records: &[usize]) -> Result<Array2<f32>> {
        let place =
            self.place(name).ok_or_else(|| Error::invalid("features", format!("no {name}")))?;
        let field = &self.header.fields[place];
        let mut matrix = Array2::zeros((records.len(), field.n));
        for (mut row, &record) in matrix.outer_iter_mut().zip(records) {
            let bytes = self.values(place, record);
            if field.is_half {
                let values =
                    bytes.as_chunks().0.iter().map(|two| f16::from_le_bytes(*two).to_f32());
                row.iter_mut().zip(values).for_each(|(to, from)| *to = from);
            } else {
                let values = bytes.as_chunks().0.iter().map(|four| f32::from_le_bytes(*four));
                row.iter_mut().zip(values).for_each(|(to, from)| *to = from);
            }
        }
        Ok(matrix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields() -> Vec<Field> {
        vec![Field::new("a", 2), Field::half("b", 3)]
    }

    fn record(i: usize) -> Vec<Vec<f32>> {
        let x = i as f32;
        vec![vec![x, -x], vec![0.5 * x, 1e9, -2.0]]
    }

    fn writer(path: &Path, identity: &str) -> Writer {
        match Writer::open(path, identity, 4, fields()).unwrap() {
            Opened::Part(writer) => writer,
            Opened::Whole => panic!("it is whole"),
        }
    }

    #[test]
    fn goes_on_after_the_last_whole_record_to_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let (whole, cut) =
            (folder.path().join("whole.features"), folder.path().join("cut.features"));
        let mut all = writer(&whole, "x");
        (0..4).for_each(|i| all.write(&record(i)).unwrap());
        all.finish().unwrap();
        let expected = std::fs::read(&whole).unwrap();
        for n in (0..expected.len()).step_by(5) {
            // What is left of a file of so many bytes, the last of them damaged.
            let mut left = expected[..n].to_vec();
            if let Some(last) = left.last_mut() {
                *last ^= 1;
            }
            std::fs::write(cut.with_extension("part"), &left).unwrap();
            let mut rest = writer(&cut, "x");
            let n_done = rest.n_done();
            (n_done..4).for_each(|i| rest.write(&record(i)).unwrap());
            rest.finish().unwrap();
            assert_eq!(std::fs::read(&cut).unwrap(), expected, "{n} bytes, {n_done} records");
            std::fs::remove_file(&cut).unwrap();
        }
        assert!(matches!(Writer::open(&whole, "x", 4, fields()).unwrap(), Opened::Whole));
        assert_eq!(writer(&whole, "y").n_done(), 0, "of another identity");
        let features = Features::open(&whole).unwrap();
        let b = features.matrix("b", &[3, 1]).unwrap();
        assert_eq!(b, ndarray::array![[1.5, 65504.0, -2.0], [0.5, 65504.0, -2.0]]);
        assert_eq!(features.matrix("a", &[2]).unwrap(), ndarray::array![[2.0, -2.0]]);
        assert!(!features.has("c") && features.matrix("c", &[0]).is_err());
        std::fs::write(&whole, &expected[..expected.len() - 1]).unwrap();
        assert!(Features::open(&whole).is_err());
    }

    #[test]
    fn another_number_of_values_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = writer(&folder.path().join("x.features"), "x");
        assert!(writer.write(&[vec![1.0], vec![0.0; 3]]).is_err());
        assert!(writer.write(&[vec![1.0; 2]]).is_err());
    }
}
