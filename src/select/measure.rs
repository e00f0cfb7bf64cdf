//! Every head moved by itself, on development questions and documents.

use std::collections::BTreeSet;

use super::journal::Item;
use super::{HeadEffect, Journal, Parts, SelectParams};
use crate::data::{PromptForm, Question};
use crate::eval::{Evaluator, Trials};
use crate::probe::Activations;
use crate::steer::{Development, DirectionKind, Selection, SteeringVector};
use crate::{Error, Result, Site, Special};

/// What to try heads on. Nothing else of the data is looked at: give development questions and
/// documents only.
#[derive(Debug, Clone)]
pub struct Trial<'a> {
    /// Questions with true and false answers; those without both are passed over.
    pub questions: Vec<&'a Question>,
    /// How they are asked.
    pub form: &'a PromptForm,
    /// Text before every question; may be empty.
    pub preamble: &'a str,
    /// Documents that ask nothing.
    pub documents: &'a [&'a str],
    /// Kind of directions.
    pub direction: DirectionKind,
    /// How much to measure.
    pub params: SelectParams,
}

/// Work done and to do, in heads tried on a question or document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Tried so far.
    pub n_done: usize,
    /// To be tried in all.
    pub n_all: usize,
}

/// Measures what the heads of a model cause, on each question with directions that come from others
/// ([`Parts`]). The result has one entry for each candidate, ordered
/// by site; heads without a direction are none. `on_step` is called as the work goes on and may end it
/// by an error: what the journal holds then is not measured again.
///
/// # Errors
/// [`Error::Invalid`] where no question has true and false answers or there is no document; what
/// making directions, and what [`Trials`] give.
pub fn measure(
    evaluator: &mut Evaluator,
    development: &Development,
    source: &impl Activations,
    trial: &Trial,
    journal: &mut Journal,
    on_step: impl FnMut(Step) -> Result<()>,
) -> Result<Vec<HeadEffect>> {
    measure_in("", evaluator, development, source, trial, journal, on_step)
}

/// As [`measure`]; `scope` is what names in the journal begin with.
pub(super) fn measure_in(
    scope: &str,
    evaluator: &mut Evaluator,
    development: &Development,
    source: &impl Activations,
    trial: &Trial,
    journal: &mut Journal,
    mut on_step: impl FnMut(Step) -> Result<()>,
) -> Result<Vec<HeadEffect>> {
    let SelectParams { n_candidate, n_screen, n_leader, n_full, .. } = trial.params;
    let questions = trial.two_sided()?;
    if trial.documents.is_empty() {
        return Err(Error::invalid("neutral documents", "there are none"));
    }
    // A head without a direction cannot be moved along it.
    let mut sites = development.with_direction(source, trial.direction)?;
    let parts = Parts::redirect(development, source, trial)?;
    let fitted: Vec<&Development> =
        parts.list().iter().filter_map(|part| part.fitted.as_ref()).collect();
    for fitted in &fitted {
        let has_one = fitted.with_direction(source, trial.direction)?;
        sites.retain(|site| has_one.contains(site));
    }
    sites.truncate(n_candidate.unwrap_or(usize::MAX));
    sites.sort_unstable();
    let alone = |of: &Development| -> Result<Vec<SteeringVector>> {
        let vector = |&site: &Site| of.ranked(&[site])?.vector(source, 1, trial.direction);
        sites.iter().map(vector).collect()
    };
    // Documents have no answers: what a head costs is measured with its final direction.
    let mut vectors = vec![alone(development)?];
    for fitted in fitted {
        vectors.push(alone(fitted)?);
    }
    let set_of = |place: usize| {
        let part = parts.list().iter().position(|part| part.held.contains(&place));
        part.map_or(0, |part| part + 1)
    };
    let mut work = Work {
        scope,
        vectors: &vectors,
        set_of: questions.iter().map(|&place| set_of(place)).collect(),
        sites: &sites,
        trial,
        questions: &questions,
        journal,
    };
    let full = [spread(questions.len(), n_full[0]), spread(trial.documents.len(), n_full[1])];
    // The screen is a part of the full measurement, so that none of it is measured twice.
    let screen = [thin(&full[0], n_screen[0]), thin(&full[1], n_screen[1])];
    let items = |[questions, documents]: &[Vec<usize>; 2]| -> Vec<Item> {
        let questions = questions.iter().map(|&i| Item::Question(i));
        questions.chain(documents.iter().map(|&i| Item::Document(i))).collect()
    };
    let (screen, full) = (items(&screen), items(&full));
    let all: Vec<usize> = (0..sites.len()).collect();
    let n_more = full.len().saturating_sub(screen.len());
    let mut step =
        Step { n_done: 0, n_all: all.len() * screen.len() + all.len().min(2 * n_leader) * n_more };
    work.run_all(evaluator, (&screen, &all), &mut step, &mut on_step)?;
    let screened = work.results(&all, &screen);
    let leaders = leaders(&screened, n_leader);
    step.n_all = all.len() * screen.len() + leaders.len() * n_more;
    let more: Vec<Item> = full.iter().filter(|item| !screen.contains(item)).copied().collect();
    work.run_all(evaluator, (&more, &leaders), &mut step, &mut on_step)?;
    let mut results = screened;
    for (&i, result) in leaders.iter().zip(work.results(&leaders, &full)) {
        results[i] = result;
    }
    Ok(results)
}

impl<'a> Trial<'a> {
    /// The questions that have both true and false answers, by their places.
    pub(super) fn two_sided(&self) -> Result<Vec<usize>> {
        let places = 0..self.questions.len();
        let questions: Vec<usize> =
            places.filter(|&place| self.questions[place].is_two_sided()).collect();
        if questions.is_empty() {
            let problem = "none has both true and false answers: take data that has such";
            return Err(Error::invalid("questions", problem));
        }
        Ok(questions)
    }

    /// About how many tokens [`measure`] computes for `n_head` heads.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an answer without tokens.
    pub fn n_token(&self, evaluator: &Evaluator, n_head: usize) -> Result<usize> {
        let SelectParams { n_screen, n_full, n_leader, .. } = self.params;
        let mut per_question = 0;
        for question in &self.questions {
            per_question += evaluator.n_answer_token(question, self.form, self.preamble)?;
        }
        let mut per_document = 0;
        for document in self.documents {
            per_document += evaluator.model().tokenize(document, Special::Start)?.len();
        }
        // A sum over all of them, to that over some.
        let part = |sum: usize, n_all: usize, n: usize| sum * n.min(n_all) / n_all.max(1);
        let n_token = |[questions, documents]: [usize; 2]| {
            part(per_question, self.questions.len(), questions)
                + part(per_document, self.documents.len(), documents)
        };
        let (screen, full) = (n_token(n_screen), n_token(n_full));
        Ok(n_head * screen + n_head.min(2 * n_leader) * full.saturating_sub(screen))
    }
}

struct Work<'a> {
    /// What names in the journal begin with.
    scope: &'a str,
    /// By set, of all heads: those for documents, then those of each part.
    vectors: &'a [Vec<SteeringVector>],
    /// The set of each question.
    set_of: Vec<usize>,
    sites: &'a [Site],
    trial: &'a Trial<'a>,
    /// Places in the trial's questions.
    questions: &'a [usize],
    journal: &'a mut Journal,
}

impl Work<'_> {
    /// Tries the heads `which` on all these items, set by set.
    fn run_all(
        &mut self,
        evaluator: &mut Evaluator,
        (items, which): (&[Item], &[usize]),
        step: &mut Step,
        on_step: &mut impl FnMut(Step) -> Result<()>,
    ) -> Result<()> {
        let vectors = self.vectors;
        for (set, vectors) in vectors.iter().enumerate() {
            let of_set: Vec<Item> =
                items.iter().copied().filter(|&item| self.set(item) == set).collect();
            if of_set.is_empty() {
                continue;
            }
            let mut trials = Trials::new(&mut *evaluator, vectors, self.trial.params.alpha)?;
            for item in of_set {
                self.run(item, (&mut trials, which), step, on_step)?;
            }
        }
        Ok(())
    }

    fn set(&self, item: Item) -> usize {
        match item {
            Item::Question(i) => self.set_of[i],
            Item::Document(_) => 0,
        }
    }

    fn name(&self, item: Item, site: Site) -> String {
        format!("{}{}", self.scope, item.of(site))
    }

    /// Tries the heads `which` on one item, those that the journal knows left out.
    fn run(
        &mut self,
        item: Item,
        (trials, which): (&mut Trials, &[usize]),
        step: &mut Step,
        on_step: &mut impl FnMut(Step) -> Result<()>,
    ) -> Result<()> {
        let unknown: Vec<usize> = which
            .iter()
            .copied()
            .filter(|&i| {
                let known = self.journal.get(&self.name(item, self.sites[i]));
                known.is_none_or(|(value, _)| value.is_none())
            })
            .collect();
        // Kept every few dozen heads: a large model takes minutes for one question.
        for part in unknown.chunks(64) {
            let (values, n) = match item {
                Item::Question(i) => {
                    let Trial { form, preamble, ref questions, .. } = *self.trial;
                    let question = questions[self.questions[i]];
                    (trials.effects(part, question, form, preamble)?.shifts, 1)
                }
                Item::Document(i) => {
                    let cost = trials.costs(part, self.trial.documents[i])?;
                    (cost.sums, cost.n_token)
                }
            };
            let results = part.iter().zip(values).map(|(&i, value)| {
                (self.name(item, self.sites[i]), (value.is_finite().then_some(value), n))
            });
            let results: Vec<_> = results.collect();
            self.journal.put(results)?;
            step.n_done += part.len();
            on_step(*step)?;
        }
        step.n_done += which.len() - unknown.len();
        on_step(*step)
    }

    /// What was measured of these heads on these items.
    fn results(&self, which: &[usize], items: &[Item]) -> Vec<HeadEffect> {
        let result = |&i: &usize| {
            let site = self.sites[i];
            // Sum and number: of questions, and of tokens.
            let (mut effect, mut cost) = ((0.0, 0), (0.0, 0));
            for &item in items {
                let name = self.name(item, site);
                let Some(&(value, n)) = self.journal.get(&name) else { continue };
                let value = value.unwrap_or(f64::NAN);
                let sum = match item {
                    Item::Question(_) => &mut effect,
                    Item::Document(_) => &mut cost,
                };
                *sum = (sum.0 + value, sum.1 + n);
            }
            HeadEffect {
                site,
                effect: effect.0 / effect.1 as f64,
                cost: cost.0 / cost.1 as f64,
                n_question: effect.1,
            }
        };
        which.iter().map(result).collect()
    }
}

/// The `n` best by effect and the `n` best by causal score, as indices in ascending order.
fn leaders(heads: &[HeadEffect], n: usize) -> Vec<usize> {
    let mut leaders = BTreeSet::new();
    for by in [Selection::Effect, Selection::Causal] {
        let mut order: Vec<usize> = (0..heads.len()).collect();
        order.sort_by(|&a, &b| heads[b].score(by).total_cmp(&heads[a].score(by)));
        leaders.extend(order.into_iter().take(n));
    }
    leaders.into_iter().collect()
}

/// `n` of `0..n_all`, evenly spaced, or all.
fn spread(n_all: usize, n: usize) -> Vec<usize> {
    let n = n.clamp(1, n_all);
    (0..n).map(|i| (2 * i + 1) * n_all / (2 * n)).collect()
}

fn thin(of: &[usize], n: usize) -> Vec<usize> {
    spread(of.len(), n).into_iter().map(|i| of[i]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_evenly_and_without_repeats() {
        assert_eq!(spread(10, 2), [2, 7]);
        assert_eq!(spread(3, 80), [0, 1, 2]);
        assert_eq!(thin(&spread(161, 80), 12).len(), 12);
        for n in 1..=161 {
            let picked = spread(161, n);
            assert!(picked.len() == n && picked.is_sorted_by(|a, b| a < b) && picked[n - 1] < 161);
        }
    }

    #[test]
    fn leads_by_either_score() {
        let head = |head, effect, cost| HeadEffect {
            site: Site::new(0, head),
            effect,
            cost,
            n_question: 12,
        };
        let heads = [head(0, 9.0, 100.0), head(1, 0.1, 0.0), head(2, 0.2, 9.0), head(3, -1.0, 0.0)];
        assert_eq!(leaders(&heads, 1), [0, 1]);
    }
}
