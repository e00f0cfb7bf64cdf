//! The paths beside the plain model.

use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use super::form::{
    Fact, FormArgs, Record, Written, optional, ratio_text, record, samples, seconds,
};
use crate::bench::{
    BenchPath, Build, Machine, ModelFacts, Overhead, OverheadParams, Phase, Sample, measure,
};
use crate::cli::args::model::ModelArgs;
use crate::cli::args::parts::{Part, check_alpha, combine};
use crate::cli::args::values::{finite, positive};
use crate::cli::interrupt;
use crate::cli::show::heads::amount_of;
use crate::cli::show::output::Output;
use crate::cli::show::table;
use crate::steer::{Positions, Sidecar};
use crate::{Model, Result};

#[derive(Debug, Args)]
pub(super) struct OverheadArgs {
    #[command(flatten)]
    model: ModelArgs,

    /// A sidecar to steer with; several add up, each times an optional factor, as in 'FILE*0.5'
    /// [default: every head of every layer, in random directions].
    #[arg(long, value_name = "FILE")]
    steer: Vec<Part>,

    /// With --steer: strength in standard deviations [default: the sidecar's own].
    #[arg(long, value_name = "X", requires = "steer", allow_negative_numbers = true, value_parser = finite)]
    alpha: Option<f32>,

    /// Prompt tokens to prefill, over all sequences; 0 skips prefill.
    #[arg(short = 'p', long, value_name = "N", default_value_t = 512)]
    n_prompt: usize,

    /// Tokens to decode one by one in each sequence; 0 skips decoding.
    #[arg(short, long, value_name = "N", default_value_t = 128)]
    n_predict: usize,

    /// Number of rounds; each gives one sample of every path.
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = positive)]
    rounds: usize,

    /// Minimum duration of a sample in seconds; shorter work is repeated.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.5, value_parser = seconds)]
    min_time: f64,

    /// Number of sequences in a batch.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = positive)]
    sequences: usize,

    /// Number of vectors in use at once, each with its own strength, shared out among the
    /// sequences.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = positive)]
    vectors: usize,

    /// Paths to measure besides `plain`.
    #[arg(
        long,
        value_name = "PATH,…",
        value_delimiter = ',',
        default_value = "observe,in-graph,callback,baked"
    )]
    paths: Vec<BenchPath>,

    /// Seed for tokens, vectors and the order of the paths.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    #[command(flatten)]
    form: FormArgs,
}

/// What `--json` gives.
#[derive(schemars::JsonSchema, Serialize)]
pub(in crate::cli) struct Document<'a> {
    build: Build,
    machine: Machine,
    model: ModelFacts,
    settings: Settings<'a>,
    #[serde(flatten)]
    overhead: &'a Overhead,
    seconds: f64,
}

#[derive(schemars::JsonSchema, Serialize)]
struct Settings<'a> {
    n_prompt: usize,
    n_predict: usize,
    n_round: usize,
    min_time: f64,
    n_sequence: usize,
    n_vector: usize,
    seed: u64,
    /// The sidecar's fingerprint; null for the worst case.
    steer: Option<&'a str>,
}

impl OverheadArgs {
    pub(super) fn run(&self, output: Output) -> Result<()> {
        let start = Instant::now();
        let model = self.model.load()?;
        let sidecar = self.sidecar(&model)?;
        let params = OverheadParams {
            n_prompt: self.n_prompt,
            n_generate: self.n_predict,
            n_round: self.rounds,
            min_sample: Duration::from_secs_f64(self.min_time),
            n_sequence: self.sequences,
            n_vector: self.vectors,
            paths: self.paths.clone(),
            vector: sidecar
                .as_ref()
                .map(|sidecar| (sidecar.vector.clone(), self.alpha.unwrap_or(sidecar.about.alpha))),
            seed: self.seed,
            session: crate::SessionParams {
                n_ctx: self.model.ctx_size().unwrap_or(1),
                ..self.model.session(&model)
            },
            model: self.model.params(),
        };
        let overhead = measure_with_bar(&model, &params, output)?;
        let fingerprint = sidecar.map(|sidecar| sidecar.fingerprint());
        let document = Document {
            build: Build::this(),
            machine: Machine::this(),
            model: ModelFacts::of(&model)?,
            settings: Settings {
                n_prompt: params.n_prompt,
                n_predict: params.n_generate,
                n_round: params.n_round,
                min_time: self.min_time,
                n_sequence: params.n_sequence,
                n_vector: params.n_vector,
                seed: params.seed,
                steer: fingerprint.as_deref(),
            },
            overhead: &overhead,
            seconds: start.elapsed().as_secs_f64(),
        };
        let written = Written {
            document: &document,
            facts: document.facts(),
            header: ["phase", "path", "tokens/s", "ms", "× plain", "low to high"],
            rows: &rows(&overhead),
            caption: Some(document.caption()),
            records: document.records(),
        };
        self.form.write(&written, output);
        for skipped in &overhead.skipped {
            output.note(format_args!("{} was not measured: {}", skipped.path, skipped.reason));
        }
        Ok(())
    }

    fn sidecar(&self, model: &Model) -> Result<Option<Sidecar>> {
        if self.steer.is_empty() {
            return Ok(None);
        }
        check_alpha(&self.steer, self.alpha)?;
        // Every token is steered while measuring, whatever the parts steer.
        let (_, sidecar) = combine(&self.steer, Some(Positions::All), false, |path| {
            let sidecar = Sidecar::read(path)?;
            sidecar.check_model(path, model.fingerprint())?;
            Ok(sidecar)
        })?;
        Ok(Some(sidecar))
    }
}

/// Measures with a bar that counts the seconds that the plain model would take.
fn measure_with_bar(model: &Model, params: &OverheadParams, output: Output) -> Result<Overhead> {
    interrupt::install();
    let bar = output.progress("measuring", 0);
    let overhead = measure(model, params, |progress| {
        bar.set_length(progress.total.as_secs_f64().ceil() as u64);
        bar.set_position(progress.done.as_secs());
        interrupt::go_on()
    });
    bar.finish_and_clear();
    overhead
}

fn rows(overhead: &Overhead) -> Vec<[String; 6]> {
    let row = |sample: &Sample| {
        let rate = sample.n_token_per_second().map(|rate| format!("{rate:.1}"));
        let [ratio, interval] = ratio_text(sample.ratio, 4);
        [
            sample.phase.name().to_owned(),
            sample.path.name().to_owned(),
            rate.unwrap_or_default(),
            milliseconds(sample),
            ratio,
            interval,
        ]
    };
    overhead.results.iter().map(row).collect()
}

/// Of a token that is decoded; of all the work otherwise.
fn milliseconds(sample: &Sample) -> String {
    let once = sample.median().as_secs_f64() * 1e3;
    match sample.phase {
        Phase::Decode => {
            format!("{:.3}", once / (sample.n_token / sample.n_sequence).max(1) as f64)
        }
        _ => format!("{once:.3}"),
    }
}

impl Document<'_> {
    fn steering(&self) -> String {
        let vectors = match self.settings.n_vector {
            1 => String::new(),
            n => format!(", {n} vectors"),
        };
        let which = self.settings.steer.map_or("random directions", |_| "a sidecar's directions");
        let what = amount_of(self.overhead.n_head_steered, self.overhead.n_layer_steered);
        format!("{what}, {which}{vectors}, alpha {}", self.overhead.alphas[0])
    }

    fn caption(&self) -> String {
        let name = table::printable_line(self.model.name.as_deref().unwrap_or("no name"));
        format!(
            "{name} ({}, {} parameters, {}); {}, {}; steered: {}; {}; candor {}, \
             llama-cpp-sys-2 {}.",
            table::printable_line(&self.model.architecture),
            table::count(self.model.n_parameter),
            table::bytes(self.model.n_byte),
            self.machine.description(),
            table::counted(self.overhead.n_threads, "thread"),
            self.steering(),
            table::counted(self.settings.n_round, "round"),
            self.build.candor,
            self.build.llama_cpp_sys_2,
        )
    }

    fn facts(&self) -> Vec<Fact> {
        let memory = &self.overhead.memory;
        let largest = memory.contexts.iter().filter_map(|context| context.bytes).max();
        vec![
            ("model", self.model.path.display().to_string()),
            (
                "size",
                format!(
                    "{} parameters, {}",
                    table::count(self.model.n_parameter),
                    table::bytes(self.model.n_byte)
                ),
            ),
            (
                "machine",
                format!(
                    "{}, {}",
                    self.machine.description(),
                    table::counted(self.overhead.n_threads, "thread")
                ),
            ),
            ("steered", self.steering()),
            ("sequences", self.settings.n_sequence.to_string()),
            ("rounds", format!("{} in {:.0} s", self.settings.n_round, self.seconds)),
            ("banks", table::bytes(memory.bank)),
            (
                "context",
                largest.map_or("unknown".to_owned(), |n| format!("at most {}", table::bytes(n))),
            ),
        ]
    }

    /// A record per result, with everything that it depends on.
    fn records(&self) -> Vec<Record> {
        let alphas: Vec<String> = self.overhead.alphas.iter().map(f32::to_string).collect();
        let of = |sample: &Sample| {
            let mut cells = record(&self.build, &self.machine, Some(&self.model));
            cells.extend([
                ("n_threads", self.overhead.n_threads.to_string()),
                ("n_prompt", self.settings.n_prompt.to_string()),
                ("n_predict", self.settings.n_predict.to_string()),
                ("n_round", self.settings.n_round.to_string()),
                ("seed", self.settings.seed.to_string()),
                ("steer", self.settings.steer.unwrap_or_default().to_owned()),
                ("alphas", alphas.join(" ")),
                ("n_head_steered", self.overhead.n_head_steered.to_string()),
                ("n_layer_steered", self.overhead.n_layer_steered.to_string()),
                ("phase", sample.phase.name().to_owned()),
                ("path", sample.path.name().to_owned()),
                ("n_token", sample.n_token.to_string()),
                ("n_sequence", sample.n_sequence.to_string()),
                ("n_vector", sample.n_vector.to_string()),
                ("n_repeat", sample.n_repeat.to_string()),
                ("median_ns", sample.median().as_nanos().to_string()),
                ("n_token_per_second", optional(sample.n_token_per_second())),
                ("ratio_median", optional(sample.ratio.map(|r| r.median))),
                ("ratio_low", optional(sample.ratio.and_then(|r| r.low))),
                ("ratio_high", optional(sample.ratio.and_then(|r| r.high))),
                ("samples_ns", samples(&sample.samples_ns)),
            ]);
            cells
        };
        self.overhead.results.iter().map(of).collect()
    }
}
