//! Softmax of attention on AMX in one pass over the scores.
//!
//! The exponentials need no running maximum: a score never exceeds |q| times the longest key plus the largest
//! relative positions (Cauchy and Schwarz), and what is subtracted cancels in the division by the sum. A loose
//! bound costs no accuracy, because bf16 has the exponents of f32; only a row whose sum comes near the smallest
//! numbers ([`TOO_SMALL`]) has lost something, and takes the way with a maximum (`amx_attention.rs`).
use crate::bf16_pack::mask;
use std::arch::x86_64::*;

/// Sums below this may miss keys that 2^-126 cut off.
pub(crate) const TOO_SMALL: f32 = 8.0e-28;
/// What rounding to bf16 can add to a product of norms.
const ROUNDED: f32 = 1.01;

/// How the terms of relative positions lie over 16 neighbouring keys.
pub(crate) enum Lanes {
    /// No terms.
    None,
    /// Grids whose rows are multiples of 32 keys: a vector of keys has one row.
    Wide(usize),
    /// Grids of at most 16 x 16: for each vector, the rows and the columns of its keys.
    Small(Vec<[[i32; 16]; 2]>, (usize, usize)),
}

impl Lanes {
    /// Of a grid of (rows, columns), or of no grid; `None` for the shapes that only the other way takes.
    pub(crate) fn of(grid: Option<(usize, usize)>) -> Option<Self> {
        match grid {
            None => Some(Self::None),
            Some((_, w)) if w.is_multiple_of(32) && w > 0 => Some(Self::Wide(w)),
            Some((h, w)) if (1..=16).contains(&h) && (1..=16).contains(&w) => {
                let lane = |t: usize| std::array::from_fn(|i| ((16 * t + i) / w % 16, (16 * t + i) % w));
                let split = |l: [(usize, usize); 16]| [l.map(|l| l.0 as i32), l.map(|l| l.1 as i32)];
                Some(Self::Small((0..(h * w).div_ceil(32) * 2).map(|t| split(lane(t))).collect(), (h, w)))
            }
            Some(_) => None,
        }
    }
}

/// Terms of one query: by key row, by key column, and what makes them powers of two.
#[derive(Clone, Copy)]
pub(crate) struct RowTerms {
    pub(crate) h: *const f32,
    pub(crate) w: *const f32,
    pub(crate) unit: f32,
}

/// The length of the longest of `n` rows, which are `stride` apart; NaN or infinite where an element is.
///
/// # Safety
/// The rows cover `d` floats each.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(crate) unsafe fn longest(x: *const f32, n: usize, stride: usize, d: usize) -> f32 {
    let mut most = 0.0;
    for r in 0..n {
        // SAFETY: contract above.
        let square = unsafe { square(x.add(r * stride), d) };
        // A NaN must not be lost in a comparison.
        most = if square <= most { most } else { square };
        if most.is_nan() {
            break;
        }
    }
    most.sqrt()
}

/// # Safety
/// `x` covers `d` floats.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn square(x: *const f32, d: usize) -> f32 {
    let mut sum = _mm512_setzero_ps();
    for t in (0..d).step_by(16) {
        // SAFETY: lanes past d are not read.
        let v = unsafe { _mm512_maskz_loadu_ps(mask((d - t).min(16)), x.add(t)) };
        sum = _mm512_fmadd_ps(v, v, sum);
    }
    _mm512_reduce_add_ps(sum)
}

/// The largest of `n` floats; NaN where there is one.
///
/// # Safety
/// `x` covers `n` floats.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn largest(x: *const f32, n: usize) -> f32 {
    let mut high = _mm512_set1_ps(f32::NEG_INFINITY);
    let mut odd = 0;
    for t in (0..n).step_by(16) {
        let live = mask((n - t).min(16));
        // SAFETY: lanes past n are not read.
        let v = unsafe { _mm512_maskz_loadu_ps(live, x.add(t)) };
        high = _mm512_mask_max_ps(high, live, high, v);
        odd |= _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
    }
    if odd == 0 { _mm512_reduce_max_ps(high) } else { f32::NAN }
}

/// No score of the query exceeds this; not finite where something is not.
///
/// # Safety
/// `q`, carrying the scale, covers `d` floats; the terms cover the grid of `lanes`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(crate) unsafe fn bound(q: *const f32, d: usize, longest: f32, lanes: &Lanes, keys: usize, terms: Option<RowTerms>) -> f32 {
    // SAFETY: contract above.
    unsafe {
        let product = square(q, d).sqrt() * longest * ROUNDED;
        let (Some(terms), Some((h, w))) = (terms, lanes.grid(keys)) else { return product };
        product + (largest(terms.h, h) + largest(terms.w, w)) * terms.unit
    }
}

impl Lanes {
    fn grid(&self, keys: usize) -> Option<(usize, usize)> {
        match self {
            Self::None => None,
            Self::Wide(w) => Some((keys / w, *w)),
            Self::Small(_, grid) => Some(*grid),
        }
    }
}

/// `2^x` for finite `x` up to about 1; 2^-126 below -126. 7.5e-5 relative, a twentieth of what rounding to bf16
/// adds at most (2^-9): a minimax polynomial of degree 3 on [-0.5, 0.5].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn power(x: __m512) -> __m512 {
    // 1.5 * 2^23: adding it leaves the nearest integer in the low bits.
    let magic = _mm512_set1_ps(12_582_912.0);
    let x = _mm512_max_ps(x, _mm512_set1_ps(-126.0));
    let t = _mm512_add_ps(x, magic);
    let f = _mm512_sub_ps(x, _mm512_sub_ps(t, magic));
    let mut p = _mm512_set1_ps(0.055_171_657);
    for c in [0.242_611_13, 0.693_260_97, 0.999_928_06] {
        p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(c));
    }
    let shift = _mm512_slli_epi32::<23>(_mm512_castps_si512(t));
    _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), shift))
}

/// `2^(score + terms - bound)` of the keys `j..j + n` as bf16 into a row of tiles (32 keys each, `to` in the
/// first), and what they add to `sum`. Keys past `n` weigh nothing.
///
/// # Safety
/// `row` covers `n` floats rounded up to 32; the terms cover the grid; tiles as in `bf16_rows::tile_row`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(crate) unsafe fn weigh(
    row: *const f32, (j, n): (usize, usize), lanes: &Lanes, terms: Option<RowTerms>, bound: f32, sum: &mut [f32; 16], to: *mut u16,
) {
    // SAFETY: contract above.
    unsafe {
        let mut total = _mm512_loadu_ps(sum.as_ptr());
        match (lanes, terms) {
            (Lanes::Wide(w), Some(terms)) => {
                let unit = _mm512_set1_ps(terms.unit);
                let (mut y, mut x, mut t) = (j / w, j % w, 0);
                while t < n {
                    let end = (t + w - x).min(n);
                    let base = _mm512_set1_ps((*terms.h.add(y)).mul_add(terms.unit, -bound));
                    while t < end {
                        let at = |o: usize| {
                            let v = _mm512_add_ps(_mm512_loadu_ps(row.add(t + o)), base);
                            power(_mm512_fmadd_ps(_mm512_loadu_ps(terms.w.add(x + o)), unit, v))
                        };
                        total = put(total, at(0), at(16), to, t);
                        (t, x) = (t + 32, x + 32);
                    }
                    (y, x) = (y + 1, 0);
                }
            }
            (Lanes::Small(lanes, (h, w)), Some(terms)) => {
                let unit = _mm512_set1_ps(terms.unit);
                let rows = _mm512_maskz_loadu_ps(mask(*h), terms.h);
                let rows = _mm512_fmadd_ps(rows, unit, _mm512_set1_ps(-bound));
                let columns = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask(*w), terms.w), unit);
                for t in (0..n).step_by(32) {
                    let at = |o: usize| {
                        let [y, x] = &lanes[(t + o) / 16];
                        let h = _mm512_permutexvar_ps(_mm512_loadu_si512(y.as_ptr().cast()), rows);
                        let w = _mm512_permutexvar_ps(_mm512_loadu_si512(x.as_ptr().cast()), columns);
                        let v = _mm512_add_ps(_mm512_loadu_ps(row.add(t + o)), _mm512_add_ps(h, w));
                        live(power(v), n, t + o)
                    };
                    total = put(total, at(0), at(16), to, t);
                }
            }
            _ => {
                let base = _mm512_set1_ps(bound);
                for t in (0..n).step_by(32) {
                    let at = |o: usize| live(power(_mm512_sub_ps(_mm512_loadu_ps(row.add(t + o)), base)), n, t + o);
                    total = put(total, at(0), at(16), to, t);
                }
            }
        }
        _mm512_storeu_ps(sum.as_mut_ptr(), total);
    }
}

/// Zero from key `n` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn live(p: __m512, n: usize, at: usize) -> __m512 {
    if at + 16 <= n { p } else { _mm512_maskz_mov_ps(mask(n.saturating_sub(at)), p) }
}

/// Two vectors into the tiles' row; the sum with them.
///
/// # Safety
/// `to` has a row of the tile of keys `t..t + 32`; tiles of depth are two tiles apart.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn put(total: __m512, a: __m512, b: __m512, to: *mut u16, t: usize) -> __m512 {
    // SAFETY: contract above.
    unsafe {
        let ab = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(b, a));
        _mm512_store_si512(to.add(t / 32 * 1024).cast(), ab);
    }
    _mm512_add_ps(total, _mm512_add_ps(a, b))
}
