use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::Site;
use crate::gguf::{Gguf, Value};
use crate::probe::{Calibration, Chance, Domain, Probe, Quality, Spread};
use crate::steer::direction::{random, unit};

fn head(layer: usize, head: usize, d_head: usize) -> SteeredHead {
    let site = Site::new(layer, head);
    SteeredHead {
        site,
        direction: unit(&random(site, d_head, 1)).unwrap(),
        sigma: 0.5,
        accuracy: 0.75,
        probe: Probe { weight: vec![0.25; d_head], bias: -1.0 },
    }
}

fn about() -> About {
    About {
        architecture: "llama".to_owned(),
        name: "truth".to_owned(),
        description: None,
        license: Some("MIT".to_owned()),
        author: None,
        languages: Vec::new(),
        base_model: None,
        model_name: "Tiny".to_owned(),
        model_fingerprint: "01".repeat(32),
        candor_version: "0.1.0".to_owned(),
        direction: DirectionKind::MassMean,
        alpha: 15.0,
        positions: Positions::Generated,
        seed: 42,
        data_name: "TruthfulQA.csv".to_owned(),
        data_sha256: "ab".repeat(32),
        prompt: "Q: {question} A: {answer}".to_owned(),
        split: "80/20 by question".to_owned(),
        head_accuracy: vec![],
        head_effect: Vec::new(),
        head_cost: Vec::new(),
        evidence: Evidence::default(),
        method: Method::Iti,
        selection: Default::default(),
    }
}

/// How it was fitted: all there can be.
fn full_evidence() -> Evidence {
    let part =
        |name: &str, seen| FitRecord { name: name.to_owned(), prompt: "{answer}".to_owned(), seen };
    Evidence {
        content: Some("cd".repeat(32)),
        baked: Some("truth at alpha 3".to_owned()),
        preamble: Some("ef".repeat(32)),
        kl_budget: Some(f64::INFINITY),
        parts: vec![part("a", Some(vec![1, 2])), part("b", None)],
        ..Evidence::default()
    }
}

/// Three heads in two of four layers, every number exact in F32.
pub(crate) fn tiny() -> Sidecar {
    let exact = |layer, id, direction: [f32; 2]| SteeredHead {
        direction: direction.to_vec(),
        ..head(layer, id, 2)
    };
    let heads = vec![exact(0, 1, [1.0, 0.0]), exact(2, 0, [0.0, -1.0]), exact(2, 1, [0.0, 1.0])];
    Sidecar {
        vector: SteeringVector::new(4, 2, 2, heads).unwrap(),
        about: About { head_accuracy: vec![0.5, 0.75, 0.5, 0.5, 0.75, 0.75, 0.5, 0.25], ..about() },
    }
}

/// Writes a file, and gives what reading it says.
fn read_back(file: &Builder) -> Result<Sidecar> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.gguf");
    file.write(&path).unwrap();
    Sidecar::read(&path)
}

/// Why a file is refused: place and problem.
fn refusal(file: &Builder) -> String {
    match read_back(file).expect_err("the file is broken") {
        Error::Sidecar { place, problem, .. } => format!("{place}: {problem}"),
        other => panic!("{other}"),
    }
}

/// Why `tiny()` with another value of a key is refused.
fn refusal_of_key(key: &str, value: impl Into<Value>) -> String {
    refusal(tiny().builder().set(key, value))
}

/// The keys of `tiny()` and its tensors, each as `change` gives it: dimensions and bytes.
fn with_tensors(
    change: impl Fn(&str, Vec<u64>, Vec<u8>) -> Option<(Vec<u64>, Vec<u8>)>,
) -> Builder<'static> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.gguf");
    tiny().write(&path).unwrap();
    let file = Gguf::open(&path).unwrap();
    let mut changed = Builder::new();
    for (key, value) in file.entries() {
        changed.set(key, value.clone());
    }
    for tensor in file.tensors() {
        let bytes = file.bytes(tensor).to_vec();
        if let Some((dims, bytes)) = change(&tensor.name, tensor.dims.clone(), bytes) {
            changed.tensor(&tensor.name, &dims, tensor.kind, bytes);
        }
    }
    changed
}

/// Why `tiny()` is refused when one tensor has other dimensions and elements.
fn refusal_of_tensor(name: &str, dims: &[u64], words: &[[u8; 4]]) -> String {
    refusal(&with_tensors(|present, old_dims, old_bytes| {
        Some(if present == name { (dims.to_vec(), words.concat()) } else { (old_dims, old_bytes) })
    }))
}

fn f32s<const N: usize>(values: [f32; N]) -> [[u8; 4]; N] {
    values.map(f32::to_le_bytes)
}

#[test]
fn writes_these_bytes() {
    let bytes = tiny().builder().to_bytes();
    let lines = bytes.chunks(16).enumerate().map(|(line, bytes)| {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x} ")).collect();
        let text: String = bytes
            .iter()
            .map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '.' })
            .collect();
        format!("{:04x}  {hex:48} {text}\n", line * 16)
    });
    insta::assert_snapshot!(lines.collect::<String>());
}

#[test]
fn reads_what_it_wrote() {
    assert_eq!(read_back(&tiny().builder()).unwrap(), tiny());
    let bare = Sidecar { about: about(), ..tiny() };
    assert_eq!(read_back(&bare.builder()).unwrap(), bare);
    assert_ne!(bare.fingerprint(), tiny().fingerprint());
}

proptest! {
    #[test]
    fn reading_and_writing_again_changes_nothing(
        sites in prop::collection::btree_set((0usize..5, 0usize..6), 1..12),
        (alpha, seed, sigma, accuracy) in (-1e6f32..1e6, any::<u64>(), 0f32..1e30, 0f32..=1.0),
        (bias, weight) in (-1e30f32..1e30, prop::collection::vec(-1e30f32..1e30, 3)),
        (name, description) in (".*", prop::option::of(".*")),
    ) {
        let heads = sites.into_iter().map(|(layer, id)| SteeredHead {
            sigma,
            accuracy,
            probe: Probe { weight: weight.clone(), bias },
            ..head(layer, id, 3)
        });
        let sidecar = Sidecar {
            vector: SteeringVector::new(5, 6, 3, heads.collect()).unwrap(),
            about: About { alpha, seed, name, description, ..about() },
        };
        let file = sidecar.builder();
        let read = read_back(&file).unwrap();
        prop_assert_eq!(read.builder().to_bytes(), file.to_bytes());
        prop_assert_eq!(read, sidecar);
    }
}

#[test]
#[cfg_attr(miri, ignore = "a large file takes Miri an hour")]
fn a_sidecar_of_a_7b_model_takes_less_than_150_kb() {
    let heads = (0..48).map(|i| head(i * 2 % 32, i, 128)).collect();
    let vector = SteeringVector::new(32, 48, 128, heads).unwrap();
    let spreads = (0..16).map(|id| spread(2, id, 128, 4)).collect();
    let vector = vector.with_calibration(calibration(spreads)).unwrap();
    let about = About { head_accuracy: vec![0.5; 32 * 48], ..about() };
    let n_byte = Sidecar { vector, about }.builder().to_bytes().len();
    assert!(n_byte < 150_000, "{n_byte}");
}

fn spread(layer: usize, head: usize, d_head: usize, n_axis: usize) -> Spread {
    Spread {
        site: Site::new(layer, head),
        mean: vec![0.5; d_head],
        axes: vec![0.25; n_axis * d_head],
        variances: vec![2.0; n_axis],
        rest: 0.5,
    }
}

fn calibration(heads: Vec<Spread>) -> Calibration {
    let quality = Quality {
        n_row: 644,
        n_question: 322,
        is_nested: true,
        true_share: 0.5,
        auroc: 0.875,
        auroc_low: 0.75,
        auroc_high: 0.9375,
        error: 0.03125,
        error_uncalibrated: 0.0625,
    };
    let domain = Domain { heads, threshold: 1.5 };
    Calibration { scale: 0.75, offset: -0.125, domain, quality }
}

/// `tiny()` with a scale for its readings.
fn calibrated() -> Sidecar {
    let scale = calibration(vec![spread(0, 1, 2, 1), spread(2, 0, 2, 1)]);
    Sidecar { vector: tiny().vector.with_calibration(scale).unwrap(), ..tiny() }
}

#[test]
fn a_scale_is_in_keys_that_others_may_ignore() {
    assert_eq!(read_back(&calibrated().builder()).unwrap(), calibrated());
    assert_eq!(calibrated().format(), 1);
    let flat = calibration(vec![spread(0, 1, 2, 0)]);
    let flat = Sidecar { vector: tiny().vector.with_calibration(flat).unwrap(), ..tiny() };
    assert_eq!(read_back(&flat.builder()).unwrap(), flat);
}

#[test]
fn refuses_scales_that_cannot_be() {
    let cases: [(&str, Value, &str); 12] = [
        ("scale", f32::INFINITY.into(), "is inf, expected a finite number"),
        ("offset", "0".into(), "expected a floating-point number"),
        ("rows", u64::MAX.into(), "out of range"),
        ("auroc", vec![0.5f32; 2].into(), "expected three values"),
        ("auroc", vec![2.0f32; 3].into(), "holds 2, expected 0 to 1"),
        ("threshold", (-1f32).into(), "is -1, expected a number above 0"),
        ("layer", vec![0i32].into(), "expected"),
        ("head", vec![1i32, -1].into(), "holds -1, expected a number from 0"),
        ("head", vec![1i32, 2].into(), "2.2 does not exist"),
        ("mean", vec![0.5f32; 3].into(), "has 3 values, expected 2 for each of 2 heads"),
        ("variance", vec![1f32; 3].into(), "has 3 values, expected as many for each of 2"),
        ("rest", vec![0f32; 2].into(), "holds 0, expected numbers above 0"),
    ];
    for (name, value, expected) in cases {
        let refusal = refusal(calibrated().builder().set(&format!("candor.reading.{name}"), value));
        assert!(
            refusal.starts_with("key candor.reading.") && refusal.contains(expected),
            "{refusal}"
        );
    }
    let alone = refusal_of_key("candor.reading.scale", 1f32);
    assert!(alone.contains("candor.reading.") && alone.contains("missing"), "{alone}");
}

/// `tiny()` with directions of two layers.
pub(in crate::steer) fn layered() -> Sidecar {
    let directions = BTreeMap::from([(1, vec![0.5, -2.0, 0.0]), (2, vec![1.0, 0.25, -0.0])]);
    let layers = LayerVector::new(4, 3, directions).unwrap();
    Sidecar { vector: tiny().vector.with_layers(layers).unwrap(), ..tiny() }
}

/// `layered()` without heads.
fn layers_alone() -> Sidecar {
    let layers = layered().vector.layers().cloned().unwrap();
    let about = About { direction: DirectionKind::Given, ..about() };
    Sidecar { vector: SteeringVector::of_layers(2, 2, layers).unwrap(), about }
}

#[test]
fn layers_and_given_directions_are_of_the_second_format() {
    for sidecar in [layered(), layers_alone()] {
        assert_eq!(read_back(&sidecar.builder()).unwrap(), sidecar);
        let old = refusal(sidecar.builder().set("candor.format", 1u32));
        assert!(
            ["does not", "does not belong here"].iter().any(|text| old.contains(text)),
            "{old}"
        );
    }
    let format = |sidecar: &Sidecar| sidecar.format();
    assert_eq!([tiny(), layered(), layers_alone()].map(|sidecar| format(&sidecar)), [1, 2, 2]);
    let given = Sidecar { about: layers_alone().about, ..tiny() };
    assert_eq!(format(&given), 2);
    assert_eq!(read_back(&given.builder()).unwrap(), given);
    assert_eq!(
        refusal(given.builder().set("candor.format", 1u32)),
        "key candor.direction: is `given`, which this format does not know"
    );
}

#[test]
fn refuses_directions_of_layers_that_cannot_be() {
    let changed = |key: &str, value: u32| refusal(layers_alone().builder().set(key, value));
    assert!(changed("candor.n_embd", 4).contains("blk.1.layer_direction: has shape [3]"));
    assert!(changed("candor.n_layer", 2).contains("direction of layer 2: cannot be"));
    let with = |name: &str, values: &[[u8; 4]]| {
        let mut file = layers_alone().builder();
        refusal(file.tensor(name, &[values.len() as u64], TensorType::F32, values.concat()))
    };
    assert!(with("blk.0.layer_direction", &f32s([0.0; 3])).contains("of layer 0: cannot be"));
    assert!(with("blk.3.layer_direction", &f32s([f32::NAN; 3])).contains("holds NaN"));
    let endless = Sidecar { vector: &layered().vector * f32::INFINITY, ..layered() };
    assert!(endless.check().is_err());
}

#[test]
fn refuses_another_model() {
    let path = Path::new("steer-truth-tiny.gguf");
    tiny().check_model(path, &"01".repeat(32)).unwrap();
    let message = tiny().check_model(path, &"02".repeat(32)).unwrap_err().to_string();
    assert!(message.starts_with("steer-truth-tiny.gguf was made for another model"), "{message}");
}

#[test]
fn refuses_what_is_not_a_sidecar() {
    let mut model = Builder::new();
    model.set("general.architecture", "llama").set("llama.block_count", 1u32);
    assert_eq!(
        refusal(&model),
        "key general.type: is `model`, expected `adapter`: this is not a sidecar, give it with -m"
    );
    assert_eq!(
        refusal_of_key("adapter.type", "lora"),
        "key adapter.type: is `lora`, expected `iti`: another kind of adapter"
    );
    assert!(refusal_of_key("candor.format", 3u32).contains("is 3, expected 1 or 2"));
    assert!(refusal_of_key("candor.method", "kto").contains("is `kto`, expected `iti`, `dpo`"));
    let missing = Sidecar::read(Path::new("/nowhere/s.gguf")).unwrap_err();
    assert!(matches!(missing, Error::Io { .. }));
}

#[test]
fn refuses_keys_of_another_type_or_out_of_range() {
    let cases: [(&str, Value, &str); 13] = [
        ("general.name", 1u32.into(), "is of type u32, expected a string"),
        ("candor.alpha", "15".into(), "is of type string, expected a floating-point number"),
        ("candor.alpha", f32::NAN.into(), "is NaN, expected a finite number"),
        ("candor.seed", (-1i32).into(), "is of type i32, expected a non-negative integer"),
        ("candor.k", 2u32.into(), "is 2, and the tensors hold 3 heads"),
        ("candor.direction", "ccs".into(), "`ccs` is not `mass-mean`"),
        ("candor.positions", "some".into(), "`some` is not `generated` or `all`"),
        ("candor.model.fingerprint", "0".repeat(63).into(), "expected 64 hexadecimal digits"),
        ("candor.data.sha256", "G".repeat(64).into(), "expected 64 hexadecimal digits"),
        (
            "candor.head_accuracy",
            vec![0.5f32; 7].into(),
            "has 7 values, expected one for each of 8",
        ),
        ("candor.head_accuracy", vec![f32::NAN; 8].into(), "holds NaN, expected 0 to 1"),
        ("candor.head_accuracy", vec!["0.5".to_owned()].into(), "expected an array of f32"),
        ("general.license", true.into(), "is of type bool, expected a string"),
    ];
    for (key, value, expected) in cases {
        let refusal = refusal_of_key(key, value);
        assert!(refusal.starts_with(&format!("key {key}: ")), "{refusal}");
        assert!(refusal.contains(expected), "{refusal}");
    }
    for (key, value) in
        [("candor.n_layer", u64::MAX), ("candor.n_head", 0), ("candor.n_head", 1 << 40)]
    {
        assert!(refusal_of_key(key, value).starts_with("geometry: "), "{key}");
    }
    assert!(refusal_of_key("candor.n_layer", 2u32).starts_with("head 2.0: does not exist"));
    assert!(refusal_of_key("candor.d_head", 3u32).contains("has shape [2, 1], expected [3, 1]"));
}

#[test]
fn refuses_tensors_of_another_shape_or_type() {
    assert_eq!(
        refusal_of_tensor("blk.2.direction", &[2, 1], &f32s([1.0, 0.0])),
        "tensor blk.2.direction: has shape [2, 1], expected [2, 2]"
    );
    assert_eq!(
        refusal_of_tensor("blk.2.sigma", &[1, 2], &f32s([1.0; 2])),
        "tensor blk.2.sigma: has shape [1, 2], expected [2]"
    );
    assert_eq!(
        refusal_of_tensor("blk.2.head", &[1, 2], &[[0; 4]; 2]),
        "tensor blk.2.head: has shape [1, 2], expected one dimension"
    );
    let without = |name: &'static str| {
        with_tensors(move |present, dims, bytes| (present != name).then_some((dims, bytes)))
    };
    assert_eq!(refusal(&without("blk.2.head")), "tensor blk.2.head: is missing");
    assert_eq!(refusal(&without("blk.0.probe.bias")), "tensor blk.0.probe.bias: is missing");
    let mut integers = without("blk.0.sigma");
    integers.tensor("blk.0.sigma", &[1], TensorType::I32, vec![0; 4]);
    assert_eq!(refusal(&integers), "tensor blk.0.sigma: is of type i32, expected f32");
    for name in ["token_embd.weight", "blk.00.sigma", "blk.x.sigma", "blk.0.offset"] {
        let mut strange = tiny().builder();
        strange.tensor(name, &[1], TensorType::F32, vec![0; 4]);
        assert_eq!(refusal(&strange), format!("tensor {name}: does not belong here"));
    }
    let mut headless = tiny().builder();
    headless.tensor("blk.3.sigma", &[1], TensorType::F32, vec![0; 4]);
    assert_eq!(refusal(&headless), "tensor blk.3.head: is missing");
    assert_eq!(
        refusal(tiny().builder().set("candor.k", 0u32)),
        "key candor.k: is 0, and the tensors hold 3 heads"
    );
    let mut empty = with_tensors(|_, _, _| None);
    assert_eq!(refusal(empty.set("candor.k", 0u32)), "heads: there are none");
}

#[test]
fn refuses_heads_and_numbers_that_cannot_be() {
    let heads = |ids: [i32; 2]| refusal_of_tensor("blk.2.head", &[2], &ids.map(i32::to_le_bytes));
    assert_eq!(heads([0, 2]), "head 2.2: does not exist in 4 layers of 2 heads");
    assert_eq!(heads([1, 1]), "head 2.1: occurs twice");
    assert_eq!(heads([-1, 1]), "tensor blk.2.head: holds -1, expected a head from 0");
    let first = |name: &str, dims: &[u64], value: f32| {
        let mut values = f32s([0.0; 2]);
        values[0] = value.to_le_bytes();
        refusal_of_tensor(name, dims, &values[..dims.iter().product::<u64>() as usize])
    };
    assert_eq!(
        first("blk.0.direction", &[2, 1], f32::NAN),
        "head 0.1: its direction holds NaN or infinity"
    );
    assert_eq!(
        first("blk.0.direction", &[2, 1], 0.9),
        "head 0.1: its direction has length 0.8999999761581421, expected 1"
    );
    assert_eq!(
        first("blk.0.probe.weight", &[2, 1], f32::INFINITY),
        "head 0.1: its probe holds NaN or infinity"
    );
    assert_eq!(first("blk.0.probe.bias", &[1], f32::NAN), "head 0.1: its probe has a bias of NaN");
    assert_eq!(
        first("blk.0.sigma", &[1], -1.0),
        "head 0.1: its sigma is -1, expected a number from 0"
    );
    assert_eq!(first("blk.0.accuracy", &[1], 2.0), "head 0.1: its accuracy is 2, expected 0 to 1");
}

#[test]
fn refuses_to_write_what_it_would_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.gguf");
    let endless = Sidecar { vector: &tiny().vector * f32::INFINITY, ..tiny() };
    let message = endless.write(&path).unwrap_err().to_string();
    assert!(message.contains("head 0.1: its sigma is inf"), "{message}");
    assert!(!path.exists());
}

#[test]
fn keeps_what_it_was_fitted_on_and_what_that_is_worth() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.gguf");
    let chance = Chance {
        best: 0.75,
        majority: 0.5,
        shuffled: 0.625,
        p: 1.0 / 1001.0,
        n_head: 6,
        n_row: 8,
        n_question: 4,
    };
    let mut sidecar = tiny();
    sidecar.about.evidence =
        Evidence { seen: Some(vec![0, 7, (1 << 48) - 1]), chance: Some(chance), ..full_evidence() };
    sidecar.write(&path).unwrap();
    assert_eq!(Sidecar::read(&path).unwrap(), sidecar);
    // What an older writer leaves out is not known, and the format is the same.
    assert_eq!(sidecar.format(), FORMAT);
    tiny().write(&path).unwrap();
    assert_eq!(Sidecar::read(&path).unwrap().about.evidence, Evidence::default());
    for (seen, expected) in [
        (vec![1 << 48], "expected 48 bits"),
        (vec![2, 1], "ascending order"),
        (vec![1, 1], "ascending order"),
    ] {
        sidecar.about.evidence.seen = Some(seen);
        let error = sidecar.write(&path).unwrap_err().to_string();
        assert!(error.contains("candor.data.seen") && error.contains(expected), "{error}");
    }
    sidecar.about.evidence =
        Evidence { chance: Some(Chance { p: f64::NAN, ..chance }), ..Evidence::default() };
    let error = sidecar.write(&path).unwrap_err().to_string();
    assert!(error.contains("candor.chance.p"), "{error}");
    let bad = |evidence: Evidence, key: &str| {
        let about = About { evidence, ..about() };
        let error = Sidecar { about, ..tiny() }.write(&path).unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
    };
    bad(Evidence { content: Some("ab".to_owned()), ..full_evidence() }, "candor.model.content");
    bad(Evidence { preamble: Some("X".repeat(64)), ..full_evidence() }, "candor.preamble.sha256");
    for budget in [f64::NAN, -1.0, 0.0] {
        bad(Evidence { kl_budget: Some(budget), ..full_evidence() }, "candor.tuned.kl_budget");
    }
    let part = FitRecord { seen: Some(vec![2, 1]), ..FitRecord::default() };
    bad(Evidence { parts: vec![part], ..full_evidence() }, "candor.part.0.seen");
    let key = refusal_of_key("candor.part.count", 1u64 << 40);
    assert!(key.contains("candor.part.count: is 1099511627776, expected at most 256"), "{key}");
}
