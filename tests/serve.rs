//! `candor serve`, asked as clients ask it.
#![cfg(all(feature = "cli", feature = "serve"))]

mod common;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use candor::steer::{SteeredHead, SteeringVector};
use candor::{Geometry, Model};
use common::program::{candor, json as printed};
use common::served::{Served, post};
use common::sidecar::sidecar;
use serde_json::{Value, json};

const MODEL: &str = "models/demo.gguf";
const QUESTION: &str = "What is the capital of Australia?";

/// A strong vector with probes over some heads of every layer.
fn vector(model: &Model, seed: u64) -> SteeringVector {
    let Geometry { n_layer, n_head, d_head, .. } = model.geometry();
    let sites: Vec<_> =
        (0..n_layer).map(|layer| (layer, (layer + seed as usize) % n_head)).collect();
    let plain = common::steering::vector(model.geometry(), &sites, seed);
    let heads = plain.heads().iter().map(|head| {
        let mut head: SteeredHead = head.clone();
        head.probe.weight.clone_from(&head.direction);
        head
    });
    SteeringVector::new(n_layer, n_head, d_head, heads.collect()).unwrap()
}

/// Writes the sidecar of a vector that is called `name`.
fn write(model: &Model, path: &Path, name: &str, seed: u64) {
    let mut sidecar = sidecar(model, &vector(model, seed), 6.0);
    name.clone_into(&mut sidecar.about.name);
    sidecar.write(path).unwrap();
}

fn chat(extra: &Value) -> Value {
    let mut body = json!({ "messages": [{ "role": "user", "content": QUESTION }],
        "temperature": 0, "max_tokens": 8 });
    for (key, value) in extra.as_object().expect("an object") {
        body[key] = value.clone();
    }
    body
}

fn content(reply: &Value) -> String {
    reply["choices"][0]["message"]["content"].as_str().expect("a text").to_owned()
}

/// Everything in one server, since to start one takes longer than to ask it.
#[test]
fn answers_as_openai_does_and_steers_by_the_request() {
    let folder = tempfile::tempdir().unwrap();
    let model = common::load(Path::new(MODEL));
    let vectors = folder.path().join("vectors");
    std::fs::create_dir(&vectors).unwrap();
    for (name, seed) in [("truth", 1), ("calm", 2)] {
        write(&model, &vectors.join(format!("{name}.gguf")), name, seed);
    }
    let arguments =
        ["-m", MODEL, "--cache", "f32", "--vectors", vectors.to_str().unwrap(), "--steer", "none"];
    let server = Served::start(folder.path(), &arguments);
    assert_eq!(server.vectors, ["calm", "truth"]);

    assert_eq!(server.get("/health").status, 200);
    let models = server.get("/v1/models").json();
    assert_eq!(models["data"][0]["object"], "model");
    let listed = server.get("/v1/steering").json();
    assert_eq!(listed["data"][1]["name"], "truth");
    assert_eq!(listed["data"][1]["alpha"], 6.0);
    assert!(server.get("/").body.contains("<title>candor</title>"));

    // Tokens there and back.
    let tokens = server.post("/tokenize", &json!({ "content": "Rome." })).json()["tokens"].clone();
    assert_eq!(server.post("/detokenize", &json!({ "tokens": tokens })).json()["content"], "Rome.");

    // What `candor run` says, with the vector and without.
    let run = |steer: &[&str]| {
        let mut command = candor(folder.path());
        command.args(["run", "-m", MODEL, "--cache", "f32", "-t", "1", "--temp", "0", "-n", "8"]);
        command.args(["--chat", "-p", QUESTION, "--steer"]).args(steer);
        printed(&mut command)["text"].as_str().expect("a text").to_owned()
    };
    let file = vectors.join("truth.gguf");
    let file = file.to_str().unwrap();
    let half = format!("{file}*0.5");
    let cases: [(Value, Vec<&str>); 5] = [
        (json!({}), vec!["none"]),
        (json!({ "steering": "truth" }), vec![file]),
        (json!({ "steering": "truth*0.5" }), vec![&half]),
        (
            json!({ "steering": { "vectors": [{ "source": "truth", "scale": 2 }] } }),
            vec![file, "--alpha", "2"],
        ),
        (
            json!({ "steering": { "vectors": [{ "source": "truth", "scale": 3, "apply": "all" }] } }),
            vec![file, "--alpha", "3", "--policy", "all"],
        ),
    ];
    for (extra, steer) in &cases {
        let reply = server.post("/v1/chat/completions", &chat(extra));
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(content(&reply.json()).trim(), run(steer), "{extra}");
        // Streamed, it is the same.
        let mut streamed = chat(extra);
        streamed["stream"] = json!(true);
        streamed["stream_options"] = json!({ "include_usage": true });
        let events = server.post("/v1/chat/completions", &streamed).events();
        let text: String = events
            .iter()
            .filter_map(|event| event["choices"][0]["delta"]["content"].as_str())
            .collect();
        assert_eq!(text, content(&reply.json()), "{extra}");
        let usage = &events.last().unwrap()["usage"];
        assert_eq!(usage["completion_tokens"], reply.json()["usage"]["completion_tokens"]);
    }
    for off in [json!(null), json!(false), json!("")] {
        let reply = server.post("/v1/chat/completions", &chat(&json!({ "steering": off })));
        assert_eq!(content(&reply.json()).trim(), run(&["none"]));
    }

    details(&server);
    refusals(&server);
    changes(&server, &model, &vectors);
}

fn details(server: &Served) {
    let extra = json!({ "logprobs": true, "top_logprobs": 3, "readings": true, "n": 2,
        "steering": "truth", "gate": { "below": 0.5 } });
    let reply = server.post("/v1/chat/completions", &chat(&extra)).json();
    assert_eq!(reply["choices"].as_array().unwrap().len(), 2, "{reply}");
    let choice = &reply["choices"][0];
    let tokens = choice["logprobs"]["content"].as_array().unwrap();
    let readings = choice["candor"]["readings"].as_array().unwrap();
    assert_eq!(tokens.len(), readings.len());
    for token in tokens {
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        // Greedy: the likeliest one.
        assert_eq!(token["logprob"], top[0]["logprob"]);
        assert!(token["logprob"].as_f64().unwrap() <= 0.0);
    }
    assert!(readings.iter().all(|x| (0.0..=1.0).contains(&x.as_f64().unwrap())), "{readings:?}");
    let kinds = choice["candor"]["kinds"].as_array().unwrap();
    assert!(kinds.len() == readings.len() && kinds.iter().all(|kind| kind == "uncalibrated"));

    let extra = json!({ "max_tokens": 60, "response_format": { "type": "json_schema", "json_schema": {
        "name": "x", "schema": { "type": "object", "properties": { "a": { "type": "boolean" } },
            "required": ["a"], "additionalProperties": false } } } });
    let reply = server.post("/v1/chat/completions", &chat(&extra)).json();
    let value: Value =
        serde_json::from_str(&content(&reply)).unwrap_or_else(|e| panic!("{e}: {reply}"));
    assert!(value["a"].is_boolean(), "{value}");

    let body = json!({ "prompt": format!("Q: {QUESTION} A:"), "max_tokens": 4, "temperature": 0,
        "stop": ["."], "logprobs": 2 });
    let reply = server.post("/v1/completions", &body).json();
    assert!(!reply["choices"][0]["text"].as_str().unwrap().contains('.'), "{reply}");
    assert!(reply["choices"][0]["logprobs"]["token_logprobs"].is_array());
    // The same prompt again is there, but for its last token.
    let usage = server.post("/v1/completions", &body).json()["usage"].clone();
    let n_prompt = usage["prompt_tokens"].as_u64().unwrap();
    assert_eq!(usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap(), n_prompt - 1);

    let metrics = server.get("/metrics").body;
    assert!(
        metrics.contains("\ncandor_requests_total ") && metrics.contains("\ncandor_vectors 2\n")
    );
}

fn refusals(server: &Served) {
    let refused = |body: &Value| {
        let reply = server.post("/v1/chat/completions", body);
        assert_eq!(reply.status, 400, "{body}: {reply:?}");
        reply.error()
    };
    for (extra, expected) in [
        (json!({ "steering": "tru" }), "no vector `tru`; there are: calm, truth"),
        (json!({ "steering": "../truth.gguf" }), "there is no vector"),
        (json!({ "steering": "truth*x" }), "no NAME or NAME*FACTOR"),
        (json!({ "steering": { "vector": [] } }), "there are: vectors"),
        (
            json!({ "steering": { "vectors": [{ "source": "truth", "layers": [1] }] } }),
            "no key `layers`",
        ),
        (
            json!({ "steering": { "vectors": [{ "source": "truth", "scale": "x" }] } }),
            "expected a number",
        ),
        (json!({ "tools": [{ "type": "function" }] }), "tools"),
        (json!({ "audio": {} }), "audio"),
        (json!({ "temperature": -1 }), "temperature: expected a number from 0"),
        (json!({ "top_logprobs": 3 }), "needs logprobs"),
        (json!({ "gate": { "above": 1 } }), "gate"),
        (json!({ "chat_template": "{{ x }}" }), "chat_template"),
        (json!({ "messages": [{ "role": "tool", "content": "x" }] }), "messages[0].role"),
        (json!({ "messages": [{ "role": "user", "content": "x ".repeat(5000) }] }), "tokens long"),
        (
            json!({ "response_format": { "type": "json_schema", "json_schema": {
            "schema": { "type": "nonsense" } } } }),
            "the schema cannot be used",
        ),
    ] {
        let message = refused(&chat(&extra));
        assert!(message.contains(expected), "{extra}: {message}");
    }
    for body in [&b"{"[..], b"", b"[]", b"\xff\xfe\x00", b"{\"messages\": 1}"] {
        let reply = server.raw(&post(&server.address, "/v1/chat/completions", body, ""));
        assert_eq!(reply.status, 400, "{reply:?}");
        reply.error();
    }
    let huge = vec![b' '; (10 << 20) + 1];
    let reply = server.raw(&post(&server.address, "/v1/completions", &huge, ""));
    assert!(matches!(reply.status, 413 | 0), "{:?}", reply.status);
    assert_eq!(server.get("/nothing").status, 404);
    assert_eq!(server.get("/v1/completions").status, 405);
    let evil = b"GET /v1/models HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n";
    assert_eq!(server.raw(evil).status, 403);
    // And still it answers.
    assert_eq!(server.post("/v1/chat/completions", &chat(&json!({}))).status, 200);
}

/// Sidecars come, change and go.
fn changes(server: &Served, model: &Model, vectors: &Path) {
    let names = || -> Vec<String> {
        let listed = server.get("/v1/steering").json();
        let names = listed["data"].as_array().unwrap().iter();
        names.map(|vector| vector["name"].as_str().unwrap().to_owned()).collect()
    };
    let wait = |expected: &[&str]| {
        let start = Instant::now();
        while names() != expected {
            assert!(start.elapsed() < Duration::from_secs(60), "{:?}", names());
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    // A vector is called as its file, whatever it calls itself.
    write(model, &vectors.join("brave.gguf"), "truth", 3);
    std::fs::write(vectors.join("broken.gguf"), b"GGUF").unwrap();
    wait(&["brave", "calm", "truth"]);
    std::fs::remove_file(vectors.join("brave.gguf")).unwrap();
    std::fs::remove_file(vectors.join("calm.gguf")).unwrap();
    wait(&["truth"]);
}

#[test]
fn a_client_that_leaves_gives_its_place_back_and_a_full_queue_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let server = Served::start(
        folder.path(),
        &["-m", MODEL, "--steer", "none", "--parallel", "1", "--queue", "0"],
    );
    let body = json!({ "prompt": "Q:", "max_tokens": 2000, "stream": true, "temperature": 1,
        "logit_bias": {} });
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream
        .write_all(&post(&server.address, "/v1/completions", body.to_string().as_bytes(), ""))
        .unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    // The answer may be over by itself; while it is not, there is no other place.
    let reply = server.post("/v1/chat/completions", &chat(&json!({ "max_tokens": 1 })));
    if reply.status == 429 {
        assert!(reply.head.contains("retry-after:") && reply.error().contains("the queue is full"));
    }
    drop(stream);
    let start = Instant::now();
    loop {
        let reply = server.post("/v1/chat/completions", &chat(&json!({ "max_tokens": 1 })));
        if reply.status == 200 {
            break;
        }
        assert_eq!(reply.status, 429, "{reply:?}");
        assert!(start.elapsed() < Duration::from_secs(60), "its place is never free");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn asks_for_its_key_and_ends_when_told() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    std::fs::write(&key, "secret\n").unwrap();
    let arguments = ["-m", MODEL, "--steer", "none", "--api-key-file", key.to_str().unwrap()];
    let mut server = Served::start(folder.path(), &arguments);
    assert_eq!(server.get("/v1/models").status, 401);
    assert_eq!(server.get("/health").status, 200);
    let body = chat(&json!({})).to_string();
    let with = |headers: &str| {
        server.raw(&post(&server.address, "/v1/chat/completions", body.as_bytes(), headers)).status
    };
    assert_eq!(with("authorization: Bearer secret\r\n"), 200);
    assert_eq!(with("x-api-key: secret\r\n"), 200);
    assert_eq!(with("authorization: Bearer wrong\r\n"), 401);
    #[cfg(unix)]
    {
        let told = std::process::Command::new("kill").arg(server.id().to_string()).status();
        assert!(told.unwrap().success());
        assert!(server.wait());
    }
}

#[test]
fn other_machines_are_served_with_a_key_only() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = candor(folder.path());
    let message =
        common::program::misuse(command.args(["serve", "--host", "0.0.0.0", "--port", "0"]));
    assert!(message.contains("--api-key-file") && message.contains("--insecure"), "{message}");
}
