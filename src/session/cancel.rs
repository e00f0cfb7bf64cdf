//! A decode that is ended from another thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Batch, Session};
use crate::Error;

/// Ends a session's decode, from any thread: see [`Session::canceller`].
#[derive(Debug, Clone)]
pub struct Canceller(Arc<AtomicBool>);

impl Canceller {
    /// Ends the decode that runs, or the next one where none does.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Session {
    /// A handle by which another thread ends a decode, which then gives [`Error::Interrupted`]. The
    /// sequences of its batch hold what they held before (those of a model with a running state, nothing),
    /// and the session goes on. The processor stops at the next node of the graph; a GPU finishes what
    /// it was given.
    pub fn canceller(&mut self) -> Canceller {
        Canceller(self.context.abort_flag())
    }

    /// Takes back what a decode that was ended left behind.
    pub(super) fn take_back(&mut self, batch: &Batch) -> Error {
        let arrays = &batch.arrays;
        let mut rest = arrays.seqs.as_slice();
        let mut first = std::collections::BTreeMap::new();
        for (&n, &position) in arrays.n_seq.iter().zip(&arrays.positions) {
            let (ids, next) = rest.split_at(usize::try_from(n).unwrap_or(0).min(rest.len()));
            rest = next;
            for &id in ids {
                let least = first.entry(id).or_insert(position);
                *least = position.min(*least);
            }
        }
        for (id, position) in first {
            let (Ok(seq), Ok(from)) = (usize::try_from(id), usize::try_from(position)) else {
                continue;
            };
            if !self.truncate(seq, from) && !self.truncate(seq, 0) {
                self.clear();
            }
        }
        Error::Interrupted { kept: "what was decoded before is kept".to_owned() }
    }
}
