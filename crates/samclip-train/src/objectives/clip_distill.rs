//! The CLIP head's pooled embedding towards a teacher's image embedding.
//!
//! Paper: SAM-CLIP (arXiv:2310.15308) eq. 1: one minus the cosine, mean over the images.
//! Parity: `tests/parity_steps.rs`, twenty steps of PyTorch.

use super::{Loss, Step, Wanted, inject, values};
use crate::error::TrainError;
use crate::losses::cosine;
use crate::recipe::ClipDistill;

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
    loss.add(inject(pooled, grad));
    Ok(loss)
}
