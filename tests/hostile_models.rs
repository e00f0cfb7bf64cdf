//! Files that are sound GGUF and would end the process, by what llama.cpp does with them or by all
//! memory: each is refused instead.

mod common;

use candor::gguf::{Builder, Gguf, Value};
use candor::{Error, Model, ModelParams, Session, SessionParams, Special, SpecialToken};
use common::fixture::{Arch, Fixture};

/// Loads what `builder` writes, and makes a session of it.
fn open(builder: &Builder) -> candor::Result<Model> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("hostile.gguf");
    builder.write(&path)?;
    let model = common::opened(&path, &ModelParams::default().with_n_gpu_layers(Some(0)))?;
    let params = SessionParams::default().with_n_ctx(64).with_n_threads(Some(1));
    Session::new(&model, &params)?;
    Ok(model)
}

fn llama(entries: &[(&str, Value)]) -> candor::Result<Model> {
    let mut builder = Fixture::new(Arch::Llama).build();
    for (key, value) in entries {
        builder.set(key, value.clone());
    }
    open(&builder)
}

/// The complaint about a model with these entries.
fn refused(entries: &[(&str, Value)]) -> String {
    llama(entries).err().unwrap_or_else(|| panic!("it takes {entries:?}")).to_string()
}

#[test]
fn counts_that_llama_cpp_asserts() {
    for (key, n, what) in [
        ("llama.block_count", 513, "513 layers"),
        ("llama.nextn_predict_layers", 4, "4 of 3 layers"),
        ("llama.expert_count", 1025, "1025 experts"),
        ("llama.expert_count", 2, "0 of 2 experts"),
        ("llama.expert_used_count", 2, "2 of 0 experts"),
        ("llama.expert_group_count", 2, "0 of 2 groups"),
        ("llama.attention.head_count_kv", 3, "4 heads do not share 3 key/value heads evenly"),
    ] {
        let error = refused(&[(key, Value::U32(n))]);
        assert!(error.contains(what), "{key}: {error}");
    }
    let layers = Value::from(vec![0u32, 9, 0]);
    let error =
        refused(&[("llama.expert_used_count", layers), ("llama.expert_count", 4u32.into())]);
    assert!(error.contains("9 of 4 experts"), "{error}");
}

#[test]
fn a_rope_scaling_that_does_not_exist() {
    let error = refused(&[("llama.rope.scaling.type", "wishful".into())]);
    assert!(error.contains("`wishful` is not one of none, linear"), "{error}");
}

#[test]
fn a_vocabulary_that_is_missing_or_ambiguous() {
    for model in ["none", "no_vocab"] {
        let error = refused(&[("tokenizer.ggml.model", model.into())]);
        assert!(error.contains("no tokenizer"), "{error}");
    }
    let tokens: Vec<String> = ["<unk>", "<s>", "</s>", "a", "a"].map(String::from).to_vec();
    let error = refused(&[("tokenizer.ggml.tokens", tokens.into())]);
    assert!(error.contains("token `a` occurs twice"), "{error}");
}

#[test]
fn a_model_without_a_cache() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = Gguf::open(&Fixture::new(Arch::Llama).write(folder.path())).expect("it is sound");
    let mut builder = Builder::new();
    for (key, value) in file.entries() {
        builder.set(&key.replace("llama.", "llada."), value.clone());
    }
    builder.set("general.architecture", "llada");
    for tensor in file.tensors() {
        builder.tensor(&tensor.name, &tensor.dims, tensor.kind, file.bytes(tensor));
    }
    let error = open(&builder).err().expect("it is refused");
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    assert!(error.to_string().contains("no KV cache"), "{error}");
    let error = refused(&[("llama.attention.causal", false.into())]);
    assert!(error.contains("not causal"), "{error}");
}

#[test]
fn a_part_of_a_model() {
    let error = refused(&[("split.count", Value::U16(3)), ("split.no", Value::U16(0))]);
    assert!(error.contains("it is the first of 3 parts"), "{error}");
    let error = refused(&[("split.count", Value::U16(3)), ("split.no", Value::U16(2))]);
    assert!(error.contains("this is part 3 of 3: give the first one"), "{error}");
    let error = refused(&[("split.count", Value::U16(3))]);
    assert!(error.contains("key split.no: is missing"), "{error}");
}

#[test]
#[cfg(feature = "cli")]
fn a_chat_template_that_takes_all_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostile.gguf");
    let template = "{% set ns = namespace(x=[1]) %}\
                    {% for i in range(40) %}{% set ns.x = ns.x + ns.x %}{% endfor %}";
    let mut builder = Fixture::new(Arch::Llama).build();
    builder.set("tokenizer.chat_template", template).write(&path).unwrap();
    let mut command = assert_cmd::Command::new(assert_cmd::cargo::cargo_bin!("candor"));
    command.env("CANDOR_CACHE", folder.path()).args(["chat", "-t", "1", "-m"]).arg(&path);
    let output = command.write_stdin("Why?\n").output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("chat template failed: it takes more than 50 MB of memory"), "{error}");
}

#[test]
fn tokens_that_do_not_exist_are_empty() {
    let model = llama(&[]).expect("it loads");
    let n_vocab = i32::try_from(model.n_vocab()).unwrap();
    for token in [-1, i32::MIN, n_vocab, i32::MAX] {
        assert!(model.piece(token).is_empty() && !model.is_end(token), "{token}");
    }
}

#[test]
fn a_text_ends_as_it_was_written() {
    let plain = llama(&[]).expect("it loads");
    let ended = llama(&[("tokenizer.ggml.add_eos_token", true.into())]).expect("it loads");
    assert_eq!(plain.special_text(SpecialToken::Eos), "</s>");
    for special in [Special::None, Special::Start, Special::StartAndParse, Special::Parse] {
        let expected = plain.tokenize("<s>the rain</s> in", special).unwrap();
        assert_eq!(ended.tokenize("<s>the rain</s> in", special).unwrap(), expected, "{special:?}");
        assert_eq!(expected[0] == 1, special != Special::None, "{special:?}");
    }
}

/// Where llama.cpp rotates a part of a head only if the architecture has it so: an error, or it
/// works; the process lives.
#[test]
fn heads_that_are_rotated_in_part() {
    let mut complaints = Vec::new();
    for arch in Arch::ALL {
        let mut builder = Fixture::new(arch).build();
        builder.set(&format!("{}.rope.dimension_count", arch.name()), 8u32);
        if let Err(error) = open(&builder) {
            complaints.push((arch, error.to_string()));
        }
    }
    let takes = |arch: Arch| complaints.iter().all(|(other, _)| *other != arch);
    for arch in [Arch::MiniMaxM2, Arch::Nemotron, Arch::StableLm, Arch::Phi2, Arch::Glm4] {
        assert!(takes(arch), "{}: {complaints:?}", arch.label());
    }
    let of_whole_heads =
        complaints.iter().filter(|(_, error)| error.contains("takes whole heads only"));
    assert!(of_whole_heads.count() > 20, "{complaints:?}");
    let error = refused(&[("llama.attention.value_length", Value::U32(16))]);
    assert!(error.contains("16 of heads of 32"), "{error}");
}

/// The tokens of the demo's model, as bytes of the file: where each begins, and its length.
fn tokens_at(bytes: &[u8]) -> Vec<(usize, usize)> {
    let key = b"tokenizer.ggml.tokens";
    let start = bytes.windows(key.len()).position(|it| it == key).expect("a vocabulary");
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    // The kind of the value, and of its elements: four bytes each.
    let mut at = start + key.len() + 8;
    let n_token = number(at);
    at += 8;
    let mut tokens = Vec::with_capacity(n_token);
    for _ in 0..n_token {
        let length = number(at);
        tokens.push((at + 8, length));
        at += 8 + length;
    }
    tokens
}

/// A byte of a token becomes another: the file is refused, or loaded and used; the process lives.
#[test]
fn a_damaged_byte_of_the_vocabulary() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.gguf");
    let sound = std::fs::read("models/demo.gguf").unwrap();
    let tokens = tokens_at(&sound);
    assert!(tokens.len() > 1000 && tokens.iter().all(|(_, length)| *length < 100));
    let try_with = |at: usize, byte: u8| {
        let mut bytes = sound.clone();
        bytes[at] = byte;
        std::fs::write(&path, &bytes).unwrap();
        let model = common::opened(&path, &ModelParams::default().with_n_gpu_layers(Some(0)));
        model.map(|model| model.tokenize("What is this?\n", Special::StartAndParse).is_ok())
    };
    let mut n_refused = 0;
    // Tokens all over the vocabulary, each of their bytes, and what damage makes of it: nothing, another
    // letter, a part of a character.
    let every = tokens.len() / 60;
    for &(start, length) in tokens.iter().step_by(every) {
        for at in [start, start + length / 2, start + length - 1] {
            for byte in [0, b'a', sound[at] ^ 1, 0xff] {
                n_refused += usize::from(try_with(at, byte).is_err());
            }
        }
    }
    assert!(n_refused > 0, "some damage is noticed");
    // A token that ends early is the one of its first half, and one without a text has a name of its own.
    let text = |&(start, length): &(usize, usize)| &sound[start..start + length];
    let all: std::collections::HashSet<&[u8]> = tokens.iter().map(text).collect();
    let cut = tokens.iter().find_map(|token| {
        let text = text(token);
        (1..text.len()).find(|&n| all.contains(&text[..n])).map(|n| token.0 + n)
    });
    let error = try_with(cut.expect("one begins with another"), 0).unwrap_err().to_string();
    assert!(
        error.contains("occurs twice: llama.cpp reads tokens up to their first NUL"),
        "{error}"
    );
    let plain = tokens.iter().skip(1000).find(|token| text(token).is_ascii());
    let (start, _) = plain.expect("a token of ASCII");
    assert!(try_with(*start, 0).is_ok(), "one that is empty is called `[EMPTY_1000]`, or so");
    let error = refused_vocabulary(|tokens| {
        tokens[5] = "\0".to_owned();
        tokens[6] = "[EMPTY_5]".to_owned();
    });
    assert!(error.contains("token `[EMPTY_5]` occurs twice"), "{error}");
}

/// The complaint about a model with another vocabulary.
fn refused_vocabulary(change: impl Fn(&mut Vec<String>)) -> String {
    let mut builder = Fixture::new(Arch::Llama).build();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plain.gguf");
    builder.write(&path).unwrap();
    let mut tokens = Gguf::open(&path).unwrap().strings("tokenizer.ggml.tokens").unwrap().to_vec();
    change(&mut tokens);
    builder.set("tokenizer.ggml.tokens", tokens);
    open(&builder).err().expect("two of one name").to_string()
}
