//! Metadata with the columns of SAM's `scripts/amg.py`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::write_bytes;
use crate::error::PredictError;
use crate::record::MaskImage;

/// Columns of `write_masks_to_folder` in the reference's scripts/amg.py.
pub(super) const COLUMNS: &str = "id,area,bbox_x0,bbox_y0,bbox_w,bbox_h,point_input_x,point_input_y,predicted_iou,\
                                  stability_score,crop_box_x0,crop_box_y0,crop_box_w,crop_box_h";

pub(super) fn write(path: &Path, record: &MaskImage) -> Result<PathBuf, PredictError> {
    let mut table = format!("{COLUMNS}\n");
    for (i, mask) in record.masks.iter().enumerate() {
        let [x, y, w, h] = mask.bbox;
        // A prompt without a click leaves its two columns empty.
        let point = mask.point().map_or_else(|| ",".to_owned(), |[x, y]| format!("{x},{y}"));
        let [cx, cy, cw, ch] = mask.crop_box.unwrap_or([0, 0, record.width, record.height]);
        let (iou, stability) = (mask.predicted_iou, mask.stability_score);
        let _ = writeln!(table, "{i},{},{x},{y},{w},{h},{point},{iou},{stability},{cx},{cy},{cw},{ch}", mask.area);
    }
    write_bytes(path.to_owned(), table.as_bytes())
}
