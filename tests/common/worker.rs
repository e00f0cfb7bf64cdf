//! `candor worker` in a process of its own.

use std::ops::Deref;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use candor::device::{DeviceKind, devices};
use serde_json::Value;

/// The workers of one test. Tests that have some run one after the other: a process that is started
/// while llama.cpp is connected to a worker inherits the connection, and the worker would wait for
/// its end.
pub struct Workers {
    workers: Vec<Worker>,
    _alone: MutexGuard<'static, ()>,
}

impl Workers {
    pub fn start(n: usize) -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        Self { workers: (0..n).map(|_| Worker::start()).collect(), _alone: alone }
    }

    /// Ends them at once.
    pub fn kill(&mut self) {
        self.workers.clear();
    }
}

impl Deref for Workers {
    type Target = [Worker];

    fn deref(&self) -> &[Worker] {
        &self.workers
    }
}

/// A worker on a free port of this machine, killed when dropped.
pub struct Worker {
    child: Child,
    /// `127.0.0.1:port`
    pub address: String,
}

impl Worker {
    /// Starts it and waits until it answers.
    fn start() -> Self {
        let mut child = Command::new(assert_cmd::cargo::cargo_bin!("candor"))
            .args(["worker", "--listen", "127.0.0.1:0", "-t", "1", "--device", "none", "--json"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let stdout = child.stdout.take().expect("it is piped");
        let mut documents = serde_json::Deserializer::from_reader(stdout).into_iter::<Value>();
        let ready = documents.next().expect("a worker says where it listens").expect("as JSON");
        let address = ready["listen"].as_str().expect("a string").to_owned();
        Self { child, address }
    }

    /// The name of its device, which depends on how many workers this process knew before.
    pub fn device(&self) -> String {
        let devices = devices(std::slice::from_ref(&self.address)).expect("the worker answers");
        let remote: Vec<_> = devices.iter().filter(|d| d.kind == DeviceKind::Rpc).collect();
        assert_eq!(remote.len(), 1, "it serves its processor");
        assert_eq!(remote[0].description, self.address);
        remote[0].name.clone()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
