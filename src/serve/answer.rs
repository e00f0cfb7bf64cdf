//! Answers in the form of OpenAI's API: whole, or as a stream of events.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::sync::mpsc::Receiver;

use super::App;
use super::ask::{Asked, Form, Readings, Shared};
use super::refusal::Refusal;
use crate::engine::{Event, Id, Likely, Reason, Token};
use crate::probe::Reading;

/// Beside readings of probes that read nothing.
const OF_LUCK: &str = "read by probes that read the labels of their fit no better than luck";

/// Says why an answer is over in OpenAI's words.
fn word(reason: Reason) -> &'static str {
    match reason {
        Reason::Stop => "stop",
        Reason::Length | Reason::Context => "length",
    }
}

/// What all parts of one reply have in common.
pub(super) struct Reply {
    pub(super) app: Arc<App>,
    pub(super) asked: Shared,
    pub(super) id: Id,
    pub(super) created: u64,
    pub(super) n_prompt: usize,
    /// Whether it was read too slowly to be brought to its end.
    pub(super) is_given_up: Arc<AtomicBool>,
}

/// One answer so far.
#[derive(Default, Clone)]
struct Choice {
    text: String,
    tokens: Vec<Token>,
    reason: Option<Reason>,
    /// Whether anything but space came: what a chat's answer begins with is left out.
    has_begun: bool,
}

impl Reply {
    fn name(&self) -> String {
        let kind = if self.asked.form == Form::Chat { "chatcmpl" } else { "cmpl" };
        format!("{kind}-{:x}-{:016x}", self.id, self.app.tag(self.id))
    }

    fn head(&self, is_chunk: bool) -> Value {
        let object = match (self.asked.form, is_chunk) {
            (Form::Chat, false) => "chat.completion",
            (Form::Chat, true) => "chat.completion.chunk",
            (Form::Completion, _) => "text_completion",
        };
        json!({ "id": self.name(), "object": object, "created": self.created,
            "model": self.app.name })
    }

    fn usage(&self, n_written: usize, n_cached: usize) -> Value {
        json!({
            "prompt_tokens": self.n_prompt,
            "completion_tokens": n_written,
            "total_tokens": self.n_prompt + n_written,
            "prompt_tokens_details": { "cached_tokens": n_cached },
        })
    }

    /// The text of some tokens as the form shows it, given whether any came before.
    fn shown(&self, text: &str, has_begun: &mut bool) -> String {
        let text = match self.asked.form {
            Form::Chat if !*has_begun => text.trim_start(),
            _ => text,
        };
        *has_begun |= !text.is_empty();
        text.to_owned()
    }

    /// Log probabilities and readings of some tokens, as keys of a choice.
    /// `offset`: characters of the tokens before.
    fn details(&self, choice: &mut Value, tokens: &[Token], offset: usize) {
        let log_probabilities = self.asked.log_probabilities.map(|_| match self.asked.form {
            Form::Chat => {
                let content: Vec<Value> = tokens.iter().map(|token| self.likely(token)).collect();
                json!({ "content": content, "refusal": null })
            }
            Form::Completion => self.old_likely(tokens, offset),
        });
        choice["logprobs"] = log_probabilities.unwrap_or(Value::Null);
        if self.asked.readings != Readings::Off {
            let readings = || tokens.iter().map(|token| token.reading);
            let numbers: Vec<Option<f32>> =
                readings().map(|r| r.and_then(Reading::number)).collect();
            let kinds: Vec<Option<&str>> = readings().map(|r| r.map(Reading::kind)).collect();
            choice["candor"] = json!({ "readings": numbers, "kinds": kinds });
            if self.asked.steered.reads_nothing {
                choice["candor"]["note"] = json!(OF_LUCK);
            }
        }
    }

    fn piece(&self, token: i32) -> (String, Vec<u8>) {
        let bytes = self.app.model.piece(token);
        (String::from_utf8_lossy(&bytes).into_owned(), bytes)
    }

    fn likely(&self, token: &Token) -> Value {
        let one = |id: i32, log_probability: f32| {
            let (text, bytes) = self.piece(id);
            json!({ "token": text, "logprob": finite(log_probability), "bytes": bytes })
        };
        let Likely { log_probability, top } = likely(token);
        let mut value = one(token.id, log_probability);
        let top: Vec<Value> = top.iter().map(|top| one(top.token, top.log_probability)).collect();
        value["top_logprobs"] = json!(top);
        value
    }

    /// The form of the older API: parallel lists.
    fn old_likely(&self, tokens: &[Token], mut offset: usize) -> Value {
        let (mut texts, mut values, mut tops, mut offsets) = (vec![], vec![], vec![], vec![]);
        for token in tokens {
            let (text, _) = self.piece(token.id);
            let Likely { log_probability, top } = likely(token);
            let top =
                top.iter().map(|top| (self.piece(top.token).0, json!(finite(top.log_probability))));
            tops.push(Value::Object(top.collect()));
            values.push(finite(log_probability));
            offsets.push(offset);
            offset += text.chars().count();
            texts.push(text);
        }
        json!({ "tokens": texts, "token_logprobs": values, "top_logprobs": tops,
            "text_offset": offsets })
    }

    /// Waits for all answers.
    pub(super) async fn whole(
        self,
        mut events: Receiver<(usize, Event)>,
    ) -> Result<Response, Refusal> {
        let n = self.asked.n;
        let mut choices = vec![Choice::default(); n];
        let (mut n_cached, mut n_over) = (0, 0);
        while n_over < n {
            let Some((i, event)) = events.recv().await else { return Err(Refusal::stopping()) };
            match event {
                Event::Begun { n_cached: n } => n_cached = n_cached.max(n),
                Event::Token(token) => {
                    let Choice { text, tokens, has_begun, .. } = &mut choices[i];
                    text.push_str(&self.shown(&token.text, has_begun));
                    tokens.push(token);
                }
                Event::Done { reason, rest } => {
                    let Choice { text, has_begun, .. } = &mut choices[i];
                    text.push_str(&self.shown(&rest, has_begun));
                    choices[i].reason = Some(reason);
                    n_over += 1;
                }
                Event::Failed(error) => return Err(error.into()),
            }
        }
        let n_written = choices.iter().map(|choice| choice.tokens.len()).sum();
        let list: Vec<Value> = choices.iter().enumerate().map(|(i, c)| self.choice(i, c)).collect();
        let mut reply = self.head(false);
        reply["choices"] = json!(list);
        reply["usage"] = self.usage(n_written, n_cached);
        Ok(axum::Json(reply).into_response())
    }

    fn choice(&self, i: usize, choice: &Choice) -> Value {
        let mut value = json!({ "index": i, "finish_reason": choice.reason.map(word) });
        match self.asked.form {
            Form::Chat => {
                value["message"] =
                    json!({ "role": "assistant", "content": choice.text, "refusal": null });
            }
            Form::Completion => value["text"] = json!(choice.text),
        }
        self.details(&mut value, &choice.tokens, 0);
        value
    }

    /// Hands every token on as it comes.
    pub(super) fn stream(self, events: Receiver<(usize, Event)>) -> Response {
        let n = self.asked.n;
        let state = Stream {
            begun: vec![false; n],
            offsets: vec![0; n],
            n_over: 0,
            n_written: 0,
            n_cached: 0,
            is_last: false,
            reply: self,
            events,
        };
        let chunks = futures_util::stream::unfold(state, |mut state| async {
            let chunk = state.next().await?;
            Some((Ok::<_, Infallible>(Bytes::from(chunk)), state))
        });
        let mut response = Response::new(Body::from_stream(chunks));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        response
    }
}

fn likely(token: &Token) -> Likely {
    let none = || Likely { log_probability: f32::NEG_INFINITY, top: Vec::new() };
    token.likely.clone().unwrap_or_else(none)
}

/// JSON knows no infinity; OpenAI writes -9999 for it.
fn finite(log_probability: f32) -> f32 {
    if log_probability.is_finite() { log_probability } else { -9999.0 }
}

struct Stream {
    reply: Reply,
    events: Receiver<(usize, Event)>,
    /// Of each answer, whether anything but space came.
    begun: Vec<bool>,
    /// And how many characters its tokens have so far.
    offsets: Vec<usize>,
    n_over: usize,
    n_written: usize,
    n_cached: usize,
    is_last: bool,
}

impl Stream {
    async fn next(&mut self) -> Option<String> {
        if self.is_last {
            return None;
        }
        let n = self.begun.len();
        if self.n_over == n {
            self.is_last = true;
            let mut end = String::new();
            if self.reply.asked.wants_usage {
                let mut chunk = self.reply.head(true);
                chunk["choices"] = json!([]);
                chunk["usage"] = self.reply.usage(self.n_written, self.n_cached);
                end = line(&chunk);
            }
            return Some(end + "data: [DONE]\n\n");
        }
        let Some((i, event)) = self.events.recv().await else {
            self.is_last = true;
            let is_given_up = self.reply.is_given_up.load(Ordering::Relaxed);
            let why = if is_given_up { Refusal::reads_too_slowly() } else { Refusal::stopping() };
            return Some(line(&why.json()));
        };
        Some(match event {
            Event::Begun { n_cached } => {
                self.n_cached = self.n_cached.max(n_cached);
                match self.reply.asked.form {
                    Form::Chat => self.chunk(i, "", &[], None, true),
                    // A comment, so that the client sees the stream begin.
                    Form::Completion => ": begun\n\n".to_owned(),
                }
            }
            Event::Token(token) => {
                self.n_written += 1;
                let text = self.reply.shown(&token.text, &mut self.begun[i]);
                let n_character = self.reply.piece(token.id).0.chars().count();
                let chunk = self.chunk(i, &text, &[token], None, false);
                self.offsets[i] += n_character;
                chunk
            }
            Event::Done { reason, rest } => {
                self.n_over += 1;
                let rest = self.reply.shown(&rest, &mut self.begun[i]);
                let rest = match rest.is_empty() {
                    true => String::new(),
                    false => self.chunk(i, &rest, &[], None, false),
                };
                rest + &self.chunk(i, "", &[], Some(reason), false)
            }
            Event::Failed(error) => {
                self.is_last = true;
                line(&Refusal::from(error).json())
            }
        })
    }

    fn chunk(
        &self,
        i: usize,
        text: &str,
        tokens: &[Token],
        reason: Option<Reason>,
        is_first: bool,
    ) -> String {
        let mut choice = json!({ "index": i, "finish_reason": reason.map(word) });
        match self.reply.asked.form {
            Form::Chat => {
                choice["delta"] = match (is_first, reason) {
                    (true, _) => json!({ "role": "assistant", "content": "" }),
                    (_, Some(_)) => json!({}),
                    _ => json!({ "content": text }),
                };
            }
            Form::Completion => choice["text"] = json!(text),
        }
        if tokens.is_empty() {
            choice["logprobs"] = Value::Null;
        } else {
            self.reply.details(&mut choice, tokens, self.offsets[i]);
        }
        let mut chunk = self.reply.head(true);
        chunk["choices"] = json!([choice]);
        if self.reply.asked.wants_usage {
            chunk["usage"] = Value::Null;
        }
        line(&chunk)
    }
}

/// One event of a stream.
fn line(value: &Value) -> String {
    format!("data: {value}\n\n")
}

/// Whether an answer is streamed.
pub(super) async fn reply(
    asked: &Asked,
    reply: Reply,
    events: Receiver<(usize, Event)>,
) -> Result<Response, Refusal> {
    if asked.is_stream { Ok(reply.stream(events)) } else { reply.whole(events).await }
}
