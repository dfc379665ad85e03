//! Reusable 64-byte aligned buffers, one pool per thread.
use std::alloc::{Layout, dealloc, handle_alloc_error};
use std::cell::RefCell;

const ALIGN: usize = 64;
const KEEP: usize = 24;

/// A buffer of at least the requested number of f32 words with unspecified
/// (but initialised) content; returns to the thread's pool when dropped.
pub(crate) struct Scratch {
    ptr: *mut f32,
    words: usize,
}

thread_local! {
    static POOL: RefCell<Vec<Scratch>> = const { RefCell::new(Vec::new()) };
}

// SAFETY: the buffer is owned; it is plain memory.
unsafe impl Send for Scratch {}
// SAFETY: shared access only reads the pointer value.
unsafe impl Sync for Scratch {}

impl Scratch {
    /// Takes the smallest fitting buffer of the pool or makes one.
    pub(crate) fn take(words: usize) -> Self {
        let words = words.max(16);
        let found = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            let fit = pool.iter().enumerate().filter(|(_, b)| b.words >= words && b.words / 8 <= words);
            let best = fit.min_by_key(|(_, b)| b.words).map(|(i, _)| i);
            best.map(|i| pool.swap_remove(i))
        });
        found.ok().flatten().unwrap_or_else(|| Self::alloc(words.next_multiple_of(1024)))
    }

    fn alloc(words: usize) -> Self {
        let layout = Self::layout(words);
        // SAFETY: the layout is not empty; zeroing makes every word initialised.
        let ptr = unsafe { std::alloc::alloc_zeroed(layout) }.cast::<f32>();
        if ptr.is_null() {
            handle_alloc_error(layout);
        }
        Self { ptr, words }
    }

    fn layout(words: usize) -> Layout {
        Layout::from_size_align(words * 4, ALIGN).expect("scratch size fits isize")
    }

    pub(crate) fn ptr(&self) -> *mut f32 {
        self.ptr
    }

    /// The first `words` words.
    pub(crate) fn slice(&mut self, words: usize) -> &mut [f32] {
        assert!(words <= self.words);
        // SAFETY: inside the allocation, initialised, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.ptr, words) }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let (ptr, words) = (self.ptr, self.words);
        let kept = POOL.try_with(|pool| {
            let Ok(mut pool) = pool.try_borrow_mut() else { return false };
            if pool.len() < KEEP {
                pool.push(Self { ptr, words });
                return true;
            }
            false
        });
        if !kept.unwrap_or(false) {
            // SAFETY: allocated by `alloc` with the same layout, not used afterwards.
            unsafe { dealloc(ptr.cast(), Self::layout(words)) }
        }
    }
}

/// A pointer that parallel tasks may share because they touch disjoint parts.
#[derive(Clone, Copy)]
pub(crate) struct SharedPtr(*mut f32);

// SAFETY: every user writes disjoint ranges per task (stated at each use).
unsafe impl Send for SharedPtr {}
// SAFETY: as above.
unsafe impl Sync for SharedPtr {}

impl SharedPtr {
    pub(crate) fn new(p: *mut f32) -> Self {
        Self(p)
    }
    pub(crate) fn of(s: &mut [f32]) -> Self {
        Self(s.as_mut_ptr())
    }
    pub(crate) fn get(self) -> *mut f32 {
        self.0
    }
}
