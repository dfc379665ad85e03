//! COCO Panoptic as semantic segmentation: `annotations/panoptic_<split>.json`, `annotations/panoptic_<split>/*.png`,
//! `<split>/*.jpg`.
//!
//! A PNG pixel is a segment, R + 256 G + 65536 B; the JSON says its category. Categories are numbered by ascending id;
//! pixels of no segment are void. Reference: cocodataset/panopticapi.

use crate::dataset::{check_index, check_size, open_image, present_classes};
use crate::error::read_text;
use crate::{DataError, Dataset, IGNORE, Sample};
use samclip_image::LabelMap;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(Debug, Deserialize)]
struct File {
    images: Vec<Picture>,
    annotations: Vec<Annotation>,
    categories: Vec<Category>,
}

#[derive(Debug, Deserialize)]
struct Picture {
    id: u64,
    file_name: String,
}

#[derive(Debug, Deserialize)]
struct Annotation {
    image_id: u64,
    file_name: String,
    segments_info: Vec<Segment>,
}

#[derive(Debug, Deserialize)]
struct Segment {
    id: u32,
    category_id: u64,
}

#[derive(Debug, Deserialize)]
struct Category {
    id: u64,
    name: String,
}

/// A split of COCO Panoptic.
#[derive(Debug)]
pub struct CocoPanoptic {
    photos: PathBuf,
    maps: PathBuf,
    items: Vec<(Picture, Annotation)>,
    classes: Vec<String>,
    value: BTreeMap<u64, u8>,
}

/// Opens a split (`val2017`).
///
/// # Errors
/// A missing file, JSON of another form, a photo without an annotation, more than 254 categories.
pub fn open(root: &Path, split: &str) -> Result<CocoPanoptic, DataError> {
    let path = root.join("annotations").join(format!("panoptic_{split}.json"));
    let fail = |message: String| DataError::format(&path, message);
    let mut file: File = serde_json::from_str(&read_text(&path)?).map_err(|e| fail(format!("not COCO Panoptic ({e})")))?;
    file.categories.sort_by_key(|c| c.id);
    if file.categories.len() >= usize::from(IGNORE) {
        return Err(fail(format!("expected at most 254 categories, found {}", file.categories.len())));
    }
    let value = file.categories.iter().enumerate().map(|(i, c)| (c.id, i as u8)).collect();
    let mut annotations: BTreeMap<u64, Annotation> = file.annotations.into_iter().map(|a| (a.image_id, a)).collect();
    file.images.sort_by_key(|image| image.id);
    let mut items = Vec::new();
    for image in file.images {
        let annotation = annotations.remove(&image.id).ok_or_else(|| fail(format!("{} has no annotation", image.file_name)))?;
        items.push((image, annotation));
    }
    let classes = file.categories.into_iter().map(|c| c.name).collect();
    let maps = root.join("annotations").join(format!("panoptic_{split}"));
    Ok(CocoPanoptic { photos: root.join(split), maps, items, classes, value })
}

impl CocoPanoptic {
    /// The categories of one photo's pixels.
    fn read(&self, index: usize) -> Result<LabelMap, DataError> {
        check_index(self, index)?;
        let annotation = &self.items[index].1;
        let path = self.maps.join(&annotation.file_name);
        let segments = open_image(&path)?;
        let mut value: BTreeMap<u32, u8> = BTreeMap::from([(0, IGNORE)]);
        for segment in &annotation.segments_info {
            let class = self.value.get(&segment.category_id);
            let class = class.ok_or_else(|| DataError::format(&path, format!("segment {} has the unknown category {}", segment.id, segment.category_id)))?;
            value.insert(segment.id, *class);
        }
        let mut data = Vec::with_capacity(segments.width() * segments.height());
        for pixel in segments.data().chunks_exact(3) {
            let id = u32::from(pixel[0]) + 256 * u32::from(pixel[1]) + 65536 * u32::from(pixel[2]);
            let class = value.get(&id).ok_or_else(|| DataError::format(&path, format!("segment {id} is not in the JSON")))?;
            data.push(*class);
        }
        Ok(LabelMap { width: segments.width(), height: segments.height(), data })
    }
}

impl Dataset for CocoPanoptic {
    fn name(&self) -> &str {
        "coco_panoptic"
    }
    fn len(&self) -> usize {
        self.items.len()
    }
    fn get(&self, index: usize) -> Result<Sample, DataError> {
        let labels = self.read(index)?;
        let (picture, annotation) = &self.items[index];
        let image = open_image(&self.photos.join(&picture.file_name))?;
        check_size(&labels, &image, &self.maps.join(&annotation.file_name))?;
        let class_ids = present_classes(&labels, None);
        let id = self.id(index).unwrap_or_default();
        Ok(Sample { id, image, labels: Some(labels), masks: Vec::new(), class_ids, captions: Vec::new() })
    }
    fn labels(&self, index: usize) -> Result<Option<LabelMap>, DataError> {
        self.read(index).map(Some)
    }
    fn id(&self, index: usize) -> Option<String> {
        self.items.get(index).map(|(image, _)| image.file_name.rsplit_once('.').map_or(image.file_name.clone(), |f| f.0.to_owned()))
    }
    fn class_names(&self) -> &[String] {
        &self.classes
    }
    fn background(&self) -> Option<usize> {
        None
    }
}
