//! What is measured: the ways to compute, and the kinds of work.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::{Error, Result};

/// A way to compute the same tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum BenchPath {
    /// llama.cpp with no callback: what the others are compared with.
    Plain,
    /// The last token of every prompt, and every decoded token, observed in all layers.
    Observe,
    /// Every token steered inside the graph.
    InGraph,
    /// Every token steered by read–modify–write in the callback.
    Callback,
    /// Every token steered by a bias in the model's file, in llama.cpp with no callback.
    Baked,
}

impl BenchPath {
    /// Every path.
    pub const ALL: [Self; 5] =
        [Self::Plain, Self::Observe, Self::InGraph, Self::Callback, Self::Baked];

    /// The name on the command line and in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Observe => "observe",
            Self::InGraph => "in-graph",
            Self::Callback => "callback",
            Self::Baked => "baked",
        }
    }

    /// Whether tokens choose a bank row.
    pub(super) const fn steers(self) -> bool {
        matches!(self, Self::InGraph | Self::Callback)
    }

    /// Whether llama.cpp calls the tap.
    pub(super) const fn is_tapped(self) -> bool {
        matches!(self, Self::Observe | Self::InGraph | Self::Callback)
    }
}

impl fmt::Display for BenchPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for BenchPath {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|path| path.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::invalid("path", format!("`{name}` is not one of {names}"))
        })
    }
}

/// A kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Prompts, from an empty cache.
    Prefill,
    /// Tokens one at a time in every sequence, from an empty cache.
    Decode,
    /// A change of vector and strength between two tokens.
    SetVector,
}

impl Phase {
    /// The name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prefill => "prefill",
            Self::Decode => "decode",
            Self::SetVector => "set-vector",
        }
    }
}
