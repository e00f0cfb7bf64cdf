//! Where layers are computed: the devices of the linked llama.cpp, and those of workers on other
//! machines, which llama.cpp reaches through its RPC backend.
//!
//! A **worker** is a process that lends its machine's devices over the network: `candor worker`,
//! [`serve`], or llama.cpp's own `rpc-server` of the same release. To llama.cpp its devices are GPUs
//! like any other: they hold weights, caches and steering banks, and steering runs inside their
//! graphs. Some limits are llama.cpp's own. A worker serves one program at a time; a process that
//! is started meanwhile inherits the connection and keeps it open. A worker that dies takes the
//! program with it (a capture keeps what it wrote, and resumes). And the protocol has neither
//! authentication nor encryption.

mod endpoint;
mod placement;
mod serve;
mod worker;

use std::fmt;

use serde::Serialize;

pub(crate) use self::placement::Placement;
pub use self::serve::{ServeParams, serve};
use self::worker::Worker;
use crate::Result;
use crate::ffi::device::{RawDevice, RawKind};

/// What a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum DeviceKind {
    /// The processor. It computes whatever no other device does.
    Cpu,
    /// A GPU with memory of its own.
    Gpu,
    /// A GPU that shares the host's memory.
    Igpu,
    /// Helps the processor with some operations (BLAS, AMX); cannot be chosen.
    Accel,
    /// A device of a worker, whatever it is there.
    Rpc,
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Cpu => "cpu",
            Self::Gpu => "gpu",
            Self::Igpu => "igpu",
            Self::Accel => "accel",
            Self::Rpc => "rpc",
        })
    }
}

/// A device that the linked llama.cpp knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct Device {
    /// As llama.cpp prints it, and as [`ModelParams::devices`](crate::ModelParams::devices) takes
    /// it: `CPU`, `CUDA0`, `Vulkan1`, `RPC0`.
    pub name: String,
    /// What it is.
    pub kind: DeviceKind,
    /// The hardware's name; of a worker's device, the worker's address.
    pub description: String,
    /// Memory in bytes; 0 where the device does not say.
    pub memory_total: u64,
    /// Of it, what is free.
    pub memory_free: u64,
}

impl Device {
    /// Asks a device about itself. An RPC device must be connected.
    fn of(raw: RawDevice) -> Self {
        let (free, total) = raw.memory();
        Self {
            name: raw.name(),
            kind: kind_of(raw),
            description: raw.description(),
            memory_total: total as u64,
            memory_free: free as u64,
        }
    }
}

fn kind_of(raw: RawDevice) -> DeviceKind {
    match raw.kind() {
        _ if raw.is_rpc() => DeviceKind::Rpc,
        RawKind::Cpu => DeviceKind::Cpu,
        RawKind::Gpu => DeviceKind::Gpu,
        RawKind::IntegratedGpu => DeviceKind::Igpu,
        RawKind::Accelerator => DeviceKind::Accel,
    }
}

/// The devices that are linked, then those of these workers (`host:port`).
///
/// # Errors
/// [`Error::Worker`](crate::Error::Worker) for a worker that cannot be reached.
pub fn devices(rpc: &[String]) -> Result<Vec<Device>> {
    let workers = Worker::connect_all(rpc)?;
    let remote = workers.iter().flat_map(|worker| worker.devices().to_vec());
    Ok(local().into_iter().chain(remote).map(Device::of).collect())
}

/// The devices of this machine.
fn local() -> Vec<RawDevice> {
    let mut devices = RawDevice::all();
    devices.retain(|device| !device.is_rpc());
    devices
}
