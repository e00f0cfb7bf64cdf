//! What a name means to `candor serve`, whose probes read, and what becomes of answers that are being
//! written where a vector is replaced or the server is told to end.
#![cfg(all(feature = "cli", feature = "serve"))]

mod common;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use candor::engine::EngineParams;
use candor::gguf::{Builder, Gguf};
use candor::serve::{Notice, ServeParams, serve};
use candor::steer::Sidecar;
use candor::{Model, ModelParams, SessionParams};
use common::program::{candor, refusal};
use common::served::{Reply, Served, post};
use common::sidecar::sidecar;
use serde_json::{Value, json};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo.gguf");
const VECTOR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo-vector.gguf");
const CHAT: &str = "/v1/chat/completions";

/// A vector of its own for each `seed`, with probes, that calls itself `name`.
fn write(model: &Model, path: &Path, name: &str, seed: u64) {
    let plain = Sidecar::read(Path::new(VECTOR)).unwrap().vector;
    let mut sidecar = sidecar(model, &(&plain * (1.0 + seed as f32)), 10.0);
    name.clone_into(&mut sidecar.about.name);
    sidecar.write(path).unwrap();
}

fn folder_of(root: &Path, name: &str) -> PathBuf {
    let path = root.join(name);
    std::fs::create_dir(&path).unwrap();
    path
}

fn chat(extra: &Value) -> Value {
    let mut body = json!({ "messages": [{ "role": "user", "content": "Why is the sky blue?" }],
        "temperature": 0, "max_tokens": 4 });
    for (key, value) in extra.as_object().expect("an object") {
        body[key] = value.clone();
    }
    body
}

/// The names with their fingerprints, and the default.
fn listed(server: &Served) -> (Vec<(String, String)>, String) {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let list = server.get("/v1/steering").json();
    let data = list["data"].as_array().unwrap().iter();
    (data.map(|it| (text(&it["name"]), text(&it["fingerprint"]))).collect(), text(&list["default"]))
}

fn wait_for(server: &Served, names: &[&str]) -> Vec<(String, String)> {
    let start = Instant::now();
    loop {
        let (found, _) = listed(server);
        if found.iter().map(|(name, _)| name).eq(names) {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{found:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_name_is_a_files_and_means_nothing_else_as_long_as_the_server_runs() {
    let room = tempfile::tempdir().unwrap();
    let model = common::load(Path::new(MODEL));
    let (vectors, other) = (folder_of(room.path(), "vectors"), folder_of(room.path(), "other"));
    write(&model, &other.join("x.gguf"), "calls itself y", 0);
    write(&model, &vectors.join("x.gguf"), "x", 1);
    write(&model, &vectors.join("y.gguf"), "x", 2);
    let steer = format!("{}*0.5", other.join("x.gguf").display());
    let arguments = ["-m", MODEL, "--vectors", vectors.to_str().unwrap(), "--steer", &steer];
    let server = Served::start(room.path(), &arguments);
    assert_eq!(server.vectors, ["x", "y"]);
    let before = wait_for(&server, &["x", "y"]);
    let own = |path: &Path| Sidecar::read(path).unwrap().fingerprint();
    assert_eq!(before[0].1, own(&other.join("x.gguf")), "the default's, not the folder's");
    assert_eq!(before[1].1, own(&vectors.join("y.gguf")));
    assert_eq!(listed(&server).1, "x*0.5");
    let about = server.get("/v1/models").json()["data"][0]["meta"].clone();
    assert_eq!((&about["vectors"], &about["steering"]), (&json!(["x", "y"]), &json!("x*0.5")));

    // Files that call themselves as others, or come before them, change the meaning of no name.
    write(&model, &vectors.join("a.gguf"), "y", 3);
    let after = wait_for(&server, &["a", "x", "y"]);
    assert_eq!(after[1..], before);
    std::fs::remove_file(vectors.join("y.gguf")).unwrap();
    std::fs::remove_file(vectors.join("x.gguf")).unwrap();
    std::fs::remove_file(other.join("x.gguf")).unwrap();
    // The default outlives its file, under its name, too.
    assert_eq!(wait_for(&server, &["a", "x"])[1], before[0]);
    for steering in ["x", "x*0.5 + a"] {
        assert_eq!(server.post(CHAT, &chat(&json!({ "steering": steering }))).status, 200);
    }
    let reply = server.post(CHAT, &chat(&json!({ "steering": "y" })));
    assert!(reply.error().contains("there is no vector `y`; there are: a, x"), "{reply:?}");

    // Two files of one name are none.
    write(&model, &vectors.join("two.gguf"), "one", 1);
    write(&model, &other.join("two.gguf"), "two", 2);
    let mut command = candor(room.path());
    command.args(["serve", "-m", MODEL, "--port", "0", "--steer"]).arg(vectors.join("two.gguf"));
    let message = refusal(command.arg("--steer").arg(other.join("two.gguf")));
    assert!(message.contains("the name `two` is taken by"), "{message}");
}

/// A server within this process, and what it says.
fn within(model: &Path, params: ServeParams) -> (Served, Arc<Mutex<Vec<Notice>>>) {
    candor::set_verbose(false);
    let notices = Arc::<Mutex<Vec<Notice>>>::default();
    let (told, model) = (Arc::clone(&notices), model.to_owned());
    let (tell, address) = std::sync::mpsc::channel();
    let params = params.with_address(([127, 0, 0, 1], 0).into());
    std::thread::spawn(move || {
        let load = move || Model::load(&model, &ModelParams::default());
        serve(params, load, move |notice| {
            if let Notice::Listening(at) = &notice {
                tell.send(at.to_string()).unwrap();
            }
            told.lock().unwrap().push(notice);
        })
    });
    let address = address.recv_timeout(Duration::from_secs(60)).expect("it starts");
    (Served::at(address), notices)
}

#[test]
fn a_file_of_the_folder_that_is_called_as_the_default_is_left_out_and_told_of() {
    let room = tempfile::tempdir().unwrap();
    let model = common::load(Path::new(MODEL));
    let (vectors, other) = (folder_of(room.path(), "vectors"), folder_of(room.path(), "other"));
    write(&model, &other.join("x.gguf"), "x", 0);
    write(&model, &vectors.join("x.gguf"), "x", 1);
    // The default's own file, by another way, is no other.
    write(&model, &vectors.join("y.gguf"), "y", 2);
    let same = vectors.join("../vectors/y.gguf");
    let params = ServeParams::default()
        .with_session(SessionParams::default().with_n_threads(Some(1)))
        .with_steer(vec![(other.join("x.gguf"), 1.0), (same, 1.0)])
        .with_vectors(Some(vectors.clone()));
    let (_server, notices) = within(Path::new(MODEL), params);
    let left_out = || -> Vec<(PathBuf, String)> {
        let of = |notice: &Notice| match notice {
            Notice::Refused(path, why) => Some((path.clone(), why.clone())),
            _ => None,
        };
        notices.lock().unwrap().iter().filter_map(of).collect()
    };
    let first = left_out();
    assert_eq!(first.len(), 1, "{first:?}");
    assert_eq!(first[0].0, vectors.join("x.gguf"));
    assert!(first[0].1.contains("the name `x` is taken by"), "{first:?}");
    assert!(
        notices.lock().unwrap().iter().any(|it| *it == Notice::Ready(vec!["x".into(), "y".into()]))
    );
    // Once, not with every look.
    write(&model, &vectors.join("z.gguf"), "z", 3);
    let start = Instant::now();
    while !notices.lock().unwrap().iter().any(|it| matches!(it, Notice::Changed(_))) {
        assert!(start.elapsed() < Duration::from_secs(60), "it is never seen");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(left_out(), first);
}

#[test]
fn readings_are_those_of_the_requests_vectors_or_of_the_default() {
    let room = tempfile::tempdir().unwrap();
    let model = common::load(Path::new(MODEL));
    let vectors = folder_of(room.path(), "vectors");
    write(&model, &vectors.join("a.gguf"), "a", 0);
    write(&model, &vectors.join("b.gguf"), "b", 1);
    let arguments = ["-m", MODEL, "--vectors", vectors.to_str().unwrap(), "--steer", "none"];
    let server = Served::start(room.path(), &arguments);
    let ask = |extra: Value| server.post(CHAT, &chat(&extra));
    let readings = |reply: &Reply| {
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.json()["choices"][0]["candor"]["readings"].clone()
    };
    let refused = |extra: Value, expected: &str| {
        let reply = ask(extra.clone());
        assert_eq!(reply.status, 400, "{extra}: {reply:?}");
        assert!(reply.error().contains(expected), "{extra}: {reply:?}");
    };
    for off in [json!({}), json!({ "steering": false })] {
        let with = |value: Value| {
            let mut extra = off.clone();
            extra["readings"] = value;
            extra
        };
        refused(with(json!(true)), "the server has no default: say whose probes read it");
        refused(with(json!({ "source": "c" })), "there is no vector `c`; there are: a, b");
        for odd in [json!("a"), json!(1), json!({ "by": "a" }), json!({ "source": 1 })] {
            refused(with(odd), "readings: expected true, false or");
        }
        let own = readings(&ask(with(json!({ "source": "a" }))));
        assert!(own[0].is_number(), "{own}");
        assert!(readings(&ask(with(json!(false)))).is_null());
        let mut gated = off.clone();
        gated["gate"] = json!({ "below": 0.5 });
        refused(gated, "gate: nothing steers this request");
    }
    let steered = json!({ "steering": "a", "readings": true });
    assert_eq!(
        readings(&ask(steered)),
        readings(&ask(json!({ "steering": "a", "readings": { "source": "a" } })))
    );
    refused(
        json!({ "steering": "a", "gate": { "below": 0.5 }, "readings": { "source": "b" } }),
        "with a gate, readings are those that it goes by",
    );
}

/// The demo's model, said to have been trained with a longer context.
fn long(folder: &Path) -> PathBuf {
    let file = Gguf::open(Path::new(MODEL)).unwrap();
    let mut copy = Builder::new();
    for (key, value) in file.entries() {
        copy.set(key, value.clone());
    }
    copy.set("llama.context_length", 4096u32);
    for tensor in file.tensors() {
        copy.tensor(&tensor.name, &tensor.dims, tensor.kind, file.bytes(tensor).to_vec());
    }
    let path = folder.join("long.gguf");
    copy.write(&path).unwrap();
    path
}

/// A request for `n` answers of so many tokens, with as much said of each as there is, so that buffers are
/// full before they are over.
fn flood(model: &Model, (n, n_token): (usize, usize), steering: &Value) -> Value {
    let n_vocab = i32::try_from(model.n_vocab()).unwrap();
    let ends: Vec<Value> =
        (0..n_vocab).filter(|&token| model.is_end(token)).map(|end| json!([end, false])).collect();
    json!({ "prompt": "Q: Why? A:", "n": n, "stream": true, "logprobs": 20, "max_tokens": n_token,
        "temperature": 0, "logit_bias": ends, "steering": steering })
}

/// Asks and reads the first bytes of the answer.
fn begin(server: &Served, body: &Value) -> TcpStream {
    let mut stream = TcpStream::connect(&server.address).unwrap();
    let body = body.to_string();
    stream.write_all(&post(&server.address, "/v1/completions", body.as_bytes(), "")).unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    stream
}

/// What a stream said in each of its answers, as its text goes over the line.
fn texts(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let mut texts = Vec::new();
    for line in text.split('\n').filter_map(|line| line.strip_prefix("data: {")) {
        let event: Value = serde_json::from_str(&format!("{{{}", line.trim())).unwrap();
        if let Some(choice) = event["choices"].get(0) {
            let i = usize::try_from(choice["index"].as_u64().unwrap()).unwrap();
            if texts.len() <= i {
                texts.resize(i + 1, String::new());
            }
            texts[i].push_str(choice["text"].as_str().unwrap());
        }
    }
    texts
}

fn active(server: &Served) -> u64 {
    let metrics = server.get("/metrics").body;
    let line = metrics.lines().find(|line| line.starts_with("candor_requests_active "));
    line.expect("a number").rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn an_answer_keeps_the_vector_that_it_began_with() {
    let room = tempfile::tempdir().unwrap();
    let path = long(room.path());
    let model = common::load(&path);
    let vectors = folder_of(room.path(), "vectors");
    let file = vectors.join("a.gguf");
    write(&model, &file, "a", 0);
    let params = ServeParams::default()
        .with_session(SessionParams::default().with_n_threads(Some(1)).with_n_ctx(6144))
        .with_engine(EngineParams::default().with_n_parallel(3))
        .with_vectors(Some(vectors));
    let (server, _) = within(&path, params);
    let read = |mut stream: TcpStream| {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        texts(&bytes)
    };
    // How often a text begins a question: as the demo's model does all the time.
    let n_question = |text: &str| text.matches("Q:").count();
    let running = begin(&server, &flood(&model, (2, 1800), &json!("a")));
    let (before, _) = listed(&server);
    write(&model, &file, "a", 50);
    let start = Instant::now();
    while listed(&server).0 == before {
        assert!(start.elapsed() < Duration::from_secs(20), "the file is never taken up");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(active(&server) > 0, "they were over before the vector was replaced");
    let new = read(begin(&server, &flood(&model, (1, 200), &json!("a"))));
    assert!(n_question(&new[0]) < 2, "fifty times as strong, it says nothing: {}", new[0]);
    for text in read(running) {
        let end = &text[text.floor_char_boundary(text.len() - 500)..];
        assert!(n_question(end) > 3, "an answer that had begun: {end}");
    }
}

#[test]
#[cfg(unix)]
fn a_second_signal_ends_the_server_at_once() {
    let room = tempfile::tempdir().unwrap();
    let path = long(room.path());
    let model = common::load(&path);
    for signal in ["-TERM", "-INT"] {
        let arguments =
            ["-m", path.to_str().unwrap(), "--steer", "none", "-c", "8192", "--parallel", "8"];
        let mut server = Served::start(room.path(), &arguments);
        let tell = |server: &Served| {
            let id = server.id().to_string();
            assert!(
                std::process::Command::new("kill").args([signal, &id]).status().unwrap().success()
            );
        };
        let stream = begin(&server, &flood(&model, (8, 900), &Value::Null));
        tell(&server);
        // It hears the first by listening no more, and goes on with its answers.
        let start = Instant::now();
        while TcpStream::connect(&server.address).is_ok() {
            assert!(start.elapsed() < Duration::from_secs(20), "it listens on");
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(500));
        assert!(server.is_running(), "the first signal lets answers end");
        let start = Instant::now();
        tell(&server);
        assert!(server.wait());
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        drop(stream);
    }
}
