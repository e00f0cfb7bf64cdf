//! candor's errors as Python's own.

use candor::Error;
use pyo3::PyErr;
use pyo3::exceptions::{
    PyKeyboardInterrupt, PyMemoryError, PyNotImplementedError, PyOSError, PyRuntimeError,
    PyValueError,
};

/// What Python raises for an error of candor's: `OSError` (with its number, so that a missing file is
/// a `FileNotFoundError`), `NotImplementedError` for a model that candor cannot work with,
/// `RuntimeError` for what llama.cpp or a device fails at, `ValueError` for all that the caller gave.
pub(crate) fn raised(error: Error) -> PyErr {
    let message = error.to_string();
    match error {
        Error::Io { path, source, .. } => match source.raw_os_error() {
            Some(number) => {
                let words = source.to_string();
                let words = words.split(" (os error").next().unwrap_or_default().to_owned();
                PyOSError::new_err((number, words, path.display().to_string()))
            }
            None => PyOSError::new_err(format!("{message}: {source}")),
        },
        Error::Unsupported { .. } | Error::TapSilent { .. } | Error::Width { .. } => {
            PyNotImplementedError::new_err(message)
        }
        Error::Interrupted { .. } => PyKeyboardInterrupt::new_err(message),
        Error::CacheFull { .. } => PyMemoryError::new_err(message),
        Error::Decode { .. }
        | Error::Model { .. }
        | Error::Device { .. }
        | Error::Worker { .. } => PyRuntimeError::new_err(message),
        _ => PyValueError::new_err(message),
    }
}

/// A `ValueError`.
pub(crate) fn invalid(message: impl Into<String>) -> PyErr {
    PyValueError::new_err(message.into())
}
