//! The decoder's two-way transformer: prompt tokens and image tokens attend to each other.
//!
//! Paper: SAM (arXiv 2304.02643) §A "Lightweight mask decoder". Reference:
//! segment_anything/modeling/transformer.py, `TwoWayTransformer`. Parity: tests/parity_sam.rs.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::init::Init;
use crate::layers::{Activation, LayerNorm, Linear, MlpBlock};
use crate::ops;

const EPS: f64 = 1e-5;

/// Attention with an inner width that may be smaller than the outer one.
#[derive(Module, Debug)]
pub struct DecoderAttention {
    /// [inner, C].
    pub q_proj: Linear,
    /// [inner, C].
    pub k_proj: Linear,
    /// [inner, C].
    pub v_proj: Linear,
    /// [C, inner].
    pub out_proj: Linear,
    #[module(skip)]
    num_heads: usize,
}

impl DecoderAttention {
    fn new(dim: usize, num_heads: usize, downsample: usize, init: &mut Init) -> Self {
        let inner = dim / downsample;
        Self {
            q_proj: Linear::new(dim, inner, init),
            k_proj: Linear::new(dim, inner, init),
            v_proj: Linear::new(dim, inner, init),
            out_proj: Linear::new(inner, dim, init),
            num_heads,
        }
    }

    /// `q` [P, N, C], `k` and `v` [P, M, C] -> [P, N, C].
    fn forward(&self, q: Tensor<3>, k: Tensor<3>, v: Tensor<3>) -> Tensor<3> {
        let q = self.split(self.q_proj.forward(q));
        let k = self.split(self.k_proj.forward(k));
        let v = self.split(self.v_proj.forward(v));
        let [p, heads, n, c] = q.dims();
        let y = ops::attention(q, k, v, self.scale(), None, false);
        self.out_proj.forward(y.swap_dims(1, 2).reshape([p, n, heads * c]))
    }

    /// Of the scores.
    pub(super) fn scale(&self) -> f64 {
        let inner = self.q_proj.weight.dims()[0];
        ((inner / self.num_heads) as f64).powf(-0.5)
    }

    pub(super) fn num_heads(&self) -> usize {
        self.num_heads
    }

    fn split(&self, x: Tensor<3>) -> Tensor<4> {
        let [p, n, inner] = x.dims();
        x.reshape([p, n, self.num_heads, inner / self.num_heads]).swap_dims(1, 2) // [P, heads, N, C]
    }
}

/// Self-attention of the tokens, tokens to image, MLP, image to tokens.
#[derive(Module, Debug)]
pub struct TwoWayAttentionBlock {
    /// Tokens to tokens.
    pub self_attn: DecoderAttention,
    /// After self-attention.
    pub norm1: LayerNorm,
    /// Tokens read the image.
    pub cross_attn_token_to_image: DecoderAttention,
    /// After reading the image.
    pub norm2: LayerNorm,
    /// On the tokens.
    pub mlp: MlpBlock,
    /// After the MLP.
    pub norm3: LayerNorm,
    /// After the image read the tokens.
    pub norm4: LayerNorm,
    /// The image reads the tokens.
    pub cross_attn_image_to_token: DecoderAttention,
    #[module(skip)]
    skip_first_layer_pe: bool,
}

impl TwoWayAttentionBlock {
    fn new(dim: usize, heads: usize, mlp_dim: usize, first: bool, init: &mut Init) -> Self {
        Self {
            self_attn: DecoderAttention::new(dim, heads, 1, init),
            norm1: LayerNorm::new(dim, EPS, init),
            cross_attn_token_to_image: DecoderAttention::new(dim, heads, 2, init),
            norm2: LayerNorm::new(dim, EPS, init),
            mlp: MlpBlock::new(dim, mlp_dim, Activation::Relu, init),
            norm3: LayerNorm::new(dim, EPS, init),
            norm4: LayerNorm::new(dim, EPS, init),
            cross_attn_image_to_token: DecoderAttention::new(dim, heads, 2, init),
            skip_first_layer_pe: first,
        }
    }

    /// Self-attention with its residual; the first block has neither position nor residual.
    pub(super) fn tokens_to_tokens(&self, tokens: Tensor<3>, token_pe: Tensor<3>) -> Tensor<3> {
        if self.skip_first_layer_pe {
            return self.self_attn.forward(tokens.clone(), tokens.clone(), tokens);
        }
        let q = tokens.clone() + token_pe;
        tokens.clone() + self.self_attn.forward(q.clone(), q, tokens)
    }

    /// `tokens` [P, N, C], `image` [P, M, C] and their position embeddings -> both, updated.
    pub fn forward(
        &self,
        tokens: Tensor<3>,
        image: Tensor<3>,
        token_pe: Tensor<3>,
        image_pe: Tensor<3>,
    ) -> (Tensor<3>, Tensor<3>) {
        let tokens = self.norm1.forward(self.tokens_to_tokens(tokens, token_pe.clone()));

        let q = tokens.clone() + token_pe.clone();
        let k = image.clone() + image_pe.clone();
        let tokens = tokens + self.cross_attn_token_to_image.forward(q, k.clone(), image.clone());
        let tokens = self.norm2.forward(tokens);

        let tokens = self.norm3.forward(tokens.clone() + self.mlp.forward(tokens));

        let q = tokens.clone() + token_pe;
        let image = image + self.cross_attn_image_to_token.forward(k, q, tokens.clone());
        (tokens, self.norm4.forward(image))
    }
}

/// The stack of blocks and a last look at the image.
#[derive(Module, Debug)]
pub struct TwoWayTransformer {
    /// Blocks.
    pub layers: Vec<TwoWayAttentionBlock>,
    /// Tokens read the image once more.
    pub final_attn_token_to_image: DecoderAttention,
    /// After it.
    pub norm_final_attn: LayerNorm,
}

impl TwoWayTransformer {
    /// A stack of `depth` blocks.
    pub fn new(depth: usize, dim: usize, heads: usize, mlp_dim: usize, init: &mut Init) -> Self {
        Self {
            layers: (0..depth).map(|i| TwoWayAttentionBlock::new(dim, heads, mlp_dim, i == 0, init)).collect(),
            final_attn_token_to_image: DecoderAttention::new(dim, heads, 2, init),
            norm_final_attn: LayerNorm::new(dim, EPS, init),
        }
    }

    /// `image` [P, M, C], `image_pe` [1, M, C], `tokens` [P, N, C] -> updated tokens and image.
    pub fn forward(&self, image: Tensor<3>, image_pe: Tensor<3>, tokens: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
        let token_pe = tokens.clone();
        let mut state = (tokens, image);
        for layer in &self.layers {
            state = layer.forward(state.0, state.1, token_pe.clone(), image_pe.clone());
        }
        let (tokens, image) = state;
        let q = tokens.clone() + token_pe;
        let k = image.clone() + image_pe;
        let tokens = tokens + self.final_attn_token_to_image.forward(q, k, image.clone());
        (self.norm_final_attn.forward(tokens), image)
    }
}
