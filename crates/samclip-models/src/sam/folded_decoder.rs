//! The mask decoder for inference: linear maps of the image side folded into the prompt tokens.
//!
//! The same function as [`MaskDecoder::forward`]'s modules (`segment_anything`
//! `modeling/{transformer,mask_decoder}.py`), summed in another order. An attention between t
//! tokens and N image tokens multiplies every image token by W_k, W_v, W_q or W_o; here those
//! matrices multiply the t tokens instead (`q . W_k x = W_k^T q . x`), and the image side is
//! [`crate::ops::two_way`]. Deviation: rounding only. Parity: tests/parity_sam.rs.

use burn::tensor::Tensor;

use super::mask_decoder::{MaskDecoder, OutputUpscaling};
use super::transformer::{DecoderAttention, TwoWayAttentionBlock, TwoWayTransformer};
use super::{MaskLogits, MaskOutput};
use crate::layers::ConvTranspose2d;
use crate::ops::two_way::{ImageSide, ImageTokens, MaskMaps, Update, Upscaling};

/// Prompts whose image tokens are held at once.
const GROUP: usize = 16;

impl MaskDecoder {
    /// `image` [C, h, w], `image_pe` [1, h, w, C], `sparse` [P, tokens, C], `dense` [P | 1, h | 1, w | 1, C];
    /// see [`MaskDecoder::forward`]. Prompts without a mask above `min_iou` get zeros for logits.
    /// Panics where [`crate::ops::two_way::available`] says no.
    pub(super) fn forward_folded(
        &self,
        image: Tensor<3>,
        image_pe: Tensor<4>,
        (prompts, sparse): (usize, Option<Tensor<3>>),
        dense: Tensor<4>,
        (output, min_iou): (MaskOutput, f32),
    ) -> MaskLogits {
        let [c, h, w] = image.dims();
        let image = image.permute([1, 2, 0]).unsqueeze::<4>() + dense; // [P | 1, h, w, C]
        let pe = image_pe.reshape([h * w, c]);
        let tokens = self.tokens(prompts, sparse);
        let upscaling = self.output_upscaling.packed();
        // One image for all prompts, unless masks are among them.
        let images = image.dims()[0];
        let of = |i: usize| ImageTokens::new(image.clone().narrow(0, i, 1).reshape([h * w, c]), pe.clone());
        let group = if images == 1 { GROUP } else { 1 };
        let mut seen = of(0);
        let mut maps = MaskMaps::new([prompts, output.tokens().len(), 4 * h, 4 * w]);
        let mut ious = Vec::new();
        for first in (0..prompts).step_by(group) {
            if images > 1 && first > 0 {
                seen = of(first);
            }
            let tokens = tokens.clone().narrow(0, first, group.min(prompts - first));
            let mut side = seen.side(tokens.dims()[0]);
            let tokens = self.transformer.fold(&mut side, tokens);
            let (hyper, predicted_iou) = self.heads(tokens, output);
            let keep = any_above(&predicted_iou, min_iou);
            side.masks(&upscaling, hyper, &keep, first, &mut maps);
            ious.push(predicted_iou);
        }
        MaskLogits { low_res_logits: maps.finish(), predicted_iou: Tensor::cat(ious, 0) }
    }
}

/// Prompts with a mask whose IoU [P, M] is above `min_iou`.
fn any_above(iou: &Tensor<2>, min_iou: f32) -> Vec<bool> {
    let [p, m] = iou.dims();
    let values = iou.to_data().try_into_vec::<f32>().unwrap_or_else(|_| vec![f32::INFINITY; p * m]);
    // Not a number is no reason to leave a mask out.
    values.chunks(m).map(|iou| iou.iter().any(|v| !(*v <= min_iou))).collect()
}

impl OutputUpscaling {
    /// The weights as the kernel wants them.
    fn packed(&self) -> Upscaling {
        let (weight, bias) = self._1.parts();
        let part = |c: &ConvTranspose2d| (c.weight.val(), c.bias.val());
        Upscaling::new(part(&self._0), (weight, bias, self._1.eps()), part(&self._3))
    }
}

impl TwoWayTransformer {
    /// Tokens [P, T, C] after all blocks and the last look; the image side is left updated.
    fn fold(&self, side: &mut ImageSide, tokens: Tensor<3>) -> Tensor<3> {
        let token_pe = tokens.clone();
        let (mut tokens, mut update) = (tokens, None);
        for layer in &self.layers {
            (tokens, update) = layer.fold(side, update, tokens, token_pe.clone());
        }
        let q = tokens.clone() + token_pe;
        let tokens = tokens + self.final_attn_token_to_image.read_image(side, update, q);
        self.norm_final_attn.forward(tokens)
    }
}

impl TwoWayAttentionBlock {
    /// Tokens after the block, and what it does to the image: done in the next pass over it.
    fn fold(
        &self,
        side: &mut ImageSide,
        update: Option<Update>,
        tokens: Tensor<3>,
        token_pe: Tensor<3>,
    ) -> (Tensor<3>, Option<Update>) {
        let tokens = self.norm1.forward(self.tokens_to_tokens(tokens, token_pe.clone()));
        let q = tokens.clone() + token_pe.clone();
        let tokens = tokens + self.cross_attn_token_to_image.read_image(side, update, q);
        let tokens = self.norm2.forward(tokens);
        let tokens = self.norm3.forward(tokens.clone() + self.mlp.forward(tokens));

        let attention = &self.cross_attn_image_to_token;
        let k = attention.k_proj.forward(tokens.clone() + token_pe) * attention.scale();
        let v = attention.v_proj.forward(tokens.clone());
        let (q_weight, q_bias) = attention.q_proj.parts();
        let (o_weight, shift) = attention.out_proj.parts();
        let (weight, bias) = self.norm4.parts();
        let update = Update {
            key_bias: attention.per_head_dot(k.clone(), q_bias),
            keys: attention.fold(k, q_weight),
            values: attention.fold(v, o_weight.swap_dims(0, 1)),
            shift,
            norm: (weight, bias, self.norm4.eps()),
        };
        (tokens, Some(update))
    }
}

impl DecoderAttention {
    /// Attention of tokens `q` [P, T, C] over the image, keys and values alike.
    fn read_image(&self, side: &mut ImageSide, update: Option<Update>, q: Tensor<3>) -> Tensor<3> {
        let q = self.q_proj.forward(q) * self.scale();
        // The keys' bias adds the same to every score of a query: softmax does not see it.
        let (k_weight, _) = self.k_proj.parts();
        let (v_weight, v_bias) = self.v_proj.parts();
        let read = side.pass(update, self.fold(q, k_weight));
        self.out_proj.forward(self.unfold(read, v_weight) + v_bias.unsqueeze::<3>())
    }

    /// `x` [P, T, inner] times each head's rows of `weight` [inner, C] -> [P, T, heads, C].
    fn fold(&self, x: Tensor<3>, weight: Tensor<2>) -> Tensor<4> {
        let ([p, t, inner], [_, c], heads) = (x.dims(), weight.dims(), self.num_heads());
        let x = x.reshape([p * t, heads, inner / heads]).swap_dims(0, 1); // [heads, P·T, c]
        let y = x.matmul(weight.reshape([heads, inner / heads, c])); //      [heads, P·T, C]
        y.swap_dims(0, 1).reshape([p, t, heads, c])
    }

    /// `x` [P, T, heads, C] times each head's rows of `weight` [inner, C], transposed -> [P, T, inner].
    fn unfold(&self, x: Tensor<4>, weight: Tensor<2>) -> Tensor<3> {
        let ([p, t, heads, c], [inner, _]) = (x.dims(), weight.dims());
        let weight = weight.reshape([heads, inner / heads, c]).swap_dims(1, 2); // [heads, C, c]
        let y = x.reshape([p * t, heads, c]).swap_dims(0, 1).matmul(weight); //    [heads, P·T, c]
        y.swap_dims(0, 1).reshape([p, t, inner])
    }

    /// Inner product of `x` [P, T, inner] with `bias` [inner] for each head: [P, T, heads].
    fn per_head_dot(&self, x: Tensor<3>, bias: Tensor<1>) -> Tensor<3> {
        let ([p, t, inner], heads) = (x.dims(), self.num_heads());
        (x * bias.unsqueeze::<3>()).reshape([p, t, heads, inner / heads]).sum_dim(3).reshape([p, t, heads])
    }
}
