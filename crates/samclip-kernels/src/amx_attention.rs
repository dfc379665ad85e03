//! Attention of one head on AMX: products in bf16, softmax in f32, and one pass from the scores to
//! the operand of the second product.
//!
//! The same algorithm as [`Forward::run_on`] in powers of two: queries carry `scale log2(e)`, so
//! that the exponential is one polynomial and a change of exponent. Instead of the running maximum
//! a bound is subtracted that is known beforehand (`amx_softmax.rs`). Causal attention, unusual grids,
//! NaN and bounds that turn out too loose take the maximum; it moves only when it must (`SLACK`), which
//! leaves sums within f32 and saves most rescaling.
use crate::bf16::{AMX, Amx};
use crate::bf16_pack::mask;
use crate::amx_scores::scores;
use crate::amx_softmax::{Lanes, RowTerms, TOO_SMALL, bound, longest, weigh};
use crate::bf16_rows::{exp2, tile_row};
use crate::attention::{Forward, RelRow, head_view, rel_row, scale_row};
use crate::engine::{Engine, Mat, Start};
use crate::relative::first_columns;
use crate::scratch::Scratch;
use crate::simd::Simd;
use std::arch::x86_64::*;
use std::f32::consts::{LN_2, LOG2_E};

/// Queries of one block.
const BLOCK: usize = 64;
/// Keys of one chunk.
const CHUNK: usize = 256;
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

/// Operands of the two products: a block of queries, all keys and values in chunks of `chunk`.
struct Panels {
    q: *const f32,
    k: *const f32,
    v: *const f32,
    v_words: usize,
    chunk: usize,
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
        let chunk = CHUNK.min(keys.max(1).next_multiple_of(32));
        let (e, v_words) = (AMX, Amx::b_words(chunk, d));
        let kt = Scratch::take(Amx::b_words(d, keys));
        let vb = Scratch::take(keys.div_ceil(chunk) * v_words);
        let (qa, scaled) = (Scratch::take(Amx::a_words(BLOCK, d)), Scratch::take(BLOCK * d));
        let lanes = if sh.causal || keys == 0 { None } else { Lanes::of(self.grid()) };
        let buffers = Buffers {
            scores: Scratch::take(BLOCK * chunk),
            probabilities: Scratch::take(Amx::a_words(BLOCK, chunk)),
            acc: Scratch::take(BLOCK * d),
            terms: Scratch::take(self.panels.map_or(0, |p| BLOCK * p.columns.1)),
        };
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
            let mut lanes = lanes.map(|lanes| (lanes, longest(head_view(self.k, b, h).ptr, keys, self.k.1.row, d)));
            let panels = Panels { q: qa.ptr(), k: kt.ptr(), v: vb.ptr(), v_words, chunk };
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
                if let Some((lanes, longest)) = &lanes
                    && self.bounded(s, &buffers, &panels, lanes, *longest, scaled.ptr(), (i0, rows))
                {
                    continue;
                }
                // What was too loose once is likely to be so again.
                lanes = None;
                let mut state = State { max: [f32::NEG_INFINITY; BLOCK], sum: [[0.0; 16]; BLOCK] };
                if sh.causal || keys == 0 {
                    std::ptr::write_bytes(buffers.acc.ptr(), 0, rows * d);
                }
                for j in (0..keys).step_by(chunk) {
                    if sh.causal && j > i0 + rows - 1 + keys - sh.queries {
                        break;
                    }
                    let n = chunk.min(keys - j);
                    scores(qa.ptr(), kt.ptr().add(j * Amx::words(d)), d, (rows, n), buffers.scores.ptr(), chunk);
                    self.soften(s, &mut state, &buffers, (i0, rows), (j, n, chunk));
                    let start = if j == 0 { Start::Zero } else { Start::Add };
                    let v = vb.ptr().add(j / chunk * v_words);
                    e.mul(rows, d, n, buffers.probabilities.ptr(), v, buffers.acc.ptr(), d, start);
                }
                self.finish(s, &state, &buffers, (i0, rows));
            }
            e.end();
        }
    }

    /// Grid of the keys where there are relative positions.
    fn grid(&self) -> Option<(usize, usize)> {
        self.panels.map(|p| p.grid).or(self.rel.as_ref().map(|rel| rel.grid))
    }

    /// A block of queries under a bound that is known beforehand; false when it does not hold or is too loose,
    /// and then nothing has been written.
    ///
    /// # Safety
    /// As `run_amx`; panels, terms and `scaled` are those of the block.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    #[allow(clippy::too_many_arguments)]
    unsafe fn bounded<S: Simd>(
        &self, s: S, buffers: &Buffers, panels: &Panels, lanes: &Lanes, longest: f32, scaled: *const f32, (i0, rows): (usize, usize),
    ) -> bool {
        let (d, keys, chunk) = (self.shape.head_dim, self.shape.keys, panels.chunk);
        let mut state = State { max: [0.0; BLOCK], sum: [[0.0; 16]; BLOCK] };
        let mut terms = [None; BLOCK];
        // SAFETY: contract above.
        unsafe {
            for r in 0..rows {
                let row = self.positions(buffers, i0, r);
                terms[r] = row.map(|((h, w, _), unit)| RowTerms { h, w, unit });
                state.max[r] = bound(scaled.add(r * d), d, longest, lanes, keys, terms[r]);
                if !state.max[r].is_finite() {
                    return false;
                }
            }
            for j in (0..keys).step_by(chunk) {
                let n = chunk.min(keys - j);
                scores(panels.q, panels.k.add(j * Amx::words(d)), d, (rows, n), buffers.scores.ptr(), chunk);
                for r in 0..rows {
                    let row = buffers.scores.ptr().add(r * chunk);
                    let to = tile_row(buffers.probabilities.ptr().cast(), n.div_ceil(32), r);
                    weigh(row, (j, n), lanes, terms[r], state.max[r], &mut state.sum[r], to);
                }
                let start = if j == 0 { Start::Zero } else { Start::Add };
                let v = panels.v.add(j / chunk * panels.v_words);
                AMX.mul(rows, d, n, buffers.probabilities.ptr(), v, buffers.acc.ptr(), d, start);
            }
            let fits = |sum: &[f32; 16]| sum.iter().sum::<f32>() >= TOO_SMALL;
            if !state.sum[..rows].iter().all(fits) {
                return false;
            }
            self.finish(s, &state, buffers, (i0, rows));
        }
        true
    }

    /// Rows of scores to rows of the second product's operand. Each step passes over all rows, so that no
    /// row waits for what another one has just computed.
    ///
    /// # Safety
    /// Buffers as in `run_amx`; `scores` holds the chunk of `n` keys from `j`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn soften<S: Simd>(
        &self, s: S, state: &mut State, buffers: &Buffers, (i0, rows): (usize, usize), (j, n, chunk): (usize, usize, usize),
    ) {
        let (sh, d) = (self.shape, self.shape.head_dim);
        let padded = n.next_multiple_of(32);
        let mut peaks = [0.0; BLOCK];
        // SAFETY: rows have `chunk` >= padded floats.
        unsafe {
            for (r, peak) in peaks.iter_mut().enumerate().take(rows) {
                let last = i0 + r + sh.keys - sh.queries.min(i0 + r + sh.keys);
                let visible = if sh.causal { n.min((last + 1).saturating_sub(j)) } else { n };
                let row = buffers.scores.ptr().add(r * chunk);
                *peak = match self.positions(buffers, i0, r) {
                    Some(terms) => raised(row, terms, j, visible),
                    None => highest(row, visible),
                };
                hide(row, visible, padded);
            }
            for (r, &peak) in peaks.iter().enumerate().take(rows) {
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
            }
            for r in 0..rows {
                let to = tile_row(buffers.probabilities.ptr().cast(), padded / 32, r);
                exponentials(buffers.scores.ptr().add(r * chunk), padded, state.max[r], &mut state.sum[r], to);
            }
        }
    }

    /// Relative positions of row `r`, and what makes them powers of two.
    ///
    /// # Safety
    /// Buffers as in `run_amx`.
    #[inline]
    unsafe fn positions(&self, buffers: &Buffers, i0: usize, r: usize) -> Option<(RelRow, f32)> {
        // SAFETY: the terms of a query follow the columns where they start.
        unsafe {
            if let Some(p) = self.panels {
                let row = buffers.terms.ptr().add(r * p.columns.1).cast_const();
                let (h, w) = first_columns(p, i0 + r);
                return Some(((row.add(h), row.add(w), p.grid.1), 1.0));
            }
            self.rel.as_ref().map(|rel| (rel_row(rel, self.head * self.shape.queries + i0 + r), LOG2_E))
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

/// Adds the relative positions of keys `j..j + n` to their scores; the largest sum, NaN aside.
///
/// # Safety
/// The terms cover the grid that holds the keys, `row` covers `n` floats.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn raised(row: *mut f32, ((rh, rw, kw), unit): (RelRow, f32), j: usize, n: usize) -> f32 {
    let factor = _mm512_set1_ps(unit);
    let mut high = _mm512_set1_ps(f32::NEG_INFINITY);
    let (mut y, mut x, mut at) = (j / kw, j % kw, 0);
    while at < n {
        let len = (kw - x).min(n - at);
        // SAFETY: row y and columns x..x + len are in the grid; at + len <= n.
        unsafe {
            let h = _mm512_set1_ps(*rh.add(y) * unit);
            let mut t = 0;
            while t + 16 <= len {
                let w = _mm512_loadu_ps(rw.add(x + t));
                let v = _mm512_add_ps(_mm512_loadu_ps(row.add(at + t)), _mm512_fmadd_ps(w, factor, h));
                _mm512_storeu_ps(row.add(at + t), v);
                high = _mm512_max_ps(v, high);
                t += 16;
            }
            if t < len {
                let live = mask(len - t);
                let w = _mm512_maskz_loadu_ps(live, rw.add(x + t));
                let v = _mm512_add_ps(_mm512_maskz_loadu_ps(live, row.add(at + t)), _mm512_fmadd_ps(w, factor, h));
                _mm512_mask_storeu_ps(row.add(at + t), live, v);
                high = _mm512_mask_max_ps(high, live, v, high);
            }
        }
        (y, x, at) = (y + 1, 0, at + len);
    }
    _mm512_reduce_max_ps(high)
}

/// The largest score, NaN aside.
///
/// # Safety
/// `row` covers `n` floats.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn highest(row: *const f32, n: usize) -> f32 {
    let mut high = [_mm512_set1_ps(f32::NEG_INFINITY); 2];
    for t in (0..n).step_by(32) {
        for (i, high) in high.iter_mut().enumerate() {
            let at = t + 16 * i;
            let live = mask(n.saturating_sub(at).min(16));
            // SAFETY: lanes past n are not read.
            let v = unsafe { _mm512_maskz_loadu_ps(live, row.wrapping_add(at)) };
            *high = _mm512_mask_max_ps(*high, live, v, *high);
        }
    }
    _mm512_reduce_max_ps(_mm512_max_ps(high[0], high[1]))
}

/// No weight for the keys from `visible` on.
///
/// # Safety
/// `row` covers `padded` floats.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn hide(row: *mut f32, visible: usize, padded: usize) {
    for t in (visible..padded).step_by(16) {
        // SAFETY: lanes past the row are not written.
        unsafe { _mm512_mask_storeu_ps(row.add(t), mask((padded - t).min(16)), _mm512_set1_ps(f32::NEG_INFINITY)) };
    }
}

/// `2^(score - max)` as bf16 into a tile's row, and their sum.
///
/// # Safety
/// `row` covers `n` floats, a multiple of 32; `to` is a row of the first tile of n / 32.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn exponentials(row: *const f32, n: usize, max: f32, sum: &mut [f32; 16], to: *mut u16) {
    let max = _mm512_set1_ps(max);
    // SAFETY: t + 32 <= n; tiles of depth are two tiles apart.
    unsafe {
        let mut total = _mm512_loadu_ps(sum.as_ptr());
        for t in (0..n).step_by(32) {
            let a = exp2(_mm512_sub_ps(_mm512_loadu_ps(row.add(t)), max));
            let b = exp2(_mm512_sub_ps(_mm512_loadu_ps(row.add(t + 16)), max));
            total = _mm512_add_ps(total, _mm512_add_ps(a, b));
            let ab = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(b, a));
            _mm512_store_si512(to.add(t / 32 * 1024).cast(), ab);
        }
        _mm512_storeu_ps(sum.as_mut_ptr(), total);
    }
}
