//! CLIP's image tower: a ViT with a class token.
//!
//! Paper: CLIP (arXiv:2103.00020) §2.4. Reference: open_clip/transformer.py, `VisionTransformer`;
//! position embedding at other sizes: open_clip/model.py, `resize_pos_embed`.
//! Parity: tests/parity_clip.rs, stage by stage, max |Δ| <= 1e-5.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::VisionConfig;
use super::transformer::{EPS, Transformer, TransformerConfig};
use crate::ModelError;
use crate::init::Init;
use crate::layers::{Activation, Conv2d, LayerNorm};
use crate::ops::{self, Interpolation};

/// Pixels to embeddings.
#[derive(Module, Debug)]
pub struct ImageTower {
    /// Patches to tokens, no bias.
    pub conv1: Conv2d,
    /// [D].
    pub class_embedding: Param<Tensor<1>>,
    /// [1 + g², D], the class token's first; other grids interpolate the rest.
    pub positional_embedding: Param<Tensor<2>>,
    /// Norm before the blocks.
    pub ln_pre: LayerNorm,
    /// The blocks.
    pub transformer: Transformer,
    /// Norm after the blocks.
    pub ln_post: LayerNorm,
    /// [D, E].
    pub proj: Param<Tensor<2>>,
    #[module(skip)]
    patch_size: usize,
}

impl ImageTower {
    pub(crate) fn new(config: &VisionConfig, embed_dim: usize, act: Activation, init: &mut Init) -> Self {
        let &VisionConfig { patch_size, width, layers, heads, .. } = config;
        let scale = (width as f32).powf(-0.5);
        Self {
            conv1: Conv2d::new(3, width, patch_size, patch_size, false, init),
            class_embedding: init.normal([width], scale),
            positional_embedding: init.normal([1 + config.grid() * config.grid(), width], scale),
            ln_pre: LayerNorm::new(width, EPS, init),
            transformer: Transformer::new(&TransformerConfig { width, layers, heads, act }, init),
            ln_post: LayerNorm::new(width, EPS, init),
            proj: init.normal([width, embed_dim], scale),
            patch_size,
        }
    }

    /// `pixels` [B, 3, H, W], normalised -> [B, E], not normalised: the reference's `encode_image`.
    ///
    /// # Errors
    /// When a side is not a multiple of the patch size.
    pub fn forward(&self, pixels: Tensor<4>) -> Result<Tensor<2>, ModelError> {
        let (tokens, _) = self.embed(pixels, Interpolation::BicubicAntialias)?;
        let tokens = self.transformer.forward(self.ln_pre.forward(tokens), false); // [B, 1+N, D]
        let class = tokens.narrow(1, 0, 1); //                                        [B, 1, D]
        Ok(self.project(class).squeeze_dim(1)) //                                     [B, E]
    }

    /// Patches after the last block, before `ln_post`. `pixels` [B, 3, H, W], normalised -> [B, h, w, D].
    ///
    /// # Errors
    /// When a side is not a multiple of the patch size.
    pub fn tokens(&self, pixels: Tensor<4>, mode: Interpolation) -> Result<Tensor<4>, ModelError> {
        let (tokens, [h, w]) = self.embed(pixels, mode)?;
        let tokens = self.transformer.forward(self.ln_pre.forward(tokens), false); // [B, 1+N, D]
        let [batch, _, dim] = tokens.dims();
        Ok(tokens.narrow(1, 1, h * w).reshape([batch, h, w, dim]))
    }

    /// Patches and class token with their positions, before `ln_pre`, and the grid (h, w).
    /// `pixels` [B, 3, H, W] -> [B, 1 + h·w, D].
    ///
    /// # Errors
    /// When a side is not a multiple of the patch size.
    pub fn embed(&self, pixels: Tensor<4>, mode: Interpolation) -> Result<(Tensor<3>, [usize; 2]), ModelError> {
        let [batch, _, height, width] = pixels.dims();
        let patch = self.patch_size;
        if height % patch != 0 || width % patch != 0 || height == 0 || width == 0 {
            return Err(ModelError::Input(format!("image of {height}x{width}: sides must be multiples of {patch}")));
        }
        let grid = [height / patch, width / patch];
        let x = self.conv1.forward(pixels.permute([0, 2, 3, 1])); // [B, h, w, D]
        let dim = x.dims()[3];
        let x = x.reshape([batch, grid[0] * grid[1], dim]); //       [B, N, D]
        let class = self.class_embedding.val().reshape([1, 1, dim]).expand([batch, 1, dim]);
        let x = Tensor::cat(vec![class, x], 1); //                   [B, 1+N, D]
        Ok((x + self.positions(grid, mode).unsqueeze(), grid))
    }

    /// The position embedding for a grid of (h, w) tokens: [1 + h·w, D].
    ///
    /// Always computed from the stored table; the reference of CLIP Surgery overwrites its table.
    pub fn positions(&self, [h, w]: [usize; 2], mode: Interpolation) -> Tensor<2> {
        let table = self.positional_embedding.val();
        let [rows, dim] = table.dims();
        let side = (rows - 1).isqrt();
        if [h, w] == [side, side] {
            return table;
        }
        let class = table.clone().narrow(0, 0, 1);
        let grid = table.narrow(0, 1, side * side).reshape([1, side, side, dim]).permute([0, 3, 1, 2]);
        let grid = ops::resize_2d(grid, [h, w], mode); //              [1, D, h, w]
        let grid = grid.permute([0, 2, 3, 1]).reshape([h * w, dim]); // [h·w, D]
        Tensor::cat(vec![class, grid], 0)
    }

    /// `ln_post`, then the projection. `x` [B, N, D] -> [B, N, E].
    pub fn project(&self, x: Tensor<3>) -> Tensor<3> {
        ops::linear(self.ln_post.forward(x), self.proj.val().transpose(), None)
    }
}
