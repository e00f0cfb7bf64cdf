//! `candor run`: one text continued.

use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::{ArgGroup, Args};
use serde::Serialize;

use crate::Model;
use crate::Result;
use crate::chat::{
    ChatTemplate, CompletionParams, Conversation, Ending, Meter, complete, prompt_tokens,
};
use crate::cli::args::model::ModelArgs;
#[cfg(feature = "sight")]
use crate::cli::args::pictures::place;
use crate::cli::args::sampling::SamplingArgs;
use crate::cli::args::steer::{GateArgs, SteerArgs};
use crate::cli::args::values::positive;
use crate::cli::embedded;
use crate::cli::show::output::{DIM, Output, printable, stdout_is_terminal, stream};
use crate::cli::show::table::short;
use crate::file::{TEXT_MAX, stdin_up_to, text_up_to};
use crate::session::{Session, Steering};
use crate::steer::{Positions, Reader};

/// Bank row that steers.
pub(in crate::cli) const ROW: usize = 1;

/// Continue a text, steered or not.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("text").args(["prompt", "file"]).required(true))]
pub(in crate::cli) struct RunArgs {
    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    steer: SteerArgs,

    #[command(flatten)]
    gate: GateArgs,

    /// Tokens to steer: `generated` or `all` [default: the sidecar's own].
    #[arg(long, value_name = "POSITIONS")]
    policy: Option<Positions>,

    /// The text to continue; `-` reads it from stdin.
    #[arg(short, long, value_name = "TEXT")]
    prompt: Option<String>,

    /// A file with the text to continue.
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// A picture for the model: PNG, JPEG, WebP or GIF; may be repeated. It goes where the text
    /// says <__media__>, otherwise before the text.
    #[cfg(feature = "sight")]
    #[arg(long, value_name = "FILE")]
    image: Vec<PathBuf>,

    /// Treat the text as a question and apply the model's chat template.
    #[arg(long)]
    chat: bool,

    /// Maximum number of tokens to write.
    #[arg(short, long, value_name = "N", default_value_t = 128, value_parser = positive)]
    n_predict: usize,

    /// Stop before this string; may be repeated.
    #[arg(long, value_name = "STRING")]
    stop: Vec<String>,

    #[command(flatten)]
    sampling: SamplingArgs,
}

/// What `--json` prints.
#[derive(Debug, schemars::JsonSchema, Serialize)]
pub(in crate::cli) struct Report<'a> {
    prompt: &'a str,
    text: &'a str,
    tokens: &'a [i32],
    /// The sidecar's fingerprint.
    steer: Option<String>,
    alpha: Option<f32>,
    /// With --gate: how many of the tokens were steered.
    #[serde(skip_serializing_if = "Option::is_none")]
    n_steered: Option<usize>,
    n_token_per_second: f64,
}

impl RunArgs {
    /// Does what was asked.
    pub(in crate::cli) fn run(&self, output: Output) -> Result<()> {
        let prompt = self.text()?;
        let (model, placed) = self.load(&prompt)?;
        let sidecar = self.steer.sidecar_or_built_in(self.policy, (&self.model, &model), output)?;
        self.steer.check_found(sidecar.is_some(), &model)?;
        let mut session = Session::new(&model, &self.model.session(&model))?;
        self.gate.check(sidecar.as_ref().map(|(_, sidecar)| &sidecar.vector))?;
        let mut steering = Steering::Off;
        let (mut alpha, mut meter) = (None, None);
        if let Some((path, sidecar)) = &sidecar {
            let strength = self.steer.alpha(sidecar);
            self.gate.tell(sidecar, strength, output);
            if self.steer.is_auto() {
                let alpha = short(strength);
                match embedded::is_vector(path) {
                    true => output.aside(format_args!(
                        "steered by the built-in vector, alpha {alpha} (`candor fit` makes your own, \
                         --steer none turns it off)"
                    )),
                    false => {
                        output.aside(format_args!("steered by {}, alpha {alpha}", path.display()));
                    }
                }
            }
            session.set_vector(ROW, Some((&sidecar.vector, strength)))?;
            steering = steering_at(strength, self.policy.unwrap_or(sidecar.about.positions));
            alpha = Some(strength);
            if let (Some(_), Some(reader)) = (self.gate.gate, Reader::of([&sidecar.vector])) {
                session.observe(&reader.layers().collect::<Vec<_>>())?;
                meter = Meter::new(&sidecar.vector, strength, &session)?;
            }
        }

        if sidecar.is_none() && self.steer.is_auto() && model.baked().is_none() {
            output
                .aside("not steered: there is no vector beside the model (`candor fit` makes one)");
        }

        let template = ChatTemplate::of(&model);
        let mut stops: Vec<&str> = self.stop.iter().map(String::as_str).collect();
        if self.chat {
            stops.extend(template.stops());
        }
        let params = CompletionParams {
            n_predict: self.n_predict,
            sampling: self.sampling.params(),
            steering,
            stops: &stops,
            meter: meter.as_ref(),
            gate: self.gate.gate,
        };
        let on_text = |text: &str| {
            if output.is_json() { ControlFlow::Continue(()) } else { stream(text) }
        };
        let completion = if self.chat {
            Conversation::default().answer(&mut session, &template, &placed, &params, on_text)?
        } else {
            if stdout_is_terminal() && !output.is_json() {
                output.text(&format!("{DIM}{}{DIM:#}", printable(&prompt)));
            }
            complete(&mut session, &prompt_tokens(&model, &placed)?, &params, on_text)?
        };
        if output.is_json() {
            output.json(&Report {
                prompt: &prompt,
                text: &completion.text,
                tokens: &completion.tokens,
                steer: sidecar.map(|(_, sidecar)| sidecar.fingerprint()),
                alpha,
                n_steered: self.gate.gate.map(|_| completion.n_steered),
                n_token_per_second: completion.n_token_per_second(),
            });
        } else {
            output.text("\n");
        }
        if self.gate.gate.is_some() {
            let n = completion.tokens.len();
            output.aside(format_args!("gate: open for {} of {n} tokens", completion.n_steered));
        }
        if completion.ending == Ending::Context {
            output.warn(format!(
                "the text ends because the context of {} tokens is full: enlarge it with -c",
                session.n_ctx()
            ));
        }
        Ok(())
    }

    /// The model, and the text with the marks of its pictures.
    #[cfg(feature = "sight")]
    fn load(&self, prompt: &str) -> Result<(Model, String)> {
        if self.image.is_empty() {
            return Ok((self.model.load()?, prompt.to_owned()));
        }
        let model = self.model.load_seeing()?;
        let placed = place(&model, prompt, &self.image)?;
        Ok((model, placed))
    }

    /// The model and the text.
    #[cfg(not(feature = "sight"))]
    fn load(&self, prompt: &str) -> Result<(Model, String)> {
        Ok((self.model.load()?, prompt.to_owned()))
    }

    /// The text to continue. The line end that editors put after the last line of a file is not
    /// part of it.
    fn text(&self) -> Result<String> {
        let text = match (&self.file, self.prompt.as_deref()) {
            (Some(path), _) => text_up_to(TEXT_MAX, path)?,
            (None, Some("-")) => stdin_up_to(TEXT_MAX)?,
            (None, prompt) => return Ok(prompt.unwrap_or_default().to_owned()),
        };
        Ok(text.strip_suffix('\n').map(str::to_owned).unwrap_or(text))
    }
}

/// How to steer at strength `alpha`; 0 is off.
pub(in crate::cli) fn steering_at(alpha: f32, positions: Positions) -> Steering {
    match positions {
        _ if alpha == 0.0 => Steering::Off,
        Positions::Generated => Steering::Generated(ROW),
        Positions::All => Steering::All(ROW),
    }
}
