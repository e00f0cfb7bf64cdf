//! A small HTTP server on this machine, for what asks addresses.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

/// What came in.
#[derive(Debug, Clone)]
pub struct Request {
    pub path: String,
    /// The value of `Authorization`.
    pub authorization: Option<String>,
    pub body: Value,
}

impl Request {
    /// The last message of a chat.
    pub fn message(&self) -> &str {
        let messages = self.body["messages"].as_array().and_then(|messages| messages.last());
        messages.and_then(|message| message["content"].as_str()).unwrap_or_default()
    }
}

/// What goes out.
pub enum Reply {
    /// A chat completion with this content.
    Says(&'static str),
    /// A status, a header line or nothing, a body.
    Status(u16, &'static str, String),
    /// Nothing, as long as the test runs.
    Silence,
}

/// A server that ends with the test.
pub struct Server {
    /// `http://127.0.0.1:<port>/v1`
    pub address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Answers the n-th request, counted from 0, as `answer` says.
    pub fn start(answer: impl Fn(usize, &Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = format!("http://{}/v1", listener.local_addr().expect("an address"));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (all, answer) = (Arc::clone(&requests), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (all, answer) = (Arc::clone(&all), Arc::clone(&answer));
                thread::spawn(move || {
                    // A client that goes away ends its own test.
                    let _ = serve(stream, &all, &*answer);
                });
            }
        });
        Self { address, requests }
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("no panic while it was held").clone()
    }
}

fn serve(
    mut stream: TcpStream,
    all: &Mutex<Vec<Request>>,
    answer: &dyn Fn(usize, &Request) -> Reply,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let (mut length, mut authorization) = (0, None);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap_or(0),
            "authorization" => authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let request = Request { path, authorization, body };
    let n = {
        let mut all = all.lock().expect("no panic while it was held");
        all.push(request.clone());
        all.len() - 1
    };
    let (status, header, body) = match answer(n, &request) {
        Reply::Says(content) => {
            let message = json!({ "role": "assistant", "content": content });
            (200, "", json!({ "choices": [{ "message": message }] }).to_string())
        }
        Reply::Status(status, header, body) => (status, header, body),
        Reply::Silence => {
            thread::sleep(Duration::from_secs(600));
            return Ok(());
        }
    };
    let header = if header.is_empty() { String::new() } else { format!("{header}\r\n") };
    write!(
        stream,
        "HTTP/1.1 {status} Status\r\n{header}content-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}
