//! The pre-norm transformer that both CLIP towers are made of.
//!
//! Paper: CLIP (arXiv:2103.00020) §2.4. Reference: open_clip/transformer.py,
//! `ResidualAttentionBlock`, and `torch.nn.MultiheadAttention`.
//! Parity: tests/parity_clip.rs, every block, max |Δ| <= 1e-5.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::init::Init;
use crate::layers::{Activation, LayerNorm, Linear};
use crate::ops::{self, BlockCache, BlockShape, BlockWeights, Packable};

/// Epsilon of every layer norm in CLIP.
pub(super) const EPS: f64 = 1e-5;
/// Hidden width of the MLP over the width.
pub(super) const MLP_RATIO: usize = 4;

/// `torch.nn.MultiheadAttention` for self-attention: the three projections in one matrix.
#[derive(Module, Debug)]
pub struct MultiheadAttention {
    /// [3D, D]: queries, keys, values.
    pub in_proj_weight: Param<Tensor<2>>,
    /// [3D].
    pub in_proj_bias: Param<Tensor<1>>,
    /// [D, D].
    pub out_proj: Linear,
    #[module(skip)]
    heads: usize,
}

impl MultiheadAttention {
    fn new(width: usize, heads: usize, layers: usize, init: &mut Init) -> Self {
        let std = (width as f32).powf(-0.5);
        Self {
            in_proj_weight: init.normal([3 * width, width], std),
            in_proj_bias: init.constant([3 * width], 0.0),
            out_proj: normal_linear(width, width, std * (2.0 * layers as f32).powf(-0.5), init),
            heads,
        }
    }

    /// `x` [B, N, D] -> queries, keys and values, each [B, heads, N, C].
    pub fn qkv(&self, x: Tensor<3>) -> [Tensor<4>; 3] {
        let [batch, n, width] = x.dims();
        let qkv = ops::linear(x, self.in_proj_weight.val(), Some(self.in_proj_bias.val())); // [B, N, 3D]
        [0, 1, 2].map(|i| {
            qkv.clone()
                .narrow(2, i * width, width)
                .reshape([batch, n, self.heads, width / self.heads])
                .swap_dims(1, 2) // [B, heads, N, C]
        })
    }

    /// `softmax(q k^T / sqrt(C)) v`, heads joined and projected. Each [B, heads, N, C] -> [B, N, D].
    pub fn attend(&self, q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, causal: bool) -> Tensor<3> {
        let [batch, heads, n, c] = q.dims();
        let y = ops::attention(q, k, v, (c as f64).powf(-0.5), None, causal); // [B, heads, N, C]
        self.out_proj.forward(y.swap_dims(1, 2).reshape([batch, n, heads * c])) // [B, N, D]
    }

    /// `x` [B, N, D] -> [B, N, D].
    pub fn forward(&self, x: Tensor<3>, causal: bool) -> Tensor<3> {
        let [q, k, v] = self.qkv(x);
        self.attend(q, k, v, causal)
    }
}

/// The block's MLP: `c_fc`, activation, `c_proj`.
#[derive(Module, Debug)]
pub struct Mlp {
    /// [4D, D].
    pub c_fc: Linear,
    /// [D, 4D].
    pub c_proj: Linear,
    #[module(skip)]
    act: Activation,
}

impl Mlp {
    /// `x` [B, N, D] -> [B, N, D].
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.c_proj.forward(self.act.forward(self.c_fc.forward(x)))
    }
}

/// `x + attention(ln_1 x)`, then `x + mlp(ln_2 x)`.
#[derive(Module, Debug)]
pub struct ResidualAttentionBlock {
    /// Norm before attention.
    pub ln_1: LayerNorm,
    /// Self-attention.
    pub attn: MultiheadAttention,
    /// Norm before the MLP.
    pub ln_2: LayerNorm,
    /// Feed-forward part.
    pub mlp: Mlp,
    #[module(skip)]
    cache: BlockCache,
}

impl ResidualAttentionBlock {
    fn new(config: &TransformerConfig, init: &mut Init) -> Self {
        let &TransformerConfig { width, layers, heads, act } = config;
        let std = (width as f32).powf(-0.5);
        let mlp = Mlp {
            c_fc: normal_linear(width, MLP_RATIO * width, (2.0 * width as f32).powf(-0.5), init),
            c_proj: normal_linear(MLP_RATIO * width, width, std * (2.0 * layers as f32).powf(-0.5), init),
            act,
        };
        Self {
            ln_1: LayerNorm::new(width, EPS, init),
            attn: MultiheadAttention::new(width, heads, layers, init),
            ln_2: LayerNorm::new(width, EPS, init),
            mlp,
            cache: BlockCache::default(),
        }
    }

    /// `x` [B, N, D] -> [B, N, D].
    pub fn forward(&self, x: Tensor<3>, causal: bool) -> Tensor<3> {
        if let Some(y) = self.fused(&x, causal) {
            return y;
        }
        let x = x.clone() + self.attn.forward(self.ln_1.forward(x), causal);
        self.feed_forward(x)
    }

    /// [`Self::forward`] as one kernel, where there is one.
    fn fused(&self, x: &Tensor<3>, causal: bool) -> Option<Tensor<3>> {
        ops::block(x, || self.weights(), || None, self.shape(causal)?, &self.cache)
    }

    fn shape(&self, causal: bool) -> Option<BlockShape> {
        let activation = self.mlp.act.of_block()?;
        Some(BlockShape { heads: self.attn.heads, window: 0, causal, activation, eps: self.ln_1.eps() })
    }

    fn weights(&self) -> BlockWeights {
        BlockWeights {
            norm1: self.ln_1.parts(),
            qkv: (self.attn.in_proj_weight.val(), self.attn.in_proj_bias.val()),
            proj: self.attn.out_proj.parts(),
            norm2: self.ln_2.parts(),
            fc1: self.mlp.c_fc.parts(),
            fc2: self.mlp.c_proj.parts(),
        }
    }

    /// What can be packed of the block with this name.
    fn packable(&self, name: &str, causal: bool) -> Option<Packable> {
        let layers = ["attn.in_proj_weight", "attn.out_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight"];
        let names = layers.map(|layer| format!("{name}.{layer}"));
        Some(Packable { names, weights: self.weights(), shape: self.shape(causal)?, cache: self.cache.clone() })
    }

    /// The second half: `x + mlp(ln_2 x)`. `x` [B, N, D] -> [B, N, D].
    pub fn feed_forward(&self, x: Tensor<3>) -> Tensor<3> {
        x.clone() + self.mlp.forward(self.ln_2.forward(x))
    }
}

/// Sizes of a [`Transformer`].
#[derive(Clone, Debug)]
pub(super) struct TransformerConfig {
    pub width: usize,
    pub layers: usize,
    pub heads: usize,
    pub act: Activation,
}

/// A stack of blocks.
#[derive(Module, Debug)]
pub struct Transformer {
    /// The blocks in order.
    pub resblocks: Vec<ResidualAttentionBlock>,
}

impl Transformer {
    /// The reference's initialisation of the text tower, used for both towers.
    pub(super) fn new(config: &TransformerConfig, init: &mut Init) -> Self {
        Self { resblocks: (0..config.layers).map(|_| ResidualAttentionBlock::new(config, init)).collect() }
    }

    /// What can be packed of the blocks under this name.
    pub fn packable(&self, name: &str, causal: bool) -> Vec<Packable> {
        let of = |(i, block): (usize, &ResidualAttentionBlock)| block.packable(&format!("{name}.resblocks.{i}"), causal);
        self.resblocks.iter().enumerate().filter_map(of).collect()
    }

    /// `x` [B, N, D] -> [B, N, D].
    pub fn forward(&self, x: Tensor<3>, causal: bool) -> Tensor<3> {
        self.resblocks.iter().fold(x, |x, block| block.forward(x, causal))
    }
}

fn normal_linear(inp: usize, out: usize, std: f32, init: &mut Init) -> Linear {
    Linear { weight: init.normal([out, inp], std), bias: Some(init.constant([out], 0.0)) }
}
