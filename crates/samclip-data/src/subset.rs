//! Some photos of a data set: a low-label split, those that a check left over, or photos of rare classes repeated.
//!
//! A split file has one photo a line, as in LiheYoung/UniMatch-V2 `splits/`: `image_path mask_path`, or
//! the photo alone; the photo is found by the stem of its file name.

use crate::dataset::check_index;
use crate::error::read_lines;
use crate::{DataError, Dataset, Sample};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
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

    /// Every photo as often as its rarest class asks: max over its classes of sqrt(threshold / share of the photos that
    /// have the class), at least once. Source: LVIS (arXiv:1908.03195) appendix B.2, detectron2's
    /// `RepeatFactorTrainingSampler`. Deviation: fractions are rounded by chance once, not anew in every epoch.
    ///
    /// # Errors
    /// A label map that cannot be read.
    pub fn repeated(dataset: Arc<dyn Dataset>, threshold: f64, seed: u64) -> Result<Self, DataError> {
        let present = (0..dataset.len()).map(|i| dataset.present(i)).collect::<Result<Vec<_>, _>>()?;
        let mut photos: BTreeMap<usize, usize> = BTreeMap::new();
        present.iter().flatten().for_each(|class| *photos.entry(*class).or_default() += 1);
        let factor = |class: &usize| (threshold * present.len() as f64 / photos[class] as f64).sqrt();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut indices = Vec::new();
        for (index, classes) in present.iter().enumerate() {
            let times = classes.iter().map(factor).fold(1.0, f64::max);
            let extra = rng.random::<f64>() < times.fract();
            indices.extend(std::iter::repeat_n(index, times as usize + usize::from(extra)));
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

#[cfg(test)]
mod tests {
    use super::*;
    use samclip_image::Image;

    /// Photo `i` has the classes of row `i`.
    struct Rows(Vec<Vec<usize>>);

    impl Dataset for Rows {
        fn name(&self) -> &str {
            "rows"
        }
        fn len(&self) -> usize {
            self.0.len()
        }
        fn get(&self, index: usize) -> Result<Sample, DataError> {
            let image = Image::new(1, 1, vec![0; 3]).unwrap();
            let class_ids = self.0[index].clone();
            Ok(Sample { id: index.to_string(), image, labels: None, masks: vec![], class_ids, captions: vec![] })
        }
        fn class_names(&self) -> &[String] {
            &[]
        }
        fn background(&self) -> Option<usize> {
            None
        }
    }

    #[test]
    fn a_rare_class_repeats_its_photos() {
        // 400 photos: class 0 on 300, class 1 on 96 of those, class 2 on 4, nothing on 96
        let mut rows = vec![vec![0]; 204];
        rows.extend(vec![vec![0, 1]; 96]);
        rows.extend(vec![vec![2]; 4]);
        rows.extend(vec![vec![]; 96]);
        let subset = Subset::repeated(Arc::new(Rows(rows)), 0.24, 1).unwrap();
        let count = |index: usize| subset.indices.iter().filter(|i| **i == index).count();
        assert!((0..204).chain(304..400).all(|i| count(i) == 1), "frequent classes and photos without any stay");
        assert!((204..300).all(|i| count(i) == 1), "a class at the threshold is not repeated");
        // sqrt(0.24 / 0.01) = 4.9: four or five times
        assert!((300..304).all(|i| (4..=5).contains(&count(i))), "{:?}", (300..304).map(count).collect::<Vec<_>>());
        assert_eq!(subset.len(), 396 + (300..304).map(count).sum::<usize>());
        assert_eq!(subset.get(subset.len() - 1).unwrap().id, "399");
    }
}
