//! What is probed: questions by task, and which of them probes are fitted to.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use serde_json::Value;

use crate::data::{Dataset, Question};
use crate::file::{DATA_MAX, text_up_to};
use crate::{Error, Result};

/// The fewest questions of a task that are probed.
pub(super) const N_MIN: usize = 16;
/// The most answers that the questions of a task may have among them.
const N_ANSWER_MAX: usize = 32;
/// Bands into which values that differ from picture to picture are cut.
const N_BAND: usize = 16;

/// By what questions were parted into those that probes are fitted to and those that they are tested on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum SplitBy {
    /// By the pair of quantities that is asked for (`asked_first`, `asked_second` of a row's
    /// `parameters`): tested on pairs, or on bands of their mean, that no probe was fitted to.
    Asked,
    /// By the pair of quantities that catches the eye (`seen_first`, `seen_second`).
    Seen,
    /// By picture, at random: the rows have no such parameters, or none that leaves every answer on both
    /// sides.
    Pictures,
}

impl SplitBy {
    /// In words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Asked => "other values of what is asked for",
            Self::Seen => "other values of what catches the eye",
            Self::Pictures => "other pictures",
        }
    }
}

/// What a row says besides its question.
#[derive(Debug, Clone, Default)]
pub(super) struct Extra {
    /// The answer of one who looks at a single dimension.
    pub(super) eye: Option<String>,
    pub(super) parameters: BTreeMap<String, f64>,
}

/// What the rows of a JSONL file say besides, by line.
pub(super) fn extras(data: &Dataset) -> Result<HashMap<u64, Extra>> {
    if data.path.extension().is_none_or(|extension| extension != "jsonl") {
        return Ok(HashMap::new());
    }
    let text = text_up_to(DATA_MAX, &data.path)?;
    let extra = |(line, text): (u64, &str)| {
        let row: Value = serde_json::from_str(text.trim_start_matches('\u{feff}')).ok()?;
        let number = |(name, value): (&String, &Value)| Some((name.clone(), value.as_f64()?));
        let parameters = row.get("parameters").and_then(Value::as_object);
        let eye = row.get("eye_answer").and_then(Value::as_str).map(str::to_owned);
        let parameters = parameters.into_iter().flatten().filter_map(number).collect();
        Some((line, Extra { eye, parameters }))
    };
    Ok((1..).zip(text.lines()).filter_map(extra).collect())
}

/// One question of a task.
#[derive(Debug, Clone)]
pub(super) struct Item {
    /// Its record among the questions, and its picture's among the pictures.
    pub(super) question: usize,
    pub(super) picture: usize,
    /// The true answer, and that of the eye, of the task's answers.
    pub(super) label: usize,
    pub(super) eye: Option<usize>,
    parameters: BTreeMap<String, f64>,
}

/// The questions of one category.
#[derive(Debug, Clone)]
pub(super) struct TaskItems {
    pub(super) name: String,
    /// In alphabetical order.
    pub(super) answers: Vec<String>,
    pub(super) items: Vec<Item>,
    /// Of `items`: those that probes are fitted to, and those that they are tested on.
    pub(super) train: Vec<usize>,
    pub(super) test: Vec<usize>,
    pub(super) split: SplitBy,
}

/// The true answer of a question.
pub(super) fn truth(question: &Question) -> &str {
    question.answers.get(question.best()).map_or("", |answer| &answer.text)
}

/// The tasks of a data set; `pictures[i]` is the record of question `i`'s picture.
///
/// # Errors
/// [`Error::Invalid`] for a task with few questions, or answers that no probe can tell apart.
pub(super) fn tasks(
    data: &Dataset,
    pictures: &[usize],
    (test_share, seed): (f64, u64),
) -> Result<Vec<TaskItems>> {
    let extras = extras(data)?;
    let mut by_task: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    // In the order in which the file names them.
    let mut names: Vec<&str> = Vec::new();
    for (i, question) in data.questions.iter().enumerate() {
        let name = question.category.as_deref().unwrap_or("all");
        by_task.entry(name).or_insert_with(|| {
            names.push(name);
            Vec::new()
        });
        by_task.entry(name).and_modify(|of| of.push(i));
    }
    let task = |name: &str| {
        let own = &by_task[name];
        let mut answers: Vec<String> =
            own.iter().map(|&i| truth(&data.questions[i]).to_owned()).collect();
        answers.sort();
        answers.dedup();
        let invalid = |problem: String| Err(Error::invalid(format!("task {name}"), problem));
        if own.len() < N_MIN || answers.len() < 2 {
            return invalid(format!(
                "{} questions with {} different true answers: at least {N_MIN} and 2 are needed",
                own.len(),
                answers.len()
            ));
        }
        if answers.len() > N_ANSWER_MAX {
            return invalid(format!(
                "{} different true answers, more than the {N_ANSWER_MAX} that are told apart: give \
                 questions with the same answers a `category` of their own",
                answers.len()
            ));
        }
        let item = |&i: &usize| {
            let question = &data.questions[i];
            let extra = extras.get(&question.line).cloned().unwrap_or_default();
            let place = |text: &str| answers.iter().position(|answer| answer == text);
            Item {
                question: i,
                picture: pictures[i],
                label: place(truth(question)).unwrap_or(0),
                eye: extra.eye.as_deref().and_then(place),
                parameters: extra.parameters,
            }
        };
        let items: Vec<Item> = own.iter().map(item).collect();
        let (split, (train, test)) = split(&items, answers.len(), (test_share, seed));
        let mut task = TaskItems { name: name.to_owned(), answers, items, train, test, split };
        // What is not among the answers that are fitted to cannot be read.
        let is_fitted = |label: usize| task.train.iter().any(|&i| task.items[i].label == label);
        let n_fitted = (0..task.answers.len()).filter(|&label| is_fitted(label)).count();
        if n_fitted < 2 || task.test.is_empty() {
            return invalid("too few pictures are left to fit to and to test on".to_owned());
        }
        task.train.sort_unstable();
        task.test.sort_unstable();
        Ok(task)
    };
    names.into_iter().map(task).collect()
}

type Split = (Vec<usize>, Vec<usize>);

fn split(items: &[Item], n_answer: usize, (share, seed): (f64, u64)) -> (SplitBy, Split) {
    let by_parameters = [("asked", SplitBy::Asked), ("seen", SplitBy::Seen)];
    for (prefix, by) in by_parameters {
        let Some(blocks) = blocks(items, prefix) else { continue };
        let split = deal(items, blocks, (share, seed));
        if is_fair(items, n_answer, &split, share) {
            return (by, split);
        }
    }
    let mut pictures: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (i, item) in items.iter().enumerate() {
        pictures.entry(item.picture).or_default().push(i);
    }
    (SplitBy::Pictures, deal(items, pictures.into_values().collect(), (share, seed)))
}

/// Items whose pair of quantities is alike, or lies in one band; `None` where not all have one.
fn blocks(items: &[Item], prefix: &str) -> Option<Vec<Vec<usize>>> {
    // Of whole millionths: whatever the order of the two, and the last bits.
    let key = |item: &Item| {
        let value = |side: &str| {
            let value = item.parameters.get(&format!("{prefix}_{side}"))?;
            value.is_finite().then_some((value * 1e6).round() as i64)
        };
        let (one, other) = (value("first")?, value("second")?);
        Some((one.saturating_add(other), one.min(other)))
    };
    let mut by_key: BTreeMap<(i64, i64), Vec<usize>> = BTreeMap::new();
    for (i, item) in items.iter().enumerate() {
        by_key.entry(key(item)?).or_default().push(i);
    }
    if by_key.len() * 4 <= items.len() {
        return Some(by_key.into_values().collect());
    }
    // In the order of their means, in bands of as many.
    let n_band = N_BAND.min(items.len() / 2).max(1);
    let mut bands: Vec<Vec<usize>> = vec![Vec::new(); n_band];
    let mut n_before = 0;
    for alike in by_key.into_values() {
        let n = alike.len();
        bands[n_before * n_band / items.len()].extend(alike);
        n_before += n;
    }
    bands.retain(|band| !band.is_empty());
    Some(bands)
}

/// Deals blocks to the two sides, those with the same answers among themselves.
fn deal(items: &[Item], blocks: Vec<Vec<usize>>, (share, seed): (f64, u64)) -> Split {
    let mut kinds: BTreeMap<BTreeSet<usize>, Vec<Vec<usize>>> = BTreeMap::new();
    for block in blocks {
        kinds.entry(block.iter().map(|&i| items[i].label).collect()).or_default().push(block);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut train, mut test) = (Vec::new(), Vec::new());
    for mut blocks in kinds.into_values() {
        blocks.shuffle(&mut rng);
        let n: usize = blocks.iter().map(Vec::len).sum();
        let wanted = share * n as f64;
        let mut n_test = 0;
        for block in blocks {
            // Whichever leaves the number nearer to what is wanted.
            let after = (n_test + block.len()) as f64;
            if (after - wanted).abs() <= (wanted - n_test as f64).abs() {
                n_test += block.len();
                test.extend(block);
            } else {
                train.extend(block);
            }
        }
    }
    (train, test)
}

/// Whether every answer is on both sides, in at least two fifths of the share that is wanted.
fn is_fair(items: &[Item], n_answer: usize, (train, test): &Split, share: f64) -> bool {
    let count =
        |of: &[usize], label: usize| of.iter().filter(|&&i| items[i].label == label).count();
    (0..n_answer).all(|label| {
        let (n_train, n_test) = (count(train, label), count(test, label));
        let n = (n_train + n_test) as f64;
        n_train as f64 >= (0.4 * (1.0 - share) * n).max(1.0)
            && n_test as f64 >= (0.4 * share * n).max(1.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(i: usize, label: usize, pair: Option<(f64, f64)>) -> Item {
        let parameters = pair.into_iter().flat_map(|(one, other)| {
            [("asked_first".to_owned(), one), ("asked_second".to_owned(), other)]
        });
        Item { question: i, picture: i, label, eye: None, parameters: parameters.collect() }
    }

    fn pairs(items: &[Item], of: &[usize]) -> BTreeSet<(i64, i64)> {
        let value = |i: usize, side: &str| items[i].parameters[&format!("asked_{side}")] as i64;
        of.iter()
            .map(|&i| (value(i, "first"), value(i, "second")))
            .map(|(a, b)| (a.min(b), a.max(b)))
            .collect()
    }

    #[test]
    fn no_pair_of_numbers_is_on_both_sides() {
        // Label 0: the first is larger, 1: the second, 2: the same.
        let of = |i: usize| match (i % 3, i / 3 % 6) {
            (2, k) => (2, [3, 4, 5, 6][k % 4], [3, 4, 5, 6][k % 4]),
            (side, k) => {
                let (a, b) = [(3, 4), (3, 5), (3, 6), (4, 5), (4, 6), (5, 6)][k];
                if side == 0 { (0, b, a) } else { (1, a, b) }
            }
        };
        let items: Vec<Item> = (0..180)
            .map(|i| {
                let (label, a, b) = of(i);
                item(i, label, Some((f64::from(a), f64::from(b))))
            })
            .collect();
        for seed in 0..20 {
            let (by, (train, test)) = split(&items, 3, (0.5, seed));
            assert_eq!((by, train.len() + test.len()), (SplitBy::Asked, 180));
            assert!(pairs(&items, &train).is_disjoint(&pairs(&items, &test)), "{seed}");
            for label in 0..3 {
                let n = test.iter().filter(|&&i| items[i].label == label).count();
                assert!((20..=40).contains(&n), "{seed}: {n} of {label}");
            }
        }
    }

    #[test]
    fn lengths_that_are_tested_lie_in_other_bands() {
        let items: Vec<Item> =
            (0..96).map(|i| item(i, i % 2, Some((i as f64 / 7.0, 1.0)))).collect();
        let (by, (train, test)) = split(&items, 2, (0.25, 3));
        assert_eq!((by, train.len(), test.len()), (SplitBy::Asked, 72, 24));
        let band = |i: &usize| i * 16 / 96;
        let of = |all: &[usize]| all.iter().map(band).collect::<BTreeSet<_>>();
        assert!(of(&train).is_disjoint(&of(&test)));
    }

    #[test]
    fn without_parameters_pictures_are_parted_with_all_their_questions() {
        let mut items: Vec<Item> = (0..60).map(|i| item(i, i % 2, None)).collect();
        items.iter_mut().enumerate().for_each(|(i, item)| item.picture = i / 3);
        let (by, (train, test)) = split(&items, 2, (0.5, 0));
        assert_eq!(by, SplitBy::Pictures);
        let of = |all: &[usize]| all.iter().map(|&i| items[i].picture).collect::<BTreeSet<_>>();
        assert!(of(&train).is_disjoint(&of(&test)) && of(&train).len() == 10);
        // One pair has all of an answer: it cannot be on both sides.
        let items: Vec<Item> = (0..60)
            .map(|i| item(i, i % 2, Some((if i % 2 == 0 { 90.0 } else { i as f64 }, 90.0))))
            .collect();
        assert_eq!(split(&items, 2, (0.5, 0)).0, SplitBy::Pictures);
    }
}
