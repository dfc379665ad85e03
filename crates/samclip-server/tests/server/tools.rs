//! Labelling tools: requests as their clients send them, answers as their clients read them.


use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use crate::brush_rle;
use crate::common::{base64, get, picture, post, send, server, small};
use samclip_image::{DecodeLimits, Image, Mask, rle};
use samclip_server::Engine;
use samclip_server::body::decode_image;
use serde_json::{Value, json};

/// The mask that `/v1/segment` gives for a prompt.
async fn expected(engine: &Arc<Engine>, prompt: Value) -> Mask {
    let body = json!({ "image": base64(&picture(0)), "prompts": [prompt] });
    let (status, answer) = post(engine, "/v1/segment", body.to_string()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let segmentation = &answer["images"][0]["masks"][0]["segmentation"];
    let size = [30, 40];
    assert_eq!(segmentation["size"], json!(size));
    rle::decode(&rle::from_coco_string(segmentation["counts"].as_str().unwrap(), size).unwrap())
}

fn two_clicks_and_a_box() -> Value {
    json!({ "points": [[10, 10], [30, 20]], "labels": [1, 0], "box": [4, 3, 36, 27] })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn label_studio() {
    let engine = server(small(), None).await;
    let config = r##"<View><Image name="image" value="$image" zoom="true"/>
        <BrushLabels name="tag" toName="image"><Label value="Cat"/><Label value="Thing" background="#FFA39E"/></BrushLabels>
        <KeyPointLabels name="tag2" toName="image" smart="true"><Label value="Thing" smart="true"/></KeyPointLabels></View>"##;
    let (_, setup) = post(&engine, "/setup", json!({ "project": "1.169", "schema": config, "hostname": "http://ls", "access_token": "x" }).to_string()).await;
    assert!(setup["model_version"].as_str().unwrap().contains("sam_clip_nano"));
    assert_eq!(get(&engine, "/health").await.1["status"], "UP");
    let (status, _) = post(&engine, "/webhook", json!({ "action": "ANNOTATION_CREATED", "annotation": {} }).to_string()).await;
    assert_eq!(status, StatusCode::CREATED);

    let item = |kind: &str, value: Value, positive: Option<i64>| {
        json!({ "id": "1", "type": kind, "value": value, "original_width": 40, "original_height": 30, "image_rotation": 0,
                "from_name": "tag2", "to_name": "image", "is_positive": positive })
    };
    let context = [
        item("keypointlabels", json!({ "x": 25.0, "y": 100.0 / 3.0, "width": 0.2, "keypointlabels": ["Thing"] }), Some(1)),
        item("keypointlabels", json!({ "x": 75.0, "y": 200.0 / 3.0, "width": 0.2, "keypointlabels": ["Thing"] }), Some(0)),
        item("rectanglelabels", json!({ "x": 10.0, "y": 10.0, "width": 80.0, "height": 80.0, "rectanglelabels": ["Thing"] }), None),
    ];
    let task = json!({ "id": 7, "data": { "image": format!("data:image/png;base64,{}", base64(&picture(0))) } });
    let request = json!({ "tasks": [task], "label_config": config, "project": "1.169", "params": { "context": { "result": context } } });
    let (status, answer) = post(&engine, "/predict", request.to_string()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let region = &answer["results"][0]["result"][0];
    assert_eq!((&region["type"], &region["from_name"], &region["to_name"]), (&json!("brushlabels"), &json!("tag"), &json!("image")));
    assert_eq!((&region["original_width"], &region["original_height"]), (&json!(40), &json!(30)));
    assert_eq!((&region["value"]["format"], &region["value"]["brushlabels"]), (&json!("rle"), &json!(["Thing"])));
    let bytes: Vec<u8> = serde_json::from_value(region["value"]["rle"].clone()).unwrap();
    let asked = json!({ "points": [[10, 10], [30, 20]], "labels": [1, 0], "box": [4, 3, 36, 27] });
    assert_eq!(brush_rle::decode(&bytes, 40, 30), expected(&engine, asked).await);

    // without context every label that the model knows is asked for, a text area asks for what it says
    let request = json!({ "tasks": [task], "label_config": config, "project": "1.169" });
    let (status, answer) = post(&engine, "/predict", request.to_string()).await;
    assert_eq!((status, answer["results"].as_array().unwrap().len()), (StatusCode::OK, 1));
    let labels: Vec<&Value> = answer["results"][0]["result"].as_array().unwrap().iter().map(|r| &r["value"]["brushlabels"][0]).collect();
    assert!(labels.iter().all(|label| *label == "Cat"), "{labels:?}");
    assert_eq!(labels.is_empty(), expected(&engine, json!({ "text": "cat" })).await.area() == 0);
    let text = json!({ "context": { "result": [{ "type": "textarea", "value": { "text": ["dog"] } }] } });
    let request = json!({ "tasks": [task], "label_config": config, "params": text });
    let (status, answer) = post(&engine, "/predict", request.to_string()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let dog = expected(&engine, json!({ "text": "dog" })).await;
    let found = answer["results"][0]["result"].as_array().unwrap();
    assert_eq!(found.is_empty(), dog.area() == 0, "{answer}");
    for region in found {
        let bytes: Vec<u8> = serde_json::from_value(region["value"]["rle"].clone()).unwrap();
        assert_eq!(brush_rle::decode(&bytes, 40, 30), dog);
    }
    // an address elsewhere is not fetched
    let elsewhere = json!({ "tasks": [{ "data": { "image": "http://127.0.0.1:1/x.png" } }], "label_config": config });
    let (status, answer) = post(&engine, "/predict", elsewhere.to_string()).await;
    assert_eq!((status.as_u16(), &answer["kind"]), (422, &json!("invalid_prompt")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x_anylabeling() {
    let engine = server(small(), None).await;
    let (_, models) = get(&engine, "/v1/models").await;
    let tasks = models["data"]["sam_clip_nano"]["available_tasks"].as_array().unwrap();
    assert!(tasks.iter().all(|task| task["id"].is_string() && task.get("batch_processing_mode").is_some()));
    let marks = json!([{ "type": "point", "data": [10, 10], "label": 1 }, { "type": "point", "data": [30, 20], "label": 0 },
                       { "type": "rectangle", "data": [4, 3, 36, 27], "label": 1 }]);
    let params = json!({ "conf_threshold": 0.0, "iou_threshold": 0.0, "epsilon_factor": 0.0, "marks": marks });
    let image = format!("data:image/png;base64,{}", base64(&picture(0)));
    let request = json!({ "model": "sam_clip_nano", "image": image, "params": params });
    let (status, answer) = post(&engine, "/v1/predict", request.to_string()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let shapes = answer["data"]["shapes"].as_array().unwrap();
    assert!(shapes.iter().all(|shape| shape["shape_type"] == "polygon" && shape["label"] == "AUTOLABEL_OBJECT"));
    // without simplification the outlines cover the mask (holes are not drawn)
    let mask = expected(&engine, two_clicks_and_a_box()).await;
    let rings: Vec<Vec<f64>> = shapes.iter().map(|shape| {
        let points: Vec<[f64; 2]> = serde_json::from_value(shape["points"].clone()).unwrap();
        assert_eq!(points.first(), points.last());
        points.concat()
    }).collect();
    let drawn = rle::decode(&rle::from_polygons(&rings, 30, 40).unwrap());
    assert!(mask.data.iter().zip(&drawn.data).all(|(own, drawn)| !own || *drawn));
    assert!(!shapes.is_empty() && mask.area() > 0);
    assert_eq!(drawn.bbox_xywh(), mask.bbox_xywh(), "and reach no further");

    let text = json!({ "model": "sam_clip_nano", "image": image, "params": { "text_prompt": "cat.dog" } });
    let (status, answer) = post(&engine, "/v1/predict", text.to_string()).await;
    assert_eq!((status, answer["data"]["replace"].as_bool()), (StatusCode::OK, Some(true)), "{answer}");
    let unknown = json!({ "model": "sam_vit_z", "image": image, "params": { "text_prompt": "cat" } });
    assert_eq!(post(&engine, "/v1/predict", unknown.to_string()).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn osam() {
    let engine = server(small(), None).await;
    let prompt = json!({ "points": [[10.0, 10.0], [30.0, 20.0], [4.0, 3.0], [36.0, 27.0]], "point_labels": [1, 0, 2, 3],
                         "texts": null, "iou_threshold": 0.5, "score_threshold": 0.1, "max_annotations": 100 });
    let request = json!({ "model": "sam2:latest", "image_embedding": null, "image": base64(&picture(0)), "prompt": prompt, "annotations": null });
    let (status, answer) = post(&engine, "/api/generate", request.to_string()).await;
    assert_eq!((status, &answer["model"]), (StatusCode::OK, &json!("sam2:latest")), "{answer}");
    let mask = expected(&engine, two_clicks_and_a_box()).await;
    let annotation = &answer["annotations"][0];
    let side = |name: &str| annotation["bounding_box"][name].as_u64().unwrap() as usize;
    let (x0, y0, x1, y1) = (side("xmin"), side("ymin"), side("xmax"), side("ymax"));
    let png = decode_image(annotation["mask"].as_str().unwrap()).unwrap();
    let crop = Image::decode(&png, Path::new("mask"), &DecodeLimits::default()).unwrap();
    assert_eq!(crop.size(), (y1 - y0 + 1, x1 - x0 + 1));
    let whole = Mask { width: crop.width(), height: crop.height(), data: crop.data().chunks_exact(3).map(|p| p[0] > 0).collect() };
    assert_eq!(whole.area(), mask.area());
    assert_eq!(whole, mask.crop(x0, y0, x1 - x0 + 1, y1 - y0 + 1));

    let texts = json!({ "model": "any", "image": base64(&picture(0)), "prompt": { "texts": ["cat", "dog"], "score_threshold": 0.0 } });
    let (status, answer) = post(&engine, "/api/generate", texts.to_string()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert!(answer["annotations"].as_array().unwrap().len() <= 2);
}

async fn invoke(engine: &Arc<Engine>, function: &str, body: Value) -> (StatusCode, Value) {
    let request = Request::post("/api/function_invocations")
        .header("content-type", "application/json")
        .header("x-nuclio-project-name", "cvat")
        .header("x-nuclio-function-namespace", "nuclio")
        .header("x-nuclio-invoke-via", "domain-name")
        .header("x-nuclio-function-name", function)
        .header("x-nuclio-path", "/")
        .body(Body::from(body.to_string()))
        .unwrap();
    let (status, value, _) = send(engine, request).await;
    (status, value)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cvat() {
    let engine = server(small(), None).await;
    let (_, functions) = get(&engine, "/api/functions").await;
    for (name, kind) in [("samclip-interactor", "interactor"), ("samclip-detector", "detector")] {
        let function = &functions[name];
        assert_eq!((&function["metadata"]["name"], &function["metadata"]["annotations"]["type"]), (&json!(name), &json!(kind)));
        assert!(function["spec"]["description"].is_string() && function["status"]["state"] == "ready");
        assert_eq!(get(&engine, &format!("/api/functions/{name}")).await.1, *function);
    }
    let spec = functions["samclip-detector"]["metadata"]["annotations"]["spec"].as_str().unwrap();
    let spec: Value = serde_json::from_str(spec).unwrap();
    assert_eq!(spec, json!([{ "id": 0, "name": "cat", "type": "mask", "attributes": [] }]), "names that the model does not know are left out");

    let clicks = json!({ "image": base64(&picture(0)), "pos_points": [[10, 10]], "neg_points": [[30, 20]], "obj_bbox": [[4, 3], [36, 27]] });
    let (status, answer) = invoke(&engine, "samclip-interactor", clicks).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let rows: Vec<Vec<u8>> = serde_json::from_value(answer["mask"].clone()).unwrap();
    let data: Vec<bool> = rows.concat().iter().map(|v| *v == 1).collect();
    let mask = Mask::new(40, 30, data).unwrap();
    assert_eq!(mask, expected(&engine, two_clicks_and_a_box()).await);
    assert!(answer["points"][0].as_array().unwrap().len() == 2);

    let (status, answer) = invoke(&engine, "samclip-detector", json!({ "image": base64(&picture(0)), "threshold": 0.000_001 })).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let cat = expected(&engine, json!({ "text": "cat" })).await;
    for shape in answer.as_array().unwrap() {
        let mut pixels: Vec<usize> = serde_json::from_value(shape["mask"].clone()).unwrap();
        let corners = pixels.split_off(pixels.len() - 4);
        assert_eq!(pixels.len(), (corners[2] - corners[0] + 1) * (corners[3] - corners[1] + 1));
        assert_eq!(pixels.iter().sum::<usize>(), cat.area());
        assert_eq!((&shape["label"], &shape["type"]), (&json!("cat"), &json!("mask")));
    }
    assert_eq!(answer.as_array().unwrap().is_empty(), cat.area() == 0);
    assert_eq!(invoke(&engine, "other", json!({})).await.0, StatusCode::NOT_FOUND);
}
