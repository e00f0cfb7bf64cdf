//! What the comparison with shuffled labels says of labels that nothing knows, where every fact stands in
//! the data in several wordings.

mod common;

use std::ops::ControlFlow;
use std::path::Path;

use candor::Site;
use candor::capture::{CaptureParams, Store, capture};
use candor::data::{Dataset, PromptForm, firsts};
use candor::probe::Activations;
use candor::steer::{Development, FitParams};
use ndarray::Array2;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

const MODEL: &str = "models/demo.gguf";
const QUESTIONS: &str = "models/demo-questions.csv";
/// Facts, each in three wordings.
const N_FACT: usize = 120;
/// Fits to noise.
const N_FIT: u64 = 50;

/// Captured statements with other labels, and who belongs with whom.
struct Noise<'s> {
    store: &'s Store,
    labels: Vec<bool>,
    firsts: Vec<usize>,
}

impl Activations for Noise<'_> {
    fn n_layer(&self) -> usize {
        self.store.n_layer()
    }

    fn n_head(&self) -> usize {
        self.store.n_head()
    }

    fn d_head(&self) -> usize {
        self.store.d_head()
    }

    fn labels(&self) -> &[bool] {
        &self.labels
    }

    fn groups(&self) -> &[usize] {
        self.store.groups()
    }

    fn first_of(&self, question: usize) -> usize {
        self.firsts[question]
    }

    fn head(&self, site: Site, rows: &[usize]) -> Array2<f32> {
        Activations::head(self.store, site, rows)
    }

    fn next_groups(&self) -> &[[usize; 2]] {
        Activations::next_groups(self.store)
    }

    fn next_head(&self, site: Site, rows: &[usize]) -> Array2<f32> {
        Activations::next_head(self.store, site, rows)
    }
}

/// Of so many draws of labels, one for each fact, those in which some head seems to read them.
fn n_above(store: &Store, firsts: &[usize]) -> usize {
    let is_above = |seed: u64| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let facts: Vec<bool> = (0..N_FACT).map(|_| rng.random_bool(0.5)).collect();
        let labels = store.groups().iter().map(|statement| facts[statement / 3]).collect();
        let noise = Noise { store, labels, firsts: firsts.to_vec() };
        let all: Vec<usize> = (0..3 * N_FACT).collect();
        let params = FitParams::default().with_seed(seed);
        let development = Development::fit(&noise, &all, &params, || ()).unwrap();
        development.chance(&noise).unwrap().is_above()
    };
    (0..N_FIT).filter(|&seed| is_above(seed)).count()
}

/// A table of facts, each in these wordings; `{q}` and `{a}` are a question and a false answer to it.
fn facts(folder: &Path, wordings: [&str; 3], has_group: bool) -> Dataset {
    let questions = Dataset::open(Path::new(QUESTIONS)).unwrap().limited(N_FACT);
    let mut text = "statement,label,group\n".to_owned();
    for (i, question) in questions.questions.iter().enumerate() {
        let answer = question.answers.iter().find(|answer| !answer.label).unwrap();
        for wording in wordings {
            let said = wording.replace("{q}", &question.text).replace("{a}", &answer.text);
            let group = if has_group { i.to_string() } else { String::new() };
            text += &format!("\"{}\",{},{group}\n", said.replace('"', "\"\""), i % 2);
        }
    }
    let path = folder.join("facts.csv");
    std::fs::write(&path, text).unwrap();
    Dataset::open(&path).unwrap()
}

#[test]
fn facts_in_several_wordings_are_read_from_noise_as_rarely_as_single_ones() {
    let folder = tempfile::tempdir().unwrap();
    let model = common::load(Path::new(MODEL));
    let near = ["Q: {q} A: {a}.", "Q: {q} A: {a}. Yes.", "Q: {q} A: The {a}, Q:"];
    let far = [
        "Q: {q} A: {a}.",
        "{a} is what many would say if asked: {q}",
        "Some think {a}. {q} So they say.",
    ];
    for (wordings, has_group) in [(near, false), (far, true)] {
        let data = facts(folder.path(), wordings, has_group);
        let path = folder.path().join(format!("{has_group}.safetensors"));
        let params = CaptureParams::new(PromptForm::default_for(data.kind));
        capture(&model, &data, &params, &path, |_| ControlFlow::Continue(())).unwrap();
        let store = Store::open(&path).unwrap();
        let known = firsts(&data.questions);
        let n_known = known.iter().enumerate().filter(|(place, first)| place != *first).count();
        assert!(n_known >= 2 * N_FACT - 4, "{n_known} of {} are known", 2 * N_FACT);
        let own: Vec<usize> = (0..known.len()).collect();
        let (n, n_apart) = (n_above(&store, &known), n_above(&store, &own));
        println!(
            "{N_FIT} fits to noise, {has_group}: {n} seem to read it, each for itself {n_apart}"
        );
        // One in twenty should; more than seven of fifty come up once in eighty times.
        assert!(n <= 7, "{n} of {N_FIT} fits to noise seem to read it");
        assert!(n_apart > 7, "wordings that are taken for facts of their own: {n_apart}");
    }
}
