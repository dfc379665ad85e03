//! Metrics as pure functions of predictions and truth.
//!
//! Void pixels (label 255) count neither as intersection nor as union; sums are integers, so
//! the order of the photos cannot change a result.

pub mod boundary;
pub mod camouflage;
pub mod class_iou;
pub mod detection;
pub mod nearest;
pub mod ranking;
pub mod semantic;

use samclip_image::Mask;

/// Pixels in the intersection and in the union of prediction and truth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Overlap {
    /// Pixels in both.
    pub intersection: u64,
    /// Pixels in either.
    pub union: u64,
}

impl Overlap {
    /// Counts over the pixels that are not void. `void` is empty or has one entry per pixel.
    ///
    /// # Panics
    /// If the sizes differ.
    pub fn of(predicted: &Mask, truth: &Mask, void: &[bool]) -> Self {
        assert_eq!((predicted.width, predicted.height), (truth.width, truth.height), "masks of one size");
        assert!(void.is_empty() || void.len() == truth.data.len(), "one void flag per pixel");
        let (mut intersection, mut union) = (0, 0);
        for (i, (&p, &t)) in predicted.data.iter().zip(&truth.data).enumerate() {
            let known = void.is_empty() || !void[i];
            intersection += u64::from(p && t && known);
            union += u64::from((p || t) && known);
        }
        Self { intersection, union }
    }

    /// Intersection over union; none where both masks are empty.
    pub fn iou(self) -> Option<f64> {
        (self.union > 0).then(|| self.intersection as f64 / self.union as f64)
    }
}

impl std::ops::AddAssign for Overlap {
    fn add_assign(&mut self, other: Self) {
        self.intersection += other.intersection;
        self.union += other.union;
    }
}

/// The mean of what there is; none of nothing.
pub fn mean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0u64);
    for value in values {
        sum += value;
        count += 1;
    }
    (count > 0).then(|| sum / count as f64)
}

/// The index of the largest score, the first of equals; NaN never wins, none if nothing does.
pub fn top1(scores: &[f32]) -> Option<usize> {
    let mut best: Option<usize> = None;
    for (i, &score) in scores.iter().enumerate() {
        if !score.is_nan() && best.is_none_or(|b| score > scores[b]) {
            best = Some(i);
        }
    }
    best
}

/// Whether the class with the largest score is one of those present.
pub fn top1_is_present(scores: &[f32], present: &[usize]) -> bool {
    top1(scores).is_some_and(|best| present.contains(&best))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(rows: [&str; 3]) -> Mask {
        let data: Vec<bool> = rows.concat().bytes().map(|b| b == b'#').collect();
        Mask { width: 4, height: 3, data }
    }

    #[test]
    fn overlap_by_hand() {
        let truth = mask(["##..", "##..", "...."]);
        let predicted = mask([".##.", ".##.", "...."]);
        let overlap = Overlap::of(&predicted, &truth, &[]);
        assert_eq!(overlap, Overlap { intersection: 2, union: 6 });
        assert_eq!(overlap.iou(), Some(2.0 / 6.0));
        // the void pixels take one of the intersection and two of the union
        let void = mask([".#..", "..#.", "...#"]).data;
        assert_eq!(Overlap::of(&predicted, &truth, &void), Overlap { intersection: 1, union: 4 });
    }

    #[test]
    fn perfect_empty_and_undefined() {
        let truth = mask(["##..", "##..", "...."]);
        let empty = mask(["....", "....", "...."]);
        assert_eq!(Overlap::of(&truth, &truth, &[]).iou(), Some(1.0));
        assert_eq!(Overlap::of(&empty, &truth, &[]).iou(), Some(0.0));
        assert_eq!(Overlap::of(&empty, &empty, &[]).iou(), None);
        assert_eq!(Overlap::of(&truth, &truth, &[true; 12]).iou(), None);
    }

    #[test]
    fn accumulated_iou_weighs_pixels_not_photos() {
        let mut sum = Overlap { intersection: 1, union: 2 };
        sum += Overlap { intersection: 90, union: 100 };
        assert_eq!(sum.iou(), Some(91.0 / 102.0));
        assert_eq!(mean([0.5, 0.9]), Some(0.7));
        assert_eq!(mean([]), None);
    }

    #[test]
    fn top1_takes_the_first_of_equals_and_no_nan() {
        assert_eq!(top1(&[0.1, 0.5, 0.5]), Some(1));
        assert_eq!(top1(&[f32::NAN, -1.0, -2.0]), Some(1));
        assert_eq!(top1(&[f32::NAN]), None);
        assert!(top1_is_present(&[0.2, 0.7, 0.1], &[0, 1]));
        assert!(!top1_is_present(&[0.2, 0.7, 0.1], &[0, 2]));
        assert!(!top1_is_present(&[], &[0]));
    }
}
