//! Attention of one head on AMX: products in bf16, softmax in f32, and one pass from the scores to
//! the operand of the second product.
//!
//! The same algorithm as [`Forward::run_on`] in powers of two: queries carry `scale log2(e)`, so
//! that the exponential is one polynomial and a change of exponent. The running maximum moves only
//! when it must (`SLACK`), which leaves sums within f32 and saves most rescaling.
use crate::amx::Amx;
use crate::amx_pack::mask;
use crate::amx_rows::{exp2, tile_row};
use crate::attention::{Forward, RelRow, head_view, rel_row, scale_row};
use crate::engine::{Engine, Mat, Start};
use crate::relative::first_columns;
use crate::scratch::Scratch;
use crate::simd::Simd;
use std::arch::x86_64::*;
use std::f32::consts::{LN_2, LOG2_E};

/// Queries of one block.
const BLOCK: usize = 64;
/// Keys of one chunk, where there are more than `WHOLE`.
const CHUNK: usize = 128;
/// Keys that are one chunk.
const WHOLE: usize = 256;
/// How far scores may rise above the kept maximum, in powers of two.
const SLACK: f32 = 8.0;

/// Softmax state of a block of queries.
struct State {
    max: [f32; BLOCK],
    sum: [[f32; 16]; BLOCK],
}

/// Buffers of a block of queries.
struct Buffers {
    scores: Scratch,
    probabilities: Scratch,
    acc: Scratch,
    /// The queries' products with [`RelPanels`].
    terms: Scratch,
}

impl Forward<'_> {
    /// # Safety
    /// The tier is AMX; the slices cover their shapes; no other running task writes these
    /// queries' rows of `out` and `lse`.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    pub(crate) unsafe fn run_amx<S: Simd>(self, s: S) {
        let sh = *self.shape;
        let (d, keys) = (sh.head_dim, sh.keys);
        let (b, h) = (self.head / sh.heads, self.head % sh.heads);
        let chunk = if keys <= WHOLE { keys.max(1).next_multiple_of(32) } else { CHUNK };
        let (e, v_words) = (Amx, Amx::b_words(chunk, d));
        let kt = Scratch::take(Amx::b_words(d, keys));
        let vb = Scratch::take(keys.div_ceil(chunk) * v_words);
        let (qa, scaled) = (Scratch::take(Amx::a_words(BLOCK, d)), Scratch::take(BLOCK * d));
        let buffers = Buffers {
            scores: Scratch::take(BLOCK * chunk),
            probabilities: Scratch::take(Amx::a_words(BLOCK, chunk)),
            acc: Scratch::take(BLOCK * d),
            terms: Scratch::take(self.panels.map_or(0, |p| BLOCK * p.columns.1)),
        };
        let mut bias = [Bias([0.0; WHOLE]), Bias([0.0; WHOLE])];
        let q = head_view(self.q, b, h);
        // SAFETY: buffers have the sizes the engine asks for; views cover the head.
        unsafe {
            if keys > 0 {
                e.pack_b(head_view(self.k, b, h).t(), d, keys, kt.ptr());
            }
            for j in (0..keys).step_by(chunk) {
                let v = head_view(self.v, b, h).at(j, 0);
                e.pack_b(v, chunk.min(keys - j), d, vb.ptr().add(j / chunk * v_words));
            }
            e.begin();
            for i0 in (self.range.0..self.range.1).step_by(BLOCK) {
                let rows = BLOCK.min(self.range.1 - i0);
                for r in 0..rows {
                    scale_row(s, q.at(i0 + r, 0).ptr, scaled.ptr().add(r * d), d, sh.scale * LOG2_E);
                }
                e.pack_a(Mat { ptr: scaled.ptr(), rs: d, cs: 1 }, rows, d, qa.ptr());
                if let Some(p) = self.panels {
                    e.mul(rows, p.columns.1, d, qa.ptr(), p.words.ptr(), buffers.terms.ptr(), p.columns.1, Start::Zero);
                }
                let mut state = State { max: [f32::NEG_INFINITY; BLOCK], sum: [[0.0; 16]; BLOCK] };
                if sh.causal || keys == 0 {
                    std::ptr::write_bytes(buffers.acc.ptr(), 0, rows * d);
                }
                for j in (0..keys).step_by(chunk) {
                    if sh.causal && j > i0 + rows - 1 + keys - sh.queries {
                        break;
                    }
                    let n = chunk.min(keys - j);
                    let k = kt.ptr().add(j * Amx::words(d));
                    e.mul(rows, n, d, qa.ptr(), k, buffers.scores.ptr(), chunk, Start::Zero);
                    self.bias(&buffers, (i0, 0), (j, n), &mut bias[0]);
                    for r in 0..rows {
                        // A row ahead: vectors of a bias cross the parts in which it is stored.
                        self.bias(&buffers, (i0, (r + 1).min(rows - 1)), (j, n), &mut bias[(r + 1) % 2]);
                        self.soften(s, &mut state, &buffers, (i0, r), (j, n, chunk), &bias[r % 2].0);
                    }
                    let start = if j == 0 { Start::Zero } else { Start::Add };
                    let v = vb.ptr().add(j / chunk * v_words);
                    e.mul(rows, d, n, buffers.probabilities.ptr(), v, buffers.acc.ptr(), d, start);
                }
                self.finish(s, &state, &buffers, (i0, rows));
            }
            e.end();
        }
    }

    /// Relative positions of the keys `j..j + n` for row `r`, in powers of two; nothing where there are none.
    ///
    /// # Safety
    /// Buffers as in `run_amx`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn bias(&self, buffers: &Buffers, (i0, r): (usize, usize), (j, n): (usize, usize), to: &mut Bias) {
        // SAFETY: the terms of a row follow the column where they start.
        unsafe {
            if let Some(p) = self.panels {
                let row = buffers.terms.ptr().add(r * p.columns.1).cast_const();
                let (h, w) = first_columns(p, i0 + r);
                bias_row((row.add(h), row.add(w), p.grid.1), 1.0, j, n, &mut to.0);
            } else if let Some(rel) = &self.rel {
                bias_row(rel_row(rel, self.head * self.shape.queries + i0 + r), LOG2_E, j, n, &mut to.0);
            }
        }
    }

    /// One row of scores to its row of the second product's operand.
    ///
    /// # Safety
    /// Buffers as in `run_amx`; `scores` holds row `r` of the chunk of `n` keys from `j`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn soften<S: Simd>(
        &self, s: S, state: &mut State, buffers: &Buffers, (i0, r): (usize, usize), (j, n, chunk): (usize, usize, usize),
        bias: &[f32; WHOLE],
    ) {
        let (sh, d) = (self.shape, self.shape.head_dim);
        let padded = n.next_multiple_of(32);
        let positions = self.panels.is_some() || self.rel.is_some();
        // SAFETY: the row has `chunk` >= padded floats; the bias covers WHOLE >= padded.
        unsafe {
            let row = buffers.scores.ptr().add(r * chunk);
            let last = i0 + r + sh.keys - sh.queries.min(i0 + r + sh.keys);
            let visible = if sh.causal { n.min((last + 1).saturating_sub(j)) } else { n };
            for t in visible..padded {
                *row.add(t) = f32::NEG_INFINITY;
            }
            let peak = match positions {
                true => highest::<true>(row, padded, bias),
                false => highest::<false>(row, padded, bias),
            };
            let max = &mut state.max[r];
            if peak > *max + SLACK || *max == f32::NEG_INFINITY {
                if *max != f32::NEG_INFINITY {
                    let f = (*max - peak).exp2();
                    state.sum[r].iter_mut().for_each(|sum| *sum *= f);
                    let acc = buffers.acc.ptr().add(r * d);
                    scale_row(s, acc, acc, d, f);
                }
                *max = peak;
            }
            let to = tile_row(buffers.probabilities.ptr().cast(), padded / 32, r);
            match positions {
                true => exponentials::<true>(row, padded, bias, *max, &mut state.sum[r], to),
                false => exponentials::<false>(row, padded, bias, *max, &mut state.sum[r], to),
            }
        }
    }

    /// Divides by the sums and writes the rows.
    ///
    /// # Safety
    /// As in `run_amx`.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn finish<S: Simd>(&self, s: S, state: &State, buffers: &Buffers, (i0, rows): (usize, usize)) {
        let (sh, d) = (self.shape, self.shape.head_dim);
        let (b, h) = (self.head / sh.heads, self.head % sh.heads);
        for r in 0..rows {
            // SAFETY: this task's rows.
            unsafe {
                let sum = _mm512_reduce_add_ps(_mm512_loadu_ps(state.sum[r].as_ptr()));
                let out = self.out.0.get().add(self.out.1.offset(b, h) + (i0 + r) * self.out.1.row);
                scale_row(s, buffers.acc.ptr().add(r * d), out, d, 1.0 / sum);
                *self.lse.get().add(self.head * sh.queries + i0 + r) = (state.max[r] + sum.log2()) * LN_2;
            }
        }
    }
}

#[repr(align(64))]
struct Bias([f32; WHOLE]);

/// Relative positions of keys `j..j + n`, times `unit`.
///
/// # Safety
/// `rel` covers the grid that holds the keys.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn bias_row((rh, rw, kw): RelRow, unit: f32, j: usize, n: usize, to: &mut [f32; WHOLE]) {
    let (scale, unit) = (unit, _mm512_set1_ps(unit));
    let (mut y, mut x, mut at) = (j / kw, j % kw, 0);
    while at < n {
        let len = (kw - x).min(n - at);
        // SAFETY: row y and columns x..x + len are in the grid; at + len <= n.
        unsafe {
            let h = _mm512_set1_ps(*rh.add(y) * scale);
            for t in (0..len).step_by(16) {
                let live = mask((len - t).min(16));
                let w = _mm512_maskz_loadu_ps(live, rw.add(x + t));
                _mm512_mask_storeu_ps(to.as_mut_ptr().add(at + t), live, _mm512_fmadd_ps(w, unit, h));
            }
        }
        (y, x, at) = (y + 1, 0, at + len);
    }
}

/// The largest score, NaN aside.
///
/// # Safety
/// `row` covers `n` floats, a multiple of 32 that is at most WHOLE.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn highest<const BIAS: bool>(row: *const f32, n: usize, bias: &[f32; WHOLE]) -> f32 {
    let mut high = [_mm512_set1_ps(f32::NEG_INFINITY); 2];
    for t in (0..n).step_by(32) {
        for (i, high) in high.iter_mut().enumerate() {
            // SAFETY: t + 32 <= n.
            let v = unsafe { score::<BIAS>(row, bias, t + 16 * i) };
            *high = _mm512_max_ps(v, *high);
        }
    }
    _mm512_reduce_max_ps(_mm512_max_ps(high[0], high[1]))
}

/// # Safety
/// Both cover `t + 16` floats.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn score<const BIAS: bool>(row: *const f32, bias: &[f32; WHOLE], t: usize) -> __m512 {
    // SAFETY: contract above.
    unsafe {
        let v = _mm512_loadu_ps(row.add(t));
        if BIAS { _mm512_add_ps(v, _mm512_loadu_ps(bias.as_ptr().add(t))) } else { v }
    }
}

/// `2^(score - max)` as bf16 into a tile's row, and their sum.
///
/// # Safety
/// As [`highest`]; `to` is a row of the first tile of n / 32.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn exponentials<const BIAS: bool>(
    row: *const f32,
    n: usize,
    bias: &[f32; WHOLE],
    max: f32,
    sum: &mut [f32; 16],
    to: *mut u16,
) {
    let max = _mm512_set1_ps(max);
    // SAFETY: t + 32 <= n; tiles of depth are two tiles apart.
    unsafe {
        let mut total = _mm512_loadu_ps(sum.as_ptr());
        for t in (0..n).step_by(32) {
            let a = exp2(_mm512_sub_ps(score::<BIAS>(row, bias, t), max));
            let b = exp2(_mm512_sub_ps(score::<BIAS>(row, bias, t + 16), max));
            total = _mm512_add_ps(total, _mm512_add_ps(a, b));
            let ab = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(b, a));
            _mm512_store_si512(to.add(t / 32 * 1024).cast(), ab);
        }
        _mm512_storeu_ps(sum.as_mut_ptr(), total);
    }
}
