//! What stands in a stranger's file never commands the terminal, wherever the program prints it.
#![cfg(all(feature = "cli", feature = "serve"))]

mod common;
#[path = "common/parsers.rs"]
#[allow(dead_code)]
mod parsers;
#[path = "common/seeds.rs"]
#[allow(dead_code)]
mod seeds;

use std::path::{Path, PathBuf};
use std::process::Output;

use candor::gguf::{Builder, Gguf};
use common::fixture::{Arch, Fixture};

/// A title, a colour in the control characters of Latin-1, a bell, a line written over, and an order
/// turned round.
const COMMANDS: &str = "\x1b]0;owned\x07\u{9b}31m\rover\x08\u{202e}back\n";

/// The program as it writes to a terminal of colours: where it believes that nobody sees them it takes
/// out all commands, its own and others'.
fn candor(folder: &Path, args: &[&str], files: &[&Path]) -> Output {
    let mut command = assert_cmd::Command::new(assert_cmd::cargo::cargo_bin!("candor"));
    command.env("CANDOR_CACHE", folder).env("CLICOLOR_FORCE", "1").current_dir(folder);
    command.args(args).args(files).write_stdin("").output().expect("it runs")
}

/// Both streams, after a look for commands that are not the program's own colours.
fn shown(what: &str, output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
    let rest = text.replace("\x1b[", "");
    let raw = rest.chars().find(|&c| c.is_control() && c != '\n' || c == '\u{202e}');
    assert_eq!(raw, None, "{what}: in {text:?}");
    assert!(!text.contains("\nover"), "{what}: {text:?}");
    text
}

/// A file with commands as the value of every key that holds a text, but those that say what it is.
fn commanding(sound: &Builder, keep: &[&str]) -> Builder<'static> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    sound.write(&path).unwrap();
    let file = Gguf::open(&path).unwrap();
    let mut builder = Builder::new();
    for (key, value) in file.entries() {
        let is_text = value.as_str().is_some() && !keep.contains(&key);
        builder.set(key, if is_text { COMMANDS.into() } else { value.clone() });
    }
    for tensor in file.tensors() {
        builder.tensor(&tensor.name, &tensor.dims, tensor.kind, file.bytes(tensor).to_vec());
    }
    builder
}

/// The keys of a sidecar that hold one of a few words, or digits.
const WORDS: [&str; 8] = [
    "general.type",
    "adapter.type",
    "candor.method",
    "candor.direction",
    "candor.positions",
    "candor.selection",
    "candor.model.fingerprint",
    "candor.data.sha256",
];

fn written(folder: &Path, name: &str, builder: &Builder) -> PathBuf {
    let path = folder.join(name);
    builder.write(&path).unwrap();
    path
}

#[test]
fn inspect_commands_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let sidecar = written(folder.path(), "s.gguf", &commanding(&seeds::sidecar(), &WORDS));
    let model = commanding(&seeds::model(), &["general.architecture", "x.rope.scaling.type"]);
    let mut model = model;
    let model = written(folder.path(), "m.gguf", model.set("general.name", COMMANDS));
    for file in [&sidecar, &model] {
        for args in [&["inspect"][..], &["inspect", "--json"], &["inspect", "--all"]] {
            let output = candor(folder.path(), args, &[file]);
            assert!(output.status.success(), "{output:?}");
            assert!(shown("inspect", &output).contains("owned"), "the name is shown");
        }
    }
}

#[test]
fn errors_command_nothing_and_name_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let refused = |name: &str, path: &Path, args: &[&str], part: &str| {
        let output = candor(folder.path(), args, &[path]);
        assert_eq!(output.status.code(), Some(1), "{name}: {output:?}");
        let text = shown(name, &output);
        assert!(text.contains(name) && text.contains(part), "{name}: {text}");
        assert!(text.len() < 1000 && text.trim_end().lines().count() == 1, "{name}: {text}");
    };
    let mut builder = seeds::model();
    builder.set("general.type", COMMANDS);
    refused(
        "type.gguf",
        &written(folder.path(), "type.gguf", &builder),
        &["inspect"],
        "expected a model",
    );
    for key in WORDS.into_iter().filter(|&key| key != "general.type") {
        let mut builder = seeds::sidecar();
        builder.set(key, COMMANDS.repeat(50_000));
        refused("s.gguf", &written(folder.path(), "s.gguf", &builder), &["inspect"], key);
    }
    let mut key = seeds::model().to_bytes();
    let at = key.windows(9).position(|bytes| bytes == b"x.block_c").unwrap();
    key[at..at + 4].copy_from_slice(b"\x1b]0;");
    refused("key.gguf", &write("key.gguf", &key), &["inspect"], "is missing");

    // With a model at hand that is never asked: the data comes first.
    let fit = ["fit", "--data"];
    let label = format!("statement,label\na,\"{COMMANDS}\"\n");
    refused("label.csv", &write("label.csv", label.as_bytes()), &fit, "line 2");
    let columns = format!("\"{COMMANDS}\",b\n").repeat(2);
    refused("columns.csv", &write("columns.csv", columns.as_bytes()), &fit, "understood are");
    let json = serde_json::json!({ COMMANDS: 1 }).to_string();
    refused("key.jsonl", &write("key.jsonl", json.as_bytes()), &fit, "expected the keys");
    let json = serde_json::json!([COMMANDS.repeat(1000)]).to_string();
    refused("mc.json", &write("mc.json", json.as_bytes()), &fit, "not mc_task.json");
}

#[test]
fn a_model_and_its_neighbours_command_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut builder = Fixture::new(Arch::Llama).build();
    builder.set("general.name", COMMANDS);
    builder.set("tokenizer.chat_template", format!("{{{{ raise_exception({COMMANDS:?}) }}}}"));
    let model = written(folder.path(), "m.gguf", &builder);
    // A file's name is a stranger's, too.
    let mut sidecar = seeds::sidecar();
    sidecar.set("candor.model.fingerprint", "0".repeat(64));
    written(folder.path(), &format!("steer-{}-m.gguf", COMMANDS.replace('/', "")), &sidecar);
    let model = model.to_str().unwrap();
    let run =
        candor(folder.path(), &["run", "-p", "the", "-n", "1", "--verbose", "-m", model], &[]);
    assert!(run.status.success(), "{run:?}");
    let text = shown("run", &run);
    assert!(text.contains("was made for another model"), "{text}");
    let chat = candor(folder.path(), &["chat", "-m", model], &[]);
    assert_eq!(chat.status.code(), Some(1), "{chat:?}");
    assert!(shown("chat", &chat).contains("chat template failed"));
    let inspect = candor(folder.path(), &["inspect", model], &[]);
    assert!(shown("inspect", &inspect).contains("owned"));
}

#[test]
fn what_is_measured_commands_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut builder = Fixture::new(Arch::Llama).build();
    builder.set("general.name", COMMANDS);
    let model = written(folder.path(), "m.gguf", &builder);
    let write = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let rows: String = (0..12).map(|i| format!("the rain {i},{}\n", i % 2)).collect();
    let statements = write(&format!("{COMMANDS}.csv"), format!("statement,label\n{rows}"));
    let question = |i| format!(r#"{{"question": "rain {i}", "true": ["a"], "false": ["b"]}}"#);
    let questions: Vec<String> = (0..12).map(question).collect();
    let questions = write(&format!("{COMMANDS}.jsonl"), questions.join("\n"));
    let neutral = write("neutral.txt", "the rain\nthe sun\n".to_owned());
    let scored = ["--draws", "1", "--kl-budget", "1e9", "--alpha", "1", "--neutral"];
    let neutral = neutral.to_str().unwrap();
    let sweep = [&["sweep", "-k", "1"][..], &scored, &[neutral]].concat();
    let eval = [&["eval", "--cv", "2", "-k", "1", "-n", "2"][..], &scored, &[neutral]].concat();
    for (args, data) in
        [(&["transfer", "-k", "2"][..], &statements), (&sweep, &questions), (&eval, &questions)]
    {
        let files = [Path::new("-m"), &model, Path::new("--data"), data];
        let output = candor(folder.path(), &[args, &["-t", "1"]].concat(), &files);
        assert!(output.status.success(), "{output:?}");
        assert!(shown(args[0], &output).contains("owned"), "{}: the name is shown", args[0]);
    }
}
