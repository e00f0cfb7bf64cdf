//! Files that are large in every way that a format allows: many small things, one large thing, deep
//! things, and counts of things that are not there.

use candor::gguf::{Builder, TensorType, Value};

use super::seeds;

/// A file for a parser, and what is the matter with it.
pub struct Hostile {
    pub parser: &'static str,
    pub what: &'static str,
    pub bytes: Vec<u8>,
}

/// About a megabyte each, and one of ten.
pub fn all() -> Vec<Hostile> {
    let mut all = Vec::new();
    let mut add = |parser, what, bytes: Vec<u8>| all.push(Hostile { parser, what, bytes });

    add("gguf", "2^63 of everything", counts(u64::MAX / 2));
    add("gguf", "50,000 keys", many_keys(50_000));
    add("gguf", "120,000 empty strings", with_value(vec![String::new(); 120_000]));
    add("gguf", "a string of a megabyte", with_value("a".repeat(1_000_000)));
    add("gguf", "a million booleans", with_value(vec![true; 1_000_000]));
    add("gguf", "9,000 layers", many_layers(9_000));
    add("sidecar", "1,500 layers of one head", sidecar(1_500, 1));
    add("sidecar", "15,000 heads in a layer", sidecar(1, 15_000));
    add("sidecar", "a name of a megabyte", {
        seeds::sidecar().set("general.name", "\x1b".repeat(1_000_000)).to_bytes()
    });

    add("control_vector", "9,000 directions", directions(9_000));

    add("csv", "a field of ten megabytes", {
        format!("statement,label\n\"{}\",1\n", "a,\n".repeat(3_400_000)).into_bytes()
    });
    add("csv", "a label of a megabyte", {
        format!("statement,label\na,{}\n", "\x1b".repeat(1_000_000)).into_bytes()
    });
    add("csv", "half a million columns", ",a".repeat(500_000).into_bytes());
    add("csv", "half a million blank lines", {
        format!("statement,label\n{}a,1\n", "\r\n".repeat(500_000)).into_bytes()
    });
    add("csv", "120,000 statements", table(120_000));
    add("csv", "150,000 answers to a question", answers(150_000));
    add("csv", "an answer 300,000 times", {
        let row = format!("Q,a,{},b", "a;".repeat(300_000));
        format!("Question,Best Answer,Correct Answers,Incorrect Answers\n{row}\n").into_bytes()
    });
    add("csv", "a million quotes", [b"statement,label\n", &b"\"".repeat(1_000_001)[..]].concat());

    let line = |i: usize| format!("{{\"prompt\":\"p\",\"answer\":\"{i}\",\"label\":0}}\n");
    add(
        "jsonl",
        "25,000 answers to a prompt",
        (0..25_000).flat_map(|i| line(i).into_bytes()).collect(),
    );
    add("jsonl", "arrays in arrays", "[".repeat(1_000_000).into_bytes());
    add("jsonl", "objects in objects", "{\"prompt\":".repeat(100_000).into_bytes());
    add("jsonl", "80,000 keys", {
        let keys: Vec<String> = (0..80_000).map(|i| format!("\"{i}\":0")).collect();
        format!("{{{}}}", keys.join(",")).into_bytes()
    });
    add("jsonl", "an unknown label of a megabyte", {
        format!("{{\"prompt\":\"p\",\"answer\":\"a\",\"label\":\"{}\"}}", "l".repeat(1_000_000))
            .into_bytes()
    });
    add("mc_task", "100,000 answers to a question", {
        let all: Vec<String> = (0..100_000).map(|i| format!("\"{i}\":0")).collect();
        let targets = format!("{{\"a\":1,{}}}", all.join(","));
        format!("[{{\"question\":\"q\",\"mc1_targets\":{{\"a\":1}},\"mc2_targets\":{targets}}}]")
            .into_bytes()
    });
    add("mc_task", "arrays in arrays", "[".repeat(1_000_000).into_bytes());
    add("mc_task", "a text of a megabyte for a question", {
        format!("[\"{}\"]", "\\u001b".repeat(160_000)).into_bytes()
    });

    add("judgements", "a completion of a megabyte", {
        let completion = "\\u001b".repeat(160_000);
        format!("{{\"prompt\":\"Q: a\\nA: b\\nTrue:\",\"completion\":\"{completion}\"}}")
            .into_bytes()
    });
    add("judgements", "15,000 judgements", {
        (0..15_000)
            .flat_map(|i| {
                format!("{{\"prompt\":\"Q: {i}\\nA: b\\nTrue:\",\"completion\":\"no\"}}\n")
                    .into_bytes()
            })
            .collect()
    });
    add("npy", "2^126 values", npy("(9223372036854775807, 9223372036854775807)", 0));
    add("npy", "no value in 2^63 rows", npy("(9223372036854775807, 0)", 0));
    add("npy", "a shape of 10,000 axes", npy(&format!("({})", "1,".repeat(10_000)), 4));
    add("npy", "a megabyte of heads", npy("(125000, 2)", 1_000_000));

    let header = "{\"candor_ledger\":2,\"identity\":\"a\"}\n";
    let known = |i: usize| format!("[\"{i}\",[0.5,1]]\n");
    add("ledger", "60,000 results", {
        header.bytes().chain((0..60_000).flat_map(|i| known(i).into_bytes())).collect()
    });
    add("ledger", "arrays in arrays", format!("{header}{}\n", "[".repeat(1_000_000)).into_bytes());
    add("ledger", "a megabyte that is no text", {
        [header.as_bytes(), b"[\"", &b"\xff".repeat(1_000_000), b"\",[0.5,1]]\n"].concat()
    });
    add("store", "a header of 2^64 bytes", b"\xff\xff\xff\xff\xff\xff\xff\xff{}".to_vec());
    add("store", "9,000 layers", store(9_000, "1"));
    add("store", "2^64 rows", store(1, "18446744073709551615"));
    add("progress", "a megabyte of digits", b"9".repeat(1_000_000));
    add(
        "text_stream",
        "a megabyte of half characters",
        [&b"\x01\x01Q"[..], &b"\xf0\x9f".repeat(500_000)].concat(),
    );

    for (what, source) in TEMPLATES {
        add("chat_template", what, source.as_bytes().to_vec());
    }
    for (what, end) in [
        ("deep lists, printed", "{{ ns.x }}"),
        ("deep lists, compared", "{{ {ns.x: 1, 2: 3, [ns.x]: 4} }}"),
        ("deep lists, freed", ""),
    ] {
        let nested = format!("{}ns.x{}", "[".repeat(70), "]".repeat(70));
        let source = format!(
            "{{% set ns = namespace(x=[]) %}}{{% for i in range(99999) %}}{{% set ns.x = {nested} %}}\
             {{% if i == N %}}{end}{{{{ stop() }}}}{{% endif %}}{{% endfor %}}"
        );
        // As many as the fuel pays for, about.
        add("chat_template", what, source.replace('N', "3200").into_bytes());
    }
    for (what, part) in [
        ("60,000 brackets", "{{ (".to_owned() + &"(".repeat(60_000)),
        ("6,000 blocks", "{% if a %}".repeat(6_000)),
        ("30,000 sums", "{{ 1".to_owned() + &"+1".repeat(30_000) + " }}"),
        ("30,000 attributes", "{{ a".to_owned() + &".a".repeat(30_000) + " }}"),
        ("16,000 negations", "{{ ".to_owned() + &"not ".repeat(16_000) + "a }}"),
        ("12,000 filters", "{{ a".to_owned() + &"|trim".repeat(12_000) + " }}"),
        ("a megabyte of text", "a".repeat(1_000_000)),
    ] {
        add("chat_template", what, part.into_bytes());
    }
    all
}

/// Small, and grow.
const TEMPLATES: [(&str, &str); 10] = [
    (
        "loops in loops",
        "{% for a in range(99999) %}{% for b in range(99999) %}{{ a }}{% endfor %}{% endfor %}",
    ),
    (
        "a text that doubles",
        "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    ),
    (
        "lists in lists",
        "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}",
    ),
    (
        "a list that doubles",
        "{% set ns = namespace(x=[1]) %}{% for i in range(34) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    ),
    (
        "a list that doubles, looked through",
        "{% set ns = namespace(x=[1]) %}{% for i in range(31) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ {ns.x: 1, (ns.x + [1]): 2} }}",
    ),
    (
        "objects in objects",
        "{% set ns = namespace(x={}) %}{% for i in range(99999) %}{% set ns.x = {'a': ns.x} %}{% endfor %}{{ ns.x }}",
    ),
    ("a macro that calls itself", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"),
    (
        "a loop that calls itself",
        "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
    ),
    ("a wide column", "{{ '%0999999999d' | format(1) }}"),
    ("a far indent", "{{ 'a\nb' | indent(999999999) }}"),
];

/// A file that announces `n` tensors and `n` keys.
fn counts(n: u64) -> Vec<u8> {
    [b"GGUF\x03\0\0\0", &n.to_le_bytes()[..], &n.to_le_bytes()].concat()
}

fn with_value(value: impl Into<Value>) -> Vec<u8> {
    Builder::new().set("a", value).to_bytes()
}

/// By hand: the builder looks for each key among all.
fn many_keys(n: usize) -> Vec<u8> {
    let mut bytes = counts(0);
    bytes[16..].copy_from_slice(&(n as u64).to_le_bytes());
    for i in 0..n {
        let key = format!("{i:05}");
        bytes.extend((key.len() as u64).to_le_bytes());
        bytes.extend(key.bytes());
        bytes.extend([0, 0, 0, 0, 7]);
    }
    bytes
}

/// A model whose every layer has one small output projection.
fn many_layers(n: u32) -> Vec<u8> {
    let mut builder = Builder::new();
    builder
        .set("general.architecture", "x")
        .set("x.block_count", n)
        .set("x.embedding_length", 1u32)
        .set("x.attention.head_count", 1u32)
        .set("tokenizer.ggml.model", "x");
    for layer in 0..n {
        let name = format!("blk.{layer}.attn_output.weight");
        builder.tensor(&name, &[1, 1], TensorType::F32, vec![0; 4]);
    }
    builder.to_bytes()
}

/// A sound sidecar of this many steered layers and heads.
fn sidecar(n_layer: u32, n_head: u32) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("x");
    seeds::sidecar().write(&path).expect("it can be written");
    let file = candor::gguf::Gguf::open(&path).expect("it is sound");
    let mut builder = Builder::new();
    for (key, value) in file.entries().filter(|(key, _)| !key.starts_with("candor.head_")) {
        builder.set(key, value.clone());
    }
    builder
        .set("candor.n_layer", n_layer)
        .set("candor.n_head", n_head)
        .set("candor.k", n_layer * n_head)
        .set("candor.d_head", 1u32);
    let n = u64::from(n_head);
    let ones: Vec<u8> = (0..n_head).flat_map(|_| 1f32.to_le_bytes()).collect();
    for layer in 0..n_layer {
        let heads: Vec<u8> = (0..n_head).flat_map(u32::to_le_bytes).collect();
        builder.tensor(&format!("blk.{layer}.head"), &[n], TensorType::I32, heads);
        for name in ["direction", "sigma", "accuracy", "probe.weight", "probe.bias"] {
            let dims =
                if matches!(name, "direction" | "probe.weight") { vec![1, n] } else { vec![n] };
            builder.tensor(&format!("blk.{layer}.{name}"), &dims, TensorType::F32, ones.clone());
        }
    }
    builder.to_bytes()
}

fn directions(n: u32) -> Vec<u8> {
    let mut builder = Builder::new();
    builder.set("general.architecture", "controlvector");
    for layer in 1..=n {
        builder.tensor(&format!("direction.{layer}"), &[1], TensorType::F32, vec![0; 4]);
    }
    builder.to_bytes()
}

/// An array of int32 of this shape, and as many bytes.
fn npy(shape: &str, n_byte: usize) -> Vec<u8> {
    let header = format!("{{'descr': '<i4', 'fortran_order': False, 'shape': {shape}, }}");
    let n_header = (header.len() as u16).to_le_bytes();
    [b"\x93NUMPY\x01\0", &n_header[..], header.as_bytes(), &vec![0; n_byte]].concat()
}

fn table(n: usize) -> Vec<u8> {
    let rows: String = (0..n).map(|i| format!("{i},1\n")).collect();
    format!("statement,label\n{rows}").into_bytes()
}

fn answers(n: usize) -> Vec<u8> {
    let all: Vec<String> = (0..n).map(|i| i.to_string()).collect();
    let row = format!("Q,a,b,{}", all.join(";"));
    format!("Question,Best Answer,Correct Answers,Incorrect Answers\n{row}\n").into_bytes()
}

/// A store of `n` layers of one value and one row, whose group has `n_row` rows by its own account.
fn store(n: usize, n_row: &str) -> Vec<u8> {
    let mut header = format!(
        "{{\"label\":{{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,8]}},\
         \"group\":{{\"dtype\":\"I64\",\"shape\":[{n_row}],\"data_offsets\":[8,16]}}"
    );
    for layer in 0..n {
        let (start, end) = (16 + 4 * layer, 20 + 4 * layer);
        header += &format!(
            ",\"kqv_out-{layer}\":{{\"dtype\":\"F32\",\"shape\":[1,1,1],\"data_offsets\":[{start},{end}]}}"
        );
    }
    header.push('}');
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.into_bytes());
    bytes.extend(vec![0; 16 + 4 * n]);
    bytes
}
