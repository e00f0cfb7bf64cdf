//! `candor serve` under what clients really send: OpenAI's own, long conversations, many at once.
#![cfg(all(feature = "cli", feature = "serve"))]

mod common;

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use candor::gguf::{Builder, Gguf};
use candor::steer::Sidecar;
use common::served::{Reply, Served, post};
use common::sidecar::sidecar;
use serde_json::{Value, json};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo.gguf");
const VECTOR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo-vector.gguf");

/// A request of the openai package for Python as it was sent, and the status that it got;
/// `benches/peers/serve_openai.py --record` writes them.
const RECORDED: &str = include_str!("recorded/openai.jsonl");

#[test]
fn what_openais_client_sends_is_answered_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let server = Served::start(folder.path(), &["-m", MODEL, "--steer", "none"]);
    let mut n_stream = 0;
    for line in RECORDED.lines() {
        let recorded: Value = serde_json::from_str(line).unwrap();
        let text = |key: &str| recorded[key].as_str().unwrap();
        let body = match &recorded["body"] {
            Value::Null => String::new(),
            body => body.to_string(),
        };
        let mut head =
            format!("{} {} HTTP/1.1\r\nhost: {}\r\n", text("method"), text("path"), server.address);
        for (name, value) in recorded["headers"].as_object().unwrap() {
            // The plain client reads up to the end.
            let value = if name == "connection" { "close" } else { value.as_str().unwrap() };
            write!(head, "{name}: {value}\r\n").unwrap();
        }
        write!(head, "authorization: Bearer none\r\ncontent-length: {}\r\n\r\n{body}", body.len())
            .unwrap();
        let reply = server.raw(head.as_bytes());
        assert_eq!(
            u64::from(reply.status),
            recorded["status"].as_u64().unwrap(),
            "{line}\n{reply:?}"
        );
        if reply.status != 200 {
            assert!(!reply.error().is_empty());
        } else if recorded["body"]["stream"] == true {
            n_stream += 1;
            let events = reply.events();
            assert!(events.iter().all(|event| event["object"] == "chat.completion.chunk"));
            assert!(events.last().unwrap()["usage"]["completion_tokens"].as_u64().unwrap() > 0);
        } else if text("method") == "POST" {
            let answer = reply.json();
            let n = recorded["body"]["n"].as_u64().unwrap_or(1);
            assert_eq!(answer["choices"].as_array().unwrap().len() as u64, n, "{line}");
            let usage = |key: &str| answer["usage"][key].as_u64().unwrap();
            assert_eq!(usage("total_tokens"), usage("prompt_tokens") + usage("completion_tokens"));
        }
    }
    assert!(n_stream > 0 && RECORDED.lines().count() >= 10, "the recording has streams, too");
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

#[test]
fn a_second_turn_after_two_thousand_tokens_computes_what_is_new_whatever_the_strength() {
    let folder = tempfile::tempdir().unwrap();
    let path = long(folder.path());
    let vectors = folder.path().join("vectors");
    std::fs::create_dir(&vectors).unwrap();
    let model = common::load(&path);
    let vector = Sidecar::read(Path::new(VECTOR)).unwrap().vector;
    sidecar(&model, &vector, 10.0).write(&vectors.join("truth.gguf")).unwrap();
    let (path, vectors) = (path.to_str().unwrap(), vectors.to_str().unwrap());
    let arguments = ["-m", path, "--steer", "none", "--vectors", vectors, "-c", "4096"];
    let server = Served::start(folder.path(), &arguments);

    let mut messages =
        vec![json!({ "role": "user", "content": "a river and a stone. ".repeat(400) })];
    let computed = || -> u64 {
        let metrics = server.get("/metrics").body;
        let line = metrics.lines().find(|line| line.starts_with("candor_prompt_tokens_total "));
        line.unwrap_or_else(|| panic!("{metrics}")).rsplit(' ').next().unwrap().parse().unwrap()
    };
    let mut before = 0;
    for (turn, scale) in [Some(10), Some(4), None, Some(10)].into_iter().enumerate() {
        let steering = match scale {
            Some(scale) => json!({ "vectors": [{ "source": "truth", "scale": scale }] }),
            None => Value::Null,
        };
        let body = json!({ "messages": messages, "max_tokens": 6, "temperature": 0, "steering": steering });
        let n_computed = computed();
        let reply: Reply = server.post("/v1/chat/completions", &body);
        assert_eq!(reply.status, 200, "{reply:?}");
        let reply = reply.json();
        let n_prompt = reply["usage"]["prompt_tokens"].as_u64().unwrap();
        let n_cached = reply["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
        if turn == 0 {
            assert!(n_prompt > 2000, "{n_prompt}");
        } else {
            // All of the prompt before but its last token, which was steered, or is computed anyway.
            assert!(n_cached >= before - 1, "turn {turn}: {n_cached} of {before}");
            assert!(n_prompt - n_cached < 60, "turn {turn}: {n_prompt} less {n_cached}");
        }
        assert_eq!(computed() - n_computed, n_prompt - n_cached, "turn {turn}");
        before = n_prompt;
        messages.push(reply["choices"][0]["message"].clone());
        messages.push(json!({ "role": "user", "content": format!("and stone {turn}?") }));
    }
}

#[test]
fn sixty_four_at_once_are_answered_as_each_would_be_alone() {
    let folder = tempfile::tempdir().unwrap();
    let vectors = folder.path().join("vectors");
    std::fs::create_dir(&vectors).unwrap();
    let model = common::load(Path::new(MODEL));
    let plain = Sidecar::read(Path::new(VECTOR)).unwrap().vector;
    for seed in 0..4 {
        let sites: Vec<_> = plain.heads().iter().map(|head| (head.site.layer, seed)).collect();
        let drawn = common::steering::vector(model.geometry(), &sites, seed as u64);
        let vector = if seed == 0 { plain.clone() } else { &drawn * 20.0 };
        let mut sidecar = sidecar(&model, &vector, 4.0);
        sidecar.about.name = format!("v{seed}");
        sidecar.write(&vectors.join(format!("v{seed}.gguf"))).unwrap();
    }
    let vectors = vectors.to_str().unwrap();
    let arguments = [
        "-m",
        MODEL,
        "--steer",
        "none",
        "--vectors",
        vectors,
        "--parallel",
        "16",
        "--queue",
        "64",
        "-c",
        "4096",
        "--cache",
        "f32",
    ];
    let server = Served::start(folder.path(), &arguments);
    let questions = ["What is the capital of Australia?", "What is the symbol of cobalt?"];
    let body = |i: usize| {
        let vectors = [json!({ "source": format!("v{}", i % 4), "scale": 2.0 + 0.25 * i as f32 })];
        json!({ "messages": [{ "role": "user", "content": questions[i % 2] }], "temperature": 0,
            "max_tokens": 8, "stream": true, "steering": { "vectors": vectors } })
    };
    let text = |reply: &Reply| -> String {
        assert_eq!(reply.status, 200, "{reply:?}");
        let events = reply.events();
        events.iter().filter_map(|e| e["choices"][0]["delta"]["content"].as_str()).collect()
    };
    let alone: Vec<String> =
        (0..64).map(|i| text(&server.post("/v1/chat/completions", &body(i)))).collect();
    assert!(alone.iter().collect::<std::collections::BTreeSet<_>>().len() > 2, "{alone:?}");
    let together: Vec<Option<String>> = std::thread::scope(|scope| {
        let ask = |i: usize| {
            let (server, body) = (&server, body(i));
            move || {
                if i % 8 != 7 {
                    return Some(text(&server.post("/v1/chat/completions", &body)));
                }
                // One of eight leaves after its first bytes.
                let mut stream = TcpStream::connect(&server.address).unwrap();
                let body = body.to_string();
                let request = post(&server.address, "/v1/chat/completions", body.as_bytes(), "");
                stream.write_all(&request).unwrap();
                let _ = stream.read(&mut [0; 64]).unwrap();
                None
            }
        };
        let threads: Vec<_> = (0..64).map(|i| scope.spawn(ask(i))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    // With flash attention, sums of F16 depend on where in the cache a sequence lies: one in a hundred
    // may tip. `tests/engine.rs` has the exact comparison.
    let others: Vec<_> =
        together.iter().zip(&alone).filter(|(t, a)| t.as_ref().is_some_and(|t| t != *a)).collect();
    assert!(others.len() <= 1, "{others:?}");
    assert_eq!(together.iter().flatten().count(), 56);
}
