//! What a model's files hold, byte for byte: what results that were computed from it belong to.
//!
//! A [fingerprint](crate::fingerprint()) is the same for every quantization of a model and may be
//! for a fine-tune that leaves the norms alone; a hash of every byte is not. It is BLAKE3, which
//! reads a file in memory at several GB per second; of one file it is what `b3sum` prints, of a
//! split model that of the list of its parts' hashes. A hash is remembered in a folder, by the
//! file's path, size, place on the disk and times of change, and computed once.

use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::data::sha256;
use crate::ffi::map::map_file;
use crate::file::write_atomically;
use crate::gguf::Gguf;
use crate::{Error, Result};

/// Bytes between two reports of progress: a small part of a second.
const N_STEP: usize = 256 << 20;

/// A file that changed less than this before it was hashed is not remembered: a change that follows
/// within one tick of the file system's clock would leave no trace.
const SETTLED: Duration = Duration::from_secs(2);

/// What is known of a file without reading it; another one, and its bytes may be others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    size: u64,
    /// Nanoseconds since 1970, of the content.
    modified: u64,
    /// Device, inode, and nanoseconds of any change, where the system knows them: a file of another
    /// one's size and time that took its place.
    place: Option<(u64, u64, i64)>,
}

impl Stamp {
    fn of(path: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(path).map_err(Error::io("read", path))?;
        let modified = metadata.modified().map_err(Error::io("read", path))?;
        Ok(Self { size: metadata.len(), modified: nanoseconds(modified), place: place(&metadata) })
    }

    fn is_settled(&self) -> bool {
        let changed = self.place.and_then(|(.., changed)| u64::try_from(changed).ok());
        let last = self.modified.max(changed.unwrap_or_default());
        u128::from(nanoseconds(SystemTime::now()).saturating_sub(last)) > SETTLED.as_nanos()
    }
}

/// Since 1970; 0 for what was before.
fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(unix)]
fn place(metadata: &Metadata) -> Option<(u64, u64, i64)> {
    use std::os::unix::fs::MetadataExt;
    let changed =
        metadata.ctime().saturating_mul(1_000_000_000).saturating_add(metadata.ctime_nsec());
    Some((metadata.dev(), metadata.ino(), changed))
}

#[cfg(not(unix))]
fn place(_: &Metadata) -> Option<(u64, u64, i64)> {
    None
}

/// The hash of every byte of a model's file, or of all files of a split model: 64 hexadecimal digits,
/// as [`Model::content`](crate::Model::content) gives them of a model that is loaded. `hashes` is the
/// folder in which hashes are remembered.
///
/// # Errors
/// [`Error::Io`] and [`Error::Gguf`](crate::Error::Gguf) for a file that cannot be read or is no GGUF.
pub fn content(model: &Path, hashes: Option<&Path>) -> Result<String> {
    let file = Gguf::open_model(model)?;
    Files::note(file.paths())?.hash(hashes, &mut |_, _| ())
}

/// The files of a model as they were when it was loaded.
#[derive(Debug, Clone)]
pub(crate) struct Files(Vec<(PathBuf, Stamp)>);

/// A hash that is remembered.
#[derive(Serialize, Deserialize)]
struct Known {
    path: PathBuf,
    stamp: Stamp,
    blake3: String,
}

impl Files {
    /// Notes the state of these files.
    pub(crate) fn note<'p>(paths: impl Iterator<Item = &'p Path>) -> Result<Self> {
        let note = |path: &Path| {
            let path = std::path::absolute(path).map_err(Error::io("read", path))?;
            let stamp = Stamp::of(&path)?;
            Ok((path, stamp))
        };
        paths.map(note).collect::<Result<_>>().map(Self)
    }

    /// The hash of all bytes, 64 hexadecimal digits; remembered in `folder`, where there is one.
    /// `on_progress` is told how many of how many bytes are read where some have to be.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that cannot be read, [`Error::Model`] for one that is no longer as it
    /// was noted.
    pub(crate) fn hash(
        &self,
        folder: Option<&Path>,
        on_progress: &mut dyn FnMut(u64, u64),
    ) -> Result<String> {
        let n_all: u64 = self.0.iter().map(|(_, stamp)| stamp.size).sum();
        let mut n_done = 0;
        let mut hashes = Vec::new();
        for (path, stamp) in &self.0 {
            if Stamp::of(path)? != *stamp {
                return Err(changed(path));
            }
            // Of two spellings of one path, each is remembered.
            let name = sha256(path.as_os_str().as_encoded_bytes());
            let place = folder.map(|folder| folder.join(format!("{}.json", &name[..16])));
            let known = place.as_deref().and_then(known_at);
            let hash = match known.filter(|k| k.path == *path && k.stamp == *stamp) {
                Some(known) => known.blake3,
                None => {
                    let mut on_step = |n: u64| on_progress(n_done + n, n_all);
                    let blake3 = hash_file(path, &mut on_step)?;
                    if Stamp::of(path)? != *stamp {
                        return Err(changed(path));
                    }
                    if let Some(place) = place.filter(|_| stamp.is_settled()) {
                        let (path, stamp) = (path.clone(), stamp.clone());
                        // A folder that cannot be written costs the time of hashing again.
                        let _ = remember(&place, &Known { path, stamp, blake3: blake3.clone() });
                    }
                    blake3
                }
            };
            n_done += stamp.size;
            hashes.push(hash);
        }
        Ok(match hashes.as_slice() {
            [one] => one.clone(),
            parts => blake3::hash(parts.join(" ").as_bytes()).to_string(),
        })
    }
}

fn changed(path: &Path) -> Error {
    let problem = "the file was changed after it was loaded: run the same command again";
    Error::Model { path: path.to_owned(), problem: problem.to_owned() }
}

fn hash_file(path: &Path, on_step: &mut dyn FnMut(u64)) -> Result<String> {
    let file = std::fs::File::open(path).map_err(Error::io("read", path))?;
    let map = map_file(&file, path)?;
    let mut hasher = blake3::Hasher::new();
    for part in map.chunks(N_STEP) {
        hasher.update_rayon(part);
        on_step(hasher.count());
    }
    Ok(hasher.finalize().to_string())
}

fn known_at(place: &Path) -> Option<Known> {
    serde_json::from_slice(&std::fs::read(place).ok()?).ok()
}

fn remember(place: &Path, known: &Known) -> Result<()> {
    let json = serde_json::to_vec(known)
        .map_err(|error| Error::invalid("hash of a model", error.to_string()))?;
    write_atomically(place, |out| out.write_all(&json))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    /// A file that was not touched for an hour, as models are.
    fn file(path: &Path, bytes: &[u8]) {
        fs::write(path, bytes).unwrap();
        age(path);
    }

    fn age(path: &Path) {
        let then = SystemTime::now() - Duration::from_secs(3600);
        File::options().write(true).open(path).unwrap().set_modified(then).unwrap();
    }

    /// The hash, and the bytes that were read for it.
    fn hash(paths: &[&Path], folder: &Path) -> (String, u64) {
        let mut n_read = 0;
        let files = Files::note(paths.iter().copied()).unwrap();
        let hash = files.hash(Some(folder), &mut |n, _| n_read = n).unwrap();
        (hash, n_read)
    }

    #[test]
    fn hashes_every_byte_as_the_published_tool_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        file(&path, b"abc");
        // From the test vectors that BLAKE3's authors publish for its command line tool.
        let expected = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85";
        assert_eq!(hash(&[&path], folder.path()), (expected.to_owned(), 3));
        file(&path, &vec![7; 3 << 20]);
        let whole = blake3::hash(&vec![7; 3 << 20]).to_string();
        assert_eq!(hash(&[&path], folder.path()), (whole, 3 << 20));
    }

    #[test]
    fn a_change_of_any_kind_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let [path, other] = ["model", "other"].map(|name| folder.path().join(name));
        file(&path, b"abc");
        let (first, _) = hash(&[&path], folder.path());
        // As large, as old, in the same place; and another file that took its place.
        file(&path, b"abd");
        let (second, n_read) = hash(&[&path], folder.path());
        assert!(second != first && n_read == 3);
        file(&other, b"abe");
        fs::rename(&other, &path).unwrap();
        let (third, n_read) = hash(&[&path], folder.path());
        assert!(![&first, &second].contains(&&third) && n_read == 3);
        let files = Files::note([path.as_path()].into_iter()).unwrap();
        file(&path, b"abf");
        let error = files.hash(None, &mut |_, _| ()).unwrap_err().to_string();
        assert!(error.contains("was changed after it was loaded"), "{error}");
    }

    #[test]
    fn all_parts_count_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
        file(&a, b"first");
        file(&b, b"second");
        let of = |paths: &[&Path]| hash(paths, folder.path()).0;
        let both = of(&[&a, &b]);
        assert!(![of(&[&a]), of(&[&b]), of(&[&b, &a])].contains(&both));
        file(&b, b"secund");
        assert_ne!(of(&[&a, &b]), both);
    }

    /// Waits until a change of a moment ago counts as settled: ctime cannot be set back.
    #[test]
    fn a_file_is_read_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        file(&path, b"abc");
        let first = hash(&[&path], folder.path());
        assert_eq!(hash(&[&path], folder.path()), first, "it changed a moment ago");
        std::thread::sleep(SETTLED + Duration::from_millis(200));
        assert_eq!(hash(&[&path], folder.path()), first);
        assert_eq!(hash(&[&path], folder.path()), (first.0.clone(), 0));
        assert_eq!(
            Files::note([&*path].into_iter()).unwrap().hash(None, &mut |_, _| ()).unwrap(),
            first.0
        );
    }
}
