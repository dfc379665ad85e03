//! Freed memory stays with the process. One test in a process of its own: it counts the allocator's blocks.
#![cfg(all(target_os = "linux", target_env = "gnu"))]
#![allow(unsafe_code)]

/// Blocks that the allocator has mapped for single requests.
fn mapped() -> usize {
    // SAFETY: mallinfo2 reads counters under the allocator's lock.
    unsafe { libc::mallinfo2() }.hblks
}

#[test]
fn a_large_request_is_served_from_the_heap() {
    let of_40_mib = || {
        let before = mapped();
        let block = std::hint::black_box(vec![1_u8; 40 << 20]);
        (mapped() - before, block.len())
    };
    assert_eq!(of_40_mib(), (1, 40 << 20));
    assert!(samclip_kernels::keep_freed());
    assert_eq!(of_40_mib(), (0, 40 << 20));
}
