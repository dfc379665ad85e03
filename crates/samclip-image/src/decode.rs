//! Files to RGB8: JPEG, PNG, WebP, BMP, TIFF.
//!
//! Behaves as `PIL.ImageOps.exif_transpose(PIL.Image.open(f)).convert("RGB")`: the EXIF
//! orientation is applied, alpha is dropped (not blended), palettes are expanded, 16 bits keep
//! their high byte, CMYK JPEGs are taken as Adobe's inverted ones.
//! The size in the header is checked against [`DecodeLimits`] before any pixel is decoded, and a
//! file that ends early is an error, never a half-grey picture. Parity: tests/decode.rs.
//!
//! Deviation: JPEG goes through zune-jpeg instead of libjpeg, so a decoded value may differ by a
//! level or two; parity tests of what follows start from PNG.
//! Deviation: 16-bit grey keeps its high byte too, where PIL cuts it at 255 (nearly all white).

use std::io::Cursor;
use std::panic::AssertUnwindSafe;
use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use crate::{Image, ImageError};

/// What a file may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Most pixels (width x height) in the header.
    pub max_pixels: u64,
}

impl Default for DecodeLimits {
    /// 100 megapixels.
    fn default() -> Self {
        Self { max_pixels: 100_000_000 }
    }
}

impl DecodeLimits {
    /// Errors when the header's size is zero or over the limit.
    pub(crate) fn check(&self, width: u32, height: u32, name: &Path) -> Result<(), ImageError> {
        let path = || name.to_path_buf();
        if width == 0 || height == 0 {
            return Err(ImageError::ZeroSize { path: path(), width, height });
        }
        if u64::from(width) * u64::from(height) > self.max_pixels {
            let limit = self.max_pixels;
            return Err(ImageError::TooManyPixels { path: path(), width, height, limit });
        }
        Ok(())
    }
}

impl Image {
    /// Reads and decodes a file. See [`Image::decode`].
    ///
    /// # Errors
    /// [`ImageError::Read`], or what `decode` returns.
    pub fn open(path: &Path, limits: &DecodeLimits) -> Result<Self, ImageError> {
        Self::decode(&read_file(path)?, path, limits)
    }

    /// Decodes `bytes`; the format is told from the first bytes, never from `name`, which only
    /// appears in errors.
    ///
    /// # Errors
    /// One of the decoding variants of [`ImageError`].
    pub fn decode(bytes: &[u8], name: &Path, limits: &DecodeLimits) -> Result<Self, ImageError> {
        let (format, format_name) = sniff(bytes, name)?;
        let damaged =
            |detail: String| ImageError::Decode { path: name.to_path_buf(), format: format_name, detail };
        // The decoders are not ours: a panic in one of them is a damaged file, not a crash.
        std::panic::catch_unwind(AssertUnwindSafe(|| decode_as(bytes, format, format_name, name, limits)))
            .unwrap_or_else(|_| Err(damaged("the decoder gave up".into())))
    }
}

/// All bytes of a file.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, ImageError> {
    std::fs::read(path).map_err(|source| ImageError::Read { path: path.to_path_buf(), source })
}

/// The format by its magic number, with its name for messages.
pub(crate) fn sniff(bytes: &[u8], name: &Path) -> Result<(ImageFormat, &'static str), ImageError> {
    let path = name.to_path_buf();
    if bytes.is_empty() {
        return Err(ImageError::Empty { path });
    }
    match image::guess_format(bytes) {
        Ok(ImageFormat::Jpeg) => Ok((ImageFormat::Jpeg, "JPEG")),
        Ok(ImageFormat::Png) => Ok((ImageFormat::Png, "PNG")),
        Ok(ImageFormat::WebP) => Ok((ImageFormat::WebP, "WebP")),
        Ok(ImageFormat::Bmp) => Ok((ImageFormat::Bmp, "BMP")),
        Ok(ImageFormat::Tiff) => Ok((ImageFormat::Tiff, "TIFF")),
        Ok(other) => Err(ImageError::Format { path, found: format!("{other:?}").to_uppercase() }),
        Err(_) => Err(ImageError::Format { path, found: "an unknown file type".into() }),
    }
}

fn decode_as(
    bytes: &[u8],
    format: ImageFormat,
    format_name: &'static str,
    name: &Path,
    limits: &DecodeLimits,
) -> Result<Image, ImageError> {
    let failed = |error: image::ImageError| decode_error(error, format_name, bytes, name);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    // Four 32-bit channels and some room for metadata: a decoder that wants more is being fooled.
    let mut bounds = Limits::no_limits();
    bounds.max_alloc = Some(limits.max_pixels.saturating_mul(16).saturating_add(64 << 20));
    reader.limits(bounds);
    let mut decoder = reader.into_decoder().map_err(failed)?;
    let (width, height) = decoder.dimensions();
    limits.check(width, height, name)?;
    if format == ImageFormat::Jpeg {
        check_jpeg_is_whole(bytes, name)?;
    }
    // Unreadable EXIF is no reason to refuse the pixels.
    let orientation = decoder.orientation().unwrap_or(image::metadata::Orientation::NoTransforms);
    let mut pixels = DynamicImage::from_decoder(decoder).map_err(failed)?;
    pixels.apply_orientation(orientation);
    let (width, height) = (pixels.width() as usize, pixels.height() as usize);
    Image::new(width, height, to_rgb8(pixels))
}

/// PIL's `convert("RGB")`: alpha dropped, 16 bits cut to their high byte.
fn to_rgb8(pixels: DynamicImage) -> Vec<u8> {
    let high = |v: u16| (v >> 8) as u8;
    match pixels {
        DynamicImage::ImageLuma16(p) => p.iter().flat_map(|&v| [high(v); 3]).collect(),
        DynamicImage::ImageLumaA16(p) => p.pixels().flat_map(|p| [high(p.0[0]); 3]).collect(),
        DynamicImage::ImageRgb16(p) => p.iter().map(|&v| high(v)).collect(),
        DynamicImage::ImageRgba16(p) => {
            p.pixels().flat_map(|p| [high(p.0[0]), high(p.0[1]), high(p.0[2])]).collect()
        }
        other => other.into_rgb8().into_raw(),
    }
}

/// Names the decoder's failure: data that ended is told from data that is wrong.
fn decode_error(error: image::ImageError, format: &'static str, bytes: &[u8], name: &Path) -> ImageError {
    let path = name.to_path_buf();
    let words = error.to_string();
    let ended = match &error {
        image::ImageError::IoError(io) => io.kind() == std::io::ErrorKind::UnexpectedEof,
        _ => ["unexpected end", "unexpected eof", "failed to fill", "exhausted data", "not enough bytes"]
            .iter()
            .any(|known| words.to_lowercase().contains(known)),
    };
    if ended || (format == "WebP" && webp_is_short(bytes)) {
        return ImageError::Truncated { path, format, detail: "unexpected end of file".into() };
    }
    let words = words.trim().trim_start_matches("Format error decoding ");
    let prefix = format!("{format}: ");
    let detail = match words.get(..prefix.len()) {
        Some(start) if start.eq_ignore_ascii_case(&prefix) => &words[prefix.len()..],
        _ => words,
    };
    ImageError::Decode { path, format, detail: detail.into() }
}

/// Whether the container announces more bytes than there are (one of padding may be missing).
fn webp_is_short(bytes: &[u8]) -> bool {
    bytes.get(4..8).is_some_and(|size| {
        u32::from_le_bytes([size[0], size[1], size[2], size[3]]) as usize + 7 > bytes.len()
    })
}

/// Walks the markers of a JPEG up to its end-of-image marker. The decoder fills what is missing
/// with grey and reports success, so the end has to be looked for here.
fn check_jpeg_is_whole(bytes: &[u8], name: &Path) -> Result<(), ImageError> {
    let cut = |detail: &str| ImageError::Truncated {
        path: name.to_path_buf(),
        format: "JPEG",
        detail: detail.into(),
    };
    let mut at = 2; // after the start-of-image marker
    loop {
        // To the next marker: inside a scan this skips entropy-coded data (FF 00 and restarts).
        let Some(step) = bytes.get(at..).and_then(|rest| rest.iter().position(|&b| b == 0xff)) else {
            return Err(cut("no end-of-image marker"));
        };
        at += step + 1;
        match bytes.get(at) {
            None => return Err(cut("no end-of-image marker")),
            Some(0xd9) => return Ok(()),
            Some(0x00 | 0x01 | 0xd0..=0xd8) => at += 1,
            Some(0xff) => {}
            Some(_) => {
                let Some(length) = bytes.get(at + 1..at + 3) else {
                    return Err(cut("the file ends inside a header"));
                };
                at += 1 + usize::from(u16::from_be_bytes([length[0], length[1]]));
            }
        }
    }
}
