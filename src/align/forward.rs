//! Strengths by simultaneous perturbation: forward passes alone.

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::objective::{Objective, Preference, paired};
use crate::data::split::train_validation_of;
use crate::data::{PromptForm, Question, firsts};
use crate::eval::{Evaluator, QuestionScore};
use crate::ledger::Ledger;
use crate::steer::{SteeredHead, SteeringVector};
use crate::{Error, Result};

/// How strengths are searched for.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct ForwardParams {
    /// Most steps.
    pub n_step: usize,
    /// Random directions of a step, each tried to both sides.
    pub n_draw: usize,
    /// Questions of a step.
    pub n_question: usize,
    /// How far to the side the loss is measured, in standard deviations of every head.
    pub distance: f64,
    /// The largest change of a strength in the first step, in standard deviations; it falls to zero by
    /// a cosine.
    pub rate: f64,
    /// Steps from one check on the questions that are not trained on to the next.
    pub n_check: usize,
    /// Checks without a lower loss after which it ends.
    pub patience: usize,
    /// Share of the questions that are not trained on.
    pub validation_share: f64,
    /// Most KL(original ‖ steered) per token of neutral text, in nats: where a check finds more, all
    /// strengths are scaled back.
    pub kl_budget: f64,
    /// Of the split and of all draws.
    pub seed: u64,
}

setters! {
    ForwardParams {
        with_n_step(n_step: usize),
        with_n_draw(n_draw: usize),
        with_n_question(n_question: usize),
        with_distance(distance: f64),
        with_rate(rate: f64),
        with_n_check(n_check: usize),
        with_patience(patience: usize),
        with_validation_share(validation_share: f64),
        with_kl_budget(kl_budget: f64),
        with_seed(seed: u64),
    }
}

impl Default for ForwardParams {
    fn default() -> Self {
        Self {
            n_step: 80,
            n_draw: 8,
            n_question: 16,
            distance: 1.0,
            rate: 0.5,
            n_check: 5,
            patience: 5,
            validation_share: 0.2,
            kl_budget: 0.2,
            seed: 0,
        }
    }
}

/// A check on the questions that are not trained on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct TrainStep {
    /// Steps so far.
    pub step: usize,
    /// The loss of the questions that were trained on since the last check, the mean of all strengths
    /// tried; `None` at first.
    pub train_loss: Option<f64>,
    /// Of the questions that are not trained on.
    #[serde(flatten)]
    pub preference: Preference,
    /// KL(original ‖ steered) per token of neutral text, in nats.
    pub kl: f64,
    /// Root of the mean square of the heads' strengths, in standard deviations.
    pub strength: f64,
}

/// A trained vector.
#[derive(Debug, Clone)]
pub struct Trained {
    /// At strength [`alpha`](Self::alpha) each head is moved as far as was found: its sigma is scaled
    /// by its own strength over alpha, and a head that has to be moved backwards has the opposite
    /// direction.
    pub vector: SteeringVector,
    /// Root of the mean square of the heads' strengths, in standard deviations.
    pub alpha: f32,
    /// All checks.
    pub checks: Vec<TrainStep>,
    /// The check whose strengths were kept.
    pub best: TrainStep,
    /// Questions that were trained on, and those of the checks.
    pub n_question: (usize, usize),
}

/// What was measured so far, by name: losses of a step, a [`Preference`]'s four numbers, a KL.
pub type Measurements = Ledger<Vec<f64>>;

/// Trains the strengths of a vector's heads, from zero, on the pairs of `questions`: a part of them, by
/// the seed, is not trained on and says when to end. `documents` are neutral text. What was measured is
/// kept in the `ledger`, so that an interrupted training gives the same vector; `on_step` is told of
/// every step, and of the check where there was one, and may end it by an error.
///
/// # Errors
/// [`Error::Invalid`] for fewer than two questions with answers of both kinds, for parameters that
/// search nothing, and where no strength does better than none; what scoring gives.
#[allow(clippy::too_many_arguments, reason = "everything that a training depends on")]
pub fn train(
    evaluator: &mut Evaluator,
    heads: &SteeringVector,
    questions: &[&Question],
    (form, preamble): (&PromptForm, &str),
    documents: &[&str],
    objective: &Objective,
    params: &ForwardParams,
    ledger: &mut Measurements,
    on_step: impl FnMut(usize, Option<&TrainStep>) -> Result<()>,
) -> Result<Trained> {
    let pairs: Vec<Question> = questions.iter().filter_map(|question| paired(question)).collect();
    if pairs.len() < 2 {
        let problem = format!(
            "{} of {} have a chosen and a rejected answer, at least 2 are needed",
            pairs.len(),
            questions.len()
        );
        return Err(Error::invalid("questions", problem));
    }
    params.check(objective)?;
    let all: Vec<usize> = (0..pairs.len()).collect();
    let units = firsts(&pairs);
    let (train, held) =
        train_validation_of(&all, |i| units[i], params.validation_share, params.seed)?;
    let mut search = Search {
        evaluator,
        heads,
        pairs: &pairs,
        reference: Vec::new(),
        form,
        preamble,
        objective,
        documents,
        ledger,
    };
    search.evaluator.steer_with(None)?;
    let refs: Vec<&Question> = pairs.iter().collect();
    search.reference = search.evaluator.score_answers(&refs, form, preamble)?;
    search.run(&train, &held, params, on_step)
}

impl ForwardParams {
    fn check(&self, objective: &Objective) -> Result<()> {
        let is_scale = |x: f64| x > 0.0 && x.is_finite();
        let counts = [self.n_step, self.n_draw, self.n_question, self.n_check, self.patience];
        if counts.contains(&0) || !is_scale(self.distance) || !is_scale(self.rate) {
            let problem = "a count, a distance or a rate of zero trains nothing";
            return Err(Error::invalid("training", problem));
        }
        objective.check()
    }

    /// The cosine's share of the rate at a step.
    fn fall(&self, step: usize) -> f64 {
        let share = step as f64 / self.n_step as f64;
        f64::midpoint(1.0, (std::f64::consts::PI * share).cos())
    }
}

struct Search<'a> {
    evaluator: &'a mut Evaluator,
    heads: &'a SteeringVector,
    pairs: &'a [Question],
    /// The scores of the pairs without steering.
    reference: Vec<QuestionScore>,
    form: &'a PromptForm,
    preamble: &'a str,
    objective: &'a Objective,
    documents: &'a [&'a str],
    ledger: &'a mut Measurements,
}

impl Search<'_> {
    fn run(
        &mut self,
        train: &[usize],
        held: &[usize],
        params: &ForwardParams,
        mut on_step: impl FnMut(usize, Option<&TrainStep>) -> Result<()>,
    ) -> Result<Trained> {
        let mut rng = ChaCha8Rng::seed_from_u64(params.seed);
        let mut strengths = vec![0.0; self.heads.heads().len()];
        let mut adam = Adam::new(strengths.len());
        let mut queue = Vec::new();
        let (mut loss_sum, mut n_loss) = (0.0, 0);
        let first = self.check(0, None, &mut strengths, held, params.kl_budget)?;
        on_step(0, Some(&first))?;
        let (mut checks, mut best) = (vec![first], (first, strengths.clone()));
        let mut n_worse = 0;
        for step in 1..=params.n_step {
            let batch = next_batch(&mut queue, train, params.n_question, &mut rng);
            let draws: Vec<Vec<f64>> = (0..params.n_draw)
                .map(|_| strengths.iter().map(|_| if rng.random() { 1.0 } else { -1.0 }).collect())
                .collect();
            let candidates: Vec<Vec<f64>> = draws
                .iter()
                .flat_map(|draw| {
                    [1.0, -1.0].map(|sign| shifted(&strengths, draw, sign * params.distance))
                })
                .collect();
            let losses = self.losses(step, &candidates, &batch)?;
            loss_sum += losses.iter().sum::<f64>() / losses.len() as f64;
            n_loss += 1;
            let mut slope = vec![0.0; strengths.len()];
            for (draw, pair) in draws.iter().zip(losses.chunks_exact(2)) {
                let rise = (pair[0] - pair[1]) / (2.0 * params.distance * params.n_draw as f64);
                slope.iter_mut().zip(draw).for_each(|(slope, sign)| *slope += rise * sign);
            }
            adam.step(&mut strengths, &slope, params.rate * params.fall(step - 1));
            if step % params.n_check != 0 && step != params.n_step {
                on_step(step, None)?;
                continue;
            }
            let mean = Some(loss_sum / f64::from(n_loss));
            (loss_sum, n_loss) = (0.0, 0);
            let check = self.check(step, mean, &mut strengths, held, params.kl_budget)?;
            on_step(step, Some(&check))?;
            checks.push(check);
            if check.preference.loss < best.0.preference.loss {
                best = (check, strengths.clone());
                n_worse = 0;
            } else {
                n_worse += 1;
            }
            if n_worse == params.patience {
                break;
            }
        }
        let (best, strengths) = best;
        if best.step == 0 {
            let problem = "no strength of these heads lowers the loss on questions that were not \
                           trained on: take other heads, more pairs, or do not train them";
            return Err(Error::invalid("training", problem));
        }
        let (vector, alpha) = of_strengths(self.heads, &strengths)?;
        let n_question = (train.len(), held.len());
        Ok(Trained { vector, alpha: alpha as f32, checks, best, n_question })
    }

    /// The loss of each candidate on a batch of questions.
    fn losses(&mut self, step: usize, all: &[Vec<f64>], batch: &[usize]) -> Result<Vec<f64>> {
        self.measured(format!("step {step}"), |search| {
            let found = search.preferences(all, batch)?;
            Ok(found.iter().map(|preference| preference.loss).collect())
        })
    }

    /// What the present strengths do to the questions that are not trained on; scales them back first
    /// where they cost more than the budget.
    fn check(
        &mut self,
        step: usize,
        train_loss: Option<f64>,
        strengths: &mut [f64],
        held: &[usize],
        budget: f64,
    ) -> Result<TrainStep> {
        let mut kl = f64::INFINITY;
        for turn in 0..=N_SCALE {
            kl = self.measured(format!("kl {step}.{turn}"), |search| {
                search.kl(strengths).map(|kl| vec![kl])
            })?[0];
            if kl <= budget || turn == N_SCALE {
                break;
            }
            // KL grows about as the square of a small strength.
            let scale = (0.98 * budget / kl).sqrt().clamp(0.1, 0.98);
            strengths.iter_mut().for_each(|strength| *strength *= scale);
        }
        let found = self.measured(format!("check {step}"), |search| {
            let found = search.preferences(&[strengths.to_vec()], held)?[0];
            Ok(vec![found.loss, found.accuracy, found.preferred, found.margin])
        })?;
        let preference = match found[..] {
            [loss, accuracy, preferred, margin] => Preference { loss, accuracy, preferred, margin },
            _ => return Err(Error::invalid("partial results", "are not of this training")),
        };
        Ok(TrainStep { step, train_loss, preference, kl, strength: root_mean_square(strengths) })
    }

    /// What strengths cost on neutral text.
    fn kl(&mut self, strengths: &[f64]) -> Result<f64> {
        if strengths.iter().all(|&strength| strength == 0.0) {
            return Ok(0.0);
        }
        let vector = scaled(self.heads, strengths)?;
        self.evaluator.steer_with(Some((&vector, 1.0)))?;
        let divergence = self.evaluator.divergence(self.documents);
        self.evaluator.steer_with(None)?;
        // Beyond all bounds, logits end as NaN, which no file of results holds.
        let kl = divergence?.kl;
        Ok(if kl.is_finite() { kl } else { f64::MAX })
    }

    /// What is known under a name, or is found now.
    fn measured(
        &mut self,
        name: String,
        find: impl FnOnce(&mut Self) -> Result<Vec<f64>>,
    ) -> Result<Vec<f64>> {
        if let Some(known) = self.ledger.get(&name) {
            return Ok(known.clone());
        }
        let found = find(self)?;
        self.ledger.put([(name, found.clone())])?;
        Ok(found)
    }

    /// What each of some strengths does to some of the questions, all side by side.
    fn preferences(&mut self, all: &[Vec<f64>], questions: &[usize]) -> Result<Vec<Preference>> {
        let n_side = self.objective.n_side();
        let reference: Vec<&QuestionScore> =
            questions.iter().map(|&i| &self.reference[i]).collect();
        if all.iter().flatten().all(|&strength| strength == 0.0) {
            // Nothing is moved: what was scored without steering, to the last bit.
            let same: Vec<QuestionScore> = reference.iter().copied().cloned().collect();
            let found = self.objective.preference(&reference, &vec![same; n_side]);
            return Ok(vec![found; all.len()]);
        }
        let mut vectors = Vec::with_capacity(n_side * all.len());
        for strengths in all {
            for sign in [1.0, -1.0].into_iter().take(n_side) {
                let signed: Vec<f64> = strengths.iter().map(|strength| sign * strength).collect();
                vectors.push(scaled(self.heads, &signed)?);
            }
        }
        let vectors: Vec<&SteeringVector> = vectors.iter().collect();
        let pairs: Vec<&Question> = questions.iter().map(|&i| &self.pairs[i]).collect();
        let (form, preamble) = (self.form, self.preamble);
        let scores = self.evaluator.score_answers_under(&vectors, 1.0, &pairs, form, preamble)?;
        let found = scores.chunks(n_side).map(|sides| self.objective.preference(&reference, sides));
        Ok(found.collect())
    }
}

/// Most times that strengths are scaled back in one check.
const N_SCALE: usize = 8;

/// The next questions to train on: all of them in a random order before any comes again.
fn next_batch(
    queue: &mut Vec<usize>,
    train: &[usize],
    n: usize,
    rng: &mut ChaCha8Rng,
) -> Vec<usize> {
    let n = n.min(train.len());
    let mut batch = queue.split_off(queue.len().saturating_sub(n));
    if batch.len() < n {
        *queue = train.to_vec();
        queue.shuffle(rng);
        // None comes twice in one batch.
        for place in (0..queue.len()).rev() {
            if batch.len() < n && !batch.contains(&queue[place]) {
                batch.push(queue.remove(place));
            }
        }
    }
    batch
}

fn shifted(strengths: &[f64], draw: &[f64], by: f64) -> Vec<f64> {
    strengths.iter().zip(draw).map(|(strength, sign)| strength + by * sign).collect()
}

/// The heads, each moved by its strength, in standard deviations, at alpha 1.
fn scaled(heads: &SteeringVector, strengths: &[f64]) -> Result<SteeringVector> {
    let moved = |(head, &strength): (&SteeredHead, &f64)| {
        let sign = if strength < 0.0 { -1.0 } else { 1.0 };
        let direction = head.direction.iter().map(|x| sign * x).collect();
        let sigma = (f64::from(head.sigma) * strength.abs()) as f32;
        SteeredHead { direction, sigma, ..head.clone() }
    };
    let moved = heads.heads().iter().zip(strengths).map(moved).collect();
    SteeringVector::new(heads.n_layer(), heads.n_head(), heads.d_head(), moved)
}

/// A vector whose heads are moved as far as these strengths say at the strength that it is given with.
fn of_strengths(heads: &SteeringVector, strengths: &[f64]) -> Result<(SteeringVector, f64)> {
    let alpha = root_mean_square(strengths);
    let shares: Vec<f64> = strengths.iter().map(|strength| strength / alpha).collect();
    Ok((scaled(heads, &shares)?, alpha))
}

fn root_mean_square(values: &[f64]) -> f64 {
    (values.iter().map(|x| x * x).sum::<f64>() / values.len().max(1) as f64).sqrt()
}

/// Adam's step sizes (Kingma and Ba, 2015).
struct Adam {
    mean: Vec<f64>,
    square: Vec<f64>,
    n_step: i32,
}

impl Adam {
    const KEEP: [f64; 2] = [0.8, 0.95];

    fn new(n: usize) -> Self {
        Self { mean: vec![0.0; n], square: vec![0.0; n], n_step: 0 }
    }

    /// Moves `values` against the slope, each by about `rate`.
    fn step(&mut self, values: &mut [f64], slope: &[f64], rate: f64) {
        self.n_step += 1;
        let [keep, keep_square] = Self::KEEP;
        let [whole, whole_square] = Self::KEEP.map(|keep| 1.0 - keep.powi(self.n_step));
        let state = self.mean.iter_mut().zip(&mut self.square);
        for ((value, slope), (mean, square)) in values.iter_mut().zip(slope).zip(state) {
            *mean = keep * *mean + (1.0 - keep) * slope;
            *square = keep_square * *square + (1.0 - keep_square) * slope * slope;
            let size = (*square / whole_square).sqrt() + 1e-12;
            *value -= rate * *mean / whole / size;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_question_comes_once_before_any_comes_again() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let train: Vec<usize> = (10..17).collect();
        let mut queue = Vec::new();
        let mut seen: Vec<usize> = Vec::new();
        for _ in 0..7 {
            let batch = next_batch(&mut queue, &train, 3, &mut rng);
            assert!(batch.len() == 3 && batch[0] != batch[1] && batch[1] != batch[2], "{batch:?}");
            seen.extend(batch);
        }
        for i in train {
            assert_eq!(seen.iter().filter(|&&j| j == i).count(), 3);
        }
        assert_eq!(next_batch(&mut Vec::new(), &[1, 2], 9, &mut rng).len(), 2);
    }

    #[test]
    fn adam_goes_downhill() {
        let mut values = [3.0, -2.0];
        let mut adam = Adam::new(2);
        for step in 0..200 {
            let slope = [2.0 * (values[0] - 1.0), 20.0 * (values[1] - 0.5)];
            adam.step(&mut values, &slope, 0.1 * (1.0 - f64::from(step) / 200.0));
        }
        assert!((values[0] - 1.0).abs() < 0.05 && (values[1] - 0.5).abs() < 0.05, "{values:?}");
    }
}
