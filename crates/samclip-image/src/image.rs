//! An RGB image in memory: 8 bits a channel, row-major, channels last.

use std::sync::OnceLock;

use crate::ImageError;

/// RGB8 pixels, row-major HWC. Never empty: width and height are at least 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    width: usize,
    height: usize,
    data: Vec<u8>,
    id: ContentId,
}

/// A name for the pixels that is worked out at most once. It says nothing that the pixels do not.
#[derive(Debug, Clone, Default)]
struct ContentId(OnceLock<String>);

impl PartialEq for ContentId {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for ContentId {}

impl Image {
    /// An image over `data`, `height * width * 3` bytes, row-major HWC.
    ///
    /// # Errors
    /// [`ImageError::Shape`] when a side is zero or the length does not fit.
    pub fn new(width: usize, height: usize, data: Vec<u8>) -> Result<Self, ImageError> {
        let expected = width.saturating_mul(height).saturating_mul(3);
        if expected == 0 || data.len() != expected {
            let found = data.len();
            return Err(ImageError::Shape { what: "image", width, height, expected, found });
        }
        Ok(Self { width, height, data, id: ContentId::default() })
    }

    /// For code of this crate that made `data` to measure.
    pub(crate) fn from_parts(width: usize, height: usize, data: Vec<u8>) -> Self {
        debug_assert_eq!(data.len(), width * height * 3);
        Self { width, height, data, id: ContentId::default() }
    }

    /// Width in pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// `(height, width)`, the order of the reference code.
    pub fn size(&self) -> (usize, usize) {
        (self.height, self.width)
    }

    /// The bytes, row-major HWC.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// What `name` gave for these pixels the first time it was asked: a hash is worth keeping.
    pub fn content_id(&self, name: impl FnOnce(&Self) -> String) -> &str {
        self.id.0.get_or_init(|| name(self))
    }

    /// The bytes, to write to.
    pub fn data_mut(&mut self) -> &mut [u8] {
        self.id = ContentId::default();
        &mut self.data
    }

    /// Gives the bytes away.
    pub fn into_data(self) -> Vec<u8> {
        self.data
    }

    /// The colour at column `x`, row `y`. Panics outside the image, as slices do.
    pub fn pixel(&self, x: usize, y: usize) -> [u8; 3] {
        let i = (y * self.width + x) * 3;
        [self.data[i], self.data[i + 1], self.data[i + 2]]
    }
}

/// The part of `image` from `(x0, y0)`, `width` x `height` pixels. What lies outside the image is
/// left out; at least one pixel remains.
pub fn crop(image: &Image, x0: usize, y0: usize, width: usize, height: usize) -> Image {
    let (data, width, height) =
        crop_plane(&image.data, (image.width, image.height), 3, (x0, y0, width, height));
    Image::from_parts(width, height, data)
}

/// `image` mirrored left to right.
pub fn flip_horizontal(image: &Image) -> Image {
    let data = flip_plane(&image.data, image.width, 3);
    Image::from_parts(image.width, image.height, data)
}

/// Crops interleaved rows; returns the data and the size that was left after clipping.
pub(crate) fn crop_plane<T: Copy>(
    data: &[T],
    (width, height): (usize, usize),
    channels: usize,
    (x0, y0, w, h): (usize, usize, usize, usize),
) -> (Vec<T>, usize, usize) {
    let (x0, y0) = (x0.min(width - 1), y0.min(height - 1));
    let (w, h) = (w.clamp(1, width - x0), h.clamp(1, height - y0));
    let mut out = Vec::with_capacity(w * h * channels);
    for row in data.chunks_exact(width * channels).skip(y0).take(h) {
        out.extend_from_slice(&row[x0 * channels..(x0 + w) * channels]);
    }
    (out, w, h)
}

/// Mirrors interleaved rows left to right.
pub(crate) fn flip_plane<T: Copy>(data: &[T], width: usize, channels: usize) -> Vec<T> {
    let mut out = Vec::with_capacity(data.len());
    for row in data.chunks_exact(width * channels) {
        for pixel in row.rchunks_exact(channels) {
            out.extend_from_slice(pixel);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(width: usize, height: usize) -> Image {
        let data = (0..width * height * 3).map(|i| i as u8).collect();
        Image::new(width, height, data).unwrap()
    }

    #[test]
    fn new_refuses_what_does_not_fit() {
        assert!(Image::new(2, 2, vec![0; 11]).is_err());
        assert!(Image::new(0, 2, vec![]).is_err());
        assert!(Image::new(usize::MAX, 3, vec![0; 9]).is_err());
    }

    #[test]
    fn crop_clips_to_the_image() {
        let image = numbered(4, 3);
        let part = crop(&image, 1, 1, 2, 2);
        assert_eq!(part.size(), (2, 2));
        assert_eq!(part.pixel(0, 0), image.pixel(1, 1));
        assert_eq!(part.pixel(1, 1), image.pixel(2, 2));
        assert_eq!(crop(&image, 3, 2, 9, 9).data(), image.pixel(3, 2));
        assert_eq!(crop(&image, 100, 100, 0, 0).data(), image.pixel(3, 2));
    }

    #[test]
    fn flip_twice_is_identity() {
        let image = numbered(5, 2);
        let flipped = flip_horizontal(&image);
        assert_eq!(flipped.pixel(0, 1), image.pixel(4, 1));
        assert_eq!(flip_horizontal(&flipped), image);
    }
}
