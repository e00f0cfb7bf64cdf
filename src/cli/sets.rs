//! Data sets by name: recipes, which are built in, and TruthfulQA, which is fetched.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::embedded::cache_folder;
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

/// TruthfulQA's questions, by Lin, Hilton and Evans.
const TRUTHFULQA: &str =
    "sylinrl/TruthfulQA/013686a06be7a7bde5bf8223943e106c7250123c/TruthfulQA.csv";
const TRUTHFULQA_SHA256: &str = "f9bd9e859cc102cb1f647f1064da7e009be752c416845cf9fa56e6eaae403a7d";
/// Far more than the file has.
const MOST_BYTES: u64 = 16 << 20;

/// Opens a data set: a file, or a name.
pub(in crate::cli) fn open(path: &Path) -> Result<Dataset> {
    match path.to_str() {
        Some("truthfulqa") if !path.exists() => Dataset::open(&truthfulqa()?),
        Some(name) => match name.strip_prefix("recipe:") {
            Some(name) => recipe(name),
            None => Dataset::open(path),
        },
        None => Dataset::open(path),
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
            format!(
                "there is none of this name: the recipes are {names}, each also with :held-out"
            ),
        ));
    };
    let is_held_out = part == "held-out";
    let lines = pairs.lines().enumerate().filter(|(i, _)| (i % 3 == 2) == is_held_out);
    let text: String = lines.map(|(_, line)| format!("{line}\n")).collect();
    let stem = if is_held_out { format!("{theme}-held-out") } else { theme.to_owned() };
    Dataset::from_bytes(&PathBuf::from(format!("{stem}.jsonl")), text.as_bytes())
}

/// The file of TruthfulQA, fetched once and compared with its hash.
fn truthfulqa() -> Result<PathBuf> {
    let path = cache_folder("data")?.join("TruthfulQA.csv");
    let is_whole = |bytes: &[u8]| sha256(bytes) == TRUTHFULQA_SHA256;
    if std::fs::read(&path).is_ok_and(|bytes| is_whole(&bytes)) {
        return Ok(path);
    }
    let endpoint = std::env::var("CANDOR_DATA_ENDPOINT").ok().filter(|text| !text.is_empty());
    let endpoint = endpoint.as_deref().unwrap_or("https://raw.githubusercontent.com");
    let url = format!("{}/{TRUTHFULQA}", endpoint.trim_end_matches('/'));
    Output::new(false).note(format_args!(
        "fetching TruthfulQA (Lin et al., 2022; licence Apache-2.0) from {url}"
    ));
    let fault = |problem: String| Error::invalid("--data truthfulqa", problem);
    let agent: ureq::Agent =
        ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(120))).build().into();
    let fetched = agent
        .get(&url)
        .call()
        .and_then(|mut answer| answer.body_mut().with_config().limit(MOST_BYTES).read_to_vec());
    let bytes = fetched.map_err(|error| {
        let error = shown(&error.to_string()).to_string();
        fault(format!("could not be fetched ({error}): check the network, or name a file of yours"))
    })?;
    if !is_whole(&bytes) {
        return Err(fault(format!(
            "what came is not the file that is expected: its SHA-256 is {}, not {TRUTHFULQA_SHA256}; \
             nothing was kept",
            sha256(&bytes)
        )));
    }
    write_atomically(&path, |out| out.write_all(&bytes))?;
    Ok(path)
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
