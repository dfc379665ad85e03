//! CLIP in three roles: classify by the pooled embedding, locate and label by CLIP Surgery.
//!
//! Paper: CLIP (arXiv 2103.00020), CLIP Surgery (arXiv 2304.05653). Reference: open_clip's zero-shot evaluation;
//! CLIP_Surgery/demo.py.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Instant;

use samclip_image::{Filter, Image, ImageTransform, Normalization, prepare_clip, prepare_squash};
use samclip_models::clip::{Clip, surgery};
use samclip_models::{Device, Tensor};

use crate::compose::argmax_map;
use crate::error::PredictError;
use crate::heat::heat_map;
use crate::roles::{
    Background, Classification, Location, SemanticMap, SemanticSegmenter, TextLocator, Timing, ZeroShotClassifier,
};
use crate::sam::milliseconds;
use crate::sam_clip::semantic_names;
use crate::tensors::{pixels, tensor, values};
use crate::text::{TextEncoder, cosines, softmax};

/// Tokens along one side for maps (512 px with patches of 16, spec 4.5).
const SURGERY_GRID: usize = 32;
/// Factor on cosines (CLIP's learnt `logit_scale` is capped there).
const LOGIT_SCALE: f32 = 100.0;

/// CLIP with its input size.
#[derive(Debug)]
pub struct ClipPredictor {
    /// The model.
    pub clip: Clip,
    /// Input side of the pooled embedding.
    pub side: usize,
    /// Pixels per token side.
    pub patch: usize,
    /// The name that users type.
    pub name: String,
    pub(crate) device: Device,
    /// Vectors of names that were asked before: 80 prompts a name are more work than a photo.
    pub(crate) known: Mutex<BTreeMap<String, Vec<f32>>>,
}

/// Names whose vectors are kept (8 MB): a server is asked for whatever people think of.
const MOST_KNOWN: usize = 4096;

impl ClipPredictor {
    fn texts(&self, names: &[String]) -> Result<Vec<Vec<f32>>, PredictError> {
        let mut known = self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let unknown: BTreeSet<&String> = names.iter().filter(|name| !known.contains_key(*name)).collect();
        let unknown: Vec<String> = unknown.into_iter().cloned().collect();
        if known.len() + unknown.len() > MOST_KNOWN {
            known.retain(|name, _| names.contains(name));
        }
        let vectors = TextEncoder::encode(&self.clip.text, &unknown)?;
        known.extend(unknown.into_iter().zip(vectors));
        let found: Option<Vec<Vec<f32>>> = names.iter().map(|name| known.get(name).cloned()).collect();
        found.filter(|vectors| !vectors.is_empty()).ok_or_else(|| crate::prompt::PromptError::Nothing.into())
    }

    /// Unit vectors of the patches after CLIP Surgery [1, 1 + N, E], the class token first.
    fn surgery(&self, image: &Image) -> Result<(Tensor<3>, usize, ImageTransform), PredictError> {
        let prepared = prepare_squash(image, SURGERY_GRID * self.patch, Filter::Bicubic, &Normalization::CLIP);
        crate::passes::count(1);
        let features = surgery::image_features(&self.clip.visual, pixels(&prepared, &self.device))?;
        Ok((features.unit(), features.grid[0], prepared.transform))
    }
}

impl ZeroShotClassifier for ClipPredictor {
    fn classify(&self, image: &Image, classes: &[String]) -> Result<Classification, PredictError> {
        let vectors = self.texts(classes)?;
        let start = Instant::now();
        let prepared = prepare_clip(image, self.side);
        crate::passes::count(1);
        let features = self.clip.encode_image(pixels(&prepared, &self.device))?;
        let features = values(samclip_models::clip::normalize(features));
        let encode = milliseconds(start);
        let start = Instant::now();
        let mut probabilities = cosines(&features, &vectors);
        probabilities.iter_mut().for_each(|p| *p *= LOGIT_SCALE);
        softmax(&mut probabilities);
        Ok(Classification { probabilities, timing: Timing { encode, decode: milliseconds(start) } })
    }
}

impl TextLocator for ClipPredictor {
    fn locate(&self, image: &Image, texts: &[String]) -> Result<Location, PredictError> {
        let vectors = self.texts(texts)?;
        let start = Instant::now();
        let (features, grid, transform) = self.surgery(image)?;
        let encode = milliseconds(start);
        let start = Instant::now();
        let (k, dim) = (vectors.len(), vectors[0].len());
        let text = tensor(vectors.concat(), [k, dim], &self.device);
        // One text has no other classes to compare with: what every text shares is the empty text's part.
        let similarity = if k == 1 {
            let empty = self.clip.text.class_vectors(&[""], &samclip_models::clip::zero_shot::surgery_templates())?;
            surgery::feature_surgery_single(features, text, empty)
        } else {
            surgery::feature_surgery(features, text)
        };
        let similarity = values(similarity); // [1 + N, K]
        let map = |class: usize| {
            let values: Vec<f32> = similarity.iter().skip(k + class).step_by(k).copied().collect();
            heat_map(&values, grid, &transform)
        };
        let maps = (0..k).map(map).collect::<Result<_, _>>()?;
        Ok(Location { maps, timing: Timing { encode, decode: milliseconds(start) } })
    }
}

impl SemanticSegmenter for ClipPredictor {
    fn label(&self, image: &Image, classes: &[String], background: &Background) -> Result<SemanticMap, PredictError> {
        let vectors = self.texts(&semantic_names(classes, background)?)?;
        let start = Instant::now();
        let (features, grid, transform) = self.surgery(image)?;
        let patches = values(features).split_off(vectors[0].len());
        let encode = milliseconds(start);
        let start = Instant::now();
        let mut scores = cosines(&patches, &vectors);
        let floor = match background {
            Background::Thresh(floor) => Some(floor.unwrap_or(0.5)),
            _ => None,
        };
        scores.iter_mut().for_each(|s| *s *= LOGIT_SCALE);
        if floor.is_some() {
            scores.chunks_exact_mut(vectors.len()).for_each(softmax);
        }
        let labels = argmax_map(&scores, vectors.len(), classes.len(), floor, grid, &transform);
        Ok(SemanticMap { labels, timing: Timing { encode, decode: milliseconds(start) } })
    }
}
