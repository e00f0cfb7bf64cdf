//! `candor bake`: a model with a vector inside.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde::Serialize;

use crate::cli::args::model::ModelArgs;
use crate::cli::args::select::Neutral;
use crate::cli::args::steer::{SteerArgs, Subject};
use crate::cli::interrupt;
use crate::cli::show::output::Output;
use crate::cli::show::table::{bytes, counted, printable_line, short};
use crate::cli::show::target::check_target;
use crate::eval::Agreement;
use crate::export::{Bake, BakeParams, BakeRecord, check_base};
use crate::gguf::Gguf;
use crate::steer::Sidecar;
use crate::{Geometry, Model, Result, SessionParams, fingerprint};

/// Tokens that a document is cut to where models are compared.
const N_TOKEN: usize = 128;

/// Bake a vector into a model file, for every program that runs llama.cpp.
///
/// The new file steers every token wherever it runs, without candor. If the architecture has a bias
/// after the attention output, that bias does exactly what steering does; otherwise a bias on V
/// does, provided that all heads sharing a key/value head move alike. For a split model, name its
/// first file; the result is a single file. Devices, threads, context and cache matter only for
/// comparing the result with live steering.
#[derive(Debug, Args)]
pub(in crate::cli) struct BakeArgs {
    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    steer: SteerArgs,

    /// The file to write.
    #[arg(short, long, value_name = "GGUF")]
    output: PathBuf,

    /// If only V takes a bias and the heads that share it move differently, bake the nearest bias
    /// and measure how far off it is.
    #[arg(long)]
    approximate: bool,

    /// Compare the baked model with live steering on neutral prose (always done if the bake is not
    /// exact).
    #[arg(long)]
    check: bool,

    /// Neutral prose, one document per line [default: the demo's stories].
    #[arg(long, value_name = "FILE")]
    neutral: Option<PathBuf>,
}

/// What `--json` gives.
#[derive(schemars::JsonSchema, Serialize)]
pub(in crate::cli) struct Document<'a> {
    path: &'a Path,
    n_byte: u64,
    place: &'static str,
    layers: &'a [usize],
    n_head: usize,
    alpha: f32,
    /// The sidecar's fingerprint.
    steer: &'a str,
    /// The base model's, and the baked one's too.
    model_fingerprint: &'a str,
    /// Of each of `layers`.
    errors: &'a [f64],
    /// Of the baked model with live steering; null where it was not measured.
    agreement: Option<Agreement>,
    /// Of the base model with live steering, to compare with; null where it was not measured.
    unsteered: Option<Agreement>,
    seconds: f64,
}

impl BakeArgs {
    pub(in crate::cli) fn run(&self, output: Output) -> Result<()> {
        let start = Instant::now();
        let neutral = Neutral::read(self.neutral.as_deref(), &self.model)?;
        let base = self.model.path()?;
        let (sidecar_path, sidecar) = self.sidecar(&base, output)?;
        let alpha = self.steer.alpha(&sidecar);
        let params = BakeParams {
            alpha,
            name: sidecar.about.name.clone(),
            source: source(&sidecar_path),
            vector_fingerprint: sidecar.fingerprint(),
            // What adds nothing has seen nothing.
            seen: sidecar.about.evidence.seen.clone().filter(|_| alpha != 0.0),
            prompt: sidecar.about.prompt.clone(),
            approximate: self.approximate,
        };

        interrupt::install();
        let bar = output.progress("computing", 0);
        let bake = Bake::new(&base, &sidecar.vector, &params, |i, n| {
            bar.set_length(n as u64);
            bar.set_position(i as u64);
            interrupt::go_on()
        });
        bar.finish_and_clear();
        let bake = bake?;
        self.write(&bake, output)?;
        let agreement = if self.check || bake.baked().error() > 0.0 {
            Some(self.compare(&base, &sidecar, alpha, &neutral, output)?)
        } else {
            None
        };
        let (baked, record) = (bake.baked(), bake.record());
        if baked.error() > 0.5 {
            output.warn(
                "the nearest bias on V keeps little of this vector: its error is larger than the vector \
                 itself; `candor run` and `candor chat` steer with all of it",
            );
        }
        if output.is_json() {
            output.json(&Document {
                path: &self.output,
                n_byte: bake.n_byte(),
                place: baked.place.name(),
                layers: &baked.layers,
                n_head: baked.n_head,
                alpha,
                steer: &record.vector,
                model_fingerprint: &record.base,
                errors: &baked.errors,
                agreement: agreement.map(|[baked, _]| baked),
                unsteered: agreement.map(|[_, base]| base),
                seconds: start.elapsed().as_secs_f64(),
            });
        } else {
            output.fields(&facts(&self.output, &bake, agreement));
        }
        Ok(())
    }

    /// The vector, for this file. What cannot be baked at all is refused before one is looked for.
    fn sidecar(&self, base: &Path, output: Output) -> Result<(PathBuf, Sidecar)> {
        let file = Gguf::open_model(base)?;
        check_base(&file)?;
        let subject = Subject {
            path: base,
            fingerprint: fingerprint(&file)?,
            name: file.opt_str("general.name")?,
            geometry: Geometry::read(&file)?,
            baked: None,
        };
        let found = self.steer.required(subject, output)?;
        let neutral = self.neutral.as_deref();
        let read = [("the sidecar", Some(found.0.as_path())), ("the neutral text", neutral)];
        check_target(&self.output, &read)?;
        Ok(found)
    }

    fn write(&self, bake: &Bake, output: Output) -> Result<()> {
        // Megabytes, so that the bar's numbers can be read.
        let n = bake.n_byte();
        let bar =
            output.progress("writing MB", usize::try_from(n / 1_000_000).unwrap_or(usize::MAX));
        let written = bake.write(&self.output, |n_byte| {
            bar.set_position(n_byte / 1_000_000);
            if n_byte == n {
                bar.set_message("to disk");
            }
            interrupt::go_on()
        });
        bar.finish_and_clear();
        written
    }

    /// The baked model beside live steering of every token, and the base model beside it.
    fn compare(
        &self,
        base: &Path,
        sidecar: &Sidecar,
        alpha: f32,
        neutral: &Neutral,
        output: Output,
    ) -> Result<[Agreement; 2]> {
        let params = self.model.params();
        let [model, baked] = [base, &self.output].map(|path| Model::load(path, &params));
        let (model, baked) = (model?, baked?);
        let documents = neutral.texts();
        let session = SessionParams {
            n_ctx: self.model.ctx_size().unwrap_or(N_TOKEN),
            ..self.model.session(&model)
        };
        let bar = output.progress("comparing", documents.len());
        let steered = (&sidecar.vector, alpha);
        let agreement =
            Agreement::measure(&model, steered, [&baked, &model], &documents, &session, || {
                bar.inc(1);
                interrupt::check("the baked model is written")
            });
        bar.finish_and_clear();
        agreement
    }
}

/// The name of a sidecar's file; of a sum, which is no file, the sum as it was written.
fn source(path: &Path) -> String {
    let name = path.file_name().filter(|_| path.exists()).unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

/// What the record says, for people.
pub(in crate::cli) fn record_text(record: &BakeRecord) -> String {
    let distance = match record.error {
        0.0 => String::new(),
        error => format!(", off by up to {}", percent(error)),
    };
    format!(
        "{} at alpha {}: {}, {}{distance} (from {}, by candor {})",
        printable_line(&record.name),
        short(record.alpha),
        counted(record.n_head, "head"),
        record.place,
        printable_line(&record.source),
        printable_line(&record.candor_version),
    )
}

fn percent(share: f64) -> String {
    format!("{:.3} %", 100.0 * share)
}

fn facts(
    path: &Path,
    bake: &Bake,
    agreement: Option<[Agreement; 2]>,
) -> Vec<(&'static str, String)> {
    let (baked, record) = (bake.baked(), bake.record());
    let layers = baked.layers.len();
    let mut facts = vec![
        ("baked", format!("{}, {}", path.display(), bytes(bake.n_byte()))),
        ("vector", record_text(record)),
        ("sidecar", record.vector.clone()),
        ("model", record.base.clone()),
    ];
    if layers == 0 {
        facts.push(("layers", "none: nothing is added".to_owned()));
    } else {
        facts.push(("layers", format!("{layers}: {:?}", baked.layers)));
    }
    if baked.error() > 0.0 {
        let errors: Vec<String> = baked.errors.iter().map(|&error| percent(error)).collect();
        facts.push((
            "distance",
            format!("after the output projection, by layer: {}", errors.join(", ")),
        ));
    }
    if let Some(agreement) = agreement {
        let near = |Agreement { kl, top1, .. }: Agreement| {
            format!("KL {kl:.2e}, likeliest token the same in {:.1} %", 100.0 * top1)
        };
        let [baked, base] = agreement.map(near);
        facts.push(("beside live", format!("{baked} (not steered: {base})")));
        facts.push(("measured on", format!("{} tokens of neutral text", agreement[0].n_token)));
    }
    facts
}
