//! A request's body, key by key. What is not taken out at the end is refused: nothing is ignored.

use serde_json::{Map, Value};

use super::refusal::Refusal;
use crate::error::shown;
use crate::json::{self, Fault};

/// Keys that say nothing of the answer.
const HARMLESS: [&str; 8] = [
    "metadata",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "cache_prompt",
    "timings_per_token",
    "model",
];

/// Keys, and values of theirs that ask for nothing.
const PLAIN: [(&str, &str); 11] = [
    ("store", "false"),
    ("best_of", "1"),
    ("echo", "false"),
    ("modalities", "[\"text\"]"),
    ("tools", "[]"),
    ("functions", "[]"),
    ("tool_choice", "\"none\""),
    ("tool_choice", "\"auto\""),
    ("parallel_tool_calls", "true"),
    ("suffix", "\"\""),
    ("verbosity", "\"medium\""),
];

/// An object whose keys are taken out one by one.
pub(super) struct Body(Map<String, Value>);

impl Body {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        match json::parse(bytes) {
            Ok(Value::Object(mut map)) => {
                // OpenAI's clients write null for what they leave out; only steering means it.
                map.retain(|key, value| !value.is_null() || key == "steering");
                Ok(Self(map))
            }
            Ok(_) => Err(Refusal::body("the body is not a JSON object")),
            Err(Fault::Twice(key)) => Err(Refusal::of(&shown(&key), "it occurs twice")),
            Err(Fault::Syntax(problem)) => {
                Err(Refusal::body(format!("the body is not JSON: {problem}")))
            }
        }
    }

    pub(super) fn take(&mut self, key: &str) -> Option<Value> {
        self.0.remove(key)
    }

    /// A text.
    pub(super) fn text(&mut self, key: &str) -> Result<Option<String>, Refusal> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Refusal::of(key, "expected a text")),
        }
    }

    /// True or false, false where it is not there.
    pub(super) fn flag(&mut self, key: &str) -> Result<bool, Refusal> {
        match self.take(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(_) => Err(Refusal::of(key, "expected true or false")),
        }
    }

    /// A number from `low` to `high`.
    pub(super) fn number(
        &mut self,
        key: &str,
        low: f64,
        high: f64,
    ) -> Result<Option<f32>, Refusal> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let number = value.as_f64().filter(|number| (low..=high).contains(number));
        let refused = || Refusal::of(key, format!("expected a number from {low} to {high}"));
        number.map(|number| Some(number as f32)).ok_or_else(refused)
    }

    /// A whole number from `low` to `high`.
    pub(super) fn whole(&mut self, key: &str, low: i64, high: i64) -> Result<Option<i64>, Refusal> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let number = value.as_i64().filter(|number| (low..=high).contains(number));
        let refused = || Refusal::of(key, format!("expected a whole number from {low} to {high}"));
        number.map(Some).ok_or_else(refused)
    }

    /// Refuses what was not taken.
    pub(super) fn finish(mut self) -> Result<(), Refusal> {
        for key in HARMLESS {
            self.0.remove(key);
        }
        for (key, plain) in PLAIN {
            let plain: Option<Value> = serde_json::from_str(plain).ok();
            if self.0.get(key) == plain.as_ref() {
                self.0.remove(key);
            }
        }
        match self.0.keys().next() {
            None => Ok(()),
            Some(key) => {
                let key = shown(key);
                Err(Refusal::of(&key, "this server does not know or support it: leave it out"))
            }
        }
    }
}
