//! `candor import`, `candor mix` and several `--steer` at once, as a user meets them.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candor::Geometry;
use candor::export::ControlVector;
use candor::gguf::Gguf;
use candor::steer::{Positions, Sidecar};
use common::program::{candor, json, refusal};
use serde_json::Value;
use tempfile::TempDir;

/// A folder with the demo model.
struct Room {
    folder: TempDir,
    geometry: Geometry,
}

impl Room {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("demo.gguf");
        std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo.gguf"), &model).unwrap();
        let geometry = Geometry::read(&Gguf::open(&model).unwrap()).unwrap();
        Self { folder, geometry }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn candor(&self, arguments: &[&str]) -> assert_cmd::Command {
        let mut command = candor(self.folder.path());
        command.current_dir(self.folder.path()).args(arguments);
        command
    }

    /// A control vector that pushes some values of some layers.
    fn control_vector(&self, name: &str, layers: &[usize], strength: f32) -> ControlVector {
        let n_embd = self.geometry.n_embd;
        let value = |layer: usize, i: usize| strength * ((layer * 31 + i * 17) as f32).sin();
        let directions: BTreeMap<_, _> = layers
            .iter()
            .map(|&layer| (layer, (0..n_embd).map(|i| value(layer, i)).collect()))
            .collect();
        let vector = ControlVector::new("llama", directions).unwrap();
        vector.write(&self.path(name)).unwrap();
        vector
    }

    fn import(&self, arguments: &[&str]) -> Value {
        json(self.candor(&["import"]).args(arguments).args(["-m", "demo.gguf"]))
    }

    /// The model card of a sidecar.
    fn card(&self, sidecar: &str) -> String {
        let mut command = self.candor(&["card", "-m", "demo.gguf", "-o", "-", "--steer", sidecar]);
        String::from_utf8(command.assert().success().get_output().stdout.clone()).unwrap()
    }

    /// What the model writes.
    fn run(&self, arguments: &[&str]) -> Value {
        let text = ["run", "-p", "Once upon a time", "--temp", "0"];
        let size = ["-n", "24", "-m", "demo.gguf"];
        json(self.candor(&text).args(size).args(arguments))
    }
}

fn tokens(report: &Value) -> &Value {
    &report["tokens"]
}

/// A numpy file.
fn npy(path: &Path, descr: &str, shape: &str, bytes: Vec<u8>) {
    let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    let text = format!("{text:<117}\n");
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((text.len() as u16).to_le_bytes());
    file.extend(text.as_bytes());
    file.extend(bytes);
    std::fs::write(path, file).unwrap();
}

#[test]
fn a_control_vector_comes_in_steers_and_goes_out_as_it_was() {
    let room = Room::new();
    let original = room.control_vector("mood.gguf", &[1, 2, 4], 20.0);
    let report = room.import(&["mood.gguf", "-o", "mood-steer.gguf"]);
    assert_eq!((&report["k"], &report["alpha"]), (&0.into(), &1.0.into()));
    assert_eq!(report["layers"], serde_json::json!([1, 2, 4]));
    let sidecar = Sidecar::read(&room.path("mood-steer.gguf")).unwrap();
    assert_eq!(sidecar.about.positions, Positions::All);
    assert_eq!(sidecar.fingerprint(), report["fingerprint"].as_str().unwrap());

    let plain = room.run(&["--steer", "none"]);
    let steered = room.run(&["--steer", "mood-steer.gguf"]);
    assert_ne!(tokens(&plain), tokens(&steered));
    assert_eq!(steered["alpha"], 1.0);
    let off = room.run(&["--steer", "mood-steer.gguf", "--alpha", "0"]);
    assert_eq!(tokens(&plain), tokens(&off));

    let export = ["export", "--format", "control-vector", "--steer", "mood-steer.gguf"];
    let report = json(room.candor(&export).args(["-m", "demo.gguf", "-o", "back.gguf"]));
    assert_eq!(report["method"], "exact");
    let bytes = |name: &str| std::fs::read(room.path(name)).unwrap();
    assert_eq!(bytes("mood.gguf"), bytes("back.gguf"));
    assert_eq!(ControlVector::read(&room.path("back.gguf")).unwrap(), original);
}

#[test]
fn an_imported_vector_serves_chat_and_inspect() {
    let room = Room::new();
    room.control_vector("mood.gguf", &[1, 2, 4], 20.0);
    // Beside the model, where it is found without being named.
    room.import(&["mood.gguf"]);
    let mut chat = room.candor(&["chat", "-m", "demo.gguf", "--temp", "0", "-n", "8"]);
    let talk = "What is the capital of Peru?\n/alpha -1\nWhat is the capital of Peru?\n/off\n";
    let assert = chat.write_stdin(talk).assert().success();
    let stderr = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
    assert!(stderr.contains("steer-mood-demo.gguf, 3 layers, alpha 1"), "{stderr}");
    assert!(stderr.contains("alpha -1") && !stderr.contains("truth"), "{stderr}");

    let facts = json(&mut room.candor(&["inspect", "steer-mood-demo.gguf"]));
    assert_eq!((&facts["k"], &facts["direction"]), (&0.into(), &"given".into()));
    assert_eq!(facts["layers"].as_array().unwrap().len(), 3);
    assert_eq!(facts["n_embd"], room.geometry.n_embd);
    let text = room.candor(&["inspect", "steer-mood-demo.gguf"]).assert().success();
    let text = String::from_utf8(text.get_output().stdout.clone()).unwrap();
    assert!(text.contains("3, of 1 to 4, directions of length"), "{text}");
}

#[test]
fn a_mix_and_several_vectors_at_once_are_one() {
    let room = Room::new();
    room.control_vector("a.gguf", &[1, 2], 9.0);
    room.control_vector("b.gguf", &[2, 3], 9.0);
    room.import(&["a.gguf", "-o", "sa.gguf", "--alpha", "2"]);
    room.import(&["b.gguf", "-o", "sb.gguf"]);
    let report = json(&mut room.candor(&["mix", "sa.gguf*0.7", "sb.gguf*-0.3", "-o", "m.gguf"]));
    assert_eq!((&report["alpha"], &report["n_layer"]), (&1.0.into(), &3.into()));
    let mixed = Sidecar::read(&room.path("m.gguf")).unwrap();
    let [a, b] = ["sa.gguf", "sb.gguf"].map(|name| Sidecar::read(&room.path(name)).unwrap());
    let at_own = |sidecar: &Sidecar| sidecar.vector.layer_offsets(sidecar.about.alpha);
    for (i, value) in at_own(&mixed)[&2].iter().enumerate() {
        let expected = 0.7 * at_own(&a)[&2][i] - 0.3 * at_own(&b)[&2][i];
        assert!((value - expected).abs() < 1e-5 * 20.0, "{value} {expected}");
    }
    let description = mixed.about.description.unwrap();
    assert!(description.contains("0.7 * a (alpha 2, sidecar "), "{description}");

    let several = room.run(&["--steer", "sa.gguf*0.7", "--steer", "sb.gguf*-0.3"]);
    let as_one = room.run(&["--steer", "m.gguf"]);
    assert_eq!(tokens(&several), tokens(&as_one));
    assert_ne!(tokens(&several), tokens(&room.run(&["--steer", "sa.gguf"])));
    let half = room.run(&["--steer", "sa.gguf*0.5"]);
    assert_eq!(tokens(&half), tokens(&room.run(&["--steer", "sa.gguf", "--alpha", "1"])));

    let run = |arguments: &[&str]| {
        refusal(room.candor(&["run", "-p", "x", "-m", "demo.gguf"]).args(arguments))
    };
    let twofold = run(&["--steer", "sa.gguf", "--steer", "sb.gguf", "--alpha", "2"]);
    assert!(twofold.contains("--alpha: sets the strength of one vector"), "{twofold}");
    assert!(run(&["--steer", "sa.gguf*2", "--alpha", "2"]).contains("--alpha: sets"));
    let itself = refusal(&mut room.candor(&["mix", "sa.gguf", "-o", "sa.gguf"]));
    assert!(itself.contains("is one of the parts"), "{itself}");
}

#[test]
fn heads_of_numpy_arrays_steer() {
    let room = Room::new();
    let Geometry { n_layer, n_head, d_head, .. } = room.geometry;
    let ints = |values: &[i64]| values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    npy(&room.path("heads.npy"), "<i8", "(2, 2)", ints(&[3, 1, 1, 0]));
    let n = n_layer * n_head;
    let values = (0..n * d_head).map(|i| (i as f32).cos());
    let directions: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
    npy(&room.path("directions.npy"), "<f4", &format!("({n}, {d_head})"), directions);
    let sigmas: Vec<u8> = [20.0f64, 30.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    npy(&room.path("sigmas.npy"), "<f8", "(2,)", sigmas);
    let arrays = ["--heads", "heads.npy", "--directions", "directions.npy"];

    let import = |arguments: &[&str]| {
        let mut command = room.candor(&["import", "-m", "demo.gguf", "-o", "s.gguf"]);
        command.args(arrays).args(arguments);
        command
    };
    let problem = refusal(&mut import(&[]));
    assert!(problem.contains("--sigma FILE.npy, or --activations STORE"), "{problem}");
    let report = json(&mut import(&["--sigma", "sigmas.npy"]));
    assert_eq!((&report["k"], &report["alpha"]), (&2.into(), &15.0.into()));
    let sidecar = Sidecar::read(&room.path("s.gguf")).unwrap();
    let sigmas: Vec<f32> = sidecar.vector.heads().iter().map(|head| head.sigma).collect();
    assert_eq!(sigmas, [30.0, 20.0]);
    assert_eq!(sidecar.about.positions, Positions::Generated);
    assert_ne!(tokens(&room.run(&["--steer", "s.gguf"])), tokens(&room.run(&["--steer", "none"])));

    // What nobody measured is not claimed.
    let facts = json(&mut room.candor(&["inspect", "s.gguf"]));
    assert!(facts["selection"].is_null() && facts["heads"][0]["accuracy"].is_null(), "{facts}");
    let card = room.card("s.gguf");
    assert!(card.contains("| prompt | not given |") && card.contains("-p 'What is"), "{card}");
    assert!(card.contains("| 1 | 0 | – | 30.0000 |"), "{card}");
    assert!(!card.contains("standard deviations of what they say"), "{card}");
    room.candor(&["mix", "s.gguf*2", "-o", "twice.gguf"]).assert().success();
    assert!(room.card("twice.gguf").contains("at strength 15"));

    // Measured on activations, with probes.
    let statements = (0..20).map(|i| format!("A whale has {i} legs.,{}\n", i % 2));
    let csv = format!("statement,label\n{}", statements.collect::<String>());
    std::fs::write(room.path("statements.csv"), csv).unwrap();
    let capture = ["capture", "-m", "demo.gguf", "-d", "statements.csv", "-o", "store.safetensors"];
    room.candor(&capture).assert().success();
    json(&mut import(&["--activations", "store.safetensors"]));
    let sidecar = Sidecar::read(&room.path("s.gguf")).unwrap();
    let heads = sidecar.vector.heads();
    assert!(heads.iter().all(|head| head.has_probe() && head.sigma > 0.0));

    npy(&room.path("heads.npy"), "|O", "(2,)", b"\x80\x04]\x94.".to_vec());
    let problem = refusal(&mut import(&["--sigma", "sigmas.npy"]));
    assert!(problem.contains("heads.npy: it holds pickled Python objects"), "{problem}");
}

#[test]
fn what_does_not_belong_to_the_model_is_refused() {
    let room = Room::new();
    let n_embd = room.geometry.n_embd;
    let refused = |arguments: &[&str]| {
        refusal(room.candor(&["import", "c.gguf", "-m", "demo.gguf"]).args(arguments))
    };
    let write = |hint: &str, layer: usize, n: usize| {
        let directions = BTreeMap::from([(layer, vec![1.0; n])]);
        ControlVector::new(hint, directions).unwrap().write(&room.path("c.gguf")).unwrap();
    };
    write("llama", 1, n_embd + 1);
    assert!(refused(&[]).contains("it was made for another model"));
    write("llama", room.geometry.n_layer, n_embd);
    assert!(refused(&[]).contains("cannot be: vectors act on layers 1 to"));
    write("qwen2", 1, n_embd);
    assert!(refused(&[]).contains("of architecture `qwen2`, and this one is `llama`"));
    assert!(refused(&["--force", "-o", "c.gguf"]).contains("write another file"));
    room.candor(&["import", "c.gguf", "-m", "demo.gguf", "--force"]).assert().success();
    let usage = room.candor(&["import"]).assert().code(2);
    assert!(String::from_utf8_lossy(&usage.get_output().stderr).contains("<FILE>"));
    let model = refusal(&mut room.candor(&["import", "demo.gguf", "-o", "x.gguf"]));
    assert!(model.contains("is `llama`, expected `controlvector`"), "{model}");
    assert!(model.contains("it is not a control vector") && !model.contains("usable"), "{model}");
    let run = ["run", "-p", "x", "-m", "demo.gguf", "--steer"];
    let vector = refusal(room.candor(&run).arg("c.gguf"));
    assert!(vector.contains("`candor import`") && !vector.contains("-m"), "{vector}");
    assert!(refusal(room.candor(&run).arg("c.gguf*foo")).contains("`foo` is not a number"));
}
