//! Rows to bf16 operands, with what stands before a product in the same pass: layer norm, GELU.
//!
//! Functions are of bf16 grade: their error is far below the rounding of the operand that they
//! fill. exp2: minimax polynomial of degree 4 on [0, 1), 2.6e-6 relative. Normal distribution:
//! Abramowitz and Stegun (1964) 7.1.26, 1.5e-7 absolute, with an approximate reciprocal.
use crate::block::{Activation, Norm};
use std::arch::x86_64::*;
use std::f32::consts::LOG2_E;

/// Row `r` inside the first tile of its rows: operand A, `kt` tiles of depth.
///
/// # Safety
/// `a` covers the packed row.
#[inline]
pub(crate) unsafe fn tile_row(a: *mut u16, kt: usize, r: usize) -> *mut u16 {
    // SAFETY: contract above.
    unsafe { a.add((r / 32 * kt * 2 + r / 16 % 2) * 512 + r % 16 * 32) }
}

/// 2^x; zero below -126, infinite above 128; NaN stays NaN.
///
/// Subnormal results would cost a microcode assist for each vector, so lanes that have one are not scaled.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(crate) fn exp2(x: __m512) -> __m512 {
    let live = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, _mm512_set1_ps(-126.0));
    let f = _mm512_reduce_ps::<{ _MM_FROUND_TO_NEG_INF }>(x);
    let mut p = _mm512_set1_ps(0.013_534_168);
    for c in [0.052_011_46, 0.241_442_75, 0.693_003_83, 1.000_002_6] {
        p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(c));
    }
    _mm512_maskz_scalef_ps(live, p, x)
}

/// `x Phi(x)`
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn gelu(x: __m512) -> __m512 {
    // Past 14 the tail is zero; the clamp keeps infinities out.
    let z = _mm512_min_ps(_mm512_set1_ps(14.0), _mm512_abs_ps(x));
    let slope = _mm512_set1_ps(0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2);
    let t = _mm512_rcp14_ps(_mm512_fmadd_ps(z, slope, _mm512_set1_ps(1.0)));
    // Half of the published coefficients: the upper tail of the distribution.
    let mut p = _mm512_set1_ps(0.530_702_7);
    for c in [-0.726_576_01, 0.710_706_87, -0.142_248_37, 0.127_414_8] {
        p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(c));
    }
    let square = _mm512_mul_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(-0.5 * LOG2_E));
    let tail = _mm512_mul_ps(_mm512_mul_ps(p, t), exp2(square));
    // x Phi(x) = max(x, 0) - |x| tail
    _mm512_fnmadd_ps(z, tail, _mm512_max_ps(_mm512_setzero_ps(), x))
}

/// `x sigmoid(1.702 x)`
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn quick_gelu(x: __m512) -> __m512 {
    let x = _mm512_max_ps(_mm512_set1_ps(-60.0), x);
    let e = exp2(_mm512_mul_ps(x, _mm512_set1_ps(-1.702 * LOG2_E)));
    _mm512_mul_ps(x, _mm512_rcp14_ps(_mm512_add_ps(e, _mm512_set1_ps(1.0))))
}

/// Two vectors as one row of a tile.
///
/// # Safety
/// `to` is a tile's row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn put(to: *mut u16, a: __m512, b: __m512) {
    // SAFETY: contract above; rows of tiles are 64 bytes, aligned.
    unsafe {
        let ab = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(b, a));
        _mm512_store_si512(to.cast(), ab);
    }
}

/// Packs `activation(y)`, `rows` rows of `k` floats, `k` a multiple of 32.
///
/// # Safety
/// `y` covers rows x k, `dst` the packed rows; the tier has AVX-512 BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(crate) unsafe fn pack_activation(activation: Activation, y: *const f32, rows: usize, k: usize, dst: *mut u16) {
    for r in 0..rows {
        // SAFETY: contract above.
        unsafe {
            let (y, to) = (y.add(r * k), tile_row(dst, k / 32, r));
            for j in (0..k).step_by(32) {
                let (a, b) = (_mm512_loadu_ps(y.add(j)), _mm512_loadu_ps(y.add(j + 16)));
                let to = to.add(j / 32 * 1024);
                match activation {
                    Activation::Gelu => put(to, gelu(a), gelu(b)),
                    Activation::QuickGelu => put(to, quick_gelu(a), quick_gelu(b)),
                }
            }
        }
    }
}

/// Packs `a + b`, `rows` rows of `k` floats, `k` a multiple of 32.
///
/// # Safety
/// Both cover rows x k, `dst` the packed rows; the tier has AVX-512 BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(crate) unsafe fn pack_sum(a: *const f32, b: *const f32, rows: usize, k: usize, dst: *mut u16) {
    for r in 0..rows {
        // SAFETY: contract above.
        unsafe {
            let to = tile_row(dst, k / 32, r);
            for j in (0..k).step_by(32) {
                let at = |i: usize| _mm512_add_ps(_mm512_loadu_ps(a.add(r * k + i)), _mm512_loadu_ps(b.add(r * k + i)));
                put(to.add(j / 32 * 1024), at(j), at(j + 16));
            }
        }
    }
}

/// Packs the layer norm of one row as row `r`, in depth blocks of `kc` (both multiples of 32).
/// `block_words`: bf16 elements of one depth block of all rows.
///
/// # Safety
/// `x` covers the floats of the norm, `dst` the packed rows; the tier has AVX-512 BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(crate) unsafe fn pack_norm(x: *const f32, norm: &Norm, r: usize, kc: usize, block: usize, dst: *mut u16) {
    let n = norm.weight.len();
    // SAFETY: contract above; the parameters have n floats.
    unsafe {
        let mut sum = _mm512_setzero_ps();
        for j in (0..n).step_by(16) {
            sum = _mm512_add_ps(sum, _mm512_loadu_ps(x.add(j)));
        }
        let mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / n as f32);
        let mut square = _mm512_setzero_ps();
        for j in (0..n).step_by(16) {
            let c = _mm512_sub_ps(_mm512_loadu_ps(x.add(j)), mean);
            square = _mm512_fmadd_ps(c, c, square);
        }
        let variance = _mm512_reduce_add_ps(square) / n as f32;
        let scale = _mm512_set1_ps(1.0 / (variance + norm.eps).sqrt());
        let (weight, bias) = (norm.weight.as_ptr(), norm.bias.as_ptr());
        for first in (0..n).step_by(kc) {
            let depth = kc.min(n - first);
            let to = tile_row(dst.add(first / kc * block), depth / 32, r);
            for j in (0..depth).step_by(32) {
                let at = |o: usize| {
                    let i = first + j + o;
                    let h = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(x.add(i)), mean), scale);
                    _mm512_fmadd_ps(h, _mm512_loadu_ps(weight.add(i)), _mm512_loadu_ps(bias.add(i)))
                };
                put(to.add(j / 32 * 1024), at(0), at(16));
            }
        }
    }
}
