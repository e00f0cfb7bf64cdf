use std::collections::HashMap;

use linfa::prelude::*;
use linfa_logistic::MultiLogisticRegression;
use ndarray::{Array1, Array2, Axis};

use super::*;

fn set(n_picture: usize) -> TaskSet {
    TaskSet { n_picture, ..TaskSet::default() }
}

fn samples(set: &TaskSet) -> Vec<Sample> {
    set.samples().expect("sound settings").collect()
}

#[test]
fn a_picture_depends_on_its_number_and_the_settings_alone() {
    let (few, many) = (samples(&set(3)), samples(&set(5)));
    assert_eq!(few.len(), 3 * Task::ALL.len());
    for (task, few) in few.chunks(3).enumerate() {
        assert_eq!(few, &many[task * 5..task * 5 + 3]);
    }
    assert_eq!(few[7], set(1).sample(few[7].task, few[7].index).expect("sound"));
    let other = TaskSet { seed: 1, ..set(3) };
    assert_ne!(few[0].picture, samples(&other)[0].picture);
}

#[test]
fn every_pair_of_answers_comes_equally_often() {
    for task in Task::ALL {
        let n = task.options().len();
        let mut counts = HashMap::new();
        for index in 0..n * n * 4 {
            let question = set(0).sample(task, index).expect("sound").question;
            *counts.entry((question.truth, question.eye)).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), n * n, "{task}");
        assert!(counts.values().all(|&count| count == 4), "{task}: {counts:?}");
    }
}

#[test]
fn the_share_of_different_answers_can_be_chosen() {
    for (share, expected) in [(0.0, 0), (0.5, 36), (1.0, 72)] {
        let set = TaskSet { differ: Some(share), ..set(72) };
        for task in Task::ALL {
            let questions = (0..72).map(|i| set.sample(task, i).expect("sound").question);
            let differing: Vec<_> = questions.filter(|q| q.truth != q.eye).collect();
            assert_eq!(differing.len(), expected, "{task}");
            for option in 0..task.options().len() {
                let n_true = differing.iter().filter(|q| q.truth == option).count();
                assert_eq!(n_true, expected / task.options().len(), "{task}");
            }
        }
    }
}

#[test]
fn what_was_drawn_says_which_answers_are_right() {
    for sample in samples(&set(36)) {
        let p = |name| sample.parameters[name];
        let answer = |[first, second]: [f64; 2]| match first.total_cmp(&second) {
            _ if sample.task == Task::Chart => usize::from(first > second),
            order if sample.task.options().len() == 2 => usize::from(order.is_ne()),
            std::cmp::Ordering::Greater => 0,
            std::cmp::Ordering::Less => 1,
            std::cmp::Ordering::Equal => 2,
        };
        let case = format!("{} {}", sample.task, sample.index);
        assert_eq!(sample.question.truth, answer([p("asked_first"), p("asked_second")]), "{case}");
        assert_eq!(sample.question.eye, answer([p("seen_first"), p("seen_second")]), "{case}");
    }
}

#[test]
fn distractors_can_be_switched_off() {
    let set = TaskSet { distractors: Distractors::NONE, noise: 0, ..set(18) };
    for sample in samples(&set) {
        assert_eq!(sample.picture.rgb[..3], [245; 3], "{} {}", sample.task, sample.index);
    }
}

#[test]
fn clutter_changes_nothing_else() {
    let plain = samples(&TaskSet { noise: 0, ..set(4) });
    let cluttered = samples(&TaskSet { noise: 0, distractors: Distractors::ALL, ..set(4) });
    for (plain, cluttered) in plain.iter().zip(&cluttered) {
        assert_eq!(plain.parameters, cluttered.parameters);
        let pixels = plain.picture.rgb.chunks(3).zip(cluttered.picture.rgb.chunks(3));
        let n_changed = pixels.filter(|(a, b)| a != b).count();
        assert!((20..48 * 48 / 2).contains(&n_changed), "{} {n_changed}", plain.task);
    }
}

#[test]
fn draws_at_any_size_and_difficulty() {
    for difficulty in [Difficulty::Easy, Difficulty::Medium, Difficulty::Hard] {
        for size in [24, 97, 384] {
            for sample in samples(&TaskSet { size, difficulty, ..set(9) }) {
                let Picture { rgb, width, height } = &sample.picture;
                assert_eq!((*width, *height, rgb.len()), (size, size, (size * size * 3) as usize));
                // Nothing is drawn on the picture's outermost corners, something elsewhere.
                let luma = luma(&sample.picture);
                let darkest = luma.iter().copied().fold(f64::INFINITY, f64::min);
                assert!(darkest < luma[0] - 60.0, "{} {}", sample.task, sample.index);
            }
        }
    }
}

#[test]
fn refuses_settings_that_cannot_be_drawn() {
    let message = |set: TaskSet| set.sample(Task::Number, 0).expect_err("unsound").to_string();
    assert!(message(TaskSet { size: 0, ..set(1) }).contains("expected 24 to 4096 pixels"));
    assert!(message(TaskSet { size: 5000, ..set(1) }).contains("is 5000"));
    assert!(message(TaskSet { differ: Some(1.5), ..set(1) }).contains("is 1.5, expected 0 to 1"));
    assert!(message(TaskSet { differ: Some(f64::NAN), ..set(1) }).contains("expected 0 to 1"));
    let unknown = "colour".parse::<Task>().expect_err("unknown").to_string();
    assert!(unknown.contains("there are number, length"), "{unknown}");
}

#[test]
fn a_png_holds_the_picture() {
    let picture = set(1).sample(Task::Liquid, 0).expect("sound").picture;
    let bytes = picture.png().expect("sound");
    let read = image::load_from_memory(&bytes).expect("a PNG").into_rgb8();
    assert_eq!((read.width(), read.height(), read.into_raw()), (48, 48, picture.rgb));
    let short = Picture { rgb: vec![0; 5], width: 2, height: 1 };
    let error = short.png().expect_err("too few bytes").to_string();
    assert!(error.contains("5 bytes, not 2 x 1 x 3"), "{error}");
}

/// Brightness of each pixel, 0 to 255.
fn luma(picture: &Picture) -> Vec<f64> {
    let of = |pixel: &[u8]| pixel.iter().zip(canvas::LUMA).map(|(&c, w)| f64::from(c) * w).sum();
    picture.rgb.chunks(3).map(of).collect()
}

/// What tells nothing of two quantities, but might give them away: ink, where its centre lies, the
/// brightness of the ground and the size of the file.
fn trivial_features(picture: &Picture) -> Vec<f64> {
    let luma = luma(picture);
    let mut sorted = luma.clone();
    sorted.sort_by(f64::total_cmp);
    let ground = sorted[sorted.len() * 9 / 10];
    let side = picture.width as usize;
    let (mut sum, mut centre) = (0.0, [0.0; 2]);
    for (i, l) in luma.iter().enumerate() {
        let ink = (ground - l).max(0.0);
        sum += ink;
        centre[0] += ink * (i % side) as f64;
        centre[1] += ink * (i / side) as f64;
    }
    let size = picture.png().expect("sound").len() as f64;
    vec![sum, centre[0] / sum, centre[1] / sum, ground, size]
}

/// Rows to train on and rows to test on, of standardized features.
fn halves(features: &Array2<f64>) -> [Array2<f64>; 2] {
    let mean = features.mean_axis(Axis(0)).expect("rows");
    // What never varies tells nothing.
    let std = features.std_axis(Axis(0), 0.0).mapv(|std| if std > 0.0 { std } else { 1.0 });
    let z = (features - &mean) / std;
    let (train, test) = z.view().split_at(Axis(0), features.nrows() / 2);
    [train.to_owned(), test.to_owned()]
}

/// The share of equal labels.
fn share(said: &[usize], labels: &[usize]) -> f64 {
    let right = said.iter().zip(labels).filter(|(a, b)| a == b).count();
    right as f64 / labels.len() as f64
}

/// Held-out accuracy of a linear classifier on features and their squares.
fn linear(features: &Array2<f64>, labels: &[usize]) -> f64 {
    let [train, test] =
        halves(features).map(|x| ndarray::concatenate![Axis(1), x, x.mapv(|value| value * value)]);
    let (train_labels, test_labels) = labels.split_at(labels.len() / 2);
    let data = Dataset::new(train, Array1::from(train_labels.to_vec()));
    let fitted = MultiLogisticRegression::default().alpha(1.0).max_iterations(200).fit(&data);
    let said = fitted.expect("converges").predict(&test);
    share(&said.to_vec(), test_labels)
}

/// Held-out accuracy of the vote of the 25 nearest neighbours.
fn nearest(features: &Array2<f64>, labels: &[usize]) -> f64 {
    let [train, test] = halves(features);
    let (train_labels, test_labels) = labels.split_at(labels.len() / 2);
    let vote = |row: ndarray::ArrayView1<f64>| {
        let distance = |other: ndarray::ArrayView1<f64>| (&other - &row).mapv(|d| d * d).sum();
        let mut near: Vec<(f64, usize)> =
            train.rows().into_iter().map(distance).zip(train_labels.iter().copied()).collect();
        near.select_nth_unstable_by(25, |a, b| a.0.total_cmp(&b.0));
        let mut votes = [0; 3];
        near[..25].iter().for_each(|&(_, label)| votes[label] += 1);
        (0..votes.len()).max_by_key(|&label| votes[label]).unwrap_or(0)
    };
    let said: Vec<usize> = test.rows().into_iter().map(vote).collect();
    share(&said, test_labels)
}

#[test]
fn ink_file_size_and_position_do_not_give_the_answer_away() {
    const N: usize = 1800;
    let set = set(N);
    for task in Task::ALL {
        let samples: Vec<Sample> =
            (0..N).map(|i| set.sample(task, i).expect("sound settings")).collect();
        let rows: Vec<Vec<f64>> = samples.iter().map(|s| trivial_features(&s.picture)).collect();
        let features = Array2::from_shape_fn((N, rows[0].len()), |(i, j)| rows[i][j]);
        let labels: Vec<usize> = samples.iter().map(|s| s.question.truth).collect();
        let majority = 1.0 / task.options().len() as f64;
        let error = (majority * (1.0 - majority) / (N / 2) as f64).sqrt();
        let (linear, near) = (linear(&features, &labels), nearest(&features, &labels));
        eprintln!("{task}: {linear:.3} {near:.3}, majority {majority:.3} +- {error:.3}");
        assert!(linear.max(near) < majority + 4.0 * error, "{task}: {linear:.3}, {near:.3}");
        // Neighbours find an answer that is there.
        let asked = ["asked_first", "asked_second"];
        let told = Array2::from_shape_fn((N, 2), |(i, j)| samples[i].parameters[asked[j]]);
        let near = nearest(&told, &labels);
        assert!(near > majority + 0.25, "{task}: {near:.3} where the quantities are told");
    }
}

#[test]
fn captions_are_seeded_and_speak_of_the_picture() {
    let set = set(0);
    let captions: Vec<String> = (0..50).map(|i| set.caption(Task::Length, i)).collect();
    assert!(captions.iter().all(|caption| caption.contains("two sticks")));
    assert_eq!(captions[3], TaskSet::default().caption(Task::Length, 3));
    assert!(captions.iter().collect::<std::collections::HashSet<_>>().len() > 40);
}

/// The rows of a file.
fn rows(path: &std::path::Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(path).expect("written");
    text.lines().map(|line| serde_json::from_str(line).expect("a row")).collect()
}

#[test]
fn writes_rows_that_are_read_as_questions() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut n_step = 0;
    let mut step = || {
        n_step += 1;
        Ok(())
    };
    let path = set(2).write(folder.path(), &mut step).expect("sound");
    let data = crate::data::Dataset::open(&path).expect("rows that are read");
    assert_eq!((data.questions.len(), n_step), (2 * Task::ALL.len(), 2 * Task::ALL.len()));
    for ((row, question), sample) in rows(&path).iter().zip(&data.questions).zip(samples(&set(2))) {
        let answers: Vec<&str> = question.answers.iter().map(|answer| &*answer.text).collect();
        assert_eq!(
            (&*question.text, &answers[..]),
            (sample.question.text, sample.question.options)
        );
        assert_eq!(question.best(), sample.question.truth);
        assert_eq!(row["true_answer"], sample.question.options[sample.question.truth]);
        assert_eq!(row["eye_answer"], sample.question.options[sample.question.eye]);
        let image = folder.path().join(row["image"].as_str().expect("a name"));
        assert_eq!(
            image::open(image).expect("a picture").into_rgb8().into_raw(),
            sample.picture.rgb
        );
    }
    let again = set(2).write(folder.path(), &mut || Ok(())).expect_err("there already");
    assert!(again.to_string().contains("tasks.jsonl: is there already"), "{again}");
}

#[test]
fn pairs_change_one_quantity_and_keep_the_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = set(4).write_pairs(folder.path(), &mut || Ok(())).expect("sound");
    let data = crate::data::Dataset::open(&path).expect("rows that are read");
    assert_eq!(data.kind, crate::data::Kind::Pair);
    let rows = rows(&path);
    assert_eq!(rows.len(), 4 * Task::ALL.len());
    for (i, row) in rows.iter().enumerate() {
        assert_eq!(row["conserved"], i % 2 == 0);
        assert_ne!(row["chosen"], row["rejected"]);
        let read = |side: usize| {
            let name = row["image"][side].as_str().expect("a name");
            image::open(folder.path().join(name)).expect("a picture").into_rgb8().into_raw()
        };
        let (before, after) = (read(0), read(1));
        // Something moved, but the ground and the noise are those of the same picture.
        let pixels = before.iter().zip(&after);
        let n_same = pixels.filter(|(a, b)| a.abs_diff(**b) < 8).count();
        assert!(before != after && n_same * 2 > before.len(), "{row}");
    }
}
