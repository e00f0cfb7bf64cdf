//! `kill -9` in the middle of a capture, then the same command: nothing is lost.
#![cfg(all(feature = "cli", unix))]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::fixture::{Arch, Fixture};
use common::program::candor;

const N_STATEMENT: usize = 6000;

fn start(folder: &Path, model: &Path, output: &str) -> Child {
    Command::new(assert_cmd::cargo::cargo_bin!("candor"))
        .env("CANDOR_CACHE", folder)
        .args(["capture", "-t", "1", "-m"])
        .arg(model)
        .arg("--data")
        .arg(folder.join("facts.csv"))
        .arg("-o")
        .arg(folder.join(output))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Batches that the journal of an unfinished capture counts.
fn n_batch(folder: &Path, output: &str) -> usize {
    let journal = fs::read_to_string(folder.join(format!("{output}.progress"))).unwrap_or_default();
    journal.split_whitespace().last().and_then(|n| n.parse().ok()).unwrap_or(0)
}

#[test]
fn resumes_to_the_same_bytes_after_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let model = Fixture::new(Arch::Llama).write(folder.path());
    let mut csv = String::from("statement,label\n");
    for i in 0..N_STATEMENT {
        csv.push_str(&format!("the water number {i} is on fire and the wood is not,{}\n", i % 2));
    }
    fs::write(folder.path().join("facts.csv"), csv).unwrap();

    assert!(start(folder.path(), &model, "whole.safetensors").wait().unwrap().success());

    let mut child = start(folder.path(), &model, "killed.safetensors");
    let patience = Instant::now();
    while n_batch(folder.path(), "killed.safetensors") < 3 {
        assert!(child.try_wait().unwrap().is_none(), "the capture ended before it could be killed");
        assert!(
            patience.elapsed() < Duration::from_secs(120),
            "no batch was recorded in two minutes"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!folder.path().join("killed.safetensors").exists(), "half a store is no store");
    assert!(n_batch(folder.path(), "killed.safetensors") >= 3);

    candor(folder.path())
        .args(["capture", "-t", "1", "-m"])
        .arg(&model)
        .arg("--data")
        .arg(folder.path().join("facts.csv"))
        .arg("-o")
        .arg(folder.path().join("killed.safetensors"))
        .assert()
        .success()
        .stderr(predicates::str::contains("resumed after"));
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    assert!(read("killed.safetensors") == read("whole.safetensors"), "the bytes differ");
    let left: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".part") || name.ends_with(".progress"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
