//! A hybrid model, of whose layers some have no attention, from labelled texts to steered logits.

mod common;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use candor::capture::store::RowSet;
use candor::capture::{CaptureParams, Store, capture};
use candor::data::{Dataset, PromptForm};
use candor::probe::Activations;
use candor::session::{Batch, CacheType};
use candor::steer::{Development, DirectionKind, FitParams};
use candor::{Model, ModelParams, Session, SessionParams, Site, Special};
use common::fixture::{Arch, Fixture, N_LAYER};
use common::steering::distance;

/// Layer 1 of this one is a convolution.
const ARCH: Arch = Arch::Lfm2;
const LAYERS: [usize; 2] = [0, 2];

/// A folder with a model, and statements about it.
struct Room {
    folder: tempfile::TempDir,
    path: PathBuf,
    data: Dataset,
}

impl Room {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = Fixture::new(ARCH).write(folder.path());
        let lines: String = (0..40).map(|i| format!("the rain is on {i},{}\n", i % 2)).collect();
        let csv = folder.path().join("rain.csv");
        std::fs::write(&csv, format!("statement,label\n{lines}")).expect("the folder takes it");
        Self { data: Dataset::open(&csv).expect("sound data"), path, folder }
    }

    fn model(&self) -> Model {
        common::opened(&self.path, &ModelParams::default().with_n_gpu_layers(Some(0)))
            .expect("a fixture loads")
    }

    fn capture(&self, model: &Model) -> Store {
        let path = self.folder.path().join("a.safetensors");
        let params = CaptureParams::new(form())
            .with_next_rows(true)
            .with_seed(7)
            .with_n_ctx(None)
            .with_n_threads(Some(1))
            .with_flash_attention(Some(false))
            .with_cache(CacheType::F32);
        capture(model, &self.data, &params, &path, |_| ControlFlow::Continue(()))
            .expect("a capture");
        Store::open(&path).expect("a finished store")
    }
}

fn form() -> PromptForm {
    PromptForm::parse("{question}{answer}").expect("a sound form")
}

fn session(model: &Model, observe: &[usize]) -> Session {
    let params = SessionParams::default()
        .with_n_ctx(256)
        .with_n_threads(Some(1))
        .with_flash_attention(Some(false))
        .with_cache(CacheType::F32)
        .with_observe(observe.to_vec());
    Session::new(model, &params).expect("a session")
}

/// What is captured in batches is what each text gives alone.
#[test]
fn its_attention_layers_are_captured() {
    let room = Room::new();
    let model = room.model();
    let store = room.capture(&model);
    assert_eq!((store.n_layer(), store.layers()), (N_LAYER, &LAYERS[..]));
    assert_eq!(store.sites().len(), LAYERS.len() * ARCH.n_head());
    let mut session = session(&model, &LAYERS);
    let texts = room.data.questions.iter().flat_map(|question| {
        question.answers.iter().map(|answer| form().text(&question.text, &answer.text))
    });
    for (row, text) in texts.enumerate() {
        let tokens = model.tokenize(&text, Special::Start).unwrap();
        let mut batch = Batch::prompt(&tokens);
        batch.observe(tokens.len() - 1);
        session.clear();
        session.decode(&mut batch).expect("it decodes");
        for (i_layer, layer) in LAYERS.into_iter().enumerate() {
            let alone = session.observed(i_layer, 0).iter().map(|&value| f64::from(value));
            let heads = (0..ARCH.n_head()).map(|head| Site::new(layer, head));
            let stored: Vec<f32> =
                heads.flat_map(|site| store.head(RowSet::Main, site, &[row])).collect();
            let distance = distance(alone, &stored);
            assert!(distance < 5e-5, "row {row}, layer {layer}: {distance:e}");
        }
    }
}

#[test]
fn its_heads_are_fitted_and_steered() {
    let room = Room::new();
    let model = room.model();
    let store = room.capture(&model);
    let questions: Vec<usize> = (0..room.data.questions.len()).collect();
    let heads = Development::fit(&store, &questions, &FitParams::default(), || ()).unwrap();
    assert_eq!(heads.scores.len(), LAYERS.len() * ARCH.n_head());
    let vector = heads.vector(&store, heads.scores.len(), DirectionKind::MassMean).unwrap();
    assert_eq!(vector.n_layer(), N_LAYER);
    let tokens = model.tokenize("the rain", Special::Start).unwrap();
    let mut session = session(&model, &[]);
    let mut say = |alpha| {
        session.set_vector(1, Some((&vector, alpha))).unwrap();
        session.clear();
        let mut batch = Batch::prompt(&tokens);
        batch.steer_all(1);
        session.decode(&mut batch).unwrap();
        session.logits(tokens.len() - 1).unwrap().to_vec()
    };
    assert_ne!(say(0.0), say(15.0));
}

#[cfg(feature = "cli")]
mod program {
    use super::*;
    use common::program::{candor, json, misuse, refusal};

    fn fit(room: &Room, sidecar: &Path) -> assert_cmd::Command {
        let mut command = candor(room.folder.path());
        command.args(["fit", "-t", "1", "-m"]).arg(&room.path);
        command.arg("--data").arg(room.folder.path().join("rain.csv")).arg("-o").arg(sidecar);
        command
    }

    #[test]
    fn fit_writes_a_sidecar_that_run_takes() {
        let room = Room::new();
        let sidecar = room.folder.path().join("rain.gguf");
        let document = json(fit(&room, &sidecar).args(["-k", "3"]));
        assert_eq!(document["k"], 3);
        let layers = document["heads"].as_array().unwrap().iter().map(|head| &head["layer"]);
        assert!(layers.clone().all(|layer| layer != 1), "{document}");
        let mut run = candor(room.folder.path());
        run.args(["run", "-t", "1", "-p", "the rain", "-n", "2", "-m"]).arg(&room.path);
        assert!(json(run.arg("--steer").arg(&sidecar))["steer"].is_string());
        let mut inspect = candor(room.folder.path());
        assert_eq!(json(inspect.arg("inspect").arg(&sidecar))["n_layer"], N_LAYER);
        // For people, without a map.
        fit(&room, &sidecar).assert().success();
    }

    #[test]
    fn fit_knows_how_many_heads_there_are_and_that_no_map_shows_them() {
        let room = Room::new();
        let sidecar = room.folder.path().join("rain.gguf");
        let message = misuse(fit(&room, &sidecar).args(["-k", "5"]));
        assert!(message.contains("5 heads cannot be chosen from 4"), "{message}");
        let plot = room.folder.path().join("map.svg");
        let message = refusal(fit(&room, &sidecar).arg("--plot").arg(&plot));
        assert!(message.contains("--plot") && message.contains("without attention"), "{message}");
        assert!(!sidecar.exists() && !plot.exists());
    }
}
