//! What is read of one data set by the probes of another.

mod common;

use candor::Site;
use candor::data::Dataset;
use candor::data::split::train_validation;
use candor::probe::Activations;
use candor::steer::FitParams;
use candor::study::{Labelled, Reading, Transfer, TransferParams, transfer};
#[cfg(feature = "cli")]
use common::program::{candor, json, refusal};
use ndarray::Array2;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const N: usize = 200;

/// One layer of three heads of four values: head 1 knows, along one of the values.
struct Knowing {
    heads: Vec<Array2<f32>>,
    labels: Vec<bool>,
    groups: Vec<usize>,
}

impl Knowing {
    /// True statements lie at `lean` along value `axis` of head 1, false ones at its opposite.
    fn new(data: &Dataset, axis: usize, lean: f32, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let labels: Vec<bool> = data.rows().map(|row| row.label).collect();
        let mut heads: Vec<Array2<f32>> = (0..3)
            .map(|_| Array2::from_shape_fn((labels.len(), 4), |_| rng.random_range(-1.0..1.0)))
            .collect();
        for (row, label) in labels.iter().enumerate() {
            heads[1][[row, axis]] += if *label { lean } else { -lean };
        }
        let groups = data.rows().map(|row| row.group).collect();
        Self { heads, labels, groups }
    }
}

impl Activations for Knowing {
    fn n_layer(&self) -> usize {
        1
    }

    fn n_head(&self) -> usize {
        3
    }

    fn d_head(&self) -> usize {
        4
    }

    fn labels(&self) -> &[bool] {
        &self.labels
    }

    fn groups(&self) -> &[usize] {
        &self.groups
    }

    fn head(&self, site: Site, rows: &[usize]) -> Array2<f32> {
        self.heads[site.head].select(ndarray::Axis(0), rows)
    }

    fn next_groups(&self) -> &[[usize; 2]] {
        &[]
    }

    fn next_head(&self, _: Site, _: &[usize]) -> Array2<f32> {
        Array2::zeros((0, 4))
    }
}

/// `n` statements about something; every third is false.
fn statements(what: &str, n: usize) -> Dataset {
    let lines = (0..n).map(|i| format!("number {i} is a {what},{}\n", u8::from(i % 3 != 0)));
    let text = "statement,label\n".to_owned() + &lines.collect::<String>();
    let name = format!("{what}.csv");
    Dataset::from_bytes(name.as_ref(), text.as_bytes()).expect("sound data")
}

fn params(n_head: usize) -> TransferParams {
    TransferParams::default()
        .with_test_share(0.2)
        .with_n_head(n_head)
        .with_fit(FitParams::default().with_seed(1))
}

fn run(sets: &[(&Dataset, &Knowing)], n_head: usize) -> Transfer {
    let sets: Vec<_> = sets.iter().map(|&(data, source)| Labelled { data, source }).collect();
    transfer(&sets, &params(n_head), || ()).expect("sound sets")
}

#[test]
fn what_knows_the_same_transfers_and_what_knows_the_opposite_misleads() {
    let sets = ["fish", "bird", "stone", "cloud"].map(|what| statements(what, N));
    // Stones are known along another value, clouds the other way round.
    let sources = [
        Knowing::new(&sets[0], 0, 2.0, 1),
        Knowing::new(&sets[1], 0, 2.0, 2),
        Knowing::new(&sets[2], 3, 2.0, 3),
        Knowing::new(&sets[3], 0, -2.0, 4),
    ];
    let all: Vec<_> = sets.iter().zip(&sources).collect();
    let found = run(&all, 2);
    let reading = |a: usize, b: usize| found.readings[4 * a + b];
    for set in &found.sets {
        assert_eq!((set.n_question, set.n_development), (N, 160));
        assert_eq!(set.heads[0].site, Site::new(0, 1));
        assert_eq!((set.heads.len(), set.head_accuracy.len()), (2, 3));
    }
    let alike = |a, b| reading(a, b).best.mean;
    for (a, b) in [(0, 0), (1, 1), (2, 2), (3, 3), (0, 1), (1, 0)] {
        assert!(alike(a, b) > 0.95, "{a} reads {b}: {}", alike(a, b));
    }
    for (a, b) in [(0, 2), (2, 0), (1, 2)] {
        assert!((0.3..0.8).contains(&alike(a, b)), "{a} reads {b}: {}", alike(a, b));
    }
    assert!(alike(0, 3) < 0.05 && alike(3, 1) < 0.05, "the opposite");
    for Reading { fitted, read, n_question, n_known, majority, best, several } in found.readings {
        let n = if fitted == read { 40 } else { N };
        assert_eq!((n_question, n_known), (n, 0));
        assert!((majority - 2.0 / 3.0).abs() < 0.15, "{majority}");
        for estimate in [best, several] {
            assert!(estimate.low <= estimate.mean && estimate.mean <= estimate.high);
        }
    }
}

#[test]
fn nothing_that_is_read_of_its_own_set_was_fitted_to() {
    let data = statements("fish", N);
    let mut source = Knowing::new(&data, 0, 2.0, 1);
    let before = run(&[(&data, &source)], 1);
    assert!(before.readings[0].best.mean > 0.95);
    let all: Vec<usize> = (0..N).collect();
    let (development, test) = train_validation(&all, 0.2, 1).unwrap();
    assert_eq!(test.len(), 40, "a fifth is kept back");
    for &row in &test {
        source.labels[row] = !source.labels[row];
        source.heads[0].row_mut(row).fill(1e3);
    }
    let after = run(&[(&data, &source)], 1);
    assert_eq!(after.sets, before.sets, "neither fitted to nor ranked on");
    assert!(after.readings[0].best.mean < 0.05, "and all of it is read");
    // The check can fail: the rest is fitted to.
    for &row in &development {
        source.labels[row] = !source.labels[row];
    }
    let turned = run(&[(&data, &source)], 1);
    assert!(turned.readings[0].best.mean > 0.95);
}

#[test]
fn statements_of_two_sets_are_read_where_they_were_not_fitted_to() {
    let (fish, few) = (statements("fish", N), statements("fish", 100));
    let (source, others) = (Knowing::new(&fish, 0, 2.0, 1), Knowing::new(&few, 0, 2.0, 2));
    let found = run(&[(&fish, &source), (&few, &others)], 1);
    let Reading { n_question, n_known, .. } = found.readings[1];
    assert_eq!(n_question + n_known, 100);
    assert!((60..=95).contains(&n_known), "four of five are known: {n_known}");
    assert!(found.readings[2].n_known > 0 && found.readings[3].n_known == 0);
}

#[test]
fn refuses_what_cannot_be_parted() {
    let data = statements("fish", 3);
    let source = Knowing::new(&data, 0, 2.0, 1);
    let sets = [Labelled { data: &data, source: &source }];
    assert!(transfer(&sets, &params(1), || ()).is_err());
    assert!(transfer::<Knowing>(&[], &params(1), || ()).is_err());
}

#[cfg(feature = "cli")]
#[test]
fn the_program_says_what_reads_what() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for what in ["fish", "bird"] {
        // No two of them in nearly the same words, which would be one question.
        let legs = ["no", "one", "two", "three"];
        let line = |i: usize| format!("{what} number {i} has {} legs,{}\n", legs[i % 4], i % 2);
        let lines = (0..30).map(line);
        let text = "statement,label\n".to_owned() + &lines.collect::<String>();
        std::fs::write(path(&format!("{what}_true_false.csv")), text).unwrap();
    }
    let command = |report: &str| {
        let mut command = candor(folder.path());
        command.args(["transfer", "--data"]).arg(path("fish_true_false.csv"));
        command.arg("--data").arg(path("bird_true_false.csv"));
        command.args(["--limit", "24", "-k", "3", "--report"]).arg(path(report));
        command
    };
    let document = json(command("a").arg("--activations").arg(path("kept")));
    assert_eq!(document["sets"][1]["name"], "bird_true_false");
    assert_eq!(document["sets"][0]["n_question"], 24);
    assert_eq!(document["sets"][0]["heads"].as_array().unwrap().len(), 3);
    let readings = document["readings"].as_array().unwrap();
    assert_eq!(readings.len(), 4);
    for reading in readings {
        for field in ["best", "several"] {
            assert!(reading[field]["low"].is_number(), "{reading}");
        }
        assert!(reading["majority"].as_f64().unwrap() >= 0.5);
    }
    assert_eq!((&readings[0]["n_question"], &readings[1]["n_question"]), (&5.into(), &24.into()));
    assert!(path("kept").join("bird_true_false-24.safetensors").exists());
    let page = std::fs::read_to_string(path("a").join("report.html")).unwrap();
    assert_eq!(page.matches("class=\"heat\"").count(), 2);

    let output = command("b").assert().success().get_output().clone();
    let text = String::from_utf8(output.stdout).unwrap();
    for word in ["the best head", "the 3 best heads together", "fish", "bird", "majority"] {
        assert!(text.contains(word), "{word} is missing:\n{text}");
    }
    assert!(!text.contains("_true_false"), "what all names end in is left out");

    let fish = path("fish_true_false.csv");
    let twice = refusal(candor(folder.path()).args(["transfer", "-d"]).args([&fish, &fish]));
    assert!(twice.contains("have the same name"), "{twice}");
}
