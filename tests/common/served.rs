//! A server of candor's own, and a plain client.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// `candor serve`, killed at the end of the test.
pub struct Served {
    /// `None`: it runs within the test.
    child: Option<Child>,
    /// `host:port`
    pub address: String,
    pub vectors: Vec<String>,
}

/// A reply: its status, its headers in lower case, its body.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The message of an error, whose form is checked.
    pub fn error(&self) -> String {
        let error = &self.json()["error"];
        assert!(error["type"].is_string() && !error["code"].is_null(), "{self:?}");
        error["message"].as_str().expect("a message").to_owned()
    }

    /// The events of a stream, without the last, `[DONE]`.
    pub fn events(&self) -> Vec<Value> {
        let events = self.body.split("\n\n").filter_map(|event| event.strip_prefix("data: "));
        let mut events: Vec<&str> = events.collect();
        assert_eq!(events.pop(), Some("[DONE]"), "{self:?}");
        events.into_iter().map(|event| serde_json::from_str(event).unwrap()).collect()
    }
}

impl Served {
    /// Starts on a free port and waits until the model is there.
    pub fn start(cache: &Path, arguments: &[&str]) -> Self {
        let mut child = Command::new(assert_cmd::cargo::cargo_bin!("candor"))
            .args(["serve", "--json", "--port", "0", "-t", "1"])
            .args(arguments)
            .env("CANDOR_CACHE", cache)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        let mut document = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        while serde_json::from_str::<Value>(&document).is_err() {
            let n = stdout.read_line(&mut document).expect("the program writes UTF-8");
            assert!(n > 0, "the server ended: {document}");
        }
        let report: Value = serde_json::from_str(&document).expect("whole");
        let address = report["listen"].as_str().expect("an address").to_owned();
        let names = report["vectors"].as_array().expect("a list").iter();
        let vectors = names.map(|name| name.as_str().expect("a name").to_owned()).collect();
        let server = Self { child: Some(child), address, vectors };
        server.wait_until_loaded();
        server
    }

    /// A server that runs within the test, at this address.
    pub fn at(address: String) -> Self {
        let server = Self { child: None, address, vectors: Vec::new() };
        server.wait_until_loaded();
        server
    }

    fn wait_until_loaded(&self) {
        // It listens before the model is loaded, and says so until then.
        let start = Instant::now();
        while self.get("/health").status != 200 {
            assert!(start.elapsed() < Duration::from_secs(120), "the model is never loaded");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends these bytes and reads until the server closes.
    pub fn raw(&self, request: &[u8]) -> Reply {
        let mut stream = TcpStream::connect(&self.address).expect("the server listens");
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        // A server that refuses early may close before all was sent.
        let _ = stream.write_all(request);
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        parse(&bytes)
    }

    pub fn get(&self, path: &str) -> Reply {
        let address = &self.address;
        self.raw(
            format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")
                .as_bytes(),
        )
    }

    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.raw(&post(&self.address, path, body.to_string().as_bytes(), ""))
    }

    pub fn id(&self) -> u32 {
        self.child.as_ref().expect("it was started here").id()
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        let child = self.child.as_mut().expect("it was started here");
        child.try_wait().expect("a child").is_none()
    }

    /// Waits for the end; gives whether it was a success.
    pub fn wait(&mut self) -> bool {
        self.child.as_mut().expect("it was started here").wait().expect("a child").success()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A request's bytes; `headers` end in CRLF each.
pub fn post(address: &str, path: &str, body: &[u8], headers: &str) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: \
         application/json\r\n{headers}content-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn parse(bytes: &[u8]) -> Reply {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let head = head.to_ascii_lowercase();
    let body =
        if head.contains("transfer-encoding: chunked") { unchunk(body) } else { body.to_owned() };
    Reply { status, head, body }
}

fn unchunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let Ok(size) = usize::from_str_radix(size, 16) else { break };
        let Some(chunk) = rest.get(..size).filter(|_| size > 0) else { break };
        whole.push_str(chunk);
        body = rest.get(size + 2..).unwrap_or_default();
    }
    whole
}
