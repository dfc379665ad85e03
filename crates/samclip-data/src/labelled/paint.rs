//! Instances to a semantic map: the larger first, so that small ones stay visible (spec 8.1).

use crate::coco_json::polygon_runs;
use crate::dataset::present_classes;
use crate::{DataError, IGNORE, Sample};
use samclip_image::{Image, LabelMap, Mask, rle};
use std::path::Path;

/// One instance: its class, 1 for the first, or none for a crowd (its pixels are unknown).
pub struct Instance {
    /// The class's label value.
    pub class: Option<u8>,
    /// Its pixels.
    pub mask: Mask,
}

/// A painted sample; label 0 is the background.
pub fn sample(id: String, image: Image, mut instances: Vec<Instance>) -> Sample {
    let (width, height) = (image.width(), image.height());
    instances.sort_by_key(|i| std::cmp::Reverse(i.mask.area()));
    let mut data = vec![0u8; width * height];
    for instance in &instances {
        let value = instance.class.unwrap_or(IGNORE);
        for (slot, _) in data.iter_mut().zip(&instance.mask.data).filter(|(_, inside)| **inside) {
            *slot = value;
        }
    }
    let labels = LabelMap { width, height, data };
    let class_ids = present_classes(&labels, Some(0));
    Sample { id, image, labels: Some(labels), masks: Vec::new(), class_ids, captions: Vec::new() }
}

/// `background`, then the classes; label values must fit a byte beside [`IGNORE`].
pub fn class_list(names: impl Iterator<Item = String>, path: &Path) -> Result<Vec<String>, DataError> {
    let classes: Vec<String> = std::iter::once("background".to_owned()).chain(names).collect();
    match classes.len() <= usize::from(IGNORE) {
        true => Ok(classes),
        false => Err(DataError::format(path, format!("expected at most 254 classes, found {}", classes.len() - 1))),
    }
}

/// The pixels of polygons (x, y, x, y, ...); what is wrong with them otherwise.
pub fn polygons(polygons: &[Vec<f64>], height: usize, width: usize) -> Result<Mask, String> {
    polygon_runs(polygons, height, width).map(|r| rle::decode(&r))
}
