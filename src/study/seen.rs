//! How many of the questions that were scored a vector was fitted on.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{Condition, Report, Row};
use crate::data::{PromptForm, Question};
use crate::export::BakeRecord;
use crate::steer::{About, FitRecord};

/// Questions that a vector saw in fitting, among those that were scored.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct Seen {
    /// Questions that were seen.
    pub n_seen: usize,
    /// Questions of which nobody knows: they are not among what was fitted on by their text, but there is
    /// no record of all of that, or it is no questions of the same form.
    pub n_unknown: usize,
    /// Questions that were scored.
    pub n_question: usize,
    /// Where some were seen: the rows of those.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rows_seen: Vec<Row>,
    /// And of all others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rows_unseen: Vec<Row>,
    /// Of each vector that acts, what is known; empty where each was fitted here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<SeenPart>,
}

/// The same of one of the vectors that act together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct SeenPart {
    /// Its name.
    pub name: String,
    /// Questions that it saw in fitting.
    pub n_seen: usize,
    /// Questions of which nobody knows.
    pub n_unknown: usize,
    /// Texts that it was fitted on; null where there is no record of them.
    pub n_text: Option<usize>,
}

/// What the vectors that act were fitted on, each by itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FittedOn(pub Vec<FitRecord>);

impl FittedOn {
    /// What the vector of a sidecar was fitted on, or the parts of a sum.
    #[must_use]
    pub fn of(about: &About) -> Self {
        Self(about.fit_records())
    }

    /// What the vector that is baked into a model was fitted on.
    #[must_use]
    pub fn of_baked(record: &BakeRecord) -> Self {
        Self(vec![FitRecord {
            name: record.name.clone(),
            prompt: record.prompt.clone(),
            seen: record.seen.clone(),
        }])
    }

    /// What either was fitted on.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }
}

/// What is known of a question.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    Seen,
    Unseen,
    Nothing,
}

/// What a record says of questions that are asked in a form.
struct Witness<'r> {
    record: &'r FitRecord,
    form: Option<PromptForm>,
    /// Whether both ask questions, and neither takes whole prompts for them where the other does not: else
    /// what is not found by its text may be there in another one.
    compares: bool,
}

impl<'r> Witness<'r> {
    fn new(record: &'r FitRecord, scored: &PromptForm) -> Self {
        let form = PromptForm::parse(&record.prompt).ok();
        let compares = form
            .as_ref()
            .is_some_and(|form| form.asks() && scored.asks() && form.is_bare() == scored.is_bare());
        Self { record, form, compares }
    }

    fn says(&self, question: &Question, scored: &PromptForm) -> Known {
        match &self.record.seen {
            None => Known::Nothing,
            Some(hashes) if question.is_among_prompts(scored, hashes, self.form.as_ref()) => {
                Known::Seen
            }
            Some(_) if self.compares => Known::Unseen,
            Some(_) => Known::Nothing,
        }
    }
}

impl Seen {
    /// Whether anything is known of any question.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.n_unknown < self.n_question
    }

    /// Itself, where anything is known.
    #[must_use]
    pub fn known(self) -> Option<Self> {
        self.is_known().then_some(self)
    }
}

impl Report<'_> {
    /// How many questions were seen in fitting, as far as that is known: a question is seen where any of
    /// the vectors saw it, and unseen where none did. Where some were seen, what these gave, and what the
    /// others did.
    #[must_use]
    pub fn seen(&self, fitted: &FittedOn) -> Seen {
        let base = self.outcomes.get(&Condition::Base);
        let ids: Vec<usize> =
            base.iter().flat_map(|outcome| outcome.answered.keys().copied()).collect();
        let says: Vec<Vec<Known>> = fitted
            .0
            .iter()
            .map(|record| {
                let witness = Witness::new(record, &self.form);
                ids.iter().map(|&id| witness.says(&self.questions[id], &self.form)).collect()
            })
            .collect();
        let of = |i: usize, known: Known| says.iter().any(|says| says[i] == known);
        let (seen, others): (Vec<usize>, Vec<usize>) =
            (0..ids.len()).partition(|&i| of(i, Known::Seen));
        let count = |says: &[Known], known| says.iter().filter(|&&says| says == known).count();
        let rows = |places: &[usize]| match seen.is_empty() || others.is_empty() {
            true => Vec::new(),
            false => self.rows_of(&places.iter().map(|&i| ids[i]).collect()),
        };
        Seen {
            n_seen: seen.len(),
            n_unknown: others.iter().filter(|&&i| of(i, Known::Nothing)).count(),
            n_question: ids.len(),
            rows_seen: rows(&seen),
            rows_unseen: rows(&others),
            parts: fitted
                .0
                .iter()
                .zip(&says)
                .map(|(record, says)| SeenPart {
                    name: record.name.clone(),
                    n_seen: count(says, Known::Seen),
                    n_unknown: count(says, Known::Nothing),
                    n_text: record.seen.as_ref().map(Vec::len),
                })
                .collect(),
        }
    }

    /// The same of vectors that were each fitted on one half and scored on the other: a question that
    /// stands in both halves is seen.
    #[must_use]
    pub fn seen_in_folds(&self) -> Seen {
        Seen {
            n_seen: self.folds.iter().map(|fold| fold.n_seen).sum(),
            n_unknown: 0,
            n_question: self.n_question(),
            rows_seen: Vec::new(),
            rows_unseen: Vec::new(),
            parts: Vec::new(),
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
