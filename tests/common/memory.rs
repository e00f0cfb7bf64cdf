//! How much memory something takes: an allocator that counts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering::Relaxed};

/// Counts what is held, and the most that was held and asked for at once, by all threads. A test binary
/// makes it its global allocator, and measures one thing at a time.
pub struct Counting;

/// Bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Memory {
    /// The most that was held beyond what was held before.
    pub peak: isize,
    /// The largest piece that was asked for.
    pub largest: usize,
}

static HELD: AtomicIsize = AtomicIsize::new(0);
static PEAK: AtomicIsize = AtomicIsize::new(0);
static LARGEST: AtomicUsize = AtomicUsize::new(0);

/// What `work` gives, and the memory that it took.
pub fn measured<T>(work: impl FnOnce() -> T) -> (T, Memory) {
    let before = HELD.load(Relaxed);
    PEAK.store(before, Relaxed);
    LARGEST.store(0, Relaxed);
    let result = work();
    (result, Memory { peak: PEAK.load(Relaxed) - before, largest: LARGEST.load(Relaxed) })
}

fn count(freed: usize, made: usize) {
    let change = made as isize - freed as isize;
    let held = HELD.fetch_add(change, Relaxed) + change;
    PEAK.fetch_max(held, Relaxed);
    LARGEST.fetch_max(made, Relaxed);
}

// SAFETY: every call is handed to the system's allocator unchanged, which keeps the contract. The
// counting in between neither allocates nor unwinds: atomics wrap, and a size fits `isize`.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(0, layout.size());
        // SAFETY: the caller's promise about the layout is the one that `System` needs.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        count(layout.size(), 0);
        // SAFETY: the piece came from `System`, through this allocator, with this layout.
        unsafe { System.dealloc(piece, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(0, layout.size());
        // SAFETY: as for `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, n_byte: usize) -> *mut u8 {
        // While it moves, both pieces are there.
        count(0, n_byte);
        // SAFETY: as for `dealloc`, and the caller's promise about the new size holds for `System`.
        let moved = unsafe { System.realloc(piece, layout, n_byte) };
        count(layout.size(), 0);
        moved
    }
}
