//! SAM's image encoder with adapters between the seams of its untouched blocks.
//!
//! Paper: CLIP-Guided SAM (arXiv 2605.24807) §3.3, Fig. 3; baselines: SU-SAM, Med-SA (spec 7).
//! Parity: tests/parity_clip_guided.rs, every block. With adapters at their zero start the encoder
//! is SAM's bit for bit.

use burn::module::{Param, ParamId};
use burn::tensor::Tensor;

use super::adapters::{BlockAdapters, Lora};
use super::config::{AdapterConfig, AttentionAdapter, MlpAdapter};
use super::guidance::Guidance;
use crate::sam::{Attention, Block, VitDet, window_partition, window_unpartition};

/// A borrowed encoder and its adapters.
pub struct GuidedVitDet<'a> {
    /// SAM's.
    pub vit: &'a VitDet,
    /// One entry per block.
    pub adapters: &'a [BlockAdapters],
    /// Where they stand.
    pub config: &'a AdapterConfig,
}

impl GuidedVitDet<'_> {
    /// The first block whose MLP adapter sees the class; the depth where none does.
    pub fn first_guided(&self) -> usize {
        let depth = self.vit.blocks.len();
        let guided = |i: &usize| self.config.inject.any() && self.adapters[*i].semantic.is_some();
        (0..depth).find(guided).unwrap_or(depth)
    }

    /// What all classes of an image share: `pixels` [B, 3, H, W] -> [B, h, w, D], the state after
    /// the attention of the first guided block, or the last block's output where none is guided.
    pub fn shared(&self, pixels: Tensor<4>) -> Tensor<4> {
        self.shared_from(self.vit.embed(pixels), 0)
    }

    /// As [`Self::shared`] from the input `x` of block `start`, which must not be beyond the first
    /// block with adapters.
    pub fn shared_from(&self, x: Tensor<4>, start: usize) -> Tensor<4> {
        let first = self.first_guided();
        let x = (start..first).fold(x, |x, i| self.block(i, x, None));
        match first < self.vit.blocks.len() {
            true => self.attend(first, x),
            false => x,
        }
    }

    /// The rest for P pairs of image and class: `shared` [P, h, w, D] -> the last block's output
    /// [P, h, w, D].
    pub fn guided(&self, shared: Tensor<4>, guidance: Option<&Guidance>) -> Tensor<4> {
        let (first, depth) = (self.first_guided(), self.vit.blocks.len());
        if first == depth {
            return shared;
        }
        let x = self.feed_forward(first, shared, guidance);
        (first + 1..depth).fold(x, |x, i| self.block(i, x, guidance))
    }

    /// Block `i` with its adapters: `x` [P, h, w, D] -> [P, h, w, D].
    pub fn block(&self, i: usize, x: Tensor<4>, guidance: Option<&Guidance>) -> Tensor<4> {
        match self.adapters[i].is_empty() {
            true => self.vit.blocks[i].forward(x),
            false => self.feed_forward(i, self.attend(i, x), guidance),
        }
    }

    /// The first half: `x + attention(norm1 x)` with its adapter.
    fn attend(&self, i: usize, x: Tensor<4>) -> Tensor<4> {
        let (block, adapters, s) = (&self.vit.blocks[i], &self.adapters[i], self.config.scale);
        let z = block.norm1.forward(x.clone());
        let y = match &adapters.lora {
            Some(lora) => attention_with(block, lora, z.clone()),
            None => block.attention(z.clone()),
        };
        match (&adapters.regular, self.config.attention) {
            (None, _) | (_, AttentionAdapter::None) => x + y,
            (Some(a), AttentionAdapter::Parallel) => x + y + a.forward(z) * s,
            (Some(a), AttentionAdapter::SusamParallel) => x + y.clone() + (y.clone() + a.forward(y)) * s,
            (Some(a), AttentionAdapter::Series) => x + y.clone() + a.forward(y),
        }
    }

    /// The second half: `x + mlp(norm2 x)` with its adapter.
    fn feed_forward(&self, i: usize, x: Tensor<4>, guidance: Option<&Guidance>) -> Tensor<4> {
        let (block, s) = (&self.vit.blocks[i], self.config.scale);
        let z = block.norm2.forward(x.clone());
        let y = block.mlp.forward(z.clone());
        match (&self.adapters[i].semantic, self.config.mlp) {
            (None, _) | (_, MlpAdapter::None) => x + y,
            (Some(a), MlpAdapter::Parallel) => x + y + a.forward(z, guidance) * s,
            (Some(a), MlpAdapter::Series) => x + a.adapter.forward(y) * s,
        }
    }
}

/// A block's attention whose joint projection carries a low-rank update.
fn attention_with(block: &Block, lora: &Lora, z: Tensor<4>) -> Tensor<4> {
    let mut attn: Attention = block.attn.clone();
    let qkv = lora.apply(attn.qkv.weight.val());
    attn.qkv.weight = Param::initialized(ParamId::new(), qkv);
    let ([_, h, w, _], size) = (z.dims(), block.window_size());
    if size == 0 {
        return attn.forward(z);
    }
    window_unpartition(attn.forward(window_partition(z, size)), size, [h, w])
}
