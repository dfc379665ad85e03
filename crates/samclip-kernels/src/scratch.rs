//! Reusable 64-byte aligned buffers, one pool for the process.
//!
//! Global rather than per thread: training drivers and pools come and go, and a
//! buffer of tens of megabytes is worth more than an uncontended lock.
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::collections::BTreeMap;
use std::sync::Mutex;

const ALIGN: usize = 64;
/// Words the pool keeps at most (512 MiB).
const KEEP: usize = 1 << 27;

/// A buffer of at least the requested number of f32 words with unspecified
/// content; returns to the pool when dropped.
pub(crate) struct Scratch {
    ptr: *mut f32,
    words: usize,
    /// Every word was written at some time.
    init: bool,
}

#[derive(Default)]
struct Pool {
    /// Free buffers by size.
    free: BTreeMap<usize, Vec<Scratch>>,
    words: usize,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { free: BTreeMap::new(), words: 0 });

// SAFETY: the buffer is owned; it is plain memory.
unsafe impl Send for Scratch {}
// SAFETY: shared access only reads the pointer value.
unsafe impl Sync for Scratch {}

impl Scratch {
    /// The smallest free buffer that fits and wastes less than half, or a new one.
    pub(crate) fn take(words: usize) -> Self {
        let words = Self::class(words);
        if let Ok(mut pool) = POOL.lock() {
            let size = pool.free.range(words..2 * words).next().map(|(&size, _)| size);
            if let Some(size) = size {
                let list = pool.free.get_mut(&size).expect("the size was just found");
                let buffer = list.pop().expect("lists in the pool are not empty");
                if list.is_empty() {
                    pool.free.remove(&size);
                }
                pool.words -= size;
                return buffer;
            }
        }
        Self::alloc(words)
    }

    /// Four sizes per octave, so that buffers meet again.
    fn class(words: usize) -> usize {
        let words = words.max(1024);
        let step = words.next_power_of_two() / 8;
        words.next_multiple_of(step)
    }

    fn alloc(words: usize) -> Self {
        let layout = Self::layout(words);
        // SAFETY: the layout is not empty.
        let ptr = unsafe { alloc(layout) }.cast::<f32>();
        if ptr.is_null() {
            handle_alloc_error(layout);
        }
        Self { ptr, words, init: false }
    }

    fn layout(words: usize) -> Layout {
        Layout::from_size_align(words * 4, ALIGN).expect("scratch size fits isize")
    }

    /// For kernels that write before they read.
    pub(crate) fn ptr(&self) -> *mut f32 {
        self.ptr
    }

    /// The first `words` words, initialised with something.
    pub(crate) fn slice(&mut self, words: usize) -> &mut [f32] {
        assert!(words <= self.words);
        // SAFETY: inside the allocation, initialised here if never before, and
        // borrowed mutably.
        unsafe {
            if !self.init {
                std::ptr::write_bytes(self.ptr, 0, self.words);
                self.init = true;
            }
            std::slice::from_raw_parts_mut(self.ptr, words)
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let Self { ptr, words, init } = *self;
        if let Ok(mut pool) = POOL.lock()
            && pool.words + words <= KEEP
        {
            pool.words += words;
            pool.free.entry(words).or_default().push(Self { ptr, words, init });
            return;
        }
        // SAFETY: allocated by `alloc` with the same layout, not used afterwards.
        unsafe { dealloc(ptr.cast(), Self::layout(words)) }
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
