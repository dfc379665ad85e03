//! A segmentation teacher's classes as dense labels of photos that have none.
//!
//! The teacher is DeepLab v3 with VOC's 21 classes; its input side is 16k + 1, so the
//! crop gets one grey row and column, and its logits are read with aligned corners
//! (data/README.md, "teachers").

use super::dense_text::{Labelled, loss_on};
use super::{Loss, Step, Wanted};
use crate::error::TrainError;
use crate::recipe::SegDistill;
use crate::teacher::{INPUT, Output, Teacher};
use crate::vocabulary::Classes;
use samclip_data::loader::Batch;
use std::path::Path;

pub(crate) const OUTPUT: &str = "logits";
const IGNORE: u8 = 255;
const CLASSES: usize = 21;

/// Whether a teacher file is the segmenter (both kinds call their output `logits`).
pub(crate) fn is_segmenter(path: &Path) -> bool {
    path.to_string_lossy().contains("deeplab")
}

/// Runs the teacher on a batch with the extra row and column.
pub(crate) fn run(teacher: &Teacher, batch: &Batch) -> Result<Vec<Output>, TrainError> {
    let (n, side) = (batch.items.len(), batch.side);
    let pixels = batch.pixels(&INPUT);
    let larger = side + 1;
    let mut padded = vec![0.0; n * 3 * larger * larger];
    for (plane, out) in pixels.chunks(side * side).zip(padded.chunks_mut(larger * larger)) {
        for (line, out) in plane.chunks(side).zip(out.chunks_mut(larger)) {
            out[..side].copy_from_slice(line);
        }
    }
    teacher.run(padded, [n, 3, larger, larger], &[OUTPUT])
}

pub(super) fn loss(step: &Step, options: &SegDistill) -> Result<Loss, TrainError> {
    let key = Wanted::new(&options.teacher, None, OUTPUT);
    let (Some(output), Some(voc)) = (step.teachers.get(&key), &step.setup.voc) else {
        return Err(TrainError::Invalid("seg_distill: the teacher gave no `logits`".to_owned()));
    };
    let &[_, CLASSES, th, tw] = output.shape.as_slice() else {
        return Err(TrainError::Invalid(format!(
            "seg_distill: expected {CLASSES} classes, found {:?}",
            output.shape
        )));
    };
    let side = step.batch.side / 16 * options.upsample;
    let unlabelled = step.batch.items.iter().enumerate().filter(|(_, item)| item.labels.is_none());
    let labelled: Vec<Labelled> = unlabelled
        .map(|(image, _)| Labelled {
            image,
            classes: voc,
            labels: pseudo_labels(&output.values[image * CLASSES * th * tw..], (th, tw), voc, side, options),
        })
        .collect();
    Ok(loss_on(step, &labelled, options.upsample, options.weight))
}

/// Labels at `side` from logits `[21, th, tw]`; pixels that the teacher is unsure of are ignored.
fn pseudo_labels(
    logits: &[f32],
    (th, tw): (usize, usize),
    voc: &Classes,
    side: usize,
    options: &SegDistill,
) -> Vec<u8> {
    let background = voc.contrast.len() as u8;
    let at = |o: usize, n: usize| {
        let position = ((o as f32 + 0.5) / options.upsample as f32 - 0.5 / 16.0).clamp(0.0, (n - 1) as f32);
        (position as usize, (position as usize + 1).min(n - 1), position.fract())
    };
    let mut out = Vec::with_capacity(side * side);
    for y in 0..side {
        let (y0, y1, fy) = at(y, th);
        for x in 0..side {
            let (x0, x1, fx) = at(x, tw);
            let read = |c: usize| {
                let plane = &logits[c * th * tw..][..th * tw];
                let row = |y: usize| plane[y * tw + x0] * (1.0 - fx) + plane[y * tw + x1] * fx;
                row(y0) * (1.0 - fy) + row(y1) * fy
            };
            let scores: [f32; CLASSES] = std::array::from_fn(read);
            let best = (0..CLASSES).fold(0, |best, i| if scores[i] > scores[best] { i } else { best });
            let sum: f32 = scores.iter().map(|s| (s - scores[best]).exp()).sum();
            out.push(match (1.0 / sum >= options.min_probability, voc.local(best)) {
                (false, _) => IGNORE,
                (true, Some(position)) => position as u8,
                (true, None) => background,
            });
        }
    }
    out
}
