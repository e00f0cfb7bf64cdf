//! Strengths that are trained, from the command line.

use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::TypedValueParser;

use crate::align::{ForwardParams, Loss, Measurements, Objective, TrainStep, Trained, train};
use crate::cli::args::select::{DEFAULT_BUDGET, NEEDS_QUESTIONS};
use crate::cli::args::values::{one_of, positive};
use crate::cli::interrupt;
use crate::cli::show::output::Output;
use crate::data::Dataset;
use crate::eval::Evaluator;
use crate::file::write_atomically;
use crate::select::Trial;
use crate::steer::{Method, SteeringVector};
use crate::{Error, Result};

/// How strongly each head is moved: all alike, or as training finds.
#[derive(Debug, Args)]
#[command(next_help_heading = "Training on preferences")]
pub(in crate::cli) struct AlignArgs {
    /// `iti`: all heads are moved equally, by --alpha. `dpo`: each head's strength is trained,
    /// within --kl-budget, so that true (or chosen) answers gain on false (or rejected) ones.
    /// `sft`: the same, but only to make them likelier.
    #[arg(long, value_name = "METHOD", default_value_t = Method::Iti, value_parser = method())]
    pub(in crate::cli) method: Method,

    /// With --method dpo: the weight of a nat of margin between two answers.
    #[arg(long, value_name = "X", default_value_t = 0.1)]
    beta: f64,

    /// With --method dpo or sft: maximum number of steps.
    #[arg(long, value_name = "N", default_value_t = ForwardParams::default().n_step, value_parser = positive)]
    steps: usize,

    /// With --method dpo or sft: write loss, preference accuracy, margin and KL of every check to
    /// this file, one JSON object per line.
    #[arg(long, value_name = "JSONL")]
    curve: Option<PathBuf>,
}

fn method() -> impl TypedValueParser<Value = Method> {
    one_of(["iti", "dpo", "sft"])
}

impl AlignArgs {
    /// What is minimized, where strengths are trained.
    pub(in crate::cli) fn objective(&self) -> Option<Objective> {
        let loss = match self.method {
            Method::Iti => return None,
            Method::Dpo => Loss::Dpo,
            Method::Sft => Loss::Sft,
        };
        Some(Objective { loss, beta: self.beta })
    }

    /// Where the curve is written.
    pub(in crate::cli) fn curve(&self) -> Option<&Path> {
        self.curve.as_deref()
    }

    /// Makes sure that the options go together, and with the data.
    pub(in crate::cli) fn check(
        &self,
        data: &Dataset,
        alpha: Option<f32>,
        tune: bool,
    ) -> Result<()> {
        if self.method == Method::Iti {
            let problem = "only applies to --method dpo and --method sft";
            return match self.curve {
                Some(_) => Err(Error::invalid("--curve", problem)),
                None => Ok(()),
            };
        }
        let method = self.method;
        if alpha.is_some() {
            let problem = format!("--method {method} finds the strength: leave it out");
            return Err(Error::invalid("--alpha", problem));
        }
        if tune {
            let problem =
                format!("tries strengths for all heads alike, and --method {method} trains each");
            return Err(Error::invalid("--tune", problem));
        }
        if !data.kind.asks() {
            return Err(Error::invalid(format!("--method {method}"), NEEDS_QUESTIONS));
        }
        if self.curve.as_ref().is_some_and(|path| path.as_os_str() == "-") {
            let problem = "cannot be stdout, which gets the report: name a file (./- is one)";
            return Err(Error::invalid("--curve -", problem));
        }
        Objective { loss: Loss::Dpo, beta: self.beta }.check()
    }

    /// Trains the strengths of a vector's heads. What was measured is kept beside the sidecar until
    /// the training is done.
    #[allow(clippy::too_many_arguments, reason = "everything that a training depends on")]
    pub(in crate::cli) fn train(
        &self,
        objective: Objective,
        evaluator: &mut Evaluator,
        heads: &SteeringVector,
        trial: &Trial,
        (budget, seed): (Option<f64>, u64),
        (place, identity): (&Path, &str),
        output: Output,
    ) -> Result<Trained> {
        let params = ForwardParams {
            n_step: self.steps,
            kl_budget: budget.unwrap_or(DEFAULT_BUDGET),
            seed,
            ..ForwardParams::default()
        };
        let place = place.with_extension("").with_extension("training.jsonl");
        let identity = format!("{identity} {} {objective:?} {params:?}", heads.fingerprint());
        let mut ledger = Measurements::open(&place, &identity)?;
        let kept = format!(
            "what was measured is kept in {}: rerun the same command to resume",
            place.display()
        );
        let bar = output.progress("training", params.n_step);
        interrupt::install();
        let on_step = |step: usize, _: Option<&TrainStep>| {
            bar.set_position(step as u64);
            interrupt::check(&kept)
        };
        let (questions, asked) = (&trial.questions, (trial.form, trial.preamble));
        let trained = train(
            evaluator,
            heads,
            questions,
            asked,
            trial.documents,
            &objective,
            &params,
            &mut ledger,
            on_step,
        );
        bar.finish_and_clear();
        let trained = trained?;
        if let Some(path) = &self.curve {
            write_curve(path, &trained.checks)?;
        }
        ledger.remove()?;
        Ok(trained)
    }
}

/// A line for each check.
fn write_curve(path: &Path, checks: &[TrainStep]) -> Result<()> {
    let lines: String =
        checks.iter().map(|check| format!("{}\n", serde_json::json!(check))).collect();
    write_atomically(path, |file| file.write_all(lines.as_bytes()))
}
