//! Calls of llama.cpp that can throw, and why the others cannot.
//!
//! A C++ exception that reaches a Rust frame ends the process. What can throw is called through
//! `vendor/guard.cpp`, which catches, and comes back as [`Thrown`]; all other calls stand in
//! `CANNOT_THROW` (`src/ffi/guard/tests.rs`) with their reason, to which a test holds the sources. Where the
//! tap's C code calls ggml, an exception passes it on its way to the guard around `llama_decode` or
//! `headtap_begin` (`build.rs` compiles it for that).

use std::ffi::CStr;
use std::fmt;

use super::{host, sys};
use crate::Error;

/// What a call threw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Thrown(String);

impl Thrown {
    /// What is refused before a call could throw it.
    pub(super) fn new(what: &str) -> Self {
        Self(what.to_owned())
    }

    /// Tells of it among llama.cpp's complaints.
    pub(super) fn complain(&self) {
        host::complain(self.to_string());
    }

    /// The same as an error of what was attempted: `"decode"`, `"read a token"`.
    pub(crate) fn failed_to(self, action: &'static str) -> Error {
        Error::Decode { action, problem: self.to_string() }
    }
}

impl fmt::Display for Thrown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = crate::error::shown(&self.0);
        write!(f, "it threw an exception: {shown}")
    }
}

/// Makes a guarded call, which gets the place to report at.
pub(crate) fn call<T>(work: impl FnOnce(*mut sys::guard_fault) -> T) -> Result<T, Thrown> {
    let mut fault = sys::guard_fault { thrown: false, what: [0; 256] };
    let value = work(&raw mut fault);
    if !fault.thrown {
        return Ok(value);
    }
    // SAFETY: the guard ends the message with NUL within the array.
    let what = unsafe { CStr::from_ptr(fault.what.as_ptr()) };
    Err(Thrown(what.to_string_lossy().into_owned()))
}

/// The same where `failed` is what a caller knows failure by: the exception is told with llama.cpp's
/// own complaints ([`host::take_complaints`]).
pub(crate) fn call_or<T>(failed: T, work: impl FnOnce(*mut sys::guard_fault) -> T) -> T {
    call(work).unwrap_or_else(|thrown| {
        thrown.complain();
        failed
    })
}

/// Makes the next call of this guarded function (`guard_decode`) on this thread throw.
#[cfg(test)]
fn provoke(function: Option<&'static CStr>) {
    // SAFETY: the string lives as long as the program.
    unsafe { sys::guard_provoke(function.map_or(std::ptr::null(), CStr::as_ptr)) };
}

#[cfg(test)]
mod tests;
