//! `candor chat` and `candor run`, as a user without a terminal meets them.

mod common;

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use candor::Site;
use candor::gguf::Gguf;
use candor::probe::Probe;
use candor::steer::{About, Sidecar, SteeredHead, SteeringVector};
use common::sidecar::about;
use predicates::prelude::*;
use tempfile::TempDir;

/// A folder with the built-in model and a strong vector beside it.
struct Fixture {
    folder: TempDir,
    model: PathBuf,
    steer: PathBuf,
}

impl Fixture {
    fn new() -> Self {
        let original = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo.gguf");
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("stories.gguf");
        std::fs::copy(original, &model).unwrap();
        let steer = folder.path().join("steer-test-stories.gguf");
        write_sidecar(&model, &steer);
        Self { folder, model, steer }
    }

    fn candor(&self, arguments: &[&str]) -> Command {
        let mut command = Command::cargo_bin("candor").unwrap();
        command.env("CANDOR_CACHE", self.folder.path()).current_dir(self.folder.path());
        // More threads would only wait for each other: the tests run side by side.
        command.args(arguments).args(["-t", "1", "-m"]).arg(&self.model);
        command
    }

    /// Stdout of a short greedy chat over these lines.
    fn chat(&self, arguments: &[&str], lines: &str) -> assert_cmd::assert::Assert {
        let mut all = vec!["chat", "--temp", "0", "-n", "12"];
        all.extend(arguments);
        self.candor(&all).write_stdin(lines).assert().success()
    }

    fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).unwrap()
    }
}

fn write_sidecar(model: &Path, path: &Path) {
    let file = Gguf::open(model).unwrap();
    let (n_layer, n_head, d_head) = (5, 8, 24);
    let heads = (0..n_head).map(|head| SteeredHead {
        site: Site::new(2, head),
        direction: (0..d_head).map(|i| if i == 0 { 1.0 } else { 0.0 }).collect(),
        sigma: 16.0,
        accuracy: 0.5,
        probe: Probe { weight: vec![0.1; d_head], bias: 0.0 },
    });
    let model_name = file.str("general.name").unwrap();
    let about = About {
        name: "test".to_owned(),
        alpha: 8.0,
        ..about("llama", model_name, &candor::fingerprint(&file).unwrap())
    };
    let vector = SteeringVector::new(n_layer, n_head, d_head, heads.collect()).unwrap();
    Sidecar { vector, about }.write(path).unwrap();
}

fn stdout(assert: &assert_cmd::assert::Assert) -> String {
    String::from_utf8(assert.get_output().stdout.clone()).unwrap()
}

fn stderr(assert: &assert_cmd::assert::Assert) -> String {
    String::from_utf8(assert.get_output().stderr.clone()).unwrap()
}

#[test]
fn answers_lines_from_a_pipe_without_escape_codes() {
    let fixture = Fixture::new();
    let chat = fixture.chat(&[], "\nWho is Lily?\n");
    let (answers, notes) = (stdout(&chat), stderr(&chat));
    assert_eq!(answers.lines().count(), 1, "{answers}");
    assert!(!format!("{answers}{notes}").contains('\x1b'), "{notes}");
    assert!(notes.contains("stories.gguf, llama, 5 layers of 8 heads"), "{notes}");
    assert!(notes.contains("steer-test-stories.gguf, 8 heads, alpha 8"), "{notes}");
    assert!(notes.contains("probe reading 0.") && notes.contains("tokens/s"), "{notes}");
}

#[test]
fn greedy_answers_repeat_and_steering_changes_them() {
    let fixture = Fixture::new();
    let answer = |commands: &str| stdout(&fixture.chat(&[], &format!("{commands}Who is Lily?\n")));
    let (steered, plain) = (answer(""), answer("/off\n"));
    assert_ne!(steered, plain);
    assert_eq!(steered, answer(""));
    assert_eq!(plain, answer("/alpha 0\n"));
    assert_eq!(steered, answer("/off\n/on\n"));
    assert_eq!(plain, stdout(&fixture.chat(&["--steer", "none"], "Who is Lily?\n")));
    let vector = format!("/vector {}\n", fixture.steer.display());
    assert_eq!(steered, answer(&format!("/alpha 1\n/off\n{vector}")));
}

#[test]
fn compares_both_answers_and_keeps_the_steered_one() {
    let fixture = Fixture::new();
    let plain = stdout(&fixture.chat(&[], "/off\nWho is Lily?\n"));
    let steered = stdout(&fixture.chat(&[], "Who is Lily?\n"));
    let both = format!("not steered\n{plain}alpha 8\n{steered}");
    let chat = fixture.chat(&[], "/compare Who is Lily?\n/save once.json\n");
    assert_eq!(stdout(&chat), both);
    let chat = fixture.chat(&[], "/off\nWho is Lily?\n/compare\n/save again.json\n");
    assert_eq!(stdout(&chat), format!("{plain}{both}"));
    assert_eq!(fixture.file("once.json"), fixture.file("again.json"));

    let saved: serde_json::Value = serde_json::from_str(&fixture.file("once.json")).unwrap();
    assert_eq!(saved["messages"][0]["role"], "user");
    assert_eq!(saved["messages"][1]["content"], steered.trim_end());
    assert_eq!(saved["messages"][1]["alpha"], 8.0);
}

#[test]
fn saves_markdown_and_forgets_on_reset() {
    let fixture = Fixture::new();
    fixture.chat(&["--system", "Be kind."], "Why?\n/save a.md\n/reset\n/save b.md\n");
    let (full, empty) = (fixture.file("a.md"), fixture.file("b.md"));
    assert!(full.starts_with("# A conversation with"), "{full}");
    assert!(
        full.contains("**user**\n\nWhy?\n\n**assistant** · alpha 8 · probe reading 0."),
        "{full}"
    );
    assert!(empty.contains("Be kind.") && !empty.contains("Why?"), "{empty}");
}

#[test]
fn a_mistake_is_one_line_and_no_end() {
    let fixture = Fixture::new();
    let mistakes =
        "/alhpa 2\n/alpha much\n/save\n/vector no-such.gguf\n/save no/such/a.md\n/compare\n";
    let chat = fixture.chat(&[], &format!("{mistakes}Why?\n/quit\nnot asked\n"));
    assert_eq!(stdout(&chat).lines().count(), 1);
    let notes = stderr(&chat);
    for expected in [
        "unknown command /alhpa; the commands are /alpha /on /off /compare",
        "how strong?",
        "which file?",
        "error: cannot open no-such.gguf",
        "error: no/such/a.md: there is no folder no/such",
        "nothing has been asked yet",
    ] {
        assert_eq!(notes.matches(expected).count(), 1, "{expected}: {notes}");
    }
}

#[test]
fn help_lists_every_command() {
    let fixture = Fixture::new();
    let help = stderr(&fixture.chat(&[], "/help\n"));
    for name in ["alpha [X]", "on", "off", "compare [QUESTION]", "vector FILE", "save FILE", "quit"]
    {
        assert!(help.contains(&format!("\n/{name}")), "{name}: {help}");
    }
}

#[test]
fn without_a_vector_there_is_nothing_to_compare() {
    let fixture = Fixture::new();
    let chat = fixture.chat(&["--steer", "none"], "Why?\n/compare\n/on\n/off\n");
    let notes = stderr(&chat);
    assert_eq!(notes.matches("error: no vector: `candor fit` makes one").count(), 2, "{notes}");
    assert!(notes.contains("steering off") && !notes.contains("truth"), "{notes}");
}

#[test]
fn a_long_conversation_forgets_its_oldest_turns() {
    let fixture = Fixture::new();
    let lines = "Is it so?\n".repeat(40);
    let chat = fixture.chat(&["-c", "256"], &format!("{lines}{}\n", "long ".repeat(200)));
    assert_eq!(stdout(&chat).lines().count(), 40);
    assert!(stderr(&chat).contains("oldest turns"), "{}", stderr(&chat));
    assert!(stderr(&chat).contains("the context holds 256"), "{}", stderr(&chat));
}

#[test]
fn json_is_the_conversation_at_its_end() {
    let fixture = Fixture::new();
    let chat = fixture.chat(&["--json"], "Why?\n/compare So?\n");
    let saved: serde_json::Value = serde_json::from_str(&stdout(&chat)).unwrap();
    assert_eq!(saved["messages"].as_array().unwrap().len(), 4);
}

#[test]
fn run_continues_a_text() {
    let fixture = Fixture::new();
    let run = |arguments: &[&str]| {
        let mut all = vec!["run", "--temp", "0", "-n", "20"];
        all.extend(arguments);
        fixture.candor(&all)
    };
    let text = "The capital of France is";
    let assert = run(&["-p", text, "--steer", "none"]).assert().success();
    let plain = stdout(&assert);
    assert!(plain.split_whitespace().count() > 4, "{plain}");
    assert_eq!(stderr(&assert), "");
    let steered = run(&["-p", text]).assert().success();
    assert!(stderr(&steered).contains("steered by"), "{}", stderr(&steered));
    assert_ne!(stdout(&steered), plain);
    let all = run(&["-p", text, "--policy", "all"]).assert().success();
    assert_ne!(stdout(&all), stdout(&steered));

    // An empty text begins with BOS, which this model has.
    run(&["-p", "", "--steer", "none"]).assert().success().stdout(predicate::str::is_empty().not());
    run(&["-p", text, "--alpha", "0"]).assert().success().stdout(plain.clone());
    run(&["-p", "-", "--alpha", "0"])
        .write_stdin(format!("{text}\n"))
        .assert()
        .stdout(plain.clone());
    std::fs::write(fixture.folder.path().join("text"), text).unwrap();
    run(&["-f", "text", "--steer", "none"]).assert().success().stdout(plain.clone());
    // Of two stops, the one that comes first.
    let words: Vec<&str> = plain.split_whitespace().collect();
    let (stop, later) = (words[2], words[3]);
    let start = &plain[..plain.find(stop).unwrap()];
    run(&["-p", text, "--steer", "none", "--stop", later, "--stop", stop])
        .assert()
        .success()
        .stdout(format!("{start}\n"));
}

#[test]
fn a_sidecar_beside_the_model_must_be_made_for_it() {
    let fixture = Fixture::new();
    let run = |arguments: &[&str]| {
        let mut all = vec!["run", "-p", "Once", "--temp", "0", "-n", "5"];
        all.extend(arguments);
        fixture.candor(&all).assert().success()
    };
    let plain = stdout(&run(&["--steer", "none"]));
    let change = |change: &dyn Fn(&mut About)| {
        let mut sidecar = Sidecar::read(&fixture.steer).unwrap();
        change(&mut sidecar.about);
        sidecar.write(&fixture.steer).unwrap();
    };
    change(&|about| about.model_name = "Another".into());
    let named = run(&[]);
    assert!(stderr(&named).contains("made for a model named Another"), "{}", stderr(&named));
    assert_ne!(stdout(&named), plain);
    change(&|about| about.model_fingerprint = "0".repeat(64));
    let other = run(&[]);
    let notes = stderr(&other);
    assert!(notes.starts_with("warning: ") && notes.contains("steer-test-stories"), "{notes}");
    assert!(notes.contains("nothing is steered"), "{notes}");
    assert_eq!(stdout(&other), plain);
}

#[test]
fn run_gives_json() {
    let fixture = Fixture::new();
    let run = fixture.candor(&["run", "--json", "-p", "Once", "-n", "5"]).assert().success();
    let report: serde_json::Value = serde_json::from_str(&stdout(&run)).unwrap();
    assert_eq!(report["prompt"], "Once");
    assert!(report["text"].as_str().is_some_and(|text| !text.is_empty()));
    assert_eq!(report["tokens"].as_array().unwrap().len(), 5);
    assert_eq!(report["steer"].as_str().unwrap().len(), 64);
    assert_eq!(report["alpha"], 8.0);
    assert!(report["n_token_per_second"].as_f64().unwrap() > 0.0);
    let run =
        fixture.candor(&["run", "--json", "-p", "Once", "-n", "5", "--steer", "none"]).assert();
    let report: serde_json::Value = serde_json::from_str(&stdout(&run)).unwrap();
    assert!(report["steer"].is_null() && report["alpha"].is_null());
}

#[cfg(target_os = "linux")]
#[test]
fn run_tells_a_full_disk_from_a_reader_that_went_away() {
    use std::process::Stdio;

    let fixture = Fixture::new();
    let run = |stdout: Stdio| {
        std::process::Command::new(assert_cmd::cargo::cargo_bin!("candor"))
            .args(["run", "-p", "Once", "-n", "400", "--temp", "0", "--steer", "none", "-m"])
            .arg(&fixture.model)
            .stdout(stdout)
            .output()
            .unwrap()
    };
    let full = run(std::fs::File::create("/dev/full").unwrap().into());
    let message = String::from_utf8(full.stderr).unwrap();
    assert_eq!(full.status.code(), Some(1));
    assert!(message.starts_with("error: cannot write to stdout: No space left"), "{message}");

    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let unread = run(writer.into());
    assert_eq!(unread.status.code(), Some(0));
    assert!(unread.stderr.is_empty(), "{}", String::from_utf8_lossy(&unread.stderr));
}

#[test]
fn run_refuses_what_it_cannot_do() {
    let fixture = Fixture::new();
    fixture.candor(&["run"]).assert().code(2);
    fixture.candor(&["run", "-p", "a", "-f", "b"]).assert().code(2);
    let fails =
        |arguments: &[&str], expected: &str| {
            fixture.candor(arguments).assert().code(1).stderr(
                predicate::str::contains(expected).and(predicate::str::starts_with("error: ")),
            );
        };
    fails(&["run", "-f", "absent"], "cannot read absent");
    fails(
        &["run", "-p", &"long ".repeat(200), "-c", "256", "--steer", "none"],
        "the context holds 256",
    );
}
