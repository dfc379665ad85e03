//! CVAT's serverless functions: what its server asks of nuclio's dashboard, answered without nuclio.
//!
//! Shapes: cvat/apps/lambda_manager/views.py, `LambdaGateway`, and the handlers of cvat/serverless. Two functions:
//! an interactor (clicks and a box become a mask, decoded here) and a detector (the mask of every configured name).
//! Deviation: CVAT's own SAM function sends an embedding that the browser decodes with the original decoder; ours
//! decodes on the server, because the decoder of a SAM-CLIP has other weights.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Request, State};
use samclip_predict::record::{MaskImage, MaskRecord};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{body, corners, mask, outlines, photo_of, segment, unclear};
use crate::ask::{admit, within};
use crate::engine::Engine;
use crate::error::{ApiError, Kind};
use crate::wire::PromptJson;

/// Clicks and a box to a mask.
pub const INTERACTOR: &str = "samclip-interactor";
/// Names to masks.
pub const DETECTOR: &str = "samclip-detector";
/// Share of an outline's length by which polygons are simplified.
const EPSILON: f32 = 0.001;

/// `POST /api/function_invocations`.
#[derive(Debug, Deserialize, ToSchema)]
pub struct CvatRequest {
    /// Base64.
    image: String,
    /// Clicks on the object.
    pos_points: Option<Vec<[f32; 2]>>,
    /// Clicks beside it.
    neg_points: Option<Vec<[f32; 2]>>,
    /// Two corners, or nothing.
    obj_bbox: Option<Vec<[f32; 2]>>,
    /// Masks of names below this score are left out.
    threshold: Option<f32>,
}

/// `GET /api/functions`.
pub async fn functions(State(engine): State<Arc<Engine>>) -> Json<Value> {
    let entries = [INTERACTOR, DETECTOR].map(|name| (name.to_owned(), describe(&engine, name)));
    Json(Value::Object(entries.into_iter().filter_map(|(name, entry)| Some((name, entry?))).collect()))
}

/// `GET /api/functions/NAME`.
///
/// # Errors
/// Another name.
pub async fn function(State(engine): State<Arc<Engine>>, Path(name): Path<String>) -> Result<Json<Value>, ApiError> {
    let unknown = || ApiError::new(Kind::NotFound, format!("no function is called {}", name.chars().take(60).collect::<String>()));
    describe(&engine, &name).map(Json).ok_or_else(unknown)
}

fn describe(engine: &Engine, name: &str) -> Option<Value> {
    let (about, annotations) = match name {
        INTERACTOR => ("Clicks and a box to a mask", interactor_annotations()),
        DETECTOR => {
            let label = |(id, name): (usize, &String)| json!({ "id": id, "name": name, "type": "mask", "attributes": [] });
            let spec: Vec<Value> = labels(engine).iter().enumerate().map(label).collect();
            ("Names to masks", json!({ "type": "detector", "name": "samclip", "framework": "samclip", "version": "1",
                                       "spec": Value::Array(spec).to_string() }))
        }
        _ => return None,
    };
    let state = if engine.is_ready() { "ready" } else { "building" };
    Some(json!({
        "metadata": { "name": name, "namespace": "nuclio", "labels": { "nuclio.io/project-name": "cvat" }, "annotations": annotations },
        "spec": { "description": about, "handler": "samclip", "runtime": "samclip" },
        "status": { "state": state, "httpPort": engine.settings.port },
    }))
}

/// The configured names that the model knows.
fn labels(engine: &Engine) -> Vec<String> {
    let model = engine.served()[0].get();
    let known = |name: &&String| model.is_some_and(|model| model.check_names(&[(*name).clone()]).is_ok());
    engine.settings.detector_labels.iter().filter(known).cloned().collect()
}

fn interactor_annotations() -> Value {
    json!({
        "type": "interactor", "name": "samclip", "framework": "samclip", "version": "2", "min_pos_points": "1",
        "min_neg_points": "0", "startswith_box_optional": "true", "animated_gif": "",
        "help_message": "Click on the object; right click (or Ctrl) beside it",
    })
}

/// `POST /api/function_invocations`: which function is in a header, as nuclio has it.
///
/// # Errors
/// See the table of routes.
pub async fn invoke(State(engine): State<Arc<Engine>>, request: Request) -> Result<Json<Value>, ApiError> {
    let name = request.headers().get("x-nuclio-function-name").and_then(|name| name.to_str().ok());
    let is_detector = match name {
        Some(INTERACTOR) => false,
        Some(DETECTOR) => true,
        _ => return Err(ApiError::new(Kind::UnknownModel, "the header x-nuclio-function-name names no function")),
    };
    let received = admit(&engine, request).await?;
    within(&engine, async {
        let request: CvatRequest = body(received.json).await?;
        match is_detector {
            true => detect(&engine, request).await,
            false => interact(&engine, request).await,
        }
    })
    .await
}

async fn interact(engine: &Arc<Engine>, request: CvatRequest) -> Result<Json<Value>, ApiError> {
    let (positive, negative) = (request.pos_points.unwrap_or_default(), request.neg_points.unwrap_or_default());
    let labels = positive.iter().map(|_| 1).chain(negative.iter().map(|_| 0)).collect();
    let bbox = match request.obj_bbox.as_deref() {
        None | Some([]) => None,
        Some(&[[x0, y0], [x1, y1]]) => Some([x0.min(x1), y0.min(y1), x0.max(x1), y0.max(y1)]),
        Some(other) => return Err(unclear(format!("obj_bbox has {} corners, expected 2", other.len()))),
    };
    let points = Some(positive.into_iter().chain(negative).collect());
    let prompt = PromptJson { points, labels: Some(labels), bbox, ..PromptJson::default() };
    let image = segment(engine, photo_of(engine, request.image).await?, None, vec![prompt]).await?;
    let Some(record) = image.masks.first() else { return Err(unclear("no mask was found")) };
    let mask = mask(record);
    let rows: Vec<Vec<u8>> = mask.data.chunks_exact(mask.width).map(|row| row.iter().map(|set| u8::from(*set)).collect()).collect();
    let polygon = outlines(&mask, EPSILON).into_iter().next().unwrap_or_default();
    Ok(Json(json!({ "points": polygon, "mask": rows })))
}

async fn detect(engine: &Arc<Engine>, request: CvatRequest) -> Result<Json<Value>, ApiError> {
    let prompt = |name: &String| PromptJson { text: Some(name.clone()), ..PromptJson::default() };
    let prompts: Vec<PromptJson> = labels(engine).iter().map(prompt).collect();
    if prompts.is_empty() {
        return Ok(Json(json!([])));
    }
    let image: MaskImage = segment(engine, photo_of(engine, request.image).await?, None, prompts).await?;
    let threshold = request.threshold.unwrap_or(0.5);
    let found = image.masks.iter().filter(|record| record.score >= threshold);
    Ok(Json(Value::Array(found.filter_map(shape).collect())))
}

/// A mask as CVAT's shape: the crop's pixels row by row, then its corners.
fn shape(record: &MaskRecord) -> Option<Value> {
    let mask = mask(record);
    let [x0, y0, x1, y1] = corners(&mask)?;
    let cropped = mask.crop(x0, y0, x1 - x0 + 1, y1 - y0 + 1);
    let pixels = cropped.data.iter().map(|set| usize::from(*set)).chain([x0, y0, x1, y1]);
    let polygon: Vec<f32> = outlines(&mask, EPSILON).into_iter().next().unwrap_or_default().concat();
    Some(json!({
        "confidence": record.score.to_string(), "label": record.text, "points": polygon, "type": "mask",
        "mask": pixels.collect::<Vec<usize>>(), "attributes": [],
    }))
}
