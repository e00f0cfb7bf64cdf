//! What stands under `steering` in a request, piece by piece.

use serde_json::{Map, Value, json};

use super::refusal::Refusal;
use crate::error::shown;
use crate::steer::Positions;

/// The most vectors that one request adds.
const N_VECTOR: usize = 64;

/// `truth*0.5 + calm`: names, each times a factor.
pub(super) fn terms(text: &str) -> Result<Vec<(String, f32)>, Refusal> {
    let term = |term: &str| {
        let term = term.trim();
        let (name, factor) = match term.rsplit_once('*') {
            None => (term, Some(1.0)),
            Some((name, factor)) => {
                (name.trim(), factor.trim().parse().ok().filter(|factor: &f32| factor.is_finite()))
            }
        };
        match factor {
            Some(factor) if !name.is_empty() => Ok((name.to_owned(), factor)),
            _ => {
                let problem = format!("`{}` is no NAME or NAME*FACTOR", shown(term));
                Err(Refusal::of("steering", problem))
            }
        }
    };
    too_many(text.split('+').count())?;
    text.split('+').map(term).collect()
}

/// Each vector of a request costs time to add up.
pub(super) fn too_many(n_vector: usize) -> Result<(), Refusal> {
    if n_vector <= N_VECTOR {
        return Ok(());
    }
    Err(Refusal::of("steering", format!("{n_vector} vectors, at most {N_VECTOR} are added")))
}

/// Which tokens an `apply` steers; `None` where candor cannot.
pub(super) fn apply_of(apply: &Value) -> Option<Positions> {
    let is_all = |object: &Map<String, Value>, key: &str| {
        object.get(key).is_some_and(|value| value == "all" || value == &Value::Bool(true))
    };
    match apply {
        Value::String(text) => text.parse().ok(),
        Value::Object(object) if object.len() == 2 && is_all(object, "generation") => {
            if is_all(object, "prompt") {
                Some(Positions::All)
            } else {
                (object.get("prompt_positions") == Some(&json!([-1])))
                    .then_some(Positions::Generated)
            }
        }
        _ => None,
    }
}

pub(super) fn finite(value: &Value) -> Option<f32> {
    let number = value.as_f64()? as f32;
    number.is_finite().then_some(number)
}

/// Refuses keys that are none of these.
pub(super) fn known(
    object: &Map<String, Value>,
    param: &str,
    keys: &[&str],
) -> Result<(), Refusal> {
    match object.keys().find(|key| !keys.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => {
            let problem =
                format!("there is no key `{}`; there are: {}", shown(key), keys.join(", "));
            Err(Refusal::of(param, problem))
        }
    }
}
