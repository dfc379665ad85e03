//! What a prompt gives without looking at the photo: the lower bars of a protocol.

use crate::metrics::Overlap;
use samclip_image::Mask;

/// Every pixel inside the box [x0, y0, x1, y1] (x1 and y1 are one past the last pixel).
pub fn fill_box(width: usize, height: usize, [x0, y0, x1, y1]: [f32; 4]) -> Mask {
    let inside = |i: usize| {
        let (x, y) = ((i % width) as f32, (i / width) as f32);
        x >= x0 && x < x1 && y >= y0 && y < y1
    };
    Mask { width, height, data: (0..width * height).map(inside).collect() }
}

/// Radii that [`disks`] tries, as multiples of the click's distance to the border.
pub const DISK_FACTORS: [f32; 16] = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0, 2.1, 2.2, 2.3, 2.4, 2.5];

/// The overlaps of the disks about the click with radius `factor * distance`, for every factor.
/// The best-sized disk of a set of objects is the factor with the best mean.
pub fn disks(truth: &Mask, void: &[bool], [x, y]: [f32; 2], distance: f32) -> [Overlap; DISK_FACTORS.len()] {
    let radii = DISK_FACTORS.map(|f| f64::from(f) * f64::from(distance));
    // pixels of the truth and all pixels, by the smallest disk that holds them
    let mut rings = [(0u64, 0u64); DISK_FACTORS.len()];
    let mut area = 0;
    for (i, &hit) in truth.data.iter().enumerate() {
        if !void.is_empty() && void[i] {
            continue;
        }
        area += u64::from(hit);
        let (dx, dy) = ((i % truth.width) as f64 - f64::from(x), (i / truth.width) as f64 - f64::from(y));
        let far = (dx * dx + dy * dy).sqrt();
        if let Some(ring) = radii.iter().position(|&r| far <= r) {
            rings[ring].0 += u64::from(hit);
            rings[ring].1 += 1;
        }
    }
    let (mut inside, mut all) = (0, 0);
    rings.map(|(hits, count)| {
        inside += hits;
        all += count;
        Overlap { intersection: inside, union: all + area - inside }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(width: usize, height: usize, (cx, cy): (i64, i64), r2: i64) -> Mask {
        let inside = |i: usize| {
            let (dx, dy) = ((i % width) as i64 - cx, (i / width) as i64 - cy);
            dx * dx + dy * dy <= r2
        };
        Mask { width, height, data: (0..width * height).map(inside).collect() }
    }

    #[test]
    fn the_box_is_half_open() {
        let mask = fill_box(6, 5, [1.0, 2.0, 4.0, 4.0]);
        assert_eq!(mask.data.iter().filter(|&&b| b).count(), 6);
        assert!(mask.data[2 * 6 + 1] && mask.data[3 * 6 + 3] && !mask.data[4 * 6 + 1] && !mask.data[2 * 6 + 4]);
    }

    #[test]
    fn disks_are_those_drawn_one_by_one() {
        let mut truth = fill_box(40, 30, [5.0, 8.0, 30.0, 17.0]);
        truth.data[11 * 40 + 12] = false;
        let void: Vec<bool> = (0..1200).map(|i| i % 7 == 0).collect();
        for (factor, found) in DISK_FACTORS.iter().zip(disks(&truth, &void, [17.0, 12.0], 5.0)) {
            let drawn = disk(40, 30, (17, 12), (f64::from(*factor) * 5.0).powi(2).floor() as i64);
            assert_eq!(found, Overlap::of(&drawn, &truth, &void), "factor {factor}");
        }
    }

    #[test]
    fn the_disk_of_a_disk_is_itself() {
        let truth = disk(40, 30, (15, 12), 64);
        assert_eq!(disks(&truth, &[], [15.0, 12.0], 8.0)[0].iou(), Some(1.0));
        assert!(disks(&truth, &[], [18.0, 12.0], 8.0)[0].iou().unwrap() < 0.8);
    }
}
