//! Every variant, provoked: by a hostile file where a file can, else by what can.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use super::*;
use crate::capture::{CaptureParams, Store, capture};
use crate::chat::{ChatTemplate, Message, Role};
use crate::data::{Dataset, Kind, PromptForm};
use crate::engine::{Engine, EngineParams, Event, Request};
use crate::eval::Evaluator;
use crate::gguf::{Builder, Gguf, TensorType};
use crate::judge::{EndpointJudge, EndpointParams};
use crate::session::{Batch, Steering};
use crate::steer::{Development, FitParams, Sidecar, default_path, find_beside};
use crate::{Geometry, Model, ModelParams, Session, SessionParams, Special};

/// Declares the variants twice: as the arms of a match, which does not compile while one is missing,
/// and as a list of names.
macro_rules! variants {
    ($($variant:ident),* $(,)?) => {
        const VARIANTS: &[&str] = &[$(stringify!($variant)),*];

        fn name(error: &Error) -> &'static str {
            match error {
                $(Error::$variant { .. } => stringify!($variant),)*
            }
        }
    };
}

variants! {
    Io, Gguf, Model, Unsupported, TapSilent, Width, Decode, PromptTooLong, CacheFull,
    Deadline, Budget, Invalid, Device, Worker,
    Template, Data, Store, Sidecar, WrongModel, SeveralSidecars, Probe, Interrupted, Judge, Spelling, Picture,
}

/// What no file can bring about: llama.cpp would have to compute another graph than it does for any
/// architecture. The tap's own tests (`src/ffi/tests`) make such graphs by hand.
const OF_THE_GRAPH: [&str; 2] = ["TapSilent", "Width"];

type Provocation = fn(&Path) -> Result<()>;

/// The variant, what its message has to hold, and what provokes it in an empty folder.
const PROVOCATIONS: [(&str, &str, Provocation); 23] = [
    ("Io", "cannot open", |folder| Gguf::open(&folder.join("absent.gguf")).map(drop)),
    ("Gguf", "announces 9223372036854775808 metadata entries", |folder| {
        let n = (1_u64 << 63).to_le_bytes();
        let bytes = [b"GGUF\x03\0\0\0", &n[..], &n].concat();
        Gguf::open(&written(folder, "x.gguf", &bytes)).map(drop)
    }),
    ("Model", "general.type is `adapter`", |folder| {
        load(&written(folder, "x.gguf", &Builder::new().set("general.type", "adapter").to_bytes()))
            .map(drop)
    }),
    ("Unsupported", "no layer has an attention output", |folder| {
        let mut builder = Builder::new();
        builder.set("general.architecture", "x").set("x.block_count", 1u32);
        builder.tensor("t", &[1], TensorType::F32, vec![0; 4]);
        Geometry::read(&Gguf::open(&written(folder, "x.gguf", &builder.to_bytes()))?).map(drop)
    }),
    ("Decode", "decode", |_| {
        let model = demo()?;
        let mut session = Session::new(&model, &SessionParams { n_ctx: 64, ..small() })?;
        let mut batch = Batch::new();
        // A token that no vocabulary has.
        batch.push(i32::MAX, 0, &[0]);
        session.decode(&mut batch)
    }),
    ("PromptTooLong", "the context holds 64: shorten it", |_| {
        let model = demo()?;
        let prompt = model.tokenize(&"What is the capital? ".repeat(50), Special::Start)?;
        let mut session = Session::new(&model, &SessionParams { n_ctx: 64, ..small() })?;
        session.generate(&prompt, Steering::Off).map(drop)
    }),
    ("Spelling", "cannot spell `ï` at byte 4 of \"A naïve dog\"", |folder| {
        let path = written(folder, "x.gguf", &without_bytes());
        load(&path)?.tokenize("A naïve dog", Special::Start).map(drop)
    }),
    ("CacheFull", "which all sequences share, is full", |_| {
        let model = demo()?;
        let params = SessionParams { n_ctx: 256, n_seq_max: 4, ..small() };
        let mut session = Session::new(&model, &params)?;
        for seq in 0..4 {
            let mut batch = Batch::new();
            for position in 0..100 {
                batch.push(1, position, &[seq]);
            }
            session.decode(&mut batch)?;
        }
        Ok(())
    }),
    ("Deadline", "longer than it was allowed", |_| {
        let mut engine = Engine::new(&demo()?, small(), EngineParams::default())?;
        let mut request = Request::new(vec![1], 1);
        request.deadline = Some(std::time::Instant::now());
        engine.submit(request)?;
        match engine.step().pop() {
            Some((_, Event::Failed(error))) => Err(error),
            _ => Ok(()),
        }
    }),
    ("Budget", "KL budget of 0 nat per token: even", |_| {
        let model = demo()?;
        let mut evaluator = Evaluator::new(&model, 64, Some(1))?;
        let vector = Sidecar::read(&demo_path().with_file_name("demo-vector.gguf"))?.vector;
        let documents = ["a river and a stone and a lamp"];
        evaluator.strength_within(&vector, &documents, 0.0, |_, _| Ok(())).map(drop)
    }),
    ("Invalid", "`../../x` cannot be part of a file name", |folder| {
        default_path(&folder.join("model.gguf"), "../../x").map(drop)
    }),
    ("Device", "`\u{1b}[2J`", |_| {
        let devices = Some(vec!["\u{1b}[2J".to_owned()]);
        Model::load(&demo_path(), &ModelParams { devices, ..ModelParams::default() }).map(drop)
    }),
    ("Worker", "expected host:port", |_| {
        let rpc = vec!["nowhere".to_owned()];
        Model::load(&demo_path(), &ModelParams { rpc, ..ModelParams::default() }).map(drop)
    }),
    ("Template", "chat template failed", |_| {
        let source =
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
        let template = ChatTemplate::new(Some(source.to_owned()), String::new(), String::new());
        template.render(&[Message::new(Role::User, "Why?")]).map(drop)
    }),
    ("Data", "line 2: the label is `\\u{1b}[2J`", |folder| {
        Dataset::open(&written(folder, "x.csv", b"statement,label\na,\x1b[2J\n")).map(drop)
    }),
    ("Store", "not a safetensors file", |folder| {
        Store::open(&written(folder, "x", b"\xff\xff\xff\xff\xff\xff\xff\xff{}")).map(drop)
    }),
    ("Sidecar", "this is not a sidecar", |_| Sidecar::read(&demo_path()).map(drop)),
    ("WrongModel", "made for another model", |_| {
        let sidecar = crate::steer::tiny_sidecar();
        sidecar.check_model(Path::new("s.gguf"), &"f".repeat(64))
    }),
    ("SeveralSidecars", "2 vectors beside ", |folder| {
        let sidecar = crate::steer::tiny_sidecar();
        for name in ["steer-a-m.gguf", "steer-b-m.gguf"] {
            sidecar.write(&folder.join(name))?;
        }
        find_beside(&folder.join("m.gguf"), &sidecar.about.model_fingerprint).map(drop)
    }),
    ("Probe", "cannot fit a probe for head 0.0", |folder| {
        let store = Store::open(&written(folder, "x", &store_of_nan()))?;
        Development::fit(&store, &[0, 1, 2, 3], &FitParams::default(), || ()).map(drop)
    }),
    ("Judge", "nowhere", |_| {
        EndpointJudge::new(EndpointParams::new("nowhere", "x", None)).map(drop)
    }),
    ("Picture", "no model was shown it", |folder| {
        let line =
            br#"{"prompt": "?", "true": ["a"], "question": "?", "false": ["b"], "image": "x.png"}"#;
        let data = Dataset::from_bytes(Path::new("x.jsonl"), line)?;
        let params = CaptureParams::new(PromptForm::default_for(Kind::QuestionAnswer));
        capture(&demo()?, &data, &params, &folder.join("x"), |_| ControlFlow::Break(())).map(drop)
    }),
    ("Interrupted", "is kept", |folder| {
        let data = Dataset::from_bytes(Path::new("x.csv"), b"statement,label\na,1\nb,0\n")?;
        let params = CaptureParams::new(PromptForm::default_for(Kind::Statement));
        let path = folder.join("x.safetensors");
        capture(&demo()?, &data, &params, &path, |_| ControlFlow::Break(())).map(drop)
    }),
];

fn written(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, bytes).expect("the folder takes it");
    path
}

fn demo_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo.gguf")
}

fn load(path: &Path) -> Result<Model> {
    Model::load(path, &ModelParams { n_gpu_layers: Some(0), ..ModelParams::default() })
}

/// The demo model with a SentencePiece vocabulary of ASCII, in which no token stands for a byte.
fn without_bytes() -> Vec<u8> {
    let file = Gguf::open(&demo_path()).expect("the demo model is sound");
    let n_token = file.strings("tokenizer.ggml.tokens").expect("it has tokens").len();
    let known = ["<unk>", "<s>", "</s>", "\u{2581}"].map(String::from).into_iter();
    let tokens = known.chain((' '..='~').map(String::from));
    let tokens: Vec<_> = tokens.chain((0..).map(|i| format!("[{i}]"))).take(n_token).collect();
    let mut builder = Builder::new();
    for (key, value) in file.entries().filter(|(key, _)| !key.starts_with("tokenizer.")) {
        builder.set(key, value.clone());
    }
    builder
        .set("tokenizer.ggml.model", "llama")
        .set("tokenizer.ggml.tokens", tokens)
        .set("tokenizer.ggml.scores", vec![0.0f32; n_token])
        .set("tokenizer.ggml.token_type", vec![1i32; n_token]);
    for tensor in file.tensors() {
        builder.tensor(&tensor.name, &tensor.dims, tensor.kind, file.bytes(tensor).to_vec());
    }
    builder.to_bytes()
}

fn demo() -> Result<Model> {
    load(&demo_path())
}

fn small() -> SessionParams {
    SessionParams { n_threads: Some(1), ..SessionParams::default() }
}

/// Four questions of a true and a false answer, one head, whose outputs are no numbers.
fn store_of_nan() -> Vec<u8> {
    let i64s = |values: [i64; 8]| values.map(i64::to_le_bytes).concat();
    let (labels, groups) = (i64s([0, 1, 0, 1, 0, 1, 0, 1]), i64s([0, 0, 1, 1, 2, 2, 3, 3]));
    let heads = [f32::NAN; 16].map(f32::to_le_bytes).concat();
    let view = safetensors::tensor::TensorView::new;
    let tensors = [
        ("label", view(safetensors::Dtype::I64, vec![8], &labels)),
        ("group", view(safetensors::Dtype::I64, vec![8], &groups)),
        ("kqv_out-0", view(safetensors::Dtype::F32, vec![8, 1, 2], &heads)),
    ];
    let tensors = tensors.map(|(name, view)| (name, view.expect("the shapes fit")));
    safetensors::serialize(tensors, None).expect("it can be written")
}

#[test]
fn every_variant_has_its_provocation() {
    for variant in VARIANTS {
        let is_provoked = PROVOCATIONS.iter().any(|(provoked, ..)| provoked == variant);
        assert_ne!(is_provoked, OF_THE_GRAPH.contains(variant), "{variant}");
    }
}

#[test]
fn every_provocation_gives_its_variant() {
    for (variant, expected, provoke) in PROVOCATIONS {
        let folder = tempfile::tempdir().expect("a folder");
        let error = provoke(folder.path()).expect_err(variant);
        assert_eq!(name(&error), variant, "{error}");
        let message = error.to_string();
        assert!(message.contains(expected), "{variant}: {message}");
        // One line, short enough to be read.
        assert!(!message.contains('\n') && message.len() < 1000, "{variant}: {message}");
    }
}

#[test]
fn a_quoted_text_is_short_and_commands_nothing() {
    assert_eq!(shown("näher\t\x1b[2J\u{9b}\u{202e}"), "näher\\t\\u{1b}[2J\\u{9b}\\u{202e}");
    assert_eq!(shown(&"ä".repeat(200)), "ä".repeat(200));
    assert_eq!(shown(&"ä".repeat(201)), "ä".repeat(200) + "…");
}
