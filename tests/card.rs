//! `candor card`: what is known of a vector, in Markdown.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use candor::gguf::{Gguf, TensorType};
use candor::steer::{
    About, DirectionKind, Evidence, LayerVector, Method, Positions, Selection, Sidecar,
    SteeringVector, default_path,
};
use candor::{Geometry, content, fingerprint};
use common::fixture::{Arch, Fixture};
use common::program::{candor, refusal};
use common::steering::vector;
use serde_json::json;

struct Shelf {
    folder: tempfile::TempDir,
    model: PathBuf,
    sidecar: Sidecar,
    path: PathBuf,
}

impl Shelf {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let model = Fixture::new(Arch::Llama).quantized(TensorType::Q8_0).write(folder.path());
        let file = Gguf::open(&model).expect("sound");
        let geometry = Geometry::read(&file).expect("a model");
        let n_site = geometry.n_layer * geometry.n_head;
        let mut vector = vector(geometry, &[(0, 1), (2, 3)], 1);
        // Numbers that no rounding of another machine's moves.
        vector = &vector * 0.0;
        let mut effect = vec![f32::NAN; n_site];
        (effect[1], effect[n_site - 1]) = (0.25, 0.5);
        let sidecar = Sidecar {
            vector,
            about: About {
                architecture: "llama".to_owned(),
                name: "truth | <b>".to_owned(),
                description: Some("Says what is so.\n# and nothing else".to_owned()),
                license: Some("MIT OR Apache-2.0".to_owned()),
                author: None,
                model_name: "tiny llama".to_owned(),
                languages: vec!["en".to_owned()],
                base_model: Some("owner/tiny-llama".to_owned()),
                model_fingerprint: fingerprint(&file).expect("a model"),
                candor_version: "0.1.0".to_owned(),
                direction: DirectionKind::MassMean,
                alpha: 7.5,
                positions: Positions::Generated,
                seed: 42,
                data_name: "facts".to_owned(),
                data_sha256: "ab".repeat(32),
                prompt: "Q: {question} A: {answer}".to_owned(),
                split: "80 % and 20 %".to_owned(),
                method: Method::Iti,
                selection: Selection::Effect,
                head_accuracy: vec![0.5; n_site],
                head_cost: effect.iter().map(|x| x / 64.0).collect(),
                evidence: Evidence {
                    content: Some(content(&model, None).expect("a file")),
                    ..Evidence::default()
                },
                head_effect: effect,
            },
        };
        let path = default_path(&model, "truth").expect("a name");
        sidecar.write(&path).expect("writable");
        Self { folder, model, sidecar, path }
    }

    fn card(&self) -> Command {
        let mut command = candor(self.folder.path());
        command.arg("card").arg("-m").arg(&self.model);
        command
    }

    fn text(&self, arguments: &[&str]) -> String {
        let output = self.card().args(arguments).args(["-o", "-"]).assert().success();
        String::from_utf8(output.get_output().stdout.clone()).expect("UTF-8")
    }

    /// What `candor eval` writes of a vector, and more.
    fn report(&self, vector_fingerprint: Option<String>) -> serde_json::Value {
        let row = |name: &str, mc1: f64| {
            json!({
                "name": name, "mc1": mc1, "mc2": 0.25, "mc3": 0.375, "ce": 1.5, "kl": 0.0625,
                "true": null, "info": null, "something new": [1],
                "interval": { "mc1": { "mean": mc1, "low": 0.125, "high": 0.875 } },
            })
        };
        json!({
            "candor": "0.1.0",
            "command": "candor eval --report r",
            "model": {
                "name": "tiny llama", "fingerprint": self.sidecar.about.model_fingerprint,
                "content": self.sidecar.about.evidence.content,
            },
            "data": { "name": "facts", "sha256": "ab".repeat(32) },
            "settings": {
                "vector": "2-fold", "vector_fingerprint": vector_fingerprint,
                "policy": "generated", "selection": "effect", "direction": "mass-mean",
                "prompt": "Q: {question} A: {answer}", "preamble": "", "kl_budget": null, "n_random": 3, "n_document": 40,
                "judge": "word for word", "seed": 1,
            },
            "folds": [{ "k": 2, "alpha": 7.5, "mc1": null }],
            "rows": [row("base", 0.5), row("iti", 0.75), row("random", 0.5)],
            "n_question": 12,
        })
    }

    fn write_report(&self, report: &serde_json::Value) -> PathBuf {
        let path = self.folder.path().join("report.json");
        std::fs::write(&path, report.to_string()).expect("writable");
        path
    }
}

fn of(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn says_what_was_measured() {
    let shelf = Shelf::new();
    let report = shelf.write_report(&shelf.report(Some(shelf.sidecar.fingerprint())));
    insta::assert_snapshot!(shelf.text(&["--report", of(&report)]));
}

#[test]
fn says_that_nothing_was_measured_where_nothing_was() {
    let shelf = Shelf::new();
    let text = shelf.text(&[]);
    assert!(text.contains("Nothing was measured"), "{text}");
    assert!(!text.contains("MC1"), "no empty table");
}

#[test]
fn knows_vectors_of_layers_alone() {
    let mut shelf = Shelf::new();
    let [n_layer, n_head, d_head] = {
        let vector = &shelf.sidecar.vector;
        [vector.n_layer(), vector.n_head(), vector.d_head()]
    };
    let directions = BTreeMap::from([(1, vec![0.5; 64])]);
    let layers = LayerVector::new(n_layer, 64, directions).expect("sound directions");
    shelf.sidecar.vector = SteeringVector::of_layers(n_head, d_head, layers).expect("a vector");
    shelf.sidecar.about.direction = DirectionKind::Given;
    shelf.sidecar.write(&shelf.path).expect("writable");
    let text = shelf.text(&[]);
    assert!(
        text.contains(
            "it moves 1 layer (of 3 layers) along one direction each, by 7.5 times its length"
        ),
        "{text}"
    );
    assert!(text.contains("## The layers") && text.contains("| 1 | 4.0000 |"), "{text}");
    assert!(text.contains("candor export --format control-vector"), "{text}");
    assert!(!text.contains("## The heads") && !text.contains("candor bake"), "{text}");
}

#[test]
fn lies_beside_the_sidecar() {
    let shelf = Shelf::new();
    shelf.card().assert().success();
    let card = std::fs::read_to_string(shelf.path.with_extension("md")).expect("was written");
    assert_eq!(card, shelf.text(&[]));
    // Front matter: what is between the first two lines of dashes.
    let front = card.strip_prefix("---\n").and_then(|rest| rest.split_once("\n---\n"));
    let (front, _) = front.expect("front matter comes first");
    assert!(front.contains("license: \"other\"\nlicense_name: \"MIT OR Apache-2.0\""), "{front}");
    assert!(front.lines().all(|line| line.starts_with("  - ")
        || line.contains(": ")
        || ["tags:", "language:"].contains(&line)));
}

#[test]
fn says_of_cross_validation_that_another_vector_was_scored() {
    let shelf = Shelf::new();
    let report = shelf.write_report(&shelf.report(None));
    let text = shelf.text(&["--report", of(&report)]);
    assert!(text.contains("Not this very vector was scored"), "{text}");
    assert!(text.contains("heads chosen by effect"), "{text}");
}

#[test]
fn refuses_reports_of_something_else() {
    let shelf = Shelf::new();
    let message = |report: &serde_json::Value| {
        let path = shelf.write_report(report);
        refusal(shelf.card().arg("--report").arg(path))
    };
    let other = message(&shelf.report(Some("00".repeat(32))));
    assert!(other.contains("is of another vector"), "{other}");
    let mut report = shelf.report(None);
    report["settings"]["vector"] = json!("none");
    let other = message(&report);
    assert!(other.contains("is of the model as it is"), "{other}");
    let mut report = shelf.report(None);
    report["model"]["fingerprint"] = json!("00");
    let other = message(&report);
    assert!(other.contains("is of another model than the sidecar"), "{other}");
    // Vectors that were fitted otherwise, each difference by its name.
    for (at, value, expected) in [
        (
            "/data/sha256",
            json!("cd".repeat(32)),
            "data facts (cdcdcdcd) instead of facts (abababab)",
        ),
        ("/settings/direction", json!("probe"), "directions probe instead of mass-mean"),
        ("/settings/selection", json!("causal"), "heads chosen by causal instead of effect"),
        ("/settings/policy", json!("all"), "tokens steered: all instead of generated"),
        (
            "/settings/prompt",
            json!("{question}{answer}"),
            "prompt {question}{answer} instead of Q: ",
        ),
        ("/settings/preamble", json!("Examples."), "text before questions (SHA-256) "),
        ("/folds/0/k", json!(3), "steering 3 heads at alpha 7.5 instead of 2 heads at alpha 7.5"),
        (
            "/folds/0/alpha",
            json!(9.0),
            "steering 2 heads at alpha 9 instead of 2 heads at alpha 7.5",
        ),
    ] {
        let mut report = shelf.report(None);
        *report.pointer_mut(at).expect("it is there") = value;
        let error = message(&report);
        assert!(error.contains(expected), "{at}: {error}");
        assert!(error.contains("`candor eval --cv 2 -k 2 --alpha 7.5`"), "{error}");
    }
    // A twin: the same fingerprint, other weights.
    for (vector, remedy) in [
        (None, "measure vectors that are fitted on that one"),
        (Some(shelf.sidecar.fingerprint()), "name the file that was measured with -m"),
    ] {
        let mut report = shelf.report(vector.clone());
        report["model"]["content"] = json!("00".repeat(32));
        let error = message(&report);
        assert!(error.contains("other bytes (content 0000000000000000)"), "{error}");
        assert!(error.contains(remedy), "{error}");
        report["model"]["content"] = json!(null);
        assert!(message(&report).contains("does not say which file of the model"), "{error}");
    }
    let none = message(&json!({ "rows": [] }));
    assert!(none.contains("is no report.json of `candor eval --report DIR`"), "{none}");
    let missing = refusal(shelf.card().args(["--report", "nowhere.json"]));
    assert!(missing.contains("cannot read nowhere.json"), "{missing}");
}

#[test]
fn says_how_a_vector_was_scored_that_is_not_as_it_is() {
    let shelf = Shelf::new();
    let mut report = shelf.report(Some(shelf.sidecar.fingerprint()));
    let text = |report: &serde_json::Value| {
        let path = shelf.write_report(report);
        shelf.text(&["--report", of(&path)])
    };
    assert!(text(&report).contains("This vector was scored as it is"));
    report["folds"][0]["alpha"] = json!(9.0);
    let other = text(&report);
    assert!(!other.contains("as it is,"), "{other}");
    assert!(
        other.contains("was scored otherwise than it is stored (α = 7.5), on the data"),
        "{other}"
    );
    assert!(other.contains("2 heads at α = 9"), "{other}");
    report["settings"]["policy"] = json!("all");
    report["settings"]["preamble"] = json!("Say it.");
    report["model"]["baked"] = json!("joy at alpha 3");
    let other = text(&report);
    assert!(other.contains("stored (α = 7.5; tokens steered: generated), on the data"), "{other}");
    assert!(other.contains("A text of 7 characters stood before every question"), "{other}");
    assert!(
        other.contains("In all rows the model has something baked in: joy at alpha 3"),
        "{other}"
    );
    assert!(
        other.contains("| as baked | 50.0") && other.contains("| as baked, steered |"),
        "{other}"
    );
    assert!(!other.contains("no steering"), "{other}");
}

#[test]
fn a_choice_by_trying_is_compared_by_its_budget() {
    let mut shelf = Shelf::new();
    shelf.sidecar.about.evidence.kl_budget = Some(0.25);
    shelf.sidecar.write(&shelf.path).expect("writable");
    let mut report = shelf.report(None);
    report["folds"] =
        json!([{ "k": 1, "alpha": 3.0, "mc1": 0.5 }, { "k": 4, "alpha": 8.0, "mc1": 0.5 }]);
    report["settings"]["kl_budget"] = json!(0.25);
    let path = shelf.write_report(&report);
    let text = shelf.text(&["--report", of(&path)]);
    assert!(text.contains("1 head at α = 3 and 4 heads at α = 8"), "{text}");
    report["settings"]["kl_budget"] = json!(0.5);
    let path = shelf.write_report(&report);
    let error = refusal(shelf.card().arg("--report").arg(path));
    assert!(error.contains("budget of KL 0.5 instead of 0.25"), "{error}");
    // Given what all questions chose, the folds are no fair trial of it, which is said.
    let path = shelf.write_report(&shelf.report(None));
    let text = shelf.text(&["--report", of(&path)]);
    assert!(text.contains("K and α were chosen on all of these questions"), "{text}");
}

#[test]
fn refuses_a_sidecar_of_another_model() {
    let shelf = Shelf::new();
    let other = Fixture::new(Arch::Qwen3).write(shelf.folder.path());
    let mut command = candor(shelf.folder.path());
    command.arg("card").arg("-m").arg(&other);
    let none = refusal(&mut command);
    assert!(none.contains("there is none for this model beside it"), "{none}");
    let message = refusal(command.arg("--steer").arg(&shelf.path));
    assert!(message.contains("give its own model with -m"), "{message}");
}
