//! Pixels: decoding, PIL-parity resizing, transforms, masks, run-length encoding, NMS, drawing.
//! No tensors, no models.
//!
//! Data flows one way: file -> [`Image`] -> [`Prepared`] (pixels for a model and the
//! [`ImageTransform`] that maps coordinates both ways) -> model -> [`postprocess_logits`] ->
//! [`Mask`] in original pixels -> [`rle`], PNG, polygons or [`overlay()`].
//!
//! Coordinates are original image pixels, x to the right and y down; sizes written as a pair are
//! `(height, width)` as in the reference code.

mod bilinear;
mod components;
mod contour;
mod decode;
mod distance;
mod error;
mod image;
mod label;
mod mask;
mod nms;
mod overlay;
mod resize;
pub mod rle;
mod transform;
mod write;

pub use bilinear::{PostprocessTaps, Tap, bilinear, postprocess_logits};
pub use components::{RegionMode, connected_components, remove_small_regions};
pub use contour::{polygons, simplify_polygon};
pub use decode::DecodeLimits;
pub use distance::distance_transform;
pub use error::ImageError;
pub use image::{Image, crop, flip_horizontal};
pub use label::LabelMap;
pub use mask::Mask;
pub use nms::{box_iou, nms};
pub use overlay::{overlay, palette_color};
pub use resize::{Filter, resize};
pub use transform::{
    ImageTransform, Normalization, Prepared, prepare_clip, prepare_sam, prepare_squash, preprocess_shape,
};
pub use write::{png_grey, write_atomic, write_png_mask, write_png_palette, write_png_rgb};
