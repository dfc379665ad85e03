//! Boundary IoU: the IoU of the bands along two masks' borders.
//!
//! Paper: Cheng et al., Boundary IoU (arXiv:2103.16562) §4; the band is 2 % of the photo's diagonal wide. Reference:
//! boundary-iou-api `mask_to_boundary` (OpenCV erosion by a 3 x 3 square, repeated; outside the photo counts as
//! background). Parity: tests/metrics.rs, equal bands.

use super::Overlap;
use samclip_image::Mask;

/// The part of the diagonal that the published measure takes.
pub const DILATION_RATIO: f64 = 0.02;

/// The mask's pixels that lie within the band: at most `ratio` of the diagonal (at least one pixel, chessboard
/// distance) from a pixel that is not the mask's.
pub fn boundary(mask: &Mask, ratio: f64) -> Mask {
    let (h, w) = mask.size();
    let steps = ((ratio * ((h * h + w * w) as f64).sqrt()).round_ties_even() as usize).max(1);
    // a pixel survives where the whole (2 steps + 1) square is foreground: first along rows, then along columns
    let rows: Vec<bool> = mask.data.chunks_exact(w).flat_map(|row| eroded(row.iter().copied(), w, steps)).collect();
    let mut data = mask.data.clone();
    for x in 0..w {
        let column = eroded((0..h).map(|y| rows[y * w + x]), h, steps);
        column.into_iter().enumerate().for_each(|(y, inside)| data[y * w + x] &= !inside);
    }
    Mask { width: w, height: h, data }
}

/// Whether all of the line within `steps` is set; beyond its ends nothing is.
fn eroded(line: impl Iterator<Item = bool>, length: usize, steps: usize) -> Vec<bool> {
    let mut before = vec![0usize; length + 1];
    for (i, set) in line.enumerate() {
        before[i + 1] = before[i] + usize::from(set);
    }
    let whole = |i: usize| i >= steps && i + steps < length && before[i + steps + 1] - before[i - steps] == 2 * steps + 1;
    (0..length).map(whole).collect()
}

/// Overlap of the two bands.
pub fn boundary_overlap(predicted: &Mask, truth: &Mask, void: &[bool]) -> Overlap {
    Overlap::of(&boundary(predicted, DILATION_RATIO), &boundary(truth, DILATION_RATIO), void)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_band_of_a_square_is_a_ring() {
        let data = (0..400).map(|i| (4..16).contains(&(i % 20)) && (4..16).contains(&(i / 20))).collect();
        let mask = Mask { width: 20, height: 20, data };
        assert_eq!(boundary(&mask, 0.02).area(), 144 - 100); // one pixel
        assert_eq!(boundary(&mask, 0.1).area(), 144 - 36); // three
        let full = Mask { width: 20, height: 20, data: vec![true; 400] };
        assert_eq!(boundary(&full, 0.02).area(), 76); // outside is background
        assert_eq!(boundary_overlap(&mask, &mask, &[]).iou(), Some(1.0));
    }
}
