//! Random JSON to every route: a documented code, an error with its three fields, never 500.


use std::sync::{Arc, OnceLock};

use axum::body::Body;
use axum::http::Request;
use crate::common::{base64, picture, send, server, small};
use proptest::prelude::*;
use samclip_server::Engine;
use samclip_server::openapi;
use samclip_server::routes::{ROUTES, Route};
use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;

const KEYS: [&str; 34] = [
    "image", "key", "model", "adapter", "image_name", "prompts", "multimask", "text_threshold", "text_mode", "points",
    "labels", "box", "text", "mask", "size", "counts", "points_per_side", "crop_n_layers", "point_grids", "texts", "top",
    "heat", "classes", "background", "params", "marks", "type", "data", "prompt", "point_labels", "tasks",
    "label_config", "pos_points", "obj_bbox",
];

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-5i64..50).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        prop_oneof![Just("cat"), Just("point"), Just("rectangle"), Just("thresh"), Just("clip-head")].prop_map(Value::from),
        Just(Value::from(base64(&picture(0)))),
        prop::collection::vec(prop::collection::vec(0.0f64..40.0, 2), 0..4).prop_map(|points| json!(points)),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
            prop::collection::vec((prop::sample::select(&KEYS[..]), inner), 0..8)
                .prop_map(|pairs| Value::Object(pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect::<Map<_, _>>())),
        ]
    })
}

/// An object that has a chance to be understood: a good image, and random fields.
fn request() -> impl Strategy<Value = Value> {
    (value(), any::<bool>()).prop_map(|(mut value, good)| {
        if let (true, Value::Object(fields)) = (good, &mut value) {
            fields.insert("image".to_owned(), Value::from(base64(&picture(0))));
        }
        value
    })
}

fn shared() -> &'static (Runtime, Arc<Engine>) {
    static SHARED: OnceLock<(Runtime, Arc<Engine>)> = OnceLock::new();
    SHARED.get_or_init(|| {
        let runtime = Runtime::new().unwrap();
        let engine = runtime.block_on(server(small(), None));
        (runtime, engine)
    })
}

fn posts() -> Vec<&'static Route> {
    ROUTES.iter().filter(|route| route.method == "post").collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn nothing_breaks(which in any::<prop::sample::Index>(), value in request(), detector in any::<bool>()) {
        let (runtime, engine) = shared();
        let route = *which.get(&posts());
        let function = if detector { "samclip-detector" } else { "samclip-interactor" };
        let request = Request::post(route.path)
            .header("content-type", "application/json")
            .header("x-nuclio-function-name", function)
            .body(Body::from(value.to_string()))
            .unwrap();
        let (status, answer, _) = runtime.block_on(send(engine, request));
        if !status.is_success() {
            let codes = openapi::codes(route);
            let kinds = codes.get(&status.as_u16());
            let known = kinds.is_some_and(|kinds| kinds.iter().any(|kind| answer["kind"] == kind.name()));
            prop_assert!(known && status != 500, "{} {value}: {status} {answer}", route.path);
        }
    }
}
