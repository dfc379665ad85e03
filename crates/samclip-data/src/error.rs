//! The errors of this crate.

use std::path::{Path, PathBuf};

/// What can go wrong when a dataset is opened, read or iterated.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file or folder could not be read.
    #[error("cannot read ({reason}): {}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason, part of the message and so not a source of its own.
        reason: std::io::Error,
    },
    /// A photo, label map or mask could not be decoded.
    #[error(transparent)]
    Image(#[from] samclip_image::ImageError),
    /// A text file (list, class names, JSON) does not follow its format.
    #[error("{message}: {}", path.display())]
    Format {
        /// What was expected and what was found.
        message: String,
        /// The file.
        path: PathBuf,
    },
    /// A mask's size differs from its photo's.
    #[error("mask is {} x {} but the photo is {} x {}: {}", mask.0, mask.1, image.0, image.1, path.display())]
    SizeMismatch {
        /// Width and height of the mask.
        mask: (usize, usize),
        /// Width and height of the photo.
        image: (usize, usize),
        /// The mask.
        path: PathBuf,
    },
    /// An index beyond the dataset's end.
    #[error("sample {index} does not exist, {dataset} has {len}")]
    OutOfRange {
        /// The dataset.
        dataset: String,
        /// The index asked for.
        index: usize,
        /// The number of samples.
        len: usize,
    },
    /// A dataset, split or option that does not exist.
    #[error("{0}")]
    Config(String),
    /// More unreadable samples than the loader's limit allows.
    #[error("{skipped} samples could not be read, the limit is {limit}; the last one: {last}")]
    TooManyCorrupt {
        /// How many were skipped.
        skipped: usize,
        /// The limit.
        limit: usize,
        /// The message of the last failure.
        last: String,
    },
    /// A loader thread panicked while reading a sample.
    #[error("reading sample {index} of {dataset} panicked")]
    Panicked {
        /// The dataset.
        dataset: String,
        /// The sample.
        index: usize,
    },
}

impl DataError {
    /// Advice for the user, where there is any.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io { reason, .. } if reason.kind() == std::io::ErrorKind::NotFound => {
                Some("check the data folder; its layout is described in the dataset's module".into())
            }
            Self::TooManyCorrupt { .. } => {
                Some("repair or remove the files, or raise `max_skipped`".into())
            }
            Self::SizeMismatch { .. } => {
                Some("masks must have the size of their photo; re-export them".into())
            }
            _ => None,
        }
    }

    pub(crate) fn format(path: &Path, message: impl Into<String>) -> Self {
        Self::Format { message: message.into(), path: path.to_owned() }
    }
}

pub(crate) fn read_text(path: &Path) -> Result<String, DataError> {
    std::fs::read_to_string(path)
        .map_err(|reason| DataError::Io { path: path.to_owned(), reason })
}

/// The non-empty lines of a text file, trimmed at the end.
pub(crate) fn read_lines(path: &Path) -> Result<Vec<String>, DataError> {
    let lines: Vec<String> =
        read_text(path)?.lines().map(|l| l.trim_end().to_owned()).filter(|l| !l.is_empty()).collect();
    if lines.is_empty() {
        return Err(DataError::format(path, "expected at least one line, found none"));
    }
    Ok(lines)
}

/// The files of a folder with one of the given extensions, sorted by name.
pub(crate) fn list_files(folder: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>, DataError> {
    let io = |reason| DataError::Io { path: folder.to_owned(), reason };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase();
        if extensions.contains(&extension.as_str()) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Extensions that are taken for photos.
pub(crate) const PHOTO: &[&str] = &["jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff"];
