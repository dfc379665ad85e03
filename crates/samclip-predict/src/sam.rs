//! SAM (and MobileSAM) as a prompt segmenter.
//!
//! Reference: segment_anything/predictor.py, `SamPredictor`. Deviation: `set_image` has no state here; an
//! [`EmbeddedImage`] is passed on instead.

use std::time::Instant;

use samclip_image::{Image, ImageTransform, prepare_sam};
use samclip_models::Device;
use samclip_models::sam::Sam;

use crate::cache::EmbeddingCache;
use crate::decode::{EmbeddedImage, FinishedMask, InputPrompt, MaskHead, answer};
use crate::error::PredictError;
use crate::prompt::Prompt;
use crate::roles::{MaskPrediction, PromptSegmenter, SegmentOptions, Segmentation, Timing};
use crate::tensors::{pixels, tensor, values};

/// A model that embeds an image and decodes masks from it.
pub trait SamLike: Sync {
    /// Encodes an image for the mask decoder, or takes it from the cache.
    ///
    /// # Errors
    /// A cache that cannot be written.
    fn embed(&self, image: &Image) -> Result<EmbeddedImage, PredictError>;

    /// The mask decoder.
    fn head(&self) -> &dyn MaskHead;
}

/// SAM with its input size.
#[derive(Debug)]
pub struct SamPredictor {
    /// The model.
    pub sam: Sam,
    /// Longest side of the image as the model sees it.
    pub side: usize,
    /// The name that users type.
    pub name: String,
    pub(crate) device: Device,
    pub(crate) cache: Option<EmbeddingCache>,
}

const EMBEDDING: &str = "image_embedding";
const KIND: &str = "sam";

impl SamPredictor {
    /// Whether the cache has the image's embedding.
    pub(crate) fn is_embedded(&self, image: &Image) -> bool {
        self.cache.as_ref().is_some_and(|cache| cache.contains(image, KIND))
    }
}

impl SamLike for SamPredictor {
    fn embed(&self, image: &Image) -> Result<EmbeddedImage, PredictError> {
        let cached = self.cache.as_ref().and_then(|cache| cache.get(image, KIND, &[EMBEDDING]));
        if let Some(embedding) = cached.as_ref().and_then(|state| stored(state, EMBEDDING, &self.device)) {
            return Ok(EmbeddedImage { embedding, transform: ImageTransform::longest_side(image.size(), self.side) });
        }
        let prepared = prepare_sam(image, self.side);
        let transform = prepared.transform;
        crate::passes::count(1);
        let embedding = self.sam.encode(pixels(&prepared, &self.device));
        if let Some(cache) = &self.cache {
            let shape = embedding.dims().to_vec();
            cache.put(image, KIND, vec![(EMBEDDING, shape, &values(embedding.clone()))])?;
        }
        Ok(EmbeddedImage { embedding, transform })
    }

    fn head(&self) -> &dyn MaskHead {
        &self.sam
    }
}

/// A tensor of a cached state.
pub(crate) fn stored<const D: usize>(
    state: &samclip_weights::StateDict,
    name: &str,
    device: &Device,
) -> Option<samclip_models::Tensor<D>> {
    let data = state.get(name)?;
    let shape: [usize; D] = data.shape().try_into().ok()?;
    Some(tensor(data.to_f32(), shape, device))
}

impl PromptSegmenter for SamPredictor {
    fn segment(&self, image: &Image, prompts: &[Prompt], options: &SegmentOptions) -> Result<Segmentation, PredictError> {
        let (height, width) = image.size();
        for prompt in prompts {
            prompt.validate(width, height)?;
            if prompt.text.is_some() {
                let able = "sam_clip_nano, sam_clip_vit_b";
                return Err(PredictError::NoRole { model: self.name.clone(), role: "segment by text", able });
            }
        }
        let start = Instant::now();
        let embedded = self.embed(image)?;
        let encode = milliseconds(start);
        let start = Instant::now();
        let answers = geometric(self, &embedded, prompts, options.multimask);
        let masks = flatten(answers.into_iter().enumerate());
        Ok(Segmentation { masks, timing: Timing { encode, decode: milliseconds(start) } })
    }
}

/// Answers prompts without text.
pub(crate) fn geometric(
    model: &dyn SamLike,
    embedded: &EmbeddedImage,
    prompts: &[Prompt],
    multimask: bool,
) -> Vec<Vec<FinishedMask>> {
    let low_res = embedded.embedding.dims()[2] * 4;
    let inputs: Vec<InputPrompt> =
        prompts.iter().map(|prompt| InputPrompt::new(prompt, &embedded.transform, low_res)).collect();
    answer(model.head(), embedded, &inputs, multimask)
}

/// Masks with the index of their prompt; the score is the decoder's own.
pub(crate) fn flatten(answers: impl Iterator<Item = (usize, Vec<FinishedMask>)>) -> Vec<MaskPrediction> {
    let prediction = |prompt: usize, m: FinishedMask| MaskPrediction {
        prompt,
        mask: m.mask,
        predicted_iou: m.predicted_iou,
        stability_score: m.stability_score,
        score: m.predicted_iou,
    };
    answers.flat_map(|(prompt, masks)| masks.into_iter().map(move |m| prediction(prompt, m))).collect()
}

pub(crate) fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}
