//! Ctrl-C: a request to stop, which long work looks for between two steps.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

static REQUESTED: AtomicBool = AtomicBool::new(false);
static INSTALL: Once = Once::new();

/// From now on Ctrl-C does not end the program but makes [`requested`] true.
pub(super) fn install() {
    INSTALL.call_once(|| {
        // Where the handler is refused, Ctrl-C goes on ending the program.
        let _ = ctrlc::set_handler(|| REQUESTED.store(true, Ordering::Relaxed));
    });
}

/// Whether Ctrl-C was pressed since the start or the last [`reset`].
pub(super) fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// Forgets the request.
pub(super) fn reset() {
    REQUESTED.store(false, Ordering::Relaxed);
}
