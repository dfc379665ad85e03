//! SAM's mask losses: focal, dice, and the target of the IoU head.
//!
//! Paper: SAM (arXiv:2304.02643) App. A "Losses": focal 20 : dice 1, plus the mean
//! square error of the predicted IoU. Focal: RetinaNet (arXiv:1708.02002) eq. 5;
//! reference torchvision `sigmoid_focal_loss`. Soft targets (distillation): spec 5.2;
//! for targets of 0 and 1 they reduce to the usual forms.
//! Parity: `tests/losses.rs`.

use super::{sigmoid, softplus};

/// Weights of the mask losses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MaskWeights {
    /// Weight of the focal loss (SAM: 20).
    pub focal: f32,
    /// Weight of the dice loss (SAM: 1).
    pub dice: f32,
    /// Focal balance of the positive pixels (SAM 2's training code: 0.25).
    pub alpha: f32,
}

impl MaskWeights {
    /// The weights of the SAM paper.
    pub const SAM: Self = Self { focal: 20.0, dice: 1.0, alpha: 0.25 };
}

/// The losses of one mask.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MaskLoss {
    /// Focal loss, mean over the pixels, unweighted.
    pub focal: f32,
    /// Dice loss, unweighted.
    pub dice: f32,
    /// `weights.focal * focal + weights.dice * dice`.
    pub total: f32,
}

/// Focal loss of one mask, gamma 2: mean over the pixels of `a |p - y|^2 BCE(p, y)`,
/// `a = alpha y + (1 - alpha)(1 - y)`. Adds `scale` times its gradient to `grad`.
pub fn focal(logits: &[f32], target: &[f32], alpha: f32, grad: Option<&mut [f32]>, scale: f32) -> f32 {
    let n = logits.len() as f32;
    let mut sum = 0.0f64;
    let mut add = grad;
    for (i, (&x, &y)) in logits.iter().zip(target).enumerate() {
        let p = sigmoid(x);
        let d = p - y;
        let bce = softplus(x) - y * x;
        let a = alpha * y + (1.0 - alpha) * (1.0 - y);
        sum += f64::from(a * d * d * bce);
        if let Some(g) = add.as_deref_mut() {
            g[i] += scale / n * a * (2.0 * d * p * (1.0 - p) * bce + d * d * d);
        }
    }
    (sum / f64::from(n)) as f32
}

/// Dice loss of one mask: `1 - (N + 1) / (sum p + sum y + 1)` with
/// `N = sum p + sum y - sum |p - y|`. Adds `scale` times its gradient to `grad`.
///
/// Deviation: SAM writes `N = 2 sum p y`; the two are equal for targets of 0 and 1,
/// and only this one is zero at `p = y` for soft targets (spec 5.2).
pub fn dice(logits: &[f32], target: &[f32], grad: Option<&mut [f32]>, scale: f32) -> f32 {
    let (mut sum_p, mut sum_y, mut sum_d) = (0.0f64, 0.0f64, 0.0f64);
    for (&x, &y) in logits.iter().zip(target) {
        let p = sigmoid(x);
        sum_p += f64::from(p);
        sum_y += f64::from(y);
        sum_d += f64::from((p - y).abs());
    }
    let numerator = sum_p + sum_y - sum_d + 1.0;
    let denominator = sum_p + sum_y + 1.0;
    if let Some(g) = grad {
        let ratio = (numerator / (denominator * denominator)) as f32;
        let inverse = (1.0 / denominator) as f32;
        for (g, (&x, &y)) in g.iter_mut().zip(logits.iter().zip(target)) {
            let p = sigmoid(x);
            let sign = if p > y {
                1.0
            } else if p < y {
                -1.0
            } else {
                0.0
            };
            *g += scale * (ratio - (1.0 - sign) * inverse) * p * (1.0 - p);
        }
    }
    (1.0 - numerator / denominator) as f32
}

/// Both mask losses of one mask; adds `scale` times the gradient of the total.
pub fn mask_loss(
    logits: &[f32],
    target: &[f32],
    weights: MaskWeights,
    mut grad: Option<&mut [f32]>,
    scale: f32,
) -> MaskLoss {
    let focal = focal(logits, target, weights.alpha, grad.as_deref_mut(), scale * weights.focal);
    let dice = dice(logits, target, grad, scale * weights.dice);
    MaskLoss { focal, dice, total: weights.focal * focal + weights.dice * dice }
}

/// IoU of the thresholded prediction (`logit > 0`) with the target (`> 0.5`);
/// two empty masks agree fully. The target of the IoU head.
pub fn mask_iou(logits: &[f32], target: &[f32]) -> f32 {
    let (mut intersection, mut union) = (0usize, 0usize);
    for (&x, &y) in logits.iter().zip(target) {
        let (p, y) = (x > 0.0, y > 0.5);
        intersection += usize::from(p && y);
        union += usize::from(p || y);
    }
    if union == 0 { 1.0 } else { intersection as f32 / union as f32 }
}
