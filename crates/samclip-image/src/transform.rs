//! From an [`Image`] to what a model reads, and coordinates both ways.
//!
//! SAM: segment_anything/utils/transforms.py `ResizeLongestSide`, modeling/sam.py
//! `Sam.preprocess`. CLIP: torchvision `Resize(n, BICUBIC)`, `CenterCrop(n)`, `ToTensor`,
//! `Normalize`; CLIP Surgery: `Resize((n, n))`. Parity: tests/preprocess.rs, max |Δ| <= 1e-6.

use rayon::prelude::*;

use crate::{Filter, Image, crop, resize};

/// `(value / scale - mean) / std` per channel, in f32 and in this order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normalization {
    /// Subtracted from the scaled value, R G B.
    pub mean: [f32; 3],
    /// Divides the difference, R G B.
    pub std: [f32; 3],
    /// Divides the byte first: 1 where mean and std are for 0..255, 255 where they are for 0..1.
    pub scale: f32,
}

impl Normalization {
    /// SAM's, for values 0..255.
    pub const SAM: Self = Self { mean: [123.675, 116.28, 103.53], std: [58.395, 57.12, 57.375], scale: 1.0 };

    /// CLIP's (OpenAI and open_clip), for values 0..1.
    pub const CLIP: Self = Self {
        mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
        std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
        scale: 255.0,
    };

    /// The result for every byte of every channel.
    fn table(&self) -> [[f32; 256]; 3] {
        std::array::from_fn(|c| std::array::from_fn(|v| (v as f32 / self.scale - self.mean[c]) / self.std[c]))
    }
}

/// How an image got into the model. Sizes are `(height, width)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageTransform {
    /// Size of the image itself.
    pub original: (usize, usize),
    /// Size to which the whole image was resized.
    pub resized: (usize, usize),
    /// Size of the model's input: `resized` and zero padding at the bottom and right, or a crop.
    pub input: (usize, usize),
    /// `(top, left)` of the input in the resized image, in its pixels; not zero only for crops.
    pub crop_offset: (usize, usize),
}

impl ImageTransform {
    /// What [`prepare_sam`] does with an image of this `(height, width)`.
    pub fn longest_side(original: (usize, usize), side: usize) -> Self {
        let resized = preprocess_shape(original.0, original.1, side);
        Self { original, resized, input: (side, side), crop_offset: (0, 0) }
    }

    /// What [`prepare_squash`] does with an image of this `(height, width)`.
    pub fn squash(original: (usize, usize), side: usize) -> Self {
        Self { original, resized: (side, side), input: (side, side), crop_offset: (0, 0) }
    }

    /// `[x, y]` in original pixels to model-input pixels. As in the reference there is no
    /// half-pixel shift.
    pub fn point_to_input(&self, [x, y]: [f32; 2]) -> [f32; 2] {
        let [sx, sy] = self.scale();
        let (top, left) = self.crop_offset;
        [(f64::from(x) * sx - left as f64) as f32, (f64::from(y) * sy - top as f64) as f32]
    }

    /// `[x0, y0, x1, y1]` in original pixels to model-input pixels.
    pub fn box_to_input(&self, [x0, y0, x1, y1]: [f32; 4]) -> [f32; 4] {
        let [x0, y0] = self.point_to_input([x0, y0]);
        let [x1, y1] = self.point_to_input([x1, y1]);
        [x0, y0, x1, y1]
    }

    /// `[x, y]` in model-input pixels back to original pixels.
    pub fn point_to_original(&self, [x, y]: [f32; 2]) -> [f32; 2] {
        let [sx, sy] = self.scale();
        let (top, left) = self.crop_offset;
        [((f64::from(x) + left as f64) / sx) as f32, ((f64::from(y) + top as f64) / sy) as f32]
    }

    /// `[x0, y0, x1, y1]` in model-input pixels back to original pixels.
    pub fn box_to_original(&self, [x0, y0, x1, y1]: [f32; 4]) -> [f32; 4] {
        let [x0, y0] = self.point_to_original([x0, y0]);
        let [x1, y1] = self.point_to_original([x1, y1]);
        [x0, y0, x1, y1]
    }

    fn scale(&self) -> [f64; 2] {
        [self.resized.1 as f64 / self.original.1 as f64, self.resized.0 as f64 / self.original.0 as f64]
    }
}

/// A model's input.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    /// Normalised values, channels first: `3 * height * width`.
    pub pixels: Vec<f32>,
    /// `(height, width)` of `pixels`.
    pub size: (usize, usize),
    /// The way back.
    pub transform: ImageTransform,
}

/// `(height, width)` after `ResizeLongestSide(side)`: the longer side becomes `side`, both are
/// rounded half up.
///
/// Deviation: a side never becomes 0, where the reference would fail.
pub fn preprocess_shape(height: usize, width: usize, side: usize) -> (usize, usize) {
    let scale = side as f64 / height.max(width) as f64;
    let fit = |n: usize| ((n as f64 * scale + 0.5) as usize).max(1);
    (fit(height), fit(width))
}

/// SAM's input, `side` x `side`: longest side bilinear to `side`, normalised, then zeros at the
/// bottom and right.
pub fn prepare_sam(image: &Image, side: usize) -> Prepared {
    let transform = ImageTransform::longest_side(image.size(), side);
    let pixels = resize(image, transform.resized.1, transform.resized.0, Filter::Bilinear);
    Prepared { pixels: normalize(&pixels, &Normalization::SAM, transform.input), size: transform.input, transform }
}

/// The whole image squashed to `side` x `side`, its aspect ratio lost.
pub fn prepare_squash(image: &Image, side: usize, filter: Filter, normalization: &Normalization) -> Prepared {
    let transform = ImageTransform::squash(image.size(), side);
    let pixels = resize(image, side, side, filter);
    Prepared { pixels: normalize(&pixels, normalization, transform.input), size: transform.input, transform }
}

/// CLIP's input: short side bicubic to `side`, the middle `side` x `side` of it, normalised.
pub fn prepare_clip(image: &Image, side: usize) -> Prepared {
    let original @ (height, width) = image.size();
    let long = |long: usize, short: usize| (side as f64 * long as f64 / short as f64) as usize;
    let resized = if width <= height { (long(height, width), side) } else { (side, long(width, height)) };
    let offset = |n: usize| ((n - side) as f64 / 2.0).round_ties_even() as usize;
    let crop_offset @ (top, left) = (offset(resized.0), offset(resized.1));
    let pixels = resize(image, resized.1, resized.0, Filter::Bicubic);
    let pixels = crop(&pixels, left, top, side, side);
    let input = (side, side);
    Prepared {
        pixels: normalize(&pixels, &Normalization::CLIP, input),
        size: input,
        transform: ImageTransform { original, resized, input, crop_offset },
    }
}

/// HWC bytes to normalised CHW floats, in the top left corner of `size` zeros.
fn normalize(image: &Image, normalization: &Normalization, size: (usize, usize)) -> Vec<f32> {
    let table = normalization.table();
    let (height, width) = size;
    let mut out = vec![0f32; 3 * height * width];
    for (plane, (c, values)) in out.chunks_exact_mut(height * width).zip(table.iter().enumerate()) {
        let rows = image.data().par_chunks_exact(image.width() * 3);
        plane.par_chunks_exact_mut(width).zip(rows).for_each(|(out, row)| {
            for (value, pixel) in out.iter_mut().zip(row.chunks_exact(3)) {
                *value = values[usize::from(pixel[c])];
            }
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_return_where_they_came_from() {
        let image = Image::new(531, 217, vec![90; 531 * 217 * 3]).unwrap();
        for prepared in [
            prepare_sam(&image, 1024),
            prepare_clip(&image, 224),
            prepare_squash(&image, 448, Filter::Bicubic, &Normalization::CLIP),
        ] {
            let t = prepared.transform;
            assert_eq!(prepared.pixels.len(), 3 * prepared.size.0 * prepared.size.1);
            for point in [[0.0, 0.0], [530.5, 216.25], [100.0, 33.0]] {
                let [x, y] = t.point_to_original(t.point_to_input(point));
                assert!((x - point[0]).abs() < 1e-4 && (y - point[1]).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn a_thin_image_keeps_a_row() {
        let image = Image::new(5000, 1, vec![7; 15000]).unwrap();
        let prepared = prepare_sam(&image, 256);
        assert_eq!(prepared.transform.resized, (1, 256));
    }
}
