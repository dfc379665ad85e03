//! Photos with captions: `images/X.jpg` and `captions.tsv` (image, caption, with a header line).

use crate::dataset::{check_index, open_image};
use crate::error::read_lines;
use crate::{DataError, Dataset, Sample};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Photos with any number of sentences each.
#[derive(Debug)]
pub struct Captions {
    root: PathBuf,
    photos: Vec<(String, Vec<String>)>,
}

impl Captions {
    /// Reads `root/captions.tsv`; photos are sorted by file name, captions keep the file's order.
    ///
    /// # Errors
    /// A missing file, or a line without a tab.
    pub fn open(root: &Path) -> Result<Self, DataError> {
        let path = root.join("captions.tsv");
        let mut photos: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in read_lines(&path)?.into_iter().skip(1) {
            let Some((file, caption)) = line.split_once('\t') else {
                return Err(DataError::format(&path, format!("expected `image<tab>caption`, found `{line}`")));
            };
            photos.entry(file.to_owned()).or_default().push(caption.to_owned());
        }
        Ok(Self { root: root.to_owned(), photos: photos.into_iter().collect() })
    }
}

impl Dataset for Captions {
    fn name(&self) -> &str {
        "flickr8k"
    }
    fn len(&self) -> usize {
        self.photos.len()
    }
    fn get(&self, index: usize) -> Result<Sample, DataError> {
        check_index(self, index)?;
        let (file, captions) = &self.photos[index];
        let image = open_image(&self.root.join("images").join(file))?;
        let id = file.rsplit_once('.').map_or(file.as_str(), |(stem, _)| stem).to_owned();
        let captions = captions.clone();
        Ok(Sample { id, image, labels: None, masks: Vec::new(), class_ids: Vec::new(), captions })
    }
    fn class_names(&self) -> &[String] {
        &[]
    }
    fn background(&self) -> Option<usize> {
        None
    }
}
