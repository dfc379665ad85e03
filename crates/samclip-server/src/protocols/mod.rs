//! What labelling tools say, translated to `segment` and back. Shapes: docs/guides, one page per tool.

pub mod brush_rle;
pub mod cvat;
pub mod label_studio;
mod label_studio_files;
pub mod osam;
pub mod x_anylabeling;

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use samclip_image::{Mask, polygons, rle, simplify_polygon};
use samclip_predict::record::{MaskImage, MaskRecord};
use serde::de::DeserializeOwned;

use crate::ask::{Asked, answer, blocking, decoded};
use crate::body::decode_image;
use crate::engine::Engine;
use crate::error::{ApiError, Kind};
use crate::wire::{PromptJson, SegmentRequest, parse};

/// An image as a tool sends it.
pub enum Picture {
    /// Base64 or a `data:` URL.
    Text(String),
    /// A file's bytes.
    Bytes(Bytes),
}

/// The masks for a tool's prompts.
///
/// # Errors
/// See `POST /v1/segment`.
pub async fn segment(
    engine: &Arc<Engine>,
    picture: Picture,
    model: Option<&str>,
    prompts: Vec<PromptJson>,
) -> Result<MaskImage, ApiError> {
    let (store, max_pixels) = (engine.store.clone(), engine.settings.limits.max_pixels);
    let file = PathBuf::from("image");
    let name = file.clone();
    let photo = blocking(move || match picture {
        Picture::Text(text) => decoded(&store, &decode_image(&text)?, &name, max_pixels),
        Picture::Bytes(bytes) => decoded(&store, &bytes, &name, max_pixels),
    });
    let photo = photo.await?;
    let adapter = model.filter(|model| *model != engine.served()[0].name);
    let (served, model) = engine.model(None, adapter).await?;
    let request = SegmentRequest::of(prompts);
    let reply = answer(engine, Asked { request, photo, file, served, model }).await?;
    let [image] = reply.images;
    Ok(image)
}

/// A tool's body: fields that are not known are passed over, because tools grow.
///
/// # Errors
/// See [`parse`].
pub async fn body<T: DeserializeOwned + Send + 'static>(json: Bytes) -> Result<T, ApiError> {
    blocking(move || parse(&json)).await
}

/// A record's mask.
pub fn mask(record: &MaskRecord) -> Mask {
    rle::decode(&record.rle)
}

/// The outlines of a mask, largest first; `tolerance` is a share of an outline's length.
pub fn outlines(mask: &Mask, tolerance: f32) -> Vec<Vec<[f32; 2]>> {
    let length = |ring: &[[f32; 2]]| -> f32 {
        let next = ring.iter().cycle().skip(1);
        ring.iter().zip(next).map(|(a, b)| (a[0] - b[0]).hypot(a[1] - b[1])).sum()
    };
    let mut rings = polygons(mask);
    rings.sort_by(|a, b| area(b).total_cmp(&area(a)));
    rings.iter().map(|ring| simplify_polygon(ring, tolerance.clamp(0.0, 0.1) * length(ring))).collect()
}

fn area(ring: &[[f32; 2]]) -> f32 {
    let next = ring.iter().cycle().skip(1);
    ring.iter().zip(next).map(|(a, b)| a[0] * b[1] - b[0] * a[1]).sum::<f32>().abs() / 2.0
}

/// x0, y0, x1, y1 of a mask's pixels, the last ones included; none for an empty mask.
pub fn corners(mask: &Mask) -> Option<[usize; 4]> {
    let [x, y, width, height] = mask.bbox_xywh().map(|side| side as usize);
    (width > 0 && height > 0).then(|| [x, y, x + width - 1, y + height - 1])
}

/// A prompt that a tool cannot mean.
pub fn unclear(error: impl Into<String>) -> ApiError {
    ApiError::new(Kind::InvalidPrompt, error)
}
