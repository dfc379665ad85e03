//! Shared by the tests: every tier in turn, deterministic data, comparison.
use crate::isa::{self, Isa};
use std::sync::Mutex;

static LOCK: Mutex<()> = Mutex::new(());

/// Runs `f` under every tier the machine has; one test at a time.
pub fn every_tier(mut f: impl FnMut(Isa)) {
    let _guard = LOCK.lock().unwrap_or_else(|e| e.into_inner());
    for isa in isa::available() {
        isa::force(isa);
        f(isa);
    }
    isa::force(Isa::Amx);
}

/// `n` values in -1..1 from a seed (splitmix64).
pub fn data(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..n)
        .map(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

/// Relative L2 distance.
pub fn distance(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let num: f64 = got.iter().zip(want).map(|(&g, &w)| (f64::from(g) - w).powi(2)).sum();
    let den: f64 = want.iter().map(|w| w * w).sum();
    if den == 0.0 { num.sqrt() } else { (num / den).sqrt() }
}

/// Panics with the place when the relative L2 distance exceeds `tolerance`.
pub fn close(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    let d = distance(got, want);
    assert!(d <= tolerance, "{what}: relative distance {d:e}, allowed {tolerance:e}");
}
