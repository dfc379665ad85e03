//! Label Studio's ML backend: `/setup`, `/predict`, `/webhook`, `/health`.
//!
//! Shapes: label-studio-ml-backend, `label_studio_ml/api.py` and its examples; coordinates are percent of the image.
//! With clicks or a rectangle (`params.context`) the answer is one object; with a text of a `TextArea` it is that
//! name's mask; without either every label of the project that the model knows is asked for.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use samclip_predict::record::{MaskImage, MaskRecord};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{body, brush_rle, mask, photo, segment, unclear};
use crate::ask::{admit, within};
use crate::body::receive;
use crate::engine::Engine;
use crate::error::ApiError;
use crate::protocols::label_studio_files::picture;
use crate::wire::PromptJson;

/// `POST /setup`.
#[derive(Debug, Deserialize, ToSchema)]
pub struct LabelStudioSetup {
    /// The labelling configuration (XML).
    schema: Option<String>,
}

/// `POST /webhook`.
#[derive(Debug, Deserialize, ToSchema)]
pub struct LabelStudioWebhook {
    /// What happened.
    action: Option<String>,
}

/// `POST /predict`.
#[derive(Debug, Deserialize, ToSchema)]
pub struct LabelStudioPredict {
    /// The images.
    tasks: Vec<LabelStudioTask>,
    /// The labelling configuration (XML).
    label_config: Option<String>,
    /// What the annotator did.
    #[serde(default)]
    params: LabelStudioParams,
}

/// One image.
#[derive(Debug, Deserialize, ToSchema)]
struct LabelStudioTask {
    /// Names and addresses of its files.
    #[schema(value_type = Object)]
    data: serde_json::Map<String, Value>,
}

/// What the annotator did.
#[derive(Debug, Default, Deserialize, ToSchema)]
struct LabelStudioParams {
    /// The regions so far.
    context: Option<LabelStudioContext>,
}

/// The regions so far.
#[derive(Debug, Default, Deserialize, ToSchema)]
struct LabelStudioContext {
    /// Clicks, rectangles, texts.
    #[serde(default)]
    result: Vec<LabelStudioItem>,
}

/// A click, a rectangle or a text.
#[derive(Debug, Deserialize, ToSchema)]
struct LabelStudioItem {
    /// `keypointlabels`, `rectanglelabels`, `textarea` and others.
    #[serde(rename = "type", default)]
    kind: String,
    /// In percent.
    #[serde(default)]
    #[schema(value_type = Object)]
    value: Value,
    /// False for a click beside the object.
    #[schema(value_type = Option<bool>)]
    is_positive: Option<Value>,
}

/// The brush of a project.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Brush {
    from_name: String,
    to_name: String,
    /// The field of the task that the image is in.
    field: String,
    labels: Vec<String>,
}

/// `GET /health`.
pub async fn health(State(engine): State<Arc<Engine>>) -> Json<Value> {
    Json(json!({ "status": "UP", "model_class": engine.served()[0].name, "v2": true }))
}

/// `POST /setup`: the configuration must have a brush.
///
/// # Errors
/// See the table of routes.
pub async fn setup(State(engine): State<Arc<Engine>>, request: Request) -> Result<Json<Value>, ApiError> {
    let received = receive(request, &engine.settings.limits).await?;
    let setup: LabelStudioSetup = body(received.json).await?;
    if let Some(schema) = setup.schema.filter(|schema| !schema.trim().is_empty()) {
        brush(&schema)?;
    }
    Ok(Json(json!({ "model_version": version(&engine) })))
}

/// `POST /webhook`: nothing is learnt from annotations here.
///
/// # Errors
/// See the table of routes.
pub async fn webhook(State(engine): State<Arc<Engine>>, request: Request) -> Result<(StatusCode, Json<Value>), ApiError> {
    let received = receive(request, &engine.settings.limits).await?;
    let event: LabelStudioWebhook = body(received.json).await?;
    tracing::debug!(action = event.action.unwrap_or_default(), "webhook");
    Ok((StatusCode::CREATED, Json(json!({ "status": "ok" }))))
}

/// `POST /predict`.
///
/// # Errors
/// See the table of routes.
pub async fn predict(State(engine): State<Arc<Engine>>, request: Request) -> Result<Json<Value>, ApiError> {
    let received = admit(&engine, request).await?;
    within(&engine, async {
        let LabelStudioPredict { tasks, label_config, params } = body(received.json).await?;
        let brush = brush(label_config.as_deref().unwrap_or_default())?;
        let context = params.context.unwrap_or_default().result;
        let asked = Asked::new(&engine, &brush, &context)?;
        let mut results = Vec::new();
        for task in &tasks {
            results.push(result(&engine, task, &brush, &asked).await?);
        }
        Ok(Json(json!({ "results": results, "model_version": version(&engine) })))
    })
    .await
}

fn version(engine: &Engine) -> String {
    format!("samclip-{}-{}", env!("CARGO_PKG_VERSION"), engine.served()[0].name)
}

/// What is asked for every task.
enum Asked {
    /// One object, as shares of the image.
    Object { points: Vec<([f64; 2], u8)>, bbox: Option<[f64; 4]>, label: Option<String> },
    /// Names, and the label of the project that each becomes.
    Names(Vec<(String, String)>),
}

impl Asked {
    fn new(engine: &Engine, brush: &Brush, context: &[LabelStudioItem]) -> Result<Self, ApiError> {
        let (mut points, mut bbox, mut label, mut names) = (Vec::new(), None, None, Vec::new());
        for item in context {
            let share = |key: &str| item.value.get(key).and_then(Value::as_f64).map(|percent| percent / 100.0);
            let labels = item.value.get(&item.kind).and_then(Value::as_array);
            label = labels.and_then(|l| l.last()).and_then(Value::as_str).map(str::to_owned).or(label);
            match item.kind.as_str() {
                "keypoint" | "keypointlabels" => {
                    let at = share("x").zip(share("y")).ok_or_else(|| unclear("a key point without x and y"))?;
                    points.push(([at.0, at.1], u8::from(!is_false(item.is_positive.as_ref()))));
                }
                "rectangle" | "rectanglelabels" => {
                    let corner = share("x").zip(share("y")).ok_or_else(|| unclear("a rectangle without x and y"))?;
                    let size = share("width").zip(share("height")).ok_or_else(|| unclear("a rectangle without size"))?;
                    bbox = Some([corner.0, corner.1, corner.0 + size.0, corner.1 + size.1]);
                }
                "textarea" => names.extend(texts(&item.value)),
                _ => {}
            }
        }
        if !points.is_empty() || bbox.is_some() {
            return Ok(Self::Object { points, bbox, label: label.or_else(|| brush.labels.first().cloned()) });
        }
        if !names.is_empty() {
            let own = |name: &String| brush.labels.iter().find(|l| l.eq_ignore_ascii_case(name)).or(brush.labels.first());
            return Ok(Self::Names(names.iter().map(|name| (name.clone(), own(name).unwrap_or(name).clone())).collect()));
        }
        let model = engine.served()[0].get().ok_or_else(ApiError::starting)?;
        let known = brush.labels.iter().filter(|label| model.check_names(&[(*label).clone()]).is_ok());
        Ok(Self::Names(known.map(|label| (label.clone(), label.clone())).collect()))
    }

    /// In pixels of an image.
    fn prompts(&self, width: f64, height: f64) -> Vec<PromptJson> {
        let pixel = |share: f64, size: f64| (share.clamp(0.0, 1.0) * size) as f32;
        match self {
            Self::Names(names) => {
                let prompt = |name: &str| PromptJson { text: Some(name.to_owned()), ..PromptJson::default() };
                names.iter().map(|(name, _)| prompt(name)).collect()
            }
            Self::Object { points, bbox, .. } => {
                let (points, labels) =
                    points.iter().map(|([x, y], label)| ([pixel(*x, width), pixel(*y, height)], *label)).unzip();
                let bbox = bbox.map(|[x0, y0, x1, y1]| {
                    [pixel(x0, width), pixel(y0, height), pixel(x1, width), pixel(y1, height)]
                });
                vec![PromptJson { points: Some(points), labels: Some(labels), bbox, ..PromptJson::default() }]
            }
        }
    }

    fn label(&self, record: &MaskRecord) -> Option<&str> {
        match self {
            Self::Object { label, .. } => label.as_deref(),
            Self::Names(names) => {
                let text = record.text.as_deref()?;
                names.iter().find(|(name, _)| name.trim() == text).map(|(_, label)| label.as_str())
            }
        }
    }
}

/// Label Studio writes `is_positive` as a boolean, 0 or 1.
fn is_false(value: Option<&Value>) -> bool {
    matches!(value, Some(Value::Bool(false))) || value.and_then(Value::as_i64) == Some(0)
}

fn texts(value: &Value) -> Vec<String> {
    let text = match value.get("text") {
        Some(Value::Array(texts)) => texts.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        Some(Value::String(text)) => vec![text.clone()],
        _ => Vec::new(),
    };
    text.into_iter().map(|text: String| text.trim().to_owned()).filter(|text| !text.is_empty()).collect()
}

async fn result(engine: &Arc<Engine>, task: &LabelStudioTask, brush: &Brush, asked: &Asked) -> Result<Value, ApiError> {
    let address = task.data.get(&brush.field).or_else(|| task.data.values().next()).and_then(Value::as_str);
    let address = address.ok_or_else(|| unclear(format!("the task has no image in its field `{}`", brush.field)))?.to_owned();
    let (settings, limits) = (engine.settings.label_studio.clone(), engine.settings.limits.clone());
    let photo = photo(engine, move || picture(&address, settings.as_ref(), &limits)).await?;
    let prompts = asked.prompts(photo.image.width() as f64, photo.image.height() as f64);
    if prompts.is_empty() {
        return Ok(json!({ "result": [], "score": 0.0, "model_version": version(engine) }));
    }
    let image = segment(engine, photo, None, prompts).await?;
    let items: Vec<Value> = regions(&image, brush, asked);
    let scores: Vec<f64> = items.iter().filter_map(|item| item["score"].as_f64()).collect();
    let score = scores.iter().sum::<f64>() / scores.len().max(1) as f64;
    Ok(json!({ "result": items, "score": score, "model_version": version(engine) }))
}

fn regions(image: &MaskImage, brush: &Brush, asked: &Asked) -> Vec<Value> {
    let region = |(i, record): (usize, &MaskRecord)| {
        let label = asked.label(record)?;
        let rle = brush_rle::encode(&mask(record));
        (record.area > 0).then(|| {
            json!({
                "id": format!("samclip{i:04}"), "from_name": brush.from_name, "to_name": brush.to_name,
                "original_width": image.width, "original_height": image.height, "image_rotation": 0,
                "value": { "format": "rle", "rle": rle, "brushlabels": [label] },
                "score": record.score, "type": "brushlabels", "readonly": false,
            })
        })
    };
    image.masks.iter().enumerate().filter_map(region).collect()
}

/// The first `BrushLabels` of a labelling configuration.
fn brush(config: &str) -> Result<Brush, ApiError> {
    let parse = |error: roxmltree::Error| unclear(format!("the labelling configuration is not XML ({error})"));
    let document = roxmltree::Document::parse(config).map_err(parse)?;
    let node = document.descendants().find(|node| node.has_tag_name("BrushLabels")).ok_or_else(|| {
        unclear("the labelling configuration has no brush").hint("add <BrushLabels name=\"brush\" toName=\"image\">")
    })?;
    let to_name = node.attribute("toName").unwrap_or("image");
    let image = document.descendants().find(|node| node.attribute("name") == Some(to_name));
    let field = image.and_then(|node| node.attribute("value")).unwrap_or("$image").trim_start_matches('$');
    let labels = node.children().filter(|child| child.has_tag_name("Label")).filter_map(|child| child.attribute("value"));
    Ok(Brush {
        from_name: node.attribute("name").unwrap_or("brush").to_owned(),
        to_name: to_name.to_owned(),
        field: field.to_owned(),
        labels: labels.map(str::to_owned).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"<View><Image name="photo" value="$picture"/>
        <BrushLabels name="tag" toName="photo"><Label value="Cat"/><Label value="Dog" background="red"/></BrushLabels></View>"#;

    #[test]
    fn the_brush_of_a_configuration() {
        let brush = brush(CONFIG).unwrap();
        assert_eq!((brush.from_name.as_str(), brush.to_name.as_str(), brush.field.as_str()), ("tag", "photo", "picture"));
        assert_eq!(brush.labels, ["Cat", "Dog"]);
        assert!(super::brush("<View/>").unwrap_err().hint.is_some());
        assert!(super::brush("<View>").is_err());
    }

    #[test]
    fn clicks_are_percent() {
        let points = vec![([0.5, 0.25], 1), ([1.2, 0.0], 0)];
        let asked = Asked::Object { points, bbox: Some([0.1, 0.1, 0.9, 0.5]), label: None };
        let prompts = asked.prompts(200.0, 100.0);
        assert_eq!(prompts[0].points.as_ref().unwrap(), &[[100.0, 25.0], [200.0, 0.0]]);
        assert_eq!(prompts[0].bbox.unwrap(), [20.0, 10.0, 180.0, 50.0]);
    }
}
