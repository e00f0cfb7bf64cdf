//! What a fit gave, for people and machines.

use std::path::Path;

use serde::Serialize;

use crate::Site;
use crate::align::{TrainStep, Trained};
use crate::cli::show::chance;
use crate::cli::show::fold;
use crate::cli::show::heads::{self, Head};
use crate::cli::show::heat::Maps;
use crate::cli::show::output::Output;
use crate::cli::show::reading::ReadingFacts;
use crate::cli::show::table::{counted, nats, percent, short, table};
use crate::probe::Chance;
use crate::select::{Choice, HeadEffect, rank_correlation};
use crate::steer::{Development, Sidecar};
use crate::study::HeldOut;

/// Heads of the table that is printed.
const N_LISTED: usize = 12;

/// What `--json` gives.
#[derive(schemars::JsonSchema, Serialize)]
pub(in crate::cli) struct Document<'a> {
    path: &'a Path,
    /// Fingerprint of the vector: of all that it adds, and where.
    vector: String,
    k: usize,
    alpha: f32,
    direction: &'static str,
    selection: &'static str,
    heads: Vec<Head>,
    /// What every head that was tried does by itself, by place; absent for `accuracy`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    effects: Vec<Tried>,
    /// What K and alpha reached while they were chosen by trying: MC1, each question with a vector
    /// that comes from others. The best of many: see `held_out`.
    #[serde(skip_serializing_if = "Option::is_none")]
    mc1: Option<f64>,
    /// The KL of the same, in nats per token of neutral prose.
    #[serde(skip_serializing_if = "Option::is_none")]
    kl: Option<f64>,
    /// Spearman's, of the accuracies and effects of the heads that were tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    rank_correlation: Option<f64>,
    /// What the same choice gives on questions that it was not made on; absent where nothing was
    /// chosen by trying, or there are too few.
    #[serde(skip_serializing_if = "Option::is_none")]
    held_out: Option<&'a HeldOut>,
    /// How each head's strength was trained; absent for --method iti.
    #[serde(skip_serializing_if = "Option::is_none")]
    training: Option<Training<'a>>,
    /// What the accuracy of the best head is worth.
    chance: Chance,
    /// What the probes' readings are worth; null where no scale could be fitted to them.
    reading: Option<ReadingFacts>,
    n_row: usize,
    n_sigma_row: usize,
    seconds: f64,
}

/// What moving one head by itself did.
#[derive(schemars::JsonSchema, Serialize)]
struct Tried {
    #[serde(flatten)]
    site: Site,
    accuracy: f32,
    effect: f64,
    cost: f64,
    causal: f64,
    n_question: usize,
}

/// A training of strengths.
#[derive(schemars::JsonSchema, Serialize)]
struct Training<'a> {
    method: &'static str,
    /// Questions that it was trained on.
    n_question: usize,
    /// Questions of the checks, which it was not trained on.
    n_question_held: usize,
    /// The check whose strengths were kept: the lowest loss, so it looks better than it is.
    best: TrainStep,
    /// All checks, the first without steering.
    checks: &'a [TrainStep],
}

/// What was fitted, and what is known of it.
pub(super) struct Fitted<'a> {
    pub(super) path: &'a Path,
    pub(super) sidecar: &'a Sidecar,
    pub(super) development: &'a Development,
    /// What every head that was tried does by itself.
    pub(super) effects: &'a [HeadEffect],
    /// What K and α reached, where they were tried.
    pub(super) choice: Option<Choice>,
    /// How strengths were trained.
    pub(super) training: Option<&'a Trained>,
    /// What the same choice gives on questions that it was not made on.
    pub(super) held_out: Option<HeldOut>,
    pub(super) chance: Chance,
    pub(super) seconds: f64,
    /// What to type next.
    pub(super) next: String,
}

impl Fitted<'_> {
    pub(super) fn report(&self, output: Output) {
        let Self {
            path,
            sidecar,
            development,
            effects,
            choice,
            training,
            ref held_out,
            chance,
            seconds,
            ..
        } = *self;
        let about = &sidecar.about;
        let heads = heads::best_first(sidecar);
        let selection = about.selection.name();
        let tried = tried(development, effects);
        let rank_correlation = (!tried.is_empty()).then(|| {
            let accuracies: Vec<f64> = tried.iter().map(|head| f64::from(head.accuracy)).collect();
            let effects: Vec<f64> = tried.iter().map(|head| head.effect).collect();
            rank_correlation(&accuracies, &effects)
        });
        if output.is_json() {
            output.json(&Document {
                path,
                vector: sidecar.vector.fingerprint(),
                k: heads.len(),
                alpha: about.alpha,
                direction: about.direction.name(),
                selection,
                heads,
                effects: tried,
                mc1: choice.map(|choice| choice.mc1).filter(|mc1| !mc1.is_nan()),
                kl: choice.map(|choice| choice.kl),
                rank_correlation,
                held_out: held_out.as_ref(),
                training: training.map(|trained| Training {
                    method: about.method.name(),
                    n_question: trained.n_question.0,
                    n_question_held: trained.n_question.1,
                    best: trained.best,
                    checks: &trained.checks,
                }),
                chance,
                reading: ReadingFacts::of(&sidecar.vector),
                n_row: development.n_row(),
                n_sigma_row: development.n_sigma_row(),
                seconds,
            });
            return;
        }
        if let Some(maps) = maps(sidecar) {
            output.line(maps.text(fold::width()));
        }
        output.line(heads::text(&heads, N_LISTED));
        let size = std::fs::metadata(path).map_or(0, |m| m.len());
        let mut chosen_by = selection.to_owned();
        if let Some(r) = rank_correlation {
            chosen_by += &format!(" (accuracy and effect: rank correlation {r:.2})");
        }
        let mut fields = vec![
            ("sidecar", format!("{} ({:.1} kB)", path.display(), size as f64 / 1e3)),
            ("heads", format!("{} of {}", heads.len(), development.scores.len())),
            ("chosen by", chosen_by),
            ("alpha", short(about.alpha)),
            ("direction", about.direction.to_string()),
            ("rows", about.split.clone()),
            ("time", format!("{seconds:.1} s")),
        ];
        fields.insert(3, ("best head", chance::text(&chance)));
        if let Some(Choice { mc1, base, kl, .. }) = choice {
            let mut reached = format!("KL {} nats per token of neutral prose", nats(kl, 4));
            if !mc1.is_nan() {
                let [from, to] = [base, mc1].map(percent);
                reached = format!("MC1 {from} → {to} %; {reached}");
            }
            fields.insert(5, ("while tuning", reached));
        }
        if let Some(HeldOut { base, mc1, change, n_question, .. }) = held_out {
            let interval = change.map_or_else(String::new, |change| {
                let [mean, low, high] = [change.mean, change.low, change.high].map(|x| 100.0 * x);
                format!(", {mean:+.1} points ({low:+.1} to {high:+.1})")
            });
            let [from, to] = [*base, *mc1].map(percent);
            let gives = format!(
                "MC1 {from} → {to} % on {n_question} questions, each scored with what was chosen on the \
                 other half{interval}"
            );
            fields.insert(6, ("held out", gives));
        }
        if let Some(trained) = training {
            output.line(curve(trained));
            let (n, n_held) = trained.n_question;
            let said = format!(
                "{}, kept at step {} of the checks on {}; {} trained on",
                about.method,
                trained.best.step,
                counted(n_held, "question"),
                counted(n, "question"),
            );
            fields.insert(3, ("strengths", said));
        }
        if let Some(reading) = ReadingFacts::of(&sidecar.vector) {
            let place = fields.iter().position(|(name, _)| *name == "rows").unwrap_or(fields.len());
            fields.insert(place, ("calibration", reading.text()));
        }
        output.fields(&fields);
        output.aside(format_args!("next: {}", self.next));
    }
}

/// The checks of a training, the kept one marked.
fn curve(trained: &Trained) -> String {
    let rows: Vec<[String; 6]> = trained
        .checks
        .iter()
        .map(|check| {
            let found = check.preference;
            let mark = if check.step == trained.best.step { " *" } else { "" };
            [
                format!("{}{mark}", check.step),
                nats(found.loss, 3),
                percent(found.preferred),
                nats(found.margin, 2),
                nats(check.kl, 4),
                short(check.strength),
            ]
        })
        .collect();
    table(["step", "loss", "preferred %", "margin", "KL", "strength"], &rows)
}

/// What is known of all heads, where every layer has some.
pub(super) fn maps(sidecar: &Sidecar) -> Option<Maps<'_>> {
    let about = &sidecar.about;
    let selected: Vec<Site> = sidecar.vector.heads().iter().map(|head| head.site).collect();
    Maps::new(&about.head_accuracy, &about.head_effect, sidecar.vector.n_head(), selected)
}

/// The effects with the accuracies of the same heads.
fn tried(development: &Development, effects: &[HeadEffect]) -> Vec<Tried> {
    let accuracy = |site: Site| {
        let score = development.scores.iter().find(|score| score.site == site);
        score.map_or(f32::NAN, |score| score.accuracy)
    };
    effects
        .iter()
        .map(|head| Tried {
            site: head.site,
            accuracy: accuracy(head.site),
            effect: head.effect,
            cost: head.cost,
            causal: head.causal(),
            n_question: head.n_question,
        })
        .collect()
}
