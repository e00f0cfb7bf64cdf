//! JSON in which no object has a key twice: of two values, a reader would take the one and its writer
//! may have meant the other.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::error::shown;

/// Why a text is not taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is no JSON: where and why.
    Syntax(String),
    /// A key that stands twice in one object.
    Twice(String),
}

/// What is said of a key that stands twice.
pub(crate) fn twice(key: &str) -> String {
    format!("the key `{}` occurs twice", shown(key))
}

/// Reads a value.
pub(crate) fn parse(bytes: &[u8]) -> Result<Value, Fault> {
    match serde_json::from_slice(bytes) {
        Ok(Once(value)) => Ok(value),
        Err(error) => {
            let problem = error.to_string();
            // The only thing that is wrong with what is JSON; serde says where after it.
            let key = problem.strip_prefix(TWICE).filter(|_| error.is_data());
            Err(match key.and_then(|rest| rest.rsplit_once(" at line ")) {
                Some((key, _)) => Fault::Twice(key.to_owned()),
                None => Fault::Syntax(problem),
            })
        }
    }
}

/// How the complaint of a key begins.
const TWICE: &str = "twice: ";

/// A value whose objects have each key once.
struct Once(Value);

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue).map(Once)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Once(value)) = seq.next_element()? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if object.contains_key(&key) {
                return Err(A::Error::custom(format_args!("{TWICE}{key}")));
            }
            let Once(value) = map.next_value()?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_serde_reads() {
        let text = r#"{"a": [1, -2, 0.5, 1e300, 18446744073709551615, true, null, "ü\n"], "b": {"a": {}}}"#;
        let expected: Value = serde_json::from_str(text).unwrap();
        assert_eq!(parse(text.as_bytes()), Ok(expected));
        let Err(Fault::Syntax(problem)) = parse(b"{\"a\": 1") else { panic!("it ends early") };
        assert_eq!(problem, serde_json::from_str::<Value>("{\"a\": 1").unwrap_err().to_string());
        let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
        assert!(matches!(parse(deep.as_bytes()), Err(Fault::Syntax(_))));
    }

    #[test]
    fn refuses_a_key_that_is_there_twice_wherever_it_is() {
        for (text, key) in [
            (r#"{"a": 1, "b": 2, "a": 1}"#, "a"),
            (r#"[{"x": [{"": 0, "": 1}]}]"#, ""),
            (r#"{"a at line 3": 1, "a at line 3": 2}"#, "a at line 3"),
            (r#"{"a": 1, "\u0061": 2}"#, "a"),
        ] {
            assert_eq!(parse(text.as_bytes()), Err(Fault::Twice(key.to_owned())), "{text}");
        }
        assert!(parse(br#"[{"a": 1}, {"a": 2}]"#).is_ok());
    }
}
