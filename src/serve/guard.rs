//! Who may ask.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::net::Server;
use super::refusal::Refusal;

/// What a request is checked by.
pub(super) struct Guard {
    /// A hash of the key, so that keys of all lengths are compared in the same time.
    key: Option<[u8; 32]>,
    hosts: Vec<String>,
}

impl Guard {
    pub(super) fn new(key: Option<&str>, hosts: &[String]) -> Self {
        let hosts = hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
        Self { key: key.map(|key| Sha256::digest(key).into()), hosts }
    }

    fn check(&self, headers: &HeaderMap, uri: &Uri) -> Result<(), Refusal> {
        // The page holds no secret, and asks for the key itself.
        if uri.path() == "/health" {
            return Ok(());
        }
        if let Some(key) = &self.key {
            let is_page = uri.path() == "/";
            let given = given(headers).map(|given| <[u8; 32]>::from(Sha256::digest(given)));
            let is_right = given.is_some_and(|given| bool::from(given.ct_eq(key)));
            return if is_right || is_page { Ok(()) } else { Err(Refusal::key()) };
        }
        self.check_names(headers, uri)
    }

    /// Without a key, whoever runs in a browser on this machine could ask: a page of another origin, or
    /// one whose name was made to lead here.
    fn check_names(&self, headers: &HeaderMap, uri: &Uri) -> Result<(), Refusal> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let host = text(header::HOST).or_else(|| uri.authority().map(|it| it.as_str()));
        let Some(host) = host else { return Err(Refusal::body("there is no Host header")) };
        if !self.is_here(host) {
            let host = crate::error::shown(host);
            let problem = format!(
                "this server is not called `{host}`: ask for localhost or an address, start it with \
                 --allow-host, or give it a key"
            );
            return Err(Refusal::forbidden(problem));
        }
        let origin = text(header::ORIGIN);
        let is_own = |origin: &str| origin.split_once("://").is_some_and(|(_, name)| name == host);
        match origin {
            Some(origin) if !is_own(origin) => {
                Err(Refusal::forbidden("requests from pages of other origins are refused"))
            }
            _ => Ok(()),
        }
    }

    fn is_here(&self, host: &str) -> bool {
        let name = match host.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => host.split(':').next().unwrap_or_default(),
        };
        let name = name.to_ascii_lowercase();
        name == "localhost" || name.parse::<IpAddr>().is_ok() || self.hosts.contains(&name)
    }
}

/// The key of a request.
fn given(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| {
        let value = value.as_bytes();
        let (scheme, key) = value.split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then_some(key)
    });
    bearer.or_else(|| headers.get("x-api-key").map(|value| value.as_bytes()))
}

/// Lets through what may pass.
pub(super) async fn guard(State(server): State<Server>, request: Request, next: Next) -> Response {
    match server.guard.check(request.headers(), request.uri()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;

    use super::*;

    fn check(guard: &Guard, path: &str, headers: &[(&'static str, &str)]) -> Option<StatusCode> {
        let headers = headers
            .iter()
            .map(|(name, value)| (header::HeaderName::from_static(name), value.parse().unwrap()))
            .collect();
        guard.check(&headers, &path.parse().unwrap()).err().map(|refusal| refusal.status)
    }

    #[test]
    fn only_names_of_this_machine_are_asked_without_a_key() {
        let guard = Guard::new(None, &["Box.example".to_owned()]);
        for host in ["localhost:8080", "127.0.0.1", "[::1]:80", "192.168.0.7:1", "box.example:80"] {
            assert_eq!(check(&guard, "/v1/models", &[("host", host)]), None, "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", ""] {
            let status = check(&guard, "/v1/models", &[("host", host)]);
            assert_eq!(status, Some(StatusCode::FORBIDDEN), "{host}");
        }
        assert_eq!(check(&guard, "/v1/models", &[]), Some(StatusCode::BAD_REQUEST));
        assert_eq!(check(&guard, "/health", &[("host", "evil.example")]), None);
    }

    #[test]
    fn pages_of_other_origins_may_not_ask() {
        let guard = Guard::new(None, &[]);
        let from =
            |origin| check(&guard, "/tokenize", &[("host", "localhost:1"), ("origin", origin)]);
        assert_eq!(from("http://localhost:1"), None);
        for origin in ["http://evil.example", "null", "http://localhost:2"] {
            assert_eq!(from(origin), Some(StatusCode::FORBIDDEN), "{origin}");
        }
    }

    #[test]
    fn a_key_is_asked_for_everywhere_but_where_nothing_is_told() {
        let guard = Guard::new(Some("secret"), &[]);
        let with = |name, value| check(&guard, "/metrics", &[(name, value)]);
        assert_eq!(with("authorization", "Bearer secret"), None);
        assert_eq!(with("authorization", "bearer secret"), None);
        assert_eq!(with("x-api-key", "secret"), None);
        for value in ["Bearer secre", "Bearer secrets", "secret", "Bearer ", "Basic secret"] {
            assert_eq!(with("authorization", value), Some(StatusCode::UNAUTHORIZED), "{value}");
        }
        assert_eq!(check(&guard, "/", &[]), None);
        assert_eq!(check(&guard, "/health", &[]), None);
        assert_eq!(check(&guard, "/v1/models", &[]), Some(StatusCode::UNAUTHORIZED));
    }
}
