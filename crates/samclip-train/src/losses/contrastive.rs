//! The contrastive loss between images and their texts.
//!
//! Paper: CLIP (arXiv:2103.00020) fig. 3; reference: open_clip `ClipLoss`. Parity: `tests/losses.rs`.

use super::cross_entropy_of;

/// Cross-entropy of every image over the texts and of every text over the images, their mean; both
/// `[n, width]` of unit length, row i of one belongs to row i of the other. Returns the value, the gradient
/// with respect to the images, and the share of images whose own text is the nearest.
pub fn contrastive(images: &[f32], texts: &[f32], width: usize, scale: f32) -> (f32, Vec<f32>, f32) {
    let n = images.len() / width;
    let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let logit = |(a, b)| scale * product(a, b);
    let pairs = images.chunks(width).flat_map(|a| texts.chunks(width).map(move |b| (a, b)));
    let rows: Vec<f32> = pairs.map(logit).collect();
    let columns: Vec<f32> = (0..n * n).map(|k| rows[k % n * n + k / n]).collect();
    let (of_images, by_row, _) = cross_entropy_of(&rows, n, Some);
    let (of_texts, by_column, _) = cross_entropy_of(&columns, n, Some);
    let mut grad = vec![0.0; images.len()];
    for (i, grad) in grad.chunks_mut(width).enumerate() {
        for (j, text) in texts.chunks(width).enumerate() {
            let g = 0.5 * scale * (by_row[i * n + j] + by_column[j * n + i]);
            grad.iter_mut().zip(text).for_each(|(out, t)| *out += g * t);
        }
    }
    let nearest = |i: usize| rows[i * n..][..n].iter().all(|&x| x <= rows[i * n + i]);
    let right = (0..n).filter(|&i| nearest(i)).count() as f32 / n.max(1) as f32;
    (0.5 * (of_images + of_texts), grad, right)
}
