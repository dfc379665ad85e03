//! Packed matrix products on one thread: the f32 microkernel and the trait the
//! bf16 paths share with it.
//!
//! Operands are packed once into panels of rows (A) or columns (B) and zero
//! padded; `mul` multiplies packed panels into a row-major f32 C.
use crate::activation::{activate, sum};
use crate::attention::Forward;
use crate::block::{Activation, Norm};
use crate::simd::{Simd, load_upto, store_upto};

/// How matrix products multiply; sums are always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Precision {
    /// f32 products.
    #[default]
    F32,
    /// Operands rounded to bf16 where the processor multiplies them ([`crate::isa::bf16`]), f32 elsewhere.
    Bf16,
}

/// A matrix whose rows or columns are dense: element (i, j) at `ptr + i * rs + j * cs`, and one of the strides is 1.
#[derive(Clone, Copy)]
pub(crate) struct Mat {
    pub ptr: *const f32,
    pub rs: usize,
    pub cs: usize,
}

impl Mat {
    pub(crate) fn t(self) -> Self {
        Self { ptr: self.ptr, rs: self.cs, cs: self.rs }
    }
    /// The matrix from element (i, j) on.
    ///
    /// # Safety
    /// (i, j) must be inside the matrix or one past its end.
    pub(crate) unsafe fn at(self, i: usize, j: usize) -> Self {
        // SAFETY: the caller keeps the offset inside the allocation.
        Self { ptr: unsafe { self.ptr.add(i * self.rs + j * self.cs) }, ..self }
    }
}

/// What a packed product does with C.
#[derive(Clone, Copy)]
pub(crate) enum Start {
    /// Overwrites.
    Zero,
    /// Adds to it.
    Add,
    /// Overwrites with the product plus this row, one float per column.
    Bias(*const f32),
}

/// Packing and multiplying for one instruction set.
///
/// # Safety of the unsafe methods
/// Pointers must cover the stated matrix; packed buffers must be 64-byte
/// aligned with `a_words` / `b_words` words; `begin` must have run on this
/// thread; the instruction set must be present.
pub(crate) trait Engine: Copy + Send + Sync {
    /// Rows of C per panel of A.
    const MR: usize;
    /// Columns of C per panel of B.
    const NR: usize;
    /// Depth of one block of a large product.
    const KC: usize;
    /// Depth of one block of a product with a packed weight.
    const DEPTH: usize;
    /// Words of a packed row (or column) of depth `k`.
    fn words(k: usize) -> usize;
    fn a_words(m: usize, k: usize) -> usize {
        m.next_multiple_of(Self::MR) * Self::words(k)
    }
    fn b_words(k: usize, n: usize) -> usize {
        n.next_multiple_of(Self::NR) * Self::words(k)
    }
    unsafe fn begin(self);
    unsafe fn end(self);
    unsafe fn pack_a(self, a: Mat, m: usize, k: usize, dst: *mut f32);
    unsafe fn pack_b(self, b: Mat, k: usize, n: usize, dst: *mut f32);
    /// C is m x n with row stride `ldc`.
    #[allow(clippy::too_many_arguments)]
    unsafe fn mul(self, m: usize, n: usize, k: usize, a: *const f32, b: *const f32, c: *mut f32, ldc: usize, start: Start);

    /// [`Engine::mul`], after which panels at `next` are read: an engine may have them fetched meanwhile.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    unsafe fn mul_then(
        self, m: usize, n: usize, k: usize, a: *const f32, b: *const f32, c: *mut f32, ldc: usize, start: Start, _next: *const f32,
    ) {
        // SAFETY: contract of the trait.
        unsafe { self.mul(m, n, k, a, b, c, ldc, start) }
    }

    /// Attention of one head.
    #[inline(always)]
    unsafe fn attend<S: Simd>(self, s: S, head: Forward) {
        // SAFETY: contract of the trait, and of `run_on`.
        unsafe { head.run_on(s, self) }
    }

    /// Applies `activation` to `y`, dense rows of `k`, and packs them as A; `y` may change.
    #[inline(always)]
    unsafe fn pack_activation<S: Simd>(self, s: S, activation: Activation, y: *mut f32, m: usize, k: usize, dst: *mut f32) {
        // SAFETY: contract of the trait; y covers m x k.
        unsafe {
            activate(s, activation, y, m * k);
            self.pack_a(Mat { ptr: y, rs: k, cs: 1 }, m, k, dst);
        }
    }

    /// Packs `a + b`, dense rows of `k`, as A; `room` has that size.
    #[inline(always)]
    unsafe fn pack_sum<S: Simd>(self, s: S, [a, b]: [*const f32; 2], m: usize, k: usize, room: *mut f32, dst: *mut f32) {
        // SAFETY: contract of the trait; both cover m x k.
        unsafe {
            sum(s, a, b, room, m * k);
            self.pack_a(Mat { ptr: room, rs: k, cs: 1 }, m, k, dst);
        }
    }

    /// Whether [`Engine::pack_norm`] packs rows of width `k`.
    fn packs_norm(_k: usize) -> bool {
        false
    }

    /// Packs the layer norm of `x` as row `r`, in depth blocks of `kc` that are `words` apart.
    unsafe fn pack_norm(self, _x: *const f32, _norm: &Norm, _r: usize, _kc: usize, _words: usize, _dst: *mut f32) {
        unreachable!("asked only where `packs_norm`")
    }
}

/// `$body` with `$e` the engine that a kernel's tier takes at a precision.
macro_rules! with_engine {
    ($simd:expr, $unit:expr, $precision:expr, |$e:ident| $body:expr) => {{
        #[cfg(target_arch = "x86_64")]
        match $unit {
            crate::simd::Unit::Tiles if $precision == crate::engine::Precision::Bf16 => {
                let $e = crate::bf16::AMX;
                return $body;
            }
            crate::simd::Unit::Dots if $precision == crate::engine::Precision::Bf16 => {
                let $e = crate::bf16::DOTS;
                return $body;
            }
            _ => {}
        }
        let _ = ($unit, $precision);
        let $e = crate::engine::F32($simd);
        $body
    }};
}
pub(crate) use with_engine;

/// f32 panels: A `[m/MR][k][MR]`, B `[n/NR][k][NR]` with NR two vectors.
#[derive(Clone, Copy)]
pub(crate) struct F32<S>(pub S);

impl<S: Simd> Engine for F32<S> {
    const MR: usize = S::MR;
    const NR: usize = 2 * S::N;
    const KC: usize = 320;
    const DEPTH: usize = 320;

    fn words(k: usize) -> usize {
        k
    }
    #[inline(always)]
    unsafe fn begin(self) {}
    #[inline(always)]
    unsafe fn end(self) {}

    #[inline(always)]
    unsafe fn pack_a(self, a: Mat, m: usize, k: usize, dst: *mut f32) {
        // SAFETY: contract of the trait.
        unsafe { pack_panels(self.0, a, m, k, dst, Self::MR) }
    }

    #[inline(always)]
    unsafe fn pack_b(self, b: Mat, k: usize, n: usize, dst: *mut f32) {
        // SAFETY: contract of the trait.
        unsafe { pack_panels(self.0, b.t(), n, k, dst, Self::NR) }
    }

    #[inline(always)]
    unsafe fn mul(self, m: usize, n: usize, k: usize, a: *const f32, b: *const f32, c: *mut f32, ldc: usize, start: Start) {
        let mut j = 0;
        while j < n {
            let nr = Self::NR.min(n - j);
            let start = match start {
                // SAFETY: column j is inside the bias.
                Start::Bias(bias) => Start::Bias(unsafe { bias.add(j) }),
                other => other,
            };
            let mut i = 0;
            while i < m {
                let mr = Self::MR.min(m - i);
                // SAFETY: panels start at multiples of MR and NR; C is m x n.
                unsafe {
                    let (ap, bp, cp) = (a.add(i * k), b.add(j * k), c.add(i * ldc + j));
                    match Self::MR {
                        12 => micro::<S, 12>(self.0, k, ap, bp, cp, ldc, mr, nr, start),
                        6 => micro::<S, 6>(self.0, k, ap, bp, cp, ldc, mr, nr, start),
                        _ => micro::<S, 4>(self.0, k, ap, bp, cp, ldc, mr, nr, start),
                    }
                }
                i += Self::MR;
            }
            j += Self::NR;
        }
    }
}

/// Panels of `w` outer elements, depth `k`, zero padded.
///
/// # Safety
/// `src` must cover outer x k; `dst` must hold `outer.next_multiple_of(w) * k`.
#[inline(always)]
unsafe fn pack_panels<S: Simd>(s: S, src: Mat, outer: usize, k: usize, dst: *mut f32, w: usize) {
    let mut o = 0;
    while o < outer {
        let live = w.min(outer - o);
        // SAFETY: rows o..o+live and depths 0..k are inside `src`; the panel
        // is inside `dst`.
        unsafe {
            let (from, d) = (src.ptr.add(o * src.rs), dst.add(o * k));
            if live < w {
                std::ptr::write_bytes(d, 0, w * k);
            }
            if src.rs == 1 {
                for p in 0..k {
                    std::ptr::copy_nonoverlapping(from.add(p * src.cs), d.add(p * w), live);
                }
            } else {
                debug_assert_eq!(src.cs, 1);
                for p in (0..k).step_by(16) {
                    for i in (0..live).step_by(16) {
                        let size = (16.min(live - i), 16.min(k - p));
                        s.transpose(from.add(i * src.rs + p), src.rs, size, d.add(p * w + i), w);
                    }
                }
            }
        }
        o += w;
    }
}

/// MR x 2 vectors of C over depth `k`.
///
/// # Safety
/// `a` and `b` are whole packed panels; `c` covers `mr` x `nr` with stride `ldc`.
#[inline(always)]
#[allow(clippy::too_many_arguments, clippy::needless_range_loop)]
unsafe fn micro<S: Simd, const MR: usize>(
    s: S, k: usize, a: *const f32, b: *const f32, c: *mut f32, ldc: usize, mr: usize, nr: usize, start: Start,
) {
    let mut acc = [[s.splat(0.0); 2]; MR];
    // SAFETY: panels hold k * MR and k * 2N floats.
    unsafe {
        for p in 0..k {
            let b0 = s.load(b.add(p * 2 * S::N));
            let b1 = s.load(b.add(p * 2 * S::N + S::N));
            for i in 0..MR {
                let x = s.splat(*a.add(p * MR + i));
                acc[i][0] = s.fma(x, b0, acc[i][0]);
                acc[i][1] = s.fma(x, b1, acc[i][1]);
            }
        }
    }
    let n0 = nr.min(S::N);
    let n1 = nr - n0;
    for i in 0..MR {
        if i < mr {
            // SAFETY: row i < mr, columns below nr.
            unsafe {
                let row = c.add(i * ldc);
                let from = match start {
                    Start::Zero => std::ptr::null(),
                    Start::Add => row.cast_const(),
                    Start::Bias(bias) => bias,
                };
                let (mut v0, mut v1) = (acc[i][0], acc[i][1]);
                if !from.is_null() {
                    v0 = s.add(v0, load_upto(s, from, n0));
                }
                store_upto(s, row, v0, n0);
                if n1 > 0 {
                    if !from.is_null() {
                        v1 = s.add(v1, load_upto(s, from.add(S::N), n1));
                    }
                    store_upto(s, row.add(S::N), v1, n1);
                }
            }
        }
    }
}
