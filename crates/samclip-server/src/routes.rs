//! The table of routes, and the routes that describe the server itself.
//!
//! [`ROUTES`] says for each path what it is and which errors it may answer with; the router and the OpenAPI
//! document are made from it.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::ask::{ask, embed};
use crate::engine::Engine;
use crate::error::{ApiError, Kind};
use crate::protocols::{cvat, label_studio, osam, x_anylabeling};
use crate::wire::{ClassifyRequest, EverythingRequest, LabelRequest, LocateRequest, SegmentRequest};
use crate::{openapi, page};

/// Who may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Open,
    /// Who has the key.
    Key,
}

/// One route.
pub struct Route {
    /// `get` or `post`.
    pub method: &'static str,
    /// As axum writes it.
    pub path: &'static str,
    /// One sentence.
    pub about: &'static str,
    /// The schema of the body.
    pub body: Option<&'static str>,
    /// Who may ask.
    pub access: Access,
    /// Which errors it may answer with, beside those of its access, by what it does.
    pub kinds: &'static [&'static [Kind]],
    handler: fn() -> MethodRouter<Arc<Engine>>,
}

/// A body that is received and read.
const BODY: &[Kind] = &[
    Kind::InvalidBody, Kind::InvalidJson, Kind::SlowBody, Kind::BodyTooLarge, Kind::ContentType, Kind::InvalidRequest,
    Kind::Overloaded, Kind::Internal,
];
/// A place in the queue.
const QUEUE: &[Kind] = &[Kind::Starting, Kind::Draining, Kind::Deadline];
/// A photo.
const PHOTO: &[Kind] = &[Kind::InvalidBase64, Kind::ImageType, Kind::TooManyPixels, Kind::DamagedImage];
/// A cached photo, and a model by its name.
const OWN: &[Kind] = &[Kind::UnknownKey, Kind::UnknownModel];
const MODEL: &[Kind] = &[Kind::UnknownModel];
/// Something that not every model can do, and not without end.
const ROLE: &[Kind] = &[Kind::NoRole, Kind::TooManyPrompts];
const NAMES: &[Kind] = &[Kind::InvalidPrompt, Kind::UnknownName];
const PROMPT: &[Kind] = &[Kind::InvalidPrompt];
const OPTION: &[Kind] = &[Kind::InvalidOption];
const CLICKS: &[Kind] = &[Kind::TextWithClicks];
const LOADED: &[Kind] = &[Kind::Starting];
const READY: &[Kind] = &[Kind::Starting, Kind::Draining, Kind::Internal];
const NAMED: &[Kind] = &[Kind::NotFound];

macro_rules! route {
    ($method:ident $path:literal $access:ident $body:expr, [$($kinds:expr),*], $handler:expr, $about:literal) => {
        Route {
            method: stringify!($method),
            path: $path,
            about: $about,
            body: $body,
            access: Access::$access,
            kinds: &[$($kinds),*],
            handler: || $method($handler),
        }
    };
}

/// Every route.
pub const ROUTES: &[Route] = &[
    route!(post "/v1/embed" Key Some("EmbedRequest"), [BODY, QUEUE, PHOTO, OWN], embed, "Encodes an image for the prompts that follow"),
    route!(post "/v1/segment" Key Some("SegmentRequest"), [BODY, QUEUE, PHOTO, OWN, ROLE, NAMES, OPTION, CLICKS], ask::<SegmentRequest>, "A mask for every prompt"),
    route!(post "/v1/everything" Key Some("EverythingRequest"), [BODY, QUEUE, PHOTO, OWN, ROLE, OPTION], ask::<EverythingRequest>, "Masks of everything"),
    route!(post "/v1/classify" Key Some("ClassifyRequest"), [BODY, QUEUE, PHOTO, OWN, ROLE, NAMES], ask::<ClassifyRequest>, "Which name fits the image"),
    route!(post "/v1/locate" Key Some("LocateRequest"), [BODY, QUEUE, PHOTO, OWN, ROLE, NAMES], ask::<LocateRequest>, "Where names are in the image"),
    route!(post "/v1/label" Key Some("LabelRequest"), [BODY, QUEUE, PHOTO, OWN, ROLE, NAMES, OPTION], ask::<LabelRequest>, "A class for every pixel"),
    route!(get "/v1/models" Key None, [LOADED], models, "The served model and its adapters"),
    route!(get "/v1/vocabulary" Key None, [LOADED], vocabulary, "The names that the model knows"),
    route!(get "/openapi.json" Key None, [], document, "This document"),
    route!(get "/metrics" Key None, [], metrics, "Counters and times in Prometheus' text format"),
    route!(get "/healthz" Open None, [], health, "The process is alive"),
    route!(get "/readyz" Open None, [READY], ready, "The model answers (a real, tiny inference)"),
    route!(get "/" Open None, [], page::index, "The page"),
    route!(get "/assets/{*path}" Open None, [NAMED], page::asset, "Files of the page"),
    route!(post "/v1/predict" Key Some("XAnyLabelingRequest"), [BODY, QUEUE, PHOTO, MODEL, ROLE, NAMES], x_anylabeling::predict, "X-AnyLabeling's remote server"),
    route!(post "/api/generate" Key Some("OsamRequest"), [BODY, QUEUE, PHOTO, ROLE, NAMES], osam::generate, "osam's server (labelme)"),
    route!(post "/setup" Key Some("LabelStudioSetup"), [BODY, PROMPT], label_studio::setup, "Label Studio: the project's labels"),
    route!(post "/predict" Key Some("LabelStudioPredict"), [BODY, QUEUE, PHOTO, ROLE, NAMES], label_studio::predict, "Label Studio: masks for an annotator's clicks"),
    route!(post "/webhook" Key Some("LabelStudioWebhook"), [BODY], label_studio::webhook, "Label Studio: events, which change nothing here"),
    route!(get "/health" Open None, [], label_studio::health, "Label Studio: alive"),
    route!(get "/api/functions" Key None, [], cvat::functions, "CVAT (as nuclio's dashboard): the functions"),
    route!(get "/api/functions/{name}" Key None, [NAMED], cvat::function, "CVAT: one function"),
    route!(post "/api/function_invocations" Key Some("CvatRequest"), [BODY, QUEUE, PHOTO, MODEL, ROLE, PROMPT], cvat::invoke, "CVAT: calls the function of the header x-nuclio-function-name"),
];

/// The router over the table.
pub fn router() -> Router<Arc<Engine>> {
    let add = |router: Router<Arc<Engine>>, route: &Route| router.route(route.path, (route.handler)());
    ROUTES.iter().fold(Router::new(), add).fallback(not_found).method_not_allowed_fallback(method_not_allowed)
}

async fn not_found(request: Request) -> ApiError {
    let path: String = request.uri().path().chars().take(100).collect();
    ApiError::new(Kind::NotFound, format!("nothing is here: {path}")).hint("GET /openapi.json lists what there is")
}

async fn method_not_allowed(request: Request) -> ApiError {
    ApiError::new(Kind::MethodNotAllowed, format!("method {} is not for this path", request.method()))
}

async fn health() -> Json<Value> {
    Json(json!({ "status": "alive" }))
}

async fn ready(State(engine): State<Arc<Engine>>) -> Result<Json<Value>, ApiError> {
    if engine.is_draining() {
        return Err(ApiError::draining());
    }
    if !engine.is_ready() {
        return Err(ApiError::starting());
    }
    engine.is_sound().await?;
    Ok(Json(json!({ "status": "ready" })))
}

async fn metrics(State(engine): State<Arc<Engine>>) -> Response {
    let text = crate::telemetry::render(&engine);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

async fn document() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], openapi::document_json()).into_response()
}

/// Ours, and X-AnyLabeling's list beside it.
async fn models(State(engine): State<Arc<Engine>>) -> Result<Json<Value>, ApiError> {
    let base = &engine.served()[0];
    let model = base.get().ok_or_else(ApiError::starting)?;
    let can = [
        ("segment", model.prompt_segmenter().is_ok()),
        ("everything", model.sam().is_ok()),
        ("classify", model.classifier().is_ok()),
        ("locate", model.locator().is_ok()),
        ("label", model.labeller().is_ok()),
    ];
    let roles: Vec<&str> = can.iter().filter(|(_, able)| *able).map(|(role, _)| *role).collect();
    let adapters: Vec<&str> = engine.served().iter().filter_map(|served| served.adapter.as_deref()).collect();
    let entry = json!({
        "name": base.name, "roles": roles, "adapters": adapters, "default": true, "precision": model.precision,
        "texts": can[2].1,
    });
    Ok(Json(json!({ "models": [entry], "data": x_anylabeling::models(base, model, &adapters) })))
}

async fn vocabulary(State(engine): State<Arc<Engine>>) -> Result<Json<Value>, ApiError> {
    let model = engine.served()[0].get().ok_or_else(ApiError::starting)?;
    Ok(Json(json!({ "words": model.vocabulary() })))
}
