//! SAM-CLIP in all four roles: one encoder pass, two heads.
//!
//! Paper: SAM-CLIP (arXiv 2310.15308) §3, §4; spec 5.6 for what the paper leaves open.

use std::time::Instant;

use samclip_image::{Filter, Image, ImageTransform, Normalization, Prepared, crop, prepare_sam, prepare_squash};
use samclip_models::sam_clip::SamClip;
use samclip_models::text_table::TextTable;
use samclip_models::{Device, Tensor};

use crate::cache::EmbeddingCache;
use crate::compose::{TokenMap, argmax_map, shares};
use crate::decode::{EmbeddedImage, FinishedMask, InputPrompt, MaskHead, POINTS_PER_BATCH, decode, finish};
use crate::error::PredictError;
use crate::heat::heat_map;
use crate::prompt::Prompt;
use crate::roles::{
    Background, Classification, Location, MaskPrediction, PromptSegmenter, SegmentOptions, Segmentation,
    SemanticMap, SemanticSegmenter, TextLocator, TextMode, Timing, ZeroShotClassifier,
};
use crate::sam::{SamLike, flatten, geometric, milliseconds, stored};
use crate::text::{BACKGROUND_WORDS, TextEncoder, cosines, softmax};
use crate::tensors::{pixels, values};

/// How an image becomes the model's square input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Geometry {
    /// Longest side resized, padding at the bottom and right (SAM).
    LongestSide,
    /// Both sides resized, the aspect ratio lost.
    Squash,
    /// The middle square (CLIP).
    CenterCrop,
}

/// Which input each task gets, and how similarities become probabilities.
#[derive(Debug, Clone, PartialEq)]
pub struct SamClipSettings {
    /// Input of masks, and of texts that become masks: geometry and side.
    pub segment: (Geometry, usize),
    /// Input of `classify`.
    pub classify: (Geometry, usize),
    /// Input of `label` and `locate`.
    pub dense: (Geometry, usize),
    /// Factor on cosines.
    pub logit_scale: f32,
    /// Logit of the constant background channel, if the model was trained with one.
    pub background_logit: Option<f32>,
    /// Added to the logit of the name that is asked for: who asks for a dog expects one. Tuned on
    /// training photos (spec 8.2).
    pub asked_logit: f32,
    /// Weight of the tokens beside the pooled embedding in `classify`; 0 is the paper's pooled embedding alone.
    pub classify_tokens: f32,
    /// Lists of names that compete with each other for a token; the first is for texts that are in none.
    pub contrast: Vec<Vec<String>>,
}

/// The model with its text table.
#[derive(Debug)]
pub struct SamClipPredictor {
    /// The model.
    pub model: SamClip,
    /// Names and their vectors.
    pub text: Option<TextTable>,
    /// Inputs and calibration.
    pub settings: SamClipSettings,
    /// The name that users type.
    pub name: String,
    pub(crate) device: Device,
    pub(crate) cache: Option<EmbeddingCache>,
}

/// What one encoder pass gives. Only what was asked for is computed.
struct Encoded {
    transform: ImageTransform,
    sam: Option<Tensor<4>>,
    pooled: Vec<f32>,
    dense: Vec<f32>,
    grid: usize,
}

#[derive(Clone, Copy)]
struct Needs {
    sam: bool,
    clip: bool,
}

const SAM: &str = "image_embedding";
const POOLED: &str = "clip_pooled";
const DENSE: &str = "clip_dense";
/// A name that no token gives anything to is unlikely, not impossible.
const LEAST_SHARE: f32 = 1e-3;

impl SamClipPredictor {
    fn encode(&self, image: &Image, (geometry, side): (Geometry, usize), needs: Needs) -> Result<Encoded, PredictError> {
        let kind = kind(geometry, side);
        let transform = transform(image, geometry, side);
        let mut encoded = Encoded { transform, sam: None, pooled: vec![], dense: vec![], grid: side / 16 };
        if self.from_cache(image, &kind, needs, &mut encoded) {
            return Ok(encoded);
        }
        let prepared = prepare(image, geometry, side);
        crate::passes::count(1);
        let tokens = self.model.tokens(pixels(&prepared, &self.device));
        if needs.clip {
            let (pooled, dense) = self.model.clip_both(tokens.clone());
            encoded.grid = dense.dims()[1];
            (encoded.pooled, encoded.dense) = (values(pooled), values(dense));
        }
        if needs.sam {
            encoded.sam = Some(self.model.sam_embedding(tokens));
        }
        self.to_cache(image, &kind, &encoded)?;
        Ok(encoded)
    }

    /// Both heads' view of the image for [`PromptSegmenter`], into the cache.
    pub(crate) fn embed_for_prompts(&self, image: &Image) -> Result<(), PredictError> {
        self.encode(image, self.settings.segment, Needs { sam: true, clip: true }).map(|_| ())
    }

    /// Whether the cache has both heads' view of the image.
    pub(crate) fn is_embedded(&self, image: &Image) -> bool {
        let kind = kind(self.settings.segment.0, self.settings.segment.1);
        let has = |head| self.cache.as_ref().is_some_and(|cache| cache.contains(image, &format!("{kind}-{head}")));
        has("sam") && has("clip")
    }

    fn from_cache(&self, image: &Image, kind: &str, needs: Needs, encoded: &mut Encoded) -> bool {
        let Some(cache) = &self.cache else { return false };
        if needs.sam {
            let state = cache.get(image, &format!("{kind}-sam"), &[SAM]);
            encoded.sam = state.and_then(|state| stored(&state, SAM, &self.device));
        }
        if needs.clip
            && let Some(state) = cache.get(image, &format!("{kind}-clip"), &[POOLED, DENSE])
            && let (Some(pooled), Some(dense)) = (state.get(POOLED), state.get(DENSE))
        {
            encoded.grid = dense.shape().get(1).copied().unwrap_or(encoded.grid);
            (encoded.pooled, encoded.dense) = (pooled.to_f32(), dense.to_f32());
        }
        (!needs.sam || encoded.sam.is_some()) && (!needs.clip || !encoded.dense.is_empty())
    }

    fn to_cache(&self, image: &Image, kind: &str, encoded: &Encoded) -> Result<(), PredictError> {
        let Some(cache) = &self.cache else { return Ok(()) };
        if let Some(sam) = &encoded.sam {
            let shape = sam.dims().to_vec();
            cache.put(image, &format!("{kind}-sam"), vec![(SAM, shape, &values(sam.clone()))])?;
        }
        if !encoded.dense.is_empty() {
            let dim = encoded.pooled.len();
            let dense = (DENSE, vec![1, encoded.grid, encoded.grid, dim], encoded.dense.as_slice());
            cache.put(image, &format!("{kind}-clip"), vec![(POOLED, vec![1, dim], &encoded.pooled), dense])?;
        }
        Ok(())
    }

    /// The photo's unit vector.
    pub(crate) fn pooled(&self, image: &Image) -> Result<Vec<f32>, PredictError> {
        Ok(self.encode(image, self.settings.classify, Needs { sam: false, clip: true })?.pooled)
    }

    pub(crate) fn table(&self) -> Result<&TextTable, PredictError> {
        self.text.as_ref().ok_or_else(|| PredictError::NoTextTable { model: self.name.clone() })
    }

    /// Logits [N, names (+ 1 for the background channel)] on the token grid.
    fn token_logits(&self, encoded: &Encoded, vectors: &[Vec<f32>], background: Option<f32>) -> (Vec<f32>, usize) {
        let scale = self.settings.logit_scale;
        let rows = cosines(&encoded.dense, vectors);
        let with_background = |row: &[f32]| -> Vec<f32> { row.iter().map(|c| c * scale).chain(background).collect() };
        let logits = rows.chunks_exact(vectors.len()).flat_map(with_background).collect();
        (logits, vectors.len() + usize::from(background.is_some()))
    }

    /// Probability of a text on every token: softmax over its list of rivals and background.
    fn text_map(&self, encoded: &Encoded, text: &str) -> Result<TokenMap, PredictError> {
        let table = self.table()?;
        let row = table.resolve(text)?;
        let rivals = |names: &Vec<String>| -> Vec<usize> {
            names.iter().filter_map(|name| table.resolve(name).ok()).collect()
        };
        let mut lists = self.settings.contrast.iter().map(rivals);
        let first = lists.next().unwrap_or_default();
        let mut list = if first.contains(&row) { first } else { lists.find(|list| list.contains(&row)).unwrap_or(first) };
        list.retain(|rival| *rival != row);
        list.insert(0, row);
        let vectors: Vec<Vec<f32>> = list.iter().map(|&row| table.row(row).to_vec()).collect();
        let (mut logits, channels) = self.token_logits(encoded, &vectors, self.settings.background_logit);
        for row in logits.chunks_exact_mut(channels) {
            row[0] += self.settings.asked_logit;
            softmax(row);
        }
        let valid = TokenMap::valid(encoded.grid, &encoded.transform);
        let probability = logits.chunks_exact(channels).zip(&valid).map(|(row, &ok)| if ok { row[0] } else { 0.0 });
        Ok(TokenMap { grid: encoded.grid, probability: probability.collect() })
    }

    /// Texts to masks (spec 5.6).
    fn by_text(&self, encoded: &Encoded, texts: &[(usize, String)], options: &SegmentOptions) -> Result<Vec<MaskPrediction>, PredictError> {
        let prediction = |(prompt, name): &(usize, String)| {
            let map = self.text_map(encoded, name)?;
            let answer = self.mask_of_map(encoded, &map, options);
            let score = map.mean_inside(&answer.mask, &encoded.transform);
            let FinishedMask { mask, predicted_iou, stability_score } = answer;
            Ok(MaskPrediction { prompt: *prompt, mask, predicted_iou, stability_score, score })
        };
        texts.iter().map(prediction).collect()
    }

    fn mask_of_map(&self, encoded: &Encoded, map: &TokenMap, options: &SegmentOptions) -> FinishedMask {
        let transform = &encoded.transform;
        let alone = || FinishedMask {
            mask: map.mask(options.text_threshold, transform),
            predicted_iou: 0.0,
            stability_score: 0.0,
        };
        let Some(embedding) = encoded.sam.as_ref().filter(|_| options.text_mode == TextMode::BothHeads) else {
            return alone();
        };
        let low_res = embedding.dims()[2] * 4;
        match map.prompt(options.text_threshold, transform, low_res) {
            None => alone(),
            Some(prompt) => self.decode_text(embedding, prompt, transform),
        }
    }

    fn decode_text(&self, embedding: &Tensor<4>, prompt: InputPrompt, transform: &ImageTransform) -> FinishedMask {
        let output = samclip_models::sam::MaskOutput::Single;
        let raw = decode(&self.model, embedding, &[prompt], output, POINTS_PER_BATCH);
        finish(&raw[0].low_res_logits[0], raw[0].predicted_iou[0], transform)
    }
}

/// The part of a cache's name that says how the image was prepared.
fn kind(geometry: Geometry, side: usize) -> String {
    format!("{geometry:?}{side}").to_lowercase()
}

/// The transform of [`prepare`] without its pixels.
fn transform(image: &Image, geometry: Geometry, side: usize) -> ImageTransform {
    match geometry {
        Geometry::LongestSide => ImageTransform::longest_side(image.size(), side),
        Geometry::Squash => ImageTransform::squash(image.size(), side),
        Geometry::CenterCrop => {
            let short = image.width().min(image.height());
            ImageTransform::squash((short, short), side)
        }
    }
}

/// An image as the model's input. SAM's normalisation throughout: the backbone is SAM's.
fn prepare(image: &Image, geometry: Geometry, side: usize) -> Prepared {
    match geometry {
        Geometry::LongestSide => prepare_sam(image, side),
        Geometry::Squash => prepare_squash(image, side, Filter::Bilinear, &Normalization::SAM),
        Geometry::CenterCrop => {
            let short = image.width().min(image.height());
            let (x, y) = ((image.width() - short) / 2, (image.height() - short) / 2);
            prepare_squash(&crop(image, x, y, short, short), side, Filter::Bicubic, &Normalization::SAM)
        }
    }
}

impl SamLike for SamClipPredictor {
    fn embed(&self, image: &Image) -> Result<EmbeddedImage, PredictError> {
        let encoded = self.encode(image, self.settings.segment, Needs { sam: true, clip: false })?;
        match encoded.sam {
            Some(embedding) => Ok(EmbeddedImage { embedding, transform: encoded.transform }),
            None => Err(PredictError::Check("the encoder gave no embedding".to_owned())),
        }
    }

    fn head(&self) -> &dyn MaskHead {
        &self.model
    }
}

impl PromptSegmenter for SamClipPredictor {
    fn segment(&self, image: &Image, prompts: &[Prompt], options: &SegmentOptions) -> Result<Segmentation, PredictError> {
        let (height, width) = image.size();
        prompts.iter().try_for_each(|prompt| prompt.validate(width, height))?;
        let named = |(i, prompt): (usize, &Prompt)| prompt.text.clone().map(|text| (i, text));
        let texts: Vec<(usize, String)> = prompts.iter().enumerate().filter_map(named).collect();
        if !texts.is_empty() {
            self.table()?.encode(&texts.iter().map(|(_, name)| name.clone()).collect::<Vec<_>>())?;
        }
        let others: Vec<(usize, Prompt)> =
            prompts.iter().cloned().enumerate().filter(|(_, prompt)| prompt.text.is_none()).collect();
        let start = Instant::now();
        let needs_sam = !others.is_empty() || options.text_mode == TextMode::BothHeads;
        let encoded = self.encode(image, self.settings.segment, Needs { sam: needs_sam, clip: !texts.is_empty() })?;
        let encode = milliseconds(start);
        let start = Instant::now();
        let mut masks = Vec::new();
        if !texts.is_empty() {
            masks = self.by_text(&encoded, &texts, options)?;
        }
        if let Some(embedding) = encoded.sam.filter(|_| !others.is_empty()) {
            let embedded = EmbeddedImage { embedding, transform: encoded.transform };
            let (indices, plain): (Vec<usize>, Vec<Prompt>) = others.into_iter().unzip();
            let answers = geometric(self, &embedded, &plain, options.multimask);
            masks.extend(flatten(indices.into_iter().zip(answers)));
        }
        masks.sort_by_key(|mask| mask.prompt);
        Ok(Segmentation { masks, timing: Timing { encode, decode: milliseconds(start) } })
    }
}

impl ZeroShotClassifier for SamClipPredictor {
    fn classify(&self, image: &Image, classes: &[String]) -> Result<Classification, PredictError> {
        let vectors = self.table()?.encode(classes)?;
        if vectors.is_empty() {
            return Err(crate::prompt::PromptError::Nothing.into());
        }
        let start = Instant::now();
        let encoded = self.encode(image, self.settings.classify, Needs { sam: false, clip: true })?;
        let encode = milliseconds(start);
        let start = Instant::now();
        let mut probabilities = cosines(&encoded.pooled, &vectors);
        probabilities.iter_mut().for_each(|p| *p *= self.settings.logit_scale);
        if self.settings.classify_tokens > 0.0 {
            let (logits, channels) = self.token_logits(&encoded, &vectors, self.settings.background_logit);
            let shares = shares(logits, channels, &TokenMap::valid(encoded.grid, &encoded.transform));
            let weight = self.settings.classify_tokens;
            probabilities.iter_mut().zip(shares).for_each(|(p, share)| *p += weight * (share + LEAST_SHARE).ln());
        }
        softmax(&mut probabilities);
        Ok(Classification { probabilities, timing: Timing { encode, decode: milliseconds(start) } })
    }
}

impl TextLocator for SamClipPredictor {
    fn locate(&self, image: &Image, texts: &[String]) -> Result<Location, PredictError> {
        let vectors = self.table()?.encode(texts)?;
        let start = Instant::now();
        let encoded = self.encode(image, self.settings.dense, Needs { sam: false, clip: true })?;
        let encode = milliseconds(start);
        let start = Instant::now();
        let similarity = cosines(&encoded.dense, &vectors);
        let map = |class: usize| {
            let values: Vec<f32> = similarity.iter().skip(class).step_by(vectors.len()).copied().collect();
            heat_map(&values, encoded.grid, &encoded.transform)
        };
        let maps = (0..vectors.len()).map(map).collect::<Result<_, _>>()?;
        Ok(Location { maps, timing: Timing { encode, decode: milliseconds(start) } })
    }
}

impl SemanticSegmenter for SamClipPredictor {
    fn label(&self, image: &Image, classes: &[String], background: &Background) -> Result<SemanticMap, PredictError> {
        let names = semantic_names(classes, background)?;
        let vectors = self.table()?.encode(&names)?;
        let start = Instant::now();
        let encoded = self.encode(image, self.settings.dense, Needs { sam: false, clip: true })?;
        let encode = milliseconds(start);
        let start = Instant::now();
        let constant = match background {
            Background::Thresh(None) => self.settings.background_logit,
            _ => None,
        };
        let floor = match background {
            Background::Thresh(floor) => *floor,
            _ => None,
        };
        let (mut scores, channels) = self.token_logits(&encoded, &vectors, constant);
        if floor.is_some() {
            scores.chunks_exact_mut(channels).for_each(softmax);
        }
        let labels = argmax_map(&scores, channels, classes.len(), floor, encoded.grid, &encoded.transform);
        Ok(SemanticMap { labels, timing: Timing { encode, decode: milliseconds(start) } })
    }
}

/// The classes, followed by the names that stand for background.
pub(crate) fn semantic_names(classes: &[String], background: &Background) -> Result<Vec<String>, PredictError> {
    if classes.is_empty() || classes.len() > 254 {
        let found = classes.len().to_string();
        return Err(PredictError::Option { name: "--classes", expected: "1 to 254 names", found });
    }
    if let Background::Thresh(Some(floor)) = background
        && !(0.0..=1.0).contains(floor)
    {
        let found = floor.to_string();
        return Err(PredictError::Option { name: "--background thresh=", expected: "0 to 1", found });
    }
    let extra: &[&str] = match background {
        Background::None | Background::Thresh(_) => &[],
        Background::Word => &BACKGROUND_WORDS[..1],
        Background::Extended => &BACKGROUND_WORDS,
    };
    let extra = extra.iter().map(|word| (*word).to_owned()).filter(|word| !classes.contains(word));
    Ok(classes.iter().cloned().chain(extra).collect())
}
