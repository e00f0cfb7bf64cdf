//! `candor sight probe`: where in a model that sees the answer can be read.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde::Serialize;

use crate::cli::args::data::DataArgs;
use crate::cli::args::model::{ModelArgs, hash};
use crate::cli::command::sight::{page, stages};
use crate::cli::show::document::usage;
use crate::cli::show::output::{DIM, Output};
use crate::cli::show::report::{DataFacts, Made, ReportArgs};
use crate::cli::{folders, interrupt};
use crate::sight::probe::{Phase, ProbeParams, ProbeReport, TaskReport, probe};
use crate::{Error, Result};

/// Find where in a vision-language model an answer can be read, and where it stops being used
///
/// Fits linear probes at every stage from the pixels to the last prompt token: the encoder's layers
/// and heads, the projector's output, the decoder's layers at the picture's tokens and at the last
/// token, and its heads there. Probes are fitted to one part of the questions and tested on the
/// rest, in which the compared quantities have other values. Beside them stand the model's own
/// likeliest answer, the most frequent answer, probes of shuffled answers, of raw pixels and of an
/// untrained encoder, and two nonlinear probes: one with a hidden layer, one that attends to
/// patches. Without -m it looks into the small built-in model that sees.
#[derive(Debug, Args)]
pub(in crate::cli) struct ProbeArgs {
    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    data: DataArgs,

    /// Share of the questions that probes are tested on.
    #[arg(long, value_name = "SHARE", default_value_t = 0.5, value_parser = share)]
    test_share: f64,

    /// Use only N questions, evenly spread over the data; 0 uses all.
    #[arg(long, value_name = "N", default_value_t = 0)]
    limit: usize,

    /// List the possible answers after each question, in both orders.
    #[arg(long)]
    list_options: bool,

    /// Fit linear probes only: no hidden layer, no attention to patches.
    #[arg(long)]
    only_linear: bool,

    /// Skip the untrained encoder, which takes as long as the trained one.
    #[arg(long)]
    no_untrained: bool,

    /// Keep the computed features in this folder, for later runs [default: the cache folder, until
    /// the run ends].
    #[arg(long, value_name = "DIR")]
    features: Option<PathBuf>,

    #[command(flatten)]
    report: ReportArgs,
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if share > 0.0 && share < 1.0 => Ok(share),
        _ => Err("a number between 0 and 1".to_owned()),
    }
}

/// What `--json` gives.
#[derive(schemars::JsonSchema, Serialize)]
pub(in crate::cli) struct Document<'a> {
    #[serde(flatten)]
    pub(in crate::cli) made: Made,
    pub(in crate::cli) data: DataFacts<'a>,
    /// The hash of the projector's file.
    pub(in crate::cli) projector: &'a str,
    /// How a question becomes a prompt.
    pub(in crate::cli) prompt: &'a str,
    pub(in crate::cli) lists_options: bool,
    pub(in crate::cli) test_share: f64,
    pub(in crate::cli) seed: u64,
    pub(in crate::cli) n_picture: usize,
    pub(in crate::cli) n_question: usize,
    pub(in crate::cli) tasks: &'a [TaskReport],
    pub(in crate::cli) seconds: f64,
}

/// What Ctrl-C leaves.
const KEPT: &str = "what was computed is kept: rerun the same command to resume";

impl ProbeArgs {
    pub(in crate::cli) fn run(&self, output: Output) -> Result<()> {
        let start = Instant::now();
        if self.data.data.is_none() {
            let problem = "questions with pictures are needed: `candor sight tasks DIR` draws some, and \
                           `--data DIR/tasks.jsonl` takes them";
            return Err(usage(Error::invalid("--data", problem)));
        }
        interrupt::install();
        let data = self.data.open(&self.model)?.limited(self.limit);
        let model = self.model.load_seeing_or_built_in()?;
        hash(&model, output)?;
        let params = ProbeParams {
            test_share: self.test_share,
            seed: self.data.seed,
            n_ctx: self.model.ctx_size(),
            n_threads: self.model.threads(),
            untrained: !self.no_untrained,
            only_linear: self.only_linear,
            lists_options: self.list_options,
            ..ProbeParams::new(self.data.form(&data, &model)?)
        };
        let folder = match &self.features {
            Some(folder) => folder.clone(),
            None => folders::cache_folder("sight")?.join(&data.sha256[..16]),
        };
        let report = with_bars(output, KEPT, |each| probe(&model, &data, &params, &folder, each))?;
        if self.features.is_none() {
            remove(&folder)?;
        }
        let document = Document {
            made: Made::on(&model)?,
            data: DataFacts::of(&data),
            projector: model.projector_content().unwrap_or_default(),
            prompt: params.form.as_str(),
            lists_options: self.list_options,
            test_share: self.test_share,
            seed: self.data.seed,
            n_picture: report.n_picture,
            n_question: report.n_question,
            tasks: &report.tasks,
            seconds: start.elapsed().as_secs_f64(),
        };
        self.report.write(&document, || page::page(&document))?;
        if output.is_json() {
            output.json(&document);
            return Ok(());
        }
        stages::print(&report.tasks, output);
        self.report.tell(output);
        output.line(format_args!("\n{DIM}{:.0} s{DIM:#}", document.seconds));
        Ok(())
    }
}

/// Does long work with a progress bar for each of its phases.
pub(in crate::cli) fn with_bars(
    output: Output,
    kept: &str,
    work: impl FnOnce(&mut dyn FnMut(Phase, usize, usize) -> Result<()>) -> Result<ProbeReport>,
) -> Result<ProbeReport> {
    let mut bar: Option<(Phase, indicatif::ProgressBar)> = None;
    let result = work(&mut |phase, n_done, n| {
        if bar.as_ref().is_none_or(|(of, _)| *of != phase) {
            let name = match phase {
                Phase::Pictures => "encoding",
                Phase::Questions => "reading",
                Phase::Tasks => "probing",
            };
            if let Some((_, bar)) = bar.take() {
                bar.finish_and_clear();
            }
            bar = Some((phase, output.progress(name, n)));
        }
        if let Some((_, bar)) = &bar {
            bar.set_position(n_done as u64);
        }
        interrupt::check(kept)
    });
    if let Some((_, bar)) = bar {
        bar.finish_and_clear();
    }
    result
}

/// Removes the files of a run, and the folder, where there is nothing else in it.
fn remove(folder: &Path) -> Result<()> {
    for name in ["pictures.features", "questions.features"] {
        let path = folder.join(name);
        crate::file::remove_if_there(&path)?;
    }
    match std::fs::remove_dir(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::DirectoryNotEmpty => {
            Err(Error::io("remove", folder)(error))
        }
        _ => Ok(()),
    }
}
