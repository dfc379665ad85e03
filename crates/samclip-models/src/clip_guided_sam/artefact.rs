//! A trained CLIP-Guided SAM as a small file over frozen bases, and the way back to a whole model.
//!
//! The file holds exactly the tensors that training may change, and in its metadata the sizes, the
//! classes and the hashes of the bases. A hash is that of the tensors' f32 values under their
//! canonical names, so the same weights in another container or library's names are the same base.

use burn::tensor::Device;
use samclip_weights::{DType, StateDict, TensorData};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{BlockAdapters, ClipGuidedConfig, ClipGuidedSam, GuideConfig};
use crate::ModelError;
use crate::init::Init;
use crate::state::{self, Shared};

/// Value of the metadata key `format`.
pub const FORMAT: &str = "samclip-adapter-1";

/// Value of `format` where the bases are in the file too.
pub const FORMAT_MERGED: &str = "samclip-adapter-merged-1";

/// What an adapter file says about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// Name of the recipe or the run.
    pub name: String,
    /// Sizes and switches.
    pub config: ClipGuidedConfig,
    /// The classes it was trained on, as users ask for them.
    pub classes: Vec<String>,
    /// SAM's part of the bases.
    pub sam: Base,
    /// CLIP's part of the bases.
    pub clip: Base,
    /// SHA-256 of the recipe's text.
    pub recipe_sha256: String,
    /// Optimiser steps.
    pub steps: usize,
    /// What was measured when it was saved, for people.
    pub note: String,
}

/// A base of an adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// `builtin`, or the variant that the weights are of.
    pub name: String,
    /// See [`tensors_hash`].
    pub sha256: String,
}

/// The frozen networks under an adapter, in the model's own names.
#[derive(Clone, Debug, Default)]
pub struct Bases {
    /// `image_encoder.*`, `prompt_encoder.*`, `mask_decoder.*`.
    pub sam: StateDict,
    /// `clip.visual.*`.
    pub clip: StateDict,
}

impl Bases {
    /// Takes what a configuration needs from a SAM (or SAM-CLIP) and from a CLIP (or SAM-CLIP), both
    /// in canonical names.
    pub fn new(config: &ClipGuidedConfig, sam: &StateDict, clip: &StateDict) -> Self {
        let parts = ["image_encoder.", "prompt_encoder.", "mask_decoder."];
        let sam = kept(sam, |name| parts.iter().any(|p| name.starts_with(p)).then(|| name.to_owned()));
        let clip = match config.clip {
            GuideConfig::Tower { .. } => kept(clip, |name| name.starts_with("visual.").then(|| format!("clip.{name}"))),
            GuideConfig::SamClip { .. } => kept(clip, |name| {
                let own = ["image_encoder.", "clip_head."].iter().any(|p| name.starts_with(p));
                own.then(|| format!("clip.visual.{name}"))
            }),
        };
        Self { sam, clip }
    }

    /// The hashes of both parts.
    pub fn hashes(&self) -> [String; 2] {
        [tensors_hash(&self.sam), tensors_hash(&self.clip)]
    }
}

fn kept(state: &StateDict, rename: impl Fn(&str) -> Option<String>) -> StateDict {
    let mut out = StateDict::new();
    for (name, tensor) in state.iter() {
        if let Some(name) = rename(name) {
            out.insert(name, tensor.clone());
        }
    }
    out
}

/// SHA-256 over names, shapes and f32 values, in the order of the names.
pub fn tensors_hash(state: &StateDict) -> String {
    let mut tensors: Vec<_> = state.iter().collect();
    tensors.sort_by_key(|(name, _)| *name);
    let mut hasher = Sha256::new();
    for (name, tensor) in tensors {
        hasher.update(format!("{name} {:?}\n", tensor.shape()));
        for value in tensor.to_f32() {
            hasher.update(value.to_le_bytes());
        }
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl ClipGuidedConfig {
    /// The model on its bases with fresh adapters, drawn from `seed`.
    ///
    /// # Errors
    /// Bases that lack a tensor, or have one of another shape.
    pub fn on_bases(&self, bases: &Bases, seed: u64, device: &Device) -> Result<ClipGuidedSam, ModelError> {
        let mut model = self.init(&mut Init::zeros(device))?;
        let sizes = [self.sam.image_encoder.depth, self.sam.image_encoder.embed_dim, self.clip.embed_dim()];
        model.adapters = BlockAdapters::stack(&self.adapters, sizes, &mut Init::seeded(seed, device));
        let mut whole = bases.sam.clone();
        bases.clip.iter().for_each(|(name, tensor)| drop(whole.insert(name, tensor.clone())));
        for (name, shape, values) in state::named_values(&model.adapters) {
            whole.insert(format!("adapters.{name}"), TensorData::from_f32(&shape, &values));
        }
        state::load(model, &whole)
    }
}

/// The tensors and metadata of an adapter file; the trainable ones of `tensors`, in f16.
pub fn to_state<'a>(
    about: &About,
    tensors: impl Iterator<Item = (&'a str, &'a [usize], &'a [f32])>,
) -> StateDict {
    let mut state = StateDict::new();
    for (name, shape, values) in tensors.filter(|(name, ..)| about.config.is_trainable(name)) {
        state.insert(name, TensorData::from_f32_as(DType::F16, shape, values));
    }
    state.metadata.insert("format".to_owned(), FORMAT.to_owned());
    state.metadata.insert("about".to_owned(), serde_json::to_string(about).unwrap_or_default());
    state
}

/// What the file says about itself.
///
/// # Errors
/// A file that is no adapter, or whose metadata does not parse.
pub fn about(state: &StateDict) -> Result<About, ModelError> {
    let bad = |message: String| ModelError::Input(format!("not an adapter: {message}"));
    match state.metadata.get("format") {
        Some(format) if format == FORMAT || format == FORMAT_MERGED => {}
        Some(other) => return Err(bad(format!("expected format {FORMAT}, found {other}"))),
        None => return Err(bad("the metadata has no `format`".to_owned())),
    }
    let json = state.metadata.get("about").ok_or_else(|| bad("the metadata has no `about`".to_owned()))?;
    serde_json::from_str(json).map_err(|e| bad(format!("metadata `about`: {e}")))
}

/// Whether the bases are in the file too.
pub fn is_merged(state: &StateDict) -> bool {
    state.metadata.get("format").is_some_and(|format| format == FORMAT_MERGED)
}

/// Bases and adapter in one file.
///
/// # Errors
/// Other bases than the adapter's, or a file that is merged already.
pub fn merge(bases: &Bases, adapter: &StateDict) -> Result<StateDict, ModelError> {
    if is_merged(adapter) {
        return Err(ModelError::Input("the adapter is merged already".to_owned()));
    }
    check_hashes(&bases.hashes(), &about(adapter)?)?;
    let mut whole = bases.sam.clone();
    for (name, tensor) in bases.clip.iter().chain(adapter.iter()) {
        whole.insert(name, tensor.clone());
    }
    whole.metadata = adapter.metadata.clone();
    whole.metadata.insert("format".to_owned(), FORMAT_MERGED.to_owned());
    Ok(whole)
}

/// The adapted model: bases and adapter together, strictly. A merged file needs no bases.
///
/// # Errors
/// Other bases than the adapter was trained on (by hash), a tensor that is missing or superfluous.
pub fn adapted(bases: &Bases, adapter: &StateDict, device: &Device) -> Result<(About, ClipGuidedSam), ModelError> {
    let about = about(adapter)?;
    if is_merged(adapter) {
        let model = about.config.init(&mut Init::zeros(device))?;
        return Ok((about, state::load(model, adapter)?));
    }
    check_hashes(&bases.hashes(), &about)?;
    let model = over(bases, adapter, &about.config, (&Shared::default(), device))?;
    Ok((about, model))
}

/// Whether the hashes of a SAM and of a CLIP ([`Bases::hashes`]) are those that an adapter was trained on.
///
/// # Errors
/// They are not.
pub fn check_hashes(hashes: &[String; 2], about: &About) -> Result<(), ModelError> {
    for (part, base, found) in [("sam", &about.sam, &hashes[0]), ("clip", &about.clip, &hashes[1])] {
        if base.sha256 != *found {
            let (name, expected, found) = (base.name.clone(), base.sha256.clone(), found.clone());
            return Err(ModelError::WrongBase { part, name, expected, found });
        }
    }
    Ok(())
}

/// The adapted model over bases that passed [`check_hashes`]. Tensors that training left alone are those of
/// `shared`, where it has them.
///
/// # Errors
/// A tensor that is missing or superfluous.
pub fn over(
    bases: &Bases,
    adapter: &StateDict,
    config: &ClipGuidedConfig,
    (shared, device): (&Shared, &Device),
) -> Result<ClipGuidedSam, ModelError> {
    let model = config.init(&mut Init::zeros(device))?;
    let mut trained: Vec<(String, Vec<usize>)> = state::named_shapes(&model);
    trained.retain(|(name, _)| config.is_trainable(name));
    samclip_weights::check_strict(&trained, adapter)?;
    let mut whole = bases.sam.clone();
    for (name, tensor) in bases.clip.iter().chain(adapter.iter()) {
        whole.insert(name, tensor.clone());
    }
    state::load_sharing(model, &whole, shared, |name| !config.is_trainable(name))
}
