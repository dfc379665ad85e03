//! Requests that are wrong in every way we could think of: each gets the documented code and kind, never 500.


use std::sync::Arc;

use axum::body::Body;
use axum::http::Request;
use crate::common::{base64, picture, png, send, server, small};
use samclip_server::openapi;
use samclip_server::routes::ROUTES;
use samclip_server::{Engine, Kind};

/// Path, content type, body, the kind that the answer must have.
type Case = (&'static str, &'static str, Vec<u8>, Kind);

const JSON: &str = "application/json";
const SEGMENT: &str = "/v1/segment";

fn json(path: &'static str, text: impl Into<String>, kind: Kind) -> Case {
    (path, JSON, text.into().into_bytes(), kind)
}

/// A segment request around an image and a list of prompts.
fn prompts(list: &str, kind: Kind) -> Case {
    json(SEGMENT, format!(r#"{{"image": "{}", "prompts": [{list}]}}"#, base64(&picture(0))), kind)
}

/// A segment request with an image made of these bytes.
fn image(bytes: &[u8], kind: Kind) -> Case {
    json(SEGMENT, format!(r#"{{"image": "{}", "prompts": [{{"points": [[1, 1]]}}]}}"#, base64(bytes)), kind)
}

/// A request with the image and more fields.
fn with(path: &'static str, fields: &str, kind: Kind) -> Case {
    json(path, format!(r#"{{"image": "{}", {fields}}}"#, base64(&picture(0))), kind)
}

fn bodies() -> Vec<Case> {
    let mut invalid_utf8 = br#"{"key": ""#.to_vec();
    invalid_utf8.extend([0xff, 0xfe, b'"', b'}']);
    let form = |boundary: &str, body: &str| -> Case {
        let kind: &'static str = format!("multipart/form-data{boundary}").leak();
        (SEGMENT, kind, body.as_bytes().to_vec(), Kind::InvalidBody)
    };
    vec![
        json(SEGMENT, "", Kind::InvalidJson),
        json(SEGMENT, "{", Kind::InvalidJson),
        json(SEGMENT, "null", Kind::InvalidRequest),
        json(SEGMENT, "[]", Kind::InvalidRequest),
        json(SEGMENT, "42", Kind::InvalidRequest),
        json(SEGMENT, "{}", Kind::InvalidRequest),
        json(SEGMENT, "{'key': 1}", Kind::InvalidJson),
        json(SEGMENT, r#"{"key": "x", "prompts": []} {"#, Kind::InvalidJson),
        json(SEGMENT, "[".repeat(100_000), Kind::InvalidRequest),
        json(SEGMENT, r#"{"key": 1, "prompts": []}"#, Kind::InvalidRequest),
        json(SEGMENT, r#"{"key": "a", "key": "b", "prompts": []}"#, Kind::InvalidRequest),
        json(SEGMENT, r#"{"key": "a", "prompts": [], "colour": 1}"#, Kind::InvalidRequest),
        json(SEGMENT, r#"{"key": "a", "prompts": [NaN]}"#, Kind::InvalidJson),
        json(SEGMENT, r#"{"key": "\ud800", "prompts": []}"#, Kind::InvalidJson),
        (SEGMENT, JSON, invalid_utf8, Kind::InvalidJson),
        (SEGMENT, "text/plain", b"{}".to_vec(), Kind::ContentType),
        (SEGMENT, "image/png", picture(0), Kind::ContentType),
        (SEGMENT, "application/x-www-form-urlencoded", b"a=b".to_vec(), Kind::ContentType),
        (SEGMENT, "", b"{}".to_vec(), Kind::ContentType),
        form("", "--x--"),
        form("; boundary=x", "no boundary here"),
        form("; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"other\"\r\n\r\n1\r\n--x--\r\n"),
        form("; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"image\"\r\n\r\nhalf"),
        json(SEGMENT, " ".repeat(200_001), Kind::BodyTooLarge),
    ]
}

fn images() -> Vec<Case> {
    let whole = picture(0);
    let mut bomb = png(1, 1, &[0; 3]);
    bomb[16..24].copy_from_slice(&[0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff]);
    let crc = png_crc(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&crc.to_be_bytes());
    vec![
        json(SEGMENT, r#"{"image": "%%%", "prompts": []}"#, Kind::InvalidBase64),
        json(SEGMENT, r#"{"image": "data:image/png,abc", "prompts": []}"#, Kind::InvalidBase64),
        json(SEGMENT, r#"{"image": "data:image/png;base64", "prompts": []}"#, Kind::InvalidBase64),
        json(SEGMENT, r#"{"image": "http://169.254.169.254/latest", "prompts": []}"#, Kind::InvalidBase64),
        json(SEGMENT, r#"{"image": "/etc/passwd", "prompts": []}"#, Kind::InvalidBase64),
        json(SEGMENT, r#"{"image": "../../etc/passwd", "prompts": []}"#, Kind::InvalidBase64),
        json(SEGMENT, r#"{"image": "", "prompts": []}"#, Kind::ImageType),
        image(b"hello", Kind::ImageType),
        image(b"<svg onload=alert(1)>", Kind::ImageType),
        image(b"GIF89a\x01\x00\x01\x00", Kind::ImageType),
        image(&whole[..whole.len() / 2], Kind::DamagedImage),
        image(&[&whole[..60], &[7; 40], &whole[100..]].concat(), Kind::DamagedImage),
        image(&bomb, Kind::TooManyPixels),
        image(&png(400, 300, &[0; 400 * 300 * 3]), Kind::TooManyPixels),
        json(SEGMENT, r#"{"key": "0123", "prompts": [{"text": "cat"}]}"#, Kind::UnknownKey),
        json(SEGMENT, r#"{"key": "../../x", "prompts": [{"text": "cat"}]}"#, Kind::UnknownKey),
        json(SEGMENT, r#"{"prompts": [{"text": "cat"}]}"#, Kind::InvalidRequest),
    ]
}

/// CRC-32 of PNG chunks.
fn png_crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

fn prompts_and_options() -> Vec<Case> {
    let points = |n: usize| format!(r#"{{"points": [{}]}}"#, vec!["[1, 1]"; n].join(","));
    vec![
        prompts("", Kind::InvalidPrompt),
        prompts("{}", Kind::InvalidPrompt),
        prompts("7", Kind::InvalidRequest),
        prompts(r#"{"points": [[1]]}"#, Kind::InvalidRequest),
        prompts(r#"{"points": [["1", "1"]]}"#, Kind::InvalidRequest),
        prompts(r#"{"points": [[-1, 1]]}"#, Kind::InvalidPrompt),
        prompts(r#"{"points": [[1e39, 1]]}"#, Kind::InvalidJson),
        prompts(r#"{"points": [[1e999, 1]]}"#, Kind::InvalidJson),
        prompts(r#"{"points": [[99999999999999999999999999, 1]]}"#, Kind::InvalidPrompt),
        prompts(r#"{"points": [[1, 1]], "labels": [1, 1]}"#, Kind::InvalidPrompt),
        prompts(r#"{"points": [[1, 1]], "labels": [-1]}"#, Kind::InvalidRequest),
        prompts(r#"{"points": [[1, 1]], "labels": [3]}"#, Kind::InvalidPrompt),
        prompts(r#"{"box": [5, 5, 5, 9]}"#, Kind::InvalidPrompt),
        prompts(r#"{"box": [9, 9, 1, 1]}"#, Kind::InvalidPrompt),
        prompts(r#"{"box": [0, 0, 400, 30]}"#, Kind::InvalidPrompt),
        prompts(r#"{"box": [0, 0, 1]}"#, Kind::InvalidRequest),
        prompts(r#"{"text": ""}"#, Kind::InvalidPrompt),
        prompts(r#"{"text": "a\u0000b"}"#, Kind::InvalidPrompt),
        prompts(r#"{"text": "<img src=x onerror=alert(1)>"}"#, Kind::UnknownName),
        prompts(r#"{"text": "xqzzy"}"#, Kind::UnknownName),
        prompts(r#"{"text": "cat", "points": [[1, 1]]}"#, Kind::TextWithClicks),
        prompts(r#"{"mask": {"size": [30, 40], "counts": "!"}}"#, Kind::InvalidPrompt),
        prompts(r#"{"mask": {"size": [4000000000, 4000000000], "counts": "0"}}"#, Kind::InvalidPrompt),
        prompts(&points(10_000), Kind::TooManyPrompts),
        prompts(&vec![r#"{"text": "cat"}"#; 21].join(","), Kind::TooManyPrompts),
        with(SEGMENT, r#""prompts": [{"text": "cat"}], "text_threshold": 2"#, Kind::InvalidOption),
        with(SEGMENT, r#""prompts": [{"text": "cat"}], "text_mode": "loud""#, Kind::InvalidRequest),
        with(SEGMENT, r#""prompts": [{"text": "cat"}], "model": "sam_vit_z""#, Kind::UnknownModel),
        with(SEGMENT, r#""prompts": [{"text": "cat"}], "adapter": "../../x""#, Kind::UnknownModel),
        with(SEGMENT, r#""prompts": [{"text": "cat"}], "image_name": "a\nb""#, Kind::InvalidRequest),
        with("/v1/everything", r#""points_per_side": 0"#, Kind::InvalidOption),
        with("/v1/everything", r#""points_per_side": 18446744073709551615"#, Kind::InvalidOption),
        with("/v1/everything", r#""points_per_side": 500, "crop_n_layers": 4"#, Kind::TooManyPrompts),
        with("/v1/everything", r#""points_per_side": 1, "crop_n_layers": 3"#, Kind::TooManyPrompts),
        with("/v1/everything", r#""points_per_side": -1"#, Kind::InvalidRequest),
        with("/v1/everything", r#""crop_overlap_ratio": 1"#, Kind::InvalidOption),
        with("/v1/everything", r#""point_grids": [[[2, 0]]]"#, Kind::InvalidOption),
        with("/v1/classify", r#""texts": []"#, Kind::InvalidPrompt),
        with("/v1/classify", r#""texts": ["cat", "xqzzy"]"#, Kind::UnknownName),
        with("/v1/locate", r#""heat": true"#, Kind::InvalidPrompt),
        with("/v1/label", r#""classes": ["cat"], "background": "maybe""#, Kind::InvalidOption),
        with("/v1/label", r#""classes": ["cat"], "background": "thresh=7""#, Kind::InvalidOption),
        json("/v1/predict", r#"{"image": "%", "params": {"text_prompt": "cat"}}"#, Kind::InvalidBase64),
        with("/v1/predict", r#""params": {"marks": [{"type": "star", "data": []}]}"#, Kind::InvalidPrompt),
        with("/api/generate", r#""model": "sam", "prompt": {"points": [[1, 1]], "point_labels": [7]}"#, Kind::InvalidPrompt),
        json("/api/generate", r#"{"model": "sam", "image_embedding": {}}"#, Kind::InvalidPrompt),
        json("/predict", r#"{"tasks": [], "label_config": "<View>"}"#, Kind::InvalidPrompt),
        json("/setup", r#"{"schema": "<View/>"}"#, Kind::InvalidPrompt),
        json("/api/function_invocations", "{}", Kind::UnknownModel),
    ]
}

fn documented(path: &str, kind: Kind) -> bool {
    let route = ROUTES.iter().find(|route| route.path == path).unwrap();
    openapi::codes(route).values().flatten().any(|documented| *documented == kind)
}

async fn check(engine: &Arc<Engine>, (path, content_type, body, kind): Case) -> Result<(), String> {
    let shown: String = String::from_utf8_lossy(&body).chars().take(120).collect();
    let request = Request::post(path).header("content-type", content_type).body(Body::from(body)).unwrap();
    let (status, answer, _) = send(engine, request).await;
    let right = status == kind.status() && answer["kind"] == kind.name() && answer["error"].is_string();
    let fields: Vec<&String> = answer.as_object().map(|object| object.keys().collect()).unwrap_or_default();
    if right && fields == ["error", "kind", "hint"] && documented(path, kind) {
        return Ok(());
    }
    Err(format!("{path} {shown}\n    expected {} {}, found {status} {answer}", kind.status(), kind.name()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_has_the_documented_code() {
    let engine = server(small(), None).await;
    let cases: Vec<Case> = [bodies(), images(), prompts_and_options()].concat();
    assert!(cases.len() >= 60, "{}", cases.len());
    let mut wrong = Vec::new();
    for case in cases {
        wrong.extend(check(&engine, case).await.err());
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    // and it still answers
    let body = format!(r#"{{"image": "{}", "prompts": [{{"points": [[5, 5]]}}]}}"#, base64(&picture(0)));
    assert_eq!(crate::common::post(&engine, SEGMENT, body).await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_and_methods_that_are_not_there() {
    let engine = server(small(), None).await;
    for path in ["/nothing", "/v1", "/assets/../Cargo.toml", "/assets/%2e%2e/Cargo.toml", "/assets//etc/passwd", "/assets/%00"] {
        let (status, answer) = crate::common::get(&engine, path).await;
        assert_eq!((status.as_u16(), answer["kind"].as_str()), (404, Some("not_found")), "{path}");
    }
    let (status, answer) = crate::common::get(&engine, SEGMENT).await;
    assert_eq!((status.as_u16(), answer["kind"].as_str()), (405, Some("method_not_allowed")));
}
