//! Segment Anything (arXiv 2304.02643): image encoder, prompt encoder, mask decoder.
//!
//! Reference: segment_anything/modeling/sam.py, `Sam`. Parity: tests/parity_sam.rs.

mod folded_decoder;
mod image_encoder;
mod mask_decoder;
mod positions;
mod prompt_encoder;
mod stem;
mod transformer;

use burn::module::Module;
use burn::tensor::{Int, Tensor, TensorData};

use crate::init::Init;
use crate::ops::{self, Packable};
use crate::tiny_vit::{TinyVit, TinyVitConfig};

pub use image_encoder::{Attention, Block, Neck, VitDet, VitDetConfig, rel_pos_rows};
pub(crate) use image_encoder::{window_partition, window_unpartition};
pub use mask_decoder::{MaskDecoder, MaskDecoderConfig};
pub use positions::fit_positions;
pub use prompt_encoder::{PositionEmbeddingRandom, PromptEncoder, PromptInput};
pub use stem::{PatchEmbed, StageSize, Stem, StemBlock, StemStage};
pub use transformer::{TwoWayAttentionBlock, TwoWayTransformer};

/// The image encoders that can stand in SAM: pixels [B, 3, H, W] -> [B, C, H/16, W/16].
#[derive(Module, Debug)]
pub enum ImageEncoder {
    /// SAM's own ViT with windowed and global attention.
    VitDet(VitDet),
    /// MobileSAM's.
    TinyVit(TinyVit),
}

impl ImageEncoder {
    /// Image embedding, channels first.
    pub fn forward(&self, pixels: Tensor<4>) -> Tensor<4> {
        match self {
            Self::VitDet(encoder) => encoder.forward(pixels),
            Self::TinyVit(encoder) => encoder.forward(pixels),
        }
    }

    /// What can be packed of the blocks, under their names in a checkpoint.
    pub fn packable(&self) -> Vec<Packable> {
        match self {
            Self::VitDet(encoder) => {
                let of = |(i, block): (usize, &Block)| block.packable(&format!("image_encoder.blocks.{i}"));
                encoder.blocks.iter().enumerate().filter_map(of).collect()
            }
            Self::TinyVit(_) => vec![],
        }
    }

    /// Output of the last block, before the neck: [B, h, w, D].
    pub fn tokens(&self, pixels: Tensor<4>) -> Tensor<4> {
        match self {
            Self::VitDet(encoder) => encoder.tokens(pixels),
            Self::TinyVit(encoder) => encoder.tokens(pixels),
        }
    }

    /// The neck: [B, h, w, D] -> [B, C, h, w].
    pub fn neck(&self, tokens: Tensor<4>) -> Tensor<4> {
        match self {
            Self::VitDet(encoder) => encoder.neck.forward(tokens),
            Self::TinyVit(encoder) => encoder.neck.forward(tokens),
        }
    }
}

/// Sizes of a SAM.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamConfig {
    /// The image encoder.
    pub image_encoder: VitDetConfig,
    /// The mask decoder; its `transformer_dim` must equal the encoder's `out_chans`.
    pub mask_decoder: MaskDecoderConfig,
}

impl SamConfig {
    /// sam_vit_b_01ec64.pth.
    pub fn vit_b() -> Self {
        Self { image_encoder: VitDetConfig::vit_b(), mask_decoder: MaskDecoderConfig::SAM }
    }

    /// sam_vit_l_0b3195.pth.
    pub fn vit_l() -> Self {
        Self { image_encoder: VitDetConfig::vit_l(), mask_decoder: MaskDecoderConfig::SAM }
    }

    /// sam_vit_h_4b8939.pth.
    pub fn vit_h() -> Self {
        Self { image_encoder: VitDetConfig::vit_h(), mask_decoder: MaskDecoderConfig::SAM }
    }

    /// The model with initial values from `init`.
    pub fn init(&self, init: &mut Init) -> Sam {
        Sam {
            image_encoder: ImageEncoder::VitDet(self.image_encoder.init(init)),
            prompt_encoder: PromptEncoder::new(self.mask_decoder.transformer_dim, init),
            mask_decoder: self.mask_decoder.init(init),
        }
    }
}

/// SAM.
#[derive(Module, Debug)]
pub struct Sam {
    /// Pixels to image embedding.
    pub image_encoder: ImageEncoder,
    /// Points, boxes and masks to embeddings.
    pub prompt_encoder: PromptEncoder,
    /// Embeddings to masks.
    pub mask_decoder: MaskDecoder,
}

impl Sam {
    /// What can be packed, under its names in a checkpoint.
    pub fn packable(&self) -> Vec<Packable> {
        self.image_encoder.packable()
    }
}

/// Which of the decoder's four mask tokens answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskOutput {
    /// Token 0 (`multimask_output=False`).
    Single,
    /// Tokens 1 to 3 (`multimask_output=True`).
    Multi,
    /// All four: distillation, and the ONNX export's selection rule.
    All,
}

/// The decoder's answer.
#[derive(Clone, Debug)]
pub struct MaskLogits {
    /// [P, M, 4h, 4w]; above 0 is mask.
    pub low_res_logits: Tensor<4>,
    /// [P, M], the model's estimate of its own IoU.
    pub predicted_iou: Tensor<2>,
}

/// mobile_sam.pt: TinyViT as image encoder, SAM's prompt encoder and mask decoder.
pub fn mobile_sam(init: &mut Init) -> Sam {
    let decoder = MaskDecoderConfig::SAM;
    Sam {
        image_encoder: ImageEncoder::TinyVit(TinyVitConfig::MOBILE_SAM.init(init)),
        prompt_encoder: PromptEncoder::new(decoder.transformer_dim, init),
        mask_decoder: decoder.init(init),
    }
}

impl Sam {
    /// Image embedding. `pixels` [B, 3, H, W], normalised, H and W multiples of 16 ->
    /// [B, C, H/16, W/16].
    pub fn encode(&self, pixels: Tensor<4>) -> Tensor<4> {
        self.image_encoder.forward(pixels)
    }

    /// Masks for P prompts. `image_index[p]` names the image of prompt p: the pairing is explicit,
    /// where the reference repeats one embedding over all prompts.
    pub fn decode(
        &self,
        image_embeddings: Tensor<4>,
        image_index: &[usize],
        prompts: &PromptInput,
        output: MaskOutput,
    ) -> MaskLogits {
        let heads = (&self.prompt_encoder, &self.mask_decoder);
        decode(heads, image_embeddings, image_index, prompts, (output, f32::NEG_INFINITY))
    }

    /// [`Sam::decode`] for a caller that drops masks whose predicted IoU is not above `min_iou`:
    /// where a prompt has no other, its logits may be zeros.
    pub fn decode_above(
        &self,
        image_embeddings: Tensor<4>,
        image_index: &[usize],
        prompts: &PromptInput,
        output: MaskOutput,
        min_iou: f32,
    ) -> MaskLogits {
        let heads = (&self.prompt_encoder, &self.mask_decoder);
        decode(heads, image_embeddings, image_index, prompts, (output, min_iou))
    }
}

/// Prompt encoder and mask decoder on given embeddings: shared by SAM and SAM-CLIP.
pub fn decode(
    (prompt_encoder, mask_decoder): (&PromptEncoder, &MaskDecoder),
    image_embeddings: Tensor<4>,
    image_index: &[usize],
    prompts: &PromptInput,
    (output, min_iou): (MaskOutput, f32),
) -> MaskLogits {
    let [images, c, h, w] = image_embeddings.dims();
    let sparse = prompt_encoder.sparse(prompts, [h * 16, w * 16]);
    let dense = prompt_encoder.dense(prompts, [h, w]);
    let image_pe = prompt_encoder.dense_pe([h, w]);
    let plain = ops::two_way::available(&image_embeddings)
        && ops::two_way::available(&dense)
        && ops::two_way::available(&image_pe)
        && ops::two_way::available(&mask_decoder.iou_token.weight.val());
    if plain && images == 1 && !image_index.is_empty() {
        let image = image_embeddings.reshape([c, h, w]);
        let prompts = (image_index.len(), sparse);
        // Rounded tokens are where most of bf16's error in a mask came from, and cost next to nothing.
        return ops::in_f32(|| mask_decoder.forward_folded(image, image_pe, prompts, dense, (output, min_iou)));
    }
    let image_embeddings = pair(image_embeddings, image_index); // [P, C, h, w]
    mask_decoder.forward(image_embeddings, image_pe, sparse, dense, output)
}

/// Repeats image embeddings so that row p is the image of prompt p.
fn pair(image_embeddings: Tensor<4>, image_index: &[usize]) -> Tensor<4> {
    let [b, c, h, w] = image_embeddings.dims();
    if b == 1 {
        return image_embeddings.expand([image_index.len(), c, h, w]);
    }
    let index: Vec<i64> = image_index.iter().map(|&i| i as i64).collect();
    let count = index.len();
    let device = image_embeddings.device();
    let index = Tensor::<1, Int>::from_data(TensorData::new(index, [count]), &device);
    image_embeddings.select(0, index)
}
