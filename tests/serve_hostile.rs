//! `candor serve` among clients that mean no good, or are strange.
#![cfg(all(feature = "cli", feature = "serve"))]

mod common;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use candor::serve::{Notice, ServeParams, serve};
use candor::steer::Sidecar;
use candor::{Model, ModelParams, SessionParams};
use common::program::{candor, refusal};
use common::served::{Reply, Served, post};
use common::sidecar::sidecar;
use serde_json::{Value, json};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo.gguf");
const VECTOR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo-vector.gguf");
const QUESTION: &str = "What is the capital of Australia?";
const CHAT: &str = "/v1/chat/completions";

/// A sidecar of the demo's vector that is called `name`, in the file `file`.
fn write(folder: &Path, file: &str, name: &str) {
    let vector = Sidecar::read(Path::new(VECTOR)).unwrap().vector;
    let mut sidecar = sidecar(&common::load(Path::new(MODEL)), &vector, 10.0);
    name.clone_into(&mut sidecar.about.name);
    sidecar.write(&folder.join(file)).unwrap();
}

fn chat(extra: &Value) -> Value {
    let mut body = json!({ "messages": [{ "role": "user", "content": QUESTION }],
        "temperature": 0, "max_tokens": 8, "steering": false });
    for (key, value) in extra.as_object().expect("an object") {
        body[key] = value.clone();
    }
    body
}

fn content(reply: &Reply) -> String {
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()["choices"][0]["message"]["content"].as_str().expect("a text").to_owned()
}

/// What a stream wrote.
fn streamed(reply: &Reply) -> String {
    assert_eq!(reply.status, 200, "{reply:?}");
    let events = reply.events();
    events.iter().filter_map(|e| e["choices"][0]["delta"]["content"].as_str()).collect()
}

/// Everything in one server, since to start one takes longer than to ask it.
#[test]
fn nobody_gets_what_was_not_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let vectors = folder.path().join("vectors");
    std::fs::create_dir(&vectors).unwrap();
    write(&vectors, "truth.gguf", "a+b*2 «ü»");
    write(&vectors, "a+b «ü».gguf", "truth");
    // Two of one name within, and a file that is called as another calls itself.
    write(&vectors, "c.gguf", "truth");
    write(&vectors, "d.gguf", "c");
    let vectors = vectors.to_str().unwrap();
    let arguments =
        ["-m", MODEL, "--vectors", vectors, "--steer", "none", "--parallel", "2", "--queue", "4"];
    let server = Served::start(folder.path(), &arguments);
    assert_eq!(server.vectors, ["a+b «ü»", "c", "d", "truth"]);

    names(&server);
    strengths(&server);
    stops(&server);
    pieces(&server);
    bodies(&server);
    transport(&server);
    // And still it answers.
    assert_eq!(server.post(CHAT, &chat(&json!({}))).status, 200);
}

fn names(server: &Served) {
    let plain = content(&server.post(CHAT, &chat(&json!({}))));
    let steered = content(&server.post(CHAT, &chat(&json!({ "steering": "truth" }))));
    assert_ne!(plain, steered);
    for steering in
        [json!("a+b «ü»"), json!("c"), json!("d"), json!({ "vectors": [{ "source": "a+b «ü»" }] })]
    {
        assert_eq!(content(&server.post(CHAT, &chat(&json!({ "steering": steering })))), steered);
    }
    for steering in
        ["a+b «ü»*2", "a+b", "", "../truth", "truth\u{0}", "truth*", "truth*1e39", "*", "+"]
    {
        let reply = server.post(CHAT, &chat(&json!({ "steering": steering })));
        assert_eq!(reply.status, if steering.is_empty() { 200 } else { 400 }, "{steering:?}");
    }
    let many = vec!["truth"; 65].join("+");
    assert!(server.post(CHAT, &chat(&json!({ "steering": many }))).error().contains("at most 64"));
    // Nobody else's answer is steered by guessing its name.
    for name in ["chatcmpl-1", "chatcmpl-1-0", "cmpl-2-0000000000000001", "-", "1"] {
        let reply = server.post(&format!("/v1/steering/{name}"), &json!({ "steering": "truth" }));
        assert_eq!(reply.status, 404, "{name}: {reply:?}");
    }
}

/// Strengths that no model survives harm who asked for them, and nobody beside or after.
fn strengths(server: &Served) {
    let at = |scale: &str| -> Vec<u8> {
        let body = chat(&json!({ "steering": { "vectors": [{ "source": "truth", "scale": "X",
            "apply": "all" }] } }));
        post(&server.address, CHAT, body.to_string().replace("\"X\"", scale).as_bytes(), "")
    };
    for scale in ["1e39", "-1e400", "NaN", "Infinity", "\"1\"", "[]", "true"] {
        let reply = server.raw(&at(scale));
        assert_eq!(reply.status, 400, "{scale}: {reply:?}");
        reply.error();
    }
    let alone = content(&server.post(CHAT, &chat(&json!({ "max_tokens": 24 }))));
    for scale in ["1e30", "-1e30", "1e12", "1e7", "3e4"] {
        std::thread::scope(|scope| {
            let strong = scope.spawn(|| server.raw(&at(scale)));
            let beside = server.post(CHAT, &chat(&json!({ "max_tokens": 24 })));
            assert_eq!(content(&beside), alone, "beside {scale}");
            let strong = strong.join().unwrap();
            assert!(matches!(strong.status, 200 | 400), "{scale}: {strong:?}");
        });
        let after = server.post(CHAT, &chat(&json!({ "max_tokens": 24 })));
        assert_eq!(content(&after), alone, "after {scale}");
    }
}

/// A stop string ends an answer wherever the tokens' bounds are.
fn stops(server: &Served) {
    let whole = content(&server.post(CHAT, &chat(&json!({}))));
    let places: Vec<usize> = whole.char_indices().map(|(i, _)| i).skip(1).collect();
    for length in [1, 2, 5] {
        for from in places.iter().step_by(2) {
            let Some(stop) = whole.get(*from..from + length) else { continue };
            let expected = &whole[..whole.find(stop).unwrap()];
            let body = chat(&json!({ "stop": [stop, "never said"] }));
            let reply = server.post(CHAT, &body);
            assert_eq!(content(&reply), expected, "{stop:?}");
            assert_eq!(reply.json()["choices"][0]["finish_reason"], "stop");
            let mut body = body;
            body["stream"] = json!(true);
            assert_eq!(streamed(&server.post(CHAT, &body)), expected, "{stop:?}");
        }
    }
}

/// Characters of several tokens come whole, and a schema holds to the letter.
fn pieces(server: &Served) {
    let text = "äöü €uro 😀 ñandú";
    let schema = |schema: &Value, stream: bool| {
        chat(&json!({ "max_tokens": 200, "stream": stream, "response_format": {
            "type": "json_schema", "json_schema": { "name": "x", "schema": schema } } }))
    };
    let constant = json!({ "const": text });
    for stream in [false, true] {
        let reply = server.post(CHAT, &schema(&constant, stream));
        let said = if stream { streamed(&reply) } else { content(&reply) };
        assert!(!said.contains('\u{fffd}'), "{said}");
        assert_eq!(serde_json::from_str::<Value>(&said).unwrap(), text);
    }
    let hard = json!({
        "$defs": { "node": { "type": "object", "properties": {
            "kind": { "enum": ["leaf", "tree"] }, "size": { "type": "integer", "minimum": 1, "maximum": 9 },
            "tags": { "type": "array", "items": { "type": "array", "items": { "type": "boolean" },
                "minItems": 2, "maxItems": 2 }, "minItems": 1, "maxItems": 2 } },
            "required": ["kind", "size", "tags"], "additionalProperties": false } },
        "type": "object", "properties": { "a": { "$ref": "#/$defs/node" }, "b": { "anyOf": [
            { "type": "null" }, { "$ref": "#/$defs/node" }] } },
        "required": ["a", "b"], "additionalProperties": false });
    let said = content(&server.post(CHAT, &schema(&hard, false)));
    let value: Value = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"));
    assert!(jsonschema::is_valid(&hard, &value), "{value}");
    // Schemas that would take forever, or name what is not there.
    let deep = (0..500)
        .fold(json!({ "type": "null" }), |inner, _| json!({ "type": "array", "items": inner }));
    for schema_of in [
        json!({ "type": "string", "pattern": "(a{1,1000}){1,1000}(b{1,1000}){1,1000}" }),
        json!({ "$ref": "#/$defs/none" }),
        json!({ "$ref": "#" }),
        json!({ "$ref": "http://127.0.0.1:1/schema.json" }),
        json!({ "type": "array", "items": {}, "minItems": 1_000_000_000 }),
        json!({ "type": "string", "minLength": 1_000_000_000 }),
        json!({ "allOf": vec![json!({ "type": "string", "pattern": ".*a.{20}" }); 20] }),
        deep,
    ] {
        let start = Instant::now();
        let reply = server.post(CHAT, &schema(&schema_of, false));
        assert!(matches!(reply.status, 200 | 400), "{schema_of}: {reply:?}");
        assert!(!reply.body.contains("<state>"), "{reply:?}");
        assert!(start.elapsed() < Duration::from_secs(60), "{schema_of}");
    }
}

fn bodies(server: &Served) {
    // As many answers as there is room for, and not more.
    let reply = server.post(CHAT, &chat(&json!({ "n": 6 }))).json();
    assert_eq!(reply["choices"].as_array().unwrap().len(), 6);
    let refused = |extra: Value, why: &str| {
        let reply = server.post(CHAT, &chat(&extra));
        assert_eq!(reply.status, 400, "{extra}: {reply:?}");
        let error = reply.error();
        assert!(error.contains(why), "{extra}: {error}");
    };
    refused(json!({ "n": 7 }), "room for 6");
    refused(json!({ "messages": [] }), "it is empty");
    refused(json!({ "messages": [{ "role": "user" }] }), "messages[0].content");
    refused(
        json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url" }] }] }),
        "text",
    );
    refused(json!({ "max_tokens": 0 }), "max_tokens");
    refused(json!({ "stream_options": { "include_usage": true } }), "needs stream");
    refused(json!({ "response_format": { "type": "text", "strict": 1 } }), "strict");
    refused(json!({ "logit_bias": { "999999": 1 } }), "logit_bias");
    refused(json!({ "logit_bias": [[1]] }), "logit_bias");
    refused(json!({ "seed": 1.5 }), "seed");
    refused(json!({ "user": 3 }), "user");
    for content in ["", " ", "\u{0}", "<|endoftext|>", "\u{202e}x", "🏳️‍🌈"] {
        let reply = server.post(
            CHAT,
            &chat(&json!({ "messages": [
            { "role": "system", "content": content }, { "role": "user", "content": content }] })),
        );
        assert!(matches!(reply.status, 200 | 400), "{content:?}: {reply:?}");
    }
    // llama.cpp's forms: a token that never comes, as many as there is room for.
    let first =
        server.post("/tokenize", &json!({ "content": " Sydney" })).json()["tokens"][0].clone();
    let plain = content(&server.post(CHAT, &chat(&json!({}))));
    let other = chat(&json!({ "logit_bias": [[first, false]], "max_tokens": -1, "stop": ["\n"] }));
    assert_ne!(content(&server.post(CHAT, &other)), plain);
    // Text that no context holds is refused before it is read as tokens.
    for text in ["a".repeat(9 << 20), " ".repeat(9 << 20), "ä1 ".repeat(2 << 20)] {
        let start = Instant::now();
        let reply =
            server.post(CHAT, &chat(&json!({ "messages": [{ "role": "user", "content": text }] })));
        assert_eq!(reply.status, 400);
        assert_eq!(reply.json()["error"]["code"], "context_length_exceeded");
        assert!(start.elapsed() < Duration::from_secs(20));
    }
    // A key that is there twice, wherever it is.
    for (twice, key) in [
        ("\"seed\": 1, \"seed\": 2", "seed"),
        (
            "\"steering\": {\"vectors\": [{\"source\": \"c\", \"scale\": 1, \"scale\": 99}]}",
            "scale",
        ),
    ] {
        let body =
            format!("{{\"messages\": [{{\"role\": \"user\", \"content\": \"x\"}}], {twice}}}");
        let reply = server.raw(&post(&server.address, CHAT, body.as_bytes(), ""));
        assert_eq!((reply.status, reply.error()), (400, format!("{key}: it occurs twice")));
    }
    // Tokens that the model does not have.
    for token in ["302000000", "-1", "9223372036854775808", "1.5", "\"1\""] {
        let body = format!("{{\"tokens\": [1, {token}]}}");
        let reply = server.raw(&post(&server.address, "/detokenize", body.as_bytes(), ""));
        assert_eq!(reply.status, 400, "{token}: {reply:?}");
        let error = reply.error();
        let is_whole = token.parse::<i128>().is_ok();
        let expected = if is_whole { token } else { "whole numbers" };
        assert!(error.contains(expected), "{token}: {error}");
        assert!(!is_whole || error.contains("the model has "), "{error}");
    }
    let deep = format!("{}{}", "[".repeat(1 << 20), "]".repeat(1 << 20));
    for body in [deep.as_bytes(), &[0xff; 1000], b"{\"messages\":", b"nul"] {
        assert_eq!(server.raw(&post(&server.address, CHAT, body, "")).status, 400);
    }
}

fn transport(server: &Served) {
    let address = &server.address;
    let body = chat(&json!({})).to_string();
    // HTTP/1.0, which closes by itself.
    let old = format!(
        "POST {CHAT} HTTP/1.0\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let expected = content(&server.raw(old.as_bytes()));
    // A body in chunks, as long as it comes.
    let (a, b) = body.split_at(20);
    let chunks = format!("{:x}\r\n{a}\r\n{:x};ext=1\r\n{b}\r\n0\r\n\r\n", a.len(), b.len());
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    let chunked =
        server.raw(format!("{head}transfer-encoding: chunked\r\n\r\n{chunks}").as_bytes());
    assert_eq!(content(&chunked), expected);
    // Two requests at once on one connection: two answers in their order.
    let get = format!("GET /health HTTP/1.1\r\nhost: {address}\r\n\r\n");
    let two = [get.as_bytes(), &post(address, CHAT, body.as_bytes(), "")].concat();
    let reply = server.raw(&two);
    assert!(reply.body.contains("{\"status\":\"ok\"}HTTP/1.1 200"), "{reply:?}");
    // What is no request, or is one in two ways.
    for bad in [
        "GET / HTTP/9.9\r\n\r\n".to_owned(),
        "\r\n\r\n\0\0".to_owned(),
        format!("{head}content-length: 5\r\ncontent-length: 6\r\n\r\n{{}}"),
        format!("{head}content-length: -1\r\n\r\n"),
        format!("{head}content-length: 99999999999999999999\r\n\r\n"),
        format!("{head}transfer-encoding: chunked\r\n\r\nffffffffffffffff1\r\n"),
        format!("GET /health HTTP/1.1\r\nhost: {address}\r\nx: {}\r\n\r\n", "y".repeat(1 << 20)),
    ] {
        let reply = server.raw(bad.as_bytes());
        assert!((400..500).contains(&reply.status) || reply.status == 0, "{:?}", reply.status);
    }
    let huge = format!("{head}transfer-encoding: chunked\r\n\r\n");
    let mut bytes = huge.into_bytes();
    for _ in 0..11 {
        write!(bytes, "{:x}\r\n", 1 << 20).unwrap();
        bytes.extend(vec![b' '; 1 << 20]);
        bytes.extend(b"\r\n");
    }
    assert!(matches!(server.raw(&bytes).status, 413 | 0));
    for host in
        ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "[", "@localhost"]
    {
        let request =
            format!("GET /v1/models HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        let status = server.raw(request.as_bytes()).status;
        assert!(matches!(status, 400 | 403), "{host}: {status}");
    }
    let reply = server.raw(
        format!("DELETE {CHAT} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")
            .as_bytes(),
    );
    assert_eq!((reply.status, reply.json()["error"]["code"].as_u64()), (405, Some(405)));
    let id = server.get("/v1/models").json()["data"][0]["id"].as_str().unwrap().to_owned();
    let model = server.get(&format!("/v1/models/{}", id.replace(' ', "%20")));
    assert_eq!(model.json()["id"], id);
    assert_eq!(server.get("/v1/models/other").status, 404);
}

#[test]
fn two_servers_do_not_share_a_port() {
    let folder = tempfile::tempdir().unwrap();
    let server = Served::start(folder.path(), &["-m", MODEL, "--steer", "none"]);
    let port = server.address.rsplit(':').next().unwrap();
    let mut second = candor(folder.path());
    let message = refusal(second.args(["serve", "-m", MODEL, "--port", port]));
    assert!(message.contains(&server.address) && message.contains("in use"), "{message}");
}

#[cfg(unix)]
#[test]
fn an_answer_that_is_being_written_is_brought_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Served::start(folder.path(), &["-m", MODEL, "--steer", "none", "-c", "2048"]);
    let ends = json!({ "prompt": "Q:", "max_tokens": 200, "stream": true, "temperature": 1, "seed": 3,
        "stream_options": { "include_usage": true } });
    let mut stream = TcpStream::connect(&server.address).unwrap();
    let request = post(&server.address, "/v1/completions", ends.to_string().as_bytes(), "");
    stream.write_all(&request).unwrap();
    let mut bytes = vec![0; 12];
    stream.read_exact(&mut bytes).unwrap();
    let told = std::process::Command::new("kill").arg(server.id().to_string()).status();
    assert!(told.unwrap().success());
    stream.read_to_end(&mut bytes).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.contains("data: [DONE]") && text.contains("\"finish_reason\":\""), "{text}");
    assert!(server.wait());
}

/// A server within this process, with little patience.
fn impatient(patience: Duration) -> String {
    let (tell, told) = std::sync::mpsc::channel();
    let params = ServeParams::default()
        .with_address(([127, 0, 0, 1], 0).into())
        .with_session(SessionParams::default().with_n_threads(Some(1)).with_n_ctx(4096))
        .with_patience(patience);
    let load = || Model::load(Path::new(MODEL), &ModelParams::default());
    std::thread::spawn(move || {
        let address = std::sync::Mutex::new(None);
        serve(params, load, move |notice| match notice {
            Notice::Listening(at) => *address.lock().unwrap() = Some(at),
            Notice::Ready(_) => tell.send(address.lock().unwrap().expect("it listens")).unwrap(),
            _ => {}
        })
    });
    told.recv().expect("the server starts").to_string()
}

#[test]
fn who_sends_or_reads_nothing_is_not_waited_for_longer_than_that() {
    candor::set_verbose(false);
    let address = impatient(Duration::from_secs(2));
    let open = |bytes: &str| {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(bytes.as_bytes()).unwrap();
        stream
    };
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: {address}\r\n");
    let start = Instant::now();
    // Nothing at all, half a head, a body that does not come, to where one is read and where none is, and
    // nothing after an answer.
    let stalled = [
        String::new(),
        "GET /health HT".to_owned(),
        format!("{head}content-length: 100\r\n\r\n{{"),
        format!("POST /nothing HTTP/1.1\r\nhost: {address}\r\ncontent-length: 100\r\n\r\n{{"),
        format!("GET /health HTTP/1.1\r\nhost: {address}\r\n\r\n"),
    ];
    let streams: Vec<TcpStream> = stalled.iter().map(|bytes| open(bytes)).collect();
    let given_up = reads_nothing(&address);
    for (mut stream, sent) in streams.into_iter().zip(&stalled) {
        let mut reply = String::new();
        let ended = stream.read_to_string(&mut reply);
        assert!(ended.is_ok(), "{sent:?}: {ended:?}");
        assert!(start.elapsed() < Duration::from_secs(10), "{sent:?}");
        if sent.contains(CHAT) {
            assert!(reply.starts_with("HTTP/1.1 408"), "{reply}");
        }
    }
    given_up.join().unwrap();
}

/// A client that asks for more than any buffer holds, and reads none of it: its places are free in time.
fn reads_nothing(address: &str) -> std::thread::JoinHandle<()> {
    const N: u64 = 68;
    const N_TOKEN: u64 = 230;
    let model = common::load(Path::new(MODEL));
    let n_vocab = i32::try_from(model.n_vocab()).unwrap();
    let ends: Vec<Value> =
        (0..n_vocab).filter(|&token| model.is_end(token)).map(|end| json!([end, false])).collect();
    let body = json!({ "prompt": "Q:", "n": N, "stream": true, "logprobs": 20, "max_tokens": N_TOKEN,
        "temperature": 1, "logit_bias": ends });
    let address = address.to_owned();
    std::thread::spawn(move || {
        let mut stream = TcpStream::connect(&address).unwrap();
        let body = body.to_string();
        stream.write_all(&post(&address, "/v1/completions", body.as_bytes(), "")).unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        let metric = |name: &str| -> u64 {
            let mut stream = TcpStream::connect(&address).unwrap();
            let get =
                format!("GET /metrics HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
            stream.write_all(get.as_bytes()).unwrap();
            let mut reply = String::new();
            stream.read_to_string(&mut reply).unwrap();
            let line = reply.lines().find(|line| line.starts_with(name));
            line.unwrap_or_else(|| panic!("{reply}")).rsplit(' ').next().unwrap().parse().unwrap()
        };
        let start = Instant::now();
        while metric("candor_requests_active ") + metric("candor_requests_waiting ") > 0 {
            assert!(start.elapsed() < Duration::from_secs(60), "its places are never free");
            std::thread::sleep(Duration::from_millis(100));
        }
        // It was given up, not brought to its end.
        assert!(metric("candor_generated_tokens_total ") < N * N_TOKEN);
    })
}
