//! Who judges written answers, from the command line.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::cli::args::model::{ModelArgs, hash};
use crate::cli::args::values::positive;
use crate::cli::show::output::Output;
use crate::cli::{folders, interrupt};
use crate::eval::Cut;
use crate::gguf::Gguf;
use crate::judge::{
    Aspect, EndpointJudge, EndpointParams, Judge, JudgeFacts, Key, LogitJudge, ProbeJudge,
    ProbeParams, ProbeStep, data,
};
use crate::ledger::Ledger;
use crate::session::SessionParams;
use crate::study::{Judging, Record, Report};
use crate::{Error, Model, Result};

/// Who says what written answers are worth.
#[derive(Debug, Args)]
#[command(next_help_heading = "Judging")]
pub(in crate::cli) struct JudgeArgs {
    /// Who judges whether written answers are true and informative: `words` compares them with the
    /// true answers; `gguf:FILE` is a local model trained to judge; `probe:FILE` uses linear probes
    /// on any model's heads, fitted to --judge-data; an address such as http://localhost:8080/v1 is
    /// a model behind an OpenAI-compatible chat API, and `openai` is the one at CANDOR_JUDGE_URL,
    /// OPENAI_BASE_URL or api.openai.com.
    #[arg(long, value_name = "WHO", default_value = "words", value_parser = who)]
    judge: Who,

    /// With an address: the model to ask [default: CANDOR_JUDGE_MODEL]. The key is read from
    /// CANDOR_JUDGE_KEY (for `openai` also from OPENAI_API_KEY) and never written anywhere.
    #[arg(long, value_name = "NAME")]
    judge_model: Option<String>,

    /// With an address: time limit for one answer, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = positive)]
    judge_timeout: usize,

    /// With an address: how often a failed request is retried.
    #[arg(long, value_name = "N", default_value_t = 3)]
    judge_retries: u32,

    /// With probe: the folder with finetune_truth.jsonl and finetune_info.jsonl, the judgements
    /// published by TruthfulQA's authors.
    #[arg(long, value_name = "DIR")]
    judge_data: Option<PathBuf>,

    /// With probe: use only N judgements of each file, evenly spread; 0 uses all.
    #[arg(long, value_name = "N", default_value_t = 4000)]
    judge_limit: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Who {
    Words,
    Gguf(PathBuf),
    Probe(PathBuf),
    Address(String),
    OpenAi,
}

fn who(text: &str) -> std::result::Result<Who, String> {
    let file = |kind: &str| text.strip_prefix(kind).filter(|file| !file.is_empty());
    match text {
        "words" => Ok(Who::Words),
        "openai" => Ok(Who::OpenAi),
        _ if text.starts_with("http://") || text.starts_with("https://") => {
            Ok(Who::Address(text.to_owned()))
        }
        _ => file("gguf:")
            .map(|file| Who::Gguf(file.into()))
            .or_else(|| file("probe:").map(|file| Who::Probe(file.into())))
            .ok_or_else(|| {
                "expected words, gguf:FILE, probe:FILE, openai, or an address such as \
             http://localhost:8080/v1"
                    .to_owned()
            }),
    }
}

/// A judge that was found to be there.
pub(in crate::cli) enum Found {
    Words,
    Gguf(PathBuf),
    Probe(PathBuf, PathBuf),
    Endpoint(EndpointJudge),
}

impl Found {
    /// Where what it is to read is cut.
    pub(in crate::cli) fn cut(&self) -> Cut {
        match self {
            Self::Words => Cut::Line,
            _ => Cut::Question,
        }
    }
}

impl JudgeArgs {
    /// Makes sure, before hours of work, that the judge is there.
    pub(in crate::cli) fn find(&self, n_predict: usize, output: Output) -> Result<Found> {
        if n_predict == 0 && self.judge != Who::Words {
            let problem = "has nothing to judge, since -n 0 lets the model write nothing";
            return Err(Error::invalid("--judge", problem));
        }
        match &self.judge {
            Who::Words => Ok(Found::Words),
            Who::Gguf(path) => Gguf::open(path).map(|_| Found::Gguf(path.clone())),
            Who::Probe(path) => {
                Gguf::open(path)?;
                let folder = self.judge_data.clone().ok_or_else(|| {
                    let problem = "is needed for --judge probe: the folder of finetune_truth.jsonl \
                                   and finetune_info.jsonl, from TruthfulQA's repository";
                    Error::invalid("--judge-data", problem)
                })?;
                for aspect in Aspect::ALL {
                    data::read(&folder.join(aspect.file()), aspect, 1)?;
                }
                Ok(Found::Probe(path.clone(), folder))
            }
            Who::Address(address) => self.endpoint(address, key("CANDOR_JUDGE_KEY"), output),
            Who::OpenAi => {
                let own = variable("CANDOR_JUDGE_URL");
                // The key for one address is not sent to another.
                let key = key("CANDOR_JUDGE_KEY")
                    .or_else(|| own.is_none().then(|| key("OPENAI_API_KEY")).flatten());
                let address = own.or_else(|| variable("OPENAI_BASE_URL"));
                let address = address.as_deref().unwrap_or("https://api.openai.com/v1");
                self.endpoint(address, key, output)
            }
        }
    }

    fn endpoint(&self, address: &str, key: Option<Key>, output: Output) -> Result<Found> {
        let model = self.judge_model.clone().or_else(|| variable("CANDOR_JUDGE_MODEL"));
        let model = model.ok_or_else(|| {
            let problem = "is needed for a judge behind an address: the name of a model there, \
                           here or in CANDOR_JUDGE_MODEL";
            Error::invalid("--judge-model", problem)
        })?;
        let params = EndpointParams {
            timeout: Duration::from_secs(self.judge_timeout as u64),
            n_retry: self.judge_retries,
            ..EndpointParams::new(address, &model, key)
        };
        if params.exposes_key() {
            output.warn("the judge's address begins with http://: the key goes there unencrypted");
        }
        let judge = EndpointJudge::new(params)?;
        judge.check()?;
        Ok(Found::Endpoint(judge))
    }

    /// Has what was written judged.
    pub(in crate::cli) fn judge(
        &self,
        found: Found,
        report: &mut Report,
        ledger: &mut Ledger<Record>,
        (model_args, seed): (&ModelArgs, u64),
        output: Output,
    ) -> Result<JudgeReport> {
        let load = |path: &Path| -> Result<Model> {
            let model = Model::load(path, &model_args.params())?;
            hash(&model, output)?;
            Ok(model)
        };
        let judged = match found {
            Found::Words => {
                return Ok(JudgeReport { facts: JudgeFacts::words(), judging: None });
            }
            Found::Endpoint(mut judge) => all(&mut judge, report, ledger, output),
            Found::Gguf(path) => {
                let model = load(&path)?;
                let params =
                    SessionParams { n_threads: model_args.threads(), ..SessionParams::default() };
                all(&mut LogitJudge::new(&model, 0, params)?, report, ledger, output)
            }
            Found::Probe(path, data) => {
                let model = load(&path)?;
                let params = ProbeParams {
                    data,
                    limit: self.judge_limit,
                    cache: folders::cache_folder("judge")?,
                    n_threads: model_args.threads(),
                    seed,
                };
                // Judged answers of both aspects, then the probes: see `ProbeJudge::new`.
                let n_probe = 4 * model.attention_layers().count() * model.geometry().n_head;
                let bar = output.progress("learning", 0);
                let on_step = |step: ProbeStep| {
                    bar.set_length((2 * step.n_all + n_probe) as u64);
                    let before = if step.aspect == Aspect::Info { step.n_all } else { 0 };
                    bar.set_position((before + step.n_done) as u64);
                    interrupt::check(KEPT)
                };
                let judge = ProbeJudge::new(&model, &params, on_step, || bar.inc(1));
                bar.finish_and_clear();
                all(&mut judge?, report, ledger, output)
            }
        };
        let (facts, judging) = judged.map_err(|error| match error {
            Error::Judge { judge, problem } => {
                let problem = format!(
                    "{problem}. What was scored, written and judged is kept: rerun the same \
                     command to resume"
                );
                Error::Judge { judge, problem }
            }
            other => other,
        })?;
        warn_of(&facts, judging, output);
        Ok(JudgeReport { facts, judging: Some(judging) })
    }
}

/// Says where a judge is not to be relied on.
fn warn_of(facts: &JudgeFacts, judging: Judging, output: Output) {
    if judging.n_unclear > 0 {
        output.warn(format_args!(
            "the judge says neither yes nor no about {} of {} answers",
            judging.n_unclear, judging.n_judged
        ));
    }
    for (what, quality) in [("truth", facts.truth), ("what informs", facts.info)] {
        if let Some(quality) = quality.filter(|quality| !quality.is_informed()) {
            output.warn(format_args!(
                "the judge reads {what} no better than always saying the same does ({:.1} % \
                     and {:.1} %): its numbers there mean nothing; take a better model, or more \
                     judgements by --judge-limit",
                100.0 * quality.accuracy,
                100.0 * quality.majority
            ));
        }
    }
}

/// Who judged, and what that came to.
#[derive(schemars::JsonSchema, Serialize)]
pub(in crate::cli) struct JudgeReport {
    #[serde(flatten)]
    pub(in crate::cli) facts: JudgeFacts,
    #[serde(flatten)]
    judging: Option<Judging>,
}

/// What Ctrl-C leaves.
const KEPT: &str = "what was scored, written and judged is kept: rerun the same command to resume";

fn all(
    judge: &mut dyn Judge,
    report: &mut Report,
    ledger: &mut Ledger<Record>,
    output: Output,
) -> Result<(JudgeFacts, Judging)> {
    interrupt::install();
    let bar = output.progress("judging", 0);
    let judging = report.judge(judge, ledger, |n_done, n_all| {
        bar.set_length(n_all as u64);
        bar.set_position(n_done as u64);
        interrupt::check(KEPT)
    });
    bar.finish_and_clear();
    Ok((judge.facts(), judging?))
}

/// A variable of the environment that is not blank.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}

fn key(name: &str) -> Option<Key> {
    variable(name).as_deref().and_then(Key::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_judge_is_named_in_a_word() {
        for (text, expected) in [
            ("words", Who::Words),
            ("openai", Who::OpenAi),
            ("gguf:a:b.gguf", Who::Gguf("a:b.gguf".into())),
            ("probe:m.gguf", Who::Probe("m.gguf".into())),
            ("http://localhost:1/v1", Who::Address("http://localhost:1/v1".into())),
        ] {
            assert_eq!(who(text), Ok(expected));
        }
        for text in ["", "word", "gguf:", "probe:", "gguf", "ftp://x"] {
            assert!(who(text).is_err(), "{text}");
        }
    }
}
