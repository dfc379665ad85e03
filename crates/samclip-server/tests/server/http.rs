//! The routes in this process: documents equal to the library's, cache and coalescing, key, overload, draining.


use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use crate::common::{base64, cold, get, picture, post, send, server, small};
use samclip_image::{DecodeLimits, Image};
use samclip_predict::{Background, EverythingOptions, Model, Point, Prompt, SegmentOptions, answer};
use samclip_server::routes::{Access, ROUTES};
use samclip_server::{Engine, Limits};
use serde::Serialize;
use serde_json::{Value, json};

fn image() -> Image {
    Image::decode(&picture(0), Path::new("p.png"), &DecodeLimits::default()).unwrap()
}

fn body(fields: &Value) -> String {
    let mut fields = fields.clone();
    fields["image"] = Value::from(base64(&picture(0)));
    fields["image_name"] = Value::from("p.png");
    fields.to_string()
}

/// The record as JSON without its times.
fn record(value: impl Serialize) -> Value {
    let mut value = serde_json::to_value(value).unwrap();
    value.as_object_mut().unwrap().remove("timing_ms");
    value
}

/// Each verb: its route, the request's fields, and the record that the library makes.
fn verbs(model: &Model) -> Vec<(&'static str, Value, Value)> {
    let (image, file) = (image(), Path::new("p.png"));
    let names = ["cat".to_owned(), "dog".to_owned()];
    let point = |x, y, positive| Point { x, y, positive };
    let prompts = [
        Prompt::text("cat"),
        Prompt { points: vec![point(5.0, 5.5, true), point(30.0, 20.0, false)], ..Prompt::default() },
        Prompt::bbox([2.0, 3.0, 20.0, 25.0]),
    ];
    let segment = answer::segment(model, file, &image, &prompts, &SegmentOptions::STANDARD).unwrap();
    let three = SegmentOptions { multimask: true, ..SegmentOptions::STANDARD };
    let multi = answer::segment(model, file, &image, &prompts[1..2], &three).unwrap();
    let options = EverythingOptions { points_per_side: 4, pred_iou_thresh: -100.0, stability_score_thresh: 0.0, ..EverythingOptions::STANDARD };
    let everything = answer::everything(model, file, &image, &options).unwrap();
    let classify = answer::classify(model, file, &image, &names, 1).unwrap();
    let locate = answer::locate(model, model.prompt_segmenter().ok(), file, &image, &names).unwrap().0;
    let label = answer::label(model, file, &image, &names, &Background::Thresh(None)).unwrap().0;
    let two = json!({ "points": [[5, 5.5], [30, 20]], "labels": [1, 0] });
    vec![
        ("/v1/segment", json!({ "prompts": [{ "text": "cat" }, two, { "box": [2, 3, 20, 25] }] }), record(segment)),
        ("/v1/segment", json!({ "prompts": [two], "multimask": true }), record(multi)),
        (
            "/v1/everything",
            json!({ "points_per_side": 4, "pred_iou_thresh": -100, "stability_score_thresh": 0 }),
            record(everything),
        ),
        ("/v1/classify", json!({ "texts": names, "top": 1 }), record(classify)),
        ("/v1/locate", json!({ "texts": names }), record(locate)),
        ("/v1/label", json!({ "classes": names }), record(label)),
    ]
}

fn own_model(engine: &Engine) -> Model {
    Model::load(&engine.settings.model).unwrap()
}

fn without_times(answer: &Value) -> Value {
    record(answer["images"][0].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_verb_answers_as_the_library_does() {
    let engine = server(small(), None).await;
    let verbs = verbs(&own_model(&engine));
    for (path, fields, expected) in &verbs {
        let (status, answer) = post(&engine, path, body(fields)).await;
        assert_eq!(status, StatusCode::OK, "{path}: {answer}");
        assert_eq!(without_times(&answer), *expected, "{path}");
        assert_eq!((answer["model"].as_str(), answer["errors"].as_array().map(Vec::len)), (Some("sam_clip_nano"), Some(0)));
        // by key, and now from the cache
        let mut again = fields.clone();
        again["key"] = answer["key"].clone();
        again["image_name"] = Value::from("p.png");
        let (status, answer) = post(&engine, path, again.to_string()).await;
        assert_eq!((status, without_times(&answer)), (StatusCode::OK, expected.clone()), "{path} by key");
    }
    assert_eq!(engine.encodes(), 2, "one for the self-test, one for the picture");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_at_once_answer_as_one() {
    let engine = server(small(), None).await;
    let verbs = verbs(&own_model(&engine));
    let tasks: Vec<_> = (0..16)
        .map(|i| {
            let (engine, (path, fields, expected)) = (engine.clone(), verbs[i % verbs.len()].clone());
            tokio::spawn(async move { (path, post(&engine, path, body(&fields)).await, expected) })
        })
        .collect();
    for task in tasks {
        let (path, (status, answer), expected) = task.await.unwrap();
        assert_eq!((status, without_times(&answer)), (StatusCode::OK, expected), "{path}");
    }
    assert_eq!(engine.encodes(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_encodes_are_one_encode() {
    let engine = server(small(), None).await;
    let before = engine.encodes();
    let form = |seed: u8| json!({ "image": base64(&picture(seed)) }).to_string();
    let tasks: Vec<_> = (0..24)
        .map(|i| {
            let (engine, body) = (engine.clone(), form(1 + i % 3));
            tokio::spawn(async move { post(&engine, "/v1/embed", body).await })
        })
        .collect();
    let mut keys = Vec::new();
    for task in tasks {
        let (status, answer) = task.await.unwrap();
        assert_eq!((status, &answer["width"], &answer["height"]), (StatusCode::OK, &json!(40), &json!(30)));
        keys.push(answer["key"].as_str().unwrap().to_owned());
    }
    keys.sort();
    keys.dedup();
    assert_eq!((keys.len(), engine.encodes() - before), (3, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_form_is_as_good_as_base64() {
    let engine = server(small(), None).await;
    let mut form = b"--x\r\nContent-Disposition: form-data; name=\"image\"; filename=\"../evil.png\"\r\n\r\n".to_vec();
    form.extend(picture(0));
    form.extend(b"\r\n--x\r\nContent-Disposition: form-data; name=\"request\"\r\n\r\n{\"prompts\": [{\"text\": \"cat\"}]}\r\n--x--\r\n");
    let request = Request::post("/v1/segment").header("content-type", "multipart/form-data; boundary=x").body(Body::from(form)).unwrap();
    let (status, answer, headers) = send(&engine, request).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["images"][0]["file"], "../evil.png", "echoed, never opened");
    assert!(headers.contains_key("x-request-id"));
    let (_, same) = post(&engine, "/v1/segment", body(&json!({ "prompts": [{ "text": "cat" }] }))).await;
    assert_eq!(answer["images"][0]["masks"], same["images"][0]["masks"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heat_is_a_grey_png_of_the_images_size() {
    let engine = server(small(), None).await;
    let (_, answer) = post(&engine, "/v1/locate", body(&json!({ "text": "cat", "heat": true }))).await;
    assert_eq!((&answer["heat"]["width"], &answer["heat"]["height"]), (&json!(40), &json!(30)));
    let (_, answer) = post(&engine, "/v1/locate", body(&json!({ "texts": ["cat", "dog"], "heat": true }))).await;
    assert_eq!(answer["heat"].as_array().unwrap().len(), 2);
    let png = answer["heat"][1]["png"].as_str().unwrap();
    let png = samclip_server::body::decode_image(png).unwrap();
    assert_eq!(Image::decode(&png, Path::new("heat"), &DecodeLimits::default()).unwrap().size(), (30, 40));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mask_with_clicks_refines() {
    let engine = server(small(), None).await;
    let (_, first) = post(&engine, "/v1/segment", body(&json!({ "prompts": [{ "box": [2, 3, 20, 25] }] }))).await;
    let mask = &first["images"][0]["masks"][0]["segmentation"];
    let refine = json!({ "prompts": [{ "mask": mask, "points": [[5, 5]], "labels": [1] }] });
    let (status, answer) = post(&engine, "/v1/segment", body(&refine)).await;
    assert_eq!((status, &answer["images"][0]["masks"][0]["prompt"]["kind"]), (StatusCode::OK, &json!("point+mask")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_key_nothing_but_health_and_the_page_answers() {
    let engine = server(small(), Some("s3cret")).await;
    let ask = |method: &'static str, path: String, key: Option<&'static str>| {
        let mut request = Request::builder().method(method.to_uppercase().as_str()).uri(path);
        if let Some(key) = key {
            request = request.header("authorization", key);
        }
        let request = request.header("content-type", "application/json").body(Body::from("{}")).unwrap();
        let engine = engine.clone();
        async move { send(&engine, request).await.0.as_u16() }
    };
    for route in ROUTES {
        let path = route.path.replace("{*path}", "index.html").replace("{name}", "samclip-detector");
        let closed = ask(route.method, path.clone(), None).await;
        let wrong = ask(route.method, path.clone(), Some("Bearer s3cre")).await;
        let right = ask(route.method, path.clone(), Some("Bearer s3cret")).await;
        match route.access {
            Access::Open => assert_eq!((closed, wrong, right), (200, 200, 200), "{path}"),
            Access::Key => assert_eq!((closed, wrong, right == 401), (401, 401, false), "{path}"),
        }
    }
    assert_eq!(ask("get", "/nothing".to_owned(), None).await, 401);
    let open: Vec<&str> = ROUTES.iter().filter(|route| route.access == Access::Open).map(|route| route.path).collect();
    assert_eq!(open, ["/healthz", "/readyz", "/", "/assets/{*path}", "/health"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_says_when_to_come_back() {
    let engine = server(Limits { queue: 2, ..small() }, None).await;
    let heavy = body(&json!({ "points_per_side": 32 }));
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let (engine, heavy) = (engine.clone(), heavy.clone());
            let request = Request::post("/v1/everything").header("content-type", "application/json").body(Body::from(heavy));
            tokio::spawn(async move { send(&engine, request.unwrap()).await })
        })
        .collect();
    let (mut answered, mut refused) = (0, 0);
    for task in tasks {
        let (status, answer, headers) = task.await.unwrap();
        match status {
            StatusCode::OK => answered += 1,
            StatusCode::TOO_MANY_REQUESTS => {
                refused += 1;
                assert_eq!(answer["kind"], "overloaded");
                assert!(headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
            }
            other => panic!("{other} {answer}"),
        }
    }
    assert!(answered >= 2 && refused >= 1, "{answered} answered, {refused} refused");
    assert_eq!(engine.in_flight(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starting_and_draining_are_503_and_a_deadline_too() {
    let engine = cold(small(), None);
    let segment = body(&json!({ "prompts": [{ "text": "cat" }] }));
    let kind = |(status, answer): (StatusCode, Value)| (status.as_u16(), answer["kind"].as_str().unwrap_or_default().to_owned());
    assert_eq!(kind(post(&engine, "/v1/segment", segment.clone()).await), (503, "starting".to_owned()));
    assert_eq!(kind(get(&engine, "/readyz").await), (503, "starting".to_owned()));
    assert_eq!(get(&engine, "/healthz").await.0, StatusCode::OK);
    engine.load().await.unwrap();
    assert_eq!(get(&engine, "/readyz").await.0, StatusCode::OK);
    assert_eq!(post(&engine, "/v1/segment", segment.clone()).await.0, StatusCode::OK);
    engine.drain();
    assert_eq!(kind(post(&engine, "/v1/segment", segment.clone()).await), (503, "draining".to_owned()));
    assert_eq!(kind(get(&engine, "/readyz").await), (503, "draining".to_owned()));
    assert_eq!(get(&engine, "/healthz").await.0, StatusCode::OK);

    let impatient = server(Limits { deadline: 0, ..small() }, None).await;
    let slow = body(&json!({ "points_per_side": 32 }));
    assert_eq!(kind(post(&impatient, "/v1/everything", slow).await), (503, "deadline".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_server_says_about_itself() {
    let engine = server(small(), None).await;
    let (_, models) = get(&engine, "/v1/models").await;
    let model = &models["models"][0];
    assert_eq!((&model["name"], &model["default"]), (&json!("sam_clip_nano"), &json!(true)));
    assert_eq!(model["roles"], json!(["segment", "everything", "classify", "locate", "label"]));
    let (_, words) = get(&engine, "/v1/vocabulary").await;
    assert!(words["words"].as_array().unwrap().contains(&json!("cat")));
    let (_, document) = get(&engine, "/openapi.json").await;
    assert_eq!(document["openapi"].as_str().unwrap().split('.').next(), Some("3"));
    post(&engine, "/v1/segment", body(&json!({ "prompts": [{ "text": "cat" }] }))).await;
    samclip_server::telemetry::install();
    get(&engine, "/v1/models").await;
    let (_, text) = get(&engine, "/metrics").await;
    let text = text.as_str().unwrap();
    assert!(text.contains("samclip_requests_total{") && text.contains("samclip_cache_bytes"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_evicted_photo_is_an_unknown_key() {
    let engine: Arc<Engine> = server(Limits { cache: 40_000, ..small() }, None).await;
    let (_, first) = post(&engine, "/v1/embed", json!({ "image": base64(&picture(1)) }).to_string()).await;
    for seed in 2..12 {
        post(&engine, "/v1/embed", json!({ "image": base64(&picture(seed)) }).to_string()).await;
        engine.store.usage();
    }
    let asked = json!({ "key": first["key"], "prompts": [{ "text": "cat" }] }).to_string();
    let (status, answer) = post(&engine, "/v1/segment", asked).await;
    assert_eq!((status.as_u16(), &answer["kind"]), (404, &json!("unknown_key")));
    let both = json!({ "key": first["key"], "image": base64(&picture(1)), "prompts": [{ "text": "cat" }] }).to_string();
    assert_eq!(post(&engine, "/v1/segment", both).await.0, StatusCode::OK);
}
