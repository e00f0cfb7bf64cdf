//! Results that outlive the run which found them: a line of JSON for each, in a file.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::file::remove_if_there;
use crate::{Error, Result};

/// Results by name, kept from one run to the next, or for this run only.
#[derive(Debug)]
pub struct Ledger<V> {
    file: Option<(PathBuf, File)>,
    values: HashMap<String, V>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    candor_ledger: u32,
    identity: String,
}

/// Of what results mean: those of another version are not taken over. 1: KL(steered ‖ original); 2:
/// random directions beside a sum that were moved less far than it, and no count of tokens.
const VERSION: u32 = 3;

impl<V: Serialize + DeserializeOwned> Ledger<V> {
    /// Results that last as long as this run.
    #[must_use]
    pub fn in_memory() -> Self {
        Self { file: None, values: HashMap::new() }
    }

    /// Opens a ledger, or begins one. What it holds counts if it was written under the same
    /// `identity` (whatever the results depend on); a last line that was cut off does not. A ledger
    /// of another identity is begun anew.
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be read or written; [`Error::Invalid`] where it is no
    /// ledger, so that nobody's file is overwritten.
    pub fn open(path: &Path, identity: &str) -> Result<Self> {
        let bytes = match std::fs::read(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            read => read.map_err(Error::io("read", path))?,
        };
        let mut ledger = Self::in_memory();
        let mut lines = bytes.split_inclusive(|&byte| byte == b'\n');
        let header: Option<Header> =
            lines.next().and_then(|line| serde_json::from_slice(line).ok());
        if header.is_none() && !bytes.is_empty() {
            let problem = "is not a file of partial results: move it away";
            return Err(Error::invalid(path.display().to_string(), problem));
        }
        let expected = to_line(&Header { candor_ledger: VERSION, identity: identity.to_owned() });
        let mut n_good = 0;
        if bytes.starts_with(expected.as_bytes()) {
            n_good = expected.len();
            for line in lines {
                let sound = line.ends_with(b"\n").then(|| serde_json::from_slice(line).ok());
                let Some((name, value)) = sound.flatten() else { break };
                n_good += line.len();
                ledger.values.insert(name, value);
            }
        }
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let mut file = file.map_err(Error::io("create", path))?;
        file.set_len(n_good as u64)
            .and_then(|()| file.seek(SeekFrom::End(0)))
            .and_then(|_| if n_good == 0 { file.write_all(expected.as_bytes()) } else { Ok(()) })
            .map_err(Error::io("write", path))?;
        ledger.file = Some((path.to_owned(), file));
        Ok(ledger)
    }

    /// Results that are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether no result is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// A result.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&V> {
        self.values.get(name)
    }

    /// All results, in no order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.values.values()
    }

    /// Keeps results, on disk before they count.
    ///
    /// # Errors
    /// [`Error::Io`] where they cannot be written.
    pub fn put(&mut self, results: impl IntoIterator<Item = (String, V)>) -> Result<()> {
        let results: Vec<(String, V)> = results.into_iter().collect();
        if let Some((path, file)) = &mut self.file {
            let text: String = results.iter().map(to_line).collect();
            file.write_all(text.as_bytes())
                .and_then(|()| file.sync_data())
                .map_err(Error::io("write", path.as_path()))?;
        }
        self.values.extend(results);
        Ok(())
    }

    /// Removes the file, once what it was for is done.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be removed.
    pub fn remove(self) -> Result<()> {
        match self.file {
            Some((path, file)) => {
                drop(file);
                remove_if_there(&path)
            }
            None => Ok(()),
        }
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

    type Numbers = Ledger<(Option<f64>, usize)>;

    fn one(name: &str) -> [(String, (Option<f64>, usize)); 2] {
        [(name.to_owned(), (Some(0.1 + 0.2), 1)), (format!("{name}, not a number"), (None, 3))]
    }

    #[test]
    fn keeps_results_and_drops_a_line_that_was_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let mut ledger = Numbers::open(&path, "a").unwrap();
        assert!(ledger.is_empty());
        ledger.put(one("seven")).unwrap();
        ledger.put(one("eight")).unwrap();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 3]).unwrap();
        let ledger = Numbers::open(&path, "a").unwrap();
        assert_eq!(ledger.len(), 3);
        assert_eq!(ledger.get("seven"), Some(&(Some(0.1 + 0.2), 1)));
        assert_eq!(ledger.get("seven, not a number"), Some(&(None, 3)));
        assert_eq!(ledger.get("eight, not a number"), None);
        drop(ledger);
        let ledger = Numbers::open(&path, "a").unwrap();
        assert_eq!(ledger.len(), 3);
        ledger.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn writes_these_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        Numbers::open(&path, "a \"b\"").unwrap().put(one("x")).unwrap();
        let expected = "{\"candor_ledger\":3,\"identity\":\"a \\\"b\\\"\"}\n\
            [\"x\",[0.30000000000000004,1]]\n[\"x, not a number\",[null,3]]\n";
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
    }

    #[test]
    fn ends_before_bytes_that_are_no_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        Numbers::open(&path, "a").unwrap().put(one("x")).unwrap();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(
            &path,
            [&whole[..], b"[\"\xff\xff\xff\",[0.5,1]]\n[\"y\",[0.5,1]]\n"].concat(),
        )
        .unwrap();
        let mut ledger = Numbers::open(&path, "a").unwrap();
        assert_eq!(ledger.len(), 2);
        ledger.put(one("z")).unwrap();
        assert_eq!(Numbers::open(&path, "a").unwrap().len(), 4);
    }

    #[test]
    fn begins_anew_for_other_settings() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        Numbers::open(&path, "a").unwrap().put(one("x")).unwrap();
        assert!(Numbers::open(&path, "b").unwrap().is_empty());
        std::fs::write(&path, "{\"candor_ledger\":3,\"identity\":\"a\"}").unwrap();
        let mut ledger = Numbers::open(&path, "a").unwrap();
        ledger.put(one("x")).unwrap();
        assert_eq!(Numbers::open(&path, "a").unwrap().len(), 2);
        let other_type = "{\"candor_ledger\":3,\"identity\":\"a\"}\n[\"x\",\"text\"]\n";
        std::fs::write(&path, other_type).unwrap();
        assert!(Numbers::open(&path, "a").unwrap().is_empty());
    }

    #[test]
    fn overwrites_nobodys_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        for content in [&b"dear diary\n"[..], b"{}\n", b"\xff\xfe"] {
            std::fs::write(&path, content).unwrap();
            let error = Numbers::open(&path, "a").unwrap_err().to_string();
            assert!(error.contains("is not a file of partial results"), "{error}");
            assert_eq!(std::fs::read(&path).unwrap(), content);
        }
    }
}
