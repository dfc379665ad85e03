//! Simulated prompts: what a user would click or draw to get a given mask.
//!
//! Paper: SAM (arXiv:2304.02643) §5, App. A "Training algorithm"; SAM-CLIP (arXiv:2310.15308)
//! uses one point or box. Pure functions of (mask, rng); coordinates are pixels of the mask,
//! a click is the index of its pixel (the prompt encoder adds the half pixel), a box is
//! [x0, y0, x1, y1] with x1 and y1 one past the last pixel.

use rand::Rng;
use samclip_image::{Mask, distance_transform};

/// A simulated click or box.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Prompt {
    /// A foreground click, [x, y].
    Point([f32; 2]),
    /// A box, [x0, y0, x1, y1].
    Box([f32; 4]),
}

/// How a box is jittered: the standard deviation is `std` of the box side, and no coordinate
/// moves by more than `max` pixels.
#[derive(Debug, Clone, Copy)]
pub struct BoxNoise {
    /// Standard deviation as a part of the side.
    pub std: f32,
    /// Largest shift in pixels of this mask.
    pub max: f32,
}

impl BoxNoise {
    /// SAM's noise, 10 % and at most 20 px at a side of 1024, for images of `side`.
    pub fn sam(side: usize) -> Self {
        Self { std: 0.1, max: 20.0 * side as f32 / 1024.0 }
    }
}

/// A uniformly random pixel of the mask; none if the mask is empty.
pub fn random_point(mask: &Mask, rng: &mut impl Rng) -> Option<[f32; 2]> {
    pick(mask.width, mask.data.iter().copied(), rng)
}

/// The tight box of the mask, [x0, y0, x1, y1]; none if the mask is empty.
pub fn tight_box(mask: &Mask) -> Option<[f32; 4]> {
    let (mut x0, mut y0, mut x1, mut y1) = (usize::MAX, usize::MAX, 0, 0);
    for (y, row) in mask.data.chunks_exact(mask.width.max(1)).enumerate() {
        if let Some(first) = row.iter().position(|&b| b) {
            let last = row.iter().rposition(|&b| b).unwrap_or(first);
            (x0, x1) = (x0.min(first), x1.max(last + 1));
            (y0, y1) = (y0.min(y), y + 1);
        }
    }
    (x1 > 0).then_some([x0 as f32, y0 as f32, x1 as f32, y1 as f32])
}

/// The tight box with Gaussian noise on each coordinate, inside the image and never empty.
pub fn noisy_box(mask: &Mask, noise: BoxNoise, rng: &mut impl Rng) -> Option<[f32; 4]> {
    let tight = tight_box(mask)?;
    let sides = [tight[2] - tight[0], tight[3] - tight[1]];
    let limit = [mask.width as f32, mask.height as f32];
    let mut noisy = tight;
    for (i, value) in noisy.iter_mut().enumerate() {
        let shift = (normal(rng) * noise.std * sides[i % 2]).clamp(-noise.max, noise.max);
        *value = (*value + shift).clamp(0.0, limit[i % 2]);
    }
    let valid = noisy[2] - noisy[0] >= 1.0 && noisy[3] - noisy[1] >= 1.0;
    Some(if valid { noisy } else { tight })
}

/// SAM's first prompt: a random point or a noisy box, each with probability one half.
pub fn point_or_box(mask: &Mask, noise: BoxNoise, rng: &mut impl Rng) -> Option<Prompt> {
    match rng.random_bool(0.5) {
        true => random_point(mask, rng).map(Prompt::Point),
        false => noisy_box(mask, noise, rng).map(Prompt::Box),
    }
}

/// A uniformly random pixel where `predicted` is wrong, and whether it is foreground (a
/// positive click); none where the prediction is perfect.
///
/// # Panics
/// If the two masks differ in size.
pub fn error_point(mask: &Mask, predicted: &Mask, rng: &mut impl Rng) -> Option<([f32; 2], bool)> {
    assert_eq!((mask.width, mask.height), (predicted.width, predicted.height), "masks of one size");
    let wrong = mask.data.iter().zip(&predicted.data).map(|(a, b)| a != b);
    let [x, y] = pick(mask.width, wrong, rng)?;
    Some(([x, y], mask.data[y as usize * mask.width + x as usize]))
}

/// The pixel farthest from the mask's border (outside the image counts as background), the
/// first in scan order where several are; none if the mask is empty.
pub fn distance_maximum(mask: &Mask) -> Option<[f32; 2]> {
    distance_peak(mask).map(|(point, _)| point)
}

/// [`distance_maximum`] and its distance to the nearest pixel that is not the mask's.
pub fn distance_peak(mask: &Mask) -> Option<([f32; 2], f32)> {
    let distance = distance_transform(mask);
    let mut best: Option<usize> = None;
    for (i, &d) in distance.iter().enumerate() {
        if mask.data[i] && best.is_none_or(|b| d > distance[b]) {
            best = Some(i);
        }
    }
    best.map(|i| ([(i % mask.width) as f32, (i / mask.width) as f32], distance[i]))
}

fn pick(width: usize, wanted: impl Iterator<Item = bool> + Clone, rng: &mut impl Rng) -> Option<[f32; 2]> {
    let count = wanted.clone().filter(|&b| b).count();
    if count == 0 {
        return None;
    }
    let rank = rng.random_range(0..count);
    let (i, _) = wanted.enumerate().filter(|(_, b)| *b).nth(rank)?;
    Some([(i % width) as f32, (i / width) as f32])
}

/// A standard normal number (Box-Muller, the cosine branch).
fn normal(rng: &mut impl Rng) -> f32 {
    let u: f32 = 1.0 - rng.random::<f32>(); // in (0, 1]
    let v: f32 = rng.random();
    (-2.0 * u.ln()).sqrt() * (std::f32::consts::TAU * v).cos()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn rectangle(width: usize, height: usize, x: std::ops::Range<usize>, y: std::ops::Range<usize>) -> Mask {
        let data = (0..width * height).map(|i| x.contains(&(i % width)) && y.contains(&(i / width))).collect();
        Mask { width, height, data }
    }

    #[test]
    fn points_are_uniform_over_the_mask() {
        let mask = rectangle(8, 6, 2..4, 1..5); // 8 pixels
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut hits = [0; 48];
        for _ in 0..8000 {
            let [x, y] = random_point(&mask, &mut rng).unwrap();
            hits[y as usize * 8 + x as usize] += 1;
        }
        for (i, &n) in hits.iter().enumerate() {
            match mask.data[i] {
                true => assert!((850..1150).contains(&n), "{n} hits"), // 1000 +- 5 sigma
                false => assert_eq!(n, 0),
            }
        }
    }

    #[test]
    fn box_is_tight_and_its_noise_has_the_stated_size() {
        let mask = rectangle(200, 100, 50..150, 20..80);
        assert_eq!(tight_box(&mask), Some([50.0, 20.0, 150.0, 80.0]));
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let noise = BoxNoise { std: 0.1, max: 1000.0 };
        let boxes: Vec<[f32; 4]> = (0..4000).map(|_| noisy_box(&mask, noise, &mut rng).unwrap()).collect();
        let std = |i: usize, mean: f32| (boxes.iter().map(|b| (b[i] - mean).powi(2)).sum::<f32>() / 4000.0).sqrt();
        assert!((std(0, 50.0) - 10.0).abs() < 0.5, "{}", std(0, 50.0)); // 10 % of the width
        assert!((std(3, 80.0) - 6.0).abs() < 0.3, "{}", std(3, 80.0)); // 10 % of the height
        let capped = BoxNoise { std: 0.1, max: 3.0 };
        for _ in 0..1000 {
            let b = noisy_box(&mask, capped, &mut rng).unwrap();
            assert!(b.iter().zip([50.0, 20.0, 150.0, 80.0]).all(|(a, t)| (a - t).abs() <= 3.0));
        }
        assert_eq!(BoxNoise::sam(256).max, 5.0);
    }

    #[test]
    fn a_noisy_box_stays_inside_and_is_not_empty() {
        let mask = rectangle(9, 7, 8..9, 0..7);
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        for _ in 0..2000 {
            let [x0, y0, x1, y1] = noisy_box(&mask, BoxNoise { std: 3.0, max: 50.0 }, &mut rng).unwrap();
            assert!(x0 >= 0.0 && y0 >= 0.0 && x1 <= 9.0 && y1 <= 7.0 && x1 - x0 >= 1.0 && y1 - y0 >= 1.0);
        }
    }

    #[test]
    fn error_points_carry_the_label_of_the_mistake() {
        let mask = rectangle(6, 6, 0..3, 0..6);
        let missing = rectangle(6, 6, 0..2, 0..6); // column 2 is a false negative
        let extra = rectangle(6, 6, 0..4, 0..6); //   column 3 is a false positive
        let mut rng = ChaCha8Rng::seed_from_u64(6);
        for _ in 0..50 {
            let ([x, _], positive) = error_point(&mask, &missing, &mut rng).unwrap();
            assert!(x == 2.0 && positive);
            let ([x, _], positive) = error_point(&mask, &extra, &mut rng).unwrap();
            assert!(x == 3.0 && !positive);
        }
        assert_eq!(error_point(&mask, &mask, &mut rng), None);
    }

    #[test]
    fn distance_maximum_is_interior() {
        let mask = rectangle(20, 20, 3..10, 5..10); // 7 x 5, centre row 7
        assert_eq!(distance_maximum(&mask).unwrap()[1], 7.0);
        let border = rectangle(9, 9, 0..9, 0..9); // outside the image counts as background
        assert_eq!(distance_peak(&border), Some(([4.0, 4.0], 5.0)));
    }

    #[test]
    fn an_empty_mask_has_no_prompt_and_the_seed_decides() {
        let empty = rectangle(5, 5, 0..0, 0..0);
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        assert_eq!(random_point(&empty, &mut rng), None);
        assert_eq!(tight_box(&empty), None);
        assert_eq!(point_or_box(&empty, BoxNoise::sam(5), &mut rng), None);
        assert_eq!(distance_maximum(&empty), None);
        let mask = rectangle(50, 50, 5..40, 5..40);
        let draw = |seed| point_or_box(&mask, BoxNoise::sam(50), &mut ChaCha8Rng::seed_from_u64(seed));
        assert_eq!(draw(1), draw(1));
        let boxes = (0..400).filter(|&s| matches!(draw(s), Some(Prompt::Box(_)))).count();
        assert!((140..260).contains(&boxes), "{boxes} of 400");
    }
}
