//! Image alignment: the CLIP head's pooled vector against the text vectors of the
//! classes in the photo, and against a teacher's mixture of text vectors.
//!
//! The mixture is ConSE (arXiv:1312.5650): the normalised sum of the class vectors,
//! weighted by the classifier's probabilities; the distance is SAM-CLIP's eq. 1.

use super::{Loss, Step, Wanted, inject, values};
use crate::error::TrainError;
use crate::losses::{cosine, sigmoid_cross_entropy, soft_cross_entropy};
use crate::recipe::{MultiLabel, PooledText};

pub(super) const OUTPUT: &str = "logits";

pub(super) fn loss(step: &Step, options: &PooledText) -> Result<Loss, TrainError> {
    let mut loss = Loss::default();
    if options.weight > 0.0 {
        labels(step, options, &mut loss);
    }
    if options.conse_weight > 0.0 {
        conse(step, options, &mut loss)?;
    }
    Ok(loss)
}

fn labels(step: &Step, options: &PooledText, loss: &mut Loss) {
    let photos: Vec<(usize, Vec<usize>)> = step
        .batch
        .items
        .iter()
        .enumerate()
        .filter_map(|(image, item)| {
            let classes = &step.setup.classes[item.source];
            let mut present: Vec<usize> = item.class_ids.iter().filter_map(|&c| classes.local(c)).collect();
            present.sort_unstable();
            present.dedup();
            (!present.is_empty()).then_some((image, present))
        })
        .collect();
    if photos.is_empty() {
        return;
    }
    let sources = photos.iter().map(|(image, _)| step.batch.items[*image].source);
    let mut columns: Vec<usize> =
        sources.flat_map(|s| step.setup.classes[s].contrast.iter().copied()).collect();
    columns.sort_unstable();
    columns.dedup();
    let logits = step.clip().0.clone().matmul(step.text(&columns)) * step.scale.0; // [B, K]
    let k = columns.len();
    let data = values(&logits);
    let mut grad = vec![0.0; data.len()];
    let (mut value, mut right) = (0.0, 0.0);
    let count = photos.len() as f32;
    for (image, present) in &photos {
        let contrast = &step.setup.classes[step.batch.items[*image].source].contrast;
        let at: Vec<usize> = contrast.iter().filter_map(|c| columns.binary_search(c).ok()).collect();
        let row: Vec<f32> = at.iter().map(|&c| data[image * k + c]).collect();
        let best = (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best });
        right += f32::from(u8::from(present.contains(&best))) / count;
        let mut local = vec![0.0; row.len()];
        value += one_photo(&row, present, step.scale.1, options.multi_label, &mut local) / count;
        for (&column, g) in at.iter().zip(local) {
            grad[image * k + column] = g * options.weight / count;
        }
    }
    loss.term("labels", value, options.weight);
    loss.term("top1", right, 0.0);
    loss.add(inject(logits, grad));
}

fn one_photo(row: &[f32], present: &[usize], background: f32, kind: MultiLabel, grad: &mut [f32]) -> f32 {
    let mut target = vec![0.0; row.len()];
    match kind {
        MultiLabel::Softmax => {
            for &p in present {
                target[p] = 1.0 / present.len() as f32;
            }
            soft_cross_entropy(row, &target, grad)
        }
        MultiLabel::Sigmoid => {
            for &p in present {
                target[p] = 1.0;
            }
            let shifted: Vec<f32> = row.iter().map(|x| x - background).collect();
            sigmoid_cross_entropy(&shifted, &target, grad)
        }
    }
}

fn conse(step: &Step, options: &PooledText, loss: &mut Loss) -> Result<(), TrainError> {
    let key = Wanted::new(&options.teacher, options.photo_side, OUTPUT);
    let (Some(output), Some((vectors, known))) = (step.teachers.get(&key), &step.setup.imagenet) else {
        return Err(TrainError::Invalid("pooled_text: the teacher gave no `logits`".to_owned()));
    };
    let dim = step.vocabulary.dim;
    let classes = output.shape.last().copied().unwrap_or(0);
    if classes != known.len() {
        return Err(TrainError::Invalid(format!(
            "pooled_text: teacher has {classes} classes, the map {}",
            known.len()
        )));
    }
    let mut target = Vec::with_capacity(step.batch.items.len() * dim);
    for row in output.values.chunks(classes) {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sum = vec![0.0f32; dim];
        for (i, &x) in row.iter().enumerate().filter(|(i, _)| known[*i]) {
            let p = (x - max).exp();
            if p > 1e-4 {
                sum.iter_mut().zip(&vectors[i * dim..][..dim]).for_each(|(s, v)| *s += p * v);
            }
        }
        target.extend(sum);
    }
    let pooled = step.clip().0.clone();
    let (value, mut grad) = cosine(&values(&pooled), &target, dim);
    grad.iter_mut().for_each(|g| *g *= options.conse_weight);
    loss.term("conse", value, options.conse_weight);
    loss.add(inject(pooled, grad));
    Ok(())
}
