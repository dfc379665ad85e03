//! A SAM or SAM-CLIP for timing: with weights from a file, built in, or seeded.

use samclip_image::{Image, prepare_sam};
use samclip_models::init::Init;
use samclip_models::sam::{MaskDecoderConfig, Sam, SamConfig, VitDetConfig};
use samclip_models::sam_clip::SamClip;
use samclip_models::tiny_vit::TinyVitConfig;
use samclip_models::variant::Variant;
use samclip_models::{Device, Tensor, cost};
use samclip_weights::{Packed, StateDict};

use super::BenchSpec;
use crate::decode::{EmbeddedImage, MaskHead};
use crate::error::PredictError;
use crate::files::open_weights;
use crate::model::{init_sam, sam_clip_config};
use crate::packed::PackedWords;
use crate::sam::SamLike;
use crate::tensors::pixels;

/// A checkpoint, and what of it is packed.
type Stored = (StateDict, Option<Packed>);

enum Kind {
    Sam(Box<Sam>),
    SamClip(Box<SamClip>),
}

/// Sizes of the image encoder.
pub enum Encoder {
    VitDet(VitDetConfig),
    TinyVit(TinyVitConfig),
}

/// Image encoder and mask decoder, with their sizes.
pub struct Net {
    kind: Kind,
    encoder: Encoder,
    decoder: MaskDecoderConfig,
    side: usize,
}

impl Net {
    /// The model, and where its weights come from.
    ///
    /// # Errors
    /// A model without a mask decoder, a file that does not fit.
    pub fn load(variant: Variant, spec: &BenchSpec) -> Result<(Self, &'static str), PredictError> {
        let device = Device::default();
        let (stored, source) = match (&spec.weights, variant) {
            (Some(path), _) => (Some(open_weights(variant, Some(path))?), "file"),
            (None, Variant::SamClipNano) => (Some(open_weights(variant, None)?), "built in"),
            (None, _) => (None, "seeded"),
        };
        let mut init = match stored {
            Some(_) => Init::zeros(&device),
            None => Init::seeded(spec.seed, &device),
        };
        let net = match variant {
            Variant::SamClipNano | Variant::SamClipVitB => sam_clip(variant, stored, &mut init)?,
            _ => sam(variant, stored, &mut init)?,
        };
        Ok((net, source))
    }

    /// Image side that the model is made for.
    pub fn side(&self) -> usize {
        self.side
    }

    /// Image side that photos are resized to.
    pub fn set_side(&mut self, side: usize) {
        self.side = side;
    }

    /// Sizes of the mask decoder.
    pub fn decoder(&self) -> &MaskDecoderConfig {
        &self.decoder
    }

    /// Multiply-adds of one image.
    pub fn encoder_cost(&self, side: usize) -> u64 {
        match &self.encoder {
            Encoder::VitDet(config) => cost::vit_det(config, [side, side]),
            Encoder::TinyVit(config) => cost::tiny_vit(config, [side, side]),
        }
    }

    /// [B, 3, H, W] -> [B, C, h, w].
    pub fn encode(&self, pixels: Tensor<4>) -> Tensor<4> {
        match &self.kind {
            Kind::Sam(sam) => sam.encode(pixels),
            Kind::SamClip(model) => model.sam_embedding(model.tokens(pixels)),
        }
    }
}

impl SamLike for Net {
    fn embed(&self, image: &Image) -> Result<EmbeddedImage, PredictError> {
        let prepared = prepare_sam(image, self.side);
        let embedding = self.encode(pixels(&prepared, &Device::default()));
        Ok(EmbeddedImage { embedding, transform: prepared.transform })
    }

    fn head(&self) -> &dyn MaskHead {
        match &self.kind {
            Kind::Sam(sam) => sam.as_ref(),
            Kind::SamClip(model) => model.as_ref(),
        }
    }
}

fn sam(variant: Variant, stored: Option<Stored>, init: &mut Init) -> Result<Net, PredictError> {
    let (encoder, decoder) = sam_sizes(variant)?;
    let sam = init_sam(variant, init);
    let sam = match stored {
        Some((stored, packed)) => PackedWords::of_file(packed).load(sam, &stored, Sam::packable)?,
        None => sam,
    };
    Ok(Net { kind: Kind::Sam(Box::new(sam)), encoder, decoder, side: 1024 })
}

/// Sizes of a SAM; CLIP has no mask decoder.
fn sam_sizes(variant: Variant) -> Result<(Encoder, MaskDecoderConfig), PredictError> {
    let config = match variant {
        Variant::SamVitB => SamConfig::vit_b(),
        Variant::SamVitL => SamConfig::vit_l(),
        Variant::SamVitH => SamConfig::vit_h(),
        Variant::MobileSam => {
            return Ok((Encoder::TinyVit(TinyVitConfig::MOBILE_SAM), MaskDecoderConfig::SAM));
        }
        other => {
            return Err(PredictError::NoRole {
                model: other.name().to_owned(),
                role: "encode an image for masks",
                able: crate::model::SEGMENTERS,
            });
        }
    };
    Ok((Encoder::VitDet(config.image_encoder), config.mask_decoder))
}

fn sam_clip(variant: Variant, stored: Option<Stored>, init: &mut Init) -> Result<Net, PredictError> {
    let config = sam_clip_config(variant, stored.as_ref().map_or(&StateDict::new(), |(stored, _)| stored))?;
    let model = config.init(init);
    let model = match stored {
        Some((stored, packed)) => PackedWords::of_file(packed).load(model, &stored, SamClip::packable)?,
        None => model,
    };
    let side = config.sam.image_encoder.img_size;
    let (encoder, decoder) = (Encoder::VitDet(config.sam.image_encoder), config.sam.mask_decoder);
    Ok(Net { kind: Kind::SamClip(Box::new(model)), encoder, decoder, side })
}
