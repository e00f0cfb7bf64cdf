//! How many heads, and how far: chosen by trying.

use std::cmp::Reverse;

use serde::{Deserialize, Deserializer, Serialize};

use super::parts;
use super::{Journal, Parts, Trial};
use crate::data::{Question, sha256};
use crate::eval::{Evaluator, N_CHUNK};
use crate::probe::Activations;
use crate::steer::{Development, SteeringVector};
use crate::{Error, Geometry, Result};

/// The pairs of K and α to choose from, and what they may cost.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Grid {
    /// Numbers of heads, ascending or descending.
    pub ks: Vec<usize>,
    /// Strengths, ascending.
    pub alphas: Vec<f32>,
    /// Largest KL per token on neutral prose, in nats.
    pub kl_budget: f64,
}

setters! {
    Grid {
        with_ks(ks: Vec<usize>),
        with_alphas(alphas: Vec<f32>),
        with_kl_budget(kl_budget: f64),
    }
}

impl Grid {
    const ALPHAS: [f32; 9] = [0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 10.0, 15.0];

    /// From a fortieth to a fifth of the heads of such a model, strengths from 0.5 to 15, and a budget of
    /// 0.2 nats per token.
    #[must_use]
    pub fn of(geometry: Geometry) -> Self {
        let n = geometry.n_layer * geometry.n_head;
        let mut ks: Vec<usize> = [40, 20, 13, 10, 7, 5].map(|part| n.div_ceil(part)).to_vec();
        ks.dedup();
        Self { ks, ..Self::default() }
    }
}

impl Default for Grid {
    fn default() -> Self {
        Self { ks: vec![8, 16, 32, 48, 64], alphas: Self::ALPHAS.to_vec(), kl_budget: 0.2 }
    }
}

impl Grid {
    /// Whether there is anything to choose.
    #[must_use]
    pub fn is_choice(&self) -> bool {
        self.ks.len() * self.alphas.len() > 1
    }

    /// Steps of [`choose`] on so many questions with true and false answers, dealt into
    /// [`SelectParams::n_part`](super::SelectParams) parts.
    #[must_use]
    pub fn n_step(&self, n_question: usize, n_part: usize) -> usize {
        if !self.is_choice() {
            return 1;
        }
        let n_chunk = parts::n_chunk(n_question, n_part);
        self.ks.len() * self.alphas.len() * (1 + n_chunk) + n_chunk
    }
}

/// What was chosen on one development half, and what it reached there while it was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct Choice {
    /// Heads.
    pub k: usize,
    /// Strength.
    pub alpha: f32,
    /// MC1 on the development questions, each under a vector of the same K and α that comes from
    /// others. The best of many is too good: what the vector gives stands on questions that nothing
    /// was chosen on. NaN where there was nothing to choose.
    #[serde(deserialize_with = "number")]
    #[cfg_attr(feature = "cli", schemars(with = "Option<f64>"))]
    pub mc1: f64,
    /// The same without steering.
    #[serde(deserialize_with = "number")]
    #[cfg_attr(feature = "cli", schemars(with = "Option<f64>"))]
    pub base: f64,
    /// KL per token on the development documents.
    #[serde(deserialize_with = "number")]
    #[cfg_attr(feature = "cli", schemars(with = "Option<f64>"))]
    pub kl: f64,
}

/// JSON has no NaN: it is written as null.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// Chooses K and α on development questions and documents: of all pairs of the grid that stay
/// within the KL budget the one with the highest MC1, at equal MC1 the one with the lowest KL. Each
/// question is tried with vectors that come from the other `parts`; the documents, which have no
/// answers, with the vector of all questions, which is what comes out. A K above the heads that may
/// be steered is taken as their number. What the journal holds is not measured again. `on_step` is
/// called after each of [`Grid::n_step`] steps and may refuse to go on by an error.
///
/// Not all of the grid is measured, but what comes out is what would come out if it were. KL grows with
/// α, so that the largest strength of each K that is within the budget is found by halving; since that is
/// mostly the best one, these pairs are tried first. A pair is left as soon as it could not come out as
/// the best if all of the questions that it was not yet tried on went right, and its KL is measured only
/// if it gets as far as the best. A strength counts as within the budget only if all smaller ones of the
/// grid are; of the pair that comes out this is measured, and where KL did not grow, it is taken out and
/// the search goes on.
///
/// # Errors
/// What evaluating gives; [`Error::Budget`] where no pair stays within the KL budget.
pub fn choose(
    evaluator: &mut Evaluator,
    (development, parts): (&Development, &Parts),
    source: &impl Activations,
    trial: &Trial,
    grid: &Grid,
    journal: &mut Journal,
    mut on_step: impl FnMut() -> Result<()>,
) -> Result<(SteeringVector, Choice)> {
    let n_question: usize = parts.list().iter().map(|part| part.held.len()).sum();
    let (mut n_done, n_step) = (0, grid.n_step(n_question, trial.params.n_part));
    // Whatever way the search takes, it reports as many steps.
    let mut on_step = |n: usize| {
        let n = n.min(n_step - n_done);
        n_done += n;
        (0..n).try_for_each(|_| on_step())
    };
    let mut lanes: Vec<Lane> = Vec::new();
    for k in grid.ks.iter().map(|&k| k.min(development.scores.len())) {
        // The same once more has nothing to add.
        if lanes.last().is_none_or(|lane| lane.k != k) {
            let vector = development.vector(source, k, trial.direction)?;
            let of_parts = match grid.is_choice() {
                true => parts.vectors(source, k, trial.direction)?,
                false => Vec::new(),
            };
            lanes.push(Lane { k, vector, of_parts, n_within: grid.alphas.len() });
        }
    }
    let mut tuner = Tuner { evaluator, trial, parts, journal, grid, n_question };
    let mut base = f64::NAN;
    if grid.is_choice() {
        let unsteered: Vec<Option<SteeringVector>> = vec![None; parts.list().len()];
        let mc1 = tuner.mc1("unsteered", (&unsteered, 0.0), |_| false, &mut on_step)?;
        base = mc1.unwrap_or(f64::NAN);
    }
    loop {
        for lane in &mut lanes {
            tuner.find_budget(lane, &mut on_step)?;
        }
        let Some(Tried { lane, place, mc1, kl }) = tuner.best(&mut lanes, &mut on_step)? else {
            let problem = "no strength stays within it: try smaller ones".to_owned();
            return Err(Error::Budget { budget: grid.kl_budget, problem });
        };
        let lane = &mut lanes[lane];
        if tuner.is_within_up_to(lane, place, &mut on_step)? {
            on_step(n_step)?;
            let choice = Choice { k: lane.k, alpha: grid.alphas[place], mc1, base, kl };
            return Ok((lane.vector.clone(), choice));
        }
    }
}

/// One number of heads, and the strengths that it may be given.
struct Lane {
    k: usize,
    /// Of all questions: what comes out.
    vector: SteeringVector,
    /// Of the other parts of each.
    of_parts: Vec<Option<SteeringVector>>,
    /// Strengths of the grid before the first that is known to be over the budget.
    n_within: usize,
}

/// A pair, and what it does.
#[derive(Debug, Clone, Copy)]
struct Tried {
    /// Its place among the numbers of heads.
    lane: usize,
    /// Its place among the strengths.
    place: usize,
    mc1: f64,
    kl: f64,
}

impl Tried {
    /// Whether it comes out before another: of two that are alike, the one that stands first in the grid.
    fn is_before(&self, other: &Self) -> bool {
        (self.mc1, -self.kl) > (other.mc1, -other.kl)
            || (self.mc1, self.kl) == (other.mc1, other.kl)
                && (self.lane, self.place) < (other.lane, other.place)
    }
}

/// Measures one pair after the other.
struct Tuner<'a> {
    evaluator: &'a mut Evaluator,
    trial: &'a Trial<'a>,
    parts: &'a Parts,
    journal: &'a mut Journal,
    grid: &'a Grid,
    /// Questions of all parts.
    n_question: usize,
}

impl Tuner<'_> {
    /// Finds the largest strength within the budget, if KL grows with it.
    fn find_budget(
        &mut self,
        lane: &mut Lane,
        on_step: &mut impl FnMut(usize) -> Result<()>,
    ) -> Result<()> {
        let mut low = 0;
        // All before `low` are within it, as far as is known, and the one at `n_within` is over it.
        while low < lane.n_within {
            // The largest first, which mostly is within it.
            let middle = match low == 0 && lane.n_within == self.grid.alphas.len() {
                true => lane.n_within - 1,
                false => low + (lane.n_within - low) / 2,
            };
            match self.is_within(lane, middle, on_step)? {
                true => low = middle + 1,
                false => lane.n_within = middle,
            }
        }
        Ok(())
    }

    /// The best pair, those that are known to be over the budget left out.
    fn best(
        &mut self,
        lanes: &mut [Lane],
        on_step: &mut impl FnMut(usize) -> Result<()>,
    ) -> Result<Option<Tried>> {
        let (mut first, mut rest) = (Vec::new(), Vec::new());
        for (number, lane) in lanes.iter().enumerate() {
            let Some(last) = lane.n_within.checked_sub(1) else { continue };
            first.push((number, last, self.kl(lane, last)?));
            rest.extend((0..last).map(|place| (number, place)));
        }
        if !self.grid.is_choice() {
            let of = |&(lane, place, kl): &_| Tried { lane, place, mc1: f64::NAN, kl };
            return Ok(first.first().map(of));
        }
        first.sort_by(|a, b| b.2.total_cmp(&a.2));
        // The strongest first.
        rest.sort_by_key(|&(lane, place)| Reverse((place, lane)));
        let known = first.into_iter().map(|(lane, place, kl)| (lane, place, Some(kl)));
        let unknown = rest.into_iter().map(|(lane, place)| (lane, place, None));
        let mut best: Option<Tried> = None;
        for (number, place, kl) in known.chain(unknown) {
            // What was found over the budget since.
            if place >= lanes[number].n_within {
                continue;
            }
            let tried = |mc1, kl| Tried { lane: number, place, mc1, kl };
            let hopeless = |at_most: f64| {
                best.is_some_and(|best| match kl {
                    Some(kl) => !tried(at_most, kl).is_before(&best),
                    None => at_most < best.mc1,
                })
            };
            let lane = &lanes[number];
            let (name, alpha) = (self.name(lane, place), self.grid.alphas[place]);
            let Some(mc1) = self.mc1(&name, (&lane.of_parts, alpha), hopeless, on_step)? else {
                continue;
            };
            if !self.is_within(lane, place, on_step)? {
                lanes[number].n_within = place;
                continue;
            }
            let tried = tried(mc1, self.kl(lane, place)?);
            if best.is_none_or(|best| tried.is_before(&best)) {
                best = Some(tried);
            }
        }
        Ok(best)
    }

    /// Whether this strength and all smaller ones are within the budget; the first that is not is kept.
    fn is_within_up_to(
        &mut self,
        lane: &mut Lane,
        place: usize,
        on_step: &mut impl FnMut(usize) -> Result<()>,
    ) -> Result<bool> {
        for smaller in 0..=place.min(lane.n_within) {
            if smaller == lane.n_within || !self.is_within(lane, smaller, on_step)? {
                lane.n_within = smaller;
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn name(&self, lane: &Lane, place: usize) -> String {
        name_of(&lane.vector, self.grid.alphas[place])
    }

    /// Whether a strength is within the budget; what ends as NaN is not.
    fn is_within(
        &mut self,
        lane: &Lane,
        place: usize,
        on_step: &mut impl FnMut(usize) -> Result<()>,
    ) -> Result<bool> {
        let is_new = self.journal.get(&of_documents(&self.name(lane, place))).is_none();
        let kl = self.kl(lane, place)?;
        on_step(usize::from(is_new))?;
        Ok(kl <= self.grid.kl_budget)
    }

    /// KL per token on the documents.
    fn kl(&mut self, lane: &Lane, place: usize) -> Result<f64> {
        let name = of_documents(&self.name(lane, place));
        if let Some((Some(kl), _)) = self.journal.get(&name) {
            return Ok(*kl);
        }
        self.evaluator.steer_with(Some((&lane.vector, self.grid.alphas[place])))?;
        let found = self.evaluator.divergence(self.trial.documents)?;
        self.journal.put([(name, (found.kl.is_finite().then_some(found.kl), found.n_token))])?;
        Ok(found.kl)
    }

    /// Mean MC1 over the questions of all parts, each under its part's vector; `None` where it was left,
    /// because what it can still become at most is `hopeless`.
    fn mc1(
        &mut self,
        name: &str,
        (vectors, alpha): (&[Option<SteeringVector>], f32),
        hopeless: impl Fn(f64) -> bool,
        on_step: &mut impl FnMut(usize) -> Result<()>,
    ) -> Result<Option<f64>> {
        let Trial { form, preamble, .. } = self.trial;
        let name_of_question = |i: usize| format!("{name} question {i}");
        let parts = self.parts.list();
        let n_chunk: usize = parts.iter().map(|part| part.held.len().div_ceil(N_CHUNK)).sum();
        let (mut sum, mut n, mut n_done) = (0.0, 0, 0);
        for (part, vector) in parts.iter().zip(vectors) {
            self.evaluator.steer_with(vector.as_ref().map(|vector| (vector, alpha)))?;
            for chunk in part.held.chunks(N_CHUNK) {
                let is_missing = |i: &usize| {
                    let known = self.journal.get(&name_of_question(*i));
                    known.is_none_or(|(mc1, _)| mc1.is_none())
                };
                let missing: Vec<usize> = chunk.iter().copied().filter(is_missing).collect();
                if !missing.is_empty() {
                    // Only MC1 is asked for.
                    let questions: Vec<Question> =
                        missing.iter().map(|&i| self.trial.questions[i].deciding()).collect();
                    let questions: Vec<&Question> = questions.iter().collect();
                    let scores = self.evaluator.score_answers(&questions, form, preamble)?;
                    let scored = missing.iter().zip(scores);
                    let results =
                        scored.map(|(&i, score)| (name_of_question(i), (Some(score.mc().mc1), 1)));
                    self.journal.put(results.collect::<Vec<_>>())?;
                }
                sum += chunk
                    .iter()
                    .filter_map(|&i| self.journal.get(&name_of_question(i))?.0)
                    .sum::<f64>();
                n += chunk.len();
                n_done += 1;
                on_step(1)?;
                // A question counts 0 or 1, so that this sum is exact.
                let at_most = (sum + (self.n_question - n) as f64) / self.n_question as f64;
                if hopeless(at_most) {
                    on_step(n_chunk - n_done)?;
                    return Ok(None);
                }
            }
        }
        Ok(Some(sum / n as f64))
    }
}

/// What journals know a pair's KL by.
fn of_documents(name: &str) -> String {
    format!("{name} documents")
}

/// What journals know a pair by: its heads and α. All else is a journal's identity.
fn name_of(vector: &SteeringVector, alpha: f32) -> String {
    let heads: Vec<String> = vector.heads().iter().map(|head| head.site.to_string()).collect();
    let digest = sha256(heads.join(" ").as_bytes());
    format!("{} heads {} alpha {alpha}", heads.len(), &digest[..12])
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::data::{Dataset, PromptForm};
    use crate::probe::Memory;
    use crate::select::SelectParams;
    use crate::steer::{DirectionKind, FitParams};
    use crate::{Model, ModelParams};

    /// The same without leaving anything out.
    fn exhaustively(
        evaluator: &mut Evaluator,
        (development, parts): (&Development, &Parts),
        source: &Memory,
        trial: &Trial,
        grid: &Grid,
    ) -> Option<Choice> {
        let mut mc1 = |vectors: &[Option<SteeringVector>], alpha: f32| {
            let mut sum = 0.0;
            for (part, vector) in parts.list().iter().zip(vectors) {
                evaluator.steer_with(vector.as_ref().map(|vector| (vector, alpha))).unwrap();
                // In the same batches: other ones round otherwise.
                for places in part.held.chunks(N_CHUNK) {
                    let questions: Vec<Question> =
                        places.iter().map(|&i| trial.questions[i].deciding()).collect();
                    let questions: Vec<&Question> = questions.iter().collect();
                    let scores = evaluator.score_answers(&questions, trial.form, "").unwrap();
                    sum += scores.iter().map(|score| score.mc().mc1).sum::<f64>();
                }
            }
            sum / trial.questions.len() as f64
        };
        let base = mc1(&vec![None; parts.list().len()], 0.0);
        let mut found: Vec<Choice> = Vec::new();
        for &k in &grid.ks {
            let vectors = parts.vectors(source, k, trial.direction).unwrap();
            for &alpha in &grid.alphas {
                let mc1 = mc1(&vectors, alpha);
                found.push(Choice { k, alpha, mc1, base, kl: f64::NAN });
            }
        }
        let mut within: Vec<Choice> = Vec::new();
        for &k in &grid.ks {
            let vector = development.vector(source, k, trial.direction).unwrap();
            for choice in found.iter().filter(|choice| choice.k == k) {
                evaluator.steer_with(Some((&vector, choice.alpha))).unwrap();
                let kl = evaluator.divergence(trial.documents).unwrap().kl;
                if kl.is_nan() || kl > grid.kl_budget {
                    break;
                }
                within.push(Choice { kl, ..*choice });
            }
        }
        let better = |best: Choice, of: Choice| {
            if (of.mc1, -of.kl) > (best.mc1, -best.kl) { of } else { best }
        };
        within.into_iter().reduce(better)
    }

    #[test]
    fn what_is_left_early_would_not_have_been_chosen() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        let params = ModelParams { n_gpu_layers: Some(0), ..ModelParams::default() };
        let model = Model::load(&root.join("demo.gguf"), &params).unwrap();
        let data = Dataset::open(&root.join("demo-questions.csv")).unwrap().limited(40);
        let stories = std::fs::read_to_string(root.join("demo-neutral.txt")).unwrap();
        let documents: Vec<&str> = stories.lines().take(2).collect();
        let form = PromptForm::default_for(data.kind);
        let mut evaluator = Evaluator::new(&model, 128, Some(1)).unwrap();
        let geometry = model.geometry();
        let shape = [geometry.n_layer, geometry.n_head, geometry.d_head];
        let mut bests = Vec::new();
        for (seed, kl_budget) in [(0, 0.3), (1, 2.0), (2, 1e-9)] {
            // Directions in noise: some pairs do well by luck, some harm.
            let source = Memory::random(shape, 80, &[]);
            let questions: Vec<usize> = (0..40).collect();
            let fit = FitParams { seed, ..FitParams::default() };
            let development = Development::fit(&source, &questions, &fit, || ()).unwrap();
            let trial = Trial {
                questions: data.questions.iter().collect(),
                form: &form,
                preamble: "",
                documents: &documents,
                direction: DirectionKind::MassMean,
                params: SelectParams::default(),
            };
            let parts = Parts::fit(&development, &source, &trial, || ()).unwrap();
            let grid = Grid::default()
                .with_ks(vec![2, 8, 20])
                .with_alphas(vec![0.01, 4.0, 12.0])
                .with_kl_budget(kl_budget);
            let mut n_step = 0;
            let of = (&development, &parts);
            let chosen = choose(
                &mut evaluator,
                of,
                &source,
                &trial,
                &grid,
                &mut Journal::in_memory(),
                || {
                    n_step += 1;
                    Ok(())
                },
            );
            let expected = exhaustively(&mut evaluator, of, &source, &trial, &grid);
            bests.push(expected);
            match (chosen, expected) {
                (Ok((vector, choice)), Some(expected)) => {
                    assert_eq!(choice, expected);
                    let of_all = development.vector(&source, choice.k, trial.direction).unwrap();
                    assert_eq!(vector, of_all);
                    assert_eq!(n_step, grid.n_step(40, trial.params.n_part));
                }
                (Err(Error::Budget { .. }), None) => {}
                (chosen, expected) => panic!("{:?} {expected:?}", chosen.map(|of| of.1)),
            }
        }
        // Not always the one that is tried first, or the last.
        assert!(bests.iter().flatten().any(|best| best.mc1 > best.base), "{bests:?}");
    }
}
