//! What a request asks for.

use std::sync::Arc;
use std::time::Instant;

use serde_json::Value;

use super::App;
use super::body::Body;
use super::refusal::Refusal;
use super::vectors::{Steered, Vectors};
use crate::chat::{Message, Role, prompt_tokens};
use crate::engine::{Constraint, Request};
use crate::session::{SamplingParams, Shaping};

/// The most answers to one request.
const N_MAX: i64 = 128;
/// The most of the likeliest tokens.
const TOP_MAX: i64 = 20;
/// The most stop strings, and their length in bytes.
const N_STOP: usize = 16;
const STOP_MAX: usize = 1000;

/// Which of OpenAI's two forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Chat,
    Completion,
}

/// A request that was understood.
pub(super) struct Asked {
    pub(super) form: Form,
    pub(super) prompt: Prompt,
    pub(super) n: usize,
    pub(super) is_stream: bool,
    pub(super) wants_usage: bool,
    pub(super) readings: Readings,
    n_predict: usize,
    sampling: SamplingParams,
    seed_given: bool,
    shaping: Shaping,
    stops: Vec<String>,
    pub(super) log_probabilities: Option<usize>,
    pub(super) steered: Steered,
    gate: Option<f32>,
    schema: Option<Value>,
    user: Option<String>,
}

/// Whether tokens come with what probes read, and whose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Readings {
    Off,
    /// Those of the vectors that steer, or of the server's default.
    On,
    /// Those of the vector that is called so.
    By(String),
}

/// What is to be answered.
pub(super) enum Prompt {
    Messages(Vec<Message>),
    Text(String),
    Tokens(Vec<i32>),
}

impl Asked {
    /// Understands a body, for a model of so many tokens and a server with these vectors.
    pub(super) fn parse(
        form: Form,
        mut body: Body,
        n_vocab: usize,
        vectors: &Vectors,
    ) -> Result<Self, Refusal> {
        let prompt = match form {
            Form::Chat => Prompt::Messages(messages(body.take("messages"))?),
            Form::Completion => prompt(body.take("prompt"), n_vocab)?,
        };
        let limit = i64::from(i32::MAX);
        // OpenAI's two names, and llama.cpp's; -1 there is as many as there is room for.
        let mut n_predict = None;
        for key in ["max_completion_tokens", "max_tokens", "n_predict"] {
            let n = body.take(key).map(|value| limit_of(key, &value)).transpose()?;
            n_predict = n_predict.or(n);
        }
        let defaults = SamplingParams::default();
        let top_k = body.whole("top_k", 0, limit)?.and_then(|k| i32::try_from(k).ok());
        let seed = body.whole("seed", i64::MIN, i64::MAX)?;
        let sampling = SamplingParams {
            temp: body.number("temperature", 0.0, 100.0)?.unwrap_or(defaults.temp),
            top_k: top_k.unwrap_or(defaults.top_k),
            top_p: body.number("top_p", 0.0, 1.0)?.unwrap_or(defaults.top_p),
            min_p: body.number("min_p", 0.0, 1.0)?.unwrap_or(defaults.min_p),
            // As llama.cpp's servers do: the low 32 bits.
            seed: seed.map_or(0, |seed| seed as u32),
        };
        let shaping = Shaping {
            repeat_penalty: body.number("repeat_penalty", 0.01, 100.0)?.unwrap_or(1.0),
            frequency_penalty: body.number("frequency_penalty", -2.0, 2.0)?.unwrap_or(0.0),
            presence_penalty: body.number("presence_penalty", -2.0, 2.0)?.unwrap_or(0.0),
            last_n: body.whole("repeat_last_n", -1, limit)?.map_or(64, |n| n as i32),
            bias: bias(body.take("logit_bias"), n_vocab)?,
        };
        let (wants, top) = match form {
            Form::Chat => (body.flag("logprobs")?, body.whole("top_logprobs", 0, TOP_MAX)?),
            Form::Completion => {
                let top = body.whole("logprobs", 0, TOP_MAX)?;
                (top.is_some(), top)
            }
        };
        if top.is_some() && !wants {
            return Err(Refusal::of("top_logprobs", "needs logprobs: true"));
        }
        let log_probabilities =
            wants.then(|| top.and_then(|n| usize::try_from(n).ok()).unwrap_or(0));
        let is_stream = body.flag("stream")?;
        let wants_usage = wants_usage(body.take("stream_options"), is_stream)?;
        let steering = body.take("steering");
        let mut steered = vectors.steered(steering.as_ref())?;
        let gate = gate(body.take("gate"))?;
        let readings = readings(body.take("readings"))?;
        match (&gate, &steered) {
            (Some(_), Steered { steer: None, .. }) => {
                let problem = "nothing steers this request: name a vector under `steering`";
                return Err(Refusal::of("gate", problem));
            }
            (Some(_), Steered { reader: None, .. }) => {
                let problem = "the vectors that steer have no probes to decide by";
                return Err(Refusal::of("gate", problem));
            }
            (Some(_), _) if matches!(readings, Readings::By(_)) => {
                let problem = "with a gate, readings are those that it goes by: say true";
                return Err(Refusal::of("readings", problem));
            }
            _ => vectors.reads(&mut steered, &readings)?,
        }
        let asked = Self {
            form,
            prompt,
            n: body.whole("n", 1, N_MAX)?.map_or(1, |n| n as usize),
            is_stream,
            wants_usage,
            readings,
            n_predict: n_predict.unwrap_or(usize::MAX),
            sampling,
            seed_given: seed.is_some(),
            shaping,
            stops: stops(body.take("stop"))?,
            log_probabilities,
            steered,
            gate,
            schema: response_format(body.take("response_format"))?,
            user: body.text("user")?,
        };
        body.finish()?;
        Ok(asked)
    }

    /// Refuses a text that no tokens of the context can stand for before it is read as tokens, which takes
    /// its time.
    fn check_length(&self, app: &App) -> Result<(), Refusal> {
        let n_byte = match &self.prompt {
            Prompt::Messages(messages) => messages.iter().map(|it| it.content.len()).sum(),
            Prompt::Text(text) => text.len(),
            Prompt::Tokens(_) => 0,
        };
        let n_max = app.n_ctx.saturating_mul(app.longest);
        if n_byte <= n_max {
            return Ok(());
        }
        let n_ctx = app.n_ctx;
        Err(Refusal::too_long(format!("{n_byte} bytes are more than {n_ctx} tokens can stand for")))
    }

    /// What the engine is asked, once for each answer. Renders the template: may take long.
    pub(super) fn requests(&self, app: &App, address: u64) -> Result<Vec<Request>, Refusal> {
        let mut stops = self.stops.clone();
        self.check_length(app)?;
        let prompt = match &self.prompt {
            Prompt::Messages(messages) => {
                // What ends an answer of words may stand within one of JSON.
                let own = if self.schema.is_some() { &[][..] } else { app.template.stops() };
                stops.extend(own.iter().map(|&stop| stop.to_owned()));
                app.template.tokens(&app.model, messages)?
            }
            Prompt::Text(text) => prompt_tokens(&app.model, text)?,
            Prompt::Tokens(tokens) => tokens.clone(),
        };
        let schema = self.schema.as_ref().map(|schema| app.constraint(schema)).transpose()?;
        let steer = self.steered.steer.clone().map(|steer| steer.gated(self.gate));
        let reads = self.readings != Readings::Off;
        let needs_reader = reads || steer.as_ref().is_some_and(|s| s.gate().is_some());
        let client = self.user.as_ref().map_or(address, super::hash);
        let deadline = app.params.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        (0..self.n)
            .map(|i| {
                let i = u32::try_from(i).unwrap_or(0);
                let seed = if self.seed_given { self.sampling.seed } else { app.draw() };
                let mut request = Request::new(prompt.clone(), self.n_predict);
                request.sampling = SamplingParams { seed: seed.wrapping_add(i), ..self.sampling };
                request.shaping = self.shaping.clone();
                request.stops.clone_from(&stops);
                let constraint = schema.as_ref().map(|schema| Box::new(schema.again()));
                request.constraint = constraint.map(|one| one as Box<dyn Constraint>);
                request.steer.clone_from(&steer);
                request.reader = self.steered.reader.clone().filter(|_| needs_reader);
                request.readings = reads;
                request.log_probabilities = self.log_probabilities;
                request.deadline = deadline;
                request.client = client;
                Ok(request)
            })
            .collect()
    }
}

/// How many tokens an answer may have.
fn limit_of(key: &str, value: &Value) -> Result<usize, Refusal> {
    match value.as_i64() {
        Some(-1) => Ok(usize::MAX),
        Some(n) if (1..=i64::from(i32::MAX)).contains(&n) => {
            Ok(usize::try_from(n).unwrap_or(usize::MAX))
        }
        _ => {
            let problem = "expected a whole number from 1, or -1 for as many as there is room for";
            Err(Refusal::of(key, problem))
        }
    }
}

fn messages(value: Option<Value>) -> Result<Vec<Message>, Refusal> {
    let Some(Value::Array(list)) = value else {
        return Err(Refusal::of("messages", "expected a list of {\"role\", \"content\"}"));
    };
    if list.is_empty() {
        return Err(Refusal::of("messages", "it is empty"));
    }
    list.into_iter().enumerate().map(|(i, message)| one_message(i, message)).collect()
}

fn one_message(i: usize, message: Value) -> Result<Message, Refusal> {
    let param = format!("messages[{i}]");
    let Value::Object(mut message) = message else {
        return Err(Refusal::of(&param, "expected an object"));
    };
    message.retain(|_, value| !value.is_null());
    let role = match message.remove("role").as_ref().and_then(Value::as_str) {
        Some("system" | "developer") => Role::System,
        Some("user") => Role::User,
        Some("assistant") => Role::Assistant,
        _ => {
            let problem = "expected `system`, `developer`, `user` or `assistant`; tools are not \
                           supported";
            return Err(Refusal::of(&format!("{param}.role"), problem));
        }
    };
    let content = match message.remove("content") {
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => {
            let mut text = String::new();
            for part in parts {
                match (part.get("type").and_then(Value::as_str), part.get("text")) {
                    (Some("text"), Some(Value::String(more))) => text.push_str(more),
                    _ => {
                        let problem = "only parts of type `text` are supported";
                        return Err(Refusal::of(&format!("{param}.content"), problem));
                    }
                }
            }
            text
        }
        _ => return Err(Refusal::of(&format!("{param}.content"), "expected a text")),
    };
    // What clients send back of an earlier answer.
    for key in ["name", "refusal", "annotations", "candor"] {
        message.remove(key);
    }
    match message.keys().next() {
        None => Ok(Message::new(role, &content)),
        Some(key) => {
            let problem = format!("`{}` is not supported", crate::error::shown(key));
            Err(Refusal::of(&param, problem))
        }
    }
}

fn prompt(value: Option<Value>, n_vocab: usize) -> Result<Prompt, Refusal> {
    let refuse = |problem: &str| Err(Refusal::of("prompt", problem));
    let token = |value: &Value| -> Option<i32> {
        let token = i32::try_from(value.as_i64()?).ok()?;
        usize::try_from(token).ok().filter(|&i| i < n_vocab).map(|_| token)
    };
    match value {
        Some(Value::String(text)) => Ok(Prompt::Text(text)),
        Some(Value::Array(mut list)) if list.len() == 1 && list[0].is_string() => {
            match list.swap_remove(0) {
                Value::String(text) => Ok(Prompt::Text(text)),
                _ => refuse("expected a text"),
            }
        }
        Some(Value::Array(list)) if !list.is_empty() => {
            match list.iter().map(token).collect::<Option<Vec<i32>>>() {
                Some(tokens) => Ok(Prompt::Tokens(tokens)),
                None => refuse(
                    "expected one text, or tokens of the model's vocabulary; several \
                                prompts are several requests",
                ),
            }
        }
        _ => refuse("expected a text or a list of tokens"),
    }
}

/// Whether a stream ends in a count of tokens.
fn wants_usage(value: Option<Value>, is_stream: bool) -> Result<bool, Refusal> {
    let refuse = |problem: String| Err(Refusal::of("stream_options", problem));
    let options = match value {
        None => return Ok(false),
        Some(Value::Object(options)) => options,
        Some(_) => return refuse("expected an object".to_owned()),
    };
    if !is_stream {
        return refuse("needs stream: true".to_owned());
    }
    let mut wants = false;
    for (key, value) in &options {
        match (key.as_str(), value) {
            ("include_usage", Value::Bool(flag)) => wants = *flag,
            // Padding against those who count bytes, of which there is none here.
            (_, Value::Null) | ("include_obfuscation", Value::Bool(_)) => {}
            ("include_usage" | "include_obfuscation", _) => {
                return refuse(format!("{key}: expected true or false"));
            }
            _ => return refuse(format!("there is no key `{}`", crate::error::shown(key))),
        }
    }
    Ok(wants)
}

fn stops(value: Option<Value>) -> Result<Vec<String>, Refusal> {
    let list = match value {
        None => return Ok(Vec::new()),
        Some(Value::String(stop)) => vec![stop],
        Some(Value::Array(list)) => list
            .into_iter()
            .map(|stop| match stop {
                Value::String(stop) => Ok(stop),
                _ => Err(Refusal::of("stop", "expected texts")),
            })
            .collect::<Result<_, _>>()?,
        Some(_) => return Err(Refusal::of("stop", "expected a text or a list of texts")),
    };
    if list.len() > N_STOP || list.iter().any(|stop| stop.len() > STOP_MAX) {
        let problem = format!("at most {N_STOP} texts of {STOP_MAX} bytes are taken");
        return Err(Refusal::of("stop", problem));
    }
    Ok(list)
}

/// `{"TOKEN": BIAS}` as OpenAI has it, or `[[TOKEN, BIAS]]` as llama.cpp does, where false is never.
fn bias(value: Option<Value>, n_vocab: usize) -> Result<Vec<(i32, f32)>, Refusal> {
    let expected = || {
        let problem =
            "expected an object of tokens and numbers from -100 to 100, or a list of pairs";
        Refusal::of("logit_bias", problem)
    };
    let one = |token: Option<i64>, bias: &Value| {
        let token = token.and_then(|token| usize::try_from(token).ok()).filter(|&i| i < n_vocab);
        let token = token.and_then(|token| i32::try_from(token).ok()).ok_or_else(expected)?;
        // What OpenAI promises of -100, too: never.
        match bias.as_f64() {
            Some(bias) if bias <= -100.0 => Ok((token, f32::NEG_INFINITY)),
            Some(bias) if bias <= 100.0 => Ok((token, bias as f32)),
            None if *bias == Value::Bool(false) => Ok((token, f32::NEG_INFINITY)),
            _ => Err(expected()),
        }
    };
    match value {
        None => Ok(Vec::new()),
        Some(Value::Object(map)) => {
            map.iter().map(|(token, bias)| one(token.parse().ok(), bias)).collect()
        }
        Some(Value::Array(list)) => {
            let pair = |pair: &Value| match pair.as_array().map(Vec::as_slice) {
                Some([token, bias]) => one(token.as_i64(), bias),
                _ => Err(expected()),
            };
            list.iter().map(pair).collect()
        }
        Some(_) => Err(expected()),
    }
}

/// `true`, or `{"source": NAME}`.
fn readings(value: Option<Value>) -> Result<Readings, Refusal> {
    match value {
        None | Some(Value::Bool(false)) => Ok(Readings::Off),
        Some(Value::Bool(true)) => Ok(Readings::On),
        Some(Value::Object(mut object)) if object.len() == 1 => match object.remove("source") {
            Some(Value::String(name)) => Ok(Readings::By(name)),
            _ => Err(Refusal::of("readings", READINGS)),
        },
        Some(_) => Err(Refusal::of("readings", READINGS)),
    }
}

const READINGS: &str = "expected true, false or {\"source\": the name of a vector}";

fn gate(value: Option<Value>) -> Result<Option<f32>, Refusal> {
    let expected = || Refusal::of("gate", "expected {\"below\": a number from 0 to 1}");
    let Some(value) = value else { return Ok(None) };
    let object = value.as_object().filter(|object| object.len() == 1).ok_or_else(expected)?;
    let below = object.get("below").and_then(Value::as_f64);
    below.filter(|x| (0.0..=1.0).contains(x)).map(|x| Some(x as f32)).ok_or_else(expected)
}

/// The schema that an answer has to keep to.
fn response_format(value: Option<Value>) -> Result<Option<Value>, Refusal> {
    let Some(value) = value else { return Ok(None) };
    let keys = value.as_object().into_iter().flat_map(|object| object.keys());
    let mut unknown = keys.filter(|key| !["type", "json_schema", "schema"].contains(&key.as_str()));
    if let Some(key) = unknown.next() {
        let problem = format!("there is no key `{}`", crate::error::shown(key));
        return Err(Refusal::of("response_format", problem));
    }
    match value.get("type").and_then(Value::as_str) {
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some(serde_json::json!({ "type": "object" }))),
        Some("json_schema") => {
            let schema = value.get("json_schema").and_then(|it| it.get("schema"));
            match schema.or_else(|| value.get("schema")) {
                Some(schema) if schema.is_object() => Ok(Some(schema.clone())),
                _ => Err(Refusal::of("response_format.json_schema.schema", "expected an object")),
            }
        }
        _ => Err(Refusal::of(
            "response_format",
            "expected type `text`, `json_object` or `json_schema`",
        )),
    }
}

/// Shared by all answers to one request.
pub(super) type Shared = Arc<Asked>;
