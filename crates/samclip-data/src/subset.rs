//! Some photos of a data set: a low-label split, or those that a check left over.
//!
//! A split file has one photo a line, as in LiheYoung/UniMatch-V2 `splits/`: `image_path mask_path`, or
//! the photo alone; the photo is found by the stem of its file name.

use crate::dataset::check_index;
use crate::error::read_lines;
use crate::{DataError, Dataset, Sample};
use samclip_image::LabelMap;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// Photos of another data set, by index.
pub struct Subset {
    dataset: Arc<dyn Dataset>,
    indices: Vec<usize>,
}

impl Subset {
    /// The photos at `indices`, in that order.
    ///
    /// # Errors
    /// An index beyond the end.
    pub fn new(dataset: Arc<dyn Dataset>, indices: Vec<usize>) -> Result<Self, DataError> {
        indices.iter().try_for_each(|&i| check_index(dataset.as_ref(), i))?;
        Ok(Self { dataset, indices })
    }

    /// The photos of a split file.
    ///
    /// # Errors
    /// A file that cannot be read, a line whose photo the data set lacks, a photo named twice.
    pub fn of_list(dataset: Arc<dyn Dataset>, list: &Path) -> Result<Self, DataError> {
        let stem = |path: &str| Path::new(path).file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let named = (0..dataset.len()).filter_map(|i| dataset.id(i).map(|id| (stem(&id), i)));
        let known: BTreeMap<String, usize> = named.collect();
        let (mut indices, mut taken) = (Vec::new(), BTreeSet::new());
        for (line, text) in read_lines(list)?.iter().enumerate() {
            let photo = text.split(['\t', ' ']).next().unwrap_or_default();
            let Some(&index) = known.get(&stem(photo)) else {
                let message = format!("line {}: {} has no photo `{photo}`", line + 1, dataset.name());
                return Err(DataError::format(list, message));
            };
            if !taken.insert(index) {
                return Err(DataError::format(list, format!("line {}: `{photo}` is named twice", line + 1)));
            }
            indices.push(index);
        }
        Self::new(dataset, indices)
    }
}

impl Dataset for Subset {
    fn name(&self) -> &str {
        self.dataset.name()
    }
    fn len(&self) -> usize {
        self.indices.len()
    }
    fn get(&self, index: usize) -> Result<Sample, DataError> {
        check_index(self, index)?;
        self.dataset.get(self.indices[index])
    }
    fn present(&self, index: usize) -> Result<Vec<usize>, DataError> {
        check_index(self, index)?;
        self.dataset.present(self.indices[index])
    }
    fn labels(&self, index: usize) -> Result<Option<LabelMap>, DataError> {
        check_index(self, index)?;
        self.dataset.labels(self.indices[index])
    }
    fn id(&self, index: usize) -> Option<String> {
        self.dataset.id(*self.indices.get(index)?)
    }
    fn class_names(&self) -> &[String] {
        self.dataset.class_names()
    }
    fn background(&self) -> Option<usize> {
        self.dataset.background()
    }
}
