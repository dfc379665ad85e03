//! Multi-head attention with decomposed relative positions, forward.
//!
//! Blocked over queries and keys with a running maximum (Dao et al., 2022,
//! "FlashAttention", algorithm 1; Milakov and Gimelshein, 2018), so that no
//! N x N matrix exists. The bias `rel_h[i, y] + rel_w[i, x]` of key (y, x) is
//! that of `segment_anything` `modeling/image_encoder.py::add_decomposed_rel_pos`.
use crate::engine::{Engine, Mat, Precision, Start, with_engine};
use crate::math::exp;
use crate::relative::RelPanels;
use crate::scratch::{Scratch, SharedPtr};
use crate::simd::{Kernel, Simd, Unit, dispatch, load_upto, store_upto};
use rayon::prelude::*;

/// Sizes of one attention call.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// Batch entries.
    pub batch: usize,
    /// Heads.
    pub heads: usize,
    /// Queries per head.
    pub queries: usize,
    /// Keys per head.
    pub keys: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Factor of the inner products.
    pub scale: f32,
    /// Query `i` sees keys `0..=i + keys - queries` only.
    pub causal: bool,
}

/// Where row `i` of head `h` of batch entry `b` starts: `b * batch + h * head + i * row`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowStrides {
    /// Floats between batch entries.
    pub batch: usize,
    /// Floats between heads.
    pub head: usize,
    /// Floats between rows.
    pub row: usize,
}

impl RowStrides {
    /// Dense `[batch, heads, n, head_dim]`.
    pub fn head_major(heads: usize, n: usize, head_dim: usize) -> Self {
        Self { batch: heads * n * head_dim, head: n * head_dim, row: head_dim }
    }
    /// Dense `[batch, n, width]` with heads side by side inside `width`.
    pub fn token_major(n: usize, width: usize, head_dim: usize) -> Self {
        Self { batch: n * width, head: head_dim, row: width }
    }
    pub(crate) fn offset(&self, b: usize, h: usize) -> usize {
        b * self.batch + h * self.head
    }
    pub(crate) fn check(&self, name: &str, len: usize, s: &AttentionShape, rows: usize) {
        if s.batch * s.heads * rows * s.head_dim == 0 {
            return;
        }
        let last = self.offset(s.batch - 1, s.heads - 1) + (rows - 1) * self.row + s.head_dim;
        assert!(last <= len, "attention: {name} has {len} floats, its shape needs {last}");
    }
}

/// Decomposed relative positions: keys form a `kh` x `kw` grid.
#[derive(Clone, Copy, Debug)]
pub struct RelPos<'a> {
    /// `[batch * heads, queries, kh]`
    pub h: &'a [f32],
    /// `[batch * heads, queries, kw]`
    pub w: &'a [f32],
    /// Grid (kh, kw).
    pub grid: (usize, usize),
}

impl RelPos<'_> {
    pub(crate) fn check(&self, s: &AttentionShape) {
        let (kh, kw) = self.grid;
        assert_eq!(kh * kw, s.keys, "attention: the grid {kh} x {kw} does not have the number of keys");
        let rows = s.batch * s.heads * s.queries;
        assert_eq!(self.h.len(), rows * kh, "attention: rel_h is not [{rows}, {kh}]");
        assert_eq!(self.w.len(), rows * kw, "attention: rel_w is not [{rows}, {kw}]");
    }
}

/// Queries of one block.
const BLOCK: usize = 64;
/// Keys of one block.
pub(crate) const CHUNK: usize = 512;
/// Query blocks of one task where heads alone would not fill the machine.
const TASK_BLOCKS: usize = 8;

/// `out = softmax(scale q k^T + bias) v` and the log-sum-exp of every row.
///
/// `q`, `k`, `v` and `out` are slices with their strides; `lse` is
/// `[batch * heads, queries]`.
///
/// # Panics
/// When a slice is too short for its shape.
#[allow(clippy::too_many_arguments)]
pub fn attention_forward(
    precision: Precision,
    shape: &AttentionShape,
    q: (&[f32], RowStrides),
    k: (&[f32], RowStrides),
    v: (&[f32], RowStrides),
    rel: Option<RelPos>,
    out: (&mut [f32], RowStrides),
    lse: &mut [f32],
) {
    q.1.check("q", q.0.len(), shape, shape.queries);
    k.1.check("k", k.0.len(), shape, shape.keys);
    v.1.check("v", v.0.len(), shape, shape.keys);
    out.1.check("out", out.0.len(), shape, shape.queries);
    assert_eq!(lse.len(), shape.batch * shape.heads * shape.queries, "attention: lse has the wrong length");
    if let Some(rel) = &rel {
        rel.check(shape);
    }
    if shape.queries == 0 || shape.head_dim == 0 {
        return;
    }
    let heads = shape.batch * shape.heads;
    let per_task = if heads >= 8 { shape.queries } else { BLOCK * TASK_BLOCKS };
    let per_head = shape.queries.div_ceil(per_task);
    let (po, pl) = (SharedPtr::of(out.0), SharedPtr::of(lse));
    (0..heads * per_head).into_par_iter().for_each(|t| {
        let (head, q0) = (t / per_head, t % per_head * per_task);
        let task = Forward {
            precision,
            shape,
            q,
            k,
            v,
            rel,
            panels: None,
            out: (po, out.1),
            lse: pl,
            head,
            range: (q0, shape.queries.min(q0 + per_task)),
        };
        dispatch(task);
    });
}

/// The queries `range` of one head.
pub(crate) struct Forward<'a> {
    pub(crate) precision: Precision,
    pub(crate) shape: &'a AttentionShape,
    pub(crate) q: (&'a [f32], RowStrides),
    pub(crate) k: (&'a [f32], RowStrides),
    pub(crate) v: (&'a [f32], RowStrides),
    pub(crate) rel: Option<RelPos<'a>>,
    /// Instead of `rel`, on AMX: the terms come from the queries.
    pub(crate) panels: Option<&'a RelPanels>,
    pub(crate) out: (SharedPtr, RowStrides),
    pub(crate) lse: SharedPtr,
    pub(crate) head: usize,
    pub(crate) range: (usize, usize),
}

impl Kernel for Forward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S, unit: Unit) {
        // SAFETY: `s` and `unit` prove the instruction set; slices were checked by `attention_forward`.
        with_engine!(s, unit, self.precision, |e| unsafe { e.attend(s, self) })
    }
}

/// Row-major view of one head.
pub(crate) fn head_view((x, st): (&[f32], RowStrides), b: usize, h: usize) -> Mat {
    Mat { ptr: x[st.offset(b, h)..].as_ptr(), rs: st.row, cs: 1 }
}

impl Forward<'_> {
    /// # Safety
    /// `e`'s instructions are present; the slices cover their shapes; no other
    /// running task writes these queries' rows of `out` and `lse`.
    #[inline(always)]
    pub(crate) unsafe fn run_on<S: Simd, E: Engine>(self, s: S, e: E) {
        let sh = *self.shape;
        let (d, keys) = (sh.head_dim, sh.keys);
        let (b, h) = (self.head / sh.heads, self.head % sh.heads);
        let chunk = CHUNK.min(keys.max(1)).next_multiple_of(E::NR);
        let kt = Scratch::take(E::b_words(d, keys));
        let vb = Scratch::take(keys.div_ceil(chunk) * E::b_words(chunk, d));
        let qa = Scratch::take(E::a_words(BLOCK, d));
        let scores = Scratch::take(BLOCK * chunk);
        let pa = Scratch::take(E::a_words(BLOCK, chunk));
        let acc = Scratch::take(BLOCK * d);
        let q = head_view(self.q, b, h);
        // SAFETY: buffers have the sizes the engine asks for; views cover the head.
        unsafe {
            if keys > 0 {
                e.pack_b(head_view(self.k, b, h).t(), d, keys, kt.ptr());
            }
            for j in (0..keys).step_by(chunk) {
                let v = head_view(self.v, b, h).at(j, 0);
                e.pack_b(v, chunk.min(keys - j), d, vb.ptr().add(j / chunk * E::b_words(chunk, d)));
            }
            e.begin();
            let mut i0 = self.range.0;
            while i0 < self.range.1 {
                let rows = BLOCK.min(self.range.1 - i0);
                e.pack_a(q.at(i0, 0), rows, d, qa.ptr());
                std::ptr::write_bytes(acc.ptr(), 0, rows * d);
                let (mut max, mut sum) = ([f32::NEG_INFINITY; BLOCK], [0.0f32; BLOCK]);
                for j in (0..keys).step_by(chunk) {
                    if sh.causal && j > i0 + rows - 1 + keys - sh.queries {
                        break;
                    }
                    let n = chunk.min(keys - j);
                    let kp = kt.ptr().add(j * E::words(d));
                    e.mul(rows, n, d, qa.ptr(), kp, scores.ptr(), chunk, Start::Zero);
                    for r in 0..rows {
                        let row = scores.ptr().add(r * chunk);
                        let i = i0 + r;
                        let rel = self.rel.map(|rel| rel_row(&rel, self.head * sh.queries + i));
                        score_row(s, row, j, n, sh.scale, rel);
                        if sh.causal {
                            mask_row(row, j, n, i + keys - sh.queries);
                        }
                        soft_row(s, row, n, &mut max[r], &mut sum[r], acc.ptr().add(r * d), d);
                    }
                    e.pack_a(Mat { ptr: scores.ptr(), rs: chunk, cs: 1 }, rows, n, pa.ptr());
                    let vp = vb.ptr().add(j / chunk * E::b_words(chunk, d));
                    e.mul(rows, d, n, pa.ptr(), vp, acc.ptr(), d, Start::Add);
                }
                for r in 0..rows {
                    let o = self.out.0.get().add(self.out.1.offset(b, h) + (i0 + r) * self.out.1.row);
                    scale_row(s, acc.ptr().add(r * d), o, d, 1.0 / sum[r]);
                    *self.lse.get().add(self.head * sh.queries + i0 + r) = max[r] + sum[r].ln();
                }
                i0 += rows;
            }
            e.end();
        }
    }
}

/// Bias row of one query: (rel_h row, rel_w row, kw).
pub(crate) type RelRow = (*const f32, *const f32, usize);

/// # Safety
/// `row` must be below batch * heads * queries.
#[inline(always)]
pub(crate) unsafe fn rel_row(rel: &RelPos, row: usize) -> RelRow {
    // SAFETY: lengths were checked; the row is inside.
    unsafe { (rel.h.as_ptr().add(row * rel.grid.0), rel.w.as_ptr().add(row * rel.grid.1), rel.grid.1) }
}

/// `row[j'] = scale * row[j'] + bias[j0 + j']` for `n` keys from `j0`.
///
/// # Safety
/// `row` covers `n` floats, `rel` the grid that holds keys `j0..j0 + n`.
#[inline(always)]
pub(crate) unsafe fn score_row<S: Simd>(s: S, row: *mut f32, j0: usize, n: usize, scale: f32, rel: Option<RelRow>) {
    let sv = s.splat(scale);
    // SAFETY: contract above; segments end at the grid's row or at `n`.
    unsafe {
        let Some((rh, rw, kw)) = rel else {
            let mut j = 0;
            while j < n {
                store_upto(s, row.add(j), s.mul(sv, load_upto(s, row.add(j), n - j)), n - j);
                j += S::N;
            }
            return;
        };
        let mut j = 0;
        while j < n {
            let (y, x) = ((j0 + j) / kw, (j0 + j) % kw);
            let len = (kw - x).min(n - j);
            let hv = s.splat(*rh.add(y));
            let mut t = 0;
            while t < len {
                let p = row.add(j + t);
                let bias = s.add(hv, load_upto(s, rw.add(x + t), len - t));
                store_upto(s, p, s.fma(sv, load_upto(s, p, len - t), bias), len - t);
                t += S::N;
            }
            j += len;
        }
    }
}

/// Hides the keys after `last`.
///
/// # Safety
/// `row` covers `n` floats.
#[inline(always)]
pub(crate) unsafe fn mask_row(row: *mut f32, j0: usize, n: usize, last: usize) {
    for j in (last + 1).saturating_sub(j0)..n {
        // SAFETY: j < n.
        unsafe { *row.add(j) = f32::NEG_INFINITY }
    }
}

/// One step of the running softmax: `row` becomes exp(row - max), `acc` and
/// `sum` follow the new maximum.
///
/// # Safety
/// `row` covers `n` floats, `acc` `d`.
#[inline(always)]
unsafe fn soft_row<S: Simd>(s: S, row: *mut f32, n: usize, max: &mut f32, sum: &mut f32, acc: *mut f32, d: usize) {
    // SAFETY: contract above.
    unsafe {
        let mut mv = s.splat(f32::NEG_INFINITY);
        let whole = n / S::N * S::N;
        let mut j = 0;
        while j < whole {
            mv = s.max(s.load(row.add(j)), mv);
            j += S::N;
        }
        let mut m = s.hmax(mv);
        for j in whole..n {
            let x = *row.add(j);
            m = if x > m { x } else { m };
        }
        if m > *max {
            if *sum != 0.0 {
                let f = (*max - m).exp();
                *sum *= f;
                scale_row(s, acc, acc, d, f);
            }
            *max = m;
        }
        let mv = s.splat(*max);
        let mut total = s.splat(0.0);
        let mut j = 0;
        while j < n {
            let left = n - j;
            let p = exp(s, s.sub(load_upto(s, row.add(j), left), mv));
            store_upto(s, row.add(j), p, left);
            // Reading back zeroes the lanes past the end.
            total = s.add(total, if left >= S::N { p } else { s.load_n(row.add(j), left) });
            j += S::N;
        }
        *sum += s.sum(total);
    }
}

/// `dst = src * f`
///
/// # Safety
/// Both cover `d` floats; they may be the same.
#[inline(always)]
pub(crate) unsafe fn scale_row<S: Simd>(s: S, src: *const f32, dst: *mut f32, d: usize, f: f32) {
    let f = s.splat(f);
    let mut j = 0;
    while j < d {
        // SAFETY: contract above.
        unsafe { store_upto(s, dst.add(j), s.mul(f, load_upto(s, src.add(j), d - j)), d - j) };
        j += S::N;
    }
}
