//! One pre-norm transformer block for inference: norm, attention, projection, norm, MLP.
//!
//! Block of SAM (`segment_anything` `modeling/image_encoder.py::Block`) and of CLIP
//! (`clip/model.py::ResidualAttentionBlock`). Rows pass through it in chunks: between reading
//! a chunk of `x` and adding to it, everything lies in buffers that stay in the second-level
//! cache. Windows are one task each, from gathering their tokens to adding to them. Weights
//! are packed once ([`PackedLinear`]). Twin: the same steps as separate kernels, `tests/block.rs`.
use crate::activation::{gelu_in_place, quick_gelu_in_place};
use crate::attention::{AttentionShape, Forward, RelPos, RowStrides};
use crate::engine::{Engine, F32, Mat, Precision, Start};
use crate::norm::norm_row;
use crate::packed::PackedLinear;
use crate::scratch::{Scratch, SharedPtr};
use crate::self_attention::{RelTables, Terms, self_attention_into};
use crate::simd::{Kernel, Simd, dispatch};
use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use crate::amx::Amx;

/// What the MLP applies between its two linear maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Exact GELU.
    Gelu,
    /// `x sigmoid(1.702 x)`.
    QuickGelu,
}

/// Scale and shift of a layer norm.
#[derive(Clone, Debug)]
pub struct Norm {
    /// Scale.
    pub weight: Vec<f32>,
    /// Shift.
    pub bias: Vec<f32>,
    /// Added to the variance.
    pub eps: f32,
}

/// A block with packed weights.
#[derive(Debug)]
pub struct Block {
    /// Before attention.
    pub norm1: Norm,
    /// `[3 D, D]`: q, k, v.
    pub qkv: PackedLinear,
    /// `[D, D]`.
    pub proj: PackedLinear,
    /// Before the MLP.
    pub norm2: Norm,
    /// `[hidden, D]`.
    pub fc1: PackedLinear,
    /// `[D, hidden]`.
    pub fc2: PackedLinear,
    /// Between them.
    pub activation: Activation,
    /// Attention heads.
    pub heads: usize,
    /// Window side in tokens; 0 is global attention.
    pub window: usize,
    /// Token i sees tokens `0..=i` only.
    pub causal: bool,
    /// How products multiply.
    pub precision: Precision,
}

/// Tokens `[batch, grid.0, grid.1, D]` of a block; sequences have a grid of (1, n).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenGrid {
    /// Images.
    pub batch: usize,
    /// Rows and columns of tokens.
    pub grid: (usize, usize),
}

impl Block {
    fn dim(&self) -> usize {
        self.norm1.weight.len()
    }

    /// Whether the packed weights are those of the tier in use and of `precision`.
    pub fn fits(&self, precision: Precision) -> bool {
        [&self.qkv, &self.proj, &self.fc1, &self.fc2].iter().all(|l| l.fits(precision))
    }

    /// Applies the block to `x` in place. `rel` are the relative positions of the grid, or of
    /// the window where there is one.
    ///
    /// # Panics
    /// When `x` or the tables do not have the elements of their shape.
    pub fn forward(&self, x: &mut [f32], tokens: TokenGrid, rel: Option<RelTables>) {
        let (h, w) = tokens.grid;
        let (n, d) = (tokens.batch * h * w, self.dim());
        assert_eq!(x.len(), n * d, "block: x is not {n} x {d}");
        let sizes = [self.qkv.size(), self.proj.size(), (self.fc2.size().0, self.fc1.size().1)];
        assert_eq!(sizes, [(3 * d, d), (d, d), (d, d)], "block: linear maps of another width");
        assert!(self.fits(self.precision), "block: weights packed for another tier");
        if x.is_empty() {
            return;
        }
        let px = SharedPtr::of(x);
        if self.window > 0 {
            let side = if rel.is_some() { (self.window, self.window) } else { (0, 0) };
            assert_eq!(rel.map_or((0, 0), |t| t.grid), side, "block: relative positions of another window");
            let across = w.div_ceil(self.window);
            let count = tokens.batch * h.div_ceil(self.window) * across;
            (0..count).into_par_iter().for_each(|index| {
                dispatch(Window { block: self, x: px, grid: tokens.grid, rel, index });
            });
            return self.rows(n, |row, rows| dispatch(Rows { block: self, x: px, attn: None, row, rows }));
        }
        let qkv = Scratch::take(n * 3 * d);
        let pq = SharedPtr::new(qkv.ptr());
        self.rows(n, |row, rows| dispatch(Qkv { block: self, x: px, qkv: pq, row, rows }));
        let attn = Scratch::take(n * d);
        let pa = SharedPtr::new(attn.ptr());
        let shape = self.shape(tokens.batch, h * w);
        // SAFETY: `Qkv` wrote n x 3 d floats; `attn` has n x d.
        unsafe { self_attention_into(self.precision, &shape, std::slice::from_raw_parts(pq.get(), n * 3 * d), rel, pa) };
        drop(qkv);
        self.rows(n, |row, rows| dispatch(Rows { block: self, x: px, attn: Some(pa), row, rows }));
    }

    fn shape(&self, batch: usize, n: usize) -> AttentionShape {
        let head_dim = self.dim() / self.heads;
        let scale = (head_dim as f32).sqrt().recip();
        AttentionShape { batch, heads: self.heads, queries: n, keys: n, head_dim, scale, causal: self.causal }
    }

    /// Chunks of rows, in parallel; cut by shape alone.
    fn rows(&self, n: usize, task: impl Fn(usize, usize) + Send + Sync) {
        let chunk = if self.precision == Precision::Bf16 { 192 } else { 96 };
        (0..n.div_ceil(chunk)).into_par_iter().for_each(|i| task(i * chunk, chunk.min(n - i * chunk)));
    }
}

/// Runs a task's `on` with the engine of the tier and precision.
macro_rules! on_engine {
    ($task:ident) => {
        impl Kernel for $task<'_> {
            type Output = ();
            #[inline(always)]
            fn run<S: Simd>(self, s: S, amx: bool) {
                #[cfg(target_arch = "x86_64")]
                if amx && self.block.precision == Precision::Bf16 {
                    // SAFETY: the tier is AMX; lengths were checked by `Block::forward`.
                    return unsafe { self.on(s, Amx) };
                }
                let _ = amx;
                // SAFETY: `s` proves the instruction set; lengths were checked.
                unsafe { self.on(s, F32(s)) }
            }
        }
    };
}

/// `qkv = linear(norm(x))` of some rows.
struct Qkv<'a> {
    block: &'a Block,
    x: SharedPtr,
    qkv: SharedPtr,
    row: usize,
    rows: usize,
}
on_engine!(Qkv);

impl Qkv<'_> {
    /// # Safety
    /// The rows are inside `x` and `qkv`, and no other task writes them.
    #[inline(always)]
    unsafe fn on<S: Simd, E: Engine>(self, s: S, e: E) {
        let Self { block, row, rows, .. } = self;
        let d = block.dim();
        let y = Scratch::take(rows * d);
        let a = Scratch::take(block.qkv.input_words::<E>(rows));
        // SAFETY: contract above; buffers have the stated sizes.
        unsafe {
            let x = self.x.get().add(row * d);
            for r in 0..rows {
                norm_row(s, x.add(r * d), &block.norm1, y.ptr().add(r * d));
            }
            block.qkv.pack_input(e, Mat { ptr: y.ptr(), rs: d, cs: 1 }, rows, a.ptr());
            e.begin();
            block.qkv.forward(e, a.ptr(), rows, self.qkv.get().add(row * 3 * d), 3 * d);
            e.end();
        }
    }
}

/// `x += proj(attn)` where there is one to add, then `x += mlp(norm(x))`, of some rows.
struct Rows<'a> {
    block: &'a Block,
    x: SharedPtr,
    attn: Option<SharedPtr>,
    row: usize,
    rows: usize,
}
on_engine!(Rows);

impl Rows<'_> {
    /// # Safety
    /// The rows are inside `x` and `attn`, and no other task writes them.
    #[inline(always)]
    unsafe fn on<S: Simd, E: Engine>(self, s: S, e: E) {
        let Self { block, row, rows, .. } = self;
        let (d, (hidden, _)) = (block.dim(), block.fc1.size());
        let (_, _, depth) = block.fc2.blocks().next().unwrap_or((0, 0, 0));
        let y = Scratch::take(rows * d.max(depth));
        let words = block.proj.input_words::<E>(rows).max(block.fc1.input_words::<E>(rows));
        let (a, a2) = (Scratch::take(words), Scratch::take(E::a_words(rows, depth)));
        // SAFETY: contract above; buffers have the stated sizes.
        unsafe {
            let x = self.x.get().add(row * d);
            e.begin();
            if let Some(attn) = self.attn {
                let src = Mat { ptr: attn.get().add(row * d), rs: d, cs: 1 };
                block.proj.pack_input(e, src, rows, a.ptr());
                block.proj.mul(e, a.ptr(), rows, 0..d, x, d, Start::Add);
            }
            for r in 0..rows {
                let x = x.add(r * d);
                if self.attn.is_some() {
                    add_row(s, x, block.proj.bias());
                }
                norm_row(s, x, &block.norm2, y.ptr().add(r * d));
                add_row(s, x, block.fc2.bias());
            }
            block.fc1.pack_input(e, Mat { ptr: y.ptr(), rs: d, cs: 1 }, rows, a.ptr());
            for (i, first, depth) in block.fc2.blocks() {
                let bias = Start::Bias(block.fc1.bias().as_ptr().add(first));
                let columns = first..(first + depth).min(hidden);
                block.fc1.mul(e, a.ptr(), rows, columns, y.ptr(), depth, bias);
                match block.activation {
                    Activation::Gelu => gelu_in_place(s, y.ptr(), rows * depth),
                    Activation::QuickGelu => quick_gelu_in_place(s, y.ptr(), rows * depth),
                }
                e.pack_a(Mat { ptr: y.ptr(), rs: depth, cs: 1 }, rows, depth, a2.ptr());
                e.mul(rows, d, depth, a2.ptr(), block.fc2.panel::<E>(i, 0), x, d, Start::Add);
            }
            e.end();
        }
    }
}

/// `x += proj(attention(norm(x)))` of one window.
struct Window<'a> {
    block: &'a Block,
    x: SharedPtr,
    grid: (usize, usize),
    rel: Option<RelTables<'a>>,
    index: usize,
}
on_engine!(Window);

impl Window<'_> {
    /// Tokens of the window inside the grid: (position in the window, token).
    fn tokens(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (size, (h, w), index) = (self.block.window, self.grid, self.index);
        let (down, across) = (h.div_ceil(size), w.div_ceil(size));
        let (image, row, column) = (index / (down * across), index / across % down, index % across);
        let (y0, x0) = (row * size, column * size);
        let (rows, columns) = (size.min(h - y0), size.min(w - x0));
        (0..rows).flat_map(move |y| (0..columns).map(move |x| (y * size + x, (image * h + y0 + y) * w + x0 + x)))
    }

    /// # Safety
    /// The grid's tokens are inside `x`, and no other task writes this window's.
    #[inline(always)]
    unsafe fn on<S: Simd, E: Engine>(self, s: S, e: E) {
        let block = self.block;
        let (d, n) = (block.dim(), block.window * block.window);
        let words = block.qkv.input_words::<E>(n).max(block.proj.input_words::<E>(n));
        let (a, qkv) = (Scratch::take(words), Scratch::take(n * 3 * d));
        let y = Scratch::take(n * d);
        // SAFETY: contract above; buffers have the stated sizes. Padded tokens are zero after the
        // norm and take part as keys (reference: `window_partition`).
        unsafe {
            if self.tokens().count() < n {
                std::ptr::write_bytes(y.ptr(), 0, n * d);
            }
            for (at, token) in self.tokens() {
                norm_row(s, self.x.get().add(token * d), &block.norm1, y.ptr().add(at * d));
            }
            let rows = Mat { ptr: y.ptr(), rs: d, cs: 1 };
            block.qkv.pack_input(e, rows, n, a.ptr());
            e.begin();
            block.qkv.forward(e, a.ptr(), n, qkv.ptr(), 3 * d);
            self.attend(s, e, &qkv, &y);
            block.proj.pack_input(e, rows, n, a.ptr());
            e.begin();
            block.proj.forward(e, a.ptr(), n, qkv.ptr(), d);
            e.end();
            for (at, token) in self.tokens() {
                let row = std::slice::from_raw_parts(qkv.ptr().add(at * d), d);
                add_row(s, self.x.get().add(token * d), row);
            }
        }
    }

    /// Attention of the window's heads, one after another: `y [n, D]`.
    ///
    /// # Safety
    /// `qkv` holds n x 3 D floats, `y` has room for n x D.
    #[inline(always)]
    unsafe fn attend<S: Simd, E: Engine>(&self, s: S, e: E, qkv: &Scratch, y: &Scratch) {
        let n = self.block.window * self.block.window;
        let shape = self.block.shape(1, n);
        let (heads, d) = (self.block.heads, self.block.dim());
        let side = self.block.window;
        let (lse, rel_h, rel_w) = (Scratch::take(heads * n), Scratch::take(heads * n * side), Scratch::take(heads * n * side));
        let strides = RowStrides::token_major(n, 3 * d, shape.head_dim);
        // SAFETY: contract above; the relative terms are written before they are read.
        unsafe {
            let all = std::slice::from_raw_parts(qkv.ptr(), n * 3 * d);
            let (h, w) = (SharedPtr::new(rel_h.ptr()), SharedPtr::new(rel_w.ptr()));
            for head in 0..heads {
                if let Some(tables) = self.rel {
                    Terms { shape: &shape, st: strides, qkv: all, tables, h, w, head }.on(F32(s));
                }
                let rel = self.rel.map(|t| RelPos {
                    h: std::slice::from_raw_parts(rel_h.ptr(), heads * n * side),
                    w: std::slice::from_raw_parts(rel_w.ptr(), heads * n * side),
                    grid: t.grid,
                });
                let task = Forward {
                    precision: self.block.precision,
                    shape: &shape,
                    q: (all, strides),
                    k: (&all[d..], strides),
                    v: (&all[2 * d..], strides),
                    rel,
                    out: (SharedPtr::new(y.ptr()), RowStrides::token_major(n, d, shape.head_dim)),
                    lse: SharedPtr::new(lse.ptr()),
                    head,
                    range: (0, n),
                };
                task.run_on(s, e);
            }
        }
    }
}

/// `x += row`
///
/// # Safety
/// `x` covers the row's floats.
#[inline(always)]
unsafe fn add_row<S: Simd>(s: S, x: *mut f32, row: &[f32]) {
    let n = row.len();
    let mut j = 0;
    while j < n {
        // SAFETY: contract above.
        unsafe {
            use crate::simd::{load_upto, store_upto};
            let sum = s.add(load_upto(s, x.add(j), n - j), load_upto(s, row.as_ptr().add(j), n - j));
            store_upto(s, x.add(j), sum, n - j);
        }
        j += S::N;
    }
}
