//! How many of the questions that were scored a vector was fitted on.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{Condition, Report, Row};

/// Questions that a vector saw in fitting, among those that were scored.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct Seen {
    /// Questions that were seen.
    pub n_seen: usize,
    /// Questions that were scored.
    pub n_question: usize,
    /// Where some were seen and some were not: the rows of the former.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rows_seen: Vec<Row>,
    /// And of the latter.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rows_unseen: Vec<Row>,
}

impl Seen {
    /// Whether some were seen and some were not.
    #[must_use]
    pub fn is_mixed(&self) -> bool {
        (1..self.n_question).contains(&self.n_seen)
    }
}

impl Report<'_> {
    /// How many questions were seen by a vector that was fitted on those of these hashes
    /// ([`Question::hash`](crate::data::Question::hash)), ascending; where some were and some were
    /// not, what each of the two gave.
    #[must_use]
    pub fn seen(&self, hashes: &[u64]) -> Seen {
        let base = self.outcomes.get(&Condition::Base);
        let ids = base.iter().flat_map(|outcome| outcome.answered.keys().copied());
        let is_seen = |&id: &usize| hashes.binary_search(&self.questions[id].hash()).is_ok();
        let (seen, unseen): (BTreeSet<usize>, BTreeSet<usize>) = ids.partition(is_seen);
        let is_mixed = !seen.is_empty() && !unseen.is_empty();
        let rows = |ids: &BTreeSet<usize>| if is_mixed { self.rows_of(ids) } else { Vec::new() };
        Seen {
            n_seen: seen.len(),
            n_question: seen.len() + unseen.len(),
            rows_seen: rows(&seen),
            rows_unseen: rows(&unseen),
        }
    }

    /// The same of vectors that were each fitted on one half and scored on the other: a question that
    /// stands in both halves is seen.
    #[must_use]
    pub fn seen_in_folds(&self) -> Seen {
        Seen {
            n_seen: self.folds.iter().map(|fold| fold.n_seen).sum(),
            n_question: self.n_question(),
            rows_seen: Vec::new(),
            rows_unseen: Vec::new(),
        }
    }

    /// The rows of some questions.
    fn rows_of(&self, ids: &BTreeSet<usize>) -> Vec<Row> {
        let mut some = self.clone();
        for outcome in some.outcomes.values_mut() {
            outcome.answered.retain(|id, _| ids.contains(id));
        }
        some.rows()
    }
}
