//! Checkpoint files of SAM and CLIP as named tensors, without a framework.
//!
//! A file becomes a [`StateDict`] ([`StateDict::open`]); [`check_strict`] holds it against a model's names
//! and shapes. Nothing in a file is ever executed, and nothing is silently initialised or ignored.

mod convert;
mod error;
mod file;
mod key_map;
mod merge;
mod packed;
mod pickle;
#[cfg(feature = "pull")]
mod pull;
pub mod registry;
mod safetensors;
mod state_dict;
mod tensor;
mod torch;
mod variant;

pub use convert::{Conversion, Converted, convert};
pub use error::{Problem, Problems, Result, WeightsError};
pub use file::unload;
pub use key_map::{
    Dropped, KeyMap, Layout, Rule, detect_layout, key_map, require_layout, to_canonical, to_canonical_report,
};
#[cfg(feature = "pull")]
pub use pull::{MIRROR_VARIABLE, Pulled, Verified, pull, pull_model};
pub use merge::{interpolate, sam_part};
pub use packed::Packed;
pub use safetensors::{MAX_HEADER, to_safetensors_bytes, write_safetensors};
pub use state_dict::{FileFormat, StateDict, check_strict, check_strict_but, non_finite};
pub use tensor::{DType, TensorData};
pub use variant::{check_variant, infer_variant};
