//! The CLIP head's pooled embedding against the captions of the photos, as CLIP itself learns it, with CLIP's
//! own text tower, frozen.
//!
//! Paper: CLIP (arXiv:2103.00020) §2.3. The negatives are the other photos of the same part of the batch:
//! `shards = 1` compares all of it.

use super::{Loss, Step, inject, values};
use crate::error::TrainError;
use crate::losses;
use crate::recipe::Contrastive;
use rand::seq::IndexedRandom;

pub(super) fn loss(step: &mut Step, options: &Contrastive) -> Result<Loss, TrainError> {
    let rng = &mut step.rng;
    let told = step.batch.items.iter().enumerate();
    let told = told.filter_map(|(i, item)| Some((i, item.captions.choose(rng)?.as_str())));
    let told = told.filter(|(_, caption)| !caption.trim().is_empty());
    let (photos, captions): (Vec<usize>, Vec<&str>) = told.unzip();
    let mut loss = Loss::default();
    if photos.len() < 2 {
        return Ok(loss);
    }
    let natives = step.natives;
    let missing = || TrainError::Invalid("contrastive: no teacher".to_owned());
    let texts = natives.get(&options.teacher).ok_or_else(missing)?.encode_captions(&captions)?;
    let pooled = step.pooled(); // [B, E]
    let width = pooled.dims()[1];
    if texts.len() != photos.len() * width {
        let found = texts.len() / photos.len();
        return Err(TrainError::Invalid(format!("contrastive: expected texts of width {width} from the teacher, found {found}")));
    }
    let data = values(&pooled);
    let images: Vec<f32> = photos.iter().flat_map(|&i| &data[i * width..][..width]).copied().collect();
    let (value, part, right) = losses::contrastive(&images, &texts, width, options.logit_scale);
    let mut grad = vec![0.0; data.len()];
    for (&i, part) in photos.iter().zip(part.chunks(width)) {
        grad[i * width..][..width].iter_mut().zip(part).for_each(|(g, p)| *g = options.weight * p);
    }
    loss.term("contrastive", value, options.weight);
    loss.term("top1", right, 0.0);
    loss.add(inject(pooled, grad));
    Ok(loss)
}
