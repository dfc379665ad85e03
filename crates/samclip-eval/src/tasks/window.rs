//! Sliding windows over a photo: the protocol of today's open-vocabulary tables (ProxyCLIP, SCLIP; field.md A.5).
//!
//! The photo's short side is resized (long side at most 2048), every window gives similarities, overlapping windows are
//! averaged, the mean is upsampled to the photo's own size, scaled, and the best class wins; a pixel whose best
//! probability is below the floor is background. Deviation: similarities come from the model's `locate` role on the
//! window at the model's own input size.

use crate::benchmark::Window;
use samclip_image::{Filter, Image, bilinear, crop, resize};
use samclip_predict::{PredictError, TextLocator};

/// The longest side of a resized photo.
const LONGEST: usize = 2048;

/// Index of the best name for every pixel of the photo, `names.len()` for background; milliseconds.
pub(super) fn windowed(
    locator: &dyn TextLocator,
    image: &Image,
    names: &[String],
    window: &Window,
    floor: Option<f32>,
) -> Result<(Vec<u8>, f64), PredictError> {
    let (width, height) = resized(image.width(), image.height(), window.short_side);
    let photo = resize(image, width, height, Filter::Bilinear);
    let mut sums = vec![vec![0f32; width * height]; names.len()];
    let mut counts = vec![0f32; width * height];
    let mut ms = 0.0;
    for y in starts(height, window) {
        for x in starts(width, window) {
            let (w, h) = (window.side.min(width), window.side.min(height));
            let found = locator.locate(&crop(&photo, x, y, w, h), names)?;
            ms += found.timing.encode + found.timing.decode;
            for (sum, map) in sums.iter_mut().zip(&found.maps) {
                add(sum, width, &bilinear(&map.similarity, map.grid_height, map.grid_width, h, w), (x, y, w));
            }
            add(&mut counts, width, &vec![1.0; w * h], (x, y, w));
        }
    }
    for sum in &mut sums {
        sum.iter_mut().zip(&counts).for_each(|(s, n)| *s /= n.max(1.0));
    }
    Ok((best(&sums, (width, height), image, window.logit_scale, floor), ms))
}

/// Short side to `short`, the long side in proportion but not beyond the limit.
fn resized(width: usize, height: usize, short: usize) -> (usize, usize) {
    let scale = (short as f64 / width.min(height) as f64).min(LONGEST as f64 / width.max(height) as f64);
    let side = |v: usize| ((v as f64 * scale + 0.5) as usize).max(1);
    (side(width), side(height))
}

/// Where windows start along one side: every stride, the last at the end.
fn starts(length: usize, window: &Window) -> Vec<usize> {
    let last = length.saturating_sub(window.side);
    let count = last.div_ceil(window.stride) + 1;
    (0..count).map(|i| (i * window.stride).min(last)).collect()
}

fn add(sum: &mut [f32], width: usize, part: &[f32], (x, y, w): (usize, usize, usize)) {
    for (row, values) in part.chunks_exact(w).enumerate() {
        let start = (y + row) * width + x;
        sum[start..start + w].iter_mut().zip(values).for_each(|(s, v)| *s += v);
    }
}

/// Argmax at the photo's size, with the softmax probability where a floor asks for it.
fn best(sums: &[Vec<f32>], (width, height): (usize, usize), image: &Image, scale: f32, floor: Option<f32>) -> Vec<u8> {
    let (out_w, out_h) = (image.width(), image.height());
    let mut top = vec![f32::NEG_INFINITY; out_w * out_h];
    let mut labels = vec![sums.len() as u8; out_w * out_h];
    let mut maps: Vec<Vec<f32>> = Vec::new();
    for (class, sum) in sums.iter().enumerate() {
        let map = bilinear(sum, height, width, out_h, out_w);
        for ((top, label), value) in top.iter_mut().zip(&mut labels).zip(&map) {
            if *value > *top {
                (*top, *label) = (*value, class as u8);
            }
        }
        if floor.is_some() {
            maps.push(map);
        }
    }
    if let Some(floor) = floor {
        for (i, (label, top)) in labels.iter_mut().zip(&top).enumerate() {
            let sum: f32 = maps.iter().map(|map| ((map[i] - top) * scale).exp()).sum();
            if 1.0 / sum < floor {
                *label = sums.len() as u8;
            }
        }
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use samclip_image::ImageError;
    use samclip_predict::roles::{HeatMap, Location, Timing};

    /// Similarity of the first name is the red of the window's middle cell, of the second its green; a 2 x 2 grid.
    struct Colours;

    impl TextLocator for Colours {
        fn locate(&self, image: &Image, texts: &[String]) -> Result<Location, PredictError> {
            let (w, h) = (image.width(), image.height());
            let cell = |i: usize| image.pixel((i % 2) * w / 2 + w / 4, (i / 2) * h / 2 + h / 4);
            let map = |channel: usize| HeatMap {
                grid_height: 2,
                grid_width: 2,
                similarity: (0..4).map(|i| f32::from(cell(i)[channel]) / 255.0).collect(),
                heat: Vec::new(),
                points: Vec::new(),
            };
            Ok(Location { maps: (0..texts.len()).map(map).collect(), timing: Timing::default() })
        }
    }

    #[test]
    fn windows_cover_the_photo_and_agree_with_its_colours() -> Result<(), ImageError> {
        let window = Window { short_side: 32, side: 16, stride: 8, logit_scale: 40.0 };
        assert_eq!(starts(48, &window), [0, 8, 16, 24, 32]);
        assert_eq!(starts(30, &window), [0, 8, 14]);
        assert_eq!((starts(10, &window), resized(100, 50, 32)), (vec![0], (64, 32)));
        // red on the left, green on the right
        let data = (0..64 * 48).flat_map(|i| if i % 64 < 32 { [255, 0, 0] } else { [0, 255, 0] }).collect();
        let image = Image::new(64, 48, data)?;
        let names = ["red".to_owned(), "green".to_owned()];
        let (labels, _) = windowed(&Colours, &image, &names, &window, None).unwrap();
        let wrong = labels.iter().enumerate().filter(|(i, l)| (i % 64 >= 32) != (**l == 1)).count();
        assert!(wrong <= 48 * 6, "{wrong} pixels beside the border");
        // probability is near 1 inside and 1/2 on the border: a floor of 0.9 leaves a strip there as background
        let soft = Window { logit_scale: 4.0, ..window };
        let (labels, _) = windowed(&Colours, &image, &names, &soft, Some(0.9)).unwrap();
        assert_eq!((labels[10 * 64 + 8], labels[10 * 64 + 56]), (0, 1));
        let strip = labels.iter().filter(|l| **l == 2).count();
        assert!((48..48 * 24).contains(&strip), "{strip} pixels");
        Ok(())
    }
}
