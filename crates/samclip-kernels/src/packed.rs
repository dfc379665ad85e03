//! Linear maps whose weight is packed once, in the order in which the products read it.
use crate::engine::{Engine, F32, Mat, Precision, Start};
use crate::isa::{self, Isa};
use crate::norm::norm_row;
use crate::block::Norm;
use crate::simd::{Kernel, Simd, dispatch};
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use crate::amx::Amx;

/// Columns of C that stay in the second-level cache while the depth blocks pass.
pub(crate) const COLUMNS: usize = 256;

/// Memory at a cache line's start, owned.
#[derive(Debug)]
struct Aligned {
    ptr: *mut f32,
    words: usize,
}

// SAFETY: plain memory, owned; shared access only reads.
unsafe impl Send for Aligned {}
// SAFETY: as above.
unsafe impl Sync for Aligned {}

impl Aligned {
    fn zeroed(words: usize) -> Self {
        let layout = Self::layout(words);
        // SAFETY: the layout is not empty.
        let ptr = unsafe { alloc_zeroed(layout) }.cast::<f32>();
        if ptr.is_null() {
            handle_alloc_error(layout);
        }
        Self { ptr, words }
    }

    fn layout(words: usize) -> Layout {
        Layout::from_size_align(words.max(16) * 4, 64).expect("a weight's size fits isize")
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        // SAFETY: allocated by `zeroed` with the same layout.
        unsafe { dealloc(self.ptr.cast(), Self::layout(self.words)) }
    }
}

/// `y = x weight^T + bias` with a weight that is packed for the tier in use.
#[derive(Debug)]
pub struct PackedLinear {
    words: Aligned,
    bias: Vec<f32>,
    n: usize,
    k: usize,
    kc: usize,
    /// Words of a column of a whole depth block.
    column: usize,
    precision: Precision,
    isa: Isa,
}

impl PackedLinear {
    /// Packs `weight [n, k]`; an empty `bias` is zero.
    ///
    /// # Panics
    /// When the weight is not whole rows, or the bias has another length than `n`.
    pub fn new(precision: Precision, weight: &[f32], k: usize, bias: &[f32]) -> Self {
        assert!(k > 0 && weight.len().is_multiple_of(k), "packed linear: the weight is not rows of {k}");
        let n = weight.len() / k;
        let bias = if bias.is_empty() { vec![0.0; n] } else { bias.to_vec() };
        assert_eq!(bias.len(), n, "packed linear: the bias does not have {n} elements");
        dispatch(Pack { precision, weight, n, k, bias })
    }

    /// Whether the packed form is the one that `precision` takes now.
    pub fn fits(&self, precision: Precision) -> bool {
        self.precision == precision && self.isa == isa::current()
    }

    /// Bytes of the packed weight.
    pub fn bytes(&self) -> usize {
        self.words.words * 4
    }

    /// Outputs and inputs.
    pub fn size(&self) -> (usize, usize) {
        (self.n, self.k)
    }

    pub(crate) fn bias(&self) -> &[f32] {
        &self.bias
    }

    /// Depth blocks: (index, first depth, depths).
    pub(crate) fn blocks(&self) -> impl Iterator<Item = (usize, usize, usize)> + use<> {
        let (k, kc) = (self.k, self.kc);
        (0..k.div_ceil(kc)).map(move |i| (i, i * kc, kc.min(k - i * kc)))
    }

    /// Packed columns from `column` (a multiple of the engine's NR) on, of one depth block.
    pub(crate) fn panel<E: Engine>(&self, block: usize, column: usize) -> *const f32 {
        let columns = self.n.next_multiple_of(E::NR);
        let depth = self.kc.min(self.k - block * self.kc);
        let offset = block * columns * self.column + column * E::words(depth);
        debug_assert!(offset < self.words.words.max(1));
        // SAFETY: inside the allocation by the layout of `Pack`.
        unsafe { self.words.ptr.add(offset) }
    }

    /// Words of `rows` packed rows of the input.
    pub(crate) fn input_words<E: Engine>(&self, rows: usize) -> usize {
        self.blocks().map(|(_, _, depth)| E::a_words(rows, depth)).sum()
    }

    /// Packs `rows` rows of the input, depth block after depth block.
    ///
    /// # Safety
    /// `x` covers `rows` x `k`; `dst` is aligned and has [`Self::input_words`].
    #[inline(always)]
    pub(crate) unsafe fn pack_input<E: Engine>(&self, e: E, x: Mat, rows: usize, dst: *mut f32) {
        let mut at = 0;
        for (_, first, depth) in self.blocks() {
            // SAFETY: contract above.
            unsafe { e.pack_a(x.at(0, first), rows, depth, dst.add(at)) };
            at += E::a_words(rows, depth);
        }
    }

    /// Packs the layer norm of `rows` rows of the input; `y` has room for rows x `k`.
    ///
    /// # Safety
    /// As [`Self::pack_input`]; `row(i)` covers the floats of row i.
    #[inline(always)]
    pub(crate) unsafe fn pack_norm<S: Simd, E: Engine>(
        &self, s: S, e: E, rows: usize, row: impl Fn(usize) -> *const f32, norm: &Norm, y: *mut f32, dst: *mut f32,
    ) {
        let k = self.k;
        // SAFETY: contract above.
        unsafe {
            if E::packs_norm(k) {
                (0..rows).for_each(|r| e.pack_norm(row(r), norm, r, self.kc, E::a_words(rows, self.kc), dst));
            } else {
                (0..rows).for_each(|r| norm_row(s, row(r), norm, y.add(r * k)));
                self.pack_input(e, Mat { ptr: y, rs: k, cs: 1 }, rows, dst);
            }
        }
    }

    /// Columns `range` of the product, into C with row stride `ldc`; `range` starts at a
    /// multiple of NR. `start` is for the first depth block and belongs to column `range.start`; `next` is
    /// the panel that is read after these.
    ///
    /// # Safety
    /// `a` was written by [`Self::pack_input`] with `rows`; `begin` has run on this thread; C
    /// covers `rows` x `range.len()`.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    pub(crate) unsafe fn mul<E: Engine>(
        &self, e: E, a: *const f32, rows: usize, range: Range<usize>, c: *mut f32, ldc: usize, start: Start, next: *const f32,
    ) {
        let mut column = range.start;
        while column < range.end {
            let columns = COLUMNS.min(range.end - column);
            let offset = column - range.start;
            let mut at = 0;
            for (block, _, depth) in self.blocks() {
                // SAFETY: contract above; panels as packed.
                unsafe {
                    let start = match start {
                        _ if block > 0 => Start::Add,
                        Start::Bias(bias) => Start::Bias(bias.add(offset)),
                        other => other,
                    };
                    let b = self.panel::<E>(block, column);
                    let next = match (block + 1 < self.k.div_ceil(self.kc), column + columns < range.end) {
                        (true, _) => self.panel::<E>(block + 1, column),
                        (false, true) => self.panel::<E>(0, column + columns),
                        (false, false) => next,
                    };
                    e.mul_then(rows, columns, depth, a.add(at), b, c.add(offset), ldc, start, next);
                }
                at += E::a_words(rows, depth);
            }
            column += columns;
        }
    }

    /// [`Self::mul`] of every column, from the bias.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    pub(crate) unsafe fn forward<E: Engine>(&self, e: E, a: *const f32, rows: usize, c: *mut f32, ldc: usize) {
        // SAFETY: contract above.
        unsafe { self.mul(e, a, rows, 0..self.n, c, ldc, Start::Bias(self.bias.as_ptr()), self.panel::<E>(0, 0)) }
    }
}

struct Pack<'a> {
    precision: Precision,
    weight: &'a [f32],
    n: usize,
    k: usize,
    bias: Vec<f32>,
}

impl Kernel for Pack<'_> {
    type Output = PackedLinear;
    #[inline(always)]
    fn run<S: Simd>(self, s: S, amx: bool) -> PackedLinear {
        #[cfg(target_arch = "x86_64")]
        if amx && self.precision == Precision::Bf16 {
            return self.on(Amx);
        }
        let _ = amx;
        self.on(F32(s))
    }
}

impl Pack<'_> {
    #[inline(always)]
    fn on<E: Engine>(self, e: E) -> PackedLinear {
        let Self { precision, weight, n, k, bias } = self;
        let kc = k.div_ceil(k.div_ceil(E::DEPTH)).next_multiple_of(32).min(k.next_multiple_of(32));
        let column = E::words(kc);
        let columns = n.next_multiple_of(E::NR);
        let depths = (0..k.div_ceil(kc)).map(|i| kc.min(k - i * kc));
        let words = depths.map(|depth| columns * E::words(depth)).sum();
        let packed = Aligned::zeroed(words);
        let out = PackedLinear { words: packed, bias, n, k, kc, column, precision, isa: isa::current() };
        let mat = Mat { ptr: weight.as_ptr(), rs: k, cs: 1 }.t();
        for (block, first, depth) in out.blocks() {
            // SAFETY: the weight is n x k; panels have the words of the layout.
            unsafe { e.pack_b(mat.at(first, 0), depth, n, out.panel::<E>(block, 0).cast_mut()) };
        }
        out
    }
}
