//! The frozen networks and the class vectors that a recipe names.

use super::recipe::BasesSpec;
use crate::error::TrainError;
use samclip_models::clip::{ClipConfig, zero_shot};
use samclip_models::clip_guided_sam::artefact::{Base, Bases};
use samclip_models::clip_guided_sam::{ClipGuidedConfig, accounting};
use samclip_models::init::Init;
use samclip_models::state;
use samclip_models::text_table::TextTable;
use samclip_weights::{StateDict, to_canonical};
use std::path::Path;

/// What the word `builtin` stands for.
pub const BUILTIN: &str = "builtin";
/// Class vectors from CLIP's own text tower.
const TOWER: &str = "tower";

/// Bases, their names and hashes, and class names to unit vectors.
pub struct OpenBases {
    /// The frozen tensors.
    pub bases: Bases,
    /// SAM's name and hash.
    pub sam: Base,
    /// CLIP's name and hash.
    pub clip: Base,
    /// Class names to vectors.
    pub text: TextVectors,
}

/// Class names to unit vectors.
pub enum TextVectors {
    /// A table.
    Table(Box<TextTable>),
    /// CLIP's checkpoint, whose text tower is built when it is asked.
    Tower(Box<(ClipConfig, StateDict)>),
}

impl OpenBases {
    /// Opens what a recipe names; files are relative to `folder`.
    pub fn open(spec: &BasesSpec, config: &ClipGuidedConfig, folder: &Path) -> Result<Self, TrainError> {
        let sam_state = weights(&spec.sam, folder)?;
        let clip_state = if spec.clip == spec.sam { sam_state.clone() } else { weights(&spec.clip, folder)? };
        let bases = Bases::new(config, &sam_state, &clip_state);
        let [sam, clip] = bases.hashes();
        let text = match spec.text.as_str() {
            TOWER => {
                let tower = accounting::text_tower(config).ok_or_else(|| {
                    TrainError::Invalid(format!("bases.text: the CLIP of {} has no text tower", spec.variant))
                })?;
                TextVectors::Tower(Box::new((tower, clip_state)))
            }
            BUILTIN => table(&StateDict::from_static_safetensors(samclip_nano::NAMES)?)?,
            file => table(&StateDict::open(&folder.join(file))?)?,
        };
        let base = |name: &str, sha256: String| Base { name: base_name(name, &spec.variant), sha256 };
        Ok(Self { bases, sam: base(&spec.sam, sam), clip: base(&spec.clip, clip), text })
    }
}

/// What a message calls a base: never a path of this machine.
fn base_name(spec: &str, variant: &str) -> String {
    match spec {
        BUILTIN => BUILTIN.to_owned(),
        file => format!("{variant}:{}", Path::new(file).file_name().unwrap_or_default().to_string_lossy()),
    }
}

fn weights(spec: &str, folder: &Path) -> Result<StateDict, TrainError> {
    if spec == BUILTIN {
        return Ok(StateDict::from_static_safetensors(samclip_nano::WEIGHTS)?);
    }
    let state = StateDict::open(&folder.join(spec))?;
    match samclip_weights::detect_layout(&state) {
        Some(layout) => Ok(to_canonical(state, layout)?),
        None => Ok(state), // an image tower alone: its names are canonical already
    }
}

fn table(state: &StateDict) -> Result<TextVectors, TrainError> {
    Ok(TextVectors::Table(Box::new(TextTable::from_state(state)?)))
}

impl TextVectors {
    /// One unit vector a name, in order.
    pub fn vectors(&self, names: &[String]) -> Result<Vec<Vec<f32>>, TrainError> {
        match self {
            Self::Table(table) => names.iter().map(|name| Ok(table.vector(name)?.to_vec())).collect(),
            Self::Tower(boxed) => {
                let (config, weights) = boxed.as_ref();
                let clip = state::load(config.init(&mut Init::zeros(&Default::default())), weights)?;
                let vectors = clip.text.class_vectors(names, &zero_shot::surgery_templates())?;
                let width = vectors.dims()[1];
                let values = crate::objectives::values(&vectors);
                Ok(values.chunks_exact(width).map(<[f32]>::to_vec).collect())
            }
        }
    }

    /// Width of the space.
    pub fn dim(&self) -> usize {
        match self {
            Self::Table(table) => table.dim(),
            Self::Tower(boxed) => boxed.0.embed_dim,
        }
    }
}
