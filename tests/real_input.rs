//! Real data on a real model: from TruthfulQA and the true-false statements to a sidecar that `run`
//! and `chat` steer by.
#![cfg(feature = "cli")]

mod common;

use std::fs;
use std::path::Path;

use common::program::{candor, json};
use common::shared;

/// Fits on one data set and answers with what came out.
fn fit_and_use(folder: &Path, model: &Path, data: &Path) {
    let sidecar = folder.join("steer-test-stories260K.gguf");
    let fitted = json(
        candor(folder)
            .args(["fit", "--name", "test", "--alpha", "30", "-m"])
            .arg(model)
            .arg("--data")
            .arg(data),
    );
    assert_eq!(fitted["path"], sidecar.display().to_string());
    assert_eq!(fitted["k"], 2, "3 of 64 of 40 heads");
    assert_eq!(fitted["heads"].as_array().map(Vec::len), Some(2));
    assert!(fs::metadata(&sidecar).unwrap().len() < 200_000);

    let run = |steer: &str| {
        json(
            candor(folder)
                .args([
                    "run",
                    "-p",
                    "Once upon a time",
                    "-n",
                    "24",
                    "--temp",
                    "0",
                    "--steer",
                    steer,
                    "-m",
                ])
                .arg(model),
        )
    };
    let (steered, plain) = (run("auto"), run("none"));
    assert!(steered["steer"].is_string() && plain["steer"].is_null());
    assert_ne!(steered["tokens"], plain["tokens"], "a vector at alpha 30 changes what is written");

    candor(folder)
        .args(["chat", "-n", "12", "--temp", "0", "-m"])
        .arg(model)
        .write_stdin("Who was Lily?\n/off\nWho was Lily?\n")
        .assert()
        .success()
        .stderr(predicates::str::contains("truth"));
    fs::remove_file(sidecar).unwrap();
}

#[test]
fn fits_and_steers_a_real_model_with_real_data() {
    let Some(stories) = shared("models/stories260K.gguf") else { return };
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("stories260K.gguf");
    fs::copy(stories, &model).unwrap();
    let mut files: Vec<_> = ["truthfulqa/TruthfulQA.csv", "truthfulqa/mc_task.json"]
        .iter()
        .filter_map(|name| shared(&format!("data/{name}")))
        .collect();
    for name in ["animals", "capitals", "cities", "companies", "elements", "facts", "inventions"] {
        files.extend(shared(&format!("data/true-false/{name}_true_false.csv")));
    }
    for file in files {
        println!("{}", file.display());
        fit_and_use(folder.path(), &model, &file);
    }
}
