//! `candor import`: vectors of other programs become sidecars.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::capture::Store;
use crate::cli::args::parts::Part;
use crate::cli::args::provenance::ProvenanceArgs;
use crate::cli::args::values::{direction, finite};
use crate::cli::show::heads::amount;
use crate::cli::show::output::{BOLD, Output};
use crate::cli::show::table::{printable_line, short};
use crate::cli::show::target::check_target;
use crate::cli::{embedded, folders, interrupt};
use crate::data::sha256;
use crate::export::ControlVector;
use crate::file::stem;
use crate::import::{Base, HeadArrays, Origin, control_vectors, sidecar};
use crate::steer::{DirectionKind, FitParams, Positions, SteeringVector, default_path};
use crate::{Error, Result, content};

/// Convert another program's vector into a sidecar
///
/// Reads llama.cpp control vectors (from its cvector-generator or from repeng), which hold a
/// direction per layer; several add up, each times an optional factor, as in 'FILE*0.5'. Or reads
/// heads as numpy arrays (--heads, --directions), as written by the original ITI code. The sidecar
/// is bound to the model and works with `run`, `chat` and all other commands.
#[derive(Debug, Args)]
pub(in crate::cli) struct ImportArgs {
    /// Control vectors (GGUF files), each FILE or FILE*FACTOR.
    #[arg(value_name = "FILE", required_unless_present = "heads", conflicts_with = "heads")]
    files: Vec<Part>,

    /// The model the vector is for, a GGUF file [default: the built-in demo model].
    #[arg(short, long, value_name = "GGUF")]
    model: Option<PathBuf>,

    /// Heads to steer: int64 [k, 2], a layer and a head each.
    #[arg(long, value_name = "NPY", requires = "directions")]
    heads: Option<PathBuf>,

    /// Their directions: float32 or float64, [n_layer * n_head, d_head] (honest_llama's
    /// com_directions), [n_layer, n_head, d_head], or [k, d_head] for these heads alone.
    #[arg(long, value_name = "NPY", requires = "heads")]
    directions: Option<PathBuf>,

    /// Their standard deviations, of the same shape without d_head [default: measured on
    /// --activations].
    #[arg(long, value_name = "NPY", requires = "heads")]
    sigma: Option<PathBuf>,

    /// A store made by `capture`, to measure sigmas and to fit the probes for the chat's truth
    /// readings.
    #[arg(long, value_name = "SAFETENSORS", requires = "heads")]
    activations: Option<PathBuf>,

    /// How the directions of heads were found.
    #[arg(long, value_name = "KIND", default_value = "mass-mean", requires = "heads", value_parser = direction())]
    direction: DirectionKind,

    /// The sidecar to write [default: steer-<name>-<model>.gguf beside the model].
    #[arg(short, long, value_name = "GGUF")]
    output: Option<PathBuf>,

    /// Name of the vector [default: the file's].
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Strength to store [default: 1 for control vectors, 15 for heads].
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = finite)]
    alpha: Option<f32>,

    /// Tokens to steer by default: `all`, as llama.cpp does with control vectors, or `generated`
    /// [default: all for control vectors, generated for heads].
    #[arg(long, value_name = "POSITIONS")]
    policy: Option<Positions>,

    #[command(flatten)]
    provenance: ProvenanceArgs,

    /// Accept a control vector that names another architecture, or activations of another model.
    #[arg(long)]
    force: bool,
}

/// What `--json` gives.
#[derive(schemars::JsonSchema, Serialize)]
pub(in crate::cli) struct Document<'a> {
    path: &'a Path,
    fingerprint: String,
    alpha: f32,
    positions: String,
    /// Steered heads.
    k: usize,
    /// Steered layers.
    layers: Vec<usize>,
    model: &'a str,
}

impl ImportArgs {
    pub(in crate::cli) fn run(&self, output: Output) -> Result<()> {
        let model = embedded::model_or(self.model.as_ref())?;
        let base = Base::read(&model)?;
        let inputs: Vec<&Path> = match &self.heads {
            Some(heads) => vec![heads],
            None => self.files.iter().map(|part| part.path.as_path()).collect(),
        };
        let file = inputs.first().map(|path| stem(path)).unwrap_or_default();
        let name = self.name.as_deref().unwrap_or_else(|| own_name(&file, &stem(&model)));
        let target = match &self.output {
            Some(path) => path.clone(),
            None => default_path(&model, name)?,
        };
        let arrays = [&self.directions, &self.sigma].map(|path| path.as_deref());
        let read: Vec<_> = inputs
            .iter()
            .map(|path| Some(*path))
            .chain(arrays)
            .map(|path| ("what is to be imported", path))
            .chain([("the model", Some(model.as_path()))])
            .chain([("the activations", self.activations.as_deref())])
            .collect();
        check_target(&target, &read)?;
        let (vector, origin, kind, alpha, positions) = match (&self.heads, &self.directions) {
            (Some(heads), Some(directions)) => {
                let vector = self.heads((&model, &base), (heads, directions), output)?;
                let origin = origin(&[Part { path: directions.clone(), factor: None }])?;
                let kind = self.direction;
                (vector, origin, kind, 15.0, Positions::Generated)
            }
            _ => {
                let vector = self.control_vectors(&base, output)?;
                (vector, origin(&self.files)?, DirectionKind::Given, 1.0, Positions::All)
            }
        };
        let alpha = self.alpha.unwrap_or(alpha);
        vector.check_strength(alpha)?;
        let positions = self.policy.unwrap_or(positions);
        let mut imported = sidecar(&base, vector, name, origin, (kind, alpha, positions));
        self.provenance.apply(&mut imported.about)?;
        imported.write(&target)?;
        let layers = imported.vector.layers();
        let document = Document {
            path: &target,
            fingerprint: imported.fingerprint(),
            alpha,
            positions: positions.to_string(),
            k: imported.vector.heads().len(),
            layers: layers.map(|l| l.directions().keys().copied().collect()).unwrap_or_default(),
            model: &base.fingerprint,
        };
        if output.is_json() {
            output.json(&document);
            return Ok(());
        }
        let (what, name) = (amount(&imported.vector), printable_line(name));
        let alpha = short(alpha);
        output.line(format_args!(
            "{BOLD}{name}{BOLD:#}: {what}, alpha {alpha}, tokens steered: {positions}"
        ));
        output.wrote(&target);
        Ok(())
    }

    /// The sum of the control vectors.
    fn control_vectors(&self, base: &Base, output: Output) -> Result<SteeringVector> {
        let read = |part: &Part| {
            part.check()?;
            let vector = ControlVector::read(&part.path).map_err(not_one)?;
            let hint = &vector.model_hint;
            if !hint.is_empty() && *hint != base.architecture {
                let problem = format!(
                    "is for models of architecture `{}`, and this one is `{}`: pass --force if you \
                     know that they match",
                    hint.escape_debug(),
                    base.architecture
                );
                let error = Error::invalid(part.path.display().to_string(), problem);
                if !self.force {
                    return Err(error);
                }
                output.warn(error);
            }
            Ok((vector, part.factor()))
        };
        control_vectors(base, &self.files.iter().map(read).collect::<Result<Vec<_>>>()?)
    }

    /// The heads of the arrays.
    fn heads(
        &self,
        (model, base): (&Path, &Base),
        (heads, directions): (&Path, &Path),
        output: Output,
    ) -> Result<SteeringVector> {
        let arrays = HeadArrays::read(base.geometry, heads, directions, self.sigma.as_deref())?;
        let Some(path) = &self.activations else {
            if self.sigma.is_none() {
                let problem = "the scale of the heads is unknown: give --sigma FILE.npy, or \
                               --activations STORE (candor capture makes one) to measure it";
                return Err(Error::invalid("--sigma", problem));
            }
            return arrays.vector();
        };
        let store = Store::open(path)?;
        let content = content(model, folders::cache_folder("hashes").ok().as_deref())?;
        match store.check_model(&base.fingerprint, &content) {
            Err(Error::Store { path, problem }) if !self.force => {
                let problem = format!("{problem}, or pass --force if you know that they match");
                return Err(Error::Store { path, problem });
            }
            Err(error) if !self.force => return Err(error),
            Err(error) => output.warn(error),
            Ok(()) => {}
        }
        interrupt::install();
        let bar = output.progress("probing", base.geometry.n_layer * base.geometry.n_head);
        let vector = arrays.measured(&store, &FitParams::default(), || bar.inc(1));
        bar.finish_and_clear();
        interrupt::check("nothing was written")?;
        vector
    }
}

/// The vector's own name in that of a file such as `control-truth-model`: `truth`.
fn own_name<'a>(file: &'a str, model: &str) -> &'a str {
    let name = file.strip_prefix("control-").unwrap_or(file);
    let name = name.strip_suffix(model).and_then(|name| name.strip_suffix('-')).unwrap_or(name);
    if name.is_empty() { file } else { name }
}

/// A sound file that holds something else is not to be called unusable.
fn not_one(error: Error) -> Error {
    match error {
        Error::Gguf { path, place, problem } if place == "key general.architecture" => {
            let problem = format!("it is not a control vector: its general.architecture {problem}");
            Error::invalid(path.display().to_string(), problem)
        }
        other => other,
    }
}

/// Names and contents of the files.
fn origin(parts: &[Part]) -> Result<Origin> {
    let mut names = Vec::new();
    let mut hashes = Vec::new();
    for part in parts {
        let file = part.path.file_name().unwrap_or_default();
        names.push(Part { path: file.into(), ..part.clone() }.to_string());
        let bytes = std::fs::read(&part.path).map_err(Error::io("read", &part.path))?;
        hashes.push(sha256(&bytes));
    }
    let sha256 = match hashes.as_slice() {
        [one] => one.clone(),
        several => sha256(several.join(", ").as_bytes()),
    };
    Ok(Origin { name: names.join(", "), sha256 })
}
