//! Cross-entropies over class logits, and the bilinear resize of a logit map with
//! its adjoint.
//!
//! Reference: torch `cross_entropy`, `binary_cross_entropy_with_logits`,
//! `interpolate(mode="bilinear", align_corners=False)`. Parity: `tests/losses.rs`.

use super::{sigmoid, softplus};
use rayon::prelude::*;

/// Label of a pixel that takes no part in the loss.
const IGNORE: u8 = 255;

/// Mean cross-entropy of `logits` `[n, classes]` over the rows whose label is not
/// 255. Returns the value, the gradient `[n, classes]` of the mean, and the number
/// of rows that counted. Labels at or above `classes` are ignored as well.
pub fn cross_entropy(logits: &[f32], classes: usize, labels: &[u8]) -> (f32, Vec<f32>, usize) {
    cross_entropy_of(logits, classes, |i| Some(usize::from(labels[i])).filter(|_| labels[i] != IGNORE))
}

/// [`cross_entropy`] with the label of each row from `label`; none takes no part.
pub fn cross_entropy_of(
    logits: &[f32],
    classes: usize,
    label: impl Fn(usize) -> Option<usize> + Sync,
) -> (f32, Vec<f32>, usize) {
    let label = |i: usize| label(i).filter(|&l| l < classes);
    let counted = (0..logits.len() / classes).filter(|&i| label(i).is_some()).count();
    let mut grad = vec![0.0; logits.len()];
    if counted == 0 {
        return (0.0, grad, 0);
    }
    let scale = 1.0 / counted as f32;
    // Row sums are collected in order, so the value does not depend on the threads.
    let losses: Vec<f32> = grad
        .par_chunks_mut(classes)
        .zip(logits.par_chunks(classes))
        .enumerate()
        .map(|(i, (grad, row))| {
            let Some(label) = label(i) else { return 0.0 };
            let log_sum = softmax(row, grad);
            grad[label] -= 1.0;
            grad.iter_mut().for_each(|g| *g *= scale);
            log_sum - row[label]
        })
        .collect();
    let sum: f64 = losses.iter().map(|&l| f64::from(l)).sum();
    ((sum / counted as f64) as f32, grad, counted)
}

/// Cross-entropy of one row against a distribution `target`; writes the gradient.
pub fn soft_cross_entropy(row: &[f32], target: &[f32], grad: &mut [f32]) -> f32 {
    let log_sum = softmax(row, grad);
    let mass: f32 = target.iter().sum();
    let mut value = 0.0;
    for ((g, &x), &t) in grad.iter_mut().zip(row).zip(target) {
        value += t * (log_sum - x);
        *g = *g * mass - t;
    }
    value
}

/// Mean over the rows of the Kullback-Leibler divergence of the student's softmax from the teacher's, both logits
/// `[n, width]` (TinyCLIP's affinity mimicking, arXiv:2309.12314); value and gradient with respect to the student.
pub fn affinity(student: &[f32], teacher: &[f32], width: usize) -> (f32, Vec<f32>) {
    let n = (student.len() / width) as f32;
    let mut grad = vec![0.0; student.len()];
    let (mut target, mut sum) = (vec![0.0; width], 0.0f64);
    for ((s, t), g) in student.chunks(width).zip(teacher.chunks(width)).zip(grad.chunks_mut(width)) {
        let log_sum = softmax(t, &mut target);
        let entropy: f32 = target.iter().zip(t).map(|(p, x)| p * (log_sum - x)).sum();
        sum += f64::from(soft_cross_entropy(s, &target, g) - entropy);
        g.iter_mut().for_each(|g| *g /= n);
    }
    ((sum / f64::from(n)) as f32, grad)
}

/// Mean over the columns of the binary cross-entropy; writes the gradient.
pub fn sigmoid_cross_entropy(row: &[f32], target: &[f32], grad: &mut [f32]) -> f32 {
    let n = row.len() as f32;
    let mut value = 0.0;
    for ((g, &x), &t) in grad.iter_mut().zip(row).zip(target) {
        value += softplus(x) - t * x;
        *g = (sigmoid(x) - t) / n;
    }
    value / n
}

/// Writes the softmax of `row` into `out` and returns the log of its denominator.
fn softmax(row: &[f32], out: &mut [f32]) -> f32 {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for (o, &x) in out.iter_mut().zip(row) {
        *o = (x - max).exp();
        sum += *o;
    }
    let inverse = 1.0 / sum;
    out.iter_mut().for_each(|o| *o *= inverse);
    max + sum.ln()
}

/// Source rows and weights of each output index (spec 1.3).
fn taps(input: usize, output: usize) -> Vec<(usize, usize, f32)> {
    let scale = input as f32 / output as f32;
    (0..output)
        .map(|o| {
            let src = ((o as f32 + 0.5) * scale - 0.5).max(0.0);
            let low = (src as usize).min(input - 1);
            (low, (low + 1).min(input - 1), src - low as f32)
        })
        .collect()
}

/// Bilinear resize of `[h, w, channels]` to `[out_h, out_w, channels]`.
pub fn resize_bilinear(
    src: &[f32],
    (h, w): (usize, usize),
    channels: usize,
    (out_h, out_w): (usize, usize),
) -> Vec<f32> {
    let (rows, columns) = (taps(h, out_h), taps(w, out_w));
    let mut out = vec![0.0; out_h * out_w * channels];
    out.par_chunks_mut(out_w * channels).zip(rows.par_iter()).for_each(|(line, &(y0, y1, fy))| {
        for (pixel, &(x0, x1, fx)) in line.chunks_mut(channels).zip(&columns) {
            let at = |y: usize, x: usize| &src[(y * w + x) * channels..][..channels];
            let (a, b, c, d) = (at(y0, x0), at(y0, x1), at(y1, x0), at(y1, x1));
            for (k, out) in pixel.iter_mut().enumerate() {
                *out = (1.0 - fy) * ((1.0 - fx) * a[k] + fx * b[k]) + fy * ((1.0 - fx) * c[k] + fx * d[k]);
            }
        }
    });
    out
}

/// The adjoint of [`resize_bilinear`]: gradient of the output to gradient of the input.
pub fn resize_bilinear_backward(
    grad: &[f32],
    (h, w): (usize, usize),
    channels: usize,
    (out_h, out_w): (usize, usize),
) -> Vec<f32> {
    let (rows, columns) = (taps(h, out_h), taps(w, out_w));
    let mut out = vec![0.0; h * w * channels];
    for (line, &(y0, y1, fy)) in grad.chunks(out_w * channels).zip(&rows) {
        for (pixel, &(x0, x1, fx)) in line.chunks(channels).zip(&columns) {
            let corners = [
                (y0, x0, (1.0 - fy) * (1.0 - fx)),
                (y0, x1, (1.0 - fy) * fx),
                (y1, x0, fy * (1.0 - fx)),
                (y1, x1, fy * fx),
            ];
            for (y, x, weight) in corners {
                let cell = &mut out[(y * w + x) * channels..][..channels];
                for (o, &g) in cell.iter_mut().zip(pixel) {
                    *o += weight * g;
                }
            }
        }
    }
    out
}
