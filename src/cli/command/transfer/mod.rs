//! `candor transfer`: whether what reads truth in one data set reads it in another.

mod show;

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde::Serialize;

use crate::capture::CaptureParams;
use crate::cli::args::activations::Activations;
use crate::cli::args::data::prompt_form;
use crate::cli::args::model::ModelArgs;
use crate::cli::args::values::positive;
use crate::cli::show::output::Output;
use crate::cli::show::report::{DataFacts, Made, ReportArgs};
use crate::cli::{interrupt, sets};
use crate::data::Dataset;
use crate::steer::FitParams;
use crate::study::{Fitted, Labelled, Reading, Transfer, TransferParams, transfer};
use crate::{Error, Result};

/// Share of a set's questions that nothing is fitted to: a fifth, as of those that heads are ranked
/// on.
const TEST_SHARE: f64 = 0.2;

/// Test whether heads that know the truth in one data set know it in another
///
/// Fits probes to a part of each set of true and false statements (or questions). The best head,
/// and the best few together, then read the rest of their own set and all of every other set.
/// Probes that read their own set well but the others badly have learned what true sentences of one
/// set have in common, not truth. Statements that occur in both sets count only if they were not
/// used for fitting. Intervals are 95 %. If interrupted, rerun the same command to resume.
#[derive(Debug, Args)]
pub(in crate::cli) struct TransferArgs {
    #[command(flatten)]
    model: ModelArgs,

    /// A set of labelled texts, as for `fit`; repeat it, or name several files.
    #[arg(short, long, value_name = "FILE", required = true, num_args = 1..)]
    data: Vec<PathBuf>,

    /// How a text is presented to the model; `\n` stands for a line break [default: unchanged; `Q:
    /// {question} A: {answer}` for questions].
    #[arg(long, value_name = "TEMPLATE")]
    template: Option<String>,

    /// Use only N statements or questions of each set, evenly spread; 0 uses all.
    #[arg(long, value_name = "N", default_value_t = 0)]
    limit: usize,

    /// Number of heads that read together.
    #[arg(short = 'k', long, value_name = "K", default_value_t = 8, value_parser = positive)]
    heads: usize,

    /// Seed for the splits.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// Keep the captured activations in this folder, one file per set, and reuse them.
    #[arg(long, value_name = "DIR")]
    activations: Option<PathBuf>,

    #[command(flatten)]
    report: ReportArgs,
}

/// What `--json` gives, and `report.json` holds.
#[derive(schemars::JsonSchema, Serialize)]
pub(in crate::cli) struct Document<'a> {
    #[serde(flatten)]
    made: Made,
    data: Vec<DataFacts<'a>>,
    settings: Settings<'a>,
    sets: &'a [Fitted],
    readings: &'a [Reading],
    seconds: f64,
}

#[derive(schemars::JsonSchema, Serialize)]
struct Settings<'a> {
    /// One for each set.
    prompts: Vec<&'a str>,
    test_share: f64,
    validation_share: f64,
    k: usize,
    limit: usize,
    seed: u64,
}

impl TransferArgs {
    pub(in crate::cli) fn run(&self, output: Output) -> Result<()> {
        let start = Instant::now();
        let mut sets = self.sets()?;
        let model = self.model.load_for(&mut sets, output)?;
        if let Some(folder) = &self.activations {
            std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        }
        let mut stores = Vec::new();
        let mut forms = Vec::new();
        for data in &sets {
            let form = prompt_form(self.template.as_deref(), data)?;
            let params = CaptureParams {
                // Nothing is steered, so nothing needs a scale.
                next_rows: false,
                ..self.model.capture_params(form.clone(), self.seed)
            };
            let file = self.activations.as_ref().map(|folder| {
                let limit = if self.limit > 0 { format!("-{}", self.limit) } else { String::new() };
                folder.join(format!("{}{limit}.safetensors", data.name))
            });
            stores.push(Activations::open(file.as_ref(), &params, &model, data, output)?);
            forms.push(form);
        }
        let n_head = model.attention_layers().count() * model.geometry().n_head;
        let params = TransferParams {
            test_share: TEST_SHARE,
            n_head: self.heads.min(n_head),
            fit: FitParams { seed: self.seed, ..FitParams::default() },
        };
        let labelled: Vec<_> = sets
            .iter()
            .zip(&stores)
            .map(|(data, activations)| Labelled { data, source: &activations.store })
            .collect();
        let bar = output.progress("reading", sets.len() * (sets.len() + 1));
        let result = transfer(&labelled, &params, || bar.inc(1));
        bar.finish_and_clear();
        let Transfer { sets: fitted, readings } = result?;
        interrupt::check(crate::cli::command::capture::KEPT)?;
        let document = Document {
            made: Made::on(&model)?,
            data: sets.iter().map(DataFacts::of).collect(),
            settings: Settings {
                prompts: forms.iter().map(crate::data::PromptForm::as_str).collect(),
                test_share: TEST_SHARE,
                validation_share: params.fit.validation_share,
                k: params.n_head,
                limit: self.limit,
                seed: self.seed,
            },
            sets: &fitted,
            readings: &readings,
            seconds: start.elapsed().as_secs_f64(),
        };
        self.report.write(&document, || show::page(&document))?;
        stores.into_iter().try_for_each(Activations::discard)?;
        if output.is_json() {
            output.json(&document);
        } else {
            show::print(&document, output);
            self.report.tell(output);
        }
        Ok(())
    }

    /// The data sets, each of which has both labels and a name of its own.
    fn sets(&self) -> Result<Vec<Dataset>> {
        let mut sets: Vec<Dataset> = Vec::new();
        for path in &self.data {
            let data = sets::open(path)?.limited(self.limit);
            data.require_two_classes()?;
            if let Some(known) = sets.iter().find(|known| known.name == data.name) {
                let problem = format!(
                    "{} and {} have the same name, by which results are told apart: rename one",
                    known.path.display(),
                    path.display()
                );
                return Err(Error::invalid("--data", problem));
            }
            sets.push(data);
        }
        Ok(sets)
    }
}
