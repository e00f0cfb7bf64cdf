//! Which vector steers where none is named: the one beside the model, one of several, or the built-in.
#![cfg(feature = "cli")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, SystemTime};

use common::program::candor;
use tempfile::TempDir;

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models")
}

/// A folder with the demo model and vectors beside it, each newer than the one before.
fn desk(vectors: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::copy(models().join("demo.gguf"), folder.path().join("m.gguf")).expect("a copy");
    for (i, name) in (1..).zip(vectors) {
        let path = folder.path().join(format!("steer-{name}-m.gguf"));
        fs::copy(models().join("demo-vector.gguf"), &path).expect("a copy");
        let time = SystemTime::now() - Duration::from_secs(1000) + Duration::from_secs(i);
        let file = fs::File::options().append(true).open(path).expect("a file");
        file.set_modified(time).expect("a time");
    }
    folder
}

/// Runs candor in a folder: whether it went well, and what it said on stderr.
fn said(folder: &Path, words: &[String]) -> (bool, String, Output) {
    let output = candor(&folder.join("cache"))
        .current_dir(folder)
        .args(words)
        .write_stdin("")
        .output()
        .expect("it runs");
    let stderr = String::from_utf8(output.stderr.clone()).expect("UTF-8");
    (output.status.success(), stderr, output)
}

fn words(line: &str) -> Vec<String> {
    shlex::split(line).expect("sound words")
}

#[test]
fn several_are_listed_and_the_command_for_the_newest_works() {
    let desk = desk(&["old", "new"]);
    let commands = [
        "run -m m.gguf -p 'the rain' -n 1 -t 1",
        "chat -m m.gguf -t 1",
        "bake -m m.gguf -o baked.gguf -t 1",
        "card -m m.gguf -o card.md",
        "inspect --verify -m m.gguf -t 1",
        "serve -m m.gguf --port 0 -t 1",
        "export --format control-vector -m m.gguf -o c.gguf -t 1",
    ];
    for command in commands {
        let (ok, stderr, _) = said(desk.path(), &words(command));
        assert!(!ok, "{command}: {stderr}");
        let (new, old) = (stderr.find("steer-new-m.gguf"), stderr.find("steer-old-m.gguf"));
        assert!(stderr.contains("error: 2 vectors beside m.gguf were made for it"), "{stderr}");
        assert!(old.is_some() && new < old, "the newest first: {stderr}");
        let again = stderr.lines().find_map(|line| line.strip_prefix("for the newest: candor "));
        let again = words(again.unwrap_or_else(|| panic!("{command}: {stderr}")));
        assert!(again.iter().any(|word| word == "steer-new-m.gguf"), "{again:?}");
        // These never end, or take their time.
        if !command.starts_with("serve") && !command.starts_with("export") {
            let (ok, stderr, _) = said(desk.path(), &again);
            assert!(ok, "{again:?}: {stderr}");
        }
    }
}

#[test]
fn fit_names_its_vector_where_it_is_not_the_only_one() {
    let questions = include_str!("../models/demo-questions.csv");
    let few: Vec<&str> = questions.lines().take(13).collect();
    for (others, is_named) in [(&[][..], false), (&["other"][..], true)] {
        let desk = desk(others);
        fs::write(desk.path().join("few.csv"), few.join("\n") + "\n").expect("writable");
        let fit = "fit -m m.gguf --data few.csv -k 1 --alpha 2 -t 1";
        let (ok, stderr, _) = said(desk.path(), &words(fit));
        assert!(ok, "{stderr}");
        let next = stderr.lines().find_map(|line| line.strip_prefix("next: "));
        let next = next.unwrap_or_else(|| panic!("{stderr}"));
        assert_eq!(next.contains("--steer steer-few-m.gguf"), is_named, "{next}");
        // The chat ends at once, with the vector in its banner.
        let command = next.split("    ").next().expect("a command");
        let (ok, stderr, _) = said(desk.path(), &words(command)[1..]);
        assert!(ok && stderr.contains("steer-few-m.gguf, 1 head, alpha 2"), "{command}: {stderr}");
    }
}

#[test]
fn the_built_in_model_has_a_vector_for_all_that_talk() {
    let desk = desk(&[]);
    let run = ["run", "-p", "Q: What is the capital of Australia? A:", "--temp", "0", "-t", "1"];
    let run = run.map(str::to_owned);
    let (ok, stderr, output) = said(desk.path(), &run);
    assert!(ok && stderr.contains("steered by the built-in vector, alpha "), "{stderr}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "Canberra.");
    let none = [&run[..], &words("--steer none")].concat();
    let (ok, stderr, output) = said(desk.path(), &none);
    assert!(ok && !stderr.contains("steered"), "{stderr}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "Sydney.");
    let (ok, stderr, _) = said(desk.path(), &words("chat -t 1"));
    assert!(ok && stderr.contains("built in, "), "{stderr}");
    // Another model has none.
    let (ok, stderr, _) = said(desk.path(), &words("run -m m.gguf -p x -n 1 -t 1"));
    assert!(ok && stderr.contains("not steered: there is no vector beside the model"), "{stderr}");

    #[cfg(feature = "serve")]
    {
        let cache = desk.path().join("cache");
        let server = common::served::Served::start(&cache, &[]);
        let steering = server.get("/v1/steering").json();
        assert_eq!(server.vectors.len(), 1, "{steering}");
        assert_eq!(
            steering["default_vectors"][0]["source"],
            server.vectors[0].as_str(),
            "{steering}"
        );
    }
}

#[cfg(unix)]
#[test]
fn attach_without_a_program_is_wrong_usage() {
    let desk = desk(&[]);
    for (line, expected) in [
        ("attach -m m.gguf", "there is no program: name one after --"),
        ("attach 1 -- true", "process 1 runs already"),
    ] {
        let (_, stderr, output) = said(desk.path(), &words(line));
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(expected) && stderr.contains("Usage: candor attach"), "{stderr}");
    }
    for (change, expected) in
        [("alpha=x", "expected a number"), ("foo=1", "expected alpha, slot.N, policy or steer")]
    {
        let (_, stderr, output) = said(desk.path(), &words(&format!("attach --set {change} 1")));
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
    }
}
