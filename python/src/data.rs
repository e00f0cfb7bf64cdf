//! Labelled data sets.

use std::path::PathBuf;
use std::sync::Arc;

use candor::chat::ChatTemplate;
use candor::data::{Kind, PromptForm};
use pyo3::prelude::*;

use crate::error::raised;

/// A text, a category, and answers with their labels.
type Question = (String, Option<String>, Vec<(String, bool)>);

/// Questions with labelled answers, labelled statements, or pairs of texts.
#[pyclass(frozen, module = "candor")]
pub(crate) struct Dataset {
    pub(crate) data: Arc<candor::data::Dataset>,
}

impl Dataset {
    fn new(data: candor::data::Dataset) -> Self {
        Self { data: Arc::new(data) }
    }
}

#[pymethods]
impl Dataset {
    #[new]
    fn open(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        py.detach(|| candor::data::Dataset::open(&path)).map(Self::new).map_err(raised)
    }

    /// `name` ends as the file's would, `.csv`, `.json` or `.jsonl`.
    #[staticmethod]
    fn from_bytes(name: PathBuf, content: &[u8]) -> PyResult<Self> {
        candor::data::Dataset::from_bytes(&name, content).map(Self::new).map_err(raised)
    }

    fn limited(&self, n: usize) -> Self {
        Self::new(candor::data::Dataset::clone(&self.data).limited(n))
    }

    fn __len__(&self) -> usize {
        self.data.questions.len()
    }

    #[getter]
    fn name(&self) -> &str {
        &self.data.name
    }

    #[getter]
    fn sha256(&self) -> &str {
        &self.data.sha256
    }

    #[getter]
    fn kind(&self) -> &'static str {
        match self.data.kind {
            Kind::QuestionAnswer => "questions",
            Kind::Statement => "statements",
            Kind::PromptAnswer => "prompts",
            Kind::Pair => "pairs",
        }
    }

    /// Of each question its text, its category, and its answers with their labels.
    #[getter]
    fn questions(&self) -> Vec<Question> {
        let question = |question: &candor::data::Question| {
            let answers = question.answers.iter().map(|a| (a.text.clone(), a.label)).collect();
            (question.text.clone(), question.category.clone(), answers)
        };
        self.data.questions.iter().map(question).collect()
    }

    #[getter]
    fn labels(&self) -> Vec<bool> {
        self.data.rows().map(|row| row.label).collect()
    }

    #[getter]
    fn groups(&self) -> Vec<usize> {
        self.data.rows().map(|row| row.group).collect()
    }

    /// The text of each row.
    fn texts(&self, template: Option<&str>) -> PyResult<Vec<String>> {
        let form = match template {
            Some(template) => PromptForm::parse(template).map_err(raised)?,
            None => PromptForm::default_for(self.data.kind),
        };
        let text = |row: candor::data::Row| {
            let question = &self.data.questions[row.group];
            form.text(&question.text, &question.answers[row.answer].text)
        };
        Ok(self.data.rows().map(text).collect())
    }

    #[getter]
    fn path(&self) -> PathBuf {
        self.data.path.clone()
    }
}

/// The form of the prompts: the caller's, the model's own chat template, or the usual one.
pub(crate) fn form(
    model: &candor::Model,
    data: &candor::data::Dataset,
    template: Option<&str>,
    chat: bool,
) -> candor::Result<PromptForm> {
    match (template, chat) {
        (Some(template), _) => PromptForm::parse(template),
        (None, true) => ChatTemplate::of(model).form(),
        (None, false) => Ok(PromptForm::default_for(data.kind)),
    }
}
