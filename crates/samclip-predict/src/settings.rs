//! Inputs and calibration of a SAM-CLIP: the variant's, changed by what its weight file states.

use samclip_models::sam_clip::SamClipConfig;
use samclip_models::variant::Variant;
use samclip_weights::StateDict;

use crate::contrast;
use crate::error::PredictError;
use crate::sam_clip::{Geometry, SamClipSettings};

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

pub(crate) fn metadata_error(key: &str, detail: &str) -> PredictError {
    PredictError::Check(format!("metadata `{key}` of the weight file does not parse ({detail})"))
}

/// Inputs and calibration: the variant's, changed by what the file's metadata states.
pub(crate) fn settings(variant: Variant, config: &SamClipConfig, state: &StateDict) -> Result<SamClipSettings, PredictError> {
    let side = config.sam.image_encoder.img_size;
    let mut settings = match variant {
        Variant::SamClipVitB => SamClipSettings {
            segment: (Geometry::LongestSide, side),
            classify: (Geometry::CenterCrop, 336),
            dense: (Geometry::Squash, 448),
            logit_scale: 100.0,
            background_logit: None,
            asked_logit: 0.0,
            classify_tokens: 0.0,
            contrast: vec![owned(&crate::text::BACKGROUND_WORDS)],
        },
        _ => SamClipSettings {
            segment: (Geometry::LongestSide, side),
            classify: (Geometry::LongestSide, side),
            dense: (Geometry::LongestSide, side),
            logit_scale: 20.0,
            background_logit: Some(5.0),
            asked_logit: 0.0,
            classify_tokens: 0.0,
            contrast: [contrast::ANIMALS_AND_VEHICLES, contrast::CLOTHING, contrast::STREET].map(owned).to_vec(),
        },
    };
    let number = |key: &str| -> Result<Option<f32>, PredictError> {
        let Some(text) = state.metadata.get(key) else { return Ok(None) };
        let value = text.parse::<f32>().ok().filter(|v| v.is_finite());
        value.map(Some).ok_or_else(|| metadata_error(key, text))
    };
    if let Some(scale) = number("logit_scale")? {
        settings.logit_scale = scale;
    }
    if let Some(logit) = number("background_logit")? {
        settings.background_logit = Some(logit);
    }
    if let Some(logit) = number("asked_logit")? {
        settings.asked_logit = logit;
    }
    if let Some(weight) = number("classify_tokens")? {
        settings.classify_tokens = weight;
    }
    if let Some(json) = state.metadata.get("contrast_names") {
        settings.contrast = serde_json::from_str(json).map_err(|e| metadata_error("contrast_names", &e.to_string()))?;
    }
    Ok(settings)
}
