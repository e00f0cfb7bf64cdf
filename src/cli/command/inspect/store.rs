//! What an activation store says.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::capture::store::Store;
use crate::cli::show::table::{facts, form_line};

/// An activation store.
#[derive(Debug, schemars::JsonSchema, Serialize)]
pub(in crate::cli) struct StoreFacts {
    path: String,
    n_row: usize,
    /// Rows with a true text.
    n_true: usize,
    n_question: usize,
    /// Rows that go on into another question.
    n_next: usize,
    n_layer: usize,
    n_head: usize,
    d_head: usize,
    metadata: BTreeMap<String, String>,
}

impl StoreFacts {
    pub(super) fn of(store: &Store) -> Self {
        let mut questions = store.groups().to_vec();
        questions.sort_unstable();
        questions.dedup();
        Self {
            path: store.path().display().to_string(),
            n_row: store.n_row(),
            n_true: store.labels().iter().filter(|label| **label).count(),
            n_question: questions.len(),
            n_next: store.next_groups().len(),
            n_layer: store.n_layer(),
            n_head: store.n_head(),
            d_head: store.d_head(),
            metadata: store.metadata().clone(),
        }
    }

    pub(super) fn text(&self) -> String {
        let Self { n_row, n_true, n_layer, n_head, d_head, .. } = self;
        let mut rows = vec![
            ("activations", self.path.clone()),
            ("rows", format!("{n_row}: {n_true} true, {} false", n_row - n_true)),
            ("questions", self.n_question.to_string()),
            ("rows into another question", self.n_next.to_string()),
            ("geometry", format!("{n_layer} layers of {n_head} heads of {d_head} values")),
        ];
        let line = |(key, value): (&String, &String)| match key.as_str() {
            "prompt_form" => form_line(value),
            _ => value.clone(),
        };
        rows.extend(self.metadata.iter().map(|entry| (entry.0.as_str(), line(entry))));
        facts(&rows)
    }
}
