//! The devices of the linked llama.cpp, and its RPC backend.

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::NonNull;

use llama_cpp_sys_2 as llama;

use super::{guard, host, sys};

/// `ggml_backend_rpc_add_server` of `ggml-rpc.h`.
type AddServer = unsafe extern "C" fn(*const c_char) -> llama::ggml_backend_reg_t;
/// `ggml_backend_rpc_start_server` of `ggml-rpc.h`: endpoint, cache folder, threads, devices.
type StartServer = unsafe extern "C" fn(
    *const c_char,
    *const c_char,
    usize,
    usize,
    *mut llama::ggml_backend_dev_t,
);

/// What ggml says a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RawKind {
    Cpu,
    Gpu,
    IntegratedGpu,
    Accelerator,
}

/// A device of ggml's registry. Devices are never freed, so a handle is good for the whole process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawDevice {
    ptr: NonNull<llama::ggml_backend_device>,
    /// Its place in the registry, by which llama-cpp-2 chooses devices.
    pub(crate) index: usize,
}

// SAFETY: ggml's devices are never freed and never change once they are in the registry; backends
// of one device are made on any thread.
unsafe impl Send for RawDevice {}
// SAFETY: as above.
unsafe impl Sync for RawDevice {}

impl RawDevice {
    /// Every device of the registry: those that are linked, and those of every worker so far.
    pub(crate) fn all() -> Vec<Self> {
        let _ = host::backend();
        // SAFETY: the registry exists since `backend`; both calls only read it.
        let n = unsafe { llama::ggml_backend_dev_count() };
        // SAFETY: the index is below the count.
        let get = |index| unsafe { llama::ggml_backend_dev_get(index) };
        (0..n).filter_map(|index| Some(Self { ptr: NonNull::new(get(index))?, index })).collect()
    }

    /// ggml's own handle.
    pub(super) fn as_ptr(self) -> llama::ggml_backend_dev_t {
        self.ptr.as_ptr()
    }

    /// As llama.cpp prints it: `CPU`, `CUDA0`, `RPC0`.
    pub(crate) fn name(self) -> String {
        // SAFETY: the device lives as long as the process, and so does its name.
        unsafe { owned(llama::ggml_backend_dev_name(self.ptr.as_ptr())) }
    }

    /// The hardware; of an RPC device, the worker's address.
    pub(crate) fn description(self) -> String {
        // SAFETY: as in `name`.
        unsafe { owned(llama::ggml_backend_dev_description(self.ptr.as_ptr())) }
    }

    pub(crate) fn kind(self) -> RawKind {
        // SAFETY: the device lives as long as the process; the call only reads.
        match unsafe { llama::ggml_backend_dev_type(self.ptr.as_ptr()) } {
            llama::GGML_BACKEND_DEVICE_TYPE_CPU => RawKind::Cpu,
            llama::GGML_BACKEND_DEVICE_TYPE_IGPU => RawKind::IntegratedGpu,
            llama::GGML_BACKEND_DEVICE_TYPE_ACCEL => RawKind::Accelerator,
            _ => RawKind::Gpu,
        }
    }

    /// What drives the device: `CUDA`, `Vulkan`, `RPC`.
    pub(crate) fn backend(self) -> String {
        // SAFETY: as in `kind`.
        let reg = unsafe { llama::ggml_backend_dev_backend_reg(self.ptr.as_ptr()) };
        if reg.is_null() {
            return String::new();
        }
        // SAFETY: a backend's entry and its name live as long as the process.
        unsafe { owned(llama::ggml_backend_reg_name(reg)) }
    }

    /// Whether the device is a worker's.
    pub(crate) fn is_rpc(self) -> bool {
        self.backend() == "RPC"
    }

    /// Free and total memory in bytes. Of an RPC device only while its worker is connected: ggml
    /// ends the process where it does not answer.
    pub(crate) fn memory(self) -> (usize, usize) {
        let (mut free, mut total) = (0, 0);
        // SAFETY: the device is alive and the pointers are to locals.
        guard::call_or((), |fault| unsafe {
            sys::guard_dev_memory(self.as_ptr(), &raw mut free, &raw mut total, fault);
        });
        (free, total)
    }

    /// The hardware's address on its bus, by which two backends' views of one GPU are told; asks a
    /// worker for its memory as [`RawDevice::memory`] does.
    pub(crate) fn bus_id(self) -> Option<String> {
        // SAFETY: a plain struct of pointers, numbers and flags, for all of which zero is a value.
        let mut props: llama::ggml_backend_dev_props = unsafe { std::mem::zeroed() };
        // SAFETY: the device is alive; the call fills `props`.
        guard::call_or((), |fault| unsafe {
            sys::guard_dev_get_props(self.as_ptr(), &raw mut props, fault);
        });
        // SAFETY: null or a string that lives as long as the device.
        (!props.device_id.is_null()).then(|| unsafe { owned(props.device_id) })
    }
}

/// Keeps the connection to a worker open: ggml closes it when nothing uses it, and a worker serves
/// one connection at a time.
#[derive(Debug)]
pub(crate) struct Connection(NonNull<llama::ggml_backend>);

// SAFETY: the handle is only ever freed, which ggml allows from any thread.
unsafe impl Send for Connection {}
// SAFETY: there is nothing to do with a shared reference to it.
unsafe impl Sync for Connection {}

impl Connection {
    /// Connects to the worker of an RPC device. ggml ends the process where it does not answer.
    pub(crate) fn open(device: RawDevice) -> Option<Self> {
        // SAFETY: the device is alive; no parameters is what null says.
        let backend = guard::call_or(std::ptr::null_mut(), |fault| unsafe {
            sys::guard_dev_init(device.as_ptr(), fault)
        });
        NonNull::new(backend).map(Self)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `ggml_backend_dev_init` and is freed once.
        unsafe { llama::ggml_backend_free(self.0.as_ptr()) };
    }
}

/// Whether llama.cpp was built with its RPC backend.
pub(crate) fn has_rpc() -> bool {
    rpc_function(c"ggml_backend_rpc_add_server").is_some()
}

/// Puts the devices of the worker at `endpoint` (`address:port`) into the registry; false where the
/// RPC backend is missing or the worker has none. To be called once per endpoint, and only for one
/// that answers: ggml ends the process where it does not.
pub(crate) fn add_worker(endpoint: &str) -> bool {
    let (Some(function), Ok(endpoint)) =
        (rpc_function(c"ggml_backend_rpc_add_server"), CString::new(endpoint))
    else {
        return false;
    };
    // SAFETY: the RPC backend gives under this name a function of this type (`ggml-rpc.h`).
    let add_server = unsafe { std::mem::transmute::<NonNull<c_void>, AddServer>(function) };
    // SAFETY: the string ends in NUL and is copied.
    let reg = guard::call_or(std::ptr::null_mut(), |fault| unsafe {
        sys::guard_rpc_add_server(Some(add_server), endpoint.as_ptr(), fault)
    });
    !reg.is_null()
}

/// Serves devices to other machines, one connection after the other; returns only where it cannot.
pub(crate) fn start_server(endpoint: &str, n_thread: usize, devices: &[RawDevice]) {
    let (Some(function), Ok(endpoint)) =
        (rpc_function(c"ggml_backend_rpc_start_server"), CString::new(endpoint))
    else {
        return;
    };
    // SAFETY: the RPC backend gives under this name a function of this type (`ggml-rpc.h`).
    let start_server = unsafe { std::mem::transmute::<NonNull<c_void>, StartServer>(function) };
    let mut devices: Vec<_> = devices.iter().map(|device| device.ptr.as_ptr()).collect();
    // SAFETY: the string and the array live for the call, the devices for the whole process; no
    // cache folder is what null says.
    guard::call_or((), |fault| unsafe {
        sys::guard_rpc_start_server(
            Some(start_server),
            endpoint.as_ptr(),
            n_thread,
            devices.len(),
            devices.as_mut_ptr(),
            fault,
        );
    });
}

/// A function that the RPC backend offers by name, so that nothing need link to it.
fn rpc_function(name: &CStr) -> Option<NonNull<c_void>> {
    let _ = host::backend();
    // SAFETY: the strings end in NUL; the registry exists since `backend`.
    unsafe {
        let reg = llama::ggml_backend_reg_by_name(c"RPC".as_ptr());
        if reg.is_null() {
            return None;
        }
        NonNull::new(llama::ggml_backend_reg_get_proc_address(reg, name.as_ptr()))
    }
}

/// A copy of C's string, empty for null.
///
/// # Safety
/// `text` is null or ends in NUL and lives for the call.
unsafe fn owned(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: by this function's own contract.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
