//! `C = op(A) op(B)` for row-major f32, on all threads.
//!
//! Operands are packed block by block of depth (Goto and van de Geijn, 2008)
//! and C is cut into a grid by shape alone, so the result does not depend on
//! the number of threads.
use crate::engine::{Engine, Mat, Precision, Start, with_engine};
use crate::scratch::{Scratch, SharedPtr};
use crate::simd::{Kernel, Simd, Unit, dispatch};
use rayon::prelude::*;

/// How an operand lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Row-major in the shape the product needs.
    Normal,
    /// Row-major in the transposed shape.
    Transposed,
}

/// What C starts from.
#[derive(Clone, Copy, Debug)]
pub enum Init<'a> {
    /// Zero: C is overwritten.
    Zero,
    /// The content of C: the product is added.
    Keep,
    /// A row vector of `n` added to every row.
    Bias(&'a [f32]),
}

/// Rows and columns of C one task computes (a multiple of every MR and NR).
const TASK_ROWS: usize = 192;
const TASK_COLS: usize = 256;
/// Depth that is packed at once: whole blocks of the engine's KC, at least one. A task adds them up
/// while its part of C lies in the second-level cache.
const DEEP: usize = 1024;
/// Rows or columns one packing task handles.
const PACK: usize = 192;
/// Multiply-adds below which one thread does everything.
const SMALL: usize = 1 << 16;

/// `C[m,n] = init + op(A)[m,k] op(B)[k,n]`, all row-major and dense.
///
/// # Panics
/// When a slice does not have exactly the elements of its shape.
pub fn gemm(
    precision: Precision,
    [m, n, k]: [usize; 3],
    (a, a_layout): (&[f32], Layout),
    (b, b_layout): (&[f32], Layout),
    c: &mut [f32],
    init: Init,
) {
    assert_eq!(a.len(), m * k, "gemm: operand A is not {m} x {k}");
    assert_eq!(b.len(), k * n, "gemm: operand B is not {k} x {n}");
    assert_eq!(c.len(), m * n, "gemm: C is not {m} x {n}");
    if let Init::Bias(bias) = init {
        assert_eq!(bias.len(), n, "gemm: the bias does not have {n} elements");
    }
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        return start(c, n, init);
    }
    let view = |ptr: *const f32, rows: usize, cols: usize, layout| match layout {
        Layout::Normal => Mat { ptr, rs: cols, cs: 1 },
        Layout::Transposed => Mat { ptr, rs: 1, cs: rows },
    };
    let args = Args {
        dims: [m, n, k],
        a: SharedMat(view(a.as_ptr(), m, k, a_layout)),
        b: SharedMat(view(b.as_ptr(), k, n, b_layout)),
    };
    drive(precision, args, c, init);
}

/// C without any product.
fn start(c: &mut [f32], n: usize, init: Init) {
    match init {
        Init::Zero => c.fill(0.0),
        Init::Keep => {}
        Init::Bias(bias) => c.chunks_exact_mut(n).for_each(|row| row.copy_from_slice(bias)),
    }
}

#[derive(Clone, Copy)]
struct SharedMat(Mat);
// SAFETY: operands are only read while their slices are borrowed.
unsafe impl Send for SharedMat {}
// SAFETY: as above.
unsafe impl Sync for SharedMat {}

impl SharedMat {
    fn get(self) -> Mat {
        self.0
    }
}

#[derive(Clone, Copy)]
struct Args {
    dims: [usize; 3],
    a: SharedMat,
    b: SharedMat,
}

/// Constants of the engine the tier and precision choose.
struct Plan;
impl Kernel for (Plan, Precision) {
    type Output = (usize, usize, fn(usize) -> usize);
    #[inline(always)]
    fn run<S: Simd>(self, s: S, unit: Unit) -> Self::Output {
        with_engine!(s, unit, self.1, |e| plan_of(e))
    }
}
#[inline(always)]
fn plan_of<E: Engine>(_: E) -> (usize, usize, fn(usize) -> usize) {
    (E::KC, E::MR * E::NR, E::words)
}

enum Work {
    PackA { row: usize, rows: usize },
    PackB { col: usize, cols: usize },
    Mul { row: usize, rows: usize, col: usize, cols: usize },
}

/// Depth blocks that are packed together.
#[derive(Clone, Copy)]
struct Depths {
    /// First depth.
    k0: usize,
    /// Depths in all.
    deep: usize,
    /// Depths of a block; the last one may have fewer.
    kc: usize,
    /// Rows of A and columns of B, padded to whole panels.
    padded: [usize; 2],
}

impl Depths {
    /// First depth and number of depths of each block.
    fn blocks(self) -> impl Iterator<Item = (usize, usize)> {
        (0..self.deep).step_by(self.kc).map(move |at| (at, self.kc.min(self.deep - at)))
    }
}

/// One task on one thread.
struct Step<'a> {
    precision: Precision,
    args: Args,
    depths: Depths,
    pa: *mut f32,
    pb: *mut f32,
    c: *mut f32,
    init: Init<'a>,
    work: Work,
}

impl Kernel for Step<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S, unit: Unit) {
        // SAFETY: `s` and `unit` prove the instruction set; ranges come from `drive`.
        with_engine!(s, unit, self.precision, |e| unsafe { self.run_on(e) })
    }
}

impl Step<'_> {
    /// # Safety
    /// The instruction set of `e` is present; ranges are inside the matrices,
    /// start at multiples of MR / NR, and no other running task writes them.
    #[inline(always)]
    unsafe fn run_on<E: Engine>(self, e: E) {
        let (Depths { k0, padded, .. }, n) = (self.depths, self.args.dims[1]);
        // Blocks lie one after another: those before `at` have `at` depths, in whole words.
        let panel = |p: *mut f32, side: usize, first: usize, (at, kc): (usize, usize)| {
            // SAFETY: `words` per row or column, as `drive` took the buffers.
            unsafe { p.add(padded[side] * E::words(at) + first * E::words(kc)) }
        };
        // SAFETY: offsets follow the packed layout.
        unsafe {
            match self.work {
                Work::PackA { row, rows } => {
                    for (at, kc) in self.depths.blocks() {
                        e.pack_a(self.args.a.get().at(row, k0 + at), rows, kc, panel(self.pa, 0, row, (at, kc)));
                    }
                }
                Work::PackB { col, cols } => {
                    for (at, kc) in self.depths.blocks() {
                        e.pack_b(self.args.b.get().at(k0 + at, col), kc, cols, panel(self.pb, 1, col, (at, kc)));
                    }
                }
                Work::Mul { row, rows, col, cols } => {
                    let c = self.c.add(row * n + col);
                    e.begin();
                    for (at, kc) in self.depths.blocks() {
                        let start = match self.init {
                            _ if k0 + at > 0 => Start::Add,
                            Init::Zero => Start::Zero,
                            Init::Keep => Start::Add,
                            Init::Bias(bias) => Start::Bias(bias.as_ptr().add(col)),
                        };
                        let (a, b) = (panel(self.pa, 0, row, (at, kc)), panel(self.pb, 1, col, (at, kc)));
                        e.mul(rows, cols, kc, a, b, c, n, start);
                    }
                    e.end();
                }
            }
        }
    }
}

fn drive(precision: Precision, args: Args, c: &mut [f32], init: Init) {
    let [m, n, k] = args.dims;
    let (kc_max, pad, words) = dispatch((Plan, precision));
    let blocks = k.div_ceil(kc_max);
    // Even depth blocks, a multiple of 32 so that tiles stay whole.
    let kc = k.div_ceil(blocks).next_multiple_of(32);
    let deep = kc * (DEEP / kc).max(1);
    let padded = [m.next_multiple_of(pad), n.next_multiple_of(pad)];
    let [a_buffer, b_buffer] = padded.map(|side| Scratch::take(side * words(deep.min(k.next_multiple_of(32)))));
    // Tasks write disjoint panels and disjoint cells of C.
    let (pa, pb, c) = (SharedPtr::new(a_buffer.ptr()), SharedPtr::new(b_buffer.ptr()), SharedPtr::of(c));
    let grid_cols = n.div_ceil(TASK_COLS);
    let packs_a = m.div_ceil(PACK);
    let tasks = packs_a + n.div_ceil(PACK);
    let cells = m.div_ceil(TASK_ROWS) * grid_cols;
    let small = m * n * k <= SMALL;
    for k0 in (0..k).step_by(deep) {
        let depths = Depths { k0, deep: deep.min(k - k0), kc, padded };
        let step = |work| {
            dispatch(Step { precision, args, depths, pa: pa.get(), pb: pb.get(), c: c.get(), init, work });
        };
        let pack = |t: usize| {
            if t < packs_a {
                step(Work::PackA { row: t * PACK, rows: PACK.min(m - t * PACK) });
            } else {
                let col = (t - packs_a) * PACK;
                step(Work::PackB { col, cols: PACK.min(n - col) });
            }
        };
        let mul = |t: usize| {
            let (row, col) = (t / grid_cols * TASK_ROWS, t % grid_cols * TASK_COLS);
            step(Work::Mul { row, rows: TASK_ROWS.min(m - row), col, cols: TASK_COLS.min(n - col) });
        };
        if small {
            (0..tasks).for_each(pack);
            (0..cells).for_each(mul);
        } else {
            (0..tasks).into_par_iter().for_each(pack);
            (0..cells).into_par_iter().for_each(mul);
        }
    }
}

/// Sums over the rows of `x [rows, n]`, in a fixed order: the bias gradient.
///
/// # Panics
/// When `x` is not a whole number of rows of `out.len()`.
pub fn column_sums(x: &[f32], out: &mut [f32]) {
    let n = out.len();
    out.fill(0.0);
    if n == 0 {
        return;
    }
    assert_eq!(x.len() % n, 0, "column_sums: not a whole number of rows");
    let partial: Vec<Vec<f32>> = x
        .par_chunks(n * 256)
        .map(|block| {
            let mut sum = vec![0.0f32; n];
            for row in block.chunks_exact(n) {
                sum.iter_mut().zip(row).for_each(|(s, v)| *s += v);
            }
            sum
        })
        .collect();
    for p in partial {
        out.iter_mut().zip(p).for_each(|(s, v)| *s += v);
    }
}
