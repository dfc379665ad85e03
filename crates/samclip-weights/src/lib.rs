//! Checkpoint files of SAM and CLIP as named tensors, without a framework.
//!
//! A file becomes a [`StateDict`] ([`StateDict::open`]); [`check_strict`] holds it against a model's names
//! and shapes. Nothing in a file is ever executed, and nothing is silently initialised or ignored.

mod error;
mod file;
mod safetensors;
mod state_dict;
mod tensor;

pub use error::{Problem, Problems, Result, WeightsError};
pub use safetensors::{MAX_HEADER, to_safetensors_bytes, write_safetensors};
pub use state_dict::{StateDict, check_strict, non_finite};
pub use tensor::{DType, TensorData};
