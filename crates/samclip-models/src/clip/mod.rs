//! CLIP: an image tower and a text tower that share an embedding space.
//!
//! Paper: CLIP (arXiv:2103.00020). Reference: open_clip/model.py, `CLIP`. Parity:
//! tests/parity_clip.rs. Reader's path: [`Clip::encode_image`], [`Clip::encode_text`], then
//! [`zero_shot`] for class vectors and [`surgery`] for maps.

mod config;
mod fix_text;
mod image_tower;
mod module;
pub mod surgery;
mod text_tower;
pub mod tokenizer;
mod transformer;
pub mod zero_shot;

use burn::module::Param;
use burn::tensor::{Int, Tensor};

pub use config::{ClipConfig, TextConfig, VisionConfig};
pub use image_tower::ImageTower;
pub use text_tower::TextTower;
pub use transformer::{Mlp, MultiheadAttention, ResidualAttentionBlock, Transformer};

use crate::ModelError;
use crate::ops::Packable;

/// Both towers. As in the reference, the text tower's parameters have no prefix.
#[derive(Clone, Debug)]
pub struct Clip {
    /// Pixels to embeddings.
    pub visual: ImageTower,
    /// Tokens to embeddings.
    pub text: TextTower,
    /// [1]: logarithm of the factor on cosines.
    pub logit_scale: Param<Tensor<1>>,
}

impl Clip {
    /// What can be packed of both towers, under its names in a checkpoint.
    pub fn packable(&self) -> Vec<Packable> {
        let mut blocks = self.visual.transformer.packable("visual.transformer", false);
        blocks.extend(self.text.transformer.packable("transformer", true));
        blocks
    }

    /// `pixels` [B, 3, H, W], CLIP's normalisation -> [B, E], not normalised.
    ///
    /// # Errors
    /// When a side is not a multiple of the patch size.
    pub fn encode_image(&self, pixels: Tensor<4>) -> Result<Tensor<2>, ModelError> {
        self.visual.forward(pixels)
    }

    /// `tokens` [B, T] -> [B, E], not normalised.
    ///
    /// # Errors
    /// When T exceeds the context length.
    pub fn encode_text(&self, tokens: Tensor<2, Int>) -> Result<Tensor<2>, ModelError> {
        self.text.forward(tokens)
    }
}

/// Unit length along the last axis. `x` [..., E] -> [..., E].
pub fn normalize<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let norm = x.clone().square().sum_dim(D - 1).sqrt().clamp_min(1e-12);
    x / norm
}
