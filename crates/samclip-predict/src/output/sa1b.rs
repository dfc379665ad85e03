//! The JSON of the SA-1B data set: one file per image, masks without class.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{file_name, write_json};
use crate::error::PredictError;
use crate::record::{MaskImage, MaskRecord};

pub(super) fn write(path: &Path, record: &MaskImage) -> Result<PathBuf, PredictError> {
    let annotation = |(i, mask): (usize, &MaskRecord)| -> Value {
        let points: Vec<[f64; 2]> = mask.prompt.points.iter().map(|&[x, y, _]| [x, y]).collect();
        json!({
            "id": i + 1, "segmentation": mask.segmentation, "bbox": mask.bbox, "area": mask.area,
            "predicted_iou": mask.predicted_iou, "stability_score": mask.stability_score,
            "crop_box": mask.crop_box.unwrap_or([0, 0, record.width, record.height]), "point_coords": points,
        })
    };
    let annotations: Vec<Value> = record.masks.iter().enumerate().map(annotation).collect();
    let image = json!({
        "image_id": 1, "width": record.width, "height": record.height, "file_name": file_name(record),
    });
    write_json(path, &json!({ "image": image, "annotations": annotations }))
}
