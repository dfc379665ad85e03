//! The model that ships with samclip, as bytes in the binary: nothing to download for the first command.
//!
//! `assets/sam_clip_nano.safetensors` is written by `samclip train` (recipes/nano), `assets/names.safetensors` by
//! `assets/make_names.py`. MODEL_CARD.md says what the model knows and what it does not.

/// Weights of `sam_clip_nano`: f16 safetensors, configuration and calibration in the metadata.
pub static WEIGHTS: &[u8] = include_bytes!("../assets/sam_clip_nano.safetensors");

/// Names, aliases and their vectors in the text space of CLIP ViT-B/32, prompt `a {name}`.
pub static NAMES: &[u8] = include_bytes!("../assets/names.safetensors");
