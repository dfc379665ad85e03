//! Losses as plain functions over slices: a value, and its gradient by hand.
//!
//! Why not through autodiff: a mask loss is a dozen element-wise steps over every
//! pixel of every prompt; written out, value and gradient cost one pass and no
//! stored intermediates. The training loop hands the gradient to the graph as
//! `sum(output * gradient)` (`objectives::inject`), whose backward is exact.
//!
//! Parity: `tests/losses.rs` holds values and gradients against PyTorch.

mod binary;
mod contrastive;
mod cosine;
mod cross_entropy;
mod mask;

pub use binary::{BinaryLoss, BinaryWeights, binary, hard_iou};
pub use contrastive::contrastive;
pub use cosine::{centred_cosine, cosine, smooth_l1, standardize};
pub use cross_entropy::{
    affinity, cross_entropy, cross_entropy_of, resize_bilinear, resize_bilinear_backward, sigmoid_cross_entropy, soft_cross_entropy,
};
pub use mask::{MaskLoss, MaskWeights, dice, focal, mask_iou, mask_loss};

/// Logistic function, stable on both sides.
#[inline]
pub(crate) fn sigmoid(x: f32) -> f32 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let e = x.exp();
        e / (1.0 + e)
    }
}

/// `log(1 + exp(x))`, stable on both sides.
#[inline]
pub(crate) fn softplus(x: f32) -> f32 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}
