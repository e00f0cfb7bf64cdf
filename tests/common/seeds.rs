//! A sound input or two for every parser: where fuzzing begins, and what hostile files are made of.

use std::path::Path;

use candor::capture::store::{Opened, RowSet, StoreWriter};
use candor::gguf::{Builder, TensorType, Value};

use super::parsers::{DIRECTIONS, HEADS, small_layout};

/// The inputs of each parser, by its name.
pub fn all() -> [(&'static str, Vec<Vec<u8>>); 14] {
    let texts = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    let (store, progress) = store();
    [
        ("chat_template", texts(&TEMPLATES)),
        ("control_vector", vec![control_vector().to_bytes()]),
        ("csv", texts(&[TRUTHFULQA, "statement,label\nsnow is white,1\n\"fire,\nis wet\",no\n"])),
        ("gguf", vec![model().to_bytes(), values().to_bytes()]),
        ("jsonl", texts(&[ANSWERS, PAIRS])),
        ("judgements", texts(&[JUDGEMENTS])),
        ("ledger", texts(&[LEDGER, STUDY])),
        ("mc_task", texts(&[MC_TASK])),
        ("npy", vec![HEADS.to_vec(), DIRECTIONS.to_vec(), SIGMAS.to_vec()]),
        ("progress", vec![progress]),
        ("request", texts(&REQUESTS)),
        ("sidecar", vec![sidecar().to_bytes()]),
        ("store", vec![store]),
        ("text_stream", texts(&["\x03\x02Q:Canberra. Q: Why?", "\x01\x00näher"])),
    ]
}

const TRUTHFULQA: &str = "Category,Question,Best Answer,Correct Answers,Incorrect Answers\n\
    Law,\"Why, then?\",Because,No; Because;So,Yes;Maybe\n";

const MC_TASK: &str = r#"[{"question": "1 + {1}?", "mc1_targets": {"2": 1, "3": 0},
 "mc2_targets": {"2": 1, "\u0032.0": 1, "3": 0}}]"#;

const ANSWERS: &str = r#"{"prompt": "p", "answer": " a", "label": true, "id": 7}
{"prompt": "p", "answer": "b", "label": "no"}

{"prompt": "q", "answer": "c", "label": 0}"#;

const PAIRS: &str = r#"{"positive": "yes!", "negative": "no!"}"#;

const JUDGEMENTS: &str = r#"{"prompt": "Q: a?\nA: 1\nTrue:", "completion": " yes"}

{"prompt": "Q: a?\nA: 2\nA: 3\nTrue:", "completion": " no"}"#;

/// float64 `[2]`, the other byte order.
const SIGMAS: &[u8] =
    b"\x93NUMPY\x02\0\x3a\0\0\0{'descr': '>f8', 'fortran_order': True, 'shape': (2,), }  \
    \x3f\xf0\0\0\0\0\0\0\x40\0\0\0\0\0\0\0";

const LEDGER: &str = r#"{"candor_ledger":3,"identity":"a"}
["question 0 head 1.2",[0.25,1]]
["document 0 head 1.2",[null,17]]
"#;

const STUDY: &str = r#"{"candor_ledger":3,"identity":"a"}
["a",[1e-3,0]]
["fold 0 choice",{"Choice":{"choice":{"k":1,"alpha":2.0,"mc1":0.5,"kl":0.1},"heads":[{"layer":0,"head":1}]}}]
["fold 0, base 0, question 1",{"Scores":[-1.5,-2.0]}]
["fold 0, base 0, question 1, written",{"Written":"yes"}]
"#;

const TEMPLATES: [&str; 3] = [
    "{% for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + \
     message['content'].strip() + '<|im_end|>\\n' -}}{% endfor %}\
     {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    "{% set ns = namespace(system='') %}{% for m in messages if m.role != 'tool' %}\
     {% if loop.first and m.role == 'system' %}{% set ns.system = m.content | trim %}\
     {% elif m.role == 'user' %}{{ bos_token ~ '[INST] ' ~ ns.system ~ m.content[0:9] ~ ' [/INST]' }}\
     {% else %}{{ m.content | upper ~ eos_token }}{% endif %}{% endfor %}",
    "{% macro turn(m, n=2) %}{{ m.role.title() * n }}{{ strftime_now('%d %b %Y') }}{% endmacro %}\
     {{ turn(messages[-1]) }}{{ messages | map(attribute='role') | join(', ') | string }}\
     {{ range(3) | list | length }}{{ tools is none }}",
];

/// Three layers of four heads, as much of a model as is read without llama.cpp.
pub fn model() -> Builder<'static> {
    let mut builder = Builder::new();
    let tokens: Vec<String> = ["<unk>", "<s>", "</s>", "a"].map(String::from).to_vec();
    builder
        .set("general.architecture", "x")
        .set("x.block_count", 3u32)
        .set("x.embedding_length", 8u32)
        .set("x.attention.head_count", 4u32)
        .set("x.attention.head_count_kv", vec![2u32, 0, 2])
        .set("x.attention.key_length", 4u32)
        .set("x.rope.dimension_count", 4u32)
        .set("x.rope.scaling.type", "yarn")
        .set("x.expert_count", 4u32)
        .set("x.expert_used_count", 2u32)
        .set("tokenizer.ggml.model", "llama")
        .set("tokenizer.ggml.tokens", tokens)
        .set("tokenizer.ggml.token_type", vec![1i32; 4]);
    for layer in 0..3 {
        let mut add = |name: &str, dims: &[u64], kind, n_byte: usize| {
            builder.tensor(&format!("blk.{layer}.{name}.weight"), dims, kind, vec![0; n_byte]);
        };
        add("attn_norm", &[8], TensorType::F32, 32);
        add("attn_output", &[32, 2], TensorType::Q8_0, 68);
    }
    builder
}

/// One value of every type.
fn values() -> Builder<'static> {
    let mut builder = Builder::new();
    builder
        .set("general.alignment", 64u32)
        .set("u8", 1u8)
        .set("i8", -1i8)
        .set("u16", 1u16)
        .set("i16", -1i16)
        .set("i32", -1i32)
        .set("f32", f32::NAN)
        .set("f64", 0.1)
        .set("bool", true)
        .set("u64", u64::MAX)
        .set("i64", i64::MIN)
        .set("f32s", vec![f32::INFINITY, -0.0])
        .set("bools", vec![true, false])
        .set("nothing", Vec::<String>::new())
        .tensor("a", &[1, 2, 1, 2], TensorType::F16, vec![0; 8])
        .tensor("b", &[2], TensorType::I32, vec![1; 8]);
    builder
}

/// Bodies of requests, with every key that the server knows.
const REQUESTS: [&str; 3] = [
    r#"{"model": "m", "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": [{"type": "text", "text": "why?"}]}, {"role": "assistant", "content": "so", "refusal": null}, {"role": "user", "content": "and?"}], "max_completion_tokens": 8, "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "seed": -1, "stop": ["Q:", "\n"], "n": 2, "stream": true, "stream_options": {"include_usage": true}, "logprobs": true, "top_logprobs": 3, "logit_bias": {"1": -100, "2": 0.5}, "presence_penalty": 0.5, "frequency_penalty": -0.5, "repeat_penalty": 1.1, "repeat_last_n": -1, "user": "me", "steering": "truth*0.5 + truth", "readings": true, "gate": {"below": 0.5}, "tools": [], "store": false}"#,
    r#"{"prompt": "once", "max_tokens": 4, "logprobs": 2, "stop": "end", "steering": {"vectors": [{"source": "truth", "scale": 2.5, "apply": {"prompt_positions": [-1], "generation": "all"}}]}, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}}"#,
    r#"{"prompt": [1, 2, 3], "steering": null, "response_format": {"type": "json_object"}, "echo": false}"#,
];

/// A sidecar for two layers of two heads of two values, two of which are steered.
pub fn sidecar() -> Builder<'static> {
    let mut builder = Builder::new();
    let texts = [
        ("general.type", "adapter"),
        ("general.architecture", "llama"),
        ("general.name", "truth"),
        ("general.description", "more of it"),
        ("general.license", "MIT"),
        ("general.base_model.0.name", "Tiny"),
        ("adapter.type", "iti"),
        ("candor.version", "0.1.0"),
        ("candor.method", "iti"),
        ("candor.direction", "mass-mean"),
        ("candor.positions", "generated"),
        ("candor.data.name", "TruthfulQA.csv"),
        ("candor.prompt", "Q: {question} A: {answer}"),
        ("candor.split", "80/20 by question"),
        ("candor.selection", "causal"),
    ];
    for (key, text) in texts {
        builder.set(key, text);
    }
    for (key, number) in [
        ("general.base_model.count", 1u32),
        ("candor.format", 1),
        ("candor.n_layer", 2),
        ("candor.n_head", 2),
        ("candor.d_head", 2),
        ("candor.k", 2),
    ] {
        builder.set(key, number);
    }
    builder
        .set("candor.alpha", 15f32)
        .set("candor.seed", 42u64)
        .set("candor.model.fingerprint", "01".repeat(32))
        .set("candor.data.sha256", "ab".repeat(32))
        .set("candor.head_accuracy", vec![0.5f32, 1.0, 0.75, 0.25])
        .set("candor.head_effect", vec![0.5f32, f32::NAN, -1.0, 0.0])
        .set("candor.head_cost", vec![0.5f32, f32::NAN, 1.0, 0.0])
        .set("candor.reading.scale", 0.75f32)
        .set("candor.reading.offset", -0.25f32)
        .set("candor.reading.rows", 8u32)
        .set("candor.reading.questions", 4u32)
        .set("candor.reading.true_share", 0.5f32)
        .set("candor.reading.auroc", vec![0.75f32, 0.5, 1.0])
        .set("candor.reading.error", 0.0625f32)
        .set("candor.reading.error_uncalibrated", 0.125f32)
        .set("candor.reading.threshold", 1.5f32)
        .set("candor.reading.layer", vec![0i32, 1])
        .set("candor.reading.head", vec![1i32, 1])
        .set("candor.reading.mean", vec![0.5f32; 4])
        .set("candor.reading.axis", vec![0.0f32, 1.0, 1.0, 0.0])
        .set("candor.reading.variance", vec![2.0f32, 1.0])
        .set("candor.reading.rest", vec![0.5f32; 2]);
    for layer in 0..2 {
        let mut add = |name: &str, dims: &[u64], kind, words: &[[u8; 4]]| {
            builder.tensor(&format!("blk.{layer}.{name}"), dims, kind, words.concat());
        };
        let one = 1f32.to_le_bytes();
        add("head", &[1], TensorType::I32, &[1i32.to_le_bytes()]);
        add("direction", &[2, 1], TensorType::F32, &[[0; 4], one]);
        add("sigma", &[1], TensorType::F32, &[one]);
        add("accuracy", &[1], TensorType::F32, &[one]);
        add("probe.weight", &[2, 1], TensorType::F32, &[one, one]);
        add("probe.bias", &[1], TensorType::F32, &[one]);
    }
    builder
}

/// Directions of two layers, as llama.cpp writes them.
fn control_vector() -> Builder<'static> {
    let mut builder = Builder::new();
    builder
        .set("general.architecture", "controlvector")
        .set("controlvector.model_hint", "llama")
        .set("controlvector.layer_count", 2i32)
        .set("made.by", "hand");
    for layer in [1, 3] {
        let bytes = [0.5f32, -1.0].map(f32::to_le_bytes).concat();
        builder.tensor(&format!("direction.{layer}"), &[2], TensorType::F32, bytes);
    }
    builder
}

/// A finished store, and the progress file of the same before its end.
fn store() -> (Vec<u8>, Vec<u8>) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("x");
    let layout = small_layout();
    let Ok(Opened::Fresh(mut writer)) = StoreWriter::open(&path, &layout) else {
        panic!("the folder is new");
    };
    for (set, row) in [(RowSet::Main, 0), (RowSet::Main, 1), (RowSet::Next, 0)] {
        writer.write_row(set, row, 0, &[0.5, -2.0]).expect("a row");
    }
    writer.batch_done().expect("on the disk");
    drop(writer);
    let read = |path: &Path| std::fs::read(path).expect("it was written");
    let progress = read(&folder.path().join("x.progress"));
    let Ok(Opened::Resumed(writer)) = StoreWriter::open(&path, &layout) else {
        panic!("it was not finished");
    };
    (read(&writer.finish().expect("it is whole")), progress)
}

/// The value of a key, changed to each type but its own.
pub fn of_other_types(own: &Value) -> Vec<Value> {
    let values: [Value; 8] = [
        "text".into(),
        7u32.into(),
        (-7i64).into(),
        f64::NAN.into(),
        true.into(),
        vec!["text".to_owned()].into(),
        vec![f32::NAN; 3].into(),
        vec![i32::MIN; 3].into(),
    ];
    values.into_iter().filter(|value| value.type_name() != own.type_name()).collect()
}
