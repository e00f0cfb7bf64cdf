//! Which labelled texts, and how they are put to the model.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::capture::CaptureParams;
use crate::chat::ChatTemplate;
use crate::cli::args::model::ModelArgs;
use crate::cli::args::words::Words;
use crate::data::{Dataset, PromptForm};
use crate::{Error, Model, Result};

/// Which labelled texts, and how they are put to the model.
#[derive(Debug, Args)]
#[command(next_help_heading = "Data")]
pub(in crate::cli) struct DataArgs {
    /// Labelled texts: TruthfulQA.csv, mc_task.json, a CSV of statement,label, or JSONL of
    /// {"prompt", "answer", "label"}, {"question", "choices", "answer"}, {"question", "true",
    /// "false"}, {"prompt", "chosen", "rejected"} or {"positive", "negative"}; or a name: `truthfulqa`,
    /// or `recipe:` with formal, brief, cheerful, refusing or certain [default: the demo's questions].
    #[arg(short, long, value_name = "FILE")]
    pub(in crate::cli) data: Option<PathBuf>,

    /// How a question and an answer become one text; `\n` stands for a line break [default: `Q:
    /// {question} A: {answer}` for questions].
    #[arg(long, value_name = "TEMPLATE")]
    pub(in crate::cli) template: Option<String>,

    /// Ask through the model's own chat template.
    #[arg(long, conflicts_with = "template")]
    pub(in crate::cli) chat: bool,

    /// Seed for splits and random draws.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(in crate::cli) seed: u64,
}

impl DataArgs {
    /// The prompt form: the user's, the model's own for chats, or the usual one for this kind of
    /// data.
    pub(in crate::cli) fn form(&self, data: &Dataset, model: &Model) -> Result<PromptForm> {
        if self.chat && !data.kind.asks() {
            let problem = "asks questions, but this data set has none: leave it out";
            return Err(Error::invalid("--chat", problem));
        }
        if self.chat {
            return ChatTemplate::of(model).form();
        }
        prompt_form(self.template.as_deref(), data)
    }

    /// As they are typed: which texts, and how they are put.
    pub(in crate::cli) fn words(&self) -> Words {
        let mut words = Words::default();
        words.add("--data", self.data.as_deref().map(Path::display));
        words.add("--template", self.template.as_ref());
        words.flag("--chat", self.chat);
        words.add("--seed", Some(self.seed).filter(|&seed| seed != 0));
        words
    }

    /// How to capture these texts.
    pub(in crate::cli) fn capture_params(
        &self,
        args: &ModelArgs,
        data: &Dataset,
        model: &Model,
    ) -> Result<CaptureParams> {
        Ok(args.capture_params(self.form(data, model)?, self.seed))
    }
}

/// The prompt form: the user's, else the usual one for this kind of data.
pub(in crate::cli) fn prompt_form(template: Option<&str>, data: &Dataset) -> Result<PromptForm> {
    template
        // As shells leave it.
        .map(|template| template.replace("\\n", "\n"))
        .map_or_else(|| Ok(PromptForm::default_for(data.kind)), |t| PromptForm::parse(&t))
}
