//! Work beside the interpreter: on a thread of its own, so that Ctrl-C is heard while llama.cpp
//! computes.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use candor::session::Canceller;
use candor::{Error, Session};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::error::raised;

thread_local! {
    /// Whether this thread computes for a call that waits.
    static WORKS: Cell<bool> = const { Cell::new(false) };
}

/// How often Ctrl-C is looked for, and progress told.
const PERIOD: Duration = Duration::from_millis(50);

/// What a piece of work and the thread that waits for it tell each other.
#[derive(Debug, Default)]
pub(crate) struct Ticket {
    is_over: AtomicBool,
    n_done: AtomicUsize,
    n_all: AtomicUsize,
    canceller: Mutex<Option<Canceller>>,
}

impl Ticket {
    /// Says how much there is to do.
    pub(crate) fn expect(&self, n: usize) {
        self.n_all.store(n, Ordering::Relaxed);
    }

    /// Says that so much is done, and hears whether to go on.
    pub(crate) fn done(&self, n: usize) -> candor::Result<()> {
        self.n_done.store(n, Ordering::Relaxed);
        match self.flow() {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(interrupted()),
        }
    }

    /// Whether to go on.
    pub(crate) fn flow(&self) -> ControlFlow<()> {
        match self.is_over.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    /// Lets Ctrl-C end the decodes of this session.
    pub(crate) fn arm(&self, session: &mut Session) {
        if let Ok(mut canceller) = self.canceller.lock() {
            *canceller = Some(session.canceller());
        }
    }

    fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Ok(canceller) = self.canceller.lock()
            && let Some(canceller) = canceller.as_ref()
        {
            canceller.cancel();
        }
    }
}

fn interrupted() -> Error {
    Error::Interrupted { kept: "nothing is kept".to_owned() }
}

/// Does work without the interpreter's lock. `progress` is a Python function that is told, now and
/// then, how much of how much is done. A signal's exception, as that of Ctrl-C, ends the work and is
/// raised; so does one that `progress` raises.
pub(crate) fn away<T: Send>(
    py: Python<'_>,
    progress: Option<&Bound<'_, PyAny>>,
    work: impl FnOnce(&Ticket) -> PyResult<T> + Send,
) -> PyResult<T> {
    if WORKS.get() {
        // It would wait for the call that it is a part of.
        let problem = "a function that is called while a model computes cannot compute with one";
        return Err(PyRuntimeError::new_err(problem));
    }
    let ticket = Ticket::default();
    let progress = progress.map(|progress| progress.clone().unbind());
    let tell = |py: Python<'_>| -> PyResult<()> {
        let [done, all] = [&ticket.n_done, &ticket.n_all].map(|n| n.load(Ordering::Relaxed));
        if let Some(progress) = progress.as_ref().filter(|_| all > 0) {
            progress.call1(py, (done, all))?;
        }
        Ok(())
    };
    let (result, stopped) = py.detach(|| {
        thread::scope(|scope| {
            let (sender, receiver) = channel::<()>();
            let ticket = &ticket;
            let worker = scope.spawn(move || {
                // Dropped when the work is done, or panics.
                let _sender = sender;
                WORKS.set(true);
                work(ticket)
            });
            let mut stopped = None;
            while let Err(RecvTimeoutError::Timeout) = receiver.recv_timeout(PERIOD) {
                if stopped.is_some() {
                    // Where it came between two decodes, once more.
                    ticket.end();
                    continue;
                }
                stopped = Python::attach(|py| py.check_signals().and_then(|()| tell(py))).err();
                if stopped.is_some() {
                    ticket.end();
                }
            }
            (worker.join(), stopped)
        })
    });
    if let Some(error) = stopped {
        return Err(error);
    }
    let value = result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    tell(py)?;
    Ok(value)
}

/// The same for work that fails as candor does.
pub(crate) fn compute<T: Send>(
    py: Python<'_>,
    progress: Option<&Bound<'_, PyAny>>,
    work: impl FnOnce(&Ticket) -> candor::Result<T> + Send,
) -> PyResult<T> {
    away(py, progress, |ticket| work(ticket).map_err(raised))
}
