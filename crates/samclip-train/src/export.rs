//! The trained model as a file: exactly the student's tensors in f16 or f32, with metadata.

use crate::error::TrainError;
use crate::parameters::Parameters;
use crate::recipe::{ModelFormat, Recipe};
use samclip_models::sam_clip::SamClipConfig;
use samclip_weights::{DType, StateDict, TensorData, write_safetensors};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::path::Path;

/// Name of the exported model in a run directory.
pub fn file_name(format: ModelFormat) -> &'static str {
    match format {
        ModelFormat::F16 => "model_f16.safetensors",
        ModelFormat::F32 => "model_f32.safetensors",
    }
}

/// What the file says about itself.
pub struct About<'a> {
    /// The recipe.
    pub recipe: &'a Recipe,
    /// Its text.
    pub text: &'a str,
    /// Sizes of the student.
    pub config: &'a SamClipConfig,
    /// Hash of the text table's names.
    pub names_hash: &'a str,
    /// Steps done.
    pub step: usize,
}

/// Writes the student's tensors, their running means where the recipe keeps them;
/// auxiliary tensors stay behind.
pub fn write_model(path: &Path, parameters: &Parameters, about: &About) -> Result<(), TrainError> {
    let dtype = match about.recipe.checkpoint.model {
        ModelFormat::F16 => DType::F16,
        ModelFormat::F32 => DType::F32,
    };
    let mut state = StateDict::new();
    for t in parameters.model_tensors() {
        state.insert(t.name.clone(), TensorData::from_f32_as(dtype, &t.shape, t.exported()));
    }
    let model = &about.recipe.model;
    for (key, value) in [
        ("variant", model.variant.clone()),
        ("config", serde_json::to_string(about.config).unwrap_or_default()),
        ("names_sha256", about.names_hash.to_owned()),
        ("logit_scale", model.logit_scale.to_string()),
        ("asked_logit", model.asked_logit.to_string()),
        ("recipe", about.recipe.name.clone()),
        ("recipe_sha256", sha256(about.text.as_bytes())),
        ("steps", about.step.to_string()),
    ] {
        state.metadata.insert(key.to_owned(), value);
    }
    for (key, value) in [("background_logit", model.background_logit), ("classify_tokens", model.classify_tokens)] {
        if let Some(value) = value {
            state.metadata.insert(key.to_owned(), value.to_string());
        }
    }
    write_safetensors(path, &state)
        .map_err(|error| TrainError::Save { step: about.step, message: error.to_string() })
}

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Writes beside and renames.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, bytes).map_err(TrainError::io(&temporary))?;
    std::fs::rename(&temporary, path).map_err(TrainError::io(path))
}
