//! Linear maps whose weight is packed once, in the order in which the products read it.
use crate::engine::{Engine, Mat, Precision, Start, with_engine};
use crate::isa::{self, Isa};
use crate::norm::norm_row;
use crate::block::Norm;
use crate::simd::{Kernel, Simd, Unit, dispatch};
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::Range;

/// Columns of C that stay in the second-level cache while the depth blocks pass.
pub(crate) const COLUMNS: usize = 256;

/// Memory at a cache line's start: owned, or kept alive by somebody else's.
#[derive(Debug)]
struct Aligned {
    ptr: *mut f32,
    words: usize,
    owner: Option<Kept>,
}

/// What keeps the bytes of packed weights, such as a mapped file.
pub type Bytes = std::sync::Arc<dyn AsRef<[u8]> + Send + Sync>;

struct Kept(#[allow(dead_code)] Bytes);

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kept")
    }
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
        Self { ptr, words, owner: None }
    }

    /// The bytes themselves where they lie as packed weights must, else a copy.
    fn of(bytes: &Bytes) -> Self {
        let slice = (**bytes).as_ref();
        let (ptr, words) = (slice.as_ptr(), slice.len() / 4);
        if ptr.addr().is_multiple_of(64) {
            // Nothing writes packed words after `Pack`, which takes memory of its own.
            return Self { ptr: ptr.cast_mut().cast(), words, owner: Some(Kept(bytes.clone())) };
        }
        let copy = Self::zeroed(words);
        // SAFETY: both have `words` words, and the copy is new.
        unsafe { std::ptr::copy_nonoverlapping(ptr, copy.ptr.cast::<u8>(), words * 4) };
        copy
    }

    fn layout(words: usize) -> Layout {
        Layout::from_size_align(words.max(16) * 4, 64).expect("a weight's size fits isize")
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        if self.owner.is_none() {
            // SAFETY: allocated by `zeroed` with the same layout.
            unsafe { dealloc(self.ptr.cast(), Self::layout(self.words)) }
        }
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
        dispatch(Pack { precision, weight: Some(weight), n, k, bias, packed: None }).expect("a weight can be packed")
    }

    /// A weight `[n, k]` whose words [`Self::words`] gave out under the same [`Self::layout`]; they are read where they
    /// are if they start at a cache line.
    ///
    /// # Errors
    /// Words of another number than the shape has.
    pub fn from_words(precision: Precision, (n, k): (usize, usize), bias: &[f32], packed: &Bytes) -> Result<Self, String> {
        let bias = if bias.is_empty() { vec![0.0; n] } else { bias.to_vec() };
        assert_eq!(bias.len(), n, "packed linear: the bias does not have {n} elements");
        dispatch(Pack { precision, weight: None, n, k, bias, packed: Some(packed) })
    }

    /// The packed words, little-endian: what [`Self::from_words`] takes.
    pub fn words(&self) -> &[u8] {
        // SAFETY: the memory has that many initialised words.
        unsafe { std::slice::from_raw_parts(self.words.ptr.cast(), self.words.words * 4) }
    }

    /// Bytes of the packed form of a weight `[n, k]` on the tier in use.
    pub fn packed_len(precision: Precision, (n, k): (usize, usize)) -> usize {
        dispatch(Length { precision, n, k })
    }

    /// Names the order of the words that `precision` has on the tier in use; words of another name do not fit.
    pub fn layout(precision: Precision) -> String {
        dispatch(LayoutName(precision))
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
                for r in 0..rows {
                    e.pack_norm(row(r), norm, r, self.kc, E::a_words(rows, self.kc), dst);
                }
            } else {
                for r in 0..rows {
                    norm_row(s, row(r), norm, y.add(r * k));
                }
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

/// Changes whenever the order of packed words does.
const ORDER: u32 = 1;

struct LayoutName(Precision);

impl Kernel for LayoutName {
    type Output = String;
    #[inline(always)]
    fn run<S: Simd>(self, _: S, unit: Unit) -> String {
        match self.0 {
            // The name of old, for one order.
            Precision::Bf16 if unit != Unit::None => format!("amx-bf16-{ORDER}"),
            _ => format!("f32x{}-{ORDER}", S::N),
        }
    }
}

/// Depths of a block, and words of all blocks.
fn sizes<E: Engine>(_: E, n: usize, k: usize) -> (usize, usize) {
    let kc = k.div_ceil(k.div_ceil(E::DEPTH)).next_multiple_of(32).min(k.next_multiple_of(32));
    let depths = (0..k.div_ceil(kc)).map(|i| kc.min(k - i * kc));
    (kc, depths.map(|depth| n.next_multiple_of(E::NR) * E::words(depth)).sum())
}

struct Length {
    precision: Precision,
    n: usize,
    k: usize,
}

impl Kernel for Length {
    type Output = usize;
    #[inline(always)]
    fn run<S: Simd>(self, s: S, unit: Unit) -> usize {
        with_engine!(s, unit, self.precision, |e| sizes(e, self.n, self.k).1 * 4)
    }
}

struct Pack<'a> {
    precision: Precision,
    weight: Option<&'a [f32]>,
    n: usize,
    k: usize,
    bias: Vec<f32>,
    /// Instead of the weight.
    packed: Option<&'a Bytes>,
}

impl Kernel for Pack<'_> {
    type Output = Result<PackedLinear, String>;
    #[inline(always)]
    fn run<S: Simd>(self, s: S, unit: Unit) -> Self::Output {
        with_engine!(s, unit, self.precision, |e| self.on(e))
    }
}

impl Pack<'_> {
    #[inline(always)]
    fn on<E: Engine>(self, e: E) -> Result<PackedLinear, String> {
        let Self { precision, weight, n, k, bias, packed } = self;
        let (kc, words) = sizes(e, n, k);
        let memory = match packed {
            Some(bytes) if (**bytes).as_ref().len() == words * 4 => Aligned::of(bytes),
            Some(bytes) => return Err(format!("{} bytes, {n} x {k} has {}", (**bytes).as_ref().len(), words * 4)),
            None => Aligned::zeroed(words),
        };
        let out = PackedLinear { words: memory, bias, n, k, kc, column: E::words(kc), precision, isa: isa::current() };
        if let Some(weight) = weight {
            let mat = Mat { ptr: weight.as_ptr(), rs: k, cs: 1 }.t();
            for (block, first, depth) in out.blocks() {
                // SAFETY: the weight is n x k; panels have the words of the layout.
                unsafe { e.pack_b(mat.at(first, 0), depth, n, out.panel::<E>(block, 0).cast_mut()) };
            }
        }
        Ok(out)
    }
}
