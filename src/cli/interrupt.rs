//! Ctrl-C, as a question that long work asks itself.

use std::ops::ControlFlow;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// From now on Ctrl-C asks instead of killing; a second one before the answer kills.
pub(in crate::cli) fn install() {
    handle(|| std::process::exit(130));
}

/// From now on Ctrl-C asks instead of killing, however often it comes.
pub(in crate::cli) fn install_patiently() {
    handle(|| {});
}

/// Answers Ctrl-C by a request, and by `on_repeat` where one stands already.
fn handle(on_repeat: fn()) {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        // Without a handler Ctrl-C kills, which loses nothing that is on disk.
        let _ = ctrlc::set_handler(move || {
            if REQUESTED.swap(true, Ordering::Relaxed) {
                on_repeat();
            }
        });
    });
}

/// Whether the user asked to stop since the last [`reset`].
fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// Breaks if the user asked to stop.
pub(in crate::cli) fn go_on() -> ControlFlow<()> {
    if requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// An error if the user asked to stop; `kept` says what is kept.
pub(in crate::cli) fn check(kept: &str) -> crate::Result<()> {
    if requested() { Err(crate::Error::Interrupted { kept: kept.to_owned() }) } else { Ok(()) }
}

/// Forgets that the user asked.
pub(in crate::cli) fn reset() {
    REQUESTED.store(false, Ordering::Relaxed);
}
