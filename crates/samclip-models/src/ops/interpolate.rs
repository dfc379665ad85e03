//! PyTorch's `interpolate` as matrix products: exact, differentiable, the same on every backend.
//!
//! A separable resampling is `W_h x W_w^T`; the weight matrices follow torch's formulas
//! (`aten/src/ATen/native/UpSample.h`): half-pixel centres, `align_corners=False`.

use burn::tensor::{Device, Tensor, TensorData};

/// Kernel of a resampling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interpolation {
    /// `mode="bilinear"` (or `"linear"`): source index clamped at 0 from below.
    Bilinear,
    /// `mode="bicubic"`, a = -0.75, taps clamped to the border.
    Bicubic,
    /// `mode="bicubic", antialias=True`, a = -0.5, support widened when shrinking.
    BicubicAntialias,
}

/// Resizes the last two axes. `x` [B, C, h, w] -> [B, C, out_h, out_w].
pub fn resize_2d(x: Tensor<4>, out: [usize; 2], mode: Interpolation) -> Tensor<4> {
    let [b, c, h, w] = x.dims();
    let device = x.device();
    let mut x = x;
    if w != out[1] {
        let weights = matrix(w, out[1], mode, &device); // [out_w, w]
        x = x.reshape([b * c * h, w]).matmul(weights.transpose()).reshape([b, c, h, out[1]]);
    }
    if h != out[0] {
        let weights = matrix(h, out[0], mode, &device); // [out_h, h]
        x = weights.unsqueeze::<4>().expand([b, c, out[0], h]).matmul(x);
    }
    x
}

/// Resizes the first axis of a table. `x` [n, C] -> [out, C] (relative positions).
pub fn resize_rows(x: Tensor<2>, out: usize, mode: Interpolation) -> Tensor<2> {
    let [n, _] = x.dims();
    if n == out {
        return x;
    }
    let device = x.device();
    matrix(n, out, mode, &device).matmul(x)
}

fn matrix(n: usize, out: usize, mode: Interpolation, device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(weights(n, out, mode), [out, n]), device)
}

/// Row-major [out, n] weights of a one-dimensional resampling.
pub fn weights(n: usize, out: usize, mode: Interpolation) -> Vec<f32> {
    let mut matrix = vec![0.0f32; out * n];
    for (o, row) in matrix.chunks_exact_mut(n).enumerate() {
        match mode {
            Interpolation::Bilinear => bilinear_row(row, o, n, out),
            Interpolation::Bicubic => bicubic_row(row, o, n, out),
            Interpolation::BicubicAntialias => bicubic_antialias_row(row, o, n, out),
        }
    }
    matrix
}

// Indices and weights are computed in f32, in torch's order: in f64 a long table would differ from
// torch by more than the rounding of the products.

fn bilinear_row(row: &mut [f32], o: usize, n: usize, out: usize) {
    let scale = n as f32 / out as f32;
    let src = (scale * (o as f32 + 0.5) - 0.5).max(0.0);
    let i0 = (src as usize).min(n - 1);
    let i1 = (i0 + 1).min(n - 1);
    let t = (src - i0 as f32).clamp(0.0, 1.0);
    row[i0] += 1.0 - t;
    row[i1] += t;
}

fn bicubic_row(row: &mut [f32], o: usize, n: usize, out: usize) {
    let scale = n as f32 / out as f32;
    let src = scale * (o as f32 + 0.5) - 0.5;
    let base = src.floor();
    let t = src - base;
    for tap in -1..=2i64 {
        let index = (base as i64 + tap).clamp(0, n as i64 - 1) as usize;
        row[index] += cubic(t - tap as f32, -0.75);
    }
}

fn bicubic_antialias_row(row: &mut [f32], o: usize, n: usize, out: usize) {
    let scale = n as f32 / out as f32;
    let widen = scale.max(1.0);
    let support = 2.0 * widen;
    let center = (o as f32 + 0.5) * scale;
    let lo = ((center - support + 0.5) as i64).max(0) as usize;
    let hi = ((center + support + 0.5) as usize).min(n);
    let taps: Vec<f32> = (lo..hi).map(|i| cubic((i as f32 - center + 0.5) / widen, -0.5)).collect();
    let total: f32 = taps.iter().sum();
    for (i, tap) in (lo..hi).zip(taps) {
        row[i] = tap / total;
    }
}

/// Keys' cubic convolution kernel with parameter `a`.
fn cubic(x: f32, a: f32) -> f32 {
    let x = x.abs();
    if x < 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * a
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_sum_to_one_and_identity_is_exact() {
        for mode in [Interpolation::Bilinear, Interpolation::Bicubic, Interpolation::BicubicAntialias] {
            for (n, out) in [(127, 27), (27, 55), (16, 16), (1, 4), (7, 3)] {
                for row in weights(n, out, mode).chunks_exact(n) {
                    let sum: f32 = row.iter().sum();
                    assert!((sum - 1.0).abs() < 1e-5, "{mode:?} {n}->{out}: {sum}");
                }
            }
            let eye = weights(5, 5, mode);
            for (i, w) in eye.iter().enumerate() {
                assert_eq!(*w, if i % 6 == 0 { 1.0 } else { 0.0 }, "{mode:?}");
            }
        }
    }
}
