//! What is where.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use axum::extract::{Path, Request as HttpRequest, State};
use axum::http::{HeaderValue, Uri, header};
use axum::middleware::from_fn_with_state;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::answer::{Reply, reply};
use super::ask::{Asked, Form};
use super::body::Body;
use super::guard::guard;
use super::net::Server;
use super::refusal::Refusal;
use super::worker::Command;
use super::{App, hash};
use crate::Special;
use crate::error::shown;

/// The longest body in bytes.
const BODY_MAX: usize = 10 << 20;
/// Events that wait for a client before its answer stands still.
const N_AHEAD: usize = 64;

const PAGE: &str = include_str!("page.html");

pub(super) fn router(server: Server, peer: IpAddr) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/health", get(health))
        .route("/v1/health", get(health))
        .route("/v1/models", get(models))
        .route("/v1/models/{name}", get(one_model))
        .route("/models", get(models))
        .route("/metrics", get(metrics))
        .route("/v1/steering", get(steering))
        .route("/v1/steering/{id}", post(steer))
        .route("/v1/chat/completions", post(chat))
        .route("/chat/completions", post(chat))
        .route("/v1/completions", post(completions))
        .route("/completions", post(completions))
        .route("/tokenize", post(tokenize))
        .route("/detokenize", post(detokenize))
        .fallback(|uri: Uri| async move {
            Refusal::absent(format!("there is nothing at {}", shown(uri.path())))
        })
        .method_not_allowed_fallback(|| async { Refusal::method() })
        .layer(from_fn_with_state(server.clone(), guard))
        .layer(Extension(peer))
        .with_state(server)
}

impl Server {
    fn app(&self) -> Result<Arc<App>, Refusal> {
        self.app.get().cloned().ok_or_else(Refusal::loading)
    }
}

async fn page() -> Response {
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                  connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
                  frame-ancestors 'none'";
    let mut response = Html(PAGE).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

async fn health(State(server): State<Server>) -> Result<Json<Value>, Refusal> {
    server.app()?;
    Ok(Json(json!({ "status": "ok" })))
}

async fn models(State(server): State<Server>) -> Result<Json<Value>, Refusal> {
    Ok(Json(json!({ "object": "list", "data": [about(&*server.app()?)] })))
}

async fn one_model(
    State(server): State<Server>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let app = server.app()?;
    if name == app.name {
        return Ok(Json(about(&app)));
    }
    let name = shown(&name);
    Err(Refusal::absent(format!("there is no model `{name}`; there is: {}", app.name)))
}

fn about(app: &App) -> Value {
    let (geometry, vectors) = (app.model.geometry(), app.vectors());
    json!({
        "id": app.name,
        "object": "model",
        "created": 0,
        "owned_by": "candor",
        "meta": {
            "n_vocab": app.model.n_vocab(),
            "n_ctx": app.n_ctx,
            "n_ctx_train": app.model.n_ctx_train(),
            "n_layer": geometry.n_layer,
            "n_head": geometry.n_head,
            "fingerprint": app.model.fingerprint(),
            "vectors": vectors.names(),
            "steering": vectors.default_text(),
        },
    })
}

async fn steering(State(server): State<Server>) -> Result<Json<Value>, Refusal> {
    Ok(Json(server.app()?.vectors().json()))
}

async fn metrics(State(server): State<Server>) -> Result<Response, Refusal> {
    let app = server.app()?;
    let stats = *app.stats.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let counters = [
        ("requests_total", "Requests for answers.", app.n_request.load(Ordering::Relaxed)),
        (
            "requests_refused_total",
            "Requests refused by a full queue.",
            app.n_refused.load(Ordering::Relaxed),
        ),
        ("prompt_tokens_total", "Prompt tokens computed.", stats.n_prompt),
        ("prompt_tokens_cached_total", "Prompt tokens taken from the cache.", stats.n_cached),
        ("generated_tokens_total", "Tokens written.", stats.n_written),
        ("decodes_total", "Batches computed.", stats.n_decode),
        ("cache_evictions_total", "Sequences forgotten to make room.", stats.n_evicted),
    ];
    let gauges = [
        ("requests_active", "Answers being written.", stats.n_active),
        ("requests_waiting", "Requests that wait for a place.", stats.n_waiting),
        ("vectors", "Vectors that may be asked for.", app.vectors().names().len()),
    ];
    let mut text = String::new();
    let mut add = |kind: &str, name: &str, help: &str, value: String| {
        text += &format!(
            "# HELP candor_{name} {help}\n# TYPE candor_{name} {kind}\ncandor_{name} {value}\n"
        );
    };
    for (name, help, value) in counters {
        add("counter", name, help, value.to_string());
    }
    for (name, help, value) in gauges {
        add("gauge", name, help, value.to_string());
    }
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

/// The body of a request, within its limits.
async fn body(app: &App, request: HttpRequest) -> Result<Body, Refusal> {
    let announced = request.headers().get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|n| n > BODY_MAX) {
        return Err(Refusal::too_large(BODY_MAX));
    }
    let bytes = axum::body::to_bytes(request.into_body(), BODY_MAX);
    let bytes: Bytes = match tokio::time::timeout(app.params.patience, bytes).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(_)) => return Err(Refusal::too_large(BODY_MAX)),
        Err(_) => return Err(Refusal::too_slow()),
    };
    Body::parse(&bytes)
}

async fn chat(
    State(server): State<Server>,
    Extension(peer): Extension<IpAddr>,
    request: HttpRequest,
) -> Result<Response, Refusal> {
    answer(server, peer, request, Form::Chat).await
}

async fn completions(
    State(server): State<Server>,
    Extension(peer): Extension<IpAddr>,
    request: HttpRequest,
) -> Result<Response, Refusal> {
    answer(server, peer, request, Form::Completion).await
}

async fn answer(
    server: Server,
    peer: IpAddr,
    request: HttpRequest,
    form: Form,
) -> Result<Response, Refusal> {
    let app = server.app()?;
    let body = body(&app, request).await?;
    let asked = Arc::new(Asked::parse(form, body, app.model.n_vocab(), &app.vectors())?);
    let n_most = app.params.engine.n_parallel + app.params.n_queue;
    if asked.n > n_most {
        return Err(Refusal::of("n", format!("this server has room for {n_most} answers at once")));
    }
    let mut places = Vec::with_capacity(asked.n);
    for _ in 0..asked.n {
        let place = Arc::clone(&app.places).try_acquire_owned();
        places.push(place.map_err(|_| {
            app.n_refused.fetch_add(1, Ordering::Relaxed);
            Refusal::busy()
        })?);
    }
    app.n_request.fetch_add(1, Ordering::Relaxed);
    // Templates and schemas take their time.
    let (rendered, shared) = (Arc::clone(&asked), Arc::clone(&app));
    let requests = tokio::task::spawn_blocking(move || rendered.requests(&shared, hash(&peer)));
    let requests = requests.await.map_err(|_| Refusal::stopping())??;
    let n_prompt = requests.first().map_or(0, |request| request.prompt.len());
    let (to, events) = mpsc::channel(N_AHEAD.max(4 * asked.n));
    let (first, id) = oneshot::channel();
    let requests = requests.into_iter().zip(places).collect();
    let is_given_up = Arc::<AtomicBool>::default();
    let command = Command::Ask { requests, to, is_given_up: Arc::clone(&is_given_up), first };
    app.commands.send(command).map_err(|_| Refusal::stopping())?;
    let id = id.await.map_err(|_| Refusal::stopping())??;
    let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let asked_for = Arc::clone(&asked);
    reply(&asked, Reply { app, asked: asked_for, id, created, n_prompt, is_given_up }, events).await
}

/// Another steering for an answer that is being written, from its next token on.
async fn steer(
    State(server): State<Server>,
    Path(name): Path<String>,
    request: HttpRequest,
) -> Result<Json<Value>, Refusal> {
    let app = server.app()?;
    let id = app.id_of(&name).ok_or_else(|| Refusal::absent("there is no such answer"))?;
    let mut body = body(&app, request).await?;
    let steered = {
        let steering = body.take("steering");
        body.finish()?;
        app.vectors().steered(steering.as_ref())?
    };
    let (done, answer) = oneshot::channel();
    let command = Command::Steer { id, steer: steered.steer, done };
    app.commands.send(command).map_err(|_| Refusal::stopping())?;
    let done = answer.await.map_err(|_| Refusal::stopping())?;
    done.map_err(|error| Refusal::absent(error.to_string()))?;
    Ok(Json(json!({ "id": name, "steered": true })))
}

async fn tokenize(
    State(server): State<Server>,
    request: HttpRequest,
) -> Result<Json<Value>, Refusal> {
    let app = server.app()?;
    let mut body = body(&app, request).await?;
    let content = body.text("content")?.ok_or_else(|| Refusal::of("content", "expected a text"))?;
    let special = body.flag("add_special")?;
    let parse = body.take("parse_special").is_none_or(|value| value == true);
    let pieces = body.flag("with_pieces")?;
    body.finish()?;
    let special = match (special, parse) {
        (true, true) => Special::StartAndParse,
        (true, false) => Special::Start,
        (false, true) => Special::Parse,
        (false, false) => Special::None,
    };
    let tokens = app.model.tokenize(&content, special)?;
    let text = |token: i32| String::from_utf8(app.model.piece(token));
    let tokens: Vec<Value> = tokens
        .into_iter()
        .map(|token| match (pieces, text(token)) {
            (false, _) => json!(token),
            (true, Ok(piece)) => json!({ "id": token, "piece": piece }),
            (true, Err(error)) => json!({ "id": token, "piece": error.into_bytes() }),
        })
        .collect();
    Ok(Json(json!({ "tokens": tokens })))
}

async fn detokenize(
    State(server): State<Server>,
    request: HttpRequest,
) -> Result<Json<Value>, Refusal> {
    let app = server.app()?;
    let mut body = body(&app, request).await?;
    let expected = || Refusal::of("tokens", "expected a list of whole numbers");
    let Some(Value::Array(tokens)) = body.take("tokens") else { return Err(expected()) };
    body.finish()?;
    let mut bytes = Vec::new();
    let n_vocab = app.model.n_vocab();
    for token in tokens {
        let is_whole = token.is_i64() || token.is_u64();
        let found = token.as_u64().filter(|&token| token < n_vocab as u64);
        match found.and_then(|token| i32::try_from(token).ok()) {
            Some(token) => bytes.extend(app.model.piece(token)),
            None if is_whole => {
                let problem =
                    format!("there is no token {token}: the model has {n_vocab}, from 0 on");
                return Err(Refusal::of("tokens", problem));
            }
            None => return Err(expected()),
        }
    }
    Ok(Json(json!({ "content": String::from_utf8_lossy(&bytes) })))
}
