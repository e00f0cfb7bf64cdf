//! An OpenAI-compatible server in which every request may be steered by a vector and a strength of its
//! own, and all of them share every batch.
//!
//! `POST /v1/chat/completions` and `/v1/completions`, streamed and not; `GET /v1/models`, `/health`,
//! `/metrics`; `GET /v1/steering` and, for an answer that is being written, `POST /v1/steering/ID`;
//! `POST /tokenize` and `/detokenize`; a page at `/`.
//!
//! One thread owns the [`Engine`] (`worker`); requests are read, checked and
//! rendered on tokio's threads (`body`, `ask`, `vectors`, `grammar`), and answered from bounded channels
//! (`answer`). Who may ask at all is decided in `guard`, connections are kept in `net`.

mod answer;
mod ask;
mod body;
mod grammar;
mod guard;
mod net;
mod patience;
mod refusal;
mod rehearse;
mod routes;
mod steering;
mod vectors;
mod watch;
mod worker;

use std::hash::{BuildHasher as _, DefaultHasher, Hash, Hasher as _, RandomState};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, mpsc};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{Semaphore, oneshot};

use self::grammar::{Grammars, Json};
use self::refusal::Refusal;
#[doc(hidden)]
pub use self::rehearse::understands;
use self::vectors::{Vector, Vectors};
use self::worker::Command;
use crate::chat::ChatTemplate;
use crate::engine::{Engine, EngineParams, Id, Stats};
use crate::session::Canceller;
use crate::steer::find_beside;
use crate::{Error, Model, Result, SessionParams};

/// How to serve.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServeParams {
    /// Where to listen.
    pub address: SocketAddr,
    /// What every request but `/health` has to bring; `None`: nothing.
    pub key: Option<String>,
    /// Names besides addresses and `localhost` under which a server without a key is asked.
    pub hosts: Vec<String>,
    /// Answers at once, and how they are batched.
    pub engine: EngineParams,
    /// The session; its sizes are the engine's but `n_ctx`, which all requests share, or of which each
    /// place has a part ([`Engine::new`]). 0 makes room for four times what the model was trained with,
    /// at most 4096, and for 1024 tokens in each separate part.
    pub session: SessionParams,
    /// Requests that may wait for a place.
    pub n_queue: usize,
    /// Sidecars that steer where a request says nothing.
    pub steer: Vec<(PathBuf, f32)>,
    /// Whether the one beside the model does, where there is one and nothing is baked in.
    pub steer_beside: bool,
    /// A folder whose sidecars may be asked for by their files' names without `.gguf`, watched for
    /// changes.
    pub vectors: Option<PathBuf>,
    /// The longest that a request may take.
    pub timeout: Option<Duration>,
    /// How long a client is waited for that sends nothing more of a body or takes nothing of an answer;
    /// headers have half of it.
    pub patience: Duration,
}

setters! {
    ServeParams {
        with_address(address: SocketAddr),
        with_key(key: Option<String>),
        with_hosts(hosts: Vec<String>),
        with_engine(engine: EngineParams),
        with_session(session: SessionParams),
        with_n_queue(n_queue: usize),
        with_steer(steer: Vec<(PathBuf, f32)>),
        with_steer_beside(steer_beside: bool),
        with_vectors(vectors: Option<PathBuf>),
        with_timeout(timeout: Option<Duration>),
        with_patience(patience: Duration),
    }
}

impl Default for ServeParams {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 8080)),
            key: None,
            hosts: Vec::new(),
            engine: EngineParams::default(),
            session: SessionParams::default(),
            n_queue: 64,
            steer: Vec::new(),
            steer_beside: false,
            vectors: None,
            timeout: Some(Duration::from_secs(600)),
            patience: Duration::from_secs(30),
        }
    }
}

/// What a server says of itself while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// It listens; the model is still being loaded.
    Listening(SocketAddr),
    /// It answers. The names of its vectors.
    Ready(Vec<String>),
    /// A file of the folder of vectors is not taken up, and why.
    Refused(PathBuf, String),
    /// The vectors changed: the names that there are now.
    Changed(Vec<String>),
    /// It was told to end, and waits for answers that are being written.
    Ending,
}

/// The thread that owns the engine.
struct Worker {
    thread: std::thread::JoinHandle<()>,
    /// Says when it is over.
    ended: oneshot::Receiver<()>,
}

/// Everything that requests need once the model is there.
struct App {
    model: Model,
    template: ChatTemplate,
    name: String,
    params: ServeParams,
    n_ctx: usize,
    /// Bytes of the longest token's text.
    longest: usize,
    commands: mpsc::Sender<Command>,
    /// Places at work and in the queue.
    places: Arc<Semaphore>,
    vectors: RwLock<Vectors>,
    stats: Arc<Mutex<Stats>>,
    n_request: AtomicU64,
    n_refused: AtomicU64,
    seed: AtomicU32,
    /// Ends the decode that runs.
    canceller: Canceller,
    /// What makes the names of answers such that nobody guesses another's.
    tags: RandomState,
    grammars: OnceLock<Result<Grammars, Refusal>>,
    watched: Mutex<watch::Watched>,
}

impl App {
    fn vectors(&self) -> RwLockReadGuard<'_, Vectors> {
        self.vectors.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the name of an answer ends in, so that nobody guesses another's and steers it.
    fn tag(&self, id: Id) -> u64 {
        self.tags.hash_one(id)
    }

    /// The answer that a name is given to.
    fn id_of(&self, name: &str) -> Option<Id> {
        let mut parts = name.rsplit('-').map(|part| u64::from_str_radix(part, 16).ok());
        let (tag, id) = (parts.next()??, parts.next()??);
        (self.tag(id) == tag).then_some(id)
    }

    /// A seed for a request that gives none.
    fn draw(&self) -> u32 {
        self.seed.fetch_add(0x9e37_79b9, Ordering::Relaxed)
    }

    fn constraint(&self, schema: &Value) -> Result<Json, Refusal> {
        let grammars = self.grammars.get_or_init(|| Grammars::new(&self.model));
        grammars.as_ref().map_err(Clone::clone)?.constraint(schema)
    }

    /// Reads a sidecar and has the engine prove that it can be loaded.
    fn read(&self, path: &std::path::Path) -> Result<Vector> {
        let vector = Vector::read(path, &self.model)?;
        if let Some(steer) = vector.steer()? {
            let (done, proof) = mpsc::channel();
            let ending = |()| Error::invalid("server", "it is ending");
            self.commands.send(Command::Try { steer, done }).map_err(|_| ending(()))?;
            proof.recv().map_err(|_| ending(()))??;
        }
        Ok(vector)
    }
}

/// Bytes of the longest text of a token. Control tokens, which have none, are written out in templates.
fn longest(model: &Model) -> usize {
    let n_vocab = i32::try_from(model.n_vocab()).unwrap_or(i32::MAX);
    (0..n_vocab).map(|token| model.piece(token).len()).max().unwrap_or(0).max(64)
}

/// What tells clients apart.
fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Serves until Ctrl-C or SIGTERM: one lets answers end, a second one ends at once. `load` is called on
/// a thread of its own, while requests are told that the model is being loaded.
///
/// # Errors
/// [`Error::Io`] for an address that cannot be listened on, [`Error::Invalid`] for one that is not
/// this machine's own while there is no key, and what `load` and [`Engine::new`] give.
pub fn serve(
    params: ServeParams,
    load: impl FnOnce() -> Result<Model> + Send + 'static,
    notify: impl Fn(Notice) + Send + Sync + 'static,
) -> Result<()> {
    let failed = Error::io("serve at", params.address.to_string());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("candor-http")
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return Err(failed(error)),
    };
    let result = runtime.block_on(net::run(params, load, Arc::new(notify)));
    // Who is still connected after the end has had its time.
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

/// Loads the model, makes the engine, reads the vectors and starts the thread that works.
fn start(
    params: ServeParams,
    load: impl FnOnce() -> Result<Model>,
    notify: &dyn Fn(Notice),
) -> Result<(Arc<App>, Worker)> {
    let model = load()?;
    let mut session = params.session.clone();
    if session.n_ctx == 0 {
        let (n_each, n_place) = (model.n_ctx_train().min(4096), params.engine.n_parallel);
        session.n_ctx = n_each.saturating_mul(n_place.clamp(1, 4));
        if !session.kv_unified {
            session.n_ctx = session.n_ctx.max(n_each.min(1024).saturating_mul(n_place));
        }
    }
    let mut engine = Engine::new(&model, session, params.engine.clone())?;
    let stats = Arc::new(Mutex::new(engine.stats()));
    let (commands, inbox) = mpsc::channel();
    let name = model.name().map_or_else(|| crate::file::stem(model.path()), str::to_owned);
    let n_place = params.engine.n_parallel + params.n_queue;
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let app = Arc::new(App {
        template: ChatTemplate::of(&model),
        name,
        n_ctx: engine.n_ctx(),
        longest: longest(&model),
        canceller: engine.canceller(),
        tags: RandomState::new(),
        commands,
        places: Arc::new(Semaphore::new(n_place)),
        vectors: RwLock::default(),
        stats: Arc::clone(&stats),
        n_request: AtomicU64::new(0),
        n_refused: AtomicU64::new(0),
        seed: AtomicU32::new(seed.map_or(0, |time| hash(&time.as_nanos()) as u32)),
        grammars: OnceLock::new(),
        watched: Mutex::default(),
        model,
        params,
    });
    let work = std::thread::Builder::new().name("candor-engine".to_owned());
    let (at_end, ended) = oneshot::channel();
    let patience = app.params.patience;
    let thread = work
        .spawn(move || {
            // Dropped at its end, also where that is a panic.
            let _at_end: oneshot::Sender<()> = at_end;
            worker::work(engine, &inbox, &stats, patience);
        })
        .map_err(Error::io("start", "a thread"))?;
    let mut vectors = Vectors::default();
    for (path, factor) in &app.params.steer {
        vectors.add_default(app.read(path)?, *factor)?;
    }
    if app.params.steer_beside && app.model.baked().is_none() {
        let found = find_beside(app.model.path(), app.model.fingerprint())?;
        if let Some((path, _)) = found {
            vectors.add_default(app.read(&path)?, 1.0)?;
        }
    }
    *app.vectors.write().unwrap_or_else(PoisonError::into_inner) = vectors;
    // What is there at first is no change.
    watch::look(&app, &|notice| match notice {
        Notice::Changed(_) => {}
        other => notify(other),
    });
    Ok((app, Worker { thread, ended }))
}
