//! Which vector steers, how strongly, and whether it fits the model.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::args::model::ModelArgs;
use crate::cli::args::parts::{Part, check_alpha, combine};
use crate::cli::args::values::{finite, share};
use crate::cli::embedded;
use crate::cli::show::chance::luck_warning;
use crate::cli::show::document::usage;
use crate::cli::show::output::Output;
use crate::cli::show::table::{printable_line, short};
use crate::export::BakeRecord;
use crate::steer::{Positions, Reader, Sidecar, SteeringVector, find_beside, list_beside};
use crate::{Error, Geometry, Model, Result};

/// What a sidecar has to fit: a model, in memory or in its file.
#[derive(Debug, Clone)]
pub(in crate::cli) struct Subject<'a> {
    pub(in crate::cli) path: &'a Path,
    pub(in crate::cli) fingerprint: String,
    pub(in crate::cli) name: Option<&'a str>,
    pub(in crate::cli) geometry: Geometry,
    pub(in crate::cli) baked: Option<&'a BakeRecord>,
}

impl<'a> From<&'a Model> for Subject<'a> {
    fn from(model: &'a Model) -> Self {
        Self {
            path: model.path(),
            fingerprint: model.fingerprint().to_owned(),
            name: model.name(),
            geometry: model.geometry(),
            baked: model.baked(),
        }
    }
}

/// Which vector steers, and how strongly.
#[derive(Debug, Args)]
#[command(next_help_heading = "Steering")]
pub(in crate::cli) struct SteerArgs {
    /// A sidecar; `auto` takes the one beside the model (`run`, `chat` and `serve` fall back to the
    /// built-in vector of the built-in model), `none` does not steer. May be repeated: vectors add
    /// up, each at its own strength or times a factor, as in --steer a.gguf --steer 'b.gguf*0.5'.
    #[arg(long, value_name = "FILE", default_value = "auto")]
    steer: Vec<Part>,

    /// Strength in standard deviations, for a single sidecar; 0 is off [default: the sidecar's
    /// own].
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = finite)]
    alpha: Option<f32>,

    /// Use a sidecar even if it was made for another model.
    #[arg(long)]
    force: bool,
}

impl SteerArgs {
    /// Finds, reads and checks the sidecar; `None` where there is to be no steering.
    pub(in crate::cli) fn sidecar<'a>(
        &self,
        model: impl Into<Subject<'a>>,
        output: Output,
    ) -> Result<Option<(PathBuf, Sidecar)>> {
        self.sidecar_at(None, model, output)
    }

    /// The same for commands that talk; where nothing is named and none was made for the built-in model
    /// yet, the vector that comes with it.
    pub(in crate::cli) fn sidecar_or_built_in(
        &self,
        positions: Option<Positions>,
        (args, model): (&ModelArgs, &Model),
        output: Output,
    ) -> Result<Option<(PathBuf, Sidecar)>> {
        let found = self.sidecar_at(positions, model, output)?;
        if found.is_some() || !(self.is_auto() && args.is_embedded()) {
            return Ok(found);
        }
        let path = embedded::vector()?;
        let sidecar = Sidecar::read(&path)?;
        Ok(Some((path, sidecar)))
    }

    /// The same; of sidecars that steer different tokens, the sum steers those of `positions`.
    pub(in crate::cli) fn sidecar_at<'a>(
        &self,
        positions: Option<Positions>,
        model: impl Into<Subject<'a>>,
        output: Output,
    ) -> Result<Option<(PathBuf, Sidecar)>> {
        let model = model.into();
        check_alpha(&self.steer, self.alpha)?;
        if let (Some("none"), Some(alpha)) = (self.special(), self.stray_alpha()) {
            let problem = format!("{alpha} is a strength, but --steer none steers nothing");
            return Err(usage(Error::invalid("--alpha", problem)));
        }
        if self.special().is_none() {
            let is_word =
                |part: &&Part| ["auto", "none"].iter().any(|word| part.path.as_os_str() == *word);
            if let Some(part) = self.steer.iter().find(is_word) {
                let problem = "cannot be combined with other sidecars or given a factor: name \
                               files instead";
                return Err(Error::invalid(format!("--steer {}", part.path.display()), problem));
            }
        }
        match self.special() {
            Some("none") => return Ok(None),
            Some(_) => {
                if let Some(record) = model.baked {
                    output.aside(format_args!(
                        "{} is baked into this model at alpha {}: no sidecar is added",
                        printable_line(&record.name),
                        short(record.alpha)
                    ));
                    return Ok(None);
                }
                let found = find_beside(model.path, &model.fingerprint)?;
                match &found {
                    Some((path, sidecar)) => {
                        warn_of_name(path, sidecar, &model, output);
                        warn_of_other_bake(path, sidecar, &model, output);
                    }
                    None => warn_of_others(&model, output)?,
                }
                return Ok(found);
            }
            None => {}
        }
        self.read_parts(&self.steer, positions, model, output).map(Some)
    }

    /// Reads sidecars and adds them up.
    pub(in crate::cli) fn read_parts<'a>(
        &self,
        parts: &[Part],
        positions: Option<Positions>,
        model: impl Into<Subject<'a>>,
        output: Output,
    ) -> Result<(PathBuf, Sidecar)> {
        let model = model.into();
        combine(parts, positions, self.force, |path| self.read_for(path, &model, output))
    }

    /// `auto` or `none`, where that is all that was said.
    fn special(&self) -> Option<&str> {
        match self.steer.as_slice() {
            [Part { path, factor: None }] => {
                path.to_str().filter(|path| matches!(*path, "auto" | "none"))
            }
            _ => None,
        }
    }

    /// Whether sidecars were named.
    pub(in crate::cli) fn names_files(&self) -> bool {
        self.special().is_none()
    }

    /// Whether nothing is to be steered, and nothing else was said: with a strength besides,
    /// [`sidecar`](Self::sidecar) refuses.
    pub(in crate::cli) fn is_none(&self) -> bool {
        self.special() == Some("none") && self.stray_alpha().is_none()
    }

    /// A strength that does not mean "off".
    fn stray_alpha(&self) -> Option<f32> {
        self.alpha.filter(|&alpha| alpha != 0.0)
    }

    /// The sidecar, for what cannot do without one.
    pub(in crate::cli) fn required<'a>(
        &self,
        model: impl Into<Subject<'a>>,
        output: Output,
    ) -> Result<(PathBuf, Sidecar)> {
        if self.special() == Some("none") {
            let problem = "leaves nothing to do: name a sidecar with --steer FILE";
            return Err(Error::invalid("--steer none", problem));
        }
        self.sidecar(model, output)?.ok_or_else(|| {
            let problem = "there is none beside the model: name one with --steer FILE, or make \
                           one with `candor fit`";
            Error::invalid("sidecar", problem)
        })
    }

    /// The sidecars that were named; `None` where that is left to what is beside the model.
    #[cfg(unix)]
    pub(in crate::cli) fn parts(&self) -> Option<&[Part]> {
        self.special().is_none().then_some(self.steer.as_slice())
    }

    /// Whether sidecars of other models are taken.
    #[cfg(unix)]
    pub(in crate::cli) fn is_forced(&self) -> bool {
        self.force
    }

    /// Refuses a strength where no vector was found that it could be of.
    pub(in crate::cli) fn check_found(&self, found: bool, model: &Model) -> Result<()> {
        let Some(alpha) = self.stray_alpha().filter(|_| !found) else { return Ok(()) };
        let why = match model.baked() {
            Some(_) => "what is baked into this model has its own strength",
            None => "there is no vector beside the model",
        };
        let problem = format!(
            "{alpha} is a strength, and {why}: name a sidecar with --steer FILE (`candor fit` makes one)"
        );
        Err(usage(Error::invalid("--alpha", problem)))
    }

    /// Whether the sidecar is whatever is found beside the model.
    pub(in crate::cli) fn is_auto(&self) -> bool {
        self.special() == Some("auto")
    }

    /// Reads a sidecar and refuses, or with --force warns of, one for another model.
    fn read_for(&self, path: &Path, model: &Subject, output: Output) -> Result<Sidecar> {
        let sidecar = Sidecar::read(path)?;
        match sidecar.check_model(path, &model.fingerprint) {
            Err(Error::WrongModel { path, expected, got }) if self.force => {
                output.warn(format_args!(
                    "{} was made for another model: its fingerprint is {expected}, this model's is \
                     {got}",
                    path.display()
                ));
            }
            Err(error) => return Err(error),
            Ok(()) => warn_of_name(path, &sidecar, model, output),
        }
        warn_of_other_bake(path, &sidecar, model, output);
        if let Some(record) = model.baked {
            output.warn(format_args!(
                "{} is baked into this model at alpha {}: with {} it is steered by both",
                printable_line(&record.name),
                short(record.alpha),
                path.display()
            ));
        }
        let geometry = model.geometry;
        sidecar.vector.check_geometry(geometry.n_layer, geometry.n_head, geometry.d_head)?;
        if let Some(layers) = sidecar.vector.layers() {
            layers.check_geometry(geometry.n_layer, geometry.n_embd)?;
        }
        Ok(sidecar)
    }

    /// The strength that the user gave.
    pub(in crate::cli) fn given_alpha(&self) -> Option<f32> {
        self.alpha
    }

    /// The strength: the user's, else the sidecar's.
    pub(in crate::cli) fn alpha(&self, sidecar: &Sidecar) -> f32 {
        self.alpha.unwrap_or(sidecar.about.alpha)
    }
}

/// The vector that comes with the built-in model, where that is the model and none was made for it yet.
#[cfg(feature = "serve")]
pub(in crate::cli) fn built_in_vector(args: &ModelArgs) -> Result<Option<PathBuf>> {
    if !args.is_embedded() {
        return Ok(None);
    }
    let model = args.path()?;
    match find_beside(&model, &crate::fingerprint(&crate::gguf::Gguf::open_model(&model)?)?)? {
        Some(_) => Ok(None),
        None => embedded::vector().map(Some),
    }
}

/// Warns where the fingerprints agree and the names do not: a fine-tune may leave alone all that
/// the fingerprint covers.
fn warn_of_name(path: &Path, sidecar: &Sidecar, model: &Subject, output: Output) {
    let made_for = &sidecar.about.model_name;
    if let Some(name) = model.name.filter(|name| name != made_for) {
        output.warn(format_args!(
            "{} was made for a model named {}, and this one is named {}: check that they match",
            path.display(),
            printable_line(made_for),
            printable_line(name),
        ));
    }
}

/// Warns where what is fitted to a model, or captured from it, has in it what is baked into that model.
pub(in crate::cli) fn warn_of_baked(model: &Model, output: Output) {
    if let Some(record) = model.baked().filter(|record| record.acts()) {
        output.warn(format_args!(
            "{} is baked into this model at alpha {}: what is captured from it, and fitted to that, is \
             for the model as baked",
            printable_line(&record.name),
            short(record.alpha),
        ));
    }
}

/// Warns where a sidecar was fitted with something else baked into the model than there is.
fn warn_of_other_bake(path: &Path, sidecar: &Sidecar, model: &Subject, output: Output) {
    let now = model.baked.filter(|record| record.acts()).map(ToString::to_string);
    if let Some(then) =
        sidecar.about.evidence.baked.as_ref().filter(|&then| now.as_ref() != Some(then))
    {
        output.warn(format_args!(
            "{} was fitted on a model with something baked into it ({}), which this one has not: what it \
             does here is another thing",
            path.display(),
            printable_line(then),
        ));
    }
}

/// Warns where sidecars lie beside the model, by their names, and none was made for it.
fn warn_of_others(model: &Subject, output: Output) -> Result<()> {
    for path in list_beside(model.path)? {
        output.warn(format_args!(
            "{} was made for another model: nothing is steered (--steer FILE --force uses it \
             anyway)",
            path.display()
        ));
    }
    Ok(())
}

/// Steering where the probes read falsehood alone.
#[derive(Debug, Args)]
#[command(next_help_heading = "Steering")]
pub(in crate::cli) struct GateArgs {
    /// Steer only where it is needed: within an answer, a token is steered if the vector's probes
    /// read the token before it as true with a probability below X (0 to 1). Before the first
    /// reading the gate is open; for text unlike anything the probes were fitted on it stays shut.
    #[arg(long, value_name = "X", value_parser = share)]
    pub(in crate::cli) gate: Option<f32>,
}

impl GateArgs {
    /// Refuses a gate where nothing steers, or without probes to decide by.
    pub(in crate::cli) fn check(&self, vector: Option<&SteeringVector>) -> Result<()> {
        let has_probes = |vector: &SteeringVector| Reader::of([vector]).is_some();
        match (self.gate, vector) {
            (Some(_), None) => {
                Err(Error::invalid("--gate", "nothing steers: name a vector with --steer"))
            }
            (Some(_), Some(vector)) if !has_probes(vector) => {
                Err(Error::invalid("--gate", "the vector has no probes to decide by"))
            }
            _ => Ok(()),
        }
    }

    /// Says what makes a gate worth less than it seems: probes without a scale, probes that read
    /// nothing, a strength of 0.
    pub(in crate::cli) fn tell(&self, sidecar: &Sidecar, alpha: f32, output: Output) {
        if self.gate.is_none() {
            return;
        }
        if alpha == 0.0 {
            output.warn("nothing is steered at alpha 0, whatever the gate decides");
        }
        let is_calibrated = |reader: Reader| reader.is_calibrated();
        if Reader::of([&sidecar.vector]).is_some_and(|reader| !is_calibrated(reader)) {
            output.warn(
                "the vector's probes are not calibrated (it was made by an earlier version, or from few \
                 questions): the gate compares the mean of the probes' own probabilities, which was not \
                 checked against any answers, and does not notice text unlike what they were fitted on; \
                 `candor fit` makes a calibrated vector",
            );
        }
        if let Some(warning) = luck_warning(sidecar) {
            output.warn(warning);
        }
    }
}
