//! The part of every batch that one process of a run reads.
//!
//! A batch is cut into a fixed number of shards, as evenly as it goes; processes share out the shards. What a
//! step computes then depends on the shards, not on the number of processes.

use std::ops::Range;

/// One process of several that read the same stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// This process, from 0.
    pub rank: usize,
    /// Processes in all.
    pub ranks: usize,
    /// Shards of a batch.
    pub shards: usize,
}

impl Part {
    /// One process that reads everything.
    pub const WHOLE: Self = Self { rank: 0, ranks: 1, shards: 1 };

    /// Shards of a batch of `n` samples: none is empty.
    pub fn count(&self, n: usize) -> usize {
        self.shards.min(n)
    }

    /// The shards of this process.
    pub fn shards(&self, n: usize) -> Range<usize> {
        let count = self.count(n);
        count * self.rank / self.ranks..count * (self.rank + 1) / self.ranks
    }

    /// The samples of shard `k` of a batch of `n`.
    pub fn samples(&self, k: usize, n: usize) -> Range<usize> {
        let count = self.count(n);
        n * k / count..n * (k + 1) / count
    }

    /// The samples of this process, one range.
    pub fn range(&self, n: usize) -> Range<usize> {
        let shards = self.shards(n);
        match shards.is_empty() {
            true => 0..0,
            false => self.samples(shards.start, n).start..self.samples(shards.end - 1, n).end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Part;

    #[test]
    fn every_sample_belongs_to_one_process() {
        for (n, shards, ranks) in [(64, 4, 2), (7, 4, 4), (3, 8, 4), (5, 6, 3), (1, 2, 2)] {
            let parts = (0..ranks).map(|rank| Part { rank, ranks, shards });
            let samples: Vec<usize> = parts.clone().flat_map(|p| p.range(n)).collect();
            assert_eq!(samples, (0..n).collect::<Vec<_>>());
            let of_shards: Vec<usize> = parts.flat_map(|p| p.shards(n).flat_map(move |k| p.samples(k, n))).collect();
            assert_eq!(of_shards, samples);
        }
    }
}
