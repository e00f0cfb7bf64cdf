//! How finely paths alternate, and how often short work is repeated.

use std::time::Duration;

/// What a path computes before the next has its turn: long enough that the caches which the other
/// paths emptied are full again for nearly all of it, short beside the drift of clocks.
const CHUNK: Duration = Duration::from_millis(20);
/// The least that a sample lasts.
const SAMPLE: Duration = Duration::from_millis(500);

/// A sample of one phase, cut into turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pace {
    /// Times that the work is done in one sample.
    pub(super) n_repeat: usize,
    /// Decodes in all of them.
    pub(super) n_step: usize,
    /// Decodes in one turn.
    pub(super) n_step_turn: usize,
}

impl Pace {
    /// For work of `n_step` decodes that takes `once` in all.
    pub(super) fn new(n_step: usize, once: Duration) -> Self {
        let times =
            |of: Duration, n: f64| (of.as_secs_f64() / n.max(1e-9)).ceil().max(1.0) as usize;
        let step = once.as_secs_f64() / n_step.max(1) as f64;
        let n_step_turn = times(CHUNK, step);
        // At least two turns, so that each path has one early and one late in the same sample.
        let n_repeat =
            times(SAMPLE, once.as_secs_f64()).max((n_step_turn + 1).div_ceil(n_step.max(1)));
        Self { n_repeat, n_step: n_step * n_repeat, n_step_turn }
    }

    /// The lengths of the turns in decodes.
    pub(super) fn turns(self) -> impl Iterator<Item = usize> {
        let Self { n_step, n_step_turn, .. } = self;
        (0..n_step).step_by(n_step_turn).map(move |start| n_step_turn.min(n_step - start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(n_step: usize, millis: u64) -> (Pace, usize) {
        let pace = Pace::new(n_step, Duration::from_millis(millis));
        assert_eq!(pace.turns().sum::<usize>(), pace.n_step);
        (pace, pace.turns().count())
    }

    #[test]
    fn slow_work_alternates_with_every_decode() {
        // A prefill of three seconds: twice. 128 tokens of 60 ms: once, a turn for each.
        assert_eq!(pace(1, 3000), (Pace { n_repeat: 2, n_step: 2, n_step_turn: 1 }, 2));
        assert_eq!(pace(128, 7680), (Pace { n_repeat: 1, n_step: 128, n_step_turn: 1 }, 128));
    }

    #[test]
    fn fast_work_is_repeated_in_turns_of_some_length() {
        assert_eq!(pace(1, 5), (Pace { n_repeat: 100, n_step: 100, n_step_turn: 4 }, 25));
        assert_eq!(pace(128, 64), (Pace { n_repeat: 8, n_step: 1024, n_step_turn: 40 }, 26));
        // Work that takes no time at all has an end, too.
        assert!(Pace::new(1, Duration::ZERO).n_step > 0);
    }
}
