//! Semantic maps as palette PNG: index = class, background last unless stated otherwise.

use std::path::Path;

use samclip_image::{LabelMap, write_png_palette};

use crate::error::PredictError;

/// Writes a label map.
///
/// With a background the file follows VOC: 0 is background and class i is i + 1. Without one, class i is i.
///
/// # Errors
/// A file that cannot be written.
pub fn write_label_map(path: &Path, labels: &LabelMap, classes: usize, background: bool) -> Result<(), PredictError> {
    let shift = |label: u8| match usize::from(label) {
        _ if !background => label,
        label if label == classes => 0,
        label => (label + 1) as u8,
    };
    let data = labels.data.iter().map(|label| shift(*label)).collect();
    write_png_palette(path, &LabelMap { width: labels.width, height: labels.height, data })?;
    Ok(())
}
