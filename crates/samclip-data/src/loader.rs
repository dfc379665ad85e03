//! The seeded, resumable loader: an endless stream of batches over several datasets.
//!
//! The stream is a sequence of slots; slot `index` of epoch `epoch` names a dataset and a sample
//! and seeds its own generator, both pure functions of (seed, epoch, index). Worker threads
//! prefetch slots; the consumer takes them in order, so a run that is stopped at a
//! [`Position`] and continued there sees what an uninterrupted run sees.

use crate::augment::Augment;
use crate::buckets::{Buckets, Cursor};
use crate::item::Targets;
use crate::part::Part;
use crate::pool::{Pool, lock};
use crate::{DataError, Dataset, TrainItem};
use rand::SeedableRng;
use rand::Rng;
use rand::distr::{Distribution, weighted::WeightedIndex};
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use samclip_image::Normalization;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

/// A dataset in the mix.
#[derive(Clone)]
pub struct Source {
    /// The samples.
    pub dataset: Arc<dyn Dataset>,
    /// Relative frequency under [`Mixing::Weighted`].
    pub weight: f64,
    /// An augmentation of its own, instead of the loader's.
    pub augment: Option<Augment>,
}

impl Source {
    /// A dataset with a weight and the loader's augmentation.
    pub fn new(dataset: impl Into<Arc<dyn Dataset>>, weight: f64) -> Self {
        Self { dataset: dataset.into(), weight, augment: None }
    }
}

/// What one epoch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Mixing {
    /// Every sample of every dataset once, shuffled together.
    Concat,
    /// `epoch_len` draws: the dataset by weight, its samples in a shuffled round.
    Weighted {
        /// Draws in an epoch.
        epoch_len: usize,
    },
}

/// Everything that decides the stream, and how it is read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoaderConfig {
    /// Seed of the order and of every sample.
    pub seed: u64,
    /// Side of the square in pixels.
    pub side: usize,
    /// Samples in a batch.
    pub batch_size: usize,
    /// Sides that batches draw from, each with the pixels of `batch_size` at `side`; empty: `side`.
    #[serde(default)]
    pub sides: Vec<usize>,
    /// Side of a second picture of the same crop, for teachers; none where absent.
    #[serde(default)]
    pub view: Option<usize>,
    /// Augmentation of the sources that have none of their own.
    pub augment: Augment,
    /// What an epoch is.
    pub mixing: Mixing,
    /// Masks of a sample.
    #[serde(default)]
    pub targets: Targets,
    /// Prefetching threads; 0 reads on the caller's thread.
    pub workers: usize,
    /// Batches that may wait ready.
    pub prefetch: usize,
    /// Unreadable samples are counted and others take their places; one more than this is an error.
    pub max_skipped: usize,
}

/// Where the stream stands: the next slot to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Seed of the stream.
    pub seed: u64,
    /// Epochs completed.
    pub epoch: u64,
    /// Slots taken in this epoch.
    pub index: u64,
    /// Batches given so far: decides the sides of the following ones.
    #[serde(default)]
    pub batch: u64,
}

/// Samples of one step.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The samples, in stream order: those of the loader's [`Part`].
    pub items: Vec<TrainItem>,
    /// Side of the square in pixels.
    pub side: usize,
    /// Samples of the whole batch, those of other processes included.
    pub size: usize,
}

impl Batch {
    /// The normalised photos as [B, 3, S, S] f32, padding zero.
    pub fn pixels(&self, normalization: &Normalization) -> Vec<f32> {
        let item = 3 * self.side * self.side;
        let mut out = vec![0.0; self.items.len() * item];
        for (item, out) in self.items.iter().zip(out.chunks_exact_mut(item)) {
            item.write_pixels(normalization, out);
        }
        out
    }

    /// The pictures for teachers as [B, 3, S, S] and their side S: the second ones where the
    /// loader makes them, else the photos.
    pub fn view(&self, normalization: &Normalization) -> (Vec<f32>, usize) {
        let Some(side) = self.items.first().and_then(|i| i.view.as_ref()).map(samclip_image::Image::width) else {
            return (self.pixels(normalization), self.side);
        };
        let mut out = vec![0.0; self.items.len() * 3 * side * side];
        for (item, out) in self.items.iter().zip(out.chunks_exact_mut(3 * side * side)) {
            item.write_view(normalization, out);
        }
        (out, side)
    }
}

/// The stream of batches.
pub struct Loader {
    stream: Arc<Stream>,
    part: Part,
    slot: u64,
    batch: u64,
    skipped: usize,
    last_skipped: Option<String>,
    pool: Option<Pool>,
}

impl Loader {
    /// Starts at the beginning of epoch 0.
    ///
    /// # Errors
    /// No samples, a weight that is not positive, a zero size, or a bad augmentation.
    pub fn new(sources: Vec<Source>, config: LoaderConfig) -> Result<Self, DataError> {
        Self::of_part(sources, config, Part::WHOLE)
    }

    /// As [`Loader::new`]; reads only the samples of one process.
    ///
    /// # Errors
    /// As [`Loader::new`], and more processes than samples in any batch.
    pub fn of_part(sources: Vec<Source>, config: LoaderConfig, part: Part) -> Result<Self, DataError> {
        let stream = Arc::new(Stream::new(sources, config)?);
        let (most, ranks) = (part.count(stream.buckets.largest()), part.ranks);
        if most < ranks {
            return Err(DataError::Config(format!("{ranks} processes cannot share batches of {most} parts")));
        }
        let mut loader = Self { stream, part, slot: 0, batch: 0, skipped: 0, last_skipped: None, pool: None };
        loader.start();
        Ok(loader)
    }

    /// The next batch; another sample of the epoch takes the place of an unreadable one.
    ///
    /// # Errors
    /// More unreadable samples than `max_skipped` since the loader was made.
    pub fn next_batch(&mut self) -> Result<Batch, DataError> {
        let (side, size) = self.stream.buckets.of(self.batch);
        let begin = self.slot;
        let slots = self.part.range(size).map(|i| begin + i as u64);
        let items = slots.map(|slot| self.item(slot, side)).collect::<Result<_, _>>()?;
        self.slot += size as u64;
        self.batch += 1;
        Ok(Batch { items, side, size })
    }

    /// The sample of a slot, or the first of its spares that can be read.
    fn item(&mut self, slot: u64, side: usize) -> Result<TrainItem, DataError> {
        let mut read = match &self.pool {
            Some(pool) => pool.take(slot),
            None => self.stream.read(slot, side),
        };
        let mut attempt = 0;
        loop {
            let error = match read {
                Ok(item) => return Ok(item),
                Err(error) => error,
            };
            self.skipped += 1;
            self.last_skipped = Some(error.to_string());
            let (skipped, limit) = (self.skipped, self.stream.config.max_skipped);
            if skipped > limit {
                return Err(DataError::TooManyCorrupt { skipped, limit, last: error.to_string() });
            }
            read = self.stream.spare(slot, side, attempt);
            attempt += 1;
        }
    }

    /// Where the next batch starts.
    pub fn position(&self) -> Position {
        let len = self.stream.epoch_len;
        Position {
            seed: self.stream.config.seed,
            epoch: self.slot / len,
            index: self.slot % len,
            batch: self.batch,
        }
    }

    /// Continues at a position that [`Loader::position`] gave.
    ///
    /// # Errors
    /// A position of another seed, or beyond the epoch's end: it belongs to another stream.
    pub fn seek(&mut self, position: Position) -> Result<(), DataError> {
        let (seed, len) = (self.stream.config.seed, self.stream.epoch_len);
        if position.seed != seed || position.index >= len {
            return Err(DataError::Config(format!(
                "position (seed {}, index {}) is not of this stream (seed {seed}, {len} samples an epoch)",
                position.seed, position.index
            )));
        }
        self.slot = position.epoch * len + position.index;
        self.batch = position.batch;
        self.start();
        Ok(())
    }

    /// Samples in an epoch.
    pub fn epoch_len(&self) -> usize {
        self.stream.epoch_len as usize
    }

    /// Unreadable samples so far.
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// Why the last unreadable sample was skipped, once: the next call says none.
    pub fn take_last_skipped(&mut self) -> Option<String> {
        self.last_skipped.take()
    }

    fn start(&mut self) {
        self.pool = None; // joins the threads of the old position
        let config = &self.stream.config;
        if config.workers > 0 {
            let window = (config.prefetch.max(1) * self.stream.buckets.largest()) as u64;
            let from = (self.slot, Cursor::at(self.batch, self.part));
            self.pool = Some(Pool::start(&self.stream, from, config.workers, window));
        }
    }
}

/// (source, sample) of every slot of an epoch.
type Order = Arc<Vec<(u32, u32)>>;

/// The pure part: slot -> item.
pub(crate) struct Stream {
    sources: Vec<Source>,
    config: LoaderConfig,
    pub(crate) buckets: Buckets,
    epoch_len: u64,
    orders: Mutex<BTreeMap<u64, Order>>,
}

impl Stream {
    fn new(sources: Vec<Source>, config: LoaderConfig) -> Result<Self, DataError> {
        let bad = |message: &str| Err(DataError::Config(message.into()));
        if sources.is_empty() || sources.iter().any(|s| s.dataset.is_empty()) {
            return bad("a loader needs at least one dataset, and no empty one");
        }
        if sources.iter().any(|s| !(s.weight > 0.0 && s.weight.is_finite())) {
            return bad("dataset weights must be positive");
        }
        let buckets = Buckets::new(config.seed, config.side, config.batch_size, &config.sides)?;
        for augment in sources.iter().filter_map(|s| s.augment.as_ref()).chain([&config.augment]) {
            augment.check()?;
        }
        let epoch_len = match config.mixing {
            Mixing::Concat => sources.iter().map(|s| s.dataset.len()).sum(),
            Mixing::Weighted { epoch_len } => epoch_len,
        };
        if epoch_len == 0 {
            return bad("`epoch_len` must be at least 1");
        }
        Ok(Self { sources, config, buckets, epoch_len: epoch_len as u64, orders: Mutex::default() })
    }

    pub(crate) fn read(&self, slot: u64, side: usize) -> Result<TrainItem, DataError> {
        let index = slot % self.epoch_len;
        self.read_at(slot, index, 1, side)
    }

    /// What stands in for an unreadable sample: one drawn from the same epoch, a pure function of (slot,
    /// attempt), so that no other slot moves.
    fn spare(&self, slot: u64, side: usize, attempt: u64) -> Result<TrainItem, DataError> {
        let (epoch, index) = (slot / self.epoch_len, slot % self.epoch_len);
        let mut rng = generator(self.config.seed, epoch, index, 3 + 2 * attempt);
        self.read_at(slot, rng.random_range(0..self.epoch_len), 4 + 2 * attempt, side)
    }

    /// The sample at `at` in the order of the slot's epoch, augmented by the slot's generator of `purpose`.
    fn read_at(&self, slot: u64, at: u64, purpose: u64, side: usize) -> Result<TrainItem, DataError> {
        let (epoch, index) = (slot / self.epoch_len, slot % self.epoch_len);
        let (source, sample) = self.order(epoch)[at as usize];
        let (source, sample) = (source as usize, sample as usize);
        let Source { dataset, augment, .. } = &self.sources[source];
        let config = &self.config;
        let work = || {
            let mut rng = generator(config.seed, epoch, index, purpose);
            let augment = augment.as_ref().unwrap_or(&config.augment);
            let read = dataset.get(sample)?;
            let dataset = dataset.as_ref();
            let target = (side, config.view, &config.targets);
            let mut item = TrainItem::new(dataset, (source, sample), read, augment, target, &mut rng);
            if let Some(cutmix) = augment.cutmix.filter(|c| c.wanted(&mut rng)) {
                let other = rng.random_range(0..dataset.len());
                let read = dataset.get(other)?;
                let other = TrainItem::new(dataset, (source, other), read, augment, target, &mut rng);
                if let Some(rect) = cutmix.draw(item.content, other.content, &mut rng) {
                    item.paste(other, rect, dataset.background(), &config.targets, &mut rng);
                }
            }
            Ok(item)
        };
        // a panic in a decoder must not leave the consumer waiting for ever
        catch_unwind(AssertUnwindSafe(work))
            .unwrap_or_else(|_| Err(DataError::Panicked { dataset: dataset.name().into(), index: sample }))
    }

    fn order(&self, epoch: u64) -> Order {
        let mut orders = lock(&self.orders);
        if let Some(order) = orders.get(&epoch) {
            return order.clone();
        }
        let lengths: Vec<usize> = self.sources.iter().map(|s| s.dataset.len()).collect();
        let weights: Vec<f64> = self.sources.iter().map(|s| s.weight).collect();
        let order = Arc::new(epoch_order(self.config.mixing, &lengths, &weights, self.config.seed, epoch));
        orders.insert(epoch, order.clone());
        while orders.len() > 3 {
            orders.pop_first(); // workers may straddle an epoch's end, not more
        }
        order
    }
}

/// The order of an epoch, a pure function of its arguments.
fn epoch_order(mixing: Mixing, lengths: &[usize], weights: &[f64], seed: u64, epoch: u64) -> Vec<(u32, u32)> {
    let mut rng = generator(seed, epoch, 0, 0);
    let all = |source: usize| (0..lengths[source] as u32).map(move |i| (source as u32, i));
    match mixing {
        Mixing::Concat => {
            let mut order: Vec<_> = (0..lengths.len()).flat_map(all).collect();
            order.shuffle(&mut rng);
            order
        }
        Mixing::Weighted { epoch_len } => {
            let Ok(draw) = WeightedIndex::new(weights) else { return vec![(0, 0); epoch_len] };
            let mut rounds: Vec<Vec<(u32, u32)>> = vec![Vec::new(); lengths.len()];
            let mut next = |rng: &mut ChaCha8Rng| {
                let source = draw.sample(rng);
                if rounds[source].is_empty() {
                    rounds[source] = all(source).collect();
                    rounds[source].shuffle(rng);
                }
                rounds[source].pop().unwrap_or((source as u32, 0))
            };
            (0..epoch_len).map(|_| next(&mut rng)).collect()
        }
    }
}

/// The generator of one slot; `purpose` separates the order from the samples.
pub(crate) fn generator(seed: u64, epoch: u64, index: u64, purpose: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    for (part, value) in key.chunks_exact_mut(8).zip([seed, epoch, index, purpose]) {
        part.copy_from_slice(&value.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}
