//! PASCAL VOC segmentation: `JPEGImages`, `SegmentationClass`, `ImageSets/Segmentation/<split>.txt`.
//!
//! Masks are palette PNGs whose indices are the classes; 255 is void. `classes.txt` in the root
//! lists the 21 names, background first; without it the standard names are taken.

use crate::dataset::{check_index, check_values, open_image, open_labels, present_classes};
use crate::error::read_lines;
use crate::{DataError, Dataset, Sample};
use samclip_image::LabelMap;
use std::path::{Path, PathBuf};

/// The standard names in the order of the label values.
pub const CLASSES: [&str; 21] = [
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
];

/// A split of PASCAL VOC.
#[derive(Debug)]
pub struct Voc {
    root: PathBuf,
    ids: Vec<String>,
    classes: Vec<String>,
    name: &'static str,
    masks: &'static str,
}

impl Voc {
    /// Opens `root/ImageSets/Segmentation/<split>.txt`.
    ///
    /// # Errors
    /// A missing or empty list, or a `classes.txt` that does not start with `background`.
    pub fn open(root: &Path, split: &str) -> Result<Self, DataError> {
        let ids = read_lines(&root.join("ImageSets/Segmentation").join(format!("{split}.txt")))?;
        let names = root.join("classes.txt");
        let classes = match names.exists() {
            true => read_lines(&names)?,
            false => CLASSES.map(str::to_owned).to_vec(),
        };
        if classes[0] != "background" {
            return Err(DataError::format(
                &names,
                format!("expected `background` as the first class, found `{}`", classes[0]),
            ));
        }
        Ok(Self { root: root.to_owned(), ids, classes, name: "voc", masks: "SegmentationClass" })
    }

    /// The same with the masks of SBD beside VOC's, `SegmentationClassAug` (splits `train_aug`, `val`).
    ///
    /// # Errors
    /// See [`Voc::open`].
    pub fn open_aug(root: &Path, split: &str) -> Result<Self, DataError> {
        Ok(Self { name: "voc_aug", masks: "SegmentationClassAug", ..Self::open(root, split)? })
    }
}

impl Voc {
    /// Where photo `index` lies.
    pub(crate) fn photo(&self, index: usize) -> PathBuf {
        self.root.join("JPEGImages").join(format!("{}.jpg", self.ids[index]))
    }

    /// Where its mask lies.
    fn mask(&self, index: usize) -> PathBuf {
        self.root.join(self.masks).join(format!("{}.png", self.ids[index]))
    }
}

impl Dataset for Voc {
    fn name(&self) -> &str {
        self.name
    }
    fn len(&self) -> usize {
        self.ids.len()
    }
    fn get(&self, index: usize) -> Result<Sample, DataError> {
        check_index(self, index)?;
        let id = self.ids[index].clone();
        let image = open_image(&self.photo(index))?;
        let path = self.mask(index);
        let labels = open_labels(&path, &image, self.classes.len(), None)?;
        let class_ids = present_classes(&labels, self.background());
        Ok(Sample { id, image, labels: Some(labels), masks: Vec::new(), class_ids, captions: Vec::new() })
    }
    fn present(&self, index: usize) -> Result<Vec<usize>, DataError> {
        check_index(self, index)?;
        Ok(present_classes(&LabelMap::open(&self.mask(index))?, self.background()))
    }
    fn labels(&self, index: usize) -> Result<Option<LabelMap>, DataError> {
        check_index(self, index)?;
        let path = self.mask(index);
        let labels = LabelMap::open(&path)?;
        check_values(&labels, self.classes.len(), &path)?;
        Ok(Some(labels))
    }
    fn id(&self, index: usize) -> Option<String> {
        self.ids.get(index).cloned()
    }
    fn class_names(&self) -> &[String] {
        &self.classes
    }
    fn background(&self) -> Option<usize> {
        Some(0)
    }
}
