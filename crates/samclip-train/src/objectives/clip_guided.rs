//! CLIP-Guided SAM's objective: masks of (image, class) pairs from text-derived or given prompts.
//!
//! Paper: CLIP-Guided SAM (arXiv:2605.24807) §3.2-3.4; Table 9 (losses); §4.4, alignment of the
//! prompts in training and test; Table 8 (CLIP trained alone first). Parity: `tests/clip_guided.rs`,
//! 20 steps against PyTorch, loss within 1e-5.

use super::{Loss, inject, values};
use crate::losses::{BinaryLoss, BinaryWeights, binary, hard_iou};
use burn::tensor::{Device, Tensor, TensorData};
use samclip_models::clip_guided_sam::{ClipGuidedSam, Guidance, Look, MapPrompts, cell_centre, map_prompts};
use samclip_models::ops::{Interpolation, resize_2d};
use samclip_models::sam::{MaskOutput, PromptInput};
use serde::{Deserialize, Serialize};

/// Where the points of training come from; the test takes them from the map (text only) or the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PointSource {
    /// From the similarity map: semi-automatic, as in the text-only test.
    Clip,
    /// From the truth: manual, as from a user's click.
    GroundTruth,
    /// Either, by the toss of a coin for every pair.
    Mixed,
}

/// P pairs of B images with their classes.
pub struct Pairs {
    /// The image of each pair.
    pub image_index: Vec<usize>,
    /// Unit vectors of the classes, [P, E].
    pub text: Tensor<2>,
    /// For each pair side x side values: 1 inside, 0 outside, 255 unknown.
    pub targets: Vec<Vec<u8>>,
    /// Numbers of 0..1 that choose the points of each pair.
    pub draws: Vec<Vec<f64>>,
    /// Whether a pair's points come from the truth.
    pub from_truth: Vec<bool>,
}

/// Softness of the similarity map as logits where CLIP is trained alone (ours; the paper gives none).
const MAP_TEMPERATURE: f64 = 0.05;

/// Looks, guides, decodes: the loss of a batch of pairs.
pub fn loss(model: &ClipGuidedSam, look: &Look, pairs: &Pairs, weights: BinaryWeights) -> Loss {
    let guidance = model.guide(&look.patches, &pairs.image_index, pairs.text.clone());
    let maps = map_prompts(&guidance, &model.config().prompts, model.low_res_side());
    let embeddings = model.embed(look, &pairs.image_index, &guidance);
    let prompts = prompts(pairs, &maps, &embeddings.device());
    let logits = model.decode(embeddings, &prompts, MaskOutput::Single).low_res_logits; // [P, 1, s, s]
    let mut loss = judged(logits, pairs, weights);
    let tau = model.config().prompts.tau_mask;
    let of_map = |(map, target): (&MapPrompts, &Vec<u8>)| {
        let signed: Vec<f32> = map.map.iter().map(|v| v - tau + f32::EPSILON).collect();
        hard_iou(&signed, target)
    };
    let ious: Vec<f32> = maps.iter().zip(&pairs.targets).map(of_map).collect();
    loss.term("iou_map", ious.iter().sum::<f32>() / ious.len() as f32, 0.0);
    loss
}

/// CLIP alone: the similarity map itself is the mask.
pub fn map_loss(model: &ClipGuidedSam, look: &Look, pairs: &Pairs, weights: BinaryWeights) -> Loss {
    let Guidance { similarity, grid, .. } = model.guide(&look.patches, &pairs.image_index, pairs.text.clone());
    let [p, _] = similarity.dims();
    let centred = similarity.clone() - similarity.mean_dim(1);
    let side = model.low_res_side();
    let map = (centred / MAP_TEMPERATURE).reshape([p, 1, grid[0], grid[1]]);
    judged(resize_2d(map, [side, side], Interpolation::Bilinear), pairs, weights)
}

/// Loss and gradient of `logits` [P, 1, side, side]; means over the pairs.
fn judged(logits: Tensor<4>, pairs: &Pairs, weights: BinaryWeights) -> Loss {
    let data = values(&logits);
    let count = pairs.targets.len();
    let (size, scale) = (data.len() / count, 1.0 / count as f32);
    let mut grad = vec![0.0; data.len()];
    let (mut sum, mut iou) = (BinaryLoss::default(), 0.0);
    for ((x, target), grad) in data.chunks(size).zip(&pairs.targets).zip(grad.chunks_mut(size)) {
        let own = binary(x, target, weights, grad, scale);
        sum.bce += own.bce * scale;
        sum.dice += own.dice * scale;
        sum.iou += own.iou * scale;
        iou += hard_iou(x, target) * scale;
    }
    let mut loss = Loss::default();
    loss.term("bce", sum.bce, weights.bce);
    loss.term("dice", sum.dice, weights.dice);
    loss.term("iou", sum.iou, weights.iou);
    loss.term("iou_mask", iou, 0.0);
    loss.add(inject(logits, grad));
    loss
}

/// Points and mask prompts; a pair with fewer points than others is padded.
fn prompts(pairs: &Pairs, maps: &[MapPrompts], device: &Device) -> PromptInput {
    let count = maps.len();
    let points: Vec<Vec<[f32; 2]>> = (0..count)
        .map(|i| match pairs.from_truth[i] {
            true => truth_points(&pairs.targets[i], maps[i].side, &pairs.draws[i]),
            false => maps[i].points(&pairs.draws[i]),
        })
        .collect();
    let most = points.iter().map(Vec::len).max().unwrap_or(0);
    let (mut coords, mut labels) = (Vec::new(), Vec::new());
    for own in &points {
        for i in 0..most {
            let point = own.get(i);
            coords.extend(point.copied().unwrap_or([0.0; 2]));
            labels.push(if point.is_some() { 1.0 } else { -1.0 });
        }
    }
    let tensor = |values: Vec<f32>, shape: Vec<usize>| TensorData::new(values, shape);
    let masks: Option<Vec<f32>> = maps.iter().map(|m| m.mask.clone()).collect::<Option<Vec<_>>>().map(|m| m.concat());
    let side = maps.first().map_or(0, |m| m.side);
    PromptInput {
        points: (most > 0).then(|| {
            let coords = Tensor::from_data(tensor(coords, vec![count, most, 2]), device);
            (coords, Tensor::from_data(tensor(labels, vec![count, most]), device))
        }),
        boxes: None,
        mask_input: masks.map(|m| Tensor::from_data(tensor(m, vec![count, 1, side, side]), device)),
        count,
    }
}

/// One point inside the truth per draw.
fn truth_points(target: &[u8], side: usize, draws: &[f64]) -> Vec<[f32; 2]> {
    let cells: Vec<usize> = (0..target.len()).filter(|&i| target[i] == 1).collect();
    let pick = |u: &f64| cells.get(((u * cells.len() as f64) as usize).min(cells.len().max(1) - 1));
    draws.iter().filter_map(pick).map(|&cell| cell_centre(cell, side)).collect()
}
