//! A list of photo and mask paths, one pair a line: `image_path mask_path`.
//!
//! The form of the low-label splits in LiheYoung/UniMatch-V2 `splits/`. Paths are relative to
//! a root; a tab separates them where paths hold spaces. A line without a mask is an
//! unlabelled photo.

use crate::dataset::{check_index, open_image, open_labels, present_classes};
use crate::error::read_lines;
use crate::{DataError, Dataset, Sample};
use std::path::{Path, PathBuf};

/// Photos and masks named by a list.
#[derive(Debug)]
pub struct FileList {
    name: String,
    root: PathBuf,
    pairs: Vec<(String, Option<String>)>,
    classes: Vec<String>,
    background: Option<usize>,
}

impl FileList {
    /// Reads `list`; its paths are taken below `root`.
    ///
    /// # Errors
    /// A missing or empty list, or a line of more than two paths.
    pub fn open(
        name: &str,
        list: &Path,
        root: &Path,
        classes: Vec<String>,
        background: Option<usize>,
    ) -> Result<Self, DataError> {
        let mut pairs = Vec::new();
        for line in read_lines(list)? {
            let fields: Vec<&str> = match line.contains('\t') {
                true => line.split('\t').collect(),
                false => line.split_whitespace().collect(),
            };
            pairs.push(match fields[..] {
                [image] => (image.to_owned(), None),
                [image, mask] => (image.to_owned(), Some(mask.to_owned())),
                _ => {
                    let message = format!("expected `image mask`, found {} fields in `{line}`", fields.len());
                    return Err(DataError::format(list, message));
                }
            });
        }
        Ok(Self { name: name.to_owned(), root: root.to_owned(), pairs, classes, background })
    }
}

impl Dataset for FileList {
    fn name(&self) -> &str {
        &self.name
    }
    fn len(&self) -> usize {
        self.pairs.len()
    }
    fn get(&self, index: usize) -> Result<Sample, DataError> {
        check_index(self, index)?;
        let (file, mask) = &self.pairs[index];
        let image = open_image(&self.root.join(file))?;
        let labels = match mask {
            Some(mask) => Some(open_labels(&self.root.join(mask), &image, self.classes.len(), None)?),
            None => None,
        };
        let class_ids = labels.as_ref().map_or_else(Vec::new, |l| present_classes(l, self.background));
        Ok(Sample { id: file.clone(), image, labels, masks: Vec::new(), class_ids, captions: Vec::new() })
    }
    fn class_names(&self) -> &[String] {
        &self.classes
    }
    fn background(&self) -> Option<usize> {
        self.background
    }
}
