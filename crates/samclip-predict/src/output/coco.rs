//! COCO's instance JSON with run-length encoded masks. A name that was asked for and not found keeps its category, so
//! ids do not depend on what is in a photo; an annotation without a pixel is not written.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{file_name, number, write_json};
use crate::error::PredictError;
use crate::record::MaskImage;

/// Grows image by image; one file at the end.
#[derive(Debug, Default)]
pub(super) struct Coco {
    images: Vec<Value>,
    annotations: Vec<Value>,
    categories: Vec<String>,
}

impl Coco {
    pub(super) fn add(&mut self, record: &MaskImage) {
        let image_id = self.images.len() + 1;
        self.images.push(json!({
            "id": image_id, "file_name": file_name(record), "width": record.width, "height": record.height,
        }));
        for mask in &record.masks {
            let category = number(&mut self.categories, mask.label());
            if mask.area == 0 {
                continue;
            }
            self.annotations.push(json!({
                "id": self.annotations.len() + 1, "image_id": image_id, "category_id": category + 1,
                "segmentation": mask.segmentation, "bbox": mask.bbox, "area": mask.area, "iscrowd": 0,
                "score": mask.score, "predicted_iou": mask.predicted_iou, "stability_score": mask.stability_score,
            }));
        }
    }

    pub(super) fn write(&self, path: &Path) -> Result<PathBuf, PredictError> {
        let category = |(i, name): (usize, &String)| json!({ "id": i + 1, "name": name, "supercategory": "" });
        let categories: Vec<Value> = self.categories.iter().enumerate().map(category).collect();
        let document = json!({
            "info": { "description": "masks by samclip" }, "licenses": [],
            "images": self.images, "annotations": self.annotations, "categories": categories,
        });
        write_json(path, &document)
    }
}
