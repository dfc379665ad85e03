//! 3 x 3 convolutions as a matrix product: rows of patches and back, NHWC,
//! padding 1 (the neck of `segment_anything` `image_encoder.py`, TinyViT stems).
use crate::engine::Precision;
use crate::gemm::{Init, Layout, column_sums, gemm};
use crate::scratch::Scratch;
use rayon::prelude::*;

/// Patch rows held at a time.
const ROWS: usize = 1 << 13;

/// Sizes of a 3 x 3 convolution with padding 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv3x3 {
    /// Images.
    pub batch: usize,
    /// Input rows.
    pub height: usize,
    /// Input columns.
    pub width: usize,
    /// Input channels.
    pub channels: usize,
    /// Step, 1 or 2.
    pub stride: usize,
}

impl Conv3x3 {
    /// Output (rows, columns).
    pub fn output(&self) -> (usize, usize) {
        let out = |n: usize| if n == 0 { 0 } else { (n - 1) / self.stride + 1 };
        (out(self.height), out(self.width))
    }
    /// Rows and columns of the patch matrix: `[batch * oh * ow, 9 * channels]`,
    /// a row ordered (ky, kx, channel).
    pub fn patches(&self) -> (usize, usize) {
        let (oh, ow) = self.output();
        (self.batch * oh * ow, 9 * self.channels)
    }
    fn check(&self, image: usize, patches: usize) {
        assert!(self.stride > 0, "conv: stride 0");
        let (m, k) = self.patches();
        assert_eq!(image, self.batch * self.height * self.width * self.channels, "conv: the image has another size");
        assert_eq!(patches, m * k, "conv: the patch matrix is not {m} x {k}");
    }
}

/// Patches of `x [batch, height, width, channels]`, zeros outside.
///
/// # Panics
/// When a slice does not have the elements of its shape.
pub fn im2col_3x3(c: &Conv3x3, x: &[f32], patches: &mut [f32]) {
    c.check(x.len(), patches.len());
    let ((oh, ow), ch) = (c.output(), c.channels);
    if patches.is_empty() {
        return;
    }
    patches.par_chunks_mut(ow * 9 * ch).enumerate().for_each(|(line, dst)| {
        let (b, oy) = (line / oh, line % oh);
        for (ox, patch) in dst.chunks_exact_mut(9 * ch).enumerate() {
            // Away from the border the three taps of a row are one run.
            if let (Some((y, x0)), Some(_)) = (c.tap(oy, ox, 0), c.tap(oy, ox, 8)) {
                for (ky, out) in patch.chunks_exact_mut(3 * ch).enumerate() {
                    let at = ((b * c.height + y + ky) * c.width + x0) * ch;
                    out.copy_from_slice(&x[at..at + 3 * ch]);
                }
                continue;
            }
            for (t, out) in patch.chunks_exact_mut(ch).enumerate() {
                match c.tap(oy, ox, t) {
                    Some((y, x0)) => {
                        let at = ((b * c.height + y) * c.width + x0) * ch;
                        out.copy_from_slice(&x[at..at + ch]);
                    }
                    None => out.fill(0.0),
                }
            }
        }
    });
}

/// The adjoint of [`im2col_3x3`]: `dx` gathers the patches that contain it
/// (overwritten).
///
/// # Panics
/// When a slice does not have the elements of its shape.
pub fn col2im_3x3(c: &Conv3x3, patches: &[f32], dx: &mut [f32]) {
    c.check(dx.len(), patches.len());
    let ((oh, ow), ch) = (c.output(), c.channels);
    if dx.is_empty() {
        return;
    }
    dx.par_chunks_mut(c.width * ch).enumerate().for_each(|(line, dst)| {
        let (b, y) = (line / c.height, line % c.height);
        dst.fill(0.0);
        for ky in 0..3 {
            let Some(oy) = c.source(y, ky, oh) else { continue };
            for (x, out) in dst.chunks_exact_mut(ch).enumerate() {
                for kx in 0..3 {
                    let Some(ox) = c.source(x, kx, ow) else { continue };
                    let at = (((b * oh + oy) * ow + ox) * 9 + ky * 3 + kx) * ch;
                    out.iter_mut().zip(&patches[at..at + ch]).for_each(|(o, p)| *o += p);
                }
            }
        }
    });
}

impl Conv3x3 {
    /// Whole images whose patches are held at a time.
    fn group(&self) -> usize {
        let (oh, ow) = self.output();
        (ROWS / (oh * ow).max(1)).clamp(1, self.batch.max(1))
    }
    /// Groups of images: (that group's sizes, first image).
    fn groups(self) -> impl Iterator<Item = (Self, usize)> {
        let step = self.group();
        (0..self.batch).step_by(step).map(move |b| (Self { batch: step.min(self.batch - b), ..self }, b))
    }
    /// Input pixel of tap `t` of an output pixel, if inside.
    fn tap(&self, oy: usize, ox: usize, t: usize) -> Option<(usize, usize)> {
        let y = (oy * self.stride + t / 3).checked_sub(1)?;
        let x = (ox * self.stride + t % 3).checked_sub(1)?;
        (y < self.height && x < self.width).then_some((y, x))
    }
    /// Output index whose tap `k` reads input index `i`, if there is one.
    fn source(&self, i: usize, k: usize, out: usize) -> Option<usize> {
        let o = (i + 1).checked_sub(k)?;
        (o % self.stride == 0 && o / self.stride < out).then_some(o / self.stride)
    }
}

/// `y [batch * oh * ow, out] = patches(x) weight^T + bias`; `weight` is
/// `[out, 9 * channels]`, a row ordered (ky, kx, channel).
///
/// # Panics
/// When a slice does not have the elements of its shape.
pub fn conv3x3(precision: Precision, c: &Conv3x3, x: &[f32], weight: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
    let (m, k) = c.patches();
    if m == 0 || k == 0 {
        return;
    }
    let out = weight.len() / k;
    assert_eq!(y.len(), m * out, "conv: the output is not {m} x {out}");
    c.check(x.len(), m * k);
    let image = c.height * c.width * c.channels;
    let (oh, ow) = c.output();
    let mut buffer = Scratch::take(c.group() * oh * ow * k);
    for (part, b) in c.groups() {
        let (rows, _) = part.patches();
        let patches = buffer.slice(rows * k);
        im2col_3x3(&part, &x[b * image..][..part.batch * image], patches);
        let y = &mut y[b * oh * ow * out..][..rows * out];
        let init = bias.map_or(Init::Zero, Init::Bias);
        gemm(precision, [rows, out, k], (patches, Layout::Normal), (weight, Layout::Transposed), y, init);
    }
}

/// Gradients of [`conv3x3`]: `dweight` and `dbias` are overwritten, `dx` too
/// where it is asked for.
///
/// # Panics
/// When a slice does not have the elements of its shape.
#[allow(clippy::too_many_arguments)]
pub fn conv3x3_backward(
    precision: Precision,
    c: &Conv3x3,
    x: &[f32],
    weight: &[f32],
    dy: &[f32],
    mut dx: Option<&mut [f32]>,
    dweight: &mut [f32],
    dbias: Option<&mut [f32]>,
) {
    let (m, k) = c.patches();
    dweight.fill(0.0);
    if m == 0 || k == 0 {
        return;
    }
    let out = weight.len() / k;
    assert_eq!(dy.len(), m * out, "conv: the gradient is not {m} x {out}");
    c.check(x.len(), m * k);
    if let Some(dbias) = dbias {
        column_sums(dy, dbias);
    }
    let image = c.height * c.width * c.channels;
    let (oh, ow) = c.output();
    let mut buffer = Scratch::take(c.group() * oh * ow * k);
    for (part, b) in c.groups() {
        let (rows, _) = part.patches();
        let patches = buffer.slice(rows * k);
        let dy = &dy[b * oh * ow * out..][..rows * out];
        im2col_3x3(&part, &x[b * image..][..part.batch * image], patches);
        gemm(precision, [out, k, rows], (dy, Layout::Transposed), (patches, Layout::Normal), dweight, Init::Keep);
        if let Some(dx) = &mut dx {
            gemm(precision, [rows, k, out], (dy, Layout::Normal), (weight, Layout::Normal), patches, Init::Zero);
            col2im_3x3(&part, patches, &mut dx[b * image..][..part.batch * image]);
        }
    }
}
