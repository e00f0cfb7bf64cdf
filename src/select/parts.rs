//! Development questions dealt into a few parts, so that nothing is tried on what it was fitted to.
//!
//! Directions that were fitted to a question's answers do better on it than on others, the more so the
//! more heads they steer and the fewer questions there are; who chooses there, chooses that. So each
//! part is tried with directions (and, where K and α are chosen, heads) that come from the questions of
//! the other parts. All parts together are all questions, each tried as often as before: what it costs
//! besides is fitting probes once more for each part, and, where heads are chosen by what they cause,
//! that choice on a share of the questions.

use super::{Journal, Step, Trial, ranking_in};
use crate::data::{firsts, split};
use crate::eval::{Evaluator, N_CHUNK};
use crate::probe::Activations;
use crate::steer::{Development, DirectionKind, Selection, SteeringVector};
use crate::{Error, Result, Site};

/// The parts of the development questions; none where there is nothing to choose.
#[derive(Debug, Clone, Default)]
pub struct Parts(Vec<Part>);

/// One part, and what the others say.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// The questions that are tried, as places in [`Trial::questions`].
    pub(crate) held: Vec<usize>,
    /// Heads that were fitted to the questions of the other parts; `None` where none of them is to be
    /// steered.
    pub(crate) fitted: Option<Development>,
}

/// In how many parts so many questions are dealt.
pub(super) fn n_part(n_question: usize, wanted: usize) -> usize {
    wanted.min(n_question).max(2)
}

/// Chunks in which so many questions are scored, part by part.
pub(crate) fn n_chunk(n_question: usize, wanted: usize) -> usize {
    let n_part = n_part(n_question, wanted);
    let size = |part: usize| n_question / n_part + usize::from(part < n_question % n_part);
    (0..n_part).map(|part| size(part).div_ceil(N_CHUNK)).sum()
}

/// Deals the questions with true and false answers: places in [`Trial::questions`].
fn deal(development: &Development, trial: &Trial) -> Result<Vec<Vec<usize>>> {
    let (n_fitted, n_tried) = (development.questions().len(), trial.questions.len());
    if n_fitted != n_tried {
        let problem = format!("there are {n_tried}, and heads were fitted to {n_fitted}");
        return Err(Error::invalid("questions to try heads on", problem));
    }
    let usable = trial.two_sided()?;
    if usable.len() < 2 {
        let problem = "only one has true and false answers, and what is tried on it has to come from \
                       others: take more, or give heads and strength yourself";
        return Err(Error::invalid("questions", problem));
    }
    let units = firsts(usable.iter().map(|&i| trial.questions[i]));
    let n_part = n_part(split::distinct(&units).len(), trial.params.n_part);
    let parts = split::folds_of(&units, n_part, Some(development.params().seed))?;
    let places = |part: Vec<usize>| part.into_iter().map(|i| usable[i]).collect();
    Ok(parts.into_iter().map(places).collect())
}

/// The questions that are not held, as groups of the activations.
fn rest(development: &Development, held: &[usize]) -> Vec<usize> {
    let questions = development.questions().iter().enumerate();
    questions.filter(|(place, _)| !held.contains(place)).map(|(_, &group)| group).collect()
}

impl Parts {
    /// Fits the heads anew for each part, to the questions of the others. `on_done` is called after
    /// each head of each part.
    ///
    /// # Errors
    /// [`Error::Invalid`] for fewer than two questions with true and false answers; what
    /// [`Development::fit`] gives.
    pub fn fit(
        development: &Development,
        source: &impl Activations,
        trial: &Trial,
        on_done: impl Fn() + Sync,
    ) -> Result<Self> {
        let part = |held: Vec<usize>| {
            let questions = rest(development, &held);
            let fitted = Development::fit(source, &questions, development.params(), &on_done)?;
            Ok(Part { held, fitted: Some(fitted) })
        };
        deal(development, trial)?.into_iter().map(part).collect::<Result<_>>().map(Self)
    }

    /// The same heads, with directions and sigmas that come from the questions of the other parts:
    /// for what a head of a given place does.
    pub(super) fn redirect(
        development: &Development,
        source: &impl Activations,
        trial: &Trial,
    ) -> Result<Self> {
        if trial.direction == DirectionKind::Probe {
            return Self::fit(development, source, trial, || ());
        }
        let part = |held: Vec<usize>| {
            let fitted = Some(development.on(source, &rest(development, &held)));
            Part { held, fitted }
        };
        Ok(Self(deal(development, trial)?.into_iter().map(part).collect()))
    }

    /// Puts the heads of each part in order by what they cause on questions of the other parts; as
    /// they are for [`Selection::Accuracy`]. A part whose heads all work against the truth there is
    /// tried without steering. As many questions are looked at as [`rank`](super::rank) looks at once.
    ///
    /// # Errors
    /// What [`measure`](super::measure) gives.
    pub fn rank(
        mut self,
        evaluator: &mut Evaluator,
        source: &impl Activations,
        trial: &Trial,
        by: Selection,
        journal: &mut Journal,
        mut on_step: impl FnMut(Step) -> Result<()>,
    ) -> Result<Self> {
        if by == Selection::Accuracy {
            return Ok(self);
        }
        let n_part = self.0.len();
        for number in 0..n_part {
            let sites =
                self.ranking_of(evaluator, source, trial, by, (number, journal), |step| {
                    let n_done = number * step.n_all + step.n_done;
                    on_step(Step { n_done, n_all: n_part * step.n_all })
                })?;
            self.order(number, &sites)?;
        }
        Ok(self)
    }

    /// The heads of one part that may be steered, the best first; none where all work against the
    /// truth.
    pub(crate) fn ranking_of(
        &self,
        evaluator: &mut Evaluator,
        source: &impl Activations,
        trial: &Trial,
        by: Selection,
        (number, journal): (usize, &mut Journal),
        on_step: impl FnMut(Step) -> Result<()>,
    ) -> Result<Vec<Site>> {
        let Part { held, fitted } = &self.0[number];
        let Some(fitted) = fitted else { return Ok(Vec::new()) };
        let questions = trial.questions.iter().enumerate();
        let questions = questions.filter(|(place, _)| !held.contains(place)).map(|(_, q)| *q);
        let share = |[questions, documents]: [usize; 2]| {
            [questions, documents].map(|n| n.div_ceil(self.0.len()))
        };
        let mut inner = Trial { questions: questions.collect(), ..trial.clone() };
        inner.params.n_screen = share(inner.params.n_screen);
        inner.params.n_full = share(inner.params.n_full);
        let scope = format!("part {number}, ");
        ranking_in(&scope, evaluator, fitted, source, &inner, by, journal, on_step)
    }

    /// Keeps the heads of a part that are to be steered, in this order.
    pub(crate) fn order(&mut self, number: usize, sites: &[Site]) -> Result<()> {
        let part = &mut self.0[number];
        part.fitted = match &part.fitted {
            Some(fitted) if !sites.is_empty() => Some(fitted.ranked(sites)?),
            _ => None,
        };
        Ok(())
    }

    /// The vector of the `k` best heads of each part, or of as many as there are.
    pub(crate) fn vectors(
        &self,
        source: &impl Activations,
        k: usize,
        direction: DirectionKind,
    ) -> Result<Vec<Option<SteeringVector>>> {
        let vector = |part: &Part| {
            let fitted = part.fitted.as_ref();
            fitted.map(|f| f.vector(source, k.min(f.scores.len()), direction)).transpose()
        };
        self.0.iter().map(vector).collect()
    }

    pub(crate) fn list(&self) -> &[Part] {
        &self.0
    }
}
