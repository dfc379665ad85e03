//! Matrices to packed bf16: the layouts of `bf16.rs` from dense rows or columns of f32.
use crate::engine::Mat;
use crate::simd::transpose_16;
use std::arch::x86_64::*;

/// Packs `outer` x `k` in groups of 32 outer elements. `rows`: a tile row is
/// one outer element (operand A); otherwise a tile row is one pair of depths
/// (operand B).
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(crate) unsafe fn pack(src: Mat, outer: usize, k: usize, dst: *mut u16, rows: bool) {
    let kt = k.div_ceil(32);
    let outer_contiguous = src.rs == 1 && src.cs != 1;
    let groups = outer.next_multiple_of(32) / 16;
    // Memory is walked along its rows, whichever way they lie.
    for t in 0..groups * kt {
        let (o, kb) = if outer_contiguous { (t % groups, t / groups) } else { (t / kt, t % kt) };
        let live = 16.min(outer.saturating_sub(o * 16));
        let depth = 32.min(k - kb * 32);
        // SAFETY: the source offset is taken only when something is live there;
        // loads are masked to `live` x `depth`; the tile is inside dst.
        unsafe {
            let d = dst.add(((o / 2 * kt + kb) * 2 + o % 2) * 512).cast::<__m512i>();
            if live == 0 {
                (0..16).for_each(|r| _mm512_store_si512(d.add(r), _mm512_setzero_si512()));
                continue;
            }
            let s = src.at(o * 16, kb * 32);
            debug_assert!(outer_contiguous || src.cs == 1);
            let turn = rows == outer_contiguous;
            if live == 16 && depth == 32 {
                tile::<true>(s, [16, 32], outer_contiguous, turn, d);
            } else {
                tile::<false>(s, [live, depth], outer_contiguous, turn, d);
            }
        }
    }
}

/// One tile, `live` outer elements and `depth` depths of it; `FULL`: all of them, bounds that keep it in registers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn tile<const FULL: bool>(s: Mat, size: [usize; 2], outer_contiguous: bool, turn: bool, d: *mut __m512i) {
    let [live, depth] = if FULL { [16, 32] } else { size };
    let mut t = [_mm512_setzero_si512(); 16];
    // SAFETY: contract of `pack`.
    unsafe {
        if outer_contiguous {
            read_pairs(s, live, depth, &mut t);
        } else {
            read_rows(s, live, depth, &mut t);
        }
        if turn {
            transpose(&mut t);
        }
        for (r, &v) in t.iter().enumerate() {
            _mm512_store_si512(d.add(r), v);
        }
    }
}

/// Vector i: the 32 depths of outer element i.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn read_rows(s: Mat, live: usize, depth: usize, t: &mut [__m512i; 16]) {
    let lo = mask(depth.min(16));
    let hi = mask(depth.saturating_sub(16));
    for (i, v) in t.iter_mut().enumerate().take(live) {
        // SAFETY: row i < live; the masks end at `depth`, and masked lanes are
        // not accessed.
        unsafe {
            let p = s.ptr.add(i * s.rs);
            let a = _mm512_maskz_loadu_ps(lo, p);
            let b = _mm512_maskz_loadu_ps(hi, p.wrapping_add(16));
            *v = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(b, a));
        }
    }
}

/// Vector r: depths 2r and 2r+1 of 16 outer elements, interleaved.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn read_pairs(s: Mat, live: usize, depth: usize, t: &mut [__m512i; 16]) {
    let m = mask(live);
    let interleave = _mm512_set_epi16(
        31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1,
        16, 0,
    );
    for (r, v) in t.iter_mut().enumerate().take(depth.div_ceil(2)) {
        // SAFETY: depth 2r < depth, 2r+1 only where it exists; lanes masked to live.
        unsafe {
            let p = s.ptr.add(2 * r * s.cs);
            let a = _mm512_maskz_loadu_ps(m, p);
            let b = if 2 * r + 1 < depth { _mm512_maskz_loadu_ps(m, p.add(s.cs)) } else { _mm512_setzero_ps() };
            let ab = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(b, a));
            *v = _mm512_permutexvar_epi16(interleave, ab);
        }
    }
}

/// The first `n` of 16 lanes.
#[inline]
pub(crate) fn mask(n: usize) -> u16 {
    ((1u32 << n) - 1) as u16
}

/// 16 x 16 transpose of 32-bit elements.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn transpose(t: &mut [__m512i; 16]) {
    // SAFETY: both kinds of vector are 64 bytes that may be anything.
    transpose_16(unsafe { &mut *std::ptr::from_mut(t).cast() });
}
