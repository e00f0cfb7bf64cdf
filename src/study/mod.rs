//! What a vector does, measured as a paper would: on questions that it was not fitted on, beside
//! what needs no vector, with intervals.
//!
//! [`two_fold`] fits on one half of the questions and scores the other, both ways round. Heads,
//! directions, K and α come from the development half alone ([`develop`]): of all pairs of K and α
//! whose KL per token on one half of the neutral documents stays within the budget, the pair with
//! the highest MC1 on the development questions, each tried with a vector that comes from others
//! ([`Parts`](crate::select::Parts)), at equal MC1 the one with the lowest KL.
//! [`of_vector`] scores a vector that is there already, [`unsteered`] the model as it is.

mod about;
mod controls;
mod develop;
mod held_out;
mod interval;
mod judged;
mod measure;
mod report;
mod seen;
mod sweep;
mod transfer;
mod values;

use serde::{Deserialize, Serialize};

pub use self::about::{Chosen, DEFAULT_ALPHA, default_k, describe};
use self::controls::{random_layers, random_like, random_vectors};
pub use self::develop::{Developed, develop};
pub use self::held_out::{HeldOut, held_out};
pub use self::interval::{Estimate, Range, Sample};
pub use self::judged::Judging;
use self::measure::{Fold, keep};
pub use self::measure::{Record, n_token};
pub use self::report::{Category, Example, FoldReport, HeadsFrom, QuestionReport, Report, Scored};
pub use self::seen::{FittedOn, Seen, SeenPart};
pub use self::sweep::{Axes, Cell, CellFold, Scores, Sweep, sweep};
pub use self::transfer::{
    Fitted, HeadAccuracy, Labelled, Reading, Transfer, TransferParams, transfer,
};
pub use self::values::{Draws, Intervals, Row};
use crate::data::{Dataset, PromptForm, firsts, hashes, split};
use crate::eval::{Evaluator, N_CHUNK};
use crate::ledger::Ledger;
use crate::probe::Activations;
use crate::select::{Choice, Grid, Journal, SelectParams};
use crate::steer::{Development, DirectionKind, FitParams, Selection, SigmaFrom, SteeringVector};
use crate::{Error, Result};

/// What to do.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Protocol<'a> {
    /// Questions; those without true and false answers are passed over.
    pub data: &'a Dataset,
    /// How they are asked.
    pub form: PromptForm,
    /// What stands before every question, such as examples; may be empty.
    pub preamble: String,
    /// Documents that ask nothing, for CE and KL; at least two.
    pub neutral: Vec<&'a str>,
    /// A plain instruction before all else: the baseline that needs no steering.
    pub instruction: String,
    /// Whether folds are drawn by the seed, or contiguous, as in the ITI paper's code.
    pub shuffle: bool,
    /// Kind of directions.
    pub direction: DirectionKind,
    /// By what heads are chosen.
    pub selection: Selection,
    /// How much to measure where they are chosen by what they cause.
    pub select: SelectParams,
    /// What sigma is measured over.
    pub sigma: SigmaFrom,
    /// The pairs of K and α to choose from.
    pub grid: Grid,
    /// Draws of random heads and directions, other ones in each fold.
    pub n_random: usize,
    /// Tokens of a written answer; 0: none is written.
    pub n_predict: usize,
    /// Answers to show before and after.
    pub n_example: usize,
    /// Also steer through a gate: only tokens that follow one which the vector's probes read below this.
    pub gate: Option<f32>,
    /// Seed of the splits and draws.
    pub seed: u64,
}

setters! {
    <'a> Protocol<'a> {
        with_data(data: &'a Dataset),
        with_form(form: PromptForm),
        with_preamble(preamble: String),
        with_neutral(neutral: Vec<&'a str>),
        with_instruction(instruction: String),
        with_shuffle(shuffle: bool),
        with_direction(direction: DirectionKind),
        with_selection(selection: Selection),
        with_select(select: SelectParams),
        with_sigma(sigma: SigmaFrom),
        with_grid(grid: Grid),
        with_n_random(n_random: usize),
        with_n_predict(n_predict: usize),
        with_n_example(n_example: usize),
        with_gate(gate: Option<f32>),
        with_seed(seed: u64),
    }
}

impl<'a> Protocol<'a> {
    /// Two folds of these questions, in this form; KL on these neutral documents. Heads by their probes'
    /// accuracy, mean differences, ten random draws, and no written answers.
    #[must_use]
    pub fn new(data: &'a Dataset, form: PromptForm, neutral: Vec<&'a str>) -> Self {
        Self {
            data,
            form,
            preamble: String::new(),
            neutral,
            instruction: String::new(),
            shuffle: true,
            direction: DirectionKind::default(),
            selection: Selection::default(),
            select: SelectParams::default(),
            sigma: SigmaFrom::default(),
            grid: Grid::default(),
            n_random: 10,
            n_predict: 0,
            n_example: 0,
            gate: None,
            seed: 0,
        }
    }
}

/// Under what questions are scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// No steering.
    Base,
    /// The vector.
    Iti,
    /// The vector through a gate: where its probes read the answer as false.
    Gated,
    /// Random directions in random heads, at the same K and α.
    Random,
    /// An instruction in the prompt, and no steering.
    Instruction,
    /// The instruction, and the vector.
    InstructionIti,
}

impl Condition {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 6] =
        [Self::Base, Self::Iti, Self::Gated, Self::Random, Self::Instruction, Self::InstructionIti];

    /// The name in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Iti => "iti",
            Self::Gated => "gated",
            Self::Random => "random",
            Self::Instruction => "instruction",
            Self::InstructionIti => "instruction_iti",
        }
    }

    fn is_steered(self) -> bool {
        !matches!(self, Self::Base | Self::Instruction)
    }

    fn is_instructed(self) -> bool {
        matches!(self, Self::Instruction | Self::InstructionIti)
    }
}

/// Steps of [`two_fold`] that choosing heads by what they cause is reported as, per fold.
const SELECT_STEPS: usize = 100;

impl<'a> Protocol<'a> {
    /// Steps of [`two_fold`], for a progress bar.
    #[must_use]
    pub fn n_step(&self) -> usize {
        self.over_folds(|development, test| {
            self.n_step_of_choice(development) + self.n_step_of_fold(test)
        })
    }

    /// Steps of [`of_vector`].
    #[must_use]
    pub fn n_step_of_vector(&self) -> usize {
        self.n_step_of_fold(self.n_question())
    }

    /// Steps of [`unsteered`].
    #[must_use]
    pub fn n_step_unsteered(&self) -> usize {
        let n_turn = Condition::ALL.iter().filter(|condition| !condition.is_steered()).count();
        n_turn * Self::n_step_of_turn(self.n_question())
    }

    /// Questions that can be scored.
    fn n_question(&self) -> usize {
        self.data.questions.iter().filter(|question| question.is_two_sided()).count()
    }

    /// The sum over both folds of what takes so many steps for so many questions of the development
    /// half and of the other.
    fn over_folds(&self, n_step: impl Fn(usize, usize) -> usize) -> usize {
        let n_question = self.n_question();
        let [short, long] = [n_question / 2, n_question.div_ceil(2)];
        n_step(short, long) + n_step(long, short)
    }

    fn n_step_of_selection(&self) -> usize {
        // Of all questions, and of the parts.
        if self.selection == Selection::Accuracy { 0 } else { 2 * SELECT_STEPS }
    }

    /// Steps of [`develop`].
    fn n_step_of_choice(&self, n_question: usize) -> usize {
        self.n_step_of_selection() + self.grid.n_step(n_question, self.select.n_part)
    }

    fn n_step_of_fold(&self, n_question: usize) -> usize {
        // One for each condition, but as many random ones as there are draws, and a gate only where asked.
        let n_condition = Condition::ALL.len() - 2 + usize::from(self.gate.is_some());
        (n_condition + self.n_random) * Self::n_step_of_turn(n_question)
    }

    fn n_step_of_turn(n_question: usize) -> usize {
        2 * n_question.div_ceil(N_CHUNK) + 1
    }

    /// How heads are fitted.
    fn fit(&self) -> FitParams {
        FitParams { seed: self.seed, sigma: self.sigma, ..FitParams::default() }
    }

    /// The questions that can be scored, as indices.
    fn questions(&self) -> Result<Vec<usize>> {
        let questions = &self.data.questions;
        let usable: Vec<usize> =
            (0..questions.len()).filter(|&i| questions[i].is_two_sided()).collect();
        if usable.is_empty() {
            let problem = "none has both true and false answers: there is nothing to score";
            return Err(Error::invalid(self.data.path.display().to_string(), problem));
        }
        Ok(usable)
    }

    /// Both ways to part the questions and documents in two.
    fn halves(&self) -> Result<Vec<Half<'a>>> {
        let usable = self.questions()?;
        let units = firsts(usable.iter().map(|&i| &self.data.questions[i]));
        let folds = split::folds_of(&units, 2, self.shuffle.then_some(self.seed))?;
        let questions =
            |fold: usize| folds[fold].iter().map(|&i| usable[i]).collect::<Vec<usize>>();
        let documents =
            |half: usize| self.neutral.iter().skip(half).step_by(2).copied().collect::<Vec<_>>();
        let half = |fold: usize| Half {
            development: questions(1 - fold),
            development_documents: documents(fold),
            test: questions(fold),
            documents: documents(1 - fold),
        };
        Ok([0, 1].map(half).into())
    }

    /// Questions of a half's test part that stand in its development part, too.
    fn n_seen(&self, half: &Half) -> usize {
        let of = |i: &usize| &self.data.questions[*i];
        let known = hashes(half.development.iter().map(of));
        half.test.iter().filter(|i| known.binary_search(&of(i).hash()).is_ok()).count()
    }

    /// What stands before a question under a condition.
    fn preamble_of(&self, condition: Condition) -> String {
        match (condition.is_instructed(), self.preamble.as_str()) {
            (false, preamble) => preamble.to_owned(),
            (true, "") => format!("{} ", self.instruction),
            (true, preamble) => format!("{}\n\n{preamble}", self.instruction),
        }
    }
}

/// The name under which a ledger knows the results of the one vector of a fold.
const ITI: &str = "iti 0";

/// What is chosen on, and what is scored: the two have no question and no document in common.
struct Half<'a> {
    /// Questions, as indices into the data set.
    development: Vec<usize>,
    development_documents: Vec<&'a str>,
    /// Questions, as indices into the data set.
    test: Vec<usize>,
    documents: Vec<&'a str>,
}

/// Fits and scores in two folds. What the ledger holds is not measured again. `journal` opens, by
/// name, what is known of the heads, K and α that were tried; it is removed once the choice is in the
/// ledger. `on_step` is called after each of [`Protocol::n_step`] steps and may refuse to go on by an
/// error.
///
/// # Errors
/// What fitting and evaluating give; [`Error::Invalid`] where no question can be scored, or no pair
/// of K and α stays within the KL budget.
pub fn two_fold<'a>(
    evaluator: &mut Evaluator,
    source: &impl Activations,
    protocol: &Protocol<'a>,
    ledger: &mut Ledger<Record>,
    journal: impl Fn(&str) -> Result<Journal>,
    mut on_step: impl FnMut() -> Result<()>,
) -> Result<Report<'a>> {
    let mut report = Report::new(protocol);
    for (fold, half) in protocol.halves()?.iter().enumerate() {
        let kept = (&mut *ledger, &journal);
        let developed =
            develop_once(evaluator, source, protocol, (fold, half), kept, &mut on_step)?;
        let Developed { development, vector, choice, .. } = &developed;
        let calibrated;
        let vector = match protocol.gate {
            None => vector,
            Some(_) => {
                calibrated = development.calibrated(source, vector.clone(), || ())?;
                &calibrated
            }
        };
        let random = random_vectors(development, source, choice.k, (protocol, fold))?;
        let mut measure = Fold {
            evaluator: &mut *evaluator,
            protocol,
            name: format!("fold {fold}"),
            questions: &half.test,
            documents: &half.documents,
            ledger: &mut *ledger,
        };
        let steered = Some((vector, choice.alpha));
        let outcomes = measure.run(steered, ITI, &random, &mut on_step)?;
        let fold = FoldReport::of(choice, vector, development, half.test.len());
        report.add(outcomes, fold.fitted(development, source, protocol.n_seen(half))?);
    }
    Ok(report)
}

/// What [`develop`] finds, its dear part from the ledger where it is known.
fn develop_once(
    evaluator: &mut Evaluator,
    source: &impl Activations,
    protocol: &Protocol,
    (fold, half): (usize, &Half),
    (ledger, journal): (&mut Ledger<Record>, &impl Fn(&str) -> Result<Journal>),
    mut on_step: impl FnMut() -> Result<()>,
) -> Result<Developed> {
    let name = format!("fold {fold} choice");
    if let Some(Record::Choice { choice, heads }) = ledger.get(&name) {
        let (choice, heads) = (*choice, heads.clone());
        let development = Development::fit(source, &half.development, &protocol.fit(), || ())?;
        let vector = development.ranked(&heads)?.vector(source, heads.len(), protocol.direction)?;
        let n_step = protocol.n_step_of_choice(half.development.len());
        (0..n_step).try_for_each(|_| on_step())?;
        return Ok(Developed { development, effects: Vec::new(), vector, choice });
    }
    let (questions, documents) = (&half.development, &half.development_documents);
    let mut journal = journal(&name)?;
    let developed =
        develop(evaluator, source, protocol, questions, documents, &mut journal, on_step);
    let developed = match developed {
        Ok(developed) => developed,
        Err(error) => {
            // What was tried is in the journal, and counts.
            keep(ledger, evaluator, &name, Vec::new())?;
            return Err(error);
        }
    };
    let heads = developed.vector.heads().iter().map(|head| head.site).collect();
    let record = Record::Choice { choice: developed.choice, heads };
    keep(ledger, evaluator, &name.clone(), vec![(name, record)])?;
    journal.remove()?;
    Ok(developed)
}

/// Scores a vector on all questions. `source` serves the random controls, whose scale is measured on
/// it. The rest is as for [`two_fold`].
///
/// # Errors
/// As [`two_fold`].
pub fn of_vector<'a>(
    evaluator: &mut Evaluator,
    source: &impl Activations,
    protocol: &Protocol<'a>,
    (vector, alpha): (&SteeringVector, f32),
    ledger: &mut Ledger<Record>,
    mut on_step: impl FnMut() -> Result<()>,
) -> Result<Report<'a>> {
    let usable = protocol.questions()?;
    let development = Development::fit(source, &usable, &protocol.fit(), || ())?;
    let k = vector.heads().len();
    let random = match vector.layers() {
        None => random_like(&development, source, vector, protocol)?,
        Some(layers) => random_layers(&development, source, (vector, layers), protocol)?,
    };
    let steered = Some((vector, alpha));
    let outcomes =
        whole(evaluator, protocol, &usable, ledger).run(steered, ITI, &random, &mut on_step)?;
    let choice = Choice { k, alpha, mc1: f64::NAN, base: f64::NAN, kl: f64::NAN };
    let mut report = Report::new(protocol);
    report.add(outcomes, FoldReport::of(&choice, vector, &development, usable.len()));
    Ok(report)
}

/// Scores the model as it is on all questions, and asked by the instruction. The rest is as for
/// [`two_fold`].
///
/// # Errors
/// What evaluating gives; [`Error::Invalid`] where no question can be scored.
pub fn unsteered<'a>(
    evaluator: &mut Evaluator,
    protocol: &Protocol<'a>,
    ledger: &mut Ledger<Record>,
    mut on_step: impl FnMut() -> Result<()>,
) -> Result<Report<'a>> {
    let usable = protocol.questions()?;
    let outcomes = whole(evaluator, protocol, &usable, ledger).run(None, ITI, &[], &mut on_step)?;
    let mut report = Report::new(protocol);
    report.gather(outcomes);
    Ok(report)
}

/// All questions and documents as one fold.
fn whole<'a>(
    evaluator: &'a mut Evaluator,
    protocol: &'a Protocol<'a>,
    questions: &'a [usize],
    ledger: &'a mut Ledger<Record>,
) -> Fold<'a> {
    let name = "vector".to_owned();
    Fold { evaluator, protocol, name, questions, documents: &protocol.neutral, ledger }
}
