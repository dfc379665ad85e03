//! Forward and backward of one transformer block: the unit of a training step.

use samclip_models::clip::{ClipConfig, ImageTower, TextConfig};
use samclip_models::init::Init;
use samclip_models::sam::{Block, SamConfig, VitDetConfig};
use samclip_models::sam_clip::SamClipConfig;
use samclip_models::variant::Variant;
use samclip_models::{Device, Tensor, cost};

use super::{Bench, BenchSpec, Details, clip_sizes, noise, whole};
use crate::error::PredictError;

/// Backward multiplies twice for every product of the forward pass; what a kernel computes again is not counted.
const FORWARD_AND_BACKWARD: u64 = 3;

/// One block with gradients of all its parameters and of its input; the loss is the sum of the output.
pub fn train_step(variant: Variant, spec: &BenchSpec) -> Result<Bench, PredictError> {
    let sam = match variant {
        Variant::SamVitB | Variant::SamClipVitB => SamConfig::vit_b().image_encoder,
        Variant::SamVitL => SamConfig::vit_l().image_encoder,
        Variant::SamVitH => SamConfig::vit_h().image_encoder,
        Variant::SamClipNano => SamClipConfig::nano().sam.image_encoder,
        Variant::MobileSam => {
            let able =
                "sam_vit_b, sam_vit_l, sam_vit_h, sam_clip_vit_b, sam_clip_nano, clip_vit_b16, clip_vit_l14";
            return Err(PredictError::NoRole {
                model: variant.name().to_owned(),
                role: "train a single block",
                able,
            });
        }
        _ => return clip_block(variant, spec),
    };
    sam_block(variant, &sam, spec)
}

/// A global block of SAM's image encoder, on the grid of an image of `size` pixels.
fn sam_block(variant: Variant, config: &VitDetConfig, spec: &BenchSpec) -> Result<Bench, PredictError> {
    let size = whole(spec.size.unwrap_or(config.img_size), 16)?;
    let (batch, grid, dim) = (spec.batch.unwrap_or(1), size / 16, config.embed_dim);
    let device = Device::default().autodiff();
    let mut init = Init::seeded(spec.seed, &device);
    let block = Block::new_global(dim, config.num_heads, config.mlp_ratio, config.grid(), &mut init);
    let x = noise([batch, grid, grid, dim], spec.seed, &device);
    let macs = FORWARD_AND_BACKWARD * batch as u64 * cost::vit_det_global_block(config, [grid, grid]);
    let run = move || Ok(backward(block.forward(x.clone())));
    Ok(Bench::of(variant.name(), "seeded", [size, batch], Some(macs), Box::new(run)))
}

/// A block of CLIP's image tower, on the tokens of images of `size` pixels.
fn clip_block(variant: Variant, spec: &BenchSpec) -> Result<Bench, PredictError> {
    let mut config = clip_sizes(variant)?;
    let size = whole(spec.size.unwrap_or(config.vision.image_size), config.vision.patch_size)?;
    let batch = spec.batch.unwrap_or(16);
    let (tokens, dim) = (1 + (size / config.vision.patch_size).pow(2), config.vision.width);
    config.vision.layers = 1;
    let device = Device::default().autodiff();
    let blocks = image_tower(&config, &mut Init::seeded(spec.seed, &device)).transformer;
    let x = noise([batch, tokens, dim], spec.seed, &device);
    let macs = FORWARD_AND_BACKWARD * batch as u64 * cost::clip_block(dim, tokens);
    let run = move || Ok(backward(blocks.forward(x.clone(), false)));
    Ok(Bench::of(variant.name(), "seeded", [size, batch], Some(macs), Box::new(run)))
}

fn backward<const D: usize>(y: Tensor<D>) -> Details {
    drop(y.sum().backward());
    Details::new()
}

/// The image tower without the weight of a text tower beside it.
pub fn image_tower(config: &ClipConfig, init: &mut Init) -> ImageTower {
    let text = TextConfig { context_length: 1, vocab_size: 1, width: 1, layers: 0, heads: 1 };
    ClipConfig { text, ..config.clone() }.init(init).visual
}
