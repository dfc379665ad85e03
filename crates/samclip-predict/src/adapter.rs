//! Adapter files: loading them over one base, merging, listing.
//!
//! File form: `samclip_models::clip_guided_sam::artefact`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use samclip_models::clip_guided_sam::artefact::{self, About, Bases};
use samclip_models::clip_guided_sam::{ClipGuidedConfig, GuideConfig, accounting};
use samclip_models::init::Init;
use samclip_models::state::Shared;
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

/// A loaded model under its adapters. Its weights are hashed once, and the tensors that training left alone exist
/// once, however many adapters there are.
pub struct AdapterBase {
    spec: ModelSpec,
    base: Option<Arc<Model>>,
    known: Mutex<Known>,
}

/// What one adapter needed and the next one needs again.
#[derive(Default)]
struct Known {
    /// Of SAM's part, and of CLIP's part by its kind.
    hashes: BTreeMap<&'static str, String>,
    tensors: Shared,
    /// By kind of the text side and width.
    texts: BTreeMap<(bool, usize), Arc<GuidedText>>,
}

impl AdapterBase {
    /// Over a model that is loaded: `spec` says from what, and where a CLIP for adapters is.
    pub fn new(spec: &ModelSpec, base: Arc<Model>) -> Self {
        let mut known = Known::default();
        base.share(&mut known.tensors, spec.clip_weights.is_none());
        Self { spec: ModelSpec { adapter: None, ..spec.clone() }, base: Some(base), known: Mutex::new(known) }
    }

    /// Loads the model under the adapter of `spec`; a merged adapter has none.
    ///
    /// # Errors
    /// See [`Model::load_over`].
    pub(crate) fn load(spec: &ModelSpec, store: Option<&Arc<dyn EmbeddingStore>>) -> Result<Self, PredictError> {
        let alone = ModelSpec { adapter: None, clip_weights: None, ..spec.clone() };
        let merged = match &spec.adapter {
            Some(path) => artefact::is_merged(&StateDict::open(path)?),
            None => false,
        };
        if merged {
            return Ok(Self { spec: ModelSpec { adapter: None, ..spec.clone() }, base: None, known: Mutex::default() });
        }
        Ok(Self::new(spec, Arc::new(Model::load_over(&alone, store)?)))
    }

    /// Whether an adapter belongs to this base.
    ///
    /// # Errors
    /// A file that is no adapter, or one of another base.
    pub fn check(&self, adapter: &Path) -> Result<(), PredictError> {
        let file = StateDict::open(adapter)?;
        let about = artefact::about(&file).map_err(|e| PredictError::from(e).in_file(adapter))?;
        if artefact::is_merged(&file) {
            return Ok(());
        }
        let (bases, _) = open_bases(&self.spec, &about.config)?;
        let hashes = self.known().hashes(&bases, &about.config);
        artefact::check_hashes(&hashes, &about).map_err(|e| PredictError::from(e).in_file(adapter))
    }

    /// Number format of the products.
    pub(crate) fn precision(&self) -> Result<&'static str, PredictError> {
        self.spec.precision.apply()
    }

    /// The model with an adapter.
    pub(crate) fn guided(&self, adapter: &Path) -> Result<GuidedPredictor, PredictError> {
        let file = StateDict::open(adapter)?;
        let in_adapter = |e: samclip_models::ModelError| PredictError::from(e).in_file(adapter);
        let device = Device::default();
        let about = artefact::about(&file).map_err(in_adapter)?;
        let name = format!("{} with adapter {}", self.spec.variant, about.name);
        let mut known = self.known();
        if artefact::is_merged(&file) {
            let (about, model) = artefact::adapted(&Bases::default(), &file, &device).map_err(in_adapter)?;
            let text = known.text(&self.spec, &about.config, None)?;
            return Ok(GuidedPredictor { model, text, classes: about.classes, base: None, name });
        }
        let (bases, clip) = open_bases(&self.spec, &about.config)?;
        artefact::check_hashes(&known.hashes(&bases, &about.config), &about).map_err(in_adapter)?;
        let config = &about.config;
        let model = artefact::over(&bases, &file, config, (&known.tensors, &device)).map_err(in_adapter)?;
        let frozen = |name: &str| (!config.is_trainable(name)).then(|| name.to_owned()).into_iter().collect();
        known.tensors.add(&model, frozen);
        let text = known.text(&self.spec, config, clip.map(|clip| (clip, &device)))?;
        Ok(GuidedPredictor { model, text, classes: about.classes, base: self.base.clone(), name })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn hashes(&mut self, bases: &Bases, config: &ClipGuidedConfig) -> [String; 2] {
        let clip = match config.clip {
            GuideConfig::Tower { .. } => "tower",
            GuideConfig::SamClip { .. } => "sam_clip",
        };
        let mut hash = |part, state| self.hashes.entry(part).or_insert_with(|| artefact::tensors_hash(state)).clone();
        [hash("sam", &bases.sam), hash(clip, &bases.clip)]
    }

    /// CLIP's text tower where its checkpoint is given and no table is, else a table.
    fn text(
        &mut self,
        spec: &ModelSpec,
        config: &ClipGuidedConfig,
        clip: Option<(StateDict, &Device)>,
    ) -> Result<Arc<GuidedText>, PredictError> {
        let width = config.clip.embed_dim();
        let has_tower = clip.is_some() && spec.text_table.is_none();
        if let Some(text) = self.texts.get(&(has_tower, width)) {
            return Ok(text.clone());
        }
        let tower = match clip {
            Some((clip, device)) if has_tower => tower(config, clip, device)?,
            _ => None,
        };
        let text = Arc::new(tower.map_or_else(|| table(spec, width), Ok)?);
        self.texts.insert((has_tower, width), text.clone());
        Ok(text)
    }
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
fn tower(config: &ClipGuidedConfig, clip: StateDict, device: &Device) -> Result<Option<GuidedText>, PredictError> {
    let Some(text) = accounting::text_tower(config) else { return Ok(None) };
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
