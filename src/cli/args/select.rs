//! Heads chosen by what they cause, from the command line.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;

use crate::cli::args::model::ModelArgs;
use crate::cli::args::values::{budget, selection};
use crate::cli::args::words::Words;
use crate::cli::show::document::usage;
use crate::cli::show::output::Output;
use crate::cli::show::table::{counted, printable_line, short};
use crate::cli::{embedded, interrupt};
use crate::data::{Dataset, sha256};
use crate::eval::Evaluator;
use crate::file::{TEXT_MAX, text_up_to};
use crate::probe::Activations;
use crate::select::{Grid, Journal, Ranked, SelectParams, Trial, rank};
use crate::session::SessionParams;
use crate::steer::{Development, Selection, SteeringVector};
use crate::{Error, Model, Result};

/// How heads and their strength are chosen.
#[derive(Debug, Args)]
#[command(next_help_heading = "Choosing heads and strength")]
pub(in crate::cli) struct SelectArgs {
    /// Rank heads by how well their probes read the truth (`accuracy`, as in the paper), by how
    /// much moving each head alone changes the choice of answers (`effect`), or by that effect
    /// relative to how much it disturbs other text (`causal`).
    #[arg(long, value_name = "BY", default_value = "accuracy", value_parser = selection())]
    select: Selection,

    /// With --select effect or causal: try only the heads with the N most accurate probes.
    #[arg(long, value_name = "accuracy:N", value_parser = screen)]
    screen: Option<usize>,

    /// Largest KL per token on neutral prose, in nats; alpha becomes the largest within it, from
    /// 1/64 to 64 [default where heads or alpha are searched for: 0.2].
    #[arg(long, value_name = "NATS", value_parser = budget)]
    kl_budget: Option<f64>,

    /// Neutral prose, one document per line [default: 20 passages of plain English prose; 40 short
    /// stories for the built-in model].
    #[arg(long, value_name = "FILE")]
    neutral: Option<PathBuf>,
}

/// `accuracy:256`.
fn screen(text: &str) -> std::result::Result<usize, String> {
    let n = text.strip_prefix("accuracy:").and_then(|n| n.parse().ok()).filter(|&n| n > 0);
    n.ok_or_else(|| "expected accuracy:N, such as accuracy:256".to_owned())
}

/// Vectors that are tried side by side: as many sequences of a batch carry one each.
const N_TRIAL: usize = 32;

/// What is wrong with data that strengths and effects cannot be measured on.
pub(in crate::cli) const NEEDS_QUESTIONS: &str =
    "needs questions with true and false answers, but this data set has none";

/// Used where a budget is needed and none was given, in nats per token.
pub(in crate::cli) const DEFAULT_BUDGET: f64 = 0.2;

impl SelectArgs {
    pub(in crate::cli) fn by(&self) -> Selection {
        self.select
    }

    /// The budget that was asked for.
    pub(in crate::cli) fn kl_budget(&self) -> Option<f64> {
        self.kl_budget
    }

    pub(in crate::cli) fn params(&self) -> SelectParams {
        SelectParams { n_candidate: self.screen, ..SelectParams::default() }
    }

    /// As they are typed, but for the budget: by what heads are chosen, and the neutral text.
    pub(in crate::cli) fn words(&self) -> Words {
        let mut words = Words::default();
        words.add("--select", Some(self.select).filter(|&by| by != Selection::Accuracy));
        words.add("--screen", self.screen.map(|n| format!("accuracy:{n}")));
        words.add("--neutral", self.neutral.as_deref().map(Path::display));
        words
    }

    /// Makes sure that what is asked for can be had from the data.
    pub(in crate::cli) fn check(&self, data: &Dataset) -> Result<()> {
        let by = self.by();
        if by == Selection::Accuracy && self.screen.is_some() {
            return Err(Error::invalid(
                "--screen",
                "only applies to --select effect and --select \
                                       causal",
            ));
        }
        if by != Selection::Accuracy && !data.kind.asks() {
            return Err(Error::invalid(format!("--select {by}"), NEEDS_QUESTIONS));
        }
        Ok(())
    }

    /// The pairs of K and α to try: those that were given, else the usual ones. Where one of the two
    /// was given, and no budget, none is there to refuse it.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the model has fewer heads than were asked for.
    pub(in crate::cli) fn grid(
        &self,
        model: &Model,
        k: Option<usize>,
        alpha: Option<f32>,
    ) -> Result<Grid> {
        let mut grid = Grid::of(model.geometry());
        let default = if alpha.is_some() { f64::INFINITY } else { DEFAULT_BUDGET };
        grid.kl_budget = self.kl_budget.unwrap_or(default);
        if let Some(k) = k {
            check_k(model, k)?;
            grid.ks = vec![k];
        }
        if let Some(alpha) = alpha {
            grid.alphas = vec![alpha];
        }
        Ok(grid)
    }

    /// The user's file of them.
    pub(in crate::cli) fn neutral_path(&self) -> Option<&Path> {
        self.neutral.as_deref()
    }

    /// The neutral documents.
    pub(in crate::cli) fn neutral(&self, model: &ModelArgs) -> Result<Neutral> {
        Neutral::read(self.neutral.as_deref(), model)
    }

    /// The same, of which there must be one for each of two halves.
    pub(in crate::cli) fn neutral_halves(&self, model: &ModelArgs) -> Result<Neutral> {
        let neutral = self.neutral(model)?;
        match neutral.len() {
            0 | 1 => Err(Error::invalid("--neutral", "holds one document, at least 2 are needed")),
            _ => Ok(neutral),
        }
    }

    /// Opens what a stopped run has tried, or begins it. `identity` is what it depends on besides the
    /// trial.
    pub(in crate::cli) fn journal(place: &Path, identity: &str, trial: &Trial) -> Result<Journal> {
        let documents = sha256(trial.documents.join("\n").as_bytes());
        let identity = format!("{identity} {documents} {} {:?}", trial.direction, trial.params);
        Journal::open(place, &identity)
    }

    /// Puts the heads in the order in which they are to be steered, with progress and an estimate of
    /// the time before it starts. `kept` says where the journal is.
    pub(in crate::cli) fn rank(
        &self,
        evaluator: &mut Evaluator,
        development: &Development,
        source: &impl Activations,
        trial: &Trial,
        (journal, kept): (&mut Journal, &str),
        output: Output,
    ) -> Result<Ranked> {
        let by = self.by();
        if by == Selection::Accuracy {
            return Ok(Ranked { development: development.clone(), effects: Vec::new() });
        }
        interrupt::install();
        let n_head = trial.params.n_candidate.unwrap_or(usize::MAX);
        let n_head = n_head.min(development.scores.len());
        let pace = pace(evaluator, trial)?;
        let n_token = trial.n_token(evaluator, n_head)?;
        output.note(format_args!(
            "trying {} {}: about {n_token} tokens at {pace:.0} per second, {}",
            counted(n_head, "head"),
            if n_head == 1 { "by itself" } else { "by themselves" },
            match journal.len() {
                0 => format!("so {}", indicatif::HumanDuration(duration(n_token, pace))),
                n => format!("{n} measurements are known from an interrupted run"),
            }
        ));
        let bar = output.progress("trying", 1);
        let result = rank(evaluator, development, source, trial, by, journal, |step| {
            bar.set_length(step.n_all as u64);
            bar.set_position(step.n_done as u64);
            interrupt::check(kept)
        });
        bar.finish_and_clear();
        result
    }
}

impl ModelArgs {
    /// What scores answers, with room for the vectors that are tried side by side.
    pub(in crate::cli) fn evaluator(&self, model: &Model) -> Result<Evaluator> {
        let params = SessionParams { n_row: N_TRIAL + 1, ..self.session(model) };
        Evaluator::with(model, self.ctx_size().unwrap_or(0), params)
    }
}

/// The largest strength within a budget.
pub(in crate::cli) fn strength_within(
    evaluator: &mut Evaluator,
    vector: &SteeringVector,
    documents: &[&str],
    budget: f64,
    output: Output,
) -> Result<f32> {
    const TYPICAL: usize = 10;
    let bar = output.progress("strength", TYPICAL);
    interrupt::install();
    let found = evaluator.strength_within(vector, documents, budget, |_, _| {
        bar.inc(1);
        interrupt::check("the captured activations are kept, what was tried is not")
    });
    bar.finish_and_clear();
    let (alpha, kl) = found?;
    let shown = short(alpha);
    output.note(format_args!("alpha {shown} costs {} nats per token of neutral prose", short(kl)));
    if not_reached(alpha) {
        output.note(format_args!(
            "{shown} is the largest alpha that is tried, and it stays below the budget of {budget} nats"
        ));
    }
    Ok(alpha)
}

/// Whether a strength was found because no larger one is tried.
pub(in crate::cli) fn not_reached(alpha: f32) -> bool {
    alpha >= *Evaluator::STRENGTHS.end()
}

/// Tokens per second, read in batches.
fn pace(evaluator: &mut Evaluator, trial: &Trial) -> Result<f64> {
    let few = &trial.documents[..trial.documents.len().min(4)];
    evaluator.steer_with(None)?;
    evaluator.divergence(&few[..1])?;
    let start = Instant::now();
    let n_token = evaluator.divergence(few)?.n_token;
    Ok(n_token as f64 / start.elapsed().as_secs_f64().max(1e-6))
}

fn duration(n_token: usize, pace: f64) -> std::time::Duration {
    std::time::Duration::from_secs_f64((n_token as f64 / pace).min(1e9))
}

/// Refuses more heads than a model has.
pub(in crate::cli) fn check_k(model: &Model, k: usize) -> Result<()> {
    let n_head = model.attention_layers().count() * model.geometry().n_head;
    if k <= n_head {
        return Ok(());
    }
    Err(usage(Error::invalid("--heads", format!("{k} heads cannot be chosen from {n_head}"))))
}

/// Neutral prose.
pub(in crate::cli) struct Neutral {
    documents: Vec<String>,
    /// What it is: the file, or in words.
    pub(in crate::cli) about: String,
}

impl Neutral {
    /// The documents of a file, one per line, or the built-in ones that fit the model.
    pub(in crate::cli) fn read(path: Option<&Path>, model: &ModelArgs) -> Result<Self> {
        let Some(path) = path else {
            let (documents, about) = embedded::neutral(model.model.as_deref());
            let documents = documents.into_iter().map(str::to_owned).collect();
            return Ok(Self { documents, about: about.to_owned() });
        };
        let text = text_up_to(TEXT_MAX, path)?;
        let documents: Vec<String> =
            text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect();
        if documents.is_empty() {
            let problem = "holds no document: one per line is expected";
            return Err(Error::invalid(path.display().to_string(), problem));
        }
        Ok(Self { documents, about: path.display().to_string() })
    }

    pub(in crate::cli) fn len(&self) -> usize {
        self.documents.len()
    }

    pub(in crate::cli) fn texts(&self) -> Vec<&str> {
        self.documents.iter().map(String::as_str).collect()
    }

    /// Says what is read, and how much of it: all. Gives the number of tokens.
    pub(in crate::cli) fn tell(&self, evaluator: &Evaluator, output: Output) -> Result<usize> {
        let n_token = evaluator.n_neutral_token(&self.texts())?;
        output.note(format_args!(
            "neutral text: {}, {}, {n_token} tokens",
            printable_line(&self.about),
            counted(self.len(), "document"),
        ));
        Ok(n_token)
    }
}
