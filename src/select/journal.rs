//! What was measured so far.

use std::fmt;

use crate::Site;
use crate::ledger::Ledger;

/// Keeps measurements from one run to the next: of a head on an item its effect, or its Σ KL and the
/// tokens that this is summed over; of a pair of K and α its KL per token, or MC1 of a question. `None`
/// where it is not a number.
pub type Journal = Ledger<(Option<f64>, usize)>;

/// What a head was tried on: an index into the development questions or documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Item {
    Question(usize),
    Document(usize),
}

impl Item {
    /// The name of a head's measurement on this item.
    pub(super) fn of(self, site: Site) -> String {
        format!("{self} head {site}")
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Question(i) => write!(f, "question {i}"),
            Self::Document(i) => write!(f, "document {i}"),
        }
    }
}
