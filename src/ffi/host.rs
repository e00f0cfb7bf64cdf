//! The host library as a whole: its one-time start and its log.

use std::any::Any;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::{CStr, CString, c_char, c_void};
use std::io::Write as _;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_sys_2 as llama;

use super::device::RawDevice;
use super::{guard, sys};
use crate::error::is_command;

/// A model's weights with what they need to live. Sessions share them.
pub(crate) struct Weights {
    model: LlamaModel,
    /// Freed after the model.
    _needs: Box<dyn Any + Send + Sync>,
}

impl Weights {
    /// `needs` lives as long as the weights, such as the connections to the devices that hold them.
    pub(crate) fn new(model: LlamaModel, needs: impl Any + Send + Sync) -> Self {
        Self { model, _needs: Box::new(needs) }
    }
}

impl Deref for Weights {
    type Target = LlamaModel;

    fn deref(&self) -> &LlamaModel {
        &self.model
    }
}

/// Whether llama.cpp's log goes to stderr.
static VERBOSE: AtomicBool = AtomicBool::new(false);
thread_local! {
    /// The newest warnings and errors of what this thread had llama.cpp do, oldest first: the evidence for
    /// an [`crate::Error`], and never for one of another thread's session.
    static COMPLAINTS: RefCell<VecDeque<String>> = const { RefCell::new(VecDeque::new()) };
}
const N_COMPLAINT: usize = 4;

/// Starts llama.cpp once per process. Its log and its last words stay whose they are: see
/// [`set_verbose`].
///
/// Another user of `llama-cpp-2` in the process may have started it already; that is fine.
pub(crate) fn backend() -> ManuallyDrop<LlamaBackend> {
    static START: Once = Once::new();
    START.call_once(|| {
        // Unit tests are quiet, and see what llama.cpp complains of.
        #[cfg(test)]
        take_callbacks();
        guard::call_or((), |fault| {
            // SAFETY: starting llama.cpp needs nothing; drivers that throw are caught.
            unsafe { sys::guard_start(fault) }
        });
        // The backend lives as long as the process: its handle is never dropped.
        std::mem::forget(LlamaBackend::init());
    });
    ManuallyDrop::new(LlamaBackend {})
}

/// Takes llama.cpp's log for the whole process, and lets it through to stderr (`on`) or silences it. From
/// then on an [`Error`](crate::Error) of llama.cpp's says what it complained of, and where ggml ends the
/// process, it says why in one line.
///
/// A process has one log and one such last word, which may be another library's: candor takes them only
/// here. A program without a wish of its own calls it once, at its start; the program `candor` does.
/// Where nobody does, llama.cpp writes its log to stderr.
pub fn set_verbose(on: bool) {
    VERBOSE.store(on, Ordering::Relaxed);
    take_callbacks();
}

/// Whether llama.cpp's log comes here.
static IS_TAKEN: AtomicBool = AtomicBool::new(false);

fn take_callbacks() {
    static TAKE: Once = Once::new();
    TAKE.call_once(|| {
        // SAFETY: `sink` has the declared signature, never unwinds and uses no user data.
        unsafe { llama::llama_log_set(Some(sink), std::ptr::null_mut()) };
        #[cfg(feature = "sight")]
        // SAFETY: as for `llama_log_set`; mtmd has a log of its own.
        unsafe {
            llama::mtmd_log_set(Some(sink), std::ptr::null_mut());
        };
        // SAFETY: `last_words` has the declared signature and never unwinds.
        unsafe { llama::ggml_set_abort_callback(Some(last_words)) };
        IS_TAKEN.store(true, Ordering::Relaxed);
    });
}

/// llama.cpp's complaints since they were last taken, joined; a stock phrase where it said nothing.
pub(crate) fn take_complaints() -> String {
    let complaints = COMPLAINTS.with_borrow_mut(std::mem::take);
    let joined = Vec::from(complaints).join("; ");
    match (joined.is_empty(), IS_TAKEN.load(Ordering::Relaxed)) {
        (false, _) => joined,
        (true, true) => "it gave no reason".to_owned(),
        (true, false) => "the reason is in its log, which candor does not take".to_owned(),
    }
}

/// Forgets what this thread had llama.cpp complain of: something else begins.
pub(crate) fn forget_complaints() {
    COMPLAINTS.with_borrow_mut(VecDeque::clear);
}

/// Receives every line of llama.cpp's log.
unsafe extern "C" fn sink(level: llama::ggml_log_level, text: *const c_char, _: *mut c_void) {
    if text.is_null() {
        return;
    }
    // SAFETY: llama.cpp passes a NUL-terminated string that lives for the call.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    if VERBOSE.load(Ordering::Relaxed) {
        // It quotes the model's file, which must not command the terminal.
        let is_plain = |c: &char| !is_command(*c) || matches!(c, '\n' | '\t');
        let plain: String = text.chars().filter(is_plain).collect();
        // A closed stderr is no reason to fail.
        let _ = std::io::stderr().write_all(plain.as_bytes());
    }
    if level == llama::GGML_LOG_LEVEL_ERROR || level == llama::GGML_LOG_LEVEL_WARN {
        complain(text.trim().to_owned());
    }
}

/// Keeps a complaint for [`take_complaints`].
pub(super) fn complain(text: String) {
    // A thread that ends, or one that is interrupted while it takes them, keeps none.
    let _ = COMPLAINTS.try_with(|complaints| {
        let Ok(mut complaints) = complaints.try_borrow_mut() else { return };
        if complaints.len() == N_COMPLAINT {
            complaints.pop_front();
        }
        complaints.push_back(text);
    });
}

/// A file that writes to stdout, while whatever C code prints there from now on goes to stderr or
/// nowhere: ggml's RPC server prints as it likes.
#[cfg(all(feature = "cli", unix))]
pub(crate) fn divert_stdout(to_stderr: bool) -> std::io::Result<std::fs::File> {
    use std::ffi::c_int;
    use std::os::fd::{AsFd as _, AsRawFd as _};

    unsafe extern "C" {
        fn dup2(from: c_int, to: c_int) -> c_int;
    }
    let stdout = std::io::stdout().as_fd().try_clone_to_owned()?;
    let target = if to_stderr {
        std::io::stderr().as_fd().try_clone_to_owned()?
    } else {
        std::fs::OpenOptions::new().write(true).open("/dev/null")?.into()
    };
    // SAFETY: both descriptors are open; the call makes stdout's number mean what `target` means,
    // and nothing owns that number but the process.
    if unsafe { dup2(target.as_raw_fd(), std::io::stdout().as_raw_fd()) } < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(stdout.into())
}

/// A file that writes to stdout. What C code prints goes there, too.
#[cfg(all(feature = "cli", windows))]
pub(crate) fn divert_stdout(_: bool) -> std::io::Result<std::fs::File> {
    use std::os::windows::io::AsHandle as _;

    Ok(std::io::stdout().as_handle().try_clone_to_owned()?.into())
}

/// Says why ggml ends the process, in place of its backtrace, for which it calls a debugger that
/// writes to stdout. A worker that dies comes here.
unsafe extern "C" fn last_words(text: *const c_char) {
    if text.is_null() {
        return;
    }
    // SAFETY: ggml passes a NUL-terminated string that lives for the call.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let _ = writeln!(std::io::stderr(), "error: llama.cpp ends the program: {text}");
}

/// The pointer inside a [`LlamaModel`], which its crate keeps to itself.
pub(crate) fn model_ptr(model: &LlamaModel) -> *mut llama::llama_model {
    const { assert!(size_of::<LlamaModel>() == size_of::<*mut llama::llama_model>()) };
    // SAFETY: `LlamaModel` is `repr(transparent)` over a `repr(transparent)` non-null pointer to
    // `llama_model` (llama-cpp-2 is pinned exactly, and the size is asserted above).
    unsafe { *std::ptr::from_ref(model).cast::<*mut llama::llama_model>() }
}

/// Loads a model onto devices of ggml's registry, none of them: the processor alone. `n_gpu_layers`:
/// layers to keep there, from the last one down.
///
/// # Errors
/// llama.cpp's complaint.
pub(crate) fn load(
    path: &Path,
    devices: &[RawDevice],
    n_gpu_layers: Option<u32>,
    mut on_progress: OnProgress,
) -> Result<LlamaModel, String> {
    let _ = backend();
    forget_complaints();
    let path = CString::new(path.as_os_str().as_encoded_bytes()).map_err(|e| e.to_string())?;
    let mut devices: Vec<_> = devices.iter().map(|device| device.as_ptr()).collect();
    devices.push(std::ptr::null_mut());
    // SAFETY: fills a plain struct.
    let mut params = unsafe { llama::llama_model_default_params() };
    params.devices = devices.as_mut_ptr();
    if let Some(n) = n_gpu_layers {
        params.n_gpu_layers = i32::try_from(n).unwrap_or(i32::MAX);
    }
    params.progress_callback = Some(progressed);
    params.progress_callback_user_data = (&raw mut on_progress).cast();
    // SAFETY: the path ends in NUL and the list of devices in null; both live for the call, and so does
    // what hears of its progress.
    let model = guard::call(|fault| unsafe { sys::guard_model_load(path.as_ptr(), params, fault) })
        .map_err(|thrown| thrown.to_string())?;
    let model = NonNull::new(model).ok_or_else(take_complaints)?;
    const { assert!(size_of::<LlamaModel>() == size_of::<NonNull<llama::llama_model>>()) };
    // SAFETY: `LlamaModel` is `repr(transparent)` over a `repr(transparent)` non-null pointer (as in
    // `model_ptr`) to a model that it frees, and nothing else owns this one.
    Ok(unsafe { std::mem::transmute::<NonNull<llama::llama_model>, LlamaModel>(model) })
}

/// Hears how much of a model is loaded, 0 to 1, and says whether to go on.
pub(crate) type OnProgress<'a> = &'a mut dyn FnMut(f32) -> bool;

/// Told by llama.cpp while it loads. A panic within ends the process, as in every function that C calls.
unsafe extern "C" fn progressed(share: f32, on_progress: *mut c_void) -> bool {
    // SAFETY: the data is what `load` handed over, on this thread, and nothing else borrows it meanwhile.
    let on_progress = unsafe { &mut *on_progress.cast::<OnProgress>() };
    on_progress(share)
}

/// Whether some layers attend to a sliding window.
pub(crate) fn has_window(model: &LlamaModel) -> bool {
    // SAFETY: the model is alive; the call only reads.
    unsafe { llama::llama_model_n_swa(model_ptr(model)) > 0 }
}

/// The width of what can stand in place of a token: a picture's embedding.
#[cfg(feature = "sight")]
pub(crate) fn n_embd_input(model: &LlamaModel) -> usize {
    // SAFETY: the model is alive; the call only reads.
    let n = unsafe { llama::llama_model_n_embd_inp(model_ptr(model)) };
    usize::try_from(n).unwrap_or(0)
}

/// Whether the model has an encoder, alone or before a decoder.
pub(crate) fn has_encoder(model: &LlamaModel) -> bool {
    // SAFETY: the model is alive; the call only reads.
    unsafe { llama::llama_model_has_encoder(model_ptr(model)) }
}
