//! A server in this process: the router over a SAM-CLIP so small that it runs in milliseconds.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use base64::Engine as _;
use http_body_util::BodyExt;
use samclip_predict::ModelSpec;
use samclip_server::{Engine, Limits, Settings, app};
use serde_json::Value;
use tower::ServiceExt;

/// A server with these limits and key, ready to answer.
pub async fn server(limits: Limits, api_key: Option<&str>) -> Arc<Engine> {
    let engine = cold(limits, api_key);
    engine.load().await.unwrap();
    engine
}

/// A server whose model is not loaded yet.
pub fn cold(limits: Limits, api_key: Option<&str>) -> Arc<Engine> {
    let folder = tempfile::tempdir().unwrap();
    let weights = samclip_testkit::tiny::weights(folder.path());
    // The weights are mapped when the model is loaded, so the folder has to stay.
    std::mem::forget(folder);
    let settings = Settings {
        host: "127.0.0.1".to_owned(),
        port: 0,
        model: ModelSpec { weights: Some(weights), ..ModelSpec::new("sam_clip_nano") },
        adapters: Vec::new(),
        api_key: api_key.map(str::to_owned),
        cors: Vec::new(),
        label_studio: None,
        detector_labels: vec!["cat".to_owned(), "no such word".to_owned()],
        assets: None,
        limits,
    };
    Arc::new(Engine::new(settings).unwrap())
}

/// Limits for small pictures.
pub fn small() -> Limits {
    Limits { max_body: 200_000, max_pixels: 100_000, max_prompts: 20, ..Limits::STANDARD }
}

/// What a server answers.
pub async fn send(engine: &Arc<Engine>, request: Request<Body>) -> (StatusCode, Value, axum::http::HeaderMap) {
    let response = app(engine).oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let value = serde_json::from_slice(&bytes).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
    (parts.status, value, parts.headers)
}

/// `POST` of JSON text.
pub async fn post(engine: &Arc<Engine>, path: &str, json: impl Into<Body>) -> (StatusCode, Value) {
    let request = Request::post(path).header("content-type", "application/json").body(json.into()).unwrap();
    let (status, value, _) = send(engine, request).await;
    (status, value)
}

/// `GET`.
pub async fn get(engine: &Arc<Engine>, path: &str) -> (StatusCode, Value) {
    let (status, value, _) = send(engine, Request::get(path).body(Body::empty()).unwrap()).await;
    (status, value)
}

/// A PNG of 40 x 30 pixels.
pub fn picture(seed: u8) -> Vec<u8> {
    let pixels: Vec<u8> = (0..40 * 30 * 3).map(|i: u32| (i * 37 % 251) as u8 ^ seed).collect();
    png(40, 30, &pixels)
}

/// An RGB PNG.
pub fn png(width: u32, height: u32, pixels: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header().unwrap().write_image_data(pixels).unwrap();
    bytes
}

/// Base64.
pub fn base64(bytes: &[u8]) -> String {
    base64::prelude::BASE64_STANDARD.encode(bytes)
}
