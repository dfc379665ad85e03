//! Resizing 8-bit RGB images exactly as Pillow does: antialiased bilinear and bicubic with
//! 22-bit fixed-point weights, and nearest.
//!
//! SAM resizes with PIL's BILINEAR (segment_anything/utils/transforms.py, `ResizeLongestSide`),
//! CLIP with BICUBIC. Reference: Pillow `src/libImaging/Resample.c` (`precompute_coeffs`,
//! `normalize_coeffs_8bpc`, `ImagingResampleInner`) and `Geometry.c` (`ImagingScaleAffine`), 13.0.0.
//! Parity: tests/pil_resize.rs, 0 difference.

use rayon::prelude::*;

use crate::Image;

/// Resampling filter, with PIL's meaning of the word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Filter {
    /// The source pixel under the centre of the target pixel.
    Nearest,
    /// Triangle filter, widened by the scale when shrinking.
    Bilinear,
    /// Cubic filter with a = -0.5, widened by the scale when shrinking.
    Bicubic,
}

/// Fractional bits of the weights: 32 minus 8 bits of pixel and 2 of headroom.
const PRECISION_BITS: u32 = 32 - 8 - 2;

/// `image` at `width` x `height`. A side of 0 is taken as 1.
pub fn resize(image: &Image, width: usize, height: usize, filter: Filter) -> Image {
    let (width, height) = (width.max(1), height.max(1));
    if (height, width) == image.size() {
        return image.clone();
    }
    let data = match filter {
        Filter::Nearest => nearest_plane(image.data(), (image.width(), image.height()), 3, (width, height)),
        Filter::Bilinear => convolve(image, width, height, 1.0, bilinear_filter),
        Filter::Bicubic => convolve(image, width, height, 2.0, bicubic_filter),
    };
    Image::from_parts(width, height, data)
}

/// Nearest neighbour over interleaved rows of anything: pixels, labels, booleans.
pub(crate) fn nearest_plane<T: Copy>(
    data: &[T],
    (width, height): (usize, usize),
    channels: usize,
    (out_width, out_height): (usize, usize),
) -> Vec<T> {
    let columns = nearest_index(width, out_width);
    let mut out = Vec::with_capacity(out_width * out_height * channels);
    for y in nearest_index(height, out_height) {
        let row = &data[y * width * channels..(y + 1) * width * channels];
        for &x in &columns {
            out.extend_from_slice(&row[x * channels..(x + 1) * channels]);
        }
    }
    out
}

/// Source index of every output index. The position is accumulated, not multiplied, because Pillow
/// does so and the two differ where it falls next to a pixel border.
fn nearest_index(size: usize, out: usize) -> Vec<usize> {
    let scale = size as f64 / out as f64;
    let mut position = scale * 0.5;
    let step = || {
        let index = (position as usize).min(size - 1);
        position += scale;
        index
    };
    std::iter::repeat_with(step).take(out).collect()
}

fn bilinear_filter(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

fn bicubic_filter(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// Fixed-point weights of one axis: output `o` is the sum of `taps(o)` over `first[o]..`.
struct Weights {
    first: Vec<usize>,
    count: Vec<usize>,
    /// `stride` weights for every output, of which `count` are used.
    fixed: Vec<i32>,
    stride: usize,
}

impl Weights {
    fn new(size: usize, out: usize, support: f64, filter: fn(f64) -> f64) -> Self {
        let scale = size as f64 / out as f64;
        let filter_scale = scale.max(1.0);
        let support = support * filter_scale;
        let stride = support.ceil() as usize * 2 + 1;
        let inverse = 1.0 / filter_scale;
        let mut this = Self {
            first: Vec::with_capacity(out),
            count: Vec::with_capacity(out),
            fixed: vec![0; stride * out],
            stride,
        };
        let mut row = vec![0.0; stride];
        for o in 0..out {
            let center = (o as f64 + 0.5) * scale;
            let first = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(size);
            let count = end - first;
            let mut total = 0.0;
            for (j, weight) in row[..count].iter_mut().enumerate() {
                *weight = filter(((j + first) as f64 - center + 0.5) * inverse);
                total += *weight;
            }
            for (fixed, weight) in this.fixed[o * stride..].iter_mut().zip(&row[..count]) {
                *fixed = to_fixed(if total == 0.0 { *weight } else { *weight / total });
            }
            this.first.push(first);
            this.count.push(count);
        }
        this
    }

    fn taps(&self, o: usize) -> (usize, &[i32]) {
        let start = o * self.stride;
        (self.first[o], &self.fixed[start..start + self.count[o]])
    }
}

/// Rounds half away from zero, as the C cast after adding a signed half does.
fn to_fixed(weight: f64) -> i32 {
    let scaled = weight * f64::from(1u32 << PRECISION_BITS);
    (scaled + if weight < 0.0 { -0.5 } else { 0.5 }) as i32
}

fn clip8(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// Two passes, each rounded to bytes, so their order can be seen in the result.
fn convolve(image: &Image, width: usize, height: usize, support: f64, filter: fn(f64) -> f64) -> Vec<u8> {
    let (in_height, in_width) = image.size();
    let columns = |data: &[u8]| {
        let weights = Weights::new(in_width, width, support, filter);
        horizontal(data, in_width, width, &weights)
    };
    let rows = |data: &[u8], width: usize| {
        vertical(data, width, height, &Weights::new(in_height, height, support, filter))
    };
    match (width == in_width, height == in_height) {
        (true, _) => rows(image.data(), width),
        (_, true) => columns(image.data()),
        _ if vertical_first((in_height, in_width), (height, width)) => columns(&rows(image.data(), in_width)),
        _ => rows(&columns(image.data()), width),
    }
}

/// Pillow 13 starts with the rows when the height loses more than twice what the width loses;
/// up to Pillow 12 the columns always came first (docs/decisions/0004).
fn vertical_first((in_height, in_width): (usize, usize), (height, width): (usize, usize)) -> bool {
    let lost = |from: usize, to: usize| from as i64 - to as i64;
    let rows = lost(in_height, height);
    rows > 0 && rows > 2 * lost(in_width, width)
}

fn horizontal(data: &[u8], in_width: usize, width: usize, weights: &Weights) -> Vec<u8> {
    let rows = data.len() / (in_width * 3);
    let mut out = vec![0; rows * width * 3];
    let out_rows = out.par_chunks_exact_mut(width * 3);
    out_rows.zip(data.par_chunks_exact(in_width * 3)).for_each(|(out, row)| {
        for (o, pixel) in out.chunks_exact_mut(3).enumerate() {
            let (first, taps) = weights.taps(o);
            let mut sum = [1 << (PRECISION_BITS - 1); 3];
            for (source, &weight) in row[first * 3..].chunks_exact(3).zip(taps) {
                for c in 0..3 {
                    sum[c] += i32::from(source[c]) * weight;
                }
            }
            for c in 0..3 {
                pixel[c] = clip8(sum[c]);
            }
        }
    });
    out
}

fn vertical(data: &[u8], width: usize, height: usize, weights: &Weights) -> Vec<u8> {
    let row_bytes = width * 3;
    let mut out = vec![0; height * row_bytes];
    let start = || vec![0i32; row_bytes];
    out.par_chunks_exact_mut(row_bytes).enumerate().for_each_init(start, |sums, (o, out)| {
        let (first, taps) = weights.taps(o);
        sums.fill(1 << (PRECISION_BITS - 1));
        for (row, &weight) in data.chunks_exact(row_bytes).skip(first).zip(taps) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += i32::from(value) * weight;
            }
        }
        for (byte, &sum) in out.iter_mut().zip(sums.iter()) {
            *byte = clip8(sum);
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_sum_to_one_in_fixed_point() {
        for (size, out) in [(7, 19), (640, 64), (3, 1), (1, 5)] {
            for (support, filter) in [(1.0, bilinear_filter as fn(f64) -> f64), (2.0, bicubic_filter)] {
                let weights = Weights::new(size, out, support, filter);
                for o in 0..out {
                    let (first, taps) = weights.taps(o);
                    assert!(first + taps.len() <= size);
                    let sum: i32 = taps.iter().sum();
                    assert!((sum - (1 << PRECISION_BITS)).abs() <= taps.len() as i32, "{sum}");
                }
            }
        }
    }

    #[test]
    fn a_flat_image_stays_flat() {
        let image = Image::new(13, 9, [10, 130, 255].repeat(13 * 9)).unwrap();
        for filter in [Filter::Nearest, Filter::Bilinear, Filter::Bicubic] {
            let out = resize(&image, 31, 4, filter);
            assert!(out.data().chunks_exact(3).all(|p| p == [10, 130, 255]));
        }
    }
}
