//! Promptable masks by simulated interaction.
//!
//! Paper: SAM (arXiv:2304.02643) App. A "Training algorithm"; spec 2.9. A first click
//! is ambiguous: outputs 1 to 3 answer and the best one learns. A box, or further
//! clicks with the last logits as mask prompt, are not: output 0 answers.
//! Deviation: the paper flips a coin per mask between click and box; here a recipe
//! fixes how many of each, which is the same in the mean with less noise.
//! Deviation: a third kind starts from the CLIP head's own map of a class, as the
//! composition of both heads prompts the decoder at inference (spec 5.6).

use super::{Loss, Step, class_logits, constant, inject, values};
use crate::losses::{MaskWeights, mask_iou, mask_loss, resize_bilinear};
use crate::recipe::MaskSupervision;
use burn::tensor::{Device, Tensor};
use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use rayon::prelude::*;
use samclip_data::TrainItem;
use samclip_data::prompts::{BoxNoise, distance_maximum, error_point, noisy_box, random_point};
use samclip_image::Mask;
use samclip_models::sam::{MaskOutput, PromptInput};
use std::ops::RangeInclusive;

/// Logits that prompt the next round stay within this range, as in SAM 2's training code.
const MASK_PROMPT_LIMIT: f32 = 32.0;
/// Range of the mask prompt that comes from class probabilities (spec 5.6).
const TEXT_PROMPT_LIMIT: f32 = 8.0;
/// Points beside a text prompt.
const TEXT_POINTS: usize = 3;

/// Which masks of a photo may give a prompt, and where the click goes.
pub(super) struct Pick {
    /// Share of clicks at the centre of the mask instead of anywhere in it.
    pub center_click: f32,
    /// Shares of the image that a mask may cover.
    pub area: RangeInclusive<f32>,
}

/// One mask under training: its image, its targets, and its prompts so far.
pub(super) struct Prompted {
    pub image: usize,
    /// At the input's size, for clicks.
    low: Mask,
    /// Coverage of each low-resolution pixel, 0 to 1.
    target: Vec<f32>,
    points: Vec<([f32; 2], f32)>,
    bbox: Option<[f32; 4]>,
    mask_input: Option<Vec<f32>>,
}

/// Sums over prompts and rounds.
#[derive(Default)]
struct Totals {
    focal: f32,
    dice: f32,
    iou_error: f32,
    /// IoU of the first answer, per kind: sum and count.
    first_iou: [(f32, f32); 3],
}

const KINDS: [&str; 3] = ["iou_point", "iou_box", "iou_text"];

pub(super) fn loss(step: &mut Step, options: &MaskSupervision) -> Loss {
    let pick = Pick { center_click: options.center_click, area: options.min_area..=options.max_area };
    let groups = [
        objects(step, &pick, options.point_prompts, true),
        objects(step, &pick, options.box_prompts, false),
        classes(step, options),
    ];
    let count: usize = groups.iter().map(Vec::len).sum();
    let mut loss = Loss::default();
    if count == 0 {
        return loss;
    }
    let embedding = step.model.sam_embedding(step.tokens.clone()); // [B, C, h, w]
    let scale = options.weight / (count * options.rounds.max(1)) as f32;
    let mut totals = Totals::default();
    for (kind, mut group) in groups.into_iter().enumerate() {
        if !group.is_empty() {
            interact(step, options, &embedding, &mut group, (kind, scale), &mut totals, &mut loss);
        }
    }
    let unit = 1.0 / (count * options.rounds.max(1)) as f32;
    loss.term("focal", totals.focal * unit, options.weight * options.focal);
    loss.term("dice", totals.dice * unit, options.weight * options.dice);
    loss.term("iou_head", totals.iou_error * unit, options.weight * options.iou);
    for (name, (sum, n)) in KINDS.into_iter().zip(totals.first_iou) {
        if n > 0.0 {
            loss.term(name, sum / n, 0.0);
        }
    }
    loss
}

/// All rounds of one group of prompts.
fn interact(
    step: &mut Step,
    options: &MaskSupervision,
    embedding: &Tensor<4>,
    group: &mut [Prompted],
    (kind, scale): (usize, f32),
    totals: &mut Totals,
    loss: &mut Loss,
) {
    let index: Vec<usize> = group.iter().map(|p| p.image).collect();
    for round in 0..options.rounds.max(1) {
        let output = if round == 0 && kind == 0 { MaskOutput::Multi } else { MaskOutput::Single };
        let prompts = prompt_input(step.batch.side, group, step.device);
        let answer = step.model.decode(embedding.clone(), &index, &prompts, output);
        let [p, m, h, w] = answer.low_res_logits.dims();
        let logits = values(&answer.low_res_logits);
        let predicted = values(&answer.predicted_iou);
        let judged: Vec<Judged> = group
            .par_iter()
            .enumerate()
            .map(|(i, prompted)| {
                let masks = &logits[i * m * h * w..][..m * h * w];
                judge(masks, &predicted[i * m..][..m], &prompted.target, options, scale)
            })
            .collect();
        let mut grad = Vec::with_capacity(p * m * h * w);
        let mut iou_grad = Vec::with_capacity(p * m);
        for judged in &judged {
            grad.extend_from_slice(&judged.grad);
            iou_grad.extend_from_slice(&judged.iou_grad);
            totals.focal += judged.focal;
            totals.dice += judged.dice;
            totals.iou_error += judged.iou_error;
            if round == 0 {
                totals.first_iou[kind].0 += judged.chosen_iou;
                totals.first_iou[kind].1 += 1.0;
            }
        }
        loss.add(inject(answer.low_res_logits, grad));
        loss.add(inject(answer.predicted_iou, iou_grad));
        if round + 1 < options.rounds {
            for (i, (prompted, judged)) in group.iter_mut().zip(&judged).enumerate() {
                let chosen = &logits[(i * m + judged.chosen) * h * w..][..h * w];
                next_prompt(prompted, chosen, (h, w), &mut step.rng);
            }
        }
    }
}

/// What the losses say about the masks of one prompt.
struct Judged {
    grad: Vec<f32>,
    iou_grad: Vec<f32>,
    focal: f32,
    dice: f32,
    iou_error: f32,
    /// The mask that the model itself would choose, and its IoU.
    chosen: usize,
    chosen_iou: f32,
}

fn judge(masks: &[f32], predicted: &[f32], target: &[f32], options: &MaskSupervision, scale: f32) -> Judged {
    let weights = MaskWeights { focal: options.focal, dice: options.dice, ..MaskWeights::SAM };
    let size = target.len();
    let losses: Vec<_> = masks.chunks(size).map(|x| mask_loss(x, target, weights, None, 0.0)).collect();
    let best = (0..losses.len()).fold(0, |b, i| if losses[i].total < losses[b].total { i } else { b });
    let mut grad = vec![0.0; masks.len()];
    let range = best * size..(best + 1) * size;
    mask_loss(&masks[range.clone()], target, weights, Some(&mut grad[range]), scale);
    let ious: Vec<f32> = masks.chunks(size).map(|x| mask_iou(x, target)).collect();
    let n = ious.len() as f32;
    let errors = predicted.iter().zip(&ious).map(|(p, t)| p - t);
    let chosen = (0..predicted.len()).fold(0, |b, i| if predicted[i] > predicted[b] { i } else { b });
    Judged {
        iou_error: errors.clone().map(|e| e * e).sum::<f32>() / n,
        iou_grad: errors.map(|e| 2.0 * e * options.iou * scale / n).collect(),
        focal: losses[best].focal,
        dice: losses[best].dice,
        chosen,
        chosen_iou: ious[chosen],
        grad,
    }
}

/// Adds a click into the error region and the logits as mask prompt. A box stays.
fn next_prompt(prompted: &mut Prompted, logits: &[f32], (h, w): (usize, usize), rng: &mut impl Rng) {
    let answer = Mask { width: w, height: h, data: logits.iter().map(|&x| x > 0.0).collect() };
    let click = error_point(&prompted.low, &answer, rng).map(|([x, y], inside)| {
        // the middle of the 4 x 4 input pixels that the low-resolution pixel stands for
        ([4.0 * x + 1.5, 4.0 * y + 1.5], f32::from(u8::from(inside)))
    });
    prompted.points.push(click.unwrap_or(([0.0, 0.0], -1.0)));
    let limited = logits.iter().map(|x| x.clamp(-MASK_PROMPT_LIMIT, MASK_PROMPT_LIMIT));
    prompted.mask_input = Some(limited.collect());
}

/// The prompts of a group as tensors, for an input of this side.
pub(super) fn prompt_input(side: usize, group: &[Prompted], device: &Device) -> PromptInput {
    let count = group.len();
    let most = group.iter().map(|p| p.points.len()).max().unwrap_or(0);
    let mut coords = Vec::with_capacity(count * most * 2);
    let mut labels = Vec::with_capacity(count * most);
    for prompted in group {
        for i in 0..most {
            let (xy, label) = prompted.points.get(i).copied().unwrap_or(([0.0, 0.0], -1.0));
            coords.extend(xy);
            labels.push(label);
        }
    }
    let boxes: Vec<f32> = group.iter().filter_map(|p| p.bbox).flatten().collect();
    let masks: Vec<f32> = group.iter().filter_map(|p| p.mask_input.as_deref()).flatten().copied().collect();
    let side = side / 4;
    PromptInput {
        points: (most > 0)
            .then(|| (constant(coords, [count, most, 2], device), constant(labels, [count, most], device))),
        boxes: (!boxes.is_empty()).then(|| constant(boxes, [count, 4], device)),
        mask_input: (!masks.is_empty()).then(|| constant(masks, [count, 1, side, side], device)),
        count,
    }
}

/// Up to `per_image` masks of every photo, each with a first click or a noisy box.
pub(super) fn objects(step: &mut Step, pick: &Pick, per_image: usize, click: bool) -> Vec<Prompted> {
    let mut out = Vec::new();
    for (image, item) in step.batch.items.iter().enumerate() {
        for mask in pick_masks(item, &pick.area, per_image, &mut step.rng) {
            let centre = click && step.rng.random::<f32>() < pick.center_click;
            let point = match (click, centre) {
                (true, true) => distance_maximum(mask),
                (true, false) => random_point(mask, &mut step.rng),
                (false, _) => None,
            };
            let bbox = match click {
                true => None,
                false => noisy_box(mask, BoxNoise::sam(step.batch.side), &mut step.rng),
            };
            if point.is_none() && bbox.is_none() {
                continue;
            }
            let target = coverage(mask);
            out.push(Prompted {
                image,
                low: low_mask(&target, mask.width / 4),
                target,
                points: point.map(|xy| (xy, 1.0)).into_iter().collect(),
                bbox,
                mask_input: None,
            });
        }
    }
    out
}

fn pick_masks<'a>(
    item: &'a TrainItem,
    area: &RangeInclusive<f32>,
    count: usize,
    rng: &mut impl Rng,
) -> Vec<&'a Mask> {
    let pixels = (item.image.width() * item.image.height()) as f32;
    let mut fit: Vec<&Mask> = item
        .masks
        .iter()
        .filter(|mask| {
            let share = mask.data.iter().filter(|&&b| b).count() as f32 / pixels;
            area.contains(&share)
        })
        .collect();
    fit.shuffle(rng);
    fit.truncate(count);
    fit
}

/// Classes present in the photos, prompted by the CLIP head's own map.
fn classes(step: &mut Step, options: &MaskSupervision) -> Vec<Prompted> {
    let mut wanted = Vec::new();
    for (image, item) in step.batch.items.iter().enumerate().take_while(|_| options.text_prompts > 0) {
        let classes = &step.setup.classes[item.source];
        let mut named: Vec<usize> =
            item.class_ids.iter().copied().filter(|&c| classes.local(c).is_some()).collect();
        if item.labels.is_none() {
            continue;
        }
        named.shuffle(&mut step.rng);
        wanted.extend(named.into_iter().take(options.text_prompts).map(|class| (image, class)));
    }
    if wanted.is_empty() {
        return Vec::new();
    }
    let columns: Vec<usize> = (0..step.vocabulary.names.len()).collect();
    let logits = class_logits(step, &columns);
    let [_, h, w, k] = logits.dims();
    let data = values(&logits);
    let mut out = Vec::new();
    for (image, class) in wanted {
        let item = &step.batch.items[image];
        let classes = &step.setup.classes[item.source];
        let (Some(labels), Some(local)) = (&item.labels, classes.local(class)) else { continue };
        let data_of_class =
            labels.data.iter().map(|&l| classes.local(usize::from(l)) == Some(local)).collect();
        let mask = Mask { width: labels.width, height: labels.height, data: data_of_class };
        let target = coverage(&mask);
        let share = target.iter().sum::<f32>() / target.len() as f32;
        if share < options.min_area {
            continue;
        }
        let map = &data[image * h * w * k..][..h * w * k];
        let p = class_probability(map, k, &classes.contrast, local, step.scale.1);
        let logit = p.iter().map(|p| (p / (1.0 - p)).ln().clamp(-TEXT_PROMPT_LIMIT, TEXT_PROMPT_LIMIT));
        let logit: Vec<f32> = logit.collect();
        out.push(Prompted {
            image,
            low: low_mask(&target, mask.width / 4),
            target,
            points: text_points(&p, w, &mut step.rng),
            bbox: None,
            mask_input: Some(resize_bilinear(&logit, (h, w), 1, (4 * h, 4 * w))),
        });
    }
    out
}

/// Probability of one class per token among its data set's classes and the background.
fn class_probability(map: &[f32], k: usize, contrast: &[usize], local: usize, background: f32) -> Vec<f32> {
    map.chunks(k)
        .map(|row| {
            let max = contrast.iter().map(|&c| row[c]).fold(background, f32::max);
            let sum: f32 =
                contrast.iter().map(|&c| (row[c] - max).exp()).sum::<f32>() + (background - max).exp();
            ((row[contrast[local]] - max).exp() / sum).clamp(1e-4, 1.0 - 1e-4)
        })
        .collect()
}

/// One to three token centres where the class is likely, drawn by its probability; the
/// likeliest token where nothing exceeds one half.
fn text_points(p: &[f32], w: usize, rng: &mut impl Rng) -> Vec<([f32; 2], f32)> {
    let centre = |token: usize| [((token % w) as f32 + 0.5) * 16.0, ((token / w) as f32 + 0.5) * 16.0];
    let likely: Vec<usize> = (0..p.len()).filter(|&i| p[i] > 0.5).collect();
    if likely.is_empty() {
        let best = (0..p.len()).fold(0, |b, i| if p[i] > p[b] { i } else { b });
        return vec![(centre(best), 1.0)];
    }
    let count = rng.random_range(1..=TEXT_POINTS).min(likely.len());
    let drawn = likely.choose_multiple_weighted(rng, count, |&i| p[i]);
    drawn.map_or_else(|_| Vec::new(), |drawn| drawn.map(|&i| (centre(i), 1.0)).collect())
}

/// Share of each block of 4 x 4 pixels that the mask covers.
fn coverage(mask: &Mask) -> Vec<f32> {
    let (w, h) = (mask.width / 4, mask.height / 4);
    let mut out = vec![0.0; w * h];
    for (y, row) in mask.data.chunks(mask.width).enumerate().take(h * 4) {
        for (x, _) in row.iter().enumerate().take(w * 4).filter(|(_, b)| **b) {
            out[y / 4 * w + x / 4] += 1.0 / 16.0;
        }
    }
    out
}

fn low_mask(target: &[f32], width: usize) -> Mask {
    Mask { width, height: target.len() / width, data: target.iter().map(|&t| t > 0.5).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn coverage_is_the_share_of_each_block() {
        let mut data = vec![false; 64];
        for y in 0..4 {
            for x in 0..6 {
                data[y * 8 + x] = true;
            }
        }
        let target = coverage(&Mask { width: 8, height: 8, data });
        assert_eq!(target, [1.0, 0.5, 0.0, 0.0]);
        assert_eq!(low_mask(&target, 2).data, [true, false, false, false]);
    }

    #[test]
    fn text_points_are_likely_tokens() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let p = [0.1, 0.9, 0.2, 0.7];
        for _ in 0..50 {
            let points = text_points(&p, 2, &mut rng);
            assert!((1..=2).contains(&points.len()));
            assert!(points.iter().all(|(xy, label)| xy[0] == 24.0 && *label == 1.0));
        }
        assert_eq!(text_points(&[0.1, 0.2, 0.4, 0.3], 2, &mut rng), [([8.0, 24.0], 1.0)]);
    }

    #[test]
    fn a_class_probability_counts_the_background() {
        let p = class_probability(&[1.0, 7.0, 1.0], 3, &[0, 2], 1, 1.0);
        assert!((p[0] - 1.0 / 3.0).abs() < 1e-6, "column 1 is not of this data set");
    }

    #[test]
    fn the_best_mask_learns_and_every_iou_is_judged() {
        let options = MaskSupervision {
            weight: 1.0,
            point_prompts: 1,
            box_prompts: 0,
            text_prompts: 0,
            rounds: 1,
            center_click: 0.0,
            min_area: 0.0,
            max_area: 1.0,
            focal: 20.0,
            dice: 1.0,
            iou: 1.0,
        };
        let target = [1.0, 1.0, 0.0, 0.0];
        let masks = [-3.0, -3.0, 3.0, 3.0, 2.0, 2.0, -2.0, -2.0, 1.0, -1.0, 1.0, -1.0];
        let judged = judge(&masks, &[0.2, 0.5, 0.9], &target, &options, 1.0);
        assert!(judged.grad[..4].iter().chain(&judged.grad[8..]).all(|&g| g == 0.0));
        assert!(judged.grad[4..8].iter().all(|&g| g != 0.0));
        let expected = [2.0 * 0.2 / 3.0, 2.0 * -0.5 / 3.0, 2.0 * (0.9 - 1.0 / 3.0) / 3.0];
        for (found, expected) in judged.iou_grad.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6);
        }
        assert_eq!((judged.chosen, judged.chosen_iou), (2, 1.0 / 3.0));
    }
}
