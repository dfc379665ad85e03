//! The parts of COCO's JSON that all readers share: photos, annotations, categories, and the forms of a mask.
//!
//! Reference: cocodataset.org, "Format"; cocoapi `pycocotools/coco.py` (`annToRLE`). LVIS has the same form with the photo
//! named by `coco_url`. [`crate::instances`] keeps objects as runs, [`crate::labelled::Coco`] paints them.

use samclip_image::rle::{self, Rle};
use serde::Deserialize;

/// The file.
#[derive(Debug, Deserialize)]
pub struct File {
    pub images: Vec<Picture>,
    pub annotations: Vec<Annotation>,
    pub categories: Vec<Category>,
}

/// A photo.
#[derive(Debug, Deserialize)]
pub struct Picture {
    pub id: u64,
    #[serde(default)]
    pub file_name: String,
    #[serde(default)]
    pub coco_url: Option<String>,
    /// 0 where the file does not say.
    #[serde(default)]
    pub width: usize,
    /// 0 where the file does not say.
    #[serde(default)]
    pub height: usize,
}

/// A category.
#[derive(Debug, Deserialize)]
pub struct Category {
    pub id: u64,
    pub name: String,
}

/// An object.
#[derive(Debug, Deserialize)]
pub struct Annotation {
    #[serde(default)]
    pub id: u64,
    pub image_id: u64,
    pub category_id: u64,
    #[serde(default = "nothing")]
    pub segmentation: Segmentation,
    /// x, y, width, height.
    #[serde(default)]
    pub bbox: Option<[f64; 4]>,
    #[serde(default)]
    pub iscrowd: u8,
}

/// The forms of an annotation's pixels.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Segmentation {
    Polygons(Vec<Vec<f64>>),
    Compressed { counts: String, size: [usize; 2] },
    Runs { counts: Vec<u32>, size: [usize; 2] },
    Other(serde_json::Value),
}

fn nothing() -> Segmentation {
    Segmentation::Other(serde_json::Value::Null)
}

impl Segmentation {
    /// The runs on a photo of this size; what is wrong with them otherwise.
    pub fn runs(&self, height: usize, width: usize) -> Result<Rle, String> {
        let fits = |size: [usize; 2]| match size == [height, width] {
            true => Ok(()),
            false => Err(format!("runs for {} x {} pixels, the image has {width} x {height}", size[1], size[0])),
        };
        match self {
            Self::Other(found) => {
                let found: String = found.to_string().chars().take(40).collect();
                Err(format!("expected polygons, or runs with `counts` and `size`, found {found}"))
            }
            Self::Polygons(polygons) => polygon_runs(polygons, height, width),
            Self::Compressed { counts, size } => {
                fits(*size)?;
                rle::from_coco_string(counts, *size).map_err(|e| e.to_string())
            }
            Self::Runs { counts, size } => {
                fits(*size)?;
                rle::from_counts(counts.clone(), *size).map_err(|e| e.to_string())
            }
        }
    }
}

/// The runs of polygons (x, y, x, y, ...); what is wrong with them otherwise.
pub fn polygon_runs(polygons: &[Vec<f64>], height: usize, width: usize) -> Result<Rle, String> {
    if polygons.is_empty() {
        return Err("an empty list of polygons".to_owned());
    }
    for polygon in polygons {
        if polygon.len() < 6 || polygon.len() % 2 != 0 {
            return Err(format!("a polygon of {} numbers, expected at least three points", polygon.len()));
        }
        if polygon.iter().any(|v| !v.is_finite()) {
            return Err("a polygon with a number that is not finite".to_owned());
        }
    }
    rle::from_polygons(polygons, height, width).map_err(|e| e.to_string())
}
