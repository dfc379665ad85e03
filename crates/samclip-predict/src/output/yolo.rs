//! YOLO's segmentation text: `class x y x y …` per outer contour, coordinates divided by the image's size.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use samclip_image::{polygons, rle};

use super::{number, write_bytes};
use crate::error::PredictError;
use crate::record::MaskImage;

pub(super) fn write(path: &Path, record: &MaskImage, classes: &mut Vec<String>) -> Result<PathBuf, PredictError> {
    let mut lines = String::new();
    for mask in &record.masks {
        let class = number(classes, mask.label());
        for ring in polygons(&rle::decode(&mask.rle)).iter().filter(|ring| ring.len() >= 3) {
            let _ = write!(lines, "{class}");
            for [x, y] in ring {
                let share = |value: f32, size: usize| (value / size as f32).clamp(0.0, 1.0);
                let _ = write!(lines, " {:.6} {:.6}", share(*x, record.width), share(*y, record.height));
            }
            lines.push('\n');
        }
    }
    write_bytes(path.to_owned(), lines.as_bytes())
}
