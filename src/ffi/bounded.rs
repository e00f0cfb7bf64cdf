//! An allocator under which a thread can be given an account of memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, Thread};

/// The program's allocator, and a limit of memory for what a stranger's file may run: a model's chat
/// template.
///
/// Fuel ends a template that runs on and on, but a list that doubles 33 times takes few steps and all
/// memory. Under this allocator the template is refused as an error, and what it was doing is stopped.
/// Under any other one nothing stops it: after some seconds there is an error, and it goes on. The
/// `candor` program has it. A program around the library declares it:
///
/// ```
/// #[global_allocator]
/// static ALLOCATOR: candor::Bounded = candor::Bounded::system();
/// ```
///
/// Memory is counted for threads that render a template and for no others; what the rest pays is the
/// question which thread it is, at each call. What was stopped keeps what it holds until the program
/// ends: an allocator may not unwind.
#[derive(Debug)]
pub struct Bounded<A = System>(A);

impl Bounded {
    /// Around the system's allocator.
    #[must_use]
    pub const fn system() -> Self {
        Self(System)
    }
}

impl<A> Bounded<A> {
    /// Around another allocator.
    #[must_use]
    pub const fn around(allocator: A) -> Self {
        Self(allocator)
    }
}

thread_local! {
    /// The account of this thread; null where nothing is counted. What it points to lives as long as
    /// the call of [`Account::spend`] that set it.
    static ACCOUNT: Cell<*const Account> = const { Cell::new(ptr::null()) };
}

/// What a thread may hold. It cannot go beyond: the thread that would stops for good.
#[derive(Debug)]
pub(crate) struct Account {
    /// Bytes that may still be taken. Changed by the thread that spends and by no other.
    n_left: AtomicUsize,
    /// Nothing may be taken any more.
    is_over: AtomicBool,
    is_done: AtomicBool,
    waiter: Thread,
}

impl Account {
    /// An account of `n_byte`, on whose end the thread that calls this can wait.
    pub(crate) fn new(n_byte: usize) -> Arc<Self> {
        let waiter = thread::current();
        let [is_over, is_done] = [AtomicBool::new(false), AtomicBool::new(false)];
        Arc::new(Self { n_left: AtomicUsize::new(n_byte), is_over, is_done, waiter })
    }

    /// Does some work on this account. Where that takes more than there is, this never returns: an
    /// allocator may not unwind, so the thread sleeps, with what it holds, until the program ends.
    pub(crate) fn spend<T>(self: Arc<Self>, work: impl FnOnce() -> T) -> T {
        struct Spending {
            account: Arc<Account>,
            before: *const Account,
        }

        impl Drop for Spending {
            fn drop(&mut self) {
                ACCOUNT.set(self.before);
                self.account.is_done.store(true, Ordering::Release);
                self.account.waiter.unpark();
            }
        }

        let before = ACCOUNT.replace(Arc::as_ptr(&self));
        let _spending = Spending { account: self, before };
        work()
    }

    /// The work has come to its end, be it by a panic.
    pub(crate) fn is_done(&self) -> bool {
        self.is_done.load(Ordering::Acquire)
    }

    /// The thread has stopped, or will where it next takes memory.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// Nothing may be taken from now on.
    pub(crate) fn close(&self) {
        self.is_over.store(true, Ordering::Release);
    }

    fn take(&self, n_byte: usize) {
        let n_left = self.n_left.load(Ordering::Relaxed);
        // A thread that panics may say why: it has locked the terminal.
        if (n_left < n_byte || self.is_over()) && !thread::panicking() {
            self.stop();
        }
        self.n_left.store(n_left.saturating_sub(n_byte), Ordering::Relaxed);
    }

    /// What was taken elsewhere and is freed here only makes the account larger.
    fn give(&self, n_byte: usize) {
        let n_left = self.n_left.load(Ordering::Relaxed);
        self.n_left.store(n_left.saturating_add(n_byte), Ordering::Relaxed);
    }

    fn stop(&self) -> ! {
        ACCOUNT.set(ptr::null());
        self.close();
        self.waiter.unpark();
        loop {
            thread::park();
        }
    }
}

/// Has this thread's account changed, where it has one.
fn with_account(change: impl FnOnce(&Account)) {
    // A thread that is ending may have no account any more, and spends nothing.
    let account = ACCOUNT.try_with(Cell::get).unwrap_or(ptr::null());
    // SAFETY: it is null, or `spend` is at work further up this thread's stack and holds the account
    // until it has set the pointer back.
    if let Some(account) = unsafe { account.as_ref() } {
        change(account);
    }
}

// SAFETY: every call is handed to the allocator within unchanged, which keeps the contract. What comes
// before and after neither allocates nor unwinds: it reads and writes atomics, or never returns.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Bounded<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        with_account(|account| account.take(layout.size()));
        // SAFETY: the caller's promise about the layout is the one that the allocator within needs.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        // SAFETY: the piece came from the allocator within, through this one, with this layout.
        unsafe { self.0.dealloc(piece, layout) };
        with_account(|account| account.give(layout.size()));
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        with_account(|account| account.take(layout.size()));
        // SAFETY: as for `alloc`.
        unsafe { self.0.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, n_byte: usize) -> *mut u8 {
        // While it moves, both pieces may be there.
        with_account(|account| account.take(n_byte));
        // SAFETY: as for `dealloc`, and the caller's promise about the new size is the one needed.
        let moved = unsafe { self.0.realloc(piece, layout, n_byte) };
        with_account(|account| account.give(if moved.is_null() { n_byte } else { layout.size() }));
        moved
    }
}

/// The library's own tests run under it.
#[cfg(test)]
#[global_allocator]
static ALLOCATOR: Bounded = Bounded::system();
