//! What the C library does with freed memory.

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
