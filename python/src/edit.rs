//! A Python function as an editor of what a model computes.

use std::sync::{Arc, Mutex, PoisonError};

use candor::session::{Edit, Editor, SiteKind};
use candor::{Error, Session};
use numpy::{PyArray1, PyArrayMethods, PyReadonlyArray1};
use pyo3::prelude::*;

/// What is to be edited, and by what: a function of (layer, whether it is the layer's output, values,
/// tokens, positions) that changes the flat array of values in place.
pub(crate) struct Edits {
    pub(crate) function: Py<PyAny>,
    /// Layers, ascending.
    pub(crate) heads: Vec<usize>,
    pub(crate) outputs: Vec<usize>,
}

/// What the function raised, to be raised where it was called from.
pub(crate) type Raised = Arc<Mutex<Option<PyErr>>>;

impl Edits {
    /// Lets it edit in a session; `text_of` knows the text of a token of the batch.
    pub(crate) fn begin(
        &self,
        session: &mut Session,
        texts: &Arc<Mutex<Vec<usize>>>,
        raised: &Raised,
    ) -> candor::Result<()> {
        let function = Python::attach(|py| self.function.clone_ref(py));
        let (texts, raised) = (Arc::clone(texts), Arc::clone(raised));
        let editor = move |edit: Edit| {
            let texts = texts.lock().unwrap_or_else(PoisonError::into_inner);
            let called = Python::attach(|py| call(py, &function, edit, &texts));
            called.map_err(|error| {
                *raised.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                Error::Invalid { what: "edit".to_owned(), problem: "it raised".to_owned() }
            })
        };
        session.set_editor(Some(Box::new(editor) as Editor), &self.heads, &self.outputs)
    }
}

/// Calls the function with a copy of the values, and takes what it made of them.
fn call(py: Python<'_>, function: &Py<PyAny>, edit: Edit, texts: &[usize]) -> PyResult<()> {
    let values = PyArray1::from_slice(py, edit.values);
    let signed = |places: &[usize]| places.iter().map(|&n| n as i64).collect::<Vec<_>>();
    let of_texts: Vec<usize> =
        edit.tokens.iter().map(|&token| texts.get(token).copied().unwrap_or(0)).collect();
    let texts = PyArray1::from_vec(py, signed(&of_texts));
    let positions = PyArray1::from_vec(py, signed(edit.positions));
    let is_output = edit.kind == SiteKind::Output;
    function.call1(py, (edit.layer, is_output, &values, texts, positions))?;
    let values: PyReadonlyArray1<'_, f32> = values.try_readonly()?;
    edit.values.copy_from_slice(values.as_slice()?);
    Ok(())
}
