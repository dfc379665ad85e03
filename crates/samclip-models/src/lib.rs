//! SAM, CLIP, CLIP Surgery and SAM-CLIP as burn modules.
//!
//! The crate opens no file, decodes no image, prints nothing and draws no random number outside
//! [`init`]. Parameter names and layouts are those of the reference code (PyTorch), so
//! [`state::state_dict`] of a module lists the keys of the published checkpoint.
//!
//! Reader's path: [`sam::Sam::encode`] -> [`sam::Sam::decode`]; [`sam_clip::SamClip::tokens`] ->
//! the two heads. Numeric work goes through [`ops`], the only door to the CPU kernels.

pub mod clip;
pub mod clip_guided_sam;
pub mod cost;
pub mod error;
pub mod init;
pub mod layers;
pub mod ops;
pub mod probe;
pub mod sam;
pub mod sam_clip;
pub mod state;
pub mod text_table;
pub mod tiny_vit;
pub mod variant;

pub use burn::tensor::{Device, Tensor};
pub use error::ModelError;
