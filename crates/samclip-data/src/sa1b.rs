//! Class-less masks in the SA-1B layout: `X.jpg` beside `X.json` (COCO run lengths).
//!
//! Format: segment-anything's dataset page; only `image.{width,height,file_name}` and
//! `annotations[].segmentation` are read. Masks keep the file's order.

use crate::dataset::{check_index, open_image};
use crate::error::{list_files, read_text};
use crate::{DataError, Dataset, Sample};
use samclip_image::{Mask, rle};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// A folder of photos with SA-1B annotations.
#[derive(Debug)]
pub struct Sa1b {
    files: Vec<PathBuf>,
}

#[derive(Deserialize)]
struct File {
    image: ImageInfo,
    annotations: Vec<Annotation>,
}

#[derive(Deserialize)]
struct ImageInfo {
    width: usize,
    height: usize,
    file_name: String,
}

#[derive(Deserialize)]
struct Annotation {
    segmentation: Segmentation,
}

#[derive(Deserialize)]
struct Segmentation {
    size: [usize; 2],
    counts: String,
}

impl Sa1b {
    /// Lists the JSON files of `folder`.
    ///
    /// # Errors
    /// A missing folder, or one without JSON files.
    pub fn open(folder: &Path) -> Result<Self, DataError> {
        let files = list_files(folder, &["json"])?;
        if files.is_empty() {
            return Err(DataError::format(folder, "expected SA-1B JSON files, found none"));
        }
        Ok(Self { files })
    }
}

/// The masks of an SA-1B JSON text whose photo has this (width, height); `path` is for messages.
pub(crate) fn masks_of(text: &str, size: (usize, usize), path: &Path) -> Result<Vec<Mask>, DataError> {
    let file = serde_json::from_str(text).map_err(|e| DataError::format(path, format!("not SA-1B JSON ({e})")))?;
    masks(&file, size, path)
}

fn masks(file: &File, size: (usize, usize), path: &Path) -> Result<Vec<Mask>, DataError> {
    let differs = |mask| Err(DataError::SizeMismatch { mask, image: size, path: path.to_owned() });
    if size != (file.image.width, file.image.height) {
        return differs((file.image.width, file.image.height));
    }
    let mut masks = Vec::with_capacity(file.annotations.len());
    for Annotation { segmentation: s } in &file.annotations {
        if s.size != [size.1, size.0] {
            return differs((s.size[1], s.size[0]));
        }
        let runs = rle::from_coco_string(&s.counts, s.size)
            .map_err(|e| DataError::format(path, format!("run lengths of a mask: {e}")))?;
        masks.push(rle::decode(&runs));
    }
    Ok(masks)
}

impl Dataset for Sa1b {
    fn name(&self) -> &str {
        "bsds_sa1b"
    }
    fn len(&self) -> usize {
        self.files.len()
    }
    fn get(&self, index: usize) -> Result<Sample, DataError> {
        check_index(self, index)?;
        let path = &self.files[index];
        let file: File = serde_json::from_str(&read_text(path)?)
            .map_err(|e| DataError::format(path, format!("not SA-1B JSON ({e})")))?;
        let plain = Path::new(&file.image.file_name).file_name();
        if plain.and_then(|n| n.to_str()) != Some(file.image.file_name.as_str()) {
            return Err(DataError::format(path, "`file_name` must be a file name without a folder"));
        }
        let image = open_image(&path.with_file_name(&file.image.file_name))?;
        let masks = masks(&file, (image.width(), image.height()), path)?;
        let id = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Sample { id, image, labels: None, masks, class_ids: Vec::new(), captions: Vec::new() })
    }
    fn class_names(&self) -> &[String] {
        &[]
    }
    fn background(&self) -> Option<usize> {
        None
    }
}
