//! Masks as pictures.

use std::path::{Path, PathBuf};

use samclip_image::{Image, Mask, overlay, palette_color, rle, write_png_mask, write_png_rgb};

use crate::error::PredictError;
use crate::record::MaskImage;

/// `STEM_0.png`, `STEM_1.png`, …: 255 where the mask is, 0 elsewhere.
pub(super) fn write_masks(folder: &Path, stem: &str, record: &MaskImage) -> Result<Vec<PathBuf>, PredictError> {
    let write = |(i, mask): (usize, &crate::record::MaskRecord)| {
        let path = folder.join(format!("{stem}_{i}.png"));
        write_png_mask(&path, &rle::decode(&mask.rle))?;
        Ok(path)
    };
    record.masks.iter().enumerate().map(write).collect()
}

/// The photo with every mask in its colour, larger masks below smaller ones.
pub(super) fn write_overlay(path: &Path, image: &Image, record: &MaskImage) -> Result<PathBuf, PredictError> {
    let mut order: Vec<usize> = (0..record.masks.len()).collect();
    order.sort_by(|a, b| record.masks[*b].area.cmp(&record.masks[*a].area));
    let masks: Vec<Mask> = order.iter().map(|&i| rle::decode(&record.masks[i].rle)).collect();
    let layers: Vec<(&Mask, [u8; 3], Option<&str>)> = order
        .iter()
        .zip(&masks)
        .map(|(&i, mask)| (mask, palette_color(i + 1), record.masks[i].text.as_deref()))
        .collect();
    write_png_rgb(path, &overlay(image, &layers))?;
    Ok(path.to_owned())
}

/// The photo under a heat map in 0..1: blue, green, yellow, red.
///
/// # Errors
/// A file that cannot be written.
pub fn write_heat(path: &Path, image: &Image, heat: &[f32]) -> Result<(), PredictError> {
    let blend = |(pixel, &value): (&[u8], &f32)| -> [u8; 3] {
        let ramp = |center: f32| (1.5 - (4.0 * value - center).abs()).clamp(0.0, 1.0);
        let color = [ramp(3.0), ramp(2.0), ramp(1.0)];
        std::array::from_fn(|c| (0.5 * f32::from(pixel[c]) + 127.5 * color[c]) as u8)
    };
    let data: Vec<u8> = image.data().chunks_exact(3).zip(heat).flat_map(blend).collect();
    write_png_rgb(path, &Image::new(image.width(), image.height(), data)?)?;
    Ok(())
}
