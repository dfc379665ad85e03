//! What can go wrong between a prompt and an answer.

use std::path::PathBuf;

use samclip_image::ImageError;
use samclip_models::ModelError;
use samclip_weights::WeightsError;

use crate::prompt::PromptError;

/// Errors of this crate. [`PredictError::hint`] has advice where there is any.
#[derive(Debug, thiserror::Error)]
pub enum PredictError {
    /// A prompt that does not parse, or that does not fit the image.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// An image that cannot be read or written.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A weight file that cannot be read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A model that cannot be built or called.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A file that does not belong to the model.
    #[error("{source}: {path}", path = .path.display())]
    InFile {
        /// What is wrong with it.
        source: Box<PredictError>,
        /// The file.
        path: PathBuf,
    },
    /// The model cannot do what is asked.
    #[error("model {model} cannot {role}: expected one of {able}")]
    NoRole {
        /// The model's name.
        model: String,
        /// What was asked for, as a verb.
        role: &'static str,
        /// Models that can.
        able: &'static str,
    },
    /// A model without built-in weights, and no weight file.
    #[error("model {model} needs weights: expected --weights FILE")]
    NoWeights {
        /// The model's name.
        model: String,
    },
    /// An adapter trained with a CLIP of its own, and no weights for it.
    #[error("the adapter was trained with a CLIP of its own: expected --clip-weights FILE")]
    NoClipWeights,
    /// A model with a CLIP head, and no vectors for names.
    #[error("model {model} needs a text table for names: expected --text-table FILE")]
    NoTextTable {
        /// The model's name.
        model: String,
    },
    /// A text space of another width than the model's.
    #[error("text table has vectors of another width: expected {expected}, found {found}")]
    TextWidth {
        /// The model's.
        expected: usize,
        /// The table's.
        found: usize,
    },
    /// A training step that was timed and failed.
    #[error("{0}")]
    Step(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// An option outside its range.
    #[error("option {name} is out of range: expected {expected}, found {found}")]
    Option {
        /// The option as written on the command line.
        name: &'static str,
        /// The range.
        expected: &'static str,
        /// What was given.
        found: String,
    },
    /// A device that this build does not offer.
    #[error("device {found} is not in this build: expected cpu")]
    Device {
        /// What was asked for.
        found: String,
    },
    /// bf16 asked for where it cannot be had.
    #[error("precision bf16 is not available: expected a processor with AMX or AVX-512 BF16")]
    Precision,
    /// A pattern that matches nothing, a folder without images, a file that is not there.
    #[error("{what}: {path}", path = .path.display())]
    Input {
        /// What is wrong.
        what: String,
        /// File, folder or pattern.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot {action} ({source}): {path}", path = .path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
        /// File or folder.
        path: PathBuf,
    },
    /// A server that answers instead of a model did not.
    #[error("{error}: {url}")]
    Remote {
        /// What it said.
        error: String,
        /// Its advice.
        hint: Option<String>,
        /// Where it is.
        url: String,
    },
    /// A stored input of `weights check` that cannot be used.
    #[error("check: {0}")]
    Check(String),
}

impl PredictError {
    /// Advice for the person who sees the error.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Prompt(error) => error.hint(),
            Self::Image(error) => error.hint(),
            Self::Weights(error) => error.hint(),
            Self::Model(error) => error.hint(),
            Self::InFile { source, .. } => source.hint(),
            Self::Remote { hint, .. } => hint.clone(),
            Self::NoWeights { model } => {
                Some(format!("`samclip pull {model}` downloads the official file; sam_clip_nano needs none"))
            }
            Self::Io { action: "create the output folder" | "write", .. } => {
                Some("choose a folder that can be written with --out".to_owned())
            }
            _ => None,
        }
    }

    /// The same error with the file that it is about at the end, unless the message ends with it already.
    #[must_use]
    pub fn in_file(self, path: &std::path::Path) -> Self {
        match self {
            Self::Image(_) | Self::Io { .. } | Self::Input { .. } | Self::InFile { .. } => self,
            other if other.to_string().ends_with(&path.display().to_string()) => other,
            other => Self::InFile { source: Box::new(other), path: path.to_owned() },
        }
    }
}
