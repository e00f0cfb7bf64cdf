//! By what heads are chosen.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// How heads are ranked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Selection {
    /// `accuracy`: by how well their probes read held-out questions (ITI, section 3).
    #[default]
    Accuracy,
    /// `effect`: by what moving them does to the choice between true and false answers.
    Effect,
    /// `causal`: by that effect per unit of disturbance.
    Causal,
}

impl Selection {
    /// The name that options and files use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Accuracy => "accuracy",
            Self::Effect => "effect",
            Self::Causal => "causal",
        }
    }
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Selection {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "accuracy" => Ok(Self::Accuracy),
            "effect" => Ok(Self::Effect),
            "causal" => Ok(Self::Causal),
            _ => {
                let problem = format!("`{name}` is not `accuracy`, `effect` or `causal`");
                Err(Error::invalid("selection", problem))
            }
        }
    }
}
