//! Chromium without a window.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A browser on the path; where there is none, says so and gives `None`, and the test ends there.
pub fn browser() -> Option<PathBuf> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders)
        .flat_map(|folder| names.map(|name| folder.join(name)))
        .find(|path| path.is_file());
    if found.is_none() {
        super::skipped("browser", &format!("none of {} is on the path", names.join(", ")));
    }
    found
}

/// The browser with a profile of its own and nothing that it would do by itself.
pub fn command(browser: &Path, profile: &Path) -> Command {
    let mut command = Command::new(browser);
    command
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"])
        .args(["--hide-scrollbars", "--disable-background-networking"])
        .args(["--disable-component-update", "--disable-sync"])
        .arg(format!("--user-data-dir={}", profile.display()));
    command
}

/// What the browser writes when it is run without a window. Two minutes are enough for a page.
pub fn browse(browser: &Path, page: &Path, width: usize, options: &[String]) -> String {
    let profile = tempfile::tempdir().expect("a folder");
    let mut child = command(browser, profile.path())
        .arg(format!("--window-size={width},1600"))
        .args(options)
        .arg(format!("file://{}", page.display()))
        .stdout(std::fs::File::create(profile.path().join("out")).expect("a file"))
        .stderr(Stdio::null())
        .spawn()
        .expect("the browser starts");
    let start = Instant::now();
    while child.try_wait().expect("a child").is_none() {
        if start.elapsed() > Duration::from_secs(120) {
            child.kill().expect("a child");
            panic!("the browser hangs");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    std::fs::read_to_string(profile.path().join("out")).expect("UTF-8")
}

/// A page that a test uses as a person does, over the DevTools protocol: JSON with a NUL after each
/// message, through two named pipes.
#[cfg(unix)]
pub struct Tab {
    child: std::process::Child,
    commands: std::fs::File,
    /// What the browser says, read on a thread of its own, so that one that hangs is noticed.
    messages: std::sync::mpsc::Receiver<serde_json::Value>,
    session: Option<String>,
    n_sent: u64,
    /// The addresses that the page asked for.
    pub asked: Vec<String>,
    /// What went wrong in the page.
    pub faults: Vec<String>,
    _profile: tempfile::TempDir,
}

#[cfg(unix)]
impl Tab {
    /// Opens a page and waits until it is there.
    pub fn open(browser: &Path, address: &str, width: usize) -> Self {
        use std::fs::OpenOptions;
        use std::io::{BufRead as _, BufReader};

        let profile = tempfile::tempdir().expect("a folder");
        let pipes = ["in", "out"].map(|name| profile.path().join(name));
        assert!(Command::new("mkfifo").args(&pipes).status().expect("mkfifo").success());
        let plain = command(browser, profile.path());
        let child = Command::new("sh")
            .args(["-c", "exec \"$@\" 3<\"$IN\" 4>\"$OUT\"", "sh"])
            .arg(plain.get_program())
            .args(plain.get_args())
            .arg(format!("--window-size={width},900"))
            .arg("--remote-debugging-pipe")
            .envs([("IN", &pipes[0]), ("OUT", &pipes[1])])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the browser starts");
        // In the order in which the shell opens them.
        let commands = OpenOptions::new().write(true).open(&pipes[0]).expect("a pipe");
        let from = std::fs::File::open(&pipes[1]).expect("a pipe");
        let (to, messages) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for message in BufReader::new(from).split(0).map_while(Result::ok) {
                let message = serde_json::from_slice(&message).expect("the browser writes JSON");
                if to.send(message).is_err() {
                    return;
                }
            }
        });
        let (asked, faults) = (Vec::new(), Vec::new());
        let (session, n_sent, _profile) = (None, 0, profile);
        let mut tab = Self { child, commands, messages, session, n_sent, asked, faults, _profile };
        let target = tab.call("Target.createTarget", &serde_json::json!({ "url": "about:blank" }));
        let target = &target["targetId"];
        let flat = serde_json::json!({ "targetId": target, "flatten": true });
        let session = tab.call("Target.attachToTarget", &flat)["sessionId"].clone();
        tab.session = session.as_str().map(str::to_owned);
        for part in ["Network.enable", "Runtime.enable", "Page.enable"] {
            tab.call(part, &serde_json::json!({}));
        }
        tab.call("Page.navigate", &serde_json::json!({ "url": address }));
        tab.until("document.readyState === 'complete' && location.href !== 'about:blank'");
        tab
    }

    /// A command of the protocol, and what it gives.
    pub fn call(&mut self, method: &str, params: &serde_json::Value) -> serde_json::Value {
        use std::io::Write as _;

        self.n_sent += 1;
        let mut message =
            serde_json::json!({ "id": self.n_sent, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = session.clone().into();
        }
        self.commands.write_all(format!("{message}\0").as_bytes()).expect("the browser listens");
        loop {
            let message = self.messages.recv_timeout(Duration::from_secs(60));
            let message = message.unwrap_or_else(|error| panic!("{method}: {error}"));
            match message["method"].as_str() {
                Some("Network.requestWillBeSent") => {
                    let address = &message["params"]["request"]["url"];
                    self.asked.push(address.as_str().unwrap_or_default().to_owned());
                }
                Some("Runtime.exceptionThrown") => self.faults.push(message.to_string()),
                _ if message["id"] == self.n_sent => {
                    assert!(message["error"].is_null(), "{method}: {message}");
                    return message["result"].clone();
                }
                _ => {}
            }
        }
    }

    /// What an expression of the page's own language gives, awaited.
    pub fn evaluate(&mut self, expression: &str) -> serde_json::Value {
        let params = serde_json::json!({ "expression": expression, "awaitPromise": true,
            "returnByValue": true });
        let result = self.call("Runtime.evaluate", &params);
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    pub fn until(&mut self, expression: &str) {
        let start = Instant::now();
        while self.evaluate(&format!("Boolean({expression})")) != true {
            assert!(start.elapsed() < Duration::from_secs(60), "never: {expression}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Presses a key and lets it go; `text` is what it writes, if it does.
    pub fn press(&mut self, key: &str, code: u32, text: &str) {
        for kind in ["keyDown", "keyUp"] {
            let text = if kind == "keyDown" { text } else { "" };
            let params = serde_json::json!({ "type": kind, "key": key, "code": key, "text": text,
                "windowsVirtualKeyCode": code });
            self.call("Input.dispatchKeyEvent", &params);
        }
    }

    /// Writes a text where the focus is.
    pub fn write(&mut self, text: &str) {
        self.call("Input.insertText", &serde_json::json!({ "text": text }));
    }

    /// A picture of the page as a PNG.
    pub fn picture(&mut self) -> Vec<u8> {
        use base64::Engine as _;

        let picture = self.call("Page.captureScreenshot", &serde_json::json!({}));
        let text = picture["data"].as_str().expect("a picture");
        base64::engine::general_purpose::STANDARD.decode(text).expect("base64")
    }
}

#[cfg(unix)]
impl Drop for Tab {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
