//! Heads fitted on development questions, ready to be made into vectors.

use super::fit::{SigmaRows, fit_vector, random_vector};
use super::{DirectionKind, SteeringVector};
use crate::Result;
use crate::data::split::train_validation;
use crate::probe::{Activations, HeadScore, fit_heads};

/// The heads of a model, probed and ranked on development questions, with the rows that everything
/// else is measured on: nothing of any other question goes into a vector made from it.
#[derive(Debug, Clone)]
pub struct Development {
    /// All heads, the best first.
    pub scores: Vec<HeadScore>,
    /// Labelled rows of the development questions: directions come from them.
    rows: Vec<usize>,
    /// The same questions' rows that go on into another question: sigma comes from them.
    next_rows: Vec<usize>,
    seed: u64,
}

impl Development {
    /// Fits probes on a part of the `questions` (groups of `source`) and ranks the heads by their
    /// accuracy on the rest, `validation_share` of them (0.2 in the paper), drawn by `seed`.
    /// `on_done` is called after each head.
    ///
    /// # Errors
    /// What splitting and fitting give.
    pub fn fit(
        source: &impl Activations,
        questions: &[usize],
        validation_share: f64,
        seed: u64,
        on_done: impl Fn() + Sync,
    ) -> Result<Self> {
        let (train, validation) = train_validation(questions, validation_share, seed)?;
        let (train, validation) =
            (rows_of(source.groups(), &train), rows_of(source.groups(), &validation));
        Ok(Self {
            scores: fit_heads(source, &train, &validation, on_done)?,
            rows: rows_of(source.groups(), questions),
            next_rows: rows_of(source.next_groups(), questions),
            seed,
        })
    }

    /// The vector of the `k` best heads.
    ///
    /// # Errors
    /// What [`fit_vector`] gives.
    pub fn vector(
        &self,
        source: &impl Activations,
        k: usize,
        kind: DirectionKind,
    ) -> Result<SteeringVector> {
        fit_vector(source, &self.scores, k, kind, &self.rows, self.sigma_rows(), self.seed)
    }

    /// The control: random directions in `k` random heads, both drawn by `seed`.
    ///
    /// # Errors
    /// What [`random_vector`] gives.
    pub fn random(&self, source: &impl Activations, k: usize, seed: u64) -> Result<SteeringVector> {
        random_vector(source, &self.scores, k, self.sigma_rows(), seed)
    }

    /// Validation accuracy of every head, layer by layer: `[n_layer * n_head]`.
    #[must_use]
    pub fn accuracies(&self) -> Vec<f32> {
        let mut scores: Vec<&HeadScore> = self.scores.iter().collect();
        scores.sort_by_key(|score| score.site);
        scores.iter().map(|score| score.accuracy).collect()
    }

    fn sigma_rows(&self) -> SigmaRows<'_> {
        if self.next_rows.is_empty() {
            SigmaRows::Main(&self.rows)
        } else {
            SigmaRows::Next(&self.next_rows)
        }
    }
}

/// The rows whose group is one of `questions`, ascending.
fn rows_of(groups: &[usize], questions: &[usize]) -> Vec<usize> {
    let wanted: std::collections::HashSet<usize> = questions.iter().copied().collect();
    (0..groups.len()).filter(|&row| wanted.contains(&groups[row])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Site;
    use crate::probe::Memory;

    #[test]
    fn finds_the_head_that_knows_and_ignores_other_questions() {
        let knowing = Site::new(1, 2);
        let mut source = Memory::random([2, 4, 3], 80, &[knowing]);
        let questions: Vec<usize> = (0..20).collect();
        let fit = |source: &Memory| {
            let fit = Development::fit(source, &questions, 0.2, 3, || ()).expect("sound data");
            (fit.vector(source, 2, DirectionKind::MassMean).expect("a vector"), fit)
        };
        let (before, development) = fit(&source);
        assert_eq!(development.scores[0].site, knowing);
        assert_eq!(development.accuracies().len(), 8);
        // Whatever the other questions hold, nothing of the vector changes.
        for (head, next) in source.heads.iter_mut().zip(&mut source.next_heads) {
            head.slice_mut(ndarray::s![40.., ..]).fill(1e6);
            next.slice_mut(ndarray::s![40.., ..]).fill(-1e6);
        }
        for label in &mut source.labels[40..] {
            *label = !*label;
        }
        assert_eq!(fit(&source).0, before);
    }
}
