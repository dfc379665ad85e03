//! SAM's mask decoder: tokens and image embedding to mask logits and predicted IoU.
//!
//! Paper: SAM (arXiv 2304.02643) §A. Reference: segment_anything/modeling/mask_decoder.py,
//! `MaskDecoder`. Parity: tests/parity_sam.rs.

use burn::module::Module;
use burn::tensor::Tensor;

use super::transformer::TwoWayTransformer;
use super::{MaskLogits, MaskOutput};
use crate::init::Init;
use crate::layers::{Activation, ConvTranspose2d, Embedding, LayerNorm, Mlp};
use crate::ops;

/// Sizes of a [`MaskDecoder`].
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaskDecoderConfig {
    /// Width of tokens and image embedding.
    pub transformer_dim: usize,
    /// Two-way blocks.
    pub depth: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Hidden width of the transformer's MLP.
    pub mlp_dim: usize,
    /// Hidden width of the IoU head.
    pub iou_head_hidden_dim: usize,
}

impl MaskDecoderConfig {
    /// SAM's.
    pub const SAM: Self =
        Self { transformer_dim: 256, depth: 2, num_heads: 8, mlp_dim: 2048, iou_head_hidden_dim: 256 };

    /// The decoder with initial values from `init`.
    pub fn init(&self, init: &mut Init) -> MaskDecoder {
        let dim = self.transformer_dim;
        MaskDecoder {
            transformer: TwoWayTransformer::new(self.depth, dim, self.num_heads, self.mlp_dim, init),
            iou_token: Embedding::new(1, dim, 1.0, init),
            mask_tokens: Embedding::new(NUM_MASK_TOKENS, dim, 1.0, init),
            output_upscaling: OutputUpscaling::new(dim, init),
            output_hypernetworks_mlps: (0..NUM_MASK_TOKENS)
                .map(|_| Mlp::new(&[dim, dim, dim, dim / 8], Activation::Relu, init))
                .collect(),
            iou_prediction_head: Mlp::new(
                &[dim, self.iou_head_hidden_dim, self.iou_head_hidden_dim, NUM_MASK_TOKENS],
                Activation::Relu,
                init,
            ),
        }
    }
}

/// One for an unambiguous prompt, three for an ambiguous one.
pub const NUM_MASK_TOKENS: usize = 4;

impl MaskOutput {
    /// The mask tokens that answer.
    pub(super) fn tokens(self) -> std::ops::Range<usize> {
        match self {
            Self::Single => 0..1,
            Self::Multi => 1..NUM_MASK_TOKENS,
            Self::All => 0..NUM_MASK_TOKENS,
        }
    }
}

/// The decoder.
#[derive(Module, Debug)]
pub struct MaskDecoder {
    /// Tokens and image attend to each other.
    pub transformer: TwoWayTransformer,
    /// Read by the IoU head.
    pub iou_token: Embedding,
    /// Read by the hyper-networks.
    pub mask_tokens: Embedding,
    /// Image tokens to four times the resolution.
    pub output_upscaling: OutputUpscaling,
    /// One per mask token: token to the weights of a per-pixel product.
    pub output_hypernetworks_mlps: Vec<Mlp>,
    /// IoU estimate per mask token.
    pub iou_prediction_head: Mlp,
}

impl MaskDecoder {
    /// `image_embeddings` [P, C, h, w] (already paired with the prompts), `image_pe` [1, h, w, C],
    /// `sparse` [P, tokens, C], `dense` [P | 1, h | 1, w | 1, C] -> logits [P, M, 4h, 4w].
    pub fn forward(
        &self,
        image_embeddings: Tensor<4>,
        image_pe: Tensor<4>,
        sparse: Option<Tensor<3>>,
        dense: Tensor<4>,
        output: MaskOutput,
    ) -> MaskLogits {
        let [p, c, h, w] = image_embeddings.dims();
        let image = (image_embeddings.permute([0, 2, 3, 1]) + dense).reshape([p, h * w, c]);
        let tokens = self.tokens(p, sparse);
        let (tokens, image) = self.transformer.forward(image, image_pe.reshape([1, h * w, c]), tokens);

        let upscaled = self.output_upscaling.forward(image.reshape([p, h, w, c])); // [P, 4h, 4w, C/8]
        let upscaled = upscaled.reshape([p, 16 * h * w, c / 8]).swap_dims(1, 2); //   [P, C/8, 16hw]
        let (hyper, predicted_iou) = self.heads(tokens, output);
        let masks = hyper.dims()[1];
        let low_res_logits = hyper.matmul(upscaled).reshape([p, masks, 4 * h, 4 * w]);
        MaskLogits { low_res_logits, predicted_iou }
    }

    /// `tokens` [P, T, C] -> weights of each mask's per-pixel product [P, M, C/8] and its predicted IoU [P, M].
    pub(super) fn heads(&self, tokens: Tensor<3>, output: MaskOutput) -> (Tensor<3>, Tensor<2>) {
        let [p, _, c] = tokens.dims();
        let range = output.tokens();
        let hyper = range.clone().map(|i| {
            let token = tokens.clone().narrow(1, 1 + i, 1).reshape([p, c]);
            self.output_hypernetworks_mlps[i].forward(token).unsqueeze_dim::<3>(1) // [P, 1, C/8]
        });
        let hyper = Tensor::cat(hyper.collect(), 1); //                               [P, M, C/8]
        let iou = self.iou_prediction_head.forward(tokens.narrow(1, 0, 1).reshape([p, c])); // [P, 4]
        (hyper, iou.narrow(1, range.start, range.len()))
    }

    /// IoU token, mask tokens, prompt tokens: [P, 5 + tokens, C].
    pub(super) fn tokens(&self, p: usize, sparse: Option<Tensor<3>>) -> Tensor<3> {
        let own = Tensor::cat(vec![self.iou_token.weight.val(), self.mask_tokens.weight.val()], 0);
        let [n, c] = own.dims();
        let own = own.unsqueeze_dim::<3>(0).expand([p, n, c]);
        match sparse {
            Some(sparse) => Tensor::cat(vec![own, sparse], 1),
            None => own,
        }
    }
}

/// Two transposed convolutions: [P, h, w, C] -> [P, 4h, 4w, C/8].
#[derive(Module, Debug)]
pub struct OutputUpscaling {
    /// C -> C/4.
    pub _0: ConvTranspose2d,
    /// Over C/4 channels.
    pub _1: LayerNorm,
    /// C/4 -> C/8.
    pub _3: ConvTranspose2d,
}

impl OutputUpscaling {
    fn new(dim: usize, init: &mut Init) -> Self {
        Self {
            _0: ConvTranspose2d::new(dim, dim / 4, init),
            _1: LayerNorm::new(dim / 4, 1e-6, init),
            _3: ConvTranspose2d::new(dim / 4, dim / 8, init),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = ops::gelu(self._1.forward(self._0.forward(x)));
        ops::gelu(self._3.forward(x))
    }
}
