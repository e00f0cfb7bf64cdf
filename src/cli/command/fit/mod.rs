//! `candor fit`: from labelled texts to a sidecar.

mod choose;
pub(in crate::cli) mod report;

use std::path::{Path, PathBuf};
use std::slice::from_mut;
use std::time::Instant;

use clap::Args;

use self::choose::Chosen;
use self::report::{Fitted, maps};
use crate::cli::args::activations::StoreArgs;
use crate::cli::args::align::AlignArgs;
use crate::cli::args::asking::{MeasureArgs, PreambleArgs};
use crate::cli::args::data::DataArgs;
use crate::cli::args::model::ModelArgs;
use crate::cli::args::provenance::ProvenanceArgs;
use crate::cli::args::select::{NEEDS_QUESTIONS, SelectArgs, check_k};
use crate::cli::args::steer::warn_of_baked;
use crate::cli::args::values::{direction, finite, positive};
use crate::cli::command::capture::KEPT;
use crate::cli::interrupt;
use crate::cli::show::chance::{tell_of_repeats, warn_of_chance, warn_of_sigma};
use crate::cli::show::output::Output;
use crate::cli::show::plot::{self, Format};
use crate::cli::show::report::display_name;
use crate::cli::show::table::counted;
use crate::cli::show::target::check_target;
use crate::data::{Dataset, PromptForm, sha256};
use crate::file;
use crate::probe::Chance;
use crate::select::{HeadEffect, Trial};
use crate::steer::{
    About, Balance, Development, DirectionKind, Evidence, FitParams, Method, Sidecar, default_path,
    find_beside,
};
use crate::study::{self, describe};
use crate::{Error, Geometry, Model, Result};

/// Fit a steering vector and write it as a sidecar beside the model
///
/// Captures the head outputs of labelled texts, fits a probe to every head, picks the heads that
/// best tell true from false, and stores their directions. `run` and `chat` find the sidecar
/// automatically.
#[derive(Debug, Args)]
pub(in crate::cli) struct FitArgs {
    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    data: DataArgs,

    /// The sidecar to write [default: steer-<name>-<model>.gguf beside the model].
    #[arg(short, long, value_name = "GGUF")]
    output: Option<PathBuf>,

    /// Name of the vector [default: the data set's].
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    #[command(flatten)]
    activations: StoreArgs,

    /// Number of heads to steer [default: 3 of every 64, which gives the paper's 48 of 1024].
    #[arg(short = 'k', long, value_name = "K", value_parser = positive)]
    heads: Option<usize>,

    /// Strength to store, in standard deviations [default: the one that --kl-budget gives, or else
    /// the paper's 15].
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = finite)]
    alpha: Option<f32>,

    /// How directions are computed.
    #[arg(long, value_name = "KIND", default_value = "mass-mean", value_parser = direction())]
    direction: DirectionKind,

    /// Choose K and alpha by search: the best MC1 on the data within --kl-budget. On by default for
    /// the built-in model; slow for large models.
    #[arg(long)]
    tune: bool,

    #[command(flatten)]
    select: SelectArgs,

    #[command(flatten)]
    preamble: PreambleArgs,

    #[command(flatten)]
    align: AlignArgs,

    #[command(flatten)]
    measure: MeasureArgs,

    /// Use equally many true and false answers of each question; `auto` does so if one kind has
    /// more than twice as many.
    #[arg(long, value_name = "WHEN", default_value = "auto", value_parser = ["auto", "always", "never"])]
    balance: String,

    /// Draw a map of the heads' probe accuracies (and of their effects, if measured) into this .svg
    /// or .png file.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,

    #[command(flatten)]
    provenance: ProvenanceArgs,
}

impl FitArgs {
    pub(in crate::cli) fn run(&self, output: Output) -> Result<()> {
        let start = Instant::now();
        if let Some(path) = &self.plot {
            Format::of(path)?;
        }
        let mut data = self.data.open(&self.model)?;
        data.require_two_classes()?;
        let tunes = self.tunes(&data)?;
        self.check(&data, tunes)?;
        let path = self.path(&data)?;
        let preamble = self.preamble.text()?;
        let neutral = self.select.neutral(&self.model)?;
        let documents = neutral.texts();
        let model = self.model.load_for(from_mut(&mut data), output)?;
        self.preamble.check((&model, &self.model), &preamble)?;
        warn_of_baked(&model, output);
        let n_head = self.n_head(&model)?;
        let form = self.data.form(&data, &model)?;
        let activations =
            self.activations.open((&self.data, &data), (&self.model, &model), output)?;
        let source = &activations.store;

        let questions: Vec<usize> = (0..data.questions.len()).collect();
        let params = FitParams {
            balance: self.balance(),
            sigma: self.measure.sigma(),
            seed: self.data.seed,
            ..FitParams::default()
        };
        if questions.len() < FEW_QUESTIONS {
            output.warn(format_args!(
                "only {}: accuracies measured on a fifth of them mean little",
                counted(questions.len(), "question")
            ));
        }
        let bar = output.progress("probing", n_head);
        let development = Development::fit(source, &questions, &params, || bar.inc(1))?;
        bar.finish_and_clear();
        interrupt::check(KEPT)?;

        let trial = Trial {
            questions: data.questions.iter().collect(),
            form: &form,
            preamble: &preamble,
            documents: &documents,
            direction: self.direction,
            params: self.select.params(),
        };
        let identity = format!(
            "{} {} {form:?} {preamble:?} {params:?} {}",
            self.model.identity(&model)?,
            data.sha256,
            self.measure.policy().name(),
        );
        let place = (path.with_extension("trials.jsonl"), identity);
        let chance = development.chance(source)?;
        warn_of_chance(&chance, output);
        tell_of_repeats(&data, output);
        warn_of_sigma(development.n_sigma_row(), output);
        let chosen = self.choose(
            &model,
            &development,
            source,
            (&trial, &neutral),
            place.clone(),
            (tunes, n_head),
            output,
        )?;
        chosen.vector.check_strength(chosen.alpha)?;
        let held_out = match chosen.choice.filter(|choice| !choice.mc1.is_nan()) {
            Some(_) => self.held_out(&model, (&data, &trial), source, place, output)?,
            None => None,
        };
        let about = self.about(&model, &data, &form, &development, (&chosen, chance), &preamble)?;
        let bar = output.progress("calibrating", Development::N_CALIBRATION * n_head);
        let calibrated = development.calibrated(source, chosen.vector.clone(), || bar.inc(1));
        bar.finish_and_clear();
        let vector = match calibrated {
            Ok(vector) => vector,
            Err(error) => {
                let why = match error {
                    Error::Invalid { problem, .. } => problem,
                    error => error.to_string(),
                };
                output.warn(format_args!("probe readings stay uncalibrated: {why}"));
                chosen.vector
            }
        };
        let sidecar = Sidecar { vector, about };
        interrupt::check(KEPT)?;
        sidecar.write(&path)?;
        chosen.journal.remove()?;
        activations.discard()?;
        if let (Some(file), Some(maps)) = (&self.plot, maps(&sidecar)) {
            plot::write(file, &display_name(&model), &maps)?;
        }
        let fitted = Fitted {
            path: &path,
            sidecar: &sidecar,
            development: &development,
            effects: &chosen.effects,
            choice: chosen.choice,
            training: chosen.trained.as_ref(),
            held_out,
            chance,
            seconds: start.elapsed().as_secs_f64(),
            next: self.next(&path, &model),
        };
        fitted.report(output);
        Ok(())
    }

    /// What to type next: a vector is found where `fit` puts it, and named where it lies elsewhere or
    /// is not the only one there.
    fn next(&self, path: &Path, model: &Model) -> String {
        let mut words = vec!["candor".to_owned(), "chat".to_owned()];
        if let Some(model) = &self.model.model {
            words.extend(["-m".to_owned(), model.display().to_string()]);
        }
        let is_found = || {
            let found = find_beside(model.path(), model.fingerprint());
            model.baked().is_none() && matches!(found, Ok(Some((found, _))) if found == path)
        };
        if self.output.is_some() || !is_found() {
            words.extend(["--steer".to_owned(), path.display().to_string()]);
        }
        // Words without a NUL, which no argument has, can always be joined.
        let command = shlex::try_join(words.iter().map(String::as_str)).unwrap_or_default();
        format!("{command}    (then /compare and a question)")
    }

    /// Makes sure that the options go together, and with the data.
    fn check(&self, data: &Dataset, tunes: bool) -> Result<()> {
        self.select.check(data)?;
        self.align.check(data, self.alpha, self.tune)?;
        if self.alpha.is_some() && self.select.kl_budget().is_some() && !tunes {
            let problem = "gives alpha: leave out one of the two, or add --tune";
            return Err(Error::invalid("--kl-budget", problem));
        }
        Ok(())
    }

    /// The sidecar to write. Nothing that is read or written is another of these files, and all have
    /// a folder.
    fn path(&self, data: &Dataset) -> Result<PathBuf> {
        let model = self.model.path()?;
        let path = match &self.output {
            Some(path) => path.clone(),
            None => default_path(&model, self.name.as_deref().unwrap_or(&data.name))?,
        };
        let read = [
            ("the model", Some(model.as_path())),
            ("the data", self.data.data.as_deref()),
            ("the text before every question", self.preamble.path()),
            ("the neutral text", self.select.neutral_path()),
        ];
        let activations = self.activations.path();
        let targets = [
            ("the vector (-o)", Some(&*path)),
            ("the plot (--plot)", self.plot.as_deref()),
            ("the training curve (--curve)", self.align.curve()),
            ("the activations", activations),
        ];
        for (place, (what, target)) in targets.iter().enumerate() {
            let Some(target) = target else { continue };
            let same = |other: &&(&str, Option<&Path>)| {
                other.1.is_some_and(|other| file::is_same(other, target))
            };
            if let Some((other, _)) = targets[..place].iter().find(same) {
                let problem = format!("{what} and {other} would be the same file: name two");
                return Err(Error::invalid(target.display().to_string(), problem));
            }
            let others = [&targets[..place], &read[..]].concat();
            // Activations that are there are used, not replaced.
            match *what {
                "the activations" => file::check_target(target, &others)?,
                _ => check_target(target, &others)?,
            }
        }
        Ok(path)
    }

    /// Heads to choose from, if the model has as many as are asked for and a place for each in a map.
    fn n_head(&self, model: &Model) -> Result<usize> {
        let n_head = model.attention_layers().count() * model.geometry().n_head;
        if self.plot.is_some() && n_head < n_site(model) {
            let problem = "layers without attention have no place in the map: leave it out";
            return Err(Error::invalid("--plot", problem));
        }
        self.heads.map_or(Ok(()), |k| check_k(model, k))?;
        Ok(n_head)
    }

    fn balance(&self) -> Balance {
        match self.balance.as_str() {
            "always" => Balance::Always,
            "never" => Balance::Never,
            _ => Balance::Auto,
        }
    }

    /// Whether to try K and α: where that was asked for, or where neither was given, the model is
    /// the built-in one, and the data holds the questions that it takes.
    fn tunes(&self, data: &Dataset) -> Result<bool> {
        let has_questions = data.kind.asks();
        if self.tune && !has_questions {
            return Err(Error::invalid("--tune", NEEDS_QUESTIONS));
        }
        let is_free =
            self.heads.is_none() && self.alpha.is_none() && self.align.method == Method::Iti;
        Ok(self.tune || self.model.is_embedded() && is_free && has_questions)
    }

    fn about(
        &self,
        model: &Model,
        data: &Dataset,
        form: &PromptForm,
        development: &Development,
        (chosen, chance): (&Chosen, Chance),
        preamble: &str,
    ) -> Result<About> {
        // What was tried is known where something was chosen from it.
        let kl_budget = match chosen.choice.filter(|choice| !choice.mc1.is_nan()) {
            Some(_) => Some(self.select.grid(model, self.heads, self.alpha)?.kl_budget),
            None => None,
        };
        let per_head = |value: fn(&HeadEffect) -> f64| {
            let mut values = vec![f32::NAN; n_site(model)];
            for head in &chosen.effects {
                values[head.site.layer * model.geometry().n_head + head.site.head] =
                    value(head) as f32;
            }
            let values = values.into_iter().map(|x| if x.is_finite() { x } else { f32::NAN });
            if chosen.effects.is_empty() { Vec::new() } else { values.collect() }
        };
        let described = study::Chosen {
            name: self.name.clone(),
            method: self.align.method,
            direction: self.direction,
            alpha: chosen.alpha,
            positions: self.measure.positions(),
            selection: self.select.by(),
        };
        let described = describe(model, data, form, (development, chance), &described);
        let mut about = About {
            evidence: Evidence {
                preamble: (!preamble.is_empty()).then(|| sha256(preamble.as_bytes())),
                kl_budget,
                ..described.evidence
            },
            head_effect: per_head(|head| head.effect),
            // Rounding can leave a KL of nothing below zero.
            head_cost: per_head(|head| head.cost.max(0.0)),
            ..described
        };
        self.provenance.apply(&mut about)?;
        Ok(about)
    }
}

/// Heads of a model all of whose layers have attention.
fn n_site(model: &Model) -> usize {
    let Geometry { n_layer, n_head, .. } = model.geometry();
    n_layer * n_head
}

/// Below this many questions a ranking of heads is mostly luck.
const FEW_QUESTIONS: usize = 40;
