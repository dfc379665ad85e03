//! Pixels to tokens: SAM's patch embedding, and convolutional stems for models that learn from
//! few photos.
//!
//! Reference: segment_anything/modeling/image_encoder.py, `PatchEmbed`. The stems are ours.

use burn::module::Module;
use burn::tensor::Tensor;

use super::image_encoder::{EPS, PATCH_SIZE};
use crate::init::Init;
use crate::layers::{Conv2d, LayerNorm};
use crate::ops;

/// How pixels become tokens.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stem {
    /// One 16x16 convolution (SAM).
    Patch,
    /// 3x3 convolutions of stride 2 with these widths, the last being `embed_dim`; a hybrid that
    /// trains on little data ("early convolutions", arXiv 2106.14881). Not in SAM.
    Conv(Vec<usize>),
    /// The same, each stage followed by so many residual blocks of 3x3 convolutions. Not in SAM.
    Residual(Vec<StageSize>),
}

/// One stage of [`Stem::Residual`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageSize {
    /// Channels; the last stage's are `embed_dim`.
    pub width: usize,
    /// Residual blocks after the stride-2 convolution.
    pub blocks: usize,
}

/// Pixels [B, 3, H, W] to tokens [B, H/16, W/16, D].
#[derive(Module, Debug)]
pub struct PatchEmbed {
    /// Stride-2 convolutions of a hybrid; empty in SAM.
    pub stem: Vec<StemStage>,
    /// The last projection: 16x16 in SAM, 1x1 after a stem.
    pub proj: Conv2d,
}

/// One stage of the convolutional stem.
#[derive(Module, Debug)]
pub struct StemStage {
    /// 3x3, stride 2.
    pub conv: Conv2d,
    /// Over channels.
    pub norm: LayerNorm,
    /// Of the hybrid with residual blocks.
    pub blocks: Vec<StemBlock>,
}

impl StemStage {
    fn new(inp: usize, size: StageSize, init: &mut Init) -> Self {
        Self {
            conv: Conv2d::new(inp, size.width, 3, 2, true, init),
            norm: LayerNorm::new(size.width, EPS, init),
            blocks: (0..size.blocks).map(|_| StemBlock::new(size.width, init)).collect(),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = ops::gelu(self.norm.forward(self.conv.forward(x)));
        self.blocks.iter().fold(x, |x, block| block.forward(x))
    }
}

/// Norm, 3x3, GELU, 3x3, added to its input.
#[derive(Module, Debug)]
pub struct StemBlock {
    /// Over channels.
    pub norm: LayerNorm,
    /// 3x3.
    pub conv1: Conv2d,
    /// 3x3.
    pub conv2: Conv2d,
}

impl StemBlock {
    fn new(width: usize, init: &mut Init) -> Self {
        Self {
            norm: LayerNorm::new(width, EPS, init),
            conv1: Conv2d::new(width, width, 3, 1, true, init),
            conv2: Conv2d::new(width, width, 3, 1, true, init),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = self.conv1.forward(self.norm.forward(x.clone()));
        x + self.conv2.forward(ops::gelu(y))
    }
}

impl PatchEmbed {
    /// One convolution, or the stages of a hybrid and a 1x1 convolution.
    pub(crate) fn new(stem: &Stem, dim: usize, init: &mut Init) -> Self {
        match stem {
            Stem::Patch => Self { stem: vec![], proj: Conv2d::new(3, dim, PATCH_SIZE, PATCH_SIZE, true, init) },
            Stem::Conv(widths) => {
                let stages: Vec<_> = widths.iter().map(|&width| StageSize { width, blocks: 0 }).collect();
                Self::hybrid(&stages, dim, init)
            }
            Stem::Residual(stages) => Self::hybrid(stages, dim, init),
        }
    }

    fn hybrid(stages: &[StageSize], dim: usize, init: &mut Init) -> Self {
        let mut inp = 3;
        let mut stem = Vec::with_capacity(stages.len());
        for &size in stages {
            stem.push(StemStage::new(inp, size, init));
            inp = size.width;
        }
        Self { stem, proj: Conv2d::new(inp, dim, 1, 1, true, init) }
    }

    /// `pixels` [B, 3, H, W] -> [B, h, w, D].
    pub fn forward(&self, pixels: Tensor<4>) -> Tensor<4> {
        let x = pixels.permute([0, 2, 3, 1]); // [B, H, W, 3]
        self.proj.forward(self.stem.iter().fold(x, |x, stage| stage.forward(x)))
    }
}
