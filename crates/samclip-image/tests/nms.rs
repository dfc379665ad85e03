//! `nms` against torchvision.ops.nms: equal index lists, ties and empty boxes included.

mod common;

use samclip_image::nms;
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    boxes: Vec<[f32; 4]>,
    scores: Vec<f32>,
    threshold: f32,
    keep: Vec<usize>,
}

#[test]
fn keeps_what_torchvision_keeps() {
    let cases: Vec<Case> = common::json("nms.json");
    assert_eq!(cases.len(), 30);
    assert!(cases.iter().any(|case| case.keep.len() < case.boxes.len()));
    for case in cases {
        assert_eq!(nms(&case.boxes, &case.scores, case.threshold), case.keep);
    }
}
