//! LabelMe's JSON: one polygon shape per outer contour, one group per mask.

use std::path::{Path, PathBuf};

use samclip_image::{polygons, rle};
use serde_json::{Value, json};

use super::{file_name, write_json};
use crate::error::PredictError;
use crate::record::{MaskImage, MaskRecord};

pub(super) fn write(path: &Path, record: &MaskImage) -> Result<PathBuf, PredictError> {
    let shapes: Vec<Value> = record.masks.iter().enumerate().flat_map(|(i, mask)| shapes(i, mask)).collect();
    let document = json!({
        "version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": file_name(record), "imageData": null,
        "imageHeight": record.height, "imageWidth": record.width,
    });
    write_json(path, &document)
}

fn shapes(group: usize, mask: &MaskRecord) -> Vec<Value> {
    let rings = polygons(&rle::decode(&mask.rle));
    let shape = |points: Vec<[f32; 2]>| {
        json!({
            "label": mask.label(), "points": points, "group_id": group, "description": "",
            "shape_type": "polygon", "flags": {}, "mask": null,
        })
    };
    rings.into_iter().filter(|ring| ring.len() >= 3).map(shape).collect()
}
