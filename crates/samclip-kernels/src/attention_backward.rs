//! Multi-head attention, backward: the scores are computed again from the
//! log-sum-exp instead of being stored (Dao et al., 2022, "FlashAttention",
//! algorithm 4). One task per head, so sums have a fixed order.
use crate::attention::{AttentionShape, RelPos, RowStrides, head_view, mask_row, rel_row, scale_row, score_row};
use crate::engine::{Engine, Mat, Precision, Start, with_engine};
use crate::math::exp;
use crate::scratch::{Scratch, SharedPtr};
use crate::simd::{Kernel, Simd, Unit, dispatch, load_upto, store_upto};
use rayon::prelude::*;

/// Where the gradients go; the strides are those of the inputs.
#[derive(Debug)]
pub struct AttentionGrads<'a> {
    /// Gradient of the queries.
    pub q: &'a mut [f32],
    /// Gradient of the keys.
    pub k: &'a mut [f32],
    /// Gradient of the values.
    pub v: &'a mut [f32],
    /// Gradients of (rel_h, rel_w), when there are relative positions.
    pub rel: Option<(&'a mut [f32], &'a mut [f32])>,
}

/// Queries and keys of one block.
const BLOCK: usize = 128;
const CHUNK: usize = 256;

/// Gradients of [`crate::attention_forward`] from its inputs, its output and
/// log-sum-exp, and the gradient of the output (strides of `out`).
///
/// # Panics
/// When a slice is too short for its shape.
#[allow(clippy::too_many_arguments)]
pub fn attention_backward(
    precision: Precision,
    shape: &AttentionShape,
    q: (&[f32], RowStrides),
    k: (&[f32], RowStrides),
    v: (&[f32], RowStrides),
    rel: Option<RelPos>,
    out: (&[f32], RowStrides),
    lse: &[f32],
    grad_out: &[f32],
    grads: AttentionGrads,
) {
    let (nq, nk) = (shape.queries, shape.keys);
    for (name, st, a, b, rows) in
        [("q", q.1, q.0.len(), grads.q.len(), nq), ("k", k.1, k.0.len(), grads.k.len(), nk), ("v", v.1, v.0.len(), grads.v.len(), nk), ("out", out.1, out.0.len(), grad_out.len(), nq)]
    {
        st.check(name, a, shape, rows);
        st.check(name, b, shape, rows);
    }
    assert_eq!(lse.len(), shape.batch * shape.heads * nq, "attention: lse has the wrong length");
    assert_eq!(rel.is_some(), grads.rel.is_some(), "attention: gradients of relative positions go with them");
    let mut drel = None;
    if let (Some(rel), Some((h, w))) = (&rel, grads.rel) {
        rel.check(shape);
        assert_eq!((rel.h.len(), rel.w.len()), (h.len(), w.len()), "attention: relative gradients have the wrong length");
        drel = Some((SharedPtr::of(h), SharedPtr::of(w)));
    }
    if nq * nk * shape.head_dim == 0 {
        grads.q.fill(0.0);
        grads.k.fill(0.0);
        grads.v.fill(0.0);
        return;
    }
    let targets =
        Targets { dq: SharedPtr::of(grads.q), dk: SharedPtr::of(grads.k), dv: SharedPtr::of(grads.v), drel };
    // SAFETY: every target was checked to cover its shape.
    unsafe { backward_into(precision, shape, q, k, v, rel, out, lse, grad_out, targets) }
}

/// Where the gradients go, by pointer: q, k and v may be columns of one buffer.
#[derive(Clone, Copy)]
pub(crate) struct Targets {
    pub dq: SharedPtr,
    pub dk: SharedPtr,
    pub dv: SharedPtr,
    pub drel: Option<(SharedPtr, SharedPtr)>,
}

/// [`attention_backward`] into pointers.
///
/// # Safety
/// The targets cover their shapes (strides of the inputs) and no two rows of
/// them overlap.
#[allow(clippy::too_many_arguments)]
pub(crate) unsafe fn backward_into(
    precision: Precision,
    shape: &AttentionShape,
    q: (&[f32], RowStrides),
    k: (&[f32], RowStrides),
    v: (&[f32], RowStrides),
    rel: Option<RelPos>,
    out: (&[f32], RowStrides),
    lse: &[f32],
    grad_out: &[f32],
    targets: Targets,
) {
    let (nq, nk) = (shape.queries, shape.keys);
    for (name, st, len, rows) in
        [("q", q.1, q.0.len(), nq), ("k", k.1, k.0.len(), nk), ("v", v.1, v.0.len(), nk), ("out", out.1, out.0.len(), nq), ("grad", out.1, grad_out.len(), nq)]
    {
        st.check(name, len, shape, rows);
    }
    let Targets { dq, dk, dv, drel } = targets;
    (0..shape.batch * shape.heads).into_par_iter().for_each(|head| {
        dispatch(Backward { precision, shape, q, k, v, rel, out, lse, grad_out, dq, dk, dv, drel, head });
    });
}

struct Backward<'a> {
    precision: Precision,
    shape: &'a AttentionShape,
    q: (&'a [f32], RowStrides),
    k: (&'a [f32], RowStrides),
    v: (&'a [f32], RowStrides),
    rel: Option<RelPos<'a>>,
    out: (&'a [f32], RowStrides),
    lse: &'a [f32],
    grad_out: &'a [f32],
    dq: SharedPtr,
    dk: SharedPtr,
    dv: SharedPtr,
    drel: Option<(SharedPtr, SharedPtr)>,
    head: usize,
}

impl Kernel for Backward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S, unit: Unit) {
        // SAFETY: `s` and `unit` prove the instruction set; slices were checked by `attention_backward`.
        with_engine!(s, unit, self.precision, |e| unsafe { self.run_on(s, e) })
    }
}

impl Backward<'_> {
    /// # Safety
    /// `e`'s instructions are present; the slices cover their shapes; no other
    /// running task writes this head's gradients.
    #[inline(always)]
    unsafe fn run_on<S: Simd, E: Engine>(self, s: S, e: E) {
        let sh = *self.shape;
        let (d, nq, nk) = (sh.head_dim, sh.queries, sh.keys);
        let (b, h) = (self.head / sh.heads, self.head % sh.heads);
        let (q, k, v) = (head_view(self.q, b, h), head_view(self.k, b, h), head_view(self.v, b, h));
        let (o, go) = (head_view(self.out, b, h), head_view((self.grad_out, self.out.1), b, h));
        let kb_words = E::b_words(CHUNK, d);
        let kt = Scratch::take(E::b_words(d, nk));
        let vt = Scratch::take(E::b_words(d, nk));
        let kb = Scratch::take(nk.div_ceil(CHUNK) * kb_words);
        let (qa, ga) = (Scratch::take(E::a_words(BLOCK, d)), Scratch::take(E::a_words(BLOCK, d)));
        let (qb, gb) = (Scratch::take(E::b_words(BLOCK, d)), Scratch::take(E::b_words(BLOCK, d)));
        let (p, dp) = (Scratch::take(BLOCK * CHUNK), Scratch::take(BLOCK * CHUNK));
        let packed = Scratch::take(E::a_words(BLOCK, CHUNK).max(E::a_words(CHUNK, BLOCK)));
        // SAFETY: buffers have the sizes the engine asks for; views cover the
        // head; offsets stay inside it.
        unsafe {
            e.pack_b(k.t(), d, nk, kt.ptr());
            e.pack_b(v.t(), d, nk, vt.ptr());
            for j in (0..nk).step_by(CHUNK) {
                e.pack_b(k.at(j, 0), CHUNK.min(nk - j), d, kb.ptr().add(j / CHUNK * kb_words));
            }
            let dq = self.dq.get().add(self.q.1.offset(b, h));
            let dk = self.dk.get().add(self.k.1.offset(b, h));
            let dv = self.dv.get().add(self.v.1.offset(b, h));
            for j in 0..nk {
                std::ptr::write_bytes(dk.add(j * self.k.1.row), 0, d);
                std::ptr::write_bytes(dv.add(j * self.v.1.row), 0, d);
            }
            self.clear_rel();
            e.begin();
            for i0 in (0..nq).step_by(BLOCK) {
                let rows = BLOCK.min(nq - i0);
                e.pack_a(q.at(i0, 0), rows, d, qa.ptr());
                e.pack_a(go.at(i0, 0), rows, d, ga.ptr());
                e.pack_b(q.at(i0, 0), rows, d, qb.ptr());
                e.pack_b(go.at(i0, 0), rows, d, gb.ptr());
                let mut delta = [0.0f32; BLOCK];
                for (r, x) in delta.iter_mut().enumerate().take(rows) {
                    *x = dot(s, o.at(i0 + r, 0).ptr, go.at(i0 + r, 0).ptr, d);
                }
                let dqi = dq.add(i0 * self.q.1.row);
                for r in 0..rows {
                    std::ptr::write_bytes(dqi.add(r * self.q.1.row), 0, d);
                }
                for j in (0..nk).step_by(CHUNK) {
                    if sh.causal && j > i0 + rows - 1 + nk - nq {
                        break;
                    }
                    let n = CHUNK.min(nk - j);
                    let at = j * E::words(d);
                    e.mul(rows, n, d, qa.ptr(), kt.ptr().add(at), p.ptr(), CHUNK, Start::Zero);
                    e.mul(rows, n, d, ga.ptr(), vt.ptr().add(at), dp.ptr(), CHUNK, Start::Zero);
                    for (r, &delta) in delta.iter().enumerate().take(rows) {
                        self.row(s, i0 + r, j, n, p.ptr().add(r * CHUNK), dp.ptr().add(r * CHUNK), delta);
                    }
                    let (p, dp) = (Mat { ptr: p.ptr(), rs: CHUNK, cs: 1 }, Mat { ptr: dp.ptr(), rs: CHUNK, cs: 1 });
                    e.pack_a(p.t(), n, rows, packed.ptr());
                    e.mul(n, d, rows, packed.ptr(), gb.ptr(), dv.add(j * self.v.1.row), self.v.1.row, Start::Add);
                    e.pack_a(dp.t(), n, rows, packed.ptr());
                    e.mul(n, d, rows, packed.ptr(), qb.ptr(), dk.add(j * self.k.1.row), self.k.1.row, Start::Add);
                    e.pack_a(dp, rows, n, packed.ptr());
                    e.mul(rows, d, n, packed.ptr(), kb.ptr().add(j / CHUNK * kb_words), dqi, self.q.1.row, Start::Add);
                }
                for r in 0..rows {
                    let row = dqi.add(r * self.q.1.row);
                    scale_row(s, row, row, d, sh.scale);
                }
            }
            e.end();
            for j in 0..nk {
                let row = dk.add(j * self.k.1.row);
                scale_row(s, row, row, d, sh.scale);
            }
        }
    }

    /// # Safety
    /// As `run_on`.
    #[inline(always)]
    unsafe fn clear_rel(&self) {
        if let (Some((dh, dw)), Some(rel)) = (self.drel, &self.rel) {
            let (nq, first) = (self.shape.queries, self.head * self.shape.queries);
            // SAFETY: lengths were checked; the rows belong to this head.
            unsafe {
                std::ptr::write_bytes(dh.get().add(first * rel.grid.0), 0, nq * rel.grid.0);
                std::ptr::write_bytes(dw.get().add(first * rel.grid.1), 0, nq * rel.grid.1);
            }
        }
    }

    /// Row `i`, keys `j0..j0 + n`: `p` becomes the probabilities, `dp` the
    /// gradient of the scores before the scale; relative gradients are added.
    ///
    /// # Safety
    /// `p` and `dp` cover `n` floats; (i, j0 + n) is inside the head.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    unsafe fn row<S: Simd>(&self, s: S, i: usize, j0: usize, n: usize, p: *mut f32, dp: *mut f32, delta: f32) {
        let sh = self.shape;
        let index = self.head * sh.queries + i;
        // SAFETY: contract above.
        unsafe {
            let rel = self.rel.map(|rel| rel_row(&rel, index));
            score_row(s, p, j0, n, sh.scale, rel);
            if sh.causal {
                mask_row(p, j0, n, i + sh.keys - sh.queries);
            }
            let (lse, delta) = (s.splat(self.lse[index]), s.splat(delta));
            let mut j = 0;
            while j < n {
                let left = n - j;
                let pr = exp(s, s.sub(load_upto(s, p.add(j), left), lse));
                let ds = s.mul(pr, s.sub(load_upto(s, dp.add(j), left), delta));
                store_upto(s, p.add(j), pr, left);
                store_upto(s, dp.add(j), ds, left);
                j += S::N;
            }
            if let (Some((dh, dw)), Some(rel)) = (self.drel, &self.rel) {
                let (kh, kw) = rel.grid;
                add_rel(s, dp, j0, n, kw, dh.get().add(index * kh), dw.get().add(index * kw));
            }
        }
    }
}

/// Sums of the score gradients over grid rows and columns.
///
/// # Safety
/// `ds` covers `n` floats, `dh` and `dw` the grid that holds `j0..j0 + n`.
#[inline(always)]
unsafe fn add_rel<S: Simd>(s: S, ds: *const f32, j0: usize, n: usize, kw: usize, dh: *mut f32, dw: *mut f32) {
    let mut j = 0;
    while j < n {
        let (y, x) = ((j0 + j) / kw, (j0 + j) % kw);
        let len = (kw - x).min(n - j);
        let mut total = s.splat(0.0);
        let mut t = 0;
        while t < len {
            let left = len - t;
            // SAFETY: segments end at the grid's row or at `n`.
            unsafe {
                let g = load_upto(s, ds.add(j + t), left);
                total = s.add(total, g);
                let w = dw.add(x + t);
                store_upto(s, w, s.add(load_upto(s, w, left), g), left);
            }
            t += S::N;
        }
        // SAFETY: y is a row of the grid.
        unsafe { *dh.add(y) += s.sum(total) };
        j += len;
    }
}

/// # Safety
/// Both cover `n` floats.
#[inline(always)]
unsafe fn dot<S: Simd>(s: S, a: *const f32, b: *const f32, n: usize) -> f32 {
    let mut total = s.splat(0.0);
    let mut j = 0;
    while j < n {
        // SAFETY: contract above; partial loads fill with zero.
        total = unsafe { s.fma(load_upto(s, a.add(j), n - j), load_upto(s, b.add(j), n - j), total) };
        j += S::N;
    }
    s.sum(total)
}
