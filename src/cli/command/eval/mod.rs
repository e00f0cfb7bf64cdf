//! `candor eval`: what a vector does, measured.

mod page;
mod text;
mod vector;

use std::slice::from_mut;
use std::time::Instant;

use clap::Args;
use serde::Serialize;

use self::vector::Vector;
use crate::capture::Store;
use crate::cli::args::activations::StoreArgs;
use crate::cli::args::asking::{AskArgs, journals, ledger_place, open_ledger};
use crate::cli::args::data::DataArgs;
use crate::cli::args::judge::{JudgeArgs, JudgeReport};
use crate::cli::args::model::ModelArgs;
use crate::cli::args::select::{NEEDS_QUESTIONS, Neutral, SelectArgs};
use crate::cli::args::steer::{GateArgs, SteerArgs, warn_of_baked};
use crate::cli::args::values::{direction, positive};
use crate::cli::interrupt;
use crate::cli::show::chance;
use crate::cli::show::gate::gate_text;
use crate::cli::show::heads::amount_of;
use crate::cli::show::output::Output;
use crate::cli::show::report::{DataFacts, Made, ReportArgs, Under};
use crate::cli::show::seen::seen_text;
use crate::data::{Dataset, PromptForm, Question};
use crate::eval::{Evaluator, TokenCount};
use crate::ledger::Ledger;
use crate::select::Journal;
use crate::steer::{DirectionKind, Sidecar};
use crate::study::{
    Category, FoldReport, HeadsFrom, Protocol, QuestionReport, Record, Report, Row, Seen, n_token,
    of_vector, two_fold, unsteered,
};
use crate::{Error, Model, Result};

/// Measure the effect of steering on truth, on written answers, and on neutral prose
///
/// Scores every answer (MC1, MC2, MC3), lets the model write its own, and reads neutral text (CE,
/// KL): without steering, steered, steered by random directions in random heads, with a plain
/// instruction, and with both. With --cv 2, a vector is fitted on each half of the questions and
/// scored on the other; otherwise a sidecar is scored on all of them. Intervals are 95 %, over
/// questions and, if there are several, over draws. If interrupted, rerun the same command to
/// resume.
#[derive(Debug, Args)]
pub(in crate::cli) struct EvalArgs {
    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    data: DataArgs,

    #[command(flatten)]
    steer: SteerArgs,

    #[command(flatten)]
    gate: GateArgs,

    /// Instead of scoring a sidecar, fit on one half of the questions and score the other, then the
    /// other way round.
    #[arg(long, value_name = "2", value_parser = ["2"])]
    cv: Option<String>,

    /// With --cv: draw the halves at random (--seed) instead of taking the first and the second
    /// half of the file.
    #[arg(long, requires = "cv")]
    shuffle: bool,

    /// With --cv: number of heads to steer [default: chosen by search].
    #[arg(short = 'k', long, value_name = "K", value_parser = positive, requires = "cv")]
    heads: Option<usize>,

    /// With --cv: how directions are computed.
    #[arg(long, value_name = "KIND", default_value = "mass-mean", value_parser = direction())]
    direction: DirectionKind,

    #[command(flatten)]
    select: SelectArgs,

    #[command(flatten)]
    ask: AskArgs,

    #[command(flatten)]
    judge: JudgeArgs,

    /// Maximum number of tokens per written answer; 0 writes none.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 50)]
    n_predict: usize,

    #[command(flatten)]
    activations: StoreArgs,

    #[command(flatten)]
    report: ReportArgs,
}

/// What `--json` gives, and `report.json` holds.
#[derive(schemars::JsonSchema, Serialize)]
pub(in crate::cli) struct Document<'a> {
    #[serde(flatten)]
    pub(in crate::cli) made: Made,
    pub(in crate::cli) data: DataFacts<'a>,
    pub(in crate::cli) settings: Settings<'a>,
    pub(in crate::cli) rows: Vec<Row>,
    /// How many of the questions the vectors that act saw in fitting; null where nobody knows of any, or
    /// without a vector.
    seen: Option<Seen>,
    /// The same in words; null without a vector.
    pub(in crate::cli) seen_text: Option<String>,
    /// What steering through the gate is, and what it leaves, in words; null without a gate.
    pub(in crate::cli) gate_text: Option<String>,
    pub(in crate::cli) folds: &'a [FoldReport],
    pub(in crate::cli) categories: Vec<Category>,
    pub(in crate::cli) questions: Vec<QuestionReport<'a>>,
    pub(in crate::cli) judge: JudgeReport,
    n_question: usize,
    n_token: TokenCount,
    pub(in crate::cli) seconds: f64,
}

#[derive(schemars::JsonSchema, Serialize)]
pub(in crate::cli) struct Settings<'a> {
    /// Heads and layers that a sidecar steers.
    #[serde(skip)]
    pub(in crate::cli) size: Option<(usize, usize)>,
    /// `2-fold`, or the sidecar's path.
    pub(in crate::cli) vector: String,
    vector_fingerprint: Option<String>,
    pub(in crate::cli) prompt: &'a str,
    /// Whether the model's own chat template made the prompt.
    chat: bool,
    preamble: &'a str,
    instruction: &'a str,
    /// Which tokens are steered: as `--policy` says, else as the sidecar stores it.
    pub(in crate::cli) policy: &'static str,
    /// How the directions were found: as the sidecar says, where one is scored.
    pub(in crate::cli) direction: Option<&'static str>,
    /// By what the heads were chosen; `null` where nobody knows, or none were.
    pub(in crate::cli) selection: Option<&'static str>,
    /// The rows that sigma was measured over.
    sigma: &'a str,
    kl_budget: Option<f64>,
    /// Below which reading of a token the next one was steered, in the row `gated`.
    pub(in crate::cli) gate: Option<f32>,
    /// Share of the scored answers of which the gate decides a token: those of three tokens or more, a
    /// final full stop counted; null without a gate.
    gate_reach: Option<f64>,
    shuffle: bool,
    pub(in crate::cli) n_random: usize,
    n_predict: usize,
    /// The neutral prose.
    neutral: &'a str,
    n_document: usize,
    /// Its tokens, all of which are read.
    n_neutral_token: usize,
    /// Who says whether a written answer is true.
    pub(in crate::cli) judge: String,
    pub(in crate::cli) seed: u64,
}

impl Document<'_> {
    /// What the names of conditions depend on.
    pub(in crate::cli) fn under(&self) -> Under {
        Under { layers_alone: self.settings.layers_alone(), ..self.made.under() }
    }
}

impl Settings<'_> {
    /// Whether the vector steers layers and no heads.
    pub(in crate::cli) fn layers_alone(&self) -> bool {
        matches!(self.size, Some((0, 1..)))
    }

    /// How much is steered in a fold, in words.
    pub(in crate::cli) fn amount(&self, fold: &FoldReport) -> String {
        let (n_head, n_layer) = self.size.unwrap_or((fold.choice.k, 0));
        amount_of(n_head, n_layer)
    }
}

impl EvalArgs {
    pub(in crate::cli) fn run(&self, output: Output) -> Result<()> {
        let start = Instant::now();
        let mut data = self.data()?;
        let preamble = self.ask.preamble.text()?;
        let neutral = self.select.neutral_halves(&self.model)?;
        let judge = self.judge.find(self.n_predict, output)?;
        let model = self.model.load_for(from_mut(&mut data), output)?;
        chance::tell_of_repeats(&data, output);
        if self.cv.is_some() {
            warn_of_baked(&model, output);
        }
        let form = self.data.form(&data, &model)?;
        let vector = self.vector(&model, output)?;
        let protocol = self.protocol((&data, form.clone(), preamble), &neutral, &model)?;
        vector.check(&self.gate)?;
        if let Vector::Sidecar(_, sidecar, alpha) = &vector {
            self.gate.tell(sidecar, *alpha, output);
        }
        self.ask.check_preamble((&model, &self.model), &protocol)?;
        let which = vector.fingerprint().unwrap_or_else(|| vector.name());
        let policy = vector.policy(self.ask.measure.given_policy());
        let identity = self.ask.identity(
            (&model, &self.model),
            (&protocol, policy),
            &(which, self.steer.given_alpha(), self.gate.gate),
        )?;
        let place = ledger_place("eval", self.report.folder(), &identity)?;
        let mut ledger = open_ledger(&place, &identity, output)?;
        let open = || self.activations.open((&self.data, &data), (&self.model, &model), output);
        let activations = vector.needs_activations().then(open).transpose()?;
        let mut evaluator = self.model.evaluator(&model)?;
        evaluator.set_full_stop(!data.is_of_pictures());
        evaluator.set_policy(policy);
        evaluator.set_cut(judge.cut());
        let scored: Vec<&Question> =
            data.questions.iter().filter(|question| question.is_two_sided()).collect();
        let gate_reach = match self.gate.gate {
            None => 0.0,
            Some(_) => evaluator.gate_reach(&scored, &form, &protocol.preamble)?,
        };
        let n_neutral_token = neutral.tell(&evaluator, output)?;
        let source = activations.as_ref().map(|activations| &activations.store);
        let kept = (&mut ledger, journals(&place, &identity));
        let mut report = self.study(&mut evaluator, (&vector, source), &protocol, kept, output)?;
        if let Vector::Sidecar(_, sidecar, _) = &vector {
            show_own_heads(&mut report, sidecar);
        }
        let n_token = n_token(&ledger);
        // A judge of its own size needs the memory.
        drop(evaluator);
        let on = (&self.model, self.data.seed);
        let judge = self.judge.judge(judge, &mut report, &mut ledger, on, output)?;
        let seen = vector.seen(&report, vector.fitted_on(&model).as_ref());
        let seen_text = seen.as_ref().map(seen_text);
        let document = Document {
            made: Made::on(&model)?,
            data: DataFacts::of(&data),
            settings: Settings {
                gate_reach: self.gate.gate.map(|_| gate_reach),
                n_neutral_token,
                judge: judge.facts.about.clone(),
                ..self.settings(&vector, &form, &protocol, &neutral)
            },
            gate_text: self.gate.gate.map(|gate| gate_text(&report.rows(), gate, gate_reach)),
            rows: report.rows(),
            seen: seen.and_then(Seen::known),
            seen_text,
            folds: &report.folds,
            categories: report.categories(),
            questions: report.questions(),
            n_question: report.n_question(),
            n_token,
            judge,
            seconds: start.elapsed().as_secs_f64(),
        };
        chance::warn_of_folds(document.folds, output);
        self.report.write(&document, || page::page(&document))?;
        ledger.remove()?;
        if let Some(activations) = activations {
            activations.discard()?;
        }
        if output.is_json() {
            output.json(&document);
        } else {
            text::print(&document, output);
            self.report.tell(output);
        }
        Ok(())
    }

    /// What is asked, of what, and beside what.
    fn protocol<'a>(
        &self,
        (data, form, preamble): (&'a Dataset, PromptForm, String),
        neutral: &'a Neutral,
        model: &Model,
    ) -> Result<Protocol<'a>> {
        Ok(Protocol {
            data,
            form,
            preamble,
            neutral: neutral.texts(),
            instruction: self.ask.instruction.clone(),
            shuffle: self.shuffle,
            direction: self.direction,
            selection: self.select.by(),
            select: self.select.params(),
            sigma: self.ask.measure.sigma(),
            grid: self.select.grid(model, self.heads, self.steer.given_alpha())?,
            n_random: self.ask.draws,
            n_predict: self.n_predict,
            n_example: 6,
            gate: self.gate.gate,
            seed: self.data.seed,
        })
    }

    /// The settings as reports have them, but for what is known at the end.
    fn settings<'a>(
        &'a self,
        vector: &Vector,
        form: &'a PromptForm,
        protocol: &'a Protocol,
        neutral: &'a Neutral,
    ) -> Settings<'a> {
        Settings {
            size: vector.size(),
            vector: vector.name(),
            vector_fingerprint: vector.fingerprint(),
            prompt: form.as_str(),
            chat: form.is_chat(),
            preamble: &protocol.preamble,
            instruction: &protocol.instruction,
            policy: vector.policy(self.ask.measure.given_policy()).name(),
            direction: vector.direction(protocol).map(DirectionKind::name),
            selection: vector.selection(protocol),
            sigma: self.ask.measure.sigma_name(),
            kl_budget: matches!(vector, Vector::TwoFold)
                .then_some(protocol.grid.kl_budget)
                .filter(|budget| budget.is_finite()),
            gate: self.gate.gate,
            gate_reach: None,
            shuffle: self.shuffle,
            n_random: self.ask.draws,
            n_predict: self.n_predict,
            neutral: &neutral.about,
            n_document: neutral.len(),
            n_neutral_token: 0,
            judge: String::new(),
            seed: self.data.seed,
        }
    }

    /// The data set, if it has what is asked for.
    fn data(&self) -> Result<Dataset> {
        let data = self.data.open(&self.model)?.limited(self.ask.limit);
        if !data.kind.asks() {
            return Err(Error::invalid("--data", NEEDS_QUESTIONS));
        }
        if !data.questions.iter().any(Question::is_two_sided) {
            let problem = "no question has both true and false answers, so there is nothing to \
                           choose between: add the kind that is missing (in TruthfulQA's form the \
                           column Incorrect Answers)";
            return Err(Error::Data { path: data.path, line: None, problem: problem.to_owned() });
        }
        self.select.check(&data)?;
        Ok(data)
    }

    fn study<'a>(
        &self,
        evaluator: &mut Evaluator,
        (vector, source): (&Vector, Option<&Store>),
        protocol: &Protocol<'a>,
        (ledger, journal): (&mut Ledger<Record>, impl Fn(&str) -> Result<Journal>),
        output: Output,
    ) -> Result<Report<'a>> {
        interrupt::install();
        let n_step = match vector {
            Vector::TwoFold => protocol.n_step(),
            Vector::Sidecar(..) => protocol.n_step_of_vector(),
            Vector::None => protocol.n_step_unsteered(),
        };
        let bar = output.progress("scoring", n_step);
        let on_step = || {
            bar.inc(1);
            interrupt::check("what was scored is kept: rerun the same command to resume")
        };
        let report = match (vector, source) {
            (Vector::Sidecar(_, sidecar, alpha), Some(source)) => {
                of_vector(evaluator, source, protocol, (&sidecar.vector, *alpha), ledger, on_step)
            }
            (Vector::TwoFold, Some(source)) => {
                two_fold(evaluator, source, protocol, ledger, journal, on_step)
            }
            _ => unsteered(evaluator, protocol, ledger, on_step),
        };
        bar.finish_and_clear();
        report
    }

    /// What is asked for. Without `--cv`, a sidecar has to be there, unless `none` is wanted.
    fn vector(&self, model: &Model, output: Output) -> Result<Vector> {
        if self.cv.is_some() && self.steer.names_files() {
            let problem = "--cv fits vectors of its own and scores those: leave one of the two out";
            return Err(Error::invalid("--steer", problem));
        }
        if self.cv.is_some() {
            return Ok(Vector::TwoFold);
        }
        if self.steer.is_none() {
            return Ok(Vector::None);
        }
        // Where that is said, it settles what parts of a sum do that steer different tokens.
        let positions = self.ask.measure.given_policy().map(|_| self.ask.measure.positions());
        let found = self.steer.sidecar_at(positions, model, output)?;
        let (path, sidecar) = found.ok_or_else(|| {
            let problem = "there is none beside the model: --cv 2 fits one and scores it, --steer \
                           FILE scores an existing one, --steer none scores the model as it is";
            Error::invalid("sidecar", problem)
        })?;
        let alpha = self.steer.alpha(&sidecar);
        Ok(Vector::Sidecar(path, Box::new(sidecar), alpha))
    }
}

/// Takes the accuracies of heads, and what they are worth, from the sidecar where it has them: those of
/// probes that are fitted anew, to the few questions at hand, say less.
fn show_own_heads(report: &mut Report, sidecar: &Sidecar) {
    let accuracies = &sidecar.about.head_accuracy;
    report.folds.iter_mut().for_each(|fold| fold.chance = sidecar.about.evidence.chance);
    for fold in report.folds.iter_mut().filter(|_| !accuracies.is_empty()) {
        fold.head_accuracy.clone_from(accuracies);
        fold.head_accuracy_from = HeadsFrom::Sidecar;
    }
}
