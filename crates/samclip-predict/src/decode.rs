//! Prompts -> mask decoder -> masks of the original image.
//!
//! Reference: segment_anything/predictor.py, `SamPredictor.predict_torch`; utils/amg.py,
//! `calculate_stability_score`; utils/onnx.py, `SamOnnxModel.select_masks`.
//! Parity: fixtures/ring2 (against the reference at full size).

use std::collections::BTreeMap;

use rayon::prelude::*;
use samclip_image::{ImageTransform, Mask, postprocess_logits};
use samclip_models::sam::{MaskLogits, MaskOutput, PromptInput, Sam};
use samclip_models::sam_clip::SamClip;
use samclip_models::{Device, Tensor};

use crate::prompt::Prompt;
use crate::tensors::{tensor, values};

/// An encoded image and the way back to its pixels (`SamPredictor.set_image`).
#[derive(Debug, Clone)]
pub struct EmbeddedImage {
    /// [1, C, h, w].
    pub embedding: Tensor<4>,
    /// Between original and model-input pixels.
    pub transform: ImageTransform,
}

/// A model that decodes masks from image embeddings.
pub trait MaskHead {
    /// See [`Sam::decode_above`].
    fn decode_masks(&self, embedding: Tensor<4>, prompts: &PromptInput, output: MaskOutput, min_iou: f32) -> MaskLogits;
}

impl MaskHead for Sam {
    fn decode_masks(&self, embedding: Tensor<4>, prompts: &PromptInput, output: MaskOutput, min_iou: f32) -> MaskLogits {
        self.decode_above(embedding, &vec![0; prompts.count], prompts, output, min_iou)
    }
}

impl MaskHead for SamClip {
    fn decode_masks(&self, embedding: Tensor<4>, prompts: &PromptInput, output: MaskOutput, min_iou: f32) -> MaskLogits {
        self.decode_above(embedding, &vec![0; prompts.count], prompts, output, min_iou)
    }
}

/// One prompt in model-input pixels.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct InputPrompt {
    /// x, y, label (1 or 0).
    pub points: Vec<[f32; 3]>,
    /// x0, y0, x1, y1.
    pub bbox: Option<[f32; 4]>,
    /// 4h x 4w logits.
    pub mask_input: Option<Vec<f32>>,
}

/// Magnitude of the logits that stand for a mask given as yes and no (spec 5.6 clips its own there).
const MASK_LOGIT: f32 = 8.0;

impl InputPrompt {
    /// Moves a prompt into the frame of the model; `low_res` is the side of mask inputs.
    pub fn new(prompt: &Prompt, transform: &ImageTransform, low_res: usize) -> Self {
        let label = |positive: bool| if positive { 1.0 } else { 0.0 };
        let point = |p: &crate::prompt::Point| {
            let [x, y] = transform.point_to_input([p.x, p.y]);
            [x, y, label(p.positive)]
        };
        Self {
            points: prompt.points.iter().map(point).collect(),
            bbox: prompt.bbox.map(|bbox| transform.box_to_input(bbox)),
            mask_input: prompt.mask.as_ref().map(|mask| mask_logits(mask, transform, low_res)),
        }
    }

    /// One click alone is ambiguous (part or whole?); anything more is not.
    fn is_ambiguous(&self) -> bool {
        self.points.len() == 1 && self.bbox.is_none() && self.mask_input.is_none()
    }
}

/// A mask of the original image as a mask input: each cell's share of the mask, as logits; padding is outside.
fn mask_logits(mask: &Mask, transform: &ImageTransform, side: usize) -> Vec<f32> {
    const SAMPLES: usize = 4;
    let cell = transform.input.0 as f32 / side as f32;
    let inside = |x: f32, y: f32| {
        let within = x < transform.resized.1 as f32 && y < transform.resized.0 as f32;
        let [x, y] = transform.point_to_original([x, y]);
        let column = (x as usize).min(mask.width - 1);
        within && mask.data[(y as usize).min(mask.height - 1) * mask.width + column]
    };
    let logit = |i: usize| {
        let offset = |s: usize| (s as f32 + 0.5) / SAMPLES as f32;
        let at = |s: usize| {
            let x = ((i % side) as f32 + offset(s % SAMPLES)) * cell;
            inside(x, ((i / side) as f32 + offset(s / SAMPLES)) * cell)
        };
        let hits = (0..SAMPLES * SAMPLES).filter(|s| at(*s)).count();
        let share = hits as f32 / (SAMPLES * SAMPLES) as f32;
        (share / (1.0 - share)).ln().clamp(-MASK_LOGIT, MASK_LOGIT)
    };
    (0..side * side).map(logit).collect()
}

/// What the decoder said for one prompt: M maps of `side` x `side` logits and their predicted IoU.
#[derive(Debug, Clone, PartialEq)]
pub struct RawMasks {
    /// M maps.
    pub low_res_logits: Vec<Vec<f32>>,
    /// M values.
    pub predicted_iou: Vec<f32>,
}

/// Prompts in one decoder call.
pub const POINTS_PER_BATCH: usize = 64;

/// Decodes prompts on one embedding, in their order.
///
/// Prompts of one shape (number of points, box or not, mask or not) share a call, because padding with other
/// prompts' points would change the answer.
pub fn decode(
    head: &dyn MaskHead,
    embedding: &Tensor<4>,
    prompts: &[InputPrompt],
    output: MaskOutput,
    batch: usize,
) -> Vec<RawMasks> {
    decode_above(head, embedding, prompts, (output, f32::NEG_INFINITY), batch)
}

/// [`decode`] for a caller that drops masks whose predicted IoU is not above `asked.1`: their maps are empty.
pub fn decode_above(
    head: &dyn MaskHead,
    embedding: &Tensor<4>,
    prompts: &[InputPrompt],
    asked: (MaskOutput, f32),
    batch: usize,
) -> Vec<RawMasks> {
    let mut groups: BTreeMap<(usize, bool, bool), Vec<usize>> = BTreeMap::new();
    for (i, prompt) in prompts.iter().enumerate() {
        let shape = (prompt.points.len(), prompt.bbox.is_some(), prompt.mask_input.is_some());
        groups.entry(shape).or_default().push(i);
    }
    let mut answers: Vec<Option<RawMasks>> = vec![None; prompts.len()];
    for group in groups.values() {
        for chunk in group.chunks(batch.max(1)) {
            let members: Vec<&InputPrompt> = chunk.iter().map(|&i| &prompts[i]).collect();
            for (&i, masks) in chunk.iter().zip(decode_group(head, embedding, &members, asked)) {
                answers[i] = Some(masks);
            }
        }
    }
    answers.into_iter().flatten().collect()
}

fn decode_group(
    head: &dyn MaskHead,
    embedding: &Tensor<4>,
    prompts: &[&InputPrompt],
    (output, min_iou): (MaskOutput, f32),
) -> Vec<RawMasks> {
    let input = prompt_input(prompts, &embedding.device(), embedding.dims()[2] * 4);
    let logits = head.decode_masks(embedding.clone(), &input, output, min_iou);
    let [_, m, h, w] = logits.low_res_logits.dims();
    let maps = values(logits.low_res_logits);
    let iou = values(logits.predicted_iou);
    let map = |i: usize| if iou[i] <= min_iou { Vec::new() } else { maps[i * h * w..(i + 1) * h * w].to_vec() };
    let split = |p: usize| RawMasks {
        low_res_logits: (p * m..(p + 1) * m).map(map).collect(),
        predicted_iou: iou[p * m..(p + 1) * m].to_vec(),
    };
    (0..prompts.len()).map(split).collect()
}

/// Prompts of one shape as tensors.
fn prompt_input(prompts: &[&InputPrompt], device: &Device, low_res: usize) -> PromptInput {
    let (count, n) = (prompts.len(), prompts[0].points.len());
    let gather = |value: &dyn Fn(&InputPrompt) -> Vec<f32>| -> Vec<f32> { prompts.iter().flat_map(|p| value(p)).collect() };
    let points = (n > 0).then(|| {
        let coords = gather(&|p| p.points.iter().flat_map(|&[x, y, _]| [x, y]).collect());
        let labels = gather(&|p| p.points.iter().map(|&[_, _, label]| label).collect());
        (tensor(coords, [count, n, 2], device), tensor(labels, [count, n], device))
    });
    let boxes = prompts[0].bbox.map(|_| tensor(gather(&|p| p.bbox.unwrap_or_default().to_vec()), [count, 4], device));
    let mask_input = prompts[0]
        .mask_input
        .as_ref()
        .map(|_| tensor(gather(&|p| p.mask_input.clone().unwrap_or_default()), [count, 1, low_res, low_res], device));
    PromptInput { points, boxes, mask_input, count }
}

/// A mask of the original image with the decoder's and its own figures.
#[derive(Debug, Clone, PartialEq)]
pub struct FinishedMask {
    /// The mask.
    pub mask: Mask,
    /// The decoder's estimate of its IoU.
    pub predicted_iou: f32,
    /// IoU of the masks at logits +1 and -1.
    pub stability_score: f32,
}

/// Logits to a mask of the original image.
pub fn finish(low_res_logits: &[f32], predicted_iou: f32, transform: &ImageTransform) -> FinishedMask {
    let side = (low_res_logits.len() as f64).sqrt() as usize;
    let logits = postprocess_logits(low_res_logits, side, transform);
    let (height, width) = transform.original;
    let stability_score = stability_score(&logits, 0.0, 1.0);
    FinishedMask { mask: Mask::from_logits(width, height, &logits, 0.0), predicted_iou, stability_score }
}

/// IoU of the masks at `threshold + offset` and `threshold - offset` (`calculate_stability_score`).
///
/// Deviation: a map below both thresholds scores 0, where the reference divides 0 by 0.
pub fn stability_score(logits: &[f32], threshold: f32, offset: f32) -> f32 {
    let count = |limit: f32| logits.iter().filter(|v| **v > limit).count();
    stability(count(threshold + offset), count(threshold - offset))
}

/// [`stability_score`] of the two counts.
pub(crate) fn stability(intersection: usize, union: usize) -> f32 {
    if union == 0 { 0.0 } else { intersection as f32 / union as f32 }
}

/// Answers geometric prompts: one mask each, or three, best first, with `multimask`.
///
/// Without `multimask` a lone click takes the best of the three ambiguity-aware tokens and every other prompt takes
/// token 0: the selection rule of the reference's ONNX export (spec 2.8).
pub fn answer(head: &dyn MaskHead, image: &EmbeddedImage, prompts: &[InputPrompt], multimask: bool) -> Vec<Vec<FinishedMask>> {
    let raw = decode(head, &image.embedding, prompts, MaskOutput::All, POINTS_PER_BATCH);
    let choose = |(prompt, masks): (&InputPrompt, &RawMasks)| {
        let mut tokens: Vec<usize> = if multimask || prompt.is_ambiguous() { vec![1, 2, 3] } else { vec![0] };
        tokens.sort_by(|a, b| masks.predicted_iou[*b].total_cmp(&masks.predicted_iou[*a]));
        tokens.truncate(if multimask { 3 } else { 1 });
        let token = |&t: &usize| finish(&masks.low_res_logits[t], masks.predicted_iou[t], &image.transform);
        tokens.iter().map(token).collect()
    };
    prompts.par_iter().zip(raw.par_iter()).map(choose).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stability_counts_both_thresholds() {
        assert_eq!(stability_score(&[2.0, 0.5, -0.5, -2.0], 0.0, 1.0), 1.0 / 3.0);
        assert_eq!(stability_score(&[-2.0], 0.0, 1.0), 0.0);
    }

    #[test]
    fn a_mask_prompt_covers_what_the_mask_covers() {
        // 4 x 2 pixels, left half set, padded below to a square of 8: cells of 2 x 2 input pixels, 4 a side.
        let mask = Mask { width: 4, height: 2, data: vec![true, true, false, false, true, true, false, false] };
        let transform = ImageTransform { original: (2, 4), resized: (4, 8), input: (8, 8), crop_offset: (0, 0) };
        let logits = mask_logits(&mask, &transform, 4);
        let expected = [[8.0, 8.0, -8.0, -8.0], [8.0, 8.0, -8.0, -8.0], [-8.0; 4], [-8.0; 4]].concat();
        assert_eq!(logits, expected);
    }
}
