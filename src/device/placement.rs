//! Which devices a model's layers go to.

use std::sync::Arc;

use super::{DeviceKind, Worker, kind_of, local};
use crate::ffi::device::RawDevice;
use crate::{Error, Result};

/// The most devices of one model: llama.cpp has room for 16 (`llama_max_devices`), the processor among
/// them.
const N_DEVICE_MAX: usize = 15;

/// The devices of one model, and the connections that they need.
#[derive(Debug)]
pub(crate) struct Placement {
    devices: Vec<RawDevice>,
    _workers: Vec<Arc<Worker>>,
}

impl Placement {
    /// `names`: the devices in the order of the layers, `["none"]` for the processor alone; `None`:
    /// the workers' devices, then this machine's GPUs, as llama.cpp itself would choose. `rpc`: the
    /// workers to connect to.
    pub(crate) fn choose(names: Option<&[String]>, rpc: &[String]) -> Result<Self> {
        let workers = Worker::connect_all(rpc)?;
        let remote: Vec<RawDevice> =
            workers.iter().flat_map(|worker| worker.devices().to_vec()).collect();
        let devices = match names {
            None => remote.into_iter().chain(gpus()).collect(),
            Some(names) if names == ["none"] => Vec::new(),
            Some(names) => by_name(names, &local().into_iter().chain(remote).collect::<Vec<_>>())?,
        };
        if devices.len() > N_DEVICE_MAX {
            let problem = format!("{} devices: at most {N_DEVICE_MAX} serve", devices.len());
            return Err(Error::invalid("devices", problem));
        }
        Ok(Self { devices, _workers: workers })
    }

    /// Whether all is left to the processor.
    pub(crate) fn is_cpu(&self) -> bool {
        self.devices.is_empty()
    }

    pub(crate) fn devices(&self) -> &[RawDevice] {
        &self.devices
    }

    /// The hardware that computes, in words; a worker's is not known by its address, which may change.
    pub(crate) fn words(&self, n_gpu_layers: Option<u32>) -> String {
        if self.is_cpu() || n_gpu_layers == Some(0) {
            return "the CPU".to_owned();
        }
        let name = |device: &RawDevice| match device.is_rpc() {
            true => device.backend(),
            false => format!("{} {}", device.backend(), device.description()),
        };
        let names: Vec<String> = self.devices.iter().map(name).collect();
        let layers =
            n_gpu_layers.map_or_else(|| "all layers".to_owned(), |n| format!("{n} layers"));
        format!("{}, {layers}", names.join(", "))
    }
}

/// This machine's GPUs: those with memory of their own, each once though two backends may know it;
/// where there is none, those that share the host's.
fn gpus() -> Vec<RawDevice> {
    let of_kind = |kind| {
        let mut devices = local();
        devices.retain(|&device| kind_of(device) == kind);
        devices
    };
    let mut gpus: Vec<RawDevice> = Vec::new();
    for device in of_kind(DeviceKind::Gpu) {
        let id = device.bus_id();
        if id.is_none() || gpus.iter().all(|other| other.bus_id() != id) {
            gpus.push(device);
        }
    }
    if !gpus.is_empty() {
        return gpus;
    }
    // Again one backend's view of them: that of the first.
    let mut gpus = of_kind(DeviceKind::Igpu);
    if let Some(backend) = gpus.first().map(|device| device.backend()) {
        gpus.retain(|device| device.backend() == backend);
    }
    gpus
}

fn by_name(names: &[String], known: &[RawDevice]) -> Result<Vec<RawDevice>> {
    let mut devices: Vec<RawDevice> = Vec::new();
    for name in names {
        let fail = |problem: String| Error::Device { name: name.clone(), problem };
        let device = known.iter().find(|device| device.name() == *name).ok_or_else(|| {
            fail(match name.as_str() {
                "none" => "it means the CPU alone and cannot be combined with others".to_owned(),
                _ => format!("no device has this name; {}", list(known)),
            })
        })?;
        if matches!(kind_of(*device), DeviceKind::Cpu | DeviceKind::Accel) {
            return Err(fail("it is always used: `none` means the CPU alone".to_owned()));
        }
        if devices.iter().any(|other| other.index == device.index) {
            return Err(fail("it is named twice".to_owned()));
        }
        devices.push(*device);
    }
    Ok(devices)
}

/// The names that can be chosen.
fn list(known: &[RawDevice]) -> String {
    let mut names: Vec<String> = known
        .iter()
        .filter(|&&device| !matches!(kind_of(device), DeviceKind::Cpu | DeviceKind::Accel))
        .map(|device| device.name())
        .collect();
    if names.is_empty() {
        return "there is only `none` (the CPU alone)".to_owned();
    }
    names.push("`none` (the CPU alone)".to_owned());
    format!("there are {}", names.join(", "))
}
