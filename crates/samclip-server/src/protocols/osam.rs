//! osam's server: `POST /api/generate`.
//!
//! Shapes: osam/types/_generate.py of osam 0.8. Points and box corners describe one object, every text is one.
//! Deviation: no `image_embedding` is sent or taken; the photo is known again by its bytes.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use base64::Engine as _;
use samclip_predict::record::{MaskImage, MaskRecord};
use samclip_image::png_grey;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{body, corners, mask, photo_of, segment, unclear};
use crate::ask::{admit, within};
use crate::engine::Engine;
use crate::error::ApiError;
use crate::wire::PromptJson;

/// `POST /api/generate`.
#[derive(Debug, Deserialize, ToSchema)]
pub struct OsamRequest {
    /// Any name; the served model or one of its adapters answers.
    model: String,
    /// Base64.
    image: Option<String>,
    /// What is asked.
    prompt: Option<OsamPrompt>,
}

/// What is asked.
#[derive(Debug, Deserialize, ToSchema)]
pub struct OsamPrompt {
    /// x, y.
    points: Option<Vec<[f32; 2]>>,
    /// -1 nothing, 0 beside, 1 on the object, 2 left top and 3 right bottom of a box.
    point_labels: Option<Vec<i64>>,
    /// Names.
    texts: Option<Vec<String>>,
    /// Masks of a text below this score are left out (0.1).
    score_threshold: Option<f32>,
    /// At most so many (100).
    max_annotations: Option<usize>,
}

/// Masks as cropped PNGs.
///
/// # Errors
/// See the table of routes.
pub async fn generate(State(engine): State<Arc<Engine>>, request: Request) -> Result<Json<Value>, ApiError> {
    let received = admit(&engine, request).await?;
    within(&engine, async {
        let OsamRequest { model, image, prompt } = body(received.json).await?;
        let image = image.ok_or_else(|| unclear("no image: image embeddings of other models are not taken"))?;
        let prompt = prompt.ok_or_else(|| unclear("no prompt: expected points or texts"))?;
        let prompts = prompts(&prompt)?;
        let known = engine.served().iter().any(|served| served.adapter.as_ref() == Some(&model));
        let photo = photo_of(&engine, image).await?;
        let found = segment(&engine, photo, known.then_some(model.as_str()), prompts).await?;
        let annotations = annotations(&found, &prompt);
        Ok(Json(json!({ "model": model, "image_embedding": null, "annotations": annotations })))
    })
    .await
}

fn prompts(prompt: &OsamPrompt) -> Result<Vec<PromptJson>, ApiError> {
    let (Some(points), Some(labels)) = (&prompt.points, &prompt.point_labels) else {
        let texts = prompt.texts.iter().flatten();
        return Ok(texts.map(|text| PromptJson { text: Some(text.clone()), ..PromptJson::default() }).collect());
    };
    if points.len() != labels.len() {
        return Err(unclear(format!("{} points with {} labels", points.len(), labels.len())));
    }
    let with = |wanted: i64| points.iter().zip(labels).filter(move |(_, label)| **label == wanted).map(|(point, _)| *point);
    let bbox = match (with(2).next(), with(3).next()) {
        (Some([x0, y0]), Some([x1, y1])) => Some([x0, y0, x1, y1]),
        (None, None) => None,
        _ => return Err(unclear("a box needs both of its corners (labels 2 and 3)")),
    };
    if let Some(label) = labels.iter().find(|label| !(-1..=3).contains(*label)) {
        return Err(unclear(format!("point label {label}: expected -1 to 3")));
    }
    let (own, labels) = (points.iter().zip(labels)).filter(|(_, l)| matches!(l, 0 | 1)).map(|(p, l)| (*p, *l as u8)).unzip();
    Ok(vec![PromptJson { points: Some(own), labels: Some(labels), bbox, ..PromptJson::default() }])
}

fn annotations(image: &MaskImage, prompt: &OsamPrompt) -> Vec<Value> {
    let floor = prompt.score_threshold.unwrap_or(0.1);
    let wanted = image.masks.iter().filter(|record| record.text.is_none() || record.score >= floor);
    wanted.filter_map(annotation).take(prompt.max_annotations.unwrap_or(100)).collect()
}

/// One mask, cropped to its pixels; none for an empty one.
fn annotation(record: &MaskRecord) -> Option<Value> {
    let mask = mask(record);
    let [x0, y0, x1, y1] = corners(&mask)?;
    let cropped = mask.crop(x0, y0, x1 - x0 + 1, y1 - y0 + 1);
    let grey: Vec<u8> = cropped.data.iter().map(|set| if *set { 255 } else { 0 }).collect();
    let png = base64::prelude::BASE64_STANDARD.encode(png_grey(cropped.width, cropped.height, &grey));
    Some(json!({
        "bounding_box": { "xmin": x0, "ymin": y0, "xmax": x1, "ymax": y1 },
        "text": record.text, "score": record.score, "mask": png,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(json: &str) -> Result<Vec<PromptJson>, ApiError> {
        prompts(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn labels_2_and_3_are_a_box() {
        let json = r#"{"points": [[1, 2], [5, 6], [3, 4], [0, 0], [7, 7]], "point_labels": [2, 3, 1, -1, 0]}"#;
        let [one] = <[PromptJson; 1]>::try_from(parsed(json).unwrap()).unwrap();
        assert_eq!(one.bbox.unwrap(), [1.0, 2.0, 5.0, 6.0]);
        assert_eq!((one.points.unwrap(), one.labels.unwrap()), (vec![[3.0, 4.0], [7.0, 7.0]], vec![1, 0]));
        assert_eq!(parsed(r#"{"texts": ["cat", "dog"]}"#).unwrap().len(), 2);
        assert!(parsed(r#"{"points": [[1, 2]], "point_labels": [2]}"#).is_err());
        assert!(parsed(r#"{"points": [[1, 2]], "point_labels": [9]}"#).is_err());
        assert!(parsed(r#"{"points": [[1, 2]], "point_labels": []}"#).is_err());
    }
}
