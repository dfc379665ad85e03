//! How many images the encoders of this process have encoded: what a run cost, whatever the cache spared it.

use std::sync::atomic::{AtomicU64, Ordering};

static PASSES: AtomicU64 = AtomicU64::new(0);

/// So many more.
pub(crate) fn count(images: usize) {
    PASSES.fetch_add(images as u64, Ordering::Relaxed);
}

/// Images encoded so far.
pub fn so_far() -> u64 {
    PASSES.load(Ordering::Relaxed)
}
