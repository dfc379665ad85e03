//! Label maps: one class number a pixel, from palette or grey PNG files.
//!
//! A palette PNG gives its indices (PASCAL VOC, PIL mode `P`), a grey one its values; colours are
//! never expanded and never resampled, only picked (nearest).

use std::io::Cursor;
use std::path::Path;

use crate::decode::{read_file, sniff};
use crate::image::{crop_plane, flip_plane};
use crate::resize::nearest_plane;
use crate::{DecodeLimits, ImageError};

/// A class number for every pixel, row-major.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelMap {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// `height * width` class numbers.
    pub data: Vec<u8>,
}

impl LabelMap {
    /// A label map over `data`, `height * width` values, row-major.
    ///
    /// # Errors
    /// [`ImageError::Shape`] when a side is zero or the length does not fit.
    pub fn new(width: usize, height: usize, data: Vec<u8>) -> Result<Self, ImageError> {
        let expected = width.saturating_mul(height);
        if expected == 0 || data.len() != expected {
            let found = data.len();
            return Err(ImageError::Shape { what: "label map", width, height, expected, found });
        }
        Ok(Self { width, height, data })
    }

    /// Reads a PNG with the default limits. See [`LabelMap::decode`].
    ///
    /// # Errors
    /// [`ImageError::Read`], or what `decode` returns.
    pub fn open(path: &Path) -> Result<Self, ImageError> {
        Self::decode(&read_file(path)?, path, &DecodeLimits::default())
    }

    /// Class numbers of a PNG: palette indices, or grey values at any bit depth as they are stored
    /// (1, 2 and 4 bits are not stretched to 255).
    ///
    /// # Errors
    /// [`ImageError::NotLabels`] for colours, alpha, other formats, or 16-bit values above 255;
    /// the decoding variants otherwise.
    pub fn decode(bytes: &[u8], name: &Path, limits: &DecodeLimits) -> Result<Self, ImageError> {
        let not_labels = |found: String| ImageError::NotLabels { path: name.to_path_buf(), found };
        let (_, format) = sniff(bytes, name)?;
        if format != "PNG" {
            return Err(not_labels(format!("a {format} image")));
        }
        let failed = |error: png::DecodingError| png_error(error, name);
        let mut decoder = png::Decoder::new(Cursor::new(bytes));
        decoder.set_transformations(png::Transformations::IDENTITY);
        let header = decoder.read_header_info().map_err(failed)?;
        let (width, height) = (header.width, header.height);
        let (color, depth) = (header.color_type, header.bit_depth as usize);
        limits.check(width, height, name)?;
        if !matches!(color, png::ColorType::Indexed | png::ColorType::Grayscale) {
            return Err(not_labels(format!("a {color:?} PNG").to_lowercase()));
        }
        let mut reader = decoder.read_info().map_err(failed)?;
        let line = reader.output_line_size(width).unwrap_or(0);
        let mut packed = vec![0; line * height as usize];
        reader.next_frame(&mut packed).map_err(failed)?;
        let (width, height) = (width as usize, height as usize);
        let mut data = Vec::with_capacity(width * height);
        for row in packed.chunks_exact(line) {
            unpack_row(row, width, depth, &mut data)
                .map_err(|value| not_labels(format!("the 16-bit value {value}")))?;
        }
        Self::new(width, height, data)
    }

    /// `(height, width)`, the order of the reference code.
    pub fn size(&self) -> (usize, usize) {
        (self.height, self.width)
    }

    /// PIL's NEAREST resize.
    pub fn resize_nearest(&self, width: usize, height: usize) -> Self {
        let (width, height) = (width.max(1), height.max(1));
        let data = nearest_plane(&self.data, (self.width, self.height), 1, (width, height));
        Self { width, height, data }
    }

    /// The part from `(x0, y0)`; clipped to the map, at least one pixel remains.
    pub fn crop(&self, x0: usize, y0: usize, width: usize, height: usize) -> Self {
        let (data, width, height) =
            crop_plane(&self.data, (self.width, self.height), 1, (x0, y0, width, height));
        Self { width, height, data }
    }

    /// Mirrored left to right.
    pub fn flip_horizontal(&self) -> Self {
        Self { data: flip_plane(&self.data, self.width, 1), ..*self }
    }
}

/// Appends the values of one row of `depth` bits each; the error is a value above 255.
fn unpack_row(row: &[u8], width: usize, depth: usize, out: &mut Vec<u8>) -> Result<(), u16> {
    match depth {
        8 => out.extend_from_slice(&row[..width]),
        16 => {
            for pair in row.chunks_exact(2).take(width) {
                let value = u16::from_be_bytes([pair[0], pair[1]]);
                out.push(u8::try_from(value).map_err(|_| value)?);
            }
        }
        _ => {
            let mask = (1u8 << depth) - 1;
            out.extend((0..width).map(|x| {
                let bit = x * depth;
                (row[bit / 8] >> (8 - depth - bit % 8)) & mask
            }));
        }
    }
    Ok(())
}

fn png_error(error: png::DecodingError, name: &Path) -> ImageError {
    let path = name.to_path_buf();
    let detail = error.to_string();
    match error {
        png::DecodingError::IoError(io) if io.kind() == std::io::ErrorKind::UnexpectedEof => {
            ImageError::Truncated { path, format: "PNG", detail: "unexpected end of file".into() }
        }
        _ => ImageError::Decode { path, format: "PNG", detail },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_bits_keep_their_values() {
        let mut out = Vec::new();
        unpack_row(&[0b1010_0000], 3, 1, &mut out).unwrap();
        unpack_row(&[0b1101_1000], 3, 2, &mut out).unwrap();
        unpack_row(&[0x3f, 0x10], 3, 4, &mut out).unwrap();
        unpack_row(&[0, 7, 0, 255], 2, 16, &mut out).unwrap();
        assert_eq!(out, [1, 0, 1, 3, 1, 2, 3, 15, 1, 7, 255]);
        assert_eq!(unpack_row(&[1, 0], 1, 16, &mut out), Err(256));
    }
}
