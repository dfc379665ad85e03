//! A training sample at its final size.

use crate::augment::{Augment, Frame, Rect};
use crate::dataset::present_classes;
use crate::{Dataset, IGNORE, Sample, objects};
use rand::Rng;
use rand::seq::index;
use samclip_image::{Image, LabelMap, Mask, Normalization};
use serde::{Deserialize, Serialize};

/// Which masks a training sample carries.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Targets {
    /// Whether connected components of the labels are added to the masks.
    pub objects: bool,
    /// Masks below this part of the square are dropped.
    pub min_fraction: f64,
    /// At most this many masks, drawn without replacement.
    pub max_masks: usize,
}

impl Default for Targets {
    fn default() -> Self {
        Self { objects: true, min_fraction: 0.002, max_masks: 64 }
    }
}

/// Segments in the frame, in random order, until there are enough that are large enough.
fn draw_segments(
    segments: &[Mask],
    frame: &Frame,
    targets: &Targets,
    rng: &mut impl Rng,
) -> Vec<(Option<usize>, Mask)> {
    let least = (targets.min_fraction * (frame.side * frame.side) as f64).max(1.0);
    let order = index::sample(rng, segments.len(), segments.len());
    let framed = order.iter().map(|i| frame.mask(&segments[i]));
    framed.filter(|m| m.area() as f64 >= least).take(targets.max_masks).map(|m| (None, m)).collect()
}

/// What lies over a part of a sample ([`crate::augment::CutMix`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pasted {
    /// Index of the other sample in the same dataset.
    pub index: usize,
    /// The crop of its photo that a whole square would show.
    pub frame: Frame,
    /// The part of the square that shows it; edges are multiples of 16 pixels.
    pub rect: Rect,
}

/// An augmented sample of S x S pixels.
#[derive(Debug, Clone)]
pub struct TrainItem {
    /// Position of the dataset in the loader's list.
    pub source: usize,
    /// Index of the sample in its dataset.
    pub index: usize,
    /// The sample's name.
    pub id: String,
    /// The photo, S x S.
    pub image: Image,
    /// The same crop at another side, for teachers, without colour changes.
    pub view: Option<Image>,
    /// Width and height of the photo inside the square; the rest is padding.
    pub content: (usize, usize),
    /// The crop of the photo that the square shows.
    pub frame: Frame,
    /// What lies over a part of it.
    pub pasted: Option<Pasted>,
    /// Labels, S x S, [`IGNORE`] in the padding.
    pub labels: Option<LabelMap>,
    /// Segments and objects, S x S each.
    pub masks: Vec<Mask>,
    /// The class of each mask, none for class-less segments.
    pub mask_classes: Vec<Option<usize>>,
    /// Classes present in the crop (for photos without labels: the photo's).
    pub class_ids: Vec<usize>,
    /// Sentences about the photo.
    pub captions: Vec<String>,
}

impl TrainItem {
    /// Augments a sample of `dataset` and picks its masks.
    pub fn new(
        dataset: &dyn Dataset,
        (source, index): (usize, usize),
        mut sample: Sample,
        augment: &Augment,
        (side, view, targets): (usize, Option<usize>, &Targets),
        rng: &mut impl Rng,
    ) -> Self {
        let segments = std::mem::take(&mut sample.masks); // few of them are wanted: the frame comes after the draw
        let source_photo = view.map(|_| sample.image.clone());
        let (sample, frame) = augment.apply(sample, side, rng);
        let view = view.zip(source_photo).map(|(side, photo)| frame.at(side).image(&photo, augment.filter));
        let content = (frame.out_w, frame.out_h);
        let Sample { id, image, labels, class_ids, captions, .. } = sample;
        let background = dataset.background();
        let mut found = draw_segments(&segments, &frame, targets, rng);
        if let Some(labels) = labels.as_ref().filter(|_| targets.objects) {
            let components = objects(labels, background, IGNORE, targets.min_fraction);
            found.extend(components.into_iter().map(|(class, mask)| (Some(class), mask)));
        }
        thin_out(&mut found, targets.max_masks, rng);
        let class_ids = labels.as_ref().map_or(class_ids, |l| present_classes(l, background));
        let (mask_classes, masks) = found.into_iter().unzip();
        let pasted = None;
        Self { source, index, id, image, view, content, frame, pasted, labels, masks, mask_classes, class_ids, captions }
    }

    /// Lays `rect` of another sample of the same dataset over this one. Masks keep what is still
    /// seen of them; those that become too small are dropped.
    pub fn paste(
        &mut self,
        other: Self,
        rect: Rect,
        background: Option<usize>,
        targets: &Targets,
        rng: &mut impl Rng,
    ) {
        let side = self.image.width();
        paste_image(&mut self.image, &other.image, rect);
        if let (Some(view), Some(other)) = (&mut self.view, &other.view) {
            let scaled = rect.at(side, view.width());
            paste_image(view, other, scaled);
        }
        if let Some(labels) = &mut self.labels {
            match &other.labels {
                Some(other) => copy_rows(&mut labels.data, &other.data, side, 1, rect),
                None => copy_rows(&mut labels.data, &vec![IGNORE; side * side], side, 1, rect),
            }
        }
        let own = self.mask_classes.drain(..).zip(self.masks.drain(..)).map(|found| (found, false));
        let all = own.chain(other.mask_classes.into_iter().zip(other.masks).map(|found| (found, true)));
        let least = (targets.min_fraction * (side * side) as f64).max(1.0);
        let nothing = vec![false; side * side];
        let mut found: Vec<(Option<usize>, Mask)> = Vec::new();
        for ((class, mut mask), inside) in all {
            if inside {
                let whole = std::mem::replace(&mut mask.data, nothing.clone());
                copy_rows(&mut mask.data, &whole, side, 1, rect);
            } else {
                copy_rows(&mut mask.data, &nothing, side, 1, rect);
            }
            if mask.area() as f64 >= least {
                found.push((class, mask));
            }
        }
        thin_out(&mut found, targets.max_masks, rng);
        (self.mask_classes, self.masks) = found.into_iter().unzip();
        match &self.labels {
            Some(labels) => self.class_ids = present_classes(labels, background),
            None => {
                self.class_ids.extend(other.class_ids);
                self.class_ids.sort_unstable();
                self.class_ids.dedup();
            }
        }
        self.pasted = Some(Pasted { index: other.index, frame: other.frame, rect });
    }

    /// Writes the normalised photo as CHW f32; the padding is zero. `out` has 3 * S * S elements.
    ///
    /// # Panics
    /// If `out` has another length.
    pub fn write_pixels(&self, normalization: &Normalization, out: &mut [f32]) {
        write_pixels(&self.image, self.content, normalization, out);
    }

    /// [`TrainItem::write_pixels`] of the second picture; the photo's where there is none.
    ///
    /// # Panics
    /// If `out` has another length.
    pub fn write_view(&self, normalization: &Normalization, out: &mut [f32]) {
        let Some(view) = &self.view else { return self.write_pixels(normalization, out) };
        let frame = self.frame.at(view.width());
        write_pixels(view, (frame.out_w, frame.out_h), normalization, out);
    }
}

/// At most `most` of the masks, drawn without replacement, in their order.
fn thin_out<T>(found: &mut Vec<T>, most: usize, rng: &mut impl Rng) {
    if found.len() > most {
        let mut keep = index::sample(rng, found.len(), most).into_vec();
        keep.sort_unstable();
        let mut i = 0..found.len();
        found.retain(|_| i.next().is_some_and(|i| keep.binary_search(&i).is_ok()));
    }
}

fn paste_image(image: &mut Image, other: &Image, rect: Rect) {
    let (w, h) = (image.width(), image.height());
    let mut data = image.data().to_vec();
    copy_rows(&mut data, other.data(), w, 3, rect);
    if let Ok(pasted) = Image::new(w, h, data) {
        *image = pasted;
    }
}

fn copy_rows<T: Copy>(to: &mut [T], from: &[T], width: usize, channels: usize, rect: Rect) {
    for y in rect.y..rect.y + rect.h {
        let row = (y * width + rect.x) * channels..(y * width + rect.x + rect.w) * channels;
        to[row.clone()].copy_from_slice(&from[row]);
    }
}

fn write_pixels(image: &Image, content: (usize, usize), normalization: &Normalization, out: &mut [f32]) {
    let (side, data) = (image.width(), image.data());
    let plane = side * side;
    assert_eq!(out.len(), 3 * plane, "3 x S x S elements");
    out.fill(0.0);
    let Normalization { mean, std, scale } = normalization;
    for (channel, out) in out.chunks_exact_mut(plane).enumerate() {
        let (mean, std) = (mean[channel], std[channel]);
        let table: [f32; 256] = std::array::from_fn(|v| (v as f32 / scale - mean) / std);
        for y in 0..content.1 {
            let line = data[y * side * 3..][..content.0 * 3].chunks_exact(3);
            for (value, pixel) in out[y * side..].iter_mut().zip(line) {
                *value = table[usize::from(pixel[channel])];
            }
        }
    }
}
