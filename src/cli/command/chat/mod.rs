//! `candor chat`: a conversation in the terminal, or with whatever writes to stdin.

mod answer;
mod columns;
mod command;
mod compare;
mod input;

use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::Args;

use self::answer::{n_token, print_columns};
use self::columns::entry;
use self::command::{COMMANDS, Command, Input, parse};
use self::input::{Line, Lines};
use crate::chat::{
    ChatTemplate, Completion, CompletionParams, Conversation, Ending, Meter, Transcript, Turn,
};
use crate::cli::args::model::ModelArgs;
use crate::cli::args::parts::Part;
use crate::cli::args::sampling::SamplingArgs;
use crate::cli::args::steer::{GateArgs, SteerArgs};
use crate::cli::args::values::positive;
use crate::cli::command::run::{ROW, steering_at};
use crate::cli::show::chance::luck_warning;
use crate::cli::show::heads::amount;
use crate::cli::show::output::{BOLD, Output, stream};
use crate::cli::show::table::short;
use crate::cli::show::target::{check_target, tell_replaced};
use crate::cli::{embedded, interrupt};
use crate::session::{Session, Steering};
use crate::steer::{Reader, Sidecar};
use crate::vision::place_pictures;
use crate::{Error, Model, Result};

/// The narrowest terminal, in characters, in which two answers stand side by side.
const WIDE: usize = 72;

/// Characters of the names in the banner.
const N_LABEL: usize = 6;

/// Chat with a model, steered or not
///
/// Lines typed at a terminal are kept for the arrow keys of later chats, in the file `chat-history`
/// in the state folder (~/.local/state/candor on Linux, or CANDOR_STATE). Piped input is not.
#[derive(Debug, Args)]
pub(in crate::cli) struct ChatArgs {
    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    steer: SteerArgs,

    #[command(flatten)]
    gate: GateArgs,

    /// Maximum number of tokens per answer.
    #[arg(short, long, value_name = "N", default_value_t = 256, value_parser = positive)]
    n_predict: usize,

    /// System prompt.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,

    #[command(flatten)]
    sampling: SamplingArgs,
}

impl ChatArgs {
    /// Talks until the user leaves.
    pub(in crate::cli) fn run(&self, output: Output) -> Result<()> {
        #[cfg(feature = "sight")]
        let model = self.model.load_perhaps_seeing(output)?;
        #[cfg(not(feature = "sight"))]
        let model = self.model.load()?;
        let mut lines = Lines::new()?;
        let mut chat = Chat::new(self, &model, output)?;
        chat.banner();
        if lines.is_terminal() {
            interrupt::install_patiently();
        }
        loop {
            let line = match lines.read()? {
                Line::Text(line) => line,
                Line::Interrupted => {
                    chat.say("/quit or Ctrl-D leaves");
                    continue;
                }
                Line::End => break,
            };
            interrupt::reset();
            let result = match parse(&line) {
                Ok(None) => Ok(()),
                Ok(Some(Input::Command(Command::Quit))) => break,
                Ok(Some(Input::Command(command))) => chat.obey(command),
                Ok(Some(Input::Question(question))) => chat.ask(question),
                Err(problem) => {
                    output.note(problem);
                    Ok(())
                }
            };
            if let Err(error) = result {
                output.error(&error);
            }
        }
        if output.is_json() {
            output.json(&chat.transcript());
        }
        Ok(())
    }
}

/// A conversation at work.
struct Chat<'a> {
    args: &'a ChatArgs,
    output: Output,
    model: &'a Model,
    session: Session,
    template: ChatTemplate,
    conversation: Conversation,
    steer: Option<Steer>,
    /// The marks of pictures that wait for the next question.
    pictures: Vec<String>,
}

/// The vector in the session's bank.
struct Steer {
    path: PathBuf,
    sidecar: Sidecar,
    alpha: f32,
    on: bool,
}

impl<'a> Chat<'a> {
    fn new(args: &'a ChatArgs, model: &'a Model, output: Output) -> Result<Self> {
        let template = ChatTemplate::of(model);
        let conversation = Conversation::new(args.system.clone());
        // A template that is broken or takes no system prompt should say so now.
        template.render(&conversation.messages("?"))?;
        let session = Session::new(model, &args.model.session(model))?;
        let mut chat = Self {
            args,
            output,
            model,
            session,
            template,
            conversation,
            steer: None,
            pictures: Vec::new(),
        };
        let found = args.steer.sidecar_or_built_in(None, (&args.model, model), output)?;
        if let Some((path, sidecar)) = found {
            let alpha = args.steer.alpha(&sidecar);
            chat.load(path, sidecar, alpha)?;
        }
        args.steer.check_found(chat.steer.is_some(), model)?;
        if chat.steer.is_none() {
            args.gate.check(None)?;
        }
        Ok(chat)
    }

    fn banner(&self) {
        let geometry = self.model.geometry();
        let name = self.model.path().file_name().unwrap_or_default().to_string_lossy();
        let architecture = self.model.architecture();
        let (n_layer, n_head) = (geometry.n_layer, geometry.n_head);
        self.output.entry(
            "model",
            N_LABEL,
            format_args!("{name}, {architecture}, {n_layer} layers of {n_head} heads"),
        );
        let vector = match &self.steer {
            Some(steer) => steer.to_string(),
            None => "none: `candor fit` makes one, /vector FILE loads it".to_owned(),
        };
        self.output.entry("vector", N_LABEL, vector);
        let help = "/help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves";
        self.output.entry("help", N_LABEL, help);
        self.output.note("");
    }

    /// A line in the margin.
    fn say(&self, text: impl std::fmt::Display) {
        self.output.aside(text);
    }

    fn obey(&mut self, command: Command) -> Result<()> {
        match command {
            Command::Alpha(alpha) => {
                let steer = loaded(&mut self.steer)?;
                self.session.set_vector(ROW, Some((&steer.sidecar.vector, alpha)))?;
                (steer.alpha, steer.on) = (alpha, true);
                self.say(format!("alpha {}", short(alpha)));
            }
            Command::ShowAlpha => {
                let steer = loaded(&mut self.steer)?;
                let alpha = short(steer.alpha);
                let state = if steer.on { "" } else { ", off" };
                self.say(format!("alpha {alpha}{state}"));
            }
            Command::On => {
                let steer = loaded(&mut self.steer)?;
                steer.on = true;
                let alpha = steer.alpha;
                self.say(format!("steering on, alpha {}", short(alpha)));
            }
            Command::Off => {
                if let Some(steer) = &mut self.steer {
                    steer.on = false;
                }
                self.say("steering off");
            }
            Command::Vector(path) => {
                let part = [Part::from(path.into_os_string())];
                let (path, sidecar) =
                    self.args.steer.read_parts(&part, None, self.model, self.output)?;
                let alpha = sidecar.about.alpha;
                let steer = self.load(path, sidecar, alpha)?;
                let vector = steer.to_string();
                self.say(vector);
            }
            Command::Image(path) => self.show(&path)?,
            Command::Save(path) => {
                let sidecar = self.steer.as_ref().map(|steer| steer.path.as_path());
                let model = Some(self.model.path());
                check_target(&path, &[("the model", model), ("the sidecar", sidecar)])?;
                self.transcript().write(&path)?;
                tell_replaced();
                self.say(format!("saved to {}", path.display()));
            }
            Command::Reset => {
                self.conversation.reset();
                self.pictures.clear();
                self.say("the conversation is forgotten");
            }
            Command::Compare(question) => self.compare(question, false)?,
            Command::ComparePlain(question) => self.compare(question, true)?,
            Command::Regenerate => {
                let last = self.conversation.pop().ok_or_else(nothing_asked)?;
                let question = last.question.clone();
                let before = self.conversation.turns().len();
                let result = self.ask(question);
                // What failed or was stopped before its first word leaves the old answer.
                if self.conversation.turns().len() == before {
                    self.conversation.push(last);
                }
                result?;
            }
            Command::System(system) => {
                let conversation = Conversation::new(system);
                self.template.render(&conversation.messages("?"))?;
                let what = match conversation.system() {
                    Some(_) => "system prompt set",
                    None => "no system prompt",
                };
                self.conversation = conversation;
                self.say(format!("{what}; the conversation begins anew"));
            }
            Command::Help => {
                let width = terminal_size::terminal_size().map_or(80, |(width, _)| width.0.into());
                for (name, argument, meaning) in COMMANDS {
                    for line in entry(&format!("{name} {argument}"), 25, meaning, width) {
                        self.output.note(line);
                    }
                }
            }
            Command::Quit => {}
        }
        Ok(())
    }

    /// Steers by a vector from now on.
    fn load(&mut self, path: PathBuf, sidecar: Sidecar, alpha: f32) -> Result<&Steer> {
        self.args.gate.check(Some(&sidecar.vector))?;
        match self.args.gate.gate {
            Some(_) => self.args.gate.tell(&sidecar, alpha, self.output),
            None => {
                luck_warning(&sidecar).into_iter().for_each(|warning| self.output.warn(warning))
            }
        }
        self.session.set_vector(ROW, Some((&sidecar.vector, alpha)))?;
        // What the meter reads, and no other layer.
        let reader = Reader::of([&sidecar.vector]);
        let layers: Vec<usize> = reader.iter().flat_map(Reader::layers).collect();
        self.session.observe(&layers)?;
        Ok(self.steer.insert(Steer { path, sidecar, alpha, on: true }))
    }

    fn transcript(&self) -> Transcript<'_> {
        let steer = self.steer.as_ref().map(|steer| steer.sidecar.fingerprint());
        let reads_nothing = self.steer.as_ref().is_some_and(|steer| steer.sidecar.reads_nothing());
        Transcript { reads_nothing, ..Transcript::new(self.model, steer, &self.conversation) }
    }

    /// Shows a picture with the next question.
    #[cfg(feature = "sight")]
    fn show(&mut self, path: &std::path::Path) -> Result<()> {
        self.pictures.push(crate::cli::args::pictures::show(self.model, path)?);
        self.say(format!("{} goes with the next question", path.display()));
        Ok(())
    }

    #[cfg(not(feature = "sight"))]
    fn show(&mut self, _: &std::path::Path) -> Result<()> {
        Err(Error::invalid("/image", "this program was built without pictures (--features sight)"))
    }

    /// A question with the pictures that waited for it.
    fn with_pictures(&mut self, question: &str) -> Result<String> {
        let markers: Vec<&str> = self.pictures.iter().map(String::as_str).collect();
        let placed = place_pictures(question, &markers)?;
        self.pictures.clear();
        Ok(placed)
    }

    /// Answers a question aloud and makes the answer part of the conversation.
    fn ask(&mut self, question: String) -> Result<()> {
        let alpha = self.steer.as_ref().filter(|steer| steer.on).map_or(0.0, |steer| steer.alpha);
        let question = self.with_pictures(&question)?;
        let mut conversation = self.conversation.clone();
        let answer = self.answer_aloud(&mut conversation, &question, alpha)?;
        self.keep(conversation, question, answer, alpha);
        Ok(())
    }

    /// Answers on stdout, as it is written, and says in the margin how it went.
    fn answer_aloud(
        &mut self,
        conversation: &mut Conversation,
        question: &str,
        alpha: f32,
    ) -> Result<Completion> {
        let is_json = self.output.is_json();
        let aloud = |text: &str| {
            if is_json { ControlFlow::Continue(()) } else { stream(text) }
        };
        let answer = self.answer(conversation, question, alpha, aloud)?;
        if !is_json {
            self.output.text("\n");
        }
        let steering = match (alpha, self.args.gate.gate) {
            (0.0, _) => "not steered".to_owned(),
            (_, None) => format!("alpha {}", short(alpha)),
            (_, Some(_)) => {
                let (n, of) = (answer.n_steered, answer.tokens.len());
                format!("alpha {}, gate open for {n} of {of}", short(alpha))
            }
        };
        let speed = format!("{:.0} tokens/s", answer.n_token_per_second());
        let ending = match answer.ending {
            Ending::Model => None,
            Ending::Length => Some("cut off after -n tokens".to_owned()),
            Ending::Context => Some("cut: the context is full".to_owned()),
            Ending::Caller => Some("stopped".to_owned()),
        };
        let parts = [
            self.probe_reading(&answer),
            Some(steering),
            Some(n_token(&answer)),
            Some(speed),
            ending,
        ];
        self.say(parts.into_iter().flatten().collect::<Vec<_>>().join(" · "));
        Ok(answer)
    }

    /// Answers at strength `alpha`; Ctrl-C stops the answer.
    fn answer(
        &mut self,
        conversation: &mut Conversation,
        question: &str,
        alpha: f32,
        mut on_text: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Completion> {
        let (mut meter, mut steering) = (None, Steering::Off);
        if let Some(Steer { sidecar, .. }) = &self.steer {
            meter = Meter::new(&sidecar.vector, alpha, &self.session)?;
            steering = steering_at(alpha, sidecar.about.positions);
        }
        let params = CompletionParams {
            n_predict: self.args.n_predict,
            sampling: self.args.sampling.params(),
            steering,
            stops: self.template.stops(),
            meter: meter.as_ref(),
            gate: self.args.gate.gate,
        };
        conversation.answer(&mut self.session, &self.template, question, &params, |text| {
            on_text(text)?;
            interrupt::go_on()
        })
    }

    /// Makes an answer part of the conversation, and says what the model had to forget for it.
    fn keep(
        &mut self,
        mut conversation: Conversation,
        question: String,
        answer: Completion,
        alpha: f32,
    ) {
        let n_dropped = conversation.n_dropped();
        if n_dropped > self.conversation.n_dropped() {
            let oldest = match n_dropped {
                1 => "the oldest turn".to_owned(),
                n => format!("the {n} oldest turns"),
            };
            self.say(format!("the context is full: the model no longer sees {oldest}"));
        }
        conversation.push(Turn { question, answer: answer.text, reading: answer.reading, alpha });
        self.conversation = conversation;
    }

    fn heading(&self, text: &str) {
        if !self.output.is_json() {
            self.output.line(format_args!("{BOLD}{text}{BOLD:#}"));
        }
    }
}

fn nothing_asked() -> Error {
    Error::invalid("the last question", "nothing has been asked yet")
}

/// The vector, or what to do where there is none.
fn loaded(steer: &mut Option<Steer>) -> Result<&mut Steer> {
    steer
        .as_mut()
        .ok_or_else(|| Error::invalid("no vector", "`candor fit` makes one, /vector FILE loads it"))
}

impl std::fmt::Display for Steer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = amount(&self.sidecar.vector);
        match embedded::is_vector(&self.path) {
            true => write!(f, "built in, ")?,
            false => write!(f, "{}, ", self.path.display())?,
        }
        write!(f, "{what}, alpha {}", short(self.alpha))
    }
}
