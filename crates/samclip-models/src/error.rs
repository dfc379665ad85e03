//! The crate's one error type.

use thiserror::Error;

/// What can go wrong while a model is built, loaded or called.
#[derive(Debug, Error)]
pub enum ModelError {
    /// A checkpoint does not match the model: see [`samclip_weights::WeightsError`].
    #[error(transparent)]
    Weights(#[from] samclip_weights::WeightsError),
    /// A variant name that this crate does not know.
    #[error("unknown model `{name}`: expected one of {known}")]
    UnknownVariant {
        /// What was asked for.
        name: String,
        /// The names that exist, comma separated.
        known: String,
    },
    /// A word that the text table does not hold.
    #[error("unknown name `{name}`")]
    UnknownName {
        /// The word as given.
        name: String,
        /// The nearest names of the table, best first.
        nearest: Vec<String>,
    },
    /// A text that is empty after trimming.
    #[error("empty text")]
    EmptyText,
    /// An input of a shape or value that the model cannot take.
    #[error("invalid input: {0}")]
    Input(String),
    /// An adapter over other weights than those it was trained on.
    #[error("the adapter was trained on another {part} base: expected {name} with hash {expected:.16}, found {found:.16}")]
    WrongBase {
        /// `sam` or `clip`.
        part: &'static str,
        /// The base's name.
        name: String,
        /// Hash that the adapter names.
        expected: String,
        /// Hash of the base given.
        found: String,
    },
    /// A malformed text table.
    #[error("invalid text table: {0}")]
    TextTable(String),
}

impl ModelError {
    /// Advice for the person who sees the error.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Weights(e) => e.hint(),
            Self::UnknownName { nearest, .. } if !nearest.is_empty() => {
                Some(format!("did you mean {}?", nearest.join(", ")))
            }
            Self::WrongBase { part: "sam", name, .. } => Some(format!("give the weights of {name} that were used for training (--model, --weights)")),
            Self::WrongBase { name, .. } => Some(format!("give the weights of {name} that were used for training (--clip-weights)")),
            _ => None,
        }
    }
}
