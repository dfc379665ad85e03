//! Image tokens of the mask decoder to mask logits: two transposed convolutions and the product
//! with each mask's weights, a few tokens at a time (`segment_anything`
//! `modeling/mask_decoder.py`, `output_upscaling` and what follows). The upscaled map, thirty times
//! the size of the masks' logits, exists for one chunk only. In f32: what is rounded here stands in the mask
//! (docs/decisions/0017). Twin: `samclip-models` `tests/parity_sam.rs`.
use crate::block::{Activation, Norm};
use crate::engine::{Engine, F32, Mat, Precision};
use crate::norm::norm_row;
use crate::packed::PackedLinear;
use crate::scratch::{Scratch, SharedPtr};
use crate::simd::{Kernel, Simd, Unit, dispatch};
use crate::two_way::ImageSide;
use rayon::prelude::*;

/// Image tokens of one step.
const CHUNK: usize = 32;
/// Image tokens of one task where there are few prompts.
const RANGE: usize = 512;

/// Weights of the two transposed convolutions, kernel and stride 2, packed for f32.
#[derive(Debug)]
pub struct Upscaling {
    /// `[4 C/4, C]`: sub-pixels (row, column) times channels.
    pub first: PackedLinear,
    /// Over C/4 channels.
    pub norm: Norm,
    /// `[4 C/8, C/4]`.
    pub second: PackedLinear,
}

impl Upscaling {
    /// Mask logits `[P, M, 4 h, 4 w]` of the image side's tokens, a grid of h x w, with the masks'
    /// weights `hyper` `[P, M, C/8]`, into `out`. Prompts that `keep` leaves out are not written.
    ///
    /// # Panics
    /// When sizes do not fit each other, or a map is packed for another precision.
    pub fn masks(&self, side: &ImageSide, (h, w): (usize, usize), hyper: &[f32], keep: &[bool], out: &mut [f32]) {
        let ((n, dim), prompts) = (side.size(), side.prompts());
        let (c4, c8) = (self.norm.weight.len(), self.second.size().0 / 4);
        assert_eq!((self.first.size(), self.second.size()), ((4 * c4, dim), (4 * c8, c4)), "upscaling: maps of another width");
        assert!([&self.first, &self.second].iter().all(|map| map.fits(Precision::F32)), "upscaling: maps not packed for f32");
        assert_eq!(h * w, n, "upscaling: the grid {h} x {w} does not have {n} tokens");
        assert_eq!(self.second.blocks().count(), 1, "upscaling: {c4} channels are more than one block of depth");
        let masks = hyper.len().checked_div(prompts * c8).unwrap_or(0);
        assert_eq!(hyper.len(), prompts * masks * c8, "upscaling: mask weights of another width");
        assert_eq!((keep.len(), out.len()), (prompts, prompts * masks * 16 * n), "upscaling: masks of another size");
        if out.is_empty() {
            return;
        }
        let to = SharedPtr::of(out);
        let parts = n.div_ceil(RANGE);
        let hyper: Vec<PackedLinear> =
            hyper.chunks_exact(masks * c8).map(|rows| PackedLinear::new(Precision::F32, rows, c8, &[])).collect();
        (0..prompts * parts).into_par_iter().for_each(|task| {
            let (prompt, first) = (task / parts, task % parts * RANGE);
            if !keep[prompt] {
                return;
            }
            let rows = (first, n.min(first + RANGE));
            dispatch(Upscale { up: self, side, hyper: &hyper[prompt], width: w, prompt, rows, out: to });
        });
    }
}

struct Upscale<'a> {
    up: &'a Upscaling,
    side: &'a ImageSide<'a>,
    hyper: &'a PackedLinear,
    width: usize,
    prompt: usize,
    rows: (usize, usize),
    out: SharedPtr,
}

impl Kernel for Upscale<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S, _unit: Unit) {
        // SAFETY: `s` proves the instruction set; lengths were checked by `Upscaling::masks`.
        unsafe { self.on(s) }
    }
}

impl Upscale<'_> {
    /// # Safety
    /// No other task writes these tokens' pixels.
    #[inline(always)]
    unsafe fn on<S: Simd>(self, s: S) {
        let e = F32(s);
        let (Upscaling { first, norm, second }, (n, dim)) = (self.up, self.side.size());
        let (c4, (c8x4, _), (masks, c8)) = (norm.weight.len(), second.size(), self.hyper.size());
        let words = first.input_words::<F32<S>>(CHUNK).max(second.input_words::<F32<S>>(4 * CHUNK));
        let a = Scratch::take(words.max(self.hyper.input_words::<F32<S>>(16 * CHUNK)));
        let (y, z) = (Scratch::take(CHUNK * 4 * c4.max(4 * masks)), Scratch::take(4 * CHUNK * c8x4));
        // SAFETY: contract above; buffers have the sizes of a chunk.
        unsafe {
            for row in (self.rows.0..self.rows.1).step_by(CHUNK) {
                let rows = CHUNK.min(self.rows.1 - row);
                let (base, stride) = self.side.rows();
                let x = base.get().add(self.prompt * stride + row * dim);
                first.pack_input(e, Mat { ptr: x, rs: dim, cs: 1 }, rows, a.ptr());
                first.forward(e, a.ptr(), rows, y.ptr(), 4 * c4);
                for r in 0..4 * rows {
                    norm_row(s, y.ptr().add(r * c4), norm, y.ptr().add(r * c4));
                }
                e.pack_activation(s, Activation::Gelu, y.ptr(), 4 * rows, c4, a.ptr());
                second.forward(e, a.ptr(), 4 * rows, z.ptr(), c8x4);
                e.pack_activation(s, Activation::Gelu, z.ptr(), 16 * rows, c8, a.ptr());
                self.hyper.forward(e, a.ptr(), 16 * rows, y.ptr(), masks);
                for t in 0..rows {
                    self.place(row + t, n, masks, y.ptr().add(t * 16 * masks));
                }
            }
        }
    }

    /// The 16 pixels of one token, `[2, 2, 2, 2, M]`: sub-pixels of the first and of the second map.
    ///
    /// # Safety
    /// `from` covers them; `out` has room for the prompt.
    #[inline(always)]
    unsafe fn place(&self, token: usize, n: usize, masks: usize, from: *const f32) {
        let (ty, tx) = (token / self.width, token % self.width);
        for i in 0..16 {
            let (y, x) = (4 * ty + i / 8 * 2 + i / 2 % 2, 4 * tx + i / 4 % 2 * 2 + i % 2);
            for m in 0..masks {
                let at = (self.prompt * masks + m) * 16 * n + y * 4 * self.width + x;
                // SAFETY: pixel (y, x) is inside the mask.
                unsafe { *self.out.get().add(at) = *from.add(i * masks + m) };
            }
        }
    }
}
