//! Errors of checkpoint reading, mapping, checking and fetching.

use std::fmt;
use std::path::{Path, PathBuf};

/// What can go wrong between a checkpoint file and a checked state dict.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The operating system refused a read or a write.
    #[error("{action}: {source}: {path}", path = .path.display())]
    Io {
        /// What was being done, for example `cannot read`.
        action: &'static str,
        /// The system's reason.
        source: std::io::Error,
        /// The file.
        path: PathBuf,
    },
    /// None of the formats that we read.
    #[error("not a checkpoint that samclip reads ({found}): {path}", path = .path.display())]
    UnknownFormat {
        /// What the first bytes look like.
        found: String,
        /// The file.
        path: PathBuf,
    },
    /// The tar or bare-pickle layout of PyTorch before 1.6.
    #[error("old PyTorch format ({kind}), expected the zip format of PyTorch 1.6 or later: {path}", path = .path.display())]
    LegacyTorch {
        /// Which of the old layouts.
        kind: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The file claims a format and breaks its rules.
    #[error("invalid {format} file: {reason}: {path}", path = .path.display())]
    Invalid {
        /// `safetensors`, `zip`, `pickle` or `torch`.
        format: &'static str,
        /// Which rule, with the tensor's name where there is one.
        reason: String,
        /// The file.
        path: PathBuf,
    },
    /// The pickle asks for a Python object outside the allow-list; nothing was run.
    #[error("pickle asks for `{global}`, which is not on the allow-list (nothing was executed): {path}", path = .path.display())]
    ForbiddenGlobal {
        /// `module.name` as written in the pickle.
        global: String,
        /// The file.
        path: PathBuf,
    },
    /// Tensor data and its declared shape disagree, or a conversion does not exist.
    #[error("tensor `{name}`: {reason}")]
    Tensor {
        /// The tensor.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No key map knows this checkpoint.
    #[error("unknown checkpoint layout: {found}")]
    UnknownLayout {
        /// The first names, for orientation.
        found: String,
    },
    /// The checkpoint is not the model's: every difference by name.
    #[error("checkpoint does not match the model: {0}")]
    Mismatch(Problems),
    /// The checkpoint is of another variant than asked for.
    #[error("checkpoint looks like `{found}`, expected `{expected}`")]
    WrongVariant {
        /// What was asked for.
        expected: String,
        /// What the shapes say.
        found: String,
    },
    /// No entry of the registry has this name.
    #[error("no official model named `{name}`; known: {known}")]
    UnknownModel {
        /// What was asked for.
        name: String,
        /// All names.
        known: String,
    },
    /// A download failed.
    #[error("cannot download {url}: {reason}")]
    Download {
        /// The address.
        url: String,
        /// Why.
        reason: String,
        /// What to do without a network.
        advice: String,
    },
    /// The bytes that arrived are not the registered ones.
    #[error("{what} differs: expected {expected}, found {found}: {path}", path = .path.display())]
    Checksum {
        /// `size` or `sha-256`.
        what: &'static str,
        /// The registered value.
        expected: String,
        /// The value of the file.
        found: String,
        /// The file.
        path: PathBuf,
    },
}

/// Shorthand for this crate's results.
pub type Result<T, E = WeightsError> = std::result::Result<T, E>;

impl WeightsError {
    /// What the user can do about it, where we know.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::LegacyTorch { path, .. } => format!(
                "re-save it with PyTorch: python -c \"import torch; torch.save(torch.load('{0}', weights_only=True, map_location='cpu'), '{0}.new.pth')\"",
                path.display()
            ),
            Self::ForbiddenGlobal { .. } => {
                "if you trust its source, save only the tensors: torch.save(model.state_dict(), FILE); otherwise delete it".into()
            }
            Self::UnknownFormat { .. } => {
                "samclip reads safetensors, PyTorch .pth/.bin/.pt (zip) and TorchScript archives".into()
            }
            Self::UnknownLayout { .. } => {
                "known layouts: Meta SAM, Hugging Face SAM, MobileSAM, OpenAI/open_clip CLIP, CLIP Surgery, Hugging Face CLIP, samclip".into()
            }
            Self::Mismatch(_) => "is this the right model name for this file? `samclip weights inspect FILE` lists its tensors".into(),
            Self::WrongVariant { found, .. } => format!("try `{found}`"),
            Self::Download { advice, .. } => advice.clone(),
            Self::Checksum { .. } => "delete the file and pull again; if it repeats, the source or mirror serves another file".into(),
            _ => return None,
        })
    }

    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, source, path }
    }

    pub(crate) fn invalid(format: &'static str, path: &Path, reason: impl Into<String>) -> Self {
        Self::Invalid { format, reason: reason.into(), path: path.to_path_buf() }
    }

    pub(crate) fn tensor(name: &str, reason: impl Into<String>) -> Self {
        Self::Tensor { name: name.to_owned(), reason: reason.into() }
    }
}

/// One difference between a checkpoint and a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// The model needs it, the checkpoint lacks it.
    Missing {
        /// The tensor.
        name: String,
        /// The model's shape.
        shape: Vec<usize>,
    },
    /// The checkpoint has it, the model has no place for it.
    Unexpected {
        /// The tensor.
        name: String,
        /// The checkpoint's shape.
        shape: Vec<usize>,
    },
    /// Both have it, with different shapes.
    Shape {
        /// The tensor.
        name: String,
        /// The model's shape.
        expected: Vec<usize>,
        /// The checkpoint's shape.
        found: Vec<usize>,
    },
    /// A NaN or an infinity.
    NonFinite {
        /// The tensor.
        name: String,
        /// Flat index of the first one.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// A key map has no rule for this name.
    NoRule {
        /// The tensor.
        name: String,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { name, shape } => write!(f, "missing `{name}` {shape:?}"),
            Self::Unexpected { name, shape } => write!(f, "unexpected `{name}` {shape:?}"),
            Self::Shape { name, expected, found } => {
                write!(f, "`{name}` has shape {found:?}, expected {expected:?}")
            }
            Self::NonFinite { name, index, count } => {
                write!(f, "`{name}` has {count} non-finite values, the first at flat index {index}")
            }
            Self::NoRule { name } => write!(f, "unexpected `{name}` (no key-map rule)"),
        }
    }
}

/// All differences, in name order; the message shows the first ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

/// Problems spelled out in a message; the count says how many more there are.
const SHOWN: usize = 8;

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().take(SHOWN).enumerate() {
            write!(f, "{}{problem}", if i > 0 { "; " } else { "" })?;
        }
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}
