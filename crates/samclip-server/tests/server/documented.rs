//! The OpenAPI document against what the routes do: every documented failure is provoked, and no other one happens.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::http::Request;
use hyper::body::Frame;
use samclip_server::routes::{ROUTES, Route};
use samclip_server::{Engine, Kind, Limits, openapi};
use serde_json::{Value, json};

use crate::common::{base64, cold, picture, png, send, server, small};

/// Not provoked here: a defect; a model without the role (only full-size ones lack one: crates/samclip/tests/serve.rs).
const ELSEWHERE: [Kind; 2] = [Kind::Internal, Kind::NoRole];
const CONFIG: &str = r#"<View><Image name="image" value="$image"/><BrushLabels name="b" toName="image"><Label value="Cat"/></BrushLabels></View>"#;

/// A body that is answered, around an image in base64.
fn valid(path: &str, image: &str) -> Value {
    let click = json!({ "type": "keypointlabels", "value": { "x": 50, "y": 50, "keypointlabels": ["Cat"] } });
    match path {
        "/v1/embed" => json!({ "image": image }),
        "/v1/segment" => json!({ "image": image, "prompts": [{ "points": [[5, 5]] }] }),
        "/v1/everything" => json!({ "image": image, "points_per_side": 2 }),
        "/v1/classify" | "/v1/locate" => json!({ "image": image, "texts": ["cat"] }),
        "/v1/label" => json!({ "image": image, "classes": ["cat"] }),
        "/v1/predict" => json!({ "image": image, "params": { "marks": [{ "type": "point", "data": [5, 5] }] } }),
        "/api/generate" => json!({ "model": "any", "image": image, "prompt": { "points": [[5, 5]], "point_labels": [1] } }),
        "/setup" => json!({ "schema": CONFIG }),
        "/predict" => json!({
            "tasks": [{ "data": { "image": format!("data:image/png;base64,{image}") } }], "label_config": CONFIG,
            "params": { "context": { "result": [click] } },
        }),
        "/webhook" => json!({ "action": "ANNOTATION_CREATED" }),
        "/api/function_invocations" => json!({ "image": image, "pos_points": [[5, 5]] }),
        other => panic!("no request is known for {other}"),
    }
}

/// What is wrong about the fields of one route: each replaces fields of the valid body.
fn wrong(path: &str) -> Vec<Value> {
    let many = |one: Value| vec![one; 21];
    let result = |items: Value| json!({ "params": { "context": { "result": items } } });
    let click = json!({ "type": "keypointlabels", "value": { "x": 50, "y": 50 } });
    let own = [json!({ "image": null, "key": "nothing" }), json!({ "model": "sam_vit_z" })];
    let fields = match path {
        "/v1/embed" | "/webhook" => vec![],
        "/v1/segment" => vec![
            json!({ "prompts": many(json!({ "text": "cat" })) }),
            json!({ "prompts": [{}] }),
            json!({ "prompts": [{ "text": "xqzzy" }] }),
            json!({ "text_threshold": 2 }),
            json!({ "prompts": [{ "text": "cat", "points": [[5, 5]] }] }),
        ],
        "/v1/everything" => vec![json!({ "points_per_side": 500 }), json!({ "points_per_side": 0 })],
        "/v1/classify" | "/v1/locate" => {
            vec![json!({ "texts": many(json!("cat")) }), json!({ "texts": [] }), json!({ "texts": ["xqzzy"] })]
        }
        "/v1/label" => vec![
            json!({ "classes": many(json!("cat")) }),
            json!({ "classes": [] }),
            json!({ "classes": ["xqzzy"] }),
            json!({ "background": "maybe" }),
        ],
        "/v1/predict" => vec![
            json!({ "params": { "marks": many(json!({ "type": "point", "data": [5, 5] })) } }),
            json!({ "params": { "marks": [{ "type": "star", "data": [] }] } }),
            json!({ "params": { "text_prompt": "xqzzy" } }),
            json!({ "model": "sam_vit_z" }),
        ],
        "/api/generate" => vec![
            json!({ "prompt": { "points": many(json!([5, 5])), "point_labels": many(json!(1)) } }),
            json!({ "prompt": { "points": [[5, 5]], "point_labels": [7] } }),
            json!({ "prompt": { "texts": ["xqzzy"] } }),
        ],
        "/setup" => vec![json!({ "schema": "<View/>" })],
        "/predict" => vec![
            result(Value::from(many(click))),
            json!({ "label_config": "<View>" }),
            result(json!([{ "type": "textarea", "value": { "text": ["xqzzy"] } }])),
        ],
        "/api/function_invocations" => vec![json!({ "pos_points": many(json!([5, 5])) }), json!({ "pos_points": [[-1, 5]] })],
        other => panic!("no mistakes are known for {other}"),
    };
    let has_key = path.starts_with("/v1/") && path != "/v1/predict";
    if has_key { fields.into_iter().chain(own).collect() } else { fields }
}

/// A body that never comes.
struct Never;

impl hyper::body::Body for Never {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

/// The kind of failure that an answer has; none for a good one.
async fn kind(engine: &Arc<Engine>, route: &Route, path: &str, body: Body, (content_type, function): (&str, &str)) -> Option<Kind> {
    let request = Request::builder().method(route.method.to_uppercase().as_str()).uri(path);
    let request = request.header("content-type", content_type).header("x-nuclio-function-name", function);
    let (status, answer, _) = send(engine, request.body(body).unwrap()).await;
    let found = Kind::ALL.iter().copied().find(|kind| answer["kind"] == kind.name());
    assert!(status.is_success() || found.is_some_and(|kind| kind.status() == status), "{path}: {status} {answer}");
    found
}

/// Servers in every state in which they refuse.
struct Servers {
    ready: Arc<Engine>,
    others: Vec<Arc<Engine>>,
    late: Arc<Engine>,
    slow: Arc<Engine>,
}

impl Servers {
    async fn start() -> Self {
        let with = |limits: Limits| server(limits, None);
        let draining = with(small()).await;
        draining.drain();
        let full = with(Limits { queue: 1, ..small() }).await;
        // for as long as the test runs
        std::mem::forget(full.accept());
        let receiving = with(Limits { max_receiving: 0, ..small() }).await;
        let late = with(Limits { deadline: 0, ..small() }).await;
        let slow = with(Limits { patience: 0, ..small() }).await;
        Self { ready: with(small()).await, others: vec![cold(small(), None), draining, full, receiving], late, slow }
    }

    async fn post(&self, route: &Route) -> BTreeSet<Kind> {
        let path = route.path;
        const JSON: (&str, &str) = ("application/json", "samclip-interactor");
        let good = valid(path, &base64(&picture(0)));
        let (half, large) = (&picture(0)[..60], png(400, 300, &[0; 400 * 300 * 3]));
        let images = ["%%%".to_owned(), base64(b"hello"), base64(half), base64(&large)];
        let mut bodies: Vec<String> = images.iter().map(|image| valid(path, image).to_string()).collect();
        for fields in wrong(path) {
            let mut body = good.clone();
            for (name, value) in fields.as_object().unwrap() {
                body[name] = value.clone();
            }
            bodies.push(body.to_string());
        }
        bodies.extend(["{".to_owned(), "42".to_owned(), " ".repeat(200_001)]);
        assert_eq!(kind(&self.ready, route, path, Body::from(good.to_string()), JSON).await, None, "{path}");
        let mut found = Vec::new();
        for body in bodies {
            found.push(kind(&self.ready, route, path, Body::from(body), JSON).await);
        }
        for (content_type, function) in [("text/plain", JSON.1), ("multipart/form-data", JSON.1), (JSON.0, "other")] {
            found.push(kind(&self.ready, route, path, Body::from(good.to_string()), (content_type, function)).await);
        }
        for engine in &self.others {
            found.push(kind(engine, route, path, Body::from(good.to_string()), JSON).await);
        }
        // No time at all, but the clock ticks in milliseconds: a quick answer may come before it does. Another
        // photo each time, since an embedding that is kept answers at once.
        for seed in 0..200 {
            let fresh = valid(path, &base64(&picture(seed)));
            let late = kind(&self.late, route, path, Body::from(fresh.to_string()), JSON).await;
            found.push(late);
            if late.is_some() {
                break;
            }
        }
        found.push(kind(&self.slow, route, path, Body::new(Never), JSON).await);
        found.into_iter().flatten().collect()
    }

    async fn get(&self, route: &Route) -> BTreeSet<Kind> {
        let mut found = Vec::new();
        for name in ["index.html", "samclip-detector", "nothing"] {
            let path = route.path.replace("{*path}", name).replace("{name}", name);
            for engine in self.others.iter().chain([&self.ready]) {
                found.push(kind(engine, route, &path, Body::empty(), ("", "")).await);
            }
        }
        found.into_iter().flatten().collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_documented_happens_and_nothing_else() {
    let servers = Servers::start().await;
    for route in ROUTES {
        let found = if route.method == "post" { servers.post(route).await } else { servers.get(route).await };
        let always = [Kind::Unauthorized, Kind::MethodNotAllowed];
        let kinds = openapi::codes(route).into_values().flatten();
        let documented: BTreeSet<Kind> = kinds.filter(|kind| !always.contains(kind) && !ELSEWHERE.contains(kind)).collect();
        assert_eq!(found, documented, "{}: left happened, right is documented", route.path);
    }
}
