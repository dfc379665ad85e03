//! bf16 products by AVX-512's `VDPBF16PS`: two multiply-adds for each lane, sums in f32.
//!
//! Denormals count as zero and sums round to nearest whatever the thread's mode is (Intel's Software
//! Developer's Manual, volume 2, VDPBF16PS). Twice the products of f32 on AMD's Zen 4 and 5.
use crate::attention::Forward;
use crate::bf16::{DOTS, Products};
use crate::bf16_pack::mask;
use crate::engine::Start;
use crate::simd::Simd;
use std::arch::x86_64::*;

/// AVX-512 BF16; only made where [`crate::isa::Isa::Avx512Bf16`] is the tier.
#[derive(Clone, Copy)]
pub(crate) struct Dots;

impl Products for Dots {
    #[inline(always)]
    unsafe fn begin(self) {}

    #[inline(always)]
    unsafe fn end(self) {}

    #[inline(always)]
    unsafe fn mul(
        self, size: [usize; 3], a: *const u16, b: *const u16, c: *mut f32, ldc: usize, start: Start, _next: Option<*const u16>,
    ) {
        // SAFETY: contract of the trait.
        unsafe { mul(size, a, b, c, ldc, start) }
    }

    #[inline(always)]
    unsafe fn attend<S: Simd>(self, s: S, head: Forward) {
        // SAFETY: contract of the trait.
        unsafe { head.run_on(s, DOTS) }
    }
}

/// Rows of a block; half a tile.
const ROWS: usize = 8;

/// Blocks of 8 x 32 over packed panels.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn mul([m, n, k]: [usize; 3], a: *const u16, b: *const u16, c: *mut f32, ldc: usize, start: Start) {
    let kt = k.div_ceil(32);
    for j in (0..n).step_by(32) {
        let columns = 32.min(n - j);
        let masks = [mask(columns.min(16)), mask(columns.saturating_sub(16))];
        for i in (0..m).step_by(ROWS) {
            // SAFETY: panels are padded to 32 in both directions; C is only touched inside m x n.
            unsafe {
                let rows = a.add(i / 32 * kt * 1024 + i % 32 * 32);
                let acc = block(rows, b.add(j * kt * 32), kt);
                for (r, acc) in acc.iter().enumerate().take(m - i) {
                    let to = c.add((i + r) * ldc + j);
                    let from = match start {
                        Start::Zero => None,
                        Start::Add => Some(to.cast_const()),
                        Start::Bias(bias) => Some(bias.add(j)),
                    };
                    for (half, (&v, &live)) in acc.iter().zip(&masks).enumerate() {
                        let first = from.map(|from| _mm512_maskz_loadu_ps(live, from.wrapping_add(16 * half)));
                        let v = first.map_or(v, |first| _mm512_add_ps(v, first));
                        _mm512_mask_storeu_ps(to.wrapping_add(16 * half), live, v);
                    }
                }
            }
        }
    }
}

/// 8 x 32 products over `kt` tiles of depth.
///
/// # Safety
/// `a` is a row of a packed panel with seven behind it in the same tile, `b` a packed panel; both of `kt` tiles.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn block(a: *const u16, b: *const u16, kt: usize) -> [[__m512; 2]; ROWS] {
    let mut acc = [[_mm512_setzero_ps(); 2]; ROWS];
    let pairs = |v: __m512i| unsafe {
        // SAFETY: both are 64 bytes without padding.
        std::mem::transmute::<__m512i, __m512bh>(v)
    };
    for t in 0..kt {
        for p in 0..16 {
            // SAFETY: tile t and the one beside it; pair p of 16 columns or of one row.
            unsafe {
                let columns = b.add(t * 1024 + p * 32);
                let b0 = pairs(_mm512_load_si512(columns.cast()));
                let b1 = pairs(_mm512_load_si512(columns.add(512).cast()));
                for (r, acc) in acc.iter_mut().enumerate() {
                    let x = pairs(_mm512_set1_epi32(*a.add(t * 1024 + r * 32 + p * 2).cast::<i32>()));
                    acc[0] = _mm512_dpbf16_ps(acc[0], x, b0);
                    acc[1] = _mm512_dpbf16_ps(acc[1], x, b1);
                }
            }
        }
    }
    acc
}
