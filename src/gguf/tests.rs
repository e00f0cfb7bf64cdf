use std::io::Write as _;
use std::path::Path;

use proptest::prelude::*;

use super::cursor::Fault;
use super::read::parse;
use super::{Array, Builder, Gguf, TensorType, Value};
use crate::Error;

/// A file of one string entry and one F32 tensor `[2]`, byte for byte.
const TINY: &[u8] = b"GGUF\x03\0\0\0\
    \x01\0\0\0\0\0\0\0\
    \x01\0\0\0\0\0\0\0\
    \x01\0\0\0\0\0\0\0a\x08\0\0\0\x02\0\0\0\0\0\0\0bc\
    \x01\0\0\0\0\0\0\0t\x01\0\0\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\
    \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\
    \0\0\x80\x3f\0\0\0\xc0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// Where things stand in [`TINY`].
mod at {
    pub const VERSION: usize = 4;
    pub const N_TENSOR: usize = 8;
    pub const N_ENTRY: usize = 16;
    pub const KEY_LENGTH: usize = 24;
    pub const VALUE_TYPE: usize = 33;
    pub const STRING_LENGTH: usize = 37;
    pub const STRING: usize = 45;
    pub const N_DIM: usize = 56;
    pub const DIM: usize = 60;
    pub const KIND: usize = 68;
    pub const OFFSET: usize = 72;
    /// The name of another entry, or of another tensor, after the first.
    pub const SECOND_KEY: usize = 55;
    pub const SECOND_TENSOR: usize = 88;
}

fn tiny() -> Builder<'static> {
    let mut builder = Builder::new();
    builder.set("a", "bc").tensor("t", &[2], TensorType::F32, f32_bytes(&[1.0, -2.0]));
    builder
}

fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// [`TINY`] with another tensor.
fn two_tensors() -> Vec<u8> {
    tiny().tensor("u", &[1], TensorType::F32, vec![0; 4]).to_bytes()
}

/// [`TINY`] with other bytes at a place.
fn damaged(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = TINY.to_vec();
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

/// Where and why the reader refuses a file.
fn refusal(file: &[u8]) -> String {
    let Fault { place, problem } = parse(file).expect_err("the file is broken");
    format!("{place}: {problem}")
}

fn open(file: &[u8]) -> crate::Result<Gguf> {
    let mut named = tempfile::NamedTempFile::new().unwrap();
    named.write_all(file).unwrap();
    Gguf::open(named.path())
}

#[test]
fn writes_these_bytes() {
    assert_eq!(tiny().to_bytes().escape_ascii().to_string(), TINY.escape_ascii().to_string());
}

#[test]
fn reads_these_bytes() {
    let file = open(TINY).unwrap();
    assert_eq!(file.entries().collect::<Vec<_>>(), [("a", &Value::from("bc"))]);
    let tensor = file.tensor("t").unwrap();
    assert_eq!((&tensor.dims[..], tensor.kind, tensor.n_byte), (&[2][..], TensorType::F32, 8));
    assert_eq!(file.f32s_of(tensor).unwrap(), [1.0, -2.0]);
    assert_eq!(file.tensor("u"), None);
}

#[test]
fn reads_version_2() {
    assert!(parse(&damaged(at::VERSION, &[2])).is_ok());
}

#[test]
fn refuses_what_is_not_gguf() {
    assert_eq!(refusal(b"PK\x03\x04 a zip"), r#"header: starts with "PK\x03\x04", not GGUF"#);
    assert_eq!(refusal(b""), r#"header: starts with "", not GGUF"#);
    let error = open(b"{}").unwrap_err();
    assert!(matches!(error, Error::Gguf { .. }));
}

#[test]
fn refuses_a_missing_file() {
    let error = Gguf::open(Path::new("/nowhere/model.gguf")).unwrap_err();
    assert_eq!(error.to_string(), "cannot open /nowhere/model.gguf");
}

#[test]
fn refuses_versions_that_it_does_not_know() {
    assert!(refusal(&damaged(at::VERSION, &[1])).contains("is GGUF version 1, expected 2 or 3"));
    assert!(refusal(&damaged(at::VERSION, &[4])).contains("is GGUF version 4, expected 2 or 3"));
    assert!(refusal(&damaged(at::VERSION, &[0, 0, 0, 3])).contains("big-endian"));
}

#[test]
fn refuses_counts_beyond_the_file() {
    let huge = u64::MAX.to_le_bytes();
    assert!(
        refusal(&damaged(at::N_TENSOR, &huge)).contains("announces 18446744073709551615 tensors")
    );
    assert!(refusal(&damaged(at::N_ENTRY, &huge)).contains("metadata entries, more than"));
    assert!(refusal(&damaged(at::KEY_LENGTH, &huge)).starts_with("metadata entry 0: wants"));
    assert!(refusal(&damaged(at::STRING_LENGTH, &huge)).starts_with("key a: wants"));
}

#[test]
fn refuses_an_array_beyond_the_file() {
    let mut file = Builder::new().set("a", vec![1u8, 2, 3]).to_bytes();
    let count = at::VALUE_TYPE + 8;
    file[count..count + 8].copy_from_slice(&(u64::MAX / 2).to_le_bytes());
    assert!(refusal(&file).starts_with("key a: announces 9223372036854775807 elements"));
}

#[test]
fn refuses_a_truncated_file_at_every_byte() {
    // Only the padding after the last tensor may be missing.
    for n_byte in 0..TINY.len() - 24 {
        assert!(parse(&TINY[..n_byte]).is_err(), "{n_byte} bytes");
    }
    let file = Builder::new().set("a", "bc").to_bytes();
    assert!(refusal(&file[..at::STRING + 1]).starts_with("key a: wants 2 bytes from byte 45 on"));
    assert_eq!(
        refusal(&TINY[..100]),
        "tensor t: ends at byte 104, and the file at byte 100: it is incomplete, fetch it again"
    );
}

#[test]
fn refuses_values_that_it_does_not_know() {
    assert_eq!(refusal(&damaged(at::VALUE_TYPE, &[13])), "key a: is of unknown type 13");
    assert_eq!(
        refusal(&damaged(at::VALUE_TYPE, &[9, 0, 0, 0, 9])),
        "key a: is an array of arrays, expected a flat one"
    );
    assert_eq!(
        refusal(&damaged(at::VALUE_TYPE, &[9, 0, 0, 0, 77])),
        "key a: is an array of unknown type 77"
    );
    assert_eq!(
        refusal(&damaged(at::VALUE_TYPE, &[7, 0, 0, 0, 2])),
        "key a: holds the boolean 2, expected 0 or 1"
    );
    assert_eq!(
        refusal(&damaged(at::STRING, b"\xff")),
        r#"key a: holds a string that is not UTF-8: "\xffc""#
    );
}

#[test]
fn refuses_unsound_tensors() {
    let huge = u64::MAX.to_le_bytes();
    assert_eq!(refusal(&damaged(at::N_DIM, &[5])), "tensor t: has 5 dimensions, expected 1 to 4");
    assert!(refusal(&damaged(at::N_DIM, &[0])).contains("tensor t: "));
    assert!(refusal(&damaged(at::DIM, &[0])).contains("expected none to be zero"));
    assert!(refusal(&damaged(at::DIM, &huge)).contains("more than can be addressed"));
    assert!(
        refusal(&damaged(at::KIND, &[2])).contains("not a multiple of the 32 in a block of q4_0")
    );
    assert!(refusal(&damaged(at::KIND, &[4])).contains("is of type 4, which ggml does not know"));
    assert!(
        refusal(&damaged(at::OFFSET, &[8])).contains("begins at offset 8, not a multiple of 32")
    );
    let far = (u64::MAX - 31).to_le_bytes();
    assert!(refusal(&damaged(at::OFFSET, &far)).contains("the file at byte 128"));
}

#[test]
fn refuses_names_that_come_twice() {
    let mut file = tiny().set("b", "").to_bytes();
    file[at::SECOND_KEY] = b'a';
    assert_eq!(refusal(&file), "key a: occurs twice");

    let mut file = two_tensors();
    file[at::SECOND_TENSOR] = b't';
    assert_eq!(refusal(&file), "tensor t: occurs twice");
}

#[test]
fn shows_no_control_characters() {
    let mut file = damaged(at::KEY_LENGTH + 8, b"\x1b");
    file[at::VALUE_TYPE] = 13;
    assert_eq!(refusal(&file), "key \\u{1b}: is of unknown type 13");
}

#[test]
fn refuses_tensors_that_share_bytes() {
    let mut file = two_tensors();
    file[at::SECOND_TENSOR + 17] = 0;
    assert_eq!(refusal(&file), "tensor u: shares bytes with tensor t");
}

#[test]
fn refuses_an_empty_key_and_an_odd_alignment() {
    let mut file = Builder::new().set("general.alignment", 64u32).to_bytes();
    file[at::KEY_LENGTH + 8 + "general.alignment".len() + 4] = 3;
    assert!(refusal(&file).starts_with("key general.alignment: is not a power of two"));

    let mut empty_key = TINY[..at::KEY_LENGTH].to_vec();
    empty_key[at::N_TENSOR] = 0;
    empty_key.extend([0; 16]);
    assert_eq!(refusal(&empty_key), "metadata entry 0: has an empty key");
}

#[test]
fn obeys_the_alignment_that_is_set() {
    let mut builder = Builder::new();
    builder
        .tensor("t", &[1], TensorType::F32, f32_bytes(&[1.0]))
        .tensor("u", &[1], TensorType::F32, f32_bytes(&[2.0]))
        .set("general.alignment", 256u32);
    let file = open(&builder.to_bytes()).unwrap();
    let tensor = file.tensor("u").unwrap();
    assert_eq!(tensor.offset, 256);
    assert_eq!(file.f32s_of(tensor).unwrap(), [2.0]);
}

#[test]
fn replaces_a_value_in_its_place() {
    let mut builder = Builder::new();
    builder.set("a", 1u32).set("b", 2u32).set("a", "three");
    let file = open(&builder.to_bytes()).unwrap();
    assert_eq!(
        file.entries().collect::<Vec<_>>(),
        [("a", &Value::from("three")), ("b", &Value::U32(2))]
    );
}

#[test]
fn names_the_key_that_is_missing_or_of_another_type() {
    let file = open(TINY).unwrap();
    assert_eq!(file.str("a").unwrap(), "bc");
    assert_eq!(file.opt_uint("n").unwrap(), None);
    let missing = file.uint("n").unwrap_err().to_string();
    assert!(missing.ends_with("key n: is missing, expected a non-negative integer"), "{missing}");
    let other = file.opt_f32s("a").unwrap_err().to_string();
    assert!(other.ends_with("key a: is of type string, expected an array of f32"), "{other}");
    let tensor = file.i32s_of(&file.tensors()[0]).unwrap_err().to_string();
    assert!(tensor.ends_with("tensor t: is of type f32, expected i32"), "{tensor}");
}

#[test]
fn takes_integers_of_any_type() {
    for value in [Value::U8(7), Value::I16(7), Value::I32(7), Value::U64(7)] {
        assert_eq!(value.as_uint(), Some(7));
    }
    assert_eq!(Value::I64(-1).as_uint(), None);
    assert_eq!(Value::from(vec![1i32, 2]).as_uints(), Some(vec![1, 2]));
    assert_eq!(Value::from(vec![1i8, -2]).as_uints(), None);
}

#[test]
fn writes_beside_the_target_and_renames() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    std::fs::write(&path, "an older file").unwrap();
    tiny().write(&path).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), TINY);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    assert!(tiny().write(&folder.path().join("absent/tiny.gguf")).is_err());
}

#[test]
fn reads_a_real_model() {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/models/stories260K.gguf"));
    if !path.exists() {
        crate::skipped::skipped("shared", &format!("{} is absent", path.display()));
        return;
    }
    let file = Gguf::open(path).unwrap();
    assert_eq!(file.str("general.architecture").unwrap(), "llama");
    let n_layer = file.uint("llama.block_count").unwrap();
    assert!(file.tensor(&format!("blk.{}.attn_output.weight", n_layer - 1)).is_some());
    assert_eq!(file.strings("tokenizer.ggml.tokens").unwrap().len(), 512);
    let norm = file.f32s_of(file.tensor("output_norm.weight").unwrap()).unwrap();
    assert!(norm.iter().all(|weight| weight.is_finite()));

    // Written anew, it says the same.
    let mut copy = Builder::new();
    for (key, value) in file.entries() {
        copy.set(key, value.clone());
    }
    for tensor in file.tensors() {
        copy.tensor(&tensor.name, &tensor.dims, tensor.kind, file.bytes(tensor));
    }
    let copy = open(&copy.to_bytes()).unwrap();
    assert!(copy.entries().eq(file.entries()));
    for (ours, theirs) in copy.tensors().iter().zip(file.tensors()) {
        assert_eq!((&ours.name, copy.bytes(ours)), (&theirs.name, file.bytes(theirs)));
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        (-1e9..1e9).prop_map(Value::F64),
        any::<Vec<u16>>().prop_map(Value::from),
        any::<Vec<bool>>().prop_map(Value::from),
        any::<Vec<String>>().prop_map(Value::from),
        prop::collection::vec(-1f32..1.0, 0..9).prop_map(|values| Array::F32(values).into()),
    ]
}

proptest! {
    #[test]
    fn reads_what_it_wrote(
        values in prop::collection::btree_map("[a-z.]{1,9}", any_value(), 0..9),
        tensors in prop::collection::btree_map("[a-z.]{1,9}", prop::collection::vec(any::<u8>(), 1..99), 0..9),
    ) {
        let mut builder = Builder::new();
        for (key, value) in &values {
            builder.set(key, value.clone());
        }
        for (name, bytes) in &tensors {
            builder.tensor(name, &[bytes.len() as u64], TensorType::I8, bytes);
        }
        let file = open(&builder.to_bytes()).unwrap();
        prop_assert!(file.entries().eq(values.iter().map(|(key, value)| (key.as_str(), value))));
        prop_assert_eq!(file.tensors().len(), tensors.len());
        for (tensor, (name, bytes)) in file.tensors().iter().zip(&tensors) {
            prop_assert_eq!((&tensor.name, file.bytes(tensor)), (name, &bytes[..]));
        }
    }

    #[test]
    fn never_panics_on_any_bytes(bytes in any::<Vec<u8>>()) {
        let _ = parse(&[&TINY[..24], &bytes].concat());
    }

    #[test]
    fn never_panics_on_a_damaged_file(at in 0..TINY.len(), byte in any::<u8>()) {
        let _ = parse(&damaged(at, &[byte]));
    }
}

#[test]
fn a_tensor_can_be_written_from_a_stream() {
    let values = f32_bytes(&[1.0, 2.0, 3.0]);
    let mut whole = Builder::new();
    whole.tensor("a", &[3], TensorType::F32, values.clone());
    whole.tensor("b", &[1], TensorType::F32, f32_bytes(&[4.0]));
    let mut streamed = Builder::new();
    streamed.tensor_from("a", &[3], TensorType::F32, |out| out.write_all(&values));
    streamed.tensor("b", &[1], TensorType::F32, f32_bytes(&[4.0]));
    assert_eq!(streamed.to_bytes(), whole.to_bytes());
}

#[test]
fn a_stream_of_another_length_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    let mut builder = Builder::new();
    builder.tensor_from("a", &[3], TensorType::F32, |out| out.write_all(&[0; 8]));
    let error = builder.write(&path).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(source, "tensor a was given 8 bytes and takes 12");
    assert!(!path.exists());
}
