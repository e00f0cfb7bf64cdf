//! What a card needs of a `report.json` that `candor eval` wrote.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::belongs::{Subject, check};
use crate::cli::show::heads::amount;
use crate::cli::show::report::Under;
use crate::cli::show::table::{counted, percent, short};
use crate::error::{shown, shown_up_to};
use crate::file::{DATA_MAX, read_up_to};
use crate::steer::Sidecar;
use crate::{Error, Result};

/// The file's part that is read. What else is there, such as a newer candor's, does no harm.
#[derive(Debug, Deserialize)]
pub(super) struct Document {
    candor: String,
    #[serde(default)]
    command: Option<String>,
    pub(super) model: Model,
    pub(super) data: Data,
    pub(super) settings: Settings,
    rows: Vec<Row>,
    #[serde(default)]
    pub(super) folds: Vec<Fold>,
    n_question: usize,
    /// How many questions the vector saw in fitting; an older report does not say.
    #[serde(default)]
    seen_text: Option<String>,
    #[serde(default)]
    seen: Option<Seen>,
    /// What the gate is, where there was one.
    #[serde(default)]
    gate_text: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Seen {
    n_seen: usize,
}

#[derive(Debug, Deserialize)]
pub(super) struct Fold {
    pub(super) k: usize,
    pub(super) alpha: f32,
    /// What K and α looked like while they were chosen; none where they were given.
    #[serde(default)]
    pub(super) mc1: Option<f64>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Model {
    pub(super) fingerprint: String,
    /// Hash of its file's bytes.
    #[serde(default)]
    pub(super) content: Option<String>,
    /// What is baked into it.
    #[serde(default)]
    pub(super) baked: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Data {
    pub(super) name: String,
    pub(super) sha256: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Settings {
    pub(super) vector: String,
    pub(super) vector_fingerprint: Option<String>,
    #[serde(default)]
    pub(super) prompt: Option<String>,
    #[serde(default)]
    pub(super) preamble: Option<String>,
    pub(super) policy: String,
    #[serde(default)]
    pub(super) direction: Option<String>,
    pub(super) selection: Option<String>,
    /// None where there was no bound.
    #[serde(default)]
    pub(super) kl_budget: Option<f64>,
    n_random: usize,
    n_document: usize,
    judge: serde_json::Value,
}

#[derive(Debug, Deserialize)]
struct Row {
    name: String,
    mc1: f64,
    mc2: f64,
    mc3: f64,
    #[serde(rename = "true")]
    truth: Option<f64>,
    info: Option<f64>,
    ce: Option<f64>,
    kl: Option<f64>,
    #[serde(default)]
    interval: Intervals,
}

#[derive(Debug, Default, Deserialize)]
struct Intervals {
    mc1: Option<Interval>,
}

#[derive(Debug, Deserialize)]
struct Interval {
    low: f64,
    high: f64,
}

/// The same in words.
#[derive(Debug, schemars::JsonSchema, Serialize)]
pub(super) struct Results {
    candor: String,
    command: Option<String>,
    data: String,
    sha256: String,
    /// Which vector was scored, against what.
    what: String,
    judge: String,
    n_question: usize,
    n_document: usize,
    has_info: bool,
    /// What steering through the gate is.
    gate: Option<String>,
    rows: Vec<Line>,
    /// The data's name, for the hub's own table, which has no other place to say what was seen.
    data_in_table: String,
    /// What the vector reached, for the hub's own table.
    metrics: Vec<Metric>,
}

/// A number of the steered model, in per cent, or nats for KL.
#[derive(schemars::JsonSchema, Debug, Serialize)]
struct Metric {
    kind: String,
    name: String,
    value: f64,
}

/// The numbers of the steered row.
fn metrics(rows: &[Row]) -> Vec<Metric> {
    let Some(row) = rows.iter().find(|row| row.name == "iti") else { return Vec::new() };
    let round = |x: f64| (x * 1e4).round() / 1e4;
    let shares = [
        ("mc1", "MC1, %", Some(row.mc1)),
        ("mc2", "MC2, %", Some(row.mc2)),
        ("mc3", "MC3, %", Some(row.mc3)),
        ("true", "true answers, %", row.truth),
        ("informative", "informative answers, %", row.info),
    ]
    .map(|(kind, name, share)| (kind, name, share.map(|share| 100.0 * share)));
    let nats = [("kl", "KL on neutral prose, nats per token", row.kl)];
    shares
        .into_iter()
        .chain(nats)
        .filter_map(|(kind, name, value)| {
            let value = round(value?);
            value.is_finite().then(|| Metric {
                kind: kind.to_owned(),
                name: name.to_owned(),
                value,
            })
        })
        .collect()
}

/// One condition.
#[derive(Debug, schemars::JsonSchema, Serialize)]
struct Line {
    title: String,
    mc1: String,
    mc2: String,
    mc3: String,
    truth: String,
    info: String,
    ce: String,
    kl: String,
}

/// Reads a report and makes sure that it is of this sidecar, or of vectors that were fitted as it was.
pub(super) fn read(path: &Path, subject: &Subject) -> Result<Results> {
    let invalid = |problem: String| Error::invalid(path.display().to_string(), problem);
    let bytes = read_up_to(DATA_MAX, path)?;
    let document: Document = serde_json::from_slice(&bytes).map_err(|error| {
        let problem = shown(&error.to_string());
        invalid(format!(
            "is no report.json of `candor eval --report DIR`, and a card shows no other: {problem}"
        ))
    })?;
    let notes = check(&document, subject).map_err(invalid)?;
    let mut what = what(&document, subject.sidecar);
    for note in notes {
        what = format!("{what}. {note}");
    }
    let under = Under { layers_alone: false, baked: document.model.baked.is_some() };
    let settings = document.settings;
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
    let line = |row: &Row| Line {
        title: match row.name.as_str() {
            "random" => format!("{}, {} ×", under.title("random"), settings.n_random),
            name => under.title(name),
        },
        mc1: match &row.interval.mc1 {
            Some(Interval { low, high }) => {
                format!("{} ({} to {})", percent(row.mc1), percent(*low), percent(*high))
            }
            None => percent(row.mc1),
        },
        mc2: percent(row.mc2),
        mc3: percent(row.mc3),
        truth: or_dash(row.truth.map(percent)),
        info: or_dash(row.info.map(percent)),
        ce: or_dash(row.ce.map(|x| format!("{x:.3}"))),
        kl: or_dash(row.kl.map(|x| format!("{x:.4}"))),
    };
    Ok(Results {
        rows: document.rows.iter().map(line).collect(),
        metrics: metrics(&document.rows),
        data_in_table: match &document.seen {
            Some(Seen { n_seen: n @ 1.. }) => format!(
                "{} ({n} of {} used in fitting)",
                document.data.name,
                counted(document.n_question, "question")
            ),
            _ => document.data.name.clone(),
        },
        gate: document.gate_text.as_ref().map(|text| shown_up_to(800, text)),
        has_info: document.rows.iter().any(|row| row.info.is_some()),
        what: match &document.seen_text {
            Some(seen) => {
                format!("{what}. {}. Steered tokens: {}", shown_up_to(400, seen), settings.policy)
            }
            None => format!("{what}. Steered tokens: {}", settings.policy),
        },
        judge: match settings.judge {
            serde_json::Value::String(judge) => judge,
            other => other.to_string(),
        },
        candor: document.candor,
        command: document.command.map(|command| without_folders(&command)),
        data: document.data.name,
        sha256: document.data.sha256,
        n_question: document.n_question,
        n_document: settings.n_document,
    })
}

/// A command without the folders of its files, which are nobody's business but the author's.
fn without_folders(command: &str) -> String {
    let bare = |word: String| match word.split_once('=') {
        Some((name, path)) if name.starts_with("--") && Path::new(path).is_absolute() => {
            format!("{name}={}", file_name(path))
        }
        _ if Path::new(&word).is_absolute() => file_name(&word),
        _ => word,
    };
    let Some(words) = shlex::split(command) else { return String::new() };
    let words: Vec<String> = words.into_iter().map(bare).collect();
    shlex::try_join(words.iter().map(String::as_str)).unwrap_or_default()
}

fn file_name(path: &str) -> String {
    let name = Path::new(path).file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Which vector was scored, in words.
fn what(document: &Document, sidecar: &Sidecar) -> String {
    let Document { settings, folds, .. } = document;
    let about = &sidecar.about;
    let strengths = |own: bool| {
        let strength = |fold: &Fold| {
            let amount = match own {
                true => amount(&sidecar.vector),
                false => counted(fold.k, "head"),
            };
            format!("{amount} at α = {}", short(fold.alpha))
        };
        folds.iter().map(strength).collect::<Vec<_>>().join(" and ")
    };
    if settings.vector_fingerprint.is_none() {
        let by = settings.selection.as_deref().unwrap_or("accuracy");
        return format!(
            "Not this very vector was scored, but two that were fitted in the same way, each on one half \
             of the questions and scored on the other: {}, heads chosen by {by}",
            strengths(false)
        );
    }
    let mut other = Vec::new();
    if folds.iter().any(|fold| short(fold.alpha) != short(about.alpha)) {
        other.push(format!("α = {}", short(about.alpha)));
    }
    if settings.policy != about.positions.to_string() {
        other.push(format!("tokens steered: {}", about.positions));
    }
    let how = match other.is_empty() {
        true => "as it is".to_owned(),
        false => format!("otherwise than it is stored ({})", other.join("; ")),
    };
    let on = if about.is_imported() {
        ", which was made by another program,"
    } else if document.seen_text.is_some() {
        ""
    } else if document.data.sha256 == about.data_sha256 {
        ", on the data set that it was fitted on: questions that it has not seen may give less"
    } else {
        ", on another data set than it was fitted on"
    };
    match about.is_imported() {
        true => format!("This vector{on} was scored {how}: {}", strengths(true)),
        false => format!("This vector was scored {how}{on}: {}", strengths(true)),
    }
}
