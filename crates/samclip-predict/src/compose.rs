//! Text to mask with both heads of SAM-CLIP, and semantic maps from dense text similarities.
//!
//! Paper: SAM-CLIP (arXiv 2310.15308) §4.3 "Composing both CLIP and SAM heads", appendix C. What the paper leaves
//! open is resolved as docs/papers/sam_clip.md says (spec 5.6): softmax over the class list, threshold 0.5, the
//! log-odds as mask prompt. Deviation: the points are chosen without chance (peaks far from each other), so that
//! the same photo has the same answer.

use samclip_image::{ImageTransform, LabelMap, Mask, bilinear, postprocess_logits};

use crate::decode::InputPrompt;
use crate::text::softmax;

/// Magnitude at which log-odds are cut.
const LOGIT_LIMIT: f32 = 8.0;
/// Share of the threshold that a faint text must reach.
const FAINT: f32 = 0.5;
/// Most clicks drawn from one map.
const MAX_POINTS: usize = 3;

/// Probability of one class on the model's token grid, zero on padding.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenMap {
    /// Tokens along one side of the square input.
    pub grid: usize,
    /// grid x grid probabilities.
    pub probability: Vec<f32>,
}

impl TokenMap {
    /// True for tokens that see the image, not only padding.
    pub fn valid(grid: usize, transform: &ImageTransform) -> Vec<bool> {
        let cell = (transform.input.0 / grid) as f32;
        let inside = |i: usize, pixels: usize| (i as f32 + 0.5) * cell < pixels as f32 || i == 0;
        let (h, w) = transform.resized;
        (0..grid * grid).map(|i| inside(i / grid, h) && inside(i % grid, w)).collect()
    }

    /// The highest probability.
    pub fn max(&self) -> f32 {
        self.probability.iter().copied().fold(0.0, f32::max)
    }

    /// Mean probability inside a mask; the map's maximum where the mask is empty.
    pub(crate) fn mean_inside(&self, mask: &Mask, transform: &ImageTransform) -> f32 {
        let area = mask.area();
        if area == 0 {
            return self.max();
        }
        let fine = self.upsample(transform);
        let inside = fine.iter().zip(&mask.data).filter(|(_, set)| **set).map(|(p, _)| f64::from(*p));
        (inside.sum::<f64>() / area as f64) as f32
    }

    /// Mask prompt and clicks for the decoder; none where the text is not found. Where no token exceeds the
    /// threshold, but one comes close, that one is clicked (as in training).
    pub fn prompt(&self, threshold: f32, transform: &ImageTransform, low_res: usize) -> Option<InputPrompt> {
        let cell = (transform.input.0 / self.grid) as f32;
        let peaks = self.peaks(threshold);
        if peaks.is_empty() {
            return None;
        }
        let center = |i: usize| (i as f32 + 0.5) * cell;
        let points = peaks.iter().map(|&i| [center(i % self.grid), center(i / self.grid), 1.0]).collect();
        Some(InputPrompt { points, bbox: None, mask_input: Some(self.logits(transform, low_res)) })
    }

    /// Log-odds, upsampled to the mask prompt's side; padding is outside.
    fn logits(&self, transform: &ImageTransform, low_res: usize) -> Vec<f32> {
        let log_odds = |p: f32| (p / (1.0 - p)).ln().clamp(-LOGIT_LIMIT, LOGIT_LIMIT);
        let coarse: Vec<f32> = self.probability.iter().map(|&p| log_odds(p.clamp(0.0, 1.0))).collect();
        let mut fine = bilinear(&coarse, self.grid, self.grid, low_res, low_res);
        let cell = transform.input.0 as f32 / low_res as f32;
        for (i, value) in fine.iter_mut().enumerate() {
            let (x, y) = ((i % low_res) as f32 * cell, (i / low_res) as f32 * cell);
            if x >= transform.resized.1 as f32 || y >= transform.resized.0 as f32 {
                *value = -LOGIT_LIMIT;
            }
        }
        fine
    }

    /// Up to three tokens above the threshold: the strongest, then the best by probability times distance.
    fn peaks(&self, threshold: f32) -> Vec<usize> {
        let above = |limit: f32| (0..self.probability.len()).filter(|&i| self.probability[i] > limit).collect();
        let mut candidates: Vec<usize> = above(threshold);
        if candidates.is_empty() && self.max() > threshold * FAINT {
            candidates = (0..self.probability.len()).filter(|&i| self.probability[i] == self.max()).take(1).collect();
        }
        let wanted = MAX_POINTS.min(candidates.len().div_ceil(4));
        let mut peaks: Vec<usize> = Vec::new();
        while peaks.len() < wanted {
            let value = |&i: &usize| self.probability[i] * self.distance(i, &peaks);
            let best = candidates.iter().copied().max_by(|a, b| value(a).total_cmp(&value(b)).then(b.cmp(a)));
            peaks.extend(best);
        }
        peaks
    }

    fn distance(&self, token: usize, peaks: &[usize]) -> f32 {
        let at = |i: usize| ((i % self.grid) as f32, (i / self.grid) as f32);
        let (x, y) = at(token);
        let to = |&peak: &usize| (at(peak).0 - x).hypot(at(peak).1 - y);
        peaks.iter().map(to).fold(None, |best: Option<f32>, d| Some(best.map_or(d, |b| b.min(d)))).unwrap_or(1.0)
    }

    /// The map in original pixels, bilinear.
    pub fn upsample(&self, transform: &ImageTransform) -> Vec<f32> {
        postprocess_logits(&self.probability, self.grid, transform)
    }

    /// The map alone as a mask of the original image.
    pub fn mask(&self, threshold: f32, transform: &ImageTransform) -> Mask {
        let (height, width) = transform.original;
        Mask::from_logits(width, height, &self.upsample(transform), threshold)
    }
}

/// Per-pixel argmax over classes, from scores on the token grid.
///
/// `scores` [grid·grid, channels] row-major; channels from `classes` on are background; a pixel whose best class is
/// below `floor` is background too. Background is `classes`.
pub fn argmax_map(
    scores: &[f32],
    channels: usize,
    classes: usize,
    floor: Option<f32>,
    grid: usize,
    transform: &ImageTransform,
) -> LabelMap {
    let (height, width) = transform.original;
    let mut best = vec![f32::NEG_INFINITY; height * width];
    let mut labels = vec![classes as u8; height * width];
    for channel in 0..channels {
        let map: Vec<f32> = scores.iter().skip(channel).step_by(channels).copied().collect();
        let map = postprocess_logits(&map, grid, transform);
        let label = channel.min(classes) as u8;
        for ((best, slot), value) in best.iter_mut().zip(&mut labels).zip(map) {
            if value > *best {
                (*best, *slot) = (value, label);
            }
        }
    }
    if let Some(floor) = floor {
        for (label, best) in labels.iter_mut().zip(&best) {
            if *best < floor {
                *label = classes as u8;
            }
        }
    }
    LabelMap { width, height, data: labels }
}

/// How much of the photo each channel takes: softmax over every row of `channels` logits, the mean over the rows that
/// are marked.
pub(crate) fn shares(mut logits: Vec<f32>, channels: usize, marked: &[bool]) -> Vec<f32> {
    let mut shares = vec![0.0; channels];
    let count = marked.iter().filter(|m| **m).count().max(1) as f32;
    for (row, _) in logits.chunks_exact_mut(channels).zip(marked).filter(|(_, marked)| **marked) {
        softmax(row);
        shares.iter_mut().zip(row).for_each(|(share, p)| *share += *p / count);
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    fn square(grid: usize) -> ImageTransform {
        let side = grid * 16;
        ImageTransform { original: (side, side), resized: (side, side), input: (side, side), crop_offset: (0, 0) }
    }

    #[test]
    fn shares_are_means_over_the_tokens_of_the_photo() {
        let sure = 50.0;
        let logits = vec![sure, 0.0, 0.0, sure, 0.0, 0.0, 0.0, sure, 0.0, 0.0, 0.0, sure];
        let found = shares(logits, 3, &[true, true, true, false]); // the last token is padding
        let close = |a: f32, b: f32| (a - b).abs() < 1e-6;
        assert!(close(found[0], 2.0 / 3.0) && close(found[1], 1.0 / 3.0) && close(found[2], 0.0), "{found:?}");
    }

    #[test]
    fn a_map_becomes_clicks_and_log_odds() {
        let mut probability = vec![0.0; 16];
        probability[5] = 0.9;
        probability[6] = 0.75;
        let map = TokenMap { grid: 4, probability };
        let prompt = map.prompt(0.5, &square(4), 16).unwrap();
        assert_eq!(prompt.points, [[24.0, 24.0, 1.0]]);
        let logits = prompt.mask_input.unwrap();
        assert_eq!(logits.len(), 256);
        assert_eq!(logits[0], -8.0);
        assert!(logits[6 * 16 + 6] > 0.0);
        assert!(TokenMap { grid: 4, probability: vec![0.2; 16] }.prompt(0.5, &square(4), 16).is_none());
        let faint = TokenMap { grid: 4, probability: (0..16).map(|i| i as f32 / 40.0).collect() };
        assert_eq!(faint.prompt(0.5, &square(4), 16).unwrap().points, [[56.0, 56.0, 1.0]]);
    }

    #[test]
    fn clicks_are_spread_and_deterministic() {
        let map = TokenMap { grid: 4, probability: vec![0.8; 16] };
        assert_eq!(map.peaks(0.5), [0, 15, 3]);
    }

    #[test]
    fn padding_is_outside() {
        let transform = ImageTransform { original: (32, 64), resized: (32, 64), input: (64, 64), crop_offset: (0, 0) };
        let valid = TokenMap::valid(4, &transform);
        assert_eq!(valid.iter().filter(|v| **v).count(), 8);
        let map = TokenMap { grid: 4, probability: vec![0.99; 16] };
        let logits = map.logits(&transform, 16);
        assert!(logits[..128].iter().all(|v| *v > 0.0) && logits[128..].iter().all(|v| *v == -8.0));
    }

    #[test]
    fn argmax_puts_extra_channels_and_weak_pixels_into_background() {
        // 1 x 1 grid, two classes, one background channel.
        let transform = square(1);
        assert_eq!(argmax_map(&[0.2, 0.7, 0.1], 3, 2, None, 1, &transform).data[0], 1);
        assert_eq!(argmax_map(&[0.2, 0.3, 0.5], 3, 2, None, 1, &transform).data[0], 2);
        assert_eq!(argmax_map(&[0.2, 0.7], 2, 2, Some(0.8), 1, &transform).data[0], 2);
    }
}
