//! Counts what a thread allocates, so that a test can say of a path that it allocates nothing.
//! Compiled into this crate's unit tests only.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: everything is handed on to the system's allocator, unchanged; the counter is a plain
// number of the thread's own, which needs no allocation itself.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// A thread that ends has no counter any more.
fn count() {
    let _ = COUNT.try_with(|count| count.set(count.get() + 1));
}

/// What `work` returns, and how often this thread has allocated meanwhile.
pub(crate) fn during<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let before = COUNT.get();
    let result = work();
    (result, COUNT.get() - before)
}

#[cfg(test)]
mod tests {
    #[test]
    fn allocations_are_counted() {
        assert_eq!(super::during(|| ()).1, 0);
        let (kept, count) = super::during(|| vec![Box::new(1), Box::new(2)]);
        assert_eq!((kept.len(), count), (2, 3));
    }
}
