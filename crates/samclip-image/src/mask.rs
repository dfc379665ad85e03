//! Binary masks.

use std::path::Path;

use crate::decode::{read_file, sniff};
use crate::image::{crop_plane, flip_plane};
use crate::resize::nearest_plane;
use crate::{DecodeLimits, Image, ImageError, LabelMap};

/// A boolean for every pixel, row-major.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// `height * width` values.
    pub data: Vec<bool>,
}

impl Mask {
    /// A mask over `data`, `height * width` values, row-major.
    ///
    /// # Errors
    /// [`ImageError::Shape`] when a side is zero or the length does not fit.
    pub fn new(width: usize, height: usize, data: Vec<bool>) -> Result<Self, ImageError> {
        let expected = width.saturating_mul(height);
        if expected == 0 || data.len() != expected {
            let found = data.len();
            return Err(ImageError::Shape { what: "mask", width, height, expected, found });
        }
        Ok(Self { width, height, data })
    }

    /// An empty mask (all background).
    pub fn empty(width: usize, height: usize) -> Self {
        Self { width, height, data: vec![false; width * height] }
    }

    /// `logits > threshold`, row-major (`threshold` is 0 in SAM).
    pub fn from_logits(width: usize, height: usize, logits: &[f32], threshold: f32) -> Self {
        assert_eq!(logits.len(), width * height, "logits fit the mask");
        Self { width, height, data: logits.iter().map(|&v| v > threshold).collect() }
    }

    /// Reads an image; every pixel that is not zero is foreground. Palette and grey PNGs are read
    /// as numbers, other images as colours (not black = foreground).
    ///
    /// # Errors
    /// What [`Image::open`] returns.
    pub fn open(path: &Path) -> Result<Self, ImageError> {
        Self::decode(&read_file(path)?, path, &DecodeLimits::default())
    }

    /// [`Mask::open`] for bytes in memory; `name` appears in errors.
    ///
    /// # Errors
    /// What [`Image::decode`] returns.
    pub fn decode(bytes: &[u8], name: &Path, limits: &DecodeLimits) -> Result<Self, ImageError> {
        if sniff(bytes, name)?.1 == "PNG" {
            match LabelMap::decode(bytes, name, limits) {
                Ok(map) => {
                    let data = map.data.iter().map(|&v| v != 0).collect();
                    return Self::new(map.width, map.height, data);
                }
                Err(ImageError::NotLabels { .. }) => {} // colours, below
                Err(error) => return Err(error),
            }
        }
        let image = Image::decode(bytes, name, limits)?;
        let data = image.data().chunks_exact(3).map(|p| p != [0, 0, 0]).collect();
        Self::new(image.width(), image.height(), data)
    }

    /// `(height, width)`, the order of the reference code.
    pub fn size(&self) -> (usize, usize) {
        (self.height, self.width)
    }

    /// Number of foreground pixels.
    pub fn area(&self) -> usize {
        self.data.iter().filter(|&&v| v).count()
    }

    /// First and last column and row with foreground, both included; `None` when empty.
    fn extent(&self) -> Option<[usize; 4]> {
        let mut extent: Option<[usize; 4]> = None;
        for (y, row) in self.data.chunks_exact(self.width.max(1)).enumerate() {
            let Some(first) = row.iter().position(|&v| v) else { continue };
            let last = row.iter().rposition(|&v| v).unwrap_or(first);
            let [x0, y0, x1, _] = extent.unwrap_or([first, y, last, y]);
            extent = Some([x0.min(first), y0, x1.max(last), y]);
        }
        extent
    }

    /// `[x, y, width, height]` with both ends counted, as pycocotools' `toBbox`; zeros when empty.
    pub fn bbox_xywh(&self) -> [f64; 4] {
        self.extent()
            .map_or([0.0; 4], |[x0, y0, x1, y1]| [x0, y0, x1 - x0 + 1, y1 - y0 + 1].map(|v| v as f64))
    }

    /// `[x0, y0, x1, y1]` with the last pixel's own index as the end, as SAM's
    /// `batched_mask_to_box`; zeros when empty.
    pub fn bbox_xyxy(&self) -> [f32; 4] {
        self.extent().map_or([0.0; 4], |extent| extent.map(|v| v as f32))
    }

    /// Intersection over union; 0 when both are empty. Panics when the sizes differ.
    pub fn iou(&self, other: &Self) -> f64 {
        assert_eq!(self.size(), other.size(), "masks of one size");
        let (mut both, mut any) = (0usize, 0usize);
        for (&a, &b) in self.data.iter().zip(&other.data) {
            both += usize::from(a & b);
            any += usize::from(a | b);
        }
        if any == 0 { 0.0 } else { both as f64 / any as f64 }
    }

    /// PIL's NEAREST resize.
    pub fn resize_nearest(&self, width: usize, height: usize) -> Self {
        let (width, height) = (width.max(1), height.max(1));
        let data = nearest_plane(&self.data, (self.width, self.height), 1, (width, height));
        Self { width, height, data }
    }

    /// The part from `(x0, y0)`; clipped to the mask, at least one pixel remains.
    pub fn crop(&self, x0: usize, y0: usize, width: usize, height: usize) -> Self {
        let (data, width, height) =
            crop_plane(&self.data, (self.width, self.height), 1, (x0, y0, width, height));
        Self { width, height, data }
    }

    /// This mask, pasted at `(x0, y0)` into an empty one of `width` x `height`.
    pub fn uncrop(&self, x0: usize, y0: usize, width: usize, height: usize) -> Self {
        let mut out = Self::empty(width, height);
        let take = self.width.min(width.saturating_sub(x0));
        for (y, row) in self.data.chunks_exact(self.width).enumerate() {
            if y0 + y < height && take > 0 {
                let start = (y0 + y) * width + x0;
                out.data[start..start + take].copy_from_slice(&row[..take]);
            }
        }
        out
    }

    /// Mirrored left to right.
    pub fn flip_horizontal(&self) -> Self {
        Self { data: flip_plane(&self.data, self.width, 1), ..*self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring() -> Mask {
        let data = "...##.....#.....#..........".chars().map(|c| c == '#').collect();
        Mask::new(9, 3, data).unwrap()
    }

    #[test]
    fn boxes_count_the_ends_as_their_references_do() {
        let mask = ring();
        assert_eq!(mask.area(), 4);
        assert_eq!(mask.bbox_xywh(), [1.0, 0.0, 7.0, 2.0]);
        assert_eq!(mask.bbox_xyxy(), [1.0, 0.0, 7.0, 1.0]);
        assert_eq!(Mask::empty(3, 2).bbox_xywh(), [0.0; 4]);
    }

    #[test]
    fn iou_of_empty_masks_is_zero() {
        assert_eq!(Mask::empty(3, 2).iou(&Mask::empty(3, 2)), 0.0);
        assert_eq!(ring().iou(&ring()), 1.0);
        assert!(ring().iou(&ring().flip_horizontal()) < 1.0);
    }

    #[test]
    fn uncrop_undoes_crop() {
        let part = ring().crop(1, 0, 7, 2);
        assert_eq!(part.uncrop(1, 0, 9, 3), ring());
        assert_eq!(part.uncrop(8, 2, 9, 3).area(), usize::from(part.data[0]));
        assert_eq!(part.uncrop(20, 20, 9, 3).area(), 0);
    }
}
