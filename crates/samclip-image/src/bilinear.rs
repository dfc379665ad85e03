//! Bilinear interpolation of float maps as PyTorch does it, and SAM's way from low-resolution
//! logits to the original image.
//!
//! Reference: `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)` (CPU
//! kernel: index and weight in f32, columns before rows);
//! segment_anything/modeling/sam.py, `Sam.postprocess_masks`. Parity: tests/torch_bilinear.rs.

use rayon::prelude::*;

use crate::ImageTransform;

/// One output position: two source indices and the weight of the second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tap {
    /// First source index.
    pub low: usize,
    /// Second source index, the same at the end.
    pub high: usize,
    /// Of the second, 0..1.
    pub weight: f32,
}

/// The two resizes of [`postprocess_logits`] by rows and columns.
#[derive(Clone, Debug, PartialEq)]
pub struct PostprocessTaps {
    /// From the logits to the image part of the model's input.
    pub input: [Vec<Tap>; 2],
    /// From there to the original image.
    pub original: [Vec<Tap>; 2],
}

impl PostprocessTaps {
    /// Of `side` x `side` logits; none where the input was a crop of the image.
    pub fn new(side: usize, transform: &ImageTransform) -> Option<Self> {
        let ((h, w), (height, width)) = (transform.resized, transform.original);
        let cut = |input, keep| taps(side, input)[..keep].to_vec();
        (transform.crop_offset == (0, 0)).then(|| Self {
            input: [cut(transform.input.0, h), cut(transform.input.1, w)],
            original: [taps(h, height), taps(w, width)],
        })
    }
}

fn taps(size: usize, out: usize) -> Vec<Tap> {
    let scale = size as f32 / out as f32;
    (0..out)
        .map(|o| {
            let source = (scale * (o as f32 + 0.5) - 0.5).max(0.0);
            let low = (source as usize).min(size - 1);
            Tap { low, high: (low + 1).min(size - 1), weight: (source - low as f32).clamp(0.0, 1.0) }
        })
        .collect()
}

/// One channel `h` x `w` at `out_h` x `out_w`, row-major, without antialiasing.
/// Panics when `src` does not have `h * w` values or a side is 0.
pub fn bilinear(src: &[f32], h: usize, w: usize, out_h: usize, out_w: usize) -> Vec<f32> {
    assert_eq!(src.len(), h * w, "source fits its size");
    interpolate(src, w, &taps(h, out_h), &taps(w, out_w))
}

/// Rows and columns by their taps; `stride` is the source's row length.
fn interpolate(src: &[f32], stride: usize, rows: &[Tap], columns: &[Tap]) -> Vec<f32> {
    let (Some(end), width) = (rows.iter().map(|tap| tap.high + 1).max(), columns.len()) else {
        return Vec::new();
    };
    let mut wide = vec![0f32; end * width];
    wide.par_chunks_exact_mut(width).zip(src.par_chunks_exact(stride)).for_each(|(out, row)| {
        for (value, tap) in out.iter_mut().zip(columns) {
            *value = row[tap.low] * (1.0 - tap.weight) + row[tap.high] * tap.weight;
        }
    });
    let mut out = vec![0f32; rows.len() * width];
    out.par_chunks_exact_mut(width).zip(rows).for_each(|(out, tap)| {
        let low = &wide[tap.low * width..][..width];
        let high = &wide[tap.high * width..][..width];
        for ((value, &a), &b) in out.iter_mut().zip(low).zip(high) {
            *value = a * (1.0 - tap.weight) + b * tap.weight;
        }
    });
    out
}

/// Mask logits of the model, `side` x `side` (256 for SAM), to logits of the original image:
/// upsampled to the model's input, cut to the part that is image, resized to the original.
/// Returns `H * W` values of `transform.original`, row-major; threshold them at 0.
pub fn postprocess_logits(low: &[f32], side: usize, transform: &ImageTransform) -> Vec<f32> {
    assert_eq!(low.len(), side * side, "logits fit their side");
    let (input_h, input_w) = transform.input;
    let (h, w) = transform.resized;
    let (top, left) = transform.crop_offset;
    if (top, left) != (0, 0) {
        return uncropped(low, side, transform);
    }
    // Only the rows and columns inside the image are ever looked at again.
    let (rows, columns) = (&taps(side, input_h)[..h], &taps(side, input_w)[..w]);
    let input = interpolate(low, side, rows, columns);
    bilinear(&input, h, w, transform.original.0, transform.original.1)
}

/// For a centre-cropped input (CLIP's preprocessing): the model saw only the middle, so what it
/// did not see repeats the nearest logits it gave.
fn uncropped(low: &[f32], side: usize, transform: &ImageTransform) -> Vec<f32> {
    let (input_h, input_w) = transform.input;
    let (h, w) = transform.resized;
    let (top, left) = transform.crop_offset;
    let seen = bilinear(low, side, side, input_h, input_w);
    let mut resized = Vec::with_capacity(h * w);
    for y in 0..h {
        let row = &seen[y.saturating_sub(top).min(input_h - 1) * input_w..][..input_w];
        resized.extend((0..w).map(|x| row[x.saturating_sub(left).min(input_w - 1)]));
    }
    bilinear(&resized, h, w, transform.original.0, transform.original.1)
}
