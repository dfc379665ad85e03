//! CLIP-Guided SAM's losses of one mask: binary cross-entropy, Dice and soft Jaccard, with pixels
//! that nobody labelled left out of every sum.
//!
//! Paper: CLIP-Guided SAM (arXiv:2605.24807) §3.4 and Table 9 (subsets). The weights and the form of
//! the IoU term are ours (docs/papers/clip_guided_sam.md, B7). Parity: `tests/clip_guided.rs`.

use super::{sigmoid, softplus};
use samclip_data::IGNORE;

/// Weights of the terms; 0 leaves a term out.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BinaryWeights {
    /// Mean binary cross-entropy with logits.
    pub bce: f32,
    /// `1 - (2 sum p y + 1) / (sum p + sum y + 1)`.
    pub dice: f32,
    /// `1 - (sum p y + 1) / (sum p + sum y - sum p y + 1)`.
    pub iou: f32,
}

/// The unweighted terms of one mask.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct BinaryLoss {
    /// Cross-entropy.
    pub bce: f32,
    /// Dice.
    pub dice: f32,
    /// Soft Jaccard.
    pub iou: f32,
}

/// Losses of one mask: `target` is 1 inside, 0 outside, [`IGNORE`] where nobody knows. Adds `scale`
/// times the gradient of the weighted sum to `grad`. A mask without known pixels has no loss.
pub fn binary(logits: &[f32], target: &[u8], weights: BinaryWeights, grad: &mut [f32], scale: f32) -> BinaryLoss {
    let (mut n, mut bce, mut sum_p, mut sum_y, mut inter) = (0usize, 0.0f64, 0.0f64, 0.0f64, 0.0f64);
    for (&x, &t) in logits.iter().zip(target).filter(|(_, t)| **t != IGNORE) {
        let (p, y) = (f64::from(sigmoid(x)), f64::from(t));
        n += 1;
        bce += f64::from(softplus(x)) - y * f64::from(x);
        sum_p += p;
        sum_y += y;
        inter += p * y;
    }
    if n == 0 {
        return BinaryLoss::default();
    }
    let (total, union) = (sum_p + sum_y + 1.0, sum_p + sum_y - inter + 1.0);
    let dice_up = 2.0 * inter + 1.0;
    for ((g, &x), &t) in grad.iter_mut().zip(logits).zip(target).filter(|(_, t)| **t != IGNORE) {
        let (p, y) = (f64::from(sigmoid(x)), f64::from(t));
        let of_bce = (p - y) / n as f64;
        let of_dice = -(2.0 * y * total - dice_up) / (total * total);
        let of_iou = -(y * union - (inter + 1.0) * (1.0 - y)) / (union * union);
        let of_p = f64::from(weights.dice) * of_dice + f64::from(weights.iou) * of_iou;
        *g += scale * (f64::from(weights.bce) * of_bce + of_p * p * (1.0 - p)) as f32;
    }
    BinaryLoss {
        bce: (bce / n as f64) as f32,
        dice: (1.0 - dice_up / total) as f32,
        iou: (1.0 - (inter + 1.0) / union) as f32,
    }
}

/// IoU of the thresholded prediction (`logit > 0`) with the target, unknown pixels left out.
pub fn hard_iou(logits: &[f32], target: &[u8]) -> f32 {
    let (mut inter, mut union) = (0usize, 0usize);
    for (&x, &t) in logits.iter().zip(target).filter(|(_, t)| **t != IGNORE) {
        let (p, y) = (x > 0.0, t == 1);
        inter += usize::from(p && y);
        union += usize::from(p || y);
    }
    if union == 0 { 1.0 } else { inter as f32 / union as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_pixels_change_nothing() {
        let weights = BinaryWeights { bce: 1.0, dice: 1.0, iou: 1.0 };
        let (mut a, mut b) = (vec![0.0; 3], vec![0.0; 5]);
        let short = binary(&[1.0, -2.0, 0.5], &[1, 0, 0], weights, &mut a, 1.0);
        let long = binary(&[1.0, 9.0, -2.0, 0.5, -9.0], &[1, 255, 0, 0, 255], weights, &mut b, 1.0);
        assert_eq!(short, long);
        assert_eq!((b[1], b[4]), (0.0, 0.0));
        assert_eq!(a, [b[0], b[2], b[3]]);
        let none = binary(&[3.0], &[255], weights, &mut [0.0], 1.0);
        assert_eq!(none, BinaryLoss::default());
    }

    #[test]
    fn gradients_are_slopes() {
        let (x, y) = ([0.3f32, -1.2, 2.0, 0.1], [1u8, 0, 1, 0]);
        for weights in [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.5, 2.0, 1.5]] {
            let weights = BinaryWeights { bce: weights[0], dice: weights[1], iou: weights[2] };
            let total = |x: &[f32]| {
                let l = binary(x, &y, weights, &mut [0.0; 4], 1.0);
                weights.bce * l.bce + weights.dice * l.dice + weights.iou * l.iou
            };
            let mut grad = [0.0; 4];
            binary(&x, &y, weights, &mut grad, 1.0);
            for i in 0..4 {
                let (mut up, mut down) = (x, x);
                up[i] += 1e-2;
                down[i] -= 1e-2;
                let slope = (total(&up) - total(&down)) / 2e-2;
                assert!((slope - grad[i]).abs() < 2e-4, "{i}: {slope} for {}", grad[i]);
            }
        }
    }

    #[test]
    fn the_hard_iou_of_two_empty_masks_is_one() {
        assert_eq!(hard_iou(&[-1.0, -1.0], &[0, 255]), 1.0);
        assert_eq!(hard_iou(&[1.0, 1.0, -1.0], &[1, 0, 1]), 1.0 / 3.0);
    }
}
