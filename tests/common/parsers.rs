//! Every parser of outside files, as a function of bytes: whether it took them. It panics where a
//! promise is broken.
//!
//! The fuzz targets (`fuzz/`) and the replay of their corpora (`tests/fuzz_corpus.rs`) share these.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use candor::capture::store::{Layout, Opened, RowSet, Store, StoreWriter};
use candor::chat::{ChatTemplate, Message, Role};
use candor::data::{Dataset, PromptForm};
use candor::export::ControlVector;
use candor::gguf::{Builder, Gguf};
use candor::import::HeadArrays;
use candor::judge::{self, Aspect};
use candor::ledger::Ledger;
use candor::probe::Probe;
use candor::session::TextStream;
use candor::steer::{Sidecar, SteeredHead, SteeringVector};
use candor::study::Record;
use candor::{Geometry, Result, Site, check_host_limits, fingerprint};

/// A parser by the name of its fuzz target and of its folder of inputs.
pub type Parser = (&'static str, fn(&[u8]) -> bool);

/// All of them.
pub const PARSERS: [Parser; 14] = [
    ("chat_template", chat_template),
    ("control_vector", control_vector),
    ("csv", csv),
    ("gguf", gguf),
    ("jsonl", jsonl),
    ("judgements", judgements),
    ("ledger", ledger),
    ("mc_task", mc_task),
    ("npy", npy),
    ("progress", progress),
    ("request", request),
    ("sidecar", sidecar),
    ("store", store),
    ("text_stream", text_stream),
];

/// A request to the server: a body is understood, or refused with a reason.
pub fn request(bytes: &[u8]) -> bool {
    let head = SteeredHead {
        site: Site::new(0, 0),
        direction: vec![1.0, 0.0],
        sigma: 1.0,
        accuracy: 0.75,
        probe: Probe { weight: vec![1.0, 0.0], bias: 0.0 },
    };
    let vector = SteeringVector::new(1, 1, 2, vec![head]).expect("a sound vector");
    candor::serve::understands(bytes, 1000, &vector)
}

/// Calls `read` with a file of these bytes.
fn with_file<T>(bytes: &[u8], read: impl FnOnce(&Path) -> T) -> T {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(bytes).expect("it takes the bytes");
    read(file.path())
}

/// A model's file: format, geometry, fingerprint, limits. What is read can be written, and reads the
/// same.
pub fn gguf(bytes: &[u8]) -> bool {
    with_file(bytes, |path| {
        let Ok(file) = Gguf::open(path) else { return false };
        let _ = Gguf::open_model(path);
        let _ = Geometry::read(&file);
        let _ = fingerprint(&file);
        if let Ok(architecture) = file.str("general.architecture") {
            let _ = check_host_limits(&file, architecture);
        }
        for tensor in file.tensors() {
            assert_eq!(file.tensor(&tensor.name), Some(tensor));
            let _ = (file.f32s_of(tensor), file.i32s_of(tensor), file.bytes(tensor));
        }
        // The builder is for files of a few dozen keys, and looks each up among all.
        if file.entries().count() + file.tensors().len() > 500 {
            return true;
        }
        let mut builder = Builder::new();
        for (key, value) in file.entries() {
            builder.set(key, value.clone());
        }
        for tensor in file.tensors() {
            builder.tensor(&tensor.name, &tensor.dims, tensor.kind, file.bytes(tensor));
        }
        let written = builder.to_bytes();
        with_file(&written, |path| {
            let again = Gguf::open(path).expect("what was written is read");
            // By their text, since NaN equals nothing.
            let entries = |file: &Gguf| format!("{:?}", file.entries().collect::<Vec<_>>());
            assert_eq!(entries(&again), entries(&file));
            for (ours, theirs) in again.tensors().iter().zip(file.tensors()) {
                assert_eq!((&ours.name, again.bytes(ours)), (&theirs.name, file.bytes(theirs)));
            }
        });
        true
    })
}

/// A sidecar. What is read can be written, and is the same sidecar.
pub fn sidecar(bytes: &[u8]) -> bool {
    with_file(bytes, |path| {
        let Ok(sidecar) = Sidecar::read(path) else { return false };
        let print = sidecar.fingerprint();
        sidecar.write(path).expect("what was read can be written");
        let again = Sidecar::read(path).expect("what was written is read");
        assert_eq!(again.fingerprint(), print);
        assert_eq!(again.vector, sidecar.vector);
        true
    })
}

/// A control vector. What is read can be written, and is the same control vector.
pub fn control_vector(bytes: &[u8]) -> bool {
    with_file(bytes, |path| {
        let Ok(vector) = ControlVector::read(path) else { return false };
        vector.write(path).expect("what was read can be written");
        let again = ControlVector::read(path).expect("what was written is read");
        // By their text, since NaN in the metadata equals nothing.
        assert_eq!(format!("{again:?}"), format!("{vector:?}"));
        true
    })
}

/// A table: TruthfulQA's, or statements with labels.
pub fn csv(bytes: &[u8]) -> bool {
    data("x.csv", bytes)
}

/// TruthfulQA's `mc_task.json`.
pub fn mc_task(bytes: &[u8]) -> bool {
    data("x.json", bytes)
}

/// An object per line.
pub fn jsonl(bytes: &[u8]) -> bool {
    data("x.jsonl", bytes)
}

/// Judgements that people made, for a judge to be trained on.
pub fn judgements(bytes: &[u8]) -> bool {
    with_file(bytes, |path| {
        let Ok(data) = judge::data::read(path, Aspect::Truth, 0) else { return false };
        let few =
            judge::data::read(path, Aspect::Truth, 2).expect("some of what is sound is sound");
        assert!((1..=2).contains(&few.n_row()) && few.n_row() <= data.n_row());
        true
    })
}

/// An array of numpy's: as heads, as directions of three heads of two values, and as sigmas.
pub fn npy(bytes: &[u8]) -> bool {
    let geometry = Geometry { n_layer: 2, n_head: 2, n_head_kv: 2, d_head: 2, n_embd: 4 };
    with_file(bytes, |path| {
        with_file(HEADS, |heads| {
            with_file(DIRECTIONS, |directions| {
                let read = |heads, directions, sigmas| {
                    let arrays = HeadArrays::read(geometry, heads, directions, sigmas);
                    arrays.and_then(|arrays| arrays.vector()).is_ok()
                };
                [
                    read(path, directions, None),
                    read(heads, path, None),
                    HeadArrays::read(geometry, heads, path, None).is_ok(),
                    HeadArrays::read(geometry, path, directions, None).is_ok(),
                    read(heads, directions, Some(path)),
                ]
                .contains(&true)
            })
        })
    })
}

/// Heads 0.1 and 1.0, int32 `[2, 2]`.
pub const HEADS: &[u8] =
    b"\x93NUMPY\x01\0\x3b\0{'descr': '<i4', 'fortran_order': False, 'shape': (2, 2), }\
    \0\0\0\0\x01\0\0\0\x01\0\0\0\0\0\0\0";

/// A direction for each, float32 `[2, 2]`.
pub const DIRECTIONS: &[u8] =
    b"\x93NUMPY\x01\0\x3b\0{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }\
    \0\0\x80\x3f\0\0\0\0\0\0\0\0\0\0\x80\xbf";

fn data(name: &str, bytes: &[u8]) -> bool {
    let Ok(data) = Dataset::from_bytes(Path::new(name), bytes) else { return false };
    let _ = data.require_two_classes();
    assert!(data.n_row() > 0 && data.rows().count() == data.n_row());
    let n_line = 1 + bytes.iter().filter(|&&byte| byte == b'\n').count() as u64;
    let form = PromptForm::default_for(data.kind);
    for question in &data.questions {
        assert!((1..=n_line).contains(&question.line), "line {} of {n_line}", question.line);
        assert!(question.best() < question.answers.len());
        assert!(question.answers.iter().all(|answer| !answer.text.is_empty()));
        let _ = form.prompt(&question.text);
    }
    true
}

/// An activation store.
pub fn store(bytes: &[u8]) -> bool {
    with_file(bytes, |path| {
        let Ok(store) = Store::open(path) else { return false };
        let rows = [0, store.n_row() - 1];
        for &layer in store.layers() {
            let head = store.head(RowSet::Main, Site::new(layer, store.n_head() - 1), &rows);
            assert_eq!(head.dim(), (2, store.d_head()));
            if let Some(last) = store.next_groups().len().checked_sub(1) {
                let _ = store.head(RowSet::Next, Site::new(layer, 0), &[last]);
            }
        }
        true
    })
}

/// The progress of a capture that was stopped, beside a file of the right size: whatever it says, the
/// capture goes on, or begins anew.
pub fn progress(bytes: &[u8]) -> bool {
    let layout = small_layout();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("x");
    drop(StoreWriter::open(&path, &layout).expect("it begins"));
    std::fs::write(folder.path().join("x.progress"), bytes).expect("it takes the bytes");
    match StoreWriter::open(&path, &layout).expect("it goes on") {
        Opened::Resumed(_) => true,
        Opened::Restarted { writer, .. } => {
            assert_eq!(writer.n_batch_done(), 0);
            false
        }
        Opened::Finished | Opened::Fresh(_) => panic!("there was an unfinished capture"),
    }
}

/// Two texts, one layer, one head, and a text that goes on into another question.
pub fn small_layout() -> Layout {
    Layout {
        n_layer: 1,
        layers: vec![0],
        n_head: 1,
        d_head: 2,
        labels: vec![true, false],
        groups: vec![0, 1],
        next_groups: vec![[0, 1]],
        metadata: BTreeMap::from([("data".to_owned(), "facts.csv".to_owned())]),
    }
}

/// Partial results. What was known, and what is added, is known ever after.
pub fn ledger(bytes: &[u8]) -> bool {
    with_file(bytes, |path| drop(Ledger::<Record>::open(path, "a")));
    with_file(bytes, |path| {
        let Ok(mut ledger) = Ledger::<(Option<f64>, usize)>::open(path, "a") else { return false };
        let n_known = ledger.len();
        let is_new = ledger.get("one").is_none();
        ledger.put([("one".to_owned(), (Some(0.5), 1))]).expect("it can be written");
        drop(ledger);
        let ledger = Ledger::<(Option<f64>, usize)>::open(path, "a").expect("it can be read");
        assert_eq!(ledger.len(), n_known + usize::from(is_new));
        assert_eq!(ledger.get("one"), Some(&(Some(0.5), 1)));
        n_known > 0
    })
}

/// The chat template of a model, at work on a conversation.
pub fn chat_template(bytes: &[u8]) -> bool {
    rendered(bytes).is_some_and(|rendered| rendered.is_ok())
}

/// What a template makes of a conversation; none where it is no text.
pub fn rendered(bytes: &[u8]) -> Option<Result<String>> {
    let source = std::str::from_utf8(bytes).ok()?;
    let template = ChatTemplate::new(Some(source.to_owned()), "<s>".to_owned(), "</s>".to_owned());
    let messages = [
        Message::new(Role::System, "Be brief."),
        Message::new(Role::User, "Is it so?"),
        Message::new(Role::Assistant, "It is."),
        Message::new(Role::User, "Why?"),
    ];
    let _ = template.form();
    Some(template.render(&messages))
}

/// The pieces of a text, as a vocabulary cuts it: all before the stop string is shown once.
pub fn text_stream(bytes: &[u8]) -> bool {
    let Some((&[n_piece, n_stop], bytes)) = bytes.split_first_chunk() else { return false };
    let (stop, text) = bytes.split_at(usize::from(n_stop).min(bytes.len()));
    let Ok(stop) = std::str::from_utf8(stop) else { return false };
    let mut stream = TextStream::until(&[stop]);
    let mut shown = String::new();
    for piece in text.chunks(usize::from(n_piece).max(1)) {
        shown += stream.push(piece);
    }
    let stopped = stream.stopped();
    shown += &stream.rest();
    if let Ok(text) = std::str::from_utf8(text) {
        let expected = match stop {
            "" => text,
            stop => text.split(stop).next().unwrap_or(text),
        };
        assert_eq!(shown, expected);
        assert_eq!(stopped, expected.len() < text.len());
    }
    true
}
