//! The file that loading is timed with: the user's, or a seeded one in the folder for temporary files.

use std::path::{Path, PathBuf};

use samclip_models::init::Init;
use samclip_models::variant::Variant;
use samclip_models::{Device, state};
use samclip_weights::{StateDict, write_safetensors};

use crate::error::PredictError;
use crate::model::{clip_config, init_sam, sam_clip_config};

/// A checkpoint on disk; a seeded one goes when this does.
pub struct Checkpoint {
    path: Option<PathBuf>,
    ours: bool,
}

impl Checkpoint {
    /// The user's.
    pub fn given(path: &Path) -> Self {
        Self { path: Some(path.to_owned()), ours: false }
    }

    /// None: the weights are built in.
    pub fn none() -> Self {
        Self { path: None, ours: false }
    }

    /// A seeded one, written now.
    pub fn seeded(variant: Variant, seed: u64) -> Result<Self, PredictError> {
        let name = format!("samclip-bench-{}-{}.safetensors", variant.name(), std::process::id());
        let path = std::env::temp_dir().join(name);
        let file = Self { path: Some(path.clone()), ours: true };
        write_safetensors(&path, &seeded_state(variant, seed)?)?;
        Ok(file)
    }

    /// Where it is.
    pub fn path(&self) -> Option<PathBuf> {
        self.path.clone()
    }

    /// Its size; of built-in weights, theirs.
    pub fn bytes(&self) -> u64 {
        match &self.path {
            Some(path) => std::fs::metadata(path).map_or(0, |m| m.len()),
            None => samclip_nano::WEIGHTS.len() as u64,
        }
    }
}

impl Drop for Checkpoint {
    fn drop(&mut self) {
        if let (true, Some(path)) = (self.ours, &self.path) {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn seeded_state(variant: Variant, seed: u64) -> Result<StateDict, PredictError> {
    let mut init = Init::seeded(seed, &Device::default());
    Ok(match variant {
        Variant::SamVitB | Variant::SamVitL | Variant::SamVitH | Variant::MobileSam => {
            state::state_dict(&init_sam(variant, &mut init))
        }
        Variant::ClipVitB16
        | Variant::ClipVitL14
        | Variant::ClipVitB16Quickgelu
        | Variant::ClipVitL14Quickgelu => state::state_dict(&clip_config(variant).init(&mut init)),
        Variant::SamClipVitB | Variant::SamClipNano => {
            state::state_dict(&sam_clip_config(variant, &StateDict::new())?.init(&mut init))
        }
    })
}
