//! Semantic segmentation: one confusion matrix over a whole set, and what is read off it.
//!
//! Definition: mmsegmentation's `IoUMetric` (spec 8.3): pixels of the ignored label are left out; IoU of a class is
//! its diagonal over row + column - diagonal; classes that neither truth nor prediction show are undefined and leave
//! the mean. Parity: tests/metrics.rs, equal counts and values, with ignore and with ADE's recoding
//! (`samclip_data::label_pairs::reduced`).

use super::mean;
use serde::{Deserialize, Serialize};

/// Pixels of one class taken for another, of one photo or of many. Sparse: photos show few classes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pairs(pub Vec<(u8, u8, u64)>);

impl Pairs {
    /// Counts (truth, predicted) over the pixels whose truth is not `ignore`, ascending.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn of(predicted: &[u8], truth: &[u8], ignore: u8) -> Self {
        assert_eq!(predicted.len(), truth.len(), "maps of one size");
        let mut table = vec![0u32; 256 * 256];
        let mut one = |t: u8, p: u8, n: u32| table[usize::from(t) << 8 | usize::from(p)] += n;
        let (ts, ps) = (truth.as_chunks::<8>(), predicted.as_chunks::<8>());
        for (t, p) in ts.0.iter().zip(ps.0) {
            // label maps are runs of equal pixels: eight at once where they are
            if u64::from_le_bytes(*t) == spread(t[0]) && u64::from_le_bytes(*p) == spread(p[0]) {
                one(t[0], p[0], 8);
            } else {
                t.iter().zip(p).for_each(|(t, p)| one(*t, *p, 1));
            }
        }
        ts.1.iter().zip(ps.1).for_each(|(t, p)| one(*t, *p, 1));
        let filled = table.iter().enumerate().filter(|(i, n)| **n > 0 && i >> 8 != usize::from(ignore));
        Self(filled.map(|(i, n)| ((i >> 8) as u8, (i & 255) as u8, u64::from(*n))).collect())
    }
}

fn spread(v: u8) -> u64 {
    u64::from(v) * 0x0101_0101_0101_0101
}

/// Pixels by (truth, prediction) over `classes` classes; the last column is a prediction of no class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confusion {
    classes: usize,
    counts: Vec<u64>,
}

impl Confusion {
    /// An empty matrix.
    pub fn new(classes: usize) -> Self {
        Self { classes, counts: vec![0; classes * (classes + 1)] }
    }

    /// Adds a photo. Truth beyond the classes is not counted.
    pub fn add(&mut self, pairs: &Pairs) {
        for &(truth, predicted, n) in &pairs.0 {
            if usize::from(truth) < self.classes {
                let column = usize::from(predicted).min(self.classes);
                self.counts[usize::from(truth) * (self.classes + 1) + column] += n;
            }
        }
    }

    /// Pixels of class `truth` that were predicted as `predicted`; `predicted == classes` is no class.
    pub fn at(&self, truth: usize, predicted: usize) -> u64 {
        self.counts[truth * (self.classes + 1) + predicted]
    }

    /// Pixels of a class in the truth.
    pub fn truth(&self, class: usize) -> u64 {
        (0..=self.classes).map(|p| self.at(class, p)).sum()
    }

    /// Pixels of a class in the prediction.
    pub fn predicted(&self, class: usize) -> u64 {
        (0..self.classes).map(|t| self.at(t, class)).sum()
    }

    /// IoU of a class; none where neither shows it.
    pub fn iou(&self, class: usize) -> Option<f64> {
        let hit = self.at(class, class);
        let union = self.truth(class) + self.predicted(class) - hit;
        (union > 0).then(|| hit as f64 / union as f64)
    }

    /// Share of a class's pixels that are right; none where the truth lacks it.
    pub fn accuracy(&self, class: usize) -> Option<f64> {
        let truth = self.truth(class);
        (truth > 0).then(|| self.at(class, class) as f64 / truth as f64)
    }

    /// Mean IoU over the classes that have one.
    pub fn miou(&self) -> Option<f64> {
        mean((0..self.classes).filter_map(|c| self.iou(c)))
    }

    /// Mean accuracy over the classes that have one.
    pub fn macc(&self) -> Option<f64> {
        mean((0..self.classes).filter_map(|c| self.accuracy(c)))
    }

    /// Share of all pixels that are right.
    pub fn aacc(&self) -> Option<f64> {
        let all: u64 = self.counts.iter().sum();
        (all > 0).then(|| (0..self.classes).map(|c| self.at(c, c)).sum::<u64>() as f64 / all as f64)
    }

    /// The confusions off the diagonal, most pixels first: (truth, predicted, pixels).
    pub fn worst(&self, most: usize) -> Vec<(usize, usize, u64)> {
        let pairs = (0..self.classes).flat_map(|t| (0..=self.classes).map(move |p| (t, p)));
        let mut found: Vec<_> = pairs.filter(|(t, p)| t != p).map(|(t, p)| (t, p, self.at(t, p))).collect();
        found.retain(|f| f.2 > 0);
        found.sort_by(|a, b| b.2.cmp(&a.2).then((a.0, a.1).cmp(&(b.0, b.1))));
        found.truncate(most);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_hand() {
        // ten pixels of two classes, one ignored, one predicted as nothing known
        let truth = [0, 0, 0, 0, 1, 1, 1, 1, 255, 1];
        let predicted = [0, 0, 1, 0, 1, 1, 0, 1, 0, 9];
        let mut m = Confusion::new(3);
        m.add(&Pairs::of(&predicted, &truth, 255));
        assert_eq!((m.at(0, 0), m.at(0, 1), m.at(1, 0), m.at(1, 1), m.at(1, 3)), (3, 1, 1, 3, 1));
        assert_eq!((m.iou(0), m.iou(1), m.iou(2)), (Some(3.0 / 5.0), Some(3.0 / 6.0), None));
        assert_eq!(m.miou(), Some(0.55));
        assert_eq!((m.aacc(), m.accuracy(1)), (Some(6.0 / 9.0), Some(0.6)));
        assert_eq!(m.worst(2), [(0, 1, 1), (1, 0, 1)]);
    }

    #[test]
    fn runs_and_single_pixels_count_alike() {
        let truth: Vec<u8> = (0..1000).map(|i| (i / 37 % 5) as u8).collect();
        let predicted: Vec<u8> = (0..1000).map(|i| if i % 101 == 0 { 7 } else { (i / 41 % 5) as u8 }).collect();
        let mut slow = std::collections::BTreeMap::new();
        truth.iter().zip(&predicted).filter(|(t, _)| **t != 3).for_each(|p| *slow.entry((*p.0, *p.1)).or_insert(0u64) += 1);
        let slow: Vec<_> = slow.into_iter().map(|((t, p), n)| (t, p, n)).collect();
        assert_eq!(Pairs::of(&predicted, &truth, 3).0, slow);
    }
}
