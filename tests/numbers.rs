//! A number means what it says: what stands beside a sum, what a baked model is called, which tokens and
//! which strength a result is of.
#![cfg(feature = "cli")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use common::program::{candor, json, refusal};
use common::twins::{questions, twins};
use serde_json::Value;

/// Twins, and a vector of two heads at alpha 6 that was fitted on one of them.
struct Shelf {
    folder: tempfile::TempDir,
}

impl Shelf {
    fn new(fit: &[&str]) -> Self {
        let shelf = Self { folder: tempfile::tempdir().unwrap() };
        twins(shelf.folder.path());
        let text = fs::read_to_string(questions()).unwrap();
        let some: Vec<&str> = text.lines().take(1 + 40).collect();
        fs::write(shelf.path("own.csv"), some.join("\n") + "\n").unwrap();
        let neutral = "The rain is on the hill.\nAll is well in the town.\nNo one sees it.\n";
        fs::write(shelf.path("neutral.txt"), neutral).unwrap();
        let mut command = shelf.on("fit", "one.gguf");
        command.args(["-k", "2", "--alpha", "6", "-o"]).arg(shelf.path("v.gguf")).args(fit);
        command.assert().success();
        shelf
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn on(&self, command: &str, model: &str) -> Command {
        let mut candor = candor(self.folder.path());
        candor.args([command, "-t", "1", "-m"]).arg(self.path(model));
        candor.arg("--data").arg(self.path("own.csv"));
        candor
    }

    /// Eight questions, two draws, no written answers.
    fn eval(&self, model: &str, more: &[&str]) -> Command {
        let mut eval = self.on("eval", model);
        let draws = if more.contains(&"--draws") { &[][..] } else { &["--draws", "2"] };
        eval.args(["-n", "0", "--limit", "8", "--neutral"]).arg(self.path("neutral.txt"));
        eval.args(draws).args(more);
        eval
    }

    fn steer(&self, parts: &[&str], more: &[&str]) -> Command {
        let mut eval = self.eval("one.gguf", more);
        for part in parts {
            eval.arg("--steer").arg(self.path(part));
        }
        eval
    }
}

fn stdout(command: &mut Command) -> String {
    String::from_utf8(command.assert().success().get_output().stdout.clone()).unwrap()
}

fn stderr(command: &mut Command) -> String {
    String::from_utf8(command.assert().success().get_output().stderr.clone()).unwrap()
}

fn row(report: &Value, name: &str) -> Value {
    let rows = report["rows"].as_array().expect("rows");
    rows.iter().find(|row| row["name"] == name).expect("the row").clone()
}

#[test]
fn random_directions_push_as_hard_as_the_vector_whose_factor_is_in_its_sigma() {
    let shelf = Shelf::new(&[]);
    let plain = json(&mut shelf.steer(&["v.gguf"], &["--alpha", "12"]));
    let own = json(&mut shelf.steer(&["v.gguf"], &[]));
    let kl = |report: &Value, name: &str| row(report, name)["kl"].as_f64().unwrap();
    // The control has to move for the comparison to say anything.
    assert!(kl(&plain, "random") > 1.5 * kl(&own, "random"), "alpha counts");
    let sums: [&[&str]; 3] = [&["v.gguf*2"], &["v.gguf", "v.gguf"], &["v.gguf*3", "v.gguf*-1"]];
    for sum in sums {
        let sum = json(&mut shelf.steer(sum, &[]));
        for name in ["iti", "random"] {
            let (a, b) = (kl(&plain, name), kl(&sum, name));
            assert!((a / b - 1.0).abs() < 1e-4, "{name}: {a} and {b}");
            for what in ["mc1", "mc2", "mc3"] {
                let [a, b] = [&plain, &sum].map(|report| row(report, name)[what].as_f64().unwrap());
                assert!((a - b).abs() < 1e-4, "{name} {what}: {a} and {b}");
            }
        }
    }
}

#[test]
fn a_card_takes_the_report_of_its_own_vector_on_its_own_model() {
    let shelf = Shelf::new(&[]);
    let card = |model: &str, report: &str| {
        let mut card = candor(shelf.folder.path());
        card.args(["card", "-o", "-", "-m"]).arg(shelf.path(model)).arg("--steer");
        card.arg(shelf.path("v.gguf")).arg("--report").arg(shelf.path(report).join("report.json"));
        card
    };
    let report = |mut eval: Command, name: &str| {
        eval.arg("--report").arg(shelf.path(name));
        stdout(&mut eval)
    };
    // Two vectors that were fitted in the same way, and two that were not.
    let cv = |more: &[&str]| shelf.eval("one.gguf", &[&["--cv", "2"], more].concat());
    report(cv(&["-k", "2", "--alpha", "6"]), "same");
    let text = stdout(&mut card("one.gguf", "same"));
    assert!(text.contains("fitted in the same way") && !text.contains("other bytes"), "{text}");
    report(cv(&["-k", "3", "--alpha", "8", "--policy", "all"]), "else");
    let error = refusal(&mut card("one.gguf", "else"));
    for expected in ["3 heads at alpha 8", "instead of 2 heads at alpha 6", "tokens steered: all"] {
        assert!(error.contains(expected), "{expected}: {error}");
    }
    // At another strength, and with one draw, of which nothing is known to differ.
    let told = report(shelf.steer(&["v.gguf"], &["--alpha", "9", "--draws", "1"]), "nine");
    assert!(told.contains("random: a single draw"), "{told}");
    let page = fs::read_to_string(shelf.path("nine/report.html")).unwrap();
    assert!(page.contains("it does not say how draws differ"), "{page}");
    assert_eq!(page.matches("<dt>model fingerprint</dt>").count(), 1);
    assert_eq!(page.matches("<dt>vector fingerprint</dt>").count(), 1);
    let text = stdout(&mut card("one.gguf", "nine"));
    assert!(text.contains("otherwise than it is stored (α = 6): 2 heads at α = 9"), "{text}");
    // On a twin: the same fingerprint, other weights.
    let mut twin = shelf.eval("other.gguf", &[]);
    twin.arg("--steer").arg(shelf.path("v.gguf"));
    report(twin, "twin");
    let error = refusal(&mut card("one.gguf", "twin"));
    assert!(error.contains("was measured on a file with other bytes"), "{error}");
    let text = stdout(&mut card("other.gguf", "twin"));
    assert!(text.contains("another model that shares its fingerprint"), "{text}");
}

#[test]
fn what_is_baked_in_has_a_name_wherever_it_acts() {
    let shelf = Shelf::new(&[]);
    let bake = |alpha: &str, name: &str| {
        let mut bake = candor(shelf.folder.path());
        bake.args(["bake", "-m"]).arg(shelf.path("one.gguf")).args(["--alpha", alpha, "--steer"]);
        bake.arg(shelf.path("v.gguf")).arg("-o").arg(shelf.path(name)).assert().success();
    };
    bake("6", "baked.gguf");
    let mut eval = shelf.eval("baked.gguf", &["--steer", "none", "--report"]);
    let text = stdout(eval.arg(shelf.path("out")));
    assert!(text.contains("\nas baked ") && text.contains("\nas baked, instruction"), "{text}");
    assert!(text.contains("scored as baked: own at alpha 6, sidecar "), "{text}");
    let page = fs::read_to_string(shelf.path("out/report.html")).unwrap();
    for shown in [&text, &page] {
        assert!(!shown.contains("no steering"), "{shown}");
        assert!(shown.contains("8 questions, all of which were used in fitting"), "{shown}");
    }
    let report = fs::read(shelf.path("out/report.json")).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    assert!(report["model"]["baked"].as_str().unwrap().starts_with("own at alpha 6, sidecar "));

    // What is fitted on it says so, and is another thing elsewhere.
    let mut fit = shelf.on("fit", "baked.gguf");
    let warned = stderr(fit.args(["-k", "1", "-o"]).arg(shelf.path("on-baked.gguf")));
    assert!(warned.contains("own is baked into this model at alpha 6"), "{warned}");
    let mut inspect = candor(shelf.folder.path());
    let facts = stdout(inspect.arg("inspect").arg(shelf.path("on-baked.gguf")));
    assert!(facts.contains("model baked with") && facts.contains("own at alpha 6"), "{facts}");
    let mut run = candor(shelf.folder.path());
    run.args(["run", "-t", "1", "-n", "1", "-p", "Q: Who? A:", "-m"]).arg(shelf.path("one.gguf"));
    let warned = stderr(run.arg("--steer").arg(shelf.path("on-baked.gguf")));
    assert!(warned.contains("was fitted on a model with something baked into it"), "{warned}");

    // A bake that adds nothing has seen nothing, and is no bake.
    bake("0", "nothing.gguf");
    let plain = json(&mut shelf.eval("nothing.gguf", &["--steer", "none"]));
    assert!(
        plain["seen"].is_null()
            && plain["seen_text"].is_null()
            && plain["model"]["baked"].is_null()
    );
}

#[test]
fn a_vector_is_scored_on_the_tokens_that_it_steers() {
    let shelf = Shelf::new(&["--policy", "all"]);
    let policy = |more: &[&str]| {
        let report = json(&mut shelf.steer(&["v.gguf"], more));
        (report["settings"]["policy"].clone(), row(&report, "iti")["mc2"].as_f64().unwrap())
    };
    let (stored, mc2) = policy(&[]);
    assert_eq!((&stored, mc2), (&"all".into(), policy(&["--policy", "all"]).1));
    let (given, other) = policy(&["--policy", "generated"]);
    assert_eq!(given, "generated");
    assert!((mc2 - other).abs() > 1e-6, "{mc2} and {other}");
    let text = stdout(&mut shelf.steer(&["v.gguf"], &[]));
    assert!(text.contains("2 heads, alpha 6, every token steered: MC1 "), "{text}");
}

#[test]
fn a_sweep_without_a_gain_ships_nothing() {
    let shelf = Shelf::new(&[]);
    let sweep = || {
        let mut sweep = shelf.on("sweep", "one.gguf");
        sweep.args(["-k", "1", "--alpha", "0.0001", "--limit", "16", "--draws", "2", "--neutral"]);
        sweep.arg(shelf.path("neutral.txt"));
        sweep
    };
    let document = json(&mut sweep());
    let overall = &document["overall"];
    assert!(overall["command"].is_null() && overall["vector"].is_null(), "{overall}");
    assert_eq!(overall["development_mc1"], overall["development_base"]);
    let text = stdout(sweep().arg("--report").arg(shelf.path("out")));
    assert!(text.contains("\nnothing to ship: ") && !text.contains("candor fit"), "{text}");
    let page = fs::read_to_string(shelf.path("out/report.html")).unwrap();
    assert!(page.contains("Nothing to ship: "), "{page}");
}

#[test]
fn a_stopped_eval_counts_every_token_once() {
    let shelf = Shelf::new(&[]);
    let eval = |name: &str| {
        let mut eval = shelf.steer(&["v.gguf"], &[]);
        eval.arg("--report").arg(shelf.path(name));
        eval
    };
    let whole = json(&mut eval("whole"));
    // Where a run was stopped: half of what a finished one had in its file.
    let place = |name: &str| shelf.path(name).join("eval.partial.jsonl");
    fs::create_dir(shelf.path("stopped")).unwrap();
    let text = kept(&shelf, &place("kept"));
    let lines: Vec<&str> = text.lines().collect();
    // What a step gave is written at once, its tokens last.
    let counts = |line: &str| line.contains("{\"Tokens\":");
    let ends = (1..lines.len()).filter(|&i| counts(lines[i - 1]) && !counts(lines[i]));
    let ends: Vec<usize> = ends.collect();
    assert!(ends.len() > 4, "{} steps", ends.len());
    for end in [ends[0], ends[ends.len() / 2], ends[ends.len() - 1]] {
        fs::write(place("stopped"), lines[..end].join("\n") + "\n").unwrap();
        let resumed = json(&mut eval("stopped"));
        assert_eq!(resumed["n_token"], whole["n_token"], "stopped after {end} lines");
        let mc1 = |report: &Value| row(report, "iti")["mc1"].clone();
        assert_eq!(mc1(&resumed), mc1(&whole));
    }
}

/// The partial results of a whole eval: it fails at its end, where its report is to be written.
fn kept(shelf: &Shelf, place: &Path) -> String {
    let folder = place.parent().unwrap();
    fs::create_dir(folder).unwrap();
    fs::create_dir(folder.join("report.json")).unwrap();
    let mut eval = shelf.steer(&["v.gguf"], &[]);
    eval.arg("--report").arg(folder).assert().failure();
    fs::read_to_string(place).expect("what was scored is kept")
}
