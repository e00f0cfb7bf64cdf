//! What must hold of steering wherever the layers are computed. Each check loads models on a given
//! place and compares results of that one place, since two devices round differently.

use std::path::Path as FilePath;

use candor::gguf::TensorType;
use candor::session::{Batch, Path};
use candor::{Model, ModelParams, Session, SessionParams};

use super::fixture::{Arch, Fixture, N_LAYER};
use super::host;
use super::script::{Script, decode};
use super::steering::{bits, distance, distance_of, vector};

/// What F16 roundings and another order of sums explain, as a part of the largest logit: on a
/// processor.
pub const TOLERANCE: f64 = 2e-3;
/// The same on a GPU, which multiplies matrices in F16, in another way for other batch sizes.
/// Mesa's llvmpipe moves unsteered logits of an F32 model by up to 3.7e-3.
pub const GPU_TOLERANCE: f64 = 2e-2;
/// The same between two devices where the weights are quantized: each has kernels of its own for
/// them, which round the activations, too.
const QUANTIZED_TOLERANCE: f64 = 2e-2;
/// Tokens of any fixture, more of them than gemma2's sliding window holds.
const PROMPT: [i32; 14] = [1, 259, 260, 271, 100, 4, 280, 290, 259, 263, 269, 3, 275, 260];
const ANSWER: [i32; 5] = [265, 40, 270, 259, 288];
/// Heads of every layer, so that each device has some.
const SITES: [(usize, usize); 4] = [(0, 1), (1, 2), (2, 0), (2, 3)];
const ALPHA: f32 = 5.0;

/// Where the layers of a model go.
pub struct Place {
    pub name: &'static str,
    pub params: ModelParams,
    /// The devices that may compute a layer, by name.
    pub layers: [Vec<String>; N_LAYER],
    /// Largest difference of logits that batches of other sizes, or the processor, may make.
    pub tolerance: f64,
}

impl Place {
    /// Layers `first..` and the output on `device`, the ones before on the processor.
    pub fn from_layer(first: usize, name: &'static str, device: &str, rpc: &[&str]) -> Self {
        let on = |layer| if layer < first { "CPU" } else { device };
        Self {
            name,
            params: ModelParams {
                n_gpu_layers: Some((N_LAYER + 1 - first) as u32),
                devices: Some(vec![device.to_owned()]),
                rpc: rpc.iter().map(|&address| address.to_owned()).collect(),
            },
            layers: [0, 1, 2].map(|layer| vec![on(layer).to_owned()]),
            tolerance: if rpc.is_empty() { GPU_TOLERANCE } else { TOLERANCE },
        }
    }

    fn load(&self, path: &FilePath) -> Model {
        Model::load(path, &self.params).unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }

    /// Stock llama.cpp on the same devices. A worker's must be connected, by a model of ours.
    fn load_stock(&self, path: &FilePath) -> llama_cpp_2::model::LlamaModel {
        let devices = self.params.devices.as_deref().expect("a place names its devices");
        host::load_on(path, devices, self.params.n_gpu_layers.expect("and its layers"))
    }

    /// Every architecture, plain and quantized, with flash attention and without. The environment
    /// variable CANDOR_TEST_ARCHS names fewer, for a slow device.
    fn for_every_case(&self, check: impl Fn(&str, &FilePath, SessionParams)) {
        let folder = tempfile::tempdir().expect("a folder");
        let chosen = std::env::var("CANDOR_TEST_ARCHS").unwrap_or_default();
        let is_chosen =
            |arch: &Arch| chosen.is_empty() || chosen.split(',').any(|name| name == arch.name());
        for arch in Arch::CORE.into_iter().filter(is_chosen) {
            for kind in [TensorType::F32, TensorType::Q4_0] {
                let path = Fixture::new(arch).quantized(kind).write(folder.path());
                for flash_attention in [true, false] {
                    let name = format!(
                        "{}: {} {}{}",
                        self.name,
                        arch.name(),
                        kind.name(),
                        if flash_attention { " flash" } else { "" }
                    );
                    check(&name, &path, params(flash_attention));
                }
            }
        }
    }

    /// Every layer was computed where it belongs, and steered in this way.
    fn assert_seen(&self, name: &str, session: &Session, path: Path) {
        for layer in 0..N_LAYER {
            let device = session.device(layer).expect("every layer came by");
            assert!(
                self.layers[layer].iter().any(|expected| expected == device),
                "{name}: layer {layer} is on {device}, not {:?}",
                self.layers[layer]
            );
            assert_eq!(session.path(layer), path, "{name}: layer {layer}");
        }
    }

    pub fn off_is_off(&self) {
        self.for_every_case(|name, path, params| {
            let model = self.load(path);
            let stock = self.load_stock(path);
            let vector = vector(model.geometry(), &SITES, 1);
            let mut session = Session::new(&model, &params).unwrap();
            for script in scripts() {
                let expected = bits(&host::play(&stock, &params, &script));
                let mut play = |script: &Script, vector| {
                    session.set_vector(1, vector).unwrap();
                    bits(&script.play(&mut session).unwrap())
                };
                let steered = script.steered(|_, _| 1);
                assert!(play(&script, None) == expected, "{name}: no vector");
                assert!(play(&steered, Some((&vector, 0.0))) == expected, "{name}: alpha 0");
                assert!(play(&script, Some((&vector, ALPHA))) == expected, "{name}: row 0");
                assert!(play(&steered, Some((&vector, ALPHA))) != expected, "{name}: steered");
                assert!(play(&steered, None) == expected, "{name}: vector taken away");
            }
        });
    }

    pub fn both_paths_are_one_function(&self) {
        self.for_every_case(|name, path, params| {
            let model = self.load(path);
            let vector = vector(model.geometry(), &SITES, 1);
            for script in scripts() {
                let script = script.steered(|_, token| usize::from(token.position % 3 != 1));
                let [in_graph, callback] = [true, false].map(|in_graph| {
                    let params = SessionParams { in_graph, ..params.clone() };
                    let mut session = Session::new(&model, &params).unwrap();
                    session.set_vector(1, Some((&vector, ALPHA))).unwrap();
                    let logits = bits(&script.play(&mut session).unwrap());
                    let in_graph = in_graph && params.flash_attention == Some(true);
                    let path = if in_graph { Path::InGraph } else { Path::Callback };
                    self.assert_seen(name, &session, path);
                    logits
                });
                assert!(in_graph == callback, "{name}");
            }
        });
    }

    /// The bank on the device holds what the processor's would.
    pub fn steers_as_the_processor_does(&self) {
        self.for_every_case(|name, path, params| {
            let cpu = ModelParams { devices: Some(vec!["none".to_owned()]), ..Default::default() };
            let models = [self.load(path), Model::load(path, &cpu).unwrap()];
            let vector = vector(models[0].geometry(), &SITES, 1);
            let script = Script::conversation(&PROMPT, &ANSWER).steered(|_, _| 1);
            let [(here, seen_here), (there, seen_there)] = models.each_ref().map(|model| {
                let mut session = Session::new(model, &params).unwrap();
                session.set_vector(1, Some((&vector, ALPHA))).unwrap();
                session.observe(&[0, 1, 2]).unwrap();
                (script.play(&mut session).unwrap(), observe(&mut session))
            });
            let plain = script.steered(|_, _| 0);
            let [plain_here, plain] = models
                .each_ref()
                .map(|model| plain.play(&mut Session::new(model, &params).unwrap()).unwrap());
            assert!(distance_of(&plain, &there) > 0.05, "{name}: nothing was steered");
            let unsteered = distance_of(&plain, &plain_here);
            let logits = distance_of(&there, &here);
            let observed = distance(seen_there.into_iter().map(f64::from), &seen_here);
            // Where the devices differ without steering, they may differ as much again with it.
            let quantized = name.contains("q4_0");
            let tolerance = if quantized { QUANTIZED_TOLERANCE } else { self.tolerance };
            let tolerance = tolerance.max(2.0 * unsteered);
            println!(
                "{name}: plain {unsteered:.1e}, steered {logits:.1e}, observed {observed:.1e}"
            );
            assert!(logits < tolerance, "{name}: logits {logits:e}");
            assert!(observed < tolerance, "{name}: observed {observed:e}");
        });
    }

    /// Several sequences in one batch, each with a row of its own, against each alone.
    pub fn every_sequence_gets_its_own_row(&self) {
        self.for_every_case(|name, path, params| {
            let model = self.load(path);
            let tokens = |seq: usize| &PROMPT[..6 + 2 * seq];
            let vectors = [10, 11, 12, 13].map(|seed| vector(model.geometry(), &SITES, seed));
            let params = SessionParams { n_row: 5, ..params };
            let mut session = Session::new(&model, &params).unwrap();
            let mut alone = Vec::new();
            for (seq, vector) in vectors.iter().enumerate() {
                session.set_vector(1, Some((vector, ALPHA + seq as f32))).unwrap();
                let script = Script::new().sequence(0, tokens(seq), 1);
                alone.extend(script.play(&mut session).unwrap().remove(0));
            }
            for (seq, vector) in vectors.iter().enumerate() {
                session.set_vector(seq + 1, Some((vector, ALPHA + seq as f32))).unwrap();
            }
            let together = (0..4)
                .fold(Script::new(), |script, seq| script.sequence(seq, tokens(seq), seq + 1));
            let steered = together.play(&mut session).unwrap();
            let distance = distance_of(&[alone], &steered);
            assert!(distance < self.tolerance, "{name}: {distance:e}");

            // One of them on row 0 is not touched by the others.
            let mixed = together.steered(|_, token| if token.seqs == [2] { 0 } else { token.row });
            let plain = together.steered(|_, _| 0);
            let [mixed, plain] =
                [mixed, plain].map(|script| script.play(&mut session).unwrap().remove(0));
            let of_2 = 6 + 8..6 + 8 + 10;
            let [mixed_2, plain_2] =
                [&mixed, &plain].map(|logits| bits(&[logits[of_2.clone()].to_vec()]));
            assert!(mixed_2 == plain_2, "{name}: row 0 is touched");
            assert!(bits(&[mixed]) != bits(&[plain]), "{name}: nothing was steered");
        });
    }

    /// One context decodes token after token with the same graph, and the bank on the device is
    /// rewritten between them.
    pub fn a_change_between_two_decodes_takes_effect(&self) {
        self.for_every_case(|name, path, params| {
            let model = self.load(path);
            let low = vector(model.geometry(), &[(0, 1), (1, 2)], 1);
            let high = vector(model.geometry(), &[(1, 0), (2, 3)], 2);
            let stages = [
                None,
                Some((&low, ALPHA)),
                Some((&low, 2.0 * ALPHA)),
                Some((&high, ALPHA)),
                None,
                Some((&high, ALPHA)),
            ];
            let prompt = Script::new().sequence(0, &PROMPT, 0);
            let next = Script::new().token(ANSWER[0], PROMPT.len(), &[0], 1);
            let say = |session: &mut Session, vector| {
                session.set_vector(1, vector).unwrap();
                assert!(session.truncate(0, PROMPT.len()));
                bits(&[decode(session, &next.batches()[0]).unwrap()])
            };
            let mut session = Session::new(&model, &params).unwrap();
            prompt.play(&mut session).unwrap();
            let changing = stages.map(|stage| say(&mut session, stage));
            for (i, stage) in stages.into_iter().enumerate() {
                let mut fresh = Session::new(&model, &params).unwrap();
                prompt.play(&mut fresh).unwrap();
                assert!(say(&mut fresh, stage) == changing[i], "{name}: stage {i}");
            }
            assert!(changing[0] == changing[4] && changing[3] == changing[5], "{name}");
            for (i, j) in [(0, 1), (1, 2), (1, 3), (0, 3)] {
                assert!(changing[i] != changing[j], "{name}: stages {i} and {j}");
            }
        });
    }

    pub fn small_ubatches_steer_the_same_tokens(&self) {
        self.for_every_case(|name, path, params| {
            let model = self.load(path);
            let vectors = [1, 2].map(|seed| vector(model.geometry(), &SITES, seed));
            let script = Script::new().sequence(0, &PROMPT, 0).steered(|_, t| t.position * 2 % 3);
            let [large, small] = [512, 4].map(|n_ubatch| {
                let params = SessionParams { n_ubatch, n_row: 3, ..params.clone() };
                let mut session = Session::new(&model, &params).unwrap();
                for (i, vector) in vectors.iter().enumerate() {
                    session.set_vector(i + 1, Some((vector, ALPHA))).unwrap();
                }
                script.play(&mut session).unwrap()
            });
            let distance = distance_of(&large, &small);
            assert!(distance < self.tolerance, "{name}: {distance:e}");
        });
    }
}

/// One thread, so that the tests of a binary do not wait for each other's.
fn params(flash_attention: bool) -> SessionParams {
    SessionParams {
        n_ctx: 256,
        n_threads: Some(1),
        n_seq_max: 4,
        flash_attention: Some(flash_attention),
        ..SessionParams::default()
    }
}

fn scripts() -> [Script; 2] {
    [Script::conversation(&PROMPT, &ANSWER), Script::crowd(&PROMPT, 4)]
}

/// Attention outputs `[layer][token][width]` of the prompt, whose odd tokens are steered.
fn observe(session: &mut Session) -> Vec<f32> {
    session.clear();
    let mut batch = Batch::new();
    for (position, &id) in PROMPT.iter().enumerate() {
        let i = batch.push(id, position, &[0]);
        batch.steer(i, position % 2);
        batch.observe(i);
    }
    session.decode(&mut batch).unwrap();
    let rows = (0..N_LAYER).flat_map(|layer| (0..PROMPT.len()).map(move |i| (layer, i)));
    rows.flat_map(|(layer, i)| session.observed(layer, i).to_vec()).collect()
}
