//! One question to an address that speaks OpenAI's chat completions, asked again where that may
//! help.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};
use ureq::Agent;
use ureq::http::{HeaderMap, StatusCode};

use crate::{Error, Result};

/// A key that no message, report or debug output shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// A key; `None` where it is blank.
    #[must_use]
    pub fn new(key: &str) -> Option<Self> {
        let key = key.trim();
        (!key.is_empty()).then(|| Self(key.to_owned()))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// Where to ask, and how patiently.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointParams {
    /// What `/chat/completions` follows, such as `http://localhost:8080/v1`.
    pub address: String,
    /// The model to ask for.
    pub model: String,
    /// What lets one in.
    pub key: Option<Key>,
    /// Time for one request, its answer included.
    pub timeout: Duration,
    /// How often a request that failed is sent again, where that may help.
    pub n_retry: u32,
    /// Time before that, doubled each time.
    pub pause: Duration,
    /// Requests under way at once.
    pub n_parallel: usize,
}

setters! {
    EndpointParams {
        with_address(address: String),
        with_model(model: String),
        with_key(key: Option<Key>),
        with_timeout(timeout: Duration),
        with_n_retry(n_retry: u32),
        with_pause(pause: Duration),
        with_n_parallel(n_parallel: usize),
    }
}

impl EndpointParams {
    /// An address asked as patiently as usual: a minute for an answer, three more tries after 1, 2
    /// and 4 seconds, four requests at once.
    #[must_use]
    pub fn new(address: &str, model: &str, key: Option<Key>) -> Self {
        Self {
            address: address.to_owned(),
            model: model.to_owned(),
            key,
            timeout: Duration::from_secs(60),
            n_retry: 3,
            pause: Duration::from_secs(1),
            n_parallel: 4,
        }
    }

    /// Whether a key would go over a network unencrypted.
    #[must_use]
    pub fn exposes_key(&self) -> bool {
        let host = self.address.strip_prefix("http://").map(host);
        self.key.is_some() && host.is_some_and(|host| !is_loopback(host))
    }
}

/// The host of what follows the scheme.
fn host(rest: &str) -> &str {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

/// Longest answer that is read, in bytes.
const LONGEST: u64 = 1 << 20;
/// Longest pause that a server may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

pub(super) struct Client {
    agent: Agent,
    params: EndpointParams,
    /// The whole address.
    url: String,
    /// The address as people may see it.
    pub(super) shown: String,
}

/// Why a try gave nothing.
enum Failure {
    /// The next one may.
    Passing { problem: String, pause: Option<Duration> },
    /// No other will.
    Lasting(String),
}

impl Client {
    pub(super) fn new(params: EndpointParams) -> Result<Self> {
        let address = params.address.trim();
        let refuse = |problem: &str| {
            // What may be secret in it is not repeated.
            let shown = address.rsplit('@').next().unwrap_or_default();
            let shown = shown.split('?').next().unwrap_or_default().to_owned();
            Err(Error::Judge { judge: shown, problem: problem.to_owned() })
        };
        let rest = ["http://", "https://"].iter().find_map(|scheme| address.strip_prefix(scheme));
        let Some(rest) = rest.filter(|rest| !host(rest).is_empty()) else {
            return refuse(
                "an address begins with http:// or https:// and a host, as in \
                           http://localhost:8080/v1",
            );
        };
        if rest.split(['/', '?', '#']).next().is_some_and(|authority| authority.contains('@')) {
            return refuse(
                "a name or password in an address would end up in reports: put the key \
                           into the environment, as CANDOR_JUDGE_KEY",
            );
        }
        let address = address.split('#').next().unwrap_or_default();
        let (path, query) = match address.split_once('?') {
            Some((path, query)) => (path, format!("?{query}")),
            None => (address, String::new()),
        };
        let shown = path.trim_end_matches('/').trim_end_matches("/chat/completions").to_owned();
        let url = format!("{shown}/chat/completions{query}");
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(params.timeout))
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("candor/", env!("CARGO_PKG_VERSION")));
        if is_loopback(host(rest)) {
            config = config.proxy(None);
        }
        Ok(Self { agent: config.build().new_agent(), params, url, shown })
    }

    pub(super) fn params(&self) -> &EndpointParams {
        &self.params
    }

    /// The error of this endpoint, with nothing secret in it.
    pub(super) fn error(&self, problem: &str) -> Error {
        let judge = format!("{} at {}", self.params.model, self.shown);
        let problem = match &self.params.key {
            Some(Key(key)) => problem.replace(key.as_str(), "…"),
            None => problem.to_owned(),
        };
        Error::Judge { judge, problem }
    }

    /// What the model replies to one message, after a system prompt.
    pub(super) fn ask(&self, system: &str, message: &str) -> Result<String> {
        let body = json!({
            "model": self.params.model,
            "temperature": 0,
            "messages": [
                { "role": "system", "content": system },
                { "role": "user", "content": message },
            ],
        })
        .to_string();
        let mut wait = self.params.pause;
        let mut n_try = 0;
        loop {
            n_try += 1;
            let (problem, pause) = match self.try_once(&body) {
                Ok(reply) => return Ok(reply),
                Err(Failure::Lasting(problem)) => return Err(self.error(&problem)),
                Err(Failure::Passing { problem, pause }) => (problem, pause),
            };
            if n_try > self.params.n_retry {
                let times = match n_try {
                    1 => String::new(),
                    n => format!(" ({n} tries)"),
                };
                return Err(self.error(&format!("{problem}{times}")));
            }
            std::thread::sleep(pause.unwrap_or(wait).min(LONGEST_PAUSE));
            wait = wait.saturating_mul(2);
        }
    }

    fn try_once(&self, body: &str) -> Result<String, Failure> {
        let mut request = self.agent.post(&self.url).header("content-type", "application/json");
        if let Some(Key(key)) = &self.params.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let mut response = request.send(body).map_err(|error| self.failure(&error))?;
        let status = response.status();
        let pause = retry_after(response.headers());
        let text = response
            .body_mut()
            .with_config()
            .limit(LONGEST)
            .lossy_utf8(true)
            .read_to_string()
            .map_err(|error| self.failure(&error))?;
        if status.is_success() {
            return reply_in(&text).map_err(Failure::Lasting);
        }
        let said = message_in(&text);
        let problem = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let code = status.as_u16();
                // A server may repeat the key in what it says.
                return Err(Failure::Lasting(match self.params.key {
                    Some(_) => {
                        format!("it refuses the key ({code}): check the one in CANDOR_JUDGE_KEY")
                    }
                    None => format!("it asks for a key ({code}): put it into CANDOR_JUDGE_KEY"),
                }));
            }
            StatusCode::NOT_FOUND => {
                return Err(Failure::Lasting(format!(
                    "it does not know this address or model (404{said}): give the address up to \
                     /chat/completions, often ending in /v1"
                )));
            }
            StatusCode::TOO_MANY_REQUESTS => format!("it is overloaded (429{said})"),
            StatusCode::REQUEST_TIMEOUT => format!("it gave up waiting (408{said})"),
            _ if status.is_server_error() => format!("it fails ({}{said})", status.as_u16()),
            _ if status.is_redirection() => {
                let code = status.as_u16();
                let problem = format!("it has moved ({code}): give the address that it moved to");
                return Err(Failure::Lasting(problem));
            }
            _ => {
                let problem = format!("it does not take the request ({}{said})", status.as_u16());
                return Err(Failure::Lasting(problem));
            }
        };
        Err(Failure::Passing { problem, pause })
    }

    fn failure(&self, error: &ureq::Error) -> Failure {
        let passing = |problem: String| Failure::Passing { problem, pause: None };
        match error {
            ureq::Error::Timeout(_) => passing(format!(
                "no answer within {} s: see whether it is at work, or give it more by \
                 --judge-timeout",
                self.params.timeout.as_secs_f32()
            )),
            ureq::Error::HostNotFound => passing("there is no such host".to_owned()),
            ureq::Error::Io(error) => passing(format!(
                "cannot be reached ({error}): see whether it runs, and at this address"
            )),
            ureq::Error::ConnectionFailed => {
                passing("cannot be reached: see whether it runs, and at this address".to_owned())
            }
            ureq::Error::BodyExceedsLimit(_) => {
                Failure::Lasting("its answer is longer than a judgement can be".to_owned())
            }
            error => Failure::Lasting(format!("cannot be asked: {error}")),
        }
    }
}

/// How long a server asks to wait, in whole seconds.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get("retry-after")?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// `choices[0].message.content` of a chat completion.
fn reply_in(text: &str) -> Result<String, String> {
    let value: Option<Value> = serde_json::from_str(text).ok();
    let message = value.as_ref().and_then(|value| value.pointer("/choices/0/message"));
    match message {
        Some(message) => Ok(message["content"].as_str().unwrap_or_default().to_owned()),
        None => Err(format!(
            "what it sends is not a chat completion (`{}`): give the address up to /chat/completions, \
             often ending in /v1",
            excerpt(text)
        )),
    }
}

/// What a server says of an error, to follow its code.
fn message_in(text: &str) -> String {
    let value: Option<Value> = serde_json::from_str(text).ok();
    let message = value.as_ref().and_then(|value| {
        let message = value.pointer("/error/message").or_else(|| value.get("message"));
        message.or_else(|| value.get("error")).and_then(Value::as_str)
    });
    match excerpt(message.unwrap_or(text)) {
        said if said.is_empty() => said,
        said => format!(": {said}"),
    }
}

/// The start of a text from outside, on one line and harmless to a terminal.
pub(super) fn excerpt(text: &str) -> String {
    const N: usize = 120;
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let words = plain.split_whitespace().collect::<Vec<_>>().join(" ");
    match words.char_indices().nth(N) {
        Some((at, _)) => format!("{}…", &words[..at]),
        None => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(address: &str) -> EndpointParams {
        EndpointParams::new(address, "m", Key::new(" secret "))
    }

    #[test]
    fn finds_the_address_of_completions() {
        for (address, url, shown) in [
            ("http://a:1/v1", "http://a:1/v1/chat/completions", "http://a:1/v1"),
            ("http://a/v1/", "http://a/v1/chat/completions", "http://a/v1"),
            ("https://a/chat/completions", "https://a/chat/completions", "https://a"),
            ("https://a/v1?api-key=x#y", "https://a/v1/chat/completions?api-key=x", "https://a/v1"),
        ] {
            let Ok(client) = Client::new(params(address)) else { panic!("a sound address") };
            assert_eq!((client.url.as_str(), client.shown.as_str()), (url, shown));
        }
    }

    #[test]
    fn refuses_addresses_that_are_none_or_hold_a_password() {
        for address in ["", "localhost:8080", "ftp://a", "http://", "https:///v1"] {
            let error = Client::new(params(address)).err().expect("refused").to_string();
            assert!(error.contains("begins with http://"), "{error}");
        }
        let error = Client::new(params("https://me:pass@a/v1?k=v")).err().expect("refused");
        let error = error.to_string();
        assert!(error.contains("CANDOR_JUDGE_KEY"), "{error}");
        assert!(
            !error.contains("pass@") && !error.contains("me:") && !error.contains("k=v"),
            "{error}"
        );
    }

    #[test]
    fn a_key_is_never_shown() {
        let params = params("http://127.0.0.1/v1");
        assert!(!format!("{params:?}").contains("secret"));
        let Ok(client) = Client::new(params) else { panic!("a sound address") };
        let error = client.error("bad key: secret!").to_string();
        assert_eq!(error, "judge m at http://127.0.0.1/v1: bad key: …!");
        assert_eq!(Key::new(" \n"), None);
    }

    #[test]
    fn knows_where_a_key_would_be_seen() {
        let is_exposed = |address: &str| params(address).exposes_key();
        assert!(is_exposed("http://example.org/v1") && is_exposed("http://10.0.0.1:80"));
        assert!(!is_exposed("https://example.org/v1") && !is_exposed("http://localhost:8080/v1"));
        assert!(!is_exposed("http://127.0.0.1:1") && !is_exposed("http://[::1]:8080/v1"));
        assert!(!EndpointParams::new("http://example.org", "m", None).exposes_key());
    }

    #[test]
    fn reads_replies_and_complaints() {
        let reply = r#"{"choices": [{"message": {"role": "assistant", "content": "Yes."}}]}"#;
        assert_eq!(reply_in(reply).unwrap(), "Yes.");
        assert_eq!(reply_in(r#"{"choices": [{"message": {"content": null}}]}"#).unwrap(), "");
        let page = "<html>\u{1b}[31mhello";
        assert!(reply_in(page).unwrap_err().contains("(`<html> [31mhello`)"));
        assert!(reply_in("{\"choices\": []}").is_err());
        assert_eq!(message_in(r#"{"error": {"message": "slow\ndown"}}"#), ": slow down");
        assert_eq!(message_in(r#"{"error": "no"}"#), ": no");
        assert_eq!((message_in(""), message_in("oh")), (String::new(), ": oh".to_owned()));
        assert_eq!(excerpt(&"é".repeat(200)).chars().count(), 121);
    }
}
