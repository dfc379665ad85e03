//! CLIP-Guided SAM as a prompt segmenter, text locator and semantic segmenter.
//!
//! Paper: CLIP-Guided SAM (arXiv 2605.24807) §3; spec 6.4 (geometry), 6.5 (modes). A name alone is the
//! semi-automatic mode: mask prompt and points come from the similarity map. A name with clicks is the
//! manual mode. Prompts without a name are the base model's.
//!
//! Deviation: the paper draws points from the map by chance; here they lie evenly among its cells in
//! row order, so that the same photo has the same answer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use samclip_image::{Filter, Image, ImageTransform, Normalization, Prepared, prepare_squash};
use samclip_models::clip::TextTower;
use samclip_models::clip_guided_sam::{ClipGuidedSam, GuideConfig, Guidance, Look, MapPrompts, map_prompts};
use samclip_models::sam::{MaskLogits, MaskOutput, PromptInput};
use samclip_models::text_table::TextTable;
use samclip_models::Device;

use crate::compose::argmax_map;
use crate::decode::{FinishedMask, finish};
use crate::error::PredictError;
use crate::heat::heat_map;
use crate::model::Model;
use crate::prompt::{Point, Prompt};
use crate::roles::{
    Background, Location, MaskPrediction, PromptSegmenter, SegmentOptions, Segmentation, SemanticMap,
    SemanticSegmenter, TextLocator, Timing,
};
use crate::sam::milliseconds;
use crate::sam_clip::semantic_names;
use crate::tensors::{pixels, tensor, values};
use crate::text::TextEncoder;

/// Pairs that go through the encoder together; more only costs memory.
const PAIRS_PER_PASS: usize = 4;

/// Names to vectors.
#[derive(Debug)]
pub enum GuidedText {
    /// The papers' closed set: cached vectors.
    Table(Box<TextTable>),
    /// CLIP's text tower, and the vectors that it has given so far.
    Tower(Box<TextTower>, Mutex<BTreeMap<String, Vec<f32>>>),
}

impl GuidedText {
    /// One unit vector per name.
    ///
    /// # Errors
    /// An empty name, or one that a table does not hold.
    pub fn encode(&self, names: &[String]) -> Result<Vec<Vec<f32>>, PredictError> {
        match self {
            Self::Table(table) => table.encode(names),
            Self::Tower(tower, known) => {
                let names: Vec<String> = names.iter().map(|n| crate::prompt::parse_text(n)).collect::<Result<_, _>>()?;
                let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
                let fresh: Vec<&String> = names.iter().filter(|name| !known.contains_key(*name)).collect();
                if !fresh.is_empty() {
                    let vectors = tower.class_vectors(&fresh, &samclip_models::clip::zero_shot::surgery_templates())?;
                    let dim = vectors.dims()[1];
                    let vectors = values(vectors);
                    let rows = vectors.chunks_exact(dim).map(<[f32]>::to_vec);
                    let own: Vec<String> = fresh.into_iter().cloned().collect();
                    known.extend(own.into_iter().zip(rows));
                }
                Ok(names.iter().filter_map(|name| known.get(name).cloned()).collect())
            }
        }
    }
}

/// The adapted model with its text side and its base.
#[derive(Debug)]
pub struct GuidedPredictor {
    /// The model.
    pub model: ClipGuidedSam,
    /// Names to vectors.
    pub text: Arc<GuidedText>,
    /// The classes that the adapter was trained on.
    pub classes: Vec<String>,
    /// The model without the adapter, for prompts without a name; a merged file has none.
    pub base: Option<Arc<Model>>,
    /// The name for messages.
    pub name: String,
}

/// An image seen by both networks.
pub struct GuidedLook {
    look: Look,
    transform: ImageTransform,
}

/// The answer to one pair of image and class.
#[derive(Debug, Clone, PartialEq)]
pub struct GuidedMask {
    /// Decoder logits, side x side.
    pub low_res_logits: Vec<f32>,
    /// The decoder's estimate of its IoU.
    pub predicted_iou: f32,
}

impl GuidedPredictor {
    fn device(&self) -> Device {
        self.model.mask_decoder.iou_token.weight.val().device()
    }

    /// Both networks on an image: once for all its classes.
    ///
    /// # Errors
    /// Never for a valid configuration.
    pub fn look(&self, image: &Image) -> Result<GuidedLook, PredictError> {
        let config = self.model.config();
        let device = self.device();
        let sam = prepare_squash(image, config.sam.image_encoder.img_size, Filter::Bilinear, &Normalization::SAM);
        let clip = clip_input(image, &config.clip);
        crate::passes::count(1);
        let look = self.model.look(pixels(&sam, &device), pixels(&clip, &device))?;
        Ok(GuidedLook { look, transform: sam.transform })
    }

    fn guide(&self, seen: &GuidedLook, vectors: &[Vec<f32>]) -> Guidance {
        let shape = [vectors.len(), vectors.first().map_or(0, Vec::len)];
        let text = tensor(vectors.concat(), shape, &self.device());
        self.model.guide(&seen.look.patches, &vec![0; vectors.len()], text)
    }

    /// One mask per vector; `clicks` holds the user's clicks for each of them, or nothing.
    pub fn masks(&self, seen: &GuidedLook, vectors: &[Vec<f32>], clicks: &[Vec<Point>]) -> Vec<GuidedMask> {
        let mut answers: Vec<Option<GuidedMask>> = vec![None; vectors.len()];
        let mut order: Vec<usize> = (0..vectors.len()).collect();
        // Padding with points of others would change the answer, so pairs of one count go together.
        order.sort_by_key(|&i| clicks[i].len());
        for group in order.chunk_by(|&a, &b| clicks[a].len() == clicks[b].len()) {
            for pass in group.chunks(PAIRS_PER_PASS) {
                let (own, points): (Vec<_>, Vec<_>) = pass.iter().map(|&i| (vectors[i].clone(), clicks[i].clone())).unzip();
                for (&i, mask) in pass.iter().zip(self.pass(seen, &own, &points)) {
                    answers[i] = Some(mask);
                }
            }
        }
        answers.into_iter().flatten().collect()
    }

    fn pass(&self, seen: &GuidedLook, vectors: &[Vec<f32>], clicks: &[Vec<Point>]) -> Vec<GuidedMask> {
        let guidance = self.guide(seen, vectors);
        let rules = &self.model.config().prompts;
        let maps = map_prompts(&guidance, rules, self.model.low_res_side());
        crate::passes::count(vectors.len()); // the guided blocks run once a name
        let embeddings = self.model.embed(&seen.look, &vec![0; vectors.len()], &guidance);
        let even: Vec<f64> = (0..rules.points).map(|i| (i as f64 + 0.5) / rules.points as f64).collect();
        let points = |(map, clicks): (&MapPrompts, &Vec<Point>)| -> Vec<[f32; 3]> {
            if clicks.is_empty() {
                return map.points(&even).into_iter().map(|[x, y]| [x, y, 1.0]).collect();
            }
            let click = |p: &Point| {
                let [x, y] = seen.transform.point_to_input([p.x, p.y]);
                [x, y, f32::from(u8::from(p.positive))]
            };
            clicks.iter().map(click).collect()
        };
        let points: Vec<Vec<[f32; 3]>> = maps.iter().zip(clicks).map(points).collect();
        let prompts = prompt_input(&maps, &points, &self.device());
        let MaskLogits { low_res_logits, predicted_iou } = self.model.decode(embeddings, &prompts, MaskOutput::Single);
        let size = self.model.low_res_side().pow(2);
        let (logits, iou) = (values(low_res_logits), values(predicted_iou));
        let mask = |(x, iou): (&[f32], &f32)| GuidedMask { low_res_logits: x.to_vec(), predicted_iou: *iou };
        logits.chunks_exact(size).zip(&iou).map(mask).collect()
    }

    /// The masks of the original image.
    pub fn finish(&self, seen: &GuidedLook, mask: &GuidedMask) -> FinishedMask {
        finish(&mask.low_res_logits, mask.predicted_iou, &seen.transform)
    }

    /// Without an adapter's name: what the base does.
    fn base(&self, role: &'static str) -> Result<&Model, PredictError> {
        let model = self.name.clone();
        self.base.as_deref().ok_or(PredictError::NoRole { model, role, able: crate::model::SEGMENTERS })
    }
}

/// The image as CLIP's side wants it.
fn clip_input(image: &Image, clip: &GuideConfig) -> Prepared {
    match clip {
        GuideConfig::Tower { side, .. } => prepare_squash(image, *side, Filter::Bicubic, &Normalization::CLIP),
        GuideConfig::SamClip { .. } => prepare_squash(image, clip.side(), Filter::Bilinear, &Normalization::SAM),
    }
}

/// Points (x, y, label) and mask prompts of P pairs; fewer points than others are padded.
fn prompt_input(maps: &[MapPrompts], points: &[Vec<[f32; 3]>], device: &Device) -> PromptInput {
    let (count, most) = (maps.len(), points.iter().map(Vec::len).max().unwrap_or(0));
    let padded = |own: &Vec<[f32; 3]>| -> Vec<[f32; 3]> {
        (0..most).map(|i| own.get(i).copied().unwrap_or([0.0, 0.0, -1.0])).collect()
    };
    let all: Vec<[f32; 3]> = points.iter().flat_map(padded).collect();
    let coords: Vec<f32> = all.iter().flat_map(|[x, y, _]| [*x, *y]).collect();
    let labels: Vec<f32> = all.iter().map(|[_, _, label]| *label).collect();
    let masks: Option<Vec<Vec<f32>>> = maps.iter().map(|m| m.mask.clone()).collect();
    let side = maps.first().map_or(0, |m| m.side);
    PromptInput {
        points: (most > 0)
            .then(|| (tensor(coords, [count, most, 2], device), tensor(labels, [count, most], device))),
        boxes: None,
        mask_input: masks.map(|m| tensor(m.concat(), [count, 1, side, side], device)),
        count,
    }
}

impl PromptSegmenter for GuidedPredictor {
    fn segment(&self, image: &Image, prompts: &[Prompt], options: &SegmentOptions) -> Result<Segmentation, PredictError> {
        let (height, width) = image.size();
        prompts.iter().try_for_each(|prompt| prompt.validate(width, height))?;
        let (named, others): (Vec<_>, Vec<_>) = prompts.iter().enumerate().partition(|(_, p)| p.text.is_some());
        let mut answer = Segmentation { masks: Vec::new(), timing: Timing::default() };
        if !others.is_empty() {
            let (index, plain): (Vec<usize>, Vec<Prompt>) = others.into_iter().map(|(i, p)| (i, p.clone())).unzip();
            answer = self.base("segment without a name")?.prompt_segmenter()?.segment(image, &plain, options)?;
            answer.masks.iter_mut().for_each(|mask| mask.prompt = index[mask.prompt]);
        }
        if !named.is_empty() {
            let names: Vec<String> = named.iter().filter_map(|(_, p)| p.text.clone()).collect();
            let vectors = self.text.encode(&names)?;
            let start = Instant::now();
            let seen = self.look(image)?;
            answer.timing.encode += milliseconds(start);
            let start = Instant::now();
            let clicks: Vec<Vec<Point>> = named.iter().map(|(_, p)| p.points.clone()).collect();
            let masks = self.masks(&seen, &vectors, &clicks);
            answer.masks.extend(named.iter().zip(&masks).map(|((i, _), mask)| self.prediction(*i, &seen, mask)));
            answer.timing.decode += milliseconds(start);
        }
        answer.masks.sort_by_key(|mask| mask.prompt);
        Ok(answer)
    }
}

impl GuidedPredictor {
    fn prediction(&self, prompt: usize, seen: &GuidedLook, mask: &GuidedMask) -> MaskPrediction {
        let finished = self.finish(seen, mask);
        let inside: Vec<f32> = mask.low_res_logits.iter().copied().filter(|x| *x > 0.0).collect();
        let probability = inside.iter().map(|x| 1.0 / (1.0 + (-x).exp())).sum::<f32>() / inside.len().max(1) as f32;
        let FinishedMask { mask, predicted_iou, stability_score } = finished;
        MaskPrediction { prompt, mask, predicted_iou, stability_score, score: probability }
    }
}

impl TextLocator for GuidedPredictor {
    fn locate(&self, image: &Image, texts: &[String]) -> Result<Location, PredictError> {
        let vectors = self.text.encode(texts)?;
        let start = Instant::now();
        let seen = self.look(image)?;
        let encode = milliseconds(start);
        let start = Instant::now();
        let guidance = self.guide(&seen, &vectors);
        let (grid, n) = (guidance.grid[0], guidance.grid[0] * guidance.grid[1]);
        let similarity = values(guidance.similarity);
        let maps = similarity.chunks_exact(n).map(|map| {
            // CLIP's own input has the same corners as SAM's: both are the whole image, squashed.
            heat_map(map, grid, &seen.transform)
        });
        Ok(Location { maps: maps.collect::<Result<_, _>>()?, timing: Timing { encode, decode: milliseconds(start) } })
    }
}

impl SemanticSegmenter for GuidedPredictor {
    /// Every class is asked alone; the strongest logit wins, and with a background a pixel where none
    /// is above 0 belongs to it.
    fn label(&self, image: &Image, classes: &[String], background: &Background) -> Result<SemanticMap, PredictError> {
        semantic_names(classes, &Background::None)?;
        let vectors = self.text.encode(classes)?;
        let start = Instant::now();
        let seen = self.look(image)?;
        let encode = milliseconds(start);
        let start = Instant::now();
        let masks = self.masks(&seen, &vectors, &vec![Vec::new(); vectors.len()]);
        let (side, k) = (self.model.low_res_side(), masks.len());
        let scores: Vec<f32> = (0..side * side).flat_map(|i| masks.iter().map(move |m| m.low_res_logits[i])).collect();
        let floor = (*background != Background::None).then_some(0.0);
        let labels = argmax_map(&scores, k, classes.len(), floor, side, &seen.transform);
        Ok(SemanticMap { labels, timing: Timing { encode, decode: milliseconds(start) } })
    }
}
