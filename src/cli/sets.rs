//! Data by name: recipes, which are built in, and TruthfulQA and its prompt, which are fetched.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::folders::cache_folder;
use crate::cli::show::output::Output;
use crate::data::{Dataset, sha256};
use crate::error::shown;
use crate::file::write_atomically;
use crate::{Error, Result};

/// Contrastive pairs by theme: see `recipes/README.md`.
const RECIPES: [(&str, &str); 5] = [
    ("brief", include_str!("../../recipes/brief.jsonl")),
    ("certain", include_str!("../../recipes/certain.jsonl")),
    ("cheerful", include_str!("../../recipes/cheerful.jsonl")),
    ("formal", include_str!("../../recipes/formal.jsonl")),
    ("refusing", include_str!("../../recipes/refusing.jsonl")),
];

/// Where TruthfulQA's files lie, by Lin, Hilton and Evans.
const TRUTHFULQA: &str = "sylinrl/TruthfulQA/013686a06be7a7bde5bf8223943e106c7250123c";
/// Its questions, and the SHA-256 of the file.
const QUESTIONS: (&str, &str) =
    ("TruthfulQA.csv", "f9bd9e859cc102cb1f647f1064da7e009be752c416845cf9fa56e6eaae403a7d");
/// Its prompts, in a file of Python, and the SHA-256 of the one called `qa`: six questions with
/// their answers, without blank space around.
const QA_PRESET: (&str, &str) =
    ("truthfulqa/presets.py", "5c0da5f346e8652c9a85061a6e3aca6bc82e10a8a7dad4596fe980a9c9bae543");
/// Far more than the file has.
const MOST_BYTES: u64 = 16 << 20;

/// Opens a data set: a file, or a name.
pub(in crate::cli) fn open(path: &Path) -> Result<Dataset> {
    match path.to_str() {
        Some("truthfulqa") if !path.exists() => Dataset::open(&questions()?),
        Some(name) => match name.strip_prefix("recipe:") {
            Some(name) => recipe(name),
            None => Dataset::open(path).map_err(missing),
        },
        None => Dataset::open(path),
    }
}

/// Where there is no such file, the error says which names there are.
fn missing(error: Error) -> Error {
    let Error::Io { path, source, .. } = &error else { return error };
    if source.kind() != std::io::ErrorKind::NotFound {
        return error;
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    let remedy = if stem.contains("truthful") || stem.contains("ruth") && stem.contains("qa") {
        "`--data truthfulqa` fetches it".to_owned()
    } else {
        let recipes = RECIPES.map(|(name, _)| format!("recipe:{name}")).join(", ");
        format!("name a file, or what is built in: truthfulqa (fetched once), {recipes}")
    };
    Error::Data {
        path: path.clone(),
        line: None,
        problem: format!("cannot be read ({source}): {remedy}"),
    }
}

/// `formal`, the two thirds of a recipe to fit on, or `formal:held-out`, the last third.
fn recipe(name: &str) -> Result<Dataset> {
    let (theme, part) = name.split_once(':').unwrap_or((name, ""));
    let found = RECIPES.iter().find(|(name, _)| *name == theme);
    let (Some((_, pairs)), "" | "held-out") = (found, part) else {
        let names = RECIPES.map(|(name, _)| name).join(", ");
        return Err(Error::invalid(
            format!("recipe:{}", shown(name)),
            format!("no recipe has this name: there are {names}, each also with :held-out"),
        ));
    };
    let is_held_out = part == "held-out";
    let lines = pairs.lines().enumerate().filter(|(i, _)| (i % 3 == 2) == is_held_out);
    let text: String = lines.map(|(_, line)| format!("{line}\n")).collect();
    let stem = if is_held_out { format!("{theme}-held-out") } else { theme.to_owned() };
    Dataset::from_bytes(&PathBuf::from(format!("{stem}.jsonl")), text.as_bytes())
}

/// The file of TruthfulQA's questions, fetched once and compared with its hash.
fn questions() -> Result<PathBuf> {
    let (file, hash) = QUESTIONS;
    kept("--data truthfulqa", "TruthfulQA.csv", hash, || fetched("--data truthfulqa", file))
}

/// The file of TruthfulQA's six answered examples, which its own evaluation puts before each
/// question; fetched once and compared with its hash.
pub(in crate::cli) fn qa_preset() -> Result<PathBuf> {
    let (file, hash) = QA_PRESET;
    kept("--preamble truthfulqa", "TruthfulQA-qa-preset.txt", hash, || {
        let source = fetched("--preamble truthfulqa", file)?;
        let source = String::from_utf8_lossy(&source).replace('\r', "");
        // The strings of a Python file; which of them is the prompt, its hash says.
        let mut strings = source.split("\"\"\"").map(|text| text.trim().as_bytes());
        let found = strings.find(|text| sha256(text) == hash);
        Ok(found.unwrap_or(source.as_bytes()).to_vec())
    })
}

/// A file of that hash in the cache, made where it is not there.
fn kept(
    option: &str,
    name: &str,
    hash: &str,
    make: impl FnOnce() -> Result<Vec<u8>>,
) -> Result<PathBuf> {
    let path = cache_folder("data")?.join(name);
    if std::fs::read(&path).is_ok_and(|bytes| sha256(&bytes) == hash) {
        return Ok(path);
    }
    let bytes = make()?;
    if sha256(&bytes) != hash {
        let problem = format!(
            "what was received is not what was expected: its SHA-256 is {}, not {hash}; nothing \
             was kept",
            sha256(&bytes)
        );
        return Err(Error::invalid(option, problem));
    }
    write_atomically(&path, |out| out.write_all(&bytes))?;
    Ok(path)
}

/// A file of TruthfulQA's repository.
fn fetched(option: &str, file: &str) -> Result<Vec<u8>> {
    let endpoint = std::env::var("CANDOR_DATA_ENDPOINT").ok().filter(|text| !text.is_empty());
    let endpoint = endpoint.as_deref().unwrap_or("https://raw.githubusercontent.com");
    let url = format!("{}/{TRUTHFULQA}/{file}", endpoint.trim_end_matches('/'));
    Output::new(false).note(format_args!(
        "fetching TruthfulQA (Lin et al., 2022; licence Apache-2.0) from {url}"
    ));
    let agent: ureq::Agent =
        ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(120))).build().into();
    let fetched = agent
        .get(&url)
        .call()
        .and_then(|mut answer| answer.body_mut().with_config().limit(MOST_BYTES).read_to_vec());
    fetched.map_err(|error| {
        let error = shown(&error.to_string());
        let problem =
            format!("could not be fetched ({error}): check the network, or name your own file");
        Error::invalid(option, problem)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn recipes_are_balanced_and_keep_a_third_apart() {
        for (name, text) in RECIPES {
            let open = |part: &str| open(Path::new(&format!("recipe:{name}{part}"))).unwrap();
            let (fit, held_out) = (open(""), open(":held-out"));
            let n = text.lines().count();
            assert!(n >= 60, "{name}: {n} pairs");
            assert_eq!(fit.questions.len() + held_out.questions.len(), n, "{name}: a pair twice");
            assert!(held_out.questions.len() * 3 >= n - 2, "{name}");
            let pairs: Vec<serde_json::Value> =
                text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            let texts = |key: &str| -> Vec<String> {
                pairs.iter().map(|pair| pair[key].as_str().unwrap().to_owned()).collect()
            };
            let (positive, negative) = (texts("positive"), texts("negative"));
            let all: BTreeSet<&String> = positive.iter().chain(&negative).collect();
            assert_eq!(all.len(), 2 * n, "{name}: no text stands twice");
            // Brief against wordy is a difference in length; in all others it would be an accident.
            if name != "brief" {
                let words = |texts: &[String]| {
                    texts.iter().map(|text| text.split_whitespace().count()).sum::<usize>() as f64
                };
                let ratio = words(&positive) / words(&negative);
                assert!((0.85..1.18).contains(&ratio), "{name}: {ratio} times as many words");
            }
        }
    }

    #[test]
    fn an_unknown_recipe_is_told_which_there_are() {
        let message = open(Path::new("recipe:sad")).unwrap_err().to_string();
        assert!(message.contains("brief, certain, cheerful, formal, refusing"), "{message}");
        assert!(open(Path::new("recipe:formal:x")).is_err());
    }
}
