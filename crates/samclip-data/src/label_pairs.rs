//! Photos beside label maps, with a table from the file's values to class numbers: what the semantic benchmarks share.
//!
//! [`crate::ade20k`], [`crate::pascal_context`], [`crate::coco_stuff`] and [`crate::camouflaged`] say where the files
//! lie and what their values mean.

use crate::dataset::{check_index, check_size, open_image, present_classes};
use crate::error::{PHOTO, list_files};
use crate::{DataError, Dataset, IGNORE, Sample};
use samclip_image::LabelMap;
use std::path::{Path, PathBuf};

/// One photo and its label map.
#[derive(Debug, Clone)]
pub struct Pair {
    /// Stable name within the set.
    pub id: String,
    /// The photo.
    pub photo: PathBuf,
    /// The label map, a palette or grey PNG.
    pub labels: PathBuf,
}

/// The photos of a folder, each with the label map that `labels` names for its stem.
///
/// # Errors
/// A missing folder, no photos.
pub(crate) fn photos_with(folder: &Path, labels: impl Fn(&str) -> PathBuf) -> Result<Vec<Pair>, DataError> {
    let photos = list_files(folder, PHOTO)?;
    if photos.is_empty() {
        return Err(DataError::format(folder, "expected photos, found none"));
    }
    let pair = |photo: PathBuf| {
        let id = photo.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Pair { labels: labels(&id), id, photo }
    };
    Ok(photos.into_iter().map(pair).collect())
}

/// What a value in a file means: a class, [`IGNORE`], or (none) a mistake.
pub type Recode = [Option<u8>; 256];

/// The values 0 .. `classes` are the classes, 255 is void.
pub fn plain(classes: usize) -> Recode {
    std::array::from_fn(|v| if v < classes { Some(v as u8) } else { (v == 255).then_some(IGNORE) })
}

/// 0 and 255 are void, 1 .. `classes` + 1 are the classes (mmseg's `reduce_zero_label`).
pub fn reduced(classes: usize) -> Recode {
    std::array::from_fn(|v| match v {
        0 | 255 => Some(IGNORE),
        v if v <= classes => Some(v as u8 - 1),
        _ => None,
    })
}

/// A semantic set of pairs.
#[derive(Debug)]
pub struct LabelPairs {
    /// The set's name.
    pub name: &'static str,
    /// Its photos.
    pub pairs: Vec<Pair>,
    /// Class names in the order of the recoded values.
    pub classes: Vec<String>,
    /// The class that means none of the others.
    pub background: Option<usize>,
    /// What the files' values mean.
    pub recode: Recode,
    /// A sentence for values that mean nothing, naming the usual mistake.
    pub advice: &'static str,
}

impl LabelPairs {
    fn read(&self, index: usize) -> Result<LabelMap, DataError> {
        check_index(self, index)?;
        let path = &self.pairs[index].labels;
        let mut map = LabelMap::open(path)?;
        for value in &mut map.data {
            *value = self.recode[usize::from(*value)].ok_or_else(|| {
                let what = format!("value {value} is no class of {} ({} classes){}", self.name, self.classes.len(), self.advice);
                DataError::format(path, what)
            })?;
        }
        Ok(map)
    }
}

impl Dataset for LabelPairs {
    fn name(&self) -> &str {
        self.name
    }
    fn len(&self) -> usize {
        self.pairs.len()
    }
    fn get(&self, index: usize) -> Result<Sample, DataError> {
        let labels = self.read(index)?;
        let pair = &self.pairs[index];
        let image = open_image(&pair.photo)?;
        check_size(&labels, &image, &pair.labels)?;
        let class_ids = present_classes(&labels, self.background);
        Ok(Sample { id: pair.id.clone(), image, labels: Some(labels), masks: Vec::new(), class_ids, captions: Vec::new() })
    }
    fn labels(&self, index: usize) -> Result<Option<LabelMap>, DataError> {
        self.read(index).map(Some)
    }
    fn id(&self, index: usize) -> Option<String> {
        self.pairs.get(index).map(|pair| pair.id.clone())
    }
    fn present(&self, index: usize) -> Result<Vec<usize>, DataError> {
        Ok(present_classes(&self.read(index)?, self.background))
    }
    fn class_names(&self) -> &[String] {
        &self.classes
    }
    fn background(&self) -> Option<usize> {
        self.background
    }
}
