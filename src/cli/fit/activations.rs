//! Where a fit's activations come from.

use super::FitArgs;
use crate::capture::Store;
use crate::cli::capture::{KEPT, run_capture};
use crate::cli::embedded;
use crate::cli::output::Output;
use crate::data::{Dataset, PromptForm};
use crate::{Error, Geometry, Model, Result};

/// The store that a fit reads, and whether it goes when the sidecar is written.
pub(super) struct Activations {
    pub(super) store: Store,
    temporary: bool,
}

impl Activations {
    /// Opens the user's store, or captures: into the user's file, or into the cache, where a run
    /// that was stopped finds it again.
    pub(super) fn open(
        args: &FitArgs,
        model: &Model,
        data: &Dataset,
        form: &PromptForm,
        output: Output,
    ) -> Result<Self> {
        if let Some(path) = args.activations.as_ref().filter(|path| path.exists()) {
            let store = Store::open(path)?;
            check_store(&store, model, data, form)?;
            return Ok(Self { store, temporary: false });
        }
        let path = match &args.activations {
            Some(path) => path.clone(),
            None => {
                let short = |text: &str| text.chars().take(16).collect::<String>();
                let name =
                    format!("{}-{}.safetensors", short(model.fingerprint()), short(&data.sha256));
                embedded::cache_folder("activations")?.join(name)
            }
        };
        let params = args.data.capture_params(&args.model, data)?;
        run_capture(model, data, &params, &path, KEPT, output)?;
        Ok(Self { store: Store::open(&path)?, temporary: args.activations.is_none() })
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
            expected: fingerprint.to_owned(),
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
    let stored = made_for("prompt_form");
    if stored != form.as_str() {
        return fault(format!(
            "was captured in the form `{stored}`, and this is `{}`: give the same --template",
            form.as_str()
        ));
    }
    Ok(())
}
