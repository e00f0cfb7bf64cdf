//! What a sidecar says.

use std::path::Path;

use serde::Serialize;

use super::verify::Verified;
use crate::cli::show::chance;
use crate::cli::show::fold;
use crate::cli::show::heads::{self, Head};
use crate::cli::show::heat::Maps;
use crate::cli::show::reading::ReadingFacts;
use crate::cli::show::table::{counted, facts, form_line, short};
use crate::probe::Chance;
use crate::steer::{About, LayerVector, Sidecar, length};

/// A sidecar.
#[derive(Debug, schemars::JsonSchema, Serialize)]
pub(in crate::cli) struct SidecarFacts {
    path: String,
    name: String,
    fingerprint: String,
    description: Option<String>,
    license: Option<String>,
    author: Option<String>,
    model: BaseModel,
    n_layer: usize,
    n_head: usize,
    d_head: usize,
    /// How the heads' strengths were found: `iti`, one for all; `dpo` and `sft`, trained.
    method: &'static str,
    direction: &'static str,
    k: usize,
    alpha: f32,
    positions: String,
    seed: u64,
    data: Data,
    prompt: String,
    split: String,
    candor_version: String,
    /// By what the heads were chosen; null of an imported vector and a mix.
    selection: Option<&'static str>,
    /// In the order in which they were chosen.
    heads: Vec<Head>,
    /// Values of a layer's output; null without directions of layers.
    n_embd: Option<usize>,
    /// Directions of layers, ascending.
    layers: Vec<Layer>,
    /// `[n_layer, n_head]`; empty where the sidecar does not hold them.
    head_accuracy: Vec<f32>,
    /// `[n_layer, n_head]`, null where it was not measured; empty where the sidecar does not hold
    /// them.
    head_effect: Vec<f32>,
    /// As `head_effect`.
    head_cost: Vec<f32>,
    /// Questions that it was fitted on; null where the sidecar does not say.
    n_seen: Option<usize>,
    /// What the best head's accuracy is worth; null where the sidecar does not say.
    chance: Option<Chance>,
    /// What the probes' readings are worth; null where no scale was fitted to them.
    reading: Option<ReadingFacts>,
    /// With --verify: what it does to a model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) verify: Option<Verified>,
}

/// The direction of a layer.
#[derive(Debug, schemars::JsonSchema, Serialize)]
pub(super) struct Layer {
    pub(super) layer: usize,
    /// Of the direction: alpha times this is how far a layer's output is moved.
    pub(super) length: f64,
}

impl Layer {
    pub(super) fn of((&layer, direction): (&usize, &Vec<f32>)) -> Self {
        Self { layer, length: length(direction) }
    }
}

/// The model that a sidecar was made for.
#[derive(Debug, schemars::JsonSchema, Serialize)]
struct BaseModel {
    name: String,
    architecture: String,
    fingerprint: String,
    /// Hash of the bytes of the file that it was fitted on; null where the sidecar does not say.
    content: Option<String>,
    /// What was baked into that file; null where nothing was, or the sidecar does not say.
    baked: Option<String>,
}

/// The data set that a sidecar was fitted on.
#[derive(Debug, schemars::JsonSchema, Serialize)]
struct Data {
    name: String,
    sha256: String,
}

impl SidecarFacts {
    pub(super) fn of(path: &Path, sidecar: Sidecar) -> Self {
        let fingerprint = sidecar.fingerprint();
        let heads = heads::best_first(&sidecar);
        let selection = heads::chosen_by(&sidecar.about);
        let method = sidecar.about.method_name();
        let Sidecar { vector, about } = sidecar;
        let About { architecture, name, model_name, model_fingerprint, .. } = about;
        Self {
            path: path.display().to_string(),
            name,
            fingerprint,
            description: about.description,
            license: about.license,
            author: about.author,
            model: BaseModel {
                name: model_name,
                architecture,
                fingerprint: model_fingerprint,
                content: about.evidence.content,
                baked: about.evidence.baked,
            },
            n_layer: vector.n_layer(),
            n_head: vector.n_head(),
            d_head: vector.d_head(),
            method,
            direction: about.direction.name(),
            k: vector.heads().len(),
            alpha: about.alpha,
            positions: about.positions.to_string(),
            n_seen: about.evidence.seen.as_ref().map(Vec::len),
            chance: about.evidence.chance,
            seed: about.seed,
            data: Data { name: about.data_name, sha256: about.data_sha256 },
            prompt: about.prompt,
            split: about.split,
            candor_version: about.candor_version,
            selection,
            heads,
            n_embd: vector.layers().map(LayerVector::n_embd),
            layers: vector
                .layers()
                .map(|layers| layers.directions().iter().map(Layer::of).collect())
                .unwrap_or_default(),
            reading: ReadingFacts::of(&vector),
            head_accuracy: about.head_accuracy,
            head_effect: about.head_effect,
            head_cost: about.head_cost,
            verify: None,
        }
    }

    /// What all heads know and do, where the sidecar holds it.
    pub(super) fn maps(&self) -> Option<Maps<'_>> {
        let selected = self.heads.iter().map(|head| head.site);
        Maps::new(&self.head_accuracy, &self.head_effect, self.n_head, selected)
    }

    pub(super) fn model_name(&self) -> &str {
        &self.model.name
    }

    /// Which layers have a direction, and how long these are.
    fn layers_text(&self) -> Option<String> {
        let (first, last) = (self.layers.first()?, self.layers.last()?);
        let lengths = || self.layers.iter().map(|layer| layer.length);
        let (low, high) = (lengths().fold(f64::INFINITY, f64::min), lengths().fold(0.0, f64::max));
        let n = self.layers.len();
        let of = if n == last.layer - first.layer + 1 { "" } else { "of " };
        Some(format!(
            "{n}, {of}{} to {}, directions of length {low:.3} to {high:.3}",
            first.layer, last.layer
        ))
    }

    pub(super) fn text(&self, n_head: usize) -> String {
        let mut rows = vec![("sidecar", self.path.clone()), ("name", self.name.clone())];
        let optional = [
            ("description", &self.description),
            ("licence", &self.license),
            ("author", &self.author),
        ];
        rows.extend(optional.into_iter().filter_map(|(name, text)| Some((name, text.clone()?))));
        let model = &self.model;
        rows.extend([
            ("sidecar fingerprint", self.fingerprint.clone()),
            ("model", format!("{} ({})", model.name, model.architecture)),
            ("model fingerprint", model.fingerprint.clone()),
            (
                "geometry",
                format!(
                    "{} layers of {} heads of {} values",
                    self.n_layer, self.n_head, self.d_head
                ),
            ),
            ("method", self.method.to_owned()),
            ("direction", self.direction.to_owned()),
            ("alpha", short(self.alpha)),
            ("positions", self.positions.clone()),
            ("seed", self.seed.to_string()),
            ("data", self.data.name.clone()),
            ("data SHA-256", self.data.sha256.clone()),
            ("prompt", form_line(&self.prompt)),
            ("split", self.split.clone()),
            ("made by", format!("candor {}", self.candor_version)),
        ]);
        let read = self.chance.map(|chance| ("best head", chance::text(&chance)));
        rows.extend(read);
        let fitted_on = [("model baked with", &model.baked), ("model content", &model.content)];
        let place = rows.iter().position(|(name, _)| *name == "geometry").unwrap_or(rows.len());
        for (name, text) in fitted_on {
            if let Some(text) = text {
                rows.insert(place, (name, text.clone()));
            }
        }
        rows.extend(self.n_seen.map(|n| ("fitted on", counted(n, "question"))));
        rows.retain(|(name, value)| *name != "prompt" || !value.is_empty());
        let place = rows.iter().position(|(name, _)| *name == "alpha").unwrap_or(rows.len());
        if self.k > 0 {
            let chosen = self.selection.map_or_else(String::new, |by| format!(", chosen by {by}"));
            rows.insert(place, ("K", format!("{}{chosen}", counted(self.k, "head"))));
        }
        if let Some(reading) = &self.reading {
            rows.push(("probe readings", reading.text()));
        } else if self.heads.iter().any(|head| head.accuracy.is_some()) {
            rows.push(("probe readings", "uncalibrated".to_owned()));
        }
        if let (Some(n_embd), Some(layers)) = (self.n_embd, self.layers_text()) {
            rows.insert(place, ("layers", format!("{layers}, outputs of {n_embd} values")));
        }
        let mut text = facts(&rows);
        if let Some(warning) = self.chance.as_ref().and_then(chance::warning) {
            text.push_str(&format!("\n{warning}\n"));
        }
        if self.k > 0 {
            text.push('\n');
            text.push_str(&heads::text(&self.heads, n_head));
        }
        if let Some(map) = self.maps() {
            text.push('\n');
            text.push_str(&map.text(fold::width()));
        }
        if let Some(verified) = &self.verify {
            text.push('\n');
            text.push_str(&verified.text());
        }
        text
    }
}
