//! The mask head towards a promptable teacher, prompt by prompt: what keeps SAM alive while the
//! backbone learns something else.
//!
//! Paper: SAM-CLIP (arXiv:2310.15308) eq. 2: focal 20 : dice 1 between the low-resolution masks of
//! student and teacher for the same prompts (spec 5.2 says what the paper leaves open).
//! Deviation: a recipe fixes how many prompts of an image are clicks and how many are boxes,
//! instead of a coin per mask: the same in the mean with less noise.
//! Parity: `tests/parity_steps.rs`, twenty steps of PyTorch.

use super::mask_supervision::{Pick, Prompted, objects, prompt_input};
use super::{Loss, Step, inject, values};
use crate::error::TrainError;
use crate::losses::{MaskWeights, cosine, mask_loss, sigmoid, smooth_l1};
use crate::native::SamParts;
use crate::recipe::{DistillOutputs, DistillTargets, SamDistill};
use burn::tensor::{Device, Tensor};
use rayon::prelude::*;
use samclip_models::sam::MaskOutput;

pub(super) fn loss(step: &mut Step, options: &SamDistill) -> Result<Loss, TrainError> {
    let missing = || TrainError::Invalid("sam_distill: no teacher".to_owned());
    let natives = step.natives;
    let teacher = natives.get(&options.teacher).and_then(|t| t.sam()).ok_or_else(missing)?;
    let pick = Pick {
        center_click: options.center_click,
        area: options.min_area..=options.max_area,
    };
    let groups =
        [objects(step, &pick, options.point_prompts, true), objects(step, &pick, options.box_prompts, false)];
    let count: usize = groups.iter().map(Vec::len).sum();
    let mut loss = Loss::default();
    if count == 0 {
        return Ok(loss);
    }
    let embedding = step.model.sam_embedding(step.tokens.clone()); // [B, C, h, w]
    let device = Device::flex(); // without autodiff: the teacher is frozen
    let pixels = Tensor::from_data(step.pixels.to_data(), &device);
    let target = teacher.image_encoder.forward(pixels); // [B, C, h, w]
    neck(options, &embedding, &target, &mut loss)?;
    let mut sums = [0.0f32; 4];
    for group in groups.iter().filter(|g| !g.is_empty()) {
        let parts = one_group(step, options, (&embedding, &target), (&teacher, &device), group, count, &mut loss)?;
        sums.iter_mut().zip(parts).for_each(|(sum, part)| *sum += part / count as f32);
    }
    loss.term("focal", sums[0], options.weight * options.focal);
    loss.term("dice", sums[1], options.weight * options.dice);
    if options.iou > 0.0 {
        loss.term("iou_head", sums[2], options.weight * options.iou);
    }
    loss.term("iou_teacher", sums[3], 0.0);
    Ok(loss)
}

/// Sums over the prompts of focal, dice, square error of the IoUs, and the masks' IoU with the
/// teacher's; the gradients join the graph.
fn one_group(
    step: &Step,
    options: &SamDistill,
    (embedding, target): (&Tensor<4>, &Tensor<4>),
    (teacher, device): (&SamParts, &Device),
    group: &[Prompted],
    count: usize,
    loss: &mut Loss,
) -> Result<[f32; 4], TrainError> {
    let index: Vec<usize> = group.iter().map(|p| p.image).collect();
    let output = match options.outputs {
        DistillOutputs::All => MaskOutput::All,
        DistillOutputs::Single => MaskOutput::Single,
        DistillOutputs::Multi => MaskOutput::Multi,
    };
    let side = step.batch.side;
    let answer = step.model.decode(embedding.clone(), &index, &prompt_input(side, group, step.device), output);
    let wanted = teacher.decode(target.clone(), &index, &prompt_input(side, group, device), output);
    let [p, m, h, w] = answer.low_res_logits.dims();
    if wanted.low_res_logits.dims() != [p, m, h, w] {
        let found = wanted.low_res_logits.dims();
        return Err(TrainError::Invalid(format!("sam_distill: masks {:?}, the teacher's {found:?}", [p, m, h, w])));
    }
    let (logits, teacher_logits) = (values(&answer.low_res_logits), values(&wanted.low_res_logits));
    let unit = 1.0 / (count * m) as f32;
    let weights = MaskWeights { focal: options.focal, dice: options.dice, ..MaskWeights::SAM };
    let mut grad = vec![0.0; logits.len()];
    let found: Vec<(f32, f32, f32)> = (logits.par_chunks(h * w), teacher_logits.par_chunks(h * w))
        .into_par_iter()
        .zip(grad.par_chunks_mut(h * w))
        .map(|((x, z), grad)| {
            let y: Vec<f32> = z.iter().map(|&z| label(z, options.targets)).collect();
            let found = mask_loss(x, &y, weights, Some(grad), options.weight * unit);
            (found.focal, found.dice, crate::losses::mask_iou(x, &y))
        })
        .collect();
    loss.add(inject(answer.low_res_logits, grad));
    let (ious, teacher_ious) = (values(&answer.predicted_iou), values(&wanted.predicted_iou));
    let errors: Vec<f32> = ious.iter().zip(&teacher_ious).map(|(a, b)| a - b).collect();
    if options.iou > 0.0 {
        let scale = 2.0 * options.iou * options.weight * unit;
        loss.add(inject(answer.predicted_iou, errors.iter().map(|e| e * scale).collect()));
    }
    let mean = |values: &mut dyn Iterator<Item = f32>| values.sum::<f32>() / m as f32;
    Ok([
        mean(&mut found.iter().map(|f| f.0)),
        mean(&mut found.iter().map(|f| f.1)),
        mean(&mut errors.iter().map(|e| e * e)),
        mean(&mut found.iter().map(|f| f.2)),
    ])
}

fn label(z: f32, targets: DistillTargets) -> f32 {
    match targets {
        DistillTargets::Soft => sigmoid(z),
        DistillTargets::Hard => f32::from(u8::from(z > 0.0)),
    }
}

/// The image embeddings' distance per position, as AM-RADIO weighs features (arXiv:2312.06709).
fn neck(
    options: &SamDistill,
    embedding: &Tensor<4>,
    target: &Tensor<4>,
    loss: &mut Loss,
) -> Result<(), TrainError> {
    if options.neck <= 0.0 {
        return Ok(());
    }
    let [b, c, h, w] = embedding.dims();
    if target.dims() != [b, c, h, w] {
        let found = target.dims();
        return Err(TrainError::Invalid(format!("sam_distill: embedding {:?}, the teacher's {found:?}", [b, c, h, w])));
    }
    let rows = |t: Tensor<4>| t.permute([0, 2, 3, 1]).reshape([b * h * w, c]); // [B·h·w, C]
    let (student, target) = (rows(embedding.clone()), values(&rows(target.clone())));
    let data = values(&student);
    let (cos, mut grad) = cosine(&data, &target, c);
    let (l1, part) = smooth_l1(&data, &target);
    let weight = options.weight * options.neck;
    grad.iter_mut().zip(part).for_each(|(g, p)| *g = weight * (0.9 * *g + 0.1 * p));
    loss.term("neck", 0.9 * cos + 0.1 * l1, weight);
    loss.add(inject(student, grad));
    Ok(())
}
