//! What the best of many heads is worth: beside always giving the more frequent label, and beside the
//! best of as many heads where the labels are shuffled.
//!
//! Probes that know nothing differ by luck, and the luckiest of hundreds looks as if it knew something.
//! So the labels of the validation rows are shuffled many times, and each time the best accuracy of all
//! heads is taken: the permutation distribution of the maximum. The probes were not fitted to those
//! rows, so nothing has to be fitted again, and what heads have in common counts as it should. Labels
//! are shuffled among the answers of each question, repeats of it alike; questions whose answers all have
//! one label, such as statements, exchange it among themselves, all that belong together and share it at
//! once ([`firsts`](crate::data::firsts)).
//!
//! The test is exact where the labels of a question's answers could as well have been dealt otherwise,
//! for all that the model sees. An order of the answers is nothing that it sees.

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Activations, HeadScore, check_rows};
use crate::Result;

/// Shuffles: the 95 % quantile of the maximum then stands within about one standard error of a
/// percentile.
const N_SHUFFLE: usize = 1000;

/// The share of shuffles that may reach what the best head does, if it is to count as more than luck.
const LEVEL: f64 = 0.05;

/// How well the best head reads the labels, and what that is worth.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct Chance {
    /// Accuracy of the best head on the validation rows, 0 to 1.
    pub best: f64,
    /// The share of these rows that always giving the more frequent label gets right.
    pub majority: f64,
    /// What the best of all heads reaches with shuffled labels in one shuffle of twenty.
    pub shuffled: f64,
    /// The share of shuffles in which the best of all heads reaches what it reaches with the labels as
    /// they are, that one counted.
    pub p: f64,
    /// Heads that the best is the best of.
    pub n_head: usize,
    /// Validation rows.
    pub n_row: usize,
    /// Questions that they belong to, each counted once.
    pub n_question: usize,
}

impl Chance {
    /// Whether some head reads the labels: better than the best of as many does by luck, but in one
    /// case of twenty.
    #[must_use]
    pub fn is_above(&self) -> bool {
        self.p <= LEVEL
    }
}

/// Compares the best of these heads with chance, on rows that they were not fitted to.
///
/// # Errors
/// [`Error::Invalid`](crate::Error::Invalid) for rows that are not there, or none.
pub(crate) fn chance(
    source: &impl Activations,
    scores: &[HeadScore],
    rows: &[usize],
    seed: u64,
) -> Result<Chance> {
    check_rows("validation rows", rows, source.labels().len())?;
    let labels: Vec<bool> = rows.iter().map(|&row| source.labels()[row]).collect();
    let groups: Vec<usize> = rows.iter().map(|&row| source.groups()[row]).collect();
    let units: Vec<usize> = groups.iter().map(|&group| source.first_of(group)).collect();
    let says: Vec<Vec<u64>> = scores
        .par_iter()
        .map(|score| {
            let outputs = source.head(score.site, rows);
            bits(outputs.rows().into_iter().map(|x| score.probe.log_odds(x) > 0.0))
        })
        .collect();
    let most = |labels: &[bool]| {
        let labels = bits(labels.iter().copied());
        let n_wrong = |says: &Vec<u64>| -> u32 {
            says.iter().zip(&labels).map(|(a, b)| (a ^ b).count_ones()).sum()
        };
        rows.len() - says.iter().map(n_wrong).min().unwrap_or(0) as usize
    };
    let best = most(&labels);
    let shuffler = Shuffler::new(&groups, &units, &labels);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut shuffled = labels.clone();
    let mut reached: Vec<usize> = (0..N_SHUFFLE)
        .map(|_| {
            shuffler.shuffle(&mut shuffled, &mut rng);
            most(&shuffled)
        })
        .collect();
    reached.sort_unstable();
    let n_as_good = reached.iter().filter(|&&n| n >= best).count();
    let n_true = labels.iter().filter(|&&label| label).count();
    let share = |n: usize| n as f64 / rows.len() as f64;
    let mut questions = units;
    questions.sort_unstable();
    questions.dedup();
    Ok(Chance {
        best: share(best),
        majority: share(n_true.max(rows.len() - n_true)),
        shuffled: share(reached[(N_SHUFFLE as f64 * (1.0 - LEVEL)) as usize]),
        p: (1 + n_as_good) as f64 / (1 + N_SHUFFLE) as f64,
        n_head: scores.len(),
        n_row: rows.len(),
        n_question: questions.len(),
    })
}

fn bits(values: impl Iterator<Item = bool>) -> Vec<u64> {
    let mut bits = Vec::new();
    for (i, value) in values.enumerate() {
        if i % 64 == 0 {
            bits.push(0);
        }
        bits[i / 64] |= u64::from(value) << (i % 64);
    }
    bits
}

/// Which rows exchange their labels.
struct Shuffler {
    /// Rows of each question that has both labels, with those of its repeats that have as many: they
    /// are shuffled alike, since what is read of the one is read of the other.
    within: Vec<Vec<Vec<usize>>>,
    /// Rows of each question that has one, and of its repeats that have the same.
    whole: Vec<Vec<usize>>,
}

impl Shuffler {
    /// `units`: of each row's question the first that asks the same.
    fn new(groups: &[usize], units: &[usize], labels: &[bool]) -> Self {
        let mut questions: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (row, &group) in groups.iter().enumerate() {
            questions.entry(group).or_default().push(row);
        }
        let mut within: BTreeMap<(usize, usize), Vec<Vec<usize>>> = BTreeMap::new();
        let mut whole: BTreeMap<(usize, bool), Vec<usize>> = BTreeMap::new();
        for rows in questions.into_values() {
            let (unit, first) = (units[rows[0]], labels[rows[0]]);
            if rows.iter().any(|&row| labels[row] != first) {
                within.entry((unit, rows.len())).or_default().push(rows);
            } else {
                whole.entry((unit, first)).or_default().extend(rows);
            }
        }
        let mut within: Vec<Vec<Vec<usize>>> = within.into_values().collect();
        for same in &mut within {
            let places = |rows: &[usize]| rows.iter().map(|&row| labels[row]).collect::<Vec<_>>();
            if same.iter().any(|rows| places(rows) != places(&same[0])) {
                // The answers stand in another order: what is true of the one is true of the other.
                same.iter_mut().for_each(|rows| rows.sort_by_key(|&row| !labels[row]));
            }
        }
        Self { within, whole: whole.into_values().collect() }
    }

    fn shuffle(&self, labels: &mut [bool], rng: &mut ChaCha8Rng) {
        for same in &self.within {
            let mut order: Vec<usize> = (0..same[0].len()).collect();
            order.shuffle(rng);
            for rows in same {
                let own: Vec<bool> = order.iter().map(|&place| labels[rows[place]]).collect();
                rows.iter().zip(own).for_each(|(&row, label)| labels[row] = label);
            }
        }
        let mut own: Vec<bool> = self.whole.iter().map(|rows| labels[rows[0]]).collect();
        own.shuffle(rng);
        for (rows, label) in self.whole.iter().zip(own) {
            rows.iter().for_each(|&row| labels[row] = label);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Site;
    use crate::probe::{Memory, fit_heads};

    fn chance_of(source: &Memory) -> Chance {
        let n = source.labels.len();
        let (train, validation): (Vec<usize>, Vec<usize>) = (0..n).partition(|row| row % 10 < 6);
        let scores = fit_heads(source, &train, &validation, || ()).unwrap();
        let found = chance(source, &scores, &validation, 1).unwrap();
        assert!(
            (found.best - f64::from(scores[0].accuracy)).abs() < 1e-6,
            "the best of the ranking"
        );
        assert_eq!((found.n_head, found.n_row), (scores.len(), validation.len()));
        found
    }

    #[test]
    fn a_head_that_knows_is_above_and_luck_is_not() {
        let knowing = chance_of(&Memory::random([4, 8, 6], 300, &[Site::new(1, 2)]));
        assert!(knowing.is_above() && knowing.best > knowing.shuffled, "{knowing:?}");
        assert!((0.5..0.6).contains(&knowing.majority), "{knowing:?}");
        // The best of many looks better than the majority, and is not.
        let lucky = chance_of(&Memory::random([4, 8, 6], 300, &[]));
        assert!(lucky.best > lucky.majority && !lucky.is_above(), "{lucky:?}");
    }

    /// Without any signal one set of twenty counts as signal.
    #[test]
    fn luck_passes_as_rarely_as_it_should() {
        let n_above = (0..100u64)
            .filter(|&seed| {
                let mut source = Memory::random([2, 6, 4], 120, &[]);
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                source.labels.shuffle(&mut rng);
                source.groups = (0..120).collect();
                chance_of(&source).is_above()
            })
            .count();
        assert!((1..=12).contains(&n_above), "{n_above} of 100");
    }

    #[test]
    fn labels_stay_with_their_questions() {
        // Two questions of both labels, and four statements of several rows each.
        let groups = [0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 5];
        let labels = [true, false, false, true, false, true, true, false, false, true, false];
        let shuffler = Shuffler::new(&groups, &groups, &labels);
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let mut shuffled = labels;
            shuffler.shuffle(&mut shuffled, &mut rng);
            let n_true =
                |rows: std::ops::Range<usize>| shuffled[rows].iter().filter(|&&l| l).count();
            assert_eq!((n_true(0..3), n_true(3..5)), (1, 1));
            assert!(shuffled[5] == shuffled[6] && shuffled[7] == shuffled[8]);
            let whole = [5, 7, 9, 10].iter().filter(|&&row| shuffled[row]).count();
            assert_eq!(whole, 2);
            seen.insert(shuffled);
        }
        assert_eq!(seen.len(), 3 * 2 * 6, "every way to deal the labels comes up");
    }

    #[test]
    fn a_question_in_other_words_is_shuffled_alike_whatever_the_order_of_its_answers() {
        let groups = [0, 0, 1, 1, 2, 2];
        let labels = [true, false, false, true, true, false];
        let shuffler = Shuffler::new(&groups, &[0, 0, 0, 0, 2, 2], &labels);
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let mut shuffled = labels;
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..50 {
            shuffler.shuffle(&mut shuffled, &mut rng);
            assert_eq!((shuffled[0], shuffled[1]), (shuffled[3], shuffled[2]));
            seen.insert(shuffled);
        }
        assert_eq!(seen.len(), 4);
    }

    #[test]
    fn a_question_and_its_repeat_are_shuffled_alike() {
        // A question, a statement, and both of them again.
        let groups = [0, 0, 0, 1, 2, 3, 3, 3, 4];
        let units = [0, 0, 0, 1, 2, 0, 0, 0, 1];
        let labels = [true, false, false, true, false, true, false, false, true];
        let shuffler = Shuffler::new(&groups, &units, &labels);
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..100 {
            let mut shuffled = labels;
            shuffler.shuffle(&mut shuffled, &mut rng);
            assert_eq!(shuffled[..3], shuffled[5..8]);
            assert!(shuffled[3] == shuffled[8] && shuffled[3] != shuffled[2 + 2]);
            seen.insert(shuffled);
        }
        assert_eq!(seen.len(), 3 * 2);
    }
}
