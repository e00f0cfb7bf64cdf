//! What the metadata of a baked model say of the bake.

use std::fmt;

use serde::Serialize;

use super::Place;
use crate::Result;
use crate::gguf::{Builder, Gguf};

const VERSION_KEY: &str = "candor.bake.version";
const VERSION: u32 = 1;

/// What was baked into a model, in the keys `candor.bake.*`. A later version of the record may add
/// keys to these.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct BakeRecord {
    /// `candor.bake.program`: the version of candor that wrote the file.
    pub candor_version: String,
    /// `candor.bake.name`: the vector's name.
    pub name: String,
    /// `candor.bake.source`: the name of the file that it came from.
    pub source: String,
    /// `candor.bake.vector`: that file's fingerprint.
    pub vector: String,
    /// `candor.bake.alpha` (F32): the strength.
    pub alpha: f32,
    /// `candor.bake.heads` (U32): how many heads it steers.
    pub n_head: usize,
    /// `candor.bake.place`: where the biases are.
    #[serde(serialize_with = "place_name")]
    #[cfg_attr(feature = "cli", schemars(with = "String"))]
    pub place: Place,
    /// `candor.bake.error` (F64): how far they are from steering, as
    /// [`Baked::error`](super::Baked::error).
    pub error: f64,
    /// `candor.bake.seen` (array of U64): hashes of the questions, statements or pairs that the vector was
    /// fitted on, ascending ([`Question::hash`](crate::data::Question::hash)); the key is missing where
    /// nobody knows.
    #[serde(skip)]
    pub seen: Option<Vec<u64>>,
    /// `candor.bake.prompt`: the form of its prompts; the key is missing where nobody knows.
    #[serde(skip)]
    pub prompt: String,
    /// `candor.bake.base`: the fingerprint of the model, which a bake leaves as it is.
    pub base: String,
}

fn place_name<S: serde::Serializer>(place: &Place, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(place.name())
}

/// What is baked, how strongly, and where it came from.
impl fmt::Display for BakeRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let vector = self.vector.get(..16).unwrap_or(&self.vector);
        write!(f, "{} at alpha {}, sidecar {vector}", self.name, self.alpha)
    }
}

impl BakeRecord {
    /// Whether it adds anything.
    #[must_use]
    pub fn acts(&self) -> bool {
        self.alpha != 0.0 && self.n_head > 0
    }

    /// Whether a model's file has a record.
    pub(super) fn is_in(file: &Gguf) -> bool {
        file.get(VERSION_KEY).is_some()
    }

    /// Reads it; `None` from a model into which nothing was baked.
    ///
    /// # Errors
    /// [`Error::Gguf`](crate::Error::Gguf) for a key that is missing or of another kind.
    pub fn read(file: &Gguf) -> Result<Option<Self>> {
        if !Self::is_in(file) {
            return Ok(None);
        }
        let text = |key: &str| file.str(key).map(str::to_owned);
        let place_key = "candor.bake.place";
        let place = file.str(place_key)?;
        Ok(Some(Self {
            candor_version: text("candor.bake.program")?,
            name: text("candor.bake.name")?,
            source: text("candor.bake.source")?,
            vector: text("candor.bake.vector")?,
            alpha: file.float("candor.bake.alpha")? as f32,
            n_head: usize::try_from(file.uint("candor.bake.heads")?).unwrap_or(usize::MAX),
            place: place
                .parse()
                .map_err(|error| file.fault(format!("key {place_key}"), format!("{error}")))?,
            error: file.float("candor.bake.error")?,
            seen: file.opt_uints("candor.bake.seen")?,
            prompt: file.opt_str("candor.bake.prompt")?.unwrap_or_default().to_owned(),
            base: text("candor.bake.base")?,
        }))
    }

    pub(super) fn set(&self, builder: &mut Builder) {
        builder
            .set(VERSION_KEY, VERSION)
            .set("candor.bake.program", self.candor_version.as_str())
            .set("candor.bake.name", self.name.as_str())
            .set("candor.bake.source", self.source.as_str())
            .set("candor.bake.vector", self.vector.as_str())
            .set("candor.bake.alpha", self.alpha)
            .set("candor.bake.heads", u32::try_from(self.n_head).unwrap_or(u32::MAX))
            .set("candor.bake.place", self.place.name())
            .set("candor.bake.error", self.error)
            .set("candor.bake.base", self.base.as_str());
        if let Some(seen) = &self.seen {
            builder.set("candor.bake.seen", seen.clone());
        }
        if !self.prompt.is_empty() {
            builder.set("candor.bake.prompt", self.prompt.as_str());
        }
    }
}
