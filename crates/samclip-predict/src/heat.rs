//! Similarities on a token grid to a heat map and clicks.
//!
//! Reference: CLIP_Surgery/clip/clip.py, `get_similarity_map` and `similarity_map_to_points` (spec 4.3, 4.4).

use samclip_image::{ImageTransform, postprocess_logits};
use samclip_models::clip::surgery::similarity_map_to_points;

use crate::error::PredictError;
use crate::prompt::Point;
use crate::roles::HeatMap;

/// Share of the range above which a token gives a positive click.
const POINT_THRESHOLD: f32 = 0.8;

/// `similarity` [grid·grid] of a square input, padding included.
pub(crate) fn heat_map(similarity: &[f32], grid: usize, transform: &ImageTransform) -> Result<HeatMap, PredictError> {
    let cell = (transform.input.0 / grid).max(1);
    let tokens = |pixels: usize| pixels.div_ceil(cell).clamp(1, grid);
    let (grid_height, grid_width) = (tokens(transform.resized.0), tokens(transform.resized.1));
    let valid: Vec<f32> =
        similarity.chunks_exact(grid).take(grid_height).flat_map(|row| row[..grid_width].iter().copied()).collect();
    let (low, high) = valid.iter().fold((f32::MAX, f32::MIN), |(low, high), v| (low.min(*v), high.max(*v)));
    let range = (high - low).max(f32::MIN_POSITIVE);
    let normal: Vec<f32> = similarity.iter().map(|v| ((v - low) / range).clamp(0.0, 1.0)).collect();
    let (height, width) = transform.original;
    let points = similarity_map_to_points(&valid, [grid_height, grid_width], [height, width], POINT_THRESHOLD, 2);
    let points = points.unwrap_or_default();
    let points = points.iter().map(|p| Point { x: p.x as f32, y: p.y as f32, positive: p.positive }).collect();
    Ok(HeatMap { grid_height, grid_width, similarity: valid, heat: postprocess_logits(&normal, grid, transform), points })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_hot_and_clicked() {
        let mut similarity = vec![0.1; 64];
        for i in [9, 10, 17, 18] {
            similarity[i] = 0.3;
        }
        let transform =
            ImageTransform { original: (256, 256), resized: (128, 128), input: (128, 128), crop_offset: (0, 0) };
        let map = heat_map(&similarity, 8, &transform).unwrap();
        assert_eq!((map.grid_height, map.grid_width, map.heat.len()), (8, 8, 256 * 256));
        assert!(map.heat[64 * 256 + 64] > 0.95 && map.heat[200 * 256 + 200] < 0.01);
        let positive: Vec<_> = map.points.iter().filter(|p| p.positive).collect();
        assert!(!positive.is_empty() && positive.iter().all(|p| p.x < 128.0 && p.y < 128.0), "{positive:?}");
    }
}
