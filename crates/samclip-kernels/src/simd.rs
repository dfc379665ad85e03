//! One vector interface, three implementations, and the dispatcher.
//!
//! A kernel is a [`Kernel`]: a generic body that is inlined into a function
//! compiled for the chosen instruction set. The values of the implementing
//! types are tokens: they are only made where the CPU has the instructions, so
//! their arithmetic is safe to call.
//!
//! Vectors pass through `for` loops, not through closures of `fold` or `for_each`: a closure is compiled
//! without the instruction set and calls a function for each vector unless it happens to be inlined.
use crate::isa::{self, Isa};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// A vector of `N` f32 lanes. `max`, `min` and `clamp_low` keep NaN of `b`.
pub(crate) trait Simd: Copy + Send + Sync {
    type V: Copy;
    /// Lanes.
    const N: usize;
    /// Rows of the matrix microkernel.
    const MR: usize;
    fn splat(self, x: f32) -> Self::V;
    /// # Safety
    /// `p` must be readable for `N` floats.
    unsafe fn load(self, p: *const f32) -> Self::V;
    /// # Safety
    /// `p` must be readable for `n < N` floats; the other lanes are zero.
    unsafe fn load_n(self, p: *const f32, n: usize) -> Self::V;
    /// # Safety
    /// `p` must be writable for `N` floats.
    unsafe fn store(self, p: *mut f32, v: Self::V);
    /// # Safety
    /// `p` must be writable for `n < N` floats.
    unsafe fn store_n(self, p: *mut f32, v: Self::V, n: usize);
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    fn sqrt(self, a: Self::V) -> Self::V;
    /// Nearest integer, ties to even.
    fn round(self, a: Self::V) -> Self::V;
    /// `p * 2^n` for integral `n` in -126..=127.
    fn scale2(self, p: Self::V, n: Self::V) -> Self::V;
    /// `a < b ? t : f` by lane.
    fn select_lt(self, a: Self::V, b: Self::V, t: Self::V, f: Self::V) -> Self::V;
    fn sum(self, v: Self::V) -> f32;
    fn hmax(self, v: Self::V) -> f32;
    /// Bit i: `a > b` in lane i.
    fn above(self, a: Self::V, b: Self::V) -> u32;
    /// `p[index[i]]` for `n <= N` lanes; the others are unspecified.
    ///
    /// # Safety
    /// `index` is readable for `n` values, which are inside `p` and not negative.
    unsafe fn gather(self, p: *const f32, index: *const i32, n: usize) -> Self::V;
    /// `rows <= 16` rows of `columns <= 16` floats, `rs` apart, as columns: row i of `to`, whose rows are `w` apart,
    /// gets column i.
    ///
    /// # Safety
    /// `from` covers the rows, `to` as many rows of `rows` floats as there are columns.
    #[inline(always)]
    unsafe fn transpose(self, from: *const f32, rs: usize, (rows, columns): (usize, usize), to: *mut f32, w: usize) {
        for i in 0..rows {
            for p in 0..columns {
                // SAFETY: contract above.
                unsafe { *to.add(p * w + i) = *from.add(i * rs + p) };
            }
        }
    }
}

/// What multiplies bf16.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Nothing: products are in f32.
    None,
    /// `VDPBF16PS`.
    Dots,
    /// AMX.
    Tiles,
}

/// A generic kernel body; `run` must be `#[inline(always)]`.
pub(crate) trait Kernel {
    type Output;
    fn run<S: Simd>(self, s: S, unit: Unit) -> Self::Output;
}

/// Runs the body compiled for the current tier.
pub(crate) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    match isa::current() {
        // SAFETY: `isa::current` only names tiers the CPU has.
        Isa::Amx => return unsafe { run_avx512(kernel, Unit::Tiles) },
        // SAFETY: as above.
        Isa::Avx512Bf16 => return unsafe { run_avx512(kernel, Unit::Dots) },
        // SAFETY: as above.
        Isa::Avx512 => return unsafe { run_avx512(kernel, Unit::None) },
        // SAFETY: as above.
        Isa::Avx2 => return unsafe { run_avx2(kernel) },
        Isa::Portable => {}
    }
    kernel.run(Portable, Unit::None)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
fn run_avx512<K: Kernel>(kernel: K, unit: Unit) -> K::Output {
    kernel.run(Avx512(()), unit)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx2(()), Unit::None)
}

/// Eight lanes of plain Rust.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

macro_rules! lanes {
    ($f:expr) => {
        std::array::from_fn(
            #[inline(always)]
            $f,
        )
    };
}

#[rustfmt::skip]
impl Simd for Portable {
    type V = [f32; 8];
    const N: usize = 8;
    const MR: usize = 4;
    #[inline(always)] fn splat(self, x: f32) -> Self::V { [x; 8] }
    #[inline(always)] unsafe fn load(self, p: *const f32) -> Self::V {
        // SAFETY: the caller guarantees 8 readable floats; alignment is not needed.
        unsafe { p.cast::<[f32; 8]>().read_unaligned() }
    }
    #[inline(always)] unsafe fn load_n(self, p: *const f32, n: usize) -> Self::V {
        // SAFETY: the caller guarantees `n` readable floats.
        let src = unsafe { std::slice::from_raw_parts(p, n) };
        let mut v = [0.0; 8];
        v[..n].copy_from_slice(src);
        v
    }
    #[inline(always)] unsafe fn store(self, p: *mut f32, v: Self::V) {
        // SAFETY: the caller guarantees 8 writable floats.
        unsafe { p.cast::<[f32; 8]>().write_unaligned(v) }
    }
    #[inline(always)] unsafe fn store_n(self, p: *mut f32, v: Self::V, n: usize) {
        // SAFETY: the caller guarantees `n` writable floats.
        unsafe { std::ptr::copy_nonoverlapping(v.as_ptr(), p, n) }
    }
    #[inline(always)] fn add(self, a: Self::V, b: Self::V) -> Self::V { lanes!(|i| a[i] + b[i]) }
    #[inline(always)] fn sub(self, a: Self::V, b: Self::V) -> Self::V { lanes!(|i| a[i] - b[i]) }
    #[inline(always)] fn mul(self, a: Self::V, b: Self::V) -> Self::V { lanes!(|i| a[i] * b[i]) }
    #[inline(always)] fn div(self, a: Self::V, b: Self::V) -> Self::V { lanes!(|i| a[i] / b[i]) }
    #[inline(always)] fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V { lanes!(|i| a[i] * b[i] + c[i]) }
    #[inline(always)] fn max(self, a: Self::V, b: Self::V) -> Self::V { lanes!(|i| if a[i] > b[i] { a[i] } else { b[i] }) }
    #[inline(always)] fn min(self, a: Self::V, b: Self::V) -> Self::V { lanes!(|i| if a[i] < b[i] { a[i] } else { b[i] }) }
    #[inline(always)] fn sqrt(self, a: Self::V) -> Self::V { lanes!(|i| a[i].sqrt()) }
    // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer below 2^22.
    #[inline(always)] fn round(self, a: Self::V) -> Self::V { lanes!(|i| (a[i] + 12_582_912.0) - 12_582_912.0) }
    #[inline(always)] fn scale2(self, p: Self::V, n: Self::V) -> Self::V {
        lanes!(|i| p[i] * f32::from_bits((((n[i] as i32) + 127) as u32) << 23))
    }
    #[inline(always)] fn select_lt(self, a: Self::V, b: Self::V, t: Self::V, f: Self::V) -> Self::V {
        lanes!(|i| if a[i] < b[i] { t[i] } else { f[i] })
    }
    #[inline(always)] fn sum(self, v: Self::V) -> f32 { ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])) }
    #[inline(always)] fn hmax(self, v: Self::V) -> f32 { v.iter().fold(f32::NEG_INFINITY, |a, &b| if a > b { a } else { b }) }
    #[inline(always)] fn above(self, a: Self::V, b: Self::V) -> u32 { (0..8).map(|i| u32::from(a[i] > b[i]) << i).sum() }
    #[inline(always)] unsafe fn gather(self, p: *const f32, index: *const i32, n: usize) -> Self::V {
        // SAFETY: the caller's indices are inside `p`.
        lanes!(|i| if i < n { unsafe { *p.add(*index.add(i) as usize) } } else { 0.0 })
    }
}

/// Sixteen lanes; the token proves AVX-512 F/BW/DQ/VL.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

// SAFETY of every block below: the token is only made in `run_avx512`, so the
// CPU has the instructions; memory access is covered by the caller's contract.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
impl Simd for Avx512 {
    type V = __m512;
    const N: usize = 16;
    const MR: usize = 12;
    #[inline(always)] fn splat(self, x: f32) -> __m512 { unsafe { _mm512_set1_ps(x) } }
    #[inline(always)] unsafe fn load(self, p: *const f32) -> __m512 { unsafe { _mm512_loadu_ps(p) } }
    #[inline(always)] unsafe fn load_n(self, p: *const f32, n: usize) -> __m512 { unsafe { _mm512_maskz_loadu_ps((1u32 << n).wrapping_sub(1) as u16, p) } }
    #[inline(always)] unsafe fn store(self, p: *mut f32, v: __m512) { unsafe { _mm512_storeu_ps(p, v) } }
    #[inline(always)] unsafe fn store_n(self, p: *mut f32, v: __m512, n: usize) { unsafe { _mm512_mask_storeu_ps(p, (1u32 << n).wrapping_sub(1) as u16, v) } }
    #[inline(always)] fn add(self, a: __m512, b: __m512) -> __m512 { unsafe { _mm512_add_ps(a, b) } }
    #[inline(always)] fn sub(self, a: __m512, b: __m512) -> __m512 { unsafe { _mm512_sub_ps(a, b) } }
    #[inline(always)] fn mul(self, a: __m512, b: __m512) -> __m512 { unsafe { _mm512_mul_ps(a, b) } }
    #[inline(always)] fn div(self, a: __m512, b: __m512) -> __m512 { unsafe { _mm512_div_ps(a, b) } }
    #[inline(always)] fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 { unsafe { _mm512_fmadd_ps(a, b, c) } }
    #[inline(always)] fn max(self, a: __m512, b: __m512) -> __m512 { unsafe { _mm512_max_ps(a, b) } }
    #[inline(always)] fn min(self, a: __m512, b: __m512) -> __m512 { unsafe { _mm512_min_ps(a, b) } }
    #[inline(always)] fn sqrt(self, a: __m512) -> __m512 { unsafe { _mm512_sqrt_ps(a) } }
    #[inline(always)] fn round(self, a: __m512) -> __m512 { unsafe { _mm512_roundscale_ps::<8>(a) } }
    #[inline(always)] fn scale2(self, p: __m512, n: __m512) -> __m512 { unsafe { _mm512_scalef_ps(p, n) } }
    #[inline(always)] fn select_lt(self, a: __m512, b: __m512, t: __m512, f: __m512) -> __m512 { unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), f, t) } }
    #[inline(always)] fn sum(self, v: __m512) -> f32 { unsafe { _mm512_reduce_add_ps(v) } }
    #[inline(always)] fn hmax(self, v: __m512) -> f32 { unsafe { _mm512_reduce_max_ps(v) } }
    #[inline(always)] fn above(self, a: __m512, b: __m512) -> u32 { unsafe { u32::from(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b)) } }
    #[inline(always)] unsafe fn gather(self, p: *const f32, index: *const i32, n: usize) -> __m512 {
        unsafe {
            let live = if n >= 16 { u16::MAX } else { (1 << n) - 1 };
            let index = _mm512_maskz_loadu_epi32(live, index);
            _mm512_mask_i32gather_ps::<4>(_mm512_setzero_ps(), live, index, p)
        }
    }
    #[inline(always)]
    #[allow(clippy::needless_range_loop)]
    unsafe fn transpose(self, from: *const f32, rs: usize, (rows, columns): (usize, usize), to: *mut f32, w: usize) {
        unsafe {
            let (read, write) = ((1u32 << columns).wrapping_sub(1) as u16, (1u32 << rows).wrapping_sub(1) as u16);
            let mut t = [_mm512_setzero_ps(); 16];
            // Whole loops over sixteen stay in registers; an empty mask touches no memory.
            for i in 0..16 {
                t[i] = _mm512_maskz_loadu_ps(if i < rows { read } else { 0 }, from.wrapping_add(i * rs));
            }
            transpose_16(&mut t);
            for p in 0..16 {
                _mm512_mask_storeu_ps(to.wrapping_add(p * w), if p < columns { write } else { 0 }, t[p]);
            }
        }
    }
}

/// Rows to columns.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(crate) fn transpose_16(t: &mut [__m512; 16]) {
    let mut u = [_mm512_setzero_ps(); 16];
    for i in 0..8 {
        u[2 * i] = _mm512_unpacklo_ps(t[2 * i], t[2 * i + 1]);
        u[2 * i + 1] = _mm512_unpackhi_ps(t[2 * i], t[2 * i + 1]);
    }
    let pair = |a: __m512, b: __m512| (_mm512_castps_pd(a), _mm512_castps_pd(b));
    for b in (0..16).step_by(4) {
        let ((lo0, lo1), (hi0, hi1)) = (pair(u[b], u[b + 2]), pair(u[b + 1], u[b + 3]));
        t[b] = _mm512_castpd_ps(_mm512_unpacklo_pd(lo0, lo1));
        t[b + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(lo0, lo1));
        t[b + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(hi0, hi1));
        t[b + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(hi0, hi1));
    }
    for i in 0..4 {
        u[i] = _mm512_shuffle_f32x4::<0x88>(t[i], t[i + 4]);
        u[i + 4] = _mm512_shuffle_f32x4::<0xdd>(t[i], t[i + 4]);
        u[i + 8] = _mm512_shuffle_f32x4::<0x88>(t[i + 8], t[i + 12]);
        u[i + 12] = _mm512_shuffle_f32x4::<0xdd>(t[i + 8], t[i + 12]);
    }
    for i in 0..8 {
        t[i] = _mm512_shuffle_f32x4::<0x88>(u[i], u[i + 8]);
        t[i + 8] = _mm512_shuffle_f32x4::<0xdd>(u[i], u[i + 8]);
    }
}

/// Eight lanes; the token proves AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

#[cfg(target_arch = "x86_64")]
static MASKS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

// SAFETY of every block below: the token is only made in `run_avx2`, so the
// CPU has the instructions; memory access is covered by the caller's contract,
// and `MASKS` is read at 8 - n for n < 8, inside its 16 entries.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
impl Simd for Avx2 {
    type V = __m256;
    const N: usize = 8;
    const MR: usize = 6;
    #[inline(always)] fn splat(self, x: f32) -> __m256 { unsafe { _mm256_set1_ps(x) } }
    #[inline(always)] unsafe fn load(self, p: *const f32) -> __m256 { unsafe { _mm256_loadu_ps(p) } }
    #[inline(always)] unsafe fn load_n(self, p: *const f32, n: usize) -> __m256 { unsafe { _mm256_maskload_ps(p, _mm256_loadu_si256(MASKS.as_ptr().add(8 - n).cast())) } }
    #[inline(always)] unsafe fn store(self, p: *mut f32, v: __m256) { unsafe { _mm256_storeu_ps(p, v) } }
    #[inline(always)] unsafe fn store_n(self, p: *mut f32, v: __m256, n: usize) { unsafe { _mm256_maskstore_ps(p, _mm256_loadu_si256(MASKS.as_ptr().add(8 - n).cast()), v) } }
    #[inline(always)] fn add(self, a: __m256, b: __m256) -> __m256 { unsafe { _mm256_add_ps(a, b) } }
    #[inline(always)] fn sub(self, a: __m256, b: __m256) -> __m256 { unsafe { _mm256_sub_ps(a, b) } }
    #[inline(always)] fn mul(self, a: __m256, b: __m256) -> __m256 { unsafe { _mm256_mul_ps(a, b) } }
    #[inline(always)] fn div(self, a: __m256, b: __m256) -> __m256 { unsafe { _mm256_div_ps(a, b) } }
    #[inline(always)] fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 { unsafe { _mm256_fmadd_ps(a, b, c) } }
    #[inline(always)] fn max(self, a: __m256, b: __m256) -> __m256 { unsafe { _mm256_max_ps(a, b) } }
    #[inline(always)] fn min(self, a: __m256, b: __m256) -> __m256 { unsafe { _mm256_min_ps(a, b) } }
    #[inline(always)] fn sqrt(self, a: __m256) -> __m256 { unsafe { _mm256_sqrt_ps(a) } }
    #[inline(always)] fn round(self, a: __m256) -> __m256 { unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) } }
    #[inline(always)] fn scale2(self, p: __m256, n: __m256) -> __m256 { unsafe { _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127))))) } }
    #[inline(always)] fn select_lt(self, a: __m256, b: __m256, t: __m256, f: __m256) -> __m256 { unsafe { _mm256_blendv_ps(f, t, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b)) } }
    #[inline(always)] fn sum(self, v: __m256) -> f32 {
        let mut a = [0.0; 8];
        unsafe { _mm256_storeu_ps(a.as_mut_ptr(), v) };
        ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]))
    }
    #[inline(always)] fn hmax(self, v: __m256) -> f32 {
        let mut a = [0.0; 8];
        unsafe { _mm256_storeu_ps(a.as_mut_ptr(), v) };
        a.iter().fold(f32::NEG_INFINITY, |a, &b| if a > b { a } else { b })
    }
    #[inline(always)] fn above(self, a: __m256, b: __m256) -> u32 { unsafe { _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(a, b)) as u32 } }
    #[inline(always)] unsafe fn gather(self, p: *const f32, index: *const i32, n: usize) -> __m256 {
        unsafe {
            let live = _mm256_loadu_si256(MASKS.as_ptr().add(8 - n.min(8)).cast());
            let index = _mm256_maskload_epi32(index, live);
            _mm256_mask_i32gather_ps::<4>(_mm256_setzero_ps(), p, index, _mm256_castsi256_ps(live))
        }
    }
}

/// `load` of a whole or a partial vector.
///
/// # Safety
/// `p` must be readable for `min(n, N)` floats.
#[inline(always)]
pub(crate) unsafe fn load_upto<S: Simd>(s: S, p: *const f32, n: usize) -> S::V {
    // SAFETY: forwarded contract.
    unsafe { if n >= S::N { s.load(p) } else { s.load_n(p, n) } }
}

/// `store` of a whole or a partial vector.
///
/// # Safety
/// `p` must be writable for `min(n, N)` floats.
#[inline(always)]
pub(crate) unsafe fn store_upto<S: Simd>(s: S, p: *mut f32, v: S::V, n: usize) {
    // SAFETY: forwarded contract.
    unsafe { if n >= S::N { s.store(p, v) } else { s.store_n(p, v, n) } }
}
