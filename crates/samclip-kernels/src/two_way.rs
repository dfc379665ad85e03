//! The image side of SAM's two-way decoder: image tokens read by prompt tokens, and updated by them.
//!
//! `segment_anything` `modeling/transformer.py::TwoWayAttentionBlock`, with the linear maps of the
//! image side folded into the few prompt tokens, which is the same sum in another order: with
//! t tokens of h heads, `q . (W_k x)` is `(W_k^T q) . x`, and `W_o (p v)` is `p (W_o v)`. A map over
//! thousands of image tokens becomes a product with t h columns, and nothing of the size
//! tokens x image is kept: tokens read with a running maximum (FlashAttention's algorithm, by columns).
//! Twin: the modules themselves, `samclip-models` `tests/parity_sam.rs`.
use crate::activation::sum;
use crate::block::Norm;
use crate::engine::{Engine, F32, Mat, Precision, Start, with_engine};
use crate::math::exp;
use crate::norm::norm_row;
use crate::scratch::{Scratch, SharedPtr};
use crate::simd::{Kernel, Simd, Unit, dispatch, load_upto, store_upto};
use rayon::prelude::*;

/// Image tokens of one step.
const CHUNK: usize = 128;
/// Image tokens of one task where there are few prompts.
const RANGE: usize = 512;
/// Prompts from which on each is one task.
const MANY: usize = 8;

/// How the image reads the tokens, and what it makes of it: `x = norm(x + softmax(..) values + shift)`.
#[derive(Clone, Copy, Debug)]
pub struct Update<'a> {
    /// `[P, T heads, C]`: folded keys, scaled.
    pub keys: &'a [f32],
    /// `[P, T heads]`: what the queries' bias adds to the scores.
    pub key_bias: &'a [f32],
    /// `[P, T heads, C]`: folded values.
    pub values: &'a [f32],
    /// `[C]`: bias of the output map.
    pub shift: &'a [f32],
    /// After the sum.
    pub norm: &'a Norm,
}

/// Image tokens of several prompts on one image: the image's own until the first update.
pub struct ImageSide<'a> {
    precision: Precision,
    prompts: usize,
    image: &'a [f32],
    pe: &'a [f32],
    dim: usize,
    own: Option<Scratch>,
}

impl<'a> ImageSide<'a> {
    /// `image` and its position embedding `pe`, both `[N, dim]`. `precision` is that of what the prompt tokens read, a
    /// mean over the image; updates are in f32, because the rounding of one stays in its image token.
    ///
    /// # Panics
    /// When the two have other lengths.
    pub fn new(precision: Precision, prompts: usize, image: &'a [f32], pe: &'a [f32], dim: usize) -> Self {
        assert!(dim > 0 && image.len().is_multiple_of(dim), "two-way decoder: the image is not rows of {dim}");
        assert_eq!(image.len(), pe.len(), "two-way decoder: position embedding of another image");
        Self { precision, prompts, image, pe, dim, own: None }
    }

    /// Image tokens and their width.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.image.len() / self.dim, self.dim)
    }

    pub(crate) fn prompts(&self) -> usize {
        self.prompts
    }

    /// First image token of prompt 0, and the floats from one prompt to the next.
    pub(crate) fn rows(&self) -> (SharedPtr, usize) {
        match &self.own {
            Some(own) => (SharedPtr::new(own.ptr()), self.image.len()),
            None => (SharedPtr::new(self.image.as_ptr().cast_mut()), 0),
        }
    }

    /// Updates the image tokens, if asked, then lets the prompt tokens read them:
    /// `softmax(queries (x + pe))` over the image, times x. `queries` `[P, T heads, C]` are folded
    /// and scaled; the answer has their shape.
    ///
    /// # Panics
    /// When slices do not fit the prompts, `heads` and the width.
    pub fn pass(&mut self, heads: usize, update: Option<&Update>, queries: &[f32]) -> Vec<f32> {
        let ((n, dim), prompts) = (self.size(), self.prompts);
        let columns = queries.len().checked_div(prompts * dim).unwrap_or(0);
        assert_eq!(queries.len(), prompts * columns * dim, "two-way decoder: queries of another width");
        assert!(heads > 0 && columns.is_multiple_of(heads), "two-way decoder: not whole tokens of {heads} heads");
        if let Some(u) = update {
            let sizes = [u.keys.len(), u.values.len(), u.key_bias.len() * dim, u.shift.len(), u.norm.weight.len()];
            let all = prompts * columns * dim;
            assert_eq!(sizes, [all, all, all, dim, dim], "two-way decoder: tokens of another shape");
        }
        let mut out = vec![0.0; queries.len()];
        if queries.is_empty() || n == 0 {
            return out;
        }
        let from = self.rows();
        if update.is_some() && self.own.is_none() {
            self.own = Some(Scratch::take(prompts * n * dim));
        }
        let to = update.map(|_| self.rows().0);
        let range = if prompts >= MANY { n } else { RANGE };
        let parts = n.div_ceil(range);
        let state = Scratch::take(prompts * parts * columns * (dim + 2));
        let pass = Shared { side: self, from, to, heads, columns, update, queries, state: SharedPtr::new(state.ptr()) };
        (0..prompts * parts).into_par_iter().for_each(|task| {
            let first = task % parts * range;
            dispatch(Pass { shared: &pass, prompt: task / parts, rows: (first, n.min(first + range)), task });
        });
        out.par_chunks_mut(columns * dim).enumerate().for_each(|(prompt, out)| pass.merge(prompt, parts, out));
        out
    }
}

/// What the tasks of one pass share.
struct Shared<'a> {
    side: &'a ImageSide<'a>,
    from: (SharedPtr, usize),
    to: Option<SharedPtr>,
    heads: usize,
    columns: usize,
    update: Option<&'a Update<'a>>,
    queries: &'a [f32],
    /// Of each task: maximum and sum of each column, then the columns' sums of image tokens.
    state: SharedPtr,
}

impl Shared<'_> {
    /// # Safety
    /// The task writes its own state only.
    unsafe fn state(&self, task: usize) -> (*mut f32, *mut f32, *mut f32) {
        let (columns, dim) = (self.columns, self.side.dim);
        // SAFETY: inside the buffer of `pass`.
        unsafe {
            let max = self.state.get().add(task * columns * (dim + 2));
            (max, max.add(columns), max.add(2 * columns))
        }
    }

    /// The parts of one prompt as one.
    fn merge(&self, prompt: usize, parts: usize, out: &mut [f32]) {
        let dim = self.side.dim;
        for (column, out) in out.chunks_exact_mut(dim).enumerate() {
            // SAFETY: every task of the prompt has written its state.
            let part = |i: usize| unsafe {
                let (max, sum, rows) = self.state(prompt * parts + i);
                (*max.add(column), *sum.add(column), std::slice::from_raw_parts(rows.add(column * dim), dim))
            };
            let max = (0..parts).map(|i| part(i).0).fold(f32::NEG_INFINITY, f32::max);
            let mut total = 0.0;
            for (m, sum, row) in (0..parts).map(part) {
                let f = (m - max).exp();
                total += f * sum;
                out.iter_mut().zip(row).for_each(|(o, v)| *o += f * v);
            }
            out.iter_mut().for_each(|o| *o /= total);
        }
    }
}

/// Some image tokens of one prompt.
struct Pass<'a> {
    shared: &'a Shared<'a>,
    prompt: usize,
    rows: (usize, usize),
    task: usize,
}

impl Kernel for Pass<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S, unit: Unit) {
        // SAFETY: `s` and `unit` prove the instruction set; lengths were checked by `ImageSide::pass`.
        with_engine!(s, unit, self.shared.side.precision, |e| unsafe { self.on(s, e) })
    }
}

/// Buffers of one task.
struct Buffers {
    /// x + pe, then the scores' product with the values.
    moved: Scratch,
    operand: Scratch,
    scores: Scratch,
    rows_b: Scratch,
}

impl Pass<'_> {
    /// # Safety
    /// The instruction set of `e` is present; no other task writes these rows or this state.
    #[inline(always)]
    unsafe fn on<S: Simd, E: Engine>(self, s: S, e: E) {
        let p = self.shared;
        let ((n, dim), columns) = (p.side.size(), p.columns);
        let at = self.prompt * columns * dim;
        let operands = E::a_words(CHUNK, dim).max(E::a_words(columns, CHUNK)).max(F32::<S>::a_words(CHUNK, dim.max(columns)));
        let b = Buffers {
            moved: Scratch::take(CHUNK * dim),
            operand: Scratch::take(operands),
            scores: Scratch::take(CHUNK * columns),
            rows_b: Scratch::take(E::b_words(CHUNK, dim)),
        };
        let (queries, keys) = (Scratch::take(E::b_words(dim, columns)), Scratch::take(F32::<S>::b_words(dim, columns)));
        let values = Scratch::take(F32::<S>::b_words(columns, dim));
        // SAFETY: contract above; buffers have the stated sizes.
        unsafe {
            let token_rows = |x: &[f32]| Mat { ptr: x.as_ptr().add(at), rs: dim, cs: 1 };
            e.pack_b(token_rows(p.queries).t(), dim, columns, queries.ptr());
            if let Some(u) = p.update {
                F32(s).pack_b(token_rows(u.keys).t(), dim, columns, keys.ptr());
                F32(s).pack_b(token_rows(u.values), columns, dim, values.ptr());
            }
            let (max, sum, acc) = p.state(self.task);
            (0..columns).for_each(|c| *max.add(c) = f32::NEG_INFINITY);
            std::ptr::write_bytes(sum, 0, columns);
            std::ptr::write_bytes(acc, 0, columns * dim);
            e.begin();
            for first in (self.rows.0..self.rows.1).step_by(CHUNK) {
                let rows = CHUNK.min(self.rows.1 - first);
                let mut x = p.from.0.get().add(self.prompt * p.from.1 + first * dim);
                let pe = p.side.pe.as_ptr().add(first * dim);
                if let (Some(u), Some(to)) = (p.update, p.to) {
                    let to = to.get().add((self.prompt * n + first) * dim);
                    self.update(s, (x, to, pe), rows, u, (&keys, &values), &b);
                    x = to;
                }
                self.read(s, e, (x, pe), rows, &queries, &b);
            }
            e.end();
        }
    }

    /// `to = norm(x + softmax((x + pe) keys) values + shift)`
    ///
    /// # Safety
    /// The pointers cover `rows` rows; `to` may be `x`.
    #[inline(always)]
    unsafe fn update<S: Simd>(
        &self, s: S, (x, to, pe): (*mut f32, *mut f32, *const f32), rows: usize, u: &Update, (keys, values): (&Scratch, &Scratch),
        b: &Buffers,
    ) {
        let (p, e) = (self.shared, F32(s));
        let (dim, columns) = (p.side.dim, p.columns);
        let dense = |x: &Scratch, width: usize| Mat { ptr: x.ptr(), rs: width, cs: 1 };
        // SAFETY: contract above; buffers have the sizes of a chunk.
        unsafe {
            e.pack_sum(s, [x.cast_const(), pe], rows, dim, b.moved.ptr(), b.operand.ptr());
            let bias = Start::Bias(u.key_bias.as_ptr().add(self.prompt * columns));
            e.mul(rows, columns, dim, b.operand.ptr(), keys.ptr(), b.scores.ptr(), columns, bias);
            for r in 0..rows {
                soft_tokens(s, b.scores.ptr().add(r * columns), columns, p.heads);
                sum(s, x.add(r * dim), u.shift.as_ptr(), to.add(r * dim), dim);
            }
            e.pack_a(dense(&b.scores, columns), rows, columns, b.operand.ptr());
            e.mul(rows, dim, columns, b.operand.ptr(), values.ptr(), to, dim, Start::Add);
            for r in 0..rows {
                norm_row(s, to.add(r * dim), u.norm, to.add(r * dim));
            }
        }
    }

    /// Adds some image tokens to what the prompt tokens have read.
    ///
    /// # Safety
    /// The pointers cover `rows` rows.
    #[inline(always)]
    unsafe fn read<S: Simd, E: Engine>(
        &self, s: S, e: E, (x, pe): (*const f32, *const f32), rows: usize, queries: &Scratch, b: &Buffers,
    ) {
        let (dim, columns) = (self.shared.side.dim, self.shared.columns);
        // SAFETY: contract above; buffers have the sizes of a chunk.
        unsafe {
            let (max, total, acc) = self.shared.state(self.task);
            e.pack_sum(s, [x, pe], rows, dim, b.moved.ptr(), b.operand.ptr());
            e.mul(rows, columns, dim, b.operand.ptr(), queries.ptr(), b.scores.ptr(), columns, Start::Zero);
            soft_columns(s, b.scores.ptr(), rows, columns, (max, total, acc), dim);
            e.pack_a(Mat { ptr: b.scores.ptr(), rs: 1, cs: columns }, columns, rows, b.operand.ptr());
            e.pack_b(Mat { ptr: x, rs: dim, cs: 1 }, rows, dim, b.rows_b.ptr());
            e.mul(columns, dim, rows, b.operand.ptr(), b.rows_b.ptr(), acc, dim, Start::Add);
        }
    }
}

/// Softmax over the tokens of a row `[T, heads]`, for each head.
///
/// # Safety
/// `row` covers `columns` floats, whole tokens.
#[inline(always)]
unsafe fn soft_tokens<S: Simd>(s: S, row: *mut f32, columns: usize, heads: usize) {
    for h in (0..heads).step_by(S::N) {
        let live = (heads - h).min(S::N);
        // SAFETY: lanes h..h + live of every token.
        unsafe {
            let mut max = s.splat(f32::NEG_INFINITY);
            for t in (h..columns).step_by(heads) {
                max = s.max(load_upto(s, row.add(t), live), max);
            }
            for t in (h..columns).step_by(heads) {
                store_upto(s, row.add(t), s.sub(load_upto(s, row.add(t), live), max), live);
            }
        }
    }
    // SAFETY: contract above.
    unsafe {
        for j in (0..columns).step_by(S::N) {
            store_upto(s, row.add(j), exp(s, load_upto(s, row.add(j), columns - j)), columns - j);
        }
        for h in (0..heads).step_by(S::N) {
            let live = (heads - h).min(S::N);
            let mut total = s.splat(0.0);
            for t in (h..columns).step_by(heads) {
                total = s.add(total, load_upto(s, row.add(t), live));
            }
            let scale = s.div(s.splat(1.0), total);
            for t in (h..columns).step_by(heads) {
                store_upto(s, row.add(t), s.mul(scale, load_upto(s, row.add(t), live)), live);
            }
        }
    }
}

/// One step of the running softmax down the columns: `x` becomes exp(x - max); sums and
/// accumulated rows follow the new maxima.
///
/// # Safety
/// `x` covers rows x columns, the state its columns.
#[inline(always)]
unsafe fn soft_columns<S: Simd>(
    s: S, x: *mut f32, rows: usize, columns: usize, (max, total, acc): (*mut f32, *mut f32, *mut f32), dim: usize,
) {
    for j in (0..columns).step_by(S::N) {
        let live = (columns - j).min(S::N);
        // SAFETY: lanes j..j + live of every row and of the state.
        unsafe {
            let before = load_upto(s, max.add(j), live);
            let mut after = before;
            for r in 0..rows {
                after = s.max(load_upto(s, x.add(r * columns + j), live), after);
            }
            let factor = exp(s, s.sub(before, after));
            let mut factors = [0.0f32; 16];
            store_upto(s, factors.as_mut_ptr(), factor, live);
            for (c, &f) in factors.iter().enumerate().take(live) {
                if f != 1.0 {
                    crate::attention::scale_row(s, acc.add((j + c) * dim), acc.add((j + c) * dim), dim, f);
                }
            }
            let mut sum = s.mul(factor, load_upto(s, total.add(j), live));
            for r in 0..rows {
                let p = x.add(r * columns + j);
                let e = exp(s, s.sub(load_upto(s, p, live), after));
                store_upto(s, p, e, live);
                sum = s.add(sum, e);
            }
            store_upto(s, max.add(j), after, live);
            store_upto(s, total.add(j), sum, live);
        }
    }
}
