//! The attention half of a block: one head of a whole image, or one window from its tokens to `x`.
//!
//! q, k and v of a few heads lie together (`Block::head_group`), so that a head's rows are dense
//! and what a window holds stays in the second-level cache.
use crate::attention::{AttentionShape, Forward, RelPos, RowStrides};
use crate::block::{Block, add_row, on_engine};
use crate::engine::{Engine, F32, Mat, with_engine};
use crate::relative::RelPanels;
use crate::scratch::{Scratch, SharedPtr};
use crate::self_attention::{RelTables, Terms};
use crate::simd::{Kernel, Simd, Unit};

/// Relative positions: tables, and their packed form where there is one.
#[derive(Clone, Copy)]
pub(crate) struct Rel<'a> {
    pub tables: Option<RelTables<'a>>,
    pub panels: Option<&'a RelPanels>,
}

/// One head of one image: `out` is `[all, D]`.
pub(crate) struct Heads<'a> {
    pub block: &'a Block,
    /// As `Block::project` writes it for `all` tokens.
    pub qkv: SharedPtr,
    pub all: usize,
    /// First token of the image.
    pub first: usize,
    pub n: usize,
    pub head: usize,
    pub rel: Rel<'a>,
    pub out: SharedPtr,
}
on_engine!(Heads);

impl Heads<'_> {
    /// # Safety
    /// `qkv` holds `all` tokens, `out` has room for them; no other task writes this head's part.
    #[inline(always)]
    unsafe fn on<S: Simd, E: Engine>(self, s: S, e: E) {
        let d = self.block.dim();
        let head_dim = d / self.block.heads;
        let group = self.block.head_group();
        let width = group * head_dim;
        let (g, inner) = (self.head / group, self.head % group * head_dim);
        let part = |i: usize| ((g * 3 + i) * self.all + self.first) * width + inner;
        // SAFETY: contract above.
        unsafe {
            let from = [0, 1, 2].map(|i| self.qkv.get().add(part(i)).cast_const());
            let out = self.out.get().add(self.first * d + self.head * head_dim);
            self.block.one_head(s, e, self.n, (from, width), self.rel, (out, d));
        }
    }
}

impl Block {
    /// `out = attention(q, k, v)` of one head; rows are `.1` floats apart.
    ///
    /// # Safety
    /// The pointers cover n rows; no other task writes `out`'s rows.
    #[inline(always)]
    unsafe fn one_head<S: Simd, E: Engine>(
        &self, s: S, e: E, n: usize, (qkv, row): ([*const f32; 3], usize), rel: Rel, (out, out_row): (*mut f32, usize),
    ) {
        let head_dim = self.dim() / self.heads;
        let scale = (head_dim as f32).sqrt().recip();
        let shape = AttentionShape { batch: 1, heads: 1, queries: n, keys: n, head_dim, scale, causal: self.causal };
        let strides = |row| RowStrides { batch: 0, head: 0, row };
        let tables = rel.tables.filter(|_| rel.panels.is_none());
        let (h, w) = tables.map_or((0, 0), |t| t.grid);
        let (rel_h, rel_w, lse) = (Scratch::take(n * h), Scratch::take(n * w), Scratch::take(n));
        // SAFETY: contract above; the relative terms are written before they are read.
        unsafe {
            let [q, k, v] = qkv.map(|p| (std::slice::from_raw_parts(p, (n - 1) * row + head_dim), strides(row)));
            if let Some(tables) = tables {
                let (h, w) = (SharedPtr::new(rel_h.ptr()), SharedPtr::new(rel_w.ptr()));
                Terms { shape: &shape, st: q.1, qkv: q.0, tables, h, w, head: 0 }.on(F32(s));
            }
            let terms = tables.map(|t| RelPos {
                h: std::slice::from_raw_parts(rel_h.ptr(), n * h),
                w: std::slice::from_raw_parts(rel_w.ptr(), n * w),
                grid: t.grid,
            });
            e.attend(s, Forward {
                precision: self.precision,
                shape: &shape,
                q,
                k,
                v,
                rel: terms,
                panels: rel.panels,
                out: (SharedPtr::new(out), strides(out_row)),
                lse: SharedPtr::new(lse.ptr()),
                head: 0,
                range: (0, n),
            });
        }
    }
}

/// `x += proj(attention(norm(x)))` of one window.
pub(crate) struct Window<'a> {
    pub block: &'a Block,
    pub x: SharedPtr,
    pub grid: (usize, usize),
    pub rel: Rel<'a>,
    pub index: usize,
}
on_engine!(Window);

impl Window<'_> {
    /// Tokens of the window inside the grid: (position in the window, token).
    fn tokens(&self) -> Vec<(usize, usize)> {
        let (size, (h, w), index) = (self.block.window, self.grid, self.index);
        let (down, across) = (h.div_ceil(size), w.div_ceil(size));
        let (image, row, column) = (index / (down * across), index / across % down, index % across);
        let (y0, x0) = (row * size, column * size);
        let (rows, columns) = (size.min(h - y0), size.min(w - x0));
        let line = |y: usize| (0..columns).map(move |x| (y * size + x, (image * h + y0 + y) * w + x0 + x));
        (0..rows).flat_map(line).collect()
    }

    /// # Safety
    /// The grid's tokens are inside `x`, and no other task writes this window's.
    #[inline(always)]
    unsafe fn on<S: Simd, E: Engine>(self, s: S, e: E) {
        let block = self.block;
        let (d, n) = (block.dim(), block.window * block.window);
        let tokens = self.tokens();
        let live = tokens.len();
        let group = block.head_group();
        let width = group * d / block.heads;
        let words = block.qkv.input_words::<E>(live).max(block.proj.input_words::<E>(live));
        let (a, qkv, y) = (Scratch::take(words), Scratch::take(n * 3 * d), Scratch::take(n * d));
        // SAFETY: contract above; buffers have the stated sizes.
        unsafe {
            let token = |r: usize| self.x.get().add(tokens[r].1 * d);
            block.qkv.pack_norm(s, e, live, |r| token(r).cast_const(), &block.norm1, y.ptr(), a.ptr());
            e.begin();
            let part = |g: usize, part: usize| qkv.ptr().add((g * 3 + part) * n * width);
            block.project(e, a.ptr(), live, |g, i, _| part(g, i));
            e.end();
            for head in 0..block.heads {
                let (g, inner) = (head / group, head % group);
                if inner == 0 && live < n {
                    (0..3).for_each(|i| self.pad(&tokens, part(g, i), width, i * d + g * width));
                }
                let inner = inner * (d / block.heads);
                let from = [0, 1, 2].map(|i| part(g, i).add(inner).cast_const());
                block.one_head(s, e, n, (from, width), self.rel, (y.ptr().add(head * d / block.heads), d));
            }
            for (r, &(at, _)) in tokens.iter().enumerate().filter(|(r, (at, _))| r != at) {
                std::ptr::copy(y.ptr().add(at * d), y.ptr().add(r * d), d);
            }
            block.proj.pack_input(e, Mat { ptr: y.ptr(), rs: d, cs: 1 }, live, a.ptr());
            e.begin();
            block.proj.forward(e, a.ptr(), live, qkv.ptr(), d);
            e.end();
            for r in 0..live {
                add_row(s, token(r), std::slice::from_raw_parts(qkv.ptr().add(r * d), d));
            }
        }
    }

    /// Moves rows from their order to their place in the window. Padded tokens are zero after the
    /// norm and take part as keys (reference: `window_partition`): their rows are the bias.
    ///
    /// # Safety
    /// `rows` has room for the window's rows of `width`, of which `tokens.len()` are written.
    unsafe fn pad(&self, tokens: &[(usize, usize)], rows: *mut f32, width: usize, column: usize) {
        let bias = &self.block.qkv.bias()[column..column + width];
        let mut end = self.block.window * self.block.window;
        for (r, &(at, _)) in tokens.iter().enumerate().rev() {
            // SAFETY: places grow with the order, so nothing is overwritten before it is moved.
            unsafe {
                std::ptr::copy(rows.add(r * width), rows.add(at * width), width);
                (at + 1..end).for_each(|i| std::ptr::copy_nonoverlapping(bias.as_ptr(), rows.add(i * width), width));
            }
            end = at;
        }
    }
}
