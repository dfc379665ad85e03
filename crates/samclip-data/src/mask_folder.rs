//! Semantic masks in folders: `<split>/images/X.jpg`, `<split>/masks/X.png`, `classes.txt`.
//!
//! The value of a mask pixel is the line of `classes.txt`, from 0. One class may be the
//! background and one may be void (its pixels become [`crate::IGNORE`]).

use crate::dataset::{check_index, open_image, open_labels, present_classes};
use crate::error::{PHOTO, list_files, read_lines};
use crate::{DataError, Dataset, Sample};
use std::path::{Path, PathBuf};

/// A split of such a folder.
#[derive(Debug)]
pub struct MaskFolder {
    name: String,
    images: Vec<PathBuf>,
    masks: PathBuf,
    classes: Vec<String>,
    background: Option<usize>,
    void: Option<usize>,
}

impl MaskFolder {
    /// Opens `root/<split>` with the classes of `root/classes.txt`.
    ///
    /// # Errors
    /// Missing folders, no photos, or a background or void name that is not a class.
    pub fn open(
        name: &str,
        root: &Path,
        split: &str,
        background: Option<&str>,
        void: Option<&str>,
    ) -> Result<Self, DataError> {
        let list = root.join("classes.txt");
        let classes = read_lines(&list)?;
        let find = |wanted: Option<&str>| match wanted {
            None => Ok(None),
            Some(wanted) => match classes.iter().position(|c| c == wanted) {
                Some(index) => Ok(Some(index)),
                None => Err(DataError::format(&list, format!("class `{wanted}` is not in the list"))),
            },
        };
        let (background, void) = (find(background)?, find(void)?);
        let folder = root.join(split).join("images");
        let images = list_files(&folder, PHOTO)?;
        if images.is_empty() {
            return Err(DataError::format(&folder, "expected photos, found none"));
        }
        let masks = root.join(split).join("masks");
        Ok(Self { name: name.to_owned(), images, masks, classes, background, void })
    }

    /// The photos.
    pub(crate) fn photos(&self) -> &[PathBuf] {
        &self.images
    }

    /// The folder of the masks.
    pub(crate) fn masks(&self) -> &Path {
        &self.masks
    }

    /// Clothing Co-Parsing: 58 items, `null` is the background.
    ///
    /// # Errors
    /// See [`MaskFolder::open`].
    pub fn ccp(root: &Path, split: &str) -> Result<Self, DataError> {
        Self::open("ccp", root, split, Some("null"), None)
    }

    /// CamVid: 11 classes of street scenes, `unlabelled` is void.
    ///
    /// # Errors
    /// See [`MaskFolder::open`].
    pub fn camvid(root: &Path, split: &str) -> Result<Self, DataError> {
        Self::open("camvid", root, split, None, Some("unlabelled"))
    }
}

impl Dataset for MaskFolder {
    fn name(&self) -> &str {
        &self.name
    }
    fn len(&self) -> usize {
        self.images.len()
    }
    fn get(&self, index: usize) -> Result<Sample, DataError> {
        check_index(self, index)?;
        let path = &self.images[index];
        let id = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let image = open_image(path)?;
        let mask = self.masks.join(format!("{id}.png"));
        let labels = open_labels(&mask, &image, self.classes.len(), self.void)?;
        let class_ids = present_classes(&labels, self.background);
        Ok(Sample { id, image, labels: Some(labels), masks: Vec::new(), class_ids, captions: Vec::new() })
    }
    fn id(&self, index: usize) -> Option<String> {
        self.images.get(index).map(|path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned())
    }
    fn class_names(&self) -> &[String] {
        &self.classes
    }
    fn background(&self) -> Option<usize> {
        self.background
    }
}
