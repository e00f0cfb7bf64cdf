//! `candor capture`: per-head activations of labelled texts, on disk.

use std::path::{Path, PathBuf};
use std::slice::from_mut;
use std::time::Instant;

use clap::Args;
use serde::Serialize;

use crate::capture::{CaptureParams, Captured, capture};
use crate::cli::args::data::DataArgs;
use crate::cli::args::model::ModelArgs;
use crate::cli::args::steer::warn_of_baked;
use crate::cli::show::output::Output;
use crate::cli::show::target::{check_store, remember_replaced};
use crate::cli::{embedded, interrupt, sets};
use crate::data::Dataset;
use crate::{Error, Model, Result};

/// Capture the head outputs of labelled texts into a safetensors file
///
/// For every question and every answer, true or false, stores the outputs of all attention heads at
/// the last token. If a capture is interrupted, rerun the same command to resume.
#[derive(Debug, Args)]
pub(in crate::cli) struct CaptureArgs {
    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    data: DataArgs,

    /// The file to write.
    #[arg(short, long, value_name = "SAFETENSORS")]
    output: PathBuf,
}

/// What `--json` gives.
#[derive(schemars::JsonSchema, Serialize)]
pub(in crate::cli) struct Document<'a> {
    path: &'a Path,
    n_row: usize,
    n_layer: usize,
    n_head: usize,
    d_head: usize,
    n_token_prompt: usize,
    n_token_computed: usize,
    seconds: f64,
}

impl CaptureArgs {
    pub(in crate::cli) fn run(&self, output: Output) -> Result<()> {
        let start = Instant::now();
        let mut data = self.data.open(&self.model)?;
        data.require_two_classes()?;
        let model = self.model.path()?;
        let held = check_store(
            &self.output,
            &[("the model", Some(&model)), ("the data", self.data.data.as_deref())],
        )?;
        let model = self.model.load_for(from_mut(&mut data), output)?;
        warn_of_baked(&model, output);
        let params = self.data.capture_params(&self.model, &data, &model)?;
        let captured = run_capture(&model, &data, &params, &self.output, KEPT, output)?;
        if let Some(held) = held.filter(|_| captured.n_batch_resumed < captured.n_batch) {
            remember_replaced(&held, &self.output);
        }
        let geometry = model.geometry();
        let seconds = start.elapsed().as_secs_f64();
        if output.is_json() {
            output.json(&Document {
                path: &captured.path,
                n_row: captured.n_row,
                n_layer: geometry.n_layer,
                n_head: geometry.n_head,
                d_head: geometry.d_head,
                n_token_prompt: captured.n_token_prompt,
                n_token_computed: captured.n_token_computed,
                seconds,
            });
            return Ok(());
        }
        let saved = captured.n_token_prompt as f64 / captured.n_token_computed.max(1) as f64;
        output.fields(&[
            ("captured", captured.path.display().to_string()),
            ("texts", format!("{} of {} questions", captured.n_row, data.questions.len())),
            (
                "heads",
                format!(
                    "{} layers × {} heads × {} values",
                    geometry.n_layer, geometry.n_head, geometry.d_head
                ),
            ),
            (
                "tokens",
                format!(
                    "{} computed, {saved:.1} × fewer than without sharing",
                    captured.n_token_computed
                ),
            ),
            ("time", format!("{seconds:.1} s")),
        ]);
        Ok(())
    }
}

/// What Ctrl-C leaves where the activations lie in a file that stays.
pub(in crate::cli) const KEPT: &str = "what was captured is kept; rerun the same command to resume";

/// Captures with a progress bar; Ctrl-C stops between two batches, and `kept` says what is kept.
pub(in crate::cli) fn run_capture(
    model: &Model,
    data: &Dataset,
    params: &CaptureParams,
    path: &Path,
    kept: &str,
    output: Output,
) -> Result<Captured> {
    interrupt::install();
    let bar = output.progress("capturing", 0);
    let captured = capture(model, data, params, path, |progress| {
        bar.set_length(progress.n_text as u64);
        bar.set_position(progress.n_done as u64);
        interrupt::go_on()
    });
    bar.finish_and_clear();
    let captured = captured.map_err(|error| match error {
        Error::Interrupted { .. } => Error::Interrupted { kept: kept.to_owned() },
        other => other,
    })?;
    if let Some(reason) = captured.restarted {
        output.warn(format_args!(
            "an unfinished capture at {} was not used: {reason}",
            path.display()
        ));
    }
    if captured.n_batch_resumed > 0 {
        output.note(format_args!(
            "resumed after {} of an earlier run",
            crate::cli::show::table::counted(captured.n_batch_resumed, "batch")
        ));
    }
    Ok(captured)
}

impl DataArgs {
    /// Opens the data set, or the built-in one where the built-in model serves.
    pub(in crate::cli) fn open(&self, model: &ModelArgs) -> Result<Dataset> {
        match &self.data {
            Some(path) => sets::open(path),
            None if model.is_embedded() => embedded::questions(),
            None => Err(Error::invalid(
                "--data",
                "your own model needs a data set of labelled texts: name one with --data",
            )),
        }
    }
}
