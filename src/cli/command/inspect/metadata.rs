//! A GGUF file's metadata as JSON: every key with its value, as they are.

use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Number, Value as Json};

use crate::Result;
use crate::gguf::{Array, Gguf, Value};

/// Key → value. JSON has no NaN and no infinity: they become null.
#[derive(Debug, schemars::JsonSchema, Serialize)]
#[serde(transparent)]
pub(in crate::cli) struct Metadata(Map<String, Json>);

/// All of a file's.
pub(super) fn of(path: &Path) -> Result<Metadata> {
    let file = Gguf::open(path)?;
    let entries: Map<String, Json> =
        file.entries().map(|(key, value)| (key.to_owned(), json(value))).collect();
    Ok(Metadata(entries))
}

fn json(value: &Value) -> Json {
    match value {
        Value::U8(x) => (*x).into(),
        Value::I8(x) => (*x).into(),
        Value::U16(x) => (*x).into(),
        Value::I16(x) => (*x).into(),
        Value::U32(x) => (*x).into(),
        Value::I32(x) => (*x).into(),
        Value::U64(x) => (*x).into(),
        Value::I64(x) => (*x).into(),
        Value::F32(x) => single(*x),
        Value::F64(x) => double(*x),
        Value::Bool(x) => (*x).into(),
        Value::String(x) => x.as_str().into(),
        Value::Array(array) => match array {
            Array::U8(list) => list.iter().map(|&x| Json::from(x)).collect(),
            Array::I8(list) => list.iter().map(|&x| Json::from(x)).collect(),
            Array::U16(list) => list.iter().map(|&x| Json::from(x)).collect(),
            Array::I16(list) => list.iter().map(|&x| Json::from(x)).collect(),
            Array::U32(list) => list.iter().map(|&x| Json::from(x)).collect(),
            Array::I32(list) => list.iter().map(|&x| Json::from(x)).collect(),
            Array::U64(list) => list.iter().map(|&x| Json::from(x)).collect(),
            Array::I64(list) => list.iter().map(|&x| Json::from(x)).collect(),
            Array::F32(list) => list.iter().map(|&x| single(x)).collect(),
            Array::F64(list) => list.iter().map(|&x| double(x)).collect(),
            Array::Bool(list) => list.iter().map(|&x| Json::from(x)).collect(),
            Array::String(list) => list.iter().map(|x| Json::from(x.as_str())).collect(),
        },
    }
}

/// The shortest decimal number that reads back as the same F32.
fn single(x: f32) -> Json {
    x.to_string().parse().map_or(Json::Null, double)
}

fn double(x: f64) -> Json {
    Number::from_f64(x).map_or(Json::Null, Json::Number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_short_as_they_can_be() {
        assert_eq!(json(&0.1f32.into()).to_string(), "0.1");
        assert_eq!(json(&vec![f32::NAN, 1.5].into()).to_string(), "[null,1.5]");
        assert_eq!(json(&f64::INFINITY.into()), Json::Null);
        assert_eq!(json(&u64::MAX.into()).to_string(), "18446744073709551615");
        assert_eq!(json(&vec!["a".to_owned()].into()).to_string(), r#"["a"]"#);
    }
}
