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
use crate::store::Photo;
use crate::wire::{PromptJson, SegmentRequest, parse};

/// The photo of a file that `bytes` gives.
///
/// # Errors
/// What `bytes` says, and see [`decoded`].
pub async fn photo(
    engine: &Engine,
    bytes: impl FnOnce() -> Result<Bytes, ApiError> + Send + 'static,
) -> Result<Photo, ApiError> {
    let (store, max_pixels) = (engine.store.clone(), engine.settings.limits.max_pixels);
    blocking(move || decoded(&store, &bytes()?, "image".as_ref(), max_pixels)).await
}

/// The photo of base64 text or a `data:` URL.
///
/// # Errors
/// See [`photo`].
pub async fn photo_of(engine: &Engine, text: String) -> Result<Photo, ApiError> {
    photo(engine, move || Ok(decode_image(&text)?.into())).await
}

/// The masks for a tool's prompts.
///
/// # Errors
/// See `POST /v1/segment`.
pub async fn segment(
    engine: &Arc<Engine>,
    photo: Photo,
    model: Option<&str>,
    prompts: Vec<PromptJson>,
) -> Result<MaskImage, ApiError> {
    let file = PathBuf::from("image");
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
