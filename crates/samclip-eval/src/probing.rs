//! Probing as data: which head learns on which frozen features of which photos (SAM-CLIP §4.3; spec 5.7).
//!
//! This crate says what is learnt and scores it; the training is `samclip_train::probe`, which the binary calls.

use crate::EvalError;
use crate::benchmark::Benchmark;
use rayon::prelude::*;
use samclip_data::subset::Subset;
use samclip_data::{Dataset, IGNORE};
use samclip_image::LabelMap;
use samclip_predict::probe::{FeaturePoint, ProbeHeadConfig};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// A head for every token; its logits, resized to the photo, are scored as semantic segmentation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadProbing {
    /// Side of the squashed photo.
    pub side: usize,
    /// Cells along a side of the grid on which the loss is taken.
    pub label_side: usize,
    /// The head.
    pub head: ProbeHeadConfig,
    /// What it learns from.
    pub training: Training,
}

/// A linear classifier on one vector a photo; scored as classification.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinearProbing {
    /// Side of the middle square.
    pub side: usize,
    /// The mean of the backbone's tokens, or the pooled vector of the text side.
    pub feature: FeaturePoint,
    /// Every so many photos of a class one is scored and not learnt from: for sets without a split of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_out: Option<usize>,
    /// What it learns from.
    pub training: Training,
}

/// How a head learns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// Dataset, as `samclip_data::open` names it.
    pub dataset: String,
    /// Its split.
    pub split: String,
    /// So many photos, evenly from the whole list; all where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub photos: Option<usize>,
    /// Updates.
    pub steps: usize,
    /// Photos of an update.
    pub batch: usize,
    /// Learning rates; of several the one that is best on a tenth of the training photos is taken.
    pub rates: Vec<f32>,
    /// AdamW's decay.
    pub weight_decay: f32,
    /// Of initial values, order and dropout.
    pub seed: u64,
}

/// Everything that is learnt for a benchmark.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Input side.
    pub side: usize,
    /// Features.
    pub point: FeaturePoint,
    /// The head.
    pub head: ProbeHeadConfig,
    /// Cells along a side of a photo's labels; 1 for one class a photo.
    pub label_side: usize,
    /// Photos and settings.
    pub training: Training,
    /// See [`LinearProbing::hold_out`].
    pub hold_out: Option<usize>,
}

impl Plan {
    /// What a benchmark has to learn first; none where it probes nothing.
    pub fn of(benchmark: &Benchmark) -> Option<Self> {
        if let Some(HeadProbing { side, label_side, head, training }) = benchmark.head_probing.clone() {
            return Some(Self { side, point: FeaturePoint::Tokens, head, label_side, training, hold_out: None });
        }
        let LinearProbing { side, feature, hold_out, training } = benchmark.linear_probing.clone()?;
        Some(Self { side, point: feature, head: ProbeHeadConfig::Linear {}, label_side: 1, training, hold_out })
    }

    /// The rules of a probing table.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn check(&self, (dataset, split): (&str, &str)) -> Result<(), String> {
        let t = &self.training;
        if t.batch < 2 || t.steps == 0 || self.side == 0 || self.label_side == 0 || t.photos.is_some_and(|n| n < 2) {
            return Err("probing: at least a batch of two, a step, two photos; sides must be positive".into());
        }
        if t.rates.is_empty() || t.rates.iter().any(|r| !r.is_finite() || *r <= 0.0) {
            return Err("probing: `rates` needs positive learning rates".into());
        }
        if (self.label_side > 1) != (self.point == FeaturePoint::Tokens) {
            return Err("probing: heads for tokens need `label_side` above 1, classifiers the feature `mean` or `pooled`".into());
        }
        if self.hold_out.is_some_and(|n| n < 2) {
            return Err("probing: `hold_out` must be at least 2".into());
        }
        if self.hold_out.is_some() && (t.dataset.as_str(), t.split.as_str()) != (dataset, split) {
            return Err("probing: `hold_out` divides one split: training must name the benchmark's own".into());
        }
        self.head.check()
    }

    /// The photos to learn from.
    ///
    /// # Errors
    /// Data that is not there; other classes than the scored set has.
    pub fn photos(&self, data: &Path, scored: &dyn Dataset) -> Result<Box<dyn Dataset>, EvalError> {
        let t = &self.training;
        let set: Arc<dyn Dataset> = Arc::from(samclip_data::open(data, &t.dataset, &t.split)?);
        if set.class_names() != scored.class_names() {
            let (a, b) = (set.class_names().len(), scored.class_names().len());
            let message = format!("probing learns {a} classes of {} {} and is scored on {b} others", t.dataset, t.split);
            return Err(EvalError::Mismatch(message));
        }
        let mut indices = match self.hold_out {
            Some(n) => divided(set.as_ref(), n)?.0,
            None => (0..set.len()).collect(),
        };
        if let Some(wanted) = t.photos.filter(|n| *n < indices.len()) {
            indices = (0..wanted).map(|i| indices[i * indices.len() / wanted]).collect();
        }
        Ok(Box::new(Subset::new(set, indices)?))
    }

    /// Labels of every photo: `label_side` x `label_side` classes (nearest pixel), or its one class; `u16::MAX` where
    /// nobody knows.
    ///
    /// # Errors
    /// A truth that cannot be read: nothing is left out of training silently.
    pub fn labels(&self, photos: &dyn Dataset) -> Result<Vec<Vec<u16>>, EvalError> {
        let one = |index: usize| {
            if self.label_side == 1 {
                let class = photos.present(index)?.first().copied();
                return Ok(vec![class.map_or(u16::MAX, |c| c as u16)]);
            }
            let labels = photos.labels(index)?.ok_or_else(|| EvalError::Mismatch(format!("{} has no label maps", photos.name())))?;
            Ok(cells(&labels, self.label_side))
        };
        (0..photos.len()).into_par_iter().map(one).collect()
    }
}

/// A label map at `side` x `side` cells, the pixel at each cell's middle.
fn cells(labels: &LabelMap, side: usize) -> Vec<u16> {
    let at = |i: usize, size: usize| (2 * i + 1) * size / (2 * side);
    let value = |i: usize| labels.data[at(i / side, labels.height) * labels.width + at(i % side, labels.width)];
    (0..side * side).map(|i| if value(i) == IGNORE { u16::MAX } else { u16::from(value(i)) }).collect()
}

/// Photos to learn from and photos to score: of every `n` photos of a class the last is scored.
///
/// # Errors
/// A photo whose class cannot be read.
pub fn divided(set: &dyn Dataset, n: usize) -> Result<(Vec<usize>, Vec<usize>), EvalError> {
    let mut rank: BTreeMap<Option<usize>, usize> = BTreeMap::new();
    let (mut learnt, mut scored) = (Vec::new(), Vec::new());
    for index in 0..set.len() {
        let seen = rank.entry(set.present(index)?.first().copied()).or_default();
        *seen += 1;
        if *seen % n == 0 { scored.push(index) } else { learnt.push(index) }
    }
    Ok((learnt, scored))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_take_the_pixel_in_their_middle() {
        let labels = LabelMap { width: 4, height: 2, data: vec![0, 1, 2, 3, 4, 5, 255, 7] };
        assert_eq!(cells(&labels, 2), [1, 3, 5, 7]);
        assert_eq!(cells(&labels, 1), [u16::MAX]);
    }
}
