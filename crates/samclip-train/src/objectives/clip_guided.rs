//! CLIP-Guided SAM's objective: masks of (image, class) pairs from text-derived or given prompts.
//!
//! Paper: CLIP-Guided SAM (arXiv:2605.24807) §3.2-3.4; Table 9 (losses); §4.4, alignment of the
//! prompts in training and test; Table 8 (CLIP trained alone first). Parity: `tests/clip_guided.rs`,
//! 20 steps against PyTorch, loss within 1e-5.

use super::{Loss, inject, values};
use crate::losses::{BinaryLoss, BinaryWeights, binary, hard_iou};
use burn::tensor::{Device, Int, Tensor, TensorData};
use samclip_data::prompts::distance_maximum;
use samclip_image::Mask;
use samclip_models::clip_guided_sam::{ClipGuidedSam, Guidance, Look, MapPrompts, cell_centre, map_prompts};
use samclip_models::ops::{Interpolation, resize_2d};
use samclip_models::sam::{MaskOutput, PromptInput};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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

/// Where the points of one pair come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clicks {
    /// Cells where the similarity map is high.
    Map,
    /// Cells of the truth.
    Inside,
    /// The first is the truth's deepest cell, as an annotator clicks; others are cells of the truth.
    Deepest,
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
    /// Where each pair's points come from.
    pub clicks: Vec<Clicks>,
}

/// Softness of the similarity map as logits where CLIP is trained alone (ours; the paper gives none).
const MAP_TEMPERATURE: f64 = 0.05;

/// Looks, guides, decodes: the loss of a batch of pairs.
pub fn loss(model: &ClipGuidedSam, look: &Look, pairs: &Pairs, weights: BinaryWeights) -> Loss {
    let guidance = model.guide(&look.patches, &pairs.image_index, pairs.text.clone());
    let maps = map_prompts(&guidance, &model.config().prompts, model.low_res_side());
    let embeddings = model.embed(look, &pairs.image_index, &guidance); // [P, C, h, w]
    let points: Vec<Vec<[f32; 2]>> = (0..maps.len()).map(|i| pair_points(pairs, &maps[i], i)).collect();
    let mut loss = Loss::default();
    for group in by_count(&points) {
        // Padding with points of others would change the answer, so pairs of one count go together.
        let index: Vec<i64> = group.iter().map(|&i| i as i64).collect();
        let device = embeddings.device();
        let index = Tensor::<1, Int>::from_data(TensorData::new(index, [group.len()]), &device);
        let own = if group.len() == maps.len() { embeddings.clone() } else { embeddings.clone().select(0, index) };
        let prompts = prompts(&group, &points, &maps, &device);
        let logits = model.decode(own, &prompts, MaskOutput::Single).low_res_logits; // [group, 1, s, s]
        judge(logits, &group, pairs, weights, &mut loss);
    }
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
    let all: Vec<usize> = (0..p).collect();
    let mut loss = Loss::default();
    judge(resize_2d(map, [side, side], Interpolation::Bilinear), &all, pairs, weights, &mut loss);
    loss
}

/// Adds loss and gradient of the pairs of `group`: `logits` [group, 1, side, side]; means over all pairs.
fn judge(logits: Tensor<4>, group: &[usize], pairs: &Pairs, weights: BinaryWeights, loss: &mut Loss) {
    let data = values(&logits);
    let (size, scale) = (data.len() / group.len(), 1.0 / pairs.targets.len() as f32);
    let mut grad = vec![0.0; data.len()];
    let (mut sum, mut iou) = (BinaryLoss::default(), 0.0);
    for ((x, &pair), grad) in data.chunks(size).zip(group).zip(grad.chunks_mut(size)) {
        let own = binary(x, &pairs.targets[pair], weights, grad, scale);
        sum.bce += own.bce * scale;
        sum.dice += own.dice * scale;
        sum.iou += own.iou * scale;
        iou += hard_iou(x, &pairs.targets[pair]) * scale;
    }
    let terms = [("bce", sum.bce, weights.bce), ("dice", sum.dice, weights.dice), ("iou", sum.iou, weights.iou), ("iou_mask", iou, 0.0)];
    for (name, value, weight) in terms {
        match loss.terms.iter_mut().find(|t| t.name == name) {
            Some(term) => term.value += value,
            None => loss.term(name, value, weight),
        }
    }
    loss.add(inject(logits, grad));
}

/// The points of pair `i`, in model-input pixels.
fn pair_points(pairs: &Pairs, map: &MapPrompts, i: usize) -> Vec<[f32; 2]> {
    match pairs.clicks[i] {
        Clicks::Map => map.points(&pairs.draws[i]),
        clicks => truth_points(&pairs.targets[i], map.side, &pairs.draws[i], clicks == Clicks::Deepest),
    }
}

/// Pairs with the same number of points.
fn by_count(points: &[Vec<[f32; 2]>]) -> Vec<Vec<usize>> {
    let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (i, own) in points.iter().enumerate() {
        groups.entry(own.len()).or_default().push(i);
    }
    groups.into_values().collect()
}

/// Points and mask prompts of a group, all of one count.
fn prompts(group: &[usize], points: &[Vec<[f32; 2]>], maps: &[MapPrompts], device: &Device) -> PromptInput {
    let (count, n) = (group.len(), points[group[0]].len());
    let coords: Vec<f32> = group.iter().flat_map(|&i| points[i].concat()).collect();
    let masks: Option<Vec<Vec<f32>>> = group.iter().map(|&i| maps[i].mask.clone()).collect();
    let side = maps[group[0]].side;
    PromptInput {
        points: (n > 0).then(|| {
            let coords = Tensor::from_data(TensorData::new(coords, vec![count, n, 2]), device);
            (coords, Tensor::ones([count, n], device))
        }),
        boxes: None,
        mask_input: masks
            .map(|m| Tensor::from_data(TensorData::new(m.concat(), vec![count, 1, side, side]), device)),
        count,
    }
}

/// One point inside the truth per draw; the first is the truth's deepest, if it should be.
fn truth_points(target: &[u8], side: usize, draws: &[f64], deepest: bool) -> Vec<[f32; 2]> {
    let cells: Vec<usize> = (0..target.len()).filter(|&i| target[i] == 1).collect();
    let pick = |u: &f64| cells.get(((u * cells.len() as f64) as usize).min(cells.len().max(1) - 1)).copied();
    let mut points: Vec<usize> = draws.iter().filter_map(pick).collect();
    if let (true, Some(first)) = (deepest, points.first_mut()) {
        let mask = Mask { width: side, height: side, data: target.iter().map(|v| *v == 1).collect() };
        *first = distance_maximum(&mask).map_or(*first, |[x, y]| y as usize * side + x as usize);
    }
    points.into_iter().map(|cell| cell_centre(cell, side)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_cell_comes_first_where_it_is_asked_for() {
        let side = 8;
        let mut target = vec![0; side * side];
        (0..25).for_each(|i| target[(1 + i / 5) * side + 2 + i % 5] = 1); // rows 1 to 5, columns 2 to 6
        target[3 * side] = 255; // unknown
        let anywhere = truth_points(&target, side, &[0.0, 0.999], false);
        assert_eq!(anywhere, [cell_centre(side + 2, side), cell_centre(5 * side + 6, side)]);
        let deepest = truth_points(&target, side, &[0.0, 0.999], true);
        assert_eq!(deepest, [cell_centre(3 * side + 4, side), anywhere[1]]);
        assert!(truth_points(&vec![0; side * side], side, &[0.5], true).is_empty(), "nothing to click on");
    }
}
