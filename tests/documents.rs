//! What `--json` prints: one document of every command, results and failures alike, that names its
//! schema and is what the schema says.
#![cfg(feature = "cli")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use candor::gguf::Gguf;
use common::program::candor;
use common::sidecar::sidecar;
use common::steering::layer_vector;
use serde_json::Value;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo.gguf");

fn schemas() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/src/schemas")
}

/// The name of the schema that a document gives, to which it must keep.
fn name_of(what: &str, document: &Value) -> String {
    let named = document["schema"].as_str().unwrap_or_else(|| panic!("{what}: {document}"));
    let name = named.strip_prefix("candor.").and_then(|name| name.split_once('/'));
    let (name, version) = name.unwrap_or_else(|| panic!("{what}: {named}"));
    assert!(version.parse::<u32>().is_ok(), "{what}: {named}");
    let path = schemas().join(format!("{name}.json"));
    let schema = serde_json::from_str(&fs::read_to_string(&path).expect(name)).expect(name);
    let validator = jsonschema::draft202012::new(&schema).expect(name);
    let errors: Vec<String> =
        validator.iter_errors(document).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert!(errors.is_empty(), "{what}: {errors:#?}");
    let nothing = serde_json::json!({ "schema": named });
    assert!(!validator.is_valid(&nothing) || name == "inspect-metadata", "{name} takes anything");
    name.to_owned()
}

/// Runs the program in a folder of its own.
struct Room(tempfile::TempDir);

impl Room {
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn candor(&self, arguments: &str) -> Command {
        let mut command = candor(self.0.path());
        command.current_dir(self.0.path()).args(arguments.split(' ')).arg("--json");
        command
    }

    fn document(&self, arguments: &str, code: i32) -> (String, Value) {
        self.document_of(arguments, &mut self.candor(arguments), code)
    }

    fn document_of(&self, what: &str, command: &mut Command, code: i32) -> (String, Value) {
        let output = command.output().expect("it runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{what}: {stderr}");
        let document: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{what}: {error}: {stderr}"));
        (name_of(what, &document), document)
    }
}

#[test]
fn every_command_prints_what_its_schema_says() {
    let room = Room(tempfile::tempdir().unwrap());
    fs::copy(MODEL, room.path("demo.gguf")).unwrap();
    for name in ["sight.gguf", "sight-mmproj.gguf"] {
        fs::copy(Path::new(MODEL).with_file_name(name), room.path(name)).unwrap();
    }
    let model = common::load(Path::new(MODEL));
    let layers = layer_vector(model.geometry(), &[1, 2], 1);
    sidecar(&model, &layers, 2.0).write(&room.path("layers.gguf")).unwrap();

    let mut seen = BTreeSet::new();
    for arguments in [
        "capture -m demo.gguf -d data.csv -o a.safetensors -t 1",
        "fit -k 2 --alpha 8 --activations a.safetensors -m demo.gguf -d data.csv -o steer.gguf -t 1",
        "eval -m demo.gguf -d data.csv --steer steer.gguf --draws 1 --limit 6 -t 1 --neutral few.txt --report r",
        "sweep -m demo.gguf -d data.csv --cv 2 -k 1,2 --alpha 2,8 --draws 1 --limit 8 -t 1 --neutral few.txt",
        "transfer -m demo.gguf -d data.csv -d other.csv -t 1",
        "export -m demo.gguf --steer steer.gguf --format control-vector -o control.gguf -t 1",
        "export -m demo.gguf --steer layers.gguf --format control-vector -o exact.gguf -t 1",
        "import -m demo.gguf exact.gguf -o imported.gguf --alpha 2",
        "mix steer.gguf*2 -o mixed.gguf",
        "card --steer steer.gguf -m demo.gguf -o card.md",
        "run -m demo.gguf -p Why? -n 4 -t 1 --steer steer.gguf",
        "bake -m demo.gguf --steer steer.gguf -o baked.gguf -t 1",
        "bench -m demo.gguf -p 16 -n 4 -r 1 --min-time 0 -t 1",
        "bench capture -m demo.gguf -d data.csv --limit 8 -r 1 --min-time 0 -t 1",
        "bench probe --rows 64 --heads 4 --dim 8",
        "bench select -m demo.gguf -d data.csv --limit 1 --heads 2 -t 1",
        "inspect demo.gguf",
        "inspect steer.gguf",
        "inspect steer.gguf --verify -m demo.gguf -t 1",
        "inspect control.gguf",
        "inspect a.safetensors",
        "inspect steer.gguf --metadata",
        "devices",
        "sight tasks pictures -n 18 -t chart",
        "sight probe -m sight.gguf --mmproj sight-mmproj.gguf -d pictures/tasks.jsonl -t 1 --no-untrained --report sight",
    ] {
        if arguments.starts_with("capture") {
            let questions = include_str!("../models/demo-questions.csv");
            let few: Vec<&str> = questions.lines().take(25).collect();
            for name in ["data.csv", "other.csv"] {
                fs::write(room.path(name), few.join("\n") + "\n").unwrap();
            }
            let text = "The road goes down to the sea.\nThe cook counted the plates twice.\n";
            fs::write(room.path("few.txt"), text.repeat(2)).unwrap();
        }
        seen.insert(room.document(arguments, 0).0);
    }
    let chat = "chat -m demo.gguf -n 4 --temp 0 -t 1 --steer steer.gguf";
    let (name, _) = room.document_of(chat, room.candor(chat).write_stdin("Why?\n"), 0);
    seen.insert(name);
    // The file of a report is the same document.
    let report = fs::read_to_string(room.path("r/report.json")).unwrap();
    assert_eq!(name_of("report.json", &serde_json::from_str(&report).unwrap()), "eval");
    let page = fs::read_to_string(room.path("sight/report.html")).unwrap();
    for part in
        ["depth-1", "accuracy-v-chart", "accuracy-d-chart", "data:image/png;base64,", "<rect"]
    {
        assert!(page.contains(part), "{part} is missing");
    }
    // Some are printed elsewhere: `demo` takes a minute (`tests/demo.rs`), a worker never ends
    // (`tests/rpc.rs`), nor does a server, `attach` asks a program that runs (`tests/plugin.rs`);
    // failures are below.
    seen.extend(["attach", "demo", "demo-sight", "serve", "worker", "error"].map(str::to_owned));
    let files = fs::read_dir(schemas()).unwrap().map(|file| file.unwrap().file_name());
    let files = files.map(|name| name.into_string().unwrap());
    let known: BTreeSet<String> = files
        .filter_map(|name| name.strip_suffix(".json").map(str::to_owned))
        .filter(|name| !name.ends_with(".schema"))
        .collect();
    assert_eq!(seen, known);
}

#[test]
fn a_failure_is_a_document_too() {
    let room = Room(tempfile::tempdir().unwrap());
    let (name, document) = room.document("inspect absent.gguf", 1);
    assert_eq!((name.as_str(), &document["kind"]), ("error", &"Io".into()));
    assert!(document["error"].as_str().unwrap().contains("absent.gguf"), "{document}");
    assert_eq!(document["exit_code"], 1);
    let (name, document) = room.document("inspect --no-such-option", 2);
    assert_eq!((name.as_str(), &document["kind"]), ("error", &"Usage".into()));
    assert_eq!(document["exit_code"], 2);

    // A verdict is the one document that there is.
    let other = common::fixture::Fixture::new(common::fixture::Arch::Llama).write(room.0.path());
    let model = common::load(Path::new(MODEL));
    let layers = layer_vector(model.geometry(), &[1], 1);
    let stranger = sidecar(&model, &layers, 2.0);
    stranger.write(&room.path("stranger.gguf")).unwrap();
    assert!(Gguf::open(&other).is_ok());
    let mut refused = room.candor("inspect stranger.gguf --verify -t 1");
    let output = refused.arg("-m").arg(&other).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let document: Value = serde_json::from_slice(&output.stdout).expect("one document");
    assert!(["inspect", "error"].contains(&name_of("verify", &document).as_str()));

    // Without --json, stdout stays empty.
    let mut plain = candor(room.0.path());
    common::program::refusal(plain.args(["inspect", "absent.gguf"]));
}
