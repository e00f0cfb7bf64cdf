//! What was measured so far, in a file: a line of JSON for each question and each document.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Error, Result, Site};

/// Keeps measurements from one run to the next, or for this run only.
#[derive(Debug, Default)]
pub struct Journal {
    file: Option<(PathBuf, File)>,
    lines: Vec<Line>,
    /// Index into `lines` and place within it of a head's value on one item.
    places: HashMap<(Item, Site), (usize, usize)>,
}

/// What a head was tried on: an index into the development questions or documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Item {
    Question(usize),
    Document(usize),
}

/// One line: some heads on one item.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Line {
    #[serde(flatten)]
    pub(super) item: Item,
    pub(super) heads: Vec<Site>,
    /// The effect of each, or its Σ KL; `null` where it is not a number.
    pub(super) values: Vec<Option<f64>>,
    /// Tokens that a KL is summed over; 1 for an effect.
    pub(super) n: usize,
}

#[derive(Serialize, Deserialize)]
struct Header {
    candor_select: u32,
    identity: String,
}

const VERSION: u32 = 1;

impl Journal {
    /// Measurements that last as long as this run.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::default()
    }

    /// Opens a journal, or begins one. What it holds counts if it was written under the same
    /// `identity` (whatever the measurements depend on); a last line that was cut off does not. A
    /// journal of another identity is begun anew.
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be read or written.
    pub fn open(path: &Path, identity: &str) -> Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => String::new(),
            Err(error) => return Err(Error::io("read", path)(error)),
        };
        let mut journal = Self::default();
        let header = Header { candor_select: VERSION, identity: identity.to_owned() };
        let header = to_line(&header);
        let mut n_good = 0;
        if text.starts_with(&header) {
            n_good = header.len();
            for line in text[header.len()..].split_inclusive('\n') {
                let sound = line.ends_with('\n').then(|| serde_json::from_str::<Line>(line).ok());
                let Some(line_read) = sound.flatten().filter(Line::is_sound) else { break };
                n_good += line.len();
                journal.insert(line_read);
            }
        }
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let mut file = file.map_err(Error::io("create", path))?;
        let fault = Error::io("write", path);
        file.set_len(n_good as u64)
            .and_then(|()| file.seek(SeekFrom::End(0)))
            .and_then(|_| if n_good == 0 { file.write_all(header.as_bytes()) } else { Ok(()) })
            .map_err(fault)?;
        journal.file = Some((path.to_owned(), file));
        Ok(journal)
    }

    /// Heads' values that are known already.
    #[must_use]
    pub fn n_known(&self) -> usize {
        self.places.len()
    }

    /// Removes the file, once what it was for is done.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be removed.
    pub fn remove(self) -> Result<()> {
        match self.file {
            Some((path, file)) => {
                drop(file);
                std::fs::remove_file(&path).map_err(Error::io("remove", path))
            }
            None => Ok(()),
        }
    }

    /// A head's value on an item, and what it is to be divided by.
    pub(super) fn value(&self, item: Item, site: Site) -> Option<(f64, usize)> {
        let &(line, place) = self.places.get(&(item, site))?;
        let line = &self.lines[line];
        Some((line.values[place].unwrap_or(f64::NAN), line.n))
    }

    /// Keeps a line, on disk before it counts.
    pub(super) fn push(&mut self, line: Line) -> Result<()> {
        if let Some((path, file)) = &mut self.file {
            let text = to_line(&line);
            file.write_all(text.as_bytes())
                .and_then(|()| file.sync_data())
                .map_err(Error::io("write", path.as_path()))?;
        }
        self.insert(line);
        Ok(())
    }

    fn insert(&mut self, line: Line) {
        for (place, &site) in line.heads.iter().enumerate() {
            self.places.insert((line.item, site), (self.lines.len(), place));
        }
        self.lines.push(line);
    }
}

impl Line {
    fn is_sound(&self) -> bool {
        self.heads.len() == self.values.len()
    }
}

/// Numbers, names and lists always become JSON.
fn to_line(value: &impl Serialize) -> String {
    let mut text = serde_json::to_string(value).unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(question: usize) -> Line {
        Line {
            item: Item::Question(question),
            heads: vec![Site::new(0, 1), Site::new(3, 2)],
            values: vec![Some(0.1 + 0.2), None],
            n: 1,
        }
    }

    #[test]
    fn keeps_what_was_measured_and_drops_a_line_that_was_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j");
        let mut journal = Journal::open(&path, "a").unwrap();
        journal.push(line(7)).unwrap();
        journal.push(line(8)).unwrap();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 3]).unwrap();
        let journal = Journal::open(&path, "a").unwrap();
        assert_eq!(journal.n_known(), 2);
        let value = |site| journal.value(Item::Question(7), site);
        assert_eq!(value(Site::new(0, 1)), Some((0.1 + 0.2, 1)));
        assert!(value(Site::new(3, 2)).unwrap().0.is_nan());
        assert_eq!(journal.value(Item::Document(7), Site::new(0, 1)), None);
        drop(journal);
        assert_eq!(Journal::open(&path, "a").unwrap().n_known(), 2);
    }

    #[test]
    fn begins_anew_for_other_settings_and_over_rubbish() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j");
        Journal::open(&path, "a").unwrap().push(line(7)).unwrap();
        assert_eq!(Journal::open(&path, "b").unwrap().n_known(), 0);
        for rubbish in [&b"{}\n"[..], b"\xff\xfe", b"{\"candor_select\":1,\"identity\":\"a\"}"] {
            std::fs::write(&path, rubbish).unwrap();
            let mut journal = Journal::open(&path, "a").unwrap();
            assert_eq!(journal.n_known(), 0);
            journal.push(line(1)).unwrap();
            assert_eq!(Journal::open(&path, "a").unwrap().n_known(), 2);
        }
        let uneven = "{\"question\":1,\"heads\":[],\"values\":[1.0],\"n\":1}\n";
        std::fs::write(&path, format!("{{\"candor_select\":1,\"identity\":\"a\"}}\n{uneven}"))
            .unwrap();
        assert_eq!(Journal::open(&path, "a").unwrap().n_known(), 0);
    }
}
