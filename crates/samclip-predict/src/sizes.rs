//! A variant's sizes: its configuration, and the tensors that a checkpoint of it holds.

use samclip_models::clip::ClipConfig;
use samclip_models::init::Init;
use samclip_models::sam::{Sam, SamConfig, mobile_sam};
use samclip_models::sam_clip::SamClipConfig;
use samclip_models::variant::Variant;
use samclip_models::{Device, state};
use samclip_weights::StateDict;

use crate::error::PredictError;
use crate::settings::metadata_error;

/// Name and shape of every tensor that a checkpoint of the variant must hold.
///
/// # Errors
/// A configuration stored in `state` that does not parse.
pub fn expected_tensors(variant: Variant, state: &StateDict) -> Result<Vec<(String, Vec<usize>)>, PredictError> {
    let mut init = Init::zeros(&Device::default());
    Ok(match variant {
        Variant::SamVitB | Variant::SamVitL | Variant::SamVitH | Variant::MobileSam => {
            state::named_shapes(&init_sam(variant, &mut init))
        }
        Variant::ClipVitB16 | Variant::ClipVitL14 | Variant::ClipVitB16Quickgelu | Variant::ClipVitL14Quickgelu => {
            clip_config(variant).expected_tensors()
        }
        Variant::SamClipVitB | Variant::SamClipNano => {
            state::named_shapes(&sam_clip_config(variant, state)?.init(&mut init))
        }
    })
}

/// A SAM variant with initial values from `init`.
pub fn init_sam(variant: Variant, init: &mut Init) -> Sam {
    match variant {
        Variant::MobileSam => mobile_sam(init),
        Variant::SamVitL => SamConfig::vit_l().init(init),
        Variant::SamVitH => SamConfig::vit_h().init(init),
        _ => SamConfig::vit_b().init(init),
    }
}

/// Sizes of a CLIP variant.
pub fn clip_config(variant: Variant) -> ClipConfig {
    match variant {
        Variant::ClipVitL14 => ClipConfig::vit_l14(),
        Variant::ClipVitB16Quickgelu => ClipConfig::vit_b16_quickgelu(),
        Variant::ClipVitL14Quickgelu => ClipConfig::vit_l14_quickgelu(),
        _ => ClipConfig::vit_b16(),
    }
}

/// Sizes of a SAM-CLIP: those stored in the file (`config`, JSON), else the variant's.
///
/// # Errors
/// A stored configuration that does not parse.
pub fn sam_clip_config(variant: Variant, state: &StateDict) -> Result<SamClipConfig, PredictError> {
    match state.metadata.get("config") {
        Some(json) => serde_json::from_str(json).map_err(|error| metadata_error("config", &error.to_string())),
        None if variant == Variant::SamClipVitB => Ok(SamClipConfig::vit_b()),
        None => Ok(SamClipConfig::nano()),
    }
}
