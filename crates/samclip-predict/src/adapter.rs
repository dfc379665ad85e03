//! Adapter files: loading one over its bases, merging, listing.
//!
//! File form: `samclip_models::clip_guided_sam::artefact`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use samclip_models::clip_guided_sam::artefact::{self, About, Bases};
use samclip_models::clip_guided_sam::{ClipGuidedConfig, GuideConfig, accounting};
use samclip_models::init::Init;
use samclip_models::text_table::TextTable;
use samclip_models::variant::Variant;
use samclip_models::{Device, state};
use samclip_weights::StateDict;

use crate::cache::EmbeddingStore;
use crate::error::PredictError;
use crate::guided::{GuidedPredictor, GuidedText};
use crate::model::{Model, ModelSpec, read_weights};

/// A file on disk and what it says about itself.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Listed {
    /// The file.
    pub file: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Values in it.
    pub parameters: usize,
    /// Whether the bases are in it.
    pub merged: bool,
    /// The rest.
    pub about: About,
}

/// Reads what an adapter file says about itself.
///
/// # Errors
/// A file that cannot be read or is no adapter.
pub fn inspect(path: &Path) -> Result<Listed, PredictError> {
    let state = StateDict::open(path)?;
    let about = artefact::about(&state).map_err(|e| PredictError::from(e).in_file(path))?;
    let bytes = std::fs::metadata(path).map_or(0, |m| m.len());
    let merged = artefact::is_merged(&state);
    Ok(Listed { file: path.to_owned(), bytes, parameters: state.parameter_count(), merged, about })
}

/// The adapters of a folder, by file name; other files are passed over.
///
/// # Errors
/// A folder that cannot be read.
pub fn list(folder: &Path) -> Result<Vec<Listed>, PredictError> {
    let io = |source| PredictError::Io { action: "read", source, path: folder.to_owned() };
    let mut files = std::fs::read_dir(folder).map_err(io)?.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>().map_err(io)?;
    files.retain(|path| path.extension().is_some_and(|e| e == "safetensors"));
    files.sort();
    Ok(files.iter().filter_map(|path| inspect(path).ok()).collect())
}

/// Writes adapter and bases into one file that needs no others.
///
/// # Errors
/// Other bases than the adapter's, a file that cannot be read or written.
pub fn merge(spec: &ModelSpec, adapter: &Path, to: &Path) -> Result<(), PredictError> {
    let file = StateDict::open(adapter)?;
    let about = artefact::about(&file).map_err(|e| PredictError::from(e).in_file(adapter))?;
    let (bases, _) = open_bases(spec, &about.config)?;
    let merged = artefact::merge(&bases, &file).map_err(|e| PredictError::from(e).in_file(adapter))?;
    Ok(samclip_weights::write_safetensors(to, &merged)?)
}

/// Loads the model of `spec` with its adapter.
pub(crate) fn load(
    spec: &ModelSpec,
    adapter: &Path,
    device: &Device,
    store: Option<&Arc<dyn EmbeddingStore>>,
) -> Result<GuidedPredictor, PredictError> {
    let file = StateDict::open(adapter)?;
    let in_adapter = |e: samclip_models::ModelError| PredictError::from(e).in_file(adapter);
    let about = artefact::about(&file).map_err(in_adapter)?;
    let name = format!("{} with adapter {}", spec.variant, about.name);
    if artefact::is_merged(&file) {
        let (about, model) = artefact::adapted(&Bases::default(), &file, device).map_err(in_adapter)?;
        let text = table(spec, about.config.clip.embed_dim())?;
        return Ok(GuidedPredictor { model, text, classes: about.classes, base: None, name });
    }
    let (bases, clip) = open_bases(spec, &about.config)?;
    let (about, model) = artefact::adapted(&bases, &file, device).map_err(in_adapter)?;
    let text = match tower(&about.config, clip, device)? {
        Some(text) if spec.text_table.is_none() => text,
        _ => table(spec, about.config.clip.embed_dim())?,
    };
    let base = Model::load_over(&ModelSpec { adapter: None, clip_weights: None, ..spec.clone() }, store)?;
    Ok(GuidedPredictor { model, text, classes: about.classes, base: Some(Box::new(base)), name })
}

/// The frozen tensors under an adapter, and CLIP's whole checkpoint where it is one of its own.
fn open_bases(spec: &ModelSpec, config: &ClipGuidedConfig) -> Result<(Bases, Option<StateDict>), PredictError> {
    let variant: Variant = spec.variant.parse()?;
    let sam = read_weights(variant, spec.weights.as_deref())?;
    match (&spec.clip_weights, &config.clip) {
        (Some(path), _) => {
            let clip = StateDict::open(path)?;
            let clip = match samclip_weights::detect_layout(&clip) {
                Some(layout) => samclip_weights::to_canonical(clip, layout)?,
                None => clip,
            };
            Ok((Bases::new(config, &sam, &clip), Some(clip)))
        }
        (None, GuideConfig::SamClip { .. }) => Ok((Bases::new(config, &sam, &sam), None)),
        (None, GuideConfig::Tower { .. }) => Err(PredictError::NoClipWeights),
    }
}

/// CLIP's text tower, where the checkpoint holds one.
fn tower(config: &ClipGuidedConfig, clip: Option<StateDict>, device: &Device) -> Result<Option<GuidedText>, PredictError> {
    let (Some(text), Some(clip)) = (accounting::text_tower(config), clip) else { return Ok(None) };
    if clip.get("token_embedding.weight").is_none() {
        return Ok(None);
    }
    let clip = state::load(text.init(&mut Init::zeros(device)), &clip)?;
    Ok(Some(GuidedText::Tower(Box::new(clip.text), Default::default())))
}

/// The user's text table, or the built-in one.
fn table(spec: &ModelSpec, expected: usize) -> Result<GuidedText, PredictError> {
    let state = match &spec.text_table {
        Some(path) => StateDict::open(path)?,
        None => StateDict::from_static_safetensors(samclip_nano::NAMES)?,
    };
    let table = TextTable::from_state(&state)?;
    match table.dim() == expected {
        true => Ok(GuidedText::Table(Box::new(table))),
        false => Err(PredictError::TextWidth { expected, found: table.dim() }),
    }
}
