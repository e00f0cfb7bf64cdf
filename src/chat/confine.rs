//! Work of which nobody knows what it takes: a limit of memory, of stack and of time.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::ffi::bounded::Account;

/// What some work may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Bytes that it holds at once, counted where the program's allocator is [`crate::Bounded`].
    pub(super) memory: usize,
    /// Bytes of its stack, which is memory once it is used.
    pub(super) stack: usize,
    pub(super) time: Duration,
}

/// Why work that was confined gave nothing.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(super) enum Overrun {
    #[error("it takes more than {} MB of memory", .0 / 1_000_000)]
    Memory(usize),
    #[error("it takes more than {} s", .0.as_secs_f32())]
    Time(Duration),
    #[error("it made the engine panic")]
    Panic,
    #[error("it needs a thread of its own, and {0}")]
    Thread(String),
}

/// Does some work on a thread of its own.
///
/// What overruns is left behind: its thread sleeps with what it holds, and one that is out of time goes
/// on until it takes memory next. So it must not be what others wait for: no lock, and nothing that is
/// made once for all.
///
/// # Errors
/// [`Overrun`].
pub(super) fn confine<T: Send + 'static>(
    limits: Limits,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Overrun> {
    let end = Instant::now() + limits.time;
    let account = Account::new(limits.memory);
    let spent = Arc::clone(&account);
    let thread = thread::Builder::new()
        .stack_size(limits.stack)
        .spawn(move || spent.spend(work))
        .map_err(|error| Overrun::Thread(error.to_string()))?;
    while !account.is_done() {
        if account.is_over() {
            return Err(Overrun::Memory(limits.memory));
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            account.close();
            return Err(Overrun::Time(limits.time));
        }
        thread::park_timeout(left);
    }
    thread.join().map_err(|_| Overrun::Panic)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { memory: 100_000, stack: 1 << 20, time: Duration::from_secs(600) };

    #[test]
    fn work_within_its_limits_gives_what_it_gives() {
        // A hundred times the limit in all, never more than half of it at once.
        let work = || (0_usize..100).map(|i| vec![i; 5_000].len() / 5_000).sum::<usize>();
        assert_eq!(confine(LIMITS, work), Ok(100));
    }

    #[test]
    fn work_that_takes_too_much_memory_is_left() {
        let at_once = confine(LIMITS, || vec![0_u8; 200_000]);
        assert_eq!(at_once, Err(Overrun::Memory(100_000)));
        let by_and_by = confine(LIMITS, || (0_u64..100_000).map(|i| [i; 4]).collect::<Vec<_>>());
        assert_eq!(by_and_by, Err(Overrun::Memory(100_000)));
        let in_pieces = confine(LIMITS, || (0..100_000).map(Box::new).collect::<Vec<_>>());
        assert_eq!(in_pieces, Err(Overrun::Memory(100_000)));
    }

    #[test]
    fn what_is_freed_may_be_taken_again() {
        let work = || {
            let mut text = String::new();
            for _ in 0..100 {
                text = "a".repeat(40_000);
            }
            text.len()
        };
        assert_eq!(confine(LIMITS, work), Ok(40_000));
    }

    #[test]
    fn work_that_takes_too_long_is_left() {
        let limits = Limits { time: Duration::from_millis(50), ..LIMITS };
        let start = Instant::now();
        // It sleeps from the next piece of memory on.
        let slow = confine(limits, || {
            loop {
                thread::sleep(Duration::from_millis(1));
                drop(std::hint::black_box(Box::new(0)));
            }
        });
        assert_eq!(slow, Err::<(), _>(Overrun::Time(limits.time)));
        assert!(start.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_panic_is_told() {
        assert_eq!(confine(LIMITS, || panic!("as it must")), Err::<(), _>(Overrun::Panic));
    }
}
