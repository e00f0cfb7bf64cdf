//! Workers that this process is connected to.

use std::collections::HashMap;
use std::net::SocketAddrV4;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use super::endpoint::{greet, resolve};
use crate::ffi::device::{Connection, RawDevice, add_worker, has_rpc};
use crate::{Error, Result};

/// A worker, connected as long as this lives.
#[derive(Debug)]
pub(super) struct Worker {
    devices: Vec<RawDevice>,
    _connection: Connection,
}

/// The workers that are connected now. A second greeting would wait for the first connection's end.
static CONNECTED: LazyLock<Mutex<HashMap<SocketAddrV4, Weak<Worker>>>> =
    LazyLock::new(Mutex::default);

impl Worker {
    /// Connects to workers (`host:port`), each once, in the order given.
    pub(super) fn connect_all(addresses: &[String]) -> Result<Vec<Arc<Self>>> {
        let mut resolved = Vec::new();
        for text in addresses {
            let address = resolve(text)?;
            if !resolved.contains(&address) {
                resolved.push(address);
            }
        }
        resolved.into_iter().map(Self::connect).collect()
    }

    fn connect(address: SocketAddrV4) -> Result<Arc<Self>> {
        let mut connected = CONNECTED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(worker) = connected.get(&address).and_then(Weak::upgrade) {
            return Ok(worker);
        }
        let endpoint = address.to_string();
        let fail = |problem: &str| Error::Worker {
            address: address.to_string(),
            problem: problem.to_owned(),
        };
        if !has_rpc() {
            return Err(fail(
                "this build of llama.cpp cannot use workers: build candor with the environment \
                 variable GGML_RPC=ON",
            ));
        }
        greet(address)?;
        // ggml keeps the devices of every worker that there ever was.
        let of_worker = || {
            let mut devices = RawDevice::all();
            devices.retain(|device| device.is_rpc() && device.description() == endpoint);
            devices
        };
        let mut devices = of_worker();
        if devices.is_empty() && add_worker(&endpoint) {
            devices = of_worker();
        }
        let first = *devices.first().ok_or_else(|| fail("it has no devices"))?;
        let connection = Connection::open(first).ok_or_else(|| fail("it does not let us in"))?;
        let worker = Arc::new(Self { devices, _connection: connection });
        connected.insert(address, Arc::downgrade(&worker));
        Ok(worker)
    }

    pub(super) fn devices(&self) -> &[RawDevice] {
        &self.devices
    }
}
