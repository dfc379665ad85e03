//! The CLIP head's pooled embedding towards a teacher's image embedding.
//!
//! Paper: SAM-CLIP (arXiv:2310.15308) eq. 1: one minus the cosine, mean over the images. Affinity mimicking, a switch of ours:
//! after TinyCLIP (arXiv:2309.12314).
//! Parity: `tests/parity_steps.rs`, twenty steps of PyTorch; affinity: `tests/losses.rs`, `tests/training.rs`.

use super::{Loss, Step, Wanted, inject, values};
use crate::error::TrainError;
use crate::losses::{affinity, cosine};
use crate::recipe::ClipDistill;
use samclip_models::sam_clip::unit;

pub(super) fn loss(step: &Step, options: &ClipDistill) -> Result<Loss, TrainError> {
    let key = Wanted::new(&options.teacher, options.photo_side, &options.output);
    let missing = || TrainError::Invalid(format!("clip_distill: the teacher gave no `{}`", options.output));
    let output = step.teachers.get(&key).ok_or_else(missing)?;
    let pooled = step.pooled(); // [B, E]
    let [b, e] = pooled.dims();
    if output.shape != [b, e] {
        return Err(TrainError::Invalid(format!(
            "clip_distill: expected `{}` of shape {:?} from the teacher, found {:?}",
            options.output,
            [b, e],
            output.shape
        )));
    }
    let (value, mut grad) = cosine(&values(&pooled), &output.values, e);
    grad.iter_mut().for_each(|g| *g *= options.weight);
    let mut loss = Loss::default();
    loss.term("cosine", value, options.weight);
    loss.add(inject(pooled.clone(), grad));
    if options.affinity > 0.0 {
        let columns: Vec<usize> = (0..step.vocabulary.names.len()).collect();
        let texts = step.text(&columns) * step.scale.0; // [E, K]
        let teacher = unit(step.constant(output.values.clone(), [b, e])).matmul(texts.clone()); // [B, K]
        let logits = pooled.matmul(texts); // [B, K]
        let (value, mut grad) = affinity(&values(&logits), &values(&teacher), columns.len());
        grad.iter_mut().for_each(|g| *g *= options.affinity);
        loss.term("affinity", value, options.affinity);
        loss.add(inject(logits, grad));
    }
    Ok(loss)
}
