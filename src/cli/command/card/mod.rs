//! `candor card`: a vector's model card, for the repository that it is published in.

mod belongs;
mod report;

use std::path::{Path, PathBuf};

use clap::Args;
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior};
use serde::Serialize;

use self::belongs::Subject;
use self::report::Results;
use crate::cli::args::provenance::ProvenanceArgs;
use crate::cli::show::output::Output;
use crate::cli::show::reading::ReadingFacts;
use crate::cli::show::table::{bytes, count, printable_line, short};
use crate::cli::show::target::check_target;
use crate::cli::show::{chance, heads};
use crate::cli::{embedded, folders};
use crate::data::PromptForm;
use crate::file::write_atomically;
use crate::gguf::Gguf;
use crate::steer::{Method, Sidecar, find_beside, length};
use crate::{Error, Result, content, fingerprint};

const TEMPLATE: &str = include_str!("card.md.jinja");

/// The question that the card asks.
const EXAMPLE: &str = "What is the capital of Australia?";
/// What stands in place of a number.
const NOT_KNOWN: &str = "–";

/// Write a model card (Markdown with the front matter that model hubs read)
///
/// The card says what the sidecar is, where it comes from, how to use it, and what was measured,
/// taken from the report.json of `candor eval --report DIR`. Without a report it says that nothing
/// was measured.
#[derive(Debug, Args)]
pub(in crate::cli) struct CardArgs {
    /// The model, a GGUF file [default: the built-in demo model].
    #[arg(short, long, value_name = "GGUF")]
    model: Option<PathBuf>,

    /// The sidecar [default: the one beside the model].
    #[arg(long, value_name = "FILE")]
    steer: Option<PathBuf>,

    /// The report.json of `candor eval` with the measurements.
    #[arg(long, value_name = "JSON")]
    report: Option<PathBuf>,

    #[command(flatten)]
    provenance: ProvenanceArgs,

    /// The data set's repository on the hub, such as domenicrosati/TruthfulQA.
    #[arg(long, value_name = "OWNER/REPO")]
    dataset: Option<String>,

    /// The file to write, `-` for stdout [default: the sidecar's name with .md].
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// What `--json` gives.
#[derive(schemars::JsonSchema, Serialize)]
pub(in crate::cli) struct Document<'a> {
    path: &'a Path,
    has_results: bool,
}

impl CardArgs {
    pub(in crate::cli) fn run(&self, output: Output) -> Result<()> {
        let model = embedded::model_or(self.model.as_ref())?;
        let file = Gguf::open_model(&model)?;
        let print = fingerprint(&file)?;
        let (path, mut sidecar) = match &self.steer {
            Some(path) => (path.clone(), Sidecar::read(path)?),
            None => find_beside(&model, &print)?.ok_or_else(|| {
                let problem = "there is none for this model beside it: name one with --steer FILE";
                Error::invalid("sidecar", problem)
            })?,
        };
        if sidecar.about.model_fingerprint != print {
            let problem = format!(
                "is of a model with the fingerprint {print}, and {} was made for {}: give its own \
                 model with -m",
                path.display(),
                sidecar.about.model_fingerprint
            );
            return Err(Error::invalid(model.display().to_string(), problem));
        }
        let target = match &self.output {
            Some(target) => target.clone(),
            None => path.with_extension("md"),
        };
        let is_stdout = target.as_os_str() == "-";
        if !is_stdout {
            let report = self.report.as_deref();
            check_target(
                &target,
                &[
                    ("the model", Some(&model)),
                    ("the sidecar", Some(&path)),
                    ("the report", report),
                ],
            )?;
        }
        let report = match &self.report {
            None => None,
            Some(report) => {
                let content = content(&model, folders::cache_folder("hashes").ok().as_deref())?;
                let typed = |path: &Path| as_word(&path.display().to_string());
                let paths = [typed(&path), typed(&model)];
                let subject = Subject { sidecar: &sidecar, paths, content: &content };
                Some(report::read(report, &subject)?)
            }
        };
        let has_results = report.is_some();
        // What is said here of its origin does not make it another vector.
        let fingerprint = sidecar.fingerprint();
        self.provenance.apply(&mut sidecar.about)?;
        let mut card = Card::of(&path, &sidecar, &file, report)?;
        card.fingerprint = fingerprint;
        card.dataset.clone_from(&self.dataset);
        let text = render(&card)?;
        if is_stdout {
            output.text(&text);
            return Ok(());
        }
        write_atomically(&target, |out| out.write_all(text.as_bytes()))?;
        if output.is_json() {
            output.json(&Document { path: &target, has_results });
        } else {
            let results =
                if has_results { "with results" } else { "nothing measured: see --report" };
            let target = printable_line(&target.display().to_string());
            output.line(format_args!("wrote {target} ({results})"));
        }
        Ok(())
    }
}

/// All that the template names.
#[derive(Debug, schemars::JsonSchema, Serialize)]
struct Card {
    name: String,
    description: Option<String>,
    author: Option<String>,
    /// As a hub knows it: an identifier in lower case, or `other`.
    license: Option<String>,
    license_name: Option<String>,
    license_text: Option<String>,
    base_model: Option<String>,
    languages: Vec<String>,
    dataset: Option<String>,
    file: String,
    n_byte: String,
    fingerprint: String,
    model: ModelFacts,
    /// How much is steered, in words.
    amount: String,
    k: usize,
    n_site: usize,
    n_layer: usize,
    alpha: String,
    positions: String,
    direction: &'static str,
    selection: Option<&'static str>,
    /// What the probes' readings are worth, where a scale was fitted to them.
    readings: Option<String>,
    seed: u64,
    data: Data,
    prompt: String,
    split: String,
    /// What was baked into the model that it was fitted on.
    baked: Option<String>,
    /// What the best head's accuracy is worth.
    reading: Option<String>,
    /// That it is worth nothing, where it is not.
    reads_nothing: Option<String>,
    candor_version: String,
    example: String,
    /// Fitted, and no mix: σ is a standard deviation.
    is_plain: bool,
    /// A sum of vectors.
    is_mixed: bool,
    /// By what method each head's own strength was trained, where it was.
    trained: Option<&'static str>,
    has_accuracy: bool,
    has_effect: bool,
    heads: Vec<Head>,
    layers: Vec<Layer>,
    report: Option<Results>,
}

#[derive(Debug, schemars::JsonSchema, Serialize)]
struct ModelFacts {
    name: String,
    architecture: String,
    fingerprint: String,
    file: String,
    parameters: String,
    /// Tensor types, the largest share first.
    types: String,
}

#[derive(Debug, schemars::JsonSchema, Serialize)]
struct Data {
    name: String,
    sha256: String,
}

#[derive(Debug, schemars::JsonSchema, Serialize)]
struct Head {
    layer: usize,
    head: usize,
    accuracy: String,
    sigma: String,
    effect: String,
    cost: String,
}

/// The direction of a layer.
#[derive(Debug, schemars::JsonSchema, Serialize)]
struct Layer {
    layer: usize,
    length: String,
}

impl Layer {
    fn of((&layer, direction): (&usize, &Vec<f32>)) -> Self {
        Self { layer, length: format!("{:.4}", length(direction)) }
    }
}

impl Card {
    fn of(path: &Path, sidecar: &Sidecar, file: &Gguf, report: Option<Results>) -> Result<Self> {
        let Sidecar { vector, about } = sidecar;
        let name_of =
            |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let n_byte = std::fs::metadata(path).map_err(Error::io("read", path))?.len();
        let tensors = file.tensors();
        let n_param = tensors.iter().map(|tensor| tensor.dims.iter().product::<u64>()).sum();
        let (license, license_name) = hub_license(about.license.as_deref());
        let nats = |x: Option<f32>| x.map_or_else(|| NOT_KNOWN.to_owned(), |x| format!("{x:.5}"));
        let heads: Vec<Head> = heads::best_first(sidecar)
            .iter()
            .map(|head| Head {
                layer: head.site.layer,
                head: head.site.head,
                accuracy: head.accuracy.map_or_else(
                    || NOT_KNOWN.to_owned(),
                    |share| format!("{:.1} %", 100.0 * share),
                ),
                sigma: format!("{:.4}", head.sigma),
                effect: nats(head.effect),
                cost: nats(head.cost),
            })
            .collect();
        let trained = (about.method != Method::Iti).then(|| about.method.name());
        Ok(Self {
            name: about.name.clone(),
            description: about
                .description
                .as_deref()
                .map(|text| text.trim_end_matches('.').to_owned()),
            author: about.author.clone(),
            license,
            license_name,
            license_text: about.license.clone(),
            // A hub takes no name but that of a repository.
            base_model: match &about.base_model {
                Some(repo) => Some(repo.clone()),
                None => hub_name(file)?,
            },
            languages: about.languages.clone(),
            dataset: None,
            file: name_of(path),
            n_byte: bytes(n_byte),
            fingerprint: sidecar.fingerprint(),
            model: ModelFacts {
                name: about.model_name.clone(),
                architecture: about.architecture.clone(),
                fingerprint: about.model_fingerprint.clone(),
                file: name_of(file.path()),
                parameters: count(n_param),
                types: types(file),
            },
            amount: heads::amount(vector),
            k: heads.len(),
            n_layer: vector.n_layer(),
            n_site: vector.n_layer() * vector.n_head(),
            alpha: short(about.alpha),
            positions: about.positions.to_string(),
            direction: about.direction.name(),
            selection: heads::chosen_by(about),
            readings: ReadingFacts::of(vector).map(|reading| reading.text()),
            is_mixed: about.is_mixed(),
            is_plain: !about.is_imported() && !about.is_mixed() && trained.is_none(),
            trained,
            has_accuracy: heads.iter().any(|head| head.accuracy != NOT_KNOWN),
            seed: about.seed,
            data: Data { name: about.data_name.clone(), sha256: about.data_sha256.clone() },
            prompt: about.prompt.clone(),
            split: about.split.clone(),
            baked: about.evidence.baked.clone(),
            reading: about.evidence.chance.as_ref().map(chance::text),
            reads_nothing: about.evidence.chance.as_ref().and_then(chance::warning),
            candor_version: about.candor_version.clone(),
            example: match about.prompt.as_str() {
                "" => EXAMPLE.to_owned(),
                form => PromptForm::parse(form)?.prompt(EXAMPLE),
            },
            has_effect: !about.head_effect.is_empty(),
            heads,
            layers: vector
                .layers()
                .map(|layers| layers.directions().iter().map(Layer::of).collect())
                .unwrap_or_default(),
            report,
        })
    }
}

/// The repository on a hub that the model's file names, as in `org/model`.
fn hub_name(file: &Gguf) -> Result<Option<String>> {
    for key in ["general.repo_url", "general.source.repo_url", "general.base_model.0.repo_url"] {
        let url = file.opt_str(key)?;
        let name = url.and_then(|url| url.strip_prefix("https://huggingface.co/"));
        if let Some(name) =
            name.map(|name| name.trim_end_matches('/')).filter(|name| !name.is_empty())
        {
            return Ok(Some(name.to_owned()));
        }
    }
    Ok(None)
}

/// A licence as hubs have it: one SPDX identifier in lower case; `other`, with its name, for what is
/// more than one.
fn hub_license(license: Option<&str>) -> (Option<String>, Option<String>) {
    let Some(license) = license.map(str::trim).filter(|license| !license.is_empty()) else {
        return (None, None);
    };
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    if license.chars().all(is_part) {
        return (Some(license.to_lowercase()), None);
    }
    (Some("other".to_owned()), Some(license.to_owned()))
}

/// The tensor types of a model, the largest share first.
fn types(file: &Gguf) -> String {
    let mut types: Vec<(&str, u64)> = Vec::new();
    for tensor in file.tensors() {
        match types.iter_mut().find(|(name, _)| *name == tensor.kind.name()) {
            Some((_, n_byte)) => *n_byte += tensor.n_byte,
            None => types.push((tensor.kind.name(), tensor.n_byte)),
        }
    }
    types.sort_by_key(|(_, n_byte)| std::cmp::Reverse(*n_byte));
    let types: Vec<String> =
        types.iter().map(|(name, n_byte)| format!("{} of {name}", bytes(*n_byte))).collect();
    types.join(", ")
}

fn render(card: &Card) -> Result<String> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.add_filter("text", |text: String| as_text(&text));
    environment.add_filter("code", |text: String| as_code(&text));
    environment.add_filter("shell", |text: String| as_word(&text));
    // JSON's strings are YAML's, too.
    environment.add_filter("yaml", |text: String| serde_json::Value::String(text).to_string());
    environment
        .render_str(TEMPLATE, Serde(card))
        .map(|text| format!("{}\n", text.trim_end()))
        .map_err(|error| Error::invalid("card", error.to_string()))
}

/// Text from a stranger's file as one line of Markdown that means nothing but itself, in tables, too.
fn as_text(text: &str) -> String {
    let parts: Vec<&str> = text.split('`').collect();
    // Words between backticks stay code, where each backtick has its fellow.
    if parts.len().is_multiple_of(2)
        || parts.iter().skip(1).step_by(2).any(|code| code.trim().is_empty())
    {
        return escaped(text);
    }
    let part = |(i, part): (usize, &&str)| match i % 2 {
        0 => escaped(part),
        _ => format!("`{}`", as_code(part)),
    };
    parts.iter().enumerate().map(part).collect()
}

fn escaped(text: &str) -> String {
    let mut safe = String::new();
    for c in text.chars() {
        if "\\`*_{}[]<>#|~&!".contains(c) {
            safe.push('\\');
        }
        safe.push(if c.is_control() { ' ' } else { c });
    }
    safe
}

/// The same between backticks.
fn as_code(text: &str) -> String {
    let plain = |c: char| match c {
        '`' => '\'',
        c if c.is_control() => ' ',
        c => c,
    };
    text.chars().map(plain).collect::<String>().replace('|', "\\|")
}

/// A word of a shell's command.
fn as_word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:".contains(c);
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if !text.is_empty() && text.chars().all(is_plain) && !text.starts_with('-') {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strangers_words_stay_words() {
        assert_eq!(as_text("a|b\n<img> *c*"), "a\\|b \\<img\\> \\*c\\*");
        assert_eq!(as_text("say `--cv 2|*` *so*"), "say `--cv 2\\|*` \\*so\\*");
        for unpaired in ["a ` b", "`a` `", "``a", "` ` <b>"] {
            assert!(as_text(unpaired).contains("\\`"), "{unpaired}");
        }
        assert_eq!(as_code("Q: {question}\n`x`"), "Q: {question} 'x'");
        assert_eq!(as_word("model.gguf"), "model.gguf");
        assert_eq!(as_word("it's; rm\n-r"), r"'it'\''s; rm -r'");
        assert_eq!(as_word("-m"), "'-m'");
    }

    #[test]
    fn licences_are_named_as_hubs_name_them() {
        assert_eq!(hub_license(Some("Apache-2.0")), (Some("apache-2.0".to_owned()), None));
        let both = Some("MIT OR Apache-2.0".to_owned());
        assert_eq!(hub_license(both.as_deref()), (Some("other".to_owned()), both));
        assert_eq!(hub_license(None), (None, None));
        assert_eq!(hub_license(Some(" ")), (None, None));
    }
}
