//! Whether a store is of this model, these data and this way to capture.

#[cfg(feature = "sight")]
use super::run::PROJECTOR_KEY;
use super::run::{CONTENT_KEY, CaptureParams, facts};
use super::store::Store;
use crate::data::Dataset;
use crate::error::shown;
use crate::{Error, Geometry, Model, Result};

impl Store {
    /// Refuses a store whose values are others than those that capturing `data` now would give, but
    /// for what another device rounds: one of a model with other bytes, of other data, or made in
    /// another form, with another cache, or other draws of the rows that sigma is measured on.
    ///
    /// # Errors
    /// [`Error::Store`](crate::Error::Store), saying what is another and what to do.
    pub fn check(&self, model: &Model, data: &Dataset, params: &CaptureParams) -> Result<()> {
        self.check_model(model.fingerprint(), model.content()?)?;
        #[cfg(feature = "sight")]
        self.check_projector(model)?;
        let stored = (self.n_layer(), self.n_head(), self.d_head());
        let Geometry { n_layer, n_head, d_head, .. } = model.geometry();
        if stored != (n_layer, n_head, d_head) {
            return self.fault(format!(
                "holds {} layers × {} heads × {} values, and the model has {n_layer} × {n_head} × \
                 {d_head}",
                stored.0, stored.1, stored.2
            ));
        }
        if self.said("data.sha256") != data.sha256 {
            return self
                .fault(format!("was captured from other data than {}", data.path.display()));
        }
        if self.n_row() != data.n_row() {
            return self.fault(format!(
                "holds {} answers, and here are {}: take the same share of the data",
                self.n_row(),
                data.n_row()
            ));
        }
        let rows = data.rows().map(|row| (row.group, row.label));
        if !rows.eq(self.groups().iter().copied().zip(self.labels().iter().copied())) {
            return self.fault(
                "holds other questions of the data: take the same share of the data".to_owned(),
            );
        }
        let (stored, form) = (self.said("prompt_form"), &params.form);
        if stored != form.as_str() {
            return self.fault(format!(
                "was captured in the form `{}`, and this is `{}`: give the same form of prompts",
                shown(stored),
                shown(form.as_str())
            ));
        }
        // The same words, and still other tokens: a template writes the special ones.
        let is_chat = self.said("chat") == "true";
        if is_chat != form.is_chat() {
            let (stored, remedy) = match is_chat {
                true => ("through the model's chat template", "render the template"),
                false => ("without the model's chat template", "do not render the template"),
            };
            return self.fault(format!("was captured {stored}: {remedy}, or capture again"));
        }
        self.check_settings(params)?;
        self.check_next(data, params)
    }

    /// Refuses a store that was captured from another model than the one of this fingerprint and
    /// content.
    ///
    /// # Errors
    /// [`Error::Store`](crate::Error::Store), also where the store does not say.
    pub fn check_model(&self, fingerprint: &str, content: &str) -> Result<()> {
        const ANEW: &str = "capture this model, into a file of another name";
        let stored = self.said("model.fingerprint");
        if stored != fingerprint {
            return self.fault(format!(
                "was captured from another model: its fingerprint is {}, this model's is \
                 {fingerprint}; {ANEW}",
                shown(stored)
            ));
        }
        match self.said(CONTENT_KEY) {
            stored if stored == content => Ok(()),
            "" => self.fault(format!(
                "does not say from which file of this model it was captured, since an older candor \
                 made it; {ANEW}"
            )),
            stored => self.fault(format!(
                "was captured from another file that has this model's fingerprint, such as another \
                 quantization or a fine-tune: the hash of its bytes is {}, this file's is {}; {ANEW}",
                shown(stored.get(..16).unwrap_or(stored)),
                content.get(..16).unwrap_or(content)
            )),
        }
    }

    /// Refuses a store of pictures that were seen through another projector.
    #[cfg(feature = "sight")]
    fn check_projector(&self, model: &Model) -> Result<()> {
        let stored = self.said(PROJECTOR_KEY);
        if stored.is_empty() || Some(stored) == model.projector_content() {
            return Ok(());
        }
        self.fault(
            "was captured with another projector file: give the same projector file, or capture again"
                .to_owned(),
        )
    }

    /// What changes every row.
    fn check_settings(&self, params: &CaptureParams) -> Result<()> {
        for (key, name, value) in facts(params) {
            let stored = self.said(key);
            if stored != value {
                return self.fault(format!(
                    "was captured with {name} {}, and this is {value}: give the same, or capture again",
                    shown(if stored.is_empty() { "unknown" } else { stored })
                ));
            }
        }
        Ok(())
    }

    /// The rows that sigma is measured on.
    fn check_next(&self, data: &Dataset, params: &CaptureParams) -> Result<()> {
        let is_possible = data.questions.len() > 1 && params.form.text_then("", "", "").is_some();
        if !params.next_rows || !is_possible {
            return Ok(());
        }
        if self.next_groups().is_empty() {
            return self.fault(
                "holds no answers that another question follows, on which sigma is measured: it was made \
                 for something else, so capture again"
                    .to_owned(),
            );
        }
        let (stored, seed) = (self.said("next.seed"), params.seed.to_string());
        if stored != seed {
            return self.fault(format!(
                "was captured with seed {}, which drew the answers that sigma is measured on, and this is \
                 seed {seed}: give the same seed, or capture again",
                shown(stored)
            ));
        }
        Ok(())
    }

    fn said(&self, key: &str) -> &str {
        self.metadata().get(key).map_or("", String::as_str)
    }

    fn fault(&self, problem: String) -> Result<()> {
        Err(Error::Store { path: self.path().to_owned(), problem })
    }
}
