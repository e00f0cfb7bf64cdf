//! Bad input: a clear error that names the file and the place, exit code 1, and nothing written.
#![cfg(feature = "cli")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use candor::gguf::TensorType;
use common::fixture::{Arch, Fixture};
use common::program::{candor, misuse, refusal};
use predicates::prelude::PredicateBooleanExt as _;

const STATEMENTS: &str =
    "statement,label\nsnow is white,1\nsnow is green,0\nfire is hot,1\nfire is wet,0\n";

/// A folder with a small model and a small data set.
struct Bench {
    folder: tempfile::TempDir,
    model: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = Fixture::new(Arch::Llama).write(folder.path());
        fs::write(folder.path().join("facts.csv"), STATEMENTS).unwrap();
        Self { folder, model }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// What `fit` says of this model and data.
    fn fit(&self, model: &Path, data: &Path) -> String {
        let message = refusal(
            candor(self.folder.path())
                .args(["fit", "-m"])
                .arg(model)
                .arg("--data")
                .arg(data)
                .arg("-o")
                .arg(self.path("out.gguf")),
        );
        assert!(!self.path("out.gguf").exists(), "nothing is written");
        message
    }

    fn fit_data(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        self.fit(&self.model, &self.write(name, content))
    }

    fn fit_model(&self, content: impl AsRef<[u8]>) -> String {
        self.fit(&self.write("other.gguf", content), &self.path("facts.csv"))
    }

    /// A sidecar for the model.
    fn sidecar(&self) -> PathBuf {
        let path = self.path("steer-facts-x.gguf");
        candor(self.folder.path())
            .args(["fit", "-k", "3", "-m"])
            .arg(&self.model)
            .arg("--data")
            .arg(self.path("facts.csv"))
            .arg("-o")
            .arg(&path)
            .assert()
            .success();
        path
    }

    /// What `run` says of this sidecar for this model.
    fn run(&self, model: &Path, sidecar: &Path) -> String {
        refusal(
            candor(self.folder.path())
                .args(["run", "-p", "snow", "-n", "2", "-m"])
                .arg(model)
                .arg("--steer")
                .arg(sidecar),
        )
    }
}

#[test]
fn refuses_a_file_that_is_not_gguf() {
    let message = Bench::new().fit_model("hello");
    assert!(message.contains("other.gguf") && message.contains("not GGUF"), "{message}");
}

#[test]
fn refuses_a_truncated_model_and_says_where_it_ends() {
    let bench = Bench::new();
    let bytes = fs::read(&bench.model).unwrap();
    let message = bench.fit_model(&bytes[..bytes.len() / 2]);
    assert!(message.contains("tensor") && message.contains("incomplete"), "{message}");
    for n in [4, 20, 200, bytes.len() - 1] {
        bench.fit_model(&bytes[..n]);
    }
}

#[test]
fn refuses_a_missing_model_and_missing_data_by_name() {
    let bench = Bench::new();
    let message = bench.fit(&bench.path("absent.gguf"), &bench.path("facts.csv"));
    assert!(message.contains("absent.gguf") && message.contains("No such file"), "{message}");
    let message = bench.fit(&bench.model, &bench.path("absent.csv"));
    assert!(message.contains("absent.csv") && message.contains("No such file"), "{message}");
    assert!(message.contains("built in: truthfulqa"), "{message}");
    for name in ["TruthfulQA.csv", "truthfullqa"] {
        let message = bench.fit(&bench.model, &bench.path(name));
        assert!(message.contains("`--data truthfulqa` fetches it"), "{message}");
    }
}

#[test]
fn refuses_empty_and_one_class_data() {
    let bench = Bench::new();
    assert!(bench.fit_data("empty.csv", "statement,label\n").contains("holds no rows"));
    assert!(bench.fit_data("one.csv", "statement,label\na,1\nb,1\n").contains("only true rows"));
}

#[test]
fn names_the_line_of_a_malformed_row() {
    let bench = Bench::new();
    let message = bench.fit_data("bad.csv", "statement,label\na,1\nb,perhaps\n");
    assert!(message.contains("bad.csv, line 3"), "{message}");
    let message = bench.fit_data("short.csv", "statement,label\na,1\nb\n");
    assert!(message.contains("short.csv, line 3"), "{message}");
}

#[test]
fn refuses_a_text_longer_than_the_context_and_names_its_line() {
    let long = format!("{STATEMENTS}\"{}\",1\n", "snow ".repeat(2000));
    let message = Bench::new().fit_data("long.csv", long);
    assert!(message.contains("long.csv, line 6") && message.contains("-c"), "{message}");
}

#[test]
fn refuses_more_heads_than_there_are_before_any_work() {
    let bench = Bench::new();
    let message = misuse(
        candor(bench.folder.path())
            .args(["fit", "-k", "13", "-m"])
            .arg(&bench.model)
            .arg("--data")
            .arg(bench.path("facts.csv")),
    );
    assert!(message.contains("13 heads") && message.contains("12"), "{message}");
}

#[test]
fn tunes_on_data_without_questions_only_when_asked_to() {
    let bench = Bench::new();
    // Without -m the built-in model serves, for which tuning is the default.
    let fit = |arguments: &[&str]| {
        let mut command = candor(bench.folder.path());
        command.arg("fit").args(arguments).arg("--data").arg(bench.path("facts.csv"));
        command
    };
    fit(&[]).assert().success();
    assert!(refusal(&mut fit(&["--tune"])).contains("--tune: needs questions"));
}

#[test]
fn refuses_activations_that_were_captured_in_another_form() {
    let bench = Bench::new();
    let fit = |arguments: &[&str]| {
        let mut command = candor(bench.folder.path());
        command.args(["fit", "-k", "3", "-m"]).arg(&bench.model);
        command.arg("--data").arg(bench.path("facts.csv"));
        command.arg("--activations").arg(bench.path("facts.safetensors")).args(arguments);
        command
    };
    fit(&[]).assert().success();
    let message = refusal(&mut fit(&["--template", "Fact: {answer}"]));
    assert!(message.contains("`Fact: {answer}`") && message.contains("--template"), "{message}");
    let other = Fixture::new(Arch::Llama).seed(9).write(bench.folder.path());
    let mut fit = candor(bench.folder.path());
    fit.args(["fit", "-k", "3", "-m"]).arg(&other).arg("--data").arg(bench.path("facts.csv"));
    let message = refusal(fit.arg("--activations").arg(bench.path("facts.safetensors")));
    assert!(message.contains("another model") && !message.contains("--force"), "{message}");
}

#[test]
fn refuses_a_sidecar_of_another_model_unless_forced() {
    let bench = Bench::new();
    let sidecar = bench.sidecar();
    let other = Fixture::new(Arch::Llama).seed(9).write(bench.folder.path());
    let message = bench.run(&other, &sidecar);
    assert!(message.contains("another model") && message.contains("--force"), "{message}");
    candor(bench.folder.path())
        .args(["run", "-p", "snow", "-n", "2", "--force", "-m"])
        .arg(&other)
        .arg("--steer")
        .arg(&sidecar)
        .assert()
        .success()
        .stderr(predicates::str::contains("warning"))
        .stderr(predicates::str::contains("--force").not());
}

#[test]
fn accepts_a_sidecar_for_another_quantization_of_its_model() {
    let bench = Bench::new();
    let sidecar = bench.sidecar();
    for kind in [TensorType::Q8_0, TensorType::Q4_0] {
        let quantized = Fixture::new(Arch::Llama).quantized(kind).write(bench.folder.path());
        candor(bench.folder.path())
            .args(["run", "-p", "snow", "-n", "2", "-m"])
            .arg(&quantized)
            .arg("--steer")
            .arg(&sidecar)
            .assert()
            .success();
    }
}

#[test]
fn refuses_sidecars_that_are_damaged_or_no_sidecars() {
    let bench = Bench::new();
    let bytes = fs::read(bench.sidecar()).unwrap();
    let with_nan = {
        // The last tensor data of the file are probe parameters or accuracies: floats all.
        let mut bytes = bytes.clone();
        let n = bytes.len();
        for word in bytes[n - 64..].chunks_exact_mut(4) {
            word.copy_from_slice(&f32::NAN.to_le_bytes());
        }
        bytes
    };
    let damaged: [(&str, &[u8]); 3] = [
        ("nan.gguf", &with_nan),
        ("short.gguf", &bytes[..bytes.len() - 40]),
        ("text.gguf", b"not a file"),
    ];
    for (name, content) in damaged {
        let message = bench.run(&bench.model, &bench.write(name, content));
        assert!(message.contains(name), "{message}");
    }
    let message = bench.run(&bench.model, &bench.model);
    assert!(message.contains("sidecar"), "{message}");
}

#[test]
fn refuses_a_sidecar_as_a_model() {
    let bench = Bench::new();
    let message = bench.fit(&bench.sidecar(), &bench.path("facts.csv"));
    assert!(message.contains("adapter"), "{message}");
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let folder = tempfile::tempdir().unwrap();
    for args in [
        &["fit", "--heads", "0"][..],
        &["fit", "--alpha", "nan"],
        &["fit", "--kl-budget", "nan"],
        &["demo", "--kl-budget", "0"],
        &["run", "-p", "a", "--temp", "inf"],
        &["run", "-p", "a", "--top-k=-1"],
        &["run", "-p", "a", "-t", "513"],
        &["run", "-p", "a", "--top-p", "0"],
        &["chat", "--min-p", "1.5"],
        &["unknown"],
        &["capture"],
        &[],
    ] {
        candor(folder.path()).args(args).assert().code(2);
    }
}

#[test]
fn writes_over_no_file_that_it_reads_or_writes_besides() {
    let bench = Bench::new();
    let sidecar = bench.sidecar();
    let (model, sidecar) = (bench.model.to_str().unwrap(), sidecar.to_str().unwrap());
    let before = ["facts.csv", model, sidecar].map(|name| fs::read(bench.path(name)).unwrap());
    let asked = r#"{"question": "Why?", "true": ["so"], "false": ["no"]}"#;
    fs::write(bench.path("asked.jsonl"), asked).unwrap();
    let fit = ["fit", "-k", "3", "-m", model, "-d", "facts.csv", "-o"];
    let capture = ["capture", "-m", model, "-d", "facts.csv", "-o"];
    let card = ["card", "-m", model, "--steer", sidecar, "-o"];
    let train = ["-d", "asked.jsonl", "--method", "dpo", "--curve"];
    let fit_dpo = [&["fit", "-k", "3", "-m", model][..], &train].concat();
    let cases: [(&[&str], &[&str], &str); 11] = [
        (&fit_dpo, &["-"], "--curve -: cannot be stdout"),
        (
            &fit_dpo,
            &["x.gguf", "-o", "x.gguf"],
            "the training curve (--curve) and the vector (-o) would be the same file",
        ),
        (&fit, &[model], "it is the model"),
        (&fit, &["./facts.csv"], "it is the data"),
        (
            &fit,
            &["new.st", "--activations", "new.st"],
            "the activations and the vector (-o) would be the same file",
        ),
        (
            &fit,
            &["new.svg", "--plot", "new.svg"],
            "the plot (--plot) and the vector (-o) would be the same file",
        ),
        (&fit, &["absent/new.gguf"], "no folder absent"),
        (&capture, &[model], "it is the model"),
        (&capture, &["facts.csv"], "it is the data"),
        (&capture, &["absent/new.st"], "no folder absent"),
        (&card, &[sidecar], "it is the sidecar"),
    ];
    for (command, target, expected) in cases {
        let mut program = candor(bench.folder.path());
        let message = refusal(program.current_dir(bench.folder.path()).args(command).args(target));
        assert!(message.contains(expected), "{message}");
    }
    let after = ["facts.csv", model, sidecar].map(|name| fs::read(bench.path(name)).unwrap());
    assert!(before == after);
    let written = ["new.st", "new.svg", "new.gguf"].map(|name| bench.path(name).exists());
    assert_eq!(written, [false; 3]);
}

#[test]
fn wrong_usage_says_what_would_be_right() {
    let folder = tempfile::tempdir().unwrap();
    for (args, expected) in [
        (&["run", "-p", "a", "--temp", "-1"][..], "expected a number from 0"),
        (&["run", "-p", "a", "-n", "-5"], "expected a whole number from 1"),
        (&["fit", "-k", "-3"], "expected a whole number from 1"),
        (&["run", "-p", "a", "-t", "100000"], "from 1 to 512"),
        (&["run"], "--prompt <TEXT>|--file <FILE>"),
        (&["run", "-p", "a", "--steer", "none", "--alpha", "3"], "--alpha: 3 is a strength"),
        (&["run", "-p", "a", "-ctk", "q9"], "`q9` is none of f16"),
        (&["run", "-p", "a", "-ctk", "q9"], "Usage: candor run"),
        (&["fit", "-k", "999", "--alpha", "3"], "999 heads cannot be chosen from"),
    ] {
        let assert = candor(folder.path()).args(args).assert().code(2);
        assert.stderr(predicates::str::contains(expected));
    }
    for (args, expected) in [
        (&["bench", "probe", "--rows", "5"][..], "--rows: 5, and at least 25"),
        (&["bake", "--steer", "none", "-o", "b.gguf"], "--steer none: leaves nothing to do"),
    ] {
        let message = refusal(candor(folder.path()).args(args));
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn a_folder_an_empty_file_and_a_cache_that_cannot_be_are_named() {
    let bench = Bench::new();
    let message = bench.fit(bench.folder.path(), &bench.path("facts.csv"));
    assert!(message.contains("it is a folder"), "{message}");
    assert!(bench.fit_model("").contains("the file is empty"));
    let message = refusal(candor(&bench.path("facts.csv")).args(["run", "-p", "a"]));
    assert!(message.contains("CANDOR_CACHE"), "{message}");
}

#[test]
fn a_baked_models_note_is_text() {
    let bench = Bench::new();
    let sidecar = bench.sidecar();
    let baked = bench.path("baked.gguf");
    let bake = |command: &mut assert_cmd::Command| {
        command.arg("-m").arg(&bench.model).arg("--steer").arg(&sidecar).arg("-o").arg(&baked);
        command.assert().success();
    };
    bake(candor(bench.folder.path()).arg("bake"));
    candor(bench.folder.path())
        .args(["run", "-p", "snow", "-n", "2", "-m"])
        .arg(&baked)
        .assert()
        .success()
        .stderr(predicates::str::contains("is baked into this model"))
        .stderr(predicates::str::contains('\u{fffd}').not());
}

/// Two programs at work on the same model and data at once have a store each.
#[test]
fn two_fits_at_once_do_not_disturb_each_other() {
    let bench = Bench::new();
    std::thread::scope(|scope| {
        let fits: Vec<_> = (0..4)
            .map(|i| {
                let mut fit = candor(bench.folder.path());
                fit.args(["fit", "-k", "3", "--seed", &(i % 2).to_string(), "-m"]);
                fit.arg(&bench.model).arg("--data").arg(bench.path("facts.csv"));
                fit.arg("-o").arg(bench.path(&format!("{i}.gguf")));
                scope.spawn(move || fit.assert().success())
            })
            .collect();
        for fit in fits {
            fit.join().expect("it succeeds");
        }
    });
    let left = fs::read_dir(bench.path("activations")).unwrap();
    assert_eq!(left.count(), 0, "nothing is left in the cache");
}
