//! COCO run-length encoding: column-major runs, starting with background.
//!
//! Names and results are those of pycocotools' `mask` module; the codec is the crate `hotcoco`.
//! Reference: cocoapi `common/maskApi.c`. Parity: tests/coco_rle.rs, equal strings and numbers.

use hotcoco::mask as coco;

use crate::{ImageError, Mask};

/// A mask as runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rle {
    /// `[height, width]`.
    pub size: [usize; 2],
    /// Lengths of the runs in column-major order: background, foreground, background, ...
    /// The first is 0 when the first pixel is foreground.
    pub counts: Vec<u32>,
}

impl Rle {
    fn to_coco(&self) -> hotcoco::types::Rle {
        let [h, w] = self.size.map(|side| u32::try_from(side).unwrap_or(u32::MAX));
        hotcoco::types::Rle { h, w, counts: self.counts.clone() }
    }

    fn from_coco(rle: hotcoco::types::Rle) -> Self {
        Self { size: [rle.h as usize, rle.w as usize], counts: rle.counts }
    }
}

fn invalid(error: impl std::fmt::Display) -> ImageError {
    ImageError::Rle(error.to_string())
}

/// Sides as the codec wants them; an error where one is 0 or their product leaves 32 bits.
fn checked_size([h, w]: [usize; 2]) -> Result<(u32, u32), ImageError> {
    if h == 0 || w == 0 {
        return Err(invalid(format!("a mask of {h} x {w} has no pixels")));
    }
    match (u32::try_from(h), u32::try_from(w)) {
        (Ok(h32), Ok(w32)) if h32.checked_mul(w32).is_some() => Ok((h32, w32)),
        _ => Err(invalid(format!("{h} x {w} pixels do not fit 32-bit runs"))),
    }
}

/// Runs of a mask. Panics for masks of 2^32 pixels or more.
pub fn encode(mask: &Mask) -> Rle {
    let (h, w) = mask.size();
    let columns = transpose(&mask.data, h, w);
    let (mut counts, mut start, mut foreground) = (Vec::new(), 0, false);
    while start < columns.len() || counts.is_empty() {
        let rest = &columns[start..];
        let run = rest.iter().position(|&v| v != foreground).unwrap_or(rest.len());
        counts.push(u32::try_from(run).expect("a mask has fewer than 2^32 pixels"));
        start += run;
        foreground = !foreground;
    }
    Rle { size: [h, w], counts }
}

/// The mask of the runs. Pixels that the runs leave out are background, runs beyond the last pixel
/// are ignored.
pub fn decode(rle: &Rle) -> Mask {
    let [h, w] = rle.size;
    let mut columns = vec![false; h * w];
    let (mut at, mut foreground) = (0usize, false);
    for &count in &rle.counts {
        let end = at.saturating_add(count as usize).min(columns.len());
        columns[at..end].fill(foreground);
        (at, foreground) = (end, !foreground);
    }
    Mask { width: w, height: h, data: transpose(&columns, w, h) }
}

/// Row-major `rows` x `columns` to column-major, in blocks that stay in the cache.
fn transpose(data: &[bool], rows: usize, columns: usize) -> Vec<bool> {
    const BLOCK: usize = 32;
    let mut out = vec![false; data.len()];
    for y0 in (0..rows).step_by(BLOCK) {
        for x0 in (0..columns).step_by(BLOCK) {
            for x in x0..(x0 + BLOCK).min(columns) {
                for y in y0..(y0 + BLOCK).min(rows) {
                    out[x * rows + y] = data[y * columns + x];
                }
            }
        }
    }
    out
}

/// The compressed `counts` string of COCO's JSON.
pub fn to_coco_string(rle: &Rle) -> String {
    coco::rle_to_string(&rle.to_coco())
}

/// Reads a compressed `counts` string for a mask of `size` = `[height, width]`.
///
/// # Errors
/// [`ImageError::Rle`] when the string is malformed or its runs do not add up to `size`.
pub fn from_coco_string(counts: &str, size: [usize; 2]) -> Result<Rle, ImageError> {
    let (h, w) = checked_size(size)?;
    let rle = Rle::from_coco(coco::rle_from_string(counts, h, w).map_err(invalid)?);
    check_total(&rle)?;
    Ok(rle)
}

/// Takes uncompressed `counts` (a list in COCO's JSON) for a mask of `size` = `[height, width]`.
///
/// # Errors
/// [`ImageError::Rle`] when the runs do not add up to `size`.
pub fn from_counts(counts: Vec<u32>, size: [usize; 2]) -> Result<Rle, ImageError> {
    checked_size(size)?;
    let rle = Rle { size, counts };
    check_total(&rle)?;
    Ok(rle)
}

// Deviation: pycocotools takes runs that stop early as background; in a file that is damage.
fn check_total(rle: &Rle) -> Result<(), ImageError> {
    let total: u64 = rle.counts.iter().map(|&c| u64::from(c)).sum();
    let [h, w] = rle.size;
    if total != h as u64 * w as u64 {
        return Err(invalid(format!("runs cover {total} pixels, the mask has {h} x {w}")));
    }
    Ok(())
}

/// Number of foreground pixels.
pub fn area(rle: &Rle) -> usize {
    rle.counts.iter().skip(1).step_by(2).map(|&c| c as usize).sum()
}

/// `[x, y, width, height]`, both ends counted; zeros when empty.
pub fn bbox(rle: &Rle) -> [f64; 4] {
    coco::to_bbox(&rle.to_coco())
}

/// Intersection over union; over `a`'s own area when `iscrowd` says that `b` is a crowd.
/// -1 when the sizes differ, as in the reference.
pub fn iou(a: &Rle, b: &Rle, iscrowd: bool) -> f64 {
    coco::iou(&[a.to_coco()], &[b.to_coco()], &[iscrowd])[0][0]
}

/// Rasterises rings `[x0, y0, x1, y1, ...]` in pixels and unites them.
///
/// # Errors
/// [`ImageError::Rle`] when the size leaves 32 bits, or a ring has fewer than three points, an odd
/// number of coordinates or one that is not finite.
pub fn from_polygons(polygons: &[Vec<f64>], h: usize, w: usize) -> Result<Rle, ImageError> {
    let (h32, w32) = checked_size([h, w])?;
    for (i, ring) in polygons.iter().enumerate() {
        if ring.len() < 6 || ring.len() % 2 == 1 {
            let found = ring.len();
            return Err(invalid(format!("polygon {i} needs at least 3 x,y pairs, found {found} numbers")));
        }
        if let Some(bad) = ring.iter().find(|v| !v.is_finite()) {
            return Err(invalid(format!("polygon {i} has the coordinate {bad}")));
        }
    }
    coco::fr_polys(polygons, h32, w32).map(Rle::from_coco).map_err(invalid)
}

/// Union of masks of one size, or their intersection.
///
/// # Errors
/// [`ImageError::Rle`] when the sizes differ.
pub fn merge(rles: &[Rle], intersect: bool) -> Result<Rle, ImageError> {
    let rles: Vec<_> = rles.iter().map(Rle::to_coco).collect();
    coco::merge(&rles, intersect).map(Rle::from_coco).map_err(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_totals_and_rings_are_errors() {
        assert!(from_coco_string("04", [2, 2]).is_ok());
        assert!(from_coco_string("03", [2, 2]).is_err());
        assert!(from_coco_string("05", [2, 2]).is_err());
        assert!(from_coco_string("\u{7f}é", [2, 2]).is_err());
        assert!(from_coco_string("", [usize::MAX, 2]).is_err());
        assert!(from_coco_string("", [0, 2]).is_err());
        assert!(from_counts(vec![1, 2], [2, 2]).is_err());
        assert!(from_polygons(&[vec![0.0, 0.0, 1.0, 1.0]], 4, 4).is_err());
        assert!(from_polygons(&[vec![0.0, 0.0, 1.0, f64::NAN, 2.0, 2.0]], 4, 4).is_err());
    }

    #[test]
    fn decode_survives_runs_that_do_not_fit() {
        let long = Rle { size: [2, 2], counts: vec![1, u32::MAX, 7] };
        assert_eq!(decode(&long).data, [false, true, true, true]);
        assert_eq!(decode(&Rle { size: [0, 2], counts: vec![3] }).bbox_xywh(), [0.0; 4]);
        let short = Rle { size: [2, 2], counts: vec![0, 1] };
        assert_eq!(decode(&short).data, [true, false, false, false]);
    }
}
