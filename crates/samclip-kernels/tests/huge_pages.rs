//! Large requests ask for large pages. A test binary of its own: it has its own allocator.
#![cfg(target_os = "linux")]

use std::fs::read_to_string;

#[global_allocator]
static MEMORY: samclip_kernels::HugePages = samclip_kernels::HugePages;

/// Whether the mapping that holds `address` is advised to have large pages.
fn advised(address: usize) -> bool {
    let mut inside = false;
    for line in read_to_string("/proc/self/smaps").unwrap().lines() {
        let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
        let hex = |text: &str| usize::from_str_radix(text, 16).ok();
        if let Some((from, to)) = range.and_then(|(from, to)| hex(from).zip(hex(to))) {
            inside = (from..to).contains(&address);
        } else if let Some(flags) = line.strip_prefix("VmFlags:").filter(|_| inside) {
            return flags.split_whitespace().any(|flag| flag == "hg");
        }
    }
    panic!("no mapping holds {address:x}");
}

#[test]
fn large_requests_ask_for_large_pages() {
    if read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").is_err() {
        return eprintln!("skipped: this system has no large pages");
    }
    let of = |bytes: usize| std::hint::black_box(vec![1_u8; bytes]);
    let (large, zeroed, small) = (of(16 << 20), std::hint::black_box(vec![0_u8; 16 << 20]), of(1 << 20));
    let middle = |block: &[u8]| block.as_ptr().addr() + block.len() / 2;
    assert!(advised(middle(&large)) && advised(middle(&zeroed)));
    assert!(!advised(middle(&small)));
}
