//! What a slip of the hand may cost: nothing. Files that must not be replaced, sizes that cannot be
//! meant, strengths that leave no numbers.
#![cfg(feature = "cli")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use candor::session::Steering;
use candor::steer::Sidecar;
use candor::{Session, SessionParams, Special};
use common::program::{candor, refusal};
use common::sidecar::sidecar;
use common::steering::vector;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo.gguf");

/// A folder with a vector of three heads at strength 15.
struct Room(tempfile::TempDir);

impl Room {
    fn new() -> Self {
        let room = Self(tempfile::tempdir().unwrap());
        let model = common::load(Path::new(MODEL));
        let heads = vector(model.geometry(), &[(1, 0), (2, 3), (3, 1)], 1);
        sidecar(&model, &heads, 15.0).write(&room.path("a.gguf")).unwrap();
        room
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn candor(&self, arguments: &[&str]) -> Command {
        let mut command = candor(self.0.path());
        command.current_dir(self.0.path()).args(arguments);
        command
    }
}

#[test]
#[cfg(unix)]
fn a_device_or_a_pipe_stays_what_it_is() {
    use std::os::unix::fs::FileTypeExt as _;

    let room = Room::new();
    let pipe = room.path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // A link to a device stands for it.
    std::os::unix::fs::symlink("/dev/null", room.path("null")).unwrap();
    for target in ["pipe", "null"] {
        let error = refusal(&mut room.candor(&["mix", "a.gguf*0.5", "-o", target]));
        assert!(error.contains("it is a device or a pipe, not a file"), "{error}");
        let capture = ["capture", "-m", MODEL, "-o", target];
        let error = refusal(room.candor(&capture).arg("-d").arg(data(&room)));
        assert!(error.contains("it is a device or a pipe, not a file"), "{error}");
        let chat = ["chat", "-m", MODEL, "--steer", "none", "-t", "1"];
        let mut chat = room.candor(&chat);
        let chat = chat.write_stdin(format!("/save {target}\n")).assert().success();
        let notes = String::from_utf8_lossy(&chat.get_output().stderr).into_owned();
        assert!(notes.contains("it is a device or a pipe, not a file"), "{notes}");
    }
    assert!(fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    assert!(fs::symlink_metadata(room.path("null")).unwrap().is_symlink());
}

fn data(room: &Room) -> PathBuf {
    let path = room.path("data.csv");
    fs::write(&path, "statement,label\nthe sea is wet,1\nthe sea is dry,0\n").unwrap();
    path
}

#[test]
#[cfg(unix)]
fn a_link_is_written_through() {
    let room = Room::new();
    fs::create_dir(room.path("far")).unwrap();
    std::os::unix::fs::symlink("far/b.gguf", room.path("b.gguf")).unwrap();
    // The first time it points to nothing.
    for factor in [0.5, 0.25] {
        room.candor(&["mix", &format!("a.gguf*{factor}"), "-o", "b.gguf"]).assert().success();
        assert!(fs::symlink_metadata(room.path("b.gguf")).unwrap().is_symlink());
        assert!(Sidecar::read(&room.path("far/b.gguf")).is_ok());
    }
    std::os::unix::fs::symlink("loop.gguf", room.path("loop.gguf")).unwrap();
    let error = refusal(&mut room.candor(&["mix", "a.gguf", "-o", "loop.gguf"]));
    assert!(error.contains("its links go in a circle"), "{error}");
}

#[test]
fn what_is_replaced_is_told_of_or_kept() {
    let room = Room::new();
    let mix = |more: &[&str]| room.candor(&[&["mix", "a.gguf*2", "-o", "b.gguf"], more].concat());
    let first = mix(&["--no-clobber"]).assert().success();
    assert_eq!(String::from_utf8_lossy(&first.get_output().stderr), "");
    let before = fs::read(room.path("b.gguf")).unwrap();
    let error = refusal(&mut mix(&["--no-clobber"]));
    assert!(
        error.contains("it holds a vector of 3 heads at alpha 15, and --no-clobber"),
        "{error}"
    );
    assert_eq!(fs::read(room.path("b.gguf")).unwrap(), before);
    let again = mix(&[]).assert().success();
    let notes = String::from_utf8_lossy(&again.get_output().stderr).into_owned();
    assert_eq!(notes, "replaced a vector of 3 heads at alpha 15: b.gguf\n");

    // A finished capture is left as it is; one of other texts takes its place, and says so.
    let line = "Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source\n";
    for (data, answer) in [("one.csv", "up"), ("two.csv", "down")] {
        fs::write(room.path(data), format!("{line},,What is it?,{answer},{answer},sideways,\n"))
            .unwrap();
    }
    for (data, told) in [("one.csv", false), ("one.csv", false), ("two.csv", true)] {
        let capture = ["capture", "-m", MODEL, "-t", "1", "--data", data, "-o", "c.safetensors"];
        let done = room.candor(&capture).assert().success();
        let notes = String::from_utf8_lossy(&done.get_output().stderr).into_owned();
        assert_eq!(notes.contains("replaced a capture of 2 texts: c.safetensors"), told, "{notes}");
    }

    let card = ["card", "-m", MODEL, "--steer", "a.gguf", "-o", "card.md"];
    fs::write(room.path("card.md"), "mine").unwrap();
    let error = refusal(room.candor(&card).arg("--no-clobber"));
    assert!(error.contains("it holds a file of 4 B"), "{error}");
    let chat = ["chat", "-m", MODEL, "--steer", "none", "-t", "1", "--no-clobber"];
    room.candor(&chat).write_stdin("/save card.md\n").assert().success();
    assert_eq!(fs::read_to_string(room.path("card.md")).unwrap(), "mine");
}

#[test]
fn sizes_that_cannot_be_meant_are_told_at_once() {
    let room = Room::new();
    let of = |name: &str| [name, "-m", MODEL, "-t", "1"].map(str::to_owned);
    let refused = |name: &str, more: &[&str]| {
        let mut command = room.candor(&[]);
        let start = std::time::Instant::now();
        let error = refusal(command.args(of(name)).args(more));
        // Seconds on a loaded machine, where the work would take hours.
        assert!(start.elapsed().as_secs() < 60, "{name} {more:?}");
        error
    };
    let error = refused("run", &["-p", "Why?", "-c", "2000000000", "--steer", "none"]);
    assert!(error.contains("context size: 2000000000 tokens take"), "{error}");
    let error = refused("bench", &["-p", "1000000"]);
    assert!(error.contains("a sequence of 1000000, and the model was trained on 512"), "{error}");
    for command in [["demo", "--draws", "100000000000"], ["eval", "--draws", "1001"]] {
        let output = room.candor(&command).assert().code(2).get_output().clone();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains("a whole number from 0 to 1000"), "{error}");
    }
    #[cfg(unix)]
    {
        let error = refused("run", &["-f", "/dev/zero", "--steer", "none"]);
        assert!(error.contains("/dev/zero: it is longer than 16 MB"), "{error}");
        let preamble = room.path("preamble.txt");
        // A file of no bytes on the disk.
        fs::File::create(&preamble).unwrap().set_len(17_000_000).unwrap();
        // With the built-in model and questions.
        let arguments = ["eval", "--steer", "none", "--preamble", "preamble.txt", "-t", "1"];
        let error = refusal(&mut room.candor(&arguments));
        assert!(error.contains("preamble.txt: it is longer than 16 MB"), "{error}");
        let huge = room.path("huge.csv");
        fs::File::create(&huge).unwrap().set_len(1_000_000_001).unwrap();
        let error = refused("capture", &["-d", "huge.csv", "-o", "x.safetensors"]);
        assert!(error.contains("huge.csv: it is longer than 1000 MB"), "{error}");
    }
}

#[test]
fn logits_that_are_no_numbers_are_an_error_that_names_alpha() {
    let room = Room::new();
    let run = ["run", "-m", MODEL, "-p", "Why?", "-t", "1", "--steer", "a.gguf", "--alpha", "1e30"];
    let error = refusal(&mut room.candor(&run));
    assert!(error.contains("logits: at alpha 1e30 they are "), "{error}");
    assert!(error.contains("not finite") || error.contains("all the same"), "{error}");

    let model = common::load(Path::new(MODEL));
    let params = SessionParams::default().with_n_ctx(64).with_n_threads(Some(1));
    let mut session = Session::new(&model, &params).unwrap();
    let heads = vector(model.geometry(), &[(1, 0)], 1);
    session.set_vector(1, Some((&heads, 1e30))).unwrap();
    let prompt = model.tokenize("Why?", Special::Start).unwrap();
    let mut sampler = candor::session::Sampler::new(&Default::default()).unwrap();
    let mut generation = session.generate(&prompt, Steering::All(1)).unwrap();
    let error = generation.next(&mut sampler).unwrap_err().to_string();
    assert!(error.starts_with("logits: at alpha 1"), "{error}");
    // Without it the session goes on.
    let mut generation = session.generate(&prompt, Steering::Off).unwrap();
    assert!(generation.next(&mut sampler).unwrap().is_some());
}

#[test]
fn a_vector_that_would_not_be_scored_is_refused() {
    let room = Room::new();
    let words = ["eval", "-m", MODEL, "--cv", "2", "--steer", "a.gguf", "-d"];
    let questions = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo-questions.csv");
    let error = refusal(room.candor(&words).arg(questions));
    assert!(error.contains("--steer: --cv fits vectors of its own"), "{error}");
}

#[test]
fn a_mix_that_adds_nothing_is_refused() {
    let room = Room::new();
    for parts in [&["a.gguf*0"][..], &["a.gguf*0.5", "a.gguf*-0.5"]] {
        let arguments = [&["mix"], parts, &["-o", "b.gguf"]].concat();
        let error = refusal(&mut room.candor(&arguments));
        assert!(error.contains("their sum adds nothing to the model"), "{error}");
        assert!(!room.path("b.gguf").exists());
    }
}

#[test]
fn a_dash_is_no_file() {
    let room = Room::new();
    let data = data(&room);
    let data = data.to_str().unwrap();
    for arguments in [
        &["mix", "a.gguf*0.5", "-o", "-"][..],
        &["fit", "-m", MODEL, "-d", data, "-o", "-"],
        &["capture", "-m", MODEL, "-d", data, "-o", "-"],
        &["bake", "-m", MODEL, "--steer", "a.gguf", "-o", "-"],
        &["export", "--format", "control-vector", "-m", MODEL, "--steer", "a.gguf", "-o", "-"],
    ] {
        let error = refusal(&mut room.candor(arguments));
        assert!(
            error.contains("-: this is no text to print: name a file"),
            "{arguments:?}: {error}"
        );
        assert!(!room.path("-").exists(), "{arguments:?}");
    }
}

#[test]
fn a_strength_that_no_model_survives_makes_no_vector() {
    let room = Room::new();
    let all = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo-questions.csv");
    let all = fs::read_to_string(all).unwrap();
    let some: Vec<&str> = all.lines().take(41).collect();
    fs::write(room.path("some.csv"), some.join("\n")).unwrap();
    for alpha in ["1e30", "-3e38"] {
        let fit = ["fit", "-m", MODEL, "-d", "some.csv", "-k", "1", "-o", "b.gguf", "-t", "1"];
        let error = refusal(room.candor(&fit).args(["--alpha", alpha]));
        assert!(error.contains("under which no model says anything"), "{error}");
        assert!(!room.path("b.gguf").exists());
    }
    let error = refusal(&mut room.candor(&["mix", "a.gguf*1e30", "-o", "b.gguf"]));
    assert!(error.contains("under which no model says anything"), "{error}");
}

#[test]
fn a_strength_without_a_vector_is_wrong_usage() {
    let room = Room::new();
    fs::copy(MODEL, room.path("other.gguf")).unwrap();
    fs::remove_file(room.path("a.gguf")).unwrap();
    for steer in [&[][..], &["--steer", "none"]] {
        let run = ["run", "-m", "other.gguf", "-p", "Why?", "-n", "1", "-t", "1", "--alpha", "5"];
        let output = room.candor(&run).args(steer).assert().code(2).get_output().clone();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.stdout.is_empty() && error.contains("--alpha: 5 is a strength"), "{error}");
    }
    let chat = ["chat", "-m", "other.gguf", "-t", "1", "--alpha", "5"];
    room.candor(&chat).write_stdin("Why?\n").assert().code(2);
    // 0 is off, whatever there is.
    let run = ["run", "-m", "other.gguf", "-p", "Why?", "-n", "1", "-t", "1", "--alpha", "0"];
    room.candor(&run).assert().success();
}

#[test]
fn a_gate_without_a_vector_is_refused() {
    let room = Room::new();
    fs::copy(MODEL, room.path("other.gguf")).unwrap();
    fs::remove_file(room.path("a.gguf")).unwrap();
    let questions = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo-questions.csv");
    for (command, more) in
        [("run", &["-p", "Why?"][..]), ("chat", &[]), ("eval", &["-d", questions, "--limit", "4"])]
    {
        for steer in ["none", "auto"] {
            let mut words =
                vec![command, "-m", "other.gguf", "-t", "1", "--gate", "0.5", "--steer", steer];
            words.extend(more);
            let error = refusal(room.candor(&words).write_stdin("Why?\n"));
            let is_told =
                error.contains("nothing steers") || error.contains("there is none beside");
            assert!(is_told, "{words:?}: {error}");
        }
    }
}
