//! By what method a vector's strengths were found.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// How far each head is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Method {
    /// `iti`: all heads alike, in standard deviations.
    #[default]
    Iti,
    /// `dpo`: as training on preferences finds ([`Loss::Dpo`](crate::align::Loss::Dpo)).
    Dpo,
    /// `sft`: as training on the chosen answers alone finds
    /// ([`Loss::Sft`](crate::align::Loss::Sft)).
    Sft,
}

impl Method {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Iti, Self::Dpo, Self::Sft];

    /// The name that options and files use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Iti => "iti",
            Self::Dpo => "dpo",
            Self::Sft => "sft",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Method {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|method| method.name() == name).ok_or_else(|| {
            Error::invalid("method", format!("`{name}` is not `iti`, `dpo` or `sft`"))
        })
    }
}
