//! Packed products in bf16 with sums in f32: what AMX tiles and AVX-512's dot products share.
//!
//! Packed layouts (bf16, tiles of 1 KiB): A `[m/32][k/32][2][16 rows][32 k]`,
//! B `[n/32][k/32][2][16 k-pairs][16 columns][2]`. They are AMX's; a dot product takes a k-pair of B's
//! columns from a tile's row, and a k-pair of A's row from every lane.
use crate::activation::{activate, sum};
use crate::amx::Tiles;
use crate::attention::Forward;
use crate::bf16_pack::pack;
use crate::bf16_rows;
use crate::block::{Activation, Norm};
use crate::dots::Dots;
use crate::engine::{Engine, Mat, Start};
use crate::simd::Simd;

/// What multiplies the panels of [`Bf16`]. Contract of the unsafe methods: that of [`Engine`].
pub(crate) trait Products: Copy + Send + Sync {
    unsafe fn begin(self);
    unsafe fn end(self);
    /// `next`, where there is one, is read afterwards.
    #[allow(clippy::too_many_arguments)]
    unsafe fn mul(
        self, size: [usize; 3], a: *const u16, b: *const u16, c: *mut f32, ldc: usize, start: Start, next: Option<*const u16>,
    );
    unsafe fn attend<S: Simd>(self, s: S, head: Forward);
}

/// The engine of bf16; only made where the tier has `P`.
#[derive(Clone, Copy)]
pub(crate) struct Bf16<P>(pub P);

/// AMX.
pub(crate) type Amx = Bf16<Tiles>;
/// AMX.
pub(crate) const AMX: Amx = Bf16(Tiles);
/// AVX-512 BF16.
pub(crate) const DOTS: Bf16<Dots> = Bf16(Dots);

impl<P: Products> Engine for Bf16<P> {
    const MR: usize = 32;
    const NR: usize = 32;
    const KC: usize = 1024;
    const DEPTH: usize = 384;

    fn words(k: usize) -> usize {
        k.next_multiple_of(32) / 2
    }

    #[inline(always)]
    unsafe fn begin(self) {
        // SAFETY: contract of the trait.
        unsafe { self.0.begin() }
    }

    #[inline(always)]
    unsafe fn end(self) {
        // SAFETY: contract of the trait.
        unsafe { self.0.end() }
    }

    #[inline(always)]
    unsafe fn pack_a(self, a: Mat, m: usize, k: usize, dst: *mut f32) {
        // SAFETY: contract of the trait.
        unsafe { pack(a, m, k, dst.cast(), true) }
    }

    #[inline(always)]
    unsafe fn pack_b(self, b: Mat, k: usize, n: usize, dst: *mut f32) {
        // SAFETY: contract of the trait.
        unsafe { pack(b.t(), n, k, dst.cast(), false) }
    }

    #[inline(always)]
    unsafe fn mul(self, m: usize, n: usize, k: usize, a: *const f32, b: *const f32, c: *mut f32, ldc: usize, start: Start) {
        // SAFETY: contract of the trait.
        unsafe { self.0.mul([m, n, k], a.cast(), b.cast(), c, ldc, start, None) }
    }

    #[inline(always)]
    unsafe fn mul_then(
        self, m: usize, n: usize, k: usize, a: *const f32, b: *const f32, c: *mut f32, ldc: usize, start: Start, next: *const f32,
    ) {
        // SAFETY: contract of the trait.
        unsafe { self.0.mul([m, n, k], a.cast(), b.cast(), c, ldc, start, Some(next.cast())) }
    }

    #[inline(always)]
    unsafe fn attend<S: Simd>(self, s: S, head: Forward) {
        // SAFETY: contract of the trait.
        unsafe { self.0.attend(s, head) }
    }

    #[inline(always)]
    unsafe fn pack_activation<S: Simd>(self, s: S, activation: Activation, y: *mut f32, m: usize, k: usize, dst: *mut f32) {
        // SAFETY: contract of the trait.
        unsafe {
            if k.is_multiple_of(32) {
                bf16_rows::pack_activation(activation, y, m, k, dst.cast());
            } else {
                activate(s, activation, y, m * k);
                self.pack_a(Mat { ptr: y, rs: k, cs: 1 }, m, k, dst);
            }
        }
    }

    #[inline(always)]
    unsafe fn pack_sum<S: Simd>(self, s: S, [a, b]: [*const f32; 2], m: usize, k: usize, room: *mut f32, dst: *mut f32) {
        // SAFETY: contract of the trait.
        unsafe {
            if k.is_multiple_of(32) {
                return bf16_rows::pack_sum(a, b, m, k, dst.cast());
            }
            sum(s, a, b, room, m * k);
            self.pack_a(Mat { ptr: room, rs: k, cs: 1 }, m, k, dst);
        }
    }

    fn packs_norm(k: usize) -> bool {
        k.is_multiple_of(32)
    }

    #[inline(always)]
    unsafe fn pack_norm(self, x: *const f32, norm: &Norm, r: usize, kc: usize, words: usize, dst: *mut f32) {
        // SAFETY: contract of the trait; a word is two bf16.
        unsafe { bf16_rows::pack_norm(x, norm, r, kc, 2 * words, dst.cast()) }
    }
}
