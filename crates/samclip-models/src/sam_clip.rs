//! SAM-CLIP: one backbone, SAM's mask head and a CLIP head (arXiv 2310.15308).
//!
//! Paper: §3 "Proposed approach", appendix A (head). No public code exists. What the paper leaves
//! open and what we take is listed in docs/papers/sam_clip.md. Parity: tests/parity_sam_clip.rs
//! against a PyTorch module written for the test.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::init::Init;
use crate::layers::{Activation, LayerNorm, Mlp};
use crate::ops::Packable;
use crate::sam::{
    self, Block, ImageEncoder, MaskDecoder, MaskDecoderConfig, MaskLogits, MaskOutput, PromptEncoder, PromptInput,
    SamConfig, StageSize, Stem, VitDetConfig,
};

/// How token features become one vector per image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// Maximum over tokens per channel (the paper's choice).
    Max,
    /// Mean over tokens (the paper's ablation).
    Avg,
}

/// Sizes of a [`ClipHead`].
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipHeadConfig {
    /// Transformer layers, each shaped as the backbone's last (global) block.
    pub depth: usize,
    /// Pooling of the image embedding.
    pub pooling: Pooling,
    /// Width of the MLP's two hidden layers.
    pub mlp_dim: usize,
    /// Width of the text space.
    pub embed_dim: usize,
}

/// Sizes of a [`SamClip`].
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamClipConfig {
    /// Backbone and mask decoder.
    pub sam: SamConfig,
    /// CLIP head.
    pub clip_head: ClipHeadConfig,
}

impl SamClipConfig {
    /// The paper's: SAM ViT-B, three layers, text space of CLIP ViT-L/14.
    pub fn vit_b() -> Self {
        let clip_head = ClipHeadConfig { depth: 3, pooling: Pooling::Max, mlp_dim: 768, embed_dim: 768 };
        Self { sam: SamConfig::vit_b(), clip_head }
    }

    /// The small model that ships with samclip: a convolutional stem with residual blocks before
    /// seven transformer blocks, text space of CLIP ViT-B/32.
    pub fn nano() -> Self {
        let stage = |width, blocks| StageSize { width, blocks };
        let image_encoder = VitDetConfig {
            img_size: 384,
            embed_dim: 224,
            depth: 7,
            num_heads: 7,
            mlp_ratio: 4,
            out_chans: 128,
            window_size: 8,
            global_attn_indexes: vec![1, 3, 5, 6],
            stem: Stem::Residual(vec![stage(24, 0), stage(48, 1), stage(96, 2), stage(224, 0)]),
        };
        let mask_decoder = MaskDecoderConfig {
            transformer_dim: 128,
            depth: 2,
            num_heads: 4,
            mlp_dim: 512,
            iou_head_hidden_dim: 128,
        };
        let clip_head = ClipHeadConfig { depth: 2, pooling: Pooling::Max, mlp_dim: 224, embed_dim: 512 };
        Self { sam: SamConfig { image_encoder, mask_decoder }, clip_head }
    }

    /// The model with initial values from `init`.
    pub fn init(&self, init: &mut Init) -> SamClip {
        let sam = self.sam.init(init);
        SamClip {
            image_encoder: sam.image_encoder,
            prompt_encoder: sam.prompt_encoder,
            mask_decoder: sam.mask_decoder,
            clip_head: ClipHead::new(&self.clip_head, &self.sam.image_encoder, init),
        }
    }
}

/// The merged model. Tensor names of the SAM part are SAM's; the CLIP head adds `clip_head.*`.
#[derive(Module, Debug)]
pub struct SamClip {
    /// Shared backbone; its neck belongs to the SAM head.
    pub image_encoder: ImageEncoder,
    /// Frozen in the paper.
    pub prompt_encoder: PromptEncoder,
    /// The SAM head.
    pub mask_decoder: MaskDecoder,
    /// The CLIP head.
    pub clip_head: ClipHead,
}

impl SamClip {
    /// Output of the backbone's last block, before the neck: [B, 3, H, W] -> [B, h, w, D].
    /// Both heads start here: one encoder pass serves both.
    pub fn tokens(&self, pixels: Tensor<4>) -> Tensor<4> {
        self.image_encoder.tokens(pixels)
    }

    /// What can be packed of backbone and head, under its names in a checkpoint.
    pub fn packable(&self) -> Vec<Packable> {
        let of = |(i, block): (usize, &Block)| block.packable(&format!("clip_head.blocks.{i}"));
        let head = self.clip_head.blocks.iter().enumerate().filter_map(of);
        self.image_encoder.packable().into_iter().chain(head).collect()
    }

    /// Image embedding of the SAM head: [B, h, w, D] -> [B, C, h, w].
    pub fn sam_embedding(&self, tokens: Tensor<4>) -> Tensor<4> {
        self.image_encoder.neck(tokens)
    }

    /// See [`sam::Sam::decode`].
    pub fn decode(
        &self,
        image_embeddings: Tensor<4>,
        image_index: &[usize],
        prompts: &PromptInput,
        output: MaskOutput,
    ) -> MaskLogits {
        self.decode_above(image_embeddings, image_index, prompts, output, f32::NEG_INFINITY)
    }

    /// See [`sam::Sam::decode_above`].
    pub fn decode_above(
        &self,
        image_embeddings: Tensor<4>,
        image_index: &[usize],
        prompts: &PromptInput,
        output: MaskOutput,
        min_iou: f32,
    ) -> MaskLogits {
        let heads = (&self.prompt_encoder, &self.mask_decoder);
        sam::decode(heads, image_embeddings, image_index, prompts, (output, min_iou))
    }

    /// Image embedding in the text space, unit length: [B, h, w, D] -> [B, E].
    pub fn clip_pooled(&self, tokens: Tensor<4>) -> Tensor<2> {
        self.clip_head.pooled(self.clip_head.blocks(tokens))
    }

    /// One vector per token in the text space, unit length: [B, h, w, D] -> [B, h, w, E].
    pub fn clip_dense(&self, tokens: Tensor<4>) -> Tensor<4> {
        self.clip_head.dense(self.clip_head.blocks(tokens))
    }

    /// Pooled [B, E] and dense [B, h, w, E] with one pass of the head's layers.
    pub fn clip_both(&self, tokens: Tensor<4>) -> (Tensor<2>, Tensor<4>) {
        let x = self.clip_head.blocks(tokens);
        (self.clip_head.pooled(x.clone()), self.clip_head.dense(x))
    }
}

/// Transformer layers, pooling, LayerNorm, MLP with two hidden layers (paper, appendix A).
#[derive(Module, Debug)]
pub struct ClipHead {
    /// Copies of the backbone's last block at the start of training, if the recipe says so.
    pub blocks: Vec<Block>,
    /// After pooling.
    pub norm: LayerNorm,
    /// To the text space.
    pub mlp: Mlp,
    #[module(skip)]
    pooling: Pooling,
}

impl ClipHead {
    pub(crate) fn new(config: &ClipHeadConfig, backbone: &VitDetConfig, init: &mut Init) -> Self {
        let dim = backbone.embed_dim;
        let widths = [dim, config.mlp_dim, config.mlp_dim, config.embed_dim];
        let block = |_| Block::new_global(dim, backbone.num_heads, backbone.mlp_ratio, backbone.grid(), init);
        Self {
            blocks: (0..config.depth).map(block).collect(),
            norm: LayerNorm::new(dim, 1e-6, init),
            mlp: Mlp::new(&widths, Activation::Gelu, init),
            pooling: config.pooling,
        }
    }

    /// The head's transformer layers: [B, h, w, D] -> [B, h, w, D].
    pub fn blocks(&self, tokens: Tensor<4>) -> Tensor<4> {
        self.blocks.iter().fold(tokens, |x, block| block.forward(x))
    }

    /// Pools layer output to one unit vector per image: [B, h, w, D] -> [B, E].
    pub fn pooled(&self, x: Tensor<4>) -> Tensor<2> {
        self.project(self.pool(x))
    }

    /// What linear probing sees: layers, pooling and norm of the backbone's tokens, no MLP. [B, h, w, D] -> [B, D].
    pub fn pooled_features(&self, tokens: Tensor<4>) -> Tensor<2> {
        self.norm.forward(self.pool(self.blocks(tokens)))
    }

    /// [B, h, w, D] -> [B, D].
    fn pool(&self, x: Tensor<4>) -> Tensor<2> {
        let [b, h, w, d] = x.dims();
        let x = x.reshape([b, h * w, d]);
        let pooled = match self.pooling {
            Pooling::Max => x.max_dim(1),
            Pooling::Avg => x.mean_dim(1),
        };
        pooled.reshape([b, d])
    }

    /// The same norm and MLP on every token: [B, h, w, D] -> [B, h, w, E].
    pub fn dense(&self, x: Tensor<4>) -> Tensor<4> {
        self.project(x)
    }

    fn project<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        unit(self.mlp.forward(self.norm.forward(x)))
    }
}

/// Unit length over the last axis.
pub fn unit<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let norm = x.clone().square().sum_dim(D - 1).add_scalar(1e-12).sqrt();
    x / norm
}
