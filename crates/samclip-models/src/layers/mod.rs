//! Building blocks with PyTorch's parameter names and layouts, channels last.

mod conv;
mod conv_bn;
mod linear;
mod norm;

pub use conv::{Conv2d, ConvTranspose2d};
pub use conv_bn::{BatchNorm, Conv2dBn, ConvWeight, Kernel};
pub use linear::{Embedding, Linear, Mlp, MlpBlock};
pub use norm::LayerNorm;

/// Activation of a feed-forward part, chosen per checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// Exact (erf) GELU: SAM, open_clip's LAION and DataComp checkpoints.
    Gelu,
    /// `x sigmoid(1.702 x)`: OpenAI's CLIP.
    QuickGelu,
    /// max(x, 0): SAM's mask decoder.
    Relu,
}

impl Activation {
    /// What the fused block calls it; none where it has no such block.
    pub fn of_block(self) -> Option<crate::ops::BlockActivation> {
        match self {
            Self::Gelu => Some(crate::ops::BlockActivation::Gelu),
            Self::QuickGelu => Some(crate::ops::BlockActivation::QuickGelu),
            Self::Relu => None,
        }
    }

    /// Applies it element by element.
    pub fn forward<const D: usize>(self, x: burn::tensor::Tensor<D>) -> burn::tensor::Tensor<D> {
        match self {
            Self::Gelu => crate::ops::gelu(x),
            Self::QuickGelu => crate::ops::quick_gelu(x),
            Self::Relu => burn::tensor::activation::relu(x),
        }
    }
}
