//! A model's files: weights under the reference's names, their hash, text tables.

use std::path::Path;

use samclip_models::text_table::TextTable;
use samclip_models::variant::Variant;
use samclip_weights::{Packed, StateDict};

use crate::cache::{bytes_hash, file_hash};
use crate::error::PredictError;
use crate::model::ModelSpec;

/// Identifies the weights: the SHA-256 of the file, or of what is built in.
///
/// # Errors
/// A file that cannot be read.
pub fn weights_hash(spec: &ModelSpec) -> Result<String, PredictError> {
    match &spec.weights {
        Some(path) => file_hash(path),
        None => Ok(bytes_hash(samclip_nano::WEIGHTS)),
    }
}

/// The file with the reference code's names, or the built-in weights of sam_clip_nano.
pub fn read_weights(variant: Variant, path: Option<&Path>) -> Result<StateDict, PredictError> {
    open_weights(variant, path).map(|(state, _)| state)
}

/// [`read_weights`], with what the file holds packed.
pub(crate) fn open_weights(variant: Variant, path: Option<&Path>) -> Result<(StateDict, Option<Packed>), PredictError> {
    let Some(path) = path else {
        return match variant {
            Variant::SamClipNano => Ok((StateDict::from_static_safetensors(samclip_nano::WEIGHTS)?, None)),
            _ => Err(PredictError::NoWeights { model: variant.name().to_owned() }),
        };
    };
    let (state, packed) = StateDict::open_packed(path)?;
    let layout = samclip_weights::require_layout(&state)?;
    let state = samclip_weights::to_canonical(state, layout)?;
    samclip_weights::check_variant(&state, variant.name())?;
    Ok((state, packed))
}

/// The text table of a SAM-CLIP: the given file, or the built-in one of sam_clip_nano.
///
/// # Errors
/// A file that is no table.
pub fn read_table(variant: Variant, spec: &ModelSpec) -> Result<Option<TextTable>, PredictError> {
    if let Some(path) = &spec.text_table {
        let table = StateDict::open(path).map_err(PredictError::from);
        let table = table.and_then(|state| Ok(TextTable::from_state(&state)?));
        return table.map(Some).map_err(|error| error.in_file(path));
    }
    match variant {
        Variant::SamClipNano => {
            let state = StateDict::from_static_safetensors(samclip_nano::NAMES)?;
            Ok(Some(TextTable::from_state(&state)?))
        }
        _ => Ok(None),
    }
}
