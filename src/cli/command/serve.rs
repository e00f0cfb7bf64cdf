//! `candor serve`: the model for other programs.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::cli::args::model::ModelArgs;
use crate::cli::args::parts::Part;
use crate::cli::args::steer::built_in_vector;
use crate::cli::args::values::positive;
use crate::cli::show::document::usage;
use crate::cli::show::output::Output;
use crate::cli::show::table::printable_line;
use crate::cli::show::words::with_options;
use crate::engine::EngineParams;
use crate::serve::{Notice, ServeParams, serve};
use crate::{Error, Model, Result, SessionParams};

/// Serve the model over an OpenAI-compatible HTTP API, each request with its own vector and
/// strength.
///
/// A request can say `"steering": "truth*0.5 + calm"`, or `false` for none; without it, --steer
/// applies. Sidecars in --vectors can be requested by name and are reloaded when they change. Open
/// the address in a browser to try it. Ctrl-C finishes the current answers first; a second Ctrl-C
/// stops at once.
#[derive(Debug, Args)]
pub(in crate::cli) struct ServeArgs {
    #[command(flatten)]
    model: ModelArgs,

    /// Default steering for requests that do not say: `auto` takes the sidecar beside the model (for
    /// the built-in model without one, the built-in vector), `none` steers nothing; several sidecars
    /// add up, each times an optional factor.
    #[arg(long, value_name = "FILE", default_value = "auto")]
    steer: Vec<Part>,

    /// A folder of sidecars that requests can name.
    #[arg(long, value_name = "DIR")]
    vectors: Option<PathBuf>,

    /// Address to listen on.
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    host: String,

    /// Port to listen on; 0 picks a free one.
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    port: u16,

    /// A file whose first line is the key that every request must send.
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,

    /// Allow listening on an address that other machines can reach without a key.
    #[arg(long)]
    insecure: bool,

    /// Without a key, also accept requests addressed to this host name (besides localhost and IP
    /// addresses); may be repeated.
    #[arg(long, value_name = "NAME")]
    allow_host: Vec<String>,

    /// Number of answers written at the same time, each with an equal part of the context [default:
    /// 4; with -c alone they share it].
    #[arg(long, visible_alias = "np", value_name = "N", value_parser = positive)]
    parallel: Option<usize>,

    /// Share one KV cache among all answers: one conversation may then fill the context.
    #[arg(long, visible_alias = "kvu", conflicts_with = "no_kv_unified")]
    kv_unified: bool,

    /// Give each answer an equal part of the context, also with -c alone.
    #[arg(long, visible_alias = "no-kvu")]
    no_kv_unified: bool,

    /// Number of requests that may wait in line; further ones get status 429.
    #[arg(long, value_name = "N", default_value_t = 64)]
    queue: usize,

    /// Time limit of a request in seconds; 0 for none.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout: u64,
}

/// The longest that answers which are being written should wait while prompts are read, if a decode of
/// prompts can be that short.
const PATIENCE: Duration = Duration::from_millis(250);

/// What `--json` prints, once the server answers.
#[derive(Debug, schemars::JsonSchema, Serialize)]
pub(in crate::cli) struct Report {
    listen: String,
    vectors: Vec<String>,
}

impl ServeArgs {
    pub(in crate::cli) fn run(&self, output: Output) -> Result<()> {
        let address = self.address()?;
        let key = self.key()?;
        if !address.ip().is_loopback() && key.is_none() && !self.insecure {
            let problem = "other machines can reach it: give the server a key with \
                           --api-key-file, or pass --insecure";
            return Err(usage(Error::invalid(format!("--host {}", self.host), problem)));
        }
        self.steer.iter().try_for_each(Part::check)?;
        let is = |word: &str| match self.steer.as_slice() {
            [Part { path, factor: None }] => path.as_os_str() == word,
            _ => false,
        };
        let session = self.model.session_of_any();
        // A context that somebody asked for, and nothing of parts, is one that any answer may fill.
        let is_one = self.parallel.is_none() && session.n_ctx > 0 && !self.no_kv_unified;
        let files = self.steer.iter().filter(|_| !is("auto") && !is("none"));
        let built_in = if is("auto") { built_in_vector(&self.model)? } else { None };
        let params = ServeParams {
            address,
            key,
            hosts: self.allow_host.clone(),
            engine: EngineParams::default()
                .with_n_parallel(self.parallel.unwrap_or(4))
                .with_patience(Some(PATIENCE)),
            session: SessionParams { kv_unified: self.kv_unified || is_one, ..session },
            n_queue: self.queue,
            steer_beside: is("auto") && built_in.is_none(),
            steer: files
                .map(|part| (part.path.clone(), part.factor()))
                .chain(built_in.map(|path| (path, 1.0)))
                .collect(),
            vectors: self.vectors.clone(),
            patience: ServeParams::default().patience,
            timeout: (self.timeout > 0).then(|| Duration::from_secs(self.timeout)),
        };
        let (path, model_params) = (self.model.path()?, self.model.params());
        let load = move || {
            let model = Model::load(&path, &model_params)?;
            for warning in model.warnings() {
                output.warn(warning);
            }
            Ok(model)
        };
        let listening = std::sync::Mutex::new(address);
        serve(params, load, move |notice| {
            let mut listening = listening.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            tell(notice, &mut listening, output);
        })
    }

    fn address(&self) -> Result<SocketAddr> {
        let what = || format!("--host {}", self.host);
        if let Ok(ip) = self.host.parse::<IpAddr>() {
            return Ok(SocketAddr::new(ip, self.port));
        }
        let found = (self.host.as_str(), self.port).to_socket_addrs();
        let mut found = found.map_err(|error| Error::invalid(what(), error.to_string()))?;
        found.next().ok_or_else(|| Error::invalid(what(), "it has no address"))
    }

    fn key(&self) -> Result<Option<String>> {
        let Some(path) = &self.api_key_file else { return Ok(None) };
        let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        match text.lines().next().map(str::trim).filter(|key| !key.is_empty()) {
            Some(key) => Ok(Some(key.to_owned())),
            None => {
                let problem = "its first line is empty, but should be the key";
                Err(Error::invalid(path.display().to_string(), problem))
            }
        }
    }
}

fn tell(notice: Notice, listening: &mut SocketAddr, output: Output) {
    let list = |names: &[String]| {
        let names: Vec<String> = names.iter().map(|name| printable_line(name)).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    };
    match notice {
        Notice::Listening(address) => {
            *listening = address;
            output.aside(format_args!(
                "loading the model; http://{address} answers once it is loaded"
            ));
        }
        Notice::Ready(vectors) if output.is_json() => {
            output.json(&Report { listen: listening.to_string(), vectors });
        }
        Notice::Ready(vectors) => {
            output.text(&format!("http://{listening}  vectors: {}\n", list(&vectors)));
        }
        Notice::Changed(vectors) => output.aside(format_args!("vectors: {}", list(&vectors))),
        Notice::Refused(path, problem) => {
            output.warn(format_args!("{} is left out: {}", path.display(), with_options(&problem)));
        }
        Notice::Ending => {
            output.aside("finishing the current answers; Ctrl-C again stops at once");
        }
    }
}
