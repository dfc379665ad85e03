//! One pre-norm transformer block for inference: norm, attention, projection, norm, MLP.
//!
//! Block of SAM (`segment_anything` `modeling/image_encoder.py::Block`) and of CLIP
//! (`clip/model.py::ResidualAttentionBlock`). Rows pass through it in chunks: between reading
//! a chunk of `x` and adding to it, everything lies in buffers that stay in the second-level
//! cache. Windows are one task each, from gathering their tokens to adding to them. Weights
//! are packed once ([`PackedLinear`]). Twin: the same steps as separate kernels, `tests/block.rs`.
use crate::block_attention::{Heads, Rel, Window};
use crate::engine::{Engine, Mat, Precision, Start, with_engine};
use crate::packed::PackedLinear;
use crate::relative::RelPanels;
use crate::scratch::{Scratch, SharedPtr};
use crate::self_attention::RelTables;
use crate::simd::{Kernel, Simd, Unit, dispatch};
use crate::stages::{self, Stage};
use std::ops::Range;

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
    pub(crate) fn dim(&self) -> usize {
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
        let panels = rel.as_ref().and_then(|tables| self.panels(tables));
        let positions = Rel { tables: rel, panels: panels.as_ref() };
        let chunks = Chunks::of(n, self.precision);
        if self.window > 0 {
            let side = if rel.is_some() { (self.window, self.window) } else { (0, 0) };
            assert_eq!(rel.map_or((0, 0), |t| t.grid), side, "block: relative positions of another window");
            let (down, across) = (h.div_ceil(self.window), w.div_ceil(self.window));
            // Windows down to that of a chunk's last row.
            let above = |i| {
                let last = chunks.end(i) - 1;
                (last / (h * w) * down + last % (h * w) / w / self.window + 1) * across
            };
            let window = |index| dispatch(Window { block: self, x: px, grid: tokens.grid, rel: positions, index });
            let rows = |i| dispatch(Rows { block: self, x: px, attn: None, rows: chunks.rows(i) });
            let windows = Stage { count: tokens.batch * down * across, needs: &|_| 0, task: &window };
            return stages::run(&[windows, Stage { count: chunks.count, needs: &above, task: &rows }]);
        }
        let (qkv, attn) = (Scratch::take(n * 3 * d), Scratch::take(n * d));
        let (pq, pa) = (SharedPtr::new(qkv.ptr()), SharedPtr::new(attn.ptr()));
        let per_image = h * w;
        let project = |i| dispatch(Qkv { block: self, x: px, qkv: pq, all: n, rows: chunks.rows(i) });
        let attend = |index| {
            let (image, head) = (index / self.heads, index % self.heads);
            dispatch(Heads { block: self, qkv: pq, all: n, first: image * per_image, n: per_image, head, rel: positions, out: pa });
        };
        let rows = |i| dispatch(Rows { block: self, x: px, attn: Some(pa), rows: chunks.rows(i) });
        let projected = |index| chunks.holding((index / self.heads + 1) * per_image - 1) + 1;
        let attended = |i| ((chunks.end(i) - 1) / per_image + 1) * self.heads;
        stages::run(&[
            Stage { count: chunks.count, needs: &|_| 0, task: &project },
            Stage { count: tokens.batch * self.heads, needs: &projected, task: &attend },
            Stage { count: chunks.count, needs: &attended, task: &rows },
        ]);
    }

    /// The relative positions packed for AMX, where it multiplies.
    fn panels(&self, tables: &RelTables) -> Option<RelPanels> {
        #[cfg(target_arch = "x86_64")]
        if crate::isa::current() == crate::isa::Isa::Amx && self.precision == Precision::Bf16 {
            let head_dim = (self.dim() / self.heads) as f32;
            return RelPanels::of(tables, head_dim.sqrt().recip());
        }
        let _ = tables;
        None
    }

    /// Heads whose columns of q, k and v lie together: as few as make whole panels.
    pub(crate) fn head_group(&self) -> usize {
        let width = self.dim() / self.heads;
        (1..=self.heads).find(|g| self.heads % g == 0 && (g * width).is_multiple_of(32)).unwrap_or(self.heads)
    }
}

/// Rows cut into chunks of nearly the same size, by shape alone.
struct Chunks {
    n: usize,
    count: usize,
    /// Rows of a chunk are a multiple of these.
    unit: usize,
}

impl Chunks {
    fn of(n: usize, precision: Precision) -> Self {
        let (most, unit) = if precision == Precision::Bf16 { (192, 32) } else { (96, 12) };
        Self { n, count: n.div_ceil(most), unit }
    }

    fn end(&self, i: usize) -> usize {
        (self.n.div_ceil(self.unit) * (i + 1) / self.count * self.unit).min(self.n)
    }

    fn rows(&self, i: usize) -> Range<usize> {
        i.checked_sub(1).map_or(0, |before| self.end(before))..self.end(i)
    }

    /// The chunk of a row.
    fn holding(&self, row: usize) -> usize {
        (0..self.count).position(|i| row < self.end(i)).unwrap_or(self.count - 1)
    }
}

/// Runs a task's `on` with the engine of the tier and precision.
macro_rules! on_engine {
    ($task:ident) => {
        impl Kernel for $task<'_> {
            type Output = ();
            #[inline(always)]
            fn run<S: Simd>(self, s: S, unit: Unit) {
                // SAFETY: `s` and `unit` prove the instruction set; lengths were checked by `Block::forward`.
                with_engine!(s, unit, self.block.precision, |e| unsafe { self.on(s, e) })
            }
        }
    };
}

pub(crate) use on_engine;

/// `qkv = linear(norm(x))` of some rows, as `[groups of heads][q, k, v][all][width of a group]`.
struct Qkv<'a> {
    block: &'a Block,
    x: SharedPtr,
    qkv: SharedPtr,
    all: usize,
    rows: Range<usize>,
}
on_engine!(Qkv);

impl Qkv<'_> {
    /// # Safety
    /// The rows are inside `x` and `qkv`, and no other task writes them.
    #[inline(always)]
    unsafe fn on<S: Simd, E: Engine>(self, s: S, e: E) {
        let (block, all, row, rows) = (self.block, self.all, self.rows.start, self.rows.len());
        let d = block.dim();
        let y = Scratch::take(if E::packs_norm(d) { 0 } else { rows * d });
        let a = Scratch::take(block.qkv.input_words::<E>(rows));
        // SAFETY: contract above; buffers have the stated sizes.
        unsafe {
            let x = self.x.get().add(row * d);
            block.qkv.pack_norm(s, e, rows, |r| x.add(r * d).cast_const(), &block.norm1, y.ptr(), a.ptr());
            e.begin();
            block.project(e, a.ptr(), rows, |group, part, width| self.qkv.get().add(((group * 3 + part) * all + row) * width));
            e.end();
        }
    }
}

impl Block {
    /// q, k and v of packed rows; `to(group, part, width)` is where the first row of a group's part
    /// goes, rows `width` apart.
    ///
    /// # Safety
    /// As [`PackedLinear::mul`], for each place.
    #[inline(always)]
    pub(crate) unsafe fn project<E: Engine>(&self, e: E, a: *const f32, rows: usize, to: impl Fn(usize, usize, usize) -> *mut f32) {
        let (d, group) = (self.dim(), self.head_group());
        let width = group * d / self.heads;
        // SAFETY: contract above.
        unsafe {
            if !width.is_multiple_of(32) {
                // Parts do not start at whole panels: one product, then parts.
                let all = Scratch::take(rows * 3 * d);
                self.qkv.forward(e, a, rows, all.ptr(), 3 * d);
                for (part, r) in (0..3).flat_map(|part| (0..rows).map(move |r| (part, r))) {
                    let from = all.ptr().add(r * 3 * d + part * d);
                    std::ptr::copy_nonoverlapping(from, to(0, part, d).add(r * d), d);
                }
                return;
            }
            let column = |i: usize| i % 3 * d + i / 3 * width;
            let count = 3 * self.heads / group;
            for i in 0..count {
                let first = column(i);
                let bias = Start::Bias(self.qkv.bias().as_ptr().add(first));
                let next = self.qkv.panel::<E>(0, column((i + 1) % count));
                self.qkv.mul(e, a, rows, first..first + width, to(i / 3, i % 3, width), width, bias, next);
            }
        }
    }
}

/// `x += proj(attn)` where there is one to add, then `x += mlp(norm(x))`, of some rows.
struct Rows<'a> {
    block: &'a Block,
    x: SharedPtr,
    attn: Option<SharedPtr>,
    rows: Range<usize>,
}
on_engine!(Rows);

impl Rows<'_> {
    /// # Safety
    /// The rows are inside `x` and `attn`, and no other task writes them.
    #[inline(always)]
    unsafe fn on<S: Simd, E: Engine>(self, s: S, e: E) {
        let (block, row, rows) = (self.block, self.rows.start, self.rows.len());
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
                block.proj.mul(e, a.ptr(), rows, 0..d, x, d, Start::Add, block.fc1.panel::<E>(0, 0));
            }
            if self.attn.is_some() {
                for r in 0..rows {
                    add_row(s, x.add(r * d), block.proj.bias());
                }
            }
            block.fc1.pack_norm(s, e, rows, |r| x.add(r * d).cast_const(), &block.norm2, y.ptr(), a.ptr());
            for r in 0..rows {
                add_row(s, x.add(r * d), block.fc2.bias());
            }
            for (i, first, depth) in block.fc2.blocks() {
                let bias = Start::Bias(block.fc1.bias().as_ptr().add(first));
                let columns = first..(first + depth).min(hidden);
                let (fc2, end) = (block.fc2.panel::<E>(i, 0), first + depth);
                let fc1 = if end < hidden { block.fc1.panel::<E>(0, end) } else { fc2 };
                block.fc1.mul(e, a.ptr(), rows, columns, y.ptr(), depth, bias, fc2);
                e.pack_activation(s, block.activation, y.ptr(), rows, depth, a2.ptr());
                e.mul_then(rows, d, depth, a2.ptr(), fc2, x, d, Start::Add, fc1);
            }
            e.end();
        }
    }
}

/// `x += row`
///
/// # Safety
/// `x` covers the row's floats.
#[inline(always)]
pub(crate) unsafe fn add_row<S: Simd>(s: S, x: *mut f32, row: &[f32]) {
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
