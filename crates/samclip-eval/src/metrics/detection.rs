//! Average precision of COCO (12 figures) and LVIS (13), through the crate `hotcoco`.
//!
//! Definitions: pycocotools' `COCOeval`, lvis-api's `LVISEval` (spec 9.1, 9.2). Parity: tests/metrics.rs, |Δ| <= 1e-9
//! with crowds, ties, empty photos and more than 100 detections on one.

use crate::EvalError;
use hotcoco::params::IouType;
use hotcoco::{Annotation, COCO, COCOeval};
use std::path::Path;

/// Whose rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rules {
    /// 100 detections for each category of a photo, crowds ignored.
    Coco,
    /// 300 detections a photo, federated labels.
    Lvis,
}

/// What overlaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// Masks.
    Segm,
    /// Boxes.
    Bbox,
}

/// The figures of one evaluation.
#[derive(Debug, Clone, PartialEq)]
pub struct Precision {
    /// `AP`, `AP50` ... in the reference's order; -1 where nothing defines it.
    pub metrics: Vec<(String, f64)>,
    /// AP of every category that has objects, in the order of the ids.
    pub per_class: Vec<(String, f64)>,
    /// Precision at 101 recalls, mean over categories, at IoU 0.50 and 0.75.
    pub curves: [Vec<f64>; 2],
}

/// Objects of a set of photos, in COCO's or LVIS's JSON.
pub struct Truth(COCO);

impl std::fmt::Debug for Truth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Truth of {} photos", self.0.dataset.images.len())
    }
}

impl Truth {
    /// Reads an annotation file.
    ///
    /// # Errors
    /// A file that cannot be read or is not COCO's JSON.
    pub fn open(path: &Path) -> Result<Self, EvalError> {
        let io = |reason| EvalError::Io { path: path.to_owned(), reason };
        let text = std::fs::read_to_string(path).map_err(io)?;
        let dataset = serde_json::from_str(&text).map_err(|e| EvalError::Protocol {
            message: format!("not COCO's annotations ({e})"),
            path: path.to_owned(),
        })?;
        Ok(Self(COCO::from_dataset(dataset)))
    }

    /// Only these photos and their objects: what a limited run is scored on.
    pub fn only(&self, images: &[u64]) -> Self {
        let wanted: std::collections::BTreeSet<u64> = images.iter().copied().collect();
        let mut dataset = self.0.dataset.clone();
        dataset.images.retain(|image| wanted.contains(&image.id));
        dataset.annotations.retain(|object| wanted.contains(&object.image_id));
        Self(COCO::from_dataset(dataset))
    }

    /// Scores detections. For masks a box beside them is not read, so that areas are the masks' (as detectron2
    /// evaluates).
    ///
    /// # Errors
    /// A score that is NaN, a mask whose size is not its photo's.
    pub fn score(&self, detections: &[Annotation], rules: Rules, shape: Shape) -> Result<Precision, EvalError> {
        let mut detections = detections.to_vec();
        if shape == Shape::Segm {
            detections.iter_mut().for_each(|d| (d.bbox, d.area) = (None, None));
        }
        let failed = |e: hotcoco::Error| EvalError::Mismatch(format!("average precision: {e}"));
        let found = if detections.is_empty() {
            COCO::from_dataset(hotcoco::Dataset { annotations: Vec::new(), ..self.0.dataset.clone() })
        } else {
            self.0.load_res_anns(detections).map_err(failed)?
        };
        let kind = if shape == Shape::Segm { IouType::Segm } else { IouType::Bbox };
        let truth = COCO::from_dataset(self.0.dataset.clone());
        let mut eval = match rules {
            Rules::Coco => COCOeval::new(truth, found, kind),
            Rules::Lvis => COCOeval::new_lvis(truth, found, kind),
        };
        eval.evaluate().map_err(failed)?;
        eval.accumulate();
        eval.summarize_lines();
        Ok(figures(&eval))
    }
}

fn figures(eval: &COCOeval) -> Precision {
    let stats = eval.stats().unwrap_or_default();
    let metrics = eval.metric_keys().into_iter().map(str::to_owned).zip(stats.iter().copied()).collect();
    let Some(accumulated) = eval.accumulated() else {
        return Precision { metrics, per_class: Vec::new(), curves: [Vec::new(), Vec::new()] };
    };
    let shape = &accumulated.shape;
    let (area, most) = (eval.params.all_area_idx(), shape.m - 1);
    let at = |t: usize, r: usize, k: usize| accumulated.precision[accumulated.precision_idx(t, r, k, area, most)];
    let per_class = accumulated.cat_ids.iter().enumerate().filter_map(|(k, id)| {
        let cells = (0..shape.t).flat_map(|t| (0..shape.r).map(move |r| (t, r)));
        let value = super::mean(cells.map(|(t, r)| at(t, r, k)).filter(|p| *p > -1.0))?;
        Some((eval.coco_gt().cat_name(*id), value))
    });
    let curve = |t: usize| -> Vec<f64> {
        let over = |r: usize| super::mean((0..shape.k).map(|k| at(t, r, k)).filter(|p| *p > -1.0)).unwrap_or(0.0);
        (0..shape.r).map(over).collect()
    };
    let row = |iou: f64| eval.params.iou_thr_idx(iou).map(curve).unwrap_or_default();
    Precision { metrics, per_class: per_class.collect(), curves: [row(0.5), row(0.75)] }
}

/// Detections in COCO's results format.
///
/// # Errors
/// A file that cannot be read, another format, an entry without a score or without mask and box.
pub fn open_detections(path: &Path) -> Result<Vec<Annotation>, EvalError> {
    let fail = |message: String| EvalError::Protocol { message, path: path.to_owned() };
    let text = std::fs::read_to_string(path).map_err(|reason| EvalError::Io { reason, path: path.to_owned() })?;
    let list: Vec<Annotation> = serde_json::from_str(&text).map_err(|e| fail(format!("not a list of COCO results ({e})")))?;
    for (i, found) in list.iter().enumerate() {
        if !found.score.is_some_and(f64::is_finite) {
            return Err(fail(format!("entry {i}: expected a finite `score`, found {:?}", found.score)));
        }
        if found.bbox.is_none() && found.segmentation.is_none() {
            return Err(fail(format!("entry {i} has neither `bbox` nor `segmentation`")));
        }
    }
    Ok(list)
}
