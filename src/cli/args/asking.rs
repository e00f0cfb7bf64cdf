//! How questions are asked and scored, and where what is known of them is kept.

use std::fmt::Debug;
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::TypedValueParser;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cli::args::model::ModelArgs;
use crate::cli::args::values::{draws, one_of};
use crate::cli::args::words::Words;
use crate::cli::command::demo::INSTRUCTION;
use crate::cli::folders;
use crate::cli::sets;
use crate::cli::show::output::Output;
use crate::data::sha256;
use crate::eval::{Evaluator, Policy};
use crate::file::{TEXT_MAX, text_up_to};
use crate::ledger::Ledger;
use crate::select::Journal;
use crate::steer::{Positions, SigmaFrom};
use crate::study::Protocol;
use crate::{Error, Model, Result, Special};

/// What stands before every question.
#[derive(Debug, Args)]
#[command(next_help_heading = "Asking and scoring")]
pub(in crate::cli) struct PreambleArgs {
    /// Text before every question whose answers are scored, such as answered examples: a file, or
    /// `truthfulqa` for the six that TruthfulQA's own evaluation uses (fetched once).
    #[arg(long, value_name = "FILE")]
    preamble: Option<PathBuf>,
}

/// What is steered, and what its unit is measured over.
#[derive(Debug, Args)]
#[command(next_help_heading = "Asking and scoring")]
pub(in crate::cli) struct MeasureArgs {
    /// Which tokens are steered while answers are scored: from the last prompt token on
    /// (`generated`), all (`all`), the answer's own (`answer`), or from the answer's second token
    /// on, as in the paper's code (`original`). While the model writes, `all` steers every token
    /// and the others steer as `generated` does; a fitted vector keeps the choice [default: what a
    /// sidecar that is scored stores, otherwise generated].
    #[arg(long, value_name = "WHICH", value_parser = policy())]
    policy: Option<Policy>,

    /// Rows over which sigma is measured when a vector is fitted: those of the development half, or
    /// of all questions as in the paper's code (which looks at the test questions).
    #[arg(long, value_name = "ROWS", default_value = "development", value_parser = ["development", "all"])]
    sigma: String,
}

impl MeasureArgs {
    /// What the user gave.
    pub(in crate::cli) fn given_policy(&self) -> Option<Policy> {
        self.policy
    }

    /// Of vectors that are fitted.
    pub(in crate::cli) fn policy(&self) -> Policy {
        self.policy.unwrap_or_default()
    }

    pub(in crate::cli) fn sigma_name(&self) -> &str {
        &self.sigma
    }

    pub(in crate::cli) fn sigma(&self) -> SigmaFrom {
        match self.sigma.as_str() {
            "all" => SigmaFrom::All,
            _ => SigmaFrom::Development,
        }
    }

    /// The tokens that a vector steers by default where it is fitted so.
    pub(in crate::cli) fn positions(&self) -> Positions {
        match self.policy() {
            Policy::All => Positions::All,
            _ => Positions::Generated,
        }
    }

    /// As they are typed, where they are not what is usual.
    pub(in crate::cli) fn words(&self) -> Words {
        let mut words = Words::default();
        let is_usual = self.policy() == Policy::default();
        words.add("--policy", (!is_usual).then(|| self.policy().name()));
        words.add("--sigma", Some(&self.sigma).filter(|_| self.sigma() != SigmaFrom::default()));
        words
    }
}

/// How questions are asked and scored.
#[derive(Debug, Args)]
#[command(next_help_heading = "Asking and scoring")]
pub(in crate::cli) struct AskArgs {
    #[command(flatten)]
    pub(in crate::cli) preamble: PreambleArgs,

    /// The baseline without a vector: an instruction that goes before everything else.
    #[arg(long, value_name = "TEXT", default_value = INSTRUCTION)]
    pub(in crate::cli) instruction: String,

    #[command(flatten)]
    pub(in crate::cli) measure: MeasureArgs,

    /// Use only N questions, evenly spread over the data; 0 uses all.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(in crate::cli) limit: usize,

    /// Number of random controls (random heads, random directions), different ones in each fold.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = draws)]
    pub(in crate::cli) draws: usize,
}

fn policy() -> impl TypedValueParser<Value = Policy> {
    one_of(["generated", "all", "answer", "original"])
}

impl PreambleArgs {
    pub(in crate::cli) fn path(&self) -> Option<&Path> {
        self.preamble.as_deref()
    }

    /// As it is typed.
    pub(in crate::cli) fn words(&self) -> Words {
        let mut words = Words::default();
        words.add("--preamble", self.path().map(Path::display));
        words
    }

    /// The text before every question, which begins a line of its own.
    pub(in crate::cli) fn text(&self) -> Result<String> {
        let Some(path) = &self.preamble else { return Ok(String::new()) };
        let text = match path.to_str() {
            Some("truthfulqa") if !path.exists() => text_up_to(TEXT_MAX, &sets::qa_preset()?)?,
            _ => text_up_to(TEXT_MAX, path)?,
        };
        match text.trim_end() {
            "" => Err(Error::invalid(
                path.display().to_string(),
                "holds no text: leave --preamble out, or give a file with some",
            )),
            text => Ok(format!("{text}\n\n")),
        }
    }

    /// Refuses a text before every question that leaves no room for one, before anything is
    /// captured.
    pub(in crate::cli) fn check(
        &self,
        (model, args): (&Model, &ModelArgs),
        text: &str,
    ) -> Result<()> {
        let n_ctx = Evaluator::longest(model, args.ctx_size().unwrap_or(0));
        let n_token = model.tokenize(text, Special::Start)?.len();
        if n_token < n_ctx {
            return Ok(());
        }
        let what = match &self.preamble {
            Some(path) => format!("the text before every question, from {},", path.display()),
            None => "the instruction".to_owned(),
        };
        Err(Error::PromptTooLong { what, n_token, n_ctx })
    }
}

impl AskArgs {
    /// Refuses an instruction and a preamble that leave no room for a question.
    pub(in crate::cli) fn check_preamble(
        &self,
        model: (&Model, &ModelArgs),
        protocol: &Protocol,
    ) -> Result<()> {
        self.preamble.check(model, &format!("{} {}", protocol.instruction, protocol.preamble))
    }

    /// Everything that a result depends on; `more` is what only one command knows.
    pub(in crate::cli) fn identity(
        &self,
        (model, args): (&Model, &ModelArgs),
        (protocol, policy): (&Protocol, Policy),
        more: &impl Debug,
    ) -> Result<String> {
        let text = format!(
            "{} {} {:?} {:?} {:?} {:?} {:?} {} {} {} {:?} {:?} {:?} {more:?}",
            args.identity(model)?,
            protocol.data.sha256,
            protocol.form,
            protocol.preamble,
            protocol.neutral,
            protocol.instruction,
            protocol.direction,
            protocol.selection,
            protocol.n_predict,
            protocol.seed,
            protocol.select,
            protocol.grid,
            (protocol.shuffle, self.limit, policy.name(), self.measure.sigma_name()),
        );
        Ok(sha256(text.as_bytes()))
    }
}

/// The file of the partial results of a command: in the folder of its report, or in the cache.
pub(in crate::cli) fn ledger_place(
    command: &str,
    report: Option<&Path>,
    identity: &str,
) -> Result<PathBuf> {
    match report {
        Some(folder) => {
            std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
            Ok(folder.join(format!("{command}.partial.jsonl")))
        }
        None => Ok(folders::cache_folder(command)?.join(format!("{}.jsonl", &identity[..16]))),
    }
}

/// What opens, by name, what is known of the heads, K and α that were tried: a file beside the ledger.
pub(in crate::cli) fn journals(place: &Path, identity: &str) -> impl Fn(&str) -> Result<Journal> {
    let place = place.with_extension("trials.jsonl");
    move |name| Journal::open(&place, &format!("{identity} {name}"))
}

/// Opens the partial results of a command that was stopped, or begins them.
pub(in crate::cli) fn open_ledger<V: Serialize + DeserializeOwned>(
    place: &Path,
    identity: &str,
    output: Output,
) -> Result<Ledger<V>> {
    let ledger = Ledger::open(place, identity)?;
    if !ledger.is_empty() {
        output.note(format_args!("resuming: {} results are known", ledger.len()));
    }
    Ok(ledger)
}
