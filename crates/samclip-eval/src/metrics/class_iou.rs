//! Class-wise binary IoU: one mask for each class that a photo has (spec 6.7).
//!
//! CLIP-Guided SAM (arXiv:2605.24807) does not say how its mIoU adds up over photos; both readings are here. The
//! default sums intersections and unions by class over the photos that have it.

use super::{Overlap, mean};
use serde::{Deserialize, Serialize};

/// How the overlaps of photos become one figure for a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// Sum of intersections over sum of unions.
    Summed,
    /// Mean of the photos' own IoU.
    PerImage,
}

/// The figure of a class over its photos; none where no photo defines one.
pub fn class_iou(overlaps: &[Overlap], aggregation: Aggregation) -> Option<f64> {
    match aggregation {
        Aggregation::PerImage => mean(overlaps.iter().filter_map(|o| o.iou())),
        Aggregation::Summed => {
            let mut sum = Overlap::default();
            overlaps.iter().for_each(|o| sum += *o);
            sum.iou()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_readings_differ() {
        let of = |intersection, union| Overlap { intersection, union };
        let photos = [of(1, 2), of(90, 100), of(0, 0)];
        assert_eq!(class_iou(&photos, Aggregation::Summed), Some(91.0 / 102.0));
        assert_eq!(class_iou(&photos, Aggregation::PerImage), Some(0.7));
        assert_eq!(class_iou(&[], Aggregation::Summed), None);
    }
}
