//! `weights check`: a checkpoint on stored inputs against stored outputs.
//!
//! Here, and only here, coordinates are model-input pixels. Inputs: `pixels` [B, 3, S, S] normalised and padded,
//! `point_coords` [P, N, 2], `point_labels` [P, N], `boxes` [P, 4], `mask_input` [P, 1, S/4, S/4] (prompts of image
//! 0), `clip_pixels` [B, 3, S, S], `surgery_pixels` [B, 3, S, S], `tokens` [B, 77]. Outputs: `image_embedding`,
//! `low_res_logits`, `iou_predictions`, `image_features`, `dense_features`, `surgery_features`, `text_features`.

use std::collections::BTreeMap;

use burn::tensor::{Int, TensorData};
use samclip_models::clip::{Clip, surgery};
use samclip_models::init::Init;
use samclip_models::sam::{MaskOutput, PromptInput};
use samclip_models::variant::Variant;
use samclip_models::{Device, Tensor, state};
use samclip_weights::{StateDict, TensorData as Stored};

use crate::decode::MaskHead;
use crate::error::PredictError;
use crate::model::{clip_config, init_sam, read_weights, sam_clip_config};
use crate::tensors::{tensor, values};

/// How one tensor compares.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The tensor's name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Largest absolute difference; infinite where a value is not a number.
    pub max_difference: f32,
    /// Largest expected magnitude, for scale.
    pub max_expected: f32,
    /// L2 norm of the difference over that of the expected values.
    pub relative_l2: f64,
    /// Of mask logits: the smallest IoU of the masks above 0.
    pub mask_iou: Option<f64>,
}

/// Runs a checkpoint on `inputs` and compares every tensor of `expected`.
///
/// # Errors
/// A checkpoint that does not load, an expected tensor whose inputs are missing or of another shape.
pub fn check(
    variant: Variant,
    weights: &std::path::Path,
    inputs: &StateDict,
    expected: &StateDict,
) -> Result<Vec<Comparison>, PredictError> {
    let checkpoint = read_weights(variant, Some(weights)).map_err(|error| error.in_file(weights))?;
    let context = Context { inputs, expected, device: Device::default() };
    let outputs = match variant {
        Variant::SamVitB | Variant::SamVitL | Variant::SamVitH | Variant::MobileSam => {
            let sam = state::load(init_sam(variant, &mut context.init()), &checkpoint)?;
            context.masks(&sam, |pixels| sam.encode(pixels))?
        }
        Variant::SamClipVitB | Variant::SamClipNano => {
            let config = sam_clip_config(variant, &checkpoint)?;
            let model = state::load(config.init(&mut context.init()), &checkpoint)?;
            let mut outputs = context.masks(&model, |pixels| model.sam_embedding(model.tokens(pixels)))?;
            if context.wants(&["image_features", "dense_features"]) {
                let (pooled, dense) = model.clip_both(model.tokens(context.pixels("clip_pixels")?));
                outputs.insert("image_features", output(pooled));
                outputs.insert("dense_features", output(dense));
            }
            outputs
        }
        Variant::ClipVitB16 | Variant::ClipVitL14 | Variant::ClipVitB16Quickgelu | Variant::ClipVitL14Quickgelu => {
            let clip = state::load(clip_config(variant).init(&mut context.init()), &checkpoint)?;
            context.clip(&clip)?
        }
    };
    expected.iter().map(|(name, stored)| compare(name, stored, &outputs)).collect()
}

type Outputs = BTreeMap<&'static str, (Vec<usize>, Vec<f32>)>;

fn output<const D: usize>(tensor: Tensor<D>) -> (Vec<usize>, Vec<f32>) {
    (tensor.dims().to_vec(), values(tensor))
}

fn compare(name: &str, stored: &Stored, outputs: &Outputs) -> Result<Comparison, PredictError> {
    let Some((shape, found)) = outputs.get(name) else {
        let known = "image_embedding, low_res_logits, iou_predictions, image_features, dense_features, \
                     surgery_features, text_features";
        return Err(PredictError::Check(format!("expected tensor `{name}` is none of {known} of this model")));
    };
    if shape.as_slice() != stored.shape() {
        let message = format!("`{name}` has shape {shape:?}, the expected file has {:?}", stored.shape());
        return Err(PredictError::Check(message));
    }
    let expected = stored.to_f32();
    let difference = |(a, b): (&f32, &f32)| if a == b { 0.0 } else { (a - b).abs() };
    // `max` drops NaN, which must never pass.
    let worst = |worst: f32, d: f32| if d.is_nan() { f32::INFINITY } else { worst.max(d) };
    Ok(Comparison {
        name: name.to_owned(),
        shape: shape.clone(),
        max_difference: found.iter().zip(&expected).map(difference).fold(0.0, worst),
        max_expected: expected.iter().fold(0.0, |max, v| max.max(v.abs())),
        relative_l2: relative_l2(found, &expected),
        mask_iou: (name == "low_res_logits").then(|| smallest_iou(found, &expected, shape)),
    })
}

fn relative_l2(found: &[f32], expected: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let difference: f64 = found.iter().zip(expected).map(|(a, b)| square(a - b)).sum();
    let size: f64 = expected.iter().map(|v| square(*v)).sum();
    if size == 0.0 { difference.sqrt() } else { (difference / size).sqrt() }
}

/// Over the maps of [P, M, h, w]; 1 where both masks of a map are empty.
fn smallest_iou(found: &[f32], expected: &[f32], shape: &[usize]) -> f64 {
    let map = shape.iter().skip(2).product::<usize>().max(1);
    let iou = |(a, b): (&[f32], &[f32])| {
        let count = |hit: &dyn Fn(bool, bool) -> bool| a.iter().zip(b).filter(|(a, b)| hit(**a > 0.0, **b > 0.0)).count();
        let union = count(&|a, b| a || b);
        if union == 0 { 1.0 } else { count(&|a, b| a && b) as f64 / union as f64 }
    };
    found.chunks(map).zip(expected.chunks(map)).map(iou).fold(1.0, f64::min)
}

struct Context<'a> {
    inputs: &'a StateDict,
    expected: &'a StateDict,
    device: Device,
}

impl Context<'_> {
    fn init(&self) -> Init {
        Init::zeros(&self.device)
    }

    fn wants(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.expected.get(name).is_some())
    }

    fn require(&self, name: &str) -> Result<&Stored, PredictError> {
        let missing = || PredictError::Check(format!("input `{name}` is missing, and an expected tensor needs it"));
        self.inputs.get(name).ok_or_else(missing)
    }

    fn float<const D: usize>(&self, name: &str) -> Result<Tensor<D>, PredictError> {
        let stored = self.require(name)?;
        Ok(tensor(stored.to_f32(), shape_of(name, stored)?, &self.device))
    }

    fn optional<const D: usize>(&self, name: &str) -> Result<Option<Tensor<D>>, PredictError> {
        if self.inputs.get(name).is_some() { self.float(name).map(Some) } else { Ok(None) }
    }

    fn pixels(&self, name: &str) -> Result<Tensor<4>, PredictError> {
        let pixels = self.float::<4>(name)?;
        let [_, channels, ..] = pixels.dims();
        let found = pixels.dims();
        if channels == 3 { Ok(pixels) } else { Err(PredictError::Check(format!("`{name}` has shape {found:?}, expected [B, 3, S, S]"))) }
    }

    fn masks(&self, head: &dyn MaskHead, encode: impl Fn(Tensor<4>) -> Tensor<4>) -> Result<Outputs, PredictError> {
        let mut outputs = Outputs::new();
        if !self.wants(&["image_embedding", "low_res_logits", "iou_predictions"]) {
            return Ok(outputs);
        }
        let pixels = self.pixels("pixels")?;
        let [_, _, h, w] = pixels.dims();
        if h % 16 != 0 || w % 16 != 0 {
            return Err(PredictError::Check(format!("`pixels` is {h}x{w}, expected multiples of 16")));
        }
        let embedding = encode(pixels);
        if self.wants(&["low_res_logits", "iou_predictions"]) {
            let prompts = self.prompts()?;
            let logits = head.decode_masks(embedding.clone(), &prompts, self.output()?, f32::NEG_INFINITY);
            outputs.insert("low_res_logits", output(logits.low_res_logits));
            outputs.insert("iou_predictions", output(logits.predicted_iou));
        }
        outputs.insert("image_embedding", output(embedding));
        Ok(outputs)
    }

    /// M of the expected tensors says which tokens answer.
    fn output(&self) -> Result<MaskOutput, PredictError> {
        let stored = self.expected.get("low_res_logits").or_else(|| self.expected.get("iou_predictions"));
        match stored.and_then(|stored| stored.shape().get(1).copied()) {
            Some(1) => Ok(MaskOutput::Single),
            Some(3) => Ok(MaskOutput::Multi),
            Some(4) => Ok(MaskOutput::All),
            other => Err(PredictError::Check(format!("expected tensors have {other:?} masks per prompt, not 1, 3 or 4"))),
        }
    }

    fn prompts(&self) -> Result<PromptInput, PredictError> {
        let coords = self.optional::<3>("point_coords")?;
        let points = match coords {
            None => None,
            Some(coords) => Some((coords, self.float::<2>("point_labels")?)),
        };
        let boxes = self.optional::<2>("boxes")?;
        let mask_input = self.optional::<4>("mask_input")?;
        let counts: Vec<usize> = points
            .iter()
            .flat_map(|(coords, labels)| [coords.dims()[0], labels.dims()[0]])
            .chain(boxes.iter().map(|b| b.dims()[0]))
            .chain(mask_input.iter().map(|m| m.dims()[0]))
            .collect();
        let &count = counts.first().ok_or_else(|| PredictError::Check("no prompt among the inputs".to_owned()))?;
        if counts.iter().any(|c| *c != count) {
            return Err(PredictError::Check(format!("prompts differ in number: {counts:?}")));
        }
        Ok(PromptInput { points, boxes, mask_input, count })
    }

    fn clip(&self, clip: &Clip) -> Result<Outputs, PredictError> {
        let mut outputs = Outputs::new();
        if self.wants(&["image_features"]) {
            outputs.insert("image_features", output(clip.encode_image(self.pixels("clip_pixels")?)?));
        }
        if self.wants(&["surgery_features"]) {
            let features = surgery::image_features(&clip.visual, self.pixels("surgery_pixels")?)?;
            outputs.insert("surgery_features", output(features.tokens));
        }
        if self.wants(&["text_features"]) {
            let stored = self.require("tokens")?;
            let shape: [usize; 2] = shape_of("tokens", stored)?;
            let data = TensorData::new(stored.to_i64()?, shape.to_vec());
            outputs.insert("text_features", output(clip.encode_text(Tensor::<2, Int>::from_data(data, &self.device))?));
        }
        Ok(outputs)
    }
}

fn shape_of<const D: usize>(name: &str, stored: &Stored) -> Result<[usize; D], PredictError> {
    let found = stored.shape();
    found.try_into().map_err(|_| PredictError::Check(format!("input `{name}` has shape {found:?}, expected {D} axes")))
}
