//! Where activations come from: a store of the user's, or a capture made now.

use std::path::{Path, PathBuf};

use clap::Args;

use super::args::{DataArgs, ModelArgs};
use super::capture::{KEPT, run_capture};
use super::embedded;
use super::output::Output;
use crate::capture::{CaptureParams, Store};
use crate::data::{Dataset, PromptForm};
use crate::error::shown;
use crate::{Error, Geometry, Model, Result};

/// Where activations come from.
#[derive(Debug, Args)]
pub(super) struct StoreArgs {
    /// A store made by `capture`, in place of capturing; made here if it does not exist.
    #[arg(long, value_name = "SAFETENSORS")]
    activations: Option<PathBuf>,
}

impl StoreArgs {
    /// The user's store.
    pub(super) fn path(&self) -> Option<&Path> {
        self.activations.as_deref()
    }

    /// Opens the activations of these data, or captures them.
    pub(super) fn open(
        &self,
        (data_args, data): (&DataArgs, &Dataset),
        (model_args, model): (&ModelArgs, &Model),
        output: Output,
    ) -> Result<Activations> {
        let params = data_args.capture_params(model_args, data, model)?;
        Activations::open(self.activations.as_ref(), &params, model, data, output)
    }
}

/// A store of activations, and whether it goes when the work is done.
pub(super) struct Activations {
    pub(super) store: Store,
    temporary: bool,
}

impl Activations {
    /// Opens the user's store, or captures: into the user's file, or into the cache, where a run
    /// that was stopped finds it again.
    pub(super) fn open(
        file: Option<&PathBuf>,
        params: &CaptureParams,
        model: &Model,
        data: &Dataset,
        output: Output,
    ) -> Result<Self> {
        if let Some(path) = file.filter(|path| path.exists()) {
            let store = Store::open(path)?;
            check_store(&store, model, data, &params.form)?;
            return Ok(Self { store, temporary: false });
        }
        let path = match file {
            Some(path) => path.clone(),
            None => {
                let short = |text: &str| text.chars().take(16).collect::<String>();
                let name = format!(
                    "{}-{}-{}{}.safetensors",
                    short(model.fingerprint()),
                    short(&data.sha256),
                    data.questions.len(),
                    if params.form.is_chat() { "-chat" } else { "" },
                );
                embedded::cache_folder("activations")?.join(name)
            }
        };
        run_capture(model, data, params, &path, KEPT, output)?;
        Ok(Self { store: Store::open(&path)?, temporary: file.is_none() })
    }

    pub(super) fn discard(self) -> Result<()> {
        let path = self.store.path().to_owned();
        drop(self.store);
        if self.temporary {
            std::fs::remove_file(&path).map_err(Error::io("remove", path))
        } else {
            Ok(())
        }
    }
}

/// Refuses a store that was captured from another model, other data, or in another form.
fn check_store(store: &Store, model: &Model, data: &Dataset, form: &PromptForm) -> Result<()> {
    let made_for = |key: &str| store.metadata().get(key).map_or("", String::as_str);
    let fingerprint = made_for("model.fingerprint");
    if fingerprint != model.fingerprint() {
        return Err(Error::WrongModel {
            path: store.path().to_owned(),
            expected: shown(fingerprint),
            got: model.fingerprint().to_owned(),
        });
    }
    let fault = |problem| Err(Error::Store { path: store.path().to_owned(), problem });
    let stored = (store.n_layer(), store.n_head(), store.d_head());
    let Geometry { n_layer, n_head, d_head, .. } = model.geometry();
    if stored != (n_layer, n_head, d_head) {
        return fault(format!(
            "holds {} layers × {} heads × {} values, and the model has {n_layer} × {n_head} × {d_head}",
            stored.0, stored.1, stored.2
        ));
    }
    if made_for("data.sha256") != data.sha256 {
        return fault(format!("was captured from other data than {}", data.path.display()));
    }
    if store.n_row() != data.n_row() {
        return fault(format!(
            "holds {} answers, and here are {}: give the same --limit",
            store.n_row(),
            data.n_row()
        ));
    }
    let stored = made_for("prompt_form");
    if stored != form.as_str() {
        return fault(format!(
            "was captured in the form `{}`, and this is `{}`: give the same --template or --chat",
            shown(stored),
            form.as_str()
        ));
    }
    Ok(())
}
