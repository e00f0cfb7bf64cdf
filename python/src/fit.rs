//! Fitting and measuring: the program's `fit`, `eval` and `sweep`, over the same functions of the
//! library. Results are JSON, as those of the program.

use std::path::PathBuf;
use std::sync::Arc;

use candor::Error;
use candor::capture::{CaptureParams, Progress, Store, capture};
use candor::data::{Dataset as Data, PromptForm};
use candor::eval::{Evaluator, Policy};
use candor::ledger::Ledger;
use candor::select::{Grid, SelectParams};
use candor::steer::{
    Balance, Development, DirectionKind, FitParams, Method, Positions, Selection, Sidecar,
    SigmaFrom,
};
use candor::study::{
    self, Axes, FittedOn, Protocol, default_k, describe, of_vector, two_fold, unsteered,
};
use pyo3::prelude::*;

use crate::data::{Dataset, form};
use crate::error::{invalid, raised};
use crate::model::{Model, Shared};
use crate::read::check;
use crate::vector::Vector;
use crate::work::{Ticket, compute};

/// Vectors that are tried side by side.
const N_TRIAL: usize = 32;

/// How texts are made and read.
#[derive(Clone, FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct How {
    template: Option<String>,
    chat: bool,
    seed: u64,
    /// Where the activations are kept; `None`: nowhere.
    activations: Option<PathBuf>,
}

impl How {
    /// Captures the data, or opens what was captured of it.
    fn store(
        &self,
        shared: &Shared,
        data: &Data,
        form: &PromptForm,
        ticket: &Ticket,
    ) -> candor::Result<(Store, Option<tempfile::TempDir>)> {
        let settings = &shared.settings;
        let params = CaptureParams::new(form.clone())
            .with_seed(self.seed)
            .with_n_ctx(settings.n_ctx)
            .with_n_threads(settings.n_threads)
            .with_flash_attention(settings.flash_attention)
            .with_cache(settings.cache);
        let (path, folder) = match &self.activations {
            Some(path) => (path.clone(), None),
            None => {
                let failed = |source| Error::Io {
                    action: "create a folder in",
                    path: std::env::temp_dir(),
                    source,
                };
                let folder = tempfile::tempdir().map_err(failed)?;
                (folder.path().join("heads.safetensors"), Some(folder))
            }
        };
        if !path.exists() {
            capture(&shared.model, data, &params, &path, |Progress { n_done, n_text }| {
                ticket.expect(n_text);
                let _ = ticket.done(n_done);
                ticket.flow()
            })?;
        }
        let store = Store::open(&path)?;
        store.check(&shared.model, data, &params)?;
        Ok((store, folder))
    }
}

/// Fits a vector; gives it with the accuracy of every head, `[n_layer * n_head]`, and what the best of
/// them is worth.
#[pyfunction]
#[pyo3(signature = (
    model, data, how, *, k, alpha, kl_budget, neutral, direction, balance, positions, name, progress
))]
#[allow(clippy::too_many_arguments, reason = "keywords")]
pub(crate) fn fit(
    py: Python<'_>,
    model: PyRef<'_, Model>,
    data: PyRef<'_, Dataset>,
    how: How,
    k: Option<usize>,
    alpha: Option<f32>,
    kl_budget: Option<f64>,
    neutral: Vec<String>,
    direction: &str,
    balance: &str,
    positions: &str,
    name: Option<String>,
    progress: Option<Bound<'_, PyAny>>,
) -> PyResult<(Vector, String)> {
    let (shared, data) = (model.shared()?, Arc::clone(&data.data));
    let direction: DirectionKind = direction.parse().map_err(raised)?;
    let positions: Positions = positions.parse().map_err(raised)?;
    let balance = match balance {
        "auto" => Balance::Auto,
        "always" => Balance::Always,
        "never" => Balance::Never,
        _ => return Err(invalid(format!("balance: `{balance}` is not auto, always or never"))),
    };
    let (sidecar, report) = compute(py, progress.as_ref(), |ticket| {
        let (model, data) = (&shared.model, data.as_ref());
        data.require_two_classes()?;
        let form = form(model, data, how.template.as_deref(), how.chat)?;
        let (store, _folder) = how.store(&shared, data, &form, ticket)?;
        let params = FitParams::default().with_balance(balance).with_seed(how.seed);
        let questions: Vec<usize> = (0..data.questions.len()).collect();
        let development = Development::fit(&store, &questions, &params, || ())?;
        let n_head = model.attention_layers().count() * model.geometry().n_head;
        let k = k.unwrap_or_else(|| default_k(n_head));
        let vector = development.vector(&store, k, direction)?;
        let alpha = match (alpha, kl_budget) {
            (Some(alpha), _) => alpha,
            (None, None) => study::DEFAULT_ALPHA,
            (None, Some(budget)) => {
                let documents: Vec<&str> = neutral.iter().map(String::as_str).collect();
                let mut evaluator = evaluator(&shared, Policy::default())?;
                let go_on = |_, _| ticket.done(0);
                evaluator.strength_within(&vector, &documents, budget, go_on)?.0
            }
        };
        let selection = Selection::Accuracy;
        let method = Method::default();
        let chosen = study::Chosen { name, method, direction, alpha, positions, selection };
        let chance = development.chance(&store)?;
        let about = describe(model, data, &form, (&development, chance), &chosen);
        let report = serde_json::json!({
            "head_accuracy": development.accuracies(),
            "chance": chance,
            "n_row": development.n_row(),
            "n_sigma_row": development.n_sigma_row(),
        });
        // Without a scale its readings are uncalibrated.
        let vector = development.calibrated(&store, vector.clone(), || ()).unwrap_or(vector);
        Ok((Sidecar { vector, about }, report.to_string()))
    })?;
    Ok((Vector::new(sidecar), report))
}

fn evaluator(shared: &Shared, policy: Policy) -> candor::Result<Evaluator> {
    let n_ctx = shared.settings.n_ctx.unwrap_or(0);
    let params = shared.settings.session().with_n_row(N_TRIAL + 1);
    let mut evaluator = Evaluator::with(&shared.model, n_ctx, params)?;
    evaluator.set_policy(policy);
    Ok(evaluator)
}

/// What is measured, and how.
#[derive(Clone, FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Study {
    neutral: Vec<String>,
    instruction: String,
    preamble: String,
    policy: String,
    shuffle: bool,
    direction: String,
    selection: String,
    ks: Vec<usize>,
    alphas: Vec<f32>,
    kl_budget: Option<f64>,
    is_strict: bool,
    n_random: usize,
    n_predict: usize,
}

impl Study {
    fn protocol<'a>(
        &'a self,
        data: &'a Data,
        form: PromptForm,
        seed: u64,
    ) -> candor::Result<Protocol<'a>> {
        Ok(Protocol::new(data, form, self.neutral.iter().map(String::as_str).collect())
            .with_gate(None)
            .with_preamble(self.preamble.clone())
            .with_instruction(self.instruction.clone())
            .with_shuffle(self.shuffle)
            .with_direction(self.direction.parse()?)
            .with_selection(self.selection.parse()?)
            .with_select(SelectParams::default())
            .with_sigma(SigmaFrom::default())
            .with_grid(
                Grid::default()
                    .with_ks(self.ks.clone())
                    .with_alphas(self.alphas.clone())
                    .with_kl_budget(self.kl_budget.unwrap_or(f64::INFINITY)),
            )
            .with_n_random(self.n_random)
            .with_n_predict(self.n_predict)
            .with_n_example(0)
            .with_seed(seed))
    }
}

/// Scores a vector on all questions, or, without one, the model as it is, or fits and scores in two
/// folds.
#[pyfunction]
#[pyo3(signature = (model, data, how, study, *, vector, alpha, two_folds, progress))]
#[allow(clippy::too_many_arguments, reason = "keywords")]
pub(crate) fn evaluate(
    py: Python<'_>,
    model: PyRef<'_, Model>,
    data: PyRef<'_, Dataset>,
    how: How,
    study: Study,
    vector: Option<PyRef<'_, Vector>>,
    alpha: f32,
    two_folds: bool,
    progress: Option<Bound<'_, PyAny>>,
) -> PyResult<String> {
    let (shared, data) = (model.shared()?, Arc::clone(&data.data));
    let vector = vector.map(|vector| Arc::clone(&vector.sidecar));
    compute(py, progress.as_ref(), |ticket| {
        let data = data.as_ref();
        if let Some(sidecar) = &vector {
            check(&shared, sidecar)?;
        }
        let form = form(&shared.model, data, how.template.as_deref(), how.chat)?;
        let protocol = study.protocol(data, form.clone(), how.seed)?;
        let mut evaluator = evaluator(&shared, study.policy.parse()?)?;
        evaluator.set_full_stop(!data.is_of_pictures());
        let mut ledger = Ledger::in_memory();
        let needs_store = two_folds || vector.is_some();
        let store = needs_store.then(|| how.store(&shared, data, &form, ticket)).transpose()?;
        let source = store.as_ref().map(|(store, _)| store);
        let n_step = match (&vector, two_folds) {
            (_, true) => protocol.n_step(),
            (Some(_), false) => protocol.n_step_of_vector(),
            (None, false) => protocol.n_step_unsteered(),
        };
        ticket.expect(n_step);
        let mut n_done = 0;
        let on_step = || {
            n_done += 1;
            ticket.done(n_done)
        };
        let report = match (&vector, source) {
            (Some(sidecar), Some(source)) if !two_folds => {
                let steered = (&sidecar.vector, alpha);
                of_vector(&mut evaluator, source, &protocol, steered, &mut ledger, on_step)?
            }
            (_, Some(source)) => {
                let journal = |_: &str| Ok(Ledger::in_memory());
                two_fold(&mut evaluator, source, &protocol, &mut ledger, journal, on_step)?
            }
            (_, None) => unsteered(&mut evaluator, &protocol, &mut ledger, on_step)?,
        };
        let seen = match (&vector, two_folds) {
            (_, true) => Some(report.seen_in_folds()),
            (Some(sidecar), false) => report.seen(&FittedOn::of(&sidecar.about)).known(),
            (None, false) => None,
        };
        let document = serde_json::json!({
            "seen": seen,
            "rows": report.rows(),
            "folds": report.folds,
            "questions": report.questions(),
            "n_question": report.n_question(),
            "n_token": evaluator.n_token(),
        });
        Ok(document.to_string())
    })
}

/// Every K at every strength, in two folds.
#[pyfunction]
#[pyo3(signature = (model, data, how, study, *, directions, alphas, progress))]
#[allow(clippy::too_many_arguments, reason = "keywords")]
pub(crate) fn sweep(
    py: Python<'_>,
    model: PyRef<'_, Model>,
    data: PyRef<'_, Dataset>,
    how: How,
    study: Study,
    directions: Vec<String>,
    alphas: Option<Vec<f32>>,
    progress: Option<Bound<'_, PyAny>>,
) -> PyResult<String> {
    let (shared, data) = (model.shared()?, Arc::clone(&data.data));
    compute(py, progress.as_ref(), |ticket| {
        let data = data.as_ref();
        let form = form(&shared.model, data, how.template.as_deref(), how.chat)?;
        let mut protocol = study.protocol(data, form.clone(), how.seed)?;
        let directions: Vec<DirectionKind> =
            directions.iter().map(|name| name.parse()).collect::<candor::Result<_>>()?;
        if let Some(&first) = directions.first() {
            protocol.direction = first;
        }
        let axes = Axes::default()
            .with_directions(directions)
            .with_alphas(alphas)
            .with_is_budget_strict(study.is_strict);
        let (source, _folder) = how.store(&shared, data, &form, ticket)?;
        let mut evaluator = evaluator(&shared, study.policy.parse()?)?;
        evaluator.set_full_stop(!data.is_of_pictures());
        let mut ledger = Ledger::in_memory();
        ticket.expect(protocol.n_step_of_sweep(&axes));
        let mut n_done = 0;
        let on_step = || {
            n_done += 1;
            ticket.done(n_done)
        };
        let journal = |_: &str| Ok(Ledger::in_memory());
        let swept =
            study::sweep(&mut evaluator, &source, &protocol, &axes, &mut ledger, journal, on_step)?;
        let document = serde_json::json!({
            "cells": swept.cells,
            "recommended": swept.recommended,
            "overall": swept.overall,
            "gains": swept.gains(),
            "rows": swept.report.rows(),
            "folds": swept.report.folds,
            "n_question": swept.report.n_question(),
            "n_token": evaluator.n_token(),
        });
        Ok(document.to_string())
    })
}

/// Plain English prose that asks nothing, a document each.
#[pyfunction]
pub(crate) fn neutral_prose() -> Vec<&'static str> {
    candor::eval::neutral_prose()
}
