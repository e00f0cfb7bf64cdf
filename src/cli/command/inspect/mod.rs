//! `candor inspect`: what a model, a sidecar, a control vector or an activation store holds, read from
//! the file alone; with `--verify`, what a sidecar does.

mod control;
pub(in crate::cli) mod metadata;
mod model;
mod sidecar;
mod store;
mod verify;

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use self::control::ControlFacts;
use self::model::ModelFacts;
use self::sidecar::SidecarFacts;
use self::store::StoreFacts;
use self::verify::Verified;
use crate::capture::store::Store;
use crate::cli::args::model::ModelArgs;
use crate::cli::show::output::Output;
use crate::cli::show::plot::{self, Format};
use crate::cli::show::target::check_target;
use crate::error::shown;
use crate::export::CONTROL_VECTOR;
use crate::gguf::Gguf;
use crate::steer::{Sidecar, find_beside};
use crate::{Error, Result, fingerprint};

/// Show what a model, a sidecar, a control vector or an activation store holds
///
/// Reads only the file. With --verify, a sidecar is also tried on its model: whether the two belong
/// together, whether off is off to the last bit, and what steering changes.
#[derive(Debug, Args)]
pub(in crate::cli) struct InspectArgs {
    /// A GGUF or safetensors file [default: the model; with --verify the sidecar beside it].
    file: Option<PathBuf>,

    /// Show all heads of a sidecar instead of the best 20.
    #[arg(long)]
    all: bool,

    /// Draw a map of the heads' probe accuracies (and of their effects, if measured) into this .svg
    /// or .png file.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,

    /// Print only a GGUF file's metadata, key by key, as one JSON object; for a sidecar,
    /// docs/src/schemas/sidecar.schema.json describes it.
    #[arg(long, conflicts_with_all = ["verify", "plot", "all"])]
    metadata: bool,

    /// Try a sidecar on the model (-m) with a few texts. Fails if it was made for another model.
    #[arg(long)]
    verify: bool,

    #[command(flatten)]
    model: ModelArgs,
}

/// What a file holds. Every field is in `--json`, with `kind` before them.
#[derive(Debug, schemars::JsonSchema, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(in crate::cli) enum Facts {
    Model(Box<ModelFacts>),
    Sidecar(Box<SidecarFacts>),
    Store(StoreFacts),
    #[serde(rename = "control-vector")]
    Control(ControlFacts),
}

impl InspectArgs {
    pub(in crate::cli) fn run(&self, output: Output) -> Result<()> {
        if let Some(plot) = &self.plot {
            Format::of(plot)?;
        }
        let path = self.path()?;
        if let Some(plot) = &self.plot {
            check_target(plot, &[("the file to show", Some(&path))])?;
        }
        if self.metadata {
            output.json(&metadata::of(&path)?);
            return Ok(());
        }
        let mut facts = Facts::of(&path)?;
        if self.verify {
            let Facts::Sidecar(sidecar) = &mut facts else {
                return Err(Error::invalid("--verify", "only a sidecar can be tried on a model"));
            };
            sidecar.verify = Some(verify::verify(&Sidecar::read(&path)?, &self.model)?);
        }
        if let Some(plot) = &self.plot {
            facts.plot(plot)?;
        }
        if output.is_json() {
            output.json(&facts);
        } else {
            let n_head = if self.all { usize::MAX } else { 20 };
            output.text(&facts.text(n_head));
        }
        facts.verdict()
    }

    /// The file: the one that was named, the sidecar beside the model where it is to be verified, or
    /// the model itself.
    fn path(&self) -> Result<PathBuf> {
        if let Some(path) = &self.file {
            return Ok(path.clone());
        }
        let model = self.model.path()?;
        if !self.verify {
            return Ok(model);
        }
        let found = find_beside(&model, &fingerprint(&Gguf::open_model(&model)?)?)?;
        let (path, _) = found.ok_or_else(|| {
            let problem = "there is none beside the model: name one";
            Error::invalid("sidecar", problem)
        })?;
        Ok(path)
    }
}

impl Facts {
    /// Reads a file of any of the kinds.
    fn of(path: &Path) -> Result<Self> {
        match start(path)? {
            start if start.starts_with(b"GGUF") => Self::of_gguf(path),
            // The length of a JSON object, then the object.
            [.., b'{'] => Ok(Self::Store(StoreFacts::of(&Store::open(path)?))),
            _ => Err(Error::invalid(
                path.display().to_string(),
                "neither a GGUF file (a model or a sidecar) nor a safetensors file (activations)",
            )),
        }
    }

    fn of_gguf(path: &Path) -> Result<Self> {
        let file = Gguf::open_model(path)?;
        if file.opt_str("general.architecture")? == Some(CONTROL_VECTOR) {
            return Ok(Self::Control(ControlFacts::of(&file)?));
        }
        match file.opt_str("general.type")? {
            None | Some("model") => Ok(Self::Model(Box::new(ModelFacts::of(&file)?))),
            Some("adapter") => {
                Ok(Self::Sidecar(Box::new(SidecarFacts::of(path, Sidecar::read(path)?))))
            }
            Some(other) => {
                let kind = shown(other);
                Err(Error::invalid(
                    path.display().to_string(),
                    format!("holds a `{kind}`, expected a model, a sidecar or activations"),
                ))
            }
        }
    }

    fn plot(&self, path: &Path) -> Result<()> {
        let Self::Sidecar(sidecar) = self else {
            return Err(Error::invalid("--plot", "only a sidecar has accuracies to draw"));
        };
        let maps = sidecar.maps().ok_or_else(|| {
            Error::invalid("--plot", "this sidecar does not hold the accuracies of all heads")
        })?;
        plot::write(path, sidecar.model_name(), &maps)
    }

    /// The facts for people, with at most `n_head` rows in the table of heads.
    fn text(&self, n_head: usize) -> String {
        match self {
            Self::Model(model) => model.text(),
            Self::Sidecar(sidecar) => sidecar.text(n_head),
            Self::Store(store) => store.text(),
            Self::Control(control) => control.text(),
        }
    }

    /// What is wrong with what was tried.
    fn verdict(&self) -> Result<()> {
        match self {
            Self::Sidecar(sidecar) => sidecar.verify.as_ref().map_or(Ok(()), Verified::verdict),
            _ => Ok(()),
        }
    }
}

/// The first nine bytes of a file, by which its kind is known; zeros where it is shorter.
fn start(path: &Path) -> Result<[u8; 9]> {
    let mut start = [0; 9];
    let file = File::open(path).map_err(Error::io("read", path))?;
    let mut bytes = Vec::new();
    file.take(start.len() as u64).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    start[..bytes.len()].copy_from_slice(&bytes);
    Ok(start)
}
