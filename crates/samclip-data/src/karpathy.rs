//! Photos with captions in Karpathy's splits: Flickr30k and COCO.
//!
//! Format: `dataset_flickr30k.json` / `dataset_coco.json`, `images[].{filename, filepath?, split, sentences[].raw}`. Photos
//! lie in `flickr30k-images/`, for COCO in the folder that `filepath` names (`val2014`).

use crate::dataset::{check_index, open_image};
use crate::error::read_text;
use crate::{DataError, Dataset, Sample};
use serde::Deserialize;
use std::path::{Component, Path, PathBuf};

#[derive(Deserialize)]
struct File {
    images: Vec<Picture>,
}

#[derive(Deserialize)]
struct Picture {
    filename: String,
    #[serde(default)]
    filepath: Option<String>,
    split: String,
    sentences: Vec<Sentence>,
}

#[derive(Deserialize)]
struct Sentence {
    raw: String,
}

/// A split of captioned photos.
#[derive(Debug)]
pub struct Karpathy {
    name: &'static str,
    photos: Vec<(PathBuf, Vec<String>)>,
}

/// Opens `root/<json>`, the photos of `split`.
///
/// # Errors
/// A missing file, another form, a path that leaves the folder, no photos in the split.
pub fn open(name: &'static str, root: &Path, json: &str, folder: &str, split: &str) -> Result<Karpathy, DataError> {
    let path = root.join(json);
    let fail = |message: String| DataError::format(&path, message);
    let file: File = serde_json::from_str(&read_text(&path)?).map_err(|e| fail(format!("not Karpathy's split ({e})")))?;
    let mut photos = Vec::new();
    for image in file.images.into_iter().filter(|image| image.split == split) {
        let place = Path::new(image.filepath.as_deref().unwrap_or(folder)).join(&image.filename);
        if place.components().any(|part| !matches!(part, Component::Normal(_))) {
            return Err(fail(format!("`{}` leaves the folder", place.display())));
        }
        photos.push((root.join(place), image.sentences.into_iter().map(|s| s.raw.trim().to_owned()).collect()));
    }
    match photos.is_empty() {
        true => Err(fail(format!("no photos in the split `{split}`"))),
        false => Ok(Karpathy { name, photos }),
    }
}

impl Dataset for Karpathy {
    fn name(&self) -> &str {
        self.name
    }
    fn len(&self) -> usize {
        self.photos.len()
    }
    fn get(&self, index: usize) -> Result<Sample, DataError> {
        check_index(self, index)?;
        let (path, captions) = &self.photos[index];
        let image = open_image(path)?;
        let id = self.id(index).unwrap_or_default();
        Ok(Sample { id, image, labels: None, masks: Vec::new(), class_ids: Vec::new(), captions: captions.clone() })
    }
    fn captions(&self, index: usize) -> Result<Vec<String>, DataError> {
        check_index(self, index)?;
        Ok(self.photos[index].1.clone())
    }
    fn id(&self, index: usize) -> Option<String> {
        self.photos.get(index).map(|(path, _)| path.file_stem().unwrap_or_default().to_string_lossy().into_owned())
    }
    fn class_names(&self) -> &[String] {
        &[]
    }
    fn background(&self) -> Option<usize> {
        None
    }
}
