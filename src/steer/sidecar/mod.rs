//! The sidecar: a steering vector in a file beside its model.
//!
//! The format is specified on the crate's front page, in the section "The sidecar".

mod evidence;
mod place;
mod read;
mod scale;
#[cfg(test)]
pub(super) mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

pub use evidence::{Evidence, FitRecord};
pub use place::{default_path, find_beside, list_beside};

use super::vector::reading_key;
use super::{DirectionKind, LayerVector, Method, Selection, SteeredHead, SteeringVector};
use crate::data::sha256;
use crate::error::shown;
use crate::gguf::{Builder, TensorType};
use crate::{Error, Result};

/// `general.type` of a sidecar.
const TYPE: &str = "adapter";
/// `adapter.type` of a sidecar.
const KIND: &str = "iti";
/// `candor.format` of a sidecar that holds heads alone.
const FORMAT: u32 = 1;
/// `candor.format` of one that holds directions of layers, or `given` ones.
const FORMAT_LAYERS: u32 = 2;

/// Which tokens to steer (ITI, section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Positions {
    /// `generated`: the last token of the prompt and every token after it.
    #[default]
    Generated,
    /// `all`: every token.
    All,
}

impl fmt::Display for Positions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Generated => "generated",
            Self::All => "all",
        })
    }
}

impl FromStr for Positions {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "generated" => Ok(Self::Generated),
            "all" => Ok(Self::All),
            _ => Err(Error::invalid("positions", format!("`{name}` is not `generated` or `all`"))),
        }
    }
}

/// Where a steering vector comes from and how it is meant to be used.
#[derive(Debug, Clone, PartialEq)]
pub struct About {
    /// `general.architecture` of the base model.
    pub architecture: String,
    /// The vector's own name.
    pub name: String,
    /// What it does, in a sentence or two.
    pub description: Option<String>,
    /// An SPDX expression.
    pub license: Option<String>,
    /// Who made it.
    pub author: Option<String>,
    /// Languages of the data, ISO 639 codes; may be empty.
    pub languages: Vec<String>,
    /// Name of the base model.
    pub model_name: String,
    /// Its repository on Hugging Face, as in `owner/model`.
    pub base_model: Option<String>,
    /// Fingerprint of the base model: see [`fingerprint`](crate::fingerprint()).
    pub model_fingerprint: String,
    /// Version of candor that wrote the file.
    pub candor_version: String,
    /// How the heads' strengths were found.
    pub method: Method,
    /// How the directions were found.
    pub direction: DirectionKind,
    /// The strength to use by default, in units of sigma.
    pub alpha: f32,
    /// The tokens to steer by default.
    pub positions: Positions,
    /// Seed of splits and random directions.
    pub seed: u64,
    /// Name of the data set.
    pub data_name: String,
    /// SHA-256 of the data set's file, 64 hexadecimal digits.
    pub data_sha256: String,
    /// The form of the prompts, as in `Q: {question} A: {answer}`.
    pub prompt: String,
    /// How the rows were split into training and validation, in words.
    pub split: String,
    /// By what the heads were chosen.
    pub selection: Selection,
    /// Validation accuracy of every head's probe, F32 `[n_layer, n_head]`; may be empty.
    pub head_accuracy: Vec<f32>,
    /// What moving every head by itself does to the choice between true and false answers, in nats
    /// ([`HeadEffect::effect`](crate::select::HeadEffect)), F32 `[n_layer, n_head]`, NaN where it
    /// was not measured; may be empty.
    pub head_effect: Vec<f32>,
    /// What the same costs, in nats per token of neutral prose
    /// ([`HeadEffect::cost`](crate::select::HeadEffect)); as [`About::head_effect`].
    pub head_cost: Vec<f32>,
    /// What it was fitted on, and what its heads' accuracies are worth.
    pub evidence: Evidence,
}

/// What stands before the name of a repository in `general.base_model.0.repo_url`.
const HUB: &str = "https://huggingface.co/";

/// [`About::split`] of a vector that was not fitted but imported.
const IMPORTED: &str = "none: imported";

impl About {
    /// What an imported vector says in place of a split.
    pub(crate) fn imported_split() -> String {
        IMPORTED.to_owned()
    }

    /// Whether another program made it, so that nothing is known of how its heads were chosen.
    pub(crate) fn is_imported(&self) -> bool {
        self.split == IMPORTED
    }
}

/// A steering vector and where it comes from: the content of a sidecar file.
#[derive(Debug, Clone, PartialEq)]
pub struct Sidecar {
    /// What to add to which heads and layers.
    pub vector: SteeringVector,
    /// Where it comes from and how it is meant to be used.
    pub about: About,
}

impl Sidecar {
    /// Reads a file and checks all of it.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read, [`Error::Gguf`] when it is not GGUF,
    /// [`Error::Sidecar`] when it is not a sidecar or breaks the format.
    pub fn read(path: &Path) -> Result<Self> {
        read::read(path)
    }

    /// Writes the file; an old one is replaced when the new one is complete.
    ///
    /// # Errors
    /// [`Error::Sidecar`] when a number is out of its range, [`Error::Io`] when the file cannot be
    /// written.
    pub fn write(&self, path: &Path) -> Result<()> {
        self.check().map_err(|(place, problem)| Error::Sidecar {
            path: path.to_owned(),
            place,
            problem,
        })?;
        self.builder().write(path)
    }

    /// SHA-256 of the file that [`write`](Self::write) makes, 64 hexadecimal digits; the first 16
    /// will do where people read it.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        sha256(&self.builder().to_bytes())
    }

    /// Refuses a model that the vector was not made for; `path` is the sidecar's, for the message.
    ///
    /// # Errors
    /// [`Error::WrongModel`] when the fingerprint is another.
    pub fn check_model(&self, path: &Path, fingerprint: &str) -> Result<()> {
        if self.about.model_fingerprint == fingerprint {
            return Ok(());
        }
        Err(Error::WrongModel {
            path: path.to_owned(),
            expected: self.about.model_fingerprint.clone(),
            got: fingerprint.to_owned(),
        })
    }

    /// Whether it has probes, and they read the labels of their fit no better than luck: then what they
    /// read of other texts says nothing.
    #[must_use]
    pub fn reads_nothing(&self) -> bool {
        let has_probes = self.vector.heads().iter().any(SteeredHead::has_probe);
        has_probes && self.about.evidence.chance.is_some_and(|chance| !chance.is_above())
    }

    /// Checks what the types leave open; gives the place and the problem.
    pub(super) fn check(&self) -> Result<(), (String, String)> {
        let about = &self.about;
        let fault = |place: &str, problem: String| Err((format!("key {place}"), problem));
        if !about.alpha.is_finite() {
            return fault("candor.alpha", format!("is {}, expected a finite number", about.alpha));
        }
        let hashes = [
            ("candor.model.fingerprint", &about.model_fingerprint),
            ("candor.data.sha256", &about.data_sha256),
        ];
        for (key, hash) in hashes {
            let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            if hash.len() != 64 || !hash.bytes().all(is_digit) {
                return fault(key, format!("is `{}`, expected 64 hexadecimal digits", shown(hash)));
            }
        }
        let n_site = self.vector.n_layer() * self.vector.n_head();
        let arrays = [
            ("candor.head_accuracy", &about.head_accuracy, "0 to 1"),
            ("candor.head_effect", &about.head_effect, "a finite number, or NaN"),
            ("candor.head_cost", &about.head_cost, "a finite number from 0, or NaN"),
        ];
        for (key, values, expected) in arrays {
            let n = values.len();
            if ![0, n_site].contains(&n) {
                let problem = format!("has {n} values, expected one for each of {n_site} heads");
                return fault(key, problem);
            }
            let is_sound = |value: f32| match key {
                "candor.head_accuracy" => (0.0..=1.0).contains(&value),
                "candor.head_cost" => value.is_nan() || (0.0..f32::INFINITY).contains(&value),
                _ => !value.is_infinite(),
            };
            if let Some(value) = values.iter().find(|value| !is_sound(**value)) {
                return fault(key, format!("holds {value}, expected {expected}"));
            }
        }
        if let Err((key, problem)) = about.evidence.check() {
            return fault(&key, problem);
        }
        // A vector is sound when it is made, but a product can overflow.
        for head in self.vector.heads() {
            self.vector
                .check_head(head)
                .map_err(|problem| (format!("head {}", head.site), problem))?;
        }
        if let Some(calibration) = self.vector.calibration() {
            let geometry = [self.vector.n_layer(), self.vector.n_head(), self.vector.d_head()];
            calibration.check(geometry).map_err(|(name, problem)| (reading_key(name), problem))?;
        }
        if let Some(layers) = self.vector.layers() {
            layers.check().map_err(|(layer, problem)| (layer_direction(layer), problem))?;
        }
        Ok(())
    }

    /// The lowest version of the format that can hold it, so that as many readers as can be read it.
    fn format(&self) -> u32 {
        let is_old = self.vector.layers().is_none() && self.about.direction != DirectionKind::Given;
        if is_old { FORMAT } else { FORMAT_LAYERS }
    }

    /// The file.
    fn builder(&self) -> Builder<'static> {
        let Self { vector, about } = self;
        let mut file = Builder::new();
        file.set("general.type", TYPE)
            .set("general.architecture", about.architecture.as_str())
            .set("general.name", about.name.as_str());
        for (key, text) in [
            ("general.description", &about.description),
            ("general.license", &about.license),
            ("general.author", &about.author),
        ] {
            if let Some(text) = text {
                file.set(key, text.as_str());
            }
        }
        if !about.languages.is_empty() {
            file.set("general.languages", about.languages.clone());
        }
        file.set("general.base_model.count", 1u32)
            .set("general.base_model.0.name", about.model_name.as_str());
        if let Some(repo) = &about.base_model {
            file.set("general.base_model.0.repo_url", format!("{HUB}{repo}"));
        }
        file.set("adapter.type", KIND)
            .set("candor.format", self.format())
            .set("candor.version", about.candor_version.as_str())
            .set("candor.method", about.method.name())
            .set("candor.model.fingerprint", about.model_fingerprint.as_str())
            // SteeringVector::new bounds all three far below u32.
            .set("candor.n_layer", vector.n_layer() as u32)
            .set("candor.n_head", vector.n_head() as u32)
            .set("candor.d_head", vector.d_head() as u32);
        if let Some(layers) = vector.layers() {
            file.set("candor.n_embd", layers.n_embd() as u32);
        }
        file.set("candor.direction", about.direction.name())
            .set("candor.k", vector.heads().len() as u32)
            .set("candor.alpha", about.alpha)
            .set("candor.positions", about.positions.to_string())
            .set("candor.seed", about.seed)
            .set("candor.data.name", about.data_name.as_str())
            .set("candor.data.sha256", about.data_sha256.as_str())
            .set("candor.prompt", about.prompt.as_str())
            .set("candor.split", about.split.as_str());
        // Accuracy is what a file without the key means.
        if about.selection != Selection::default() {
            file.set("candor.selection", about.selection.name());
        }
        for (key, values) in [
            ("candor.head_accuracy", &about.head_accuracy),
            ("candor.head_effect", &about.head_effect),
            ("candor.head_cost", &about.head_cost),
        ] {
            if !values.is_empty() {
                file.set(key, values.clone());
            }
        }
        about.evidence.add_to(&mut file);
        if let Some(calibration) = vector.calibration() {
            scale::write(calibration, &mut file);
        }
        let mut parts: BTreeMap<usize, (&[SteeredHead], Option<&[f32]>)> = BTreeMap::new();
        for heads in vector.heads().chunk_by(|a, b| a.site.layer == b.site.layer) {
            parts.entry(heads[0].site.layer).or_default().0 = heads;
        }
        for (&layer, direction) in vector.layers().into_iter().flat_map(LayerVector::directions) {
            parts.entry(layer).or_default().1 = Some(direction);
        }
        for (layer, (heads, direction)) in parts {
            if !heads.is_empty() {
                add_layer(&mut file, heads, vector.d_head());
            }
            if let Some(direction) = direction {
                let bytes: Vec<u8> =
                    direction.iter().flat_map(|value| value.to_le_bytes()).collect();
                let dims = [direction.len() as u64];
                file.tensor(&layer_direction(layer), &dims, TensorType::F32, bytes);
            }
        }
        file
    }
}

/// The tensor of a layer's direction.
fn layer_direction(layer: usize) -> String {
    format!("blk.{layer}.layer_direction")
}

/// Adds the tensors of one layer, whose heads these are.
fn add_layer(file: &mut Builder, heads: &[SteeredHead], d_head: usize) {
    let n = heads.len() as u64;
    let name = |tensor: &str| format!("blk.{}.{tensor}", heads[0].site.layer);
    let ids = heads.iter().flat_map(|head| (head.site.head as i32).to_le_bytes()).collect();
    let mut add = |tensor: &str, dims: &[u64], kind, bytes: Vec<u8>| {
        file.tensor(&name(tensor), dims, kind, bytes);
    };
    add("head", &[n], TensorType::I32, ids);
    let mut add_f32s = |tensor: &str, dims: &[u64], values: &dyn Fn(&SteeredHead) -> Vec<f32>| {
        let bytes = heads.iter().flat_map(values).flat_map(f32::to_le_bytes).collect();
        add(tensor, dims, TensorType::F32, bytes);
    };
    let rows = [d_head as u64, n];
    add_f32s("direction", &rows, &|head| head.direction.clone());
    add_f32s("sigma", &[n], &|head| vec![head.sigma]);
    add_f32s("accuracy", &[n], &|head| vec![head.accuracy]);
    add_f32s("probe.weight", &rows, &|head| head.probe.weight.clone());
    add_f32s("probe.bias", &[n], &|head| vec![head.probe.bias]);
}
