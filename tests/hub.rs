//! Models and data by name, from a server on this machine that stands for the hub.
#![cfg(feature = "cli")]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use assert_cmd::Command;
use candor::gguf::Gguf;
use common::program::candor;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const FILE: &str = "tiny-Q4_K_M.gguf";

/// How the server behaves.
#[derive(Clone)]
enum Mood {
    Sound,
    /// Ends every answer at this byte of the file.
    CutAt(usize),
    /// Other bytes than it promises.
    Lying,
    Status(u16),
    /// Claims a file of this size.
    Huge(u64),
}

struct Hub {
    address: String,
    mood: Arc<Mutex<Mood>>,
    /// Request lines with their range and token.
    requests: Arc<Mutex<Vec<String>>>,
}

fn content() -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo.gguf")).expect("a model")
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Hub {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let mood = Arc::new(Mutex::new(Mood::Sound));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (its_mood, its_requests) = (Arc::clone(&mood), Arc::clone(&requests));
        std::thread::spawn(move || {
            let content = content();
            for stream in listener.incoming().flatten() {
                let mood = its_mood.lock().expect("no panic").clone();
                // A client that goes away ends its own test.
                let _ = serve(stream, &mood, &content, &its_requests);
            }
        });
        Self { address, mood, requests }
    }

    fn is(&self, mood: Mood) {
        *self.mood.lock().expect("no panic") = mood;
        self.requests.lock().expect("no panic").clear();
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("no panic").clone()
    }
}

fn serve(
    stream: TcpStream,
    mood: &Mood,
    content: &[u8],
    requests: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut out = stream;
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let (mut range, mut token) = (String::new(), String::new());
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        let (name, value) = header.trim().split_once(": ").unwrap_or_default();
        match name.to_lowercase().as_str() {
            "range" => range = value.to_owned(),
            "authorization" => token = value.to_owned(),
            _ => {}
        }
    }
    requests.lock().expect("no panic").push(format!("{path} {range} {token}"));
    if let Mood::Status(status) = mood {
        return write!(
            out,
            "HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
    }
    if path.starts_with("/api/models/") {
        let body = format!(r#"{{"sha":"{COMMIT}","siblings":[{{"rfilename":"{FILE}"}}]}}"#);
        let n = body.len();
        return write!(
            out,
            "HTTP/1.1 200 OK\r\nContent-Length: {n}\r\nConnection: close\r\n\r\n{body}"
        );
    }
    let (start, end) = range.trim_start_matches("bytes=").split_once('-').unwrap_or_default();
    let start: usize = start.parse().unwrap_or(0);
    let end = end.parse().map_or(content.len(), |end: usize| (end + 1).min(content.len()));
    let total = if let Mood::Huge(size) = mood { *size } else { content.len() as u64 };
    let mut body = content[start.min(end)..end].to_vec();
    if let Mood::Lying = mood {
        body.iter_mut().for_each(|byte| *byte ^= 1);
    }
    write!(
        out,
        "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {start}-{}/{total}\r\n\
         ETag: \"{}\"\r\nX-Repo-Commit: {COMMIT}\r\nConnection: close\r\n\r\n",
        body.len(),
        end.saturating_sub(1),
        sha256(content),
    )?;
    if let Mood::CutAt(at) = mood {
        body.truncate(at.saturating_sub(start));
    }
    out.write_all(&body)
}

/// A person's machine.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn run(&self, endpoint: &str) -> Command {
        let mut command = candor(self.0.path());
        command
            .args(["run", "-hf", "owner/repo", "-p", "Q:", "-n", "1", "--temp", "0", "-t", "1"])
            .env("HF_HOME", self.0.path().join("hf"))
            .env("HF_ENDPOINT", endpoint)
            .env("CANDOR_STATE", self.0.path().join("state"))
            .env_remove("HF_TOKEN")
            .env_remove("HF_HUB_OFFLINE");
        command
    }

    fn fails(&self, endpoint: &str) -> String {
        let output = self.run(endpoint).assert().code(1).get_output().clone();
        assert!(output.stdout.is_empty());
        String::from_utf8(output.stderr).expect("UTF-8")
    }

    fn works(&self, endpoint: &str) -> String {
        let output = self.run(endpoint).assert().success().get_output().clone();
        String::from_utf8(output.stderr).expect("UTF-8")
    }

    fn repo(&self) -> PathBuf {
        self.0.path().join("hf/hub/models--owner--repo")
    }

    fn whole(&self) -> PathBuf {
        self.repo().join("snapshots").join(COMMIT).join(FILE)
    }
}

#[test]
fn a_model_is_fetched_once_and_found_without_a_network() {
    let (hub, home) = (Hub::start(), Home::new());
    home.works(&hub.address);
    assert_eq!(std::fs::read(home.whole()).unwrap(), content());
    let link = home.0.path().join("state/models/owner--repo").join(FILE);
    assert!(Gguf::open(&link).is_ok(), "vectors lie beside the link");

    hub.is(Mood::Sound);
    home.works(&hub.address);
    assert!(hub.requests().iter().all(|request| request.starts_with("/api/")), "nothing anew");

    // Nobody listens at port 9 of this machine.
    let notes = home.works("http://127.0.0.1:9");
    assert!(notes.contains("cannot be reached") && notes.contains("in the cache"), "{notes}");
    home.run(&hub.address).env("HF_HUB_OFFLINE", "1").assert().success();

    let stranger = Home::new();
    let message = stranger.fails("http://127.0.0.1:9");
    assert!(message.contains("hf:owner/repo") && message.contains("-m FILE.gguf"), "{message}");
}

#[test]
fn what_was_interrupted_is_resumed_and_never_taken_for_whole() {
    let (hub, home) = (Hub::start(), Home::new());
    hub.is(Mood::CutAt(100_000));
    let message = home.fails(&hub.address);
    assert!(message.contains("rerun the same command to resume"), "{message}");
    assert!(!home.whole().exists());

    hub.is(Mood::Sound);
    let notes = home.works(&hub.address);
    assert!(notes.contains("resuming"), "{notes}");
    let resumed = hub.requests().iter().any(|request| request.contains(" bytes=100000- "));
    assert!(resumed, "{:?}", hub.requests());
    assert_eq!(std::fs::read(home.whole()).unwrap(), content());
}

#[test]
fn other_bytes_than_promised_are_removed() {
    let (hub, home) = (Hub::start(), Home::new());
    hub.is(Mood::Lying);
    let message = home.fails(&hub.address);
    assert!(message.contains("arrived damaged and was removed"), "{message}");
    assert!(message.contains(&sha256(&content())), "{message}");
    assert!(!home.whole().exists());
    hub.is(Mood::Sound);
    home.works(&hub.address);

    // The same of a file that some other program left there.
    let home = Home::new();
    let blob = home.repo().join("blobs").join(sha256(&content()));
    std::fs::create_dir_all(blob.parent().unwrap()).unwrap();
    std::fs::create_dir_all(home.whole().parent().unwrap()).unwrap();
    std::fs::write(&blob, &content()[..1000]).unwrap();
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(&blob, home.whole()).unwrap();
        assert!(home.fails(&hub.address).contains("arrived damaged"));
        assert!(!blob.exists() && home.whole().symlink_metadata().is_err());
    }
}

#[test]
fn what_the_hub_refuses_is_said_in_words() {
    let (hub, home) = (Hub::start(), Home::new());
    for (status, expected) in [
        (401, "is private or gated"),
        (403, "HF_TOKEN"),
        (404, "was not found"),
        (500, "answered with status 500"),
    ] {
        hub.is(Mood::Status(status));
        let message = home.fails(&hub.address);
        assert!(message.contains(expected), "{status}: {message}");
        assert!(message.contains("hf:owner/repo"), "{message}");
    }
    hub.is(Mood::Huge(1 << 60));
    let message = home.fails(&hub.address);
    assert!(message.contains("make room") && message.contains("HF_HOME"), "{message}");
    assert!(!home.whole().exists());
}

#[test]
fn a_token_is_taken_from_where_people_keep_it() {
    let (hub, home) = (Hub::start(), Home::new());
    hub.is(Mood::Status(401));
    std::fs::create_dir_all(home.0.path().join("hf")).unwrap();
    std::fs::write(home.0.path().join("hf/token"), "from-file\n").unwrap();
    home.fails(&hub.address);
    assert!(hub.requests()[0].ends_with("Bearer from-file"), "{:?}", hub.requests());
    hub.is(Mood::Status(401));
    home.run(&hub.address).env("HF_TOKEN", "from-env").assert().code(1);
    assert!(hub.requests()[0].ends_with("Bearer from-env"), "{:?}", hub.requests());
}

#[test]
fn a_data_set_that_is_not_the_expected_one_is_refused() {
    let (hub, home) = (Hub::start(), Home::new());
    let fit = |mood| {
        hub.is(mood);
        let output = candor(home.0.path())
            .args(["fit", "--data", "truthfulqa", "-o", "x.gguf"])
            .env("CANDOR_DATA_ENDPOINT", &hub.address)
            .current_dir(home.0.path())
            .assert()
            .code(1)
            .get_output()
            .clone();
        String::from_utf8(output.stderr).expect("UTF-8")
    };
    let message = fit(Mood::Sound);
    assert!(message.contains("Apache-2.0") && message.contains("nothing was kept"), "{message}");
    let place = "/sylinrl/TruthfulQA/013686a06be7a7bde5bf8223943e106c7250123c/TruthfulQA.csv";
    assert!(hub.requests()[0].starts_with(place), "{:?}", hub.requests());
    assert!(fit(Mood::Status(404)).contains("could not be fetched"));
    assert!(!home.0.path().join("data/TruthfulQA.csv").exists());
}

/// A server of one file for every address.
fn serve_text(text: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream.try_clone().expect("a stream"));
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
                line.clear();
            }
            let n = text.len();
            // A client that goes away ends its own test.
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {n}\r\nConnection: close\r\n\r\n{text}"
            );
        }
    });
    address
}

#[test]
fn the_prompt_of_truthfulqa_is_found_in_its_source_by_its_hash() {
    let home = Home::new();
    let eval = |address: &str| {
        let mut command = candor(home.0.path());
        command
            .args(["eval", "--steer", "none", "--limit", "1", "--preamble", "truthfulqa"])
            .env("CANDOR_DATA_ENDPOINT", address)
            .current_dir(home.0.path());
        command
    };
    let other = serve_text("QA_PRIMER = \"\"\"Q: x\nA: y\"\"\"\n".to_owned());
    let output = eval(&other).assert().code(1).get_output().clone();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        message.contains(
            "--preamble truthfulqa: what was received is not what was \
                              expected"
        ),
        "{message}"
    );
    let kept = home.0.path().join("data/TruthfulQA-qa-preset.txt");
    assert!(!kept.exists());

    let Some(path) = common::shared("data/truthfulqa/qa_preset.txt") else { return };
    let text = std::fs::read_to_string(path).expect("text");
    // Behind the instruction, which is no part of the prompt.
    let prompt = text[text.find("Q: ").expect("a question")..].trim();
    let source = format!(
        "NULL_PRIMER = \"Q: \"\r\n\r\nQA_PRIMER = \"\"\"{prompt}\"\"\"\r\n\r\nCHAT = \"\"\"x\"\"\"\n"
    );
    eval(&serve_text(source)).assert().success();
    assert_eq!(std::fs::read_to_string(&kept).expect("kept"), prompt);
    // A second time nothing is asked for.
    eval("http://127.0.0.1:9").assert().success();
}
