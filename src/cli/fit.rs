//! `candor fit`: from labelled texts to a sidecar.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde::Serialize;

use super::args::{DataArgs, ModelArgs, budget, finite, positive};
use super::capture::{KEPT, run_capture};
use super::heads::{self, Head};
use super::heat::HeatMap;
use super::output::{self, Output};
use super::plot::{self, Format};
use super::{embedded, interrupt};
use crate::capture::Store;
use crate::data::{Dataset, Kind, PromptForm};
use crate::eval::Evaluator;
use crate::eval::cross_validation::{Choice, choose};
use crate::steer::{
    About, Balance, Development, DirectionKind, FitParams, Positions, Sidecar, SteeringVector,
    default_path,
};
use crate::{Error, Geometry, Model, Result};

/// Heads of the table that is printed.
const N_LISTED: usize = 12;

/// Fit a steering vector and write it as a sidecar beside the model
///
/// Captures the head outputs of labelled texts, fits a probe to every head, takes the heads that
/// tell true from false best, and stores their directions. `run` and `chat` find the sidecar by
/// themselves.
#[derive(Debug, Args)]
pub(super) struct FitArgs {
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

    /// A store made by `capture`, in place of capturing; made here if it does not exist.
    #[arg(long, value_name = "SAFETENSORS")]
    activations: Option<PathBuf>,

    /// Heads to steer [default: 3 of 64, the paper's 48 of 1024].
    #[arg(short = 'k', long, value_name = "K", value_parser = positive)]
    heads: Option<usize>,

    /// Strength to store, in standard deviations [default: 15, the paper's].
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = finite)]
    alpha: Option<f32>,

    /// Directions.
    #[arg(long, value_name = "KIND", default_value = "mass-mean", value_parser = ["mass-mean", "probe", "random"])]
    direction: String,

    /// Choose K and alpha by trying: the best MC1 on the data within --kl-budget. On by default for
    /// the built-in model, slow for large ones.
    #[arg(long)]
    tune: bool,

    /// With --tune: most KL per token on neutral text, in nats.
    #[arg(long, value_name = "NATS", default_value_t = 0.2, value_parser = budget)]
    kl_budget: f64,

    /// Take of each question as many true as false answers: `auto` does where one kind has more
    /// than twice as many.
    #[arg(long, value_name = "WHEN", default_value = "auto", value_parser = ["auto", "always", "never"])]
    balance: String,

    /// Draw the heads' accuracies into a file, .svg or .png.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

/// What `--json` gives.
#[derive(Serialize)]
struct Document<'a> {
    path: &'a Path,
    k: usize,
    alpha: f32,
    direction: &'a str,
    heads: Vec<Head>,
    n_row: usize,
    seconds: f64,
}

impl FitArgs {
    pub(super) fn run(&self, output: Output) -> Result<()> {
        let start = Instant::now();
        let direction: DirectionKind = self.direction.parse()?;
        if let Some(path) = &self.plot {
            Format::of(path)?;
        }
        let data = self.data.open(&self.model)?;
        data.require_two_classes()?;
        let tunes = self.tunes(&data)?;
        let model = self.model.load()?;
        let geometry = model.geometry();
        let n_head = geometry.n_layer * geometry.n_head;
        if let Some(k) = self.heads.filter(|&k| k > n_head) {
            return Err(Error::invalid(
                "--heads",
                format!("{k} heads cannot be chosen from {n_head}"),
            ));
        }
        let form = self.data.form(&data)?;
        let path = match &self.output {
            Some(path) => path.clone(),
            None => default_path(model.path(), self.name.as_deref().unwrap_or(&data.name))?,
        };
        let activations = Activations::open(self, &model, &data, &form, output)?;
        let source = &activations.store;

        let questions: Vec<usize> = (0..data.questions.len()).collect();
        let params =
            FitParams { balance: self.balance(), seed: self.data.seed, ..FitParams::default() };
        if questions.len() < FEW_QUESTIONS {
            output.warn(format_args!(
                "only {} questions: accuracies measured on a fifth of them mean little",
                questions.len()
            ));
        }
        let bar = output.progress("probing", n_head);
        let development = Development::fit(source, &questions, &params, || bar.inc(1))?;
        bar.finish_and_clear();
        interrupt::check(KEPT)?;

        let vector_of = |k| development.vector(source, k, direction);
        let (vector, alpha) = if tunes {
            let (vector, choice) = self.tune(&model, &data, &form, output, vector_of)?;
            (vector, choice.alpha)
        } else {
            let k = self.heads.unwrap_or_else(|| default_k(n_head));
            (vector_of(k)?, self.alpha.unwrap_or(DEFAULT_ALPHA))
        };
        let about = self.about(&model, &data, &form, &development, direction, alpha, params);
        let sidecar = Sidecar { vector, about };
        interrupt::check(KEPT)?;
        sidecar.write(&path)?;
        activations.discard()?;
        if let Some(file) = &self.plot {
            plot::write(file, &sidecar.about.model_name, &heat_map(&sidecar))?;
        }
        let seconds = start.elapsed().as_secs_f64();
        self.report(&path, &sidecar, &development, seconds, output);
        Ok(())
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
        let has_questions = !matches!(data.kind, Kind::Statement | Kind::Pair);
        if self.tune && !has_questions {
            let problem =
                "needs questions with true and false answers, which this data set has not";
            return Err(Error::invalid("--tune", problem));
        }
        let by_default = self.model.is_embedded() && self.heads.is_none() && self.alpha.is_none();
        Ok(self.tune || by_default && has_questions)
    }

    /// The best K and α of those to try: the user's where given, else the usual ones.
    fn tune(
        &self,
        model: &Model,
        data: &Dataset,
        form: &PromptForm,
        output: Output,
        vector_of: impl Fn(usize) -> Result<SteeringVector>,
    ) -> Result<(SteeringVector, Choice)> {
        let mut grid = embedded::grid(model.geometry());
        grid.kl_budget = self.kl_budget;
        if let Some(k) = self.heads {
            grid.ks = vec![k];
        }
        if let Some(alpha) = self.alpha {
            grid.alphas = vec![alpha];
        }
        let mut evaluator =
            Evaluator::with(model, self.model.ctx_size().unwrap_or(0), self.model.session(model))?;
        let questions: Vec<_> = data.questions.iter().collect();
        let bar = output.progress("tuning", grid.n_step());
        interrupt::install();
        let result = choose(
            &mut evaluator,
            &questions,
            form,
            &embedded::neutral(),
            &grid,
            vector_of,
            || {
                bar.inc(1);
                interrupt::check("the captured activations are kept, what was tried is not")
            },
        );
        bar.finish_and_clear();
        result
    }

    #[allow(clippy::too_many_arguments, reason = "everything that the file records")]
    fn about(
        &self,
        model: &Model,
        data: &Dataset,
        form: &PromptForm,
        development: &Development,
        direction: DirectionKind,
        alpha: f32,
        params: FitParams,
    ) -> About {
        let name = self.name.clone().unwrap_or_else(|| data.name.clone());
        About {
            architecture: model.architecture().to_owned(),
            description: Some(format!("Inference-Time Intervention fitted on {}", data.name)),
            name,
            license: None,
            author: None,
            model_name: model.name().map_or_else(|| stem(model.path()), str::to_owned),
            model_fingerprint: model.fingerprint().to_owned(),
            candor_version: env!("CARGO_PKG_VERSION").to_owned(),
            direction,
            alpha,
            positions: Positions::Generated,
            seed: params.seed,
            data_name: data.name.clone(),
            data_sha256: data.sha256.clone(),
            prompt: form.as_str().to_owned(),
            split: format!(
                "{} rows of {} questions; probes on {:.0} % of the questions, ranked on {:.0} %",
                development.n_row(),
                data.questions.len(),
                100.0 * (1.0 - params.validation_share),
                100.0 * params.validation_share,
            ),
            head_accuracy: development.accuracies(),
        }
    }

    fn report(
        &self,
        path: &Path,
        sidecar: &Sidecar,
        development: &Development,
        seconds: f64,
        output: Output,
    ) {
        let vector = &sidecar.vector;
        let heads = heads::best_first(vector);
        if output.is_json() {
            output.json(&Document {
                path,
                k: heads.len(),
                alpha: sidecar.about.alpha,
                direction: &self.direction,
                heads,
                n_row: development.n_row(),
                seconds,
            });
            return;
        }
        output.line(heat_map(sidecar).text(output::width()));
        output.line(heads::text(&heads, N_LISTED));
        let size = std::fs::metadata(path).map_or(0, |m| m.len());
        output.fields(&[
            ("sidecar", format!("{} ({:.1} KB)", path.display(), size as f64 / 1e3)),
            ("heads", format!("{} of {}", heads.len(), vector.n_layer() * vector.n_head())),
            ("alpha", sidecar.about.alpha.to_string()),
            ("direction", self.direction.clone()),
            ("rows", sidecar.about.split.clone()),
            ("time", format!("{seconds:.1} s")),
        ]);
    }
}

fn heat_map(sidecar: &Sidecar) -> HeatMap<'_> {
    let selected = sidecar.vector.heads().iter().map(|head| head.site);
    HeatMap::new(&sidecar.about.head_accuracy, sidecar.vector.n_head(), selected)
}

/// A file's name without its extension: the name of a model that has none.
fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Below this many questions a ranking of heads is mostly luck.
const FEW_QUESTIONS: usize = 40;

/// The paper's strength.
const DEFAULT_ALPHA: f32 = 15.0;

/// The paper's share of heads, 48 of 1024.
fn default_k(n_head: usize) -> usize {
    (3 * n_head).div_ceil(64)
}

/// The store that a fit reads, and whether it goes when the sidecar is written.
struct Activations {
    store: Store,
    temporary: bool,
}

impl Activations {
    /// Opens the user's store, or captures: into the user's file, or into the cache, where a run
    /// that was stopped finds it again.
    fn open(
        args: &FitArgs,
        model: &Model,
        data: &Dataset,
        form: &PromptForm,
        output: Output,
    ) -> Result<Self> {
        if let Some(path) = args.activations.as_ref().filter(|path| path.exists()) {
            let store = Store::open(path)?;
            check_store(&store, model, data, form)?;
            return Ok(Self { store, temporary: false });
        }
        let path = match &args.activations {
            Some(path) => path.clone(),
            None => {
                let short = |text: &str| text.chars().take(16).collect::<String>();
                let name =
                    format!("{}-{}.safetensors", short(model.fingerprint()), short(&data.sha256));
                embedded::cache_folder("activations")?.join(name)
            }
        };
        let params = args.data.capture_params(&args.model, data)?;
        run_capture(model, data, &params, &path, KEPT, output)?;
        Ok(Self { store: Store::open(&path)?, temporary: args.activations.is_none() })
    }

    fn discard(self) -> Result<()> {
        let path = self.store.path().to_owned();
        drop(self.store);
        if self.temporary {
            std::fs::remove_file(&path).map_err(Error::io("remove", path))
        } else {
            Ok(())
        }
    }
}

/// Refuses a store that was captured from another model, other data, or in another form.
fn check_store(store: &Store, model: &Model, data: &Dataset, form: &PromptForm) -> Result<()> {
    let made_for = |key: &str| store.metadata().get(key).map_or("", String::as_str);
    let fingerprint = made_for("model.fingerprint");
    if fingerprint != model.fingerprint() {
        return Err(Error::WrongModel {
            path: store.path().to_owned(),
            expected: fingerprint.to_owned(),
            got: model.fingerprint().to_owned(),
        });
    }
    let fault = |problem| Err(Error::Store { path: store.path().to_owned(), problem });
    let stored = (store.n_layer(), store.n_head(), store.d_head());
    let Geometry { n_layer, n_head, d_head, .. } = model.geometry();
    if stored != (n_layer, n_head, d_head) {
        return fault(format!(
            "holds {} layers × {} heads × {} values, and the model has {n_layer} × {n_head} × {d_head}",
            stored.0, stored.1, stored.2
        ));
    }
    if made_for("data.sha256") != data.sha256 {
        return fault(format!("was captured from other data than {}", data.path.display()));
    }
    let stored = made_for("prompt_form");
    if stored != form.as_str() {
        return fault(format!(
            "was captured in the form `{stored}`, and this is `{}`: give the same --template",
            form.as_str()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::default_k;

    #[test]
    fn the_default_number_of_heads_is_the_papers() {
        assert_eq!(default_k(32 * 32), 48);
        assert_eq!((default_k(40), default_k(1)), (2, 1));
    }
}
