//! A teacher's feature map, predicted from the tokens by a linear layer that exists in
//! training only (`aux.<head>.*`), shared by all tasks that name it.
//!
//! Shape as in AM-RADIO (arXiv:2312.06709): cosine plus smooth L1 per position; the
//! teacher's channels are centred over the batch for the cosine.

use super::{Loss, Step, TaskSetup, Wanted, inject, values};
use crate::error::TrainError;
use crate::losses::{centred_cosine, smooth_l1, standardize};
use crate::parameters::Parameters;
use crate::recipe::{FeatureDistill, Recipe};
use crate::feed::Teachers;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use burn::tensor::Tensor;
use samclip_models::ops;

fn aux_name(options: &FeatureDistill, part: &str) -> String {
    format!("{}.{part}", options.head())
}

/// Adds the linear layer; the teacher's width is found by running it on one grey square.
pub(super) fn add_aux(
    parameters: &mut Parameters,
    recipe: &Recipe,
    setup: &TaskSetup,
    options: &FeatureDistill,
    width: usize,
    teachers: &Teachers,
) -> Result<(), TrainError> {
    if parameters.has_aux(&aux_name(options, "weight")) {
        return Ok(());
    }
    let key = Wanted::new(&options.teacher, options.photo_side, &options.output);
    let teacher = teachers.get(&key);
    let teacher = teacher.ok_or_else(|| TrainError::Invalid("feature_distill: no teacher".to_owned()))?;
    let grey = vec![0.0; 3 * 32 * 32];
    let found = teacher.run(grey, [1, 3, 32, 32], &[options.output.as_str()])?;
    let channels = found.first().and_then(|o| o.shape.get(1)).copied().unwrap_or(0);
    let mut rng = ChaCha8Rng::seed_from_u64(setup.seed);
    let bound = 1.0 / (width as f32).sqrt();
    let weight = (0..channels * width).map(|_| rng.random_range(-bound..bound)).collect();
    let optimizer = &recipe.optimizer;
    parameters.add_aux(&aux_name(options, "weight"), vec![channels, width], weight, optimizer);
    parameters.add_aux(&aux_name(options, "bias"), vec![channels], vec![0.0; channels], optimizer);
    Ok(())
}

pub(super) fn loss(step: &mut Step, options: &FeatureDistill) -> Result<Loss, TrainError> {
    let names = ["weight", "bias"].map(|part| aux_name(options, part));
    let key = Wanted::new(&options.teacher, options.photo_side, &options.output);
    let missing = || TrainError::Invalid(format!("feature_distill: no output `{}`", options.output));
    let output = step.teachers.get(&key).ok_or_else(missing)?;
    let &[b, channels, th, tw] = output.shape.as_slice() else { return Err(missing()) };
    let weight = step.parameters.aux_leaf::<2>(&names[0], step.device).ok_or_else(missing)?;
    let bias = step.parameters.aux_leaf::<1>(&names[1], step.device).ok_or_else(missing)?;
    let [_, h, w, d] = step.tokens.dims();
    let tokens = match (h, w) == (th, tw) {
        true => step.tokens.clone().reshape([b * h * w, d]),
        false if (h, w) == (2 * th, 2 * tw) => mean_of_four(step.tokens.clone()),
        false => {
            let message = format!("feature_distill: {h} x {w} tokens, teacher {th} x {tw}");
            return Err(TrainError::Invalid(message));
        }
    };
    let predicted = ops::linear(tokens, weight.clone(), Some(bias.clone())); // [B·h·w, C]
    let target = channels_last(&output.values, channels, th * tw);
    let seen = seen(step, th);
    let student = pick(&values(&predicted), &seen, channels);
    let mut target = pick(&target, &seen, channels);
    if options.standardize {
        standardize(&mut target, channels);
    }
    let (cosine, mut grad) = centred_cosine(&student, &target, channels);
    grad.iter_mut().for_each(|g| *g *= options.weight);
    let mut loss = Loss::default();
    loss.term("cosine", cosine, options.weight);
    if options.smooth_l1 > 0.0 {
        let weight = options.weight * options.smooth_l1;
        let (value, part) = smooth_l1(&student, &target);
        grad.iter_mut().zip(part).for_each(|(g, p)| *g += weight * p);
        loss.term("smooth_l1", value, weight);
    }
    let mut whole = vec![0.0; seen.len() * channels];
    let rows = whole.chunks_mut(channels).zip(&seen).filter(|(_, seen)| **seen).map(|(row, _)| row);
    rows.zip(grad.chunks(channels)).for_each(|(row, grad)| row.copy_from_slice(grad));
    loss.add(inject(predicted, whole));
    let [weight_name, bias_name] = names;
    step.leaves.matrices.push((weight_name, weight));
    step.leaves.vectors.push((bias_name, bias));
    Ok(loss)
}

/// Means over 2 x 2 tokens: [B, 2h, 2w, D] -> [B·h·w, D].
fn mean_of_four(tokens: Tensor<4>) -> Tensor<2> {
    let [b, h, w, d] = tokens.dims();
    let (h, w) = (h / 2, w / 2);
    let tokens = tokens.reshape([b * h, 2, w, 2 * d]).sum_dim(1); // [B·h, 1, w, 2·D]
    let tokens = tokens.reshape([b * h * w, 2, d]).sum_dim(1); //    [B·h·w, 1, D]
    tokens.reshape([b * h * w, d]) * 0.25
}

/// Which positions of a grid have their centre on the photo and not on padding, for the batch.
fn seen(step: &Step, grid: usize) -> Vec<bool> {
    let cell = step.batch.side as f32 / grid as f32;
    let center = |i: usize| (i as f32 + 0.5) * cell;
    let items = step.batch.items.iter();
    items
        .flat_map(|item| {
            let (width, height) = (item.content.0 as f32, item.content.1 as f32);
            (0..grid * grid).map(move |i| center(i % grid) < width && center(i / grid) < height)
        })
        .collect()
}

/// The rows that are marked.
fn pick(rows: &[f32], marked: &[bool], width: usize) -> Vec<f32> {
    rows.chunks(width).zip(marked).filter(|(_, marked)| **marked).flat_map(|(row, _)| row).copied().collect()
}

/// `[B, C, positions]` to `[B, positions, C]`.
fn channels_last(values: &[f32], channels: usize, positions: usize) -> Vec<f32> {
    let mut out = vec![0.0; values.len()];
    let images = values.chunks(channels * positions).zip(out.chunks_mut(channels * positions));
    for (image, out) in images {
        for (c, line) in image.chunks(positions).enumerate() {
            for (p, &value) in line.iter().enumerate() {
                out[p * channels + c] = value;
            }
        }
    }
    out
}
