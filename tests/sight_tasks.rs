//! `candor sight tasks`, as the program writes them.
#![cfg(all(feature = "cli", feature = "sight"))]

mod common;

use std::fs;
use std::path::Path;

use candor::data::Dataset;
use common::program::{candor, json, refusal};

/// Every file below a folder, by its name relative to it.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for name in ["", "images"] {
        let entries = fs::read_dir(folder.join(name)).expect("a folder");
        for path in entries.map(|entry| entry.expect("readable").path()).filter(|p| p.is_file()) {
            let relative = path.strip_prefix(folder).expect("below it").display().to_string();
            files.push((relative, fs::read(&path).expect("readable")));
        }
    }
    files.sort();
    files
}

#[test]
fn the_same_options_write_the_same_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, more: &[&str]| {
        let out = folder.path().join(name);
        let mut command = candor(folder.path());
        command.args(["sight", "tasks"]).arg(&out).args(["-n", "2", "--tasks", "number,chart"]);
        let said = json(command.args(["--size", "64"]).args(more));
        (out, said)
    };
    let (first, said) = write("a", &[]);
    assert_eq!(said["n_row"], 4);
    assert_eq!(said["tasks"], serde_json::json!(["number", "chart"]));
    let written = files(&first);
    let names: Vec<&str> = written.iter().map(|(name, _)| &**name).collect();
    assert_eq!(
        names,
        [
            "images/chart-00000.png",
            "images/chart-00001.png",
            "images/number-00000.png",
            "images/number-00001.png",
            "tasks.jsonl"
        ]
    );
    assert_eq!(written, files(&write("b", &[]).0));
    assert_ne!(written, files(&write("c", &["--seed", "1"]).0));
    let data = Dataset::open(&first.join("tasks.jsonl")).expect("sound");
    assert_eq!(data.questions.len(), 4);
    assert_eq!(data.questions[3].category.as_deref(), Some("chart"));

    let (pairs, said) = write("d", &["--pairs"]);
    assert_eq!(said["n_row"], 4);
    assert_eq!(files(&pairs).len(), 9);
    Dataset::open(&pairs.join("pairs.jsonl")).expect("sound");
}

#[test]
fn says_what_it_wrote_and_refuses_what_makes_no_sense() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out");
    let tasks = |more: &[&str]| {
        let mut command = candor(folder.path());
        command.args(["sight", "tasks"]).arg(&out).args(["-n", "1"]).args(more);
        command
    };
    let refused = |more: &[&str], problem: &str| {
        let said = refusal(&mut tasks(more));
        assert!(said.contains(problem), "{said}");
        assert!(!out.exists(), "nothing is written: {more:?}");
    };
    refused(&["--size", "7"], "is 7, expected 24 to 4096 pixels");
    refused(&["--differ", "2"], "is 2, expected 0 to 1");
    refused(&["--tasks", "chart,area,chart"], "names chart twice");
    refused(&["--distractors", "none,size"], "names none and others");
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo.gguf");
    refused(&["--mmproj", demo], "has no clip.vision.image_size");

    let output = tasks(&["--distractors", "none"]).assert().success().get_output().clone();
    let said = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(said.starts_with("9 pictures of 48 x 48 pixels: number, length, "), "{said}");
    assert!(said.contains("wrote ") && said.contains("tasks.jsonl"), "{said}");
    assert!(refusal(&mut tasks(&[])).contains("tasks.jsonl: is there already"));
}
