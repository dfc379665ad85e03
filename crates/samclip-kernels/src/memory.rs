//! What the system and the C library do with memory: large pages, freed blocks.
//!
//! A page of 2 MiB costs one fault and one entry of the address cache where 512 small ones cost as many each, which
//! counts double under a hypervisor. Linux gives them in its usual setting (`madvise`) only to those who ask.
use std::alloc::{GlobalAlloc, Layout, System};

/// A large page.
const HUGE: usize = 2 << 20;
/// Requests below this size are left alone: their whole pages are too few.
const LEAST: usize = 2 * HUGE;

/// Asks for large pages inside `bytes` bytes from `ptr`; elsewhere than on Linux it does nothing.
///
/// Only pages that lie inside as a whole: memory outside the request never grows.
fn advise(ptr: *mut u8, bytes: usize) {
    #[cfg(target_os = "linux")]
    if bytes >= LEAST && !ptr.is_null() {
        let skip = ptr.addr().next_multiple_of(HUGE) - ptr.addr();
        let whole = (bytes - skip) / HUGE * HUGE;
        // SAFETY: the range is inside the request; advice changes no content, and its refusal is no error.
        unsafe { libc::madvise(ptr.add(skip).cast(), whole, libc::MADV_HUGEPAGE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (ptr, bytes);
}

/// The system's allocator, which asks for large pages under large requests.
///
/// For programs: `#[global_allocator] static MEMORY: HugePages = HugePages;`.
#[derive(Clone, Copy, Debug)]
pub struct HugePages;

// SAFETY: every request goes to the system's allocator unchanged; advice changes neither place nor content.
unsafe impl GlobalAlloc for HugePages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: contract of the trait.
        let ptr = unsafe { System.alloc(layout) };
        advise(ptr, layout.size());
        ptr
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: contract of the trait.
        let ptr = unsafe { System.alloc_zeroed(layout) };
        advise(ptr, layout.size());
        ptr
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: contract of the trait.
        let ptr = unsafe { System.realloc(ptr, layout, size) };
        advise(ptr, size);
        ptr
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: contract of the trait.
        unsafe { System.dealloc(ptr, layout) }
    }
}

/// The largest request that the heap may serve, in bytes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGEST: libc::c_int = 1 << 30;

/// Keeps what is freed for the next request, instead of giving it back to the system.
///
/// A training step frees and asks for the same hundreds of megabytes over and over; glibc returns every block
/// above 32 MiB at once, and the system clears each page again at its first touch. Peak memory grows by what
/// fragments, so only training asks for it. Returns whether the C library took the advice (glibc alone has it).
pub fn keep_freed() -> bool {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt sets two numbers of the allocator under its own lock.
    return unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGEST) == 1 && libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX) == 1
    };
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    false
}
