//! Models by name: `hf:OWNER/REPO[@REVISION][:QUANT]`, from Hugging Face into its standard cache.
//!
//! A file counts as whole only once its SHA-256 was compared with what the hub says of it; a note in
//! candor's own cache remembers that. The model's path is a link in candor's state folder, so that
//! vectors lie beside it, outlive the hub's cache, and are found under every revision.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use hf_hub::api::Progress;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use sha2::{Digest, Sha256};

use crate::cli::folders::{cache_folder, state_folder};
use crate::cli::show::output::Output;
use crate::cli::show::table::bytes;
use crate::error::shown;
use crate::{Error, Result};

const PREFIX: &str = "hf:";
/// What is taken where no quantization is named, as llama.cpp does.
const USUAL: &str = "Q4_K_M";

/// The name of a model on the hub, where the path is one.
pub(in crate::cli) fn name(path: &Path) -> Option<&str> {
    path.to_str()?.strip_prefix(PREFIX)
}

/// A model on the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    /// `owner/repo`.
    repo: String,
    revision: String,
    quant: Option<String>,
}

impl Wanted {
    fn parse(name: &str) -> Result<Self> {
        let (rest, quant) = match name.split_once(':') {
            Some((rest, quant)) => (rest, Some(quant.to_owned())),
            None => (name, None),
        };
        let (repo, revision) = rest.split_once('@').unwrap_or((rest, "main"));
        let is_word = |word: &str| {
            let is_part = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !word.is_empty() && !word.starts_with('.') && word.chars().all(is_part)
        };
        let is_sound = repo.split('/').count() == 2
            && repo.split('/').all(is_word)
            && revision.split('/').all(is_word)
            && quant.as_deref().is_none_or(is_word);
        if !is_sound {
            let problem = "is not the name of a model on Hugging Face: write hf:OWNER/REPO, \
                           hf:OWNER/REPO:Q4_K_M or hf:OWNER/REPO@REVISION";
            return Err(Error::invalid(shown(&format!("{PREFIX}{name}")), problem));
        }
        Ok(Self { repo: repo.to_owned(), revision: revision.to_owned(), quant })
    }

    fn at(&self, revision: &str) -> Repo {
        Repo::with_revision(self.repo.clone(), RepoType::Model, revision.to_owned())
    }

    fn fault(&self, problem: impl Into<String>) -> Error {
        Error::invalid(format!("{PREFIX}{}", self.repo), problem)
    }

    /// The file that was meant, and its further parts where it is split.
    fn choose(&self, names: &[String]) -> Result<Vec<String>> {
        let is_model = |name: &&String| {
            let lower = name.to_lowercase();
            lower.ends_with(".gguf") && !lower.contains("mmproj") && !lower.contains("imatrix")
        };
        let models: Vec<&String> = names.iter().filter(is_model).collect();
        if models.is_empty() {
            return Err(
                self.fault("holds no GGUF file: look for a repository whose name ends in -GGUF")
            );
        }
        let having = |quant: &str| {
            let quant = quant.to_lowercase();
            models.iter().find(|name| {
                let name = name.to_lowercase();
                name.match_indices(&quant).any(|(start, _)| {
                    let is_end =
                        |c: Option<char>| c.is_none_or(|c| !c.is_ascii_alphanumeric() && c != '_');
                    is_end(name[..start].chars().next_back())
                        && is_end(name[start + quant.len()..].chars().next())
                })
            })
        };
        let first = match &self.quant {
            Some(quant) => having(quant).ok_or_else(|| {
                let there: Vec<&str> = models.iter().map(|name| name.as_str()).collect();
                self.fault(format!(
                    "has no file of {}, but {}",
                    shown(quant),
                    shown(&there.join(", "))
                ))
            })?,
            None => having(USUAL).unwrap_or(&models[0]),
        };
        // `…-00001-of-00003.gguf`
        let parts = first.strip_suffix(".gguf").and_then(|stem| {
            let (stem, n) = stem.rsplit_once("-of-")?;
            let (stem, i) = stem.rsplit_once('-')?;
            let is_number =
                |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
            (is_number(i) && is_number(n)).then(|| (stem.to_owned(), n.to_owned()))
        });
        let Some((stem, n)) = parts else { return Ok(vec![(*first).clone()]) };
        let count: usize = n.parse().unwrap_or(1);
        Ok((1..=count).map(|i| format!("{stem}-{i:05}-of-{n}.gguf")).collect())
    }
}

/// The file of a model, fetched where it is not there; asked once per run.
pub(in crate::cli) fn model(name: &str) -> Result<PathBuf> {
    static KNOWN: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(path) = known.get(name) {
        return Ok(path.clone());
    }
    let path = Hub::open(Wanted::parse(name)?)?.model()?;
    known.insert(name.to_owned(), path.clone());
    Ok(path)
}

/// Where a model came from, as `hf:owner/repo@commit/file`, where it is a link that [`model`] made.
pub(in crate::cli) fn source(path: &Path) -> Option<String> {
    let target = std::fs::read_link(path).ok()?;
    let words: Vec<&str> = target.iter().filter_map(|part| part.to_str()).collect();
    let place = words.iter().position(|word| *word == "snapshots")?;
    let repo = words.get(place.checked_sub(1)?)?.strip_prefix("models--")?.replacen("--", "/", 1);
    Some(format!("{PREFIX}{repo}@{}/{}", words.get(place + 1)?, words.get(place + 2..)?.join("/")))
}

struct Hub {
    wanted: Wanted,
    endpoint: String,
    cache: Cache,
    api: Api,
    is_offline: bool,
}

impl Hub {
    fn open(wanted: Wanted) -> Result<Self> {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        let cache = Cache::from_env();
        let token =
            set("HF_TOKEN").or_else(|| set("HUGGING_FACE_HUB_TOKEN")).or_else(|| cache.token());
        let api = ApiBuilder::from_env()
            .with_token(token)
            .with_progress(false)
            .with_retries(2)
            .with_user_agent("candor", env!("CARGO_PKG_VERSION"))
            .build()
            .map_err(|error| wanted.fault(error.to_string()))?;
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        let is_offline = set("HF_HUB_OFFLINE").is_some_and(|value| value != "0");
        Ok(Self { wanted, endpoint, cache, api, is_offline })
    }

    fn model(&self) -> Result<PathBuf> {
        let wanted = &self.wanted;
        let (commit, names) = if self.is_offline {
            self.cached("HF_HUB_OFFLINE is set")?
        } else {
            match self.api.repo(wanted.at(&wanted.revision)).info() {
                Ok(info) => {
                    let names = info.siblings.into_iter().map(|file| file.rfilename).collect();
                    (info.sha, names)
                }
                Err(error) if status(&error).is_some() => return Err(self.refused(&error)),
                Err(error) => {
                    self.cached(&format!("{} cannot be reached ({error})", self.endpoint))?
                }
            }
        };
        let is_hash = commit.len() == 40 && commit.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_hash {
            return Err(wanted.fault("the hub does not say which commit this is"));
        }
        let files = wanted.choose(&names)?;
        let is_sound = |name: &String| {
            Path::new(name).components().all(|part| matches!(part, std::path::Component::Normal(_)))
        };
        if !files.iter().all(is_sound) {
            return Err(wanted.fault("names a file outside of its folder"));
        }
        let pinned = self.cache.repo(wanted.at(&commit));
        let mut paths = Vec::new();
        for file in &files {
            let pointer = pinned.pointer_path(&commit).join(file);
            let path = match pointer.exists() {
                true => pointer,
                false if self.is_offline => {
                    return Err(wanted
                        .fault(format!("{file} is not in the cache, and HF_HUB_OFFLINE is set")));
                }
                false => self.fetch(&commit, file)?,
            };
            self.verify(&path, file)?;
            paths.push(path);
        }
        // What the branch was last seen at, for when there is no network.
        if let Err(error) = self.cache.repo(wanted.at(&wanted.revision)).create_ref(&commit) {
            Output::new(false).warn(wanted.fault(format!("the cache cannot be written: {error}")));
        }
        let mut links = Vec::new();
        for path in &paths {
            links.push(self.link(path)?);
        }
        links.into_iter().next().ok_or_else(|| wanted.fault("holds no GGUF file"))
    }

    /// The commit that was last seen, and the files of it that are in the cache.
    fn cached(&self, why: &str) -> Result<(String, Vec<String>)> {
        let wanted = &self.wanted;
        let repo = self.cache.repo(wanted.at(&wanted.revision));
        let missing = || {
            wanted.fault(format!(
                "it is not in the cache, and {why}: connect to a network, or name a file with -m FILE.gguf"
            ))
        };
        let folder = repo.pointer_path("x").parent().and_then(Path::parent).map(Path::to_owned);
        let folder = folder.ok_or_else(missing)?;
        let seen = std::fs::read_to_string(folder.join("refs").join(&wanted.revision));
        let commit = seen.map_err(|_| missing())?.trim().to_owned();
        let mut names = Vec::new();
        let snapshot = repo.pointer_path(&commit);
        let mut folders = vec![snapshot.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).map_err(|_| missing())?.flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else if let Ok(name) = path.strip_prefix(&snapshot) {
                    names.push(name.to_string_lossy().replace('\\', "/"));
                }
            }
        }
        names.sort();
        if names.is_empty() {
            return Err(missing());
        }
        if !self.is_offline {
            Output::new(false).note(format_args!("{why}: using what is in the cache"));
        }
        Ok((commit, names))
    }

    /// Downloads a file, going on where an earlier attempt ended.
    fn fetch(&self, commit: &str, file: &str) -> Result<PathBuf> {
        let repo: ApiRepo = self.api.repo(self.wanted.at(commit));
        let metadata = self.api.metadata(&repo.url(file)).map_err(|error| self.refused(&error))?;
        let blob = self.cache.repo(self.wanted.at(commit)).blob_path(metadata.etag());
        if blob.parent().is_none_or(|folder| blob.strip_prefix(folder).is_err())
            || metadata.etag().contains(['/', '\\'])
        {
            return Err(self.wanted.fault("the hub lists a file whose name cannot be used"));
        }
        let part = blob.with_extension("part");
        let have = std::fs::metadata(&part).map_or(0, |part| part.len());
        let size = metadata.size() as u64;
        if have >= size && have > 0 {
            // More than there is to fetch, or all of it but never compared: from the start.
            std::fs::remove_file(&part).map_err(Error::io("remove", &part))?;
        }
        self.check_space(&blob, size.saturating_sub(have))?;
        let bar = Bar::new(file);
        if have > 0 && have < size {
            let (have, size) = (bytes(have), bytes(size));
            Output::new(false).note(format_args!("resuming {file} at {have} of {size}"));
        }
        let result = repo.download_with_progress(file, &bar);
        bar.0.finish_and_clear();
        result.map_err(|error| self.refused(&error))
    }

    /// Refuses to begin what the disk cannot hold.
    fn check_space(&self, blob: &Path, needed: u64) -> Result<()> {
        let folder = blob.parent().unwrap_or(blob);
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        let free = fs4::available_space(folder).map_err(Error::io("look at", folder))?;
        if free >= needed {
            return Ok(());
        }
        Err(self.wanted.fault(format!(
            "needs {}, and {} has {} left: make room, or name another place with HF_HOME",
            bytes(needed),
            folder.display(),
            bytes(free)
        )))
    }

    /// Makes sure that a file is what the hub says it is: large files are named by their SHA-256.
    fn verify(&self, path: &Path, file: &str) -> Result<()> {
        let Ok(blob) = path.canonicalize() else { return Ok(()) };
        let expected = blob.file_name().map(|name| name.to_string_lossy().into_owned());
        let is_hash =
            |name: &String| name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
        let Some(expected) = expected.filter(is_hash) else { return Ok(()) };
        let size = std::fs::metadata(&blob).map_err(Error::io("read", &blob))?.len();
        let note = cache_folder("hub")?.join(&expected);
        if std::fs::read_to_string(&note).is_ok_and(|known| known == size.to_string()) {
            return Ok(());
        }
        let got = hash(&blob, file)?;
        if got == expected {
            return std::fs::write(&note, size.to_string()).map_err(Error::io("write", &note));
        }
        for path in [path, &blob] {
            if path.symlink_metadata().is_ok() {
                std::fs::remove_file(path).map_err(Error::io("remove", path))?;
            }
        }
        Err(self.wanted.fault(format!(
            "{file} arrived damaged and was removed: its SHA-256 is {got}, the hub says {expected}; rerun \
             the same command to fetch it again"
        )))
    }

    /// A link to a file of the hub's cache, in a folder that is candor's.
    fn link(&self, path: &Path) -> Result<PathBuf> {
        let folder = state_folder()?.join("models").join(self.wanted.repo.replace('/', "--"));
        std::fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        let link = folder.join(path.file_name().unwrap_or_default());
        if std::fs::read_link(&link).is_ok_and(|target| target == path) {
            return Ok(link);
        }
        #[cfg(unix)]
        {
            if link.symlink_metadata().is_ok() {
                std::fs::remove_file(&link).map_err(Error::io("remove", &link))?;
            }
            std::os::unix::fs::symlink(path, &link).map_err(Error::io("create", &link))?;
            Ok(link)
        }
        // Windows lets few people make links: vectors then lie in the hub's own cache.
        #[cfg(not(unix))]
        Ok(path.to_owned())
    }

    /// What the hub answered, in words.
    fn refused(&self, error: &ApiError) -> Error {
        let wanted = &self.wanted;
        wanted.fault(match status(error) {
            Some(401 | 403) => {
                "is private or gated: accept its terms on its page, then `hf auth login`, or set HF_TOKEN"
                    .to_owned()
            }
            Some(404) => format!(
                "was not found at {}: check the names of owner, repository and revision ({})",
                self.endpoint, wanted.revision
            ),
            Some(status) => format!("{} answered with status {status}: try again later", self.endpoint),
            None => format!(
                "could not be fetched ({}): rerun the same command to resume",
                shown(&error.to_string())
            ),
        })
    }
}

/// The HTTP status that an error tells of.
fn status(error: &ApiError) -> Option<u16> {
    match error {
        ApiError::RequestError(error) => match **error {
            ureq::Error::StatusCode(status) => Some(status),
            _ => None,
        },
        ApiError::TooManyRetries(error) => status(error),
        _ => None,
    }
}

/// The SHA-256 of a file, with progress.
fn hash(path: &Path, name: &str) -> Result<String> {
    let mut file = std::fs::File::open(path).map_err(Error::io("read", path))?;
    let bar = Bar::new(name);
    bar.0.set_message("checking");
    bar.0.set_length(file.metadata().map_or(0, |file| file.len()));
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        let n = file.read(&mut buffer).map_err(Error::io("read", path))?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
        bar.0.inc(n as u64);
    }
    bar.0.finish_and_clear();
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A bar in bytes.
struct Bar(ProgressBar);

impl Bar {
    fn new(name: impl Display) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let template =
            "{msg:<10} {bar:32} {bytes}/{total_bytes}  {bytes_per_sec}, {eta} left  {prefix}";
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("━╸─"));
        bar.set_message("fetching");
        bar.set_prefix(name.to_string());
        Self(bar)
    }
}

impl Progress for &Bar {
    fn init(&mut self, size: usize, _: &str) {
        self.0.set_length(size as u64);
        self.0.set_position(0);
    }

    fn update(&mut self, size: usize) {
        self.0.inc(size as u64);
    }

    fn finish(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(name: &str, files: &[&str]) -> Result<Vec<String>> {
        let files: Vec<String> = files.iter().map(ToString::to_string).collect();
        Wanted::parse(name)?.choose(&files)
    }

    #[test]
    fn names_are_read_strictly() {
        let parsed = Wanted::parse("o/r@v1:Q4_0").unwrap();
        assert_eq!((parsed.repo.as_str(), parsed.revision.as_str()), ("o/r", "v1"));
        assert_eq!(parsed.quant.as_deref(), Some("Q4_0"));
        for wrong in ["", "o", "o/r/x", "../r", "o/..", "o/r:", "o/r@", "o/r@../x", "o/r:a b", "/r"]
        {
            assert!(Wanted::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_quantization_chooses_the_file() {
        let files =
            ["README.md", "mmproj-f16.gguf", "m-F16.gguf", "m-Q4_K_M.gguf", "m-IQ4_K_M.gguf"];
        assert_eq!(chosen("o/r", &files).unwrap(), ["m-Q4_K_M.gguf"]);
        assert_eq!(chosen("o/r:f16", &files).unwrap(), ["m-F16.gguf"]);
        assert_eq!(chosen("o/r:q4_k_m", &files).unwrap(), ["m-Q4_K_M.gguf"]);
        let message = chosen("o/r:Q8_0", &files).unwrap_err().to_string();
        assert!(message.contains("Q8_0") && message.contains("m-F16.gguf"), "{message}");
        assert!(chosen("o/r", &["a.safetensors"]).is_err());
    }

    #[test]
    fn all_parts_of_a_split_file_are_fetched() {
        let files = ["m-00002-of-00002.gguf", "m-00001-of-00002.gguf"];
        let parts = chosen("o/r", &files).unwrap();
        assert_eq!(parts, ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]);
    }
}
