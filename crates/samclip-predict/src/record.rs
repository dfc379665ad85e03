//! What is known about the masks of an image, ready for every output format, and the `--json` documents.

use std::path::{Path, PathBuf};

use samclip_image::rle::{self, Rle};
use serde::{Deserialize, Serialize};

use crate::error::PredictError;
use crate::everything::AutomaticMask;
use crate::prompt::Prompt;
use crate::roles::{MaskPrediction, Timing};

/// One mask.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MaskRecord {
    /// The name that it answers, or null.
    pub text: Option<String>,
    /// What was asked.
    pub prompt: PromptRecord,
    /// COCO's compressed run-length encoding.
    pub segmentation: Segmentation,
    /// x, y, width, height.
    pub bbox: [f64; 4],
    /// Number of pixels.
    pub area: usize,
    /// The decoder's estimate of its IoU.
    pub predicted_iou: f32,
    /// IoU of the masks at two shifted thresholds.
    pub stability_score: f32,
    /// What to sort by.
    pub score: f32,
    /// x, y, width, height of the crop that the mask was found in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crop_box: Option<[usize; 4]>,
    /// The mask itself.
    #[serde(skip, default = "no_mask")]
    pub rle: Rle,
}

fn no_mask() -> Rle {
    Rle { size: [0, 0], counts: Vec::new() }
}

/// `{"size": [h, w], "counts": "…"}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Segmentation {
    /// Height and width.
    pub size: [usize; 2],
    /// COCO's string.
    pub counts: String,
}

impl Segmentation {
    /// COCO's form of a run-length encoding.
    pub fn new(encoded: &Rle) -> Self {
        Self { size: encoded.size, counts: rle::to_coco_string(encoded) }
    }
}

/// What was asked, in original pixels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PromptRecord {
    /// `text`, `point`, `points`, `box`, `mask`, a sum such as `points+box`, or `grid`.
    pub kind: String,
    /// x, y, label.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub points: Vec<[f64; 3]>,
    /// x0, y0, x1, y1.
    #[serde(rename = "box", default, skip_serializing_if = "Option::is_none")]
    pub bbox: Option<[f32; 4]>,
}

impl MaskRecord {
    /// An answer of a prompt segmenter.
    pub fn of_prompt(prediction: &MaskPrediction, prompt: &Prompt) -> Self {
        let points = prompt.points.iter().map(|p| [f64::from(p.x), f64::from(p.y), f64::from(u8::from(p.positive))]);
        let encoded = rle::encode(&prediction.mask);
        Self {
            text: prompt.text.clone(),
            prompt: PromptRecord { kind: prompt.kind(), points: points.collect(), bbox: prompt.bbox },
            segmentation: Segmentation::new(&encoded),
            bbox: prediction.mask.bbox_xywh(),
            area: prediction.mask.area(),
            predicted_iou: prediction.predicted_iou,
            stability_score: prediction.stability_score,
            score: prediction.score,
            crop_box: None,
            rle: encoded,
        }
    }

    /// One mask of everything. The box is the reference's: the width does not count the last pixel.
    pub fn of_everything(mask: &AutomaticMask) -> Self {
        let [x0, y0, x1, y1] = mask.bbox.map(f64::from);
        let [cx0, cy0, cx1, cy1] = mask.crop_box;
        Self {
            text: None,
            prompt: PromptRecord { kind: "grid".to_owned(), points: vec![[mask.point[0], mask.point[1], 1.0]], bbox: None },
            segmentation: Segmentation::new(&mask.rle),
            bbox: [x0, y0, x1 - x0, y1 - y0],
            area: mask.area,
            predicted_iou: mask.predicted_iou,
            stability_score: mask.stability_score,
            score: mask.predicted_iou,
            crop_box: Some([cx0, cy0, cx1 - cx0, cy1 - cy0]),
            rle: mask.rle.clone(),
        }
    }

    /// A record that was read from a `--json` document gets its mask back from `segmentation`.
    ///
    /// # Errors
    /// A run-length encoding that does not parse.
    pub fn restore(&mut self) -> Result<(), PredictError> {
        self.rle = rle::from_coco_string(&self.segmentation.counts, self.segmentation.size)?;
        Ok(())
    }

    /// Name for formats that need one.
    pub fn label(&self) -> &str {
        self.text.as_deref().unwrap_or("object")
    }

    /// The first click, where there is one.
    pub fn point(&self) -> Option<[f64; 2]> {
        self.prompt.points.first().map(|&[x, y, _]| [x, y])
    }
}

/// All masks of one image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MaskImage {
    /// The file as the user named it.
    pub file: PathBuf,
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    /// The masks.
    pub masks: Vec<MaskRecord>,
    /// Where the time went.
    pub timing_ms: Timing,
}

/// One image's probabilities.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassifyImage {
    /// The file as the user named it.
    pub file: PathBuf,
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    /// Best first.
    pub classes: Vec<ClassScore>,
    /// Where the time went.
    pub timing_ms: Timing,
}

/// A name and its probability.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassScore {
    /// As the user wrote it.
    pub name: String,
    /// 0 to 1.
    pub score: f32,
}

/// Where names are in one image.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LocateImage {
    /// The file as the user named it.
    pub file: PathBuf,
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    /// One per text.
    pub locations: Vec<LocationRecord>,
    /// Masks from the clicks, if the model segments.
    pub masks: Vec<MaskRecord>,
    /// Where the time went.
    pub timing_ms: Timing,
}

/// Where one name is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LocationRecord {
    /// The name.
    pub text: String,
    /// x, y, label.
    pub points: Vec<[f64; 3]>,
    /// Rows and columns of the token grid.
    pub grid: [usize; 2],
    /// Similarity per token.
    pub similarity: Vec<f32>,
}

/// Which classes one image has.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LabelImage {
    /// The file as the user named it.
    pub file: PathBuf,
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    /// Classes that are there, largest first.
    pub classes: Vec<ClassRecord>,
    /// Pixels of no class.
    pub background_area: usize,
    /// Where the time went.
    pub timing_ms: Timing,
}

/// One class of a semantic map.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassRecord {
    /// The name.
    pub name: String,
    /// Its line in the class list, from 0. (In a palette PNG, index + 1 where there is a background.)
    pub index: usize,
    /// Number of pixels.
    pub area: usize,
    /// COCO's compressed run-length encoding.
    pub segmentation: Segmentation,
}

/// An image that failed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Failure {
    /// The file as the user named it.
    pub file: PathBuf,
    /// What is wrong.
    pub error: String,
    /// Advice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Failure {
    /// An error with the file that it is about.
    pub fn new(file: &Path, error: PredictError) -> Self {
        let error = error.in_file(file);
        Self { file: file.to_owned(), error: error.to_string(), hint: error.hint() }
    }
}

/// The document that `--json` prints.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Document<T> {
    /// The model's name.
    pub model: String,
    /// `f32` or `bf16`.
    pub precision: String,
    /// Images that were answered, in the order given.
    pub images: Vec<T>,
    /// Images that failed.
    pub errors: Vec<Failure>,
}
