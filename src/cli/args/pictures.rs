//! Pictures that a user names, shown to a model.

use std::path::{Path, PathBuf};

use crate::cli::args::model::{ModelArgs, hash, load_at};
use crate::cli::show::output::Output;
use crate::cli::{embedded, interrupt};
use crate::data::Dataset;
use crate::vision::{Picture, VisionParams, find_projector, place_pictures};
use crate::{Error, Model, Result};

impl ModelArgs {
    /// Loads the model, with its projector where the data have pictures, which are shown to it; for a
    /// command that keeps what it computes.
    pub(in crate::cli) fn load_for(&self, data: &mut [Dataset], output: Output) -> Result<Model> {
        if !data.iter().any(Dataset::has_images) {
            return self.load_hashed(output);
        }
        let model = self.load_seeing()?;
        hash(&model, output)?;
        data.iter_mut().try_for_each(|data| show_data(&model, data, output))?;
        Ok(model)
    }

    /// Loads the model with its projector.
    pub(in crate::cli) fn load_seeing(&self) -> Result<Model> {
        let path = self.path()?;
        let mut params = self.params();
        if params.projector.is_none() {
            params.projector = Some((find_projector(&path)?, self.vision()));
        }
        self.load_with(&params)
    }

    /// The same; where neither is named, the built-in model that sees.
    pub(in crate::cli) fn load_seeing_or_built_in(&self) -> Result<Model> {
        let mut params = self.params();
        if !self.is_embedded() || params.projector.is_some() {
            return self.load_seeing();
        }
        let (path, projector) = embedded::sight_model()?;
        params.projector = Some((projector, self.vision()));
        load_at(&path, &params)
    }

    /// Loads the model, with a projector where one is named or lies beside it.
    pub(in crate::cli) fn load_perhaps_seeing(&self, output: Output) -> Result<Model> {
        let mut params = self.params();
        let is_named = params.projector.is_some();
        if !is_named {
            let beside = find_projector(&self.path()?).ok();
            params.projector = beside.map(|path| (path, self.vision()));
        }
        match (self.load_with(&params), &params.projector) {
            (Err(error), Some((path, _))) if !is_named => {
                let model = self.load()?;
                output.warn(format_args!("{} is not used: {error}", path.display()));
                Ok(model)
            }
            (model, _) => model,
        }
    }

    /// How a projector is opened. Encoded pictures are kept in the user's cache folder.
    pub(in crate::cli) fn vision(&self) -> VisionParams {
        VisionParams {
            n_threads: self.threads(),
            flash_attention: None,
            cache: crate::cli::folders::cache_folder("pictures").ok(),
        }
    }
}

/// Shows a data set's pictures to a model, each once, with a progress bar.
pub(in crate::cli) fn show_data(model: &Model, data: &mut Dataset, output: Output) -> Result<()> {
    let mut paths: Vec<&PathBuf> = data.questions.iter().flat_map(|q| &q.images).collect();
    paths.sort_unstable();
    paths.dedup();
    let bar = output.progress("encoding pictures", paths.len());
    interrupt::install();
    let shown = data.show(|path| {
        let marker = show(model, path)?;
        bar.inc(1);
        if interrupt::go_on().is_break() {
            let kept = "the encoded pictures are kept; rerun the same command to resume";
            return Err(Error::Interrupted { kept: kept.to_owned() });
        }
        Ok(marker)
    });
    bar.finish_and_clear();
    shown
}

/// Shows a picture to a model and gives its marker.
pub(in crate::cli) fn show(model: &Model, path: &Path) -> Result<String> {
    Ok(model.show(&Picture::open(path)?)?.marker)
}

/// Puts pictures into a text: where it says so, or before it.
pub(in crate::cli) fn place(model: &Model, text: &str, paths: &[PathBuf]) -> Result<String> {
    let markers = paths.iter().map(|path| show(model, path)).collect::<Result<Vec<_>>>()?;
    let markers: Vec<&str> = markers.iter().map(String::as_str).collect();
    place_pictures(text, &markers)
}
