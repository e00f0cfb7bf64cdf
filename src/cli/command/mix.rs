//! `candor mix`: a weighted sum of sidecars.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::Result;
use crate::cli::args::parts::Part;
use crate::cli::args::provenance::ProvenanceArgs;
use crate::cli::show::heads::amount;
use crate::cli::show::output::{BOLD, DIM, Output};
use crate::cli::show::table::{printable_line, short};
use crate::cli::show::target::check_target;
use crate::file::stem;
use crate::steer::{Positions, Sidecar};

/// Add up sidecars, each multiplied by a factor
///
/// At its stored strength, the sum adds what each part adds at its own stored strength, times the
/// part's factor: 'a.gguf*0.7' with 'b.gguf*-0.3' is seven tenths of a minus three tenths of b. If
/// all parts have the same alpha, the sum keeps it; otherwise its alpha is 1. The sum's description
/// lists its parts.
#[derive(Debug, Args)]
pub(in crate::cli) struct MixArgs {
    /// Sidecars, each FILE or FILE*FACTOR (in quotes, because of the shell).
    #[arg(value_name = "FILE*FACTOR", required = true)]
    parts: Vec<Part>,

    /// The sidecar to write.
    #[arg(short, long, value_name = "GGUF")]
    output: PathBuf,

    /// Name of the vector [default: the file's].
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Tokens to steer by default: `generated` or `all` [default: as in the parts].
    #[arg(long, value_name = "POSITIONS")]
    policy: Option<Positions>,

    #[command(flatten)]
    provenance: ProvenanceArgs,

    /// Mix sidecars that were made for different models; the result is bound to the first one's.
    #[arg(long)]
    force: bool,
}

/// What `--json` gives.
#[derive(schemars::JsonSchema, Serialize)]
pub(in crate::cli) struct Document<'a> {
    path: &'a Path,
    fingerprint: String,
    alpha: f32,
    /// Steered heads.
    k: usize,
    /// Steered layers.
    n_layer: usize,
    parts: Vec<PartFacts<'a>>,
}

#[derive(schemars::JsonSchema, Serialize)]
struct PartFacts<'a> {
    path: &'a Path,
    factor: f32,
    alpha: f32,
    fingerprint: String,
}

impl MixArgs {
    pub(in crate::cli) fn run(&self, output: Output) -> Result<()> {
        self.parts.iter().try_for_each(Part::check)?;
        let parts: Vec<_> =
            self.parts.iter().map(|part| ("one of the parts", Some(part.path.as_path()))).collect();
        check_target(&self.output, &parts)?;
        let sidecars =
            self.parts.iter().map(|part| Sidecar::read(&part.path)).collect::<Result<Vec<_>>>()?;
        let stem = stem(&self.output);
        let name = self.name.as_deref().unwrap_or(&stem);
        let weighed: Vec<_> = sidecars.iter().zip(self.parts.iter().map(Part::factor)).collect();
        let mut mixed = Sidecar::mix(&weighed, name, self.policy, self.force)?;
        mixed.vector.check_strength(mixed.about.alpha)?;
        self.provenance.apply(&mut mixed.about)?;
        mixed.write(&self.output)?;
        let parts = self.parts.iter().zip(&sidecars).map(|(part, sidecar)| PartFacts {
            path: &part.path,
            factor: part.factor(),
            alpha: sidecar.about.alpha,
            fingerprint: sidecar.fingerprint(),
        });
        let document = Document {
            path: &self.output,
            fingerprint: mixed.fingerprint(),
            alpha: mixed.about.alpha,
            k: mixed.vector.heads().len(),
            n_layer: mixed.vector.layers().map_or(0, |layers| layers.directions().len()),
            parts: parts.collect(),
        };
        if output.is_json() {
            output.json(&document);
            return Ok(());
        }
        let (what, alpha) = (amount(&mixed.vector), short(document.alpha));
        output.line(format_args!("{BOLD}{}{BOLD:#}: {what}, alpha {alpha}", printable_line(name)));
        let description = mixed.about.description.as_deref().unwrap_or_default();
        output.line(format_args!("{DIM}{}{DIM:#}", printable_line(description)));
        output.wrote(&self.output);
        Ok(())
    }
}
