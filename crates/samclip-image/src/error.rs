//! What can go wrong with pixels. Messages say what was expected and found, the path last.

use std::path::{Path, PathBuf};

/// Errors of this crate. [`ImageError::hint`] has advice where there is any.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file could not be opened or read.
    #[error("cannot read image ({source}): {path}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file has no bytes.
    #[error("image file is empty: {path}", path = .path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The bytes are no image, or one of a format that is not read.
    #[error("not an image that can be read (found {found}; JPEG, PNG, WebP, BMP and TIFF are read): {path}", path = .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What the first bytes look like.
        found: String,
    },
    /// The header announces more pixels than the limit; nothing was decoded.
    #[error("image has {width} x {height} = {pixels} pixels, more than the limit of {limit}: {path}", pixels = *.width as u64 * *.height as u64, path = .path.display())]
    TooManyPixels {
        /// The file.
        path: PathBuf,
        /// Width in the header.
        width: u32,
        /// Height in the header.
        height: u32,
        /// The limit of [`crate::DecodeLimits`].
        limit: u64,
    },
    /// A width or height of zero in the header.
    #[error("image has no pixels ({width} x {height}): {path}", path = .path.display())]
    ZeroSize {
        /// The file.
        path: PathBuf,
        /// Width in the header.
        width: u32,
        /// Height in the header.
        height: u32,
    },
    /// The data ends before the image does.
    #[error("{format} image is truncated ({detail}): {path}", path = .path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: &'static str,
        /// Where the data ended.
        detail: String,
    },
    /// The decoder refused the data.
    #[error("{format} image is damaged or uses an unsupported feature ({detail}): {path}", path = .path.display())]
    Decode {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: &'static str,
        /// The decoder's words.
        detail: String,
    },
    /// A label file that holds colours instead of class numbers.
    #[error("label map must be a palette or grey PNG with values up to 255 (found {found}): {path}", path = .path.display())]
    NotLabels {
        /// The file.
        path: PathBuf,
        /// What the file is.
        found: String,
    },
    /// A buffer whose length does not fit its size.
    #[error("{what} of {width} x {height} needs {expected} values, found {found}")]
    Shape {
        /// Image, mask or label map.
        what: &'static str,
        /// Width that was asked for.
        width: usize,
        /// Height that was asked for.
        height: usize,
        /// Values that this takes.
        expected: usize,
        /// Values that were given.
        found: usize,
    },
    /// A run-length encoding or polygon that does not describe a mask of its size.
    #[error("invalid mask encoding: {0}")]
    Rle(String),
    /// The output could not be written; no partial file is left.
    #[error("cannot write ({detail}): {path}", path = .path.display())]
    Write {
        /// The output file.
        path: PathBuf,
        /// What the system or the encoder said.
        detail: String,
    },
}

impl ImageError {
    /// Advice for the user, where there is any.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::TooManyPixels { .. } => {
                Some("raise the limit with --max-pixels if the file is trusted".into())
            }
            Self::Truncated { .. } => Some("copy or download the file again".into()),
            Self::Format { .. } => Some("convert the file to PNG or JPEG".into()),
            Self::NotLabels { .. } => {
                Some("save class numbers as an 8-bit grey PNG or as palette indices".into())
            }
            Self::Write { .. } => Some("check that the folder exists and that it can be written".into()),
            _ => None,
        }
    }

    pub(crate) fn write(path: &Path, detail: impl std::fmt::Display) -> Self {
        Self::Write { path: path.to_path_buf(), detail: detail.to_string() }
    }
}
