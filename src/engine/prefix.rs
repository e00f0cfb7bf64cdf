//! Which sequence a request goes on from.

use super::request::Key;
use super::{Engine, Job};

/// The tokens of a sequence, each with what steered it.
pub(super) type Held = Vec<(i32, Key)>;

/// Fewer tokens than this are not worth a wait for whoever computes them.
const N_WORTH_WAITING: usize = 32;

/// Where a request begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Start {
    /// The sequence that it gets.
    pub(super) seq: usize,
    /// The sequence that holds its beginning, and how much of it.
    pub(super) from: usize,
    pub(super) n_kept: usize,
}

/// How much two sequences have in common from their start.
pub(super) fn common(a: &[(i32, Key)], b: &[(i32, Key)]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl Engine {
    /// The best place for a request; `None` where it should wait.
    pub(super) fn start(&self, job: &Job) -> Option<Start> {
        let wanted = job.wanted();
        let kept = |seq: usize| {
            let held = &self.sequences[seq].held;
            let n = common(held, &wanted);
            // What cannot be cut is of use as a whole only.
            if self.can_cut || n == held.len() { n } else { 0 }
        };
        let is_free = |seq: &usize| self.sequences[*seq].job.is_none();
        let all = 0..self.sequences.len();
        let best = all.clone().max_by_key(|&seq| (kept(seq), is_free(&seq)))?;
        let n_kept = kept(best);
        // Somebody may be about to compute what is wanted.
        let is_coming = |seq: &usize| {
            let other = self.sequences[*seq].job.as_ref().filter(|job| job.is_reading_prompt());
            other.is_some_and(|job| common(&job.wanted(), &wanted) >= n_kept + N_WORTH_WAITING)
        };
        if self.can_cut && all.clone().any(|seq| is_coming(&seq)) {
            return None;
        }
        // The best is taken as it is where little of it is lost; else a copy of its beginning, into what
        // was of no use for longest, which costs nothing in a cache that all share.
        let n_lost = self.sequences[best].held.len() - n_kept;
        if is_free(&best) && n_lost <= n_kept {
            return Some(Start { seq: best, from: best, n_kept });
        }
        let is_empty = |seq: &usize| self.sequences[*seq].held.is_empty();
        let oldest = all
            .filter(is_free)
            .filter(|&seq| seq != best)
            .min_by_key(|&seq| (!is_empty(&seq), self.sequences[seq].used));
        match oldest {
            // A copy of a part can be cut, where anything can.
            Some(seq) if self.can_cut => Some(Start { seq, from: best, n_kept }),
            Some(seq) => Some(Start { seq, from: seq, n_kept: 0 }),
            None => Some(Start { seq: best, from: best, n_kept }).filter(|_| is_free(&best)),
        }
    }

    /// Makes the place ready; gives how many tokens were kept.
    pub(super) fn prepare(&mut self, start: Start) -> crate::Result<usize> {
        let Start { seq, from, n_kept } = start;
        if from != seq {
            if n_kept == 0 {
                self.forget(seq);
                return Ok(0);
            }
            self.sequences[seq].held.clear();
            self.session.copy(from, seq)?;
            self.sequences[seq].held = self.sequences[from].held.clone();
        }
        if n_kept == self.sequences[seq].held.len() {
            return Ok(n_kept);
        }
        if n_kept > 0 && self.session.truncate(seq, n_kept) {
            self.sequences[seq].held.truncate(n_kept);
            return Ok(n_kept);
        }
        self.forget(seq);
        Ok(0)
    }

    /// Forgets what is of no use for longest; false where nothing is kept without need.
    pub(super) fn evict(&mut self) -> bool {
        let idle = (0..self.sequences.len())
            .filter(|&seq| self.sequences[seq].job.is_none())
            .filter(|&seq| !self.sequences[seq].held.is_empty())
            .min_by_key(|&seq| self.sequences[seq].used);
        let Some(seq) = idle else { return false };
        self.forget(seq);
        self.stats.n_evicted += 1;
        true
    }
}
