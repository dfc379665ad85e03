//! COCO instances as semantic labels (spec 8.1): polygons, compressed and uncompressed runs, crowds.
//!
//! Reference: cocodataset.org, "Format"; cocoapi `pycocotools/coco.py` (`annToRLE`). Photos lie beside
//! the file, in `images/` beside it, or beside its folder.

use super::check::Finding;
use super::paint::{self, Instance};
use crate::coco_json::{Annotation, File, Picture};
use crate::dataset::{check_index, open_image};
use crate::error::read_text;
use crate::{DataError, Dataset, Sample};
use samclip_image::{Mask, rle};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A COCO file with its photos.
#[derive(Debug)]
pub struct Coco {
    file: PathBuf,
    images: Vec<Picture>,
    annotations: Vec<Annotation>,
    /// Annotations of each image.
    of_image: Vec<Vec<usize>>,
    classes: Vec<String>,
    /// Label value of a category.
    values: BTreeMap<u64, u8>,
    folder: PathBuf,
}

/// Whether a file looks like COCO's: an object with `annotations`.
pub(super) fn is_coco(path: &Path) -> bool {
    #[derive(Deserialize)]
    struct Probe {
        #[serde(rename = "annotations")]
        _annotations: Vec<serde::de::IgnoredAny>,
    }
    read_text(path).is_ok_and(|text| serde_json::from_str::<Probe>(&text).is_ok())
}

impl Coco {
    /// Reads the file; photos are read one by one later.
    ///
    /// # Errors
    /// A file that is not COCO's, no images, more than 254 categories.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        Self::open_in(path, None)
    }

    /// The same with the folder of the photos.
    ///
    /// # Errors
    /// See [`Coco::open`].
    pub fn open_in(path: &Path, folder: Option<&Path>) -> Result<Self, DataError> {
        let text = read_text(path)?;
        let mut file: File = serde_json::from_str(&text).map_err(|e| DataError::format(path, format!("COCO: {e}")))?;
        if let Some(nameless) = file.images.iter().find(|p| p.file_name.is_empty()) {
            return Err(DataError::format(path, format!("COCO: image {} has no `file_name`", nameless.id)));
        }
        if file.images.is_empty() {
            return Err(DataError::format(path, "COCO: expected images, found none"));
        }
        file.categories.sort_by_key(|c| c.id);
        let classes = paint::class_list(file.categories.iter().map(|c| c.name.clone()), path)?;
        let values = file.categories.iter().enumerate().map(|(i, c)| (c.id, i as u8 + 1)).collect();
        let index: BTreeMap<u64, usize> = file.images.iter().enumerate().map(|(i, p)| (p.id, i)).collect();
        let mut of_image = vec![Vec::new(); file.images.len()];
        for (i, annotation) in file.annotations.iter().enumerate() {
            if let Some(&image) = index.get(&annotation.image_id) {
                of_image[image].push(i);
            }
        }
        let folder = folder.map_or_else(|| photo_folder(path, &file.images[0].file_name), Path::to_owned);
        let File { images, annotations, .. } = file;
        Ok(Self { file: path.to_owned(), images, annotations, of_image, classes, values, folder })
    }

    /// Where photo `index` lies.
    pub(super) fn photo(&self, index: usize) -> PathBuf {
        self.folder.join(&self.images[index].file_name)
    }

    /// Everything that is wrong with the file.
    pub(super) fn findings(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        let mut add = |message: String| found.push(Finding { file: self.file.clone(), message });
        let mut seen: BTreeMap<u64, &Picture> = BTreeMap::new();
        for image in &self.images {
            if let Some(other) = seen.get(&image.id) {
                add(format!("image id {} is used twice: {} and {}", image.id, other.file_name, image.file_name));
            }
            seen.entry(image.id).or_insert(image);
        }
        let mut ids = BTreeMap::new();
        for annotation in &self.annotations {
            if annotation.id != 0 && ids.insert(annotation.id, ()).is_some() {
                add(format!("annotation id {} is used twice", annotation.id));
            }
            let Some(image) = seen.get(&annotation.image_id) else {
                add(format!("annotation {} belongs to image {}, which is not in the file", annotation.id, annotation.image_id));
                continue;
            };
            if !self.values.contains_key(&annotation.category_id) {
                add(format!("annotation {} has category {}, which is not in the file", annotation.id, annotation.category_id));
            }
            match mask(annotation, image.height, image.width) {
                Err(what) => add(format!("annotation {} of {}: {what}", annotation.id, image.file_name)),
                Ok(mask) if mask.area() == 0 => {
                    add(format!("annotation {} of {}: an empty mask", annotation.id, image.file_name));
                }
                Ok(_) => {}
            }
        }
        found
    }
}

/// The pixels of an annotation; what is wrong with it otherwise.
fn mask(annotation: &Annotation, height: usize, width: usize) -> Result<Mask, String> {
    annotation.segmentation.runs(height, width).map(|runs| rle::decode(&runs))
}

/// Where the photos lie: the first of the usual places that holds the first one.
fn photo_folder(file: &Path, first: &str) -> PathBuf {
    let beside = file.parent().unwrap_or(Path::new(".")).to_owned();
    let above = beside.parent().unwrap_or(Path::new(".")).to_owned();
    let places = [beside.clone(), beside.join("images"), above.clone(), above.join("images")];
    places.into_iter().find(|folder| folder.join(first).is_file()).unwrap_or(beside)
}

impl Dataset for Coco {
    fn name(&self) -> &str {
        "coco"
    }
    fn len(&self) -> usize {
        self.images.len()
    }
    fn get(&self, index: usize) -> Result<Sample, DataError> {
        check_index(self, index)?;
        let picture = &self.images[index];
        let path = self.photo(index);
        let image = open_image(&path)?;
        let (width, height) = (image.width(), image.height());
        let stated = (picture.width, picture.height);
        if stated != (0, 0) && stated != (width, height) {
            return Err(DataError::SizeMismatch { mask: stated, image: (width, height), path });
        }
        let mut instances = Vec::new();
        for &i in &self.of_image[index] {
            let annotation = &self.annotations[i];
            let bad = |what: String| DataError::format(&self.file, format!("annotation {}: {what}", annotation.id));
            let class = self.values.get(&annotation.category_id).copied();
            let class = class.ok_or_else(|| bad(format!("unknown category {}", annotation.category_id)))?;
            let mask = mask(annotation, height, width).map_err(bad)?;
            instances.push(Instance { class: (annotation.iscrowd == 0).then_some(class), mask });
        }
        Ok(paint::sample(picture.file_name.clone(), image, instances))
    }
    fn id(&self, index: usize) -> Option<String> {
        self.images.get(index).map(|p| p.file_name.clone())
    }
    fn class_names(&self) -> &[String] {
        &self.classes
    }
    fn background(&self) -> Option<usize> {
        Some(0)
    }
}
