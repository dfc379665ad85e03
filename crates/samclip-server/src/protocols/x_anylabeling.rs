//! X-AnyLabeling's remote server: `GET /v1/models` (beside our own list) and `POST /v1/predict`.
//!
//! Shapes: anylabeling/services/auto_labeling/remote_server.py of X-AnyLabeling 4. Marks describe one object; a text
//! prompt may hold several names, separated by full stops or commas.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use samclip_predict::Model;
use samclip_predict::record::MaskImage;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{body, mask, outlines, photo_of, segment, unclear};
use crate::ask::{admit, within};
use crate::engine::{Engine, Served};
use crate::error::ApiError;
use crate::wire::PromptJson;

/// `POST /v1/predict`.
#[derive(Debug, Deserialize, ToSchema)]
pub struct XAnyLabelingRequest {
    /// A model's id.
    model: Option<String>,
    /// A `data:` URL.
    image: String,
    /// What is asked.
    #[serde(default)]
    params: XAnyLabelingParams,
}

/// What is asked.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct XAnyLabelingParams {
    /// Names.
    text_prompt: Option<String>,
    /// Clicks and a rectangle.
    #[serde(default)]
    marks: Vec<XAnyLabelingMark>,
    /// Masks of a text below this score are left out.
    #[serde(default)]
    conf_threshold: f32,
    /// How much outlines are simplified, as a share of their length.
    epsilon_factor: Option<f32>,
}

/// A click or a rectangle.
#[derive(Debug, Deserialize, ToSchema)]
pub struct XAnyLabelingMark {
    /// `point` or `rectangle`.
    #[serde(rename = "type")]
    kind: String,
    /// x, y or x0, y0, x1, y1.
    data: Vec<f32>,
    /// 1 on the object, 0 beside it.
    label: Option<i64>,
}

/// The outline's tolerance where the tool says nothing: its own default.
const EPSILON: f32 = 0.001;
/// The label that the tool replaces by the annotator's choice.
const UNNAMED: &str = "AUTOLABEL_OBJECT";

/// The models by id, for the tool's list.
pub fn models(base: &Served, model: &Model, adapters: &[&str]) -> Value {
    let mut tasks = Vec::new();
    if model.prompt_segmenter().is_ok() {
        tasks.push(json!({ "id": "visual_prompting", "name": "Clicks and rectangles", "batch_processing_mode": null }));
    }
    if model.locator().is_ok() {
        tasks.push(json!({ "id": "text_prompting", "name": "Names", "batch_processing_mode": "text_prompt" }));
    }
    let entry = |name: &str| {
        json!({ "model_id": name, "display_name": format!("samclip {name}"), "batch_processing_mode": "text_prompt",
                "available_tasks": tasks })
    };
    let names = std::iter::once(base.name.as_str()).chain(adapters.iter().copied());
    Value::Object(names.map(|name| (name.to_owned(), entry(name))).collect())
}

/// Masks as polygons.
///
/// # Errors
/// See the table of routes.
pub async fn predict(State(engine): State<Arc<Engine>>, request: Request) -> Result<Json<Value>, ApiError> {
    let received = admit(&engine, request).await?;
    within(&engine, async {
        let XAnyLabelingRequest { model, image, params } = body(received.json).await?;
        let prompts = prompts(&params)?;
        let image = match prompts.is_empty() {
            true => None,
            false => Some(segment(&engine, photo_of(&engine, image).await?, model.as_deref(), prompts).await?),
        };
        let shapes = image.map(|image| shapes(&image, &params)).unwrap_or_default();
        Ok(Json(json!({ "data": { "shapes": shapes, "description": "", "replace": params.marks.is_empty() } })))
    })
    .await
}

fn prompts(params: &XAnyLabelingParams) -> Result<Vec<PromptJson>, ApiError> {
    if let Some(text) = &params.text_prompt {
        let names = text.split(['.', ',']).map(str::trim).filter(|name| !name.is_empty());
        return Ok(names.map(|name| PromptJson { text: Some(name.to_owned()), ..PromptJson::default() }).collect());
    }
    if params.marks.is_empty() {
        return Ok(Vec::new());
    }
    let mut prompt = PromptJson::default();
    let (mut points, mut labels) = (Vec::new(), Vec::new());
    for mark in &params.marks {
        match (mark.kind.as_str(), mark.data.as_slice()) {
            ("point", &[x, y]) => {
                points.push([x, y]);
                labels.push(u8::from(mark.label != Some(0)));
            }
            ("rectangle", &[x0, y0, x1, y1]) => prompt.bbox = Some([x0.min(x1), y0.min(y1), x0.max(x1), y0.max(y1)]),
            (kind, data) => {
                return Err(unclear(format!("a mark is a point of 2 or a rectangle of 4 numbers, found {:.20} of {}", kind, data.len())));
            }
        }
    }
    (prompt.points, prompt.labels) = (Some(points), Some(labels));
    Ok(vec![prompt])
}

fn shapes(image: &MaskImage, params: &XAnyLabelingParams) -> Vec<Value> {
    let tolerance = params.epsilon_factor.unwrap_or(EPSILON);
    let wanted = image.masks.iter().filter(|record| record.text.is_none() || record.score >= params.conf_threshold);
    let mut shapes = Vec::new();
    for (group, record) in wanted.enumerate() {
        let rings = outlines(&mask(record), tolerance);
        let group = (rings.len() > 1).then_some(group);
        for mut ring in rings {
            // The tool draws a closed polygon when the first point is repeated.
            ring.extend(ring.first().copied());
            shapes.push(json!({
                "label": record.text.as_deref().unwrap_or(UNNAMED), "shape_type": "polygon", "points": ring,
                "score": record.score, "group_id": group, "attributes": {}, "flags": {}, "description": null,
                "difficult": false, "direction": 0, "kie_linking": [],
            }));
        }
    }
    shapes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_one_object_and_texts_are_several() {
        let parse = |json: &str| prompts(&serde_json::from_str(json).unwrap());
        let marks = r#"{"marks": [{"type": "point", "data": [1, 2], "label": 1}, {"type": "point", "data": [3, 4], "label": 0},
                        {"type": "rectangle", "data": [9, 8, 5, 6], "label": 1}]}"#;
        let [one] = <[PromptJson; 1]>::try_from(parse(marks).unwrap()).unwrap();
        assert_eq!((one.points.unwrap().len(), one.labels.unwrap()), (2, vec![1, 0]));
        assert_eq!(one.bbox.unwrap(), [5.0, 6.0, 9.0, 8.0]);
        assert_eq!(parse(r#"{"text_prompt": "cat. dog,"}"#).unwrap().len(), 2);
        assert!(parse("{}").unwrap().is_empty());
        assert!(parse(r#"{"marks": [{"type": "point", "data": [1]}]}"#).is_err());
    }
}
