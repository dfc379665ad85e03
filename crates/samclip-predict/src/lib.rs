//! The library verbs: image in, answer out.
//!
//! Reader's path: [`Model::load`] -> a role ([`roles`]) or a verb over many files ([`verbs`]) -> [`record`] ->
//! [`output`]. Prompts and results are in original image pixels.
//!
//! ```no_run
//! use samclip_predict::{Model, ModelSpec, Prompt, SegmentOptions};
//! use samclip_image::{DecodeLimits, Image};
//!
//! let model = Model::load(&ModelSpec::new("sam_clip_nano"))?;
//! let image = Image::open("cat.jpg".as_ref(), &DecodeLimits::default())?;
//! let answer = model.prompt_segmenter()?.segment(&image, &[Prompt::text("cat")], &SegmentOptions::STANDARD)?;
//! println!("{} pixels of cat", answer.masks[0].mask.area());
//! # Ok::<(), samclip_predict::PredictError>(())
//! ```

pub mod adapter;
pub mod answer;
pub mod bench;
pub mod cache;
pub mod check;
mod clip;
pub mod compose;
mod contrast;
pub mod decode;
pub mod embed;
mod error;
pub mod everything;
mod files;
pub mod guided;
mod heat;
pub mod inputs;
pub mod model;
pub mod output;
mod packed;
pub mod passes;
mod precision;
pub mod probe;
pub mod prompt;
pub mod record;
pub mod roles;
mod sam;
mod sam_clip;
pub mod sam_plus_clip;
mod settings;
mod sizes;
mod tensors;
mod text;
pub mod verbs;

pub use clip::ClipPredictor;
pub use error::PredictError;
pub use samclip_models::ModelError;
pub use everything::{EverythingOptions, everything};
pub use model::{Model, ModelSpec};
pub use output::Format;
pub use packed::{PackedFile, pack_weights};
pub use precision::Precision;
pub use prompt::{Point, Prompt, PromptError};
pub use roles::{
    Background, MaskPrediction, PromptSegmenter, SegmentOptions, Segmentation, SemanticMap, SemanticSegmenter,
    TextLocator, TextMode, ZeroShotClassifier,
};
pub use sam::{SamLike, SamPredictor};
pub use sam_clip::{Geometry, SamClipPredictor, SamClipSettings};
pub use text::{BACKGROUND_WORDS, TextEncoder};
