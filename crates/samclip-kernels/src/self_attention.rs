//! Self-attention on the packed `[B, N, 3 D]` projection, with the decomposed
//! relative positions computed from the queries here: what a transformer block
//! of SAM does between its two linear maps
//! (`segment_anything` `modeling/image_encoder.py::Attention.forward`).
use crate::attention::{AttentionShape, RelPos, RowStrides, attention_forward};
use crate::attention_backward::{Targets, backward_into};
use crate::engine::{Engine, F32, Mat, Precision, Start};
use crate::scratch::{Scratch, SharedPtr};
use crate::simd::{Kernel, Simd, Unit, dispatch};
use rayon::prelude::*;

/// Relative-position vectors of a grid: query row y and key row y' meet in
/// `rows[y, y']`, columns in `cols[x, x']`.
#[derive(Clone, Copy, Debug)]
pub struct RelTables<'a> {
    /// `[h, h, head_dim]`
    pub rows: &'a [f32],
    /// `[w, w, head_dim]`
    pub cols: &'a [f32],
    /// (h, w) with `h * w` tokens.
    pub grid: (usize, usize),
}

/// What the forward pass leaves for the backward pass.
#[derive(Clone, Debug, Default)]
pub struct Saved {
    /// Log-sum-exp, `[batch * heads, N]`.
    pub lse: Vec<f32>,
    /// `[batch * heads, N, h]`, empty without tables.
    pub rel_h: Vec<f32>,
    /// `[batch * heads, N, w]`, empty without tables.
    pub rel_w: Vec<f32>,
}

/// Gradients of [`RelTables`], in their shapes.
#[derive(Debug)]
pub struct TableGrads<'a> {
    /// Gradient of `rows`.
    pub rows: &'a mut [f32],
    /// Gradient of `cols`.
    pub cols: &'a mut [f32],
}

/// Views of q, k and v inside `[B, N, 3 D]`.
fn parts(shape: &AttentionShape) -> (RowStrides, usize) {
    let width = shape.heads * shape.head_dim;
    (RowStrides::token_major(shape.queries, 3 * width, shape.head_dim), width)
}

fn check(shape: &AttentionShape, qkv: &[f32], tables: &Option<RelTables>) {
    let (n, d) = (shape.queries, shape.head_dim);
    assert_eq!(n, shape.keys, "self attention: as many keys as queries");
    assert_eq!(qkv.len(), shape.batch * n * 3 * shape.heads * d, "self attention: qkv has the wrong length");
    if let Some(t) = tables {
        let (h, w) = t.grid;
        assert_eq!(h * w, n, "self attention: the grid {h} x {w} does not have {n} tokens");
        assert_eq!(t.rows.len(), h * h * d, "self attention: rows are not [{h}, {h}, {d}]");
        assert_eq!(t.cols.len(), w * w * d, "self attention: cols are not [{w}, {w}, {d}]");
    }
}

/// `out [B, N, D]` of `qkv [B, N, 3 D]`; `shape.keys` equals `shape.queries`.
///
/// # Panics
/// When a slice does not have the elements of its shape.
pub fn self_attention(
    precision: Precision,
    shape: &AttentionShape,
    qkv: &[f32],
    tables: Option<RelTables>,
    out: &mut [f32],
) -> Saved {
    check(shape, qkv, &tables);
    let (heads, n) = (shape.batch * shape.heads, shape.queries);
    let mut saved = Saved { lse: vec![0.0; heads * n], ..Saved::default() };
    if qkv.is_empty() {
        return saved;
    }
    let (st, width) = parts(shape);
    if let Some(t) = &tables {
        saved.rel_h = vec![0.0; heads * n * t.grid.0];
        saved.rel_w = vec![0.0; heads * n * t.grid.1];
        let (h, w) = (SharedPtr::of(&mut saved.rel_h), SharedPtr::of(&mut saved.rel_w));
        terms(shape, qkv, *t, h, w);
    }
    let rel = tables.map(|t| RelPos { h: &saved.rel_h, w: &saved.rel_w, grid: t.grid });
    let to = RowStrides::token_major(n, width, shape.head_dim);
    let (q, k, v) = ((qkv, st), (&qkv[width..], st), (&qkv[2 * width..], st));
    attention_forward(precision, shape, q, k, v, rel, (out, to), &mut saved.lse);
    saved
}

/// Relative terms of every head.
fn terms(shape: &AttentionShape, qkv: &[f32], tables: RelTables, h: SharedPtr, w: SharedPtr) {
    let (st, _) = parts(shape);
    // Tasks write the rows of their own head.
    let heads = 0..shape.batch * shape.heads;
    heads.into_par_iter().for_each(|head| dispatch(Terms { shape, st, qkv, tables, h, w, head }));
}

/// Gradients of [`self_attention`]: `dqkv` like `qkv` and those of the tables
/// (all overwritten).
///
/// # Panics
/// When a slice does not have the elements of its shape.
#[allow(clippy::too_many_arguments)]
pub fn self_attention_backward(
    precision: Precision,
    shape: &AttentionShape,
    qkv: &[f32],
    tables: Option<RelTables>,
    saved: &Saved,
    out: &[f32],
    dout: &[f32],
    dqkv: &mut [f32],
    table_grads: Option<TableGrads>,
) {
    check(shape, qkv, &tables);
    assert_eq!(dqkv.len(), qkv.len(), "self attention: dqkv has the wrong length");
    if qkv.is_empty() {
        return;
    }
    let (st, width) = parts(shape);
    let rows = shape.batch * shape.heads * shape.queries;
    let (gh, gw) = tables.map_or((0, 0), |t| t.grid);
    let (drel_h, drel_w) = (Scratch::take(rows * gh), Scratch::take(rows * gw));
    let (h, w) = (SharedPtr::new(drel_h.ptr()), SharedPtr::new(drel_w.ptr()));
    let rel = tables.map(|t| RelPos { h: &saved.rel_h, w: &saved.rel_w, grid: t.grid });
    let to = RowStrides::token_major(shape.queries, width, shape.head_dim);
    let base = dqkv.as_mut_ptr();
    // SAFETY: width and 2 width are inside a token's 3 width floats.
    let (dk, dv) = unsafe { (base.add(width), base.add(2 * width)) };
    let targets = Targets {
        dq: SharedPtr::new(base),
        dk: SharedPtr::new(dk),
        dv: SharedPtr::new(dv),
        drel: rel.is_some().then_some((h, w)),
    };
    let (q, k, v) = ((qkv, st), (&qkv[width..], st), (&qkv[2 * width..], st));
    // SAFETY: the three targets are the q, k and v columns of `dqkv`, which has
    // the length of `qkv`; the relative buffers have rows x grid floats.
    unsafe { backward_into(precision, shape, q, k, v, rel, (out, to), &saved.lse, dout, targets) };
    if let (Some(t), Some(g)) = (tables, table_grads) {
        assert_eq!((g.rows.len(), g.cols.len()), (t.rows.len(), t.cols.len()), "self attention: table gradients");
        let dq = SharedPtr::new(base);
        (0..shape.batch * shape.heads)
            .into_par_iter()
            .for_each(|head| dispatch(QueryGrads { shape, st, tables: t, h, w, dq, head }));
        let d = shape.head_dim;
        g.rows.par_chunks_mut(gh * d).enumerate().for_each(|(y, dst)| {
            let line = Line { first: y * gw, step: 1, count: gw, side: gh };
            dispatch(LineGrads { shape, st, qkv, drel: h, line, dst });
        });
        g.cols.par_chunks_mut(gw * d).enumerate().for_each(|(x, dst)| {
            let line = Line { first: x, step: gw, count: gh, side: gw };
            dispatch(LineGrads { shape, st, qkv, drel: w, line, dst });
        });
    }
}

/// Tokens of one grid row or column, and the length of its relative axis.
#[derive(Clone, Copy)]
struct Line {
    first: usize,
    step: usize,
    count: usize,
    side: usize,
}

fn lines((h, w): (usize, usize)) -> [(usize, fn(usize, (usize, usize)) -> Line); 2] {
    [
        (h, |y, (h, w)| Line { first: y * w, step: 1, count: w, side: h }),
        (w, |x, (h, w)| Line { first: x, step: w, count: h, side: w }),
    ]
}

/// `rel[i, :] = q_i table^T` for every line of one head.
pub(crate) struct Terms<'a> {
    pub(crate) shape: &'a AttentionShape,
    pub(crate) st: RowStrides,
    pub(crate) qkv: &'a [f32],
    pub(crate) tables: RelTables<'a>,
    pub(crate) h: SharedPtr,
    pub(crate) w: SharedPtr,
    pub(crate) head: usize,
}

impl Kernel for Terms<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S, _unit: Unit) {
        self.on(F32(s));
    }
}

impl Terms<'_> {
    #[inline(always)]
    pub(crate) fn on<S: Simd>(self, e: F32<S>) {
        let (d, n) = (self.shape.head_dim, self.shape.queries);
        let q = self.qkv[self.st.offset(self.head / self.shape.heads, self.head % self.shape.heads)..].as_ptr();
        let side = self.tables.grid.0.max(self.tables.grid.1);
        let a = Scratch::take(F32::<S>::a_words(side, d));
        let b = Scratch::take(F32::<S>::b_words(d, side));
        let to = [(self.tables.rows, self.h), (self.tables.cols, self.w)];
        for ((count, line), (table, dst)) in lines(self.tables.grid).into_iter().zip(to) {
            for i in 0..count {
                let l = line(i, self.tables.grid);
                // SAFETY: the line's tokens are inside the head; the table has
                // `side` rows of d for this line; this head's rows of rel are ours.
                unsafe {
                    let src = Mat { ptr: q.add(l.first * self.st.row), rs: l.step * self.st.row, cs: 1 };
                    e.pack_a(src, l.count, d, a.ptr());
                    let t = Mat { ptr: table.as_ptr().add(i * l.side * d), rs: d, cs: 1 };
                    e.pack_b(t.t(), d, l.side, b.ptr());
                    let out = dst.get().add((self.head * n + l.first) * l.side);
                    e.mul(l.count, l.side, d, a.ptr(), b.ptr(), out, l.step * l.side, Start::Zero);
                }
            }
        }
    }
}

/// `dq_i += drel[i, :] table` for every line of one head.
struct QueryGrads<'a> {
    shape: &'a AttentionShape,
    st: RowStrides,
    tables: RelTables<'a>,
    h: SharedPtr,
    w: SharedPtr,
    dq: SharedPtr,
    head: usize,
}

impl Kernel for QueryGrads<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S, _unit: Unit) {
        let e = F32(s);
        let (d, n) = (self.shape.head_dim, self.shape.queries);
        let at = self.st.offset(self.head / self.shape.heads, self.head % self.shape.heads);
        let side = self.tables.grid.0.max(self.tables.grid.1);
        let a = Scratch::take(F32::<S>::a_words(side, side));
        let b = Scratch::take(F32::<S>::b_words(side, d));
        let from = [(self.tables.rows, self.h), (self.tables.cols, self.w)];
        for ((count, line), (table, src)) in lines(self.tables.grid).into_iter().zip(from) {
            for i in 0..count {
                let l = line(i, self.tables.grid);
                // SAFETY: as in `Terms`; dq's rows of this head are ours.
                unsafe {
                    let g = src.get().add((self.head * n + l.first) * l.side);
                    e.pack_a(Mat { ptr: g, rs: l.step * l.side, cs: 1 }, l.count, l.side, a.ptr());
                    let t = Mat { ptr: table.as_ptr().add(i * l.side * d), rs: d, cs: 1 };
                    e.pack_b(t, l.side, d, b.ptr());
                    let dq = self.dq.get().add(at + l.first * self.st.row);
                    e.mul(l.count, d, l.side, a.ptr(), b.ptr(), dq, l.step * self.st.row, Start::Add);
                }
            }
        }
    }
}

/// `dtable = sum over heads of drel^T q` for one line.
struct LineGrads<'a> {
    shape: &'a AttentionShape,
    st: RowStrides,
    qkv: &'a [f32],
    drel: SharedPtr,
    line: Line,
    dst: &'a mut [f32],
}

impl Kernel for LineGrads<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S, _unit: Unit) {
        let e = F32(s);
        let (d, n, l) = (self.shape.head_dim, self.shape.queries, self.line);
        let a = Scratch::take(F32::<S>::a_words(l.side, l.count));
        let b = Scratch::take(F32::<S>::b_words(l.count, d));
        for head in 0..self.shape.batch * self.shape.heads {
            let start = if head == 0 { Start::Zero } else { Start::Add };
            let q = self.qkv[self.st.offset(head / self.shape.heads, head % self.shape.heads)..].as_ptr();
            // SAFETY: the line's tokens are inside the head; dst is side x d.
            unsafe {
                let g = self.drel.get().add((head * n + l.first) * l.side);
                let g = Mat { ptr: g, rs: l.step * l.side, cs: 1 };
                e.pack_a(g.t(), l.side, l.count, a.ptr());
                let src = Mat { ptr: q.add(l.first * self.st.row), rs: l.step * self.st.row, cs: 1 };
                e.pack_b(src, l.count, d, b.ptr());
                e.mul(l.side, d, l.count, a.ptr(), b.ptr(), self.dst.as_mut_ptr(), d, start);
            }
        }
    }
}
