//! Which side and how many samples each batch of a stream has: the variable batch sampler.
//!
//! Paper: SAM-CLIP (arXiv:2310.15308) §4, CVNets' sampler; spec 5.4. Reference:
//! apple/corenet, `data/sampler/variable_batch_sampler.py`. Every batch draws one of the sides
//! uniformly; its size keeps the number of pixels of the base batch. Batches that are cut short
//! at the end of an epoch do not exist here: the stream goes on into the next epoch.

use crate::DataError;
use crate::loader::generator;
use crate::part::Part;
use rand::Rng;

/// Sides to choose from; without any, every batch has the base side.
#[derive(Debug, Clone)]
pub(crate) struct Buckets {
    seed: u64,
    base: (usize, usize),
    sides: Vec<usize>,
}

impl Buckets {
    pub fn new(seed: u64, side: usize, batch_size: usize, sides: &[usize]) -> Result<Self, DataError> {
        if side == 0 || batch_size == 0 || sides.contains(&0) {
            return Err(DataError::Config("`side`, `sides` and `batch_size` must be at least 1".into()));
        }
        Ok(Self { seed, base: (side, batch_size), sides: sides.to_vec() })
    }

    /// Side and number of samples of batch `batch`, a pure function of (seed, batch): every
    /// process of a run sees the same side in a step.
    pub fn of(&self, batch: u64) -> (usize, usize) {
        if self.sides.is_empty() {
            return self.base;
        }
        let mut rng = generator(self.seed, batch, 0, 2);
        let side = self.sides[rng.random_range(0..self.sides.len())];
        let (base, count) = self.base;
        let pixels = (base * base * count) as f64;
        // corenet: max(1, int(round(h0 * w0 * b0 / (h * w), 2)))
        let size = ((pixels / (side * side) as f64 * 100.0).round() / 100.0) as usize;
        (side, size.max(1))
    }

    /// The largest batch.
    pub fn largest(&self) -> usize {
        let smallest = self.sides.iter().copied().min().unwrap_or(self.base.0);
        (self.base.0 * self.base.0 * self.base.1).div_ceil(smallest * smallest)
    }
}

/// Walks over the slots of a stream in order and knows the side of each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cursor {
    batch: u64,
    taken: usize,
    part: Part,
}

impl Cursor {
    pub fn at(batch: u64, part: Part) -> Self {
        Self { batch, taken: 0, part }
    }

    /// The side of the next slot, if this process reads it.
    pub fn advance(&mut self, buckets: &Buckets) -> Option<usize> {
        let (side, size) = buckets.of(self.batch);
        let mine = self.part.range(size).contains(&self.taken);
        self.taken += 1;
        if self.taken == size {
            *self = Self::at(self.batch + 1, self.part);
        }
        mine.then_some(side)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn batches_keep_the_number_of_pixels() {
        let buckets = Buckets::new(3, 224, 2048, &[224, 448, 1024]).unwrap();
        let mut seen: BTreeMap<(usize, usize), usize> = BTreeMap::new();
        (0..300).for_each(|i| *seen.entry(buckets.of(i)).or_default() += 1);
        // the paper's 2048 at 224 px; spec 5.4 [D]: 512 at 448, 98 at 1024
        assert_eq!(seen.keys().copied().collect::<Vec<_>>(), [(224, 2048), (448, 512), (1024, 98)]);
        assert!(seen.values().all(|&n| n > 70), "{seen:?}");
        assert_eq!(buckets.largest(), 2048);
        let single = Buckets::new(3, 64, 8, &[]).unwrap();
        assert!((0..9).all(|i| single.of(i) == (64, 8)));
        assert_eq!(Buckets::new(3, 64, 1, &[64, 512]).unwrap().largest(), 1);
        assert!(Buckets::new(3, 64, 8, &[0]).is_err());
    }

    #[test]
    fn a_cursor_knows_the_side_of_every_slot() {
        let buckets = Buckets::new(9, 32, 8, &[32, 64]).unwrap();
        let mut cursor = Cursor::at(5, Part::WHOLE);
        for batch in 5..25 {
            let (side, size) = buckets.of(batch);
            assert!((0..size).all(|_| cursor.advance(&buckets) == Some(side)));
        }
    }
}
