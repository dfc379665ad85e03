//! Dense alignment: the CLIP head's token vectors against the text vectors of a data
//! set's classes.
//!
//! Class probabilities of a token are the softmax over `[logit_scale * cos(name_k)...,
//! background_logit]`, as at inference (spec 8.2, a constant background channel). The
//! logits are resized before the loss, so that boundaries inside a token count.

use super::{Loss, Step, inject, values};
use crate::losses::{cross_entropy, resize_bilinear, resize_bilinear_backward};
use crate::recipe::DenseText;
use crate::vocabulary::Classes;
use burn::tensor::Tensor;
use rayon::prelude::*;
use samclip_image::LabelMap;

const IGNORE: u8 = 255;

/// Class logits of every token without background: `[B, h, w, columns]`.
pub(crate) fn class_logits(step: &Step, columns: &[usize]) -> Tensor<4> {
    let dense = step.clip().1.clone();
    let [b, h, w, e] = dense.dims();
    let logits = dense.reshape([b * h * w, e]).matmul(step.text(columns)) * step.scale.0;
    logits.reshape([b, h, w, columns.len()])
}

/// A photo that takes part: its index, its classes, its labels at the loss's size.
pub(super) struct Labelled<'a> {
    pub image: usize,
    pub classes: &'a Classes,
    /// Position in the class's contrast list; its length is background; 255 ignored.
    pub labels: Vec<u8>,
}

/// The loss of a batch.
pub(super) fn loss(step: &Step, options: &DenseText) -> Loss {
    let side = step.batch.side / 16 * options.upsample;
    let labelled: Vec<Labelled> = step
        .batch
        .items
        .iter()
        .enumerate()
        .filter_map(|(image, item)| {
            let classes = &step.setup.classes[item.source];
            let labels = item.labels.as_ref()?;
            (!classes.contrast.is_empty()).then(|| Labelled {
                image,
                classes,
                labels: local_labels(labels, classes, side),
            })
        })
        .collect();
    loss_on(step, &labelled, options.upsample, options.weight)
}

/// The loss of the given photos.
pub(super) fn loss_on(step: &Step, labelled: &[Labelled], upsample: usize, weight: f32) -> Loss {
    let mut loss = Loss::default();
    if labelled.is_empty() {
        return loss;
    }
    let mut columns: Vec<usize> = labelled.iter().flat_map(|l| l.classes.contrast.iter().copied()).collect();
    columns.sort_unstable();
    columns.dedup();
    let logits = class_logits(step, &columns); // [B, h, w, K]
    let [_, h, w, k] = logits.dims();
    let data = values(&logits);
    let (scale, background) = (weight / labelled.len() as f32, step.scale.1);
    let found: Vec<(f32, f32, Vec<f32>)> = labelled
        .par_iter()
        .map(|photo| {
            let source = &data[photo.image * h * w * k..][..h * w * k];
            one_photo(source, photo, &columns, (h, w), upsample, background, scale)
        })
        .collect();
    let mut grad = vec![0.0; data.len()];
    let (mut value, mut accuracy) = (0.0, 0.0);
    for (photo, (v, a, g)) in labelled.iter().zip(found) {
        value += v / labelled.len() as f32;
        accuracy += a / labelled.len() as f32;
        grad[photo.image * h * w * k..][..h * w * k].copy_from_slice(&g);
    }
    loss.term("cross_entropy", value, weight);
    loss.term("accuracy", accuracy, 0.0);
    loss.add(inject(logits, grad));
    loss
}

/// Value, pixel accuracy, and gradient `[h, w, columns]` of one photo.
fn one_photo(
    source: &[f32],
    photo: &Labelled,
    columns: &[usize],
    (h, w): (usize, usize),
    upsample: usize,
    background: f32,
    scale: f32,
) -> (f32, f32, Vec<f32>) {
    let at: Vec<usize> =
        photo.classes.contrast.iter().filter_map(|c| columns.binary_search(c).ok()).collect();
    let classes = at.len() + 1;
    let mut local = vec![background; h * w * classes];
    for (row, out) in source.chunks(columns.len()).zip(local.chunks_mut(classes)) {
        for (o, &column) in out.iter_mut().zip(&at) {
            *o = row[column];
        }
    }
    let size = (h * upsample, w * upsample);
    let up = resize_bilinear(&local, (h, w), classes, size);
    let (value, grad, counted) = cross_entropy(&up, classes, &photo.labels);
    let right = up.chunks(classes).zip(&photo.labels).filter(|(row, label)| {
        let best = (0..classes).fold(0, |best, i| if row[i] > row[best] { i } else { best });
        best == usize::from(**label)
    });
    let accuracy = right.count() as f32 / counted.max(1) as f32;
    let grad = resize_bilinear_backward(&grad, (h, w), classes, size);
    let mut out = vec![0.0; h * w * columns.len()];
    for (row, grad) in out.chunks_mut(columns.len()).zip(grad.chunks(classes)) {
        for (&column, &g) in at.iter().zip(grad) {
            row[column] = g * scale;
        }
    }
    (value, accuracy, out)
}

/// Labels at `side`, as positions in the contrast list.
fn local_labels(labels: &LabelMap, classes: &Classes, side: usize) -> Vec<u8> {
    let background = classes.contrast.len() as u8;
    let lookup: Vec<u8> = (0..=255usize)
        .map(|label| match classes.local(label) {
            Some(position) => position as u8,
            None if classes.background == Some(label) => background,
            None => IGNORE,
        })
        .collect();
    let mut out = Vec::with_capacity(side * side);
    for y in 0..side {
        let row = (2 * y + 1) * labels.height / (2 * side);
        for x in 0..side {
            let column = (2 * x + 1) * labels.width / (2 * side);
            out.push(lookup[usize::from(labels.data[row * labels.width + column])]);
        }
    }
    out
}
