//! `candor inspect`: models, sidecars, stores, and what is neither.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use candor::capture::store::{Layout, Opened, RowSet, StoreWriter};
use candor::gguf::{Gguf, TensorType};
use candor::probe::Probe;
use candor::steer::{
    About, DirectionKind, Evidence, Positions, Sidecar, SteeredHead, SteeringVector, default_path,
};
use candor::{Site, fingerprint};
use common::fixture::{Arch, Fixture, N_HEAD, N_LAYER};
use predicates::prelude::*;
use serde_json::{Value, json};

fn inspect(file: &Path) -> Command {
    let mut command = Command::cargo_bin("candor").expect("the program is built");
    command.arg("inspect").arg(file);
    command
}

/// What `--json` writes.
fn json_of(file: &Path) -> Value {
    let output = inspect(file).arg("--json").assert().success().get_output().stdout.clone();
    serde_json::from_slice(&output).expect("one JSON document")
}

/// A sidecar that steers 24 of the 32 heads of a model: 4 layers of 8 heads of 2 values.
fn sidecar(model_fingerprint: String) -> Sidecar {
    let accuracy = |site: Site| 0.5 + 0.015625 * (site.layer * 8 + site.head) as f32;
    let sites = (0..4).flat_map(|layer| (0..8).map(move |head| Site::new(layer, head)));
    let heads = sites.clone().skip(8).map(|site| SteeredHead {
        site,
        direction: vec![0.0, 1.0],
        sigma: 0.25,
        accuracy: accuracy(site),
        probe: Probe { weight: vec![1.0, 2.0], bias: 0.5 },
    });
    Sidecar {
        vector: SteeringVector::new(4, 8, 2, heads.collect()).expect("sound heads"),
        about: About {
            architecture: "llama".to_owned(),
            name: "truth".to_owned(),
            description: Some("\x1b[2Jmore truthful answers".to_owned()),
            license: Some("MIT".to_owned()),
            author: None,
            languages: Vec::new(),
            base_model: None,
            model_name: "tiny llama".to_owned(),
            model_fingerprint,
            candor_version: "0.1.0".to_owned(),
            direction: DirectionKind::MassMean,
            alpha: 15.0,
            positions: Positions::Generated,
            seed: 42,
            data_name: "TruthfulQA.csv".to_owned(),
            data_sha256: "ab".repeat(32),
            prompt: "Q: {question} A: {answer}".to_owned(),
            split: "80/20 by question".to_owned(),
            head_accuracy: sites.map(accuracy).collect(),
            head_effect: Vec::new(),
            head_cost: Vec::new(),
            evidence: Evidence::default(),
            method: Default::default(),
            selection: Default::default(),
        },
    }
}

fn written_sidecar(folder: &Path) -> PathBuf {
    let path = folder.join("s.gguf");
    sidecar("01".repeat(32)).write(&path).expect("writable");
    path
}

#[test]
fn shows_a_model_without_loading_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let arch = Arch::Qwen3;
    let model = Fixture::new(arch).quantized(TensorType::Q8_0).write(folder.path());
    let hash = fingerprint(&Gguf::open(&model).expect("sound")).expect("a model");
    let beside = default_path(&model, "truth").expect("a name");
    sidecar(hash.clone()).write(&beside).expect("writable");

    let facts = json_of(&model);
    assert_eq!(facts["kind"], "model");
    assert_eq!(facts["name"], "tiny qwen3");
    assert_eq!(facts["architecture"], "qwen3");
    assert_eq!(facts["fingerprint"], hash);
    assert_eq!(
        facts["geometry"],
        json!({
            "n_layer": N_LAYER, "n_head": N_HEAD, "n_head_kv": arch.n_head_kv(),
            "d_head": arch.d_head(), "n_embd": 64,
        })
    );
    assert_eq!(facts["has_chat_template"], false);
    assert_eq!(facts["sidecars"], json!([beside.display().to_string()]));
    let types = facts["tensor_types"].as_array().expect("a list");
    let names: Vec<&Value> = types.iter().map(|kind| &kind["type"]).collect();
    assert_eq!(names, ["q8_0", "f32"]);
    let sum: u64 = types.iter().filter_map(|kind| kind["n_byte"].as_u64()).sum();
    assert_eq!(facts["n_byte"], sum);

    inspect(&model)
        .assert()
        .success()
        .stdout(predicate::str::contains(format!("fingerprint    {hash}\n")))
        .stdout(predicate::str::contains("3 layers of 4 heads (2 key/value heads) of 32 values"))
        .stdout(predicate::str::contains("\x1b").not());
}

#[test]
fn shows_a_model_that_llama_cpp_made() {
    let Some(model) = common::shared("models/stories260K.gguf") else { return };
    let facts = json_of(&model);
    assert_eq!(facts["architecture"], "llama");
    assert_eq!(
        (&facts["geometry"]["n_head"], &facts["geometry"]["n_head_kv"]),
        (&json!(8), &json!(4))
    );
    assert_eq!(facts["n_vocab"], 512);
}

#[test]
fn shows_the_built_in_model() {
    let cache = tempfile::tempdir().expect("a folder");
    let mut command = Command::cargo_bin("candor").expect("the program is built");
    command.arg("inspect").env("CANDOR_CACHE", cache.path());
    command.assert().success().stdout(predicate::str::contains("demo.gguf"));
}

#[test]
fn shows_a_sidecar_with_its_best_heads_first() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = written_sidecar(folder.path());
    let facts = json_of(&path);
    assert_eq!(facts["kind"], "sidecar");
    assert_eq!(facts["fingerprint"], sidecar("01".repeat(32)).fingerprint());
    assert_eq!(facts["model"]["fingerprint"], "01".repeat(32));
    assert_eq!(facts["data"], json!({"name": "TruthfulQA.csv", "sha256": "ab".repeat(32)}));
    assert_eq!(
        (&facts["k"], &facts["alpha"], &facts["seed"]),
        (&json!(24), &json!(15.0), &json!(42))
    );
    assert_eq!((&facts["direction"], &facts["author"]), (&json!("mass-mean"), &Value::Null));
    let heads = facts["heads"].as_array().expect("a list");
    assert_eq!(heads.len(), 24);
    assert_eq!(heads[0], json!({"layer": 3, "head": 7, "accuracy": 0.984375, "sigma": 0.25}));

    inspect(&path)
        .assert()
        .success()
        .stdout(predicate::str::contains("    3     7    98.4 %  0.2500\n"))
        .stdout(predicate::str::contains("… and 4 more: candor inspect --all\n"))
        .stdout(predicate::str::contains("    3  88* 89* 91* 92* 94* 95* 97* 98*\n"))
        .stdout(predicate::str::contains("\x1b").not());
    inspect(&path).arg("--all").assert().stdout(predicate::str::contains("more:").not());
}

#[test]
fn draws_the_accuracies_of_a_sidecar() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = written_sidecar(folder.path());
    for (name, start) in [("heads.svg", "<svg".as_bytes()), ("heads.png", b"\x89PNG")] {
        let plot = folder.path().join(name);
        inspect(&path).arg("--plot").arg(&plot).assert().success();
        assert!(std::fs::read(&plot).expect("was drawn").starts_with(start));
    }
    inspect(&path)
        .args(["--plot", "heads.pdf"])
        .assert()
        .code(1)
        .stderr("error: plot heads.pdf: expected a file name ending in .svg or .png\n");
}

#[test]
fn shows_an_activation_store() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("activations");
    let layout = Layout {
        n_layer: 1,
        layers: vec![0],
        n_head: 2,
        d_head: 4,
        labels: vec![true, false, false],
        groups: vec![0, 0, 1],
        next_groups: Vec::new(),
        metadata: BTreeMap::from([("data".to_owned(), "facts.csv".to_owned())]),
    };
    let Ok(Opened::Fresh(mut writer)) = StoreWriter::open(&path, &layout) else {
        panic!("a new store");
    };
    for row in 0..3 {
        writer.write_row(RowSet::Main, row, 0, &[1.0; 8]).expect("a row");
    }
    writer.batch_done().expect("on the disk");
    writer.finish().expect("finished");

    let facts = json_of(&path);
    assert_eq!(facts["kind"], "store");
    assert_eq!(
        (&facts["n_row"], &facts["n_true"], &facts["n_question"]),
        (&json!(3), &json!(1), &json!(2))
    );
    assert_eq!(facts["metadata"]["data"], "facts.csv");
    inspect(&path).assert().stdout(predicate::str::contains("1 layers of 2 heads of 4 values"));
    inspect(&path)
        .args(["--plot", "a.svg"])
        .assert()
        .code(1)
        .stderr("error: --plot: only a sidecar has accuracies to draw\n");
}

#[test]
fn refuses_what_it_does_not_know() {
    let folder = tempfile::tempdir().expect("a folder");
    let refusal = |content: &[u8], message: &str| {
        let path = folder.path().join("file");
        std::fs::write(&path, content).expect("writable");
        let message = predicate::str::contains(message.to_owned());
        inspect(&path).assert().code(1).stdout("").stderr(message);
    };
    refusal(b"", "neither a GGUF file (a model or a sidecar) nor a safetensors file");
    refusal(b"Question,Answer\n", "neither a GGUF file");
    refusal(b"GGUF\x03", "is not a usable GGUF file: header:");
    refusal(b"\x02\0\0\0\0\0\0\0{}", "activation store");
    let missing = folder.path().join("missing.gguf");
    inspect(&missing).assert().code(1).stderr(predicate::str::contains("cannot read"));
    if let Some(projector) = common::shared("models/mmproj-tinygemma3.gguf") {
        let message = predicate::str::contains("holds a `clip-vision`, expected a model");
        inspect(&projector).assert().code(1).stderr(message);
    }
}

/// A sidecar of a vector that steers a fixture, beside it.
fn steering_sidecar(model: &Path, heads: &[(usize, usize)]) -> PathBuf {
    let file = Gguf::open(model).expect("sound");
    let geometry = candor::Geometry::read(&file).expect("a model");
    let sidecar = Sidecar {
        vector: common::steering::vector(geometry, heads, 1),
        about: About {
            head_accuracy: Vec::new(),
            alpha: 4.0,
            ..sidecar(fingerprint(&file).expect("a model")).about
        },
    };
    let path = default_path(model, "truth").expect("a name");
    sidecar.write(&path).expect("writable");
    path
}

#[test]
fn verifies_a_sidecar_on_its_model() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = Fixture::new(Arch::Llama).write(folder.path());
    let path = steering_sidecar(&model, &[(0, 1), (2, 3)]);
    let mut command = inspect(&path);
    command.arg("--verify").arg("-m").arg(&model);
    let facts = common::program::json(&mut command);
    let verify = &facts["verify"];
    assert_eq!(verify["fingerprint_matches"], true);
    assert_eq!(verify["off_is_off"], true);
    assert_eq!(verify["layers_in_graph"], json!([0, 2]));
    assert_eq!(verify["layers_in_callback"], json!([]));
    assert!(verify["kl"].as_f64().expect("a number") > 0.0);
    let completions = verify["completions"].as_array().expect("a list");
    assert_eq!(completions.len(), 3);
    assert!(completions.iter().any(|of| of["before"] != of["after"]), "{completions:?}");

    // Without a file it is the sidecar beside the model.
    let mut command = Command::cargo_bin("candor").expect("the program is built");
    command.args(["inspect", "--verify", "-m"]).arg(&model);
    let out = command.assert().success().stdout(predicate::str::contains("off is off, to the bit"));
    out.stdout(predicate::str::contains("made for this model     yes"));
}

#[test]
fn fails_where_a_sidecar_was_made_for_another_model() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = Fixture::new(Arch::Llama).write(folder.path());
    let path = steering_sidecar(&model, &[(1, 1)]);
    let other = Fixture::new(Arch::Llama).seed(1).write(folder.path());
    let mut command = inspect(&path);
    command.arg("--verify").arg("-m").arg(&other);
    command
        .assert()
        .code(1)
        .stdout(predicate::str::contains("made for this model     NO"))
        .stderr(predicate::str::contains("the sidecar was made for model"));
    let mut command = inspect(&model);
    command.arg("--verify").assert().code(1).stderr(predicate::str::contains("only a sidecar"));
}
