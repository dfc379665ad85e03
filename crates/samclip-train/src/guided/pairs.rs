//! (image, class) pairs: which photos, in which order, and what each step sees.
//!
//! Paper: CLIP-Guided SAM (arXiv:2605.24807) §3.4: a training example is an image and a class that is
//! in it. The classes of an image that share a step share its look at the image. Order, crops and
//! points are pure functions of (seed, position), so a run that resumes sees what it would have seen.

use super::bases::TextVectors;
use super::recipe::{Data, GuidedRecipe};
use crate::error::TrainError;
use crate::objectives::clip_guided::{Clicks, PointSource};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use samclip_data::augment::{Frame, PhotoFilter};
use samclip_data::names::name_map;
use samclip_data::{Dataset, IGNORE, Sample};
use samclip_image::{Filter, Image, LabelMap, Normalization, prepare_squash};
use samclip_models::clip_guided_sam::{ClipGuidedConfig, GuideConfig};
use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;

/// Decoded photos are kept between steps up to this many bytes.
const KEPT_BYTES: usize = 1 << 30;

/// The photos of a run, by class.
pub struct PairData {
    dataset: Arc<dyn Dataset>,
    /// Photos to train on: index in the data set and the classes present, as rows of `vectors`.
    photos: Vec<(usize, Vec<usize>)>,
    kept: Vec<Option<Arc<Sample>>>,
    /// Photos kept out, for whoever validates.
    pub held_out: Vec<usize>,
    /// For each class of the data set its row, none where it does not take part.
    rows: Vec<Option<usize>>,
    /// Names in text, by row.
    pub names: Vec<String>,
    /// Names of the classes as the data set spells them, by row.
    pub classes: Vec<String>,
    /// Unit vectors, by row.
    pub vectors: Vec<Vec<f32>>,
}

/// A photo with some of its classes, ready for a step.
#[derive(Clone)]
pub struct Loaded {
    /// SAM's input, [3, S, S].
    pub sam: Vec<f32>,
    /// CLIP's input, [3, S', S'].
    pub clip: Vec<f32>,
    /// The classes.
    pub pairs: Vec<LoadedPair>,
}

/// One class of a photo.
#[derive(Clone)]
pub struct LoadedPair {
    /// Row of its vector.
    pub row: usize,
    /// 1, 0 or 255 at the decoder's resolution.
    pub target: Vec<u8>,
    /// Numbers that choose the points.
    pub draws: Vec<f64>,
    /// Where the points come from.
    pub clicks: Clicks,
}

impl PairData {
    /// Chooses the photos and reads which classes they have. `text` is the folder of the data's own
    /// text table (names of ImageNet).
    pub fn new(dataset: Arc<dyn Dataset>, data: &Data, vectors: &TextVectors, text: &Path) -> Result<Self, TrainError> {
        let named = text_names(dataset.as_ref(), data, text)?;
        let (mut rows, mut names, mut classes) = (vec![None; named.len()], Vec::new(), Vec::new());
        for (class, name) in named.iter().enumerate() {
            let own = &dataset.class_names()[class];
            let wanted = data.classes.is_empty() || data.classes.contains(own);
            if let (Some(name), true, true) = (name, wanted, dataset.background() != Some(class)) {
                rows[class] = Some(names.len());
                names.push(name.clone());
                classes.push(own.clone());
            }
        }
        if let Some(missing) = data.classes.iter().find(|c| !classes.contains(c)) {
            return Err(TrainError::Invalid(format!("data.classes: `{missing}` is no class of {} with a text", dataset.name())));
        }
        let mut order: Vec<usize> = (0..dataset.len()).collect();
        if data.limit > 0 || data.hold_out > 0 {
            order.shuffle(&mut ChaCha8Rng::seed_from_u64(data.limit_seed));
        }
        if data.limit > 0 {
            if data.balanced {
                order = round_the_classes(dataset.as_ref(), order, &rows, data.limit)?;
            }
            order.truncate(data.limit);
        }
        let held_out = order.split_off(order.len().saturating_sub(data.hold_out));
        let vectors = vectors.vectors(&names)?;
        let mut found = Self { dataset, photos: Vec::new(), kept: Vec::new(), held_out, rows, names, classes, vectors };
        found.read(&order)?;
        match found.photos.is_empty() {
            true => Err(TrainError::Invalid("no photo of the training data has a class that takes part".to_owned())),
            false => Ok(found),
        }
    }

    fn read(&mut self, order: &[usize]) -> Result<(), TrainError> {
        let mut bytes = 0;
        for part in order.chunks(64) {
            let samples: Vec<_> = part.par_iter().map(|&i| self.dataset.get(i).map(|s| (i, s))).collect();
            for sample in samples {
                let (index, sample) = sample?;
                let rows: Vec<usize> = sample.class_ids.iter().filter_map(|&c| self.rows[c]).collect();
                if rows.is_empty() || sample.labels.is_none() {
                    continue;
                }
                bytes += sample.image.data().len() * 4 / 3;
                self.photos.push((index, rows));
                self.kept.push((bytes <= KEPT_BYTES).then(|| Arc::new(sample)));
            }
        }
        Ok(())
    }

    /// The row of a class of the data set, none where it does not take part.
    pub fn row(&self, class: usize) -> Option<usize> {
        self.rows.get(class).copied().flatten()
    }

    /// Photos that take part.
    pub fn len(&self) -> usize {
        self.photos.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.photos.is_empty()
    }

    /// The classes of each photo that takes part, as rows.
    pub fn photo_classes(&self) -> Vec<Vec<usize>> {
        self.photos.iter().map(|(_, rows)| rows.clone()).collect()
    }

    /// Pairs in an epoch.
    pub fn pairs(&self) -> usize {
        self.photos.iter().map(|(_, rows)| rows.len()).sum()
    }

    /// Groups in an epoch: a photo with up to `per_image` of its classes each.
    pub fn groups(&self, per_image: usize) -> usize {
        self.photos.iter().map(|(_, rows)| rows.len().div_ceil(per_image)).sum()
    }

    /// The groups of an epoch in their order: (photo, rows).
    fn epoch(&self, seed: u64, epoch: usize, per_image: usize) -> Vec<(usize, Vec<usize>)> {
        let mut rng = stream(seed, 2 * epoch as u64 + 1);
        let mut groups = Vec::new();
        for (photo, (_, rows)) in self.photos.iter().enumerate() {
            let mut rows = rows.clone();
            rows.shuffle(&mut rng);
            groups.extend(rows.chunks(per_image).map(|part| (photo, part.to_vec())));
        }
        groups.shuffle(&mut rng);
        groups
    }

    /// What step `step` sees; a class that its crop has lost is left out.
    pub fn step(&self, recipe: &GuidedRecipe, config: &ClipGuidedConfig, step: usize) -> Result<Vec<Loaded>, TrainError> {
        let (data, per_epoch) = (&recipe.data, self.groups(recipe.data.classes_per_image));
        let mut epochs: Vec<(usize, Vec<(usize, Vec<usize>)>)> = Vec::new();
        let mut wanted = Vec::new();
        for position in step * data.images..(step + 1) * data.images {
            let epoch = position / per_epoch;
            if epochs.last().is_none_or(|(e, _)| *e != epoch) {
                epochs.push((epoch, self.epoch(recipe.seed, epoch, data.classes_per_image)));
            }
            if let Some((_, groups)) = epochs.last() {
                wanted.push((position, groups[position % per_epoch].clone()));
            }
        }
        let load = |(position, group): &(usize, (usize, Vec<usize>))| self.load(recipe, config, *position, group);
        let loaded = wanted.par_iter().map(load).collect::<Result<Vec<_>, _>>()?;
        Ok(loaded.into_iter().filter(|l| !l.pairs.is_empty()).collect())
    }

    fn load(
        &self,
        recipe: &GuidedRecipe,
        config: &ClipGuidedConfig,
        position: usize,
        (photo, rows): &(usize, Vec<usize>),
    ) -> Result<Loaded, TrainError> {
        let sample = match &self.kept[*photo] {
            Some(sample) => sample.clone(),
            None => Arc::new(self.dataset.get(self.photos[*photo].0)?),
        };
        let mut rng = stream(recipe.seed, 2 * position as u64 + 2);
        let (augment, side) = (&recipe.data.augment, config.sam.image_encoder.img_size);
        let size = (sample.image.width(), sample.image.height());
        let frame = Frame::draw(augment.geometry, size, side, augment.hflip, &mut rng);
        let colours: u64 = rng.random();
        let coloured = |image: Image| augment.color.apply(image, &mut ChaCha8Rng::seed_from_u64(colours));
        let sam = coloured(frame.image(&sample.image, PhotoFilter::Bilinear));
        let sam = prepare_squash(&sam, side, Filter::Bilinear, &Normalization::SAM).pixels;
        let (filter, normalization) = clip_input(&config.clip);
        let clip_side = config.clip.side();
        let photo_filter = if filter == Filter::Bicubic { PhotoFilter::Bicubic } else { PhotoFilter::Bilinear };
        let clip = coloured(scaled(&frame, clip_side).image(&sample.image, photo_filter));
        let clip = prepare_squash(&clip, clip_side, filter, &normalization).pixels;
        let low = scaled(&frame, side / 4);
        let labels = sample.labels.as_ref().map(|l| low.labels(l));
        let pairs = rows.iter().filter_map(|&row| self.pair(recipe, labels.as_ref()?, row, &mut rng)).collect();
        Ok(Loaded { sam, clip, pairs })
    }

    fn pair(&self, recipe: &GuidedRecipe, labels: &LabelMap, row: usize, rng: &mut ChaCha8Rng) -> Option<LoadedPair> {
        let target: Vec<u8> = labels
            .data
            .iter()
            .map(|&v| match v {
                IGNORE => IGNORE,
                v => u8::from(self.row(usize::from(v)) == Some(row)),
            })
            .collect();
        let objective = &recipe.objective;
        let from_truth = match objective.points {
            PointSource::Clip => false,
            PointSource::GroundTruth => true,
            PointSource::Mixed => rng.random_bool(0.5),
        };
        // without centre clicks nothing is drawn: old recipes keep their draws
        let clicks = match from_truth {
            false => Clicks::Map,
            true if objective.center_click > 0.0 && rng.random::<f32>() < objective.center_click => Clicks::Deepest,
            true => Clicks::Inside,
        };
        let count = if from_truth { objective.truth_points } else { recipe.prompts.points };
        let draws = (0..count).map(|_| rng.random()).collect();
        let inside = target.iter().filter(|v| **v == 1).count() as f32;
        let enough = inside >= (recipe.data.min_area * target.len() as f32).max(1.0);
        enough.then_some(LoadedPair { row, target, draws, clicks })
    }
}

/// At most `limit` photos of `order`: one of each class in turn, until there are enough.
fn round_the_classes(
    dataset: &dyn Dataset,
    order: Vec<usize>,
    rows: &[Option<usize>],
    limit: usize,
) -> Result<Vec<usize>, TrainError> {
    let classes = rows.iter().flatten().count();
    let mut waiting: Vec<VecDeque<usize>> = vec![VecDeque::new(); classes];
    let present: Vec<_> = order.par_iter().map(|&i| dataset.present(i)).collect();
    for (&photo, present) in order.iter().zip(present) {
        for row in present?.into_iter().filter_map(|c| rows[c]) {
            waiting[row].push_back(photo);
        }
    }
    let (mut chosen, mut taken) = (Vec::new(), BTreeSet::new());
    while chosen.len() < limit && waiting.iter().any(|w| !w.is_empty()) {
        for own in &mut waiting {
            let next = std::iter::from_fn(|| own.pop_front()).find(|photo| taken.insert(*photo));
            chosen.extend(next);
        }
    }
    chosen.truncate(limit);
    Ok(chosen)
}

/// The same crop at another side.
fn scaled(frame: &Frame, side: usize) -> Frame {
    let scale = |n: usize| (n * side / frame.side).max(1);
    Frame { out_w: scale(frame.out_w), out_h: scale(frame.out_h), side, ..*frame }
}

/// How CLIP's input is resampled and normalised.
fn clip_input(clip: &GuideConfig) -> (Filter, Normalization) {
    match clip {
        GuideConfig::Tower { .. } => (Filter::Bicubic, Normalization::CLIP),
        GuideConfig::SamClip { .. } => (Filter::Bilinear, Normalization::SAM),
    }
}

/// Name in text of every class: the recipe's, else the known data set's, else the class itself.
fn text_names(dataset: &dyn Dataset, data: &Data, text: &Path) -> Result<Vec<Option<String>>, TrainError> {
    let classes = dataset.class_names();
    let known = match data.dataset.as_str() {
        "path" => classes.iter().map(|c| Some(c.replace('_', " "))).collect(),
        _ => name_map(dataset, text)?,
    };
    let own = |(class, known): (&String, Option<String>)| {
        let given = data.names.iter().find(|n| n.class == *class);
        given.map(|n| n.text.clone()).or(known)
    };
    Ok(classes.iter().zip(known).map(own).collect())
}

/// An independent generator for each use.
fn stream(seed: u64, use_: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(use_);
    rng
}
