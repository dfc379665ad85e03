//! The errors of this crate.

use std::path::PathBuf;

/// What can go wrong in an evaluation.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// The protocol file could not be read.
    #[error("cannot read protocol ({reason}): {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason, part of the message and so not a source of its own.
        reason: std::io::Error,
    },
    /// The protocol file is not valid.
    #[error("{message}: {}", path.display())]
    Protocol {
        /// What is wrong, with the line.
        message: String,
        /// The file.
        path: PathBuf,
    },
    /// A dataset could not be opened or a photo not be read. Nothing is skipped in an evaluation.
    #[error(transparent)]
    Data(#[from] samclip_data::DataError),
    /// The model failed on a photo.
    #[error("the model failed on {photo}: {message}")]
    Model {
        /// The photo's name.
        photo: String,
        /// The model's message.
        message: String,
    },
    /// A file of records that does not belong to the run, or cannot be written.
    #[error("{message}: {}", path.display())]
    Records {
        /// What is wrong.
        message: String,
        /// The file.
        path: PathBuf,
    },
    /// Another system's prediction cannot be read; the message ends with its path.
    #[error("{message}")]
    Prediction {
        /// What is wrong.
        message: String,
    },
    /// Prediction and truth do not fit together, or a protocol asks for what the dataset lacks.
    #[error("{0}")]
    Mismatch(String),
}

impl EvalError {
    /// Advice for the user, where there is any.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io { .. } => Some("protocols are TOML files under protocols/".into()),
            Self::Data(error) => error.hint(),
            Self::Records { .. } => Some("a run continues only with the same protocol, model, weights and limit".into()),
            Self::Prediction { .. } => Some("predictions are named by the photo's id: ID.png, CLASS/ID.png".into()),
            _ => None,
        }
    }
}
