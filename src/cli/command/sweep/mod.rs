//! `candor sweep`: how many heads, and how far, as a grid.

mod document;
mod page;
mod text;

use std::path::Path;
use std::slice::from_mut;
use std::time::Instant;

use clap::Args;

pub(in crate::cli) use self::document::Document;
use self::document::{Overall, Recommended, Settings};
use crate::capture::Store;
use crate::cli::args::activations::StoreArgs;
use crate::cli::args::asking::{AskArgs, journals, ledger_place, open_ledger};
use crate::cli::args::data::DataArgs;
use crate::cli::args::model::ModelArgs;
use crate::cli::args::select::{DEFAULT_BUDGET, NEEDS_QUESTIONS, Neutral, SelectArgs};
use crate::cli::args::steer::warn_of_baked;
use crate::cli::args::values::{direction, finite, positive};
use crate::cli::args::words::Words;
use crate::cli::interrupt;
use crate::cli::show::chance;
use crate::cli::show::output::Output;
use crate::cli::show::report::{DataFacts, Made, ReportArgs, shell_command};
use crate::cli::show::seen::seen_text;
use crate::cli::show::table::counted;
use crate::data::{Dataset, PromptForm};
use crate::judge::JudgeFacts;
use crate::select::Grid;
use crate::steer::{Development, DirectionKind, FitParams, Selection};
use crate::study::{Axes, Cell, Protocol, Sweep, n_token, sweep};
use crate::{Error, Result};

/// Try numbers of heads and strengths, and recommend a pair
///
/// Tries a grid of K (--heads) and alpha. On each half of the questions, heads are ranked and
/// vectors fitted once, and every cell is scored on the other half. The recommendation is made on
/// the fitting half: the best MC1 with a KL per token within the budget, and among equals the lower
/// KL. Its score on the other half is shown beside the baselines. With --kl-budget instead of
/// --alpha, each K gets the largest alpha within the budget; with both, the budget applies to the
/// recommendation. If interrupted, rerun the same command to resume.
#[derive(Debug, Args)]
pub(in crate::cli) struct SweepArgs {
    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    data: DataArgs,

    /// Numbers of heads, comma-separated [default: 8,16,32,48,64 for models with 512 heads or more,
    /// otherwise 1,2,4,8,16].
    #[arg(short = 'k', long, value_name = "K", value_delimiter = ',', value_parser = positive)]
    heads: Option<Vec<usize>>,

    /// Strengths in standard deviations, comma-separated [default: 0,5,10,15,20, unless --kl-budget
    /// is given].
    #[arg(long, value_name = "X", value_delimiter = ',', allow_negative_numbers = true, value_parser = finite)]
    alpha: Option<Vec<f32>>,

    /// How directions are computed; comma-separated to try several.
    #[arg(long, value_name = "KIND", value_delimiter = ',', default_value = "mass-mean", value_parser = direction())]
    direction: Vec<DirectionKind>,

    /// Number of folds: fit on one half, score the other, then the other way round.
    #[arg(long, value_name = "2", default_value = "2", value_parser = ["2"])]
    cv: String,

    /// Draw the halves at random (--seed) instead of taking the first and the second half of the
    /// file.
    #[arg(long)]
    shuffle: bool,

    #[command(flatten)]
    select: SelectArgs,

    #[command(flatten)]
    ask: AskArgs,

    /// Maximum number of tokens per written answer, in every cell; 0 writes none.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 0)]
    n_predict: usize,

    #[command(flatten)]
    activations: StoreArgs,

    #[command(flatten)]
    report: ReportArgs,
}

/// In words.
const RULE: &str = "of the cells whose KL per token on the development documents is within the \
                    budget, the highest MC1 on the development questions; at equal MC1 the lowest KL";

impl SweepArgs {
    pub(in crate::cli) fn run(&self, output: Output) -> Result<()> {
        let start = Instant::now();
        let mut data = self.data.open(&self.model)?.limited(self.ask.limit);
        if !data.kind.asks() {
            return Err(Error::invalid("--data", NEEDS_QUESTIONS));
        }
        self.select.check(&data)?;
        let preamble = self.ask.preamble.text()?;
        let neutral = self.select.neutral_halves(&self.model)?;
        let model = self.model.load_for(from_mut(&mut data), output)?;
        chance::tell_of_repeats(&data, output);
        warn_of_baked(&model, output);
        let form = self.data.form(&data, &model)?;
        let ks = self.ks(model.attention_layers().count() * model.geometry().n_head)?;
        let axes = Axes {
            directions: self.directions(),
            alphas: self.alphas(),
            is_budget_strict: self.select.kl_budget().is_some(),
        };
        let protocol = self.protocol((&data, form.clone(), preamble), &neutral, ks, &axes);
        self.ask.check_preamble((&model, &self.model), &protocol)?;
        let identity = self.ask.identity(
            (&model, &self.model),
            (&protocol, self.ask.measure.policy()),
            &("sweep", &axes),
        )?;
        let place = ledger_place("sweep", self.report.folder(), &identity)?;
        let mut ledger = open_ledger(&place, &identity, output)?;
        let journal = journals(&place, &identity);
        let activations =
            self.activations.open((&self.data, &data), (&self.model, &model), output)?;
        let mut evaluator = self.model.evaluator(&model)?;
        evaluator.set_full_stop(!data.is_of_pictures());
        evaluator.set_policy(self.ask.measure.policy());
        let n_neutral_token = neutral.tell(&evaluator, output)?;
        interrupt::install();
        let bar = output.progress("sweeping", protocol.n_step_of_sweep(&axes));
        let source = &activations.store;
        let swept = sweep(&mut evaluator, source, &protocol, &axes, &mut ledger, journal, || {
            bar.inc(1);
            interrupt::check("what was measured is kept: rerun the same command to resume")
        });
        bar.finish_and_clear();
        let swept = swept?;
        let overall = self.overall(&swept, &data, source, protocol.grid.kl_budget, output)?;
        let seen = swept.report.seen_in_folds();
        let document = Document {
            made: Made::on(&model)?,
            data: DataFacts::of(&data),
            settings: Settings {
                n_neutral_token,
                ..self.settings(&axes, &form, &protocol, &neutral)
            },
            cells: &swept.cells,
            recommended: recommended(&swept),
            overall,
            rows: swept.report.rows(),
            seen_text: seen_text(&seen),
            seen,
            folds: &swept.report.folds,
            n_question: swept.report.n_question(),
            n_token: n_token(&ledger),
            seconds: start.elapsed().as_secs_f64(),
        };
        chance::warn_of_folds(document.folds, output);
        self.report.write(&document, || page::page(&document))?;
        ledger.remove()?;
        activations.discard()?;
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
        ks: Vec<usize>,
        axes: &Axes,
    ) -> Protocol<'a> {
        Protocol {
            gate: None,
            data,
            form,
            preamble,
            neutral: neutral.texts(),
            instruction: self.ask.instruction.clone(),
            shuffle: self.shuffle,
            direction: axes.directions[0],
            selection: self.select.by(),
            select: self.select.params(),
            sigma: self.ask.measure.sigma(),
            grid: Grid {
                ks,
                alphas: axes.alphas.clone().unwrap_or_default(),
                kl_budget: self.select.kl_budget().unwrap_or(DEFAULT_BUDGET),
            },
            n_random: self.ask.draws,
            n_predict: self.n_predict,
            n_example: 0,
            seed: self.data.seed,
        }
    }

    /// The settings as reports have them, but for what is known at the end.
    fn settings<'a>(
        &self,
        axes: &'a Axes,
        form: &'a PromptForm,
        protocol: &'a Protocol,
        neutral: &'a Neutral,
    ) -> Settings<'a> {
        Settings {
            ks: &protocol.grid.ks,
            alphas: axes.alphas.as_deref(),
            directions: axes.directions.iter().map(|direction| direction.name()).collect(),
            selection: protocol.selection.name(),
            kl_budget: protocol.grid.kl_budget,
            rule: RULE,
            prompt: form.as_str(),
            preamble: &protocol.preamble,
            instruction: &protocol.instruction,
            policy: self.ask.measure.policy().name(),
            shuffle: self.shuffle,
            n_random: self.ask.draws,
            n_predict: self.n_predict,
            neutral: &neutral.about,
            n_document: neutral.len(),
            n_neutral_token: 0,
            judge: JudgeFacts::words().about,
            seed: self.data.seed,
        }
    }

    /// The numbers of heads, ascending, each once.
    fn ks(&self, n_head: usize) -> Result<Vec<usize>> {
        let mut ks = match &self.heads {
            Some(ks) => ks.clone(),
            None if n_head >= 512 => vec![8, 16, 32, 48, 64],
            None => [1, 2, 4, 8, 16].into_iter().filter(|&k| k <= n_head.div_ceil(2)).collect(),
        };
        ks.sort_unstable();
        ks.dedup();
        match ks.last() {
            Some(&k) if k > n_head => {
                let problem = format!("{} cannot be chosen from {n_head}", counted(k, "head"));
                Err(Error::invalid("--heads", problem))
            }
            _ => Ok(ks),
        }
    }

    /// The strengths, ascending, each once; `None` where they are to be found.
    fn alphas(&self) -> Option<Vec<f32>> {
        let mut alphas = match (&self.alpha, self.select.kl_budget()) {
            (Some(alphas), _) => alphas.clone(),
            (None, Some(_)) => return None,
            (None, None) => vec![0.0, 5.0, 10.0, 15.0, 20.0],
        };
        // Without "-0".
        alphas.iter_mut().for_each(|alpha| *alpha += 0.0);
        alphas.sort_by(f32::total_cmp);
        alphas.dedup();
        Some(alphas)
    }

    /// The kinds of directions, each once.
    fn directions(&self) -> Vec<DirectionKind> {
        let mut directions = Vec::new();
        for &direction in &self.direction {
            if !directions.contains(&direction) {
                directions.push(direction);
            }
        }
        directions
    }

    /// What to ship, with the vector itself where it can be made of what was read.
    fn overall(
        &self,
        swept: &Sweep,
        data: &Dataset,
        source: &Store,
        budget: f64,
        output: Output,
    ) -> Result<Overall> {
        let Cell { direction, k, alpha, .. } = swept.cells[swept.overall];
        let [development_mc1, development_base] = swept.development();
        let overall = Overall {
            direction,
            k,
            alpha,
            development_mc1,
            development_base: development_base.unwrap_or(f64::NAN),
            command: None,
            vector: None,
        };
        if !swept.gains() {
            return Ok(overall);
        }
        let command = Some(shell_command(self.fit_words(direction, k, alpha, budget).as_slice()));
        if self.ask.limit > 0 || self.select.by() != Selection::Accuracy {
            return Ok(Overall { command, ..overall });
        }
        let (sigma, seed) = (self.ask.measure.sigma(), self.data.seed);
        let params = FitParams { sigma, seed, ..FitParams::default() };
        let questions: Vec<usize> = (0..data.questions.len()).collect();
        let bar = output.progress("probing", source.n_layer() * source.n_head());
        let development = Development::fit(source, &questions, &params, || bar.inc(1))?;
        bar.finish_and_clear();
        let vector = development.vector(source, k, direction.parse()?)?.fingerprint();
        Ok(Overall { command, vector: Some(vector), ..overall })
    }

    /// The words of the command that fits such a vector to all questions: everything that changes it.
    fn fit_words(&self, direction: &str, k: usize, alpha: Option<f32>, budget: f64) -> Words {
        let mut words = Words::of("fit");
        words.extend(self.model.words());
        words.extend(self.data.words());
        // What was captured of some questions is not of all.
        let store = self.activations.path().filter(|_| self.ask.limit == 0);
        words.add("--activations", store.map(Path::display));
        words.add("-k", Some(k));
        words.add("--alpha", alpha);
        words.add("--kl-budget", alpha.is_none().then_some(budget));
        words.add("--direction", Some(direction).filter(|&name| name != "mass-mean"));
        words.extend(self.select.words());
        words.extend(self.ask.preamble.words());
        words.extend(self.ask.measure.words());
        words
    }
}

fn recommended(swept: &Sweep) -> Vec<Recommended> {
    let of = |(fold, &cell): (usize, &usize)| {
        let Cell { direction, folds, .. } = &swept.cells[cell];
        let of_fold = &folds[fold];
        Recommended {
            fold: fold + 1,
            direction,
            k: of_fold.n_head,
            alpha: of_fold.alpha,
            development: of_fold.development,
            held_out: of_fold.held_out,
        }
    };
    swept.recommended.iter().enumerate().map(of).collect()
}
